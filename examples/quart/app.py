"""The HTTP contract (docs/contract.md) in Quart."""

import asyncio
import os
import time
from tempfile import SpooledTemporaryFile

from quart import Quart, abort, make_response, redirect, request, url_for, websocket

app = Quart(__name__)
app.config["MAX_CONTENT_LENGTH"] = None  # Nginx holds the limits of app.yml; Quart's own is 16 MiB
app.config["BODY_TIMEOUT"] = None  # and the time limits

CHUNK = bytes(64 * 1024)


def bounded(name, default, limit):
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        abort(400, f"{name}: a whole number from 0 to {limit}")
    return int(text)


async def streamed(chunks, headers):
    """An answer that may take as long as it likes: Quart ends others after 60 s."""
    answer = await make_response(chunks, headers)
    answer.timeout = None
    return answer


@app.get("/")
async def hello():
    return {"message": "Hello, ASGI!"}


@app.get("/healthz")
async def healthz():
    return {"status": "ok"}


@app.get("/wait")
async def wait():
    """Waits on the event loop; the worker serves others meanwhile."""
    ms = bounded("ms", 100, 60_000)
    await asyncio.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/work")
def work():
    """CPU time of this thread, not wall time. A plain `def` runs in a thread: as `async def` it would stop the event loop,
    and with it every other request of the worker."""
    ms = bounded("ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"ms": ms}


@app.post("/echo")
async def echo():
    """Takes the body in as it comes, then sends it back. Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115 (closed when it is sent)
    async for chunk in request.body:
        body.write(chunk)
    took = (time.monotonic() - start) * 1000
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(body.tell()),
        "Server-Timing": f"upload;dur={took:.1f}",
    }

    async def chunks():
        with body:
            body.seek(0)
            while chunk := body.read(len(CHUNK)):
                yield chunk

    return await streamed(chunks(), headers)


@app.get("/bytes")
async def download():
    n = bounded("n", 2**20, 100 * 2**20)

    async def chunks():
        for sent in range(0, n, len(CHUNK)):
            yield CHUNK[: n - sent]

    return await streamed(chunks(), {"Content-Type": "application/octet-stream", "Content-Length": str(n)})


@app.get("/events")
async def events():
    n, ms = bounded("n", 10, 10_000), bounded("ms", 100, 60_000)

    async def stream():
        for i in range(n):
            if i:
                await asyncio.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'.encode()

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return await streamed(stream(), headers)


@app.get("/poll")
async def poll():
    ms = bounded("ms", 5000, 60_000)
    await asyncio.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/whoami")
async def whoami():
    """What this app sees of the request and of itself."""
    return {
        "client": request.remote_addr,
        "scheme": request.scheme,
        "host": request.host,
        "prefix": request.root_path,
        "request_id": request.headers.get("X-Request-ID", ""),
        "url": url_for("whoami", _external=True),
        "pid": os.getpid(),
        "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
        "release": os.environ.get("GATEHOUSE_RELEASE", ""),
        "app": os.environ.get("GATEHOUSE_APP", ""),
    }


@app.get("/moved")
async def moved():
    return redirect(url_for("whoami"))


@app.websocket("/ws")
async def ws():
    while True:
        await websocket.send(await websocket.receive())
