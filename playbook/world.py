"""A world bound to a case: the platforms, the secrets in memory, and what the journal remembers of each action."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from playbook.errors import GuardError
from playbook.ports import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from playbook.journal import Journal
    from playbook.ports import Attempt, Aws, CircleCi, Clock, Credential, Evidence, Hole, Identity, Platforms
    from playbook.secret import Secret

T = TypeVar("T")
R = TypeVar("R")


@dataclass(kw_only=True)
class _Shared:
    """A reading in common: when it began, and what it gave once it was done."""

    began: float
    result: Any = None


class CaseWorld:
    """Implements `ports.World`; given to a step or to `observe`, it is a `ports.View`."""

    def __init__(
        self, platforms: Platforms, journal: Journal, *, waits: Waits | None = None, parallel: int = 1
    ) -> None:
        self._platforms = platforms
        self._journal = journal
        self._waits = waits or Waits()
        self._parallel = parallel
        self._held: dict[str, Credential | Secret] = {}
        self._looks: dict[str, list[Evidence]] = {}
        self._shared: dict[str, _Shared] = {}
        self._lock = threading.Lock()

    @property
    def accounts(self) -> tuple[str, ...]:
        """The ids of the named AWS accounts."""
        return tuple(sorted(self._platforms.aws))

    @property
    def unopened(self) -> tuple[Hole, ...]:
        """The AWS accounts that should have been opened and were not."""
        return self._platforms.unopened

    @property
    def circleci(self) -> CircleCi:
        """CircleCI."""
        return self._platforms.circleci

    @property
    def clock(self) -> Clock:
        """The clock of this world."""
        return self._platforms.clock

    @property
    def waits(self) -> Waits:
        """The waits in force."""
        return self._waits

    @property
    def held(self) -> Mapping[str, Credential | Secret]:
        """The secrets in memory, by the name of their credential."""
        return MappingProxyType(self._held)

    def aws(self, account: str) -> Aws:
        """One of `accounts`; an action that names another one was not planned for this world."""
        try:
            return self._platforms.aws[account]
        except KeyError:
            raise GuardError(
                f"The plan names the AWS account {account}, which this run is not connected to.",
                remedy="Name its profile with --profile or a role in it with --role-arn. Nothing was changed.",
            ) from None

    def identify(self, credential: Credential) -> Identity | None:
        """Who STS says the credential is; None while it is not accepted."""
        return self._platforms.identify(credential)

    def accepts(self, credential: Credential, service: str, region: str) -> bool | None:
        """Whether a service accepts the credential's signature; None when it cannot be told."""
        return self._platforms.accepts(credential, service, region)

    def past(self, key: str) -> tuple[Attempt, ...]:
        """The intents so far of one action, oldest first."""
        return self._journal.attempts(key)

    def verdict(self, key: str) -> Evidence | None:
        """The evidence of the action's `Verified`, when that is its last word."""
        return self._journal.verdict(key)

    def looks(self, key: str) -> tuple[Evidence, ...]:
        """The evidence of this process's pending looks at one action."""
        return tuple(self._looks.get(key, ()))

    def looked(self, key: str, evidence: Evidence | None) -> None:
        """Remember a pending look, or (None) forget them once the action moved."""
        with self._lock:
            if evidence is None:
                self._looks.pop(key, None)
            else:
                self._looks.setdefault(key, []).append(evidence)

    def share(self, name: str, read: Callable[[], R], *, since: float) -> R | None:
        """A reading in common; nobody waits for another's, so that no thread is held."""
        with self._lock:
            known = self._shared.get(name)
            if known is not None and known.began >= since:
                return cast("R | None", known.result)
            mine = self._shared[name] = _Shared(began=self.clock.monotonic())
        try:
            result = mine.result = read()
        except BaseException:
            with self._lock:
                self._shared.pop(name, None)
            raise
        return result

    def gather(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Map side by side, at most `parallel` at once."""
        listed = list(items)
        if self._parallel <= 1 or len(listed) <= 1:
            return [function(item) for item in listed]
        with ThreadPoolExecutor(min(self._parallel, len(listed))) as pool:
            return list(pool.map(function, listed))

    def hold(self, name: str, secret: Credential | Secret) -> None:
        """Keep a secret under its credential's name."""
        with self._lock:
            self._held[name] = secret

    def drop(self, name: str) -> None:
        """Let go of a secret nothing needs any more."""
        with self._lock:
            self._held.pop(name, None)

    def obtain(self, source: str) -> Secret:
        """A new value from where the responder said."""
        return self._platforms.obtain(source)
