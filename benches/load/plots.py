"""The report's figures as SVG bar charts for README: panels of one bar a proxy, drawn by hand, legible in light and dark themes."""
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

from modes import Idle
from rounds import Outcome

WIDTH, COLUMNS, GAP = 860, 2, 36
PANEL_WIDTH = (WIDTH - GAP * (COLUMNS + 1)) // COLUMNS
NAME_WIDTH, VALUE_WIDTH = 88, 58   # left and right of the bars
BAR, BAR_PITCH, TITLE, MARGIN = 14, 20, 26, 46
CAPTION_CHARACTERS, CAPTION_PITCH = 140, 15
CASES = ("h1", "tls", "h2", "handshake", "body", "grpc")
MORE = ("grpc-stream", "websocket", "post10k", "post10m", "chunks", "burst")
SHORT = {
    "h1": "HTTP/1.1, 1 KiB", "tls": "HTTP/1.1 over TLS 1.3, 1 KiB", "h2": "HTTP/2 over TLS 1.3, 1 KiB", "handshake": "a new TLS 1.3 connection per request",
    "body": "1 MiB answers", "grpc": "gRPC, unary", "grpc-stream": "gRPC, streamed message", "websocket": "WebSocket message", "post10k": "POST of 10 KiB",
    "post10m": "POST of 10 MiB", "chunks": "256 chunks of 1 byte, one by one", "burst": "256 chunks of 1 byte at once", "resume": "TLS 1.3 sessions resumed",
}
NAMES = {"portunus": "Portunus", "haproxy": "HAProxy", "haproxy-splice": "HAProxy splice", "envoy": "Envoy", "pingora": "Pingora", "traefik": "Traefik", "caddy": "Caddy"}
# With a ground of its own, since a page's theme need not be the system's.
STYLE = """
.ground { fill: #ffffff; stroke: #d1d9e0 }
text { font: 12px -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #424a53 }
.heading { font-size: 16px; font-weight: 600; fill: #1f2328 } .title { font-weight: 600; fill: #1f2328 } .caption { font-size: 10.5px; fill: #6e7781 }
.ours { fill: #0969da } .theirs { fill: #afb8c1 } .spread { stroke: #57606a; stroke-width: 1.2 } .us { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  .ground { fill: #0d1117; stroke: #3d444d }
  text { fill: #b1bac4 } .heading, .title { fill: #f0f6fc } .caption { fill: #8b949e }
  .ours { fill: #4493f8 } .theirs { fill: #545d68 } .spread { stroke: #9198a1 }
}
"""


@dataclass
class Bar:
    name: str
    value: float
    low: float
    high: float


def write(folder: Path, caption: str, outcomes: list[Outcome], latency: Outcome | None, idle: Idle | None) -> list[tuple[str, str]]:
    """Writes what was measured, and returns the files' names with what each shows."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {outcome.case.name: outcome for outcome in outcomes}
    drawings = [(file, says, [(SHORT[name], bars(found[name], "cpu_us")) for name in names if name in found]) for file, says, names in (
        ("cpu.svg", "CPU of the proxy in microseconds per request; less is better", CASES),
        ("more.svg", "CPU of the proxy in microseconds per request or message; less is better", MORE))]
    if latency:
        rate = f"Milliseconds at {latency.median(latency.subject, 'rate'):,.0f} requests/s, half of the lowest peak" if latency.samples.get(latency.subject) else "Milliseconds"
        drawings.append(("latency.svg", f"{rate}; less is better", [("p99", bars(latency, "p99_ms")), ("p99.9", bars(latency, "p999_ms"))]))
    if idle:
        drawings.append(("idle.svg", f"KiB of the proxy's memory for each of {idle.connections:,} idle connections; less is better", [
            (says, [Bar(name, value / 1024, value / 1024, value / 1024) for (name, over), value in idle.bytes_each.items() if over == tls])
            for tls, says in ((False, "HTTP/1.1"), (True, "HTTP/1.1 over TLS"))]))
    drawn = []
    for file, says, panels in drawings:
        if panels := [(title, entries) for title, entries in panels if entries]:
            (folder / file).write_text(draw(says, panels, caption))
            drawn.append((file, says))
    return drawn


def bars(outcome: Outcome, what: str) -> list[Bar]:
    return [Bar(name, outcome.median(name, what), min(values), max(values)) for name, samples in outcome.samples.items()
            if not name.startswith("portunus-") and (values := [getattr(sample, what) for sample in samples])]


def draw(heading: str, panels: list[tuple[str, list[Bar]]], caption: str) -> str:
    rows = [panels[first:first + COLUMNS] for first in range(0, len(panels), COLUMNS)]
    lines, y = [], MARGIN
    for row in rows:
        for column, (title, entries) in enumerate(row):
            lines += panel(GAP + column * (PANEL_WIDTH + GAP), y, title, entries)
        y += TITLE + max(len(entries) for _, entries in row) * BAR_PITCH + GAP // 2
    said = textwrap.wrap(caption, CAPTION_CHARACTERS)
    lines += [f'<text class="caption" x="{GAP}" y="{y + 8 + i * CAPTION_PITCH}">{escape(line)}</text>' for i, line in enumerate(said)]
    height = y + 16 + len(said) * CAPTION_PITCH
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{escape(heading)}">',
        f"<style>{STYLE}</style>", f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>', f'<text class="heading" x="{GAP}" y="26">{escape(heading)}</text>', *lines, "</svg>", ""])


def panel(x: int, y: int, title: str, entries: list[Bar]) -> list[str]:
    lines = [f'<text class="title" x="{x}" y="{y + 14}">{escape(title)}</text>']
    left, longest = x + NAME_WIDTH + 8, PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH - 8
    scale = longest / max(max(entry.high for entry in entries), 1e-9)
    for i, entry in enumerate(sorted(entries, key=lambda entry: entry.value)):
        top, ours = y + TITLE + i * BAR_PITCH, entry.name == "portunus"
        middle, end = top + BAR / 2, left + max(entry.value, 0) * scale
        bold = ' class="us"' if ours else ""
        lines += [f'<text{bold} x="{left - 8}" y="{top + 11}" text-anchor="end">{escape(NAMES.get(entry.name, entry.name))}</text>',
                  f'<rect class="{"ours" if ours else "theirs"}" x="{left}" y="{top}" width="{max(end - left, 1):.1f}" height="{BAR}" rx="2"/>',
                  f'<text{bold} x="{left + max(entry.high, entry.value, 0) * scale + 6:.1f}" y="{top + 11}">{number(entry.value)}</text>']
        if entry.high > entry.low:
            lines.append(f'<line class="spread" x1="{left + entry.low * scale:.1f}" y1="{middle}" x2="{left + entry.high * scale:.1f}" y2="{middle}"/>')
    return lines


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
