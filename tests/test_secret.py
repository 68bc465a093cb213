"""A secret shows itself to nobody but `reveal`."""

from __future__ import annotations

import base64
import copy
import dataclasses
import gc
import io
import json
import logging
import marshal
import pickle
import pprint
import reprlib
import string
import threading
import traceback
from collections import namedtuple
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from playbook.ports import Credential
from playbook.secret import PLACEHOLDER, Secret, living, masked_tail

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "Zq7-canary/wJalrXUtnFEMI+K7MDENG"
TRACES = (CANARY, CANARY[8:20], base64.b64encode(CANARY.encode()).decode(), CANARY.encode().hex())


def assert_hidden(text: str | bytes) -> None:
    plain = text.decode("latin-1") if isinstance(text, bytes) else text
    for trace in TRACES:
        assert trace not in plain


def credential() -> Credential:
    now = datetime(2023, 1, 4, tzinfo=UTC)
    return Credential(account="1", user="bot", key_id="AKIA", secret=Secret(CANARY), created_at=now, server_time=now)


Row = namedtuple("Row", ["secret"])  # noqa: PYI024  # the untyped one is what is tried here


class Record(msgspec.Struct):
    secret: Any


SHOWN: dict[str, Callable[[Secret], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "format with a width": lambda secret: format(secret, ">80"),
    "str.format": lambda secret: "{} {!r} {!s:.3} {:40}".format(*[secret] * 4),
    "f-string": lambda secret: f"{secret} {secret!r} {secret=} {secret:^50}",
    "percent": lambda secret: "%s %r %10s" % (secret, secret, secret),  # noqa: UP031  # tried on purpose
    "percent mapping": lambda secret: "%(a)s %(a)r" % {"a": secret},  # noqa: UP031  # as above
    "template": lambda secret: string.Template("$a").substitute(a=secret),
    "list": lambda secret: str([secret, (secret,), {"k": secret}]),
    "pprint": lambda secret: pprint.pformat({"k": [secret]}),
    "reprlib": lambda secret: reprlib.repr([secret]),
    "namedtuple": lambda secret: repr(Row(secret)),
    "struct": lambda secret: repr(Record(secret)),
    "exception": lambda secret: str(KeyError(secret)) + repr(ValueError("x", secret)),
    "json with a default": lambda secret: json.dumps({"k": secret}, default=repr) + json.dumps(secret, default=str),
    "msgspec with a hook": lambda secret: msgspec.json.encode([secret], enc_hook=str).decode(),
    "credential": lambda secret: repr(dataclasses.replace(credential(), secret=secret)),
}


@pytest.mark.parametrize("way", SHOWN)
def test_whatever_prints_a_secret_prints_the_placeholder(way: str) -> None:
    shown = SHOWN[way](Secret(CANARY))
    assert_hidden(shown)
    assert PLACEHOLDER in shown or PLACEHOLDER[:3] in shown


REFUSED: dict[str, Callable[[Secret], object]] = {
    "json": json.dumps,
    "json of its attributes": lambda secret: json.dumps(secret, default=vars),
    "msgspec json": msgspec.json.encode,
    "msgspec msgpack": lambda secret: msgspec.msgpack.encode({"k": [secret]}),
    "msgspec builtins": msgspec.to_builtins,
    "msgspec struct": lambda secret: msgspec.json.encode(Record(secret)),
    "msgspec convert": lambda secret: msgspec.convert(secret, str, from_attributes=True),
    "msgspec credential": lambda secret: msgspec.json.encode(dataclasses.replace(credential(), secret=secret)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy of a holder": lambda secret: copy.deepcopy({"k": [secret]}),
    "asdict": lambda secret: dataclasses.asdict(dataclasses.replace(credential(), secret=secret)),
    "astuple": lambda secret: dataclasses.astuple(dataclasses.replace(credential(), secret=secret)),
    "marshal": marshal.dumps,
    "getstate": lambda secret: secret.__getstate__(),
    "reduce": lambda secret: secret.__reduce__(),
    "vars": vars,
    "hash": hash,
    "set": lambda secret: {secret},
    "dictionary key": lambda secret: {secret: 1},
    "length": len,  # type: ignore[dict-item]
    "iteration": list,  # type: ignore[dict-item]
    "bytes": bytes,  # type: ignore[dict-item]
    "addition": lambda secret: "x" + secret,  # type: ignore[operator]
    "join": lambda secret: "".join([secret]),  # type: ignore[list-item]  # noqa: FLY002  # tried on purpose
    "setting an attribute": lambda secret: setattr(secret, "note", 1),
    **{
        f"pickle {number}": lambda secret, number=number: pickle.dumps([secret], number)  # type: ignore[misc]
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", REFUSED)
def test_whatever_would_take_the_value_fails_loudly_and_says_nothing(way: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError, pickle.PicklingError)) as caught:
        REFUSED[way](Secret(CANARY))
    assert_hidden("".join(traceback.format_exception(caught.value)))


def test_a_stream_that_breaks_off_has_written_nothing_of_it() -> None:
    file = io.BytesIO()
    with pytest.raises(TypeError):
        pickle.Pickler(file).dump(["before", Secret(CANARY)])
    assert_hidden(file.getvalue())


@pytest.mark.parametrize("capture_locals", [False, True])
def test_a_traceback_shows_nothing_even_with_locals(capture_locals: bool) -> None:
    def fail(secret: Secret, holder: dict[str, object]) -> None:
        minted = credential()
        raise RuntimeError(f"{secret} {holder} {minted}")

    try:
        fail(Secret(CANARY), {"token": Secret(CANARY)})
    except RuntimeError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=capture_locals).format()
    text = "".join(lines)
    assert_hidden(text)
    assert ("minted = " in text) is capture_locals


def test_logging_shows_nothing_at_any_level() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("canary")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(args)s %(token)s", defaults={"token": ""}))
    logger.addHandler(handler)
    secret = Secret(CANARY)
    logger.debug("here %s %r", secret, [secret])
    logger.info(secret)
    logger.warning("extra", extra={"token": secret})
    try:
        {}[str(secret)]
    except KeyError:
        logger.exception("failed with %(k)s", {"k": secret})
    text = stream.getvalue()
    assert text.count(PLACEHOLDER) >= 6
    assert_hidden(text)


def test_only_reveal_gives_the_value() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    assert secret == secret
    assert secret != Secret(CANARY)
    assert secret != CANARY
    assert secret.is_same_as(Secret(CANARY))
    assert not secret.is_same_as(Secret(CANARY + "x"))
    assert_hidden(secret.digest())
    assert secret.digest() == Secret(CANARY).digest()


@pytest.mark.parametrize("value", [b"bytes", None, 7, ["a"]])
def test_a_secret_wraps_text_only(value: object) -> None:
    with pytest.raises(TypeError, match="wraps text"):
        Secret(value)  # type: ignore[arg-type]


def test_no_subclass_can_open_it() -> None:
    # `final` is for the type checker; at run time the value hides behind its mangled name.
    assert not hasattr(Secret(CANARY), "value")
    assert not hasattr(Secret(CANARY), "__value")
    assert not hasattr(Secret(CANARY), "__dict__")


@pytest.mark.parametrize(
    ("length", "shown"),
    [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (8, 4), (9, 4), (10, 4), (11, 4), (12, 4)],
)
def test_the_tail_is_what_circleci_measured_for_this_length(length: int, shown: int) -> None:
    value = string.ascii_letters[:length]
    assert masked_tail(value) == value[length - shown :]
    assert len(masked_tail(value)) == shown
    assert Secret(value).tail() == masked_tail(value)


def alive(mark: str) -> int:
    return sum(1 for secret in living() if secret.reveal().startswith(mark))


def test_living_knows_every_secret_and_forgets_the_dead() -> None:
    mark = "living-test-1-"
    held = [Secret(f"{mark}{number}") for number in range(50)]
    assert alive(mark) == 50
    del held[10:]
    gc.collect()
    assert alive(mark) == 10
    ring: list[object] = [Secret(mark + "ring")]
    ring.append(ring)
    assert alive(mark) == 11
    del ring
    gc.collect()
    assert alive(mark) == 10


def test_a_new_secret_in_the_place_of_a_dead_one_is_known() -> None:
    mark = "living-test-2-"
    for number in range(5000):
        secret = Secret(f"{mark}{number}")
        if number % 500 == 0:
            assert alive(mark) == 1
    assert [held.reveal() for held in living() if held is secret] == [f"{mark}4999"]


def test_living_is_safe_while_threads_make_and_drop_secrets() -> None:
    mark = "living-test-3-"
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                held = [Secret(mark) for _ in range(20)]
                del held
        except BaseException as error:  # noqa: BLE001  # any end of a thread is a failure here
            errors.append(error)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        assert alive(mark) <= 80
    stop.set()
    for thread in threads:
        thread.join(10)
    gc.collect()
    assert not errors
    assert alive(mark) == 0
