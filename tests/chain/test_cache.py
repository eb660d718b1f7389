"""What Nginx keeps of an app's files (`cache` in app.yml), and what it must never keep: on a site of its own, whose app
writes down what reaches it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from stack import docker
from tests.conftest import Checkout, own_site

HTTP, HTTPS = 18092, 18455
URL = f"http://127.0.0.1:{HTTP}/files"

APP = r"""
import json, os, re, socket
from pathlib import Path

SEEN, STATE = Path("/tmp/seen"), Path("/tmp/state")
NAME = socket.gethostname()


def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    state = json.loads(STATE.read_text()) if STATE.exists() else {}

    def answer(status, body=b"", *headers):
        start_response(status, [("Content-Length", str(len(body))), *headers])
        return [body]

    if path == "/healthz":
        return answer("200 OK")
    if path == "/seen":
        lines = SEEN.read_text() if SEEN.exists() else ""
        SEEN.write_text("")
        return answer("200 OK", lines.encode())
    if path == "/state":
        STATE.write_bytes(environ["wsgi.input"].read())
        return answer("200 OK")
    with SEEN.open("a") as seen:
        heard = {k: v for k, v in environ.items() if k.startswith("HTTP_") or k == "CONTENT_TYPE"}
        seen.write(json.dumps({"path": path, "query": query, **heard}) + "\n")
    name = path.rpartition("/")[2]
    if name in state.get("gone", []) or name.startswith("only-") and name != f"only-{NAME}.css":
        return answer("404 Not Found", b"no such file", ("Cache-Control", "max-age=5"))
    body = (state.get("body", "x") * 5000 + query).encode()
    etag = f'"{state.get("body", "x")}"'
    if environ.get("HTTP_IF_NONE_MATCH") == etag:
        return answer("304 Not Modified", b"", ("ETag", etag))
    headers = [("ETag", etag), ("Content-Type", "text/css")]
    if name.startswith("says-"):
        headers.append(("Cache-Control", name.removeprefix("says-").removesuffix(".css").replace("_", ", ")))
    if name.startswith("cookie"):
        headers.append(("Set-Cookie", "session=the-first-ones"))
    if name.startswith("cookies"):
        headers += [("Set-Cookie", f"c{i}=" + "x" * 4000) for i in range(3)]
    if name.startswith("moved"):
        return answer("301 Moved Permanently", b"", ("Location", environ["HTTP_HOST"]))
    if name.startswith("large"):
        body = bytes(10_000_000)
    if name.startswith("names-the-host"):
        body = environ["HTTP_HOST"].encode()
    if name.startswith("varies"):
        headers.append(("Vary", "Cookie, Accept-Language"))
    return answer("200 OK", body, *headers)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """One replica of the app, in one process."""
    settings = {
        "interface": "wsgi",
        "entry": "app:app",
        "workers": 1,
        "paths": {"/static/": {"cache": "revalidate"}, "/hashed/": {"cache": "immutable"}},
    }
    environment = {
        "name": "gatehouse-cache",
        "http_port": HTTP,
        "https_port": HTTPS,
        "tls": {"redirect": False, "hsts": 0},
    }
    with own_site(tmp_path_factory.mktemp("site"), environment, {"files": (APP, settings)}) as site:
        yield site


pytestmark = pytest.mark.usefixtures("site")


@pytest.fixture(autouse=True)
def _forget() -> None:
    state()
    seen()


def get(path: str, **headers: str) -> httpx.Response:
    sent = {"Accept-Encoding": "identity", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.get(URL + path, headers=sent)


def seen() -> list[dict[str, str]]:
    """What has reached the app since the last call."""
    return [json.loads(line) for line in httpx.get(f"{URL}/seen").text.splitlines()]


def state(**facts: object) -> None:
    httpx.post(f"{URL}/state", content=json.dumps(facts))


@pytest.mark.parametrize("folder", ["static", "hashed"])
def test_a_file_is_asked_for_once(folder: str) -> None:
    answers = [get(f"/{folder}/once.css") for _ in range(3)]
    answers.append(httpx.head(f"{URL}/{folder}/once.css", headers={"Accept-Encoding": "identity"}))
    assert len(seen()) == 1
    assert [a.headers["cache-status"] for a in answers] == ["Nginx; fwd=uri-miss", *["Nginx; hit"] * 3]
    assert {a.headers["content-length"] for a in answers} == {"5000"}
    assert {a.headers["x-content-type-options"] for a in answers} == {"nosniff"}
    assert len({a.headers["x-request-id"] for a in answers}) == 4


def test_the_app_hears_nothing_of_who_asks() -> None:
    told = {"Cookie": "session=mine", "Authorization": "Basic x", "X-Forwarded-Host": "evil.example", "X-Mine": "y"}
    httpx.request("GET", f"{URL}/static/heard.css", headers={**told, "Origin": "https://evil.example"}, content=b"body")
    (heard,) = seen()
    allowed = {"HTTP_HOST", "HTTP_X_REAL_IP", "HTTP_X_REQUEST_ID"} | {
        f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT")
    }
    assert {name for name in heard if name.isupper()} == allowed
    assert heard["HTTP_X_FORWARDED_HOST"] == f"127.0.0.1:{HTTP}"


def test_a_cookie_is_neither_kept_nor_passed_on() -> None:
    for _ in range(2):
        answer = get("/static/cookie.css")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
    assert len(seen()) == 2


def test_an_answer_with_three_large_cookies_arrives_and_is_asked_for_once() -> None:
    answer = get("/cookies")
    assert answer.status_code == 200
    assert len(answer.headers.get_list("set-cookie")) == 4
    assert len(seen()) == 1


def test_only_get_and_head() -> None:
    assert httpx.post(f"{URL}/static/x.css", content=b"x").status_code == 405
    assert httpx.delete(f"{URL}/static/x.css").status_code == 405
    assert seen() == []


def test_other_spellings_of_a_file_are_passed_on_and_not_kept() -> None:
    get("/static/plain.css")
    assert get("/static/plain.css?v=2").text.endswith("v=2")
    spellings = ("plain.css?v=2", "%70lain.css", "/plain.css", "x/..%2fplain.css", "./plain.css", "plain.css?")
    with httpx.Client() as client:
        for spelling in spellings:
            for _ in range(2):
                raw = f"/files/static/{spelling}".encode()
                client.send(client.build_request("GET", URL, extensions={"target": raw}))
    assert len(seen()) == 2 + 2 * len(spellings)
    assert get("/static/plain.css").text == "x" * 5000
    assert seen() == []


def test_a_host_or_port_that_a_client_makes_up_reaches_nobody_else() -> None:
    def names(host: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", HTTP)
        connection.request("GET", "/files/hashed/names-the-host.css", headers={"Host": host})
        return connection.getresponse().read().decode()

    assert names("127.0.0.1:6666") == "127.0.0.1:6666"
    assert names(f"localhost:{HTTP}") == f"localhost:{HTTP}"
    for _ in range(2):
        assert names(f"127.0.0.1:{HTTP}") == f"127.0.0.1:{HTTP}"
        assert names("127.0.0.1") == "127.0.0.1"
    assert [line["HTTP_HOST"] for line in seen()] == [
        "127.0.0.1:6666", f"localhost:{HTTP}", f"127.0.0.1:{HTTP}", "127.0.0.1",
    ]  # fmt: skip


def test_what_is_no_file_for_everybody_is_not_kept() -> None:
    for name in ("says-private.css", "says-no-store.css", "moved.css", "large.bin", "only-elsewhere.css"):
        for folder in ("static", "hashed"):
            for _ in range(2):
                assert "hit" not in get(f"/{folder}/{name}").headers["cache-status"]
            assert len(seen()) == 2, (folder, name)


def test_what_an_answer_could_vary_by_has_not_reached_the_app() -> None:
    answers = [get("/static/varies.css", Cookie=f"session={n}") for n in range(3)]
    assert {answer.text for answer in answers} == {"x" * 5000}
    assert {answer.headers["vary"] for answer in answers} == {"Accept-Encoding"}
    assert len(seen()) == 1


def test_a_client_that_has_the_file_gets_304_and_one_that_wants_a_part_gets_it() -> None:
    first = get("/static/part.css")
    assert get("/static/part.css", If_None_Match=first.headers["etag"]).status_code == 304
    part = get("/static/part.css", Range="bytes=10-19")
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 10-19/5000")
    zipped = httpx.get(f"{URL}/static/part.css", headers={"Accept-Encoding": "gzip"})
    assert (zipped.headers["content-encoding"], zipped.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert zipped.text == first.text
    assert int(zipped.headers.get("content-length", 0)) < 1000
    # The compressed one has a weak validator, which holds for the plain one, too.
    assert zipped.headers["etag"] == f"W/{first.headers['etag']}"
    assert get("/static/part.css", If_None_Match=zipped.headers["etag"]).status_code == 304
    assert len(seen()) == 1


def test_browsers_are_told_to_keep_what_is_immutable() -> None:
    year = "public, max-age=31536000, immutable"
    for name, told in {
        "quiet.css": year, "says-no-cache.css": year, "says-public.css": year, "says-max-age=60.css": "max-age=60",
        "says-private_max-age=9.css": "private, max-age=9", "says-no-store.css": "no-store",
    }.items():  # fmt: skip
        for _ in range(2):
            assert get(f"/hashed/{name}").headers.get_list("cache-control") == [told], name
    etag = get("/hashed/quiet.css").headers["etag"]
    assert get("/hashed/quiet.css", If_None_Match=etag).headers["cache-control"] == year
    assert get("/hashed/quiet.css", Range="bytes=0-1").headers["cache-control"] == year
    # Errors and redirects keep what the app says.
    assert get("/hashed/only-elsewhere.css").headers["cache-control"] == "max-age=5"
    assert "cache-control" not in get("/hashed/moved.css").headers
    assert "cache-control" not in get("/static/quiet.css").headers
    assert get("/static/says-no-cache.css").headers["cache-control"] == "no-cache"


def test_a_new_release_is_seen_within_two_seconds() -> None:
    assert get("/static/style.css").text == "x" * 5000
    state(body="y")
    time.sleep(2.1)
    assert get("/static/style.css").text == "y" * 5000
    time.sleep(2.1)
    seen()
    same = get("/static/style.css")
    assert same.text == "y" * 5000
    assert same.headers["cache-status"] == "Nginx; fwd=stale; fwd-status=304"
    assert [line["HTTP_IF_NONE_MATCH"] for line in seen()] == ['"y"']
    state(gone=["style.css"])
    time.sleep(2.1)
    assert get("/static/style.css").status_code == 404


def test_a_file_that_only_the_release_before_has_is_served_on(site: Checkout) -> None:
    assert get("/hashed/app.3f2a.css").status_code == 200
    state(gone=["app.3f2a.css", "never.css"])
    time.sleep(11.1)
    seen()
    assert get("/hashed/app.3f2a.css").text == "x" * 5000
    assert len(seen()) == 1
    assert get("/hashed/never.css").status_code == 404
    site.run("restart", "edge")  # forgets
    assert get("/hashed/app.3f2a.css").status_code == 404


def test_a_file_that_one_replica_alone_has_is_found_there(site: Checkout) -> None:
    """As while a release is rolled out: the page came from a new replica, its file is asked of an old one."""
    replicas(site, 2)
    assert get("/only-x.css").status_code == 404
    listed = docker.run(
        "ps", "--filter", "label=com.docker.compose.project=gatehouse-cache",
        "--filter", "label=com.docker.compose.service=files", "--format", "{{.ID}}",
    )  # fmt: skip
    for container in listed.split():
        assert get(f"/hashed/only-{container}.css").status_code == 200
        assert get(f"/static/only-{container}.css").status_code == 200
    replicas(site, 1)


def replicas(site: Checkout, number: int) -> None:
    path: Path = site.app_yml("files")
    data = YAML().load(path)
    YAML().dump({**data, "replicas": number}, path)
    site.run("up")
    time.sleep(2)  # until Nginx has asked DNS again
