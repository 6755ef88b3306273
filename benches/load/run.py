#!/usr/bin/env python3
"""Portunus next to nginx, HAProxy, Envoy, Traefik and Caddy: one core for the proxy, the other for the load and the backend.

One proxy runs at a time, started fresh for each run. Rounds go subject, peer, peer, subject, peer, peer, ...; a ratio is the
median over the rounds of CPU per request of the subject by that of a peer beside it. README.md tells how to read the output.
"""
import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ beside the sources

from measure import CASES, ROOT, WORK, Failed, Process, Sample, get, run
from peers import Peer, Place, Ports, all_peers, backend, prepare, start

RESTART_SECONDS = 2.5  # what a run takes besides its load: start, proof, warm-up, stop; only for the estimate
DEFAULT_PEERS = "portunus,portunus-log,portunus-filters,portunus-scrape,nginx,haproxy,haproxy-splice,envoy,traefik,caddy"


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=names, default=names("h1,tls,h2,handshake,body"), help=f"of {','.join(CASES)} (default: all but resume)")
    parser.add_argument("--peers", type=names, default=names(DEFAULT_PEERS), help=f"of {DEFAULT_PEERS},baseline; portunus-log, portunus-filters and portunus-scrape run in h1 only, haproxy-splice in body only")
    parser.add_argument("--subject", default="portunus", help="the one whose ratios to the others are printed")
    parser.add_argument("--against", type=names, default=names("nginx,haproxy"), help="measured as often as the subject, beside it; the others once")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of subject and --against (default 7)")
    parser.add_argument("--duration", type=int, default=4, help="seconds of load a run (default 4)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: whether it works, not how fast it is")
    parser.add_argument("--portunus", default=str(ROOT / "target" / "release" / "portunus"), metavar="PATH")
    parser.add_argument("--baseline", metavar="PATH", help="another Portunus binary, the peer `baseline`, to compare a change with")
    parser.add_argument("--rules", type=int, default=0, metavar="N", help="that many more hosts with a rule each in Portunus's manifests")
    parser.add_argument("--key", choices=("ecdsa", "rsa"), default="ecdsa", help="certificate: ECDSA P-256 (default) or RSA 2048")
    parser.add_argument("--cores", default="0,1", metavar="PROXY,LOAD", help="default 0,1")
    parser.add_argument("--markdown", metavar="FILE", help="writes the report there too")
    a = parser.parse_args()
    a.cores = tuple(map(int, a.cores.split(",")))
    if a.quick:
        a.pairs, a.duration = 1, 1
    if a.baseline and "baseline" not in a.peers:
        a.peers.append("baseline")
        a.against.append("baseline")
    if unknown := [name for name in a.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if a.duration < 1 or a.pairs < 1:
        parser.error("--duration and --pairs start at 1")
    if not set(a.cores) <= os.sched_getaffinity(0) or len(set(a.cores)) != 2:
        parser.error(f"needs two cores, one for the proxy and one for the load; has {sorted(os.sched_getaffinity(0))}")
    return a


def main() -> int:
    a = arguments()
    known = all_peers(a.portunus, a.baseline)
    for name in a.peers:
        if name not in known:
            sys.exit(f"no such peer: {name} (of {', '.join(known)})")
    missing = [tool for tool in ("nginx", "wrk", "h2load", "nghttp", "openssl", "taskset", "setpriv") if not shutil.which(tool)]
    missing += [f"{name} ({known[name].binary})" for name in a.peers if not (known[name].binary and os.access(known[name].binary, os.X_OK))]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; `benches/load/setup.sh` installs the tools and peers, `cargo build --release` Portunus")
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    WORK.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {a.cores[1]})
    try:
        report, failed = bench(a, {name: known[name] for name in a.peers})
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)  # a second Ctrl-C must not leave children behind
        Process.stop_all()
    print(report)
    if a.markdown:
        Path(a.markdown).write_text(report + "\n")
    return 1 if failed else 0


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


def bench(a: argparse.Namespace, peers: dict[str, Peer]) -> tuple[str, bool]:
    certificate, key = prepare(a.key)
    _, backend_port, status_port = backend(a.cores[1])
    places = {}
    for name in peers:
        (WORK / name).mkdir(exist_ok=True)
        places[name] = Place(name, WORK / name, backend_port, Ports.take(), Ports.take(), Ports.take(), certificate, key, a.rules)
    plan = [(case, order(a, case, peers, round_)) for case in a.cases for round_ in range(a.pairs)]
    runs = sum(len(names) for _, names in plan)
    say(f"{runs} runs, about {round(runs * (a.duration + RESTART_SECONDS) / 60)} minutes")
    results: dict[tuple[str, str], list[Sample]] = {}
    failures: dict[tuple[str, str], str] = {}
    dropped: list[bytes] = []
    done = 0
    for case, names in plan:
        for name in names:
            done += 1
            if (case, name) in failures:  # one failing run fails the cell; repeating it costs time and mends nothing
                continue
            try:
                process = start(peers[name], places[name], a.cores[0])
                try:
                    with scraping(places[name].metrics if name == "portunus-scrape" else None):
                        sample = run(process, CASES[case], places[name].http, places[name].https, status_port, a.cores, a.duration)
                    if name == "portunus-log":  # a log that leaves lines out is a cheaper log: to be said beside its figure
                        if not (WORK / name / "access.log").stat().st_size:
                            raise Failed("its access log is empty")
                        dropped += re.findall(rb"^portunus_access_log_dropped_total\S* (\d+)", get(places[name].metrics, "/metrics")[2], re.M)
                finally:
                    process.stop()
                    (WORK / name / "access.log").unlink(missing_ok=True)  # up to a gigabyte
            except (Failed, OSError, ValueError) as error:
                failures[case, name] = str(error)
                say(f"{done}/{runs} {case} {name} FAILED: {error}")
                continue
            results.setdefault((case, name), []).append(sample)
            say(f"{done}/{runs} {case} {name}: {sample.rate:,.0f}/s, {sample.cpu_us:.1f} us CPU, others {sample.others:.0%}")
    raw = {f"{case} {name}": [vars(sample) for sample in samples] for (case, name), samples in results.items()}
    (WORK / "last.json").write_text(json.dumps(raw, indent=1))
    lines = [*head(a, peers), *(line for case in a.cases for line in table(a, case, peers, results, failures))]
    if dropped:
        lines += ["", f"Access log lines dropped by portunus-log, run by run: {', '.join(count.decode() for count in dropped)}."]
    return "\n".join(lines), bool(failures)


def order(a: argparse.Namespace, case: str, peers: dict[str, Peer], round_: int) -> list[str]:
    """Who runs in this round: those compared and the variants always, the others in the first."""
    names = [name for name, peer in peers.items() if not peer.cases or case in peer.cases]
    paired = [name for name in names if name in (a.subject, *a.against) or peers[name].cases]
    # Every second round goes backwards, so that a machine that gets slower with time favours nobody.
    return (paired[::-1] if round_ % 2 else paired) + ([name for name in names if name not in paired] if round_ == 0 else [])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the report --------------------------------------------------------------------------------------------------------

def head(a: argparse.Namespace, peers: dict[str, Peer]) -> list[str]:
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    versions = [f"{name} {version([peer.binary, *peer.version])}" for name, peer in peers.items() if not peer.cases]
    versions += [f"{tool} {version([tool, option])}" for tool, option in (("wrk", "-v"), ("h2load", "--version"), ("openssl", "version"))]
    git = ["git", "--no-optional-locks", "-C", ROOT, "describe", "--always", "--dirty"]  # takes no lock that a commit meanwhile would trip over
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return [
        "# Load bench", "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, Linux {platform.release()}, {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.2f}. Proxy on core {a.cores[0]}, load and backend on core {a.cores[1]}. "
        f"{a.pairs} interleaved rounds of {a.duration} s; certificate {'ECDSA P-256' if a.key == 'ecdsa' else 'RSA 2048'}"
        + (f"; {a.rules} more rules in Portunus" if a.rules else "") + ".", "",
        f"{', '.join(versions)}, Python {platform.python_version()}; at commit {commit or 'none'}."]


def version(argv: list) -> str:
    try:
        ran = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    found = re.search(r"\d+\.\d+[\w.+~-]*", (ran.stdout + ran.stderr).replace(str(argv[0]), ""))  # Envoy prints its path, with Python's version
    return found[0] if found else "of unknown version"


def table(a: argparse.Namespace, case: str, peers: dict[str, Peer], results: dict, failures: dict) -> list[str]:
    rows = [("", "runs", "requests/s", "**CPU µs/request**", "user", "system", "p50 ms", "p99 ms", "PSS MiB", "core used", "by others", f"CPU, {a.subject} : it", "goal")]
    bodies = []
    for name in order(a, case, peers, 0):
        if (case, name) in failures:
            bodies.append(f"- **{name} FAILED in {case}: {failures[case, name]}**")
            rows.append((name, "FAILED", *[""] * 11))
            continue
        samples = results[case, name]
        m = {key: statistics.median(vars(sample)[key] for sample in samples) for key in vars(samples[0])}
        rows.append((name, str(len(samples)), f"{m['rate']:,.0f}", f"**{m['cpu_us']:.1f}**", f"{m['user_us']:.1f}", f"{m['system_us']:.1f}", f"{m['p50_ms']:.2f}",
                     f"{m['p99_ms']:.2f}", f"{m['pss_mib']:.1f}", f"{m['busy']:.0%}", f"{m['others']:.0%}", *ratio(a, case, name, results)))
    if verdict := goal(a, case, results):
        bodies.append(verdict)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|")
    return ["", f"## {case}: {CASES[case].title}", "", *lines, *([""] if bodies else []), *bodies]


def ratios(a: argparse.Namespace, case: str, name: str, results: dict) -> list[float]:
    ours, theirs = results.get((case, a.subject), []), results.get((case, name), [])
    return [one.cpu_us / other.cpu_us for one, other in zip(ours, theirs)] if name != a.subject else []


def ratio(a: argparse.Namespace, case: str, name: str, results: dict) -> tuple[str, str]:
    found = ratios(a, case, name, results)
    if not found:
        return "", ""
    limit = CASES[case].goal if a.subject == "portunus" and name in ("nginx", "haproxy") else None
    spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
    return f"{statistics.median(found):.2f}{spread}", f"<= {limit:.2f}" if limit else ""


def goal(a: argparse.Namespace, case: str, results: dict) -> str:
    medians = {name: statistics.median(found) for name in ("nginx", "haproxy") if (found := ratios(a, case, name, results))}
    limit = CASES[case].goal
    if a.subject != "portunus" or not limit or not medians:
        return ""
    better = max(medians, key=medians.get)
    compared = f"{medians[better]:.2f} times the CPU of {better}" + (", the better of the two" if len(medians) == 2 else "")
    return f"- goal, at most {limit:.2f} times the better of nginx and HAProxy: **{'reached' if medians[better] <= limit else 'missed'}**, {compared}."


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    say(f"took {round(time.monotonic() - begun)} s")
    sys.exit(code)
