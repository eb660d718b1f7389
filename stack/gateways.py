"""How each gateway is started: app in, argument list out. A new gateway is one function, one row, one exact-output test.

`GATEWAYS` maps the word in app.yml to the facts that the rest of the stack needs. Flags are chosen here once, for every
engine; each has its reason beside it. Defaults differ from the gateways' own where those are wrong behind Nginx.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from stack.model import App

# Whose X-Forwarded-* the gateway believes. Apps are reached only over a private network that the edge is on, and the edge
# overwrites these headers with single values. Not "*": then uvicorn would take the leftmost of a list.
TRUSTED_PROXIES = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"


@dataclass(frozen=True)
class Gateway:
    """What the stack must know of a gateway."""

    name: str
    interface: Literal["wsgi", "asgi"]
    concurrency: Literal["process", "thread", "loop"]
    """What takes a second request while the first one waits: another process, a thread, or the event loop."""
    command: Callable[[App, int, str, str], list[str]]
    """(app, workers, prefix, address to listen on as host:port) -> argument list."""
    strip_prefix: bool
    """Whether Nginx removes the app's prefix from the path. uvicorn's --root-path wants it gone (else 404), Gunicorn's
    SCRIPT_NAME wants it there (else 500), and so does Gunicorn's --root-path (else mounted sub-apps and redirects break)."""
    enforces_timeout: bool = False
    """Whether `timeouts.gateway` ends a stuck request."""
    preloads: bool = False
    pings: bool = False
    """Whether it pings WebSocket clients, so that only a lost one is silent."""

    @property
    def files(self) -> str:
        """Folder of compose/gateways with its lock file and, where it needs one, its configuration."""
        return "gunicorn" if self.name in ("gunicorn-sync", "gunicorn-gthread") else self.name


CONFIGURATION = "/gateway/conf.py"
"""Where an image has the gateway's own configuration file: what cannot be said by a flag."""


def _gunicorn(worker_class: str, app: App, workers: int, prefix: str, listen: str, *extra: str) -> list[str]:
    command = [
        "gunicorn", app.entry,
        "--worker-class", worker_class,
        "--workers", str(workers),
        *extra,
        "--bind", listen,
        "--timeout", str(app.timeouts.gateway),
        "--graceful-timeout", str(app.timeouts.graceful),
        "--keep-alive", str(app.timeouts.keep_alive),
        "--max-requests", str(app.max_requests),
        "--max-requests-jitter", str(app.max_requests_jitter),
        "--forwarded-allow-ips", TRUSTED_PROXIES,
        # Else a trusted peer's SCRIPT_NAME header is obeyed; the prefix comes from us alone.
        "--forwarder-headers", "",
        # The default 4094 answers 414 where Nginx and the ASGI gateways still accept.
        "--limit-request-line", "8190",
        # The heartbeat file: fchmod on a disk can block a worker for seconds.
        "--worker-tmp-dir", "/dev/shm",
        # A socket under $HOME that can scale and stop workers; the container is read-only and needs none.
        "--no-control-socket",
        "--log-level", "info",
    ]  # fmt: skip
    if app.preload:
        command.append("--preload")
    return command


def gunicorn_sync(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """One request a worker at a time, connection closed after each."""
    return _gunicorn("sync", app, workers, prefix, listen, "--config", CONFIGURATION, *_script_name(prefix))


def gunicorn_gthread(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """workers x threads requests at a time, connections kept."""
    return _gunicorn(
        "gthread",
        app,
        workers,
        prefix,
        listen,
        "--threads",
        str(app.threads),
        "--config",
        CONFIGURATION,
        *_script_name(prefix),
    )


def gunicorn_gevent(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """Greenlets: sockets and sleeps are monkey-patched, so waiting is cheap and C code that waits blocks everybody."""
    return _gunicorn("gevent", app, workers, prefix, listen, "--config", CONFIGURATION, *_script_name(prefix))


def gunicorn_asgi(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """Gunicorn's own ASGI worker (since 24.0) on uvloop. It sends no WebSocket pings."""
    # 1 MiB, as uvicorn has here; the default is 16.
    limit = ["--websocket-max-message-size", str(2**20)]
    return _gunicorn(
        "asgi",
        app,
        workers,
        prefix,
        listen,
        "--asgi-loop",
        "uvloop",
        "--config",
        CONFIGURATION,
        *limit,
        *_root_path(prefix),
    )


def uvicorn(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """The usual ASGI server."""
    host, port = listen.rsplit(":", 1)
    command = [
        "python", "-P", CONFIGURATION, app.entry,
        "--host", host, "--port", port,
        "--workers", str(workers),
        # Both by name: without uvloop a hello takes 44 ms with --workers on TCP, and h11 is laxer on framing.
        "--loop", "uvloop", "--http", "httptools",
        "--timeout-keep-alive", str(app.timeouts.keep_alive),
        # Without it one endless stream keeps the process from ever exiting.
        "--timeout-graceful-shutdown", str(app.timeouts.graceful),
        # The default 5 s kills workers that are merely busy.
        "--timeout-worker-healthcheck", "30",
        "--proxy-headers", "--forwarded-allow-ips", TRUSTED_PROXIES,
        "--ws-ping-interval", f"{app.timeouts.ping:g}",
        "--ws-max-size", str(2**20),
        "--no-access-log", "--no-server-header",
        "--log-level", "info",
        *_root_path(prefix),
    ]  # fmt: skip
    if app.max_requests:
        command += [
            "--limit-max-requests",
            str(app.max_requests),
            "--limit-max-requests-jitter",
            str(app.max_requests_jitter),
        ]
    return command


def _script_name(prefix: str) -> list[str]:
    return ["--env", f"SCRIPT_NAME={prefix}"] if prefix else []


def _root_path(prefix: str) -> list[str]:
    return ["--root-path", prefix] if prefix else []


GATEWAYS = {
    g.name: g
    for g in (
        Gateway(
            "gunicorn-sync", "wsgi", "process", gunicorn_sync, strip_prefix=False, enforces_timeout=True, preloads=True
        ),
        Gateway("gunicorn-gthread", "wsgi", "thread", gunicorn_gthread, strip_prefix=False, preloads=True),
        Gateway("gunicorn-gevent", "wsgi", "loop", gunicorn_gevent, strip_prefix=False, preloads=True),
        Gateway("gunicorn-asgi", "asgi", "loop", gunicorn_asgi, strip_prefix=False, preloads=True),
        Gateway("uvicorn", "asgi", "loop", uvicorn, strip_prefix=True, pings=True),
    )
}

DEFAULT: dict[str, str] = {"wsgi": "gunicorn-gthread", "asgi": "uvicorn"}
