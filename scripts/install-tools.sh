#!/usr/bin/env bash
# Installs what the tests need beside Rust, gcc, Python 3.11 and make: Redis and Chromium from
# Debian's packages, and Python packages in a virtual environment under the target folder.
# What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
command -v chromium >/dev/null || packages+=(chromium)
if ((${#packages[@]})); then
    if [[ $EUID -eq 0 ]]; then sudo=(); else sudo=(sudo); fi
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

venv="${VENV:-${CARGO_TARGET_DIR:-target}/python}"
wanted=scripts/requirements-test.txt
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    mkdir -p "$(dirname "$venv")"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
fi
