"""The HTTP contract (docs/contract.md) in Django under ASGI; its WebSocket is in consumers.py."""

import asyncio
import os
import time

from django.core.exceptions import BadRequest
from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

CHUNK = bytes(64 * 1024)


def bounded(request, name, default, limit):
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.GET.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise BadRequest(f"{name}: a whole number from 0 to {limit}")
    return int(text)


@require_safe
async def hello(request):
    return JsonResponse({"message": "Hello, ASGI!"})


@require_safe
async def healthz(request):
    return JsonResponse({"status": "ok"})


@require_safe
async def wait(request):
    """Waits on the event loop; the worker serves others meanwhile."""
    ms = bounded(request, "ms", 100, 60_000)
    await asyncio.sleep(ms / 1000)
    return JsonResponse({"ms": ms})


@require_safe
def work(request):
    """CPU time of this thread, not wall time. A plain `def` runs in a thread: as `async def` it would stop the event loop,
    and with it every other request of the worker."""
    ms = bounded(request, "ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return JsonResponse({"ms": ms})


@require_POST
async def echo(request):
    """Sends the body back, which Django has taken in as it came, beyond 2.5 MB into a file. Server-Timing says how long
    the upload took to arrive."""
    took = (time.monotonic() - request.scope["began"]) * 1000
    headers = {"Server-Timing": f"upload;dur={took:.1f}"}
    if "Content-Length" in request.headers:
        headers["Content-Length"] = request.headers["Content-Length"]

    async def chunks():
        while chunk := request.read(len(CHUNK)):
            yield chunk

    return StreamingHttpResponse(chunks(), content_type="application/octet-stream", headers=headers)


@require_safe
async def download(request):
    n = bounded(request, "n", 2**20, 100 * 2**20)

    async def chunks():
        for sent in range(0, n, len(CHUNK)):
            yield CHUNK[: n - sent]

    return StreamingHttpResponse(chunks(), content_type="application/octet-stream", headers={"Content-Length": str(n)})


@require_safe
async def events(request):
    n, ms = bounded(request, "n", 10, 10_000), bounded(request, "ms", 100, 60_000)

    async def stream():
        for i in range(n):
            if i:
                await asyncio.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(stream(), content_type="text/event-stream", headers=headers)


@require_safe
async def poll(request):
    ms = bounded(request, "ms", 5000, 60_000)
    await asyncio.sleep(ms / 1000)
    return JsonResponse({"ms": ms})


@require_safe
async def whoami(request):
    """What this app sees of the request and of itself."""
    return JsonResponse(
        {
            "client": request.META["REMOTE_ADDR"],
            "scheme": request.scheme,
            "host": request.get_host(),
            "prefix": request.META["SCRIPT_NAME"],
            "request_id": request.headers.get("X-Request-ID", ""),
            "url": request.build_absolute_uri(reverse("whoami")),
            "pid": os.getpid(),
            "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
            "release": os.environ.get("GATEHOUSE_RELEASE", ""),
            "app": os.environ.get("GATEHOUSE_APP", ""),
        }
    )


@require_safe
async def moved(request):
    return redirect("whoami")
