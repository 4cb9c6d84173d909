#!/usr/bin/env bash
# Sees that builds for other processors compute the same bits as the default build.
#
#   tests/scripts/other-builds.sh [CPU...]
#
# CPU is a value of rustc's -C target-cpu, by default native and x86-64-v3. Each build goes to
# target/cpu-CPU. Run `cargo build --release` first.
set -euo pipefail
cd "$(dirname "$0")/../.."
cpus=("${@:-native}")
(($# > 0)) || cpus=(native x86-64-v3)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

seq -s ' ' 3 7 2100 >"$scratch/ids"
for model in tiny-v4 tiny-v41; do
    target/release/v4-convert "tests/data/$model" "$scratch/$model.gguf" --quiet
done
logits() {
    "$1/v4-run" logits "$scratch/$2.gguf" --ids "$scratch/ids" --precision "$3" --kv "$4" \
        --out "$scratch/$5" --quiet
}
for cpu in "${cpus[@]}"; do
    RUSTFLAGS="-C target-cpu=$cpu" cargo build --release --target-dir "target/cpu-$cpu" \
        --bin v4-run --quiet
    for model in tiny-v4 tiny-v41; do
        for mode in 'fast published' 'exact f32'; do
            read -r precision kv <<<"$mode"
            logits target/release "$model" "$precision" "$kv" default
            logits "target/cpu-$cpu/release" "$model" "$precision" "$kv" other
            cmp "$scratch/default" "$scratch/other"
            echo "$cpu, $model, $precision, $kv: the same bits"
        done
    done
done
