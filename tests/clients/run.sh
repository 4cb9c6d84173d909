#!/usr/bin/env bash
# Runs the published clients and curl against the service, over loopback and its Unix socket;
# then reported cases and recorded requests; then many clients at once for some seconds.
#
#   tests/clients/run.sh target/release/v4-run tiny-v4.gguf [SECONDS]
set -euo pipefail
program=$1 model=$2 seconds=${3:-20}
here=$(cd "$(dirname "$0")" && pwd)
venv=${CARGO_TARGET_DIR:-$here/../../target}/clients-venv

folder=$(mktemp -d)
service=
trap '[[ -z $service ]] || kill "$service" 2>/dev/null; rm -rf "$folder"' EXIT

"$program" serve "$model" --allow-unsigned --ctx 4096 --no-sessions \
    --listen "unix:$folder/s" --listen 127.0.0.1:0 2>"$folder/log" &
service=$!
for _ in $(seq 100); do
    curl -sf --unix-socket "$folder/s" http://localhost/health >/dev/null && break
    sleep 0.1
done
address=$(grep -o 'http://[0-9.:]*' "$folder/log")

# ask PATH [BODY]: prints the answer over the socket, and then over loopback.
ask() {
    local body=(${2:+--json "$2"})
    curl -sfN --max-time 60 --unix-socket "$folder/s" "http://localhost$1" "${body[@]}" &&
        curl -sfN --max-time 60 "$address$1" "${body[@]}"
}
# twice WORD PATH [BODY]: both answers contain this word.
twice() {
    local said
    said=$(ask "${@:2}") || { echo "curl: $2 fails" >&2; exit 1; }
    (($(grep -oF -- "$1" <<<"$said" | wc -l) >= 2)) ||
        { echo "curl: no $1 twice in $2: $said" >&2; exit 1; }
}
hello='"messages": [{"role": "user", "content": "Hello"}], "thinking": {"type": "disabled"}'
twice '"status":"ok"' /health
twice 'v4_requests_running' /metrics
twice '"object":"list"' /v1/models
twice '"object":"chat.completion"' /v1/chat/completions "{\"model\": \"m\", $hello, \"max_tokens\": 4}"
twice 'data: [DONE]' /v1/chat/completions \
    "{\"model\": \"m\", $hello, \"max_tokens\": 4, \"stream\": true}"
twice '"object":"text_completion"' /v1/completions \
    '{"model": "m", "prompt": "fn add(", "suffix": ") -> i32", "max_tokens": 4}'
twice '"object":"response"' /v1/responses \
    '{"model": "m", "input": "Hello", "max_output_tokens": 4, "reasoning": {"effort": "none"}}'
twice '"type":"message"' /v1/messages "{\"model\": \"m\", $hello, \"max_tokens\": 4}"
twice 'event: message_stop' /v1/messages \
    "{\"model\": \"m\", $hello, \"max_tokens\": 4, \"stream\": true}"
echo 'curl: ok'

# Where no package index can be reached, what is installed already has to do.
if [[ ! -x $venv/bin/python ]]; then
    python3 -m venv "$venv"
fi
if "$venv/bin/pip" install -q -r "$here/requirements.txt"; then
    "$venv/bin/python" "$here/clients.py" "$address"
    "$venv/bin/python" "$here/clients.py" "unix:$folder/s"
else
    echo 'openai and anthropic: not tested, they cannot be installed here'
fi
kill "$service"
wait "$service"
service=

python3 "$here/cases.py" "$(dirname "$program")" "$model"

"$program" serve "$model" --allow-unsigned --ctx 65536 --no-sessions \
    --listen 127.0.0.1:0 2>"$folder/log" &
service=$!
for _ in $(seq 100); do
    grep -q 'serving' "$folder/log" && break
    sleep 0.1
done
python3 "$here/recordings.py" --tiny "$(grep -o 'http://[0-9.:]*' "$folder/log")"
kill "$service"
wait "$service"
service=

python3 "$here/soak.py" "$program" "$model" --seconds "$seconds" --requests 24
