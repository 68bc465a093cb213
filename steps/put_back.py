"""Undo, as a plan of its own: put back what can be put back, newest first, and say what cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.model import Action, Finding, Observation, Phase, Plan, Severity, Step
from steps.checkout_keys import CreateCheckoutKey, DeleteCheckoutKey
from steps.iam_keys import ActivateKey, DeactivateKey, DeleteKey, list_keys
from steps.session_policies import RemoveSessionPolicy
from steps.stop_new_work import AllowNewWork
from steps.user_lease import ReleaseLease

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import View

NAMED: Final = 20
"""Changes that cannot be put back, named one by one; a long list hides the first."""


class PutBack(Step):
    """Plan the compensation of everything the case changed and has not put back."""

    id = "undo"
    title = "Put back what can be put back"
    phase = Phase.RECOVERY
    kinds = (ActivateKey, ReleaseLease, AllowNewWork, RemoveSessionPolicy, DeleteCheckoutKey)
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
            if back and isinstance(action, DeactivateKey) and (confirmed or not action.pairs):
                text = f"{action.key_id} was contained: switching it on again gives it back to whoever else holds it."
                findings.append(Finding(level="danger", text=text))
        findings += [Finding(level="warning", text=f"Cannot be put back: {what}.") for what in lost[:NAMED]]
        if len(lost) > NAMED:
            findings.append(Finding(level="warning", text=f"And {len(lost) - NAMED} more cannot be put back."))
        return Plan(step=self.id, actions=tuple(actions.values()), findings=tuple(findings))


def _deleted(view: View, case: Case) -> set[str]:
    """The keys of AWS and the checkout keys that this case deleted for good; an intent alone has deleted nothing."""
    found: set[str] = set()
    for action, evidence in case.applied:
        if isinstance(action, DeleteCheckoutKey) and evidence:
            found.add(action.fingerprint)
        elif isinstance(action, DeleteKey):
            listing = list_keys(view, action.account, action.user)
            listed = not isinstance(listing, Observation) and listing.find(action.key_id) is not None
            if evidence or not listed:
                found.add(action.key_id)
    return found


def _replaces(action: Action) -> str:
    """What must still be there for an action to be put back: without its predecessor a checkout key must stay."""
    if isinstance(action, DeactivateKey):
        return action.key_id
    return action.old if isinstance(action, CreateCheckoutKey) else ""
