"""supervisor, which runs the process engine's programs (stack/process.py): asked over its socket, and ended without a rest."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import signal
import socket
import stat
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stack.errors import Failed

BUSY = ("STARTING", "RUNNING", "BACKOFF", "STOPPING")
"""supervisor's states of a program that is not stopped."""


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.host)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self.path)


class Supervisor:
    """The supervisord of a run directory, asked over its socket."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def ask(self, method: str, *arguments: Any) -> Any:
        """The answer; Failed where none of this user's runs."""
        if not ours(self.run):
            raise Failed(f"no supervisor of yours runs at {self.run}")
        proxy = xmlrpc.client.ServerProxy("http://localhost", _Transport(str(self.run / "supervisor.sock")))
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"supervisor does not answer ({error or type(error).__name__})") from None
        except xmlrpc.client.Fault as fault:
            raise Failed(f"supervisor: {method}: {fault.faultString}") from None

    def programs(self) -> list[dict[str, Any]] | None:
        """What supervisor says of each program; None where it does not run."""
        try:
            return list(self.ask("getAllProcessInfo"))
        except Failed:
            return None

    def until_stopped(self, names: set[str], within: float) -> None:
        """Stops programs side by side, each within its own grace."""
        for name in names:
            with contextlib.suppress(Failed):  # not running
                self.ask("stopProcess", name, False)
        end = time.monotonic() + within
        while time.monotonic() < end:
            busy = [p for p in self.programs() or () if p["name"] in names and p["statename"] in BUSY]
            if not busy:
                return
            time.sleep(0.1)


def run_directory(root: Path) -> Path:
    return Path("/tmp") / f"gatehouse-{os.getuid()}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:10]}"


def ours(path: Path) -> bool:
    """Whether this is a directory of this user alone: /tmp is everybody's, and anybody could have made one of this name."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return False


def own_directory(path: Path) -> None:
    """Makes a directory of this user alone; Failed where somebody else was there first."""
    path.mkdir(mode=0o700, exist_ok=True)
    if not ours(path):
        raise Failed(f"{path} is not a folder of yours alone. Remove it, or have its owner do so")


def stop(run: Path) -> int:
    """Ends supervisor, all that it runs and what a killed one has left; returns how many programs there were."""
    supervisor = Supervisor(run)
    told = supervisor.programs()
    if told is not None:
        supervisor.until_stopped({program["name"] for program in told}, 600)
        pid = supervisor.ask("getPID")
        supervisor.ask("shutdown")
        while Path(f"/proc/{pid}").exists() and supervisor.programs() is not None:
            time.sleep(0.1)
    left = list(end_leftovers(run))
    if ours(run):
        shutil.rmtree(run)
    return len(told if told is not None else left)


def leftovers(run: Path) -> set[int]:
    """Each process of this run directory; Nginx, which writes over its environment, by where its pid file is."""
    pids = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"GATEHOUSE_RUN={run}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                pids.add(int(entry.name))
    if ours(run):
        with contextlib.suppress(OSError, ValueError):
            master = int((run / "nginx.pid").read_text())
            if Path(f"/proc/{master}/cmdline").read_bytes().startswith(b"nginx: master"):
                pids.add(master)
    return pids


def end_leftovers(run: Path) -> Iterator[int]:
    """Ends them."""
    pids = leftovers(run)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + 5
        while any(_alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.1)
    yield from pids


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
