"""Sessions of boto3: its own credential chain, a named profile, or a role assumed from one of these."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)

from playbook.clients import aws_errors
from playbook.clients.aws_errors import AwsSource
from playbook.clients.endpoints import is_loopback
from playbook.errors import UsageError
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from botocore.loaders import Loader

T = TypeVar("T")

TIMEOUTS: Final[Mapping[str, Any]] = {"connect_timeout": 10, "read_timeout": 30}
READS: Final[Mapping[str, Any]] = {"retries": {"mode": "standard", "total_max_attempts": 4}, **TIMEOUTS}

_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,576}")


@functools.cache
def _models() -> Loader:
    """One loader of botocore's models for all sessions, or fifty accounts would parse the same models fifty times."""
    loader: Loader = botocore.session.Session().get_component("data_loader")
    return loader


class SessionOpener:
    """Makes the sessions of one run, which share its region and its name in the user agent."""

    def __init__(self, *, region: str | None, agent: str) -> None:
        self._region = region
        self._agent = agent

    def profile(self, name: str | None) -> tuple[AwsSource, boto3.session.Session]:
        """A session of boto3's own credential chain, or of one profile."""
        source = AwsSource.of_profile(name)
        return source, self._opened(source)

    def role(self, arn: str, base: tuple[AwsSource, boto3.session.Session]) -> tuple[AwsSource, boto3.session.Session]:
        """A session of an assumed role, renewed by botocore's own machinery and kept in memory only."""
        if _ROLE_ARN.fullmatch(arn) is None:
            raise UsageError(
                f"{display(arn, 120)!r} is not the ARN of a role.",
                remedy="Give --role-arn as arn:aws:iam::123456789012:role/NAME.",
            )
        base_source, base_session = base
        source = AwsSource.of_role(arn, base_source)
        return source, self._opened(source, _AssumedRole(arn, base_session, self._agent))

    def _opened(self, source: AwsSource, provider: CredentialProvider | None = None) -> boto3.session.Session:
        def build() -> boto3.session.Session:
            core = botocore.session.Session(profile=source.profile)
            core.register_component("data_loader", _models())
            if provider is not None:
                core.register_component("credential_provider", CredentialResolver([provider]))
            # boto3 itself reads only AWS_DEFAULT_REGION (AWS facts 1.2).
            region = self._region or os.environ.get("AWS_REGION") or core.get_config_variable("region") or "us-east-1"
            return boto3.session.Session(botocore_session=core, region_name=region)

        return aws_errors.guarded(build, source=source, operation="OpenSession", what="opening the session")


class _AssumedRole(CredentialProvider):
    """A credential provider for one role, assumed when first needed and again before it expires."""

    METHOD = "assume-role"
    CANONICAL_NAME = "rotation-playbook"

    def __init__(self, arn: str, base: boto3.session.Session, agent: str) -> None:
        super().__init__()
        self._arn = arn
        self._base = base
        self._session_name = re.sub(r"[^A-Za-z0-9_=,.@-]", "-", agent)[:64]

    def load(self) -> DeferredRefreshableCredentials:
        """Credentials that fetch themselves."""
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=self._client,
            source_credentials=self._base.get_credentials(),
            role_arn=self._arn,
            extra_args={"RoleSessionName": self._session_name},
        )
        return DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method=self.METHOD)

    def _client(self, service: Literal["sts"], **credentials: Any) -> Any:
        return direct_on_loopback(lambda config: self._base.client(service, config=config, **credentials), READS)


def direct_on_loopback(make: Callable[[Config], T], settings: Mapping[str, Any]) -> T:
    """Make a client; one for a loopback address without proxies, which botocore would use even there."""
    client: Any = make(Config(**settings))
    return make(Config(**settings, proxies={})) if is_loopback(client.meta.endpoint_url) else client
