"""How long an app takes until its answer begins, told to the edge: for any WSGI or ASGI app, without a change to its code.

Each gateway's conf.py wraps the app in one of these. The duration is in ms, on this process's own clock, so that hosts
with different clocks do not matter; the edge turns it into `Server-Timing` or drops it (nginx/snippets/timing.conf).
Nothing but the standard library.
"""

from __future__ import annotations

import contextvars
from time import perf_counter
from typing import Any

HEADER = "X-Gatehouse-Time"


def wsgi(app: Any) -> Any:
    """`app`, which says in its answer's header how long it took until then: `app;dur=12.345`."""

    def timed(environ: Any, start_response: Any) -> Any:
        start = perf_counter()

        def told(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            took = f"app;dur={(perf_counter() - start) * 1000:.3f}"
            return start_response(status, [*headers, (HEADER, took)], exc_info)

        return app(environ, told)

    return timed


waits: contextvars.ContextVar[list[float]] = contextvars.ContextVar("gatehouse_waits")
"""s that the request at hand has waited for a thread, a number for each time."""


def asgi(app: Any) -> Any:
    """`app`, which says in its answer's header how long it took until then, and how much of that it waited for a thread
    of AnyIO's pool, as FastAPI's `def` routes do: `app;dur=12.345, pool;dur=0.120`."""
    count_waits()

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        start, waited = perf_counter(), []  # type: ignore[var-annotated]
        waits.set(waited)

        async def told(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                took = f"app;dur={(perf_counter() - start) * 1000:.3f}"
                if waited:
                    took += f", pool;dur={sum(waited) * 1000:.3f}"
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), (HEADER.lower().encode(), took.encode())],
                }
            await send(message)

        await app(scope, receive, told)

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

    async def counted(func: Any, *args: Any, **options: Any) -> Any:
        waited, asked = waits.get(None), perf_counter()
        if waited is None:
            return await run_sync(func, *args, **options)

        def begun(*given: Any) -> Any:
            waited.append(perf_counter() - asked)
            return func(*given)

        return await run_sync(begun, *args, **options)

    counted.waits_are_counted = True  # type: ignore[attr-defined]
    to_thread.run_sync = counted  # type: ignore[assignment]
