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
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from playbook.errors import CircleCiError, CredentialsError
from playbook.ports import MaskedVariable, Organization, Sink
from playbook.secret import Secret
from playbook.twins.circleci import PAGE, CircleCiTwin, canonical, refusal
from playbook.twins.pipeline import context_sink, project_sink
from playbook.twins.state import Context, ContextRestriction, StoredOrganization, StoredProject

if TYPE_CHECKING:
    from datetime import datetime

    from playbook.twins.world import TwinWorld

CONTEXTS_PAGE: Final = 20
PRIVATE_PAGE_MAX: Final = 50
V3_PAGE_MAX: Final = {"projects": 50, "env-vars": 250}
VALUE_MAX_CHARACTERS: Final = 32_000
MASK: Final = "xxxx"
JSON_TYPE: Final = "application/json"

_NOT_LOGGED_IN: Final = "You must log in first."
_BAD_TOKEN: Final = "Invalid token provided."  # noqa: S105  # what the API says of one
_OLD_TOKEN: Final = (
    "New format tokens are needed to authenticate this API endpoint. Create a new API token for access."  # noqa: S105  # as above
)
_QUERY_TOKEN: Final = (
    "Support for query parameter authentication has been deprecated to improve security. "  # noqa: S105  # as above
    "Please use a supported authentication method such as header-based, or basic authentication."
)
_NO_CONTEXT: Final = "You don't have permission to view that context."
_BAD_BODY: Final = "Unexpected request body provided."
_OLD_TOKEN_FORM: Final = re.compile(r"[0-9a-f]{40}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TEXTS: Final[Mapping[tuple[str, int], str]] = {
    ("", 400): _BAD_BODY,
    ("", 403): "Permission denied.",
    ("", 404): "Project not found",
    ("", 409): "Conflict.",
    ("", 429): "Rate limit exceeded.",
    ("contexts", 404): "Organization does not exist.",
    ("create_context", 404): "Organization does not exist.",
    ("create_context", 409): "A context with this name already exists.",
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
                return self._carry_out(handler, request, {name: unquote(text) for name, text in found.groupdict().items()})
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
        if status in (403, 404) and "/context/" in request.path:
            text = _NO_CONTEXT if status == 403 else "Context not found."  # noqa: PLR2004  # the code and its text
        if request.path.startswith("/api/v3/"):
            return _json(status, {"error": {"id": str(uuid.uuid4()), "title": text, "detail": text}})
        wait = {"Retry-After": "1"} if status == 429 and self.world.switches.retry_after else {}  # noqa: PLR2004
        return _message(status, text, wait)

    def _refuse_caller(self, request: Request) -> Reply | None:
        sent = _token_of(request.headers)
        if sent is None:
            return _message(401, _QUERY_TOKEN if "circle-token" in request.query else _NOT_LOGGED_IN)
        if sent.is_same_as(self._token):
            return None
        return _message(401, _OLD_TOKEN if _OLD_TOKEN_FORM.fullmatch(sent.reveal()) else _BAD_TOKEN)

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
    return Reply(status=status, body=json.dumps(document).encode(), headers={"Content-Type": JSON_TYPE, **(headers or {})})


def _message(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    return _json(status, {"message": text}, headers)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _token_of(headers: Mapping[str, str]) -> Secret | None:
    """The token of whichever of the three header forms was used."""
    if "circle-token" in headers:
        return Secret(headers["circle-token"])
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Secret(given.strip())
    if scheme.lower() == "basic":
        try:
            return Secret(base64.b64decode(given, validate=True).decode().partition(":")[0])
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


def _page(items: Sequence[Any], size: int, token: str | None, *, loops: bool = False) -> tuple[Sequence[Any], str | None]:
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


def _context_variable(sink: Sink, item: MaskedVariable) -> dict[str, Any]:
    shown = {} if item.tail is None else {"truncated_value": item.tail}
    return {
        "variable": item.name,
        **shown,
        "context_id": sink.id,
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


def _restriction_row(context: Context, item: ContextRestriction) -> dict[str, Any]:
    project = {"project_id": item.value} if item.kind == "project" else {}
    return {
        "id": item.id,
        "context_id": context.id,
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
    found = api.twin.call("contexts", parts["id"], lambda: api.context("contexts", parts["id"]))
    return _json(200, _context_row(found))


@_route("GET", "/api/v2/context/{id}/environment-variable")
def _context_variables(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    sink = context_sink(api.context("variables", parts["id"])) if parts["id"] in _ids(api) else _nowhere(parts["id"])
    read = api.twin.variables(sink)
    rows = [_context_variable(sink, item) for item in read.items]
    if api.world.switches.spec_paging:
        items, token = _page(rows, PAGE, request.query.get("page-token"))
    else:
        # The token that nothing takes back: it is given, and the first page is all there is (facts 2.4).
        items, token = rows[:PAGE], str(PAGE) if not read.complete or len(rows) > PAGE else None
    return _json(200, {"items": items, "next_page_token": token})


@_route("PUT", "/api/v2/context/{id}/environment-variable/{name}")
def _put_context_variable(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    value = _value_or_none(request)
    if value is None:
        return _message(400, "Invalid body.")
    sink = context_sink(api.context("put_variable", parts["id"]))
    try:
        api.twin.put_variable(sink, parts["name"], value)
    except CircleCiError as error:
        if error.status == 400 and re.fullmatch(r"\w{1,300}", parts["name"]):  # noqa: PLR2004  # the cap's own text
            return _message(400, f"Cannot create more than {PAGE} environment variables per context")
        raise
    stored = api.context("put_variable", parts["id"]).variables[parts["name"]]
    return _json(
        200,
        {
            "variable": parts["name"],
            "context_id": parts["id"],
            "created_at": _iso(stored.created_at),
            "updated_at": _iso(stored.updated_at),
        },
    )
