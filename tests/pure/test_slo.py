"""Limits of a run: what is read, what is judged, and what a judgement says."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.hops import HOPS, TOTAL, Histogram, Route
from loadtests.run import Run
from loadtests.slo import (
    ALLOWED,
    INVALID,
    MET,
    MISSED,
    STATISTICS,
    Judgement,
    Row,
    Slo,
    exit_code,
    judge,
    load,
    table,
    wire,
)
from loadtests.validity import Generator
from stack.load import SiteError

REPOSITORY = Path(__file__).resolve().parents[2]
HELLO, WAIT = "flask GET /", "flask GET /wait"


def same(milliseconds: float, n: int) -> Histogram:
    """So many durations of this length: every percentile is that, within 1 %."""
    histogram = Histogram()
    for _ in range(n):
        histogram.add(milliseconds)
    return histogram


def ms(value: float) -> str:
    """As it is shown: its bucket's middle."""
    return f"{same(value, 1).percentile(50):.1f} ms"


def route(total: float = 40, n: int = 1000, failed: int = 0, **hops: float) -> Route:
    """All of its requests take as long, in ms."""
    told = {"network": 1.0, **hops}
    return Route(
        "flask", requests=n, failed=failed, histograms={hop: same(of, n) for hop, of in {TOTAL: total, **told}.items()}
    )


def run(late: float = 0, **routes: Route) -> Run:
    """10 s. late: ms, of the generator."""
    named = {HELLO: routes.pop("hello", route()), **{f"flask GET /{path}": of for path, of in routes.items()}}
    return Run("test", "", 10.0, {}, named, {}, {}, Generator(loop_lag=same(late, 100)))


def slo(**of: Any) -> Slo:
    return Slo.model_validate(of)


def row(judgement: Judgement) -> Row:
    (only,) = judgement.rows
    return only


# --- met, missed, not judged ------------------------------------------------------------------------------------------


def test_a_run_that_meets_its_limits() -> None:
    judgement = judge(run(), slo(total={"rate": 100, "errors": 0}, each={"p95": 50, "mean": 40}))
    assert judgement.code == MET == 0
    assert judgement.sentence == "Limits: 4 met."
    assert [(row.route, row.metric, row.limit, row.measured) for row in judgement.rows] == [
        (TOTAL, "rate", "at least 100 /s", "100.0 /s"),
        (TOTAL, "errors", "0 %", "0 % (0 of 1,000)"),
        (HELLO, "p95", "50 ms", ms(40)),
        (HELLO, "mean", "40 ms", "40.0 ms"),
    ]
    assert all(row.met and row.judged and row.miss == "" for row in judgement.rows)


@pytest.mark.parametrize(
    ("limits", "measured", "miss"),
    [
        ({"p95": 25}, ms(40), "1.6 x"),
        ({"mean": 38.5}, "40.0 ms", "1.04 x"),
        ({"p99.9": 0.5}, ms(40), "80.6 x"),
        ({"rate": 250}, "99.7 /s", "2.5 x"),
        ({"errors": 0.1}, "0.3 % (3 of 1,000)", "3.0 x"),
        ({"errors": 0}, "0.3 % (3 of 1,000)", "none allowed"),
    ],
)
def test_what_is_missed_says_by_how_much(limits: dict[str, float], measured: str, miss: str) -> None:
    judgement = judge(run(hello=route(failed=3)), slo(total=limits))
    assert judgement.code == MISSED == 3
    assert (row(judgement).met, row(judgement).measured, row(judgement).miss) == (False, measured, miss)


def test_the_sentence_names_the_worst() -> None:
    judgement = judge(run(hello=route(queue=90)), slo(each={"p95": 30, "queue p95": 30, "p50": 60}))
    assert judgement.sentence == (
        f"Limits: 1 met, 2 missed. The worst: flask GET /: queue p95 {ms(90)}, limit 30 ms (3.0 x)."
    )


def test_total_is_of_all_requests_and_each_of_one_route() -> None:
    fast_and_slow = run(hello=route(10, n=9000), wait=route(300, n=100))
    assert judge(fast_and_slow, slo(total={"p95": 50})).code == MET
    missed = [row.route for row in judge(fast_and_slow, slo(each={"p95": 50})).rows if not row.met]
    assert missed == [WAIT]


def test_a_part_of_requests_is_judged_by_itself_and_in_no_total() -> None:
    part = route(300, n=9000, failed=9000)
    part.part = True
    with_part = run(events=part)
    assert judge(with_part, slo(total={"p95": 50, "errors": 0})).code == MET
    assert judge(with_part, slo(total={"rate": 101})).code == MISSED
    assert judge(with_part, slo(routes={"flask GET /events": {"p95": 50}})).code == MISSED


@pytest.mark.parametrize(("statistic", "least"), STATISTICS.items())
def test_too_few_requests_are_no_measurement(statistic: str, least: int) -> None:
    assert judge(run(hello=route(n=least)), slo(each={statistic: 50})).code == MET
    judgement = judge(run(hello=route(n=least - 1)), slo(each={statistic: 50}))
    assert judgement.code == INVALID == 4
    assert judgement.sentence == (
        f"Limits: 1 not judged. Such as: flask GET /: {statistic} of {least - 1} requests, limit 50 ms "
        f"(too few: it takes {least})."
    )
    assert (row(judgement).met, row(judgement).judged) == (False, False)


def test_too_few_requests_excuse_no_other_limit() -> None:
    judgement = judge(run(hello=route(n=50), wait=route(300)), slo(each={"p95": 250}))
    assert judgement.code == MISSED
    assert judgement.sentence.startswith("Limits: 1 missed, 1 not judged. The worst: flask GET /wait: p95 ")


def test_errors_are_judged_from_the_first_request() -> None:
    assert judge(run(hello=route(n=1)), slo(each={"errors": 0})).code == MET
    assert judge(run(hello=route(n=1, failed=1)), slo(each={"errors": 0})).code == MISSED


# --- the load generator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"p95": 25}, {"p95": 50}, {"rate": 250}, {"errors": 1}])
def test_an_invalid_measurement_proves_and_disproves_nothing(limits: dict[str, float]) -> None:
    judgement = judge(run(late=30), slo(total=limits))
    assert judgement.code == INVALID
    assert judgement.sentence.endswith(
        " The measurement is invalid: the generator's loop was 30 ms late (p99), and p95 is 40 ms."
    )


def test_times_of_an_invalid_measurement_are_not_judged() -> None:
    assert {(row.met, row.judged, row.miss) for row in judge(run(late=30), slo(total={"p95": 25, "p50": 50})).rows} == {
        (False, False, "not judged")
    }


def test_a_failed_request_has_failed_whatever_the_generator_did() -> None:
    judgement = judge(run(late=30, hello=route(failed=3)), slo(total={"p95": 1, "errors": 0.1}))
    assert judgement.code == MISSED
    assert judgement.sentence == (
        "Limits: 1 missed, 1 not judged. The worst: total: errors 0.3 % (3 of 1,000), limit 0.1 % (3.0 x). "
        "The measurement is invalid: the generator's loop was 30 ms late (p99), and p95 is 40 ms."
    )


def test_a_doubtful_measurement_is_judged_and_said() -> None:
    judgement = judge(run(late=6), slo(total={"p95": 50}))
    assert judgement.code == MET
    assert judgement.sentence == (
        "Limits: 1 met. The measurement is doubtful: the generator's loop was 6 ms late (p99), and p95 is 40 ms."
    )


def test_a_run_without_requests_is_invalid() -> None:
    nothing = Run("test", "", 0.0, {}, {}, {}, {}, Generator())
    judgement = judge(nothing, slo(total={"errors": 0, "rate": 1, "p95": 50}, routes={HELLO: {"p95": 50}}))
    assert judgement.code == INVALID
    assert judgement.sentence == "Limits: 4 not judged. The measurement is invalid: no request was answered."


# --- which limit holds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "limit"),
    [
        ({}, 1),
        ({"*": {"p50": 2}}, 1),  # nothing about this metric
        ({"*": {"p95": 2}}, 2),
        ({"*": {"p95": 2}, "flask *": {"p95": 3}}, 3),
        ({"flask *": {"p95": 3}, "*": {"p95": 2}}, 3),
        ({"* GET /wait": {"p95": 4}, "flask *": {"p95": 3}}, 4),
        ({WAIT: {"p95": 5}, "*flask GET /wait*": {"p95": 6}}, 5),
        ({"flask ??? /wait": {"p95": 7}, "flask GET /wai?": {"p95": 8}}, 8),
        ({"FLASK *": {"p95": 9}, "* GET /": {"p95": 9}}, 1),  # neither fits
    ],
)
def test_the_most_specific_limit_of_a_metric_wins(routes: dict[str, dict[str, float]], limit: float) -> None:
    assert slo(each={"p95": 1, "errors": 0}, routes=routes).of(WAIT)["p95"] == limit


def test_a_specific_limit_hides_no_other_metric() -> None:
    assert slo(each={"p95": 1, "errors": 0}, routes={"*": {"queue p95": 2}, WAIT: {"p95": 3}}).of(WAIT) == {
        "p95": 3,
        "errors": 0,
        "queue p95": 2,
    }


def test_a_route_that_was_not_requested_is_missed() -> None:
    judgement = judge(run(), slo(routes={"flask GET /wiat": {"p95": 100, "p50": 50}}))
    assert judgement.code == MISSED
    assert (row(judgement).route, row(judgement).metric, row(judgement).measured) == (
        "flask GET /wiat",
        "requests",
        "0",
    )
    assert row(judgement).miss == "no such request was made. Did you mean 'flask GET /'?"


# --- hops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "code"), [(10, MISSED), (30, MET)])
@pytest.mark.parametrize("hop", HOPS)
def test_a_limit_of_a_hop(hop: str, limit: float, code: int) -> None:
    judgement = judge(run(hello=route(**{hop: 20})), slo(each={f"{hop} p95": limit}))
    assert (judgement.code, row(judgement).measured) == (code, ms(20))


def test_a_hop_that_a_route_does_not_have_is_left_out() -> None:
    limits = slo(each={"pool p95": 1, "p95": 50})
    assert [(row.route, row.metric) for row in judge(run(wait=route(pool=0.5)), limits).rows] == [
        (HELLO, "p95"),
        (WAIT, "pool p95"),
        (WAIT, "p95"),
    ]
    assert judge(run(), slo(each={"pool p95": 1})) == Judgement([], "Limits: none of this run.", MET)


def test_where_no_answer_tells_its_hops_their_limits_are_not_met() -> None:
    silent = route()
    del silent.histograms["network"]
    judgement = judge(run(hello=silent), slo(each={"queue p95": 50}))
    assert judgement.code == INVALID
    assert row(judgement).miss == "no answer tells it: is edge.timing on?"


def test_a_hop_of_few_requests_is_not_judged() -> None:
    few = route()
    few.histograms["upstream"] = same(5, 3)
    judgement = judge(run(hello=few), slo(each={"upstream p95": 1}))
    assert (judgement.code, row(judgement).miss) == (INVALID, "too few: it takes 100")


# --- what is shown ----------------------------------------------------------------------------------------------------


def shown(judgement: Judgement) -> list[str]:
    console = Console(file=StringIO(), width=150)
    table(judgement, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    return [" ".join(line.split()) for line in said.splitlines() if line.strip(" ─")]


def test_the_table_shows_what_is_missed_worst_first() -> None:
    slow = run(hello=route(90), wait=route(300))
    judgement = judge(slow, slo(each={"p95": 50, "p50": 1000}, routes={"[b] GET /": {"p95": 1}}))
    assert shown(judgement) == [
        "route metric limit measured missed by",
        "[b] GET / requests at least 1 0 no such request was made. Did you mean 'flask GET /'?",
        f"flask GET /wait p95 50 ms {ms(300)} 6.0 x",
        f"flask GET / p95 50 ms {ms(90)} 1.8 x",
        judgement.sentence,
    ]


def test_where_all_is_met_there_is_no_table() -> None:
    assert shown(judge(run(), slo(each={"p95": 50}))) == ["Limits: 1 met."]


def test_a_judgement_is_plain_data() -> None:
    judgement = judge(run(hello=route(failed=1)), slo(each={"errors": 0}))
    data = json.loads(json.dumps(wire(judgement), allow_nan=False))
    assert data == wire(judgement)
    assert (data["code"], data["sentence"]) == (MISSED, judgement.sentence)
    assert set(data["rows"][0]) == {field.name for field in fields(Row)}


# --- the file ---------------------------------------------------------------------------------------------------------


def problems(folder: Path, content: str | bytes) -> list[str]:
    file = folder / "environments/slo/local.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    (folder / "environments/local.yml").touch()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SiteError) as raised:
        load(folder, "local")
    return [str(problem) for problem in raised.value.problems]


OF_ROUTES = "Routes by name or pattern, instead of what `each` says of the metric: ms, percent (errors)."

# The file begins with two good lines, so that what is wrong stands in line 3.
ONE_WRONG_LINE = {
    "each: {p98: 1}": f"each.p98: unknown metric. Did you mean 'p90'? Allowed: {ALLOWED}",
    "each: {queue_p95: 1}": f"each.queue_p95: unknown metric. Did you mean 'queue p95'? Allowed: {ALLOWED}",
    "each: {queu p99.9: 1}": f"each.queu p99.9: unknown metric. Did you mean 'queue p99.9'? Allowed: {ALLOWED}",
    "each: {gateway p95: 1}": f"each.gateway p95: unknown metric. Allowed: {ALLOWED}",
    "each: {rate: 1}": f"each.rate: unknown metric. Allowed: {ALLOWED}",
    "each: {95: 1}": f"each.95: unknown metric. Did you mean 'p95'? Allowed: {ALLOWED}",
    "routes: {flask GET /: {error: 1}}": "routes.flask GET /.error: unknown metric. Did you mean 'errors'? "
    f"Allowed: {ALLOWED}",
    "route: {flask GET /: {p95: 1}}": "route: unknown key. Did you mean 'routes'? Allowed: total, each, routes",
    "p95: 100": "p95: unknown key. Allowed: total, each, routes",
    "each: {p95: 100 ms}": "each.p95: should be a number, not '100 ms'. Each route by itself: ms, percent (errors).",
    "each: {p95: '100'}": "each.p95: should be a number, not '100'. Each route by itself: ms, percent (errors).",
    "each: {p95: true}": "each.p95: should be a number, not true. Each route by itself: ms, percent (errors).",
    "each: {p95: null}": "each.p95: should be a number, not null. Each route by itself: ms, percent (errors).",
    "each: {p95: -1}": "each.p95: should be greater than or equal to 0, not -1. "
    "Each route by itself: ms, percent (errors).",
    "each: {p95: .inf}": "each.p95: should be a finite number, not Infinity. "
    "Each route by itself: ms, percent (errors).",
    "each: 100": "each: should be a mapping of keys to values, not 100. Each route by itself: ms, percent (errors).",
    "each:": "each: should be a mapping of keys to values, not null. Each route by itself: ms, percent (errors).",
    "each: [p95]": 'each: should be a mapping of keys to values, not ["p95"]. '
    "Each route by itself: ms, percent (errors).",
    "routes: {flask GET /: 100}": "routes.flask GET /: should be a mapping of keys to values, not 100. " + OF_ROUTES,
    "routes: {flask GET /: {p95: fast}}": f"routes.flask GET /.p95: should be a number, not 'fast'. {OF_ROUTES}",
}


@pytest.mark.parametrize(("line", "problem"), ONE_WRONG_LINE.items(), ids=list(ONE_WRONG_LINE))
def test_a_wrong_line_is_one_problem_with_its_cure(tmp_path: Path, line: str, problem: str) -> None:
    assert problems(tmp_path, f"total:\n  errors: 0\n{line}\n") == [f"environments/slo/local.yml:3: {problem}"]


def test_all_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = problems(tmp_path, "routes:\n  a: {p95: x}\n  b:\n    p50: 1\n    p9: 1\ntotal: {p95: x}\n")
    assert [problem.split(": ")[:2] for problem in said] == [
        ["environments/slo/local.yml:2", "routes.a.p95"],
        ["environments/slo/local.yml:5", "routes.b.p9"],
        ["environments/slo/local.yml:6", "total.p95"],
    ]


UNREADABLE = {
    "a metric twice": ("each:\n  p95: 1\n  p95: 2\n", ':3: not valid YAML: while constructing a mapping found duplicate key "p95"'),
    "a route twice": ("routes:\n  a: {p95: 1}\n  a: {p50: 1}\n", ":3: not valid YAML: while constructing a mapping found duplicate"),
    "a pattern without quotes": ("routes:\n  * GET /: {p95: 1}\n", ":2: not valid YAML: while scanning an alias expected alphabetic"),
    "a list": ("- p95: 1\n", ": must be a mapping of keys to values"),
    "Latin-1": ("# Café\n".encode("latin-1"), ":1: not UTF-8 text: "),
}  # fmt: skip


@pytest.mark.parametrize(("content", "problem"), UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: str | bytes, problem: str) -> None:
    (said,) = problems(tmp_path, content)
    assert said.startswith(f"environments/slo/local.yml{problem}")


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}\n", "each: {}\n", "routes: {flask GET /: {}}\n"])
def test_a_file_without_a_limit_is_no_file_of_limits(tmp_path: Path, content: str) -> None:
    assert problems(tmp_path, content) == [
        "environments/slo/local.yml: no limit is here. Write one, or remove the file"
    ]


def test_without_a_file_nothing_is_judged_and_that_is_said(tmp_path: Path) -> None:
    limits = load(tmp_path, "production")
    assert limits is None
    assert judge(run(hello=route(failed=9)), limits) == Judgement(
        [], "No limits are set for this environment: nothing was judged.", MET
    )


@pytest.mark.parametrize("name", ["locall.yml", "local.yaml"])
def test_limits_of_no_environment_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "environments/slo").mkdir(parents=True)
    (tmp_path / "environments/local.yml").touch()
    (tmp_path / "environments/slo" / name).touch()
    with pytest.raises(SiteError) as raised:
        load(tmp_path, "local")
    said = "no environment goes by this name. Did you mean 'local.yml'? Allowed: local.yml"
    assert [str(problem) for problem in raised.value.problems] == [f"environments/slo/{name}: {said}"]


# --- the exit code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "crashed", "late", "code"),
    [
        ({"errors": 0, "p95": 50}, False, 0, MET),
        ({"errors": 0, "p95": 25}, False, 0, MISSED),
        ({"errors": 0, "p95": 50}, False, 30, INVALID),
        ({"errors": 0, "p95": 50}, True, 0, None),  # Locust says 1 then
        ({"errors": 0, "p95": 25}, True, 0, MISSED),
        ({"p95": 50}, False, 0, None),  # whether failed requests matter is Locust's
        (None, False, 0, None),
        (None, False, 30, INVALID),
    ],
)
def test_the_exit_code(limits: dict[str, float] | None, crashed: bool, late: float, code: int | None) -> None:
    of = run(late=late)
    assert exit_code(of, judge(of, slo(total=limits) if limits else None), crashed) == code


def test_a_search_for_the_knee_is_not_judged() -> None:
    of = replace(run(late=30), asked={"shape": "Knee"})
    judgement = judge(of, slo(total={"p95": 1}))
    assert (judgement.rows, exit_code(of, judgement, False)) == ([], None)


def test_the_limits_of_this_repository_are_read_and_can_be_met() -> None:
    limits = load(REPOSITORY, "local")
    assert limits is not None
    assert limits.of(HELLO) == {"p50": 750, "p95": 100, "queue p95": 50}
    assert limits.of("fastapi GET /wait") == {"p50": 750, "p95": 250}
    of = run(hello=route(queue=20), wait=route(130))
    of.routes["flask GET /events delivery"] = route(5)
    assert judge(of, limits).code == MET
