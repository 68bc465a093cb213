"""The lanes of one step: what runs side by side, the life of one action, and what a lane in trouble waits for.

Lanes run on threads and never talk to the operator: a lane that needs a human parks, and the main thread asks, one
question at a time. `docs/architecture.md` tells the life of one action, `Lanes._act`, in words.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from playbook.errors import CredentialsError, Effect, ServiceError
from playbook.journal import this_host
from playbook.model import Action, Observation, Recourse, Status, Trouble, override_question, tied_together
from playbook.ports import display
from playbook.records import Applied, Approved, Failed, Observed, Reset, Skipped, Verified

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.journal import Journal
    from playbook.model import Operator
    from playbook.world import CaseWorld

Tell: TypeAlias = Callable[[str, "Mapping[str, Any]"], None]

ATTEMPTS_MAX: Final = 5
"""Durable intents of one action before a human is asked: a retry loop has a budget (L1)."""
REPAIRS_MAX: Final = 3
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 10.0)
SETTLED: Final = frozenset({"verified", "skipped"})


class Interrupted(Exception):  # noqa: N818  # not an error: the responder asked, and the case can be resumed
    """The run was asked to stop; every call in flight was finished and journaled."""


class Run(Protocol):
    """What lanes need of the engine that runs them."""

    journal: Journal
    world: CaseWorld
    parallel: int
    pilot: int
    max_failures: int
    tell: Tell
    executor: Callable[[int], Executor]
    stopping: bool

    @property
    def operator(self) -> Operator:
        """Whom the main thread asks."""
        ...

    def stop(self) -> None:
        """Ask the lanes to finish the call in flight and start nothing new."""
        ...

    def declare(self, action: Action, basis: Mapping[str, Any], *, embedded: bool) -> None:
        """Put the intent on disk."""
        ...


def by_lane(actions: Sequence[Action]) -> list[Action]:
    """Bring the actions of each lane together, lanes in order of first appearance."""
    order: dict[str, int] = {}
    for action in actions:
        order.setdefault(action.lane, len(order))
    return sorted(actions, key=lambda action: order[action.lane])


class Turn(Enum):
    """Why a lane gave its thread back."""

    FINISHED = auto()
    BLOCKED = auto()
    ASLEEP = auto()
    PARKED = auto()
    STOPPED = auto()


@dataclass(kw_only=True)
class Pending:
    """Since when an action says "not yet"; what it waits for may change (first a job, then its results)."""

    since: float
    wait: str
    wait_since: float


@dataclass(kw_only=True)
class Lane:
    """One lane's queue and how it stands in this process; the journal knows the rest."""

    name: str
    queue: deque[Action]
    group: int = 0
    wake_at: float = 0.0
    trouble: Trouble | None = None
    detour: deque[Action] = field(default_factory=deque)
    """Repairs or undoing, before the queue goes on."""
    after_detour: Trouble | None = None
    pending: dict[str, Pending] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)

    def head(self) -> Action | None:
        """The action that is due: a detour's before the queue's."""
        return self.detour[0] if self.detour else (self.queue[0] if self.queue else None)


class Lanes:
    """The lanes of one step, from where the journal stands until each is finished or parked."""

    def __init__(self, engine: Run, actions: Sequence[Action], *, stuck: Mapping[str, Trouble], piloted: bool) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._world = engine.world
        self._actions = {action.key: action for action in actions}
        self._piloted = piloted
        self._groups: dict[int, list[Lane]] = {}
        self._open_groups: list[int] = []
        self._parked: list[Lane] = []
        self._lanes = [
            Lane(name=name, queue=deque(action for action in members if not self._is_settled(action.key)))
            for name, members in groupby(by_lane(actions), key=lambda action: action.lane)
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
            running: dict[Future[Turn], Lane] = {}
            try:
                self._loop(pool, running)
            except BaseException:
                self._engine.stop()
                wait(running)
                raise
        return [lane.trouble for lane in self._lanes if lane.trouble is not None]

    def _loop(self, pool: Executor, running: dict[Future[Turn], Lane]) -> None:
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

    def _asleep(self, admitted: Sequence[Lane]) -> list[Lane]:
        return [lane for lane in admitted if lane.trouble is None and lane.head() is not None and lane.wake_at]

    def _ready(self, admitted: Sequence[Lane], busy: set[int], now: float) -> list[Lane]:
        return [
            lane
            for lane in admitted
            if id(lane) not in busy
            and lane.trouble is None
            and (action := lane.head()) is not None
            and lane.wake_at <= now
            and (lane.detour or not self._is_blocked(action))
        ]

    def _admitted(self) -> list[Lane]:
        """The lanes let in now: the pilot's alone first, then `parallel` groups, none new after too many failures.

        Only as many groups are looked at as are let in, so that a turn costs the same with ten keys and ten thousand.
        """
        limit = self._engine.parallel
        pilots = self._engine.pilot if self._piloted else 0
        begun_only = self._too_many_failures()
        admitted: list[Lane] = []
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

    def _is_moving(self, lane: Lane) -> bool:
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
                if action.gate and action.changes:
                    # What it saw stays as it was: only a new try can see something else.
                    self._journal.append(
                        Reset(keys=[action.key], lost="", reason="tried again at the responder's word")
                    )
                lane.trouble, lane.wake_at = None, 0.0
                lane.pending.clear()
                lane.tries.clear()
                lane.repairs.clear()
                moved = True
            elif recourse is Recourse.SKIP:
                # A repair in trouble is in no plan: what is left out is the action that it was to make room for.
                lane.detour.clear()
                self._skip(lane.queue[0].key, f"left out by the responder: {lane.trouble.reason}")
                lane.trouble, moved = None, True
            elif recourse is Recourse.OVERRIDE and action.gate:
                self._override(lane, action, lane.trouble)
                moved = True
        return moved

    def _override(self, lane: Lane, action: Action, trouble: Trouble) -> None:
        """Pass a gate for a reason that somebody typed: the reason is an answer, so it is in the journal before."""
        reason = self._engine.operator.answer(override_question(action))
        approved = Approved(subject=f"override:{action.key}", digest=action.digest(), by="operator", host=this_host())
        self._journal.append(approved)
        self._verified(
            lane,
            action,
            Observation(
                status=Status.PRESENT, evidence={"overridden": True, "reason": reason, "instead_of": trouble.reason}
            ),
        )
        lane.trouble, lane.wake_at = None, 0.0

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

    def _advance(self, lane: Lane) -> Turn:
        """Go on with one lane until it is finished or must give its thread back."""
        lane.wake_at = 0.0
        while (action := lane.head()) is not None:
            if self._engine.stopping:
                return Turn.STOPPED
            if not lane.detour and self._is_blocked(action):
                return Turn.BLOCKED
            try:
                turn = self._act(lane, action)
            except ServiceError as error:
                turn = self._failed_look(lane, action, error)
            if turn is not None:
                return turn
            if lane.after_detour is not None and not lane.detour:
                lane.trouble, lane.after_detour = lane.after_detour, None
                return Turn.PARKED
        return Turn.FINISHED

    def _act(self, lane: Lane, action: Action) -> Turn | None:
        """Move one action one turn on (rows 3 to 8 of its life); None when the lane may go on at once."""
        seen = action.observe(self._world)
        status = self._settle_pending(lane, action, seen)
        match status:
            case Status.PRESENT:
                self._verified(lane, action, seen)
                return None
            case Status.PENDING:
                return Turn.ASLEEP if lane.trouble is None else Turn.PARKED
            case Status.CONFLICT:
                return self._conflict(lane, action, seen)
            case Status.TAINTED:
                return self._repair(lane, action, seen)
            case Status.ABSENT:
                return self._apply(lane, action, seen)

    def _verified(self, lane: Lane, action: Action, seen: Observation) -> None:
        self._journal.append(Verified(key=action.key, evidence=dict(seen.evidence)))
        self._world.looked(action.key, None)
        lane.pending.pop(action.key, None)
        (lane.detour or lane.queue).popleft()
        self._engine.tell("verified", {"key": action.key, "what": action.describe(), "changes": action.changes})

    def _settle_pending(self, lane: Lane, action: Action, seen: Observation) -> Status:
        """Bound a pending look: set when to look again, or say what it counts as now that its wait is over."""
        if seen.status is not Status.PENDING:
            self._world.looked(action.key, None)
            lane.pending.pop(action.key, None)
            return seen.status
        now = self._world.clock.monotonic()
        pending = lane.pending.setdefault(action.key, Pending(since=now, wait=seen.wait, wait_since=now))
        if pending.wait != seen.wait:
            pending.wait, pending.wait_since = seen.wait, now
        looks = len(self._world.looks(action.key))
        self._world.looked(action.key, seen.evidence)
        limit = float(getattr(self._world.waits, seen.wait)) if seen.wait else float(self._world.waits.patience)
        left = pending.wait_since + limit - now
        if left <= 0 and looks:
            lane.pending.pop(action.key, None)
            self._world.looked(action.key, None)
            return seen.otherwise
        pause = seen.again_s or BACKOFF_S[min(looks, len(BACKOFF_S) - 1)]
        if pause > self._world.waits.patience or now - pending.since > self._world.waits.patience:
            self._park(lane, action, seen.reason or "it needs more time than this run may wait", "time")
            return Status.PENDING
        lane.wake_at = now + max(0.0, min(pause, left) if seen.wait else pause)
        return Status.PENDING

    def _conflict(self, lane: Lane, action: Action, seen: Observation) -> Turn | None:
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
        return Turn.PARKED

    def _observed(self, action: Action, seen: Observation) -> None:
        self._journal.append(
            Observed(key=action.key, status=seen.status.value, evidence=dict(seen.evidence), reason=seen.reason)
        )

    def _repair(self, lane: Lane, action: Action, seen: Observation) -> Turn | None:
        lane.repairs[action.key] += 1
        if lane.repairs[action.key] > REPAIRS_MAX:
            self._park(lane, action, f"{seen.reason}; it came back after {REPAIRS_MAX} repairs", "conflict")
            return Turn.PARKED
        self._observed(action, seen)
        self._engine.tell("repair", {"key": action.key, "why": seen.reason})
        lane.detour.extendleft(reversed(action.repair(seen)))
        return None

    def _apply(self, lane: Lane, action: Action, seen: Observation) -> Turn | None:
        """Declare, then make the one remote change."""
        lane.tries[action.key] += 1
        if lane.tries[action.key] > ATTEMPTS_MAX:
            self._park(lane, action, f"it did not hold after {ATTEMPTS_MAX} tries", "retries", failed=True)
            return Turn.PARKED
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

    def _refused(self, lane: Lane, action: Action, error: ServiceError) -> Turn:
        if error.retryable and lane.tries[action.key] < ATTEMPTS_MAX:
            lane.wake_at = self._world.clock.monotonic() + BACKOFF_S[lane.tries[action.key] - 1]
            return Turn.ASLEEP
        seen = self._look_after_refusal(action)
        if seen is not None and seen.status is Status.CONFLICT:
            # The refusal has its reason in the world, and that is what a human needs to know.
            return self._conflict(lane, action, seen) or Turn.PARKED
        self._park(lane, action, error.message, error.code, failed=True, remedy=error.remedy)
        return Turn.PARKED

    def _look_after_refusal(self, action: Action) -> Observation | None:
        try:
            return action.observe(self._world)
        except ServiceError:
            return None

    def _failed_look(self, lane: Lane, action: Action, error: ServiceError) -> Turn:
        """A read failed after the client's own retries: look again a few times, then ask."""
        name = f"look:{action.key}"
        lane.tries[name] += 1
        if error.retryable and lane.tries[name] <= ATTEMPTS_MAX:
            lane.wake_at = self._world.clock.monotonic() + BACKOFF_S[lane.tries[name] - 1]
            return Turn.ASLEEP
        self._park(lane, action, error.message, error.code, failed=True, remedy=error.remedy)
        return Turn.PARKED

    def _trouble(self, action: Action, reason: str, cause: str, *, failed: bool = False, remedy: str = "") -> Trouble:
        return Trouble(
            action=action,
            reason=reason,
            remedy=remedy or "Look at it, then `resume`.",
            cause=cause,
            failed=failed,
        )

    def _park(
        self, lane: Lane, action: Action, reason: str, cause: str, *, failed: bool = False, remedy: str = ""
    ) -> None:
        lane.trouble = self._trouble(action, reason, cause, failed=failed, remedy=remedy)
        self._engine.tell("parked", {"key": action.key, "what": action.describe(), "why": reason})
