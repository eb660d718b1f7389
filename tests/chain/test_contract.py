"""The HTTP contract, asked from outside: client -> Nginx -> gateway -> app, for every app folder that claims it.

The fixture `chain` (conftest.py) is a running stack. A new folder below apps/ is under test at once: with
`contract: full` every route, else the health path. Where GATEHOUSE_CHAIN names a running site, its apps are under test, and
GATEHOUSE_APPS may say which of them: "django bottle".
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML
from websocket import ABNF, WebSocket, create_connection

from stack.load import AppPlan
from stack.model import size_bytes
from tests.conftest import EARLY, Chain

APPS = Path(os.environ.get("GATEHOUSE_CHAIN") or Path(__file__).parents[2]) / "apps"
ONLY = os.environ.get("GATEHOUSE_APPS", "").split()
PLAIN, TLS = "http", "https"


def discovered(contract: str | None = None, interface: str | None = None) -> list[str]:
    """Names of the app folders with this contract and interface; None: any."""
    names = []
    for path in sorted(APPS.glob("*/app.yml")):
        if ONLY and path.parent.name not in ONLY:
            continue
        facts = YAML(typ="safe", pure=True).load(path)
        if contract in (None, facts.get("contract", "health")) and interface in (None, facts["interface"]):
            names.append(path.parent.name)
    return names


asgi_only = pytest.mark.parametrize("app", discovered("full", "asgi"), indirect=True)
wsgi_only = pytest.mark.parametrize("app", discovered("full", "wsgi"), indirect=True)
every_app = pytest.mark.parametrize("app", discovered(), indirect=True)


# --- clients ----------------------------------------------------------------------------------------------------------


class ToThisMachine(httpx.HTTPTransport):
    """Connects to 127.0.0.1 whatever host the URL names, as a DNS entry would."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        here = httpx.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1"),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": request.url.host},
        )
        return super().handle_request(here)


def address(chain: Chain, app: AppPlan, scheme: str) -> httpx.URL:
    """The app's root as a browser would show it."""
    edge = httpx.URL(chain.https if scheme == TLS else chain.url)
    return edge.copy_with(host=app.host or edge.host, path=app.prefix or "/")


def tls(chain: Chain) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=chain.ca)


@pytest.fixture(params=discovered("full"))
def app(request: pytest.FixtureRequest, chain: Chain) -> AppPlan:
    return chain.apps[request.param]


@contextmanager
def browser(chain: Chain, app: AppPlan, scheme: str) -> Iterator[httpx.Client]:
    # From an address of its own, where the chain lets it through: else the edge's and the client's might be the same.
    transport = ToThisMachine(verify=tls(chain), http2=scheme == TLS, local_address="127.0.0.2")
    with httpx.Client(base_url=address(chain, app, scheme), transport=transport, timeout=20) as client:
        yield client


@pytest.fixture
def plain(chain: Chain, app: AppPlan) -> Iterator[httpx.Client]:
    """HTTP/1.1."""
    with browser(chain, app, PLAIN) as client:
        yield client


@pytest.fixture
def secure(chain: Chain, app: AppPlan) -> Iterator[httpx.Client]:
    """HTTP/2 over TLS, the certificate verified."""
    with browser(chain, app, TLS) as client:
        yield client


@pytest.fixture(params=[PLAIN, TLS])
def client(request: pytest.FixtureRequest, chain: Chain, app: AppPlan) -> Iterator[httpx.Client]:
    """Each of the two in turn."""
    with browser(chain, app, request.param) as client:
        yield client


class Raw:
    """A request exactly as written: no header added, no character of the target encoded, no body sent."""

    def __init__(self, chain: Chain, app: AppPlan, method: str, path: str, headers: Mapping[str, str] = {}) -> None:
        url = address(chain, app, PLAIN)
        connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=20)
        connection.putrequest(method, app.prefix + path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": url.netloc.decode(), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        self.status = response.status
        self.headers = response.headers
        # A switched protocol has no end to read up to.
        self.text = "" if response.status == 101 else response.read().decode()
        connection.close()


@contextmanager
def websocket(chain: Chain, app: AppPlan, scheme: str) -> Iterator[WebSocket]:
    """A client in one thread: one that reads TLS in a second thread loses its request now and then, in Python's ssl."""
    url = address(chain, app, scheme)
    with ExitStack() as closes:
        connection = closes.enter_context(socket.create_connection(("127.0.0.1", url.port or 0), timeout=10))
        if scheme == TLS:
            connection = closes.enter_context(tls(chain).wrap_socket(connection, server_hostname=url.host))
        at = f"ws://{url.netloc.decode()}{app.prefix}/ws"
        ws = create_connection(at, socket=connection, timeout=10, suppress_origin=True)
        closes.callback(ws.close)
        yield ws


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def whoami(client: httpx.Client, headers: Mapping[str, str] = {}) -> dict[str, Any]:
    answer = client.get("/whoami", headers=headers)
    assert answer.status_code == 200
    seen: dict[str, Any] = answer.json()
    return seen


# --- every app --------------------------------------------------------------------------------------------------------


@every_app
def test_the_health_path_answers_200(client: httpx.Client, app: AppPlan) -> None:
    assert client.get(app.app.health).status_code == 200


# --- every route's answer ---------------------------------------------------------------------------------------------


def test_hello(client: httpx.Client, app: AppPlan) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    if app.app.interface == "wsgi":
        assert answer.text == "Hello, WSGI!"
        assert answer.headers["Content-Type"].startswith("text/plain")
    else:
        assert answer.json() == {"message": "Hello, ASGI!"}


def test_head_is_get_without_the_body(chain: Chain, app: AppPlan, plain: httpx.Client) -> None:
    head = Raw(chain, app, "HEAD", "/")
    assert (head.status, head.text) == (200, "")
    assert head.headers["Content-Length"] == str(len(plain.get("/").content))


@pytest.mark.parametrize(("route", "ms"), [("/wait", 300), ("/work", 100), ("/poll", 700)])
def test_it_answers_after_the_time_asked_for(client: httpx.Client, route: str, ms: int) -> None:
    start = time.monotonic()
    answer = client.get(route, params={"ms": ms})
    assert (answer.status_code, answer.json()) == (200, {"ms": ms})
    assert time.monotonic() - start >= (ms - EARLY) / 1000


def test_twenty_waits_overlap(plain: httpx.Client) -> None:
    start = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: plain.get("/wait?ms=300").status_code, range(20)))
    assert answers == [200] * 20
    assert time.monotonic() - start < 20 * 0.3 / 2  # 6 s one after the other; 1.5 s on four processes


@pytest.mark.parametrize("n", [0, 1, 65537, 5 * 2**20])
def test_bytes_are_as_many_as_asked_for(client: httpx.Client, n: int) -> None:
    answer = client.get("/bytes", params={"n": n})
    assert answer.status_code == 200
    assert answer.content == bytes(n)


@pytest.mark.parametrize(
    "query", ["/wait?ms=-1", "/wait?ms=60001", "/wait?ms=soon", "/work?ms=60001", "/poll?ms=60001", "/bytes?n=104857601",
              "/bytes?n=-1", "/events?n=10001", "/events?ms=60001"],
)  # fmt: skip
def test_a_parameter_out_of_bounds_is_the_clients_error(plain: httpx.Client, query: str) -> None:
    assert plain.get(query).status_code in (400, 422)


def test_an_unknown_path_gets_the_apps_own_404(client: httpx.Client) -> None:
    answer = client.get("/no/such/page")
    assert answer.status_code == 404
    assert "nginx" not in answer.text.lower()
    assert "No app answers here" not in answer.text  # the edge's page


def test_another_method_gets_the_apps_own_405(client: httpx.Client) -> None:
    answer = client.post("/whoami")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]


# --- bodies -----------------------------------------------------------------------------------------------------------


def chunked(body: bytes) -> Iterator[bytes]:
    """Of unknown length: the client sends it chunked."""
    for at in range(0, len(body), 2**16):
        yield body[at : at + 2**16]


@pytest.mark.parametrize("size", [0, 1, 2**20, 20 * 2**20])
def test_echo_gives_the_body_back(plain: httpx.Client, size: int) -> None:
    body = os.urandom(size)
    answer = plain.post("/echo", content=body)
    assert answer.status_code == 200
    assert answer.content == body


def test_echo_gives_a_chunked_body_back(plain: httpx.Client) -> None:
    body = os.urandom(20 * 2**20)
    answer = plain.post("/echo", content=chunked(body))
    assert answer.status_code == 200
    assert answer.content == body


def test_echo_gives_the_body_back_over_http2(secure: httpx.Client) -> None:
    body = os.urandom(2**20)
    assert secure.post("/echo", content=body).content == body


def test_an_upload_reaches_the_app_while_it_is_under_way(app: AppPlan, plain: httpx.Client) -> None:
    if not app.app.chosen_gateway.streams_bodies:
        pytest.skip(f"{app.app.chosen_gateway.name} takes in a whole body before the app gets any of it")

    def slow() -> Iterator[bytes]:
        yield bytes(2**16)
        time.sleep(1)
        yield bytes(2**16)

    answer = plain.post("/echo", content=slow())
    assert len(answer.content) == 2**17
    took = re.match(r"upload;dur=([0-9.]+)", answer.headers["Server-Timing"])  # the edge adds its own
    assert took
    assert float(took[1]) > 500  # ms; collected at the edge first, it would arrive in one


def test_a_body_over_the_apps_limit_gets_413(chain: Chain, app: AppPlan) -> None:
    over = size_bytes(app.app.body_limit) + 1
    assert Raw(chain, app, "POST", "/", {"Content-Length": str(over)}).status == 413


def test_a_chunked_body_over_the_apps_limit_gets_413(plain: httpx.Client, app: AppPlan) -> None:
    over = bytes(size_bytes(app.app.body_limit) + 2**16)
    assert plain.post("/", content=chunked(over)).status_code == 413


@pytest.mark.parametrize("size", [2**18, 2**20])
def test_the_app_may_answer_without_reading_the_body(plain: httpx.Client, size: int) -> None:
    body = bytes(size)
    answers = [plain.post("/", content=body).status_code for _ in range(50)]
    # A gateway that hangs up on the rest of the body makes it a 502, and at the edge it counts as a failed replica.
    assert answers == [405] * 50


def test_a_body_over_the_paths_own_limit_gets_413(chain: Chain, app: AppPlan) -> None:
    over = size_bytes(app.app.paths["/echo"].body_limit or app.app.body_limit) + 1
    assert Raw(chain, app, "POST", "/echo", {"Content-Length": str(over)}).status == 413


# --- streams ----------------------------------------------------------------------------------------------------------


def test_events_arrive_one_by_one(client: httpx.Client) -> None:
    sent: list[float] = []
    arrived: list[float] = []
    with client.stream("GET", "/events", params={"n": 5, "ms": 300}) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")
        assert "Content-Encoding" not in answer.headers  # httpx would take gzip
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert event["i"] == len(sent)
                sent.append(event["sent"])
                arrived.append(time.time())
            else:
                assert not line
    assert len(sent) == 5
    assert arrived[0] < sent[-1]  # here before the last one had been sent
    assert all(later - earlier > 0.25 for earlier, later in pairwise(sent))


def test_a_stream_can_be_left_early(client: httpx.Client) -> None:
    with client.stream("GET", "/events?n=1000&ms=100") as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    assert client.get("/").status_code == 200


def test_a_download_starts_before_it_is_complete(plain: httpx.Client) -> None:
    with plain.stream("GET", "/bytes?n=104857600") as answer:
        assert answer.headers["Content-Length"] == "104857600"
        assert next(answer.iter_bytes())


# --- WebSocket --------------------------------------------------------------------------------------------------------


@asgi_only
@pytest.mark.parametrize("scheme", [PLAIN, TLS])
def test_a_websocket_echoes_text_and_bytes(chain: Chain, app: AppPlan, scheme: str) -> None:
    with websocket(chain, app, scheme) as ws:
        for message in ("hello", "", "žluť", b"\x00\xff", bytes(500_000)):
            ws.send_bytes(message) if isinstance(message, bytes) else ws.send(message)
            assert ws.recv() == message


@asgi_only
def test_a_websocket_answers_pings(chain: Chain, app: AppPlan) -> None:
    with websocket(chain, app, PLAIN) as ws:
        ws.ping(b"anyone?")
        opcode, frame = ws.recv_data_frame(control_frame=True)
        while opcode == ABNF.OPCODE_PING:  # the gateway's own
            opcode, frame = ws.recv_data_frame(control_frame=True)
        assert (opcode, frame.data) == (ABNF.OPCODE_PONG, b"anyone?")


@asgi_only
@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_an_ordinary_path_opens_no_tunnel(chain: Chain, app: AppPlan, protocol: str) -> None:
    answer = Raw(chain, app, "GET", "/whoami", {**UPGRADE, "Upgrade": protocol})
    assert answer.status == 200
    assert json.loads(answer.text)["app"] == app.name


@asgi_only
def test_a_websocket_path_opens_no_other_tunnel(chain: Chain, app: AppPlan) -> None:
    assert Raw(chain, app, "GET", "/ws", {**UPGRADE, "Upgrade": "h2c"}).status in (400, 404, 426)


@wsgi_only
def test_a_wsgi_app_has_no_websocket(chain: Chain, app: AppPlan) -> None:
    assert Raw(chain, app, "GET", "/ws", UPGRADE).status == 501


# --- what the app sees ------------------------------------------------------------------------------------------------


def test_whoami_has_these_keys(client: httpx.Client, app: AppPlan) -> None:
    seen = whoami(client)
    keys = {"client", "scheme", "host", "prefix", "request_id", "url", "pid", "gateway", "release", "app"}
    assert seen.keys() == keys
    assert (seen["app"], seen["gateway"]) == (app.name, app.app.chosen_gateway.name)
    assert isinstance(seen["pid"], int)
    assert isinstance(seen["release"], str)


@pytest.mark.parametrize("scheme", [PLAIN, TLS])
def test_the_app_sees_the_address_in_the_browser(chain: Chain, app: AppPlan, scheme: str) -> None:
    with browser(chain, app, scheme) as client:
        seen = whoami(client)
    assert seen["scheme"] == scheme
    assert seen["host"] == address(chain, app, scheme).netloc.decode()  # with the port
    assert seen["prefix"] == app.prefix


def test_all_apps_see_the_same_client(chain: Chain) -> None:
    clients = {}
    for name in discovered("full"):
        with browser(chain, chain.apps[name], PLAIN) as client:
            clients[name] = whoami(client)["client"]
    assert len(set(clients.values())) == 1, clients
    assert all(ipaddress.ip_address(address) for address in clients.values())


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Real-IP", "203.0.113.7"),
        ("True-Client-IP", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7;proto=ftp;host=evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Server", "evil.example"),
        ("X-Forwarded-Proto", "ftp"),
        ("X-Forwarded-Protocol", "ssl"),
        ("X-Forwarded-Ssl", "on"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Script-Name", "/evil"),
        ("Daphne-Root-Path", "/evil"),
        ("Script-Name", "/evil"),
        ("Script_Name", "/evil"),
        ("Path-Info", "/evil"),
        ("Path_Info", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Rewrite-URL", "/evil"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X_Forwarded_For", "203.0.113.7"),
        ("X-Request-ID", "evil"),
        ("X_Request_ID", "evil"),
        ("Connection", "close, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-ID"),
    ],
)
def test_what_a_client_claims_about_itself_is_ignored(plain: httpx.Client, header: str, value: str) -> None:
    honest, claimed = whoami(plain), whoami(plain, {header: value})
    for key in ("client", "scheme", "host", "prefix", "url"):
        assert claimed[key] == honest[key]
    assert re.fullmatch(r"[0-9a-f]{32}", claimed["request_id"])


def test_a_request_has_one_id_from_the_app_to_the_client(client: httpx.Client) -> None:
    answers = [client.get("/whoami") for _ in range(2)]
    for answer in answers:
        assert answer.headers.get_list("X-Request-ID") == [answer.json()["request_id"]]
    assert answers[0].headers["X-Request-ID"] != answers[1].headers["X-Request-ID"]


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [PLAIN, TLS])
def test_the_app_builds_links_that_lead_back_to_it(chain: Chain, app: AppPlan, scheme: str) -> None:
    with browser(chain, app, scheme) as client:
        here = str(client.base_url.join("whoami"))
        assert whoami(client)["url"] == here
        assert client.get(here).json()["app"] == app.name

        moved = client.get("/moved")
        assert moved.has_redirect_location
        assert str(moved.url.join(moved.headers["Location"])) == here


def test_a_slash_too_many_does_not_lead_out_of_the_prefix(client: httpx.Client) -> None:
    answer = client.get("/whoami/")
    if answer.has_redirect_location:
        assert answer.url.join(answer.headers["Location"]) == client.base_url.join("whoami")
    else:
        assert answer.status_code in (200, 404)


@every_app
def test_the_prefix_alone_redirects_to_the_app(client: httpx.Client, app: AppPlan) -> None:
    if not app.prefix:
        pytest.skip("at the root")
    bare = client.base_url.copy_with(path=app.prefix)
    answer = client.get(bare.copy_with(query=b"a=1&b=%2F"))
    assert answer.has_redirect_location
    assert str(answer.url.join(answer.headers["Location"])) == f"{bare}/?a=1&b=%2F"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/wait?ms=%31%30", 200),
        ("/%77ait?ms=10", 200),
        ("/wait?ms=10&x=%26%3D%23%20%2F%C5%BE", 200),
        ("/wait?ms=1%260", None),  # decoded on the way, it would be ms=1 and a second parameter
        ("/wait%3Fms=10", 404),  # decoded on the way, it would be a query
        ("/wait%2F..%2Fwhoami", 404),  # decoded on the way, it would be another path
    ],
)
def test_encoded_characters_reach_the_app_as_they_are(
    chain: Chain, app: AppPlan, path: str, status: int | None
) -> None:
    answer = Raw(chain, app, "GET", path)
    assert answer.status in ((400, 422) if status is None else (status,))
    if status == 200:
        assert json.loads(answer.text) == {"ms": 10}


def test_a_long_query_is_accepted_alike(chain: Chain, app: AppPlan) -> None:
    start = f"{app.prefix}/wait?ms=1&x="
    longest = 8190 - len("GET  HTTP/1.1\r\n")  # of a request line, at Nginx and at the gateways
    assert Raw(chain, app, "GET", f"/wait?ms=1&x={'a' * (longest - len(start))}").status == 200
    assert Raw(chain, app, "GET", f"/wait?ms=1&x={'a' * 8192}").status == 414


def test_the_api_docs_work_below_the_prefix_and_offline(client: httpx.Client, app: AppPlan) -> None:
    page = client.get("/docs")
    if page.status_code == 404:
        pytest.skip("has no API docs")
    root = str(client.base_url).rstrip("/")
    for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        url = page.url.join(link)
        assert str(url).startswith(root)
        assert client.get(url).status_code == 200
    [openapi] = re.findall(r"url: '([^']+)'", page.text)
    schema = client.get(page.url.join(openapi)).json()
    # Where try-it-out sends its requests.
    servers = [server["url"] for server in schema.get("servers", [])]
    assert servers == ([app.prefix] if app.prefix else [])


# --- the edge's own part ----------------------------------------------------------------------------------------------


def test_tls_speaks_http2(secure: httpx.Client) -> None:
    assert secure.get("/").http_version == "HTTP/2"


SECURITY_HEADERS = ("X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options")


def guarded(headers: Iterable[tuple[str, str]]) -> bool:
    names = [name.lower() for name, _ in headers]
    return all(names.count(header.lower()) == 1 for header in SECURITY_HEADERS)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [("/", (200,)), ("/moved", (302, 303, 307)), ("/no/such/page", (404,)), ("/wait?ms=x", (400, 422))],
)
def test_what_the_app_answers_carries_the_security_headers(
    client: httpx.Client, path: str, statuses: tuple[int, ...]
) -> None:
    answer = client.get(path)
    assert answer.status_code in statuses
    assert guarded(answer.headers.multi_items())


def test_what_the_edge_answers_carries_the_security_headers(chain: Chain, app: AppPlan) -> None:
    too_large = Raw(chain, app, "POST", "/", {"Content-Length": str(10 * 2**30)})
    too_long = Raw(chain, app, "GET", f"/?{'a' * 9000}")
    for answer, status in ((too_large, 413), (too_long, 414)):
        assert answer.status == status
        assert guarded(answer.headers.items())
        assert answer.headers["X-Request-ID"]


def test_no_answer_names_a_version(client: httpx.Client) -> None:
    for path in ("/", "/no/such/page"):
        assert not re.search(r"\d", client.get(path).headers.get("Server", ""))
