"""One word in app.yml: each sample on every gateway of its interface and back, in containers. Images that are not there yet take
minutes, so this is no part of `make test`: make test T=tests/matrix/test_switch.py"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from stack.gateways import DEFAULT, GATEWAYS
from tests.conftest import Checkout, needs_docker, new_checkout

pytestmark = needs_docker
HTTP, HTTPS = 18097, 18460
SAMPLES = {"wsgi": "flask", "asgi": "fastapi"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = new_checkout(tmp_path_factory.mktemp("switch"), "gatehouse-switch", HTTP, HTTPS, ["flask", "fastapi"])
    try:
        checkout.run("up")
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("gateway", [g for g in GATEWAYS if g not in DEFAULT.values()])
def test_there_and_back(site: Checkout, gateway: str) -> None:
    interface = GATEWAYS[gateway].interface
    app, default = SAMPLES[interface], DEFAULT[interface]
    for name in (gateway, default):
        yml = site.app_yml(app)
        yml.write_text(re.sub(r"^gateway: .*$", f"gateway: {name}", yml.read_text(), flags=re.MULTILINE))
        site.run("up")
        assert f"applied: {app} (" in site.output
        assert httpx.get(f"http://127.0.0.1:{HTTP}/{app}/whoami").json()["gateway"] == name
        assert httpx.post(f"http://127.0.0.1:{HTTP}/{app}/echo", content=b"x" * 100_000).content == b"x" * 100_000
