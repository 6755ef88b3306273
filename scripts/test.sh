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

# What is found at random is no fault of a change: so only where somebody has the compiler for it.
fuzz_targets() {
    if ! rustup toolchain list 2>/dev/null | grep -q nightly; then
        echo "skipped: there is no nightly toolchain; \`make fuzz\` runs them with any"
        return
    fi
    scripts/fuzz.sh 30
}

step "setup" scripts/setup.sh
step "shell syntax" shell_syntax
step "format" cargo fmt --check
step "clippy" cargo clippy --all-targets -- -D warnings
step "dependencies" scripts/deny.sh
step "gRPC server and client" scripts/grpc.sh
step "h2spec" scripts/h2spec.sh
step "suites of others" scripts/suites.sh
step "fuzz targets" fuzz_targets
step "test cluster" test_cluster
step "examples" examples
# Last, so that the runner's own closing lines close the output.
step "scenarios in a cluster" scripts/scenarios.sh
step "tests" cargo test --lib --test it
