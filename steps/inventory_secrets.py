"""Analysis: everything stored in CircleCI and every access key, and which variable holds which key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.inventory import ask_organizations, collect
from playbook.model import Finding, Phase, Plan, Step
from playbook.ports import display

if TYPE_CHECKING:
    from playbook.inventory import Inventory
    from playbook.model import Ask, Case
    from playbook.ports import View


class InventorySecrets(Step):
    """Read both platforms once; the later steps decide on this reading and look again before they act."""

    id = "inventory_secrets"
    title = "Inventory"
    phase = Phase.ANALYSIS

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Collect, correlate, and say what was found and what could not be read."""
        del case
        inventory = collect(view, ask_organizations(view, ask), view.accounts)
        return Plan(step=self.id, findings=summarise(inventory), attachment=inventory.to_lines())


def summarise(inventory: Inventory) -> tuple[Finding, ...]:
    """Say first whether anything is missing, then the counts, then what nobody can explain."""
    correlation = inventory.correlation()
    findings: list[Finding] = []
    if not inventory.complete:
        text = f"INCOMPLETE: {len(inventory.holes)} thing(s) could not be read, so nothing here is an all-clear."
        findings.append(Finding(level="danger", text=text))
        findings += [
            Finding(
                level="danger", text=f"Not read: {display(hole.what)} of {display(hole.where)} ({display(hole.why)})"
            )
            for hole in inventory.holes
        ]
    held = {match.key.id for match in correlation.matches if match.key is not None}
    findings.append(
        Finding(
            level="note",
            text=f"{len(inventory.variables)} variables in {len(inventory.contexts)} contexts and "
            f"{len(inventory.projects)} projects; {len(inventory.keys)} access keys of {len(inventory.users)} users; "
            f"{len(held)} of the keys are stored in CircleCI.",
        )
    )
    for match in correlation.matches:
        if match.key is None:
            where = f"{display(match.stored.sink.name)}:{display(match.stored.variable.name)}"
            findings.append(Finding(level="warning", text=f"{where}: {'; '.join(match.evidence)}."))
    return tuple(findings)
