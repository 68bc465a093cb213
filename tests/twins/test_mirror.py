"""A mirror shows what the world it was read from shows, holes included, and never writes to it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from twins.small_worlds import (
    ACCOUNT,
    NO_LAG,
    OLD_KEY,
    ORGANIZATION,
    OTHER,
    PAIR,
    account,
    context,
    pair_of,
    project,
    small_state,
    small_world,
)

from playbook import canary
from playbook.clients.aws import _SIMULATED_AT_ONCE
from playbook.errors import AwsError, CircleCiError, CredentialsError, ServiceError
from playbook.ports import Hole, KeyStatus, Organization, PipelineDefinition, Project, WorkflowStatus
from playbook.secret import Secret
from playbook.twins.iam_calls import PERMISSIONS
from playbook.twins.refusals import NOT_MIRRORED
from playbook.twins.seed import mirror
from playbook.twins.state import (
    Context,
    ContextRestriction,
    MissedRead,
    Refusal,
    StoredOrganization,
    StoredProject,
    Trigger,
    Value,
    Variable,
)
from playbook.twins.state import (
    PipelineDefinition as StoredDefinition,
)
from playbook.twins.world import Switches, TwinWorld


def attempt(read, *arguments):
    try:
        return read(*arguments)
    except ServiceError as error:
        return (type(error).__name__, error.code, error.status)


def shown(platforms, accounts=(ACCOUNT, OTHER), organizations=(ORGANIZATION,)):
    """Everything the readers show of a world."""
    found = {}
    for number in accounts:
        aws = platforms.aws[number]
        found[number] = (aws.identity(), aws.own_key_id(), attempt(aws.users), attempt(aws.summary))
        for user in ("ci", "idle"):
            listing = attempt(aws.access_keys, user)
            found[number, user] = getattr(listing, "keys", listing)
            for key in getattr(listing, "keys", ()):
                found[key.id] = attempt(aws.last_used, key.id)
    circleci = platforms.circleci
    found["me"] = (circleci.login(), circleci.host, circleci.organizations())
    for organization in organizations:
        contexts, projects = attempt(circleci.contexts, organization), attempt(circleci.projects, organization)
        found[organization.slug] = (contexts, projects)
        for sink in contexts if all(hasattr(item, "kind") for item in contexts) else ():
            found[sink.id] = (attempt(circleci.variables, sink), attempt(circleci.restrictions, sink))
    return found


def rich_world():
    """Every kind of thing that a reader can show, every hole it can meet."""
    state = small_state()
    state.accounts[ACCOUNT].summary = {"Users": 2, "AccessKeysPerUserQuota": 3}
    state.accounts[ACCOUNT].quota = 3
    state.accounts[ACCOUNT].own_key_id = "AKIAOPERATOROPERATOR"
    state.accounts[ACCOUNT].denied = ["iam:DeleteAccessKey"]
    state.accounts[OTHER].refusals = {"access_keys:ci": Refusal(code="AccessDenied", status=403)}
    state.accounts[OTHER].can_simulate = False
    circleci = state.circleci
    circleci.organizations["gh/else"] = StoredOrganization(id="", slug="gh/else", name="else")
    circleci.organizations["gh/acme"].holes = [MissedRead(what="project", where="id-9", why="HTTP403")]
    circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r1", kind="expression", value="x == y")]
    circleci.contexts["id-full"] = Context(
        id="id-full",
        name="full",
        organization="gh/acme",
        variables={f"V_{number:03d}": Variable(value=Value(tail="tail")) for number in range(104)},
    )
    circleci.refusals = {
        "variables:id-staging": Refusal(code="HTTP403", status=403),
        "restrictions:id-empty": Refusal(code="HTTP403", status=403),
    }
    circleci.projects["gh/acme/gone"] = StoredProject(
        id="id-gone", slug="gh/acme/gone", organization="gh/acme", deleted=True, known_by=("private",)
    )
    world = TwinWorld(state, switches=NO_LAG)
    world.foreign_set_status(ACCOUNT, OLD_KEY, KeyStatus.INACTIVE)
    return world


def test_a_mirror_shows_the_same_world_and_the_same_holes():
    world = rich_world()
    calls = []
    world.on_call = lambda call, moment: calls.append(call) if moment == "after" else None
    twin = mirror(world.platforms(), accounts=(ACCOUNT, OTHER), organizations=("github/acme",))
    assert calls
    assert not [call for call in calls if call.write], "a mirror only reads"
    world.on_call = None
    assert shown(twin.platforms()) == shown(world.platforms())
    assert twin.clock.now() == world.clock.now()
    assert twin.circleci.variables(context(twin, "full")).complete is False
    assert twin.circleci.projects(ORGANIZATION).holes == (Hole(what="project", where="id-9", why="HTTP403"),)


def test_what_was_left_out_is_refused_never_shown_as_empty():
    twin = mirror(rich_world().platforms(), accounts=(ACCOUNT,), organizations=("gh/acme",))
    elsewhere = Organization(id="", slug="gh/else", name="else")
    for read in (twin.circleci.contexts, twin.circleci.projects):
        with pytest.raises(CircleCiError) as caught:
            read(elsewhere)
        assert caught.value.code == NOT_MIRRORED
    assert tuple(twin.aws) == (ACCOUNT,)


def test_what_the_simulator_says_is_mirrored_but_not_enforced():
    """A least-privilege policy, limited to some users, reads as a denial there: its dry run must not fail on it."""
    world = rich_world()
    world.state.accounts[ACCOUNT].denied.append("iam:ListUserPolicies")
    twin = mirror(world.platforms(), accounts=(ACCOUNT, OTHER), organizations=(), actions=("iam:ListUserPolicies",))
    simulate = twin.aws[ACCOUNT].simulate
    asked = simulate(("iam:ListUserPolicies", "iam:CreateAccessKey", "iam:DeleteAccessKey"))
    assert asked == {"iam:ListUserPolicies": False, "iam:CreateAccessKey": True, "iam:DeleteAccessKey": False}
    assert simulate(("iam:CreateAccessKey", "iam:NeverAsked")) is None
    assert twin.aws[OTHER].simulate(("iam:CreateAccessKey",)) is None
    twin.aws[ACCOUNT].delete_access_key("ci", OLD_KEY)
    assert twin.all_keys(ACCOUNT, "ci") == ()


def test_a_mirror_can_say_which_of_all_permissions_we_have_for_one_request():
    actions = sorted({action for needed in PERMISSIONS.values() for action in needed})
    assert len(actions) <= _SIMULATED_AT_ONCE
    world = rich_world()
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=())
    told = twin.aws[ACCOUNT].simulate(actions)
    assert told == world.aws[ACCOUNT].simulate(actions)
    assert told["iam:PutUserPolicy"]


def test_a_denied_trail_is_denied_in_the_twin():
    world = small_world(replace(NO_LAG, trail_denied=True))
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=())
    with pytest.raises(AwsError, match="AccessDenied"):
        twin.aws[ACCOUNT].key_creations("idle", world.clock.now())


def test_what_is_mirrored_does_not_lag_but_what_is_written_does():
    world = small_world()
    fresh = world.foreign_create_key(ACCOUNT, "ci")
    world.foreign_put(context(world), "FRESH", "written just now")
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=("gh/acme",), switches=Switches())
    assert twin.aws[ACCOUNT].access_keys("ci").find(fresh) is not None
    assert twin.circleci.variables(context(twin)).find("FRESH").tail == " now"
    assert twin.circleci.run_pipeline("gh/acme/api", []).passed
    twin.circleci.put_variable(context(twin), "FRESH", Secret("another value"))
    assert twin.circleci.variables(context(twin)).find("FRESH").tail is None


def test_opaque_pairs_work_by_their_tail_and_are_torn_by_half_a_write():
    twin = mirror(small_world().platforms(), accounts=(ACCOUNT, OTHER), organizations=("gh/acme",))
    assert twin.pair_key(context(twin), *PAIR) == OLD_KEY
    assert twin.works(project(twin), *PAIR)
    made = twin.aws[ACCOUNT].create_access_key("ci", tag="t")
    twin.circleci.put_variable(context(twin), PAIR[1], made.secret)
    assert not twin.works(context(twin), *PAIR)


def test_awss_time_and_a_skewed_local_clock_stay_apart():
    world = small_world()
    world.state.accounts[ACCOUNT].skew_s = 7200
    twin = mirror(world.platforms(), accounts=(ACCOUNT, OTHER), organizations=())
    ahead = twin.aws[ACCOUNT].access_keys("ci").server_time - twin.clock.now()
    assert abs(ahead - timedelta(hours=2)) < timedelta(seconds=2)
    assert twin.state.accounts[OTHER].skew_s == 0


def test_a_slug_given_away_again_names_the_living_project():
    world = small_world()
    ghost = StoredProject(id="id-ghost", slug="gh/acme/api", organization="gh/acme", deleted=True)
    world.state.circleci.projects["ghost"] = ghost
    twin = mirror(world.platforms(), accounts=(), organizations=("gh/acme",))
    assert twin.circleci.projects(ORGANIZATION).items == world.circleci.projects(ORGANIZATION).items
    assert twin.circleci.run_pipeline("gh/acme/api", []).id_from == project(twin)
    twin.circleci.put_variable(project(twin), "NEW", Secret("a value"))


def test_a_rejected_credential_is_no_hole():
    world = small_world()
    world.state.circleci.token_sha256 = Secret("right").digest()
    with pytest.raises(CredentialsError):
        mirror(world.platforms(Secret("wrong")), accounts=(), organizations=("gh/acme",))


API = Project(id="id-api", slug="gh/acme/api", organization="gh/acme", known_by=("private",))


def mirrored(world):
    """The mirror of a small world, and the names of the calls that it makes from now on."""
    twin = mirror(world.platforms(), accounts=(ACCOUNT, OTHER), organizations=("gh/acme",))
    calls = []
    world.on_call = lambda call, moment: calls.append(call.operation) if moment == "before" else None
    return twin, calls


def test_what_is_asked_of_few_projects_is_read_once_when_it_is_asked():
    world = small_world()
    stored = world.state.circleci.projects["gh/acme/api"]
    stored.default_branch, stored.forks_receive_secrets = "trunk", True
    stored.definitions = [
        StoredDefinition(id="d-1", name="build", triggers=[Trigger(id="t-1")]),
        StoredDefinition(id="d-2", name="nightly"),
    ]
    twin, calls = mirrored(world)
    for _ in range(2):
        assert twin.circleci.pipeline_definitions(API) == (
            PipelineDefinition(id="d-1", name="build"),
            PipelineDefinition(id="d-2", name="nightly"),
        )
        assert twin.circleci.default_branch(API) == "trunk"
        assert twin.circleci.forks_receive_secrets(API) is True
        assert twin.circleci.inline_config_allowed(API) is True
    expected = ["pipeline_definitions", "default_branch", "forks_receive_secrets", "inline_config_allowed"]
    assert calls == expected
    definitions = twin.state.circleci.projects["gh/acme/api"].definitions
    assert [[trigger.id for trigger in item.triggers] for item in definitions] == [["t-1"], []]


def test_the_canary_of_a_walk_runs_on_opaque_values_and_sees_what_the_walk_wrote():
    world = small_world()
    twin, calls = mirrored(world)
    (definition,) = twin.circleci.pipeline_definitions(API)

    def said():
        config = canary.with_keys(["aws"], *PAIR, "us-east-1")
        made = twin.circleci.run_inline(API, definition, twin.circleci.default_branch(API), config)
        twin.clock.sleep(60)
        (workflow,) = twin.circleci.workflows(made.id)
        (job,) = twin.circleci.jobs(workflow.id)
        return canary.read_report(twin.circleci.test_results(API.slug, job.number)).tail

    assert said() == OLD_KEY[-4:]
    key = twin.aws[ACCOUNT].create_access_key("ci", tag="t")
    twin.circleci.put_variable(context(twin), PAIR[0], Secret(key.key_id))
    twin.circleci.put_variable(context(twin), PAIR[1], key.secret)
    assert said() == "", "STS does not accept it yet"
    assert said() == key.key_id[-4:]
    assert "run_inline" not in calls
    assert world.state.circleci.pipelines == {}


def test_a_restricted_context_keeps_its_restriction_in_the_mirror():
    world = small_world()
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r", kind="project", value="id-api")]
    twin, _ = mirrored(world)
    (definition,) = twin.circleci.pipeline_definitions(API)
    made = twin.circleci.run_inline(API, definition, "main", canary.with_keys(["aws"], *PAIR, "us-east-1"))
    assert twin.circleci.workflows(made.id)[0].status is WorkflowStatus.UNAUTHORIZED


@pytest.mark.parametrize("operation", ["pipeline_definitions", "default_branch", "inline_config_allowed"])
def test_what_the_live_world_refuses_is_refused(operation):
    world = small_world()
    world.state.circleci.refusals[f"{operation}:gh/acme/api"] = Refusal(code="HTTP403", status=403)
    twin, _ = mirrored(world)
    for _ in range(2):
        with pytest.raises(CircleCiError) as caught:
            getattr(twin.circleci, operation)(API)
        assert caught.value.code == "HTTP403"


def test_a_mirror_that_lost_its_live_world_says_so(tmp_path):
    mirror(small_world().platforms(), accounts=(), organizations=("gh/acme",), path=tmp_path / "world.json")
    twin = TwinWorld.load(tmp_path / "world.json", switches=NO_LAG)
    with pytest.raises(CircleCiError) as caught:
        twin.circleci.default_branch(API)
    assert caught.value.code == NOT_MIRRORED


@pytest.mark.parametrize("said", [True, False, None])
def test_the_block_is_mirrored_and_changed_in_the_mirror_alone(said):
    world = small_world()
    world.state.circleci.organizations["gh/acme"].running_disabled = said
    twin, _ = mirrored(world)
    assert twin.circleci.running_disabled(ORGANIZATION) is said
    if said is None:
        with pytest.raises(CircleCiError, match="NotAvailable"):
            twin.circleci.set_running_disabled(ORGANIZATION, disabled=True)
    else:
        twin.circleci.set_running_disabled(ORGANIZATION, disabled=not said)
        assert twin.circleci.running_disabled(ORGANIZATION) is not said
    assert world.state.circleci.organizations["gh/acme"].running_disabled is said


def test_thousands_of_variables_side_by_side(tmp_path):
    state = small_state()
    for number in range(400):
        slug = f"gh/acme/p{number}"
        variables = {f"SECRET_{item}": Variable(value=Value(tail="tail")) for item in range(20)}
        state.circleci.projects[slug] = StoredProject(
            id=f"id{number}", slug=slug, organization="gh/acme", variables=variables | pair_of(OLD_KEY)
        )
    state.accounts["999999999999"] = account(
        "999999999999",
        *(f"user-{number}" for number in range(300)),
        keys={f"AKIAUSER{number:012d}": f"user-{number}" for number in range(300)},
    )
    world = TwinWorld(state, switches=NO_LAG)
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        twin = mirror(
            world.platforms(),
            accounts=tuple(state.accounts),
            organizations=("gh/acme",),
            gather=lambda function, items: list(pool.map(function, items)),
            path=tmp_path / "world.json",
        )
    took = time.perf_counter() - began
    stored = sum(len(item.variables) for item in twin.state.circleci.projects.values())
    assert stored == 400 * 22 + 2
    assert len(twin.state.accounts["999999999999"].keys) == 300
    began = time.perf_counter()
    twin.circleci.put_variable(project(twin), "ONE", Secret("a value"))
    write_ms = (time.perf_counter() - began) * 1000
    size = (tmp_path / "world.json").stat().st_size
    print(f"mirrored {stored} variables in {took:.2f} s; world.json {size} bytes; a write takes {write_ms:.1f} ms")
    assert took < 20
