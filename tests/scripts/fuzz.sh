#!/usr/bin/env bash
# Runs the fuzz targets, one after the other: any bytes, and no panic.
#
#   tests/scripts/fuzz.sh [--seconds N] [--runs N] [--keep DIR] [TARGET...]
#
#   --seconds N  run each target for N seconds (20 without --runs)
#   --runs N     run each target N times, or until the seconds are over
#   --keep DIR   keep inputs that reach new code in DIR/TARGET and start from them too;
#                without it they are dropped
#
# All targets unless some are named: the files in fuzz/fuzz_targets. Each starts from the
# inputs in fuzz/corpus/TARGET and the words in fuzz/dictionaries; nothing is written
# there. Prints a line for each: how often it ran, how fast, and how many edges of code
# were reached. Fails if an input makes a target panic, run for more than 30 seconds or
# take more than 2 GiB, says where that input is, and how to run it again.
#
# Needs cargo-fuzz (cargo install --locked cargo-fuzz) and a C++ compiler.
#
# A new parser of bytes from outside brings its target:
#
#   1. fuzz/fuzz_targets/TARGET.rs, which calls the parser and asserts what holds for
#      anything that it accepts, and a [[bin]] of that name in fuzz/Cargo.toml;
#   2. a few inputs of at most a few KB, from an entry in fuzz/seeds.py or by hand, in
#      fuzz/corpus/TARGET;
#   3. for a format of words, fuzz/dictionaries/TARGET with one to a line;
#   4. one run of 10,000,000 executions before it is merged (--runs 10000000).
#
# What a run finds becomes a test beside the parser.
set -euo pipefail
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; }

seconds='' runs='' keep=''
targets=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --seconds) seconds=${2?--seconds needs a number}; shift 2 ;;
        --runs) runs=${2?--runs needs a number}; shift 2 ;;
        --keep) keep=${2?--keep needs a folder}; shift 2 ;;
        -*) usage >&2; exit 2 ;;
        *) targets+=("$1"); shift ;;
    esac
done
[[ -n $seconds$runs ]] || seconds=20
for number in ${seconds:+"$seconds"} ${runs:+"$runs"}; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: not a number: $number" >&2; exit 2; }
done
[[ -z $keep ]] || keep=$(mkdir -p "$keep" && cd "$keep" && pwd)

cd "$(dirname "$0")/../../fuzz"
if ((${#targets[@]} == 0)); then
    for file in fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi
for target in "${targets[@]}"; do
    [[ -f fuzz_targets/$target.rs ]] || { echo "fuzz.sh: no target $target" >&2; exit 2; }
done
command -v cargo-fuzz >/dev/null ||
    { echo 'fuzz.sh: cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }

# The flags that libFuzzer needs are not stable; the sanitizers need a nightly toolchain.
RUSTC_BOOTSTRAP=1 cargo fuzz build --sanitizer none
programs=target/$(rustc -vV | sed -n 's/^host: //p')/release

# Session files are synced to the disk; in memory that takes no time.
scratch=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/v4-fuzz.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/tmp"

# The words of a target's format.
dictionary() {
    case $1 in
        gguf_header | split_set | tokenizer_gguf) echo dictionaries/gguf ;;
        *) echo "dictionaries/$1" ;;
    esac
}

failed=0
for target in "${targets[@]}"; do
    found=artifacts/$target work=${keep:-$scratch}/$target
    mkdir -p "$found" "$work"
    options=(-artifact_prefix="$found/" -rss_limit_mb=2048 -timeout=30 -print_final_stats=1)
    [[ -z $seconds ]] || options+=(-max_total_time="$seconds")
    [[ -z $runs ]] || options+=(-runs="$runs")
    [[ ! -f $(dictionary "$target") ]] || options+=(-dict="$(dictionary "$target")")
    corpora=("$work")
    [[ ! -d corpus/$target ]] || corpora+=("corpus/$target")
    log=$scratch/$target.log
    if TMPDIR=$scratch/tmp "$programs/$target" "${options[@]}" "${corpora[@]}" >"$log" 2>&1; then
        awk -v name="$target" '
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
            /^stat::number_of_executed_units:/ { count = $2 }
            /^stat::average_exec_per_sec:/ { speed = $2 }
            END { printf "%-20s %10d executions, %7d a second, %6d edges\n",
                  name, count, speed, edges }' "$log"
    else
        failed=1
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        tail -25 "$log"
        echo "$target: FAILED${input:+; the input is fuzz/$input, run it again with}"
        [[ -z $input ]] || echo "    RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $target fuzz/$input"
    fi
done
exit "$failed"
