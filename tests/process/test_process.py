"""story.py, as an ordinary user: the engine is for those, and root would not notice what only root may do."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest

from tests.conftest import REPOSITORY

# For the kernel, no root any more: no capability, no port below 1024, no other user's file. Files of root are its own.
ORDINARY = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def is_to_be_had(command: list[str]) -> bool:
    """In a container without privileges, root may not make a user of its own."""
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.timeout(900)
def test_the_process_engine_as_an_ordinary_user(pytestconfig: pytest.Config) -> None:
    ordinary = [] if os.getuid() else ORDINARY
    if not is_to_be_had(ordinary or ["env"]):
        warnings.warn("no user namespace is to be had here: the process engine is tested as root", stacklevel=1)
        ordinary = []
    done = subprocess.run(
        [
            *(*ordinary, sys.executable, "-m", "pytest", "-v", "--durations=5"),
            *("-m", pytestconfig.option.markexpr, "tests/process/story.py"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    print(done.stdout)
