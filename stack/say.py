"""What a verb tells the person who typed it: one line a step, with the time it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from stack import logs

# A pipe or a log has no width of its own; 80 columns would cut URLs.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS = ["cyan", "magenta", "green", "blue", "bright_cyan", "bright_magenta", "bright_green", "bright_blue"]


class _Say:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        with self._lock:
            console.print(f"  {text}", markup=False)

    def log(self, service: str, text: str, whole: bool = False) -> None:
        """A line of a service's log, each app's name in a colour of its own; the edge's, unless whole, as requests of the app."""
        if not whole and (told := logs.request(text)):
            service, status, text = told
            style = "red" if status >= 500 else "yellow" if status >= 400 else "dim"
        else:
            style = ""
        colour = COLOURS[sum(service.encode()) % len(COLOURS)] if service != "edge" else "white"
        with self._lock:
            console.print(Text(f"{service:<12} ", colour).append(text, style))

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Says what begins, and how long it took once it is done."""
        start = time.monotonic()
        self.line(f"{text} ...")
        yield
        self.line(f"{text}: {time.monotonic() - start:.0f} s")


say = _Say()
