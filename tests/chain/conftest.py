"""One running chain for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack.load import AppPlan
from tests.conftest import Checkout, new_checkout

HTTP, HTTPS = 18080, 18443


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
    """The product's apps, brought up by `up` as a user would; stopped and removed at the end."""
    checkout = new_checkout(tmp_path_factory.mktemp("site"), "gatehouse-test", HTTP, HTTPS)
    try:
        checkout.run("up")
        yield Chain(
            checkout,
            f"http://127.0.0.1:{HTTP}",
            f"https://localhost:{HTTPS}",
            checkout.root / ".local/ca/ca.pem",
            checkout.site.apps,
        )
    finally:
        checkout.run("down", "--volumes", check=False)
