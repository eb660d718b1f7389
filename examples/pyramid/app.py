"""The HTTP contract (docs/contract.md) in Pyramid."""

import os
import shutil
import time
from tempfile import SpooledTemporaryFile

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest, HTTPFound, HTTPMethodNotAllowed
from pyramid.response import FileIter, Response
from pyramid.view import view_config

CHUNK = bytes(64 * 1024)
READ, WRITE = ("GET", "HEAD"), ("POST",)


def forwarded_scheme(handler, registry):
    """A tween, for gateways that leave the scheme of their own connection in place. WebOb reads X-Forwarded-For itself
    (client_addr), and the host is in Host. One proxy in front, which overwrites these headers."""

    def tween(request):
        request.scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
        return handler(request)

    return tween


def bounded(request, name, default, limit):
    """An integer of the query string from 0 to `limit`; anything else is the client's error."""
    text = request.GET.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= limit):
        raise HTTPBadRequest(f"{name}: a whole number from 0 to {limit}")
    return int(text)


@view_config(route_name="hello", request_method=READ)
def hello(request):
    return Response("Hello, WSGI!", content_type="text/plain")


@view_config(route_name="healthz", request_method=READ, renderer="json")
def healthz(request):
    return {"status": "ok"}


@view_config(route_name="wait", request_method=READ, renderer="json")
def wait(request):
    """Holds a worker (or a thread of it) without using CPU, as a database call does."""
    ms = bounded(request, "ms", 100, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@view_config(route_name="work", request_method=READ, renderer="json")
def work(request):
    """CPU time of this thread, not wall time: a busy machine answers later, not with less work."""
    ms = bounded(request, "ms", 5, 60_000)
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"ms": ms}


@view_config(route_name="echo", request_method=WRITE)
def echo(request):
    """Takes the body in as it comes, then sends it back. Server-Timing says how long the upload took to arrive."""
    start = time.monotonic()
    body = SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115 (closed when it is sent)
    shutil.copyfileobj(request.body_file, body)
    request.response.headers["Server-Timing"] = f"upload;dur={(time.monotonic() - start) * 1000:.1f}"
    request.response.content_type = "application/octet-stream"
    request.response.content_length = body.tell()
    body.seek(0)
    request.response.app_iter = FileIter(body, len(CHUNK))
    return request.response


@view_config(route_name="bytes", request_method=READ)
def download(request):
    n = bounded(request, "n", 2**20, 100 * 2**20)
    chunks = (CHUNK[: n - sent] for sent in range(0, n, len(CHUNK)))
    return Response(app_iter=chunks, content_type="application/octet-stream", content_length=n)


@view_config(route_name="events", request_method=READ)
def events(request):
    n, ms = bounded(request, "n", 10, 10_000), bounded(request, "ms", 100, 60_000)

    def stream():
        for i in range(n):
            if i:
                time.sleep(ms / 1000)
            yield f'data: {{"i":{i},"sent":{time.time()}}}\n\n'.encode()

    # X-Accel-Buffering: a proxy may else collect events until its buffer is full.
    request.response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    request.response.content_type = "text/event-stream"
    request.response.app_iter = stream()
    return request.response


@view_config(route_name="poll", request_method=READ, renderer="json")
def poll(request):
    ms = bounded(request, "ms", 5000, 60_000)
    time.sleep(ms / 1000)
    return {"ms": ms}


@view_config(route_name="whoami", request_method=READ, renderer="json")
def whoami(request):
    """What this app sees of the request and of itself."""
    return {
        "client": request.client_addr,
        "scheme": request.scheme,
        "host": request.host,
        "prefix": request.script_name,
        "request_id": request.headers.get("X-Request-ID", ""),
        "url": request.route_url("whoami"),
        "pid": os.getpid(),
        "gateway": os.environ.get("GATEHOUSE_GATEWAY", ""),
        "release": os.environ.get("GATEHOUSE_RELEASE", ""),
        "app": os.environ.get("GATEHOUSE_APP", ""),
    }


@view_config(route_name="moved", request_method=READ)
def moved(request):
    return HTTPFound(request.route_path("whoami"))


def main():
    with Configurator() as config:
        config.add_tween("app.forwarded_scheme")
        for name in ("", "healthz", "wait", "work", "echo", "bytes", "events", "poll", "whoami", "moved"):
            config.add_route(name or "hello", f"/{name}")
            # Else another method gets 404: a view whose predicate does not match is one that is not there.
            allowed = HTTPMethodNotAllowed(headers={"Allow": ", ".join(WRITE if name == "echo" else READ)})
            config.add_view(lambda request, answer=allowed: answer, route_name=name or "hello")
        config.scan(".")
        return config.make_wsgi_app()


app = main()
