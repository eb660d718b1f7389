"""Whatever a client sends, one request in is at most one request out, written anew by Nginx, and nothing of a refused one
gets any further; whatever it claims about itself, apps are told the truth; and both kinds of app get the same.

inputs.py says what is sent and what must come of it. All of it is sent to a site of its own: the sample apps on their own
gateways, with a tap (inputs_tap.py) between gateway and Nginx that keeps every byte.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import httpx
import pytest
from ruamel.yaml import YAML

from tests.chain.inputs import HTTP1, HTTP2, PATH_LENGTH, SMUGGLED, Input, Input2, Request
from tests.conftest import REPOSITORY, Checkout

HTTP, HTTPS = 18096, 18459
NAME = "site.test"
APPS = {"flask": "wsgi", "fastapi": "asgi"}
SILENCE = 0.2
"""s without another byte after the expected answers: there is no more."""
PATIENCE = 20.0
"""s for an answer that does not come; the edge's own limit for bodies is 10."""

INPUTS: list[Input] = [*HTTP1, *HTTP2]


@dataclass
class Way:
    """One input's way through one app over one protocol."""

    input: Input
    app: str
    over: str
    answer: str = ""
    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    """Of each answer, names in lower case."""

    @property
    def token(self) -> str:
        start, end = f"token-{self.input.id}-{self.app}-", f"-{self.over}-end"
        return start + "x" * (PATH_LENGTH - len(f"/{self.app}/tap/{start}{end}")) + end

    def filled(self, text: bytes) -> bytes:
        """Without the braces."""
        smuggled = str(len(self._filled(SMUGGLED))).encode()
        return self._filled(text.replace(b"{smuggled}", smuggled))

    def _filled(self, text: bytes) -> bytes:
        prefix, token = f"/{self.app}", self.token
        port = HTTP if self.over == "http" else HTTPS
        for word, value in {
            "path": f"{prefix}/tap/{token}",
            "stream": f"{prefix}/tap/stream/{token}",
            "prefix": prefix,
            "token": token,
            "host": f"{NAME}:{port}",
        }.items():
            text = text.replace(b"{%s}" % word.encode(), value.encode())
        return text


# --- clients ----------------------------------------------------------------------------------------------------------


def connect(over: str, trust: ssl.SSLContext) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", HTTP if over == "http" else HTTPS), timeout=PATIENCE)
    return connection if over in ("http", "https-plain") else trust.wrap_socket(connection, server_hostname=NAME)


def answers(received: bytes, closed: bool) -> tuple[str, list[list[tuple[str, str]]]]:
    """The statuses of the answers that are whole, and their headers."""
    words, headers, rest = [], list[list[tuple[str, str]]](), received
    while rest:
        found = re.match(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", rest)
        if not found:
            words += [] if rest.startswith(b"HTTP/1.1 ") or b"HTTP/1.1 ".startswith(rest) else ["no HTTP"]
            break
        fields = [
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(":") for line in found[2].decode("latin-1").splitlines())
        ]
        rest, told = rest[found.end() :], dict(fields)
        if told.get("transfer-encoding") == "chunked":
            while size := re.match(rb"([0-9a-f]+)\r\n", rest):
                rest = rest[size.end() + int(size[1], 16) + 2 :]
                if size[1] == b"0":
                    break
            else:
                break
        elif "content-length" in told:
            if len(rest) < int(told["content-length"]):
                break
            rest = rest[int(told["content-length"]) :]
        elif found[1] != b"100":
            rest = b""  # to the end of the connection: the client's version of HTTP was not known yet
        words.append(found[1].decode())
        headers.append(fields)
    return " ".join([*words, *(["closed"] if closed else [])]), headers


def over_http1(way: Way, trust: ssl.SSLContext) -> None:
    received, closed, end = b"", False, time.monotonic() + PATIENCE
    with connect(way.over, trust) as connection:
        # What is refused early is closed before all of it is sent.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(way.filled(way.input.sent))
        connection.settimeout(SILENCE)
        while not closed and time.monotonic() < end:
            try:
                part = connection.recv(65536)
                received, closed = received + part, not part
            except TimeoutError:
                if re.fullmatch(way.input.answer, answers(received, closed)[0]):
                    break
            except (ConnectionError, ssl.SSLError):
                closed = True
    way.answer, way.headers = answers(received, closed)


def over_http2(way: Way, trust: ssl.SSLContext) -> None:
    assert isinstance(way.input, Input2)
    # Nothing is put right, and nothing refused, that is to be sent.
    lenient = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False,
        header_encoding=None,
    )  # fmt: skip
    client = h2.connection.H2Connection(lenient)
    client.initiate_connection()
    data = None if way.input.data is None else way.filled(way.input.data)
    trailers = [(way.filled(name), way.filled(value)) for name, value in way.input.trailers]
    client.send_headers(
        1, [(way.filled(name), way.filled(value)) for name, value in way.input.fields], end_stream=data is None
    )
    words: list[str] = []
    end, ended = time.monotonic() + PATIENCE, data is None
    with connect("h2", trust) as connection:
        connection.settimeout(SILENCE)
        while time.monotonic() < end:
            try:
                while data and not ended and (room := min(client.local_flow_control_window(1), 16384)):
                    client.send_data(1, data[:room])
                    data = data[room:]
                if data is not None and not data and not ended:
                    ended = True
                    if trailers:
                        client.send_headers(1, trailers, end_stream=True)
                    else:
                        client.end_stream(1)
                connection.sendall(client.data_to_send())
                part = connection.recv(65536)
                if not part:
                    break
                for event in client.receive_data(part):
                    ended = ended or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
                    heard_of(event, way, words)
            except TimeoutError:
                if re.fullmatch(way.input.answer, " ".join(words)):
                    break
            except (ConnectionError, ssl.SSLError, h2.exceptions.ProtocolError):
                break
    way.answer = " ".join(words)


def heard_of(event: h2.events.Event, way: Way, words: list[str]) -> None:
    match event:
        case h2.events.ResponseReceived(headers=headers):
            told = [(bytes(name).decode(), bytes(value).decode("latin-1")) for name, value in headers or ()]
            words.append(dict(told)[":status"])
            way.headers.append(told)
        case h2.events.StreamReset(error_code=code) if code != h2.errors.ErrorCodes.NO_ERROR:
            words.append(f"RST:{h2.errors.ErrorCodes(code or 0).name}")
        case h2.events.ConnectionTerminated(error_code=code) if code:
            words.append(f"GOAWAY:{h2.errors.ErrorCodes(code).name}")


# --- in front of the apps ---------------------------------------------------------------------------------------------

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(%s) (/[!-\"$-~]*) HTTP/1\.1\r\n" % TOKEN)
FIELD = re.compile(rb"(%s): ?([\t -~\x80-\xff]*)\r\n" % TOKEN)


class NotHttp(Exception):
    """Bytes that a strict reader does not understand, and where they are."""


def requests(stream: bytes) -> Iterator[Request]:
    """What stands on one connection to a gateway, to its last byte."""
    at = 0
    while at < len(stream):
        start, headers = at, list[tuple[bytes, bytes]]()
        line = LINE.match(stream, at)
        if not line:
            raise NotHttp(stream[at : at + 200], at)
        at = line.end()
        while found := FIELD.match(stream, at):
            headers.append((found[1].lower(), found[2]))
            at = found.end()
        if stream[at : at + 2] != b"\r\n":
            raise NotHttp(stream[at : at + 200], at)
        at += 2
        lengths = [value for name, value in headers if name == b"content-length"]
        codings = [value for name, value in headers if name == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
            raise NotHttp(f"lengths {lengths}, codings {codings}", at)
        body, complete = b"", True
        if lengths:
            body = stream[at : at + int(lengths[0])]
            at, complete = at + len(body), len(body) == int(lengths[0])
        while codings:
            size = re.compile(rb"([0-9a-f]+)\r\n").match(stream, at)
            length = int(size[1], 16) if size else 0
            if not size or stream[size.end() + length :][:2] != b"\r\n":
                complete, at = False, len(stream)
                break
            body, at = body + stream[size.end() : size.end() + length], size.end() + length + 2
            if not length:
                break
        yield Request(line[1], line[2], headers, body, complete, stream[start:at])


@dataclass
class Tap:
    """What an app's tap has kept."""

    read: bytes
    """All that was read, one connection after the other."""
    requests: list[Request]
    called: list[tuple[bytes, bytes]]
    """Path and body of each request that reached the code."""
    not_http: list[str]
    """Where a strict reader gave up."""


def tapped(app: str) -> Tap:
    kept = httpx.get(f"http://127.0.0.1:{HTTP}/{app}/tap/seen", headers={"Host": NAME}, timeout=60).json()
    streams: defaultdict[int, bytes] = defaultdict(bytes)
    for connection, part in kept["raw"]:
        streams[connection] += base64.b64decode(part)
    tap = Tap(b"\0".join(streams.values()), [], [], [])
    for stream in streams.values():
        rest = stream
        while rest:
            try:
                for request in requests(rest):
                    tap.requests.append(request)
                break
            except NotHttp as error:  # told once; the requests after it are none the worse
                said, at = error.args
                tap.not_http.append(str(said))
                following = LINE.search(rest, at + 1)
                rest = rest[following.start() :] if following else b""
    tap.called.extend((call["path"].encode(), base64.b64decode(call["body"])) for call in kept["calls"])
    return tap


# --- the site, and everything sent to it ------------------------------------------------------------------------------


@dataclass
class Outcome:
    ways: dict[str, list[Way]]
    """By the input's id."""
    taps: dict[str, Tap]


def new_site(root: Path) -> Checkout:
    yaml = YAML()
    for name, interface in APPS.items():
        folder = root / "apps" / name
        shutil.copytree(REPOSITORY / "apps" / name, folder, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        shutil.copy(Path(__file__).with_name("inputs_tap.py"), folder / "tap.py")
        facts = yaml.load(folder / "app.yml")
        facts |= {"entry": f"tap:{interface}", "workers": 1}
        facts["paths"]["/tap/stream/"] = {"stream": True}
        yaml.dump(facts, folder / "app.yml")
    (root / "environments").mkdir()
    (root / "environments/local.yml").write_text(
        f"name: gatehouse-inputs\nengine: compose\ndomains: [{NAME}, 127.0.0.1]\nhttp_port: {HTTP}\n"
        f"https_port: {HTTPS}\ntls: {{redirect: false}}\n"
    )
    return Checkout(root)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    site = new_site(tmp_path_factory.mktemp("site"))
    try:
        site.run("up")
        yield send(site, INPUTS)
    finally:
        site.run("down", "--volumes", check=False)


def send(site: Checkout, inputs: list[Input]) -> Outcome:
    trust = ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    plain, h2_ = trust, ssl.create_default_context(cafile=site.root / ".local/ca/ca.pem")
    plain.set_alpn_protocols(["http/1.1"])
    h2_.set_alpn_protocols(["h2"])
    ways = [Way(one, app, over) for one in inputs for over in one.over for app in APPS]

    def send_one(way: Way) -> None:
        if way.over == "h2":
            over_http2(way, h2_)
        else:
            over_http1(way, plain)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(send_one, ways))
    by_input: defaultdict[str, list[Way]] = defaultdict(list)
    for way in ways:
        by_input[way.input.id].append(way)
    return Outcome(by_input, {app: tapped(app) for app in APPS})


# --- what must come of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", INPUTS, ids=lambda one: one.id)
def test_input(one: Input, outcome: Outcome) -> None:
    ways = outcome.ways[one.id]
    wrong = {f"{way.app} {way.over}": way.answer for way in ways if not re.fullmatch(one.answer, way.answer)}
    assert not wrong, f"{one.what}: {wrong}, and {one.answer} is right"
    if one.alike:
        for over in one.over:
            assert len({way.answer for way in ways if way.over == over}) == 1, [(w.app, w.answer) for w in ways]
    for way in ways:
        _reached_the_app(way, outcome.taps[way.app])


def _reached_the_app(way: Way, tap: Tap) -> None:
    token = way.token.encode()
    found = [request for request in tap.requests if token in request.target]
    whole = [request for request in found if request.complete]
    wanted = way.input.reaches
    if wanted is None:
        wanted = sum(word[0] == "2" for word in way.answer.split())
    if wanted != -1:
        assert len(whole) == wanted, f"{way.app} {way.over}: {[request.raw[:300] for request in found]}"
    assert len(found) - len(whole) <= way.input.cut, [request.raw[:300] for request in found]
    if not found:
        assert token not in tap.read
    assert tap.read.count(token) == sum(request.raw.count(token) for request in found)
    for request in whole:
        assert way.input.heard is None or way.input.heard(_in(way, request)), request.raw[:2000]


def _in(way: Way, request: Request) -> Request:
    """With the token in braces again, as in the tables."""
    target = request.target.replace(way.token.encode(), b"{token}")
    return Request(request.method, target, request.headers, request.body, request.complete, request.raw)


def test_every_request_that_reaches_an_app_tells_it_the_truth(outcome: Outcome) -> None:
    clients = set()
    for app, tap in outcome.taps.items():
        asked = [request for request in tap.requests if re.search(rb"token-.+-(http|https|h2)-end", request.target)]
        assert len(asked) > 100, "the tap keeps nothing"
        for request in asked:
            over = re.search(rb"-(http|https|h2)-end", request.target)
            assert over
            scheme, port = (b"http", HTTP) if over[1] == b"http" else (b"https", HTTPS)
            [host], [forwarded] = request.all(b"host"), request.all(b"x-forwarded-host")
            assert host == forwarded, request.raw
            assert host in (NAME.encode(), f"{NAME}:{port}".encode()), request.raw
            assert request.all(b"x-forwarded-proto") == [scheme], request.raw
            assert len(request.all(b"x-forwarded-port")) == 1
            [client] = request.all(b"x-forwarded-for")
            assert request.all(b"x-real-ip") == [client]
            clients.add(client)
            [request_id] = request.all(b"x-request-id")
            assert re.fullmatch(rb"[0-9a-f]{32}", request_id)
            if b"/ws?" not in request.target:
                for hop in (b"connection", b"upgrade", b"te", b"trailer", b"keep-alive", b"proxy-connection"):
                    assert not request.all(hop), (app, hop, request.raw)
    assert len(clients) == 1


def test_the_code_is_called_with_what_the_bytes_say(outcome: Outcome) -> None:
    """Nobody between the bytes and the code reads them otherwise."""
    for tap in outcome.taps.values():
        assert tap.not_http == []
        told = [r.body for r in tap.requests if b"/tap/" in r.target and not r.target.endswith(b"/seen") and r.complete]
        assert sorted(told) == sorted(body for _, body in tap.called)


ON_EVERY_ANSWER = (
    "content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy", "cross-origin-opener-policy",
    "x-request-id",
)  # fmt: skip


def test_every_answer_has_the_edges_headers_and_no_others(outcome: Outcome) -> None:
    """200, 308, 400, 405, 413, 414, 431, 501, ..., from apps and from Nginx."""
    statuses = set()
    for way in (way for ways in outcome.ways.values() for way in ways):
        words = [word for word in way.answer.split() if word.isdigit()]
        for status, headers in zip(words, way.headers, strict=True):
            if status == "100":
                continue
            statuses.add(status)
            names = [name for name, _ in headers]
            wrong = [name for name in ON_EVERY_ANSWER if names.count(name) != 1]
            assert not wrong, (way.input.id, way.answer, headers)
            assert [value for name, value in headers if name == "server"] == ["nginx"], (way.input.id, headers)
            secure = way.over in ("https", "h2")
            assert names.count("strict-transport-security") == secure, (way.input.id, way.over, headers)
            assert not {"x-evil", "x-powered-by", "x-gatehouse-time", "server-timing"} & set(names), way.input.id
    assert {"200", "308", "400", "405", "413", "414", "431", "501"} <= statuses
