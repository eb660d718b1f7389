"""Verbs about a stack that does not run say so, and what to type."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stack import docker
from stack.cli import cli
from stack.compose import Compose
from tests.conftest import Checkout


@pytest.mark.parametrize(
    "verb", [["ps"], ["logs"], ["logs", "flask"], ["restart", "flask"], ["shell", "flask"], ["load"]]
)
def test_where_nothing_runs(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, verb: list[str]) -> None:
    monkeypatch.setattr(docker, "_find", lambda: ["docker"])
    monkeypatch.setattr(Compose, "containers", lambda self: [])
    done = CliRunner().invoke(cli, [*verb, "--root", str(checkout.root)])
    assert done.exit_code == 1
    assert "Type: make up" in done.output
    assert not (checkout.root / "build").exists()
