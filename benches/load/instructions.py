#!/usr/bin/env python3
"""User instructions per request, counted by callgrind: the same on a busy machine, so a difference of one percent is one.

Each proxy runs under valgrind and gets two loads of a fixed number of requests; the difference of the two counts, divided by that
of the requests, leaves out the start, the connections and the handshakes. What the kernel does isn't counted, and the
clock is cheaper or dearer than here by what the vDSO saves: this compares code, run.py compares costs.
"""
import argparse
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ beside the sources

import backends
import proof
from backends import Ports
from measure import HOST, ROOT, WORK, Failed, Process
from peers import Peer, Place, all_peers
from rounds import prepare

# Under valgrind everything takes fifty times as long.
backends.START_SECONDS_MAX = proof.WORK_SECONDS_MAX = 120
LOAD_SECONDS_MAX = 300
Ports.next = 24_700  # so that run.py may run at the same time: it doesn't disturb counts
TLS = ["--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519"]
CASES = {  # name -> whether over TLS, h2load's arguments; as many requests are under way as in run.py's h2, where it matters
    "h1": (False, ["--h1", "-c8", "-m1"]),
    "tls": (True, ["--h1", "-c8", "-m1", *TLS]),
    "h2": (True, ["-c8", "-m8", *TLS]),
}


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=names, default=list(CASES), help=f"of {','.join(CASES)} (default: all)")
    parser.add_argument("--peers", type=names, default=names("portunus,portunus-log,portunus-filters,nginx,haproxy"), help="as run.py has them (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="requests that are counted (default 2000)")
    parser.add_argument("--portunus", default=str(ROOT / "target" / "profiling" / "portunus"), metavar="PATH", help="by `cargo build --profile profiling`")
    parser.add_argument("--baseline", metavar="PATH", help="another Portunus binary, the peer `baseline`, to compare a change with")
    parser.add_argument("--by-function", type=int, nargs="?", const=25, default=0, metavar="COUNT", help="Portunus's dearest functions too (default 25), with what they call and without")
    parser.add_argument("--cores", default="0,1", metavar="PROXY,LOAD", help="default 0,1")
    a = parser.parse_args()
    a.cores = tuple(map(int, a.cores.split(",")))
    if a.baseline and "baseline" not in a.peers:
        a.peers.append("baseline")
    if unknown := [name for name in a.cases if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if a.requests < 100:
        parser.error("--requests starts at 100")
    return a


def main() -> int:
    a = arguments()
    known = all_peers(a.portunus, a.baseline)
    if unknown := [name for name in a.peers if name not in known]:
        sys.exit(f"no such peer: {', '.join(unknown)} (of {', '.join(known)})")
    missing = [tool for tool in ("valgrind", "vgdb", "callgrind_annotate", "h2load", "nginx", "openssl", "taskset", "setpriv") if not shutil.which(tool)]
    missing += [f"{name} ({known[name].binary})" for name in a.peers if not (known[name].binary and os.access(known[name].binary, os.X_OK))]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; `benches/load/setup.sh` installs the tools, `cargo build --profile profiling` makes Portunus")
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda number, _: sys.exit(128 + number))
    WORK.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {a.cores[1]})
    try:
        return count_all(a, {name: known[name] for name in a.peers})
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.SIG_IGN)
        Process.stop_all()


def count_all(a: argparse.Namespace, chosen: dict[str, Peer]) -> int:
    certificate, key = prepare("ecdsa")
    behind = backends.nginx(a.cores[1])
    print(f"User instructions per request, {a.requests} requests of 1 KiB counted, 8 connections (h2: of 8 streams), {version('valgrind')}.\n")
    print("| case | proxy | **worker** | its other threads | portunus : it |\n|---|---|--:|--:|--:|", flush=True)
    failed, functions = False, []
    for case in a.cases:
        subject = None
        for name, peer in chosen.items():
            if peer.cases and case not in peer.cases:
                continue
            (WORK / name).mkdir(exist_ok=True)
            place = Place(name, WORK / name, Ports.take(), Ports.take(), Ports.take(), certificate, key, backend=behind.port)
            try:
                worker, others, dump = count(a, case, peer, place)
            except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
                failed = True
                print(f"| {case} | {name} | FAILED: {error} | | |", flush=True)
                continue
            subject = worker if name == "portunus" else subject
            ratio = f"{subject / worker:.3f}" if subject and name != "portunus" else ""
            print(f"| {case} | {name} | **{worker:,.0f}** | {others:,.0f} | {ratio} |", flush=True)
            if a.by_function and name.startswith(("portunus", "baseline")):
                functions.append(by_function(f"{name}, {case}", dump, a.requests // 3 + a.requests, a.by_function))
    print(*functions, sep="\n")
    return 1 if failed else 0


def version(tool: str) -> str:
    return subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout.strip()


# ---- counting --------------------------------------------------------------------------------------------------------

def count(a: argparse.Namespace, case: str, peer: Peer, place: Place) -> tuple[float, float, Path]:
    """Instructions per request of the busiest thread and of all others, and the dump with the busiest one's functions."""
    out = place.folder / "callgrind"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    callgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={out}/%p", f"--vgdb-prefix={out}/vgdb"]
    # vgdb finds no children.
    alone = ["-g", "master_process off;"] if peer.name == "nginx" else []
    traced = dataclasses.replace(peer, configure=lambda p: callgrind + peer.configure(p) + alone)
    process = proof.start(traced, place, a.cores[0])
    try:
        pid = process.child.pid
        load(case, a.requests // 3, place, a.cores[1])  # warm: connections to the backend are open, buffers have their size
        dump(pid, out)
        few = counted(case, a.requests // 3, place, a.cores[1], pid, out)
        many = counted(case, a.requests // 3 + a.requests, place, a.cores[1], pid, out)
    finally:
        process.stop()
        (place.folder / "access.log").unlink(missing_ok=True)
    per_thread = {thread: (many[thread][0] - few.get(thread, (0, None))[0]) / a.requests for thread in many}
    busiest = max(per_thread, key=per_thread.get)
    return per_thread[busiest], sum(per_thread.values()) - per_thread[busiest], many[busiest][1]


def counted(case: str, requests: int, place: Place, core: int, pid: int, out: Path) -> dict[int, tuple[int, Path]]:
    """Instructions by thread while so many requests were answered, and the dump that says so."""
    load(case, requests, place, core)
    return dump(pid, out)


def load(case: str, requests: int, place: Place, core: int) -> None:
    tls, arguments = CASES[case]
    port = place.https if tls else place.http
    answered = subprocess.run(
        ["taskset", "-c", str(core), "h2load", "-t1", f"-n{requests}", *arguments, f"--connect-to=127.0.0.1:{port}", f"http{'s' if tls else ''}://{HOST}/app/1k"],
        capture_output=True, text=True, timeout=LOAD_SECONDS_MAX)
    if not re.search(rf"^status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx$", answered.stdout, re.M):
        raise Failed(f"h2load: {(answered.stdout + answered.stderr).strip()[-300:]}")


def dump(pid: int, out: Path) -> dict[int, tuple[int, Path]]:
    """Has callgrind write down what it counted since the last time, thread by thread, and begin from nothing."""
    before = set(out.iterdir())
    subprocess.run(["vgdb", f"--vgdb-prefix={out}/vgdb", f"--pid={pid}", "dump"], check=True, capture_output=True, text=True, timeout=60)
    threads = {}
    for path in set(out.iterdir()) - before:
        if (named := re.search(r"-(\d+)$", path.name)) and (total := re.search(r"^totals: (\d+)", path.read_text(), re.M)):
            threads[int(named[1])] = (int(total[1]), path)
    if not threads:
        raise Failed(f"callgrind wrote nothing into {out}")
    return threads


# ---- by function -------------------------------------------------------------------------------------------------------

def by_function(title: str, dump: Path, requests: int, count: int) -> str:
    lines = ["", f"{title}: instructions per request by function; connecting is in it"]
    for inclusive, what in (("no", "by itself"), ("yes", "with what it calls")):
        text = subprocess.run(["callgrind_annotate", "--auto=no", "--threshold=100", f"--inclusive={inclusive}", dump], capture_output=True, text=True, check=True).stdout
        rows = re.findall(r"^\s*([\d,]+) \([\s\d.]+%\)\s+(?:[^\s:]*:)?(.*?)(?: \[[^]]*\])?$", text, re.M)
        functions: dict[str, int] = {}  # a function has a row for each file that something inlined into it comes from
        for instructions, function in rows:
            if instructions != rows[0][0]:  # the total, and all of it for what ran from before the load to after it
                functions[function] = functions.get(function, 0) + int(instructions.replace(",", ""))
        dearest = sorted(functions.items(), key=lambda item: -item[1])[:count]
        lines += ["", what, "", *(f"{instructions / requests:9,.0f}  {function[:150]}" for function, instructions in dearest)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
