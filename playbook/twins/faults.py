"""What can go wrong around a call, injected from outside: the twins' own logic knows nothing of it.

A rule is a kind, the operations it strikes, and when: the first time, the n-th, a number of times, or by chance from
a seed. Its text form is `KIND[:OPERATION[:WHEN]]`, with WHEN one of `3` (the third call), `2x5` (the second and the
four after it) and `25%`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NoReturn

from playbook.errors import AwsError, CircleCiError, CredentialsError, Effect, ServiceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from playbook.twins.clock import VirtualClock

CIRCLECI: Final = "circleci"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One remote call of a twin."""

    service: str
    """`iam`, `sts`, `cloudtrail` or `circleci`."""
    operation: str
    """The name of the method in `ports`, such as `create_access_key`; `identify` and `run_pipeline` too."""
    target: str
    """`account/user/key id`, or the sink's id and the variable's name."""
    write: bool


class Kind(StrEnum):
    """The faults by the names a command line knows them by."""

    THROTTLE = "throttle"
    DENY = "deny"
    DROP_REQUEST = "drop-request"
    DROP_REPLY = "drop-reply"
    SERVER_ERROR = "server-error"
    SERVER_ERROR_APPLIED = "server-error-applied"
    EXPIRED = "expired"
    DELAY = "delay"
    CRASH = "crash"
    CRASH_AFTER = "crash-after"


FAULTS: Final[Mapping[str, str]] = {
    Kind.THROTTLE: "answered with Throttling or HTTP 429; nothing happens",
    Kind.DENY: "answered with AccessDenied or HTTP 403; nothing happens",
    Kind.DROP_REQUEST: "lost on its way there; nothing happens, and nobody can know",
    Kind.DROP_REPLY: "takes effect, and its answer is lost",
    Kind.SERVER_ERROR: "answered with HTTP 500; nothing happens, and nobody can know",
    Kind.SERVER_ERROR_APPLIED: "takes effect, and is answered with HTTP 500",
    Kind.EXPIRED: "refused, because the operator's credentials have expired",
    Kind.DELAY: "takes a minute",
    Kind.CRASH: "the process is killed just before the call",
    Kind.CRASH_AFTER: "the process is killed after the effect, before its answer",
}
"""What becomes of a call that a fault of this name strikes."""

READ_RETRIES: Final = 4
"""How many bad answers the real clients sit out on a read, which a twin's port therefore never shows."""
BACKOFF_S: Final = 1.0
DELAY_S: Final = 60.0
_AFTER: Final = frozenset({Kind.DROP_REPLY, Kind.SERVER_ERROR_APPLIED, Kind.CRASH_AFTER})
_TRANSIENT: Final = frozenset(
    {Kind.THROTTLE, Kind.DROP_REQUEST, Kind.DROP_REPLY, Kind.SERVER_ERROR, Kind.SERVER_ERROR_APPLIED}
)
_WHEN = re.compile(r"(?:(?P<chance>\d{1,3})%|(?P<nth>[1-9]\d{0,5})(?:x(?P<times>[1-9]\d{0,5}))?)")
_OPERATION = re.compile(r"[a-z_*?]+")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One fault to inject; without an operation it strikes writes alone, where the harm would be."""

    kind: Kind
    operation: str = ""
    """A pattern over `Call.operation`; empty: any write."""
    nth: int = 1
    """The first matching call that is struck."""
    times: int = 1
    chance: float | None = None
    """Instead of `nth` and `times`: each matching call is struck with this probability."""

    def matches(self, call: Call) -> bool:
        """Whether the rule counts this call."""
        return fnmatchcase(call.operation, self.operation) if self.operation else call.write


def parse(text: str) -> Rule:
    """Read a rule as a command line gives it: `throttle`, `drop-reply:create_access_key`, `deny:put_*:3`."""
    name, _, rest = text.partition(":")
    operation, _, when = rest.partition(":")
    found = _WHEN.fullmatch(when or "1")
    if name not in FAULTS or found is None or not _OPERATION.fullmatch(operation or "*"):
        raise UsageError(
            f"There is no fault {text!r}.",
            remedy=f"Write KIND, KIND:OPERATION or KIND:OPERATION:WHEN; the kinds are {', '.join(FAULTS)}.",
        )
    chance = found["chance"]
    return Rule(
        kind=Kind(name),
        operation=operation,
        nth=int(found["nth"] or 1),
        times=int(found["times"] or 1),
        chance=None if chance is None else int(chance) / 100,
    )


class Faults:
    """The rules in force and how often each was met. Counts are the process's own, so a resumed run counts anew."""

    def __init__(self, rules: Iterable[Rule | str] = (), *, seed: int = 0) -> None:
        self.rules = tuple(parse(rule) if isinstance(rule, str) else rule for rule in rules)
        self._met = [0] * len(self.rules)
        self._random = random.Random(seed)  # noqa: S311  # a drill is replayed from its seed
        self._lock = threading.Lock()
        self.struck: dict[Kind, int] = {}
        """How often each kind has struck, for a closing table."""

    def before(self, call: Call, clock: VirtualClock, *, retries: int = 0) -> None:
        """Strike before the effect."""
        self._strike(call, clock, retries, after=False)

    def after(self, call: Call, clock: VirtualClock, *, retries: int = 0) -> None:
        """Strike once the effect is in the world."""
        self._strike(call, clock, retries, after=True)

    def _strike(self, call: Call, clock: VirtualClock, retries: int, *, after: bool) -> None:
        """Raise, kill or wait. A read that may succeed later is tried again up to `retries` times, as clients do."""
        patience = 0 if call.write else retries
        while True:
            kinds = self._due(call, after=after)
            if Kind.DELAY in kinds:
                clock.advance(DELAY_S)
            harmful = [kind for kind in kinds if kind is not Kind.DELAY]
            if not harmful:
                return
            if patience == 0 or not _TRANSIENT.issuperset(harmful):
                break
            patience -= 1
            clock.advance(BACKOFF_S)
        _raise(harmful[0], call)

    def _due(self, call: Call, *, after: bool) -> list[Kind]:
        due: list[Kind] = []
        with self._lock:
            for number, rule in enumerate(self.rules):
                if (rule.kind in _AFTER) is not after or not rule.matches(call):
                    continue
                self._met[number] += 1
                if rule.chance is None:
                    strikes = rule.nth <= self._met[number] < rule.nth + rule.times
                else:
                    strikes = self._random.random() < rule.chance
                if strikes:
                    due.append(rule.kind)
                    self.struck[rule.kind] = self.struck.get(rule.kind, 0) + 1
        return due


def _raise(kind: Kind, call: Call) -> NoReturn:
    if kind in (Kind.CRASH, Kind.CRASH_AFTER):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind is Kind.EXPIRED:
        raise CredentialsError(
            f"The credentials for {_service_name(call)} have expired.",
            remedy="Sign in again; `resume` goes on where this stopped.",
        )
    raise _error(kind, call)


def _error(kind: Kind, call: Call) -> ServiceError:
    circleci = call.service == CIRCLECI
    code, status, effect, retryable = {
        Kind.THROTTLE: ("HTTP429", 429, Effect.NONE, True) if circleci else ("Throttling", 400, Effect.NONE, True),
        Kind.DENY: ("HTTP403", 403, Effect.NONE, False) if circleci else ("AccessDenied", 403, Effect.NONE, False),
        Kind.SERVER_ERROR: _internal(circleci=circleci),
        Kind.SERVER_ERROR_APPLIED: _internal(circleci=circleci),
        Kind.DROP_REQUEST: ("Timeout", None, Effect.UNKNOWN, True),
        Kind.DROP_REPLY: ("Disconnected", None, Effect.UNKNOWN, True),
    }[kind]
    error = CircleCiError if circleci else AwsError
    return error(call.operation, code=code, status=status, effect=effect, retryable=retryable)


def _internal(*, circleci: bool) -> tuple[str, int | None, Effect, bool]:
    return ("HTTP500" if circleci else "InternalFailure", 500, Effect.UNKNOWN, True)


def _service_name(call: Call) -> str:
    return "CircleCI" if call.service == CIRCLECI else "AWS"
