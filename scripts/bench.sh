#!/usr/bin/env bash
# Speed against the libraries people come from, in turns on this machine: prints tables and writes
# bench.json. Takes about five minutes on two idle cores, 4 GB of disk and 10 GB of memory. Needs torch
# and diffusers, about 2 GB: those of `make parity` (see scripts/reference-python.sh).
#
#   scripts/bench.sh [OPTIONS OF scripts/bench/diffusion.py]
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
python=$(scripts/reference-python.sh)
cargo build --release -p diptych -p models --example bench_worker
"$python" scripts/bench/diffusion.py --worker "$target/release/examples/bench_worker" "$@"
