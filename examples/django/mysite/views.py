"""The HTTP contract (docs/contract.md) in Django under WSGI."""

import os
import shutil
import time
from tempfile import SpooledTemporaryFile

from django.core.exceptions import BadRequest
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
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
def hello(request):
    return HttpResponse("Hello, WSGI!", content_type="text/plain")


@require_safe
def healthz(request):
    return JsonResponse({"status": "ok"})


@require_safe
def wait(request):
    """Holds a worker (or a thread of it) without using CPU, as a database call does."""
    ms = bounded(request, "ms", 100, 60_000)
    time.sleep(ms / 1000)
    return JsonResponse({"ms": ms})


@require_safe
def work(request):
    """CPU time of this thread, not wall time: a busy machine answers later, not with less work."""
    ms = bounded(request, "ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return JsonResponse({"ms": ms})


@require_POST
def echo(request):
    """Takes the body in as it comes, then sends it back. Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115 (closed when it is sent)
    # Django takes a body without Content-Length for an empty one. Where the gateway ends the stream, it can be read.
    terminated = request.environ.get("wsgi.input_terminated")
    shutil.copyfileobj(request.environ["wsgi.input"] if terminated else request, body)
    took = (time.monotonic() - start) * 1000
    body.seek(0)
    headers = {"Server-Timing": f"upload;dur={took:.1f}"}
    return FileResponse(body, content_type="application/octet-stream", headers=headers)


@require_safe
def download(request):
    n = bounded(request, "n", 2**20, 100 * 2**20)
    chunks = (CHUNK[: n - sent] for sent in range(0, n, len(CHUNK)))
    return StreamingHttpResponse(chunks, content_type="application/octet-stream", headers={"Content-Length": str(n)})


@require_safe
def events(request):
    n, ms = bounded(request, "n", 10, 10_000), bounded(request, "ms", 100, 60_000)

    def stream():
        for i in range(n):
            if i:
                time.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(stream(), content_type="text/event-stream", headers=headers)


@require_safe
def poll(request):
    ms = bounded(request, "ms", 5000, 60_000)
    time.sleep(ms / 1000)
    return JsonResponse({"ms": ms})


@require_safe
def whoami(request):
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
def moved(request):
    return redirect("whoami")
