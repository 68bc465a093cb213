"""The rules of IAM that moto leaves out, and the operations it does not have (AWS facts 1.1).

A rule looks at a request before moto does: the sizes and numbers AWS allows, and what stands in the way of a deletion.
The operations answer from moto's own world, so that moto shows what they changed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from xml.sax.saxutils import escape

from playbook.errors import AwsError
from playbook.twins.iam_calls import QUOTAS
from playbook.twins.iam_providers import CLIENT_IDS_MAX, URL
from playbook.twins.iam_roles import SESSION_MAX_S, SESSION_MIN_S
from playbook.twins.policy_documents import compact, required, size

Parameters = Mapping[str, str]
Refused = tuple[int, str]
TOO_LONG: Final = (409, "LimitExceeded")
MALFORMED: Final = (400, "MalformedPolicyDocument")
GONE: Final = (404, "NoSuchEntity")
CONFLICT: Final = (409, "DeleteConflict")
_INVALID: Final = (400, "ValidationError")


# --- Rules ------------------------------------------------------------------------------------------------------------


def refusal(backend: Any, operation: str, asked: Parameters) -> Refused | None:
    """What AWS would refuse and moto would not; None leaves the request to moto."""
    rule = _RULES.get(operation)
    return None if rule is None else rule(backend, asked)


def _inline(holder: Callable[[Any, Parameters], Any], quota: str) -> Callable[[Any, Parameters], Refused | None]:
    """The grammar of an inline policy, and the size of all that one holder has."""

    def rule(backend: Any, asked: Parameters) -> Refused | None:
        found = holder(backend, asked)
        document = _document(asked["PolicyDocument"])
        if found is None:
            return None
        if document is None:
            return MALFORMED
        held = {name: json.loads(text) for name, text in found.policies.items()}
        held[asked["PolicyName"]] = document
        return TOO_LONG if size(*held.values()) > QUOTAS[quota] else None

    return rule


def _user(backend: Any, asked: Parameters) -> Any:
    return backend.users.get(asked.get("UserName", ""))


def _role(backend: Any, asked: Parameters) -> Any:
    return next((role for role in backend.roles.values() if role.name == asked.get("RoleName")), None)


def _trust(member: str) -> Callable[[Any, Parameters], Refused | None]:
    def rule(_backend: Any, asked: Parameters) -> Refused | None:
        document = _document(asked[member], trust=True)
        if document is None:
            return MALFORMED
        return TOO_LONG if len(compact(document)) > QUOTAS["AssumeRolePolicySizeQuota"] else None

    return rule


def _create_role(backend: Any, asked: Parameters) -> Refused | None:
    return _trust("AssumeRolePolicyDocument")(backend, asked) or _length(backend, asked)


def _length(_backend: Any, asked: Parameters) -> Refused | None:
    seconds = int(asked.get("MaxSessionDuration", SESSION_MIN_S))
    return None if SESSION_MIN_S <= seconds <= SESSION_MAX_S else _INVALID


def _attach(backend: Any, asked: Parameters) -> Refused | None:
    role = _role(backend, asked)
    if role is None or asked["PolicyArn"] in role.managed_policies:
        return None
    return TOO_LONG if len(role.managed_policies) >= QUOTAS["AttachedPoliciesPerRoleQuota"] else None


def _create_policy(_backend: Any, asked: Parameters) -> Refused | None:
    document = _document(asked["PolicyDocument"])
    if document is None:
        return MALFORMED
    return TOO_LONG if size(document) > QUOTAS["PolicySizeQuota"] else None


def _delete_policy(backend: Any, asked: Parameters) -> Refused | None:
    holders = (*backend.users.values(), *backend.roles.values(), *backend.groups.values())
    return CONFLICT if any(asked["PolicyArn"] in holder.managed_policies for holder in holders) else None


def _create_provider(_backend: Any, asked: Parameters) -> Refused | None:
    if URL.fullmatch(asked.get("Url", "")) is None:
        return 400, "InvalidInput"
    return TOO_LONG if len(_members(asked, "ClientIDList")) > CLIENT_IDS_MAX else None


def _document(text: str, *, trust: bool = False) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
        return required("", document, trust=trust) if isinstance(document, dict) else None
    except (ValueError, AwsError):
        return None


def _members(asked: Parameters, name: str) -> list[str]:
    return [value for key, value in asked.items() if key.startswith(f"{name}.member.")]


_RULES: Final[Mapping[str, Callable[[Any, Parameters], Refused | None]]] = {
    "PutUserPolicy": _inline(_user, "UserPolicySizeQuota"),
    "PutRolePolicy": _inline(_role, "RolePolicySizeQuota"),
    "CreateRole": _create_role,
    "UpdateRole": _length,
    "UpdateAssumeRolePolicy": _trust("PolicyDocument"),
    "AttachRolePolicy": _attach,
    "CreatePolicy": _create_policy,
    "DeletePolicy": _delete_policy,
    "CreateOpenIDConnectProvider": _create_provider,
}


# --- Operations -------------------------------------------------------------------------------------------------------


class Additions:
    """The IAM operations that moto does not have or gets wrong; each answers the inside of its result, or a refusal."""

    def __init__(self) -> None:
        self._jobs: dict[str, str] = {}
        self._operations: Mapping[str, Callable[[Any, Parameters, Any], str | Refused]] = {
            "AddClientIDToOpenIDConnectProvider": self._add_client_id,
            "RemoveClientIDFromOpenIDConnectProvider": self._remove_client_id,
            "UpdateRole": self._update_role,
            "ListServiceSpecificCredentials": self._service_credentials,
            "GenerateServiceLastAccessedDetails": self._start_job,
            "GetServiceLastAccessedDetails": self._job,
        }

    def answer(
        self, backend: Any, operation: str, asked: Parameters, used: Mapping[str, Mapping[str, datetime]]
    ) -> str | Refused | None:
        """The reply's body; None for what moto answers. `used`: by user, the services its keys have signed for."""
        do = self._operations.get(operation)
        if do is None:
            return None
        result = do(backend, asked, used)
        if isinstance(result, str):
            return f"<{operation}Response><{operation}Result>{result}</{operation}Result></{operation}Response>"
        return result

    def _add_client_id(self, backend: Any, asked: Parameters, _used: object) -> str | Refused:
        provider = backend.open_id_providers.get(asked["OpenIDConnectProviderArn"])
        if provider is None:
            return GONE
        if asked["ClientID"] in provider.client_id_list:
            return ""
        if len(provider.client_id_list) >= CLIENT_IDS_MAX:
            return TOO_LONG
        provider.client_id_list = [*provider.client_id_list, asked["ClientID"]]
        return ""

    def _remove_client_id(self, backend: Any, asked: Parameters, _used: object) -> str | Refused:
        provider = backend.open_id_providers.get(asked["OpenIDConnectProviderArn"])
        if provider is None:
            return GONE
        provider.client_id_list = [held for held in provider.client_id_list if held != asked["ClientID"]]
        return ""

    def _update_role(self, backend: Any, asked: Parameters, _used: object) -> str | Refused:
        """Moto clears a description that is not sent."""
        role = _role(backend, asked)
        if role is None:
            return GONE
        role.max_session_duration = asked.get("MaxSessionDuration", role.max_session_duration)
        role.description = asked.get("Description", role.description)
        return ""

    def _service_credentials(self, backend: Any, asked: Parameters, _used: object) -> str | Refused:
        """None: no call of moto's makes one."""
        return GONE if _user(backend, asked) is None else "<ServiceSpecificCredentials/>"

    def _start_job(self, backend: Any, asked: Parameters, _used: object) -> str | Refused:
        holders = (*backend.users.values(), *backend.roles.values())
        if all(holder.arn != asked["Arn"] for holder in holders):
            return GONE
        job = str(uuid.uuid4())
        self._jobs[job] = asked["Arn"]
        return f"<JobId>{job}</JobId>"

    def _job(self, backend: Any, asked: Parameters, used: Mapping[str, Mapping[str, datetime]]) -> str | Refused:
        arn = self._jobs.get(asked["JobId"])
        if arn is None:
            return GONE
        name = next((user.name for user in backend.users.values() if user.arn == arn), "")
        services = "".join(_service(service, at) for service, at in sorted(used.get(name, {}).items()))
        now = _time(datetime.now(UTC))
        return (
            f"<JobStatus>COMPLETED</JobStatus><JobCreationDate>{now}</JobCreationDate>"
            f"<JobCompletionDate>{now}</JobCompletionDate><IsTruncated>false</IsTruncated>"
            f"<ServicesLastAccessed>{services}</ServicesLastAccessed>"
        )


def _service(name: str, at: datetime) -> str:
    return (
        f"<member><ServiceName>{escape(name)}</ServiceName><ServiceNamespace>{escape(name)}</ServiceNamespace>"
        f"<LastAuthenticated>{_time(at)}</LastAuthenticated></member>"
    )


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
