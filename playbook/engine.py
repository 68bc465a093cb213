"""Plan, approve, perform, resume: the only file with control flow over actions.

The life of one action is `Lanes._act`; `docs/architecture.md` tells it in words. Lanes run side by side on threads
and never talk to the operator: a lane that needs a human parks, and the main thread asks, one question at a time.
Intents are on disk before their request leaves, and recovery asks the world, not the journal, what happened.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from playbook.errors import (
    CredentialsError,
    DeclinedError,
    Effect,
    ExitCode,
    GuardError,
    JournalDamagedError,
    JournalError,
    PlaybookError,
    ServiceError,
)
from playbook.journal import INVENTORY, this_host
from playbook.lanes import SETTLED, Interrupted, Lanes, Tell, by_lane
from playbook.model import (
    Action,
    Case,
    Finding,
    Phase,
    Plan,
    Recourse,
    Recovery,
    Status,
    Trouble,
    action_from_data,
)
from playbook.records import (
    Applied,
    Approved,
    Done,
    Intended,
    Planned,
    Reset,
    Sealed,
    TakenOver,
)
from playbook.world import CaseWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from playbook.journal import Journal
    from playbook.model import Operator, Question, Step
    from playbook.ports import Platforms, Waits
    from playbook.records import State

T = TypeVar("T")

FINDINGS_A_RECORD: Final = 200
"""A record has a size limit, and an inventory of a large organization has many findings."""


@dataclass(kw_only=True)
class Outcome:
    """How a run ended."""

    troubles: tuple[Trouble, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    """The steps that are not done."""

    @property
    def exit_code(self) -> ExitCode:
        """11 while anything waits, 12 when some targets failed or were left out after trouble, else 0."""
        if any(not trouble.failed for trouble in self.troubles):
            return ExitCode.WAITING
        if self.troubles or self.skipped:
            return ExitCode.SOME_FAILED
        return ExitCode.WAITING if self.unfinished else ExitCode.DONE


class _Ask:
    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def __call__(self, question: Question[T]) -> T:
        return self._operator.answer(question)

    def all(self, questions: Sequence[Question[T]]) -> list[T]:
        return self._operator.answer_all(questions) if questions else []


class _Asked:
    """The operator, and the engine's word that it is being asked."""

    def __init__(self, engine: Engine, inner: Operator) -> None:
        self._engine = engine
        self._inner = inner

    def _ask(self, question: Callable[[], T]) -> T:
        self._engine.asking = True
        try:
            return question()
        finally:
            self._engine.asking = False

    def answer(self, question: Question[T]) -> T:
        return self._ask(lambda: self._inner.answer(question))

    def answer_all(self, questions: Sequence[Question[T]]) -> list[T]:
        return self._ask(lambda: self._inner.answer_all(questions))

    def approve(self, plan: Plan) -> bool:
        return self._ask(lambda: self._inner.approve(plan))

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        return self._ask(lambda: self._inner.lost_secret(action, switched, unswitched))

    def recourse(self, trouble: Trouble) -> Recourse:
        return self._ask(lambda: self._inner.recourse(trouble))


class Engine:
    """Carries a case from where its journal stands to its end, or to where it must wait."""

    def __init__(
        self,
        journal: Journal,
        platforms: Platforms,
        operator: Operator,
        *,
        waits: Waits | None = None,
        parallel: int = 16,
        pilot: int = 1,
        max_failures: int = 3,
        approved: frozenset[str] = frozenset(),
        promised: Mapping[str, Sequence[Action]] = MappingProxyType({}),
        tell: Tell = lambda _event, _fields: None,
        executor: Callable[[int], Executor] = ThreadPoolExecutor,
    ) -> None:
        """`approved`: the digests of the actions that were reviewed; anything else is put to the operator.

        `promised`: by step, the reviewed actions; one that a later plan leaves out must be seen done already.
        """
        self.journal = journal
        self.world = CaseWorld(platforms, journal, waits=waits, parallel=parallel)
        self.asking = False
        """True while the operator is asked: only then may a signal interrupt the main thread."""
        self._operator = _Asked(self, operator)
        self.parallel = parallel
        self.pilot = pilot
        self.max_failures = max_failures
        self.approved = approved
        self.promised = promised
        self.tell = tell
        self.executor = executor
        self.stopping = False
        self._plans: dict[str, Plan] = {}
        self._providers: list[Action] = []
        self._users: dict[str, list[Action]] = {}

    @property
    def operator(self) -> Operator:
        """The human, or the file standing in for one."""
        return self._operator

    def stop(self) -> None:
        """Ask the lanes to finish the call in flight and start nothing new; safe in a signal handler."""
        self.stopping = True

    def run(self, steps: Sequence[Step], *, again: frozenset[str] = frozenset(), closes: bool = True) -> Outcome:
        """Carry out every step that is not done, in order; lanes in trouble do not stop the others.

        `again`: the ids of steps that are planned one more round, though they may be done. `closes`: whether the case
        ends with these steps.
        """
        self._take_over()
        for recorded in set(self.journal.state.plans) - {step.id for step in steps}:
            self._remember_providers(recorded)
        troubles: list[Trouble] = []
        unfinished: list[str] = []
        for step in steps:
            if step.id in self.journal.state.done and step.id not in again:
                self._remember_providers(step.id)
                continue
            if self.stopping:
                self._park_unused()
                raise Interrupted
            if step.closing and (troubles or unfinished):
                unfinished.append(step.id)
                continue
            try:
                met = self._run_step(step, another_round=step.id in again)
            except JournalError:
                raise  # nothing more may be done, for no intent could be kept
            except (PlaybookError, Interrupted, KeyboardInterrupt):
                self._park_unused()
                raise
            troubles += met
            if met:
                unfinished.append(step.id)
        self._park_unused()
        outcome = Outcome(
            troubles=tuple(troubles),
            findings=self._findings(steps if not closes else None),
            skipped=tuple(key for key, progress in self.journal.state.progress.items() if progress.state == "skipped"),
            unfinished=tuple(unfinished),
        )
        if closes and not unfinished:
            self.journal.append(Sealed(outcome=outcome.exit_code.name.lower(), exit_code=int(outcome.exit_code)))
        return outcome

    # -- steps --

    def _take_over(self) -> None:
        state = self.journal.state
        if not state.hosts or state.hosts[-1] == this_host():
            return
        # On another machine a forged journal must not choose where a secret goes: what was not approved on this
        # one is approved again.
        for step in state.plans:
            if step not in state.done and (plan := self.recorded_plan(step)) is not None:
                self._approve(plan, digest=plan.digest(), by_whom="takeover", reviewed=self.approved)
        self.journal.append(TakenOver(host=this_host()))

    def _run_step(self, step: Step, *, another_round: bool) -> list[Trouble]:
        self.tell("step", {"step": step.id, "title": step.title, "phase": step.phase.value})
        plan = self.recorded_plan(step.id)
        if plan is None or another_round or not self._is_approved(plan):
            wanted = step.plan(self.world, self._case(reviewing=step.reviews), _Ask(self.operator))
            if plan is not None and another_round:
                plan = self._record_round(plan, wanted)
            else:
                plan = wanted
                self._record_plan(plan, plan.actions, digest=plan.digest(), number=0)
            self._refuse_broken_promises(plan)
            self._approve(wanted, digest=plan.digest(), by_whom="run", reviewed=self.approved)
        self.tell("planned", {"step": step.id, "actions": len(plan.actions), "findings": plan.findings})
        self._remember(plan)
        lost = self._settle_lost_secrets(plan.actions)
        lanes = Lanes(self, plan.actions, stuck=lost, piloted=step.phase is not Phase.CONTAINMENT)
        troubles = lanes.run()
        if not troubles:
            self.journal.append(Done(step=step.id))
        return troubles

    def _refuse_broken_promises(self, plan: Plan) -> None:
        """A plan may be smaller than the reviewed one because work is done already, never because of a bad read."""
        planned = {action.digest() for action in plan.actions}
        for action in self.promised.get(plan.step, ()):
            if not action.changes or action.digest() in planned:
                continue
            if action.observe(self.world).status is not Status.PRESENT:
                raise GuardError(
                    f"The plan of {plan.step} no longer holds a change that was approved: {action.describe()}. "
                    "Something could not be read now, or was changed since. None of this plan was carried out.",
                    remedy="Look at `rotation-playbook inventory`, then begin a new case with `run`.",
                )

    def recorded_plan(self, step: str) -> Plan | None:
        """The newest whole plan of a step, read back from the journal and checked against its digest."""
        recorded = self.journal.state.plan(step)
        if recorded is None:
            return None
        digest, parts = recorded
        known = self._plans.get(step)
        if known is not None and known.digest() == digest:
            return known
        actions = tuple(action_from_data(data) for part in parts for data in part.actions)
        findings = tuple(Finding(**finding) for part in parts for finding in part.findings)
        plan = Plan(step=step, actions=actions, findings=findings)
        if plan.digest() != digest:
            raise JournalDamagedError(
                f"The plan of {step} in the journal is not the one its digest names.",
                remedy="Use the version that wrote the case (its first record names it). Nothing was changed.",
            )
        self._plans[step] = plan
        return plan

    def _remember_providers(self, step: str) -> None:
        if (plan := self.recorded_plan(step)) is not None:
            self._remember(plan)

    def _remember(self, plan: Plan) -> None:
        """Keep who makes a secret and who writes it, for the parking at the end."""
        users: dict[str, list[Action]] = {}
        for action in plan.actions:
            if action.needs and action.changes:
                users.setdefault(action.credential, []).append(action)
        for provider in plan.actions:
            if provider.provides:
                self._providers.append(provider)
                self._users[provider.key] = users.get(provider.credential, [])

    def _record_round(self, before: Plan, wanted: Plan) -> Plan:
        """Add what is new to a plan that was carried out; what was settled and is wanted again begins again."""
        known = {action.key for action in before.actions}
        new = tuple(action for action in wanted.actions if action.key not in known)
        whole = Plan(step=wanted.step, actions=(*before.actions, *new), findings=wanted.findings)
        rounds = {part.round for part in self.journal.state.plans[wanted.step]}
        self._record_plan(wanted, new, digest=whole.digest(), number=max(rounds) + 1)
        settled = [action.key for action in wanted.actions if self.journal.state.of(action.key).state in SETTLED]
        if settled:
            self.journal.append(Reset(keys=settled, lost="", reason="wanted again"))
        self._plans[wanted.step] = whole
        return whole

    def _record_plan(self, plan: Plan, actions: Sequence[Action], *, digest: str, number: int) -> None:
        """Put one round of a plan on disk: its findings and `actions`, under the digest of all rounds together."""
        attachment = self.journal.attach(INVENTORY, plan.attachment) if plan.attachment else ""
        lanes = [(lane, list(members)) for lane, members in groupby(by_lane(actions), key=lambda item: item.lane)]
        findings = [{"level": item.level, "text": item.text, "due_at": item.due_at} for item in plan.findings]
        heads = [findings[at : at + FINDINGS_A_RECORD] for at in range(0, len(findings), FINDINGS_A_RECORD)] or [[]]
        contents: list[dict[str, Any]] = [{"findings": head} for head in heads]
        contents[0]["attachment"] = attachment
        contents += [{"lane": lane, "actions": [action.data() for action in members]} for lane, members in lanes]
        for part, content in enumerate(contents):
            self.journal.append(
                Planned(step=plan.step, round=number, part=part, parts=len(contents), digest=digest, **content)
            )

    def _is_approved(self, plan: Plan) -> bool:
        approved = self.journal.state.approvals.get(f"step:{plan.step}")
        return approved is not None and approved.digest == plan.digest()

    def _approve(self, plan: Plan, *, digest: str, by_whom: str, reviewed: frozenset[str]) -> None:
        unreviewed = tuple(a for a in plan.actions if a.changes and a.digest() not in reviewed)
        if unreviewed:
            self.tell("approval", {"step": plan.step, "actions": len(unreviewed)})
            if not self.operator.approve(plan):
                raise DeclinedError(
                    f"The plan of {plan.step} was declined; none of it was carried out.",
                    remedy="`resume` plans it again and asks again; `status` says what was done before.",
                )
            by_whom = "operator"
        self.journal.append(Approved(subject=f"step:{plan.step}", digest=digest, by=by_whom, host=this_host()))

    def _case(self, *, reviewing: bool = False) -> Case:
        state = self.journal.state
        attachment = next((part.attachment for parts in state.plans.values() for part in parts if part.attachment), "")
        return Case(
            id=state.opened.case if state.opened else "",
            answers={key: record.value for key, record in state.answers.items()},
            inventory=self.journal.attachment(INVENTORY, attachment) if attachment else (),
            done=frozenset(state.done),
            verified=frozenset(key for key, progress in state.progress.items() if progress.state == "verified"),
            unsettled=tuple(key for key, progress in state.progress.items() if progress.state not in SETTLED),
            applied=tuple(not_put_back(state)) if reviewing else (),
        )

    def _findings(self, only: Sequence[Step] | None) -> tuple[Finding, ...]:
        """What the plans found: all of it, or the newest round of some steps."""
        plans = self.journal.state.plans
        if only is None:
            parts = [part for parts in plans.values() for part in parts]
        else:
            newest = {step.id: max((part.round for part in plans.get(step.id, ())), default=0) for step in only}
            parts = [part for step, last in newest.items() for part in plans.get(step, ()) if part.round == last]
        return tuple(Finding(**finding) for part in parts for finding in part.findings)

    # -- lost secrets (invariants 2.4) --

    def _settle_lost_secrets(self, actions: Sequence[Action]) -> dict[str, Trouble]:
        """Send back to planned what hangs on a secret nobody holds; answer the keys that wait for a human."""
        stuck: dict[str, Trouble] = {}
        state = self.journal.state
        for provider in (action for action in actions if action.provides):
            mine = [action for action in actions if action.credential == provider.credential]
            users = [action for action in mine if action.needs]
            lost = (
                state.of(provider.key).state in {"applied", "verified"}
                and provider.credential not in self.world.held
                and any(state.of(action.key).state not in SETTLED for action in users)
            )
            if not lost:
                continue
            made = state.of(provider.key).attempts[-1].applied or {}
            # A value that can be taken from its source again cuts nobody off.
            holders = self._holders(users, made) if provider.changes else []
            if not holders:
                self._reset(mine, made, first=[], keep=False)
                continue
            others = [action for action in users if action not in holders and action.changes]
            recovery = self._choose_recovery(provider, made, holders, others)
            if recovery is Recovery.STOP:
                trouble = Trouble(
                    action=provider,
                    reason=f"the secret of {made.get('key_id', 'the new key')} is lost and "
                    f"{len(holders)} place(s) already hold it",
                    remedy='Decide who may break: `resume` asks (in batch: on_lost_secret = "recreate").',
                    still_on=f"{made.get('key_id', 'the new key')} and the old key are both active",
                    cause="lost-secret",
                )
                stuck.update({action.key: trouble for action in mine})
            else:
                first = holders if recovery is Recovery.REWRITE_SWITCHED else others
                self._reset(mine, made, first=first, keep=recovery is Recovery.CUT_OLD)
        return stuck

    def _holders(self, users: Sequence[Action], made: Mapping[str, Any]) -> list[Action]:
        """The places that hold, or may hold, what was made: every one read again, an absent tail counts as holding."""
        holders = [action for action in users if action.holds(self.world, made)]
        # A list may still show what was there before a write of ours; acting on that would cut a working sink off.
        if any(action not in holders and self._may_have_written(action) for action in users):
            self.world.clock.sleep(self.world.waits.sink)
            holders = [action for action in users if action.holds(self.world, made)]
        return holders

    def _may_have_written(self, action: Action) -> bool:
        """Whether the place may show ours: one without an intent cannot, for nobody else has the secret."""
        attempts = self.journal.state.of(action.key).attempts
        return action.changes and any(not item.reset and item.failed != Effect.NONE for item in attempts)

    def _choose_recovery(
        self, provider: Action, made: Mapping[str, Any], holders: list[Action], others: list[Action]
    ) -> Recovery:
        recovery = self.operator.lost_secret(provider, holders, others)
        if recovery is not Recovery.STOP:
            dies = made.get("key_id" if recovery is Recovery.REWRITE_SWITCHED else "replaces", provider.key)
            self.journal.append(Approved(subject=f"outage:{dies}", digest="", by=recovery.value, host=this_host()))
        return recovery

    def _reset(self, actions: list[Action], made: Mapping[str, Any], *, first: list[Action], keep: bool) -> None:
        self.journal.append(
            Reset(
                keys=[action.key for action in actions],
                lost=str(made.get("key_id", "")),
                reason="nobody holds its secret any more",
                first=[action.key for action in first],
                keep=keep,
            )
        )
        if made.get("key_id"):
            self.tell("reset", {"lost": made["key_id"], "actions": len(actions)})

    def _park_unused(self) -> None:
        """Before the run stops, make harmless every live key of ours that no sink holds (invariant I6b)."""
        state = self.journal.state
        for provider in self._providers:
            users = self._users_of(provider)
            verified = [action for action in users if state.of(action.key).state == "verified"]
            everywhere = len(verified) == len(users)
            for attempt in state.of(provider.key).attempts:
                # What was made before the last one is used no more, also where that one is in every place.
                if attempt.applied is not None and (attempt.reset or not (verified or everywhere)):
                    # What was made last is only where this run wrote it; what was made before may be anywhere.
                    written = users if attempt.reset else [a for a in users if self._may_have_written(a)]
                    self._park(provider, attempt.applied, written)

    def _park(self, provider: Action, made: Mapping[str, Any], written: Sequence[Action]) -> None:
        parking = provider.park(made)
        if parking and all(self.journal.state.of(action.key).state == "verified" for action in parking):
            return  # seen to be off already, as an orphan that was retired is
        try:
            if written and self.stopping:
                # There is no time for the second look without which a first one proves nothing.
                self.tell("still-on", {"key_id": made.get("key_id", ""), "why": "a place may hold it already"})
                return
            if written and self._holders(written, made):
                return
            for action in parking:
                self._do_now(action)
            self.world.drop(provider.credential)
        except (ServiceError, CredentialsError):
            self.tell("still-on", {"key_id": made.get("key_id", ""), "why": "it could not be switched off"})

    def _users_of(self, provider: Action) -> list[Action]:
        return self._users.get(provider.key, [])

    def _do_now(self, action: Action) -> None:
        """Carry out one idempotent action of our own, outside any lane."""
        if action.observe(self.world).status is not Status.ABSENT:
            return
        self.declare(action, {}, embedded=True)
        self.journal.append(Applied(key=action.key, evidence=dict(action.apply(self.world))))

    def declare(self, action: Action, basis: Mapping[str, Any], *, embedded: bool) -> None:
        """Put the intent on disk; nothing is sent without it."""
        data = action.data() if embedded else None
        self.journal.append(Intended(key=action.key, basis=dict(basis), action=data))


def not_put_back(state: State) -> Iterator[tuple[Action, Mapping[str, Any]]]:
    """What a case changed, newest first, less what was put back since, each with what its `Applied` kept."""
    planned = (data for parts in state.plans.values() for part in parts for data in part.actions)
    # What no plan holds (a repair, a parking) was done to keys of our own, which stay off.
    actions = {action.key: action for action in map(action_from_data, planned)}
    changed = [action for key, action in actions.items() if action.changes and _may_have_changed(state, key)]
    for action in sorted(changed, key=lambda action: -state.of(action.key).attempts[-1].seq):
        last = state.of(action.key).attempts[-1]
        back = [state.of(compensation.key) for compensation in action.undo(last.applied or {})]
        if not back or any(item.state != "verified" or item.seq < last.seq for item in back):
            yield action, last.applied or {}


def _may_have_changed(state: State, key: str) -> bool:
    attempts = state.of(key).attempts
    return bool(attempts) and not attempts[-1].reset and attempts[-1].failed != Effect.NONE
