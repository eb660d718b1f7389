"""User classes: for every app of the site, one per way of talking to it.

The model is closed: a user sends a request, waits for the whole answer and a moment more, then sends the next one.
Every answer is checked, body included; a failure says what differed. Statistics are named "<app> <method> <path>".
"""

# Locust's failure() has no types.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import websocket
from locust import between, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, FastHttpUser, ResponseContextManager

if TYPE_CHECKING:
    from stack.load import AppPlan, Site

MIB = 2**20
# s without a byte. At its end a run must wait for longer than this (run.sh, --stop-timeout), or hangs go unseen.
PATIENCE = 30.0
ZEROS = bytes(MIB)  # what /bytes sends
UPLOAD = os.urandom(MIB)  # not zeros: a chunk that is lost, doubled or moved shows
HELLO: dict[str, bytes | dict[str, Any]] = {"wsgi": b"Hello, WSGI!", "asgi": {"message": "Hello, ASGI!"}}


class AppUser(FastHttpUser):
    """A user of one app. FastHttpUser costs a third of HttpUser's CPU time."""

    abstract = True
    app: ClassVar[AppPlan]
    wait_time = between(0.05, 0.15)
    network_timeout = connection_timeout = PATIENCE

    def context(self) -> dict[str, str]:
        return {"user_class": type(self).__name__}

    def label(self, method: str, path: str, part: str = "") -> str:
        return f"{self.app.name} {method} {path.partition('?')[0]} {part}".rstrip()

    def request(self, method: str, path: str, part: str = "", **options: Any) -> ResponseContextManager:
        # A redirect is no answer of these routes, and following it would measure another one.
        return self.client.request(
            method,
            self.app.prefix + path,
            name=self.label(method, path, part),
            catch_response=True,
            allow_redirects=False,
            **options,
        )


def check(response: ResponseContextManager, expected: bytes | dict[str, Any]) -> None:
    """Fails the request unless its answer is 200 with these bytes, or with a JSON object that has these items."""
    if response.request_meta["exception"]:
        return  # no connection, cut off, 4xx or 5xx: Locust words these itself
    if response.status_code != 200:
        response.failure(f"status {response.status_code} instead of 200")
    elif isinstance(expected, bytes):
        body = response.content or b""
        if body != expected:
            same_length = len(body) == len(expected)
            response.failure(
                "other bytes of the right length" if same_length else f"{len(body)} bytes instead of {len(expected)}"
            )
    else:
        try:
            items: object = response.json()
        except ValueError:
            items = None
        if not isinstance(items, dict):
            response.failure("the body is not a JSON object")
        elif wrong := sorted(key for key in expected if items.get(key) != expected[key]):
            response.failure(f"{wrong[0]}: {items.get(wrong[0])!r} instead of {expected[wrong[0]]!r}")


class RoutesUser(AppUser):
    """Plain requests: small, waiting, computing, up and down."""

    abstract = True

    @task(4)
    def hello(self) -> None:
        with self.request("GET", "/") as response:
            check(response, HELLO[self.app.app.interface])

    @task(2)
    def wait_without_cpu(self) -> None:
        with self.request("GET", "/wait?ms=100") as response:
            check(response, {"ms": 100})

    @task(2)
    def work(self) -> None:
        with self.request("GET", "/work?ms=5") as response:
            check(response, {"ms": 5})

    @task(2)
    def whoami(self) -> None:
        with self.request("GET", "/whoami") as response:
            # The id on the answer is the one the app saw: the answer belongs to this request.
            check(response, {"prefix": self.app.prefix, "request_id": (response.headers or {}).get("X-Request-ID")})

    @task(2)
    def echo(self) -> None:
        self.post("small", f"{id(self)} {time.time()}".encode())

    @task(1)
    def upload(self) -> None:
        self.post("1 MiB", UPLOAD)

    @task(1)
    def download(self) -> None:
        with self.request("GET", f"/bytes?n={MIB}") as response:
            check(response, ZEROS)

    def post(self, part: str, body: bytes) -> None:
        with self.request(
            "POST", "/echo", part, data=body, headers={"Content-Type": "application/octet-stream"}
        ) as response:
            check(response, body)


class StreamUser(AppUser):
    """Reads server-sent events as they come. Besides the whole GET it reports, as type SSE, the time to the first event
    and each event's way from the app to here; that one compares two clocks, which are one on a single host."""

    abstract = True
    events = 5

    @task
    def read_events(self) -> None:
        path = f"/events?n={self.events}&ms=100"
        start, seen = time.perf_counter(), 0
        with self.request("GET", path, stream=True, headers={"Accept": "text/event-stream"}) as response:
            if response.status_code == 200:
                try:
                    for event in self.parse(response):
                        if not seen:
                            self.report(path, "first event", (time.perf_counter() - start) * 1000)
                        self.report(path, "delivery", max(0.0, time.time() - event["sent"]) * 1000)
                        seen += 1
                except (*FAILURE_EXCEPTIONS, ValueError, KeyError, TypeError) as error:
                    response.failure(f"the stream broke: {error!r}")
                else:
                    if seen != self.events:
                        response.failure(f"{seen} events instead of {self.events}")
                response.request_meta["response_time"] = (time.perf_counter() - start) * 1000
            else:
                check(response, {})

    @staticmethod
    def parse(response: ResponseContextManager) -> Iterator[dict[str, Any]]:
        # Not iter_lines: it collects 1,024 bytes before it gives any line (0.8 s late, measured with Locust 2.47).
        stream = response._response
        assert stream is not None
        try:
            while line := stream.readline(b"\n"):
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
        finally:
            stream.release()  # else the connection is lost to the pool, and the tenth stream waits for ever

    def report(self, path: str, part: str, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE", name=self.label("GET", path, part), response_time=milliseconds,
            response_length=0, exception=None, context=self.context(),
        )  # fmt: skip


class LongPollUser(AppUser):
    """Asks, and is kept waiting."""

    abstract = True

    @task
    def poll(self) -> None:
        with self.request("GET", "/poll?ms=500") as response:
            check(response, {"ms": 500})
            took = response.request_meta["response_time"]
            if response.status_code == 200 and took < 500:
                response.failure("answered before its 500 ms were over")


class WebSocketUser(AppUser):
    """Connects, has ten messages echoed, closes."""

    abstract = True

    @task
    def converse(self) -> None:
        measure, socket = self.environment.events.request.measure, None
        url = "ws" + (self.host or "").removeprefix("http") + self.app.prefix + "/ws"
        with measure("WS", self.label("WS", "/ws", "connect"), context=self.context()):
            socket = websocket.create_connection(
                url, timeout=PATIENCE, host=self.app.host, sslopt={"cert_reqs": ssl.CERT_NONE}
            )
        if socket is None:
            return
        try:
            for number in range(10):
                time.sleep(0.05)  # Locust has made it gevent's
                message = f"{id(self)} {number}"
                with measure("WS", self.label("WS", "/ws", "echo"), len(message), context=self.context()) as meta:
                    socket.send(message)
                    if (answer := socket.recv()) != message:
                        raise ValueError(f"{len(answer)} characters came back, not the {len(message)} that were sent")
                if meta["exception"]:
                    return
        finally:
            socket.close()


class HealthUser(AppUser):
    """Of an app that promises no more than its health path."""

    abstract = True

    @task
    def health(self) -> None:
        with self.request("GET", self.app.app.health) as response:
            if not response.request_meta["exception"] and response.status_code != 200:
                response.failure(f"status {response.status_code} instead of 200")


def kinds(plan: AppPlan) -> dict[str, type[AppUser]]:
    """End of the class name -> what its users do."""
    if plan.app.contract == "health":
        return {"HealthUser": HealthUser}
    common: dict[str, type[AppUser]] = {"User": RoutesUser, "StreamUser": StreamUser, "LongPollUser": LongPollUser}
    return common | {"WebSocketUser": WebSocketUser} if plan.app.interface == "asgi" else common


def user_classes(site: Site) -> dict[str, type[AppUser]]:
    """Name -> class. All weigh the same, so each class gets the same share of the users."""
    classes: dict[str, type[AppUser]] = {}
    for plan in site.apps.values():
        for suffix, kind in kinds(plan).items():
            name = "".join(word.capitalize() for word in plan.name.split("-")) + suffix
            if name in classes:
                both = f"apps/{classes[name].app.name} and apps/{plan.name}"
                raise ValueError(f"{both} give the same user class, {name}. Rename one of the folders")
            # Every app is reached at the same address; one with its own host name is asked for by that name.
            headers = {"Host": plan.host} if plan.host else None
            classes[name] = type(name, (kind,), {"app": plan, "default_headers": headers, "__doc__": kind.__doc__})
    return classes
