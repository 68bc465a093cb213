"""The nouns of `ports` for what a twin keeps of IAM, and back again for an account that is mirrored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playbook import ports
from playbook.twins.state import IamGroup, IamRole, ManagedPolicy, Provider, Rights, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from playbook.twins.state import Account, Document, IamUser


# --- Shown ------------------------------------------------------------------------------------------------------------


def role(kept: IamRole) -> ports.Role:
    """A role as `iam:GetRole` and its lists show it."""
    return ports.Role(
        name=kept.name,
        arn=kept.arn,
        trust=kept.trust,
        path=kept.path,
        created_at=kept.created_at,
        max_session_s=kept.max_session_s,
        description=kept.description,
        inline=_inline(kept.inline),
        attached=kept.attached,
        boundary=kept.boundary,
        tags=_pairs(kept.tags),
    )


def user(kept: IamUser, rights: Rights) -> ports.Principal:
    """A user as `iam:GetAccountAuthorizationDetails` shows it."""
    return ports.Principal(
        name=kept.name,
        arn=kept.arn,
        created_at=kept.created_at,
        inline=_inline(rights.inline),
        attached=rights.attached,
        groups=kept.groups,
        boundary=kept.boundary,
        tags=_pairs(rights.tags),
    )


def group(kept: IamGroup) -> ports.Principal:
    """A group as `iam:GetAccountAuthorizationDetails` shows it."""
    return ports.Principal(
        name=kept.name,
        arn=kept.arn,
        created_at=kept.created_at,
        inline=_inline(kept.inline),
        attached=kept.attached,
    )


def policy(kept: ManagedPolicy) -> ports.PolicyDocument:
    """A managed policy in its default version."""
    return ports.PolicyDocument(name=kept.name, document=kept.document, arn=kept.arn, changed_at=kept.changed_at)


def provider(kept: Provider) -> ports.IdentityProvider:
    """An identity provider."""
    return ports.IdentityProvider(
        arn=kept.arn,
        url=kept.url,
        client_ids=kept.client_ids,
        thumbprints=kept.thumbprints,
        created_at=kept.created_at,
        tags=_pairs(kept.tags),
        saml=kept.saml,
    )


def _inline(documents: Mapping[str, Document]) -> tuple[ports.PolicyDocument, ...]:
    return tuple(ports.PolicyDocument(name=name, document=text) for name, text in sorted(documents.items()))


def _pairs(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(tags.items()))


# --- Kept -------------------------------------------------------------------------------------------------------------


def keep_details(account: Account, details: ports.AccountDetails) -> None:
    """Store who may do what in a mirrored account, as it always was."""
    for item in details.users:
        rights = Rights(tags=dict(item.tags), inline=_documents(item.inline), attached=item.attached)
        account.rights[item.name] = [Version(value=rights)]
    for item in details.groups:
        account.groups[item.name] = IamGroup(
            name=item.name,
            arn=item.arn,
            created_at=item.created_at,
            inline=_documents(item.inline),
            attached=item.attached,
        )
    for found in details.roles:
        account.roles[found.name] = [Version(value=kept_role(found))]
    for document in details.policies:
        kept = ManagedPolicy(
            name=document.name, arn=document.arn, document=_plain(document.document), changed_at=document.changed_at
        )
        account.policies[document.arn] = [Version(value=kept)]


def keep_providers(account: Account, providers: Iterable[ports.IdentityProvider]) -> None:
    """Store the identity providers of a mirrored account."""
    for item in providers:
        kept = Provider(
            arn=item.arn,
            url=item.url,
            client_ids=item.client_ids,
            thumbprints=item.thumbprints,
            created_at=item.created_at,
            tags=dict(item.tags),
            saml=item.saml,
        )
        account.providers[item.arn] = [Version(value=kept)]


def kept_role(shown: ports.Role) -> IamRole:
    """A role as it is kept."""
    return IamRole(
        name=shown.name,
        arn=shown.arn,
        trust=_plain(shown.trust),
        path=shown.path,
        created_at=shown.created_at,
        max_session_s=shown.max_session_s,
        description=shown.description,
        inline=_documents(shown.inline),
        attached=shown.attached,
        boundary=shown.boundary,
        tags=dict(shown.tags),
    )


def _documents(policies: Iterable[ports.PolicyDocument]) -> dict[str, Document]:
    return {policy.name: _plain(policy.document) for policy in policies}


def _plain(document: Mapping[str, Any]) -> Document:
    return dict(document)
