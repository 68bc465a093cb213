"""Time that moves when it is told to, so that a rehearsal never waits."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class VirtualClock:
    """Implements `ports.Clock`: `sleep` returns at once and the time has passed.

    `on_sleep` is told afterwards, so that the passed time can be kept with the rest of the world's state. A `flowing`
    clock runs with the real time besides: for a twin behind a socket, whose callers live in real time.
    """

    def __init__(self, start: datetime, *, flowing: bool = False, on_sleep: Callable[[], None] = lambda: None) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock starts at an aware time")
        self._now = start.astimezone(UTC)
        self._flows_since = time.monotonic() if flowing else None
        self._on_sleep = on_sleep
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The virtual time, in UTC."""
        with self._lock:
            if self._flows_since is None:
                return self._now
            return self._now + timedelta(seconds=time.monotonic() - self._flows_since)

    def monotonic(self) -> float:
        """Seconds since 1970 on the same virtual time: it never jumps apart from `now`, not even over a resume."""
        return self.now().timestamp()

    def advance(self, seconds: float) -> None:
        """Let time pass without telling anyone; time that would go back is ignored."""
        if seconds > 0:
            with self._lock:
                self._now += timedelta(seconds=seconds)

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        if seconds > 0:
            self.advance(seconds)
            self._on_sleep()
