"""The ASGI sample: the HTTP contract in FastAPI. `uvicorn main:app` serves it alone."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import SpooledTemporaryFile
from fastapi import Query, Request, WebSocket
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

app = FastAPIOffline(title="Gatehouse ASGI sample", redoc_url=None)

CHUNK = bytes(64 * 1024)
Milliseconds = Annotated[int, Query(ge=0, le=60_000)]


class Event(BaseModel):
    i: int
    sent: float


@app.get("/")
@app.head("/", include_in_schema=False)
async def hello() -> dict[str, str]:
    return {"message": "Hello, ASGI!"}


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/wait")
async def wait(ms: Milliseconds = 100) -> dict[str, int]:
    """Waits on the event loop; the worker serves others meanwhile."""
    await asyncio.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/work")
def work(ms: Milliseconds = 5) -> dict[str, int]:
    """CPU time of this thread, not wall time. A plain `def` runs in the thread pool: as `async def` it would stop the
    event loop, and with it every other request of the worker."""
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"ms": ms}


@app.post("/echo", openapi_extra={"requestBody": {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def echo(request: Request) -> StreamingResponse:
    """Takes the body in as it comes, then sends it back. Not both at once: Nginx stops passing on a request whose answer
    has begun, and the exchange hangs (seen from 512 KiB on). Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)
    async for chunk in request.stream():
        await body.write(chunk)
    took = (time.monotonic() - start) * 1000
    headers = {"Content-Length": str(await body.tell()), "Server-Timing": f"upload;dur={took:.1f}"}

    async def chunks() -> AsyncIterator[bytes]:
        async with body:
            await body.seek(0)
            while chunk := await body.read(len(CHUNK)):
                yield chunk

    return StreamingResponse(chunks(), media_type="application/octet-stream", headers=headers)


@app.get("/bytes")
async def download(n: Annotated[int, Query(ge=0, le=100 * 2**20)] = 2**20) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for sent in range(0, n, len(CHUNK)):
            yield CHUNK[: n - sent]

    return StreamingResponse(chunks(), media_type="application/octet-stream", headers={"Content-Length": str(n)})


@app.get("/events", response_class=EventSourceResponse)
async def events(n: Annotated[int, Query(ge=0, le=10_000)] = 10, ms: Milliseconds = 100) -> AsyncIterator[Event]:
    for i in range(n):
        if i:
            await asyncio.sleep(ms / 1000)
        yield Event(i=i, sent=time.time())


@app.get("/poll")
async def poll(ms: Milliseconds = 5000) -> dict[str, int]:
    await asyncio.sleep(ms / 1000)
    return {"ms": ms}


@app.get("/whoami")
async def whoami(request: Request) -> dict[str, str | int]:
    """What this app sees of the request and of itself."""
    return {
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


@app.get("/moved")
async def moved(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("whoami"))


@app.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        await socket.send({**message, "type": "websocket.send"})
