"""The load of a proof against small servers that answer well, or fail in one way: what it counts, and how it ends."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from loadtests import proof


class Server:
    """An app under /app that counts effects, on a port of its own. Its faults are switched on by attributes."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.reset_every = self.refuse_every = self.double_every = self.lose_every = 0
        self.close = ""
        """"silently", together with an answer that does not announce it, or "announced"."""
        self.socket_end: int | None = None
        """Close code after one message; 0: the connection dies."""
        self.stream_end: bytes | None = None
        """What comes after three events."""
        self.connections = self.answers = self.resets = self.refused = self.effects = 0
        self.rows: Counter[str] = Counter()
        self._tls = tls
        self._open: set[asyncio.StreamWriter] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(started)))
        self._thread.start()
        started.wait()

    async def _run(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls) as server:
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await self._stop.wait()
        for writer in self._open:
            writer.transport.abort()
        while self._open:  # their tasks end by themselves
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.connections += 1
        to_reset = self.reset_every and self.connections % self.reset_every == 0
        try:
            while await self._answer(reader, writer, bool(to_reset)):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        writer.close()
        self._open.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_reset: bool) -> bool:
        """Whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        url = urlsplit(head.split()[1].decode())
        if to_reset:
            self.resets += 1
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if url.path == "/app/ws":
            await self._converse(head, reader, writer)
            return False
        if url.path == "/app/events":
            return await self._stream(writer)
        self.answers += 1
        status = "200 OK"
        if self.refuse_every and self.answers % self.refuse_every == 0:
            self.refused += 1
            status = "502 Bad Gateway"
        elif url.path == "/app/effect":
            self.effects += 1
            double = self.double_every and self.effects % self.double_every == 0
            lose = self.lose_every and self.effects % self.lose_every == 0
            self.rows[parse_qs(url.query)["key"][0]] += 0 if lose else 2 if double else 1
        elif url.path == "/app/rows":
            body = json.dumps(self.rows).encode()
        if self.close == "silently":  # the end in one segment with the answer: never just after the next request
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        announced = "Connection: close\r\n" if self.close == "announced" else ""
        writer.write(f"HTTP/1.1 {status}\r\n{announced}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return not self.close

    async def _stream(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3 if self.stream_end is not None else 50):
            writer.write(b"8\r\ndata: %d\n\r\n" % (number % 10))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n" if self.stream_end is None else self.stream_end)
        return self.stream_end is None

    async def _converse(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        data = head
        while data:
            protocol.receive_data(data)
            for event in protocol.events_received():
                if not isinstance(event, Frame):
                    protocol.send_response(protocol.accept(event))  # type: ignore[arg-type]
                elif event.opcode is Opcode.TEXT:
                    protocol.send_text(event.data)
                    if self.socket_end:
                        protocol.send_close(self.socket_end)
                    elif self.socket_end == 0:
                        return
            for part in protocol.data_to_send():
                writer.write(part)
            data = b"" if protocol.close_expected() else await reader.read(2**16)


class Run:
    """`python -m loadtests.proof` on it, and what it wrote."""

    def __init__(self, server: Server, folder: Path, plain: bool = True) -> None:
        self.server, self.folder, self.plain = server, folder, plain

    def arguments(self, *arguments: str, command: str = "true") -> list[str]:
        return [
            *("--edge", "127.0.0.1", "--port", str(self.server.port), "--name", "x", "--out", str(self.folder)),
            *("--warm", "0.3", "--cool", "0.3", *(["--plain"] if self.plain else [])),
            *(arguments or ("--app", "/app=wsgi")),
            *("--", *command.split()),
        ]

    def __call__(self, *arguments: str, command: str = "true") -> int:
        return proof.main(self.arguments(*arguments, command=command))

    def start(self, *arguments: str, command: str) -> subprocess.Popen[bytes]:
        """As a process of its own; returns when the load has begun."""
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.proof", *self.arguments(*arguments, command=command)],
            stdin=subprocess.DEVNULL,
        )
        while self.server.answers < 20:
            time.sleep(0.01)
        return process

    @property
    def facts(self) -> Any:
        return json.loads((self.folder / "x/proof.json").read_text())

    @property
    def requests(self) -> list[dict[str, str]]:
        with gzip.open(self.folder / "x/requests.csv.gz", "rt") as file:
            return list(csv.DictReader(file))

    @property
    def failures(self) -> dict[str, int]:
        return dict(self.facts["summary"]["all"]["failures"])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    server = Server()
    yield Run(server, tmp_path)
    server.stop()


@pytest.fixture
def tls_run(tmp_path: Path) -> Iterator[Run]:
    """Its certificate is for gatehouse.test, its authority in ca.pem."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("gatehouse.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = Server(context)
    yield Run(server, tmp_path, plain=False)
    server.stop()


def test_a_server_that_answers_well(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_text(
        json.dumps({"at": time.time(), "host": "<host1>", "what": "die", "service": "app"}) + "\nbroken\n"
    )
    asked = ("--app", "/app=asgi", "--effects", "/app", "--events", str(events), "--requests", "300", "--rate", "200")
    assert run(*asked) == 0
    assert run.failures == {}
    assert set(run.facts["summary"]) == {"get", "post", "effect", "health", "keepalive", "slow", "upload", "ws", "sse", "all"}  # fmt: skip
    assert len(run.requests) == run.facts["summary"]["all"]["requests"] >= 300
    assert run.facts["effects"] == {"counted": len(run.server.rows), "lost": [], "doubled": []}
    assert run.facts["generator"]["verdict"] in ("OK", "WARN")
    page = (tmp_path / "x/proof.html").read_text()
    assert "&lt;host1&gt; app die" in page
    assert "None of " in page
    assert not re.search(r"(src|href)=", page), "the page has to stand alone"


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [("false", (), 2), ("false", ("--expect-failure",), 0), ("true", ("--expect-failure",), 2)],
)
def test_the_end_that_a_command_has_to_have(run: Run, command: str, arguments: tuple[str, ...], code: int) -> None:
    assert run("--app", "/app=wsgi", *arguments, command=command) == code


@pytest.mark.parametrize("close", ["silently", "announced"])
def test_a_connection_closed_between_requests_is_no_failure(run: Run, close: str) -> None:
    run.server.close = close
    assert run() == 0
    assert run.server.connections >= run.server.answers  # every answer was its connection's last


def test_a_connection_that_dies_under_a_request_is_one(run: Run) -> None:
    run.server.close, run.server.reset_every = "silently", 50
    assert run("--app", "/app=wsgi", "--rate", "200", "--requests", "200") == 1
    assert sum(run.failures.values()) == run.server.resets > 0
    assert set(run.failures) <= {"ConnectionResetError", "Unanswered"}


def test_other_statuses(run: Run) -> None:
    run.server.refuse_every = 20
    assert run() == 1
    assert run.failures == {"status 502": run.server.refused}


def test_effects_lost_and_doubled(run: Run) -> None:
    run.server.double_every, run.server.lose_every = 7, 5
    assert run("--effects", "/app", "--rate", "60") == 1
    assert run.failures == {}
    assert len(run.facts["effects"]["doubled"]) == sum(1 for count in run.server.rows.values() if count == 2) > 0
    assert len(run.facts["effects"]["lost"]) == sum(1 for count in run.server.rows.values() if count == 0) > 0


def test_what_is_held_open_may_end_properly(run: Run) -> None:
    run.server.socket_end, run.server.stream_end = 1012, b"0\r\n\r\n"
    assert run("--app", "/app=asgi", "--cool", "2") == 0
    summary = run.facts["summary"]
    assert summary["ws"]["notes"]["reopened after 1012"] >= 1
    assert summary["sse"]["notes"]["ended early, properly"] >= 2


def test_what_is_held_open_may_not_be_cut(run: Run) -> None:
    run.server.socket_end, run.server.stream_end = 0, b""
    assert run("--app", "/app=asgi", "--cool", "1.5") == 1
    summary = run.facts["summary"]
    assert summary["ws"]["failures"]["ConnectionClosedError"] >= 1
    assert summary["sse"]["failures"]["cut"] >= 1
    assert run.failures.keys() == {"ConnectionClosedError", "cut"}


def test_over_tls_through_two_edges(tls_run: Run) -> None:
    asked = ("--app", "/app=asgi", "--edge", "localhost", "--ca", str(tls_run.folder / "ca.pem"))
    assert tls_run(*asked, "--host", "gatehouse.test") == 0
    assert {request["edge"] for request in tls_run.requests} == {"127.0.0.1", "localhost"}
    assert tls_run(*asked, "--host", "other.test") == 2  # its certificate is another's: nothing was done


def test_what_does_not_answer_before_anything_is_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.server.refuse_every = 1
    assert run(command=f"touch {run.folder}/done") == 2
    assert "/app/ does not answer well, and nothing was done yet: status 502" in capsys.readouterr().err
    assert not (run.folder / "done").exists()


def test_a_load_that_ends_before_the_command(run: Run) -> None:
    assert run("--app", "/app=wsgi", "--at-most", "1", command="sleep 1.2") == 3
    assert "Raise --at-most" in run.facts["verdict"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(run: Run, number: signal.Signals) -> None:
    """The load stops, the command is told, what is known is written."""
    process = run.start("--app", "/app=asgi", "--warm", "0", command="sleep 60")
    process.send_signal(number)
    assert process.wait(5) == 130
    assert run.facts["summary"]["all"]["requests"] >= 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--edge", "127.0.0.1", "--app", "/app=wsgi"], "say what to prove, after --"),
        (["--edge", "127.0.0.1", "--", "true"], "say what to ask for"),
        (["--edge", "127.0.0.1", "--app", "/app", "--", "true"], "write a path and its interface"),
        (["--edge", "127.0.0.1", "--app", "/app=wsgi", "--", "no-such-command"], "no-such-command: no such command"),
        (["--edge", "127.0.0.1", "--rate", "x", "--", "true"], "'x': a number from 1 to 1000"),
        (["--edge", "127.0.0.1", "--name", "../x", "--", "true"], "it names a folder"),
    ],
)
def test_options_that_make_no_sense(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        proof.main(arguments)
    assert end.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
