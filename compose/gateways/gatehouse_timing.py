"""How long an app takes until its answer begins, told to the edge, which request a line of its log is of, and a 500 where it
fails: for any WSGI or ASGI app, without a change to its code.

Each gateway's conf.py wraps the app in one of these. The duration is in ms, on this process's own clock, so that hosts
with different clocks do not matter; the edge turns it into `Server-Timing` or drops it (nginx/snippets/timing.conf).
Nothing but the standard library.
"""

from __future__ import annotations

import contextvars
import functools
import logging
from time import perf_counter
from typing import Any

HEADER = "X-Gatehouse-Time"
RAW = HEADER.lower().encode()
SORRY = b"Internal Server Error"
STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


def wsgi(app: Any, gone: Any = ()) -> Any:
    """`app`, which says in its answer's header how long it took until then: `app;dur=12.345`. Where it fails and nothing is
    sent, the answer is 500; but the gateway has a way of its own with exceptions that mean `gone`, the client."""

    mark_log()

    def timed(environ: Any, start_response: Any) -> Any:
        start, waits, held, send = perf_counter(), True, None, None
        request_id.set(environ.get("HTTP_X_REQUEST_ID", ""))

        def told(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            """Holds it until the app has returned, because Gunicorn would send a second one's headers with the first one's."""
            nonlocal held
            took = f"app;dur={(perf_counter() - start) * 1000:.3f}"
            kept = [(name, value) for name, value in headers if name.lower() != HEADER.lower()]
            held = status, [*kept, (HEADER, took)], exc_info
            return write if waits else begin()

        def begin() -> Any:
            nonlocal waits, held, send
            waits = False
            if held:
                given, held = held, None
                send = start_response(*given)
            return send

        def write(data: bytes) -> None:
            begin()(data)

        try:
            answer = app(environ, told)
        except gone:
            raise
        except Exception:
            if not waits:  # something is sent
                raise
            log_failure(environ)
            answer = [SORRY]
            told("500 Internal Server Error", [("Content-Type", "text/plain"), ("Content-Length", str(len(SORRY)))])
        begin()
        return answer

    return timed


def log_failure(request: Any) -> None:
    """Of an app; by gateways it would be told to Nginx, too, in ways that it takes for a lost replica: Gunicorn takes an app's
    OSError for its client's and says nothing, uWSGI never says anything, and those for ASGI close the connection of a
    500 that the app has sent (Starlette raises its error on after that), perhaps with the next request on its way."""
    # Not made before: an app that configures logging may silence all loggers there are.
    logging.getLogger("gatehouse").exception("%r failed", request.get("path") or request.get("PATH_INFO") or "/")


class Waits:
    """How long the request at hand has waited for threads, until its answer began."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.over = False


waits: contextvars.ContextVar[Waits] = contextvars.ContextVar("gatehouse_waits")


def asgi(app: Any) -> Any:
    """`app`, which says in its answer's header how long it took until then, and how much of that it waited for a thread
    of AnyIO's pool, as FastAPI's `def` routes do: `app;dur=12.345, pool;dur=0.120`."""
    count_waits()
    mark_log()

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        start, waited = perf_counter(), Waits()
        waits.set(waited)
        request_id.set(
            next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"x-request-id"), "")
        )

        begun = ended = False

        async def told(message: Any) -> None:
            nonlocal begun, ended
            begun = True
            if message["type"] in STARTS:
                took = perf_counter() - start
                waited.over = True
                said = f"app;dur={took * 1000:.3f}"
                if waited.seconds:  # calls side by side wait at the same time
                    said += f", pool;dur={min(waited.seconds, took) * 1000:.3f}"
                headers = [(name, value) for name, value in message.get("headers", ()) if name.lower() != RAW]
                message = {**message, "headers": [*headers, (RAW, said.encode())]}
            await send(message)
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))

        try:
            await app(scope, receive, told)
        except Exception:
            if scope["type"] != "http" or (begun and not ended):
                raise
            log_failure(scope)
            if not begun:
                headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(SORRY))]
                await told({"type": "http.response.start", "status": 500, "headers": headers})
                await told({"type": "http.response.body", "body": SORRY})

    return timed


def count_waits() -> None:
    """Has AnyIO note how long a call waits for a thread. There are 40 by default, and only the call itself knows."""
    try:
        from anyio import to_thread
    except ImportError:
        return
    run_sync = to_thread.run_sync
    if hasattr(run_sync, "waits_are_counted"):
        return

    @functools.wraps(run_sync)
    async def counted(func: Any, *args: Any, **options: Any) -> Any:
        waited, asked = waits.get(None), perf_counter()
        if waited is None or waited.over:
            return await run_sync(func, *args, **options)

        def begun(*given: Any) -> Any:
            waited.seconds += perf_counter() - asked
            return func(*given)

        return await run_sync(begun, *args, **options)

    counted.waits_are_counted = True  # type: ignore[attr-defined]
    to_thread.run_sync = counted


request_id: contextvars.ContextVar[str] = contextvars.ContextVar("gatehouse_request_id", default="")
"""Of the request at hand, as the edge's access log and the answer have it."""


def mark_log() -> None:
    """Has `logging` end each record's first line with the id of the request that it was written in, whatever the app's own
    format is; the gateway's own records of an app that failed, too. Lines of JSON stay as they are."""
    formatted = logging.Formatter.format
    if hasattr(formatted, "marks_requests"):
        return

    @functools.wraps(formatted)
    def marked(self: logging.Formatter, record: logging.LogRecord) -> str:
        text, known = formatted(self, record), request_id.get()
        of_worker = (
            record.name == "gunicorn.error" and record.levelno <= logging.INFO
        )  # "Worker exiting", after a request
        if not known or known in text or text.startswith("{") or of_worker:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} [request {known}]{newline}{rest}"

    marked.marks_requests = True  # type: ignore[attr-defined]
    logging.Formatter.format = marked  # type: ignore[method-assign]
