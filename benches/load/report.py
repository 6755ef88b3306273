"""The report: Markdown tables, each with what came of its goals below it."""
import argparse
import datetime
import os
import platform
import re
import shutil
import statistics
import subprocess
from pathlib import Path

from cases import C_PEERS
from measure import ROOT
from modes import IDLE_SECONDS, Idle, Settings
from peers import Peer
from rounds import Outcome, median_of

LOG_US_MAX = 0.5            # of a worker's CPU for a line of the access log
REUSE_MIN = 0.999
LATENCY_RATIO_MAX = 1.0
IDLE_KIB_MAX = {False: 10, True: 20}  # over TLS or not
TITLES = {"nginx": "nginx", "haproxy": "HAProxy", "pingora": "Pingora"}


def whole(a: argparse.Namespace, peers: dict[str, Peer], outcomes: list[Outcome], latency: Outcome | None, workers: Settings | None, routes: Settings | None, idle: Idle | None) -> list[str]:
    lines = head(a, peers)
    for outcome in outcomes:
        lines += table(a, outcome)
    if latency:
        lines += latency_table(a, latency)
    for found in (workers, routes):
        if found:
            lines += settings_lines(found)
    if idle:
        lines += idle_table(idle)
    return lines


def caption(a: argparse.Namespace, peers: dict[str, Peer]) -> str:
    """Date, machine and versions, for below a plot."""
    lines = head(a, peers)
    return f"{lines[2]} {lines[4]}"


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
        f"{a.pairs} interleaved round{'s' if a.pairs > 1 else ''} of {a.duration} s; certificate {'ECDSA P-256' if a.key == 'ecdsa' else 'RSA 2048'}"
        + (f"; {a.rules:,} more rules in Portunus" if a.rules else "") + "." + (" One quick round: whether it works, not how fast it is." if a.quick else ""), "",
        f"{', '.join(versions)}, Python {platform.python_version()}; at commit {commit or 'none'}."]


def version(argv: list) -> str:
    try:
        ran = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    found = re.search(r"\d+\.\d+[\w.+~-]*", (ran.stdout + ran.stderr).replace(str(argv[0]), ""))  # Envoy prints its path, with Python's version
    return found[0] if found else "of unknown version"


# ---- the cases -------------------------------------------------------------------------------------------------------

def table(a: argparse.Namespace, outcome: Outcome) -> list[str]:
    unit = outcome.case.unit
    rows = [("", "runs", f"{unit}s/s", f"**CPU µs/{unit}**", "user", "system", "p50 ms", "p99 ms", "PSS MiB", "core used", "by others", f"CPU, {a.subject} : it")]
    for name, samples in outcome.samples.items():
        m = {what: outcome.median(name, what) for what in ("rate", "cpu_us", "user_us", "system_us", "p50_ms", "p99_ms", "pss_mib", "busy", "others")}
        ratios = outcome.ratios(name)
        rows.append((name, str(len(samples)), f"{m['rate']:,.0f}", f"**{m['cpu_us']:.1f}**", f"{m['user_us']:.1f}", f"{m['system_us']:.1f}", f"{m['p50_ms']:.2f}",
                     f"{m['p99_ms']:.2f}", f"{m['pss_mib']:.1f}", f"{m['busy']:.0%}", f"{m['others']:.0%}", median_of(ratios) if ratios else ""))
    below = failed(outcome.failures, outcome.case.name) + [line for line in (goal(outcome), log_cost(outcome), reuse(outcome)) if line]
    return ["", f"## {outcome.case.name}: {outcome.case.title}", "", *markdown(rows), *([""] if below else []), *below]


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|", *lines[1:]]


def failed(failures: dict[str, str], where: str) -> list[str]:
    return [f"- **{name} FAILED in {where}: {why}**" for name, why in failures.items()]


def verdict(reached: bool) -> str:
    return f"**{'reached' if reached else 'missed'}**"


def goal(outcome: Outcome) -> str:
    case, best = outcome.case, outcome.best()
    if outcome.subject != "portunus" or not case.goal or not best:
        return ""
    name, ratio = best
    whom = {C_PEERS: "the best of nginx and HAProxy", (): "the best peer"}.get(case.against) or " and ".join(TITLES[one] for one in case.against)
    line = f"- goal, at most {case.goal:.2f} times the CPU of {whom}: {verdict(ratio <= case.goal)}, {ratio:.2f} times that of {name}"
    if case.fallback:
        line += f"; bound where the goal isn't reached after everything was tried, {case.fallback:.2f}: {verdict(ratio <= case.fallback)}"
    return line + "."


def log_cost(outcome: Outcome) -> str:
    """What a line of the access log costs a worker, the log's own writer thread left out."""
    more = outcome.pairs("portunus-log", lambda one, other: other.threads_us.get("worker", 0.0) - one.threads_us.get("worker", 0.0)) if outcome.subject == "portunus" else []
    if not more:
        return ""
    writer = statistics.median(sample.threads_us.get("access-log", 0.0) for sample in outcome.samples["portunus-log"])
    dropped = sum(sample.dropped for sample in outcome.samples["portunus-log"])
    return (f"- the access log, on the worker alone, goal less than {LOG_US_MAX} µs: {verdict(statistics.median(more) < LOG_US_MAX)}, {median_of(more)} µs more a request "
            f"(and {writer:.2f} µs of its writer's thread); lines dropped: {dropped:,}.")


def reuse(outcome: Outcome) -> str:
    """How Portunus's own metrics say that requests found a connection, where that says something."""
    samples = [sample.upstream for sample in outcome.samples.get("portunus", []) if sample.upstream]
    if outcome.case.name not in ("h1", "grpc") or not samples:
        return ""
    sent, reused, opened = (sum(sample[what] for sample in samples) for what in ("requests", "reused", "connections"))
    share = reused / max(1, sent)
    return (f"- upstream connections, goal more than {REUSE_MIN:.1%} reused: {verdict(share > REUSE_MIN)}, {sent:,} requests by Portunus's metrics, {share:.4%} over an open connection, "
            f"{opened:,} connections opened under load" + (" (HTTP/2, shared by streams)." if outcome.case.backend == "h2c" else "."))


# ---- the rest ----------------------------------------------------------------------------------------------------------

def latency_table(a: argparse.Namespace, outcome: Outcome) -> list[str]:
    rows = [("", "runs", "requests/s", "p50 ms", "**p99 ms**", "**p99.9 ms**", "load late, p99 ms", "CPU µs/request", "core used", f"p99, {a.subject} : it", f"p99.9, {a.subject} : it")]
    for name, samples in outcome.samples.items():
        m = {what: outcome.median(name, what) for what in ("rate", "p50_ms", "p99_ms", "p999_ms", "late_ms", "cpu_us", "busy")}
        rows.append((name, str(len(samples)), f"{m['rate']:,.0f}", f"{m['p50_ms']:.3f}", f"**{m['p99_ms']:.3f}**", f"**{m['p999_ms']:.3f}**", f"{m['late_ms']:.3f}", f"{m['cpu_us']:.1f}",
                     f"{m['busy']:.0%}", *(median_of(found) if (found := outcome.ratios(name, what)) else "" for what in ("p99_ms", "p999_ms"))))
    below = failed(outcome.failures, "latency")
    for what, says in (("p99_ms", "p99"), ("p999_ms", "p99.9")):
        if outcome.subject == "portunus" and (best := outcome.best(what)):
            below.append(f"- {says}, goal no worse than the best peer's: {verdict(best[1] <= LATENCY_RATIO_MAX)}, {best[1]:.2f} times that of {best[0]}.")
    return ["", f"## latency: {outcome.case.title}", "", *markdown(rows), *([""] if below else []), *below]


def settings_lines(found: Settings) -> list[str]:
    lines = ["", f"## {found.title}", ""]
    if found.failures:
        return [*lines, *failed(found.failures, found.title.split(":")[0])]
    rows = [("", "runs", "CPU µs/request", "user", "system", "p50 ms", "p99 ms", "PSS MiB")]
    for label, samples in zip(found.labels, found.samples):
        m = {what: statistics.median(getattr(sample, what) for sample in samples) for what in ("cpu_us", "user_us", "system_us", "p50_ms", "p99_ms", "pss_mib")}
        rows.append((label, str(len(samples)), *(f"{m[what]:.1f}" for what in ("cpu_us", "user_us", "system_us")), f"{m['p50_ms']:.2f}", f"{m['p99_ms']:.2f}", f"{m['pss_mib']:.1f}"))
    ratio = statistics.median(found.ratios())
    return [*lines, *markdown(rows), "",
            f"- CPU per request of the second, goal at most {found.ratio_max} times that of the first: {verdict(ratio <= found.ratio_max)}, {median_of(found.ratios())} times."]


def idle_table(found: Idle) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in found.bytes_each))
    rows = [("KiB a connection", "HTTP/1.1", "over TLS")]
    rows += [(name, *(f"{found.bytes_each[name, tls] / 1024:.1f}" if (name, tls) in found.bytes_each else "FAILED" for tls in (False, True))) for name in names]
    below = failed(found.failures, "idle")
    for tls, says in ((False, "HTTP/1.1"), (True, "TLS")):
        if bytes_each := found.bytes_each.get(("portunus", tls)):
            kib = bytes_each / 1024
            below.append(f"- {says}, goal at most {IDLE_KIB_MAX[tls]} KiB: {verdict(kib <= IDLE_KIB_MAX[tls])}, {kib:.1f} KiB.")
    return ["", f"## idle: {found.connections:,} kept-alive connections that did a request each, {IDLE_SECONDS} s later", "", *markdown(rows), *([""] if below else []), *below]
