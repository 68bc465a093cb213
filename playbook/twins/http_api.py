"""What all of CircleCI's HTTP API has in common: who may call, which address means which call, how errors are spelled.

Pure in that it knows no socket: a `Request` goes in, a `Reply` comes out, or `NoReplyError` when a fault wants the
connection to break. The routes themselves are in `routes`, `run_routes` and `secret_routes`. Facts: circleci 0.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from playbook.errors import CircleCiError, CredentialsError
from playbook.secret import Secret
from playbook.twins.circleci import CircleCiTwin
from playbook.twins.circleci_calls import canonical
from playbook.twins.refusals import refusal

if TYPE_CHECKING:
    from datetime import datetime

    from playbook.twins.state import Context, StoredOrganization, StoredProject
    from playbook.twins.world import TwinWorld

JSON_TYPE: Final = "application/json"

_NOT_LOGGED_IN: Final = "You must log in first."
_BAD_TOKEN: Final = "Invalid token provided."  # noqa: S105  # what the API says of one
_OLD_TOKEN: Final = "New format tokens are needed to authenticate this API endpoint. Create a new API token for access."  # noqa: S105  # as above
_QUERY_TOKEN: Final = (
    "Support for query parameter authentication has been deprecated to improve security. "  # noqa: S105  # as above
    "Please use a supported authentication method such as header-based, or basic authentication."
)
_NO_CONTEXT: Final = "You don't have permission to view that context."
BAD_BODY: Final = "Unexpected request body provided."
_OLD_TOKEN_FORM: Final = re.compile(r"[0-9a-f]{40}")
_TEXTS: Final[Mapping[tuple[str, int], str]] = {
    ("", 400): BAD_BODY,
    ("", 403): "Permission denied.",
    ("", 404): "Project not found",
    ("", 409): "Conflict.",
    ("", 429): "Rate limit exceeded.",
    ("contexts", 404): "Organization does not exist.",
    ("create_context", 404): "Organization does not exist.",
    ("create_context", 409): "A context with this name already exists.",
    ("project slug", 400): "Invalid project slug",
    ("delete_restriction", 404): "Restriction not found.",
    ("pipeline", 404): "Pipeline not found",
    ("workflows", 404): "Pipeline not found",
    ("jobs", 404): "Workflow not found",
    ("rerun_workflow", 404): "Workflow not found",
    ("cancel_workflow", 404): "Workflow not found",
    ("create_restriction", 400): "This restriction cannot be applied to this context.",
    ("create_restriction", 409): "The restriction you're trying to add already exists.",
}
_CLAIMS_TEXTS: Final = {400: "OwnerID: must be a valid UUID.", 403: "Forbidden", 404: "Not Found"}


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
_PARTS: Final = {"slug": "[^/]+(?:/[^/]+/[^/]+)?"}


class Routes:
    """Addresses and what answers them."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, template: str) -> Callable[[Handler], Handler]:
        """Register a handler; `{slug}` takes one segment or the three of a project's slug."""
        pattern = re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{_PARTS.get(part[1], '[^/]+')})", template)

        def register(handler: Handler) -> Handler:
            self._routes.append((method, re.compile(pattern), handler))
            return handler

        return register

    def find(self, request: Request) -> tuple[Handler, dict[str, str]] | None:
        """What answers this request, and what the parts of its address say."""
        for method, pattern, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found is not None and method == request.method:
                return handler, {name: unquote(text) for name, text in found.groupdict().items()}
        return None


class Api:
    """The API of one world, for whoever sends its token."""

    def __init__(self, world: TwinWorld, token: Secret, routes: Sequence[Routes]) -> None:
        self._routes = routes
        self._lock = threading.Lock()
        self._next_at = 0.0
        self.world = world
        self.twin = CircleCiTwin(world, retries=0)
        self._token = token

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        refused = self._refuse_caller(request)
        if refused is not None:
            return refused
        if not self._is_within_rate():
            return self._refusal(refusal("", HTTPStatus.TOO_MANY_REQUESTS), request)
        for routes in self._routes:
            if (found := routes.find(request)) is not None:
                return self._carry_out(found[0], request, found[1])
        return no_route()

    def _is_within_rate(self) -> bool:
        """Count this request, against the real time: a client's pace is what the limit is about."""
        rate = self.world.switches.requests_per_s
        if rate is None:
            return True
        with self._lock:
            now = time.monotonic()
            turn_at = max(self._next_at, now - 1.0)
            if turn_at > now:
                return False
            self._next_at = turn_at + 1 / rate
            return True

    def _carry_out(self, handler: Handler, request: Request, parts: Mapping[str, str]) -> Reply:
        try:
            return handler(self, request, parts)
        except CredentialsError:
            return message_reply(401, _BAD_TOKEN)
        except CircleCiError as error:
            if error.status is None and error.retryable:
                raise NoReplyError from None
            return self._refusal(error, request)

    def _refusal(self, error: CircleCiError, request: Request) -> Reply:
        status = error.status or 403
        text = _TEXTS.get((error.operation, status)) or _TEXTS.get(("", status), "Internal server error.")
        if "/context/" in request.path and (error.operation, status) not in _TEXTS:
            text = {403: _NO_CONTEXT, 404: "Context not found."}.get(status, text)
        if request.path.endswith("/oidc-custom-claims"):
            return json_reply(status, {"error": _CLAIMS_TEXTS.get(status, "internal server error")})
        if request.path.startswith("/api/v3/") and "/runner/" not in request.path:
            return json_reply(status, {"error": {"id": str(uuid.uuid4()), "title": text, "detail": text}})
        wait = (
            {"Retry-After": "1"} if status == HTTPStatus.TOO_MANY_REQUESTS and self.world.switches.retry_after else {}
        )
        return message_reply(status, text, wait)

    def _refuse_caller(self, request: Request) -> Reply | None:
        sent = _token_of(request.headers)
        if sent is None:
            return message_reply(401, _QUERY_TOKEN if "circle-token" in request.query else _NOT_LOGGED_IN)
        if sent.token.is_same_as(self._token):
            return None
        return message_reply(401, _OLD_TOKEN if sent.is_old else _BAD_TOKEN)

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


def json_reply(status: int, document: object, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply as v2 gives it."""
    return Reply(
        status=status, body=json.dumps(document).encode(), headers={"Content-Type": JSON_TYPE, **(headers or {})}
    )


def no_route() -> Reply:
    """What an address answers that means nothing."""
    return Reply(status=404, body=b"page not found", headers={"Content-Type": "text/plain"})


def message_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply that is a sentence, which is how v2 refuses, and how it confirms a deletion."""
    return json_reply(status, {"message": text}, headers)


def edn_unless_asked(request: Request, document: list[dict[str, Any]] | dict[str, Any]) -> Reply:
    """Spell a reply of v1.1, which speaks Clojure's notation to a caller that does not ask for JSON (facts 0.2)."""
    if JSON_TYPE in request.headers.get("accept", ""):
        return json_reply(200, document)
    return Reply(status=200, body=_edn(document).encode(), headers={"Content-Type": "application/edn"})


def _edn(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f":{name} {_edn(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "(" + " ".join(map(_edn, value)) + ")"
    return "nil" if value is None else json.dumps(value)


def iso(moment: datetime | None) -> str | None:
    """A time as the API writes it."""
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


def fields_of(request: Request) -> dict[str, Any]:
    """The fields of a request's body; anything but a JSON object is refused."""
    try:
        found = json.loads(request.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise refusal("", 400)
    return found


def page_of(
    items: Sequence[Any], size: int, token: str | None, *, loops: bool = False
) -> tuple[Sequence[Any], str | None]:
    """Cut a page out of a list, with the token for the next one; pages that loop never end."""
    start = int(token) if token is not None and token.isdecimal() else 0
    start = start % max(len(items), 1) if loops else start
    end = start + size
    more = end < len(items)
    return items[start:end], str(end) if more or loops else None
