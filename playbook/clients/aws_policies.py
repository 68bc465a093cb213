"""IAM's replies about users, groups, roles and policies as the nouns of `ports`, checked member by member.

Pure functions over replies that botocore has parsed, policy documents included; a document that is none is an error,
for a copy of it would be a policy that says something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from playbook.clients.aws_calls import ARN, unreadable, utc
from playbook.errors import Effect
from playbook.ports import AccountDetails, IdentityProvider, PolicyDocument, Principal, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playbook.ports import Json


class AccountPages:
    """The pages of `GetAccountAuthorizationDetails`, gathered."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._users: list[Principal] = []
        self._groups: list[Principal] = []
        self._roles: list[Role] = []
        self._policies: list[PolicyDocument] = []

    def add(self, page: Mapping[str, Any]) -> None:
        """Take in one page."""
        what = self._what
        self._users += [_principal(item, "User", what) for item in page.get("UserDetailList", [])]
        self._groups += [_principal(item, "Group", what) for item in page.get("GroupDetailList", [])]
        self._roles += [_described_role(item, what) for item in page.get("RoleDetailList", [])]
        for item in page.get("Policies", []):
            self._policies += [
                PolicyDocument(
                    name=str(item.get("PolicyName") or text(item, "Arn", what).rpartition("/")[2]),
                    arn=text(item, "Arn", what),
                    document=document(version.get("Document"), what),
                    changed_at=utc(version.get("CreateDate")),
                )
                for version in item.get("PolicyVersionList", [])
                if version.get("IsDefaultVersion")
            ]

    def details(self) -> AccountDetails:
        """All of it."""
        return AccountDetails(
            users=tuple(self._users),
            groups=tuple(self._groups),
            roles=tuple(self._roles),
            policies=tuple(self._policies),
        )


def _principal(item: Mapping[str, Any], kind: str, what: str) -> Principal:
    return Principal(
        name=text(item, f"{kind}Name", what),
        arn=text(item, "Arn", what),
        created_at=utc(item.get("CreateDate")),
        inline=_inline(item.get(f"{kind}PolicyList", []), what),
        attached=attached(item.get("AttachedManagedPolicies", []), what),
        groups=tuple(map(str, item.get("GroupList", []))),
        boundary=_boundary(item),
        tags=tags(item.get("Tags", [])),
    )


def _described_role(item: Mapping[str, Any], what: str) -> Role:
    inline = _inline(item.get("RolePolicyList", []), what)
    return role(item, inline, attached(item.get("AttachedManagedPolicies", []), what), what)


def role(
    item: Mapping[str, Any], inline: tuple[PolicyDocument, ...], attached_arns: tuple[str, ...], what: str
) -> Role:
    """A role; its policies come from calls of their own. The details leave its session length out."""
    longest = item.get("MaxSessionDuration", 3600)
    return Role(
        name=text(item, "RoleName", what),
        arn=text(item, "Arn", what),
        trust=document(item.get("AssumeRolePolicyDocument"), what),
        path=str(item.get("Path", "/")),
        created_at=utc(item.get("CreateDate")),
        max_session_s=longest if isinstance(longest, int) else 3600,
        description=str(item.get("Description", "")),
        inline=inline,
        attached=attached_arns,
        boundary=_boundary(item),
        tags=tags(item.get("Tags", [])),
    )


def provider(item: Mapping[str, Any], arn: str) -> IdentityProvider:
    """An OIDC provider."""
    return IdentityProvider(
        arn=arn,
        # Some answers carry the scheme, some do not.
        url=str(item.get("Url", "")).removeprefix("https://"),
        client_ids=tuple(map(str, item.get("ClientIDList", []))),
        thumbprints=tuple(map(str, item.get("ThumbprintList", []))),
        created_at=utc(item.get("CreateDate")),
        tags=tags(item.get("Tags", [])),
    )


def document(value: object, what: str) -> Mapping[str, Json]:
    """A policy document, which botocore has decoded; anything else is refused."""
    if not isinstance(value, Mapping):
        raise unreadable(what, Effect.NONE)
    return value


def sent(policy: Mapping[str, Json]) -> str:
    """The text in which a document is sent: without white space, which some sizes count."""
    return json.dumps(policy, separators=(",", ":"))


def arn_of(answer: Mapping[str, Any], part: str, member: str) -> str | None:
    """The ARN that a reply to a creation carries, or None when there is none of ours in it."""
    made = answer.get(part, {}) if part else answer
    arn = str(made.get(member, ""))
    return arn if ARN.fullmatch(arn) else None


def text(item: Mapping[str, Any], member: str, what: str) -> str:
    """A member that must be a text."""
    value = item.get(member)
    if not isinstance(value, str) or not value:
        raise unreadable(what, Effect.NONE)
    return value


def attached(items: Iterable[Mapping[str, Any]], what: str) -> tuple[str, ...]:
    """The ARNs of a list of attached policies."""
    return tuple(text(item, "PolicyArn", what) for item in items)


def tags(items: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Keys and values, sorted."""
    return tuple(sorted((str(item.get("Key", "")), str(item.get("Value", ""))) for item in items))


def tag_list(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Tags as IAM takes them."""
    return [{"Key": key, "Value": value} for key, value in pairs]


def _inline(items: Iterable[Mapping[str, Any]], what: str) -> tuple[PolicyDocument, ...]:
    found = (
        PolicyDocument(name=text(item, "PolicyName", what), document=document(item.get("PolicyDocument"), what))
        for item in items
    )
    return tuple(sorted(found, key=lambda policy: policy.name))


def _boundary(item: Mapping[str, Any]) -> str:
    return str(item.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""))
