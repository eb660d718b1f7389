"""The load generator against the real chain, from inside its network."""

from __future__ import annotations

import csv

from stack import docker
from tests.conftest import REPOSITORY, Chain, pause


def test_a_headless_run_drives_every_user_class_without_a_failure(chain: Chain) -> None:
    chain.checkout.run("load", "--headless", "--users", "14", "--rate", "14", "--time", "8s")
    with (REPOSITORY / "build/load/stats_user_classes.csv").open() as file:
        rows = {row["user class"]: row for row in csv.DictReader(file)}
    for name, plan in chain.apps.items():
        kinds = ["User", "StreamUser", "LongPollUser"] + (["WebSocketUser"] if plan.app.interface == "asgi" else [])
        for kind in kinds if plan.app.contract == "full" else ["HealthUser"]:
            assert int(rows[f"{''.join(word.capitalize() for word in name.split('-'))}{kind}"]["requests"]) > 0, kind
    assert rows["total"]["failed"] == "0"


def test_a_run_with_failures_does_not_exit_0(chain: Chain) -> None:
    container = f"gatehouse-test-{next(iter(chain.apps))}-1"
    pause(container)
    try:
        done = chain.checkout.run("load", "--headless", "--users", "7", "--rate", "7", "--time", "4s", check=False)
    finally:
        docker.run("unpause", container)
    assert done.returncode == 1, done.stdout
