"""Deliberate faults, each a small patch of the engine, the steps, the journal or a client.

A sweep that passes every one of them proves nothing. Each names what it breaks, as a responder would say it, and the
invariant that must see it; `drills.py` says in which world. Patches are made in the forked child alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import playbook.journal
import steps.iam_keys
import steps.replace_access_keys
import steps.session_policies
from playbook.engine import Engine
from playbook.errors import Effect, ServiceError
from playbook.journal import Journal, Recovered
from playbook.lanes import Lanes, Turn
from playbook.model import Observation, Status
from playbook.ports import Attempt, Credential
from playbook.records import Applied, Failed, Intended, Reset, State, Verified
from playbook.secret import Secret
from playbook.twins.iam import IamTwin
from steps.iam_keys import ConfirmKeys, DeactivateKey, DeleteKey
from steps.replace_access_keys import CreateAccessKey, ProveKey, StoreKey
from steps.session_policies import RevokeUserSessions


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault."""

    why: str
    expected: frozenset[str]
    """The invariants of which one must see it."""
    patch: Callable[[], None]


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(why: str, *expected: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a patch under its function's name."""

    def register(patch: Callable[[], None]) -> Callable[[], None]:
        name = patch.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(why=why, expected=frozenset(expected), patch=patch)
        return patch

    return register


# --- The nine that issue A names ------------------------------------------------------------------------------------


@mutant("a lost secret is treated as fine: something is written in its place", "I3", "I10")
def never_mint_again() -> None:
    real = steps.iam_keys.credential_of

    def credential_of(view: Any, name: str) -> Credential | None:
        attempts = view.past(f"{CreateAccessKey.kind}:{name.removeprefix('new:')}")
        held = real(view, name)
        if held is not None or not attempts or attempts[-1].applied is None:
            return held
        account, user, _ = name.removeprefix("new:").split("/")
        return Credential(
            account=account,
            user=user,
            key_id=str(attempts[-1].applied["key_id"]),
            secret=Secret("?" * 40),
            created_at=view.clock.now(),
            server_time=view.clock.now(),
        )

    for module in (steps.iam_keys, steps.replace_access_keys):
        module.credential_of = credential_of
    Engine._settle_lost_secrets = lambda self, actions: {}


@mutant("the intent is written when the effect is there", "I1")
def intent_after_effect() -> None:
    late: dict[str, Intended] = {}
    append = Journal.append

    def declare(self: Engine, action: Any, basis: Any, *, embedded: bool) -> None:
        record = Intended(key=action.key, basis=dict(basis), action=action.data() if embedded else None)
        late[action.key] = record
        self.journal.state.apply(record)

    def append_both(self: Journal, record: Any) -> int:
        if isinstance(record, Applied | Failed) and (intent := late.pop(record.key, None)) is not None:
            append(self, intent)
        return append(self, record)

    Engine.declare = declare
    Journal.append = append_both


@mutant("what a crash left of a record stays, and the next record is written after it", "I13")
def torn_tail_kept() -> None:
    Journal._cut = lambda self, folder, recovered: None


@mutant("an action is called verified before it is applied", "I16")
def verified_before_applied() -> None:
    declare = Engine.declare

    def declare_done(self: Engine, action: Any, basis: Any, *, embedded: bool) -> None:
        declare(self, action, basis, embedded=embedded)
        self.journal.append(Verified(key=action.key))

    Engine.declare = declare_done


@mutant("the old key is switched off before the sinks were written and read back", "I3")
def old_key_off_first() -> None:
    plan = steps.replace_access_keys._replacement

    def hasty(*arguments: Any) -> Any:
        actions, findings = plan(*arguments)
        off = next(action for action in actions if isinstance(action, DeactivateKey))
        prove = next(action for action in actions if isinstance(action, ProveKey))
        rest = [action for action in actions if action is not off]
        at = rest.index(prove) + 1
        return [*rest[:at], replace(off, pairs=(), after=(prove.key,)), *rest[at:]], findings

    steps.replace_access_keys._replacement = hasty


@mutant("a lost secret is minted anew although a sink holds the key", "I3")
def reset_although_held() -> None:
    StoreKey.holds = lambda self, view, made: False


@mutant("whatever key appeared after our intent is taken for ours and retired", "I7")
def delete_unproved() -> None:
    def observe_unknown(
        self: CreateAccessKey, view: Any, attempt: Attempt, later: Attempt | None, listing: Any
    ) -> Observation | None:
        before = attempt.basis["keys"]
        candidates = [key.id for key in listing.keys if key.id not in before]
        return self._observe_orphan(view, candidates[0], None, listing) if candidates else None

    CreateAccessKey._observe_unknown = observe_unknown


@mutant("a create counts as not made while the list still lags", "I2", "I8")
def absent_while_listing_lags() -> None:
    CreateAccessKey._observe_unknown = lambda self, view, attempt, later, listing: None


@mutant("the old key is switched off because the journal says that the sinks were verified", "I3")
def trust_a_verified_gate() -> None:
    observe = DeactivateKey.observe
    DeactivateKey.observe = lambda self, view: observe(replace(self, pairs=()), view)


# --- What the tools in the field do ---------------------------------------------------------------------------------


@mutant("the SDK sends a create again when its reply is lost", "I9")
def sdk_retries_create() -> None:
    create = IamTwin.create_access_key

    def retrying(self: IamTwin, user: str, *, tag: str) -> Credential:
        try:
            return create(self, user, tag=tag)
        except ServiceError as error:
            if error.effect is not Effect.UNKNOWN:
                raise
            return create(self, user, tag=tag)

    IamTwin.create_access_key = retrying


@mutant("a full user's oldest key is removed to make room", "I3")
def delete_the_oldest_to_make_room() -> None:
    premise = CreateAccessKey._observe_premise

    def observe_premise(self: CreateAccessKey, view: Any, listing: Any) -> Observation:
        if len(listing.keys) < steps.replace_access_keys.KEYS_PER_USER:
            return premise(self, view, listing)
        return Observation(status=Status.TAINTED, evidence={"orphan": listing.keys[0].id})

    CreateAccessKey._observe_premise = observe_premise


@mutant("a variable is deleted, then added", "I1", "I7")
def delete_then_add() -> None:
    apply = StoreKey.apply

    def apply_rudely(self: StoreKey, world: Any) -> Any:
        world.circleci.delete_variable(self.pair.sink, self.pair.id_variable)
        return apply(self, world)

    StoreKey.apply = apply_rudely


@mutant("an orphan is deleted while it is on", "I5")
def delete_an_active_key() -> None:
    observe = DeleteKey.observe

    def observe_boldly(self: DeleteKey, view: Any) -> Observation:
        seen = observe(self, view)
        return replace(seen, status=Status.ABSENT) if seen.status is Status.CONFLICT else seen

    DeleteKey.observe = observe_boldly
    for module in (steps.iam_keys, steps.replace_access_keys):
        module.retire = lambda account, user, key_id, **_: (DeleteKey(account=account, user=user, key_id=key_id),)


@mutant("a value that nobody knows is overwritten", "I7")
def overwrite_the_unknown() -> None:
    observe = StoreKey.observe

    def observe_boldly(self: StoreKey, view: Any) -> Observation:
        seen = observe(self, view)
        unknown = seen.status is Status.CONFLICT and "does not know" in seen.reason
        return replace(seen, status=Status.ABSENT) if unknown else seen

    StoreKey.observe = observe_boldly


@mutant("only the id is written", "I10")
def half_a_pair() -> None:
    StoreKey._put_secret = lambda self, world, credential: None


@mutant("the new key is not proved before it is stored", "I4")
def skip_the_proof() -> None:
    ProveKey.observe = lambda self, view: Observation(status=Status.PRESENT)


@mutant("a store counts as done once it was sent", "I16")
def no_read_back() -> None:
    observe = StoreKey.observe

    def observe_credulously(self: StoreKey, view: Any) -> Observation:
        seen = observe(self, view)
        tried = [attempt for attempt in view.past(self.key) if not attempt.reset]
        return Observation(status=Status.PRESENT) if tried else seen

    StoreKey.observe = observe_credulously


@mutant("nobody looks at the user's keys once more at the end", "I6")
def no_last_look() -> None:
    ConfirmKeys.observe = lambda self, view: Observation(status=Status.PRESENT)


@mutant("a key of ours that no sink holds stays on while a human is waited for", "I6b")
def no_parking() -> None:
    Engine._park_unused = lambda self: None


@mutant("what was broken by a write that could not be foreseen is not put back", "I5")
def no_undo() -> None:
    DeactivateKey.undo = lambda self, done: ()


@mutant("a lost key is left alone, and another one is made beside it", "I8")
def mint_beside_the_orphan() -> None:
    CreateAccessKey._observe_orphan = lambda self, view, key_id, made_at, listing: None
    premise = CreateAccessKey._observe_premise

    def observe_premise(self: CreateAccessKey, view: Any, listing: Any) -> Observation:
        return replace(premise(self, view, listing), status=Status.ABSENT)

    CreateAccessKey._observe_premise = observe_premise


# --- The journal ----------------------------------------------------------------------------------------------------


@mutant("an append returns before its record is on the disk", "I1", "I13")
def no_sync() -> None:
    Journal._sync = lambda self, ticket: None


@mutant("recovery drops the last whole record with the torn one", "I13")
def recovery_cuts_too_much() -> None:
    real = playbook.journal.recover

    def recover(content: bytes) -> Recovered:
        found = real(content)
        if not found.torn or not found.records:
            return found
        shorter = content[: content.rfind(b"\n", 0, found.length - 1) + 1]
        return replace(real(shorter), torn=content[len(shorter) :])

    playbook.journal.recover = recover


@mutant("a process that resumes sends an open create again without looking", "I2")
def replay_the_open_intent() -> None:
    observe = CreateAccessKey.observe

    def observe_not(self: CreateAccessKey, view: Any) -> Observation:
        attempts = view.past(self.key)
        if self.credential in view.held or not attempts:
            return observe(self, view)
        listing = view.aws(self.account).access_keys(self.user)
        evidence = {"keys": [key.id for key in listing.keys], "server_time": listing.server_time.isoformat()}
        return Observation(status=Status.ABSENT, evidence=evidence)

    CreateAccessKey.observe = observe_not


# --- The museum: faults this sweep has found, put back --------------------------------------------------------------


@mutant("the outage that a human chose is not written down", "I3")
def outage_not_approved() -> None:
    Engine._choose_recovery = lambda self, provider, made, holders, others: self.operator.lost_secret(
        provider, holders, others
    )


@mutant("after a reset the proof waits for the stores that wait for the proof", "L1")
def proof_waits_for_stores() -> None:
    def blockers(self: Lanes, action: Any) -> list[str]:
        first = self._journal.state.first.get(action.key, frozenset())
        needed = [*action.after, *(key for key in first if action.needs and key in self._actions)]
        return [key for key in needed if self._journal.state.of(key).state != "verified"]

    Lanes._blockers = blockers


@mutant("a second reset forgets that sinks work with a key that the first one kept", "I3")
def kept_key_forgotten() -> None:
    reset = State._reset

    def reset_all(self: State, record: Reset) -> None:
        reset(self, record)
        for key in record.keys:
            progress = self.of(key)
            progress.attempts = [replace(attempt, kept=record.keep) for attempt in progress.attempts]

    State._reset = reset_all


@mutant("a list that still shows the old tail is taken for a sink that holds the old key", "I3")
def stale_list_believed() -> None:
    Engine._may_have_written = lambda self, action: False


@mutant("a try settled long ago claims the key of the one under way", "L1")
def old_try_claims_new_key() -> None:
    observe_unknown = CreateAccessKey._observe_unknown
    CreateAccessKey._observe_unknown = lambda self, view, attempt, later, listing: observe_unknown(
        self, view, attempt, None, listing
    )


@mutant("a create refused for the quota does not say whose key fills it", "L1")
def refusal_not_explained() -> None:
    Lanes._look_after_refusal = lambda self, action: None


@mutant("what a dead process did without writing its end down is not put back", "I5")
def no_undo_of_an_open_intent() -> None:
    conflict = Lanes._conflict

    def conflict_forgetting(self: Lanes, lane: Any, action: Any, seen: Observation) -> Any:
        attempts = self._world.past(action.key)
        if attempts and attempts[-1].applied is None:
            self._park(lane, action, seen.reason, "conflict")
            return Turn.PARKED
        return conflict(self, lane, action, seen)

    Lanes._conflict = conflict_forgetting


@mutant("what was to be put back counts as put back once that is intended", "I5")
def undo_counted_by_its_intent() -> None:
    conflict = Lanes._conflict

    def conflict_believing(self: Lanes, lane: Any, action: Any, seen: Observation) -> Any:
        attempts = self._world.past(action.key)
        undoing = action.undo({}) if attempts else ()
        if any(later.seq > attempts[-1].seq for undo in undoing for later in self._world.past(undo.key)):
            self._park(lane, action, seen.reason, "conflict")
            return Turn.PARKED
        return conflict(self, lane, action, seen)

    Lanes._conflict = conflict_believing


@mutant("sessions are denied up to the intent, though the key still works for a while", "I6")
def denial_dated_by_its_intent() -> None:
    steps.session_policies.last_off_at = lambda view, keys: None


@mutant("a denial of sessions counts as made once it was sent", "I6", "I16")
def denial_unread() -> None:
    observe = RevokeUserSessions.observe

    def observe_believing(self: RevokeUserSessions, view: Any) -> Observation:
        return Observation(status=Status.PRESENT) if view.past(self.key) else observe(self, view)

    RevokeUserSessions.observe = observe_believing
