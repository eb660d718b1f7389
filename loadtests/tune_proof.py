"""Whether `make tune` chooses well: two runs of it, and then its choices against a sweep of what else there is.

    python -m loadtests.tune_proof [PROFILE...]      all of loadtests/tune_sweep.yml that has no result yet; 10 to 20 minutes each
    python -m loadtests.tune_proof --page            only docs/results/tune.md, from what is there

Each profile begins with `workers: auto`. The sweep takes turns, all of it in each round, at the rate that the tuner asked for.
Writes docs/results/tune/PROFILE.json (every visit of tunes and sweep) and docs/results/tune.md.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from loadtests import mix, tuner
from loadtests.beside import beside
from loadtests.tune import Bench, bring, current_of
from loadtests.tuner import Candidate, Visit, candidate, level, ratio
from stack import docker
from stack.errors import Failed
from stack.load import load_site
from stack.say import ended, say

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs/results/tune"
yaml = YAML(typ="safe")
SWEEP = yaml.load(REPOSITORY / "loadtests/tune_sweep.yml")["profiles"]
ROUNDS, SECONDS = 3, 5.0
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


def swept(root: Path, name: str, among: list[Candidate], rate: float, limit: float) -> list[Visit]:
    """Every point in each round, the other way round in every other one; first and last in a round differ from round to round."""
    loaded = load_site(root, "local")
    visits = []
    with beside(loaded, loaded.apps[name]) as stand:
        among = bring(stand, among, among[0])
        bench = Bench(stand, requests(SWEEP[name]), limit)
        for number in range(1, ROUNDS + 1):
            start = (number - 1) * len(among) // ROUNDS
            order = [*among[start:], *among[:start]]
            for c in order if number % 2 else reversed(order):
                for _ in range(1 + tuner.REPEATS):
                    visits.append(bench.visit(number, c, rate, SECONDS))
                    if visits[-1].valid:
                        break
            say.line(f"sweep of {name}: round {number} of {ROUNDS}")
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
        visits = swept(root, name, among, first["rate"], first["p95"])
        load.append(os.getloadavg()[0])
    raw = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "load_average": load,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}", "commit": commit(),
        "rate": first["rate"], "p95": first["p95"], "control": asdict(rule), "current": asdict(current_of(plan)),
        "tunes": runs, "sweep": [asdict(v) for v in visits],
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


def visits_of(raw: Sequence[Mapping[str, Any]]) -> list[Visit]:
    return [Visit(**{**v, "candidate": Candidate(**v["candidate"])}) for v in raw]


def row(name: str, raw: Mapping[str, Any]) -> Iterator[str]:
    """The cells of a profile."""
    visits, limit = visits_of(raw["sweep"]), raw["p95"]
    choices = [Candidate(**run["choice"]) if run["choice"] else None for run in raw["tunes"]]
    rule, measured = Candidate(**raw["control"]), list(dict.fromkeys(v.candidate for v in visits))
    fit = [c for c in measured if tuner.good(visits, c, limit)]
    best = tuner.best_of(visits, fit) if fit else None
    smallest = min((c for c in fit if best and tuner.near(visits, c, best)), default=None)
    yield name
    yield f"{raw['rate']:.0f}/s"
    yield str(Candidate(**raw["current"]))
    yield " and ".join(dict.fromkeys(str(c) for c in choices))
    yield f"{best}" if best else "none meets the limit"
    yield f"{smallest}" if smallest else ""
    first = choices[0]
    yield str(ratio(visits, first, best)) if first and best else ""
    yield str(ratio(visits, first, rule)) if first else ""
    yield (
        f"{level(visits, first):.0f} / {level(visits, rule):.0f} ms" if first and level(visits, rule) < math.inf else ""
    )
    yield " / ".join(f"{carried(raw['tunes'][0], c):.0f}" for c in (first, rule) if c)


def carried(run: Mapping[str, Any], c: Candidate) -> float:
    return next((each["rate"] for each in run["capacity"] if Candidate(**each["candidate"]) == c), math.nan)


HEAD = (
    "profile", "rate", "`workers: auto`", "two tunes chose", "best of the sweep", "smallest as good as that",
    "p95: choice to best", "p95: choice to 2n+1", "p95: choice / 2n+1", "carries, requests a second: choice / 2n+1",
)  # fmt: skip


def page() -> str:
    found = {name: json.loads(file.read_text()) for name in SWEEP if (file := RESULTS / f"{name}.json").is_file()}
    rows = "".join(f"| {' | '.join(row(name, raw))} |\n" for name, raw in found.items())
    said = "".join(
        f"- {name}: {raw['date']}, {raw['commit']}, {raw['machine']}, load average {raw['load_average'][0]:.1f} before; "
        f"{len(raw['sweep'])} visits of {SECONDS:g} s; {'; '.join(run['sentence'] for run in raw['tunes'])}\n"
        for name, raw in found.items()
    )
    missing = [name for name in SWEEP if name not in found]
    left = f"Not measured yet: {', '.join(missing)}.\n\n" if missing else ""
    return (
        "# Does `make tune` choose well?\n\n"
        "Written by `python -m loadtests.tune_proof`, from docs/results/tune/PROFILE.json, which have every visit. The list of each sweep, at most 24\n"
        "points, was committed before its first run: [tune_sweep.yml](../../loadtests/tune_sweep.yml).\n\n"
        "Each app may use one cpu. Ratios are of p95s of one round, their geometric mean and its interval; below 1 the choice is\n"
        "faster. The smallest: fewest workers, then threads, of those that the tuner itself would call as good as the best.\n\n"
        f"{left}| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n{rows}\n{said}"
    )


def main() -> int:
    parser = argparse.ArgumentParser("python -m loadtests.tune_proof", description=__doc__)
    parser.add_argument("profile", nargs="*", choices=[*SWEEP, []], help="of loadtests/tune_sweep.yml")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    docker.client()
    wanted = options.profile or [name for name in SWEEP if not (RESULTS / f"{name}.json").is_file()]
    for name in [] if options.page else wanted:
        prove(name)
        (RESULTS.parent / "tune.md").write_text(page())
    (RESULTS.parent / "tune.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
