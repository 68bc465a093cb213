"""One pace for all threads: turns in order, halved on push-back, grown on success."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from playbook.clients.budget import PAUSE_LIMIT_S, Budget, budget_towards


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def budget(clock, **settings):
    return Budget(monotonic=clock.monotonic, sleep=clock.sleep, **settings)


def test_a_burst_is_free_and_then_calls_are_spaced_by_the_rate():
    clock = Clock()
    paced = budget(clock, rate=10, burst=5)
    times = []
    for _ in range(25):
        paced.take()
        times.append(clock.now - 100)
    assert times[:6] == [0] * 6
    assert times[-1] == pytest.approx((25 - 6) / 10, abs=0.11)


def test_push_back_halves_the_rate_once_however_many_calls_fail_together():
    clock = Clock()
    paced = budget(clock, rate=16)
    for _ in range(16):
        paced.throttled()
    assert paced.rate == 8
    clock.now += 1
    paced.throttled()
    assert paced.rate == 4


def test_the_rate_never_leaves_its_bounds():
    clock = Clock()
    paced = budget(clock, rate=2, least=0.5, most=4)
    for _ in range(10):
        clock.now += 1
        paced.throttled()
    assert paced.rate == 0.5
    for _ in range(1000):
        paced.succeeded()
    assert paced.rate == 4


def test_success_grows_the_rate_by_about_one_a_second():
    clock = Clock()
    paced = budget(clock, rate=10, most=1000)
    for _ in range(10):
        paced.succeeded()
    assert 10.9 < paced.rate < 11.0


def test_retry_after_holds_everybody_and_a_saved_up_burst_is_gone():
    clock = Clock()
    paced = budget(clock, rate=10, burst=10)
    clock.now += 60
    paced.throttled(7)
    paced.take()
    assert clock.now == 167
    paced.take()
    assert clock.now > 167.1


def test_an_absurd_retry_after_is_cut():
    clock = Clock()
    paced = budget(clock)
    paced.throttled(10**9)
    paced.take()
    assert clock.now == 100 + PAUSE_LIMIT_S


@seed(2)
@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["take", "ok", "slow", "pause", "wait"]), max_size=60))
def test_whatever_happens_the_rate_is_bounded_and_no_minute_exceeds_it(story):
    clock = Clock()
    paced = budget(clock, rate=8, least=0.5, most=16, burst=4)
    taken = []
    for event in story:
        match event:
            case "take":
                paced.take()
                taken.append(clock.now)
            case "ok":
                paced.succeeded()
            case "slow":
                paced.throttled()
            case "pause":
                paced.throttled(3)
            case "wait":
                clock.now += 0.7
        assert 0.5 <= paced.rate <= 16
    assert taken == sorted(taken)
    for start in taken:
        assert sum(start <= at < start + 1 for at in taken) <= 16 + 4 + 2


def test_threads_never_share_a_turn():
    slept, lock = [], threading.Lock()

    def sleep(seconds):
        with lock:
            slept.append(round(seconds, 6))

    paced = Budget(rate=100, burst=1, monotonic=lambda: 5.0, sleep=sleep)
    threads = [threading.Thread(target=lambda: [paced.take() for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slept) == len(set(slept)) == 8 * 50 - 2
    print(f"{len(slept)} waits, all different")


def test_a_server_on_this_machine_starts_without_a_limit_and_may_set_one():
    local = budget_towards(loopback=True, rate=2, most=2)
    assert local.rate == 1000
    local.throttled()
    assert local.rate == 500
    assert budget_towards(loopback=False, rate=2, most=2).rate == 2
