"""Four applications that are not ours, brought as docs/examples/*.md say.

Not part of `make test`, because it downloads packages. Type: make test T=tests/brought (about a minute)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest
from websocket import create_connection

from tests.brought.conftest import HTTP, HTTPS, URL, Clone

Brings = Callable[[str], httpx.Client]


@pytest.fixture
def bring(clone: Clone) -> Iterator[Brings]:
    """Follows a page and opens a browser of sorts on its app: it keeps cookies and follows redirects."""
    with httpx.Client(follow_redirects=True, timeout=20) as client:

        def follow(page: str) -> httpx.Client:
            clone.follow(f"examples/{page}.md")
            return client

        yield follow


def links(page: httpx.Response) -> set[str]:
    return set(re.findall(r'(?:href|src|action)="([^"#]+)"', page.text))


def token(page: httpx.Response) -> str:
    """Of Django's protection against forged forms."""
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def test_flaskr(bring: Brings) -> None:
    browser = bring("flaskr")
    at = f"{URL}/flaskr"
    home = browser.get(f"{at}/")
    assert links(home) == {"/flaskr/", "/flaskr/static/style.css", "/flaskr/auth/register", "/flaskr/auth/login"}

    who = {"username": "ann", "password": "not a secret"}
    assert browser.post(f"{at}/auth/register", data=who).url == f"{at}/auth/login"
    assert browser.post(f"{at}/auth/login", data=who).url == f"{at}/"
    assert [(c.name, c.path) for c in browser.cookies.jar] == [("session", "/flaskr/")]
    browser.post(f"{at}/create", data={"title": "First post", "body": "of flaskr"})
    assert "First post" in browser.get(f"{at}/").text
    assert "Log Out" in browser.get(f"{at}/").text

    style = browser.get(f"{at}/static/style.css")
    again = browser.get(f"{at}/static/style.css")
    assert again.headers["cache-status"] == "Nginx; hit"
    assert again.headers["cache-control"] == "no-cache"
    assert again.headers["content-encoding"] == "gzip"
    assert again.headers["vary"] == "Accept-Encoding"
    assert browser.get(f"{at}/static/style.css", headers={"If-None-Match": style.headers["etag"]}).status_code == 304


def test_a_new_version_of_flaskr_keeps_its_data(clone: Clone) -> None:
    """Its init-db would drop every table."""
    style = clone.root / "apps/flaskr/flaskr/static/style.css"
    style.write_text(style.read_text() + "\n/* new */\n")
    clone.type("make up")
    assert "First post" in httpx.get(f"{URL}/flaskr/").text
    time.sleep(2)
    assert "/* new */" in httpx.get(f"{URL}/flaskr/static/style.css").text


def test_fastapis_bigger_applications(bring: Brings) -> None:
    browser = bring("fastapi-bigger")
    at = f"{URL}/bigger"
    assert browser.get(f"{at}/").status_code == 422
    assert browser.get(f"{at}/", params={"token": "jessica"}).json() == {"message": "Hello Bigger Applications!"}
    assert browser.get(f"{at}/users/me?token=jessica").json() == {"username": "fakecurrentuser"}
    items = browser.get(f"{at}/items/plumbus?token=jessica", headers={"X-Token": "fake-super-secret-token"})
    assert items.json() == {"name": "Plumbus", "item_id": "plumbus"}
    assert browser.get(f"{at}/items/plumbus?token=jessica", headers={"X-Token": "guessed"}).status_code == 400
    # Without its slash, a route redirects: under the prefix.
    moved = browser.get(f"{at}/items?token=jessica", headers={"X-Token": "fake-super-secret-token"})
    assert str(moved.url) == f"{at}/items/?token=jessica"
    assert browser.post(f"{at}/admin/?token=jessica", headers={"X-Token": "fake-super-secret-token"}).is_success
    assert "url: '/bigger/openapi.json'" in browser.get(f"{at}/docs").text
    assert browser.get(f"{at}/openapi.json").json()["servers"] == [{"url": "/bigger"}]


def test_django(bring: Brings) -> None:
    browser = bring("django")
    at = f"{URL}/mysite"
    login = browser.get(f"{at}/admin/")
    assert login.url == f"{at}/admin/login/?next=/mysite/admin/"
    styles = {link for link in links(login) if link.endswith(".css")}
    assert styles
    for style in styles:
        assert re.fullmatch(r"/mysite/static/admin/css/\w+\.[0-9a-f]{12}\.css", style)
        for _ in range(2):
            answer = browser.get(URL + style)
        assert answer.headers["cache-status"] == "Nginx; hit"
        assert "immutable" in answer.headers["cache-control"]
        if "/base." in style:  # small ones are not worth it
            assert answer.headers["content-encoding"] == "gzip"

    form = {"username": "admin", "password": "choose-your-own", "next": "/mysite/admin/"}
    refused = browser.post(f"{at}/admin/login/", data=form, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    # As a browser does it: with an Origin, which Django compares with what it takes for its own address.
    inside = browser.post(
        f"{at}/admin/login/", data={**form, "csrfmiddlewaretoken": token(login)}, headers={"Origin": URL}
    )
    assert inside.url == f"{at}/admin/"
    assert "Site administration" in inside.text
    assert {(c.name, c.path) for c in browser.cookies.jar} == {("csrftoken", "/mysite/"), ("sessionid", "/mysite/")}
    page = browser.get(f"{at}/admin/auth/user/add/")
    new = {"username": "bob", "usable_password": "true", "password1": "a-long-one-42", "password2": "a-long-one-42"}
    done = browser.post(str(page.url), data={**new, "csrfmiddlewaretoken": token(page)}, headers={"Origin": URL})
    assert re.fullmatch(rf"{at}/admin/auth/user/\d+/change/", str(done.url))


def test_django_over_https(clone: Clone) -> None:
    """The scheme reaches it without SECURE_PROXY_SSL_HEADER, else its check of the Origin would refuse this."""
    at = f"https://localhost:{HTTPS}/mysite/admin/login/"
    with httpx.Client(verify=False) as browser:
        form = {"username": "admin", "password": "choose-your-own", "csrfmiddlewaretoken": token(browser.get(at))}
        done = browser.post(at, data=form, headers={"Origin": f"https://localhost:{HTTPS}", "Referer": at})
    assert done.status_code == 302


def test_starlette(bring: Brings) -> None:
    browser = bring("starlette")
    at = f"{URL}/star"
    home = browser.get(f"{at}/")
    assert links(home) == {f"{at}/static/css/site.css"}
    for _ in range(2):
        style = browser.get(f"{at}/static/css/site.css")
    assert (style.text, style.headers["cache-status"]) == ("p { color: teal; }\n", "Nginx; hit")
    assert browser.get(f"{at}/user/ann").text == "Hello, ann!"
    with closing(create_connection(f"ws://localhost:{HTTP}/star/ws")) as socket:
        assert socket.recv() == "Hello, websocket!"
    assert browser.get(f"{at}/ws").status_code == 404
