"""New work is blocked and running work cancelled only where the responder says so, and the block is lifted again."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from containment import ACCOUNT, OLD, START, Night
from two_users import ORGANIZATION, Answers

from playbook.errors import CircleCiError, Effect, ExitCode
from playbook.model import Phase, Plan, Status, Step
from playbook.ports import Organization
from playbook.records import Applied, Verified
from playbook.twins.state import ContextRestriction, Refusal, RunJob, RunPipeline, RunWorkflow
from steps import PLAYBOOK
from steps.stop_new_work import ALL, AllowNewWork, BlockNewWork, CancelWorkflow, StopNewWork, lift_blocks

BLOCK = {"incident.block_new_work": True}
ACME = Organization(id="org-1", slug=ORGANIZATION, name="acme")
UNTIL_HERE = [step for step in PLAYBOOK if step.phase in {Phase.PREPARATION, Phase.ANALYSIS}] + [StopNewWork()]


class Lift(Step):
    """Stands in for the step of the recovery that lifts the block."""

    id = "lift"
    title = "Lift the block"
    phase = Phase.RECOVERY
    kinds = (AllowNewWork,)

    def plan(self, view, case, ask):
        return Plan(step=self.id, actions=lift_blocks(view, [ACME], ask))


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def blocked(night):
    return night.twin.state.circleci.organizations[ORGANIZATION].running_disabled


def running(night, project="gh/acme/api", *, name="deploy", ago=timedelta(minutes=20), stopped=None):
    """A workflow that runs until somebody cancels it."""
    started = night.twin.clock.now() - ago
    number = len(night.twin.state.circleci.pipelines) + 1
    job = RunJob(id=f"job-{number}", name="ship", number=number, started_at=started, stopped_at=stopped)
    workflow = RunWorkflow(id=f"workflow-{number}", name=name, created_at=started, jobs=[job])
    night.twin.state.circleci.pipelines[f"pipeline-{number}"] = RunPipeline(
        id=f"pipeline-{number}", project=project, number=number, created_at=started, workflows=[workflow]
    )
    return workflow.id


def is_over(night, workflow):
    found = [item for key in night.twin.state.circleci.pipelines for item in night.twin.circleci.workflows(key)]
    return next(item.status.is_over for item in found if item.id == workflow)


# --- Blocking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", ["exposed", "routine"])
def test_nobody_is_asked_unless_misuse_was_seen(night, severity):
    running(night)
    night.run(steps=UNTIL_HERE, severity=severity)
    assert not [name for name in night.operator.asked if name.startswith("incident.block")]
    assert night.wrote("set_running_disabled") == []


def test_the_safe_answer_blocks_nothing(night):
    night.run(severity="confirmed", steps=UNTIL_HERE)
    assert "incident.block_new_work" in night.operator.asked
    assert not blocked(night)


def test_work_is_blocked_before_any_key_goes_off_and_lifted_once_the_new_keys_are_in(night):
    steps = [*(step for step in PLAYBOOK if not step.closing), Lift()]
    outcome = night.run(severity="confirmed", strategy="contain", said=BLOCK, steps=steps)
    assert outcome.exit_code is ExitCode.DONE
    order = [operation for moment, operation, _ in night.calls if moment == "before"]
    assert order.index("set_running_disabled") < order.index("set_key_status")
    last = len(order) - 1 - order[::-1].index("set_running_disabled")
    assert last > max(at for at, operation in enumerate(order) if operation == "put_variable")
    assert not blocked(night)
    assert any("no canary" in text for text in night.texts("warning"))


def test_a_block_that_somebody_else_set_is_not_lifted(night):
    night.twin.state.circleci.organizations[ORGANIZATION].running_disabled = True
    outcome = night.run(severity="confirmed", said=BLOCK, steps=[*UNTIL_HERE, Lift()])
    assert outcome.exit_code is ExitCode.DONE
    assert night.wrote("set_running_disabled") == []
    assert blocked(night)
    (verified,) = night.records(Verified, AllowNewWork.kind)
    assert verified.evidence["blocked_by_us"] is False


def test_the_undoing_lifts_it(night):
    night.run(severity="confirmed", said=BLOCK, steps=UNTIL_HERE)
    assert blocked(night)
    (undo,) = BlockNewWork(organization=ACME).undo({})
    assert undo == AllowNewWork(organization=ACME)
    assert undo.observe(night.case_view()).status is Status.ABSENT


def test_where_the_api_cannot_the_page_is_named(tmp_path):
    night = Night(tmp_path, v3_settings=False)
    night.run(severity="confirmed", said=BLOCK, steps=UNTIL_HERE)
    assert "incident.block_new_work" not in night.operator.asked
    assert any("Organization Settings > Advanced" in text for text in night.texts("warning"))


def test_where_the_setting_may_not_be_read_the_page_is_named_with_the_reason(night):
    refusals = night.twin.state.circleci.refusals
    refusals[f"running_disabled:{ORGANIZATION}"] = refusals["running_disabled:*"] = Refusal(code="HTTP403", status=403)
    night.run(severity="confirmed", said=BLOCK, steps=UNTIL_HERE)
    (text,) = [text for text in night.texts("warning") if "Organization Settings > Advanced" in text]
    assert "HTTP403" in text


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
@pytest.mark.parametrize("operation", ["set_running_disabled", "cancel_workflow"])
def test_a_lost_or_failed_call_is_looked_at_and_made_good(night, fault, operation):
    workflow = running(night)
    said = {**BLOCK, "incident.cancel_workflows": (ALL,)}
    outcome = night.run(severity="confirmed", said=said, steps=UNTIL_HERE, faults=[f"{fault}:{operation}:1"])
    assert outcome.exit_code is ExitCode.DONE
    assert blocked(night)
    assert is_over(night, workflow)


def test_a_refused_block_keeps_no_key_on(night):
    outcome = night.run(
        severity="confirmed", strategy="deactivate", said=BLOCK, faults=["deny:set_running_disabled:1x9"]
    )
    assert outcome.exit_code is ExitCode.SOME_FAILED
    assert not blocked(night)
    assert all(not key.is_active for user in OLD for key in night.twin.all_keys(ACCOUNT, user))


# --- What runs ------------------------------------------------------------------------------------------------------


def test_what_runs_with_an_exposed_key_is_listed_and_left_alone(night):
    mine, over = running(night), running(night, stopped=START - timedelta(minutes=1))
    outcome = night.run(severity="confirmed", steps=UNTIL_HERE)
    assert outcome.exit_code is ExitCode.DONE
    told = " ".join(night.texts("warning"))
    assert mine in told
    assert over not in told
    assert night.wrote("cancel_workflow") == []
    assert not is_over(night, mine)


def test_only_the_chosen_workflows_are_cancelled(night):
    first, second = running(night), running(night, name="nightly")
    night.run(severity="confirmed", said={"incident.cancel_workflows": (second,)}, steps=UNTIL_HERE)
    assert (is_over(night, first), is_over(night, second)) == (False, True)
    assert night.wrote("cancel_workflow") == [second]


def test_all_are_cancelled_with_one_word(night):
    both = [running(night), running(night, "gh/acme/web")]
    night.run(severity="confirmed", said={"incident.cancel_workflows": (ALL,)}, steps=UNTIL_HERE)
    assert all(is_over(night, workflow) for workflow in both)


def test_a_project_that_may_not_use_the_key_is_not_looked_at(night):
    """Both contexts are restricted to their own project; the third project has nothing to do with the keys."""
    circleci = night.twin.state.circleci
    template = circleci.projects["gh/acme/api"]
    circleci.projects["gh/acme/docs"] = type(template)(id="id-docs", slug="gh/acme/docs", organization=ORGANIZATION)
    for name, slug in (("deploy", "api"), ("ecr", "web")):
        restriction = ContextRestriction(id=f"r-{name}", kind="project", value=f"id-gh/acme/{slug}")
        circleci.contexts[f"ctx-{name}"].restrictions.append(restriction)
    docs = running(night, "gh/acme/docs")
    night.run(severity="confirmed", steps=UNTIL_HERE)
    assert docs not in " ".join(night.texts())
    assert sorted(night.wrote("pipelines")) == ["gh/acme/api", "gh/acme/web"]


def test_a_context_without_a_restriction_is_everybodys(night):
    circleci = night.twin.state.circleci
    template = circleci.projects["gh/acme/api"]
    circleci.projects["gh/acme/docs"] = type(template)(id="id-docs", slug="gh/acme/docs", organization=ORGANIZATION)
    docs = running(night, "gh/acme/docs")
    night.run(severity="confirmed", steps=UNTIL_HERE)
    assert docs in " ".join(night.texts("warning"))


def test_pipelines_that_may_not_be_read_are_a_hole(night):
    night.twin.state.circleci.refusals["pipelines:gh/acme/api"] = Refusal(code="HTTP403", status=403)
    other = running(night, "gh/acme/web")
    assert night.run(severity="confirmed", steps=UNTIL_HERE).exit_code is ExitCode.DONE
    assert any("What runs was not read everywhere: gh/acme/api (HTTP403)" in text for text in night.texts("danger"))
    assert other in " ".join(night.texts("warning"))


def test_a_workflow_that_ends_by_itself_needs_no_call(night):
    workflow = running(night)
    view = night.view()
    (found,) = view.circleci.workflows("pipeline-1")
    action = CancelWorkflow(workflow_id=found.id, name=found.name, pipeline=found.pipeline, project=found.project)
    assert action.observe(view).status is Status.ABSENT
    night.twin.circleci.cancel_workflow(workflow)
    assert action.observe(view).status is Status.PRESENT
    gone = CancelWorkflow(workflow_id="workflow-9", name="x", pipeline=found.pipeline, project=found.project)
    assert gone.observe(view).status is Status.CONFLICT


# --- Killed ---------------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_at_any_call_goes_on_to_the_same_end(tmp_path):
    said = {**BLOCK, "incident.cancel_workflows": (ALL,)}

    def begin(name):
        night = Night(tmp_path / name)
        return night, running(night)

    whole, _ = begin("whole")
    whole.run(severity="confirmed", said=said, steps=UNTIL_HERE)
    first = next(at for at, call in enumerate(whole.calls) if call[1] == "running_disabled")
    tried = 0
    for kill_at in range(first + 1, len(whole.calls) + 1):
        night, workflow = begin(str(kill_at))
        assert night.run(kill_at=kill_at, severity="confirmed", said=said, steps=UNTIL_HERE) is None
        assert night.run(severity="confirmed", said=said, steps=UNTIL_HERE).exit_code is ExitCode.DONE
        assert blocked(night)
        assert is_over(night, workflow)
        tried += 1
    print(f"{tried} kills")
    assert tried > 10


# --- What is noted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["contain", "deactivate"])
def test_what_users_have_is_noted_before_a_key_goes_off(night, strategy):
    night.give("mfa-device")
    night.run(strategy=strategy)
    (noted,) = night.records(Verified, "iam:note-users")
    (first, *_) = night.records(Applied, "iam:deactivate-access-key")
    assert noted.seq < first.seq
    assert set(noted.evidence["users"]) == set(OLD)
    assert sorted(mark.partition(":")[0] for mark in noted.evidence["users"]["ci-deploy"]) == [
        "access-key",
        "mfa-device",
    ]


def test_a_note_that_cannot_be_taken_whole_stands_in_nobodys_way(night):
    night.twin.state.accounts[ACCOUNT].denied += ["iam:GetAccountAuthorizationDetails", "iam:GetLoginProfile"]
    night.run(strategy="deactivate")
    (noted,) = night.records(Verified, "iam:note-users")
    assert len(noted.evidence["unread"]) == 3
    assert all(not key.is_active for user in OLD for key in night.twin.all_keys(ACCOUNT, user))


def test_what_is_noted_of_many_users_fits_into_a_record(tmp_path):
    """A record has 16 KiB; a user can have some seventy things."""
    night = Night(tmp_path)
    for user in OLD:
        for number in range(70):
            night.give("mfa-device", user, f"arn:aws:iam::{ACCOUNT}:mfa/{'x' * 60}-{number}")
    night.run(strategy="deactivate")
    (noted,) = night.records(Verified, "iam:note-users")
    size = len(json.dumps(noted.evidence)) * 5 / len(OLD)
    print(f"five users of 71 things each take {size:.0f} bytes")
    assert size < 15_000


def test_lifting_asks_nothing_where_nothing_was_asked():
    operator = Answers()

    def never(_organization):
        raise CircleCiError("x", code="HTTP403", effect=Effect.NONE)

    view = type("View", (), {"circleci": type("C", (), {"running_disabled": staticmethod(never)})})
    assert lift_blocks(view, [ACME], operator.answer) == ()
    operator.severity = "confirmed"
    assert lift_blocks(view, [ACME], operator.answer) == ()
    assert operator.asked == ["incident.severity", "incident.severity"]
