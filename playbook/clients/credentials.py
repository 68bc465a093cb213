"""Where the CircleCI token comes from; never the command line's arguments, which everybody can read.

The flag and the environment are what somebody set for this run: two different values there are an error, not a
silent choice. The settings files belong to CircleCI's own command line tool and are asked only when nothing was
set, so that a stale one does not stop a responder who has just made a new token. The newer tool keeps its token in
the system's key ring, which we do not open.

The files are read line by line, for one top-level key needs no YAML parser: PyYAML is not a dependency, and a
reader that knows only `token: VALUE` cannot be talked into anchors, tags or multi-line text.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from playbook.errors import UsageError
from playbook.ports import display
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ENVIRONMENT: Final = ("CIRCLE_TOKEN", "CIRCLECI_TOKEN", "CIRCLECI_CLI_TOKEN", "CIRCLE_CLI_TOKEN")

_LENGTH_MAX = 1024
_FILE_MAX = 64 * 1024
_USABLE = re.compile(rf"[\x21-\x7e]{{1,{_LENGTH_MAX}}}")
_TOKEN_LINE = re.compile(r"token[ \t]*:(?:[ \t]+(?P<value>.*?))?[ \t]*")
_PLAIN_VALUE = re.compile(r"""(?P<quote>["']?)(?P<value>[A-Za-z0-9_.~+/=-]*)(?P=quote)(?:[ \t]+\#.*)?""")


def find_circleci_token(
    *,
    token_file: Path | None = None,
    token_stdin: TextIO | None = None,
    environ: Mapping[str, str],
    home: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[Secret, str] | None:
    """The token and the name of its source, or None when there is none and a hidden prompt must ask."""
    explicit = [*_from_flags(token_file, token_stdin, warn), *_from_environment(environ)]
    return _only(explicit) or _only(list(_from_settings(environ, home or Path.home(), warn)))


def _only(found: list[tuple[Secret, str]]) -> tuple[Secret, str] | None:
    if not found:
        return None
    token, source = found[0]
    for other, other_source in found[1:]:
        if not token.is_same_as(other):
            raise UsageError(
                f"{source} and {other_source} hold two different CircleCI tokens.",
                remedy="Leave only the one that this run shall use.",
            )
    return token, source


def _from_flags(
    token_file: Path | None, token_stdin: TextIO | None, warn: Callable[[str], None]
) -> Iterator[tuple[Secret, str]]:
    if token_file is not None:
        source = f"--circleci-token-file {display(str(token_file))}"
        text = _read(token_file, source, warn)
        if text is None:
            raise UsageError(f"{source} cannot be read.", remedy="Name a file that holds the token and nothing else.")
        yield _usable(text, source), source
    if token_stdin is not None:
        source = "--circleci-token-stdin"
        yield _usable(token_stdin.read(_FILE_MAX), source), source


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[Secret, str]]:
    for name in ENVIRONMENT:
        if environ.get(name):
            yield _usable(environ[name], name), name


def _from_settings(environ: Mapping[str, str], home: Path, warn: Callable[[str], None]) -> Iterator[tuple[Secret, str]]:
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    for path in (home / ".circleci" / "cli.yml", config_home / "circleci" / "config.yml"):
        if (text := _read(path, str(path), warn)) is None:
            continue
        if value := _token_line(text, path):
            yield _usable(value, str(path)), str(path)


def _token_line(text: str, path: Path) -> str:
    """The value of the one top-level `token:` line, or an empty text."""
    lines = [match["value"] or "" for line in text.splitlines() if (match := _TOKEN_LINE.fullmatch(line))]
    values = [_PLAIN_VALUE.fullmatch(line) for line in lines]
    plain = [match["value"] for match in values if match is not None]
    if len(lines) > 1 or len(plain) < len(lines):
        raise UsageError(
            f"The token in {display(str(path))} is not written as one plain line.",
            remedy="Give the token in CIRCLE_TOKEN or with --circleci-token-file instead.",
        )
    return "" if not plain or plain[0] in ("null", "~") else plain[0]


def _read(path: Path, source: str, warn: Callable[[str], None]) -> str | None:
    """The file's text, or None when there is no readable file of reasonable size."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_FILE_MAX + 1)
    except (OSError, UnicodeDecodeError):
        return None
    if len(text) > _FILE_MAX:
        return None
    # A pipe (process substitution) has no permissions to speak of.
    if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"{display(source)} can be read by others; `chmod 600` it.")
    return text


def _usable(text: str, source: str) -> Secret:
    token = text.removesuffix("\n").removesuffix("\r")
    if _USABLE.fullmatch(token) is None:
        raise UsageError(
            f"{source} does not hold a token: it is empty, too long, or has blanks or unprintable characters in it.",
            remedy="Store the token alone, on one line.",
        )
    return Secret(token)
