"""What is said of a vault that does not fit the apps, and how the name of a secret follows its value."""

from __future__ import annotations

from typing import Any

import pytest

from stack import secret_values
from tests.pure.conftest import WSGI, Draft

SWARM = "domains: [example.com]\ntls: {certificate: local-ca}\n"


@pytest.fixture
def draft(draft: Draft) -> Draft:
    draft.app(WSGI + "secrets: [API_KEY, DATABASE_PASSWORD]\n")
    draft.environment(SWARM, "fleet")
    return draft


GOOD = {"shop": {"API_KEY": "k-123", "DATABASE_PASSWORD": "p-456"}}


@pytest.mark.parametrize(
    ("given", "key", "sentence"),
    [
        ({}, "shop.API_KEY", "the vault has no value for it"),
        ({"shop": {**GOOD["shop"], "API_KEY": 123}}, "shop.API_KEY", "should be text: put it in quotes"),
        ({"shop": {**GOOD["shop"], "API_KEY": "changeme"}}, "shop.API_KEY", "still a placeholder"),
        ({"shop": {**GOOD["shop"], "APIKEY": "k"}}, "shop.APIKEY", "Did you mean 'API_KEY'?"),
        ({**GOOD, "shp": {}}, "shp", "no such app. Did you mean 'shop'?"),
        ({"shop": "k-123"}, "shop.API_KEY", "no value"),
        ("k-123", "", "should be a mapping"),
    ],
)
def test_values_that_do_not_fit(draft: Draft, given: Any, key: str, sentence: str) -> None:
    found = secret_values.problems(draft.load("fleet"), given)
    assert any(k == key and sentence in said for k, said in found), found
    assert not any("k-123" in said for _, said in found)


def test_values_that_fit(draft: Draft) -> None:
    assert secret_values.problems(draft.load("fleet"), GOOD) == []


def test_a_name_follows_its_value_alone_and_does_not_show_it(draft: Draft) -> None:
    site = draft.load("fleet")
    names = secret_values.names(site, GOOD)
    changed = secret_values.names(site, {"shop": {**GOOD["shop"], "API_KEY": "k-124"}})
    key, password = "GATEHOUSE_SECRET_shop_API_KEY", "GATEHOUSE_SECRET_shop_DATABASE_PASSWORD"
    assert names[key].startswith("gatehouse_shop_API_KEY_")
    assert names == secret_values.names(site, GOOD)
    assert changed[key] != names[key]
    assert changed[password] == names[password]
    assert not any(value in "".join(names.values()) for value in ("k-123", "p-456"))


def test_a_long_name_is_cut_and_keeps_its_hash(draft: Draft) -> None:
    long = "A" * 80
    draft.app(WSGI + f"secrets: [{long}, {long}B]\n")
    names = secret_values.names(draft.load("fleet"), {"shop": {long: "x", f"{long}B": "x"}})
    assert all(len(name) <= 64 for name in names.values())
    assert len(set(names.values())) == 2
