"""What people see. With SCREENSHOTS=docs/images set, each page is kept there as a picture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Chain


def keep(page: Page, name: str, height: int = 800) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.set_viewport_size({"width": 1200, "height": height})
        page.screenshot(path=Path(folder, f"{name}.png"))


def test_the_front_page_lists_what_runs_and_its_links_work(chain: Chain, page: Page) -> None:
    page.goto(f"{chain.url}/")
    for name in chain.apps:
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    keep(page, "index", 480)
    page.get_by_role("link", name="flask", exact=True).click()
    expect(page.locator("body")).to_have_text("Hello, WSGI!")


def test_fastapi_docs_work_through_the_prefix(chain: Chain, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(f"{chain.url}/fastapi/docs")
    operation = page.locator("#operations-default-whoami_whoami_get")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table tbody .response-col_description")
    expect(answer.first).to_contain_text('"prefix": "/fastapi"')
    expect(operation.locator(".request-url")).to_contain_text(f"{chain.url}/fastapi/whoami")
    answer.first.scroll_into_view_if_needed()
    keep(page, "docs")
    assert not errors


def test_an_error_page_names_the_request(chain: Chain, page: Page) -> None:
    response = page.goto(f"{chain.url}/nothing-here")
    assert response is not None
    assert response.status == 404
    expect(page.locator("body")).to_contain_text("No app answers here.")
    expect(page.locator("code")).to_contain_text(response.headers["x-request-id"])
    keep(page, "error", 400)


@pytest.mark.parametrize("path", ["/", "/nothing-here"])
def test_the_edges_pages_work_under_its_own_policy_and_nothing_else_does(chain: Chain, page: Page, path: str) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(chain.url + path, wait_until="networkidle")
    assert [text for text in said if "Content Security Policy" in text] == []
    assert (
        page.evaluate("getComputedStyle(document.querySelector('h1')).marginTop") == "0px"
    )  # as the page's own style says
    page.evaluate(
        "for (const [name, text] of [['script', 'window.foreign = 1'], ['style', 'h1 { margin-top: 9px !important }']])"
        " document.head.append(Object.assign(document.createElement(name), { textContent: text }))"
    )
    assert page.evaluate("[window.foreign, getComputedStyle(document.querySelector('h1')).marginTop]") == [None, "0px"]
    assert len([text for text in said if "Content Security Policy" in text]) == 2
