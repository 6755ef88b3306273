"""Processes, their CPU time and memory, and the load: everything that is the same for every proxy.

CPU time is read from the process clock of every process of the proxy's tree (nanoseconds, all threads, also those that
have ended), before and after the load; divided by the requests that the load counted, it is the one figure that a noisy
machine hardly moves. The split into user and system is the kernel's, sampled at its tick. A run counts only when every answer
was right: the load tool saw no error, the bytes fit, and the backend counted the same number of requests over kept connections.
"""
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "bench"
HOST = "bench.example"  # reserved by RFC 6761: names nobody's machine, the load tools are told to connect to loopback
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 3
WARM_UP_SECONDS = 1.0


class Failed(Exception):
    """A run that must not become a figure; the text says what was wrong."""


# ---- processes -------------------------------------------------------------------------------------------------------

class Process:
    """A child pinned to one core. It can't outlive this script: ended by pid, by the kernel if the script is killed."""
    running: list["Process"] = []

    def __init__(self, name: str, core: int, argv: list, env: dict | None = None):
        self.name, self.log = name, WORK / f"{name}.log"
        with self.log.open("wb") as log:
            # A session of its own, so that Ctrl-C reaches only this script, which then stops its children in order.
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, argv)], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env={**os.environ, **(env or {})}, start_new_session=True)
        Process.running.append(self)

    def said(self) -> str:
        return " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])[-400:]

    def tree(self) -> list[int]:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # ended meanwhile
                    parents[int(entry.name)] = int(stat(int(entry.name))[1])
        pids = [self.child.pid]
        for pid in pids:  # grows while it is walked: breadth first
            pids += [child for child, parent in parents.items() if parent == pid]
        return pids

    def stop(self) -> None:
        if self not in Process.running:
            return
        Process.running.remove(self)
        pids = self.tree() if self.child.poll() is None else []
        for sign in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # the second one cuts a graceful drain short
            if self.child.poll() is None:
                self.child.send_signal(sign)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.child.wait(STOP_SECONDS_MAX)
        for pid in pids[1:]:  # children that a killed parent left behind; they have our session's id, so no stranger is hit
            with contextlib.suppress(OSError):
                if int(stat(pid)[3]) == self.child.pid:
                    os.kill(pid, signal.SIGKILL)

    @staticmethod
    def stop_all() -> None:
        for process in reversed(Process.running[:]):
            process.stop()


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: [0] state, [1] parent, [3] session, [11] utime, [12] stime."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


@dataclass
class Cpu:
    pids: list[int]
    total_ns: int
    user_ticks: int
    system_ticks: int
    idle_ticks: int  # of the whole core; exact, unlike its busy time, which the kernel samples
    at: float        # seconds

    @staticmethod
    def of(process: Process, core: int) -> "Cpu":
        pids = process.tree()
        # (~pid << 3) | 2 is the kernel's clock id of a process's CPU time (clock_getcpuclockid(3), CPUCLOCK_SCHED).
        total = sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)
        stats = [stat(pid) for pid in pids]
        line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
        return Cpu(pids, total, sum(int(s[11]) for s in stats), sum(int(s[12]) for s in stats), sum(map(int, line.split()[4:6])), time.monotonic())


def pss_mib(process: Process) -> float:
    """Proportional set size: memory shared between the processes of the tree counts once."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in process.tree()]
    return sum(int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) for text in texts) / 1024


def get(port: int, path: str, host: str = HOST, tls=None, headers: dict | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = (http.client.HTTPConnection("127.0.0.1", port, timeout=5) if tls is None
                  else http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=tls))
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


# ---- load ------------------------------------------------------------------------------------------------------------

@dataclass
class Load:
    """What a load tool saw. `wrong` is empty only when every answer was right."""
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    wrong: str = ""


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    goal: float | None  # at most this many times the CPU of the better of nginx and HAProxy
    path: str
    body_bytes: int
    load: Callable      # (case, http port, https port, core, seconds) -> a started Running
    tls: bool = False


class Running:
    """Started load tools; `finish` waits, bounded, and returns what they saw."""
    def __init__(self, seconds: float, commands: list[list], parse):
        env = {**os.environ, "OPENSSL_CONF": str(WORK / "client-openssl.cnf")}
        self.parse, self.deadline = parse, time.monotonic() + seconds + 10
        self.children = [subprocess.Popen([*map(str, argv)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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


def wrk(connections: int, *extra):
    def start(case: Case, http_port: int, https_port: int, core: int, seconds: float) -> Running:
        url = f"https://{HOST}:{https_port}{case.path}" if case.tls else f"http://{HOST}:{http_port}{case.path}"
        return Running(seconds, [["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", WORK / "wrk.lua",
                                  "-H", f"Host: {HOST}", *extra, url]], lambda outputs: parse(case, outputs[0]))

    def parse(case: Case, output: str) -> Load:
        if not (found := re.search(r"^RESULT (.*)$", output, re.M)):
            raise Failed(f"wrk: {output.strip()[-300:]}")
        r = json.loads(found[1])
        wrong = {what: count for what, count in r["errors"].items() if count}
        if r["bytes"] < r["requests"] * case.body_bytes:
            wrong["bytes"] = f"{r['bytes']} for {r['requests']} requests"
        return Load(r["requests"], r["us"] / 1e6, r["p50"] / 1e3, r["p99"] / 1e3, str(wrong or ""))
    return start


def h2load(connections: int, streams: int):
    def start(case: Case, _http_port: int, https_port: int, core: int, seconds: float) -> Running:
        log = WORK / "h2load.tsv"
        log.unlink(missing_ok=True)
        return Running(seconds, [["taskset", "-c", core, "h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{max(1, round(seconds))}",
                                  "--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519", f"--log-file={log}",
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


def percentile(sorted_us: list[int], percent: int) -> float:
    return sorted_us[min(len(sorted_us) - 1, len(sorted_us) * percent // 100)] / 1e3 if sorted_us else 0.0


CASES = {case.name: case for case in (
    Case("h1", "kept-alive 1 KiB GET over HTTP/1.1 (wrk, 32 connections)", 1.20, "/app/1k", 1024, wrk(32)),
    Case("tls", "kept-alive 1 KiB GET over HTTP/1.1 and TLS 1.3 (wrk, 32 connections)", 1.20, "/app/1k", 1024, wrk(32), tls=True),
    Case("h2", "1 KiB GET over HTTP/2 and TLS 1.3 (h2load, 8 connections x 8 streams)", 1.40, "/app/1k", 1024, h2load(8, 8), tls=True),
    Case("handshake", "a new TLS 1.3 connection per 1 KiB GET, full handshakes (handshakes.py, 4 clients)", 1.20, "/app/1k", 1024, handshakes(4), tls=True),
    Case("body", "1 MiB bodies over HTTP/1.1 (wrk, 16 connections)", 1.20, "/app/1m", 1 << 20, wrk(16)),
    Case("resume", "a new TLS 1.3 connection per 1 KiB GET, sessions resumed (wrk, 16 connections)", None, "/app/1k", 1024,
         wrk(16, "-H", "Connection: close"), tls=True),
)}


# ---- one run ---------------------------------------------------------------------------------------------------------

@dataclass
class Sample:
    rate: float        # requests/s
    cpu_us: float      # the proxy's, per request
    user_us: float
    system_us: float
    p50_ms: float
    p99_ms: float
    pss_mib: float     # in the middle of the load
    busy: float        # share of its core that the proxy used
    others: float      # share of it used by anything else: strangers, and the kernel's own work (2 to 5 % with large bodies)


def backend_counts(status_port: int) -> tuple[int, int]:
    """(connections accepted, requests) since nginx began."""
    accepted, _handled, requests = map(int, get(status_port, "/status")[2].split(b"\n")[2].split())
    return accepted, requests


def run(process: Process, case: Case, http_port: int, https_port: int, status_port: int, cores: tuple[int, int], seconds: float) -> Sample:
    proxy_core, load_core = cores
    warm = case.load(case, http_port, https_port, load_core, min(WARM_UP_SECONDS, seconds)).finish()
    if warm.wrong:
        raise Failed(f"warm-up: {warm.wrong}")
    time.sleep(0.1)
    (accepted, served), before = backend_counts(status_port), Cpu.of(process, proxy_core)
    running = case.load(case, http_port, https_port, load_core, seconds)
    try:
        time.sleep(seconds * 0.6)
        pss = pss_mib(process)
        load = running.finish()
    finally:
        running.kill()
    after, (accepted_after, served_after) = Cpu.of(process, proxy_core), backend_counts(status_port)
    if load.wrong:
        raise Failed(load.wrong)
    if before.pids != after.pids:
        raise Failed(f"its processes changed during the load: {process.said()}")
    # What was under way at the end may be missing in the load's count; anything more means retries, a cache or wrong counting.
    if not load.requests or abs(served_after - served - load.requests) > 0.01 * load.requests + 100:
        raise Failed(f"the load counted {load.requests} requests, the backend {served_after - served}")
    if accepted_after - accepted > 0.1 * load.requests + 100:
        raise Failed(f"{accepted_after - accepted} upstream connections for {load.requests} requests: not kept alive")
    cpu_seconds, elapsed = (after.total_ns - before.total_ns) / 1e9, after.at - before.at
    idle_seconds = (after.idle_ticks - before.idle_ticks) / TICKS
    user, system = after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks
    cpu_us = cpu_seconds * 1e6 / load.requests
    user_us = cpu_us * user / max(1, user + system)
    return Sample(load.requests / load.seconds, cpu_us, user_us, cpu_us - user_us, load.p50_ms, load.p99_ms, pss,
                  cpu_seconds / elapsed, max(0.0, 1 - (idle_seconds + cpu_seconds) / elapsed))
