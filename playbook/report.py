"""The report of a case: what was found, decided, done and seen, each with the journal record that says so.

Pure functions: `from_state` reads a fold, `to_markdown` and `to_json` write. What no record says is "unknown", never
left out and never guessed (invariant I16). Every name came from a platform, so Markdown is escaped and nothing in a
name can become a link, a heading, HTML or a table cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from playbook.model import action_from_data
from playbook.ports import Hole, display
from playbook.summary import CREATE, DEACTIVATE, SETTLED, STORE, key_rows, planned_actions, step_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playbook.model import Action, Step
    from playbook.records import Progress, State

SCHEMA: Final = 1
TEXT_MAX: Final = 4000
UNKNOWN: Final = "unknown"
WORDS: Final[Mapping[str, str]] = {
    "planned": "not begun",
    "intended": "begun, its end is unknown",
    "applied": "done, not seen yet",
    "verified": "done and seen",
    "failed": "refused",
    "skipped": "left out",
}
"""The states of an action in words that a reader need not look up."""
USES: Final = "revoke_sessions"
"""The step whose findings say who used the exposed keys."""
MODES: Final[Mapping[str, str]] = {
    "live": "live: AWS and CircleCI were changed as told below",
    "rehearsal": "REHEARSAL: a made-up organisation; nothing live was read or changed",
    "dry-run": "DRY RUN: the live world was only read; nothing was changed",
}


# --- What is reported -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReportedAction:
    """One action and where it stands."""

    key: str
    step: str
    lane: str
    what: str
    status: str
    changes: bool
    destroys: bool
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    at: str = ""
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReportedStep:
    """One step of the playbook, with its actions."""

    id: str
    title: str
    phase: str
    status: str
    finished: int
    total: int
    at: str = ""
    record: int | None = None
    """The `Done`, else the plan."""
    actions: tuple[ReportedAction, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportedFinding:
    """Something a responder must know."""

    step: str
    level: str
    text: str
    due_at: str = ""
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class WaitingLane:
    """A resource whose actions are not all settled, and why."""

    lane: str
    what: str
    reason: str | None
    next_command: str
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReportedPlace:
    """A place that a new key is written into."""

    name: str
    status: str
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReportedKey:
    """One key that the case acts on, and what took its place."""

    account: str
    user: str
    old_key: str
    old_is: str
    new_key: str
    new_is: str
    places: tuple[ReportedPlace, ...] = ()
    records: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportedAnswer:
    """What was answered to one question."""

    answer_key: str
    subject: Mapping[str, str]
    value: Any
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReportedApproval:
    """A yes, to what, and from whom."""

    subject: str
    by: str
    host: str
    digest: str
    at: str = ""
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class LostSecret:
    """A new key whose secret was lost, so that it was made again."""

    key_id: str
    reason: str
    record: int | None = None


@dataclass(frozen=True, kw_only=True)
class CaseReport:
    """Everything the report says; None is "unknown"."""

    case: str | None
    mode: str | None
    tool: str | None
    host: str | None
    opened_at: str | None
    last_at: str | None
    outcome: str | None
    """The word of the `Sealed` record; None while the case is open."""
    outcome_record: int | None = None
    head: str | None = None
    next_command: str | None = None
    severity: ReportedAnswer | None = None
    reference: ReportedAnswer | None = None
    keys: tuple[ReportedKey, ...] = ()
    steps: tuple[ReportedStep, ...] = ()
    waiting: tuple[WaitingLane, ...] = ()
    findings: tuple[ReportedFinding, ...] = ()
    holes: tuple[Hole, ...] | None = None
    """What was not read; None when nobody looked, which is not the same as nothing."""
    holes_record: int | None = None
    also: tuple[ReportedAction, ...] = ()
    """Repairs, undoing and parking, which no plan holds."""
    lost: tuple[LostSecret, ...] = ()
    answers: tuple[ReportedAnswer, ...] = ()
    approvals: tuple[ReportedApproval, ...] = ()

    @property
    def uses(self) -> tuple[ReportedFinding, ...]:
        """What is dangerous about the use of the exposed keys: the first thing a reader must know."""
        return tuple(item for item in self.findings if item.level == "danger" and item.step == USES)


# --- Reading a fold -------------------------------------------------------------------------------------------------


def from_state(
    state: State, steps: Sequence[Step], *, folder: str, head: str, holes: Sequence[Hole] | None = None
) -> CaseReport:
    """Collect the report from the fold of a journal; `holes` are those of the inventory kept beside it."""
    opened, sealed = state.opened, state.sealed
    resume = f"rotation-playbook resume {folder}"
    answers = tuple(
        ReportedAnswer(answer_key=item.answer_key, subject=item.subject, value=item.value, record=item.seq)
        for item in state.answers.values()
    )
    named = {item.answer_key: item for item in answers}
    inventory = next((part.seq for parts in state.plans.values() for part in parts if part.attachment), None)
    return CaseReport(
        case=opened.case if opened else None,
        mode=opened.mode if opened else None,
        tool=opened.tool if opened else None,
        host=opened.host if opened else None,
        opened_at=(opened.at or None) if opened else None,
        last_at=state.last_at or None,
        outcome=sealed.outcome if sealed else None,
        outcome_record=sealed.seq if sealed else None,
        head=head or None,
        next_command=None if sealed else resume,
        severity=named.get("incident.severity"),
        reference=named.get("incident.reference"),
        keys=_keys(state),
        steps=_steps(state, steps),
        waiting=tuple(_waiting(state, resume)),
        findings=_findings(state),
        holes=None if holes is None else tuple(holes),
        holes_record=inventory,
        also=tuple(_unplanned(state)),
        lost=tuple(LostSecret(key_id=item.lost, reason=item.reason, record=item.seq) for item in state.resets),
        answers=answers,
        approvals=tuple(
            ReportedApproval(
                subject=item.subject, by=item.by, host=item.host, digest=item.digest, at=item.at, record=item.seq
            )
            for item in state.approvals.values()
        ),
    )


def _planned(state: State, step: str) -> Iterator[tuple[Action, int]]:
    """The actions of a step, each with the record that plans it; the newest plan of a key is the one that counts."""
    found: dict[str, tuple[Action, int]] = {}
    for part in state.plans.get(step, []):
        for action in map(action_from_data, part.actions):
            found[action.key] = (action, part.seq)
    yield from found.values()


def _report(action: Action, step: str, progress: Progress | None, planned: int | None) -> ReportedAction:
    begun = progress is not None and progress.at != ""
    return ReportedAction(
        key=action.key,
        step=step,
        lane=action.lane,
        what=action.describe(),
        status=progress.state if progress is not None else "planned",
        changes=action.changes,
        destroys=action.destroys,
        reason=progress.reason if progress is not None else "",
        evidence=progress.evidence if progress is not None else {},
        at=progress.at if progress is not None else "",
        record=progress.seq if progress is not None and begun else planned,
    )


def _steps(state: State, steps: Sequence[Step]) -> tuple[ReportedStep, ...]:
    phases = {step.id: step.phase.value for step in steps}
    rows = []
    for row in step_rows(state, steps):
        ended, parts = state.ended.get(row.id) if row.id in state.done else None, state.plans.get(row.id, [])
        source = ended or (parts[0] if parts else None)
        rows.append(
            ReportedStep(
                id=row.id,
                title=row.title,
                phase=phases[row.id],
                status=row.status,
                finished=row.finished,
                total=row.total,
                at=source.at if source else "",
                record=source.seq if source else None,
                actions=tuple(
                    _report(action, row.id, state.progress.get(action.key), planned)
                    for action, planned in _planned(state, row.id)
                ),
            )
        )
    return tuple(rows)


def _waiting(state: State, resume: str) -> Iterator[WaitingLane]:
    """The first action of every lane that is not settled."""
    for step in state.plans:
        lanes: set[str] = set()
        for action, planned in _planned(state, step):
            progress = state.progress.get(action.key)
            if action.lane in lanes or (progress is not None and progress.state in SETTLED):
                continue
            lanes.add(action.lane)
            told = _report(action, step, progress, planned)
            yield WaitingLane(
                lane=action.lane,
                what=told.what,
                reason=told.reason or _blocked(state, action),
                next_command=resume,
                record=told.record,
            )


def _blocked(state: State, action: Action) -> str | None:
    """What it waits for, when that is in the plan; no record says more."""
    open_keys = [key for key in action.after if (p := state.progress.get(key)) is None or p.state != "verified"]
    return f"it waits for {open_keys[0]}" if open_keys else None


def _unplanned(state: State) -> Iterator[ReportedAction]:
    planned = {action.key for step in state.plans for action, _ in _planned(state, step)}
    for key, progress in state.progress.items():
        if progress.data is not None and key not in planned:
            yield _report(action_from_data(progress.data), "", progress, None)


def _findings(state: State) -> tuple[ReportedFinding, ...]:
    """All of them, what is dangerous first, and of that who used the exposed keys."""
    found = (
        ReportedFinding(
            step=step,
            level=item.get("level", ""),
            text=item.get("text", ""),
            due_at=item.get("due_at", ""),
            record=part.seq,
        )
        for step, parts in state.plans.items()
        for part in parts
        for item in part.findings
    )
    return tuple(sorted(found, key=lambda item: (item.level != "danger", item.step != USES)))


def _keys(state: State) -> tuple[ReportedKey, ...]:
    stores = [data for _, data in planned_actions(state) if data["kind"] == STORE]
    rows = []
    for row in key_rows(state):
        places = tuple(
            _place(state, data)
            for data in stores
            if (data["account"], data["user"], data["old_key_id"]) == (row.account, row.user, row.old_key)
        )
        named = (CREATE, DEACTIVATE)
        found = (state.progress.get(f"{kind}:{row.account}/{row.user}/{row.old_key}") for kind in named)
        rows.append(
            ReportedKey(
                account=row.account,
                user=row.user,
                old_key=row.old_key,
                old_is=row.old_is,
                new_key=row.new_key,
                new_is=row.new_is,
                places=places,
                records=tuple(sorted(progress.seq for progress in found if progress is not None and progress.at)),
            )
        )
    return tuple(rows)


def _place(state: State, data: Mapping[str, Any]) -> ReportedPlace:
    sink = data["pair"]["sink"]
    progress = state.progress.get(action_from_data(data).key)
    return ReportedPlace(
        name=f"{sink['kind']} {sink['name']} ({data['pair']['id_variable']})",
        status=progress.state if progress is not None else "planned",
        record=progress.seq if progress is not None and progress.at else None,
    )


# --- Writing --------------------------------------------------------------------------------------------------------


def to_json(report: CaseReport) -> str:
    """The report for machines; ASCII, so that no name acts on the terminal it is printed on."""
    return json.dumps({"schema": SCHEMA, **msgspec.to_builtins(report)}, indent=2)


def to_markdown(report: CaseReport) -> str:
    """The report for people."""
    environment = Environment(
        loader=PackageLoader("playbook", "templates"),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown, not HTML: `finalize` escapes every value
    )
    environment.filters |= {
        "pairs": _pairs,
        "word": lambda status: WORDS.get(status, status),
        "tojson_plain": json.dumps,
    }
    return environment.get_template("report.md.j2").render(report=report, modes=MODES)


_ACTIVE: Final = re.compile(r"[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What has a meaning in Markdown; an underscore within a word has none."""
_LINKED: Final = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)


def escape(value: object) -> str:
    """Write a value as Markdown text that means itself: one line, no markup, no link, no HTML; None is unknown."""
    if value is None or value == "":
        return UNKNOWN
    text = display(str(value), TEXT_MAX)
    return _LINKED.sub(r"\\\g<0>", _ACTIVE.sub(r"\\\g<0>", text))


def _pairs(named: Mapping[str, Any]) -> str:
    """A mapping as `name: value; name: value`."""
    texts = ((name, item if isinstance(item, str) else json.dumps(item)) for name, item in named.items())
    return "; ".join(f"{name}: {text}" for name, text in texts) or "-"
