"""What is known to be otherwise on a gateway, or with a framework on it: the tests that show it fail, and must.

One that passes after all fails the run, so that nothing stands here longer than it is true. A reason is what a cell of
docs/compatibility.md says, so it says who is at fault and what follows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A test that fails on this gateway."""

    gateway: str
    test: str
    reason: str
    framework: str = ""
    """"": with every one."""
    case: str = ""
    """A part of the test's parameters; "": with all."""


KNOWN: tuple[Known, ...] = (
    Known(
        "gunicorn-sync",
        "test_one_connection_serves_many_requests",
        "closes after each answer, so that no worker waits for a client",
    ),
    Known(
        "uwsgi",
        "test_one_connection_serves_many_requests",
        "closes after each answer; with kept connections an idle one would hold a thread",
    ),
    Known("uwsgi", "test_the_gateway_itself_says_100_continue", "waits for the body without a word"),
    Known(
        "uvicorn",
        "test_the_gateway_itself_serves_http_1_0",
        "sends chunks where the app gives no length; upstream: [below](#uvicorn-sends-chunks-to-http10)",
    ),
)


def reason(gateway: str, framework: str, test: str, case: str) -> str | None:
    """Why this test fails here; None: it must pass."""
    for known in KNOWN:
        if (known.gateway, known.test) == (gateway, test) and known.framework in ("", framework) and known.case in case:
            return known.reason
    return None
