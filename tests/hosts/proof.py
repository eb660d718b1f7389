"""Everything that is done to a fleet, done under load: no request may fail, no effect may be lost or doubled.

Not part of any other run, because it takes most of an hour: make test-hosts T=tests/hosts/proof.py

Each scenario is a `make proof` with a shell command, repeated for as long as it takes until every class of request was sent
a thousand times meanwhile. It leaves build/proof/<name>/; docs/results/proof.md is made from them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from loadtests.proof_load import WEIGHTS
from loadtests.proof_results import AWAY, READS, failures
from tests.hosts.conftest import BIN, HOSTS, INVENTORY, REPOSITORY, Fleet
from tests.hosts.test_release import (
    Controller,
    crash,
    deaf,
    new_controller,
    tasks_of,
    unmigrated,
    unparsable,
    unwell,
    wait_for,
)

pytestmark = pytest.mark.timeout(900)

RATE = 140
"""Requests a second, besides what is held open."""
SWITCH = 1150 * sum(WEIGHTS.values()) / RATE
"""s that a command goes on: then 1,000 of each class were sent during it, by all odds."""
REQUESTS = 8000
"""At least so many in each scenario."""

STEPS = r"""set -e
play() { ansible-playbook -i "$INVENTORY" "ansible/$@"; }
change() { for app in flask fastapi ledger; do date +%N >apps/$app/change; done; }
edit() { sed -i "$2" "$1" && grep -q "$3" "$1"; }
"""
"""What the scenarios' commands are written in; `change` is something new in every app."""


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    """A site with both samples and a ledger of effects, released to three hosts."""
    controller = new_controller(tmp_path_factory.mktemp("proof"), fleet)
    ledger = controller.root / "apps/ledger"
    shutil.copytree(REPOSITORY / "tests/hosts/ledger", ledger)
    shutil.copy(controller.root / "apps/flask/requirements.txt", ledger)
    members(fleet)
    for state in ("drained", "removed"):
        members(fleet, host3=state)
        shutil.copy(INVENTORY, controller.root / f"{state}.yml")
    members(fleet)
    ready(controller)
    return controller


def ready(controller: Controller) -> None:
    """Everything released, and nothing else under way."""
    run = controller.play("deploy.yml")
    assert run.code == 0, run.output


def members(fleet: Fleet, workers: tuple[str, ...] = (), ledger: str = "host2", **states: str) -> None:
    """The inventory: which are workers, where the ledger's volume is, and the membership of some: host3="drained"."""
    hosts = {
        name: ({"swarm_labels": {"ledger": "here"}} if name == ledger else {})
        | ({"swarm_member": states[name]} if name in states else {})
        for name in fleet.names
    }
    fleet.regroup(
        {name: v for name, v in hosts.items() if name not in workers},  # type: ignore[misc]
        {name: hosts[name] for name in workers},  # type: ignore[misc]
    )


def prove(
    controller: Controller,
    name: str,
    steps: str,
    *options: str,
    again: bool = True,
    seconds: float = SWITCH,
    codes: tuple[int, ...] = (0,),
) -> dict[str, Any]:
    """Runs the steps under load, again and again or once; every request has to be answered. Returns proof.json."""
    script = f"{STEPS}until [ $SECONDS -ge {seconds:.0f} ]; do\n{steps}\ndone" if again else f"{STEPS}{steps}"
    done = subprocess.run(
        [
            "nice", "-n", "-5", sys.executable, "-m", "loadtests.proof_fleet", INVENTORY.parent, "--name", name,
            "--effects", "/ledger", "--rate", str(RATE), "--requests", str(REQUESTS), "--at-most", "400",
            *options, "--", "nice", "-n", "5", "bash", "-c", script,
        ],
        cwd=controller.root,
        env={
            **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "INVENTORY": str(INVENTORY.parent), "HOSTS": str(HOSTS),
            "NO_COLOR": "1",
        },
        check=False,
    )  # fmt: skip
    folder = REPOSITORY / "build/proof" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(controller.root / "build/proof" / name, folder)
    assert done.returncode in codes
    proof: dict[str, Any] = json.loads((folder / "proof.json").read_text())
    if again:
        during = {kind: row["intervals"]["during"]["requests"] for kind, row in proof["summary"].items()}
        assert min(during.values()) >= 1000, during
    return proof


def test_a_good_release(controller: Controller) -> None:
    prove(controller, "good", "change; play deploy.yml --tags release")


@pytest.mark.parametrize("broken", [crash, deaf, unwell, unmigrated, unparsable])
def test_a_bad_release(controller: Controller, broken: Callable[[Controller], Callable[[], object]]) -> None:
    undo = broken(controller)
    try:
        steps = "change; if play deploy.yml --tags release; then exit 1; fi"
        prove(controller, f"bad-{broken.__name__}", steps)
    finally:
        undo()


def test_a_rollback(controller: Controller) -> None:
    ready(controller)
    prove(controller, "rollback", "play rollback.yml")
    ready(controller)


def test_scaling_up_and_down(controller: Controller) -> None:
    prove(
        controller,
        "scale",
        "for n in 4 2; do\n"
        '  edit environments/test.yml "s/replicas: .*/replicas: $n/" "replicas: $n"\n'
        "  play deploy.yml --tags release\ndone",
    )


def test_another_configuration_of_the_edge(controller: Controller) -> None:
    controller.app("fastapi", body_limit="5M")
    prove(
        controller,
        "edge-configuration",
        "for n in 6 5; do\n"
        '  edit apps/fastapi/app.yml "s/^body_limit: .*/body_limit: ${n}M/" "^body_limit: ${n}M"\n'
        "  play deploy.yml --tags release\ndone",
    )


def test_another_certificate(controller: Controller) -> None:
    prove(controller, "certificate", "rm .local/ca/certificate.pem; play deploy.yml --tags release")


def test_reloads(controller: Controller) -> None:
    reload = (
        "docker exec \\$(docker ps -q --filter name=gatehouse_edge)"
        " nginx -p /etc/gatehouse/current/ -c nginx.conf -e /dev/stderr -s reload"
    )
    prove(
        controller,
        "reload",
        f'ansible -i "$INVENTORY" all --become --module-name ansible.builtin.shell --args "{reload}"; sleep 2',
    )


def test_another_image_of_the_edge(controller: Controller) -> None:
    """Clients go to the hosts in rotation, as a balancer sends them."""
    another_image()
    prove(controller, "edge-image", CHANGE_IMAGE, "--rotation", "80")


def another_image() -> None:
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", "nginx:1.30-next", "-"],
        input="FROM nginx:1.30\nLABEL gatehouse.next=yes\n",
        text=True,
        check=True,
    )


CHANGE_IMAGE = """for tag in 1.30-next 1.30; do
  edit stack/render.py "s/^NGINX_IMAGE = .*/NGINX_IMAGE = \\"nginx:$tag\\"/" "nginx:$tag\\""
  play deploy.yml --tags release
done"""


def test_a_host_drained_and_back(controller: Controller) -> None:
    prove(
        controller,
        "host-drained",
        "ansible-playbook -i drained.yml ansible/provision.yml --tags swarm; sleep 15\n"
        "play provision.yml --tags swarm; sleep 5",
        "--rotation",
        "80",
    )


def test_a_host_taken_out_and_added(controller: Controller) -> None:
    prove(
        controller,
        "host-removed",
        "ansible-playbook -i removed.yml ansible/provision.yml --tags swarm\nplay deploy.yml",
        "--rotation",
        "80",
    )


def test_workers_that_are_recycled(controller: Controller) -> None:
    undo = controller.app("flask", max_requests=100, max_requests_jitter=50)
    controller.release()
    since = controller.fleet.host("host1").check_output("date -u +%Y-%m-%dT%H:%M:%SZ")
    prove(controller, "recycling", "sleep 5")
    count = f"docker ps -q --filter name=gatehouse_flask | xargs -rn1 docker logs --since {since} 2>&1 | grep -c 'Booting worker' || true"
    recycled = sum(int(controller.fleet.host(name).check_output(count)) for name in controller.fleet.names)
    print(f"{recycled} workers were recycled")
    assert recycled > 10
    undo()
    controller.release()


def test_replicas_that_end_while_they_are_in_rotation(controller: Controller) -> None:
    """SIGTERM without leaving DNS first, as where an edge has missed that a replica left: the Swarm's gossip may lose it.
    What had been accepted is answered, what is new finds a closed port; only a request that is on its way on a kept
    connection at that moment can be lost."""
    end = "docker ps -q --filter name=gatehouse_flask --filter name=gatehouse_fastapi | head -n 1 | xargs -r docker kill --signal TERM"
    steps = f"""for host in host1 host2 host3; do
  ansible -i "$INVENTORY" $host --become --module-name ansible.builtin.shell --args "{end}"; sleep 20
done"""
    prove(controller, "term", steps, codes=(0, 1))


def test_a_busy_fleet(controller: Controller) -> None:
    """Both cores of this machine nine tenths busy, with everything that runs on them: the 2 s between a replica's end in DNS
    and its SIGTERM have to be enough there, too."""
    burner = subprocess.Popen([sys.executable, "-m", "tests.hosts.burn", "0.9", "400"], cwd=REPOSITORY)
    try:
        proof = prove(
            controller,
            "busy",
            "change; play deploy.yml --tags release",
            *("--rate", str(RATE / 2), "--at-most", "390"),
            seconds=2 * SWITCH,
        )
    finally:
        burner.terminate()
        burner.wait()
    assert proof["exit_code"] == 0
    assert int(proof["conditions"]["cpu"].partition("%")[0]) >= 85


# --- hosts that are lost ----------------------------------------------------------------------------------------------


def lose(controller: Controller, name: str, host: str, verb: str, back: str) -> dict[str, Any]:
    """And is back after 45 s. What was in flight on it is lost; of the GETs that begin 2 s later or more through the others,
    none."""
    others = [part for n in controller.fleet.names if n != host for part in ("--edge", controller.fleet.address(n))]
    app_replicas = [tasks_of(controller.fleet, host, app) for app in ("flask", "fastapi")]
    assert min(app_replicas) > 0, f"nothing is lost with {host}"
    steps = f"{verb}; sleep {AWAY}; {back}; sleep 20"
    proof = prove(controller, name, steps, *others, again=False, codes=(0, 1))
    for failure in (failed := failures(proof)):
        print(failure)
    proof["late"] = [f for f in failed if f["started"] > 2 and f["kind"] in READS]
    # The Swarm replaces what ran on the host, its edge included, and moves nothing back by itself.
    wait_for(lambda: steady(controller), 120)
    time.sleep(50)
    settle(controller)
    return proof


def settle(controller: Controller) -> None:
    """A replica on each host, and nothing else under way."""
    file = controller.root / "environments/test.yml"
    file.write_text(file.read_text().replace("replicas: 2", "replicas: 3"))
    subprocess.run(["bash", "-c", STEPS + "change"], cwd=controller.root, check=True)
    ready(controller)


def steady(controller: Controller) -> bool:
    """Every host is there, and every service has its replicas."""
    ask = controller.fleet.host("host2").run
    nodes = ask("docker node ls --format '{{.Status}}'").stdout.split()
    replicas = ask("docker service ls --format '{{.Replicas}}'").stdout
    full = [r.split("/")[0] == r.split("/")[1] for r in re.findall(r"\d+/\d+", replicas)]
    return nodes == ["Ready"] * 3 and bool(full) and all(full)


def leader(controller: Controller) -> str:
    return str(
        controller.fleet.host("host2").check_output(
            "docker node ls --format '{{.ManagerStatus}} {{.Hostname}}' | sed -n 's/^Leader //p'"
        )
    )


LOSSES = {
    "stop": ('"$HOSTS" stop {host}', '"$HOSTS" start {host}'),
    "cut": ('"$HOSTS" cut {host}', '"$HOSTS" join {host}'),
    "pause": ("docker pause gatehouse-{host}", "docker unpause gatehouse-{host}"),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_manager_that_is_lost(controller: Controller, how: str) -> None:
    """The one that leads, where it is not the ledger's."""
    if how == "stop":
        settle(controller)
    host = leader(controller)
    host = "host3" if host == "host2" else host
    verb, back = (text.format(host=host) for text in LOSSES[how])
    proof = lose(controller, f"lost-manager-{how}", host, verb, back)
    if how == "stop":
        assert proof["late"] == []


@pytest.mark.parametrize("how", LOSSES)
def test_a_worker_that_is_lost(controller: Controller, how: str) -> None:
    if how == "stop":
        members(controller.fleet, workers=("host1", "host3"))
        settle(controller)
    verb, back = (text.format(host="host3") for text in LOSSES[how])
    proof = lose(controller, f"lost-worker-{how}", "host3", verb, back)
    if how == "stop":
        assert proof["late"] == []


# --- one host ---------------------------------------------------------------------------------------------------------


def test_a_single_host(controller: Controller) -> None:
    """The other two go. A release loses nothing; another image of the edge costs the time between two edges."""
    members(controller.fleet, workers=("host1", "host3"), host1="removed", host3="removed")
    ready(controller)
    members(controller.fleet)
    inventory = json.loads(INVENTORY.read_text())
    inventory["managers"]["hosts"] = {"host2": inventory["managers"]["hosts"]["host2"]}
    INVENTORY.write_text(json.dumps(inventory))
    another_image()
    prove(controller, "single-edge-image", CHANGE_IMAGE, again=False, codes=(1,))
    # Through one edge go a third of the WebSockets and streams.
    prove(controller, "single-good", "change; play deploy.yml --tags release", seconds=1.8 * SWITCH)
