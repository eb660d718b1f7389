"""What a proof leaves behind: the verdict, a table, proof.json, requests.csv.gz and proof.html."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from html import escape as html
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.openmodel import INTERVALS, Effects, Outcome, Row, percentile, summary, validity
from loadtests.page import COLOURS, document, label, rect

INTERRUPTED = 130


@dataclass(frozen=True)
class Proof:
    """A command that ran under load, and what became of the requests. Times are epoch seconds."""

    name: str
    command: list[str]
    start: float
    end: float
    code: int | None
    """Its exit code; None: it never ran, or the load ended first."""
    must_fail: bool
    outcomes: list[Outcome]
    events: list[dict[str, Any]]
    """What happened meanwhile: at (epoch s), host, service, what."""
    effects: Effects | None
    """None: not counted."""
    trouble: str
    """A sentence when something could not be found out, else empty."""
    interrupted: bool
    conditions: dict[str, Any]

    @cached_property
    def rows(self) -> dict[str, Row]:
        return summary(self.outcomes, self.start, self.end)

    @cached_property
    def validity(self) -> tuple[str, float | None]:
        return validity(self.outcomes)

    @cached_property
    def verdict(self) -> tuple[int, str]:
        """The exit code, and the sentence that says why. What failed comes first: it failed whatever else holds."""
        every, (valid, lag) = self.rows["all"], self.validity
        effects = self.effects or Effects(0, [], [])
        if self.interrupted:
            return INTERRUPTED, f"Interrupted after {every.requests:,} requests, of which {every.failed:,} failed."
        if every.failed or effects.lost or effects.doubled:
            said = f"{every.failed:,} of {every.requests:,} requests failed{_counted(every.failures, ': ')}."
            if effects.lost or effects.doubled:
                said += f" Of {effects.counted:,} effects, {len(effects.lost)} lost, {len(effects.doubled)} doubled."
            return 1, said
        if self.trouble:
            return 1, self.trouble
        if lag is None:
            return 3, "No request was sent: nothing is proven."
        if valid == "INVALID":
            return 3, (
                f"This machine was too busy to send requests on time (p99 {lag:.0f} ms late): nothing is proven. "
                "Lower --rate, or let it run alone."
            )
        if self.code is None:
            return 3, "The load ended before the command did: nothing is proven. Raise --at-most."
        if (self.code != 0) != self.must_fail:
            wanted = "another code than 0" if self.must_fail else "0"
            return 2, f"No request failed, but the command ended with {self.code} instead of {wanted}."
        counted = f", {effects.counted:,} effects counted, none lost or doubled" if self.effects else ""
        return 0, f"None of {every.requests:,} requests failed{counted}; the command ended with {self.code}."


def _counted(counts: Mapping[str, int], before: str = "") -> str:
    """`502 (3), TimeoutError (1)`."""
    return before + ", ".join(f"{what} ({count:,})" for what, count in counts.items()) if counts else ""


HEADINGS = ("class", "requests", "failed", *INTERVALS, "why, and notes")


def _cells(proof: Proof) -> Iterator[list[str]]:
    """The table, for the terminal and the page."""
    for kind, row in proof.rows.items():
        if kind == "all":  # of all classes together, times say nothing
            yield [kind, f"{row.requests:,}", f"{row.failed:,}", *[""] * len(INTERVALS), ""]
            continue
        times = [(row.intervals[i].p50, row.intervals[i].p99) for i in INTERVALS]
        shown = ["" if p50 is None or p99 is None else f"{p50:,.0f} / {p99:,.0f}" for p50, p99 in times]
        yield [kind, f"{row.requests:,}", f"{row.failed:,}", *shown, _counted({**row.failures, **row.notes})]


def table(proof: Proof, console: Console) -> None:
    """Prints it."""
    shown = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="before, during, after the command: p50 / p99 in ms"
    )
    for heading in HEADINGS[:-1]:
        shown.add_column(heading, justify="left" if heading == HEADINGS[0] else "right", no_wrap=True)
    shown.add_column(HEADINGS[-1], overflow="fold")
    for cells in _cells(proof):
        shown.add_row(*map(escape, cells), style="red" if cells[2] != "0" else None)
    console.print(shown)


def write(proof: Proof, folder: Path) -> None:
    """The three files."""
    proof.events.sort(key=lambda event: event["at"])
    folder.mkdir(parents=True, exist_ok=True)
    code, sentence = proof.verdict
    valid, lag = proof.validity
    facts = {
        "name": proof.name,
        "exit_code": code,
        "verdict": sentence,
        "command": {"argv": proof.command, "start": proof.start, "end": proof.end, "exit_code": proof.code,
                    "must_fail": proof.must_fail},
        "effects": asdict(proof.effects) if proof.effects else "not counted",
        "generator": {"verdict": valid, "start_lag_p99_ms": lag},
        "conditions": proof.conditions,
        "summary": {kind: {"failed": row.failed, **asdict(row)} for kind, row in proof.rows.items()},
        "events": proof.events,
    }  # fmt: skip
    (folder / "proof.json").write_text(json.dumps(facts, indent=1) + "\n")
    with gzip.open(folder / "requests.csv.gz", "wt", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(field.name for field in fields(Outcome))
        lines.writerows(astuple(outcome) for outcome in proof.outcomes)
    (folder / "proof.html").write_text(page(proof))


def page(proof: Proof) -> str:
    """The whole report in one file, for people."""
    code, sentence = proof.verdict
    valid, lag = proof.validity
    effects = "not counted" if proof.effects is None else (
        f"{proof.effects.counted:,} counted, {len(proof.effects.lost)} lost, {len(proof.effects.doubled)} doubled"
    )  # fmt: skip
    facts = {
        "command": " ".join(proof.command),
        "ran for": f"{proof.end - proof.start:.1f} s, ended with {proof.code}"
        + (", as it had to" if proof.must_fail and proof.code else ""),
        "effects": effects,
        "generator": f"{valid}: sent its requests at most {lag or 0:.0f} ms late (p99)",
        **{key.replace("_", " "): value for key, value in proof.conditions.items()},
    }
    head = "".join(f"<th>{heading}" for heading in HEADINGS)
    rows = "".join(
        f"<tr{_bad(cells[2] != '0')}>" + "".join(f"<td>{html(cell)}" for cell in cells) for cells in _cells(proof)
    )
    failed = [o for o in proof.outcomes if o.failure]
    body = f"""<h1>{html(proof.name)}</h1>
<p class="verdict{" bad" if code else ""}">{html(sentence)}</p>
{_timeline(proof)}
<p class="dim">Shaded: while the command ran. Vertical lines: events on the hosts; point at one to read it.</p>
<div class="scroll"><table><tr>{head}{rows}</table></div>
<p class="dim">Before, during and after the command: p50 / p99 in ms, from when a request was due.</p>
<dl>{"".join(f"<dt>{html(key)}<dd>{html(str(value))}" for key, value in facts.items())}</dl>
{_list("Failed requests", (f"{_at(proof, o.due)} {o.kind} through {o.edge}: {o.error or o.failure}" for o in failed))}
{_list("Events", (f"{_at(proof, e['at'])} {_event(e)}" for e in proof.events))}"""
    return document(f"{proof.name}: {'passed' if code == 0 else 'not passed'}", body)


def _bad(bad: bool) -> str:
    return ' class="bad"' if bad else ""


def _at(proof: Proof, at: float) -> str:
    """Seconds since the command began."""
    return f"{at - proof.start:+.2f} s"


def _event(event: Mapping[str, Any]) -> str:
    return " ".join(str(event[key]) for key in ("host", "service", "what") if event.get(key))


def _list(title: str, lines: Iterable[str], most: int = 500) -> str:
    lines = list(lines)
    shown = "<br>".join(html(line) for line in lines[:most]) + ("<br>..." if len(lines) > most else "")
    return f"<details><summary>{title}: {len(lines)}</summary><code>{shown}</code></details>" if lines else ""


WIDTH, LEFT = 1000, 60
"""Of the timeline, and of its axis' numbers."""
RATES, TIMES = (20, 150), (195, 285)
"""Top and bottom of its two panels."""
ENDS = ("out of", "kill", "die")
"""How events begin that take something away."""
LONG = ("slow", "sse")
"""Classes that take long by their nature: not in the line of response times."""


def _timeline(proof: Proof) -> str:
    """Requests and failures a second, by class, and below them p99 of the short requests."""
    if not proof.outcomes:
        return ""
    first = min(o.due for o in proof.outcomes)
    length = max(max(o.due for o in proof.outcomes) - first, 1.0)
    step = max(1, math.ceil(length / 300))  # seconds in a bar
    sent: Counter[int] = Counter()
    failed: dict[int, Counter[str]] = defaultdict(Counter)
    times: dict[int, list[float]] = defaultdict(list)
    for outcome in proof.outcomes:
        bar = int((outcome.due - first) / step)
        sent[bar] += 1
        if outcome.failure:
            failed[bar][outcome.kind] += 1
        if outcome.kind not in LONG:
            times[bar].append(outcome.seconds * 1000)
    p99 = {bar: percentile(values, 99) or 0.0 for bar, values in sorted(times.items())}
    most, slowest = max(sent.values()), max(p99.values(), default=1.0) or 1.0

    def x(seconds: float) -> float:
        return LEFT + min(max(seconds / length, 0.0), 1.0) * (WIDTH - LEFT - 4)

    def rate(count: float) -> float:
        return RATES[1] - count / most * (RATES[1] - RATES[0])

    bad = sorted({kind for kinds in failed.values() for kind in kinds})
    parts = [rect(x(proof.start - first), RATES[0] - 8, x(proof.end - first), TIMES[1], "var(--shade)", "the command")]
    for bar, count in sent.items():
        left, right, base = x(bar * step), x((bar + 1) * step), 0
        parts.append(rect(left, rate(count), right - 0.5, RATES[1], "var(--fill)", f"{count / step:.0f}/s"))
        for kind in (kind for kind in bad if failed[bar][kind]):
            number = failed[bar][kind]
            top = min(rate(base + number), rate(base) - 3)  # one failure of 140 requests has to be seen
            colour = COLOURS[bad.index(kind) % len(COLOURS)]
            parts.append(rect(left, top, right - 0.5, rate(base), colour, f"{kind}: {number} failed"))
            base += number
    line = " ".join(
        f"{x((bar + 0.5) * step):.1f},{TIMES[1] - value / slowest * (TIMES[1] - TIMES[0]):.1f}"
        for bar, value in p99.items()
    )
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--ink)" stroke-width="1.5"/>')
    for event in (event for event in proof.events if 0 <= event["at"] - first <= length):
        at = x(event["at"] - first)
        said = html(f"{_at(proof, event['at'])} {_event(event)}")
        colour = "var(--bad)" if str(event.get("what")).startswith(ENDS) else "var(--good)"
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{RATES[0] - 8}" y2="{TIMES[1]}" stroke="{colour}" '
            f'stroke-width="1.5" stroke-opacity=".6"><title>{said}</title></line>'
        )
    tick = next(t for t in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600) if length / t <= 12 or t == 3600)
    parts += [label(x(s), TIMES[1] + 16, f"{s} s", "middle") for s in range(0, int(length) + 1, tick)]
    for (top, bottom), unit, value in ((RATES, "/s", most / step), (TIMES, " ms", slowest)):
        parts += [label(LEFT - 6, top + 4, f"{value:,.0f}{unit}"), label(LEFT - 6, bottom + 4, "0")]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 4}" y1="{bottom}" y2="{bottom}" stroke="var(--line)"/>')
    parts.append(label(LEFT, RATES[0] - 10, "requests and failures", "start"))
    parts.append(label(LEFT, TIMES[0] - 10, f"p99 of the short requests (without {', '.join(LONG)})", "start"))
    for number, kind in enumerate(bad):
        left = 190 + 80 * number
        parts.append(rect(left, RATES[0] - 19, left + 9, RATES[0] - 10, COLOURS[number % len(COLOURS)], kind))
        parts.append(label(left + 13, RATES[0] - 10, kind, "start"))
    return f'<svg viewBox="0 0 {WIDTH} {TIMES[1] + 22}" role="img">{"".join(parts)}</svg>'
