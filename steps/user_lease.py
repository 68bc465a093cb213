"""A lock that every responder can see: a tag on the IAM user says which case works on it, and since when.

It keeps two people on two machines from rotating the same user at once (F30). It is a courtesy, not a fence: IAM has
no conditional write, so each action's own premise stays what protects the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import AwsError, Effect
from playbook.model import Action, Observation, Status
from playbook.ports import display
from steps.iam_keys import list_keys, server_time

if TYPE_CHECKING:
    from playbook.ports import Evidence, View, World

TAG: Final = "rotation-playbook-lease"
"""Its value is `<case>@<AWS's time>`."""
STALE: Final = timedelta(minutes=30)
RACE_S: Final = 2.0
"""How long after the write the tag is read again: of two who wrote at once, the last one has it."""


def holder(value: str) -> tuple[str, datetime | None]:
    """The case that a tag names and since when; a value that is none of ours names itself, and no time."""
    case, _, since = value.partition("@")
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        return value, None
    return (case, at) if at.tzinfo is not None else (value, None)


@dataclass(frozen=True, kw_only=True)
class LeaseAction(Action):
    """What is done to the lease of one user."""

    account: str
    user: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.lane}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    def _tag(self, view: View) -> str | Observation:
        try:
            return view.aws(self.account).user_tags(self.user).get(TAG, "")
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            reason = f"the user {display(self.user)} is gone from {self.account}"
            return Observation(status=Status.CONFLICT, reason=reason)


@dataclass(frozen=True, kw_only=True)
class TakeLease(LeaseAction):
    """Say on the user that this case works on it, unless another one does."""

    kind: ClassVar[str] = "iam:take-lease"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListUserTags", "iam:TagUser", "iam:ListAccessKeys"})
    gate: ClassVar[str] = "lease"

    def describe(self) -> str:
        return f"tag {display(self.user)} in {self.account} as being rotated by this case"

    def observe(self, view: View) -> Observation:
        tag = self._tag(view)
        if isinstance(tag, Observation):
            return tag
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        past = view.past(self.key)
        case, since = holder(tag)
        evidence: Evidence = {"lease": tag, "server_time": listing.server_time.isoformat()}
        if past and case == past[-1].tag.partition(".")[0]:
            written = server_time(past[-1].applied or past[-1].basis) or listing.server_time
            left = min(RACE_S, view.waits.settle) - (listing.server_time - written).total_seconds()
            if left > 0:
                reason = "another responder may have written the lease at the same moment"
                return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)
            return Observation(status=Status.PRESENT, evidence=evidence)
        if past and past[-1].applied is not None and tag == str(past[-1].basis.get("lease", "")):
            reason = f"the tag on {display(self.user)} is written but not shown yet"
            # Still not shown after that, it was written over and the other one took its own away: it is free.
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        if tag and since is not None and listing.server_time < since + STALE:
            reason = f"case {display(case)} works on {display(self.user)} since {since.isoformat()}; ask who that is"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        # Nobody's, or one that was left behind: taking it over is journaled with what stood there.
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        tries = world.past(self.key)
        case, now = tries[-1].tag.partition(".")[0], str(tries[-1].basis["server_time"])
        at = world.aws(self.account).tag_user(self.user, TAG, f"{case}@{now}")
        return {"server_time": at.isoformat(), "instead_of": str(tries[-1].basis.get("lease", ""))}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (ReleaseLease(account=self.account, user=self.user),)


@dataclass(frozen=True, kw_only=True)
class ReleaseLease(LeaseAction):
    """Take our own lease away; another's stays."""

    kind: ClassVar[str] = "iam:release-lease"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListUserTags", "iam:UntagUser", "iam:ListAccessKeys"})

    def describe(self) -> str:
        return f"take this case's tag from {display(self.user)} in {self.account}"

    def observe(self, view: View) -> Observation:
        tag = self._tag(view)
        if isinstance(tag, Observation):
            return tag
        taken = view.past(f"{TakeLease.kind}:{self.lane}")
        ours = bool(tag) and bool(taken) and holder(tag)[0] == taken[-1].tag.partition(".")[0]
        if ours and any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"the tag on {display(self.user)} is removed but still shown"
            return Observation(status=Status.PENDING, reason=reason, wait="sink", otherwise=Status.ABSENT)
        if not ours and (left := self._hidden_s(view)) > 0:
            reason = f"a tag of this case on {display(self.user)} may be written and not shown yet"
            return Observation(status=Status.PENDING, evidence={"lease": tag}, reason=reason, again_s=left)
        return Observation(status=Status.ABSENT if ours else Status.PRESENT, evidence={"lease": tag})

    def _hidden_s(self, view: View) -> float:
        """For how long a read may not show what we wrote just now: an undo may follow at once."""
        tries = [attempt for attempt in view.past(f"{TakeLease.kind}:{self.lane}") if attempt.failed != Effect.NONE]
        written = server_time(tries[-1].applied or tries[-1].basis) if tries else None
        removed = [attempt.seq for attempt in view.past(self.key) if attempt.applied is not None]
        if written is None or max(removed, default=-1) > tries[-1].seq:
            return 0.0
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return 0.0
        return view.waits.settle - (listing.server_time - written).total_seconds()

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).untag_user(self.user, TAG)
        return {}
