"""Every kind of stored secret besides variables, over HTTP (facts: circleci 4 and 6).

A secret in a reply is made up on the spot from the id of what it belongs to: the state holds none, and a client that
lets one out is caught by its prefix, `MADE_UP`.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from playbook.errors import CircleCiError
from playbook.twins import state as states
from playbook.twins.circleci_changes import CHECKOUT_KINDS
from playbook.twins.http_api import (
    BAD_BODY,
    Routes,
    edn_unless_asked,
    fields_of,
    iso,
    json_reply,
    message_reply,
    no_route,
)
from playbook.twins.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from playbook.ports import MaskedVariable
    from playbook.twins.http_api import Api, Reply, Request
    from playbook.twins.state import StoredOrganization, StoredProject

SECRET_ROUTES: Final = Routes()
MADE_UP: Final = "made-up-secret-"
MASKED: Final = "****"
SCOPES: Final = frozenset({"status", "view-builds", "all"})
_TTL: Final = re.compile(r"(?:[0-9]+(?:ms|s|m|h|d|w)){1,7}")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PUBLIC_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"


# --- What is asked for ----------------------------------------------------------------------------------------------


def _made_up(number: str) -> str:
    return MADE_UP + hashlib.sha256(number.encode()).hexdigest()[:24]


def _key(api: Api, name: str) -> str:
    return name if api.world.switches.snake_case_keys else name.replace("_", "-")


def _fingerprint(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return ":".join(digest[place : place + 2] for place in range(0, 32, 2))


def _number(text: str) -> str:
    """An id that has to be a UUID, or a refusal in the words of the OIDC service."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise refusal("OwnerID", 400) from None


# --- Everything at once ---------------------------------------------------------------------------------------------


@SECRET_ROUTES.add("GET", "/api/private/project/{id}")
def _details(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.private_details:
        return no_route()
    with_deleted = request.query.get("include-deleted") == "true"
    found = api.project("project_details", parts["id"], deleted=with_deleted)
    variables = api.twin.call("project_details", found.slug, lambda: api.twin.undated_variables(found))
    legacy = found.legacy_aws
    pair = {} if legacy is None else {"legacy_aws_keys": _pair(legacy, found.slug)}
    return json_reply(
        200,
        {
            "project_env_vars": [_undated(item) for item in variables.items],
            "checkout_keys": [_checkout_row(item, str) for item in found.checkout_keys],
            "ssh_keys": [_ssh_row(item) for item in found.ssh_keys],
            **pair,
        },
    )


def _undated(item: MaskedVariable) -> dict[str, Any]:
    return {"name": item.name, "value": None if item.tail is None else f"xxxx{item.tail}"}


def _pair(legacy: states.LegacyAwsKeys, slug: str) -> dict[str, str]:
    # Nobody documents a mask here, so a client has to expect that there is none.
    return {
        "access_key_id": legacy.access_key_id,
        "secret_access_key": _made_up(f"legacy {slug}") if legacy.has_secret else "",
    }


# --- Checkout keys and SSH keys -------------------------------------------------------------------------------------


def _checkout_row(item: states.CheckoutKey, key: Callable[[str], str]) -> dict[str, Any]:
    return {
        key("public_key"): item.public_key or f"{_PUBLIC_KEY}{item.fingerprint[:4]}",
        "type": item.type,
        "fingerprint": item.fingerprint,
        "preferred": item.preferred,
        key("created_at"): iso(item.created_at),
    }


@SECRET_ROUTES.add("GET", "/api/v2/project/{slug}/checkout-key")
def _checkout_keys(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    if request.query.get("digest", "md5") not in ("md5", "sha256"):
        return message_reply(400, BAD_BODY)
    found = api.project("checkout_keys", parts["slug"])
    rows = [_checkout_row(item, lambda name: _key(api, name)) for item in found.checkout_keys]
    shown = api.twin.call("checkout_keys", found.slug, lambda: rows)
    return json_reply(200, {"items": shown, "next_page_token": None})


@SECRET_ROUTES.add("POST", "/api/v2/project/{slug}/checkout-key")
def _create_checkout_key(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    kind = fields_of(request).get("type")
    if kind not in CHECKOUT_KINDS:
        return message_reply(400, BAD_BODY)
    if parts["slug"].startswith("circleci/"):
        return message_reply(400, "This API is not supported for this project.")
    made = api.twin.add_checkout_key(api.project("create_checkout_key", parts["slug"]).slug, kind)[0]
    return json_reply(201, _checkout_row(made, lambda name: _key(api, name)))


@SECRET_ROUTES.add("DELETE", "/api/v2/project/{slug}/checkout-key/{fingerprint}")
def _delete_checkout_key(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("delete_checkout_key", parts["slug"])
    _require(api.twin.remove_checkout_key(found.slug, parts["fingerprint"]), "delete_checkout_key")
    return message_reply(200, "Checkout key deleted.")


def _ssh_row(item: states.SshKey) -> dict[str, Any]:
    return {
        "hostname": item.hostname,
        "public_key": item.public_key or f"{_PUBLIC_KEY}{item.fingerprint[:4]}",
        "fingerprint": item.fingerprint,
    }


@SECRET_ROUTES.add("GET", "/api/v1.1/project/{slug}/settings")
def _settings(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("ssh_keys", parts["slug"])
    shown = api.twin.call("ssh_keys", found.slug, lambda: [_ssh_row(item) for item in found.ssh_keys])
    flags = {} if found.inline_config is None else {"api-trigger-with-config": found.inline_config}
    return edn_unless_asked(request, {"ssh_keys": shown, "feature_flags": flags})


@SECRET_ROUTES.add("POST", "/api/v1.1/project/{slug}/ssh-key")
def _add_ssh_key(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    private_key = fields.get("private_key")
    if not isinstance(private_key, str) or "PRIVATE KEY" not in private_key:
        return message_reply(400, BAD_BODY)
    made = states.SshKey(fingerprint=_fingerprint(private_key), hostname=str(fields.get("hostname") or ""))

    def effect() -> None:
        found = api.project("create_ssh_key", parts["slug"])
        found.ssh_keys = [*found.ssh_keys, made]

    api.twin.call("create_ssh_key", parts["slug"], effect, write=True)
    return json_reply(200, {})


@SECRET_ROUTES.add("DELETE", "/api/v1.1/project/{slug}/ssh-key")
def _delete_ssh_key(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    if not {"hostname", "fingerprint"} <= fields.keys():
        return message_reply(400, BAD_BODY)

    found = api.project("delete_ssh_key", parts["slug"])
    api.twin.remove_ssh_key(found.slug, str(fields["hostname"] or ""), str(fields["fingerprint"]))
    return message_reply(200, "OK")


# --- Project API tokens ---------------------------------------------------------------------------------------------


@SECRET_ROUTES.add("GET", "/api/v1.1/project/{slug}/token")
def _tokens(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("project_tokens", parts["slug"])
    shown = api.twin.call("project_tokens", found.slug, lambda: [_token_row(item) for item in found.tokens])
    return edn_unless_asked(request, shown)


@SECRET_ROUTES.add("POST", "/api/v1.1/project/{slug}/token")
def _create_token(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    if fields.get("scope") not in SCOPES:
        return message_reply(400, BAD_BODY)
    number = api.world.new_id()
    made = states.ProjectToken(
        id=number, label=str(fields.get("label", "")), scope=fields["scope"], created_at=api.world.clock.now()
    )

    def effect() -> None:
        found = api.project("create_project_token", parts["slug"])
        found.tokens = [*found.tokens, made]

    api.twin.call("create_project_token", parts["slug"], effect, write=True)
    return json_reply(201, {**_token_row(made), "token": _made_up(number)})


@SECRET_ROUTES.add("DELETE", "/api/v1.1/project/{slug}/token/{token}")
def _delete_token(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("delete_project_token", parts["slug"])
    _require(api.twin.remove_project_token(found.slug, parts["token"]), "delete_project_token")
    return message_reply(200, "OK")


def _token_row(item: states.ProjectToken) -> dict[str, Any]:
    return {"id": item.id, "label": item.label, "scope": item.scope, "time": iso(item.created_at)}


# --- Webhooks -------------------------------------------------------------------------------------------------------


def _webhook_row(api: Api, item: states.Webhook, project: StoredProject) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "url": item.url,
        "events": list(item.events),
        _key(api, "verify_tls"): item.verify_tls,
        _key(api, "signing_secret"): MASKED if item.has_secret else "",
        "scope": {"id": project.id, "type": "project"},
        _key(api, "created_at"): iso(item.created_at),
        _key(api, "updated_at"): iso(item.updated_at),
    }


def _written(api: Api, fields: Mapping[str, Any], name: str) -> Any:
    """A field as the API takes it: the spelling of the specification is ignored without a word (facts 4.5)."""
    hyphened = fields.get(name.replace("_", "-")) if api.world.switches.hyphened_webhook_keys else None
    return fields.get(name, hyphened)


@SECRET_ROUTES.add("GET", "/api/v2/webhook")
def _webhooks(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    if request.query.get("scope-type") != "project" or "scope-id" not in request.query:
        return message_reply(400, BAD_BODY)
    found = api.project("webhooks", request.query["scope-id"])
    rows = [_webhook_row(api, item, found) for item in found.webhooks]
    return json_reply(200, {"items": api.twin.call("webhooks", found.slug, lambda: rows), "next_page_token": None})


@SECRET_ROUTES.add("POST", "/api/v2/webhook")
def _create_webhook(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    scope = fields.get("scope")
    if not isinstance(scope, dict) or not isinstance(fields.get("url"), str):
        return message_reply(400, BAD_BODY)
    now = api.world.clock.now()
    made = states.Webhook(
        id=api.world.new_id(),
        name=str(fields.get("name", "")),
        url=fields["url"],
        has_secret=bool(_written(api, fields, "signing_secret")),
        events=tuple(map(str, fields.get("events", ()))),
        verify_tls=_written(api, fields, "verify_tls") is not False,
        created_at=now,
        updated_at=now,
    )

    def effect() -> StoredProject:
        found = api.project("create_webhook", str(scope.get("id")))
        found.webhooks = [*found.webhooks, made]
        return found

    owner = api.twin.call("create_webhook", str(scope.get("id")), effect, write=True)
    return json_reply(201, _webhook_row(api, made, owner))


@SECRET_ROUTES.add("GET", "/api/v2/webhook/{webhook}")
def _webhook(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    number = parts["webhook"]
    found, item = api.twin.call("webhook", number, lambda: api.twin.stored_webhook("webhook", number))
    return json_reply(200, _webhook_row(api, item, found))


@SECRET_ROUTES.add("PUT", "/api/v2/webhook/{webhook}")
def _put_webhook(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)

    def effect() -> tuple[StoredProject, states.Webhook]:
        found, old = api.twin.stored_webhook("set_webhook_secret", parts["webhook"])
        secret, verify = _written(api, fields, "signing_secret"), _written(api, fields, "verify_tls")
        # The scope of a webhook does not change, whatever is sent.
        made = replace(
            old,
            name=str(fields.get("name", old.name)),
            url=str(fields.get("url", old.url)),
            events=tuple(map(str, fields.get("events", old.events))),
            has_secret=old.has_secret if secret is None else bool(secret),
            verify_tls=old.verify_tls if verify is None else bool(verify),
            updated_at=api.world.clock.now(),
        )
        found.webhooks = [made if item.id == old.id else item for item in found.webhooks]
        return found, made

    found, made = api.twin.call("set_webhook_secret", parts["webhook"], effect, write=True)
    return json_reply(200, _webhook_row(api, made, found))


@SECRET_ROUTES.add("DELETE", "/api/v2/webhook/{webhook}")
def _delete_webhook(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    def effect() -> None:
        found, old = api.twin.stored_webhook("delete_webhook", parts["webhook"])
        found.webhooks = [item for item in found.webhooks if item.id != old.id]

    api.twin.call("delete_webhook", parts["webhook"], effect, write=True)
    return message_reply(200, "Webhook deleted.")


# --- Triggers -------------------------------------------------------------------------------------------------------


@SECRET_ROUTES.add("GET", "/api/v2/projects/{project}/pipeline-definitions")
def _definitions(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("pipeline_definitions", parts["project"])
    source = {"provider": "github_app", "repo": {"full_name": found.slug.partition("/")[2], "external_id": "1"}}
    rows = [
        {
            "id": item.id,
            "name": item.name,
            "created_at": iso(item.created_at or api.world.clock.now()),
            "config_source": {**source, "file_path": ".circleci/config.yml"},
            "checkout_source": source,
        }
        for item in found.definitions
    ]
    return json_reply(200, {"items": api.twin.call("pipeline_definitions", found.slug, lambda: rows)})


@SECRET_ROUTES.add("GET", "/api/v2/projects/{project}/pipeline-definitions/{definition}/triggers")
def _triggers(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("triggers", parts["project"])
    definition = next((item for item in found.definitions if item.id == parts["definition"]), None)
    if definition is None:
        raise refusal("triggers", 404)
    rows = [_trigger_row(api, item, found) for item in definition.triggers]
    return json_reply(200, {"items": api.twin.call("triggers", definition.id, lambda: rows)})


def _trigger_row(api: Api, item: states.Trigger, project: StoredProject) -> dict[str, Any]:
    source: dict[str, Any] = {"provider": item.provider}
    if item.provider == "webhook":
        source["webhook"] = {"url": f"{item.url}?secret={_made_up(item.id)}", "sender": item.sender}
    else:
        source["repo"] = {"full_name": project.slug.partition("/")[2], "external_id": "1"}
    return {
        "id": item.id,
        "event_name": item.event_name,
        "created_at": iso(item.created_at or api.world.clock.now()),
        "event_source": source,
        "checkout_ref": "main",
        "config_ref": "main",
        "disabled": False,
    }


@SECRET_ROUTES.add("DELETE", "/api/v2/projects/{project}/triggers/{trigger}")
def _delete_trigger(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    def effect() -> None:
        found = api.project("delete_trigger", parts["project"])
        held = [item.id for definition in found.definitions for item in definition.triggers]
        _require(parts["trigger"] in held, "delete_trigger")
        found.definitions = [
            replace(definition, triggers=[item for item in definition.triggers if item.id != parts["trigger"]])
            for definition in found.definitions
        ]

    api.twin.call("delete_trigger", parts["trigger"], effect, write=True)
    return message_reply(200, "Trigger deleted.")


# --- Runners --------------------------------------------------------------------------------------------------------


def _class_of(api: Api, operation: str, name: str) -> tuple[StoredOrganization, states.RunnerClass]:
    for owner in api.world.state.circleci.organizations.values():
        for item in owner.runner_classes:
            if name in (item.name, item.id):
                return owner, item
    raise refusal(operation, 404)


def _change_class(owner: StoredOrganization, new: states.RunnerClass) -> None:
    owner.runner_classes = [new if item.id == new.id else item for item in owner.runner_classes]


def _runner_token_row(item: states.RunnerToken, name: str) -> dict[str, Any]:
    return {"id": item.id, "resource_class": name, "nickname": item.nickname, "created_at": iso(item.created_at)}


@SECRET_ROUTES.add("GET", "/api/v3/runner/resource")
def _runner_classes(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    owner, namespace = request.query.get("org-id"), request.query.get("namespace")
    if owner is None and namespace is None:
        return message_reply(400, "org-id or namespace is required.")
    found = [
        (item, runner)
        for item in api.world.state.circleci.organizations.values()
        for runner in item.runner_classes
        if (owner is not None and owner == item.id) or runner.name.partition("/")[0] == namespace
    ]
    target = next(
        (item.slug for item in api.world.state.circleci.organizations.values() if item.id == owner), namespace or ""
    )
    rows = [{"id": item.id, "resource_class": item.name, "description": item.description} for _, item in found]
    return json_reply(200, {"items": api.twin.call("runner_classes", target, lambda: rows)})


@SECRET_ROUTES.add("DELETE", "/api/v3/runner/resource/{id}")
def _delete_runner_class(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _drop_class(api, parts["id"], force=False)


@SECRET_ROUTES.add("DELETE", "/api/v3/runner/resource/{id}/force")
def _force_runner_class(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _drop_class(api, parts["id"], force=True)


def _drop_class(api: Api, number: str, *, force: bool) -> Reply:
    def effect() -> None:
        owner, found = _class_of(api, "delete_runner_class", number)
        if found.tokens and not force:
            raise refusal("delete_runner_class", HTTPStatus.CONFLICT)
        owner.runner_classes = [item for item in owner.runner_classes if item.id != found.id]

    api.twin.call("delete_runner_class", number, effect, write=True)
    return json_reply(200, {})


@SECRET_ROUTES.add("GET", "/api/v3/runner/token")
def _runner_tokens(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    name = request.query.get("resource-class")
    if name is None:
        return message_reply(400, "resource-class is required.")
    found = _class_of(api, "runner_tokens", name)[1]
    rows = [_runner_token_row(item, name) for item in found.tokens]
    return json_reply(200, {"items": api.twin.call("runner_tokens", name, lambda: rows)})


@SECRET_ROUTES.add("POST", "/api/v3/runner/token")
def _create_runner_token(api: Api, request: Request, _parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    name = str(fields.get("resource_class"))
    made = states.RunnerToken(
        id=api.world.new_id(), nickname=str(fields.get("nickname", "")), created_at=api.world.clock.now()
    )

    def effect() -> None:
        owner, found = _class_of(api, "create_runner_token", name)
        _change_class(owner, replace(found, tokens=[*found.tokens, made]))

    api.twin.call("create_runner_token", name, effect, write=True)
    return json_reply(201, {**_runner_token_row(made, name), "token": _made_up(made.id)})


@SECRET_ROUTES.add("DELETE", "/api/v3/runner/token/{token}")
def _delete_runner_token(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    _require(api.twin.remove_runner_token(parts["token"]), "delete_runner_token")
    return json_reply(200, {})


# --- OIDC claims ----------------------------------------------------------------------------------------------------


def _claims_row(claims: states.Claims | None, owner: str, project: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"org_id": owner} | ({"project_id": project} if project else {})
    if claims is not None and claims.audience:
        row |= {"audience": list(claims.audience), "audience_updated_at": iso(claims.audience_updated_at)}
    if claims is not None and claims.ttl:
        row |= {"ttl": claims.ttl, "ttl_updated_at": iso(claims.ttl_updated_at)}
    return row


def _claimant(
    api: Api, operation: str, parts: Mapping[str, str]
) -> tuple[StoredOrganization | StoredProject, StoredOrganization]:
    """Whose claims are meant; what is not there is forbidden, as this service has no other word for it."""
    try:
        owner = api.organization(operation, _number(parts["org"]))
        return (api.project(operation, _number(parts["project"])) if "project" in parts else owner), owner
    except CircleCiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
    raise refusal(operation, HTTPStatus.FORBIDDEN)


def _with_claims(
    api: Api,
    operation: str,
    parts: Mapping[str, str],
    change: Callable[[states.Claims], states.Claims] | None = None,
) -> Reply:
    """Read or change the claims of an organization or a project, and answer what is set afterwards."""
    holder, owner = _claimant(api, operation, parts)

    def effect() -> states.Claims | None:
        if change is not None:
            holder.claims = change(holder.claims or states.Claims())
        return holder.claims

    claims = api.twin.call(operation, holder.slug, effect, write=change is not None)
    return json_reply(200, _claims_row(claims, owner.id, holder.id if holder is not owner else None))


@SECRET_ROUTES.add("GET", "/api/v2/org/{org}/oidc-custom-claims")
@SECRET_ROUTES.add("GET", "/api/v2/org/{org}/project/{project}/oidc-custom-claims")
def _get_claims(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return _with_claims(api, "oidc_claims", parts)


@SECRET_ROUTES.add("PATCH", "/api/v2/org/{org}/oidc-custom-claims")
@SECRET_ROUTES.add("PATCH", "/api/v2/org/{org}/project/{project}/oidc-custom-claims")
def _patch_claims(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    audience, ttl = fields.get("audience"), fields.get("ttl")
    if ttl is not None and (not isinstance(ttl, str) or _TTL.fullmatch(ttl) is None):
        return json_reply(400, {"error": "ttl: must be in a valid format."})
    now = api.world.clock.now()

    def change(old: states.Claims) -> states.Claims:
        made = old
        if audience is not None:
            made = replace(made, audience=tuple(map(str, audience)), audience_updated_at=now)
        return made if ttl is None else replace(made, ttl=_normal(ttl), ttl_updated_at=now)

    return _with_claims(api, "patch_oidc_claims", parts, change)


@SECRET_ROUTES.add("DELETE", "/api/v2/org/{org}/oidc-custom-claims")
@SECRET_ROUTES.add("DELETE", "/api/v2/org/{org}/project/{project}/oidc-custom-claims")
def _delete_claims(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    named = set(filter(None, request.query.get("claims", "").split(",")))
    if not named or not named <= {"audience", "ttl"}:
        return json_reply(400, {"error": "claims: must name audience, ttl or both."})

    def change(old: states.Claims) -> states.Claims:
        made = replace(old, audience=(), audience_updated_at=None) if "audience" in named else old
        return replace(made, ttl="", ttl_updated_at=None) if "ttl" in named else made

    return _with_claims(api, "delete_oidc_claims", parts, change)


def _normal(ttl: str) -> str:
    """Write a duration as the server keeps it: 90m is 1h30m0s."""
    parts = re.findall(r"([0-9]+)(ms|s|m|h|d|w)", ttl)
    seconds = int(sum(int(number) * _SECONDS[unit] for number, unit in parts))
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _require(found: bool, operation: str) -> None:  # noqa: FBT001  # the condition is the point
    if not found:
        raise refusal(operation, 404)
