"""Builds a world, an operator and a journal, and binds them into a run: the only file that knows modes exist.

Two independent choices make every mode: which world (live, or a twin in memory) and which operator (a human, or an
answers file). Every run first walks all steps on a twin of its world; the walk only reads, asks every question, and
shows every change. What was walked is what may be done.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from playbook import __version__
from playbook.decoding import met
from playbook.engine import Engine, Outcome
from playbook.errors import DeclinedError, GuardError, MissingAnswerError, UsageError
from playbook.journal import Journal, opened, this_host
from playbook.lanes import Tell
from playbook.model import Action, Plan, Recourse, Recovery, action_from_data
from playbook.operators.transcript import Transcript
from playbook.ports import Platforms, Waits
from playbook.records import Answered, Approved, Opened
from playbook.scope import ask_scope
from playbook.secret import Secret
from playbook.world import CaseWorld

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from playbook.model import Operator, Question, Step, Trouble
    from playbook.ports import Json

PLAN_FILE: Final = "plan.jsonl"


class Mode(StrEnum):
    """What a case was opened for; a case is never resumed in another mode."""

    LIVE = "live"
    REHEARSAL = "rehearsal"
    DRY_RUN = "dry-run"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to connect and how to run: kept in the case, so that `resume` needs none of it again. No secrets."""

    profiles: tuple[str, ...] = ()
    role_arns: tuple[str, ...] = ()
    organization_role: str = ""
    region: str = ""
    circleci_host: str = ""
    circleci_token_file: str = ""
    allow_endpoint_override: bool = False
    organizations: tuple[str, ...] = ()
    waits: Mapping[str, int] | None = None
    parallel: int = 16
    pilot: int = 1
    max_failures: int = 3
    scenario: str = ""
    inject: tuple[str, ...] = ()
    answers: str = ""
    """The answers file of a batch run, which `resume` reads again."""

    def to_json(self) -> dict[str, Any]:
        """As plain data for the case's first record."""
        return {name: value for name, value in msgspec.to_builtins(asdict(self)).items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Read back what `to_json` wrote, strictly."""
        try:
            return msgspec.convert(dict(data), met(cls))
        except msgspec.ValidationError:
            raise UsageError(
                "The settings in the case's first record are not those of this version.",
                remedy="Use the version that wrote the case. Nothing was changed.",
            ) from None


class LiveClock:
    """The machine's clock, whose sleep ends at once when the run is asked to stop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def now(self) -> datetime:
        """The local time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait, or return early when stopped."""
        self.stopped.wait(seconds)


# --- Worlds ---------------------------------------------------------------------------------------------------------


def connect(
    settings: Settings, token: Secret | None, *, case: str, ask_secret: Callable[[str], Secret] | None
) -> Platforms:
    """The live world: boto3 and httpx behind the ports."""
    if os.environ.get("SSLKEYLOGFILE"):
        raise UsageError(
            "SSLKEYLOGFILE is set: the TLS library would write its session keys to a file. Nothing was read.",
            remedy="Unset it and start again.",
        )
    from playbook.clients.aws import connect as connect_aws  # noqa: PLC0415  # boto3 costs 0.2 s; `--help` does without
    from playbook.clients.circleci import CircleCiClient  # noqa: PLC0415  # as above, for httpx
    from playbook.clients.values import check_source, obtain  # noqa: PLC0415  # belongs to the live world alone

    aws = connect_aws(
        profiles=settings.profiles,
        role_arns=settings.role_arns,
        organization_role=settings.organization_role,
        region=settings.region or None,
        parallel=settings.parallel,
        case_id=case,
        allow_endpoint_override=settings.allow_endpoint_override,
    )
    circleci = CircleCiClient(host=settings.circleci_host, token=token or Secret("none"), parallel=settings.parallel)

    def close() -> None:
        circleci.close()
        aws.close()

    return Platforms(
        aws=aws.accounts,
        circleci=circleci,
        clock=LiveClock(),
        identify=aws.identify,
        obtain=lambda source: obtain(source, os.environ, ask_secret),
        accepts=aws.accepts,
        check_source=lambda source: check_source(source, os.environ, attended=ask_secret is not None),
        close=close,
        unopened=aws.unopened,
        notes=aws.notes,
    )


def rehearsal(settings: Settings, folder: Path) -> Platforms:
    """A scenario's twin, kept in the case folder so that a killed rehearsal resumes."""
    from playbook.twins.faults import Faults, parse  # noqa: PLC0415  # only a rehearsal needs twins
    from playbook.twins.scenario import load  # noqa: PLC0415  # as above
    from playbook.twins.world import TwinWorld  # noqa: PLC0415  # as above

    path = folder / "world.json"
    faults = Faults([parse(text) for text in settings.inject]) if settings.inject else None
    if path.exists():
        return TwinWorld.load(path, faults=faults).platforms()
    return TwinWorld(load(settings.scenario).state, path=path, faults=faults).platforms()


# --- Cases ----------------------------------------------------------------------------------------------------------


def open_case(folder: Path, mode: Mode, settings: Settings) -> Journal:
    """Lock the folder; begin a case in it, or go on with the one of the same mode that it holds."""
    journal = Journal.open(folder)
    if journal.state.opened is None:
        journal.append(
            Opened(
                case=secrets.token_hex(8),
                tool=f"rotation-playbook {__version__}",
                mode=mode.value,
                host=this_host(),
                settings=settings.to_json(),
            )
        )
        return journal
    found = opened(journal.state).mode
    if found != mode.value:
        journal.close()
        raise UsageError(
            f"The case in {folder} is a {found}, not a {mode.value}; the one is never continued as the other.",
            remedy="Name another folder with --case. Nothing was changed.",
        )
    return journal


def journaled(operator: Operator, journal: Journal, *, batch: bool = False) -> Transcript:
    """An operator whose answers are kept in the journal and not asked twice.

    Until the run is approved an answers file may be corrected: what it says now counts, not what it said before.
    """

    def record(question: Question[Any], value: Json) -> None:
        journal.append(
            Answered(id=question.id, answer_key=question.answer_key, subject=dict(question.subject), value=value)
        )

    binding = not batch or "run" in journal.state.approvals
    recorded = {key: answer.value for key, answer in journal.state.answers.items()} if binding else {}
    return Transcript(operator, recorded, record)


# --- The walk -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What a run would do: every step's plan, walked on a twin."""

    plans: tuple[Plan, ...]
    outcome: Outcome
    unproved: tuple[str, ...]
    """What the twin cannot show of the live world."""

    @property
    def actions(self) -> tuple[tuple[str, Action], ...]:
        """Every action with its step."""
        return tuple((plan.step, action) for plan in self.plans for action in plan.actions)

    @property
    def changes(self) -> tuple[tuple[str, Action], ...]:
        """The actions that change something, in order."""
        return tuple((step, action) for step, action in self.actions if action.changes)

    @property
    def digest(self) -> str:
        """What `--approve` names: the hash of the list of steps and their digests."""
        lines = "\n".join(f"{plan.step} {plan.digest()}" for plan in self.plans)
        return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()

    def as_plan(self) -> Plan:
        """All of it as one plan, for the operator to approve."""
        return Plan(
            step="run",
            actions=tuple(action for _, action in self.actions),
            findings=self.outcome.findings,
        )

    def to_lines(self) -> tuple[str, ...]:
        """The reviewed list for the case's `plan.jsonl`."""
        return tuple(
            json.dumps({"step": step, "digest": action.digest(), "what": action.describe(), "action": action.data()})
            for step, action in self.actions
        )

    def document(self) -> dict[str, Any]:
        """The change list as JSON (schema 1)."""
        return {
            "schema": 1,
            "digest": self.digest,
            "changes": [
                {
                    "step": step,
                    "key": action.key,
                    "kind": action.kind,
                    "lane": action.lane,
                    "what": action.describe(),
                    "destroys": action.destroys,
                }
                for step, action in self.changes
            ],
            "findings": [{"level": item.level, "text": item.text} for item in self.outcome.findings],
            "waits": [
                {"key": trouble.action.key, "why": trouble.reason, "remedy": trouble.remedy}
                for trouble in self.outcome.troubles
            ],
            "cannot_prove": list(self.unproved),
        }


class _Walker:
    """Asks the real operator every question, and says yes to every plan: on a twin nothing can break."""

    def __init__(self, inner: Operator) -> None:
        self.answer = inner.answer
        self.answer_all = inner.answer_all

    def approve(self, plan: Plan) -> bool:
        """Yes."""
        del plan
        return True

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        """Never needed: the walk is not killed."""
        del action, switched, unswitched
        return Recovery.STOP

    def recourse(self, trouble: Trouble) -> Recourse:
        """Leave it, and say so in the walk."""
        del trouble
        return Recourse.ABORT


def walk(  # noqa: PLR0917  # a world, what is walked there, and who answers
    platforms: Platforms,
    steps: Sequence[Step],
    operator: Operator,
    settings: Settings,
    waits: Waits,
    tell: Tell | None = None,
) -> Walk:
    """Walk every step on a twin of this world; the world itself is only read."""
    from playbook.twins.seed import mirror  # noqa: PLC0415  # twins are not loaded by commands that only look

    memory = Journal(now=platforms.clock.now)
    real = CaseWorld(platforms, memory, waits=waits, parallel=settings.parallel)
    for account in real.accounts:
        real.aws(account).identity()
    real.circleci.login()
    organizations = ask_scope(real, _OneByOne(operator))
    twin = mirror(
        platforms,
        accounts=real.accounts,
        organizations=[organization.slug for organization in organizations],
        gather=real.gather,
    )
    memory.append(
        Opened(case="walk", tool=f"rotation-playbook {__version__}", mode=Mode.DRY_RUN.value, host=this_host())
    )
    engine = Engine(
        memory,
        replace(twin.platforms(), unopened=platforms.unopened),
        _Walker(operator),
        waits=waits,
        parallel=1,
        pilot=settings.pilot,
        max_failures=settings.max_failures,
        tell=tell or (lambda _event, _fields: None),
    )
    outcome = engine.run(steps)
    plans = tuple(plan for step in steps if (plan := engine.recorded_plan(step.id)) is not None)
    return Walk(plans=plans, outcome=outcome, unproved=_unproved(platforms, plans))


class _OneByOne:
    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def __call__(self, question: Question[Any]) -> Any:
        return self._operator.answer(question)

    def all(self, questions: Sequence[Question[Any]]) -> list[Any]:
        return self._operator.answer_all(questions)


def _unproved(platforms: Platforms, plans: Sequence[Plan]) -> tuple[str, ...]:
    said = [
        "that the stored pairs work today: CircleCI never shows a secret, so the twin has not seen one",
        "that a job finds the new key where it looks: a job's inline config and shadowing variables are not read",
    ]
    wanted = sorted({name for plan in plans for action in plan.actions for name in action.permissions})
    for account, aws in sorted(platforms.aws.items()):
        allowed = aws.simulate(wanted) if wanted else {}
        if allowed is None:
            said.append(f"that {account} lets us do it: our permissions there cannot be asked")
        elif denied := [name for name, yes in sorted(allowed.items()) if not yes]:
            said.append(f"that {account} lets us do it: IAM says it would deny {', '.join(denied)}")
    return tuple(said)


# --- The run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Approval:
    """How a run is approved off the keyboard: a digest that was reviewed, or `yes` to whatever the plan is now."""

    digest: str = ""
    yes: bool = False
    batch: bool = False


def approve_run(
    journal: Journal, walked: Walk, operator: Operator, approval: Approval
) -> dict[str, tuple[Action, ...]]:
    """Have the walked plan approved and journal it; answer, by step, the actions that may be done."""
    if approval.digest and approval.digest != walked.digest:
        raise GuardError(
            f"The plan is now {walked.digest}, and {approval.digest} was approved. Nothing was changed.",
            remedy="Review the plan again with `run --dry-run`, then approve its digest.",
        )
    if approval.digest:
        by = "digest"
    elif approval.yes:
        by = "yes"
    elif approval.batch:
        raise MissingAnswerError(
            f"The plan {walked.digest} is not approved. Nothing was changed.",
            answer_key="approve.digest",
            remedy=f'Review it with `run --dry-run`, then add `[approve] digest = "{walked.digest}"` to the answers '
            "file, or pass --approve with it, or --yes.",
        )
    elif not operator.approve(walked.as_plan()):
        raise DeclinedError("The plan was declined. Nothing was changed.", remedy="`resume` asks again.")
    else:
        by = "typed"
    attachment = journal.attach(PLAN_FILE, walked.to_lines())
    journal.append(Approved(subject="run", digest=walked.digest, by=by, host=this_host(), attachment=attachment))
    return {plan.step: plan.actions for plan in walked.plans}


def approved_before(journal: Journal, operator: Operator, approval: Approval) -> dict[str, tuple[Action, ...]] | None:
    """By step, the actions approved earlier in this case, or None when the run was not approved yet.

    An approval counts on the machine that gave it. On another one the same list is put to the operator again: a
    journal that was copied or forged must not choose where a secret goes.
    """
    found = journal.state.approvals.get("run")
    if found is None:
        return None
    lines = [json.loads(line) for line in journal.attachment(PLAN_FILE, found.attachment)]
    actions = [action_from_data(line["action"]) for line in lines]
    if found.host != this_host():
        plan = Plan(step="run", actions=tuple(actions))
        agreed = approval.yes or (approval.digest == found.digest if approval.batch else operator.approve(plan))
        if not agreed:
            raise DeclinedError(
                f"This plan was approved on {found.host}, not here. Nothing more was changed.",
                remedy=f"Review it and approve it here: on a terminal, or with --approve {found.digest}.",
            )
        journal.append(
            Approved(subject="run", digest=found.digest, by="takeover", host=this_host(), attachment=found.attachment)
        )
    promised: dict[str, tuple[Action, ...]] = {}
    for line, action in zip(lines, actions, strict=True):
        promised[line["step"]] = (*promised.get(line["step"], ()), action)
    return promised


class Approver:
    """The operator of a run in which something new turned up after the approval."""

    def __init__(self, inner: Operator, approval: Approval) -> None:
        self._inner = inner
        self._approval = approval
        self.answer = inner.answer
        self.answer_all = inner.answer_all
        self.lost_secret = inner.lost_secret
        self.recourse = inner.recourse

    def approve(self, plan: Plan) -> bool:
        """Under a digest anything new is refused; `yes` accepts it; a human is asked."""
        if self._approval.yes or self._approval.digest == plan.digest():
            return True
        if self._approval.batch or self._approval.digest:
            raise GuardError(
                f"The plan of {plan.step} holds something that was not approved. It was not carried out.",
                remedy=f"Review and approve it on a terminal, or give --approve {plan.digest()}, or --yes.",
            )
        return self._inner.approve(plan)


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is conducted, whatever it does."""

    settings: Settings
    waits: Waits
    approval: Approval
    tell: Tell
    started: Callable[[Engine], None]
    """Hears of the engine before it begins, so that a signal can stop it."""


def carry_out(  # a case, a world, what is done there, who answers, and how
    journal: Journal,
    platforms: Platforms,
    steps: Sequence[Step],
    operator: Operator,
    conduct: Conduct,
    *,
    show: Callable[[Walk], None],
    preview: Tell | None = None,
) -> Outcome:
    """Walk, have it approved, and do it; a case approved before goes on without asking again."""
    approval = conduct.approval
    asking = journaled(operator, journal, batch=approval.batch)
    reviewed = approved_before(journal, asking, approval)
    if reviewed is None:
        walked = walk(platforms, steps, asking, conduct.settings, conduct.waits, preview)
        show(walked)
        check_sources(walked, platforms)
        reviewed = approve_run(journal, walked, asking, approval)
    engine = _engine(journal, platforms, Approver(asking, approval), conduct, reviewed)
    conduct.started(engine)
    return engine.run(steps)


def carry_out_alone(
    journal: Journal, platforms: Platforms, step: Step, operator: Operator, conduct: Conduct
) -> Outcome:
    """One step beside the playbook (contain, undo, retire), planned anew each time, with an approval of its own."""
    asking = Approver(journaled(operator, journal, batch=conduct.approval.batch), conduct.approval)
    # Nothing here has a pilot: what is contained or put back does not wait for the first to end.
    engine = _engine(journal, platforms, asking, replace(conduct, settings=replace(conduct.settings, pilot=0)), {})
    conduct.started(engine)
    return engine.run((step,), again=frozenset({step.id}), closes=False)


def _engine(
    journal: Journal,
    platforms: Platforms,
    operator: Operator,
    conduct: Conduct,
    reviewed: Mapping[str, tuple[Action, ...]],
) -> Engine:
    return Engine(
        journal,
        platforms,
        operator,
        waits=conduct.waits,
        parallel=conduct.settings.parallel,
        pilot=conduct.settings.pilot,
        max_failures=conduct.settings.max_failures,
        approved=frozenset(action.digest() for actions in reviewed.values() for action in actions),
        promised=reviewed,
        tell=conduct.tell,
    )


def check_sources(walked: Walk, platforms: Platforms) -> None:
    """Refuse now a value's source that would fail in the middle."""
    for _, action in walked.actions:
        source = getattr(action, "source", None)
        if isinstance(source, str) and action.provides:
            platforms.check_source(source)


def merge_waits(base: Waits, overrides: Mapping[str, int] | None) -> Waits:
    """Apply `--wait NAME=SECONDS`; an unknown name or a negative number is refused."""
    for name, seconds in (overrides or {}).items():
        if name not in Waits.__dataclass_fields__ or seconds < 0:
            names = ", ".join(Waits.__dataclass_fields__)
            raise UsageError(
                f"There is no wait {name}={seconds}. Nothing was changed.", remedy=f"Use one of {names}, in seconds."
            )
    return replace(base, **dict(overrides or {}))
