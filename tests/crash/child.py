"""One process of one case: forked, watched by the oracle at every event, killed at one of them, and reported.

The twin keeps its state and its clock in `world.json`, and the journal is the case's own: nothing else reaches the
next process. An *instant* is a place where the process can die: before and after every remote call, and before, in the
middle and after the bytes of every journal write. Instants are numbered in the order in which they are met.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import struct
import threading
import time
import traceback
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from crash.baton import Baton
from crash.conditions import LAGS, RETIRE, RUN, UNDO, Conditions, Part
from crash.ledger import InvariantBroken
from crash.oracle import Oracle
from crash.saga_mutants import MUTANTS
from crash.worlds import API, PAIRS, WEB, act_as, world_of
from two_users import OLD, Answers

from playbook.engine import Engine, Outcome
from playbook.errors import PlaybookError
from playbook.journal import Disk, Journal, this_host
from playbook.model import Question, Recourse, Recovery, Step, Trouble
from playbook.modes import journaled
from playbook.records import AnyRecord, Opened
from playbook.twins.faults import Call, Faults
from playbook.twins.switches import FreshTail, Switches
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK, RETIREMENT, contain_now
from steps import UNDO as PUT_BACK

TIMEOUT_S = 60
WORLD = "world.json"
MEMORY = "memory.jsonl"
EVENTS = "events.log"
CASE = "case"


@dataclass(kw_only=True)
class Report:
    """How one process ended."""

    ended: str
    """`killed`, `exit`, `error` (one of ours, with an exit code), `broken` (an invariant), `bug` or `timeout`."""
    code: int = -1
    detail: str = ""
    invariant: str = ""
    troubles: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """Operation and target of every remote call, if the process lived to tell."""
    called_at: list[int] = field(default_factory=list)
    """The instants just before them."""
    instants: int = 0
    checks: int = 0
    durable: int = 0


class Shared:
    """Four numbers that the parent can read after the child is dead."""

    INSTANTS, DURABLE, CHECKS = range(3)

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 64)

    def __getitem__(self, slot: int) -> int:
        return int(struct.unpack_from("q", self._map, slot * 8)[0])

    def __setitem__(self, slot: int, value: int) -> None:
        struct.pack_into("q", self._map, slot * 8, value)

    def close(self) -> None:
        self._map.close()


class Instants:
    """Counts the instants of this process and dies at one of them."""

    def __init__(self, part: Part, shared: Shared, log: int) -> None:
        self._part = part
        self._shared = shared
        self._log = log
        self.before_death = lambda: None

    def is_last(self, what: str) -> bool:
        """Count one instant; say whether the process is to die here."""
        number = self._shared[Shared.INSTANTS] + 1
        self._shared[Shared.INSTANTS] = number
        if self._log >= 0:
            os.write(self._log, f"{threading.current_thread().name} {what}\n".encode())
        return number == self._part.kill_at

    def met(self, what: str) -> None:
        if self.is_last(what):
            self.die()

    def die(self) -> NoReturn:
        if self._part.power:
            self.before_death()
        os.kill(os.getpid(), signal.SIGKILL)
        while True:
            signal.pause()


class WatchedDisk(Disk):
    """A disk without a medium: SIGKILL spares the page cache. It can die in a write, and knows what a sync covered."""

    def __init__(self, instants: Instants, shared: Shared, baton: Baton | None) -> None:
        self._instants = instants
        self._shared = shared
        self._baton = baton
        self._descriptor = -1
        instants.before_death = self._lose_what_was_not_synced

    @property
    def durable(self) -> int:
        return self._shared[Shared.DURABLE]

    def opened(self, descriptor: int) -> None:
        """Recovery has synced whatever it left."""
        self._descriptor = descriptor
        self._shared[Shared.DURABLE] = os.fstat(descriptor).st_size

    def write(self, descriptor: int, data: bytes) -> int:
        self._instants.met("write")
        if self._instants.is_last("half written"):
            os.write(descriptor, data[: len(data) // 2])
            self._instants.die()
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        covered = os.fstat(descriptor).st_size
        self._instants.met("written")
        if self._baton is not None:
            self._baton.pass_on()
        self._shared[Shared.DURABLE] = covered

    def truncate(self, descriptor: int, length: int) -> None:
        self._instants.met("cut")
        os.ftruncate(descriptor, length)
        self._instants.met("has cut")

    def _lose_what_was_not_synced(self) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, self.durable)


class WatchedJournal(Journal):
    """Tells the oracle of every append that returned."""

    oracle: Oracle | None = None
    judged: Any = None

    def append(self, record: AnyRecord) -> int:
        seq = super().append(record)
        if self.oracle is not None:
            with self.judged():
                self.oracle.appended(seq)
        return seq


class Responder(Answers):
    """Answers as the conditions say."""

    def __init__(self, conditions: Conditions) -> None:
        super().__init__(strategy=conditions.strategy, severity=conditions.severity, lost=Recovery(conditions.policy))
        self._conditions = conditions
        self._retries = conditions.retries
        self._overrides = conditions.overrides

    def answer(self, question: Question[Any]) -> Any:
        """What the conditions say, else the default."""
        wanted = self._conditions
        match question.id.partition(":")[0]:
            case "keys.strategy" if question.subject["id"] in OLD.values():
                # A key that is off already is kept by default, as after the first minute.
                strategy = "contain" if wanted.first_minute else wanted.strategy
                mixed = "contain" if "/ci-ecr/" in question.id else "replace"
                return mixed if strategy == "mixed" else strategy
            case "incident.block_new_work":
                return wanted.block
            case "incident.cancel_workflows":
                return ("all",) if wanted.block else ("none",)
            case "keys.canary_workflows":
                return (f"{API}:build", f"{WEB}:build") if wanted.canaries == "rerun" else ()
            case "variables.value_from":
                return {"checkout-key": "recreate", "webhook-secret": "prompt"}[question.detail["kind"]]
            case "keys.delete_after_grace" | "keys.delete_to_make_room" | "keys.rerun_failed":
                return True
            case "gates.reason":
                return "looked at it by hand"
            case _:
                return super().answer(question)

    def recourse(self, trouble: Trouble) -> Recourse:
        """Try again as often as wanted, then pass gates as often as wanted, then leave it."""
        self._retries -= 1
        if self._retries >= 0:
            return Recourse.RETRY
        if trouble.action.gate and self._overrides:
            self._overrides -= 1
            return Recourse.OVERRIDE
        return super().recourse(trouble)


class OneAfterAnother(Executor):
    """A pool of one thread, which is the caller's."""

    def __init__(self, width: int) -> None:
        assert width == 1

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:  # noqa: BLE001  # a future carries whatever was raised
            future.set_exception(error)
        return future


class _Judged(AbstractContextManager[None]):
    """Ends the process at the first broken invariant, before anything can swallow it."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, InvariantBroken):
            self._tell(Report(ended="broken", invariant=error.invariant, detail=error.detail))


def switches_of(conditions: Conditions) -> Switches:
    return Switches(
        **LAGS[conditions.lag],
        trail_denied=conditions.trail_denied,
        keys_per_user=conditions.quota,
        fresh_tail=FreshTail.OLD if conditions.stale else FreshTail.NOTHING,
    )


def load_world(folder: Path, conditions: Conditions, number: int, faults: tuple[str, ...]) -> TwinWorld:
    rng = random.Random(f"{conditions.seed}/{number}")
    return TwinWorld.load(folder / WORLD, switches=switches_of(conditions), faults=Faults(faults), rng=rng)


def begin(folder: Path, conditions: Conditions) -> None:
    """Lay out a new case: the world as it is before anything happens."""
    TwinWorld(world_of(conditions), path=folder / WORLD)


class _Child:
    """The life of the process, from its fork to its report."""

    def __init__(  # what to do, in which case, and how the parent hears of it
        self, folder: Path, conditions: Conditions, part: Part, number: int, phase: str, shared: Shared, pipe: int
    ) -> None:
        self._phase = phase
        self._folder = folder
        self._conditions = conditions
        self._part = part
        self._shared = shared
        self._pipe = pipe
        self._calls: list[str] = []
        self._called_at: list[int] = []
        self._calls_since_intent = 0
        log = -1
        if (folder / EVENTS).exists():
            log = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND)
        self._instants = Instants(part, shared, log)
        self._world = load_world(folder, conditions, number, part.faults)
        self._baton = Baton(f"{conditions.seed}/{number}/lanes") if conditions.parallel > 1 else None
        self._oracle: Oracle | None = None

    def tell(self, report: Report) -> NoReturn:
        """Report and be gone."""
        report.calls, report.called_at = self._calls, self._called_at
        report.checks = self._oracle.checks if self._oracle is not None else 0
        content = json.dumps(report.__dict__).encode()
        while content:
            content = content[os.write(self._pipe, content) :]
        os._exit(0)

    def live(self) -> NoReturn:
        try:
            self._run()
        except InvariantBroken as error:
            self.tell(Report(ended="broken", invariant=error.invariant, detail=error.detail))
        except PlaybookError as error:
            detail = f"{type(error).__name__}: {error.message}"
            self.tell(Report(ended="error", code=int(error.exit_code), detail=detail))
        except BaseException:  # noqa: BLE001  # whatever it is, the parent must hear of it
            self.tell(Report(ended="bug", detail=traceback.format_exc()))

    def _run(self) -> NoReturn:
        disk = WatchedDisk(self._instants, self._shared, self._baton)
        journal = WatchedJournal.open(self._folder / CASE, disk=disk, now=self._world.clock.now)
        disk.opened(journal._descriptor)
        if self._baton is not None:
            journal._condition = self._baton.condition()
        oracle = Oracle(
            self._world,
            PAIRS,
            self._folder / CASE / "journal.jsonl",
            conditions=self._conditions,
            start=world_of(self._conditions),
            memory=self._folder / MEMORY,
            durable=lambda: disk.durable,
        )
        self._oracle = journal.oracle = oracle
        journal.judged = self._judged
        self._world.on_call = self._on_call
        if journal.state.opened is None:
            journal.append(Opened(case="sweep", tool="sweep", mode="rehearsal", host=this_host()))
        with self._baton.scheduling() if self._baton is not None else nullcontext():
            outcome = self._carry_out(journal)
        troubles = [
            {
                "key": trouble.action.key,
                "reason": trouble.reason,
                "cause": trouble.cause,
                "failed": trouble.failed,
            }
            for trouble in outcome.troubles
        ]
        self.tell(Report(ended="exit", code=int(outcome.exit_code), troubles=troubles))

    def _carry_out(self, journal: Journal) -> Outcome:
        """Do what this process is for."""
        if self._phase == RETIRE:
            return self._alone(journal, RETIREMENT)
        if self._phase == UNDO:
            return self._alone(journal, PUT_BACK)
        if self._conditions.first_minute and "contain_now" not in journal.state.done:
            outcome = self._alone(journal, contain_now(list(OLD.values())))
            if outcome.exit_code:
                return outcome
        return self._engine(journal).run(PLAYBOOK)

    def _alone(self, journal: Journal, step: Step) -> Outcome:
        """One step beside the playbook, planned anew, as its command does it."""
        engine = self._engine(journal)
        engine.pilot = 0
        return engine.run((step,), again=frozenset({step.id}), closes=False)

    def _engine(self, journal: Journal) -> Engine:
        engine = Engine(
            journal,
            self._world.platforms(),
            journaled(Responder(self._conditions), journal),
            waits=self._conditions.waits,
            parallel=self._conditions.parallel,
            pilot=self._conditions.pilot,
            executor=self._baton.executor if self._baton is not None else OneAfterAnother,
        )
        # The inventory's reads are no lanes; side by side they would add nothing but chance.
        engine.world._parallel = 1
        return engine

    def _judged(self) -> _Judged:
        return _Judged(self.tell)

    def _on_call(self, call: Call, moment: str) -> None:
        assert self._oracle is not None
        what = f"{moment} {call.operation} {call.target}"
        if moment == "before":
            if self._baton is not None:
                self._baton.pass_on()
            self._calls.append(f"{call.operation} {call.target}")
            self._instants.met(what)
            self._called_at.append(self._shared[Shared.INSTANTS])
            self._calls_since_intent += self._oracle.has_create_intent()
            for stranger in self._part.strangers:
                if stranger.at == (len(self._calls) if stranger.at_once else self._calls_since_intent):
                    act_as(stranger, self._world, self._oracle)
            with self._judged():
                self._oracle.before_call(call)
        else:
            with self._judged():
                self._oracle.after_call(call)
            self._instants.met(what)
            if self._baton is not None:
                self._baton.pass_on()


def run_child(folder: Path, conditions: Conditions, part: Part, number: int, phase: str = RUN) -> Report:
    """Fork one process of a case and wait for its end. The caller must not have started a thread."""
    assert threading.active_count() == 1, "a child is forked before any thread is started"
    shared = Shared()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            if conditions.mutant:
                MUTANTS[conditions.mutant].patch()
            _Child(folder, conditions, part, number, phase, shared, writing).live()
        finally:
            os._exit(99)
    os.close(writing)
    content, late = _read(reading)
    if late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if late:
        report = Report(ended="timeout", detail=f"no end after {TIMEOUT_S} s")
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        report = Report(ended="killed")
    elif content:
        report = Report(**json.loads(content))
    else:
        report = Report(ended="bug", detail=f"ended with status {status} and said nothing")
    report.instants, report.durable = shared[Shared.INSTANTS], shared[Shared.DURABLE]
    shared.close()
    return report


def _read(descriptor: int) -> tuple[bytes, bool]:
    content, deadline = b"", time.monotonic() + TIMEOUT_S
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while True:
            ready, _, _ = select.select([file], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return content, True
            piece = file.read(65536)
            if not piece:
                return content, False
            content += piece
