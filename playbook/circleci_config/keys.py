"""Which stored keys one job uses, and the profile they are kept in; pure functions over what was read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.circleci_config import shell
from playbook.circleci_config.shell import KEY_ID, Form
from playbook.circleci_config.understand import What, is_stored

if TYPE_CHECKING:
    from playbook.circleci_config.shell import KeyLine
    from playbook.circleci_config.understand import Event, Run

_KEPT: frozenset[Form] = frozenset({Form.CONFIGURE, Form.FILE})


def sources(run: Run) -> dict[str, Event]:
    """The variables that its keys come from, each with the first finding; the usual one where none is named."""
    found: dict[str, Event] = {}
    lasting = ""
    for event in run.events:
        source, lasts = _source(event, run, lasting)
        lasting = source if lasts and source else lasting
        if source:
            found.setdefault(source, event)
    return found


def _source(event: Event, run: Run, lasting: str) -> tuple[str, bool]:
    """The variable that one finding names, and whether what follows goes on using it."""
    if event.what in {What.LOGIN, What.ORB}:
        given = (str(value) for key, value in event.parameters.items() if "access" in key and "secret" not in key)
        return next(given, "").strip("${}") or KEY_ID, event.what is What.LOGIN
    if event.what is What.KEY and event.line is not None:
        return _source_of(event.line), event.line.lasting
    if event.what is What.TWO_KEYS:
        return KEY_ID, False
    if event.what is What.ENVIRONMENT and event.detail == KEY_ID:
        return KEY_ID, True
    if event.what is What.USE and not lasting and not run.dummy and event.detail.startswith("aws "):
        own = any(other.path == event.path and other.what is What.KEY for other in run.events)
        return "" if own else KEY_ID, False
    return "", False


def _source_of(line: KeyLine) -> str:
    if not is_stored(line, logged=False) or line.name not in {KEY_ID, ""}:
        return ""
    return line.source or "a key in the file"


def kept_profile(run: Run) -> str:
    """The profile that its key is kept in; empty when it is in none, in the default one, or in several."""
    profiles = {line.profile for line in _stored(run) if line.profile}
    return min(profiles) if len(profiles) == 1 else ""


def unwritten_profile(run: Run) -> str:
    """The one profile that a command asks for and nothing in the file writes."""
    if any(line.profile for line in _stored(run)) or any(event.what is What.HIDDEN for event in run.events):
        return ""
    written = {"default", *(event.detail for event in run.events if event.what is What.DEFINES)}
    for event in run.events:
        written |= {str(value) for key, value in event.parameters.items() if key in {"profile-name", "profile_name"}}
    asked = {event.detail for event in run.events if event.what is What.PROFILE}
    unknown = {name for name in asked - written if "$" not in name and "<<" not in name}
    return min(unknown) if len(unknown) == 1 else ""


def profile_only(run: Run) -> bool:
    """Whether the key is kept in a profile by which another profile takes a role, and nowhere else."""
    chained = any(event.what is What.PROFILE_CHAIN for event in run.events)
    kept = [line for line in _stored(run) if line.form in _KEPT]
    return chained and bool(kept) and all(line.source not in shell.KEY_NAMES for line in kept)


def _stored(run: Run) -> list[KeyLine]:
    lines = (event.line for event in run.events)
    return [line for line in lines if line is not None and is_stored(line, logged=False)]
