"""The shapes of CircleCI's replies, and what is read out of them: pure data and pure functions.

A reply is decoded into one of these or refused whole. Ids and slugs are matched by pattern because they go into
addresses; names are only bounded, since they are free text that is escaped wherever it goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

import msgspec

from playbook.ports import MaskedVariable

T = TypeVar("T")

Id = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,128}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Slug = Annotated[str, msgspec.Meta(pattern=r"\A[^/\s]+(?:/[^/\s]+){1,2}\Z", max_length=1024)]

_MASK = "xxxx"
_TAIL_MAX = 4


class Page(msgspec.Struct, Generic[T]):
    """One page of a v2 or private list."""

    items: list[T]
    next_page_token: str | None = None


class Me(msgspec.Struct):
    """`/me`."""

    login: Name


class Collaboration(msgspec.Struct):
    """One element of `/me/collaborations`, which is a bare array; the id may be null (facts 1)."""

    slug: Slug
    name: str | None = None
    id: Id | None = None


class WithId(msgspec.Struct):
    """Anything of which only the id counts."""

    id: Id


class Context(msgspec.Struct):
    """A context, listed or made."""

    id: Id
    name: Name


class ContextVariable(msgspec.Struct):
    """A context's variable; `truncated_value` is not in the specification, but is sent (facts 2.4)."""

    variable: Name
    truncated_value: str | None = None
    created_at: str | None = None
    updated_at: str | None = None

    def masked(self) -> MaskedVariable:
        """As the rest of the program knows it."""
        return MaskedVariable(
            name=self.variable,
            tail=context_tail(self.truncated_value),
            created_at=when(self.created_at),
            updated_at=when(self.updated_at),
        )


class ProjectVariable(msgspec.Struct):
    """A project's variable; its time is spelled with a hyphen by some and an underscore by others (facts 3)."""

    name: Name
    value: str | None = None
    created_at: str | None = None
    created_at_hyphened: str | None = msgspec.field(default=None, name="created-at")

    def masked(self) -> MaskedVariable:
        """As the rest of the program knows it."""
        created_at = when(self.created_at or self.created_at_hyphened)
        return MaskedVariable(name=self.name, tail=project_tail(self.value), created_at=created_at)


class StoredInProject(msgspec.Struct):
    """What the private route tells of one project, deleted ones included (facts 4.3)."""

    project_env_vars: list[ProjectVariable]


class ContextRestriction(msgspec.Struct):
    """A context's restriction; its `name` is optional and not to be trusted (facts 2.7)."""

    id: Id
    restriction_type: Name
    restriction_value: Name


class Stored(msgspec.Struct):
    """What a write answers: the name again, under either key, or just a message."""

    variable: str | None = None
    name: str | None = None


class ListedProject(msgspec.Struct):
    """A project as the private list shows it."""

    id: Id
    slug: Slug


class ProjectDetail(msgspec.Struct):
    """`GET /project/{slug or id}`."""

    slug: Slug
    organization_id: str | None = None


class FollowedProject(msgspec.Struct):
    """An element of v1.1's `/projects`: what the token's user follows."""

    vcs_type: Name
    username: Name
    reponame: Name
    vcs_url: str | None = None


class V3Page(msgspec.Struct):
    """Where v3 goes on."""

    next: str | None = None


class V3List(msgspec.Struct, Generic[T]):
    """One page of a v3 list."""

    data: list[T]
    page: V3Page | None = None


class V3Variable(msgspec.Struct):
    """A context's variable in v3, whose attributes lie one level deeper (facts 2.8)."""

    attributes: V3Attributes

    def masked(self) -> MaskedVariable:
        """As the rest of the program knows it."""
        inner = self.attributes
        return MaskedVariable(
            name=inner.name,
            tail=context_tail(inner.truncated_value),
            created_at=when(inner.created_at),
            updated_at=when(inner.updated_at),
        )


class V3Attributes(msgspec.Struct):
    """The attributes of `V3Variable`."""

    name: Name
    truncated_value: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


def when(text: str | None) -> datetime | None:
    """Read a time, also in the `#joda/inst` form of the specification; None for what is no time."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text.removeprefix("#joda/inst").strip())
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def context_tail(truncated: str | None) -> str | None:
    """A context's tail comes bare; anything longer than a tail says nothing (facts 2.4)."""
    return truncated if truncated is not None and len(truncated) <= _TAIL_MAX else None


def project_tail(value: str | None) -> str | None:
    """A project's value is exactly four x and the tail (facts 3); the tail itself may begin with an x."""
    if value is None or not value.startswith(_MASK):
        return None
    return context_tail(value[len(_MASK) :])


def slug_key(slug: str) -> str:
    """One spelling for comparing: `github/a/b` is `gh/a/b`."""
    vcs, slash, rest = slug.partition("/")
    return {"github": "gh", "bitbucket": "bb"}.get(vcs, vcs) + slash + rest


@dataclass(kw_only=True)
class FoundProject:
    """A project while its sources are being merged."""

    id: str = ""
    slug: str = ""
    sources: list[str] = field(default_factory=list)


class ProjectUnion:
    """The projects of several sources, one entry each: by id where there is one, and else by slug."""

    def __init__(self) -> None:
        self.entries: list[FoundProject] = []
        self._by_id: dict[str, FoundProject] = {}
        self._by_slug: dict[str, FoundProject] = {}

    def add(self, source: str, *, project_id: str = "", slug: str = "") -> None:
        """Note that a source knows this project. A slug may belong to two ids: a deleted project and its heir."""
        entry = self._by_id.get(project_id)
        if entry is None:
            namesake = self._by_slug.get(slug_key(slug))
            entry = namesake if namesake and not (project_id and namesake.id) else FoundProject()
        if not entry.sources:
            self.entries.append(entry)
        entry.id = entry.id or project_id
        entry.slug = entry.slug or slug
        if source not in entry.sources:
            entry.sources.append(source)
        if entry.id:
            self._by_id[entry.id] = entry
        if entry.slug:
            self._by_slug[slug_key(entry.slug)] = entry

    def knows(self, project_id: str) -> bool:
        """Whether a source gave this id."""
        return project_id in self._by_id
