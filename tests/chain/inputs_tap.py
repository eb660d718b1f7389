"""Goes into a sample app's folder as tap.py, in front of its code: keeps every byte that the gateway reads from Nginx, and
every request that the gateway makes of them. Answers /tap/... itself: 200, once it has the whole body; /tap/seen: what it kept."""

# mypy: ignore-errors

import base64
import importlib.util
import itertools
import json

CONNECTIONS = itertools.count()
RAW: list[tuple[int, str]] = []
"""(connection, what one read gave in base64), in order."""
CALLS: list[dict[str, str]] = []
"""Requests that reached the app's code with their whole body."""


def keep(connection, data: bytes) -> None:
    if not hasattr(connection, "tapped"):
        connection.tapped = next(CONNECTIONS)
    RAW.append((connection.tapped, base64.b64encode(data).decode()))


def called(method: str, path: str, body: bytes) -> bytes:
    if path.endswith("/tap/seen"):
        return json.dumps({"raw": RAW, "calls": CALLS}).encode()
    CALLS.append({"method": method, "path": path, "body": base64.b64encode(body).decode()})
    return b"{}"


def tap_gunicorn() -> None:
    from gunicorn.http.unreader import SocketUnreader

    chunk = SocketUnreader.chunk

    def kept(self, size_hint=None):
        data = chunk(self, size_hint)
        keep(self, data)
        return data

    SocketUnreader.chunk = kept


def tap_uvicorn() -> None:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    received = HttpToolsProtocol.data_received

    def kept(self, data):
        keep(self, data)
        received(self, data)

    HttpToolsProtocol.data_received = kept


def wsgi(environ, start_response):
    if "/tap/" not in environ["PATH_INFO"]:
        return flask(environ, start_response)
    path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    answer = called(environ["REQUEST_METHOD"], path, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(scope, receive, send):
    if scope["type"] != "http" or "/tap/" not in scope["path"]:
        await fastapi(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = called(scope["method"], scope["path"], body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if importlib.util.find_spec("gunicorn"):
    tap_gunicorn()
    from app import app as flask
else:
    tap_uvicorn()
    from main import app as fastapi
