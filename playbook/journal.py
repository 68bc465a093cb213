"""The write-ahead journal of one case: append, recover, read. The only file that writes state.

One JSON object a line, in `msgspec`'s own canonical encoding, with `sum` last: SHA-256 over the previous record's sum
and the exact bytes of this line before its `sum`. Two kinds of damage are told apart: a torn tail (the process or the
machine died in a write) is cut off and kept beside the journal; anything else is corruption and refused, because
truncating there would drop records that were acknowledged.

No record can hold a secret: the encoder knows no `Secret`, and evidence is ids, times and counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from playbook.errors import (
    GuardError,
    JournalDamagedError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    JournalWriteError,
)
from playbook.records import FORMAT, AnyRecord, Intended, Opened, Planned, Reset, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from playbook.ports import Attempt, Evidence

JOURNAL: Final = "journal.jsonl"
LOCK: Final = ".lock"
INVENTORY: Final = "inventory.jsonl"
OURS: Final = re.compile(
    r"journal\.jsonl|journal\.broken-\d+|\.lock|\.new-\S+|log\.jsonl|inventory(\.reading)?\.jsonl|plan\.jsonl|world\.json(\.\S+)?|\.world\S*|report\.(md|json|html)"
)
GENESIS: Final = "0" * 64
SECTOR: Final = 512
LINE_MAX: Final = 16 * 1024
PLAN_LINE_MAX: Final = 256 * 1024
"""For the records that name every place of a key: `Planned`, `Intended` (with its action) and `Reset`."""
JOURNAL_MAX: Final = 1 << 30
_SUM_FIELD: Final = b',"sum":"'
_SUFFIX_LENGTH: Final = len(_SUM_FIELD) + 64 + len(b'"}')
_decoder: Final = msgspec.json.Decoder(AnyRecord)
_encoder: Final = msgspec.json.Encoder()
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""What a forged line makes the decoder raise; a ValueError is text that is not UTF-8."""


def encode(record: AnyRecord, previous_sum: str) -> tuple[bytes, str]:
    """Make the line (without its newline) and the sum that the next record builds on."""
    prefix = _encoder.encode(record)[:-1]
    total = hashlib.sha256(previous_sum.encode() + prefix).hexdigest()
    return prefix + _SUM_FIELD + total.encode() + b'"}', total


def decode(line: bytes, previous_sum: str, seq: int) -> tuple[AnyRecord, str] | None:
    """Verify one line (without its newline) as record `seq`; None when it does not verify.

    Raises `JournalTooNewError` for a line that verifies but was written in a later format.
    """
    if len(line) > PLAN_LINE_MAX + _SUFFIX_LENGTH or len(line) <= _SUFFIX_LENGTH:
        return None
    prefix = line[:-_SUFFIX_LENGTH]
    total = hashlib.sha256(previous_sum.encode() + prefix).hexdigest()
    if line[-_SUFFIX_LENGTH:] != _SUM_FIELD + total.encode() + b'"}':
        return None
    _refuse_newer(prefix + b"}", seq)
    try:
        record = _decoder.decode(prefix + b"}")
        again = _encoder.encode(record)
    except _UNREADABLE:
        return None
    # Only our own encoding counts: this leaves no room for duplicate keys, odd numbers or another order.
    if again != prefix + b"}" or record.seq != seq or record.v != FORMAT:
        return None
    return record, total


class _Version(msgspec.Struct):
    v: int


# Built here, in one thread, as `decoding` would.
_version_decoder: Final = msgspec.json.Decoder(_Version)


def _refuse_newer(text: bytes, seq: int) -> None:
    try:
        version = _version_decoder.decode(text).v
    except _UNREADABLE:
        return
    if version > FORMAT:
        raise JournalTooNewError(
            f"Record {seq} of this journal has format {version}; this version reads up to {FORMAT}.",
            remedy="Install the version that wrote it (see `tool` in its first record). Nothing was changed.",
        )


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What a journal's bytes say."""

    records: tuple[AnyRecord, ...]
    head: str
    """The last record's sum."""
    length: int
    """Bytes of whole records."""
    torn: bytes = b""
    """A tail that a crash left behind; cut off when the journal is opened for writing."""
    lacks_newline: bool = False
    """The last record is whole but for its newline."""


def recover(content: bytes) -> Recovered:
    """Read a journal's bytes; pure. Raises `JournalDamagedError` for anything but a torn tail."""
    records: list[AnyRecord] = []
    head, offset = GENESIS, 0
    while offset < len(content):
        end = content.find(b"\n", offset)
        line = content[offset:] if end < 0 else content[offset:end]
        verified = decode(line, head, len(records))
        if verified is None:
            if _is_torn(content, offset, head, len(records)):
                return Recovered(records=tuple(records), head=head, length=offset, torn=content[offset:])
            raise JournalDamagedError(
                f"Line {len(records) + 1} of the journal (byte {offset}) does not verify: "
                "it was changed, or the disk lost part of it.",
                remedy="Nothing was changed. Keep the folder as evidence, restore the journal from a copy, "
                "or start a new case with `run`: it finds by itself what this one did.",
            )
        record, head = verified
        records.append(record)
        offset = len(content) if end < 0 else end + 1
    return Recovered(
        records=tuple(records), head=head, length=offset, lacks_newline=bool(content) and content[-1:] != b"\n"
    )


def _is_torn(content: bytes, offset: int, head: str, seq: int) -> bool:
    """Whether the rest from `offset` is what a crash can leave: one line cut short, or with an unwritten sector."""
    end = content.find(b"\n", offset)
    if 0 <= end < len(content) - 1:
        return False
    if end < 0:
        # Whole but for one wrong last byte is no cut: a crash leaves a prefix of what was written.
        return decode(content[offset:-1], head, seq) is None
    first = -(-offset // SECTOR) * SECTOR
    return any(
        content[start : start + SECTOR] == b"\0" * SECTOR for start in range(first, len(content) - SECTOR + 1, SECTOR)
    )


# --- The disk -------------------------------------------------------------------------------------------------------


class Disk:
    """The three system calls that durability hangs on; tests put a failing disk in its place."""

    def write(self, descriptor: int, data: bytes) -> int:
        """Write at the end; may be short."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return once it is on the medium; macOS needs F_FULLFSYNC for that."""
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file."""
        os.ftruncate(descriptor, length)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make the folder and its missing parents, private whatever the umask says, and durable."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(path.parent)
    folder.chmod(0o700)


def this_host() -> str:
    """The machine and user that approvals are bound to; a case copied elsewhere is approved again."""
    return f"{socket.gethostname()}/{os.geteuid()}"


def _refuse_folder(folder: Path, why: str) -> JournalError:
    return JournalError(
        f"{folder} is not a case folder of ours: {why}.",
        remedy="Name an empty or new folder with --case. Nothing was changed.",
    )


def check_folder(folder: Path) -> bool:
    """Say whether the folder holds a case to go on with; refuse one that is not ours. Changes nothing."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refuse_folder(folder, f"it cannot be read ({error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode):
        raise _refuse_folder(folder, "it is a link or a file")
    if status.st_uid != os.geteuid():
        raise _refuse_folder(folder, "it belongs to another user")
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise _refuse_folder(folder, f"it cannot be listed ({error.strerror})") from None
    strange = sorted(name for name in names if not OURS.fullmatch(name))
    if JOURNAL not in names and strange:
        raise _refuse_folder(folder, f"it holds {strange[0]!a} and no journal")
    return JOURNAL in names and bool(_read_journal(folder).find(b"\n") >= 0)


def _open_private(path: Path, flags: int) -> int:
    """Open or create one of our files, 0600, never through a link, only a regular file of our own."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise JournalError(
            f"{path} cannot be opened: {error.strerror}.",
            remedy="Check the case folder's owner, permissions and free space. Nothing was changed.",
        ) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise _refuse_folder(path.parent, f"{path.name} is not a plain file of yours")
    return descriptor


def _read_journal(folder: Path) -> bytes:
    descriptor = _open_private(folder / JOURNAL, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(JOURNAL_MAX + 1)
    if len(content) > JOURNAL_MAX:
        raise JournalDamagedError(
            "The journal is larger than 1 GiB, which no case of ours is.",
            remedy="Name another case. Nothing was changed.",
        )
    return content


def read(folder: Path) -> Recovered:
    """Read a case without its lock, for `status`, `verify` and `report`; a torn tail may be a write under way."""
    if not check_folder(folder):
        raise JournalError(
            f"{folder} holds no case.",
            remedy="List the cases with `rotation-playbook status`, or begin one with `rotation-playbook run`.",
        )
    return recover(_read_journal(folder))


def fold(records: Sequence[AnyRecord]) -> State:
    """Fold records into a state; pure."""
    state = State()
    for record in records:
        state.apply(record)
    return state


def read_attachment(folder: Path, name: str, digest: str) -> tuple[str, ...]:
    """Read an attached file's lines, or refuse when they are not the ones that were attached."""
    try:
        descriptor = _open_private(folder / name, os.O_RDONLY)
    except JournalError:
        content = None
    else:
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(JOURNAL_MAX)
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        raise JournalDamagedError(
            f"{folder / name} is missing or is not what the journal says it was.",
            remedy="Restore it from a copy, or start a new case with `run`. Nothing was changed.",
        )
    # Not `splitlines`: a name may hold U+2028 or U+0085, which end no line of ours.
    return tuple(content.decode().split("\n")[:-1])


def attached_inventory(folder: Path, state: State) -> tuple[str, ...] | None:
    """The lines of the case's inventory, verified; None when it was not taken yet."""
    digest = next((part.attachment for parts in state.plans.values() for part in parts if part.attachment), "")
    return read_attachment(folder, INVENTORY, digest) if digest else None


class Journal:
    """An open journal: the only writer of its case, held by a lock that dies with the process."""

    def __init__(self, *, disk: Disk | None = None, now: Callable[[], datetime] | None = None) -> None:
        """Open one in memory, for a dry run; `create` and `resume` open one on disk."""
        self.state = State()
        self.folder: Path | None = None
        self._disk = disk or Disk()
        self._now = now or (lambda: datetime.now(UTC))
        self._descriptor = -1
        self._lock_descriptor = -1
        self._head = GENESIS
        self._seq = 0
        self._length = 0
        self._written = 0
        self._synced = 0
        self._syncing = False
        self._failure = ""
        self._condition = threading.Condition()
        self._attachments: dict[str, tuple[str, ...]] = {}

    @classmethod
    def open(cls, folder: Path, *, disk: Disk | None = None, now: Callable[[], datetime] | None = None) -> Journal:
        """Lock a case folder, made if need be; recover what is there, and cut a torn tail."""
        check_folder(folder)
        journal = cls(disk=disk, now=now)
        try:
            journal._open(folder)
        except OSError as error:
            journal.close()
            raise JournalWriteError(
                f"The case folder {folder} cannot be made or written: {error.strerror}.",
                remedy="Make room on the disk, or name another folder with --case. Nothing was changed.",
            ) from None
        except BaseException:
            journal.close()
            raise
        return journal

    def _open(self, folder: Path) -> None:
        _make_folder(folder)
        self.folder = folder
        self._take_lock(folder)
        self._descriptor = _open_private(folder / JOURNAL, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        recovered = recover(_read_journal(folder))
        self._length = recovered.length
        if recovered.torn:
            self._cut(folder, recovered)
        elif recovered.lacks_newline:
            self._put(b"\n")
            self._disk.sync(self._descriptor)
        os.fchmod(self._descriptor, 0o600)
        os.fsync(self._descriptor)
        _sync_folder(folder)
        self.state = fold(recovered.records)
        self._head, self._seq = recovered.head, len(recovered.records)

    def _take_lock(self, folder: Path) -> None:
        self._lock_descriptor = _open_private(folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_descriptor, 200, 0).decode("ascii", "replace").strip()
            raise JournalLockedError(
                f"Another process works on this case: {holder or 'its name is not known yet'}.",
                remedy="Wait for it or stop it, then `resume`. Nothing was changed.",
            ) from None
        os.ftruncate(self._lock_descriptor, 0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.pwrite(
            self._lock_descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode(), 0
        )

    def _cut(self, folder: Path, recovered: Recovered) -> None:
        number = 0
        while (folder / f"journal.broken-{number}").exists():
            number += 1
        broken = folder / f"journal.broken-{number}"
        descriptor = _open_private(broken, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(recovered.torn)
                file.flush()
                os.fsync(file.fileno())
            self._disk.truncate(self._descriptor, recovered.length)
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._broken(error.strerror) from None

    @property
    def seq(self) -> int:
        """How many records there are."""
        return self._seq

    @property
    def head(self) -> str:
        """The last record's sum, which binds everything before it."""
        return self._head

    def verdict(self, key: str) -> Evidence | None:
        """The evidence of an action's `Verified`, when that is its last word."""
        with self._condition:
            progress = self.state.progress.get(key)
            return progress.evidence if progress is not None and progress.state == "verified" else None

    def attempts(self, key: str) -> tuple[Attempt, ...]:
        """The intents so far of one action, oldest first."""
        with self._condition:
            progress = self.state.progress.get(key)
            return tuple(progress.attempts) if progress else ()

    def append(self, record: AnyRecord) -> int:
        """Make one record durable and answer its sequence number; concurrent appends share one sync.

        Raises `JournalWriteError` when it could not be made durable: the caller must do nothing more, and every
        later append fails too, because after a failed sync nobody knows what the medium holds.
        """
        with self._condition:
            if self._failure:
                raise self._write_error()
            seq = self._seq
            stamped = msgspec.structs.replace(record, seq=seq, at=self._now().isoformat(timespec="milliseconds"))
            line, head = self._encoded(stamped)
            # Folded first: a record that does not follow from the others never reaches the disk.
            self.state.apply(stamped)
            # Until the new head is known, an interrupt must not let another record build on the old one.
            self._failure = "it was interrupted"
            if self.folder is not None:
                self._put(line + b"\n")
            self._head, self._seq = head, seq + 1
            self._written += 1
            ticket = self._written
            self._failure = ""
        if self.folder is not None:
            self._sync(ticket)
        return seq

    def _encoded(self, record: AnyRecord) -> tuple[bytes, str]:
        """Encode a record and see that it can be read back: one that cannot would close the case for good."""
        name = type(record).__name__
        try:
            line, head = encode(record, self._head)
        except (TypeError, ValueError, RecursionError):
            line, head = b"", ""
        if len(line) > (PLAN_LINE_MAX if isinstance(record, Planned | Intended | Reset) else LINE_MAX):
            raise GuardError(
                f"A {name} record would be {len(line)} bytes long, more than the journal takes.",
                remedy="Nothing more was changed. Narrow the run, with fewer organizations or accounts.",
            )
        if decode(line, self._head, record.seq) is None:
            raise GuardError(
                f"A {name} record holds something that the journal cannot keep.",
                remedy="This is a bug; nothing more was changed. Report it with the step that was running.",
            )
        return line, head

    def _put(self, data: bytes) -> None:
        """Write all of it, or leave the file as it was and refuse every later append."""
        rest, why = data, ""
        try:
            while rest and (count := self._disk.write(self._descriptor, rest)):
                rest = rest[count:]
        except OSError as error:
            why = error.strerror or ""
        if rest:
            with suppress(OSError):
                self._disk.truncate(self._descriptor, self._length)
            raise self._broken(why)
        self._length += len(data)

    def _sync(self, ticket: int) -> None:
        """Wait until a sync that began after our write has ended; one waiter syncs for all."""
        with self._condition:
            while self._syncing and self._synced < ticket and not self._failure:
                self._condition.wait()
            if self._failure:
                raise self._write_error()
            if self._synced >= ticket:
                return
            self._syncing = True
            covered = self._written
        failure = "it was interrupted"
        try:
            self._disk.sync(self._descriptor)
            failure = ""
        except OSError as error:
            failure = error.strerror or "the disk failed"
        finally:
            # Also for an interrupt: the others must not wait for a sync that never ends.
            with self._condition:
                self._syncing = False
                if failure:
                    self._failure = failure
                else:
                    self._synced = max(self._synced, covered)
                self._condition.notify_all()
        with self._condition:
            if self._failure:
                raise self._write_error()

    def _broken(self, why: str | None) -> JournalWriteError:
        self._failure = why or "the disk failed"
        return self._write_error()

    def _write_error(self) -> JournalWriteError:
        return JournalWriteError(
            f"The journal of this case could not be written: {self._failure}. Nothing more was sent.",
            remedy="Make room on the disk (or repair it), then `resume`: it finds out what the last call did.",
        )

    def attach(self, name: str, lines: Sequence[str]) -> str:
        """Keep lines beside the journal, durable before this returns; the digest goes into the next record."""
        content = "".join(f"{line}\n" for line in lines).encode()
        digest = hashlib.sha256(content).hexdigest()
        self._attachments[digest] = tuple(lines)
        if self.folder is None:
            return digest
        temporary = self.folder / f".new-{secrets.token_hex(4)}"
        try:
            with os.fdopen(_open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
            _sync_folder(self.folder)
        except OSError as error:
            raise self._broken(error.strerror) from None
        return digest

    def attachment(self, name: str, digest: str) -> tuple[str, ...]:
        """The lines attached under this digest."""
        if digest in self._attachments:
            return self._attachments[digest]
        if self.folder is None:
            raise GuardError("A dry run was asked for a file it never had.", remedy="This is a bug; report it.")
        return read_attachment(self.folder, name, digest)

    def close(self) -> None:
        """Release the lock."""
        for descriptor in (self._descriptor, self._lock_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock_descriptor = -1


def opened(state: State) -> Opened:
    """The case's first record; a journal without it is not a case."""
    if state.opened is None:
        raise JournalDamagedError(
            "The journal does not begin with the opening of a case.",
            remedy="Keep the folder as evidence and start a new case. Nothing was changed.",
        )
    return state.opened
