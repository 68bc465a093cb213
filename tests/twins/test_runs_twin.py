"""Pipelines on the twin: our canary says what the real job would, time ends jobs, and a block stops new ones."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins.small_worlds import (
    ACCOUNT,
    MADE,
    NO_LAG,
    OLD_KEY,
    ORGANIZATION,
    OTHER_KEY,
    PAIR,
    START,
    context,
    small_state,
    small_world,
)

from playbook import canary
from playbook.errors import CircleCiError, Effect
from playbook.ports import Identity, KeyStatus, PipelineDefinition, Project, WorkflowStatus
from playbook.secret import Secret
from playbook.twins.state import (
    Claims,
    ContextRestriction,
    Refusal,
    RunJob,
    RunPipeline,
    RunWorkflow,
    Signing,
)
from playbook.twins.world import Faults, TwinWorld

API = Project(id="id-api", slug="gh/acme/api", organization="gh/acme", known_by=("private",))
WEB = Project(id="id-web", slug="gh/acme/web", organization="gh/acme", known_by=("private",))
BUILD = PipelineDefinition(id="definition-api", name="build")
BUILD_WEB = PipelineDefinition(id="definition-web", name="build")
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci"
SESSION = Identity(account=ACCOUNT, arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/rotation-playbook-canary")


def keys(*contexts):
    return canary.with_keys(contexts, *PAIR, "us-east-1")


def role(*contexts):
    return canary.with_role(contexts, ROLE, "us-east-1")


def refusal_of(call):
    with pytest.raises(CircleCiError) as caught:
        call()
    assert caught.value.effect is Effect.NONE
    return caught.value


def outcome(world, config, project=API, definition=BUILD):
    """Run a config and wait for its end: the workflow, its one job, and what the canary said."""
    circleci = world.circleci
    made = circleci.run_inline(project, definition, "main", config)
    (workflow,) = circleci.workflows(made.id)
    if workflow.status is not WorkflowStatus.UNAUTHORIZED:
        assert workflow.status is WorkflowStatus.RUNNING
        world.clock.sleep(world.switches.job_s + world.switches.results_lag_s)
        (workflow,) = circleci.workflows(made.id)
    (job,) = circleci.jobs(workflow.id)
    tests = circleci.test_results(project.slug, job.number) if job.number is not None else ()
    return workflow, job, canary.read_report(tests)


# --- What the canary says ---------------------------------------------------------------------------------------------


def test_the_canary_says_whose_key_the_context_holds_even_an_opaque_one():
    world = small_world()
    workflow, job, said = outcome(world, keys("aws"))
    assert (workflow.status, job.status, workflow.name) == (WorkflowStatus.SUCCESS, "success", canary.WORKFLOW)
    assert said == canary.CanaryReport(account=ACCOUNT, arn=f"arn:aws:iam::{ACCOUNT}:user/ci", tail=OLD_KEY[-4:])
    assert world.aws[ACCOUNT].last_used(OLD_KEY).at is not None, "a job leaves its trace"


def test_the_later_context_wins_and_the_project_loses_to_both():
    world = small_world()
    assert outcome(world, keys())[2].account == ACCOUNT
    assert outcome(world, keys("aws", "staging"))[2].tail == OTHER_KEY[-4:]
    assert outcome(world, keys("staging", "aws"))[2].tail == OLD_KEY[-4:]


def rotated(world, sink):
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    world.circleci.put_variable(sink, PAIR[0], Secret(made.key_id))
    world.circleci.put_variable(sink, PAIR[1], made.secret)
    return made.key_id


def test_a_new_pair_is_what_the_canary_sees():
    world = small_world()
    key = rotated(world, context(world))
    assert outcome(world, keys("aws"))[2].tail == key[-4:]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda world: world.foreign_set_status(ACCOUNT, OLD_KEY, KeyStatus.INACTIVE), "InvalidClientTokenId"),
        (lambda world: world.foreign_set_status(ACCOUNT, OLD_KEY, None), "InvalidClientTokenId"),
        (lambda world: world.foreign_put(context(world), PAIR[0], "AKIA" + "Q" * 16), "InvalidClientTokenId"),
        (lambda world: world.foreign_put(context(world), PAIR[1], "another secret"), "SignatureDoesNotMatch"),
        (lambda world: world.state.circleci.projects["gh/acme/web"].variables.clear(), "unknown"),
    ],
)
def test_a_canary_that_cannot_sign_says_why_and_nothing_else(spoil, code):
    world = small_world()
    spoil(world)
    config, project, definition = (keys("aws"), API, BUILD) if code != "unknown" else (keys("empty"), WEB, BUILD_WEB)
    workflow, job, said = outcome(world, config, project, definition)
    assert (workflow.status, job.status) == (WorkflowStatus.FAILED, "failed")
    assert said == canary.CanaryReport(failure=code)


def test_a_key_that_has_not_spread_yet_fails_the_canary():
    world = small_world(replace(NO_LAG, sts_lag_s=30))
    rotated(world, context(world))
    assert outcome(world, keys("aws"))[2].failure == "InvalidClientTokenId"
    world.clock.sleep(30)
    assert outcome(world, keys("aws"))[2].failure == ""


def test_what_a_job_signs_with_is_decided_when_it_starts():
    world = small_world()
    made = world.circleci.run_inline(API, BUILD, "main", keys("aws"))
    world.foreign_set_status(ACCOUNT, OLD_KEY, KeyStatus.INACTIVE)
    world.clock.sleep(30)
    assert world.circleci.workflows(made.id)[0].status is WorkflowStatus.SUCCESS


# --- Restrictions and settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restriction", "admitted"),
    [
        (("project", "id-api"), False),
        (("project", "id-web"), False),
        (("expression", 'pipeline.git.branch == "main"'), False),
        (("group", "some-group"), False),
        (("group", ORGANIZATION.id), True),
    ],
)
def test_a_restricted_context_takes_no_config_of_ours(restriction, admitted):
    world = small_world()
    kind, value = restriction
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r", kind=kind, value=value)]
    workflow, job, said = outcome(world, keys("aws"))
    if admitted:
        assert workflow.status is WorkflowStatus.SUCCESS
    else:
        assert (workflow.status, job.status, job.number) == (WorkflowStatus.UNAUTHORIZED, "unauthorized", None)
        assert workflow.stopped_at == workflow.created_at
        assert said.is_empty


def test_a_context_that_is_not_there_is_unauthorized():
    assert outcome(small_world(), keys("nowhere"))[0].status is WorkflowStatus.UNAUTHORIZED


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("owner", [True, False, None])
def test_the_project_and_its_organization_both_have_to_allow_it(said, owner):
    world = small_world()
    world.state.circleci.projects["gh/acme/api"].inline_config = said
    world.state.circleci.organizations["gh/acme"].inline_config = owner
    allowed = world.circleci.inline_config_allowed(API)
    assert allowed is (False if False in (said, owner) else True if said and owner else None)
    if allowed is False:
        error = refusal_of(lambda: world.circleci.run_inline(API, BUILD, "main", keys()))
        assert error.code == "InlineConfigForbidden"
        assert world.circleci.pipelines(API.slug, MADE) == ()
    else:
        assert outcome(world, keys())[0].status is WorkflowStatus.SUCCESS


@pytest.mark.parametrize("text", ["", "a: [", "jobs: 1", "jobs: {}\nworkflows: {a: {jobs: [b]}}", "jobs: {}", "- a"])
def test_a_config_that_is_none_makes_a_pipeline_with_errors_and_no_workflow(text):
    world = small_world()
    made = world.circleci.run_inline(API, BUILD, "main", text)
    assert made.errors
    assert world.circleci.pipeline(made.id) == made
    assert world.circleci.workflows(made.id) == ()


def test_a_definition_of_another_project_starts_nothing():
    error = refusal_of(lambda: small_world().circleci.run_inline(API, BUILD_WEB, "main", keys()))
    assert error.status == 404


# --- OIDC -------------------------------------------------------------------------------------------------------------


def test_the_job_shows_its_claims_to_the_role():
    world, asked = small_world(), []
    world.assume_role = lambda arn, claims: asked.append((arn, claims)) or SESSION
    _, job, said = outcome(world, role("empty"), WEB, BUILD_WEB)
    ((arn, claims),) = asked
    assert arn == ROLE
    owner = ORGANIZATION.id
    assert claims["iss"] == f"https://oidc.circleci.com/org/{owner}"
    assert claims["aud"] == owner
    assert claims["sub"].startswith(f"org/{owner}/project/id-web/user/")
    assert claims["sub"].endswith("/vcs-origin/github.com/acme/web/vcs-ref/refs/heads/main")
    assert claims["oidc.circleci.com/project-id"] == "id-web"
    assert claims["oidc.circleci.com/context-ids"] == ["id-empty"]
    assert claims["oidc.circleci.com/job-id"] == job.id
    assert (said.account, said.arn, said.failure, said.static_tail) == (ACCOUNT, SESSION.arn, "", "")
    assert len(said.tail) == 4


def test_a_static_key_that_lies_beside_the_role_is_told():
    world = small_world()
    world.assume_role = lambda _arn, _claims: SESSION
    said = outcome(world, role("aws"))[2]
    assert (said.static_tail, said.arn) == (OLD_KEY[-4:], SESSION.arn)


def test_without_a_role_that_trusts_it_the_canary_is_denied():
    workflow, _, said = outcome(small_world(), role("aws"))
    assert workflow.status is WorkflowStatus.FAILED
    assert said == canary.CanaryReport(failure="AccessDenied", static_tail=OLD_KEY[-4:])


@pytest.mark.parametrize(
    ("of_project", "of_owner", "audience"),
    [
        (None, None, ORGANIZATION.id),
        (None, ("sts.amazonaws.com",), "sts.amazonaws.com"),
        (("own",), ("sts.amazonaws.com",), "own"),
        (("a", "b"), None, ["a", "b"]),
    ],
)
def test_a_custom_audience_of_the_project_comes_before_the_organizations(of_project, of_owner, audience):
    world, asked = small_world(), []
    world.assume_role = lambda _arn, claims: asked.append(claims) or SESSION
    world.state.circleci.projects["gh/acme/api"].claims = Claims(audience=of_project or ())
    world.state.circleci.organizations["gh/acme"].claims = Claims(audience=of_owner or ())
    outcome(world, role())
    assert asked[0]["aud"] == audience


# --- Time -------------------------------------------------------------------------------------------------------------


def test_a_job_runs_ends_and_only_then_tells():
    world = small_world(replace(NO_LAG, job_s=20, results_lag_s=2))
    made = world.circleci.run_inline(API, BUILD, "main", keys("aws"))
    (workflow,) = world.circleci.workflows(made.id)
    (job,) = world.circleci.jobs(workflow.id)
    assert (workflow.status, workflow.stopped_at, job.status, job.stopped_at) == ("running", None, "running", None)
    assert job.started_at == workflow.created_at == world.clock.now()
    world.clock.sleep(19)
    assert world.circleci.workflows(made.id)[0].status is WorkflowStatus.RUNNING
    world.clock.sleep(1)
    (workflow,) = world.circleci.workflows(made.id)
    (job,) = world.circleci.jobs(workflow.id)
    assert (workflow.status, workflow.stopped_at, job.status) == ("success", job.stopped_at, "success")
    assert job.stopped_at - job.started_at == timedelta(seconds=20)
    assert world.circleci.test_results(API.slug, job.number) == ()
    world.clock.sleep(2)
    assert [item.classname for item in world.circleci.test_results("github/acme/api", job.number)] == [
        "account",
        "arn",
        "tail",
    ]


def test_a_world_goes_on_from_its_file(tmp_path):
    world = small_world(path=tmp_path / "world.json")
    made = world.circleci.run_inline(API, BUILD, "main", keys("aws"))
    later = TwinWorld.load(tmp_path / "world.json", switches=NO_LAG, rng=random.Random(9))
    later.clock.sleep(60)
    (workflow,) = later.circleci.workflows(made.id)
    assert workflow.status is WorkflowStatus.SUCCESS
    (job,) = later.circleci.jobs(workflow.id)
    assert canary.read_report(later.circleci.test_results(API.slug, job.number)).tail == OLD_KEY[-4:]


def test_numbers_and_ids_are_never_given_twice():
    world = small_world()
    pipelines = [world.circleci.run_inline(API, BUILD, "main", keys()) for _ in range(3)]
    jobs = [
        job for item in pipelines for flow in world.circleci.workflows(item.id) for job in world.circleci.jobs(flow.id)
    ]
    assert [item.number for item in pipelines] == [1, 2, 3]
    assert [job.number for job in jobs] == [1, 2, 3]
    assert world.circleci.run_inline(WEB, BUILD_WEB, "main", keys()).number == 1
    assert len({item.id for item in (*pipelines, *jobs)}) == 6
    assert [item.number for item in world.circleci.pipelines(API.slug, START)] == [3, 2, 1]
    assert world.circleci.pipelines(API.slug, START + timedelta(days=1)) == ()


def test_many_at_once_each_get_a_number_of_their_own():
    world = small_world()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: world.circleci.run_inline(API, BUILD, "main", keys("aws")), range(40)))
    flows = [flow for item in made for flow in world.circleci.workflows(item.id)]
    numbers = [found.number for flow in flows for found in world.circleci.jobs(flow.id)]
    assert sorted(numbers) == sorted(item.number for item in made) == list(range(1, 41))


# --- Recorded workflows -----------------------------------------------------------------------------------------------


def recorded(*jobs, project="gh/acme/api"):
    """A world whose project has one workflow that somebody else started."""
    state = small_state()
    flow = RunWorkflow(id="flow", name="build", created_at=START - timedelta(hours=1), jobs=list(jobs))
    state.circleci.pipelines["pipe"] = RunPipeline(
        id="pipe", project=project, number=7, created_at=START - timedelta(hours=1), workflows=[flow]
    )
    return TwinWorld(state, switches=NO_LAG, rng=random.Random(2))


def job(name="deploy", **more):
    given = {"number": 41, "contexts": ("aws",), "signing": Signing(id_variable=PAIR[0], secret_variable=PAIR[1])}
    times = {"started_at": START - timedelta(hours=1), "stopped_at": START - timedelta(minutes=50)}
    return RunJob(id=f"job-{name}", name=name, **{**given, **times, **more})


def status_of(world, workflow_id="flow"):
    found = next(item for item in world.circleci.workflows("pipe") if item.id == workflow_id)
    return found.status


def test_a_recorded_job_that_was_never_stopped_runs_until_it_is_cancelled():
    world = recorded(job(stopped_at=None))
    world.clock.sleep(86_400)
    assert status_of(world) is WorkflowStatus.RUNNING
    world.circleci.cancel_workflow("flow")
    world.circleci.cancel_workflow("flow")
    assert status_of(world) is WorkflowStatus.CANCELED
    (found,) = world.circleci.jobs("flow")
    assert (found.status, found.stopped_at) == ("canceled", world.clock.now() - timedelta(seconds=0.1))


def test_a_cancelled_canary_tells_nothing():
    world = small_world()
    made = world.circleci.run_inline(API, BUILD, "main", keys("aws"))
    (workflow,) = world.circleci.workflows(made.id)
    world.circleci.cancel_workflow(workflow.id)
    world.clock.sleep(60)
    (found,) = world.circleci.jobs(workflow.id)
    assert world.circleci.test_results(API.slug, found.number) == ()


@pytest.mark.parametrize(
    ("jobs", "status"),
    [
        ([job()], "success"),
        ([job(status="failed")], "failed"),
        ([job(status="timedout")], "failed"),
        ([job(), job("b", status="failed")], "failed"),
        ([job(status="failed"), job("b", stopped_at=None)], "failing"),
        ([job(), job("ask", status="on_hold", number=None, started_at=None, stopped_at=None)], "on_hold"),
        ([job(status="canceled"), job("b", status="failed")], "canceled"),
        ([job(status="unauthorized", started_at=None, stopped_at=None)], "unauthorized"),
        ([job(status="unauthorized", started_at=None, stopped_at=None), job("b", stopped_at=None)], "failing"),
        ([job(status="not_run", started_at=None, stopped_at=None)], "not_run"),
    ],
)
def test_a_workflows_state_is_its_jobs(jobs, status):
    world = recorded(*jobs)
    (found,) = world.circleci.workflows("pipe")
    assert found.status == status
    assert (found.stopped_at is not None) is found.status.is_over


def test_a_rerun_resolves_the_environment_again():
    world = recorded(job(status="failed"))
    world.foreign_set_status(ACCOUNT, OLD_KEY, KeyStatus.INACTIVE)
    again = world.circleci.rerun_workflow("flow", from_failed=False)
    assert status_of(world, again) is WorkflowStatus.RUNNING
    world.clock.sleep(20)
    assert status_of(world, again) is WorkflowStatus.FAILED
    rotated(world, context(world))
    again = world.circleci.rerun_workflow("flow", from_failed=True)
    world.clock.sleep(20)
    assert status_of(world, again) is WorkflowStatus.SUCCESS
    assert status_of(world) is WorkflowStatus.FAILED, "what was stays what it was"
    assert next(found.id for found in world.circleci.workflows("pipe")) == again


def test_a_rerun_may_use_the_restricted_context_that_its_own_config_may():
    world = recorded(job())
    held = world.state.circleci.contexts["id-aws"]
    for value, status in (("id-api", WorkflowStatus.SUCCESS), ("id-web", WorkflowStatus.UNAUTHORIZED)):
        held.restrictions = [ContextRestriction(id="r", kind="project", value=value)]
        again = world.circleci.rerun_workflow("flow", from_failed=False)
        world.clock.sleep(20)
        assert status_of(world, again) is status


def test_a_rerun_from_failed_keeps_what_succeeded_and_needs_a_failure():
    world = recorded(job("test", signing=None), job(status="failed", number=42))
    again = world.circleci.rerun_workflow("flow", from_failed=True)
    kept, new = world.circleci.jobs(again)
    assert (kept.id, kept.status) == ("job-test", "success")
    assert (new.name, new.status, new.number) == ("deploy", "running", 43)
    assert refusal_of(lambda: recorded(job()).circleci.rerun_workflow("flow", from_failed=True)).status == 400


# --- The block --------------------------------------------------------------------------------------------------------


def test_a_block_refuses_new_runs_and_reruns_and_lets_the_running_ones_end():
    world = recorded(job(stopped_at=None))
    circleci = world.circleci
    assert circleci.running_disabled(ORGANIZATION) is False
    circleci.set_running_disabled(ORGANIZATION, disabled=True)
    circleci.set_running_disabled(ORGANIZATION, disabled=True)
    assert circleci.running_disabled(ORGANIZATION) is True
    assert refusal_of(lambda: circleci.run_inline(API, BUILD, "main", keys())).status == 409
    assert refusal_of(lambda: circleci.rerun_workflow("flow", from_failed=False)).status == 409
    assert status_of(world) is WorkflowStatus.RUNNING
    assert len(circleci.pipelines(API.slug, MADE)) == 1
    circleci.set_running_disabled(ORGANIZATION, disabled=False)
    assert circleci.rerun_workflow("flow", from_failed=False)


def test_a_host_without_v3_settings_does_not_say_and_cannot_be_blocked():
    world = small_world(replace(NO_LAG, v3_settings=False))
    assert world.circleci.running_disabled(ORGANIZATION) is None
    error = refusal_of(lambda: world.circleci.set_running_disabled(ORGANIZATION, disabled=True))
    assert error.code == "NotAvailable"


# --- Faults, refusals, and whatever comes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "made"), [("drop-request", 0), ("drop-reply", 1), ("deny", 0)])
def test_a_fault_strikes_a_run_as_it_does_any_write(fault, made):
    world = small_world(faults=Faults([f"{fault}:run_inline"]))
    with pytest.raises(CircleCiError) as caught:
        world.circleci.run_inline(API, BUILD, "main", keys())
    assert caught.value.effect is (Effect.NONE if fault == "deny" else Effect.UNKNOWN)
    assert len(world.circleci.pipelines(API.slug, MADE)) == made


@pytest.mark.parametrize(
    "call",
    [
        lambda circleci: circleci.pipeline("none"),
        lambda circleci: circleci.workflows("none"),
        lambda circleci: circleci.jobs("none"),
        lambda circleci: circleci.test_results("gh/acme/api", 1),
        lambda circleci: circleci.rerun_workflow("none", from_failed=False),
        lambda circleci: circleci.cancel_workflow("none"),
        lambda circleci: circleci.pipelines("gh/acme/none", MADE),
        lambda circleci: circleci.default_branch(replace(API, id="x", slug="gh/acme/none")),
    ],
)
def test_what_is_not_there_is_a_404(call):
    assert refusal_of(lambda: call(small_world().circleci)).status == 404


def test_a_mirrored_refusal_holds_here_too():
    world = small_world()
    world.state.circleci.refusals["run_inline:gh/acme/api"] = Refusal(code="HTTP403", status=403)
    assert refusal_of(lambda: world.circleci.run_inline(API, BUILD, "main", keys())).code == "HTTP403"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(["run", "rerun", "cancel", "wait", "turn"]), max_size=25)
)
def test_an_end_is_an_end(seed, steps):
    """Whatever happens: what is over stays as it ended, a job runs at most as long as its time, numbers are unique."""
    rng = random.Random(seed)
    world = small_world()
    ended = {}
    flows = []
    for step in steps:
        if step == "run":
            made = world.circleci.run_inline(API, BUILD, "main", keys(*rng.sample(["aws", "staging", "empty"], 2)))
            flows += [item.id for item in world.circleci.workflows(made.id)]
        elif step == "rerun" and flows:
            flows.append(world.circleci.rerun_workflow(rng.choice(flows), from_failed=False))
        elif step == "cancel" and flows:
            world.circleci.cancel_workflow(rng.choice(flows))
        elif step == "wait":
            world.clock.sleep(rng.uniform(0, 30))
        elif step == "turn":
            world.foreign_set_status(ACCOUNT, OLD_KEY, rng.choice([KeyStatus.ACTIVE, KeyStatus.INACTIVE]))
        seen = [item for made in world.circleci.pipelines(API.slug, MADE) for item in world.circleci.workflows(made.id)]
        for item in seen:
            assert ended.setdefault(item.id, item) == item if item.status.is_over else item.id not in ended
        numbers = [found.number for item in seen for found in world.circleci.jobs(item.id)]
        assert len(numbers) == len(set(numbers))
