"""A real browser: the machine's own Chromium, driven by Playwright (which would else download one)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import Chain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        # Quiet: no look-ups of its own. root cannot use Chromium's sandbox.
        flags = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        with playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, chromium_sandbox=os.geteuid() != 0
        ) as running:
            yield running


@pytest.fixture(autouse=True)
def samples(chain: Chain) -> None:
    if missing := {"flask", "fastapi"} - set(chain.apps):
        pytest.skip(f"needs the samples {', '.join(sorted(missing))}")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1200, "height": 800}, ignore_https_errors=True) as context:
        yield context.new_page()
