"""Post-incident: say what stays to be done, and until when."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from playbook.model import Finding, Phase, Plan, Step, Strategy
from playbook.ports import display
from steps.decisions import ask_grace_hours, decide_keys
from steps.iam_keys import DeactivateKey

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import View


class CloseIncident(Step):
    """Name what only falls due later; it begins when everything else is done."""

    id = "close_incident"
    title = "Close the incident"
    phase = Phase.POST_INCIDENT
    closing = True

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """List the switched-off keys with the day from which they may be deleted, and what was kept."""
        decisions = decide_keys(view, case, ask)
        findings: list[Finding] = []
        for item in decisions.keys:
            key = item.key
            who = f"{key.id} of {display(key.user)} in {key.account}"
            if item.strategy is Strategy.KEEP:
                if item.places and key.is_active:
                    findings.append(Finding(level="warning", text=f"Still on, as decided: {who}."))
                continue
            if not item.places and item.strategy is Strategy.REPLACE:
                continue
            off = f"{DeactivateKey.kind}:{item.lane}/{key.id}"
            if key.is_active and off not in case.verified:
                findings.append(Finding(level="danger", text=f"STILL ON, though it was to be switched off: {who}."))
                continue
            hours = ask_grace_hours({"user": key.user, "account": key.account, "id": key.id}, ask)
            due = (view.clock.now() + timedelta(hours=hours)).isoformat(timespec="minutes")
            text = f"Switched off, to be deleted once nothing has missed it: {who}."
            findings.append(Finding(level="note", text=text, due_at=due))
        return Plan(step=self.id, findings=tuple(findings))
