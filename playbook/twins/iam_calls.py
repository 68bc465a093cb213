"""How a call to one AWS account goes: signature, permission, effect, and its event in the trail."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, TypeVar

from playbook.errors import AwsError, CredentialsError, Effect
from playbook.twins import iam_nouns, trail
from playbook.twins.faults import READ_RETRIES, Call
from playbook.twins.iam_keys import Standing, find_key, standing
from playbook.twins.refusals import NOT_MIRRORED
from playbook.twins.state import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from playbook.ports import AwsReader
    from playbook.twins.remote import Remote
    from playbook.twins.state import Account, IamUser

R = TypeVar("R")
T = TypeVar("T")


PERMISSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "users": ("iam:ListUsers",),
    "described_users": ("iam:GetAccountAuthorizationDetails",),
    "credential_report": ("iam:GetCredentialReport",),
    "access_keys": ("iam:ListAccessKeys",),
    "last_used": ("iam:GetAccessKeyLastUsed",),
    "key_creations": ("cloudtrail:LookupEvents",),
    "summary": ("iam:GetAccountSummary",),
    "create_access_key": ("iam:CreateAccessKey",),
    "set_key_status": ("iam:UpdateAccessKey",),
    "delete_access_key": ("iam:DeleteAccessKey",),
    "key_owner": ("iam:GetAccessKeyLastUsed",),
    "trail": ("cloudtrail:LookupEvents",),
    "user_tags": ("iam:ListUserTags",),
    "user_policy": ("iam:GetUserPolicy",),
    "role_policy": ("iam:GetRolePolicy",),
    "attached_user_policies": ("iam:ListAttachedUserPolicies",),
    "footholds": (
        "iam:GetLoginProfile",
        "iam:ListMFADevices",
        "iam:ListSSHPublicKeys",
        "iam:ListSigningCertificates",
        "iam:ListServiceSpecificCredentials",
    ),
    "details": ("iam:GetAccountAuthorizationDetails",),
    "providers": ("iam:ListOpenIDConnectProviders", "iam:GetOpenIDConnectProvider", "iam:ListSAMLProviders"),
    "role": ("iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies"),
    "managed_policy": ("iam:GetPolicy", "iam:GetPolicyVersion"),
    "accessed_services": ("iam:GenerateServiceLastAccessedDetails", "iam:GetServiceLastAccessedDetails"),
    "put_user_policy": ("iam:PutUserPolicy",),
    "delete_user_policy": ("iam:DeleteUserPolicy",),
    "put_role_policy": ("iam:PutRolePolicy",),
    "delete_role_policy": ("iam:DeleteRolePolicy",),
    "tag_user": ("iam:TagUser",),
    "untag_user": ("iam:UntagUser",),
    "create_provider": ("iam:CreateOpenIDConnectProvider", "iam:TagOpenIDConnectProvider"),
    "add_client_id": ("iam:AddClientIDToOpenIDConnectProvider",),
    "remove_client_id": ("iam:RemoveClientIDFromOpenIDConnectProvider",),
    "delete_provider": ("iam:DeleteOpenIDConnectProvider",),
    "create_role": ("iam:CreateRole", "iam:TagRole"),
    "update_trust": ("iam:UpdateAssumeRolePolicy",),
    "update_session_length": ("iam:UpdateRole",),
    "tag_role": ("iam:TagRole",),
    "attach_role_policy": ("iam:AttachRolePolicy",),
    "detach_role_policy": ("iam:DetachRolePolicy",),
    "create_policy": ("iam:CreatePolicy", "iam:TagPolicy"),
    "delete_policy": ("iam:DeletePolicy",),
    "delete_role": ("iam:DeleteRole",),
}
"""The IAM actions behind each operation, the first of which names a write's event. A mirror asks about all of them at
once. `sts:GetCallerIdentity` needs none and cannot be denied."""

QUOTAS: Final[Mapping[str, int]] = {
    "AssumeRolePolicySizeQuota": 2048,
    "AttachedPoliciesPerRoleQuota": 10,
    "AttachedPoliciesPerUserQuota": 10,
    "GroupPolicySizeQuota": 5120,
    "PoliciesQuota": 1500,
    "PolicySizeQuota": 6144,
    "RolePolicySizeQuota": 10240,
    "RolesQuota": 1000,
    "UserPolicySizeQuota": 2048,
}
"""AWS's defaults, where an account's summary says nothing else (facts/aws 28)."""


class IamCalls:
    """One account of the world, and the way every call to it goes."""

    def __init__(
        self, world: Remote, account: str, *, retries: int = READ_RETRIES, live: AwsReader | None = None
    ) -> None:
        """`live`: of a mirrored account, the reader to ask for what was not mirrored; it is asked once."""
        self._world = world
        self._account = account
        self._retries = retries
        self._live = live
        self._reading = threading.Lock()

    @property
    def account(self) -> str:
        """The 12-digit account id."""
        return self._account

    @property
    def _state(self) -> Account:
        return self._world.state.accounts[self._account]

    def _call(
        self,
        operation: str,
        target: str,
        effect: Callable[[], R],
        *,
        service: str = "iam",
        write: bool = False,
        about: Sequence[str] = (),
    ) -> R:
        """One call; `about` names what a change acts on, for its event in the trail."""

        def permitted() -> R:
            self._require_signature()
            if not write:
                self._require_permission(operation, target)
                return effect()
            try:
                self._require_permission(operation, target)
                reply = effect()
            except AwsError as error:
                self._record(operation, about, error.code)
                raise
            self._record(operation, about)
            return reply

        place = f"{self._account}/{target}" if target else self._account
        call = Call(service=service, operation=operation, target=place, write=write)
        return self._world.call(call, permitted, retries=self._retries)

    def _unless_gone(self, call: Callable[[], object]) -> None:
        """Carry out a removal; what is not there needs none."""
        try:
            call()
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise

    def _record(self, operation: str, about: Sequence[str], error_code: str = "") -> None:
        if operation == "create_access_key" and not error_code:
            return  # the key's own event says more
        trail.record(
            self._world,
            self._state,
            needed(operation)[0].partition(":")[2],
            signer=trail.own_signer(self._state),
            actor=trail.own_name(self._state),
            user_agent=trail.OUR_AGENT,
            source_address=trail.OUR_ADDRESS,
            error_code=error_code,
            resources=tuple(about),
        )

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
        if not set(needed(operation)).isdisjoint(self._state.denied):
            raise refusal(operation, "AccessDenied", 403)

    def _require_user(self, operation: str, user: str) -> IamUser:
        """AWS takes a missing `UserName` for the caller's own; a twin never guesses."""
        if not user:
            raise refusal(operation, "ValidationError", 400)
        if (found := self._state.users.get(user)) is None:
            raise refusal(operation, "NoSuchEntity", 404)
        return found

    def _limit(self, quota: str) -> int:
        return self._state.summary.get(quota, QUOTAS[quota])

    def _server_time(self) -> datetime:
        return trail.server_time(self._world, self._state)

    # --- what a mirror leaves out until it is asked for ---

    def _read_details(self) -> None:
        """Roles, policies and what users have of them."""
        self._read("details", lambda live: live.details(), iam_nouns.keep_details)

    def _read_providers(self) -> None:
        self._read("providers", lambda live: live.providers(), iam_nouns.keep_providers)

    def _read(self, what: str, read: Callable[[AwsReader], T], keep: Callable[[Account, T], None]) -> None:
        """Read from the live account, once and outside the world's lock, for it takes a while."""
        if what not in self._state.unread:
            return
        with self._reading:
            if what not in self._state.unread:
                return
            if self._live is None:
                raise refusal(what, NOT_MIRRORED, None)
            found = read(self._live)
            with self._world.lock:
                keep(self._state, found)
                self._state.unread.remove(what)

    # --- histories ---

    def _shown(self, history: list[Version[T]] | None) -> T | None:
        """What a read shows: the last version that has spread."""
        return version_at(history or [], self._world.ago(self._world.switches.rights_lag_s))

    def _write(self, histories: dict[str, list[Version[T]]], name: str, value: T | None) -> None:
        histories.setdefault(name, []).append(Version(at=self._world.clock.now(), value=value))

    def _arn(self, resource: str) -> str:
        """The ARN of something in this account, such as `role/ci`."""
        return f"arn:{partition_of(self._state)}:iam::{self._account}:{resource}"


def needed(operation: str) -> tuple[str, ...]:
    """The IAM actions behind an operation."""
    return PERMISSIONS.get(operation, ())


def version_at(history: Sequence[Version[T]], moment: datetime) -> T | None:
    """What something was at a moment."""
    return next((version.value for version in reversed(history) if version.at <= moment), None)


def truth(history: Sequence[Version[T]] | None) -> T | None:
    """What something is, whatever a lagging read shows."""
    return history[-1].value if history else None


def partition_of(account: Account) -> str:
    """The partition of the account's ARNs, as the operator's own says."""
    return account.operator_arn.split(":")[1]


def refusal(operation: str, code: str, status: int | None) -> AwsError:
    """Build AWS's definite no."""
    return AwsError(operation, code=code, status=status, effect=Effect.NONE)
