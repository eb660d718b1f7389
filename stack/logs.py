"""Logs of apps, cut to what their developers wrote. On hosts, too (ansible/module_utils/ links here): nothing but the
standard library."""

from __future__ import annotations

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
