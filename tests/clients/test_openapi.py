"""The twin against CircleCI's own description of v2: requests and replies of every route that the client uses.

The description lies beside the project on the machines that have it, and is not shipped; without it there is
nothing to check against, which is said.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from twins import kinds_world as worlds
from twins.kinds_world import ACME, ALL, kinds_world, number

from playbook import canary
from playbook.clients.circleci import CircleCiClient
from playbook.ports import Project, SecretKind, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.http_api import Api
from playbook.twins.server import CircleCiServer

DOCUMENT = Path(__file__).parents[3] / "shared" / "data" / "circleci-openapi-v2.json"
BASE = "/api/v2"
CONTEXT = Sink(kind=SinkKind.CONTEXT, id=number("deploy"), name="deploy", organization="gh/acme")
SHOP = Sink(kind=SinkKind.PROJECT, id="gh/acme/api", name="gh/acme/api", organization="gh/acme")

USED = {
    "GET /me",
    "GET /me/collaborations",
    "GET /context",
    "POST /context",
    "GET /context/{context_id}/environment-variable",
    "PUT /context/{context_id}/environment-variable/{env_var_name}",
    "DELETE /context/{context_id}/environment-variable/{env_var_name}",
    "GET /context/{context_id}/restrictions",
    "GET /project/{project-slug}",
    "GET /project/{project-slug}/envvar",
    "POST /project/{project-slug}/envvar",
    "DELETE /project/{project-slug}/envvar/{name}",
    "GET /project/{project-slug}/checkout-key",
    "GET /project/{project-slug}/pipeline",
    "GET /pipeline/{pipeline-id}/config",
    "GET /webhook",
    "GET /projects/{project_id}/pipeline-definitions",
    "GET /projects/{project_id}/pipeline-definitions/{pipeline_definition_id}/triggers",
    "DELETE /context/{context_id}",
    "POST /context/{context_id}/restrictions",
    "DELETE /context/{context_id}/restrictions/{restriction_id}",
    "POST /project/{project-slug}/checkout-key",
    "DELETE /project/{project-slug}/checkout-key/{fingerprint}",
    "GET /webhook/{webhook-id}",
    "PUT /webhook/{webhook-id}",
    "GET /project/{provider}/{organization}/{project}/settings",
    "POST /project/{project-slug}/pipeline",
    "POST /project/{provider}/{organization}/{project}/pipeline/run",
    "GET /pipeline/{pipeline-id}",
    "GET /pipeline/{pipeline-id}/workflow",
    "GET /workflow/{id}",
    "GET /workflow/{id}/job",
    "POST /workflow/{id}/rerun",
    "POST /workflow/{id}/cancel",
    "GET /project/{project-slug}/{job-number}/tests",
    "GET /org/{orgID}/oidc-custom-claims",
    "GET /org/{orgID}/project/{projectID}/oidc-custom-claims",
}

UNDOCUMENTED = {"GET /organization/{}": "in the description of 2026, not in the one of 2025 (facts 1)"}
"""v2 routes that the client uses and the description lacks."""

DEVIATIONS = {
    ("GET /me/collaborations", "'vcs-type' is a required property"): "every client reads `vcs_type` (facts 1)",
    (
        "GET /context/{context_id}/environment-variable",
        "Additional properties are not allowed ('truncated_value' was unexpected)",
    ): "sent all the same, and what this program recognises a key by (facts 2.4)",
    (
        "POST /project/{provider}/{organization}/{project}/pipeline/run",
        "Additional properties are not allowed ('content' was unexpected)",
    ): "taken for standalone projects by clients that use it live; `config` is closed around a branch and a tag",
    ("GET /workflow/{id}/job", "None is not of type 'string'"): "a job that never ran has not started",
    ("GET /context/{context_id}/restrictions", "None is not of type 'string'"): "the name may be null (facts 2.7)",
}
HYPHENED = {
    **{
        (f"{method} /project/{{project-slug}}/checkout-key", f"'{name}' is a required property"): "snake case (4.1, 10)"
        for method in ("GET", "POST")
        for name in ("public-key", "created-at")
    },
    **{
        (route, f"'{name}' is a required property"): "snake case (facts 4.5, 10)"
        for route in ("GET /webhook", "GET /webhook/{webhook-id}", "PUT /webhook/{webhook-id}")
        for name in ("verify-tls", "signing-secret", "created-at", "updated-at")
    },
}
"""By route and what the validator says of it: why the twin is right all the same. The second set is what production
spells with underscores, and the switches `snake_case_keys` and `snake_case_times` with hyphens."""


class Description:
    """The OpenAPI 3.0 document, whose schemas are JSON Schema but for `nullable`."""

    def __init__(self, document):
        self.document = document
        self.paths = [(self._pattern(path), path, item) for path, item in document["paths"].items()]

    @staticmethod
    def _pattern(path):
        slug = path.replace("{project-slug}", "{slug}")
        return re.compile(re.sub(r"\{(\w[\w-]*)\}", lambda part: _PART.get(part[1], "[^/]+"), slug))

    def find(self, method, path):
        for pattern, template, item in self.paths:
            if pattern.fullmatch(path) and method.lower() in item:
                return template, item, item[method.lower()]
        return None

    def resolved(self, schema, depth=0):
        """The schema without references, and with null where the document allows it."""
        assert depth < 60
        if isinstance(schema, list):
            return [self.resolved(item, depth + 1) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            target = self.document
            for step in schema["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            return self.resolved(target, depth + 1)
        made = {
            name: {key: self.resolved(value, depth + 1) for key, value in inner.items()}
            if name == "properties"
            else self.resolved(inner, depth + 1)
            for name, inner in schema.items()
            if name not in ("example", "examples", "description", "discriminator")
        }
        if "properties" not in made and {"anyOf", "oneOf"} & made.keys():
            # The document closes such a schema around its alternatives, which forbids every one of them.
            made.pop("additionalProperties", None)
        if schema.get("nullable") or schema.get("x-nullable"):
            return {"anyOf": [made, {"type": "null"}]}
        return made


_PART = {"slug": "[^/]+/[^/]+/[^/]+"}
FORMATS = FormatChecker()


@FORMATS.checks("date-time", raises=ValueError)
def is_a_time(value):
    """As RFC 3339 has it, with its offset; the library's own check needs a package more."""
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def complaints(schema, value):
    """What is wrong with a value, in the validator's words less the value itself."""
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    for error in validator.iter_errors(value):
        yield from (leaf.message for leaf in leaves(error))


def leaves(error):
    if not error.context:
        yield error
        return
    # Of alternatives, the one that comes closest tells most.
    best = min(
        ({item.schema_path[0] for item in error.context}),
        key=lambda index: sum(1 for item in error.context if item.schema_path[0] == index),
    )
    for item in error.context:
        if item.schema_path[0] == best:
            yield from leaves(item)


def checked(description, log):
    """Every complaint about the exchanges in the log, by route; and the routes that were seen."""
    found, seen = Counter(), Counter()
    for request, reply in log:
        if not request.path.startswith(f"{BASE}/"):
            continue
        known = description.find(request.method, request.path.removeprefix(BASE))
        if known is None:
            seen[f"{request.method} {re.sub('[^/]+%2F[^/]+', '{}', request.path.removeprefix(BASE))}"] += 1
            continue
        template, item, operation = known
        route = f"{request.method} {template}"
        seen[route] += 1
        parameters = [
            description.resolved(one) for one in (*item.get("parameters", ()), *operation.get("parameters", ()))
        ]
        for text in (*in_query(parameters, request), *in_body(description, operation, request)):
            found[route, text] += 1
        for text in in_reply(description, operation, reply):
            found[route, text] += 1
    return found, seen


def in_query(parameters, request):
    declared = {one["name"]: one for one in parameters if one["in"] == "query"}
    for name, value in request.query.items():
        if name not in declared:
            yield f"the query has {name!r}, which is not declared"
        else:
            yield from complaints(declared[name]["schema"], value)
    for name, one in declared.items():
        if one.get("required") and name not in request.query:
            yield f"the query lacks {name!r}"


def in_body(description, operation, request):
    body = operation.get("requestBody")
    if not request.body:
        return [] if body is None or not body.get("required") else ["the body is missing"]
    schema = description.resolved(body)["content"]["application/json"]["schema"]
    return complaints(schema, json.loads(request.body))


def in_reply(description, operation, reply):
    responses = operation["responses"]
    declared = responses.get(str(reply.status), responses.get("default"))
    if declared is None:
        return [f"the status {reply.status} is not declared"]
    content = description.resolved(declared).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return [] if schema is None else complaints(schema, json.loads(reply.body))


@pytest.fixture(scope="module")
def description():
    if not DOCUMENT.exists():
        message = "the description of v2 is not on this machine: nothing to check the twin against"
        print(message)
        pytest.skip(message)
    return Description(json.loads(DOCUMENT.read_text(encoding="utf-8")))


STANDALONE = Project(
    id=number("standalone"),
    slug=f"circleci/{ACME.id}/{number('standalone')}",
    organization="gh/acme",
    known_by=("private",),
)


def use_pipelines(client, world):
    """Every call about pipelines, of a project of each kind."""
    for project in (worlds.port_project(world.state.circleci.projects["gh/acme/api"]), STANDALONE):
        (definition, *_) = client.pipeline_definitions(project)
        client.inline_config_allowed(project)
        client.forks_receive_secrets(project)
        client.default_branch(project)
        made = client.run_inline(project, definition, "main", canary.with_keys((), "A", "B", "us-east-1"))
        failed = client.run_inline(project, definition, "main", "no config")
        assert client.pipeline(failed.id).errors
        assert len(client.pipelines(project.slug, worlds.day(1))) == 2
        (workflow,) = client.workflows(made.id)
        (job,) = client.jobs(workflow.id)
        client.test_results(project.slug, job.number)
        client.rerun_workflow(workflow.id, from_failed=False)
        client.cancel_workflow(workflow.id)
        client.running_disabled(ACME)
        # A refusal makes the client look at the workflow.
        world.state.circleci.refusals[f"cancel_workflow:{workflow.id}"] = states.Refusal(code="HTTP409", status=409)
        client.cancel_workflow(workflow.id)
    unauthorized = client.run_inline(project, definition, "main", canary.with_keys(("deploy",), "A", "B", "us-east-1"))
    (workflow,) = client.workflows(unauthorized.id)
    client.jobs(workflow.id)


def use_removals(client):
    project = Project(id=number("gh/acme/api"), slug="gh/acme/api", organization="gh/acme", known_by=("v1.1",))
    made = client.create_restriction(CONTEXT, "project", number("another"))
    client.create_restriction(CONTEXT, "project", number("another"))
    for _ in range(2):
        client.delete_restriction(CONTEXT, made.id)
        key = client.create_checkout_key(project, "deploy-key")
        client.delete_checkout_key(project, key.id)
        client.delete_checkout_key(project, key.id)
    client.set_webhook_secret(number("gh/acme/api", "signed"), Secret("a-new-signing-secret"))


def exchanges(monkeypatch, **switches):
    """Everything the client sends and gets while it uses each of its calls once, the refused ones included."""
    state = worlds.kinds_state()
    state.circleci.contexts[CONTEXT.id] = states.Context(
        id=CONTEXT.id,
        name="deploy",
        organization="gh/acme",
        created_at=worlds.START,
        variables={"A": worlds.variable()},
        restrictions=[states.ContextRestriction(id=number("r"), kind="project", value=number("gh/acme/api"))],
    )
    standalone = worlds.rich_project(STANDALONE.slug, id=STANDALONE.id)
    state.circleci.projects[STANDALONE.slug] = standalone
    state.circleci.organizations["gh/acme"].inline_config = True
    for slug in ("gh/acme/api", STANDALONE.slug):
        state.circleci.projects[slug].inline_config = True
    state.circleci.pipelines |= {item.id: item for item in worlds.pipelines("gh/acme/api")}
    world = kinds_world(state, **switches)
    log = []
    answer = Api.answer

    def watched(api, request):
        reply = answer(api, request)
        log.append((request, reply))
        return reply

    monkeypatch.setattr(Api, "answer", watched)
    with (
        CircleCiServer(world, Secret("the-token")) as server,
        CircleCiClient(host=server.url, token=Secret("the-token"), attempts=1) as client,
    ):
        client.login()
        client.organizations()
        client.contexts(ACME)
        projects = client.projects(ACME).items
        for item in projects:
            client.project_secrets(item, ALL)
        unknown = Project(id="", slug="gh/acme/api", organization="gh/acme", known_by=("v1.1",))
        client.project_secrets(unknown, ALL)
        world.state.circleci.projects.pop("gh/acme/plain")
        plain = next(item for item in projects if item.slug == "gh/acme/plain")
        refused = client.project_secrets(plain, ALL)
        assert refused.holes
        client.organization_secrets(ACME, ALL)
        client.organization_secrets(worlds.NO_ID, ALL)
        client.restrictions(CONTEXT)
        ran = client.run_configs(Project(id="", slug="gh/acme/api", organization="gh/acme", known_by=()), 20)
        assert [item.number for item in ran.items] == [8, 7, 6]
        for sink in (CONTEXT, SHOP):
            client.variables(sink)
            client.put_variable(sink, "NEW", Secret("a-new-value"))
            client.delete_variable(sink, "NEW")
            client.delete_variable(sink, "NEW")
        client.delete_context(client.create_context(ACME, "aws-oidc"))
        use_pipelines(client, world)
        use_removals(client)
        world.switches = kinds_world(private_details=False, **switches).switches
        client.project_secrets(
            worlds.port_project(world.state.circleci.projects["gh/acme/api"]), frozenset({SecretKind.CHECKOUT_KEY})
        )
    return log


def test_requests_and_replies_are_as_described(description, monkeypatch):
    found, seen = checked(description, exchanges(monkeypatch))
    print(f"{sum(seen.values())} exchanges over {len(seen)} routes; deviations met: {len(found)}")
    assert set(found) == set(DEVIATIONS | HYPHENED), "a new deviation needs a reason, one that is gone needs none"
    assert set(seen) - set(UNDOCUMENTED) == USED, "every v2 route that the client uses, and no other"


def test_spelled_with_hyphens_the_spelling_deviates_no_more(description, monkeypatch):
    found, _ = checked(description, exchanges(monkeypatch, snake_case_keys=False, snake_case_times=False))
    assert set(found) == set(DEVIATIONS)


def test_the_check_sees_a_wrong_reply(description, monkeypatch):
    log = exchanges(monkeypatch)
    broken = [
        (request, type(reply)(status=reply.status, body=reply.body.replace(b'"id"', b'"ident"'), headers=reply.headers))
        for request, reply in log
        if request.path == f"{BASE}/webhook" and b"signed" in reply.body
    ]
    found, _ = checked(description, broken)
    assert any("'id' is a required property" in text for _, text in found)


def test_the_check_sees_a_wrong_request(description, monkeypatch):
    request, reply = next(
        (request, reply) for request, reply in exchanges(monkeypatch) if request.path == f"{BASE}/webhook"
    )
    wrong = type(request)(method="GET", target=unquote(request.target).replace("scope-id", "scope_id"))
    found, _ = checked(description, [(wrong, reply)])
    texts = {text for _, text in found}
    assert {"the query has 'scope_id', which is not declared", "the query lacks 'scope-id'"} <= texts
