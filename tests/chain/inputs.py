"""What clients send that is malformed, ambiguous, too large or a lie, over HTTP/1.1 and over HTTP/2, and what each must get.

Data for test_inputs.py. In braces: {path} answers 200 in the sample app under test, and {stream} does where bodies pass
as they come; {prefix} is that app's; {host} the site; {token} stands in both paths and is this input's alone, so that every
byte of it is found again in front of the apps. {smuggled} is the length of SMUGGLED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field

SPOOFED = b"spoofed.example"
PATH_LENGTH = 100
"""Bytes that {path} stands for, whatever the app."""
LIMIT = 2**20
"""Bytes that a body may have: `body_limit`, which the sample apps leave at its default."""


@dataclass(frozen=True)
class Request:
    """What stood in front of a gateway, taken apart by somebody who allows nothing that the RFC does not."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    body: bytes
    complete: bool
    raw: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Input:
    """Bytes on a connection of their own."""

    id: str
    what: str
    sent: bytes
    answer: str
    """Regular expression of the answers' statuses, and `closed` where the connection is closed after them: "200 400 closed".
    Over HTTP/2 a status, or the frame that ends the stream and its code: "RST:PROTOCOL_ERROR"."""
    reaches: int | None = None
    """How many requests reach the app, whole; None: as many as got an answer of 2xx; -1: not counted."""
    cut: bool = False
    """One more may begin to reach it, but its end never does."""
    heard: Callable[[Request], bool] | None = None
    """What must be true of each request that reaches the app, beyond what is true of all."""
    over: tuple[str, ...] = ("http", "https")
    alike: bool = True
    """Both apps give the same answer."""


Field = tuple[bytes, bytes]


@dataclass(frozen=True)
class Input2(Input):
    """The same over HTTP/2: `fields` in one header block on stream 1, then `data` and `trailers`."""

    sent: bytes = dataclass_field(default=b"", kw_only=True)
    fields: tuple[Field, ...] = ()
    data: bytes | None = None
    trailers: tuple[Field, ...] = ()
    over: tuple[str, ...] = ("h2",)


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: {host}", *fields, b"", b""))


def get(*fields: bytes, path: bytes = b"{path}") -> bytes:
    return head(b"GET " + path + b" HTTP/1.1", *fields)


def post(*fields: bytes, body: bytes = b"hello", path: bytes = b"{path}") -> bytes:
    return head(b"POST " + path + b" HTTP/1.1", *fields) + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def body_is(body: bytes) -> Callable[[Request], bool]:
    return lambda request: request.body == body


def without(*words: bytes) -> Callable[[Request], bool]:
    return lambda request: not any(word.lower() in request.raw.partition(b"\r\n")[2].lower() for word in words)


def target_ends(end: bytes) -> Callable[[Request], bool]:
    return lambda request: request.target.endswith(end)


def sized(start: bytes, size: int, end: bytes = b"") -> bytes:
    """`size` bytes once {path} is filled in."""
    return start + b"a" * (size - len(start.replace(b"{path}", bytes(PATH_LENGTH))) - len(end)) + end


CLIENT_ADDRESSES = (
    b"X-Client-IP", b"Client-IP", b"True-Client-IP", b"X-Cluster-Client-IP", b"CF-Connecting-IP", b"Fastly-Client-IP",
    b"X-Forwarded", b"Forwarded-For",
)  # fmt: skip
IDENTITIES = (
    b"Remote-User", b"Remote-Groups", b"Remote-Name", b"Remote-Email", b"X-Remote-User", b"X-Forwarded-User",
    b"X-Forwarded-Email", b"X-Forwarded-Groups", b"X-Forwarded-Preferred-Username", b"X-Forwarded-Access-Token",
    b"X-Auth-Request-User", b"X-Auth-Request-Email", b"X-Auth-Request-Groups", b"X-Auth-Request-Preferred-Username",
    b"X-Auth-Request-Access-Token", b"X-WebAuth-User", b"X-Authentik-Username", b"Cf-Access-Authenticated-User-Email",
    b"X-Goog-Authenticated-User-Email", b"X-Amzn-Oidc-Identity", b"X-MS-Client-Principal", b"X-MS-Client-Principal-Name",
    b"Tailscale-User-Login", b"Client-Cert", b"X-Forwarded-Client-Cert", b"X-SSL-Client-Verify", b"X-SSL-Client-S-DN",
    b"SSL-Client-Verify", b"SSL-Client-Subject-DN",
)  # fmt: skip
"""As oauth2-proxy, Authelia, authentik, Grafana, Cloudflare, Google, AWS, Azure, Tailscale and TLS terminators say who a client is."""
REFUSED = "400 closed"
CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"GET {path}-smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"


def framing() -> Iterator[Input]:
    yield Input("F00", "a body with Content-Length", post(b"Content-Length: 5"), "200", heard=body_is(b"hello"))
    yield Input("F00c", "a chunked body", chunked(b"5\r\nhello\r\n0\r\n\r\n"), "200", heard=body_is(b"hello"))
    yield Input(
        "F01",
        "Content-Length and Transfer-Encoding",
        post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
        REFUSED,
    )
    yield Input(
        "F01b",
        "Transfer-Encoding and Content-Length",
        post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
        REFUSED,
    )
    for number, (first, second) in enumerate([(b"5", b"6"), (b"5", b"5")], 2):
        lengths = (b"Content-Length: " + first, b"Content-Length: " + second)
        yield Input(f"F0{number}", "two Content-Length", post(*lengths), REFUSED)
    for number, value in enumerate([b"5, 5", b"+5", b"-1", b"0x5", b"1_0", str(2**64 + 5).encode(), b""], 4):
        yield Input(f"F{number:02}", f"Content-Length: {value!r}", post(b"Content-Length: " + value), REFUSED)
    for number, value in enumerate([b"xchunked", b"identity", b"gzip, chunked"], 11):
        yield Input(
            f"F{number}",
            f"Transfer-Encoding: {value!r}",
            post(b"Transfer-Encoding: " + value, body=b"5\r\nhello\r\n0\r\n\r\n"),
            "(400|501) closed",
        )
    for id, fields, answer in (
        ("F14", (CHUNKED, CHUNKED), REFUSED),
        ("F15", (CHUNKED, b"Transfer-Encoding: identity"), REFUSED),
        ("F16", (b"Transfer-Encoding : chunked",), REFUSED),
        ("F17", (b"Transfer-Encoding: \x0bchunked",), "(400|501) closed"),
        ("F18", (b"Transfer-Encoding:\r\n chunked",), REFUSED),
    ):
        yield Input(id, repr(fields), post(*fields, body=b"5\r\nhello\r\n0\r\n\r\n"), answer)
    yield Input(
        "F19",
        "chunked in HTTP/1.0",
        head(b"POST {path} HTTP/1.0", CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    )
    for id, what, body in (
        ("F20", "chunk size 0x5", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("F21", "chunk size +5", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("F22", "chunk size overflow", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("F23", "chunk lines ended by bare LF", b"5\nhello\n0\n\n"),
        ("F24", "chunk data without CRLF", b"5\r\nhello0\r\n\r\n"),
        ("F25", "LF inside a chunk extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("F27", "a negative chunk size", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("F29", "a good chunk, then a bad one", b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"),
    ):
        yield Input(id, what, chunked(body + SMUGGLED), REFUSED, cut=True)
    yield Input(
        "F26",
        "20 kB chunk extension",
        chunked(b"5;" + b"y" * 20000 + b"\r\nhello\r\n0\r\n\r\n"),
        "200",
        heard=lambda r: r.body == b"hello" and b"yyy" not in r.raw,
    )
    yield Input(
        "F28",
        "a trailer Content-Length",
        chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nX-Real-IP: spoofed.example\r\n\r\n"),
        "200",
        heard=lambda r: r.body == b"hello" and SPOOFED not in r.raw and b"50" not in r.all(b"content-length"),
    )
    yield Input(
        "F30",
        "GET whose body is another request",
        get(b"Content-Length: {smuggled}") + SMUGGLED,
        "200",
    )
    yield Input(
        "F31",
        "Content_Length: the rest is a bad request",
        post(b"Content_Length: 5"),
        "200 400 closed",
        heard=lambda r: r.body == b"" and b"content_length" not in r.raw.lower(),
    )
    yield Input(
        "F32", "a body that does not come", post(b"Content-Length: 50"), "408 closed|closed", reaches=0, cut=True
    )


def syntax() -> Iterator[Input]:
    ok = get()
    yield Input("L00", "an ordinary request", ok, "200")
    yield Input("L00p", "two of them, pipelined", ok + ok, "200 200")
    yield Input("L01", "bare LF line ends in the head", ok.replace(b"\r\n", b"\n"), "200|" + REFUSED)
    for id, what, field in (
        ("L02", "bare CR", b"X-Value: a\rX-Real-IP: spoofed.example"),
        ("L04", "NUL in a value", b"X-Value: a\0b"),
        ("L05", "NUL in a name", b"X-\0Value: a"),
        ("L06", "space before the colon", b"X-Value : a"),
        ("L07", "folded over two lines", b"X-Value: a\r\n b"),
        ("L10", "empty header name", b": a"),
    ):
        yield Input(id, what, get(field), REFUSED)
    yield Input("L03", "CR CR LF: read as CR LF", get(b"X-Value: a\r"), "200|" + REFUSED)
    yield Input("L08", "first header line indented", ok.replace(b"\r\n", b"\r\n ", 1), REFUSED)
    yield Input("L09", "header without a colon: passed on as an empty one", get(b"X-No-Colon"), "200")
    yield Input("L11", "header name that is not ASCII", get("X-Ž: a".encode()), "200|" + REFUSED)
    yield Input("L12", "a CRLF before the request", b"\r\n" + ok, "200")
    yield Input("L13", "20 of them", b"\r\n" * 20 + ok, "200")
    yield Input("L14", "HTTP/0.9", b"GET {path}\r\n", "closed")
    yield Input("L15", "HTTP/1.0 without Host", b"GET {path} HTTP/1.0\r\n\r\n", "closed|" + REFUSED)
    yield Input("L15h", "HTTP/1.0 with one", head(b"GET {path} HTTP/1.0"), "200 closed")
    yield Input("L16", "HTTP/1.1 without Host", b"GET {path} HTTP/1.1\r\n\r\n", REFUSED)
    yield Input("L17", "HTTP/2.0 as text", head(b"GET {path} HTTP/2.0"), "505 closed")
    yield Input("L18", "HTTP/1.9 is 1.1", head(b"GET {path} HTTP/1.9"), "200|505 closed")
    for id, line in (
        ("L19", b"GET {path} HTTP/01.1"),
        ("L20", b"GET {path} http/1.1"),
        ("L21", b"get {path} HTTP/1.1"),
        ("L22", b"G(ET {path} HTTP/1.1"),
        ("L27", b"GET\t{path}\tHTTP/1.1"),
        ("L28", b"GET {path} x HTTP/1.1"),
        ("L29", b"GET {path}\xc5\xbe HTTP/1.1"),
        ("L29q", b"GET {path}?\xc5\xbe HTTP/1.1"),
    ):
        yield Input(id, f"the line {line!r}", head(line), REFUSED)
    yield Input("L23", "PURGE: the app's own answer", head(b"PURGE {prefix}/whoami?{token} HTTP/1.1"), "405", reaches=1)
    yield Input("L24", "TRACE", head(b"TRACE {path} HTTP/1.1"), "405( closed)?")
    yield Input("L25", "CONNECT", head(b"CONNECT {host} HTTP/1.1", b"X-Value: {token}"), "40[05] closed")
    yield Input("L26", "two spaces in the request line", head(b"GET  {path}  HTTP/1.1"), "200|" + REFUSED)


def targets() -> Iterator[Input]:
    evil = b"GET {path} HTTP/1.1\r\nHost: "
    yield Input("H01", "two Host", get(b"Host: spoofed.example"), REFUSED)
    yield Input("H01s", "two Host, the same", get(b"Host: {host}"), REFUSED)
    yield Input("H02", "unknown Host", evil + b"spoofed.example\r\n\r\n", "closed|(421|404) closed")
    for number, value in enumerate([b"", b"a@site.test", b"site.test:80:90", b"site.test/b", b"site.test:99999"], 3):
        yield Input(f"H{number:02}", f"Host: {value!r}", evil + value + b"\r\n\r\n", REFUSED)
    whole = b"GET http://site.test{path} HTTP/1.1\r\nHost: "
    yield Input(
        "H09", "absolute-form; another Host", whole + b"spoofed.example\r\n\r\n", "200",
        heard=lambda r: r.all(b"host")[0].startswith(b"site.test"),
    )  # fmt: skip
    yield Input(
        "H10",
        "absolute-form of another; our Host",
        head(b"GET http://spoofed.example{path} HTTP/1.1"),
        "closed|(421|404) closed",
    )
    for id, value in (("H11", b"site.test."), ("H14", b"SITE.TEST")):
        yield Input(id, f"Host: {value!r}", evil + value + b"\r\n\r\n", "200")
    yield Input("H12", "GET *", head(b"GET * HTTP/1.1", b"X-Value: {token}"), REFUSED)
    yield Input("H13", "OPTIONS *", head(b"OPTIONS * HTTP/1.1", b"X-Value: {token}"), "40[05]( closed)?")
    yield Input(
        "U01", "// as the app wrote it", get(path=b"/{prefix}//tap/{token}"), "200", heard=target_ends(b"{token}")
    )
    yield Input("U02", "../ above the root", get(path=b"/../..{path}"), REFUSED)
    yield Input("U03", "%2e%2e stays", get(path=b"{path}/%2e%2e/b"), "200", heard=target_ends(b"/%2e%2e/b"))
    yield Input("U04", "%2f stays", get(path=b"{path}/a%2fb"), "200", heard=target_ends(b"/a%2fb"))
    yield Input("U05", "..%2f above the root", get(path=b"/..%2f..{path}"), REFUSED)
    yield Input("U05d", "a detour to the app", get(path=b"/x/..{path}"), "400( closed)?")
    yield Input("U06", "%00", get(path=b"{path}%00"), REFUSED)
    yield Input("U07", "%zz", get(path=b"{path}%zz"), REFUSED)
    for id, value in (
        ("U08", b"/..;/b"),
        ("U10", b"\\..\\b"),
        ("U11", b"/%c0%ae%c0%ae/b"),
        ("U09", b"%0d%0aX-Evil:%201"),
    ):
        yield Input(id, f"{value!r} is data", get(path=b"{path}" + value), "200", heard=target_ends(value))
    yield Input("U09r", "%0d%0a in a redirect", get(path=b"{prefix}?{token}%0d%0aX-Evil:%201"), "308")
    yield Input("U12", "a fragment", get(path=b"{path}#fragment"), "400( closed)?")


def claims() -> Iterator[Input]:
    for number, (field, *forbidden) in enumerate(
        (
            (b"X-Forwarded-For: 203.0.113.7, 203.0.113.8", b"203.0.113"),
            (b"X-Real-IP: 203.0.113.7", b"203.0.113"),
            (b"X-Forwarded-Proto: ftp", b"ftp"),
            (b"X-Forwarded-Host: spoofed.example", SPOOFED),
            (b"X-Forwarded-Port: 6666", b"6666"),
            (b"X-Forwarded-Prefix: /spoofed.example", SPOOFED),
            (b"X-Forwarded-Server: spoofed.example", SPOOFED),
            (b"X-Forwarded-Ssl: on", b"x-forwarded-ssl"),
            (b"X-Forwarded-Protocol: ssl", b"x-forwarded-protocol"),
            (b"X-Forwarded-Scheme: ftp", b"ftp"),
            (b"Forwarded: for=203.0.113.7;host=spoofed.example;proto=ftp", b"203.0.113"),
            (b"X_Forwarded_For: 203.0.113.7", b"203.0.113"),
            (b"X-Forwarded_For: 203.0.113.7", b"203.0.113"),
            (b"SCRIPT_NAME: /spoofed.example", SPOOFED),
            (b"PATH_INFO: /spoofed.example", SPOOFED),
            (b"REMOTE_USER: spoofed.example", SPOOFED),
            (b"Script-Name: /spoofed.example", SPOOFED),
            (b"Path-Info: /spoofed.example", SPOOFED),
            *((name + b": spoofed.example", SPOOFED) for name in IDENTITIES),
            (b"X-Script-Name: /spoofed.example", SPOOFED),
            (b"Proxy: http://spoofed.example", SPOOFED),
            (b"X-Original-URL: /spoofed.example", SPOOFED),
            (b"X-Rewrite-URL: /spoofed.example", SPOOFED),
            (b"X-HTTP-Method-Override: SPOOFED.EXAMPLE", SPOOFED),
            (b"X-HTTP-Method: SPOOFED.EXAMPLE", SPOOFED),
            (b"X-Method-Override: SPOOFED.EXAMPLE", SPOOFED),
            *((name + b": 203.0.113.7", b"203.0.113") for name in CLIENT_ADDRESSES),
            (b"X-Request-ID: spoofed.example", SPOOFED),
            (b"X-Accel-Redirect: /spoofed.example",),
            (b"TE: trailers", b"\nte:"),
            (b"Keep-Alive: timeout=6666", b"6666"),
            (b"Connection: close, X-Real-IP, X-Forwarded-For, Host, spoofed", b"spoofed"),
            (b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings", b"h2c"),
            (b"Upgrade: TLS/1.3\r\nConnection: Upgrade", b"upgrade"),
            (
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                b"upgrade",
            ),
        )
    ):
        name = field.partition(b":")[0].decode()
        wsgi_refuses = field.startswith(b"Upgrade: websocket")  # on its app's every path: it cannot do what is asked
        closes = "( closed)?" if b"close" in field else ""
        yield Input(
            f"S{number:02}-{name}", repr(field), get(field), "501 closed|200" if wsgi_refuses else "200" + closes,
            heard=without(*forbidden), alike=not wsgi_refuses,
        )  # fmt: skip


def limits() -> Iterator[Input]:
    """What is one byte, or one field, more than may be is refused by the edge, and what is not reaches either app."""
    line = b"GET {path}/"
    for size in (6000, *range(8184, 8196), 20000):
        answer = "200" if size <= 8190 else "414 closed" if size > 8192 else "200|414 closed"
        sent = get().replace(b"GET {path} HTTP/1.1\r\n", sized(line, size, b" HTTP/1.1\r\n"))
        yield Input(f"line-{size}", f"a request line of {size} bytes, CRLF included", sent, answer)
    for size in (6000, *range(8184, 8196), 20000):
        answer = "200" if size <= 8190 else "431 closed" if size > 8192 else "200|431 closed"
        yield Input(
            f"field-{size}", f"a header field of {size} bytes with its CRLF", get(sized(b"X-A:", size - 2)), answer
        )
    for count in (80, 90, 94, 98, 99, 100, 101, 102, 300):
        answer = "200" if count <= 100 else "(400|431) closed"
        fields = [b"X-A-%d: a" % number for number in range(count - 1)]
        yield Input(f"fields-{count}", f"{count} header fields, Host being one", get(*fields), answer)
    for size in (20, 28):
        yield Input(f"head-{size}k", f"{size} kB of headers", get(*[b"X-A: " + b"a" * 4000] * (size // 4)), "200")
    yield Input("head-48k", "48 kB of headers", get(*[b"X-A: " + b"a" * 4000] * 12), "431 closed")
    yield Input("cookie-9k", "a cookie of 9 kB", get(b"Cookie: a=" + b"a" * 9000), "431 closed")
    most, over = b"a" * LIMIT, b"a" * (LIMIT + 1)
    yield Input(
        "body-1M", "the largest body", post(b"Content-Length: %d" % LIMIT, body=most), "200", heard=body_is(most)
    )
    yield Input("body-1M-over", "one byte more", post(b"Content-Length: %d" % (LIMIT + 1), body=over), "413 closed")
    yield Input("body-2M-said", "2 MiB announced, none sent", post(b"Content-Length: 2097152", body=b""), "413 closed")
    for size, body, answer in (("1M", most, "200"), ("1M-over", over, "413 closed")):
        sent = chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        yield Input(f"chunked-{size}", "the same, chunked", sent, answer, cut=answer != "200")
    yield Input("E01", "Expect: 100-continue", post(b"Content-Length: 5", b"Expect: 100-continue"), "(100 )?200")
    yield Input("E02", "Expect: banana", post(b"Content-Length: 5", b"Expect: banana"), "200|417( closed)?")


def other_protocols() -> Iterator[Input]:
    hello = bytes.fromhex("16030100") + b"\xa0\x01\x00\x00\x9c\x03\x03" + b"{token}" * 4
    yield Input("E08", "TLS on the plain port", hello, REFUSED, over=("http",))
    yield Input("E09", "plain HTTP on the TLS port", get(), "400 closed|closed", over=("https-plain",))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9).replace(b"\0\0\0\0", b"\0\0\0\4", 1)
    yield Input("W02", "an HTTP/2 preface", preface, "(400|505) closed|closed")
    yield Input("S09", "a PROXY preface", b"PROXY TCP4 203.0.113.7 127.0.0.1 1 80\r\n" + get(), REFUSED)
    bad = get(
        b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 6666", b"Sec-WebSocket-Key: a",
        path=b"{prefix}/ws?{token}",
    )  # fmt: skip
    yield Input(
        "W04", "a WebSocket handshake that fails opens no tunnel", bad + get(), "(400|426|501)( 200)?( closed)?",
        reaches=-1, alike=False,
    )  # fmt: skip


HTTP1 = [
    *(
        variant
        for one in framing()
        for variant in (
            replace(one, cut=False),
            replace(one, id=f"{one.id}-stream", sent=one.sent.replace(b"{path}", b"{stream}", 1)),
        )
    ),
    *syntax(),
    *targets(),
    *claims(),
    *limits(),
    *other_protocols(),
]

MALFORMED = "400|RST:PROTOCOL_ERROR|GOAWAY:PROTOCOL_ERROR"
"""What RFC 9113, 8.1.1 allows for a malformed request."""
LONGEST_PATH = 8190 - len("GET  HTTP/1.1")
NEVER = "(?!2).*"
"""Anything but an answer of the app."""


def pseudo(**changed: bytes | None) -> tuple[Field, ...]:
    """The four that a request begins with; None leaves one out."""
    usual: dict[str, bytes | None] = {"method": b"GET", "scheme": b"https", "authority": b"{host}", "path": b"{path}"}
    return tuple((b":" + name.encode(), value) for name, value in (usual | changed).items() if value is not None)


def http2() -> Iterator[Input2]:
    def one(id: str, what: str, answer: str, fields: tuple[Field, ...], **more: object) -> Input2:
        return Input2(f"X-{id}", what, answer=answer, fields=fields, **more)  # type: ignore[arg-type]

    def with_(*fields: Field) -> tuple[Field, ...]:
        return (*pseudo(), *fields)

    posted = pseudo(method=b"POST")
    yield one("get", "an ordinary request", "200", pseudo())
    yield one("post", "a body without a length", "200", posted, data=b"hello", heard=body_is(b"hello"))
    yield one(
        "post-length", "a body with one", "200", (*posted, (b"content-length", b"5")), data=b"hello",
        heard=body_is(b"hello"),
    )  # fmt: skip
    yield one(
        "cookies", "crumbs of a cookie are one field again", "200", with_((b"cookie", b"a=1"), (b"cookie", b"b=2")),
        heard=lambda r: r.all(b"cookie") == [b"a=1; b=2"],
    )  # fmt: skip
    for name, value in (
        (b"connection", b"X-Real-IP, spoofed.example"),
        (b"keep-alive", b"spoofed.example"),
        (b"proxy-connection", b"spoofed.example"),
        (b"upgrade", b"h2c"),
        (b"transfer-encoding", b"chunked"),
        (b"te", b"gzip"),
    ):
        words = (SPOOFED, b"h2c", b"chunked", b"\nte:")
        yield one(
            f"hop-{name.decode()}",
            "a field of HTTP/1's connection",
            f"200|{MALFORMED}|501",
            with_((name, value)),
            heard=without(*words),
        )
    yield one(
        "te-trailers",
        "TE: trailers is allowed, and ends here",
        "200",
        with_((b"te", b"trailers")),
        heard=without(b"\nte:"),
    )
    yield one(
        "te-chunked-body", "Transfer-Encoding and a body that would end it", f"200|{MALFORMED}|501",
        (*posted, (b"transfer-encoding", b"chunked")), data=b"0\r\n\r\n" + SMUGGLED,
        heard=lambda r: r.body.startswith(b"0\r\n\r\nGET /"),
    )  # fmt: skip
    # Nginx 1.30 puts it first again, 1.31 refuses it.
    last = (*pseudo(path=None), (b"x-value", b"a"), (b":path", b"{path}"))
    yield one("pseudo-last", "a pseudo field after others", f"200|{MALFORMED}", last)
    for id, fields in (
        ("upper-case", with_((b"X-Value", b"a"))),
        ("upper-case-pseudo", tuple((b":Path" if n == b":path" else n, v) for n, v in pseudo())),
        ("two-authority", with_((b":authority", b"spoofed.example"))),
        ("two-path", with_((b":path", b"{path}-smuggled"))),
        ("two-method", with_((b":method", b"POST"))),
        ("two-scheme", with_((b":scheme", b"http"))),
        ("no-method", pseudo(method=None)),
        ("no-scheme", pseudo(scheme=None)),
        ("no-path", (*pseudo(path=None), (b"x-value", b"{token}"))),
        ("no-authority", pseudo(authority=None)),
        ("empty-authority", pseudo(authority=b"")),
        ("empty-path", (*pseudo(path=b""), (b"x-value", b"{token}"))),
        ("pseudo-unknown", (*pseudo(), (b":spoofed", b"a"))),
        ("pseudo-status", (*pseudo(), (b":status", b"200"))),
        ("path-space", pseudo(path=b"{path} HTTP/1.1")),
        ("path-crlf", pseudo(path=b"{path} HTTP/1.1\r\nHost: spoofed.example\r\n\r\n")),
        ("path-nul", pseudo(path=b"{path}\0")),
        ("path-utf8", pseudo(path=b"{path}\xc5\xbe")),
        ("path-relative", pseudo(path=b"flask{path}")),
        ("method-space", pseudo(method=b"GET {path}-smuggled HTTP/1.1\r\nHost: spoofed.example\r\n\r\nGET")),
        ("method-lower", pseudo(method=b"get")),
        ("scheme-crlf", pseudo(scheme=b"https\r\nx-value: a")),
        ("authority-user", pseudo(authority=b"a@site.test")),
        ("authority-path", pseudo(authority=b"site.test/b")),
        ("authority-crlf", pseudo(authority=b"site.test\r\nx-value: a")),
        ("value-crlf", with_((b"x-value", b"a\r\nX-Real-IP: spoofed.example"))),
        ("value-lf", with_((b"x-value", b"a\nX-Real-IP: spoofed.example"))),
        ("value-nul", with_((b"x-value", b"a\0b"))),
        ("name-crlf", with_((b"x-value: a\r\nx-evil", b"spoofed.example"))),
        ("name-colon", with_((b"x-value:a", b"b"))),
        ("name-space", with_((b"x-value a", b"b"))),
        ("name-empty", with_((b"", b"b"))),
        ("host-beside", with_((b"host", b"spoofed.example"))),
        ("two-hosts", (*pseudo(authority=None), (b"host", b"{host}"), (b"host", b"spoofed.example"))),
    ):
        yield one(id, repr(fields[-1]), MALFORMED, fields)
    yield one("name-underscore", "dropped", "200", with_((b"x_real_ip", b"spoofed.example")), heard=without(SPOOFED))
    yield one("host-alone", "Host instead of :authority", "200", (*pseudo(authority=None), (b"host", b"{host}")))
    yield one("scheme-http", "what a client says is its scheme", f"200|{MALFORMED}", pseudo(scheme=b"http"))
    yield one("authority-other", "another site on this connection", "421|404", pseudo(authority=b"spoofed.example"))
    yield one("path-asterisk", "OPTIONS *", "40[05]", (*pseudo(method=b"OPTIONS", path=b"*"), (b"x-value", b"{token}")))
    yield one(
        "connect",
        "CONNECT",
        f"405|{MALFORMED}",
        ((b":method", b"CONNECT"), (b":authority", b"{host}"), (b"x-value", b"{token}")),
    )
    yield one("connect-websocket", "WebSocket over HTTP/2, which was not offered", f"405|501|{MALFORMED}",
              (*pseudo(method=b"CONNECT"), (b":protocol", b"websocket")))  # fmt: skip
    yield one("trace", "TRACE", "405", pseudo(method=b"TRACE"))
    for id, values in (("more", [b"50"]), ("less", [b"3"]), ("two", [b"5", b"6"]), ("same", [b"5", b"5"]), ("list", [b"5, 5"]),
                       ("minus", [b"-5"]), ("plus", [b"+5"])):  # fmt: skip
        fields = (*posted, *((b"content-length", value) for value in values))
        for path in (b"{path}", b"{stream}"):
            moved = tuple((n, path if n == b":path" else v) for n, v in fields)
            stream = "-stream" if path == b"{stream}" else ""
            yield one(
                f"length-{id}{stream}",
                f"5 bytes, content-length: {values}",
                MALFORMED,
                moved,
                data=b"hello",
                cut=bool(stream),
            )
    yield one("length-of-nothing", "a content-length, and no body", MALFORMED, (*posted, (b"content-length", b"5")))
    yield one("get-body", "GET whose body is another request", "200", pseudo(), data=SMUGGLED)
    for id, trailers in (
        ("length", ((b"content-length", b"50"),)),
        ("claim", ((b"x-real-ip", b"spoofed.example"),)),
        ("pseudo", ((b":path", b"{path}-smuggled"),)),
        ("crlf", ((b"x-value", b"a\r\nX-Real-IP: spoofed.example"),)),
    ):
        yield one(
            f"trailer-{id}", f"a trailer {trailers}", f"200|{MALFORMED}", posted, data=b"hello", trailers=trailers,
            heard=lambda r: r.body == b"hello" and SPOOFED not in r.raw and b"smuggled" not in r.raw,
        )  # fmt: skip
    for size in (6000, *range(8174, 8180), 8192, 8193, 12000, 20000):
        answer = "200" if size <= LONGEST_PATH else "414" if size < 12000 else NEVER
        path = sized(b"{path}/", size)
        yield one(f"path-{size}", f"a path of {size} bytes", answer, pseudo(path=path))
    # Measured compressed, so these may be longer than over HTTP/1.1.
    for size in (6000, *range(8184, 8196), 12000, 13500, 20000):
        answer = "200" if size <= 8190 else "200" if size <= 12000 else NEVER
        yield one(
            f"field-{size}", f"a field of {size} bytes, name and value", answer, with_((b"x-a", b"a" * (size - 3)))
        )
    for count in (80, 94, 98, 99, 100, 101, 102, 300):
        answer = "200" if count <= 98 else NEVER if count > 102 else "200|400|431"
        fields = tuple((b"x-a-%d" % number, b"a") for number in range(count - 4))
        yield one(f"fields-{count}", f"{count} fields, the four pseudo ones included", answer, with_(*fields))
    yield one("head-28k", "28 kB of fields", "200", with_(*((b"x-a-%d" % n, b"a" * 4000) for n in range(7))))
    yield one("head-48k", "48 kB of fields", NEVER, with_(*((b"x-a-%d" % n, b"a" * 4000) for n in range(12))))
    yield one("bomb", "2 MB of fields, told in 6 kB", NEVER, with_(*[(b"x-a", b"a" * 4000)] * 500))
    most = b"a" * LIMIT
    yield one("body-1M", "the largest body", "200", posted, data=most, heard=body_is(most))
    yield one("body-1M-over", "one byte more", "413", posted, data=most + b"a")
    yield one("body-2M-said", "2 MiB announced", "413", (*posted, (b"content-length", b"2097152")), data=b"a")


HTTP2 = list(http2())
