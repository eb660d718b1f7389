"""docs/settings.md and the editors' JSON Schemas, from the models."""

from __future__ import annotations

import json
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stack import gateways
from stack.model import App, Environment, Strict

HEADER = """# Settings

Generated from `stack/model.py` by `make reference`; do not edit. `make show` prints the effective values of this clone,
where each came from and why.

A value has at most three layers, each replacing the one before as a whole: the default below, `apps/<name>/app.yml`,
and `environments/<env>.yml` under `apps.<name>`. An unknown key is an error.

Sizes are binary: `64K`, `512M`, `2G`. Times are seconds.
"""


def files() -> dict[str, str]:
    """Path -> text of every generated page."""
    return {
        "docs/settings.md": settings(),
        "docs/schema/app.json": _schema(App),
        "docs/schema/environment.json": _schema(Environment, overrides=App),
    }


def settings() -> str:
    """The reference page of every setting."""
    sections: dict[type[BaseModel], str] = {}
    text = HEADER
    for model, title in ((App, "apps/&lt;name&gt;/app.yml"), (Environment, "environments/&lt;env&gt;.yml")):
        text += f"\n## {title}\n\n{_table(model, sections)}"
        while pending := [m for m, done in sections.items() if done != "done"]:
            nested = pending[0]
            where = sections[nested]
            sections[nested] = "done"
            about = " ".join((nested.__doc__ or "").split())
            text += f"\n### {where}\n\n{about}\n\n{_table(nested, sections, where)}"
    text += "\n## Gateways\n\nWhat each is good for, and how it stops: [gateways.md](gateways.md).\n\n| gateway | interface | takes a second request while the first waits | ends a stuck request | pings WebSockets | the prefix in its path |\n|---|---|---|---|---|---|\n"
    how = {"process": "another worker only", "thread": "another thread", "loop": "the event loop"}
    for g in gateways.GATEWAYS.values():
        text += f"| `{g.name}` | {g.interface} | {how[g.concurrency]} | {'`timeouts.gateway`' if g.enforces_timeout else 'no: Nginx answers 504, the worker goes on'} | {'every `timeouts.ping`' if g.pings else 'no'} | {'stripped' if g.strip_prefix else 'kept'} |\n"
    return text


def _table(model: type[BaseModel], sections: dict[type[BaseModel], str], where: str = "") -> str:
    rows = "| key | value | default | meaning |\n|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, Strict) and part not in sections:
                mapping = get_origin(field.annotation) is dict
                sections[part] = f"{where}.{name}".lstrip(".").replace("`", "") + (".&lt;name&gt;" if mapping else "")
        if field.default is PydanticUndefined:
            default = "**required**"
        elif isinstance(field.default, Strict):
            default = "see below"
        else:
            default = f"`{json.dumps(field.default)}`".replace("`null`", "not set")
        meaning = _outside_code(" ".join((field.description or "See below.").split()).replace("|", "\\|"))
        rows += f"| `{name}` | {_kind(model, name)} | {default} | {meaning} |\n"
    return rows


def _outside_code(text: str) -> str:
    """`<` as text; between backticks Markdown shows it as it is."""
    return re.sub(r"`[^`]*`|<", lambda found: found[0].replace("<", "&lt;") if found[0] == "<" else found[0], text)


def _parts(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return (
        [annotation] + [p for a in arguments for p in _parts(a)]
        if arguments and get_origin(annotation) is not Literal
        else [annotation]
    )


def _kind(model: type[BaseModel], name: str) -> str:
    annotation = model.model_fields[name].annotation
    schema = model.model_json_schema()["properties"][name]
    return _kind_of(annotation, schema)


def _kind_of(annotation: Any, schema: dict[str, Any]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:  # its limits stand in the schema
        return _kind_of(get_args(annotation)[0], schema)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(v)}`".replace('"', "") for v in get_args(annotation))
    if origin in (Union, types.UnionType):
        options = [
            (a, s)
            for a, s in zip(get_args(annotation), schema.get("anyOf", [{}] * 9), strict=False)
            if a is not type(None)
        ]
        return " or ".join(_kind_of(a, s) for a, s in options)
    if origin is list:
        return f"list of {_kind_of(get_args(annotation)[0], schema.get('items', {}))}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    bounds = (
        f" {'&gt; ' if 'exclusiveMinimum' in schema else ''}{low:g} to {schema['maximum']:g}"
        if low is not None and "maximum" in schema
        else f" from {low:g}"
        if low is not None
        else ""
    )
    names = {bool: "true, false", int: "integer", float: "number", str: "text"}
    kind = names.get(annotation, "text") if not str(schema.get("pattern", "")).endswith("[KMG]$") else "size"
    return kind + bounds


def _schema(model: type[BaseModel], overrides: type[BaseModel] | None = None) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema()
    if overrides:  # `apps.<name>` takes any key of an app.yml, and needs none
        app = overrides.model_json_schema()
        schema["$defs"] |= app.pop("$defs") | {overrides.__name__: {**app, "required": []}}
        names = schema["properties"]["apps"]["patternProperties"]
        names |= {name: {"$ref": f"#/$defs/{overrides.__name__}"} for name in names}
    for owner in (schema, *schema["$defs"].values()):
        for setting in owner["properties"].values():
            if "patternProperties" in setting:  # a name of another form is an error
                setting["additionalProperties"] = False
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
