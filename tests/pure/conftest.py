"""A site on paper: folders and files made for one test, read by the code that reads a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack.load import AppPlan, Site, SiteError, load_site
from stack.model import App

WSGI = "interface: wsgi\nentry: app:app\n"
ASGI = "interface: asgi\nentry: app:app\n"
LOCAL = "engine: compose\ndomains: [localhost]\n"


@dataclass
class Draft:
    """A folder with apps/ and environments/."""

    root: Path

    def app(self, yml: str | bytes = WSGI, name: str = "shop", code: str = "app.py", lock: bool = True) -> Path:
        """Writes an app; returns its folder."""
        folder = self.root / "apps" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "app.yml").write_bytes(yml if isinstance(yml, bytes) else yml.encode())
        (folder / code).write_text("app = None\n")
        if lock:
            (folder / "requirements.txt").write_text("")
        return folder

    def environment(self, yml: str | bytes = LOCAL, name: str = "local") -> None:
        """Writes an environment."""
        file = self.root / "environments" / f"{name}.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(yml if isinstance(yml, bytes) else yml.encode())

    def load(self, env: str = "local") -> Site:
        return load_site(self.root, env)

    def plan(self, name: str = "shop") -> AppPlan:
        return self.load().apps[name]

    def problems(self, env: str = "local") -> list[str]:
        """Every problem as `make check` prints it; none: []."""
        try:
            self.load(env)
        except SiteError as error:
            return [str(problem) for problem in error.problems]
        return []


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    """One WSGI app, shop, in one environment, local: nothing is wrong with it yet."""
    draft = Draft(tmp_path)
    draft.app()
    draft.environment()
    return draft


def app(**settings: Any) -> App:
    """An app with these settings, WSGI unless they say otherwise."""
    return App.model_validate({"interface": "wsgi", "entry": "app:app", **settings})
