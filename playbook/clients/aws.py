"""boto3 behind `ports.Aws`: one `AwsAccount` for each account that the operator named.

Three properties of the SDK decide the shape of this file (AWS facts 1.4, `invariants` 0):

- by default it sends a `CreateAccessKey` again when the reply is lost, and so mints a second key: every write goes
  through a client of its own that sends once and shares no connection with an earlier call (a kept-alive one may be
  dead, which is a doubt nobody needs), and whose user agent carries the intent's tag, by which CloudTrail knows it;
- its exceptions may hold a reply's whole body: they end in `_AwsCalls.call`, and what is raised is built outside
  the `except`, without a context;
- making clients is not thread-safe, so it happens in the main thread or under a lock; a shared model loader brings
  it down to 2 or 3 ms a client, measured with botocore 1.44.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from playbook.clients import aws_errors, quiet_sdk_loggers
from playbook.clients.aws_details import Details, report_from
from playbook.clients.aws_sessions import READS, TIMEOUTS, SessionOpener, direct_on_loopback
from playbook.clients.budget import budget_towards
from playbook.clients.endpoints import aws_overrides, check_aws, is_loopback
from playbook.errors import AwsError, CredentialsError, Effect, ServiceError, UsageError
from playbook.ports import (
    AccessKey,
    Credential,
    CredentialReport,
    Hole,
    Identity,
    KeyCreation,
    KeyListing,
    KeyStatus,
    LastUsed,
    User,
    display,
)
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import boto3.session
    import botocore.credentials
    from mypy_boto3_iam import IAMClient

    from playbook.clients.aws_errors import AwsSource
    from playbook.clients.budget import Budget
    from playbook.clients.endpoints import Override
    from playbook.ports import Aws

T = TypeVar("T")

_ACCOUNT = re.compile(r"[0-9]{12}")
_KEY_ID = re.compile(r"AKIA[A-Z0-9]{12,124}")
_USER_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_ARN = re.compile(r"arn:(?P<partition>aws[a-z-]*):(?:iam|sts)::(?P<account>[0-9]{12}):(?P<resource>[!-~]{1,600})")

_PROBE_REGIONS: Final = {
    "aws": ("us-east-1", "us-west-2"),
    "aws-cn": ("cn-north-1", "cn-northwest-1"),
    "aws-us-gov": ("us-gov-west-1", "us-gov-east-1"),
}
"""Regions that no account has to opt in to; the first is where IAM's events are logged (AWS facts 14)."""

_PAGES_MAX = 1000
_TRAIL_PAGES_MAX = 20
_SIMULATED_AT_ONCE = 50
_USERS_A_PAGE: Final = 1000
"""The most that IAM gives; it may give fewer."""
_DETAILS: Final = ("User", "Group", "LocalManagedPolicy", "AWSManagedPolicy")
_REPORT_TRIES: Final = 15
_REPORT_PAUSE_S: Final = 1.0
_ONCE: Final[Mapping[str, Any]] = {"retries": {"mode": "standard", "total_max_attempts": 1}, **TIMEOUTS}


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
    agent = f"rotation-playbook/{_in_user_agent(case_id)}"
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


class AwsAccount:
    """One account, behind one source of credentials."""

    def __init__(self, *, source: AwsSource, session: boto3.session.Session, parallel: int, agent: str) -> None:
        """Asks STS at once who we are, so that a wrong profile is found before anything is planned."""
        self.source = source
        self._session = session
        self._agent = agent
        self._making = threading.Lock()
        reads = {**READS, "max_pool_connections": parallel, "user_agent_extra": agent}
        self._sts = self._made("sts", reads)
        self._iam = self._made("iam", reads)
        loopback = is_loopback(self._iam.meta.endpoint_url)
        self._budget = budget_towards(loopback=loopback, rate=20.0, most=100.0)
        # LookupEvents allows two calls a second per account and region (AWS facts 13).
        self._trail_budget = budget_towards(loopback=loopback, rate=2.0, most=2.0)
        self._identity = self.identity()
        partition = _ARN.fullmatch(self._identity.arn)
        self._partition = partition["partition"] if partition else "aws"
        home, *_ = self.probe_regions(home_first=True)
        self._trail = self._made("cloudtrail", reads, region=home)

    def close(self) -> None:
        """Close the connections."""
        for client in (self._sts, self._iam, self._trail):
            client.close()

    # --- reading ---

    @property
    def account(self) -> str:
        """The 12-digit account id."""
        return self._identity.account

    def identity(self) -> Identity:
        """Who we are in this account, asked anew."""
        answer = self._call("GetCallerIdentity", "asking who we are", self._sts.get_caller_identity)
        return _identity(answer)

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
        raise _unreadable(what, Effect.NONE)

    def access_keys(self, user: str) -> KeyListing:
        """The keys of one user, with the time of the first page: a key made later is not before it."""
        what = f"listing the access keys of {self._shown(user)}"
        pages = iter(self._iam.get_paginator("list_access_keys").paginate(UserName=_user_name(user)))
        keys: list[AccessKey] = []
        server_time: datetime | None = None
        for page in self._pages("ListAccessKeys", what, pages):
            server_time = server_time or _server_time(page, what, Effect.NONE)
            keys += [self._access_key(user, item, what) for item in page["AccessKeyMetadata"]]
        if server_time is None:
            raise _unreadable(what, Effect.NONE)
        return KeyListing(keys=tuple(keys), server_time=server_time)

    def last_used(self, key_id: str) -> LastUsed:
        """When and where the key signed last; `N/A` is AWS's word for never or nowhere."""
        what = f"asking when {_key_id(key_id)} was last used"
        answer = self._call(
            "GetAccessKeyLastUsed", what, lambda: self._iam.get_access_key_last_used(AccessKeyId=_key_id(key_id))
        )
        used = answer.get("AccessKeyLastUsed", {})
        service, region = (str(used.get(name, "N/A")) for name in ("ServiceName", "Region"))
        at = _utc(used.get("LastUsedDate"))
        return LastUsed(at=at, service="" if service == "N/A" else service, region="" if region == "N/A" else region)

    def key_creations(self, user: str, since: datetime) -> tuple[KeyCreation, ...]:
        """CloudTrail's `CreateAccessKey` events for this user; IAM's are logged in one region (AWS facts 14)."""
        what = f"looking up who made the access keys of {self._shown(user)}"
        pages = iter(
            self._trail.get_paginator("lookup_events").paginate(
                LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateAccessKey"}], StartTime=since
            )
        )
        found: list[KeyCreation] = []
        for page in self._pages("LookupEvents", what, pages, budget=self._trail_budget, pages_max=_TRAIL_PAGES_MAX):
            found += [creation for event in page["Events"] if (creation := _creation(event, self.account, user))]
        return tuple(found)

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
        name, what = _user_name(user), f"creating an access key for {self._shown(user)}"
        # The raw reply stays inside the lambda: a frame that raises must not hold it.
        made = self._write(
            "CreateAccessKey",
            what,
            lambda iam: _credential(iam.create_access_key(UserName=name), account=self.account, user=name),
            tag=tag,
        )
        if made is None:
            raise _unreadable(what, Effect.UNKNOWN)
        return made

    def set_key_status(self, user: str, key_id: str, status: KeyStatus) -> datetime:
        """Activate or deactivate; idempotent."""
        if status is KeyStatus.EXPIRED:
            raise AwsError("changing a key", code="BadStatus", effect=Effect.NONE, remedy="Only AWS lets a key expire.")
        value: Literal["Active", "Inactive"] = "Active" if status is KeyStatus.ACTIVE else "Inactive"
        what = f"making {_key_id(key_id)} of {self._shown(user)} {value.lower()}"
        arguments = {"UserName": _user_name(user), "AccessKeyId": _key_id(key_id)}
        answer = self._write("UpdateAccessKey", what, lambda iam: iam.update_access_key(**arguments, Status=value))
        return _server_time(answer, what, Effect.UNKNOWN)

    def delete_access_key(self, user: str, key_id: str) -> datetime:
        """Delete for good."""
        what = f"deleting {_key_id(key_id)} of {self._shown(user)}"
        arguments = {"UserName": _user_name(user), "AccessKeyId": _key_id(key_id)}
        answer = self._write("DeleteAccessKey", what, lambda iam: iam.delete_access_key(**arguments))
        return _server_time(answer, what, Effect.UNKNOWN)

    # --- probing ---

    def probe_regions(self, *, home_first: bool = False) -> tuple[str, ...]:
        """Our own region and another of the same partition; `home_first`: the region of IAM's events first."""
        own = self._session.region_name
        known = _PROBE_REGIONS.get(self._partition, (own,))
        return known if home_first else tuple(dict.fromkeys((own, *known)))[:2]

    def probe(self, credential: Credential, region: str) -> Identity | None:
        """Ask STS in one region with the new key itself, over a connection of its own."""
        client = self._made("sts", {**READS, "user_agent_extra": self._agent}, region=region, signer=credential)
        self._budget.take()
        with closing(client):
            answer = aws_errors.accepted(client.get_caller_identity, what=f"proving {credential.key_id}")
        return _identity(answer) if answer is not None else None

    # --- calls ---

    def _made(
        self, service: str, settings: Mapping[str, Any], *, region: str | None = None, signer: Credential | None = None
    ) -> Any:
        """A client, signing as ourselves or as `signer`.

        Making the first one loads our credentials, so this is where a broken profile shows.
        """
        make: Any = self._session.client  # its hundreds of overloads know no service that is a variable

        def build() -> Any:
            # A signer's secret is revealed only in this frame, which `guarded` drops when it fails.
            keys = (
                {"aws_access_key_id": signer.key_id, "aws_secret_access_key": signer.secret.reveal()} if signer else {}
            )
            return direct_on_loopback(lambda config: make(service, region_name=region, config=config, **keys), settings)

        with self._making:
            return aws_errors.guarded(build, source=self.source, operation="OpenSession", what="opening the session")

    def _call(
        self,
        operation: str,
        what: str,
        send: Callable[[], T],
        *,
        doubt: Effect = Effect.NONE,
        budget: Budget | None = None,
    ) -> T:
        """One call at the shared pace, its failure translated."""
        budget = budget or self._budget
        budget.take()
        try:
            answer = aws_errors.guarded(send, source=self.source, operation=operation, what=what, doubt=doubt)
        except AwsError as error:
            if error.code in aws_errors.THROTTLES:
                budget.throttled()
            raise
        if isinstance(answer, dict) and answer.get("ResponseMetadata", {}).get("RetryAttempts"):
            budget.throttled()
        else:
            budget.succeeded()
        return answer

    def _pages(
        self,
        operation: str,
        what: str,
        pages: Iterator[T],
        *,
        budget: Budget | None = None,
        pages_max: int = _PAGES_MAX,
    ) -> Iterator[T]:
        """Every page of a paginator; a list longer than anything plausible is an error, never cut in silence."""
        for _ in range(pages_max):
            page = self._call(operation, what, partial(next, pages, None), budget=budget)
            if page is None:
                return
            yield page
        raise AwsError(what, code="TooManyPages", effect=Effect.NONE, remedy="Narrow the time, or look in the console.")

    def _write(self, operation: str, what: str, send: Callable[[IAMClient], T], *, tag: str = "") -> T:
        """Send a write once. Credentials are renewed first, so that a failure to do so is a definite no."""
        self._credentials()
        agent = f"{self._agent} {_in_user_agent(tag)}" if tag else self._agent
        client: IAMClient = self._made("iam", {**_ONCE, "user_agent_extra": agent})
        with closing(client):
            return self._call(operation, what, lambda: send(client), doubt=Effect.UNKNOWN)

    def _credentials(self) -> botocore.credentials.ReadOnlyCredentials:
        def freeze() -> botocore.credentials.ReadOnlyCredentials | None:
            credentials = self._session.get_credentials()
            return credentials.get_frozen_credentials() if credentials else None

        frozen = aws_errors.guarded(
            freeze, source=self.source, operation="RenewCredentials", what="renewing our credentials"
        )
        if frozen is None:
            raise CredentialsError(f"AWS credentials are missing: {self.source.label}.", remedy=self.source.remedy)
        return frozen

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
        if any(_ACCOUNT.fullmatch(member.id) is None for member in members):
            raise _unreadable(what, Effect.NONE)
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

    # --- what comes back ---

    def _shown(self, user: str) -> str:
        return f"{self.account}/{display(user)}"

    def _user(self, item: Mapping[str, Any]) -> User:
        name, arn = item.get("UserName", ""), item.get("Arn", "")
        match = _ARN.fullmatch(arn)
        if not _USER_NAME.fullmatch(name) or match is None or match["account"] != self.account:
            raise _unreadable("listing users", Effect.NONE)
        return User(account=self.account, name=name, arn=arn, created_at=_utc(item.get("CreateDate")))

    def _access_key(self, user: str, item: Mapping[str, Any], what: str) -> AccessKey:
        key_id, status, created_at = (item.get(member) for member in ("AccessKeyId", "Status", "CreateDate"))
        if (
            not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id))
            or status not in set(KeyStatus)
            or not isinstance(created_at, datetime)
            or item.get("UserName", user) != user
        ):
            raise _unreadable(what, Effect.NONE)
        return AccessKey(
            account=self.account, user=user, id=key_id, status=KeyStatus(status), created_at=created_at.astimezone(UTC)
        )


def _in_user_agent(text: str) -> str:
    """A case id or a tag goes into the user agent as it is, or CloudTrail would not know it again."""
    if _TAG.fullmatch(text) is None:
        raise UsageError(
            f"{display(text, 80)!r} cannot be sent to AWS as a tag.",
            remedy="Use letters, digits, dots, colons, slashes and hyphens only.",
        )
    return text


def _user_name(user: str) -> str:
    """An empty name would act on the caller's own user (`invariants` 0), so no doubtful name is sent."""
    if _USER_NAME.fullmatch(user) is None:
        raise AwsError(
            f"a call for the user {display(user)!r}",
            code="BadUserName",
            effect=Effect.NONE,
            remedy="IAM has no user of this name; check the plan.",
        )
    return user


def _key_id(key_id: str) -> str:
    if _KEY_ID.fullmatch(key_id) is None:
        raise AwsError(
            "a call for an access key", code="BadKeyId", effect=Effect.NONE, remedy="An access key id begins with AKIA."
        )
    return key_id


def _unreadable(what: str, effect: Effect) -> AwsError:
    return AwsError(
        what,
        code="Unreadable",
        effect=effect,
        remedy="The reply was not what AWS promises; check the endpoint, then go on with `resume`.",
    )


def _identity(answer: Mapping[str, Any]) -> Identity:
    account, arn = str(answer.get("Account", "")), str(answer.get("Arn", ""))
    match = _ARN.fullmatch(arn)
    if _ACCOUNT.fullmatch(account) is None or match is None or match["account"] != account:
        raise _unreadable("asking who we are", Effect.NONE)
    return Identity(account=account, arn=arn)


def _credential(answer: Mapping[str, Any], *, account: str, user: str) -> Credential | None:
    """The minted key, or None when the reply is not what was asked for: then the key, if any, is an orphan."""
    made = answer.get("AccessKey", {})
    key_id, secret, created_at = (made.get(member) for member in ("AccessKeyId", "SecretAccessKey", "CreateDate"))
    if not (isinstance(key_id, str) and _KEY_ID.fullmatch(key_id)) or made.get("UserName") != user:
        return None
    if not (isinstance(secret, str) and secret and isinstance(created_at, datetime)):
        return None
    return Credential(
        account=account,
        user=user,
        key_id=key_id,
        secret=Secret(secret),
        created_at=created_at.astimezone(UTC),
        server_time=_date(answer) or created_at.astimezone(UTC),
    )


def _utc(at: object) -> datetime | None:
    return at.astimezone(UTC) if isinstance(at, datetime) else None


def _date(answer: Mapping[str, Any]) -> datetime | None:
    """AWS's own time of this reply."""
    return aws_errors.http_date(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _server_time(answer: Mapping[str, Any], what: str, effect: Effect) -> datetime:
    """AWS's time; without one no decision could be made by the server's clock, and ours must not stand in."""
    if (at := _date(answer)) is None:
        raise _unreadable(what, effect)
    return at


def _creation(event: Mapping[str, Any], account: str, user: str) -> KeyCreation | None:
    """Read an event of this user's keys; one that failed, is someone else's or is garbled attributes nothing."""
    try:
        detail = json.loads(event["CloudTrailEvent"])
        made = detail["responseElements"]["accessKey"]
        asked = detail.get("requestParameters") or {}
        key_id, owner = made["accessKeyId"], asked.get("userName", made.get("userName"))
        if owner != user or detail.get("recipientAccountId", account) != account or not _KEY_ID.fullmatch(key_id):
            return None
        return KeyCreation(
            event_id=str(event["EventId"]),
            at=event["EventTime"].astimezone(UTC),
            key_id=key_id,
            # Some events carry the agent in brackets, which would hide a tag at its end.
            user_agent=str(detail.get("userAgent", "")).strip("[]"),
            source_address=str(detail.get("sourceIPAddress", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
