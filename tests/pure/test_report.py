"""What a load test leaves behind: durations split into hops, histograms that add up, run.json, its page, two compared."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtests import compare
from loadtests.hops import Capacity, Histogram, Route, Store, durations, rows, split
from loadtests.report import page
from loadtests.run import Run
from loadtests.slo import Judgement, Row
from loadtests.validity import Generator

EDGE = "edge;dur=104, upstream;dur=103, app;dur=101.5"


# --- Server-Timing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (EDGE, {"edge": 104, "upstream": 103, "app": 101.5}),
        (EDGE + ", pool;dur=0.4", {"edge": 104, "upstream": 103, "app": 101.5, "pool": 0.4}),
        ("db;dur=7, app;dur=9, edge;dur=5, upstream;dur=4, cache;dur=3", {"edge": 5, "upstream": 4}),
        ("edge;dur=1, edge;dur=5", {"edge": 5}),  # the app made one up: ours stand last
        ("edge;dur=5, upstream;dur=", {"edge": 5}),
        ("edge;dur=5, app;dur=3", {"edge": 5}),  # without upstream it is not ours
        ("app;dur=9", {}),
        ("", {}),
    ],
)
def test_durations(header: str, found: dict[str, float]) -> None:
    assert durations(header) == found


@pytest.mark.parametrize(
    ("total", "header", "late", "body", "hops"),
    [
        (110, EDGE, 0, 0, {"network": 6, "nginx": 1, "queue": 1.5, "app": 101.5}),
        (150, EDGE, 25, 15, {"generator": 25, "network": 6, "body": 15, "nginx": 1, "queue": 1.5, "app": 101.5}),
        (110, EDGE + ", pool;dur=60", 0, 0, {"network": 6, "nginx": 1, "queue": 1.5, "pool": 60, "app": 41.5}),
        (110, "edge;dur=104, upstream;dur=103", 0, 0, {"network": 6, "nginx": 1, "upstream": 103}),
        (5, "edge;dur=3", 0, 0, {"network": 2, "nginx": 3}),  # the edge's own answer
        # A replica failed and another one answered: upstream is that of the last try, and the failed one is nginx's time.
        (220, "edge;dur=210, upstream;dur=103, app;dur=101", 0, 0, {"network": 10, "nginx": 107, "queue": 2, "app": 101}),
        # Rounded to whole milliseconds by the edge, so a little below zero. No reason to lose a request.
        (3.5, "edge;dur=4, upstream;dur=4, app;dur=4.3", 0, 0, {"network": -0.5, "nginx": 0, "queue": -0.3, "app": 4.3}),
        (110, "app;dur=9", 0, 0, None),
    ],
)  # fmt: skip
def test_split(total: float, header: str, late: float, body: float, hops: dict[str, float] | None) -> None:
    found = split(total, header, late, body)
    assert found == (hops and pytest.approx(hops))
    if found:
        assert sum(found.values()) == pytest.approx(total)


# --- histograms and the store -----------------------------------------------------------------------------------------


def test_percentiles_are_right_within_one_percent() -> None:
    rng, histogram = random.Random(1), Histogram()
    values = [rng.lognormvariate(2, 1.5) for _ in range(5000)]
    for value in values:
        histogram.add(value)
    values.sort()
    for percent in (1, 50, 90, 95, 99, 99.9, 100):
        exact = values[math.ceil(len(values) * percent / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0101)
    assert histogram.mean == pytest.approx(sum(values) / len(values))
    assert Histogram().percentile(50) is Histogram().mean is None


def test_stores_of_two_processes_add_up_to_one() -> None:
    rng = random.Random(2)
    one, workers, master = Store(), [Store(), Store()], Store()
    for number in range(3000):
        hops = {"network": rng.random(), "queue": rng.lognormvariate(1, 1), "app": rng.lognormvariate(2, 1)}
        error = "status 502" if rng.random() < 0.01 else ""
        for store in (one, rng.choice(workers)):
            store.add(f"shop GET /{number % 3}", "shop", sum(hops.values()), hops, error, number / 100)
    for worker in workers:
        master.receive(json.loads(json.dumps(worker.ship(30))), 30)
        assert not worker.routes
        assert not worker.seconds
    assert master.routes.keys() == one.routes.keys()
    for name, route in one.routes.items():
        other = master.routes[name]
        assert (other.requests, other.failed, other.errors) == (route.requests, route.failed, route.errors)
        assert {hop: h.buckets for hop, h in other.histograms.items()} == {
            hop: h.buckets for hop, h in route.histograms.items()
        }
        for second, of in one.seconds.items():
            assert master.seconds[second][name].keys() == of[name].keys()
            for hop, pair in of[name].items():
                assert master.seconds[second][name][hop] == pytest.approx(pair)


def test_means_add_up_where_only_some_requests_have_a_hop() -> None:
    store = Store()
    for number in range(10):
        hops = {"network": 2.0, "app": 8.0} | ({"pool": 100.0} if number == 0 else {})
        store.add("shop GET /", "shop", sum(hops.values()), hops, "", 0)
    assert store.routes["shop GET /"].means == pytest.approx({"network": 2, "app": 8, "pool": 10})
    (row,) = rows(store.routes)
    assert row["pool"] == pytest.approx(10)
    assert row["mean"] == pytest.approx(20)


# --- runs -------------------------------------------------------------------------------------------------------------

Shape = Mapping[str, tuple[float, float]]
"""Hop -> (ms, sigma of the lognormal distribution)."""
HOPS: Shape = {"network": (1.5, 0.2), "nginx": (2, 0.3), "queue": (3, 0.8), "app": (20, 0.4)}


def load(store: Store, name: str, seed: int, shape: Shape = HOPS, seconds: int = 60, rate: int = 50) -> None:
    rng = random.Random(f"{name} {seed}")
    for number in range(seconds * rate):
        hops = {hop: ms * rng.lognormvariate(0, sigma) for hop, (ms, sigma) in shape.items()}
        store.add(name, name.split()[0], sum(hops.values()), hops, "", number / rate)


def run(store: Store, name: str = "example") -> Run:
    generator = Generator(cpu=0.31)
    for lag in (generator.start_lag, generator.loop_lag):
        for value in range(100):
            lag.add(value / 50)
    return Run(
        name, "2026-11-25T16:40:00+00:00", 60.0, {"model": "open", "users": 50}, store.routes, store.seconds,
        {"shop": Capacity("thread", 4, 32)}, generator, {"shop": {"gateway": "gunicorn-gthread", "workers": 4}},
        {"gatehouse": "5229487"}, {"cores": 2},
    )  # fmt: skip


@pytest.fixture
def known() -> Run:
    """100 requests of 1..100 ms, of which three failed; all of it in the app but for what the edge cannot see."""
    store = Store()
    for number in range(1, 101):
        hops = {"nginx": 0.2, "queue": 0.3, "app": number - 0.5}
        store.add("shop GET /", "shop", float(number), hops, "status 502" if number > 97 else "", number / 2)
    return run(store)


class Parts(HTMLParser):
    """Tags, attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and self.lasttag == "td":
            self.cells[-1] += data.rstrip("\n")  # what follows the last one, whose end is not written


def stands_alone(html: str) -> Parts:
    """A page that fetches nothing and runs nothing but its own script."""
    parts = Parts(html)
    assert not parts.attributes.keys() & {"src", "href", "xlink:href", "srcset", "action", "data"}
    assert not [name for name in parts.attributes if name.startswith("on")]
    assert not {"link", "img", "iframe", "object", "embed", "image", "use"} & {*parts.tags}
    assert parts.tags.count("script") <= 1
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face", style)
    return parts


def test_a_run_is_the_same_after_its_file(known: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "run.json", tmp_path / "again.json"
    known.write(first)
    again = Run.read(first)
    again.write(second)
    assert first.read_bytes() == second.read_bytes()
    assert again.series == known.series
    assert again.verdict == known.verdict
    assert again.busy == known.busy
    assert page(again) == page(known)


def test_numbers_of_a_known_run(known: Run) -> None:
    html = page(known)
    assert "100 requests in 60 s (1.7/s)" in html
    assert "3 failed (3.00%)" in html
    assert float(re.findall(r"p95 ([\d.]+) ms", html)[0]) == pytest.approx(95, rel=0.0101)
    cells = stands_alone(html).cells
    start = cells.index("shop GET /")
    # requests, failed, p50, p95, p99, mean, nginx, queue, app, queue p95
    assert cells[start + 1 : start + 3] == ["100", "3"]
    assert [float(cell) for cell in cells[start + 3 : start + 7]] == pytest.approx([50, 95, 99, 50.5], rel=0.01)
    assert cells[start + 7 : start + 11] == ["<1", "<1", "50.0", "<1"]
    assert "0.1 of 32 threads busy (0%)" in html
    assert "status 502" in cells


def test_texts_from_outside_are_texts(known: Run) -> None:
    evil = '"><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>'
    route = known.routes["shop GET /"]
    route.errors[evil] += 1
    route.failed += 1
    found = replace(
        known, name=evil, date=evil, routes={evil: replace(route, app=evil)}, asked={evil: evil, "knee": evil},
        series={second: {evil: of["shop GET /"]} for second, of in known.series.items()},
        settings={evil: {"gateway": evil, evil: {evil: [evil]}}}, versions={evil: evil}, machine={evil: evil},
    )  # fmt: skip
    row = Row(evil, evil, evil, evil, False, evil, True, 2.0)
    html = page(found, Judgement([row, replace(row, met=True, miss="")], evil, 3))
    parts = stands_alone(html)
    assert evil in parts.cells
    assert evil not in html
    stands_alone(compare.page(found, found, compare.compare(found, found)))


def test_a_run_without_any_request() -> None:
    empty = Run("none", "2026-11-25T16:40:00+00:00", 0.0, {}, {}, {}, {}, Generator())
    html = page(empty)
    stands_alone(html)
    assert "0 requests in 0 s" in html
    assert "INVALID" in html
    assert "no request was answered" in html
    assert "nothing is compared" in compare.page(empty, empty, compare.compare(empty, empty))


def test_a_run_in_which_nothing_was_sent_or_timed() -> None:
    store = Store()
    store.add("shop not sent", "shop", None, None, "2000 were unanswered", 0.5)
    store.add("shop WS /ws echo", "shop", 3.0, None, "", 1.5)
    html = page(run(store))
    stands_alone(html)
    assert "untold" in html
    assert "1 of 2 requests" in html  # not timed by the edge


def test_parts_of_requests_are_in_no_total(known: Run) -> None:
    store = Store()
    store.routes, store.seconds = known.routes, known.series
    store.add("shop GET /events delivery", "shop", 5000.0, None, "", 3, part=True)
    html = page(known)
    assert "100 requests in" in html
    assert float(re.findall(r"p95 ([\d.]+) ms", html)[0]) == pytest.approx(95, rel=0.0101)
    assert "(a part of others)" in html


def test_every_route_of_many_has_its_row_line_and_chart() -> None:
    store = Store()
    names = [f"shop GET /{'long/' * 20}{number}" for number in range(40)]
    for name in names:
        load(store, name, 1, rate=2)
    html = page(run(store))
    cells = stands_alone(html).cells
    assert all(name in cells for name in names)
    assert html.count("<polyline") == html.count("<h3>") == 40
    assert "The other routes: 32" in html


def test_limits_are_shown_the_missed_ones_first(known: Run) -> None:
    met = Row("shop GET /", "p50", "90 ms", "50.0 ms", True, "", True, 0.6)
    missed = Row("shop GET /", "p95", "50 ms", "95.2 ms", False, "1.9 x", True, 1.9)
    few = Row("shop GET /", "p99.9", "50 ms", "of 100 requests", False, "too few: it takes 1000", False, 0.0)
    html = page(known, Judgement([met, few, missed], "Limits: one of each.", 3))
    cells = stands_alone(html).cells
    assert [cell for cell in cells if cell in ("met", "missed", "not judged")] == ["missed", "not judged", "met"]
    assert '<p class="bad">Limits: one of each.' in html
    assert "Limits" not in page(known)


def test_a_long_run_that_is_kept_in_steps() -> None:
    store = Store()
    load(store, "shop GET /", 1, seconds=2500, rate=1)
    assert store.step > 1
    bars = re.search(r'<path d="([^"]+)" fill="var\(--fill\)"', page(replace(run(store), seconds=2500.0)))
    assert bars
    heights = {float(height) for height in re.findall(r"v-(\d+)", bars[1])}
    assert min(heights) > 800, "a steady rate is a level row of bars, the last one included"


# --- two runs ---------------------------------------------------------------------------------------------------------


def several(seed: int, factor: float = 1.0, hop: str = "app") -> Run:
    store = Store()
    shape = {name: (ms * (factor if name == hop else 1), sigma) for name, (ms, sigma) in HOPS.items()}
    for number in range(8):
        load(store, f"shop GET /{number}", seed, shape)
    return run(store, f"run{seed}")


@pytest.fixture(scope="module")
def before() -> Run:
    return several(1)


def test_a_slower_app_is_found_and_nothing_else(before: Run) -> None:
    lines = compare.compare(before, several(2, 1.3))
    by = {metric: [line for line in lines if line.metric == metric] for metric in ("app", "mean", "p50", "queue")}
    assert {line.verdict for line in by["app"] + by["mean"] + by["p50"]} == {"slower"}
    assert [line.ratio for line in by["app"]] == pytest.approx([1.3] * 8, rel=0.06)
    assert sum(line.verdict == compare.SAME for line in by["queue"]) >= 7
    back = compare.compare(several(2, 1.3), before)
    assert {line.verdict for line in back if line.metric in ("app", "mean", "p50", "p95")} == {"faster"}


def test_what_is_the_same_is_called_so(before: Run) -> None:
    lines = compare.compare(before, several(3))
    same = sum(line.verdict == compare.SAME for line in lines)
    assert len(lines) == 8 * 9  # three percentiles, mean, four hops, errors
    assert same >= 0.9 * len(lines), "one in twenty may be outside of its 95 % interval"


def test_requests_that_wait_in_one_queue_are_not_independent() -> None:
    """Two runs of the same chain, in which every ten seconds are slow or quick together."""
    slow: list[Run] = []
    for seed in (1, 2):
        store, rng, level = Store(), random.Random(seed), 1.0
        for second in range(120):
            level = rng.lognormvariate(0, 0.5) if second % 10 == 0 else level
            for _ in range(100):
                app = 20 * level * rng.lognormvariate(0, 0.1)
                store.add("shop GET /", "shop", app + 2, {"network": 2.0, "app": app}, "", second)
        slow.append(run(store))
    assert {line.verdict for line in compare.compare(*slow) if line.metric != "network"} == {compare.SAME}


def test_more_errors(before: Run) -> None:
    store, rng = Store(), random.Random(5)
    for number in range(3000):
        error = "status 502" if rng.random() < 0.05 else ""
        store.add("shop GET /0", "shop", 27.0, {"network": 2.0, "app": 25.0}, error, number / 50)
    (line,) = (line for line in compare.compare(before, run(store)) if line.metric == "errors")
    assert (line.a, line.verdict) == ("0.00%", "more")
    (line,) = (line for line in compare.compare(run(store), before) if line.metric == "errors")
    assert line.verdict == "fewer"


def test_what_is_below_the_resolution_is_not_compared(known: Run) -> None:
    lines = {line.metric: line for line in compare.compare(known, known)}
    assert lines["nginx"].verdict == lines["queue"].verdict == compare.SMALL
    assert lines["nginx"].a == "<1 ms"
    assert lines["mean"].verdict == compare.SAME


def test_a_bound_takes_blocks() -> None:
    store = Store()
    for second in range(4):
        store.add("shop GET /", "shop", 10.0, {"network": 10.0}, "", second)
    short = run(store)
    assert {line.verdict for line in compare.compare(short, short) if line.metric == "mean"} == {compare.FEW}


def test_the_command(before: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = several(2, 1.3)
    late = Generator()
    late.start_lag.add(500.0)
    other = replace(other, generator=late, asked={"model": "closed", "users": 50}, machine={"cores": 8})
    other.routes["shop GET /new"] = Route("shop", requests=1)
    for name, one in (("a", before), ("b", other)):
        (tmp_path / name).mkdir()
        one.write(tmp_path / name / "run.json")
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b/run.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    html = (tmp_path / "b/compare.html").read_text()
    stands_alone(html)
    for sentence in (
        "B is INVALID: requests were sent", "What was asked differs: model open in A, closed in B.",
        "The machines differ: cores 2 in A, 8 in B.",
    ):  # fmt: skip
        assert sentence in said
        assert f'<p class="bad"><b>{sentence}' in html
    assert "8 routes in both. mean: 8 slower; p95: 8 slower" in said
    assert "only in B: shop GET /new" in said
    assert "within a run only" in html


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "run.json: no such file or directory"),
        (b"{", "run.json: this is no run of a load test"),
        (b"[]", "run.json: this is no run of a load test"),
        (b"\x7fELF\xd0\x00", "run.json: this is no run of a load test"),
        (b'{"format": 1, "routes": 3}', "run.json: this is no run of a load test"),
        (b'{"format": 99}', "written by another version of Gatehouse (format 99)"),
    ],
)
def test_what_is_no_run(
    content: bytes | None, sentence: str, known: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known.write(tmp_path / "good.json")
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    assert compare.main([str(tmp_path / "good.json"), str(tmp_path / ("run.json" if content is None else ""))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "compare.html").exists()
