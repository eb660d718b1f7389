"""HTTP/1.1 connections of a client that repeats nothing and hides nothing.

httpx would be fast enough (1.2 to 1.8 ms of CPU a request here; this takes 0.1), but it does not say what a proof
hinges on: whether the request had been written when the connection died, and whether a stream came to its proper end.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import h11


class Unanswered(ConnectionError):
    """The connection ended after the request was written and before the answer."""


@dataclass(frozen=True)
class Edge:
    """One edge by its address, asked for a name: the Host header, and the name in the TLS handshake."""

    address: str
    port: int
    host: str
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        return self.host if self.port == (443 if self.tls else 80) else f"{self.host}:{self.port}"


class Connection:
    """One connection: request(), then receive() until it gives nothing, then the next request()."""

    def __init__(self, edge: Edge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._edge, self._reader, self._writer = edge, reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self.framed = False
        """Whether the answer says where it ends: else the end of the connection is the end of it, meant or not."""
        self.timing = ""
        """Where the last answer's time went, as it says itself (Server-Timing)."""

    @classmethod
    async def open(cls, edge: Edge) -> Connection:
        name = edge.host if edge.tls else None
        return cls(edge, *await asyncio.open_connection(edge.address, edge.port, ssl=edge.tls, server_hostname=name))

    @property
    def kept(self) -> bool:
        """Whether neither side has announced its end."""
        return self._http.our_state is h11.IDLE

    @property
    def usable(self) -> bool:
        """Whether another request may be written: the server has not closed it while it was idle, either. Asks the kernel,
        because the event loop may not have come round to reading the end yet."""
        if not self.kept or self._writer.is_closing() or self._reader.at_eof():
            return False
        waiting = select.poll()
        waiting.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not waiting.poll(0)

    async def request(
        self, method: str, target: str, body: bytes = b"", close: bool = False, more: Mapping[str, str] | None = None
    ) -> int:
        """Writes the request and returns the answer's status. `close`: announces that this is the last one; more: headers."""
        headers = [("Host", self._edge.authority), ("User-Agent", "gatehouse-proof"), *(more or {}).items()]
        headers += [("Content-Length", str(len(body)))] if body or method == "POST" else []
        headers += [("Connection", "close")] if close else []
        events = (h11.Request(method=method, target=target, headers=headers), h11.Data(body), h11.EndOfMessage())
        # Not drained: an answer that comes before the whole body was taken has to be read.
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        while not isinstance(event := await self._event(), h11.Response):
            pass
        names = {name for name, _ in event.headers}
        self.framed = b"transfer-encoding" in names or b"content-length" in names
        self.timing = ", ".join(value.decode("latin-1") for name, value in event.headers if name == b"server-timing")
        return event.status_code

    async def receive(self) -> bytes:
        """The next part of the answer; nothing at its end. An answer cut short raises RemoteProtocolError."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return b""

    async def exchange(
        self, method: str, target: str, body: bytes = b"", close: bool = False, more: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """A whole request: status and body."""
        status = await self.request(method, target, body, close, more)
        parts = []
        while part := await self.receive():
            parts.append(part)
        return status, b"".join(parts)

    async def _event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            data = await self._reader.read(2**16)
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise Unanswered("closed after the request was written")
            self._http.receive_data(data)
        return event

    def close(self) -> None:
        self._writer.close()


class Pool:
    """Kept connections to one edge, without a limit: a request never waits for one.

    `in_turn`: each is used in turn, so that all of them have been idle for a while; else the last one used is the next.
    """

    def __init__(self, edge: Edge, in_turn: bool = False) -> None:
        self.edge, self._in_turn = edge, in_turn
        self._idle: deque[Connection] = deque()

    async def fill(self, count: int) -> None:
        """Opens so many."""
        for _ in range(count):
            self.give(await Connection.open(self.edge))

    async def take(self) -> Connection:
        """One to write a request on. What the server closed while it was idle is left, and that is no failure."""
        while self._idle:
            connection = self._idle.popleft() if self._in_turn else self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return await Connection.open(self.edge)

    def give(self, connection: Connection) -> None:
        """Back, if it can be used again. Not `usable`: right after a handshake, TLS tickets look like an end."""
        if connection.kept:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
