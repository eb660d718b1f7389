"""How many users there are at a time: shapes for Locust's UI (the class picker) and `--shape`. Steady is Locust's own.

What a user is, is the model's: an arrival a second (open), or someone who waits for each answer (closed).
"""

from __future__ import annotations

import copy
import math

from locust import LoadTestShape

from loadtests import hops, watch
from loadtests.validity import Generator, Verdict, verdict

USERS, SECONDS = 50, 120.0
"""Where nothing is given: at most so many, for so long."""


class Shaped(LoadTestShape):
    """Reads Locust's usual options: users at most, run time."""

    abstract = True
    use_common_options = True
    seconds = SECONDS

    def asked(self) -> tuple[int, float]:
        """Users at most, and seconds."""
        options = getattr(self.runner and self.runner.environment, "parsed_options", None)
        return (
            int(getattr(options, "num_users", None) or USERS),
            float(getattr(options, "run_time", None) or self.seconds),
        )

    def tick(self) -> tuple[int, float] | None:
        users, seconds = self.asked()
        at = self.get_run_time()
        if at >= seconds:
            return None
        now = max(1, round(self.users(at / seconds, users)))
        return now, max(1.0, min(100.0, float(now)))  # a step is there within a second

    def users(self, part: float, most: int) -> float:
        """After this part of the time, 0..1."""
        raise NotImplementedError


class Smoke(Shaped):
    """One user of each kind, half a minute: does everything answer at all?"""

    seconds = 30.0

    def users(self, part: float, most: int) -> float:
        return len(self.runner.environment.user_classes) if self.runner else 1


class Ramp(Shaped):
    """From one to all, evenly."""

    def users(self, part: float, most: int) -> float:
        return most * part


class Spike(Shaped):
    """A tenth; all of them for a fifth of the time; a tenth again: how long until all is as before?"""

    def users(self, part: float, most: int) -> float:
        return most if 0.4 <= part < 0.6 else most / 10


class Soak(Shaped):
    """All of them for an hour: leaks, logs that fill, what happens once an hour."""

    seconds = 3600.0

    def users(self, part: float, most: int) -> float:
        return most


class Knee(Shaped):
    """Finds where it bends: half as many again every 15 s, until a step's mean time is three times the first one's (and
    20 ms more), or a hundredth of its requests fails, or the generator cannot keep up. Ends at all users at the latest."""

    STEP = 15.0
    SETTLE = 5.0
    WORSE, LEAST, FAILED = 3.0, 20.0, 0.01
    found = ""

    def reset_time(self) -> None:
        super().reset_time()
        self.number = 0
        self.first: float | None = None
        self.held = 0
        self.found = ""
        self.before = Generator()

    def tick(self) -> tuple[int, float] | None:
        most, _ = self.asked()
        number = int(self.get_run_time() // self.STEP)
        if number > self.number:
            if self.judge(self.size(self.number, most)):
                return None
            self.number = number
            if self.size(number - 1, most) >= most:
                self.found = f"no bend up to {self.said(most)}"
                return None
        now = self.size(number, most)
        return now, max(1.0, min(100.0, float(now)))

    @staticmethod
    def size(number: int, most: int) -> int:
        """Users of a step: from a twentieth, by half more each time, to all."""
        return min(most, max(1, math.ceil(most / 20 * 1.5**number)))

    def judge(self, users: int) -> bool:
        """Whether it bent in the step that is over."""
        end = int(watch.clock())
        sums: dict[str, list[float]] = {}
        for second in range(end - int(self.STEP - self.SETTLE), end):
            hops.add_up(sums, watch.store.seconds.get(second, {}), hops.whole(watch.store.routes))
        requests, total = sums.get(hops.TOTAL, (0, 0.0))
        failed = min(sums.get("failed", (0, 0.0))[0], requests)  # what was never sent has no time
        mean = total / requests if requests else None
        why = ""
        if mean is None:
            why = "nothing was answered"
        elif failed > self.FAILED * requests:
            why = f"{failed / requests:.1%} of the requests failed"
        elif self.first is not None and mean > max(self.WORSE * self.first, self.first + self.LEAST):
            why = f"the mean time was {mean:.0f} ms, and {self.first:.0f} ms at first"
        elif self.generator(mean).word == "INVALID":
            why = (
                f"the generator could not keep up ({self.lag:.0f} ms late, p99, where the mean time was {mean:.0f} ms)"
            )
        if why:
            self.found = f"{self.said(self.held)} held, {self.said(users)} did not: {why}"
            return True
        self.first, self.held = self.first or mean, users
        return False

    def said(self, users: int) -> str:
        environment = self.runner and self.runner.environment
        if not environment or getattr(environment.parsed_options, "model", "") != "open":
            return f"{users} users"
        rate = max((getattr(kind, "rate", 1.0) for kind in environment.user_classes), default=1.0)
        return f"{users * rate:g} arrivals a second"

    def generator(self, mean: float) -> Verdict:
        """Of the step that is over, by its lags: the other signs are the whole run's, and nobody knows of which step."""
        now = copy.deepcopy(watch.generator)
        step = Generator(now.start_lag.since(self.before.start_lag), now.loop_lag.since(self.before.loop_lag))
        self.before, self.lag = now, step.lag
        return verdict(step, mean)
