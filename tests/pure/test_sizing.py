"""`workers: auto`: from the app's own limits, with a sentence that says why."""

from __future__ import annotations

import pytest

from stack import sizing
from tests.pure.conftest import app

ASGI = {"interface": "asgi", "memory": "8G"}
BY_GATEWAY = {
    "a worker that does one thing at a time gets spare ones": (
        {"gateway": "gunicorn-sync", "cpus": 2, "memory": "8G"},
        5,
        "2 x 2 cpus + 1, because a gunicorn-sync worker idles while its one request waits",
    ),
    "a part of a cpu counts as a whole one": (
        {"gateway": "gunicorn-sync", "cpus": 1.2, "memory": "8G"},
        5,
        "2 x 2 cpus + 1, because a gunicorn-sync worker idles while its one request waits",
    ),
    "threads carry what waits": (
        {"gateway": "gunicorn-gthread", "cpus": 4, "threads": 12, "memory": "8G"},
        4,
        "one per cpu (cpus: 4), at least 2 so that one stuck worker is not all; 12 threads in each carry what waits",
    ),
    "threads on half a cpu still get a second worker": (
        {"gateway": "gunicorn-gthread", "cpus": 0.5},
        2,
        "one per cpu (cpus: 0.5), at least 2 so that one stuck worker is not all; 8 threads in each carry what waits",
    ),
    "greenlets": (
        {"gateway": "gunicorn-gevent", "cpus": 3, "memory": "8G"},
        3,
        "one per cpu (cpus: 3); the event loop in each carries what waits",
    ),
    "gunicorn's event loop": (
        {**ASGI, "gateway": "gunicorn-asgi", "cpus": 2.5},
        3,
        "one per cpu (cpus: 2.5); the event loop in each carries what waits",
    ),
    "uvicorn's event loop on half a cpu": (
        {**ASGI, "gateway": "uvicorn", "cpus": 0.5},
        1,
        "one per cpu (cpus: 0.5); the event loop in each carries what waits",
    ),
}


@pytest.mark.parametrize(("settings", "workers", "reason"), BY_GATEWAY.values(), ids=list(BY_GATEWAY))
def test_workers_follow_cpus_and_the_kind_of_gateway(settings: dict[str, object], workers: int, reason: str) -> None:
    assert sizing.workers(app(**settings)) == sizing.Sizing(workers, reason)


def test_an_explicit_number_stands() -> None:
    assert sizing.workers(app(workers=7, memory="64M")) == sizing.Sizing(7, "set by you")


def test_workers_fill_four_fifths_of_the_memory_at_most() -> None:
    limited = app(gateway="gunicorn-sync", cpus=4, memory="512M", worker_memory="96M")
    assert sizing.workers(limited) == sizing.Sizing(
        4, "memory 512M x 0.8 holds 4 of worker_memory 96M; cpus would take 9"
    )


def test_exactly_enough_memory_is_no_limit() -> None:
    fits = app(gateway="gunicorn-sync", cpus=2, memory="500M", worker_memory="80M")
    assert sizing.workers(fits).workers == 5
    assert "memory" not in sizing.workers(fits).reason
    assert "memory" in sizing.workers(fits.model_copy(update={"worker_memory": "81M"})).reason


def test_the_number_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    assert sizing.workers(app(cpus=1)).workers == 2


@pytest.mark.parametrize(("memory", "worker_memory"), [("120M", "96M"), ("1G", "819M"), ("100M", "80M")])
def test_memory_for_one_worker_is_enough(memory: str, worker_memory: str) -> None:
    assert sizing.too_small(app(memory=memory, worker_memory=worker_memory)) is None


def test_memory_for_less_than_one_worker_is_too_small() -> None:
    assert sizing.too_small(app(memory="119M")) == (
        "memory 119M does not hold one worker of worker_memory 96M (workers may fill 80% of it). "
        "Raise memory or lower worker_memory"
    )


@pytest.mark.parametrize(("waits", "cpus", "workers"), [(0.9, 1, 10), (0.98, 0.5, 25), (0.0, 1, 2), (0.75, 2, 8)])
def test_processes_follow_the_wait_that_was_measured(waits: float, cpus: float, workers: int) -> None:
    found = sizing.workers(app(gateway="gunicorn-sync", cpus=cpus, waits=waits, memory="8G"))
    assert found.workers == workers
    assert f"waits {waits:.0%} of its time (waits)" in found.reason


def test_memory_limits_what_waiting_would_take() -> None:
    found = sizing.workers(app(gateway="gunicorn-sync", waits=0.98))
    assert found == sizing.Sizing(4, "memory 512M x 0.8 holds 4 of worker_memory 96M; cpus would take 50")


@pytest.mark.parametrize("gateway", ["gunicorn-gthread", "gunicorn-gevent"])
def test_threads_and_loops_need_no_more_workers_for_waiting(gateway: str) -> None:
    assert sizing.workers(app(gateway=gateway, waits=0.98)).workers == sizing.workers(app(gateway=gateway)).workers


WARNED = {
    "more than the memory holds": (
        {"workers": 5, "cpus": 2},
        "workers: 5 of worker_memory 96M do not fit: memory 512M x 0.8 holds 4. Raise memory, lower worker_memory if they need less, or set workers: auto",
    ),
    "more than the cpus can use": (
        {"workers": 9, "cpus": 2, "memory": "8G"},
        "workers: 9 are more than cpus: 2 can use: 2 can work at a time, and the threads in each carry what waits. Set workers: auto, or raise cpus",
    ),
    "more processes than a known wait can use": (
        {"workers": 6, "gateway": "gunicorn-sync", "waits": 0.5, "memory": "8G"},
        "workers: 6 are more than cpus: 1 can use: of requests that wait 50% of their time 2 at a time keep 1 cpus busy. Set workers: auto, or raise cpus",
    ),
    "fewer threads than a known wait needs": (
        {"workers": 2, "threads": 4, "waits": 0.95},
        "threads: 2 x 4 requests at a time leave cpus idle: of requests that wait 95% of their time it takes 20. Raise threads to 10",
    ),
}


@pytest.mark.parametrize(("settings", "sentence"), WARNED.values(), ids=list(WARNED))
def test_a_number_that_does_not_fit_is_warned_of(settings: dict[str, object], sentence: str) -> None:
    assert list(sizing.warnings(app(**settings))) == [sentence]


FITS: list[dict[str, object]] = [
    {},
    {"workers": 4},
    {"workers": 8, "cpus": 2, "memory": "1G"},
    {"workers": 40, "gateway": "gunicorn-sync", "memory": "8G"},
    {"workers": 5, "gateway": "gunicorn-sync", "waits": 0.5, "memory": "8G"},
    {"workers": 2, "threads": 10, "waits": 0.95},
]


@pytest.mark.parametrize("settings", FITS, ids=str)
def test_a_number_that_fits_is_not(settings: dict[str, object]) -> None:
    assert not list(sizing.warnings(app(**settings)))
