"""What a mirrored world's twin learns only when it is asked: the facts about a project's pipelines.

A walk asks them of the few projects whose canary it plans, and they take several calls each: to read them of every
project beforehand would cost a large organization minutes. Each is read from the live world once and kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.errors import CircleCiError, Effect
from playbook.ports import Project
from playbook.twins.refusals import NOT_MIRRORED
from playbook.twins.state import PipelineDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from playbook.ports import CircleCiReader
    from playbook.twins.remote import Remote
    from playbook.twins.state import StoredProject


def read_once(world: Remote, stored: StoredProject, *operations: str) -> None:
    """Bring these facts of a project into the state, unless they are there; a refusal of the live world is raised."""
    for operation in operations:
        if operation not in stored.unread:
            continue
        if world.mirrored is None:
            raise CircleCiError(operation, code=NOT_MIRRORED, effect=Effect.NONE)
        project = Project(id=stored.id, slug=stored.slug, organization=stored.organization, known_by=stored.known_by)
        READS[operation](world.mirrored, project, stored)
        stored.unread = tuple(item for item in stored.unread if item != operation)
        world.changed()


def _definitions(live: CircleCiReader, project: Project, stored: StoredProject) -> None:
    """Keep the definitions; the triggers that an inventory showed are kept with the first."""
    triggers = [trigger for definition in stored.definitions for trigger in definition.triggers]
    stored.definitions = [
        PipelineDefinition(id=item.id, name=item.name, triggers=triggers if number == 0 else [])
        for number, item in enumerate(live.pipeline_definitions(project))
    ]


def _default_branch(live: CircleCiReader, project: Project, stored: StoredProject) -> None:
    stored.default_branch = live.default_branch(project)


def _inline_config(live: CircleCiReader, project: Project, stored: StoredProject) -> None:
    stored.inline_config = live.inline_config_allowed(project)


def _forks(live: CircleCiReader, project: Project, stored: StoredProject) -> None:
    stored.forks_receive_secrets = live.forks_receive_secrets(project)


READS: Final[Mapping[str, Callable[[CircleCiReader, Project, StoredProject], None]]] = {
    "pipeline_definitions": _definitions,
    "default_branch": _default_branch,
    "inline_config_allowed": _inline_config,
    "forks_receive_secrets": _forks,
}
