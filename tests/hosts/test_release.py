"""deploy.yml and rollback.yml on three provisioned machines: what runs afterwards, asked of every edge.

The order is the story: each test takes the fleet as the one before it left it, and leaves a good release running.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.hosts.conftest import BIN, INVENTORY, REPOSITORY, Fleet, Run

pytestmark = pytest.mark.timeout(900)

QUICK = {"start": 3, "request": 5, "graceful": 6, "stop_grace": 8, "gateway": 4}
"""Timeouts of the samples here: an app that never becomes healthy is given up after 18 s instead of 75."""


NOW = int(time.time())
"""Part of every new hello, so that no machine has its image from a run before this one."""


@dataclass
class Controller:
    """A clone of the repository, as on the machine of one of the team."""

    root: Path
    fleet: Fleet

    def command(self, playbook: str, *arguments: str) -> dict[str, Any]:
        """`ansible-playbook -i inventory/test ...`, typed in its ansible/."""
        return {
            "args": [BIN / "ansible-playbook", "-i", INVENTORY.parent, playbook, "-e", "release_lease=4", *arguments],
            "cwd": self.root / "ansible",
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "env": {**os.environ, "NO_COLOR": "1", "COLUMNS": "1000", "USER": self.root.name},
        }

    def play(self, playbook: str, *arguments: str) -> Run:
        done = subprocess.run(**self.command(playbook, *arguments), check=False)
        print(done.stdout)
        return Run(done.returncode, done.stdout)

    def release(self, *arguments: str) -> Run:
        """A release without provisioning, which has to succeed."""
        run = self.play("deploy.yml", "--tags", "release", *arguments)
        assert run.code == 0, run.output
        return run

    def start(self, *arguments: str, until: str) -> subprocess.Popen[str]:
        """A release in the background, as soon as it says `until`; what it says after that is read and dropped."""
        process = subprocess.Popen(
            **self.command("deploy.yml", "--tags", "release", *arguments), start_new_session=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if until in line:
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return process
        raise AssertionError(f"it ended and never said {until!r}")

    def edit(self, path: str, old: str, new: str) -> Callable[[], object]:
        """Replaces text in a file of the clone; the function it returns puts it back."""
        file = self.root / path
        before = file.read_text()
        assert old in before
        file.write_text(before.replace(old, new))
        return lambda: file.write_text(before)

    def hello(self, text: str) -> None:
        """Another hello of the Flask app: a change of code."""
        file = self.root / "apps/flask/app.py"
        file.write_text(re.sub(r'"Hello[^"]*"', f'"Hello, {text} of {NOW}"', file.read_text()))

    def app(self, name: str, **values: Any) -> Callable[[], object]:
        """Sets keys of an app.yml; the function it returns puts them back."""
        file, yaml = self.root / "apps" / name / "app.yml", YAML()
        before = file.read_text()
        yaml.dump({**yaml.load(before), **values}, file)
        return lambda: file.write_text(before)


def new_controller(root: Path, fleet: Fleet, leave: int = 10) -> Controller:
    """The working tree in a folder of its own, with two replicas of each sample and this `edge.timeouts.leave`."""
    said = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, text=True
    )
    for name in said.splitlines():
        source = REPOSITORY / name
        if source.is_file() and not source.is_symlink():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, root / name)
    for link in REPOSITORY.glob("ansible/module_utils/gatehouse/*.py"):
        if link.is_symlink():
            (root / link.relative_to(REPOSITORY)).symlink_to(link.readlink())
    controller = Controller(root, fleet)
    for name in ("flask", "fastapi"):
        controller.app(name, timeouts={"start": 5})
    environment, yaml = root / "environments/test.yml", YAML()
    two = {name: {"replicas": 2} for name in ("flask", "fastapi")}
    edge = {"index": True, "timeouts": {"leave": leave}}
    yaml.dump({**yaml.load(environment), "apps": two, "edge": edge}, environment)
    return controller


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    """The first clone."""
    return new_controller(tmp_path_factory.mktemp("alice"), fleet, leave=3)


def ask(controller: Controller, host: str, path: str) -> str:
    """The body that an edge answers over HTTPS."""
    trust = ssl.create_default_context(cafile=str(controller.root / ".local/ca/ca.pem"))
    with urllib.request.urlopen(f"https://{controller.fleet.address(host)}{path}", context=trust, timeout=10) as answer:
        return str(answer.read().decode())


def whoami(controller: Controller, host: str, app: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask(controller, host, f"/{app}/whoami"))
    return answer


def running(controller: Controller, hosts: list[str] | None = None) -> dict[str, str]:
    """App -> the release that answers, through every edge and of every replica; one, or the test ends here."""
    found: dict[str, set[str]] = {}
    for host in hosts or controller.fleet.names:
        for app in ("flask", "fastapi"):
            for _ in range(6):
                found.setdefault(app, set()).add(whoami(controller, host, app)["release"])
    assert all(len(releases) == 1 for releases in found.values()), found
    return {app: releases.pop() for app, releases in found.items()}


def releases(controller: Controller) -> list[dict[str, str]]:
    """What the fleet remembers, the newest first."""
    said = controller.play("releases.yml").output
    return [{"id": found[0], "result": found[1]} for found in re.findall(r"(\d{8}-\d{6}-[0-9a-f]{8})  (\w+)", said)]


# --- good ones --------------------------------------------------------------------------------------------------------


def test_the_first_release_answers_on_every_host(controller: Controller) -> None:
    run = controller.play("deploy.yml")
    assert run.code == 0, run.output
    running(controller)
    for host in controller.fleet.names:
        said = whoami(controller, host, "flask")
        assert said["scheme"] == "https"
        assert said["client"] == f"{controller.fleet.address('host1').rpartition('.')[0]}.1"  # this machine's
        assert said["url"].startswith(f"https://{controller.fleet.address(host)}/flask/")


def test_a_second_run_changes_nothing(controller: Controller) -> None:
    run = controller.play("deploy.yml")
    assert run.code == 0, run.output
    assert run.changed == dict.fromkeys(controller.fleet.names, 0)


def test_what_runs_on_hosts_is_locked_up_as_it_is_here(controller: Controller) -> None:
    """tests/chain/test_containers.py asks more; the same file describes the services, and this is what Swarm made of it."""
    for host, container in ((h, c) for h in controller.fleet.names for c in inspected(controller.fleet, h)):
        service, config = container["Config"]["Labels"]["com.docker.swarm.service.name"], container["HostConfig"]
        where = f"{service} on {host}"
        assert (config["Privileged"], config["CapAdd"], config["CapDrop"]) == (False, None, ["ALL"]), where
        assert config["ReadonlyRootfs"], where
        assert config["Memory"] > 0, where
        assert 0 < config["PidsLimit"] <= 512, where
        assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", container["Config"]["User"]), where
        ports = [port for port, bound in (container["NetworkSettings"]["Ports"] or {}).items() if bound]
        assert bool(ports) == (service == "gatehouse_edge"), where
        said = controller.fleet.host(host).check_output(f"docker exec {container['Id']} cat /proc/1/status")
        status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
        assert (status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2"), where


def inspected(fleet: Fleet, host: str) -> list[dict[str, Any]]:
    """The services' running containers on a host, as its engine knows them."""
    said = fleet.host(host).check_output(
        "docker inspect $(docker ps --quiet --filter label=com.docker.swarm.service.name)"
    )
    found: list[dict[str, Any]] = json.loads(said)
    return found


def test_one_address_has_half_of_a_replicas_threads_with_its_streams(controller: Controller) -> None:
    def status(_: int) -> tuple[int, str | None]:
        try:
            ask(controller, "host1", "/flask/events?n=20&ms=100")
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Retry-After"]
        return 200, None

    with ThreadPoolExecutor(24) as clients:
        assert Counter(clients.map(status, range(24))) == {(200, None): 16, (429, "1"): 8}  # of 4 x 8 threads


def test_check_mode_shows_what_would_change_and_changes_nothing(controller: Controller) -> None:
    before, kept = running(controller), releases(controller)
    undo = controller.app("flask", body_limit="2M")
    run = controller.play("deploy.yml", "--tags", "release", "--check", "--diff")
    undo()
    assert run.code == 0, run.output
    assert "+        client_max_body_size 2M;" in run.output
    assert (running(controller), releases(controller)) == (before, kept)


def wait_for(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.5)


def test_a_release_under_load_loses_nothing(controller: Controller) -> None:
    """`make proof`, for as long as one release takes. tests/hosts/proof.py does it for everything else."""
    controller.hello("one")
    for app in ("flask", "fastapi"):
        controller.app(app, timeouts=QUICK)
    command: list[str | Path] = [
        "loadtests.proof_fleet",
        INVENTORY.parent,
        "--name",
        "short",
        "--rate",
        "60",
        "--cool",
        "4",
    ]
    done = subprocess.run([sys.executable, "-m", *command], cwd=controller.root, check=False)
    proof = json.loads((controller.root / "build/proof/short/proof.json").read_text())
    assert done.returncode in (0, 3), proof["verdict"]  # 3: nothing failed, on a machine too busy to be sure
    assert {ask(controller, host, "/flask/") for host in controller.fleet.names} == {f"Hello, one of {NOW}"}
    told = [event["what"] for event in proof["events"] if event["service"] == "gatehouse_flask"]
    assert [what for what in told if what == "kill 15"] == ["kill 15"] * 2
    assert any(what.startswith("out of DNS") for what in told[: told.index("kill 15")])


# --- bad ones ---------------------------------------------------------------------------------------------------------


def crash(controller: Controller) -> Callable[[], object]:
    return controller.edit(
        "apps/flask/app.py", "import os\n", "import os\n\nraise RuntimeError('no such table: users')\n"
    )


def deaf(controller: Controller) -> Callable[[], object]:
    return controller.edit("apps/fastapi/main.py", "from fastapi", "import time\ntime.sleep(3600)\nfrom fastapi")


def unwell(controller: Controller) -> Callable[[], object]:
    return controller.edit(
        "apps/flask/app.py",
        "def healthz() -> ResponseReturnValue:",
        "def healthz() -> ResponseReturnValue:\n    return 'the cache is cold', 500",
    )


def unmigrated(controller: Controller) -> Callable[[], object]:
    return controller.app("flask", release_command=["python", "-c", "print('column exists'); raise SystemExit(3)"])


def unparsable(controller: Controller) -> Callable[[], object]:
    return controller.edit("nginx/snippets/timeouts.conf", "send_timeout", "sendtimeout")


@pytest.mark.parametrize(
    ("broken", "reasons"),
    [
        (crash, ["flask: Swarm has given up its update", "RuntimeError: no such table: users"]),
        pytest.param(
            deaf,
            ["fastapi: Swarm has given up its update", "its health path does not answer"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            unwell,
            ["flask: Swarm has given up its update", "its health path answers 500"],
            marks=pytest.mark.long,
        ),
        (unmigrated, ["flask-release: release_command failed", "column exists"]),
        (unparsable, ["Nginx refuses this configuration", 'unknown directive "sendtimeout"']),
    ],
)
def test_a_bad_release_is_undone_everywhere_and_says_why(
    controller: Controller, broken: Callable[[Controller], Callable[[], object]], reasons: list[str]
) -> None:
    before = running(controller)
    undo = broken(controller)
    # All or nothing: the other app has a change of its own, and a good one.
    undo_other = controller.app("flask" if broken is deaf else "fastapi", env={"RIDES": "along"})
    run = controller.play("deploy.yml", "--tags", "release")
    undo_other()
    undo()
    assert run.code != 0
    for reason in [*reasons, "The release was not made. Every host runs"]:
        assert reason in run.output, reason
    assert running(controller) == before
    assert releases(controller)[0]["result"] == "failed"
    services = controller.fleet.host("host1").check_output("docker service ls --format '{{.Name}}'").split()
    assert sorted(services) == ["gatehouse_edge", "gatehouse_fastapi", "gatehouse_flask"]


# --- back and forth ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_at_a_time_then_back_and_any_release_from_another_controller(
    controller: Controller, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = running(controller)
    controller.hello("two")
    controller.app("fastapi", release_command=["python", "-c", "open('/tmp/migrated', 'w')"])
    first = controller.start(until="TASK [release : Update the services]")
    second = controller.play("deploy.yml", "--tags", "release")
    assert second.code != 0
    assert "another release is under way: alice" in second.output
    assert first.wait() == 0
    newer = running(controller)
    assert newer["flask"] != before["flask"]
    wanted = releases(controller)[0]["id"]

    assert controller.play("rollback.yml").code == 0
    assert running(controller) == before

    bob = new_controller(tmp_path_factory.mktemp("bob"), controller.fleet)
    (bob.root / "apps/flask/app.yml").write_text("this is: [broken")  # a rollback needs nothing of the clone
    assert bob.play("rollback.yml", "-e", f"release={wanted}").code == 0
    assert running(controller) == newer
    assert bob.play("rollback.yml", "-e", "release=nosuch").code != 0

    run = controller.release()  # what it would deploy runs already
    assert set(run.changed.values()) == {0}


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_secrets_reach_the_app_and_nothing_else(controller: Controller, tmp_path: Path) -> None:
    controller.app("flask", secrets=["API_KEY"])
    password = tmp_path / "password"
    password.write_text("of the vault")

    def vault(values: dict[str, Any]) -> list[str]:
        file = tmp_path / "vault.yml"
        file.write_text(json.dumps({"gatehouse_secrets": values}))
        subprocess.run([BIN / "ansible-vault", "encrypt", "--vault-password-file", password, file], check=True)
        return ["-e", f"@{file}", "--vault-password-file", str(password)]

    run = controller.play("deploy.yml", "--tags", "release")
    assert "gatehouse_secrets: flask.API_KEY: apps/flask/app.yml names this secret" in run.output
    run = controller.play("deploy.yml", "--tags", "release", *vault({"flask": {"API_KEY": "changeme"}}))
    assert "flask.API_KEY: is still a placeholder" in run.output
    run = controller.play("deploy.yml", "--tags", "release", *vault({"flask": {"API_KEY": "x1", "APIKEY": "y1"}}))
    assert "names no such secret. Did you mean 'API_KEY'?" in run.output

    for value in ("first-of-its-kind", "second-of-its-kind"):
        run = controller.release(*vault({"flask": {"API_KEY": value}}), "-vv")
        seen = [run.output, *(p.read_text() for p in (controller.root / "build/test").rglob("*") if p.is_file())]
        for name in controller.fleet.names:
            host = controller.fleet.host(name)
            mine = host.check_output(
                "docker ps --quiet --filter label=com.docker.swarm.service.name=gatehouse_flask"
            ).split()
            seen.append(
                host.check_output(
                    "docker service inspect gatehouse_flask; docker secret inspect $(docker secret ls -q)"
                )
            )
            for container in mine:
                assert host.check_output(f"docker exec {container} cat /run/secrets/API_KEY") == value
                seen.append(host.check_output(f"docker inspect {container}; docker logs {container} 2>&1"))
        assert not [text for text in seen if value in text]
    assert set(controller.release(*vault({"flask": {"API_KEY": "second-of-its-kind"}})).changed.values()) == {0}
    controller.app("flask", secrets=[])


# --- interruptions ----------------------------------------------------------------------------------------------------


def containers(fleet: Fleet) -> dict[str, set[str]]:
    """Service -> ids of its running containers, of all hosts."""
    found: dict[str, set[str]] = {}
    for name in fleet.names:
        said = fleet.host(name).check_output(
            "docker ps --format '{{.Label \"com.docker.swarm.service.name\"}} {{.ID}}'"
        )
        for line in said.splitlines():
            service, number = line.split()
            found.setdefault(service, set()).add(number)
    return found


@pytest.mark.long
def test_a_run_that_is_broken_off_anywhere_is_made_good_by_the_next(controller: Controller) -> None:
    controller.hello("four")
    before = containers(controller.fleet)
    for number, point in enumerate(
        (
            "TASK [release : Make what some host lacks]",
            "TASK [release : Write and test the edge's configuration]",
            "TASK [release : Update the services]",
            "TASK [release : Wait until it runs]",
            "TASK [release : Switch the edge to the new routes]",
        )
    ):
        controller.app("fastapi", body_limit=f"{number + 4}M")
        process = controller.start(until=point)
        # Ctrl-C reaches everything in the terminal; a machine that dies says nothing to anybody.
        os.killpg(process.pid, signal.SIGINT if number % 2 else signal.SIGKILL)
        try:
            assert process.wait(60) != 0
        except (
            subprocess.TimeoutExpired
        ):  # seen once: Ansible's own processes wait for each other; one closes the terminal
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    controller.release()
    assert {ask(controller, host, "/flask/") for host in controller.fleet.names} == {f"Hello, four of {NOW}"}
    running(controller)
    after = containers(controller.fleet)
    assert after.pop("gatehouse_flask").isdisjoint(before.pop("gatehouse_flask"))
    assert (
        after == before
    )  # what a change does not concern is left alone, and another body limit is the edge's business
    kept = [release["result"] for release in releases(controller)]
    assert kept[0] == "current"
    assert "started" not in kept
    assert set(controller.release().changed.values()) == {0}


# --- hosts that come and go -------------------------------------------------------------------------------------------


def tasks_of(fleet: Fleet, name: str, service: str) -> int:
    said = fleet.host(name).check_output(
        f"docker ps --quiet --filter label=com.docker.swarm.service.name=gatehouse_{service}"
    )
    return len(said.split())


@pytest.mark.long
def test_a_host_that_was_down_takes_nothing_it_has_no_image_for(controller: Controller) -> None:
    fleet = controller.fleet
    fleet.do("stop", "host3")
    try:
        # Longest where it led the Swarm: nobody answers before a new leader is elected, hence run() and not check_output().
        down = "docker node ls --filter name=host3 --format '{{.Status}}'"
        wait_for(lambda: fleet.host("host1").run(down).stdout.strip() == "Down", 90)
        controller.hello("five")
        run = controller.play("deploy.yml", "--tags", "release", "--limit", "all:!host2:!host3")
        assert "host2 would keep the old release, because --limit leaves it out" in run.output
        controller.release("--limit", "all:!host3")
        assert ask(controller, "host1", "/flask/") == f"Hello, five of {NOW}"
    finally:
        fleet.do("start", "host3")
    # It is back, and has room; the others lose one: its replicas go where the image is.
    fleet.host("host1").check_output("docker node update --availability drain host2")
    wait_for(lambda: tasks_of(fleet, "host2", "flask") == 0, 30)
    wait_for(lambda: [tasks_of(fleet, name, "flask") for name in fleet.names] == [2, 0, 0], 30)
    fleet.host("host1").check_output("docker node update --availability active host2")
    run = controller.release()
    assert run.changed["host3"] > 0
    assert {ask(controller, host, "/flask/") for host in fleet.names} == {f"Hello, five of {NOW}"}
    assert set(controller.release().changed.values()) == {0}


@pytest.mark.long
def test_a_volume_asks_for_one_host_and_a_label_is_obeyed(controller: Controller) -> None:
    undo = controller.app("flask", volumes={"data": "/data"})
    run = controller.play("deploy.yml", "--tags", "release")
    assert "volumes: a volume stays on its host, and this app may run on any of host1, host2, host3" in run.output
    undo()
    controller.app("flask", placement={"disk": "ssd"})
    run = controller.play(
        "provision.yml", "--tags", "swarm", "--limit", "host2", "-e", '{"swarm_labels": {"disk": "ssd"}}'
    )
    assert run.code == 0, run.output
    controller.release()
    assert [tasks_of(controller.fleet, name, "flask") for name in controller.fleet.names] == [0, 2, 0]
    assert set(controller.play("provision.yml", "--tags", "swarm").changed.values()) == {0, 1}  # the label goes
    wait_for(lambda: tasks_of(controller.fleet, "host2", "flask") == 0, 30)
    # Nobody can run Flask now, which is no reason to keep FastAPI from getting its release.
    controller.app("fastapi", env={"MENDED": "yes"})
    run = controller.release()
    assert "flask: did not run before this release, which does not change it" in " ".join(run.output.split())


@pytest.mark.long
def test_a_floating_address_moves_to_a_host_that_is_up(controller: Controller) -> None:
    fleet = controller.fleet
    address = fleet.address("host1").rpartition(".")[0] + ".100"

    def answers() -> bool:
        connection = http.client.HTTPConnection(address, 80, timeout=1)
        try:
            connection.request("GET", "/", headers={"Host": "gatehouse.test"})
            return connection.getresponse().status == 308
        except OSError:
            return False
        finally:
            connection.close()

    def held() -> list[str]:
        return [name for name in fleet.names if f" {address}/" in fleet.host(name).check_output("ip -o -4 address")]

    floating = ("provision.yml", "--tags", "floating", "-e", f"floating_address={address}/24")
    assert controller.play(*floating).code == 0
    assert set(controller.play(*floating).changed.values()) == {0}
    wait_for(answers, 20)
    (holder,) = held()
    fleet.do("stop", holder)
    try:
        wait_for(answers, 10)
    finally:
        fleet.do("start", holder)
    (heir,) = held()
    assert heir != holder
    # Its edge alone goes: drained, as before maintenance.
    fleet.host(heir).check_output(f"docker node update --availability drain {heir}")
    try:
        wait_for(lambda: held() not in ([], [heir]) and answers(), 20)
    finally:
        fleet.host(heir).check_output(f"docker node update --availability active {heir}")
