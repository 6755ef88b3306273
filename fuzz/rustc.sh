#!/bin/sh
# Cargo's RUSTC_WRAPPER for scripts/fuzz.sh: has libFuzzer see where Portunus and the targets go, and nothing below them,
# so that what they are built on is what was built for the tests. The flags are cargo-fuzz's.
rustc=$1
shift
# The one flag that a stable compiler hasn't got.
case " $* " in
*" -Zsanitizer=address "*) export RUSTC_BOOTSTRAP=1 ;;
esac
case " $* " in
*" --crate-name portunus "* | *" --crate-name portunus_fuzz "* | *" fuzz_targets/"*)
    level=-Cllvm-args=-sanitizer-coverage
    exec "$rustc" "$@" -Cpasses=sancov-module "$level-level=4" "$level-inline-8bit-counters" "$level-pc-table" \
        "$level-trace-compares" -Coverflow-checks
    ;;
esac
exec "$rustc" "$@"
