"""What an ASGI gateway leaves open behind Nginx, for those that leave much open (Hypercorn, Daphne): whom to believe about the
client, what to do with a body that the app does not read, and how to leave. Nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import random
from collections.abc import Callable
from typing import Any

LINGER = 0.0 if "GATEHOUSE_DEV" in os.environ else 2.0
"""s. A kept connection that is idle when the worker is told to end stays open for so long: Nginx may just be sending on it,
and closes its own sooner (`upstream_keep_alive`)."""

leaving = asyncio.Event()
"""Set once this worker was told to end."""


def behind_nginx(app: Any, options: Any, leave: Callable[[], None]) -> Any:
    """`app` as Nginx needs it. options: of gatehouse_workers.options(). leave: called once `max_requests` were answered."""
    networks = [ipaddress.ip_network(text) for text in options.forwarded_allow_ips.split(",")]
    left = options.max_requests and options.max_requests + random.randint(0, options.max_requests_jitter)

    @functools.lru_cache(1024)
    def trusted(peer: str) -> bool:
        address = ipaddress.ip_address(peer)
        return any(address in network for network in networks)

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        nonlocal left
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        scope["root_path"] = options.root_path  # from us alone: Daphne takes it of a header, too
        if scope["client"] is None or trusted(scope["client"][0]):
            believe(scope)
        if scope["type"] == "websocket":
            await websocket(app, scope, receive, send)
        else:
            await http(app, scope, receive, send)
        left -= 1
        if left == 0:
            leave()

    return wrapped


def believe(scope: Any) -> None:
    """The client's address and scheme from what the edge says of them: single values, which it sets itself."""
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            scope["client"] = (value.decode("latin-1"), 0)
        elif name == b"x-forwarded-proto" and value in (b"http", b"https"):
            secure = value == b"https"
            scope["scheme"] = ("wss" if secure else "ws") if scope["type"] == "websocket" else value.decode()


async def http(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Takes in what the app leaves unread of a body while its answer ends: the gateway would hang up on it, and Nginx, still
    sending, answer 502. And tells Nginx to send no more on a connection of a worker that leaves."""
    more, turn = True, asyncio.Lock()  # a framework may wait for the client's end beside its answer

    async def read() -> Any:
        nonlocal more
        async with turn:
            message = await receive()
            more = message.get("more_body", False)
            return message

    async def read_on() -> None:
        nonlocal more
        while more:
            async with turn:
                more = more and (await receive()).get("more_body", False)

    async def answer(message: Any) -> None:
        if message["type"] == "http.response.start" and leaving.is_set():
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() != b"connection"]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        if message["type"] == "http.response.body" and more and not message.get("more_body"):
            rest = asyncio.create_task(read_on())
            await send(message)
            await rest
        else:
            await send(message)

    await app(scope, read, answer)


async def websocket(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Closes it when the worker leaves (1012, service restart), so that the client comes back to another one."""
    goodbye: asyncio.Task[None] | None = None

    async def close() -> None:
        await leaving.wait()
        await send({"type": "websocket.close", "code": 1012})

    async def answer(message: Any) -> None:
        nonlocal goodbye
        await send(message)
        if message["type"] == "websocket.accept":
            goodbye = asyncio.create_task(close())

    try:
        await app(scope, receive, answer)
    finally:
        if goodbye:
            goodbye.cancel()
