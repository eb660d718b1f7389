"""A worker of Daphne (conf.py): the app timed, and what Daphne leaves open behind Nginx mended."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

import daphne.server  # before anything else of Twisted: it chooses the reactor
from daphne import http_protocol, ws_protocol
from daphne.cli import CommandLineInterface
from daphne.http_protocol import WebRequest
from daphne.ws_protocol import WebSocketProtocol
from gatehouse_behind import LINGER, behind_nginx, leaving
from gatehouse_timing import asgi
from gatehouse_workers import BACKLOG, leave_soon, load
from twisted.internet import reactor, tcp
from twisted.internet.interfaces import IPushProducer
from twisted.internet.main import CONNECTION_DONE
from twisted.web.http import HTTPChannel
from zope.interface import implementer


@implementer(IPushProducer)
class Request(WebRequest):
    """Has the app wait while nobody takes what it sends (Daphne would keep a download of 100 MB in memory), and ends at once
    when the app has (Daphne looks once a second, and never again after an app that failed in the middle of its answer)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        super().__init__(*arguments, **options)

    def handle_reply(self, message: Any) -> None:
        if message["type"] == "http.response.start" and self.channel and not self.finished and not self.producer:
            self.registerProducer(self, True)
        super().handle_reply(message)

    def ended(self, app: asyncio.Future[None]) -> None:
        if not self.finished and not app.cancelled():
            self.handle_exception(app.exception())

    def handle_exception(self, exception: BaseException | None) -> None:
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel:
            self.channel.forceAbortClient()  # so that Nginx knows that it is not all

    def pauseProducing(self) -> None:
        self.flowing.clear()

    def resumeProducing(self) -> None:
        self.flowing.set()

    stopProducing = resumeProducing

    def finish(self) -> None:
        self.flowing.set()
        if self.producer and self.channel:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        self.flowing.set()
        super().connectionLost(reason)


class Socket(WebSocketProtocol):
    """Sends empty messages, an app's headers with the handshake, and every close code (Daphne drops the first two, and
    raises for 1001 to 2999)."""

    def handle_reply(self, message: Any) -> None:
        if message["type"] == "websocket.send" and not message.get("bytes") and not message.get("text"):
            self.serverSend(b"" if message.get("bytes") is not None else "", message.get("bytes") is not None)
        elif message["type"] == "websocket.accept":
            headers: dict[str, list[str]] = {}
            for name, value in message.get("headers", ()):
                headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
            self.handshake_deferred.callback((message.get("subprotocol"), headers))
            del self.handshake_deferred
        else:
            super().handle_reply(message)

    def serverClose(self, code: int | None = None) -> None:
        self.sendCloseFrame(code=code or 1000)


class Lifespan:
    """The app's start-up and shutdown, of which Daphne tells it nothing."""

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self.app = asyncio.ensure_future(app(scope, self.said.get, self.heard.put))

    async def tell(self, what: str) -> str:
        """Why it failed; "" where it did not, or where the app knows nothing of it."""
        await self.said.put({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self.heard.get())
        await asyncio.wait({answer, self.app}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            return ""
        return answer.result().get("message") or what if answer.result()["type"] == f"lifespan.{what}.failed" else ""


class Server(daphne.server.Server):
    """On the parent's socket; when told to end, it answers what is in."""

    listener: socket.socket
    options: Any
    failed = ""

    def run(self) -> None:
        self.endpoints = []
        self.signal_handlers = False
        self.ready_callable = lambda: asyncio.ensure_future(self.serve())
        super().run()

    def create_application(self, protocol: Any, scope: Any) -> Any:
        scope.setdefault("scheme", "ws")
        scope["state"] = self.lifespan.state.copy()
        queue = super().create_application(protocol, scope)
        if isinstance(protocol, Request) and queue:
            self.connections[protocol]["application_instance"].add_done_callback(protocol.ended)
        return queue

    async def handle_reply(self, protocol: Any, message: Any) -> None:
        await super().handle_reply(protocol, message)
        if isinstance(protocol, Request):
            await protocol.flowing.wait()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, leaving.set)
        self.lifespan = Lifespan(self.application)
        if failed := await self.lifespan.tell("startup"):
            self.failed = failed
            self.stop()
            return
        self.http_factory.timeOut = self.options.keep_alive
        self.listener.listen(BACKLOG)
        port = reactor.adoptStreamPort(self.listener.fileno(), self.listener.family, self.http_factory)
        self.listener.close()
        await leaving.wait()
        # Who has come is taken in, and the port closed that very moment (stopListening does later): the kernel resets
        # connections that nobody accepted.
        port.stopReading()
        port.doRead()
        port.connectionLost(CONNECTION_DONE)
        now = loop.time()
        while self.busy() or (self.kept() and loop.time() < now + LINGER):
            if loop.time() > now + self.options.graceful_timeout:
                break
            await asyncio.sleep(0.05)
        await self.lifespan.tell("shutdown")
        self.stop()

    def busy(self) -> bool:
        """Whether somebody waits for an answer, or the app still works."""
        for of in self.connections.values():
            working = of.get("application_instance")
            if "disconnected" not in of or (working and not working.done()):
                return True
        return False

    def kept(self) -> bool:
        return any(isinstance(reader, tcp.Server) for reader in reactor.getReaders())


class CommandLine(CommandLineInterface):
    server_class = Server

    def load_asgi_app(self, asgi_app_path: str) -> Any:
        return behind_nginx(asgi(load(asgi_app_path)), Server.options, leave_soon)


def serve(listener: socket.socket, options: Any, arguments: list[str]) -> None:
    """Until this worker is told to end."""
    http_protocol.WebRequest = Request
    ws_protocol.WebSocketFactory.protocol = Socket
    HTTPChannel.totalHeadersSize = HTTPChannel.MAX_LENGTH = 2**16  # Nginx passes on up to 32 KiB; the default is 16
    Server.listener, Server.options = listener, options
    command = CommandLine()
    command.run(arguments)
    if command.server.failed:
        sys.exit(f"the app's start-up failed: {command.server.failed}")
