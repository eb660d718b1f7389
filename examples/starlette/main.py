"""The HTTP contract (docs/contract.md) in Starlette."""

import asyncio
import os
import time

from anyio import SpooledTemporaryFile
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

CHUNK = bytes(64 * 1024)


def bounded(request, name, default, limit):
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise HTTPException(400, f"{name}: a whole number from 0 to {limit}")
    return int(text)


async def hello(request):
    return JSONResponse({"message": "Hello, ASGI!"})


async def healthz(request):
    return JSONResponse({"status": "ok"})


async def wait(request):
    """Waits on the event loop; the worker serves others meanwhile."""
    ms = bounded(request, "ms", 100, 60_000)
    await asyncio.sleep(ms / 1000)
    return JSONResponse({"ms": ms})


def work(request):
    """CPU time of this thread, not wall time. A plain `def` runs in the thread pool: as `async def` it would stop the
    event loop, and with it every other request of the worker."""
    ms = bounded(request, "ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return JSONResponse({"ms": ms})


async def echo(request):
    """Takes the body in as it comes, then sends it back. Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)
    async for chunk in request.stream():
        await body.write(chunk)
    took = (time.monotonic() - start) * 1000
    headers = {"Content-Length": str(await body.tell()), "Server-Timing": f"upload;dur={took:.1f}"}

    async def chunks():
        async with body:
            await body.seek(0)
            while chunk := await body.read(len(CHUNK)):
                yield chunk

    return StreamingResponse(chunks(), media_type="application/octet-stream", headers=headers)


async def download(request):
    n = bounded(request, "n", 2**20, 100 * 2**20)

    async def chunks():
        for sent in range(0, n, len(CHUNK)):
            yield CHUNK[: n - sent]

    return StreamingResponse(chunks(), media_type="application/octet-stream", headers={"Content-Length": str(n)})


async def events(request):
    n, ms = bounded(request, "n", 10, 10_000), bounded(request, "ms", 100, 60_000)

    async def stream():
        for i in range(n):
            if i:
                await asyncio.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


async def poll(request):
    ms = bounded(request, "ms", 5000, 60_000)
    await asyncio.sleep(ms / 1000)
    return JSONResponse({"ms": ms})


async def whoami(request):
    """What this app sees of the request and of itself."""
    return JSONResponse(
        {
            "client": request.client.host if request.client else "",
            "scheme": request.url.scheme,
            "host": request.url.netloc,
            "prefix": request.scope["root_path"],
            "request_id": request.headers.get("X-Request-ID", ""),
            "url": str(request.url_for("whoami")),
            "pid": os.getpid(),
            "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
            "release": os.environ.get("GATEHOUSE_RELEASE", ""),
            "app": os.environ.get("GATEHOUSE_APP", ""),
        }
    )


async def moved(request):
    return RedirectResponse(request.url_for("whoami"))


async def ws(socket):
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        await socket.send({**message, "type": "websocket.send"})


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/healthz", healthz),
        Route("/wait", wait),
        Route("/work", work),
        Route("/echo", echo, methods=["POST"]),
        Route("/bytes", download),
        Route("/events", events),
        Route("/poll", poll),
        Route("/whoami", whoami),
        Route("/moved", moved),
        WebSocketRoute("/ws", ws),
    ]
)
