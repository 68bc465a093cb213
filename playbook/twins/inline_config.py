"""A configuration that came with a request, as far as a twin has to understand it: workflows, jobs and contexts.

Of what a job does only our canary is understood (`playbook.canary`): its environment says what it signs with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import yaml

from playbook import canary
from playbook.twins.state import Signing

if TYPE_CHECKING:
    from collections.abc import Iterator

_APPROVAL: Final = "approval"


class ConfigError(Exception):
    """The text is no configuration; the message is what CircleCI would say of it."""


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """One job of a workflow, before it runs."""

    name: str
    contexts: tuple[str, ...] = ()
    signing: Signing | None = None
    tells: bool = False
    """It stores test results."""
    waits: bool = False
    """An approval: it waits for a person."""


@dataclass(frozen=True, kw_only=True)
class PlannedWorkflow:
    """One workflow, before it runs."""

    name: str
    jobs: tuple[PlannedJob, ...]


@lru_cache(maxsize=64)
def read_config(text: str) -> tuple[PlannedWorkflow, ...]:
    """The workflows of a configuration. Raises `ConfigError`."""
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError("Unable to parse YAML") from None
    if not isinstance(config, dict) or not isinstance(config.get("jobs"), dict):
        raise ConfigError("There are no jobs in the configuration")
    workflows = config.get("workflows")
    if not isinstance(workflows, dict):
        raise ConfigError("There are no workflows in the configuration")
    found = tuple(
        PlannedWorkflow(name=str(name), jobs=tuple(_jobs(str(name), body, config["jobs"])))
        for name, body in workflows.items()
        if name != "version"
    )
    if not found:
        raise ConfigError("There are no workflows in the configuration")
    return found


def _jobs(workflow: str, body: Any, definitions: dict[Any, Any]) -> Iterator[PlannedJob]:
    entries = body.get("jobs") if isinstance(body, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"The workflow {workflow} has no jobs")
    for entry in entries:
        name, settings = next(iter(entry.items())) if isinstance(entry, dict) and entry else (entry, {})
        settings = settings if isinstance(settings, dict) else {}
        if settings.get("type") == _APPROVAL:
            yield PlannedJob(name=str(name), waits=True)
            continue
        definition = definitions.get(name)
        if not isinstance(definition, dict):
            raise ConfigError(f"The workflow {workflow} names a job {name} that is not defined")
        yield PlannedJob(
            name=str(settings.get("name", name)),
            contexts=_contexts(settings.get("context", ())),
            signing=_signing(definition.get("environment")),
            tells=any(isinstance(step, dict) and "store_test_results" in step for step in _steps(definition)),
        )


def _contexts(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(map(str, given or ()))


def _steps(definition: dict[Any, Any]) -> list[Any]:
    steps = definition.get("steps")
    return steps if isinstance(steps, list) else []


def _signing(environment: Any) -> Signing | None:
    """What our canary signs with, by the environment that only it has."""
    if not isinstance(environment, dict) or canary.REGION not in environment:
        return None
    if canary.ROLE_ARN in environment:
        return Signing(role_arn=str(environment[canary.ROLE_ARN]))
    if {canary.ID_VARIABLE, canary.SECRET_VARIABLE} <= environment.keys():
        return Signing(
            id_variable=str(environment[canary.ID_VARIABLE]), secret_variable=str(environment[canary.SECRET_VARIABLE])
        )
    return None
