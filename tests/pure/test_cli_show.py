"""`make show`: every effective value, where it came from and, for computed ones, why."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from stack.cli import cli
from stack.render import render
from stack.say import console
from tests.pure.conftest import LOCAL, WSGI, Draft

SECRET = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def _a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 500)


def show(draft: Draft) -> dict[str, tuple[str, str]]:
    """Setting -> (value, from), as the verb prints them; an app's settings as `<app>.<setting>`."""
    done = CliRunner().invoke(cli, ["show", "--root", str(draft.root)])
    assert done.exit_code == 0, done.output
    rows: dict[str, tuple[str, str]] = {}
    before = ""
    for line in done.stdout.splitlines():
        if line.startswith("apps/"):
            before = line.strip().removeprefix("apps/") + "."
        cells = re.split(r"\s{2,}", line.strip())
        if len(cells) == 3 and cells[1:] != ["value", "from"]:
            rows[before + cells[0]] = (cells[1], cells[2])
    return rows


def test_each_value_says_its_layer(draft: Draft) -> None:
    draft.app(WSGI + "threads: 3\ncpus: 2\n")
    draft.environment(LOCAL + "http_port: 8080\nedge: {index: true}\napps: {shop: {cpus: 4}}\n")
    rows = show(draft)
    assert rows["shop.replicas"] == ("1", "default")
    assert rows["shop.threads"] == ("3", "apps/shop/app.yml")
    assert rows["shop.cpus"] == ("4", "environments/local.yml")
    assert rows["http_port"] == ("8080", "environments/local.yml")
    assert rows["https_port"] == ("443", "default")
    assert rows["edge.index"] == ("true", "environments/local.yml")
    assert rows["edge.memory"] == ("512M", "default")


def test_each_part_of_a_value_says_its_own_layer(draft: Draft) -> None:
    draft.app(WSGI + "timeouts: {request: 20}\npaths: {/up: {body_limit: 9M}}\n")
    rows = show(draft)
    assert rows["shop.timeouts.request"] == ("20", "apps/shop/app.yml")
    assert rows["shop.timeouts.graceful"] == ("30", "default")
    assert rows["shop.paths./up.body_limit"] == ("9M", "apps/shop/app.yml")
    assert "shop.paths./up.stream" not in rows, "a path says only what differs from its app"


def test_a_computed_number_of_workers_says_why(draft: Draft) -> None:
    assert show(draft)["shop.workers"] == (
        "2",
        "default: one per cpu (cpus: 1), at least 2 so that one stuck worker is not all; "
        "8 threads in each carry what waits",
    )


def test_a_number_of_workers_that_was_set_says_where(draft: Draft) -> None:
    draft.environment(LOCAL + "apps: {shop: {workers: 7}}\n")
    assert show(draft)["shop.workers"] == ("7", "environments/local.yml: set by you")


def test_limits_say_what_holds(draft: Draft) -> None:
    draft.app(WSGI + "limits: {requests: 20/s}\n")
    rows = show(draft)
    assert rows["limits.connections"] == rows["limits.requests"] == ("off", "default")
    assert rows["shop.limits.requests"] == ("off", "limits of environments/local.yml")
    draft.environment(LOCAL + "limits: {connections: 64}\n")
    rows = show(draft)
    assert rows["limits.connections"] == ("64", "environments/local.yml")
    assert rows["limits.requests"] == ("observe 100/s", "default")
    assert rows["shop.limits.connections"] == ("64", "limits of environments/local.yml")
    assert rows["shop.limits.requests"] == ("20/s", "apps/shop/app.yml")
    assert rows["shop.max_in_flight"] == ("144", "default: 16 being served and 128 waiting for them")


def test_a_choice_that_was_left_open_shows_what_it_became(draft: Draft) -> None:
    draft.app("interface: asgi\nentry: app:app\n", "api")
    rows = show(draft)
    assert rows["shop.gateway"] == ("gunicorn-gthread", "default for wsgi")
    assert rows["shop.route"] == ("/shop", "default: its name")
    assert rows["api.gateway"] == ("uvicorn", "default for asgi")


def test_every_setting_is_shown(draft: Draft) -> None:
    rows = show(draft)
    assert rows["shop.host"] == ("not set", "default")
    plan = draft.plan()
    assert {key for key in rows if key.startswith("shop.")} == {
        *(f"shop.{key}" for key in type(plan.app).model_fields if key not in ("timeouts", "limits")),
        *(f"shop.timeouts.{key}" for key in type(plan.app.timeouts).model_fields),
        *(f"shop.limits.{key}" for key in type(plan.app.limits).model_fields),
    }


def test_a_secrets_value_is_never_shown(draft: Draft) -> None:
    draft.app(WSGI + "secrets: [API_KEY]\n")
    file = draft.root / ".local/secrets/shop/API_KEY"
    file.parent.mkdir(parents=True)
    file.write_text(SECRET)
    assert show(draft)["shop.secrets"] == ('["API_KEY"]', "apps/shop/app.yml")
    for verb in ("show", "check", "render"):
        done = CliRunner().invoke(cli, [verb, "--root", str(draft.root)])
        assert done.exit_code == 0
        assert SECRET not in done.output
    assert SECRET not in "".join(render(draft.load()).values())


def test_text_of_the_user_is_shown_as_it_is(draft: Draft) -> None:
    draft.app(WSGI + "env: {TITLE: '[red]Shop[/]'}\n")
    assert show(draft)["shop.env.TITLE"] == ("[red]Shop[/]", "apps/shop/app.yml")


def test_a_number_that_does_not_fit_is_noted(draft: Draft) -> None:
    draft.app(WSGI + "workers: 9\n")
    done = CliRunner().invoke(cli, ["show", "--root", str(draft.root)])
    assert "note: workers: 9 of worker_memory 96M do not fit: memory 512M x 0.8 holds 4." in done.stdout
    assert "note: workers: 9 are more than cpus: 1 can use" in done.stdout
