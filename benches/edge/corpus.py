#!/usr/bin/env python3
"""Who forwards what: sends tests/corpus to Portunus, nginx, HAProxy, Envoy, Traefik and Caddy, set up as for the load bench
(benches/load/peers.py), with a backend that keeps every byte, a host whose pages have moved, and 404 for any other; writes
the table of docs/security/requests.md.

Each request is sent alone, with another behind it in the same write, over a connection of its own; the proxy's connections to
the backend live on from one to the next. PORTUNUS_BENCH names the folder of benches/load/setup.sh, if it isn't target/bench.
"""
import argparse
import datetime
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches" / "load"))

import measure  # noqa: E402

if "PORTUNUS_BENCH" in os.environ:
    measure.WORK = Path(os.environ["PORTUNUS_BENCH"]).resolve()
measure.HOST = "a.test"  # what the corpus asks for

import peers  # noqa: E402
from backends import Ports, wait_for  # noqa: E402
from measure import Failed, Process  # noqa: E402

try:
    import yaml
except ImportError:
    sys.exit("corpus.py needs PyYAML: python3 -m venv V && V/bin/pip install PyYAML, and run this by V/bin/python")

NAMES = ("portunus", "nginx", "haproxy", "envoy", "traefik", "caddy")
FILES = ("lengths", "chunks", "hosts", "targets", "fields", "hops", "ends")
PLAIN = ("/app/behind", "/app/second")  # requests that stand in plain sight behind an entry
BEHIND = b"GET /app/behind HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
QUIET_SECONDS = 1.0    # without a byte: the client says that it is done
PATIENCE_SECONDS = 5.0  # and then, before it is called hung


# ---- the corpus ------------------------------------------------------------------------------------------------------

def unfold(text: str) -> bytes:
    return re.sub(r"\{\{(.*?)\*(\d+)\}\}", lambda m: m[1] * int(m[2]), text, flags=re.S).encode("latin-1")


def entries() -> list[dict]:
    return [{**entry, "topic": name, "send": unfold(entry["send"])} for name in FILES
            for entry in yaml.safe_load((ROOT / "tests" / "corpus" / f"{name}.yaml").read_text())]


# ---- the backend: keeps what came on each connection, and answers what it can read ------------------------------------

@dataclass
class Request:
    method: str
    target: str
    fields: list[tuple[str, bytes]]
    body: bytes = b""
    strict: list[str] = field(default_factory=list)  # what a strict parser would not have taken

    def all(self, name: str) -> list[bytes]:
        return [value for other, value in self.fields if other == name]


class Backend:
    """One connection in, all its requests out; what can't be read ends it."""

    def __init__(self):
        self.requests: list[Request] = []
        self.broken: list[bytes] = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", Ports.take()), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        unread = b""
        with connection:
            while True:
                try:
                    taken = read(unread)
                except ValueError:
                    with self.lock:
                        self.broken.append(unread)
                    return
                if taken:
                    request, length = taken
                    unread = unread[length:]
                    with self.lock:
                        self.requests.append(request)
                    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Backend: 1\r\n\r\n"
                    try:
                        connection.sendall(answer)
                    except OSError:
                        return
                    continue
                try:
                    more = connection.recv(65536)
                except OSError:
                    return
                if not more:
                    return
                unread += more

    def take(self) -> tuple[list[Request], list[bytes]]:
        with self.lock:
            taken = self.requests, self.broken
            self.requests, self.broken = [], []
            return taken


TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def line_of(data: bytes, at: int) -> tuple[bytes, int] | None:
    end = data.find(b"\n", at)
    return None if end < 0 else (data[at:end + 1], end + 1)


def fields_of(data: bytes, at: int, wrong: list[str]) -> tuple[list[tuple[str, bytes]], int] | None:
    fields = []
    while True:
        if not (taken := line_of(data, at)):
            return None
        line, at = taken
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            wrong.append("a bare CR or LF")
        line = line.rstrip(b"\r\n")
        if not line:
            return fields, at
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            wrong.append(f"the line {line[:40]!r}")
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            wrong.append(f"a control byte in {name[:40]!r}")
        fields.append((name.strip().lower().decode("latin-1"), value.strip(b" \t")))


def read(data: bytes) -> tuple[Request, int] | None:
    """A request as an ordinary backend reads it, and what a strict one would say to it."""
    if not data or not (taken := line_of(data, 0)):
        return None
    wrong: list[str] = []
    line, at = taken
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        wrong.append("a bare CR or LF")
    words = line.rstrip(b"\r\n").split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise ValueError("no request line")
    if not TOKEN.fullmatch(words[0]):
        wrong.append("the method")
    if not re.match(rb"/|[A-Za-z][A-Za-z0-9+.-]*://", words[1]) or re.search(rb"[\x00-\x20\x7f#]", words[1]):
        wrong.append("the target")
    if not (taken := fields_of(data, at, wrong)):
        return None
    fields, at = taken
    request = Request(words[0].decode("latin-1"), words[1].decode("latin-1"), fields, strict=wrong)
    codings, lengths = [coding.lower() for coding in request.all("transfer-encoding")], request.all("content-length")
    if len(request.all("host")) != 1:
        wrong.append(f"{len(request.all('host'))} Hosts")
    if codings and (codings != [b"chunked"] or lengths) or len(lengths) > 1:
        wrong.append(f"framing {codings + lengths}")
    if codings:
        while True:
            if not (taken := line_of(data, at)):
                return None
            line, at = taken
            size = line.rstrip(b"\r\n")
            if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size) or not line.endswith(b"\r\n"):
                wrong.append(f"the chunk size {size[:20]!r}")
            digits = re.match(rb"[0-9a-fA-F]+", size)
            if not digits:
                raise ValueError("no chunk size")
            if (count := int(digits[0], 16)) == 0:
                if not (taken := fields_of(data, at, wrong)):
                    return None
                return request, taken[1]
            if len(data) < at + count + 2:
                return None
            request.body += data[at:at + count]
            if data[at + count:at + count + 2] != b"\r\n":
                raise ValueError("no end of a chunk")
            at += count + 2
    if lengths:
        if not lengths[0].isdigit():
            raise ValueError("no length")
        if len(data) < at + int(lengths[0]):
            return None
        request.body = data[at:at + int(lengths[0])]
        at += int(lengths[0])
    return request, at


# ---- the client ------------------------------------------------------------------------------------------------------

def converse(port: int, entry: dict) -> tuple[list[int], str]:
    """The statuses of the answers, and how the connection ended: closed, reset or hung."""
    data = entry["send"] + (b"" if entry.get("cut") else BEHIND)
    answers, ended = b"", "hung"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(data)
            if entry.get("cut"):
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it stopped reading; its answer counts
        connection.settimeout(QUIET_SECONDS)
        finished = bool(entry.get("cut"))
        while True:
            try:
                more = connection.recv(65536)
            except TimeoutError:
                if finished:
                    break
                finished = True
                connection.settimeout(PATIENCE_SECONDS)
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                continue
            except OSError:
                ended = "reset"
                break
            if not more:
                ended = "closed"
                break
            answers += more
    return statuses(answers, entry), ended


def statuses(data: bytes, entry: dict) -> list[int]:
    """Of all final answers. Those of proxies may be of any form; one to HEAD has no body."""
    found, at = [], 0
    methods = [message["method"] for message in entry.get("forwarded", [])]
    while match := re.compile(rb"HTTP/[\d.]+ (\d{3})[^\r\n]*\r\n(?:([^\r\n][^\n]*\n)*)\r\n", re.M).search(data, at):
        head, status = match[0].lower(), int(match[1])
        at = match.end()
        if status < 200:
            continue
        to_head = len(found) < len(methods) and methods[len(found)] == "HEAD"
        found.append(status)
        if length := re.search(rb"\r\ncontent-length:\s*(\d+)", head):
            at += 0 if to_head else int(length[1])
    return found


# ---- the verdict -----------------------------------------------------------------------------------------------------

def as_required(message: dict, request: Request) -> bool:
    if (request.method, request.target) != (message["method"], message["target"]) or request.body != unfold(message.get("body", "")) or request.strict:
        return False
    if any(request.all(name) != [unfold(value)] for name, value in message.get("has", {}).items()):
        return False
    if any(request.all(name) for name in message.get("lacks", [])):
        return False
    return not any(text.encode("latin-1") in value for text in message.get("never", []) for _, value in request.fields)


def others(entry: dict) -> list:
    return [*([entry["or"]] if "or" in entry else []), *entry.get("also", [])]


def verdict(entry: dict, answered: list[int], ended: str, seen: list[Request], broken: list[bytes]) -> tuple[str, bool]:
    """What the table says, and whether the RFC allows it."""
    wanted, also = entry.get("forwarded", []), others(entry)
    smuggled = [request for request in seen if request.target.startswith("/app/evil")]
    own = [request for request in seen if request.target not in PLAIN]
    behind = len(own) < len(seen)
    refusals = [status for status in answered if status >= 300]
    # Where the body's end is in doubt, nothing behind it can be trusted to be a request.
    if entry["topic"] == "ends":
        in_doubt = "forwarded" not in also
    else:
        in_doubt = entry["topic"] in ("lengths", "chunks") or entry["rfc"].startswith(("9112 6", "9112 7"))
    if smuggled or broken:
        return "**smuggled**" if smuggled else "**broken upstream**", False
    if malformed := [what for request in own for what in request.strict]:
        return f"**malformed upstream**: {malformed[0]}".replace("|", "\\|"), False
    if not own:
        text = str(refusals[0]) if refusals else ended
        # What may be refused may be so by any status, and without a word.
        may_refuse = not wanted or any(isinstance(other, int) for other in also)
        fine = text in map(str, also) or (may_refuse and text != "hung")
        return (f"{text}, then went on", fine and not in_doubt) if behind and not wanted else (text, fine)
    if not wanted:
        return "forwarded", "forwarded" in also
    if len(own) == len(wanted) and all(as_required(message, request) for message, request in zip(wanted, own)):
        stays = not (entry.get("ends") or entry.get("then") or entry.get("cut"))
        if behind and not stays:
            refused = bool(entry.get("then") and refusals) and not in_doubt
            return "as required, then went on", refused or "forwarded" in also
        return "as required" if behind or not stays else "as required, then closed", True
    return "forwarded otherwise", "forwarded" in also


# ---- the run ---------------------------------------------------------------------------------------------------------

def run(name: str, peer: peers.Peer, corpus: list[dict], certificate: Path, key: Path) -> list[tuple[str, bool]]:
    backend = Backend()
    folder = measure.WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    place = peers.Place(name, folder, Ports.take(), Ports.take(), Ports.take(), certificate, key, backend=backend.port, moved="moved.test")
    process = Process(name, "0,1", peer.configure(place), peer.env)
    results = []
    try:
        wait_for(process, [place.http, place.metrics])
        ready = {"send": b"", "name": "", "forwarded": []}
        for _ in range(50):
            if converse(place.http, ready)[0] == [200]:
                break
        else:
            raise Failed(f"{name} does not forward: {process.said()}")
        backend.take()
        for entry in corpus:
            answered, ended = converse(place.http, entry)
            results.append(verdict(entry, answered, ended, *backend.take()))
            if process.child.poll() is not None:
                raise Failed(f"{name} ended at {entry['name']!r}: {process.said()}")
    finally:
        process.stop()
    return results


def version(peer: peers.Peer) -> str:
    done = subprocess.run([str(peer.binary), *peer.version], capture_output=True, text=True, timeout=20)
    # Envoy says which commit first, and where it lies.
    found = re.search(r"/(\d+\.\d+\.\d+)/Clean|(?<![\w.])v?(\d+\.\d+(?:\.\d+)?)", done.stdout + done.stderr)
    return next((group for group in found.groups() if group), "?") if found else "?"


def required(entry: dict) -> str:
    if (status := entry.get("refused")) is not None:
        text = str(status)
    else:
        text = "forward" + (f" {len(entry['forwarded'])}" if len(entry["forwarded"]) > 1 else "")
        text += f", then {entry['then']}" if entry.get("then") else ", then close" if entry.get("ends") else ""
    return text + (f" (or {', '.join(map(str, others(entry)))})" if others(entry) else "")


TITLES = {"lengths": "Lengths of bodies", "chunks": "Chunks and trailers", "hosts": "Hosts", "targets": "Request lines", "fields": "Fields", "hops": "Connections, forwarding, what follows",
          "ends": "Behind an answer of the proxy's own"}


def table(corpus: list[dict], results: dict[str, list], versions: dict[str, str]) -> str:
    """The page, with what was found today."""
    names = list(results)
    lines = [
        "# Requests: who forwards what", "",
        f"Written by `benches/edge/corpus.py` on {datetime.date.today()}: every request of [tests/corpus](../../tests/corpus/README.md), sent over cleartext HTTP/1.1 to "
        + ", ".join(f"{name} {versions[name]}" for name in names)
        + ", each set up as in `benches/load/peers.py` (for speed, with its own defaults for what it takes; several have stricter settings), with a backend that keeps what it gets. A second request follows each in the same write.",
        "", "Cells: the status of a refusal, or of another answer of the proxy's own; `closed`, `reset` or `hung` without one; `as required`, and `forwarded otherwise` if the backend got it in another form than Portunus sends (as an absolute target left as it is, a field that Portunus drops, a path that isn't normalised); `then went on` where what stands behind was forwarded too, though Portunus leaves it. ✗ marks what neither the corpus nor, by its reading of the RFC, an alternative allows, among which are all that the RFC only advises against, and any status for what may be refused; **malformed upstream** is what a strict backend refuses, **broken upstream** what no backend can read, **smuggled** a request that the client had hidden in another.",
        "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names),
    ]
    count = lambda name, test: sum(1 for result in results[name] if test(result))  # noqa: E731
    for title, test in (("as the corpus allows", lambda r: r[1]), ("otherwise", lambda r: not r[1]), ("malformed or broken upstream, smuggled", lambda r: r[0].startswith("**"))):
        lines.append(f"| {title} | " + " | ".join(str(count(name, test)) for name in names) + " |")
    topic = None
    for index, entry in enumerate(corpus):
        if entry["topic"] != topic:
            topic = entry["topic"]
            lines += ["", f"## {TITLES[topic]}", "", "| request | RFC | required | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
        cells = [text + ("" if fine else " ✗") for text, fine in (results[name][index] for name in names)]
        lines.append(f"| {entry['name']} | {entry['rfc']} | {required(entry)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portunus", default=str(ROOT / "target" / "release" / "portunus"), metavar="PATH")
    parser.add_argument("--peers", default=",".join(NAMES))
    parser.add_argument("--show", action="store_true", help="prints what is not as the corpus allows")
    parser.add_argument("--write", action="store_true", help="writes docs/security/requests.md")
    a = parser.parse_args()
    corpus = entries()
    known = peers.all_peers(a.portunus, None)
    chosen = {name: known[name] for name in a.peers.split(",")}
    if missing := [name for name, peer in chosen.items() if not peer.binary or not shutil.which(peer.binary)]:
        sys.exit(f"not there: {', '.join(missing)}; benches/load/setup.sh gets them")
    measure.WORK.mkdir(parents=True, exist_ok=True)
    certificate, key = measure.WORK / "edge.crt", measure.WORK / "edge.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate,
                    "-days", "30", "-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test"], check=True, capture_output=True)
    # Ports are taken one after the other; the proxies run side by side, as nothing is measured.
    results = {}
    for name, peer in chosen.items():
        results[name] = run(name, peer, corpus, certificate, key)
        fine = sum(1 for result in results[name] if result[1])
        print(f"{name}: {fine} of {len(corpus)} as the corpus allows", flush=True)
        for entry, (text, allowed) in zip(corpus, results[name]):
            if a.show and not allowed:
                print(f"  {entry['name']}: {text}, not {required(entry)}")
    if a.write:
        page = ROOT / "docs" / "security" / "requests.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(table(corpus, results, {name: version(peer) for name, peer in chosen.items()}))


if __name__ == "__main__":
    try:
        main()
    finally:
        Process.stop_all()
