"""What is measured beside the cost of a request at full load: latency at a constant rate, the cost of a second worker and
of many rules, and the memory of connections that are only held. The same proxies at the same places, started fresh for each run."""
import dataclasses
import os
import select
import subprocess
import time
from dataclasses import dataclass, field

from cases import CASES, GO_ONE, TRAFFIC, Case, traffic
from measure import HOST, Failed, pss_mib
from proof import start
from rounds import Bench, Outcome, say
from runs import Sample

PEAK_OF = ("nginx", "haproxy")  # beside the subject: half of the lowest of their peaks is everybody's rate
SHARE = 0.5                     # of the peak
HEADROOM = 1.2                  # a proxy whose peak isn't that many times the rate is left out: it would only measure its own queue
LATENCY_SECONDS_MIN = 8         # so that the slowest in a thousand are many
WORKERS_RATIO_MAX = 1.05
ROUTES = (100, 100_000)
ROUTES_RATIO_MAX = 1.05
IDLE_SECONDS = 3                # from the last request to the second look at the memory
OPENING_SECONDS_MAX = 120


def peaks(bench: Bench) -> dict[str, float]:
    """Requests/s at full load, for everybody, where `h1` hasn't found them."""
    names = [name for name, peer in bench.peers.items() if not peer.cases]
    found = {name: bench.sample(name, CASES["h1"], bench.a.duration) for name in names}
    return {name: sample.rate for name, sample in found.items() if isinstance(sample, Sample)}


def constant(bench: Bench, peaks: dict[str, float], name: str, title: str) -> tuple[Case, int]:
    """A case at half of the lowest peak of the subject and the C proxies, and the rate."""
    of = [peaks[one] for one in (bench.a.subject, *PEAK_OF) if one in peaks]
    if not of:
        raise Failed("no peak of the subject, nginx or HAProxy could be measured")
    rate = int(min(of) * SHARE)
    return dataclasses.replace(CASES["h1"], name=name, title=title.format(f"{rate:,}"), load=traffic("rate", 32, "--rate", rate), goal=None, fallback=None, against=()), rate


# ---- latency at half of the peak load ----------------------------------------------------------------------------------

def latency(bench: Bench, peaks: dict[str, float]) -> Outcome:
    case, rate = constant(bench, peaks, "latency", "1 KiB GET over HTTP/1.1 at a constant {} requests/s (32 connections, measured from when each was due)")
    names = [name for name, peer in bench.peers.items() if not peer.cases and peaks.get(name, 0) >= HEADROOM * rate]
    outcome = bench.rounds(case, names, max(LATENCY_SECONDS_MIN, bench.a.duration) if not bench.a.quick else bench.a.duration)
    for name in (name for name, peer in bench.peers.items() if not peer.cases and name not in names):
        say(f"latency {name}: left out, its peak is {peaks.get(name, 0):,.0f}/s")
    return outcome


# ---- one setting beside another ----------------------------------------------------------------------------------------

@dataclass
class Settings:
    """The subject with two settings in turns: CPU per request with the second is to be at most `ratio_max` of that with the first."""
    title: str
    labels: tuple[str, str]
    ratio_max: float
    samples: tuple[list[Sample], list[Sample]] = field(default_factory=lambda: ([], []))
    failures: dict[str, str] = field(default_factory=dict)

    def ratios(self) -> list[float]:
        return [second.cpu_us / first.cpu_us for first, second in zip(*self.samples)]

    def raw(self) -> dict:
        return {"title": self.title, "failures": self.failures, **{label: [vars(sample) for sample in samples] for label, samples in zip(self.labels, self.samples)}}

    def measure(self, bench: Bench, case: Case, changes: tuple[dict, dict], cores: str | None = None) -> "Settings":
        for round_ in range(bench.a.pairs):
            for one in (0, 1) if round_ % 2 == 0 else (1, 0):
                sample = bench.sample(bench.a.subject, case, bench.a.duration, cores, **changes[one])
                if isinstance(sample, str):
                    self.failures[self.labels[one]] = sample
                    return self
                self.samples[one].append(sample)
        return self


def ours(bench: Bench, what: str) -> None:
    if not bench.peers[bench.a.subject].ours:
        raise Failed(f"{bench.a.subject} has no {what}")


def workers(bench: Bench, peaks: dict[str, float]) -> Settings:
    """At the same rate, on both cores each time, so that only the setting differs."""
    subject = bench.a.subject
    if not bench.peers[subject].scales:
        raise Failed(f"nobody has said how {subject} is told its workers")
    case, rate = constant(bench, peaks, "workers", "at a constant {} requests/s")
    found = Settings(f"workers: {subject} with two beside one, both on both cores, at a constant {rate:,} requests/s", ("one worker", "two workers"), WORKERS_RATIO_MAX)
    return found.measure(bench, case, ({"workers": 1}, {"workers": 2}), ",".join(map(str, bench.a.cores)))


def routes(bench: Bench) -> Settings:
    """At full load, one rule asked for."""
    ours(bench, "manifests of ours")
    few, many = ROUTES
    case = dataclasses.replace(CASES["h1"], name="routes", goal=None, fallback=None, against=())
    found = Settings(f"routes: Portunus with {many:,} rules beside {few:,}, {case.title}", (f"{few:,} rules", f"{many:,} rules"), ROUTES_RATIO_MAX)
    return found.measure(bench, case, ({"rules": few}, {"rules": many}))


# ---- connections that are held -----------------------------------------------------------------------------------------

@dataclass
class Idle:
    """Bytes of the proxy's memory (PSS) for each held connection, by (peer, whether over TLS)."""
    connections: int
    bytes_each: dict[tuple[str, bool], float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def raw(self) -> dict:
        return {"connections": self.connections, "failures": self.failures,
                "bytes_each": {f"{name}{' tls' if tls else ''}": bytes_ for (name, tls), bytes_ in self.bytes_each.items()}}


def idle(bench: Bench) -> Idle:
    found = Idle(bench.a.held)
    for name in (name for name, peer in bench.peers.items() if not peer.cases):
        for tls in (False, True):
            bench.done += 1
            said = f"{bench.done}/{bench.planned} idle {name}{' over TLS' if tls else ''}"
            try:
                bytes_each = held(bench, name, tls)
            except (Failed, OSError, ValueError) as error:
                found.failures[f"{name}{' over TLS' if tls else ''}"] = str(error)
                say(f"{said} FAILED: {error}")
                continue
            found.bytes_each[name, tls] = bytes_each
            say(f"{said}: {bytes_each / 1024:.1f} KiB a connection")
    return found


def held(bench: Bench, name: str, tls: bool) -> float:
    count = bench.a.held
    # Without more rules: what a large start has freed would take in the connections, and they would look smaller than they are.
    place = bench.place(name, "nginx", held=True, rules=0)
    process = start(bench.peers[name], place, bench.a.cores[0])
    client = None
    try:
        before = pss_mib(process)
        argv = ["taskset", "-c", bench.a.cores[1], TRAFFIC, "hold", "--target", f"127.0.0.1:{place.https if tls else place.http}", "--host", HOST,
                "--path", "/app/1k", "--bytes", 1024, "--connections", count, *(["--tls"] if tls else [])]
        client = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, argv)], env={**os.environ, **GO_ONE}, text=True, start_new_session=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        expect(client, "ready")
        time.sleep(IDLE_SECONDS)
        after = pss_mib(process)
        client.stdin.write("again\n")
        client.stdin.flush()
        expect(client, "held")  # all are still there, and answer
        return (after - before) * (1 << 20) / count
    finally:
        if client and client.poll() is None:
            client.kill()
            client.wait()
        process.stop()


def expect(client: subprocess.Popen, word: str) -> None:
    if not select.select([client.stdout], [], [], OPENING_SECONDS_MAX)[0]:
        raise Failed(f"no `{word}` from the connections' holder in {OPENING_SECONDS_MAX} s")
    if (line := client.stdout.readline().strip()) != word:
        raise Failed(line or "the connections' holder ended")

