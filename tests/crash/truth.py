"""The twins behind every lag, and what the oracle must remember of a case because neither they nor the journal do."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playbook.ports import Sink
from playbook.secret import Secret
from playbook.twins.pipeline import context_sink, project_sink
from playbook.twins.state import Key, Rights, RunJob, RunPipeline, RunWorkflow, State, Value, Variable
from playbook.twins.world import TwinWorld


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One place where a credential is stored, and whose it was at the start."""

    sink: Sink
    id_variable: str
    secret_variable: str
    account: str
    user: str

    @property
    def owner(self) -> str:
        return f"{self.account}/{self.user}"


def pairs_of(state: State, names: tuple[str, str]) -> tuple[Pair, ...]:
    """The places of a world before anything happens in it."""
    sinks = [(context_sink(item), item.variables) for item in state.circleci.contexts.values()]
    sinks += [(project_sink(item), item.variables) for item in state.circleci.projects.values()]
    found = []
    for sink, variables in sinks:
        if names[0] not in variables:
            continue
        holder = next(
            (account.id, key.user)
            for account in state.accounts.values()
            for key in account.keys.values()
            if Value.of(Secret(key.id)).sha256 == variables[names[0]].value.sha256
        )
        found.append(Pair(sink=sink, id_variable=names[0], secret_variable=names[1], account=holder[0], user=holder[1]))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What one pair truly holds."""

    works: bool
    id_of: str | None
    """The key whose id is stored; None for a value that no key here has."""
    secret_of: str | None

    @property
    def key(self) -> str | None:
        return self.id_of if self.id_of == self.secret_of else None

    @property
    def torn(self) -> bool:
        return self.id_of != self.secret_of


class Truth:
    """The twins without their lags."""

    def __init__(self, world: TwinWorld, pairs: tuple[Pair, ...]) -> None:
        self.world = world
        self.pairs = pairs
        self._digests: dict[str, str] = {}
        self._stored_now: dict[str, Stored] | None = None

    @property
    def now(self) -> float:
        return self.world.clock.now().timestamp()

    def all_keys(self) -> Iterator[tuple[str, Key]]:
        """Every key ever, with `account/user`."""
        for account in self.world.state.accounts.values():
            for key in account.keys.values():
                yield f"{account.id}/{key.user}", key

    def rights(self, owner: str) -> Rights:
        """Tags and policies of a user, `account/user`."""
        account, _, user = owner.partition("/")
        history = self.world.state.accounts[account].rights.get(user)
        return (history[-1].value if history else None) or Rights()

    def workflow(self, workflow_id: str) -> tuple[RunPipeline, RunWorkflow] | None:
        """A workflow with its pipeline."""
        for pipeline in self.world.state.circleci.pipelines.values():
            for workflow in pipeline.workflows:
                if workflow.id == workflow_id:
                    return pipeline, workflow
        return None

    def runs(self, job: RunJob) -> bool:
        """Whether a job has begun and is not over."""
        return job.started_at is not None and (job.stopped_at is None or job.stopped_at.timestamp() > self.now)

    def find(self, key_id: str) -> Key | None:
        return next((key for _, key in self.all_keys() if key.id == key_id), None)

    def ours(self, owner: str | None = None) -> list[Key]:
        """The keys that this run made and that still exist."""
        return [key for whose, key in self.all_keys() if key.tag and key.status is not None and owner in {None, whose}]

    def stored(self) -> dict[str, Stored]:
        """What every pair holds, by the sink's id; worked out once until something changes it."""
        if self._stored_now is None:
            self._stored_now = {pair.sink.id: self._stored(pair) for pair in self.pairs}
        return self._stored_now

    def changed(self) -> None:
        """Somebody, we or a stranger, may have changed something."""
        self._stored_now = None

    def _stored(self, pair: Pair) -> Stored:
        variables = self.variables(pair.sink)
        id_of = self._owner(variables.get(pair.id_variable), secret=False)
        secret_of = self._owner(variables.get(pair.secret_variable), secret=True)
        works = self.world.works(pair.sink, pair.id_variable, pair.secret_variable)
        return Stored(works=works, id_of=id_of, secret_of=secret_of)

    def variables(self, sink: Sink) -> Mapping[str, Variable]:
        circleci = self.world.state.circleci
        if sink.id in circleci.contexts:
            return circleci.contexts[sink.id].variables
        return circleci.projects[sink.id].variables

    def _owner(self, variable: Variable | None, *, secret: bool) -> str | None:
        wanted = variable.value.sha256 if variable is not None else None
        if wanted is None:
            return None
        for _, key in self.all_keys():
            if secret:
                digest = key.secret.sha256 if key.secret is not None else None
            else:
                digest = self._digests.setdefault(key.id, hashlib.sha256(key.id.encode()).hexdigest())
            if digest == wanted:
                return key.id
        return None


class Memory:
    """Facts that neither the twins nor the journal keep, one JSON line each in a file that outlives the child."""

    def __init__(self, path: Path | None) -> None:
        self.requests: Counter[int] = Counter()
        """Create requests handed to the network, by the intent they were sent under."""
        self.strangers: set[str] = set()
        """Keys that somebody else made."""
        self.foreign_puts: set[str] = set()
        """Sinks that somebody else wrote."""
        self.unseen: dict[str, tuple[str, str, float]] = {}
        """What a stranger did and no reply has shown us yet: what, where (a user or a sink), and when it will show."""
        self.late: set[tuple[str, str, str]] = set()
        """What a stranger did, what and where, that nobody had to see: it came, or showed, after our last look."""
        self.broken_blindly: dict[str, str] = {}
        """Sinks that an effect of ours broke because a stranger had written after our last look: with which key."""
        self.between_writes: set[str] = set()
        """Sinks that worked until we began to write their pair."""
        self.switched: dict[str, float] = {}
        """By user, since when every place of it has held one working key of ours."""
        self.switched_off: dict[str, float] = {}
        """Keys that were there before and that an effect of ours switched off: when, the last time."""
        self.stale: set[str] = set()
        """Sinks not read again since the last effect on their user or on them."""
        self._descriptor = -1
        if path is not None:
            if path.exists():
                self.recall(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def recall(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            self._take(*json.loads(line))

    def note(self, what: str, *arguments: Any) -> None:
        self._take(what, *arguments)
        if self._descriptor >= 0:
            os.write(self._descriptor, json.dumps([what, *arguments]).encode() + b"\n")

    def _take(self, what: str, *arguments: Any) -> None:
        match what:
            case "request":
                self.requests[arguments[0]] += 1
            case "stranger":
                doing, what, where, shows_at = arguments
                self.unseen[doing] = (what, where, shows_at)
                if what == "key":
                    self.strangers.add(doing)
                elif what == "put":
                    self.foreign_puts.add(where)
            case "late":
                self.late.add((arguments[0], arguments[1], arguments[2]))
            case "saw":
                self.unseen.pop(arguments[0], None)
            case "read":
                self.stale.discard(arguments[0])
            case "effect":
                self.stale.update(arguments[0])
            case "tore":
                self.between_writes.add(arguments[0])
            case "mended":
                self.between_writes.discard(arguments[0])
            case "broke-blindly":
                self.broken_blindly[arguments[0]] = arguments[1]
            case "switched":
                self.switched[arguments[0]] = arguments[1]
            case "switched back":
                self.switched.pop(arguments[0], None)
            case "off":
                self.switched_off[arguments[0]] = arguments[1]
            case _:
                raise AssertionError(what)
