"""What Gunicorn's asgi worker leaves open behind Nginx, mended for every app without a change to its code."""

import asyncio
from typing import Any

from gatehouse_timing import asgi


def post_worker_init(worker: Any) -> None:
    worker.asgi = asgi(behind_nginx(worker.asgi))


def behind_nginx(app: Any) -> Any:
    """The client's address from X-Forwarded-For (the worker takes only the scheme from its peer's headers), and the rest
    of a body the app did not read (the worker hangs up on it, and Nginx answers 502)."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                scope["client"] = (value.decode("latin-1"), 0)
        if scope["type"] == "websocket":
            await app(scope, receive, send)
            return

        more = True

        async def watched() -> Any:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            if (task := asyncio.current_task()) and task.cancelling():
                # The worker waits by asyncio.wait_for, which until Python 3.12 forgets a cancellation where a part of the
                # body comes at that moment. Quart, which has answered, would wait for ever, and the connection's next
                # request with it (17 of some 9,000 bodies that it left unread).
                raise asyncio.CancelledError
            return message

        await app(scope, watched, send)
        while more:
            await watched()

    return wrapped
