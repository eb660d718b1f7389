"""Pages of docs/ followed in a copy of the repository: the commands are those on the pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack import docker
from tests.conftest import REPOSITORY, Checkout

PROJECT = "gatehouse-brought"
HTTP, HTTPS = 18094, 18457
URL = f"http://localhost:{HTTP}"


def copy_of_the_repository(root: Path) -> None:
    """As a clone of it would be, with what is not committed yet, and the same virtual environment."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0"):
        source = REPOSITORY / name
        if name and name != ".venv" and source.is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, root / name, follow_symlinks=False)
    (root / ".venv").symlink_to(REPOSITORY / ".venv")
    for lock in (root / "requirements").glob("*.txt"):
        os.utime(lock, (0, 0))  # older than what is installed of it, for make


def site_of_its_own(root: Path) -> None:
    """No app in it yet, and neither name nor ports of a site that somebody works with."""
    for app in ("flask", "fastapi"):
        shutil.rmtree(root / "apps" / app)
    local = root / "environments/local.yml"
    text = local.read_text().replace("8080", str(HTTP)).replace("8443", str(HTTPS))
    local.write_text(f"name: {PROJECT}\n{text}")


def take_down(root: Path) -> None:
    """Whatever of it runs, and its data, even when no app is left in it."""
    Checkout(root).run("down", check=False)
    mine = f"label=com.docker.compose.project={PROJECT}"
    if volumes := docker.run("volume", "ls", "--quiet", "--filter", mine).split():
        docker.run("volume", "rm", *volumes)


def commands(page: str, section: str = "") -> list[str]:
    """The blocks of shell commands on a page below docs/, in order; of one section alone, where that is named."""
    text = (REPOSITORY / "docs" / page).read_text()
    if section:
        (text,) = (part for part in text.split("\n## ") if part.startswith(f"{section}\n"))
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/{page} has no commands{section and ' in ' + section}"
    return found


@dataclass
class Clone:
    """A copy of the repository in which pages are followed."""

    root: Path

    def type(self, block: str, **variables: str) -> str:
        """What commands print; they stop at the first that fails."""
        # Below `make test`, make would say which folder it enters.
        outside = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS")}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.root,
            env={**outside, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def follow(self, page: str, section: str = "", **variables: str) -> str:
        """What the commands of a page, or of one of its sections, print."""
        return "".join(self.type(block, **variables) for block in commands(page, section))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    root = tmp_path_factory.mktemp("clone")
    copy_of_the_repository(root)
    site_of_its_own(root)
    try:
        yield Clone(root)
    finally:
        take_down(root)
