"""Every kind of stored secret on the twin: kept, mirrored, declared by a scenario, and served with its quirks."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from urllib.parse import quote, urlsplit

import msgspec
import pytest
from twins import kinds_world as worlds
from twins.kinds_world import ACME, ALL, EVERY_ROW, NO_ID, brief, kinds_world, number

from playbook.errors import UsageError
from playbook.ports import Hole, SecretKind
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.faults import Faults
from playbook.twins.refusals import NOT_MIRRORED
from playbook.twins.scenario import load, state_from_text
from playbook.twins.secret_routes import MADE_UP
from playbook.twins.seed import mirror
from playbook.twins.server import CircleCiServer
from playbook.twins.state import Refusal
from playbook.twins.world import TwinWorld

TOKEN = "CCIPAT_0123456789abcdefABCDEF_" + "0" * 40
API = "/api/v2/project/gh/acme/api"
V1 = "/api/v1.1/project/gh/acme/api"
ID = number("gh/acme/api")


def everything(circleci, kinds=ALL, organization=ACME):
    """All that the readers show of every kind."""
    projects = circleci.projects(organization)
    read = {item.id: circleci.project_secrets(item, kinds) for item in projects.items}
    return read, circleci.organization_secrets(organization, kinds)


def all_rows(shown):
    read, of_organization = shown
    return [row for found in (*read.values(), of_organization) for row in found.secrets]


def all_holes(shown):
    read, of_organization = shown
    return {(hole.what, hole.where, hole.why) for found in (*read.values(), of_organization) for hole in found.holes}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_world_from_before_there_were_kinds_still_loads(tmp_path):
    old = {
        "now": "2026-11-02T09:00:00Z",
        "version": 1,
        "circleci": {
            "organizations": {"gh/acme": {"id": "o", "slug": "gh/acme", "name": "acme", "holes": []}},
            "projects": {"gh/acme/api": {"id": "p", "slug": "gh/acme/api", "organization": "gh/acme"}},
        },
    }
    (tmp_path / "world.json").write_text(json.dumps(old))
    world = TwinWorld.load(tmp_path / "world.json")
    organization = world.circleci.organizations()[0]
    assert all_rows(everything(world.circleci, organization=organization)) == []
    assert not all_holes(everything(world.circleci, organization=organization))


def test_every_kind_survives_the_file_and_no_value_is_in_it(tmp_path):
    path = tmp_path / "world.json"
    world = TwinWorld(worlds.kinds_state(), path=path)
    again = TwinWorld.load(path)
    assert everything(again.circleci) == everything(world.circleci)
    assert brief(all_rows(everything(again.circleci))) == EVERY_ROW
    text = path.read_text()
    assert MADE_UP not in text
    assert "secret=" not in text


# --- the mirror -------------------------------------------------------------------------------------------------------


def mirrored(world, **given):
    return mirror(world.platforms(), accounts=(), organizations=("gh/acme",), **given)


def test_a_mirror_shows_every_kind():
    world = kinds_world()
    twin = mirrored(world)
    assert everything(twin.circleci) == everything(world.circleci)
    assert brief(all_rows(everything(twin.circleci))) == EVERY_ROW


@pytest.mark.parametrize("status", [403, 404, None])
@pytest.mark.parametrize(
    "refused",
    [
        "project_tokens:gh/acme/api",
        "webhooks:gh/acme/api",
        "pipeline_definitions:gh/acme/api",
        f"triggers:{number('gh/acme/api', 'definition')}",
        "oidc_claims:gh/acme/api",
        "oidc_claims:gh/acme",
        "runner_classes:gh/acme",
        "runner_tokens:acme/linux",
        "variables:gh/acme/api",
        "project_details:gh/acme/api",
        "project_details:gh/acme/gone",
        "checkout_keys:gh/acme/api project_details:gh/acme/api",
        "variables:gh/acme/api project_details:gh/acme/api",
        "ssh_keys:gh/acme/api project_details:gh/acme/api variables:gh/acme/api",
    ],
)
def test_a_mirror_has_the_same_holes(refused, status):
    code = "Timeout" if status is None else f"HTTP{status}"
    refusals = {place: Refusal(code=code, status=status) for place in refused.split()}
    world = kinds_world(worlds.kinds_state(refusals=refusals))
    twin = mirrored(world)
    expected, found = everything(world.circleci), everything(twin.circleci)
    assert all_holes(found) == all_holes(expected)
    assert brief(all_rows(found)) == brief(all_rows(expected))
    names = lambda shown: {key: {v.name for v in read.variables.items} for key, read in shown[0].items()}  # noqa: E731
    assert names(found) == names(expected)
    for kind in ALL:
        one = frozenset({kind})
        assert all_holes(everything(twin.circleci, one)) >= all_holes(everything(world.circleci, one)), kind


def test_a_kind_that_was_left_out_is_a_hole_of_the_mirror():
    world = kinds_world()
    twin = mirrored(world, kinds={SecretKind.CHECKOUT_KEY})
    assert brief(all_rows(everything(twin.circleci))) == [row for row in EVERY_ROW if row[0] == "checkout-key"]
    holes = all_holes(everything(twin.circleci))
    assert {why for _, _, why in holes} == {NOT_MIRRORED}
    assert {what for what, _, _ in holes} >= {"ssh-key", "webhook-secret", "runner-token", "oidc-claims"}
    only = frozenset({SecretKind.CHECKOUT_KEY, SecretKind.PROJECT_VARIABLE})
    assert not all_holes(everything(twin.circleci, only))
    elsewhere = mirror(world.platforms(), accounts=(), organizations=())
    missed = elsewhere.circleci.organization_secrets(ACME, frozenset({SecretKind.RUNNER_TOKEN}))
    assert missed.holes == (Hole(what="runner-token", where="gh/acme", why=NOT_MIRRORED),)


def test_a_deleted_project_whose_slug_was_given_away_keeps_its_own(tmp_path):
    """Its heir goes by the slug, and it by its id: neither shows what is the other's."""
    state = worlds.kinds_state()
    ghost = worlds.rich_project(deleted=True)
    ghost.id = number("ghost")
    ghost.variables = {"GHOST": worlds.variable("0bae")}
    ghost.ssh_keys = []
    state.circleci.projects["ghost"] = ghost
    world = kinds_world(state)
    for circleci in (world.circleci, mirrored(world).circleci):
        read, _ = everything(circleci)
        assert [item.name for item in read[ghost.id].variables.items] == ["GHOST"]
        assert len(read[ID].variables.items) == 2
        assert sum(1 for row in read[ghost.id].secrets if row.kind is SecretKind.SSH_KEY) == 0
        assert sum(1 for row in read[ID].secrets if row.kind is SecretKind.SSH_KEY) == 2


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_denied_read_is_a_hole_and_a_throttled_one_is_sat_out():
    rules = ["deny:webhooks", "throttle:project_details:1x2", "drop-reply:runner_tokens"]
    world = TwinWorld(worlds.kinds_state(), faults=Faults(rules))
    shown = everything(world.circleci)
    assert all_holes(shown) == {("webhook-secret", "gh/acme/api", "HTTP403")}
    assert brief(all_rows(shown)) == [row for row in EVERY_ROW if row[0] != "webhook-secret"]
    assert sum(world.faults.struck.values()) == 4


def test_only_what_is_asked_for_is_called():
    world = kinds_world()
    calls = []
    world.on_call = lambda call, moment: calls.append(call.operation) if moment == "before" else None
    everything(world.circleci, frozenset({SecretKind.SSH_KEY}))
    assert Counter(calls) == {"projects": 1, "project_details": 3}
    assert not [row for row in EVERY_ROW if row[0] == "context-variable"]


# --- scenarios --------------------------------------------------------------------------------------------------------


def test_small_has_every_kind_a_deleted_project_and_a_webhook_without_a_secret():
    world = TwinWorld(load("small").state)
    organization = world.circleci.organizations()[0]
    shown = everything(world.circleci, organization=organization)
    rows = all_rows(shown)
    counts = Counter(row.kind for row in rows)
    elsewhere = {SecretKind.CONTEXT_VARIABLE, SecretKind.PROJECT_VARIABLE, SecretKind.CONTEXT_RESTRICTION}
    assert set(counts) == ALL - elsewhere
    assert not all_holes(shown)
    assert [row.name for row in rows if not row.set] == ["chat"]
    (gone,) = [item for item in world.circleci.projects(organization).items if item.deleted]
    assert [item.name for item in shown[0][gone.id].variables.items] == ["FTP_PASSWORD"]
    assert all(row.created_at < world.clock.now() for row in rows if row.created_at is not None)
    assert len({(row.kind, row.place, row.id) for row in rows}) == len(rows)
    assert any(world.circleci.restrictions(sink) for sink in world.circleci.contexts(organization))
    print(f"small: {dict(counts)}")


HEAD = "title = 'a'\nnow = 2026-01-01T00:00:00Z\nlogin = 'me'\naccounts = []\n"
ORGANIZATION = "[[organizations]]\nslug = 'gh/a'\nname = 'a'\n"


@pytest.mark.parametrize(
    "text",
    [
        "[[projects]]\nslug = 'gh/a/b'\ntokens = [{ label = 'x', scope = 'admin', created = 2026-01-01T00:00:00Z }]",
        "[[projects]]\nslug = 'gh/a/b'\ncheckout_keys = [{ kind = 'deploy-key', created = 2026-01-01T00:00:00Z }]",
        "[[projects]]\nslug = 'gh/a/b'\nlegacy_aws_key = 'nobody'",
        "[[projects]]\nslug = 'gh/a/b'\nwebhooks = [{ name = 'x' }]",
    ],
)
def test_a_mistake_in_a_scenario_is_refused_in_a_sentence(text):
    with pytest.raises(UsageError, match="scenario"):
        state_from_text("mine", HEAD + ORGANIZATION + text)


def test_a_scenario_without_kinds_is_as_before():
    state = state_from_text("mine", HEAD + ORGANIZATION + "[[projects]]\nslug = 'gh/a/b'\n")
    text = msgspec.json.encode(state.circleci).decode()
    assert "checkout_keys" not in text
    assert "claims" not in text


# --- over HTTP: what section 9 of the facts lists ---------------------------------------------------------------------


class Caller:
    """A connection that is kept open, with the token, asking for JSON unless told otherwise."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)

    def __call__(self, method, path, body=None, accept="application/json"):
        headers = {"Authorization": f"Bearer {TOKEN}"} | ({"Accept": accept} if accept else {})
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = self.connection.getresponse()
        text = reply.read().decode()
        self.headers = reply.headers
        return reply.status, json.loads(text) if reply.headers.get_content_type() == "application/json" else text


@pytest.fixture
def serve():
    closing = []

    def start(state=None, **switches):
        world = kinds_world(state, **switches)
        server = CircleCiServer(world, Secret(TOKEN))
        server.start()
        caller = Caller(server.url)
        closing.extend((caller.connection.close, server.stop))
        return world, caller

    yield start
    for close in closing:
        close()


def test_checkout_keys_over_http(serve):
    world, call = serve()
    status, listed = call("GET", f"{API}/checkout-key?digest=sha256")
    assert (status, len(listed["items"]), listed["next_page_token"]) == (200, 2, None)
    assert call("GET", f"{API}/checkout-key?digest=crc")[0] == 400
    status, made = call("POST", f"{API}/checkout-key", {"type": "user-key"})
    assert (status, made["type"], made["preferred"]) == (201, "github-user-key", True)
    assert sum(item.preferred for item in world.state.circleci.projects["gh/acme/api"].checkout_keys) == 1
    path = f"{API}/checkout-key/{quote(made['fingerprint'], safe='')}"
    assert call("DELETE", path)[0] == 200
    assert call("DELETE", path)[0] == 404
    assert call("POST", f"{API}/checkout-key", {"type": "deploy"})[0] == 400


def test_standalone_projects_have_no_checkout_keys(serve):
    slug = f"circleci/{number('o')}/{number('p')}"
    stored = states.StoredProject(id=number("p"), slug=slug, organization="gh/acme")
    _, call = serve(worlds.kinds_state(stored))
    status, body = call("POST", f"/api/v2/project/{slug}/checkout-key", {"type": "deploy-key"})
    assert (status, body["message"]) == (400, "This API is not supported for this project.")
    assert call("GET", f"/api/v2/project/{slug}/checkout-key") == (200, {"items": [], "next_page_token": None})


def test_ssh_keys_are_deleted_with_a_body(serve):
    world, call = serve()
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nmade-up\n"
    assert call("POST", f"{V1}/ssh-key", {"hostname": "new.example", "private_key": private})[0] == 200
    listed = call("GET", f"{V1}/settings?ssh-key-digest=sha256")[1]["ssh_keys"]
    (made,) = [item for item in listed if item["hostname"] == "new.example"]
    assert call("DELETE", f"{V1}/ssh-key", {"hostname": "new.example"})[0] == 400
    assert call("DELETE", f"{V1}/ssh-key", {key: made[key] for key in ("hostname", "fingerprint")})[0] == 200
    assert "new.example" not in {item.hostname for item in world.state.circleci.projects["gh/acme/api"].ssh_keys}
    assert call("POST", f"{V1}/ssh-key", {"hostname": "x", "private_key": "no key"})[0] == 400


def test_v11_speaks_edn_to_who_does_not_ask_for_json(serve):
    _, call = serve()
    for path, start in ((f"{V1}/token", "({:id "), (f"{V1}/settings", "{:ssh_keys ({:hostname ")):
        status, text = call("GET", path, accept="")
        assert (status, call.headers.get_content_type()) == (200, "application/edn")
        assert text.startswith(start)


def test_a_project_token_is_shown_once(serve):
    _, call = serve()
    status, made = call("POST", f"{V1}/token", {"label": "new", "scope": "all"})
    assert (status, made["token"].startswith(MADE_UP)) == (201, True)
    listed = call("GET", f"{V1}/token")[1]
    assert [item["label"] for item in listed] == ["badge", "new"]
    assert not any("token" in item for item in listed)
    assert call("POST", f"{V1}/token", {"label": "new", "scope": "admin"})[0] == 400
    assert call("DELETE", f"{V1}/token/{made['id']}")[0] == 200
    assert call("DELETE", f"{V1}/token/{made['id']}")[0] == 404


HOOK = {
    "name": "new",
    "url": "https://h.example/x",
    "events": ["job-completed"],
    "scope": {"id": ID, "type": "project"},
}


@pytest.mark.parametrize(("heard", "shown"), [(False, ""), (True, "****")])
def test_hyphened_webhook_keys_are_ignored_without_a_word(serve, heard, shown):
    _, call = serve(hyphened_webhook_keys=heard)
    status, made = call("POST", "/api/v2/webhook", {**HOOK, "signing-secret": "s" * 20, "verify-tls": False})
    assert (status, made["signing_secret"], made["verify_tls"]) == (201, shown, not heard)
    both = {**HOOK, "signing-secret": "s" * 20, "signing_secret": "s" * 20}
    assert call("POST", "/api/v2/webhook", both)[1]["signing_secret"] == "****"


def test_a_webhooks_scope_does_not_move_and_its_time_does(serve):
    _, call = serve()
    made = call("POST", "/api/v2/webhook", {**HOOK, "signing_secret": ""})[1]
    path = f"/api/v2/webhook/{made['id']}"
    changed = call("PUT", path, {"signing_secret": "s" * 20, "scope": {"id": "elsewhere", "type": "project"}})[1]
    assert (changed["signing_secret"], changed["scope"]["id"], changed["name"]) == ("****", ID, "new")
    assert changed["updated_at"] > made["updated_at"]
    assert made["created_at"] == changed["created_at"]
    listed = call("GET", f"/api/v2/webhook?scope-id={ID}&scope-type=project")[1]
    assert [item["signing_secret"] for item in listed["items"]] == ["****", "", "****"]
    assert call("GET", f"/api/v2/webhook?scope-id={ID}")[0] == 400
    assert call("DELETE", path)[0] == 200
    assert call("PUT", path, {"name": "x"})[0] == 404


def test_a_triggers_address_comes_with_its_secret_in_clear(serve):
    world, call = serve()
    listed = call("GET", f"/api/v2/projects/{ID}/pipeline-definitions")[1]["items"]
    path = f"/api/v2/projects/{ID}/pipeline-definitions/{listed[0]['id']}/triggers"
    inbound, push = call("GET", path)[1]["items"]
    assert inbound["event_source"]["webhook"]["url"].startswith("https://internal.circleci.com/private/soc/e/5?secret=")
    assert "webhook" not in push["event_source"]
    assert call("DELETE", f"/api/v2/projects/{ID}/triggers/{inbound['id']}")[0] == 200
    assert call("DELETE", f"/api/v2/projects/{ID}/triggers/{inbound['id']}")[0] == 404
    left = world.state.circleci.projects["gh/acme/api"].definitions[0].triggers
    assert [item.id for item in left] == [push["id"]]
    assert call("GET", f"/api/v2/projects/{ID}/pipeline-definitions/none/triggers")[0] == 404


def test_runner_lists_need_their_parameter_and_a_token_is_shown_once(serve):
    _, call = serve()
    assert call("GET", "/api/v3/runner/resource")[0] == 400
    assert call("GET", "/api/v3/runner/token")[0] == 400
    by_id = call("GET", f"/api/v3/runner/resource?org-id={ACME.id}")[1]["items"]
    assert by_id == call("GET", "/api/v3/runner/resource?namespace=acme")[1]["items"]
    status, made = call("POST", "/api/v3/runner/token", {"resource_class": "acme/linux", "nickname": "new"})
    assert (status, made["token"].startswith(MADE_UP)) == (201, True)
    listed = call("GET", "/api/v3/runner/token?resource-class=acme/linux")[1]["items"]
    assert [item["nickname"] for item in listed] == ["rack-1", "new"]
    assert not any("token" in item for item in listed)
    assert call("DELETE", f"/api/v3/runner/token/{made['id']}")[0] == 200
    assert call("DELETE", f"/api/v3/runner/token/{made['id']}")[0] == 404
    assert call("DELETE", f"/api/v3/runner/resource/{by_id[0]['id']}")[0] == 409
    assert call("DELETE", f"/api/v3/runner/resource/{by_id[0]['id']}/force")[0] == 200
    assert len(call("GET", f"/api/v3/runner/resource?org-id={ACME.id}")[1]["items"]) == 1
    assert call("GET", "/api/v3/runner/token?resource-class=acme/linux")[0] == 404


def test_oidc_claims_over_http(serve):
    _, call = serve()
    plain = f"/api/v2/org/{ACME.id}/project/{number('gh/acme/plain')}/oidc-custom-claims"
    assert call("GET", plain) == (200, {"org_id": ACME.id, "project_id": number("gh/acme/plain")})
    status, set_now = call("PATCH", plain, {"audience": ["sts.amazonaws.com"], "ttl": "90m"})
    assert (status, set_now["audience"], set_now["ttl"]) == (200, ["sts.amazonaws.com"], "1h30m0s")
    assert call("DELETE", plain)[0] == 400
    status, left = call("DELETE", f"{plain}?claims=audience")
    assert (status, "audience" in left, left["ttl"]) == (200, False, "1h30m0s")
    assert call("PATCH", plain, {"ttl": "soon"})[0] == 400
    status, body = call("GET", "/api/v2/org/acme/oidc-custom-claims")
    assert (status, body) == (400, {"error": "OwnerID: must be a valid UUID."})
    assert call("GET", f"/api/v2/org/{number('nobody')}/oidc-custom-claims") == (403, {"error": "Forbidden"})
    assert set(call("GET", f"/api/v2/org/{ACME.id}/oidc-custom-claims")[1]) == {
        "org_id",
        "audience",
        "audience_updated_at",
        "ttl",
        "ttl_updated_at",
    }


@pytest.mark.parametrize("retry_after", [True, False])
def test_a_limit_on_the_rate(serve, retry_after):
    _, call = serve(requests_per_s=5, retry_after=retry_after)
    statuses = Counter()
    for _ in range(12):
        status, body = call("GET", "/api/v2/me")
        statuses[status] += 1
        if status == 429:
            assert body == {"message": "Rate limit exceeded."}
            assert ("Retry-After" in call.headers) is retry_after
    assert 5 <= statuses[200] <= 8, statuses
    assert statuses[429] >= 4


def test_a_deleted_project_shows_only_through_the_private_route(serve):
    _, call = serve()
    gone = number("gh/acme/gone")
    assert call("GET", "/api/v2/project/gh/acme/gone/envvar")[0] == 404
    assert call("GET", "/api/v1.1/project/gh/acme/gone/token")[0] == 404
    assert call("GET", f"/api/private/project/{gone}")[0] == 404
    status, body = call("GET", f"/api/private/project/{gone}?include-deleted=true")
    assert (status, body["project_env_vars"]) == (200, [{"name": "OLD", "value": "xxxx5678"}])
    assert "legacy_aws_keys" not in body


def test_an_organization_without_an_id(serve):
    world, call = serve()
    assert world.circleci.organization_secrets(NO_ID, ALL).secrets == ()
    assert call("GET", "/api/v2/organization/bb%2Fann")[1]["id"] == ""
