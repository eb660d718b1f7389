"""How each gateway is started: app in, argument list out. A new gateway is one function, one row, one exact-output test.

`GATEWAYS` maps the word in app.yml to the facts that the rest of the stack needs. Flags are chosen here once, for every
engine; each has its reason beside it. Defaults differ from the gateways' own where those are wrong behind Nginx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
    recycles: bool = True
    """Whether it replaces workers after `max_requests`."""
    shortest_ping: int = 0
    """s. Where this is not 0, it takes whole seconds, at least so many."""
    heartbeat: bool = False
    """Whether a worker that gives no sign of life for `timeouts.gateway` is replaced."""
    jitters: bool = True
    """Whether it can spread `max_requests`."""
    keeps_alive: bool = True
    """Whether Nginx may keep connections to it."""
    streams_bodies: bool = True
    """Whether an app gets a request's body while it is under way."""
    reloads: bool = True
    """Whether it can load changed code by itself, for `make dev`."""
    needs_docker: bool = False
    """Whether it is part of the system and not of a virtual environment."""

    @property
    def files(self) -> str:
        """Folder of compose/gateways with its lock file and, where it needs one, its configuration."""
        return SHARED_FILES.get(self.name, self.name)


SHARED_FILES = {
    "gunicorn-sync": "gunicorn", "gunicorn-gthread": "gunicorn", "granian-wsgi": "granian", "granian-asgi": "granian"
}  # fmt: skip
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
        # The edge alone refuses header fields (nginx/snippets/basics.conf): it adds some to 100 of the client's, and those
        # of HTTP/2, which it measures compressed, are up to 8/5 of its 8 KB long.
        "--limit-request-fields", "128",
        "--limit-request-field_size", "16380",
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


def mod_wsgi(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """Apache with mod_wsgi's daemon processes, of Debian: compose/gateways/mod_wsgi/httpd.conf says what each word is for."""
    longest = max(app.timeouts.request, *(path.timeout or 0 for path in app.paths.values()), 0)
    words = {
        "ENTRY": app.entry,
        "PREFIX": prefix or "/",
        "LISTEN": listen,
        "PROCESSES": workers,
        "THREADS": app.threads,
        "THREADS_OF_APACHE": workers * app.threads + 32,
        "KEEP_ALIVE": app.timeouts.keep_alive,
        "TIMEOUT": math.ceil(longest) + 5,
        "GRACEFUL": app.timeouts.graceful,
        # Python itself stands still: a heartbeat, as gunicorn's --timeout is for threads. A slow request does not miss it.
        "DEADLOCK": app.timeouts.gateway,
        "MAX_REQUESTS": app.max_requests,
        "TRUSTED": TRUSTED_PROXIES.replace(",", " "),
    }
    defined = [part for word, value in words.items() for part in ("-C", f"Define {word} {_quoted(str(value))}")]
    return ["bash", "/gateway/run.sh", "2", "apache2", *defined, "-f", "/gateway/httpd.conf", "-D", "FOREGROUND"]


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value


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


def _granian(interface: str, app: App, workers: int, prefix: str, listen: str, *extra: str) -> list[str]:
    host, port = listen.rsplit(":", 1)
    return [
        "python", "-P", CONFIGURATION, app.entry,
        "--interface", interface,
        "--host", host, "--port", port,
        "--workers", str(workers),
        *extra,
        "--http", "1", "--loop", "uvloop",
        "--backlog", "2048",
        # Connections that a worker accepts at all, idle ones and WebSockets with them: Nginx keeps up to 64 for each of its
        # own workers, and whom it has no room for waits.
        "--backpressure", "65536",
        # It ends idle connections, too: there is no other keep-alive timeout.
        "--http1-header-read-timeout", str(app.timeouts.keep_alive * 1000),
        "--workers-kill-timeout", str(app.timeouts.graceful),
        # Else one lost worker ends all.
        "--respawn-failed-workers",
        "--forwarded-allow-ips", TRUSTED_PROXIES,
        "--no-access-log",
        "--log-level", "info",
        *(["--url-path-prefix", prefix] if prefix else []),
    ]  # fmt: skip


def granian_wsgi(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """HTTP in Rust, workers x threads requests at a time, connections kept."""
    return _granian("wsgi", app, workers, prefix, listen, "--blocking-threads", str(app.threads), "--no-ws")


def granian_asgi(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """HTTP in Rust, the app on uvloop. It sends no WebSocket pings."""
    return _granian("asgi", app, workers, prefix, listen)


def uwsgi(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """C, workers x threads requests at a time, connection closed after each. HTTP and not uwsgi_pass, which would collect
    every chunked upload at the edge. With kept connections (http11-socket) an idle one holds a thread."""
    longest = max(app.timeouts.request, *(path.timeout or 0 for path in app.paths.values()), 0)
    command = [
        "python", "-P", CONFIGURATION, app.entry,
        "--bind", listen, "--backlog", "2048",
        "--graceful-timeout", str(app.timeouts.graceful),
        "--forwarded-allow-ips", TRUSTED_PROXIES,
        *(["--script-name", prefix] if prefix else []),
        # From here on uWSGI's own.
        "--master", "--need-app", "--no-orphans",
        "--workers", str(workers), "--threads", str(app.threads), "--enable-threads",
        # Of several workers that wait for a connection, wakes one.
        "--thunder-lock",
        "--add-header", "Connection: close",
        # The default gives up after 4 s in which a body does not come on, or an answer is not taken.
        "--socket-timeout", str(math.ceil(longest)),
        # Of a request's line and headers. The default 4096 refuses what Nginx passes on, and this is the most it can.
        "--buffer-size", "65535",
        # Only SIGHUP would be graceful.
        "--hook-master-start", "unix_signal:15 gracefully_kill_them_all",
        "--worker-reload-mercy", str(app.timeouts.graceful),
        "--disable-logging",
    ]  # fmt: skip
    if not app.preload:
        command.append("--lazy-apps")
    if app.max_requests:
        # Worker n gets n times delta more: a jitter that is no chance.
        delta = app.max_requests_jitter // workers
        command += ["--max-requests", str(app.max_requests), "--max-requests-delta", str(delta)]
    return command


def hypercorn(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """ASGI by the authors of Quart, on uvloop. Workers are run by compose/gateways/gatehouse_workers.py."""
    return [
        "python", "-P", CONFIGURATION, app.entry,
        "--bind", listen,
        "--workers", str(workers),
        "--worker-class", "uvloop",
        "--backlog", "2048",
        "--keep-alive", str(app.timeouts.keep_alive),
        "--websocket-ping-interval", f"{app.timeouts.ping:g}",
        "--log-level", "info",
        *_of_ours(app, prefix),
    ]  # fmt: skip


def daphne(app: App, workers: int, prefix: str, listen: str) -> list[str]:
    """Django Channels' own, on Twisted. It has no workers; compose/gateways/gatehouse_workers.py runs several."""
    return [
        "python", "-P", CONFIGURATION, app.entry,
        "--bind", listen,
        "--workers", str(workers),
        "--keep-alive", str(app.timeouts.keep_alive),
        # It looks at its sockets every 2 s.
        "--ping-interval", f"{app.timeouts.ping:g}",
        "--websocket-max-message-size", str(2**20), "--websocket-max-frame-size", str(2**20),
        # The defaults: a socket ends after a day, and one that the app takes more than 5 s to accept is refused.
        "--websocket_timeout", "-1", "--websocket_connect_timeout", str(math.ceil(app.timeouts.request)),
        # The default kills after 10 s what an app does after its answer.
        "--application-close-timeout", "86400",
        "--no-server-name",
        # 1 is an access log.
        "--verbosity", "0",
        *_of_ours(app, prefix),
    ]  # fmt: skip


def _of_ours(app: App, prefix: str) -> list[str]:
    """What compose/gateways/gatehouse_workers.py and gatehouse_behind.py do in the gateway's stead."""
    recycling = ["--max-requests", str(app.max_requests), "--max-requests-jitter", str(app.max_requests_jitter)]
    return [
        "--graceful-timeout", str(app.timeouts.graceful),
        "--forwarded-allow-ips", TRUSTED_PROXIES,
        *(recycling if app.max_requests else []),
        *_root_path(prefix),
    ]  # fmt: skip


def _script_name(prefix: str) -> list[str]:
    return ["--env", f"SCRIPT_NAME={prefix}"] if prefix else []


def _root_path(prefix: str) -> list[str]:
    return ["--root-path", prefix] if prefix else []


GATEWAYS = {
    g.name: g
    for g in (
        Gateway(
            "gunicorn-sync",
            "wsgi",
            "process",
            gunicorn_sync,
            strip_prefix=False,
            enforces_timeout=True,
            preloads=True,
            heartbeat=True,
            keeps_alive=False,
        ),
        Gateway(
            "gunicorn-gthread", "wsgi", "thread", gunicorn_gthread, strip_prefix=False, preloads=True, heartbeat=True
        ),
        Gateway("gunicorn-gevent", "wsgi", "loop", gunicorn_gevent, strip_prefix=False, preloads=True, heartbeat=True),
        Gateway("gunicorn-asgi", "asgi", "loop", gunicorn_asgi, strip_prefix=False, preloads=True, heartbeat=True),
        Gateway("uvicorn", "asgi", "loop", uvicorn, strip_prefix=True, pings=True),
        Gateway("uwsgi", "wsgi", "thread", uwsgi, strip_prefix=False, preloads=True, keeps_alive=False),
        Gateway("granian-wsgi", "wsgi", "thread", granian_wsgi, strip_prefix=False, recycles=False),
        Gateway("granian-asgi", "asgi", "loop", granian_asgi, strip_prefix=False, recycles=False),
        Gateway(
            "mod_wsgi",
            "wsgi",
            "thread",
            mod_wsgi,
            strip_prefix=False,
            heartbeat=True,
            jitters=False,
            reloads=False,
            needs_docker=True,
        ),
        Gateway("hypercorn", "asgi", "loop", hypercorn, strip_prefix=False, pings=True),
        Gateway(
            "daphne", "asgi", "loop", daphne, strip_prefix=False, pings=True, shortest_ping=2, streams_bodies=False
        ),
    )
}


def notes(app: App) -> Iterator[str]:
    """What is written in its app.yml and means less, or nothing, with its gateway: a sentence each. What would mean something
    else is an error (stack/model.py)."""
    gateway = app.chosen_gateway
    if "threads" in app.model_fields_set and gateway.concurrency != "thread":
        yield f"threads: means nothing to {gateway.name}, which has none"
    if "gateway" in app.timeouts.model_fields_set and not (gateway.heartbeat or gateway.enforces_timeout):
        yield f"timeouts.gateway: means nothing to {gateway.name}: it watches no worker. Nginx ends a request after timeouts.request"
    if "ping" in app.timeouts.model_fields_set and gateway.interface == "asgi" and not gateway.pings:
        yield f"timeouts.ping: means nothing to {gateway.name}: it pings no WebSocket"
    if "keep_alive" in app.timeouts.model_fields_set and not gateway.keeps_alive:
        yield f"timeouts.keep_alive: means nothing to {gateway.name}: it closes each connection after its answer"
    streams = [path for path, behaviour in app.paths.items() if behaviour.stream]
    if streams and not gateway.streams_bodies:
        yield f"paths: stream ({', '.join(streams)}) is for answers alone: {gateway.name} takes in a whole body before the app gets any of it"


DEFAULT: dict[str, str] = {"wsgi": "gunicorn-gthread", "asgi": "uvicorn"}
