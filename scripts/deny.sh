#!/usr/bin/env bash
# Checks the dependencies, and those of the fuzz targets, against deny.toml. Advisories need their database from the
# network: where it can't be had, they are skipped, and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."

check() {
    local manifest
    for manifest in Cargo.toml fuzz/Cargo.toml; do
        echo "deny: $manifest: $*"
        target/tools/bin/cargo-deny --manifest-path "$manifest" check --hide-inclusion-graph "$@"
    done
}

check bans licenses sources
if timeout 60 target/tools/bin/cargo-deny --log-level off fetch db; then
    check advisories
else
    echo "advisories skipped: their database can't be had from here"
fi
