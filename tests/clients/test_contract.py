"""A rehearsal can be believed: the twins in memory and the real clients over sockets pass the same tests."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from clients.scripted import error_of
from twins import kinds_world as kinds_world_of
from twins.kinds_world import ALL, EVERY_ROW, brief, kinds_world

from playbook.clients.aws import connect
from playbook.clients.circleci import CircleCiClient
from playbook.errors import AwsError, CircleCiError, CredentialsError, Effect
from playbook.ports import KeyStatus, Organization, SecretKind, Sink, SinkKind, StoredSecrets
from playbook.secret import Secret
from playbook.twins.circleci import CircleCiTwin
from playbook.twins.moto_server import MotoServer
from playbook.twins.server import CircleCiServer
from playbook.twins.state import (
    Account,
    CircleCiState,
    Context,
    ContextRestriction,
    IamUser,
    Refusal,
    State,
    StoredOrganization,
    StoredProject,
    Value,
    Variable,
)
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ACME = Organization(id="0a0a0a0a-0000-4000-8000-000000000001", slug="gh/acme", name="acme")
ANN = Organization(id="", slug="gh/ann", name="ann")
ACCOUNT = "123456789012"
DEPLOY = Sink(kind=SinkKind.CONTEXT, id="c0000000-0000-4000-8000-000000000001", name="deploy", organization="gh/acme")
SHOP = Sink(kind=SinkKind.PROJECT, id="gh/acme/shop", name="gh/acme/shop", organization="gh/acme")
NO_LAG = {"tail_lag_s": 0, "sts_lag_s": 0, "off_lag_s": 0, "list_lag_s": 0, "trail_lag_s": 0}

pytestmark = pytest.mark.usefixtures("no_backoff")


def variable(text):
    return Variable(value=Value.of(Secret(text)), created_at=START, updated_at=START)


def project(number, slug, **more):
    return StoredProject(id=f"b0000000-0000-4000-8000-00000000000{number}", slug=slug, organization="gh/acme", **more)


def world_of(**switches):
    contexts = [
        Context(
            id=DEPLOY.id,
            name="deploy",
            organization="gh/acme",
            variables={"A": variable("abcdefgh"), "B": variable("1"), "C": variable("123456")},
            restrictions=[ContextRestriction(id="r-1", kind="project", value="p")],
        ),
        *(Context(id=f"c-{number}", name=f"n{number:02}", organization="gh/acme") for number in range(45)),
    ]
    projects = [
        project(1, "gh/acme/shop", variables={"A": variable("abcdefgh"), "B": variable("1")}),
        project(2, "gh/acme/site", known_by=("private", "v3")),
        project(3, "gh/acme/gone", known_by=("private",), deleted=True, variables={"OLD": variable("12345678")}),
    ]
    organizations = [
        StoredOrganization(id=ACME.id, slug="gh/acme", name="acme"),
        StoredOrganization(id="", slug="gh/ann", name="ann"),
    ]
    circleci = CircleCiState(
        login="ann",
        organizations={item.slug: item for item in organizations},
        contexts={item.id: item for item in contexts},
        projects={item.slug: item for item in projects},
    )
    return TwinWorld(
        State(now=START, circleci=circleci),
        switches=Switches(**{**NO_LAG, **switches}),
        rng=random.Random(3),
        flowing=True,
    )


@pytest.fixture(params=["twin", "client"])
def open_circleci(request):
    """A factory: the port of a world, in memory or through a socket."""
    opened = []

    def start(**switches):
        world = world_of(**switches)
        if request.param == "twin":
            return world.circleci
        server = CircleCiServer(world, Secret("the-token"))
        server.start()
        client = CircleCiClient(host=server.url, token=Secret("the-token"))
        opened.extend((client.close, server.stop))
        return client

    yield start
    for close in opened:
        close()


def test_who_and_where(open_circleci):
    circleci = open_circleci()
    assert circleci.login() == "ann"
    assert circleci.organizations() == (ACME, ANN)


def test_every_context_over_several_pages(open_circleci):
    found = open_circleci().contexts(ACME)
    assert len(found) == 46
    assert DEPLOY in found


@pytest.mark.parametrize("switches", [{}, {"private_pages_loop": True}, {"v3_lists_projects": False}])
def test_every_project(open_circleci, switches):
    found = open_circleci(**switches).projects(ACME)
    assert found.holes == ()
    assert [(item.slug, item.deleted) for item in found.items] == [
        ("gh/acme/gone", True),
        ("gh/acme/shop", False),
        ("gh/acme/site", False),
    ]
    assert "private" in found.items[1].known_by


def test_tails(open_circleci):
    circleci = open_circleci()
    found = circleci.variables(DEPLOY)
    assert {item.name: item.tail for item in found.items} == {"A": "efgh", "B": "", "C": "456"}
    assert found.complete
    assert found.find("A").updated_at == START
    found = circleci.variables(SHOP)
    assert {item.name: item.tail for item in found.items} == {"A": "efgh", "B": ""}
    assert found.find("A").updated_at is None


@pytest.mark.parametrize("snake", [True, False])
def test_a_projects_times_in_both_spellings(open_circleci, snake):
    assert open_circleci(snake_case_times=snake).variables(SHOP).find("A").created_at == START


@pytest.mark.parametrize("sink", [DEPLOY, SHOP])
def test_writing_overwriting_and_deleting(open_circleci, sink):
    circleci = open_circleci()
    for text in ("first-value", "second-valye"):
        circleci.put_variable(sink, "NEW", Secret(text))
        assert circleci.variables(sink).find("NEW").tail == text[-4:]
    circleci.delete_variable(sink, "NEW")
    circleci.delete_variable(sink, "NEW")
    assert circleci.variables(sink).find("NEW") is None


def test_a_write_moves_the_time_even_of_the_same_value(open_circleci):
    circleci = open_circleci()
    circleci.put_variable(DEPLOY, "A", Secret("abcdefgh"))
    found = circleci.variables(DEPLOY).find("A")
    assert found.tail == "efgh"
    assert found.created_at == START
    assert found.updated_at > START


def test_a_missing_context_is_a_403_and_a_missing_project_a_404(open_circleci):
    circleci = open_circleci()
    nowhere = Sink(kind=SinkKind.CONTEXT, id="c-none", name="x", organization="gh/acme")
    for call in (
        lambda: circleci.variables(nowhere),
        lambda: circleci.put_variable(nowhere, "A", Secret("v")),
        lambda: circleci.delete_variable(nowhere, "A"),
        lambda: circleci.restrictions(nowhere),
    ):
        error = error_of(call, CircleCiError)
        assert (error.status, error.effect, error.code) == (403, Effect.NONE, "HTTP403")
    missing = Sink(kind=SinkKind.PROJECT, id="gh/acme/none", name="x", organization="gh/acme")
    assert error_of(lambda: circleci.variables(missing), CircleCiError).status == 404


def test_the_hundredth_variable_is_the_last_that_shows(open_circleci):
    for v3 in (False, True):
        circleci = open_circleci(variables_per_context=200, v3_variables=v3)
        for number in range(103):
            circleci.put_variable(DEPLOY, f"V{number:03}", Secret("some-value"))
        found = circleci.variables(DEPLOY)
        assert (found.complete, len(found.items)) == ((True, 106) if v3 else (False, 100))


def test_the_cap_refuses_a_new_name_and_takes_a_known_one(open_circleci):
    circleci = open_circleci(variables_per_context=3)
    error = error_of(lambda: circleci.put_variable(DEPLOY, "NEW", Secret("v")), CircleCiError)
    assert (error.status, error.effect) == (400, Effect.NONE)
    circleci.put_variable(DEPLOY, "A", Secret("v"))


def test_a_deleted_projects_variables_are_read(open_circleci):
    circleci = open_circleci()
    circleci.projects(ACME)
    gone = Sink(kind=SinkKind.PROJECT, id="gh/acme/gone", name="gh/acme/gone", organization="gh/acme")
    assert circleci.variables(gone).find("OLD").tail == "5678"
    assert error_of(lambda: circleci.put_variable(gone, "OLD", Secret("v")), CircleCiError).status == 404


def test_restrictions(open_circleci):
    (found,) = open_circleci().restrictions(DEPLOY)
    assert (found.id, found.kind, found.value) == ("r-1", "project", "p")


@pytest.mark.parametrize("status", [200, 201])
def test_a_new_context_and_its_namesake(open_circleci, status):
    circleci = open_circleci(create_context_status=status)
    made = circleci.create_context(ACME, "aws-oidc")
    assert made in circleci.contexts(ACME)
    error = error_of(lambda: circleci.create_context(ACME, "aws-oidc"), CircleCiError)
    assert (error.status, error.effect) == (409, Effect.NONE)


def test_a_wrong_token():
    world = world_of()
    world.state.circleci.token_sha256 = Secret("the-token").digest()
    error_of(lambda: CircleCiTwin(world, Secret("another")).login(), CredentialsError)
    with (
        CircleCiServer(world, Secret("the-token")) as server,
        CircleCiClient(host=server.url, token=Secret("another")) as client,
    ):
        error_of(client.login, CredentialsError)


# --- Every kind of secret ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["twin", "client"])
def open_kinds(request):
    """A factory: the port of a world with every kind of secret, in memory or through a socket."""
    opened = []

    def start(state=None, **switches):
        world = kinds_world(state, **switches)
        if request.param == "twin":
            return world.circleci
        server = CircleCiServer(world, Secret("the-token"))
        server.start()
        client = CircleCiClient(host=server.url, token=Secret("the-token"))
        opened.extend((client.close, server.stop))
        return client

    yield start
    for close in opened:
        close()


def everything(circleci, kinds=ALL):
    """What a whole inventory reads."""
    projects = circleci.projects(kinds_world_of.ACME)
    read = {item.slug: circleci.project_secrets(item, kinds) for item in projects.items}
    of_organization = circleci.organization_secrets(kinds_world_of.ACME, kinds)
    rows = [row for found in (*read.values(), of_organization) for row in found.secrets]
    holes = [hole for found in (*read.values(), of_organization, projects) for hole in found.holes]
    variables = {(slug, item.name): item for slug, found in read.items() for item in found.variables.items}
    return rows, holes, variables


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"snake_case_keys": False, "snake_case_times": False},
        {"private_pages_loop": True, "v3_lists_projects": False},
    ],
)
def test_no_row_is_missing_and_none_invented(open_kinds, switches):
    rows, holes, variables = everything(open_kinds(**switches))
    assert brief(rows) == EVERY_ROW
    assert holes == []
    assert {key: item.tail for key, item in variables.items()} == {
        ("gh/acme/api", "AWS_ACCESS_KEY_ID"): "WXYZ",
        ("gh/acme/api", "NPM_TOKEN"): "",
        ("gh/acme/gone", "OLD"): "5678",
    }
    assert variables["gh/acme/api", "NPM_TOKEN"].created_at == kinds_world_of.day(9)
    assert variables["gh/acme/gone", "OLD"].created_at is None, "the private route shows no dates"
    by_name = {row.name: row for row in rows}
    assert by_name["badge"].created_at == kinds_world_of.day(300)
    assert by_name["signed"].updated_at == kinds_world_of.day(8)
    assert by_name["rack-1"].created_at == kinds_world_of.day(90)
    assert by_name["AWS permissions"].tail == "LEG7"
    assert {row.updated_at for row in rows if row.kind is SecretKind.OIDC_CLAIMS} == {
        kinds_world_of.day(4),
        kinds_world_of.day(5),
    }


@pytest.mark.parametrize("kind", sorted(ALL))
def test_one_kind_alone(open_kinds, kind):
    rows, holes, variables = everything(open_kinds(), frozenset({kind}))
    assert brief(rows) == [row for row in EVERY_ROW if row[0] == kind]
    assert holes == []
    assert len(variables) == (3 if kind is SecretKind.PROJECT_VARIABLE else 0)


def test_a_host_without_the_private_details(open_kinds):
    """The documented routes stand in; legacy keys, and deleted projects, are then out of sight."""
    rows, holes, variables = everything(open_kinds(private_details=False))
    hidden = ("legacy-aws-key", "gh/acme/gone")
    assert brief(rows) == [row for row in EVERY_ROW if not {row[0], row[1]} & set(hidden)]
    assert ("gh/acme/gone", "OLD") not in variables
    assert {(hole.what, hole.where, hole.why) for hole in holes} == {
        ("legacy-aws-key", "gh/acme/api", "HTTP404"),
        ("legacy-aws-key", "gh/acme/plain", "HTTP404"),
        *((kind, "gh/acme/gone", "HTTP404") for kind in ("checkout-key", "legacy-aws-key", "project-variable")),
        ("ssh-key", "gh/acme/gone", "HTTP404"),
    }


REFUSED = {
    "project_tokens:gh/acme/api": ("project-token", "gh/acme/api"),
    "webhooks:gh/acme/api": ("webhook-secret", "gh/acme/api"),
    "pipeline_definitions:gh/acme/api": ("trigger-url", "gh/acme/api"),
    "oidc_claims:gh/acme/api": ("oidc-claims", "gh/acme/api"),
    "oidc_claims:gh/acme": ("oidc-claims", "gh/acme"),
    "runner_classes:gh/acme": ("runner-token", "gh/acme"),
    "runner_tokens:acme/linux": ("runner-token", "acme/linux"),
    "variables:gh/acme/api": ("project-variable", "gh/acme/api"),
    "project_details:gh/acme/api": ("legacy-aws-key", "gh/acme/api"),
}


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("status", [403, 404])
def test_what_is_refused_is_a_hole_and_stops_nothing(open_kinds, refused, status):
    state = kinds_world_of.kinds_state(refusals={refused: Refusal(code=f"HTTP{status}", status=status)})
    rows, holes, variables = everything(open_kinds(state))
    kind, place = REFUSED[refused]
    gone = (refused, status) == ("runner_tokens:acme/linux", 404)
    read_all_the_same = (refused, status) == ("variables:gh/acme/api", 404)
    expected = [] if gone or read_all_the_same else [(kind, place, f"HTTP{status}")]
    assert [(hole.what, hole.where, hole.why) for hole in holes] == expected
    lost = {"project-variable": 0, "webhook-secret": 2}.get(kind, 1)
    assert len(rows) == len(EVERY_ROW) - lost
    assert len(variables) == 3, "the private route knows their names and tails"


def test_an_organization_without_an_id_has_no_holes(open_kinds):
    circleci = open_kinds()
    assert circleci.organization_secrets(kinds_world_of.NO_ID, ALL) == StoredSecrets()


def test_standalone_projects_have_no_checkout_keys_and_that_is_no_hole(open_kinds):
    owner = kinds_world_of.number("standalone")
    slug = f"circleci/{owner}/{kinds_world_of.number('project')}"
    stored = StoredProject(id=slug.rpartition("/")[2], slug=slug, organization="gh/acme")
    circleci = open_kinds(kinds_world_of.kinds_state(stored))
    read = circleci.project_secrets(kinds_world_of.port_project(stored), ALL)
    assert (read.secrets, read.holes, read.variables.items) == ((), (), ())


# --- AWS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["twin", "client"])
def open_aws(request, monkeypatch):
    """A factory: an account with one user, `ci`, and how to ask whose a key is."""
    if request.param == "twin":
        user = IamUser(name="ci", arn=f"arn:aws:iam::{ACCOUNT}:user/ci", created_at=START)
        operator = f"arn:aws:iam::{ACCOUNT}:user/incident-responder"
        account = Account(id=ACCOUNT, operator_arn=operator, own_key_id="AKIAOPERATOROPERATOR", users={"ci": user})
        world = TwinWorld(
            State(now=START, accounts={ACCOUNT: account}),
            switches=Switches(**NO_LAG),
            rng=random.Random(3),
            flowing=True,
        )
        platforms = world.platforms()
        yield platforms.aws[ACCOUNT], platforms.identify
        return
    with MotoServer() as server:
        for name, value in server.environment(server.operator(ACCOUNT)).items():
            monkeypatch.setenv(name, value)
        server.add_user(ACCOUNT, "ci")
        accounts = connect(case_id="c")
        yield accounts.accounts[ACCOUNT], accounts.identify
        accounts.close()


def test_who_we_are(open_aws):
    aws, _ = open_aws
    assert aws.account == ACCOUNT
    assert aws.identity().arn == f"arn:aws:iam::{ACCOUNT}:user/incident-responder"
    assert aws.own_key_id().startswith("AKIA")
    assert "ci" in {user.name for user in aws.users()}


def test_a_key_from_the_cradle_to_the_grave(open_aws):
    aws, identify = open_aws
    before = aws.access_keys("ci")
    assert before.keys == ()
    made = aws.create_access_key("ci", tag="case/7")
    (listed,) = aws.access_keys("ci").keys
    assert (listed.id, listed.status, listed.user) == (made.key_id, KeyStatus.ACTIVE, "ci")
    assert listed.created_at >= before.server_time - timedelta(seconds=1)
    identity = identify(made)
    assert (identity.account, identity.arn) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/ci")
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert identify(made) is None
    assert aws.access_keys("ci").find(made.key_id).status is KeyStatus.INACTIVE
    aws.set_key_status("ci", made.key_id, KeyStatus.ACTIVE)
    assert identify(made) == identity
    aws.delete_access_key("ci", made.key_id)
    assert aws.access_keys("ci").keys == ()
    assert identify(made) is None
    error = error_of(lambda: aws.delete_access_key("ci", made.key_id), AwsError)
    assert (error.code, error.effect) == ("NoSuchEntity", Effect.NONE)


def test_the_quota_counts_inactive_keys(open_aws):
    aws, _ = open_aws
    first = aws.create_access_key("ci", tag="t/1")
    aws.set_key_status("ci", first.key_id, KeyStatus.INACTIVE)
    aws.create_access_key("ci", tag="t/2")
    error = error_of(lambda: aws.create_access_key("ci", tag="t/3"), AwsError)
    assert (error.code, error.effect) == ("LimitExceeded", Effect.NONE)
    assert aws.summary()["AccessKeysPerUserQuota"] == 2


def test_a_missing_user(open_aws):
    aws, _ = open_aws
    for call in (lambda: aws.access_keys("nobody"), lambda: aws.create_access_key("nobody", tag="t/1")):
        error = error_of(call, AwsError)
        assert (error.code, error.effect) == ("NoSuchEntity", Effect.NONE)


def test_the_trail_names_the_tag_as_a_word(open_aws):
    aws, _ = open_aws
    since = aws.access_keys("ci").server_time
    made = aws.create_access_key("ci", tag="case/17")
    (event,) = aws.key_creations("ci", since)
    assert event.key_id == made.key_id
    assert "case/17" in event.user_agent.split()
    assert "case/1" not in event.user_agent.split()


def test_last_use(open_aws):
    aws, identify = open_aws
    made = aws.create_access_key("ci", tag="t/1")
    assert aws.last_used(made.key_id).at is None
    identify(made)
    used = aws.last_used(made.key_id)
    assert used.at is not None
    assert used.service == "sts"


def test_permissions(open_aws):
    aws, _ = open_aws
    asked = ["iam:CreateAccessKey", "iam:ListUsers"]
    assert aws.simulate(asked) == dict.fromkeys(asked, True)
