"""How a call to one AWS account goes: its clients, its pace, its failures, and what may be sent at all.

Three properties of the SDK decide the shape of this file (AWS facts 1.4, `invariants` 0):

- by default it sends a `CreateAccessKey` again when the reply is lost, and so mints a second key: every write goes
  through a client of its own that sends once and shares no connection with an earlier call (a kept-alive one may be
  dead, which is a doubt nobody needs), and whose user agent carries the intent's tag, by which CloudTrail knows it;
- its exceptions may hold a reply's whole body: they end in `AwsCalls._call`, and what is raised is built outside
  the `except`, without a context;
- making clients is not thread-safe, so it happens in the main thread or under a lock; a shared model loader brings
  it down to 2 or 3 ms a client, measured with botocore 1.44.
"""

from __future__ import annotations

import re
import threading
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore import xform_name

from playbook.clients import aws_errors
from playbook.clients.aws_sessions import READS, TIMEOUTS, direct_on_loopback
from playbook.clients.budget import budget_towards
from playbook.clients.endpoints import is_loopback
from playbook.errors import AwsError, CredentialsError, Effect, UsageError
from playbook.ports import Identity, display

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import boto3.session
    import botocore.credentials
    from mypy_boto3_iam import IAMClient

    from playbook.clients.aws_errors import AwsSource
    from playbook.clients.budget import Budget
    from playbook.ports import Credential

T = TypeVar("T")

ACCOUNT = re.compile(r"[0-9]{12}")
KEY_ID = re.compile(r"AKIA[A-Z0-9]{12,124}")
USER_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_TAG = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
ARN = re.compile(r"arn:(?P<partition>aws[a-z-]*):(?:iam|sts)::(?P<account>[0-9]{12}):(?P<resource>[!-~]{1,600})")

_PROBE_REGIONS: Final = {
    "aws": ("us-east-1", "us-west-2"),
    "aws-cn": ("cn-north-1", "cn-northwest-1"),
    "aws-us-gov": ("us-gov-west-1", "us-gov-east-1"),
}
"""Regions that no account has to opt in to; the first is where IAM's events are logged (AWS facts 14)."""

_PROVED_WITH: Final[Mapping[str, str]] = {"ecr": "get_authorization_token", "s3": "list_buckets"}
_PAGES_MAX = 1000
_ONCE: Final[Mapping[str, Any]] = {"retries": {"mode": "standard", "total_max_attempts": 1}, **TIMEOUTS}


class AwsCalls:
    """One account behind one source of credentials, and the way every call to it goes."""

    def __init__(self, *, source: AwsSource, session: boto3.session.Session, parallel: int, agent: str) -> None:
        """Asks STS at once who we are, so that a wrong profile is found before anything is planned."""
        self.source = source
        self._session = session
        self._agent = agent
        self._making = threading.Lock()
        self._reads = {**READS, "max_pool_connections": parallel, "user_agent_extra": agent}
        self._sts = self._made("sts", self._reads)
        self._iam = self._made("iam", self._reads)
        self._loopback = is_loopback(self._iam.meta.endpoint_url)
        self._budget = budget_towards(loopback=self._loopback, rate=20.0, most=100.0)
        self._identity = self.identity()
        partition = ARN.fullmatch(self._identity.arn)
        self._partition = partition["partition"] if partition else "aws"

    def close(self) -> None:
        """Close the connections."""
        for client in (self._sts, self._iam):
            client.close()

    @property
    def account(self) -> str:
        """The 12-digit account id."""
        return self._identity.account

    def identity(self) -> Identity:
        """Who we are in this account, asked anew."""
        answer = self._call("GetCallerIdentity", "asking who we are", self._sts.get_caller_identity)
        return _identity(answer)

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

    def accepts(self, credential: Credential, service: str, region: str) -> bool | None:
        """Whether a service accepts the key's signature, by a call that needs a permission most CI keys have or lack.

        Either answer proves the signature; the reply is let go unread.
        """
        call = _PROVED_WITH.get(service)
        if call is None:
            return None
        client = self._made(service, {**READS, "user_agent_extra": self._agent}, region=region, signer=credential)
        self._budget.take()
        with closing(client):
            return aws_errors.signature_accepted(getattr(client, call))

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
        agent = f"{self._agent} {in_user_agent(tag)}" if tag else self._agent
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

    def _listed(self, operation: str, what: str, member: str, **asked: Any) -> Iterator[Any]:
        """The items of an IAM list, all pages."""
        pages = iter(self._iam.get_paginator(xform_name(operation)).paginate(**asked))
        for page in self._pages(operation, what, pages):
            yield from page.get(member, [])

    def _found(self, operation: str, what: str, send: Callable[[], T]) -> T | None:
        """One read; None when there is no such thing."""
        try:
            return self._call(operation, what, send)
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
        return None

    def _removed(self, remove: Callable[[], object]) -> None:
        """Carry out a removal; what is not there needs none."""
        try:
            remove()
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise

    def _shown(self, name: str) -> str:
        return f"{self.account}/{display(name)}"


def in_user_agent(text: str) -> str:
    """A case id or a tag goes into the user agent as it is, or CloudTrail would not know it again."""
    if _TAG.fullmatch(text) is None:
        raise UsageError(
            f"{display(text, 80)!r} cannot be sent to AWS as a tag.",
            remedy="Use letters, digits, dots, colons, slashes and hyphens only.",
        )
    return text


def user_name(user: str) -> str:
    """An empty name would act on the caller's own user (`invariants` 0), so no doubtful name is sent."""
    if USER_NAME.fullmatch(user) is None:
        raise AwsError(
            f"a call for the user {display(user)!r}",
            code="BadUserName",
            effect=Effect.NONE,
            remedy="IAM has no user of this name; check the plan.",
        )
    return user


def key_id_of(key_id: str) -> str:
    """The id, if it is one of a user's access key; no doubtful one is sent."""
    if KEY_ID.fullmatch(key_id) is None:
        raise AwsError(
            "a call for an access key", code="BadKeyId", effect=Effect.NONE, remedy="An access key id begins with AKIA."
        )
    return key_id


def unreadable(what: str, effect: Effect) -> AwsError:
    """A reply that is not what AWS promises."""
    return AwsError(
        what,
        code="Unreadable",
        effect=effect,
        remedy="The reply was not what AWS promises; check the endpoint, then go on with `resume`.",
    )


def _identity(answer: Mapping[str, Any]) -> Identity:
    account, arn = str(answer.get("Account", "")), str(answer.get("Arn", ""))
    match = ARN.fullmatch(arn)
    if ACCOUNT.fullmatch(account) is None or match is None or match["account"] != account:
        raise unreadable("asking who we are", Effect.NONE)
    return Identity(account=account, arn=arn)


def utc(at: object) -> datetime | None:
    """A time of a reply, if there is one."""
    return at.astimezone(UTC) if isinstance(at, datetime) else None


def date_of(answer: Mapping[str, Any]) -> datetime | None:
    """AWS's own time of this reply."""
    return aws_errors.http_date(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def server_time_of(answer: Mapping[str, Any], what: str, effect: Effect) -> datetime:
    """AWS's time; without one no decision could be made by the server's clock, and ours must not stand in."""
    if (at := date_of(answer)) is None:
        raise unreadable(what, effect)
    return at
