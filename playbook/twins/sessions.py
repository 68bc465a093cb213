"""The truth about temporary credentials: whether what a key once handed out can still act (facts/aws 16 to 18).

Switching a key off does not end them; only a deny on the user, or on the role that was assumed, does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.twins.iam_calls import truth, version_at
from playbook.twins.iam_users import rights_of
from playbook.twins.policy_documents import denies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from playbook.twins.remote import Remote
    from playbook.twins.state import Account, Document, IamRole, Provider, Rights


def user_allowed(world: Remote, account: Account, user: str, issued_at: datetime | None) -> bool:
    """Whether a user's session issued then can act; None: whether its long-lived keys can."""
    if user not in account.users:
        return False
    history = account.rights.get(user)
    held = version_at(history, world.ago(world.switches.policy_lag_s)) if history else rights_of(account, user)
    return held is None or not denies(_documents(account, held), issued_at)


def role_allowed(world: Remote, account: Account, role: str, issued_at: datetime) -> bool:
    """Whether a role's session issued then can act."""
    held = version_at(account.roles.get(role, ()), world.ago(world.switches.policy_lag_s))
    return held is not None and not denies(_documents(account, held), issued_at)


def role_seen(world: Remote, arn: str) -> tuple[Account, IamRole] | None:
    """The role of this ARN, in whichever account, as STS knows it by now; its trust policy decides who gets one."""
    since = world.ago(world.switches.policy_lag_s)
    for account in world.state.accounts.values():
        for history in account.roles.values():
            role = version_at(history, since)
            if role is not None and role.arn == arn:
                return account, role
    return None


def provider_seen(world: Remote, account: Account, issuer: str) -> Provider | None:
    """The OIDC provider of an issuer (`https://...`) in the account, as STS knows it by now."""
    since = world.ago(world.switches.policy_lag_s)
    found = (version_at(history, since) for history in account.providers.values())
    url = issuer.removeprefix("https://")
    return next((item for item in found if item is not None and not item.saml and item.url == url), None)


def _documents(account: Account, holder: Rights | IamRole) -> Iterator[Document]:
    yield from holder.inline.values()
    for arn in holder.attached:
        policy = truth(account.policies.get(arn))
        if policy is not None:
            yield policy.document
