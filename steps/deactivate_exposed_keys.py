"""Containment: switch off now what must not be used any more, before anything else is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.model import Action, Finding, Phase, Plan, Step, Strategy
from playbook.ports import display
from steps.decisions import REPLACING, decide_keys
from steps.iam_keys import ActivateKey, ConfirmKeys, DeactivateKey

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import View


class DeactivateExposedKeys(Step):
    """Switch off every key whose strategy is `contain` or `deactivate`."""

    id = "deactivate_exposed_keys"
    title = "Contain: deactivate exposed keys"
    phase = Phase.CONTAINMENT
    kinds = (DeactivateKey, ActivateKey, ConfirmKeys)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan a deactivation for each such key, and name what will break."""
        decisions = decide_keys(view, case, ask)
        actions: list[Action] = []
        findings: list[Finding] = []
        for item in decisions.keys:
            if item.strategy not in {Strategy.CONTAIN, Strategy.DEACTIVATE} or not item.key.is_active:
                continue
            key = item.key
            actions.append(DeactivateKey(account=key.account, user=key.user, key_id=key.id))
            places = ", ".join(display(place.stored.sink.name) for place in item.places)
            if places:
                text = f"Builds that use {places} fail from the moment {key.id} of {display(key.user)} is off."
                findings.append(Finding(level="danger", text=text))
        users = dict.fromkeys((action.account, action.user) for action in actions if isinstance(action, DeactivateKey))
        for account, user in users:
            mine = decisions.of_user(account, user)
            if any(item.strategy in REPLACING and item.places for item in mine):
                continue  # its last look comes after its replacement
            off = tuple(item.key.id for item in mine if item.strategy in {Strategy.CONTAIN, Strategy.DEACTIVATE})
            expected = tuple(item.key.id for item in mine)
            actions.append(ConfirmKeys(account=account, user=user, expected=expected, off=off))
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))
