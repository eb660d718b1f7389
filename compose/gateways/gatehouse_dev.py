"""What `make dev` puts between gateway and app, for any WSGI or ASGI app: an error is a page with its traceback, also one
while the code is loaded, and breakpoint() waits for somebody on a port. Never in an image: `make dev` mounts it.

The gateway loads `gatehouse_dev:app`; GATEHOUSE_DEV says what that is: "wsgi|module:attribute|port outside".
"""

from __future__ import annotations

import functools
import html
import importlib
import os
import pdb
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

PORT = 5678  # debuggers' usual one, of which the port outside is published
INTERFACE, ENTRY, OUTSIDE = os.environ["GATEHOUSE_DEV"].split("|")
broken = ""
"""The traceback of what could not be loaded or started."""


def load() -> Any:
    """The app, telling more than it does elsewhere."""
    module, _, path = ENTRY.partition(":")
    found = functools.reduce(getattr, path.removesuffix("()").split("."), importlib.import_module(module))
    found = found() if path.endswith("()") else found
    if hasattr(found, "debug"):  # Flask, Quart, Starlette, FastAPI: else they answer a bare 500 and keep the reason
        found.debug = True
    return found


def page(said: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body."""
    print(said, file=sys.stderr, flush=True)
    body = f"<!doctype html><title>{html.escape(said.strip().rpartition(chr(10))[2])}</title><pre>{html.escape(said)}</pre>"
    return [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")], body.encode()


def wsgi(environ: Any, start_response: Any) -> Any:
    """`real`, or why it failed."""
    failed, said = None, broken
    if not broken:
        try:
            return real(environ, start_response)
        except Exception:
            failed, said = sys.exc_info(), traceback.format_exc()
    headers, body = page(said)
    start_response("500 Internal Server Error", headers, failed)
    return [body]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """`real`, or why it failed."""
    started = False

    async def watched(message: Any) -> None:
        global broken
        nonlocal started
        started = True
        if message["type"] == "lifespan.startup.failed":  # else the gateway would end, and nobody be told why
            broken = message.get("message") or "the app's start-up failed, and it did not say why"
            message = {"type": "lifespan.startup.complete"}
        await send(message)

    said = broken
    if not broken:
        try:
            await real(scope, receive, watched)
        except Exception:
            if started or scope["type"] != "http":
                raise
            said = traceback.format_exc()
    if said and scope["type"] == "http":
        headers, body = page(said)
        await send(
            {
                "type": "http.response.start",
                "status": 500,
                "headers": [(k.lower().encode(), v.encode()) for k, v in headers],
            }
        )
        await send({"type": "http.response.body", "body": body})


def wait_for_somebody(*_: Any, **__: Any) -> None:
    """breakpoint(): pdb for who comes first; this request waits."""
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        where = sys._getframe(1)
        print(
            f"breakpoint in {where.f_code.co_filename}:{where.f_lineno}: type: nc localhost {OUTSIDE}",
            file=sys.stderr,
            flush=True,
        )
        connection, _peer = listener.accept()
    terminal = connection.makefile("rw")
    pdb.Pdb(stdin=terminal, stdout=terminal, nosigint=True).set_trace(sys._getframe(1))  # type: ignore[arg-type]


def modified(name: str | Path) -> float:
    """Its modification time; 0 while an editor replaces it."""
    try:
        return Path(name).stat().st_mtime
    except OSError:
        return 0


def watch(reloader: Any) -> None:
    """Gunicorn's Reloader.run, but what changes while the code is being loaded is a change too (else a second save soon
    after the first is not seen), and with five looks a second (it has one, and no setting)."""
    while True:
        for name in reloader.get_files():
            when = modified(name)
            if when and known.setdefault(Path(name).absolute(), when) != when:
                reloader._callback(name)
        time.sleep(0.2)


sys.breakpointhook = wait_for_somebody
if "gunicorn.reloader" in sys.modules:
    known = {path.absolute(): modified(path) for path in Path().rglob("*.py")}
    sys.modules["gunicorn.reloader"].Reloader.run = watch  # type: ignore[attr-defined]
try:
    real = load()
except Exception:
    broken = traceback.format_exc()
app = wsgi if INTERFACE == "wsgi" else asgi
