"""`workers: auto`: how many workers an app needs, and why, from its own limits."""

from __future__ import annotations

import math
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
    fit = int(MEMORY_SHARE * size_bytes(app.memory) // size_bytes(app.worker_memory))
    if app.workers != "auto":
        return Sizing(app.workers, "set by you")
    whole = math.ceil(cpus)
    match gateway.concurrency:
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


def too_small(app: App) -> str | None:
    """A sentence when the memory limit does not hold even one worker, else None."""
    if size_bytes(app.worker_memory) > MEMORY_SHARE * size_bytes(app.memory):
        return f"memory {app.memory} does not hold one worker of worker_memory {app.worker_memory} (workers may fill {MEMORY_SHARE:.0%} of it). Raise memory or lower worker_memory"
    return None
