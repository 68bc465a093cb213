"""The journal's file, verified and folded for the oracle: whole records alone, and only those a sync has covered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from crash.wire import name_of

GENESIS = "0" * 64
SUM = b',"sum":"'


class InvariantBroken(BaseException):  # the verdict's own word; a BaseException, so that nothing swallows it
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


def broken(invariant: str, detail: str) -> NoReturn:
    raise InvariantBroken(invariant, detail)


@dataclass
class Attempt:
    """One durable intent, and its end: None while it is open, else `applied`, or the effect of its failure."""

    seq: int
    basis: Mapping[str, Any]
    end: str | None = None
    applied: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """The journal file's whole records, verified and folded one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.count = 0
        self.case = ""
        self.attempts: dict[str, list[Attempt]] = {}
        self.unfinished: dict[str, bool] = {}
        """By action: whether some try of it may have had a part of its effect, and none after it was carried out."""
        self.verified: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.standing: dict[str, Mapping[str, Any]] = {}
        """The evidence of what is verified and was not sent back to planned since."""
        self.answers: dict[str, Any] = {}
        self.orphans: set[str] = set()
        self.approvals: dict[str, str] = {}
        self.set_aside: set[str] = set()
        """Keys that stay, by a durable decision, only until their successor is everywhere."""
        self._head = GENESIS
        self._plans: dict[str, list[dict[str, Any]]] = {}
        self._approved: dict[str, tuple[Mapping[str, Any], ...]] = {}
        """By step, the actions of all its rounds that a durable approval covers."""

    def advance(self, durable: int) -> list[dict[str, Any]]:
        """Take in the records that became durable; a line that does not verify breaks I13."""
        if durable <= self.length:
            return []
        with self.path.open("rb") as file:
            file.seek(self.length)
            content = file.read(durable - self.length)
        if not content.endswith(b"\n"):
            broken("I13", f"what was called durable ends in the middle of record {self.count}")
        taken = [self._take(line) for line in content[:-1].split(b"\n")]
        self.length = durable
        return taken

    def _take(self, line: bytes) -> dict[str, Any]:
        prefix, _, rest = line.rpartition(SUM)
        total = hashlib.sha256(self._head.encode() + prefix).hexdigest()
        if rest != total.encode() + b'"}':
            broken("I13", f"record {self.count} is no part of the chain: {line[:80]!r}")
        record: dict[str, Any] = json.loads(prefix + b"}")
        if record["seq"] != self.count:
            broken("I13", f"record {self.count} calls itself {record['seq']}")
        self._head = total
        self.count += 1
        self._fold(record)
        return record

    def _fold(self, record: Mapping[str, Any]) -> None:
        key = record.get("key", "")
        match record["type"]:
            case "Opened":
                self.case = record["case"]
            case "Answered":
                self.answers[record["id"]] = record["value"]
            case "Planned":
                parts = self._plans.setdefault(record["step"], [])
                if record["part"] == 0:
                    parts[:] = [part for part in parts if part["round"] != record["round"]]
                parts.append(dict(record))
            case "Approved":
                self._approve(record)
            case "Reset":
                if record.get("keep"):
                    self.set_aside.add(record["lost"])
                for sent_back in record["keys"]:
                    self.standing.pop(sent_back, None)
            case "Intended":
                self.attempts.setdefault(key, []).append(Attempt(seq=record["seq"], basis=record.get("basis", {})))
            case "Applied":
                self._end(key, "applied", record["seq"])
                self.attempts[key][-1].applied = record.get("evidence", {})
                self.unfinished[key] = False
            case "Failed":
                self._end(key, record["effect"], record["seq"])
                if record["effect"] == "unknown":
                    self.unfinished[key] = True
            case "Verified":
                self.verified[key] = (record["seq"], record.get("evidence", {}))
                self.standing[key] = record.get("evidence", {})
                self.unfinished[key] = False
            case "Observed":
                self.orphans.update([record["evidence"]["orphan"]] if "orphan" in record.get("evidence", {}) else [])

    def _end(self, key: str, how: str, seq: int) -> None:
        if not self.attempts.get(key):
            broken("I1", f"record {seq} ends {key}, which no record intended")
        self.attempts[key][-1].end = how

    def applied(self, key: str) -> bool:
        """Whether it was ever carried out, by its record."""
        return any(attempt.end == "applied" for attempt in self.attempts.get(key, []))

    def is_open(self, key: str) -> bool:
        """Whether its newest intent has no end yet: only then may its request be sent."""
        return bool(self.attempts.get(key)) and self.attempts[key][-1].end is None

    def may_be_half_done(self, key: str) -> bool:
        """Whether an intent of it, this one or an earlier one, may have left half of its effect behind."""
        return self.is_open(key) or self.unfinished.get(key, False) or self._was_left(key)

    def _was_left(self, key: str) -> bool:
        # A process that died left its intent without an end; the next intent does not answer for it.
        applied = max((a.seq for a in self.attempts.get(key, []) if a.end == "applied"), default=-1)
        verified = self.verified.get(key, (-1, {}))[0]
        return any(a.end is None and a.seq > max(applied, verified) for a in self.attempts.get(key, []))

    def _approve(self, record: Mapping[str, Any]) -> None:
        self.approvals[record["subject"]] = record["digest"]
        step = record["subject"].removeprefix("step:")
        parts = self._plans.get(step, [])
        if parts and parts[-1]["digest"] == record["digest"]:
            self._approved[step] = tuple(action for part in parts for action in part.get("actions", []))

    def approved_actions(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every action of a plan that a durable approval names, with its step."""
        for step, actions in self._approved.items():
            yield from ((step, action) for action in actions)

    def approves(self, key: str, *, step: str = "") -> bool:
        """Whether an approved plan (of a step) holds the action with this idempotency key."""
        return any(name_of(action) == key for where, action in self.approved_actions() if step in {"", where})

    def may_have_done(self, key: str) -> bool:
        """Whether some try of it may have had an effect."""
        return any(attempt.end != "none" for attempt in self.attempts.get(key, []))

    def of_kind(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [(step, action) for step, action in self.approved_actions() if f"{action['kind']}:" == kind]

    def made(self, create: str) -> str | None:
        """The id that the newest carried-out try of a create named."""
        applied = [attempt.applied for attempt in self.attempts.get(create, []) if attempt.end == "applied"]
        return str(applied[-1]["key_id"]) if applied else None
