#!/usr/bin/env bash
# Runs each fuzz target of fuzz/ for so many seconds, as many at once as there are processors:
#     scripts/fuzz.sh [--asan] SECONDS [TARGET...]
# It begins with the inputs in fuzz/corpus; what it finds on the way is in target/fuzz/corpus, and what breaks
# something in target/fuzz/artifacts. `scripts/fuzz.sh keep [TARGET...]` adds to fuzz/corpus, of what was found, the
# fewest inputs that reach what those there don't. Any compiler does, and it builds on what the tests are built on; with
# --asan, under AddressSanitizer, everything in Rust is built anew once, beside it (C is not looked into). `cargo
# +nightly fuzz run TARGET` is the same with coverage of hyper and rustls.
set -euo pipefail
cd "$(dirname "$0")/.."
asan=
[[ ${1-} != --asan ]] || { asan=1; shift; }
seconds=${1:?how many seconds each}
shift
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' fuzz/Cargo.toml)

export RUSTC_WRAPPER=$PWD/fuzz/rustc.sh
build=${CARGO_TARGET_DIR:-$PWD/target} out=$PWD/target/fuzz host=$(rustc -vV | sed -n 's/^host: //p')
programs=$build${asan:+/$host}/debug
# With --target, flags are not for build scripts and macros, which run in the compiler.
[[ -z $asan ]] || export RUSTFLAGS=-Zsanitizer=address
cargo build --quiet --manifest-path fuzz/Cargo.toml --target-dir "$build" ${asan:+--target "$host"}

mkdir -p "$out/artifacts"

# Options of libFuzzer's: no input takes ten seconds, none needs 2 GiB.
program() {
    "$programs/$1" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$out/artifacts/$1-" "${@:2}"
}

# One target, with a line about how it went.
run() {
    local target=$1 found=$out/corpus/$1 log=$out/$1.log
    mkdir -p "$found" "fuzz/corpus/$target"
    local dictionary=() words=fuzz/$target.dict
    [[ ! -f $words ]] || dictionary=(-dict="$words")
    if program "$target" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 "${dictionary[@]}" \
        "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
        echo "fuzz: $target: $(sed -n 's/^Done \(.*\)/\1/p' "$log"), $(sed -n 's/.*\(cov: [0-9]*\).*/\1/p' "$log" | tail -1)"
    else
        grep -v '^#' "$log" | tail -40
        echo "fuzz: $target: FAILED; the input is in $out/artifacts, the log is $log"
        return 1
    fi
}

keep() {
    local target=$1
    mkdir -p "$out/corpus/$target"
    # Counting how often each place is reached as well would keep ten times as much.
    program "$target" -merge=1 -use_counters=0 "fuzz/corpus/$target" "$out/corpus/$target" 2>&1 | tail -1
}

if [[ $seconds == keep ]]; then
    for target in "${targets[@]}"; do keep "$target"; done
    exit 0
fi
failed=0 running=0
for target in "${targets[@]}"; do
    if ((running >= $(nproc))); then
        wait -n || failed=1
        running=$((running - 1))
    fi
    run "$target" &
    running=$((running + 1))
done
while ((running > 0)); do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
