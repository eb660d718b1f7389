"""What a run must meet: the limits of an environment, environments/slo/<env>.yml, and what a run makes of them.

The code of a judgement is an exit code. Locust ends with 1 when requests failed and with 2 when called wrongly, so

    0  MET      all limits
    3  MISSED   at least one
    4  INVALID  the measurement says nothing: the load generator was late, or there were too few requests

A late generator excuses times and rates, but no error; too few requests for one limit excuse no other that is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.hops import HOPS, TOTAL, Histogram, Route
from loadtests.run import Run
from loadtests.validity import LARGE, LEAST
from stack.explain import nearest, sentences
from stack.load import SiteError, environments
from stack.model import Strict
from stack.source import Problem, Source, plain, show

MET, MISSED, INVALID = 0, 3, 4
STATISTICS = {"mean": 20, "p50": 20, "p75": 100, "p90": 100, "p95": 100, "p99": 100, "p99.9": 1000}
"""Statistic -> requests that it takes at least: among fewer, a single one decides."""
METRICS = ["errors", *STATISTICS, *(f"{hop} {statistic}" for hop in HOPS for statistic in STATISTICS)]
ALLOWED = f"errors, {', '.join(STATISTICS)}; these of a hop, as in queue p95: {', '.join(HOPS)}; in total also rate"
BEYOND = 1e6  # times a limit of 0; infinity is no JSON


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"unknown metric.{nearest(metric, METRICS)} Allowed: {ALLOWED}")
    return metric


MetricOrRate = Annotated[str, AfterValidator(lambda metric: metric if metric == "rate" else _known(metric))]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Limits = dict[Annotated[str, AfterValidator(_known)], Limit]


class Slo(Strict):
    """Metric -> limit, in each of these. `rate` must be at or above its limit, all others at or below."""

    total: dict[MetricOrRate, Limit] = Field(default_factory=dict)
    """All requests together: ms, percent (errors), requests per second (rate)."""
    each: Limits = Field(default_factory=dict)
    """Each route by itself: ms, percent (errors)."""
    routes: dict[str, Limits] = Field(default_factory=dict)
    """Routes by name or pattern, instead of what `each` says of the metric: ms, percent (errors)."""

    def of(self, route: str) -> dict[str, float]:
        """A route's limits: its name beats patterns, a longer pattern a shorter one, of equals the later wins."""
        fitting = sorted((p for p in self.routes if fnmatchcase(route, p)), key=lambda p: (p == route, len(p)))
        return self.each | {metric: limit for pattern in fitting for metric, limit in self.routes[pattern].items()}


def load(root: Path, env: str) -> Slo | None:
    """The limits of an environment of the site below root; None if it has none. Raises SiteError with their problems, and
    with files of limits that belong to no environment."""
    folder, known = root / "environments/slo", [f"{name}.yml" for name in environments(root)]
    said = "no environment goes by this name."
    problems = [
        Problem(show(file, root), "", f"{said}{nearest(file.name, known)} Allowed: {', '.join(known)}")
        for file in sorted(folder.glob("*"))
        if file.name not in known
    ]
    file = folder / f"{env}.yml"
    if problems:
        raise SiteError(problems)
    if not file.exists():
        return None
    source = Source(file, root)
    problems = source.problems
    try:
        slo = Slo.model_validate(plain(source.data))
        if not problems and not (slo.total or slo.each or any(slo.routes.values())):
            problems = [source.problem((), "no limit is here. Write one, or remove the file")]
    except ValidationError as error:
        problems = sorted((source.problem(*wrong) for wrong in sentences(Slo, error)), key=lambda p: p.line or 0)
    if problems:
        raise SiteError(problems)
    return slo


@dataclass(frozen=True)
class Row:
    """A limit and what the run made of it. Texts have their units."""

    route: str  # TOTAL: all requests together
    metric: str
    limit: str
    measured: str
    met: bool
    miss: str  # by how much ("1.7 x"), or why it is not judged; empty where it is met
    judged: bool  # False: neither met nor missed
    times: float  # measured / limit (rate: limit / measured); above 1 is missed


@dataclass(frozen=True)
class Judgement:
    rows: list[Row]
    sentence: str
    code: int  # MET, MISSED or INVALID


SEARCH = "Knee"
"""The shape that goes on until it bends: its end meets no limits, and is not judged."""


def exit_code(run: Run, judgement: Judgement, crashed: bool) -> int | None:
    """None: Locust's own, which is 1 when a request failed or something crashed. Without a limit for errors, that is for
    Locust to judge. crashed: a task or a listener raised."""
    if judgement.rows:
        said = judgement.code or (MET if any(row.metric == "errors" for row in judgement.rows) else None)
        return None if said == MET and crashed else said
    return INVALID if run.verdict.word == "INVALID" and run.asked.get("shape") != SEARCH else None


def judge(run: Run, slo: Slo | None) -> Judgement:
    """What the run makes of the limits. Without limits MET, and the sentence says that nothing was judged."""
    if run.asked.get("shape") == SEARCH:
        return Judgement([], "A search for where it bends meets no limits: nothing was judged.", MET)
    if slo is None:
        return Judgement([], "No limits are set for this environment: nothing was judged.", MET)
    rows, invalid = list(_rows(run, slo)), run.verdict.word == "INVALID"
    missed, unjudged = [r for r in rows if r.judged and not r.met], [r for r in rows if not r.judged]
    counts = {"met": sum(row.met for row in rows), "missed": len(missed), "not judged": len(unjudged)}
    said = f"Limits: {', '.join(f'{count} {word}' for word, count in counts.items() if count) or 'none of this run'}."
    if missed or (unjudged and not invalid):
        row = max(missed or unjudged, key=lambda row: row.times)
        said += f" {'The worst' if missed else 'Such as'}: {row.route}: {row.metric} {row.measured}, limit {row.limit} ({row.miss})."
    if run.verdict.reasons:
        said += f" The measurement is {'invalid' if invalid else 'doubtful'}: {'; '.join(run.verdict.reasons)}."
    return Judgement(rows, said, MISSED if missed else INVALID if unjudged or invalid else MET)


def _rows(run: Run, slo: Slo) -> Iterator[Row]:
    valid, every = run.verdict.word != "INVALID", run.every
    for name, route, limits in ((TOTAL, every, slo.total), *((n, r, slo.of(n)) for n, r in sorted(run.routes.items()))):
        for metric, limit in limits.items():
            hop = metric.rpartition(" ")[0]
            # A route need not have every hop. That one has none that is named, or no answer of the run, is another matter.
            named = name == TOTAL or metric in slo.routes.get(name, {})
            if not hop or hop in route.histograms or named or "network" not in every.histograms:
                yield _row(name, route, metric, limit, run, valid)
    for pattern in slo.routes:
        if not any(fnmatchcase(name, pattern) for name in run.routes):
            miss = f"no such request was made.{nearest(pattern, sorted(run.routes))}"
            yield Row(pattern, "requests", "at least 1", "0", False, miss, valid, BEYOND)


def _row(name: str, route: Route, metric: str, limit: float, run: Run, valid: bool) -> Row:
    hop, _, statistic = metric.rpartition(" ")
    times, least = route.histograms.get(hop or TOTAL, Histogram()), STATISTICS.get(statistic, 1)
    requests = times.n if statistic in STATISTICS else route.requests
    unit = {"errors": "%", "rate": "/s"}.get(metric, "ms")
    shown = f"{'at least ' * (metric == 'rate')}{limit:,.10g} {unit}"
    if requests < least:
        why = f"too few: it takes {least}" if requests or not hop else "no answer tells it: is edge.timing on?"
        return Row(name, metric, shown, f"of {requests} requests", False, why, False, 0.0)
    values = {
        "errors": 100 * route.failed / requests,
        "rate": (route.requests - route.failed) / (run.seconds or 1),
        "mean": times.sum / requests,
    }
    value = values[statistic] if statistic in values else times.percentile(float(statistic[1:])) or 0.0
    measured = f"{value:,.3g} % ({route.failed:,} of {requests:,})" if unit == "%" else f"{value:,.1f} {unit}"
    more, less = (limit, value) if metric == "rate" else (value, limit)
    ratio = more / less if less else BEYOND * (more > 0)
    # Where the generator's own lag may be what misses this limit, it does not count as missed.
    late = run.generator.lag > max(LEAST, LARGE * limit)
    judged = metric == "errors" or (valid and (more <= less or metric == "rate" or not late))
    miss = "" if more <= less else f"{ratio:,.{1 if ratio > 1.1 else 2}f} x" if less else "none allowed"
    return Row(name, metric, shown, measured, judged and not miss, miss if judged else "not judged", judged, ratio)


def table(judgement: Judgement, console: Console) -> None:
    """What is missed or cannot be judged, the worst first, and the sentence."""
    shown = Table("route", "metric", "limit", "measured", "missed by", box=box.SIMPLE_HEAD)
    for row in sorted(judgement.rows, key=lambda row: -row.times):
        if not row.met:
            shown.add_row(*map(escape, (row.route, row.metric, row.limit, row.measured, row.miss)))
    if shown.row_count:
        console.print(shown)
    console.print(judgement.sentence, markup=False)


def wire(judgement: Judgement) -> dict[str, Any]:
    """As plain data, for JSON."""
    return asdict(judgement)
