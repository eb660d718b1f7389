"""Where the time of requests went, hop by hop: from `Server-Timing` to histograms that add up. Knows nothing of Locust.

A request's time, as the client sees it, is split into

    generator  it was sent later than it was due (open model)
    network    the way there and back, and the client's own work: what the edge does not see
    body       from the answer's first byte to its last: its way here, or the app's own pace where it streams
    nginx      the edge: reading the request (with its body), tries of replicas that failed, passing on
    queue      in front of the gateway: connected, but no worker or thread has begun; with it the gateway's own work
    pool       in the app, waiting for a thread (FastAPI's `def` routes)
    app        in the app, until its answer begins
    upstream   gateway and app, where the app is not timed (its own image) or gave no answer

Each is a difference of durations of which both come from one clock: the client's minus the edge's, the edge's minus the
app's. So clocks of different hosts do not matter. The edge counts whole milliseconds: below 2 ms, `nginx` and `queue` are
right on average and not for one request. On a path with `stream: true` the body arrives while the app waits for it, so
the client's upload is the app's time there; elsewhere it is nginx's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HOPS = ("generator", "network", "nginx", "queue", "pool", "app", "upstream", "body")
TOTAL = "total"

SKEW = -2.0
"""ms. Below this a difference is no rounding: something else than durations of one request was subtracted."""


def durations(header: str) -> dict[str, float]:
    """The edge's entries of a `Server-Timing` header, in ms; nothing if it has none. An app's own entries are left out:
    the edge's stand together and in order, whatever stands before or after them."""
    at = header.rfind("edge;dur=")
    found: dict[str, float] = {}
    if at < 0:
        return found
    expected = iter(("edge", "upstream", "app", "pool"))
    for entry in header[at:].split(", "):
        name, _, value = entry.partition(";dur=")
        if name != next(expected, None):
            break
        try:
            found[name] = float(value)
        except ValueError:
            break
    return found


def split(total: float, header: str, late: float = 0.0, body: float = 0.0) -> dict[str, float] | None:
    """One request's hops in ms, or None where the answer says nothing. A negative one is returned as it is.

    total: from when it was due to its last byte, in ms. late: of these, until it was sent; body: of these, from the first
    byte of the answer to the last.
    """
    told = durations(header)
    if "edge" not in told:
        return None
    edge, upstream, app = told["edge"], told.get("upstream"), told.get("app")
    hops = {"generator": late} if late else {}
    hops["network"] = total - late - body - edge
    if body:
        hops["body"] = body
    if upstream is None:
        hops["nginx"] = edge
        return hops
    hops["nginx"] = edge - upstream
    if app is None:
        hops["upstream"] = upstream
        return hops
    hops["queue"] = upstream - app
    if pool := told.get("pool"):
        hops["pool"] = pool
        app -= pool
    hops["app"] = app
    return hops


# --- histograms -------------------------------------------------------------------------------------------------------

WIDTH = math.log(1.02)
"""Buckets are 2 % wide: a percentile is right within 1 %."""
STEPS = 1 / WIDTH


def middle(bucket: int) -> float:
    """ms, of all durations in it."""
    return math.exp((bucket - 0.5) * WIDTH) / 1000 if bucket else 0.0


class Histogram:
    """Durations in logarithmic buckets from 1 microsecond. Adding two gives exactly that of all their values."""

    __slots__ = ("buckets", "sum")

    def __init__(self, buckets: Mapping[int, int] | None = None, total: float = 0.0) -> None:
        self.buckets: dict[int, int] = dict(buckets or {})
        self.sum = total

    @property
    def n(self) -> int:
        return sum(self.buckets.values())

    @property
    def mean(self) -> float | None:
        """ms."""
        return self.sum / self.n if self.buckets else None

    def add(self, milliseconds: float) -> None:
        bucket = int(math.log(milliseconds * 1000) * STEPS) + 1 if milliseconds > 0.001 else 0
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.sum += milliseconds

    def update(self, other: Histogram) -> None:
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.sum += other.sum

    def since(self, before: Histogram) -> Histogram:
        """What came in after this one was as `before`."""
        new = {bucket: count - before.buckets.get(bucket, 0) for bucket, count in self.buckets.items()}
        return Histogram({bucket: count for bucket, count in new.items() if count}, self.sum - before.sum)

    def percentile(self, percent: float) -> float | None:
        """ms: the middle of the bucket that holds the smallest value that `percent` of all do not exceed."""
        rank, seen = math.ceil(self.n * percent / 100) or 1, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return middle(bucket)
        return None

    def wire(self) -> dict[str, Any]:
        """As plain data, for JSON and msgpack."""
        return {"buckets": dict(self.buckets), "sum": self.sum}

    @classmethod
    def read(cls, wire: Mapping[str, Any]) -> Histogram:
        return cls({int(bucket): count for bucket, count in wire["buckets"].items()}, wire["sum"])


# --- the store --------------------------------------------------------------------------------------------------------


@dataclass
class Route:
    """All requests of one name."""

    app: str = ""
    part: bool = False
    """A part of other requests, which are counted by themselves: in no total."""
    requests: int = 0
    failed: int = 0
    untold: int = 0
    """Answers without the edge's timing: none came, or it was not for us."""
    skewed: int = 0
    """Requests of which a hop was below SKEW."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """Hop, or TOTAL, -> durations."""
    errors: Counter[str] = field(default_factory=Counter)

    def histogram(self, hop: str) -> Histogram:
        found = self.histograms.get(hop)
        if found is None:
            found = self.histograms[hop] = Histogram()
        return found

    @property
    def means(self) -> dict[str, float]:
        """Hop -> ms that it adds to the mean of TOTAL: a request that has no such hop counts as 0, so that they add up."""
        n = self.histograms[TOTAL].n if TOTAL in self.histograms else 0
        return {hop: self.histograms[hop].sum / n for hop in HOPS if hop in self.histograms} if n else {}

    def update(self, other: Route) -> None:
        self.app = other.app or self.app
        self.part = other.part or self.part
        self.requests += other.requests
        self.failed += other.failed
        self.untold += other.untold
        self.skewed += other.skewed
        self.errors.update(other.errors)
        for hop, histogram in other.histograms.items():
            self.histogram(hop).update(histogram)


Second = dict[str, dict[str, list[float]]]
"""Route -> hop -> [requests, sum of ms]. `failed` is a hop of its own here, with a sum of 0."""


class Store:
    """What requests of a run have told, by route, and by second. Times are seconds of any one clock.

    A worker ships what is new (`ship`), and the master adds it (`receive`): the result is the same as if one process had
    seen all requests. Seconds travel as ages, so the workers' clocks do not matter.
    """

    KINDS = 50
    """Different errors of a route that are told apart."""
    MOST = 1000
    """Points of the series: a longer run is kept in steps of 2 s, then of 4 s, ..."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.classes: dict[str, list[int]] = {}
        """Class of users -> [requests, failed], parts left out."""
        self.seconds: dict[int, Second] = {}
        self.step = 1
        """s of one point of the series."""
        self.last = 0.0
        """When the last request was over."""

    def at(self, now: float) -> Second:
        """The point of the series that this moment belongs to."""
        point = int(now // self.step) * self.step
        if point not in self.seconds and len(self.seconds) >= self.MOST:
            self.step *= 2
            before, self.seconds = self.seconds, {}
            for second, of in before.items():
                self._add(second, of)
            return self.at(now)
        return self.seconds.setdefault(point, {})

    def _add(self, now: float, of: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        here = self.at(now)
        for name in of:
            add_up(here.setdefault(name, {}), of, [name])

    def add(
        self, name: str, app: str, total: float | None, hops: Mapping[str, float] | None, error: str, now: float,
        part: bool = False, user_class: str = "",
    ) -> None:  # fmt: skip
        """One request that is over. total: ms; None: it was never sent. error: what is wrong with it, or empty."""
        self.last = now
        route = self.routes.setdefault(name, Route(app, part))
        route.requests += 1
        if not part:
            self._classed(user_class, 1, bool(error))
        second = self.at(now).setdefault(name, {})
        if error:
            route.failed += 1
            route.errors[error if error in route.errors or len(route.errors) < self.KINDS else "others"] += 1
            _count(second, "failed", 0.0)
        if total is None:
            return
        route.histogram(TOTAL).add(total)
        _count(second, TOTAL, total)
        if hops is None:
            route.untold += 1
            return
        route.skewed += min(hops.values()) < SKEW
        for hop, duration in hops.items():
            kept = duration if duration > 0 else 0.0
            route.histogram(hop).add(kept)
            _count(second, hop, kept)

    def _classed(self, user_class: str, requests: int, failed: int) -> None:
        counts = self.classes.setdefault(user_class, [0, 0])
        counts[0] += requests
        counts[1] += failed

    def ship(self, now: float) -> dict[str, Any]:
        """Everything, as plain data; this store is empty afterwards."""
        wire = {
            "routes": {name: _wire(route) for name, route in self.routes.items()},
            "classes": self.classes,
            "ages": {int(now) - second: of for second, of in self.seconds.items()},
            "last": now - self.last,
        }
        self.clear()
        return wire

    def receive(self, wire: Mapping[str, Any], now: float) -> None:
        """Adds what another store has shipped."""
        if wire["routes"]:
            self.last = max(self.last, now - wire["last"])
        for name, data in wire["routes"].items():
            self.routes.setdefault(name, Route()).update(_read(data))
        for user_class, counts in wire.get("classes", {}).items():
            self._classed(user_class, *counts)
        for age, of in wire["ages"].items():
            self._add(int(now) - int(age), of)

    def clear(self) -> None:
        self.routes, self.classes, self.seconds, self.step, self.last = {}, {}, {}, 1, 0.0


def _count(second: dict[str, list[float]], hop: str, duration: float, count: float = 1) -> None:
    pair = second.get(hop)
    if pair is None:
        second[hop] = [count, duration]
    else:
        pair[0] += count
        pair[1] += duration


def add_up(
    into: dict[str, list[float]], second: Mapping[str, Mapping[str, Sequence[float]]], names: Iterable[str]
) -> None:
    """Adds a point of the series, of these routes together: hop -> [requests, sum of ms]."""
    for name in names:
        for hop, (count, total) in second.get(name, {}).items():
            _count(into, hop, total, count)


def whole(routes: Mapping[str, Route]) -> list[str]:
    """The names of those that are no parts of others."""
    return [name for name, route in sorted(routes.items()) if not route.part]


def _wire(route: Route) -> dict[str, Any]:
    return {
        **{key: getattr(route, key) for key in ("app", "part", "requests", "failed", "untold", "skewed")},
        "errors": dict(route.errors),
        "histograms": {hop: histogram.wire() for hop, histogram in route.histograms.items()},
    }


def _read(wire: Mapping[str, Any]) -> Route:
    histograms = {hop: Histogram.read(data) for hop, data in wire["histograms"].items()}
    return Route(**{**wire, "errors": Counter(wire["errors"]), "histograms": histograms})


# --- what it adds up to -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """What an app can have in work at once."""

    kind: str  # process, thread or loop: what takes a second request (stack/gateways.py)
    workers: int  # processes of all replicas
    slots: int | None  # requests in work at most; None: as many as come (loop)


@dataclass(frozen=True)
class Busy:
    """How an app's gateway was used, from nothing but the answers (Little's law: rate x mean time in the app)."""

    in_work: float
    """Requests that the app had in work at once, on average."""
    capacity: Capacity | None
    queue: float | None
    """ms, mean wait in front of the gateway."""
    app: float | None
    """ms, mean time in the app, the wait for a thread included."""
    body: float = 0.0
    """Answers that were under way at once, on average. A worker or thread is held by one where Nginx does not buffer it."""

    @property
    def share(self) -> float | None:
        """Of what it can have in work, 0..1; None where there is no limit."""
        return self.in_work / self.capacity.slots if self.capacity and self.capacity.slots else None

    @property
    def sentence(self) -> str:
        """What it means, for people."""
        if not self.capacity or self.queue is None or self.app is None:
            return f"{self.in_work:.1f} in the app at once"
        waits = self.queue > max(10.0, 0.2 * self.app)
        if self.capacity.slots:
            unit = "workers" if self.capacity.kind == "process" else "threads"
            said = f"{self.in_work:.1f} of {self.capacity.slots} {unit} busy ({self.share:.0%})"
            if waits and self.body > self.in_work:
                return f"{said}, and {self.body:.1f} answers under way: those that stream hold one, too"
            if waits and self.in_work < 0.8 * self.capacity.slots:
                return f"{said}: requests wait although some are free, because connections are not spread evenly over the workers"
            return f"{said}: requests wait for one" if waits else said
        said = f"{self.in_work:.1f} in work at once in {self.capacity.workers} event loops"
        if waits and self.in_work <= 1.1 * self.capacity.workers:
            return f"{said}: the event loop is blocked (a call that waits without await, or CPU work)"
        return said


def busy(routes: Iterable[Route], seconds: float, capacity: Capacity | None) -> Busy:
    """Of one app's routes in a run of so many seconds."""
    routes = list(routes)

    def of(*hops: str) -> Histogram:
        every = Histogram()
        for route in routes:
            for hop in hops:
                if hop in route.histograms:
                    every.update(route.histograms[hop])
        return every

    app, queue = of("app"), of("queue")
    in_app = app.sum + of("pool").sum
    body = of("body").sum
    return Busy(
        in_app / 1000 / seconds if seconds > 0 else 0.0,
        capacity,
        queue.mean,
        in_app / app.n if app.buckets else None,
        body / 1000 / seconds if seconds > 0 else 0.0,
    )


def rows(routes: Mapping[str, Route]) -> Iterator[dict[str, Any]]:
    """The table: a row for each route, in ms; means of hops, because means add up."""
    for name, route in sorted(routes.items()):
        total = route.histograms.get(TOTAL)
        means = route.means
        queue = route.histograms.get("queue")
        yield {
            "name": name,
            "requests": route.requests,
            "failed": route.failed,
            **{f"p{p}": total.percentile(p) if total else None for p in (50, 95, 99)},
            "mean": total.mean if total else None,
            **{hop: means.get(hop) for hop in HOPS},
            "queue_p95": queue.percentile(95) if queue else None,
        }
