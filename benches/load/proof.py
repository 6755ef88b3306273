"""Starts a proxy, and proves that it does its work before anything is measured: the backend shows what it got."""
import json
import re
import ssl
import subprocess
import time

from backends import wait_for
from cases import CHUNKED_BYTES, TRAFFIC
from measure import HOST, Failed, Process, get
from peers import Peer, Place

WORK_SECONDS_MAX = 60  # from listening to doing the whole work; a busy machine and a hundred thousand rules take their time


def start(peer: Peer, place: Place, core: int | str) -> Process:
    """Starts it and returns only when it does the whole work; whoever catches Failed needn't stop anything."""
    process = Process(peer.name, core, peer.configure(place), peer.env)
    try:
        wait_for(process, [place.http, place.https, place.metrics])
        deadline = time.monotonic() + WORK_SECONDS_MAX
        while wrong := verify(peer, place):  # a listener may be up before its routes are
            if time.monotonic() > deadline or process.child.poll() is not None:
                raise Failed(f"{wrong}; it said: {process.said()}")
            time.sleep(0.1)
        return process
    except BaseException:
        process.stop()
        raise


def verify(peer: Peer, p: Place) -> str:
    """Empty, or what is wrong with its answers."""
    tls = ssl.create_default_context(cafile=str(p.certificate))
    tls.check_hostname = False  # http.client sends the address as the name; the certificate itself must be ours
    try:
        if wrong := grpc(peer, p) if p.kind == "h2c" else plain(peer, p, named(tls)):
            return wrong
        for host, path in (("other.example", "/app/1k"), (HOST, "/other")):
            if (status := get(p.http, path, host)[0]) != 404:
                return f"{host}{path}: status {status}, not 404"
        status, _, text = get(p.metrics, peer.metrics, f"127.0.0.1:{p.metrics}")
        if status != 200 or not re.search(rb"\d", text):
            return f"metrics: status {status}"
        return ""
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]}: {error.stderr.decode().strip()[-300:]}"
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"


def plain(peer: Peer, p: Place, tls) -> str:
    ids = [headers_seen(peer, p, scheme, json.loads(get(port, "/app/headers", tls=context)[2]))
           for scheme, port, context in (("http", p.http, None), ("https", p.https, tls), ("http", p.http, None))]
    if peer.own_request_id and len(set(ids)) != 3:
        return f"X-Request-ID is not new for each request: {ids}"
    headers_seen(peer, p, "https", json.loads(over_http2(p, "/app/headers")))
    if p.kind == "chunks":
        got = {path: get(p.http, path)[::2] for path in ("/app/chunks", "/app/burst")}
        return "" if set(got.values()) == {(200, b"x" * CHUNKED_BYTES)} else f"in chunks: {got}"
    for path, size in (("/app/1k", 1024), ("/app/1m", 1 << 20)):
        for port, context in ((p.http, None), (p.https, tls)):
            status, headers, body = get(port, path, tls=context)
            if status != 200 or len(body) != size or headers["Content-Length"] != str(size):
                return f"{path}: status {status}, {len(body)} bytes, Content-Length {headers['Content-Length']}"
    if p.kind == "go":
        for size in (0, 10 << 10, 10 << 20):
            if (got := get(p.http, "/app/post", body=b"x" * size)[::2]) != (200, b"%010d" % size):
                return f"POST of {size} bytes: {got}"
    return ""


def grpc(peer: Peer, p: Place) -> str:
    """A call of each kind, three times; the last answers with the metadata that arrived."""
    argv = [TRAFFIC, "prove", "--target", f"127.0.0.1:{p.https}", "--host", HOST]
    ids = [headers_seen(peer, p, "https", json.loads(subprocess.run(argv, capture_output=True, timeout=15, check=True).stdout)) for _ in range(3)]
    return f"X-Request-ID is not new for each request: {ids}" if peer.own_request_id and len(set(ids)) != 3 else ""


def named(context: ssl.SSLContext):
    """The context, sending the SNI of HOST although the connection goes to an address."""
    class Named:
        def wrap_socket(self, plain, **_):
            tls = context.wrap_socket(plain, server_hostname=HOST)
            if tls.version() != "TLSv1.3":
                raise ValueError(f"negotiated {tls.version()}")
            return tls
        _context = context
        def __getattr__(self, name):
            return getattr(self._context, name)
    return Named()


def headers_seen(peer: Peer, p: Place, scheme: str, seen: dict) -> str:
    port = str(p.https if scheme == "https" else p.http)
    expected = {"host": HOST, "x-forwarded-for": "127.0.0.1", "x-forwarded-proto": scheme, "x-forwarded-host": HOST,
                "x-forwarded-port": port, "x-real-ip": "127.0.0.1"}
    for name, value in expected.items():
        if not re.fullmatch(peer.differs.get(name, re.escape(value)), seen[name]):
            raise ValueError(f"over {scheme} the backend saw {name}: {seen[name]!r}, not {value!r}")
    if len(seen["x-request-id"]) < 16:
        raise ValueError(f"over {scheme} the backend saw x-request-id: {seen['x-request-id']!r}")
    return seen["x-request-id"]


def over_http2(p: Place, path: str) -> bytes:
    # nghttp takes the SNI from :authority; it speaks HTTP/2 or fails.
    return subprocess.run(["nghttp", "--no-dep", f"-H:authority: {HOST}", f"https://127.0.0.1:{p.https}{path}"],
                          capture_output=True, timeout=5, check=True).stdout
