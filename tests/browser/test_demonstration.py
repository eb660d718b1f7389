"""The demonstration on the edge's page, as a browser draws it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import FloatRect, Page, expect

from tests.conftest import Chain

READ = """() => [...document.querySelectorAll("#demonstration figure")].map((figure) => ({
    app: figure.dataset.app,
    places: figure.dataset.places,
    bars: [...figure.querySelectorAll("g")].map((bar) => ({
        failed: bar.dataset.failed,
        drawn: Object.fromEntries([...bar.querySelectorAll("rect")].map((r) => [r.dataset.hop, r.width.baseVal.value])),
        told: Object.fromEntries(["browser", "network", "queue", "app"].map((hop) => [hop, Number(bar.dataset[hop] || 0)])),
    })),
}))"""


@dataclass
class Drawn:
    """One app's chart. Of each bar, ms in each hop as its data says, and the widths of its parts."""

    app: str
    places: int | None
    told: list[dict[str, float]]
    drawn: list[dict[str, float]]


def run(page: Page) -> tuple[dict[str, Drawn], int, float]:
    """Presses the button; the charts by app, how many requests were announced, and the wait in each, ms."""
    page.get_by_role("button", name="waiting requests").press("Enter")
    expect(page.locator("#demonstration[data-done]")).to_be_attached(timeout=60_000)
    count, ms = (int(page.locator("#demonstration").get_attribute(f"data-{name}") or 0) for name in ("count", "ms"))
    charts = {}
    for chart in page.evaluate(READ):
        assert [bar["failed"] for bar in chart["bars"]] == [""] * count, page.inner_text("[role=status]")
        places = int(chart["places"].split()[0]) if chart["places"] else None
        bars = chart["bars"]
        charts[chart["app"]] = Drawn(chart["app"], places, [b["told"] for b in bars], [b["drawn"] for b in bars])
    return charts, count, ms


def test_opening_the_page_sends_nothing(chain: Chain, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{chain.url}/", wait_until="networkidle")
    assert [url for url in asked if "/wait" in url] == []
    expect(page.get_by_role("button", name="Send 40 waiting requests to each app")).to_be_visible()


def test_what_is_held_by_one_request_makes_the_others_wait_and_an_event_loop_does_not(chain: Chain, page: Page) -> None:
    page.goto(f"{chain.url}/")
    charts, count, ms = run(page)
    assert [chain.apps[name].app.interface for name in charts] == ["wsgi", "asgi"]
    said = page.locator("#demonstration [role=status] span").all_inner_texts()
    first = next(iter(charts.values()))
    scale = first.drawn[0]["app"] / first.told[0]["app"]
    for chart, sentence in zip(charts.values(), said, strict=True):
        assert len(chart.told) == count
        for told, drawn in zip(chart.told, chart.drawn, strict=True):
            assert told["app"] > 0.9 * ms  # it is in the app for the time it asked to wait
            for hop, width in drawn.items():  # one axis for both
                assert width == pytest.approx(told[hop] * scale, rel=0.01, abs=0.1)
        queue = sum(bar["queue"] for bar in chart.told)
        if chart.places and chart.places < count:
            assert queue > (count - chart.places) * ms / 2
        else:
            assert queue < count * ms / 10
        waited = sum(bar["queue"] > ms / 4 for bar in chart.told)
        assert sentence.startswith(f"{chart.app}: ")
        assert f"; {waited or 'none'} waited in front of it" in sentence
    expect(page.locator("#kept-back")).to_be_hidden()
    if folder := os.environ.get("SCREENSHOTS"):
        picture(page, Path(folder))


def picture(page: Page, folder: Path) -> None:
    """The demonstration alone, as both colour schemes show it."""
    page.evaluate("document.activeElement.blur()")
    box = page.locator("#demonstration").bounding_box()
    assert box
    margin = 20.0
    clip: FloatRect = {
        "x": box["x"] - margin,
        "y": box["y"] + page.evaluate("scrollY") - margin,
        "width": box["width"] + 2 * margin,
        "height": box["height"] + 2 * margin,
    }
    page.emulate_media(color_scheme="light")
    page.screenshot(path=folder / "demonstration-light.png", full_page=True, clip=clip)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=folder / "demonstration-dark.png", full_page=True, clip=clip)


def test_it_can_be_done_again(chain: Chain, page: Page) -> None:
    page.goto(f"{chain.url}/")
    first, count, _ = run(page)
    page.evaluate("delete document.getElementById('demonstration').dataset.done")
    second, _, _ = run(page)
    assert {app: len(chart.told) for app, chart in second.items()} == dict.fromkeys(first, count)
    assert all(second[app].told != first[app].told for app in first)


def test_a_browser_that_finds_no_other_names_says_that_it_kept_requests_back(chain: Chain, page: Page) -> None:
    page.route("http://*.demo.localhost:*/**", lambda route: route.abort())
    page.goto(f"{chain.url}/")
    charts, _, ms = run(page)
    said = page.locator("#demonstration [role=status] span").all_inner_texts()
    for chart, sentence in zip(charts.values(), said, strict=True):
        kept = sum(bar["browser"] > 0.75 * ms for bar in chart.told)
        assert kept > 20  # six connections: all but the first ones wait for another's answer
        assert sentence.endswith(f" {kept} were kept back by this browser.")
    expect(page.get_by_role("link", name="HTTPS")).to_have_attribute("href", f"{chain.https}/")


def test_over_https_no_other_names_are_needed(chain: Chain, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{chain.https}/")
    charts, count, ms = run(page)
    assert [url for url in asked if "demo.localhost" in url] == []
    for chart in charts.values():
        assert len(chart.told) == count
        assert not [bar for bar in chart.told if bar["browser"] > 0.75 * ms]
