"""What logs tell of requests that went wrong: the edge's access log, and what gateways say of their workers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from stack import model
from stack.edge import OURS
from stack.load import AppPlan, Site


@dataclass(frozen=True)
class Finding:
    """One thing: where, what, and how to mend it; and the lines of a log that show it."""

    sentence: str
    log: tuple[str, ...] = ()
    wrong: bool = True
    """Else it is worth knowing, and no fault of the stack."""


@dataclass(frozen=True)
class Request:
    """A line of the access log (nginx/snippets/access-log.conf)."""

    app: str
    """Whose it was, by its URL, because an answer of the edge's own names no app; empty: nobody's."""
    time: float
    """Unix time of its end."""
    method: str
    uri: str
    status: int
    took: float
    """s."""
    tries: tuple[str, ...]
    """The status of each try at a replica; "-" where none came."""
    ours: bool = False
    """Whether it was Gatehouse itself that asked: `up`, when it makes sure of an app."""

    def __str__(self) -> str:
        uri = self.uri if len(self.uri) <= 60 else f"{self.uri[:57]}..."
        asked = f"{self.method} {uri} " if uri else ""  # of a URL that is too long Nginx logs nothing
        tries = f", {' then '.join(self.tries)}" if len(self.tries) > 1 else ""
        return f"{asked}after {self.took:.1f} s at {datetime.fromtimestamp(self.time):%H:%M:%S}{tries}"


def requests(log: list[str], site: Site) -> list[Request]:
    """The requests in an edge's log; what is none in it is passed over."""
    found: list[Request] = []
    for line in log:
        if line.startswith('{"time":'):
            try:
                of = json.loads(line)
                found.append(
                    Request(
                        _owner(of["host"], of["uri"], site), datetime.fromisoformat(of["time"]).timestamp(),
                        of["method"], of["uri"], of["status"], of["request_time"],
                        tuple(re.findall(r"\d+|-", of["upstream_status"])),
                        of["user_agent"] == OURS,
                    )
                )  # fmt: skip
            except (ValueError, KeyError, TypeError):  # not whole
                continue
    return found


def _owner(host: str, uri: str, site: Site) -> str:
    path = uri.partition("?")[0]
    own = host if any(plan.host == host for plan in site.apps.values()) else None
    fitting = [p for p in site.apps.values() if p.host == own and f"{path}/".startswith(f"{p.prefix}/")]
    return max(fitting, key=lambda plan: len(plan.prefix)).name if path and fitting else ""


def of_requests(plan: AppPlan, everybodys: list[Request], since: float) -> Iterator[Finding]:
    """What the requests to an app say that ended after `since` (Unix time). What failed before its first answer, to `up`
    mostly, was its start: on this machine nobody else answers meanwhile."""
    mine = [r for r in everybodys if r.app == plan.name and r.time >= since]
    refused = [r for r in mine if r.status == 503 and r.tries[-1:] == ("502",)]  # by the edge: no replica took it
    mine = mine[next((i for i, r in enumerate(mine) if r.status not in (502, 504) and r not in refused), 0) :]
    mine = [r for r in mine if not r.ours]
    refused = [r for r in refused if r in mine]
    by_edge = [r for r in mine if not r.tries]  # and no app was asked
    log = f"Its log says why: make logs APP={plan.name}"
    slow, large = [r for r in mine if r.status == 504], [r for r in by_edge if r.status == 413]
    for among, what in (
        (slow, f"got 504: no answer within {_setting(plan, slow, 'timeout')}. Make it faster, or raise that"),
        (
            [r for r in mine if r.status == 502],
            f"got 502: a worker ended meanwhile, or nobody took the connection. {log}",
        ),
        (
            refused,
            "got 503 of the edge: each replica had as many requests as it may have (max_in_flight), or none was in reach. "
            "Give it more workers, cpus or replicas",
        ),
        (
            [r for r in mine if r.status >= 500 and r.status not in (502, 504) and r.tries and r not in refused],
            f"got an error that is the app's own. {log}",
        ),
        (
            [r for r in mine if r.status < 499 and len(r.tries) > 1],
            f"needed another try, which no client saw: a worker or replica was gone when it was asked. {log}",
        ),
    ):
        yield from _said(plan.name, among, what)
    for among, what in (
        (large, f"got 413: a body larger than {_setting(plan, large, 'body_limit')}. Raise that, or send less"),
        (
            [r for r in mine if r.status == 499],
            "had no answer when the client gave up (499). If that is a long time: make load shows where it goes",
        ),
        (
            # Nginx says so nowhere. One on which somebody had spoken before takes longer, and is not seen here.
            [r for r in mine if r.status == 101 and 0 <= r.took - _limit(plan, r.uri) < 0.1],
            "had a WebSocket that the edge closed, silent for all of its time limit. Send pings more often than that, or "
            f"raise `timeout` of its path in apps/{plan.name}/app.yml",
        ),
        (
            [r for r in by_edge if r.status == 501],
            "wanted a WebSocket, which a WSGI app cannot speak. Make it an asgi app, or ask another one",
        ),
        (
            [r for r in by_edge if r.status == 429],
            "got 429 of the edge: more at a time, or in a time, than one address may ask (limits). Raise that, or ask less",
        ),
        (
            [r for r in by_edge if r.status == 400],
            "got 400 of the edge: no valid HTTP, or a path with /../ or an encoded prefix. Mend the client",
        ),
    ):
        yield from _said(plan.name, among, what, wrong=False)


def _behaviour(plan: AppPlan, uri: str) -> tuple[str, model.Path]:
    """The path of the app.yml that Nginx chose for a URI, and what is written there."""
    rest = uri.partition("?")[0].removeprefix(plan.prefix)
    path = max((path for path in plan.app.paths if rest.startswith(path)), key=len, default="")
    return path, plan.app.paths.get(path, model.Path())


def _limit(plan: AppPlan, uri: str) -> float:
    """s that Nginx waits for the next byte of an answer."""
    return _behaviour(plan, uri)[1].timeout or plan.app.timeouts.request


def _setting(plan: AppPlan, among: list[Request], of: str) -> str:
    """Where the limit of the last of these requests is set, `of` a path or of the app, and what it is."""
    path, behaviour = _behaviour(plan, among[-1].uri if among else "")
    limits = {
        "timeout": ("timeouts.request", plan.app.timeouts.request),
        "body_limit": ("body_limit", plan.app.body_limit),
    }
    key, value = limits[of]
    if own := getattr(behaviour, of):
        key, value = f"paths.{path}.{of}", own
    return f"{f'{value:g} s' if isinstance(value, float | int) else value} ({key} in apps/{plan.name}/app.yml)"


def of_edge(everybodys: list[Request], since: float) -> Iterator[Finding]:
    """What the edge refused before it knew whose it was."""
    yield from _said(
        "edge",
        [r for r in everybodys if r.time >= since and r.status in (414, 431) and not r.ours],
        "got 414 or 431: a URL or a header field of more than 8 KB, often a cookie. Have the app set less: gateways have "
        "this limit, too (nginx/snippets/basics.conf)",
        wrong=False,
    )


GATEWAYS_SAY = {
    r"WORKER TIMEOUT \(pid:(\d+)\)": "got killed after timeouts.gateway ({gateway:g} s) {busy}",
    r"Worker \(pid:(\d+)\) was sent SIGKILL! Perhaps out of memory\?": "got killed from outside, mostly for want of memory. "
    "{memory}",
    r"Worker \(pid:(\d+)\) exited with code [1-9]|Child process \[(\d+)\] died": "ended without being told to, and what they "
    "were answering got 502. Look for what ends the process: os._exit, a crash in a C extension, a kill, memory",
}
"""What gateways write of their workers (Gunicorn, Uvicorn) -> what became of these, and what to do."""


def of_log(plan: AppPlan, log: list[str], limited: bool = True) -> Iterator[Finding]:
    """What an app's log says of its workers, and of what a container forbids. limited: whether anything holds it to its
    memory."""
    file, told = f"apps/{plan.name}/app.yml", set[str]()
    shorter = f"Make it shorter, give the work to `processes`, or raise timeouts.gateway and timeouts.request in {file}"
    alive = "Look for an event loop that is blocked, or a lock that is never released"
    memory = f"Raise `memory` ({plan.app.memory}) in {file}, or lower `workers`" if limited else "Lower `workers`"
    for pattern, became in GATEWAYS_SAY.items():
        lines = [(line, found[found.lastindex or 0]) for line in log if (found := re.search(pattern, line))]
        ends = [(line, pid) for line, pid in lines if pid not in told]  # of one end Gunicorn writes up to three lines
        told |= {pid for _, pid in ends}
        if ends:
            became = became.format(
                gateway=plan.app.timeouts.gateway, memory=memory,
                busy=f"with one request. {shorter}" if plan.gateway.enforces_timeout else f"without a sign of life. {alive}",
            )  # fmt: skip
            yield Finding(f"{plan.name}: {_count(len(ends), 'worker')} {became}", tuple(line for line, _ in ends[-3:]))
    if refused := [line for line in log if "Read-only file system" in line]:
        yield Finding(
            f"{plan.name}: it writes to its own folder or another one that is read-only. Write to /tmp, or to a `volumes` of {file}",
            tuple(refused[-1:]),
        )


def _said(where: str, among: list[Request], what: str, wrong: bool = True) -> Iterator[Finding]:
    if among:
        yield Finding(f"{where}: {_count(len(among), 'request')} (the last: {among[-1]}) {what}", wrong=wrong)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
