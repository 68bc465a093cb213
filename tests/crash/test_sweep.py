"""Killed at every instant, judged after every event: see `docs/testing-crash.md`."""

from __future__ import annotations

import time

import pytest
from crash.campaign import Tally, apart, try_all
from crash.conditions import Conditions
from crash.drills import baseline, kills_in_first_pair, watch
from crash.matrix import (
    CONTAINED,
    FULL,
    KILLED_ALWAYS,
    OCCURRENCES,
    POLICIES,
    ROWS,
    TORTURE,
    WRITES,
    row,
)

pytestmark = pytest.mark.timeout(36_000 if TORTURE else 600)


@pytest.mark.parametrize("name", ROWS)
def test_no_invariant_breaks(name, say):
    cases = apart(row, name)
    began = time.monotonic()
    tally = Tally.of(try_all(cases))
    took = time.monotonic() - began
    ends = ", ".join(f"{count} x exit {code}" for code, count in sorted(tally.ended.items()))
    say(
        f"{name}: {tally.cases} cases, {tally.killed} kills, {tally.children} processes, {tally.checks} checks of the "
        f"state, {took:.1f} s; {ends}"
    )
    assert tally.cases == len(cases) > 0
    assert not tally.failures, "\n".join(map(str, tally.failures[:10]))
    if name in KILLED_ALWAYS:
        assert tally.killed == tally.cases, "an instant was not met"


@pytest.mark.parametrize(
    ("name", "conditions"),
    [("replace", Conditions()), ("full saga", FULL), ("contain", CONTAINED)],
    ids=lambda x: str(x)[:9],
)
def test_instants_are_all_there_is(name, conditions, say):
    """Two around every call and three in every append: the count of instants leaves nothing out."""
    seen = apart(watch, conditions)
    assert (seen.report.ended, seen.report.code) == ("exit", 0)
    assert seen.report.instants == 2 * len(seen.report.calls) + 3 * seen.records
    say(
        f"{name}: {seen.report.instants} instants = 2 x {len(seen.report.calls)} remote calls "
        f"+ 3 x {seen.records} records"
    )


def test_a_case_that_ended_stays_as_it_is():
    again = apart(watch, Conditions()).again
    assert (again.ended, again.code, again.calls) == ("exit", 0, [])


def test_an_undisturbed_run_makes_the_writes_that_the_matrix_loses():
    for conditions, expected in ((Conditions(), OCCURRENCES), *WRITES.items()):
        writes = [call.split()[0] for call in apart(baseline, conditions).calls]
        assert {name: writes.count(name) for name in expected} == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_a_lost_secret_stops_for_a_human_or_ends_as_decided(policy, say):
    """While the first pair is written: by default a human is asked, with the outage approved nobody is needed."""
    cases = apart(kills_in_first_pair, Conditions(policy=policy))
    tally = Tally.of(verdicts := list(try_all(cases)))
    assert not tally.failures, "\n".join(map(str, tally.failures))
    say(f"lost secret, {policy}: {len(cases)} kills in the first pair; exits {dict(tally.ended)}")
    if policy == "stop":
        assert set(tally.ended) == {11}
        causes = {trouble["cause"] for verdict in verdicts for trouble in verdict.troubles}
        assert causes == {"lost-secret"}
    else:
        assert set(tally.ended) == {0}
