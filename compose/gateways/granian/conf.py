"""Granian's command line, the app timed, and what it leaves open behind Nginx mended: python -P conf.py APP OPTIONS...

For both interfaces. One option more: --forwarded-allow-ips, whose X-Forwarded-* to believe. (Granian's own wrappers believe
a scheme only beside a client's address, which a health check has not.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import ipaddress
import math
import os
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import gatehouse_behind
import gatehouse_timing
from granian import _signals
from granian.cli import cli
from granian.server import common

trusted: list[Any] = []
receiving: dict[Any, asyncio.Future[Any]] = {}
"""`send` of each WebSocket in this worker -> what it is about to receive."""
ports: set[int] = set()
leaving = threading.Event()
LINGER = 0 if "GATEHOUSE_DEV" in os.environ else 2.0
"""s. After SIGTERM, Nginx has so long to close its idle connections (`upstream_keep_alive`: 1 s)."""
ON_ITS_WAY = 1.0
"""s. So long an answer that has begun waits, at its end, for what Nginx had sent of the request's body."""

load_target = common.load_target
set_loop_signals, set_sync_signals = _signals.set_loop_signals, _signals.set_sync_signals


@functools.lru_cache(1024)
def trusts(peer: str) -> bool:
    return bool(peer) and any(ipaddress.ip_address(peer) in network for network in trusted)  # a unix socket has no peer


def load(target: str, **options: Any) -> Any:
    options["factory"] = target.endswith("()")
    return load_target(target.removesuffix("()"), **options)


# --- WSGI -------------------------------------------------------------------------------------------------------------


class Body(io.RawIOBase):
    """A request's body. Granian's own loses what follows the first readline() (multipart parsers of Pyramid's kind use it), and
    ends alike whether the client has sent everything or has gone."""

    def __init__(self, body: Any, length: int | None) -> None:
        self.body, self.chunked = body, length is None
        self.missing = 1 if length is None else length
        """Bytes that are still to come; while it is chunked and has not ended: 1."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.body.read(len(buffer))
        buffer[: len(part)] = part
        if self.chunked:
            self.missing = bool(part)
        elif part:
            self.missing -= len(part)
        elif self.missing:
            raise ConnectionResetError(f"the client has gone, {self.missing} bytes before the end of its request")
        return len(part)

    def read_on(self) -> None:
        """Takes in what the app has left: Granian would hang up on it, and Nginx, still sending, answer 502."""
        with contextlib.suppress(ConnectionResetError):
            while self.missing and self.read(2**16):
                pass


class Answer:
    """An answer of which the first part is there already. The body that the app has not read is taken in at its end."""

    def __init__(self, answer: Any, body: Body | None) -> None:
        self.answer, self.body, self.parts, self.begun = answer, body, iter(answer), False
        try:
            self.first = next(self.parts, b"")
        except Exception:
            self.close()
            raise

    def __iter__(self) -> Any:
        self.begun = True
        yield self.first
        yield from self.parts

    def close(self) -> None:
        try:
            if hasattr(self.answer, "close"):
                self.answer.close()
        finally:
            if self.body and self.body.missing and self.begun:
                # By another thread, which ends with the connection: there is no reading for some time.
                (reader := threading.Thread(target=self.body.read_on, daemon=True)).start()
                reader.join(ON_ITS_WAY)
            elif self.body:
                self.body.read_on()


def wsgi(app: Any) -> Any:
    """`app` as Nginx needs it."""

    def wrapped(environ: Any, start_response: Any) -> Any:
        if trusts(environ["REMOTE_ADDR"]):
            environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR") or environ["REMOTE_ADDR"]
            if environ.get("HTTP_X_FORWARDED_PROTO") in ("http", "https"):
                environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"]
        body, length = None, environ.get("CONTENT_LENGTH")
        if length or "HTTP_TRANSFER_ENCODING" in environ:
            body = Body(environ["wsgi.input"], int(length) if length else None)
            environ["wsgi.input"] = io.BufferedReader(body, 2**16)
        answer = app(environ, start_response)
        # A generator calls start_response with its first part, or fails then; and Granian has sent 200 before that.
        if not isinstance(answer, list) or (body and body.missing):
            answer = Answer(answer, body)
        if leaving.is_set():
            start_response.headers = [*start_response.headers, ("Connection", "close")]
        return answer

    return wrapped


# --- ASGI -------------------------------------------------------------------------------------------------------------


def asgi(app: Any) -> Any:
    """`app` as Nginx needs it."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if trusts(scope["client"][0]):
            gatehouse_behind.believe(scope)
        if scope["type"] == "http":
            await http(app, scope, receive, send_and_close(send) if leaving.is_set() else send)
        else:
            await websocket(app, scope, receive, send)

    return wrapped


def send_and_close(send: Any) -> Any:
    async def answer(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return answer


async def http(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Takes in what the app leaves unread of a body: Granian would hang up on it, and Nginx, still sending, answer 502."""
    more = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
    if not more:
        await app(scope, receive, send)
        return

    turn, coming = asyncio.Lock(), None
    left, parts, begun, ended = math.inf, False, False, False

    async def part() -> Any:
        """Shielded: Quart cancels what waits here when it has answered."""
        nonlocal more, coming
        coming = coming or asyncio.ensure_future(receive())
        message = await asyncio.shield(coming)
        coming, more = None, message.get("more_body", False)
        return message

    async def watched() -> Any:
        async with turn:
            return await part()

    async def rest() -> None:
        while more and (ended or not begun):
            async with turn:
                if more:
                    await part()

    async def last(message: Any) -> None:
        """After the last byte of an answer in parts, as Quart's all are, or where somebody reads beside it, Granian says that
        the client has gone, and hangs up; so what is left of the body is taken in just before that. Of an answer that has
        begun, this is what is on its way: Nginx sends nothing on then, and waits for the end of the answer."""
        nonlocal left, parts, begun, ended
        if message["type"] == "http.response.start":
            lengths = [int(value) for name, value in message.get("headers", ()) if name.lower() == b"content-length"]
            left = lengths[0] if lengths else math.inf
        elif message["type"] == "http.response.body":
            left -= len(message.get("body", b""))
            parts = parts or message.get("more_body", False)
            ended = left <= 0 or not message.get("more_body")
            if ended and (parts or turn.locked()):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ON_ITS_WAY if begun else None):
                        await rest()
            begun = True
        await send(message)

    try:
        await app(scope, watched, last)
        await rest()
    finally:
        if coming:
            coming.cancel()


async def websocket(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """No message larger than a MiB: there is no option, and Granian takes 64. And an end when the worker leaves."""

    async def bounded() -> Any:
        message, code = None, 1012  # service restart
        if not leaving.is_set():
            receiving[send] = asyncio.ensure_future(receive())
            try:
                message = await receiving[send]
            except asyncio.CancelledError:
                if not leaving.is_set():
                    raise
        if message and len(message.get("bytes") or message.get("text") or "") > 2**20:
            message, code = None, 1009  # message too big
        if message is None:
            await send({"type": "websocket.close", "code": code})
            message = {"type": "websocket.disconnect", "code": code}
        return message

    try:
        await app(scope, bounded, send)
    finally:
        receiving.pop(send, None)


# --- leaving ----------------------------------------------------------------------------------------------------------


def connections() -> Iterator[tuple[int, socket.socket, bool]]:
    """This process's sockets of the gateway's port: number, the socket, whether it listens."""
    for number in (int(path.name) for path in Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as own:
                    if own.family in (socket.AF_INET, socket.AF_INET6) and own.getsockname()[1] in ports:
                        yield number, own, bool(own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def leave(told: Any) -> None:
    """New connections are refused at once, so that Nginx goes to another replica; kept ones wait for Nginx to close them,
    because it may just be sending a POST on one. Granian alone would close both together."""
    for number, own, listens in connections():
        if listens:
            own.listen(0)
            end = time.monotonic() + 1
            # Whom the kernel has taken in already: tcpi_unacked of a listening socket.
            while struct.unpack_from("I", own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]:
                if time.monotonic() > end:
                    break
                time.sleep(0.002)
            # Closed under Granian's hands; of one that is shut down it would go on accepting, and never leave.
            with socket.socket() as nothing:
                os.dup2(nothing.fileno(), number, inheritable=False)
    end = time.monotonic() + LINGER
    while time.monotonic() < end and any(not listens for _, _, listens in connections()):
        time.sleep(0.05)
    told.set()


def in_a_thread(told: Any) -> None:
    leaving.set()
    threading.Thread(target=leave, args=(told,), daemon=True).start()


def sync_signals() -> Any:
    told = set_sync_signals()
    signal.signal(signal.SIGTERM, lambda *_: in_a_thread(told))
    return told


def loop_signals(loop: Any) -> Any:
    told = set_loop_signals(loop)

    def handler() -> None:
        in_a_thread(told)
        for received in receiving.values():  # else the worker would wait for clients that are never told
            received.cancel()

    loop.add_signal_handler(signal.SIGTERM, handler)
    return told


def one_door_for_all(self: Any) -> None:
    """Else a reload ends the only worker, whose door it is, and requests get 502 until the next one has started."""
    self._shd = common.SocketSpec(self.bind_addr, self.bind_port, self.backlog).build()
    self._sfd = self._shd.get_fd()


# --- the command line -------------------------------------------------------------------------------------------------


def main() -> None:
    def trust(context: Any, parameter: Any, value: str) -> None:
        trusted.extend(map(ipaddress.ip_network, value.split(",")))

    def interface(context: Any, parameter: Any, value: Any) -> Any:
        mend, timed = (wsgi, gatehouse_timing.wsgi) if value == "wsgi" else (asgi, gatehouse_timing.asgi)
        common.load_target = lambda *arguments, **options: mend(timed(load(*arguments, **options)))
        return value

    options = {parameter.name: parameter for parameter in cli.params}

    def port(context: Any, parameter: Any, value: int) -> int:
        ports.add(value)
        return value

    options["interface"].callback, options["port"].callback = interface, port
    # Idle connections are closed by it, too, and a minute would be less than `keep_alive`.
    options["http1_header_read_timeout"].type = click.IntRange(1)
    options["workers_kill_timeout"].type = click.IntRange(1)
    cli.params.append(click.Option(["--forwarded-allow-ips"], callback=trust, expose_value=False))
    cli()


_signals.set_loop_signals, _signals.set_sync_signals = loop_signals, sync_signals
if "GATEHOUSE_DEV" in os.environ:
    common.AbstractServer._init_shared_socket = one_door_for_all

if __name__ == "__main__":
    main()
