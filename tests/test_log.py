"""The log tells what happened, never a secret, and never stops what it tells about."""

from __future__ import annotations

import base64
import errno
import gc
import html
import io
import json
import logging
import os
import stat
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook import log
from playbook.errors import UsageError
from playbook.secret import Secret

AWS_LIKE = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AWKWARD = "p\"a\\ss wörd\n<&>'/+%\U0001f511\x1b"


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    log.configure(None, verbose=False)
    structlog.contextvars.clear_contextvars()


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_bytes().splitlines()]


def test_a_line_is_json_with_time_level_event_fields_and_what_is_bound(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)

    with structlog.contextvars.bound_contextvars(case="c1", step="s"):
        logger.info("applied", key="iam:create", moment=datetime(2026, 1, 2, tzinfo=UTC), path=Path("a/b"), ids=("x",))
    structlog.get_logger().warning("later")
    logger.debug("too fine")

    first, second = lines(folder)
    assert datetime.fromisoformat(first.pop("at")).utcoffset().total_seconds() == 0
    assert first == {
        "level": "info", "event": "applied", "key": "iam:create", "moment": "2026-01-02T00:00:00+00:00", "path": "a/b",
        "ids": ["x"], "case": "c1", "step": "s",
    }  # fmt: skip
    assert (second["level"], second["event"]) == ("warning", "later")


def test_verbose_adds_debug_and_a_copy_on_stderr_and_nothing_goes_to_stdout(folder, capsys):
    log.configure(folder / "log.jsonl", verbose=True).debug("fine")
    log.configure(None, verbose=True).debug("only there")
    log.configure(None, verbose=False).warning("nowhere")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["event"] for line in captured.err.splitlines()] == ["fine", "only there"]
    assert [line["event"] for line in lines(folder)] == ["fine"]


def test_the_file_is_private_whatever_the_umask_and_is_appended_to(folder):
    before = os.umask(0)
    try:
        log.configure(folder / "log.jsonl", verbose=False).info("one")
    finally:
        os.umask(before)
    log.configure(folder / "log.jsonl", verbose=False).info("two")

    assert stat.S_IMODE((folder / "log.jsonl").stat().st_mode) == 0o600
    assert [line["event"] for line in lines(folder)] == ["one", "two"]


def test_nothing_is_written_through_a_link_or_into_what_is_no_plain_file(folder):
    (folder / "target").write_text("theirs")
    os.link(folder / "target", folder / "hard")
    (folder / "soft").symlink_to(folder / "target")
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()

    for name in ("hard", "soft", "fifo", "directory", "missing/log.jsonl"):
        log.configure(folder / name, verbose=False).info("hello")
        assert log._lines.lost == 1

    assert (folder / "target").read_text() == "theirs"


def test_an_error_of_the_disk_or_the_terminal_stops_nothing(folder, monkeypatch):
    logger = log.configure(folder / "log.jsonl", verbose=True)

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        logger.info("lost")
    with monkeypatch.context() as patched:
        write = os.write
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        logger.info("cut")
    logger.info("whole")

    rows = (folder / "log.jsonl").read_text().splitlines()
    assert rows[0] == '{"at"'
    assert json.loads(rows[1])["event"] == "whole"
    assert log._lines.lost == 2


def test_values_that_are_not_plain_are_named_by_type_and_break_nothing(folder):
    class Leaky:
        def __repr__(self):
            return AWS_LIKE

        __str__ = __repr__

    circle = []
    circle.append(circle)
    logger = log.configure(folder / "log.jsonl", verbose=False)

    logger.info("a", value=Leaky(), inside={"x": [Leaky()], Leaky(): 1}, kept={1})
    logger.info("b", value=circle)
    logger.info("c", value="\udc80\x1b[31m\u202e")
    logger.info("d" * 100_000, value="x" * 100_000)

    first, second, third, fourth = lines(folder)
    assert (first["value"], first["inside"], first["kept"]) == ("<Leaky>", {"x": ["<Leaky>"]}, [1])
    assert second["event"] == "a line that could not be written"
    assert third["value"] == "\udc80\x1b[31m\u202e"
    assert len(fourth["event"]) == 1000
    assert fourth["left_out"] > 100_000
    content = (folder / "log.jsonl").read_bytes()
    assert AWS_LIKE.encode() not in content
    assert content.isascii()
    assert b"\x1b" not in content


def test_of_an_exception_the_class_and_the_places_are_told_and_no_local_and_no_text(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)

    def fails(minted):
        raise ValueError(f"the reply was <Secret>{minted}</Secret>")

    def fails_our_way(minted):
        raise UsageError("It is wrong.", remedy="Correct it.")

    for fail in (fails, fails_our_way):
        try:
            fail(AWS_LIKE)
        except (ValueError, UsageError) as error:
            logger.exception("it failed")
            logger.warning("it failed", exc_info=error)
            logger.warning("it failed", exc_info=sys.exc_info())

    rows = [line["exception"] for line in lines(folder)]
    assert [row["class"] for row in rows] == ["ValueError"] * 3 + ["UsageError"] * 3
    assert rows[0]["frames"][-1].startswith("test_log.py:")
    assert rows[0]["frames"][-1].endswith("in fails")
    assert "message" not in rows[0]
    assert rows[3]["message"] == "It is wrong."
    assert AWS_LIKE not in (folder / "log.jsonl").read_text()


def encodings(value):
    """What a secret may look like, made here by other means than the product's."""
    data = value.encode()
    yield "raw", value
    yield "json", json.dumps(value)[1:-1]
    yield "json, not ascii", json.dumps(value, ensure_ascii=False)[1:-1]
    yield "json in json", json.dumps(json.dumps(value))[3:-3]
    yield "url", quote(value, safe="")
    yield "url path", quote(value)
    yield "form", quote_plus(value)
    yield "html", html.escape(value)
    yield "repr", repr(value)[1:-1]
    yield "bytes", repr(data)[2:-1]
    yield "hex", data.hex()
    yield "HEX", data.hex().upper()
    for before in ("", "u", "us", "user", "AKIAIOSFODNN7EXAMPLE:"):
        for after in ("", "x", "xy", '"}'):
            yield f"base64 {before!r} {after!r}", base64.b64encode(f"{before}{value}{after}".encode()).decode()
            yield (
                f"base64url {before!r} {after!r}",
                base64.urlsafe_b64encode(f"{before}{value}{after}".encode()).decode(),
            )


@pytest.mark.parametrize("value", [AWS_LIKE, AWKWARD, "CCIPAT_" + "0aZ" * 12, "pässwörd-ß-€uro"])
def test_a_living_secret_is_blacked_out_in_every_form(folder, value):
    logger = log.configure(folder / "log.jsonl", verbose=False)
    secret = Secret(value)
    forms = dict(encodings(value))

    for name, text in forms.items():
        logger.info(name, said=f"before {text} after", inside={"list": [text]})
        logger.info("in the event: %s", text)
        logger.info("as a name", **{text: 1})

    content = (folder / "log.jsonl").read_text()
    told = lines(folder)
    assert len(told) == 3 * len(forms)
    for name, text in forms.items():
        inner = text[4:-4] if name.startswith("base64") else text
        assert inner not in content, name
        assert json.dumps(inner)[1:-1] not in content, name
    assert all("<secret>" in line["said"] for line in told[::3])
    assert value[:12] not in content
    print(f"{len(forms)} forms of a secret of {len(secret.reveal())} characters, {len(content)} bytes of log searched")


def test_short_values_are_left_alone_and_dead_ones_are_forgotten(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)
    short, long = Secret("event"), Secret(AWS_LIKE)
    logger.info("an event", said=AWS_LIKE)
    known = len(log._redactor._known)
    del long
    gc.collect()
    logger.info("an event", said="gone")

    first, second = lines(folder)
    assert (first["event"], first["said"]) == ("an event", "<secret>")
    assert second["said"] == "gone"
    assert len(log._redactor._known) < known
    assert short.reveal() == "event"


def test_a_secret_within_another_leaves_nothing_of_the_longer_one(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)
    held = [Secret("abcdefgh"), Secret("abcdefgh-and-the-rest-of-it")]

    logger.info("x", said="<abcdefgh-and-the-rest-of-it>", again="abcdefgh")

    assert lines(folder)[0]["said"] == "<<secret>>"
    assert lines(folder)[0]["again"] == "<secret>"
    assert len(held) == 2


@settings(max_examples=150, deadline=None)
@given(
    value=st.text(min_size=8, max_size=60),
    before=st.text(max_size=5),
    after=st.text(max_size=5),
)
def test_no_form_of_any_secret_survives(value, before, after):
    secret = Secret(value)
    line = log._render(None, "info", {"event": "x", "said": before + value + after, "deep": [json.dumps({"a": value})]})

    for form in log.forms_of(value):
        assert form not in line
    assert "<secret>" in line or json.loads(line)["event"] == "a line that could not be written"
    assert secret.reveal() == value


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=8, max_size=40), before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_is_found_wherever_it_stands_in_what_was_encoded(data, before, after):
    whole = base64.b64encode(before + data + after).decode()

    assert any(form in whole for form in log._base64(data))


def test_the_sdks_own_logging_has_no_way_in(folder, capsys):
    log.configure(folder / "log.jsonl", verbose=True)
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [handler for handler in handlers if isinstance(handler, logging.NullHandler)]
    try:
        for name in ("botocore.parsers", "httpx", "urllib3.connectionpool", "asyncio"):
            logging.getLogger(name).warning("body: %s", AWS_LIKE)
    finally:
        root.handlers[:] = handlers

    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert (folder / "log.jsonl").read_bytes() == b""


def test_threads_do_not_mix_their_lines(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)
    held = Secret(AWS_LIKE)

    def write(name):
        for number in range(200):
            logger.info("x", name=name, number=number, said=f"{AWS_LIKE} {'y' * number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = lines(folder)
    assert len(told) == 1600
    assert {(line["name"], line["number"]) for line in told} == {(n, m) for n in range(8) for m in range(200)}
    assert AWS_LIKE not in (folder / "log.jsonl").read_text()
    assert not held.is_same_as(Secret("x"))


def test_what_a_line_costs(folder):
    logger = log.configure(folder / "log.jsonl", verbose=False)
    for count in (0, 2, 64):
        held = [Secret(f"{AWS_LIKE}{number:03}") for number in range(count)]
        logger.info("warm")
        rounds = 500
        best = min(_seconds(logger, rounds) for _ in range(3))
        print(f"{best / rounds * 1e6:.0f} microseconds a line with {len(held)} living secrets")
        assert best / rounds < 0.005


def _seconds(logger, rounds):
    started = time.perf_counter()
    for number in range(rounds):
        logger.info("applied", key="iam:create-access-key:123456789012/ci-deploy/AKIAIOSFODNN7EXAMPLE", number=number)
    return time.perf_counter() - started
