"""A parent and its worker processes on one port, for gateways that have none (Daphne) or whose own one cuts requests when it
stops (Hypercorn): started, replaced and ended as Gunicorn does it. Nothing but the standard library.

The parent only binds the port. A worker listens once it can serve, so that until then connections are refused and Nginx goes
to another replica.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

BACKLOG = 2048
"""Connections that may wait to be accepted, as in Gunicorn and Uvicorn."""
PAUSE = 1.0
"""s. A worker that was killed is replaced no sooner than this after the one before: else one that always dies is a busy loop."""

notes: list[int] = []
"""In a worker: the pipe in which it says that it will leave by itself."""


def options(*more: str) -> tuple[Any, list[str]]:
    """(what is in this command line for this file and gatehouse_behind.py, the rest for the gateway).

    more: flags with a value that the gateway's conf.py reads itself.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("entry")
    parser.add_argument("--bind", default="127.0.0.1:8000")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--graceful-timeout", type=float, default=30)
    parser.add_argument("--max-requests", type=int, default=0)
    parser.add_argument("--max-requests-jitter", type=int, default=0)
    parser.add_argument("--forwarded-allow-ips", default="127.0.0.1,::1")
    parser.add_argument("--root-path", default="")
    parser.add_argument("--reload", action="store_true")
    for flag in more:
        parser.add_argument(flag, type=float)
    return parser.parse_known_args()


def load(entry: str) -> Any:
    """The application `module:attribute`, or what `module:factory()` returns, from the present directory."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, path = entry.partition(":")
    found: Any = functools.reduce(getattr, path.removesuffix("()").split("."), importlib.import_module(module))
    return found() if path.endswith("()") else found


def bind(address: str) -> socket.socket:
    """A socket that nobody can connect to yet."""
    host, _, port = address.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted ones inherit it. Without it, small answers wait 44 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host.strip("[]"), int(port)))
    listener.setblocking(False)
    return listener


def leave_soon() -> None:
    """In a worker: has another one started in its place, and ends as if it were told to."""
    with contextlib.suppress(OSError):
        os.write(notes[0], f"{os.getpid()}\n".encode())
    os.kill(os.getpid(), signal.SIGTERM)


def run(address: str, count: int, work: Callable[[socket.socket], None], reload: bool = False) -> int:
    """Has `count` processes work until SIGTERM; returns an exit code.

    One that is killed, or ends well, is replaced. One that fails by an exception ends all: code that cannot be loaded would
    else be tried for ever, and the engine says it better. reload: replaces all when a Python file here has changed.
    """
    parent = _Parent(bind(address), work)
    told: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda number, _: told.add(number))
    files = _files() if reload else {}
    code = 0
    while True:
        code = parent.reap() or code
        if not parent.leaving and (code or told & {signal.SIGTERM, signal.SIGINT}):
            parent.leave()
        if parent.leaving and not parent.workers:
            return code
        if reload and (now := _files()) != files:
            files = now
            parent.renew()
        if not parent.leaving:
            parent.fill(count)
        parent.wait(0.2 if reload else 1.0)


class _Parent:
    def __init__(self, listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
        self.listener, self.work = listener, work
        self.workers: set[int] = set()
        self.going: set[int] = set()
        """Workers that leave by themselves, or were told to: others are started in their place."""
        self.leaving = False
        self.not_before = 0.0
        self.alive = os.pipe()  # its reading end tells workers that the parent is gone
        self.notes = os.pipe()
        self.wakeup = socket.socketpair()
        for end in self.wakeup:
            end.setblocking(False)
        os.set_blocking(self.notes[0], False)
        signal.set_wakeup_fd(self.wakeup[1].fileno(), warn_on_full_buffer=False)

    def fill(self, count: int) -> None:
        while len(self.workers - self.going) < count and time.monotonic() >= self.not_before:
            self.start()

    def start(self) -> None:
        if pid := os.fork():
            self.workers.add(pid)
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to pass on
            os.close(self.alive[1])
            notes.append(self.notes[1])
            threading.Thread(target=_end_with_parent, args=(self.alive[0],), daemon=True).start()
            self.work(self.listener)
            code = 0
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
            if isinstance(exit.code, str):
                print(exit.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def reap(self) -> int:
        """The first exit code that is none of a replaceable worker."""
        bad = 0
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, code = ended[0], os.waitstatus_to_exitcode(ended[1])
                if (
                    pid in self.workers and code < 0 and not self.leaving
                ):  # in Gunicorn's words, which make doctor knows
                    why = " Perhaps out of memory?" if code == -signal.SIGKILL else ""
                    print(
                        f"Worker (pid:{pid}) was sent {signal.Signals(-code).name}!{why}", file=sys.stderr, flush=True
                    )
                    self.not_before = time.monotonic() + PAUSE
                bad = bad or (code if pid in self.workers and code > 0 else 0)
                self.workers.discard(pid)
                self.going.discard(pid)
        return bad

    def leave(self) -> None:
        """The port first: as long as anybody has it, the kernel goes on taking connections that nobody answers."""
        self.leaving = True
        self.listener.close()
        self.renew()

    def renew(self) -> None:
        for pid in self.workers - self.going:
            os.kill(pid, signal.SIGTERM)
        self.going |= self.workers

    def wait(self, seconds: float) -> None:
        """Until a signal, a note or the time."""
        select.select([self.wakeup[0], self.notes[0]], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self.wakeup[0].recv(4096)
        with contextlib.suppress(BlockingIOError):
            self.going |= {int(pid) for pid in os.read(self.notes[0], 4096).split()} & self.workers


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _files() -> dict[Path, int]:
    found = {}
    for directory, folders, names in os.walk("."):
        folders[:] = [
            folder for folder in folders if folder[0] != "." and folder not in ("__pycache__", "node_modules")
        ]
        for path in (Path(directory, name) for name in names if name.endswith(".py")):
            with contextlib.suppress(OSError):
                found[path] = path.stat().st_mtime_ns
    return found
