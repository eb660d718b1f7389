"""A load test's result: what was asked for, what came back, and how far it can be trusted. One JSON file a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from loadtests import hops, validity
from loadtests.hops import TOTAL, Capacity, Histogram, Route, Store
from loadtests.validity import Generator, Verdict

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """Everything that a report shows. Durations are ms, times seconds since the start."""

    name: str
    date: str
    """ISO 8601, UTC."""
    seconds: float
    """That it took, up to the last answer."""
    asked: dict[str, Any]
    """What was started: model, users, shape, ..."""
    routes: dict[str, Route]
    series: dict[int, dict[str, dict[str, list[float]]]]
    """Second -> route -> hop (TOTAL and failed among them) -> [requests, sum of ms]."""
    capacities: dict[str, Capacity]
    """App -> what it can have in work."""
    generator: Generator
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """App -> its effective settings, as `make show` prints them."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def every(self) -> Route:
        """All requests together."""
        every = Route()
        for name in hops.whole(self.routes):
            every.update(self.routes[name])
        return every

    @cached_property
    def total(self) -> Histogram:
        """How long they took."""
        return self.every.histograms.get(TOTAL, Histogram())

    @cached_property
    def verdict(self) -> Verdict:
        return validity.verdict(self.generator, self.total.percentile(95))

    @cached_property
    def busy(self) -> dict[str, hops.Busy]:
        """App -> how its gateway was used."""
        apps = sorted({route.app for route in self.routes.values() if route.app})
        of = {app: [r for r in self.routes.values() if r.app == app] for app in apps}
        return {app: hops.busy(of[app], self.seconds, self.capacities.get(app)) for app in apps}

    def write(self, file: Path) -> None:
        store = Store()
        store.routes, store.seconds = self.routes, self.series
        wire = store.ship(0)  # ages from 0: negative seconds
        facts = {
            "format": FORMAT,
            **{key: getattr(self, key) for key in ("name", "date", "seconds", "asked", "settings", "versions", "machine")},
            "capacities": {app: asdict(capacity) for app, capacity in self.capacities.items()},
            "routes": wire["routes"],
            "series": {-age: of for age, of in wire["ages"].items()},
            "generator": self.generator.wire(),
            "verdict": asdict(self.verdict),
            "busy": {app: {**asdict(busy), "share": busy.share, "sentence": busy.sentence} for app, busy in self.busy.items()},
            "summary": list(hops.rows(self.routes)),
        }  # fmt: skip
        file.write_text(json.dumps(facts) + "\n")

    @classmethod
    def read(cls, file: Path) -> Run:
        """Raises ValueError with a sentence when the file is no run."""
        try:
            facts = json.loads(file.read_text())
            if facts["format"] != FORMAT:
                raise ValueError(f"{file}: written by another version of Gatehouse (format {facts['format']})")
            store = Store()
            store.receive(
                {"routes": facts["routes"], "ages": {-int(s): of for s, of in facts["series"].items()}, "last": 0}, 0
            )
            return cls(
                **{key: facts[key] for key in ("name", "date", "seconds", "asked", "settings", "versions", "machine")},
                routes=store.routes,
                series=store.seconds,
                capacities={app: Capacity(**of) for app, of in facts["capacities"].items()},
                generator=Generator.read(facts["generator"]),
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file}: this is no run of a load test ({type(error).__name__}: {error})") from None
