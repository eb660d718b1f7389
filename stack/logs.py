"""Logs of apps, cut to what their developers wrote. On hosts, too (ansible/module_utils/ links here): nothing but the
standard library."""

from __future__ import annotations

import json
import re


def without_library_frames(log: list[str]) -> list[str]:
    """A log whose tracebacks keep only frames of the app's own code: a crashing worker's reason otherwise scrolls away
    behind forty lines of the gateway's."""
    kept, inside = [], False
    for line in log:
        if re.match(r' +File ".*", line \d+', line):
            inside = bool(re.match(r' +File "(/venv/|/usr/|<frozen)', line))
        elif not line.startswith("    "):
            inside = False
        if not inside:
            kept.append(line)
    return kept


def of_request(log: list[str], request_id: str) -> list[str]:
    """The lines that carry the id, each with the traceback that follows it."""
    kept, inside, raised = [], False, False
    for line in log:
        if request_id in line:
            inside, raised = True, False
        elif inside:
            begins = line.startswith("Traceback (")
            more = re.match(r"\s|$|During handling of the above|The above exception was", line)
            inside = begins or bool(more) or raised  # the exception itself is not indented
            raised = begins or bool(raised and more)
        if inside:
            kept.append(line)
    return kept


def request(line: str) -> tuple[str, int, str] | None:
    """A line of the edge's access log (nginx/snippets/access-log.conf) for people: the app that it concerns, "edge" where no
    app was asked, the status, and a text; None where the line is something else."""
    if not line.startswith('{"time":'):
        return None
    try:
        of = json.loads(line)
        took = f"{float(of['request_time']) * 1000:.0f} ms"
        inside = re.search(r"app;dur=([0-9.]+)", of["app_time"])
        tries = re.split(" : |, ", of["upstream_status"])  # the colon: nginx/snippets/retry.conf asked once more
        asked = [
            f"{float(inside[1]):.0f} in the app" if inside else "",
            f"asked {len(tries)} times: {', '.join(tries)}" if len(tries) > 1 else "",
        ]
        more = f" ({', '.join(part for part in asked if part)})" if any(asked) else ""
        said = f"{of['time'][11:19]} {of['status']} {of['method']} {of['uri']} {took}{more}"
        return of["app"] or "edge", int(of["status"]), said
    except (KeyError, ValueError, TypeError):
        return None
