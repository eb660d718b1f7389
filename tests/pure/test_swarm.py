"""What a release decides from the Swarm's answers, and which release a rollback goes to: from facts alone."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from stack.model import Environment

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def _module_utils() -> Any:
    """ansible/module_utils/gatehouse/swarm.py, under the name that Ansible ships it by; Ansible itself is not needed."""
    for name, path in (
        ("ansible", None),
        ("ansible.module_utils", None),
        ("ansible.module_utils.gatehouse", REPOSITORY / "ansible/module_utils/gatehouse"),
    ):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(path)] if path else []
    return importlib.import_module("ansible.module_utils.gatehouse.swarm")


swarm = _module_utils()

OLD, NEW = {"ContainerSpec": {"Image": "shop:1"}}, {"ContainerSpec": {"Image": "shop:2"}}


def service(state: str = "", replicas: int = 2, **template: Any) -> dict[str, Any]:
    return {
        "Spec": {
            "TaskTemplate": {**NEW, "Runtime": "container", **template},
            "Mode": {"Replicated": {"Replicas": replicas}},
        },
        "UpdateStatus": {"State": state} if state else None,
        "UpdatedAt": "2026-11-25T06:00:00.5Z",
    }


def task(
    state: str,
    spec: dict[str, Any] = NEW,
    desired: str = "running",
    error: str = "",
    at: str = "06:00:01",
    on: str = "a",
) -> Any:
    return {
        "Spec": spec,
        "NodeID": on,
        "DesiredState": desired,
        "Status": {"State": state, "Err": error},
        "CreatedAt": f"2026-11-25T{at}.1Z",
    }


@pytest.mark.parametrize(
    ("given", "tasks", "state", "sentence"),
    [
        (service(), [task("running"), task("running")], "done", "2 of 2 run"),
        (service(), [task("running"), task("starting")], "going", "1 of 2 run"),
        # Swarm still watches the last of them.
        (service("updating"), [task("running"), task("running")], "going", "2 of 2 run"),
        (service("completed"), [task("running"), task("running")], "done", "2 of 2 run"),
        # It has not begun yet: everything is as it was before.
        (service(), [task("running", OLD), task("running", OLD)], "going", "0 of 2 run"),
        # start-first: a new one runs, and the old one has not been told to stop.
        (service(replicas=1), [task("running"), task("running", OLD)], "going", "1 of 1 run"),
        # Told to stop, and still answering; of a host that is lost, nobody will say that it has.
        (service(replicas=1), [task("running"), task("running", OLD, desired="shutdown")], "going", "1 of 1 run"),
        (
            service(replicas=1),
            [task("running"), task("running", OLD, desired="shutdown", on="lost")],
            "done",
            "1 of 1 run",
        ),
        (service(replicas=1), [task("running"), task("shutdown", OLD, desired="shutdown")], "done", "1 of 1 run"),
        # A placement that is met already replaces nothing.
        (
            service(replicas=1, Placement={"Constraints": ["node.labels.disk == ssd"]}),
            [task("running")],
            "done",
            "1 of 1 run",
        ),
        (service("rollback_started"), [task("failed", OLD, error="exit 1")], "failed", "given up its update (exit 1)"),
        (service("rollback_completed"), [task("running"), task("running")], "failed", "given up its update"),
        (service("paused"), [task("running"), task("running")], "failed", "given up its update"),
        # First tasks of a service: nobody but us judges them.
        (service(), [task("failed", error="exit 1")] * 2, "going", "0 of 2 run"),
        (service(), [task("failed", error="exit 1")] * 3, "failed", "its tasks fail (exit 1)"),
        (service(), [task("failed", error="unhealthy container")], "failed", "unhealthy container"),
        (service(), [task("failed", error="exit 1", at="05:59:58")] * 3, "going", "0 of 2 run"),
        (service(), [task("pending", error="no suitable node")], "going", "no suitable node"),
    ],
)
def test_a_service_is_judged_by_its_tasks(given: Any, tasks: list[Any], state: str, sentence: str) -> None:
    found, said = swarm.judge(given, tasks, [node("a", {}), node("lost", {}, state="down")])
    assert found == state
    assert sentence in said


def test_what_has_served_before_need_not_be_watched() -> None:
    tasks = [task("running"), task("running")]
    assert swarm.judge(service("updating"), tasks, [], watch=True)[0] == "going"
    assert swarm.judge(service("updating"), tasks, [], watch=False)[0] == "done"


def node(name: str, labels: dict[str, str], state: str = "ready", availability: str = "active") -> dict[str, Any]:
    return {
        "ID": name,
        "Spec": {"Labels": {"gatehouse.host": name, **labels}, "Availability": availability},
        "Status": {"State": state},
        "Description": {"Hostname": name},
    }


def test_an_edge_is_wanted_on_every_host_that_is_up_and_has_its_directory() -> None:
    edge = service(Placement={"Constraints": ["node.labels.gatehouse.edge.x == present"]})
    edge["Spec"]["Mode"] = {"Global": {}}
    has = {"gatehouse.edge.x": "present"}
    nodes = [node("a", has), node("b", {}), node("c", has, state="down"), node("d", has, availability="drain")]
    assert swarm.judge(edge, [task("running")], nodes) == ("done", "1 of 1 run")
    assert swarm.judge(edge, [task("running")], [*nodes, node("e", has)]) == ("going", "1 of 2 run")


def test_a_host_that_is_up_is_not_left_out_in_silence() -> None:
    nodes = [node("a", {}), node("b", {}, state="down"), node("c", {}, availability="drain"), node("d", {})]
    assert swarm.left_out(nodes, ["a"]) == ["d"]
    assert swarm.left_out(nodes, ["a", "d"]) == []


def checked(*answers: str) -> dict[str, Any]:
    return {"Health": {"Log": [{"ExitCode": 1, "Output": f"{answer}\n"} for answer in answers]}}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"Status": "running"}, ""),
        ({"Status": "created"}, ""),
        ({"Status": "exited"}, "exit code 3"),
        ({"Status": "exited", "OOMKilled": True}, "exit code 3, out of memory (app.yml: memory)"),
        ({"Status": "running", **checked("503", "500")}, "running; its health path answers 500 (app.yml: health)"),
        (
            {"Status": "exited", **checked("bash: connect: refused")},
            "exit code 3; its health path does not answer (app.yml: health)",
        ),
    ],
)
def test_a_container_says_what_is_wrong_with_it(state: dict[str, Any], sentence: str) -> None:
    assert swarm.failure({"ExitCode": 3, "OOMKilled": False, **state}) == sentence


def record(number: int, content: str, result: str = "good", of: str = "") -> Any:
    labels = {"gatehouse.result": result} | ({"gatehouse.of": of} if of else {})
    return swarm.Record(f"20261125-06000{number}-{content}", content, labels)


A, B, C = record(1, "aaaaaaaa"), record(2, "bbbbbbbb"), record(4, "cccccccc")
BAD = record(3, "badbadba", "failed")
BACK = record(5, "bbbbbbbb", of=B.id)


@pytest.mark.parametrize(
    ("records", "wanted", "found"),
    [
        ([C, BAD, B, A], None, B),
        ([BACK, C, BAD, B, A], None, A),  # back twice: further back, not forward again
        ([BACK, C, BAD, B, A], "cccccccc", C),
        ([C, BAD, B, A], A.id, A),
        ([BACK, C, B, A], "bbbbbbbb", BACK),  # the same bytes, whichever record they are read from
    ],
)
def test_a_rollback_goes_to(records: list[Any], wanted: str | None, found: Any) -> None:
    assert swarm.target(records, wanted).content == found.content


@pytest.mark.parametrize(
    ("records", "wanted", "sentence"),
    [
        ([], None, "there is no good release yet"),
        ([BAD], None, "there is no good release yet"),
        ([A], None, "is the oldest good release that is kept"),
        ([record(6, "aaaaaaaa"), A], None, "is the oldest good release that is kept"),
        ([C, BAD, B, A], BAD.id, "is no good release. Good ones: 20261125-060004-cccccccc"),
        ([C, B, A], "20261125", "is more than one release"),
    ],
)
def test_a_rollback_that_has_nowhere_to_go_says_why(records: list[Any], wanted: str | None, sentence: str) -> None:
    with pytest.raises(swarm.Failed, match=sentence):
        swarm.target(records, wanted)


def test_five_good_releases_stay_and_old_records_of_others_go() -> None:
    good = [record(n, f"{n:08d}") for n in range(9, 2, -1)]
    failed = [swarm.Record(f"2025{n:04d}-000000-x", f"x{n}", {"gatehouse.result": "failed"}) for n in range(30, 0, -1)]
    keep, drop = swarm.kept(good + failed)
    assert keep == good[:5]
    assert drop == failed[swarm.KEEP_RECORDS - len(good) :]
    with pytest.raises(swarm.Failed, match="is no good release"):
        swarm.target(good + failed, good[5].id)  # its images are gone


def test_the_content_of_a_release_changes_with_its_files_and_its_secrets() -> None:
    files = {"stack.yml": "a"}
    same = swarm.content(files, {"X": "x_1"})
    assert same == swarm.content(dict(files), {"X": "x_1"})
    assert len({same, swarm.content({"stack.yml": "b"}, {"X": "x_1"}), swarm.content(files, {"X": "x_2"})}) == 3


def test_a_rollback_knows_the_default_name_of_a_site() -> None:
    """It reads the environment's file without the model, so that nothing that is broken here keeps it from going back."""
    variables = (REPOSITORY / "ansible/roles/release/vars/main.yml").read_text()
    assert f"name | default('{Environment.model_fields['name'].default}')" in variables


def test_the_modules_of_hosts_are_this_clones_own_files() -> None:
    for name in ("edge", "logs"):
        linked = REPOSITORY / "ansible/module_utils/gatehouse" / f"{name}.py"
        assert linked.resolve() == REPOSITORY / "stack" / f"{name}.py"


def test_a_release_says_itself_what_it_was() -> None:
    plan = {"site": "x"}
    assert swarm.plan({"release.json": json.dumps(plan)}) == plan


# --- somebody else changes a service meanwhile ------------------------------------------------------------------------


class NoServices:
    def services(self, site: str) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("said", "times"), [(["update out of sequence"] * 3, 4), (["update out of sequence"] * 50, 21), (["no space"], 1)]
)
def test_services_that_change_at_this_moment_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, said: list[str], times: int
) -> None:
    asked = []

    def docker(*arguments: str, **_: Any) -> str:
        asked.append(arguments)
        if len(asked) <= len(said):
            raise swarm.Failed(f"failed to update service x: rpc error: {said[len(asked) - 1]}")
        return ""

    monkeypatch.setattr(swarm, "docker", docker)
    monkeypatch.setattr(swarm.time, "sleep", lambda seconds: None)
    if times == len(said) + 1:
        swarm.apply(NoServices(), "site", {"stack.yml": ""}, {})
    else:
        with pytest.raises(swarm.Failed, match=said[0]):
            swarm.apply(NoServices(), "site", {"stack.yml": ""}, {})
    assert len(asked) == times
