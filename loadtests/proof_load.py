"""The load of a proof: open-model requests of every class, and what is held open, through every edge in turn."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loadtests.http1 import Connection, Edge, Pool
from loadtests.openmodel import Outcome, arrivals, mix
from stack.errors import Failed

WEIGHTS = {"get": 2, "keepalive": 1, "health": 1, "post": 1, "effect": 1, "slow": 1, "upload": 1}
"""Shares of the rate: as many of each class, so that none passes because it was rarely there. health opens a connection for
each request, as monitors do; the others keep theirs."""
PATIENCE = 35.0
"""s that one answer may take: more than Nginx's own limit (timeouts.request), so that its 504 is seen."""
REOPEN = 1.0
"""s in which a WebSocket or a stream that ended properly has to be there again."""
PROPER = {1000, 1001, 1012}
"""Close codes of a server that means it: normal, going away, restarting."""
KEPT = 8
"""Connections of the class keepalive to each edge."""
MOST_IN_FLIGHT = 800
"""Below the usual limit of 1,024 open files. At a usual rate it means that answers take seconds."""
UPLOAD = random.Random(0).randbytes(200_000)
PAUSE = 1.0
"""s between a failed or empty stream and the next, so as not to hammer what is down."""
SOCKETS = 8
"""WebSockets held to each ASGI app through each edge; a message a second on each."""
STREAMS = (50, 4, 4, 4)
"""Streams held to each app through each edge, by their number of events, 200 ms apart: long ones, and many."""


@dataclass(frozen=True)
class Request:
    """What to send, and what has to come back."""

    method: str
    target: str
    body: bytes = b""
    echoed: bool = False
    key: str = ""


class OtherBody(Exception):
    """What came back is not what was sent."""


class Load:
    """All of the traffic: begins with run(), ends with `stop`."""

    def __init__(self, options: argparse.Namespace, edges: list[Edge]) -> None:
        self.options = options
        self.edges = edges
        self.outcomes: list[Outcome] = []
        self.stop = asyncio.Event()
        self.events: list[dict[str, Any]] = []
        """Edges that left rotation and came back, for the page."""
        self._out: set[Edge] = set()
        self._epoch = time.time() - time.monotonic()  # one clock that no time server sets back meanwhile
        self._pools = {edge: Pool(edge) for edge in edges}
        self._kept = {edge: Pool(edge, in_turn=True) for edge in edges}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._run = f"{options.name}-{time.time():.0f}"
        self._keys = 0
        apps: dict[str, str] = options.app
        health = [f"{prefix}/healthz" for prefix in apps] + options.health
        paths = {
            "get": [f"{prefix}/" for prefix in apps],
            "keepalive": [f"{prefix}/" for prefix in apps] or options.health,
            "health": health,
            "post": [f"{prefix}/echo" for prefix in apps],
            "effect": [f"{options.effects}/effect"] if options.effects else [],
            "slow": [f"{prefix}/wait?ms=2000" for prefix in apps],
            "upload": [f"{prefix}/echo" for prefix in apps],
        }
        self.weights = {kind: weight for kind, weight in WEIGHTS.items() if paths[kind]}
        self._paths = {kind: cycle(of) for kind, of in paths.items() if of}

    def now(self) -> float:
        """Epoch seconds."""
        return self._epoch + time.monotonic()

    async def wait(self, seconds: float) -> bool:
        """Whether the load was stopped meanwhile."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self.stop.wait()
        except TimeoutError:
            return False
        return True

    async def look(self) -> None:
        """Everything answers through every edge, or nothing is begun. Opens the connections that are kept."""
        targets = [f"{prefix}/" for prefix in self.options.app] + self.options.health
        targets += [f"{self.options.effects}/rows"] if self.options.effects else []
        for edge in self.edges:
            for target in targets:
                outcome, _ = await self.send("look", edge, Request("GET", target), self.now())
                if outcome.failure:
                    raise Failed(
                        f"{edge.address}:{edge.port}{target} does not answer well, and nothing was done yet: "
                        f"{outcome.error or outcome.failure}. Bring everything up first"
                    )
            await self._kept[edge].fill(KEPT if "keepalive" in self.weights else 0)

    async def run(self) -> None:
        """Sends until it is stopped or --at-most seconds are over, then waits for what is unanswered."""
        options = self.options
        asgi = [prefix for prefix, interface in options.app.items() if interface == "asgi"]
        held = [self._hold_socket(edge, prefix) for edge in self.edges for prefix in asgi * SOCKETS]
        held += [self._hold_stream(e, prefix, n) for e in self.edges for prefix in options.app for n in STREAMS]
        held += [self._check(edge, options.rotation) for edge in self.edges if options.rotation]
        holding = [asyncio.create_task(task) for task in held]
        start, kinds = self.now(), mix(self.weights, options.seed)
        for number, at in enumerate(arrivals(options.rate, options.at_most, options.seed)):
            # What is overdue is sent at once: the lag is then on record, and it is not the server's.
            if ((pause := start + at - self.now()) > 0 and await self.wait(pause)) or self.stop.is_set():
                break
            edge = self._in_rotation(*self.edges[number % len(self.edges) :], *self.edges)
            task = asyncio.create_task(self._arrive(next(kinds), edge, start + at))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)
        self.stop.set()
        await asyncio.gather(*holding, *self._in_flight)

    async def _check(self, edge: Edge, port: int) -> None:
        """What a balancer does: out of rotation after one bad answer or none within a second, back after two good ones."""
        checked, good = Edge(edge.address, port, "balancer", None), 2
        while not await self.wait(1):
            try:
                async with asyncio.timeout(1):
                    connection = await Connection.open(checked)
                    status, _ = await connection.exchange("GET", "/healthz", close=True)
                    connection.close()
            except Exception:
                status = 0
            good = good + 1 if 200 <= status < 300 else 0
            if good == 0 and edge not in self._out:
                self._out.add(edge)
                self.events.append({"at": self.now(), "host": edge.address, "what": "out of rotation"})
            elif good == 2 and edge in self._out:
                self._out.remove(edge)
                self.events.append({"at": self.now(), "host": edge.address, "what": "in rotation"})

    def _in_rotation(self, *edges: Edge) -> Edge:
        """The first of them that is; none: the first, because a client has to go somewhere."""
        return next((edge for edge in edges if edge not in self._out), edges[0])

    def sent(self) -> int:
        """Requests so far."""
        return len(self.outcomes) + len(self._in_flight)

    async def _arrive(self, kind: str, edge: Edge, due: float) -> None:
        if len(self._in_flight) > MOST_IN_FLIGHT:
            now = self.now()
            self.outcomes.append(
                Outcome(kind, edge.address, due, now, now, error=f"NotSent: {MOST_IN_FLIGHT} were unanswered")
            )
            return
        outcome, _ = await self.send(kind, edge, self._request(kind), due)
        self.outcomes.append(outcome)

    def _request(self, kind: str) -> Request:
        target = next(self._paths[kind])
        self._keys += 1
        key = f"{self._run}-{self._keys}"
        match kind:
            case "effect":
                return Request("POST", f"{target}?key={key}", key=key)
            case "post":
                return Request("POST", target, key.encode(), echoed=True)
            case "upload":
                return Request("POST", target, UPLOAD, echoed=True)
        return Request("GET", target)

    async def send(self, kind: str, edge: Edge, request: Request, due: float) -> tuple[Outcome, bytes]:
        """One request, once, whatever happens; and the body that came back."""
        started, status, body, error = self.now(), None, b"", ""
        connection = None
        pool = self._kept[edge] if kind == "keepalive" else self._pools[edge]
        try:
            async with asyncio.timeout(PATIENCE):
                connection = await (Connection.open(edge) if kind == "health" else pool.take())
                status, body = await connection.exchange(
                    request.method, request.target, request.body, close=kind == "health"
                )
            if request.echoed and 200 <= status < 300 and body != request.body:
                raise OtherBody(f"{len(body)} bytes came back, not the {len(request.body)} that were sent")
        except Exception as failed:  # whatever it is, this request did not get its answer
            error = _said(failed)
        if connection and error:
            connection.close()
        elif connection:
            pool.give(connection)
        return Outcome(kind, edge.address, due, started, self.now(), status, error, request.key), body

    async def _hold_socket(self, edge: Edge, prefix: str) -> None:
        """A WebSocket that sends a message a second, and is there again at once when the server ended it properly."""
        socket: ClientConnection | None = None
        due = self.now() + random.random()
        watched = socket
        while not await self._quiet(watched, due - self.now()):
            if edge in self._out and socket:
                await socket.close()
                socket = None
            edge = self._in_rotation(edge, *self.edges)
            started = self.now()
            due = min(due, started)
            status, error, note = None, "", ""
            try:
                async with asyncio.timeout(PATIENCE) as limit:
                    while status is None:
                        try:
                            socket = socket or await self._open_socket(edge, prefix)
                            await self._echo(socket)
                            status = 101
                        except ConnectionClosed as closed:
                            if not closed.rcvd or closed.rcvd.code not in PROPER:
                                raise
                            if not note:
                                limit.reschedule(asyncio.get_running_loop().time() + REOPEN)
                            socket, note = None, f"reopened after {closed.rcvd.code}"
            except Exception as failed:
                if isinstance(failed, InvalidStatus):
                    status = failed.response.status_code
                else:
                    error = _said(failed)
                note = ""
                if socket:
                    socket.transport.abort()
                socket = None
            self.outcomes.append(Outcome("ws", edge.address, due, started, self.now(), status, error, note=note))
            due = max(due + 1, self.now())  # not the generator's lag: the next message waits for this one's echo
            # An app that ends every one is asked again once a second, not at once.
            watched = None if note else socket
        if socket:
            await socket.close()

    async def _quiet(self, socket: ClientConnection | None, seconds: float) -> bool:
        """Until it is time, or the server ends the WebSocket. Whether the load was stopped."""
        ends: list[asyncio.Task[Any]] = [asyncio.create_task(self.stop.wait())]
        ends += [asyncio.create_task(socket.wait_closed())] if socket else []
        await asyncio.wait(ends, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
        return self.stop.is_set()

    async def _open_socket(self, edge: Edge, prefix: str) -> ClientConnection:
        scheme, name = ("wss", edge.host) if edge.tls else ("ws", None)
        return await connect(
            f"{scheme}://{edge.authority}{prefix}/ws", host=edge.address, port=edge.port, ssl=edge.tls,
            server_hostname=name, proxy=None, compression=None, close_timeout=REOPEN,
        )  # fmt: skip

    async def _echo(self, socket: ClientConnection) -> None:
        message = str(self.now())
        await socket.send(message)
        if (answer := await socket.recv()) != message:
            raise OtherBody(f"{len(answer)} characters came back, not the {len(message)} that were sent")

    async def _hold_stream(self, edge: Edge, prefix: str, length: int) -> None:
        """So many server-sent events at a time; the next stream has to be there as soon as one has ended."""
        due, limit = self.now() + random.random(), PATIENCE
        while not await self.wait(due - self.now()):
            edge = self._in_rotation(edge, *self.edges)
            started, status, error, note, events = self.now(), None, "", "", 0
            connection = None
            try:
                async with asyncio.timeout(limit):
                    connection = await Connection.open(edge)
                    status = await connection.request("GET", f"{prefix}/events?n={length}&ms=200")
                while part := await self._part(connection):
                    events += part.count(b"data:")
                    if self.stop.is_set():
                        note = "open at the end"
                        break
                else:
                    if not connection.framed:
                        raise ConnectionError("it ended without a terminator")
                    note = "ended early, properly" if status == 200 and events < length else ""
            except Exception as failed:
                error = _said(failed) if status is None else f"cut: {_said(failed)}"
            if connection:
                connection.close()
            outcome = Outcome("sse", edge.address, due, started, self.now(), status, error, note=note)
            self.outcomes.append(outcome)
            limit = REOPEN if note else PATIENCE  # the server ended it: then the next one has to be there
            due = self.now() + (0 if events and not outcome.failure else PAUSE)

    async def _part(self, connection: Connection) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await connection.receive()

    async def rows(self) -> dict[str, int]:
        """Key -> number of effects, as the app counts them."""
        said = ""
        for edge in (self.edges * 3)[:6]:  # what is asked here is no part of the load: it may be asked again
            outcome, body = await self.send("rows", edge, Request("GET", f"{self.options.effects}/rows"), self.now())
            if not outcome.failure:
                return dict(json.loads(body))
            said = outcome.error or outcome.failure
            await asyncio.sleep(0.5)
        raise Failed(f"The effects could not be counted: {self.options.effects}/rows: {said}.")

    def close(self) -> None:
        for pool in (*self._pools.values(), *self._kept.values()):
            pool.close()


def _said(error: Exception) -> str:
    """An Outcome's error: the exception's name and what it says."""
    return f"{type(error).__name__}: {error or 'no answer in time'}"
