"""After the rotation: our block is lifted, the gap is measured by CircleCI's clock, and what failed runs again once."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from played import Played, Responder, Shadowed
from two_users import ACCOUNT, OLD, PAIR, START, two_users

from playbook import canary
from playbook.clients.circleci import CircleCiClient
from playbook.errors import ExitCode
from playbook.model import Phase, Plan, Step
from playbook.ports import Organization, WorkflowStatus
from playbook.records import Applied, Intended, Skipped
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.faults import Faults, parse
from playbook.twins.server import CircleCiServer
from playbook.twins.state import RunJob, RunPipeline, RunWorkflow, Signing
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK
from steps.build_windows import PIPELINES_MAX
from steps.check_access import CheckAccess
from steps.confirm_builds import ConfirmBuilds
from steps.deactivate_exposed_keys import DeactivateExposedKeys
from steps.inventory_secrets import InventorySecrets
from steps.replace_access_keys import ReplaceAccessKeys
from steps.stop_new_work import BlockNewWork

ACME = Organization(id="org-1", slug="gh/acme", name="acme")
BEFORE = (CheckAccess(), InventorySecrets(), DeactivateExposedKeys(), ReplaceAccessKeys())
STEPS = (*BEFORE, ConfirmBuilds())
RERUN = "keys.rerun_failed"
WRITE_S = 2.0


class Blocking(Step):
    """Stands in for the step that blocks new work."""

    id = "blocking"
    title = "Blocking"
    phase = Phase.CONTAINMENT

    def plan(self, view, case, ask):
        return Plan(step=self.id, actions=(BlockNewWork(organization=ACME),))


def played(*, strategy="replace", faults=(), waits=None, restrict=(), **answers):
    state = two_users()
    for slug, name in (("gh/acme/api", "deploy"), ("gh/acme/web", "ecr")):
        state.circleci.projects[slug].definitions = [states.PipelineDefinition(id=f"def-{name}", name="build")]
    for context, project in restrict:
        restriction = states.ContextRestriction(id=f"r-{context}", kind="project", value=f"id-{project}")
        state.circleci.contexts[context].restrictions = [restriction]
    lags = {"sts_lag_s": 0, "off_lag_s": 0, "list_lag_s": 0, "tail_lag_s": 0, "trail_lag_s": 0}
    world = TwinWorld(
        state,
        switches=Switches(**lags, write_s=WRITE_S, job_s=30),
        faults=Faults([parse(text) for text in faults]),
        rng=random.Random(7),
    )
    return Played(world, Responder(keys__strategy=strategy, **answers), waits=waits)


def number_of(*parts):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))


FIRST = number_of("workflow", "gh/acme/api", 1)


def build(case, slug="gh/acme/api", *, began, ended, context="deploy", status="failed", number=1, name="deploy-it"):
    """A build that somebody started; it signs with a context's pair."""
    job = RunJob(
        id=number_of("job", slug, number),
        name="ship",
        number=number,
        contexts=(context,),
        signing=Signing(id_variable=PAIR[0], secret_variable=PAIR[1]),
        status=status,
        started_at=began,
        stopped_at=ended,
    )
    workflow = RunWorkflow(id=number_of("workflow", slug, number), name=name, created_at=began, jobs=[job])
    pipeline = RunPipeline(
        id=number_of("pipeline", slug, number), project=slug, number=number, created_at=began, workflows=[workflow]
    )
    case.world.state.circleci.pipelines[pipeline.id] = pipeline
    return workflow


def between_the_halves(case, act, sink="ctx-deploy"):
    """Do something just after the first half of the pair was written into a sink."""
    inner = case.world.circleci

    def put_variable(to, name, value):
        inner.put_variable(to, name, value)
        if to.id == sink and name == PAIR[0]:
            act()

    platforms = case.world.platforms()
    return replace(platforms, circleci=Shadowed(inner, put_variable=put_variable))


def failed_in_the_gap(case, **more):
    now = case.world.clock.now
    return lambda: build(case, began=now() + timedelta(seconds=0.1), ended=now() + timedelta(seconds=1), **more)


def reruns(case):
    return [item for item in case.world.state.circleci.pipelines.values() if len(item.workflows) > 1]


def findings(case):
    return "\n".join(case.findings("confirm_builds"))


# --- The gap --------------------------------------------------------------------------------------------------------


def test_the_gap_between_the_halves_is_told_by_place_and_a_projects_is_said_to_be_unknown():
    case = played()
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    said = findings(case)
    assert f"passed {WRITE_S:.1f} s (median of 2), at most {WRITE_S:.1f} s" in said
    assert "context deploy 2.0 s" in said
    assert "context ecr 2.0 s" in said
    assert "shows no times for the variables of projects" in said
    assert "gh/acme/api" in said
    assert not case.of(Intended, "circleci:rerun-workflow")


def test_a_pair_that_was_torn_over_a_crash_was_torn_since_its_first_half():
    case = played()
    first = case.play(*STEPS, platforms=between_the_halves(case, lambda: None))
    assert first.exit_code is ExitCode.DONE
    case = played(faults=["drop-reply:put_variable:2x2"])
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    longest = max(float(text) for text in findings(case).split("at most ")[1].split(" s,")[:1])
    assert longest > WRITE_S, "the first half stood alone until the pair was written again"


def test_a_build_that_failed_in_the_gap_is_listed_and_left_by_default():
    case = played()
    outcome = case.play(*STEPS, platforms=between_the_halves(case, failed_in_the_gap(case)))
    assert outcome.exit_code is ExitCode.DONE
    assert [item for item in case.responder.asked if item.startswith(RERUN)] == [f"{RERUN}:{FIRST}"]
    question = case.responder.asked[f"{RERUN}:{FIRST}"]
    assert question.default is False
    assert question.subject == {"user": "ci-deploy", "account": ACCOUNT, "id": OLD["ci-deploy"]}
    assert "deploy-it of gh/acme/api failed while it could not use context deploy" in findings(case)
    assert "pipeline 1, workflow deploy-it, Rerun from failed" in findings(case)
    assert not reruns(case)


@pytest.mark.parametrize(
    ("more", "listed"),
    [
        ({"status": "success"}, False),
        ({"status": "canceled"}, False),
        ({"name": canary.WORKFLOW}, False),
        ({"slug": "gh/acme/web"}, True),
        ({"status": "failed"}, True),
        ({"status": "timedout"}, True),
    ],
)
def test_only_what_failed_counts(more, listed):
    case = played()
    case.play(*STEPS, platforms=between_the_halves(case, failed_in_the_gap(case, **more)))
    assert bool([item for item in case.responder.asked if item.startswith(RERUN)]) is listed


def test_a_restricted_context_concerns_its_projects_alone():
    case = played(restrict=[("ctx-deploy", "gh/acme/api")])
    act = failed_in_the_gap(case, slug="gh/acme/web")
    case.play(*STEPS, platforms=between_the_halves(case, act))
    # The other project writes its own pair too, at a time that CircleCI does not show.
    asked = [item for item in case.responder.asked.values() if item.id.startswith(RERUN)]
    assert all("does not show when" in item.detail["why"] for item in asked)


def test_a_build_that_failed_before_or_after_is_not_ours():
    case = played()
    build(case, began=START - timedelta(minutes=9), ended=START - timedelta(minutes=8), number=1)

    class Later(ConfirmBuilds):
        def plan(self, view, the_case, ask):
            now = case.world.clock.now()
            build(case, began=now - timedelta(seconds=1), ended=now, number=2)
            return super().plan(view, the_case, ask)

    assert case.play(*BEFORE, Later()).exit_code is ExitCode.DONE
    assert not [item for item in case.responder.asked if item.startswith(RERUN)]


def test_a_long_build_that_was_running_counts_only_if_a_failed_job_of_it_ran_in_the_gap():
    for ended_before, listed in ((True, False), (False, True)):
        case = played()

        def act(case=case, ended_before=ended_before):
            now = case.world.clock.now()
            workflow = build(case, began=now - timedelta(hours=2), ended=now + timedelta(hours=1), status="success")
            failed = RunJob(
                id="second",
                name="second",
                number=2,
                status="failed",
                started_at=now - timedelta(hours=1),
                stopped_at=now - timedelta(minutes=50) if ended_before else now + timedelta(seconds=1),
            )
            workflow.jobs[0].stopped_at = now + timedelta(seconds=1)
            workflow.jobs.append(failed)

        case.play(*STEPS, platforms=between_the_halves(case, act))
        asked = [item for item in case.responder.asked if item.startswith(RERUN)]
        assert bool(asked) is listed, ended_before


def test_builds_that_cannot_be_read_are_a_doubt_and_not_an_all_clear():
    case = played()
    case.world.state.circleci.refusals["pipelines:gh/acme/api"] = states.Refusal(code="HTTP403", status=403)
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert "Not known: the builds of gh/acme/api (HTTP403) could not be read" in findings(case)


def test_of_thousands_of_pipelines_the_newest_are_looked_into_and_the_others_counted():
    case = played()
    for number in range(1, PIPELINES_MAX + 5):
        build(case, began=START, ended=START + timedelta(seconds=1), number=number, status="success")
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert "Not known: 4 older pipelines were not looked into" in findings(case)


# --- After containment ----------------------------------------------------------------------------------------------


def test_what_failed_while_the_old_key_was_off_is_offered_too():
    case = played(strategy="contain", keys__rerun_failed=True)
    inner = ReplaceAccessKeys()

    class Slowly(ReplaceAccessKeys):
        def plan(self, view, the_case, ask):
            now = case.world.clock.now()
            if not case.world.state.circleci.pipelines:
                build(case, began=now, ended=now + timedelta(seconds=5))
                case.world.clock.sleep(60)
            return inner.plan(view, the_case, ask)

    outcome = case.play(*BEFORE[:3], Slowly(), ConfirmBuilds())
    assert outcome.exit_code is ExitCode.DONE
    question = case.responder.asked[f"{RERUN}:{FIRST}"]
    assert question.detail["why"] == "deploy: its old key was off already"
    (pipeline,) = reruns(case)
    assert case.world.circleci.workflows(pipeline.id)[0].status is WorkflowStatus.SUCCESS


# --- Reruns ---------------------------------------------------------------------------------------------------------


def run_again(case, **options):
    return case.play(*STEPS, platforms=between_the_halves(case, failed_in_the_gap(case)), **options)


def test_a_wanted_rerun_is_started_once_and_watched_to_its_end():
    case = played(keys__rerun_failed=True)
    assert run_again(case).exit_code is ExitCode.DONE
    (pipeline,) = reruns(case)
    assert len(pipeline.workflows) == 2
    newest = case.world.circleci.workflows(pipeline.id)[0]
    assert newest.status is WorkflowStatus.SUCCESS
    waited = [fields for event, fields in case.told if event == "waiting"]
    assert waited, "the watching is told of"


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
def test_a_rerun_whose_reply_is_lost_is_looked_for_and_never_started_twice(fault):
    case = played(faults=[f"{fault}:rerun_workflow"], keys__rerun_failed=True)
    assert run_again(case).exit_code is ExitCode.DONE
    (pipeline,) = reruns(case)
    assert len(pipeline.workflows) == 2
    tries = case.of(Intended, "circleci:rerun-workflow")
    assert len(tries) == (1 if fault in {"drop-reply", "server-error-applied"} else 2)


def test_a_rerun_that_fails_is_for_a_human_with_its_page_and_theirs_settles_it():
    case = played(keys__rerun_failed=True)
    inner = case.world.circleci

    def rerun_workflow(workflow_id, *, from_failed):
        assert from_failed
        made = inner.rerun_workflow(workflow_id, from_failed=True)
        (pipeline,) = reruns(case)
        pipeline.workflows[-1].jobs[0].status = "failed"
        return made

    platforms = between_the_halves(case, failed_in_the_gap(case))
    platforms = replace(platforms, circleci=Shadowed(platforms.circleci, rerun_workflow=rerun_workflow))
    outcome = case.play(*STEPS, platforms=platforms)
    assert outcome.exit_code is ExitCode.WAITING
    (trouble,) = outcome.troubles
    assert "ended as failed: look in CircleCI, Pipelines, project gh/acme/api, pipeline 1" in trouble.reason
    assert case.play(*STEPS).exit_code is ExitCode.WAITING
    assert len(reruns(case)[0].workflows) == 2, "a failed rerun is never repeated"
    case.world.circleci.rerun_workflow(reruns(case)[0].workflows[-1].id, from_failed=True)
    assert case.play(*STEPS).exit_code is ExitCode.DONE


def test_a_rerun_that_somebody_began_is_watched_and_not_doubled():
    case = played(keys__rerun_failed=True)
    asked = case.responder.answer

    def answer(question):
        if question.id.startswith(RERUN):
            case.world.circleci.rerun_workflow(FIRST, from_failed=True)
        return asked(question)

    case.responder.answer = answer
    case.responder.answer_all = lambda questions: [answer(question) for question in questions]
    assert run_again(case).exit_code is ExitCode.DONE
    assert len(reruns(case)[0].workflows) == 2
    assert not case.of(Intended, "circleci:rerun-workflow")


def test_what_was_run_again_before_we_look_is_not_offered():
    case = played(keys__rerun_failed=True)

    class Later(ConfirmBuilds):
        def plan(self, view, the_case, ask):
            case.world.circleci.rerun_workflow(FIRST, from_failed=True)
            return super().plan(view, the_case, ask)

    platforms = between_the_halves(case, failed_in_the_gap(case))
    assert case.play(*BEFORE, Later(), platforms=platforms).exit_code is ExitCode.DONE
    assert not [item for item in case.responder.asked if item.startswith(RERUN)]


def test_a_refused_rerun_parks_and_says_what_was_refused():
    case = played(faults=["deny:rerun_workflow:1x9"], keys__rerun_failed=True)
    outcome = run_again(case)
    assert outcome.exit_code is ExitCode.SOME_FAILED
    assert "HTTP403" in outcome.troubles[0].reason
    assert not reruns(case)


def test_a_rerun_on_hold_says_that_it_waits_for_an_approval():
    case = played(keys__rerun_failed=True)

    def act():
        workflow = failed_in_the_gap(case)()
        workflow.jobs.append(RunJob(id="hold", name="hold", status="on_hold"))

    outcome = case.play(*STEPS, platforms=between_the_halves(case, act))
    assert outcome.exit_code is ExitCode.WAITING
    assert "waits for an approval" in outcome.troubles[0].reason


# --- The block ------------------------------------------------------------------------------------------------------


BLOCKED = (Blocking(), *STEPS)


def is_blocked(case):
    return case.world.state.circleci.organizations["gh/acme"].running_disabled


def test_our_block_is_lifted_before_anything_runs_again():
    case = played(keys__rerun_failed=True)
    outcome = case.play(*BLOCKED, platforms=between_the_halves(case, failed_in_the_gap(case)))
    assert outcome.exit_code is ExitCode.DONE
    assert is_blocked(case) is False
    order = [item.key.split(":")[1] for item in case.of(Applied, "circleci:") if "work" in item.key.split(":")[1]]
    assert order == ["block-new-work", "allow-new-work", "rerun-workflow"]


@pytest.mark.parametrize("steps", [STEPS, BLOCKED])
def test_a_block_that_is_not_ours_stays(steps):
    case = played()
    case.world.state.circleci.organizations["gh/acme"].running_disabled = True
    assert case.play(*steps).exit_code is ExitCode.DONE
    assert is_blocked(case) is True
    assert "is blocked, not by this case" in findings(case)


class Between(ReplaceAccessKeys):
    """Something happens while the keys are being replaced."""

    def __init__(self, act):
        self.act = act

    def plan(self, view, case, ask):
        self.act()
        return super().plan(view, case, ask)


def with_block(act):
    return (Blocking(), *BEFORE[:-1], Between(act), ConfirmBuilds())


def test_a_block_that_somebody_lifted_needs_nothing():
    case = played()
    owner = case.world.state.circleci.organizations["gh/acme"]
    assert case.play(*with_block(lambda: setattr(owner, "running_disabled", False))).exit_code is ExitCode.DONE
    assert not case.of(Intended, "circleci:allow-new-work")


def test_a_host_that_no_longer_says_leaves_the_lifting_to_hands_aloud():
    case = played()
    refusal = states.Refusal(code="HTTP403", status=403)
    steps = with_block(lambda: case.world.state.circleci.refusals.update({"running_disabled:gh/acme": refusal}))
    assert case.play(*steps).exit_code is ExitCode.DONE
    assert is_blocked(case) is True
    assert "whether it still is cannot be read: in CircleCI, Organization Settings" in findings(case)


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error-applied", "throttle"])
def test_the_lifting_survives_a_lost_reply(fault):
    case = played(faults=[f"{fault}:set_running_disabled:2"])
    assert case.play(*BLOCKED).exit_code is ExitCode.DONE
    assert is_blocked(case) is False


def test_nothing_is_lifted_while_something_before_it_waits():
    case = played(faults=["deny:put_variable:1x99"])
    outcome = case.play(*BLOCKED)
    assert "confirm_builds" in outcome.unfinished
    assert is_blocked(case) is True


def test_the_whole_playbook_blocks_contains_replaces_and_lifts():
    case = played(strategy="contain", incident__severity="confirmed", incident__block_new_work=True)
    outcome = case.play(*PLAYBOOK)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert is_blocked(case) is False
    changed = [item.key for item in case.records if isinstance(item, Applied)]
    assert changed.index("circleci:block-new-work:gh/acme") < changed.index("circleci:allow-new-work:gh/acme")
    stores = [number for number, key in enumerate(changed) if key.startswith("circleci:store-access-key")]
    assert max(stores) < changed.index("circleci:allow-new-work:gh/acme")


# --- Every instant --------------------------------------------------------------------------------------------------


def kill_case():
    """A rotation that is done, with a failed build in its gap and a block: what is left is this step."""
    case = played(keys__rerun_failed=True)
    act = failed_in_the_gap(case)
    outcome = case.play(Blocking(), *BEFORE, platforms=between_the_halves(case, act))
    assert outcome.exit_code is ExitCode.DONE
    return case, BLOCKED


def test_killed_at_every_instant_the_block_is_lifted_and_the_build_ran_again_once():
    case, steps = kill_case()
    assert case.play(*steps).exit_code is ExitCode.DONE
    instants = case.instants
    for instant in range(1, instants + 1):
        case, steps = kill_case()
        assert case.play(*steps, kill_at=instant) is None, instant
        outcome = case.play(*steps)
        assert outcome.exit_code is ExitCode.DONE, (instant, outcome.troubles)
        assert is_blocked(case) is False, instant
        (pipeline,) = reruns(case)
        assert len(pipeline.workflows) == 2, instant
        assert not case.of(Skipped)
    print(f"{instants} instants, each with a kill and a resume")


# --- Through the real client ----------------------------------------------------------------------------------------


def test_the_real_client_lifts_and_runs_again_over_http():
    case, steps = kill_case()
    with CircleCiServer(case.world, Secret("the-token")) as server:
        client = CircleCiClient(host=server.url, token=Secret("the-token"))
        with client:
            outcome = case.play(*steps, platforms=replace(case.world.platforms(), circleci=client))
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert is_blocked(case) is False
    assert len(reruns(case)[0].workflows) == 2
    assert f"at most {WRITE_S:.1f} s, by CircleCI's clock" in findings(case)


# --- Random histories -----------------------------------------------------------------------------------------------

FAULTS = ("drop-reply", "drop-request", "server-error", "server-error-applied", "throttle", "deny")
WRITES = ("rerun_workflow", "set_running_disabled")
HISTORIES = 100


def test_random_kills_and_faults_never_run_a_build_again_twice():
    declared = Counter()
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        case, steps = kill_case()
        count = chance.randint(1, 3)
        faults = [f"{chance.choice(FAULTS)}:{chance.choice(WRITES)}:{chance.randint(1, 2)}" for _ in range(count)]
        case.world.faults = Faults([parse(text) for text in faults])
        for _ in range(chance.randint(1, 3)):
            case.play(*steps, kill_at=chance.randint(1, 60))
        outcome = None
        for _ in range(6):
            outcome = case.play(*steps)
            if outcome.exit_code is ExitCode.DONE:
                break
        assert outcome.exit_code is ExitCode.DONE, (seed, faults, outcome.troubles)
        assert is_blocked(case) is False, (seed, faults)
        assert len(reruns(case)[0].workflows) == 2, (seed, faults)
        declared[len(case.of(Intended, "circleci:rerun-workflow"))] += 1
    print(f"{HISTORIES} histories (seeds 0 to {HISTORIES - 1}); how often a rerun was declared: {dict(declared)}")
