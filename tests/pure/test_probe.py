"""What the preflight says of a host, from facts alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_spec = importlib.util.spec_from_file_location("probe", REPOSITORY / "ansible/roles/preflight/files/probe.py")
assert _spec is not None
assert _spec.loader is not None
probe: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(probe)

WANTED = {
    "free_gb": 5,
    "now": 1000.0,
    "skew": 30,
    "ports": [80, 443, 2377, 7946],
    "udp": [443],
    "pools": ["10.202.0.0/16", "10.203.0.0/16"],
    "encrypted": False,
}
FACTS = {
    "id": "debian",
    "version": "12",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "systemd": True,
    "engine": "",
    "free_gb": 20.0,
    "now": 1001.0,
    "listening": {"22": "sshd"},
    "routes": [("192.0.2.0/24", "eth0")],
    "esp": False,
}


def test_a_host_that_nothing_is_wrong_with() -> None:
    assert probe.problems(WANTED, FACTS) == []


@pytest.mark.parametrize(
    ("facts", "wanted", "sentence"),
    [
        ({"id": "fedora", "version": "42", "system": "Fedora 42"}, {}, "runs Fedora 42. Supported: Debian 12 and 13"),
        ({"version": "11", "system": "Debian 11"}, {}, "runs Debian 11."),
        ({"id": "ubuntu", "version": "22.04", "system": "Ubuntu 22.04"}, {}, "runs Ubuntu 22.04."),
        ({"systemd": False}, {}, "is not run by systemd"),
        ({"engine": "20.10.24+dfsg1"}, {}, "has Docker 20.10.24+dfsg1, and 25 or newer is needed"),
        ({"free_gb": 1.26}, {}, "has 1.3 GB free for /var/lib/docker, and 5 are needed"),
        ({"now": 940.0}, {}, "has a clock -60 s off this machine's"),
        ({"listening": {"443": "apache2"}}, {}, "has port 443 taken by apache2. Stop that"),
        ({"listening": {"443/udp": "caddy"}}, {}, "has port 443/udp taken by caddy. Stop that"),
        ({"listening": {"7946": "consul"}}, {}, "has port 7946, which Swarm needs, taken by consul"),
        ({"routes": [("10.0.0.0/8", "eth1")]}, {"pools": ["10.203.0.0/16"]}, "uses 10.0.0.0/8 on eth1, and 10.203"),
        ({}, {"encrypted": True}, "has a kernel without ESP"),
    ],
)
def test_what_stands_in_the_way(facts: dict[str, Any], wanted: dict[str, Any], sentence: str) -> None:
    said = probe.problems({**WANTED, **wanted}, {**FACTS, **facts})
    assert len(said) == 1
    assert said[0].startswith(sentence)


@pytest.mark.parametrize(
    "facts",
    [
        {"id": "debian", "version": "13"},
        {"id": "ubuntu", "version": "24.04"},
        {"engine": "28.2.2"},
        {"listening": {"80": "docker-proxy", "443": "docker-proxy", "2377": "dockerd", "7946": "dockerd"}},
    ],
)
def test_what_does_not(facts: dict[str, Any]) -> None:
    assert probe.problems(WANTED, {**FACTS, **facts}) == []


def test_routes_are_those_of_the_host_itself() -> None:
    table = (
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t014DE70A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t004DE70A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "docker0\t0000CA0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert probe.routes(table) == [("10.231.77.0/24", "eth0")]
