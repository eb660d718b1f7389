"""Locust's events -> the store of timings and the generator's own measurements, also from worker processes.

What judges a run knows nothing of Locust: hops, validity, slo, report and compare.
"""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import psutil
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, Runner

from loadtests import hops, machine
from loadtests.validity import Generator

store = hops.Store()
generator = Generator()
"""In a worker both hold what the master has not heard yet; in the master, or where there are no workers, everything."""

clock = time.monotonic
began = ended = 0.0
"""When the run that the store holds started and stopped, on `clock`; 0: not yet."""

NAP = 0.02
"""s between two looks at the event loop's lag: what it is late by, every request may have been late by."""
LOOK = 1.0
"""s between two looks at CPU and steal."""
PARTS = "SSE"
"""Request type of what is a part of another request, and no request."""


@events.request.add_listener
def note(
    request_type: str, name: str, response_time: float | None, exception: Exception | None, context: dict[str, Any],
    response: Any = None, **_: Any,
) -> None:  # fmt: skip
    headers = getattr(response, "headers", None)  # None where there was no answer
    told = None
    if headers and response_time is not None and (header := headers.get("server-timing")):
        if not isinstance(header, str):  # a list where the app sends one of its own, too
            header = ", ".join(header)
        told = hops.split(response_time, header, context.get("late", 0.0), context.get("body", 0.0))
    error = f"{exception}"[:200] if exception else ""
    store.add(
        name,
        context.get("app", ""),
        response_time,
        told,
        error,
        clock(),
        request_type == PARTS,
        context.get("user_class", ""),
    )


def started(late: float) -> None:
    """An arrival of the open model was begun, so many ms late."""
    generator.start_lag.add(max(late, 0.0))


def unsent() -> None:
    """An arrival was due, and too many before it were unanswered."""
    generator.dropped += 1


def unfinished(count: int) -> None:
    """So many arrivals had no answer when their user had to end."""
    generator.unfinished += count


@events.report_to_master.add_listener
def ship(data: dict[str, Any], **_: Any) -> None:
    global generator
    data["store"], data["generator"] = store.ship(clock()), generator.wire()
    generator = Generator()


@events.worker_report.add_listener
def receive(data: dict[str, Any], **_: Any) -> None:
    if "store" in data:
        store.receive(data["store"], clock())
        generator.update(Generator.read(data["generator"]))


before_start: list[Callable[[Environment], None]] = []
"""Called with the run before still in the store."""


@events.test_start.add_listener
def start(environment: Environment, **_: Any) -> None:
    global began, ended
    for call in before_start:
        call(environment)
    reset()
    began, ended = clock(), 0.0


@events.reset_stats.add_listener
def reset(**_: Any) -> None:
    global began, generator
    store.clear()
    generator = Generator()
    began = clock()


@events.test_stop.add_listener
def stop(**_: Any) -> None:
    global ended
    ended = clock()


def seconds() -> float:
    """That the run has taken so far, up to the last answer."""
    return (max(ended, store.last) if ended else clock()) - began if began else 0.0


@events.init.add_listener
def watch_itself(environment: Environment, runner: Runner, **_: Any) -> None:
    """Every process that sends requests looks at itself while it does."""
    if not isinstance(runner, MasterRunner):
        gevent.spawn(look, environment)


def look(environment: Environment) -> None:
    process, ticks, looked = psutil.Process(), machine.ticks(), clock()
    process.cpu_percent()
    while True:
        due = clock() + NAP
        gevent.sleep(NAP)
        now = clock()
        running = environment.runner is not None and environment.runner.state in ("spawning", "running")
        if running:
            generator.loop_lag.add((now - due) * 1000)
        if now > looked + LOOK:
            cpu, before, ticks, looked = process.cpu_percent() / 100, ticks, machine.ticks(), now
            if running:
                generator.cpu = max(generator.cpu, cpu)
                generator.steal = max(generator.steal, machine.stolen(before, ticks))
