"""What one client may take, what an app is sent at a time, and who is believed about a client: on a site of its own, whose edge
believes the tests (trusted_proxies), so that each can be as many clients as it likes."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import pytest
from ruamel.yaml import YAML

from stack import docker
from tests.conftest import WITHOUT_DOCKER, Checkout, needs_docker, own_site

HTTP, HTTPS = 18098, 18461
URL = f"http://127.0.0.1:{HTTP}/slow"
SLOW_CLIENTS = 300

APP = r"""
import json, time
from urllib.parse import parse_qs


def app(environ, start_response):
    path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
    status, headers, body = "200 OK", [], b"ok"
    if path.endswith("/busy"):
        status, headers = "503 Service Unavailable", [("Retry-After", "77")]
    elif path.endswith("/whoami"):
        body = json.dumps({k: v for k, v in environ.items() if k.startswith("HTTP_X_")}).encode()
    elif path.endswith("/bytes"):
        body = bytes(2**20)
    time.sleep(float(query.get("s", ["0"])[0]))
    environ["wsgi.input"].read()
    start_response(status, [("Content-Length", str(len(body))), *headers])
    return [body]
"""

SETTINGS = {
    "interface": "wsgi",
    "entry": "app:app",
    "workers": 1,
    "threads": 4,
    "max_in_flight": 10,
    "paths": {
        "/two": {"limits": {"connections": 2}},
        "/login": {"limits": {"requests": "5/min"}},
        "/watched": {"limits": {"requests": "observe 1/s"}},
        "/free": {"limits": {"connections": "off"}},
    },
}

ENVIRONMENT = {
    "name": "gatehouse-limits",
    "engine": "compose",
    "domains": ["localhost", "127.0.0.1"],
    "http_port": HTTP,
    "https_port": HTTPS,
    "tls": {"redirect": True, "hsts": 300},
    # Fewer than the app may have in flight, as the defaults are: so no client alone makes it refuse others.
    "limits": {"connections": 8, "requests": "off"},
    # Of the tests' own requests: with Docker they come from the host's side of a bridge.
    "trusted_proxies": ["127.0.0.1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """One replica of the app: four threads, and six requests more in front of them."""
    with own_site(tmp_path_factory.mktemp("site"), ENVIRONMENT, {"slow": (APP, SETTINGS)}) as site:
        yield site


pytestmark = pytest.mark.usefixtures("site")


def write(site: Checkout, **settings: object) -> None:
    YAML().dump({**ENVIRONMENT, **settings}, site.root / "environments/local.yml")


_numbers = count(1)
CLIENT = httpx.Client(timeout=30)
"""One for all: each makes a TLS context of its own, which takes longer than what is measured here."""


def somebody() -> str:
    """An address that nobody has had yet."""
    number = next(_numbers)
    return f"198.51.{100 + number // 250}.{number % 250 + 1}"


def get(path: str, client: str, **headers: str) -> httpx.Response:
    """As a balancer passes it on whose client spoke HTTPS."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return CLIENT.get(URL + path, headers={"X-Forwarded-For": client, "X-Forwarded-Proto": "https", **told})


def together(calls: list[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [started.result() for started in [pool.submit(call) for call in calls]]


def edges_log(site: Checkout) -> str:
    if WITHOUT_DOCKER:
        return "".join(path.read_text() for path in (site.root / ".local/process").rglob("edge.1*log*"))
    return docker.run("logs", "gatehouse-limits-edge-1")


# --- one client -------------------------------------------------------------------------------------------------------


def test_one_client_has_so_many_connections_and_others_have_theirs() -> None:
    one, other = somebody(), somebody()
    answers = together([lambda: get("/two?s=1", one)] * 3 + [lambda: get("/two?s=1", other)])
    assert Counter(a.status_code for a in answers[:3]) == {200: 2, 429: 1}
    assert answers[3].status_code == 200
    (refused,) = (a for a in answers if a.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["reason"].startswith("Too many requests")
    assert refused.json()["request_id"] == refused.headers["x-request-id"]


def test_limits_of_a_path_say_nothing_about_others() -> None:
    one = somebody()
    calls: list[Callable[[], httpx.Response]] = [lambda: get("/two?s=1", one)] * 2 + [lambda: get("/free", one)] * 3
    assert {a.status_code for a in together(calls)} == {200}


def test_a_rate_lets_as_many_through_at_once_and_says_when_the_next_is_due() -> None:
    one = somebody()
    answers = [get("/login", one, Accept="text/html") for _ in range(8)]
    assert [a.status_code for a in answers] == [200] * 6 + [429] * 2
    assert answers[-1].headers["retry-after"] == "12"
    assert "Too many requests" in answers[-1].text
    assert answers[-1].headers["content-type"].startswith("text/html")
    assert get("/login", somebody()).status_code == 200


def test_addresses_of_one_ipv6_network_are_one_client() -> None:
    assert [get("/login", f"2001:db8:1:2::{number}").status_code for number in range(7)] == [200] * 6 + [429]
    assert get("/login", "2001:db8:1:3::1").status_code == 200


def test_what_is_only_observed_is_refused_nobody_and_logged(site: Checkout) -> None:
    one = somebody()
    assert {get("/watched", one).status_code for _ in range(8)} == {200}
    logged = [json.loads(line) for line in edges_log(site).splitlines() if f'"client":"{one}"' in line]
    assert [line["limit_req"] for line in logged].count("REJECTED_DRY_RUN") in range(1, 7)
    assert logged[0]["limit_req"] == "PASSED"


# --- an app that has enough to do ---------------------------------------------------------------------------------------


def test_what_an_app_cannot_have_is_refused_at_once(site: Checkout) -> None:
    """Ten are in flight, four of them being served; the other twenty do not wait for them."""
    one = somebody()
    answers = together([lambda: get("/free?s=1", one)] * 30)
    assert Counter(a.status_code for a in answers) == {200: 10, 503: 20}
    refused = [a for a in answers if a.status_code == 503]
    assert {a.headers["retry-after"] for a in refused} == {"1"}
    assert refused[0].json()["reason"].startswith("The app has as much to do")
    first = min(a.elapsed for a in answers if a.status_code == 200)
    assert all(a.elapsed < first for a in refused)
    assert get("/free", one).status_code == 200


@needs_docker
def test_the_engine_and_a_balancer_find_a_busy_app_healthy() -> None:
    """Far more than it can do, for two checks of its health and longer."""
    one, stop = somebody(), threading.Event()

    def flood() -> Counter[int]:
        seen: Counter[int] = Counter()
        while not stop.is_set():
            seen[get("/free?s=0.2", one).status_code] += 1
            time.sleep(0.05)
        return seen

    with ThreadPoolExecutor(30) as pool:
        floods = [pool.submit(flood) for _ in range(30)]
        try:
            balancer = set()
            for _ in range(12):
                time.sleep(1)
                balancer.add(CLIENT.get(f"http://127.0.0.1:{HTTP}/healthz", headers={"Host": "10.0.0.1"}).status_code)
        finally:
            stop.set()
        seen = sum((future.result() for future in floods), Counter[int]())
    assert set(seen) == {200, 503}
    assert balancer == {204}
    health = json.loads(docker.run("inspect", "--format", "{{json .State.Health}}", "gatehouse-limits-slow-1"))
    assert health["Status"] == "healthy"
    assert health["FailingStreak"] == 0


def test_an_apps_own_refusal_passes_as_it_is() -> None:
    answer = get("/busy", somebody())
    assert answer.status_code == 503
    assert answer.headers.get_list("retry-after") == ["77"]
    assert answer.text == "ok"


# --- slow clients -------------------------------------------------------------------------------------------------------


def head(method: str, path: str, client: str) -> bytes:
    return f"{method} /slow{path} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: {client}\r\n".encode()


def headers(connection: socket.socket, client: str) -> Iterator[None]:
    connection.send(head("GET", "/", client))
    for number in count():
        yield
        connection.send(f"X-{number}: y\r\n".encode())


def bodies(connection: socket.socket, client: str) -> Iterator[None]:
    connection.send(head("POST", "/", client) + b"Content-Length: 5000\r\n\r\n")
    while True:
        yield
        connection.send(b"x")


def reads(connection: socket.socket, client: str) -> Iterator[None]:
    connection.send(head("GET", "/bytes", client) + b"\r\n")
    while True:
        yield
        with contextlib.suppress(BlockingIOError):
            connection.recv(32)


@pytest.mark.parametrize("attack", [headers, bodies, reads])
def test_slow_clients_do_not_take_the_service_from_others(
    attack: Callable[[socket.socket, str], Iterator[None]],
) -> None:
    """As slowhttptest -H, -B and -X do, from one address; another one is served in every second of it."""
    stop, opened = threading.Event(), Counter[str]()

    def attackers() -> None:
        who, open_ = somebody(), selectors.DefaultSelector()
        for _ in range(SLOW_CLIENTS):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.connect(("127.0.0.1", HTTP))
            connection.setblocking(False)
            step = attack(connection, who)
            next(step)
            open_.register(connection, selectors.EVENT_READ, step)
        opened["connections"] = len(open_.get_map())
        while not stop.wait(0.5):
            for key in list(open_.get_map().values()):
                try:
                    next(key.data)
                except (OSError, StopIteration):
                    open_.unregister(key.fileobj)
        for key in list(open_.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    thread = threading.Thread(target=attackers)
    thread.start()
    served: list[int] = []
    try:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            served.append(get("/whoami", somebody()).status_code)
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
    assert opened["connections"] == SLOW_CLIENTS
    assert len(served) > 5
    assert set(served) == {200}


# --- who is believed ----------------------------------------------------------------------------------------------------


def test_a_balancer_that_is_trusted_is_believed_about_the_client() -> None:
    seen = get("/whoami", "6.6.6.6, 203.0.113.9, 10.1.2.3").json()
    assert seen["HTTP_X_FORWARDED_FOR"] == seen["HTTP_X_REAL_IP"] == "203.0.113.9"
    assert seen["HTTP_X_FORWARDED_PROTO"] == "https"
    assert seen["HTTP_X_FORWARDED_PORT"] == str(HTTP)  # which the Host header names
    secure = get("/whoami", somebody(), Host="localhost")
    assert secure.json()["HTTP_X_FORWARDED_PORT"] == "443"
    assert secure.headers["strict-transport-security"] == "max-age=300"


def test_who_came_to_the_balancer_over_plain_http_is_redirected() -> None:
    for claim in ("http", "ftp", "https, http", ""):
        plain = get("/whoami?a=b", somebody(), X_Forwarded_Proto=claim)
        assert (plain.status_code, plain.headers["location"]) == (308, "https://127.0.0.1/slow/whoami?a=b")
        assert "strict-transport-security" not in plain.headers


@needs_docker
def test_an_app_without_a_replica_is_said_at_once_to_be_unavailable(site: Checkout) -> None:
    docker.run("stop", "--time=1", "gatehouse-limits-slow-1")
    time.sleep(2)  # until Nginx has asked DNS again
    answer = get("/", somebody())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_without_trusted_proxies_nothing_that_anybody_claims_counts(site: Checkout) -> None:
    write(site, trusted_proxies=[])
    site.run("up")
    # Not on a kept connection: those are the old worker's for 3 s more.
    plain = httpx.get(f"{URL}/whoami", headers={"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"})
    assert plain.status_code == 308
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    claimed = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}
    seen = httpx.get(f"https://localhost:{HTTPS}/slow/whoami", headers=claimed, verify=trust).json()
    assert seen["HTTP_X_FORWARDED_FOR"] == seen["HTTP_X_REAL_IP"] != "203.0.113.9"
    assert seen["HTTP_X_FORWARDED_PROTO"] == "https"
