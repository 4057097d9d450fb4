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

# From cargo's messages: a line `binary crate` for each binary of tests. The names alone would not
# do, since several crates have a `contract`.
test_binaries() {
    sed -nE 's|.*"package_id":"[^"]*/([^/"#]+)#(([^"@]+)@)?[^"@]*".*"executable":"[^"]*/([^/"]+)".*|\4 \3 \1|p' | awk '{print $1, $2}'
}

# From those lines and the output of `cargo test`: a line `crate passed failed` for each crate with
# tests, its doc-tests among them. A binary that ends without its result has failed.
count_by_crate() {
    awk '
        function begin(name) { finish(); crate = name; running = 1 }
        function finish() { if (running) bad[crate]++; running = 0 }
        FILENAME == ARGV[1] { owner[$1] = $2; next }
        /^ +Running .*\(.*\)$/ { name = $NF; gsub(/^.*\/|\)$/, "", name); begin(name in owner ? owner[name] : name) }
        /^ +Doc-tests / { begin($2) }
        /^test result: / { running = 0; good[crate] += $4; bad[crate] += $6 }
        END { finish(); for (name in bad) if (good[name] + bad[name]) print name, good[name] + 0, bad[name] }
    ' "$1" "$2" | sort
}

# nextest runs no doc-tests.
run_doc_tests() {
    local log="$logs/rust-doc.log" code
    cargo test --doc --workspace --release --no-fail-fast 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    note "rust: doc-tests" "$code" \
        "$(awk '/^test result: / { good += $4 } END { print good + 0 }' "$log")" \
        "$(awk '/^test result: / { bad += $6 } END { print bad + 0 }' "$log")"
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
        run_doc_tests
    else
        local crate good bad failed_before=$failed
        cargo test --workspace --release --no-run --message-format json 2>/dev/null | test_binaries >"$logs/rust-binaries.txt"
        cargo test --workspace --release --no-fail-fast 2>&1 | tee "$log"
        code=${PIPESTATUS[0]}
        while read -r crate good bad; do
            note "rust: $crate" 0 "$good" "$bad"
        done < <(count_by_crate "$logs/rust-binaries.txt" "$log")
        if ((code != 0 && failed == failed_before)); then note "rust" "$code" 0 0; fi
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
run_script "python readers" "$DIPTYCH_PYTHON" tests/clients/python/formats.py "$target/release/diptych"

echo
printf '%s\n' "${table[@]}"
echo "$passed passed, $failed failed"
((failed == 0))
