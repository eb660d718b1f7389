"""The script that mod_wsgi runs in each daemon process as it starts: the app, timed. The process group's name is `entry`."""

import functools
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import mod_wsgi  # type: ignore[import-not-found] # is there in Apache alone
from gatehouse_timing import wsgi


def load(entry: str) -> Any:
    """The application `module:attribute`, or what `module:factory()` returns."""
    # Embedded, Python looks neither where PYTHONPATH says nor in the present directory.
    sys.path[:0] = ["/app", *os.environ.get("PYTHONPATH", "").split(":")]
    module, _, path = entry.partition(":")
    found: Any = functools.reduce(getattr, path.removesuffix("()").split("."), importlib.import_module(module))
    return found() if path.endswith("()") else found


def behind_nginx(app: Any) -> Any:
    """The path decoded once, as other gateways give it: Apache would take /a%2F..%2Fb for /b, or leave %2F as it is. And an
    answer that ends its connection while the container leaves (run.sh)."""

    def wrapped(environ: Any, start_response: Any) -> Any:
        path = unquote_to_bytes(environ["REQUEST_URI"].partition("?")[0]).decode("latin-1")
        environ["PATH_INFO"] = path.removeprefix(environ["SCRIPT_NAME"])

        def answer(status: str, headers: list[tuple[str, str]], *failed: Any) -> Any:
            leaving = [("Connection", "close")] if os.path.exists("/tmp/leaving") else []  # noqa: PTH110 (3 us less)
            return start_response(status, [*headers, *leaving], *failed)

        return app(environ, answer)

    return wrapped


try:
    application = behind_nginx(wsgi(load(mod_wsgi.process_group)))
except BaseException:
    # Else Apache would answer 500 for ever, and nobody be told that the app does not start.
    os.write(2, traceback.format_exc().encode())  # sys.stderr is Apache's log, which puts a word in front of each line
    Path("/tmp/failed").touch()
    os.kill(os.getppid(), signal.SIGTERM)
