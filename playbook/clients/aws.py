"""boto3 behind `ports.Aws`: one `AwsAccount` for each account that the operator named."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from playbook.clients import quiet_sdk_loggers
from playbook.clients.aws_calls import (
    ACCOUNT,
    ARN,
    KEY_ID,
    USER_NAME,
    date_of,
    in_user_agent,
    key_id_of,
    server_time_of,
    unreadable,
    user_name,
    utc,
)
from playbook.clients.aws_details import Details, report_from
from playbook.clients.aws_roles import ProviderCalls
from playbook.clients.aws_sessions import READS, SessionOpener
from playbook.clients.aws_trail import TrailCalls
from playbook.clients.aws_users import UserCalls
from playbook.clients.endpoints import aws_overrides, check_aws
from playbook.errors import AwsError, CredentialsError, Effect, ServiceError, UsageError
from playbook.ports import (
    AccessKey,
    Credential,
    CredentialReport,
    Hole,
    Identity,
    KeyListing,
    KeyStatus,
    LastUsed,
    User,
    display,
)
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.clients.endpoints import Override
    from playbook.ports import Aws

_SIMULATED_AT_ONCE = 50
_USERS_A_PAGE: Final = 1000
"""The most that IAM gives; it may give fewer."""
_DETAILS: Final = ("User", "Group", "LocalManagedPolicy", "AWSManagedPolicy")
_REPORT_TRIES: Final = 15
_REPORT_PAUSE_S: Final = 1.0


class AwsAccounts:
    """The named accounts, and who a freshly minted key is."""

    def __init__(
        self,
        accounts: Mapping[str, AwsAccount],
        overrides: Sequence[Override],
        *,
        unopened: Sequence[Hole] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.accounts: Mapping[str, Aws] = accounts
        self.unopened = tuple(unopened)
        """The accounts of the Organization that could not be opened."""
        self.notes = tuple(notes)
        self.overrides = tuple(overrides)
        """The endpoint settings in force, to be shown loudly."""
        self.sources = {account: opened.source.label for account, opened in accounts.items()}
        """Which profile or role each account was opened with."""
        self._opened = accounts

    def identify(self, credential: Credential) -> Identity | None:
        """Who STS says this key is, in every probe region; None while one of them does not accept it.

        A wrong identity is answered as it is, for the caller to judge. `InvalidClientTokenId` is the normal answer
        for a key that has not spread yet, and also for one that is inactive (AWS facts 7); `SignatureDoesNotMatch`
        is taken the same way, because our own calls have just been accepted with the same clock.
        """
        opened = self._opened.get(credential.account) or next(iter(self._opened.values()))
        regions = opened.probe_regions()
        seen: set[Identity] = set()
        for region in regions[:1] if self.overrides else regions:
            identity = opened.probe(credential, region)
            if identity is None:
                return None
            seen.add(identity)
        return seen.pop() if len(seen) == 1 else None

    def accepts(self, credential: Credential, service: str, region: str) -> bool | None:
        """Whether a service accepts this key's signature there; None when it cannot be told."""
        opened = self._opened.get(credential.account) or next(iter(self._opened.values()))
        return opened.accepts(credential, service, region)

    def close(self) -> None:
        """Close the connections."""
        for opened in self._opened.values():
            opened.close()


def connect(
    *,
    profiles: Sequence[str] = (),
    role_arns: Sequence[str] = (),
    organization_role: str = "",
    region: str | None = None,
    parallel: int = 16,
    case_id: str,
    allow_endpoint_override: bool = False,
) -> AwsAccounts:
    """Open every named account, in the calling thread. Roles are assumed from the first profile's session.

    `organization_role` names a role to assume in every other account of the first account's Organization; one that
    cannot be opened is a hole, because its keys stay unseen.
    """
    quiet_sdk_loggers()
    overrides = aws_overrides(os.environ, profiles)
    check_aws(overrides, allow_endpoint_override=allow_endpoint_override)
    agent = f"rotation-playbook/{in_user_agent(case_id)}"
    opener = SessionOpener(region=region, agent=agent)
    sources = [opener.profile(name) for name in profiles] if profiles else [opener.profile(None)]
    sources += [opener.role(arn, sources[0]) for arn in role_arns]
    accounts: dict[str, AwsAccount] = {}
    for source, session in sources:
        opened = AwsAccount(source=source, session=session, parallel=parallel, agent=agent)
        earlier = accounts.setdefault(opened.account, opened)
        if earlier is not opened:
            raise UsageError(
                f"{earlier.source.label} and {source.label} both lead to account {opened.account}.",
                remedy="Name each account once, by the source that may list and change its access keys.",
            )
    if not organization_role:
        return AwsAccounts(accounts, overrides)
    first = next(iter(accounts.values()))
    holes: list[Hole] = []
    notes: list[str] = []
    for member in first.organization():
        if member.id in accounts:
            continue
        if not member.active:
            notes.append(f"AWS account {member.id} ({display(member.name)}) is not active: skipped.")
            continue
        try:
            source, session = opener.role(first.role_arn(member.id, organization_role), sources[0])
            accounts[member.id] = AwsAccount(source=source, session=session, parallel=parallel, agent=agent)
        except (ServiceError, CredentialsError) as error:
            code = error.code if isinstance(error, ServiceError) else "CredentialsRefused"
            holes.append(Hole(what="AWS account", where=f"{member.id} ({member.name})", why=code))
    return AwsAccounts(accounts, overrides, unopened=holes, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One account of an Organization."""

    id: str
    name: str
    active: bool
    """False while it is suspended or being closed: no session can be made in it."""


class AwsAccount(UserCalls, ProviderCalls, TrailCalls):
    """One account, behind one source of credentials."""

    # --- reading ---

    def own_key_id(self) -> str:
        """The access key id that signs our own calls, or an empty text for a role session."""
        frozen = self._credentials()
        return "" if frozen.token else frozen.access_key or ""

    def users(self) -> tuple[User, ...]:
        """Every user, all pages."""
        pages = iter(self._iam.get_paginator("list_users").paginate(PaginationConfig={"PageSize": _USERS_A_PAGE}))
        return tuple(
            self._user(item) for page in self._pages("ListUsers", "listing users", pages) for item in page["Users"]
        )

    def described_users(self) -> tuple[User, ...]:
        """Every user with tags, groups and the reach of the policies, in a few pages for the whole account."""
        what = "reading what users may do"
        paginator = self._iam.get_paginator("get_account_authorization_details")
        pages = iter(paginator.paginate(Filter=list(_DETAILS), PaginationConfig={"PageSize": _USERS_A_PAGE}))
        details = Details()
        for page in self._pages("GetAccountAuthorizationDetails", what, pages):
            details.add(page)
        return tuple(
            replace(
                self._user(found.item),
                tags=found.tags,
                policies=found.policies,
                inline_policies=found.inline_policies,
                groups=found.groups,
                boundary=found.boundary,
                reach=found.reach,
            )
            for found in details.described()
        )

    def credential_report(self) -> CredentialReport:
        """The report, once AWS has made one; a report of the last four hours is given again (AWS facts 11)."""
        what = "making the credential report"
        for attempt in range(_REPORT_TRIES):
            made = self._call("GenerateCredentialReport", what, self._iam.generate_credential_report)
            if made.get("State") == "COMPLETE":
                break
            # Nobody waits for this alone: the keys are listed meanwhile.
            time.sleep(_REPORT_PAUSE_S if attempt else _REPORT_PAUSE_S / 10)
        what = "reading the credential report"
        answer = self._call("GetCredentialReport", what, self._iam.get_credential_report)
        content, generated_at = answer.get("Content"), answer.get("GeneratedTime")
        if isinstance(content, bytes) and isinstance(generated_at, datetime):
            with suppress(ValueError):
                return report_from(content, generated_at)
        raise unreadable(what, Effect.NONE)

    def access_keys(self, user: str) -> KeyListing:
        """The keys of one user, with the time of the first page: a key made later is not before it."""
        what = f"listing the access keys of {self._shown(user)}"
        pages = iter(self._iam.get_paginator("list_access_keys").paginate(UserName=user_name(user)))
        keys: list[AccessKey] = []
        server_time: datetime | None = None
        for page in self._pages("ListAccessKeys", what, pages):
            server_time = server_time or server_time_of(page, what, Effect.NONE)
            keys += [self._access_key(user, item, what) for item in page["AccessKeyMetadata"]]
        if server_time is None:
            raise unreadable(what, Effect.NONE)
        return KeyListing(keys=tuple(keys), server_time=server_time)

    def last_used(self, key_id: str) -> LastUsed:
        """When and where the key signed last; `N/A` is AWS's word for never or nowhere."""
        what = f"asking when {key_id_of(key_id)} was last used"
        answer = self._call(
            "GetAccessKeyLastUsed", what, lambda: self._iam.get_access_key_last_used(AccessKeyId=key_id_of(key_id))
        )
        used = answer.get("AccessKeyLastUsed", {})
        service, region = (str(used.get(name, "N/A")) for name in ("ServiceName", "Region"))
        at = utc(used.get("LastUsedDate"))
        return LastUsed(at=at, service="" if service == "N/A" else service, region="" if region == "N/A" else region)

    def summary(self) -> Mapping[str, int]:
        """The quotas in force, and whether the root user has keys."""
        answer = self._call("GetAccountSummary", "reading the account's summary", self._iam.get_account_summary)
        return {str(name): int(number) for name, number in answer.get("SummaryMap", {}).items()}

    def simulate(self, actions: Sequence[str]) -> Mapping[str, bool] | None:
        """Which of these actions our policies allow on any resource; None when AWS does not say.

        A policy that allows an action on some resources only reads as False here.
        """
        decided: dict[str, bool] = {}
        try:
            principal = self._principal_arn()
            paginator = self._iam.get_paginator("simulate_principal_policy")
            for first in range(0, len(actions), _SIMULATED_AT_ONCE):
                some = list(actions[first : first + _SIMULATED_AT_ONCE])
                pages = iter(paginator.paginate(PolicySourceArn=principal, ActionNames=some))
                for page in self._pages("SimulatePrincipalPolicy", "simulating our permissions", pages):
                    for result in page.get("EvaluationResults", []):
                        decided[result["EvalActionName"]] = result["EvalDecision"] == "allowed"
        except AwsError as error:
            if error.retryable and error.code != "Unreadable":
                raise
            return None
        return decided if decided.keys() >= set(actions) else None

    # --- writing ---

    def create_access_key(self, user: str, *, tag: str) -> Credential:
        """Mint a key. The request is sent once; an unknown outcome is the engine's to settle by looking."""
        name, what = user_name(user), f"creating an access key for {self._shown(user)}"
        # The raw reply stays inside the lambda: a frame that raises must not hold it.
        made = self._write(
            "CreateAccessKey",
            what,
            lambda iam: _credential(iam.create_access_key(UserName=name), account=self.account, user=name),
            tag=tag,
        )
        if made is None:
            raise unreadable(what, Effect.UNKNOWN)
        return made

    def set_key_status(self, user: str, key_id: str, status: KeyStatus) -> datetime:
        """Activate or deactivate; idempotent."""
        if status is KeyStatus.EXPIRED:
            raise AwsError("changing a key", code="BadStatus", effect=Effect.NONE, remedy="Only AWS lets a key expire.")
        value: Literal["Active", "Inactive"] = "Active" if status is KeyStatus.ACTIVE else "Inactive"
        what = f"making {key_id_of(key_id)} of {self._shown(user)} {value.lower()}"
        arguments = {"UserName": user_name(user), "AccessKeyId": key_id_of(key_id)}
        answer = self._write("UpdateAccessKey", what, lambda iam: iam.update_access_key(**arguments, Status=value))
        return server_time_of(answer, what, Effect.UNKNOWN)

    def delete_access_key(self, user: str, key_id: str) -> datetime:
        """Delete for good."""
        what = f"deleting {key_id_of(key_id)} of {self._shown(user)}"
        arguments = {"UserName": user_name(user), "AccessKeyId": key_id_of(key_id)}
        answer = self._write("DeleteAccessKey", what, lambda iam: iam.delete_access_key(**arguments))
        return server_time_of(answer, what, Effect.UNKNOWN)

    # --- the Organization ---

    def organization(self) -> tuple[Member, ...]:
        """Every account of this account's Organization; only its management or a delegated account may ask."""
        what = "listing the accounts of the Organization"
        home, *_ = self.probe_regions(home_first=True)
        client = self._made("organizations", {**READS, "user_agent_extra": self._agent}, region=home)
        with closing(client):
            pages = iter(client.get_paginator("list_accounts").paginate())
            members = tuple(
                Member(
                    id=str(item.get("Id", "")),
                    name=str(item.get("Name", "")),
                    # `State` replaces `Status` in AWS's model from September 2026 on.
                    active=(item.get("State") or item.get("Status")) == "ACTIVE",
                )
                for page in self._pages("ListAccounts", what, pages)
                for item in page.get("Accounts", [])
            )
        if any(ACCOUNT.fullmatch(member.id) is None for member in members):
            raise unreadable(what, Effect.NONE)
        return members

    def role_arn(self, account: str, name: str) -> str:
        """The ARN of a role of this name in another account of our partition."""
        return f"arn:{self._partition}:iam::{account}:role/{name}"

    def _principal_arn(self) -> str:
        """The ARN that has our policies: for a role session the role's, whose path only IAM knows."""
        arn = self._identity.arn
        resource = arn.split(":", 5)[-1]
        if not resource.startswith("assumed-role/"):
            return arn
        name = resource.split("/")[1]
        answer = self._call("GetRole", "reading our own role", lambda: self._iam.get_role(RoleName=name))
        return str(answer["Role"]["Arn"])

    def _user(self, item: Mapping[str, Any]) -> User:
        name, arn = item.get("UserName", ""), item.get("Arn", "")
        match = ARN.fullmatch(arn)
        if not USER_NAME.fullmatch(name) or match is None or match["account"] != self.account:
            raise unreadable("listing users", Effect.NONE)
        return User(account=self.account, name=name, arn=arn, created_at=utc(item.get("CreateDate")))

    def _access_key(self, user: str, item: Mapping[str, Any], what: str) -> AccessKey:
        key_id, status, created_at = (item.get(member) for member in ("AccessKeyId", "Status", "CreateDate"))
        if (
            not (isinstance(key_id, str) and KEY_ID.fullmatch(key_id))
            or status not in set(KeyStatus)
            or not isinstance(created_at, datetime)
            or item.get("UserName", user) != user
        ):
            raise unreadable(what, Effect.NONE)
        return AccessKey(
            account=self.account, user=user, id=key_id, status=KeyStatus(status), created_at=created_at.astimezone(UTC)
        )


def _credential(answer: Mapping[str, Any], *, account: str, user: str) -> Credential | None:
    """The minted key, or None when the reply is not what was asked for: then the key, if any, is an orphan."""
    made = answer.get("AccessKey", {})
    key_id, secret, created_at = (made.get(member) for member in ("AccessKeyId", "SecretAccessKey", "CreateDate"))
    if not (isinstance(key_id, str) and KEY_ID.fullmatch(key_id)) or made.get("UserName") != user:
        return None
    if not (isinstance(secret, str) and secret and isinstance(created_at, datetime)):
        return None
    return Credential(
        account=account,
        user=user,
        key_id=key_id,
        secret=Secret(secret),
        created_at=created_at.astimezone(UTC),
        server_time=date_of(answer) or created_at.astimezone(UTC),
    )
