"""User classes: for every app of the site, one per way of talking to it.

Two models. Closed: a user sends a request, waits for the whole answer and a moment more, then sends the next one; when
the chain hangs, so do its users, and hardly a request sees it. Open: a user is one arrival a second, whatever became of
the others, as the public comes; times count from when a request was due. Every answer is checked, body included; a failure says what differed. Statistics are named "<app> <method> <path>".
"""

# Locust's failure() has no types.
# mypy: allow-untyped-calls

from __future__ import annotations

import importlib.util
import json
import os
import random
import ssl
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
import gevent.local
import gevent.pool
import websocket
from locust import between, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, FastHttpUser, ResponseContextManager
from locust.env import Environment
from locust.event import EventHook
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_STOPPING

from loadtests import watch

if TYPE_CHECKING:
    from stack.load import AppPlan, Site

KEY = {"X-Gatehouse-Load": key} if (key := os.environ.get("GATEHOUSE_LOAD_KEY")) else {}
"""What makes an edge outside `local` say where the time goes (edge.timing)."""
MIB = 2**20
# s without a byte. At its end a run must wait for longer than this (run.sh, --stop-timeout), or hangs go unseen.
PATIENCE = 30.0
ZEROS = bytes(MIB)  # what /bytes sends
UPLOAD = os.urandom(MIB)  # not zeros: a chunk that is lost, doubled or moved shows
HELLO: dict[str, bytes | dict[str, Any]] = {"wsgi": b"Hello, WSGI!", "asgi": {"message": "Hello, ASGI!"}}


MOST_IN_FLIGHT = 2000
"""Open model: unanswered arrivals of one process. Beyond it they are not sent, and counted as failed."""

arrival = gevent.local.local()
""".late: ms by which the arrival that this greenlet handles was begun late; its first request is charged with it."""


class Corrected(EventHook):
    """A user's own `request` event: adds what the request's time has to include, and hands on to Locust's."""

    def __init__(self, hook: EventHook) -> None:
        super().__init__()
        self.hook = hook

    def fire(self, *, reverse: bool = False, **facts: Any) -> None:
        if facts.get("request_type") == watch.PARTS:
            self.hook.fire(reverse=reverse, **facts)
            return
        late, arrival.late = getattr(arrival, "late", 0.0), 0.0
        took = facts.get("response_time")
        if took is not None:
            first = getattr(facts.get("response"), "first_byte", None)
            body = max(took - first, 0.0) if first is not None else 0.0
            facts["context"] = {**(facts.get("context") or {}), "late": late, "body": body}
            facts["response_time"] = took + late
        self.hook.fire(reverse=reverse, **facts)


class AppUser(FastHttpUser):
    """A user of one app. FastHttpUser costs a third of HttpUser's CPU time."""

    abstract = True
    app: ClassVar[AppPlan]
    wait_time = between(0.05, 0.15)
    network_timeout = connection_timeout = PATIENCE
    concurrency = MOST_IN_FLIGHT  # of connections: else an open user's own arrivals would wait for each other

    rate: ClassVar[float] = 1.0
    """Open model: arrivals a second of one user."""
    in_flight: ClassVar[int] = 0

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.requests = Corrected(environment.events.request)
        self.client.request_event = self.requests
        # A redirect is no answer of these routes, and following it would measure another one.
        self.client.client.redirect_response_codes = frozenset()
        send = self.client._send_request_safe_mode

        def send_and_time(method: str, url: str, **options: Any) -> Any:
            start = time.perf_counter()
            response = send(method, url, **options)
            response.first_byte = (time.perf_counter() - start) * 1000
            return response

        self.client._send_request_safe_mode = send_and_time  # type: ignore[method-assign]
        begin = self.on_start

        def begin_and_arrive() -> None:
            begin()
            if getattr(self.environment.parsed_options, "model", "closed") == "open":
                self.arrive()

        object.__setattr__(self, "on_start", begin_and_arrive)  # here, because an app's own users may have their own

    def context(self) -> dict[str, Any]:
        return {"user_class": type(self).__name__, "app": self.app.name}

    def arrive(self) -> None:
        """Begins tasks at the times of a Poisson process, `rate` a second, until the user is stopped. Those of many users
        add up to a Poisson process again, so nothing has to be agreed on between processes."""
        pool, due = gevent.pool.Pool(), time.perf_counter() + random.random() / self.rate
        try:
            while self._state != LOCUST_STATE_STOPPING:
                gevent.sleep(max(0.0, due - time.perf_counter()))
                if self._state == LOCUST_STATE_STOPPING:
                    break
                if AppUser.in_flight < MOST_IN_FLIGHT:
                    AppUser.in_flight += 1
                    pool.spawn(self.one, due, random.choice(self.tasks))
                else:
                    watch.unsent()
                    self.requests.fire(
                        request_type="OPEN", name=f"{self.app.name} not sent", response_time=None, response_length=0,
                        exception=RuntimeError(f"{MOST_IN_FLIGHT} were unanswered"), context=self.context(),
                    )  # fmt: skip
                due += random.expovariate(self.rate)
            pool.join()
        finally:
            watch.unfinished(len(pool))
            pool.kill()

    def one(self, due: float, what: Any) -> None:
        """One arrival."""
        try:
            arrival.late = (time.perf_counter() - due) * 1000
            watch.started(arrival.late)
            what(self)
        except (StopUser, gevent.GreenletExit):
            pass
        except Exception as error:
            self.environment.events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
        finally:
            AppUser.in_flight -= 1

    def label(self, method: str, path: str, part: str = "") -> str:
        return f"{self.app.name} {method} {path.partition('?')[0]} {part}".rstrip()

    def request(self, method: str, path: str, part: str = "", **options: Any) -> ResponseContextManager:
        return self.client.request(
            method, self.app.prefix + path, name=self.label(method, path, part), catch_response=True, **options
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
        self.requests.fire(
            request_type=watch.PARTS, name=self.label("GET", path, part), response_time=milliseconds,
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
        measure, socket = self.requests.measure, None
        url = "ws" + (self.host or "").removeprefix("http") + self.app.prefix + "/ws"
        with measure("WS", self.label("WS", "/ws", "connect"), context=self.context()) as meta:
            socket = websocket.create_connection(
                url, timeout=PATIENCE, host=self.app.host, header=KEY, sslopt={"cert_reqs": ssl.CERT_NONE}
            )
            meta["response"] = SimpleNamespace(headers=socket.getheaders())
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


OWN = "loadtest.py"


def own_kinds(plan: AppPlan) -> dict[str, type[AppUser]]:
    """What the app's folder brings: every subclass of AppUser in its loadtest.py. Raises ValueError with a sentence."""
    file = plan.folder / OWN
    if not file.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"loadtest_of_{plan.name.replace('-', '_')}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"apps/{plan.name}/{OWN}: {type(error).__name__}: {error}") from error
    found = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, AppUser) and kind.__module__ == spec.name and not kind.abstract
    }
    for name, kind in found.items():
        if not kind.tasks or any(isinstance(what, type) for what in kind.tasks):
            raise ValueError(
                f"apps/{plan.name}/{OWN}: {name} needs tasks, as methods with @task; TaskSets are not run here"
            )
    if not found:
        raise ValueError(f"apps/{plan.name}/{OWN}: no class in it derives from loadtests.users.AppUser")
    return found


def kinds(plan: AppPlan) -> dict[str, type[AppUser]]:
    """End of the class name -> what its users do."""
    own = own_kinds(plan)
    if plan.app.contract == "health":
        return own or {"HealthUser": HealthUser}
    common: dict[str, type[AppUser]] = {"User": RoutesUser, "StreamUser": StreamUser, "LongPollUser": LongPollUser}
    return common | ({"WebSocketUser": WebSocketUser} if plan.app.interface == "asgi" else {}) | own


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
            headers = (kind.default_headers or {}) | KEY | ({"Host": plan.host} if plan.host else {})
            classes[name] = type(name, (kind,), {"app": plan, "default_headers": headers, "__doc__": kind.__doc__})
    return classes
