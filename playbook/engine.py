"""Plan, approve, perform, resume: the only file with control flow over actions.

The life of one action is `_Lanes._act`; `docs/architecture.md` tells it in words. Lanes run side by side on threads
and never talk to the operator: a lane that needs a human parks, and the main thread asks, one question at a time.
Intents are on disk before their request leaves, and recovery asks the world, not the journal, what happened.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

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
from playbook.model import (
    Action,
    Case,
    Finding,
    Observation,
    Phase,
    Plan,
    Recourse,
    Recovery,
    Status,
    Trouble,
    action_from_data,
    tied_together,
)
from playbook.ports import display
from playbook.records import (
    Applied,
    Approved,
    Done,
    Failed,
    Intended,
    Observed,
    Planned,
    Reset,
    Sealed,
    Skipped,
    TakenOver,
    Verified,
)
from playbook.world import CaseWorld

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from playbook.journal import Journal
    from playbook.model import Operator, Question, Step
    from playbook.ports import Platforms, Waits

T = TypeVar("T")
Tell: TypeAlias = Callable[[str, "Mapping[str, Any]"], None]

ATTEMPTS_MAX: Final = 5
"""Durable intents of one action before a human is asked: a retry loop has a budget (L1)."""
REPAIRS_MAX: Final = 3
FINDINGS_A_RECORD: Final = 200
"""A record has a size limit, and an inventory of a large organization has many findings."""
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 10.0)
SETTLED: Final = frozenset({"verified", "skipped"})


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


class Interrupted(Exception):  # noqa: N818  # not an error: the responder asked, and the case can be resumed
    """The run was asked to stop; every call in flight was finished and journaled."""


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
        self.operator = _Asked(self, operator)
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

    def stop(self) -> None:
        """Ask the lanes to finish the call in flight and start nothing new; safe in a signal handler."""
        self.stopping = True

    def run(self, steps: Iterable[Step]) -> Outcome:
        """Carry out every step that is not done, in order; lanes in trouble do not stop the others."""
        self._take_over()
        troubles: list[Trouble] = []
        unfinished: list[str] = []
        for step in steps:
            if step.id in self.journal.state.done:
                self._remember_providers(step.id)
                continue
            if self.stopping:
                self._park_unused()
                raise Interrupted
            if step.closing and (troubles or unfinished):
                unfinished.append(step.id)
                continue
            try:
                met = self._run_step(step)
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
            findings=self._findings(),
            skipped=tuple(key for key, progress in self.journal.state.progress.items() if progress.state == "skipped"),
            unfinished=tuple(unfinished),
        )
        if not unfinished:
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
                self._approve(plan, by_whom="takeover", reviewed=self.approved)
        self.journal.append(TakenOver(host=this_host()))

    def _run_step(self, step: Step) -> list[Trouble]:
        self.tell("step", {"step": step.id, "title": step.title, "phase": step.phase.value})
        plan = self.recorded_plan(step.id)
        if plan is None or not self._is_approved(plan):
            plan = step.plan(self.world, self._case(), _Ask(self.operator))
            self._record_plan(plan)
            self._refuse_broken_promises(plan)
            self._approve(plan, by_whom="run", reviewed=self.approved)
        self.tell("planned", {"step": step.id, "actions": len(plan.actions), "findings": plan.findings})
        self._remember(plan)
        lost = self._settle_lost_secrets(plan.actions)
        lanes = _Lanes(self, plan.actions, stuck=lost, piloted=step.phase is not Phase.CONTAINMENT)
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

    def _record_plan(self, plan: Plan) -> None:
        attachment = self.journal.attach(INVENTORY, plan.attachment) if plan.attachment else ""
        lanes = [(lane, list(members)) for lane, members in groupby(_by_lane(plan.actions), key=lambda a: a.lane)]
        findings = [{"level": item.level, "text": item.text, "due_at": item.due_at} for item in plan.findings]
        heads = [findings[at : at + FINDINGS_A_RECORD] for at in range(0, len(findings), FINDINGS_A_RECORD)] or [[]]
        contents: list[dict[str, Any]] = [{"findings": head} for head in heads]
        contents[0]["attachment"] = attachment
        contents += [{"lane": lane, "actions": [action.data() for action in members]} for lane, members in lanes]
        digest = plan.digest()
        for number, content in enumerate(contents):
            self.journal.append(
                Planned(step=plan.step, round=0, part=number, parts=len(contents), digest=digest, **content)
            )

    def _is_approved(self, plan: Plan) -> bool:
        approved = self.journal.state.approvals.get(f"step:{plan.step}")
        return approved is not None and approved.digest == plan.digest()

    def _approve(self, plan: Plan, *, by_whom: str, reviewed: frozenset[str]) -> None:
        unreviewed = tuple(a for a in plan.actions if a.changes and a.digest() not in reviewed)
        if unreviewed:
            self.tell("approval", {"step": plan.step, "actions": len(unreviewed)})
            if not self.operator.approve(plan):
                raise DeclinedError(
                    f"The plan of {plan.step} was declined; none of it was carried out.",
                    remedy="`resume` plans it again and asks again; `status` says what was done before.",
                )
            by_whom = "operator"
        self.journal.append(Approved(subject=f"step:{plan.step}", digest=plan.digest(), by=by_whom, host=this_host()))

    def _case(self) -> Case:
        state = self.journal.state
        attachment = next((part.attachment for parts in state.plans.values() for part in parts if part.attachment), "")
        return Case(
            id=state.opened.case if state.opened else "",
            answers={key: record.value for key, record in state.answers.items()},
            inventory=self.journal.attachment(INVENTORY, attachment) if attachment else (),
            done=frozenset(state.done),
            verified=frozenset(key for key, progress in state.progress.items() if progress.state == "verified"),
            unsettled=tuple(key for key, progress in state.progress.items() if progress.state not in SETTLED),
        )

    def _findings(self) -> tuple[Finding, ...]:
        parts = (part for parts in self.journal.state.plans.values() for part in parts)
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
            if len(verified) == len(users):
                continue
            for attempt in state.of(provider.key).attempts:
                if attempt.applied is not None and (attempt.reset or not verified):
                    # What was made last is only where this run wrote it; what was made before may be anywhere.
                    written = users if attempt.reset else [a for a in users if self._may_have_written(a)]
                    self._park(provider, attempt.applied, written)

    def _park(self, provider: Action, made: Mapping[str, Any], written: Sequence[Action]) -> None:
        try:
            if written and self.stopping:
                # There is no time for the second look without which a first one proves nothing.
                self.tell("still-on", {"key_id": made.get("key_id", ""), "why": "a place may hold it already"})
                return
            if written and self._holders(written, made):
                return
            for action in provider.park(made):
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


def _by_lane(actions: Sequence[Action]) -> list[Action]:
    order: dict[str, int] = {}
    for action in actions:
        order.setdefault(action.lane, len(order))
    return sorted(actions, key=lambda action: order[action.lane])


class _Turn(Enum):
    """Why a lane gave its thread back."""

    FINISHED = auto()
    BLOCKED = auto()
    ASLEEP = auto()
    PARKED = auto()
    STOPPED = auto()


@dataclass(kw_only=True)
class _Lane:
    name: str
    queue: deque[Action]
    group: int = 0
    wake_at: float = 0.0
    trouble: Trouble | None = None
    detour: deque[Action] = field(default_factory=deque)
    """Repairs or undoing, before the queue goes on."""
    after_detour: Trouble | None = None
    pending_since: dict[str, float] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)

    def head(self) -> Action | None:
        return self.detour[0] if self.detour else (self.queue[0] if self.queue else None)


class _Lanes:
    """The lanes of one step, from where the journal stands until each is finished or parked."""

    def __init__(
        self, engine: Engine, actions: Sequence[Action], *, stuck: Mapping[str, Trouble], piloted: bool
    ) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._world = engine.world
        self._actions = {action.key: action for action in actions}
        self._piloted = piloted
        self._groups: dict[int, list[_Lane]] = {}
        self._open_groups: list[int] = []
        self._parked: list[_Lane] = []
        self._lanes = [
            _Lane(name=name, queue=deque(action for action in members if not self._is_settled(action.key)))
            for name, members in groupby(_by_lane(actions), key=lambda action: action.lane)
        ]
        for lane in self._lanes:
            lane.trouble = next((stuck[action.key] for action in lane.queue if action.key in stuck), None)
        self._lane_of = {action.key: lane for lane in self._lanes for action in lane.queue}
        self._parked = [lane for lane in self._lanes if lane.trouble is not None]
        self._finish_skipping(actions)
        self._number_groups()

    def _is_settled(self, key: str) -> bool:
        return self._journal.state.of(key).state in SETTLED

    def _number_groups(self) -> None:
        """Give lanes that hang together one number: a key and all its places."""
        # Groups with an open intent go first: torn pairs before anything else (I10), and secrets in hand.
        groups = sorted(
            tied_together([action for lane in self._lanes for action in lane.queue]),
            key=lambda group: not any(self._is_open(action.key) for action in group),
        )
        for number, group in enumerate(groups):
            lanes = {id(lane): lane for action in group for lane in (self._lane_of[action.key],)}
            for lane in lanes.values():
                lane.group = number
            self._groups[number] = list(lanes.values())
        self._open_groups = list(self._groups)

    def _is_open(self, key: str) -> bool:
        return self._journal.state.of(key).state in {"intended", "applied"}

    # -- scheduling: main thread only --

    def run(self) -> list[Trouble]:
        """Work until every lane is finished or parked for good."""
        for lane in self._lanes:
            while (action := lane.head()) is not None and action.attended and lane.trouble is None:
                if self._act(lane, action) is not None:
                    break
        width = min(self._engine.parallel, max(1, len(self._lanes)))
        with self._engine.executor(width) as pool:
            running: dict[Future[_Turn], _Lane] = {}
            try:
                self._loop(pool, running)
            except BaseException:
                self._engine.stop()
                wait(running)
                raise
        return [lane.trouble for lane in self._lanes if lane.trouble is not None]

    def _loop(self, pool: Executor, running: dict[Future[_Turn], _Lane]) -> None:
        clock = self._world.clock
        while True:
            if self._engine.stopping and not running:
                raise Interrupted
            busy = set(map(id, running.values()))
            admitted = self._admitted()
            for lane in self._ready(admitted, busy, clock.monotonic()):
                running[pool.submit(self._advance, lane)] = lane
            if running:
                sleeping = [lane.wake_at for lane in admitted if lane.wake_at > clock.monotonic()]
                timeout = max(0.0, min(sleeping) - clock.monotonic()) if sleeping else None
                finished, _ = wait(running, timeout=timeout, return_when=FIRST_COMPLETED)
                for future in finished:
                    lane = running.pop(future)
                    future.result()
                    if lane.trouble is not None:
                        self._parked.append(lane)
            elif asleep := self._asleep(admitted):
                due = min(lane.wake_at for lane in asleep)
                self._engine.tell("waiting", {"seconds": round(due - clock.monotonic(), 1), "lanes": len(asleep)})
                clock.sleep(max(0.0, due - clock.monotonic()))
            elif not self._ask_about_troubles():
                self._hold_back_the_rest()
                return

    def _asleep(self, admitted: Sequence[_Lane]) -> list[_Lane]:
        return [lane for lane in admitted if lane.trouble is None and lane.head() is not None and lane.wake_at]

    def _ready(self, admitted: Sequence[_Lane], busy: set[int], now: float) -> list[_Lane]:
        return [
            lane
            for lane in admitted
            if id(lane) not in busy
            and lane.trouble is None
            and (action := lane.head()) is not None
            and lane.wake_at <= now
            and (lane.detour or not self._is_blocked(action))
        ]

    def _admitted(self) -> list[_Lane]:
        """The lanes let in now: the pilot's alone first, then `parallel` groups, none new after too many failures.

        Only as many groups are looked at as are let in, so that a turn costs the same with ten keys and ten thousand.
        """
        limit = self._engine.parallel
        pilots = self._engine.pilot if self._piloted else 0
        begun_only = self._too_many_failures()
        admitted: list[_Lane] = []
        groups = 0
        for number in list(self._open_groups):
            lanes = self._groups[number]
            if not any(lane.head() is not None for lane in lanes):
                self._open_groups.remove(number)
                continue
            if not any(self._is_moving(lane) for lane in lanes) or (begun_only and not self._has_begun(number)):
                continue
            if groups and number >= pilots > min(lane.group for lane in admitted):
                break
            admitted += lanes
            groups += 1
            if groups == limit:
                break
        return admitted

    def _is_moving(self, lane: _Lane) -> bool:
        return lane.trouble is None and (action := lane.head()) is not None and not self._waits_for_parked(action)

    def _waits_for_parked(self, action: Action, depth: int = 0) -> bool:
        """Whether something it waits for, directly or not, is parked: then it cannot move in this run."""
        if depth > len(self._actions):
            return False
        for key in self._blockers(action):
            lane = self._lane_of.get(key)
            if lane is None or lane.trouble is not None:
                return True
            if (head := lane.head()) is not None and self._waits_for_parked(head, depth + 1):
                return True
        return False

    def _has_begun(self, group: int) -> bool:
        queued = (action for lane in self._groups[group] for action in lane.queue)
        return any(self._journal.state.of(action.key).attempts for action in queued)

    def _too_many_failures(self) -> bool:
        if not self._parked:
            return False
        causes = Counter(lane.trouble.cause for lane in self._parked if lane.trouble and lane.trouble.failed)
        return bool(causes) and max(causes.values()) >= self._engine.max_failures

    def _blockers(self, action: Action) -> list[str]:
        first = self._journal.state.first.get(action.key, frozenset())
        # Only what writes the new secret waits for `first`: the proof comes before every write.
        waits = action.needs and action.changes
        ahead = [key for key in first if waits and key in self._actions and not self._is_settled(key)]
        return [*(key for key in action.after if self._journal.state.of(key).state != "verified"), *ahead]

    def _is_blocked(self, action: Action) -> bool:
        return bool(self._blockers(action))

    def _ask_about_troubles(self) -> bool:
        """Put each parked lane to the operator; say whether any goes on."""
        moved = False
        # Lanes that hold a secret come first: it is lost when the process ends.
        lanes = sorted(
            (lane for lane in self._lanes if lane.trouble is not None and lane.head() is not None),
            key=lambda lane: (head := lane.head()) is None or head.credential not in self._world.held,
        )
        for lane in lanes:
            action = lane.head()
            if lane.trouble is None or action is None or lane.trouble.cause == "lost-secret":
                continue
            recourse = self._engine.operator.recourse(lane.trouble)
            if recourse is Recourse.RETRY:
                lane.trouble, lane.wake_at = None, 0.0
                lane.pending_since.clear()
                lane.tries.clear()
                lane.repairs.clear()
                moved = True
            elif recourse is Recourse.SKIP:
                # A repair in trouble is in no plan: what is left out is the action that it was to make room for.
                lane.detour.clear()
                self._skip(lane.queue[0].key, f"left out by the responder: {lane.trouble.reason}")
                lane.trouble, moved = None, True
        return moved

    def _skip(self, key: str, reason: str) -> None:
        """Leave an action out, and everything that was to follow it."""
        self._journal.append(Skipped(key=key, reason=reason))
        for lane in self._lanes:
            kept: deque[Action] = deque()
            for action in lane.queue:
                if action.key == key:
                    continue
                follows = key in action.after or (action.lane == self._actions[key].lane and not kept)
                if follows and not self._is_settled(action.key):
                    self._skip(action.key, f"it follows {key}, which was left out")
                elif not self._is_settled(action.key):
                    kept.append(action)
            lane.queue = deque(action for action in kept if not self._is_settled(action.key))

    def _finish_skipping(self, actions: Sequence[Action]) -> None:
        """Leave out what follows a skipped action, if the process died between two records of it."""
        for action in actions:
            left_out = [key for key in action.after if self._journal.state.of(key).state == "skipped"]
            if left_out and not self._is_settled(action.key):
                self._skip(action.key, f"it follows {left_out[0]}, which was left out")

    def _hold_back_the_rest(self) -> None:
        """Say of every lane that could not begin what it waits for."""
        for lane in self._lanes:
            action = lane.head()
            if lane.trouble is not None or action is None:
                continue
            blockers = self._blockers(action)
            if blockers:
                reason, cause = f"it waits for {self._what(blockers[0])}", "waits"
            else:
                reason = f"{self._engine.max_failures} others failed for one cause, so it was not begun"
                cause = "not-begun"
            lane.trouble = Trouble(
                action=action, reason=reason, remedy="It goes on with `resume` once that is settled.", cause=cause
            )

    def _what(self, key: str) -> str:
        action = self._actions.get(key)
        return action.describe() if action is not None else display(key)

    # -- acting: worker threads --

    def _advance(self, lane: _Lane) -> _Turn:
        """Go on with one lane until it is finished or must give its thread back."""
        lane.wake_at = 0.0
        while (action := lane.head()) is not None:
            if self._engine.stopping:
                return _Turn.STOPPED
            if not lane.detour and self._is_blocked(action):
                return _Turn.BLOCKED
            try:
                turn = self._act(lane, action)
            except ServiceError as error:
                turn = self._failed_look(lane, action, error)
            if turn is not None:
                return turn
            if lane.after_detour is not None and not lane.detour:
                lane.trouble, lane.after_detour = lane.after_detour, None
                return _Turn.PARKED
        return _Turn.FINISHED

    def _act(self, lane: _Lane, action: Action) -> _Turn | None:
        """Move one action one turn on (rows 3 to 8 of its life); None when the lane may go on at once."""
        seen = action.observe(self._world)
        status = self._settle_pending(lane, action, seen)
        match status:
            case Status.PRESENT:
                self._verified(lane, action, seen)
                return None
            case Status.PENDING:
                return _Turn.ASLEEP if lane.trouble is None else _Turn.PARKED
            case Status.CONFLICT:
                return self._conflict(lane, action, seen)
            case Status.TAINTED:
                return self._repair(lane, action, seen)
            case Status.ABSENT:
                return self._apply(lane, action, seen)

    def _verified(self, lane: _Lane, action: Action, seen: Observation) -> None:
        self._journal.append(Verified(key=action.key, evidence=dict(seen.evidence)))
        self._world.looked(action.key, None)
        lane.pending_since.pop(action.key, None)
        (lane.detour or lane.queue).popleft()
        self._engine.tell("verified", {"key": action.key, "what": action.describe(), "changes": action.changes})

    def _settle_pending(self, lane: _Lane, action: Action, seen: Observation) -> Status:
        """Bound a pending look: set when to look again, or say what it counts as now that its wait is over."""
        if seen.status is not Status.PENDING:
            self._world.looked(action.key, None)
            lane.pending_since.pop(action.key, None)
            return seen.status
        now = self._world.clock.monotonic()
        since = lane.pending_since.setdefault(action.key, now)
        looks = len(self._world.looks(action.key))
        self._world.looked(action.key, seen.evidence)
        limit = float(getattr(self._world.waits, seen.wait)) if seen.wait else float(self._world.waits.patience)
        left = since + limit - now
        if left <= 0 and looks:
            lane.pending_since.pop(action.key, None)
            self._world.looked(action.key, None)
            return seen.otherwise
        pause = seen.again_s or BACKOFF_S[min(looks, len(BACKOFF_S) - 1)]
        if pause > self._world.waits.patience or now - since > self._world.waits.patience:
            self._park(lane, action, seen.reason or "it needs more time than this run may wait", "time")
            return Status.PENDING
        lane.wake_at = now + max(0.0, min(pause, left) if seen.wait else pause)
        return Status.PENDING

    def _conflict(self, lane: _Lane, action: Action, seen: Observation) -> _Turn | None:
        """The premise is gone: undo what this action itself did, then stop the lane for a human."""
        attempts = self._world.past(action.key)
        last = attempts[-1] if attempts and not attempts[-1].reset else None
        # An intent without an end may have had its effect: the process that wrote it died.
        undoing = action.undo(last.applied or {}) if last is not None and last.failed != Effect.NONE else ()
        # Once: whoever switches it back afterwards had a reason. An intent alone has put nothing back.
        undone = last is not None and any(
            progress.seq > last.seq and progress.state in {"applied", "verified"}
            for progress in (self._journal.state.of(compensation.key) for compensation in undoing)
        )
        if undoing and not undone and not lane.detour:
            lane.detour = deque(undoing)
            lane.after_detour = self._trouble(action, f"{seen.reason}; it was undone at once", "conflict")
            self._observed(action, seen)
            return None
        self._observed(action, seen)
        self._park(lane, action, seen.reason, "conflict")
        return _Turn.PARKED

    def _observed(self, action: Action, seen: Observation) -> None:
        self._journal.append(
            Observed(key=action.key, status=seen.status.value, evidence=dict(seen.evidence), reason=seen.reason)
        )

    def _repair(self, lane: _Lane, action: Action, seen: Observation) -> _Turn | None:
        lane.repairs[action.key] += 1
        if lane.repairs[action.key] > REPAIRS_MAX:
            self._park(lane, action, f"{seen.reason}; it came back after {REPAIRS_MAX} repairs", "conflict")
            return _Turn.PARKED
        self._observed(action, seen)
        self._engine.tell("repair", {"key": action.key, "why": seen.reason})
        lane.detour.extendleft(reversed(action.repair(seen)))
        return None

    def _apply(self, lane: _Lane, action: Action, seen: Observation) -> _Turn | None:
        """Declare, then make the one remote change."""
        lane.tries[action.key] += 1
        if lane.tries[action.key] > ATTEMPTS_MAX:
            self._park(lane, action, f"it did not hold after {ATTEMPTS_MAX} tries", "retries", failed=True)
            return _Turn.PARKED
        embedded = action.key not in self._actions
        self._engine.declare(action, seen.evidence, embedded=embedded)
        try:
            evidence = action.apply(self._world)
        except ServiceError as error:
            self._journal.append(Failed(key=action.key, effect=error.effect.value, code=error.code))
            if error.effect is Effect.UNKNOWN:
                # Look, do not repeat: `observe` says whether it happened.
                return None
            return self._refused(lane, action, error)
        except CredentialsError as error:
            self._journal.append(Failed(key=action.key, effect=error.effect.value, code="Credentials"))
            raise
        self._journal.append(Applied(key=action.key, evidence=dict(evidence)))
        self._engine.tell("applied", {"key": action.key, "what": action.describe()})
        return None

    def _refused(self, lane: _Lane, action: Action, error: ServiceError) -> _Turn:
        if error.retryable and lane.tries[action.key] < ATTEMPTS_MAX:
            lane.wake_at = self._world.clock.monotonic() + BACKOFF_S[lane.tries[action.key] - 1]
            return _Turn.ASLEEP
        seen = self._look_after_refusal(action)
        if seen is not None and seen.status is Status.CONFLICT:
            # The refusal has its reason in the world, and that is what a human needs to know.
            return self._conflict(lane, action, seen) or _Turn.PARKED
        self._park(lane, action, error.message, error.code, failed=True, remedy=error.remedy)
        return _Turn.PARKED

    def _look_after_refusal(self, action: Action) -> Observation | None:
        try:
            return action.observe(self._world)
        except ServiceError:
            return None

    def _failed_look(self, lane: _Lane, action: Action, error: ServiceError) -> _Turn:
        """A read failed after the client's own retries: look again a few times, then ask."""
        name = f"look:{action.key}"
        lane.tries[name] += 1
        if error.retryable and lane.tries[name] <= ATTEMPTS_MAX:
            lane.wake_at = self._world.clock.monotonic() + BACKOFF_S[lane.tries[name] - 1]
            return _Turn.ASLEEP
        self._park(lane, action, error.message, error.code, failed=True, remedy=error.remedy)
        return _Turn.PARKED

    def _trouble(self, action: Action, reason: str, cause: str, *, failed: bool = False, remedy: str = "") -> Trouble:
        return Trouble(
            action=action,
            reason=reason,
            remedy=remedy or "Look at it, then `resume`.",
            cause=cause,
            failed=failed,
        )

    def _park(
        self, lane: _Lane, action: Action, reason: str, cause: str, *, failed: bool = False, remedy: str = ""
    ) -> None:
        lane.trouble = self._trouble(action, reason, cause, failed=failed, remedy=remedy)
        self._engine.tell("parked", {"key": action.key, "what": action.describe(), "why": reason})
