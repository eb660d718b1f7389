"""What Gunicorn's asgi worker leaves open behind Nginx, mended for every app without a change to its code."""

import asyncio
from typing import Any

from gatehouse_timing import asgi


def post_worker_init(worker: Any) -> None:
    worker.asgi = behind_nginx(asgi(worker.asgi))


def behind_nginx(app: Any) -> Any:
    """The client's address from X-Forwarded-For (the worker takes only the scheme from its peer's headers), the rest of a
    body the app did not read (the worker hangs up on it, and Nginx answers 502), and `http.disconnect` once the app has
    answered, as ASGI has it (the worker waits until Nginx closes the connection, and Quart 0.23 waits with it, as do the
    requests that come next on that connection)."""

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

        more, begun = True, False
        coming: Any = None
        answered = asyncio.get_running_loop().create_future()

        async def watched() -> Any:
            nonlocal more, coming
            while not answered.done():
                # A task, which outlives whoever is cancelled waiting for it: the worker's receive() waits by
                # asyncio.wait_for, which before Python 3.12 may forget a cancellation.
                part = coming = coming or asyncio.ensure_future(receive())
                if not part.done():  # else not even a moment: who asks `is_disconnected()` is cancelled already
                    await asyncio.wait((part, answered), return_when=asyncio.FIRST_COMPLETED)
                if part.done() and part is coming:  # else another reader has it
                    message, coming = part.result(), None
                    more = message.get("more_body", False)
                    return message
            return {"type": "http.disconnect"}

        async def told(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body") and not answered.done():
                answered.set_result(None)

        try:
            await app(scope, watched, told)
            while more and (answered.done() or not begun):  # Nginx sends nothing on once an answer has begun
                message, coming = await (coming or receive()), None
                more = message.get("more_body", False)
        finally:
            if coming:
                coming.cancel()

    return wrapped
