"""One client of the `handshake` case: a new TLS connection for every request, one after the other, until the time is up.

Why not a ready-made tool: wrk, h2load and oha all keep the TLS session between connections and resume it, which leaves the
certificate's signature out. Here every handshake is a full one, and that is checked connection by connection. Several of
these run at once; each prints one JSON object: how long each request took from connect to the last byte of the body, in
microseconds, and the failures in words.

usage: handshakes.py PORT HOST PATH BODY_BYTES START_MONOTONIC SECONDS
"""
import json
import socket
import ssl
import sys
import time

FAILURES_MAX = 5  # more of them say nothing new


def main() -> None:
    port, host, path, body_bytes, start, seconds = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the chain; the handshake's signature is verified all the same
    latencies, failures = [], []
    time.sleep(max(0.0, float(start) - time.monotonic()))
    end = time.monotonic() + float(seconds)
    while (begun := time.monotonic()) < end and len(failures) < FAILURES_MAX:
        try:
            one_request(context, int(port), host, request, int(body_bytes))
            latencies.append(round((time.monotonic() - begun) * 1e6))
        except (OSError, ValueError) as error:
            failures.append(f"{type(error).__name__}: {error}")
    json.dump({"latencies": latencies, "failures": failures}, sys.stdout)


def one_request(context: ssl.SSLContext, port: int, host: str, request: bytes, body_bytes: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=host) as tls:
            if tls.session_reused or tls.version() != "TLSv1.3":
                raise ValueError(f"not a full TLS 1.3 handshake: {tls.version()}, resumed {tls.session_reused}")
            tls.sendall(request)
            answer = b""
            while chunk := tls.recv(65536):
                answer += chunk
            head, _, body = answer.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or len(body) != body_bytes:
                raise ValueError(f"{head[:60]!r} with {len(body)} bytes of body instead of {body_bytes}")


if __name__ == "__main__":
    main()
