"""kill -9 at each place of the chain: it serves again by itself within 10 s.

Writes what it saw to build/faults.json (docs/results/faults.md shows one run).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from stack import docker
from stack.render import NGINX_IMAGE
from tests.conftest import REPOSITORY, Chain

WATCH = 12.0
"""s. How long requests go on after the kill."""


def container(chain: Chain, service: str) -> str:
    project = chain.checkout.site.environment.name
    return docker.run(
        "ps", "--no-trunc", "--quiet",
        "--filter", f"label=com.docker.compose.project={project}",
        "--filter", f"label=com.docker.compose.service={service}",
    ).strip()  # fmt: skip


def main_process(chain: Chain, service: str) -> int:
    """Process id, on the host, of a container's PID 1."""
    return int(docker.run("inspect", "--format", "{{.State.Pid}}", container(chain, service)))


def worker(chain: Chain, app: str) -> int:
    """Process id, on the host, of the gateway worker that answers a request now."""
    inside = httpx.get(f"{chain.url}/{app}/whoami").json()["pid"]
    identity = container(chain, app)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = identity in (process / "cgroup").read_text()
            ids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("NSpid:"))
        except OSError:
            continue
        if ours and int(ids.split()[-1]) == inside:
            return int(process.name)
    raise AssertionError(f"no process {inside} of {app} found")


def nginx(chain: Chain) -> int:
    """Process id, on the host, of Nginx's master: the only child of the first process."""
    first = main_process(chain, "edge")
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])


def kill(pid: int) -> None:
    if os.geteuid() == 0:
        os.kill(pid, 9)
    else:
        # The image has a shell, whose own `kill` this is, but no program of that name.
        docker.run(
            "run", "--rm", "--pid=host", "--privileged", "--user=0", "--entrypoint=sh", NGINX_IMAGE,
            "-c", f"kill -9 {pid}",
        )  # fmt: skip


PLACES: dict[str, tuple[str, Callable[[Chain], int]]] = {
    "flask: a gateway worker": ("flask", lambda chain: worker(chain, "flask")),
    "fastapi: a gateway worker": ("fastapi", lambda chain: worker(chain, "fastapi")),
    "flask: the container's main process": ("flask", lambda chain: main_process(chain, "flask")),
    "fastapi: the container's main process": ("fastapi", lambda chain: main_process(chain, "fastapi")),
    "edge: Nginx": ("flask", lambda chain: nginx(chain)),
    "edge: the container's main process": ("flask", lambda chain: main_process(chain, "edge")),
}


@pytest.mark.parametrize("place", PLACES)
def test_after_kill_9_the_chain_serves_again_by_itself(chain: Chain, place: str) -> None:
    app, find = PLACES[place]
    if app not in chain.apps:
        pytest.skip(f"needs the sample apps/{app}")
    victim = find(chain)
    failures: list[tuple[float, str]] = []
    kill(victim)
    start, sent = time.monotonic(), 0
    while (now := time.monotonic() - start) < WATCH:
        try:
            status = str(httpx.get(f"{chain.url}/{app}/", timeout=5).status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        sent += 1
        if status != "200":
            failures.append((round(now, 2), status))
        time.sleep(0.05)
    assert not Path("/proc", str(victim)).exists() or "zombie" in Path("/proc", str(victim), "status").read_text()
    served_from = failures[-1][0] if failures else 0.0
    _record(place, {"requests": sent, "failed": len(failures), "last_failure_s": served_from, "failures": failures})
    assert served_from < 10, failures[-3:]


def _record(place: str, seen: dict[str, object]) -> None:
    path = REPOSITORY / "build/faults.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {place: seen}, indent=1) + "\n")
