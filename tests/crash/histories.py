"""Random histories over the full saga: a seed makes a case of several kills, lanes side by side, faults and strangers.

About half of them go on after the run: with a retirement or an undo, which is killed and meddled with as well.
"""

from __future__ import annotations

import random

from crash.campaign import Case
from crash.conditions import LAGS, RETIRE, UNDO, Conditions, Part, Stranger
from crash.worlds import API, PAIRS, WEB
from two_users import OLD

from playbook.model import Recovery

INSTANTS = 700
"""As many as the run of the plainest world has; the sweep meets the last ones of the others."""
AFTER_INSTANTS = 80
CALLS = 200
FAULTS = ("drop-reply", "drop-request", "server-error", "server-error-applied", "throttle")
OPERATIONS = (
    ("create_access_key", 2),
    ("put_variable", 6),
    ("set_key_status", 3),
    ("delete_access_key", 2),
    ("tag_user", 2),
    ("untag_user", 2),
    ("put_user_policy", 2),
    ("run_inline", 3),
    ("rerun_workflow", 3),
    ("create_checkout_key", 1),
    ("delete_checkout_key", 1),
    ("set_webhook_secret", 1),
    ("set_running_disabled", 2),
)


def history(seed: int) -> Case:
    """The case of a seed; the same seed makes the same case and the same interleaving in every process."""
    rng = random.Random(seed)
    conditions = _conditions(rng, seed)
    meddled = rng.random() < 0.25
    parts = [_part(rng, first=number == 0, meddled=meddled) for number in range(rng.randint(2, 4))]
    after = [_part_after(rng, meddled=meddled) for _ in range(rng.randint(1, 2))] if conditions.then else []
    return Case(conditions=conditions, parts=tuple(parts), after=tuple(after), logged=True)


def _conditions(rng: random.Random, seed: int) -> Conditions:
    severity = rng.choice(("exposed", "exposed", "confirmed", "routine"))
    block = severity == "confirmed" and rng.random() < 0.5
    then = rng.choice(("", "", RETIRE, UNDO))
    return Conditions(
        strategy=rng.choice(("replace", "replace", "contain", "mixed")),
        severity=severity,
        policy=rng.choice([recovery.value for recovery in Recovery]),
        lag=rng.choice(sorted(LAGS)),
        stale=rng.random() < 0.25,
        trail_denied=rng.random() < 0.1,
        # While new work is blocked no canary can run: such a run waits for its responder.
        canaries="" if block else rng.choice(("", "inline", "inline", "rerun", "broken")),
        spare=rng.choice(("", "", "on", "off")),
        busy=rng.random() < 0.3,
        secrets=rng.random() < 0.3,
        role=rng.random() < 0.3,
        block=block,
        foreign=rng.choice(("", "", "", "", "lease", "stale-lease", "policy")),
        silence=rng.choice((-1, -1, 0, 600)),
        first_minute=severity == "confirmed" and rng.random() < 0.3,
        then=then,
        early=then == UNDO and rng.random() < 0.4,
        parallel=rng.randint(2, 4),
        pilot=rng.choice((0, 0, 1)),
        retries=rng.choice((0, 0, 2)),
        overrides=rng.choice((0, 0, 0, 4)),
        seed=seed,
    )


def _part(rng: random.Random, *, first: bool, meddled: bool) -> Part:
    # A resumed process may have little left to do, and much of what goes wrong goes wrong at once.
    return Part(
        kill_at=rng.randint(1, INSTANTS if first else rng.choice((12, 40, 120, 300))),
        power=rng.random() < 0.25,
        faults=(_fault(rng),) if rng.random() < 0.3 else (),
        strangers=(_stranger(rng),) if meddled and rng.random() < 0.5 else (),
    )


def _part_after(rng: random.Random, *, meddled: bool) -> Part:
    strangers = ()
    if meddled and rng.random() < 0.5:
        what = rng.choice(("use-old", "put-old", "key"))
        where = rng.choice(PAIRS).sink.id if what == "put-old" else rng.choice(sorted(OLD))
        strangers = (Stranger(at=rng.randint(1, 30), what=what, where=where, at_once=True),)
    operation = rng.choice(("set_key_status", "delete_access_key", "delete_user_policy", "untag_user"))
    return Part(
        kill_at=rng.randint(1, AFTER_INSTANTS),
        power=rng.random() < 0.25,
        faults=(f"{rng.choice(FAULTS)}:{operation}:{rng.randint(1, 2)}",) if rng.random() < 0.3 else (),
        strangers=strangers,
    )


def _fault(rng: random.Random) -> str:
    operation, times = rng.choice(OPERATIONS)
    return f"{rng.choice(FAULTS)}:{operation}:{rng.randint(1, times)}"


def _stranger(rng: random.Random) -> Stranger:
    what = rng.choice(("key", "key", "key", "put-old", "put-unknown", "off-new", "lease", "use-old", "build"))
    if what == "build":
        where = rng.choice((API, WEB))
    elif what in {"put-old", "put-unknown"}:
        where = rng.choice(PAIRS).sink.id
    else:
        where = "ci-deploy" if what == "lease" else rng.choice(sorted(OLD))
    return Stranger(at=rng.randint(1, CALLS), what=what, where=where, at_once=what == "lease")
