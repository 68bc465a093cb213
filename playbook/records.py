"""What a journal can say (the records), and what a sequence of them means (the fold).

Both are pure: no file, no clock. `journal.py` makes records durable; `docs/journal-format.md` explains each one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

import msgspec

from playbook.errors import JournalDamagedError
from playbook.ports import Attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = 1


# --- Records --------------------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """What every record has: the format's version, its place, and when it was written (UTC, for people only)."""

    v: int = FORMAT
    seq: int = 0
    at: str = ""


class Opened(Record, frozen=True, kw_only=True, tag=True):
    """The case begins: who, where, in which mode, and the connection settings that `resume` uses again."""

    case: str
    tool: str
    mode: str
    host: str
    settings: dict[str, Any] = {}


class Answered(Record, frozen=True, kw_only=True, tag=True):
    """An answer, so that it is never asked twice."""

    id: str
    answer_key: str
    subject: dict[str, str]
    value: Any


class Planned(Record, frozen=True, kw_only=True, tag=True):
    """One lane of a step's plan, as data; the plan stands once all of its `parts` are written."""

    step: str
    round: int
    part: int
    parts: int
    digest: str
    lane: str = ""
    actions: list[dict[str, Any]] = []
    findings: list[dict[str, str]] = []
    attachment: str = ""


class Approved(Record, frozen=True, kw_only=True, tag=True):
    """A yes to something named: a step's plan, the whole run, or an outage."""

    subject: str
    """`run`, `step:<id>`, `outage:<key id>`, or `override:<action key>` of a gate passed by hand."""
    digest: str
    by: str
    host: str
    attachment: str = ""
    """For `run`: the digest of `plan.jsonl`, the reviewed list of changes."""


class Intended(Record, frozen=True, kw_only=True, tag=True):
    """What is about to be done, with the observation it rests on; on disk before the request leaves."""

    key: str
    basis: dict[str, Any] = {}
    action: dict[str, Any] | None = None
    """The whole action, when no plan holds it (a repair, an undo, a parking)."""


class Applied(Record, frozen=True, kw_only=True, tag=True):
    """It was done; what came back (ids, times), never a secret."""

    key: str
    evidence: dict[str, Any] = {}


class Observed(Record, frozen=True, kw_only=True, tag=True):
    """A look that justifies a claim, or the reason why a lane waits."""

    key: str
    status: str
    evidence: dict[str, Any] = {}
    reason: str = ""


class Verified(Record, frozen=True, kw_only=True, tag=True):
    """The effect was seen in the world. History, not proof: what destroys looks again."""

    key: str
    evidence: dict[str, Any] = {}


class Failed(Record, frozen=True, kw_only=True, tag=True):
    """The call failed; `effect` says whether it is known not to have happened."""

    key: str
    effect: str
    code: str


class Skipped(Record, frozen=True, kw_only=True, tag=True):
    """Left out by decision, or because what it waits for was left out."""

    key: str
    reason: str


class Reset(Record, frozen=True, kw_only=True, tag=True):
    """A secret is lost: its provider and users are planned again; `first` are written before the others."""

    keys: list[str]
    lost: str
    reason: str
    first: list[str] = []
    keep: bool = False
    """The lost key stays until its successor is in every sink, because sinks work with it."""


class TakenOver(Record, frozen=True, kw_only=True, tag=True):
    """Another machine goes on with the case."""

    host: str


class Done(Record, frozen=True, kw_only=True, tag=True):
    """Every action of the step is verified or skipped."""

    step: str


class Sealed(Record, frozen=True, kw_only=True, tag=True):
    """The run came to its end."""

    outcome: str
    exit_code: int


AnyRecord: TypeAlias = (
    Opened
    | Answered
    | Planned
    | Approved
    | Intended
    | Applied
    | Observed
    | Verified
    | Failed
    | Skipped
    | Reset
    | TakenOver
    | Done
    | Sealed
)
RECORD_TYPES: Final = get_args(AnyRecord)


# --- Fold -----------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where one action stands, from the records alone."""

    state: str = "planned"
    """planned, intended, applied, verified, failed or skipped."""
    attempts: list[Attempt] = field(default_factory=list)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    seq: int = 0
    at: str = field(default="", compare=False)
    """When that record was written, for people only."""
    data: Mapping[str, Any] | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)
    """The evidence of the last `Observed`, such as the id of an orphan."""


@dataclass
class State:
    """The fold of a journal: pure, incremental, the same from any prefix."""

    opened: Opened | None = None
    answers: dict[str, Answered] = field(default_factory=dict)
    plans: dict[str, list[Planned]] = field(default_factory=dict)
    """By step: the parts of every round, in order."""
    approvals: dict[str, Approved] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    first: dict[str, frozenset[str]] = field(default_factory=dict)
    """For a reset action that must wait: the actions to be written before it."""
    resets: list[Reset] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    ended: dict[str, Done] = field(default_factory=dict)
    """By step: the record that says it is done, for the report to cite."""
    hosts: list[str] = field(default_factory=list)
    sealed: Sealed | None = None
    last_at: str = ""

    def of(self, key: str) -> Progress:
        """The progress of one action, planned when nothing was recorded."""
        return self.progress.setdefault(key, Progress())

    def plan(self, step: str) -> tuple[str, list[Planned]] | None:
        """The digest and parts of the newest whole plan of a step, all its rounds together."""
        parts = self.plans.get(step, [])
        rounds = {part.round for part in parts}
        whole = [number for number in rounds if _is_whole([part for part in parts if part.round == number])]
        if not whole:
            return None
        kept = [part for part in parts if part.round in whole]
        return kept[-1].digest, kept

    def apply(self, record: AnyRecord) -> None:
        """Take one record in, in order."""
        self.last_at = record.at
        match record:
            case Opened():
                self.opened = record
                self.hosts.append(record.host)
            case TakenOver():
                self.hosts.append(record.host)
            case Answered():
                self.answers[record.id] = record
            case Planned():
                self._planned(record)
            case Approved():
                self.approvals[record.subject] = record
            case Done():
                self.done.append(record.step)
                self.ended[record.step] = record
            case Sealed():
                self.sealed = record
            case Reset():
                self._reset(record)
            case _:
                self._moved(record)

    def _planned(self, record: Planned) -> None:
        parts = self.plans.setdefault(record.step, [])
        if record.part == 0:
            # A plan cut short by a crash is planned again under the same round: the newer one stands.
            parts[:] = [part for part in parts if part.round != record.round]
        parts.append(record)
        # Another round after the end, such as a deletion that fell due: the case is open again.
        self.sealed = None
        if record.step in self.done:
            self.done.remove(record.step)

    def _reset(self, record: Reset) -> None:
        self.resets.append(record)
        for key in record.keys:
            progress = self.of(key)
            if progress.state == "skipped":
                continue  # left out for good, by a human
            progress.state = "planned"
            progress.seq, progress.at = record.seq, record.at
            # What an earlier reset keeps stays kept: sinks work with it, whatever became of its successor.
            progress.attempts = [
                replace(attempt, reset=True, kept=attempt.kept or (record.keep and not attempt.reset))
                for attempt in progress.attempts
            ]
            if record.first and key not in record.first:
                self.first[key] = frozenset(record.first)
            else:
                self.first.pop(key, None)

    def _moved(self, record: Intended | Applied | Observed | Verified | Failed | Skipped) -> None:
        progress = self.of(record.key)
        progress.seq, progress.at = record.seq, record.at
        match record:
            case Intended():
                tag = f"{self.opened.case if self.opened else 'none'}.{record.seq}"
                progress.attempts.append(Attempt(seq=record.seq, tag=tag, basis=record.basis))
                progress.state = "intended"
                progress.data = record.action or progress.data
            case Applied():
                self._end_attempt(progress, record.seq, applied=record.evidence)
                progress.state = "applied"
                progress.evidence = record.evidence
            case Failed():
                self._end_attempt(progress, record.seq, failed=record.effect)
                progress.state = "failed" if record.effect == "none" else "intended"
                progress.reason = record.code
            case Observed():
                progress.reason = record.reason
                progress.seen = record.evidence
            case Verified():
                progress.state = "verified"
                progress.evidence = record.evidence
                progress.reason = ""
            case Skipped():
                progress.state = "skipped"
                progress.reason = record.reason

    def _end_attempt(self, progress: Progress, seq: int, **ended: Any) -> None:
        if not progress.attempts:
            raise JournalDamagedError(
                f"Record {seq} ends an action that no record began.",
                remedy="Keep the case folder as evidence and start a new case; nothing was changed.",
            )
        progress.attempts[-1] = replace(progress.attempts[-1], **ended)


def _is_whole(parts: Sequence[Planned]) -> bool:
    return bool(parts) and [part.part for part in parts] == list(range(parts[0].parts))
