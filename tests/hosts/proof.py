"""Everything that is done to a fleet, done under load: no request may fail, no effect may be lost or doubled.

Not part of any other run, because it takes half an hour: make test-hosts T=tests/hosts/proof.py

Each scenario leaves build/proof/<name>/ in the repository; docs/results/proof.md is made from them.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts.conftest import BIN, HOSTS, INVENTORY, REPOSITORY, Fleet
from tests.hosts.test_release import (
    Controller,
    crash,
    deaf,
    new_controller,
    unmigrated,
    unparsable,
    unwell,
    wait_for,
)

pytestmark = pytest.mark.timeout(600)

REQUESTS, RATE = 8000, 140
"""At least so many in each scenario, so many a second."""


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    """A site with both samples and a ledger of effects, released to three hosts."""
    controller = new_controller(tmp_path_factory.mktemp("proof"), fleet, quick=False)
    ledger = controller.root / "apps/ledger"
    shutil.copytree(REPOSITORY / "tests/hosts/ledger", ledger)
    shutil.copy(controller.root / "apps/flask/requirements.txt", ledger)
    members(fleet)
    assert controller.play("deploy.yml").code == 0
    return controller


def members(fleet: Fleet, **states: str) -> None:
    """The inventory, with the membership of some hosts: host3="drained"."""
    hosts = {
        name: ({"swarm_labels": {"ledger": "here"}} if name == "host1" else {})
        | ({"swarm_member": states[name]} if name in states else {})
        for name in fleet.names
    }
    fleet.regroup(hosts, {})  # type: ignore[arg-type]


def proof(
    controller: Controller,
    name: str,
    *command: str | Path,
    edges: list[str] | None = None,
    fails: bool = False,
    codes: tuple[int, ...] = (0,),
) -> None:
    """Runs a command on the controller under load; every request has to be answered."""
    arguments = [
        part for host in edges or controller.fleet.names for part in ("--edge", controller.fleet.address(host))
    ]
    done = subprocess.run(
        [
            sys.executable, "-m", "loadtests.proof", "--name", name, *arguments,
            "--host", "gatehouse.test", "--ca", controller.root / ".local/ca/ca.pem",
            "--app", "/flask=wsgi", "--app", "/fastapi=asgi", "--effects", "/ledger",
            "--rate", str(RATE), "--requests", str(REQUESTS), "--at-most", "240",
            *(["--expect-failure"] if fails else []), "--", *command,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_CONFIG": str(controller.root / "ansible/ansible.cfg"), "NO_COLOR": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode in codes


def play(controller: Controller, *arguments: str) -> list[str | Path]:
    return [
        BIN / "ansible-playbook",
        "-i",
        INVENTORY.parent,
        *(controller.root / "ansible" / a if a.endswith(".yml") else a for a in arguments),
    ]


RELEASE = ("deploy.yml", "--tags", "release")


def change(controller: Controller, text: str) -> None:
    """Something new in every app."""
    controller.hello(text)
    controller.app("fastapi", env={"CHANGE": text})
    controller.app("ledger", env={"ROWS": "/rows/rows.db", "CHANGE": text})


def test_a_good_release(controller: Controller) -> None:
    change(controller, "good")
    proof(controller, "good", *play(controller, *RELEASE))


@pytest.mark.parametrize("broken", [crash, deaf, unwell, unmigrated, unparsable])
def test_a_bad_release(controller: Controller, broken: Callable[[Controller], Callable[[], object]]) -> None:
    change(controller, broken.__name__)
    undo = broken(controller)
    try:
        proof(controller, f"bad-{broken.__name__}", *play(controller, *RELEASE), fails=True)
    finally:
        undo()


def test_a_rollback(controller: Controller) -> None:
    proof(controller, "rollback", *play(controller, "rollback.yml"))


def test_scaling_up_and_down(controller: Controller) -> None:
    controller.release()
    for replicas, direction in ((4, "up"), (2, "down")):
        undo = (
            controller.edit("environments/test.yml", "replicas: 2", f"replicas: {replicas}") if replicas != 2 else None
        )
        proof(controller, f"scale-{direction}", *play(controller, *RELEASE))
        if undo:
            undo()


def test_another_configuration_of_the_edge(controller: Controller) -> None:
    controller.app("fastapi", body_limit="5M")
    proof(controller, "edge-configuration", *play(controller, *RELEASE))


def test_another_certificate(controller: Controller) -> None:
    certificate = controller.root / ".local/ca/certificate.pem"
    before = certificate.read_text()
    certificate.unlink()
    proof(controller, "certificate", *play(controller, *RELEASE))
    assert certificate.read_text() != before


def test_reloads(controller: Controller) -> None:
    script = "for n in 1 2 3 4 5; do docker exec $(docker ps -q --filter name=gatehouse_edge) nginx -p /etc/gatehouse/current/ -c nginx.conf -e /dev/stderr -s reload; sleep 3; done"
    proof(
        controller,
        "reload",
        BIN / "ansible",
        "-i",
        INVENTORY.parent,
        "all",
        "-b",
        "-m",
        "ansible.builtin.shell",
        "-a",
        script,
    )


def test_a_host_drained_and_back(controller: Controller) -> None:
    """Through the hosts that stay in rotation."""
    for state in ("drained", "active"):
        members(controller.fleet, host3=state)
        proof(
            controller, f"host-{state}", *play(controller, "provision.yml", "--tags", "swarm"), edges=["host1", "host2"]
        )


def test_a_host_taken_out_and_added(controller: Controller) -> None:
    members(controller.fleet, host3="removed")
    proof(controller, "host-removed", *play(controller, "provision.yml", "--tags", "swarm"), edges=["host1", "host2"])
    members(controller.fleet)
    proof(controller, "host-added", *play(controller, "deploy.yml"), edges=["host1", "host2"])
    wait_for(lambda: "host3" in controller.fleet.host("host1").check_output("docker node ls"), 10)


def test_a_host_that_is_lost(controller: Controller) -> None:
    """Switched off, not drained. What was in flight on it is lost; what begins 2 s later or more is not."""
    fleet = controller.fleet
    try:
        proof(controller, "host-lost", HOSTS, "stop", "host3", edges=["host1", "host2"], codes=(0, 1))
        folder = REPOSITORY / "build/proof/host-lost"
        lost = json.loads((folder / "proof.json").read_text())["command"]["start"]
        with gzip.open(folder / "requests.csv.gz", "rt") as file:
            failed = [request for request in csv.DictReader(file) if request["error"]]
        late = [r for r in failed if float(r["started"]) > lost + 2 and r["kind"] not in ("ws", "sse")]
        print(f"{len(failed)} failed, of them {len(late)} that began more than 2 s after: {failed}")
        assert late == []
    finally:
        fleet.do("start", "host3")
