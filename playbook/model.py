"""The vocabulary of a playbook: steps ask and plan, actions observe and apply, operators answer and approve.

An `Action` is plain data with two verbs, `observe` (reads) and `apply` (writes). Skip, verify, resume, dry run and
undo are the engine composing those two, so an action never asks which mode it runs in.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from playbook.decoding import met
from playbook.errors import GuardError, JournalDamagedError
from playbook.ports import Evidence, Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.ports import View, World

T = TypeVar("T")


class Phase(StrEnum):
    """The phases of NIST SP 800-61."""

    PREPARATION = "preparation"
    ANALYSIS = "analysis"
    CONTAINMENT = "containment"
    ERADICATION = "eradication"
    RECOVERY = "recovery"
    POST_INCIDENT = "post-incident"


class Severity(StrEnum):
    """How sure we are that the secrets are in a stranger's hands; it decides the order."""

    CONFIRMED = "confirmed"
    """Misuse was seen: contain first, builds break."""
    EXPOSED = "exposed"
    """Readable by a stranger, no misuse seen: zero downtime."""
    ROUTINE = "routine"
    """Nothing happened: zero downtime, with long silence."""


class Strategy(StrEnum):
    """What becomes of one exposed key."""

    REPLACE = "replace"
    CONTAIN = "contain"
    DEACTIVATE = "deactivate"
    OIDC = "oidc"
    """Its jobs move to a role; the key goes off at the cut-over."""
    KEEP = "keep"


class Confidence(StrEnum):
    """How sure a correlation of a variable with a key is, weakest first."""

    UNKNOWN = "unknown"
    AMBIGUOUS = "ambiguous"
    TAIL_ONLY = "tail-only"
    STRONG = "strong"
    CONFIRMED = "confirmed"

    def reaches(self, least: Confidence) -> bool:
        """Whether this is at least as sure as `least`."""
        order = list(Confidence)
        return order.index(self) >= order.index(least)


class Status(StrEnum):
    """What the world shows of an action's effect."""

    ABSENT = "absent"
    """Not there: `apply` may be called."""
    PENDING = "pending"
    """Cannot tell yet (a list lags, a tail is absent, a gate is open): look again, never apply."""
    PRESENT = "present"
    """There, with evidence."""
    TAINTED = "tainted"
    """An orphan of ours must go first: see `Action.repair`."""
    CONFLICT = "conflict"
    """The plan's premise is gone: a human decides."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One look at the world on behalf of an action."""

    status: Status
    evidence: Evidence = field(default_factory=dict)
    reason: str = ""
    """A sentence for a person, for everything but PRESENT and ABSENT."""
    wait: str = ""
    """PENDING: the name of the wait (`ports.Waits`) that bounds it, counted from the first pending look."""
    again_s: float = 0
    """PENDING: seconds until another look can show anything new; 0 leaves it to the engine's back-off."""
    otherwise: Status = Status.CONFLICT
    """PENDING: what it counts as once the wait is over: CONFLICT asks a human, ABSENT applies again."""


@dataclass(frozen=True, kw_only=True)
class Action(ABC):
    """One change to one resource, as data; a subclass is a frozen dataclass with a stable `kind`.

    Fields are plain (text, numbers, tuples, dataclasses of `ports`), so that an action round-trips through the
    journal. `lane` names the resource: actions of one lane run in their order, lanes run side by side. `after`
    names actions in any lane that must be verified first. Ids that do not exist yet are symbols, such as the
    credential `new:123456789012/deploy-bot`; what they stand for is found through `View.past`.
    """

    kind: ClassVar[str]
    permissions: ClassVar[frozenset[str]] = frozenset()
    """The IAM actions it calls, for preflight and least privilege."""
    changes: ClassVar[bool] = True
    """False for a gate: it only looks, and `apply` is never called."""
    at_most_once: ClassVar[bool] = False
    """True for a create: its request is handed to the network once per durable intent."""
    provides: ClassVar[bool] = False
    """`apply` puts a secret into `held`, under `credential`."""
    needs: ClassVar[bool] = False
    """`apply` (or `observe`) needs the secret held under `credential`."""
    destroys: ClassVar[bool] = False
    """`apply` ends something that may work: it is listed and confirmed by count."""
    gate: ClassVar[str] = ""
    """The name under which a human may override it with a typed reason, such as `canary`; empty: nobody may."""

    credential: str = ""
    after: tuple[str, ...] = ()

    registry: ClassVar[dict[str, type[Action]]] = {}

    def __init_subclass__(cls) -> None:
        """Register the kind, by which the journal finds the class again."""
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            registered = Action.registry.setdefault(cls.kind, cls)
            # A dataclass with slots is made twice under one name; two different classes must not share a kind.
            if registered.__qualname__ != cls.__qualname__:
                raise TypeError(f"two actions are called {cls.kind!r}")
            Action.registry[cls.kind] = cls

    @property
    @abstractmethod
    def key(self) -> str:
        """The idempotency key, such as `iam:create-access-key:123456789012/deploy-bot`."""

    @property
    @abstractmethod
    def lane(self) -> str:
        """The resource: one IAM user, one pair of variables, one variable."""

    @property
    def attended(self) -> bool:
        """True when `apply` asks the human, so that it is done in the main thread before the lanes begin."""
        return False

    @property
    def subject(self) -> Mapping[str, str]:
        """The access key it is about (`user`, `account`, `id`), for what the answers file says of that key."""
        return {}

    @abstractmethod
    def describe(self) -> str:
        """Say in one line what would change, for a person who is about to approve it."""

    @abstractmethod
    def observe(self, view: View) -> Observation:
        """Say what AWS and CircleCI show of this action's effect. Reads only."""

    @abstractmethod
    def apply(self, world: World) -> Evidence:
        """Make the one remote change; safe to call again whenever `observe` says ABSENT. Removes nothing else."""

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        """Compensate from what `Applied` kept (empty if only the intent is known); nothing, if there is no way."""
        del done
        return ()

    def repair(self, seen: Observation) -> tuple[Action, ...]:
        """TAINTED: what must go before `apply`."""
        del seen
        return ()

    def park(self, done: Evidence) -> tuple[Action, ...]:
        """What makes an applied but unused effect harmless before the run stops for a human, reversibly."""
        del done
        return ()

    def holds(self, view: View, made: Evidence) -> bool:
        """Whether this action's sink holds (or may hold) what the provider made; an unreadable sink may."""
        del view, made
        return False

    def data(self) -> dict[str, Json]:
        """The action as plain data: its kind and its fields."""
        plain: dict[str, Json] = msgspec.to_builtins({item.name: getattr(self, item.name) for item in _fields(self)})
        return {"kind": self.kind, **plain}

    def digest(self) -> str:
        """SHA-256 over kind, key, lane, `after` and fields: what an approval binds."""
        document = {"key": self.key, "lane": self.lane, **self.data()}
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fields(action: Action) -> Iterable[Any]:
    return fields(action)


def action_from_data(data: Mapping[str, Any]) -> Action:
    """Build an action from the journal's plain data, strictly: an unknown kind or field is damage."""
    kind = data.get("kind")
    cls = Action.registry.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise JournalDamagedError(
            f"The journal plans an action of a kind this version does not know: {kind!r}.",
            remedy="Use the version that wrote the case (its first record names it). Nothing was changed.",
        )
    try:
        action = msgspec.convert({name: value for name, value in data.items() if name != "kind"}, met(cls))
    except msgspec.ValidationError as error:
        why = str(error)
    else:
        # A dataclass takes a field it does not know, or one that is missing, without a word.
        if json.dumps(action.data(), sort_keys=True) == json.dumps(data, sort_keys=True):
            return action
        why = "fields are missing, or unknown to this version"
    raise JournalDamagedError(
        f"The journal plans a {kind} whose fields do not fit: {why}.",
        remedy="Use the version that wrote the case (its first record names it). Nothing was changed.",
    )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something a responder must know: it goes into the talk, the report and the journal."""

    level: str
    """`danger`, `warning` or `note`."""
    text: str
    due_at: str = ""
    """ISO 8601, when it only falls due later."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step wants done, as data; building one checks that it can be carried out."""

    step: str
    actions: tuple[Action, ...] = ()
    findings: tuple[Finding, ...] = ()
    attachment: tuple[str, ...] = ()
    """Lines of JSON kept beside the journal (the inventory), bound to it by their digest."""

    def __post_init__(self) -> None:
        by_key: dict[str, Action] = {}
        for action in self.actions:
            if action.key in by_key:
                raise GuardError(
                    f"The plan of {self.step} holds two actions with the key {action.key}.",
                    remedy="This is a bug; nothing was changed. Report it with the plan.",
                )
            by_key[action.key] = action
        before = _before(self.step, self.actions)
        provided: dict[str, frozenset[str]] = {}
        for action in _ordered(self.step, self.actions, before):
            earlier = frozenset[str]().union(*(provided[key] for key in before[action.key]))
            provided[action.key] = earlier | {action.credential} if action.provides else earlier
            if action.needs and action.credential not in earlier:
                raise GuardError(
                    f"The plan of {self.step} uses {action.credential} in {action.key} before anything provides it.",
                    remedy="This is a bug; nothing was changed. Report it with the plan.",
                )

    def sagas(self) -> tuple[tuple[Action, ...], ...]:
        """The actions in the order in which they are carried out, those that hang together side by side.

        A saga is what one lane, `after` or both tie together: a key with all its places.
        """
        before = _before(self.step, self.actions)
        return tuple(tuple(_ordered(self.step, group, before)) for group in tied_together(self.actions))

    def digest(self) -> str:
        """SHA-256 over the actions; findings, evidence and times do not count."""
        together = "\n".join(sorted(action.digest() for action in self.actions))
        return "sha256:" + hashlib.sha256(f"{self.step}\n{together}".encode()).hexdigest()


def tied_together(actions: Sequence[Action]) -> list[list[Action]]:
    """Split actions into groups that share no lane and do not wait for one another, in order of first appearance."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for action in actions:
        for name in (f"lane {action.lane}", *action.after):
            leader[find(name)] = find(action.key)
    groups: dict[str, list[Action]] = {}
    for action in actions:
        groups.setdefault(find(action.key), []).append(action)
    return list(groups.values())


def _before(step: str, actions: Sequence[Action]) -> dict[str, list[str]]:
    """By action: those that must be verified first, its own lane's last one among them."""
    by_key = {action.key: action for action in actions}
    before: dict[str, list[str]] = {}
    last_of_lane: dict[str, str] = {}
    for action in actions:
        missing = [name for name in action.after if name not in by_key]
        if missing:
            raise GuardError(
                f"The plan of {step} makes {action.key} wait for {missing[0]}, which it does not hold.",
                remedy="This is a bug; nothing was changed. Report it with the plan.",
            )
        before[action.key] = [*action.after, *([last_of_lane[action.lane]] if action.lane in last_of_lane else [])]
        last_of_lane[action.lane] = action.key
    return before


def _ordered(step: str, actions: Sequence[Action], before: Mapping[str, Sequence[str]]) -> list[Action]:
    """Order the actions so that each comes after those it waits for, or refuse a cycle."""
    done: list[Action] = []
    placed: set[str] = set()
    waiting = list(actions)
    while waiting:
        ready = [action for action in waiting if all(name in placed for name in before[action.key])]
        if not ready:
            raise GuardError(
                f"The plan of {step} waits for itself: {', '.join(action.key for action in waiting[:3])}.",
                remedy="This is a bug; nothing was changed. Report it with the plan.",
            )
        done += ready
        placed.update(action.key for action in ready)
        waiting = [action for action in waiting if action.key not in placed]
    return done


# --- Questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer that may be picked."""

    value: str
    title: str
    declines: bool = False
    """Picking it is no answer: the run stops with nothing changed, and the question is asked again next time."""


@dataclass(frozen=True, kw_only=True)
class Question(Generic[T]):
    """A question as data; a secret is never an answer."""

    id: str
    """Unique in the case, such as `incident.severity` or `keys.strategy:123456789012/ci/AKIA...`."""
    prompt: str
    kind: type[T]
    """`str`, `bool` or `tuple` (several choices)."""
    answer_key: str
    """The answers file's key: `incident.severity`; `keys.strategy` and `variables.value_from` are looked up in the
    first `[[keys]]` or `[[variables]]` whose `match` fits `subject`."""
    subject: Mapping[str, str] = field(default_factory=dict)
    """What `match` is compared with: user, account, id; or name, context, project."""
    choices: tuple[Choice, ...] = ()
    """Empty: free text."""
    open_choices: bool = False
    """True: a text that is no choice is an answer too."""
    default: T | None = None
    """The safe answer; None: there is none, and batch stops."""
    proposal: T | None = None
    """What the wizard preselects; batch never takes it."""
    detail: Mapping[str, str] = field(default_factory=dict)
    """Columns for the wizard's table."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Choices that a guard rules out here, each with the sentence that says why and what to do instead."""
    optional: bool = False
    """True: nobody is bothered; the default counts unless an answers file says otherwise."""


class Ask(Protocol):
    """How a step asks."""

    def __call__(self, question: Question[T]) -> T:
        """One answer."""
        ...

    def all(self, questions: Sequence[Question[T]]) -> list[T]:
        """Answers to questions of one kind, which the wizard shows as one table."""
        ...


def override_question(action: Action) -> Question[str]:
    """Why a gate may be passed that did not open; there is no default, and the reason is kept."""
    return Question(
        id=f"gates.reason:{action.key}",
        prompt=f"Why may this be passed: {action.describe()}?",
        kind=str,
        answer_key="keys.reason",
        subject=action.subject,
    )


class Recovery(StrEnum):
    """What to do when a new key's secret is lost and some sinks already hold the key (`invariants` 2.4)."""

    STOP = "stop"
    """Leave everything as it is; the lane waits."""
    REWRITE_SWITCHED = "rewrite-switched"
    """Free the new key's slot: the switched sinks are down until they are written again, first of all."""
    CUT_OLD = "cut-old"
    """Free the old key's slot: the sinks not yet switched are down until they are written, the old key dies now."""


class Recourse(StrEnum):
    """What to do about a lane in trouble."""

    RETRY = "retry"
    SKIP = "skip"
    ABORT = "abort"
    OVERRIDE = "override"
    """A gate is passed for a reason that is typed and journaled; for an `Action.gate` alone."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a lane stands still, for the operator and the closing table."""

    action: Action
    reason: str
    remedy: str
    still_on: str = ""
    """What is live because of it, in words."""
    cause: str = ""
    """A short name that equal causes share, such as `AccessDenied`."""
    failed: bool = False
    """True: it was tried and refused; False: it waits, for a human, a gate or a time."""


class Operator(Protocol):
    """The human, or the file standing in for one. Called from the main thread only."""

    def answer(self, question: Question[T]) -> T:
        """One answer, valid for the question. Raises `MissingAnswerError` when there is none."""
        ...

    def answer_all(self, questions: Sequence[Question[T]]) -> list[T]:
        """Several of one kind."""
        ...

    def approve(self, plan: Plan) -> bool:
        """Whether this plan, not approved before, may be carried out."""
        ...

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        """Choose who breaks: `action` made the key, `switched` hold it, `unswitched` hold the old one."""
        ...

    def recourse(self, trouble: Trouble) -> Recourse:
        """Choose what to do about a lane in trouble."""
        ...


# --- Steps and cases ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """The answers and findings so far: a fold of the journal, never written by a step."""

    id: str
    answers: Mapping[str, Json] = field(default_factory=dict)
    inventory: tuple[str, ...] = ()
    """The lines that the inventory step attached."""
    done: frozenset[str] = frozenset()
    """The steps that ended."""
    verified: frozenset[str] = frozenset()
    """The keys of the actions that are verified."""
    unsettled: tuple[str, ...] = ()
    """The keys of planned actions that are neither verified nor skipped."""
    applied: tuple[tuple[Action, Evidence], ...] = ()
    """What the case changed and has not put back, newest first, with what each `Applied` kept (empty when only the
    intent is known). Only for a step that `reviews`."""


class Step(ABC):
    """One step of the playbook. It may ask and look; it cannot touch."""

    id: ClassVar[str]
    title: ClassVar[str]
    phase: ClassVar[Phase]
    kinds: ClassVar[tuple[type[Action], ...]] = ()
    """The actions it may plan."""
    closing: ClassVar[bool] = False
    """True: it begins only when every earlier step is done, because it speaks of the whole."""
    reviews: ClassVar[bool] = False
    """True: its plan is made from what the case did (`Case.applied`)."""

    @abstractmethod
    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Say what this step would change, given the world, the case and the answers."""
