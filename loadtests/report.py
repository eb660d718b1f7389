"""report.html: one file that shows how a run went, where its time was spent, and how far that can be trusted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape as html
from itertools import pairwise
from typing import TYPE_CHECKING

from loadtests.hops import HOPS, SKEW, TOTAL, Route, add_up, whole
from loadtests.page import (
    CHARTS,
    COARSE,
    LINES,
    SIDE,
    distribution,
    document,
    facts,
    key,
    ms,
    plain,
    plot,
    rect,
    table,
    ticks,
)  # fmt: skip
from loadtests.run import Run

if TYPE_CHECKING:
    from loadtests.slo import Judgement

UNTOLD = "untold"
MEANING = {
    "generator": "sent later than due, by the load generator",
    "network": "way there and back, and the client's work",
    "nginx": "the edge",
    "queue": "waiting for the gateway",
    "pool": "in the app, waiting for a thread",
    "app": "in the app",
    "upstream": "gateway and app, not told apart",
    "body": "first to last byte of the answer",
    UNTOLD: "requests that the edge did not time",
}
SHADES = {  # as in the live tab (hops.js)
    "generator": "#868e96", "network": "#74a9cf", "nginx": "#2b8a3e", "queue": "#e03131", "pool": "#e8590c",
    "app": "#f2b134", "upstream": "#b08968", "body": "#b197fc", UNTOLD: "#b8bfc6",
}  # fmt: skip
STYLE = f"""{CHARTS}
body {{ --page: #fff; }} .head {{ margin: .4rem 0; }} .verdict.head {{ color: var(--ink); }}
.OK {{ color: var(--good); }} .WARN, .INVALID {{ color: var(--bad); }}
.bar {{ display: grid; grid-template-columns: minmax(8rem, 17rem) 1fr 10rem; gap: 0 .8rem; align-items: center; margin: .3rem 0; }}
.bar > span {{ overflow-wrap: anywhere; line-height: 1.2; }} .bar > span:last-child {{ font-size: .9rem; }}
.bar svg {{ display: block; height: 1.15rem; min-width: 2px; }} #stretch:checked ~ .bar svg {{ width: 100% !important; }}
th {{ vertical-align: bottom; }} td:first-child {{ min-width: 9rem; max-width: 22rem; overflow-wrap: anywhere; }}
td:last-child {{ overflow-wrap: anywhere; }} .numbers :is(th, td):last-child {{ text-align: right; }}
.numbers :is(th, td):first-child {{ position: sticky; left: 0; background: var(--page); }}
.small {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 0 2rem; }}
.small h3 {{ font-size: .9rem; margin: .8rem 0 0; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: fit-content(16rem) 1fr; gap: .1rem 1.2rem; margin: .6rem 0; }}
dt, dd {{ float: none; width: auto; margin: 0; overflow-wrap: anywhere; }}
@media (prefers-color-scheme: dark) {{ body {{ --page: #12181f; }} }}
@media (max-width: 640px) {{ body {{ margin: 1rem auto; padding: 0 1rem; }} th, td {{ padding: .2rem .45rem; }}
  .bar {{ grid-template-columns: 1fr; margin: .7rem 0; }} .bar svg {{ height: .9rem; }} td:first-child {{ min-width: 7rem; }} }}
@media print {{ body {{ margin: 0; max-width: none; font-size: 12px; }} .screen {{ display: none; }} .scroll {{ overflow: visible; }}
  table {{ font-size: 9px; }} th, td {{ padding: .1rem .3rem; }} .bar, .plot, tr {{ break-inside: avoid; }} }}
"""
# Closed details would be missing on paper. Without the script they are, and nothing else.
SCRIPT = """<script>
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
</script>"""


def page(run: Run, slo: Judgement | None = None) -> str:
    """The whole report. slo: what the run makes of its limits, where it has any."""
    every = run.every
    p95, word = run.total.percentile(95), run.verdict.word
    title = f"{run.name}: {every.requests:,} requests, {every.failed:,} failed" + (f", p95 {ms(p95)} ms" if p95 else "")
    body = "\n".join((
        _head(run, every), _limits(slo), _where(run, every), _gateways(run), _time(run, every), _latency(run),
        _errors(run), _trust(run, every), _conditions(run), SCRIPT,
    ))  # fmt: skip
    return document(f"{title}, {word}", body, STYLE)


def _means(route: Route) -> dict[str, float]:
    """Hop, or UNTOLD, -> ms. They add up to the mean."""
    means = route.means
    if route.untold and TOTAL in route.histograms:
        means[UNTOLD] = max((route.histograms[TOTAL].mean or 0.0) - sum(means.values()), 0.0)
    return means


def _head(run: Run, every: Route) -> str:
    times, verdict = run.total, run.verdict
    said = f"{every.requests:,} requests in {run.seconds:,.0f} s"
    if every.requests and run.seconds > 0:
        said += f" ({every.requests / run.seconds:,.1f}/s)"
    failed = f"{every.failed:,} failed" + (f" ({every.failed / every.requests:.2%})" if every.failed else "")
    p95 = f", p95 {ms(times.percentile(95))} ms" if times.buckets else ""
    trust = {
        "OK": "the load generator kept up",
        "WARN": "read the times with care",
        "INVALID": "these times prove nothing",
    }
    why = "".join(f"; {reason}" for reason in verdict.reasons)
    asked = ", ".join(f"{name} {plain(value)}" for name, value in run.asked.items() if name != "knee")
    knee = f'<p class="verdict head">Knee: {html(plain(run.asked["knee"]))}</p>' if run.asked.get("knee") else ""
    return (
        f'<h1>Load test {html(run.name)}</h1><p class="verdict head">{said}: '
        f'<span class="{"bad" if every.failed else "OK"}">{failed}</span>{p95}.</p>{knee}'
        f'<p class="head"><b class="{verdict.word}">{verdict.word}</b>: {trust[verdict.word]}{html(why)}.</p>'
        f'<p class="dim head">{html(run.date)}{html("; " + asked if asked else "")}</p>'
    )


def _limits(slo: Judgement | None) -> str:
    if slo is None or not slo.rows:
        return ""
    rows: dict[str, list[tuple[str, ...]]] = {"missed": [], "not judged": [], "met": []}
    for row in sorted(slo.rows, key=lambda row: -row.times):
        result = "met" if row.met else "missed" if row.judged else "not judged"
        rows[result].append((row.route, row.metric, row.limit, row.measured, result, row.miss))
    headings = ("route", "metric", "limit", "measured", "result", "by how much")
    first = rows["missed"] + rows["not judged"]
    shown = table(headings, first, lambda row: row[4] == "missed") if first else ""
    if rows["met"]:
        shown += f"<details><summary>Met: {len(rows['met'])}</summary>{table(headings, rows['met'])}</details>"
    return f'<h2>Limits</h2><p class="{"bad" if slo.code else "OK"}">{html(slo.sentence)}</p>{shown}'


# --- where the time goes ----------------------------------------------------------------------------------------------


def _where(run: Run, every: Route) -> str:
    """A bar for each route, the slowest first, and the numbers."""
    shown = {name: of for name, route in run.routes.items() if not route.part and (of := _means(route))}
    if not shown:
        return ""
    # A route of which nothing is told has one grey bar.
    length = {name: sum(means.values()) for name, means in shown.items()}
    longest = max(length.values()) or 1.0
    stretch = " checked" if min(length.values()) < 0.01 * longest else ""
    bars = []
    for name in sorted(shown, key=lambda name: -length[name]):
        parts, left, total = [], 0.0, length[name] or 1.0
        for hop, mean in shown[name].items():
            title = f"{hop}: {ms(mean, hop)} ms of {ms(length[name])} ms ({mean / total:.0%})"
            parts.append(rect(left, 0, left + SIDE * mean / total, 10, SHADES[hop], title))
            left += SIDE * mean / total
        most = max(shown[name], key=shown[name].__getitem__)
        bars.append(
            f'<div class="bar"><span>{html(name)}</span><div><svg style="width:{length[name] / longest:.2%}" '
            f'viewBox="0 0 {SIDE} 10" preserveAspectRatio="none">{"".join(parts)}</svg></div>'
            f'<span>{ms(length[name])} ms, <span class="dim">{shown[name][most] / total:.0%} {most}</span></span></div>'
        )
    return (
        f'<h2>Where the time goes</h2><p class="dim">Mean of all requests, in ms, hop by hop.</p>{_legend(shown.values())}'
        f'<input type="checkbox" id="stretch" class="screen"{stretch}><label for="stretch" class="screen dim"> '
        f"each bar to its full width: parts instead of ms</label>{''.join(bars)}{_numbers(run, every)}"
    )


def _legend(means: Iterable[Mapping[str, float]]) -> str:
    used = {hop for of in means for hop in of}
    return (
        f'<p class="legend">{"".join(key(SHADES[hop], f"{hop}: {MEANING[hop]}") for hop in MEANING if hop in used)}</p>'
    )


def _numbers(run: Run, every: Route) -> str:
    used = [hop for hop in (*HOPS, UNTOLD) if any(hop in _means(route) for route in run.routes.values())]

    def cells(name: str, route: Route) -> list[str]:
        total, queue, means = route.histograms.get(TOTAL), route.histograms.get("queue"), _means(route)
        times = [total.percentile(50), total.percentile(95), total.percentile(99), total.mean] if total else [None] * 4
        hops = [ms(means.get(hop), hop) for hop in used]
        counts = [f"{route.requests:,}", f"{route.failed:,}"]
        return [name, *counts, *map(ms, times), *hops, ms(queue.percentile(95) if queue else None, "queue")]

    times = [f"{what} ms" for what in ("p50", "p95", "p99", "mean", *used, "queue p95")]
    rows = [cells(name + " (a part of others)" * route.part, route) for name, route in sorted(run.routes.items())]
    if len(whole(run.routes)) > 1:
        rows.append(cells("all", every))
    shown = table(("route", "requests", "failed", *times), rows, lambda row: row[2] != "0")
    edge = "The edge counts whole milliseconds, so nginx and queue say no less than &lt;1 ms."
    note = f"Under a hop: what it adds to the mean. {edge if {*used} & {*COARSE} else ''}"
    return f'<div class="numbers">{shown}</div><p class="dim">{note}</p>'


def _gateways(run: Run) -> str:
    lines = []
    for app, busy in run.busy.items():
        gateway = run.settings.get(app, {}).get("gateway")
        waits = f"; queue {ms(busy.queue, 'queue')} ms" if busy.queue is not None else ""
        times = f" (mean: app {ms(busy.app)} ms{waits})" if busy.app is not None else ""
        lines.append(
            f'<p class="{"bad" if ": " in busy.sentence else ""} head"><b>{html(app)}</b>'
            f'{html(f", {gateway}" if gateway else "")}: {html(busy.sentence)}<span class="dim">{html(times)}</span></p>'
        )
    return f"<h2>The gateways</h2>{''.join(lines)}" if lines else ""


# --- over time --------------------------------------------------------------------------------------------------------


def _time(run: Run, every: Route) -> str:
    names = whole(run.routes)
    if not run.series or not names:
        return ""
    each = "".join(f"<div><h3>{html(name)}</h3>{_timeline(run, [name], 7, 80)}</div>" for name in names)
    small = f'<details><summary>Each route: {len(names)}</summary><div class="small">{each}</div></details>'
    return (
        "<h2>Over time</h2>"
        f'<p class="dim">Above: mean ms of the requests that ended then, hop upon hop. Below: requests a second, failed in red.</p>'
        f"{_legend([_means(every)])}{_timeline(run, names, 13, 250)}{small if len(names) > 1 else ''}"
    )


def _timeline(run: Run, names: Sequence[str], rem: float, most: int) -> str:
    """Of these routes together, in at most so many steps."""
    seconds = sorted(run.series)
    first, grain = seconds[0], min((after - before for before, after in pairwise(seconds)), default=1)
    length = seconds[-1] - first + grain
    step = grain * math.ceil(length / grain / most)
    points: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for second in seconds:
        add_up(points[(second - first) // step], run.series[second], names)
    means = {point: _mean(sums) for point, sums in sorted(points.items())}
    rates: dict[int, tuple[float, float]] = {}  # of all, of failed; some were never sent, and are in no total
    for point, sums in points.items():
        lasts = min(step, length - point * step)
        rates[point] = max(sums[TOTAL][0], sums["failed"][0]) / lasts, sums["failed"][0] / lasts
    highest = max((sum(of.values()) for of in means.values()), default=0.0) or 1.0
    fastest = max((rate for rate, _ in rates.values()), default=0.0) or 1.0
    shapes: dict[str, str] = defaultdict(str)
    hits = ""
    for point, of in means.items():
        base, left, right = 0.0, *(f"{SIDE * min(at * step / length, 1):.1f}" for at in (point, point + 1))
        for hop, mean in of.items():
            low, high = (SIDE * (1 - value / highest) for value in (base, base + mean))
            shapes[hop] += f"M{left} {low:.0f}H{right}V{high:.0f}H{left}z"
            base += mean
        for kind, rate in zip(("rate", "failed"), rates[point], strict=True):
            if rate:  # one failure of many has to be seen
                shapes[kind] += f"M{left} {SIDE}H{right}v-{max(SIDE * rate / fastest, 30):.0f}H{left}z"
        split = ", ".join(f"{hop} {ms(mean, hop)} ms" for hop, mean in of.items())
        said = f"{first + point * step} s: {ms(base)} ms ({split}); {rates[point][0]:,.1f}/s, failed {rates[point][1]:,.1f}/s"
        hits += f'<path class="hit" d="M{left} 0H{right}V{SIDE}H{left}z"><title>{html(said)}</title></path>'

    def drawn(colours: Mapping[str, str]) -> str:
        used = ((shapes[kind], colour) for kind, colour in colours.items() if kind in shapes)
        return "".join(f'<path d="{d}" fill="{colour}" shape-rendering="crispEdges"/>' for d, colour in used) + hits

    tick = next(t for t in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 10**9) if length / t <= 6 or t == 10**9)
    unit, size = ("s", 1) if length < 600 else ("min", 60)
    x = {f"{at // size} {unit}": (at - first) / length for at in range(0, seconds[-1] + 1, tick)}
    y = {f"{value:,.10g} ms": value / highest for value in ticks(highest, 5 if rem > 8 else 3)}
    rate_y = {"0/s": 0.0, f"{fastest:,.{0 if fastest >= 10 else 1}f}/s": 1.0}
    below = plot(
        drawn({"rate": "var(--fill)", "failed": "var(--bad)"}), rem / 3, x, rate_y, "requests and failures a second"
    )
    return plot(drawn(SHADES), rem, {}, y, "mean time of requests, by hop") + below


def _mean(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Hop, or UNTOLD, -> ms, of a point of the series."""
    n, total = sums.get(TOTAL, (0, 0.0))
    means = {hop: sums[hop][1] / n for hop in HOPS if hop in sums} if n else {}
    if n > sums.get("network", (0, 0.0))[0]:
        means[UNTOLD] = max(total / n - sum(means.values()), 0.0)
    return means


# --- the distribution -------------------------------------------------------------------------------------------------


def _latency(run: Run) -> str:
    routes = {n: r.histograms[TOTAL] for n, r in run.routes.items() if TOTAL in r.histograms and not r.part}
    busiest = sorted(routes, key=lambda name: -routes[name].n)
    charts = [
        distribution({name: routes[name] for name in busiest[i : i + LINES]}) for i in range(0, len(busiest), LINES)
    ]
    if not charts:
        return ""
    rest = f"<details><summary>The other routes: {len(busiest) - LINES}</summary>{''.join(charts[1:])}</details>"
    return (
        f'<h2>Distribution</h2><p class="dim">How many percent of the requests took at most so long. '
        f"Both axes are logarithmic.</p>{charts[0]}{rest if charts[1:] else ''}"
    )


# --- errors, trust, conditions ----------------------------------------------------------------------------------------


def _errors(run: Run, most: int = 100) -> str:
    found = [(count, name, what) for name, route in run.routes.items() for what, count in route.errors.items()]
    if not found:
        return ""
    found.sort(key=lambda error: (-error[0], *error[1:]))
    more = f'<p class="dim">And {len(found) - most} more kinds.</p>' if len(found) > most else ""
    rows = [(name, f"{count:,}", what) for count, name, what in found[:most]]
    return f"<h2>Errors</h2>{table(('route', 'requests', 'what'), rows)}{more}"


def _trust(run: Run, every: Route) -> str:
    generator, verdict = run.generator, run.verdict
    lags = {"sent late by": generator.start_lag, "its event loop late by": generator.loop_lag}
    rows = [
        (what, *(f"{ms(lag.percentile(p))} ms" for p in (50, 95, 99)), f"{lag.n:,} times") if lag.buckets
        else (what, "", "", "", "not measured")
        for what, lag in lags.items()
    ]  # fmt: skip
    seen = {
        "most CPU of one process": f"{generator.cpu:.0%} of a core",
        "most time stolen from this machine": f"{generator.steal:.0%}",
        "not sent (too many unanswered)": f"{generator.dropped:,} requests",
        "unfinished at the end": f"{generator.unfinished:,} requests",
        "not timed by the edge": f"{every.untold:,} of {every.requests:,} requests",
        f"with a hop below {SKEW:g} ms": f"{every.skewed:,} requests",
    }
    said = "; ".join(verdict.reasons) or "the load generator sent its requests in time, and was not held up itself"
    return (
        f'<h2>Can it be trusted?</h2><p><b class="{verdict.word}">{verdict.word}</b>: {html(said)}.</p>'
        f"{table(('the load generator', 'p50', 'p95', 'p99', 'measured'), rows)}{facts(seen)}"
    )


def _conditions(run: Run) -> str:
    parts = (("What was asked", run.asked), ("Versions", run.versions), ("Machine of the generator", run.machine))
    shown = "".join(f"<h2>{title}</h2>{facts(of)}" for title, of in parts if of)
    settings = "".join(
        f"<details><summary>Settings of {html(app)}</summary>{facts(of)}</details>"
        for app, of in sorted(run.settings.items())
    )
    return f"{shown}{settings}"
