"""The values of secrets on their way from a vault to the hosts: checked against what the apps name, and named anew when
one changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from stack.explain import nearest
from stack.load import Site
from stack.model import PLACEHOLDERS
from stack.render import secret_variable

LONGEST = 64
"""Characters of a Swarm secret's name."""


def problems(site: Site, given: Any) -> list[tuple[str, str]]:
    """(key, sentence) for each value that is missing, not named by an app, a placeholder or no text."""
    return list(_problems(site, given))


def _problems(site: Site, given: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(given, dict):
        yield "", "should be a mapping: app -> name -> value. Type: ansible-vault edit, on the vault of your inventory"
        return
    wanted = {name: plan.app.secrets for name, plan in site.apps.items() if plan.app.secrets}
    for app, names in wanted.items():
        values = given.get(app) if isinstance(given.get(app), dict) else {}
        for name in names:
            value = values.get(name)  # type: ignore[union-attr]
            if value is None:
                yield f"{app}.{name}", f"apps/{app}/app.yml names this secret and the vault has no value for it"
            elif not isinstance(value, str):
                yield f"{app}.{name}", "should be text: put it in quotes"
            elif PLACEHOLDERS.match(value):
                yield f"{app}.{name}", "is still a placeholder"
    for app, values in given.items():
        if app not in site.apps:
            yield app, f"no such app.{nearest(str(app), list(site.apps))}"
        elif isinstance(values, dict):
            for name in values.keys() - set(wanted.get(app, [])):
                near = nearest(str(name), wanted.get(app, []))
                yield f"{app}.{name}", f"apps/{app}/app.yml names no such secret.{near} Add it there, or remove it here"


def names(site: Site, given: dict[str, dict[str, str]]) -> dict[str, str]:
    """Variable of the stack file -> name of the Swarm secret with this value.

    The name carries a hash of the value, so a new value is a new secret and its app is updated. scrypt, because names are
    no secret: a plain hash would let whoever reads one try out a million short passwords a second.
    """
    found = {}
    for app, plan in site.apps.items():
        for name in plan.app.secrets:
            salt = f"{site.environment.name}/{app}/{name}".encode()
            digest = hashlib.scrypt(given[app][name].encode(), salt=salt, n=2**14, r=8, p=1, dklen=6).hex()
            found[secret_variable(app, name)] = (
                f"{site.environment.name}_{app}_{name}"[: LONGEST - len(digest) - 1] + f"_{digest}"
            )
    return found
