"""Certificates by ACME, on containers: Debian's pebble is the ACME server, and everything else is as `make up` makes it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from ruamel.yaml import YAML

from stack import certs, docker, images
from stack.edge import STAND_IN, ask
from stack.render import NGINX_IMAGE
from tests import acme_server
from tests.acme_server import Load, until
from tests.conftest import Checkout, needs_docker, new_checkout

pytestmark = [needs_docker, pytest.mark.long]

NAME, HTTP, HTTPS = "gatehouse-acme", 18181, 18544
NETWORK = f"{NAME}_edge"
LIFE = 45
"""s that a certificate of this ACME server is good for: it is renewed after 30."""
LIMITED = """
error_log /dev/stderr; pid /tmp/nginx.pid; daemon off;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
    server {
        listen 14000 ssl;
        ssl_certificate /pebble/certificate.pem;
        ssl_certificate_key /pebble/key.pem;
        location = /order-plz {
            default_type application/problem+json;
            return 429 '{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates for site.test in a week", "status": 429}';
        }
        location / {
            proxy_pass https://pebble:14000;
            proxy_set_header Host limited:14000;
        }
    }
}
"""
"""An ACME server that has had enough of somebody: pebble itself never has."""


def container(name: str, *arguments: str) -> str:
    """Starts one of the test's own; returns its address on the edge's network."""
    docker.run("rm", "--force", f"{NAME}-{name}")
    docker.run("run", "--detach", "--name", f"{NAME}-{name}", "--network", NETWORK, "--network-alias", name, *arguments)
    return acme_server.address(f"{NAME}-{name}", NETWORK)


def served() -> x509.Certificate:
    """What the edge shows to a client of site.test."""
    return acme_server.served("127.0.0.1", HTTPS, "site.test")


@dataclass
class World:
    """A site whose certificate comes by ACME, and the ACME server."""

    checkout: Checkout
    folder: Path

    def log(self, name: str = "acme-1") -> str:
        """Of what asks for certificates."""
        done = subprocess.run([*docker.client(), "logs", f"{NAME}-{name}"], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def pebble(self) -> None:
        """Starts the ACME server, which finds site.test at the edge."""
        where = acme_server.start(f"{NAME}-pebble", self.folder, NETWORK, "--network-alias=pebble")
        acme_server.finds(where, acme_server.address(f"{NAME}-edge-1", NETWORK))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pebble")
    authority = acme_server.prepare(folder, ["pebble", "limited"], LIFE, 8080)
    (folder / "limited.conf").write_text(LIMITED)

    checkout = new_checkout(tmp_path_factory.mktemp("site"), NAME, HTTP, HTTPS, ["flask"])
    (checkout.root / "secrets").mkdir()
    authority.cert_pem.write_to_path(checkout.root / "secrets/pebble.pem")
    file, yaml = checkout.root / "environments/local.yml", YAML()
    acme = {"directory": "https://pebble:14000/dir", "email": "ops@site.test", "ca": "secrets/pebble.pem"}
    tls = {"certificate": "acme", "acme": acme, "hsts": 0}
    yaml.dump({**yaml.load(file), "domains": ["site.test"], "tls": tls}, file)
    try:
        yield World(checkout, folder)
    finally:
        ours = docker.run("ps", "--all", "--quiet", "--filter", f"name=^{NAME}-(pebble|limited|asks-.*)$").split()
        if ours:
            docker.run("rm", "--force", *ours)
        checkout.run("down", "--volumes", check=False)


def test_the_edge_runs_before_there_is_a_certificate(world: World) -> None:
    """And whatever becomes of the ACME server, which is not there yet."""
    world.checkout.run("up")
    stand_in = served()
    assert stand_in.issuer == stand_in.subject
    assert ask("127.0.0.1", HTTPS, True, "site.test", "/flask/") == "200"
    plain = f"http://127.0.0.1:{HTTP}"
    assert httpx.get(f"{plain}/x", headers={"Host": "site.test"}).headers["location"] == f"https://site.test:{HTTPS}/x"
    # The service is asked for tokens through the edge, and for nothing else.
    for path, status in {"/.well-known/acme-challenge/none": 404, "/.well-known/acme-challenge/": 404, "/.well-known/acme-challenge/../../healthz": 308}.items():  # fmt: skip
        with socket.create_connection(("127.0.0.1", HTTP), timeout=5) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n".encode())
            assert raw.recv(100).startswith(f"HTTP/1.1 {status}".encode()), path
    posted = httpx.post(f"{plain}/.well-known/acme-challenge/x", headers={"Host": "site.test"})
    assert posted.status_code == 403


def test_a_certificate_is_issued_and_renewed_without_a_lost_handshake(world: World) -> None:
    world.pebble()
    world.checkout.run("restart", "acme")
    begun = time.monotonic()
    with Load([("127.0.0.1", HTTPS)] * 2, "site.test") as load:
        until(lambda: served().issuer != served().subject, 40, f"issued; {world.log()}")
        first = served()
        print(f"issued within {time.monotonic() - begun:.0f} s")
        life = (first.not_valid_after_utc - first.not_valid_before_utc).total_seconds()
        assert abs(life - LIFE) <= 1
        [san] = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.value == "site.test"
        until(lambda: served().serial_number != first.serial_number, LIFE, f"renewed; {world.log()}")
        second = served()
        assert second.not_valid_before_utc < first.not_valid_after_utc, "before the first one ended"
        left = (first.not_valid_after_utc - second.not_valid_before_utc).total_seconds()
        print(f"renewed with {left:.0f} of {LIFE} s left; {load.done} handshakes, {len(load.failed)} failed")
    assert load.failed == []
    assert len(load.seen["127.0.0.1"]) == 3, "the stand-in, the first and the second"
    assert load.done > 500
    # The key was made once and is still the one beside it; nothing that was written changed.
    world.checkout.run("up")
    assert "nothing has changed" in world.checkout.output
    assert served().public_key() == second.public_key()


def test_what_was_issued_outlives_all_that_runs(world: World) -> None:
    """The edge has it in its directory, and tells what asks for certificates, which keeps nothing."""
    before = served().serial_number
    docker.run("restart", "--time=1", f"{NAME}-acme-1", f"{NAME}-edge-1")
    restarted = time.time()
    until(_serving, 20, "the edge serves again")
    assert served().serial_number == before
    time.sleep(13 - (time.time() - restarted))  # two of the edge's questions, and what is waited for others
    said = docker.run("logs", f"--since={restarted:.0f}", f"{NAME}-acme-1")
    assert said == ""
    assert served().serial_number == before


def _serving() -> bool:
    try:
        served()
    except OSError:
        return False
    return True


def test_the_key_is_at_the_edge_alone(world: World) -> None:
    key = (world.checkout.root / ".local/acme/local/key.pem").read_text().splitlines()[1]
    assert docker.run("exec", f"{NAME}-edge-1", "cat", "/etc/gatehouse/current/tls/key.pem").splitlines()[1] == key
    for name in ("acme-1", "flask-1"):
        found = json.dumps(json.loads(docker.run("inspect", f"{NAME}-{name}")))
        assert key not in found
        assert "/etc/gatehouse" not in found
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 8000), timeout=2)"
    for place, reached in {
        "127.0.0.1": True,
        "acme": False,
        acme_server.address(f"{NAME}-acme-1", NETWORK): False,
    }.items():
        assert docker.succeeds("exec", f"{NAME}-flask-1", "python", "-c", reach, place) is reached, place


def test_who_is_refused_says_why_and_comes_back_later(world: World, tmp_path: Path) -> None:
    """Three more of what asks for certificates, each for itself, and this test is their edge: no ACME server, one that has had
    enough, and names whose tokens are somebody else's."""
    other = new_checkout(tmp_path, "gatehouse-other", HTTP, HTTPS, ["flask"])
    shutil.copytree(world.checkout.root / "environments", other.root / "environments", dirs_exist_ok=True)
    shutil.copytree(world.checkout.root / "secrets", other.root / "secrets")
    files, said = certs.files(other.site), {}
    authority = (world.folder / "ca.pem").read_text()
    mounted = ("--volume", f"{world.folder}:/pebble:ro")
    container("limited", *mounted, "--tmpfs=/tmp", "--entrypoint=nginx", NGINX_IMAGE, "-c", "/pebble/limited.conf")
    for name in ("nobody", "limited", "pebble"):
        settings = ("--env", f"ACME_DIRECTORY=https://{name}:14000/dir", "--env", f"ACME_CA={authority}")
        said[name] = container(f"asks-{name}", "--read-only", "--tmpfs=/tmp", *settings, images.acme())
    sent = files["tls/request.pem"] + files[STAND_IN]
    for where in said.values():
        until(lambda where=where: _answers(where), 10, "it listens")  # type: ignore[misc]
        assert httpx.post(f"http://{where}:8000/certificate", content=sent).status_code == 204
        assert httpx.post(f"http://{where}:8000/certificate", content=b"nothing").status_code == 400
    for name, why in {
        "nobody": r"refused, trying again in 5 min .*(resolve|connect)",
        "limited": r"too many requests, trying again in 6\d min .*too many certificates for site\.test in a week",
        "pebble": r"refused, trying again in 5 min .*site\.test.*(403|404|unauthorized|Invalid response)",
    }.items():
        until(lambda name=name: "trying again" in world.log(f"asks-{name}"), 40, name)  # type: ignore[misc]
        assert re.search(why, world.log(f"asks-{name}")), world.log(f"asks-{name}")
        assert httpx.get(f"http://{said[name]}:8000/healthz").status_code == 204


def _answers(where: str) -> bool:
    try:
        return httpx.get(f"http://{where}:8000/healthz").status_code == 204
    except httpx.TransportError:
        return False


def test_an_end_is_said_and_a_restart_mends_it(world: World) -> None:
    docker.run("stop", "--time=1", f"{NAME}-pebble")
    until(lambda: served().not_valid_after_utc.timestamp() < time.time(), LIFE + 20, "ended")
    assert httpx.get(f"http://127.0.0.1:{HTTP}/", headers={"Host": "site.test"}).status_code == 308, "it serves on"
    until(lambda: "trying again in 5 min" in world.log(), 30, "a failed renewal")
    world.checkout.run("doctor", check=False)
    assert "the edge's certificate ended on" in world.checkout.output
    assert "no certificate from https://pebble:14000/dir: refused, trying again in 5 min" in world.checkout.output
    world.pebble()
    world.checkout.run("restart", "acme")
    until(lambda: served().not_valid_after_utc.timestamp() > time.time(), 40, f"renewed; {world.log()}")
