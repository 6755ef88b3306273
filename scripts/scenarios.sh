#!/usr/bin/env bash
# Runs the scenarios of tests/cluster in a cluster of their own. Arguments go to the test runner (a filter,
# --nocapture); PORTUNUS_PROFILE=release and PORTUNUS_SCALE=full are the full size, and
# PORTUNUS_CLUSTER_WITHOUT=kube-proxy,coredns leaves parts of the cluster out.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == --runner ]]; then
    # Cargo calls this with the test program; Portunus itself was built beside it.
    program=$2
    shift 2
    without=()
    [[ -z ${PORTUNUS_CLUSTER_WITHOUT:-} ]] || without=(--without "$PORTUNUS_CLUSTER_WITHOUT")
    portunus=$(dirname "$program")/../portunus
    exec scripts/cluster.sh run "${without[@]}" --image "portunus=$portunus" -- "$program" "$@"
fi
profile=() folder=debug
[[ ${PORTUNUS_PROFILE:-} != release ]] || profile=(--release) folder=release
# The program as the Dockerfile has it: without a library of the system's. Only the last step differs.
export PORTUNUS_STATIC=$PWD/target/tools/portunus-static
cargo rustc "${profile[@]}" --quiet --bin portunus -- -C target-feature=+crt-static
cp "${CARGO_TARGET_DIR:-target}/$folder/portunus" "$PORTUNUS_STATIC"
runner="target.'cfg(all())'.runner=['$PWD/scripts/scenarios.sh', '--runner']"
# One after the other: some take the API server away.
exec cargo test "${profile[@]}" --config "$runner" --test cluster -- --test-threads=1 "$@"
