"""CircleCI's HTTP API over the twin: which address means which call, and how its answer is spelled.

Pure in that it knows no socket: a `Request` goes in, a `Reply` comes out, or `NoReplyError` when a fault wants the
connection to break. Facts: circleci 0 to 3; what the sources disagree on is a switch.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from playbook.errors import CircleCiError, CredentialsError
from playbook.ports import MaskedVariable, Organization, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins.circleci import PAGE, CircleCiTwin, canonical, names_variable, refusal
from playbook.twins.pipeline import project_sink
from playbook.twins.state import Context, ContextRestriction, StoredOrganization, StoredProject

if TYPE_CHECKING:
    from datetime import datetime

    from playbook.twins.world import TwinWorld

CONTEXTS_PAGE: Final = 20
PRIVATE_PAGE_MAX: Final = 50
V3_PAGE_MAX: Final = {"projects": 50, "env-vars": 250}
VALUE_MAX_CHARACTERS: Final = 32_000
MASK: Final = "xxxx"
RESTRICTIONS: Final = frozenset({"project", "expression", "group"})
JSON_TYPE: Final = "application/json"

_NOT_LOGGED_IN: Final = "You must log in first."
_BAD_TOKEN: Final = "Invalid token provided."  # noqa: S105  # what the API says of one
_OLD_TOKEN: Final = "New format tokens are needed to authenticate this API endpoint. Create a new API token for access."  # noqa: S105  # as above
_QUERY_TOKEN: Final = (
    "Support for query parameter authentication has been deprecated to improve security. "  # noqa: S105  # as above
    "Please use a supported authentication method such as header-based, or basic authentication."
)
_NO_CONTEXT: Final = "You don't have permission to view that context."
_BAD_BODY: Final = "Unexpected request body provided."
_OLD_TOKEN_FORM: Final = re.compile(r"[0-9a-f]{40}")
_OPAQUE_ID: Final = re.compile(r"[0-9A-Za-z]{21,22}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TEXTS: Final[Mapping[tuple[str, int], str]] = {
    ("", 400): _BAD_BODY,
    ("", 403): "Permission denied.",
    ("", 404): "Project not found",
    ("", 409): "Conflict.",
    ("", 429): "Rate limit exceeded.",
    ("contexts", 404): "Organization does not exist.",
    ("create_context", 404): "Organization does not exist.",
    ("create_context", 409): "A context with this name already exists.",
    ("project slug", 400): "Invalid project slug",
    ("delete_restriction", 404): "Restriction not found.",
    ("create_restriction", 400): "This restriction cannot be applied to this context.",
    ("create_restriction", 409): "The restriction you're trying to add already exists.",
}


class NoReplyError(Exception):
    """The connection is to break here, as a lost request or a lost reply looks from outside."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request, as it came."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = field(default=b"", repr=False)

    @property
    def path(self) -> str:
        """The path, still quoted: a quoted slash is part of a name."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query; of a name given twice the first counts."""
        parsed = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[0] for name, values in parsed.items()}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One HTTP reply."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Api, Request, Mapping[str, str]], Reply]"
_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []
_PARTS: Final = {"slug": "[^/]+(?:/[^/]+/[^/]+)?"}


def _route(method: str, template: str) -> Callable[[Handler], Handler]:
    """Register a handler; `{slug}` takes one segment or the three of a project's slug."""
    pattern = re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{_PARTS.get(part[1], '[^/]+')})", template)

    def register(handler: Handler) -> Handler:
        _ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return register


class Api:
    """The API of one world, for whoever sends its token."""

    def __init__(self, world: TwinWorld, token: Secret) -> None:
        self.world = world
        self.twin = CircleCiTwin(world, retries=0)
        self._token = token

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        refused = self._refuse_caller(request)
        if refused is not None:
            return refused
        for method, pattern, handler in _ROUTES:
            found = pattern.fullmatch(request.path)
            if found is not None and method == request.method:
                return self._carry_out(
                    handler, request, {name: unquote(text) for name, text in found.groupdict().items()}
                )
        return Reply(status=404, body=b"page not found", headers={"Content-Type": "text/plain"})

    def _carry_out(self, handler: Handler, request: Request, parts: Mapping[str, str]) -> Reply:
        try:
            return handler(self, request, parts)
        except CredentialsError:
            return _message(401, _BAD_TOKEN)
        except CircleCiError as error:
            if error.status is None and error.retryable:
                raise NoReplyError from None
            return self._refusal(error, request)

    def _refusal(self, error: CircleCiError, request: Request) -> Reply:
        status = error.status or 403
        text = _TEXTS.get((error.operation, status)) or _TEXTS.get(("", status), "Internal server error.")
        if "/context/" in request.path and (error.operation, status) not in _TEXTS:
            text = {403: _NO_CONTEXT, 404: "Context not found."}.get(status, text)
        if request.path.startswith("/api/v3/"):
            return _json(status, {"error": {"id": str(uuid.uuid4()), "title": text, "detail": text}})
        wait = (
            {"Retry-After": "1"} if status == HTTPStatus.TOO_MANY_REQUESTS and self.world.switches.retry_after else {}
        )
        return _message(status, text, wait)

    def _refuse_caller(self, request: Request) -> Reply | None:
        sent = _token_of(request.headers)
        if sent is None:
            return _message(401, _QUERY_TOKEN if "circle-token" in request.query else _NOT_LOGGED_IN)
        if sent.token.is_same_as(self._token):
            return None
        return _message(401, _OLD_TOKEN if sent.is_old else _BAD_TOKEN)

    # --- finding what an address names ---

    def organization(self, operation: str, name: str) -> StoredOrganization:
        """An organization by its id or slug."""
        for item in self.world.state.circleci.organizations.values():
            if name == item.id or canonical(name) == canonical(item.slug):
                return item
        raise refusal(operation, 404)

    def context(self, operation: str, context_id: str) -> Context:
        """A context by its id; every other answer is the same refusal."""
        if (found := self.world.state.circleci.contexts.get(context_id)) is None:
            raise refusal(operation, self.world.switches.missing_context_status)
        return found

    def project(self, operation: str, slug: str, *, deleted: bool = False) -> StoredProject:
        """A project by its slug, by the ids in the slug's place, or by its id alone."""
        projects = self.world.state.circleci.projects
        found = projects.get(canonical(slug))
        if found is None:
            last = slug.rpartition("/")[2]
            found = next((item for item in projects.values() if item.id == last), None)
        if found is None or (found.deleted and not deleted):
            raise refusal(operation, 404)
        return found

    def projects_of(self, organization: str, source: str) -> list[StoredProject]:
        """The projects of an organization (its id) that one source knows."""
        owner = self.organization("projects", organization)
        return [item for item in self.twin.projects_of(owner.slug) if source in item.known_by]


# --- Spelling -----------------------------------------------------------------------------------------------------


def _json(status: int, document: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(
        status=status, body=json.dumps(document).encode(), headers={"Content-Type": JSON_TYPE, **(headers or {})}
    )


def _message(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    return _json(status, {"message": text}, headers)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True, kw_only=True)
class _Sent:
    token: Secret
    is_old: bool
    """It has the form of the tokens that were revoked in 2023."""

    @classmethod
    def of(cls, text: str) -> _Sent:
        return cls(token=Secret(text), is_old=_OLD_TOKEN_FORM.fullmatch(text) is not None)


def _token_of(headers: Mapping[str, str]) -> _Sent | None:
    """The token of whichever of the three header forms was used."""
    if "circle-token" in headers:
        return _Sent.of(headers["circle-token"])
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return _Sent.of(given.strip())
    if scheme.lower() == "basic":
        try:
            return _Sent.of(base64.b64decode(given, validate=True).decode().partition(":")[0])
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _fields(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(request.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise refusal("", 400)
    return found


def _page(
    items: Sequence[Any], size: int, token: str | None, *, loops: bool = False
) -> tuple[Sequence[Any], str | None]:
    start = int(token) if token is not None and token.isdecimal() else 0
    start = start % max(len(items), 1) if loops else start
    end = start + size
    more = end < len(items)
    return items[start:end], str(end) if more or loops else None


def _value(fields: Mapping[str, Any]) -> Secret:
    """The value of a write: a body with another key than `value` stores the empty text (facts 2.5)."""
    value = fields.get("value", "")
    if not isinstance(value, str) or len(value) > VALUE_MAX_CHARACTERS:
        raise refusal("", 400)
    return Secret(value)


def _context_row(context: Context) -> dict[str, Any]:
    return {"id": context.id, "name": context.name, "created_at": _iso(context.created_at)}


def _context_variable(context_id: str, item: MaskedVariable) -> dict[str, Any]:
    shown = {} if item.tail is None else {"truncated_value": item.tail}
    return {
        "variable": item.name,
        **shown,
        "context_id": context_id,
        "created_at": _iso(item.created_at),
        "updated_at": _iso(item.updated_at),
    }


def _project_variable(api: Api, item: MaskedVariable) -> dict[str, Any]:
    when = "created_at" if api.world.switches.snake_case_times else "created-at"
    return {
        "name": item.name,
        "value": None if item.tail is None else f"{MASK}{item.tail}",
        when: _iso(item.created_at),
    }


def _restriction_row(context_id: str, item: ContextRestriction) -> dict[str, Any]:
    project = {"project_id": item.value} if item.kind == "project" else {}
    return {
        "id": item.id,
        "context_id": context_id,
        "name": None,
        "restriction_type": item.kind,
        "restriction_value": item.value,
        **project,
    }


# --- Who am I -------------------------------------------------------------------------------------------------------


@_route("GET", "/api/v2/me")
def _me(api: Api, _request: Request, _parts: Mapping[str, str]) -> Reply:
    login = api.twin.login()
    return _json(200, {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, login)), "login": login, "name": login})


@_route("GET", "/api/v2/me/collaborations")
def _collaborations(api: Api, _request: Request, _parts: Mapping[str, str]) -> Reply:
    rows = [
        {"id": item.id or None, "vcs_type": _vcs(item.slug), "slug": item.slug, "name": item.name, "avatar_url": ""}
        for item in api.twin.organizations()
    ]
    return _json(200, rows)


@_route("GET", "/api/v2/organization/{owner}")
def _organization(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("organizations", parts["owner"], lambda: api.organization("contexts", parts["owner"]))
    return _json(200, {"id": found.id, "name": found.name, "slug": found.slug, "vcs_type": _vcs(found.slug)})


def _vcs(slug: str) -> str:
    provider = canonical(slug).partition("/")[0]
    return {"gh": "github", "bb": "bitbucket"}.get(provider, provider)


# --- Contexts -------------------------------------------------------------------------------------------------------


@_route("GET", "/api/v2/context")
def _contexts(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    if request.query.get("owner-type", "organization") != "organization":
        return _message(400, "only organization is supported at present")
    owner = request.query.get("owner-id") or request.query.get("owner-slug")
    if owner is None:
        return _message(400, "owner-id or owner-slug is required.")
    found = api.organization("contexts", owner)
    asked = Organization(id=found.id, slug=found.slug, name=found.name)
    sinks = api.twin.contexts(asked)
    rows = [_context_row(api.context("contexts", sink.id)) for sink in sinks]
    items, token = _page(rows, CONTEXTS_PAGE, request.query.get("page-token"))
    return _json(200, {"items": items, "next_page_token": token})


@_route("POST", "/api/v2/context")
def _create_context(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    fields = _fields(request)
    name, owner = fields.get("name"), fields.get("owner")
    if not isinstance(name, str) or not isinstance(owner, dict):
        return _message(400, _BAD_BODY)
    found = api.organization("create_context", str(owner.get("id") or owner.get("slug")))
    made = api.twin.create_context(Organization(id=found.id, slug=found.slug, name=found.name), name)
    return _json(api.world.switches.create_context_status, _context_row(api.context("create_context", made.id)))


@_route("GET", "/api/v2/context/{id}")
def _context(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("context", parts["id"], lambda: api.context("context", parts["id"]))
    return _json(200, _context_row(found))


@_route("DELETE", "/api/v2/context/{id}")
def _delete_context(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    def effect() -> None:
        del api.world.state.circleci.contexts[api.context("delete_context", parts["id"]).id]

    api.twin.call("delete_context", parts["id"], effect, write=True)
    return _message(200, "Context deleted.")


@_route("GET", "/api/v2/context/{id}/environment-variable")
def _context_variables(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    read = api.twin.variables(_context_of(parts))
    rows = [_context_variable(parts["id"], item) for item in read.items]
    if api.world.switches.spec_paging:
        items, token = _page(rows, PAGE, request.query.get("page-token"))
    else:
        # A token is given that no parameter takes back: the first page is all there is (facts 2.4).
        items, token = rows[:PAGE], str(PAGE) if not read.complete or len(rows) > PAGE else None
    return _json(200, {"items": items, "next_page_token": token})


@_route("PUT", "/api/v2/context/{id}/environment-variable/{name}")
def _put_context_variable(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = _fields(request)
    if not fields:
        return _message(400, "Invalid body.")
    value = _value(fields)
    try:
        stored = api.twin.write_variable(_context_of(parts), parts["name"], value)
    except CircleCiError as error:
        if error.status == HTTPStatus.BAD_REQUEST and names_variable(parts["name"]):
            return _message(400, f"Cannot create more than {PAGE} environment variables per context")
        raise
    return _json(
        200,
        {
            "variable": parts["name"],
            "context_id": parts["id"],
            "created_at": _iso(stored.created_at),
            "updated_at": _iso(stored.updated_at),
        },
    )


@_route("DELETE", "/api/v2/context/{id}/environment-variable/{name}")
def _delete_context_variable(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _deleted(api, _context_of(parts), parts["name"])


def _context_of(parts: Mapping[str, str]) -> Sink:
    return Sink(kind=SinkKind.CONTEXT, id=parts["id"], name=parts["id"], organization="")


def _deleted(api: Api, sink: Sink, name: str) -> Reply:
    if api.twin.remove_variable(sink, name):
        return _message(200, "Environment variable deleted.")
    return _message(api.world.switches.delete_missing_status, "Environment variable not found.")


@_route("GET", "/api/v2/context/{id}/restrictions")
def _restrictions(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.restrictions(_context_of(parts))
    rows = [
        _restriction_row(parts["id"], ContextRestriction(id=item.id, kind=item.kind, value=item.value))
        for item in found
    ]
    return _json(200, {"items": rows, "next_page_token": None})


@_route("POST", "/api/v2/context/{id}/restrictions")
def _create_restriction(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = _fields(request)
    made = ContextRestriction(
        id=str(uuid.uuid4()),
        kind=str(fields.get("restriction_type")),
        value=str(fields.get("restriction_value")),
    )

    def effect() -> None:
        context = api.context("create_restriction", parts["id"])
        if made.kind not in RESTRICTIONS:
            raise refusal("create_restriction", 400)
        if any((item.kind, item.value) == (made.kind, made.value) for item in context.restrictions):
            raise refusal("create_restriction", 409)
        context.restrictions.append(made)

    api.twin.call("create_restriction", parts["id"], effect, write=True)
    row = _restriction_row(parts["id"], made)
    return _json(201, {name: row[name] for name in row.keys() - {"name", "context_id"}})


@_route("DELETE", "/api/v2/context/{id}/restrictions/{restriction}")
def _delete_restriction(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    def effect() -> None:
        context = api.context("delete_restriction", parts["id"])
        left = [item for item in context.restrictions if item.id != parts["restriction"]]
        if len(left) == len(context.restrictions):
            raise refusal("delete_restriction", 404)
        context.restrictions = left

    api.twin.call("delete_restriction", parts["id"], effect, write=True)
    return _message(200, "Context restriction deleted.")


# --- Projects -------------------------------------------------------------------------------------------------------


@_route("GET", "/api/v2/project/{slug}")
def _project(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("projects", parts["slug"], lambda: api.project("projects", parts["slug"]))
    owner = api.organization("projects", found.organization)
    return _json(
        200,
        {
            "slug": found.slug,
            "name": found.slug.rpartition("/")[2],
            "id": found.id,
            "organization_name": owner.name,
            "organization_slug": owner.slug,
            "organization_id": owner.id,
            "vcs_info": {"vcs_url": _vcs_url(owner, found), "provider": _provider(found), "default_branch": "main"},
        },
    )


@_route("GET", "/api/v2/project/{slug}/envvar")
def _project_variables(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    read = api.twin.variables(_project_of(api, parts))
    return _json(200, {"items": [_project_variable(api, item) for item in read.items], "next_page_token": None})


@_route("POST", "/api/v2/project/{slug}/envvar")
def _post_project_variable(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = _fields(request)
    name = fields.get("name")
    if not isinstance(name, str):
        return _message(400, _BAD_BODY)
    value = _value(fields)
    stored = api.twin.write_variable(_project_of(api, parts), name, value)
    # The answer is of this very write, so it is not masked by any lag.
    written = MaskedVariable(name=name, tail=stored.value.tail, created_at=stored.created_at)
    return _json(201, _project_variable(api, written))


@_route("GET", "/api/v2/project/{slug}/envvar/{name}")
def _project_variable_alone(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.variables(_project_of(api, parts)).find(parts["name"])
    if found is None:
        return _message(404, "Environment variable not found.")
    return _json(200, _project_variable(api, found))


@_route("DELETE", "/api/v2/project/{slug}/envvar/{name}")
def _delete_project_variable(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _deleted(api, _project_of(api, parts), parts["name"])


def _project_of(api: Api, parts: Mapping[str, str]) -> Sink:
    """The project as a sink; one that v2 no longer knows is refused, though the twin would still read it."""
    slug = parts["slug"]
    if slug.startswith("circleci/") and not all(_OPAQUE_ID.fullmatch(part) for part in slug.split("/")[1:]):
        raise refusal("project slug", 400)
    return project_sink(api.project("variables", slug))


def _vcs_url(owner: StoredOrganization, project: StoredProject) -> str:
    if _vcs(project.slug) == "circleci":
        return f"//circleci.com/{owner.id}/{project.id}"
    host = "bitbucket.org" if _vcs(project.slug) == "bitbucket" else "github.com"
    return f"https://{host}/{project.slug.partition('/')[2]}"


def _provider(project: StoredProject) -> str:
    return {"github": "GitHub", "bitbucket": "Bitbucket"}.get(_vcs(project.slug), "CircleCI")


# --- Lists that only other APIs have --------------------------------------------------------------------------------


@_route("GET", "/api/private/project")
def _private_projects(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    asked = request.query.get("page-size", str(PRIVATE_PAGE_MAX))
    if not asked.isdecimal() or not 1 <= int(asked) <= PRIVATE_PAGE_MAX:
        return _message(500, "Internal server error.")
    owner = request.query.get("organization-id", "")
    found = api.twin.call("projects", owner, lambda: api.projects_of(owner, "private"))
    with_deleted = request.query.get("include-deleted") == "true"
    rows = [
        {
            "id": item.id,
            "slug": item.slug,
            "name": item.slug.rpartition("/")[2],
            "last_build_finished_at": None,
            "has_trigger": not item.deleted,
        }
        for item in found
        if with_deleted or not item.deleted
    ]
    items, token = _page(rows, int(asked), request.query.get("page-token"), loops=api.world.switches.private_pages_loop)
    return _json(200, {"items": items, "next_page_token": token})


@_route("GET", "/api/private/project/{id}")
def _private_project(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    with_deleted = request.query.get("include-deleted") == "true"
    found = api.project("variables", parts["id"], deleted=with_deleted)
    read = api.twin.variables(project_sink(found))
    stored = [{"name": item.name, "value": f"{MASK}{item.tail or ''}"} for item in read.items]
    return _json(200, {"project_env_vars": stored, "checkout_keys": [], "ssh_keys": []})


@_route("GET", "/api/v3/projects")
def _v3_projects(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    owner = request.query.get("filter[org_id]", "")
    if not api.world.switches.v3_lists_projects:
        raise refusal("v3 projects", 400)
    found = api.twin.call("projects", owner, lambda: api.projects_of(owner, "v3"))
    rows = [{"id": item.id, "attributes": {"name": item.slug.rpartition("/")[2]}} for item in found if not item.deleted]
    return _v3_page(request, rows, V3_PAGE_MAX["projects"])


@_route("GET", "/api/v3/contexts/{id}/env-vars")
def _v3_context_variables(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.v3_variables:
        return _json(404, {"error": {"id": str(uuid.uuid4()), "title": "not found", "detail": "not found"}})
    rows = []
    for item in api.twin.variables(_context_of(parts)).items:
        row = _context_variable(parts["id"], item)
        attributes = {"name": item.name, **{name: row[name] for name in row.keys() - {"variable", "context_id"}}}
        rows.append({"id": item.name, "attributes": attributes})
    return _v3_page(request, rows, V3_PAGE_MAX["env-vars"])


def _v3_page(request: Request, rows: Sequence[Any], size_max: int) -> Reply:
    size = request.query.get("page[limit]", str(size_max))
    if not size.isdecimal() or not 1 <= int(size) <= size_max:
        raise refusal("page[limit]", 400)
    items, following = _page(rows, int(size), request.query.get("page[cursor]"))
    page = {"next": following, "prev": None}
    return _json(200, {"data": items, "page": page, "meta": {"total_count": len(rows)}})


@_route("GET", "/api/v1.1/projects")
def _followed(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    def effect() -> list[dict[str, str]]:
        state = api.world.state.circleci
        return [
            _followed_row(state.organizations[item.organization], item)
            for item in state.projects.values()
            if "v1.1" in item.known_by and not item.deleted
        ]

    rows = api.twin.call("projects", "followed", effect)
    if JSON_TYPE in request.headers.get("accept", ""):
        return _json(200, rows)
    # Clojure's notation is what v1.1 speaks to a caller that does not ask for JSON (facts 0.2).
    text = " ".join(
        "{" + ", ".join(f":{name} {json.dumps(value)}" for name, value in row.items()) + "}" for row in rows
    )
    return Reply(status=200, body=f"({text})".encode(), headers={"Content-Type": "application/edn"})


def _followed_row(owner: StoredOrganization, project: StoredProject) -> dict[str, str]:
    organization, _, name = canonical(project.slug).partition("/")[2].partition("/")
    return {
        "vcs_type": _vcs(project.slug),
        "username": organization,
        "reponame": name,
        "vcs_url": _vcs_url(owner, project),
    }
