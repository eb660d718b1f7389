"""Whether a load generator measured the chain or itself: OK, WARN or INVALID, with the reasons. Knows nothing of Locust.

A generator that is late, or whose event loop is, reports its own waiting as the server's. CPU use alone does not show it: a
process that is starved of a shared machine's time uses little (requests left 1.6 s late at 22 %, measured).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtests.hops import Histogram

WORDS = ("OK", "WARN", "INVALID")

LEAST = 5.0
"""ms. A lag below this never matters: it is what timers of a machine at work are late by."""
SMALL, LARGE = 0.05, 0.20
"""Lag (p99) as a part of the p95 that is judged: up to the first it is OK, beyond the second INVALID. Beyond the first, too, where
the queue was its own: it used up its core, or stopped sending. A request takes many turns of its loop, which makes the lag a
small part of the p95 (786 ms of 4,148, measured, of an answer that Nginx gives in less than one)."""
STEAL, CPU = 0.10, 0.90
"""Above these, WARN: time that the machine's host gave to others; a process's part of one core."""


@dataclass
class Generator:
    """What the processes that generate the load have seen of themselves."""

    start_lag: Histogram = field(default_factory=Histogram)
    """ms from when a request was due until it was sent; open model only."""
    loop_lag: Histogram = field(default_factory=Histogram)
    """ms by which a sleep of the event loop was late."""
    cpu: float = 0.0
    """The highest that one process used in any interval: part of one core."""
    steal: float = 0.0
    """The highest part of all cores' time that was stolen in any interval."""
    dropped: int = 0
    """Requests that were due and not sent, because too many were unanswered."""
    unfinished: int = 0
    """Requests without an answer when the run ended."""

    @property
    def lag(self) -> float:
        """ms, the larger p99 of both."""
        return max(self.start_lag.percentile(99) or 0.0, self.loop_lag.percentile(99) or 0.0)

    def update(self, other: Generator) -> None:
        self.start_lag.update(other.start_lag)
        self.loop_lag.update(other.loop_lag)
        self.cpu, self.steal = max(self.cpu, other.cpu), max(self.steal, other.steal)
        self.dropped += other.dropped
        self.unfinished += other.unfinished

    def wire(self) -> dict[str, Any]:
        """As plain data."""
        counts = {key: getattr(self, key) for key in ("cpu", "steal", "dropped", "unfinished")}
        return {"start_lag": self.start_lag.wire(), "loop_lag": self.loop_lag.wire(), **counts}

    @classmethod
    def read(cls, wire: Mapping[str, Any]) -> Generator:
        lags = {key: Histogram.read(wire[key]) for key in ("start_lag", "loop_lag")}
        return cls(**{**wire, **lags})


@dataclass(frozen=True)
class Verdict:
    """OK, WARN or INVALID, and a sentence for each thing that is not OK."""

    word: str
    reasons: list[str]


def verdict(generator: Generator, p95: float | None) -> Verdict:
    """p95: of all requests' time, in ms, which the lag is compared with (a limit that is missed is compared with it by
    itself, slo.py); None: there was no request."""
    if p95 is None:
        return Verdict("INVALID", ["no request was answered"])
    found: list[tuple[int, str]] = []
    for name, lag in (("requests were sent", generator.start_lag), ("the generator's loop was", generator.loop_lag)):
        p99 = lag.percentile(99)
        if p99 is not None and p99 > max(LEAST, SMALL * p95):
            bad = p99 > max(LEAST, LARGE * p95)
            found.append((1 + bad, f"{name} {p99:.0f} ms late (p99), and p95 is {p95:.0f} ms"))
    late = bool(found)
    if generator.cpu > CPU:
        found.append((1 + late, f"a generating process used {generator.cpu:.0%} of its core"))
    if generator.dropped:
        found.append((1 + late, f"{generator.dropped:,} requests were not sent, because too many were unanswered"))
    if generator.steal > STEAL:
        found.append((1, f"{generator.steal:.0%} of this machine's time was given to others (steal)"))
    if not generator.loop_lag.buckets:
        found.append((1, "how late the generator was is not known"))
    if generator.unfinished:
        found.append((1, f"{generator.unfinished:,} requests had no answer when the run ended"))
    return Verdict(WORDS[max((level for level, _ in found), default=0)], [sentence for _, sentence in found])
