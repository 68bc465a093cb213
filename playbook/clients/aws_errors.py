"""From botocore's exceptions to ours: who did what is kept, what a reply said is not.

A reply of `CreateAccessKey` that is cut short ends in an exception whose message is the whole body, secret included
(`invariants` M2). So no exception of the SDK goes on, not even as a context: ours is raised after its `except`.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from botocore import exceptions as sdk

from playbook.errors import AwsError, CredentialsError, Effect, PlaybookError, UsageError
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

THROTTLES: Final = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
    }
)

_NOT_ACCEPTED: Final = frozenset(
    {
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""A key that is new, inactive, deleted or mistyped: AWS tells none of these apart (AWS facts 7)."""

_NOT_PERMITTED: Final = frozenset({"AccessDenied", "AccessDeniedException"})
"""Answers to a signature that was checked and accepted."""

_REJECTED: Final = _NOT_ACCEPTED | {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidToken",
    "MissingAuthenticationToken",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "TokenRefreshRequired",
}

_BUSY: Final = frozenset({"ConcurrentModification", "EntityTemporarilyUnmodifiable"})
"""Somebody else's change of the same thing is under way; IAM did nothing with ours."""
_OF_KEYS: Final = frozenset(
    {"CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey", "ListAccessKeys", "GetAccessKeyLastUsed"}
)
_REMEDIES_OF_KEYS: Final = {
    "NoSuchEntity": "It is gone: look at the user's access keys before going on with `resume`.",
    "LimitExceeded": "The user has as many access keys as AWS allows; one of them must go first.",
}
_REMEDIES: Final = {
    "NoSuchEntity": "It is gone, or was never there; `resume` looks again.",
    "LimitExceeded": "It would exceed a quota of IAM (`aws iam get-account-summary`): make room, or ask AWS for more.",
    "EntityAlreadyExists": "Somebody made one of this name; look at it before going on with `resume`.",
    "DeleteConflict": "Something is still attached to it or part of it; that must go first.",
    "MalformedPolicyDocument": "AWS does not take this policy; correct what it was made from.",
}

_SIGN_IN_AGAIN: Final = (
    sdk.LoginError,
    sdk.SSOError,
    sdk.TokenRetrievalError,
)
_NO_CREDENTIALS: Final = (
    sdk.CredentialRetrievalError,
    sdk.InfiniteLoopConfigError,
    sdk.InvalidConfigError,
    sdk.MetadataRetrievalError,
    sdk.NoAuthTokenError,
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.UnknownCredentialError,
)
_SETTINGS: Final = (
    sdk.BaseEndpointResolverError,
    sdk.ConfigParseError,
    sdk.EndpointProviderError,
    sdk.InvalidRegionError,
    sdk.InvalidRetryConfigurationError,
    sdk.InvalidProxiesConfigError,
)
_NEVER_SENT: Final = (
    sdk.ConnectTimeoutError,
    sdk.EndpointConnectionError,
    sdk.ParamValidationError,
    sdk.ProxyConnectionError,
)

_SKEW_MAX_S = 300


@dataclass(frozen=True, kw_only=True)
class AwsSource:
    """Where an account's credentials come from, in words for a person."""

    label: str
    remedy: str
    profile: str | None = None

    @classmethod
    def of_profile(cls, name: str | None) -> Self:
        """A profile, or boto3's default chain."""
        if name is None:
            return cls(
                label="the default AWS credentials",
                remedy="Name a profile with --profile, or set AWS_PROFILE; sign in again if they have expired.",
            )
        shown = display(name)
        return cls(
            label=f"the AWS profile {shown!r}",
            remedy=f"Check the profile {shown!r}; if its session has expired, `aws sso login --profile {shown}` or "
            "whatever made it makes a new one.",
            profile=name,
        )

    @classmethod
    def of_role(cls, arn: str, base: AwsSource) -> Self:
        """A role assumed from another source."""
        return cls(
            label=f"the role {arn}",
            remedy=f"Check that {base.label} may assume {arn}, and that its own session has not expired.",
            profile=base.profile,
        )


def guarded(send: Callable[[], T], *, source: AwsSource, operation: str, what: str, doubt: Effect = Effect.NONE) -> T:
    """Call the SDK; `doubt` is the effect to assume when a request may have arrived unanswered."""
    try:
        return send()
    except Exception as error:  # noqa: BLE001  # whatever the SDK raises may hold a reply's body
        failure = _translated(error, source=source, operation=operation, what=what, doubt=doubt)
    raise failure


def accepted(send: Callable[[], T], *, what: str) -> T | None:
    """Call with a new key; None when AWS does not accept it yet, which for our own key would be an error."""
    try:
        return send()
    except Exception as error:  # noqa: BLE001  # as above
        if isinstance(error, sdk.ClientError) and _code(error) in _NOT_ACCEPTED:
            return None
        new_key = AwsSource(label="the new key", remedy="Try again; `resume` goes on where this stopped.")
        failure = _translated(error, source=new_key, operation="GetCallerIdentity", what=what, doubt=Effect.NONE)
    raise failure


def signature_accepted(send: Callable[[], object]) -> bool | None:
    """Call a service with a new key: True also when it is refused for want of permission, None when nothing is told.

    The reply is not kept: ECR's is itself a credential.
    """
    try:
        send()
    except Exception as error:  # noqa: BLE001  # as above
        code = _code(error) if isinstance(error, sdk.ClientError) else ""
        return True if code in _NOT_PERMITTED else False if code in _NOT_ACCEPTED else None
    return True


def http_date(headers: Mapping[str, Any]) -> datetime | None:
    """The `Date` header of a reply."""
    try:
        return parsedate_to_datetime(str(headers.get("date", ""))).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _translated(error: Exception, *, source: AwsSource, operation: str, what: str, doubt: Effect) -> PlaybookError:
    if isinstance(error, sdk.ClientError):
        return _refused(error, source=source, operation=operation, what=what, doubt=doubt)
    ours: PlaybookError
    if isinstance(error, sdk.ProfileNotFound):
        remedy = "`aws configure list-profiles` prints the names; give one with --profile."
        ours = CredentialsError(f"There is no such profile: {source.label}.", remedy=remedy)
    elif isinstance(error, _SIGN_IN_AGAIN):
        ours = CredentialsError(f"The sign-in of {source.label} has expired.", remedy=source.remedy)
    elif isinstance(error, _NO_CREDENTIALS):
        ours = CredentialsError(f"AWS credentials are missing or incomplete: {source.label}.", remedy=source.remedy)
    elif isinstance(error, _SETTINGS):
        remedy = "Check the region and the settings file of the AWS command line tools."
        ours = UsageError(f"The AWS settings of {source.label} cannot be used.", remedy=remedy)
    elif isinstance(error, _NEVER_SENT) or _certificate_refused(error):
        ours = _unanswered(error, what, Effect.NONE)
    else:
        ours = _unanswered(error, what, doubt)
    return ours


def _refused(error: sdk.ClientError, *, source: AwsSource, operation: str, what: str, doubt: Effect) -> PlaybookError:
    """A well-formed 4xx is a definite no; anything else that answers is not (`invariants` 2.1)."""
    code = _code(error)
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    status = status if isinstance(status, int) else None
    definite = status is not None and 400 <= status < 500  # noqa: PLR2004  # the 4xx range
    if error.operation_name != operation:
        # It was fetching our credentials that failed, so our own request was not sent.
        doubt = Effect.NONE
        if definite and code not in THROTTLES:
            return CredentialsError(f"AWS gives no credentials for {source.label}: {code}.", remedy=source.remedy)
    if definite and code in _REJECTED:
        return CredentialsError(f"AWS does not accept {source.label}: {code}.", remedy=_skew(metadata) or source.remedy)
    request_id = str(metadata.get("RequestId", ""))
    return AwsError(
        what,
        code=code,
        effect=Effect.NONE if definite else doubt,
        status=status,
        request_id=request_id if re.fullmatch(r"[A-Za-z0-9-]{1,80}", request_id) else "",
        retryable=code in THROTTLES or code in _BUSY or not definite,
        remedy=_remedy(code, operation, source),
    )


def _code(error: sdk.ClientError) -> str:
    """The error code when it looks like one: a hostile endpoint may write anything there."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,80}", code) else "Unrecognised"


def _remedy(code: str, operation: str, source: AwsSource) -> str:
    if code in _NOT_PERMITTED:
        return f"Allow {operation} to {source.label}; `doctor` prints the policy that is needed."
    known = _REMEDIES_OF_KEYS if operation in _OF_KEYS else _REMEDIES
    return known.get(code, "Try again; `resume` goes on where this stopped.")


def _skew(metadata: Mapping[str, Any]) -> str:
    """A remedy when the local clock is the likely reason: AWS refuses signatures more than five minutes off."""
    server_time = http_date(metadata.get("HTTPHeaders", {}))
    if server_time is None:
        return ""
    off_s = (datetime.now(UTC) - server_time).total_seconds()
    if abs(off_s) < _SKEW_MAX_S:
        return ""
    return f"This machine's clock is {abs(off_s) / 60:.0f} minutes {'fast' if off_s > 0 else 'slow'}; set it right."


def _certificate_refused(error: Exception) -> bool:
    """Whether TLS failed before anything was sent; a later TLS failure leaves it open."""
    inner: object = getattr(error, "kwargs", {}).get("error") if isinstance(error, sdk.SSLError) else None
    return "CERTIFICATE_VERIFY_FAILED" in str(inner) or isinstance(inner, ssl.SSLCertVerificationError)


def _unanswered(error: Exception, what: str, effect: Effect) -> AwsError:
    match error:
        case sdk.ReadTimeoutError() | sdk.ConnectTimeoutError():
            code = "Timeout"
        case sdk.EndpointConnectionError() | sdk.ProxyConnectionError() | sdk.SSLError():
            code = "Unreachable"
        case sdk.ParamValidationError():
            code = "BadParameter"
        case sdk.HTTPClientError() | sdk.ConnectionError():
            code = "Disconnected"
        case _:
            code = "Unreadable"
    return AwsError(
        what,
        code=code,
        effect=effect,
        retryable=code != "BadParameter",
        remedy="Check the network and https://health.aws.amazon.com, then go on with `resume`.",
    )
