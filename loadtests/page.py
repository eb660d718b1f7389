"""What the pages of results share: their style, and charts as inline SVG. A page is one file, which fetches nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape as html
from typing import Any

from loadtests.hops import Histogram, middle

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1.5rem;
       --ink: #1c2733; --dim: #66717c; --good: #0b6e4f; --bad: #c0262d; --line: #d9dfe5; --fill: #9db8cf; --shade: #fff3d6;
       color: var(--ink); background: #fff; }
h1 { font-size: 1.5rem; margin: 0; } .verdict { font-size: 1.15rem; font-weight: 600; color: var(--good); }
.bad { color: var(--bad); } .dim { color: var(--dim); } code { font-size: .9rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--line); font-weight: 400; }
th { color: var(--dim); } th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
.scroll { overflow-x: auto; } svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
details { margin: 1rem 0; } dt { color: var(--dim); float: left; clear: left; width: 11rem; } dd { margin: 0 0 0 12rem; }
@media (prefers-color-scheme: dark) {
  body { --ink: #dde3e9; --dim: #93a0ad; --good: #46c29a; --bad: #ff7a7a; --line: #2c3641; --fill: #4f6d87; --shade: #3a3115;
         background: #12181f; } }
"""
COLOURS = ("#c0262d", "#e8590c", "#9c36b5", "#1971c2", "#2f9e44", "#f08c00", "#0c8599", "#e64980", "#5f3dc4")


def document(title: str, body: str, style: str = "") -> str:
    """The whole page. title: text; body, style: as they are."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html(title)}</title>
<style>{STYLE}{style}</style>
{body}
</html>
"""


def rect(left: float, top: float, right: float, bottom: float, colour: str, title: str) -> str:
    size = f'width="{max(right - left, 1):.1f}" height="{max(bottom - top, 0):.1f}"'
    return f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"><title>{html(title)}</title></rect>'


def label(x: float, y: float, text: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html(text)}</text>'


# --- charts that stretch: their texts are HTML around the drawing, so that they can be read on a phone -----------------

CHARTS = """
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; } .plot { position: relative; margin: .9rem .6rem 1.9rem 4.3rem; }
.plot + .plot { margin-top: -.7rem; }
.plot svg { position: absolute; width: 100%; height: 100%; } .plot b, .plot i { position: absolute; font: 12px/1 system-ui,
  sans-serif; color: var(--dim); white-space: nowrap; } .plot b { right: calc(100% + .4rem); transform: translateY(50%); }
.plot i { top: calc(100% + .4rem); transform: translateX(-50%); }
.grid { stroke: var(--line); stroke-width: 1; } path, polyline { vector-effect: non-scaling-stroke; }
.hit { fill: transparent; } .hit:hover { fill: var(--ink); fill-opacity: .12; } summary { cursor: pointer; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .85rem; margin: .5rem 0; padding: 0; }
.legend svg { width: .8rem; height: .8rem; margin-right: .4rem; flex: none; align-self: center; }
@media (prefers-color-scheme: dark) { polyline, .legend path { filter: brightness(1.4); } }
.legend span { display: inline-flex; overflow-wrap: anywhere; }
"""
COARSE = ("nginx", "queue")
"""Hops that the edge's whole milliseconds end."""
LINES = 8
"""Routes in one chart of the distribution."""
SIDE = 1000
"""Width and height that shapes of a plot are drawn in, whatever its size on the screen."""


def plot(shapes: str, rem: float, x: Mapping[str, float], y: Mapping[str, float], said: str) -> str:
    """A chart of this height. x, y: label -> where on its axis, 0..1 from the left and from below."""
    grid = "".join(f"M0 {SIDE * (1 - at):.0f}h{SIDE}" for at in y.values())
    texts = "".join(f'<b style="bottom:{at:.1%}">{html(text)}</b>' for text, at in y.items())
    texts += "".join(f'<i style="left:{at:.1%}">{html(text)}</i>' for text, at in x.items())
    return (
        f'<div class="plot" style="height:{rem}rem"><svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html(said)}"><path class="grid" d="{grid}"/>{shapes}</svg>{texts}</div>'
    )


def key(colour: str, text: str, dash: str = "") -> str:
    """An entry of a legend: a box, or with `dash` (stroke-dasharray, or "none") a line."""
    line = f'<path d="M0 5h10" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/>'
    shape = line if dash else f'<rect width="10" height="10" fill="{colour}"/>'
    return f'<span><svg viewBox="0 0 10 10">{shape}</svg>{html(text)}</span>'


def ticks(most: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to `most`, at most `about` above 0."""
    power = 10 ** math.floor(math.log10(most / about))
    step = next(power * times for times in (1, 2, 5, 10) if power * times * about >= most)
    return [step * number for number in range(int(most / step) + 1)]


def distribution(routes: Mapping[str, Histogram]) -> str:
    """A line for each: x: percentile, y: ms."""
    lines = {name: list(_curve(histogram)) for name, histogram in routes.items()}
    values = [value for line in lines.values() for _, value in line]
    end = max(1.0, *(x for line in lines.values() for x, _ in line))
    marks = [number * 10.0**power for power in range(-3, 8) for number in (1, 2, 5)]
    low = max((mark for mark in marks if mark <= min(values)), default=marks[0])
    high = min(mark for mark in marks if mark > max(values))
    wide = high > 30 * low  # then with powers of ten, and the ends
    marks = [
        mark for mark in marks if low <= mark <= high and (not wide or mark in (low, high) or f"{mark:e}"[0] == "1")
    ]

    def y(value: float) -> float:
        return math.log(value / low) / math.log(high / low)

    def x(percentile: float) -> float:
        return -math.log10(1 - percentile / 100) / end

    shapes, keys = [], []
    for number, (name, line) in enumerate(lines.items()):
        colour, dash = COLOURS[(3 + number * 3) % LINES], "none" if number < LINES // 2 else "6 3"
        points = " ".join(f"{SIDE * at / end:.1f},{SIDE * (1 - y(value)):.1f}" for at, value in line)
        shapes.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}">'
            f"<title>{html(name)}</title></polyline>"
        )
        keys.append(key(colour, name, dash if dash == "none" else "3 2"))
    below = {f"p{p:g}": x(p) for p in (50, 90, 99, 99.9, 99.99, 99.999) if x(p) <= 1}
    return (
        plot(
            "".join(shapes),
            16,
            below,
            {f"{mark:,.10g} ms": y(mark) for mark in marks},
            "distribution of times by route",
        )
        + f'<p class="legend">{"".join(keys)}</p>'
    )


def _curve(histogram: Histogram) -> Iterator[tuple[float, float]]:
    """(-log10 of the part of requests that took longer, ms), from p10 to the longest, not closer than can be seen."""
    seen, last, n = 0, -1.0, histogram.n
    for bucket in sorted(histogram.buckets):
        at = -math.log10(1 - seen / n)
        seen += histogram.buckets[bucket]
        if seen > 0.1 * n and (at > last + 0.005 or seen == n):
            last = max(at, -math.log10(0.9))
            yield last, max(middle(bucket), 0.001)


# --- texts and tables -------------------------------------------------------------------------------------------------


def ms(value: float | None, hop: str = "") -> str:
    """The number alone; empty where there is none. hop: where it is one, of it."""
    if value is None:
        return ""
    if hop in COARSE and value < 1:
        return "<1"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], bad: Callable[[Sequence[str]], bool] = lambda _: False
) -> str:
    """headings, rows: texts."""
    head = "".join(f"<th>{html(heading)}" for heading in headings)
    body = "".join(f"{_row(bad(row))}{''.join(f'<td>{html(cell)}' for cell in row)}" for row in rows)
    return f'<div class="scroll"><table><tr>{head}{body}</table></div>'


def _row(bad: bool) -> str:
    return '<tr class="bad">' if bad else "<tr>"


def facts(of: Mapping[str, Any]) -> str:
    """A list of names and values."""
    return f"<dl>{''.join(f'<dt>{html(name)}<dd>{html(plain(value))}' for name, value in of.items())}</dl>"


def plain(value: object) -> str:
    """As people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items()) or "none"
    if value in (None, "", []):
        return "none"
    return value if isinstance(value, str) else json.dumps(value)
