"""Everything stored in CircleCI and every access key, collected through a `View`; reads only, and fails closed.

What could not be read is a hole with its name, and an inventory with a hole never says that it is complete.
The document of `Inventory.document` is described by `docs/inventory.md`; other tools read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from playbook.correlate import Correlation, StoredVariable, correlate, variable_id
from playbook.errors import ServiceError, UsageError
from playbook.model import Choice, Question
from playbook.ports import AccessKey, Hole, LastUsed, Organization, Project, Sink, SinkKind, User, Variables, display

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from playbook.model import Ask
    from playbook.ports import View

SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """One reading of both platforms."""

    generated_at: str
    organizations: tuple[Organization, ...] = ()
    projects: tuple[Project, ...] = ()
    contexts: tuple[Sink, ...] = ()
    variables: tuple[StoredVariable, ...] = ()
    users: tuple[User, ...] = ()
    keys: tuple[AccessKey, ...] = ()
    last_used: dict[str, LastUsed] = field(default_factory=dict)
    holes: tuple[Hole, ...] = ()

    @property
    def complete(self) -> bool:
        """True when nothing that should have been read is missing."""
        return not self.holes

    def correlation(self) -> Correlation:
        """Which variable holds which key."""
        return correlate(self.variables, self.keys, self.last_used)

    def to_lines(self) -> tuple[str, ...]:
        """As JSON lines, one row a line, for the case's `inventory.jsonl`."""
        rows: list[tuple[str, Any]] = [
            ("generated_at", self.generated_at),
            *(("organization", item) for item in self.organizations),
            *(("project", item) for item in self.projects),
            *(("context", item) for item in self.contexts),
            *(("variable", item) for item in self.variables),
            *(("user", item) for item in self.users),
            *(("key", item) for item in self.keys),
            *(("last_used", {"id": key, "used": used}) for key, used in self.last_used.items()),
            *(("hole", item) for item in self.holes),
        ]
        return tuple(msgspec.json.encode({"row": kind, "value": value}).decode() for kind, value in rows)

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> Inventory:
        """Read back what `to_lines` wrote."""
        rows: dict[str, list[Any]] = {}
        for line in lines:
            row = json.loads(line)
            rows.setdefault(row["row"], []).append(row["value"])
        return cls(
            generated_at=rows["generated_at"][0] if rows.get("generated_at") else "",
            organizations=_read(rows, "organization", Organization),
            projects=_read(rows, "project", Project),
            contexts=_read(rows, "context", Sink),
            variables=_read(rows, "variable", StoredVariable),
            users=_read(rows, "user", User),
            keys=_read(rows, "key", AccessKey),
            last_used={row["id"]: msgspec.convert(row["used"], LastUsed) for row in rows.get("last_used", [])},
            holes=_read(rows, "hole", Hole),
        )

    def document(self, kinds: Iterable[str] = ()) -> dict[str, Any]:
        """The JSON document that other tools read (schema 1); `kinds` limits the secrets."""
        correlation = self.correlation()
        wanted = set(kinds)
        holding = {match.stored.id: match for match in correlation.matches}
        of_secret = {
            variable_id(match.stored.sink, match.secret_name): match
            for match in correlation.matches
            if match.secret_name is not None
        }
        secrets = []
        for stored in self.variables:
            kind = f"{stored.sink.kind.value}-variable"
            if wanted and kind not in wanted:
                continue
            row: dict[str, Any] = {
                "id": stored.id,
                "kind": kind,
                "organization": stored.sink.organization,
                stored.sink.kind.value: stored.sink.name,
                "name": stored.variable.name,
                "tail": stored.variable.tail,
                "created_at": _iso(stored.variable.created_at),
                "updated_at": _iso(stored.variable.updated_at),
                "exposure": "unknown",
                "rotation": "this-tool",
                "access_key": None,
            }
            match = holding.get(stored.id) or of_secret.get(stored.id)
            if match is not None and match.key is not None:
                evidence = list(match.evidence)
                if stored.id not in holding:
                    evidence.insert(0, f"it stands beside {match.stored.variable.name}")
                row["access_key"] = {
                    "account": match.key.account,
                    "user": match.key.user,
                    "id": match.key.id,
                    "confidence": match.confidence,
                    "evidence": evidence,
                }
            secrets.append(row)
        return {
            "schema": SCHEMA,
            "generated_at": self.generated_at,
            "complete": self.complete,
            "holes": [{"what": hole.what, "where": hole.where, "why": hole.why} for hole in self.holes],
            "organizations": [{"id": o.id, "slug": o.slug, "name": o.name} for o in self.organizations],
            "projects": [
                {
                    "id": p.id,
                    "slug": p.slug,
                    "organization": p.organization,
                    "known_by": list(p.known_by),
                    "deleted": p.deleted,
                }
                for p in self.projects
            ],
            "contexts": [{"id": c.id, "name": c.name, "organization": c.organization} for c in self.contexts],
            "secrets": secrets,
            "access_keys": [self._key_row(key, correlation) for key in self.keys],
        }

    def _key_row(self, key: AccessKey, correlation: Correlation) -> dict[str, Any]:
        used = self.last_used.get(key.id)
        places = [
            place
            for match in correlation.stored_in(key.id)
            for place in (
                match.stored.id,
                *([variable_id(match.stored.sink, match.secret_name)] if match.secret_name else []),
            )
        ]
        return {
            "account": key.account,
            "user": key.user,
            "id": key.id,
            "status": key.status.value,
            "created_at": _iso(key.created_at),
            "last_used_at": _iso(used.at) if used else None,
            "last_used_service": used.service if used and used.at else None,
            "stored_in": places,
        }


def _read(rows: dict[str, list[Any]], kind: str, cls: type[Any]) -> tuple[Any, ...]:
    return tuple(msgspec.convert(value, cls) for value in rows.get(kind, []))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


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


def collect(view: View, organizations: Sequence[Organization], accounts: Sequence[str]) -> Inventory:
    """Read everything once; a refused read becomes a hole, anything else that fails stops the reading."""
    holes: list[Hole] = []
    contexts: list[Sink] = []
    projects: list[Project] = []
    for organization in organizations:
        try:
            contexts += view.circleci.contexts(organization)
        except ServiceError as error:
            holes.append(_hole("contexts", organization.slug, error))
        try:
            listed = view.circleci.projects(organization)
        except ServiceError as error:
            holes.append(_hole("projects", organization.slug, error))
        else:
            projects += listed.items
            holes += listed.holes
    sinks = [*contexts, *(_project_sink(project) for project in projects)]
    variables: list[StoredVariable] = []
    for sink, (stored, hole) in zip(sinks, view.gather(lambda sink: _variables(view, sink), sinks), strict=True):
        variables += [StoredVariable(sink=sink, variable=variable) for variable in stored.items]
        if hole is not None:
            holes.append(hole)
    users, keys, last_used = _keys(view, accounts, holes)
    return Inventory(
        generated_at=view.clock.now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        organizations=tuple(organizations),
        projects=tuple(projects),
        contexts=tuple(contexts),
        variables=tuple(variables),
        users=tuple(users),
        keys=tuple(keys),
        last_used=last_used,
        holes=tuple(holes),
    )


def _project_sink(project: Project) -> Sink:
    return Sink(kind=SinkKind.PROJECT, id=project.slug, name=project.slug, organization=project.organization)


def _hole(what: str, where: str, error: ServiceError) -> Hole:
    return Hole(what=what, where=where, why=error.code)


def _variables(view: View, sink: Sink) -> tuple[Variables, Hole | None]:
    try:
        stored = view.circleci.variables(sink)
    except ServiceError as error:
        return Variables(items=()), _hole(f"{sink.kind.value} variables", sink.name, error)
    if not stored.complete:
        why = f"more than {len(stored.items)} variables; the API shows no more"
        return stored, Hole(what=f"{sink.kind.value} variables", where=sink.name, why=why)
    return stored, None


def _keys(
    view: View, accounts: Sequence[str], holes: list[Hole]
) -> tuple[list[User], list[AccessKey], dict[str, LastUsed]]:
    users: list[User] = []
    for account in accounts:
        try:
            users += view.aws(account).users()
        except ServiceError as error:
            holes.append(_hole("IAM users", account, error))
    keys: list[AccessKey] = []

    def listed(user: User) -> tuple[AccessKey, ...] | Hole:
        try:
            return view.aws(user.account).access_keys(user.name).keys
        except ServiceError as error:
            return _hole("access keys", f"{user.account}/{user.name}", error)

    for result in view.gather(listed, users):
        if isinstance(result, Hole):
            holes.append(result)
        else:
            keys += result
    return users, keys, _last_used(view, keys, holes)


def _last_used(view: View, keys: Sequence[AccessKey], holes: list[Hole]) -> dict[str, LastUsed]:
    def used(key: AccessKey) -> LastUsed | Hole:
        try:
            return view.aws(key.account).last_used(key.id)
        except ServiceError as error:
            return _hole("last use", f"{key.account}/{key.user}/{key.id}", error)

    last_used: dict[str, LastUsed] = {}
    for key, answer in zip(keys, view.gather(used, keys), strict=True):
        if isinstance(answer, Hole):
            holes.append(answer)
        else:
            last_used[key.id] = answer
    return last_used
