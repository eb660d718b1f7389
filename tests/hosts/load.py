"""Load from hosts of its own, against a site on another: ansible/load.yml, as typed by a user.

Not part of any other run: make test-hosts T=tests/hosts/load.py (six minutes)
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EARLY
from tests.hosts.conftest import BIN, INVENTORY, Fleet
from tests.hosts.test_release import Controller, new_controller, wait_for

pytestmark = pytest.mark.timeout(900)


def inventory(folder: Path, managers: list[str], workers: list[str]) -> Path:
    """That of all machines, with these alone."""
    everything = json.loads(INVENTORY.read_text())
    known = {name: v for group in ("managers", "workers") for name, v in everything[group]["hosts"].items()}
    for group, names in (("managers", managers), ("workers", workers)):
        everything[group]["hosts"] = {name: known[name] for name in names}
    folder.mkdir()
    (folder / "hosts.yml").write_text(json.dumps(everything))
    return folder


def test_two_hosts_load_a_third(bare: Fleet, tmp_path: Path) -> None:
    bare.regroup({name: {} for name in bare.names}, {})  # as JSON
    controller = new_controller(tmp_path / "clone", bare)
    site = inventory(tmp_path / "site", ["host1"], [])
    generators = inventory(tmp_path / "generators", ["host2"], ["host3"])
    said = subprocess.run(
        [BIN / "python", "-m", "stack", "load_key"], cwd=controller.root, capture_output=True, text=True, check=True
    ).stdout
    digest = re.search(r"md5:\S+", said)
    assert digest
    controller.edit("environments/test.yml", "  index: true", f"  index: true\n  timing: {digest[0]}")
    assert play(controller, site, "deploy.yml") == 0

    assert play(controller, generators, "load.yml", "-e", f"load_target=https://{bare.address('host1')}") == 0
    ran = (controller.root / "play.log").read_text()
    address = re.search(r"ssh -L 8089:([0-9.]+):8089 admin@" + re.escape(bare.address("host2")), ran)
    assert address, ran
    ask = bare.host("host2")

    def locust(path: str, *options: str) -> Any:
        return json.loads(ask.check_output(f"curl -fsS {' '.join(options)} http://{address[1]}:8089/{path}"))

    wait_for(lambda: locust("worker-count")["worker_count"] >= 2, 60)
    assert locust("swarm", "-d user_count=20", "-d spawn_rate=20")["success"]
    time.sleep(20)
    live = locust("gatehouse/hops.json")
    ask.check_output(f"curl -fsS -X POST http://{address[1]}:8089/stop")
    print(live["verdict"], live["reasons"], live["busy"], *live["rows"], sep="\n")
    rows = {row["name"]: row for row in live["rows"]}
    assert rows["flask GET /wait"]["app"] >= 100 - EARLY, "the site says where the time goes to whom has the key"
    assert rows["fastapi GET /"]["queue"] is not None
    assert not any(row["failed"] for row in live["rows"])

    assert play(controller, generators, "load.yml", "--tags", "down") == 0
    wait_for(lambda: not ask.check_output("docker ps -q"), 60)


def play(controller: Controller, inventory: Path, *arguments: str) -> int:
    """The exit code; what it said is in play.log."""
    with (controller.root / "play.log").open("w") as log:
        options = {**controller.command(arguments[0]), "stdout": log}
        options["args"] = [BIN / "ansible-playbook", "-i", inventory, *arguments]
        code = subprocess.run(**options, check=False).returncode
    print((controller.root / "play.log").read_text())
    return code
