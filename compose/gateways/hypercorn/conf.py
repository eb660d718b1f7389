"""Hypercorn's command line on a parent of ours, the app timed, and what it leaves open behind Nginx mended:
python -P conf.py APP OPTIONS...

Its own parent ends the other workers at once when the first one has finished (requests of theirs are cut), ends all when one
is killed, and keeps the port open meanwhile; its --max-requests-jitter takes the value of --max-requests (0.18.0).
"""

import asyncio
import contextlib
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any

import gatehouse_workers
import hypercorn.__main__
import hypercorn.asyncio.run
import uvloop
from gatehouse_behind import LINGER, behind_nginx, leaving
from gatehouse_timing import asgi
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.run import worker_serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config, Sockets
from hypercorn.protocol import h11
from hypercorn.protocol.events import Body, EndBody, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from wsproto.events import Ping

options, rest = gatehouse_workers.options("--websocket-ping-interval")


class Stream(HTTPStream):
    """Is over when the request's body is in, too: else Hypercorn closes the connection, and Nginx, still sending, answers
    502 instead of what the app did. What an app that has answered leaves of it is dropped: ten parts wait for the app, and
    with the next the connection would, for ever, because nobody takes them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.received, self.drops = asyncio.Event(), False

    async def handle(self, event: Any) -> None:
        if isinstance(event, EndBody | StreamClosed):
            self.received.set()
        if not (self.drops and isinstance(event, Body | EndBody)):
            await super().handle(event)

    def drop(self) -> None:
        self.drops = True
        parts = self.app_put.__self__  # type: ignore[union-attr]  # asyncio.Queue.put
        gone = False
        while not parts.empty():
            gone = parts.get_nowait()["type"] == "http.disconnect" or gone
        if gone:  # once only, and who reads beside the answer waits for it
            parts.put_nowait({"type": "http.disconnect"})

    async def app_send(self, message: Any) -> None:
        if message is None:  # the app has returned, or failed
            self.drop()
        await super().app_send(message)

    async def _send_closed(self) -> None:
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
        self.drop()
        await self.received.wait()
        await self.send(StreamClosed(stream_id=self.stream_id))


class Door:
    """A listening server that takes in whoever has come before it closes: the kernel resets connections that nobody accepted,
    and a POST that was sent on one is lost. (Hypercorn also forgets a connection whose task has not begun by then.)"""

    def __init__(self, server: asyncio.Server, entered: Any, listener: socket.socket) -> None:
        self.server, self.entered, self.listener = server, entered, listener
        self.last: list[Any] = []

    def protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self.entered)

    def close(self) -> None:
        connections = []
        with contextlib.suppress(OSError):  # nobody is left
            while True:
                connections.append(self.listener.accept()[0])
        self.server.close()
        for connection in connections:
            connection.setblocking(False)
            self.last.append(asyncio.get_running_loop().connect_accepted_socket(self.protocol, connection))

    async def wait_closed(self) -> None:
        await asyncio.gather(*self.last, return_exceptions=True)
        await asyncio.sleep(0.05)


async def start_server(entered: Any, sock: socket.socket, **options: Any) -> Door:
    return Door(await asyncio.start_server(entered, sock=sock, **options), entered, sock)


async def idle_timeout(self: Any) -> None:
    """Nginx may just be sending on an idle connection when the worker is told to end. (Not wait_for, as in Hypercorn: Python
    3.11's forgets a cancellation at that moment, and the request that has come is closed unanswered.)"""
    try:
        async with asyncio.timeout(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        await asyncio.sleep(LINGER)
    except TimeoutError:
        pass
    await asyncio.shield(self._initiate_server_close())


async def send_pings(self: Any) -> None:
    """Hypercorn's own sleeps through the end of the socket, and the worker cannot stop for that long."""
    while not self.closed:
        await self._send_wsproto_event(Ping())
        due = self.context.time() + self.config.websocket_ping_interval
        while not self.closed and self.context.time() < due:
            await asyncio.sleep(min(0.5, due - self.context.time()))


hypercorn.asyncio.run.asyncio = SimpleNamespace(**{**vars(asyncio), "start_server": start_server})  # type: ignore[assignment]
h11.HTTPStream = Stream  # type: ignore[misc]
TCPServer._idle_timeout = idle_timeout  # type: ignore[method-assign]
WSStream._send_pings = send_pings  # type: ignore[method-assign]

# What the command line has no words for.
Config.h11_max_incomplete_size = 2**16  # Nginx passes on up to 32 KiB of headers; the default answers 431 at 16
Config.include_server_header = False
Config.keep_alive_max_requests = sys.maxsize
Config.startup_timeout = 86400  # the engine's patience ends before: timeouts.start
Config.websocket_max_message_size = 2**20
Config.websocket_ping_interval = options.websocket_ping_interval  # its flag takes whole seconds only


def run(config: Config) -> int:
    config.root_path, config.graceful_timeout = options.root_path, options.graceful_timeout

    def work(listener: socket.socket) -> None:
        app = behind_nginx(asgi(gatehouse_workers.load(options.entry)), options, gatehouse_workers.leave_soon)

        async def serve() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
            await worker_serve(
                ASGIWrapper(app), config, sockets=Sockets([], [listener], []), shutdown_trigger=leaving.wait
            )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    return gatehouse_workers.run(options.bind, options.workers, work, options.reload)


hypercorn.__main__.run = run

if __name__ == "__main__":
    sys.exit(hypercorn.__main__.main([options.entry, *rest]))
