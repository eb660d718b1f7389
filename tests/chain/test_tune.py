"""`make tune` and `make capacity`, as they are typed, on a site of their own that runs meanwhile: short visits, real load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.tune import requests_of
from stack import docker
from tests.conftest import REPOSITORY, Checkout, own_site

PORT = 18096
NAME = "gatehouse-tune"
WAITER = """import os
import time

HELD = bytearray(os.urandom(1024)) * (1024 * int(os.environ.get("HOLD", 0)))


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.endswith("/wait"):
        time.sleep(0.1)
    start_response("404 Not Found" if path.endswith("/nowhere") else "200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
"""
WSGI = {"interface": "wsgi", "entry": "app:app", "gateway": "gunicorn-gthread"}
APPS = {
    "waiter": (WAITER, {**WSGI, "workers": 1, "threads": 1, "cpus": 1}),
    # Loaded by its only worker, beside a parent that takes 20 MiB: so much fits, but nothing is to spare.
    "heavy": (WAITER, {**WSGI, "workers": 1, "memory": "96M", "worker_memory": "40M", "env": {"HOLD": "64"}}),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    settings = {"name": NAME, "http_port": PORT, "tls": {"certificate": "off"}}
    with own_site(tmp_path_factory.mktemp("tune"), settings, APPS) as checkout:
        asks(checkout, "waiter", "/wait")
        yield checkout


def asks(site: Checkout, app: str, path: str) -> None:
    (site.root / "apps" / app / "mix.yml").write_text(f"requests:\n  - {{path: {path}}}\n")


@pytest.fixture
def untouched(site: Checkout) -> Iterator[None]:
    """The stack, its images, and app.yml are as they were, and nothing is left running."""

    def state() -> tuple[list[str], ...]:
        every = docker.run("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}").splitlines()
        images = docker.run("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").splitlines()
        ours = [
            f"{c} {docker.run('inspect', '--format', '{{.State.StartedAt}}', c.split()[0])}"
            for c in every
            if f" {NAME}" in c
        ]
        written = [file.read_text() for file in sorted(site.root.glob("apps/*/app.yml"))]
        return sorted(ours), sorted(image for image in images if "waiter" in image or "heavy" in image), written

    before = state()
    yield
    assert state() == before
    assert not (site.root / ".local/tune").exists()
    assert httpx.get(f"http://127.0.0.1:{PORT}/waiter/").status_code == 200


def started(site: Checkout, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loadtests.tune", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ROOT": str(site.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(site: Checkout, *arguments: str) -> tuple[int, str]:
    """Exit code, and what was said."""
    with started(site, *arguments) as process:
        said = process.communicate(timeout=400)[0]
    return process.returncode, said


def test_ctrl_c_leaves_all_as_it_was(site: Checkout, untouched: None) -> None:
    process, said = started(site, "waiter", "--seconds", "1"), ""
    for line in process.stdout or ():
        said += line
        if " p95 " in line and " MiB" in line:  # in the middle of the visits
            break
    assert process.poll() is None, said
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said += process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert time.monotonic() - began < 30
    assert "the stack and app.yml are as they were" in said


def test_an_app_that_fails_is_not_measured(site: Checkout, untouched: None) -> None:
    asks(site, "waiter", "/nowhere")
    try:
        code, said = done(site, "waiter")
    finally:
        asks(site, "waiter", "/wait")
    assert code == 1
    assert "error: waiter fails before there is any load: GET /nowhere: status 404" in said


def test_memory_that_holds_no_worker_is_said_with_what_would(site: Checkout, untouched: None) -> None:
    code, said = done(site, "heavy")
    assert code == 1, said
    assert "apps/heavy/app.yml: memory: 96M is too little for one worker: it holds " in said
    assert "Set at least " in said


def test_what_cannot_be_measured_is_refused_before_anything_starts(
    site: Checkout, untouched: None, tmp_path: Path
) -> None:
    (wrong := tmp_path / "mix.yml").write_text("requests: [{path: cart}]\n")
    for arguments, expected, sentence in (
        (["shop"], 1, "no app 'shop' here. Allowed: heavy, waiter"),
        (["heavy", "--mix", "recorded"], 1, "the edge's log has fewer than 20 answered GETs of heavy"),
        (["heavy", "--mix", str(tmp_path / "none.yml")], 1, "none.yml: no such file"),
        (["heavy", "--mix", str(wrong)], 2, "requests"),
        (["heavy", "--p95", "0"], 2, "should be above 0"),
    ):
        code, said = done(site, *arguments)
        assert (code, sentence in said) == (expected, True), said


def test_what_clients_asked_is_recorded(site: Checkout) -> None:
    for path in ["/wait"] * 15 + ["/?q=lamp"] * 10:
        httpx.get(f"http://127.0.0.1:{PORT}/waiter{path}")
    requests, source = requests_of(site.site, site.site.apps["waiter"], "recorded")
    found = {r.name: r.weight for r in requests}
    assert found.pop("GET /", 0) < 10  # other tests ask whether it is still there
    assert found == {"GET /wait": 15, "GET /?q=lamp": 10}
    assert source.startswith("what the edge's log has: ")


@pytest.mark.long
def test_a_limit_that_nothing_meets_changes_nothing(site: Checkout, untouched: None) -> None:
    code, said = done(site, "waiter", "--seconds", "1", "--p95", "20", "--apply")
    assert code == 3, said
    assert "no configuration meets p95 <= 20 ms with 20% to spare: the lowest p95 without a failure was 1" in said


@pytest.mark.long
def test_capacity_says_what_breaks_first_and_what_replicas_add(site: Checkout, untouched: None) -> None:
    """One thread, and requests that wait 100 ms: ten a second, whatever the machine; two replicas twenty."""
    code, said = done(site, "waiter", "--capacity", "--seconds", "3", "--p95", "600")
    assert code == 0, said
    raw = json.loads((site.root / "build/tune/waiter/capacity.json").read_text())
    assert 3 < raw["capacity"] < 10
    assert next(iter(raw["ceilings"])) == "workers and threads"
    assert raw["ceilings"]["workers and threads"] == pytest.approx(10, rel=0.1)
    assert "first in the way: workers and threads: 1 of 1 held a request" in said
    assert 1.3 < raw["replicas"]["2"]["rate"] / raw["capacity"] < 4


@pytest.mark.long
def test_a_tune_finds_threads_for_an_app_that_waits_and_writes_them(site: Checkout) -> None:
    """One thread of one worker carries ten a second."""
    file, running = site.app_yml("waiter"), docker.run("ps", "--quiet", "--filter", f"name={NAME}")
    before = file.read_text()
    file.write_text("# Mine.\n" + before)
    try:
        code, said = done(site, "waiter", "--seconds", "1", "--apply")
        assert code == 0, said
        after = file.read_text()
    finally:
        file.write_text(before)
    assert "apps/waiter/app.yml is written. Type: make up" in said
    assert after.startswith("# Mine.\ninterface: wsgi\n")
    assert docker.run("ps", "--quiet", "--filter", f"name={NAME}") == running
    raw = json.loads((site.root / "build/tune/waiter/tune.json").read_text())
    assert raw["choice"]["gateway"] == "gunicorn-gthread"
    assert raw["choice"]["threads"] >= 16
    assert f"threads: {raw['choice']['threads']}\n" in after
    assert raw["character"]["waits"] > 0.9
    assert raw["rate"] > 100
    carried = {each["candidate"]["gateway"]: each["rate"] for each in raw["capacity"]}
    assert carried["gunicorn-gthread"] > 2 * carried["gunicorn-sync"]
    assert "waits 9" in said
    assert (site.root / "build/tune/waiter/tune.html").read_text().count("<title>gunicorn-gthread") > 10
