"""What a run of the matrix found -> the tables of docs/compatibility.md. Pure: same outcomes, same text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

FEATURES: dict[str, tuple[str, ...]] = {
    "keep-alive": ("test_one_connection_serves_many_requests",),
    "streaming": (
        "test_events_arrive_one_by_one",
        "test_a_stream_can_be_left_early",
        "test_a_download_starts_before_it_is_complete",
        "test_an_upload_reaches_the_app_while_it_is_under_way",
    ),
    "chunked upload": ("test_echo_gives_a_chunked_body_back", "test_a_chunked_body_over_the_apps_limit_gets_413"),
    "WebSocket": ("test_a_websocket_echoes_text_and_bytes", "test_a_websocket_answers_pings"),
    "HTTP/1.0 client": ("test_a_client_of_http_1_0_is_served",),
    "HTTP/1.0 without Nginx": ("test_the_gateway_itself_serves_http_1_0",),
    "100-continue": ("test_a_client_that_expects_100_continue_gets_it",),
    "100-continue without Nginx": ("test_the_gateway_itself_says_100_continue",),
    "unix socket": ("test_it_can_listen_on_a_unix_socket",),
    "prefix": (
        "test_the_app_sees_the_address_in_the_browser",
        "test_the_app_builds_links_that_lead_back_to_it",
        "test_a_slash_too_many_does_not_lead_out_of_the_prefix",
        "test_encoded_characters_reach_the_app_as_they_are",
        "test_at_the_root_of_a_host_the_app_sees_its_address",
        "test_at_the_root_of_a_host_links_lead_back",
    ),
    "graceful stop": ("test_nothing_is_lost_when_a_replica_is_told_to_stop",),
}
"""Column of the second table -> the tests that show it."""

FACTS = ("keep-alive", "HTTP/1.0 without Nginx", "100-continue without Nginx", "unix socket")
"""Features of the gateway itself, asked without Nginx: what one lacks is no reason for a pair not to pass."""


@dataclass(frozen=True)
class Outcome:
    """What became of one test."""

    test: str
    """The function's name."""
    case: str
    """Its parameters as pytest writes them, or ""."""
    kind: Literal["passed", "failed", "lacking", "skipped"]
    """lacking: fails as tests/matrix/known.py says it does, or is skipped because of the gateway."""
    message: str = ""

    @property
    def where(self) -> str:
        return f"`{self.test}`" + (f" ({self.case})" if self.case else "")


@dataclass(frozen=True)
class Pair:
    """A framework on a gateway."""

    framework: str
    gateway: str
    outcomes: tuple[Outcome, ...] = ()
    problem: str = ""
    """Why nothing could be asked."""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.kind == "failed"]

    @property
    def passes(self) -> bool:
        return not self.problem and not self.failed and any(o.kind == "passed" for o in self.outcomes)


def outcomes(junit: str, framework: str, gateway: str) -> Iterator[Outcome]:
    """The tests of a run, as pytest's JUnit file tells them; `framework` is left out of their parameters. A test that is
    skipped because of the gateway, by name, shows that it lacks something."""
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name, _, parameters = case.get("name", "").partition("[")
        words = [word for word in parameters.removesuffix("]").split("-") if word != framework]
        kind: Literal["passed", "failed", "lacking", "skipped"] = "passed"
        message = ""
        for part in case:
            if part.tag in ("failure", "error"):
                kind, message = "failed", _sentence(part)
            elif part.tag == "skipped" and part.get("type") == "pytest.xfail":
                kind, message = "lacking", part.get("message", "")
            elif part.tag == "skipped" and kind == "passed":
                message = part.get("message", "")
                kind = "lacking" if message.startswith(f"{gateway} ") else "skipped"
                message = message.removeprefix(f"{gateway} ")
        yield Outcome(name, "-".join(words), kind, message)


def _sentence(failure: ElementTree.Element) -> str:
    """What went wrong, on one line."""
    return " ".join(failure.get("message", "").split())[:200]


def cell(pair: Pair | None) -> str:
    """The cell of a pair: pass, or the exact reason."""
    if pair is None:
        return ""
    if pair.problem:
        return f"**not run**: {pair.problem}"
    if pair.failed:
        first, more = pair.failed[0], len(pair.failed) - 1
        return _text(f"**fails**: {first.where}: {first.message}" + (f"; and {more} more" if more else ""))
    lacking = {o.message for o in pair.outcomes if o.kind == "lacking" and feature(o.test) not in FACTS}
    return _text("pass" + "".join(f"; but {reason}" for reason in sorted(lacking))) if pair.passes else "**not run**"


def feature(test: str) -> str | None:
    """The column that a test belongs to."""
    return next((name for name, tests in FEATURES.items() if test in tests), None)


def feature_cell(name: str, pairs: Sequence[Pair]) -> str:
    """Whether a gateway has a feature, over all frameworks: yes, no and why, or which frameworks it fails with."""
    found = [(pair, o) for pair in pairs for o in pair.outcomes if o.test in FEATURES[name] and o.kind != "skipped"]
    failing = sorted({pair.framework for pair, outcome in found if outcome.kind == "failed"})
    if failing:
        return f"**fails** ({', '.join(failing)})"
    if reasons := {outcome.message for _, outcome in found if outcome.kind == "lacking"}:
        lacking = sorted({pair.framework for pair, outcome in found if outcome.kind == "lacking"})
        whose = "" if len(lacking) == len(pairs) or name in FACTS else f"{', '.join(lacking)}: "
        return _text(f"no: {whose}" + "; ".join(sorted(reasons)))
    return "yes" if found else "-"


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def pairs_table(pairs: Sequence[Pair], frameworks: Sequence[str], gateways: Sequence[str]) -> str:
    """A row a gateway, a column a framework."""
    at = {(pair.gateway, pair.framework): pair for pair in pairs}
    rows = [[f"`{gateway}`", *(cell(at.get((gateway, f))) for f in frameworks)] for gateway in gateways]
    return table(["", *frameworks], rows)


def features_table(pairs: Sequence[Pair], gateways: Sequence[str]) -> str:
    """A row a gateway, a column a feature."""
    rows = []
    for gateway in gateways:
        of = [pair for pair in pairs if pair.gateway == gateway]
        rows.append([f"`{gateway}`", *(feature_cell(name, of) for name in FEATURES)])
    return table(["", *FEATURES], rows)


def locked(wanted: str, lock: str) -> dict[str, str]:
    """Package -> version, of the packages that a requirements.in names, as its lock has them."""
    names = [re.match(r"[A-Za-z0-9._-]+", line) for line in wanted.splitlines()]
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.MULTILINE):
        found.setdefault(_plain(name), []).append(version)
    return {n[0]: " or ".join(found[_plain(n[0])]) for n in names if n and _plain(n[0]) in found}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
