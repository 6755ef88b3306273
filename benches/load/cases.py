"""The cases: what is asked for, by which load, from which backend, and the goal. Each load says what it saw as a `Load`."""
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import HERE, HOST, WORK, Failed

TRAFFIC = WORK / "traffic" / "traffic"
GO_ONE = {"GOMAXPROCS": "1"}  # one OS thread runs Go code at a time: Go's way to say one worker
MESSAGE_BYTES = 128   # of an echo: small, so that the cost is the message's and not its bytes'
CHUNKED_BYTES = 256   # of an answer in 1-byte chunks; traffic/backend.go has the same number


@dataclass
class Load:
    """What a load tool saw. `wrong` is empty only when every answer was right."""
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    wrong: str = ""
    p999_ms: float = 0.0
    late_ms: float = 0.0  # p99 of what the load itself was late by; constant rates only


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    path: str
    body_bytes: int          # of a right answer
    load: Callable           # (case, http port, https port, core, seconds) -> a started Running
    goal: float | None       # at most this many times the CPU of the best in `against`
    fallback: float | None = None  # the bound where the goal isn't reached after everything was tried
    against: tuple[str, ...] = ()  # measured in every round, beside the subject; empty: the two cheapest of the first round
    tls: bool = False
    backend: str = "nginx"   # or `go`, `chunks`: HTTP/1.1, or `h2c`: gRPC; all of traffic/
    unit: str = "request"
    sent_bytes: int = 0      # of a request's body


class Running:
    """Started load tools; `finish` waits, bounded, and returns what they saw."""
    def __init__(self, seconds: float, commands: list[list], parse, env: dict | None = None):
        env = {**os.environ, "OPENSSL_CONF": str(WORK / "client-openssl.cnf"), **(env or {})}
        self.parse, self.deadline = parse, time.monotonic() + seconds + 10
        self.children = [subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, argv)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          text=True, start_new_session=True) for argv in commands]

    def finish(self) -> Load:
        try:
            return self.parse([child.communicate(timeout=max(0.1, self.deadline - time.monotonic()))[0] for child in self.children])
        except subprocess.TimeoutExpired:
            raise Failed("the load did not end in time") from None
        finally:
            self.kill()

    def kill(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()


# Resolves every name to loopback, so that SNI and Host carry the real name; prints exact numbers instead of rounded ones.
WRK_SCRIPT = """
wrk.resolve = function(host, service) wrk.addrs = wrk.lookup("127.0.0.1", service) end
function init(args)
  if args[1] then
    wrk.method, wrk.body = "POST", string.rep("x", tonumber(args[1]))
  end
end
done = function(s, latency)
  local e = s.errors
  io.write(string.format('\\nRESULT {"requests":%d,"us":%d,"bytes":%d,"p50":%d,"p99":%d,"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\\n',
    s.requests, s.duration, s.bytes, latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write, e.timeout, e.status))
end
"""

# One cipher suite and one group for everybody, chosen by the client: servers that prefer others would measure AES-256 against AES-128.
CLIENT_OPENSSL = """openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
MinProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""

# A gRPC message: no compression, its length, its bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
GRPC_MESSAGE = bytes([0, *MESSAGE_BYTES.to_bytes(4, "big")]) + b"x" * MESSAGE_BYTES


def wrk(connections: int, *extra):
    def start(case: Case, http_port: int, https_port: int, core: int, seconds: float) -> Running:
        url = f"https://{HOST}:{https_port}{case.path}" if case.tls else f"http://{HOST}:{http_port}{case.path}"
        body = ["--", case.sent_bytes] if case.sent_bytes else []
        return Running(seconds, [["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "8s",
                                  "-s", WORK / "wrk.lua", "-H", f"Host: {HOST}", *extra, url, *body]], lambda outputs: parse(case, outputs[0]))

    def parse(case: Case, output: str) -> Load:
        if not (found := re.search(r"^RESULT (.*)$", output, re.M)):
            raise Failed(f"wrk: {output.strip()[-300:]}")
        r = json.loads(found[1])
        wrong = {what: count for what, count in r["errors"].items() if count}
        if r["bytes"] < r["requests"] * case.body_bytes:
            wrong["bytes"] = f"{r['bytes']} for {r['requests']} requests"
        return Load(r["requests"], r["us"] / 1e6, r["p50"] / 1e3, r["p99"] / 1e3, str(wrong or ""))
    return start


def h2load(connections: int, streams: int, *extra):
    def start(case: Case, _http_port: int, https_port: int, core: int, seconds: float) -> Running:
        log = WORK / "h2load.tsv"
        log.unlink(missing_ok=True)
        return Running(seconds, [["taskset", "-c", core, "h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{max(1, round(seconds))}",
                                  "--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519", f"--log-file={log}", *extra,
                                  f"--connect-to=127.0.0.1:{https_port}", f"https://{HOST}{case.path}"]],
                       lambda outputs: parse(case, outputs[0], log))

    def parse(case: Case, output: str, log: Path) -> Load:
        done = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
        data, seconds = re.search(r"\((\d+)\) data", output), re.search(r"finished in ([\d.]+)(m?s)", output)
        if not (done and codes and data and seconds) or "Application protocol: h2" not in output:
            raise Failed(f"h2load: {output.strip()[-300:]}")
        succeeded, wrong = int(done[1]), []
        if any(map(int, (*done.groups()[1:], *codes.groups()[1:]))):
            wrong.append(f"{done[0]}; {codes[0]}")
        if int(data[1]) < succeeded * case.body_bytes:
            wrong.append(f"{data[1]} bytes of bodies for {succeeded} requests")
        taken = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
        return Load(succeeded, float(seconds[1]) / (1000 if seconds[2] == "ms" else 1), percentile(taken, 50), percentile(taken, 99), "; ".join(wrong))
    return start


def handshakes(clients: int):
    def start(case: Case, _http_port: int, https_port: int, core: int, seconds: float) -> Running:
        begin = time.monotonic() + 0.3  # until all interpreters are up
        argv = ["taskset", "-c", core, sys.executable, HERE / "handshakes.py", https_port, HOST, case.path, case.body_bytes, begin, seconds]
        return Running(seconds, [argv] * clients, lambda outputs: parse(outputs, seconds))

    def parse(outputs: list[str], seconds: float) -> Load:
        try:
            answers = [json.loads(output) for output in outputs]
        except json.JSONDecodeError:
            raise Failed(f"handshakes.py: {outputs[0].strip()[-300:]}") from None
        taken = sorted(us for answer in answers for us in answer["latencies"])
        return Load(len(taken), seconds, percentile(taken, 50), percentile(taken, 99),
                    "; ".join(failure for answer in answers for failure in answer["failures"]))
    return start


def traffic(command: str, connections: int, *extra):
    """The Go client: echoes (`stream`, `ws`) and constant rates (`rate`)."""
    def start(case: Case, http_port: int, https_port: int, core: int, seconds: float) -> Running:
        port = https_port if case.tls else http_port
        return Running(seconds, [["taskset", "-c", core, TRAFFIC, command, "--target", f"127.0.0.1:{port}", "--host", HOST, "--path", case.path,
                                  "--bytes", case.body_bytes, "--connections", connections, "--seconds", seconds, *extra]],
                       lambda outputs: parse(outputs[0]), GO_ONE)

    def parse(output: str) -> Load:
        try:
            r = json.loads(output)
        except json.JSONDecodeError:
            raise Failed(f"traffic {command}: {output.strip()[-300:]}") from None
        return Load(r["requests"], r["seconds"], r["p50"] / 1e3, r["p99"] / 1e3, r["wrong"], r["p999"] / 1e3, r["late_p99"] / 1e3)
    return start


def percentile(sorted_us: list[int], percent: int) -> float:
    return sorted_us[min(len(sorted_us) - 1, len(sorted_us) * percent // 100)] / 1e3 if sorted_us else 0.0


C_PEERS = ("nginx", "haproxy")
GRPC = ("--header=content-type: application/grpc", "--header=te: trailers", f"--data={WORK / 'grpc-message'}")

CASES = {case.name: case for case in (
    Case("h1", "kept-alive 1 KiB GET over HTTP/1.1 (wrk, 32 connections)", "/app/1k", 1024, wrk(32), 0.95, 1.05, C_PEERS),
    Case("tls", "kept-alive 1 KiB GET over HTTP/1.1 and TLS 1.3 (wrk, 32 connections)", "/app/1k", 1024, wrk(32), 0.80, 1.05, C_PEERS, tls=True),
    Case("h2", "1 KiB GET over HTTP/2 and TLS 1.3 (h2load, 8 connections x 8 streams)", "/app/1k", 1024, h2load(8, 8), 0.95, 1.10, C_PEERS, tls=True),
    Case("handshake", "a new TLS 1.3 connection per 1 KiB GET, full handshakes (handshakes.py, 4 clients)", "/app/1k", 1024, handshakes(4), 0.80, 1.05,
         ("pingora",), tls=True),
    Case("body", "1 MiB bodies over HTTP/1.1 (wrk, 16 connections)", "/app/1m", 1 << 20, wrk(16), 0.80, 1.05),
    Case("grpc", f"unary gRPC, {MESSAGE_BYTES} bytes there and back; HTTP/2 with TLS 1.3 to the proxy, without to the backend (h2load, 8 connections x 8 streams)",
         "/app/Echo", len(GRPC_MESSAGE), h2load(8, 8, *GRPC), 1.10, tls=True, backend="h2c"),
    Case("grpc-stream", f"bidirectional gRPC streams, echoes of {MESSAGE_BYTES} bytes (traffic, 8 connections x 8 streams)",
         "/app/Stream", MESSAGE_BYTES, traffic("stream", 8, "--streams", 8), 1.10, tls=True, backend="h2c", unit="message"),
    Case("websocket", f"WebSocket echoes of {MESSAGE_BYTES} bytes over HTTP/1.1 (traffic, 32 connections)",
         "/app/ws", MESSAGE_BYTES, traffic("ws", 32), 1.10, backend="go", unit="message"),
    Case("post10k", "POST of 10 KiB over HTTP/1.1 (wrk, 32 connections)", "/app/post", 10, wrk(32), 1.10, backend="go", sent_bytes=10 << 10),
    Case("post10m", "POST of 10 MiB over HTTP/1.1 (wrk, 8 connections)", "/app/post", 10, wrk(8), 1.10, backend="go", sent_bytes=10 << 20),
    Case("chunks", f"{CHUNKED_BYTES} bytes in 1-byte chunks, each in a write of its own (wrk, 32 connections)",
         "/app/chunks", CHUNKED_BYTES, wrk(32), 1.10, backend="chunks"),
    Case("burst", f"{CHUNKED_BYTES} bytes in 1-byte chunks, all in one write (wrk, 32 connections)", "/app/burst", CHUNKED_BYTES, wrk(32), 1.10, backend="chunks"),
    Case("resume", "a new TLS 1.3 connection per 1 KiB GET, sessions resumed (wrk, 16 connections)", "/app/1k", 1024,
         wrk(16, "-H", "Connection: close"), None, against=C_PEERS, tls=True),
)}
# What more is measured of the same proxies; modes.py.
MODES = ("latency", "workers", "routes", "idle")
DEFAULT = (*(name for name in CASES if name != "resume"), *MODES)
