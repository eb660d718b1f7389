"""What the edge adds to answers, whoever gives them, and what it does not touch; and its place for what slow clients send and
read: on a site of its own, whose app says what it is asked to."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from stack import docker
from tests.acme_server import until
from tests.conftest import Checkout, needs_docker, own_site

HTTP, HTTPS = 18096, 18459
URL = f"https://localhost:{HTTPS}"
LARGE = 30 * 2**20

APP = r"""
import os, time

OWN = [
    ("Content-Security-Policy", "default-src 'self'"), ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "own"), ("Permissions-Policy", "camera=(self)"),
    ("Cross-Origin-Opener-Policy", "unsafe-none"), ("Cross-Origin-Resource-Policy", "cross-origin"),
]


def app(environ, start_response):
    path = environ["PATH_INFO"].removeprefix("/own")
    headers = OWN if path != environ["PATH_INFO"] else []
    headers = [*headers, ("Server", "App/1.2"), ("X-Powered-By", "App/1.2")]
    while environ["wsgi.input"].read(65536):
        pass
    if path == "/gone":
        os._exit(1)
    if path == "/late":
        time.sleep(3)
    if path == "/frame":
        headers.append(("X-Frame-Options", "DENY"))
    if path == "/same" and environ.get("HTTP_IF_NONE_MATCH"):
        start_response("304 Not Modified", [*headers, ("ETag", '"1"')])
        return []
    if path == "/events":
        start_response("200 OK", [*headers, ("Content-Type", "text/event-stream")])
        return (b"data: " + b"x" * 2000 + b"\n\n" for _ in range(3))
    body = b"x" * {"/static/small.css": 900, "/static/large.css": 9000, "/large": 30 * 2**20}.get(path, 9000)
    status = {"/refused": "401 Unauthorized", "/moved": "302 Found"}.get(path, "200 OK")
    kind = "text/css" if path.endswith("css") else "text/html"
    start_response(status, [*headers, ("Content-Type", kind), ("ETag", '"1"'), ("Content-Length", str(len(body)))])
    return [body]
"""

SETTINGS = {
    "interface": "wsgi",
    "entry": "app:app",
    "route": "/",
    "workers": 1,
    "threads": 32,
    "paths": {
        "/static/": {"cache": "revalidate"},
        "/events": {"stream": True},
        "/late": {"timeout": 0.5},
        "/limited": {"limits": {"requests": "1/min"}},
    },
}

# A name beside it has no app: the edge's own answers.
ENVIRONMENT = {
    "name": "gatehouse-headers",
    "http_port": HTTP,
    "https_port": HTTPS,
    "tls": {"redirect": True, "hsts": 300},
    "edge": {"memory": "64M", "index": True},  # little, to fill its place at once
    "limits": {},
    "apps": {"headers": {"host": "app.localhost"}},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with own_site(tmp_path_factory.mktemp("site"), ENVIRONMENT, {"headers": (APP, SETTINGS)}) as site:
        yield site


@pytest.fixture(params=["http/1.1", "h2"])
def client(site: Checkout, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    with httpx.Client(verify=trust, http2=request.param == "h2", timeout=30) as client:
        yield client


def ask(client: httpx.Client, path: str, method: str = "GET", **more: object) -> httpx.Response:
    """Of the app, by its own name. As few encodings as a test names."""
    headers = {"Host": f"app.localhost:{HTTPS}", "Accept-Encoding": "identity", **more.pop("headers", {})}  # type: ignore[dict-item]
    return client.request(method, URL + path, headers=headers, **more)  # type: ignore[arg-type]


ALWAYS = {"server": "nginx", "strict-transport-security": "max-age=300"}
OF_BOTH = ALWAYS | {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
OF_APPS = OF_BOTH | {
    "content-security-policy": "frame-ancestors 'self'",
    "cross-origin-opener-policy": "same-origin-allow-popups",
}
OF_EDGE = OF_BOTH | {"cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin"}
OWN = ALWAYS | {
    "content-security-policy": "default-src 'self'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "own",
    "permissions-policy": "camera=(self)",
    "cross-origin-opener-policy": "unsafe-none",
    "cross-origin-resource-policy": "cross-origin",
}


def has(answer: httpx.Response, wanted: dict[str, str]) -> None:
    """Each of these once, none of the others, nothing that tells what runs here."""
    every = {*OF_EDGE, "content-security-policy"}
    told = {name: answer.headers.get_list(name) for name in every if name in answer.headers}
    policy = told.pop("content-security-policy", [""])
    if wanted is OF_EDGE:
        assert len(policy) == 1
        assert policy[0].startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy[0]
    else:
        assert policy == [wanted.get("content-security-policy", "")]
    assert told == {name: [value] for name, value in wanted.items() if name != "content-security-policy"}
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "x-powered-by" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/events", 200), ("/moved", 302), ("/refused", 401), ("/static/large.css", 200)],
)
def test_an_apps_answer_has_what_no_app_misses_and_its_own_wins(client: httpx.Client, path: str, status: int) -> None:
    for prefix, wanted in (("", OF_APPS), ("/own", OWN)):
        if prefix and path.startswith("/static"):
            continue
        answer = ask(client, prefix + path)
        assert answer.status_code == status
        has(answer, wanted)


def test_an_answer_that_was_kept_has_them_too(client: httpx.Client) -> None:
    for _ in range(2):
        answer = ask(client, "/static/large.css")
    assert answer.headers["cache-status"] == "Nginx; hit"
    has(answer, OF_APPS)


def test_who_may_frame_it_in_older_words_is_not_contradicted_in_newer_ones(client: httpx.Client) -> None:
    answer = ask(client, "/frame")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "content-security-policy" not in answer.headers


def test_an_apps_304_leaves_a_browsers_copy_as_it_is(client: httpx.Client) -> None:
    """Frameworks leave out of it what they said with the 200, and a default would replace that."""
    answer = ask(client, "/same", headers={"If-None-Match": '"1"'})
    assert answer.status_code == 304
    has(answer, ALWAYS)
    again = ask(client, "/own/same", headers={"If-None-Match": '"1"'})
    assert again.status_code == 304
    has(again, OWN)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/static/a.css", "POST", 405), ("/%00", "GET", 400), ("/x/..%2f..%2f..", "GET", 400), ("/late", "GET", 504),
        ("/gone", "POST", 502), ("/" + "a" * 8200, "GET", 414),
    ],
)  # fmt: skip
def test_the_edges_own_answers_have_all_of_them(client: httpx.Client, path: str, method: str, status: int) -> None:
    answer = ask(client, path, method)
    assert answer.status_code == status
    has(answer, OF_EDGE)
    page = ask(client, path, method, headers={"Accept": "text/html"})
    assert page.status_code in (status, 503)  # /gone: its only worker is still being replaced
    if status not in (400, 414):  # known before the header fields are
        assert page.headers["content-type"].startswith("text/html")
    has(page, OF_EDGE)
    for _ in range(50):
        if ask(client, "/").status_code == 200:
            break
        time.sleep(0.1)


def test_so_have_others_of_its_answers(client: httpx.Client, request: pytest.FixtureRequest) -> None:
    limited = [ask(client, "/limited") for _ in range(4)][-1]
    assert limited.status_code == 429
    has(limited, OF_EDGE)
    if "h2" not in request.node.name:
        has(refused := ask(client, "/", headers={"Upgrade": "websocket", "Connection": "Upgrade"}), OF_EDGE)
        assert refused.status_code == 501
    has(page := client.get(f"{URL}/"), OF_EDGE)
    assert (page.status_code, "What runs here" in page.text) == (200, True)
    same = client.get(f"{URL}/", headers={"If-None-Match": page.headers["etag"]})
    assert same.status_code == 304
    has(same, OF_EDGE)
    has(nothing := client.get(f"{URL}/nothing"), OF_EDGE)
    assert nothing.status_code == 404
    has(icon := client.get(f"{URL}/favicon.ico"), OF_EDGE)
    assert icon.status_code == 204


def test_so_has_what_refuses_a_large_body(site: Checkout) -> None:
    """Over HTTP/2: test_inputs.py. This client does not read an answer that comes before its body has gone."""
    with httpx.Client(verify=ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")) as client:
        answer = ask(client, "/", "POST", content=bytes(2**21))
    assert answer.status_code == 413
    has(answer, OF_EDGE)


def test_a_redirect_to_https_has_all_but_what_counts_over_https_alone(site: Checkout) -> None:
    answer = httpx.get(f"http://localhost:{HTTP}/")
    assert answer.status_code == 308
    assert "strict-transport-security" not in answer.headers
    answer.headers["strict-transport-security"] = ALWAYS["strict-transport-security"]
    has(answer, OF_EDGE)


def test_only_files_that_are_worth_it_are_compressed(client: httpx.Client) -> None:
    packed = {"Accept-Encoding": "gzip"}
    for path, coding in (("/static/large.css", "gzip"), ("/static/small.css", None), ("/events", None), ("/", None)):
        answer = ask(client, path, headers=packed)
        assert answer.status_code == 200
        assert answer.headers.get("content-encoding") == coding, path


# --- its place for what waits -------------------------------------------------------------------------------------------


def connect(site: Checkout) -> ssl.SSLSocket:
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(60)
    plain.connect(("127.0.0.1", HTTPS))
    return trust.wrap_socket(plain, server_hostname="localhost")


def used() -> int:
    """Bytes of the edge's /tmp."""
    return int(docker.run("exec", "gatehouse-headers-edge-1", "df", "--output=used", "-B1", "/tmp").split()[1])


@needs_docker
def test_slow_downloads_wait_in_a_small_place_and_are_all_whole(site: Checkout) -> None:
    """Six of 30 MB, where 32 MB are for all: each has 1 MB of it."""

    def download(connection: ssl.SSLSocket) -> int:
        return sum(len(part) for part in iter(lambda: connection.recv(65536), b""))

    connections = [connect(site) for _ in range(6)]
    for connection in connections:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")
    time.sleep(3)
    waiting = used()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = list(pool.map(download, connections))
    assert 3 * 2**20 < waiting < 8 * 2**20
    assert all(LARGE < size < LARGE + 2000 for size in got), got


@needs_docker
def test_a_full_place_for_bodies_refuses_large_ones_and_nothing_else(site: Checkout) -> None:
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    one = b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n"

    held = [connect(site) for _ in range(33)]  # all fit: were one refused, what it had written would be free again
    with concurrent.futures.ThreadPoolExecutor(33) as pool:  # within the 10 s that a body may pause
        list(pool.map(lambda connection: connection.sendall(one + bytes(999_999)), held))
    until(lambda: used() > 33 * 975_000, 8, "bodies on the edge's /tmp")  # the end of each is still in memory
    with httpx.Client(verify=trust, timeout=20) as client:
        seen = Counter({
            "large": ask(client, "/", "POST", content=bytes(900_000)).status_code,
            "small": ask(client, "/", "POST", content=bytes(10_000)).status_code,
            "none": ask(client, "/").status_code,
        })  # fmt: skip
        refused = ask(client, "/", "POST", content=bytes(900_000))
        for connection in held:
            connection.close()
        time.sleep(1)
        later = ask(client, "/", "POST", content=bytes(900_000)).status_code
    assert seen == {"large": 500, "small": 200, "none": 200}
    assert "its place for large bodies is full" in refused.json()["reason"]
    has(refused, OF_EDGE)
    assert later == 200
