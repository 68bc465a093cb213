"""The rows of cases that the sweep tries: every instant of the saga in several worlds, and samples of the others.

`TORTURE=1` takes all of each row. Without it a row is thinned to every n-th case, each row beginning elsewhere, so
that the rows together still meet every kind of instant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain, count, islice, product
from typing import Final

from crash.campaign import Case
from crash.conditions import LAGS, RETIRE, UNDO, Conditions, Part, Stranger
from crash.drills import baseline, calls_since_intent, instant_of, killed_after, kills, stranger_then_death, strangers
from crash.worlds import API, PAIRS, WEB
from two_users import OLD

from playbook.model import Recovery

TORTURE: Final = bool(os.environ.get("TORTURE"))
STRATEGIES: Final = ("replace", "contain")
POLICIES: Final = tuple(recovery.value for recovery in Recovery)
LOST: Final = ("drop-reply", "drop-request", "server-error-applied")
"""Replies and requests that are lost, so that nobody knows."""
REFUSED: Final = ("throttle:{}:{}", "deny:{}:{}x99", "server-error:{}:{}")
OCCURRENCES: Final = {"create_access_key": 2, "put_variable": 8, "set_key_status": 2}
"""How often an undisturbed run of the default world makes each write that it cannot do without."""
FULL: Final = Conditions(canaries="inline", spare="on", busy=True, silence=600, secrets=True)
"""A replacement with everything that can stand before it: a slot to free, canaries, jobs to drain, silence, secrets."""
CONTAINED: Final = Conditions(
    strategy="contain", severity="confirmed", role=True, block=True, busy=True, secrets=True, silence=600
)
"""A containment with everything: work blocked, what runs cancelled, sessions of a user and a role ended."""
SAGA: Final = (
    Conditions(canaries="rerun", spare="off"),
    Conditions(canaries="inline", strategy="mixed", severity="confirmed", role=True),
    Conditions(canaries="broken"),
    Conditions(canaries="broken", overrides=len(PAIRS)),
    Conditions(severity="routine", canaries="inline"),
    Conditions(foreign="lease"),
    Conditions(foreign="stale-lease", busy=True),
    Conditions(foreign="policy", strategy="contain"),
    Conditions(first_minute=True, severity="confirmed", canaries="inline"),
)
"""What else the saga meets."""
WRITES: Final = {
    FULL: {
        "tag_user": 2,
        "untag_user": 2,
        "run_inline": 4,
        "create_checkout_key": 1,
        "delete_checkout_key": 1,
        "set_webhook_secret": 1,
        "delete_access_key": 1,
    },
    CONTAINED: {
        "put_user_policy": 2,
        "put_role_policy": 1,
        "set_running_disabled": 2,
        "cancel_workflow": 1,
        "set_key_status": 2,
    },
    Conditions(canaries="rerun"): {"rerun_workflow": 4},
}
"""How often an undisturbed run makes each of the saga's other writes, and in which world."""
_offsets = count()


def thinned(cases: Iterator[Case], every: int) -> list[Case]:
    """All cases under TORTURE, else every n-th from the next offset on."""
    return list(cases) if TORTURE else list(islice(cases, next(_offsets) % every, None, every))


def worlds() -> Iterator[Conditions]:
    """Strategy by policy by lag, and lists that show old tails while they lag."""
    for strategy, policy, lag in product(STRATEGIES, POLICIES, LAGS):
        yield Conditions(strategy=strategy, policy=policy, lag=lag)
        if lag != "none":
            yield Conditions(strategy=strategy, policy=policy, lag=lag, stale=True)


def every_instant() -> list[Case]:
    """The default world, killed at each of its instants."""
    return thinned(kills(), 4)


def full_saga() -> list[Case]:
    """The two worlds that have everything, killed at each of their instants."""
    return thinned(kills(FULL), 12) + thinned(kills(CONTAINED), 12)


def in_lanes() -> list[Case]:
    """The same with all lanes side by side, each instant under an interleaving of its own."""
    return [case for world in (FULL, CONTAINED) for case in thinned(_in_lanes(world), 23)]


def _in_lanes(world: Conditions) -> Iterator[Case]:
    for seed, case in enumerate(kills(world)):
        yield Case(
            conditions=Conditions(**{**world.__dict__, "parallel": 4, "pilot": 0, "seed": seed}), parts=case.parts
        )


def every_world() -> list[Case]:
    """Every other world, killed."""
    rest = [world for world in worlds() if world != Conditions()]
    rest += [Conditions(trail_denied=True), *SAGA]
    return [case for world in rest for case in thinned(kills(world), 211)]


# --- Afterwards -----------------------------------------------------------------------------------------------------


def _afterlives() -> Iterator[Conditions]:
    for then in (RETIRE, UNDO):
        yield Conditions(then=then)
        yield Conditions(**{**FULL.__dict__, "then": then})
        yield Conditions(**{**CONTAINED.__dict__, "then": then})
        yield Conditions(first_minute=True, severity="confirmed", then=then)


def afterwards() -> list[Case]:
    """A run that ended well, then a retirement or an undo, killed at each of its instants."""
    return [case for world in _afterlives() for case in thinned(killed_after(world), 9)]


def meddled_afterwards() -> list[Case]:
    """Somebody uses the old key, puts it back into a place or writes there, at each call of a retirement or an undo."""
    return [case for world in _afterlives() for case in thinned(_meddled_after(world), 37)]


def _meddled_after(world: Conditions) -> Iterator[Case]:
    after = baseline(world).after
    assert after is not None
    doings = [("use-old", "ci-deploy"), ("put-old", "ctx-deploy"), ("put-unknown", API), ("key", "ci-ecr")]
    for at, (what, where) in product(range(1, len(after.calls) + 1), doings):
        yield Case(conditions=world, after=(Part(strangers=(Stranger(at=at, what=what, where=where, at_once=True),)),))


def undone_early() -> list[Case]:
    """An undo of what a run that died at each of its instants has done so far."""
    plain = Conditions(then=UNDO, early=True)
    contained = Conditions(**{**CONTAINED.__dict__, "then": UNDO, "early": True})
    return [case for world in (plain, contained) for case in thinned(_undone_early(world), 41)]


def _undone_early(world: Conditions) -> Iterator[Case]:
    for instant in range(1, baseline(Conditions(**{**world.__dict__, "early": False})).instants + 1):
        yield Case(conditions=world, parts=(Part(kill_at=instant),))


# --- Strangers ------------------------------------------------------------------------------------------------------


def every_stranger() -> list[Case]:
    """A stranger's key at each call after our intent; and other strangers' doings, more thinly."""
    cases = [case for user in OLD for case in thinned(strangers("key", user), 5)]
    for strategy, lag in product(STRATEGIES, LAGS):
        world = Conditions(strategy=strategy, lag=lag)
        rows = [("key", user) for user in OLD] + [("off-new", user) for user in OLD]
        rows += [(what, pair.sink.id) for what in ("put-old", "put-unknown") for pair in PAIRS]
        for what, where in rows:
            if world != Conditions() or what != "key":
                cases += thinned(strangers(what, where, world), 101)
    return cases


def saga_strangers() -> list[Case]:
    """A lease at each call, the old key used during its silence, a build that fails while its key is off."""
    leases = (
        Case(parts=(Part(strangers=(Stranger(at=at, what="lease", at_once=True),)),))
        for at in range(1, len(baseline(Conditions()).calls) + 1)
    )
    silent = Conditions(silence=600, canaries="inline")
    used = strangers("use-old", "ci-deploy", silent)
    open_window = Conditions(strategy="contain", lag="none")
    failed = chain(strangers("build", API, open_window), strangers("build", WEB, open_window))
    put = chain(strangers("put-old", "ctx-deploy", FULL), strangers("put-unknown", API, FULL))
    return [*thinned(leases, 7), *thinned(used, 7), *thinned(failed, 11), *thinned(put, 17)]


# --- Lost replies ---------------------------------------------------------------------------------------------------


def lost_replies(world: Conditions) -> Iterator[tuple[Conditions, tuple[str, ...]]]:
    """Each write lost in each way at each of its occurrences, several in a row, and denials."""
    for kind, operation in product(LOST, OCCURRENCES):
        for occurrence in range(1, OCCURRENCES[operation] + 1):
            yield world, (f"{kind}:{operation}:{occurrence}",)
    # A rule counts only the calls that reach it: the first create is lost on its way, the second one's reply.
    yield world, ("drop-request:create_access_key:1", "drop-reply:create_access_key:1")
    yield world, ("drop-reply:create_access_key:1", "drop-reply:delete_access_key:1", "drop-reply:set_key_status:1")
    yield world, ("deny:put_variable:1x99",)
    yield world, ("deny:put_variable:3x99",)


def every_lost_reply() -> list[Case]:
    """Lost replies without a kill, in all worlds."""
    others = [Conditions(strategy=strategy, lag=lag) for strategy, lag in product(STRATEGIES, LAGS)]
    others = [world for world in others if world != Conditions()]
    others += [Conditions(trail_denied=True), Conditions(stale=True)]
    rest = [lost for world in others for lost in lost_replies(world)]
    return thinned(map(_losing, lost_replies(Conditions())), 2) + thinned(map(_losing, rest), 13)


def saga_losses() -> list[Case]:
    """Each of the saga's other writes lost, refused and throttled, at each of its occurrences."""
    return thinned(map(_losing, _saga_losses()), 2)


def _saga_losses() -> Iterator[tuple[Conditions, tuple[str, ...]]]:
    for world, writes in WRITES.items():
        for operation, times in writes.items():
            for occurrence in range(1, times + 1):
                for kind in LOST:
                    yield world, (f"{kind}:{operation}:{occurrence}",)
                for refusal in REFUSED:
                    yield world, (refusal.format(operation, occurrence),)


def saga_losses_and_kills() -> list[Case]:
    """One of those writes lost, and a kill soon after it; and lost again by the process that goes on."""
    return thinned(_saga_losses_and_kills(), 61)


def _saga_losses_and_kills() -> Iterator[Case]:
    for world, writes in WRITES.items():
        for operation, kind in product(writes, LOST):
            first = instant_of(world, operation)
            for instant, again in product(range(first, first + 24), (False, True)):
                faults = (f"{kind}:{operation}:1",)
                then = (Part(faults=faults),) if again else ()
                yield Case(conditions=world, parts=(Part(kill_at=instant, faults=faults), *then))


def lost_afterwards() -> list[Case]:
    """The writes of a retirement and of an undo lost or refused."""
    return thinned(_lost_afterwards(), 3)


def _lost_afterwards() -> Iterator[Case]:
    writes = {RETIRE: ("delete_access_key",), UNDO: ("set_key_status", "delete_*_policy")}
    for world in _afterlives():
        for operation, occurrence in product(writes[world.then], (1, 2)):
            faults = [f"{kind}:{operation}:{occurrence}" for kind in LOST]
            faults += [refusal.format(operation, occurrence) for refusal in REFUSED]
            for fault in faults:
                yield Case(conditions=world, after=(Part(faults=(fault,)),))


def _losing(lost: tuple[Conditions, tuple[str, ...]]) -> Case:
    conditions, faults = lost
    return Case(conditions=conditions, parts=(Part(faults=faults),))


def lost_and_killed() -> list[Case]:
    """A lost reply and a kill: in one process, and the reply lost while the kill before is made good."""
    return thinned(_lost_then_killed(), 307) + thinned(_killed_then_lost(), 101)


def _instants_since_create(world: Conditions, step: int = 1) -> range:
    return range(instant_of(world, "create_access_key"), baseline(world).instants + 1, step)


def _lost_then_killed() -> Iterator[Case]:
    for world in (Conditions(), Conditions(policy=Recovery.REWRITE_SWITCHED.value)):
        for (_, faults), instant in product(lost_replies(world), _instants_since_create(world, step=3)):
            yield Case(conditions=world, parts=(Part(kill_at=instant, faults=faults),))


def _killed_then_lost() -> Iterator[Case]:
    world = Conditions(policy=Recovery.REWRITE_SWITCHED.value)
    for kind, operation, instant in product(
        LOST, ("delete_access_key", "set_key_status", "create_access_key"), _instants_since_create(world)
    ):
        first, then = Part(kill_at=instant), Part(faults=(f"{kind}:{operation}:1",))
        yield Case(conditions=world, parts=(first, then))


def undoing() -> list[Case]:
    """A colleague's write that no look could show in time: the old key is put back, whatever dies meanwhile."""
    return thinned(stranger_then_death("put-old", "ctx-deploy", "set_key_status"), 4)


def strangers_and_kills() -> list[Case]:
    """A stranger at a call, and a kill a little later."""
    return thinned(_strangers_and_kills(), 151)


def _strangers_and_kills() -> Iterator[Case]:
    world = Conditions()
    calls = range(1, len(calls_since_intent(world)) + 1)
    for at, (what, where) in product(
        calls, (("key", "ci-deploy"), ("put-old", "ctx-deploy"), ("off-new", "ci-deploy"))
    ):
        called_at = baseline(world).called_at[at - 1 + len(baseline(world).calls) - len(calls)]
        for instant in range(called_at, called_at + 60, 4):
            stranger = Stranger(at=at, what=what, where=where)
            yield Case(conditions=world, parts=(Part(kill_at=instant, strangers=(stranger,)),))


def row(name: str) -> list[Case]:
    """The cases of one row."""
    return ROWS[name]()


ROWS: Final[dict[str, Callable[[], list[Case]]]] = {
    "every instant": every_instant,
    "full saga": full_saga,
    "in lanes": in_lanes,
    "every world": every_world,
    "afterwards": afterwards,
    "meddled afterwards": meddled_afterwards,
    "undone early": undone_early,
    "strangers": every_stranger,
    "saga's strangers": saga_strangers,
    "lost replies": every_lost_reply,
    "saga's losses": saga_losses,
    "saga's losses and kills": saga_losses_and_kills,
    "lost afterwards": lost_afterwards,
    "lost and killed": lost_and_killed,
    "undoing": undoing,
    "strangers and kills": strangers_and_kills,
}
KILLED_ALWAYS: Final = frozenset({"every instant", "full saga", "afterwards"})
"""The rows in which each case is one instant of an undisturbed run."""
