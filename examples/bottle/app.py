"""The HTTP contract (docs/contract.md) in Bottle. Bottle reads X-Forwarded-Proto and -For by itself, whoever sent them:
one proxy in front has to overwrite them."""

import os
import time
from tempfile import SpooledTemporaryFile
from urllib.parse import urljoin

from bottle import Bottle, HTTPError, HTTPResponse, redirect, request, response

app = Bottle()

CHUNK = bytes(64 * 1024)


def bounded(name, default, limit):
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise HTTPError(400, f"{name}: a whole number from 0 to {limit}")
    return int(text)


def received():
    """The body as it comes. `request.body` is there when all of it is, and reads chunked framing that the gateway has
    already removed."""
    left = request.content_length
    while part := request["wsgi.input"].read(min(left, len(CHUNK)) if left >= 0 else len(CHUNK)):
        yield part
        if left >= 0:
            left -= len(part)


@app.get("/")
def hello():
    response.content_type = "text/plain"
    return "Hello, WSGI!"


@app.get("/healthz")
def healthz():
    return {"status": "ok"}


@app.get("/wait")
def wait():
    """Holds a worker (or a thread of it) without using CPU, as a database call does."""
    ms = bounded("ms", 100, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/work")
def work():
    """CPU time of this thread, not wall time: a busy machine answers later, not with less work."""
    ms = bounded("ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"ms": ms}


@app.post("/echo")
def echo():
    """Takes the body in as it comes, then sends it back. Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115 (closed when it is sent)
    for part in received():
        body.write(part)
    took = (time.monotonic() - start) * 1000
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(body.tell()),
        "Server-Timing": f"upload;dur={took:.1f}",
    }
    body.seek(0)
    return HTTPResponse(body, **headers)


@app.get("/bytes")
def download():
    n = bounded("n", 2**20, 100 * 2**20)
    chunks = (CHUNK[: n - sent] for sent in range(0, n, len(CHUNK)))
    response.content_type, response.content_length = "application/octet-stream", n
    return chunks


@app.get("/events")
def events():
    n, ms = bounded("n", 10, 10_000), bounded("ms", 100, 60_000)
    response.content_type = "text/event-stream"
    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    for i in range(n):
        if i:
            time.sleep(ms / 1000)
        yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'


@app.get("/poll")
def poll():
    ms = bounded("ms", 5000, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/whoami", name="whoami")
def whoami():
    """What this app sees of the request and of itself."""
    return {
        "client": request.remote_addr,
        "scheme": request.urlparts.scheme,
        "host": request.urlparts.netloc,
        "prefix": request["SCRIPT_NAME"],
        "request_id": request.get_header("X-Request-ID", ""),
        "url": urljoin(request.url, app.get_url("whoami")),
        "pid": os.getpid(),
        "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
        "release": os.environ.get("GATEHOUSE_RELEASE", ""),
        "app": os.environ.get("GATEHOUSE_APP", ""),
    }


@app.get("/moved")
def moved():
    redirect(app.get_url("whoami"))
