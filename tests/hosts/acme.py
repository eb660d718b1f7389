"""One certificate for a fleet: asked for by one service, for which either edge answers, and served by both.

Not part of any other run: make test-hosts T=tests/hosts/acme.py (six minutes)
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
from ruamel.yaml import YAML

from stack import docker
from tests import acme_server
from tests.acme_server import Load, until
from tests.hosts.conftest import Fleet
from tests.hosts.test_release import Controller, new_controller

pytestmark = pytest.mark.timeout(900)

NETWORK, SERVER, NAME = "gatehouse-hosts", "10.231.77.50", "gatehouse.test"
LIFE = 90
"""s of a certificate: it is renewed after 60."""


@pytest.fixture(scope="module")
def controller(bare: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A clone whose site gets its certificate by ACME, for two of the machines; the ACME server is beside them."""
    bare.regroup({"host1": {}}, {"host2": {}})
    controller = new_controller(tmp_path_factory.mktemp("alice"), bare, leave=3)
    folder = tmp_path_factory.mktemp("pebble")
    authority = acme_server.prepare(folder, [SERVER], LIFE, 80)
    (controller.root / "secrets").mkdir()
    authority.cert_pem.write_to_path(controller.root / "secrets/pebble.pem")
    file, yaml = controller.root / "environments/test.yml", YAML()
    acme = {"directory": f"https://{SERVER}:14000/dir", "ca": "secrets/pebble.pem"}
    tls = {"certificate": "acme", "acme": acme, "hsts": 0, "http3": True}
    yaml.dump({**yaml.load(file), "domains": [NAME], "tls": tls}, file)
    try:
        acme_server.start("gatehouse-pebble", folder, NETWORK, f"--ip={SERVER}")
        yield controller
    finally:
        docker.run("rm", "--force", "gatehouse-pebble")


def test_both_edges_get_it_and_its_successor_without_a_lost_handshake(controller: Controller) -> None:
    fleet = controller.fleet
    edges = {name: fleet.address(name) for name in ("host1", "host2")}

    def authoritys() -> int | None:
        """The serial number of the certificate that both serve, if it is one and from an authority."""
        found = {acme_server.served(edge, 443, NAME) for edge in edges.values()}
        [first, *others] = found
        return None if others or first.issuer == first.subject else first.serial_number

    acme_server.finds(SERVER, edges["host1"])
    run = controller.play("deploy.yml")
    assert run.code == 0, run.output
    with Load([(edge, 443) for edge in edges.values()], NAME) as load:
        until(lambda: authoritys() is not None, 90, "both have one")
        first = authoritys()
        # For the next one, the ACME server asks the edge that is not on the host of the service.
        command = "docker service ps gatehouse_acme --filter desired-state=running --format '{{.Node}}'"
        there = fleet.host("host1").check_output(command)
        other = next(name for name in edges if name != there)
        acme_server.finds(SERVER, edges[other])
        until(lambda: authoritys() not in (None, first), LIFE, "both have the next one")
    print(f"{load.done} handshakes, {len(load.failed)} failed; asked for by {there}, the token asked of {other}")
    assert load.failed == []
    assert all(len(load.seen[edge]) >= 2 for edge in edges.values())

    # The key is where it was, and no task but the edges' has it.
    key = (controller.root / ".local/acme/test/key.pem").read_text().splitlines()[1]
    for name in edges:
        host = fleet.host(name)
        assert key in host.check_output("cat /srv/gatehouse/edge/current/tls/key.pem")
        assert host.check_output("stat --format %a /srv/gatehouse") == "700"
        for container in host.check_output("docker ps --quiet --filter label=com.docker.swarm.service.name").split():
            assert key not in host.check_output(f"docker inspect {container}")

    # HTTP/3's port is published beside the other.
    assert "443/udp" in fleet.host("host1").check_output("docker ps --filter name=gatehouse_edge --format '{{.Ports}}'")

    # The certificate is no part of a release: one without a change changes nothing.
    again = controller.play("deploy.yml", "--tags", "release")
    assert again.code == 0, again.output
    assert set(again.changed.values()) == {0}

    # Nor does a rollback take it away.
    controller.hello("two")
    controller.release()
    back = controller.play("rollback.yml")
    assert back.code == 0, back.output
    assert authoritys() is not None
    served = acme_server.served(edges["host1"], 443, NAME)
    assert served.not_valid_after_utc > datetime.datetime.now(datetime.UTC)
    until(lambda: acme_server.served(edges["host1"], 443, NAME).serial_number != served.serial_number, LIFE, "the next")
