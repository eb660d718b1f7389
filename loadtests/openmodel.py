"""The open model: when requests are due, what became of them, and what that adds up to. Facts in, facts out.

Open: requests come when they come, as those of the public do, and do not wait for each other's answers. A closed model
(a user who sends the next request after the last answer) sends least just when a server hangs, and so hides it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

INTERVALS = ("before", "during", "after")
"""Of the command that is put to the proof."""


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """When each request is due, in seconds from the start: a Poisson process of `rate` a second."""
    generator = random.Random(seed)
    at = generator.expovariate(rate)
    while at < seconds:
        yield at
        at += generator.expovariate(rate)


def mix(weights: Mapping[str, float], seed: int) -> Iterator[str]:
    """The class of each request, without end: drawn by weight."""
    generator = random.Random(seed)
    while True:
        yield from generator.choices(list(weights), list(weights.values()), k=100)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are epoch seconds."""

    kind: str  # its class: get, post, ...
    edge: str
    due: float
    started: float
    ended: float
    status: int | None = None  # None: no answer
    error: str = ""  # "<what>: <detail>"; whatever is wrong besides the status
    key: str = ""  # of the effect that it asked for
    note: str = ""  # what is worth counting and no failure

    @property
    def failure(self) -> str:
        """Failures of a kind share this word: the status, or the name of an exception. Empty: answered well."""
        if self.error:
            return self.error.partition(":")[0]
        well = self.status is not None and (200 <= self.status < 300 or self.status == 101)
        return "" if well else f"status {self.status}"

    @property
    def seconds(self) -> float:
        """From when it was due: what a generator's own delay would hide (coordinated omission) is included."""
        return self.ended - self.due

    @property
    def lag(self) -> float:
        """Seconds by which the generator was late."""
        return self.started - self.due


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The smallest value that `percent` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


@dataclass(frozen=True)
class Interval:
    """Requests that were due in it; ms."""

    requests: int
    failed: int
    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class Row:
    """All requests of one class."""

    requests: int
    failures: dict[str, int]
    notes: dict[str, int]
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def summary(outcomes: Sequence[Outcome], start: float, end: float) -> dict[str, Row]:
    """A row for each class, and one for `all`; the command ran from `start` to `end`."""
    kinds = {kind: [o for o in outcomes if o.kind == kind] for kind in sorted({o.kind for o in outcomes})}
    return {kind: _row(of, start, end) for kind, of in {**kinds, "all": list(outcomes)}.items()}


def _row(outcomes: Sequence[Outcome], start: float, end: float) -> Row:
    parts: dict[str, list[Outcome]] = {name: [] for name in INTERVALS}
    for outcome in outcomes:
        parts[INTERVALS[(outcome.due >= start) + (outcome.due >= end)]].append(outcome)
    return Row(
        len(outcomes),
        dict(Counter(o.failure for o in outcomes if o.failure).most_common()),
        dict(Counter(o.note for o in outcomes if o.note).most_common()),
        {name: _interval(of) for name, of in parts.items()},
    )


def _interval(outcomes: Sequence[Outcome]) -> Interval:
    times = [o.seconds * 1000 for o in outcomes]
    return Interval(len(outcomes), sum(1 for o in outcomes if o.failure), percentile(times, 50), percentile(times, 99))


@dataclass(frozen=True)
class Effects:
    """Answered requests that left nothing, and any that left more than one row."""

    counted: int
    lost: list[str]
    doubled: list[str]


def effects(outcomes: Iterable[Outcome], rows: Mapping[str, int]) -> Effects:
    """Compares what was asked for with what is there. A request that failed may have had its effect, once."""
    asked = {o.key: o for o in outcomes if o.key}
    lost = [key for key, o in asked.items() if not o.failure and not rows.get(key)]
    return Effects(len(asked), lost, [key for key in asked if rows.get(key, 0) > 1])


LATE, TOO_LATE = 50.0, 250.0
"""ms. The shortest thing that a proof has to see is the second in which Nginx may not know yet that a replica is gone. A
generator that is late sends in bunches, with silence between: up to a twentieth of that second does not matter, and with
silences of a quarter of it a gap might be stepped over."""


def validity(outcomes: Iterable[Outcome]) -> tuple[str, float | None]:
    """OK, WARN or INVALID, and the p99 of the start lag in ms: whether the generator kept its own time."""
    lag = percentile([o.lag * 1000 for o in outcomes], 99)
    if lag is None or lag >= TOO_LATE:
        return "INVALID", lag
    return ("OK" if lag < LATE else "WARN"), lag
