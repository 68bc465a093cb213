"""Post-incident, a later run: delete the keys that nobody has missed, and the policies that nothing needs any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from playbook.errors import AwsError
from playbook.model import Action, Finding, Observation, Phase, Plan, Question, Step
from playbook.ports import display
from steps.decisions import ask_grace_hours
from steps.iam_keys import DeactivateKey, DeleteKey, Pair, list_keys, switched_off_at
from steps.replace_access_keys import StoreKey
from steps.session_policies import (
    ROLE_SESSION,
    USER_SESSION,
    RemoveSessionPolicy,
    RevokeRoleSessions,
    RevokeUserSessions,
    aws_time,
)

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import Evidence, KeyListing, LastUsed, View


class RetireOldKeys(Step):
    """Plan the end of every key whose grace time is over; the others are named with their date.

    It is no part of the first run: `resume` on a finished case plans it, each time for what is due by then.
    """

    id = "retire_old_keys"
    title = "Retire the old keys"
    phase = Phase.POST_INCIDENT
    kinds = (DeleteKey, RemoveSessionPolicy)
    reviews = True

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Ask about each deletion: it is never implied."""
        actions: list[Action] = []
        findings: list[Finding] = []
        for action, evidence in case.applied:
            if isinstance(action, RevokeUserSessions | RevokeRoleSessions):
                actions += _due_policy(view, action, evidence)
            if not isinstance(action, DeactivateKey):
                continue
            listing = list_keys(view, action.account, action.user)
            if isinstance(listing, Observation) or _is_settled(action, listing):
                continue
            off_at = switched_off_at(view, action.account, action.user, action.key_id)
            due = _due(action, off_at, ask)
            who = f"{action.key_id} of {display(action.user)} in {action.account}"
            if due is None or listing.server_time < due:
                when = due.isoformat(timespec="minutes") if due is not None else ""
                text = f"Switched off, and not to be deleted yet: {who}."
                findings.append(Finding(level="note", text=text, due_at=when))
            elif (used := _last_used(view, action)) is None:
                continue
            elif self._agreed(action, used, ask):
                pairs, mint = _successor(action, case)
                actions.append(
                    DeleteKey(
                        account=action.account,
                        user=action.user,
                        key_id=action.key_id,
                        soaks=True,
                        pairs=pairs,
                        mint=mint,
                    )
                )
            else:
                findings.append(Finding(level="note", text=f"Due, and kept at your word: {who}."))
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))

    def _agreed(self, action: DeactivateKey, used: LastUsed, ask: Ask) -> bool:
        last = used.at.date().isoformat() if used.at is not None else "never"
        return ask(
            Question(
                id=f"keys.delete_after_grace:{action.lane}/{action.key_id}",
                prompt=f"Delete {action.key_id} of {display(action.user)} for good (off, last used {last})?",
                kind=bool,
                answer_key="keys.delete_after_grace",
                subject=action.subject,
            )
        )


def _is_settled(action: DeactivateKey, listing: KeyListing) -> bool:
    """Whether there is nothing to retire: the key is gone, or somebody switched it on again."""
    found = listing.find(action.key_id)
    return found is None or found.is_active


def _successor(action: DeactivateKey, case: Case) -> tuple[tuple[Pair, ...], str]:
    """Where the new key was stored and what made it, so that every place is read again (I5).

    A containment switches off before there is a new key and names no places: they are those that were written since.
    """
    if action.pairs:
        return action.pairs, action.mint
    stores = [
        store
        for store, _ in case.applied
        if isinstance(store, StoreKey)
        and (store.account, store.user, store.old_key_id) == (action.account, action.user, action.key_id)
    ]
    return tuple(store.pair for store in stores), stores[0].mint if stores else ""


def _last_used(view: View, action: DeactivateKey) -> LastUsed | None:
    """When the key signed last; None when it is deleted and a list shows it still."""
    try:
        return view.aws(action.account).last_used(action.key_id)
    except AwsError as error:
        if error.code != "NoSuchEntity":
            raise
        return None


def _due(action: DeactivateKey, off_at: datetime | None, ask: Ask) -> datetime | None:
    hours = ask_grace_hours(action.subject, ask)
    return off_at + timedelta(hours=hours) if off_at is not None else None


def _due_policy(view: View, action: RevokeUserSessions | RevokeRoleSessions, evidence: Evidence) -> list[Action]:
    """The removal of a denial of sessions, once none of those it denies can be alive."""
    account, user, _ = action.keys[0].split("/")
    now = aws_time(view, account, user)
    cutoff = evidence.get("cutoff")
    if isinstance(now, Observation) or not isinstance(cutoff, str):
        return []
    if isinstance(action, RevokeUserSessions):
        life, removal = USER_SESSION, RemoveSessionPolicy(account=action.account, user=action.user)
    else:
        life, removal = ROLE_SESSION, RemoveSessionPolicy(account=action.account, role=action.role)
    return [removal] if now >= datetime.fromisoformat(cutoff) + life else []
