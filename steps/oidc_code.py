"""What a case made in IAM, as data from which Terraform and CloudFormation are written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from playbook.errors import GuardError
from playbook.infrastructure_code import (
    InfrastructureCode,
    ManagedPolicyCode,
    ProviderCode,
    RoleCode,
)
from steps.oidc_permissions import AttachRolePolicy, CreatePolicy, PutRolePolicy
from steps.oidc_providers import CASE_TAG, CreateProvider
from steps.oidc_roles import DESCRIPTION, SESSION_MIN_S, CreateRole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playbook.model import Action
    from playbook.ports import Evidence


def made_in_iam(case: str, done: Iterable[tuple[Action, Evidence]]) -> dict[str, InfrastructureCode]:
    """By account: the providers, policies and roles that a case made and has not put back.

    `done` is what it changed, with what each `Applied` kept. A role that was adopted is left out: somebody may own it
    as code already, and its old parts are not in the journal.
    """
    tags = ((CASE_TAG, case),)
    listed = list(done)
    roles = [(action, evidence) for action, evidence in listed if isinstance(action, CreateRole)]
    accounts = {action.account for action, _ in listed if isinstance(action, CreateRole | CreateProvider)}
    if not accounts:
        raise GuardError(
            "This case made no provider and no role, so there is nothing to write as code. Nothing was changed.",
            remedy="It is written after `migrate_to_oidc`, for keys whose strategy is `oidc`.",
        )
    actions = [action for action, _ in listed]
    return {
        account: InfrastructureCode(
            providers=tuple(
                ProviderCode(arn=action.arn, url=action.url, audiences=action.audiences, tags=tags)
                for action in actions
                if isinstance(action, CreateProvider) and action.account == account
            ),
            policies=tuple(
                ManagedPolicyCode(arn=action.arn, name=action.name, document=json.loads(action.document), tags=tags)
                for action in actions
                if isinstance(action, CreatePolicy) and action.account == account
            ),
            roles=tuple(
                _role(action, evidence, actions, tags) for action, evidence in roles if action.account == account
            ),
        )
        for account in sorted(accounts)
    }


def _role(
    role: CreateRole, evidence: Evidence, actions: Iterable[Action], tags: tuple[tuple[str, str], ...]
) -> RoleCode:
    listed = [
        action
        for action in actions
        if isinstance(action, PutRolePolicy | AttachRolePolicy)
        and (action.account, action.role) == (role.account, role.role)
    ]
    return RoleCode(
        name=role.role,
        trust=json.loads(role.trust),
        inline=tuple((item.name, json.loads(item.document)) for item in listed if isinstance(item, PutRolePolicy)),
        attached=tuple(item.arn for item in listed if isinstance(item, AttachRolePolicy)),
        boundary=role.boundary,
        max_session_s=int(str(evidence.get("max_session_s", SESSION_MIN_S))),
        description=DESCRIPTION,
        tags=tags,
    )
