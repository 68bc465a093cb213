"""IAM, STS and CloudTrail of one account, by AWS's rules (facts/aws 2).

Every key keeps its history of changes. Who looks decides what is seen: the truth is the last change, a list and STS
see each change only once their lag has passed.
"""

from __future__ import annotations

import base64
import hmac
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from playbook.errors import AwsError, CredentialsError, Effect
from playbook.ports import (
    AccessKey,
    Credential,
    CredentialReport,
    Identity,
    KeyCreation,
    KeyListing,
    KeyStatus,
    LastUsed,
    ReportedKey,
    ReportedUser,
    User,
)
from playbook.secret import Secret
from playbook.twins.faults import READ_RETRIES, Call
from playbook.twins.state import Change, IamUser, Key, TrailEvent, Use, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from playbook.twins.remote import Remote
    from playbook.twins.state import Account

R = TypeVar("R")

PERMISSIONS: Final[Mapping[str, str]] = {
    "users": "iam:ListUsers",
    "described_users": "iam:GetAccountAuthorizationDetails",
    "credential_report": "iam:GetCredentialReport",
    "access_keys": "iam:ListAccessKeys",
    "last_used": "iam:GetAccessKeyLastUsed",
    "key_creations": "cloudtrail:LookupEvents",
    "summary": "iam:GetAccountSummary",
    "create_access_key": "iam:CreateAccessKey",
    "set_key_status": "iam:UpdateAccessKey",
    "delete_access_key": "iam:DeleteAccessKey",
}
"""The IAM action behind each operation; `sts:GetCallerIdentity` needs none and cannot be denied."""

ID_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
ID_RANDOM: Final = 16
SECRET_BYTES: Final = 30
"""Base64 makes 40 characters of them."""


class Standing(StrEnum):
    """What STS makes of a key id at this moment."""

    ACCEPTED = "accepted"
    INACTIVE = "inactive"
    DELETED = "deleted"
    NOT_PROPAGATED = "not propagated"


class IamTwin:
    """Implements `ports.Aws` for one account of the world."""

    def __init__(self, world: Remote, account: str, *, retries: int = READ_RETRIES) -> None:
        self._world = world
        self._account = account
        self._retries = retries

    @property
    def account(self) -> str:
        """The 12-digit account id."""
        return self._account

    @property
    def _state(self) -> Account:
        return self._world.state.accounts[self._account]

    def own_key_id(self) -> str:
        """The key that signs the operator's calls; no call is made."""
        return self._state.own_key_id

    def identity(self) -> Identity:
        """Who the operator is."""
        return self._call("identity", "", lambda: Identity(account=self._account, arn=self._state.operator_arn))

    def users(self) -> tuple[User, ...]:
        """Every user, sorted by name as IAM does."""
        return self._call("users", "", lambda: tuple(self._user(name) for name in sorted(self._state.users)))

    def described_users(self) -> tuple[User, ...]:
        """Every user with what its policies allow, by hand in the world's file and not worked out here."""

        def effect() -> tuple[User, ...]:
            return tuple(
                User(
                    account=self._account,
                    name=user.name,
                    arn=user.arn,
                    created_at=user.created_at,
                    tags=tuple(sorted(user.tags.items())),
                    policies=user.policies,
                    inline_policies=user.inline_policies,
                    groups=user.groups,
                    boundary=user.boundary,
                    reach=user.reach,
                )
                for _, user in sorted(self._state.users.items())
            )

        return self._call("described_users", "", effect)

    def credential_report(self) -> CredentialReport:
        """The report as it was `report_age_s` ago: younger keys and later uses are not in it."""

        def effect() -> CredentialReport:
            at = self._server_time() - timedelta(seconds=self._world.switches.report_age_s)
            users = sorted(self._state.users.values(), key=lambda user: user.name)
            return CredentialReport(generated_at=at, users=tuple(self._reported(user, at) for user in users))

        return self._call("credential_report", "", effect)

    def _reported(self, user: IamUser, at: datetime) -> ReportedUser:
        keys = []
        for key in keys_of(self._state, user.name):
            known = [change for change in key.changes if change.at <= at]
            if key.created_at > at or not known or known[-1].status is None:
                continue
            used = key.last_used if key.last_used is not None and key.last_used.at <= at else None
            last = LastUsed(at=None) if used is None else LastUsed(at=used.at, service=used.service, region=used.region)
            # A mirrored key's changes carry no times; a toggle moves the report's date as a creation does.
            toggled = known[-1].at.replace(microsecond=0) if len(known) > 1 else key.created_at
            keys.append(ReportedKey(changed_at=max(key.created_at, toggled), last_used=last))
        return ReportedUser(name=user.name, keys=tuple(keys[:2]), password_last_used_at=user.password_last_used_at)

    def access_keys(self, user: str) -> KeyListing:
        """The keys of one user, as late as the list lags."""

        def effect() -> KeyListing:
            self._require_user("access_keys", user)
            keys = sorted(keys_of(self._state, user), key=lambda key: (key.created_at, key.id))
            listed = ((key, self._listed(key)) for key in keys)
            return KeyListing(
                keys=tuple(self._access_key(key, status) for key, status in listed if status is not None),
                server_time=self._server_time(),
            )

        return self._call("access_keys", user, effect)

    def last_used(self, key_id: str) -> LastUsed:
        """When the key signed last, as coarsely as IAM records it."""

        def effect() -> LastUsed:
            key = self._state.keys.get(key_id)
            if key is None or key.status is None:
                raise refusal("last_used", "NoSuchEntity", 404)
            used = key.last_used
            return LastUsed(at=None) if used is None else LastUsed(at=used.at, service=used.service, region=used.region)

        return self._call("last_used", key_id, effect)

    def key_creations(self, user: str, since: datetime) -> tuple[KeyCreation, ...]:
        """The events that CloudTrail has delivered by now."""

        def effect() -> tuple[KeyCreation, ...]:
            if self._world.switches.trail_denied:
                raise refusal("key_creations", "AccessDenied", 403)
            delivered = self._world.ago(self._world.switches.trail_lag_s) + timedelta(seconds=self._state.skew_s)
            return tuple(
                KeyCreation(
                    event_id=event.id,
                    at=event.at,
                    key_id=event.key_id,
                    user_agent=event.user_agent,
                    source_address=event.source_address,
                )
                for event in self._state.trail
                if event.user == user and since <= event.at <= delivered
            )

        return self._call("key_creations", user, effect, service="cloudtrail")

    def summary(self) -> Mapping[str, int]:
        """The quota in force, with whatever else the account's summary says."""
        return self._call("summary", "", lambda: {**self._state.summary, "AccessKeysPerUserQuota": self._quota()})

    def simulate(self, actions: Sequence[str]) -> Mapping[str, bool] | None:
        """Which actions the operator may use; None also for one that a mirror did not ask the live account about."""

        def effect() -> Mapping[str, bool] | None:
            mirrored = self._state.simulated
            if not self._state.can_simulate or (mirrored and not mirrored.keys() >= set(actions)):
                return None
            return {action: mirrored.get(action, action not in self._state.denied) for action in actions}

        return self._call("simulate", "", effect)

    def create_access_key(self, user: str, *, tag: str) -> Credential:
        """Mint a key, unless the user is at the quota: inactive keys count, deleted ones that still show do not."""

        def effect() -> Credential:
            self._require_user("create_access_key", user)
            if len(existing(self._state, user)) >= self._quota():
                raise refusal("create_access_key", "LimitExceeded", 409)
            secret = Secret(mint_secret(self._world))
            key = add_key(self._world, self._state, user, Value.of(secret), tag=tag)
            return Credential(
                account=self._account,
                user=user,
                key_id=key.id,
                secret=secret,
                created_at=key.created_at,
                server_time=self._server_time(),
            )

        return self._call("create_access_key", user, effect, write=True)

    def set_key_status(self, user: str, key_id: str, status: KeyStatus) -> datetime:
        """Turn a key on or off; setting what it is already changes nothing, not even the history."""

        def effect() -> datetime:
            key = self._require_key("set_key_status", user, key_id)
            if status is KeyStatus.EXPIRED:
                raise refusal("set_key_status", "ValidationError", 400)
            change(self._world, key, status)
            return self._server_time()

        return self._call("set_key_status", f"{user}/{key_id}", effect, write=True)

    def delete_access_key(self, user: str, key_id: str) -> datetime:
        """Delete a key, active or not; the second time it is no longer there."""

        def effect() -> datetime:
            change(self._world, self._require_key("delete_access_key", user, key_id), None)
            return self._server_time()

        return self._call("delete_access_key", f"{user}/{key_id}", effect, write=True)

    def _call(
        self, operation: str, target: str, effect: Callable[[], R], *, service: str = "iam", write: bool = False
    ) -> R:
        def permitted() -> R:
            self._require_signature()
            self._require_permission(operation, target)
            return effect()

        place = f"{self._account}/{target}" if target else self._account
        call = Call(service=service, operation=operation, target=place, write=write)
        return self._world.call(call, permitted, retries=self._retries)

    def _require_signature(self) -> None:
        """Refuse an operator who has switched off the very key that signs the calls."""
        found = find_key(self._world, self._state.own_key_id)
        if found is None or standing(self._world, found[1]) is Standing.ACCEPTED:
            return
        raise CredentialsError(
            f"AWS does not accept the credentials of account {self._account}.",
            remedy="The access key that signs these calls is inactive or deleted: sign in as somebody else.",
        )

    def _require_permission(self, operation: str, target: str) -> None:
        for place in (f"{operation}:{target}", f"{operation}:*"):
            if (refused := self._state.refusals.get(place)) is not None:
                raise refusal(operation, refused.code, refused.status)
        if PERMISSIONS.get(operation) in self._state.denied:
            raise refusal(operation, "AccessDenied", 403)

    def _require_user(self, operation: str, user: str) -> IamUser:
        """AWS takes a missing `UserName` for the caller's own; a twin never guesses."""
        if not user:
            raise refusal(operation, "ValidationError", 400)
        if (found := self._state.users.get(user)) is None:
            raise refusal(operation, "NoSuchEntity", 404)
        return found

    def _require_key(self, operation: str, user: str, key_id: str) -> Key:
        self._require_user(operation, user)
        key = self._state.keys.get(key_id)
        if key is None or key.user != user or key.status is None:
            raise refusal(operation, "NoSuchEntity", 404)
        return key

    def _user(self, name: str) -> User:
        user = self._state.users[name]
        return User(account=self._account, name=user.name, arn=user.arn, created_at=user.created_at)

    def _access_key(self, key: Key, status: KeyStatus) -> AccessKey:
        return AccessKey(account=self._account, user=key.user, id=key.id, status=status, created_at=key.created_at)

    def _listed(self, key: Key) -> KeyStatus | None:
        switches = self._world.switches
        return seen(
            self._world, key, made=switches.list_lag_s, switched=switches.status_lag_s, gone=switches.list_lag_s
        )

    def _quota(self) -> int:
        switch = self._world.switches.keys_per_user
        return self._state.quota if switch is None else switch

    def _server_time(self) -> datetime:
        return server_time(self._world, self._state)


def refusal(operation: str, code: str, status: int | None) -> AwsError:
    """Build AWS's definite no."""
    return AwsError(operation, code=code, status=status, effect=Effect.NONE)


def server_time(world: Remote, account: Account) -> datetime:
    """AWS's own time, in the whole seconds of a `Date` header and of a key's CreateDate."""
    return (world.clock.now() + timedelta(seconds=account.skew_s)).replace(microsecond=0)


def keys_of(account: Account, user: str) -> list[Key]:
    """Every key the user ever had, the deleted ones among them."""
    return [key for key in account.keys.values() if key.user == user]


def existing(account: Account, user: str) -> list[Key]:
    """The keys that count against the quota: the truth, not what a list shows."""
    return [key for key in keys_of(account, user) if key.status is not None]


def find_key(world: Remote, key_id: str) -> tuple[Account, Key] | None:
    """The key of this id in whichever account, deleted ones included."""
    for account in world.state.accounts.values():
        if (key := account.keys.get(key_id)) is not None:
            return account, key
    return None


def seen(world: Remote, key: Key, *, made: float, switched: float, gone: float) -> KeyStatus | None:
    """A key's status to one who learns of its creation, its changes and its deletion with these lags."""
    now = world.clock.now()
    status: KeyStatus | None = None
    for number, item in enumerate(key.changes):
        lag = made if number == 0 else gone if item.status is None else switched
        if item.at + timedelta(seconds=lag) > now:
            break
        status = item.status
    return status


def standing(world: Remote, key: Key) -> Standing:
    """What STS makes of the key now; a change takes a while to reach it, in both directions (facts 2, 4 and 6)."""
    switches = world.switches
    if key.changes[0].at > world.ago(switches.sts_lag_s):
        return Standing.NOT_PROPAGATED
    status = seen(world, key, made=switches.sts_lag_s, switched=switches.off_lag_s, gone=switches.off_lag_s)
    if status is None:
        return Standing.DELETED
    return Standing.ACCEPTED if status is KeyStatus.ACTIVE else Standing.INACTIVE


def identify(world: Remote, credential: Credential) -> Identity | None:
    """`sts:GetCallerIdentity` signed with a credential; None for all that AWS answers with the same refusal."""

    def effect() -> Identity | None:
        found = find_key(world, credential.key_id)
        if found is None:
            return None
        account, key = found
        known = key.secret.sha256 if key.secret is not None else None
        if known is None or not hmac.compare_digest(known, credential.secret.digest()):
            return None
        if standing(world, key) is not Standing.ACCEPTED:
            return None
        use(world, key)
        return Identity(account=account.id, arn=account.users[key.user].arn)

    call = Call(service="sts", operation="identify", target=credential.key_id, write=False)
    return world.call(call, effect)


def use(world: Remote, key: Key, *, service: str = "sts", region: str = "us-east-1") -> None:
    """Record a signature, unless one was recorded a short while ago (facts/aws 9)."""
    if key.last_used is None or key.last_used.at <= world.ago(world.switches.use_span_s):
        key.last_used = Use(at=world.clock.now().replace(microsecond=0), service=service, region=region)
        world.changed()


def change(world: Remote, key: Key, status: KeyStatus | None) -> None:
    """Append to a key's history, if it changes anything."""
    if key.status is not status:
        key.changes.append(Change(at=world.clock.now(), status=status))


def add_key(world: Remote, account: Account, user: str, secret: Value, *, tag: str = "", agent: str = "") -> Key:
    """Bring a new active key into being, with its CloudTrail event; quotas are the caller's business."""
    key = Key(
        id=_mint_id(world),
        user=user,
        created_at=server_time(world, account),
        changes=[Change(at=world.clock.now(), status=KeyStatus.ACTIVE)],
        secret=secret,
        tag=tag,
    )
    account.keys[key.id] = key
    account.trail.append(
        TrailEvent(
            id=f"event-of-{key.id}",
            at=key.created_at,
            user=user,
            key_id=key.id,
            user_agent=agent or f"Boto3/1 rotation-playbook {tag}",
            source_address="192.0.2.10" if tag else "203.0.113.77",
        )
    )
    return key


def _mint_id(world: Remote) -> str:
    """Draw until the id is new: a seed that was used before must not repeat one."""
    while True:
        key_id = "AKIA" + "".join(world.random.choices(ID_ALPHABET, k=ID_RANDOM))
        if find_key(world, key_id) is None:
            return key_id


def mint_secret(world: Remote) -> str:
    """Make up 40 characters of the shape of an AWS secret."""
    return base64.b64encode(world.random.randbytes(SECRET_BYTES)).decode()
