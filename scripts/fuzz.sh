#!/usr/bin/env bash
# Runs each fuzz target of fuzz/ for so many seconds, as many at once as there are processors:
#     scripts/fuzz.sh SECONDS [TARGET...]
# It begins with the inputs in fuzz/corpus; what it finds on the way is in target/fuzz/corpus, and what breaks
# something in target/fuzz/artifacts. `scripts/fuzz.sh keep [TARGET...]` replaces fuzz/corpus by the fewest inputs that
# reach all that both reach. Needs a nightly compiler: where there is none, it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
FUZZ_VERSION=0.13.2
fuzz=$PWD/target/tools/bin/cargo-fuzz

seconds=${1:?how many seconds each}
shift
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' fuzz/Cargo.toml)

if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: skipped: there is no nightly toolchain (rustup toolchain install nightly --profile minimal)"
    exit 0
fi
if [[ "$("$fuzz" fuzz --version 2>/dev/null || true)" != "cargo-fuzz $FUZZ_VERSION" ]]; then
    echo "fuzz: building cargo-fuzz $FUZZ_VERSION once, into target/tools"
    cargo install cargo-fuzz --quiet --locked --version "$FUZZ_VERSION" --root target/tools
fi
export PATH="$PWD/target/tools/bin:$PATH" RUSTUP_TOOLCHAIN=nightly CARGO_TARGET_DIR=$PWD/target/fuzz
# The compiler of every day knows no lints of tomorrow's.
export RUSTFLAGS="--cap-lints=warn"
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo fuzz build --target "$triple" 2> >(grep -v '^ *\(Compiling\|Finished\)' >&2)

# Options of libFuzzer's: no input takes ten seconds, none needs 2 GiB.
program() {
    ASAN_OPTIONS=detect_odr_violation=0 "$CARGO_TARGET_DIR/$triple/release/$1" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$CARGO_TARGET_DIR/artifacts/$1-" "${@:2}"
}

# One target, with a line about how it went.
run() {
    local target=$1 found=$CARGO_TARGET_DIR/corpus/$1 log=$CARGO_TARGET_DIR/$1.log
    mkdir -p "$found" "fuzz/corpus/$target" "$CARGO_TARGET_DIR/artifacts"
    local dictionary=() words=fuzz/$target.dict
    [[ ! -f $words ]] || dictionary=(-dict="$words")
    if program "$target" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 "${dictionary[@]}" \
        "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
        echo "fuzz: $target: $(sed -n 's/^Done \(.*\)/\1/p' "$log"), $(sed -n 's/.*\(cov: [0-9]*\).*/\1/p' "$log" | tail -1)"
    else
        grep -v '^#' "$log" | tail -40
        echo "fuzz: $target: FAILED; the input is in $CARGO_TARGET_DIR/artifacts, the log is $log"
        return 1
    fi
}

keep() {
    local target=$1 kept=fuzz/corpus/$1 fewest=$CARGO_TARGET_DIR/fewest/$1
    rm -rf "$fewest"
    mkdir -p "$fewest" "$CARGO_TARGET_DIR/corpus/$target"
    program "$target" -merge=1 "$fewest" "$kept" "$CARGO_TARGET_DIR/corpus/$target" 2>&1 | tail -1
    rm -rf "$kept"
    mv "$fewest" "$kept"
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
