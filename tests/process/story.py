"""The process engine, really run: the whole contract suite against it, then what changes, what fails, and what is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.run import Run
from stack import edge
from stack.errors import Failed
from stack.process import MADE, Process
from stack.render import ports
from stack.supervisor import Supervisor, run_directory
from tests.conftest import PROCESS_PORTS, REPOSITORY, Checkout, new_checkout

URL = f"http://127.0.0.1:{PROCESS_PORTS[0]}"
BROKEN = "raise RuntimeError('broken on purpose')\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The product's apps, brought up without Docker; every other verb has to know that by itself."""
    checkout = new_checkout(tmp_path_factory.mktemp("process"), "gatehouse-process", *PROCESS_PORTS)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GATEHOUSE_ENGINE", "process")
            checkout.run("up")
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("GATEHOUSE_ENGINE", raising=False)
            yield checkout
    finally:
        checkout.run("down", check=False)


def pids(site: Checkout) -> dict[str, int]:
    """Program -> process id."""
    return {program["name"]: program["pid"] for program in Supervisor(run_directory(site.root)).programs() or ()}


def ours(site: Checkout) -> list[str]:
    """Command lines of all processes that name the site's folder or its run directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, state = (entry / "cmdline").read_text(), (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(site.root) in line and state != "Z" and int(entry.name) != os.getpid():
            found.append(line.replace("\0", " "))
    return found


@pytest.mark.long  # tests/process/test_matrix.py asks it, too
def test_the_contract_holds(site: Checkout) -> None:
    suite = ["tests/chain/test_contract.py", "tests/chain/test_edge.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *suite],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ENGINE": "process", "GATEHOUSE_CHAIN": str(site.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_up_again_restarts_nothing(site: Checkout) -> None:
    before = pids(site)
    assert "nothing has changed" in site.run("up").stdout
    assert pids(site) == before
    assert site.run("ps").stdout.count("healthy 1/1") == len(site.site.apps)


def test_a_change_replaces_its_app_alone(site: Checkout) -> None:
    before, app = pids(site), site.root / "apps/flask/app.py"
    app.write_text(app.read_text() + "\n# changed\n")
    assert "applied: flask (its files)" in site.run("up").stdout
    after = pids(site)
    assert {name for name in after if after[name] != before[name]} == {"flask.1"}


def test_a_route_reloads_the_edge_and_replaces_no_other_app(site: Checkout) -> None:
    before, yml = pids(site), site.app_yml("flask")
    was = yml.read_text()
    yml.write_text(was + "route: /elsewhere\n")
    site.run("up")
    assert httpx.get(f"{URL}/elsewhere/whoami").status_code == 200
    assert httpx.get(f"{URL}/flask/whoami").status_code == 404
    yml.write_text(was)
    site.run("up")
    after = pids(site)
    assert {name for name in after if after[name] != before[name]} == {"flask.1"}


def test_a_change_that_crashes_leaves_what_ran_before(site: Checkout) -> None:
    before, app = pids(site), site.root / "apps/flask/app.py"
    good, release = app.read_text(), httpx.get(f"{URL}/flask/whoami").json()["release"]
    app.write_text(good + BROKEN)
    try:
        done = site.run("up", check=False)
        assert done.returncode == 1
        assert "broken on purpose" in done.stdout
        assert re.search(r"error: flask: crashes on start \(exit code [13]\)", done.stdout)
        assert "what ran before runs again" in done.stdout
        assert httpx.get(f"{URL}/flask/whoami").json()["release"] == release
        after = pids(site)
        assert {name for name in after if after[name] != before[name]} == {"flask.1"}
    finally:
        app.write_text(good)
    assert "nothing has changed" in site.run("up").stdout
    assert ills(site) == []  # of what was undone, nothing counts


def test_a_worker_and_a_gateway_that_end_are_told_of_until_the_next_start(site: Checkout) -> None:
    os.kill(httpx.get(f"{URL}/flask/whoami").json()["pid"], signal.SIGKILL)
    assert_soon(lambda: [said for said in ills(site) if said.startswith("flask: 1 worker got killed from outside")])
    crash(site)
    assert_soon(lambda: [said for said in ills(site) if said.startswith("flask: was restarted once")])
    site.run("restart", "flask")
    assert ills(site) == []


def test_a_port_that_is_taken_is_told_with_the_setting_that_helps(site: Checkout) -> None:
    """Of an app that is not there yet: those of what runs are ours."""
    shutil.copytree(site.root / "apps/flask", site.root / "apps/more")
    held = ports(site.site)["more"][0]
    try:
        with socket.create_server(("127.0.0.1", held)):
            [taken] = ills(site)
        assert taken.startswith(
            f"environments/local.yml: http_port: the ports from 1000 above it, for more: {held}: address already"
        )
        assert ills(site) == []
        assert "written, and not applied yet: more (new)" in site.output
        site.run("up")
    finally:
        shutil.rmtree(site.root / "apps/more")
    site.run("up")
    assert "more (removed)" in site.output


def ills(site: Checkout) -> list[str]:
    """What `doctor` calls wrong; its exit code agrees."""
    code = site.run("doctor", check=False).returncode
    found = re.findall(r"^wrong: (.*)$", site.output, re.MULTILINE)
    assert code == bool(found), site.output
    return found


def assert_soon(what: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_nginx_judges_a_configuration_before_it_is_switched_to(site: Checkout) -> None:
    engine = Process(site.site)
    running = edge.current(engine.edge)
    version = edge.publish(engine.edge, {"nginx.conf": b"nonsense on;"})
    try:
        with pytest.raises(Failed) as refused:
            engine._test_edge(version)
        assert 'unknown directive "nonsense"' in "\n".join(refused.value.log)
    finally:
        edge.discard(engine.edge, version)
    assert running
    engine._test_edge(running)


def test_replicas_secrets_processes_and_a_release_command(site: Checkout, tmp_path: Path) -> None:
    yml, out = site.app_yml("flask"), tmp_path / "released"
    was, secret = yml.read_text(), site.root / ".local/secrets/flask/API_KEY"
    secret.parent.mkdir(parents=True, exist_ok=True)
    more = (
        "replicas: 2\nsecrets: [API_KEY]\nsecrets_as_env: true\n"
        'build_command: [python, -c, \'import flask; open("built", "w").write("at build")\']\n'
        f'release_command: [sh, -c, \'cat "$API_KEY_FILE" built >> {out}; echo " $API_KEY" >> {out}\']\n'
        "processes: {worker: {command: [sleep, '1000']}}\n"
    )
    yml.write_text(was + more)
    try:
        done = site.run("up", check=False)
        assert "make secret APP=flask NAME=API_KEY" in done.stdout
        secret.write_text("of-a-test-run")
        site.run("up")
        assert out.read_text() == "of-a-test-runat build of-a-test-run\n"
        assert {"flask.1", "flask.2", "flask-worker.1"} <= set(pids(site))
        assert "healthy 2/2" in site.run("ps").stdout
        site.run("up")
        assert out.read_text() == "of-a-test-runat build of-a-test-run\n", (
            "the release has not changed, so its command does not run again"
        )
        yml.write_text(yml.read_text().replace("release_command: [sh, -c, '", "release_command: [sh, -c, 'exit 7; "))
        done = site.run("up", check=False)
        assert "flask: release_command: exit code 7" in done.stdout
    finally:
        yml.write_text(was)
        site.run("up")
    assert set(pids(site)) == {"edge.1", *(f"{name}.1" for name in site.site.apps)}


def test_a_volume_that_is_not_there_is_said_beforehand(site: Checkout, tmp_path: Path) -> None:
    yml, before = site.app_yml("flask"), pids(site)
    was = yml.read_text()
    yml.write_text(was + f"volumes: {{data: {tmp_path}/data}}\n")
    try:
        done = site.run("up", check=False)
        assert f"sudo install -d -o {os.getuid()} {tmp_path}/data" in done.stdout
        assert pids(site) == before
    finally:
        yml.write_text(was)


def test_restart_and_logs(site: Checkout) -> None:
    before = pids(site)
    site.run("restart", "flask")
    after = pids(site)
    assert {name for name in after if after[name] != before[name]} == {"flask.1"}
    command = [sys.executable, "-m", "stack", "logs"]
    env = {**os.environ, "GATEHOUSE_ROOT": str(site.root)}
    with subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True) as log:
        assert log.stdout
        lines = iter(log.stdout.readline, "")
        next(lines)  # what was there before
        httpx.get(f"{URL}/flask/whoami?followed")
        assert any("followed" in line and line.startswith("flask ") for line in lines)
        log.send_signal(signal.SIGINT)
        assert log.wait(10) == 0


def test_docker_is_refused_while_it_runs(site: Checkout) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEHOUSE_ENGINE", "compose")
        done = site.run("up", check=False)
    assert done.returncode == 1
    assert "Type: make down" in done.stdout


def test_another_environment_waits_for_make_down(site: Checkout) -> None:
    other = Checkout(site.root, "second")
    file = site.root / "environments/second.yml"
    file.write_text((site.root / "environments/local.yml").read_text())
    try:
        for verb in ("up", "ps"):
            done = other.run(verb, check=False)
            assert done.returncode == 1
            assert "environments/local.yml runs here just now" in done.stdout
    finally:
        file.unlink()


def test_what_is_rendered_since_or_removed_concerns_nothing_that_runs(site: Checkout) -> None:
    app = site.root / "apps/flask/app.py"
    was, before = app.read_text(), httpx.get(f"{URL}/flask/whoami").json()
    app.write_text(was + "# edited, and not yet applied\n")
    site.run("render")
    crash(site)
    assert whoami_again(before["pid"])["release"] == before["release"]
    app.write_text(was)
    shutil.rmtree(site.root / "build")
    end = time.monotonic() + 20
    while site.run("ps", check=False).returncode and time.monotonic() < end:
        time.sleep(0.2)  # it answers, and is "starting" until it was asked for its health
    site.run("ps")
    crash(site)
    assert whoami_again(before["pid"])["release"] == before["release"]
    running = pids(site)
    site.run("up")
    assert pids(site) == running


def crash(site: Checkout) -> None:
    os.kill(pids(site)["flask.1"], signal.SIGKILL)


def whoami_again(pid: int) -> dict[str, Any]:
    """What the app answers once another process than this one does."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        answer = httpx.get(f"{URL}/flask/whoami")
        if answer.status_code == 200 and answer.json()["pid"] != pid:
            found: dict[str, Any] = answer.json()
            return found
        time.sleep(0.1)
    raise AssertionError(f"{answer.status_code} {answer.text}")


def test_an_unfinished_virtual_environment_is_made_anew(site: Checkout) -> None:
    engine = Process(site.site)
    venv = engine._place().venv(site.site.apps["flask"])
    (venv / MADE).unlink()
    shutil.rmtree(venv / "bin")
    assert "flask: installing its packages" in site.run("up").stdout
    assert (venv / "bin/gunicorn").is_file()


def test_load_and_nobody_left_of_it(site: Checkout) -> None:
    runs = (
        site.root / "runs"
    )  # the clone's own may belong to the user of an image, if root made load with Docker before
    short = ("--users", "7", "--rate", "7", "--time", "4s", "--", "--results", str(runs))
    site.run("load", "--headless", *short, check=False)
    assert "requests by user class" in site.output
    (new,) = runs.glob("*/run.json")
    run = Run.read(new)
    assert set(site.site.apps) <= {route.split()[0] for route in run.routes}  # which of its routes, chance says
    assert all(of.failed == 0 for of in run.routes.values()), site.output
    # Locust's master gives up, and its workers would wait a minute for it.
    done = site.run("load", "--headless", "--time", "2s", "--", "--host", "http://127.0.0.1:1", check=False)
    assert done.returncode == 2
    assert "error: nobody answers at http://127.0.0.1:1" in done.stdout
    end = time.monotonic() + 5
    while (left := [line for line in ours(site) if "locust" in line]) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def test_a_killed_supervisor_is_no_obstacle(site: Checkout) -> None:
    run = run_directory(site.root)
    supervisor = int((run / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    while Supervisor(run).programs() is not None:
        time.sleep(0.05)
    assert "not running" in site.run("ps", check=False).stdout
    assert ills(site)[0] == "processes of an earlier supervisor still run. Type: make up, which ends and replaces them"
    assert "that an earlier supervisor had left" in site.run("up").stdout
    assert httpx.get(f"{URL}/flask/whoami").status_code == 200


def test_down_finds_what_runs_without_its_socket(site: Checkout) -> None:
    (run_directory(site.root) / "supervisor.sock").unlink()
    site.run("down")
    assert ours(site) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEHOUSE_ENGINE", "process")
        site.run("up")


def test_down_leaves_nothing(site: Checkout) -> None:
    assert len(ours(site)) > 3
    assert "nothing is left running" in site.run("down").stdout
    assert ours(site) == []
    assert not run_directory(site.root).exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(URL)
