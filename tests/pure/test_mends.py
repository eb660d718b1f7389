"""What the configurations of Granian, uWSGI and Gunicorn's asgi worker mend, each asked without its gateway."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import runpy
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import REPOSITORY

GATEWAYS = REPOSITORY / "compose/gateways"


@pytest.fixture
def uwsgi() -> dict[str, Any]:
    """uWSGI's conf.py without its last lines, which need uWSGI around them."""
    source = (GATEWAYS / "uwsgi/conf.py").read_text().partition('\nif __name__ == "__main__":')[0]
    names: dict[str, Any] = {"__name__": "conf"}
    exec(compile(source, "conf.py", "exec"), names)
    return names


@pytest.fixture
def granian(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Granian's conf.py beside a stand-in for Granian, which is not among the tests' packages."""
    common, signals = SimpleNamespace(load_target=None), SimpleNamespace(set_loop_signals=None, set_sync_signals=None)
    stand_ins: dict[str, dict[str, Any]] = {
        "click": {}, "gatehouse_timing": {}, "granian": {"_signals": signals}, "granian.cli": {"cli": None},
        "granian.server": {"common": common},
    }  # fmt: skip
    for name, has in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(has)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(GATEWAYS))  # for gatehouse_behind
    monkeypatch.delitem(sys.modules, "gatehouse_behind", raising=False)
    names = runpy.run_path(str(GATEWAYS / "granian/conf.py"), run_name="conf")
    monkeypatch.delitem(sys.modules, "gatehouse_behind")
    names["trusted"].append(ipaddress.ip_network("10.0.0.0/8"))
    return names


class Started:
    """Granian's start_response."""

    def __init__(self) -> None:
        self.status, self.headers = "200", []  # type: ignore[var-annotated]

    def __call__(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        self.status, self.headers = status, headers
        return lambda data: None


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/shop/a", "REMOTE_ADDR": "10.0.0.9", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), **more,
    }  # fmt: skip


def lazy(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("418 I'm a teapot", [("X-A", "b")])
    yield b"a"
    yield b"b"


# --- Granian ----------------------------------------------------------------------------------------------------------


def test_a_generators_status_and_headers_are_there_before_granian_sends_any(granian: dict[str, Any]) -> None:
    start = Started()
    answer = granian["wsgi"](lazy)(environ(), start)
    assert (start.status, start.headers) == ("418 I'm a teapot", [("X-A", "b")])
    assert b"".join(answer) == b"ab"


def test_a_line_of_granians_body_is_a_line_and_the_rest_is_not_lost(granian: dict[str, Any]) -> None:
    body = io.BufferedReader(granian["Body"](io.BytesIO(b"ab\ncdef\ngh"), 10))
    assert [body.readline(), body.readline(3), body.read()] == [b"ab\n", b"cde", b"f\ngh"]


def test_a_body_that_ends_early_is_no_whole_one(granian: dict[str, Any]) -> None:
    body = io.BufferedReader(granian["Body"](io.BytesIO(b"ab"), 3))
    with pytest.raises(ConnectionResetError, match="1 bytes before the end"):
        body.read()


@pytest.mark.parametrize("length", ["300000", None])
def test_what_an_app_leaves_unread_is_taken_in_after_its_answer(granian: dict[str, Any], length: str | None) -> None:
    body, headers = (
        io.BytesIO(bytes(300_000)),
        {"CONTENT_LENGTH": length} if length else {"HTTP_TRANSFER_ENCODING": "x"},
    )

    def refuses(environ: Any, start_response: Any) -> list[bytes]:
        start_response("401 Unauthorized", [("Content-Length", "2")])
        return [b"no"]

    answer = granian["wsgi"](refuses)(environ(**{"wsgi.input": body}, **headers), Started())
    assert b"".join(answer) == b"no"
    assert body.tell() == 0
    answer.close()
    assert body.tell() == 300_000


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_has_begun_does_not_wait_for_a_body_that_nginx_keeps(
    granian: dict[str, Any], begun: bool
) -> None:
    """Nginx sends on until an answer begins; then it waits for that one's end."""
    sent: list[bytes] = []

    async def main() -> None:
        parts, ended = 40, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal parts
            if sent:
                await ended.wait()
                return {"type": "http.disconnect"}
            await asyncio.sleep(0)
            parts -= 1
            return {"type": "http.request", "body": b"x", "more_body": parts > 0}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                sent.append(message["body"])
                if not message.get("more_body"):
                    ended.set()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            reader = asyncio.ensure_future(receive())
            await asyncio.sleep(0.01)
            await send({"type": "http.response.start", "status": 200})
            if begun:
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            else:
                reader = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b"b"})
            reader.cancel()

        await granian["http"](app, {"headers": [(b"content-length", b"40")]}, receive, send)
        assert begun or not parts

    asyncio.run(asyncio.wait_for(main(), 5))
    assert sent == ([b"a", b"b"] if begun else [b"b"])


def test_an_answer_in_parts_does_not_wait_for_a_body_that_nginx_keeps(granian: dict[str, Any]) -> None:
    class Kept(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            ended.wait(10)
            read.append(size)
            return b""

    ended, read = threading.Event(), []  # type: ignore[var-annotated]
    answer = granian["wsgi"](lazy)(environ(CONTENT_LENGTH="3", **{"wsgi.input": Kept()}), Started())
    assert list(answer) == [b"a", b"b"]
    answer.close()
    assert not read
    ended.set()


def test_a_generator_that_fails_at_once_is_no_answer(granian: dict[str, Any]) -> None:
    closed: list[bool] = []

    class Fails:
        def __iter__(self) -> Iterator[bytes]:
            yield from ()
            raise KeyError

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Fails:
        start_response("200 OK", [("X-A", "b")])
        return Fails()

    with pytest.raises(KeyError):
        granian["wsgi"](app)(environ(), Started())
    assert closed


@pytest.mark.parametrize(("peer", "seen"), [("10.0.0.9", ("9.9.9.9", "https")), ("8.8.8.8", ("8.8.8.8", "http"))])
def test_granian_believes_the_edge_alone(granian: dict[str, Any], peer: str, seen: tuple[str, str]) -> None:
    told = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "9.9.9.9", "HTTP_X_FORWARDED_PROTO": "https"}
    given = environ(**told)
    list(granian["wsgi"](lazy)(given, Started()))
    assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == seen
    scope = {
        "type": "http", "client": (peer, 1), "scheme": "http",
        "headers": [(b"x-forwarded-for", b"9.9.9.9"), (b"x-forwarded-proto", b"https")],
    }  # fmt: skip
    if granian["trusts"](peer):
        granian["gatehouse_behind"].believe(scope)
    assert (scope["client"][0], scope["scheme"]) == seen


# --- uWSGI ------------------------------------------------------------------------------------------------------------


failures: list[Any] = []


def behind(uwsgi: dict[str, Any], app: Any, given: dict[str, Any]) -> tuple[Started, bytes]:
    options = SimpleNamespace(forwarded_allow_ips="10.0.0.0/8", script_name="/shop")
    started, server = Started(), SimpleNamespace(connection_fd=lambda: -1, chunked_read=lambda: b"")
    answer = uwsgi["behind_nginx"](app, options, server, failures.append)(given, started)
    said = b"".join(answer)
    answer.close()
    return started, said


def test_an_answer_of_unknown_length_has_an_end_of_its_own(uwsgi: dict[str, Any]) -> None:
    started, said = behind(uwsgi, lazy, environ())
    assert started.headers == [("X-A", "b"), ("Transfer-Encoding", "chunked")]
    assert said == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "headers", "body"),
    [
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, "200 OK", [], b"hello"),
        ({}, "200 OK", [("content-length", "5")], b"hello"),
        ({"REQUEST_METHOD": "HEAD"}, "200 OK", [], b""),
        ({}, "204 No Content", [], b""),
    ],
)
def test_every_other_answer_is_as_it_is(
    uwsgi: dict[str, Any], request_: Any, status: str, headers: Any, body: bytes
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, headers)
        return [b"hello"]

    started, said = behind(uwsgi, app, environ(**request_))
    assert (started.headers, said) == (headers, body)


def test_an_error_before_the_first_part_takes_the_place_of_the_answer(uwsgi: dict[str, Any]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise KeyError
        except KeyError:
            start_response("500 Oops", [("Content-Length", "4")], sys.exc_info())
        return [b"oops"]

    started, said = behind(uwsgi, app, environ())
    assert (started.status, started.headers, said) == ("500 Oops", [("Content-Length", "4")], b"oops")


def test_a_generator_that_fails_before_its_first_part_is_a_500(uwsgi: dict[str, Any]) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        if environ["PATH_INFO"] != "/a":
            yield b"a"
        raise KeyError

    failures.clear()
    started, said = behind(uwsgi, app, environ())
    assert (started.status, started.headers, said) == ("500 Internal Server Error", [("Content-Length", "0")], b"")
    assert len(failures) == 1
    with pytest.raises(KeyError):  # the client sees four bytes announced and one sent
        behind(uwsgi, app, environ(PATH_INFO="/shop/b"))


def test_the_prefix_and_the_client_are_as_nginx_says(uwsgi: dict[str, Any]) -> None:
    given = environ(HTTP_X_FORWARDED_FOR="9.9.9.9", HTTP_X_FORWARDED_PROTO="https")
    behind(uwsgi, lazy, given)
    assert (given["SCRIPT_NAME"], given["PATH_INFO"]) == ("/shop", "/a")
    assert (given["REMOTE_ADDR"], given["wsgi.url_scheme"]) == ("9.9.9.9", "https")


def test_an_unread_body_is_taken_in_and_a_chunked_one_is_a_file(uwsgi: dict[str, Any]) -> None:
    body = io.BytesIO(bytes(300_000))
    behind(uwsgi, lazy, environ(CONTENT_LENGTH="300000", **{"wsgi.input": body}))
    assert body.tell() == 300_000
    chunks = iter([b"ab\nc", b"d", b""])
    assert list(io.BufferedReader(uwsgi["Body"](lambda: next(chunks)))) == [b"ab\n", b"cd"]


def test_a_files_parts_are_no_lines(uwsgi: dict[str, Any]) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "4")])
        return io.BytesIO(b"a\nb\n")

    assert behind(uwsgi, app, environ())[1] == b"a\nb\n"


# --- Gunicorn's asgi worker -------------------------------------------------------------------------------------------


@pytest.fixture
def behind_nginx(monkeypatch: pytest.MonkeyPatch) -> Any:
    (timing := ModuleType("gatehouse_timing")).asgi = lambda app: app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gatehouse_timing", timing)
    return runpy.run_path(str(GATEWAYS / "gunicorn-asgi/conf.py"))["behind_nginx"]


async def nowhere(message: dict[str, Any]) -> None:
    """send()"""


def test_who_polls_sees_that_the_client_has_gone_and_two_may_read(behind_nginx: Any) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def polls(receive: Any) -> bool:
            """Starlette's is_disconnected(): asks, and is cancelled at the first thing that it would wait for."""
            asking = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            asking.cancel()
            return bool((await asyncio.gather(asking, return_exceptions=True))[0] == {"type": "http.disconnect"})

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert not await polls(receive)
            readers = [asyncio.ensure_future(receive()) for _ in range(2)]
            await asyncio.sleep(0.01)
            gone.set()
            assert await asyncio.gather(*readers) == [{"type": "http.disconnect"}] * 2
            await polls(receive)
            await asyncio.sleep(0.01)
            assert await polls(receive)

        await asyncio.wait_for(behind_nginx(app)({"type": "http", "headers": []}, receive, nowhere), 5)

    asyncio.run(main())


@pytest.mark.parametrize("by", ["the answer", "a cancellation"])
def test_who_waits_for_a_body_ends_and_the_rest_is_taken_in(behind_nginx: Any, by: str) -> None:
    async def main() -> None:
        parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def receive() -> dict[str, Any]:
            try:
                return await parts.get()
            except (
                asyncio.CancelledError
            ):  # forgotten, as wait_for of Python 3.11 does where a part comes at that moment
                return {"type": "http.request", "body": b"", "more_body": True}

        async def quart(scope: Any, receive: Any, send: Any) -> None:
            async def reads() -> None:
                while (await receive())["type"] == "http.request":
                    pass

            reader = asyncio.create_task(reads())
            await asyncio.sleep(0.01)
            if by == "the answer":
                await send({"type": "http.response.body"})
            else:
                reader.cancel()
            await asyncio.wait([reader], timeout=2)
            assert reader.done()
            parts.put_nowait({"type": "http.request", "body": b"the rest"})

        parts.put_nowait({"type": "http.request", "body": b"a part", "more_body": True})
        await asyncio.wait_for(behind_nginx(quart)({"type": "http", "headers": []}, receive, nowhere), 5)
        assert parts.empty()

    asyncio.run(main())
