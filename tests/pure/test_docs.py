"""The generated pages are current, every setting is explained, and what pages point to or tell people to type is there.
`make reference` writes the generated ones anew."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from stack import cli, docs
from stack.model import Acme, App, Edge, EdgeTimeouts, Environment, Limits, Process, Strict, Timeouts, Tls
from stack.model import Path as UrlBehaviour
from tests.conftest import REPOSITORY
from tests.pure.conftest import ASGI, LOCAL, WSGI

MODELS: list[type[BaseModel]] = [
    App,
    Timeouts,
    Limits,
    UrlBehaviour,
    Process,
    Environment,
    Tls,
    Acme,
    Edge,
    EdgeTimeouts,
]
SITES = [REPOSITORY, REPOSITORY / "tests/rendered/site"]
SCHEMAS = {
    "app": [p for site in SITES for top in ("apps", "examples") for p in sorted(site.glob(f"{top}/*/app.yml"))],
    "environment": [path for site in SITES for path in sorted(site.glob("environments/*.yml"))],
}


GENERATED = docs.files()


@pytest.mark.parametrize(("path", "text"), GENERATED.items())
def test_a_generated_page_is_current(path: str, text: str) -> None:
    assert (REPOSITORY / path).read_text("utf-8") == text, "type: make reference"


def test_no_model_is_forgotten_here() -> None:
    assert set(MODELS) == {model for model in Strict.__subclasses__() if model.__module__ == Strict.__module__}


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_has_a_meaning(model: type[BaseModel]) -> None:
    for name, setting in model.model_fields.items():
        text = setting.description or getattr(setting.annotation, "__doc__", None)
        assert text, f"{model.__name__}.{name}: write a docstring below it"
        assert text.strip().endswith("."), f"{model.__name__}.{name}: a sentence ends with a full stop"


def test_every_setting_is_on_the_page() -> None:
    page = docs.settings()
    for model in MODELS:
        for name in model.model_fields:
            assert f"\n| `{name}` | " in page
    assert "| text " not in page.replace("| text |", ""), "a limit on text: a number's kind was not recognised"


def test_code_on_the_page_is_not_escaped() -> None:
    assert "`make secret APP=<name> NAME=<NAME>`" in docs.settings()


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in SCHEMAS.items() for path in paths], ids=str)
def test_every_file_here_fits_the_schema_that_editors_check_it_with(kind: str, path: Path) -> None:
    validate(kind, path.read_text())


MARK = "# yaml-language-server: $schema="
WRITTEN = [p for of in ("apps/*/app.yml", "examples/*/app.yml", "environments/*.yml") for p in REPOSITORY.glob(of)]


@pytest.mark.parametrize("path", [path for path in WRITTEN if path.read_text().startswith(MARK)], ids=str)
def test_a_file_that_tells_editors_its_schema_leads_to_one(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert (path.parent / first.removeprefix(MARK)).resolve() in (REPOSITORY / "docs/schema").iterdir()


GOOD = {
    "numbers and switches as variables": ("app", WSGI + "env: {DEBUG: true, PORT: 8000}\n"),
    "workers as a word": ("app", ASGI + "workers: auto\n"),
    "workers as a number": ("app", ASGI + "workers: 3\n"),
    "an override of anything": ("environment", LOCAL + "apps: {shop: {replicas: 2, timeouts: {request: 5}}}\n"),
}


@pytest.mark.parametrize(("kind", "text"), GOOD.values(), ids=list(GOOD))
def test_what_the_loader_takes_editors_take(kind: str, text: str) -> None:
    validate(kind, text)


BAD = {
    "an unknown key": ("app", WSGI + "memroy: 1G\n"),
    "an unknown key below": ("app", WSGI + "timeouts: {requests: 1}\n"),
    "a path without /": ("app", WSGI + "paths: {ws: {}}\n"),
    "no entry": ("app", "interface: wsgi\n"),
    "a size of another form": ("app", WSGI + "memory: 1GB\n"),
    "an unknown key of an environment": ("environment", LOCAL + "domain: x\n"),
    "an unknown key of an override": ("environment", LOCAL + "apps: {shop: {replica: 2}}\n"),
    "a bad value of an override": ("environment", LOCAL + "apps: {shop: {timeouts: {request: soon}}}\n"),
}


@pytest.mark.parametrize(("kind", "text"), BAD.values(), ids=list(BAD))
def test_what_the_loader_refuses_editors_underline(kind: str, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(kind, text)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_one(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(kind))


def schema(kind: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(GENERATED[f"docs/schema/{kind}.json"])
    return made


def validate(kind: str, text: str) -> None:
    jsonschema.Draft202012Validator(schema(kind)).validate(YAML(typ="safe").load(text))


@pytest.mark.timeout(10)
def test_a_pattern_is_answered_at_once_by_an_editors_matcher() -> None:
    """Nested repetition takes such matchers exponential time: with 40 letters, for ever."""
    with pytest.raises(jsonschema.ValidationError):
        validate("app", WSGI + f"route: /{'a' * 60}!\nhost: {'a' * 60}!\nvolumes: {{a: /{'a' * 60}!}}\n")


# --- what pages point to, and what they say to type -------------------------------------------------------------------

PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "docs/results").glob("*.md")),
]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
VARIABLES = {*re.findall(r"\$\(([A-Z]+)\)", MAKEFILE), *re.findall(r"^#   ([A-Z]+)=", MAKEFILE, re.MULTILINE)}


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def links(text: str) -> set[str]:
    """Targets of links and pictures, Markdown's and HTML's, outside of code."""
    prose = re.sub(r"^( {4,}|```).*$|`[^`\n]*`", "", text, flags=re.MULTILINE)
    return {*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(r'\b(?:src|srcset|href)="([^"]+)"', prose)}


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text("utf-8")), link


def test_every_page_and_picture_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    left = [PAGES[0]]
    while left:
        page = left.pop()
        seen.add(page)
        if page.suffix == ".md":
            targets = {link.partition("#")[0] for link in links(page.read_text("utf-8")) if "://" not in link}
            left += [path for target in targets if target and (path := (page.parent / target).resolve()) not in seen]
    for path in [*PAGES, *(REPOSITORY / "docs/images").glob("*")]:
        assert path in seen, path


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command: code that begins with one we know, in blocks and within a line."""
    blocks = re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    fenced = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    within = [
        " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]
    for line in [*blocks, *fenced, *within]:
        for part in re.split(r" && |; ", re.sub(r"\s#.*| {3,}.*", "", line)):
            if re.match(
                r"(make [a-z]|ansible-playbook |(\.venv/bin/)?python -m |curl |sed -i |tests/\S+\.(sh|py)\b)", part
            ):
                yield shlex.split(part)


def test_commands_are_found() -> None:
    text = "`make up`,\n\n    make load    # the UI\n    cd ansible && ansible-playbook deploy.yml -x\n\n```sh\nmake down\n```\n`make it so`"
    assert list(commands(text)) == [
        ["make", "load"],
        ["ansible-playbook", "deploy.yml", "-x"],
        ["make", "down"],
        ["make", "up"],
        ["make", "it", "so"],
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page != REPOSITORY / "docs/settings.md"], ids=name_of)
def test_what_a_page_says_to_type_exists(page: Path) -> None:
    for words in commands(page.read_text("utf-8")):
        said = shlex.join(words)
        match words:
            case ["make", *rest]:
                for word in rest:
                    variable = re.match(r"([A-Z]+)=", word)
                    known = variable[1] in VARIABLES if variable else word in VERBS or word == ".venv/deploy"
                    assert known, said
            case [python, "-m", "stack", verb, *_] if python.endswith("python"):
                assert verb.replace("-", "_") in {command.name for command in cli.cli.registered_commands}, said
            case [python, "-m", module, *_] if python.endswith("python"):
                path = REPOSITORY / module.replace(".", "/")
                assert (
                    path.with_suffix(".py").exists() or (path / "__main__.py").exists() or module in ("pytest", "venv")
                ), said
            case ["ansible-playbook", *rest]:
                for playbook in (word for word in rest if word.endswith(".yml")):
                    assert (REPOSITORY / "ansible" / playbook).exists(), said
            case ["sed", "-i", _, path] | [path, *_] if path.startswith(("apps/", "tests/")):
                assert (REPOSITORY / path).exists(), said
