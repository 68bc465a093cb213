"""Contexts, variables, restrictions and the lists of projects, over HTTP (facts: circleci 1 to 3).

What the sources disagree on is a switch.
"""

from __future__ import annotations

import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from playbook.errors import CircleCiError
from playbook.ports import MaskedVariable, Organization, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins.circleci import PAGE, names_variable
from playbook.twins.circleci_calls import canonical
from playbook.twins.http_api import (
    BAD_BODY,
    Routes,
    edn_unless_asked,
    fields_of,
    iso,
    json_reply,
    message_reply,
    page_of,
)
from playbook.twins.pipeline import project_sink
from playbook.twins.refusals import refusal
from playbook.twins.state import Context, ContextRestriction, StoredOrganization, StoredProject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.twins.http_api import Api, Reply, Request

ROUTES: Final = Routes()
CONTEXTS_PAGE: Final = 20
PRIVATE_PAGE_MAX: Final = 50
V3_PAGE_MAX: Final = {"projects": 50, "env-vars": 250}
VALUE_MAX_CHARACTERS: Final = 32_000
MASK: Final = "xxxx"
_OPAQUE_ID: Final = re.compile(r"[0-9A-Za-z]{21,22}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _value(fields: Mapping[str, Any]) -> Secret:
    """The value of a write: a body with another key than `value` stores the empty text (facts 2.5)."""
    value = fields.get("value", "")
    if not isinstance(value, str) or len(value) > VALUE_MAX_CHARACTERS:
        raise refusal("", 400)
    return Secret(value)


def _context_row(context: Context) -> dict[str, Any]:
    return {"id": context.id, "name": context.name, "created_at": iso(context.created_at)}


def _context_variable(context_id: str, item: MaskedVariable) -> dict[str, Any]:
    shown = {} if item.tail is None else {"truncated_value": item.tail}
    return {
        "variable": item.name,
        **shown,
        "context_id": context_id,
        "created_at": iso(item.created_at),
        "updated_at": iso(item.updated_at),
    }


def _project_variable(api: Api, item: MaskedVariable) -> dict[str, Any]:
    when = "created_at" if api.world.switches.snake_case_times else "created-at"
    return {
        "name": item.name,
        "value": None if item.tail is None else f"{MASK}{item.tail}",
        when: iso(item.created_at),
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


@ROUTES.add("GET", "/api/v2/me")
def _me(api: Api, _request: Request, _parts: Mapping[str, str]) -> Reply:
    login = api.twin.login()
    number = str(uuid.uuid5(uuid.NAMESPACE_URL, login))
    return json_reply(200, {"id": number, "login": login, "name": login, "avatar_url": ""})


@ROUTES.add("GET", "/api/v2/me/collaborations")
def _collaborations(api: Api, _request: Request, _parts: Mapping[str, str]) -> Reply:
    rows = [
        {"id": item.id or None, "vcs_type": _vcs(item.slug), "slug": item.slug, "name": item.name, "avatar_url": ""}
        for item in api.twin.organizations()
    ]
    return json_reply(200, rows)


@ROUTES.add("GET", "/api/v2/organization/{owner}")
def _organization(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("organizations", parts["owner"], lambda: api.organization("contexts", parts["owner"]))
    return json_reply(200, {"id": found.id, "name": found.name, "slug": found.slug, "vcs_type": _vcs(found.slug)})


def _vcs(slug: str) -> str:
    provider = canonical(slug).partition("/")[0]
    return {"gh": "github", "bb": "bitbucket"}.get(provider, provider)


# --- Contexts -------------------------------------------------------------------------------------------------------


@ROUTES.add("GET", "/api/v2/context")
def _contexts(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    if request.query.get("owner-type", "organization") != "organization":
        return message_reply(400, "only organization is supported at present")
    owner = request.query.get("owner-id") or request.query.get("owner-slug")
    if owner is None:
        return message_reply(400, "owner-id or owner-slug is required.")
    found = api.organization("contexts", owner)
    asked = Organization(id=found.id, slug=found.slug, name=found.name)
    sinks = api.twin.contexts(asked)
    rows = [_context_row(api.context("contexts", sink.id)) for sink in sinks]
    items, token = page_of(rows, CONTEXTS_PAGE, request.query.get("page-token"))
    return json_reply(200, {"items": items, "next_page_token": token})


@ROUTES.add("POST", "/api/v2/context")
def _create_context(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    name, owner = fields.get("name"), fields.get("owner")
    if not isinstance(name, str) or not isinstance(owner, dict):
        return message_reply(400, BAD_BODY)
    found = api.organization("create_context", str(owner.get("id") or owner.get("slug")))
    made = api.twin.create_context(Organization(id=found.id, slug=found.slug, name=found.name), name)
    return json_reply(api.world.switches.create_context_status, _context_row(api.context("create_context", made.id)))


@ROUTES.add("GET", "/api/v2/context/{id}")
def _context(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("context", parts["id"], lambda: api.context("context", parts["id"]))
    return json_reply(200, _context_row(found))


@ROUTES.add("DELETE", "/api/v2/context/{id}")
def _delete_context(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.twin.remove_context(parts["id"]):
        raise refusal("delete_context", api.world.switches.missing_context_status)
    return message_reply(200, "Context deleted.")


@ROUTES.add("GET", "/api/v2/context/{id}/environment-variable")
def _context_variables(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    read = api.twin.variables(_context_of(parts))
    rows = [_context_variable(parts["id"], item) for item in read.items]
    if api.world.switches.spec_paging:
        items, token = page_of(rows, PAGE, request.query.get("page-token"))
    else:
        # A token is given that no parameter takes back: the first page is all there is (facts 2.4).
        items, token = rows[:PAGE], str(PAGE) if not read.complete or len(rows) > PAGE else None
    return json_reply(200, {"items": items, "next_page_token": token})


@ROUTES.add("PUT", "/api/v2/context/{id}/environment-variable/{name}")
def _put_context_variable(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    if not fields:
        return message_reply(400, "Invalid body.")
    value = _value(fields)
    try:
        stored = api.twin.write_variable(_context_of(parts), parts["name"], value)
    except CircleCiError as error:
        if error.status == HTTPStatus.BAD_REQUEST and names_variable(parts["name"]):
            return message_reply(400, f"Cannot create more than {PAGE} environment variables per context")
        raise
    return json_reply(
        200,
        {
            "variable": parts["name"],
            "context_id": parts["id"],
            "created_at": iso(stored.created_at),
            "updated_at": iso(stored.updated_at),
        },
    )


@ROUTES.add("DELETE", "/api/v2/context/{id}/environment-variable/{name}")
def _delete_context_variable(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _deleted(api, _context_of(parts), parts["name"])


def _context_of(parts: Mapping[str, str]) -> Sink:
    return Sink(kind=SinkKind.CONTEXT, id=parts["id"], name=parts["id"], organization="")


def _deleted(api: Api, sink: Sink, name: str) -> Reply:
    if api.twin.remove_variable(sink, name):
        return message_reply(200, "Environment variable deleted.")
    return message_reply(api.world.switches.delete_missing_status, "Environment variable not found.")


@ROUTES.add("GET", "/api/v2/context/{id}/restrictions")
def _restrictions(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.restrictions(_context_of(parts))
    rows = [
        _restriction_row(parts["id"], ContextRestriction(id=item.id, kind=item.kind, value=item.value))
        for item in found
    ]
    return json_reply(200, {"items": rows, "next_page_token": None})


@ROUTES.add("POST", "/api/v2/context/{id}/restrictions")
def _create_restriction(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    kind, value = str(fields.get("restriction_type")), str(fields.get("restriction_value"))
    made, is_new = api.twin.add_restriction(parts["id"], kind, value)
    if not is_new:
        raise refusal("create_restriction", 409)
    row = _restriction_row(parts["id"], ContextRestriction(id=made.id, kind=made.kind, value=made.value))
    return json_reply(201, {name: row[name] for name in row.keys() - {"name", "context_id"}})


@ROUTES.add("DELETE", "/api/v2/context/{id}/restrictions/{restriction}")
def _delete_restriction(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.twin.remove_restriction(parts["id"], parts["restriction"]):
        raise refusal("delete_restriction", 404)
    return message_reply(200, "Context restriction deleted.")


# --- Projects -------------------------------------------------------------------------------------------------------


@ROUTES.add("GET", "/api/v2/project/{slug}")
def _project(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.call("projects", parts["slug"], lambda: api.project("projects", parts["slug"]))
    owner = api.organization("projects", found.organization)
    return json_reply(
        200,
        {
            "slug": found.slug,
            "name": found.slug.rpartition("/")[2],
            "id": found.id,
            "organization_name": owner.name,
            "organization_slug": owner.slug,
            "organization_id": owner.id,
            "vcs_info": {
                "vcs_url": _vcs_url(owner, found),
                "provider": _provider(found),
                "default_branch": found.default_branch,
            },
        },
    )


@ROUTES.add("GET", "/api/v2/project/{slug}/envvar")
def _project_variables(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    read = api.twin.variables(_project_of(api, parts))
    return json_reply(200, {"items": [_project_variable(api, item) for item in read.items], "next_page_token": None})


@ROUTES.add("POST", "/api/v2/project/{slug}/envvar")
def _post_project_variable(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    name = fields.get("name")
    if not isinstance(name, str):
        return message_reply(400, BAD_BODY)
    value = _value(fields)
    stored = api.twin.write_variable(_project_of(api, parts), name, value)
    # The answer is of this very write, so it is not masked by any lag.
    written = MaskedVariable(name=name, tail=stored.value.tail, created_at=stored.created_at)
    return json_reply(201, _project_variable(api, written))


@ROUTES.add("GET", "/api/v2/project/{slug}/envvar/{name}")
def _project_variable_alone(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.variables(_project_of(api, parts)).find(parts["name"])
    if found is None:
        return message_reply(404, "Environment variable not found.")
    return json_reply(200, _project_variable(api, found))


@ROUTES.add("DELETE", "/api/v2/project/{slug}/envvar/{name}")
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


@ROUTES.add("GET", "/api/private/project")
def _private_projects(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    asked = request.query.get("page-size", str(PRIVATE_PAGE_MAX))
    if not asked.isdecimal() or not 1 <= int(asked) <= PRIVATE_PAGE_MAX:
        return message_reply(500, "Internal server error.")
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
    items, token = page_of(
        rows, int(asked), request.query.get("page-token"), loops=api.world.switches.private_pages_loop
    )
    return json_reply(200, {"items": items, "next_page_token": token})


@ROUTES.add("GET", "/api/v3/projects")
def _v3_projects(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    owner = request.query.get("filter[org_id]", "")
    if not api.world.switches.v3_lists_projects:
        raise refusal("v3 projects", 400)
    found = api.twin.call("projects", owner, lambda: api.projects_of(owner, "v3"))
    rows = [{"id": item.id, "attributes": {"name": item.slug.rpartition("/")[2]}} for item in found if not item.deleted]
    return _v3_page(request, rows, V3_PAGE_MAX["projects"])


@ROUTES.add("GET", "/api/v3/contexts/{id}/env-vars")
def _v3_context_variables(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.v3_variables:
        return json_reply(404, {"error": {"id": str(uuid.uuid4()), "title": "not found", "detail": "not found"}})
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
    items, following = page_of(rows, int(size), request.query.get("page[cursor]"))
    page = {"next": following, "prev": None}
    return json_reply(200, {"data": items, "page": page, "meta": {"total_count": len(rows)}})


@ROUTES.add("GET", "/api/v1.1/projects")
def _followed(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    def effect() -> list[dict[str, str]]:
        state = api.world.state.circleci
        return [
            _followed_row(state.organizations[item.organization], item)
            for item in state.projects.values()
            if "v1.1" in item.known_by and not item.deleted
        ]

    rows = api.twin.call("projects", "followed", effect)
    return edn_unless_asked(request, rows)


def _followed_row(owner: StoredOrganization, project: StoredProject) -> dict[str, str]:
    organization, _, name = canonical(project.slug).partition("/")[2].partition("/")
    return {
        "vcs_type": _vcs(project.slug),
        "username": organization,
        "reponame": name,
        "vcs_url": _vcs_url(owner, project),
    }
