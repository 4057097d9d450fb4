#!/usr/bin/env bash
# A stage of somebody else's making in the place of ours: the diffusers server of
# tests/clients/python is held against the contract, then renders for `diptych synth`, with no
# change to the client. Needs torch and diffusers, about 2 GB: they go into a virtual environment
# outside of the tree, or come from the one that FOREIGN_VENV names.
#
#   scripts/foreign_stage.sh [PATH-OF-DIPTYCH]
set -euo pipefail
cd "$(dirname "$0")/.."

diptych="${1:-${CARGO_TARGET_DIR:-target}/release/diptych}"
clients=tests/clients/python
venv="${FOREIGN_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/diptych/foreign-stage}"
work="$(mktemp -d)"
stage=""
trap '[[ -z "$stage" ]] || kill "$stage" 2>/dev/null || true; rm -rf "$work"' EXIT

if [[ ! -x "$venv/bin/python" ]]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r "$clients/foreign_diffusion.requirements.txt"
fi

"$venv/bin/python" "$clients/foreign_diffusion.py" --model models/nano/nano-sd --listen 127.0.0.1:0 \
    >"$work/said" 2>"$work/log" &
stage=$!
until grep -q '^listening on ' "$work/said"; do
    kill -0 "$stage" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.2
done
endpoint="$(sed -n 's/^listening on //p' "$work/said")"

echo "--- the contract"
"$diptych" conformance --service diffusion --endpoint "$endpoint"

echo "--- a synthesis with the foreign stage"
"$diptych" synth recipes/tiny.toml --out "$work/foreign" --json --endpoints "diffusion=$endpoint" >"$work/foreign.json"
echo "--- the same with ours"
"$diptych" synth recipes/tiny.toml --out "$work/ours" --json >"$work/ours.json"

"$venv/bin/python" - "$work" <<'PYTHON'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
for name in ("foreign", "ours"):
    summary = json.loads((work / f"{name}.json").read_text())
    print(f"{name:8} {summary['accepted']} accepted; {json.dumps(summary)}")
    assert summary["accepted"] == 40, f"{name}: not all 40 samples were accepted"
PYTHON
echo "1 passed, 0 failed"
