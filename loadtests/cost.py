"""What the timing of hops costs: CPU time a request, in the app's process and in the load generator.

    python -m loadtests.cost        writes docs/results/hops.md; a few seconds, needs nothing that runs

Medians of pairs, with and without, in turns: both halves of a pair see the same machine.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtests import hops

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "compose/gateways"))

import gatehouse_timing  # type: ignore[import-not-found] # noqa: E402  where images have it on their path

REQUESTS, PAIRS = 50_000, 9
HEADER = "edge;dur=104, upstream;dur=103, app;dur=101.312, pool;dur=0.123"


def cpu(work: Callable[[int], object]) -> float:
    """Microseconds of CPU a request."""
    start = time.process_time()
    work(REQUESTS)
    return (time.process_time() - start) / REQUESTS * 1e6


def extra(plain: Callable[[int], object], timed: Callable[[int], object]) -> float:
    """What the second costs more than the first."""
    return statistics.median(cpu(timed) - cpu(plain) for _ in range(PAIRS))


def wsgi(app: Any) -> Callable[[int], object]:
    def work(count: int) -> None:
        for _ in range(count):
            app({}, lambda status, headers, exc_info=None: None)

    return work


def asgi(app: Any) -> Callable[[int], object]:
    async def send(_: Any) -> None:
        pass

    async def requests(count: int) -> None:
        for _ in range(count):
            await app({"type": "http"}, None, send)

    return lambda count: asyncio.run(requests(count))


def hello_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


async def hello_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def generator(count: int) -> None:
    """The most of what watch.py does with an answer: parse, split, record eight hops and the total."""
    store = hops.Store()
    for number in range(count):
        told = hops.split(106.2, HEADER, 0.1, 0.2)
        store.add("fastapi GET /wait", "fastapi", 106.2, told, "", number / 1000)


def main() -> None:
    costs = {
        "in a WSGI app's process (`gatehouse_timing.wsgi`)": extra(wsgi(hello_wsgi), wsgi(gatehouse_timing.wsgi(hello_wsgi))),
        "in an ASGI app's process (`gatehouse_timing.asgi`)": extra(asgi(hello_asgi), asgi(gatehouse_timing.asgi(hello_asgi))),
        "in the load generator: parse, split, record (`hops.py`)": statistics.median(cpu(generator) for _ in range(PAIRS)),
    }  # fmt: skip
    rows = "".join(f"| {where} | {cost:.1f} |\n" for where, cost in costs.items())
    text = (
        f"# What the timing of hops costs\n\n{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores. "
        f"CPU time a request, median of {PAIRS} pairs of {REQUESTS:,}, with and without in turns.\n\n| | microseconds |\n|---|---:|\n{rows}\n"
        "Again: `python -m loadtests.cost`.\n"
    )
    (REPOSITORY / "docs/results/hops.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
