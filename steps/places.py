"""What a place of a key serves: the projects whose jobs may read it, as far as the inventory tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.ports import SinkKind

if TYPE_CHECKING:
    from playbook.inventory import Inventory
    from playbook.ports import Project, Sink

BY_PROJECT: Final = "project"


def is_restricted(inventory: Inventory, sink: Sink) -> bool:
    """Whether anything limits who may use a context; an inline config may use none that is limited."""
    organizations = {item.slug: item.id for item in inventory.organizations}
    return any(
        stored.sink.id == sink.id
        # The group whose id is the organization's is everybody (facts/circleci 2.7).
        and not (
            stored.restriction.kind == "group" and stored.restriction.value == organizations.get(sink.organization)
        )
        for stored in inventory.restrictions
    )


def projects_of(inventory: Inventory, sink: Sink) -> tuple[Project, ...]:
    """The projects that may use a place, by slug: a project itself, or those that a context is limited to, or all."""
    if sink.kind is SinkKind.PROJECT:
        return tuple(project for project in inventory.projects if project.slug == sink.id)
    allowed = {
        stored.restriction.value
        for stored in inventory.restrictions
        if stored.sink.id == sink.id and stored.restriction.kind == BY_PROJECT
    }
    mine = [project for project in inventory.projects if project.organization == sink.organization]
    chosen = [project for project in mine if not project.deleted and (not allowed or project.id in allowed)]
    return tuple(sorted(chosen, key=lambda project: project.slug))
