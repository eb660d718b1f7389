"""When requests are due, and what their outcomes add up to."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest

from loadtests.openmodel import Effects, Interval, Outcome, arrivals, effects, mix, percentile, summary, validity


def outcome(due: float = 0.0, seconds: float = 0.01, lag: float = 0.0, **others: Any) -> Outcome:
    """One that was answered well."""
    return Outcome(**{"kind": "get", "edge": "a", "due": due, "started": due + lag, "ended": due + seconds, "status": 200, **others})  # fmt: skip


def test_arrivals_are_poisson() -> None:
    times = list(arrivals(100, 100, seed=1))
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert len(times) == pytest.approx(10_000, rel=0.03)  # 3 standard deviations
    assert deviation == pytest.approx(mean, rel=0.05)  # that of an exponential distribution; of equal gaps it is 0
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 100


def test_a_seed_gives_the_same_arrivals_and_classes() -> None:
    weights = {"get": 3.0, "post": 1.0}
    assert list(arrivals(50, 2, seed=7)) == list(arrivals(50, 2, seed=7)) != list(arrivals(50, 2, seed=8))
    first = list(islice(mix(weights, seed=7), 10_000))
    assert first == list(islice(mix(weights, seed=7), 10_000))
    assert Counter(first)["get"] == pytest.approx(7500, rel=0.03)


def test_what_the_generator_delayed_is_in_the_time_of_a_request() -> None:
    late = Outcome("get", "a", due=10.0, started=10.25, ended=10.5, status=200)
    assert (late.seconds, late.lag) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        ({"status": 200}, ""),
        ({"status": 204}, ""),
        ({"status": 101}, ""),
        ({"status": 302}, "status 302"),
        ({"status": 502}, "status 502"),
        ({"status": None}, "status None"),
        ({"status": None, "error": "ConnectionResetError: [Errno 104] by peer: 5"}, "ConnectionResetError"),
        ({"status": 200, "error": "OtherBody: 3 bytes"}, "OtherBody"),
    ],
)
def test_kinds_of_failure(given: dict[str, Any], failure: str) -> None:
    assert outcome(**given).failure == failure


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 50, 50.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 101)], 100, 100.0),
    ],
)
def test_percentiles(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == expected


def test_summary_by_class_and_interval() -> None:
    """A request belongs to the interval in which it was due, however long it took."""
    rows = summary(
        [
            outcome(9.5, seconds=5.0),
            outcome(10.0, status=502),
            outcome(19.9, status=502),
            outcome(19.9, status=None, error="TimeoutError: no answer in time"),
            outcome(20.0),
            outcome(12.0, kind="ws", status=101, note="reopened after 1012"),
        ],
        start=10.0,
        end=20.0,
    )
    assert list(rows) == ["get", "ws", "all"]
    assert (rows["get"].requests, rows["get"].failed) == (5, 3)
    assert rows["get"].failures == {"status 502": 2, "TimeoutError": 1}
    assert rows["get"].intervals["before"] == Interval(1, 0, 5000.0, 5000.0)
    assert [(i.requests, i.failed) for i in rows["get"].intervals.values()] == [(1, 0), (3, 3), (1, 0)]
    assert rows["ws"].notes == {"reopened after 1012": 1}
    assert rows["ws"].failures == {}
    assert rows["ws"].intervals["after"] == Interval(0, 0, None, None)
    assert (rows["all"].requests, rows["all"].failed) == (6, 3)


def test_summary_of_nothing() -> None:
    assert summary([], 0, 1)["all"].requests == 0


def test_effects() -> None:
    asked = [
        outcome(key="there"),
        outcome(key="lost"),
        outcome(key="twice"),
        outcome(key="failed, not there", status=502),
        outcome(key="failed, there", status=502),
        outcome(key="failed, twice", status=502),
        outcome(),
    ]
    rows = {"there": 1, "twice": 2, "failed, there": 1, "failed, twice": 3, "of another run": 2}
    assert effects(asked, rows) == Effects(6, lost=["lost"], doubled=["twice", "failed, twice"])


@pytest.mark.parametrize(
    ("lags", "verdict"),
    [
        ([0.0] * 98 + [0.049, 9.0], "OK"),  # one of a hundred is above the p99
        ([0.0] * 98 + [0.051, 9.0], "WARN"),
        ([0.0] * 98 + [0.249, 9.0], "WARN"),
        ([0.0] * 98 + [0.251, 9.0], "INVALID"),
        ([], "INVALID"),
    ],
)
def test_whether_the_generator_kept_its_time(lags: list[float], verdict: str) -> None:
    assert validity([outcome(lag=lag) for lag in lags])[0] == verdict
