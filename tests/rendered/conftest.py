"""An invented site, rendered for three environments: one machine with Compose, hosts with Swarm, and what faces the internet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stack import docker
from stack.load import Site, load_site
from stack.render import render, write

HERE = Path(__file__).parent
ENVIRONMENTS = ("test", "fleet", "public")


@dataclass
class Rendered:
    """build/<env>/ of the invented site."""

    site: Site
    files: dict[str, str]
    directory: Path

    @property
    def stack(self) -> dict[str, Any]:
        return read_yaml(self.files["stack.yml"])

    @property
    def edge_files(self) -> dict[str, str]:
        return {name.removeprefix("nginx/"): text for name, text in self.files.items() if name.startswith("nginx/")}


def read_yaml(text: str) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe").load(text)
    return data


def seconds(text: str) -> float:
    """Of a time as Nginx and Docker write it: 40s, 500ms."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """The first tests that need one: on a bare machine it is installed here, as by `up`."""
    docker.client(install=True)


@pytest.fixture(scope="session")
def all_rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    root = tmp_path_factory.mktemp("clone")
    found = {}
    for env in ENVIRONMENTS:
        site = load_site(HERE / "site", env)
        found[env] = Rendered(site, render(site), root / "build" / env)
        write(found[env].files, found[env].directory)
    return found


@pytest.fixture(params=ENVIRONMENTS)
def rendered(request: pytest.FixtureRequest, all_rendered: dict[str, Rendered]) -> Rendered:
    """Each environment in turn."""
    return all_rendered[request.param]
