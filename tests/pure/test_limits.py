"""Which limit holds where, and how many requests a replica is sent at a time."""

from __future__ import annotations

from typing import Any

import pytest

from stack import limits
from stack.limits import Limit
from stack.model import App, Environment, Limits

HOSTS = Environment(domains=["example.com"])
LOCAL = Environment(domains=["localhost"], engine="compose")


def app(**settings: Any) -> App:
    return App.model_validate({"interface": "wsgi", "entry": "app:app", **settings})


def test_hosts_have_limits_and_this_machine_has_none() -> None:
    assert limits.on_site(HOSTS) == [
        Limit("connections", "connections.site", 128, "", observed=False),
        Limit("requests", "requests.site", 100, "s", observed=True),
    ]
    assert limits.on_site(LOCAL) == []
    asked = LOCAL.model_copy(update={"limits": Limits(requests="off")})
    assert limits.on_site(asked) == [Limit("connections", "connections.site", 128, "", observed=False)]


def test_an_apps_own_limits_mean_nothing_where_nothing_is_limited() -> None:
    assert limits.on_path(LOCAL, "shop", app(limits={"connections": 2}), 2, "/") == []


def test_a_key_that_a_place_does_not_set_is_that_of_the_place_around() -> None:
    shop = app(
        limits={"connections": "observe 8"},
        paths={"/login": {"limits": {"requests": "10/min"}}, "/static/": {"limits": {"connections": "off"}}},
    )
    of_app = Limit("connections", "connections.shop", 8, "", observed=True)
    assert limits.on_path(HOSTS, "shop", shop, 2, "/") == [of_app]
    assert limits.on_path(HOSTS, "shop", shop, 2, "/login") == [
        of_app,
        Limit("requests", "requests.shop.0", 10, "m", observed=False),
    ]
    assert limits.on_path(HOSTS, "shop", shop, 2, "/static/") == [
        Limit("connections", "connections.off", 0, "", observed=False)
    ]


def test_no_client_has_more_than_half_of_the_threads_with_slow_streams() -> None:
    paths = {"/echo": {"stream": True}, "/import": {"stream": True, "limits": {"connections": 4}}}
    assert limits.on_path(HOSTS, "shop", app(paths=paths), 4, "/echo") == [
        Limit("connections", "connections.shop.streams", 16, "", observed=False)
    ]
    (own,) = limits.on_path(HOSTS, "shop", app(paths=paths), 4, "/import")
    assert (own.zone, own.number) == ("connections.shop.1", 4)
    (one,) = limits.on_path(HOSTS, "shop", app(paths=paths, gateway="gunicorn-sync"), 1, "/echo")
    assert one.number == 1
    assert limits.on_path(HOSTS, "shop", app(paths=paths, gateway="gunicorn-gevent"), 4, "/echo") == []
    free = HOSTS.model_copy(update={"limits": Limits(connections="off")})
    assert limits.on_path(free, "shop", app(paths=paths), 4, "/echo") == []


def test_what_is_off_everywhere_is_off_without_saying_so() -> None:
    free = HOSTS.model_copy(update={"limits": Limits(connections="off", requests="off")})
    assert limits.on_site(free) == []
    assert limits.on_path(free, "shop", app(limits={"connections": "off"}), 2, "/") == []


@pytest.mark.parametrize(("rate", "seconds"), [("20/s", 1), ("1/s", 1), ("10/min", 6), ("7/min", 9), ("1/min", 60)])
def test_a_client_is_told_when_its_next_request_is_due(rate: str, seconds: int) -> None:
    (limit,) = limits.on_path(HOSTS, "shop", app(limits={"requests": rate}), 2, "/")
    assert limit.retry_after == seconds


@pytest.mark.parametrize(
    ("settings", "workers", "number", "reason"),
    [
        ({}, 4, 160, "32 being served and 128 waiting for them"),
        ({"gateway": "gunicorn-sync"}, 3, 131, "3 being served and 128 waiting for them"),
        ({"gateway": "gunicorn-gevent"}, 2, 1024, "an event loop; waiting costs it little"),
        ({"max_in_flight": 7}, 4, 7, "set by you"),
        ({"max_in_flight": "off"}, 4, None, "no limit, set by you"),
    ],
)
def test_a_replica_has_a_bounded_number_of_requests(
    settings: dict[str, Any], workers: int, number: int | None, reason: str
) -> None:
    assert limits.in_flight(app(**settings), workers) == limits.InFlight(number, reason)
