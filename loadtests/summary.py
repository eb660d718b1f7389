"""The end of a run: no answer is lost, tables say how it went, and its folder keeps it: run.json and report.html.

Exit code of --headless, where environments/slo/ENV.yml has limits: slo.py's; else Locust's own, 1 when a request failed."""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import atexit
import csv
import json
import logging
import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import locust
from locust import events, log
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtests import slo, watch
from loadtests.hops import Capacity
from loadtests.report import page
from loadtests.run import Run
from loadtests.shapes import Knee
from stack.load import Site
from stack.say import console

site = cast(Site, None)
limits: slo.Slo | None = None
"""What is loaded, and what its environment's limits are; locustfile.py sets both."""


# Locust's master gives its workers 0.5 s to report after the end, whatever --stop-timeout allows their users: requests
# that hang would be missing, and a run full of them would pass. Delete this once MasterRunner.quit waits by itself.
@events.init.add_listener
def wait_for_workers(runner: Runner, environment: Environment, **_: Any) -> None:
    if not isinstance(runner, MasterRunner):
        return
    quit_at_once = runner.quit

    def quit_when_reported() -> None:
        runner.stop(send_stop_to_client=False)
        for client in runner.clients.all:
            runner.server.send_to_client(Message("quit", None, client.id))
        deadline = time.monotonic() + environment.stop_timeout + 5
        while runner.user_count and time.monotonic() < deadline:  # 0 with the workers' last reports
            time.sleep(0.1)
        quit_at_once()

    runner.quit = quit_when_reported  # type: ignore[method-assign]


def the_run(environment: Environment | None = None) -> Run:
    """The run as it stands."""
    options = environment and environment.parsed_options
    began = datetime.now(UTC).timestamp() - (watch.clock() - watch.began) if watch.began else time.time()
    asked: dict[str, Any] = {}
    if environment and options:
        shape = environment.shape_class
        asked = {
            "model": options.model,
            "shape": type(shape).__name__ if shape else "Steady",
            "users": options.num_users,
            "target": re.sub(r"//[^/@]*@", "//", environment.host or ""),  # without a password
            **({"knee": shape.found} if isinstance(shape, Knee) and shape.found else {}),
        }
    return Run(
        name=f"{datetime.fromtimestamp(began, UTC):%Y%m%d-%H%M%S}",
        date=datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
        seconds=watch.seconds(),
        asked=asked,
        routes=watch.store.routes,
        series={int(second) - int(watch.began): of for second, of in sorted(watch.store.seconds.items())},
        capacities={name: _capacity(name) for name in site.apps},
        generator=watch.generator,
        settings={name: _settings(name) for name in site.apps},
        versions={
            "gatehouse": os.environ.get("GATEHOUSE_VERSION", "unknown"),
            "locust": locust.__version__,
            "python": platform.python_version(),
        },
        machine={
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "load average": round(os.getloadavg()[0], 1),
        },
    )


def _capacity(name: str) -> Capacity:
    plan = site.apps[name]
    kind, workers = plan.gateway.concurrency, plan.sizing.workers * plan.app.replicas
    slots = {"process": workers, "thread": workers * plan.app.threads}
    return Capacity(kind, workers, slots.get(kind))


def _settings(name: str) -> dict[str, Any]:
    plan = site.apps[name]
    written = plan.app.model_dump(mode="json", exclude={"env", "secrets", "placement", "gateway", "workers"})
    return {"gateway": plan.gateway.name, "workers": plan.sizing.workers, **written}


def judged(run: Run) -> slo.Judgement:
    """By the limits of this environment."""
    return slo.judge(run, limits)


def by_class(environment: Environment) -> list[tuple[str, int, int]]:
    """User class, requests, failed; the last row is their total."""
    classes = watch.store.classes
    rows = [
        (name, *classes.get(name, (0, 0)))
        for name in sorted({c.__name__ for c in environment.user_classes} | set(classes))
    ]
    return [*rows, ("total", sum(sent for _, sent, _ in rows), sum(failed for _, _, failed in rows))]


# Not test_stop: there the master lacks what its workers report last (a quarter of the requests, measured). Added on
# import, so that it runs after the master's own listener, which waits for those reports: `quitting` fires in reverse.
@events.quitting.add_listener
def show(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner) or options is None:
        return
    classes, rows = watch.store.classes, by_class(environment)
    print(f"\n{'requests by user class':40} {'requests':>10} {'failed':>10}")
    for name, sent, failed in rows:
        print(f"{name:40} {sent:10,} {failed:10,}")
    print()
    if not classes:
        if options.headless:
            logging.error("No request was made: nothing is proven.")
            environment.process_exit_code = 1
        return
    run, judgement, folder = keep(environment)
    atexit.register(conclude, run, judgement, folder)
    crashed = bool(environment.runner and environment.runner.exceptions) or log.unhandled_greenlet_exception
    if options.headless and (code := slo.exit_code(run, judgement, crashed)) is not None:
        environment.process_exit_code = code


def keep(environment: Environment) -> tuple[Run, slo.Judgement, str]:
    """Writes the run's folder, whose name is returned as the user knows it."""
    run = the_run(environment)
    judgement = judged(run)
    results = environment.parsed_options.results
    folder = Path(results) / run.name
    folder.mkdir(parents=True, exist_ok=True)
    run.write(folder / "run.json")
    (folder / "report.html").write_text(page(run, judgement))
    with (folder / "user_classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user class", "requests", "failed"), *by_class(environment)])
    (folder / "slo.json").write_text(json.dumps(slo.wire(judgement), indent=1) + "\n")
    return run, judgement, f"{os.environ.get('GATEHOUSE_RESULTS', results)}/{run.name}"


def keep_the_one_before(environment: Environment) -> None:
    """The web UI's next run would forget it."""
    if watch.store.classes and not isinstance(environment.runner, WorkerRunner):
        keep(environment)


watch.before_start.append(keep_the_one_before)


def conclude(run: Run, judgement: slo.Judgement, folder: str) -> None:
    """The last lines, below Locust's own tables."""
    for app, busy in run.busy.items():
        print(f"{app}: {busy.sentence}")
    if knee := run.asked.get("knee"):
        print(f"Knee: {knee}")
    print("\n".join([f"Generator: {run.verdict.word}", *(f"  {reason}" for reason in run.verdict.reasons)]))
    slo.table(judgement, console)
    print(f"{folder}/report.html")
