"""Recovery: give jobs a role to assume, so that no key needs to be stored: provider, roles, permissions, contexts.

Nothing that works is touched here. Jobs go on with their keys until their configuration names the role, and the keys
go only at the cut-over.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING

from playbook.errors import GuardError
from playbook.model import Action, Finding, Phase, Plan, Step
from playbook.ports import SecretKind, display
from playbook.secret import masked_tail
from playbook.trust import make_trust, prove
from steps.oidc_contexts import (
    REGION,
    ROLE_ARN,
    CreateContext,
    DeleteContext,
    LiftRestriction,
    RemoveSetting,
    RestrictContext,
    StoreSetting,
)
from steps.oidc_permissions import (
    AttachRolePolicy,
    CreatePolicy,
    DeletePolicy,
    DetachRolePolicy,
    PutRolePolicy,
    RemoveRolePolicy,
    permission_actions,
    permissions_of,
)
from steps.oidc_providers import AddAudience, ConfirmAudience, CreateProvider, DeleteProvider, RemoveAudience
from steps.oidc_roles import CreateRole, DeleteRole, RestoreTrust, UpdateTrust, as_text, same
from steps.oidc_targets import custom_audiences, decide_move
from steps.places import BY_PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.model import Ask, Case
    from playbook.ports import AccountDetails, Json, Restriction, Role, Sink, View
    from steps.oidc_permissions import Permissions
    from steps.oidc_targets import Move, RoleTarget


class MigrateToOidc(Step):
    """Make what jobs need to reach AWS with their own token, for every key whose strategy is `oidc`."""

    id = "migrate_to_oidc"
    title = "Give jobs a role instead of a key"
    phase = Phase.RECOVERY
    kinds = (
        ConfirmAudience,
        CreateProvider,
        AddAudience,
        DeleteProvider,
        RemoveAudience,
        CreateRole,
        UpdateTrust,
        RestoreTrust,
        DeleteRole,
        PutRolePolicy,
        RemoveRolePolicy,
        CreatePolicy,
        DeletePolicy,
        AttachRolePolicy,
        DetachRolePolicy,
        CreateContext,
        DeleteContext,
        RestrictContext,
        LiftRestriction,
        StoreSetting,
        RemoveSetting,
    )

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan provider before role, role before context, restriction before the first variable."""
        move = decide_move(view, case, ask)
        if move is None:
            return Plan(step=self.id)
        accounts = sorted({target.account for target in move.targets})
        details = dict(zip(accounts, view.gather(lambda name: view.aws(name).details(), accounts), strict=True))
        audiences = _audience_gates(move)
        actions: list[Action] = list(audiences.values())
        findings: list[Finding] = []
        ready: dict[str, tuple[str, ...]] = {}
        for arn, targets in _by_provider(move).items():
            planned, said = _provider(view, targets, audiences[targets[0].organization.slug].key)
            ready[arn] = tuple(action.key for action in planned)
            actions += planned
            findings += said
        for target in move.targets:
            permissions = permissions_of(view, target, move.options, details[target.account])
            gate = (audiences[target.organization.slug].key, *ready[target.grant.provider])
            role, said = _role(target, permissions, details[target.account], gate)
            context, more = _context(view, target, tuple(action.key for action in role) or gate)
            actions += [*role, *context]
            findings += [*said, *permissions.findings, *more]
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


# --- Provider -------------------------------------------------------------------------------------------------------


def _audience_gates(move: Move) -> dict[str, ConfirmAudience]:
    """By organization: the look at the audiences in force, which everything made for it waits for."""
    inventory = move.decisions.inventory
    rows = [row for row in inventory.secrets if row.kind is SecretKind.OIDC_CLAIMS and custom_audiences(row.detail)]
    gates = {}
    for target in move.targets:
        slug = target.organization.slug
        if slug in gates:
            continue
        mine = {item.slug: item for other in move.targets if other.organization.slug == slug for item in other.projects}
        custom = {row.place: custom_audiences(row.detail) for row in rows if row.place in {slug, *mine}}
        gates[slug] = ConfirmAudience(
            organization=target.organization,
            projects=tuple(mine[name] for name in sorted(mine)),
            custom=tuple(sorted(custom.items())),
        )
    return gates


def _by_provider(move: Move) -> dict[str, list[RoleTarget]]:
    found: dict[str, list[RoleTarget]] = {}
    for target in move.targets:
        found.setdefault(target.grant.provider, []).append(target)
    return found


def _provider(view: View, targets: Sequence[RoleTarget], gate: str) -> tuple[list[Action], list[Finding]]:
    """Make the provider, or add to one that is there the audiences it lacks."""
    grant = targets[0].grant
    wanted = tuple(dict.fromkeys(audience for target in targets for audience in target.grant.accepted))
    seen = next((item for item in view.aws(grant.account).providers() if item.arn == grant.provider), None)
    if seen is None:
        create = CreateProvider(
            account=grant.account, arn=grant.provider, url=grant.issuer.url, audiences=wanted, after=(gate,)
        )
        return [create], []
    lacking = [audience for audience in wanted if audience not in seen.client_ids]
    others = [audience for audience in seen.client_ids if audience not in wanted]
    findings = []
    if others:
        text = (
            f"The identity provider {display(seen.arn)} takes the audience {display(', '.join(others))} too. That "
            "stays: the roles made here do not, but other roles may count on it."
        )
        findings.append(Finding(level="note", text=text))
    actions: list[Action] = [
        AddAudience(account=grant.account, arn=grant.provider, audience=audience, after=(gate,)) for audience in lacking
    ]
    return actions, findings


# --- Role -----------------------------------------------------------------------------------------------------------


def _role(
    target: RoleTarget, permissions: Permissions, details: AccountDetails, gate: tuple[str, ...]
) -> tuple[list[Action], list[Finding]]:
    """Make the role, or adopt one of its name, and give it its permissions."""
    trust = make_trust(target.grant)
    violations = prove(trust, target.grant)
    if violations:
        raise GuardError(
            f"The trust policy for {display(target.name)} is not proved: {violations[0].sentence} Nothing was changed.",
            remedy="Change `oidc.trust`, `oidc.branch` or the names that they rest on.",
        )
    text = as_text(trust)
    # Names of roles are told apart without regard to case.
    there = next((role for role in details.roles if role.name.lower() == target.name.lower()), None)
    if there is None:
        create = CreateRole(
            account=target.account,
            role=target.name,
            trust=text,
            boundary=permissions.held.boundary,
            projects=target.projects,
            after=gate,
        )
        actions: list[Action] = [create]
        return [*actions, *permission_actions(target, permissions.held, (create.key,))], []
    _require_adoptable(target, there, permissions)
    if same(there.trust, text):
        return permission_actions(target, permissions.held, gate), []
    update = UpdateTrust(account=target.account, role=target.name, trust=text, before=as_text(there.trust), after=gate)
    return [update, *permission_actions(target, permissions.held, (update.key,))], [_difference(there, trust)]


def _require_adoptable(target: RoleTarget, there: Role, permissions: Permissions) -> None:
    """A role that somebody else may assume, or that is bounded otherwise, is somebody else's role."""
    strangers = sorted(
        {
            str(principal)
            for statement in _statements(there.trust)
            for principal in _principals(statement)
            if principal != target.grant.provider
        }
    )
    if there.name != target.name or there.path != "/" or strangers:
        trusts = f" and trusts {display(strangers[0])}" if strangers else ""
        raise GuardError(
            f"The account {target.account} has a role {display(there.arn)} already{trusts}, so it is not ours to "
            "change. Nothing was changed.",
            remedy="Choose another `oidc.role_name`.",
        )
    if there.boundary != permissions.held.boundary:
        raise GuardError(
            f"The role {display(there.arn)} has another permissions boundary than the user whose key it would stand in "
            "for. Nothing was changed.",
            remedy="Choose another `oidc.role_name`, or make the boundaries alike.",
        )


def _statements(document: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    found = document.get("Statement", ())
    listed = found if isinstance(found, list | tuple) else [found]
    return [item for item in listed if isinstance(item, dict)]


def _principals(statement: Mapping[str, Json]) -> list[Json]:
    """Everyone a statement speaks of; what has another form than ours is a stranger as it stands."""
    principal = statement.get("Principal", statement.get("NotPrincipal"))
    if not isinstance(principal, dict) or "NotPrincipal" in statement:
        return [str(principal)]
    found: list[Json] = []
    for value in principal.values():
        found += list(value) if isinstance(value, list | tuple) else [value]
    return found


def _difference(there: Role, trust: Mapping[str, Json]) -> Finding:
    before, after = (json.dumps(document, indent=1, sort_keys=True).splitlines() for document in (there.trust, trust))
    changed = [line for line in difflib.unified_diff(before, after, lineterm="", n=0) if line[:2] not in {"--", "++"}]
    return Finding(
        level="danger",
        text=f"The role {display(there.arn)} is there already. Whom it trusts is replaced: {'; '.join(changed)}",
    )


# --- Context --------------------------------------------------------------------------------------------------------


def _context(view: View, target: RoleTarget, after: tuple[str, ...]) -> tuple[list[Action], list[Finding]]:
    """Make or reuse the context; its restrictions come first, and before them nothing is stored."""
    found = next((sink for sink in view.circleci.contexts(target.organization) if sink.name == target.context), None)
    restrictions = view.circleci.restrictions(found) if found is not None else ()
    if found is not None:
        _require_reusable(view, target, found, restrictions)
    number = found.id if found is not None else ""
    create = CreateContext(organization=target.organization, context=target.context, after=after)
    before = (create.key,) if found is None else after
    missing = [p for p in target.projects if not any(i.value == p.id for i in restrictions if i.kind == BY_PROJECT)]
    limits = [
        RestrictContext(
            organization=target.organization,
            context=target.context,
            context_id=number,
            project=project,
            after=before,
        )
        for project in missing
    ]
    settings = [
        StoreSetting(
            organization=target.organization,
            context=target.context,
            context_id=number,
            name=name,
            value=value,
            after=(*before, *(limit.key for limit in limits)),
        )
        for name, value in ((ROLE_ARN, target.arn), (REGION, target.region))
    ]
    return [*([create] if found is None else []), *limits, *settings], _other_users(target, restrictions)


def _require_reusable(view: View, target: RoleTarget, found: Sink, restrictions: Sequence[Restriction]) -> None:
    what = f"The context {display(target.context)} of {display(target.organization.slug)}"
    if not any(item.kind == BY_PROJECT for item in restrictions):
        raise GuardError(
            f"{what} is there already and open to every project, so a role's name would be too. Nothing was changed.",
            remedy="Limit it to its projects first, or choose another `oidc.context`.",
        )
    stored = view.circleci.variables(found)
    for name, value in ((ROLE_ARN, target.arn), (REGION, target.region)):
        seen = stored.find(name)
        if seen is not None and seen.tail != masked_tail(value):
            raise GuardError(
                f"{what} has another {name} already, and CircleCI shows to nobody which. Nothing was changed.",
                remedy="Choose another `oidc.context`.",
            )


def _other_users(target: RoleTarget, restrictions: Sequence[Restriction]) -> list[Finding]:
    ids = {project.id for project in target.projects}
    others = [item.value for item in restrictions if item.kind == BY_PROJECT and item.value not in ids]
    if not others:
        return []
    text = (
        f"The context {display(target.context)} is open to {len(others)} more project(s), such as {others[0]}: they "
        "read the role's name there, and the role does not let them in."
    )
    return [Finding(level="note", text=text)]
