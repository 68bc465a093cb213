"""Room for a new key: IAM allows a user two, inactive ones included, so an unused one may have to go first.

`choose_slots` is pure: a state table over active or inactive, used or unused, stored or not. What it cannot prove
unused it does not give up, and an API error is never a proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.model import Action, Observation, Status
from playbook.ports import AccessKey, LastUsed, display
from steps.iam_keys import DeactivateKey, DeleteKey, KeyAction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.ports import Evidence, View, World

KEYS_PER_USER: Final = 2
"""IAM's quota, inactive keys included; it cannot be raised, and races have let more through (facts/aws 1 and 2)."""
UNUSED: Final = timedelta(days=90)
YOUNG: Final = timedelta(days=1)
"""A key this young may be about to be used for the first time."""


class Use(StrEnum):
    """What is known of a key's last use."""

    NEVER = "never"
    LONG_AGO = "long-ago"
    RECENT = "recent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The keys that may make room, or the sentence that says why there is none."""

    free: tuple[AccessKey, ...] = ()
    refusal: str = ""


def use_of(used: LastUsed | None, now: datetime) -> Use:
    """Judge a last use; None is a question that was not answered."""
    if used is None:
        return Use.UNKNOWN
    if used.at is None:
        return Use.NEVER
    return Use.LONG_AGO if used.at < now - UNUSED else Use.RECENT


def verdict(key: AccessKey, use: Use, *, stored: bool, now: datetime) -> tuple[int | None, str]:
    """How well one key suits to make room (lower is better), or None and why it may not go."""
    if stored:
        return None, "it is stored in CircleCI"
    if use is Use.UNKNOWN:
        return None, "nothing says when it was used last"
    if use is Use.RECENT:
        return None, f"it was used within the last {UNUSED.days} days"
    if key.created_at > now - YOUNG:
        return None, "it is less than a day old"
    ranks = {(False, Use.NEVER): 0, (False, Use.LONG_AGO): 1, (True, Use.NEVER): 2, (True, Use.LONG_AGO): 3}
    return ranks[key.is_active, use], ""


def choose_slots(
    target: AccessKey,
    others: Sequence[AccessKey],
    *,
    last_used: Mapping[str, LastUsed],
    stored: frozenset[str],
    now: datetime,
) -> Slots:
    """Which of the user's other keys make room for the replacement of `target`; more than two keys are accepted.

    `last_used` has no entry for a key whose last use could not be read; `stored` are the ids that CircleCI holds, or
    may hold.
    """
    wanted = len(others) + 1 - (KEYS_PER_USER - 1)
    if wanted <= 0:
        return Slots()
    ranked: list[tuple[int, str, AccessKey]] = []
    kept: list[str] = []
    for key in others:
        rank, why = verdict(key, use_of(last_used.get(key.id), now), stored=key.id in stored, now=now)
        if rank is None:
            kept.append(f"{key.id} ({key.status.value}) stays: {why}")
        else:
            ranked.append((rank, key.id, key))
    if len(ranked) < wanted:
        return Slots(
            refusal=f"{display(target.user)} has no free slot: IAM allows {KEYS_PER_USER} keys, inactive ones "
            f"included, and {'; '.join(kept)}"
        )
    return Slots(free=tuple(key for _, _, key in sorted(ranked, key=lambda item: item[:2])[:wanted]))


@dataclass(frozen=True, kw_only=True)
class ProveUnused(KeyAction):
    """The key that is to make room was not used since the plan was made."""

    kind: ClassVar[str] = "iam:prove-unused"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:GetAccessKeyLastUsed"})
    changes: ClassVar[bool] = False

    last_used_at: str
    """ISO 8601, or `never`."""

    def describe(self) -> str:
        return f"see that {self.key_id} of {display(self.user)}, which makes room, is still unused"

    def observe(self, view: View) -> Observation:
        if any(attempt.applied is not None for attempt in view.past(f"{DeleteKey.kind}:{self.lane}/{self.key_id}")):
            return Observation(status=Status.PRESENT, evidence={"key_id": self.key_id, "deleted": True})
        used = view.aws(self.account).last_used(self.key_id)
        seen = used.at.isoformat() if used.at is not None else "never"
        evidence: Evidence = {"key_id": self.key_id, "last_used_at": seen}
        if used.at is None or (self.last_used_at != "never" and used.at <= datetime.fromisoformat(self.last_used_at)):
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{self.key_id} was used at {seen}, after it was chosen to make room: it is not given up"
        return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


def free_slot(victim: AccessKey, used: LastUsed) -> tuple[Action, ...]:
    """Prove that the key is unused, switch it off, and delete it: each an approved action of its own."""
    last = used.at.isoformat() if used.at is not None else "never"
    account, user, key_id = victim.account, victim.user, victim.id
    off = (DeactivateKey(account=account, user=user, key_id=key_id),) if victim.is_active else ()
    return (
        ProveUnused(account=account, user=user, key_id=key_id, last_used_at=last),
        *off,
        DeleteKey(account=account, user=user, key_id=key_id),
    )
