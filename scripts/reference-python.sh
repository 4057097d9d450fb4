#!/usr/bin/env bash
# Prints the Python that has the reference libraries: that of PARITY_PYTHON, or one in a virtual
# environment under the target folder (PARITY_VENV names another), which is made where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -n "${PARITY_PYTHON:-}" ]]; then
    echo "$PARITY_PYTHON"
    exit
fi
venv=$(realpath -m "${PARITY_VENV:-${CARGO_TARGET_DIR:-target}/parity-python}")
wanted=scripts/requirements-parity.txt
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    mkdir -p "$(dirname "$venv")"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
    cp "$wanted" "$venv/installed.txt"
fi
echo "$venv/bin/python"
