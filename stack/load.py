"""Reading what people wrote: app folders and one environment file -> a checked `Site`, or every problem at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stack import model, sizing, timeouts
from stack.explain import key_path, nearest, pattern, sentences
from stack.gateways import Gateway
from stack.model import RESERVED_NAMES, App, Environment
from stack.source import Layers, Problem, Source, flat, plain, show

M = TypeVar("M", bound=BaseModel)


class SiteError(Exception):
    """All problems found in a site."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True)
class AppPlan:
    """One app with everything decided: what `App` leaves open is filled in here."""

    name: str
    folder: Path
    app: App
    gateway: Gateway
    sizing: sizing.Sizing
    origins: dict[str, str] = field(default_factory=dict)
    """Key -> the file its value came from; absent: the model's default."""

    @property
    def host(self) -> str | None:
        """The one host name it answers under, or None for the environment's domains."""
        return self.app.host

    @property
    def prefix(self) -> str:
        """URL path in front of the app's own paths, without a trailing slash: "/flask", or "" at the root."""
        default = "/" if self.app.host else f"/{self.name}"
        return (self.app.route or default).rstrip("/")

    @property
    def health_url(self) -> str:
        """The health path as a client of the edge writes it."""
        return self.prefix + self.app.health

    @property
    def gateway_health_path(self) -> str:
        """The health path as the gateway itself wants it."""
        return self.app.health if self.gateway.strip_prefix else self.health_url


@dataclass(frozen=True)
class Site:
    """Everything that `render` needs: one environment and its apps, checked."""

    root: Path
    env: str
    environment: Environment
    apps: dict[str, AppPlan]
    origins: dict[str, str] = field(default_factory=dict)
    dev: bool = False
    """As `make dev` runs it (stack/dev.py)."""


def base_url(environment: Environment, host: str | None = None) -> str:
    """scheme://host:port that a client on this machine uses, without a trailing slash; the canonical domain's if no
    host is given."""
    secure = environment.tls.certificate != "off" and environment.tls.redirect
    port, default = (environment.https_port, 443) if secure else (environment.http_port, 80)
    return f"http{'s' if secure else ''}://{host or environment.domains[0]}" + (f":{port}" if port != default else "")


def environments(root: Path) -> list[str]:
    """Names of the environments below `root`."""
    return sorted(p.stem for p in (root / "environments").glob("*.yml"))


def load_site(root: Path, env: str) -> Site:
    """The site below `root` (folders apps/ and environments/) in environment `env`.

    Raises SiteError with every problem found, not only the first.
    """
    problems: list[Problem] = []
    environment_file = root / "environments" / f"{env}.yml"
    if not environment_file.is_file():
        known = environments(root)
        raise SiteError(
            [
                Problem(
                    show(environment_file, root),
                    "",
                    f"no such environment.{nearest(env, known)} Allowed: {', '.join(known) or 'none, until this file is there'}",
                )
            ]
        )
    source = Source(environment_file, root)
    problems += source.problems
    environment = None if source.problems else _validate(Environment, source.data, source.problem, problems)

    apps: dict[str, AppPlan] = {}
    layers: dict[str, Layers] = {}
    written = source.data.get("apps")
    overrides: dict[str, Any] = written if isinstance(written, dict) else {}
    folders = sorted(p.parent for p in (root / "apps").glob("*/app.yml"))
    for folder in folders:
        layers[folder.name] = Layers(Source(folder / "app.yml", root), source, overrides.get(folder.name))
        plan = _load_app(folder, root, layers[folder.name], problems)
        if plan:
            apps[plan.name] = plan
    if not folders:
        problems.append(Problem("apps/", "", "no app here: an app is a folder with an app.yml"))
    for path in sorted([*(root / "apps").glob("*/app.yaml"), *(root / "environments").glob("*.yaml")]):
        problems.append(Problem(show(path, root), "", f"nothing reads this name. Rename it to {path.stem}.yml"))
    for name in overrides:
        if name not in {f.name for f in folders}:
            problems.append(
                source.problem(("apps", str(name)), f"no such app.{nearest(str(name), [f.name for f in folders])}")
            )

    if environment:
        for violation in timeouts.of_edge(environment):
            problems.append(source.problem(tuple(violation.key.split(".")), violation.sentence))
        _check_apps_together(environment, apps, layers, problems)
    if problems or environment is None:
        raise SiteError(problems)
    return Site(root, env, environment, apps, dict.fromkeys(flat(source.data), source.name))


def _load_app(folder: Path, root: Path, layers: Layers, problems: list[Problem]) -> AppPlan | None:
    source, override = layers.app, layers.override
    before = len(problems)
    if reason := unfit_name(folder.name):
        problems.append(Problem(source.name, "", reason))
    own_recipe = (folder / "Dockerfile").is_file()  # knows by itself what to install, and where the code goes
    if not own_recipe and not (folder / "requirements.txt").is_file():
        problems.append(
            Problem(
                source.name,
                "",
                f"no requirements.txt beside it: list the app's packages in {show(folder, root)}/requirements.in and type: make lock",
            )
        )
    problems += source.problems
    if source.problems:
        return None
    app = _validate(App, source.data, source.problem, problems)
    if override:
        found: list[Problem] = []
        merged = _validate(App, {**source.data, **override}, layers.problem, found)
        problems += [problem for problem in found if problem not in problems]
        app = app and merged
    if app is None:
        return None
    if message := sizing.too_small(app):
        written = [key for data in (override, source.data) for key in ("worker_memory", "memory") if key in data]
        problems.append(layers.problem((*written, "memory")[:1], message))
    module = app.entry.split(":")[0].split(".")[0]
    # Where the image's Python looks: /app, and /app/src or what the app's PYTHONPATH says instead.
    places = [folder, *(folder / p.removeprefix("/app/") for p in app.env.get("PYTHONPATH", "/app/src").split(":"))]
    if not own_recipe and not any((p / f"{module}.py").is_file() or (p / module).is_dir() for p in places):
        have = sorted({p.stem for place in places for p in place.glob("*.py")})
        problems.append(
            layers.problem(
                ("entry",),
                f"no module {module!r} in {show(folder, root)}/.{nearest(module, have)} Write module:attribute, for example app:app",
            )
        )
    for name in app.processes:
        if f"{folder.name}-{name}" in RESERVED_NAMES:
            problems.append(layers.problem(("processes", name), "this service name is taken by the stack"))
    if len(problems) > before:
        return None
    return AppPlan(folder.name, folder, app, app.chosen_gateway, sizing.workers(app), layers.origins())


def unfit_name(name: str) -> str | None:
    """Why no app can have this name."""
    if not re.fullmatch(pattern(model.ServiceName), name):
        return f"an app's folder is its host name in the stack. Allowed: small letters, digits and -, at most 32, starting with a letter and not ending with -; not {name!r}"
    if name in RESERVED_NAMES:
        return f"the name {name!r} is taken by the stack itself. Rename the folder"
    return None


def unplaced(site: Site, hosts: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(app, sentence) for each app with a volume, which stays on its host, that more or fewer than one host may run.

    hosts: name -> labels.
    """
    for plan in site.apps.values():
        wanted = plan.app.placement.items()
        fitting = [name for name, labels in sorted(hosts.items()) if all(str(labels.get(k)) == v for k, v in wanted)]
        if plan.app.volumes and len(fitting) != 1:
            where = (
                f"may run on any of {', '.join(fitting)}: its data would be on some and not on others"
                if fitting
                else ("may run on no host: none has the labels of its placement")
            )
            yield (
                plan.name,
                f"a volume stays on its host, and this app {where}. Give one host a label (swarm_labels in the inventory) and the app its `placement`",
            )


def _check_apps_together(
    environment: Environment, apps: dict[str, AppPlan], layers: dict[str, Layers], problems: list[Problem]
) -> None:
    routes: dict[tuple[str | None, str], str] = {}
    locations: dict[tuple[str | None, str], AppPlan] = {}
    services: dict[str, str] = {name: name for name in apps}
    for name, plan in apps.items():
        if plan.app.release_command and services.setdefault(f"{name}-release", name) != name:
            problems.append(
                layers[name].problem(
                    ("release_command",),
                    f"its job would be called {name}-release, which is already an app. Rename that",
                )
            )
    volumes: dict[str, str] = {}
    kept = model.cache_size(environment, [plan.app for plan in apps.values()])
    for plan in apps.values():
        source = layers[plan.name]
        for violation in timeouts.of_app(plan.app, environment):
            problems.append(source.problem(key_path(violation.key), violation.sentence))
        bodies = {("body_limit",): (plan.app.body_limit, False)} | {
            ("paths", path, "body_limit"): (behaviour.body_limit, behaviour.stream)
            for path, behaviour in plan.app.paths.items()
            if behaviour.body_limit
        }
        for place, (limit, stream) in bodies.items():
            if not stream and model.size_bytes(limit) > model.size_bytes(environment.edge.memory) // 2 - kept:
                share = "three eighths (`cache` takes one)" if kept else "half"
                problems.append(
                    source.problem(
                        place,
                        f"{limit} does not fit the edge's place for bodies, {share} of its memory of {environment.edge.memory}. "
                        "Raise edge.memory in the environment, or set stream: true on the path that takes them",
                    )
                )
        if plan.host in environment.domains:
            problems.append(
                source.problem(
                    ("host",),
                    f"{plan.host} is one of the environment's domains, which apps share by path. Remove the key and set route",
                )
            )
        other = routes.setdefault((plan.host, plan.prefix), plan.name)
        if other != plan.name:
            where = f"{plan.host}{plan.prefix}/" if plan.host else plan.prefix or "/"
            problems.append(
                source.problem(
                    ("route",),
                    f"{where} is already the route of apps/{other}. Give one of them another `route` or `host`",
                )
            )
        for path in ("/", *plan.app.paths):
            url, key = f"{plan.prefix}{path}", ("route",) if path == "/" else ("paths", path)
            first = locations.setdefault((plan.host, url), plan)
            if first.prefix != plan.prefix:
                problems.append(source.problem(key, f"{url} belongs to apps/{first.name} already. Change one of them"))
            if url.startswith("/_gatehouse/"):
                problems.append(source.problem(key, f"{url} is the edge's own (its error pages). Choose another"))
        for name in plan.app.volumes:
            volume = f"{plan.name}-{name}"
            if (other := volumes.setdefault(volume, plan.name)) != plan.name:
                problems.append(
                    source.problem(
                        ("volumes", name),
                        f"it would be called {volume}, which is already a volume of apps/{other}. Rename it",
                    )
                )
        for process in plan.app.processes:
            service = f"{plan.name}-{process}"
            if services.setdefault(service, plan.name) != plan.name or (
                process == "release" and plan.app.release_command
            ):
                problems.append(
                    source.problem(
                        ("processes", process),
                        f"its service would be called {service}, which is already one. Rename it",
                    )
                )


def _validate(
    kind: type[M], data: dict[str, Any], problem: Callable[[tuple[str, ...], str], Problem], problems: list[Problem]
) -> M | None:
    """`data` as a model of this kind, or None after adding a problem for each thing wrong with it."""
    try:
        return kind.model_validate(plain(data))
    except ValidationError as error:
        found = [problem(*wrong) for wrong in sentences(kind, error)]
        problems += sorted(found, key=lambda problem: problem.line or 0)
        return None
