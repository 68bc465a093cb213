"""New values of secrets, from where the responder says; the value goes into a `Secret` and nowhere else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playbook.errors import UsageError
from playbook.ports import display
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VALUE_MAX: Final = 32_000
"""CircleCI's limit, in characters (facts, section 2.6)."""
COMMAND_TIMEOUT_S: Final = 60
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK")
_REMEDY: Final = "Correct `value_from` in the answers. Nothing was changed for this variable."


def check_source(source: str, environ: Mapping[str, str], *, attended: bool) -> None:
    """Refuse a source that will not work, before anything is changed; reads no value, runs no command."""
    kind, _, rest = source.partition(":")
    match kind:
        case "env" if rest in environ:
            return
        case "env":
            raise UsageError(
                f"The environment has no variable {display(rest)!r} to take a new value from.", remedy=_REMEDY
            )
        case "file":
            _private_file(Path(rest))
        case "command":
            _arguments(rest)
        case "prompt" if attended and not rest:
            return
        case "prompt":
            raise UsageError("A new value is to be typed, and there is no terminal.", remedy=_REMEDY)
        case _:
            raise UsageError(
                f"{display(source)!r} says nothing about where a new value comes from.",
                remedy='Use env:NAME, file:PATH, command:["argv"], prompt, done-by-hand or keep.',
            )


def obtain(source: str, environ: Mapping[str, str], ask_secret: Callable[[str], Secret] | None) -> Secret:
    """Read the value now; a trailing newline is not part of it."""
    check_source(source, environ, attended=ask_secret is not None)
    kind, _, rest = source.partition(":")
    if kind == "prompt" and ask_secret is not None:
        return ask_secret("New value (hidden): ")
    if kind == "env":
        text = environ[rest]
    elif kind == "file":
        text = _private_file(Path(rest)).read_text(encoding="utf-8")
    else:
        text = _output(_arguments(rest))
    value = text.removesuffix("\n").removesuffix("\r")
    if not value or len(value) > VALUE_MAX:
        raise UsageError(
            f"The new value from {display(source)!r} is empty or longer than {VALUE_MAX} characters.", remedy=_REMEDY
        )
    return Secret(value)


def _private_file(path: Path) -> Path:
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"{display(str(path))} cannot be read: {error.strerror}.", remedy=_REMEDY) from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise UsageError(
            f"{display(str(path))} holds a secret but others may read it, or it is no plain file.",
            remedy=f"Run `chmod 600` on it, then start again. {_REMEDY}",
        )
    return path


def _arguments(text: str) -> list[str]:
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, list) or not arguments or not all(isinstance(item, str) for item in arguments):
        raise UsageError(
            'A command is written as command:["program", "argument", ...]; no shell is involved.', remedy=_REMEDY
        )
    return arguments


def _output(arguments: list[str]) -> str:
    """Run a command with a small environment: our own tokens are not passed on to it."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603  # the responder named this program; arguments are a list, no shell
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        text = done.stdout.decode()
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        raise UsageError(
            f"The command {display(arguments[0])!r} could not be run, took over {COMMAND_TIMEOUT_S} s, "
            "or printed no text.",
            remedy=_REMEDY,
        ) from None
    if done.returncode:
        raise UsageError(f"The command {display(arguments[0])!r} ended with {done.returncode}.", remedy=_REMEDY)
    return text
