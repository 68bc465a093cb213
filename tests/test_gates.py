"""The gates before an old key goes off: what opens each, what it says while it is shut, and how it is overridden."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from two_users import ACCOUNT, OLD, PAIR, Answers, two_users

from playbook.canary import CanaryReport
from playbook.engine import Engine
from playbook.errors import ExitCode
from playbook.journal import Journal
from playbook.model import Recourse, Status
from playbook.operators.script import Script
from playbook.operators.transcript import Transcript
from playbook.ports import KeyStatus, Waits, WorkflowStatus
from playbook.records import Opened
from playbook.twins.pipeline import context_sink, project_sink
from playbook.twins.state import RunJob, RunPipeline, RunWorkflow, Signing, StoredProject, Use
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from playbook.world import CaseWorld
from steps import PLAYBOOK
from steps.canary_job import RunCanary
from steps.gates import DrainJobs
from steps.iam_keys import Pair

USER = "ci-deploy"


class Operator(Answers):
    """Answers as a table says, and takes the recourses in their order."""

    def __init__(self, answers=None, recourses=(), **others) -> None:
        super().__init__(**others)
        self.table = answers or {}
        self.recourses = list(recourses)

    def answer(self, question):
        for name, value in self.table.items():
            if question.id.startswith(name):
                self.asked.append(question.id)
                return value
        return super().answer(question)

    def recourse(self, trouble):
        self.troubles.append(trouble)
        return self.recourses.pop(0) if self.recourses else Recourse.ABORT


def run(world: TwinWorld, operator, journal: Journal | None = None, waits: Waits | None = None):
    if journal is None:
        journal = Journal(now=world.clock.now)
        journal.append(Opened(case="gates", tool="test", mode="rehearsal", host="here"))
    engine = Engine(journal, world.platforms(), operator, parallel=1, pilot=0, waits=waits)
    return engine.run(PLAYBOOK), journal


def old_key(world: TwinWorld, user: str = USER) -> KeyStatus | None:
    return {key.id: key.status for key in world.all_keys(ACCOUNT, user)}.get(OLD[user])


def verified(journal: Journal, kind: str) -> list[dict[str, object]]:
    return [
        dict(p.evidence) for key, p in journal.state.progress.items() if key.startswith(kind) and p.state == "verified"
    ]


# --- canary ---------------------------------------------------------------------------------------------------------


def test_a_canary_a_place_is_a_gate_and_says_who_it_was() -> None:
    world = TwinWorld(two_users(canaries=True))

    outcome, journal = run(world, Answers())

    assert outcome.exit_code is ExitCode.DONE
    seen = verified(journal, "circleci:run-canary:")
    assert len(seen) == 4
    assert {str(item["arn"]) for item in seen} == {f"arn:aws:iam::{ACCOUNT}:user/{name}" for name in OLD}


def test_a_job_that_signs_with_another_key_shuts_the_gate() -> None:
    world = TwinWorld(two_users(canaries=True))
    place = project_sink(world.state.circleci.projects["gh/acme/api"])

    def meddle(call, moment):
        if moment == "before" and call.operation == "run_inline" and call.target == "gh/acme/api":
            world.foreign_put_pair(place, OLD[USER], *PAIR)

    world.on_call = meddle

    outcome, _ = run(world, Answers())

    assert outcome.exit_code is ExitCode.WAITING
    assert old_key(world) is KeyStatus.ACTIVE
    assert any("signed with another key than" in trouble.reason for trouble in outcome.troubles)


def test_the_project_variable_that_hides_a_context_is_named() -> None:
    world = TwinWorld(two_users(canaries=True))
    view = CaseWorld(world.platforms(), Journal())
    action = RunCanary(
        pair=Pair(
            sink=context_sink(world.state.circleci.contexts["ctx-ecr"]), id_variable=PAIR[0], secret_variable=PAIR[1]
        ),
        account=ACCOUNT,
        user="ci-ecr",
        old_key_id=OLD["ci-ecr"],
        project=view.circleci.projects(view.circleci.organizations()[0]).items[0],
        user_arn="",
        mint="",
        region="us-east-1",
    )

    seen = action._compare(view, CanaryReport(account=ACCOUNT, arn="arn", tail=OLD[USER][-4:]), {})

    assert seen.status is Status.CONFLICT
    assert "the project variable AWS_ACCESS_KEY_ID of gh/acme/api has it" in seen.reason


def test_a_canary_is_run_anew_when_the_responder_retries() -> None:
    world = TwinWorld(two_users(canaries=True))
    place = project_sink(world.state.circleci.projects["gh/acme/api"])
    runs = []

    def meddle(call, moment):
        if moment == "before" and call.operation == "run_inline" and call.target == "gh/acme/api":
            runs.append(call)
            if len(runs) == 2:  # the first one is the context's
                world.foreign_put(place, PAIR[1], "a torn half of somebody, forty characters")

    world.on_call = meddle

    class Mending(Operator):
        def recourse(self, trouble):
            self.troubles.append(trouble)
            if "could not sign" not in trouble.reason:
                return Recourse.ABORT
            world.on_call = lambda _call, _moment: None
            new = next(key.id for key in world.all_keys(ACCOUNT, USER) if key.id != OLD[USER])
            world.foreign_put_pair(place, new, *PAIR)
            return Recourse.RETRY

    operator = Mending()
    outcome, _ = run(world, operator)

    assert [trouble.reason for trouble in operator.troubles if "SignatureDoesNotMatch" in trouble.reason]
    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles]


def test_the_results_of_a_job_that_ran_long_are_waited_for_from_its_end() -> None:
    """The job itself may outlast the wait for what it stored."""
    world = TwinWorld(two_users(canaries=True), switches=Switches(job_s=200, results_lag_s=20))

    outcome, journal = run(world, Answers())

    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles]
    assert len(verified(journal, "circleci:run-canary:")) == 4


def test_where_inline_configs_are_forbidden_there_is_no_canary_and_the_plan_says_so() -> None:
    world = TwinWorld(two_users())

    outcome, journal = run(world, Answers())

    assert outcome.exit_code is ExitCode.DONE
    assert not verified(journal, "circleci:run-canary:")
    texts = [finding.text for finding in outcome.findings]
    assert any("does not allow a pipeline with a config of ours" in text for text in texts)


def test_a_named_workflow_is_run_again_instead() -> None:
    state = two_users()
    slug = "gh/acme/api"
    began = state.now - timedelta(days=1)
    state.circleci.pipelines["p-1"] = RunPipeline(
        id="p-1",
        project=slug,
        number=7,
        created_at=began,
        workflows=[
            RunWorkflow(
                id="w-1",
                name="deploy",
                created_at=began,
                jobs=[
                    RunJob(
                        id="j-1",
                        name="deploy",
                        number=3,
                        contexts=("deploy",),
                        signing=Signing(id_variable=PAIR[0], secret_variable=PAIR[1]),
                        started_at=began,
                        stopped_at=began + timedelta(minutes=2),
                    )
                ],
            )
        ],
    )
    world = TwinWorld(state)
    operator = Operator({"keys.canary_workflows": (f"{slug}:deploy",)})

    outcome, journal = run(world, operator)

    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles]
    seen = verified(journal, "circleci:rerun-as-canary:")
    assert seen
    assert {item["status"] for item in seen} == {WorkflowStatus.SUCCESS.value}


# --- override -------------------------------------------------------------------------------------------------------


def denying(world: TwinWorld) -> TwinWorld:
    """A world in which the canaries cannot start, though the settings let them."""
    for project in world.state.circleci.projects.values():
        project.definitions.clear()
    return world


def test_a_gate_is_overridden_only_with_a_reason_that_is_journaled() -> None:
    world = denying(TwinWorld(two_users(canaries=True)))
    operator = Operator({"gates.reason:": "the build was watched by hand"}, [Recourse.OVERRIDE] * 4)

    outcome, journal = run(world, operator)

    assert outcome.exit_code is ExitCode.DONE
    assert old_key(world) is KeyStatus.INACTIVE
    passed = verified(journal, "circleci:run-canary:")
    assert [item["reason"] for item in passed] == ["the build was watched by hand"] * 4
    assert sum(subject.startswith("override:circleci:run-canary:") for subject in journal.state.approvals) == 4


def test_without_an_override_the_old_key_stays_on() -> None:
    world = denying(TwinWorld(two_users(canaries=True)))

    outcome, _ = run(world, Operator())

    assert outcome.exit_code is ExitCode.WAITING or outcome.exit_code is ExitCode.SOME_FAILED
    assert old_key(world) is KeyStatus.ACTIVE


@pytest.mark.parametrize("named", [True, False])
def test_an_answers_file_overrides_the_gates_that_it_names(named: bool) -> None:
    world = denying(TwinWorld(two_users(canaries=True)))
    gates = '["canary"]' if named else '["silence"]'
    text = f"""
        [incident]
        severity = "exposed"
        [circleci]
        organizations = ["gh/acme"]
        [[keys]]
        match = {{}}
        strategy = "replace"
        override = {gates}
        reason = "a build was watched"
    """
    script = Script(text, yes=True)

    outcome, _ = run(world, Transcript(script, {}, lambda _question, _value: None))

    assert (outcome.exit_code is ExitCode.DONE) is named
    assert old_key(world) is (KeyStatus.INACTIVE if named else KeyStatus.ACTIVE)


# --- silence --------------------------------------------------------------------------------------------------------


def test_routine_waits_for_hours_of_silence_and_goes_on_by_aws_clock() -> None:
    world = TwinWorld(two_users())
    operator = Answers(severity="routine")

    first, journal = run(world, operator)

    assert first.exit_code is ExitCode.WAITING
    assert old_key(world) is KeyStatus.ACTIVE
    assert any("must be silent for 14400 s" in trouble.reason for trouble in first.troubles)

    world.clock.sleep(14_400)
    second, _ = run(world, operator, journal)

    assert second.exit_code is ExitCode.DONE, [trouble.reason for trouble in second.troubles]
    assert old_key(world) is KeyStatus.INACTIVE


def test_a_use_after_the_switch_begins_the_silence_anew_and_is_named() -> None:
    world = TwinWorld(two_users())
    operator = Answers(severity="routine")
    _, journal = run(world, operator)
    world.clock.sleep(14_000)
    used_at = world.clock.now()
    world.state.accounts[ACCOUNT].keys[OLD[USER]].last_used = Use(at=used_at, service="s3", region="eu-west-1")
    world.clock.sleep(600)

    outcome, _ = run(world, operator, journal)

    reasons = [trouble.reason for trouble in outcome.troubles if OLD[USER] in trouble.reason]
    assert old_key(world) is KeyStatus.ACTIVE
    assert any("it was used at" in reason and "s3 eu-west-1" in reason for reason in reasons), reasons


# --- drain ----------------------------------------------------------------------------------------------------------


def running(world: TwinWorld, ends_in: float | None) -> None:
    """A job of the project began before the rotation; None: it never ends."""
    now = world.clock.now()
    world.state.circleci.pipelines["p-9"] = RunPipeline(
        id="p-9",
        project="gh/acme/api",
        number=9,
        created_at=now - timedelta(minutes=5),
        workflows=[
            RunWorkflow(
                id="w-9",
                name="build",
                created_at=now - timedelta(minutes=5),
                jobs=[running_job(now, ends_in)],
            )
        ],
    )


def running_job(now, ends_in):
    stopped = None if ends_in is None else now + timedelta(seconds=ends_in)
    return RunJob(id="j-9", name="build", number=31, started_at=now - timedelta(minutes=5), stopped_at=stopped)


def test_the_old_key_stays_on_while_a_job_that_began_before_runs() -> None:
    world = TwinWorld(two_users())
    running(world, ends_in=600)
    began = world.clock.now()

    outcome, journal = run(world, Answers())

    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles]
    off = journal.state.progress[f"iam:deactivate-access-key:{ACCOUNT}/{USER}/{OLD[USER]}"]
    assert str(off.evidence["server_time"]) > (began + timedelta(seconds=590)).isoformat()


def test_a_job_that_never_ends_is_waited_for_no_longer_than_drain() -> None:
    world = TwinWorld(two_users())
    running(world, ends_in=None)

    outcome, journal = run(world, Answers(), waits=replace(Waits(), drain=300))

    assert outcome.exit_code is ExitCode.DONE
    (seen,) = [item for item in verified(journal, f"circleci:drain-jobs:{ACCOUNT}/{USER}") if item.get("running")]
    assert seen["pipelines"] == ["p-9"] or seen["pipelines"] == ("p-9",)


def test_a_job_longer_than_patience_ends_the_run_with_eleven() -> None:
    world = TwinWorld(two_users())
    running(world, ends_in=4_000)

    first, journal = run(world, Answers())

    assert first.exit_code is ExitCode.WAITING
    assert old_key(world) is KeyStatus.ACTIVE
    world.clock.sleep(4_000)
    second, _ = run(world, Answers(), journal)
    assert second.exit_code is ExitCode.DONE
    assert old_key(world) is KeyStatus.INACTIVE


def test_keys_that_wait_at_once_share_one_look_at_what_runs() -> None:
    state = two_users()
    for number in range(20):
        slug = f"gh/acme/more-{number}"
        state.circleci.projects[slug] = StoredProject(id=f"id-{slug}", slug=slug, organization="gh/acme")
    world = TwinWorld(state)
    running(world, ends_in=600)
    listed = []

    def count(call, moment):
        if moment == "before" and call.operation == "pipelines":
            listed.append(call.target)

    world.on_call = count
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case="gates", tool="test", mode="rehearsal", host="here"))
    only = [step for step in PLAYBOOK if step.id != "confirm_builds"]
    outcome = Engine(journal, world.platforms(), Answers(), parallel=4, pilot=0).run(only[:-1])

    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles]
    assert len(listed) == 22, "both keys, one look at 22 projects"
    assert all(status is KeyStatus.INACTIVE for status in (old_key(world), old_key(world, "ci-ecr")))


def test_a_key_that_meets_anothers_look_under_way_looks_again_later() -> None:
    """Found by the histories: two lanes at the same instant, and few projects."""
    world = TwinWorld(two_users())
    view = CaseWorld(world.platforms(), Journal())
    gate = DrainJobs(account=ACCOUNT, user=USER, old_key_id=OLD[USER], projects=("gh/acme/api",))
    seen = []

    def while_it_is_under_way() -> list[str]:
        seen.append(gate.observe(view))
        return []

    view.share("running:gh/acme/api", while_it_is_under_way, since=view.clock.monotonic())

    assert [item.status for item in seen] == [Status.PENDING]
    view.looked(gate.key, seen[0].evidence)
    assert gate.observe(view).status is Status.PRESENT
