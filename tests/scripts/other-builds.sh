#!/usr/bin/env bash
# Sees that builds for other processors compute the same bits as the default build.
#
#   tests/scripts/other-builds.sh [CPU...]
#
# CPU is a value of rustc's -C target-cpu, by default native and x86-64-v3. Each build goes to
# target/cpu-CPU, and has the engine alone.
# Run `cargo build --release` first.
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
# With the whole workspace's features, as the tests are built.
cargo build --release --quiet --workspace --example logits
for cpu in "${cpus[@]}"; do
    # What others have written computes no logits.
    RUSTFLAGS="-C target-cpu=$cpu" cargo build --release --quiet -p v4-runtime \
        --example logits --target-dir "target/cpu-$cpu" \
        --config 'profile.release.package."*".opt-level=0' --config 'profile.release.debug=0'
    for model in tiny-v4 tiny-v41; do
        for mode in fast exact; do
            for folder in target "target/cpu-$cpu"; do
                "$folder/release/examples/logits" "$scratch/$model.gguf" \
                    "$scratch/${folder##*/}" ${mode/fast/} <"$scratch/ids"
            done
            cmp "$scratch/target" "$scratch/cpu-$cpu"
            echo "$cpu, $model, $mode: the same bits"
        done
    done
done
