"""Bring a twin's account into moto: policies, groups, roles, providers, tags and the events of its trail.

Users and keys are there before; the keys are moto's own, so whatever names one is told of its stand-in. An AWS-managed
policy is attached only where the world describes it: moto has none by default, and nobody here makes one up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from playbook.twins.iam_calls import truth
from playbook.twins.iam_users import rights_of
from playbook.twins.policy_documents import compact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from playbook.twins.state import Account, IamRole, ManagedPolicy, Provider

_US_EAST_1 = "us-east-1"
_PASSWORD = "made-up-password"  # noqa: S105  # nobody signs in to moto


def seed(backend: Any, account: Account) -> None:
    """Make in moto what the account has besides users and keys."""
    for policy in _living(account.policies.values()):
        _add_policy(backend, account, policy)
    for group in account.groups.values():
        backend.create_group(group.name)
        for name, document in group.inline.items():
            backend.put_group_policy(group.name, name, compact(document))
        for arn in _known(backend, group.attached):
            backend.attach_group_policy(arn, group.name)
    for role in _living(account.roles.values()):
        _add_role(backend, role)
    for provider in _living(account.providers.values()):
        _add_provider(backend, provider)
    for name in account.users:
        _add_rights(backend, account, name)


def _living(histories: Iterable[Any]) -> list[Any]:
    return [value for history in histories if (value := truth(history)) is not None]


def _known(backend: Any, arns: Iterable[str]) -> list[str]:
    held = {policy.arn for policy in backend.managed_policies.values()}
    return [arn for arn in arns if arn in held]


def _add_policy(backend: Any, account: Account, policy: ManagedPolicy) -> None:
    document = compact(policy.document)
    if f"::{account.id}:" in policy.arn:
        backend.create_policy("", "/", document, policy.name, tag_list(policy.tags))
        return
    from moto.iam.models import AWSManagedPolicy  # noqa: PLC0415  # an extra

    made_at = (policy.changed_at or datetime(2015, 2, 6, tzinfo=UTC)).isoformat()
    data = {
        "DefaultVersionId": "v1",
        "Path": "/",
        "Document": policy.document,
        "CreateDate": made_at,
        "UpdateDate": made_at,
    }
    backend.managed_policies[policy.arn] = AWSManagedPolicy.from_data(policy.name, account.id, _US_EAST_1, data)


def _add_role(backend: Any, role: IamRole) -> None:
    backend.create_role(
        role.name,
        compact(role.trust),
        role.path,
        role.boundary or None,
        role.description,
        tag_list(role.tags),
        str(role.max_session_s),
    )
    for name, document in role.inline.items():
        backend.put_role_policy(role.name, name, compact(document))
    for arn in _known(backend, role.attached):
        backend.attach_role_policy(arn, role.name)


def _add_provider(backend: Any, provider: Provider) -> None:
    if provider.saml:
        backend.create_saml_provider(provider.arn.rpartition("/")[2], "<EntityDescriptor/>")
        return
    backend.create_open_id_connect_provider(
        f"https://{provider.url}", list(provider.thumbprints), list(provider.client_ids), tag_list(provider.tags)
    )


def _add_rights(backend: Any, account: Account, name: str) -> None:
    rights = truth(account.rights.get(name)) or rights_of(account, name)
    if rights.tags:
        backend.tag_user(name, tag_list(rights.tags))
    for policy, document in rights.inline.items():
        if document:
            backend.put_user_policy(name, policy, compact(document))
    for arn in _known(backend, rights.attached):
        backend.attach_user_policy(arn, name)
    for group in account.users[name].groups:
        if group in account.groups:
            backend.add_user_to_group(group, name)
    if any(foothold.kind == "login-profile" for foothold in account.users[name].footholds):
        backend.create_login_profile(name, _PASSWORD)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as moto takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
