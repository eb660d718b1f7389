"""provision.yml on three bare machines: what stops it, what it promises, and that it changes nothing twice.

The order is the story: what is tested on bare machines stands before the first test that asks for `fleet`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts.conftest import Fleet

pytestmark = pytest.mark.timeout(900)

THREE = pytest.mark.parametrize("name", ["host1", "host2", "host3"])


# --- bare machines --------------------------------------------------------------------------------------------------


def refused(fleet: Fleet, sentence: str, *arguments: str) -> None:
    """The run ends before anything is changed, and says why in one sentence."""
    run = fleet.play("provision.yml", *arguments)
    assert run.code != 0
    assert sentence in " ".join(run.output.split())
    assert set(run.changed.values()) == {0}


def test_an_even_number_of_managers_is_refused(bare: Fleet) -> None:
    refused(
        bare,
        "The inventory has 2 managers: make it 1, 3",
        "-e",
        '{"swarm_wanted": ["host1", "host2"]}',
    )


def test_a_mistake_in_the_site_is_refused(bare: Fleet) -> None:
    refused(bare, "environments/elsewhere.yml", "-e", "gatehouse_env=elsewhere")


def test_a_host_out_of_reach_is_named(bare: Fleet) -> None:
    bare.do("cut", "host3")
    try:
        refused(bare, "or go on without it: --limit 'all:!host3'")
    finally:
        bare.do("join", "host3")


def test_everything_that_stands_in_the_way_is_said_at_once(bare: Fleet) -> None:
    host = bare.host("host2")
    host.check_output("systemd-run --unit taken python3 -m http.server 443")
    try:
        run = bare.play("provision.yml", "-e", "preflight_free_gb=100000 swarm_address_pool=10.231.0.0/16")
    finally:
        host.check_output("systemctl stop taken")
    said = " ".join(run.output.split())
    assert run.code != 0
    assert "host2: has port 443 taken by python3. Stop that, or choose another port" in said
    assert "100000 are needed" in said
    assert "host1: uses 10.231.77.0/24 on eth0, and 10.231.0.0/16" in said
    assert "host1: has port" not in said
    assert set(run.changed.values()) == {0}


@pytest.mark.long
def test_check_mode_on_bare_machines_changes_nothing(bare: Fleet) -> None:
    run = bare.play("provision.yml", "--check", "--diff")
    assert run.code == 0, run.output
    assert "no-new-privileges" in run.output
    assert not bare.host("host1").exists("docker")
    assert not bare.host("host1").file("/etc/docker").exists


# --- provisioned ones -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probe(fleet: Fleet) -> Fleet:
    """The fleet, with an image `probe` on every host: the host's own Python."""
    for name in fleet.names:
        fleet.host(name).check_output(
            "tar -C / -c bin lib lib64 etc/hostname usr/bin usr/lib/python3.11 usr/lib/x86_64-linux-gnu usr/lib64 | docker import - probe"
        )
    return fleet


def docker(fleet: Fleet, name: str, *arguments: str) -> Any:
    return json.loads(fleet.host(name).check_output(f"docker {' '.join(arguments)} --format json"))


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    run = fleet.play("provision.yml")
    assert run.code == 0, run.output
    assert run.changed == {"host1": 0, "host2": 0, "host3": 0}


@pytest.mark.long
def test_check_mode_agrees(fleet: Fleet) -> None:
    run = fleet.play("provision.yml", "--check", "--diff")
    assert run.code == 0, run.output
    assert run.changed == {"host1": 0, "host2": 0, "host3": 0}


@THREE
def test_the_engine_runs_and_starts_at_boot(fleet: Fleet, name: str) -> None:
    host = fleet.host(name)
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled
    assert int(docker(fleet, name, "version")["Server"]["Version"].split(".")[0]) >= 25


@THREE
def test_nothing_else_of_debian_13_came_in(fleet: Fleet, name: str) -> None:
    host = fleet.host(name)
    assert host.package("libc6").version.startswith("2.36")
    assert "deb12" in host.package("runc").version


@THREE
def test_the_daemons_settings_are_in_force(probe: Fleet, name: str) -> None:
    host = probe.host(name)
    info = docker(probe, name, "info")
    assert "name=no-new-privileges" in info["SecurityOptions"]
    assert info["DefaultAddressPools"] == [{"Base": "10.202.0.0/16", "Size": 24}]
    # A container that says nothing itself: its logs are bounded, and its processes gain no privileges.
    status = host.check_output("docker run --name probe probe python3 -c 'print(open(\"/proc/self/status\").read())'")
    logs = json.loads(host.check_output("docker inspect probe --format '{{json .HostConfig.LogConfig}}'"))
    host.check_output("docker rm probe")
    assert "NoNewPrivs:\t1" in status
    assert logs == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}


def test_containers_of_different_hosts_reach_each_other(probe: Fleet) -> None:
    host1, host2 = probe.host("host1"), probe.host("host2")
    host1.check_output("docker network create --driver overlay --attachable probe")
    host2.check_output("docker run --detach --name answers --network probe probe python3 -m http.server")
    try:
        said = host1.check_output(
            "docker run --rm --network probe probe python3 -c "
            "'import urllib.request as u; print(u.urlopen(\"http://answers:8000/etc/hostname\", timeout=20).read())'"
        )
        address = host2.check_output("docker inspect answers --format '{{.NetworkSettings.Networks.probe.IPAddress}}'")
    finally:
        host2.check_output("docker rm --force answers")
        host1.check_output("docker network rm probe")
    assert said
    assert address.startswith("10.203.")


@THREE
def test_the_kernels_settings_are_in_force(fleet: Fleet, name: str) -> None:
    assert fleet.host(name).sysctl("net.ipv4.ip_nonlocal_bind") == 1


@THREE
def test_a_time_service_starts_at_boot(fleet: Fleet, name: str) -> None:
    assert fleet.host(name).service("systemd-timesyncd").is_enabled


def nodes(fleet: Fleet, name: str = "host1") -> dict[str, Any]:
    """The Swarm's nodes by the inventory's names, as this machine sees them."""
    said = fleet.host(name).check_output("docker node inspect $(docker node ls --quiet) --format json")
    found = json.loads(said) if said.startswith("[") else [json.loads(line) for line in said.splitlines()]
    return {node["Spec"]["Labels"].get("gatehouse.host", "?"): node for node in found}


@THREE
def test_every_host_is_a_manager_of_one_swarm(fleet: Fleet, name: str) -> None:
    seen = nodes(fleet, name)
    assert {n: node["Spec"]["Role"] for n, node in seen.items()} == dict.fromkeys(fleet.names, "manager")
    assert all(node["Status"]["State"] == "ready" for node in seen.values())
    assert {n: node["ManagerStatus"]["Addr"] for n, node in seen.items()} == {
        n: f"{fleet.address(n)}:2377" for n in fleet.names
    }
    assert docker(fleet, name, "info")["Swarm"]["Cluster"]["DefaultAddrPool"] == ["10.203.0.0/16"]


def test_limit_labels_and_draining(fleet: Fleet) -> None:
    only = ("provision.yml", "--limit", "host2", "--tags", "swarm")
    run = fleet.play(*only, "-e", '{"swarm_labels": {"disk": "ssd"}, "swarm_member": "drained"}')
    assert run.changed == {"host2": 1}, run.output
    host2 = nodes(fleet)["host2"]["Spec"]
    assert host2["Labels"] == {"gatehouse.host": "host2", "disk": "ssd"}
    assert host2["Availability"] == "drain"
    run = fleet.play(*only)
    assert run.changed == {"host2": 1}, run.output
    host2 = nodes(fleet)["host2"]["Spec"]
    assert host2["Labels"] == {"gatehouse.host": "host2"}
    assert host2["Availability"] == "active"


@pytest.mark.long
def test_changed_daemon_settings_restart_one_engine_after_the_other(fleet: Fleet) -> None:
    two = ["host2", "host3"]
    limit = ("provision.yml", "--limit", ",".join(two))
    run = fleet.play(*limit, "-e", '{"host_engine_settings": {"max-concurrent-downloads": 4}}')
    assert run.code == 0, run.output
    assert run.changed == dict.fromkeys(two, 2)  # written, restarted
    since = [float(fleet.host(n).check_output("stat -c %.3Y /run/docker.pid")) for n in two]
    assert since[0] < since[1]
    assert fleet.play(*limit).code == 0


@pytest.mark.long
def test_managers_become_workers_and_a_dead_host_is_taken_out(fleet: Fleet) -> None:
    everything: dict[str, dict[str, str]] = {name: {} for name in fleet.names}
    swarm = ("provision.yml", "--tags", "preflight,swarm")
    try:
        fleet.regroup({"host1": {}}, {"host2": {}, "host3": {}})
        assert fleet.play(*swarm).changed == {"host1": 0, "host2": 1, "host3": 1}
        assert {n: node["Spec"]["Role"] for n, node in nodes(fleet).items()} == {
            "host1": "manager",
            "host2": "worker",
            "host3": "worker",
        }
        fleet.do("stop", "host3")
        fleet.regroup({"host1": {}}, {"host2": {}, "host3": {"swarm_member": "removed"}})
        assert fleet.play(*swarm).code == 0
        assert set(nodes(fleet)) == {"host1", "host2"}
        assert set(fleet.play(*swarm).changed.values()) == {0}
        fleet.do("start", "host3")
        fleet.regroup(everything, {})
        run = fleet.play(*swarm)
        assert run.code != 0
        assert "host3: belongs to another Swarm than host1, or was taken out while it was down" in " ".join(
            run.output.split()
        )
    finally:
        fleet.do("start", "host3")
        fleet.regroup(everything, {})
        fleet.host("host3").check_output("docker swarm leave --force")
        assert fleet.play(*swarm).code == 0
    assert set(nodes(fleet, "host3")) == set(fleet.names)


@pytest.mark.long
def test_without_a_manager_that_is_down(fleet: Fleet) -> None:
    fleet.do("stop", "host1")
    try:
        run = fleet.play("provision.yml", "--limit", "all:!host1")
        assert run.code == 0, run.output
        assert run.changed == {"host2": 0, "host3": 0}
    finally:
        fleet.do("start", "host1")
    assert set(fleet.play("provision.yml").changed.values()) == {0}
