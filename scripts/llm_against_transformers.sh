#!/usr/bin/env bash
# The client of crates/llm against a real server: `transformers serve` with a tiny Llama made here.
# Needs Python with torch, transformers, fastapi, uvicorn and openai; DIPTYCH_PYTHON names it. No
# download. Not part of `make test`, which does without torch; docs/llm has what it showed.
#
#   DIPTYCH_PYTHON=~/venv/bin/python scripts/llm_against_transformers.sh
set -euo pipefail
cd "$(dirname "$0")/.."

python="${DIPTYCH_PYTHON:-python3}"
target="${CARGO_TARGET_DIR:-target}"
work=$(mktemp -d)
server=
cleanup() {
    if [[ -n $server ]]; then kill -9 "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap cleanup EXIT

cargo build -q -p llm --release --example against
against="$target/release/examples/against"
mkdir "$work/hub" # its list of models fails without one
"$python" scripts/tiny_chat_model.py "$work/model"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf '[models."%s"]\ninput_per_million = 0.15\noutput_per_million = 0.6\ncurrency = "USD"\n' "$work/model" >"$work/prices.toml"
options=(--llm-url "http://127.0.0.1:$port/v1" --llm-model "$work/model" --llm-price-file "$work/prices.toml"
    --llm-max-tokens 64 --llm-temperature 0 --llm-max-concurrency 4
    --llm-max-delay-ms 2000)

serve() {
    HF_HUB_OFFLINE=1 HF_HUB_CACHE="$work/hub" "$python" -m transformers.cli.transformers serve "$work/model" \
        --host 127.0.0.1 --port "$port" --device cpu >>"$work/serve.log" 2>&1 &
    server=$!
}

# Until the server answers, or has ended.
await_server() {
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$server" || { cat "$work/serve.log"; exit 1; }
        sleep 0.5
    done
}

lines() { if [[ -f $1 ]]; then wc -l <"$1"; else echo 0; fi; }

echo "--- a whole server"
serve
await_server
"$against" "${options[@]}" --journal "$work/whole.jsonl" --count 40
echo "--- the same as streams"
"$against" "${options[@]}" --llm-stream --journal "$work/streams.jsonl" --count 40

echo "--- the server is killed in the middle and comes back"
"$against" "${options[@]}" --journal "$work/server.jsonl" --count 200 --only-questions &
client=$!
until (($(lines "$work/server.jsonl") >= 20)); do sleep 0.05; done
kill -9 "$server"
wait "$server" 2>/dev/null || true
serve
wait "$client"

echo "--- the client is killed in the middle and runs again"
"$against" "${options[@]}" --journal "$work/client.jsonl" --count 200 --only-questions &
client=$!
until (($(lines "$work/client.jsonl") >= 60)); do sleep 0.05; done
kill -9 "$client"
wait "$client" 2>/dev/null || true
echo "in the journal when it died: $(lines "$work/client.jsonl")"
"$against" "${options[@]}" --journal "$work/client.jsonl" --count 200 --only-questions
