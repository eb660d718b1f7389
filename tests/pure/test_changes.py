"""What `make up` says it has applied."""

from __future__ import annotations

from typing import Any

import pytest

from stack import changes

WAS: dict[str, Any] = {
    "image": "gatehouse/flask:1",
    "command": ["gunicorn", "app:app", "--workers", "4", "--preload"],
    "environment": ["GATEHOUSE_RELEASE=1", "TITLE=a=b"],
    "deploy": {"resources": {"limits": {"memory": "512M"}}},
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"image": "gatehouse/flask:2"}, "its files"),
        ({"image": "gatehouse/flask:2", "command": ["gunicorn", "app:app"]}, "its files, no --preload, no --workers"),
        ({"command": ["gunicorn", "app:app", "--workers", "6", "--preload"]}, "--workers 4 -> 6"),
        ({"command": ["gunicorn", "app:app", "--workers", "4"]}, "no --preload"),
        ({"command": [*WAS["command"], "--reload"]}, "--reload"),
        ({"environment": ["GATEHOUSE_RELEASE=2", "TITLE=c"]}, "TITLE a=b -> c"),
        ({"environment": ["GATEHOUSE_RELEASE=2", "TITLE=a=b", "COLOUR=red"]}, "COLOUR red"),
        ({"deploy": {"resources": {"limits": {"memory": "1G"}}}}, "memory 512M -> 1G"),
        ({"environment": [*WAS["environment"], "GATEHOUSE_DEV=wsgi|app:app|5678"], "init": True}, "for editing"),
        ({"labels": ["gatehouse.secrets=2"]}, "a secret"),
        ({"environment": ["A=1", "B=1", "C=1", "D=1"]}, "A 1, B 1, C 1 and 2 more"),
    ],
)
def test_what_changed_is_said_in_a_few_words(changed: dict[str, Any], said: str) -> None:
    assert changes.of(WAS, WAS | changed) == said
