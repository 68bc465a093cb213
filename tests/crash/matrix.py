"""The rows of cases that the sweep tries: every instant of the default world, and samples or all of the others.

`TORTURE=1` takes all of each row. Without it a row is thinned to every n-th case, each row beginning elsewhere, so
that the rows together still meet every kind of instant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count, islice, product
from typing import Final

from crash.campaign import Case
from crash.child import LAGS, PAIRS, Conditions, Part, Stranger
from crash.drills import baseline, calls_since_intent, instant_of, kills, stranger_then_death, strangers
from two_users import OLD

from playbook.model import Recovery

TORTURE: Final = bool(os.environ.get("TORTURE"))
STRATEGIES: Final = ("replace", "contain")
POLICIES: Final = tuple(recovery.value for recovery in Recovery)
LOST: Final = ("drop-reply", "drop-request", "server-error-applied")
"""Replies and requests that are lost, so that nobody knows."""
OCCURRENCES: Final = {"create_access_key": 2, "put_variable": 8, "set_key_status": 2}
"""How often an undisturbed run makes each write."""
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
    return list(kills())


def every_world() -> list[Case]:
    """Every other world, killed."""
    rest = [world for world in worlds() if world != Conditions()]
    rest.append(Conditions(trail_denied=True))
    return [case for world in rest for case in thinned(kills(world), 41)]


def every_stranger() -> list[Case]:
    """A stranger's key at each call after our intent; and other strangers' doings, more thinly."""
    cases = [case for user in OLD for case in strangers("key", user)]
    for strategy, lag in product(STRATEGIES, LAGS):
        world = Conditions(strategy=strategy, lag=lag)
        rows = [("key", user) for user in OLD] + [("off-new", user) for user in OLD]
        rows += [(what, pair.sink.id) for what in ("put-old", "put-unknown") for pair in PAIRS]
        for what, where in rows:
            if world != Conditions() or what != "key":
                cases += thinned(strangers(what, where, world), 29)
    return cases


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
    """Lost replies without a kill: all in the default world, and in the others."""
    others = [Conditions(strategy=strategy, lag=lag) for strategy, lag in product(STRATEGIES, LAGS)]
    others = [world for world in others if world != Conditions()]
    others += [Conditions(trail_denied=True), Conditions(stale=True)]
    rest = [lost for world in others for lost in lost_replies(world)]
    return [_losing(lost) for lost in lost_replies(Conditions())] + thinned(map(_losing, rest), 5)


def _losing(lost: tuple[Conditions, tuple[str, ...]]) -> Case:
    conditions, faults = lost
    return Case(conditions=conditions, parts=(Part(faults=faults),))


def lost_and_killed() -> list[Case]:
    """A lost reply and a kill: in one process, and the reply lost while the kill before is made good."""
    return thinned(_lost_then_killed(), 131) + thinned(_killed_then_lost(), 37)


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
    return list(stranger_then_death("put-old", "ctx-deploy", "set_key_status"))


def strangers_and_kills() -> list[Case]:
    """A stranger at a call, and a kill a little later."""
    return thinned(_strangers_and_kills(), 61)


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
    "every world": every_world,
    "strangers": every_stranger,
    "lost replies": every_lost_reply,
    "lost and killed": lost_and_killed,
    "undoing": undoing,
    "strangers and kills": strangers_and_kills,
}
