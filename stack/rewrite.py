"""Changing values in a YAML file that people wrote: only these values' characters change, and new keys get a line of their own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stack.errors import Failed
from stack.source import plain


def rewrite(text: str, values: Mapping[str, str | int | float], behind: Sequence[str]) -> str:
    """The text with these top-level keys set; those that are not there yet follow the first key of `behind` that is, else they
    come last. Raises Failed where that does not give the same data and these values: the file uses YAML's rarer means, and is
    for people to change."""
    data = YAML().load(text)
    lines = text.splitlines(keepends=True)
    places = {key: data.lc.value(key) for key in values if key in data}
    for key, (row, column) in places.items():
        old = lines[row][column:]
        written = next((w for w in _ways(data[key]) if old.startswith(w)), None)
        if written is None:
            raise Failed(f"{key}: {old.strip()} is written in a way that is for people to change")
        lines[row] = lines[row][:column] + _text(values[key]) + old[len(written) :]
    new = [f"{key}: {_text(value)}\n" for key, value in values.items() if key not in data]
    row = next((data.lc.key(key)[0] for key in behind if key in data), len(lines) - 1)
    if not lines[row].endswith("\n"):
        lines[row] += "\n"
    changed = "".join([*lines[: row + 1], *new, *lines[row + 1 :]])
    try:
        same = plain(YAML().load(changed)) == {**plain(data), **values}
    except YAMLError:
        same = False
    if not same:
        raise Failed("this file is written in a way that is for people to change")
    return changed


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _ways(value: Any) -> list[str]:
    """How a plain scalar is written."""
    text = str(value)
    return [json.dumps(text), f"'{text}'", text]


def diff(before: str, after: str, name: str) -> list[str]:
    """Lines of a unified diff; none where nothing changes."""
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=1))
