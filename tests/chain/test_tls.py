"""What clients can do over TLS: on a site with Mozilla's modern profile and HTTP/3, and on the product's own."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from cryptography import x509
from ruamel.yaml import YAML
from websocket import create_connection

from tests.conftest import Chain, Checkout, needs_docker, new_checkout

pytestmark = needs_docker

HTTP, HTTPS = 18182, 18545


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = new_checkout(tmp_path_factory.mktemp("site"), "gatehouse-tls", HTTP, HTTPS, ["flask", "fastapi"])
    file, yaml = checkout.root / "environments/local.yml", YAML()
    environment = yaml.load(file)
    environment["tls"] |= {"profile": "modern", "http3": True}
    yaml.dump(environment, file)
    try:
        checkout.run("up")
        yield checkout
    finally:
        checkout.run("down", "--volumes", check=False)


def trusting(checkout: Checkout) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=checkout.root / ".local/ca/ca.pem")


def version(port: int, trust: ssl.SSLContext, at_most: ssl.TLSVersion) -> str | None:
    """Of TLS, as it was agreed upon with a client that knows none after `at_most`; None: it was refused."""
    trust.maximum_version = at_most
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with trust.wrap_socket(plain, server_hostname="localhost") as connection:
                return connection.version()
        except ssl.SSLError as error:
            if "PROTOCOL_VERSION" not in str(error.reason):
                raise
            return None


def test_modern_is_tls_1_3_alone_and_intermediate_has_1_2(modern: Checkout, chain: Chain) -> None:
    assert version(HTTPS, trusting(modern), ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert version(HTTPS, trusting(modern), ssl.TLSVersion.TLSv1_2) is None
    port, trust = chain.checkout.site.environment.https_port, ssl.create_default_context(cafile=chain.ca)
    assert version(port, trust, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"


def test_a_local_certificate_is_good_for_a_season_and_began_just_now(modern: Checkout) -> None:
    pem = (modern.root / ".local/ca/certificate.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    assert abs(time.time() - certificate.not_valid_before_utc.timestamp()) < 2 * 3600
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 89


def test_a_websocket_over_tls(modern: Checkout) -> None:
    url, authority = f"wss://localhost:{HTTPS}/fastapi/ws", str(modern.root / ".local/ca/ca.pem")
    with closing(create_connection(url, timeout=5, sslopt={"ca_certs": authority})) as ws:
        ws.send("over TLS")
        assert ws.recv() == "over TLS"
        ws.send_bytes(b"\x00\xff")
        assert ws.recv() == b"\x00\xff"


@pytest.mark.parametrize("app", ["flask", "fastapi"])
def test_events_over_http_2_arrive_one_by_one(modern: Checkout, app: str) -> None:
    arrived = []
    with (
        httpx.Client(http2=True, verify=trusting(modern), timeout=10) as client,
        client.stream("GET", f"https://localhost:{HTTPS}/{app}/events?n=4&ms=250") as answer,
    ):
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        arrived = [time.monotonic() for line in answer.iter_lines() if line.startswith("data:")]
    assert len(arrived) == 4
    assert arrived[-1] - arrived[0] > 0.6, "not all at once, at the end"


# --- HTTP/3 -----------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Client(QuicConnectionProtocol):
    """An HTTP/3 client."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.answers: dict[int, Answer] = {}

    async def ask(self, method: str, path: str, body: bytes = b"", authority: str = f"localhost:{HTTPS}") -> Answer:
        stream = self._quic.get_next_available_stream_id()
        answer = self.answers[stream] = Answer()
        head = {":method": method, ":scheme": "https", ":authority": authority, ":path": path}
        self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in head.items()], end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        await asyncio.wait_for(answer.ended.wait(), 10)
        return answer

    def quic_event_received(self, event: QuicEvent) -> None:
        for part in self.http.handle_event(event):
            if isinstance(part, HeadersReceived | DataReceived):
                answer = self.answers[part.stream_id]
                if isinstance(part, HeadersReceived):
                    answer.headers |= {name.decode(): value.decode() for name, value in part.headers}
                else:
                    answer.body += part.data
                if part.stream_ended:
                    answer.ended.set()


def test_a_quic_client_gets_its_answers(modern: Checkout) -> None:
    """After it was told over HTTP/2, as browsers are."""
    told = httpx.get(f"https://localhost:{HTTPS}/flask/", verify=trusting(modern))
    assert told.headers["alt-svc"] == f'h3=":{HTTPS}"; ma=86400'
    assert "alt-svc" not in httpx.get(f"http://localhost:{HTTP}/flask/").headers

    async def talk() -> None:
        settings = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
        settings.load_verify_locations(cafile=str(modern.root / ".local/ca/ca.pem"))
        async with connect("127.0.0.1", HTTPS, configuration=settings, create_protocol=Client) as client:
            assert isinstance(client, Client)
            hello, who, echo, missing = await asyncio.gather(
                client.ask("GET", "/flask/"),
                client.ask("GET", "/fastapi/whoami"),
                client.ask("POST", "/fastapi/echo", b"x" * 200_000),
                client.ask("GET", "/nothing"),
            )
        assert (hello.headers[":status"], hello.body) == ("200", b"Hello, WSGI!")
        assert hello.headers["x-content-type-options"] == "nosniff"
        seen = json.loads(who.body)
        assert (seen["scheme"], seen["url"]) == ("https", f"https://localhost:{HTTPS}/fastapi/whoami")
        assert (echo.headers[":status"], len(echo.body)) == ("200", 200_000)
        assert (missing.headers[":status"], missing.headers["content-type"]) == ("404", "application/json")

    asyncio.run(talk())


def test_without_the_setting_there_is_no_http_3(chain: Chain) -> None:
    answer = httpx.get(f"{chain.https}/nothing", verify=ssl.create_default_context(cafile=chain.ca))
    assert "alt-svc" not in answer.headers
    assert "quic" not in (Path(chain.checkout.root) / "build/local/nginx/site.conf").read_text()
