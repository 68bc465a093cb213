"""In which worlds a mutant must be seen: for each a row of cases, tried until one names a broken invariant."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from crash.campaign import Case, Verdict, scratch, try_case
from crash.child import CASE, EVENTS, Report, begin, run_child
from crash.conditions import RETIRE, UNDO, Conditions, Part, Stranger
from crash.saga_mutants import MUTANTS
from crash.worlds import API

from playbook.journal import read
from playbook.model import Recovery

REWRITE, CUT = Recovery.REWRITE_SWITCHED.value, Recovery.CUT_OLD.value
PLAIN = Conditions()
INLINE = Conditions(canaries="inline")
OVERRIDDEN = Conditions(canaries="broken", overrides=4)


@cache
def baseline(conditions: Conditions) -> Verdict:
    """The same world with nothing in its way: how many instants and calls it has."""
    return try_case(Case(conditions=replace(conditions, mutant="")))


def uninterrupted(conditions: Conditions = PLAIN, *faults: str) -> Iterator[Case]:
    """One process that nobody kills."""
    yield Case(conditions=conditions, parts=(Part(faults=faults),))


def kills(conditions: Conditions = PLAIN, *, since: str = "") -> Iterator[Case]:
    """A kill at every instant, or at those from the first call of an operation on."""
    first = instant_of(conditions, since) if since else 1
    for instant in range(first, baseline(conditions).instants + 1):
        yield Case(conditions=conditions, parts=(Part(kill_at=instant),))


def kills_in_first_pair(conditions: Conditions) -> list[Case]:
    """Kills from the effect of the first write into a sink to the end of its pair."""
    first = instant_of(conditions, "put_variable")
    return [Case(conditions=conditions, parts=(Part(kill_at=at),)) for at in range(first + 1, first + 9)]


def two_kills(conditions: Conditions) -> Iterator[Case]:
    """A kill once the first pair is written, and another one at many instants of the resumed process."""
    written = instant_of(conditions, "put_variable") + 6
    for first in range(written, written + 40, 4):
        for second in range(60, 200, 3):
            yield Case(conditions=conditions, parts=(Part(kill_at=first), Part(kill_at=second)))


def strangers(
    what: str, where: str = "ci-deploy", conditions: Conditions = PLAIN, faults: tuple[str, ...] = ()
) -> Iterator[Case]:
    """A stranger at every call after our create intent."""
    for at in range(1, len(calls_since_intent(conditions)) + 1):
        yield Case(
            conditions=conditions, parts=(Part(faults=faults, strangers=(Stranger(at=at, what=what, where=where),)),)
        )


def instant_of(conditions: Conditions, operation: str) -> int:
    """The instant just before the first call of an operation."""
    base = baseline(conditions)
    return next(at for at, call in zip(base.called_at, base.calls, strict=True) if call.startswith(operation))


def stranger_then_death(what: str, where: str, operation: str, instants: int = 45) -> Iterator[Case]:
    """A stranger just before a call of ours, and a kill at each of the next instants."""
    calls = calls_since_intent(PLAIN)
    at = 1 + next(i for i, call in enumerate(calls) if call.startswith(operation))
    first = instant_of(PLAIN, operation)
    for instant in range(first + 1, first + 1 + instants):
        stranger = Stranger(at=at, what=what, where=where)
        yield Case(parts=(Part(kill_at=instant, strangers=(stranger,)),))


def calls_since_intent(conditions: Conditions) -> list[str]:
    """The remote calls from the first create on."""
    calls = baseline(conditions).calls
    return calls[next(i for i, call in enumerate(calls) if call.startswith("create_access_key")) :]


def kills_before(conditions: Conditions, operation: str, instants: int) -> Iterator[Case]:
    """A kill at each of the instants that come before the first call of an operation."""
    last = instant_of(conditions, operation)
    for instant in range(last - instants, last, 3):
        yield Case(conditions=conditions, parts=(Part(kill_at=instant),))


def killed_after(conditions: Conditions) -> Iterator[Case]:
    """A run that ended well, and what comes after it killed at each of its instants."""
    after = baseline(conditions).after
    assert after is not None
    for instant in range(1, after.instants + 1):
        yield Case(conditions=conditions, after=(Part(kill_at=instant),))


def used_afterwards() -> Iterator[Case]:
    """Somebody tries the old key just before each call of a retirement."""
    for at in range(1, 8):
        stranger = Stranger(at=at, what="use-old", at_once=True)
        yield Case(conditions=Conditions(then=RETIRE), after=(Part(strangers=(stranger,)),))


def undone_at(operation: str) -> Iterator[Case]:
    """An undo right after each instant that follows an operation."""
    world = Conditions(then=UNDO, early=True)
    first = instant_of(Conditions(), operation)
    for instant in range(first, first + 8):
        yield Case(conditions=world, parts=(Part(kill_at=instant),))


def undone_early(conditions: Conditions, operation: str, since: int) -> Iterator[Case]:
    """A kill at each of the instants around an operation, and an undo instead of going on."""
    first = instant_of(replace(conditions, early=False, then=""), operation) + since
    for instant in range(first, first + 12):
        yield Case(conditions=conditions, parts=(Part(kill_at=instant),))


def kept_and_meddled() -> Iterator[Case]:
    """The old key cut off because the new one's secret is lost, and a stranger's key before the last look."""
    world = Conditions(policy=CUT)
    written = instant_of(world, "put_variable") + 8
    for at in range(20, 60, 2):
        stranger = Stranger(at=at, what="key")
        yield Case(conditions=world, parts=(Part(kill_at=written), Part(strangers=(stranger,))))


def leases_after_ours() -> Iterator[Case]:
    """Another case's lease, written over ours a moment after it was taken."""
    first = at_call("tag_user") + 1
    for at in range(first, first + 6):
        yield Case(parts=(Part(strangers=(Stranger(at=at, what="lease", at_once=True),)),))


def at_call(operation: str) -> int:
    """The number of the first call of an operation in the default world."""
    return next(at for at, call in enumerate(baseline(PLAIN).calls, start=1) if call.startswith(operation))


DRILLS: dict[str, Callable[[], Iterator[Case]]] = {
    "never-mint-again": lambda: kills(since="put_variable"),
    "intent-after-effect": uninterrupted,
    "torn-tail-kept": kills,
    "verified-before-applied": uninterrupted,
    "old-key-off-first": uninterrupted,
    "reset-although-held": lambda: kills(since="put_variable"),
    "delete-unproved": lambda: strangers("key", faults=("drop-request:create_access_key:1",)),
    "absent-while-listing-lags": lambda: uninterrupted(PLAIN, "drop-reply:create_access_key:1"),
    "trust-a-verified-gate": lambda: strangers("put-old", "ctx-deploy"),
    "sdk-retries-create": lambda: uninterrupted(PLAIN, "drop-reply:create_access_key:1"),
    "delete-the-oldest-to-make-room": lambda: strangers("key", "ci-ecr"),
    "delete-then-add": uninterrupted,
    "delete-an-active-key": lambda: kills(since="create_access_key"),
    "overwrite-the-unknown": lambda: strangers("put-unknown", "ctx-deploy"),
    "half-a-pair": uninterrupted,
    "mint-beside-the-orphan": lambda: kills(Conditions(quota=3), since="identify"),
    "skip-the-proof": uninterrupted,
    "no-read-back": lambda: uninterrupted(PLAIN, "drop-request:put_variable:1"),
    "no-last-look": lambda: kills(Conditions(policy=CUT), since="put_variable"),
    "no-parking": lambda: uninterrupted(PLAIN, "deny:put_variable:1x99"),
    "no-undo": lambda: strangers("put-old", "ctx-deploy"),
    "no-sync": uninterrupted,
    "recovery-cuts-too-much": kills,
    "replay-the-open-intent": lambda: kills(since="create_access_key"),
    "outage-not-approved": lambda: kills(Conditions(policy=REWRITE), since="put_variable"),
    "proof-waits-for-stores": lambda: kills(Conditions(policy=REWRITE), since="put_variable"),
    "kept-key-forgotten": lambda: two_kills(Conditions(policy=CUT)),
    "stale-list-believed": lambda: kills(Conditions(policy=REWRITE, stale=True), since="put_variable"),
    "old-try-claims-new-key": lambda: uninterrupted(
        PLAIN, "drop-request:create_access_key:1", "drop-reply:create_access_key:1"
    ),
    "refusal-not-explained": lambda: strangers("key", conditions=Conditions(lag="none")),
    "no-undo-of-an-open-intent": lambda: stranger_then_death("put-old", "ctx-deploy", "set_key_status"),
    "undo-counted-by-its-intent": lambda: stranger_then_death("put-old", "ctx-deploy", "set_key_status"),
    "denial-dated-by-its-intent": lambda: uninterrupted(Conditions(strategy="contain", lag="long")),
    "denial-unread": lambda: uninterrupted(Conditions(strategy="contain"), "drop-request:put_user_policy:1"),
    "skip-the-canary": lambda: uninterrupted(INLINE),
    "canary-verdict-ignored": lambda: uninterrupted(INLINE),
    "gate-skipped-instead-of-overridden": lambda: uninterrupted(OVERRIDDEN),
    "override-without-reason": lambda: uninterrupted(OVERRIDDEN),
    "override-not-approved": lambda: uninterrupted(OVERRIDDEN),
    "silence-from-the-start": lambda: uninterrupted(Conditions(silence=600)),
    "drain-forgets-after-resume": lambda: kills_before(Conditions(busy=True), "set_key_status", 90),
    "lease-ignored": lambda: uninterrupted(Conditions(foreign="lease")),
    "lease-released-though-foreign": lambda: strangers("lease"),
    "lease-left-behind": uninterrupted,
    "slot-victim-not-proved-unused": lambda: uninterrupted(Conditions(spare="on")),
    "sessions-dated-too-early": lambda: uninterrupted(Conditions(strategy="contain", lag="long")),
    "foreign-policy-overwritten": lambda: uninterrupted(Conditions(strategy="contain", foreign="policy")),
    "sessions-not-revoked": lambda: uninterrupted(Conditions(strategy="contain")),
    "block-never-lifted": lambda: uninterrupted(
        Conditions(strategy="contain", severity="confirmed", block=True, busy=True)
    ),
    "rerun-sent-again": lambda: strangers(
        "build", API, Conditions(strategy="contain"), ("drop-reply:rerun_workflow:1",)
    ),
    "checkout-key-sent-again": lambda: uninterrupted(Conditions(secrets=True), "drop-reply:create_checkout_key:1"),
    "old-checkout-key-first": lambda: uninterrupted(Conditions(secrets=True)),
    "retire-without-soak": lambda: uninterrupted(Conditions(then=RETIRE, returns_after_s=60)),
    "missed-key-retired": used_afterwards,
    "retire-without-reading-again": lambda: uninterrupted(Conditions(then=RETIRE)),
    "undo-reactivates-our-orphan": lambda: uninterrupted(Conditions(then=UNDO, early=True), "deny:put_variable:1x99"),
    "undo-skips-a-key": lambda: uninterrupted(Conditions(then=UNDO)),
    "contained-key-has-no-places": lambda: uninterrupted(Conditions(strategy="contain", then=RETIRE)),
    "undo-believes-a-lagging-read": lambda: undone_at("tag_user"),
    "spent-slot-refuses-its-answer": lambda: uninterrupted(Conditions(spare="off")),
    "undo-believes-a-delete-intent": lambda: undone_early(
        Conditions(spare="on", then=UNDO, early=True), "delete_access_key", -5
    ),
    "unlisted-key-is-gone": lambda: undone_early(Conditions(lag="long", then=UNDO, early=True), "create_access_key", 1),
    "kept-key-not-parked": kept_and_meddled,
    "undone-lease-counts-as-released": leases_after_ours,
    "deleted-key-is-asked-about": lambda: killed_after(Conditions(then=RETIRE)),
}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One process that nothing befell, and what it left."""

    report: Report
    records: int
    again: Report
    """A second process on the same case."""
    events: tuple[str, ...]


def watch(conditions: Conditions) -> Watched:
    """Run a world undisturbed, twice."""
    folder = scratch()
    try:
        begin(folder, conditions)
        (folder / EVENTS).touch()
        report = run_child(folder, conditions, Part(), 0)
        events = (folder / EVENTS).read_text().splitlines()
        records = len(read(folder / CASE).records)
        again = run_child(folder, conditions, Part(), 1)
        return Watched(report=report, records=records, again=again, events=tuple(events))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Trialed:
    """How a mutant fared."""

    name: str
    verdict: Verdict | None
    """The case that failed; None when it survived all."""
    executions: int


def try_mutant(name: str) -> Trialed:
    """Try a mutant's cases in order until one fails."""
    executions = 0
    for case in DRILLS[name]():
        executions += 1
        verdict = try_case(replace(case, conditions=replace(case.conditions, mutant=name)))
        if not verdict.clean:
            return Trialed(name=name, verdict=verdict, executions=executions)
    return Trialed(name=name, verdict=None, executions=executions)


assert DRILLS.keys() == MUTANTS.keys()
