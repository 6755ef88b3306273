#!/usr/bin/env bash
# A release binary that is optimised by a profile of the load bench's own traffic: builds one that counts, puts it
# under load, and builds again with what was counted. Needs llvm-profdata of the compiler's LLVM: of the toolchain
# (`rustup component add llvm-tools`) or of the system (`apt-get install llvm-22`), and what the load bench needs.
set -euo pipefail
cd "$(dirname "$0")/.."

major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
host=$(rustc -vV | sed -n 's/^host: //p')
own=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
profdata=$(command -v "$own" "llvm-profdata-$major" | head -1) || {
    echo "pgo.sh: no llvm-profdata for LLVM $major: rustup component add llvm-tools, or apt-get install llvm-$major" >&2
    exit 1
}

export CARGO_TARGET_DIR=$PWD/target/pgo
profiles=$CARGO_TARGET_DIR/profiles
binary=$CARGO_TARGET_DIR/$host/release/portunus
rm -rf "$profiles"
# With a target, so that build scripts and macros don't count.
RUSTFLAGS="-Cprofile-generate=$profiles" cargo build --release --target "$host"
python3 benches/load/run.py --portunus "$binary" --peers portunus,portunus-filters,portunus-log --against portunus \
    --cases h1,tls,h2,handshake,body --pairs 1 --duration 3
"$profdata" merge -o "$profiles/merged.profdata" "$profiles"/*.profraw
RUSTFLAGS="-Cprofile-use=$profiles/merged.profdata" cargo build --release --target "$host"
cp "$binary" "$CARGO_TARGET_DIR/portunus"
echo "$CARGO_TARGET_DIR/portunus"
