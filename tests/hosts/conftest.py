"""Bare machines, and the playbooks run on them over SSH as a user's shell would.

Not part of `make test`, because they take minutes: `make test-hosts`, or pytest with this folder named.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HOSTS = REPOSITORY / "tests/hosts/hosts.sh"
INVENTORY = REPOSITORY / "ansible/inventory/test/hosts.yml"
KEYS = REPOSITORY / ".local/hosts"
BIN = Path(sys.executable).parent
KEPT = bool(os.environ.get("HOSTS_KEEP"))
"""Leave the machines running at the end, and take those that run: for working on one test of provisioned machines."""


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if any("tests/hosts" in argument for argument in config.args) else True


@dataclass
class Run:
    """What a playbook did."""

    code: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """Changed tasks of each host, from the recap."""
        return {host: int(n) for host, n in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE)}


class Fleet:
    """The machines host1..hostN."""

    def __init__(self, size: int) -> None:
        self.names = [f"host{n}" for n in range(1, size + 1)]
        if not (KEPT and INVENTORY.exists()):
            subprocess.run([HOSTS, "up", str(size)], check=True)

    def host(self, name: str) -> Any:
        """The machine, asked over SSH as root: testinfra's Host."""
        import testinfra  # in requirements/deploy-tests.txt

        return testinfra.get_host(
            f"ssh://admin@{self.address(name)}",
            ssh_identity_file=str(KEYS / "key"),
            ssh_extra_args=f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={KEYS}/known_hosts "
            f"-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={KEYS}/%h",
            sudo=True,
        )

    def address(self, name: str) -> str:
        return f"{os.environ.get('HOSTS_SUBNET', '10.231.77')}.{10 + int(name.removeprefix('host'))}"

    def do(self, verb: str, name: str) -> None:
        """stop, start, cut or join a machine."""
        subprocess.run([HOSTS, verb, name], check=True)

    def regroup(self, managers: dict[str, dict[str, str]], workers: dict[str, dict[str, str]]) -> None:
        """Writes the inventory anew: these hosts as managers, those as workers, each with these variables on top."""
        inventory = YAML(typ="safe").load(INVENTORY)
        known = {name: v for group in ("managers", "workers") for name, v in inventory[group]["hosts"].items()}
        for group, hosts in (("managers", managers), ("workers", workers)):
            inventory[group]["hosts"] = {
                name: {"ansible_host": known[name]["ansible_host"], **more} for name, more in hosts.items()
            }
        INVENTORY.write_text(json.dumps(inventory, indent=2))

    def play(self, *arguments: str) -> Run:
        """`ansible-playbook -i inventory/test arguments...`, typed in ansible/."""
        done = subprocess.run(
            [BIN / "ansible-playbook", "-i", "inventory/test", *arguments],
            cwd=REPOSITORY / "ansible",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "1000"},
        )
        print(done.stdout)
        return Run(done.returncode, done.stdout)


@pytest.fixture(scope="session")
def bare() -> Iterator[Fleet]:
    """Three machines that nothing has been done to."""
    yield Fleet(3)
    if not KEPT:
        subprocess.run([HOSTS, "down"], check=True)


@pytest.fixture(scope="session")
def fleet(bare: Fleet) -> Fleet:
    """Three provisioned machines, one Swarm."""
    run = bare.play("provision.yml")
    assert run.code == 0, run.output
    return bare
