"""Deliberate faults in what stands around a replacement: gates, leases, sessions, slots, retirement and undo."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from crash.mutants import MUTANTS, mutant

import steps.confirm_builds
import steps.decisions
import steps.put_back
import steps.replace_access_keys
import steps.retire_old_keys
import steps.revoke_sessions
import steps.rotate_checkout_keys
import steps.session_policies
from playbook.engine import Engine
from playbook.errors import Effect, ServiceError
from playbook.journal import this_host
from playbook.lanes import Lanes
from playbook.model import Observation, Plan, Status, override_question
from playbook.records import Approved
from playbook.twins.circleci import CircleCiTwin
from steps.canary_job import CanaryAction, RunCanary
from steps.checkout_keys import CreateCheckoutKey, DeleteCheckoutKey
from steps.gates import ConfirmSilence, DrainJobs
from steps.iam_keys import ActivateKey, DeactivateKey, DeleteKey, credential_of
from steps.key_slots import ProveUnused
from steps.put_back import PutBack
from steps.replace_access_keys import CreateAccessKey
from steps.replacement_options import Canaries
from steps.session_policies import RevokeUserSessions, cutoff_of
from steps.user_lease import ReleaseLease, TakeLease

__all__ = ["MUTANTS"]

# --- Gates ----------------------------------------------------------------------------------------------------------


@mutant("no canary is planned although the organization allows one", "I3b")
def skip_the_canary() -> None:
    steps.replace_access_keys.canaries = lambda view, decisions, item, options, planned: Canaries()


@mutant("a canary counts as passed once its job was started", "I16")
def canary_verdict_ignored() -> None:
    CanaryAction._wait_for = lambda self, workflow: None
    RunCanary._verdict = lambda self, view, workflow: Observation(
        status=Status.PRESENT, evidence={"workflow": workflow.id}
    )


@mutant("a gate that stays shut is called open instead of being overridden", "I3b", "I16")
def gate_skipped_instead_of_overridden() -> None:
    def open_it(self: Lanes, lane: Any, action: Any, trouble: Any) -> None:
        self._verified(lane, action, Observation(status=Status.PRESENT))
        lane.trouble, lane.wake_at = None, 0.0

    Lanes._override = open_it


@mutant("a gate is passed by hand and nobody is asked why", "I3b")
def override_without_reason() -> None:
    def pass_it(self: Lanes, lane: Any, action: Any, trouble: Any) -> None:
        self._journal.append(
            Approved(subject=f"override:{action.key}", digest=action.digest(), by="operator", host=this_host())
        )
        self._verified(lane, action, Observation(status=Status.PRESENT, evidence={"overridden": True, "reason": ""}))
        lane.trouble, lane.wake_at = None, 0.0

    Lanes._override = pass_it


@mutant("the reason of an override is kept and that it was approved is not", "I3b")
def override_not_approved() -> None:
    def pass_it(self: Lanes, lane: Any, action: Any, trouble: Any) -> None:
        reason = self._engine.operator.answer(override_question(action))
        seen = Observation(status=Status.PRESENT, evidence={"overridden": True, "reason": reason})
        self._verified(lane, action, seen)
        lane.trouble, lane.wake_at = None, 0.0

    Lanes._override = pass_it


@mutant("silence is counted from the beginning of the work, not from the last place that was switched", "I3b")
def silence_from_the_start() -> None:
    def since_the_lease(self: ConfirmSilence, view: Any) -> datetime:
        return datetime.fromisoformat(str(view.verdict(f"{TakeLease.kind}:{self.lane}")["server_time"]))

    ConfirmSilence._switched_at = since_the_lease


@mutant("a resumed run no longer waits for the jobs that began with the old key", "I3b")
def drain_forgets_after_resume() -> None:
    observe = DrainJobs.observe

    def observe_once(self: DrainJobs, view: Any) -> Observation:
        if credential_of(view, self.credential) is None:
            return Observation(status=Status.PRESENT)
        return observe(self, view)

    DrainJobs.observe = observe_once


# --- Leases ---------------------------------------------------------------------------------------------------------


@mutant("a lease that another case took a moment ago is written over", "I11")
def lease_ignored() -> None:
    observe = TakeLease.observe

    def observe_boldly(self: TakeLease, view: Any) -> Observation:
        seen = observe(self, view)
        return replace(seen, status=Status.ABSENT) if seen.status is Status.CONFLICT else seen

    TakeLease.observe = observe_boldly


@mutant("whatever lease is on the user is taken away at the end", "I11")
def lease_released_though_foreign() -> None:
    def observe(self: ReleaseLease, view: Any) -> Observation:
        return Observation(status=Status.ABSENT if self._tag(view) else Status.PRESENT)

    ReleaseLease.observe = observe


@mutant("our lease stays on the user when the work is done", "I11")
def lease_left_behind() -> None:
    plan = steps.replace_access_keys._replacement

    def without_release(*arguments: Any) -> Any:
        actions, findings = plan(*arguments)
        return [action for action in actions if not isinstance(action, ReleaseLease)], findings

    steps.replace_access_keys._replacement = without_release


# --- Slots ----------------------------------------------------------------------------------------------------------


@mutant("the key that makes room is not looked at again before it goes", "I16")
def slot_victim_not_proved_unused() -> None:
    ProveUnused.observe = lambda self, view: Observation(status=Status.PRESENT)


# --- Sessions and blocks --------------------------------------------------------------------------------------------


@mutant("sessions that were made while the switch-off spread are forgotten", "I6")
def sessions_dated_too_early() -> None:
    steps.session_policies.last_off_at = lambda view, keys: None


@mutant("a policy that somebody else wrote under our name is written over", "I7")
def foreign_policy_overwritten() -> None:
    read = RevokeUserSessions._read

    def read_ours(self: RevokeUserSessions, view: Any) -> Any:
        document = read(self, view)
        return document if document is None or cutoff_of(document) is not None else None

    RevokeUserSessions._read = read_ours


@mutant("sessions of a contained key are not ended", "I6")
def sessions_not_revoked() -> None:
    steps.revoke_sessions._Planned.revocations = lambda self: iter(())


@mutant("new work that this case blocked stays blocked", "I6")
def block_never_lifted() -> None:
    steps.confirm_builds._lift_blocks = lambda view, inventory: ([], [])


# --- Builds and checkout keys ---------------------------------------------------------------------------------------


def _sent_again(name: str) -> None:
    real = getattr(CircleCiTwin, name)

    def retrying(self: CircleCiTwin, *arguments: Any, **named: Any) -> Any:
        try:
            return real(self, *arguments, **named)
        except ServiceError as error:
            if error.effect is not Effect.UNKNOWN:
                raise
            return real(self, *arguments, **named)

    setattr(CircleCiTwin, name, retrying)


@mutant("a rerun whose reply is lost is asked for again at once", "I9")
def rerun_sent_again() -> None:
    _sent_again("rerun_workflow")


@mutant("a checkout key whose reply is lost is asked for again at once", "I9")
def checkout_key_sent_again() -> None:
    _sent_again("create_checkout_key")


@mutant("the old checkout key goes before the new one is there", "I3")
def old_checkout_key_first() -> None:
    plan = steps.rotate_checkout_keys._actions

    def hasty(*arguments: Any) -> Any:
        actions = plan(*arguments)
        deletes = [replace(a, create="", after=()) for a in actions if isinstance(a, DeleteCheckoutKey)]
        creates = [replace(a, after=tuple(d.key for d in deletes)) for a in actions if isinstance(a, CreateCheckoutKey)]
        return (*deletes, *creates) if creates else actions

    steps.rotate_checkout_keys._actions = hasty


# --- Retirement and undo --------------------------------------------------------------------------------------------


@mutant("an old key is retired as soon as it is off", "I5")
def retire_without_soak() -> None:
    steps.retire_old_keys._due = lambda action, off_at, ask: off_at
    DeleteKey._soak = lambda self, view, listing: None


@mutant("an old key is retired although somebody tried it after it was off", "I5")
def missed_key_retired() -> None:
    DeleteKey._soak = lambda self, view, listing: None


@mutant("an old key is retired without reading its places again", "I5")
def retire_without_reading_again() -> None:
    steps.retire_old_keys._successor = lambda action, case: ((), "")


@mutant("undo also switches on what this case made and parked", "I6c")
def undo_reactivates_our_orphan() -> None:
    plan = PutBack.plan

    def plan_more(self: PutBack, view: Any, case: Any, ask: Any) -> Plan:
        planned = plan(self, view, case, ask)
        ours = tuple(
            ActivateKey(account=action.account, user=action.user, key_id=str(evidence["key_id"]))
            for action, evidence in case.applied
            if isinstance(action, CreateAccessKey) and "key_id" in evidence
        )
        return replace(planned, actions=(*planned.actions, *ours))

    PutBack.plan = plan_more


@mutant("undo leaves out the key that was switched off first", "I6c")
def undo_skips_a_key() -> None:
    plan = PutBack.plan

    def plan_less(self: PutBack, view: Any, case: Any, ask: Any) -> Plan:
        planned = plan(self, view, case, ask)
        skipped = [action for action in planned.actions if isinstance(action, ActivateKey)][-1:]
        return replace(planned, actions=tuple(action for action in planned.actions if action not in skipped))

    PutBack.plan = plan_less


# --- The museum: faults this sweep has found, put back --------------------------------------------------------------


@mutant("a retirement knows no places of a key that was contained before it was replaced", "I5")
def contained_key_has_no_places() -> None:
    steps.retire_old_keys._successor = lambda action, case: (action.pairs, action.mint)


@mutant("an undo believes a read that does not show yet what was written a moment ago", "I16", "I6c")
def undo_believes_a_lagging_read() -> None:
    ReleaseLease._hidden_s = lambda self, view: 0.0


@mutant("once the slot is free, the answer that needed it is refused", "L1")
def spent_slot_refuses_its_answer() -> None:
    steps.decisions.GONE = ""


@mutant("a retirement asks about a key that it deleted and a list still shows", "L1")
def deleted_key_is_asked_about() -> None:
    steps.retire_old_keys._last_used = lambda view, action: view.aws(action.account).last_used(action.key_id)


@mutant("an undo takes the intent to delete a key for its deletion, and leaves the key off", "I6c")
def undo_believes_a_delete_intent() -> None:
    steps.put_back._deleted = lambda view, case: {a.key_id for a, _ in case.applied if isinstance(a, DeleteKey)}


@mutant("a key made a moment ago that no list shows yet counts as gone, and stays on", "I6b", "I6c")
def unlisted_key_is_gone() -> None:
    DeactivateKey._is_fresh = lambda self, view, listing: False


@mutant("a key that was kept until its successor was everywhere stays on at a stop", "I6b")
def kept_key_not_parked() -> None:
    park = Engine._park_unused

    def park_some(self: Engine) -> None:
        state = self.journal.state
        everywhere = [p for p in self._providers if all(state.of(a.key).state == "verified" for a in self._users_of(p))]
        self._providers = [provider for provider in self._providers if provider not in everywhere]
        park(self)

    Engine._park_unused = park_some


@mutant("a lease that was given back when it was undone counts as given back for ever", "I11")
def undone_lease_counts_as_released() -> None:
    Lanes._still_open = lambda self, members: [item for item in members if not self._is_settled(item.key)]
