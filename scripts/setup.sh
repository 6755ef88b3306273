#!/usr/bin/env bash
# Gets what the tests need, or with `build` only what building and running need: installs it where
# it may, else says what to install. Safe to run again; a second run only looks.
set -euo pipefail
cd "$(dirname "$0")/.."

DENY_VERSION=0.20.2
failed=0

missing() {
    echo "setup: $1" >&2
    failed=1
}

# aws-lc and mimalloc are C, compiled by cc; the scripts ask their questions with curl.
packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v curl >/dev/null || packages+=(curl)
# Some tests hold Portunus against the real nginx; Debian has it where only root looks.
if [[ ${1:-} != build ]]; then
    PATH="$PATH:/usr/sbin" command -v nginx >/dev/null || packages+=(nginx)
    # One has servers in several languages read paths.
    command -v node >/dev/null || packages+=(nodejs)
    command -v python3 >/dev/null || packages+=(python3)
    # One counts system calls.
    command -v strace >/dev/null || packages+=(strace)
fi
if ((${#packages[@]})); then
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${packages[@]}"
    else
        missing "install what the tests need, on Debian: sudo apt-get install ${packages[*]}"
    fi
fi

# Inside the repository rustup takes the toolchain of rust-toolchain.toml.
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if ! cargo --version >/dev/null || ! cargo fmt --version >/dev/null || ! cargo clippy --version >/dev/null; then
    missing "install Rust $channel: get rustup, then: rustup toolchain install $channel --component rustfmt,clippy"
fi
if [[ ${1:-} != build ]]; then
    # Go itself refuses to be older than go.mod asks for.
    go -C tests/grpc list -m >/dev/null || missing "install Go $(sed -n 's/^go //p' tests/grpc/go.mod) or newer"
fi
((failed == 0)) || exit 2
[[ ${1:-} != build ]] || exit 0

deny=target/tools/bin/cargo-deny
if [[ "$("$deny" --version 2>/dev/null || true)" != "cargo-deny $DENY_VERSION" ]]; then
    echo "setup: building cargo-deny $DENY_VERSION once, into target/tools (some minutes)"
    cargo install cargo-deny --quiet --locked --version "$DENY_VERSION" --root target/tools
fi
