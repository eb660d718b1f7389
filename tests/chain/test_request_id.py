"""One request, from its answer's X-Request-ID to every line that any log has of it: on a site of its own, whose apps log."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Checkout, own_site

HTTP, HTTPS = 18097, 18460

FLASKS = """
import logging

from flask import Flask

app = Flask(__name__)
logging.basicConfig(format="%(levelname)s: %(message)s")


@app.get("/healthz")
def health():
    return "ok"


@app.get("/told")
def told():
    logging.warning("of the app")
    app.logger.warning("of its framework")
    return "ok"


@app.get("/fails")
def fails():
    raise ValueError("on purpose")
"""

FASTAPIS = """
import logging

from fastapi import FastAPI

app = FastAPI()
logging.basicConfig(format="%(levelname)s: %(message)s")


@app.get("/healthz")
async def health():
    return "ok"


@app.get("/told")
async def told():
    logging.warning("of the app")
    logging.getLogger("uvicorn.error").warning("of its framework")
    return "ok"


@app.get("/fails")
def fails():  # in a thread
    raise ValueError("on purpose")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    samples = {"flask": ("wsgi", FLASKS), "fastapi": ("asgi", FASTAPIS)}
    apps = {
        name: (code, {"interface": interface, "entry": "app:app", "workers": 2})
        for name, (interface, code) in samples.items()
    }
    environment = {"name": "gatehouse-request", "http_port": HTTP, "https_port": HTTPS, "tls": {"redirect": False}}
    with own_site(tmp_path_factory.mktemp("site"), environment, apps, as_sample=True) as site:
        yield site


@pytest.mark.parametrize("app", ["flask", "fastapi"])
def test_a_request_is_followed_from_its_answer_through_every_log(site: Checkout, app: str) -> None:
    others = [httpx.get(f"http://127.0.0.1:{HTTP}/{app}/told").headers["x-request-id"] for _ in range(3)]
    told = httpx.get(f"http://127.0.0.1:{HTTP}/{app}/told").headers["x-request-id"]
    of_edge, *of_app = site.run("logs", "--id", told).stdout.splitlines()
    assert of_edge.startswith('edge         {"time":')
    assert f'"uri":"/{app}/told"' in of_edge
    assert [line.split(maxsplit=1)[0] for line in of_app] == [app, app]
    assert "of the app" in of_app[0]
    assert "of its framework" in of_app[1]
    assert all(told in line for line in of_app)
    assert not [line for line in (of_edge, *of_app) if any(other in line for other in others)]

    failed = httpx.get(f"http://127.0.0.1:{HTTP}/{app}/fails")
    assert failed.status_code == 500
    lines = site.run("logs", app, "--id", failed.headers["x-request-id"]).stdout.splitlines()
    assert failed.headers["x-request-id"] in lines[0]
    assert lines[-1].split(maxsplit=1) == [app, "ValueError: on purpose"]
    assert any("in fails" in line for line in lines)


def test_an_id_that_no_log_has_is_said_to_be_unknown(site: Checkout) -> None:
    unknown = site.run("logs", "--id", "0" * 32, check=False)
    assert unknown.returncode == 1
    assert "no log has 0000" in unknown.stdout
    assert "is no request's id" in site.run("logs", "--id", "$(id)", check=False).stdout
