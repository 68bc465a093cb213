"""The part of a scenario's file that says who may do what in an account, and what its trail holds.

Policies are written as the JSON that a console shows. Keys and sessions go by labels, as everywhere in a scenario.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from playbook.errors import AwsError, UsageError
from playbook.twins import policy_documents
from playbook.twins import state as states
from playbook.twins.state import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from playbook.twins.state import Document

KeyId = Callable[[str], str]
"""From the label of a key or a session to its id."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the file; a name that is not known is an error."""


class DescribedPolicy(Strict):
    """A managed policy; one of AWS's own says so."""

    name: str
    document: str
    changed: datetime | None = None
    of_aws: bool = False


class DescribedGroup(Strict):
    """A group of users."""

    name: str
    inline: dict[str, str] = {}
    policies: tuple[str, ...] = ()
    """Names of managed policies; all of them are described."""


class DescribedRole(Strict):
    """A role."""

    name: str
    trust: str
    created: datetime
    path: str = "/"
    max_session_s: int = 3600
    description: str = ""
    inline: dict[str, str] = {}
    policies: tuple[str, ...] = ()
    boundary: str = ""
    tags: dict[str, str] = {}
    accessed: dict[str, datetime] = {}
    """By service: when it was tried last."""


class DescribedProvider(Strict):
    """An identity provider: of OIDC by its address, or of SAML by its name."""

    created: datetime
    url: str = ""
    client_ids: tuple[str, ...] = ()
    saml: str = ""
    tags: dict[str, str] = {}


class DescribedFoothold(Strict):
    """A further way in as a user."""

    kind: str
    id: str
    created: datetime | None = None


class DescribedEvent(Strict):
    """An event of CloudTrail."""

    at: datetime
    name: str
    service: str = "iam"
    region: str = "us-east-1"
    key: str = ""
    """The label of the key that signed it."""
    session: str = ""
    """Or the label of the session that did."""
    actor: str = ""
    issues: str = ""
    """The label of the session it handed out."""
    role: str = ""
    user: str = ""
    """The user it was done to."""
    made: str = ""
    """The label of the access key it made."""
    resources: tuple[str, ...] = ()
    source_address: str = ""
    user_agent: str = ""
    error_code: str = ""


def documents(described: Mapping[str, str]) -> dict[str, Document]:
    """Inline policies by name."""
    return {name: document(text, name) for name, text in described.items()}


def document(text: str, where: str, *, trust: bool = False) -> Document:
    """A policy that AWS would take; anything else is the file's mistake."""
    try:
        read = json.loads(text)
        if isinstance(read, dict):
            return policy_documents.required("load", read, trust=trust)
    except (ValueError, AwsError):
        pass
    raise UsageError(
        f"The policy {where!r} of the scenario is none that AWS would take.", remedy="Write it as a policy's JSON."
    )


def add(account: states.Account, described: Iterable[DescribedPolicy]) -> dict[str, str]:
    """Store the managed policies, and answer their ARNs by name."""
    arns: dict[str, str] = {}
    for item in described:
        arns[item.name] = f"arn:aws:iam::{'aws' if item.of_aws else account.id}:policy/{item.name}"
        policy = states.ManagedPolicy(
            name=item.name,
            arn=arns[item.name],
            document=document(item.document, item.name),
            changed_at=item.changed,
        )
        account.policies[policy.arn] = [Version(value=policy)]
    return arns


def add_group(account: states.Account, described: DescribedGroup, arns: Mapping[str, str]) -> None:
    """Store a group."""
    account.groups[described.name] = states.IamGroup(
        name=described.name,
        arn=f"arn:aws:iam::{account.id}:group/{described.name}",
        inline=documents(described.inline),
        attached=_attached(described.policies, arns, described.name),
    )


def add_role(account: states.Account, described: DescribedRole, arns: Mapping[str, str]) -> None:
    """Store a role, and what it tried to use."""
    role = states.IamRole(
        name=described.name,
        arn=f"arn:aws:iam::{account.id}:role{described.path}{described.name}",
        trust=document(described.trust, described.name, trust=True),
        path=described.path,
        created_at=described.created,
        max_session_s=described.max_session_s,
        description=described.description,
        inline=documents(described.inline),
        attached=_attached(described.policies, arns, described.name),
        boundary=described.boundary,
        tags=described.tags,
    )
    account.roles[role.name] = [Version(value=role)]
    if described.accessed:
        account.accessed[role.arn] = dict(described.accessed)


def add_provider(account: states.Account, described: DescribedProvider) -> None:
    """Store an identity provider."""
    url = described.url.removeprefix("https://")
    kind = f"saml-provider/{described.saml}" if described.saml else f"oidc-provider/{url}"
    provider = states.Provider(
        arn=f"arn:aws:iam::{account.id}:{kind}",
        url=url,
        client_ids=described.client_ids,
        created_at=described.created,
        tags=described.tags,
        saml=bool(described.saml),
    )
    account.providers[provider.arn] = [Version(value=provider)]


def foothold(described: DescribedFoothold) -> states.Foothold:
    """A further way in."""
    return states.Foothold(kind=described.kind, id=described.id, created_at=described.created)


def event(described: DescribedEvent, number: str, key_id: KeyId, session_id: KeyId) -> states.TrailEvent:
    """An event of the trail under a number of its own."""
    signer = key_id(described.key) if described.key else session_id(described.session) if described.session else ""
    return states.TrailEvent(
        id=number,
        at=described.at,
        user=described.user,
        key_id=key_id(described.made) if described.made else "",
        user_agent=described.user_agent,
        source_address=described.source_address,
        name=described.name,
        service=described.service,
        region=described.region,
        signer=signer,
        actor=described.actor,
        error_code=described.error_code,
        issued_key_id=session_id(described.issues) if described.issues else "",
        role=described.role,
        resources=described.resources,
    )


def _attached(names: Iterable[str], arns: Mapping[str, str], where: str) -> tuple[str, ...]:
    missing = [name for name in names if name not in arns]
    if missing:
        raise UsageError(
            f"The scenario attaches policies to {where!r} that it does not describe: {', '.join(missing)}.",
            remedy="Describe them under the account's `policies`.",
        )
    return tuple(arns[name] for name in names)
