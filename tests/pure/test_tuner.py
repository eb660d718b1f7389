"""What loadtests/tuner.py decides, against queues that are simulated: the machine's noise and its rounds with them."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from loadtests import openmodel, tune, tuner
from loadtests.tuner import Candidate, Character, Visit, candidate
from tests.pure.conftest import app

WAITING = Character(service=0.102, cpu=0.002, worker=18, parent=15)
WORKING = Character(service=0.005, cpu=0.005, worker=18, parent=15)
MIXED = Character(service=0.025, cpu=0.005, worker=18, parent=15)
SYNC, THREADS, LOOP = "gunicorn-sync", "gunicorn-gthread", "uvicorn"
WSGI = [SYNC, THREADS]
PLENTY = 4096.0


@dataclass
class Machine:
    """Queues in front of workers or threads that share cpus, on a machine whose speed is another one in each round."""

    of: Character
    cpus: float
    rate: float
    noise: float = 0.05
    seed: int = 0
    late: int = 0
    """So many visits at the start are invalid."""

    def __post_init__(self) -> None:
        self.run = self.seed

    def visit(self, number: int, c: Candidate, seconds: float) -> Visit:
        self.seed += 1
        draw = random.Random(self.seed)
        speed = random.Random(number * 1000 + 7).uniform(0.7, 1.3) * math.exp(draw.gauss(0, self.noise))
        arrivals = openmodel.arrivals(self.rate, seconds, self.run + number)  # of a round they are the same
        totals, queues = self.served(c, arrivals, draw)
        totals = sorted(t * speed * 1000 for t in totals)
        self.late -= 1
        return Visit(
            number, c, self.rate, seconds, len(totals), 0, totals[len(totals) // 2], totals[int(len(totals) * 0.95)],
            queue=sorted(queues)[int(len(queues) * 0.95)] * 1000, nginx=0, app=self.of.service * 1000, cpu=self.of.cpu * 1000,
            cpus=1, machine=0.5, memory=self.of.worker * c.workers + self.of.parent, lag=1e6 if self.late >= 0 else 0.5, failures={},
        )  # fmt: skip

    def served(self, c: Candidate, arrivals: Iterator[float], draw: random.Random) -> tuple[list[float], list[float]]:
        """s that each request takes, and waits for a place: first a free place, then a cpu, then the wait."""
        places = [0.0] * (c.slots or 1000)
        # Of threads and loops, a worker uses one cpu at a time.
        cpus = [0.0] * max(1, min(math.ceil(self.cpus), c.workers))
        totals, queues = [], []
        for now in arrivals:
            taken = max(heapq.heappop(places), now)
            work = self.of.cpu * draw.uniform(0.7, 1.3)
            start = max(heapq.heappop(cpus), taken)
            heapq.heappush(cpus, start + work)
            end = start + work + self.of.service - self.of.cpu
            heapq.heappush(places, end)
            totals.append(end - now)
            queues.append(taken - now)
        return totals, queues


def tuned(
    machine: Machine, current: Candidate, allowed: list[str], slo: float = 1000, limit: float = PLENTY
) -> tuner.Decision:
    among = tuner.candidates(current, machine.of, machine.cpus, limit, machine.rate, allowed)
    visits = tuner.search(machine.visit, among, current, slo, 5, lambda _: None)
    return tuner.decide(visits, among, current, slo)


# --- what to try ------------------------------------------------------------------------------------------------------


def test_an_app_that_waits_is_tried_with_as_many_threads_as_its_rate_needs() -> None:
    rate = tuner.fair_rate(WAITING, cpus=1, cap=300)
    assert rate == pytest.approx(300)
    assert tuner.places(rate, WAITING) == 38  # 30.6 in work, and 1.3 times its root
    found = tuner.candidates(candidate(THREADS, 4, 8), WAITING, 1, PLENTY, rate, WSGI)
    assert found == [
        candidate(THREADS, 4, 8), candidate(SYNC, 3, 1), candidate(THREADS, 1, 32), candidate(THREADS, 2, 32),
        candidate(THREADS, 1, 64), candidate(THREADS, 2, 64), candidate(SYNC, 48, 1),
    ]  # fmt: skip


def test_the_rate_is_a_part_of_what_the_cpus_can_do() -> None:
    assert tuner.fair_rate(WORKING, cpus=2, cap=300) == pytest.approx(0.6 * 2 / 0.005)


@pytest.mark.parametrize("current", [candidate(THREADS, 4, 8), candidate(SYNC, 3, 1), candidate("granian-wsgi", 2, 8)])
@pytest.mark.parametrize("cpus", [0.5, 1, 2, 8])
@pytest.mark.parametrize("of", [WAITING, WORKING, MIXED])
def test_candidates_are_few_and_fit_and_the_current_one_is_among_them(
    current: Candidate, cpus: float, of: Character
) -> None:
    found = tuner.candidates(current, of, cpus, 150, tuner.fair_rate(of, cpus, 300), [*WSGI, "granian-wsgi"])
    assert found[0] == current
    assert len(found) == len(set(found)) <= tuner.FIELD
    assert all(c.workers <= of.fit(150) == 5 for c in found[1:])


def test_gateways_that_are_not_in_the_apps_own_image_are_not_tried() -> None:
    found = tuner.candidates(candidate(LOOP, 4, 1), MIXED, 1, PLENTY, 50, [LOOP])
    assert {c.gateway for c in found} == {LOOP}
    assert [c.workers for c in found] == [4, 3, 1, 2]


def test_memory_holds_what_is_left_beside_the_parent() -> None:
    assert WAITING.fit(100) == 3  # (80 - 15) / 18
    assert replace(WAITING, worker=200).fit(100) == 0
    assert replace(WAITING, parent=200).fit(100) < 0


# --- decisions --------------------------------------------------------------------------------------------------------


def test_waiting_wants_threads_and_no_more_processes() -> None:
    decision = tuned(Machine(WAITING, 1, 290), candidate(SYNC, 3, 1), WSGI)
    assert decision.changes
    assert decision.choice
    assert decision.choice.gateway == THREADS
    assert decision.choice.workers == 1
    assert "does not meet p95" in decision.sentence


def test_under_a_tight_memory_limit_what_fits_is_chosen() -> None:
    heavy = replace(WAITING, worker=90)
    decision = tuned(Machine(heavy, 1, 290), candidate(SYNC, 3, 1), WSGI, limit=300)
    assert decision.choice
    assert decision.choice.workers <= heavy.fit(300) == 2
    assert decision.choice.gateway == THREADS


@pytest.mark.parametrize("seed", range(0, 10_000, 1000))
def test_more_workers_than_cpus_are_not_chosen_for_noise(seed: int) -> None:
    """On one cpu 1, 2, 3 and 4 loops are the same."""
    decision = tuned(Machine(WORKING, 1, 120, noise=0.15, seed=seed), candidate(LOOP, 4, 1), [LOOP])
    assert not decision.changes or (decision.choice and decision.choice.workers <= 2)


@pytest.mark.parametrize("of", [WAITING, WORKING, MIXED], ids=["waiting", "working", "mixed"])
@pytest.mark.parametrize("gateway", [THREADS, LOOP])
def test_runs_choose_the_same_class_and_counts_within_one_step(of: Character, gateway: str) -> None:
    rate = tuner.fair_rate(of, 2, 300)
    current = candidate(SYNC, 5, 1) if gateway == THREADS else candidate(LOOP, 5, 1)
    among = WSGI if gateway == THREADS else [LOOP]
    found = [
        tuned(Machine(of, 2, rate, noise=0.10, seed=seed), current, among).choice for seed in range(0, 12_000, 1000)
    ]
    assert len({c.gateway for c in found if c}) == 1
    assert None not in found
    _, frequent = Counter(c.workers for c in found if c).most_common(1)[0]
    assert frequent >= 10, Counter(map(str, found))


def test_nothing_separates_them_and_nothing_changes() -> None:
    decision = tuned(
        Machine(replace(WORKING, cpu=0.0004, service=0.0005), 1, 50, noise=0.02), candidate(LOOP, 4, 1), [LOOP]
    )
    assert decision.sentence.startswith(
        "nothing separates the 4 configurations at this rate, so uvicorn, 4 workers stays."
    )
    assert decision.choice == candidate(LOOP, 4, 1)
    assert not decision.changes


def test_what_is_best_already_stays() -> None:
    decision = tuned(Machine(WAITING, 1, 290), candidate(THREADS, 1, 64), WSGI)
    assert not decision.changes or (decision.choice and decision.choice < candidate(THREADS, 1, 64))


def test_an_slo_that_nothing_meets_is_said_with_the_nearest() -> None:
    decision = tuned(Machine(WAITING, 1, 290), candidate(SYNC, 3, 1), WSGI, slo=50)
    assert decision.choice is None
    assert not decision.changes
    assert decision.sentence.startswith(
        "no configuration meets p95 <= 50 ms with 20% to spare: the lowest p95 without a failure was "
    )


def test_invalid_visits_are_repeated_twice_and_never_counted() -> None:
    machine, c = Machine(WAITING, 1, 290, late=2), candidate(THREADS, 1, 64)
    visits = tuner.search(machine.visit, [c], c, 1000, 5, lambda _: None)
    assert [v.valid for v in visits[:3]] == [False, False, True]
    assert tuner.ratio(visits, c, c) == tuner.Ratio(1, 1, 1, 2)
    always = tuner.search(Machine(WAITING, 1, 290, late=1000).visit, [c], c, 1000, 5, lambda _: None)
    assert len(always) == tuner.ROUNDS[0] * (1 + tuner.REPEATS)
    nothing = tuner.decide(always, [c], c, 1000)
    assert (nothing.choice, nothing.known) == (None, False)
    assert "the load generator was late in 6 of 6 visits" in nothing.sentence


def test_a_present_one_that_was_never_measured_rightly_is_not_said_to_miss_the_limit() -> None:
    visits = [visit(n, c, 100, lag=5000.0 if c == A else 0.5) for n in range(1, 5) for c in (A, B)]
    decision = tuner.decide(visits, [A, B], A, 1000)
    assert (decision.choice, decision.known, decision.changes) == (None, False, False)
    assert decision.sentence.startswith("too little is known of uvicorn, 1 worker: ")
    assert A in tuner.survivors(visits, [A, B], 1000, A), "it is asked again"


def test_each_round_goes_the_other_way_round_and_all_of_it_ends() -> None:
    machine = Machine(WORKING, 1, 120, noise=0.3)
    among = [candidate(LOOP, n, 1) for n in (4, 3, 1, 2)]
    visits = tuner.search(machine.visit, among, among[0], 1000, 5, lambda _: None)
    order = [[v.candidate.workers for v in visits if v.round == number] for number in (1, 2)]
    assert order == [[4, 3, 1, 2], [2, 1, 3, 4]]
    assert max(v.round for v in visits) <= tuner.ROUNDS[-1]
    assert {v.seconds for v in visits if v.round > tuner.ROUNDS[1]} <= {10}


def test_what_is_hopeless_is_measured_no_more() -> None:
    machine, slow = Machine(WAITING, 1, 290), candidate(SYNC, 3, 1)
    among = tuner.candidates(candidate(THREADS, 2, 32), WAITING, 1, PLENTY, 290, WSGI)
    visits = tuner.search(machine.visit, among, among[0], 1000, 5, lambda _: None)
    assert slow in among
    assert {v.round for v in visits if v.candidate == slow} == {1, 2}


# --- ratios -----------------------------------------------------------------------------------------------------------

A, B = candidate(LOOP, 1, 1), candidate(LOOP, 2, 1)


def visit(number: int, c: Candidate, p95: float, **changed: object) -> Visit:
    v = Visit(number, c, 50, 5, 250, 0, p95 / 2, p95, 0, 0, 5, 5, 0.5, 0.5, 50, 0.5, {})
    return replace(v, **changed)  # type: ignore[arg-type]


def test_only_visits_of_one_round_are_compared() -> None:
    visits = [visit(1, A, 100), visit(1, B, 50), visit(2, A, 1000), visit(2, B, 250), visit(3, A, 7), visit(4, B, 9)]
    found = tuner.ratio(visits, A, B)
    assert found
    assert (found.low, found.high) == pytest.approx((2, 4))
    assert found.rounds == 2
    assert found.middle == pytest.approx(math.sqrt(8))
    assert tuner.ratio(visits[4:], A, B) is None


def test_many_rounds_narrow_the_interval() -> None:
    draw = random.Random(3)
    visits = [v for n in range(8) for v in (visit(n, A, 100 * math.exp(draw.gauss(0, 0.2))), visit(n, B, 100))]
    logs = [math.log(v.p95 / 100) for v in visits if v.candidate == A]
    found = tuner.ratio(visits, A, B)
    assert found
    assert min(logs) < math.log(found.low) < math.log(found.middle) < math.log(found.high) < max(logs)


def test_a_smaller_one_within_a_tenth_is_chosen_and_one_beyond_it_is_not() -> None:
    close = [v for n in range(4) for v in (visit(n, A, 109), visit(n, B, 100))]
    assert tuner.decide(close, [A, B], B, 1000).choice == B, "of two that nothing separates the present one stays"
    third = candidate(LOOP, 3, 1)
    assert tuner.decide([*close, *(visit(n, third, 200) for n in range(4))], [A, B, third], third, 1000).choice == A
    apart = [v for n in range(4) for v in (visit(n, A, 130), visit(n, B, 100))]
    assert tuner.decide(apart, [A, B], A, 1000).choice == B


def test_failures_in_more_than_one_visit_of_three_are_no_good() -> None:
    well = [visit(n, A, 100) for n in range(2)]
    assert tuner.good([*well, visit(2, A, 100, failed=1)], A, 1000)
    assert not tuner.good([*well[:1], visit(2, A, 100, failed=1)], A, 1000)
    assert not tuner.good([visit(n, A, 900) for n in range(3)], A, 1000), "a fifth is to spare"


# --- capacity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("carries", "first"), [(100, 90), (100, 400), (100, 3), (7, 300), (250, 250), (0.2, 50)])
def test_the_highest_rate_is_found_from_above_and_below(carries: float, first: float) -> None:
    tried: dict[float, bool] = {}
    while (rate := tuner.next_rate(tried, first, 300)) and len(tried) < 30:
        tried[rate] = rate <= carries
    assert len(tried) < 20
    found = tuner.highest(tried)
    assert (found == 0) if carries < 1 else (carries / tuner.FINE <= found <= carries)


def test_a_cap_ends_the_search() -> None:
    assert tuner.next_rate({300: True}, 100, 300) is None


BROKE: list[tuple[dict[str, object], int | None, str]] = [
    ({"lag": 5000}, 8, "the client: the load generator was late"),
    ({"memory": 250}, 8, "memory: 250 of 256 MiB in use"),
    ({"cpus": 0.95}, 8, "CPU: the app used 0.95 of its 1 cpus"),
    ({"machine": 0.97}, 8, "CPU: 97% of this machine's cores were busy"),
    ({"rate": 80, "app": 100, "queue": 900}, 8, "workers and threads: 8 of 8 held a request, and others waited 900 ms"),
    ({"nginx": 700}, 8, "Nginx: 700 ms"),
    ({"queue": 700}, None, "the queue in front of the gateway: 700 ms"),
    ({"app": 700, "rate": 1}, 8, "the app itself: 700 ms"),
]


@pytest.mark.parametrize(("changed", "slots", "said"), BROKE, ids=[said.partition(":")[0] for _, _, said in BROKE])
def test_what_is_in_the_way_is_told_by_its_hop(changed: dict[str, object], slots: int | None, said: str) -> None:
    assert tuner.broke(visit(1, A, 2000, **changed), slots, 1, 256).startswith(said)


def test_the_lowest_ceiling_is_the_next_bottleneck() -> None:
    found = tuner.ceilings(WAITING, 8, 1, 2, 0.0001, 600)
    assert list(found)[:2] == ["workers and threads", "the app's cpus"]
    assert found["workers and threads"] == pytest.approx(8 / 0.102)


def test_the_advice_says_how_many_times_more_a_cpu_carries() -> None:
    assert "waits 98% of its time: while one request waits, a cpu can carry 51 times as many" in tuner.advice(WAITING)
    assert tuner.advice(WORKING).startswith("The app computes 100% of its time: more workers than cpus gain nothing")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_that_are_written_fit_their_memory_by_what_was_measured() -> None:
    assert tune.settings(candidate(SYNC, 16, 1), WAITING, app()) == {
        "gateway": SYNC, "workers": 16, "worker_memory": "18M", "waits": 0.98
    }  # fmt: skip
    assert tune.settings(candidate(THREADS, 2, 16), WORKING, app()) == {
        "gateway": THREADS, "workers": 2, "threads": 16, "waits": 0.0
    }  # fmt: skip
