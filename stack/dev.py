"""`make dev`: the same chain, for whoever edits an app: its folder mounted, reloaded by the gateway's own means."""

from __future__ import annotations

from dataclasses import replace

from stack.load import AppPlan, Site
from stack.sizing import Sizing

PATIENCE = 3600
"""s. Nginx and the gateway wait this long for an answer, because somebody may be at a breakpoint."""

PORTS = 100
"""Above the site's http_port: where breakpoint() in the first app waits; the next app has the next one."""


def of(site: Site) -> Site:
    """The site as `make dev` runs it: one process of each app, which everything can be seen in."""
    return replace(site, apps={name: _plan(plan) for name, plan in site.apps.items()}, dev=True)


def edited(site: Site) -> list[AppPlan]:
    """The apps that `make dev` mounts and reloads: all but those whose own Dockerfile alone knows where their code is, and
    those whose gateway cannot reload."""
    candidates = site.apps.values() if site.dev else ()
    return [plan for plan in candidates if plan.gateway.reloads and not (plan.folder / "Dockerfile").is_file()]


def _plan(plan: AppPlan) -> AppPlan:
    timeouts = plan.app.timeouts.model_copy(update={"request": PATIENCE, "gateway": PATIENCE})
    app = plan.app.model_copy(update={"timeouts": timeouts, "replicas": 1, "preload": False, "max_requests": 0})
    return replace(plan, app=app, sizing=Sizing(1, "make dev: one process, so that a debugger sees every request"))


def command(arguments: list[str], entry: str) -> list[str]:
    """A gateway's argument list, for a reloading one that loads the app by way of gatehouse_dev.py."""
    at = arguments.index(entry)
    more = ["--reload"]
    if arguments[0] == "gunicorn":  # else it watches only what was imported, and not what failed to be
        more += ["--reload-extra-file", "**/*.py"]
    return [*arguments[:at], "gatehouse_dev:app", *more, *arguments[at + 1 :]]


def ports(site: Site) -> dict[str, int]:
    """App -> port of this machine at which its breakpoint() waits."""
    return {
        name: site.environment.http_port + PORTS + number
        for number, name in enumerate(plan.name for plan in edited(site))
    }


def unreadable(plan: AppPlan) -> list[str]:
    """Whether the container's user, who is nobody here, cannot read the folder: a sentence."""
    closed = [path for path in (plan.folder, *plan.folder.rglob("*")) if not path.stat().st_mode & 0o004]
    if not closed:
        return []
    return [
        f"make dev: apps/{plan.name} is not for everybody to read ({closed[0].name}, say), and its container has another user. Type: chmod -R a+rX apps/{plan.name}"
    ]
