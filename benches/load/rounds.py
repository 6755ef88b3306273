"""The rounds of a case: who runs when, what came of it, and the ratios of the subject to those beside it."""
import argparse
import contextlib
import dataclasses
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backends import Ports, backends
from cases import CASES, CLIENT_OPENSSL, GRPC_MESSAGE, WRK_SCRIPT, Case
from measure import HOST, WORK, Failed, get
from peers import Peer, Place
from proof import start
from runs import Sample, run

RESTART_SECONDS = 2.8  # what a run takes besides its load: start, proof, warm-up, stop; only for the estimate
IDLE_SECONDS = 14      # what a cell of `idle` takes; likewise
PAIRED = 2             # peers beside the subject in every round


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Outcome:
    """What came of a case: samples by peer, those that failed, and whom the subject was measured beside in every round."""
    case: Case
    subject: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    against: list[str] = field(default_factory=list)

    def median(self, name: str, what: str) -> float:
        return statistics.median(getattr(sample, what) for sample in self.samples[name])

    def rates(self) -> dict[str, float]:
        return {name: self.median(name, "rate") for name in self.samples}

    def pairs(self, name: str, of: Callable[[Sample, Sample], float]) -> list[float]:
        """Something of the subject and another, both of one round, round by round."""
        return [of(one, other) for one, other in zip(self.samples.get(self.subject, []), self.samples.get(name, []))] if name != self.subject else []

    def ratios(self, name: str, what: str = "cpu_us") -> list[float]:
        return self.pairs(name, lambda one, other: getattr(one, what) / getattr(other, what))

    def best(self, what: str = "cpu_us") -> tuple[str, float] | None:
        """Who of those in every round the subject compares worst with, and the ratio."""
        medians = {name: statistics.median(found) for name in self.against if (found := self.ratios(name, what))}
        return max(medians.items(), key=lambda entry: entry[1]) if medians else None

    def raw(self) -> dict:
        return {"failures": self.failures, "against": self.against,
                "samples": {name: [vars(sample) for sample in samples] for name, samples in self.samples.items()}}


def median_of(pairs: list[float]) -> str:
    """A median with its spread."""
    spread = f" ({min(pairs):.2f} to {max(pairs):.2f})" if len(pairs) > 1 else ""
    return f"{statistics.median(pairs):.2f}{spread}"


class Bench:
    """The backends, the peers with a place each, and the runs that are still to come."""
    def __init__(self, a: argparse.Namespace, peers: dict[str, Peer]):
        self.a, self.peers = a, peers
        certificate, key = prepare(a.key)
        cases = [CASES[name] for name in a.cases if name in CASES]
        self.backends = backends(a.cores[1], {case.backend for case in cases})
        self.places = {}
        for name in peers:
            (WORK / name).mkdir(exist_ok=True)
            self.places[name] = Place(name, WORK / name, Ports.take(), Ports.take(), Ports.take(), certificate, key, a.rules)
        self.done = 0
        whole = [name for name, peer in peers.items() if not peer.cases]
        measured = sum(len(self.running(case)) + (a.pairs - 1) * self.paired_count(case) for case in cases)
        measured += len(whole) + (a.pairs - 1) * (1 + PAIRED) if "latency" in a.cases else 0
        measured += 2 * a.pairs * len({"workers", "routes"} & set(a.cases))
        measured += len(whole) if {"latency", "workers"} & set(a.cases) and "h1" not in a.cases else 0  # the peaks
        held = 2 * len(whole) if "idle" in a.cases else 0
        self.planned = measured + held
        self.minutes = round((measured * (a.duration + RESTART_SECONDS) + held * IDLE_SECONDS) / 60)

    def running(self, case: Case) -> list[str]:
        return [name for name, peer in self.peers.items() if not peer.cases or case.name in peer.cases]

    def paired_count(self, case: Case) -> int:
        variants = [name for name in self.running(case) if self.peers[name].cases or name == "baseline"]
        return 1 + len(variants) + len(set(self.a.against or case.against) & set(self.peers) or range(PAIRED))

    def place(self, name: str, kind: str, **changes) -> Place:
        return dataclasses.replace(self.places[name], backend=self.backends[kind].port, kind=kind, **changes)

    def sample(self, name: str, case: Case, seconds: float, cores: str | None = None, **changes) -> Sample | str:
        """One run of one proxy, started for it; or why it failed. `cores`: where the proxy may run, if not on its own."""
        self.done += 1
        place = self.place(name, case.backend, **changes)
        log = place.folder / "access.log"
        said = f"{self.done}/{self.planned} {case.name} {name}"
        try:
            process = start(self.peers[name], place, cores or self.a.cores[0])
            try:
                with scraping(place.metrics if name == "portunus-scrape" else None):
                    sample = run(process, case, place, self.backends[case.backend], self.a.cores, seconds, self.peers[name].ours)
                if name == "portunus-log":  # a log that leaves lines out is a cheaper log: to be said beside its figure
                    if not log.stat().st_size:
                        raise Failed("its access log is empty")
                    dropped = re.findall(rb"^portunus_access_log_dropped_total\S* (\d+)", get(place.metrics, "/metrics")[2], re.M)
                    sample.dropped = sum(map(int, dropped))
            finally:
                process.stop()
                log.unlink(missing_ok=True)  # up to a gigabyte
        except (Failed, OSError, ValueError) as error:
            say(f"{said} FAILED: {error}")
            return str(error) or type(error).__name__
        say(f"{said}: {sample.rate:,.0f}/s, {sample.cpu_us:.1f} us CPU, others {sample.others:.0%}")
        return sample

    def rounds(self, case: Case, names: list[str] | None = None, seconds: float | None = None) -> Outcome:
        outcome = Outcome(case, self.a.subject)
        names = names or self.running(case)
        for round_ in range(self.a.pairs):
            for name in self.order(outcome, names, round_):
                if name in outcome.failures:  # one failing run fails the cell; repeating it costs time and mends nothing
                    continue
                sample = self.sample(name, case, seconds or self.a.duration)
                if isinstance(sample, str):
                    outcome.failures[name] = sample
                    outcome.samples.pop(name, None)
                else:
                    outcome.samples.setdefault(name, []).append(sample)
            if round_ == 0:
                outcome.against = self.against(outcome)
        return outcome

    def against(self, outcome: Outcome) -> list[str]:
        """Whom the subject is measured beside from the second round on: as asked for, or the cheapest of the first."""
        fixed = [name for name in self.a.against or outcome.case.against if name in outcome.samples]
        others = [name for name in outcome.samples if not self.peers[name].cases and name not in (self.a.subject, "baseline")]
        what = "p99_ms" if outcome.case.name == "latency" else "cpu_us"
        return fixed or sorted(others, key=lambda name: outcome.median(name, what))[:PAIRED]

    def order(self, outcome: Outcome, names: list[str], round_: int) -> list[str]:
        """Who runs in this round: everybody in the first, then those compared, the variants and the baseline."""
        if round_ == 0:
            return names
        paired = [name for name in names if name in (self.a.subject, "baseline", *outcome.against) or self.peers[name].cases]
        # Every second round goes backwards, so that a machine that gets slower with time favours nobody.
        return paired[::-1] if round_ % 2 else paired


@contextlib.contextmanager
def scraping(port: int | None):
    """Reads the metrics ten times a second meanwhile, 150 times as often as Prometheus does, so that the cost shows."""
    if port is None:
        yield
        return
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.1):
            get(port, "/metrics")

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def prepare(key: str) -> tuple[Path, Path]:
    """Makes the certificate that every proxy serves, the files of the load tools and of the backend."""
    (WORK / "www" / "app").mkdir(parents=True, exist_ok=True)
    (WORK / "www" / "app" / "1m").write_bytes(b"x" * (1 << 20))
    (WORK / "wrk.lua").write_text(WRK_SCRIPT)
    (WORK / "grpc-message").write_bytes(GRPC_MESSAGE)
    (WORK / "client-openssl.cnf").write_text(CLIENT_OPENSSL)
    certificate, private = WORK / f"{key}.crt", WORK / f"{key}.key"
    algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if key == "ecdsa" else ["rsa:2048"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", *algorithm, "-keyout", private, "-out", certificate, "-days", "30",
                    "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"], check=True, capture_output=True, timeout=60)
    private.chmod(0o600)
    return certificate, private
