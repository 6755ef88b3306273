"""One run: a load on a started proxy, and whether it may become a figure.

It may only when every answer was right: the load tool saw no error, the bytes fit, the backend counted the same number of
requests over kept connections, and the proxy's processes are still the same.
"""
import re
import time
from dataclasses import dataclass

from backends import Backend
from cases import Case
from measure import TICKS, Cpu, Failed, Process, get, pss_mib
from peers import Place

WARM_UP_SECONDS = 1.0


@dataclass
class Sample:
    rate: float        # requests/s
    cpu_us: float      # the proxy's, per request
    user_us: float
    system_us: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_ms: float
    pss_mib: float     # in the middle of the load
    busy: float        # share of its core that the proxy used
    others: float      # share of it used by anything else: strangers, and the kernel's own work (2 to 5 % with large bodies)
    threads_us: dict   # by name: the CPU time per request
    opened: int        # connections to the backend during the load
    upstream: dict     # what Portunus's own metrics counted of the endpoint meanwhile; empty for others
    dropped: int = 0   # lines that Portunus's access log left out


def upstream_counts(metrics: int) -> dict[str, int]:
    text = get(metrics, "/metrics")[2]
    return {name.decode(): int(count) for name, count in re.findall(rb"^portunus_upstream_(requests|reused|connections)_total (\d+)", text, re.M)}


def run(process: Process, case: Case, place: Place, backend: Backend, cores: tuple[int, int], seconds: float, own_metrics: bool = False) -> Sample:
    proxy_core, load_core = cores
    warm = case.load(case, place.http, place.https, load_core, min(WARM_UP_SECONDS, seconds)).finish()
    if warm.wrong:
        raise Failed(f"warm-up: {warm.wrong}")
    time.sleep(0.1)
    own = upstream_counts(place.metrics) if own_metrics else {}
    counted, before = backend.counts(), Cpu.of(process, proxy_core)
    running = case.load(case, place.http, place.https, load_core, seconds)
    try:
        time.sleep(seconds * 0.6)
        pss = pss_mib(process)
        load = running.finish()
    finally:
        running.kill()
    after = Cpu.of(process, proxy_core)
    opened = backend.counts().since(counted, load, case)
    if load.wrong:
        raise Failed(load.wrong)
    if before.pids != after.pids:
        raise Failed(f"its processes changed during the load: {process.said()}")
    own_after = upstream_counts(place.metrics) if own_metrics else {}
    cpu_seconds, elapsed = (after.total_ns - before.total_ns) / 1e9, after.at - before.at
    idle_seconds = (after.idle_ticks - before.idle_ticks) / TICKS
    user, system = after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks
    cpu_us = cpu_seconds * 1e6 / load.requests
    user_us = cpu_us * user / max(1, user + system)
    return Sample(load.requests / load.seconds, cpu_us, user_us, cpu_us - user_us, load.p50_ms, load.p99_ms, load.p999_ms, load.late_ms, pss,
                  cpu_seconds / elapsed, max(0.0, 1 - (idle_seconds + cpu_seconds) / elapsed),
                  {name: (spent - before.threads_ns[name]) / 1e3 / load.requests for name, spent in after.threads_ns.items()},
                  opened, {name: count - own[name] for name, count in own_after.items()})
