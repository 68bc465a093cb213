"""Analysis: everything stored in CircleCI and every access key, and which variable holds which key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.collect import collect
from playbook.exposure import burn_down, judge
from playbook.inventory import ask_organizations
from playbook.inventory_document import findings
from playbook.model import Finding, Phase, Plan, Step
from playbook.ports import SecretKind, display
from playbook.scope import ask_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playbook.exposure import Window
    from playbook.inventory import Inventory
    from playbook.model import Ask, Case
    from playbook.ports import View

NOTES_SHOWN: Final = 10
"""Keys that are stored nowhere, named one by one; a large account has hundreds."""


class InventorySecrets(Step):
    """Read both platforms once; the later steps decide on this reading and look again before they act."""

    id = "inventory_secrets"
    title = "Inventory"
    phase = Phase.ANALYSIS

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Collect, correlate, and say what was found and what could not be read."""
        del case
        window = ask_window(ask)
        inventory = collect(view, ask_organizations(view, ask), view.accounts)
        return Plan(step=self.id, findings=summarise(inventory, window), attachment=inventory.to_lines())


def summarise(inventory: Inventory, window: Window | None = None) -> tuple[Finding, ...]:
    """Say first whether anything is missing, then the counts, then what nobody can explain."""
    return (*_holes(inventory), *_counts(inventory, window), *_unexplained(inventory), *_others(inventory, window))


def _holes(inventory: Inventory) -> Iterator[Finding]:
    if inventory.complete:
        return
    text = f"INCOMPLETE: {len(inventory.holes)} thing(s) could not be read, so nothing here is an all-clear."
    yield Finding(level="danger", text=text)
    for hole in inventory.holes:
        text = f"Not read: {display(hole.what)} of {display(hole.where)} ({display(hole.why)})"
        yield Finding(level="danger", text=text)


def _counts(inventory: Inventory, window: Window | None) -> Iterator[Finding]:
    held = {match.key.id for match in inventory.correlation().matches if match.key is not None}
    yield Finding(
        level="note",
        text=("Complete: " if inventory.complete else "Read: ")
        + f"{len(inventory.variables)} variables in {len(inventory.contexts)} contexts and "
        f"{len(inventory.projects)} projects; {len(inventory.keys)} access keys of {len(inventory.users)} users; "
        f"{len(held)} of the keys are stored in CircleCI.",
    )
    if window is not None:
        left = burn_down(inventory, judge(inventory, window))
        yield Finding(level="note", text=f"Of the secrets that were exposed: {left.text()}.")
    for kind in SecretKind:
        number = sum(secret.kind is kind and secret.set for secret in inventory.secrets)
        if number and kind is not SecretKind.OIDC_CLAIMS:
            text = f"{number} of the kind {kind.value}: guided or by hand; `rotation-playbook inventory` says how."
            yield Finding(level="warning", text=text)


def _unexplained(inventory: Inventory) -> Iterator[Finding]:
    for match in inventory.correlation().matches:
        if match.key is None:
            where = f"{display(match.stored.sink.name)}:{display(match.stored.variable.name)}"
            yield Finding(level="warning", text=f"{where}: {'; '.join(match.evidence)}.")


def _others(inventory: Inventory, window: Window | None) -> Iterator[Finding]:
    told = [Finding(level=item["level"], text=f"{display(item['text'])}.") for item in findings(inventory, window)]
    # The root user's keys are said by the step before, and a large account has hundreds of notes.
    notes = [finding for finding in told if finding.level == "note"]
    yield from (finding for finding in told if finding.level == "warning")
    yield from notes[:NOTES_SHOWN]
    if len(notes) > NOTES_SHOWN:
        yield Finding(level="note", text=f"{len(notes) - NOTES_SHOWN} more keys that are stored nowhere.")
