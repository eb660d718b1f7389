"""Whether `make tune` chooses well: two runs of it, and then its choices against a sweep of what else there is.

    python -m loadtests.tune_proof [PROFILE...]      all of loadtests/tune_sweep.yml that has no result yet; 10 to 20 minutes each
    python -m loadtests.tune_proof --page            only the pages, from what is there

Each profile begins with `workers: auto`. The sweep takes turns, all of it in each round, at the rate that the tuner asked for; its
best, the tuner's choice and the rule of thumb then meet in rounds that had no part in naming the best.
Writes docs/results/tune/PROFILE.json (every visit of tunes and sweep), docs/results/tune.md and tune.html.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from loadtests import mix, tune_page, tuner
from loadtests.beside import beside
from loadtests.page import CHARTS, COLOURS, document, key, plot
from loadtests.tune import Bench, bring, current_of
from loadtests.tuner import Candidate, Visit, candidate, level, ratio
from stack import docker
from stack.errors import Failed
from stack.load import load_site
from stack.say import ended, say
from stack.sizing import MEMORY_SHARE

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs/results/tune"
yaml = YAML(typ="safe")
SWEEP = yaml.load(REPOSITORY / "loadtests/tune_sweep.yml")["profiles"]
SWEPT, FINAL, SECONDS = range(1, 3), range(11, 19), 5.0
"""Rounds. The best of many in few rounds is partly luck: how far the choice is from it is measured in rounds of its own."""
TUNES = 2

WORK = """
HELD = bytearray(os.urandom(1024)) * (1024 * int(os.environ["HOLD"]))


def work(ms: float) -> None:
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
"""
WSGI = f'''"""A request computes, then waits."""

import os
import time

from flask import Flask, request
{WORK}

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> str:
    return "ok"


@app.get("/job")
def job() -> dict[str, float]:
    work(request.args.get("cpu", 0, float))
    time.sleep(request.args.get("wait", 0, float) / 1000)
    return {{"held": len(HELD)}}
'''
ASGI = f'''"""A request computes, then waits."""

import asyncio
import os
import time

from fastapi import FastAPI
{WORK}

app = FastAPI()


@app.get("/healthz")
async def healthz() -> str:
    return "ok"


@app.get("/job")
async def job(cpu: float = 0, wait: float = 0) -> dict[str, float]:
    work(cpu)
    await asyncio.sleep(wait / 1000)
    return {{"held": len(HELD)}}
'''
CODE = {"wsgi": ("flask", WSGI), "asgi": ("fastapi", ASGI)}


def points(lines: Sequence[str]) -> list[Candidate]:
    """Of "gunicorn-gthread 1x4 2x8": a candidate each. Raises Failed beyond 24."""
    found = []
    for line in lines:
        gateway, *sizes = line.split()
        for size in sizes:
            workers, _, threads = size.partition("x")
            found.append(candidate(gateway, int(workers), int(threads or 1)))
    if len(found) > 24:
        raise Failed(f"loadtests/tune_sweep.yml: {len(found)} points, and 24 are allowed")
    return found


def requests(profile: Mapping[str, Any]) -> list[mix.Request]:
    return [
        mix.Request(path=f"/job?cpu={r['cpu']}&wait={r['wait']}", weight=r.get("weight", 1))
        for r in profile["requests"]
    ]


def site(root: Path, name: str) -> None:
    """The profile's app, as a user's folder has it."""
    profile, interface = SWEEP[name], name.rpartition("-")[2]
    sample, code = CODE[interface]
    folder = root / "apps" / name
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(code)
    (folder / "requirements.txt").write_text((REPOSITORY / "apps" / sample / "requirements.txt").read_text())
    settings = {
        "interface": interface, "entry": "app:app", "workers": "auto", "cpus": 1, "memory": profile.get("memory", "1G"),
        "env": {"HOLD": str(profile.get("hold", 0))},
    }  # fmt: skip
    yaml.dump(settings, folder / "app.yml")
    yaml.dump({"requests": [r.model_dump(exclude_defaults=True) for r in requests(profile)]}, folder / "mix.yml")
    (root / "environments").mkdir()
    (root / "environments/local.yml").write_text(
        f"name: gatehouse-proof-{name}\nengine: compose\ndomains: [localhost]\ntls: {{certificate: 'off'}}\n"
    )


def tuned(root: Path, name: str) -> dict[str, Any]:
    """One run of the tuner; what tune.json holds."""
    # Its lines are the progress.
    if subprocess.run(
        [sys.executable, "-m", "loadtests.tune", name, "--root", root], cwd=REPOSITORY, check=False
    ).returncode:
        raise Failed(f"the tune of {name} failed")
    said: dict[str, Any] = json.loads((root / "build/tune" / name / "tune.json").read_text())
    return said


def turns(
    root: Path, name: str, among: list[Candidate], run: Mapping[str, Any], rounds: range, seconds: float
) -> list[Visit]:
    """All of them in each round, at the rate of the tune, the other way round in every other one; who is first differs."""
    loaded = load_site(root, "local")
    visits = []
    with beside(loaded, loaded.apps[name]) as stand:
        among = bring(stand, among, among[0])
        bench = Bench(stand, requests(SWEEP[name]), run["p95"])
        for number in rounds:
            start = (number - rounds.start) * len(among) // len(rounds)
            order = [*among[start:], *among[:start]]
            for c in order if number % 2 else reversed(order):
                for _ in range(1 + tuner.REPEATS):
                    visits.append(bench.visit(number, c, run["rate"], seconds))
                    if visits[-1].valid:
                        break
            say.line(f"{name}: round {number} of {rounds.stop - 1}, {len(among)} configurations")
    return visits


def prove(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        site(root, name)
        load = [os.getloadavg()[0]]
        runs = [tuned(root, name) for _ in range(TUNES)]
        loaded = load_site(root, "local")
        plan, first = loaded.apps[name], runs[0]
        chosen = [Candidate(**run["choice"]) for run in runs if run["choice"]]
        rule = tuner.control(plan.app.interface, plan.app.cpus)
        among = list(dict.fromkeys([current_of(plan), *chosen, rule, *points(SWEEP[name]["points"])]))
        sweep = turns(root, name, among, first, SWEPT, SECONDS)
        fit = [c for c in among if tuner.good(sweep, c, first["p95"])]
        finalists = list(dict.fromkeys([*chosen, *([tuner.best_of(sweep, fit)] if fit else []), rule]))
        final = turns(root, name, finalists, first, FINAL, 2 * SECONDS)
        load.append(os.getloadavg()[0])
    raw = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "load_average": load,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}", "commit": commit(),
        "rate": first["rate"], "p95": first["p95"], "control": asdict(rule), "current": asdict(current_of(plan)),
        "tunes": runs, "sweep": [asdict(v) for v in sweep],
        "final": [asdict(v) for v in final],
    }  # fmt: skip
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(compact(raw))


def compact(raw: Any) -> str:
    """A visit a line, so that the file is small and a difference of two can be read."""
    text = json.dumps(raw, indent=1)
    return re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", lambda m: re.sub(r"\s*\n\s*", " ", m[0]), text) + "\n"


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a profile's sweep says of the tuner's choices."""

    raw: Mapping[str, Any]
    visits: Sequence[Visit]
    """Of the sweep."""
    final: Sequence[Visit]

    @classmethod
    def read(cls, file: Path) -> Found:
        raw = json.loads(file.read_text())
        return cls(raw, *([tune_page.visit_of(v) for v in raw[part]] for part in ("sweep", "final")))

    @property
    def choices(self) -> list[Candidate | None]:
        """Of each tune."""
        return [Candidate(**run["choice"]) if run["choice"] else None for run in self.raw["tunes"]]

    @property
    def rule(self) -> Candidate:
        return Candidate(**self.raw["control"])

    @property
    def good(self) -> list[Candidate]:
        """Points that met the limit."""
        return [
            c for c in dict.fromkeys(v.candidate for v in self.visits) if tuner.good(self.visits, c, self.raw["p95"])
        ]

    @property
    def best(self) -> Candidate | None:
        return tuner.best_of(self.visits, self.good) if self.good else None

    @property
    def smallest(self) -> Candidate | None:
        """Fewest workers, then threads, of those that the tuner would call as good as the best."""
        return min((c for c in self.good if self.best and tuner.near(self.visits, c, self.best)), default=None)

    def carries(self, c: Candidate | None) -> str:
        """Requests a second within the limit, as the first tune found (">=": its generator was the limit); "-" if it left that out."""
        for each in self.raw["tunes"][0]["capacity"]:
            if Candidate(**each["candidate"]) == c:
                return f"{'>= ' * each['at_least']}{each['rate']:.0f}"
        return "-"


def short(c: Candidate | None) -> str:
    """As in tune_sweep.yml."""
    return f"{c.gateway} {c.workers}{f'x{c.threads}' if tuner.threaded(c.gateway) else ''}" if c else "none"


def against(visits: Sequence[Visit], of: Candidate | None, to: Candidate | None) -> str:
    found = ratio(visits, of, to) if of and to else None
    return f"{found.middle:.2f} ({found.low:.2f} to {found.high:.2f})" if found else ""


def chosen(name: str, found: Found) -> list[str]:
    now = Candidate(**found.raw["current"])
    return [
        name,
        short(now),
        " and ".join(dict.fromkeys(map(short, found.choices))),
        short(found.best),
        short(found.smallest),
    ]


def compared(name: str, found: Found) -> list[str]:
    first, visits = found.choices[0], found.final
    return [
        name, f"{found.raw['rate']:.0f}/s", against(visits, first, found.best), against(visits, first, found.rule),
        f"{level(visits, first) if first else math.inf:.0f} / {level(visits, found.rule):.0f} ms",
        f"{found.carries(first)} / {found.carries(found.rule)}",
    ]  # fmt: skip


CHOSEN = ("profile", "`workers: auto`", "two tunes chose", "best of the sweep", "smallest as good as that")
COMPARED = (
    "profile", "at", "p95, choice to best", "p95, choice to 2n+1", "p95, choice / 2n+1", "carries, requests a second: choice / 2n+1",
)  # fmt: skip


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)) + "\n"


def dots(name: str, found: Found) -> str:
    """A chart of the sweep: every visit's p95."""
    visits = [v for v in found.visits if v.valid]
    among = sorted({v.candidate for v in visits}, key=lambda c: (c.gateway, c))
    at, labels = tune_page.scale([found.raw["p95"], *(v.p95 for v in visits)])
    x = {c: (number + 0.5) / len(among) for number, c in enumerate(among)}
    colours = {found.rule: COLOURS[0], **dict.fromkeys([c for c in found.choices if c], COLOURS[4])}
    shapes = "".join(
        tune_page.dot(
            x[v.candidate], at(v.p95), colours.get(v.candidate, COLOURS[3]), f"{short(v.candidate)}: p95 {v.p95:.0f} ms"
        )
        for v in visits
    )
    below = {short(c).removeprefix(f"{c.gateway} "): x[c] for c in among}
    kinds = ", ".join(dict.fromkeys(c.gateway for c in among))
    said = f"p95 of every visit at {found.raw['rate']:.0f} requests a second; from the left: {kinds}"
    legend = key(COLOURS[4], "what the tunes chose") + key(COLOURS[0], "the rule of thumb") + key(COLOURS[3], "others")
    return (
        f'<h2>{name}</h2><p class=dim>{said}</p>{plot(shapes, 15, below, labels, said)}<p class="legend">{legend}</p>'
    )


def write() -> None:
    """docs/results/tune.md and tune.html, from what was measured."""
    found = {name: Found.read(file) for name in SWEEP if (file := RESULTS / f"{name}.json").is_file()}
    missing = [name for name in SWEEP if name not in found]
    said = "".join(
        f"- {name}: {f.raw['date']}, {f.raw['commit']}, {f.raw['machine']}, load average {f.raw['load_average'][0]:.1f} before; "
        f"{len(f.visits)} visits of {SECONDS:g} s, then {len(f.final)} of {2 * SECONDS:g} s. Its tunes: {'; '.join(run['sentence'] for run in f.raw['tunes'])}\n"
        for name, f in found.items()
    )
    (RESULTS.parent / "tune.md").write_text(
        "# Does `make tune` choose well?\n\n"
        "Written by `python -m loadtests.tune_proof` from docs/results/tune/PROFILE.json, which have every visit; as charts:\n"
        "[tune.html](tune.html). The points of each sweep, at most 24, and what the profiles are, were committed before the first run:\n"
        "[tune_sweep.yml](../../loadtests/tune_sweep.yml). Each app may use one cpu.\n\n"
        + (f"Not measured yet: {', '.join(missing)}.\n\n" if missing else "")
        + markdown(CHOSEN, (chosen(name, f) for name, f in found.items()))
        + "\nThe smallest: fewest workers, then threads, of the points that the tuner itself would call as good as the best.\n\n"
        + markdown(COMPARED, (compared(name, f) for name, f in found.items()))
        + f"\nRatios are of p95s in the same round, their geometric mean and interval (90 %, of {len(FINAL)} rounds after the sweep, which had no part\n"
        "in naming its best); below 1 the choice is faster.\n"
        "2n+1 is the rule of thumb: so many workers that do one thing at a time, or event loops; \"-\" where the tuner left\n"
        f"it out, since workers of the measured size may fill {MEMORY_SHARE:.0%} of the memory.\n\n" + said
    )  # fmt: skip
    charts = "".join(dots(name, f) for name, f in found.items())
    text = f"<h1>make tune against sweeps</h1>{charts}"
    (RESULTS.parent / "tune.html").write_text(document("make tune against sweeps", text, CHARTS))


def main() -> int:
    parser = argparse.ArgumentParser("python -m loadtests.tune_proof", description=__doc__)
    parser.add_argument("profile", nargs="*", choices=[*SWEEP, []], help="of loadtests/tune_sweep.yml")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    docker.client()
    wanted = options.profile or [name for name in SWEEP if not (RESULTS / f"{name}.json").is_file()]
    for name in [] if options.page else wanted:
        prove(name)
        write()
    write()
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
