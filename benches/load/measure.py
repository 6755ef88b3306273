"""Processes, their CPU time and their memory: what is measured of every proxy, and how.

CPU time is read from the process clock of every process of the proxy's tree (nanoseconds, all threads, also those that
have ended), before and after the load; divided by the requests that the load counted, it is the one figure that a noisy
machine hardly moves. The split into user and system is the kernel's, sampled at its tick; that by threads is its scheduler's.
"""
import contextlib
import http.client
import os
import re
import signal
import subprocess
import time
from collections import Counter
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
    """A child pinned to one core (or several: "0,1"). It can't outlive this script: ended by pid, by the kernel if the script is killed."""
    running: list["Process"] = []

    def __init__(self, name: str, core: int | str, argv: list, env: dict | None = None):
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
    threads_ns: Counter  # by name, of those that are still there

    @staticmethod
    def of(process: Process, core: int) -> "Cpu":
        pids = process.tree()
        # (~pid << 3) | 2 is the kernel's clock id of a process's CPU time (clock_getcpuclockid(3), CPUCLOCK_SCHED).
        total = sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)
        stats = [stat(pid) for pid in pids]
        line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
        return Cpu(pids, total, sum(int(s[11]) for s in stats), sum(int(s[12]) for s in stats), sum(map(int, line.split()[4:6])), time.monotonic(), threads_ns(pids))


def threads_ns(pids: list[int]) -> Counter:
    """CPU time of the threads by their names, a pool's numbers left out (`worker-0` is a `worker`)."""
    spent = Counter()
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # ended meanwhile
                spent[re.sub(r"-\d+$", "", (task / "comm").read_text().strip())] += int((task / "schedstat").read_text().split()[0])
    return spent


def pss_mib(process: Process) -> float:
    """Proportional set size: memory shared between the processes of the tree counts once."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in process.tree()]
    return sum(int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) for text in texts) / 1024


def get(port: int, path: str, host: str = HOST, tls=None, body: bytes | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = (http.client.HTTPConnection("127.0.0.1", port, timeout=5) if tls is None
                  else http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=tls))
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
