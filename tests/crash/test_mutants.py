"""The sweep can fail: every deliberate fault is seen, by an invariant's name."""

from __future__ import annotations

import time

import pytest
from crash.campaign import workers
from crash.drills import DRILLS, try_mutant
from crash.saga_mutants import MUTANTS

NINE = {
    "never-mint-again",
    "intent-after-effect",
    "torn-tail-kept",
    "verified-before-applied",
    "old-key-off-first",
    "reset-although-held",
    "delete-unproved",
    "absent-while-listing-lags",
    "trust-a-verified-gate",
}
INVARIANTS = {
    "I1",
    "I2",
    "I3",
    "I3b",
    "I4",
    "I5",
    "I6",
    "I6b",
    "I6c",
    "I7",
    "I8",
    "I9",
    "I10",
    "I11",
    "I13",
    "I16",
    "L1",
}
pytestmark = pytest.mark.timeout(600)


def test_every_mutant_has_a_drill_and_the_nine_are_among_them():
    assert DRILLS.keys() == MUTANTS.keys()
    assert MUTANTS.keys() >= NINE


def test_every_mutant_is_killed_by_a_named_invariant_and_every_invariant_kills(say):
    began = time.monotonic()
    tried = list(workers().map(try_mutant, DRILLS))
    for item in tried:
        how = item.verdict.invariant if item.verdict is not None else "survived"
        say(f"mutant {item.name} -> {how} after {item.executions} case(s)")
    executions = sum(item.executions for item in tried)
    say(f"mutants: {len(tried)}, {executions} cases, {time.monotonic() - began:.1f} s")
    for item in tried:
        assert item.verdict is not None, f"{item.name} survived {item.executions} cases"
        assert item.verdict.invariant in MUTANTS[item.name].expected, str(item.verdict)
    seen = {item.verdict.invariant for item in tried if item.verdict is not None}
    assert seen == INVARIANTS, "an invariant that no mutant falls to may be one that cannot fail"
