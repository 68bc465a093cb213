"""The HTTP skin over real sockets: routes, bodies, header forms, texts and quirks of the facts, sections 0 to 3."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import random
import threading
import time
from dataclasses import replace
from urllib.parse import quote, urlsplit

import pytest
from twins.small_worlds import NO_LAG, ORGANIZATION, PAIR, context, project, small_state

from playbook import canary
from playbook.clients.circleci import CircleCiClient
from playbook.errors import CircleCiError, CredentialsError, Effect
from playbook.secret import Secret
from playbook.twins.faults import Faults
from playbook.twins.server import CircleCiServer
from playbook.twins.state import ContextRestriction, StoredProject, Value, Variable, Webhook
from playbook.twins.world import TwinWorld

TOKEN = "CCIPAT_0123456789abcdefABCDEF_" + "0" * 40
NAMES = "/api/v2/context/id-aws/environment-variable"


class Caller:
    """A connection that is kept open, as real clients keep theirs."""

    def __init__(self, url, headers):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        self.headers = headers

    def __call__(self, method, path, body=None, headers=None):
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, content, self.headers if headers is None else headers)
        reply = self.connection.getresponse()
        text = reply.read()
        self.reply_headers = reply.headers
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(text) if is_json else text.decode()


@pytest.fixture
def serve():
    closing = []

    def start(switches=NO_LAG, faults=None, state=None):
        world = TwinWorld(state or small_state(), switches=switches, faults=faults, rng=random.Random(1), flowing=True)
        server = CircleCiServer(world, Secret(TOKEN))
        server.start()
        caller = Caller(server.url, {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"})
        closing.extend((caller.connection.close, server.stop))
        return world, caller, server

    yield start
    for close in closing:
        close()


def test_three_header_forms_are_accepted(serve):
    _, call, _ = serve()
    basic = base64.b64encode(f"{TOKEN}:".encode()).decode()
    for headers in ({"Circle-Token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"Basic {basic}"}):
        status, body = call("GET", "/api/v2/me", headers=headers)
        assert (status, body["login"]) == (200, "responder")


@pytest.mark.parametrize(
    ("headers", "query", "text"),
    [
        ({}, "", "You must log in first."),
        ({"Circle-Token": "CCIPAT_wrong"}, "", "Invalid token provided."),
        ({"Authorization": "Bearer CCIPRJ_project"}, "", "Invalid token provided."),
        ({"Circle-Token": "a1" * 20}, "", "New format tokens are needed"),
        ({"Authorization": "Basic ***"}, "", "You must log in first."),
        ({}, f"?circle-token={TOKEN}", "query parameter authentication has been deprecated"),
    ],
)
def test_who_is_not_accepted_is_told_so(serve, headers, query, text):
    _, call, _ = serve()
    status, body = call("GET", f"/api/v2/me{query}", headers=headers)
    assert status == 401
    assert text in body["message"]


def test_who_and_where(serve):
    world, call, _ = serve()
    world.state.circleci.organizations["gh/acme"].id = ""
    assert call("GET", "/api/v2/me/collaborations")[1] == [
        {"id": None, "vcs_type": "github", "slug": "gh/acme", "name": "acme", "avatar_url": ""}
    ]
    assert call("GET", f"/api/v2/organization/{quote('gh/acme', safe='')}")[1]["slug"] == "gh/acme"
    assert call("GET", "/api/v2/organization/gh%2Fnothing")[0] == 404


def test_contexts_by_owner_in_pages(serve):
    world, call, _ = serve()
    for number in range(50):
        world.circleci.create_context(ORGANIZATION, f"made-{number:02d}")
    for owner in ("owner-id=org-1", "owner-slug=gh/acme", "owner-slug=github%2Facme&owner-type=organization"):
        found, token = [], ""
        while token is not None:
            status, body = call("GET", f"/api/v2/context?{owner}&page-token={token}&unknown=ignored")
            assert status == 200
            found += [item["name"] for item in body["items"]]
            token = body["next_page_token"]
        assert len(found) == len(set(found)) == 53
    # A misspelt parameter is ignored: the first page again.
    assert call("GET", "/api/v2/context?owner-id=org-1&page_token=20")[1]["items"][0]["name"] == "aws"
    assert call("GET", "/api/v2/context?owner-id=org-1&owner-type=account") == (
        400,
        {"message": "only organization is supported at present"},
    )
    assert call("GET", "/api/v2/context?owner-id=org-9")[0] == 404
    assert call("GET", "/api/v2/context")[0] == 400
    assert set(call("GET", "/api/v2/context/id-aws")[1]) == {"id", "name", "created_at"}


def test_a_context_is_made_and_removed(serve):
    _, call, _ = serve()
    status, made = call("POST", "/api/v2/context", {"name": "oidc", "owner": {"id": "org-1", "type": "organization"}})
    assert (status, made["name"]) == (200, "oidc")
    assert call("POST", "/api/v2/context", {"name": "oidc", "owner": {"slug": "gh/acme"}})[0] == 409
    assert call("DELETE", f"/api/v2/context/{made['id']}")[0] == 200
    assert call("GET", f"/api/v2/context/{made['id']}")[0] == 403


@pytest.mark.parametrize(
    ("status", "text"), [(403, "You don't have permission to view that context."), (404, "Context not found.")]
)
def test_a_context_that_is_not_there(serve, status, text):
    _, call, _ = serve(replace(NO_LAG, missing_context_status=status))
    path = "/api/v2/context/id-nowhere"
    for method, rest, body in (
        ("GET", "", None),
        ("GET", "/environment-variable", None),
        ("PUT", "/environment-variable/A", {"value": "v"}),
        ("DELETE", "/environment-variable/A", None),
        ("GET", "/restrictions", None),
    ):
        assert call(method, path + rest, body) == (status, {"message": text})


def test_the_variables_of_a_context(serve):
    world, call, _ = serve()
    status, body = call("GET", NAMES)
    assert (status, body["next_page_token"]) == (200, None)
    assert [item["variable"] for item in body["items"]] == sorted(PAIR)
    first = body["items"][0]
    assert (first["truncated_value"], first["context_id"]) == ("OLD2", "id-aws")
    assert first["updated_at"].endswith("Z")
    world.switches = replace(NO_LAG, tail_lag_s=60)
    call("PUT", f"{NAMES}/FRESH", {"value": "a fresh value"})
    fresh = next(item for item in call("GET", NAMES)[1]["items"] if item["variable"] == "FRESH")
    assert "truncated_value" not in fresh
    assert call("GET", f"{NAMES}/FRESH") == (404, "page not found")


def test_the_key_of_a_puts_body_is_load_bearing(serve):
    world, call, _ = serve()
    path = f"{NAMES}/{PAIR[0]}"
    before = call("GET", NAMES)[1]["items"][0]
    status, body = call("PUT", path, {"value": "AKIA-new-value"})
    assert status == 200
    assert set(body) == {"variable", "context_id", "created_at", "updated_at"}
    assert body["created_at"] == before["created_at"]
    assert body["updated_at"] > before["updated_at"]
    assert world.circleci.variables(context(world)).find(PAIR[0]).tail == "alue"
    assert call("PUT", path, {"val": "lost"})[0] == 200
    assert world.state.circleci.contexts["id-aws"].variables[PAIR[0]].value == Value.of(Secret(""))
    for wrong in ({}, b"not json", b"[]", {"value": 5}, {"value": "x" * 32_001}):
        assert call("PUT", path, wrong)[0] == 400
    assert call("PUT", path, {})[1] == {"message": "Invalid body."}
    assert call("PUT", f"{NAMES}/not-a-name", {"value": "v"})[0] == 400


@pytest.mark.parametrize("status", [200, 404])
def test_deleting_a_variable_that_is_not_there_is_a_switch(serve, status):
    _, call, _ = serve(replace(NO_LAG, delete_missing_status=status))
    assert call("DELETE", f"{NAMES}/{PAIR[0]}")[0] == 200
    assert call("DELETE", f"{NAMES}/{PAIR[0]}")[0] == status


@pytest.mark.parametrize("spec_paging", [False, True])
def test_over_a_hundred_the_token_is_given_and_not_taken_back(serve, spec_paging):
    world, call, _ = serve(replace(NO_LAG, spec_paging=spec_paging))
    stored = world.state.circleci.contexts["id-empty"].variables
    path = "/api/v2/context/id-empty/environment-variable"
    for number in range(100):
        stored[f"V_{number:03d}"] = Variable(value=Value(tail="tail"))
    assert call("GET", path)[1]["next_page_token"] is None
    refused = call("PUT", f"{path}/ONE_MORE", {"value": "v"})
    assert refused == (400, {"message": "Cannot create more than 100 environment variables per context"})
    assert call("PUT", f"{path}/V_042", {"value": "v"})[0] == 200
    stored["V_100"] = Variable(value=Value(tail="tail"))
    first = call("GET", path)[1]
    assert first["next_page_token"]
    second = call("GET", f"{path}?page-token={first['next_page_token']}")[1]
    names = [item["variable"] for item in second["items"]]
    assert names == (["V_100"] if spec_paging else [f"V_{number:03d}" for number in range(100)])


def test_restrictions(serve):
    world, call, _ = serve()
    path = "/api/v2/context/id-aws/restrictions"
    body = {"restriction_type": "project", "restriction_value": "id-web"}
    status, made = call("POST", path, body)
    assert (status, made["project_id"], "name" in made) == (201, "id-web", False)
    assert call("POST", path, body)[0] == 409
    assert call("POST", path, body | {"restriction_type": "planet"})[0] == 400
    (listed,) = call("GET", path)[1]["items"]
    assert (listed["restriction_type"], listed["restriction_value"], listed["name"]) == ("project", "id-web", None)
    assert world.circleci.run_pipeline("gh/acme/api", ["aws"]).passed is False
    assert call("DELETE", f"{path}/{made['id']}") == (200, {"message": "Context restriction deleted."})
    assert call("DELETE", f"{path}/{made['id']}")[0] == 404
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="g", kind="group", value="org-1")]
    assert "project_id" not in call("GET", path)[1]["items"][0]


def test_a_project_and_its_variables(serve):
    world, call, _ = serve()
    for slug in ("gh/acme/api", "github/acme/api", "id-api", "gh%2Facme%2Fapi"):
        status, body = call("GET", f"/api/v2/project/{slug}")
        assert (status, body["slug"], body["organization_id"]) == (200, "gh/acme/api", "org-1"), slug
    path = "/api/v2/project/gh/acme/api/envvar"
    rows = call("GET", path)[1]["items"]
    assert rows[0]["value"] == "xxxxOLD2"
    assert set(rows[0]) == {"name", "value", "created_at"}
    assert call("POST", path, {"name": "NEW", "value": "a"})[1]["value"] == "xxxx"
    status, again = call("POST", path, {"name": "NEW", "value": "overwritten"})
    assert (status, again["value"]) == (201, "xxxxtten")
    assert call("GET", f"{path}/NEW")[1]["value"] == "xxxxtten"
    assert call("DELETE", f"{path}/NEW")[0] == 200
    assert call("GET", f"{path}/NEW")[0] == 404
    assert call("POST", path, {"value": "no name"})[0] == 400
    assert call("PUT", f"{path}/NEW", {"value": "v"}) == (404, "page not found")
    assert call("GET", "/api/v2/project/gh/acme/nothing/envvar") == (404, {"message": "Project not found"})
    assert call("GET", "/api/v2/project/circleci/names/refused/envvar")[0] == 400
    world.switches = replace(NO_LAG, snake_case_times=False)
    assert "created-at" in call("GET", path)[1]["items"][0]


def test_project_lists_that_only_other_apis_have(serve):
    world, call, _ = serve()
    projects = world.state.circleci.projects
    for number in range(60):
        slug = f"gh/acme/p{number:02d}"
        projects[slug] = StoredProject(id=f"id-p{number}", slug=slug, organization="gh/acme", deleted=number >= 55)
    projects["gh/acme/p59"].variables = {"LEFT": Variable(value=Value(tail="tail"))}
    projects["gh/acme/web"].known_by = ("private", "v3")
    private = "/api/private/project?organization-id=org-1"
    first = call("GET", f"{private}&include-deleted=true")[1]
    assert (len(first["items"]), first["next_page_token"]) == (50, "50")
    assert len(call("GET", f"{private}&include-deleted=true&page-token=50")[1]["items"]) == 12
    assert len(call("GET", f"{private}&page-token=50")[1]["items"]) == 7
    assert call("GET", f"{private}&page-size=51")[0] == 500
    assert call("GET", "/api/v2/project/gh/acme/p59/envvar")[0] == 404, "v2 does not know a deleted project"
    detail = call("GET", "/api/private/project/id-p59?include-deleted=true")[1]
    assert detail["project_env_vars"] == [{"name": "LEFT", "value": "xxxxtail"}]
    assert call("GET", "/api/private/project/id-p59")[0] == 404

    listed = call("GET", "/api/v3/projects?filter[org_id]=org-1&page[limit]=50")[1]
    assert (len(listed["data"]), listed["meta"]["total_count"]) == (50, 57)
    cursor = listed["page"]["next"]
    assert len(call("GET", f"/api/v3/projects?filter[org_id]=org-1&page[cursor]={cursor}")[1]["data"]) == 7
    assert "error" in call("GET", "/api/v3/projects?filter[org_id]=org-1&page[limit]=51")[1]

    followed = call("GET", "/api/v1.1/projects")[1]
    assert "web" not in {item["reponame"] for item in followed}
    assert {item["vcs_type"] for item in followed} == {"github"}
    status, text = call("GET", "/api/v1.1/projects", headers={"Circle-Token": TOKEN})
    assert (status, text[:2]) == (200, "({")

    world.switches = replace(NO_LAG, private_pages_loop=True, v3_lists_projects=False)
    looped = call("GET", f"{private}&page-token=50")[1]
    assert looped["next_page_token"] is not None
    assert call("GET", f"{private}&page-token={looped['next_page_token']}")[1]["items"]
    assert call("GET", "/api/v3/projects?filter[org_id]=org-1")[0] == 400


def test_v3_shows_every_variable_if_it_is_there(serve):
    world, call, _ = serve()
    path = "/api/v3/contexts/id-aws/env-vars"
    assert call("GET", path)[0] == 404
    world.switches = replace(NO_LAG, v3_variables=True)
    rows = call("GET", f"{path}?page[limit]=1")[1]
    assert rows["data"][0]["attributes"]["truncated_value"] == "OLD2"
    assert rows["page"]["next"] == "1"


def test_unknown_routes_are_not_found(serve):
    _, call, _ = serve()
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/v2/nothing"),
        ("POST", "/api/v2/me"),
        ("PATCH", "/api/v2/context"),
    ):
        assert call(method, path, b"" if method != "GET" else None) == (404, "page not found")


@pytest.mark.parametrize("says_when", [True, False])
def test_too_many_requests_with_and_without_retry_after(serve, says_when):
    _, call, _ = serve(replace(NO_LAG, retry_after=says_when), Faults(["throttle:variables"]))
    assert call("GET", NAMES) == (429, {"message": "Rate limit exceeded."})
    assert call.reply_headers.get("Retry-After") == ("1" if says_when else None)
    assert call("GET", NAMES)[0] == 200


def test_faults_on_the_wire(serve):
    world, call, _ = serve(
        faults=Faults(["deny:variables", "server-error:variables:2", "drop-reply:put_variable", "expired:login"])
    )
    assert call("GET", NAMES)[0] == 403
    assert call("GET", NAMES) == (500, {"message": "Internal server error."})
    assert call("GET", "/api/v2/me") == (401, {"message": "Invalid token provided."})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        call("PUT", f"{NAMES}/APPLIED", {"value": "a value"})
    assert world.circleci.variables(context(world)).find("APPLIED") is not None
    assert call("GET", "/api/v2/me")[0] == 200


def test_bodies_have_a_limit_and_a_length(serve):
    _, call, _ = serve()
    assert call("PUT", f"{NAMES}/BIG", b"x" * ((1 << 20) + 1))[0] == 413
    call.connection.close()
    headers = {**call.headers, "Transfer-Encoding": "chunked"}
    assert call("PUT", f"{NAMES}/BIG", b"5\r\nhello\r\n0\r\n\r\n", headers=headers)[0] == 411


def test_nothing_a_client_sends_is_logged_or_shown(serve, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    world, call, _ = serve()
    canary = "canary-5be1-never-shown"
    call("PUT", f"{NAMES}/CANARY", {"value": canary})
    call("PUT", f"{NAMES}/CANARY", f'{{"value": "{canary}'.encode())
    call("POST", "/api/v2/project/gh/acme/api/envvar", {"name": "CANARY", "value": canary})
    world.on_call = lambda _call, _moment: {}[canary]
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        call("GET", "/api/v2/me")
    out, err = capfd.readouterr()
    assert canary not in out + err + caplog.text
    assert "KeyError while answering" in err


def test_many_callers_at_once(serve):
    world, _, server = serve()
    failures = []

    def write(number):
        caller = Caller(server.url, {"Circle-Token": TOKEN})
        try:
            for turn in range(10):
                status, _ = caller("PUT", f"{NAMES}/V_{number}_{turn}", {"value": f"value of {number}/{turn}"})
                assert status == 200
        except Exception as error:  # noqa: BLE001  # a thread's error must reach the test
            failures.append(error)
        finally:
            caller.connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(9)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"90 writes over 9 connections in {time.perf_counter() - began:.2f} s")
    assert failures == []
    assert len(world.circleci.variables(context(world)).items) == 92


def test_the_real_client_sees_what_the_twin_shows(serve):
    world, _, server = serve()
    world.state.circleci.projects["gh/acme/gone"] = StoredProject(
        id="id-gone", slug="gh/acme/gone", organization="gh/acme", known_by=("private",), deleted=True
    )
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r", kind="group", value="org-1")]
    with CircleCiClient(host=server.url, token=Secret(TOKEN)) as client:
        assert client.login() == world.circleci.login()
        assert client.organizations() == world.circleci.organizations()
        (organization,) = client.organizations()
        assert client.contexts(organization) == world.circleci.contexts(organization)
        assert client.projects(organization) == world.circleci.projects(organization)
        client.put_variable(context(world), "VALUE", Secret("through the wire"))
        client.put_variable(project(world), "VALUE", Secret("through the wire"))
        for sink in (context(world), project(world), project(world, "gh/acme/gone")):
            ours, theirs = world.circleci.variables(sink), client.variables(sink)
            assert [(item.name, item.tail) for item in theirs.items] == [(item.name, item.tail) for item in ours.items]
            assert theirs.complete is ours.complete
        assert client.variables(context(world)).find("VALUE").tail == "wire"
        assert client.restrictions(context(world)) == world.circleci.restrictions(context(world))
        client.delete_variable(project(world), "VALUE")
        made = client.create_context(organization, "made-over-http")
        assert made in world.circleci.contexts(organization)
        with pytest.raises(CircleCiError) as caught:
            client.variables(replace(context(world), id="id-nowhere"))
        assert (caught.value.status, caught.value.effect) == (403, Effect.NONE)
    with CircleCiClient(host=server.url, token=Secret("CCIPAT_wrong")) as stranger, pytest.raises(CredentialsError):
        stranger.login()


# --- Pipelines --------------------------------------------------------------------------------------------------------

CONFIG = canary.with_keys(["aws"], *PAIR, "us-east-1")
OLDER = {"branch": "main", "config": CONFIG}
NEWER = {
    "definition_id": "definition-api",
    "config": {"branch": "main", "content": CONFIG},
    "checkout": {"branch": "main"},
}


@pytest.mark.parametrize(
    ("route", "body", "takes_content", "name"),
    [
        ("pipeline", OLDER, False, canary.WORKFLOW),
        ("pipeline", {"branch": "main"}, False, "build"),
        ("pipeline/run", NEWER, False, "build"),
        ("pipeline/run", NEWER, True, canary.WORKFLOW),
    ],
)
def test_a_route_that_drops_our_config_runs_the_repositorys(serve, route, body, takes_content, name):
    _, call, _ = serve(replace(NO_LAG, run_takes_content=takes_content))
    status, made = call("POST", f"/api/v2/project/gh/acme/api/{route}", body)
    assert (status, made["number"], made["state"]) == (201, 1, "created")
    (workflow,) = call("GET", f"/api/v2/pipeline/{made['id']}/workflow")[1]["items"]
    assert (workflow["name"], workflow["status"], workflow["pipeline_number"]) == (name, "running", 1)


def test_what_pipelines_answer_to_a_mistake(serve):
    _, call, _ = serve()
    for route, body in (
        ("/api/v2/project/gh/acme/api/pipeline/run", {"definition_id": "definition-api"}),
        ("/api/v2/project/gh/acme/api/pipeline/run", b"no json"),
        ("/api/v3/orgs/org-1/update-settings", {"is_running_disabled": "yes"}),
    ):
        assert call("POST", route, body)[0] == 400
    for route in ("/api/v2/workflow/none", "/api/v2/pipeline/none", "/api/v2/project/gh/acme/api/x/tests"):
        assert call("GET", route)[0] == 404
    assert call("GET", "/api/v2/workflow/none/job") == (404, {"message": "Workflow not found"})


def test_settings_are_v3s_and_server_has_none(serve):
    _, call, _ = serve()
    said = {"data": {"attributes": {"is_running_disabled": False, "enable_unversioned_config": True}}}
    assert call("GET", "/api/v3/orgs/org-1/settings") == (200, said)
    confirmed = {"data": {"attributes": {"is_running_disabled": True}}}
    assert call("POST", "/api/v3/orgs/org-1/update-settings", {"is_running_disabled": True}) == (200, confirmed)
    assert call("GET", "/api/v3/projects/id-api/settings")[1]["data"]["attributes"] == {
        "enable_unversioned_config": True
    }
    _, call, _ = serve(replace(NO_LAG, v3_settings=False))
    for method, path in (
        ("GET", "orgs/org-1/settings"),
        ("POST", "orgs/org-1/update-settings"),
        ("GET", "projects/id-api/settings"),
    ):
        body = {"is_running_disabled": True} if method == "POST" else None
        assert call(method, f"/api/v3/{path}", body) == (404, "page not found")


def test_one_webhook_and_the_spelling_that_is_ignored(serve):
    state = small_state()
    state.circleci.projects["gh/acme/api"].webhooks = [Webhook(id="hook", name="hook", has_secret=False)]
    _, call, _ = serve(state=state)
    assert call("GET", "/api/v2/webhook/hook")[1]["signing_secret"] == ""
    assert call("PUT", "/api/v2/webhook/hook", {"signing-secret": "x"})[1]["signing_secret"] == ""
    assert call("PUT", "/api/v2/webhook/hook", {"signing_secret": "x"})[1]["signing_secret"] == "****"
    assert call("GET", "/api/v2/webhook/none")[0] == 404
