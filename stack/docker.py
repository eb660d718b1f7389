"""Running the docker client: one place that knows how."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from stack.errors import Failed

BOOTSTRAP = Path(__file__).parent / "bootstrap.sh"
PROXIES = "http_proxy,https_proxy,no_proxy,HTTP_PROXY,HTTPS_PROXY,NO_PROXY"
"""What sudo would take away and builds need."""


def client(install: bool = False) -> list[str]:
    """The docker client's command: ["docker"], or with sudo where only root may use the engine.

    `install` sets an engine up where none answers, unless DOCKER=no. Raises Failed when there is none after that.
    """
    found = _find()
    if found is None:
        # The script says why there is none, or what it does about it.
        env = os.environ if install else {**os.environ, "DOCKER": "no"}
        if subprocess.run([BOOTSTRAP, "docker"], env=env, check=False).returncode:
            raise Failed("")
        _find.cache_clear()
        found = _find()
    if found is None:
        raise Failed("the Docker engine that was just set up does not answer. Type: docker info")
    return found


def there() -> bool:
    """Whether an engine answers."""
    return _find() is not None


def absent() -> bool:
    """Whether no engine is here, and none may be set up: DOCKER=no, or neither root nor sudo without a password."""
    if _find() or os.environ.get("DOCKER_HOST"):
        return False
    if "permission denied" in said(["docker", "info"]):
        return False  # there is one, and bootstrap.sh says how to be let in
    return os.environ.get("DOCKER") == "no" or (os.getuid() != 0 and said(["sudo", "-n", "true"]) != "")


def said(command: list[str]) -> str:
    """What a failing command says; empty when it passes."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return (done.stdout + done.stderr or "failed") if done.returncode else ""


def why_not(complaint: str, user: str, host: str | None) -> str:
    """Why no engine answers and what to do about it, from what `docker info` complained of; host: DOCKER_HOST."""
    if "permission denied" in complaint:
        return f"one runs, and {user} may not use it. Type: sudo usermod -aG docker {user}   and log in again"
    if host:
        return f"none answers at DOCKER_HOST={host}. Start it, or unset DOCKER_HOST to use one on this machine"
    return "none answers here. Type: make up, which installs or starts one; or make up ENGINE=process, which needs none"


@functools.cache
def _find() -> list[str] | None:
    # Root is to ask the engine that the user named, not the one on this machine instead.
    kept = f"--preserve-env=DOCKER_HOST,DOCKER_CONTEXT,{PROXIES}"
    commands = (["docker"], ["sudo", "-n", kept, "docker"])
    return next((command for command in commands if _answers(command)), None)


def _answers(command: list[str]) -> bool:
    try:
        for question in (["info"], ["compose", "version"]):
            subprocess.run([*command, *question], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def run(
    *arguments: str,
    env: dict[str, str] | None = None,
    undisturbed: bool = False,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Output of `docker arguments...`; Failed with its last lines when it exits non-zero or takes more than `timeout` s.

    undisturbed: out of reach of the terminal's Ctrl-C.
    """
    try:
        done = subprocess.run(
            [*client(), *arguments],
            capture_output=True,
            check=False,
            env={**os.environ, **(env or {})},
            start_new_session=undisturbed,
            timeout=timeout,
            input=None if stdin is None else stdin.encode(),
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"docker {arguments[0]} was not done after {timeout:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        verb = next((a for a in arguments if a in ("up", "down", "exec", "run", "restart")), "")
        raise Failed(f"docker {f'{arguments[0]} {verb}'.strip()} failed", _reason(said))
    return done.stdout.decode(errors="replace")


def _reason(said: str) -> list[str]:
    """The end of what a failed command said; of a failed build, what its failing step said, not that step's source."""
    parts = said.split("\n------\n")
    return (parts[1] if len(parts) > 2 else said).strip().splitlines()[-15:]


def succeeds(*arguments: str) -> bool:
    """Whether `docker arguments...` exits 0."""
    return subprocess.run([*client(), *arguments], capture_output=True, check=False).returncode == 0


def attach(*arguments: str) -> int:
    """Runs `docker arguments...` on the user's own terminal; its exit code."""
    return subprocess.run([*client(), *arguments], check=False).returncode
