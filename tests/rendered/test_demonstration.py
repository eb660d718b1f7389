"""Where the edge's page may show where requests wait, and what the edge answers for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stack.render import render
from tests.conftest import Checkout, new_checkout
from tests.rendered.test_nginx import Block, complaints, parse

SNIPPET = "nginx/snippets/demonstration.conf"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The two samples and the local environment."""
    return new_checkout(tmp_path / "site", "gatehouse-pure", 18180, 18543, ["flask", "fastapi"])


def change(path: Path, **values: object) -> None:
    yaml = YAML()
    data = yaml.load(path)
    data |= values
    yaml.dump(data, path)


def environment(checkout: Checkout, **values: object) -> None:
    change(checkout.root / "environments/local.yml", **values)


def shown(checkout: Checkout) -> tuple[list[str], bool]:
    """The apps in the page's demonstration, and whether the edge answers other names for it."""
    files = render(checkout.site)
    page = files.get("nginx/pages/index.html", "")
    names = "demo.localhost" in files["nginx/site.conf"]
    assert (SNIPPET in files) == names
    assert ('data-names="demo.localhost"' in page) == names
    return re.findall(r'data-app="([^"]+)"', page), names


def test_it_shows_one_app_of_each_interface(checkout: Checkout) -> None:
    assert shown(checkout) == (["flask", "fastapi"], True)


@pytest.mark.parametrize(("without", "left"), [("flask", "fastapi"), ("fastapi", "flask")])
def test_an_app_without_the_full_contract_is_not_in_it(checkout: Checkout, without: str, left: str) -> None:
    change(checkout.app_yml(without), contract="health")
    assert shown(checkout) == ([left], True)


def test_no_app_no_demonstration(checkout: Checkout) -> None:
    for app in ("flask", "fastapi"):
        change(checkout.app_yml(app), contract="health")
    assert shown(checkout) == ([], False)


def test_an_app_under_a_name_of_its_own_is_not_in_it(checkout: Checkout) -> None:
    change(checkout.app_yml("flask"), host="flask.example.com")
    assert shown(checkout) == (["fastapi"], True)


@pytest.mark.parametrize(
    ("values", "apps", "names"),
    [
        pytest.param({"edge": {"index": False, "timing": "open"}}, [], False, id="no page"),
        pytest.param({"edge": {"index": True}}, [], False, id="times are told to nobody"),
        pytest.param({"edge": {"index": True, "timing": f"md5:{'a' * 22}"}}, [], False, id="times are told to some"),
        pytest.param({"domains": ["example.com"]}, ["flask", "fastapi"], False, id="not this machine"),
        pytest.param({"tls": {"certificate": "local-ca", "hsts": 0}}, ["flask", "fastapi"], False, id="HTTPS only"),
        pytest.param({"tls": {"certificate": "off"}}, ["flask", "fastapi"], True, id="no HTTPS"),
    ],
)
def test_the_environment_decides(checkout: Checkout, values: dict[str, object], apps: list[str], names: bool) -> None:
    environment(checkout, **values)
    assert shown(checkout) == (apps, names)


def test_an_app_at_the_root_leaves_no_page_for_it(checkout: Checkout) -> None:
    change(checkout.app_yml("flask"), route="/")
    assert shown(checkout) == ([], False)


def test_only_a_page_over_https_can_point_to_https(checkout: Checkout) -> None:
    assert 'href="https://localhost:18543/"' in render(checkout.site)["nginx/pages/index.html"]
    environment(checkout, tls={"certificate": "off"})
    assert 'id="kept-back"' not in render(checkout.site)["nginx/pages/index.html"]


def server(checkout: Checkout) -> Block:
    blocks = parse(render(checkout.site)["nginx/site.conf"]).blocks
    (found,) = (block for block in blocks if block.has("server_name *.demo.localhost"))
    return found


def test_its_names_answer_the_wait_and_nothing_else(checkout: Checkout) -> None:
    found = server(checkout)
    proxied = [block.head for block in found.within() if block.has("proxy_pass")]
    assert proxied == [
        "location ^~ /flask/wait",
        "location @flask_again",
        "location ^~ /fastapi/wait",
        "location @fastapi_again",
    ]
    (everything,) = (block for block in found.blocks if block.head == "location /")
    assert everything.directives == ["return 404"]


def test_only_the_page_may_read_what_they_answer(checkout: Checkout) -> None:
    blocks = parse(render(checkout.site)["nginx/site.conf"]).blocks
    (origins,) = (block for block in blocks if block.head == "map $http_origin $demonstration_origin")
    assert origins.directives == [
        'default ""',
        '"http://localhost:18180" $http_origin',
        '"http://127.0.0.1:18180" $http_origin',
    ]


def test_nginx_accepts_it(checkout: Checkout, tmp_path: Path) -> None:
    assert complaints(checkout.site, render(checkout.site), tmp_path / "nginx") == []
