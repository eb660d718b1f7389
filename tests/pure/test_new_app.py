"""`make new-app`: what it makes loads as it is, and what it refuses leaves nothing."""

from __future__ import annotations

import re

import pytest

from stack.errors import Failed
from stack.load import SiteError, load_site
from stack.new_app import KINDS, TEMPLATES, make
from tests.conftest import REPOSITORY, Checkout

SAMPLE = {"wsgi": "flask", "asgi": "fastapi"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_app_is_part_of_the_site(checkout: Checkout, kind: str) -> None:
    before = set(checkout.site.apps)
    folder = make(checkout.root, "local", "orders", kind)
    plan = load_site(checkout.root, "local").apps["orders"]
    assert set(checkout.site.apps) == {*before, "orders"}
    assert (plan.folder, plan.app.interface, plan.prefix) == (folder, kind, "/orders")
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted({*before, "orders"})


@pytest.mark.parametrize("kind", KINDS)
def test_editors_are_told_of_the_schema_where_there_is_one(checkout: Checkout, kind: str) -> None:
    settings = f"interface: {kind}\n"
    assert (make(checkout.root, "local", "elsewhere", kind) / "app.yml").read_text().startswith(settings)
    (checkout.root / "docs/schema").mkdir(parents=True)
    comment = "# yaml-language-server: $schema=../../docs/schema/app.json\n"
    assert (make(checkout.root, "local", "orders", kind) / "app.yml").read_text().startswith(comment + settings)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("Orders", "asgi", "NAME=Orders: an app's folder is its host name"),
        ("edge", "asgi", "NAME=edge: the name 'edge' is taken by the stack itself"),
        ("flask", "wsgi", "apps/flask is there already"),
        ("reports", "wsgi", "apps/Reports is there already"),
        ("gone", "wsgi", "apps/gone is there already"),
        ("orders", "django", "KIND=django: no such kind. Allowed: asgi, wsgi"),
        ("../orders", "asgi", "NAME=../orders: an app's folder is its host name"),
    ],
)
def test_a_bad_name_is_refused_and_nothing_is_left(checkout: Checkout, name: str, kind: str, reason: str) -> None:
    (checkout.root / "apps/Reports").mkdir()
    (checkout.root / "apps/gone").symlink_to("nowhere")
    before = sorted((checkout.root / "apps").rglob("*"))
    with pytest.raises(Failed, match=re.escape(reason)):
        make(checkout.root, "local", name, kind)
    assert sorted((checkout.root / "apps").rglob("*")) == before


def test_a_route_that_another_app_has_is_refused_and_nothing_is_left(checkout: Checkout) -> None:
    file = checkout.app_yml("flask")
    file.write_text(file.read_text() + "route: /orders\n")
    with pytest.raises(SiteError) as raised:
        make(checkout.root, "local", "orders", "asgi")
    assert "/orders" in str(raised.value.problems[0])
    assert not (checkout.root / "apps/orders").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_samples_packages(kind: str) -> None:
    """So it is made without a network, and shares the layers of their images."""
    sample = REPOSITORY / "apps" / SAMPLE[kind] / "requirements.txt"
    if not sample.is_file():
        pytest.skip(f"needs the sample apps/{SAMPLE[kind]}")
    assert (TEMPLATES / kind / "requirements.txt").read_text() == sample.read_text()
