"""Two runs side by side: what is slower or faster than a run's own noise explains.

    python -m loadtests.compare A B        (run.json, or the folder that has it; writes compare.html next to B's)

Exit code 0 whatever is found, 2 when one of them is no run.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape as html
from itertools import groupby, pairwise
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.hops import HOPS, TOTAL, WIDTH, Histogram, middle
from loadtests.page import CHARTS, COARSE, document, facts, ms, plain
from loadtests.run import Run

WARM, BLOCKS, LEAST = 0.10, 10, 5
"""Part of a run that is left out as warm-up; blocks that the rest is cut into; pairs of blocks that a bound takes."""
Z = NormalDist().inv_cdf(0.975)
METHOD = (
    f"Means and errors: the first {WARM:.0%} of each run is left out, the rest cut into {BLOCKS} blocks of the same length. A and "
    "B are means of the blocks, and the 95 % interval of B/A is Student's t over the differences of the pairs of blocks. "
    "Percentiles are of whole runs: the interval comes from the binomial spread of the rank in each histogram, widened by as "
    "much as the blocks' means differ more than those of independent requests would, and by a bucket's 2 %. Slower and "
    "faster are said where the interval, to two decimals, excludes 1; by chance alone that is so for at most one ratio in twenty. All this sees the noise within a "
    "run only, not what differs from one run to the next: other neighbours, a cold cache, a new process. Before you "
    "trust a small difference, run A and B again, in turns."
)


@dataclass(frozen=True)
class Line:
    """One metric of one route in both runs. Texts have their units."""

    route: str
    metric: str
    a: str
    b: str
    verdict: str
    ratio: float | None = None  # B/A; None: A is 0, or both are too small
    interval: tuple[float, float] | None = None  # 95 %, of the ratio

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        interval = f"{max(self.interval[0], 0):.2f} to {self.interval[1]:.2f}" if self.interval else ""
        return self.route, self.metric, self.a, self.b, ratio, interval, self.verdict


SAME, FEW, SMALL = "same, within noise", "too few to tell", "below the edge's 1 ms"
WORSE, BETTER = ("slower", "more"), ("faster", "fewer")
Block = dict[str, list[float]]
"""Hop -> [requests, sum of ms], of one route in one block."""


def compare(a: Run, b: Run) -> list[Line]:
    """Of all routes that are in both."""
    return [line for name in sorted(a.routes.keys() & b.routes.keys()) for line in _route(name, a, b)]


def _route(name: str, a: Run, b: Run) -> Iterator[Line]:
    before, after = (run.routes[name].histograms for run in (a, b))
    blocks = list(zip(_blocks(a, name), _blocks(b, name), strict=True))
    if TOTAL in before and TOTAL in after:
        wider = _wider(before[TOTAL], after[TOTAL], blocks)
        for percent in (50, 95, 99):
            x, y = (_rank(of[TOTAL], percent, of[TOTAL].n / wider) for of in (before, after))
            yield _line(name, f"p{percent}", f"{ms(x[0])} ms", f"{ms(y[0])} ms", *_ratio(x, y))
    for metric in ("mean", *(hop for hop in HOPS if hop in before or hop in after), "errors"):
        pairs = [(_value(x, metric), _value(y, metric)) for x, y in blocks]
        yield from _means(name, metric, [(x, y) for x, y in pairs if x is not None and y is not None])


def _line(route: str, metric: str, a: str, b: str, ratio: float, low: float, high: float) -> Line:
    low, high = round(low, 2), round(high, 2)  # what is shown must agree with what is said
    verdict = SAME if low <= 1 <= high else (WORSE if low > 1 else BETTER)[metric == "errors"]
    return Line(route, metric, a, b, verdict, ratio, (low, high))


def _means(name: str, metric: str, pairs: Sequence[tuple[float, float]]) -> Iterator[Line]:
    if not pairs:
        return
    x, y = fmean(x for x, _ in pairs), fmean(y for _, y in pairs)
    a, b = (f"{value:.2%}" if metric == "errors" else f"{ms(value, metric)} ms" for value in (x, y))
    if metric in COARSE and max(x, y) < 1:
        yield Line(name, metric, a, b, SMALL)
    elif len(pairs) < LEAST:
        yield Line(name, metric, a, b, FEW, y / x if x else None)
    elif x:
        half = _half([after - before for before, after in pairs]) / x
        yield _line(name, metric, a, b, y / x, y / x - half, y / x + half)
    else:  # no ratio, but what is new may be more than noise
        more = y > _half([after for _, after in pairs])
        yield Line(name, metric, a, b, WORSE[metric == "errors"] if more else SAME)


def _half(values: Sequence[float]) -> float:
    """Half the 95 % interval of their mean. Student's t by its series (Abramowitz and Stegun 26.7.5): within 1 %."""
    n = len(values) - 1
    t = Z + (Z**3 + Z) / (4 * n) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * n**2)
    t += (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * n**3)
    return t * stdev(values) / math.sqrt(len(values))


def _blocks(run: Run, name: str) -> list[Block]:
    blocks: list[Block] = [{} for _ in range(BLOCKS)]
    seconds = sorted(run.series)
    grain = min((after - before for before, after in pairwise(seconds)), default=1)
    for second in seconds:
        at = (second - seconds[0]) / (seconds[-1] + grain - seconds[0])
        if at >= WARM:
            for hop, (count, total) in run.series[second].get(name, {}).items():
                pair = blocks[int((at - WARM) / (1 - WARM) * BLOCKS)].setdefault(hop, [0.0, 0.0])
                pair[0] += count
                pair[1] += total
    return blocks


def _value(block: Block, metric: str) -> float | None:
    """Mean ms that a hop, or everything, took of a request; of errors their part of the requests, 0..1."""
    n, total = block.get(TOTAL, (0, 0.0))
    failed = block.get("failed", (0, 0.0))[0]
    if metric == "errors":
        return failed / max(n, failed) if n or failed else None  # what was never sent has no time
    return (total if metric == "mean" else block.get(metric, (0, 0.0))[1]) / n if n else None


def _wider(a: Histogram, b: Histogram, blocks: Sequence[tuple[Block, Block]]) -> float:
    """How many times more the blocks' means vary than if requests were independent; those in one queue are not."""
    pairs = [(x[TOTAL], y[TOTAL]) for x, y in blocks if TOTAL in x and TOTAL in y]
    if len(pairs) < LEAST:
        return 1.0
    seen = stdev(y[1] / y[0] - x[1] / x[0] for x, y in pairs) ** 2
    expected = sum(_variance(of) * fmean(1 / pair[i][0] for pair in pairs) for i, of in enumerate((a, b)))
    return max(1.0, seen / expected) if expected else 1.0


def _variance(histogram: Histogram) -> float:
    """ms squared."""
    mean, n = histogram.mean or 0.0, histogram.n
    return sum(count * (middle(bucket) - mean) ** 2 for bucket, count in histogram.buckets.items()) / n


def _rank(histogram: Histogram, percent: float, n: float) -> tuple[float, float, float]:
    """A percentile and the ends of its 95 % interval among n independent requests, in ms."""
    half = Z * math.sqrt(percent * (100 - percent) / n)
    ranks = percent, max(percent - half, 0.0), min(percent + half, 100.0)
    here, low, high = (max(histogram.percentile(rank) or 0.0, 0.001) for rank in ranks)
    return here, low, high


def _ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """B/A and its interval from both's intervals (MOVER, Zou and Donner 2008), on a logarithmic scale."""
    (x, x_low, x_high), (y, y_low, y_high) = ([math.log(value) for value in of] for of in (a, b))
    low = y - x - math.hypot(y - y_low, x_high - x) - WIDTH
    high = y - x + math.hypot(y_high - y, x - x_low) + WIDTH
    return math.exp(y - x), math.exp(low), math.exp(high)


# --- what is shown ----------------------------------------------------------------------------------------------------

NO_SETTING = ("load average", "knee")
"""What differs from run to run by itself."""


def doubts(a: Run, b: Run) -> list[str]:
    """What makes the comparison worth less, in sentences."""
    found = [
        f"{name} is {run.verdict.word}: {'; '.join(run.verdict.reasons)}."
        for name, run in (("A", a), ("B", b)) if run.verdict.word != "OK"
    ]  # fmt: skip
    for what, x, y in (("What was asked differs", a.asked, b.asked), ("The machines differ", a.machine, b.machine)):
        if differing := _differing(x, y):
            found.append(f"{what}: {', '.join(f'{key} {said}' for key, said in differing.items())}.")
    return found


def _differing(x: Mapping[str, object], y: Mapping[str, object]) -> dict[str, str]:
    """Key -> what it was in A and in B."""
    keys = [key for key in sorted(x.keys() | y.keys()) if x.get(key) != y.get(key) and key not in NO_SETTING]
    return {key: f"{plain(x.get(key))} in A, {plain(y.get(key))} in B" for key in keys}


def changes(a: Run, b: Run) -> dict[str, str]:
    """What else is not the same: routes, versions, settings."""
    only = {
        f"only in {name}": ", ".join(sorted(one.routes.keys() - other.routes.keys()))
        for name, one, other in (("A", a, b), ("B", b, a))
    }
    found = {key: names for key, names in only.items() if names} | _differing(a.versions, b.versions)
    for app in sorted(a.settings.keys() & b.settings.keys()):
        found |= {f"{app}: {key}": said for key, said in _differing(a.settings[app], b.settings[app]).items()}
    return found


def headline(lines: Sequence[Line]) -> str:
    if not lines:
        return "No route was answered in both: nothing is compared."
    said = []
    for metric in ("mean", "p95", "errors"):
        of = [line.verdict for line in lines if line.metric == metric]
        said += [f"{metric}: {', '.join(f'{of.count(word)} {word}' for word in sorted(set(of)))}"] if of else []
    return f"{len({line.route for line in lines})} routes in both. {'; '.join(said)}."


HEADINGS = ("route", "metric", "A", "B", "B/A", "95 % interval", "verdict")
STYLE = f"""{CHARTS}
.slower, .more {{ color: var(--bad); }} .faster, .fewer {{ color: var(--good); }} .route td {{ padding-top: 1rem; font-weight: 600;
  text-align: left; overflow-wrap: anywhere; }} td svg {{ display: block; width: 9rem; height: 1rem; }} td {{ white-space: nowrap; }}
dl {{ display: grid; grid-template-columns: fit-content(16rem) 1fr; gap: .1rem 1.2rem; }} .route td {{ white-space: normal; }}
dt, dd {{ float: none; width: auto; margin: 0; overflow-wrap: anywhere; }} .verdict {{ color: var(--ink); }}
@media (max-width: 640px) {{ body {{ margin: 1rem auto; padding: 0 1rem; }} th, td {{ padding: .2rem .4rem; }} }}
"""


def page(a: Run, b: Run, lines: Sequence[Line]) -> str:
    rows = []
    for route, group in groupby(lines, lambda line: line.route):
        rows.append(f'<tr class="route"><td colspan="{len(HEADINGS)}">{html(route)}')
        for line in group:
            *cells, verdict = map(html, line.cells[1:])
            texts = "".join(f"<td>{cell}" for cell in cells)
            rows.append(f'<tr>{texts}<td>{_whisker(line)}<td class="{line.verdict.partition(",")[0]}">{verdict}')
    head = "".join(f"<th>{heading}" for heading in (*HEADINGS[1:-1], "from 0.5 to 2", HEADINGS[-1]))
    table = f'<div class="scroll"><table><tr>{head}{"".join(rows)}</table></div>' if rows else ""
    doubtful = "".join(f'<p class="bad"><b>{html(doubt)}</b></p>' for doubt in doubts(a, b))
    differing = changes(a, b)
    body = (
        f"<h1>{html(a.name)} (A) and {html(b.name)} (B)</h1>{doubtful}"
        f'<p class="verdict">{html(headline(lines))}</p>{table}'
        f"{f'<h2>Not the same</h2>{facts(differing)}' if differing else ''}"
        f'<h2>How noise is told from change</h2><p class="dim">{html(METHOD)}</p>'
    )
    return document(f"{a.name} and {b.name} compared", body, STYLE)


def _whisker(line: Line) -> str:
    """The ratio and its interval, on a logarithmic scale from 0.5 to 2."""
    if not line.ratio or not line.interval:
        return ""
    low, at, high = (
        100 + 100 * min(max(math.log2(max(value, 0.01)), -1), 1)
        for value in (line.interval[0], line.ratio, line.interval[1])
    )
    return (
        '<svg viewBox="-4 0 208 16" stroke="currentColor"><path d="M100 0v16" stroke="var(--line)" stroke-width="2"/>'
        f'<path d="M{low:.0f} 8H{high:.0f}" stroke-width="2"/><circle cx="{at:.0f}" cy="8" r="4" fill="currentColor"/></svg>'
    )


def show(lines: Sequence[Line], console: Console) -> None:
    """Prints the table."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("route and metric", overflow="fold")
    for heading in HEADINGS[2:]:
        shown.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
    for route, group in groupby(lines, lambda line: line.route):
        shown.add_section()
        shown.add_row(escape(route), style="bold")
        for line in group:
            style = "red" if line.verdict in WORSE else "green" if line.verdict in BETTER else None
            shown.add_row(f"  {line.metric}", *map(escape, line.cells[2:]), style=style)
    console.print(shown)


def read(path: Path) -> Run:
    """Raises ValueError with a sentence."""
    file = path / "run.json" if path.is_dir() else path
    try:
        return Run.read(file)
    except OSError as error:
        raise ValueError(f"{file}: {(error.strerror or 'cannot be read').lower()}") from None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare", description="Compares two runs.")
    parser.add_argument("a", type=Path, metavar="A", help="run.json, or the folder that has it")
    parser.add_argument(
        "b", type=Path, metavar="B", help="the same of the other run; compare.html is written next to it"
    )
    options = parser.parse_args(arguments)
    try:
        a, b = read(options.a), read(options.b)
    except ValueError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False)
        return 2
    console, lines = Console(), compare(a, b)
    if lines:
        show(lines, console)
    for doubt in doubts(a, b):
        console.print(doubt, style="red", markup=False)
    for what, said in changes(a, b).items():
        console.print(f"{what}: {said}", markup=False)
    console.print(headline(lines), markup=False)
    file = (options.b if options.b.is_dir() else options.b.parent) / "compare.html"
    file.write_text(page(a, b, lines))
    console.print(str(file), markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
