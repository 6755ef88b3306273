#!/usr/bin/env python3
"""Portunus next to nginx, HAProxy, Envoy, Pingora, Traefik and Caddy: one core for the proxy, the other for the load and the backend.

One proxy runs at a time, started fresh for each run. Rounds go subject, peer, peer, subject, peer, peer, ...; a ratio is the
median over the rounds of CPU per request of the subject by that of a peer beside it. README.md tells how to read the output.
"""
import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ beside the sources

import modes
import plots
import report
from cases import CASES, DEFAULT, MODES, TRAFFIC
from measure import ROOT, WORK, Failed, Process
from peers import Peer, all_peers
from rounds import Bench, say

DEFAULT_PEERS = "portunus,portunus-log,portunus-filters,portunus-scrape,nginx,haproxy,haproxy-splice,envoy,pingora,traefik,caddy"


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=names, default=[*DEFAULT], help=f"of {','.join((*CASES, *MODES))} (default: all but resume)")
    parser.add_argument("--peers", type=names, default=names(DEFAULT_PEERS), help=f"of {DEFAULT_PEERS},baseline; portunus-log, portunus-filters and portunus-scrape run in h1 only, haproxy-splice in body only")
    parser.add_argument("--subject", default="portunus", help="the one whose ratios to the others are printed")
    parser.add_argument("--against", type=names, default=[], help="measured as often as the subject, beside it; the others once (default: what each case has its goal against)")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of subject and --against (default 7)")
    parser.add_argument("--duration", type=int, default=4, help="seconds of load a run (default 4)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: whether it works, not how fast it is")
    parser.add_argument("--portunus", default=str(ROOT / "target" / "release" / "portunus"), metavar="PATH")
    parser.add_argument("--baseline", metavar="PATH", help="another Portunus binary, the peer `baseline`, to compare a change with")
    parser.add_argument("--rules", type=int, default=0, metavar="N", help="that many more hosts with a rule each in Portunus's manifests")
    parser.add_argument("--key", choices=("ecdsa", "rsa"), default="ecdsa", help="certificate: ECDSA P-256 (default) or RSA 2048")
    parser.add_argument("--cores", default="0,1", metavar="PROXY,LOAD", help="default 0,1")
    parser.add_argument("--markdown", metavar="FILE", help="writes the report there too")
    parser.add_argument("--publish", action="store_true", help="writes docs/bench.md and the plots in docs/bench")
    a = parser.parse_args()
    a.cores = tuple(map(int, a.cores.split(",")))
    a.held = 10_000
    if a.quick:
        a.pairs, a.duration, a.held = 1, 1, 1_000
    if a.baseline and "baseline" not in a.peers:
        a.peers.append("baseline")
    if unknown := [name for name in a.cases if name not in CASES and name not in MODES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if a.duration < 1 or a.pairs < 1:
        parser.error("--duration and --pairs start at 1")
    if a.subject not in a.peers:
        parser.error(f"--peers leaves out {a.subject}, which all are compared with")
    if not set(a.cores) <= os.sched_getaffinity(0) or len(set(a.cores)) != 2:
        parser.error(f"needs two cores, one for the proxy and one for the load; has {sorted(os.sched_getaffinity(0))}")
    return a


def main() -> int:
    a = arguments()
    known = all_peers(a.portunus, a.baseline)
    for name in a.peers:
        if name not in known:
            sys.exit(f"no such peer: {name} (of {', '.join(known)})")
    missing = [tool for tool in ("nginx", "wrk", "h2load", "nghttp", "openssl", "taskset", "setpriv", TRAFFIC) if not shutil.which(tool)]
    missing += [f"{name} ({known[name].binary})" for name in a.peers if not (known[name].binary and os.access(known[name].binary, os.X_OK))]
    if missing:
        sys.exit(f"missing: {', '.join(map(str, missing))}; `benches/load/setup.sh` installs the tools and peers, `cargo build --release` Portunus")
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the children's too; `idle` holds ten thousand connections
    WORK.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {a.cores[1]})
    try:
        text, failed = measure_all(a, {name: known[name] for name in a.peers})
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)  # a second Ctrl-C must not leave children behind
        Process.stop_all()
    print(text)
    if a.markdown:
        Path(a.markdown).write_text(text + "\n")
    return 1 if failed else 0


def measure_all(a: argparse.Namespace, peers: dict[str, Peer]) -> tuple[str, bool]:
    """Runs everything; the report, and whether something failed."""
    bench = Bench(a, peers)
    say(f"{bench.planned} runs, about {bench.minutes} minutes")
    outcomes = [bench.rounds(CASES[name]) for name in a.cases if name in CASES]
    peaks = next((outcome.rates() for outcome in outcomes if outcome.case.name == "h1"), None)
    if {"latency", "workers"} & set(a.cases):
        peaks = peaks or modes.peaks(bench)
    found, lost = {}, []
    for name, measure in (("latency", lambda: modes.latency(bench, peaks)), ("workers", lambda: modes.workers(bench, peaks)),
                          ("routes", lambda: modes.routes(bench)), ("idle", lambda: modes.idle(bench))):
        try:
            found[name] = measure() if name in a.cases else None
        except Failed as error:
            found[name] = None
            lost.append(f"- **{name} FAILED: {error}**")
    (WORK / "last.json").write_text(json.dumps({"cases": {outcome.case.name: outcome.raw() for outcome in outcomes},
                                                **{name: one.raw() for name, one in found.items() if one}}, indent=1))
    lines = [*report.whole(a, peers, outcomes, *found.values()), *lost]
    if a.publish:
        drawn = plots.write(ROOT / "docs" / "bench", report.caption(a, peers), outcomes, found["latency"], found["idle"])
        images = [line for name, says in drawn for line in ("", f"![{says}](bench/{name})")]
        made = ["", "Written by `make bench`; [benches/load](../benches/load/README.md) says how to read it."]
        (ROOT / "docs" / "bench.md").write_text("\n".join([*lines[:5], *made, *images, *lines[5:]]) + "\n")
    return "\n".join(lines), bool(lost or [one for one in (*outcomes, *found.values()) if one and one.failures])


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    say(f"took {round(time.monotonic() - begun)} s")
    sys.exit(code)
