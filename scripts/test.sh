#!/usr/bin/env bash
# Every test of the suite, component by component. A component that cannot run fails the whole;
# none is skipped. The last lines count the tests of each.
set -uo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/tools"
PATH="$(realpath "$target/tools"):$PATH"
export DIPTYCH_PYTHON="${VENV:-$target/python}/bin/python"
case "$DIPTYCH_PYTHON" in /*) ;; *) DIPTYCH_PYTHON="$PWD/$DIPTYCH_PYTHON" ;; esac
logs="$target/test-logs"
mkdir -p "$logs"
passed=0
failed=0
table=()

# Notes a component: its name, its exit code, tests passed and failed.
note() {
    local name=$1 code=$2 good=$3 bad=$4
    if ((code != 0 && bad == 0)); then bad=1; fi
    if ((good == 0)); then bad=$((bad + 1)); fi # a component that ran nothing did not pass
    passed=$((passed + good))
    failed=$((failed + bad))
    table+=("$(printf '%-24s %5d passed, %d failed' "$name" "$good" "$bad")")
}

run_rust() {
    local log="$logs/rust.log" code
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --cargo-profile release --no-fail-fast 2>&1 | tee "$log"
        code=${PIPESTATUS[0]}
        local crate
        for crate in $(sed -nE 's/^ *(PASS|FAIL|TIMEOUT|SIGABRT|SIGSEGV|SLOW) \[[^]]*\] *(\([^)]*\))? *([a-z_]+)(::[^ ]*)? .*/\3/p' "$log" | sort -u); do
            local good bad
            good=$(grep -cE "^ *PASS \[[^]]*\] *(\([^)]*\))? *$crate(::[^ ]*)? " "$log")
            bad=$(grep -E "^ *(FAIL|TIMEOUT|SIGABRT|SIGSEGV) \[[^]]*\] *(\([^)]*\))? *$crate(::[^ ]*)? " "$log" | sort -u | wc -l)
            note "rust: $crate" 0 "$good" "$bad"
        done
        if ((code != 0)) && ! grep -qE '^ *(FAIL|TIMEOUT|SIG)' "$log"; then note "rust" "$code" 0 0; fi
    else
        cargo test --workspace --release --no-fail-fast 2>&1 | tee "$log"
        code=${PIPESTATUS[0]}
        local good bad
        good=$(sed -nE 's/^test result: .* ([0-9]+) passed; .*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
        bad=$(sed -nE 's/^test result: .* ([0-9]+) failed; .*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
        note "rust" "$code" "$good" "$bad"
    fi
}

# A script whose last line reads `N passed, N failed`.
run_script() {
    local name=$1 log code line
    shift
    log="$logs/${name// /-}.log"
    echo "--- $name"
    "$@" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    note "$name" "$code" "$(echo "${line:-0}" | grep -oE '^[0-9]+')" "$(echo "${line:-0 passed, 0 failed}" | grep -oE '[0-9]+ failed' | grep -oE '[0-9]+')"
}

cargo build --workspace --release --bins || exit 1
run_rust
run_script "manifests" "$DIPTYCH_PYTHON" k8s/validate.py
run_script "manifest checks" "$DIPTYCH_PYTHON" k8s/validate_test.py
run_script "python client" "$DIPTYCH_PYTHON" tests/clients/python/journey.py "$target/release/diptych"

echo
printf '%s\n' "${table[@]}"
echo "$passed passed, $failed failed"
((failed == 0))
