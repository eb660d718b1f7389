"""What stands around loadtests/tuner.py: what to ask, what the kernel says, what is written into app.yml, and the page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from loadtests import kernel, mix, tune, tune_page, tuner
from loadtests.tuner import Candidate, Character, Visit, candidate
from stack.edge import OURS
from stack.errors import Failed
from stack.load import SiteError
from stack.rewrite import diff, rewrite
from tests.pure.conftest import WSGI, Draft

# --- what to ask ------------------------------------------------------------------------------------------------------


def logged(uri: str, status: int = 200, method: str = "GET", app: str = "shop", agent: str = "curl") -> str:
    return json.dumps({"app": app, "uri": uri, "status": status, "method": method, "user_agent": agent})


def test_what_clients_asked_is_counted_below_the_apps_prefix(draft: Draft) -> None:
    draft.app(f"{WSGI}paths:\n  /events: {{stream: true}}\n")
    lines = [logged("/shop/")] * 15 + [logged("/shop/search?q=lamp")] * 5
    not_counted = [
        logged("/shop/", 404), logged("/shop/", method="POST"), logged("/shop/events?n=2"), logged("/shop/", app="other"),
        logged("/shop/healthz"), logged("/shop/", agent=OURS), "2026/11/26 [error] no JSON", '{"app": "shop"}', "{",
    ]  # fmt: skip
    found = mix.recorded([*lines, *not_counted * 30], draft.plan())
    assert [(r.name, r.weight) for r in found] == [("GET /", 15), ("GET /search?q=lamp", 5)]


def test_few_requests_say_nothing(draft: Draft) -> None:
    assert mix.recorded([logged("/shop/")] * (mix.LEAST - 1), draft.plan()) == []


MISTAKES = [
    ("requests: []\n", "mix.yml:1: requests: "),
    ("requests:\n  - {path: cart}\n", "mix.yml:2: requests"),
    ("requests:\n  - {path: /, weight: 0}\n", "mix.yml:2: requests"),
    ("requests:\n  - {path: /, methd: POST}\n", "methd"),
    ("[", "mix.yml"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_in_a_mix_file_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (file := tmp_path / "mix.yml").write_text(text)
    with pytest.raises(SiteError) as error:
        mix.read(file, tmp_path)
    assert said in str(error.value.problems[0])


def test_a_status_is_what_it_is_said_to_be_else_anything_below_400() -> None:
    assert not mix.Request(path="/").wrong(302)
    assert mix.Request(path="/").wrong(404)
    assert not mix.Request(path="/", status=404).wrong(404)
    assert mix.Request(path="/", status=404).wrong(200)


def test_the_apps_own_mix_is_asked_and_another_one_where_it_is_given(draft: Draft) -> None:
    (draft.root / "apps/shop/mix.yml").write_text("requests: [{path: /own}]\n")
    (draft.root / "other.yml").write_text("requests: [{path: /other}]\n")
    site, plan = draft.load(), draft.plan()
    requests, source = tune.requests_of(site, plan, None)
    assert ([r.path for r in requests], source) == (["/own"], "apps/shop/mix.yml")
    requests, source = tune.requests_of(site, plan, str(draft.root / "other.yml"))
    assert ([r.path for r in requests], source) == (["/other"], "other.yml")
    with pytest.raises(Failed, match=r"MIX=nope\.yml: no such file"):
        tune.requests_of(site, plan, "nope.yml")


def test_the_samples_mixes_are_right() -> None:
    for app in ("flask", "fastapi"):
        assert len(mix.read(tune.REPOSITORY / "apps" / app / "mix.yml", tune.REPOSITORY)) == 3


# --- on what ----------------------------------------------------------------------------------------------------------


def test_only_gateways_that_take_the_apps_settings_are_tried(draft: Draft) -> None:
    assert set(tune.allowed(draft.plan())) >= {"gunicorn-sync", "gunicorn-gthread", "uwsgi", "granian-wsgi"}
    assert not set(tune.allowed(draft.plan())) & {"uvicorn", "granian-asgi"}
    draft.app(f"{WSGI}preload: true\n")
    assert "granian-wsgi" not in tune.allowed(draft.plan())
    (draft.root / "apps/shop/Dockerfile").write_text("FROM scratch\n")
    assert {"gunicorn-sync", "gunicorn-gthread"} <= set(tune.allowed(draft.plan()))
    assert not {"uwsgi", "gunicorn-gevent"} & set(tune.allowed(draft.plan())), "not in that image"


def test_the_limit_is_what_was_asked_else_the_environments_else_a_second(draft: Draft) -> None:
    assert tune.limit_of(draft.load(), 250) == (250, "P95=250")
    assert tune.limit_of(draft.load(), None) == (1000, "the default")
    (draft.root / "environments/slo").mkdir()
    (draft.root / "environments/slo/local.yml").write_text("total: {p95: 300}\n")
    assert tune.limit_of(draft.load(), None) == (300, "environments/slo/local.yml")


# --- the kernel -------------------------------------------------------------------------------------------------------


def group(root: Path, cgroup: str, files: dict[str, str]) -> None:
    """/proc/7/cgroup, and files of control groups."""
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/cgroup").write_text(cgroup)
    for name, text in files.items():
        (file := root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    files = {
        "x/cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "x/memory.current": str(50 * kernel.MIB),
        "x/memory.stat": f"anon 1\ninactive_file {20 * kernel.MIB}\nactive_file 3\n",
    }
    group(tmp_path, "0::/x\n", files)
    assert kernel.cpu(7, tmp_path) == 2.5
    assert kernel.memory(7, tmp_path) == 30


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    files = {
        "cpuacct/x/cpuacct.usage": "2500000000\n",
        "memory/y/memory.usage_in_bytes": str(50 * kernel.MIB),
        "memory/y/memory.stat": f"inactive_file 0\ntotal_inactive_file {20 * kernel.MIB}\n",
    }
    group(tmp_path, "4:cpu,cpuacct:/x\n3:memory:/y\n1:name=systemd:/z\n0::/\n", files)
    assert kernel.cpu(7, tmp_path) == 2.5
    assert kernel.memory(7, tmp_path) == 30


def test_where_there_are_no_control_groups_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="this wants Linux"):
        kernel.cpu(7, tmp_path)
    group(tmp_path, "1:name=systemd:/\n", {})
    for read in (kernel.cpu, kernel.memory):
        with pytest.raises(Failed, match="this wants Linux"):
            read(7, tmp_path)


# --- app.yml ----------------------------------------------------------------------------------------------------------

VALUES: dict[str, str | int | float] = {"gateway": "gunicorn-gthread", "workers": 2, "threads": 16, "waits": 0.98}
WRITTEN = """# The shop.
interface: wsgi
entry: app:app
workers: auto   # as many as fit
threads: "8"
paths:
  /: {timeout: 5}   # quick
"""


def test_only_these_values_change_and_comments_and_order_stay() -> None:
    after = rewrite(WRITTEN, VALUES, behind=("workers", "gateway", "entry"))
    assert (
        after
        == """# The shop.
interface: wsgi
entry: app:app
workers: 2   # as many as fit
gateway: gunicorn-gthread
waits: 0.98
threads: 16
paths:
  /: {timeout: 5}   # quick
"""
    )
    assert rewrite(after, VALUES, behind=("workers",)) == after
    assert diff(after, after, "app.yml") == []
    assert "+workers: 2   # as many as fit" in diff(WRITTEN, after, "app.yml")


def test_new_keys_come_last_where_none_is_there_to_follow() -> None:
    assert rewrite("interface: wsgi", {"workers": 2}, behind=("workers", "gateway")) == "interface: wsgi\nworkers: 2\n"


@pytest.mark.parametrize(
    "text",
    ["workers: &n 4\nthreads: *n\n", "{interface: wsgi, workers: 4}\n", "workers: >-\n  auto\n", "workers: 0x4\n"],
)
def test_what_is_written_in_rarer_ways_is_left_to_people(text: str) -> None:
    with pytest.raises(Failed, match="for people to change"):
        rewrite(text, VALUES, behind=("workers",))


# --- the page ---------------------------------------------------------------------------------------------------------

OF = Character(service=0.102, cpu=0.002, worker=18, parent=15)
RULE, NOW, SMALL = (
    candidate("gunicorn-sync", 3, 1),
    candidate("gunicorn-gthread", 4, 8),
    candidate("gunicorn-gthread", 1, 32),
)


def visit(number: int, c: Candidate, p95: float) -> Visit:
    return Visit(number, c, 50, 5, 250, 0, p95 / 2, p95, -0.1, 0.2, 102, 2, 0.1, 0.5, 50, 0.5, {})


def raw(p95: dict[Candidate, float], late: bool = False) -> dict[str, object]:
    visits = [visit(n, c, value) for n in range(1, 5) for c, value in p95.items()]
    visits += [replace(visits[0], lag=5000.0)] if late else []
    decision = tuner.decide(visits, list(p95), NOW, 1000)
    return {
        "date": "2026-11-26 10:00 UTC", "app": "<shop>", "machine": "2 cores", "cpus": 1, "memory": "256M", "p95": 1000, "asked": "mix.yml",
        "requests": [{"path": "/?a=<b>", "method": "GET", "weight": 1.0}], "rate": 50.0, "current": asdict(NOW),
        "control": asdict(RULE), "candidates": [asdict(c) for c in p95], "choice": asdict(decision.choice) if decision.choice else None,
        "sentence": decision.sentence, "advice": tuner.advice(OF), "visits": [asdict(v) for v in visits],
        "capacity": [{"candidate": asdict(SMALL), "rate": 315.0, "at_least": True, "visits": [asdict(visit(0, SMALL, 200))]}],
    }  # fmt: skip


def test_the_page_has_every_visit_as_a_dot_and_names_the_choice() -> None:
    page = tune_page.page(raw({NOW: 230, RULE: 900, SMALL: 110}, late=True))
    assert page.count(": p95 ") >= 13  # twelve, the late one, and one of the capacity's
    assert page.count("(INVALID)") == 2  # its p95 and its queue
    assert "gunicorn-gthread, 1 worker x 32 threads" in page
    assert "(the rule of thumb: 2 x cpus + 1)" not in page, "its capacity was not measured"
    assert "carries at least 315 requests a second" in page
    assert "the load generator was late: 1 of 13 visits" in page
    assert "<shop>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_page_of_an_slo_that_nothing_meets_says_so() -> None:
    page = tune_page.page({**raw({NOW: 2300, RULE: 9000}), "capacity": []})
    assert "no configuration meets p95 &lt;= 1000 ms" in page
    assert "How much it carries" not in page
