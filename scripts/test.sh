#!/usr/bin/env bash
# Everything that proves the project, in order; stops at the first failure.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."
# A machine may be slow, so nothing here asserts a time; `make proof` is the full size.
export PORTUNUS_SCALE=small

step() {
    printf '\n== %s\n' "$1"
    shift
    "$@"
}

shell_syntax() {
    local script
    for script in .ci/run scripts/*.sh benches/load/*.sh deploy/webhook/*.sh; do
        bash -n "$script"
    done
}

test_cluster() {
    scripts/cluster.sh build
    test -z "$(gofmt -l tests/cluster tests/grpc tests/paths | tee /dev/stderr)"
    go -C tests/cluster vet ./...
}

examples() {
    local folder
    for folder in examples/*/; do
        echo "$folder"
        cargo run --quiet -- check "$folder"
    done
}

step "setup" scripts/setup.sh
step "shell syntax" shell_syntax
step "format" cargo fmt --check
step "clippy" cargo clippy --all-targets -- -D warnings
step "dependencies" scripts/deny.sh
step "gRPC server and client" scripts/grpc.sh
step "h2spec" scripts/h2spec.sh
step "suites of others" scripts/suites.sh
# Not `http1`, whose second reader has not run long enough without a false alarm.
step "fuzz targets" scripts/fuzz.sh 30 path translate annotations proxy_protocol client_hello
step "test cluster" test_cluster
step "examples" examples
# Last, so that the runner's own closing lines close the output.
step "scenarios in a cluster" scripts/scenarios.sh
step "tests" cargo test --lib --test it
