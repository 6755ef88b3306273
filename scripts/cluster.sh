#!/usr/bin/env bash
# The test cluster (tests/cluster/README.md): a real Kubernetes control plane, and Pods that are network
# namespaces, all in namespaces of its own.
#   setup          gets what it needs: installs it where it may, else says what to install
#   build          builds target/tools/portunus-cluster (the first time takes minutes)
#   up [ARGS...]   starts one and leaves it up; ARGS as --image NAME=PROGRAM
#   down           ends it
#   enter CMD...   runs a command on its node
#   run [ARGS...] -- CMD...   starts one for a command alone
# PORTUNUS_CLUSTER_STATE is its directory, else target/cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=$PWD/target/tools/portunus-cluster
state=${PORTUNUS_CLUSTER_STATE:-$PWD/target/cluster}
# The directory may have been a cluster's; its output lies beside it.
output=$state.log

setup() {
    local packages=()
    PATH=$PATH:/usr/sbin:/sbin
    command -v nft >/dev/null || packages+=(nftables)
    command -v ip >/dev/null || packages+=(iproute2)
    command -v nsenter >/dev/null || packages+=(util-linux)
    if ((${#packages[@]})); then
        if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${packages[@]}"
        else
            echo "cluster: install, on Debian: sudo apt-get install ${packages[*]}" >&2
            exit 2
        fi
    fi
    # Go itself refuses to be older than go.mod asks for.
    if ! go -C tests/cluster list -m >/dev/null; then
        echo "cluster: install Go $(sed -n 's/^go //p' tests/cluster/go.mod) or newer" >&2
        exit 2
    fi
}

# Go's cache decides what there is to build; the two programs lie side by side because one starts the other.
build() {
    local version
    mkdir -p target/tools
    [[ -x $cluster ]] || echo "cluster: building Kubernetes (the first time takes some ten minutes on two cores)"
    version=$(sed -n 's/^\tk8s.io\/kubernetes //p' tests/cluster/go.mod)
    (
        cd tests/cluster
        export CGO_ENABLED=0
        go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$cluster" .
        go build -trimpath -ldflags "-s -w" -o "$cluster-pod" ./pod
    )
}

up() {
    if [[ -S $state/ctl.sock ]] && "$cluster" ctl --state "$state" status >/dev/null 2>&1; then
        echo "cluster: one is up in $state; end it with: scripts/cluster.sh down" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$state")"
    : >"$output"
    setsid nohup "$cluster" up --state "$state" "$@" </dev/null >"$output" 2>&1 &
    local pid=$!
    # What it waits for has a bound of its own, below this one.
    for _ in {1..2000}; do
        if grep -q '^cluster: ready' "$output"; then
            usage
            return
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$output" >&2
    kill "$pid" 2>/dev/null || true
    exit 1
}

usage() {
    grep -m 1 '^cluster: ready' "$output"
    cat <<TEXT
from here:       export KUBECONFIG=$state/kubeconfig
                 $state/bin/kubectl get pods -A
on the node:     scripts/cluster.sh enter kubectl get pods -A
from outside:    scripts/cluster.sh enter ip netns exec client curl http://203.0.113.1/
without the API: scripts/cluster.sh enter cluster ctl kill kube-apiserver   (and: cluster ctl start kube-apiserver)
logs:            $state/logs
to end it:       scripts/cluster.sh down
TEXT
}

# Its outer process holds the lock of the directory, so that no other process is mistaken for it.
down() {
    local pid
    pid=$(sed -n 1p "$state/outer.pid" 2>/dev/null) || true
    if [[ -z $pid ]] || flock --nonblock "$state/lock" true; then
        echo "cluster: none is up in $state"
        return
    fi
    kill "$pid"
    flock --timeout 30 "$state/lock" true
}

verb=${1:-}
shift || true
case $verb in
setup) setup ;;
build) setup && build ;;
up) setup && build && up "$@" ;;
down) down ;;
enter) "$cluster" enter --state "$state" -- "$@" ;;
run) setup && build && exec "$cluster" up --state "$state" "$@" ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' scripts/cluster.sh >&2
    exit 2
    ;;
esac
