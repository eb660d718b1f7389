"""What the edge answers by itself."""

from __future__ import annotations

import contextlib
import socket
import ssl

import httpx
import pytest

from stack import docker
from tests.conftest import HTTP, HTTPS, Chain, needs_docker, pause


def raw(request: bytes) -> bytes:
    """The whole answer to these bytes on the plain port."""
    with socket.create_connection(("127.0.0.1", HTTP), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        # An unanswered connection is reset; what publishes a container's port passes that on as an end.
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    return answer


@pytest.mark.long  # until Nginx gives up
@needs_docker
def test_an_error_after_a_large_body_is_told_as_it_is(chain: Chain) -> None:
    app = next(name for name, plan in chain.apps.items() if "/echo" in plan.app.paths)
    container = f"gatehouse-test-{app}-1"
    pause(container)
    try:
        answer = httpx.post(f"{chain.url}{chain.apps[app].prefix}/echo", content=bytes(2 * 2**20), timeout=60)
    finally:
        docker.run("unpause", container)
    assert answer.status_code == 504
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_https_works_by_address(chain: Chain) -> None:
    trust = ssl.create_default_context(cafile=chain.ca)
    assert httpx.get(f"https://127.0.0.1:{HTTPS}/nothing", verify=trust).status_code == 404


def test_other_names_are_closed_without_an_answer(chain: Chain) -> None:
    assert raw(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n") == b""
    assert raw(b"GET / HTTP/1.0\r\n\r\n") == b""


def test_what_fails_before_its_name_is_known_gets_the_error_page(chain: Chain) -> None:
    answer = raw(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 414")
    assert b"The URL is longer than 8 KB." in answer
    assert raw(b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_a_path_that_two_readers_would_read_differently_is_refused(chain: Chain) -> None:
    for plan in chain.apps.values():
        if plan.prefix:
            for path in (f"/x/..{plan.prefix}/", f"/%{ord(plan.prefix[1]):x}{plan.prefix[2:]}/"):
                answer = raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                assert answer.startswith(b"HTTP/1.1 400"), path


def test_the_demonstrations_names_answer_its_page_and_nothing_but_the_wait(chain: Chain) -> None:
    prefix = next(plan.prefix for plan in chain.apps.values() if plan.app.contract == "full")
    name, page = f"3.demo.localhost:{HTTP}", f"http://localhost:{HTTP}"
    wait = f"{chain.url}{prefix}/wait?ms=0"
    read = httpx.get(wait, headers={"Host": name, "Origin": page})
    assert read.json() == {"ms": 0}
    assert read.headers["access-control-allow-origin"] == read.headers["timing-allow-origin"] == page
    assert read.headers["access-control-expose-headers"] == "Server-Timing"
    assert "app;dur=" in read.headers["server-timing"]
    for origin in ("http://elsewhere.example", f"http://localhost.elsewhere.example:{HTTP}", "null"):
        assert "access-control-allow-origin" not in httpx.get(wait, headers={"Host": name, "Origin": origin}).headers
    assert "access-control-allow-origin" not in httpx.get(wait, headers={"Origin": page}).headers
    for path in ("/", f"{prefix}/", f"{prefix}/whoami"):
        assert httpx.get(chain.url + path, headers={"Host": name}).status_code == 404
