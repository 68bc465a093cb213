"""One pace for all lanes: a token bucket per platform that shrinks when the platform pushes back.

Neither platform publishes its limits (facts: CircleCI 0.5, AWS 12), so the rate is found as TCP finds it: additive
increase on success, halved on a throttle. Lanes share one budget, hence a single `Retry-After` pauses all of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_LIMIT_S: Final = 60.0
"""The longest `Retry-After` that is obeyed: a hostile or broken reply must not stop a run for a day."""
_EVIDENCE: Final = 10
"""Successes within a second from which a rate can be read."""
_MARGIN: Final = 0.8


@final
class Budget:
    """A shared allowance of calls per second; safe to use from any thread."""

    def __init__(
        self,
        *,
        rate: float = 10.0,
        least: float = 0.5,
        most: float = 50.0,
        burst: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._least = least
        self._most = most
        self._burst = burst
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_at = monotonic() - burst / rate
        self._recent: deque[float] = deque()
        self._shrunk_at = float("-inf")

    @property
    def rate(self) -> float:
        """The calls per second allowed now."""
        with self._lock:
            return self._rate

    def take(self) -> None:
        """Wait for this call's turn. Turns are handed out in order, so no thread starves."""
        with self._lock:
            now = self._monotonic()
            turn_at = max(self._next_at, now - self._burst / self._rate)
            self._next_at = turn_at + 1 / self._rate
        if turn_at > now:
            self._sleep(turn_at - now)

    def succeeded(self) -> None:
        """Grow by about one call per second for each second of full use."""
        with self._lock:
            self._rate = min(self._most, self._rate + 1 / self._rate)
            self._recent.append(self._monotonic())
            self._forget()

    def throttled(self, retry_after_s: float | None = None) -> None:
        """Halve the rate, and let nobody go before the platform's `Retry-After` has passed.

        Calls already under way fail together, so they count as one push-back: the rate is halved once a second. A rate
        that was never tried out says nothing: where the last second's successes show what is allowed, they count.
        """
        with self._lock:
            now = self._monotonic()
            if now - self._shrunk_at >= 1.0:
                self._forget()
                shown = len(self._recent)
                allowed = _MARGIN * shown if shown >= _EVIDENCE else self._rate
                self._rate = max(self._least, min(self._rate / 2, allowed))
                # What an idle time may save up is a second's worth, of the rate that is known now.
                self._burst = min(self._burst, max(self._rate, 1.0))
                self._shrunk_at = now
            # A throttled bucket is an empty one: what was saved up for a burst is gone.
            pause_s = min(max(retry_after_s or 0.0, 0.0), PAUSE_LIMIT_S)
            self._next_at = max(self._next_at, now + pause_s)

    def _forget(self) -> None:
        """Keep the successes of the last second; the caller holds the lock."""
        since = self._monotonic() - 1.0
        while self._recent and self._recent[0] < since:
            self._recent.popleft()


def budget_towards(*, loopback: bool, rate: float, most: float) -> Budget:
    """A platform's budget, with a second's worth of burst; a server on this machine starts without a limit.

    It still shrinks when that server throttles.
    """
    return Budget(rate=1000.0, most=1000.0, burst=1000.0) if loopback else Budget(rate=rate, most=most, burst=rate)
