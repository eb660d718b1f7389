"""A throw-away site: the product's own apps in a folder of its own, with its own names and ports, so that a test run
never touches a stack that somebody works with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stack import docker
from stack.load import AppPlan, Site, load_site

REPOSITORY = Path(__file__).resolve().parent.parent

EARLY = 1.0
"""ms by which a time may be shorter than what was asked for: uvloop and Nginx count whole ones (99.3 the shortest of 80 sleeps
of 100 on uvloop)."""


@dataclass
class Checkout:
    """A folder with apps/ and environments/, and the verbs run on it as a user's shell would."""

    root: Path
    env: str = "local"
    output: str = field(default="", init=False)

    def run(self, *arguments: str, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """`python -m stack arguments...` on this site."""
        done = subprocess.run(
            [sys.executable, "-m", "stack", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "GATEHOUSE_ROOT": str(self.root), "GATEHOUSE_ENV": self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            input=input,
        )
        self.output = done.stdout
        if check:
            assert done.returncode == 0, done.stdout
        return done

    @property
    def site(self) -> Site:
        return load_site(self.root, self.env)

    def app_yml(self, app: str) -> Path:
        return self.root / "apps" / app / "app.yml"


def new_checkout(root: Path, name: str, http_port: int, https_port: int, apps: list[str] | None = None) -> Checkout:
    """A site with copies of the product's apps and its local environment, under another name and other ports."""
    for name_of_sample in apps or []:
        if not (REPOSITORY / "apps" / name_of_sample).is_dir():
            pytest.skip(f"needs the sample apps/{name_of_sample}")
    for source in sorted((REPOSITORY / "apps").glob("*/app.yml")):
        if apps is None or source.parent.name in apps:
            shutil.copytree(
                source.parent, root / "apps" / source.parent.name, ignore=shutil.ignore_patterns("__pycache__", ".venv")
            )
    yaml = YAML()
    local = yaml.load(REPOSITORY / "environments/local.yml")
    local |= {"name": name, "http_port": http_port, "https_port": https_port}
    # GATEWAYS="flask=gunicorn-sync fastapi=gunicorn-asgi" runs the chain's tests on other gateways than the apps' own.
    for pair in os.environ.get("GATEWAYS", "").split():
        app, gateway = pair.split("=")
        local.setdefault("apps", {}).setdefault(app, {})["gateway"] = gateway
    (root / "environments").mkdir(parents=True)
    yaml.dump(local, root / "environments/local.yml")
    for plan in load_site(root, "local").apps.values():
        for secret in plan.app.secrets:  # any value will do here
            path = root / ".local/secrets" / plan.name / secret
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("of-a-test-run")
    return Checkout(root)


@contextmanager
def own_site(
    root: Path,
    environment: Mapping[str, object],
    apps: Mapping[str, tuple[str, Mapping[str, object]]],
    as_sample: bool = False,
) -> Iterator[Checkout]:
    """A site of a test's own, up; stopped and removed at the end. apps: name -> the text of its app.py, and app.yml's data.
    as_sample: each has what the sample app of its name requires; else nothing."""
    yaml = YAML()
    for name, (code, settings) in apps.items():
        folder = root / "apps" / name
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(code)
        required = (REPOSITORY / "apps" / name / "requirements.txt").read_text() if as_sample else ""
        (folder / "requirements.txt").write_text(required)
        yaml.dump(settings, folder / "app.yml")
    (root / "environments").mkdir()
    yaml.dump(
        {"engine": "compose", "domains": ["localhost", "127.0.0.1"], **environment}, root / "environments/local.yml"
    )
    checkout = Checkout(root)
    try:
        checkout.run("up")
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A site that nothing runs."""
    return new_checkout(tmp_path, "gatehouse-pure", 18180, 18543)


def pause(container: str) -> None:
    """`docker pause`, as soon as a health check has ended. A container that is paused while one begins stays so: the engine
    waits for the frozen check, and unpausing for the engine."""
    ended: set[str] = set()
    while len(ended) < 2:
        ended.add(json.loads(docker.run("inspect", "--format", "{{json .State.Health.Log}}", container))[-1]["End"])
        time.sleep(0.1)
    docker.run("pause", container)


def in_reach(container: str) -> str:
    """An address of one of a stack's containers for requests from here: on the network that this machine has an address
    on. It has none on the apps' own (compose/local.yml.j2)."""
    networks = json.loads(docker.run("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    reached = f"{next(iter(networks)).rpartition('_')[0]}_edge"
    if reached not in networks:
        docker.run("network", "connect", reached, container)
        networks = json.loads(docker.run("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    address: str = networks[reached]["IPAddress"]
    return address


WITHOUT_DOCKER = os.environ.get("GATEHOUSE_ENGINE") == "process"
"""GATEHOUSE_ENGINE=process has the chain run without containers, on ports of its own."""

needs_docker = pytest.mark.skipif(
    WITHOUT_DOCKER, reason="does things to containers, and GATEHOUSE_ENGINE=process has none"
)

PROCESS_PORTS = (18280, 18643)
HTTP, HTTPS = PROCESS_PORTS if WITHOUT_DOCKER else (18080, 18443)


@dataclass
class Chain:
    """Where the running chain answers."""

    checkout: Checkout
    url: str
    https: str
    ca: Path
    apps: dict[str, AppPlan]


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """The product's apps, brought up by `up` as a user would; stopped and removed at the end. GATEHOUSE_CHAIN names a site
    that runs already, and goes on."""
    if given := os.environ.get("GATEHOUSE_CHAIN"):
        yield _chain(Checkout(Path(given)))
        return
    checkout = new_checkout(tmp_path_factory.mktemp("site"), "gatehouse-test", HTTP, HTTPS)
    try:
        checkout.run("up")
        yield _chain(checkout)
    finally:
        checkout.run("down", "--volumes", check=False)


def _chain(checkout: Checkout) -> Chain:
    site = checkout.site
    return Chain(
        checkout,
        f"http://127.0.0.1:{site.environment.http_port}",
        f"https://localhost:{site.environment.https_port}",
        checkout.root / ".local/ca/ca.pem",
        site.apps,
    )
