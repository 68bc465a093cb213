"""What an IAM user has, noted before containment and looked at again after it: a thief reacts within seconds (F49).

A switched-off key works on for some seconds, and that is enough to make another way in. What each user has is kept in
the journal as hashes, before anything is switched off; no plan's digest depends on it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from playbook.decoding import met
from playbook.errors import AwsError
from playbook.model import Action, Observation, Status
from playbook.ports import KeyListing, display
from steps.iam_keys import list_keys, minted
from steps.session_policies import POLICY, cutoff_of, last_off_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playbook.ports import Evidence, Principal, View, World

USERS_AT_ONCE: Final = 5
"""One read of the whole account serves several users, and what is noted of them fits into one record."""
CREATE_KIND: Final = "iam:create-access-key"
_ABOUT: Final = {
    "access-key": "access key",
    "managed-policy": "managed policy",
    "inline-policy": "inline policy",
    "login-profile": "password (login profile)",
    "mfa-device": "MFA device",
    "ssh-key": "SSH key",
}


@dataclass(frozen=True)
class Belonging:
    """One thing that a user has."""

    kind: str
    name: str
    version: str = ""
    """What changes with its content: of an inline policy the document's hash."""
    created_at: datetime | None = None

    @property
    def mark(self) -> str:
        """What the journal keeps of it: the kind, and a hash of the rest."""
        rest = hashlib.sha256(f"{self.name}\n{self.version}".encode()).hexdigest()
        return f"{self.kind}:{rest[:8]}"

    def describe(self) -> str:
        """For a person: `access key AKIA...`."""
        return f"{_ABOUT.get(self.kind, self.kind)} {display(self.name, 160)}"


@dataclass(frozen=True)
class Look:
    """What some users of an account have, and what of it could not be read."""

    users: Mapping[str, tuple[Belonging, ...]]
    unread: tuple[str, ...]

    def marks(self) -> dict[str, list[str]]:
        """By user, what the journal keeps."""
        return {user: sorted(item.mark for item in found) for user, found in self.users.items()}


def look_at(view: View, account: str, listings: Mapping[str, KeyListing]) -> Look:
    """Read what these users have besides the keys already listed. A refused read is named, never taken for nothing."""
    aws = view.aws(account)
    unread: list[str] = []
    principals: dict[str, Principal] = {}
    try:
        principals = {user.name: user for user in aws.details().users}
    except AwsError as error:
        if error.retryable:
            raise
        unread.append(f"policies and groups (iam:GetAccountAuthorizationDetails: {error.code})")
    found: dict[str, tuple[Belonging, ...]] = {}
    for user, listing in listings.items():
        items = [Belonging("access-key", key.id, created_at=key.created_at) for key in listing.keys]
        if user in principals:
            items += _of_principal(principals[user])
        try:
            items += [Belonging(item.kind, item.id, created_at=item.created_at) for item in aws.footholds(user)]
        except AwsError as error:
            if error.retryable:
                raise
            unread.append(f"passwords, MFA devices and certificates of {display(user)} ({error.code})")
        found[user] = tuple(dict.fromkeys(items))
    return Look(users=found, unread=tuple(unread))


def _of_principal(user: Principal) -> Iterator[Belonging]:
    for policy in user.inline:
        if policy.name != POLICY or cutoff_of(policy.document) is None:
            text = json.dumps(policy.document, sort_keys=True)
            yield Belonging("inline-policy", policy.name, hashlib.sha256(text.encode()).hexdigest())
    yield from (Belonging("managed-policy", arn) for arn in user.attached)
    yield from (Belonging("group", name) for name in user.groups)
    if user.boundary:
        yield Belonging("permissions boundary", user.boundary)


@dataclass(frozen=True, kw_only=True)
class _OfUsers(Action):
    changes: ClassVar[bool] = False
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListAccessKeys",
            "iam:GetAccountAuthorizationDetails",
            "iam:GetLoginProfile",
            "iam:ListMFADevices",
            "iam:ListSSHPublicKeys",
            "iam:ListSigningCertificates",
            "iam:ListServiceSpecificCredentials",
        }
    )

    account: str
    users: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{'/'.join(self.users)}"

    @property
    def lane(self) -> str:
        return f"{self.account}/contained/{'/'.join(self.users)}"

    def _names(self) -> str:
        return ", ".join(display(user) for user in self.users)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class NoteUsers(_OfUsers):
    """Note what users have before their keys go off; what cannot be read does not stand in the way."""

    kind: ClassVar[str] = "iam:note-users"

    def describe(self) -> str:
        return f"note what {self._names()} in {self.account} have: keys, policies, groups, other ways in"

    def observe(self, view: View) -> Observation:
        listings = {}
        for user in self.users:
            listing = list_keys(view, self.account, user)
            if isinstance(listing, KeyListing):
                listings[user] = listing
        look = look_at(view, self.account, listings)
        return Observation(status=Status.PRESENT, evidence={"users": look.marks(), "unread": list(look.unread)})


def noted_before(view: View, account: str, users: tuple[str, ...]) -> Mapping[str, list[str]] | None:
    """What `NoteUsers` kept, by user; None when nothing was noted."""
    noted = view.verdict(NoteUsers(account=account, users=users).key)
    return None if noted is None else msgspec.convert(noted["users"], met(dict[str, list[str]]))


@dataclass(frozen=True, kw_only=True)
class ConfirmContained(_OfUsers):
    """The look after a containment: nothing was added to the users, and nothing of theirs is on again (F49).

    Two equal looks count, the first after `settle` and the last after `relist` seconds since the last switch-off, on
    AWS's clock. They are compared with what was noted before; where nothing was, with what was made since.
    """

    kind: ClassVar[str] = "iam:confirm-contained"
    gate: ClassVar[str] = "contained"

    keys: tuple[str, ...]
    """Every key of these users that was known when the plan was made, as `account/user/id`."""

    def describe(self) -> str:
        return f"confirm that nobody gave {self._names()} in {self.account} another way in"

    def observe(self, view: View) -> Observation:
        listings: dict[str, KeyListing] = {}
        for user in self.users:
            listing = list_keys(view, self.account, user)
            if isinstance(listing, Observation):
                return listing
            listings[user] = listing
        now = max(listing.server_time for listing in listings.values())
        off_at = last_off_at(view, self.keys)
        if (left := _left_s(now, off_at, view.waits.settle)) > 0:
            reason = "the first look comes after the switch-off has spread"
            return Observation(status=Status.PENDING, evidence={"settled": False}, reason=reason, again_s=left)
        look = look_at(view, self.account, listings)
        if (wrong := self._wrong(view, look, listings, off_at)) is not None:
            return wrong
        state = hashlib.sha256(json.dumps(look.marks(), sort_keys=True).encode()).hexdigest()[:16]
        evidence: Evidence = {"settled": True, "state": state, "server_time": now.isoformat(), "users": len(self.users)}
        agreeing = [seen for seen in view.looks(self.key) if seen.get("state") == state]
        left = _left_s(now, off_at, view.waits.relist)
        if left > 0 or not agreeing:
            reason = "the last look comes a while after the last switch-off, and must agree with the one before"
            again_s = left if left > 0 else float(view.waits.settle)
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=again_s)
        return Observation(status=Status.PRESENT, evidence=evidence)

    def _wrong(
        self, view: View, look: Look, listings: Mapping[str, KeyListing], off_at: datetime | None
    ) -> Observation | None:
        if look.unread:
            reason = f"what the users have could not be read whole: {'; '.join(look.unread)}"
            return Observation(status=Status.CONFLICT, evidence={"unread": list(look.unread)}, reason=reason)
        different = [text for user in self.users for text in self._differences(view, look, user, off_at)]
        different += [
            f"{key.id} of {display(user)}, which this run switched off, is active again"
            for user, listing in listings.items()
            for key in listing.keys
            if key.is_active and self._is_off(view, key.id, user)
        ]
        if different:
            reason = f"since they were contained: {'; '.join(different)}"
            return Observation(status=Status.CONFLICT, evidence={"different": different[:20]}, reason=reason)
        return None

    def _is_off(self, view: View, key_id: str, user: str) -> bool:
        switched = view.past(f"iam:deactivate-access-key:{self.account}/{user}/{key_id}")
        back = view.past(f"iam:activate-access-key:{self.account}/{user}/{key_id}")
        off = max((attempt.seq for attempt in switched if attempt.applied is not None), default=-1)
        return off > max((attempt.seq for attempt in back), default=-1)

    def _differences(self, view: View, look: Look, user: str, off_at: datetime | None) -> Iterator[str]:
        """What is there that was not there before, and what is there no longer."""
        known = {key.rpartition("/")[2] for key in self.keys if key.startswith(f"{self.account}/{user}/")}
        ours = {made for key_id in known for made in minted(view, f"{CREATE_KIND}:{self.account}/{user}/{key_id}")}
        items = [item for item in look.users[user] if not (item.kind == "access-key" and item.name in ours)]
        noted = (noted_before(view, self.account, self.users) or {}).get(user)
        if noted is None:
            made_since = [i for i in items if off_at and i.created_at and i.created_at >= off_at - timedelta(seconds=1)]
            strangers = [i for i in items if i.kind == "access-key" and i.name not in known and i not in made_since]
            added = [*made_since, *strangers]
        else:
            added = [item for item in items if item.mark not in noted]
        for item in added:
            yield f"{display(user)} has the {item.describe()}, which was not there"
        gone = Counter(noted or ()) - Counter(item.mark for item in look.users[user])
        for kind, count in sorted(Counter(mark.partition(":")[0] for mark in gone.elements()).items()):
            if kind != "access-key":
                what = _ABOUT.get(kind, kind)
                yield f"{display(user)} has lost or changed {count} {what}{'' if count == 1 else 's'}"


def _left_s(now: datetime, off_at: datetime | None, seconds: float) -> float:
    """Seconds until so long after the last switch-off; none when nothing was switched off."""
    return 0.0 if off_at is None else (off_at + timedelta(seconds=seconds) - now).total_seconds()


def in_batches(users: Iterable[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The users by account, a few at a time, always in the same groups."""
    accounts: dict[str, list[str]] = {}
    for account, user in users:
        accounts.setdefault(account, []).append(user)
    for account, names in accounts.items():
        for at in range(0, len(names), USERS_AT_ONCE):
            yield account, tuple(names[at : at + USERS_AT_ONCE])
