"""The matrix's tables, what is known to be otherwise, and the examples that it runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from stack.gateways import GATEWAYS, Gateway
from stack.load import load_site
from tests.conftest import REPOSITORY
from tests.matrix import known, run
from tests.matrix.page import (
    FEATURES,
    Outcome,
    Pair,
    cell,
    feature_cell,
    features_table,
    locked,
    outcomes,
    pairs_table,
)

TESTS = set(re.findall(r"^def (test_\w+)", "".join((REPOSITORY / f).read_text() for f in run.SUITE), re.MULTILINE))

JUNIT = """<testsuites><testsuite>
<testcase name="test_hello[http-flask]"/>
<testcase name="test_echo_gives_the_body_back[flask-20971520]"><failure message="assert 502 ==&#10;  200">long</failure></testcase>
<testcase name="test_one_connection_serves_many_requests"><skipped type="pytest.xfail" message="closes"/></testcase>
<testcase name="test_a_websocket_answers_pings[NOTSET]"><skipped type="pytest.skip" message="empty set"/></testcase>
<testcase name="test_an_upload_reaches_the_app_while_it_is_under_way[flask]"><skipped type="pytest.skip" message="slow takes it in whole"/></testcase>
<testcase name="test_moved"><error message="failed on setup"/></testcase>
</testsuite></testsuites>"""


def pair(*found: Outcome, framework: str = "flask", problem: str = "") -> Pair:
    return Pair(framework, "slow", found, problem)


PASSED = Outcome("test_hello", "", "passed")
FAILED = Outcome("test_hello", "http", "failed", "assert 502 == 200")
CLOSES = Outcome("test_one_connection_serves_many_requests", "", "lacking", "closes")
WHOLE = Outcome("test_an_upload_reaches_the_app_while_it_is_under_way", "", "lacking", "takes in a whole body")
KEPT = Outcome("test_one_connection_serves_many_requests", "", "passed")
BROKEN = Outcome("test_one_connection_serves_many_requests", "", "failed", "reset")


def test_outcomes_are_read_from_what_pytest_writes() -> None:
    assert list(outcomes(JUNIT, "flask", "slow")) == [
        Outcome("test_hello", "http", "passed"),
        Outcome("test_echo_gives_the_body_back", "20971520", "failed", "assert 502 == 200"),
        Outcome("test_one_connection_serves_many_requests", "", "lacking", "closes"),
        Outcome("test_a_websocket_answers_pings", "NOTSET", "skipped", "empty set"),
        Outcome("test_an_upload_reaches_the_app_while_it_is_under_way", "", "lacking", "takes it in whole"),
        Outcome("test_moved", "", "failed", "failed on setup"),
    ]


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (None, ""),
        (pair(PASSED), "pass"),
        (pair(), "**not run**"),
        (pair(problem="needs Docker"), "**not run**: needs Docker"),
        (pair(PASSED, FAILED), "**fails**: `test_hello` (http): assert 502 == 200"),
        (pair(FAILED, BROKEN), "**fails**: `test_hello` (http): assert 502 == 200; and 1 more"),
        (pair(PASSED, CLOSES), "pass"),
        (pair(PASSED, WHOLE), "pass; but takes in a whole body"),
        (pair(Outcome("test_x", "", "failed", "a | b <c>")), "**fails**: `test_x`: a \\| b &lt;c>"),
    ],
)
def test_a_cell_says_pass_or_the_reason(of: Pair | None, text: str) -> None:
    assert cell(of) == text


def test_a_pair_passes_only_if_something_was_asked_and_nothing_failed() -> None:
    assert pair(PASSED, CLOSES).passes
    assert not pair(CLOSES).passes
    assert not pair(PASSED, FAILED).passes
    assert not pair(PASSED, problem="why").passes


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([pair(KEPT), pair(KEPT, framework="django")], "yes"),
        ([pair(PASSED)], "-"),
        ([pair(CLOSES), pair(CLOSES, framework="django")], "no: closes"),
        ([pair(KEPT), pair(BROKEN, framework="django")], "**fails** (django)"),
        ([pair(CLOSES), pair(BROKEN, framework="django")], "**fails** (django)"),
    ],
)
def test_a_feature_is_over_all_frameworks(pairs: list[Pair], text: str) -> None:
    assert feature_cell("keep-alive", pairs) == text


def test_what_one_framework_lacks_is_said_of_it() -> None:
    assert feature_cell("streaming", [pair(WHOLE), pair(framework="django")]) == "no: flask: takes in a whole body"


def test_the_tables_have_a_row_a_gateway() -> None:
    assert pairs_table([pair(PASSED)], ["flask", "django"], ["slow"]).splitlines() == [
        "|  | flask | django |",
        "| --- | --- | --- |",
        "| `slow` | pass |  |",
    ]
    assert features_table([pair(CLOSES)], ["slow"]).splitlines()[2].startswith("| `slow` | no: closes | - |")


def test_features_and_known_limits_name_tests_and_gateways_that_are_there() -> None:
    assert {test for tests in FEATURES.values() for test in tests} <= TESTS
    for of in known.KNOWN:
        assert of.test in TESTS
        assert of.gateway in GATEWAYS
        assert of.framework in ("", *run.FRAMEWORKS)


def test_a_known_limit_is_of_its_gateway_framework_and_case() -> None:
    assert known.reason("gunicorn-sync", "flask", "test_one_connection_serves_many_requests", "") is not None
    assert known.reason("gunicorn-gthread", "flask", "test_one_connection_serves_many_requests", "") is None


def test_versions_are_the_locked_ones_of_what_is_asked_for() -> None:
    lock = "flask==3.1.3 \\\n    --hash=sha256:1\njinja2==3.1.6 \\\nquart==0.22.0 ; python < '3' \\\nquart==0.23.1 ; python\n"
    assert locked("Flask>=3 # why\n# a comment\nquart\n", lock) == {"Flask": "3.1.3", "quart": "0.22.0 or 0.23.1"}
    assert locked("uvicorn[standard]>=0.54", "uvicorn[standard]==0.54.0 \\\n") == {"uvicorn": "0.54.0"}


def test_every_framework_meets_every_gateway_of_its_interface() -> None:
    plan = run.chosen([])
    assert set(plan) == set(GATEWAYS)
    assert plan["uvicorn"] == ["fastapi", "channels", "quart", "starlette"]
    assert plan["gunicorn-gthread"] == ["flask", "bottle", "django", "pyramid"]
    assert run.chosen(["django", "uvicorn"]) == {}
    assert run.chosen(["quart", "uvicorn"]) == {"uvicorn": ["quart"]}
    with pytest.raises(SystemExit, match="no such twisted"):
        run.chosen(["twisted"])


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=lambda of: of.name)
def test_a_site_of_the_matrix_is_a_good_one(gateway: Gateway, tmp_path: Path) -> None:
    run.write_site(tmp_path, gateway, run.chosen([])[gateway.name], run.Slot(20000))
    site = load_site(tmp_path, "local")
    assert {plan.gateway.name for plan in site.apps.values()} == {gateway.name}
    assert {plan.prefix for plan in site.apps.values()} >= {
        "",
        "/a/b/flask" if gateway.interface == "wsgi" else "/a/b/quart",
    }


@pytest.mark.parametrize("folder", sorted((REPOSITORY / "examples").glob("*/")), ids=lambda path: path.name)
def test_an_example_copied_to_apps_is_an_app(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "apps" / folder.name)
    shutil.copytree(REPOSITORY / "environments", tmp_path / "environments")
    (plan,) = load_site(tmp_path, "local").apps.values()
    assert plan.app.contract == "full"
    assert plan.prefix == f"/{folder.name}"
    assert "--hash=sha256:" in (folder / "requirements.txt").read_text()
