"""The actions on IAM access keys that more than one step plans: switch off and on, retire an orphan, confirm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from playbook.errors import AwsError
from playbook.model import Action, Observation, Status
from playbook.ports import Credential, KeyStatus, Sink, display

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Evidence, KeyListing, View, World


def server_time(evidence: Evidence) -> datetime | None:
    """AWS's own time that an action kept, if it kept one."""
    text = evidence.get("server_time")
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def list_keys(view: View, account: str, user: str) -> KeyListing | Observation:
    """The user's keys, or the conflict of a user that is gone."""
    try:
        return view.aws(account).access_keys(user)
    except AwsError as error:
        if error.code != "NoSuchEntity":
            raise
        return Observation(
            status=Status.CONFLICT,
            reason=f"the user {display(user)} is gone from {account}, and its keys with it; it is not made again",
        )


def credential_of(view: View, name: str) -> Credential | None:
    """The minted key in memory under this name, if this process still has it."""
    held = view.held.get(name)
    return held if isinstance(held, Credential) else None


def name_strangers(user: str, key_ids: list[str]) -> str:
    """The sentence about keys that somebody else made; all are named, for each may be an attacker's."""
    are = "is a key" if len(key_ids) == 1 else "are keys"
    return f"{' and '.join(key_ids)} {are} of {display(user)} that this run neither found nor made"


def minted(view: View, mint: str) -> tuple[str, ...]:
    """The ids that the action with the key `mint` is known to have made, oldest first."""
    made = (attempt.applied for attempt in view.past(mint) if attempt.applied is not None)
    return tuple(str(evidence["key_id"]) for evidence in made)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Where an access key is stored: one sink and the names of its two variables."""

    sink: Sink
    id_variable: str
    secret_variable: str

    @property
    def id(self) -> str:
        """What the keys and lanes of actions on it are made of: `context/<id>/AWS_ACCESS_KEY_ID`."""
        return f"{self.sink.kind.value}/{self.sink.id}/{self.id_variable}"

    def describe(self) -> str:
        """For a person: `context deploy (AWS_ACCESS_KEY_ID)`."""
        return f"{self.sink.kind.value} {display(self.sink.name)} ({display(self.id_variable)})"

    def tails(self, view: View) -> tuple[str | None, str | None]:
        """The tails of the key id and of the secret stored here; None for one that is not shown."""
        stored = view.circleci.variables(self.sink)
        found = (stored.find(self.id_variable), stored.find(self.secret_variable))
        id_tail, secret_tail = (variable.tail if variable is not None else None for variable in found)
        return id_tail, secret_tail


def look_at_pairs(
    view: View, listing: KeyListing, pairs: tuple[Pair, ...], mint: str, held: Credential | None
) -> Observation | None:
    """What stands against switching a key off, and against calling it done: None once every pair holds the new key.

    The premise of what destroys is looked at again in its own `observe`, whatever the journal says (invariant I3).
    """
    if not pairs:
        return None
    made = minted(view, mint)
    new = listing.find(made[-1]) if made else None
    if new is None or not new.is_active:
        reason = f"the new key {made[-1] if made else ''} is not listed as active"
        return Observation(status=Status.PENDING, reason=reason, wait="sink")
    for pair in pairs:
        id_tail, secret_tail = pair.tails(view)
        if id_tail is None or secret_tail is None:
            reason = f"the tails in {pair.describe()} are not shown yet"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        if id_tail != new.id[-4:]:
            return Observation(status=Status.CONFLICT, reason=f"{pair.describe()} does not hold the new key {new.id}")
        # The secret can be compared only by the process that minted it.
        if held is not None and secret_tail != held.secret.tail():
            reason = f"{pair.describe()} holds the id of {new.id} beside another secret"
            return Observation(status=Status.CONFLICT, reason=reason)
    return None


@dataclass(frozen=True, kw_only=True)
class KeyAction(Action):
    """What is done to one access key; its lane is the user's, so that one thing at a time happens to a user."""

    account: str
    user: str
    key_id: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.lane}/{self.key_id}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    @property
    def subject(self) -> Mapping[str, str]:
        return {"user": self.user, "account": self.account, "id": self.key_id}


@dataclass(frozen=True, kw_only=True)
class DeactivateKey(KeyAction):
    """Switch a key off, reversibly; with `pairs`, only while every one of them holds the new key."""

    kind: ClassVar[str] = "iam:deactivate-access-key"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListAccessKeys", "iam:UpdateAccessKey"})
    destroys: ClassVar[bool] = True

    pairs: tuple[Pair, ...] = ()
    mint: str = ""
    """The action that made the new key, when this is the old one of a replacement."""

    def describe(self) -> str:
        return f"deactivate {self.key_id} of {display(self.user)} in {self.account}"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        seen = listing.find(self.key_id)
        evidence = {"key_id": self.key_id, "server_time": listing.server_time.isoformat()}
        if seen is None:
            # Not listed is gone, but for a key that this case made so short a while ago that lists may lag behind.
            hidden = self._is_fresh(view, listing)
            return Observation(
                status=Status.ABSENT if hidden else Status.PRESENT,
                evidence={**evidence, "status": "not listed yet" if hidden else "gone"},
            )
        premise = look_at_pairs(view, listing, self.pairs, self.mint, credential_of(view, self.credential))
        if premise is not None:
            return premise
        applied = [attempt.applied for attempt in view.past(self.key) if attempt.applied is not None]
        since = server_time(applied[-1]) if applied else None
        settled_at = since + timedelta(seconds=view.waits.settle) if since else None
        if settled_at is not None and listing.server_time < settled_at:
            left = (settled_at - listing.server_time).total_seconds()
            reason = "waiting for a second look that agrees"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)
        if seen.is_active:
            return Observation(status=Status.ABSENT, evidence=evidence)
        return Observation(status=Status.PRESENT, evidence={**evidence, "status": seen.status.value})

    def _is_fresh(self, view: View, listing: KeyListing) -> bool:
        off = any(attempt.applied is not None for attempt in view.past(self.key))
        if off or any(attempt.failed is None for attempt in view.past(f"{DeleteKey.kind}:{self.lane}/{self.key_id}")):
            return False
        made = [attempt.applied for attempt in view.past(self.mint) if attempt.applied is not None] if self.mint else []
        times = [server_time(evidence) for evidence in made if evidence.get("key_id") == self.key_id]
        visible = timedelta(seconds=view.waits.visible)
        return any(at is not None and listing.server_time < at + visible for at in times)

    def apply(self, world: World) -> Evidence:
        at = world.aws(self.account).set_key_status(self.user, self.key_id, KeyStatus.INACTIVE)
        return {"key_id": self.key_id, "server_time": at.isoformat()}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (ActivateKey(account=self.account, user=self.user, key_id=self.key_id),)


@dataclass(frozen=True, kw_only=True)
class ActivateKey(KeyAction):
    """Switch a key on again that we switched off: the undoing of `DeactivateKey`."""

    kind: ClassVar[str] = "iam:activate-access-key"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListAccessKeys", "iam:UpdateAccessKey"})

    def describe(self) -> str:
        return f"activate {self.key_id} of {display(self.user)} in {self.account} again"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        seen = listing.find(self.key_id)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"{self.key_id} is deleted and cannot be put back")
        status = Status.PRESENT if seen.is_active else Status.ABSENT
        return Observation(status=status, evidence={"key_id": self.key_id, "status": seen.status.value})

    def apply(self, world: World) -> Evidence:
        at = world.aws(self.account).set_key_status(self.user, self.key_id, KeyStatus.ACTIVE)
        return {"key_id": self.key_id, "server_time": at.isoformat()}


@dataclass(frozen=True, kw_only=True)
class DeleteKey(KeyAction):
    """Delete an inactive key for good: an orphan proved ours, or an old key whose slot was given up by approval."""

    kind: ClassVar[str] = "iam:delete-access-key"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {"iam:ListAccessKeys", "iam:DeleteAccessKey", "iam:GetAccessKeyLastUsed"}
    )
    destroys: ClassVar[bool] = True

    soaks: bool = False
    """True for a retirement: off for `soak` by AWS's clock and unused since, every pair on the new key (I5)."""
    pairs: tuple[Pair, ...] = ()
    mint: str = ""

    def describe(self) -> str:
        return f"delete {self.key_id} of {display(self.user)} in {self.account} for good"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        seen = listing.find(self.key_id)
        evidence = {"key_id": self.key_id, "server_time": listing.server_time.isoformat()}
        if seen is None:
            return Observation(status=Status.PRESENT, evidence=evidence)
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"{self.key_id} is deleted but still listed"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="visible")
        if seen.is_active:
            reason = f"{self.key_id} is active, and an active key is never deleted"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        premise = look_at_pairs(view, listing, self.pairs, self.mint, None) or (self._soak(view, listing))
        return premise or Observation(status=Status.ABSENT, evidence=evidence)

    def _soak(self, view: View, listing: KeyListing) -> Observation | None:
        """What stands against the end of a key that was switched off: too fresh, or missed by somebody (F23)."""
        if not self.soaks:
            return None
        off_at = switched_off_at(view, self.account, self.user, self.key_id)
        if off_at is None:
            reason = f"nothing says since when {self.key_id} is off"
            return Observation(status=Status.CONFLICT, reason=reason)
        left = (off_at + timedelta(seconds=view.waits.soak) - listing.server_time).total_seconds()
        if left > 0:
            reason = f"{self.key_id} stays off for {view.waits.soak} s before it is deleted"
            return Observation(status=Status.PENDING, reason=reason, again_s=left)
        try:
            used = view.aws(self.account).last_used(self.key_id)
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            # A try of ours whose reply was lost, or somebody else: the list has yet to show it.
            reason = f"{self.key_id} is deleted but still listed"
            return Observation(status=Status.PENDING, reason=reason, wait="visible")
        if used.at is not None and used.at > off_at:
            who = f"{display(used.service) or 'a service'} in {display(used.region) or 'some region'}"
            reason = f"somebody tried {self.key_id} at {used.at.isoformat()}, after it was off ({who}); find out who"
            return Observation(status=Status.CONFLICT, reason=reason)
        return None

    def apply(self, world: World) -> Evidence:
        tried_before = len(world.past(self.key)) > 1
        try:
            at = world.aws(self.account).delete_access_key(self.user, self.key_id)
        except AwsError as error:
            # Gone counts as our success only with an earlier intent of ours: its reply was lost.
            if error.code != "NoSuchEntity" or not tried_before:
                raise
            return {"key_id": self.key_id, "gone": True}
        return {"key_id": self.key_id, "server_time": at.isoformat()}


def switched_off_at(view: View, account: str, user: str, key_id: str) -> datetime | None:
    """AWS's time of our last switching off of this key, or of the look at it when its reply was lost."""
    name = f"{DeactivateKey.kind}:{account}/{user}/{key_id}"
    done = [attempt.applied for attempt in view.past(name)]
    times = [server_time(evidence) for evidence in (view.verdict(name), *done) if evidence is not None]
    return next((at for at in reversed(times) if at is not None), None)


def retire(account: str, user: str, key_id: str, *, pairs: tuple[Pair, ...] = (), mint: str = "") -> tuple[Action, ...]:
    """Deactivate, look, then delete: never an active key, and with `pairs` only while each holds the new one."""
    return (
        DeactivateKey(account=account, user=user, key_id=key_id, pairs=pairs, mint=mint),
        DeleteKey(account=account, user=user, key_id=key_id),
    )


@dataclass(frozen=True, kw_only=True)
class ConfirmKeys(Action):
    """The last look at a user: the new key in every place, no orphan of ours, nothing a stranger added (I6)."""

    kind: ClassVar[str] = "iam:confirm-keys"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListAccessKeys"})
    changes: ClassVar[bool] = False

    account: str
    user: str
    expected: tuple[str, ...]
    """The keys that were there when the plan was made."""
    off: tuple[str, ...]
    """Those of them that must be off by now."""
    pairs: tuple[Pair, ...] = ()
    """Where the new key must be seen once more, after the last change."""
    mint: str = ""
    occasion: str = ""
    """Tells two last looks at one user in one case apart."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.user}{f'/{self.occasion}' if self.occasion else ''}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    def describe(self) -> str:
        return f"confirm that {display(self.user)} in {self.account} has only the keys it should have"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        made = minted(view, self.mint) if self.mint else ()
        listed = [key.id for key in listing.keys]
        evidence = {"keys": listed, "server_time": listing.server_time.isoformat()}
        strangers = [key_id for key_id in listed if key_id not in {*self.expected, *made}]
        if strangers:
            reason = name_strangers(self.user, strangers)
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        premise = look_at_pairs(view, listing, self.pairs, self.mint, credential_of(view, self.credential))
        if premise is not None:
            return self._put_back(view, premise, listing)
        orphans = [key_id for key_id in made[:-1] if key_id in listed]
        if orphans:
            evidence = {**evidence, "orphan": orphans[0]}
            return Observation(status=Status.TAINTED, evidence=evidence, reason=f"{orphans[0]} is replaced and unused")
        still_on = [key.id for key in listing.keys if key.id in self.off and key.is_active]
        if still_on:
            was_off = switched_off_at(view, self.account, self.user, still_on[0]) is not None
            reason = f"{still_on[0]} {'is active again' if was_off else 'is still on: it was not switched off'}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        left = self._left_s(view, listing)
        if left > 0:
            reason = "the last look comes a while after the last change"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)
        return Observation(status=Status.PRESENT, evidence=evidence)

    def _put_back(self, view: View, premise: Observation, listing: KeyListing) -> Observation:
        """A place went back to a key that this run switched off: on again, once, and then a human decides (F18)."""
        if premise.status is not Status.CONFLICT:
            return premise
        for key_id in self.off:
            switched = view.past(f"{DeactivateKey.kind}:{self.account}/{self.user}/{key_id}")
            tried = view.past(f"{ActivateKey.kind}:{self.account}/{self.user}/{key_id}")
            back = [attempt for attempt in tried if attempt.applied is not None]
            seen = listing.find(key_id)
            ours = bool(switched) and (not back or back[-1].seq < switched[-1].seq)
            holds = any(pair.tails(view)[0] == key_id[-4:] for pair in self.pairs)
            if ours and holds and seen is not None and not seen.is_active:
                return Observation(
                    status=Status.TAINTED,
                    evidence={"reactivate": key_id},
                    reason=f"{premise.reason}; {key_id} goes on again",
                )
        return premise

    def _left_s(self, view: View, listing: KeyListing) -> float:
        """Seconds until `relist` is over since the last key was switched off."""
        last = max(
            (
                at
                for key_id in self.off
                for attempt in view.past(f"{DeactivateKey.kind}:{self.account}/{self.user}/{key_id}")
                if attempt.applied is not None and (at := server_time(attempt.applied)) is not None
            ),
            default=None,
        )
        if last is None:
            return 0.0
        return (last + timedelta(seconds=view.waits.relist) - listing.server_time).total_seconds()

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")

    def repair(self, seen: Observation) -> tuple[Action, ...]:
        if "reactivate" in seen.evidence:
            return (ActivateKey(account=self.account, user=self.user, key_id=str(seen.evidence["reactivate"])),)
        return retire(self.account, self.user, str(seen.evidence["orphan"]), pairs=self.pairs, mint=self.mint)
