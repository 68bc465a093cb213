"""The actions that cut off sessions by an inline policy, and the one that takes the policy away again.

A switched-off key's sessions live on, for up to 36 hours (facts, AWS row 16). A deny with `aws:TokenIssueTime` on the
user, and on each role that was assumed, ends them; a key that does not expire has no such time, so a new access key
of the same user works on (row 17).
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import AwsError
from playbook.model import Action, Observation, Status
from playbook.ports import Json, KeyListing, display
from steps.iam_keys import list_keys, server_time, switched_off_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Evidence, View, World

POLICY: Final = "RotationPlaybookRevokeSessions"
USER_SESSION: Final = timedelta(hours=36)
"""The longest session of `GetSessionToken` and `GetFederationToken` (facts, AWS row 16)."""
ROLE_SESSION: Final = timedelta(hours=12)
"""The longest session of `AssumeRole`."""


def deny_before(cutoff: datetime) -> dict[str, Json]:
    """The policy that denies everything to sessions issued before a time."""
    moment = cutoff.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": POLICY,
                "Effect": "Deny",
                "Action": ["*"],
                "Resource": ["*"],
                "Condition": {"DateLessThan": {"aws:TokenIssueTime": moment}},
            }
        ],
    }


def cutoff_of(document: Mapping[str, Json]) -> datetime | None:
    """The time in a policy of ours; None for one that is not exactly of our form."""
    found = re.search(r'"aws:TokenIssueTime": "(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"', json.dumps(document))
    if found is None:
        return None
    try:
        cutoff = datetime.fromisoformat(found[1])
    except ValueError:
        return None
    return cutoff if document == deny_before(cutoff) else None


def policy_size(document: Mapping[str, Json]) -> int:
    """The characters that count against IAM's quotas: all but white space (facts, AWS row 28)."""
    return len(re.sub(r"\s", "", json.dumps(document, separators=(",", ":"))))


SIZE: Final = policy_size(deny_before(datetime(2026, 1, 1, tzinfo=UTC)))


def aws_time(view: View, account: str, user: str) -> datetime | Observation:
    """AWS's own time, from a list of the user's keys; where there is none (of it), from another user's."""
    listing = list_keys(view, account, user) if user else None
    if isinstance(listing, KeyListing):
        return listing.server_time
    for other in view.aws(account).users():
        another = list_keys(view, account, other.name)
        if isinstance(another, KeyListing):
            return another.server_time
    reason = f"no user of {account} is left whose keys could be listed, so AWS's own time cannot be told"
    return listing or Observation(status=Status.CONFLICT, reason=reason)


def last_off_at(view: View, keys: tuple[str, ...]) -> datetime | None:
    """AWS's time when the last of these keys (`account/user/id`) was switched off by this case."""
    times = [switched_off_at(view, *key.split("/")) for key in keys]
    return max((at for at in times if at is not None), default=None)


def _is_off(view: View, name: str) -> bool:
    """Whether this case switched the key off, or it cannot sign anyway."""
    account, user, key_id = name.split("/")
    if switched_off_at(view, account, user, key_id) is not None:
        return True
    listing = list_keys(view, account, user)
    seen = None if isinstance(listing, Observation) else listing.find(key_id)
    return seen is None or not seen.is_active


@dataclass(frozen=True, kw_only=True)
class _RevokeSessions(Action):
    """What the two revocations share: the time before which sessions end, and how it is proved.

    The time is no field: it is AWS's own at the intent, and not before the switched-off keys have stopped working
    everywhere, because a session can still be made in those seconds. So it may lie up to `relist` seconds ahead.
    """

    changes: ClassVar[bool] = True
    destroys: ClassVar[bool] = True

    account: str
    keys: tuple[str, ...]
    """The keys whose sessions end, as `account/user/id`."""
    off: tuple[str, ...] = ()
    """Those of them that this run switches off: while one is on, it goes on making sessions."""

    @property
    @abstractmethod
    def _holder(self) -> str:
        """Whose policy it is, for a person."""

    def _clock_user(self) -> tuple[str, str]:
        """Whose list of keys tells AWS's time."""
        account, user, _ = self.keys[0].split("/")
        return account, user

    @abstractmethod
    def _read(self, view: View) -> Mapping[str, Json] | None:
        """The policy as it is now."""

    def observe(self, view: View) -> Observation:
        now = aws_time(view, *self._clock_user())
        if isinstance(now, Observation):
            return now
        on = next((name for name in self.off if not _is_off(view, name)), None)
        if on is not None:
            key_id = on.rpartition("/")[2]
            reason = f"{key_id} is still on: it was not switched off, and would make new sessions"
            return Observation(status=Status.CONFLICT, reason=reason)
        document = self._read(view)
        cutoff = cutoff_of(document) if document is not None else None
        if document is not None and cutoff is None:
            reason = f"{self._holder} has a policy {POLICY} that this tool did not write; it is not overwritten"
            return Observation(status=Status.CONFLICT, reason=reason)
        off_at = last_off_at(view, self.keys)
        attempts = [attempt for attempt in view.past(self.key) if attempt.failed != "none"]
        ours = [datetime.fromisoformat(str(attempt.basis["cutoff"])) for attempt in attempts]
        written = ours[-1] if ours else now
        least = off_at + timedelta(seconds=view.waits.settle) if off_at is not None else written
        if cutoff is not None and cutoff >= least:
            return self._observe_written(view, cutoff, now)
        spread = off_at + timedelta(seconds=view.waits.relist) if off_at is not None else now
        # AWS's time is in whole seconds: a session of this very second must end too.
        wanted = (max(now, least, spread) + timedelta(seconds=1)).replace(microsecond=0)
        evidence: Evidence = {"cutoff": wanted.isoformat(), "server_time": now.isoformat(), "policy": POLICY}
        if attempts and attempts[-1].applied is not None and ours[-1] >= least:
            reason = f"the policy {POLICY} of {self._holder} does not show yet"
            return Observation(
                # Not `visible`: a thief who takes the policy off would have five minutes.
                status=Status.PENDING,
                evidence=evidence,
                reason=reason,
                wait="sink",
                otherwise=Status.ABSENT,
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def _observe_written(self, view: View, cutoff: datetime, now: datetime) -> Observation:
        """It is shown; it counts once a second look, after a change has spread, agrees."""
        evidence: Evidence = {"cutoff": cutoff.isoformat(), "server_time": now.isoformat(), "policy": POLICY}
        tried = [server_time(attempt.applied or attempt.basis) for attempt in view.past(self.key)]
        written_at = max((at for at in tried if at is not None), default=None)
        settled_at = written_at + timedelta(seconds=view.waits.settle) if written_at is not None else now
        left = (settled_at - now).total_seconds()
        if left > 0:
            reason = "waiting for a second look that agrees"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)
        return Observation(status=Status.PRESENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        cutoff = datetime.fromisoformat(str(world.past(self.key)[-1].basis["cutoff"]))
        try:
            at = self._write(world, deny_before(cutoff))
        except AwsError as error:
            if error.code != "LimitExceeded":
                raise
            raise AwsError(
                f"the policy {POLICY} of {self._holder}",
                code=error.code,
                effect=error.effect,
                status=error.status,
                request_id=error.request_id,
                remedy=f"Its inline policies leave no room for {SIZE} more characters. Attach AWS's own policy "
                "AWSDenyAll by hand (it stops the new key too), or make room; then `resume`.",
            ) from None
        return {"cutoff": cutoff.isoformat(), "server_time": at.isoformat(), "policy": POLICY}

    @abstractmethod
    def _write(self, world: World, document: Mapping[str, Json]) -> datetime:
        """Put the policy; answers AWS's time."""


@dataclass(frozen=True, kw_only=True)
class RevokeUserSessions(_RevokeSessions):
    """Deny everything to the sessions that a user's keys have made (`GetSessionToken`, `GetFederationToken`)."""

    kind: ClassVar[str] = "iam:revoke-user-sessions"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {"iam:GetUserPolicy", "iam:PutUserPolicy", "iam:ListAccessKeys", "iam:ListAttachedUserPolicies"}
    )

    user: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.user}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    @property
    def _holder(self) -> str:
        return f"user {display(self.user)} in {self.account}"

    def describe(self) -> str:
        return f"deny everything to sessions of {self._holder} made until its keys are off (policy {POLICY})"

    def _read(self, view: View) -> Mapping[str, Json] | None:
        return view.aws(self.account).user_policy(self.user, POLICY)

    def _write(self, world: World, document: Mapping[str, Json]) -> datetime:
        return world.aws(self.account).put_user_policy(self.user, POLICY, document)

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (RemoveSessionPolicy(account=self.account, user=self.user, undoing=True),)


@dataclass(frozen=True, kw_only=True)
class RevokeRoleSessions(_RevokeSessions):
    """Deny everything to the sessions of a role that an exposed key assumed; everybody's sessions of it end."""

    kind: ClassVar[str] = "iam:revoke-role-sessions"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:GetRolePolicy", "iam:PutRolePolicy", "iam:ListAccessKeys"})

    role: str
    """Its name."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}"

    @property
    def lane(self) -> str:
        return f"{self.account}/role/{self.role}"

    @property
    def _holder(self) -> str:
        return f"role {display(self.role)} in {self.account}"

    def describe(self) -> str:
        return f"deny everything to sessions of {self._holder} made until now, everybody's (policy {POLICY})"

    def _read(self, view: View) -> Mapping[str, Json] | None:
        return view.aws(self.account).role_policy(self.role, POLICY)

    def _write(self, world: World, document: Mapping[str, Json]) -> datetime:
        return world.aws(self.account).put_role_policy(self.role, POLICY, document)

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (RemoveSessionPolicy(account=self.account, role=self.role, undoing=True),)


@dataclass(frozen=True, kw_only=True)
class RemoveSessionPolicy(Action):
    """Take the policy away again, if it is still ours: once no session it denies can be alive, or as an undoing."""

    kind: ClassVar[str] = "iam:remove-session-policy"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListUsers",
            "iam:ListAccessKeys",
            "iam:GetUserPolicy",
            "iam:DeleteUserPolicy",
            "iam:GetRolePolicy",
            "iam:DeleteRolePolicy",
        }
    )
    destroys: ClassVar[bool] = True

    account: str
    user: str = ""
    role: str = ""
    """One of the two."""
    undoing: bool = False
    """True: whatever the time, but only the very policy that this case wrote."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self._name}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self._name}"

    @property
    def _name(self) -> str:
        return self.user or f"role/{self.role}"

    @property
    def _holder(self) -> str:
        what = f"user {display(self.user)}" if self.user else f"role {display(self.role)}"
        return f"{what} in {self.account}"

    def describe(self) -> str:
        return f"remove the policy {POLICY} from {self._holder}"

    def observe(self, view: View) -> Observation:
        aws = view.aws(self.account)
        document = aws.user_policy(self.user, POLICY) if self.user else aws.role_policy(self.role, POLICY)
        if self.undoing and document is None and (left := self._hidden_s(view)) > 0:
            reason = f"the policy {POLICY} of {self._holder} may be written and not shown yet"
            return Observation(status=Status.PENDING, reason=reason, again_s=left)
        if document is None:
            return Observation(status=Status.PRESENT, evidence={"listed": False})
        cutoff = cutoff_of(document)
        if self.undoing and cutoff not in self._written_by_us(view):
            return Observation(status=Status.PRESENT, evidence={"listed": True, "ours": False})
        if cutoff is None:
            reason = f"the policy {POLICY} of {self._holder} is not as this tool writes it; it is left alone"
            return Observation(status=Status.CONFLICT, reason=reason)
        if view.past(self.key) and view.past(self.key)[-1].applied is not None:
            reason = f"the policy {POLICY} of {self._holder} is removed but still shown"
            return Observation(status=Status.PENDING, reason=reason, wait="visible")
        return Observation(status=Status.ABSENT) if self.undoing else self._observe_due(view, cutoff)

    @property
    def _revoking(self) -> str:
        """The key of the action that wrote it."""
        kind, name = (RevokeUserSessions.kind, self.user) if self.user else (RevokeRoleSessions.kind, self.role)
        return f"{kind}:{self.account}/{name}"

    def _written_by_us(self, view: View) -> set[datetime]:
        return {datetime.fromisoformat(str(attempt.basis["cutoff"])) for attempt in view.past(self._revoking)}

    def _hidden_s(self, view: View) -> float:
        """For how long a read may not show what we wrote just now: an undo may follow at once."""
        tries = [attempt for attempt in view.past(self._revoking) if attempt.failed != "none"]
        written = server_time(tries[-1].applied or tries[-1].basis) if tries else None
        removed = [attempt.seq for attempt in view.past(self.key) if attempt.applied is not None]
        if written is None or max(removed, default=-1) > tries[-1].seq:
            return 0.0
        now = aws_time(view, self.account, self.user)
        if isinstance(now, Observation):
            return 0.0
        return view.waits.settle - (now - written).total_seconds()

    def _observe_due(self, view: View, cutoff: datetime) -> Observation:
        now = aws_time(view, self.account, self.user)
        if isinstance(now, Observation):
            return now
        due = cutoff + (USER_SESSION if self.user else ROLE_SESSION)
        left = (due - now).total_seconds()
        evidence: Evidence = {"cutoff": cutoff.isoformat(), "due": due.isoformat(), "server_time": now.isoformat()}
        if left > 0:
            reason = f"a session made before {cutoff.isoformat()} may live until {due.isoformat()}"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        aws = world.aws(self.account)
        if self.user:
            aws.delete_user_policy(self.user, POLICY)
        else:
            aws.delete_role_policy(self.role, POLICY)
        return {"policy": POLICY}
