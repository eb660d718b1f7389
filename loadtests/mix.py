"""The requests that loadtests/tune.py asks an app: from a file, or as clients asked them of the edge.

    # apps/shop/mix.yml
    requests:
      - {path: /, weight: 5}
      - {path: "/search?q=lamp", weight: 2}
      - {path: /cart, method: POST, body: '{"item": 7}', headers: {Content-Type: application/json}}

Paths are the app's own, without its prefix.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from stack.edge import OURS
from stack.explain import sentences
from stack.load import AppPlan, SiteError
from stack.model import Strict
from stack.source import Source, plain

MOST = 50
"""Different requests that are recorded: the most frequent."""
LEAST = 20
"""Requests in the log below which it says nothing of the app's clients."""


class Request(Strict):
    """One kind of request."""

    path: Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]*$")]
    """Below the app's prefix, with its query: /search?q=lamp."""
    weight: Annotated[float, Field(gt=0)] = 1
    """How often, compared with the others."""
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    body: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """What the app answers. Not set: anything below 400."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def wrong(self, status: int) -> bool:
        return status != self.status if self.status else status >= 400


class Mix(Strict):
    """What is asked."""

    requests: Annotated[list[Request], Field(min_length=1)]


def read(file: Path, root: Path) -> list[Request]:
    """A mix file's requests. Raises SiteError with its problems."""
    source = Source(file, root)
    problems = source.problems
    if not problems:
        try:
            return Mix.model_validate(plain(source.data)).requests
        except ValidationError as error:
            problems = [source.problem(*wrong) for wrong in sentences(Mix, error)]
    raise SiteError(problems)


def recorded(lines: Iterable[str], plan: AppPlan) -> list[Request]:
    """What clients asked the app, from the edge's access log: answered GETs, the most frequent first. Not its health, and nothing
    that streams or upgrades, whose length is no measure; none where there were few."""
    long = [
        f"{plan.prefix}{path}" for path, behaviour in plan.app.paths.items() if behaviour.stream or behaviour.websocket
    ]
    found: Counter[str] = Counter()
    for line in lines:
        try:
            said = json.loads(line)
            uri = str(said["uri"])
            counts = said["app"] == plan.name and said["method"] == "GET" and int(said["status"]) < 400
        except (ValueError, KeyError, TypeError):
            continue  # of the error log, or cut off
        ours = said.get("user_agent") == OURS or uri.partition("?")[0] == plan.health_url
        if counts and not ours and uri.startswith(f"{plan.prefix}/") and not uri.startswith(tuple(long)):
            found[uri.removeprefix(plan.prefix)] += 1
    if found.total() < LEAST:
        return []
    return [Request(path=path, weight=count) for path, count in found.most_common(MOST)]
