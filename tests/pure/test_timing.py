"""The timer around any app, and when a generator is believed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from loadtests.hops import Histogram
from loadtests.validity import Generator, verdict
from tests.conftest import REPOSITORY


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """gatehouse_timing, found as images find it; AnyIO is as before afterwards."""
    from anyio import to_thread

    monkeypatch.syspath_prepend(str(REPOSITORY / "compose/gateways"))
    monkeypatch.setattr(to_thread, "run_sync", to_thread.run_sync)
    monkeypatch.setattr(logging.Formatter, "format", logging.Formatter.format)
    import gatehouse_timing  # type: ignore[import-not-found]

    yield gatehouse_timing
    del sys.modules["gatehouse_timing"]


def entries(value: str) -> dict[str, float]:
    return {name: float(took) for name, _, took in (part.partition(";dur=") for part in value.split(", "))}


def written(record: str, *, name: str = "app", level: int = logging.WARNING, form: str = "%(message)s") -> str:
    return logging.Formatter(form).format(logging.LogRecord(name, level, __file__, 1, record, (), None))


def test_a_line_of_the_log_names_the_request_it_is_of(timing: ModuleType) -> None:
    said: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        said.append(written("first\nsecond", form="W %(message)s"))
        said.append(written('{"json": 1}'))
        said.append(written("Worker exiting", name="gunicorn.error", level=logging.INFO))
        start_response("200 OK", [])
        return []

    timing.wsgi(timing.wsgi(app))({"HTTP_X_REQUEST_ID": "0a1b"}, lambda *_: None)
    assert said == ["W first [request 0a1b]\nsecond", '{"json": 1}', "Worker exiting"]

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        said.append(written(scope["path"]))

    async def both() -> None:
        app = timing.asgi(asgi_app)
        scopes = [
            {"type": "http", "path": path, "headers": [(b"accept", b"a"), (b"x-request-id", path.encode() * 8)]}
            for path in ("1", "2")
        ]
        await asyncio.gather(*(app(scope, None, None) for scope in scopes))
        said.append(written("outside"))

    contextvars.Context().run(asyncio.run, both())
    assert said[3:] == ["1 [request 11111111]", "2 [request 22222222]", "outside"]


# --- WSGI -------------------------------------------------------------------------------------------------------------


def answered(app: Any) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """What it called start_response with, and its body."""
    calls: list[tuple[Any, ...]] = []

    def start_response(*given: Any) -> Any:
        calls.append(given)
        return calls.append  # write()

    return calls, list(app({}, start_response))


def test_a_wsgi_app_is_timed_until_its_answer_begins(timing: ModuleType) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        time.sleep(0.02)  # a generator: nothing happens before the gateway asks for its first part
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        time.sleep(0.2)
        yield b"b"

    calls, body = answered(timing.wsgi(app))
    ((status, headers, exc_info),) = calls
    assert (status, exc_info, body) == ("200 OK", None, [b"a", b"b"])
    assert headers[0] == ("Content-Type", "text/plain")
    assert 20 <= entries(dict(headers)["X-Gatehouse-Time"])["app"] < 200


def test_what_wsgi_promises_still_holds(timing: ModuleType) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        first = [("X-Gatehouse-Time", "app;dur=1"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
        start_response("200 OK", first)("written")
        try:
            raise KeyError
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        assert len(first) == 3, "its list is its own"
        return []

    calls, _ = answered(timing.wsgi(app))
    assert [name for name, _ in calls[0][1]] == ["Set-Cookie", "Set-Cookie", "X-Gatehouse-Time"]
    assert calls[1] == "written"  # type: ignore[comparison-overlap]
    assert calls[2][0] == "500 Oops"
    assert calls[2][2][0] is KeyError


def test_a_wsgi_app_that_fails_is_a_500_and_in_the_log(timing: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise FileNotFoundError("a file of the app's")

    ((status, headers, _),), body = answered(timing.wsgi(app))
    assert (status, body) == ("500 Internal Server Error", [b"Internal Server Error"])
    assert dict(headers)["Content-Length"] == str(len(body[0]))
    assert "FileNotFoundError: a file of the app's" in caplog.text

    def late(environ: Any, start_response: Any) -> list[bytes]:  # as Flask with a teardown that fails
        write = start_response("200 OK", [("Content-Length", "4")])
        if environ["written"]:
            write(b"a")
        raise KeyError

    calls: list[tuple[Any, ...]] = []

    def start_response(*given: Any) -> Any:
        calls.append(given)
        return lambda data: None

    assert timing.wsgi(late)({"written": False}, start_response) == body
    assert [status for status, *_ in calls] == ["500 Internal Server Error"]
    with pytest.raises(KeyError):
        timing.wsgi(late)({"written": True}, start_response)
    with pytest.raises(FileNotFoundError):  # the gateway's own way with a client that has gone
        answered(timing.wsgi(app, FileNotFoundError))


# --- ASGI -------------------------------------------------------------------------------------------------------------


def sent(app: Any, kind: str = "http") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app({"type": kind}, None, send))
    return messages


@pytest.mark.parametrize("start", ["http.response.start", "websocket.accept", "websocket.http.response.start"])
def test_an_asgi_app_is_timed_until_its_answer_begins(timing: ModuleType, start: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.02)
        await send({"type": start, "headers": iter([(b"a", b"1"), (b"a", b"2"), (b"x-gatehouse-time", b"app;dur=1")])})
        await send({"type": "http.response.body", "body": b""})

    first, second = sent(timing.asgi(app))
    *own, (name, value) = first["headers"]
    assert own == [(b"a", b"1"), (b"a", b"2")]
    assert (name, second) == (b"x-gatehouse-time", {"type": "http.response.body", "body": b""})
    assert entries(value.decode())["app"] >= 20


OK = {"type": "http.response.start", "status": 200}
OOPS = {"type": "http.response.start", "status": 500}
PART, LAST = ({"type": "http.response.body", "body": b"a", "more_body": more} for more in (True, False))


@pytest.mark.parametrize(
    ("before", "seen"), [([], [500, b"Internal Server Error"]), ([OOPS, LAST], [500, b"a"]), ([OK, PART], None)]
)
def test_an_asgi_app_that_fails_is_a_500_or_cut(
    timing: ModuleType, caplog: pytest.LogCaptureFixture, before: list[dict[str, Any]], seen: list[Any] | None
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        raise FileNotFoundError("a file of the app's")

    if seen is None:
        with pytest.raises(FileNotFoundError):
            sent(timing.asgi(app))
    else:
        assert [message.get("status") or message["body"] for message in sent(timing.asgi(app))] == seen
        assert "FileNotFoundError: a file of the app's" in caplog.text
    with pytest.raises(FileNotFoundError):
        sent(timing.asgi(app), "websocket")


def test_a_wait_for_a_thread_is_counted_once_for_calls_side_by_side(timing: ModuleType) -> None:
    from anyio import CapacityLimiter, to_thread

    async def app(scope: Any, receive: Any, send: Any) -> None:
        one = CapacityLimiter(1)
        await asyncio.gather(*(to_thread.run_sync(time.sleep, 0.05, limiter=one) for _ in range(4)))
        await send({"type": "http.response.start", "headers": []})

    told = entries(sent(timing.asgi(app))[0]["headers"][0][1].decode())
    assert 50 <= told["pool"] <= told["app"] < 500


def test_what_comes_after_the_answers_beginning_is_not_kept(timing: ModuleType) -> None:
    from anyio import to_thread

    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "headers": []})
        kept.append(timing.waits.get())
        for _ in range(20):
            await to_thread.run_sync(time.sleep, 0)

    sent(timing.asgi(app))
    assert kept[0].seconds == 0


def test_lifespan_is_left_alone(timing: ModuleType) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    assert sent(timing.asgi(app), "lifespan") == [{"type": "lifespan.startup.complete"}]


# --- the generator ----------------------------------------------------------------------------------------------------


def lag(milliseconds: float) -> Histogram:
    histogram = Histogram()
    for _ in range(100):
        histogram.add(milliseconds)
    return histogram


@pytest.mark.parametrize(
    ("start_lag", "loop_lag", "p95", "word"),
    [
        (0.5, 0.5, 3, "OK"),  # 5 ms never matter
        (4.9, 4.9, 3, "OK"),
        (0.5, 4.9, 100, "OK"),
        (6, 0.5, 100, "WARN"),  # a twentieth
        (0.5, 19, 100, "WARN"),
        (21, 0.5, 100, "INVALID"),  # a fifth
        (0.5, 21, 100, "INVALID"),
        (6, 0.5, 10, "INVALID"),
    ],
)
def test_a_lag_is_compared_with_what_is_measured(start_lag: float, loop_lag: float, p95: float, word: str) -> None:
    assert verdict(Generator(lag(start_lag), lag(loop_lag)), p95).word == word


@pytest.mark.parametrize(
    ("doubt", "said"),
    [
        ({"cpu": 0.95}, "95% of its core"),
        ({"steal": 0.2}, "20% of this machine's time"),
        ({"dropped": 3}, "3 requests were not sent"),
        ({"unfinished": 2}, "2 requests had no answer"),
        ({"loop_lag": Histogram()}, "not known"),
    ],
)
def test_other_doubts_are_said(doubt: dict[str, Any], said: str) -> None:
    found = verdict(Generator(**{"loop_lag": lag(0.5), **doubt}), 100)
    assert found.word == "WARN"
    assert said in found.reasons[0]


@pytest.mark.parametrize("sign", [{"cpu": 1.03}, {"dropped": 18_556}])
def test_a_generator_that_was_late_and_full_has_made_the_p95_itself(sign: dict[str, Any]) -> None:
    late: dict[str, Any] = {"start_lag": lag(786), "loop_lag": lag(0.5)}
    assert verdict(Generator(**late), 4148).word == "WARN"
    assert verdict(Generator(**late, **sign), 4148).word == "INVALID"


def test_a_run_without_an_answer_says_nothing() -> None:
    assert verdict(Generator(loop_lag=lag(0.5)), None).word == "INVALID"
