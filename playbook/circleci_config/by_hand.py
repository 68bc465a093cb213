"""For a configuration that was refused: the login where it can be put by position, as a patch for a person to go on
from. It takes no old key out, and it is never written by this program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playbook.circleci_config.document import parse
from playbook.circleci_config.edit import EditRefused, InsertItem, InsertKey, Replace, apply
from playbook.circleci_config.login import Login, orb_parameters, plain_step
from playbook.circleci_config.orbs import AWS_CLI, AWS_CLI_VERSION
from playbook.circleci_config.understand import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playbook.circleci_config.document import Document
    from playbook.circleci_config.edit import Edit
    from playbook.circleci_config.options import Options
    from playbook.circleci_config.understand import Reading, Run

_ALIAS = "aws-cli"
_GETS_CODE = frozenset({"checkout", "attach_workspace"})


def begun(document: Document, reading: Reading, options: Options) -> str:
    """The text with a login in each job that needs a stored key; an edit that cannot be made is left out."""
    text = apply(document, [])
    for edit in _edits(document, reading, options):
        try:
            text = apply(parse(text), [edit])
        except EditRefused:
            continue
    return text


def _edits(document: Document, reading: Reading, options: Options) -> Iterator[Edit]:
    """One after the other, each on what the one before has left: none of them moves the place of another."""
    orbs = f"{AWS_CLI}@{AWS_CLI_VERSION}"
    if ("orbs", _ALIAS) not in document:
        yield (
            InsertKey(("orbs",), _ALIAS, orbs)
            if ("orbs",) in document
            else InsertKey((), "orbs", {_ALIAS: orbs}, after="version")
        )
    seen = set()
    for run in reading.static_runs:
        if run.steps and run.steps not in seen:
            seen.add(run.steps)
            yield InsertItem(run.steps, _after_code(_data(document, run.steps)), _step(run, options))
        if options.context and run.entry and options.context not in run.contexts:
            yield from _context(document, run, options.context)


def _step(run: Run, options: Options) -> dict[str, Any]:
    login = Login(
        role=options.roles.get(run.job, options.role_arn),
        region=options.region,
        session_name=options.session_name,
        duration=options.session_duration,
    )
    if run.platform is Platform.MINIMAL:
        return plain_step(login)
    return {f"{_ALIAS}/setup": orb_parameters(login, hyphens=False)}


def _after_code(steps: Any) -> int:
    """The place after the first step that brings the code; the first place when none does."""
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if step in _GETS_CODE if isinstance(step, str) else isinstance(step, dict) and _GETS_CODE & step.keys():
            return index + 1
    return 0


def _context(document: Document, run: Run, context: str) -> Iterator[Edit]:
    entry = _data(document, run.entry)
    if isinstance(entry, str):
        yield Replace(run.entry, {entry: {"context": [context]}})
    elif isinstance(entry, dict) and len(entry) == 1:
        (name,) = entry
        contexts = list(dict.fromkeys((*run.contexts, context)))
        there = entry[name].get("context") if isinstance(entry[name], dict) else None
        if isinstance(there, list):
            yield InsertItem((*run.entry, name, "context"), len(there), context)
        elif there is not None:
            yield Replace((*run.entry, name, "context"), contexts)
        else:
            yield InsertKey((*run.entry, name), "context", contexts)


def _data(document: Document, path: tuple[str | int, ...]) -> Any:
    data = document.data
    for step in path:
        data = data[step]
    return data
