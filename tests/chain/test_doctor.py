"""`make doctor` on a real stack that is broken in real ways: each is named with its cure, the cure cures, and then it is silent."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack import docker, edge
from tests.conftest import Checkout, needs_docker, new_checkout, pause

pytestmark = needs_docker
HTTP, HTTPS = 18096, 18459
URL = f"http://127.0.0.1:{HTTP}"
PROJECT = "gatehouse-doctor"
FLASK = [f"{PROJECT}-flask-1", f"{PROJECT}-flask-2"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A site with the Flask app in two replicas, and nothing running."""
    checkout = new_checkout(tmp_path_factory.mktemp("doctor"), PROJECT, HTTP, HTTPS, apps=["flask"])
    write(checkout.app_yml("flask"), "workers: 4", "workers: 2\nreplicas: 2\ntimeouts: {request: 1, gateway: 9}")
    try:
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


@pytest.fixture
def running(site: Checkout) -> Checkout:
    """The same, running as it should: whatever the test before did to it, `up` mends."""
    site.run("up")
    assert ills(site) == []
    assert "nothing wrong found" in site.output
    return site


def write(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ills(site: Checkout) -> list[str]:
    """What `doctor` calls wrong; its exit code agrees."""
    code = site.run("doctor", check=False).returncode
    found = re.findall(r"^wrong: (.*)$", site.output, re.MULTILINE)
    assert code == bool(found), site.output
    return found


def test_a_port_that_is_taken_while_the_stack_is_down(site: Checkout) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", HTTP))
        taken.listen()
        port, down = ills(site)
    assert port.startswith(f"environments/local.yml: http_port: {HTTP} cannot be published: address already in use.")
    assert down == f"{PROJECT}: nothing of it runs. Type: make up"


def test_a_request_beyond_the_time_limit(running: Checkout) -> None:
    assert httpx.get(f"{URL}/flask/wait?ms=1500").status_code == 504
    # To Nginx both replicas have failed now; others are served all the same.
    assert {httpx.get(f"{URL}/flask/").status_code for _ in range(10)} == {200}
    [found] = ills(running)
    assert re.fullmatch(
        r"flask: 1 request \(the last: GET /flask/wait\?ms=1500 after 2\.\d s at \d\d:\d\d:\d\d, 504 then 504\) got 504: no answer "
        r"within 1 s \(timeouts\.request in apps/flask/app\.yml\)\. Make it faster, or raise that",
        found,
    )
    write(running.app_yml("flask"), "request: 1", "request: 2")
    running.run("up")
    assert httpx.get(f"{URL}/flask/wait?ms=1500").status_code == 200
    assert ills(running) == []


def test_a_replica_that_was_stopped(running: Checkout) -> None:
    docker.run("stop", "--time=2", FLASK[1])
    assert ills(running) == ["flask: has ended (exit code 0), and has to keep running. Type: make up"]


def test_a_replica_that_hangs_costs_a_second_try_that_nobody_sees(running: Checkout) -> None:
    pause(FLASK[1])
    try:
        assert {httpx.get(f"{URL}/flask/", timeout=20).status_code for _ in range(4)} == {200}
        stopped, retried = ills(running)
    finally:
        docker.run("unpause", FLASK[1])
    container = docker.run("inspect", "--format", "{{.Id}}", FLASK[1]).strip()
    assert stopped == f"flask: is paused, and its requests wait. Type: docker unpause {container[:12]}"
    assert re.match(r"flask: \d requests? \(the last: GET /flask/ .*, 504 then 200\) needed another try", retried)
    docker.run("restart", "--time=0", *FLASK)


def test_a_worker_that_is_killed(running: Checkout) -> None:
    worker = httpx.get(f"{URL}/flask/whoami").json()["pid"]
    for container in FLASK:  # one of them
        docker.succeeds("exec", container, "bash", "-c", f"kill -9 {worker}")
    time.sleep(1.5)  # Gunicorn looks once a second
    [found] = ills(running)
    assert re.match(r"flask: \d workers? got killed from outside, mostly for want of memory\. Raise `memory`", found)
    assert "Perhaps out of memory?" in running.output
    docker.run("restart", "--time=0", *FLASK)


def test_a_process_that_wants_more_memory_than_there_is(running: Checkout) -> None:
    assert not docker.succeeds("exec", FLASK[0], "python", "-c", "bytearray(10**9)")
    [found] = ills(running)
    assert found == (
        "flask: the kernel has ended processes in it, because it reached its limit of memory. Raise `memory` in "
        "apps/flask/app.yml, or lower `workers`; then type: make up"
    )
    write(running.app_yml("flask"), "workers: 2", "workers: 2\nmemory: 600M")
    running.run("up")
    assert ills(running) == []


def test_an_edge_with_an_older_configuration(running: Checkout) -> None:
    folder = running.root / ".local/edge"
    version = edge.current(folder)
    older = next(path.name for path in (folder / "releases").iterdir() if path.name != version)
    edge.switch(folder, older)
    assert ills(running) == [
        f"edge: runs configuration {version}, and {older} was switched to last. Type: make up, which reloads it"
    ]


def test_what_is_written_and_not_applied_is_no_fault(running: Checkout) -> None:
    write(running.root / "apps/flask/app.py", "Hello, WSGI!", "Hello, doctor!")
    write(running.app_yml("flask"), "contract: full", "contract: full\nbody_limit: 2M")
    assert ills(running) == []
    assert "note:  written, and not applied yet: flask (its files); nginx/site.conf. Type: make up" in running.output
    assert "nothing wrong found" in running.output


def test_a_mistake_in_what_is_written(site: Checkout) -> None:
    write(site.app_yml("flask"), "replicas: 2", "replica: 2")
    try:
        [found] = ills(site)
    finally:
        write(site.app_yml("flask"), "replica: 2", "replicas: 2")
    assert re.match(r"apps/flask/app\.yml:\d+: replica: unknown key. Did you mean 'replicas'\?", found)


def test_no_engine(site: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    [found] = ills(site)
    assert found.startswith("Docker: none answers at DOCKER_HOST=tcp://127.0.0.1:1. Start it, or unset DOCKER_HOST")
