"""IAM, STS and CloudTrail of one account, by AWS's rules (facts/aws 2).

The whole of `ports.Aws`: who there is and its access keys stand here; what users, roles and providers have besides is
in the modules this one is built of.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

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
from playbook.twins import trail
from playbook.twins.iam_calls import PERMISSIONS, QUOTAS, refusal
from playbook.twins.iam_keys import (
    Standing,
    accepts,
    add_key,
    change,
    existing,
    find_key,
    identify,
    keys_of,
    mint_secret,
    seen,
    standing,
    use,
)
from playbook.twins.iam_providers import ProviderCalls
from playbook.twins.iam_roles import RoleCalls
from playbook.twins.iam_users import rights_of
from playbook.twins.state import Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from playbook.twins.state import IamUser, Key

__all__ = [
    "PERMISSIONS",
    "IamTwin",
    "Standing",
    "accepts",
    "add_key",
    "change",
    "existing",
    "find_key",
    "identify",
    "keys_of",
    "mint_secret",
    "refusal",
    "standing",
    "use",
]


class IamTwin(RoleCalls, ProviderCalls):
    """Implements `ports.Aws` for one account of the world."""

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
            return tuple(self._described(user) for _, user in sorted(self._state.users.items()))

        return self._call("described_users", "", effect)

    def _described(self, user: IamUser) -> User:
        rights = self._shown(self._state.rights.get(user.name)) or rights_of(self._state, user.name)
        return User(
            account=self._account,
            name=user.name,
            arn=user.arn,
            created_at=user.created_at,
            tags=tuple(sorted(rights.tags.items())),
            policies=tuple(arn.rpartition("/")[2] for arn in rights.attached),
            inline_policies=tuple(rights.inline),
            groups=user.groups,
            boundary=user.boundary,
            reach=user.reach,
        )

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
            return tuple(
                KeyCreation(
                    event_id=event.id,
                    at=event.at,
                    key_id=event.key_id,
                    user_agent=event.user_agent,
                    source_address=event.source_address,
                )
                for event in trail.delivered(self._world, self._state)
                if event.user == user and event.key_id and since <= event.at
            )

        return self._call("key_creations", user, effect, service="cloudtrail")

    def summary(self) -> Mapping[str, int]:
        """The quotas in force, with whatever else the account's summary says."""
        return self._call(
            "summary", "", lambda: {**QUOTAS, **self._state.summary, "AccessKeysPerUserQuota": self._quota()}
        )

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

        return self._call("create_access_key", user, effect, write=True, about=(user,))

    def set_key_status(self, user: str, key_id: str, status: KeyStatus) -> datetime:
        """Turn a key on or off; setting what it is already changes nothing, not even the history."""

        def effect() -> datetime:
            key = self._require_key("set_key_status", user, key_id)
            if status is KeyStatus.EXPIRED:
                raise refusal("set_key_status", "ValidationError", 400)
            change(self._world, key, status)
            return self._server_time()

        return self._call("set_key_status", f"{user}/{key_id}", effect, write=True, about=(user, key_id))

    def delete_access_key(self, user: str, key_id: str) -> datetime:
        """Delete a key, active or not; the second time it is no longer there."""

        def effect() -> datetime:
            change(self._world, self._require_key("delete_access_key", user, key_id), None)
            return self._server_time()

        return self._call("delete_access_key", f"{user}/{key_id}", effect, write=True, about=(user, key_id))

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
