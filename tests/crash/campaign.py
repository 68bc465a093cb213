"""Cases: a row of processes that die, then processes that may live, and the verdict over all of them.

Cases run in worker processes that have imported everything and started no thread, one a core; each forks its children.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from crash.child import (
    CASE,
    EVENTS,
    MEMORY,
    OneAfterAnother,
    Report,
    begin,
    load_world,
    run_child,
)
from crash.conditions import RETIRE, RUN, Conditions, Part
from crash.ledger import InvariantBroken, broken
from crash.oracle import Oracle
from crash.worlds import PAIRS, lift_what_others_left, world_of
from two_users import ACCOUNT, Answers, two_users

from playbook.engine import Engine
from playbook.errors import ExitCode
from playbook.journal import Journal, fold, recover, this_host
from playbook.model import Recovery
from playbook.modes import journaled
from playbook.ports import KeyStatus
from playbook.records import Opened
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK

T = TypeVar("T")

PR_SET_PDEATHSIG = 1
RESUMES_MAX = 3
"""Processes that may live before a case must have come to an end (L1)."""
SUCCESS, WAITING = 0, 11
DECISIONS_MAX = 3
FOLLOWING = frozenset({"waits", "not-begun"})
"""Why a lane stands still only because another one does."""
HUMAN_S = 600
"""What a human takes to look at it: longer than any lag."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A world, and what each process in it meets; then come processes that meet nothing."""

    conditions: Conditions = field(default_factory=Conditions)
    parts: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    """What the processes meet that retire or undo, where that comes after the run."""
    logged: bool = False

    def __str__(self) -> str:
        then = f" then {' | '.join(map(str, self.after))}" if self.after else ""
        return f"{self.conditions} {' | '.join(map(str, self.parts))}{then}"


@dataclass(kw_only=True)
class Verdict:
    """What became of a case."""

    case: Case
    invariant: str = ""
    """The one that was broken; `bug` for an exception, `timeout` for no end."""
    detail: str = ""
    ended: int = -1
    """The exit code that it first came to rest with."""
    children: int = 0
    killed: int = 0
    checks: int = 0
    troubles: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    called_at: list[int] = field(default_factory=list)
    instants: int = 0
    """Of its last process."""
    after: Report | None = None
    """How what came after the run came to rest."""
    events: str = ""
    """A digest over all events of all processes, when logged."""

    @property
    def clean(self) -> bool:
        return not self.invariant

    def __str__(self) -> str:
        return f"{self.invariant or self.ended}: {self.detail} <- {self.case}"


def scratch() -> Path:
    """A new folder, in memory where the machine has such a place."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="sweep-", dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None))


class Trial:
    """One case being tried."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.verdict = Verdict(case=case)
        self.conditions = case.conditions
        self._acknowledged = b""
        self._number = 0

    def run(self) -> Verdict:
        begin(self.folder, self.conditions)
        if self.case.logged:
            (self.folder / EVENTS).touch()
        try:
            self._run()
        except InvariantBroken as error:
            self.verdict.invariant, self.verdict.detail = error.invariant, error.detail
        if self.case.logged:
            self.verdict.events = hashlib.sha256((self.folder / EVENTS).read_bytes()).hexdigest()
        return self.verdict

    def _run(self) -> None:
        report = self._first_end()
        self.verdict.ended, self.verdict.troubles = report.code, report.troubles
        self.verdict.calls, self.verdict.called_at = report.calls, report.called_at
        self.verdict.instants = report.instants
        if report.code == WAITING:
            self._check_stop(report)
        if self.conditions.early or report.code == SUCCESS or self._decide_and_go_on():
            self._go_on_after()

    def _first_end(self) -> Report:
        """Run the processes that meet something, then ones that do not, until one comes to rest."""
        report = Report(ended="killed")
        for part in self.case.parts:
            report = self._child(part)
            if report.ended != "killed":
                break
        if self.conditions.early and report.ended == "killed":
            return report
        return self._rest(report)

    def _go_on_after(self) -> None:
        """Retire or undo, from where the run stands; a stop of it must have its reason, as any other."""
        phase = self.conditions.then
        if not phase:
            return
        if phase == RETIRE:
            load_world(self.folder, self.conditions, self._number, ()).clock.sleep(self.conditions.returns_after_s)
        report = Report(ended="killed")
        for part in self.case.after:
            report = self._child(part, phase)
            if report.ended != "killed":
                break
        self.verdict.after = report = self._rest(report, phase)
        if report.code == WAITING:
            self._check_stop(report, of_run=False)
        elif phase == RETIRE:
            self._oracle().at_retired()
        else:
            self._oracle().at_undone()

    def _rest(self, report: Report, phase: str = RUN) -> Report:
        for _ in range(RESUMES_MAX):
            self._take_refusal_as_stop(report)
            if report.ended == "exit" and report.code in {SUCCESS, WAITING}:
                break
            report = self._child(Part(), phase)
        if report.ended != "exit" or report.code not in {SUCCESS, WAITING}:
            broken("L1", f"no rest after {RESUMES_MAX} resumes: {report.ended} {report.code} {report.detail}")
        if report.code == SUCCESS and phase == RUN:
            self._oracle().at_success()
        return report

    def _take_refusal_as_stop(self, report: Report) -> None:
        """A plan refused because of a stranger's key, which the refusal names, is a stop for a human as well."""
        if report.ended == "error" and report.code == ExitCode.GUARD:
            strangers = self._oracle().memory.strangers
            if any(key in report.detail for key in strangers):
                report.ended, report.code = "exit", WAITING
                report.troubles = [{"reason": report.detail, "cause": "conflict"}]

    def _child(self, part: Part, phase: str = RUN) -> Report:
        report = run_child(self.folder, self.conditions, part, self._number, phase)
        self._number += 1
        self.verdict.children += 1
        self.verdict.checks += report.checks
        self.verdict.killed += report.ended == "killed"
        if report.ended == "broken":
            broken(report.invariant, report.detail)
        if report.ended in {"bug", "timeout"}:
            broken(report.ended, report.detail)
        if report.ended == "killed" and not part.kill_at and not part.faults:
            broken("bug", "a process was killed that nobody killed")
        self._check_journal(report)
        self._oracle().check_state()
        return report

    def _oracle(self) -> Oracle:
        """The oracle over what a kill leaves: the world's file and the whole records of the journal."""
        journal = self.folder / CASE / "journal.jsonl"
        content = journal.read_bytes() if journal.exists() else b""
        world = load_world(self.folder, self.conditions, -1, ())
        world.path = None
        oracle = Oracle(
            world,
            PAIRS,
            journal,
            conditions=self.conditions,
            start=world_of(self.conditions),
            memory=None,
            durable=lambda: 0,
        )
        if (self.folder / MEMORY).exists():
            oracle.memory.recall(self.folder / MEMORY)
        oracle.ledger.advance(content.rfind(b"\n") + 1)
        return oracle

    def _check_journal(self, report: Report) -> None:
        """I13 over the bytes: nothing acknowledged is ever lost, recovery is pure and finds nothing to do twice."""
        journal = self.folder / CASE / "journal.jsonl"
        content = journal.read_bytes() if journal.exists() else b""
        if not content.startswith(self._acknowledged):
            broken("I13", "what was acknowledged before is no longer at the journal's beginning")
        whole = content.rfind(b"\n") + 1
        if report.durable > whole:
            broken("I13", f"{report.durable} bytes were acknowledged and {whole} are whole")
        self._acknowledged = content[: report.durable]
        once = recover(content)
        if once.length != whole or once.torn != content[whole:]:
            broken("I13", f"recovery keeps {once.length} of {whole} whole bytes")
        twice = recover(content[: once.length])
        if twice.records != once.records or twice.head != once.head or twice.torn:
            broken("I13", "recovering what was recovered finds something else")
        if fold(once.records) != fold(once.records):
            broken("I13", "two folds of the same records differ")

    def _check_stop(self, report: Report, *, of_run: bool = True) -> None:
        """A stop for a human must have its reason in the world (L1), and leave nothing on for nothing (I6b)."""
        oracle = self._oracle()
        oracle.at_stop(of_run=of_run)
        strangers = oracle.seen_strangers()
        said = " ".join(trouble["reason"] for trouble in report.troubles)
        # The sweep for persistence names what it finds in a finding, and asks what becomes of it.
        found = {name.rpartition("/")[2] for name in oracle.ledger.answers if name.startswith("keys.found:")}
        unnamed = [key for key in strangers - found if key not in said]
        # A lane that waits for a decision about its lost secret, or for hours, has not had the last look at its user.
        if unnamed and all(trouble["cause"] not in {"lost-secret", "time"} for trouble in report.troubles):
            broken("I16", f"the stop does not name the stranger's key {unnamed[0]}: {said}")
        if all(trouble["cause"] in FOLLOWING for trouble in report.troubles):
            broken("L1", f"everything waits for everything: {report.troubles}")
        for trouble in report.troubles:
            if not (self._was_denied(trouble) or self._has_reason(oracle, trouble["cause"], strangers)):
                broken("L1", f"it stops without need: {trouble}")

    def _has_reason(self, oracle: Oracle, cause: str, strangers: set[str]) -> bool:
        if cause in FOLLOWING:
            return True
        if cause == "lost-secret":
            stored = oracle.truth.stored().values()
            ours = {key.id for key in oracle.truth.ours()}
            return self.conditions.policy == Recovery.STOP and any(item.id_of in ours for item in stored)
        if cause == "time":
            return self.conditions.silence_s > self.conditions.waits.patience
        if cause == "NoPipelineDefinition":
            return self.conditions.canaries == "broken"
        meddled = bool(strangers or oracle.memory.foreign_puts or self._strangers("off-new"))
        meddled = meddled or self._strangers("lease") or self._strangers("use-old") or bool(self.conditions.foreign)
        if cause == "LimitExceeded":
            # Where lists do not lag, the look after the refusal shows whose key it was, and that is the reason then.
            return bool(oracle.memory.strangers) and self.conditions.lag != "none"
        return cause == "conflict" and (meddled or self.conditions.trail_denied)

    def _was_denied(self, trouble: dict[str, Any]) -> bool:
        parts = (*self.case.parts, *self.case.after)
        denied = any(fault.startswith("deny") for part in parts for fault in part.faults)
        # The last look at a user says so too when the switching off, a step before, was refused.
        return denied and (bool(trouble.get("failed")) or "it was not switched off" in trouble["reason"])

    def _strangers(self, what: str) -> bool:
        parts = (*self.case.parts, *self.case.after)
        return any(stranger.what == what for part in parts for stranger in part.strangers)

    def _decide_and_go_on(self) -> bool:
        """Resume again (a stop must bear that), then do what a human would at each stop, and see it end well.

        Answers False where only a stranger could say what is right.
        """
        report = self._rest(self._child(Part()))
        for _ in range(DECISIONS_MAX):
            if report.code == SUCCESS:
                return True
            self._check_stop(report)
            if self._oracle().memory.foreign_puts or self._strangers("off-new"):
                return False
            self._act_as_human({trouble["cause"] for trouble in report.troubles})
            report = self._rest(self._child(Part()))
        if report.code != SUCCESS:
            broken("L1", f"decided by a human, and still it stops: {report.troubles}")
        return True

    def _act_as_human(self, causes: set[str]) -> None:
        if "lost-secret" in causes:
            self.conditions = replace(self.conditions, policy=Recovery.REWRITE_SWITCHED.value)
            return
        if "NoPipelineDefinition" in causes:
            self.conditions = replace(self.conditions, overrides=len(PAIRS))
        oracle = self._oracle()
        world = load_world(self.folder, self.conditions, self._number, ())
        for key_id in oracle.memory.strangers:
            world.foreign_set_status(ACCOUNT, key_id, None)
        if self.conditions.trail_denied:
            self._attribute_by_hand(oracle, world)
        if self.conditions.foreign or self._strangers("lease"):
            lift_what_others_left(world, "ci-deploy")
        world.clock.sleep(self.conditions.silence_s + HUMAN_S if "time" in causes else HUMAN_S)

    def _attribute_by_hand(self, oracle: Oracle, world: Any) -> None:
        """Somebody looks into CloudTrail with other rights and deletes what no sink holds."""
        held = {item.id_of for item in oracle.truth.stored().values()}
        for key in oracle.truth.ours():
            if key.id not in held:
                world.foreign_set_status(ACCOUNT, key.id, KeyStatus.INACTIVE)
                world.foreign_set_status(ACCOUNT, key.id, None)


def try_case(case: Case) -> Verdict:
    """Run one case in a folder of its own."""
    folder = scratch()
    try:
        return Trial(case, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _warm_up() -> None:
    """Run the playbook once in a worker, so that no child has to build what can be built before the fork."""
    if sys.platform == "linux":
        # A worker waits for work for ever, also when the tests' own process was killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    twin = TwinWorld(two_users(canaries=True))
    journal = Journal(now=twin.clock.now)
    journal.append(Opened(case="warm-up", tool="sweep", mode="rehearsal", host=this_host()))
    operator = journaled(Answers(), journal)
    Engine(journal, twin.platforms(), operator, parallel=1, executor=OneAfterAnother).run(PLAYBOOK)
    gc.collect()
    gc.freeze()


def jobs() -> int:
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))


@cache
def workers() -> ProcessPoolExecutor:
    """Fresh processes: whatever the tests' own process has started, these fork without a thread."""
    return ProcessPoolExecutor(jobs(), mp_context=multiprocessing.get_context("spawn"), initializer=_warm_up)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in one of the workers."""
    return workers().submit(function, *arguments).result()


def try_all(cases: Sequence[Case]) -> Iterator[Verdict]:
    """Try many cases on all cores; verdicts come in the cases' order."""
    return workers().map(try_case, cases, chunksize=max(1, min(16, len(cases) // (4 * jobs()))))


@dataclass(kw_only=True)
class Tally:
    """Counts over many verdicts, to be printed."""

    cases: int = 0
    children: int = 0
    killed: int = 0
    checks: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    failures: list[Verdict] = field(default_factory=list)

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Tally:
        tally = cls()
        for verdict in verdicts:
            tally.cases += 1
            tally.children += verdict.children
            tally.killed += verdict.killed
            tally.checks += verdict.checks
            tally.ended[verdict.ended] += 1
            if not verdict.clean:
                tally.failures.append(verdict)
        return tally
