"""The backends behind every proxy, on the load's core, each with counts of what it got: nginx for plain answers, and the Go
program of traffic/ for request bodies and WebSocket (`go`), answers in 1-byte chunks (`chunks`) and gRPC (`h2c`, HTTP/2 without TLS)."""
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from cases import GO_ONE, TRAFFIC, Case, Load
from measure import START_SECONDS_MAX, WORK, Failed, Process, get

FIRST_PORT, LAST_PORT = 24100, 24999  # below the ephemeral range, so that no outgoing connection sits on them
KEPT = 1_000_000_000  # requests a connection may carry: the cases decide when connections are new, not the servers
USER = "user root;" if os.geteuid() == 0 else ""  # else a root master's worker runs as nobody, who can't enter our folders
# What the backend shows of a request's head, for the proof of a proxy's work.
SHOWN = ("host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-request-id", "connection", "accept-encoding")


class Ports:
    next = FIRST_PORT

    @classmethod
    def take(cls) -> int:
        while cls.next <= LAST_PORT:
            cls.next += 1
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", cls.next - 1))
                    return cls.next - 1
                except OSError:
                    continue
        raise SystemExit(f"no free port on 127.0.0.1 between {FIRST_PORT} and {LAST_PORT}")


@dataclass
class Counts:
    accepted: int  # connections
    requests: int  # or messages
    body_bytes: int | None = None  # of the requests, where they are counted

    def since(self, before: "Counts", load: Load, case: Case) -> int:
        """The connections opened since, if the counts bear out the load's; else Failed."""
        served, opened = self.requests - before.requests, self.accepted - before.accepted
        # What was under way at the end may be missing in the load's count; anything more means retries, a cache or wrong counting.
        if not load.requests or abs(served - load.requests) > 0.01 * load.requests + 100:
            raise Failed(f"the load counted {load.requests} requests, the backend {served}; {load.wrong}")
        if opened > 0.1 * load.requests + 100:
            raise Failed(f"{opened} upstream connections for {load.requests} requests: not kept alive")
        if case.sent_bytes and self.body_bytes - before.body_bytes != served * case.sent_bytes:
            raise Failed(f"the backend got {self.body_bytes - before.body_bytes} bytes of bodies in {served} requests of {case.sent_bytes}")
        return opened


@dataclass
class Backend:
    port: int
    counts: Callable[[], Counts]


def backends(core: int, kinds: set[str]) -> dict[str, Backend]:
    """Starts what is needed of them, with the files that they and the load tools want in place."""
    started = {"nginx": nginx(core)}
    return {**started, **(traffic(core) if kinds - {"nginx"} else {})}


def nginx(core: int) -> Backend:
    """1 KiB from memory, 1 MiB by sendfile, and the headers that it got as JSON."""
    port, status, folder = Ports.take(), Ports.take(), WORK / "backend"
    folder.mkdir(exist_ok=True)
    shown = ",".join(f'"{name}":"$http_{name.replace("-", "_")}"' for name in SHOWN)
    (folder / "nginx.conf").write_text(f"""
daemon off; {USER} pid {folder}/pid; error_log {WORK}/backend.log warn; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain; keepalive_requests {KEPT}; keepalive_timeout 600s; sendfile on; tcp_nopush on;
  open_file_cache max=10; {temporary(folder)}
  server {{ listen 127.0.0.1:{status}; location = /status {{ stub_status; }} }}
  server {{
    listen 127.0.0.1:{port} backlog=1024; root {WORK}/www;
    location = /app/1k {{ return 200 "{"x" * 1024}"; }}
    location = /app/1m {{ }}
    location = /app/headers {{ return 200 '{{{shown}}}'; }}
  }}
}}
""")
    process = Process("backend", core, ["nginx", "-c", folder / "nginx.conf"])
    wait_for(process, [port, status])

    def counts() -> Counts:
        accepted, _handled, requests = map(int, get(status, "/status")[2].split(b"\n")[2].split())
        return Counts(accepted, requests)
    return Backend(port, counts)


def traffic(core: int) -> dict[str, Backend]:
    ports = {kind: Ports.take() for kind in ("http", "h2c", "chunks", "status")}
    process = Process("traffic", core, [TRAFFIC, "backend", *(f"--{kind}=127.0.0.1:{port}" for kind, port in ports.items())], GO_ONE)
    wait_for(process, list(ports.values()))

    def counts() -> Counts:
        return Counts(**json.loads(get(ports["status"], "/")[2]))
    return {kind: Backend(ports[flag], counts) for kind, flag in (("go", "http"), ("h2c", "h2c"), ("chunks", "chunks"))}


def temporary(folder) -> str:
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def wait_for(process: Process, ports: list[int]) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    for port in ports:
        while True:
            if process.child.poll() is not None:
                raise Failed(f"{process.name} ended at once: {process.said()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Failed(f"{process.name} doesn't listen on {port}: {process.said()}") from None
                time.sleep(0.02)
