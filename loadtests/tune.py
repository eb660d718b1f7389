"""`make tune` and `make capacity`: which gateway, workers and threads carry an app's own requests best on what it may use; and
how much it carries as it is set.

    make tune APP=shop           [APPLY=1] [MIX=apps/shop/mix.yml, or recorded] [RATE=40] [P95=300] [SECONDS=5]
    make capacity APP=shop       [MIX=... P95=... SECONDS=...]

Configurations run beside the stack (loadtests/beside.py) and are asked in turns, in the open model; which is chosen, and why:
loadtests/tuner.py. Writes build/tune/APP/: tune.json (every visit) and tune.html; capacity.json. Exit codes:

    0    done; nothing is changed unless APPLY=1
    1    it could not be done; 2: something is written wrongly
    3    no configuration meets the limit
    4    nothing is known: the load generator was late
    130  interrupted
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.markup import escape

from loadtests import kernel, machine, mix, slo, tune_page, tuner
from loadtests.beside import Beside, DidNotStart, beside
from loadtests.tuner import Candidate, Character, Decision, Visit
from stack import docker, gateways, limits, process, sizing
from stack.compose import Compose
from stack.errors import Failed
from stack.load import AppPlan, Site, load_site
from stack.model import App, size_bytes
from stack.rewrite import diff, rewrite
from stack.say import console, ended, errors, say

REPOSITORY = Path(__file__).resolve().parent.parent
WARMUP = 1.5
"""s of each visit that do not count."""
PER_CORE = 150.0
"""Requests a second that the generator asks for at most, for each of this machine's cores: the app needs them, too."""
STEPS = 7
"""Rates that are tried until it is known how much a configuration carries."""
P95 = 1000.0
"""ms. Where no limit is written."""
RECORDED = "recorded"
"""Instead of a mix file: what clients asked of the edge."""


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Measures candidates that run."""

    stand: Beside
    requests: Sequence[mix.Request]
    limit: float
    """ms of p95 that are to be met."""

    @property
    def patience(self) -> float:
        """s for an answer: what takes three times the limit has failed, and more would only take time."""
        return min(max(3 * self.limit / 1000, 2.0), 30.0)

    def visit(self, number: int, c: Candidate, rate: float, seconds: float) -> Visit:
        """One visit in the open model. Requests and their times are those of the round: a queue at 60 % of its rate differs more
        between two draws of arrivals than between two configurations."""
        load = self.stand.load(c, self.requests, self.patience)
        started, busy, before = time.monotonic(), machine.ticks(), self.stand.cpu(c)
        asyncio.run(load.open(rate, WARMUP, seconds, seed=number))
        took, busy_part = time.monotonic() - started, machine.share(busy, machine.ticks()) or 0.0
        try:
            used, memory = self.stand.cpu(c) - before, self.stand.memory(c)
        except Failed:
            used = memory = 0.0
            load.failures["the container ended"] += 1
        if load.failures:
            self.stand.restart(c)
        return Visit(
            number, c, rate, seconds, len(load.totals), load.failures.total(),
            p50=load.percentile("total", 50), p95=load.percentile("total", 95),
            queue=load.percentile("queue", 95), nginx=load.percentile("nginx", 95), app=load.app,
            cpu=used / max(load.sent, 1) * 1000, cpus=used / took, machine=busy_part,
            memory=memory, lag=load.percentile("lag", 99), failures=dict(load.failures),
        )  # fmt: skip

    def character(self, c: Candidate) -> tuple[Character, float]:
        """What one request is to the app, and the s of CPU time that Nginx takes for it. Raises Failed where one fails."""
        stand, idle, quiet = self.stand, self.stand.cpu(c), 1.5
        time.sleep(quiet)
        idle = (stand.cpu(c) - idle) / quiet
        asyncio.run((warm := stand.load(c, self.requests, 30.0)).one_by_one(1.0, 0))
        load = stand.load(c, self.requests, 30.0)
        started, used, edge = time.monotonic(), stand.cpu(c), stand.cpu(None)
        if not warm.failures:
            asyncio.run(load.one_by_one(5.0, 1))
        if failures := [*warm.failures, *load.failures]:
            raise Failed(f"{stand.plan.name} fails before there is any load: {failures[0]}")
        took = time.monotonic() - started
        used = max(stand.cpu(c) - used - idle * took, 0.0)
        memory = stand.parts(c)
        worker = memory["worker"]
        parent = max(memory["total"] - worker * c.workers, 0.0)
        each = max(load.sent, 1)
        return Character(load.app / 1000, used / each, worker, parent), (stand.cpu(None) - edge) / each

    def bearable(self, c: Candidate, rate: float) -> float:
        """The rate, or so many halves of it that the generator is on time."""
        for _ in range(4):
            if (v := self.visit(0, c, rate, 4.0)).valid:
                break
            say.line(
                f"at {rate:.0f} requests a second the load generator is {v.lag:.0f} ms late: {rate / 2:.0f} are asked for"
            )
            rate /= 2
        return rate

    def capacity(self, c: Candidate, first: float, cap: float, seconds: float) -> list[Visit]:
        """Visits at higher and lower rates, until the highest that meets the limit is known."""
        visits: list[Visit] = []
        tried: dict[float, bool] = {}
        while len(visits) < STEPS and (rate := tuner.next_rate(tried, first, cap)):
            visits.append(self.visit(0, c, rate, seconds))
            tried[rate] = visits[-1].valid and visits[-1].meets(self.limit)
        return visits


def carried(visits: Sequence[Visit], limit: float) -> tuple[float, bool]:
    """Requests a second that met the limit; and whether there is no telling what more would have done."""
    most = highest(visits, limit)
    missed = min((v for v in visits if v.rate > most), key=lambda v: v.rate, default=None)
    return most, missed is None or not missed.valid


def told(visits: Sequence[Visit], limit: float) -> str:
    most, more = carried(visits, limit)
    return f"carries {'at least ' * more}{most:.0f} requests a second with p95 <= {limit:g} ms"


def highest(visits: Sequence[Visit], limit: float) -> float:
    """Requests a second that met the limit."""
    return tuner.highest({v.rate: v.valid and v.meets(limit) for v in visits})


# --- what is asked, and of what ---------------------------------------------------------------------------------------


def requests_of(site: Site, plan: AppPlan, given: str | None) -> tuple[list[mix.Request], str]:
    """What to ask, and where that is from: a file, the edge's log (`recorded`), or / alone."""
    own = plan.folder / "mix.yml"
    if given != RECORDED and (given or own.is_file()):
        file = Path(given).resolve() if given else own
        if not file.is_file():
            raise Failed(f"MIX={given}: no such file. Give one (its form: docs/tune.md), or MIX={RECORDED}")
        return mix.read(file, site.root), str(file.relative_to(site.root) if file.is_relative_to(site.root) else file)
    stack = Compose(site)
    edges = [c.id for c in stack.containers() if c.service == "edge"]
    if found := mix.recorded((line for edge in edges for line in stack.log(edge, 20000)), plan):
        return found, f"what the edge's log has: {len(found)} kinds of GET"
    few = f"the edge's log has fewer than {mix.LEAST} answered GETs of {plan.name}, and apps/{plan.name}/mix.yml"
    if given:
        raise Failed(f"{few} is not asked for. Use the app for a while, or write that file (its form: docs/tune.md)")
    return [mix.Request(path="/")], f"GET / alone: {few} is not there"


def current_of(plan: AppPlan) -> Candidate:
    return tuner.candidate(plan.gateway.name, plan.sizing.workers, plan.app.threads)


def allowed(plan: AppPlan) -> list[str]:
    """Gateways that this app may be tried on: those that take all its settings, and of its own Dockerfile's image those in it."""
    own = (plan.folder / "Dockerfile").is_file()
    return [
        g.name
        for g in gateways.GATEWAYS.values()
        if _takes(g.name, plan.app) and not (own and g.files != plan.gateway.files)
    ]


def _takes(gateway: str, app: App) -> bool:
    try:
        App.model_validate({**app.model_dump(exclude_unset=True), "gateway": gateway})
    except ValidationError:
        return False
    return True


def limit_of(site: Site, given: float | None) -> tuple[float, str]:
    """ms of p95 that are to be met, and where that stands."""
    if given:
        return given, f"P95={given:g}"
    written = slo.load(site.root, site.env)
    if written and (found := written.total.get("p95")):
        return found, f"environments/slo/{site.env}.yml"
    return P95, "the default"


def bring(stand: Beside, among: list[Candidate], current: Candidate) -> list[Candidate]:
    """Has them run; returns those that do. Raises Failed where the current one does not."""
    while True:
        try:
            stand.bring(among)
        except DidNotStart as failure:
            if failure.candidate == current:
                raise
            say.line(f"{failure.candidate} does not start, and is not tried: {failure}")
            among = [c for c in among if c != failure.candidate]
        else:
            return among


def tune(site: Site, plan: AppPlan, options: argparse.Namespace) -> int:
    current, (limit, whence) = current_of(plan), limit_of(site, options.p95)
    requests, source = requests_of(site, plan, options.mix)
    memory, app = size_bytes(plan.app.memory) / kernel.MIB, plan.app
    say.line(f"{plan.name} is now {current}; cpus {app.cpus:g}, memory {app.memory}")
    say.line(f"asked: {source}")
    with beside(site, plan) as stand:
        stand.bring([current])
        bench = Bench(stand, requests, limit)
        of, edge = bench.character(current)
        say.line(
            f"a request: {of.service * 1000:.1f} ms in the app, {of.cpu * 1000:.2f} ms of CPU; a worker: {of.worker:.0f} MiB"
        )
        say.line(tuner.advice(of))
        if of.fit(memory) < 1:
            raise Failed(
                f"apps/{plan.name}/app.yml: memory: {app.memory} is too little for one worker: it holds {of.worker:.0f} MiB, the rest of the container {of.parent:.0f} MiB, and {1 - sizing.MEMORY_SHARE:.0%} are to be spare. Set at least {math.ceil((of.worker + of.parent) / sizing.MEMORY_SHARE)}M"
            )
        cap = PER_CORE * (os.cpu_count() or 1)
        rate = min(options.rate or cap, tuner.fair_rate(of, app.cpus, cap))
        if options.rate and rate < options.rate:
            say.line(
                f"{options.rate:g} requests a second are more than {app.cpus:g} cpus or this machine can be asked for"
            )
        rate = bench.bearable(current, rate)
        among = tuner.candidates(current, of, app.cpus, memory, rate, allowed(plan))
        length = options.seconds or tuner.visit_seconds(rate)
        say.line(
            f"{len(among)} configurations at {rate:.0f} requests a second, p95 <= {limit:g} ms ({whence}), {length:.0f} s a visit"
        )
        among = bring(stand, among, current)

        def visit(number: int, c: Candidate, seconds: float) -> Visit:
            v = bench.visit(number, c, rate, seconds)
            trouble = "" if v.valid else f"; INVALID: the generator was {v.lag:.0f} ms late"
            trouble += f"; {v.failed} of {v.requests} failed" if v.failed else ""
            say.line(f"  {c!s:<42} p95 {v.p95:6.0f} ms, queue {max(v.queue, 0):5.0f} ms, {v.memory:4.0f} MiB{trouble}")
            return v

        visits = tuner.search(visit, among, current, limit, length, say.line)
        decision = tuner.decide(visits, among, current, limit)
        rule = next((c for c in among if c == tuner.control(app.interface, app.cpus)), None)
        most: dict[Candidate, list[Visit]] = {}
        if decision.choice:
            for c in dict.fromkeys([decision.choice, *([rule] if rule else [])]):
                expected = 0.9 * min(tuner.ceilings(of, c.slots, app.cpus, os.cpu_count() or 1, edge, cap).values())
                say.line(f"how much does {c} carry?")
                most[c] = bench.capacity(c, expected, 2 * cap, min(length, 5.0))
    raw = {
        **facts(plan, source, requests, limit), "rate": rate, "character": asdict(of) | {"waits": of.waits, "edge": edge},
        "current": asdict(current), "control": asdict(rule) if rule else None, "candidates": [asdict(c) for c in among],
        "choice": asdict(decision.choice) if decision.choice else None, "changes": decision.changes, "sentence": decision.sentence,
        "advice": tuner.advice(of), "visits": [asdict(v) for v in visits],
        "capacity": [{"candidate": asdict(c), **dict(zip(("rate", "at_least"), carried(found, limit), strict=True)), "visits": [asdict(v) for v in found]} for c, found in most.items()],
    }  # fmt: skip
    keep(site, plan, raw)
    return conclude(site, plan, options.apply, decision, visits, rule, most, limit, of)


def settings(choice: Candidate, of: Character, app: App) -> dict[str, str | int | float]:
    """What app.yml is to say, in its order."""
    values: dict[str, str | int | float] = {"gateway": choice.gateway, "workers": choice.workers}
    if tuner.threaded(choice.gateway):
        values["threads"] = choice.threads
    if choice.workers * size_bytes(app.worker_memory) > sizing.MEMORY_SHARE * size_bytes(app.memory):
        values["worker_memory"] = f"{math.ceil(of.worker)}M"  # so many fit, as measured
    return values | {"waits": round(min(of.waits, 0.99), 2)}


def conclude(
    site: Site, plan: AppPlan, apply: bool, decision: Decision, visits: Sequence[Visit], rule: Candidate | None,
    most: Mapping[Candidate, Sequence[Visit]], limit: float, of: Character,
) -> int:  # fmt: skip
    """Says what came of it, and writes it where that is asked; the exit code."""
    late = sum(not v.valid for v in visits)
    if late:
        say.line(
            f"{late} of {len(visits)} visits were INVALID, because the load generator was late, and were not counted"
        )
    if decision.choice is None:
        errors.print(f"[red]error:[/] {escape(decision.sentence)}")
        say.line("nothing was changed")
        return slo.MISSED if decision.known else slo.INVALID
    console.print(f"[bold]{escape(decision.sentence)}[/]")
    for c, found in most.items():
        word = f"the rule of thumb, {c}," if c == rule and c != decision.choice else str(c)
        say.line(f"{word} {told(found, limit)}")
    if rule and rule != decision.choice and (against := tuner.ratio(visits, decision.choice, rule)):
        say.line(f"its p95 is {against} that of the rule of thumb at the same rate")
    if not decision.changes:
        say.line("nothing was changed")
        return 0
    values, name = settings(decision.choice, of, plan.app), f"apps/{plan.name}/app.yml"
    file = plan.folder / "app.yml"
    before = file.read_text("utf-8")
    try:
        after = rewrite(before, values, behind=("workers", "gateway", "entry"))
    except Failed as failure:
        wanted = ", ".join(f"{key}: {value}" for key, value in values.items())
        raise Failed(f"{name}: {failure}. Nothing was changed; write there: {wanted}") from None
    for line in diff(before, after, name):
        console.print(line, markup=False)
    if hidden := [key for key in values if plan.origins.get(key, name) != name]:
        say.line(
            f"environments/{site.env}.yml sets {', '.join(hidden)} of this app and wins over app.yml: change it there"
        )
        return int(apply)
    if apply:
        file.write_text(after, "utf-8")
        say.line(f"{name} is written. Type: make up")
    else:
        say.line(f"nothing was changed. To write this: make tune APP={plan.name} APPLY=1")
    return 0


def capacity(site: Site, plan: AppPlan, options: argparse.Namespace) -> int:
    """What the app carries as it is set now, and what is in the way of more."""
    current, (limit, whence) = current_of(plan), limit_of(site, options.p95)
    requests, source = requests_of(site, plan, options.mix)
    app, memory = plan.app, size_bytes(plan.app.memory) / kernel.MIB
    cores, cap = os.cpu_count() or 1, 2 * PER_CORE * (os.cpu_count() or 1)
    say.line(
        f"{plan.name}: {current}, {app.replicas} x cpus {app.cpus:g}, memory {app.memory}; p95 <= {limit:g} ms ({whence})"
    )
    say.line(f"asked: {source}")
    grown: dict[int, list[Visit]] = {}
    with beside(site, plan) as stand:
        bench = Bench(stand, requests, limit)
        for replicas in dict.fromkeys((app.replicas, 2 * app.replicas)):
            stand.bring([current], replicas)
            if not grown:
                of, edge = bench.character(current)
            first = highest(grown[app.replicas], limit) if grown else tuner.fair_rate(of, replicas * app.cpus, cap / 2)
            length = options.seconds or tuner.visit_seconds(first or 1)
            grown[replicas] = bench.capacity(current, first or 1, cap, length)
            for v in grown[replicas]:
                say.line(
                    f"  {replicas} replica{'s' * (replicas > 1)} at {v.rate:6.1f}/s: p95 {v.p95:6.0f} ms{'' if v.meets(limit) and v.valid else ' (missed)'}"
                )
    visits, slots = grown[app.replicas], current.slots and current.slots * app.replicas
    missed = min((v for v in visits if not (v.valid and v.meets(limit))), key=lambda v: v.rate, default=None)
    found, cpus = highest(visits, limit), app.replicas * app.cpus
    most = tuner.ceilings(of, slots, min(cpus, cores), cores, edge, cap)
    why = (
        tuner.broke(missed, slots, min(cpus, cores), memory)
        if missed
        else f"the client: more than {cap:g}/s is not asked here"
    )
    keep(site, plan, {
        **facts(plan, source, requests, limit), "character": asdict(of) | {"waits": of.waits, "edge": edge}, "current": asdict(current),
        "capacity": found, "breaks": why, "ceilings": most,
        "replicas": {str(n): {"rate": highest(v, limit), "visits": [asdict(each) for each in v]} for n, v in grown.items()},
    }, "capacity")  # fmt: skip
    if not any(v.valid for v in visits):
        errors.print("[red]error:[/] nothing is known: the load generator was late in every visit")
        return slo.INVALID
    if not found:
        errors.print(f"[red]error:[/] p95 <= {limit:g} ms is not met at any rate: {escape(why)}")
        return slo.MISSED
    console.print(f"[bold]{plan.name} {told(visits, limit)}[/]")
    say.line(f"first in the way: {why}")
    say.line(
        f"by what a request takes, each part is busy all the time at: {', '.join(f'{name} {rate:,.0f}/s' for name, rate in most.items())}"
    )
    for replicas, more in list(grown.items())[1:]:
        say.line(
            f"{replicas} replicas carry {highest(more, limit) / found:.1f} times as much on this machine of {cores} cores"
        )
    return 0


def facts(plan: AppPlan, source: str, requests: Sequence[mix.Request], limit: float) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "app": plan.name,
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, load average {os.getloadavg()[0]:.1f}",
        "cpus": plan.app.cpus, "memory": plan.app.memory, "p95": limit, "asked": source,
        "requests": [r.model_dump() for r in requests],
        "in_flight": limits.in_flight(plan.app, plan.sizing.workers).number,
    }  # fmt: skip


def keep(site: Site, plan: AppPlan, raw: dict[str, Any], name: str = "tune") -> None:
    folder = site.root / "build/tune" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n")
    if name == "tune":
        (folder / "tune.html").write_text(tune_page.page(raw), "utf-8")
        say.line(f"build/tune/{plan.name}/tune.html, tune.json: every visit")


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: should be above 0")
    return number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtests.tune", description="Measures an app's best gateway, workers and threads."
    )
    parser.add_argument("app", help="a folder of apps/")
    parser.add_argument("--root", type=Path, default=os.environ.get("GATEHOUSE_ROOT") or REPOSITORY)
    parser.add_argument("--env", default=os.environ.get("GATEHOUSE_ENV") or "local")
    parser.add_argument("--apply", action="store_true", help="write what is chosen into app.yml")
    parser.add_argument("--capacity", action="store_true", help="only what it carries as it is set now")
    parser.add_argument("--mix", help=f"file with what to ask, or {RECORDED}: what the edge's log has")
    parser.add_argument("--rate", type=positive, help="requests a second to tune for")
    parser.add_argument("--p95", type=positive, help="ms that p95 may be at most")
    parser.add_argument("--seconds", type=positive, help="of a visit")
    return ended(lambda: run(parser.parse_args(arguments)))


def run(options: argparse.Namespace) -> int:
    site = load_site(Path(options.root).resolve(), options.env)
    if site.environment.engine != "compose" or process.running(site.root) is not None:
        raise Failed(
            "this is measured in containers on this machine: it wants Docker, and an environment with engine: compose"
        )
    if options.app not in site.apps:
        raise Failed(f"no app {options.app!r} here. Allowed: {', '.join(site.apps)}")
    docker.client()
    return (capacity if options.capacity else tune)(site, site.apps[options.app], options)


if __name__ == "__main__":
    sys.exit(main())
