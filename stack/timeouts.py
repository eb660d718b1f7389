"""The timeout contract: what must hold between the timeouts of client, Nginx, gateway and engine, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stack.model import App, Environment

SWARM_DRAIN = 2.0
"""s. Swarm's fixed wait between taking a stopping task out of DNS and sending it SIGTERM (moby: defaultGossipConvergeDelay)."""


@dataclass(frozen=True)
class Violation:
    """A broken inequality: the key to change and the sentence that says why it matters."""

    key: str
    sentence: str


def of_app(app: App, environment: Environment) -> Iterator[Violation]:
    """The inequalities that this app breaks."""
    t, edge = app.timeouts, environment.edge.timeouts
    if t.keep_alive <= edge.upstream_keep_alive:
        yield Violation(
            "timeouts.keep_alive",
            f"the gateway closes idle connections after {t.keep_alive:g} s and Nginx only after {edge.upstream_keep_alive:g} s "
            f"(edge.timeouts.upstream_keep_alive): Nginx would send requests into closing connections and POSTs get 502. Set it above {edge.upstream_keep_alive:g}",
        )
    if t.connect >= t.request:
        yield Violation(
            "timeouts.connect",
            f"connecting may take {t.connect:g} s, no less than the whole request ({t.request:g} s). Set it below {t.request:g}",
        )
    if app.chosen_gateway.enforces_timeout:
        reads = {"timeouts.request": t.request} | {
            f"paths.{p}.timeout": v.timeout for p, v in app.paths.items() if v.timeout
        }
        for key, read in reads.items():
            if t.gateway >= read:
                yield Violation(
                    "timeouts.gateway",
                    f"{app.chosen_gateway.name} ends a stuck request after {t.gateway:g} s but Nginx gives up after {read:g} s ({key}): "
                    f"clients get 504 while the worker stays busy. Set it below {read:g}",
                )
    if t.graceful < t.request:
        yield Violation(
            "timeouts.graceful",
            f"a deploy cuts requests {t.graceful:g} s after SIGTERM, but a request may take {t.request:g} s (timeouts.request). Set it to at least {t.request:g}",
        )
    if t.graceful >= t.stop_grace:
        yield Violation(
            "timeouts.stop_grace",
            f"the engine kills the container after {t.stop_grace:g} s while the gateway still finishes requests for {t.graceful:g} s (timeouts.graceful). Set it above {t.graceful:g}",
        )
    for path, behaviour in app.paths.items():
        read = behaviour.timeout or t.request
        if behaviour.websocket and app.chosen_gateway.pings and read <= t.ping:
            yield Violation(
                f"paths.{path}.timeout",
                f"Nginx closes a WebSocket that is silent for {read:g} s, and pings come only every {t.ping:g} s (timeouts.ping). Set it above {t.ping:g}",
            )


def of_edge(environment: Environment) -> Iterator[Violation]:
    """The inequalities that the edge breaks by itself."""
    t = environment.edge.timeouts
    if t.resolver_valid >= SWARM_DRAIN:
        yield Violation(
            "edge.timeouts.resolver_valid",
            f"Nginx learns of a stopping replica after up to {t.resolver_valid:g} s, but Swarm sends SIGTERM {SWARM_DRAIN:g} s after taking it out of DNS: "
            f"requests would go to a closing gateway. Set it below {SWARM_DRAIN:g}",
        )
