#!/usr/bin/env bash
# Serves examples/verona on this machine, with three backends, until Ctrl-C.
# PORTUNUS_HTTP_LISTEN, PORTUNUS_HTTPS_LISTEN and PORTUNUS_ADMIN_LISTEN (one ADDR:PORT each) move it.
# shellcheck disable=SC2317 # traps reach what looks unreachable
set -euo pipefail
cd "$(dirname "$0")/.."

http=${PORTUNUS_HTTP_LISTEN:-127.0.0.1:8080}
https=${PORTUNUS_HTTPS_LISTEN:-127.0.0.1:8443}
admin=${PORTUNUS_ADMIN_LISTEN:-127.0.0.1:10254}
echoes=(127.0.0.1:18081 127.0.0.1:18082 127.0.0.1:18083) # examples/verona/endpoints.yaml

scripts/setup.sh build
echo "building the release binary (the first time takes minutes)"
cargo build --release
portunus=${CARGO_TARGET_DIR:-target}/release/portunus

children=()
signal() {
    ((${#children[@]} == 0)) || kill "${children[@]}" 2>/dev/null || true
}
# One signal lets Portunus drain; another Ctrl-C meanwhile sends the second, which ends it at once.
stop() {
    trap signal INT TERM HUP
    signal
    until wait; do :; done
}
trap stop EXIT
trap 'exit 0' INT TERM HUP

# Process groups of their own, so that the terminal's Ctrl-C reaches this script alone.
set -m
start() {
    "$portunus" "$@" </dev/null &
    children+=($!)
}

# Waits some 10 s at most, and not for a child that has ended: it has said why (an address in use,
# say), and then an answer would be somebody else's.
await() {
    local child
    for _ in {1..100}; do
        for child in "${children[@]}"; do
            kill -0 "$child" 2>/dev/null || exit 1
        done
        curl --silent --fail --output /dev/null --max-time 1 "$1" && return
        sleep 0.1
    done
    echo "run: no answer from $1" >&2
    exit 1
}

for i in "${!echoes[@]}"; do
    start echo --listen "${echoes[i]}" --name "echo-$((i + 1))"
done
# The same hosts are asked over HTTP and HTTPS here; without the flag HTTP would send to HTTPS.
start serve --manifests examples/verona --ssl-redirect false --http-listen "$http" --https-listen "$https" --admin-listen "$admin"
for address in "${echoes[@]}"; do
    await "http://$address/"
done
await "http://$admin/readyz"

cat <<TEXT

Portunus serves examples/verona. Try, in another terminal:

  # HTTP: asked often, all three backends answer
  curl -H 'Host: verona.example' http://$http/romeo-please-call-me
  # an Ingress without hosts
  curl http://$http/service-a
  # HTTPS, with the example certificate; then a wildcard host
  curl --cacert examples/verona/verona.example.crt --resolve verona.example:${https##*:}:${https%:*} https://verona.example:${https##*:}/romeo-please-call-me
  curl --cacert examples/verona/verona.example.crt --resolve balcony.verona.example:${https##*:}:${https%:*} https://balcony.verona.example:${https##*:}/
  # WebSocket: 101, and the tunnel stays open for the two seconds that curl does
  curl -i -N --http1.1 --max-time 2 -H 'Host: verona.example' -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://$http/romeo-please-call-me
  # 404: no such path
  curl -i -H 'Host: verona.example' http://$http/paris
  # 503: no endpoint is ready
  curl -i -H 'Host: tomb.verona.example' http://$http/
  # the table as it matches, problems, metrics
  curl http://$admin/debug/table
  curl http://$admin/debug/problems
  curl http://$admin/metrics

Edit a file in examples/verona (a path in juliet.yaml, a \`ready\` in endpoints.yaml) and ask again:
the routing has changed, and no connection was dropped. Ctrl-C stops everything.

TEXT

status=0
wait -n || status=$?
echo "run: a process has ended (exit code $status); stopping the others" >&2
exit 1
