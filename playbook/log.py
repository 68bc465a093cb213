"""The case's log: JSON lines for whoever asks later what the program did, in a file that holds no secret.

The journal decides, the log only tells: a line that cannot be written is lost and nothing stops. Four things keep
secrets out: values are plain data or the name of their type, never a `repr`; of an exception only its class and the
places it came through are written, never its text (unless it is our own) and never a local variable; every line is
searched for every living secret in the forms it may have taken; and the SDKs' own logging has no way in.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
import stat
import sys
import traceback
import weakref
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

import structlog

from playbook.errors import PlaybookError
from playbook.secret import PLACEHOLDER, Secret, living

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

FORM_MIN: Final = 8
"""Shorter forms are left alone: they would black out words that merely look like them."""
JSON_DEPTH: Final = 3
FRAMES_MAX: Final = 30
LINE_MAX: Final = 64 * 1024
TEXT_MAX: Final = 1000


def configure(path: Path | None, *, verbose: bool) -> FilteringBoundLogger:
    """Send the program's events to this file (None: to none) and answer the logger.

    `verbose` adds debug events, and a copy of every line on stderr. A file that cannot be opened, or that is not a
    plain file of ours, gets nothing: the copy on stderr is then the whole log.
    """
    _lines.open(path, echo=verbose)
    # With a handler on the root logger, the SDKs' warnings do not fall through to stderr.
    if not any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger().handlers):
        logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        context_class=dict,
        logger_factory=lambda *_: _lines,
        cache_logger_on_first_use=False,
    )
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


# --- Where lines go -------------------------------------------------------------------------------------------------


class _Lines:
    """The file's end of structlog: one append a line, so that threads do not mix; no error leaves it."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._echo = False
        self._cut = False
        self.lost = 0

    def open(self, path: Path | None, *, echo: bool) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1 if path is None else _open_private(path)
        self._echo, self._cut, self.lost = echo, False, int(path is not None and self._descriptor < 0)

    def write(self, line: str) -> None:
        if self._echo:
            try:
                sys.stderr.write(f"{line}\n")
            except (OSError, ValueError, AttributeError):
                # The terminal is gone, or there never was one: an output error stops nothing (invariants F39).
                self._echo = False
        if self._descriptor < 0:
            return
        # A line that a full disk cut short is ended first, so that the next one can be read.
        data = (("\n" if self._cut else "") + line + "\n").encode("ascii", "backslashreplace")
        try:
            self._cut = os.write(self._descriptor, data) < len(data)
        except OSError:
            self.lost += 1
        else:
            self.lost += self._cut

    debug = info = warning = error = critical = fatal = exception = msg = log = write


def _open_private(path: Path) -> int:
    """Open for appending, 0600 from the first moment, never through a link, only a plain file of our own; else -1."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        return -1
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
        os.close(descriptor)
        return -1
    os.fchmod(descriptor, 0o600)
    return descriptor


_lines: Final = _Lines()


# --- What a line says -----------------------------------------------------------------------------------------------


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """The last processor: one line of JSON, redacted. A processor that raised would take its caller down with it."""
    head = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": event.pop("level", "")}
    try:
        line = json.dumps({**head, **_described(event)}, default=_named, skipkeys=True)
    except Exception:  # noqa: BLE001  # whatever cannot be told must not stop what is being told about
        line = json.dumps({**head, "event": "a line that could not be written"})
    if len(line) > LINE_MAX:
        line = json.dumps({**head, "event": str(event.get("event"))[:TEXT_MAX], "left_out": len(line)})
    redacted = _redactor.redact(line)
    if redacted != line and not _is_json(redacted):
        # What was blacked out reached into an escape sequence or the line's own names: no reader could take it in.
        return _redactor.redact(json.dumps({**head, "event": "a line that could not be written"}))
    return redacted


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _described(event: EventDict) -> Mapping[str, Any]:
    raised = event.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()[1]
    if isinstance(raised, tuple):
        raised = raised[1]
    if isinstance(raised, BaseException):
        event["exception"] = _exception(raised)
    return event


def _exception(raised: BaseException) -> dict[str, Any]:
    """Class and places; the text only of our own errors, because an SDK's may hold a whole reply."""
    told: dict[str, Any] = {"class": type(raised).__name__, "frames": _frames(raised.__traceback__)}
    if isinstance(raised, PlaybookError):
        told["message"] = raised.message
    return told


def _frames(trace: TracebackType | None) -> list[str]:
    walked = traceback.StackSummary.extract(traceback.walk_tb(trace), lookup_lines=False, capture_locals=False)
    return [f"{PurePath(item.filename).name}:{item.lineno} in {item.name}" for item in walked[-FRAMES_MAX:]]


def _named(value: object) -> object:
    """What JSON has no form for: a few plain kinds, else the name of the type; a `repr` may hold anything."""
    if isinstance(value, Secret):
        return PLACEHOLDER
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return [*value]
    return f"<{type(value).__name__}>"


# --- Redaction ------------------------------------------------------------------------------------------------------


class _Redactor:
    """Searches lines for every living secret; what it derives from a secret goes when the secret goes."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Secret], frozenset[str]]] = {}

    def redact(self, line: str) -> str:
        """The line without any living secret."""
        found = {form for secret in living() for form in self._forms_of(secret) if form in line}
        # Longest first: where one form is part of another, replacing the short one would leave the rest of the long.
        for form in sorted(found, key=len, reverse=True):
            line = line.replace(form, PLACEHOLDER)
        return line

    def _forms_of(self, secret: Secret) -> frozenset[str]:
        number = id(secret)
        known = self._known.get(number)
        if known is not None and known[0]() is secret:
            return known[1]
        forms = forms_of(secret.reveal())
        self._known[number] = (weakref.ref(secret, lambda _: self._known.pop(number, None)), forms)
        return forms


def forms_of(value: str) -> frozenset[str]:
    """The texts a secret may hide in: as it is, and as JSON, URLs, HTML, `repr`, hexadecimal and base64 write it."""
    data = value.encode("utf-8", "surrogatepass")
    quoted = {
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
    }
    lower = {re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), text) for text in quoted}
    forms = {value, html.escape(value), repr(value)[1:-1], repr(data)[2:-1], *quoted, *lower}
    # JSON within JSON is escaped once more, and the log's own JSON comes on top of either.
    for _ in range(JSON_DEPTH):
        forms |= {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for text in forms for ascii_only in (True, False)}
    forms |= {data.hex(), data.hex().upper(), *_base64(data)}
    return frozenset(form for form in forms if len(form) >= FORM_MIN)


def _base64(data: bytes) -> set[str]:
    """The characters that `data` alone decides, at each of the three places where base64 may find it in a text."""
    forms: set[str] = set()
    for offset in range(3):
        first, end = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
        text = base64.b64encode(bytes(offset) + data)[first:end].decode()
        forms |= {text, text.translate(str.maketrans("+/", "-_"))}
    return forms


_redactor: Final = _Redactor()
