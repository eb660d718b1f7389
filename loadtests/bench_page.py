"""What `make bench` saw, for people: docs/benchmarks.md, its plot, and the ratios that must hold. Pure but for `write`."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape as html
from pathlib import Path
from typing import Any

from stack.gateways import GATEWAYS
from stack.say import say

Raw = Mapping[str, Any]
"""docs/results/benchmarks.json."""
MIB = 2**20


@dataclass(frozen=True)
class Spread:
    """A median over rounds, and the least and the most of them."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} to {self.most:.2f})"


def spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def of(raw: Raw, gateway: str, load: str, key: str = "rps", via: str = "chain") -> list[float]:
    """A value of each round, oldest first."""
    return [v[key] for v in raw["visits"] if (v["gateway"], v["load"], v["via"]) == (gateway, load, via)]


def median(raw: Raw, gateway: str, load: str, key: str = "rps", via: str = "chain") -> float | None:
    values = of(raw, gateway, load, key, via)
    return statistics.median(values) if values else None


def ratio(over: list[float], under: list[float]) -> Spread | None:
    """Of what was measured in the same round."""
    return spread([a / b for a, b in zip(over, under, strict=True)]) if over and under else None


def theory(raw: Raw, gateway: str, load: str) -> float:
    """Requests/s that wait 100 ms each: as many at a time as there are clients, or workers, or threads."""
    clients = raw["loads"][load]["clients"]
    slots = raw["slots"].get(raw["gateways"][gateway]["concurrency"], clients)
    return float(min(clients, slots) / 0.1)


# --- what must hold --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A ratio, or a price, within one run."""

    said: str
    gateway: str
    found: Spread
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.least is None or self.found.middle >= self.least) and (
            self.most is None or self.found.middle <= self.most
        )


OF_CEILING = {
    "gunicorn-sync": 0.08,
    "gunicorn-gthread": 0.08,
    "uvicorn": 0.20,
    "granian-wsgi": 0.28,
    "granian-asgi": 0.28,
}


def checks(raw: Raw) -> Iterator[Check]:
    """What any machine should show, whatever its speed: margins are for a noisy one."""
    for name, facts in raw["gateways"].items():
        hello = of(raw, name, "hello")

        def check(
            said: str, found: Spread | None, least: float | None = None, most: float | None = None, gateway: str = name
        ) -> Iterator[Check]:
            if found is not None:
                yield Check(said, gateway, found, least, most)

        yield from check(
            "computes 5 ms: the chain / the gateway alone",
            ratio(of(raw, name, "work"), of(raw, name, "work", via="direct")),
            0.9,
        )
        yield from check(
            "hello: the chain / the gateway alone", ratio(hello, of(raw, name, "hello", via="direct")), 0.5
        )
        if name in OF_CEILING:
            yield from check("hello: of the ceiling", ratio(hello, of(raw, "ceiling", "hello")), OF_CEILING[name])
        if GATEWAYS[name].keeps_alive:  # else Nginx opens a connection for each request: no fault of the chain's
            yield from check("hello: CPU of Nginx, us", spread(of(raw, name, "hello", "edge_us")), most=90)
        if facts["interface"] == "asgi":
            yield from check("hello: connections kept / not", ratio(hello, of(raw, name, "hello", via="unkept")), 1.4)
        for load, least in (("wait", 0.8 if facts["concurrency"] == "thread" else 0.9), ("few", 0.9)):
            full = theory(raw, name, load)
            yield from check(
                f"{raw['loads'][load]['said']}: of theory", spread([rate / full for rate in of(raw, name, load)]), least
            )
        yield from check(
            "hello: p50, ms (44 is Nagle's algorithm meeting delayed ACKs)",
            spread(of(raw, name, "hello", "p50_ms")),
            most=40,
        )


# --- the page --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def table(raw: Raw, columns: Mapping[str, Callable[[str], str]], ceiling: bool = False) -> str:
    """Gateways by interface, a column a function of its name."""
    names = [*raw["gateways"], *(["ceiling"] if ceiling else [])]
    head = f"| gateway | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}\n"
    return head + "".join(f"| {name} | {' | '.join(column(name) for column in columns.values())} |\n" for name in names)


def page(raw: Raw) -> str:
    """docs/benchmarks.md."""

    def rate(load: str, via: str = "chain", digits: int = 0) -> Callable[[str], str]:
        return lambda name: number(median(raw, name, load, via=via), digits)

    def price(load: str, unit: float = 1) -> Callable[[str], str]:
        def said(name: str) -> str:
            app, edge = median(raw, name, load, "app_us"), median(raw, name, load, "edge_us")
            return "" if app is None or edge is None else f"{app / unit:,.0f} + {edge / unit:,.0f}"

        return said

    def hello_ratio(other: str, via: str) -> Callable[[str], str]:
        return lambda name: str(ratio(of(raw, name, "hello"), of(raw, other or name, "hello", via=via)) or "")

    def work_ratio(name: str) -> str:
        return str(ratio(of(raw, name, "work"), of(raw, name, "work", via="direct")) or "")

    def waits(load: str) -> Callable[[str], str]:
        return lambda name: f"{number(median(raw, name, load))} of {theory(raw, name, load):,.0f}"

    def latency(load: str) -> Callable[[str], str]:
        return lambda name: (
            f"{number(median(raw, name, load, 'p50_ms'), 1)} / {number(median(raw, name, load, 'p99_ms'))}"
        )

    hello = table(
        raw,
        {
            "requests/s": rate("hello"), "p50 / p99 ms": latency("hello"), "CPU us: gateway + Nginx": price("hello"),
            "of the ceiling": hello_ratio("ceiling", "chain"), "chain / gateway alone": hello_ratio("", "direct"),
            "alone: its CPU us": lambda name: number(median(raw, name, "hello", "app_us", "direct")),
            "connections kept / not": hello_ratio("", "unkept"), "JSON, CPU us": price("json"),
        },
        ceiling=True,
    )  # fmt: skip
    waiting = table(
        raw,
        {
            "waits 100 ms, 64 clients": waits("wait"), "p50 / p99 ms": latency("wait"), "2 clients": waits("few"),
            "computes 5 ms, requests/s": rate("work"), "chain / gateway alone": work_ratio,
        },
    )  # fmt: skip
    large = table(
        raw,
        {
            "1 MiB down, MiB/s": rate("download"), "CPU us: gateway + Nginx": price("download"), "1 MiB up and back, MiB/s": rate("upload"),
            "CPU us": price("upload"), "WebSocket, messages/s": rate("websocket"), "CPU us ": price("websocket"),
        },
        ceiling=True,
    )  # fmt: skip
    size = table(
        raw,
        {
            "memory of all, MiB": lambda name: number(raw["memory_mib"][name]["total"]),
            "of a worker": lambda name: number(raw["memory_mib"][name]["worker"], 1),
            "first 200 after, ms": lambda name: number(statistics.median(raw["start_ms"][name])),
            "version": lambda name: raw["gateways"][name]["versions"],
        },
    )
    judged = list(checks(raw))
    failing = [check for check in judged if not check.holds]
    asked = sum(visit["rps"] * raw["seconds"] for visit in raw["visits"])
    bad = sum(visit["bad"] for visit in raw["visits"])
    return f"""# Every gateway behind the same Nginx

{raw["date"]}, {raw["machine"]}; client, Nginx and gateway share the cores. {raw["method"]}. All ran at once and took turns in each
round; numbers are medians over rounds, ratios medians of same-round ratios (smallest to largest). WSGI gateways run apps/flask, ASGI
ones apps/fastapi: FastAPI itself is half of an ASGI hello. Of {asked:,.0f} requests {bad:,.0f} failed. Raw:
[benchmarks.json](results/benchmarks.json). Again: `make bench`. What each is good for: [gateways.md](gateways.md).

![CPU of a hello, requests a second that wait, memory of a worker: for each gateway](images/benchmarks.svg)

Dashed: what theory says of so many workers, threads or loops.

## Hello

32 clients. `ceiling` is Nginx behind the same Nginx, which no gateway can reach. Alone, a gateway has all cores, and each request
of its own costs it less CPU, too: where cores are few, read what the chain costs where there is work to do (below). Of Nginx's CPU,
a gateway that closes each connection takes twice as much (gunicorn-sync, uwsgi: a new connection for each request); the others take
more than the ceiling does, as we read it, because fewer answers come at a time, and each wakes Nginx.

{hello}
## Waiting and computing

A request that waits holds a worker or a thread, or with an event loop nothing: so many can wait at a time, over 100 ms, is what theory
says. Computing is the same for all.

{waiting}
## Large bodies, and WebSockets

8 clients, and 16 for WebSockets (whose client is Python, and the bottleneck: read the CPU).

{large}
## Memory and start

PSS: what processes share is divided among them. From the container's start to its first 200.

{size}
## What must hold

{len(judged) - len(failing)} of {len(judged)} ratios and prices are within their limits, which are the same on any machine.

| | limit | medians, of all gateways | outside |
|---|---:|---:|---|
{"".join(_rows(judged))}"""


def _rows(judged: list[Check]) -> Iterator[str]:
    for said in dict.fromkeys(check.said for check in judged):
        mine = [check for check in judged if check.said == said]
        limits = {f"at least {c.least:g}" if c.least is not None else f"at most {c.most:g}" for c in mine}
        middles = [check.found.middle for check in mine]
        outside = [f"{check.gateway}: {check.found}" for check in mine if not check.holds]
        yield f"| {said} | {', '.join(sorted(limits))} | {min(middles):.2f} to {max(middles):.2f} | {'; '.join(outside)} |\n"


# --- the plot --------------------------------------------------------------------------------------------------------

PANELS = """<style>
text { font: 13px system-ui, sans-serif; fill: #1c2733; } .title { font-weight: 600; } .dim { fill: #66717c; }
.gateway { fill: #1971c2; } .nginx { fill: #f08c00; } .theory { fill: none; stroke: #66717c; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) { text { fill: #dde3e9; } .dim { fill: #93a0ad; } }
</style>"""
ROW, NAMES, WIDE, GAP = 22, 130, 250, 70


def svg(raw: Raw) -> str:
    """Three panels of bars, a row a gateway: CPU of a hello; requests a second that wait, of theory; memory of a worker."""
    names = list(raw["gateways"])

    def found(name: str, load: str, key: str) -> float:
        return median(raw, name, load, key) or 0.0

    panels = [
        ("CPU of a hello, us (Nginx's in orange)", {n: (found(n, "hello", "app_us"), found(n, "hello", "edge_us")) for n in names}, {}),
        ("waits 100 ms, 64 clients: requests/s", {n: (found(n, "wait", "rps"), 0.0) for n in names}, {n: theory(raw, n, "wait") for n in names}),
        ("memory of a worker, MiB", {n: (raw["memory_mib"][n]["worker"], 0.0) for n in names}, {}),
    ]  # fmt: skip
    height = 34 + ROW * len(names)
    shapes = [f'<text x="0" y="{34 + ROW * i + 15}">{html(name)}</text>' for i, name in enumerate(names)]
    for number_, (title, values, expected) in enumerate(panels):
        left = NAMES + number_ * (WIDE + GAP)
        longest = max([sum(pair) for pair in values.values()] + list(expected.values())) or 1.0
        shapes.append(f'<text class="title" x="{left}" y="16">{html(title)}</text>')
        for i, name in enumerate(names):
            first, second = (value / longest * WIDE for value in values[name])
            top = 34 + ROW * i
            shapes.append(f'<rect class="gateway" x="{left}" y="{top}" width="{first:.1f}" height="16"/>')
            shapes.append(
                f'<rect class="nginx" x="{left + first:.1f}" y="{top}" width="{second:.1f}" height="16"/>'
                if second
                else ""
            )
            end = first + second
            if name in expected:
                wide = expected[name] / longest * WIDE
                shapes.append(f'<rect class="theory" x="{left}" y="{top}" width="{wide:.1f}" height="16"/>')
                end = max(end, wide)
            shapes.append(f'<text class="dim" x="{left + end + 5:.1f}" y="{top + 13}">{sum(values[name]):,.0f}</text>')
    width = NAMES + len(panels) * (WIDE + GAP)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{PANELS}{"".join(shapes)}</svg>\n'


def write(raw: Raw, docs: Path) -> int:
    """The page and its plot; 1 when something does not hold, which is printed."""
    (docs / "benchmarks.md").write_text(page(raw))
    (docs / "images/benchmarks.svg").write_text(svg(raw))
    say.line("docs/benchmarks.md, docs/images/benchmarks.svg")
    failing = [check for check in checks(raw) if not check.holds]
    for check in failing:
        print(f"does not hold: {check.gateway}: {check.said}: {check.found}", file=sys.stderr)
    return 1 if failing else 0
