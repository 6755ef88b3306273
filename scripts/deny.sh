#!/usr/bin/env bash
# Checks the dependencies against deny.toml. Advisories need their database from the network:
# where it can't be had, they are skipped, and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."
deny=target/tools/bin/cargo-deny
"$deny" check --hide-inclusion-graph bans licenses sources
if timeout 60 "$deny" --log-level off fetch db; then
    "$deny" check advisories
else
    echo "advisories skipped: their database can't be had from here"
fi
