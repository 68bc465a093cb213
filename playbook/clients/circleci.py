"""CircleCI behind `ports.CircleCi`: the v2 API, with the older and newer routes where v2 has gaps.

What is surprising about the API, and where the client answers it (facts/circleci.md):

- a context's variables come as one page of 100 whose token cannot be followed (2.4): `variables`;
- no official route lists an organization's projects (1): `projects`;
- a context that is missing answers 403, not 404 (0.3): the status is passed on, never interpreted;
- a write whose body has another key than `value` stores the empty text (2.5): `_value_body`.
"""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from playbook.clients import circleci_replies as replies
from playbook.clients.budget import budget_towards
from playbook.clients.circleci_calls import project_path
from playbook.clients.circleci_changes import SecretChanges
from playbook.clients.circleci_runs import RunCalls
from playbook.clients.circleci_secrets import SecretReader
from playbook.clients.circleci_transport import PAGE_REPEATED, Transport, decoded, path_of, unreadable
from playbook.clients.endpoints import CIRCLECI_CLOUD, is_loopback
from playbook.errors import CircleCiError, Effect
from playbook.ports import (
    Hole,
    Organization,
    Project,
    Projects,
    Sink,
    SinkKind,
    Variables,
    display,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from playbook.clients.budget import Budget
    from playbook.ports import MaskedVariable, ProjectSecrets, SecretKind, StoredSecrets
    from playbook.secret import Secret

_SOURCE: Final = "project source"
_STANDALONE = re.compile(r"(?:https?:)?//circleci\.com/([0-9a-f-]{36})/([0-9a-f-]{36})")
_NOT_FOUND: Final = frozenset({404})


class CircleCiClient(RunCalls, SecretChanges):
    """One token on one host. Reads and idempotent writes are repeated on doubt, creates are sent once."""

    def __init__(
        self,
        *,
        host: str,
        token: Secret,
        parallel: int = 16,
        budget: Budget | None = None,
        attempts: int = 6,
        patience_s: float = 180.0,
    ) -> None:
        """`host` comes from `endpoints.circleci_host`; `attempts` and `patience_s` bound the tries at one call."""
        self._transport = Transport(
            host=host,
            token=token,
            parallel=parallel,
            budget=budget or budget_towards(loopback=is_loopback(host), rate=20.0, most=50.0),
            attempts=attempts,
            patience_s=patience_s,
        )
        self._parallel = parallel
        self._deleted: dict[str, str] = {}
        self._deleted_lock = threading.Lock()
        self._secrets = SecretReader(self._transport, self._listed_project_variables)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @property
    def host(self) -> str:
        """The base address."""
        return self._transport.host

    # --- reading ---

    def login(self) -> str:
        """Whose token this is."""
        return self._transport.get("reading /me", "/api/v2/me", replies.Me).login

    def organizations(self) -> tuple[Organization, ...]:
        """Every organization the token can see."""
        found = self._transport.get("listing organizations", "/api/v2/me/collaborations", list[replies.Collaboration])
        seen = tuple(Organization(id=item.id or "", slug=item.slug, name=item.name or item.slug) for item in found)
        for organization in seen:
            self._secrets.knows(organization)
        return seen

    def contexts(self, organization: Organization) -> tuple[Sink, ...]:
        """Every context. An organization without an id is asked for by slug, which Server does not support."""
        owner = {"owner-id": organization.id} if organization.id else {"owner-slug": organization.slug}
        # Server calls the owner an account, and Cloud refuses that word (facts 2.1).
        is_server = self.host != CIRCLECI_CLOUD and not is_loopback(self.host)
        asked = {**owner, "owner-type": "account" if is_server else "organization"}
        what = f"listing the contexts of {display(organization.slug)}"
        found = self._pages(what, "/api/v2/context", replies.Page[replies.Context], asked)
        return tuple(
            Sink(kind=SinkKind.CONTEXT, id=item.id, name=item.name, organization=organization.slug) for item in found
        )

    def variables(self, sink: Sink) -> Variables:
        """What is stored in a context or a project, masked; `complete` says whether that is all."""
        return self._context_variables(sink) if sink.kind is SinkKind.CONTEXT else self._project_variables(sink)

    def projects(self, organization: Organization) -> Projects:
        """Every project that any source knows.

        Only the private route is complete, so another source that fails is a hole only when that one failed too.
        """
        owner = organization.id or self._organization_id(organization.slug)
        self._secrets.knows(replace(organization, id=owner))
        union = replies.ProjectUnion()
        failed: dict[str, Hole] = {}
        holes: list[Hole] = []
        deleted: frozenset[str] = frozenset()

        def ask(source: str, add: Callable[[], None]) -> None:
            try:
                add()
            except CircleCiError as error:
                failed[source] = Hole(what=_SOURCE, where=f"{organization.slug} ({source})", why=error.code)

        def add_private() -> None:
            nonlocal deleted
            deleted = self._add_private(union, owner)

        if owner:
            ask("private", add_private)
            ask("v3", lambda: holes.extend(self._add_v3(union, owner)))
        ask("v1.1", lambda: self._add_followed(union, organization, owner))
        if owner == "" or "private" in failed:
            holes.extend(failed.values())
        holes.extend(self._remember_deleted(union, deleted))
        return Projects(
            items=tuple(
                Project(
                    id=entry.id,
                    slug=entry.slug,
                    organization=organization.slug,
                    known_by=tuple(entry.sources),
                    deleted=entry.id in deleted,
                )
                for entry in sorted(union.entries, key=lambda entry: entry.slug)
            ),
            holes=tuple(holes),
        )

    def project_secrets(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        """Everything the project stores of these kinds; what fails becomes a hole."""
        return self._secrets.of_project(project, kinds)

    def organization_secrets(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        """Runner tokens and custom OIDC claims; what fails becomes a hole."""
        return self._secrets.of_organization(organization, kinds)

    # --- writing ---

    def put_variable(self, sink: Sink, name: str, value: Secret) -> None:
        """Store a value. Both routes overwrite, so a doubtful attempt is simply repeated."""
        what = f"storing {display(name)} in {display(sink.name)}"
        if sink.kind is SinkKind.CONTEXT:
            path = path_of("/api/v2/context", sink.id, "environment-variable", name)
            answer = self._transport.repeated(what, "PUT", path, body=_value_body(value))
        else:
            path = project_path(sink.id, "envvar")
            answer = self._transport.repeated(what, "POST", path, body=_value_body(value, name=name))
        stored = decoded(what, answer, replies.Stored, Effect.UNKNOWN)
        if stored.variable not in (None, name) or stored.name not in (None, name):
            raise unreadable(what, answer, Effect.UNKNOWN)

    def delete_variable(self, sink: Sink, name: str) -> None:
        """Remove a variable; 404 means that it is not there, which is what was wanted."""
        what = f"deleting {display(name)} from {display(sink.name)}"
        if sink.kind is SinkKind.CONTEXT:
            path = path_of("/api/v2/context", sink.id, "environment-variable", name)
        else:
            path = project_path(sink.id, "envvar", name)
        self._transport.repeated(what, "DELETE", path, expected=_NOT_FOUND)

    def create_context(self, organization: Organization, name: str) -> Sink:
        """Make a context; the request is sent once, whatever becomes of it."""
        what = f"creating the context {display(name)}"
        owner = {"id": organization.id} if organization.id else {"slug": organization.slug}
        body = json.dumps({"name": name, "owner": {**owner, "type": "organization"}}).encode()
        answer = self._transport.once(what, "POST", "/api/v2/context", body=lambda: body)
        made = decoded(what, answer, replies.Context, Effect.UNKNOWN)
        if made.name != name:
            raise unreadable(what, answer, Effect.UNKNOWN)
        return Sink(kind=SinkKind.CONTEXT, id=made.id, name=name, organization=organization.slug)

    # --- variables ---

    def _context_variables(self, sink: Sink) -> Variables:
        what = f"listing the variables of {display(sink.name)}"
        path = path_of("/api/v2/context", sink.id, "environment-variable")
        page = self._transport.get(what, path, replies.Page[replies.ContextVariable])
        found = {item.variable: item.masked() for item in page.items}
        if not page.next_page_token:
            return Variables(items=tuple(found.values()))
        # The token cannot be fed back; only v3, which not every host has, shows the rest (facts 2.4, 2.8).
        try:
            rest = self._v3_context_variables(what, sink)
        except CircleCiError:
            return Variables(items=tuple(found.values()), complete=False)
        return Variables(items=tuple({**rest, **found}.values()), complete=found.keys() <= rest.keys())

    def _v3_context_variables(self, what: str, sink: Sink) -> dict[str, MaskedVariable]:
        path = path_of("/api/v3/contexts", sink.id, "env-vars")
        pages = self._v3_pages(what, path, replies.V3List[replies.V3Variable], {"page[limit]": "100"})
        return {item.attributes.name: item.masked() for item in pages}

    def _project_variables(self, sink: Sink) -> Variables:
        what = f"listing the variables of {display(sink.name)}"
        with self._deleted_lock:
            deleted_id = self._deleted.get(sink.id)
        if deleted_id is not None:
            # v2 no longer knows a deleted project, which may still hold secrets (facts 1, 4.3).
            path = path_of("/api/private/project", deleted_id)
            held = self._transport.get(what, path, replies.StoredInProject, {"include-deleted": "true"})
            return Variables(items=tuple(item.masked() for item in held.project_env_vars))
        return self._listed_project_variables(sink)

    def _listed_project_variables(self, sink: Sink) -> Variables:
        """What v2 lists, which knows no deleted project."""
        what = f"listing the variables of {display(sink.name)}"
        found: list[MaskedVariable] = []
        path = project_path(sink.id, "envvar")
        try:
            for item in self._pages(what, path, replies.Page[replies.ProjectVariable], {}):
                found.append(item.masked())  # noqa: PERF401  # what came before a repeated page is kept
        except CircleCiError as error:
            if error.code != PAGE_REPEATED:
                raise
            return Variables(items=tuple(found), complete=False)
        return Variables(items=tuple(found))

    # --- projects ---

    def _organization_id(self, slug: str) -> str:
        """The id that `/me/collaborations` left out, or an empty text; here a slug's slash is encoded (facts 0.6)."""
        path = path_of("/api/v2/organization", slug)
        try:
            return self._transport.get(f"reading {display(slug)}", path, replies.WithId).id
        except CircleCiError:
            return ""

    def _add_private(self, union: replies.ProjectUnion, owner: str) -> frozenset[str]:
        """Add what the private route lists; answers the ids that it lists only when asked for deleted ones too."""
        listed = self._private_ids(owner, include_deleted=True)
        living = self._private_ids(owner, include_deleted=False)
        for item in sorted(listed.values(), key=lambda item: item.id not in living):
            union.add("private", project_id=item.id, slug=item.slug)
        return frozenset(listed.keys() - living.keys())

    def _private_ids(self, owner: str, *, include_deleted: bool) -> dict[str, replies.ListedProject]:
        # More than 50 a page answers 500, and some organizations' pages go round for ever (facts 0.4).
        asked = {"organization-id": owner, "page-size": "50"} | ({"include-deleted": "true"} if include_deleted else {})
        found = self._pages(
            "listing projects",
            "/api/private/project",
            replies.Page[replies.ListedProject],
            asked,
            repeats_at_the_end=True,
        )
        return {item.id: item for item in found}

    def _add_v3(self, union: replies.ProjectUnion, owner: str) -> list[Hole]:
        """Add what v3 lists, resolving the slugs it does not give; answers the projects that did not resolve."""
        asked = {"filter[org_id]": owner, "page[limit]": "50"}
        found = self._v3_pages("listing projects", "/api/v3/projects", replies.V3List[replies.WithId], asked)
        unknown = []
        for item in found:
            if union.knows(item.id):
                union.add("v3", project_id=item.id)
            else:
                unknown.append(item.id)
        with ThreadPoolExecutor(max_workers=self._parallel) as pool:
            details = list(pool.map(self._project_detail, unknown))
        holes = []
        for project_id, detail in zip(unknown, details, strict=True):
            if isinstance(detail, CircleCiError):
                holes.append(Hole(what="project", where=project_id, why=detail.code))
            # A host that ignores the filter lists strangers' projects (facts 0.4).
            elif detail.organization_id in (None, owner):
                union.add("v3", project_id=project_id, slug=detail.slug)
        return holes

    def _project_detail(self, project_id: str) -> replies.ProjectDetail | CircleCiError:
        try:
            return self._transport.get(
                f"reading the project {project_id}", project_path(project_id), replies.ProjectDetail
            )
        except CircleCiError as error:
            return error

    def _add_followed(self, union: replies.ProjectUnion, organization: Organization, owner: str) -> None:
        """Add the organization's share of the projects that the token's user follows."""
        what, path = "listing followed projects", "/api/v1.1/projects"
        for item in self._transport.get(what, path, list[replies.FollowedProject]):
            standalone = _STANDALONE.fullmatch(item.vcs_url or "")
            if standalone is not None:
                if standalone[1] == owner:
                    slug = f"circleci/{standalone[1]}/{standalone[2]}"
                    union.add("v1.1", project_id=standalone[2], slug=slug)
                continue
            slug = replies.slug_key(f"{item.vcs_type}/{item.username}/{item.reponame}")
            if slug.startswith(f"{replies.slug_key(organization.slug)}/"):
                union.add("v1.1", slug=slug)

    def _remember_deleted(self, union: replies.ProjectUnion, deleted: frozenset[str]) -> Iterator[Hole]:
        """Note how to read the deleted projects; one whose slug went to a living project cannot be told from it."""
        living = {entry.slug for entry in union.entries if entry.id not in deleted}
        for entry in union.entries:
            if entry.id not in deleted:
                continue
            if entry.slug in living:
                yield Hole(what="deleted project", where=f"{entry.slug} ({entry.id})", why="SlugReused")
                continue
            with self._deleted_lock:
                self._deleted[entry.slug] = entry.id

    # --- pages ---

    def _v3_pages(
        self, what: str, path: str, shape: type[replies.V3List[replies.T]], params: Mapping[str, str]
    ) -> Iterator[replies.T]:
        def read(cursor: str | None) -> tuple[list[replies.T], str | None]:
            page = self._transport.get(what, path, shape, {**params, "page[cursor]": cursor} if cursor else params)
            return page.data, page.page.next if page.page else None

        return self._transport.pages(what, read)


def _value_body(value: Secret, **fields: str) -> Callable[[], bytes]:
    """The body of a write, built only when it is sent; the key must be exactly `value` (facts 2.5)."""
    return lambda: json.dumps({**fields, "value": value.reveal()}).encode()
