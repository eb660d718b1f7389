"""What `make bench` makes of its visits: medians, ratios within a round, theory, and what must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtests import bench_page
from loadtests.bench_page import Check, Spread

RPS = {"hello": [2000.0, 3000.0, 4000.0], "wait": [20.0, 19.0, 20.0], "few": [19.5] * 3, "work": [200.0, 300.0, 400.0]}


def visits(gateway: str, load: str, via: str, rates: list[float], edge_us: float = 60) -> list[dict[str, Any]]:
    same = {"gateway": gateway, "load": load, "via": via, "p50_ms": 5.0, "p99_ms": 20.0, "bad": 0, "app_us": 300.0}
    return [{**same, "round": n + 1, "rps": rate, "edge_us": edge_us} for n, rate in enumerate(rates)]


@pytest.fixture
def raw() -> dict[str, Any]:
    made = [v for load, rates in RPS.items() for v in visits("gunicorn-gthread", load, "chain", rates)]
    made += visits("gunicorn-gthread", "hello", "direct", [2500.0, 3000.0, 8000.0])
    made += visits("gunicorn-gthread", "work", "direct", [210.0, 310.0, 400.0])
    made += visits("ceiling", "hello", "chain", [20000.0, 20000.0, 20000.0])
    return {
        "date": "2026-01-01", "machine": "2 cores", "method": "3 rounds", "seconds": 3,
        "gateways": {"gunicorn-gthread": {"interface": "wsgi", "concurrency": "thread", "versions": "gunicorn 27.0.1"}},
        "slots": {"process": 2, "thread": 2},
        "loads": {"wait": {"said": "waits", "clients": 64}, "few": {"said": "two wait", "clients": 2}},
        "visits": made,
        "memory_mib": {"gunicorn-gthread": {"total": 60, "worker": 25.0, "processes": 3}},
        "start_ms": {"gunicorn-gthread": [300, 400, 500]},
    }  # fmt: skip


def found(raw: dict[str, Any]) -> dict[str, Check]:
    return {check.said: check for check in bench_page.checks(raw)}


def test_a_ratio_is_of_the_same_round(raw: dict[str, Any]) -> None:
    assert found(raw)["hello: the chain / the gateway alone"].found == Spread(0.8, 0.5, 1.0)


def test_theory_is_what_can_wait_at_a_time(raw: dict[str, Any]) -> None:
    assert bench_page.theory(raw, "gunicorn-gthread", "wait") == 20
    raw["gateways"]["gunicorn-gthread"]["concurrency"] = "loop"
    assert bench_page.theory(raw, "gunicorn-gthread", "wait") == 640
    assert bench_page.theory(raw, "gunicorn-gthread", "few") == 20


def test_what_holds_and_what_does_not(raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    assert all(check.holds for check in found(raw).values())
    assert bench_page.write(raw, tmp_path) == 0
    for visit in raw["visits"]:
        visit["edge_us"] = 91.0
    assert [check.said for check in found(raw).values() if not check.holds] == ["hello: CPU of Nginx, us"]
    assert bench_page.write(raw, tmp_path) == 1
    assert "does not hold: gunicorn-gthread: hello: CPU of Nginx, us: 91.00" in capsys.readouterr().err
    assert (
        "| hello: CPU of Nginx, us | at most 90 | 91.00 to 91.00 | gunicorn-gthread: 91.00"
        in (tmp_path / "benchmarks.md").read_text()
    )


def test_the_page_and_the_plot_have_the_medians(raw: dict[str, Any]) -> None:
    page = bench_page.page(raw)
    assert "| gunicorn-gthread | 3,000 | 5.0 / 20 | 300 + 60 | 0.15 (0.10 to 0.20) | 0.80 (0.50 to 1.00) |" in page
    assert "| gunicorn-gthread | 20 of 20 |" in page
    assert ">360</text>" in bench_page.svg(raw)


def test_what_is_committed_is_what_was_measured() -> None:
    docs = Path(__file__).parents[2] / "docs"
    raw = json.loads((docs / "results/benchmarks.json").read_text())
    assert (docs / "benchmarks.md").read_text() == bench_page.page(raw)
    assert (docs / "images/benchmarks.svg").read_text() == bench_page.svg(raw)
