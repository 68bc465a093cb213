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
    from playbook.twins.state import Account, Document, IamRole, Rights


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


def _documents(account: Account, holder: Rights | IamRole) -> Iterator[Document]:
    yield from holder.inline.values()
    for arn in holder.attached:
        policy = truth(account.policies.get(arn))
        if policy is not None:
            yield policy.document
