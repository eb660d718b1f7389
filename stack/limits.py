"""What one client address may do where, and what a replica is sent at most: decided here, written down by nginx/site.conf.j2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from stack.model import App, Environment, Limits

ON_HOSTS = Limits(connections="128", requests="observe 100/s")
"""As many connections as one browser has streams at most (HTTP/2), and a small part of an edge's 4,096 a worker. Which rate is
too high nobody can know of somebody else's app, so that one only marks lines of the access log."""

LONGEST_QUEUE = 4
"""Requests that may wait for each one being served, where a gateway takes one a place: a wait of four requests' time. The
container's health check waits in the same queue for 5 s at most, three times, before the replica is given up."""
SHORTEST_QUEUE = 128
"""Of a small app: as much as one client may have (ON_HOSTS), so that nobody alone makes an app refuse others."""
LOOP = 1024
"""Of an event loop, where waiting costs next to nothing; with 50 requests a second, their answers still come within 30 s."""


@dataclass(frozen=True)
class Limit:
    """One limit at one place: the zone that counts, and what it allows."""

    kind: Literal["connections", "requests"]
    zone: str
    number: int
    """0: no limit here, though there is one around."""
    unit: str
    """Of a rate, as Nginx writes it: s or m."""
    observed: bool

    @property
    def retry_after(self) -> int:
        """s until a client may come again."""
        return -(-60 // self.number) if self.unit == "m" and self.number else 1


def on_site(environment: Environment) -> list[Limit]:
    """The limits that hold wherever no app says anything else."""
    return [limit for limit in _limits("site", of_site(environment)) if limit.number]


def on_path(environment: Environment, name: str, app: App, workers: int, path: str) -> list[Limit]:
    """The limits on one of an app's paths ("/": everything that no other path says), where they differ from the site's.

    A slow client of a streamed path occupies a worker or thread. Where nobody has set another limit, no client has more than
    half of a replica's with all its streams: 128 slow bodies on the sample's /echo left none of its 32 to others.
    """
    if not_limited(environment):
        return []
    around = {limit.kind: limit for limit in on_site(environment)}
    own: dict[str, Limit] = {}
    streams, slots = path in app.paths and app.paths[path].stream, places(app, workers)
    if streams and slots and (least := around.get("connections")):
        own["connections"] = replace(least, zone=f"connections.{name}.streams", number=max(1, slots // 2))
    own |= {limit.kind: limit for limit in _limits(name, app.limits)}
    if path in app.paths:
        own |= {limit.kind: limit for limit in _limits(f"{name}.{list(app.paths).index(path)}", app.paths[path].limits)}
    return [limit for limit in own.values() if limit.number or limit.kind in around]


def _limits(place: str, written: Limits) -> list[Limit]:
    found = []
    kinds: tuple[Literal["connections", "requests"], ...] = ("connections", "requests")
    for kind in kinds:
        text: str | None = getattr(written, kind)
        if text == "off":
            found.append(Limit(kind, f"{kind}.off", 0, "", observed=False))
        elif text:
            number, _, unit = text.removeprefix("observe ").partition("/")
            found.append(Limit(kind, f"{kind}.{place}", int(number), unit[:1], text.startswith("observe ")))
    return found


def not_limited(environment: Environment) -> bool:
    """Whether nobody is, whatever apps say."""
    return environment.limits is None and environment.engine == "compose"


def of_site(environment: Environment) -> Limits:
    """What holds where no app says anything."""
    if not_limited(environment):
        return Limits(connections="off", requests="off")
    written = environment.limits or Limits()
    return Limits(
        connections=written.connections or ON_HOSTS.connections, requests=written.requests or ON_HOSTS.requests
    )


def places(app: App, workers: int) -> int:
    """What takes one request each at a time, in a replica; 0 for an event loop, which has no such limit."""
    return workers * {"process": 1, "thread": app.threads, "loop": 0}[app.chosen_gateway.concurrency]


@dataclass(frozen=True)
class InFlight:
    """Requests at each replica at a time, None: no limit; and the sentence that says why."""

    number: int | None
    reason: str


def in_flight(app: App, workers: int) -> InFlight:
    """The app's own number, or for `auto` one from its gateway's kind of concurrency."""
    if app.max_in_flight == "off":
        return InFlight(None, "no limit, set by you")
    if app.max_in_flight != "auto":
        return InFlight(app.max_in_flight, "set by you")
    if app.chosen_gateway.concurrency == "loop":
        return InFlight(LOOP, "an event loop; waiting costs it little")
    slots = places(app, workers)
    queue = max(LONGEST_QUEUE * slots, SHORTEST_QUEUE)
    return InFlight(slots + queue, f"{slots} being served and {queue} waiting for them")
