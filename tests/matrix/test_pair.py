"""What the contract's suite does not ask of a framework on a gateway: at the root of a host, the gateway without Nginx, and
a replica that is told to stop. tests/matrix/run.py brings up what is asked here."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from stack import docker, process
from stack.load import AppPlan
from stack.render import ports
from stack.supervisor import Supervisor, run_directory
from tests.chain import test_contract as contract
from tests.conftest import Chain, in_reach

FRAMEWORK = os.environ.get("GATEHOUSE_PAIR", "").partition(" ")[0]
pytestmark = pytest.mark.skipif(not FRAMEWORK, reason="make matrix says what runs")
SCHEMES = pytest.mark.parametrize("scheme", [contract.PLAIN, contract.TLS])


@pytest.fixture
def app(chain: Chain) -> AppPlan:
    """Below /a/b, two replicas."""
    return chain.apps[FRAMEWORK]


@pytest.fixture
def plain(chain: Chain, app: AppPlan) -> Iterator[httpx.Client]:
    with contract.browser(chain, app, contract.PLAIN) as client:
        yield client


@pytest.fixture
def at_root(chain: Chain) -> AppPlan:
    """The same app at the root of a host of its own."""
    return chain.apps[f"{FRAMEWORK}-root"]


# --- prefix -----------------------------------------------------------------------------------------------------------


@SCHEMES
def test_at_the_root_of_a_host_the_app_sees_its_address(chain: Chain, at_root: AppPlan, scheme: str) -> None:
    assert at_root.prefix == ""
    contract.test_the_app_sees_the_address_in_the_browser(chain, at_root, scheme)
    with contract.browser(chain, at_root, scheme) as client:
        contract.test_hello(client, at_root)
        contract.test_an_unknown_path_gets_the_apps_own_404(client)


@SCHEMES
def test_at_the_root_of_a_host_links_lead_back(chain: Chain, at_root: AppPlan, scheme: str) -> None:
    contract.test_the_app_builds_links_that_lead_back_to_it(chain, at_root, scheme)
    with contract.browser(chain, at_root, scheme) as client:
        contract.test_a_slash_too_many_does_not_lead_out_of_the_prefix(client)
    if at_root.app.interface == "asgi":
        with contract.websocket(chain, at_root, scheme) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"


def test_the_app_is_below_a_nested_prefix(app: AppPlan) -> None:
    """The whole contract is asked there."""
    assert app.prefix == f"/a/b/{FRAMEWORK}"


@SCHEMES
def test_the_client_is_who_connected_to_the_edge(chain: Chain, app: AppPlan, scheme: str) -> None:
    if not process.running(chain.checkout.root):
        pytest.skip("a published port hides it")
    with contract.browser(chain, app, scheme) as client:
        assert contract.whoami(client)["client"] == "127.0.0.2"


# --- the gateway without Nginx ----------------------------------------------------------------------------------------


class Replica:
    """One replica of an app, on either engine."""

    def __init__(self, chain: Chain, app: AppPlan, number: int = 1) -> None:
        self.run = run_directory(chain.checkout.root)
        self.program = f"{app.name}.{number}" if process.running(chain.checkout.root) else None
        self.container = f"{chain.checkout.site.environment.name}-{app.name}-{number}"
        self.base = "" if app.gateway.strip_prefix else app.prefix
        if self.program:
            self.address = "127.0.0.1", ports(chain.checkout.site)[app.name][number - 1]
        else:
            self.address = in_reach(self.container), 8000

    def terminate(self) -> None:
        """SIGTERM, out of the blue."""
        if self.program:
            told = {of["name"]: of["pid"] for of in Supervisor(self.run).programs() or ()}
            self.pid = told[self.program]
            os.kill(self.pid, signal.SIGTERM)
        else:
            docker.run("kill", "--signal=TERM", self.container)

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.program:
                if not Path(f"/proc/{self.pid}").exists():
                    return True
            elif docker.run("inspect", "--format", "{{.State.Running}}", self.container).strip() == "false":
                docker.run("start", self.container)
                return True
            time.sleep(0.1)
        return False


def converse(address: tuple[str, int], request: str, body: bytes = b"", until: bytes | None = None) -> bytes:
    """The whole answer to these lines; with `until`, the body is sent once that has come."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
                if until and until in answer:
                    connection.sendall(body)
                    until = None
    return answer


def edge(chain: Chain) -> tuple[str, int]:
    return "127.0.0.1", chain.checkout.site.environment.http_port


@pytest.fixture
def gateway(chain: Chain, app: AppPlan) -> Replica:
    return Replica(chain, app)


def test_one_connection_serves_many_requests(gateway: Replica) -> None:
    connection = http.client.HTTPConnection(*gateway.address, timeout=10)
    connection.connect()
    connection.auto_open = 0  # a second connection would be no kept one
    for method, path, body in [("GET", "/", None), ("GET", "/bytes?n=70000", None), ("POST", "/echo", b"x" * 70000)]:
        try:
            connection.request(method, gateway.base + path, body)
        except http.client.NotConnected:
            pytest.fail("the connection was closed after an answer")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def readable_by_http_1_0(ask: Callable[[str], bytes], base: str, host: str) -> None:
    head, _, body = ask(f"GET {base}/ HTTP/1.0\nHost: {host}\n\n").partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200", head)
    assert b"ello, " in body
    head, _, body = ask(f"GET {base}/events?n=2&ms=10 HTTP/1.0\nHost: {host}\n\n").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower(), "chunked, which a client of HTTP/1.0 cannot read"
    assert body.startswith(b"data: ")


def continued(ask: Callable[..., bytes], base: str, host: str) -> None:
    lines = f"Host: {host}\nExpect: 100-continue\nContent-Length: 5\nConnection: close\n\n"
    try:
        answer = ask(f"POST {base}/echo HTTP/1.1\n{lines}", b"hello", until=b"\r\n\r\n")
    except TimeoutError:
        pytest.fail("no answer until the body is sent")
    interim, _, rest = answer.partition(b"\r\n\r\n")
    assert interim.startswith(b"HTTP/1.1 100")
    assert rest.startswith(b"HTTP/1.1 200")
    assert b"hello" in rest


def test_a_client_of_http_1_0_is_served(chain: Chain, app: AppPlan) -> None:
    readable_by_http_1_0(partial(converse, edge(chain)), app.prefix, "localhost")


def test_the_gateway_itself_serves_http_1_0(gateway: Replica) -> None:
    readable_by_http_1_0(partial(converse, gateway.address), gateway.base, "localhost")


def test_a_client_that_expects_100_continue_gets_it(chain: Chain, app: AppPlan) -> None:
    continued(partial(converse, edge(chain)), app.prefix, "localhost")


def test_the_gateway_itself_says_100_continue(gateway: Replica) -> None:
    continued(partial(converse, gateway.address), gateway.base, "localhost")


def on_a_socket(command: list[str], address: tuple[str, int], path: str) -> list[str] | None:
    """The gateway's command listening there instead; None: no way is known here."""
    host, port = address[0], str(address[1])
    if f"{host}:{port}" in command and command[0] in ("gunicorn", "hypercorn"):
        return [f"unix:{path}" if part == f"{host}:{port}" else part for part in command]
    if "--host" in command and "--port" in command:
        at = command.index("--host")
        rest = command[:at] + command[at + 2 :]
        at = rest.index("--port")
        return [*rest[:at], "--uds", path, *rest[at + 2 :]]
    return None


def command_of(chain: Chain, app: AppPlan, gateway: Replica) -> list[str]:
    """The process engine's own of this replica, asked once of a gateway: /bin/sh, the script that enters the app, the rest."""
    if not gateway.program:
        pytest.skip("asked on the process engine")
    if FRAMEWORK not in ("flask", "fastapi"):
        pytest.skip("of the gateway alone: asked once")
    rendered = chain.checkout.root / f".local/process/running/{gateway.program}.sh"
    return shlex.split(rendered.read_text())[1:]


@contextlib.contextmanager
def started(
    command: list[str], gateway: Replica, log: Path, ask: Callable[[], int]
) -> Iterator[subprocess.Popen[bytes]]:
    """One more beside the site's, once `ask` has a 200."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "GATEHOUSE_RUN": str(gateway.run)}
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                assert ask() == 200
                break
            assert time.monotonic() < end, log.read_text()
            assert running.poll() is None, log.read_text()
            time.sleep(0.1)
        yield running
    finally:
        running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_it_can_listen_on_a_unix_socket(chain: Chain, app: AppPlan, gateway: Replica, tmp_path: Path) -> None:
    if app.gateway.needs_docker:
        pytest.skip(f"{app.gateway.name} listens on TCP alone")
    words = command_of(chain, app, gateway)
    path = f"/tmp/{tmp_path.parent.parent.name}-{os.getpid()}.sock"  # short, because a socket's path must be
    command = on_a_socket(words[2:], gateway.address, path)
    if command is None:
        pytest.skip(f"{app.gateway.name} is run here by a parent of ours that listens on TCP alone")
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=5) as client, started(
        [*words[:2], *command], gateway, tmp_path / "log",
        lambda: client.get(f"http://localhost{gateway.base}/healthz").status_code,
    ):  # fmt: skip
        pass
    Path(path).unlink(missing_ok=True)


FAILING = {
    "wsgi": """
import time

def app(environ, start_response):
    if environ["PATH_INFO"].endswith("/slow"):
        time.sleep(0.3)
    if not environ["PATH_INFO"].endswith("/healthz"):
        raise FileNotFoundError("before the answer")
    start_response("200 OK", [("Content-Length", "0")])
    return []
""",
    "asgi": """
import asyncio

async def app(scope, receive, send):
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
    if scope["path"].endswith("/slow"):
        await asyncio.sleep(0.3)
    good = scope["path"].endswith("/healthz")
    if scope["path"].endswith("/before"):
        raise FileNotFoundError("before the answer")
    await send({"type": "http.response.start", "status": 200 if good else 500, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
    if not good:
        raise FileNotFoundError("after the answer, as Starlette does")
""",
}


@pytest.fixture
def failing(
    chain: Chain, app: AppPlan, gateway: Replica, tmp_path: Path
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Its port and process. The log is tmp_path / "log"."""
    shell, script, *command = command_of(chain, app, gateway)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    (tmp_path / "failing.py").write_text(FAILING[app.app.interface])
    (tmp_path / "app.sh").write_text(re.sub(r"^cd .*", f"cd {tmp_path}", Path(script).read_text(), flags=re.MULTILINE))
    command = [
        re.sub(rf"\b{gateway.address[1]}$", str(port), "failing:app" if part == app.app.entry else part)
        for part in command
    ]
    with started(
        [shell, str(tmp_path / "app.sh"), *command], gateway, tmp_path / "log",
        lambda: httpx.get(f"http://127.0.0.1:{port}{gateway.base}/healthz").status_code,
    ) as running:  # fmt: skip
        yield port, running


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_app_that_fails_is_a_500_on_a_connection_that_stays_good(
    failing: tuple[int, object], gateway: Replica, tmp_path: Path, when: str
) -> None:
    """With no word of its end, Nginx would send the next request there, too, and a POST that is lost is a 502."""
    connection = http.client.HTTPConnection("127.0.0.1", failing[0], timeout=10)
    for _ in range(3):
        connection.connect()
        connection.auto_open = 0
        for _ in range(5):
            connection.request("POST", f"{gateway.base}/{when}", bytes(900_000))
            answer = connection.getresponse()
            assert answer.status == 500
            answer.read()
            if answer.will_close:
                break
        connection.close()
    assert (tmp_path / "log").read_text().count("FileNotFoundError: ") >= 3


def test_a_client_that_leaves_in_the_middle_of_its_body_holds_nothing(
    failing: tuple[int, subprocess.Popen[bytes]], gateway: Replica
) -> None:
    """The app answers after that, without having read it. What still waited for the rest would show at the end."""
    port, running = failing
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"POST {gateway.base}/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello".encode())
            time.sleep(0.1)
    time.sleep(0.5)
    running.terminate()
    running.wait(10)  # s; `timeouts.graceful` is 30


# --- graceful stop ----------------------------------------------------------------------------------------------------


def test_nothing_is_lost_when_a_replica_is_told_to_stop(chain: Chain, app: AppPlan, plain: httpx.Client) -> None:
    """SIGTERM, while requests of some seconds are in flight on both replicas and others go on coming."""
    begun = time.monotonic()

    def wait() -> object:
        return plain.get("/wait?ms=3000").status_code

    def upload() -> object:
        def slow() -> Iterator[bytes]:
            for _ in range(6):
                yield bytes(2**16)
                time.sleep(0.5)

        answer = plain.post("/echo", content=slow())
        return answer.status_code if len(answer.content) == 6 * 2**16 else f"{len(answer.content)} bytes came back"

    def listen() -> object:
        lines = plain.get("/events?n=10&ms=300").text.count("data: ")
        return 200 if lines == 10 else f"{lines} of 10 events"

    def others() -> object:
        statuses: Counter[object] = Counter()
        # A client each: two threads that take turns on one's kept connections have closed them under each other (EBADF).
        with contract.browser(chain, app, contract.PLAIN) as own:
            while time.monotonic() < begun + 5:
                statuses[own.get("/").status_code] += 1
        return 200 if set(statuses) == {200} else dict(statuses)

    replica = Replica(chain, app, 2)
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(what) for what in (wait, wait, upload, upload, listen, listen, others, others)]
        time.sleep(1)
        replica.terminate()
        answers = []
        for what in asked:
            try:
                answers.append(what.result())
            except httpx.HTTPError as error:
                answers.append(f"{type(error).__name__} {error}")
    assert answers == [200] * len(asked)
    assert replica.wait(app.app.timeouts.stop_grace), "did not end by itself"
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            request = f"GET {replica.base}/healthz HTTP/1.0\nHost: localhost\n\n"
            if b" 200 " in converse(Replica(chain, app, 2).address, request):
                break
        assert time.monotonic() < end, "did not come back"
        time.sleep(0.2)
