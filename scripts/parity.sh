#!/usr/bin/env bash
# Every part of rendering against the reference libraries, in one table: random weights in the
# published layouts, what diffusers and transformers make of them, and how far ours is from it. Text
# states, UNet and VAE relatively, at most 1e-4; whole pictures by every sampler, from noise, from a
# picture and in parts, at most 2/255 in any pixel. Fails when a bound is broken.
#
#   scripts/parity.sh [LAYOUT...]                    all small layouts without one
#   PARITY_FULL="sd15" scripts/parity.sh             those of published shapes too; gigabytes, an hour
#   PARITY_PYTHON=~/venv/bin/python scripts/parity.sh
#
# The libraries go into a virtual environment under the target folder (PARITY_VENV names another), or
# are those of PARITY_PYTHON. Checkpoints go to PARITY_OUT, by default a folder that is removed.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
fixtures=crates/models/tests/fixtures
python=$(scripts/reference-python.sh)
if [[ -n "${PARITY_OUT:-}" ]]; then
    out=$(realpath -m "$PARITY_OUT")
else
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi

# One part each: makes its references with "$python" under "$out" and prints rows
# `| what | part | difference | at most |`. A part that breaks a bound does not keep the others from
# being looked at.
parity_rendering() {
    cargo build --quiet --release --package models --example layout_parity || return 1
    "$python" "$fixtures/make_layouts.py" --matrix --out "$out/small" "$@" >"$out/rendering.log" 2>&1 ||
        { tail -20 "$out/rendering.log" >&2; return 1; }
    local folders=("$out"/small/*/)
    if [[ -n "${PARITY_FULL:-}" ]]; then
        # shellcheck disable=SC2086  # a list of names
        "$python" "$fixtures/make_layouts.py" --full --out "$out/full" $PARITY_FULL >>"$out/rendering.log" 2>&1 ||
            { tail -20 "$out/rendering.log" >&2; return 1; }
        folders+=("$out"/full/*/)
    fi
    "$target/release/examples/layout_parity" "${folders[@]}" | tail -n +3
}

parts=(rendering)

mkdir -p "$out"
failed=0
echo "| checkpoint | part | difference | at most |"
echo "|---|---|---|---|"
for part in "${parts[@]}"; do
    "parity_$part" "$@" || failed=1
done
exit "$failed"
