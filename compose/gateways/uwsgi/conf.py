"""uWSGI's command line on a parent of ours, the app timed, and what it leaves open behind Nginx mended:
python -P conf.py APP OPTIONS...

Two roles. As a program: the parent, which has the port, because uWSGI's own master keeps it open until the last request is
answered. As a file that uWSGI loads (--wsgi-file): `application`, the app as Nginx needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import importlib
import io
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# --- the app ----------------------------------------------------------------------------------------------------------


class Body(io.RawIOBase):
    """A chunked body, which uWSGI gives by a function of its own alone."""

    def __init__(self, read: Any) -> None:
        self.read_chunk, self.rest, self.ended = read, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest and not self.ended:
            self.rest = self.read_chunk()
            self.ended = not self.rest
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class Answer:
    """An answer whose end can be told from a break, and behind whose end nothing of the request is left unread."""

    def __init__(self, app: Any, environ: Any, start_response: Any, leave: Any, failed: Any) -> None:
        self.bodiless, self.chunked = environ["REQUEST_METHOD"] == "HEAD", False
        self.http11 = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        self.start_response, self.leave, self.failed = start_response, leave, functools.partial(failed, environ)
        self.said: tuple[str, list[tuple[str, str]]] | None = None
        self.send: Any = None
        self.answer = app(environ, self.begin)

    def begin(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """start_response, which may be called again until something is sent. (uWSGI's own fails where it is given exc_info.)"""
        if exc_info and self.send:
            raise exc_info[1].with_traceback(exc_info[2])
        self.said = status, headers
        return self.write

    def commit(self) -> None:
        """Where the app does not say how long the answer is, it is sent in chunks: the end of the connection alone would make
        one that a lost worker has cut look complete."""
        if self.send:
            return
        if self.said is None:
            raise RuntimeError("the app has not called start_response")
        status, headers = self.said
        known = any(name.lower() == "content-length" for name, _ in headers)
        self.bodiless = self.bodiless or status[:3] in ("204", "304")
        self.chunked = self.http11 and not (known or self.bodiless)
        self.send = self.start_response(
            status, [*headers, *([("Transfer-Encoding", "chunked")] if self.chunked else [])]
        )

    def write(self, data: bytes) -> None:
        self.commit()
        if data and not self.bodiless:
            self.send(self.framed(data))

    def framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def __iter__(self) -> Iterator[bytes]:
        # What uWSGI's wsgi.file_wrapper has made is the file itself, whose parts would be lines.
        parts = iter(functools.partial(self.answer.read, 2**16), b"") if hasattr(self.answer, "read") else self.answer
        try:
            for part in parts:
                if part:
                    self.commit()
                    if not self.bodiless:
                        yield self.framed(part)
            self.commit()
        except Exception:
            if self.send:
                raise
            self.failed()  # else there is no answer, and Nginx takes the replica for lost
            self.said = "500 Internal Server Error", [("Content-Length", "0")]
            self.commit()
        if self.chunked:
            yield b"0\r\n\r\n"

    def close(self) -> None:
        try:
            if hasattr(self.answer, "close"):
                self.answer.close()
        finally:
            self.leave()


def behind_nginx(app: Any, options: Any, uwsgi: Any, failed: Any) -> Any:
    """`app` as Nginx needs it; `failed` logs that it did."""
    networks = [ipaddress.ip_network(text) for text in options.forwarded_allow_ips.split(",")]
    cut = len(options.script_name)

    @functools.lru_cache(1024)
    def trusts(peer: str) -> bool:
        return any(ipaddress.ip_address(peer) in network for network in networks)

    def wrapped(environ: Any, start_response: Any) -> Any:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = options.script_name, environ["PATH_INFO"][cut:]
        if trusts(environ["REMOTE_ADDR"]):
            environ["REMOTE_ADDR"] = environ.get("HTTP_X_FORWARDED_FOR") or environ["REMOTE_ADDR"]
            if environ.get("HTTP_X_FORWARDED_PROTO") in ("http", "https"):
                environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"]
        if "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = io.BufferedReader(Body(uwsgi.chunked_read), 2**16)
            environ["wsgi.input_terminated"] = True  # for Werkzeug, which else reads no body without a length
        body, connection = environ["wsgi.input"], uwsgi.connection_fd()

        def leave() -> None:
            """uWSGI hangs up on what the app has left unread, and Nginx, still sending, would answer 502."""
            with contextlib.suppress(OSError):
                while body.read(2**16):
                    pass
            with contextlib.suppress(OSError):  # the last line end of a chunked one
                os.set_blocking(connection, False)
                os.read(connection, 2**16)

        has_body = environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ
        return Answer(app, environ, start_response, leave if has_body else lambda: None, failed)

    return wrapped


def load(entry: str) -> Any:
    """The application `module:attribute`, or what `module:factory()` returns, from the present directory."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, path = entry.partition(":")
    found: Any = functools.reduce(getattr, path.removesuffix("()").split("."), importlib.import_module(module))
    return found() if path.endswith("()") else found


# --- the parent -------------------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> tuple[Any, list[str]]:
    """(ours, uWSGI's)"""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("entry")
    parser.add_argument("--bind", default="127.0.0.1:8000")
    parser.add_argument("--backlog", type=int, default=2048)
    parser.add_argument("--graceful-timeout", type=float, default=30)
    parser.add_argument("--forwarded-allow-ips", default="127.0.0.1,::1")
    parser.add_argument("--script-name", default="")
    parser.add_argument("--reload", action="store_true")
    return parser.parse_known_args(arguments)


def waiting(listener: socket.socket) -> int:
    """Connections that no worker has accepted yet (tcpi_unacked of a listening socket)."""
    return int(struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])


def run(arguments: list[str]) -> int:
    """uWSGI, until SIGTERM: who is in the queue still gets in, then nobody, and who is in gets an answer."""
    options, rest = parse(arguments)
    host, _, port = options.bind.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=options.backlog)
    listener.set_inheritable(True)
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    child, files = start(listener, options, rest), python_files() if options.reload else {}
    while not told:
        if (code := ended(child)) is not None:
            return code
        signal.sigtimedwait([signal.SIGCHLD], 0.2 if options.reload else 1)
        if options.reload and (now := python_files()) != files:
            files = now
            os.kill(child, signal.SIGTERM)
            end = time.monotonic() + 2  # somebody may be at a breakpoint
            while ended(child) is None:
                if time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.05)
            child = start(listener, options, rest)
    end = time.monotonic() + options.graceful_timeout
    listener.listen(0)
    while waiting(listener) and time.monotonic() < end:
        time.sleep(0.005)
    # In uWSGI's processes, too: from now on the kernel refuses, and Nginx goes to another replica.
    listener.shutdown(socket.SHUT_RDWR)
    os.kill(child, signal.SIGTERM)
    while (code := ended(child)) is None:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    return code


def start(listener: socket.socket, options: Any, rest: list[str]) -> int:
    """uWSGI's process id."""
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: not without us, who have the port
    command = [
        "uwsgi", "--http-socket", f"fd://{listener.fileno()}",
        "--virtualenv", sys.prefix, "--wsgi-file", __file__, "--set", f"gatehouse={json.dumps(vars(options))}", *rest,
    ]  # fmt: skip
    return os.execvp(command[0], command)


def python_files() -> dict[Path, int]:
    """When each was changed. uWSGI's own --py-autoreload knows only what was imported, and not what failed to be."""
    found = {}
    for path in Path().rglob("*.py"):
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found


def ended(child: int) -> int | None:
    """The exit code, once there is one. Other children are orphans of a container's, and ours to bury."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not pid:
            return None


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
else:
    import uwsgi  # type: ignore[import-not-found]
    from gatehouse_timing import log_failure, wsgi

    ours = argparse.Namespace(**json.loads(uwsgi.opt["gatehouse"]))
    application = behind_nginx(wsgi(load(ours.entry)), ours, uwsgi, log_failure)
