#!/usr/bin/env bash
# Speed against the libraries people come from, in turns on this machine: prints tables and writes
# bench.json. Takes about five minutes on two idle cores, 4 GB of disk and 10 GB of memory. Needs torch
# and diffusers, about 2 GB: they go into a virtual environment outside of the tree, or come from the one
# that FOREIGN_VENV names.
#
#   scripts/bench.sh [OPTIONS OF scripts/bench/diffusion.py]
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
venv="${FOREIGN_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/diptych/foreign-stage}"
if [[ ! -x "$venv/bin/python" ]]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r tests/clients/python/foreign_diffusion.requirements.txt
fi
cargo build --release -p diptych -p models --example bench_worker
"$venv/bin/python" scripts/bench/diffusion.py --worker "$target/release/examples/bench_worker" "$@"
