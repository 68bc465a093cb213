"""Preparation: who we are on both platforms, how serious it is, and which organizations are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.errors import UsageError
from playbook.model import Finding, Phase, Plan, Step
from playbook.ports import display
from playbook.scope import ask_scope

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import View


class CheckAccess(Step):
    """Refuse to begin with credentials that do not work; changes nothing."""

    id = "check_access"
    title = "Check access"
    phase = Phase.PREPARATION

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Ask for severity and organizations, and say who we are."""
        del case
        login = view.circleci.login()
        findings = [Finding(level="note", text=f"CircleCI: {display(login)} at {display(view.circleci.host)}")]
        if not view.accounts:
            raise UsageError(
                "No AWS account is named. Nothing was changed.",
                remedy="Set AWS credentials, or name profiles with --profile or roles with --role-arn.",
            )
        for account in view.accounts:
            identity = view.aws(account).identity()
            findings.append(Finding(level="note", text=f"AWS {account}: {display(identity.arn)}"))
            if view.aws(account).summary().get("AccountAccessKeysPresent"):
                text = f"The root user of {account} has access keys: delete them by hand, whatever else is done."
                findings.append(Finding(level="danger", text=text))
        findings += [
            Finding(level="note", text=f"Organization {display(organization.slug)}")
            for organization in ask_scope(view, ask)
        ]
        return Plan(step=self.id, findings=tuple(findings))
