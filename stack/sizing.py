"""`workers: auto`: how many workers an app needs, and why, from its own limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stack.model import App, size_bytes

MEMORY_SHARE = 0.8
"""Share of the memory limit that workers may fill; the rest is the gateway's parent, page cache and peaks."""


@dataclass(frozen=True)
class Sizing:
    """Workers in each replica, and the sentence that says why."""

    workers: int
    reason: str


def workers(app: App) -> Sizing:
    """The app's workers: its own number, or for `auto` one from cpus, memory and the gateway's kind of concurrency.

    Not 2n+1 for everything: with work to do, more workers than cpus lost 11-19 % of the throughput; while waiting,
    threads and event loops carry the concurrency. Only processes that do one thing at a time need spare ones.
    """
    cpus, gateway = app.cpus, app.chosen_gateway
    fit = _fit(app)
    if app.workers != "auto":
        return Sizing(app.workers, "set by you")
    whole = math.ceil(cpus)
    match gateway.concurrency:
        case "process" if app.waits is not None:
            wanted, why = (
                max(2, busy(app)),
                f"a request waits {app.waits:.0%} of its time (waits), so {busy(app)} at a time keep {cpus:g} cpus busy; at least 2 so that one stuck worker is not all",
            )
        case "process":
            wanted, why = (
                2 * whole + 1,
                f"2 x {whole} cpus + 1, because a {gateway.name} worker idles while its one request waits",
            )
        case "thread":
            wanted, why = (
                max(2, whole),
                f"one per cpu (cpus: {cpus:g}), at least 2 so that one stuck worker is not all; {app.threads} threads in each carry what waits",
            )
        case "loop":
            wanted, why = whole, f"one per cpu (cpus: {cpus:g}); the event loop in each carries what waits"
    if fit < wanted:
        return Sizing(
            max(1, fit),
            f"memory {app.memory} x {MEMORY_SHARE:g} holds {fit} of worker_memory {app.worker_memory}; cpus would take {wanted}",
        )
    return Sizing(wanted, why)


def _fit(app: App) -> int:
    """Workers that the memory limit holds."""
    return int(MEMORY_SHARE * size_bytes(app.memory) // size_bytes(app.worker_memory))


def busy(app: App) -> int:
    """Requests at a time that keep the app's cpus busy; of an app whose waiting is not known, one a cpu."""
    # Not a whole one more for 1 / (1 - 0.9) = 10.000000000000002.
    return math.ceil(round(app.cpus / (1 - (app.waits or 0)), 6))


MOST = 4
"""Workers a cpu beyond which more only cost memory and switching, where threads or an event loop carry what waits: 2.5 a cpu had
11-19 % less throughput than one, with work to do."""


def warnings(app: App) -> Iterator[str]:
    """A sentence for each number of the app's own that does not fit its limits, or that its cpus cannot use."""
    if app.workers == "auto":
        return
    gateway, whole, fit = app.chosen_gateway, math.ceil(app.cpus), _fit(app)
    if app.workers > fit:
        yield f"workers: {app.workers} of worker_memory {app.worker_memory} do not fit: memory {app.memory} x {MEMORY_SHARE:g} holds {fit}. Raise memory, lower worker_memory if they need less, or set workers: auto"
    one_at_a_time = gateway.concurrency == "process"
    most = 2 * busy(app) + 1 if one_at_a_time else MOST * whole
    if app.workers > most and (app.waits is not None or not one_at_a_time):
        why = (
            f"of requests that wait {app.waits:.0%} of their time {busy(app)} at a time keep {app.cpus:g} cpus busy"
            if one_at_a_time
            else f"{whole} can work at a time, and the {'threads' if gateway.concurrency == 'thread' else 'event loop'} in each carry what waits"
        )
        yield f"workers: {app.workers} are more than cpus: {app.cpus:g} can use: {why}. Set workers: auto, or raise cpus"
    if gateway.concurrency == "thread" and app.waits is not None and app.workers * app.threads < busy(app):
        yield f"threads: {app.workers} x {app.threads} requests at a time leave cpus idle: of requests that wait {app.waits:.0%} of their time it takes {busy(app)}. Raise threads to {math.ceil(busy(app) / app.workers)}"


def too_small(app: App) -> str | None:
    """A sentence when the memory limit does not hold even one worker, else None."""
    if size_bytes(app.worker_memory) > MEMORY_SHARE * size_bytes(app.memory):
        return f"memory {app.memory} does not hold one worker of worker_memory {app.worker_memory} (workers may fill {MEMORY_SHARE:.0%} of it). Raise memory or lower worker_memory"
    return None
