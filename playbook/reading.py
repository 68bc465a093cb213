"""The file of an inventory under way: what was read whole, so that an interrupted one goes on where it was.

One line a row, and after the rows of each part a line that says that the part is whole. Nothing here is proof of
anything: it spares calls, is used for a quarter of an hour, and goes when the inventory is finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from playbook.errors import JournalError, JournalLockedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE: Final = "inventory.reading.jsonl"
FRESH: Final = timedelta(minutes=15)
"""What is older is read again: a key that a stranger made meanwhile must not stay unseen."""
SIZE_MAX: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one part, as lines, and when they were read."""

    at: datetime
    lines: tuple[str, ...]


class Reading:
    """The parts of one inventory, held by a lock that dies with the process; a context manager."""

    def __init__(self, folder: Path, *, scope: str, now: datetime) -> None:
        """`scope` says what is read with which options: parts of another inventory are not taken up."""
        self._path = folder / FILE
        self._scope = scope
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "r+b")
        except OSError as error:
            raise JournalError(
                f"{self._path} cannot be opened: {error.strerror}.",
                remedy="Check the folder's owner, permissions and free space, or name another one with --case.",
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise JournalLockedError(
                f"Another inventory is writing {self._path}.", remedy="Wait for it, or name another folder with --case."
            ) from None
        self._kept = self._taken_up(now)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, and so of its lock."""
        self._file.close()

    @property
    def taken_up(self) -> int:
        """How many parts an earlier, interrupted run had read."""
        return len(self._kept)

    def known(self, key: str) -> Part | None:
        """A part that was read whole, lately, with the same options."""
        return self._kept.get(key)

    def keep(self, key: str, lines: Sequence[str], at: datetime) -> None:
        """Write a whole part in one go; a crash in the middle leaves a tail that is not taken up."""
        text = "".join(f"{line}\n" for line in (*lines, json.dumps({"part": key, "at": at.isoformat()})))
        with self._lock:
            self._file.write(text.encode())
            self._file.flush()

    def finish(self) -> None:
        """The inventory is whole: the next one begins anew."""
        self._path.unlink(missing_ok=True)

    def _taken_up(self, now: datetime) -> dict[str, Part]:
        kept: dict[str, Part] = {}
        lines: list[str] = []
        texts = self._file.read(SIZE_MAX).decode("utf-8", "replace").split("\n")[:-1]
        if not texts or texts[0] != self._header():
            return kept
        for text in texts[1:]:
            try:
                row = json.loads(text)
            except ValueError:
                return kept
            if "part" not in row:
                lines.append(text)
                continue
            at = datetime.fromisoformat(row["at"])
            if now - FRESH <= at <= now:
                kept[row["part"]] = Part(at=at, lines=tuple(lines))
            lines = []
        return kept

    def _begin(self) -> None:
        """Write what is still good anew, so that a torn tail or an old part is gone."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{self._header()}\n".encode())
        for key, part in self._kept.items():
            self.keep(key, part.lines, part.at)

    def _header(self) -> str:
        return json.dumps({"reading": 1, "scope": self._scope})
