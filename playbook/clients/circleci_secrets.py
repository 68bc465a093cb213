"""Every kind of stored secret besides the variables of contexts, read from CircleCI in as few calls as it takes.

One undocumented route shows four kinds at once, deleted projects included; where a host lacks it the documented
routes stand in, and what they cannot show is a hole (facts 4). What fails never stops the rest.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from playbook.clients import circleci_replies as replies
from playbook.clients import circleci_secret_replies as shapes
from playbook.clients.circleci_calls import older_project_path, project_path
from playbook.clients.circleci_secret_replies import Place
from playbook.clients.circleci_transport import decoded, lacks_route, path_of
from playbook.errors import CircleCiError, CredentialsError, Effect
from playbook.ports import (
    Hole,
    ProjectSecrets,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
    StoredSecrets,
    Variables,
    display,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from playbook.clients.circleci_transport import Answer, Transport
    from playbook.ports import MaskedVariable, Organization, Project

T = TypeVar("T")

_NOTHING: Final = Variables(items=())
_IN_DETAILS: Final = frozenset({SecretKind.CHECKOUT_KEY, SecretKind.SSH_KEY, SecretKind.LEGACY_AWS_KEY})
_READ_FROM_DELETED: Final = _IN_DETAILS | {SecretKind.PROJECT_VARIABLE}
_BY_ID: Final = frozenset({SecretKind.WEBHOOK_SECRET, SecretKind.TRIGGER_URL, SecretKind.OIDC_CLAIMS})
_NOT_FOUND: Final = frozenset({HTTPStatus.NOT_FOUND.value})


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """Rows and holes of one place, while they are collected."""

    place: Place
    secrets: list[StoredSecret] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)

    def add(self, rows: Iterable[StoredSecret | None]) -> None:
        """Keep the rows that there are; the same one twice counts once."""
        self.secrets.extend(row for row in dict.fromkeys(rows) if row is not None)

    def missed(self, kinds: Iterable[SecretKind], why: str, where: str = "") -> None:
        """Note what could not be read."""
        self.holes.extend(Hole(what=kind.value, where=where or self.place.name, why=why) for kind in sorted(kinds))

    @contextmanager
    def reading(self, kind: SecretKind, where: str = "") -> Iterator[None]:
        """Turn a refusal into a hole and go on."""
        try:
            yield
        except CircleCiError as error:
            self.missed((kind,), error.code, where)


class SecretReader:
    """Reads for `CircleCiClient.project_secrets` and `organization_secrets`; safe to use from any thread."""

    def __init__(self, transport: Transport, project_variables: Callable[[Sink], Variables]) -> None:
        """`project_variables` is v2's list, with dates."""
        self._transport = transport
        self._project_variables = project_variables
        self._owners: dict[str, str | CircleCiError] = {}
        self._owners_lock = threading.Lock()
        self._token_is_good = False

    def knows(self, organization: Organization) -> None:
        """Remember an organization's id, which a project's claims are asked with."""
        if organization.id:
            with self._owners_lock:
                self._owners[replies.slug_key(organization.slug)] = organization.id

    def of_project(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        """Everything the project stores of these kinds; only what is asked for costs calls."""
        found = _Findings(place=Place(organization=project.organization, name=project.slug, kind="project"))
        if project.deleted:
            variables = self._of_deleted(project, kinds & _READ_FROM_DELETED, found)
            return ProjectSecrets(variables=variables, secrets=tuple(found.secrets), holes=tuple(found.holes))
        details: shapes.ProjectDetails | None = None
        number = self._project_id(project, kinds)
        if kinds & _IN_DETAILS:
            details = self._details_or_their_stand_ins(project, number, kinds, found)
        variables = self._variables(project, number, details, found) if _asks_variables(kinds) else _NOTHING
        if SecretKind.PROJECT_TOKEN in kinds:
            self._tokens(project, found)
        if isinstance(number, str):
            self._by_id(project, number, kinds, found)
        else:
            found.missed(kinds & _BY_ID, number.code)
        return ProjectSecrets(variables=variables, secrets=tuple(found.secrets), holes=tuple(found.holes))

    def of_organization(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        """Runner tokens and custom claims; an organization that has no id can have neither."""
        self.knows(organization)
        place = Place(organization=organization.slug, name=organization.slug, kind="organization")
        found = _Findings(place=place)
        wanted = kinds & {SecretKind.RUNNER_TOKEN, SecretKind.OIDC_CLAIMS}
        owner = self.owner(organization.slug) if wanted else ""
        if isinstance(owner, CircleCiError):
            found.missed(wanted, owner.code)
        elif owner:
            if SecretKind.RUNNER_TOKEN in wanted:
                self._runner_tokens(organization, owner, found)
            if SecretKind.OIDC_CLAIMS in wanted:
                with found.reading(SecretKind.OIDC_CLAIMS):
                    self._claims(path_of("/api/v2/org", owner, "oidc-custom-claims"), owner, found)
        return StoredSecrets(secrets=tuple(found.secrets), holes=tuple(found.holes))

    # --- variables, checkout keys, SSH keys, legacy AWS keys ---

    def _details(self, what: str, number: str) -> shapes.ProjectDetails:
        path = path_of("/api/private/project", number)
        with self._side_route(what):
            return self._transport.get(what, path, shapes.ProjectDetails, {"include-deleted": "true"})

    def _of_deleted(self, project: Project, kinds: frozenset[SecretKind], found: _Findings) -> Variables:
        """v2 and v1.1 no longer know a deleted project: what the private route shows of it is all there is."""
        if not kinds:
            return _NOTHING
        try:
            details = self._details(f"reading {display(project.slug)}, which is deleted", project.id)
        except CircleCiError as error:
            found.missed(kinds, error.code)
            return _NOTHING
        _add_details(details, kinds, found)
        shown = details.project_env_vars or [] if _asks_variables(kinds) else []
        return Variables(items=tuple(item.masked() for item in shown))

    def _details_or_their_stand_ins(
        self, project: Project, number: str | CircleCiError, kinds: frozenset[SecretKind], found: _Findings
    ) -> shapes.ProjectDetails | None:
        """The private route's reply, or None after the documented routes were asked in its place."""
        what = f"reading the keys of {display(project.slug)}"
        refused: CircleCiError
        if isinstance(number, str):
            try:
                details = self._details(what, number)
            except CircleCiError as error:
                refused = error
            else:
                _add_details(details, kinds, found)
                return details
        else:
            refused = number
        if SecretKind.LEGACY_AWS_KEY in kinds:
            found.missed((SecretKind.LEGACY_AWS_KEY,), refused.code)
        if SecretKind.CHECKOUT_KEY in kinds:
            with found.reading(SecretKind.CHECKOUT_KEY):
                path = project_path(project.slug, "checkout-key")
                for key in self._items(what, path, replies.Page[shapes.CheckoutKey], {}):
                    found.add((key.row(found.place),))
        if SecretKind.SSH_KEY in kinds:
            with found.reading(SecretKind.SSH_KEY), self._side_route(what):
                settings = self._transport.get(what, older_project_path(project.slug, "settings"), shapes.Settings)
                found.add(key.row(found.place) for key in settings.ssh_keys)
        return None

    def _variables(
        self,
        project: Project,
        number: str | CircleCiError,
        details: shapes.ProjectDetails | None,
        found: _Findings,
    ) -> Variables:
        """v2's list, for its dates, and with it what the private route shows."""
        sink = Sink(kind=SinkKind.PROJECT, id=project.slug, name=project.slug, organization=project.organization)
        private = _variables_in(details)
        try:
            listed = self._project_variables(sink)
        except CircleCiError as error:
            refused = error
        else:
            merged = {item.name: item for item in listed.items}
            items = tuple({**private, **merged}.values())
            complete = listed.complete or (bool(private) and merged.keys() <= private.keys())
            if not complete:
                found.missed((SecretKind.PROJECT_VARIABLE,), "PageRepeated")
            return Variables(items=items, complete=complete)
        if details is None and isinstance(number, str):
            try:
                details = self._details(f"reading {display(project.slug)}", number)
            except CircleCiError:
                details = None
        # Deleted since it was listed: then the private route's word is enough. Anything else leaves a doubt.
        if details is None or refused.status != HTTPStatus.NOT_FOUND:
            found.missed((SecretKind.PROJECT_VARIABLE,), refused.code)
        return Variables(items=tuple(_variables_in(details).values()), complete=details is not None)

    # --- tokens, webhooks, triggers, claims ---

    def _tokens(self, project: Project, found: _Findings) -> None:
        what = f"listing the API tokens of {display(project.slug)}"
        path = older_project_path(project.slug, "token")
        with found.reading(SecretKind.PROJECT_TOKEN), self._side_route(what):
            try:
                tokens = self._transport.get(what, path, list[shapes.ProjectToken])
            except CircleCiError as error:
                # Project tokens are v1.1's own (facts 4.4): a standalone project that it does not know has none.
                if error.status == HTTPStatus.NOT_FOUND and project.slug.startswith("circleci/"):
                    return
                raise
            found.add(token.row(found.place) for token in tokens)

    def _by_id(self, project: Project, number: str, kinds: frozenset[SecretKind], found: _Findings) -> None:
        if SecretKind.WEBHOOK_SECRET in kinds:
            with found.reading(SecretKind.WEBHOOK_SECRET):
                what = f"listing the webhooks of {display(project.slug)}"
                asked = {"scope-id": number, "scope-type": "project"}
                for item in self._items(
                    what, "/api/v2/webhook", replies.Page[shapes.Webhook], asked, absent=lacks_route
                ):
                    found.add((item.row(found.place),))
        if SecretKind.TRIGGER_URL in kinds:
            with found.reading(SecretKind.TRIGGER_URL):
                self._triggers(project, number, found)
        if SecretKind.OIDC_CLAIMS in kinds:
            owner = self.owner(project.organization)
            if isinstance(owner, CircleCiError):
                found.missed((SecretKind.OIDC_CLAIMS,), owner.code)
            elif owner:
                with found.reading(SecretKind.OIDC_CLAIMS):
                    path = path_of("/api/v2/org", owner, "project", number, "oidc-custom-claims")
                    self._claims(path, number, found)

    def _triggers(self, project: Project, number: str, found: _Findings) -> None:
        what = f"listing the triggers of {display(project.slug)}"
        definitions = path_of("/api/v2/projects", number, "pipeline-definitions")
        for definition in self._items(what, definitions, replies.Page[replies.WithId], {}, absent=lacks_route):
            with found.reading(SecretKind.TRIGGER_URL, f"{project.slug} (pipeline definition {definition.id})"):
                path = path_of("/api/v2/projects", number, "pipeline-definitions", definition.id, "triggers")
                for item in self._items(what, path, replies.Page[shapes.Trigger], {}, absent=_gone):
                    found.add((item.row(found.place),))

    def _claims(self, path: str, number: str, found: _Findings) -> None:
        what = f"reading the OIDC claims of {display(found.place.name)}"
        claims = self._optional(what, path, shapes.Claims, {}, lacks_route)
        if claims is not None:
            found.add((claims.row(found.place, number),))

    def _runner_tokens(self, organization: Organization, owner: str, found: _Findings) -> None:
        what = f"listing the runner tokens of {display(organization.slug)}"
        with found.reading(SecretKind.RUNNER_TOKEN), self._side_route(what):
            path, asked = "/api/v3/runner/resource", {"org-id": owner}
            for item in self._items(what, path, replies.Page[shapes.RunnerClass], asked, absent=lacks_route):
                place = Place(organization=organization.slug, name=item.resource_class, kind="resource-class")
                with found.reading(SecretKind.RUNNER_TOKEN, item.resource_class):
                    path, asked = "/api/v3/runner/token", {"resource-class": item.resource_class}
                    for token in self._items(what, path, replies.Page[shapes.RunnerToken], asked, absent=_gone):
                        found.add((token.row(place),))

    # --- calls ---

    def _items(
        self,
        what: str,
        path: str,
        shape: type[replies.Page[T]],
        params: Mapping[str, str],
        *,
        absent: Callable[[Answer], bool] = lambda _answer: False,
    ) -> Iterator[T]:
        """Every item of a list once, as far as its pages lead; none where a 404 means that (`absent`)."""

        def read(token: str | None) -> tuple[list[T], str | None]:
            page = self._optional(what, path, shape, {**params, "page-token": token} if token else params, absent)
            return ([], None) if page is None else (page.items, page.next_page_token)

        return self._transport.pages(what, read)

    def _optional(
        self, what: str, path: str, shape: type[T], params: Mapping[str, str], absent: Callable[[Answer], bool]
    ) -> T | None:
        """Read one thing, or None where a 404 means that there is none."""
        answer = self._transport.repeated(what, "GET", path, params=params, expected=_NOT_FOUND)
        if answer.status != HTTPStatus.NOT_FOUND:
            return decoded(what, answer, shape, Effect.NONE)
        if absent(answer):
            return None
        code = f"HTTP{answer.status}"
        raise CircleCiError(what, code=code, status=answer.status, effect=Effect.NONE, request_id=answer.request_id)

    @contextmanager
    def _side_route(self, what: str) -> Iterator[None]:
        """Tell a token that is no good from a good one that this undocumented route does not take.

        The API's front door is asked, once; were the second case raised as the first, it would end the whole reading.
        """
        rejected = False
        try:
            yield
        except CredentialsError:
            rejected = True
        if rejected:
            if not self._token_is_good:
                self._transport.get("reading /me", "/api/v2/me", replies.Me)
                self._token_is_good = True
            raise CircleCiError(what, code="HTTP401", status=HTTPStatus.UNAUTHORIZED, effect=Effect.NONE)

    def _project_id(self, project: Project, kinds: frozenset[SecretKind]) -> str | CircleCiError:
        """The project's id, if one of these kinds is read by it."""
        return project.id if not kinds & (_IN_DETAILS | _BY_ID) else self.project_number(project)

    def project_number(self, project: Project) -> str | CircleCiError:
        """The project's id, looked up where there is none yet."""
        if project.id:
            return project.id
        path = project_path(project.slug)
        try:
            return self._transport.get(f"reading {display(project.slug)}", path, replies.WithId).id
        except CircleCiError as error:
            return error

    def owner(self, slug: str) -> str | CircleCiError:
        """The organization's id, looked up once; empty for one that has none, or whose id nobody tells."""
        key = replies.slug_key(slug)
        with self._owners_lock:
            if key not in self._owners:
                path = path_of("/api/v2/organization", slug)
                try:
                    found = self._transport.get(f"reading {display(slug)}", path, shapes.OrganizationDetail)
                    self._owners[key] = found.id or ""
                except CircleCiError as error:
                    is_refused = error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    self._owners[key] = "" if is_refused and not error.retryable else error
            return self._owners[key]


def _asks_variables(kinds: frozenset[SecretKind]) -> bool:
    return SecretKind.PROJECT_VARIABLE in kinds


def _add_details(details: shapes.ProjectDetails, kinds: frozenset[SecretKind], found: _Findings) -> None:
    if SecretKind.CHECKOUT_KEY in kinds:
        found.add(key.row(found.place) for key in details.checkout_keys or ())
    if SecretKind.SSH_KEY in kinds:
        found.add(key.row(found.place) for key in details.ssh_keys or ())
    if SecretKind.LEGACY_AWS_KEY in kinds and details.legacy_aws_keys is not None:
        found.add((details.legacy_aws_keys.row(found.place),))


def _variables_in(details: shapes.ProjectDetails | None) -> dict[str, MaskedVariable]:
    shown = details.project_env_vars or [] if details is not None else []
    return {item.name: item.masked() for item in shown}


def _gone(_answer: Answer) -> bool:
    """What held the list is gone since it was listed."""
    return True
