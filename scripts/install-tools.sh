#!/usr/bin/env bash
# Installs what the tests need beside Rust, gcc, Python 3.11 and make: Redis, Chromium, OpenSSL and
# kustomize from Debian's packages, and Python packages in a virtual environment. What is there
# already is left alone; what no package manager should own lies under the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v redis-server >/dev/null || packages+=(redis-server)
command -v chromium >/dev/null || packages+=(chromium)
command -v openssl >/dev/null || packages+=(openssl)
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
if ((${#packages[@]})); then
    if [[ $EUID -eq 0 ]]; then sudo=(); else sudo=(sudo); fi
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

tools="${CARGO_TARGET_DIR:-target}/tools"
mkdir -p "$tools"
tools=$(realpath "$tools")

# Debian 12 has no kustomize, and its kubectl is of 2020: take the package of the next release, which
# needs nothing but the C library, and put its program beside the build.
get_kustomize() {
    local apt="$tools/apt" site options
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    site=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' | awk '$2 !~ /-/ {print $1; exit}')
    if [[ -z "$site" ]]; then
        echo "install kubectl 1.27 or later, or kustomize 5: this machine has no Debian packages to take it from" >&2
        return 1
    fi
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site trixie main" >"$apt/sources.list"
    options=(-qq -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt" -o "Dir::Etc::SourceList=$apt/sources.list"
        -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download kustomize && dpkg -x kustomize_*.deb package)
    cp "$apt/package/usr/bin/kustomize" "$tools/kustomize"
    rm -r "$apt"
}
if ! { PATH="$tools:$PATH" kustomize build k8s/base || kubectl kustomize k8s/base; } >/dev/null 2>&1; then
    get_kustomize
fi

venv="${VENV:-${CARGO_TARGET_DIR:-target}/python}"
wanted=scripts/requirements-test.txt
if ! cmp -s "$wanted" "$venv/installed.txt"; then
    mkdir -p "$(dirname "$venv")"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/installed.txt"
fi
