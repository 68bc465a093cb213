"""One reading of both platforms: everything stored in CircleCI and every access key, as rows; fails closed.

What could not be read is a hole with its name, and an inventory with a hole never says that it is complete.
`collect` fills one, `inventory_document` tells it to other tools.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from playbook.config_jobs import ConfigUse
from playbook.correlate import Correlation, Held, StoredVariable, correlate, legacy_held
from playbook.decoding import met
from playbook.errors import UsageError
from playbook.model import Choice, Question
from playbook.ports import (
    AccessKey,
    Hole,
    LastUsed,
    Organization,
    Project,
    Restriction,
    SecretKind,
    Sink,
    StoredSecret,
    User,
    display,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from playbook.model import Ask
    from playbook.ports import View

Row: TypeAlias = tuple[str, Any]
"""What a row is (one of `ROWS`), and the thing itself."""


@dataclass(frozen=True, kw_only=True)
class StoredRestriction:
    """Who may use one context, as far as one of its restrictions says."""

    sink: Sink
    restriction: Restriction


@dataclass(frozen=True, kw_only=True)
class KeyUse:
    """When one key signed last."""

    id: str
    used: LastUsed


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one pipeline used, as far as the configuration that it ran with says."""

    project: str
    """The project's slug."""
    organization: str
    number: int
    """The pipeline's; 0 stands for a project of which no run is known."""
    use: ConfigUse


@dataclass(frozen=True, kw_only=True)
class Said:
    """Which key a place holds, because a canary printed it or a person said so."""

    place: str
    """The variable's id, as `correlate.variable_id` builds it."""
    key_id: str


@dataclass(frozen=True, kw_only=True)
class Reads:
    """How often one kind of thing was asked for, and how many of these answers are missing or from an earlier run."""

    what: str
    asked: int
    refused: int = 0
    reused: int = 0


ROWS: Final[Mapping[str, type[Any]]] = {
    "generated_at": str,
    "oldest_read_at": str,
    "kind": str,
    "organization": Organization,
    "project": Project,
    "context": Sink,
    "variable": StoredVariable,
    "secret": StoredSecret,
    "restriction": StoredRestriction,
    "run": Run,
    "user": User,
    "key": AccessKey,
    "last_used": KeyUse,
    "root_key": str,
    "said": Said,
    "reads": Reads,
    "hole": Hole,
}


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """One reading of both platforms."""

    generated_at: str
    oldest_read_at: str = ""
    """When the oldest part of an interrupted and continued reading was read; empty: all of it in one go."""
    kinds: tuple[str, ...] = ()
    """The kinds that were asked for; empty for a case of the first version, which read variables only."""
    organizations: tuple[Organization, ...] = ()
    projects: tuple[Project, ...] = ()
    contexts: tuple[Sink, ...] = ()
    variables: tuple[StoredVariable, ...] = ()
    secrets: tuple[StoredSecret, ...] = ()
    """Every stored thing that is no variable."""
    restrictions: tuple[StoredRestriction, ...] = ()
    runs: tuple[Run, ...] = ()
    """Of the projects whose latest pipelines were asked for."""
    users: tuple[User, ...] = ()
    keys: tuple[AccessKey, ...] = ()
    last_used: dict[str, LastUsed] = field(default_factory=dict)
    root_keys: tuple[str, ...] = ()
    """The accounts whose root user has access keys."""
    said: tuple[Said, ...] = ()
    reads: tuple[Reads, ...] = ()
    holes: tuple[Hole, ...] = ()

    @property
    def complete(self) -> bool:
        """True when nothing that should have been read is missing."""
        return not self.holes

    @cached_property
    def _correlated(self) -> Correlation:
        said = {item.place: item.key_id for item in self.said}
        return correlate(self.variables, self.keys, self.last_used, said)

    def correlation(self) -> Correlation:
        """Which variable holds which key."""
        return self._correlated

    @cached_property
    def legacy(self) -> dict[str, Held]:
        """By the id of its row: the key in a project's old AWS integration."""
        return {secret_id(held.secret): held for held in legacy_held(self.secrets, self.keys)}

    def rows(self) -> tuple[Row, ...]:
        """Everything, row by row."""
        return (
            ("generated_at", self.generated_at),
            *([("oldest_read_at", self.oldest_read_at)] if self.oldest_read_at else []),
            *(("kind", item) for item in self.kinds),
            *(("organization", item) for item in self.organizations),
            *(("project", item) for item in self.projects),
            *(("context", item) for item in self.contexts),
            *(("variable", item) for item in self.variables),
            *(("secret", item) for item in self.secrets),
            *(("restriction", item) for item in self.restrictions),
            *(("run", item) for item in self.runs),
            *(("user", item) for item in self.users),
            *(("key", item) for item in self.keys),
            *(("last_used", KeyUse(id=key, used=used)) for key, used in self.last_used.items()),
            *(("root_key", item) for item in self.root_keys),
            *(("said", item) for item in self.said),
            *(("reads", item) for item in self.reads),
            *(("hole", item) for item in self.holes),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> Inventory:
        """Sort the rows into their places."""
        found: dict[str, list[Any]] = {name: [] for name in ROWS}
        for name, value in rows:
            found[name].append(value)
        return cls(
            generated_at=next(iter(found["generated_at"]), ""),
            oldest_read_at=next(iter(found["oldest_read_at"]), ""),
            kinds=tuple(found["kind"]),
            organizations=tuple(found["organization"]),
            projects=tuple(found["project"]),
            contexts=tuple(found["context"]),
            variables=tuple(found["variable"]),
            secrets=tuple(found["secret"]),
            restrictions=tuple(found["restriction"]),
            runs=tuple(found["run"]),
            users=tuple(found["user"]),
            keys=tuple(found["key"]),
            last_used={item.id: item.used for item in found["last_used"]},
            root_keys=tuple(found["root_key"]),
            said=tuple(found["said"]),
            reads=tuple(found["reads"]),
            holes=tuple(found["hole"]),
        )

    def to_lines(self) -> tuple[str, ...]:
        """As JSON lines, one row a line, for the case's `inventory.jsonl`."""
        return tuple(line_of(row) for row in self.rows())

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> Inventory:
        """Read back what `to_lines` wrote."""
        return cls.from_rows(row_of(line) for line in lines)


def line_of(row: Row) -> str:
    """One row as a line of JSON."""
    return msgspec.json.encode({"row": row[0], "value": row[1]}).decode()


def row_of(line: str) -> Row:
    """Read a line back, strictly."""
    read = json.loads(line)
    return read["row"], msgspec.convert(read["value"], met(ROWS[read["row"]]))


def find_organizations(view: View, wanted: Sequence[str]) -> tuple[Organization, ...]:
    """The organizations named by slug or id; all of them when none is named. An unknown one is refused."""
    seen = view.circleci.organizations()
    if not wanted:
        return seen
    found = []
    for name in wanted:
        # An id may be empty, and so may a name in an answers file.
        names = ((item, {item.slug, item.id, _long_slug(item.slug)}) for item in seen if name)
        organization = next((item for item, known in names if name in known), None)
        if organization is None:
            known = ", ".join(display(item.slug) for item in seen) or "none at all"
            raise UsageError(
                f"The CircleCI token does not see an organization {display(name)!r}; it sees {known}. "
                "Nothing was changed.",
                remedy="Correct the slug (such as gh/acme), or use a token of a member of that organization.",
            )
        found.append(organization)
    return tuple(dict.fromkeys(found))


def _long_slug(slug: str) -> str:
    provider, _, rest = slug.partition("/")
    return {"gh": "github", "bb": "bitbucket", "github": "gh", "bitbucket": "bb"}.get(provider, provider) + "/" + rest


def ask_organizations(view: View, ask: Ask) -> tuple[Organization, ...]:
    """Which organizations this case is about; it has no safe default."""
    seen = view.circleci.organizations()
    answer = ask(
        Question(
            id="circleci.organizations",
            prompt="Which CircleCI organizations?",
            kind=tuple,
            answer_key="circleci.organizations",
            choices=tuple(Choice(value=item.slug, title=display(f"{item.slug} ({item.name})")) for item in seen),
            open_choices=True,
            proposal=tuple(item.slug for item in seen),
        )
    )
    return find_organizations(view, [str(name) for name in answer])


def secret_id(secret: StoredSecret) -> str:
    """The id of a row that is no variable; one SSH key may serve several hosts, each a row of its own."""
    host = f":{secret.name}" if secret.kind is SecretKind.SSH_KEY else ""
    return f"{secret.kind.value}:{secret.place}:{secret.id}{host}"


def restriction_id(stored: StoredRestriction) -> str:
    """The id of a context's restriction."""
    return f"{SecretKind.CONTEXT_RESTRICTION.value}:{stored.sink.id}:{stored.restriction.id}"
