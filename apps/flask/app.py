"""The WSGI sample: the HTTP contract in Flask. `flask run` serves it alone."""

import os
import shutil
import time
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile

from flask import Flask, Response, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wsgi import FileWrapper

app = Flask(__name__)
# One proxy in front, which overwrites these headers. Without it every client has the proxy's address.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]

CHUNK = bytes(64 * 1024)


def bounded(name: str, default: int, limit: int) -> int:
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        abort(400, f"{name}: a whole number from 0 to {limit}")
    return int(text)


@app.get("/")
def hello() -> ResponseReturnValue:
    return Response("Hello, WSGI!", mimetype="text/plain")


@app.get("/healthz")
def healthz() -> ResponseReturnValue:
    return {"status": "ok"}


@app.get("/wait")
def wait() -> ResponseReturnValue:
    """Holds a worker (or a thread of it) without using CPU, as a database call does."""
    ms = bounded("ms", 100, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/work")
def work() -> ResponseReturnValue:
    """CPU time of this thread, not wall time: a busy machine answers later, not with less work."""
    ms = bounded("ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"ms": ms}


@app.post("/echo")
def echo() -> ResponseReturnValue:
    """Takes the body in as it comes, then sends it back. Not both at once: Nginx stops passing on a request whose answer
    has begun, and the exchange hangs (seen from 512 KiB on). Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115 (FileWrapper closes it)
    shutil.copyfileobj(request.stream, body)
    took = (time.monotonic() - start) * 1000
    headers = {"Content-Length": str(body.tell()), "Server-Timing": f"upload;dur={took:.1f}"}
    body.seek(0)
    return Response(FileWrapper(body, len(CHUNK)), mimetype="application/octet-stream", headers=headers)


@app.get("/bytes")
def download() -> ResponseReturnValue:
    n = bounded("n", 2**20, 100 * 2**20)
    chunks = (CHUNK[: n - sent] for sent in range(0, n, len(CHUNK)))
    return Response(chunks, mimetype="application/octet-stream", headers={"Content-Length": str(n)})


@app.get("/events")
def events() -> ResponseReturnValue:
    n, ms = bounded("n", 10, 10_000), bounded("ms", 100, 60_000)

    def stream() -> Iterator[str]:
        for i in range(n):
            if i:
                time.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(stream(), mimetype="text/event-stream", headers=headers)


@app.get("/poll")
def poll() -> ResponseReturnValue:
    ms = bounded("ms", 5000, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/whoami")
def whoami() -> ResponseReturnValue:
    """What this app sees of the request and of itself."""
    return {
        "client": request.remote_addr,
        "scheme": request.scheme,
        "host": request.host,
        "prefix": request.script_root,
        "request_id": request.headers.get("X-Request-ID", ""),
        "url": url_for("whoami", _external=True),
        "pid": os.getpid(),
        "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
        "release": os.environ.get("GATEHOUSE_RELEASE", ""),
        "app": os.environ.get("GATEHOUSE_APP", ""),
    }


@app.get("/moved")
def moved() -> ResponseReturnValue:
    return redirect(url_for("whoami"))
