"""What loadtests/tune.py decides: which configurations to try, at which rate, and what the measurements say.
Facts in, facts out.

p95 alone means little on a shared machine: the same configuration was 40 % apart between rounds, while all of a round moved
together. So configurations take turns, and only ratios within a round are compared.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stack import gateways, sizing

HEADROOM = 1.2
"""An SLO has to be met with this much to spare."""
CLOSE = 1.10
"""A p95 up to this many times the best's is as good: rounds of one and the same configuration differ by as much."""
OVERLAP = 1.25
"""Up to this, too, where the interval of the ratio contains 1."""
SMALL = 2.0
"""ms. A smaller difference of p95 is none: clocks and timers are not better than that."""
HOPELESS = 1.5
"""Ratio to the best beyond which more rounds would not change the decision."""
SPREAD = 1.3
"""Of square-root staffing: r requests in work on average want r + 1.3 sqrt(r) places, and few wait (Halfin and Whitt)."""
SHARE = 0.6
"""Of the rate that the app's cpus could do at most: high enough to queue where there are too few places."""
LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of workers: far enough apart that two runs on a noisy machine ask for the same."""
MOST_THREADS = 64
FIELD, FINALISTS = 8, 4
"""Configurations that are tried at all, and after two rounds."""
ROUNDS = (2, 4, 8)
"""For all; for those that are left; and at most, while which one is the smallest that is good enough is still open."""
REPEATS = 2
"""Of a visit in which the generator was late."""


@dataclass(frozen=True, order=True)
class Candidate:
    """A configuration. They order by size: fewer workers first, then fewer threads."""

    workers: int
    threads: int
    """In each worker; 1 where the gateway uses none."""
    gateway: str

    @property
    def slots(self) -> int | None:
        """Requests at a time; None: an event loop, as many as come."""
        loop = gateways.GATEWAYS[self.gateway].concurrency == "loop"
        return None if loop else self.workers * self.threads

    def __str__(self) -> str:
        threads = f" x {self.threads} thread{'s' if self.threads > 1 else ''}" if threaded(self.gateway) else ""
        return f"{self.gateway}, {self.workers} worker{'s' if self.workers > 1 else ''}{threads}"


def threaded(gateway: str) -> bool:
    return gateways.GATEWAYS[gateway].concurrency == "thread"


def candidate(gateway: str, workers: int, threads: int) -> Candidate:
    return Candidate(workers, threads if threaded(gateway) else 1, gateway)


@dataclass(frozen=True)
class Character:
    """What one request is to the app, measured while nobody waits."""

    service: float
    """s in the app, mean."""
    cpu: float
    """s of CPU time in the app's container."""
    worker: float
    """MiB of a worker, what it shares with others divided among them (PSS)."""
    parent: float
    """MiB of all other processes of the container."""

    @property
    def waits(self) -> float:
        """Part of its time that a request uses no CPU, 0..1."""
        return min(max(1 - self.cpu / self.service, 0.0), 1.0) if self.service else 0.0

    def fit(self, limit: float) -> int:
        """Workers that `limit` MiB hold."""
        spare = sizing.MEMORY_SHARE * limit - self.parent
        return math.floor(spare / max(self.worker, 1))


# --- what to try ------------------------------------------------------------------------------------------------------


def fair_rate(of: Character, cpus: float, cap: float) -> float:
    """Requests a second to compare configurations at; cap: what the load generator and this machine can do."""
    return min(SHARE * cpus / max(of.cpu, 1e-5), cap)


def visit_seconds(rate: float) -> float:
    """s for which a visit asks: a p95 of 300 requests is one of 15, and a slow app must not take all day."""
    return min(max(300 / rate, 5.0), 12.0)


def places(rate: float, of: Character) -> int:
    """Workers or threads that `rate` needs with few waiting."""
    load = rate * of.service
    return max(1, math.ceil(load + SPREAD * math.sqrt(load)))


def control(interface: str, cpus: float) -> Candidate:
    """The rule of thumb: 2n+1 workers that do one thing at a time, or event loops."""
    return candidate("gunicorn-sync" if interface == "wsgi" else "uvicorn", 2 * math.ceil(cpus) + 1, 1)


def candidates(
    current: Candidate, of: Character, cpus: float, limit: float, rate: float, allowed: Sequence[str]
) -> list[Candidate]:
    """At most FIELD: the current one, the rule of thumb, and around what the rate needs, of the gateways allowed; only what fits.
    limit: MiB; rate: requests a second."""
    interface = gateways.GATEWAYS[current.gateway].interface
    whole, needed, fit = math.ceil(cpus), places(rate, of), of.fit(limit)
    processes = next(step for step in (*LADDER, needed) if step >= needed)
    found = [current, control(interface, cpus)]
    for gateway in dict.fromkeys([current.gateway, gateways.DEFAULT[interface], "gunicorn-sync"]):
        if gateways.GATEWAYS[gateway].concurrency == "process":
            found += [candidate(gateway, min(processes, fit), 1)]
        else:
            found += [candidate(gateway, workers, _threads(needed, workers)) for workers in (1, whole, 2 * whole)]
            found += [candidate(gateway, workers, 2 * _threads(needed, workers)) for workers in (whole, 2 * whole)]
    fitting = [c for c in dict.fromkeys(found) if c == current or (c.workers <= fit and c.gateway in allowed)]
    return fitting[:FIELD]


def _threads(slots: int, workers: int) -> int:
    """A power of two, so that two runs on a noisy machine ask for the same."""
    return min(MOST_THREADS // 2, 1 << math.ceil(math.log2(max(2, slots / workers))))


# --- what it came to --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """One configuration under load for some seconds. Times are ms, from when a request was due."""

    round: int
    candidate: Candidate
    rate: float
    seconds: float
    requests: int
    failed: int
    p50: float
    p95: float
    queue: float
    """p95 of the wait in front of the gateway's workers."""
    nginx: float
    """p95 in Nginx."""
    app: float
    """Mean in the app."""
    cpu: float
    """ms of CPU time a request, in the app's containers."""
    cpus: float
    """CPUs that the app's containers used."""
    machine: float
    """Busy part of all of this machine's cores, 0..1."""
    memory: float
    """MiB in use at the end, of the replica that had most."""
    lag: float
    """p99 of how late the generator was."""
    failures: Mapping[str, int]

    @property
    def valid(self) -> bool:
        """Whether this measured the app, and not the generator: sent on time, as far as p95 is concerned (loadtests/validity.py)."""
        return self.requests > 0 and self.lag <= max(5.0, 0.2 * self.p95)

    def meets(self, slo: float) -> bool:
        """slo: p95 in ms."""
        return self.requests > 0 and not self.failed and self.p95 <= slo


@dataclass(frozen=True)
class Ratio:
    """How many times the p95 of another one, in rounds that have both: geometric mean and its interval (90 %)."""

    middle: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.middle:.2f} x ({self.low:.2f} to {self.high:.2f}, {self.rounds} rounds)"


def ratio(visits: Sequence[Visit], of: Candidate, to: Candidate) -> Ratio | None:
    """None: no round has valid visits of both. Up to four rounds the interval is all of them, then a bootstrap's."""
    if of == to:
        return Ratio(1.0, 1.0, 1.0, len({v.round for v in visits if v.candidate == of and v.valid}))
    rounds: dict[int, dict[Candidate, float]] = {}
    for v in visits:
        if v.valid and v.p95 > 0 and v.candidate in (of, to):
            rounds.setdefault(v.round, {})[v.candidate] = math.log(v.p95)
    logs = [both[of] - both[to] for both in rounds.values() if len(both) == 2]
    if not logs:
        return None
    low, high = min(logs), max(logs)
    if len(logs) > 4:
        draw = random.Random(len(logs))
        means = sorted(statistics.fmean(draw.choices(logs, k=len(logs))) for _ in range(1000))
        low, high = means[50], means[949]
    return Ratio(math.exp(statistics.fmean(logs)), math.exp(low), math.exp(high), len(logs))


def good(visits: Sequence[Visit], of: Candidate, slo: float) -> bool:
    """Whether it met the SLO with headroom, and failed in no more than one visit of three."""
    mine = [v for v in visits if v.candidate == of and v.valid]
    if not mine:
        return False
    broken = sum(1 for v in mine if not v.meets(slo))
    return statistics.median(v.p95 for v in mine) <= slo / HEADROOM and broken <= len(mine) // 3


def known(visits: Sequence[Visit], of: Candidate) -> bool:
    """Whether it has a valid visit in as many rounds as all of them take part in."""
    return len({v.round for v in visits if v.candidate == of and v.valid}) >= ROUNDS[0]


def level(visits: Sequence[Visit], of: Candidate) -> float:
    """Its p95 in ms: the median of its visits; infinite where there are none."""
    return statistics.median([v.p95 for v in visits if v.candidate == of and v.valid] or [math.inf])


def best_of(visits: Sequence[Visit], among: Sequence[Candidate]) -> Candidate:
    """The one that is fastest compared with each other one, in the rounds that both were in: no round's luck, and no single
    candidate's noise, is the measure."""

    def beaten(c: Candidate) -> float:
        ratios = [math.log(r.middle) for other in among if other != c and (r := ratio(visits, c, other))]
        return statistics.fmean(ratios) if ratios else 0.0

    return min(among, key=lambda c: (beaten(c), c))


def near(visits: Sequence[Visit], c: Candidate, best: Candidate) -> bool:
    """Whether it is as fast as the best, as far as this machine can show."""
    found = ratio(visits, c, best)
    if found is None:
        return False
    same = level(visits, c) - level(visits, best) < SMALL
    return same or found.middle <= CLOSE or (found.low <= 1 and found.middle <= OVERLAP)


def apart(visits: Sequence[Visit], c: Candidate, best: Candidate) -> bool:
    """Whether it is slower than the best beyond doubt, which two rounds alone leave unless it is much slower. Between this and
    `near`, nobody can tell."""
    found = ratio(visits, c, best)
    if found is None or (found.rounds <= ROUNDS[0] and found.middle <= HOPELESS):
        return found is None
    return found.low > CLOSE and level(visits, c) - level(visits, best) >= SMALL


def undecided(visits: Sequence[Visit], among: Sequence[Candidate], slo: float, current: Candidate) -> list[Candidate]:
    """Those whose next rounds may change the decision, the best among them; none where all is clear. In doubt may be what is not
    larger than the choice, and the current one."""
    fit = [c for c in among if good(visits, c, slo)]
    if len(fit) < 2:
        return []
    best = best_of(visits, fit)
    choice = min(c for c in fit if near(visits, c, best))

    def doubtful(c: Candidate) -> bool:
        found = ratio(visits, c, best)
        apart = abs(level(visits, c) - level(visits, best)) >= SMALL
        return c != best and apart and found is not None and found.low <= CLOSE < found.high

    left = [c for c in fit if (c <= choice or c == current) and doubtful(c)]
    return [c for c in fit if c in (*left, choice, best, current)] if left else []


def survivors(visits: Sequence[Visit], among: Sequence[Candidate], slo: float, current: Candidate) -> list[Candidate]:
    """Those that more rounds can still change something about; the smallest of the near ones before the others."""
    fit = [c for c in among if good(visits, c, slo)]
    if not fit:
        return []
    best = best_of(visits, fit)
    ratios = {c: r.middle for c in fit if (r := ratio(visits, c, best)) and r.middle <= HOPELESS}
    few = sorted(ratios, key=lambda c: (ratios[c] > OVERLAP, c))[:FINALISTS]
    return [c for c in among if c in (*few, best) or (c == current and (c in fit or not known(visits, c)))]


@dataclass(frozen=True)
class Decision:
    """choice: None where none meets the SLO, or too little is known."""

    choice: Candidate | None
    best: Candidate | None
    sentence: str
    changes: bool = False
    """Whether the choice is worth writing down."""
    known: bool = True
    """Whether enough visits were valid."""


def decide(visits: Sequence[Visit], among: Sequence[Candidate], current: Candidate, slo: float) -> Decision:
    """The smallest configuration that meets the SLO and is not distinguishable from the best. The current one gives way to what is
    faster beyond doubt, or as fast with fewer workers; not to luck, so that two runs say the same."""
    if not known(visits, current):
        late = sum(not v.valid for v in visits)
        told = f"too little is known of {current}: the load generator was late in {late} of {len(visits)} visits"
        return Decision(None, None, told, known=False)
    fit = [c for c in among if known(visits, c) and good(visits, c, slo)]
    if not fit:
        least = min((v.p95 for v in visits if v.valid and not v.failed), default=None)
        told = f"the lowest p95 without a failure was {least:.0f} ms" if least else "none answered without failures"
        return Decision(
            None, None, f"no configuration meets p95 <= {slo:.0f} ms with {HEADROOM - 1:.0%} to spare: {told}"
        )
    best = best_of(visits, fit)
    close = [c for c in fit if near(visits, c, best)]
    choice = min(close)
    if current not in fit:
        missed = f"{current} does not meet p95 <= {slo:.0f} ms with {HEADROOM - 1:.0%} to spare"
        return Decision(choice, best, f"{choice}: {missed}", changes=True)
    if choice != current and apart(visits, current, best):
        slower = f"p95 with {current}, as now, is {ratio(visits, current, choice)} as long"
        return Decision(choice, best, f"{choice}: {slower}", changes=True)
    if choice != current and len(fit) == len(among) and not any(apart(visits, c, best) for c in among):
        smaller = f" {choice} would be the smallest." if choice.workers < current.workers else ""
        nothing = f"nothing separates the {len(among)} configurations at this rate, so {current} stays."
        return Decision(current, best, nothing + smaller)
    if choice.workers < current.workers:
        return Decision(
            choice, best, f"{choice}: as fast as {current}, as far as can be told, and smaller", changes=True
        )
    return Decision(
        current, best, f"{current} stays: nothing with fewer workers is as fast, and nothing is faster beyond doubt"
    )


def search(
    visit: Callable[[int, Candidate, float], Visit],
    among: Sequence[Candidate],
    current: Candidate,
    slo: float,
    seconds: float,
    tell: Callable[[str], None],
) -> list[Visit]:
    """Every visit of every round. visit: (round, candidate, s). Each round goes through those that are left the other way
    round than the one before; rounds for fewer are longer."""
    visits: list[Visit] = []

    def go(number: int, left: Sequence[Candidate], length: float) -> None:
        for c in left if number % 2 else reversed(left):
            for _ in range(1 + REPEATS):
                visits.append(visit(number, c, length))
                if visits[-1].valid:
                    break
        if number >= everyone:
            so_far = decide(visits, among, current, slo)
            tell(
                f"round {number}, of {len(left)}: {f'so far the choice is {so_far.choice}' if so_far.choice else so_far.sentence}"
            )

    everyone, some, most = ROUNDS
    for number in range(1, everyone + 1):
        go(number, among, seconds)
    for number in range(everyone + 1, some + 1):
        left = survivors(visits, among, slo, current)
        if len(left) < 2:
            return visits
        go(number, left, 1.5 * seconds)
    for number in range(some + 1, most + 1):
        if not (left := undecided(visits, among, slo, current)):
            break
        go(number, left, 2 * seconds)
    return visits


def advice(of: Character) -> str:
    """What kind of app this is, in a sentence."""
    if of.waits < 0.2:
        return f"The app computes {1 - of.waits:.0%} of its time: more workers than cpus gain nothing, more cpus do."
    carry = 1 / max(1 - of.waits, 0.01)
    return (
        f"The app waits {of.waits:.0%} of its time: while one request waits, a cpu can carry {carry:.0f} "
        "times as many, with threads or an async gateway."
    )


# --- capacity ---------------------------------------------------------------------------------------------------------

FINE = 1.15
"""Two rates this close are one, on a shared machine."""


def next_rate(tried: Mapping[float, bool], first: float, cap: float) -> float | None:
    """The rate to try next, given which ones met the SLO; None: found (see `highest`). First up by a third or down to a half, then
    between."""
    if not tried:
        return min(first, cap)
    low = highest(tried)
    high = min((rate for rate, well in tried.items() if not well and rate > low), default=None)
    if high is None:
        return None if low >= cap else min(low * 1.33, cap)
    if not low:
        return None if high < 1 else high / 2
    return None if high / low <= FINE else math.sqrt(low * high)


def highest(tried: Mapping[float, bool]) -> float:
    """The highest rate that met the SLO; 0: none did."""
    return max((rate for rate, well in tried.items() if well), default=0.0)


def broke(v: Visit, slots: int | None, cpus: float, limit: float) -> str:
    """What a visit that missed its SLO ran into first: the hop, and why there. slots, cpus: of all replicas; limit: MiB of one."""
    working = v.rate * v.app / 1000
    if not v.valid:
        return "the client: the load generator was late, so nothing is known of the app at this rate"
    if v.memory > 0.95 * limit:
        return f"memory: {v.memory:.0f} of {limit:.0f} MiB in use"
    if v.cpus > 0.85 * cpus:
        return f"CPU: the app used {v.cpus:.2f} of its {cpus:g} cpus"
    if v.machine > 0.9:
        return f"CPU: {v.machine:.0%} of this machine's cores were busy, the load generator and Nginx with them"
    if slots and working > 0.8 * slots:
        return f"workers and threads: {min(working, slots):.0f} of {slots} held a request, and others waited {v.queue:.0f} ms (p95)"
    if v.nginx > max(v.queue, v.app):
        return f"Nginx: {v.nginx:.0f} ms (p95) were spent there"
    if v.queue > v.app:
        return f"the queue in front of the gateway: {v.queue:.0f} ms (p95), and {v.app:.0f} ms in the app"
    return f"the app itself: {v.app:.0f} ms on average"


def ceilings(of: Character, slots: int | None, cpus: float, cores: int, edge: float, client: float) -> dict[str, float]:
    """Requests a second at which each part would be busy all the time, the lowest first. edge: s of Nginx's CPU time a request;
    client: what the generator sends at most."""
    found = {
        "the app's cpus": cpus / max(of.cpu, 1e-6),
        "this machine's cores": cores / max(of.cpu + edge, 1e-6),
        "Nginx": cores / max(edge, 1e-6),
        "the load generator": client,
    }
    if slots:
        found["workers and threads"] = slots / max(of.service, 1e-6)
    return dict(sorted(found.items(), key=lambda item: item[1]))
