"""One YAML file as people wrote it: its data, and the line of every key for messages about it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean


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


class Source:
    """One YAML file: its data, and line numbers for messages about it."""

    def __init__(self, path: Path, root: Path) -> None:
        self.name = show(path, root)
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
            elif isinstance(node, dict) and (same := [k for k in node if key_text(k) == part]):
                with suppress(AttributeError, KeyError, TypeError):  # what `<<: *anchor` brought has no line here
                    line = node.lc.key(same[0])[0] + 1  # type: ignore[attr-defined]
                node = node[same[0]]
            else:
                break
        return line


class Layers:
    """Where an app's values were written: its app.yml, and the environment's `apps.<name>` above it."""

    def __init__(self, app: Source, environment: Source, override: Any) -> None:
        self.app = app
        self._environment = environment
        self._name = Path(app.name).parent.name
        self.override: dict[str, Any] = override if isinstance(override, dict) else {}

    def problem(self, key: tuple[str, ...], message: str) -> Problem:
        """A problem of the file that the key's value came from."""
        if key[0] in map(key_text, self.override):
            return self._environment.problem(("apps", self._name, *key), message)
        return self.app.problem(key, message)

    def origins(self) -> dict[str, str]:
        """Dotted key -> file; a whole value of the upper layer hides all of the lower one."""
        below = {key: value for key, value in self.app.data.items() if key not in self.override}
        return dict.fromkeys(flat(below), self.app.name) | dict.fromkeys(flat(self.override), self._environment.name)


def key_text(key: Any) -> str:
    """A mapping's key, which YAML lets be anything, as the file shows it."""
    return json.dumps(key) if key is None or isinstance(key, bool) else str(key)


def plain(data: Any) -> Any:
    """Ruamel's commented containers and scalars as plain ones, which strict validation wants."""
    if isinstance(data, dict):
        return {key_text(k): plain(v) for k, v in data.items()}
    if isinstance(data, list):
        return [plain(v) for v in data]
    if isinstance(data, ScalarBoolean):  # an int to Python
        return bool(data)
    for kind in (int, float, str):
        if isinstance(data, kind) and type(data) not in (kind, bool):
            return kind(data)
    return data


def flat(data: dict[str, Any], before: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in data.items():
        keys += flat(value, f"{before}{key}.") if isinstance(value, dict) and value else [f"{before}{key}"]
    return keys


def show(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
