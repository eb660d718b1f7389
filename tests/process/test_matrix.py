"""One more framework on each default gateway, as `make matrix` asks all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stack.gateways import DEFAULT
from tests.conftest import REPOSITORY

FRAMEWORKS = ["bottle", "starlette"]
"""Those whose packages are there soonest."""


@pytest.mark.timeout(600)
def test_another_framework_holds_the_contract_on_each_default_gateway() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.matrix.run", *FRAMEWORKS, *DEFAULT.values()],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 of 2 pairs pass" in done.stdout
