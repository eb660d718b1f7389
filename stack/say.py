"""What a verb tells the person who typed it: one line a step, with the time it took."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from stack import logs
from stack.errors import Failed
from stack.load import SiteError

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


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def ended(run: Callable[[], int | None]) -> int:
    """Runs a verb; its exit code. What fails ends in sentences: 2 for bad input, 1 for what could not be done, 130 interrupted."""
    # A closed terminal or a cancelled job is an interruption like any other: what was begun is undone.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return run() or 0
    except SiteError as error:
        for problem in error.problems:
            errors.print(f"[red]error:[/] {escape(str(problem))}")
        plural = "s" if len(error.problems) != 1 else ""
        errors.print(
            f"{len(error.problems)} problem{plural}; nothing was started or changed. Every setting: docs/settings.md"
        )
        return 2
    except Failed as failure:
        for line in failure.log:
            errors.print(f"  | {line}", markup=False)
        for sentence in str(failure).splitlines():
            errors.print(f"[red]error:[/] {escape(sentence)}")
        return 1
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
