#!/usr/bin/env bash
# Compares logits of our conversion in llama.cpp and here: mean KL over about 2,000 tokens.
#
#   tests/scripts/compare-llamacpp.sh LLAMA_BIN_DIR CHECKPOINT TEXT [RECIPE...]
#
# LLAMA_BIN_DIR contains llama-perplexity. Run `cargo build --release --workspace` first.
# Fails if a recipe's mean divergence is 0.01 or more.
set -euo pipefail
if (($# < 3)); then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
llama=$1 checkpoint=$2 text=$3
shift 3
recipes=("${@:-native}")
ours=$(dirname "$0")/../../target/release
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for recipe in "${recipes[@]}"; do
    "$ours/v4-convert" "$checkpoint" "$scratch/model.gguf" --recipe "$recipe" --force --quiet
    # Four windows, of which the second halves count: 2,044 positions. One
    # thread, because llama.cpp is very slow with more threads than idle cores.
    "$llama/llama-perplexity" -m "$scratch/model.gguf" -f "$text" -c 1024 --chunks 4 -t 1 \
        --kl-divergence-base "$scratch/base" >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
    for options in '--precision exact --kv f32' '--precision fast --kv published'; do
        printf '%s, %s: ' "$recipe" "$options"
        # shellcheck disable=SC2086 # two options with their values
        "$ours/v4-compare-logits" "$scratch/model.gguf" "$scratch/base" -- $options
    done
done
