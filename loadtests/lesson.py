"""`make lesson`: a wait of 100 ms behind four workers of each kind, at 1 to 256 clients: theory and measured, and where it waits.

    sync      a worker is held by a request until it has answered: 4 at a time
    gthread   so is a thread: 4 x 8 at a time
    uvicorn   an event loop goes on with others while a request waits
    blocked   the same, but the handler waits without `await`: the classic mistake

wrk drives the throughput table, Locust shows the hops with as many clients as it can hold; both run in the Compose network.
About four minutes. Writes docs/results/lesson.md, lesson.json (raw) and lesson.html (the page).
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape as html
from pathlib import Path

from loadtests.hops import HOPS, TOTAL
from loadtests.page import CHARTS, COLOURS, SIDE, document, key, ms, plot, rect, table
from loadtests.report import MEANING, SHADES
from loadtests.run import Run
from stack import compose, docker, images
from stack.compose import Compose
from stack.errors import Failed
from stack.load import load_site
from stack.say import ended, say

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs/results"
PROJECT, PORT = "gatehouse-lesson", 18086
WORKERS, THREADS = 4, 8
WAIT = 0.1
"""s that a request waits, without using CPU."""
CLIENTS = (1, 4, 16, 64, 256)
SECONDS = 5
WATCHED = 32
"""Clients of the runs with hops: 320 requests a second at most, which Locust sends without strain."""
STALL, EVERY = 1.0, 4.0
"""s that the event loop of the app `stall` stands still, and from one time to the next: a quarter of the public waits."""
ARRIVALS, USERS, STALLED_FOR = 100, 10, 16
"""Of the two runs against it: arrivals a second (open); users who send ten requests a second each (closed); s."""


@dataclass(frozen=True)
class Variant:
    """One way to serve the same wait."""

    sample: str
    gateway: str
    slots: int | None
    """Requests at a time; None: as many as come."""
    said: str


VARIANTS = {
    "sync": Variant("flask", "gunicorn-sync", WORKERS, f"Gunicorn sync, {WORKERS} workers"),
    "gthread": Variant("flask", "gunicorn-gthread", WORKERS * THREADS, f"Gunicorn gthread, {WORKERS} x {THREADS} threads"),
    "uvicorn": Variant("fastapi", "uvicorn", None, f"Uvicorn, {WORKERS} workers, await"),
    "blocked": Variant("fastapi", "uvicorn", WORKERS, f"Uvicorn, {WORKERS} workers, time.sleep in async def"),
}  # fmt: skip


def users(name: str, wait: str, path: str, answer: str) -> str:
    """A loadtest.py of one class, which asks for one path."""
    return f'''from locust import constant, constant_throughput, task

from loadtests.users import AppUser, check


class {name}(AppUser):
    wait_time = {wait}

    @task
    def ask(self) -> None:
        with self.request("GET", "{path}") as response:
            check(response, {answer})
'''


WAITERS = users("Waiter", "constant(0)", "/wait?ms=100", '{"ms": 100}')
"""Ask again as soon as they have their answer."""
ASKERS = users("Asker", "constant_throughput(10)", "/", '{"message": "Hello, ASGI!"}')
"""Ten requests a second each, as far as the answers allow; in the open model one arrival a second."""
STALLING = f"""

async def stall() -> None:
    while True:
        await asyncio.sleep({EVERY - STALL})
        time.sleep({STALL})


@app.middleware("http")
async def begin(request: Request, call_next):
    if not hasattr(app.state, "stall"):
        app.state.stall = asyncio.create_task(stall())
    return await call_next(request)
"""


def theory(variant: Variant, clients: int) -> float:
    """Requests a second: what can wait at a time, over how long it waits."""
    return min(clients, variant.slots or clients) / WAIT


def site(root: Path) -> None:
    """An app for each variant, from the samples, and one that stands still now and then."""
    for name, variant in VARIANTS.items():
        app(root, name, variant.sample, variant.gateway, WORKERS, WAITERS)
    replace(root / "apps/blocked/main.py", "await asyncio.sleep(ms / 1000)", "time.sleep(ms / 1000)")
    app(root, "stall", "fastapi", "uvicorn", 1, ASKERS)
    with (root / "apps/stall/main.py").open("a") as file:
        file.write(STALLING)
    (root / "environments").mkdir()
    (root / "environments/local.yml").write_text(
        f"name: {PROJECT}\nengine: compose\ndomains: [127.0.0.1, edge]\nhttp_port: {PORT}\ntls: {{certificate: 'off'}}\n"
        "edge: {upstream_keepalive: 256, timing: open}\n"
    )


def app(root: Path, name: str, sample: str, gateway: str, workers: int, users: str) -> None:
    """One app's folder. Its contract is `health`, so that only these users are there."""
    folder = root / "apps" / name
    shutil.copytree(REPOSITORY / "apps" / sample, folder, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    settings = {"gateway": gateway, "workers": workers, "contract": "health"}
    text = (folder / "app.yml").read_text()
    for key_, value in settings.items():
        text = re.sub(f"^{key_}: .*$", f"{key_}: {value}", text, flags=re.MULTILINE)
    text += f"cpus: {min(2, os.cpu_count() or 1)}\n" + (
        f"threads: {THREADS}\n" if gateway == "gunicorn-gthread" else ""
    )
    text += "max_in_flight: 'off'\n"  # the queue is what the lesson is about
    (folder / "app.yml").write_text(text)
    (folder / "loadtest.py").write_text(users)


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    if before not in text:
        raise Failed(f"{file.name} of the sample has changed: no {before!r} in it")
    file.write_text(text.replace(before, after))


def health(name: str) -> str:
    return f"http://127.0.0.1:{PORT}/{name}/healthz"


def drained(url: str) -> None:
    """What a visit has left in a queue would be in the next one's way. Raises Failed after a minute."""
    quick, end = 0, time.monotonic() + 60
    while quick < 3:
        start = time.monotonic()
        try:
            urllib.request.urlopen(url, timeout=60).read()
            quick = quick + 1 if time.monotonic() - start < 0.05 else 0
        except OSError:
            quick = 0
        if time.monotonic() > end:
            raise Failed(f"{url}: still a queue a minute after its visit")
        time.sleep(0.1)


def throughput(image: str, name: str, clients: int) -> float:
    """Requests a second that were answered well."""
    out = docker.run(
        "run", "--rm", f"--network={PROJECT}_apps", "--entrypoint=wrk", image,
        "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout=30s", f"http://edge:8080/{name}/wait?ms={WAIT * 1000:.0f}",
    )  # fmt: skip
    rate, bad = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    assert rate
    if bad:
        raise Failed(f"{name}: {bad[1]} answers were not 200 at {clients} clients")
    return float(rate[1])


def watched(root: Path, user_class: str, users: int, seconds: int, model: str = "closed") -> Run:
    """A run of Locust, with hops."""
    before = set((REPOSITORY / "build/load").glob("*/run.json"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stack", "load", "--headless", "--users", str(users), "--rate", str(users)),
            *("--time", f"{seconds}s", "--workers", "1", "--model", model, "--", user_class),
        ],
        cwd=REPOSITORY, env={**os.environ, "GATEHOUSE_ROOT": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    new = sorted(set((REPOSITORY / "build/load").glob("*/run.json")) - before)
    if not new:
        raise Failed(f"the run of {user_class} left nothing", (done.stdout + done.stderr).splitlines()[-20:])
    return Run.read(new[-1])


def main() -> int:
    image = images.load_generator()
    rates: dict[str, dict[int, float]] = {name: {} for name in VARIANTS}
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        site(root)
        try:
            Compose(load_site(root, "local")).up()
            for clients in CLIENTS:  # the variants take turns, so that what the machine does meanwhile hits them alike
                for name, variant in VARIANTS.items():
                    drained(health(name))
                    rate = rates[name][clients] = throughput(image, name, clients)
                    say.line(f"{clients:3} clients, {variant.said}: {rate:.0f}/s of {theory(variant, clients):.0f}")
            for name, variant in VARIANTS.items():
                drained(health(name))
                runs[name] = watched(root, f"{name.capitalize()}Waiter", WATCHED, 10)
                queue = runs[name].routes[f"{name} GET /wait"].histograms["queue"].mean or 0.0
                say.line(f"{WATCHED} clients, {variant.said}: {queue:.0f} ms in the queue ({runs[name].verdict.word})")
            drained(health("stall"))
            stalled = {
                "closed": watched(root, "StallAsker", USERS, STALLED_FOR),
                "open": watched(root, "StallAsker", ARRIVALS, STALLED_FOR, "open"),
            }
        finally:
            compose.down(root, "local", volumes_of=PROJECT)
    write(rates, runs, stalled)
    return 0


def conditions() -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; client, Nginx and "
        f"gateways share them. wrk for {SECONDS} s a cell, the variants taking turns; the hops from Locust with {WATCHED} "
        "clients that ask again at once, 10 s."
    )


def write(rates: dict[str, dict[int, float]], runs: dict[str, Run], stalled: dict[str, Run]) -> None:
    """The three files."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    raw = {
        "conditions": conditions(),
        "variants": {name: asdict(variant) for name, variant in VARIANTS.items()},
        "requests_per_second": rates,
        "hops_ms": {name: run.routes[f"{name} GET /wait"].means for name, run in runs.items()},
        "generator": {name: asdict(run.verdict) for name, run in runs.items()},
        "busy": {name: run.busy[name].sentence for name, run in runs.items()},
        "skewed": {name: run.routes[f"{name} GET /wait"].skewed for name, run in runs.items()},
        "stall_ms": {model: _percentiles(run) for model, run in stalled.items()},
    }
    (RESULTS / "lesson.json").write_text(json.dumps(raw, indent=1) + "\n")
    (RESULTS / "lesson.html").write_text(page(rates, runs, stalled))
    head = " | ".join(f"{clients}" for clients in CLIENTS)
    rows = "".join(
        f"| {variant.said} | "
        + " | ".join(f"{rates[name][c]:.0f} of {theory(variant, c):.0f}" for c in CLIENTS)
        + " |\n"
        for name, variant in VARIANTS.items()
    )
    hops = "".join(
        f"| {VARIANTS[name].said} | {', '.join(_hops(run, name))} | {run.busy[name].sentence} | {run.verdict.word} |\n"
        for name, run in runs.items()
    )
    (RESULTS / "lesson.md").write_text(
        f"# The lesson: who waits while a request waits\n\nEach request waits for {WAIT * 1000:.0f} ms and computes nothing. Requests a second, "
        f"measured of what theory says: what can wait at a time / {WAIT:g} s.\n\n| clients | {head} |\n|---|{'---:|' * len(CLIENTS)}\n{rows}\n"
        f"With {WATCHED} clients, the mean time of a request, ms:\n\n| | where it went | the gateway | generator |\n|---|---|---|---|\n{hops}\n"
        f"## A closed model hides a stall\n\n{_stall(stalled)}\n\n"
        f"{conditions()} As a page with charts: [lesson.html](lesson.html). Raw: [lesson.json](lesson.json). Again: `make lesson`.\n"
    )
    say.line("docs/results/lesson.md, lesson.html")


def _percentiles(run: Run) -> dict[str, float | None]:
    times = run.routes["stall GET /"].histograms[TOTAL]
    return {f"p{p}": times.percentile(p) for p in (50, 75, 90, 95, 99)}


def _stall(stalled: dict[str, Run]) -> str:
    """A sentence and the numbers."""
    said = "; ".join(
        f"{model}: "
        + ", ".join(f"{p} {ms(value)} ms" for p, value in _percentiles(run).items())
        + f" ({run.verdict.word})"
        for model, run in stalled.items()
    )
    return (
        f"An event loop stands still for {STALL:g} s of every {EVERY:g}: a quarter of the public waits, half a second on average. "
        f"{USERS} users of the closed model wait too, and send nothing meanwhile; {ARRIVALS} arrivals a second of the open one "
        f"come whatever happens. {said}."
    )


def _hops(run: Run, name: str) -> list[str]:
    means = run.routes[f"{name} GET /wait"].means
    return [f"{hop} {ms(means[hop], hop)}" for hop in HOPS if hop in means]


STYLE = f"""{CHARTS}
.bar {{ display: grid; grid-template-columns: minmax(8rem, 17rem) 1fr 5rem; gap: 0 .8rem; align-items: center; margin: .4rem 0; }}
.bar svg {{ display: block; height: 1.3rem; }} th:last-child, td:last-child {{ text-align: right; }}
"""


def page(rates: dict[str, dict[int, float]], runs: dict[str, Run], stalled: dict[str, Run]) -> str:
    """Throughput against clients, theory dashed; the hops; and the stall."""
    least, most = 1 / WAIT / 1.5, max(CLIENTS) / WAIT
    at = {clients: number / (len(CLIENTS) - 1) for number, clients in enumerate(CLIENTS)}

    def height(rate: float) -> float:
        return math.log(rate / least) / math.log(most / least)

    lines = ""
    for number, (name, variant) in enumerate(VARIANTS.items()):
        for of, dash in ((rates[name], "none"), ({c: theory(variant, c) for c in CLIENTS}, "3 4")):
            points = " ".join(f"{at[c] * SIDE:.0f},{SIDE * (1 - height(of[c])):.0f}" for c in CLIENTS)
            lines += (
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[number * 2]}" stroke-width="2.5" '
                f'stroke-dasharray="{dash}"/>'
            )
    legend = "".join(key(COLOURS[n * 2], v.said, "none") for n, v in enumerate(VARIANTS.values())) + key(
        "currentColor", "theory", "2 2"
    )
    y = {f"{rate:,.0f}/s": height(rate) for rate in sorted({theory(v, c) for v in VARIANTS.values() for c in CLIENTS})}
    chart = plot(
        lines, 20, {f"{c}": x for c, x in at.items()}, y, "Requests a second by clients, both axes logarithmic"
    )
    longest = max((run.routes[f"{name} GET /wait"].histograms[TOTAL].mean or 0.0) for name, run in runs.items())
    bars = "".join(_bar(name, run, longest) for name, run in runs.items())
    used = [hop for hop in HOPS if any(run.routes[f"{name} GET /wait"].means.get(hop) for name, run in runs.items())]
    cells = [
        [variant.said, *(f"{rates[name][c]:.0f} of {theory(variant, c):.0f}" for c in CLIENTS)]
        for name, variant in VARIANTS.items()
    ]
    judged = "".join(
        f"<li>{html(VARIANTS[n].said)}: {html(r.busy[n].sentence)} (generator: {r.verdict.word})"
        for n, r in runs.items()
    )
    body = f"""<h1>Who waits while a request waits</h1>
<p>Each request waits for {WAIT * 1000:.0f} ms and computes nothing. A WSGI worker, or thread, is held by it until it has answered;
an event loop goes on with others, unless the handler waits without <code>await</code>.</p>
<h2>Requests a second, by clients</h2><div class="legend">{legend}</div>{chart}
{table(["clients", *map(str, CLIENTS)], cells)}
<p class="dim">Measured, of what theory says: what can wait at a time / {WAIT:g} s.</p>
<h2>Where a request's time goes, with {WATCHED} clients</h2>
<div class="legend">{"".join(key(SHADES[hop], f"{hop}: {MEANING[hop]}") for hop in used)}</div>{bars}<ul>{judged}</ul>
<h2>A closed model hides a stall</h2><p>{html(_stall(stalled))}</p>
<p class="dim">{html(conditions())} Again: <code>make lesson</code>.</p>"""
    return document("Gatehouse: who waits while a request waits", body, STYLE)


def _bar(name: str, run: Run, longest: float) -> str:
    route, x, parts = run.routes[f"{name} GET /wait"], 0.0, ""
    mean = route.histograms[TOTAL].mean or 0.0
    for hop in HOPS:
        if value := route.means.get(hop):
            parts += rect(x, 0, x + value, 10, SHADES[hop], f"{hop}: {ms(value, hop)} ms")
            x += value
    return (
        f'<div class="bar"><span>{html(VARIANTS[name].said)}</span><svg viewBox="0 0 {mean:.2f} 10" preserveAspectRatio="none" '
        f'style="width:{mean / longest:.1%}">{parts}</svg><span>{ms(mean)} ms</span></div>'
    )


if __name__ == "__main__":
    sys.exit(ended(main))
