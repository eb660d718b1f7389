"""What Hypercorn and Daphne get of ours: a parent with workers, really forked, and the wrapper around any ASGI app."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stack.symptoms import of_log
from tests.conftest import REPOSITORY
from tests.pure.conftest import ASGI, Draft

GATEWAYS = REPOSITORY / "compose/gateways"
SERVES = """
    def work(listener):
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        listener.listen()
        while not stop:
            if not select.select([listener], [], [], 0.05)[0]:
                continue
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            asked = connection.recv(100)
            connection.sendall(str(os.getpid()).encode())
            connection.close()
            if asked == b"leave":
                gatehouse_workers.leave_soon()
        listener.close()
        time.sleep(0.3)
"""


class Running:
    """gatehouse_workers.run() in a process of its own."""

    def __init__(self, code: str, folder: Path, count: int = 2, reload: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        main = f"""
            import os, select, signal, sys, time
            import gatehouse_workers
            {textwrap.indent(textwrap.dedent(code), " " * 12).strip()}
            sys.exit(gatehouse_workers.run("127.0.0.1:{self.port}", {count}, work, {reload}))
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(main)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(GATEWAYS)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: bytes = b"who") -> int:
        """The process that answers, as soon as one does."""
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(what)
                    return int(connection.recv(100))
            except (OSError, ValueError):
                time.sleep(0.05)
        raise AssertionError("nobody answers")

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in children}

    def until(self, true: Callable[[], object]) -> None:
        for _ in range(100):
            if true():
                return
            time.sleep(0.05)
        raise AssertionError(self.workers())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(code: str = SERVES, **options: Any) -> Running:
        made.append(Running(code, tmp_path, **options))
        return made[-1]

    yield make
    for running in made:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def test_told_to_end_it_closes_its_port_and_waits_for_its_workers(run: Callable[..., Running]) -> None:
    running = run()
    running.ask()
    running.until(lambda: len(running.workers()) == 2)
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # each of them goes on for 0.3 s
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port))
    assert running.process.wait(5) == 0


def test_a_killed_worker_is_replaced_and_the_doctor_knows(run: Callable[..., Running], draft: Draft) -> None:
    running = run()
    running.until(lambda: len(running.workers()) == 2)
    os.kill(pid := running.ask(), signal.SIGKILL)
    running.until(lambda: len(running.workers()) == 1)
    running.until(lambda: len(running.workers()) == 2)
    running.process.send_signal(signal.SIGTERM)
    log = running.process.communicate(timeout=5)[1].splitlines()
    assert log == [f"Worker (pid:{pid}) was sent SIGKILL! Perhaps out of memory?"]
    draft.app(f"{ASGI}gateway: hypercorn\n")
    assert ["got killed from outside" in finding.sentence for finding in of_log(draft.plan(), log)] == [True]


def test_one_that_leaves_by_itself_is_replaced_before_it_is_gone(run: Callable[..., Running]) -> None:
    running = run(count=1)
    leaves = running.ask(b"leave")
    running.until(lambda: len(running.workers()) == 2)
    assert leaves in running.workers()
    running.until(lambda: leaves not in running.workers())
    assert running.ask() != leaves


@pytest.mark.parametrize(("how", "code"), [("raise RuntimeError('on purpose')", 1), ("sys.exit(7)", 7)])
def test_what_cannot_be_loaded_ends_all(run: Callable[..., Running], how: str, code: int) -> None:
    running = run(f"def work(listener):\n    {how}\n")
    said = running.process.communicate(timeout=10)[1]
    assert running.process.returncode == code
    assert ("on purpose" in said) is (code == 1)


def test_workers_end_with_their_parent(run: Callable[..., Running]) -> None:
    running = run()
    running.until(lambda: len(running.workers()) == 2)
    running.ask()
    workers = running.workers()
    running.process.kill()
    running.process.wait()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.05)
    raise AssertionError("still there")


def test_a_changed_file_replaces_all(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(reload=True)
    running.ask()
    running.until(lambda: len(running.workers()) == 2)
    before = running.workers()
    (tmp_path / "new.py").write_text("")
    running.until(lambda: len(running.workers()) == 2 and not running.workers() & before)


# --- around the app ---------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(GATEWAYS))
    import gatehouse_behind  # type: ignore[import-not-found]

    yield gatehouse_behind
    del sys.modules["gatehouse_behind"]


def options(**more: Any) -> SimpleNamespace:
    given = {
        "forwarded_allow_ips": "127.0.0.1,10.0.0.0/8",
        "root_path": "/shop",
        "max_requests": 0,
        "max_requests_jitter": 0,
    }
    return SimpleNamespace(**{**given, **more})


HEADERS = [(b"x-forwarded-for", b"203.0.113.7"), (b"x-forwarded-proto", b"https")]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def request(kind: str = "http", peer: str | None = "10.1.2.3") -> dict[str, Any]:
    return {"type": kind, "scheme": "ws" if kind == "websocket" else "http", "headers": HEADERS,
            "client": (peer, 1) if peer else None, "root_path": "/evil"}  # fmt: skip


async def ask(app: Any, *bodies: tuple[bytes, bool], scope: dict[str, Any] | None = None) -> tuple[list[Any], int]:
    """What was sent, and how many messages of the body are left in the queue."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for body, more in bodies or ((b"", False),):
        queue.put_nowait({"type": "http.request", "body": body, "more_body": more})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope or request(), queue.get, send)
    return sent, queue.qsize()


@pytest.mark.parametrize(
    ("kind", "peer", "client", "scheme"),
    [
        ("http", "10.1.2.3", "203.0.113.7", "https"),
        ("websocket", "127.0.0.1", "203.0.113.7", "wss"),
        ("http", None, "203.0.113.7", "https"),  # a unix socket's other end
        ("http", "192.0.2.1", "192.0.2.1", "http"),
        ("websocket", "192.0.2.1", "192.0.2.1", "ws"),
    ],
)
def test_the_edge_alone_is_believed(behind: ModuleType, kind: str, peer: str | None, client: str, scheme: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(ask(behind.behind_nginx(app, options(), lambda: None), scope=request(kind, peer)))
    assert (seen[0]["client"][0], seen[0]["scheme"], seen[0]["root_path"]) == (client, scheme, "/shop")


def test_a_body_that_the_app_leaves_is_taken_in_and_the_answer_does_not_wait(behind: ModuleType) -> None:
    app = behind.behind_nginx(hello, options(), lambda: None)
    sent, left = asyncio.run(ask(app, (b"a", True), (b"b", True), (b"c", False)))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert left == 0


def test_a_framework_that_waits_for_the_clients_end_beside_its_answer_gets_it(behind: ModuleType) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        listening = asyncio.create_task(until_gone())
        await asyncio.sleep(0)
        await hello(scope, receive, send)
        listening.cancel()

    async def within() -> None:
        await asyncio.wait_for(ask(behind.behind_nginx(app, options(), lambda: None), (b"a", True), (b"b", False)), 5)

    asyncio.run(within())


def test_a_worker_that_leaves_closes_connections_and_sockets(behind: ModuleType) -> None:
    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.sleep(0.05)

    async def all_of_it() -> None:
        wrapped = behind.behind_nginx(hello, options(), lambda: None)
        assert (await ask(wrapped))[0][0]["headers"] == []
        behind.leaving.set()
        assert (await ask(wrapped))[0][0]["headers"] == [(b"connection", b"close")]
        sent, _ = await ask(behind.behind_nginx(accepts, options(), lambda: None), scope=request("websocket"))
        assert sent[-1] == {"type": "websocket.close", "code": 1012}

    asyncio.run(all_of_it())


@pytest.mark.parametrize(("limit", "left"), [(0, 0), (3, 1), (20, 0)])
def test_it_leaves_once_after_so_many_requests(behind: ModuleType, limit: int, left: int) -> None:
    told: list[int] = []

    async def ten() -> None:
        app = behind.behind_nginx(hello, options(max_requests=limit), lambda: told.append(1))
        for _ in range(10):
            await ask(app)

    asyncio.run(ten())
    assert len(told) == left
