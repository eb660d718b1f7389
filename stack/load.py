"""Reading what people wrote: app folders and one environment file -> a checked `Site`, or every problem at once."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from stack import sizing, timeouts
from stack.gateways import Gateway
from stack.model import RESERVED_NAMES, App, Environment, ServiceName

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and how to mend it."""

    file: str
    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


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
                    _show(environment_file, root),
                    "",
                    f"no such environment.{_nearest(env, known)} Type: make show ENV={known[0] if known else 'local'}",
                )
            ]
        )
    source = _Source(environment_file, root)
    problems += source.problems
    environment = source.model(Environment, source.data, problems)

    apps: dict[str, AppPlan] = {}
    written = source.data.get("apps")
    overrides: dict[str, Any] = written if isinstance(written, dict) else {}
    folders = sorted(p.parent for p in (root / "apps").glob("*/app.yml"))
    for folder in folders:
        plan = _load_app(folder, root, source, overrides.get(folder.name), problems)
        if plan:
            apps[plan.name] = plan
    if not folders:
        problems.append(Problem("apps/", "", "no app here: an app is a folder with an app.yml"))
    for name in overrides:
        if name not in {f.name for f in folders}:
            problems.append(
                source.problem(("apps", str(name)), f"no such app.{_nearest(str(name), [f.name for f in folders])}")
            )

    if environment:
        for violation in timeouts.of_edge(environment):
            problems.append(source.problem(tuple(violation.key.split(".")), violation.sentence))
        _check_apps_together(environment, apps, root, problems)
    if problems or environment is None:
        raise SiteError(problems)
    return Site(root, env, environment, apps, dict.fromkeys(_flat(source.data), source.name))


def _load_app(folder: Path, root: Path, environment: _Source, override: Any, problems: list[Problem]) -> AppPlan | None:
    source = _Source(folder / "app.yml", root)
    problems += source.problems
    if source.problems:
        return None
    try:
        _check_service_name(folder.name)
    except ValueError as error:
        problems.append(Problem(source.name, "", str(error)))
    before = len(problems)
    written = source.model(App, source.data, problems)
    if written is None:
        return None
    app, origins = written, dict.fromkeys(source.data, source.name)
    if override is not None:
        if not isinstance(override, dict):
            problems.append(
                environment.problem(
                    ("apps", folder.name), "must be a mapping of app.yml keys, for example {replicas: 2}"
                )
            )
            return None
        merged = environment.model(App, {**source.data, **override}, problems, at=("apps", folder.name))
        if merged is None:
            return None
        app, origins = merged, origins | dict.fromkeys(override, environment.name)
    if message := sizing.too_small(app):
        problems.append(source.problem(("worker_memory" if "worker_memory" in source.data else "memory",), message))
    module = app.entry.split(":")[0].split(".")[0]
    if (
        not (folder / f"{module}.py").is_file()
        and not (folder / module).is_dir()
        and not (folder / "src" / module).exists()
    ):
        have = sorted(p.stem for p in folder.glob("*.py"))
        problems.append(
            source.problem(
                ("entry",),
                f"no module {module!r} in {_show(folder, root)}/.{_nearest(module, have)} Write module:attribute, for example app:app",
            )
        )
    if not (folder / "requirements.txt").is_file():
        problems.append(
            Problem(
                source.name,
                "",
                f"no requirements.txt beside it: list the app's packages in {_show(folder, root)}/requirements.in and type: make lock",
            )
        )
    for name in app.processes:
        if f"{folder.name}-{name}" in RESERVED_NAMES:
            problems.append(source.problem(("processes", name), "this service name is taken by the stack"))
    if len(problems) > before:
        return None
    return AppPlan(folder.name, folder, app, app.chosen_gateway, sizing.workers(app), origins)


def _check_service_name(name: str) -> None:

    pattern = get_args(ServiceName)[1].pattern
    if not re.match(pattern, name):
        raise ValueError(
            f"an app's folder is its host name in the stack. Allowed: small letters, digits and -, at most 32, starting with a letter; not {name!r}"
        )
    if name in RESERVED_NAMES:
        raise ValueError(f"the name {name!r} is taken by the stack itself. Rename the folder")


def _check_apps_together(
    environment: Environment, apps: dict[str, AppPlan], root: Path, problems: list[Problem]
) -> None:
    routes: dict[tuple[str | None, str], str] = {}
    services: dict[str, str] = {name: name for name in apps}
    for plan in apps.values():
        source = _Source(plan.folder / "app.yml", root)
        for violation in timeouts.of_app(plan.app, environment):
            problems.append(source.problem(_key_path(violation.key), violation.sentence))
        if plan.host in environment.domains:
            problems.append(
                source.problem(
                    ("host",),
                    f"{plan.host} is one of the environment's domains, which apps share by path. Remove the key and set route",
                )
            )
        other = routes.setdefault((plan.host, plan.prefix), plan.name)
        if other != plan.name:
            where = f"{plan.host or 'the site'}{plan.prefix or '/'}"
            problems.append(
                source.problem(
                    ("route",),
                    f"{where} is already the route of apps/{other}. Give one of them another `route` or `host`",
                )
            )
        for process in plan.app.processes:
            service = f"{plan.name}-{process}"
            if services.setdefault(service, plan.name) != plan.name or service in apps:
                problems.append(
                    source.problem(
                        ("processes", process),
                        f"its service would be called {service}, which is already one. Rename it",
                    )
                )


def _key_path(key: str) -> tuple[str, ...]:
    """("paths", "/a.b", "timeout") from "paths./a.b.timeout": only the ends of a key are free of dots."""
    if key.startswith("paths."):
        path, _, last = key.removeprefix("paths.").rpartition(".")
        return ("paths", path, last)
    return tuple(key.split("."))


class _Source:
    """One YAML file: its data, and line numbers for messages about it."""

    def __init__(self, path: Path, root: Path) -> None:
        self.name = _show(path, root)
        self.problems: list[Problem] = []
        self.data: dict[str, Any] = {}
        try:
            data = YAML(typ="rt").load(path.read_text("utf-8"))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = " ".join(str(part) for part in (error.context, error.problem) if part)
            self.problems.append(
                Problem(self.name, "", f"not valid YAML: {text.splitlines()[0]}", mark.line + 1 if mark else None)
            )
            return
        except UnicodeDecodeError as error:
            self.problems.append(Problem(self.name, "", f"not UTF-8 text: {error.reason}"))
            return
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self.problems.append(Problem(self.name, "", "must be a mapping of keys to values"))
            return
        self.data = data

    def problem(self, key: tuple[str, ...], message: str) -> Problem:
        return Problem(self.name, ".".join(key), message, self._line(key))

    def _line(self, key: tuple[str, ...]) -> int | None:
        node: Any = self.data
        line = None
        for part in key:
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                line, node = node.lc.item(int(part))[0] + 1, node[int(part)]  # type: ignore[attr-defined]
            elif isinstance(node, dict) and part in node:
                line = node.lc.key(part)[0] + 1 if hasattr(node, "lc") else line
                node = node[part]
            else:
                break
        return line

    def model(
        self, model: type[M], data: dict[str, Any], problems: list[Problem], at: tuple[str, ...] = ()
    ) -> M | None:
        """`data` as `model`, or None after adding a problem for each thing wrong with it."""
        try:
            return model.model_validate(_plain(data))
        except ValidationError as error:
            for detail in error.errors():
                problems.append(self._explain(model, at, detail))
            return None

    def _explain(self, model: type[BaseModel], at: tuple[str, ...], detail: Any) -> Problem:
        location = tuple(
            str(part)
            for part in detail["loc"]
            if part not in ("[key]",) and not str(part).startswith(("function-", "constrained-", "literal["))
        )
        kind, given = detail["type"], detail.get("input")
        # A union reports one error per member; the member's own name is not a key of the file.
        location = tuple(part for part in location if part not in ("int", "str", "float"))
        key = (*at, *location)
        owner = _model_at(model, location[:-1])
        match kind:
            case "extra_forbidden":
                known = list(owner.model_fields) if owner else []
                message = f"unknown key.{_nearest(location[-1], known)} Allowed: {', '.join(known)}"
            case "missing":
                described = _model_at(model, location[:-1])
                text = described.model_fields[location[-1]].description if described else None
                message = f"missing, and it has no default. {_first_sentence(text)}"
            case "literal_error":
                allowed = detail["ctx"]["expected"].replace("'", "")
                message = f"{given!r} is not one of these.{_nearest(str(given), allowed.replace(' or ', ', ').split(', '))} Allowed: {allowed}"
            case "string_pattern_mismatch":
                message = f"{given!r} does not fit. {_meaning(owner, location)}".rstrip()
            case "value_error":
                text = str(detail["ctx"]["error"])
                first, _, rest = text.partition(": ")
                if rest and " " not in first:
                    key, message = (
                        (*at, *location, *first.split(".")) if "/" not in first else (*at, *_key_path(first)),
                        rest,
                    )
                else:
                    message = text
            case _:
                text = detail["msg"].replace("Input should", "should").replace("Value error, ", "")
                message = f"{text}, not {json.dumps(given, default=str)}. {_meaning(owner, location)}".rstrip()
        return self.problem(key, message)


def _model_at(model: type[BaseModel], location: tuple[str, ...]) -> type[BaseModel] | None:
    """The model that the keys below `location` belong to."""
    current: type[BaseModel] | None = model
    skip = False
    for part in location:
        if skip:  # the key of a mapping such as paths./ws
            skip = False
            continue
        if current is None or part not in current.model_fields:
            return None
        annotation = current.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        skip = str(annotation).startswith("dict")
    return current


def _meaning(owner: type[BaseModel] | None, location: tuple[str, ...]) -> str:
    for part in reversed(location):
        if owner and part in owner.model_fields:
            return _first_sentence(owner.model_fields[part].description)
    return ""


def _first_sentence(text: str | None) -> str:
    flat = " ".join((text or "").split())
    for end in range(len(flat)):
        if flat[end : end + 2] in (". ", ".") and flat[:end] not in ("s",):
            return flat[: end + 1]
    return flat


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def _plain(data: Any) -> Any:
    """Ruamel's commented containers and scalars as plain ones, which strict validation wants."""
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_plain(v) for v in data]
    if isinstance(data, ScalarBoolean):  # an int to Python
        return bool(data)
    for kind in (int, float, str):
        if isinstance(data, kind) and type(data) not in (kind, bool):
            return kind(data)
    return data


def _flat(data: dict[str, Any], before: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in data.items():
        keys += _flat(value, f"{before}{key}.") if isinstance(value, dict) and value else [f"{before}{key}"]
    return keys


def _show(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
