"""Lanes side by side, made deterministic: one thread runs at a time, and the seed says which one after every event."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from playbook import lanes


class _Runner(threading.Thread):
    """A lane's thread: it runs only while it holds the baton."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.may_run = threading.Semaphore(0)
        self.has_stopped = threading.Semaphore(0)
        self.until: Callable[[], bool] | None = None
        self.finished = False
        self._work = work

    def run(self) -> None:
        self.may_run.acquire()
        self._work()
        self.finished = True
        self.has_stopped.release()


class Baton:
    """Passed on at every port call and every sync; whoever is not given it stands still."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._runners: list[_Runner] = []
        self._born = 0
        self._main = threading.current_thread()

    # -- the running thread's side --

    def pass_on(self, until: Callable[[], bool] | None = None) -> None:
        """Let the seed choose who goes on; return when it is this thread's turn again and `until` holds."""
        thread = threading.current_thread()
        if isinstance(thread, _Runner):
            thread.until = until
            thread.has_stopped.release()
            thread.may_run.acquire()
        elif until is not None:
            while not until():
                self._step()

    def condition(self) -> _Condition:
        """For the journal in place of its own: waiting on it passes the baton on."""
        return _Condition(self)

    # -- the engine's side --

    def executor(self, width: int) -> _Pool:
        """For the engine in place of a thread pool."""
        del width
        return _Pool(self)

    @contextmanager
    def scheduling(self) -> Iterator[None]:
        """Have the engine wait for its lanes by running them, one step at a time."""
        original = lanes.wait
        lanes.wait = self._wait  # type: ignore[assignment]
        try:
            yield
        finally:
            lanes.wait = original

    def add(self, work: Callable[[], None]) -> None:
        self._born += 1
        runner = _Runner(f"lane-{self._born}", work)
        self._runners.append(runner)
        runner.start()

    def _wait(
        self, futures: Any, timeout: float | None = None, return_when: str = "ALL_COMPLETED"
    ) -> tuple[set[Future[Any]], set[Future[Any]]]:
        """Stand in for `concurrent.futures.wait`. The time-out is left out: virtual time passes by sleeping alone."""
        del timeout
        enough = 1 if return_when == "FIRST_COMPLETED" else len(futures)
        while sum(future.done() for future in futures) < enough:
            self._step()
        done = {future for future in futures if future.done()}
        return done, set(futures) - done

    def _step(self) -> None:
        """Give the baton to one of those that can go on, until it passes it back."""
        ready = [runner for runner in self._runners if runner.until is None or runner.until()]
        runner = self._random.choice(ready)
        runner.until = None
        runner.may_run.release()
        runner.has_stopped.acquire()
        if runner.finished:
            self._runners.remove(runner)
            runner.join()


class _Pool(Executor):
    def __init__(self, baton: Baton) -> None:
        self._baton = baton

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments, **named))
            except BaseException as error:  # noqa: BLE001  # a future carries whatever was raised
                future.set_exception(error)

        self._baton.add(work)
        return future


class _Condition:
    """A condition variable under the baton: only one thread runs, so the lock itself is never contended."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._notified = 0
        self._holder: threading.Thread | None = None

    def __enter__(self) -> None:
        assert self._holder is None, "the baton was passed on by a thread that holds the journal's lock"
        self._holder = threading.current_thread()

    def __exit__(self, *_error: object) -> None:
        self._holder = None

    def wait(self) -> None:
        seen = self._notified
        self._holder = None
        self._baton.pass_on(until=lambda: self._notified > seen)
        self._holder = threading.current_thread()

    def notify_all(self) -> None:
        self._notified += 1
