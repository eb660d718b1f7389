"""The end of a run: no answer is lost, and a table shows the requests by user class (with --csv also as a file)."""

# Locust's event hooks have no types.
# mypy: allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import csv
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, Runner, WorkerRunner

requests: Counter[str] = Counter()
failures: Counter[str] = Counter()


# In a worker process the counters hold what the master has not heard yet, in the master or a lone process everything.
@events.request.add_listener
def count(request_type: str, context: dict[str, str], exception: Exception | None, **_: Any) -> None:
    if request_type != "SSE":  # parts of a GET, which is counted when it is complete
        requests[context["user_class"]] += 1
        failures[context["user_class"]] += exception is not None


@events.report_to_master.add_listener
def ship(data: dict[str, Any], **_: Any) -> None:
    data["requests_by_class"], data["failures_by_class"] = dict(requests), dict(failures)
    reset()


@events.worker_report.add_listener
def receive(data: dict[str, Any], **_: Any) -> None:
    requests.update(data.get("requests_by_class", {}))
    failures.update(data.get("failures_by_class", {}))


@events.test_start.add_listener
@events.reset_stats.add_listener
def reset(**_: Any) -> None:
    requests.clear()
    failures.clear()


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


# Not test_stop: there the master lacks what its workers report last (a quarter of the requests, measured). Added on
# import, so that it runs after the master's own listener, which waits for those reports: `quitting` fires in reverse.
@events.quitting.add_listener
def show(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner) or options is None:
        return
    rows = [(name, requests[name], failures[name]) for name in sorted(c.__name__ for c in environment.user_classes)]
    rows.append(("total", requests.total(), failures.total()))
    print(f"\n{'requests by user class':40} {'requests':>10} {'failed':>10}")
    for name, sent, failed in rows:
        print(f"{name:40} {sent:10,} {failed:10,}")
    print()
    if options.csv_prefix:
        with Path(f"{options.csv_prefix}_user_classes.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("user class", "requests", "failed"), *rows])
    if options.headless and not requests:
        logging.error("No request was made: nothing is proven.")
        environment.process_exit_code = 1
