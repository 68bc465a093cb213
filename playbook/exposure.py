"""Which stored secrets a stranger could have read, and which were rotated since: pure functions over an inventory.

Nothing here is taken on trust. A write proves that a value was written, not that it changed, so where a variable is
known to hold a key, the key decides: one that existed while the window was open is exposed however often it was
written again. What nothing proves stays unknown, and unknown is never counted as done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.correlate import CLOCKS_APART, NOT_SECRET, variable_id
from playbook.inventory import secret_id
from playbook.ports import SecretKind, SinkKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.correlate import Match, StoredVariable
    from playbook.inventory import Inventory
    from playbook.ports import AccessKey, StoredSecret

NOT_SAID_FROM: Final = "1970-01-01T00:00:00Z"
NOT_SAID_UNTIL: Final = "9999-12-31T23:59:59Z"
"""Answers that stand for no answer: a window must be two times, in the answers file too."""
_SURE: Final = frozenset({"strong", "confirmed"})


class Exposure(StrEnum):
    """What an inventory says of each secret."""

    EXPOSED = "exposed"
    ROTATED = "rotated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An exposure and the sentence that says why."""

    exposure: Exposure
    why: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """When strangers could read; None is an end that nobody has said."""

    start: datetime | None = None
    end: datetime | None = None

    @classmethod
    def of(cls, start: str, end: str) -> Window | None:
        """Read the two texts; None when neither says anything."""
        times = [
            None if not text or text == not_said else datetime.fromisoformat(text)
            for text, not_said in ((start, NOT_SAID_FROM), (end, NOT_SAID_UNTIL))
        ]
        return cls(start=times[0], end=times[1]) if any(times) else None

    def held(self, at: datetime) -> bool | None:
        """Whether what exists since then was there while the window was open; None when that is open too."""
        if self.end is not None:
            return at <= self.end
        return True if self.start is not None and at <= self.start else None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the journal of a case proves, each read back in its place."""

    since: datetime | None = None
    """When the case was opened: everything in it was written after that."""
    written: frozenset[str] = frozenset()
    """The ids of variables with a new value."""
    off: frozenset[str] = frozenset()
    """The access keys that were switched off."""


@dataclass(frozen=True, kw_only=True)
class BurnDown:
    """How far the rotation is, settings and other things that are no secrets left out."""

    total: int
    rotated: int
    exposed: int
    unknown: int

    def text(self) -> str:
        """Such as `37 of 52 rotated; 12 exposed, 3 unknown`."""
        return f"{self.rotated} of {self.total} rotated; {self.exposed} exposed, {self.unknown} unknown"


NO_PROOF: Final = Proof()


def judge(inventory: Inventory, window: Window | None, proof: Proof = NO_PROOF) -> dict[str, Verdict]:
    """A verdict for every secret, by its id; what is no secret has none."""
    judged = _Judge(window, _counted(proof, window))
    correlation = inventory.correlation()
    by_id = {match.stored.id: match for match in correlation.matches}
    by_secret = {
        variable_id(match.stored.sink, match.secret_name): match
        for match in correlation.matches
        if match.secret_name is not None
    }
    verdicts = {
        stored.id: judged.variable(stored, by_id.get(stored.id), by_secret.get(stored.id))
        for stored in inventory.variables
    }
    for secret in inventory.secrets:
        if secret.set and secret.kind is not SecretKind.OIDC_CLAIMS:
            held = inventory.legacy.get(secret_id(secret))
            verdicts[secret_id(secret)] = judged.secret(secret, held.key if held is not None else None)
    return verdicts


def burn_down(inventory: Inventory, verdicts: Mapping[str, Verdict]) -> BurnDown:
    """Count; names that by AWS's convention hold settings do not count."""
    settings = {stored.id for stored in inventory.variables if NOT_SECRET.fullmatch(stored.variable.name)}
    counted = [verdict.exposure for name, verdict in verdicts.items() if name not in settings]
    return BurnDown(
        total=len(counted),
        rotated=counted.count(Exposure.ROTATED),
        exposed=counted.count(Exposure.EXPOSED),
        unknown=counted.count(Exposure.UNKNOWN),
    )


def _counted(proof: Proof, window: Window | None) -> Proof:
    """A case opened while strangers could still read proves nothing of what it wrote."""
    early = window is not None and window.end is not None and proof.since is not None and proof.since <= window.end
    return NO_PROOF if early else proof


class _Judge:
    def __init__(self, window: Window | None, proof: Proof) -> None:
        self.window = window
        self.proof = proof

    def variable(self, stored: StoredVariable, holds: Match | None, beside: Match | None) -> Verdict:
        """By the journal, by the key it holds, or by when it was written."""
        if stored.id in self.proof.written:
            return _rotated("this case wrote it and saw it in place")
        match = holds or beside
        if match is not None and match.key is not None and match.confidence in _SURE:
            found = self._key(match.key)
            if found.exposure is not Exposure.ROTATED or holds is not None or self._off(match.key):
                return found
            return self._secret_of_new_key(stored, match.key)
        variable = stored.variable
        if stored.sink.kind is SinkKind.CONTEXT:
            return self._written(variable.updated_at or variable.created_at, "it was written")
        # A project shows only when a variable was first made; a later write may not move that.
        found = self._written(variable.created_at, "it was made")
        if found.exposure is Exposure.EXPOSED:
            return _unknown("a project does not show whether it was written since it was made")
        return found

    def secret(self, secret: StoredSecret, key: AccessKey | None) -> Verdict:
        """By the key of a legacy integration; by its last change, else by its making."""
        if key is not None:
            return self._key(key)
        if secret.kind is SecretKind.LEGACY_AWS_KEY:
            return _unknown("the key is none of these accounts, and CircleCI does not show when it was written")
        if secret.updated_at is not None and secret.kind is SecretKind.WEBHOOK_SECRET:
            return self._written(secret.updated_at, "the webhook was changed")
        return self._written(secret.created_at, "it was made")

    def _key(self, key: AccessKey) -> Verdict:
        if self._off(key):
            return _rotated(f"its key {key.id} is switched off")
        if self.window is None:
            return _unknown("nobody has said when strangers could read")
        held = self.window.held(key.created_at)
        if held is None:
            return _unknown(f"nobody has said until when strangers could read; its key {key.id} is younger")
        if held:
            return Verdict(exposure=Exposure.EXPOSED, why=f"its key {key.id} existed then and is on")
        return _rotated(f"its key {key.id} was made after that")

    def _secret_of_new_key(self, stored: StoredVariable, key: AccessKey) -> Verdict:
        """The id beside it is a new key's; that this is the new key's secret takes a write of its own."""
        written = stored.variable.updated_at
        if written is None:
            return _unknown(f"the id beside it is new ({key.id}), but this one's own write is not shown")
        if written < key.created_at - CLOCKS_APART:
            why = f"it was written before {key.id}, whose id stands beside it, was made: the pair is broken"
            held = self.window is not None and self.window.held(written)
            return Verdict(exposure=Exposure.EXPOSED if held else Exposure.UNKNOWN, why=why)
        return _rotated(f"written with the id of {key.id}, made after that")

    def _off(self, key: AccessKey) -> bool:
        return not key.is_active or key.id in self.proof.off

    def _written(self, at: datetime | None, what: str) -> Verdict:
        if self.window is None:
            return _unknown("nobody has said when strangers could read")
        if at is None:
            return _unknown("CircleCI does not show when it was written")
        held = self.window.held(at)
        if held is None:
            return _unknown("nobody has said until when strangers could read")
        when = at.date().isoformat()
        if held:
            return Verdict(exposure=Exposure.EXPOSED, why=f"{what} on {when} and not since")
        return _rotated(f"{what} on {when}, after that")


def _rotated(why: str) -> Verdict:
    return Verdict(exposure=Exposure.ROTATED, why=why)


def _unknown(why: str) -> Verdict:
    return Verdict(exposure=Exposure.UNKNOWN, why=why)
