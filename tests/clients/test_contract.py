"""A rehearsal can be believed: the twins in memory and the real clients over sockets pass the same tests."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from clients.scripted import error_of
from twins import kinds_world as kinds_world_of
from twins.kinds_world import ALL, EVERY_ROW, brief, kinds_world

from playbook import canary
from playbook.clients.aws import connect
from playbook.clients.circleci import CircleCiClient
from playbook.errors import AwsError, CircleCiError, CredentialsError, Effect
from playbook.ports import KeyStatus, Organization, Project, SecretKind, Sink, SinkKind, StoredSecrets, WorkflowStatus
from playbook.secret import Secret
from playbook.twins.circleci import CircleCiTwin
from playbook.twins.moto_server import MotoServer
from playbook.twins.server import CircleCiServer
from playbook.twins.state import (
    ALWAYS,
    Account,
    Change,
    CircleCiState,
    Context,
    ContextRestriction,
    IamUser,
    Key,
    Refusal,
    RunJob,
    RunPipeline,
    RunWorkflow,
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


# --- Pipelines, settings, removals ------------------------------------------------------------------------------------

API = kinds_world_of.port_project(kinds_world_of.rich_project())
PLAIN = Project(
    id=kinds_world_of.number("gh/acme/plain"), slug="gh/acme/plain", organization="gh/acme", known_by=("private",)
)
GONE = replace(PLAIN, id=kinds_world_of.number("nowhere"), slug="gh/acme/nowhere")
KEY = "AKIACONTRACTCONTRAC7"
LONG_AGO = kinds_world_of.day(1000)
VAULT = Sink(kind=SinkKind.CONTEXT, id=kinds_world_of.number("vault"), name="vault", organization="gh/acme")


def running_state(**more):
    """The world of every kind, with an AWS account, a context that holds its key, and a workflow that is recorded."""
    state = kinds_world_of.kinds_state(**more)
    state.circleci.organizations["gh/acme"].inline_config = True
    state.circleci.projects["gh/acme/api"].inline_config = True
    state.circleci.projects["gh/acme/api"].default_branch = "trunk"
    state.accounts[ACCOUNT] = Account(
        id=ACCOUNT,
        operator_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me",
        users={"ci": IamUser(name="ci", arn=f"arn:aws:iam::{ACCOUNT}:user/ci", created_at=LONG_AGO)},
        keys={KEY: Key(id=KEY, user="ci", created_at=LONG_AGO, changes=[Change(at=ALWAYS, status=KeyStatus.ACTIVE)])},
    )
    state.circleci.contexts[VAULT.id] = Context(
        id=VAULT.id,
        name="vault",
        organization="gh/acme",
        created_at=LONG_AGO,
        variables={"KEY_ID": Variable(value=Value.opaque(KEY)), "KEY_SECRET": Variable(value=Value(tail="abcd"))},
    )
    number = kinds_world_of.number
    done = RunJob(
        id=number("job"),
        name="deploy",
        number=41,
        contexts=("vault",),
        status="failed",
        started_at=START,
        stopped_at=START,
    )
    held = RunJob(id=number("held"), name="ask", status="on_hold")
    endless = RunJob(id=number("endless"), name="soak", number=42, started_at=START)
    flows = [
        RunWorkflow(id=number(name), name=name, created_at=START, jobs=jobs)
        for name, jobs in (("build", [done]), ("ask", [held]), ("soak", [endless]))
    ]
    state.circleci.pipelines[number("pipe")] = RunPipeline(
        id=number("pipe"), project="gh/acme/api", number=7, created_at=START, workflows=flows
    )
    return state


def the_canary(circleci, *contexts):
    (definition, *_) = circleci.pipeline_definitions(API)
    config = canary.with_keys(contexts, "KEY_ID", "KEY_SECRET", "us-east-1")
    return circleci.run_inline(API, definition, circleci.default_branch(API), config)


NOW = {"job_s": 0, "results_lag_s": 0}


def test_the_canary_says_who_it_is(open_kinds):
    circleci = open_kinds(running_state(), **NOW)
    made = the_canary(circleci, "vault")
    assert (made.project, made.number, made.errors) == ("gh/acme/api", 8, ())
    assert [item.id for item in circleci.pipelines("gh/acme/api", LONG_AGO)] == [made.id, kinds_world_of.number("pipe")]
    assert circleci.pipelines("gh/acme/api", kinds_world_of.day(-9)) == ()
    assert circleci.pipeline(made.id).number == 8
    (workflow,) = circleci.workflows(made.id)
    assert (workflow.name, workflow.status, workflow.pipeline) == (canary.WORKFLOW, WorkflowStatus.SUCCESS, made.id)
    (job,) = circleci.jobs(workflow.id)
    assert (job.name, job.status, job.number) == (canary.JOB, "success", 43)
    assert job.started_at <= job.stopped_at
    said = canary.read_report(circleci.test_results("gh/acme/api", job.number))
    assert said == canary.CanaryReport(account=ACCOUNT, arn=f"arn:aws:iam::{ACCOUNT}:user/ci", tail=KEY[-4:])


def test_a_canary_under_way(open_kinds):
    circleci = open_kinds(running_state(), job_s=3600)
    made = the_canary(circleci, "vault")
    (workflow,) = circleci.workflows(made.id)
    assert (workflow.status, workflow.stopped_at) == (WorkflowStatus.RUNNING, None)
    (job,) = circleci.jobs(workflow.id)
    assert (job.status, job.stopped_at) == ("running", None)
    assert circleci.test_results("gh/acme/api", job.number) == ()
    circleci.cancel_workflow(workflow.id)
    circleci.cancel_workflow(workflow.id)
    (workflow,) = circleci.workflows(made.id)
    assert workflow.status is WorkflowStatus.CANCELED
    assert circleci.jobs(workflow.id)[0].status == "canceled"


def test_a_context_that_does_not_take_our_config(open_kinds):
    circleci = open_kinds(running_state(), **NOW)
    circleci.create_restriction(VAULT, "project", API.id)
    (workflow,) = circleci.workflows(the_canary(circleci, "vault").id)
    assert workflow.status is WorkflowStatus.UNAUTHORIZED
    assert [(job.status, job.number, job.started_at) for job in circleci.jobs(workflow.id)] == [
        ("unauthorized", None, None)
    ]


def test_a_config_that_is_none(open_kinds):
    circleci = open_kinds(running_state())
    made = circleci.run_inline(API, circleci.pipeline_definitions(API)[0], "main", "a: [")
    assert circleci.pipeline(made.id).errors == ("Unable to parse YAML",)
    assert circleci.workflows(made.id) == ()


@pytest.mark.parametrize("place", ["organization", "project"])
def test_where_our_config_is_not_allowed(open_kinds, place):
    state = running_state()
    holder = state.circleci.organizations["gh/acme"] if place == "organization" else state.circleci.projects[API.slug]
    holder.inline_config = False
    circleci = open_kinds(state)
    assert circleci.inline_config_allowed(API) is False
    error = error_of(lambda: the_canary(circleci, "vault"), CircleCiError)
    assert (error.code, error.effect) == ("InlineConfigForbidden", Effect.NONE)
    assert len(circleci.pipelines(API.slug, LONG_AGO)) == 1


def test_settings_that_are_told(open_kinds):
    state = running_state()
    state.circleci.projects["gh/acme/api"].forks_receive_secrets = True
    circleci = open_kinds(state)
    assert circleci.inline_config_allowed(API) is True
    assert circleci.default_branch(API) == "trunk"
    assert circleci.forks_receive_secrets(API) is True
    assert circleci.forks_receive_secrets(PLAIN) is False
    assert [item.name for item in circleci.pipeline_definitions(API)] == ["build"]
    assert circleci.pipeline_definitions(PLAIN) == ()


@pytest.mark.parametrize("place", ["organization", "project"])
def test_settings_that_nobody_tells(open_kinds, place):
    state = running_state()
    holder = state.circleci.organizations["gh/acme"] if place == "organization" else state.circleci.projects[API.slug]
    holder.inline_config = None
    assert open_kinds(state).inline_config_allowed(API) is None


def test_the_block(open_kinds):
    circleci = open_kinds(running_state())
    acme = kinds_world_of.ACME
    assert circleci.running_disabled(acme) is False
    for _ in range(2):
        circleci.set_running_disabled(acme, disabled=True)
    assert circleci.running_disabled(acme) is True
    build = kinds_world_of.number("build")
    for call in (
        lambda: the_canary(circleci, "vault"),
        lambda: circleci.rerun_workflow(build, from_failed=False),
    ):
        error = error_of(call, CircleCiError)
        assert (error.status, error.effect) == (409, Effect.NONE)
    circleci.set_running_disabled(acme, disabled=False)
    assert circleci.running_disabled(acme) is False


def test_a_host_without_the_block(open_kinds):
    circleci = open_kinds(running_state(), v3_settings=False)
    assert circleci.running_disabled(kinds_world_of.ACME) is None
    error = error_of(lambda: circleci.set_running_disabled(kinds_world_of.ACME, disabled=True), CircleCiError)
    assert (error.code, error.effect) == ("NotAvailable", Effect.NONE)


def test_recorded_workflows_and_reruns(open_kinds):
    circleci = open_kinds(running_state(), **NOW)
    number = kinds_world_of.number
    seen = {item.name: item for item in circleci.workflows(number("pipe"))}
    assert {name: item.status for name, item in seen.items()} == {
        "build": WorkflowStatus.FAILED,
        "ask": WorkflowStatus.ON_HOLD,
        "soak": WorkflowStatus.RUNNING,
    }
    assert seen["build"].stopped_at == START
    (job,) = circleci.jobs(number("build"))
    assert (job.started_at, job.stopped_at, job.number) == (START, START, 41)
    again = circleci.rerun_workflow(number("build"), from_failed=True)
    assert next(item.status for item in circleci.workflows(number("pipe")) if item.id == again) == "success"
    error = error_of(lambda: circleci.rerun_workflow(again, from_failed=True), CircleCiError)
    assert (error.status, error.effect) == (400, Effect.NONE)
    circleci.cancel_workflow(number("soak"))
    assert circleci.jobs(number("soak"))[0].status == "canceled"


def test_what_no_pipeline_project_or_workflow_is(open_kinds):
    circleci = open_kinds(running_state())
    nowhere = kinds_world_of.number("nothing")
    for call in (
        lambda: circleci.pipeline(nowhere),
        lambda: circleci.workflows(nowhere),
        lambda: circleci.jobs(nowhere),
        lambda: circleci.pipelines(GONE.slug, LONG_AGO),
        lambda: circleci.pipeline_definitions(GONE),
        lambda: circleci.default_branch(GONE),
        lambda: circleci.forks_receive_secrets(GONE),
        lambda: circleci.test_results(API.slug, 999),
        lambda: circleci.rerun_workflow(nowhere, from_failed=False),
        lambda: circleci.cancel_workflow(nowhere),
    ):
        error = error_of(call, CircleCiError)
        assert (error.code, error.status, error.effect) == ("HTTP404", 404, Effect.NONE)


def test_many_pipelines_over_several_pages(open_kinds):
    state = running_state()
    for count in range(45):
        number = kinds_world_of.number("many", count)
        made = kinds_world_of.START + timedelta(minutes=count)
        state.circleci.pipelines[number] = RunPipeline(
            id=number, project="gh/acme/api", number=100 + count, created_at=made
        )
    circleci = open_kinds(state)
    assert len(circleci.pipelines(API.slug, LONG_AGO)) == 46
    since = kinds_world_of.START + timedelta(minutes=10)
    assert [item.number for item in circleci.pipelines(API.slug, since)] == list(range(144, 109, -1))


def test_a_context_from_its_restrictions_to_its_end(open_kinds):
    circleci = open_kinds(running_state())
    made = circleci.create_restriction(VAULT, "project", API.id)
    assert circleci.create_restriction(VAULT, "project", API.id) == made
    assert circleci.restrictions(VAULT) == (made,)
    for _ in range(2):
        circleci.delete_restriction(VAULT, made.id)
    assert circleci.restrictions(VAULT) == ()
    error = error_of(lambda: circleci.create_restriction(VAULT, "moon", "full"), CircleCiError)
    assert (error.status, error.effect) == (400, Effect.NONE)
    for _ in range(2):
        circleci.delete_context(VAULT)
    assert VAULT not in circleci.contexts(kinds_world_of.ACME)
    error = error_of(lambda: circleci.create_restriction(VAULT, "project", API.id), CircleCiError)
    assert (error.status, error.effect) == (403, Effect.NONE)


def rows_of(circleci, kind):
    if kind is SecretKind.RUNNER_TOKEN:
        return circleci.organization_secrets(kinds_world_of.ACME, frozenset({kind})).secrets
    return circleci.project_secrets(API, frozenset({kind})).secrets


@pytest.mark.parametrize(
    ("kind", "delete"),
    [
        (SecretKind.CHECKOUT_KEY, lambda circleci, row: circleci.delete_checkout_key(API, row.id)),
        (SecretKind.SSH_KEY, lambda circleci, row: circleci.delete_ssh_key(API, row.name, row.id)),
        (SecretKind.PROJECT_TOKEN, lambda circleci, row: circleci.delete_project_token(API, row.id)),
        (SecretKind.RUNNER_TOKEN, lambda circleci, row: circleci.delete_runner_token(row.id)),
    ],
)
def test_removing_every_row_of_a_kind_twice(open_kinds, kind, delete):
    circleci = open_kinds()
    rows = rows_of(circleci, kind)
    assert rows
    while rows:
        for _ in range(2):
            delete(circleci, rows[0])
        left = rows_of(circleci, kind)
        assert brief(left) == brief(rows[1:])
        rows = left


@pytest.mark.parametrize(("kind", "detail"), [("deploy-key", "deploy-key"), ("user-key", "github-user-key")])
def test_a_new_checkout_key(open_kinds, kind, detail):
    circleci = open_kinds()
    made = circleci.create_checkout_key(API, kind)
    assert (made.kind, made.place, made.detail, made.set) == (SecretKind.CHECKOUT_KEY, API.slug, detail, True)
    assert made in rows_of(circleci, SecretKind.CHECKOUT_KEY)
    error = error_of(lambda: circleci.create_checkout_key(API, "moon-key"), CircleCiError)
    assert (error.status, error.effect) == (400, Effect.NONE)


@pytest.mark.parametrize("hyphened", [False, True])
def test_a_webhook_gets_a_secret_in_either_spelling(open_kinds, hyphened):
    circleci = open_kinds(hyphened_webhook_keys=hyphened, snake_case_keys=not hyphened)
    bare = next(row for row in rows_of(circleci, SecretKind.WEBHOOK_SECRET) if row.name == "bare")
    assert not bare.set
    circleci.set_webhook_secret(bare.id, Secret("a-new-signing-secret"))
    after = next(row for row in rows_of(circleci, SecretKind.WEBHOOK_SECRET) if row.name == "bare")
    assert after.set
    assert after.updated_at > bare.updated_at
    nowhere = kinds_world_of.number("no webhook")
    assert error_of(lambda: circleci.set_webhook_secret(nowhere, Secret("x")), CircleCiError).status == 404


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
