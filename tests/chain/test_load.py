"""The load generator against the real chain, from inside its network."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.hops import TOTAL
from loadtests.run import Run
from loadtests.slo import INVALID, MET, MISSED
from stack import docker
from tests.conftest import EARLY, REPOSITORY, Chain, pause

RESULTS = REPOSITORY / "build/load"


def load(chain: Chain, *arguments: str) -> tuple[int, Run | None]:
    """A headless run: its exit code, and what it left."""
    before = set(RESULTS.glob("*/run.json"))
    done = chain.checkout.run("load", "--headless", *arguments, check=False)
    new = sorted(set(RESULTS.glob("*/run.json")) - before)
    return done.returncode, Run.read(new[-1]) if new else None


SHOPPER = """
from locust import task
from loadtests.users import AppUser

class Shopper(AppUser):
    @task
    def look(self) -> None:
        with self.request("GET", "/whoami", "by a user of its own"):
            pass
"""


@pytest.fixture(scope="module")
def own_users(chain: Chain) -> Iterator[Path]:
    """loadtest.py of an app that has one."""
    file = next(iter(chain.apps.values())).folder / "loadtest.py"
    file.write_text(SHOPPER)
    yield file
    file.unlink()


LIMITS = "total: {errors: 0, p50: 1000}\n"


@pytest.fixture(scope="module")
def limits(chain: Chain) -> Iterator[Path]:
    """What a run here must meet: little enough for a busy machine, and for eight seconds."""
    file = chain.checkout.root / "environments/slo/local.yml"
    file.parent.mkdir()
    file.write_text(LIMITS)
    yield file
    shutil.rmtree(file.parent)


@pytest.fixture(scope="module")
def closed(chain: Chain, own_users: Path, limits: Path) -> tuple[int, Run]:
    code, run = load(
        chain, "--users", "14", "--rate", "14", "--time", "8s", "--workers", "2", "--", "--csv", "/results/stats"
    )
    assert run, chain.checkout.output
    return code, run


def test_a_headless_run_drives_every_user_class_without_a_failure(chain: Chain, closed: tuple[int, Run]) -> None:
    rows = by_class(closed[1])
    for name, plan in chain.apps.items():
        kinds = ["User", "StreamUser", "LongPollUser"] + (["WebSocketUser"] if plan.app.interface == "asgi" else [])
        for kind in kinds if plan.app.contract == "full" else ["HealthUser"]:
            assert int(rows[f"{''.join(word.capitalize() for word in name.split('-'))}{kind}"]["requests"]) > 0, kind
    assert rows["total"]["failed"] == "0"


def test_a_run_that_meets_its_limits_ends_with_0(chain: Chain, limits: Path) -> None:
    for _ in range(3):  # a machine that is too busy at the moment says so, and that is no answer
        code, run = load(chain, "--users", "14", "--rate", "14", "--time", "6s")
        if code != INVALID:
            break
    assert code == MET, chain.checkout.output
    assert run
    assert run.verdict.word != "INVALID"


def test_an_app_brings_its_own_users(chain: Chain, closed: tuple[int, Run], own_users: Path) -> None:
    name = own_users.parent.name
    assert int(by_class(closed[1])[f"{name.capitalize()}Shopper"]["requests"]) > 0
    assert f"{name} GET /whoami by a user of its own" in closed[1].routes
    own_users.write_text("import nothing_of_that_name")
    done = chain.checkout.run("load", "--headless", "--time", "2s", check=False)
    own_users.write_text(SHOPPER)
    assert done.returncode != 0
    assert f"error: apps/{name}/loadtest.py: ModuleNotFoundError: No module named" in done.stdout


def test_the_masters_hops_are_those_of_all_its_workers(closed: tuple[int, Run]) -> None:
    with (RESULTS / "stats_stats.csv").open() as file:  # Locust's own
        counted = {
            row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file) if row["Name"] != "Aggregated"
        }
    assert {name: route.requests for name, route in closed[1].routes.items()} == counted
    requests = sum(route.requests for route in closed[1].routes.values() if not route.part)
    assert requests == int(by_class(closed[1])["total"]["requests"])
    told = sum(r.histograms["network"].n for r in closed[1].routes.values() if "network" in r.histograms)
    # All but the messages on an open WebSocket, which have no header.
    assert told == sum(r.requests for n, r in closed[1].routes.items() if not r.part and not n.endswith("WS /ws echo"))


def test_hops_are_what_the_routes_do(chain: Chain, closed: tuple[int, Run]) -> None:
    for name in {"flask", "fastapi"} & set(chain.apps):
        means = {path: closed[1].routes[f"{name} GET {path}"].means for path in ("/wait", "/poll", "/events")}
        assert means["/wait"]["app"] >= 100 - EARLY
        assert means["/poll"]["app"] >= 500 - EARLY
        assert means["/events"]["body"] >= 400 - 4 * EARLY > means["/events"]["app"], (
            "a stream's pace is not the app's first answer"
        )
        route = closed[1].routes[f"{name} GET /wait"]
        assert route.skewed <= 0.01 * route.requests + 1


def test_the_open_model_sends_what_is_due(chain: Chain) -> None:
    _, run = load(chain, "--model", "open", "--users", "30", "--rate", "30", "--time", "8s")
    assert run, chain.checkout.output
    assert run.generator.start_lag.n == pytest.approx(30 * 8, rel=0.4)  # a Poisson process, and a second of spawning
    assert run.generator.dropped == run.generator.unfinished == 0


@pytest.mark.long
def test_a_run_with_failures_misses_its_limits(chain: Chain, limits: Path) -> None:
    container = f"gatehouse-test-{next(iter(chain.apps))}-1"
    pause(container)
    try:
        code, _ = load(chain, "--users", "7", "--rate", "7", "--time", "4s")
    finally:
        docker.run("unpause", container)
    assert code == MISSED, chain.checkout.output


def test_more_than_the_generator_can_send_is_no_measurement(chain: Chain) -> None:
    rate = (
        "--model",
        "open",
        "--users",
        "500",
        "--rate",
        "500",
        "--time",
        "4s",
        "--workers",
        "1",
    )  # of 20 a second each
    code, run = load(chain, *rate, "--", "--locustfile", "loadtests/selfcheck.py")
    assert run, chain.checkout.output
    assert (code, run.verdict.word) == (INVALID, "INVALID"), chain.checkout.output


@pytest.mark.long
def test_a_shape_says_how_many_there_are_when(chain: Chain) -> None:
    # Open: as many arrivals a second as users. A tenth of them, and all in the fifth and sixth of ten seconds.
    _, run = load(chain, "--model", "open", "--shape", "spike", "--users", "80", "--time", "10s")
    assert run, chain.checkout.output
    assert run.asked["shape"] == "Spike"
    sent = {second: sum(of[TOTAL][0] for of in routes.values() if TOTAL in of) for second, routes in run.series.items()}
    of_second = [sent.get(second, 0) for second in range(min(sent), max(sent) + 1)]
    assert max(of_second[4:8]) > 3 * max(of_second[1:3]), of_second


@pytest.mark.long
def test_the_search_for_the_knee_ends_where_it_bends_or_all_are_there(chain: Chain) -> None:
    _, run = load(chain, "--shape", "knee", "--users", "1")
    assert run, chain.checkout.output
    assert run.asked["knee"] == "no bend up to 1 users"
    container = f"gatehouse-test-{next(iter(chain.apps))}-1"
    docker.run("stop", container)
    try:
        _, run = load(chain, "--model", "open", "--shape", "knee", "--users", "400")
    finally:
        docker.run("start", container)
        chain.checkout.run("up")
    assert run, chain.checkout.output
    assert run.asked["knee"].startswith("0 arrivals a second held, 20 arrivals a second did not"), run.asked


def test_what_cannot_be_measured_is_said_before(chain: Chain, limits: Path) -> None:
    done = chain.checkout.run("load", "--headless", "--time", "2s", "--", "--host", "http://edge:1", check=False)
    assert done.returncode != 0
    assert "error: nobody answers at http://edge:1" in done.stdout
    limits.write_text("total: {eror: 0}")
    done = chain.checkout.run("load", "--headless", "--time", "2s", check=False)
    limits.write_text(LIMITS)
    assert done.returncode == 2
    assert "error: environments/slo/local.yml:1: total.eror: unknown metric. Did you mean 'errors'?" in done.stdout


def test_a_master_whose_workers_do_not_come_gives_up(chain: Chain) -> None:
    alone = ("--", "--master", "--expect-workers-max-wait", "3")
    done = chain.checkout.run("load", "--headless", "--time", "2s", *alone, check=False)
    assert done.returncode != 0
    assert "Gave up waiting for workers to connect" in done.stdout


def by_class(run: Run) -> dict[str, dict[str, str]]:
    with (RESULTS / run.name / "user_classes.csv").open() as file:
        return {row["user class"]: row for row in csv.DictReader(file)}
