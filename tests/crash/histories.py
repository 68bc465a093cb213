"""Random histories: a seed makes a case of several kills, lanes side by side, now and then a fault or a stranger."""

from __future__ import annotations

import random

from crash.campaign import Case
from crash.conditions import LAGS, Conditions, Part, Stranger
from crash.worlds import PAIRS
from two_users import OLD

from playbook.model import Recovery

INSTANTS = 280
"""As many as every run of this world has; the sweep meets the last ones."""
CALLS = 90
FAULTS = ("drop-reply", "drop-request", "server-error", "server-error-applied", "throttle")
OPERATIONS = (("create_access_key", 2), ("put_variable", 6), ("set_key_status", 3), ("delete_access_key", 2))


def history(seed: int) -> Case:
    """The case of a seed; the same seed makes the same case and the same interleaving in every process."""
    rng = random.Random(seed)
    conditions = Conditions(
        strategy=rng.choice(("replace", "contain", "mixed")),
        policy=rng.choice([recovery.value for recovery in Recovery]),
        lag=rng.choice(sorted(LAGS)),
        stale=rng.random() < 0.25,
        trail_denied=rng.random() < 0.1,
        parallel=rng.randint(2, 4),
        pilot=rng.choice((0, 0, 1)),
        retries=rng.choice((0, 0, 2)),
        seed=seed,
    )
    meddled = rng.random() < 0.2
    parts = [_part(rng, first=number == 0, meddled=meddled) for number in range(rng.randint(2, 5))]
    return Case(conditions=conditions, parts=tuple(parts), logged=True)


def _part(rng: random.Random, *, first: bool, meddled: bool) -> Part:
    # A resumed process may have little left to do, and much of what goes wrong goes wrong at once.
    return Part(
        kill_at=rng.randint(1, INSTANTS if first else rng.choice((12, 40, 120))),
        power=rng.random() < 0.25,
        faults=(_fault(rng),) if rng.random() < 0.3 else (),
        strangers=(_stranger(rng),) if meddled and rng.random() < 0.5 else (),
    )


def _fault(rng: random.Random) -> str:
    operation, times = rng.choice(OPERATIONS)
    return f"{rng.choice(FAULTS)}:{operation}:{rng.randint(1, times)}"


def _stranger(rng: random.Random) -> Stranger:
    what = rng.choice(("key", "key", "key", "put-old", "put-unknown", "off-new"))
    where = rng.choice(sorted(OLD)) if what in {"key", "off-new"} else rng.choice(PAIRS).sink.id
    return Stranger(at=rng.randint(1, CALLS), what=what, where=where)
