"""Random histories of several kills, lanes side by side; `SEED=n` tries one of them again, event by event the same."""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest
from crash.campaign import apart, try_all
from crash.conditions import Conditions
from crash.drills import watch
from crash.histories import history
from crash.matrix import TORTURE

HISTORIES = int(os.environ.get("HISTORIES", "5000" if TORTURE else "500"))
SEED = os.environ.get("SEED")

pytestmark = pytest.mark.timeout(36_000 if TORTURE else 600)


def test_histories(say):
    seeds = [int(SEED)] if SEED is not None else list(range(HISTORIES))
    began = time.monotonic()
    verdicts = list(try_all([history(seed) for seed in seeds]))
    took = time.monotonic() - began
    failed = [verdict for verdict in verdicts if not verdict.clean]
    for verdict in failed:
        seed = verdict.case.conditions.seed
        say(f"SEED={seed} pytest tests/crash/test_histories.py  # {verdict}")
    kills = Counter(verdict.killed for verdict in verdicts)
    spread = ", ".join(f"{count} with {number}" for number, count in sorted(kills.items()))
    say(
        f"histories: {len(verdicts)} (seeds {seeds[0]} to {seeds[-1]}), {sum(v.killed for v in verdicts)} kills "
        f"({spread}), {sum(v.children for v in verdicts)} processes, {took:.1f} s"
    )
    if SEED is not None:
        say(f"events of seed {SEED}: sha256 {verdicts[0].events}, {verdicts[0]}")
    assert not failed
    if SEED is None:
        several = sum(count for number, count in kills.items() if 2 <= number <= 5)
        assert several >= 0.8 * len(verdicts), "too few histories were killed twice or more"


def test_a_seed_replays_the_same_events(say):
    """Each seed twice, in processes with different hash seeds: the same events in the same order."""
    seeds = [int(SEED)] if SEED is not None else [*range(3, 9)]
    verdicts = list(try_all([history(seed) for seed in seeds for _ in range(2)]))
    for first, second in zip(verdicts[::2], verdicts[1::2], strict=True):
        assert first.events == second.events
        assert (first.ended, first.children, first.killed) == (second.ended, second.children, second.killed)
    assert len({verdict.events for verdict in verdicts}) == len(seeds), "different seeds, and yet the same history"
    say(f"replay: {len(seeds)} seeds twice, the same events each time")


def test_lanes_really_interleave():
    """With two users side by side their writes are mixed, and not in one order for every seed."""
    orders = {_order(apart(watch, Conditions(parallel=4, pilot=0, seed=seed))) for seed in range(6)}
    assert len(orders) > 2
    assert any(order not in {"ddddeeee", "eeeedddd"} for order in orders)


def _order(seen):
    assert (seen.report.ended, seen.report.code) == ("exit", 0), seen.report.detail
    puts = [event for event in seen.events if "before put_variable" in event]
    return "".join("d" if "deploy" in event or "api" in event else "e" for event in puts)
