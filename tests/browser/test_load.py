"""Locust's web UI, as `make load` starts it, driving the chain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import Page, expect

from stack import docker
from tests.browser.test_pages import keep
from tests.conftest import REPOSITORY, Chain

PORT = 18089


def test_a_run_is_started_and_watched_in_the_web_ui(chain: Chain, page: Page) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stack", "load"],
        cwd=REPOSITORY,
        env={**os.environ, "GATEHOUSE_ROOT": str(chain.checkout.root), "GATEHOUSE_LOAD_PORT": str(PORT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(f"http://127.0.0.1:{PORT}/", process)
        page.goto(f"http://127.0.0.1:{PORT}/")
        keep(page, "locust-start")
        expect(page.get_by_label("Host")).to_have_value("http://edge:8080")
        page.get_by_role("button", name="Start").click()
        for name in (
            "fastapi GET /wait",
            "flask POST /echo small",
            "fastapi WS /ws echo",
            "flask GET /events delivery",
        ):
            expect(page.get_by_text(name, exact=True)).to_be_visible(timeout=30_000)
        page.wait_for_timeout(5000)
        keep(page, "locust")
        page.get_by_role("button", name="Stop").click()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not docker.run("ps", "--quiet", "--filter", "name=gatehouse-test-load-").split()


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
