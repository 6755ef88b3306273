#!/usr/bin/env bash
# Builds h2spec, the suite of HTTP/2 that tests/it/h2spec.rs runs, to target/tools/h2spec; tests/h2spec/go.mod has its
# version.
set -euo pipefail
cd "$(dirname "$0")/../tests/h2spec"
go build -o ../../target/tools/h2spec github.com/summerwind/h2spec/cmd/h2spec
