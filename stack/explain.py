"""Pydantic's errors as sentences: what is wrong, what is allowed, and the nearest right word."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ValidationError

from stack import model


def sentences(kind: type[BaseModel], error: ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key, sentence) for each thing that is wrong with the data of a model of this kind."""
    for location, details in groupby(error.errors(), _location):
        for detail in _united(list(details)):
            yield _explain(kind, location, detail)


def key_path(key: str) -> tuple[str, ...]:
    """("paths", "/a.b", "timeout") from "paths./a.b.timeout": only the ends of a key are free of dots."""
    if key.startswith("paths."):
        path, _, last = key.removeprefix("paths.").rpartition(".")
        return ("paths", path, last)
    return tuple(key.split("."))


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
            return location, f"unknown key.{nearest(location[-1], known)} Allowed: {', '.join(known)}"
        case "missing":
            return location, f"missing, and it has no default. {_meaning(kind, location)}"
        case "literal_error":
            allowed = detail["ctx"]["expected"].replace("'", "")
            near = nearest(str(given), allowed.replace(" or ", ", ").split(", "))
            return location, f"{_as_written(given)} is not one of these.{near} Allowed: {allowed}"
        case "value_error":
            first, _, rest = str(detail["ctx"]["error"]).partition(": ")
            if rest and " " not in first:
                return (*location, *key_path(first)), rest
            return location, str(detail["ctx"]["error"])
    form = _FORMS.get(detail.get("ctx", {}).get("pattern") or pattern(_annotation(owner, location)))
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


def pattern(kind: Any) -> str:
    """The regular expression of one of the model's kinds of text; empty for other kinds."""
    return next((str(part.pattern) for part in get_args(kind) if getattr(part, "pattern", None)), "")


_FORMS = {
    pattern(model.Size): "a whole number and K, M or G, such as 512M",
    pattern(model.UrlPath): "a path of letters, digits, - . _ ~ that starts with /, such as /api/v2",
    pattern(model.AbsolutePath): "an absolute path of letters, digits, - . _ such as /var/data",
    pattern(model.HostName): "small letters, digits, - and dots, such as shop.example.com",
    pattern(model.VariableName): "letters, digits and _, not a digit first, such as API_KEY",
    pattern(model.ServiceName): "small letters, digits and -, at most 32, a letter first, such as worker-2",
    pattern(model.ConnectionLimit): "a number such as 128, `observe 128` to log only, or off",
    pattern(model.RateLimit): "a rate such as 20/s or 10/min, `observe 20/s` to log only, or off",
    pattern(model.PackageName): "the name of a Debian package, such as libpq5",
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


def nearest(word: str, known: list[str]) -> str:
    """`gunicorn` is as near to gunicorn-sync as a word can be, though uvicorn has more of its letters."""
    if not word:
        return ""
    low = word.lower()

    def likeness(candidate: str) -> tuple[float, float]:
        whole, start = (
            difflib.SequenceMatcher(None, low, c).ratio() for c in (candidate.lower(), candidate[: len(low)].lower())
        )
        return max(whole, start), whole

    best = max(known, key=likeness, default="")
    return f" Did you mean {best!r}?" if best and likeness(best)[0] >= 0.6 else ""
