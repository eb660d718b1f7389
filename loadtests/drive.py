"""Load for one visit of loadtests/tune.py: open model, so that what a queue does to later requests counts. Bounded in rate, time and
requests in flight; ends by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11

from loadtests import hops
from loadtests.http1 import Edge, Pool
from loadtests.mix import Request
from loadtests.openmodel import arrivals, mix, percentile

MOST = 2000
"""Requests in flight; beyond it they are not sent, which is a failure."""


@dataclass
class Load:
    """What was sent to one app, and what came of it. Times in ms, from when a request was due."""

    edge: Edge
    prefix: str
    requests: Sequence[Request]
    patience: float
    """s for an answer. One that fails counts as if it had come only then: quick refusals would make overload look fast."""
    sent: int = 0
    """Of all, those of the warm-up, too."""
    totals: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    spent: dict[str, list[float]] = field(default_factory=lambda: {"queue": [], "nginx": [], "app": []})
    failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._pool = Pool(self.edge)

    async def ask(self, request: Request, due: float, counted: bool = True) -> str:
        """Empty: answered well; else what was wrong. due: on this loop's clock."""
        clock = asyncio.get_running_loop().time
        started, wrong, timing = clock(), "", ""
        self.sent += 1
        try:
            async with asyncio.timeout(self.patience):
                connection = await self._pool.take()
                try:
                    target, body = self.prefix + request.path, request.body.encode()
                    status, _ = await connection.exchange(request.method, target, body, more=request.headers)
                    timing = connection.timing
                except BaseException:
                    connection.close()
                    raise
                self._pool.give(connection)
                wrong = f"status {status}" if request.wrong(status) else ""
        except (OSError, EOFError, TimeoutError, h11.ProtocolError) as error:
            wrong = type(error).__name__
        if counted:
            total = (clock() - due) * 1000
            self.lags.append((started - due) * 1000)
            self.totals.append(max(total, self.patience * 1000) if wrong else total)
            self.failures.update([wrong] if wrong else [])
            for hop, took in (hops.split(total, timing, self.lags[-1]) or {}).items():
                if hop in self.spent:
                    self.spent[hop].append(took)
        return wrong

    async def open(self, rate: float, warmup: float, seconds: float, seed: int) -> None:
        """`rate` requests a second; those of the first `warmup` s are not counted."""
        clock, tasks = asyncio.get_running_loop().time, set[asyncio.Task[str]]()
        kinds = {str(number): request for number, request in enumerate(self.requests)}
        drawn = mix({key: request.weight for key, request in kinds.items()}, seed)
        start = clock() + 0.05
        for at in arrivals(rate, warmup + seconds, seed):
            await asyncio.sleep(max(0.0, start + at - clock()))
            request = kinds[next(drawn)]
            if len(tasks) < MOST:
                task = asyncio.create_task(self.ask(request, start + at, at >= warmup))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            elif at >= warmup:
                self.failures["not sent"] += 1
                self.totals.append(self.patience * 1000)
        await asyncio.gather(*tasks)
        self._pool.close()

    async def one_by_one(self, seconds: float, seed: int) -> None:
        """The next one when the last is answered: nobody waits. Each kind at least once; ends at the first that fails."""
        clock = asyncio.get_running_loop().time
        drawn = mix({str(number): request.weight for number, request in enumerate(self.requests)}, seed)
        order, end = list(self.requests), clock() + seconds
        while order or clock() < end:
            request = order.pop() if order else self.requests[int(next(drawn))]
            if wrong := await self.ask(request, clock()):
                self.failures = Counter([f"{request.name}: {wrong}"])
                break
        self._pool.close()

    def percentile(self, hop: str, percent: float) -> float:
        """ms; 0 where nothing is known."""
        return (
            percentile(self.totals if hop == "total" else self.lags if hop == "lag" else self.spent[hop], percent)
            or 0.0
        )

    @property
    def app(self) -> float:
        """Mean ms in the app; of one that says nothing, the whole."""
        known = self.spent["app"] or self.totals
        return sum(known) / max(len(known), 1)
