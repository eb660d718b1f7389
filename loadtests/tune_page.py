"""What loadtests/tune.py found, as one HTML file that fetches nothing: every visit is a dot, so that noise is seen."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape as html
from typing import Any

from loadtests import page as pages
from loadtests.kernel import MIB
from loadtests.page import COLOURS, SIDE, document, key, plot, table
from loadtests.tuner import Candidate, Visit, level, ratio
from stack.model import size_bytes

P95, QUEUE, LIMIT, MEMORY, RULE = COLOURS[3], COLOURS[1], COLOURS[0], COLOURS[4], COLOURS[2]


def page(raw: Mapping[str, Any]) -> str:
    """The whole page, from what tune.json holds."""
    visits = [visit_of(v) for v in raw["visits"]]
    among = sorted(Candidate(**c) for c in raw["candidates"])
    names = dict(zip(among, string.ascii_uppercase, strict=False))
    limit = size_bytes(raw["memory"]) / MIB
    late = sum(not v.valid for v in visits)
    body = [
        f"<h1>workers of {html(raw['app'])}</h1>",
        f'<p class="verdict{"" if raw["choice"] else " bad"}">{html(raw["sentence"])}</p>',
        "".join(f"<p>{html(text)}</p>" for text in (*_headline(raw), raw["advice"])),
        f"<p class=bad>INVALID, because the load generator was late: {late} of {len(visits)} visits. They are grey, and do not count.</p>" * bool(late),
        f"<h2>p95 and the wait in front of the workers, at {raw['rate']:.0f} requests a second</h2>",
        _dots(visits, names, {"p95": (P95, lambda v: v.p95), "queue p95": (QUEUE, lambda v: v.queue)}, raw["p95"]),
        table(
            ["", "configuration", "p95, ms", "to the best", "queue p95, ms", "CPU, ms a request", "memory, MiB", "visits", ""],
            _rows(raw, visits, names),
        ),
        f"<h2>Memory, of {html(raw['memory'])}</h2>",
        _memory(visits, names, limit),
        "<h2>How much it carries</h2>" + _carried(raw) if raw["capacity"] else "",
        "<h2>What was measured, and on what</h2>",
        pages.facts({k: raw[k] for k in ("date", "machine", "cpus", "memory", "asked")} | {"p95 at most": f"{raw['p95']:g} ms"}),
        table(["request", "weight"], ((f"{r['method']} {r['path']}", f"{r['weight']:g}") for r in raw["requests"])),
        '<p class="dim">All visits, raw: <code>tune.json</code>. A ratio is one of p95s within a round; its interval is of all rounds.</p>',
    ]  # fmt: skip
    return document(f"workers of {raw['app']}", "\n".join(body), pages.CHARTS)


def visit_of(raw: Mapping[str, Any]) -> Visit:
    return Visit(**{**raw, "candidate": Candidate(**raw["candidate"])})


def _headline(raw: Mapping[str, Any]) -> Iterator[str]:
    """What the choice carries, and the rule of thumb."""
    for each in raw["capacity"]:
        c = Candidate(**each["candidate"])
        rule = " (the rule of thumb: 2 x cpus + 1)" if each["candidate"] == raw["control"] else ""
        yield f"{c}{rule} carries {'at least ' * each['at_least']}{each['rate']:.0f} requests a second with p95 <= {raw['p95']:g} ms."


def _rows(raw: Mapping[str, Any], visits: Sequence[Visit], names: Mapping[Candidate, str]) -> Iterator[Sequence[str]]:
    choice = Candidate(**raw["choice"]) if raw["choice"] else None
    known = [c for c in names if level(visits, c) < math.inf]
    best = min(known, key=lambda c: level(visits, c), default=None)
    for c, name in names.items():
        mine = [v for v in visits if v.candidate == c and v.valid]
        notes = [
            word
            for word, of in (("chosen", choice), ("now", Candidate(**raw["current"])), ("rule of thumb", raw["control"] and Candidate(**raw["control"])))
            if of == c
        ]  # fmt: skip
        if failed := sum(v.failed for v in mine):
            notes.append(f"{failed:,} requests failed")
        found = ratio(visits, c, best) if best else None
        if not mine:
            yield name, str(c), "", "", "", "", "", "0", ", ".join(notes)
            continue
        middle = sorted(mine, key=lambda v: v.p95)[(len(mine) - 1) // 2]
        yield (
            name, str(c), f"{level(visits, c):.0f}", f"{found.middle:.2f} ({found.low:.2f} to {found.high:.2f})" if found else "",
            f"{max(middle.queue, 0):.0f}", f"{middle.cpu:.2f}", f"{max(v.memory for v in mine):.0f}", str(len(mine)), ", ".join(notes),
        )  # fmt: skip


def scale(values: Sequence[float]) -> tuple[Callable[[float], float], dict[str, float]]:
    """A logarithmic axis of ms: value -> 0..1, and its labels."""
    low, high = math.floor(math.log10(max(min(values), 1))), math.ceil(math.log10(max(*values, 10)))
    span = max(high - low, 1)

    def at(value: float) -> float:
        return min(max((math.log10(max(value, 1e-3)) - low) / span, 0.0), 1.0)

    return at, {f"{10.0**power:,.0f} ms": at(10.0**power) for power in range(low, low + span + 1)}


def dot(x: float, y: float, colour: str, said: str) -> str:
    """A round one, however the drawing is stretched: a line of no length with round ends."""
    place = f"M{SIDE * x:.1f} {SIDE * (1 - y):.1f}h0"
    return f'<path d="{place}" stroke="{colour}" stroke-width="8" stroke-linecap="round" fill="none"><title>{html(said)}</title></path>'


def _dots(
    visits: Sequence[Visit], names: Mapping[Candidate, str], kinds: Mapping[str, tuple[str, Callable[[Visit], float]]], limit: float
) -> str:  # fmt: skip
    at, labels = scale([limit, *(max(value(v), 1.0) for _, value in kinds.values() for v in visits)])
    x = {c: (number + 0.5) / len(names) for number, c in enumerate(names)}
    shapes = [_line(at(limit), LIMIT)]
    for number, (kind, (colour, value)) in enumerate(kinds.items()):
        for v in visits:
            said = f"{v.candidate}, round {v.round}: {kind} {value(v):.1f} ms{'' if v.valid else ' (INVALID)'}"
            shapes.append(
                dot(x[v.candidate] + (number - 0.5) / 40, at(value(v)), colour if v.valid else "#adb5bd", said)
            )
    legend = "".join(key(colour, kind) for kind, (colour, _) in kinds.items()) + key(
        LIMIT, f"p95 at most {limit:g} ms", "none"
    )
    below = {name: x[c] for c, name in names.items()}
    return (
        plot("".join(shapes), 17, below, labels, "p95 and queue of each visit by configuration")
        + f'<p class="legend">{legend}</p>'
    )


def _line(y: float, colour: str) -> str:
    return f'<path d="M0 {SIDE * (1 - y):.1f}h{SIDE}" stroke="{colour}" stroke-width="1.5" fill="none"/>'


def _memory(visits: Sequence[Visit], names: Mapping[Candidate, str], limit: float) -> str:
    """Bars: the most that a visit saw in use."""
    shapes, wide = [_line(1.0, LIMIT)], SIDE / max(len(names), 1)
    for number, c in enumerate(names):
        used = max((v.memory for v in visits if v.candidate == c), default=0.0)
        top = SIDE * (1 - min(used / limit, 1))
        shapes.append(
            pages.rect(wide * (number + 0.25), top, wide * (number + 0.75), SIDE, MEMORY, f"{c}: {used:.0f} MiB")
        )
    below = {name: (number + 0.5) / len(names) for number, name in enumerate(names.values())}
    levels = {f"{limit * part:.0f} MiB": part for part in (0, 0.5, 1)}
    return plot("".join(shapes), 9, below, levels, "memory in use by configuration")


def _carried(raw: Mapping[str, Any]) -> str:
    """p95 against the rate, of the choice and of the rule of thumb."""
    found = {Candidate(**each["candidate"]): [visit_of(v) for v in each["visits"]] for each in raw["capacity"]}
    every = [v for visits in found.values() for v in visits]
    at, labels = scale([raw["p95"], *(v.p95 for v in every)])
    steps = pages.ticks(max(v.rate for v in every))
    widest = 1.02 * max(steps[-1], max(v.rate for v in every))
    shapes, legend = [_line(at(raw["p95"]), LIMIT)], []
    for colour, (c, visits) in zip((P95, RULE), found.items(), strict=False):
        legend.append(key(colour, str(c)))
        shapes += [dot(v.rate / widest, at(v.p95), colour, f"{c}: {v.rate:.0f}/s: p95 {v.p95:.0f} ms") for v in visits]
    below = {f"{step:,.0f}/s": step / widest for step in steps}
    return (
        plot("".join(shapes), 14, below, labels, "p95 by requests a second")
        + f'<p class="legend">{"".join(legend)}</p>'
    )
