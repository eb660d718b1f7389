"""The one exception that ends a verb."""

from __future__ import annotations


class Failed(Exception):
    """A verb cannot go on: one sentence for people, and the lines of a log that show why."""

    def __init__(self, sentence: str, log: list[str] | None = None) -> None:
        super().__init__(sentence)
        self.log = log or []
        if log:  # a traceback, of a test say, shows them too
            self.add_note("\n".join(log))
