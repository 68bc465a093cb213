"""The first minute: switch named keys off, without an inventory and without CircleCI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.errors import AwsError, GuardError, UsageError
from playbook.model import Action, Finding, Phase, Plan, Step
from playbook.ports import display
from steps.iam_keys import ActivateKey, ConfirmKeys, DeactivateKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Ask, Case
    from playbook.ports import KeyListing, View

QUARANTINE = "AWSCompromisedKeyQuarantine"
"""The policies that AWS attaches by itself to a user whose key it saw in public (facts/aws 20)."""


class ContainNow(Step):
    """Find whose the keys are, switch them off, and look again after a while; the case goes on with `run --case`."""

    id = "contain_now"
    title = "Contain: switch the named keys off"
    phase = Phase.CONTAINMENT
    kinds = (DeactivateKey, ActivateKey, ConfirmKeys)

    def __init__(self, key_ids: Sequence[str] = ()) -> None:
        self._key_ids = tuple(dict.fromkeys(key_ids))

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """One look at each account, one at each user; nothing else is read."""
        del case, ask
        owners = dict(zip(self._key_ids, view.gather(lambda key_id: _owner(view, key_id), self._key_ids), strict=True))
        unknown = [key_id for key_id, owner in owners.items() if owner is None]
        if unknown:
            raise UsageError(
                f"{', '.join(display(key_id) for key_id in unknown)} is no key of {', '.join(view.accounts)}. "
                "Nothing was switched off.",
                remedy="Check the id, or name the profile of its account with --profile.",
            )
        users: dict[tuple[str, str], list[str]] = {}
        for key_id, owner in owners.items():
            if owner is not None:
                users.setdefault(owner, []).append(key_id)
        actions: list[Action] = []
        findings: list[Finding] = []
        for (account, user), key_ids in users.items():
            listing = view.aws(account).access_keys(user)
            _refuse_own(view, account, key_ids)
            actions += _contain(account, user, key_ids, listing)
            findings += _findings(view, account, user, key_ids, listing)
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _owner(view: View, key_id: str) -> tuple[str, str] | None:
    for account in view.accounts:
        user = view.aws(account).key_owner(key_id)
        if user is not None:
            return account, user
    return None


def _refuse_own(view: View, account: str, key_ids: Sequence[str]) -> None:
    own = view.aws(account).own_key_id()
    if own in key_ids:
        raise GuardError(
            f"{own} signs this very run, which would lock itself out. Nothing was switched off.",
            remedy="Run it with another identity (--profile).",
        )


def _contain(account: str, user: str, key_ids: Sequence[str], listing: KeyListing) -> list[Action]:
    on = [key.id for key in listing.keys if key.id in key_ids and key.is_active]
    if not on:
        return []
    expected = tuple(key.id for key in listing.keys)
    confirm = ConfirmKeys(account=account, user=user, expected=expected, off=tuple(on), occasion="contain_now")
    return [*(DeactivateKey(account=account, user=user, key_id=key_id) for key_id in on), confirm]


def _findings(view: View, account: str, user: str, key_ids: Sequence[str], listing: KeyListing) -> list[Finding]:
    """What the responder must know of the user at once: its other keys, and AWS's own quarantine."""
    found: list[Finding] = []
    for key in listing.keys:
        who = f"{key.id} of {display(user)} in {account}"
        if key.id in key_ids and not key.is_active:
            found.append(Finding(level="note", text=f"{who} is {key.status.value} already."))
        elif key.id not in key_ids and key.is_active:
            found.append(Finding(level="warning", text=f"{who} stays on: it was not named."))
    try:
        policies = view.aws(account).attached_user_policies(user)
    except AwsError:
        policies = ()  # the first minute does not wait for a permission it can do without
    if any(QUARANTINE in policy for policy in policies):
        text = f"AWS has put {display(user)} under quarantine by itself: it saw a key of this user in public."
        found.append(Finding(level="danger", text=text))
    return found
