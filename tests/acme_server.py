"""Debian's pebble, an ACME server for tests, in a container; and clients that look at the certificates which it gives."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509

from stack import docker, images

IMAGE = "gatehouse/pebble:test"
DOCKERFILE = f"""
FROM {images.DEBIAN_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends pebble
CMD ["sh", "-c", "pebble-challtestsrv -http01 '' -https01 '' -tlsalpn01 '' -doh '' -defaultIPv6 '' & exec pebble -config /pebble/config.json -dnsserver 127.0.0.1:8053"]
"""


def prepare(folder: Path, names: list[str], life: int, http_port: int) -> trustme.CA:
    """Writes what pebble reads: it answers under these names, its certificates are good for `life` s, and it asks for tokens on
    `http_port`. Returns the authority of its own certificate. Skips the test where Debian's package is not to be had."""
    docker.client(install=True)
    images.base(images.DEBIAN_IMAGE)
    if not images.exists(IMAGE):
        build = [*docker.client(), "build", "--tag", IMAGE, "-"]
        built = subprocess.run(build, input=DOCKERFILE, text=True, capture_output=True, check=False)
        if built.returncode:
            pytest.skip(f"Debian's pebble is not to be had here: {built.stderr[-300:]}")
    authority = trustme.CA()
    pair = authority.issue_cert(*names)
    (folder / "certificate.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    (folder / "key.pem").write_bytes(pair.private_key_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    settings = {
        "listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
        "certificate": "/pebble/certificate.pem", "privateKey": "/pebble/key.pem",
        "httpPort": http_port, "tlsPort": 8443, "certificateValidityPeriod": life,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"pebble": settings}))
    folder.chmod(0o755)
    return authority


def start(name: str, folder: Path, network: str, *options: str) -> str:
    """Starts pebble in a container of this name; returns its address."""
    docker.run("rm", "--force", name)
    quick = ("--env", "PEBBLE_VA_NOSLEEP=1", "--env", "PEBBLE_WFE_NONCEREJECT=0", "--volume", f"{folder}:/pebble:ro")
    docker.run("run", "--detach", "--name", name, "--network", network, *options, *quick, IMAGE)
    return address(name, network)


def finds(server: str, edge: str) -> None:
    """Has the ACME server at this address find every name at that one."""

    def told() -> bool:
        try:
            return httpx.post(f"http://{server}:8055/set-default-ipv4", json={"ip": edge}).status_code == 200
        except httpx.TransportError:
            return False

    until(told, 10, "pebble's DNS")


def address(container: str, network: str) -> str:
    """Of a container on a network."""
    networks = json.loads(docker.run("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    found: str = networks[network]["IPAddress"]
    return found


def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for it; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.25)


def served(host: str, port: int, name: str) -> x509.Certificate:
    """What the edge there shows to a client of this name."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=5) as plain,
        trust.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")


@dataclass
class Load:
    """Handshakes with each of these edges, two threads an edge, one after the other, until the block ends."""

    edges: list[tuple[str, int]]
    name: str
    seen: dict[str, set[int]] = field(default_factory=dict)
    """Host -> serial numbers."""
    failed: list[str] = field(default_factory=list)
    done: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._shake, args=edge) for edge in self.edges for _ in range(2)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _shake(self, host: str, port: int) -> None:
        while not self.ended.is_set():
            try:
                serial = served(host, port, self.name).serial_number
            except OSError as error:
                with self.lock:
                    self.failed.append(f"{host} {error!r}")
            else:
                with self.lock:
                    self.seen.setdefault(host, set()).add(serial)
            with self.lock:
                self.done += 1
            time.sleep(0.01)
