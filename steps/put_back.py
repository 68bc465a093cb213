"""Undo, as a plan of its own: put back what can be put back, newest first, and say what cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from playbook.model import Action, Finding, Observation, Phase, Plan, Severity, Step
from playbook.ports import display
from steps.checkout_keys import CreateCheckoutKey, DeleteCheckoutKey
from steps.iam_keys import ActivateKey, DeactivateKey, DeleteKey, KeyAction, list_keys
from steps.oidc_contexts import DeleteContext, LiftRestriction, RemoveSetting
from steps.oidc_permissions import DeletePolicy, DetachRolePolicy, RemoveRolePolicy
from steps.oidc_providers import DeleteProvider, RemoveAudience
from steps.oidc_roles import DeleteRole, RestoreTrust
from steps.replace_access_keys import CreateAccessKey, ProveKey
from steps.session_policies import RemoveSessionPolicy
from steps.stop_new_work import AllowNewWork
from steps.stored_pairs import DeactivateUnstoredKey, RestorePair
from steps.user_lease import ReleaseLease

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playbook.model import Ask, Case
    from playbook.ports import View

NAMED: Final = 20
"""Changes that cannot be put back, named one by one; a long list hides the first."""
OF_CONTEXTS: Final = (DeleteContext, LiftRestriction, RemoveSetting)
OF_ROLES: Final = (DeletePolicy, DetachRolePolicy, RemoveRolePolicy, DeleteRole, RestoreTrust)
OF_PROVIDERS: Final = (DeleteProvider, RemoveAudience)


class PutBack(Step):
    """Plan the compensation of everything the case changed and has not put back."""

    id = "undo"
    title = "Put back what can be put back"
    phase = Phase.RECOVERY
    kinds = (
        ActivateKey,
        ReleaseLease,
        AllowNewWork,
        RemoveSessionPolicy,
        DeleteCheckoutKey,
        CreateAccessKey,
        ProveKey,
        RestorePair,
        *OF_CONTEXTS,
        *OF_ROLES,
        *OF_PROVIDERS,
    )
    reviews = True

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Reads nothing but the case: each compensation looks at the world itself."""
        del ask
        deleted = _deleted(view, case)
        actions: dict[str, Action] = {}
        lost: list[str] = []
        findings: list[Finding] = []
        confirmed = case.answers.get("incident.severity") == Severity.CONFIRMED.value
        for action, evidence in case.applied:
            back = () if _replaces(action) in deleted else action.undo(evidence)
            actions |= {compensation.key: compensation for compensation in back if compensation.key not in actions}
            if not back and action.destroys:
                lost.append(action.describe())
            unstored = isinstance(action, DeactivateUnstoredKey)
            contained = isinstance(action, DeactivateKey) and not action.pairs and not unstored
            if back and isinstance(action, DeactivateKey) and (confirmed or contained):
                text = f"{action.key_id} was contained: switching it on again gives it back to whoever else holds it."
                findings.append(Finding(level="danger", text=text))
        findings += [Finding(level="warning", text=f"Cannot be put back: {what}.") for what in lost[:NAMED]]
        if len(lost) > NAMED:
            findings.append(Finding(level="warning", text=f"And {len(lost) - NAMED} more cannot be put back."))
        findings += _of_roles(actions.values())
        return Plan(step=self.id, actions=_in_order(actions.values()), findings=tuple(findings))


def _in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Make what jobs use now wait for what they are given back, and providers for the roles that trust them."""
    planned = list(actions)
    restored = tuple(action.key for action in planned if isinstance(action, RestorePair))
    roles = tuple(action.key for action in planned if isinstance(action, OF_ROLES))
    begun: set[str] = set()
    ordered: list[Action] = []
    for action in planned:
        waits: tuple[str, ...] = ()
        if isinstance(action, (*OF_CONTEXTS, *OF_ROLES)) and action.lane not in begun:
            begun.add(action.lane)
            waits = restored
        elif isinstance(action, OF_PROVIDERS):
            waits = (*restored, *roles)
        ordered.append(replace(action, after=(*action.after, *waits)) if waits else action)
    return tuple(ordered)


def _of_roles(actions: Iterable[Action]) -> list[Finding]:
    """What people have to put back themselves before a role goes, and what comes back as another value."""
    planned = list(actions)
    roles = [action.role for action in planned if isinstance(action, DeleteRole | RestoreTrust)]
    restored = [action.describe() for action in planned if isinstance(action, RestorePair)]
    findings = []
    if roles:
        text = (
            f"{len(roles)} role(s) go, such as {display(roles[0])}: revert the configuration that names them first, or "
            "its jobs fail."
        )
        findings.append(Finding(level="danger", text=text))
    if restored:
        text = (
            f"{len(restored)} removed place(s) get a key that is minted now, for CircleCI gave no old value back. The "
            "old key goes on again too: switch it off once nothing needs it."
        )
        findings.append(Finding(level="warning", text=text))
    return findings


def _deleted(view: View, case: Case) -> set[str]:
    """The keys of AWS and the checkout keys that this case deleted for good; an intent alone has deleted nothing."""
    found: set[str] = set()
    for action, evidence in case.applied:
        if isinstance(action, DeleteCheckoutKey) and evidence:
            found.add(action.fingerprint)
        elif isinstance(action, DeleteKey) and (evidence or not _is_listed(view, action)):
            found.add(action.key_id)
        elif isinstance(action, DeactivateKey):
            # A key that gave up its slot was deleted by a repair, which no plan holds.
            tries = view.past(f"{DeleteKey.kind}:{action.lane}/{action.key_id}")
            if any(attempt.applied is not None for attempt in tries) or (tries and not _is_listed(view, action)):
                found.add(action.key_id)
    return found


def _is_listed(view: View, action: KeyAction) -> bool:
    listing = list_keys(view, action.account, action.user)
    return not isinstance(listing, Observation) and listing.find(action.key_id) is not None


def _replaces(action: Action) -> str:
    """What must still be there for an action to be put back: without its predecessor a checkout key must stay."""
    if isinstance(action, DeactivateKey):
        return action.key_id
    return action.old if isinstance(action, CreateCheckoutKey) else ""
