"""Requests as `make logs` shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stack import logs

LINE: dict[str, Any] = {
    "time": "2026-11-25T20:34:40+00:00",
    "app": "flask",
    "method": "GET",
    "uri": "/flask/poll?ms=500",
    "status": 200,
    "request_time": 0.565,
    "upstream_status": "200",
    "app_time": "app;dur=564.188, pool;dur=0.1",
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ("flask", 200, "20:34:40 200 GET /flask/poll?ms=500 565 ms (564 in the app)")),
        ({"app_time": ""}, ("flask", 200, "20:34:40 200 GET /flask/poll?ms=500 565 ms")),
        (
            {"upstream_status": "502, 200"},
            ("flask", 200, "20:34:40 200 GET /flask/poll?ms=500 565 ms (564 in the app, asked 2 times: 502, 200)"),
        ),
        (
            {"upstream_status": "502, 502 : 200"},
            ("flask", 200, "20:34:40 200 GET /flask/poll?ms=500 565 ms (564 in the app, asked 3 times: 502, 502, 200)"),
        ),
        (
            {"app": "", "status": 404, "upstream_status": "", "app_time": "", "request_time": 0},
            ("edge", 404, "20:34:40 404 GET /flask/poll?ms=500 0 ms"),
        ),
    ],
)
def test_a_request_is_one_readable_line(changed: dict[str, Any], said: tuple[str, int, str]) -> None:
    assert logs.request(json.dumps(LINE | changed, separators=(",", ":"))) == said


@pytest.mark.parametrize("line", ["Booting worker with pid: 7", '{"time":', '{"time":"2026"}', '{"level":"info"}'])
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert logs.request(line) is None


OURS, OTHERS = "a" * 32, "b" * 32
FAILED = [
    f"[2026-11-26 11:59:00 +0000] [8] [ERROR] Exception on /boom [GET] [request {OURS}]",
    "Traceback (most recent call last):",
    '  File "/app/app.py", line 7, in boom',
    "KeyError: 1",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "/app/app.py", line 9, in boom',
    "    raise ValueError",
    "ValueError",
]


def test_what_is_said_of_one_request_is_found_with_its_traceback() -> None:
    before = [
        "Booting worker",
        "Traceback (most recent call last):",
        "  File x",
        "OSError",
        f"later [request {OTHERS}]",
    ]
    after = ["Worker exiting", "  indented", f"GET {OTHERS}", *FAILED[1:4]]
    assert logs.of_request([*before, *FAILED, *after], OURS) == FAILED
    assert logs.of_request([*before, *FAILED, *after], "c" * 32) == []
