"""Every kind of secret through the real client: calls counted, quirks met one by one, nothing let out."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest
import stamina
from clients.scripted import error_of, everything_about, reply
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st
from twins import kinds_world as worlds
from twins.kinds_world import ACME, ALL, EVERY_ROW, brief, kinds_world, number

from playbook.clients.budget import Budget
from playbook.clients.circleci import CircleCiClient
from playbook.clients.circleci_replies import Page
from playbook.clients.circleci_secret_replies import Place, Trigger, redacted
from playbook.errors import CircleCiError, CredentialsError
from playbook.ports import Organization, Project, SecretKind, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.faults import Faults
from playbook.twins.http_api import Api, Request
from playbook.twins.routes import ROUTES
from playbook.twins.secret_routes import MADE_UP, SECRET_ROUTES
from playbook.twins.server import CircleCiServer
from playbook.twins.state import Refusal
from playbook.twins.world import TwinWorld

BASIC = frozenset({SecretKind.PROJECT_VARIABLE, SecretKind.CHECKOUT_KEY, SecretKind.SSH_KEY, SecretKind.LEGACY_AWS_KEY})
ID = number("gh/acme/api")
API = Project(id=ID, slug="gh/acme/api", organization="gh/acme", known_by=("private",))
DETAILS = {"project_env_vars": [], "checkout_keys": [], "ssh_keys": []}
CANARY = "cAnArY-Zq9-never-shown"

pytestmark = pytest.mark.usefixtures("no_backoff")


def unpaced():
    return Budget(rate=1000, least=1000, most=1000, burst=1000)


@pytest.fixture
def watch(monkeypatch):
    """A factory: a client of a twin behind a socket, and the log of what arrived there with its status."""
    closing = []

    def start(world=None, budget=None, **switches):
        world = world or kinds_world(**switches)
        log = []
        answer = Api.answer

        def watched(api, request):
            answered = answer(api, request)
            log.append((time.monotonic(), request, answered))
            return answered

        monkeypatch.setattr(Api, "answer", watched)
        server = CircleCiServer(world, Secret("the-token"))
        server.start()
        client = CircleCiClient(host=server.url, token=Secret("the-token"), budget=budget)
        closing.extend((client.close, server.stop))
        return client, log

    yield start
    for close in closing:
        close()


def answering(by_path, otherwise=b"page not found"):
    """Answer JSON by path: a document, a function of the request, or a status with a document."""

    def answer(arrived):
        found = by_path.get(arrived.path)
        found = found(arrived) if callable(found) else found
        if found is None:
            return reply(otherwise, 404)
        if isinstance(found, bytes):
            return found
        status, document = found if isinstance(found, tuple) else (200, found)
        return reply(json.dumps(document), status)

    return answer


def client_of(server, **given):
    return CircleCiClient(host=server.url, token=Secret("tok-1"), **{"budget": unpaced(), **given})


def page(*items, **more):
    return {"items": list(items), "next_page_token": None, **more}


# --- what it costs ----------------------------------------------------------------------------------------------------


def many_projects(count, rng):
    """Projects as an organization has them: most with few things, some with many, one in twelve deleted."""
    projects = []
    for index in range(count):
        slug = f"gh/acme/p{index}"
        stored = worlds.rich_project(slug, deleted=index % 12 == 11)
        stored.definitions = [
            states.PipelineDefinition(
                id=number(slug, "definition", item),
                triggers=[states.Trigger(id=number(slug, item), url="https://internal.circleci.com/private/soc/e/1")],
            )
            for item in range(rng.choice([0, 1, 1, 1, 2, 3]))
        ]
        for name in ("checkout_keys", "ssh_keys", "tokens", "webhooks"):
            setattr(stored, name, getattr(stored, name)[: rng.randrange(3)])
        projects.append(stored)
    return projects


@pytest.mark.parametrize(("kinds", "most"), [(BASIC, 2.2), (ALL, 7.5)])
def test_calls_per_project(watch, kinds, most):
    rng = random.Random(17)
    client, log = watch(kinds_world(worlds.kinds_state(*many_projects(120, rng))))
    projects = client.projects(ACME).items
    assert len(projects) == 120
    before = len(log)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda item: client.project_secrets(item, kinds), projects))
    calls = len(log) - before
    rows = sum(len(item.secrets) + len(item.variables.items) for item in read)
    print(f"{calls} calls for {len(projects)} projects: {calls / len(projects):.2f} each; {rows} rows; seed 17")
    assert calls / len(projects) <= most
    assert not any(item.holes for item in read)


WANTED = {
    SecretKind.PROJECT_VARIABLE: ["/api/v2/project/gh/acme/api/envvar"],
    SecretKind.CHECKOUT_KEY: [f"/api/private/project/{ID}"],
    SecretKind.SSH_KEY: [f"/api/private/project/{ID}"],
    SecretKind.LEGACY_AWS_KEY: [f"/api/private/project/{ID}"],
    SecretKind.PROJECT_TOKEN: ["/api/v1.1/project/gh/acme/api/token"],
    SecretKind.WEBHOOK_SECRET: ["/api/v2/webhook"],
    SecretKind.TRIGGER_URL: [
        f"/api/v2/projects/{ID}/pipeline-definitions",
        f"/api/v2/projects/{ID}/pipeline-definitions/{number('gh/acme/api', 'definition')}/triggers",
    ],
    SecretKind.OIDC_CLAIMS: [f"/api/v2/org/{ACME.id}/project/{ID}/oidc-custom-claims"],
    SecretKind.RUNNER_TOKEN: [],
    SecretKind.CONTEXT_VARIABLE: [],
    SecretKind.CONTEXT_RESTRICTION: [],
}


@pytest.mark.parametrize("kind", sorted(ALL))
def test_only_what_is_asked_for_costs_calls(watch, kind):
    client, log = watch()
    client.organizations()
    log.clear()
    client.project_secrets(API, frozenset({kind}))
    assert [request.path for _, request, _ in log] == WANTED[kind]
    assert {request.headers["accept"] for _, request, _ in log} <= {"application/json"}, "v1.1 speaks EDN otherwise"
    log.clear()
    client.organization_secrets(ACME, frozenset({kind}))
    of_organization = {SecretKind.RUNNER_TOKEN: 3, SecretKind.OIDC_CLAIMS: 1}
    assert len(log) == of_organization.get(kind, 0)
    assert {request.method for _, request, _ in log} <= {"GET"}


def test_a_deleted_project_is_read_through_the_private_route_alone(watch):
    client, log = watch()
    gone = next(item for item in client.projects(ACME).items if item.deleted)
    log.clear()
    read = client.project_secrets(gone, ALL)
    assert [request.path for _, request, _ in log] == [f"/api/private/project/{gone.id}"]
    assert [item.name for item in read.variables.items] == ["OLD"]
    assert brief(read.secrets) == [row for row in EVERY_ROW if row[1] == "gh/acme/gone"]
    assert read.holes == ()


def test_a_project_deleted_since_it_was_listed_counts_as_read(watch):
    world = kinds_world()
    client, log = watch(world)
    listed = next(item for item in client.projects(ACME).items if item.slug == "gh/acme/api")
    world.state.circleci.projects["gh/acme/api"].deleted = True
    log.clear()
    read = client.project_secrets(listed, frozenset({SecretKind.PROJECT_VARIABLE}))
    assert {item.name: item.tail for item in read.variables.items} == {"AWS_ACCESS_KEY_ID": "WXYZ", "NPM_TOKEN": ""}
    assert (read.holes, read.variables.complete, len(log)) == ((), True, 2)


def test_a_project_known_by_its_slug_alone_is_looked_up_once(watch):
    client, log = watch()
    client.organizations()
    log.clear()
    nameless = Project(id="", slug="gh/acme/api", organization="gh/acme", known_by=("v1.1",))
    read = client.project_secrets(nameless, ALL)
    assert brief(read.secrets) == [row for row in EVERY_ROW if row[1] == "gh/acme/api"]
    assert read.holes == ()
    assert Counter(request.path for _, request, _ in log)["/api/v2/project/gh/acme/api"] == 1


def test_an_organizations_id_is_asked_for_once_however_many_projects(watch):
    client, log = watch()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.project_secrets(API, frozenset({SecretKind.OIDC_CLAIMS})), range(24)))
    paths = Counter(request.path.partition("/oidc")[0] for _, request, _ in log)
    assert paths["/api/v2/organization/gh%2Facme"] == 1
    assert sum(paths.values()) == 25


# --- the same rows as the twin, in worlds nobody wrote ----------------------------------------------------------------


TEXT = st.text(alphabet="abcXYZ019 _.-/:[]<>\u00e9", min_size=1, max_size=12).filter(lambda text: text.strip())
DAYS = st.none() | st.integers(1, 4000).map(worlds.day)


@st.composite
def some_project(draw):
    slug = f"gh/acme/p{draw(st.integers(0, 10**6))}"
    made = worlds.rich_project(slug, deleted=draw(st.booleans()))
    made.variables = {name: worlds.variable(draw(st.sampled_from(["", "a", "xxxx", "WXYZ"]))) for name in "AB"}
    made.checkout_keys = [
        states.CheckoutKey(fingerprint=worlds.fingerprint(str(item)), type=draw(TEXT), created_at=draw(DAYS))
        for item in range(draw(st.integers(0, 3)))
    ]
    made.ssh_keys = [
        states.SshKey(fingerprint=worlds.fingerprint(f"s{item}"), hostname=draw(st.just("") | TEXT))
        for item in range(draw(st.integers(0, 3)))
    ]
    made.legacy_aws = draw(st.sampled_from([None, made.legacy_aws]))
    made.tokens = [
        states.ProjectToken(id=number(slug, item), label=draw(TEXT), scope="all", created_at=draw(DAYS))
        for item in range(draw(st.integers(0, 3)))
    ]
    made.webhooks = [
        states.Webhook(id=number(slug, "w", item), name=draw(TEXT), has_secret=draw(st.booleans()), url="http://h.x/y")
        for item in range(draw(st.integers(0, 3)))
    ]
    made.claims = draw(st.sampled_from([None, made.claims, states.Claims(ttl="1h0m0s"), states.Claims()]))
    return made


def test_client_and_twin_agree_on_worlds_nobody_wrote():
    counts = Counter()

    @seed(20)
    @settings(max_examples=25, deadline=None, database=None)
    @given(st.lists(some_project(), min_size=1, max_size=4, unique_by=lambda item: item.slug), st.booleans())
    def check(projects, snake):
        world = kinds_world(worlds.kinds_state(*projects), snake_case_keys=snake, snake_case_times=snake)
        with (
            CircleCiServer(world, Secret("the-token")) as server,
            CircleCiClient(host=server.url, token=Secret("the-token")) as client,
        ):
            assert client.organization_secrets(ACME, ALL) == world.circleci.organization_secrets(ACME, ALL)
            for item in projects:
                expected = world.circleci.project_secrets(worlds.port_project(item), ALL)
                assert client.project_secrets(worlds.port_project(item), ALL) == expected
                counts.update(row.kind.value for row in expected.secrets)
                counts["projects"] += 1

    check()
    print(f"agreed on {dict(counts)}; seed 20")


# --- what must not get out --------------------------------------------------------------------------------------------


def test_a_triggers_secret_never_leaves_the_client(serve, all_records, monkeypatch):
    """Neither into a row, nor a log, nor an exception or the frames under one."""
    secret_url = f"https://hook:{CANARY}@internal.circleci.com/private/soc/e/5?secret={CANARY}#{CANARY}"
    trigger = {"id": "t-1", "event_source": {"provider": "webhook", "webhook": {"url": secret_url, "sender": "me"}}}
    definitions = f"/api/v2/projects/{ID}/pipeline-definitions"
    routes = {definitions: page({"id": "d-1"}), f"{definitions}/d-1/triggers": page(trigger)}
    client = client_of(serve(answering(routes)))
    read = client.project_secrets(API, frozenset({SecretKind.TRIGGER_URL}))
    (row,) = read.secrets
    assert (row.name, row.detail, row.set) == ("https://internal.circleci.com/private/soc/e/5", "me", True)
    routes[f"{definitions}/d-1/triggers"] = page(trigger, {**trigger, "id": ["not", "an", "id"]})
    read = client.project_secrets(API, frozenset({SecretKind.TRIGGER_URL}))
    assert [(hole.what, hole.why) for hole in read.holes] == [("trigger-url", "Unreadable")]
    routes[f"{definitions}/d-1/triggers"] = page(trigger)
    monkeypatch.setattr(Place, "row", lambda *_given, **_named: {}["a bug under which every frame is looked into"])
    error = error_of(lambda: client.project_secrets(API, frozenset({SecretKind.TRIGGER_URL})), KeyError)
    shown = everything_about(error)
    assert "InboundWebhook" in shown
    assert CANARY not in shown + repr(read) + "".join(all_records)


def test_an_unreadable_reply_leaves_nothing_in_its_exception(serve):
    """The error that `project_secrets` turns into a hole, caught before it does."""
    secret_url = f"https://internal.circleci.com/private/soc/e/5?secret={CANARY}"
    bad = page({"id": 7, "event_source": {"provider": "webhook", "webhook": {"url": secret_url}}})
    path = f"/api/v2/projects/{ID}/pipeline-definitions/d-1/triggers"
    client = client_of(serve(answering({path: bad})))
    error = error_of(lambda: list(client._secrets._items("listing triggers", path, Page[Trigger], {})), CircleCiError)
    assert error.code == "Unreadable"
    assert CANARY not in everything_about(error)


def test_secrets_that_should_be_masked_and_are_not_are_forgotten_all_the_same(serve):
    webhook = {"id": "w-1", "name": "n", "url": f"https://hooks.example/services/{CANARY}", "signing_secret": CANARY}
    details = {**DETAILS, "legacy_aws_keys": {"access_key_id": "AKIA2345", "secret_access_key": CANARY}}
    token = {"id": "t-1", "label": "l", "scope": "all", "token": CANARY}
    routes = {
        "/api/v2/webhook": page(webhook),
        f"/api/private/project/{ID}": details,
        "/api/v1.1/project/gh/acme/api/token": [token],
    }
    kinds = frozenset({SecretKind.WEBHOOK_SECRET, SecretKind.LEGACY_AWS_KEY, SecretKind.PROJECT_TOKEN})
    read = client_of(serve(answering(routes))).project_secrets(API, kinds)
    assert len(read.secrets) == 3
    assert all(row.set for row in read.secrets)
    assert CANARY not in repr(read)


def test_the_twins_own_secrets_do_not_show(watch, all_records):
    client, log = watch()
    read = [client.project_secrets(item, ALL) for item in client.projects(ACME).items]
    sent = b"".join(answered.body for _, _, answered in log)
    assert sent.count(MADE_UP.encode()) >= 2, "a trigger's and a legacy key's"
    assert MADE_UP not in repr(read) + "".join(all_records)


@seed(21)
@settings(max_examples=400, deadline=None, database=None)
@given(
    st.sampled_from(["https://", "http://", "HTTPS://", "ftp://", "//", ""]),
    st.sampled_from(["", "user:pass@", f"{CANARY}@", f"a:{CANARY}@"]),
    st.sampled_from(["internal.circleci.com", "[::1]", "h:8080", "", "a b", "h\\"]),
    st.sampled_from(["", "/", "/private/soc/e/5", "/a/b/", "/%3Fsecret="]),
    st.sampled_from(
        ["?secret=", "?x&secret=", ";secret=", "#secret=", "\\?secret=", "%3Fsecret%3D", "&secret=", "\n?s="]
    ),
)
@example("https://", "", "internal.circleci.com", "/private/soc/e/5", "?secret=")
def test_no_spelling_of_an_address_keeps_its_secret(scheme, user, host, path, query):
    url = f"{scheme}{user}{host}{path}{query}{CANARY}"
    assert CANARY not in redacted(url)
    assert CANARY not in redacted(url, path=False)
    if (scheme, user, host, query) == ("https://", "", "internal.circleci.com", "?secret="):
        assert redacted(url) == f"https://internal.circleci.com{path.partition('%')[0]}"


# --- what the API does against its own word (facts 9) -----------------------------------------------------------------


def looping(items):
    """A list that starts again after its last page, and says at each that there is more."""

    def answer(arrived):
        start = int(parse_qs(urlsplit(arrived.target).query).get("page-token", ["0"])[0])
        return {"items": items[start : start + 2], "next_page_token": str((start + 2) % len(items))}

    return answer


LOOPS = {
    "/api/v2/webhook": (SecretKind.WEBHOOK_SECRET, [{"id": f"w-{item}", "name": "n"} for item in range(6)]),
    "/api/v3/runner/token": (SecretKind.RUNNER_TOKEN, [{"id": f"t-{item}", "nickname": "n"} for item in range(6)]),
    "/api/v2/project/gh/acme/api/checkout-key": (
        SecretKind.CHECKOUT_KEY,
        [{"fingerprint": f"{item}:aa", "type": "deploy-key"} for item in range(6)],
    ),
    f"/api/v2/projects/{ID}/pipeline-definitions/d-1/triggers": (
        SecretKind.TRIGGER_URL,
        [{"id": f"t-{item}", "event_source": {"provider": "webhook"}} for item in range(6)],
    ),
}


@pytest.mark.parametrize("path", LOOPS)
def test_looping_pages_end_keep_every_row_and_are_a_hole(serve, path):
    kind, items = LOOPS[path]
    server = serve(
        answering(
            {
                "/api/v3/runner/resource": page({"id": "c-1", "resource_class": "acme/linux"}),
                f"/api/v2/projects/{ID}/pipeline-definitions": page({"id": "d-1"}),
                path: looping(items),
            }
        )
    )
    client = client_of(server)
    read = client.project_secrets(API, frozenset({kind}))
    if kind is SecretKind.RUNNER_TOKEN:
        read = client.organization_secrets(ACME, frozenset({kind}))
    assert len(read.secrets) == len({row.id for row in read.secrets}) == 6
    assert [(hole.what, hole.why) for hole in read.holes] == [(kind.value, "PageRepeated")]
    assert len(server.arrived) < 8


def test_looping_runner_classes(serve):
    classes = [{"id": f"c-{item}", "resource_class": f"acme/c{item}"} for item in range(4)]
    routes = {"/api/v3/runner/resource": looping(classes), "/api/v3/runner/token": page({"id": "t-1"})}
    read = client_of(serve(answering(routes))).organization_secrets(ACME, frozenset({SecretKind.RUNNER_TOKEN}))
    assert sorted(row.place for row in read.secrets) == [f"acme/c{item}" for item in range(4)]
    assert [hole.why for hole in read.holes] == ["PageRepeated"]


def test_an_ignored_page_token_hides_nothing_that_the_private_route_shows(serve):
    """v2 answers its first page for ever; the private route has the rest, so nothing is missing."""
    first = [{"name": f"V{item}", "value": "xxxx1234", "created-at": "2025-01-01T00:00:00Z"} for item in range(2)]
    every = [*({"name": item["name"], "value": "xxxx1234"} for item in first), {"name": "V2", "value": "xxxx9999"}]
    routes = {
        "/api/v2/project/gh/acme/api/envvar": {"items": first, "next_page_token": "again"},
        f"/api/private/project/{ID}": {**DETAILS, "project_env_vars": every},
    }
    read = client_of(serve(answering(routes))).project_secrets(API, BASIC)
    assert {item.name: item.tail for item in read.variables.items} == {"V0": "1234", "V1": "1234", "V2": "9999"}
    assert read.variables.find("V0").created_at is not None
    assert (read.variables.complete, read.holes) == (True, ())
    routes.pop(f"/api/private/project/{ID}")
    read = client_of(serve(answering(routes))).project_secrets(API, frozenset({SecretKind.PROJECT_VARIABLE}))
    assert (len(read.variables.items), read.variables.complete) == (2, False)
    assert [(hole.what, hole.why) for hole in read.holes] == [("project-variable", "PageRepeated")]


def test_no_page_of_the_private_list_is_over_50(watch):
    projects = [
        states.StoredProject(id=number(item), slug=f"gh/acme/p{item}", organization="gh/acme") for item in range(130)
    ]
    client, log = watch(kinds_world(worlds.kinds_state(*projects)))
    assert len(client.projects(ACME).items) == 130
    sizes = {request.query["page-size"] for _, request, _ in log if request.path == "/api/private/project"}
    assert sizes == {"50"}
    api = Api(kinds_world(), Secret("the-token"), (ROUTES, SECRET_ROUTES))
    target = f"/api/private/project?organization-id={ACME.id}&page-size=51"
    assert api.answer(Request(method="GET", target=target, headers={"circle-token": "the-token"})).status == 500


@pytest.mark.parametrize("hyphen", [False, True])
def test_both_spellings(serve, hyphen):
    def spelled(**fields):
        return {name.replace("_", "-") if hyphen else name: value for name, value in fields.items()}

    when = "2025-06-01T10:00:00Z"
    key = spelled(public_key="ssh-rsa A", type="deploy-key", fingerprint="aa:bb", preferred=True, created_at=when)
    signed = spelled(id="w-1", name="a", url="https://h.x/1", signing_secret="****", created_at=when, updated_at=when)
    bare = spelled(id="w-2", name="b", url="https://h.x/2", signing_secret="", created_at=when, updated_at=when)
    silent = spelled(id="w-3", name="c", url="https://h.x/3", created_at=when, updated_at=when)
    routes = {
        "/api/v2/project/gh/acme/api/checkout-key": page(key),
        "/api/v2/webhook": page(signed, bare, silent),
        "/api/v2/project/gh/acme/api/envvar": page(spelled(name="V", value="xxxx1234", created_at=when)),
    }
    kinds = frozenset({SecretKind.CHECKOUT_KEY, SecretKind.WEBHOOK_SECRET, SecretKind.PROJECT_VARIABLE})
    read = client_of(serve(answering(routes))).project_secrets(API, kinds)
    assert all(row.created_at is not None for row in read.secrets)
    assert read.variables.find("V").created_at is not None
    hooks = {row.name: (row.set, row.updated_at is not None) for row in read.secrets if row.detail == "https://h.x"}
    assert hooks == {"a": (True, True), "b": (False, True), "c": (True, True)}, "silence is no all-clear"


def test_absent_tails_are_not_taken_for_empty_ones(serve):
    rows = [{"name": "NULL", "value": None}, {"name": "NONE"}, {"name": "CLEAR", "value": "as it is"}]
    routes = {
        "/api/v2/project/gh/acme/api/envvar": page(*rows, {"name": "EMPTY", "value": "xxxx"}),
        f"/api/private/project/{ID}": {**DETAILS, "project_env_vars": [{"name": "ONLY_HERE", "value": None}]},
    }
    read = client_of(serve(answering(routes))).project_secrets(API, BASIC)
    assert {item.name: item.tail for item in read.variables.items} == {
        "NULL": None,
        "NONE": None,
        "CLEAR": None,
        "EMPTY": "",
        "ONLY_HERE": None,
    }


def test_one_private_context_is_a_403_and_the_others_are_read(watch):
    state = worlds.kinds_state(refusals={"variables:c-2": Refusal(code="HTTP403", status=403)})
    state.circleci.contexts = {
        f"c-{item}": states.Context(
            id=f"c-{item}", name=f"n{item}", organization="gh/acme", variables={"V": worlds.variable()}
        )
        for item in range(4)
    }
    client, _ = watch(kinds_world(state))
    outcomes = {}
    for sink in client.contexts(ACME):
        try:
            outcomes[sink.id] = len(client.variables(sink).items)
        except CircleCiError as error:
            outcomes[sink.id] = error.code
    assert outcomes == {"c-0": 1, "c-1": 1, "c-2": "HTTP403", "c-3": 1}


@pytest.mark.parametrize("retry_after", [True, False])
def test_429_with_and_without_retry_after_loses_nothing(watch, retry_after):
    faults = Faults(["throttle:project_details:1x2", "throttle:webhooks", "throttle:triggers:1x3"])
    world = TwinWorld(
        worlds.kinds_state(), switches=kinds_world(retry_after=retry_after).switches, faults=faults, flowing=True
    )
    slept = []
    budget = Budget(rate=1000, most=1000, burst=1000, monotonic=lambda: sum(slept), sleep=slept.append)
    client, log = watch(world, budget)
    read = [client.project_secrets(item, ALL) for item in client.projects(ACME).items]
    read.append(client.organization_secrets(ACME, ALL))
    assert brief(row for found in read for row in found.secrets) == EVERY_ROW
    assert not any(found.holes for found in read)
    refused = [answered for _, _, answered in log if answered.status == 429]
    assert len(refused) == 6
    assert {("Retry-After" in answered.headers) for answered in refused} == {retry_after}
    assert (max(slept) >= 1.0) is retry_after, "the pause is the server's where it names one"


def test_one_project_that_always_fails_is_all_holes_and_the_rest_is_read(serve):
    """500 on each of its routes: a hole for each kind, and each call ends after its tries."""
    bad = Project(id=number("bad"), slug="gh/acme/bad", organization="gh/acme", known_by=("private",))
    good = {
        f"/api/private/project/{ID}": DETAILS,
        "/api/v2/project/gh/acme/api/envvar": page({"name": "V", "value": "xxxx1234"}),
        "/api/v1.1/project/gh/acme/api/token": [{"id": "t-1", "label": "l", "scope": "all"}],
        f"/api/v2/projects/{ID}/pipeline-definitions": page(),
        f"/api/v2/org/{ACME.id}/project/{ID}/oidc-custom-claims": {"org_id": ACME.id},
    }

    def answer(arrived):
        failing = bad.id in arrived.target or "gh/acme/bad" in arrived.target
        if failing:
            return reply('{"message":"Internal server error."}', 500)
        if arrived.path == "/api/v2/webhook":
            return reply(json.dumps(page()))
        if arrived.path == "/api/v2/organization/gh%2Facme":
            return reply(json.dumps({"id": ACME.id}))
        return answering(good)(arrived)

    client = client_of(serve(answer), attempts=2)
    read = {item.slug: client.project_secrets(item, ALL) for item in (bad, API)}
    assert read["gh/acme/api"].holes == ()
    assert [row.name for row in read["gh/acme/api"].secrets] == ["l"]
    assert read["gh/acme/bad"].variables.complete is False
    assert {(hole.what, hole.where, hole.why) for hole in read["gh/acme/bad"].holes} == {
        (kind.value, "gh/acme/bad", "HTTP500")
        for kind in ALL - {SecretKind.RUNNER_TOKEN, SecretKind.CONTEXT_VARIABLE, SecretKind.CONTEXT_RESTRICTION}
    }


def test_a_host_without_the_newer_routes_has_nothing_of_theirs(serve):
    """Self-hosted Server forwards no pipeline definitions: a missing route is no hole, a missing project is."""
    kinds = frozenset({SecretKind.TRIGGER_URL, SecretKind.WEBHOOK_SECRET})
    assert client_of(serve(answering({}))).project_secrets(API, kinds).holes == ()
    missing = client_of(serve(answering({}, otherwise='{"message":"Project not found"}'))).project_secrets(API, kinds)
    assert {(hole.what, hole.why) for hole in missing.holes} == {(kind.value, "HTTP404") for kind in kinds}


def test_an_empty_private_reply_is_not_an_empty_project(serve):
    gone = Project(id=ID, slug="gh/acme/api", organization="gh/acme", known_by=("private",), deleted=True)
    read = client_of(serve(answering({f"/api/private/project/{ID}": {}}))).project_secrets(gone, BASIC)
    assert {(hole.what, hole.why) for hole in read.holes} == {(kind.value, "Unreadable") for kind in BASIC}


def test_two_empty_texts_are_no_legacy_key(serve):
    pair = {"access_key_id": "", "secret_access_key": ""}
    client = client_of(serve(answering({f"/api/private/project/{ID}": {**DETAILS, "legacy_aws_keys": pair}})))
    read = client.project_secrets(API, frozenset({SecretKind.LEGACY_AWS_KEY}))
    assert (read.secrets, read.holes) == ((), ())


@pytest.mark.parametrize(
    ("shown", "tail", "detail"),
    [("AKIAIOSFODNN7EXAMPLE", "MPLE", "AKIAIOSFODNN7EXAMPLE"), ("xxxx7ABC", "7ABC", ""), ("", None, "")],
)
def test_a_legacy_key_by_whatever_is_shown_of_it(serve, shown, tail, detail):
    pair = {"access_key_id": shown, "secret_access_key": "xxxxabcd"}
    client = client_of(serve(answering({f"/api/private/project/{ID}": {**DETAILS, "legacy_aws_keys": pair}})))
    (row,) = client.project_secrets(API, frozenset({SecretKind.LEGACY_AWS_KEY})).secrets
    assert (row.tail, row.detail, row.set) == (tail, detail, True)


# --- a token that is no good, and a route that does not take a good one -----------------------------------------------


def test_a_side_route_that_refuses_a_good_token_is_a_hole(serve):
    unauthorized = (401, {"message": "You must log in first."})
    routes = {
        "/api/v2/me": {"login": "ann"},
        f"/api/private/project/{ID}": unauthorized,
        "/api/v1.1/project/gh/acme/api/token": unauthorized,
        "/api/v2/project/gh/acme/api/envvar": page({"name": "V", "value": "xxxx1234"}),
    }
    server = serve(answering(routes))
    kinds = frozenset({SecretKind.LEGACY_AWS_KEY, SecretKind.PROJECT_TOKEN, SecretKind.PROJECT_VARIABLE})
    read = client_of(server).project_secrets(API, kinds)
    assert [item.name for item in read.variables.items] == ["V"]
    assert [(hole.what, hole.why) for hole in read.holes] == [
        ("legacy-aws-key", "HTTP401"),
        ("project-token", "HTTP401"),
    ]
    assert Counter(arrived.path for arrived in server.arrived)["/api/v2/me"] == 1


def test_a_token_that_is_no_good_ends_the_reading(serve):
    server = serve(reply('{"message":"Invalid token provided."}', 401))
    for kind in (SecretKind.LEGACY_AWS_KEY, SecretKind.PROJECT_TOKEN, SecretKind.PROJECT_VARIABLE):
        error_of(lambda kind=kind: client_of(server).project_secrets(API, frozenset({kind})), CredentialsError)


def test_an_organization_whose_id_nobody_tells_is_no_hole(serve):
    nobody = Organization(id="", slug="bb/ann", name="ann")
    for answer in ({"id": ""}, {"id": None}, (403, {"message": "Permission denied."}), (404, {"message": "no"})):
        server = serve(answering({"/api/v2/organization/bb%2Fann": answer}))
        assert client_of(server).organization_secrets(nobody, ALL).holes == ()
    server = serve(answering({"/api/v2/organization/bb%2Fann": (500, {})}))
    holes = client_of(server, attempts=1).organization_secrets(nobody, ALL).holes
    assert {(hole.what, hole.why) for hole in holes} == {("runner-token", "HTTP500"), ("oidc-claims", "HTTP500")}


# --- a server that allows 50 requests a second ------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [True, False])
def test_under_50_requests_a_second_nothing_is_lost(watch, retry_after):
    stamina.set_testing(False)
    projects = [
        states.StoredProject(
            id=number("p", item),
            slug=f"gh/acme/p{item}",
            organization="gh/acme",
            variables={"V": worlds.variable()},
            tokens=[states.ProjectToken(id=number("t", item), label="l")],
        )
        for item in range(44)
    ]
    world = kinds_world(worlds.kinds_state(*projects), requests_per_s=50, retry_after=retry_after)
    client, log = watch(world)
    began = time.monotonic()
    listed = client.projects(ACME)
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda item: client.project_secrets(item, ALL), listed.items))
    took = time.monotonic() - began
    assert listed.holes == ()
    assert not any(item.holes for item in read)
    assert [len(item.secrets) + len(item.variables.items) for item in read] == [2] * 44
    late = [answered.status for at, _, answered in log if at > began + 2]
    refused = late.count(429)
    print(
        f"Retry-After {'sent' if retry_after else 'absent'}: {len(log)} requests in {took:.1f} s; after 2 s "
        f"{refused} of {len(late)} answered 429 ({100 * refused / max(len(late), 1):.1f} %)"
    )
    assert len(late) > 50
    assert refused < 0.05 * len(late)


def test_a_context_row_is_not_this_routes_business(watch):
    """Restrictions stay where they are: `restrictions()`."""
    state = worlds.kinds_state()
    restriction = states.ContextRestriction(id="r-1", kind="project", value="p")
    state.circleci.contexts = {
        "c-1": states.Context(id="c-1", name="n", organization="gh/acme", restrictions=[restriction])
    }
    client, _ = watch(kinds_world(state))
    context = Sink(kind=SinkKind.CONTEXT, id="c-1", name="n", organization="gh/acme")
    assert [item.id for item in client.restrictions(context)] == ["r-1"]
    assert client.project_secrets(API, frozenset({SecretKind.CONTEXT_RESTRICTION})).secrets == ()
