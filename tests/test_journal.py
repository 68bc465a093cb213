"""The journal loses nothing that was acknowledged, accepts nothing that was changed, and says which is which."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import signal
import stat
import subprocess
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from playbook import records
from playbook.errors import (
    ExitCode,
    GuardError,
    JournalDamagedError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    JournalWriteError,
)
from playbook.journal import (
    GENESIS,
    JOURNAL,
    LINE_MAX,
    LOCK,
    PLAN_LINE_MAX,
    Disk,
    Journal,
    check_folder,
    encode,
    fold,
    opened,
    read,
    read_attachment,
    recover,
    this_host,
)
from playbook.records import (
    Answered,
    Applied,
    Approved,
    Done,
    Failed,
    Intended,
    Observed,
    Opened,
    Planned,
    Reset,
    Sealed,
    Skipped,
    TakenOver,
    Verified,
)
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = int(os.environ.get("SEED", "20230104"))
TORTURE = bool(os.environ.get("TORTURE"))
NOON = datetime(2023, 1, 4, 12, tzinfo=UTC)
ROOT = os.geteuid() == 0


def story() -> list[records.AnyRecord]:
    """Every record type at least once, with text that is awkward to encode."""
    mint, store, off = "iam:create:1/bot", "circleci:store:deploy", "iam:deactivate:1/bot"
    return [
        Opened(case="c0ffee", tool="rotation-playbook 0", mode="rehearsal", host="here/0", settings={"parallel": 4}),
        Answered(id="incident.severity", answer_key="incident.severity", subject={}, value="exposed"),
        Answered(id="circleci.organizations", answer_key="circleci.organizations", subject={}, value=["gh/acme"]),
        Planned(step="replace", round=0, part=0, parts=2, digest="sha256:1", findings=[{"level": "note", "text": "x"}]),
        Planned(
            step="replace", round=0, part=1, parts=2, digest="sha256:1", lane="1/bot", actions=[{"kind": "k", "n": 1}]
        ),
        Approved(subject="step:replace", digest="sha256:1", by="typed", host="here/0"),
        Intended(key=mint, basis={"keys": ["AKIAEXAMPLE"], "server_time": "2023-01-04T12:00:00+00:00"}),
        Failed(key=mint, effect="unknown", code="Timeout"),
        Observed(
            key=mint, status="tainted", evidence={"orphan": "AKIAORPHAN"}, reason="its secret died: \u2028 \x85 é"
        ),
        Intended(key=mint, basis={"keys": []}, action={"kind": "k", "nested": {"sum": "0", "deep": [1, [2, [3]]]}}),
        Applied(key=mint, evidence={"key_id": "AKIANEW", "count": 3, "yes": True, "none": None}),
        Verified(key=mint, evidence={"key_id": "AKIANEW"}),
        Intended(key=store, basis={}),
        Applied(key=store, evidence={}),
        Reset(keys=[mint, store], lost="AKIANEW", reason="nobody holds it", first=[store], keep=True),
        TakenOver(host="there/0"),
        Intended(key=off, basis={}),
        Failed(key=off, effect="none", code="AccessDenied"),
        Skipped(key=off, reason='left out: "quoted" \\ and \n broken'),
        Done(step="replace"),
        Sealed(outcome="done", exit_code=0),
    ]


def written(folder: Path, said: list[records.AnyRecord] | None = None) -> bytes:
    """A finished journal's bytes."""
    journal = Journal.open(folder, now=lambda: NOON)
    for record in said or story():
        journal.append(record)
    journal.close()
    return (folder / JOURNAL).read_bytes()


def numbered(number: int) -> Skipped:
    return Skipped(key=f"key-{number}", reason="r" * (number % 40))


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return tmp_path / "case"


@pytest.fixture
def content(case: Path) -> bytes:
    return written(case)


def in_child(body: Callable[[int], None]) -> tuple[int, int]:
    """Fork; the child gets the write end of a pipe and never returns. Answers its pid and the read end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            body(writing)
            code = 0
        except BaseException:  # noqa: BLE001  # the child must not run on into pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


# --- Reading: what is accepted --------------------------------------------------------------------------------------


def test_a_journal_reads_back_what_was_appended(content: bytes) -> None:
    recovered = recover(content)

    plain = [type(record)(**{**as_dict(record), "seq": 0, "at": ""}) for record in recovered.records]
    assert plain == story()
    assert {type(record) for record in recovered.records} == set(records.RECORD_TYPES)
    assert [record.seq for record in recovered.records] == list(range(len(story())))
    assert recovered.length == len(content)
    assert not recovered.torn
    assert not recovered.lacks_newline


def as_dict(record: records.AnyRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_no_flipped_bit_is_accepted(content: bytes) -> None:
    clean = recover(content).records
    last = content.rfind(b"\n", 0, -1) + 1
    dice = random.Random(SEED)
    refused = torn = 0
    for offset in range(len(content)):
        for bit in range(8) if TORTURE else (dice.randrange(8),):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            try:
                seen = recover(bytes(flipped))
            except (JournalDamagedError, JournalTooNewError):
                refused += 1
                continue
            assert offset >= last, f"bit {bit} of byte {offset} was accepted"
            assert seen.records == clean[:-1]
            assert seen.torn == bytes(flipped[last:])
            torn += 1
    print(f"seed {SEED}: {refused} flips refused, {torn} read as a torn tail, of {len(content)} bytes")
    assert refused + torn == len(content) * (8 if TORTURE else 1)


def test_every_truncation_gives_the_exact_prefix(content: bytes) -> None:
    clean = recover(content).records
    ends = [offset for offset, byte in enumerate(content) if byte == 0x0A]
    for length in range(len(content) + 1):
        seen = recover(content[:length])
        whole = sum(1 for end in ends if end <= length)
        assert seen.records == clean[:whole]
        assert content[:length] == content[: seen.length] + seen.torn
        assert seen.lacks_newline == (length in ends)
    print(f"{len(content) + 1} truncations")


def test_lines_swapped_doubled_or_dropped_are_refused(content: bytes) -> None:
    lines = content.split(b"\n")[:-1]
    changed = 0
    for at in range(len(lines)):
        doubled = [*lines[: at + 1], *lines[at:]]
        dropped = [*lines[:at], *lines[at + 1 :]]
        variants = [doubled] + ([dropped] if at < len(lines) - 1 else [])
        for other in range(at + 1, len(lines)):
            swapped = list(lines)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            variants.append(swapped)
        for variant in variants:
            with pytest.raises(JournalDamagedError):
                recover(b"".join(line + b"\n" for line in variant))
            changed += 1
    print(f"{changed} rearrangements refused")


def test_a_dropped_last_line_is_a_valid_shorter_journal_whose_head_differs(content: bytes) -> None:
    shorter = recover(content[: content.rfind(b"\n", 0, -1) + 1])

    assert len(shorter.records) == len(story()) - 1
    assert shorter.head != recover(content).head


def chained(*bodies: bytes) -> bytes:
    """Lines with a right chain, as a forger who knows the format would write them."""
    head, lines = GENESIS, []
    for body in bodies:
        head = hashlib.sha256(head.encode() + body[:-1]).hexdigest()
        lines.append(body[:-1] + b',"sum":"' + head.encode() + b'"}\n')
    return b"".join(lines)


def body(seq: int, reason: str = '"r"', *, v: str = "1") -> bytes:
    return f'{{"type":"Skipped","v":{v},"seq":{seq},"at":"","key":"k","reason":{reason}}}'.encode()


OBSERVED = b'{"type":"Observed","v":1,"seq":1,"at":"","key":"k","status":"s","evidence":{"x":%s},"reason":""}'

FORGED = {
    "a duplicate key": b'{"type":"Skipped","v":1,"seq":1,"at":"","key":"k","key":"k","reason":"r"}',
    "a duplicate key in evidence": OBSERVED % b'1,"x":1',
    "NaN": OBSERVED % b"NaN",
    "Infinity": OBSERVED % b"Infinity",
    "a number out of range": OBSERVED % b"1e999",
    "an integer of 5,000 digits": OBSERVED % (b"9" * 5000),
    "minus zero": OBSERVED % b"-0",
    "a deep nest": OBSERVED % (b"[" * 5000 + b"]" * 5000),
    "a lone surrogate": OBSERVED % b'"\\ud800"',
    "bytes that are not UTF-8": OBSERVED % b'"\xff\xfe"',
    "an escape we would not write": OBSERVED % b'"\\u0041"',
    "a byte order mark": b"\xef\xbb\xbf" + body(1),
    "another order": b'{"v":1,"type":"Skipped","seq":1,"at":"","key":"k","reason":"r"}',
    "white space": b'{"type": "Skipped","v":1,"seq":1,"at":"","key":"k","reason":"r"}',
    "a field of a later version": b'{"type":"Skipped","v":1,"seq":1,"at":"","key":"k","reason":"r","new":1}',
    "a missing field": b'{"type":"Skipped","v":1,"seq":1,"at":"","key":"k"}',
    "a number for a text": body(1, "7"),
    "a type we do not have": b'{"type":"Erased","v":1,"seq":1,"at":"","key":"k"}',
    "format 0": body(1, v="0"),
    "format true": body(1, v="true"),
    "another place": body(2),
    "no object": b"[1,2,3]",
    "an empty object": b"{}",
    "UTF-16": body(1).decode().encode("utf-16"),
    "a line of 1 MB": body(1, '"' + "x" * 1_000_000 + '"'),
}


def test_a_right_chain_over_our_own_encoding_is_accepted() -> None:
    assert len(recover(chained(body(0), body(1), body(2))).records) == 3
    assert len(recover(chained(body(0), OBSERVED % b"12345678901234567890123", body(2))).records) == 3


@pytest.mark.parametrize("what", FORGED)
def test_a_right_chain_over_anything_else_is_refused(what: str) -> None:
    forged = FORGED[what]
    for bodies in ((body(0), forged, body(2)), (body(0), forged)):
        with pytest.raises(JournalDamagedError, match="Line 2 of the journal") as caught:
            recover(chained(*bodies))
        assert caught.value.exit_code is ExitCode.JOURNAL
        assert caught.value.remedy


@pytest.mark.parametrize(
    "newer",
    [
        body(1, v="2"),
        b'{"type":"Erased","v":9,"seq":1,"extra":[1,{"a":2}]}',
        b'{"v":1000000,"seq":1,"b":1.5}',
    ],
)
def test_a_newer_format_is_named_not_called_damage(newer: bytes) -> None:
    for bodies in ((body(0), newer, body(2)), (body(0), newer)):
        with pytest.raises(JournalTooNewError, match="Record 1 of this journal has format") as caught:
            recover(chained(*bodies))
        assert caught.value.exit_code is ExitCode.JOURNAL


def test_an_empty_journal_is_no_case_yet(case: Path) -> None:
    assert recover(b"").records == ()
    journal = Journal.open(case)
    with pytest.raises(JournalDamagedError, match="does not begin"):
        opened(journal.state)
    journal.close()
    assert not check_folder(case)


def test_a_case_begins_with_its_opening(case: Path, content: bytes) -> None:
    state = fold(recover(content).records)
    assert opened(state).case == "c0ffee"
    assert this_host() == this_host() != opened(state).host
    assert check_folder(case)


def test_a_journal_larger_than_any_case_is_refused(case: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playbook.journal.JOURNAL_MAX", len(content) - 1)
    with pytest.raises(JournalDamagedError, match="larger than 1 GiB"):
        read(case)


def test_a_case_is_read_without_its_lock_while_another_process_writes(case: Path) -> None:
    journal = Journal.open(case)
    journal.append(story()[0])
    with (case / JOURNAL).open("ab") as file:
        file.write(b'{"type":"Verif')

    seen = read(case)

    assert [type(record) for record in seen.records] == [Opened]
    assert seen.torn == b'{"type":"Verif'
    assert (case / JOURNAL).read_bytes().endswith(b'{"type":"Verif')
    journal.close()


def test_a_folder_without_a_case_is_said_to_hold_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(JournalError, match="holds no case"):
            read(folder)


# --- Torn tails -----------------------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_and_kept_and_cutting_again_changes_nothing(case: Path, content: bytes) -> None:
    path = case / JOURNAL
    start = content.rfind(b"\n", 0, -1) + 1
    tails = [content[start:-20], content[start : start + 1], b"\0" * 700, b"garbage"]
    for number, tail in enumerate(tails):
        path.write_bytes(content[:start] + tail)
        for _ in range(2):
            journal = Journal.open(case)
            assert journal.seq == len(story()) - 1
            journal.close()
            assert path.read_bytes() == content[:start]
        kept = sorted(name.name for name in case.glob("journal.broken-*"))
        assert kept == [f"journal.broken-{n}" for n in range(number + 1)]
        assert (case / kept[-1]).read_bytes() == tail
        assert stat.S_IMODE((case / kept[-1]).stat().st_mode) == 0o600


def test_a_whole_last_line_without_its_newline_is_kept(case: Path, content: bytes) -> None:
    (case / JOURNAL).write_bytes(content[:-1])

    journal = Journal.open(case)
    journal.append(numbered(1))
    journal.close()

    assert (case / JOURNAL).read_bytes().startswith(content)
    assert len(read(case).records) == len(story()) + 1
    assert not list(case.glob("journal.broken-*"))


def test_a_sector_that_was_never_written_is_a_torn_tail_only_in_the_last_line(case: Path) -> None:
    content = written(case, [*story(), Skipped(key="k", reason="r" * 3000)])
    last = content.rfind(b"\n", 0, -1) + 1
    sector = -(-last // 512) * 512 + 512
    zeroed = content[:sector] + b"\0" * 512 + content[sector + 512 :]

    seen = recover(zeroed)
    assert len(seen.records) == len(story())
    assert seen.torn == zeroed[last:]

    with pytest.raises(JournalDamagedError):
        recover(content[:512] + b"\0" * 512 + content[1024:])
    with pytest.raises(JournalDamagedError):  # a single wrong byte is no unwritten sector
        recover(content[:sector] + b"\0" + content[sector + 1 :])


def test_damage_changes_nothing_on_disk(case: Path, content: bytes) -> None:
    damaged = content[:100] + b"X" + content[101:]
    (case / JOURNAL).write_bytes(damaged)

    with pytest.raises(JournalDamagedError, match=r"Line 1 of the journal \(byte 0\)"):
        Journal.open(case)

    assert (case / JOURNAL).read_bytes() == damaged
    assert sorted(path.name for path in case.iterdir()) == [LOCK, JOURNAL]


def test_a_case_that_cannot_cut_its_torn_tail_says_so_and_cuts_it_later(case: Path, content: bytes) -> None:
    (case / JOURNAL).write_bytes(content[:-5])

    class NoCut(Disk):
        def truncate(self, descriptor: int, length: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(JournalWriteError, match="Input/output error"):
        Journal.open(case, disk=NoCut())
    journal = Journal.open(case)
    assert journal.seq == len(story()) - 1
    journal.close()
    assert len(list(case.glob("journal.broken-*"))) == 2


def test_a_whole_line_that_cannot_be_made_durable_is_not_taken_yet(case: Path, content: bytes) -> None:
    for how in ("sync", "full"):
        (case / JOURNAL).write_bytes(content[:-1])
        with pytest.raises(JournalWriteError):
            Journal.open(case, disk=FailingDisk(how, 1))
    journal = Journal.open(case)
    assert journal.seq == len(story())
    journal.close()


# --- A failing disk -------------------------------------------------------------------------------------------------


class FailingDisk(Disk):
    """Fails its n-th write or sync in one of the ways a disk can; a truncation may fail as well."""

    def __init__(self, how: str, nth: int, *, cut_fails: bool = False) -> None:
        self.how, self.nth, self.cut_fails = how, nth, cut_fails
        self.writes = self.syncs = 0

    def write(self, descriptor: int, data: bytes) -> int:
        self.writes += 1
        if self.writes >= self.nth:
            match self.how:
                case "full":
                    raise OSError(errno.ENOSPC, "No space left on device")
                case "broken":
                    raise OSError(errno.EIO, "Input/output error")
                case "short":
                    if self.writes > self.nth:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return os.write(descriptor, data[: len(data) // 2])
                case "nothing":
                    return 0
        return super().write(descriptor, data[:7] if self.how == "slices" else data)

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        if self.how == "sync" and self.syncs >= self.nth:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        if self.cut_fails:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(descriptor, length)


def append_all(journal: Journal, said: list[records.AnyRecord], acked: list[int]) -> None:
    """Append until it fails; what was acknowledged before is in `acked`."""
    for record in said:
        acked.append(journal.append(record))  # noqa: PERF401  # what came before the failure counts


@pytest.mark.parametrize("cut_fails", [False, True])
@pytest.mark.parametrize("how", ["full", "broken", "short", "nothing", "sync"])
def test_whatever_write_or_sync_fails_nothing_acknowledged_is_lost(tmp_path: Path, how: str, cut_fails: bool) -> None:
    for nth in range(1, len(story()) + 1):
        case = tmp_path / str(nth)
        journal = Journal.open(case, disk=FailingDisk(how, nth, cut_fails=cut_fails))
        acked: list[int] = []
        with pytest.raises(JournalWriteError, match="Nothing more was sent") as caught:
            append_all(journal, story(), acked)
        assert caught.value.exit_code is ExitCode.JOURNAL
        assert acked == list(range(nth - 1))
        on_disk = (case / JOURNAL).read_bytes()
        for _ in range(2):
            with pytest.raises(JournalWriteError):
                journal.append(numbered(1))
        assert (case / JOURNAL).read_bytes() == on_disk
        journal.close()

        resumed = Journal.open(case)
        # A record whose sync failed may be there all the same; what was acknowledged must be.
        assert resumed.seq in ({nth - 1, nth} if how == "sync" else {nth - 1})
        for record in story()[resumed.seq :]:
            resumed.append(record)
        resumed.close()
        assert fold(read(case).records).sealed is not None


def test_a_disk_that_writes_seven_bytes_at_a_time_is_only_slow(case: Path) -> None:
    journal = Journal.open(case, disk=FailingDisk("slices", 10**9))
    for record in story():
        journal.append(record)
    journal.close()
    assert len(read(case).records) == len(story())


def test_a_file_size_limit_of_the_system_ends_in_a_clear_error(case: Path) -> None:
    def fill(pipe: int) -> None:
        journal = Journal.open(case)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            for number in range(10_000):
                os.write(pipe, b"%d\n" % journal.append(numbered(number)))
        except JournalWriteError as error:
            os.write(pipe, error.message.encode())

    pid, pipe = in_child(fill)
    *acked, last = read_all(pipe).decode().splitlines()
    assert os.waitpid(pid, 0)[1] == 0

    assert "could not be written: File too large" in last
    journal = Journal.open(case)
    assert journal.seq == len(acked) > 10
    journal.append(numbered(0))
    journal.close()
    print(f"{len(acked)} records fitted into 5,000 bytes")


@contextmanager
def tiny_disk(place: Path) -> Iterator[None]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(not ROOT, reason="only root can mount a disk")
def test_a_full_disk_ends_in_a_clear_error_and_room_lets_it_resume(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with tiny_disk(place):
        ballast = place / "ballast"
        ballast.write_bytes(b"x" * 32 * 1024)
        journal = Journal.open(place / "case")
        acked: list[int] = []
        with pytest.raises(JournalWriteError, match="No space left on device"):
            append_all(journal, [numbered(number) for number in range(10_000)], acked)
        with pytest.raises(JournalWriteError, match="No space left on device"):
            journal.attach("inventory.jsonl", ["x" * 70_000])
        journal.close()

        ballast.unlink()
        resumed = Journal.open(place / "case")
        assert resumed.seq == len(acked) > 50
        resumed.append(numbered(0))
        resumed.close()

        fill_up(place / "ballast")
        with pytest.raises(JournalWriteError, match="No space left on device"):
            Journal.open(place / "another")
        print(f"{len(acked)} records fitted")


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return


def test_an_interrupt_in_the_middle_of_a_write_lets_nothing_build_on_it(case: Path) -> None:
    class Interrupted(Disk):
        def write(self, descriptor: int, data: bytes) -> int:
            super().write(descriptor, data)
            raise KeyboardInterrupt

    journal = Journal.open(case, disk=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        journal.append(story()[0])
    with pytest.raises(JournalWriteError, match="it was interrupted"):
        journal.append(story()[1])
    journal.close()

    resumed = Journal.open(case)
    assert resumed.seq == 1  # written whole, and never acknowledged
    resumed.append(story()[1])
    resumed.close()
    assert len(read(case).records) == 2


def test_an_interrupted_sync_leaves_no_thread_waiting(case: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Interrupted(Disk):
        def sync(self, descriptor: int) -> None:
            begun.set()
            go_on.wait(10)
            raise KeyboardInterrupt

    journal = Journal.open(case, disk=Interrupted())
    ends: list[BaseException] = []

    def append(number: int) -> None:
        try:
            journal.append(numbered(number))
        except BaseException as error:  # noqa: BLE001  # what a thread ends with is what is asked
            ends.append(error)

    first = threading.Thread(target=append, args=(0,))
    first.start()
    assert begun.wait(10)
    second = threading.Thread(target=append, args=(1,))
    second.start()
    while journal.seq < 2:
        time.sleep(0.001)
    go_on.set()
    for thread in (first, second):
        thread.join(10)
        assert not thread.is_alive()
    assert {type(end) for end in ends} == {KeyboardInterrupt, JournalWriteError}
    journal.close()


# --- One writer -----------------------------------------------------------------------------------------------------


def hold(case: Path, pipe: int) -> None:
    journal = Journal.open(case)
    journal.append(story()[0])
    os.write(pipe, b"held\n")
    signal.pause()


def test_a_second_process_is_told_who_holds_the_case_and_a_kill_releases_it(case: Path) -> None:
    pid, pipe = in_child(lambda writing: hold(case, writing))
    try:
        assert os.read(pipe, 100) == b"held\n"
        before = (case / JOURNAL).read_bytes()

        start = time.monotonic()
        with pytest.raises(JournalLockedError, match=rf"process {pid} on .+ since \d{{4}}-") as caught:
            Journal.open(case)
        took = time.monotonic() - start

        assert caught.value.exit_code is ExitCode.JOURNAL
        assert took < 1
        assert (case / JOURNAL).read_bytes() == before
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pipe)
    journal = Journal.open(case)
    assert journal.seq == 1
    journal.close()


def test_the_same_process_cannot_open_a_case_twice_and_can_after_closing(case: Path) -> None:
    journal = Journal.open(case)
    with pytest.raises(JournalLockedError):
        Journal.open(case)
    journal.append(story()[0])
    journal.close()
    journal.close()
    with pytest.raises(JournalWriteError):
        journal.append(story()[1])
    Journal.open(case).close()


def test_a_failed_opening_keeps_no_lock(case: Path, content: bytes) -> None:
    (case / JOURNAL).write_bytes(b"X" + content)
    with pytest.raises(JournalDamagedError):
        Journal.open(case)
    (case / JOURNAL).write_bytes(content)
    Journal.open(case).close()


# --- Folders that are not ours --------------------------------------------------------------------------------------


def refused(folder: Path, match: str) -> None:
    def there() -> list[Path]:
        return sorted(path for path in folder.parent.rglob("*") if path.name != LOCK)

    before = there()
    with pytest.raises(JournalError, match=match) as caught:
        Journal.open(folder)
    assert caught.value.exit_code is ExitCode.JOURNAL
    assert caught.value.remedy
    assert there() == before


def test_a_linked_folder_or_a_file_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("text")
    refused(tmp_path / "link", "it is a link or a file")
    refused(tmp_path / "dangling", "it is a link or a file")
    refused(tmp_path / "file", "it is a link or a file")
    refused(tmp_path / "file" / "under", "Not a directory")


def test_a_folder_with_foreign_files_and_no_journal_is_refused(case: Path) -> None:
    case.mkdir()
    (case / "thesis.tex").write_text("do not touch")
    refused(case, r"it holds 'thesis\.tex' and no journal")


def test_a_folder_that_cannot_be_listed_is_refused(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    case.mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(JournalError, match="cannot be listed"):
        Journal.open(case)


def test_a_folder_with_only_our_leftovers_is_begun_anew(case: Path) -> None:
    case.mkdir()
    for name in (LOCK, "log.jsonl", "journal.broken-0", ".new-abcd"):
        (case / name).write_text("")
    assert not check_folder(case)
    Journal.open(case).close()


@pytest.mark.parametrize("name", [JOURNAL, LOCK])
def test_a_link_a_second_name_a_pipe_or_a_folder_in_place_of_our_file_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")

    def put(kind: str) -> Path:
        case = tmp_path / kind
        case.mkdir()
        place = case / name
        match kind:
            case "symlink":
                place.symlink_to(target)
            case "hard":
                place.hardlink_to(target)
            case "pipe":
                os.mkfifo(place)
            case "folder":
                place.mkdir()
        return case

    refused(put("symlink"), "Too many levels of symbolic links")
    refused(put("hard"), "not a plain file of yours")
    refused(put("pipe"), "not a plain file of yours")
    refused(put("folder"), "Is a directory|not a plain file of yours")
    assert target.read_bytes() == b"precious"


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
def test_a_folder_or_file_of_another_user_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    refused(foreign, "it belongs to another user")
    case = tmp_path / "case"
    written(case)
    os.chown(case / JOURNAL, 12345, 12345)
    refused(case, "not a plain file of yours")


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    case = tmp_path / "state" / "cases" / "one"
    before = os.umask(0)
    try:
        journal = Journal.open(case)
        journal.append(story()[0])
        journal.attach("inventory.jsonl", ["{}"])
        journal.close()
        with (case / JOURNAL).open("ab") as file:
            file.write(b"torn")
        Journal.open(case).close()
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state", *tmp_path.rglob("*"))}
    assert len(modes) == 7
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_a_journal_readable_by_others_is_made_private(case: Path, content: bytes) -> None:
    (case / JOURNAL).chmod(0o644)
    case.chmod(0o755)
    Journal.open(case).close()
    assert stat.S_IMODE((case / JOURNAL).stat().st_mode) == 0o600
    assert stat.S_IMODE(case.stat().st_mode) == 0o700


# --- Group commit ---------------------------------------------------------------------------------------------------


class SlowDisk(Disk):
    """Counts, takes its time to sync, and knows which writes a finished sync covers."""

    def __init__(self) -> None:
        self.writes = self.syncs = self.durable = 0

    def write(self, descriptor: int, data: bytes) -> int:
        count = super().write(descriptor, data)
        self.writes += 1
        return count

    def sync(self, descriptor: int) -> None:
        covered = self.writes
        time.sleep(0.002)
        super().sync(descriptor)
        self.syncs += 1
        self.durable = max(self.durable, covered)


def test_concurrent_appends_share_syncs_and_each_is_durable_when_it_returns(case: Path) -> None:
    threads, each = 12, 40
    disk = SlowDisk()
    journal = Journal.open(case, disk=disk)
    early: list[int] = []
    seqs: list[list[int]] = [[] for _ in range(threads)]

    def work(number: int) -> None:
        for turn in range(each):
            seq = journal.append(Skipped(key=f"{number}/{turn}", reason=""))
            if disk.durable <= seq:
                early.append(seq)
            seqs[number].append(seq)

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    journal.close()

    recovered = read(case)
    assert not early
    assert sorted(seq for mine in seqs for seq in mine) == list(range(threads * each))
    assert all(mine == sorted(mine) for mine in seqs)
    assert len(recovered.records) == threads * each
    assert recovered.head == journal.head
    assert fold(recovered.records) == journal.state
    assert disk.syncs < threads * each / 3
    print(f"{threads * each} appends by {threads} threads, {disk.syncs} syncs")


def test_a_failed_sync_fails_every_waiter(case: Path) -> None:
    class Dying(SlowDisk):
        def sync(self, descriptor: int) -> None:
            super().sync(descriptor)
            if self.syncs > 5:
                raise OSError(errno.EIO, "Input/output error")

    disk = Dying()
    journal = Journal.open(case, disk=disk)
    acked: list[int] = []
    failed: list[int] = []

    def work(number: int) -> None:
        try:
            while True:
                acked.append(journal.append(numbered(number)))
        except JournalWriteError:
            failed.append(number)

    running = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    journal.close()

    assert sorted(failed) == list(range(6))
    assert disk.syncs == 6
    seen = {record.seq for record in read(case).records}
    assert acked
    assert set(acked) <= seen


# --- Power and kill -------------------------------------------------------------------------------------------------


def test_after_power_loss_every_acknowledged_record_is_there(tmp_path: Path) -> None:
    """Only what a sync covered survives for sure; of the rest, any beginning or unwritten sectors may."""
    dice = random.Random(SEED)
    outcomes = {"cut": 0, "zeros": 0}
    for turn in range(200):
        case = tmp_path / str(turn)
        journal = Journal.open(case)
        acked = [journal.append(Skipped(key=f"k{n}", reason="r" * dice.randrange(900))) for n in range(5)]
        durable = (case / JOURNAL).stat().st_size
        journal.close()
        line, _ = encode(Skipped(seq=5, key="unsynced", reason="r" * dice.randrange(2000)), journal.head)
        content = (case / JOURNAL).read_bytes() + line + b"\n"
        if turn % 2:
            content = content[: dice.randrange(durable, len(content) + 1)]
            outcomes["cut"] += 1
        else:
            end = dice.randrange(durable, len(content) + 1)
            content = content[:end] + b"\0" * dice.randrange(1, 3000)
            outcomes["zeros"] += 1
        (case / JOURNAL).write_bytes(content)

        resumed = Journal.open(case)
        assert resumed.seq in {len(acked), len(acked) + 1}
        resumed.append(numbered(0))
        resumed.close()
        assert len(read(case).records) == resumed.seq
    print(f"seed {SEED}: {outcomes}")


def test_no_acknowledged_record_is_lost_to_kill_9(case: Path) -> None:
    kills = 100
    dice = random.Random(SEED)
    acked: set[int] = set()
    most = 0

    def append_for_ever(pipe: int) -> None:
        journal = Journal.open(case)
        os.write(pipe, b"opened\n")
        for number in range(100_000):
            os.write(pipe, b"%d\n" % journal.append(numbered(number)))

    for _ in range(kills):
        pid, pipe = in_child(append_for_ever)
        os.read(pipe, 1)
        time.sleep(dice.random() * 0.012)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        said = read_all(pipe).decode().splitlines()
        fresh = {int(line) for line in said if line.isdigit()}
        most = max(most, len(fresh))
        assert not fresh & acked
        acked |= fresh
        present = {record.seq for record in recover((case / JOURNAL).read_bytes()).records}
        assert acked <= present
    assert len(present) >= len(acked) > kills
    print(f"seed {SEED}: {kills} kills, {len(acked)} acknowledged, {len(present)} present, at most {most} a life")


# --- What a record may hold -----------------------------------------------------------------------------------------


CANARY = "canary-wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    "record",
    [
        Applied(key="k", evidence={"secret": Secret(CANARY)}),
        Answered(id="i", answer_key="a", subject={}, value=[Secret(CANARY)]),
        Intended(key="k", action={"nested": {"deep": (Secret(CANARY),)}}),
    ],
)
def test_a_record_that_holds_a_secret_cannot_be_encoded(case: Path, record: records.AnyRecord) -> None:
    with pytest.raises(TypeError):
        encode(record, GENESIS)
    journal = Journal.open(case)
    journal.append(Intended(key="k"))
    with pytest.raises(GuardError) as caught:
        journal.append(record)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    journal.append(numbered(1))
    journal.close()
    assert len(read(case).records) == 2
    assert all(CANARY.encode() not in path.read_bytes() for path in case.iterdir())


@pytest.mark.parametrize(
    "record",
    [
        Answered(id="i", answer_key="a", subject={"count": 5}, value=1),  # type: ignore[dict-item]
        Failed(key="k", effect="none", code=None),  # type: ignore[arg-type]
        Answered(id="i", answer_key="a", subject={}, value={1: "a", "1": "b"}),
        Answered(id="i", answer_key="a", subject={}, value="\ud800"),
        Answered(id="i", answer_key="a", subject={}, value=object()),
    ],
)
def test_a_record_that_could_not_be_read_back_is_never_written(case: Path, record: records.AnyRecord) -> None:
    journal = Journal.open(case)
    journal.append(Intended(key="k"))
    with pytest.raises(GuardError, match="the journal cannot keep"):
        journal.append(record)
    journal.append(numbered(1))
    journal.close()
    assert [type(item) for item in read(case).records] == [Intended, Skipped]


def test_a_record_that_does_not_follow_from_the_others_is_never_written(case: Path) -> None:
    journal = Journal.open(case)
    journal.append(story()[0])
    with pytest.raises(JournalDamagedError, match="no record began"):
        journal.append(Applied(key="never intended"))
    journal.close()
    Journal.open(case).close()
    assert len(read(case).records) == 1


def test_a_record_over_its_limit_is_refused_and_the_next_is_taken(case: Path) -> None:
    journal = Journal.open(case)
    with pytest.raises(GuardError, match="more than the journal takes"):
        journal.append(Skipped(key="k", reason="x" * LINE_MAX))
    long_lane = [{"kind": "k", "text": "x" * (PLAN_LINE_MAX - 1000)}]
    journal.append(Planned(step="s", round=0, part=0, parts=1, digest="d", actions=long_lane))
    with pytest.raises(GuardError, match="more than the journal takes"):
        journal.append(Planned(step="s", round=0, part=0, parts=1, digest="d", actions=[{"k": "x" * PLAN_LINE_MAX}]))
    journal.close()
    assert len(read(case).records) == 1


def test_a_journal_in_memory_touches_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class NoDisk(Disk):
        def write(self, descriptor: int, data: bytes) -> int:
            raise AssertionError

        sync = write  # type: ignore[assignment]

    journal = Journal(disk=NoDisk(), now=lambda: NOON)
    for record in story():
        journal.append(record)
    digest = journal.attach("inventory.jsonl", ["a", "b"])
    assert journal.attachment("inventory.jsonl", digest) == ("a", "b")
    with pytest.raises(GuardError):
        journal.attachment("inventory.jsonl", "0" * 64)
    journal.close()
    assert journal.state.sealed is not None
    assert not list(tmp_path.iterdir())


def test_attempts_are_what_the_fold_says(case: Path) -> None:
    journal = Journal.open(case)
    for record in story():
        journal.append(record)
    first, second = journal.attempts("iam:create:1/bot")
    assert (first.failed, first.reset, first.tag) == ("unknown", True, "c0ffee.6")
    assert (second.applied or {})["key_id"] == "AKIANEW"
    assert (second.reset, second.kept) == (True, True)
    assert journal.attempts("nobody") == ()
    assert "nobody" not in journal.state.progress
    journal.close()


# --- Attachments ----------------------------------------------------------------------------------------------------


AWKWARD = (json.dumps({"name": "plain"}), '{"name":"line \u2028 next \x85 and \x0b end"}', "{}", '{"é":"\U0001f511"}')


def test_an_attachment_reads_back_line_by_line_in_another_process(case: Path) -> None:
    journal = Journal.open(case)
    digest = journal.attach("inventory.jsonl", AWKWARD)
    empty = journal.attach("plan.jsonl", [])
    assert journal.attachment("inventory.jsonl", digest) == AWKWARD
    journal.close()

    again = Journal.open(case)
    assert again.attachment("inventory.jsonl", digest) == AWKWARD
    assert again.attachment("plan.jsonl", empty) == ()
    again.close()
    assert digest == hashlib.sha256((case / "inventory.jsonl").read_bytes()).hexdigest()
    assert sorted(path.name for path in case.iterdir()) == [LOCK, "inventory.jsonl", JOURNAL, "plan.jsonl"]


def test_a_changed_missing_or_linked_attachment_is_refused(case: Path, tmp_path: Path) -> None:
    journal = Journal.open(case)
    digest = journal.attach("inventory.jsonl", AWKWARD)
    journal.close()
    path = case / "inventory.jsonl"
    content = path.read_bytes()
    for changed in (content[:-1], content + b"\n", content.replace(b"plain", b"plaiN"), b""):
        path.write_bytes(changed)
        with pytest.raises(JournalDamagedError, match="is not what the journal says"):
            read_attachment(case, "inventory.jsonl", digest)
    path.unlink()
    with pytest.raises(JournalDamagedError, match="is missing"):
        read_attachment(case, "inventory.jsonl", digest)
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalDamagedError):
        read_attachment(case, "inventory.jsonl", digest)


def test_attaching_again_replaces_the_file_whole(case: Path) -> None:
    journal = Journal.open(case)
    first = journal.attach("inventory.jsonl", ["one"])
    second = journal.attach("inventory.jsonl", ["two"])
    journal.close()
    assert read_attachment(case, "inventory.jsonl", second) == ("two",)
    with pytest.raises(JournalDamagedError):
        read_attachment(case, "inventory.jsonl", first)
