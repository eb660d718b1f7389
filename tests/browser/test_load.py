"""Locust's web UI, as `make load` starts it, driving the chain."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect

from stack import docker
from tests.browser.test_pages import keep
from tests.conftest import REPOSITORY, WITHOUT_DOCKER, Chain

PORT = 18089


@contextmanager
def locust(chain: Chain, *arguments: str, path: str = "/", **variables: str) -> Iterator[str]:
    """The web UI's address, of `make load` with these arguments."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "load", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ROOT": str(chain.checkout.root), "GATEHOUSE_LOAD_PORT": str(PORT), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(f"http://127.0.0.1:{PORT}{path}", process)
        yield f"http://127.0.0.1:{PORT}{path}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not docker.run("ps", "--quiet", "--filter", "name=gatehouse-test-load-").split()


@pytest.mark.long
def test_a_run_is_started_and_watched_in_the_web_ui(chain: Chain, page: Page) -> None:
    with locust(chain, "--workers", "2") as url:
        page.goto(url)
        page.get_by_text("Custom parameters").click()
        expect(page.get_by_label("Model")).to_be_visible()
        keep(page, "locust-start")
        expect(page.get_by_label("Host")).to_have_value(chain.url if WITHOUT_DOCKER else "http://edge:8080")
        page.get_by_role("button", name="Start").click()
        for name in (
            "fastapi GET /wait",
            "flask POST /echo small",
            "fastapi WS /ws echo",
            "flask GET /events delivery",
        ):
            expect(page.get_by_text(name, exact=True)).to_be_visible(timeout=30_000)
        keep(page, "locust")
        page.get_by_role("tab", name="Where the time goes").click()
        expect(page.locator("#hops-routes rect[data-hop=app]").first).to_be_visible(timeout=15_000)
        expect(page.locator("#hops-routes rect[data-hop=queue]").first).to_be_attached()
        expect(page.locator("#hops-series rect").first).to_be_attached()
        expect(page.locator("#hops-verdict")).to_contain_text("Generator: ")
        expect(page.get_by_role("cell", name="flask GET /wait")).to_be_visible()  # Locust's table, below the chart
        before = page.locator("#hops-series").inner_html()
        page.wait_for_timeout(5000)
        assert page.locator("#hops-series").inner_html() != before, "the bars do not move"
        keep(page, "locust-hops")
        page.get_by_role("button", name="Stop").click()
        kept = len(list((REPOSITORY / "build/load").glob("*/run.json")))
        expect(page.get_by_role("button", name="New")).to_be_visible(timeout=15_000)
        page.wait_for_timeout(5000)  # until the workers are ready again
        assert page.request.post(f"{url}swarm", form={"user_count": "7", "spawn_rate": "7"}).json()["success"]
        page.wait_for_timeout(5000)
        assert len(list((REPOSITORY / "build/load").glob("*/run.json"))) == kept + 1, "the first run is lost"
        page.goto(f"{url}gatehouse/report")
        expect(page.get_by_text("Where the time goes").first).to_be_visible()
    report = max((REPOSITORY / "build/load").glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    page.context.set_offline(True)  # it opens from the disk, with no network
    page.goto(report.as_uri())
    expect(page.get_by_text("Where the time goes").first).to_be_visible()
    keep(page, "report", 1400)


def test_it_works_under_a_path_and_behind_a_login(chain: Chain, page: Page) -> None:
    options = ("--", "--web-base-path", "/lt", "--web-login")
    with locust(chain, *options, path="/lt/", GATEHOUSE_LOAD_PASSWORD="sesame") as url:
        for secret in ("gatehouse/hops.json", "gatehouse/report"):
            page.goto(url + secret)
            expect(page).to_have_url(re.compile("/lt/login"))
        page.get_by_label("Password").first.fill("guess")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("Wrong password")).to_be_visible()
        page.get_by_label("Password").first.fill("sesame")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Start").click()
        page.get_by_role("tab", name="Where the time goes").click()
        expect(page.locator("#hops-routes rect[data-hop=app]").first).to_be_visible(timeout=20_000)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        try:
            urllib.request.urlopen(url, timeout=2)
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(f"{url} did not answer")
