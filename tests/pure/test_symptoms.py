"""What logs tell of requests that went wrong: exactly what is said, and of what nothing is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from stack import symptoms
from stack.edge import OURS
from stack.symptoms import Finding
from tests.pure.conftest import ASGI, WSGI, Draft

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


def line(uri: str, status: int, tries: str = "", after: float = 0.0, at: float = 1, **more: Any) -> str:
    """Of the edge's access log, `at` s past noon."""
    of = {
        "time": datetime.fromtimestamp(NOON + at, UTC).isoformat(), "host": "localhost", "method": "GET", "uri": uri,
        "status": status, "request_time": after, "upstream_status": tries, "user_agent": "curl",
    }  # fmt: skip
    return json.dumps(of | more, separators=(",", ":"))


GOOD = line("/shop/", 200, "200", at=0)
CLOCK = datetime.fromtimestamp(NOON + 1).strftime("%H:%M:%S")
LOG = "Its log says why: make logs APP=shop"


def said(draft: Draft, log: list[str], since: float = NOON, app: str = "shop") -> list[Finding]:
    site = draft.load()
    return list(symptoms.of_requests(site.apps[app], symptoms.requests(log, site), since))


WRONG = {
    "too slow": (
        [line("/shop/report?of=may", 504, "504", 30.0)],
        f"shop: 1 request (the last: GET /shop/report?of=may after 30.0 s at {CLOCK}) got 504: no answer within 30 s "
        "(timeouts.request in apps/shop/app.yml). Make it faster, or raise that",
    ),
    "too slow, on a path with a limit of its own": (
        [line("/shop/poll/x", 504, "504", 65.0)],
        f"shop: 1 request (the last: GET /shop/poll/x after 65.0 s at {CLOCK}) got 504: no answer within 65 s "
        "(paths./poll.timeout in apps/shop/app.yml). Make it faster, or raise that",
    ),
    "a worker that ended, asked twice": (
        [line("/shop/a", 502, "502"), line("/shop/b", 502, "502 : 502", 0.25)],
        f"shop: 2 requests (the last: GET /shop/b after 0.2 s at {CLOCK}, 502 then 502) got 502: a worker ended meanwhile, "
        f"or nobody took the connection. {LOG}",
    ),
    "an exception": (
        [line("/shop/", 500, "500")],
        f"shop: 1 request (the last: GET /shop/ after 0.0 s at {CLOCK}) got an error that is the app's own. {LOG}",
    ),
    "an app that sheds load": (
        [line("/shop/", 503, "503")],
        f"shop: 1 request (the last: GET /shop/ after 0.0 s at {CLOCK}) got an error that is the app's own. {LOG}",
    ),
    "hidden retries, in one location and in two": (
        [line("/shop/", 200, "502, 200"), line("/shop/", 404, "- : 404")],
        f"shop: 2 requests (the last: GET /shop/ after 0.0 s at {CLOCK}, - then 404) needed another try, which no client saw: "
        f"a worker or replica was gone when it was asked. {LOG}",
    ),
}


@pytest.mark.parametrize(("log", "sentence"), WRONG.values(), ids=list(WRONG))
def test_what_the_stack_is_to_blame_for_is_wrong(draft: Draft, log: list[str], sentence: str) -> None:
    draft.app(WSGI + "paths: {/poll: {timeout: 65}}\n")
    assert said(draft, [GOOD, *log]) == [Finding(sentence)]


NOTES = {
    "too large a body": (
        [line("/shop/", 413)],
        f"shop: 1 request (the last: GET /shop/ after 0.0 s at {CLOCK}) got 413: a body larger than 1M (body_limit in "
        "apps/shop/app.yml). Raise that, or send less",
    ),
    "too large a body, on a path with a limit of its own": (
        [line("/shop/up", 413)],
        f"shop: 1 request (the last: GET /shop/up after 0.0 s at {CLOCK}) got 413: a body larger than 8M "
        "(paths./up.body_limit in apps/shop/app.yml). Raise that, or send less",
    ),
    "a client that left": (
        [line("/shop/", 499, "-", 4.5)],
        f"shop: 1 request (the last: GET /shop/ after 4.5 s at {CLOCK}) had no answer when the client gave up (499). If that "
        "is a long time: make load shows where it goes",
    ),
    "a WebSocket that nobody speaks on": (
        [line("/shop/ws", 101, "101", 40.004), line("/shop/ws", 101, "101", 93.0)],
        f"shop: 1 request (the last: GET /shop/ws after 40.0 s at {CLOCK}) had a WebSocket that the edge closed, silent for "
        "all of its time limit. Send pings more often than that, or raise `timeout` of its path in apps/shop/app.yml",
    ),
    "a WebSocket of a WSGI app": (
        [line("/shop/ws", 501)],
        f"shop: 1 request (the last: GET /shop/ws after 0.0 s at {CLOCK}) wanted a WebSocket, which a WSGI app cannot speak. "
        "Make it an asgi app, or ask another one",
    ),
    "a detour": (
        [line("/shop/%2e%2e", 400)],
        f"shop: 1 request (the last: GET /shop/%2e%2e after 0.0 s at {CLOCK}) got 400 of the edge: no valid HTTP, or a path "
        "with /../ or an encoded prefix. Mend the client",
    ),
}


@pytest.mark.parametrize(("log", "sentence"), NOTES.values(), ids=list(NOTES))
def test_what_clients_did_is_worth_knowing(draft: Draft, log: list[str], sentence: str) -> None:
    draft.app(ASGI + "paths: {/up: {body_limit: 8M}, /ws: {websocket: true, timeout: 40}}\n")
    assert said(draft, [GOOD, *log]) == [Finding(sentence, wrong=False)]


def test_what_up_was_answered_ends_an_apps_start(draft: Draft) -> None:
    draft.app(WSGI)
    slow = line("/shop/", 504, "504", 30.0)
    ours = line("/shop/healthz", 200, "200", at=0, user_agent=OURS)
    assert said(draft, [slow, GOOD]) == []
    assert len(said(draft, [ours, slow, GOOD])) == 1


FINE = {
    "answers": [GOOD, line("/shop/x", 404, "404"), line("/shop/", 302, "302"), line("/shop/ws", 101, "101", 300.0)],
    "the app's own 400 and 413": [line("/shop/", 400, "400"), line("/shop/", 413, "413")],
    "before that time": [GOOD, line("/shop/", 504, "504", at=-5)],
    "its start": [line("/shop/", 502, "- : -"), line("/shop/", 503, "502"), line("/shop/", 504, "504 : 504"), GOOD],
    "another app's": [GOOD, line("/shopping/", 502, "502"), line("/other/", 502, "502")],
    "our own": [GOOD, line("/shop/healthz", 502, "502", user_agent=OURS)],
    "no access log": [
        GOOD,
        "",
        "2026/11/25 12:00:00 [error] 8#8: *1 upstream timed out",
        '{"time":"2026',
        '{"time":1}',
    ],
}


@pytest.mark.parametrize("log", FINE.values(), ids=list(FINE))
def test_of_the_rest_nothing_is_said(draft: Draft, log: list[str]) -> None:
    assert said(draft, log) == []


def test_what_the_edge_refuses_is_told_from_what_the_app_does(draft: Draft) -> None:
    (shed,) = said(draft, [GOOD, line("/shop/", 503, "502")])
    assert "got 503 of the edge: each replica had as many requests as it may have" in shed.sentence
    (own,) = said(draft, [GOOD, line("/shop/", 503, "503")])
    assert "got an error that is the app's own" in own.sentence
    (limited,) = said(draft, [GOOD, line("/shop/", 429, "")])
    assert "got 429 of the edge" in limited.sentence
    assert not limited.wrong


def test_an_app_that_never_answers_is_not_starting(draft: Draft) -> None:
    assert "got 502" in said(draft, [line("/shop/", 502, "- : -")])[0].sentence


def test_a_request_is_of_the_app_with_the_longest_prefix_of_its_host(draft: Draft) -> None:
    draft.app(name="api", yml=WSGI + "route: /shop/api\n")
    draft.app(name="all", yml=WSGI + "route: /\n")
    draft.app(name="own", yml=WSGI + "host: own.example.com\n")
    asked = [("/shop", "localhost"), ("/shop/api?a=/b", "localhost"), ("/shop/apiary", "localhost"), ("/", "127.0.0.1"),
             ("/shop/", "own.example.com"), ("", "")]  # fmt: skip
    found = symptoms.requests([line(uri, 200, "200", host=host) for uri, host in asked], draft.load())
    assert [request.app for request in found] == ["shop", "api", "shop", "all", "own", ""]


def test_what_is_too_large_for_any_app_is_the_edges(draft: Draft) -> None:
    log = [line("/shop/", 431), line("", 414)]
    assert list(symptoms.of_edge(symptoms.requests(log, draft.load()), NOON)) == [
        Finding(
            f"edge: 2 requests (the last: after 0.0 s at {CLOCK}) got 414 or 431: a URL or a header field of more than 8 KB, "
            "often a cookie. Have the app set less: gateways have this limit, too (nginx/snippets/basics.conf)",
            wrong=False,
        )
    ]
    assert said(draft, [GOOD, *log]) == []


TIMEOUT = "[2026-11-25 12:00:00 +0000] [1] [CRITICAL] WORKER TIMEOUT (pid:10)"
KILLED = "[2026-11-25 12:00:01 +0000] [1] [ERROR] Worker (pid:10) was sent SIGKILL! Perhaps out of memory?"
EXITED = "[2026-11-25 12:00:01 +0000] [1] [ERROR] Worker (pid:10) exited with code 1."
DIED = "INFO:     Child process [9] died"
SHORTER = (
    "Make it shorter, give the work to `processes`, or raise timeouts.gateway and timeouts.request in apps/shop/app.yml"
)
OWN_ACCORD = (
    "ended without being told to, and what they were answering got 502. Look for what ends the process: os._exit, a crash "
    "in a C extension, a kill, memory"
)

WORKERS = {
    "busy too long": (
        "gateway: gunicorn-sync",
        [TIMEOUT, EXITED, KILLED],
        Finding(f"shop: 1 worker got killed after timeouts.gateway (25 s) with one request. {SHORTER}", (TIMEOUT,)),
    ),
    "no sign of life": (
        "gateway: gunicorn-gthread",
        [TIMEOUT],
        Finding(
            "shop: 1 worker got killed after timeouts.gateway (25 s) without a sign of life. Look for an event loop that is "
            "blocked, or a lock that is never released",
            (TIMEOUT,),
        ),
    ),
    "out of memory": (
        "memory: 1G",
        [KILLED],
        Finding(
            "shop: 1 worker got killed from outside, mostly for want of memory. Raise `memory` (1G) in apps/shop/app.yml, or "
            "lower `workers`",
            (KILLED,),
        ),
    ),
    "of its own accord": ("threads: 2", [EXITED, DIED], Finding(f"shop: 2 workers {OWN_ACCORD}", (EXITED, DIED))),
    "a file it may not write": (
        "threads: 2",
        ["OSError: [Errno 30] Read-only file system: '/app/cache'"],
        Finding(
            "shop: it writes to its own folder or another one that is read-only. Write to /tmp, or to a `volumes` of "
            "apps/shop/app.yml",
            ("OSError: [Errno 30] Read-only file system: '/app/cache'",),
        ),
    ),
}


@pytest.mark.parametrize(("setting", "log", "finding"), WORKERS.values(), ids=list(WORKERS))
def test_what_gateways_say_of_their_workers(draft: Draft, setting: str, log: list[str], finding: Finding) -> None:
    draft.app(f"{WSGI}{setting}\n")
    assert list(symptoms.of_log(draft.plan(), ["[1] [INFO] Booting worker with pid: 10", *log])) == [finding]


def test_a_worker_that_ends_as_it_should_is_none_of_these(draft: Draft) -> None:
    log = [
        "[1] [INFO] Worker exiting (pid: 8)",
        "[1] [INFO] Handling signal: term",
        "INFO:     Terminated child process [9]",
    ]
    assert list(symptoms.of_log(draft.plan(), log)) == []
