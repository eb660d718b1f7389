"""The timeout contract: each inequality where it just holds and where it is just broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from stack import timeouts
from stack.model import Environment
from stack.timeouts import Violation
from tests.pure.conftest import app


@dataclass(frozen=True)
class Case:
    """Settings that just keep an inequality, settings that just break it, and what is then said."""

    holds: dict[str, Any]
    broken: dict[str, Any]
    key: str
    sentence: str
    edge: dict[str, Any] = field(default_factory=dict)


CASES = {
    "the gateway keeps connections longer than Nginx": Case(
        {"timeouts": {"keep_alive": 2}},
        {"timeouts": {"keep_alive": 1}},
        "timeouts.keep_alive",
        "the gateway closes idle connections after 1 s and Nginx only after 1 s (edge.timeouts.upstream_keep_alive): "
        "Nginx would send requests into closing connections and POSTs get 502. Set it above 1",
    ),
    "it does where the environment changes Nginx": Case(
        {"timeouts": {"keep_alive": 81}},
        {"timeouts": {"keep_alive": 75}},
        "timeouts.keep_alive",
        "the gateway closes idle connections after 75 s and Nginx only after 80 s (edge.timeouts.upstream_keep_alive): "
        "Nginx would send requests into closing connections and POSTs get 502. Set it above 80",
        edge={"upstream_keep_alive": 80},
    ),
    "connecting is a part of the request": Case(
        {"timeouts": {"connect": 1.9, "request": 2}},
        {"timeouts": {"connect": 2, "request": 2}},
        "timeouts.connect",
        "connecting may take 2 s, no less than the whole request (2 s). Set it below 2",
    ),
    "a worker is killed before Nginx gives up": Case(
        {"gateway": "gunicorn-sync", "timeouts": {"gateway": 29}},
        {"gateway": "gunicorn-sync", "timeouts": {"gateway": 30}},
        "timeouts.gateway",
        "gunicorn-sync ends a stuck request after 30 s but Nginx gives up after 30 s (timeouts.request): "
        "clients get 504 while the worker stays busy. Set it below 30",
    ),
    "it is on a path with its own timeout": Case(
        {"gateway": "gunicorn-sync", "paths": {"/quick": {"timeout": 26}}},
        {"gateway": "gunicorn-sync", "paths": {"/quick": {"timeout": 10}}},
        "timeouts.gateway",
        "gunicorn-sync ends a stuck request after 25 s but Nginx gives up after 10 s (paths./quick.timeout): "
        "clients get 504 while the worker stays busy. Set it below 10",
    ),
    "a deploy lets requests end": Case(
        {"timeouts": {"request": 31, "graceful": 31}},
        {"timeouts": {"request": 31, "graceful": 30}},
        "timeouts.graceful",
        "a deploy cuts requests 30 s after SIGTERM, but a request may take 31 s (timeouts.request). "
        "Set it to at least 31",
    ),
    "the engine waits for the gateway": Case(
        {"timeouts": {"stop_grace": 30.5}},
        {"timeouts": {"stop_grace": 30}},
        "timeouts.stop_grace",
        "the engine kills the container after 30 s while the gateway still finishes requests for 30 s "
        "(timeouts.graceful). Set it above 30",
    ),
    "a silent WebSocket outlives the ping interval": Case(
        {"interface": "asgi", "paths": {"/ws": {"websocket": True, "timeout": 20.5}}},
        {"interface": "asgi", "paths": {"/ws": {"websocket": True, "timeout": 20}}},
        "paths./ws.timeout",
        "Nginx closes a WebSocket that is silent for 20 s, and pings come only every 20 s (timeouts.ping). "
        "Set it above 20",
    ),
    "it does on a path without its own timeout": Case(
        {"interface": "asgi", "timeouts": {"ping": 29}, "paths": {"/ws": {"websocket": True}}},
        {"interface": "asgi", "timeouts": {"ping": 30}, "paths": {"/ws": {"websocket": True}}},
        "paths./ws.timeout",
        "Nginx closes a WebSocket that is silent for 30 s, and pings come only every 30 s (timeouts.ping). "
        "Set it above 30",
    ),
}


def environment(**edge_timeouts: Any) -> Environment:
    return Environment.model_validate({"domains": ["localhost"], "edge": {"timeouts": edge_timeouts}})


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_an_inequality_of_an_app(case: Case) -> None:
    place = environment(**case.edge)
    assert list(timeouts.of_app(app(**case.holds), place)) == []
    assert list(timeouts.of_app(app(**case.broken), place)) == [Violation(case.key, case.sentence)]


def test_nginx_learns_of_a_stopping_replica_before_it_is_told_to_stop() -> None:
    assert list(timeouts.of_edge(environment(resolver_valid=1))) == []
    assert list(timeouts.of_edge(environment(resolver_valid=2))) == [
        Violation(
            "edge.timeouts.resolver_valid",
            "Nginx learns of a stopping replica after up to 2 s, but Swarm sends SIGTERM 2 s after taking it out of "
            "DNS: requests would go to a closing gateway. Set it below 2",
        )
    ]


@pytest.mark.parametrize("gateway", ["gunicorn-gthread", "gunicorn-gevent"])
def test_a_gateway_that_ends_no_request_may_have_a_long_timeout(gateway: str) -> None:
    assert list(timeouts.of_app(app(gateway=gateway, timeouts={"gateway": 300}), environment())) == []


def test_a_path_that_is_no_websocket_may_be_quick() -> None:
    quick = app(interface="asgi", paths={"/quick": {"timeout": 1}})
    assert list(timeouts.of_app(quick, environment())) == []


def test_every_broken_inequality_is_told() -> None:
    own = {"keep_alive": 1, "connect": 50, "request": 40, "gateway": 60, "graceful": 30, "stop_grace": 20}
    found = timeouts.of_app(app(gateway="gunicorn-sync", timeouts=own), environment())
    assert [violation.key.removeprefix("timeouts.") for violation in found] == [
        "keep_alive",
        "connect",
        "gateway",
        "graceful",
        "stop_grace",
    ]


def test_the_defaults_keep_the_contract() -> None:
    for gateway, interface in (("gunicorn-sync", "wsgi"), ("gunicorn-gthread", "wsgi"), ("uvicorn", "asgi")):
        assert list(timeouts.of_app(app(gateway=gateway, interface=interface), environment())) == []
    assert list(timeouts.of_edge(environment())) == []
