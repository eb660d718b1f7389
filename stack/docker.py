"""Running the docker client: one place that knows how."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from stack.errors import Failed

BOOTSTRAP = Path(__file__).parent / "bootstrap.sh"


@functools.cache
def client() -> list[str]:
    """The docker client's command: ["docker"], or with sudo where only root may use the engine.

    Installs and starts an engine when none answers (DOCKER=no forbids it). Raises Failed when there is none after that.
    """
    for command in (["docker"], ["sudo", "-n", "docker"]):
        if _answers(command):
            return command
    done = subprocess.run([BOOTSTRAP, "docker"], check=False)
    for command in (["docker"], ["sudo", "-n", "docker"]):
        if done.returncode == 0 and _answers(command):
            return command
    raise Failed("no Docker engine to run the stack on (the reason is above)")


def _answers(command: list[str]) -> bool:
    try:
        for question in (["info"], ["compose", "version"]):
            subprocess.run([*command, *question], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def run(*arguments: str, input: bytes | None = None, env: dict[str, str] | None = None) -> str:
    """Output of `docker arguments...`; Failed with its last lines when it exits non-zero."""
    done = subprocess.run(
        [*client(), *arguments], input=input, capture_output=True, check=False, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise Failed(f"docker {' '.join(arguments[:2])} failed", said[-15:])
    return done.stdout.decode(errors="replace")


def succeeds(*arguments: str) -> bool:
    """Whether `docker arguments...` exits 0."""
    return subprocess.run([*client(), *arguments], capture_output=True, check=False).returncode == 0


def attach(*arguments: str) -> int:
    """Runs `docker arguments...` on the user's own terminal; its exit code."""
    return subprocess.run([*client(), *arguments], check=False).returncode
