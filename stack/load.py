"""Reading what people wrote: app folders and one environment file -> a checked `Site`, or every problem at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean

from stack import model, sizing, timeouts
from stack.gateways import Gateway
from stack.model import RESERVED_NAMES, App, Environment

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
                    f"no such environment.{_nearest(env, known)} Allowed: {', '.join(known) or 'none, until this file is there'}",
                )
            ]
        )
    source = _Source(environment_file, root)
    problems += source.problems
    environment = None if source.problems else _validate(Environment, source.data, source.problem, problems)

    apps: dict[str, AppPlan] = {}
    layers: dict[str, _Layers] = {}
    written = source.data.get("apps")
    overrides: dict[str, Any] = written if isinstance(written, dict) else {}
    folders = sorted(p.parent for p in (root / "apps").glob("*/app.yml"))
    for folder in folders:
        layers[folder.name] = _Layers(_Source(folder / "app.yml", root), source, overrides.get(folder.name))
        plan = _load_app(folder, root, layers[folder.name], problems)
        if plan:
            apps[plan.name] = plan
    if not folders:
        problems.append(Problem("apps/", "", "no app here: an app is a folder with an app.yml"))
    for path in sorted([*(root / "apps").glob("*/app.yaml"), *(root / "environments").glob("*.yaml")]):
        problems.append(Problem(_show(path, root), "", f"nothing reads this name. Rename it to {path.stem}.yml"))
    for name in overrides:
        if name not in {f.name for f in folders}:
            problems.append(
                source.problem(("apps", str(name)), f"no such app.{_nearest(str(name), [f.name for f in folders])}")
            )

    if environment:
        for violation in timeouts.of_edge(environment):
            problems.append(source.problem(tuple(violation.key.split(".")), violation.sentence))
        _check_apps_together(environment, apps, layers, problems)
    if problems or environment is None:
        raise SiteError(problems)
    return Site(root, env, environment, apps, dict.fromkeys(_flat(source.data), source.name))


def _load_app(folder: Path, root: Path, layers: _Layers, problems: list[Problem]) -> AppPlan | None:
    source, override = layers.app, layers.override
    before = len(problems)
    if reason := _unfit_name(folder.name):
        problems.append(Problem(source.name, "", reason))
    if not (folder / "requirements.txt").is_file():
        problems.append(
            Problem(
                source.name,
                "",
                f"no requirements.txt beside it: list the app's packages in {_show(folder, root)}/requirements.in and type: make lock",
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
    if (
        not (folder / f"{module}.py").is_file()
        and not (folder / module).is_dir()
        and not (folder / "src" / module).exists()
    ):
        have = sorted(p.stem for p in folder.glob("*.py"))
        problems.append(
            layers.problem(
                ("entry",),
                f"no module {module!r} in {_show(folder, root)}/.{_nearest(module, have)} Write module:attribute, for example app:app",
            )
        )
    for name in app.processes:
        if f"{folder.name}-{name}" in RESERVED_NAMES:
            problems.append(layers.problem(("processes", name), "this service name is taken by the stack"))
    if len(problems) > before:
        return None
    return AppPlan(folder.name, folder, app, app.chosen_gateway, sizing.workers(app), layers.origins())


def _unfit_name(name: str) -> str | None:
    if not re.fullmatch(_pattern(model.ServiceName), name):
        return f"an app's folder is its host name in the stack. Allowed: small letters, digits and -, at most 32, starting with a letter; not {name!r}"
    if name in RESERVED_NAMES:
        return f"the name {name!r} is taken by the stack itself. Rename the folder"
    return None


def _check_apps_together(
    environment: Environment, apps: dict[str, AppPlan], layers: dict[str, _Layers], problems: list[Problem]
) -> None:
    routes: dict[tuple[str | None, str], str] = {}
    locations: dict[tuple[str | None, str], AppPlan] = {}
    services: dict[str, str] = {name: name for name in apps}
    volumes: dict[str, str] = {}
    for plan in apps.values():
        source = layers[plan.name]
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
            if services.setdefault(service, plan.name) != plan.name:
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
        data: Any = {}
        try:
            data = YAML(typ="rt").load(path.read_text("utf-8"))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = " ".join(str(part) for part in (error.context, error.problem) if part)
            self._unreadable(f"not valid YAML: {text.splitlines()[0]}", mark.line + 1 if mark else None)
        except ReaderError as error:
            line = path.read_text("utf-8").count("\n", 0, error.position) + 1
            self._unreadable(f"not valid YAML: the character U+{error.character:04X} may not stand in it", line)
        except UnicodeDecodeError as error:
            self._unreadable(f"not UTF-8 text: {error.reason}", error.object.count(b"\n", 0, error.start) + 1)
        except (ValueError, KeyError, RecursionError) as error:  # 2020-13-45 is no date, `!!int x` no number
            self._unreadable(f"not valid YAML: {error}")
        except OSError as error:
            self._unreadable(f"cannot be read: {error.strerror}")
        if isinstance(data, dict):
            self.data = data
        elif data is not None:
            self._unreadable("must be a mapping of keys to values")

    def _unreadable(self, message: str, line: int | None = None) -> None:
        self.problems.append(Problem(self.name, "", message, line))

    def problem(self, key: tuple[str, ...], message: str) -> Problem:
        return Problem(self.name, ".".join(key), message, self._line(key))

    def _line(self, key: tuple[str, ...]) -> int | None:
        node: Any = self.data
        line = None
        for part in key:
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                line, node = node.lc.item(int(part))[0] + 1, node[int(part)]  # type: ignore[attr-defined]
            elif isinstance(node, dict) and (same := [k for k in node if _key_text(k) == part]):
                with suppress(AttributeError, KeyError, TypeError):  # what `<<: *anchor` brought has no line here
                    line = node.lc.key(same[0])[0] + 1  # type: ignore[attr-defined]
                node = node[same[0]]
            else:
                break
        return line


class _Layers:
    """Where an app's values were written: its app.yml, and the environment's `apps.<name>` above it."""

    def __init__(self, app: _Source, environment: _Source, override: Any) -> None:
        self.app = app
        self._environment = environment
        self._name = Path(app.name).parent.name
        self.override: dict[str, Any] = override if isinstance(override, dict) else {}

    def problem(self, key: tuple[str, ...], message: str) -> Problem:
        """A problem of the file that the key's value came from."""
        if key[0] in map(_key_text, self.override):
            return self._environment.problem(("apps", self._name, *key), message)
        return self.app.problem(key, message)

    def origins(self) -> dict[str, str]:
        """Dotted key -> file; a whole value of the upper layer hides all of the lower one."""
        below = {key: value for key, value in self.app.data.items() if key not in self.override}
        return dict.fromkeys(_flat(below), self.app.name) | dict.fromkeys(_flat(self.override), self._environment.name)


# --- from Pydantic's errors to sentences ------------------------------------------------------------------------------


def _validate(
    kind: type[M], data: dict[str, Any], problem: Callable[[tuple[str, ...], str], Problem], problems: list[Problem]
) -> M | None:
    """`data` as a model of this kind, or None after adding a problem for each thing wrong with it."""
    try:
        return kind.model_validate(_plain(data))
    except ValidationError as error:
        problems += sorted(
            (
                problem(*_explain(kind, location, detail))
                for location, details in groupby(error.errors(), _location)
                for detail in _united(list(details))
            ),
            key=lambda found: found.line or 0,
        )
        return None


def _location(detail: Any) -> tuple[str, ...]:
    """The keys that lead to an error, less what Pydantic adds: a union's member, and the mark of a mapping's key."""
    own = ("[key]", "int", "str", "float")
    parts = [str(part) for part in detail["loc"]]
    return tuple(p for p in parts if p not in own and not p.startswith(("function-", "constrained-", "literal[")))


def _united(details: list[Any]) -> list[Any]:
    """The errors of one key; those of a union's members (an integer or the word auto) as one."""
    words = [detail for detail in details if detail["type"] == "literal_error"]
    others = [detail for detail in details if detail["type"] != "literal_error"]
    return [{**others[0], "or": words[0]["ctx"]["expected"]}] if words and others else details


_WORDS = {
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping of keys to values",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "list_type": "should be a list",
    "model_type": "should be a mapping of keys to values",
    "string_too_short": "should not be empty",
    "string_type": "should be text",
    "too_short": "should not be empty",
}


def _explain(kind: type[BaseModel], location: tuple[str, ...], detail: Any) -> tuple[tuple[str, ...], str]:
    """The key of a Pydantic error, and its sentence."""
    given, owner = detail.get("input"), _model_at(kind, location[:-1])
    match detail["type"]:
        case "extra_forbidden":
            known = list(owner.model_fields) if owner else []
            return location, f"unknown key.{_nearest(location[-1], known)} Allowed: {', '.join(known)}"
        case "missing":
            return location, f"missing, and it has no default. {_meaning(kind, location)}"
        case "literal_error":
            allowed = detail["ctx"]["expected"].replace("'", "")
            near = _nearest(str(given), allowed.replace(" or ", ", ").split(", "))
            return location, f"{_as_written(given)} is not one of these.{near} Allowed: {allowed}"
        case "value_error":
            first, _, rest = str(detail["ctx"]["error"]).partition(": ")
            if rest and " " not in first:
                return (*location, *_key_path(first)), rest
            return location, str(detail["ctx"]["error"])
    form = _FORMS.get(detail.get("ctx", {}).get("pattern") or _pattern(_annotation(owner, location)))
    if detail["type"] == "string_pattern_mismatch" or form:
        text = f"{_as_written(given)} does not fit."
    else:
        text = _WORDS.get(detail["type"], detail["msg"].replace("Input should", "should"))
        text += f", or {detail['or']}".replace("'", "") if "or" in detail else ""
        text += f", not {_as_written(given)}" if given not in ("", []) else ""
        text += ": put it in quotes." if _needs_quotes(detail) else "."
    return location, f"{text} {f'Allowed: {form}' if form else _meaning(kind, location)}".rstrip()


def _needs_quotes(detail: Any) -> bool:
    return detail["type"] == "string_type" and not isinstance(detail["input"], dict | list | None)


def _as_written(value: Any) -> str:
    """A value about as YAML shows it, on one line."""
    text = json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _pattern(kind: Any) -> str:
    """The regular expression of one of the model's kinds of text; empty for other kinds."""
    return next((str(part.pattern) for part in get_args(kind) if getattr(part, "pattern", None)), "")


_FORMS = {
    _pattern(model.Size): "a whole number and K, M or G, such as 512M",
    _pattern(model.UrlPath): "a path of letters, digits, - . _ ~ that starts with /, such as /api/v2",
    _pattern(model.AbsolutePath): "an absolute path of letters, digits, - . _ such as /var/data",
    _pattern(model.HostName): "small letters, digits, - and dots, such as shop.example.com",
    _pattern(model.VariableName): "letters, digits and _, not a digit first, such as API_KEY",
    _pattern(model.ServiceName): "small letters, digits and -, at most 32, a letter first, such as worker-2",
    _pattern(model.PackageName): "the name of a Debian package, such as libpq5",
}
"""What fits each of the model's patterns, in words."""


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


def _annotation(owner: type[BaseModel] | None, location: tuple[str, ...]) -> Any:
    """The last key's own type with its limits, where it is a field."""
    field = owner.model_fields.get(location[-1]) if owner and location else None
    return Annotated[field.annotation, *field.metadata] if field and field.metadata else None


def _meaning(kind: type[BaseModel], location: tuple[str, ...]) -> str:
    """The first sentence about the nearest setting that contains this place."""
    for end in range(len(location), 0, -1):
        owner = _model_at(kind, location[: end - 1])
        if owner and location[end - 1] in owner.model_fields:
            return _first_sentence(owner.model_fields[location[end - 1]].description)
    return ""


def _first_sentence(text: str | None) -> str:
    flat = re.sub(r"^s\. ", "Seconds: ", " ".join((text or "").split()))
    for end in range(len(flat)):
        if flat[end : end + 2] in (". ", "."):
            return flat[: end + 1]
    return flat


def _nearest(word: str, known: list[str]) -> str:
    """`gunicorn` is as near to gunicorn-sync as a word can be, though uvicorn has more of its letters."""
    if not word:
        return ""
    low = word.lower()

    def likeness(candidate: str) -> tuple[float, float]:
        whole, start = (difflib.SequenceMatcher(None, low, c).ratio() for c in (candidate, candidate[: len(low)]))
        return max(whole, start), whole

    best = max(known, key=likeness, default="")
    return f" Did you mean {best!r}?" if best and likeness(best)[0] >= 0.6 else ""


def _key_text(key: Any) -> str:
    """A mapping's key, which YAML lets be anything, as the file shows it."""
    return json.dumps(key) if key is None or isinstance(key, bool) else str(key)


def _plain(data: Any) -> Any:
    """Ruamel's commented containers and scalars as plain ones, which strict validation wants."""
    if isinstance(data, dict):
        return {_key_text(k): _plain(v) for k, v in data.items()}
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
