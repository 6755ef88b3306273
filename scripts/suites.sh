#!/usr/bin/env bash
# Gets the suites of others that the tests put Portunus through, into target/tools: gRPC's interop programs (Go),
# sslyze (PyPI), and Autobahn's for WebSockets, which is for Python 2.7: where there is none this says so, and the
# test that wants it passes without having looked. Safe to run again; a second run only looks.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools

GRPC=v1.85.0
SSLYZE=6.3.1
# As the suite was last seen to run: newer ones of these want another Python.
AUTOBAHN=(autobahntestsuite==0.8.2 Twisted==19.10.0 txaio==2.1.0 incremental==16.10.1 zope.interface==4.6.0
    jinja2==2.11.3 markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 autobahn==0.10.9 six==1.16.0 pyOpenSSL==19.1.0
    cryptography==3.3.2 unittest2==1.1.0)

# current FOLDER VERSION: whether what is there is that.
current() {
    [[ -f $tools/$1/version && $(<"$tools/$1/version") == "$2" ]]
}

grpc_interop() {
    current grpc-interop "$GRPC" && return
    echo "suites: building gRPC's interop client and server $GRPC"
    local programs=google.golang.org/grpc/interop
    GOBIN=$tools/grpc-interop go install "$programs/client@$GRPC" "$programs/server@$GRPC"
    echo "$GRPC" >"$tools/grpc-interop/version"
}

sslyze() {
    current sslyze "$SSLYZE" && return
    echo "suites: installing sslyze $SSLYZE"
    rm -rf "$tools/sslyze"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-warn-conflicts \
        --target "$tools/sslyze" "sslyze==$SSLYZE"
    echo "$SSLYZE" >"$tools/sslyze/version"
}

# A Python 2.7 that runs and has pip. pyenv's stand-in for it may do neither.
python2() {
    local candidate
    for candidate in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        if "$candidate" -m pip --version >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

autobahn() {
    local wanted="${AUTOBAHN[*]}" python
    current autobahn "$wanted" && return
    if ! python=$(python2); then
        echo "suites: no Python 2.7 with pip here, so Autobahn's WebSocket suite is skipped"
        return
    fi
    echo "suites: installing Autobahn's WebSocket suite"
    rm -rf "$tools/autobahn"
    "$python" -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
        --target "$tools/autobahn" "${AUTOBAHN[@]}" 2> >(grep -v DEPRECATION >&2)
    touch "$tools/autobahn/zope/__init__.py"
    cat >"$tools/autobahn/wstest" <<WSTEST
#!/bin/sh
PYTHONPATH=$tools/autobahn PYTHONWARNINGS=ignore exec $python -u -c 'from autobahntestsuite.wstest import run; run()' "\$@"
WSTEST
    chmod +x "$tools/autobahn/wstest"
    echo "$wanted" >"$tools/autobahn/version"
}

mkdir -p "$tools"
grpc_interop
sslyze
autobahn
