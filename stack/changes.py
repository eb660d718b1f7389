"""Two versions of a service's definition -> what changed, for the person who typed `make up`."""

from __future__ import annotations

from typing import Any

MOST = 3
"""What is said of one service; beyond it, how many more there are."""


def of(before: dict[str, Any], after: dict[str, Any]) -> str:
    """As in "its files, --workers 4 -> 6, memory 512M -> 1G"; empty where nothing of it is worth a word."""
    was, now = _flat(before), _flat(after)
    if ("GATEHOUSE_DEV" in was) != ("GATEHOUSE_DEV" in now):
        return "for editing" if "GATEHOUSE_DEV" in now else "as it is elsewhere"
    said = []
    for key in sorted({*was, *now}, key=lambda key: (key != "image", key)):
        if was.get(key) == now.get(key) or key in ("GATEHOUSE_RELEASE", "GATEHOUSE_DEV"):
            continue
        name = key.rpartition(".")[2]
        if key == "image":
            said.append("its files")
        elif key == "labels":
            said.append("a secret")
        elif key not in was:
            said.append(f"{name} {now[key]}".rstrip())
        elif key not in now:
            said.append(f"no {name}")
        else:
            said.append(f"{name} {was[key]} -> {now[key]}")
    return ", ".join(said[:MOST]) + (f" and {len(said) - MOST} more" if len(said) > MOST else "")


def _flat(service: dict[str, Any], before: str = "") -> dict[str, str]:
    """Dotted key -> value; arguments by their flags, variables by their names."""
    flat: dict[str, str] = {}
    for key, value in service.items():
        if key == "command":
            flag = "command"
            for part in value:
                if part.startswith("-"):
                    flag = part
                    flat[flag] = ""
                else:
                    flat[flag] = f"{flat.get(flag, '')} {part}".strip()
        elif key == "environment":
            flat |= dict(variable.split("=", 1) for variable in value)
        elif isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = str(value)
    return flat
