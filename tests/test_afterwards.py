"""What stands beside the playbook: undo, retirement, and the first minute - each a plan of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from two_users import ACCOUNT, OLD, ORGANIZATION, PAIR, START, Answers, two_users

from playbook import modes
from playbook.engine import Engine
from playbook.errors import ExitCode, GuardError, UsageError
from playbook.journal import Journal
from playbook.ports import KeyStatus, Sink, SinkKind, Waits
from playbook.records import Opened, Sealed
from playbook.twins.state import IamRole, TrailEvent, Use, Version
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK, RETIREMENT, UNDO, contain_now
from steps.session_policies import POLICY

USER = "ci-deploy"


class Operator(Answers):
    """Answers as a table says; `approvals` are taken in their order, then yes."""

    def __init__(self, answers=None, approvals=(), **others) -> None:
        super().__init__(**others)
        self.table = answers or {}
        self.approvals = list(approvals)
        self.plans = []

    def answer(self, question):
        for name, value in self.table.items():
            if question.id.startswith(name):
                self.asked.append(question.id)
                return value
        return super().answer(question)

    def approve(self, plan):
        self.plans.append(plan)
        return self.approvals.pop(0) if self.approvals else True


def begin(world: TwinWorld) -> Journal:
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case="afterwards", tool="test", mode="rehearsal", host="here"))
    return journal


def rotate(world: TwinWorld, operator=None) -> Journal:
    journal = begin(world)
    outcome = Engine(journal, world.platforms(), operator or Answers(), parallel=1, pilot=0).run(PLAYBOOK)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    return journal


def alone(world: TwinWorld, journal: Journal, step, operator=None, *, waits: Waits | None = None, digest: str = ""):
    conduct = modes.Conduct(
        settings=modes.Settings(parallel=1),
        waits=waits or Waits(),
        approval=modes.Approval(digest=digest),
        tell=lambda _event, _fields: None,
        started=lambda _engine: None,
    )
    return modes.carry_out_alone(journal, world.platforms(), step, operator or Operator(), conduct)


def statuses(world: TwinWorld, user: str = USER) -> dict[str, KeyStatus]:
    return {key.id: key.status for key in world.all_keys(ACCOUNT, user)}


# --- undo -----------------------------------------------------------------------------------------------------------


def test_undo_switches_the_old_keys_on_again_newest_first_and_says_what_stays() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    operator = Operator()

    outcome = alone(world, journal, UNDO, operator)

    assert outcome.exit_code is ExitCode.DONE
    assert {statuses(world, user)[OLD[user]] for user in OLD} == {KeyStatus.ACTIVE}
    (plan,) = operator.plans
    assert [action.kind for action in plan.actions] == ["iam:activate-access-key"] * 2
    # The run worked on ci-deploy first, so it is put back last.
    assert [action.user for action in plan.actions] == ["ci-ecr", "ci-deploy"]
    lost = [finding.text for finding in plan.findings if "Cannot be put back" in finding.text]
    assert len(lost) == 4


def test_a_second_undo_finds_nothing_left() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    alone(world, journal, UNDO)
    operator = Operator()

    outcome = alone(world, journal, UNDO, operator)

    assert outcome.exit_code is ExitCode.DONE
    assert not operator.plans


def test_what_was_undone_and_switched_off_again_by_hand_can_be_undone_only_by_hand() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    alone(world, journal, UNDO)
    world.foreign_set_status(ACCOUNT, OLD[USER], KeyStatus.INACTIVE)

    alone(world, journal, UNDO)

    assert statuses(world)[OLD[USER]] is KeyStatus.INACTIVE


def test_undo_after_a_containment_warns() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world, Answers(strategy="contain", severity="confirmed"))
    operator = Operator()

    alone(world, journal, UNDO, operator)

    (plan,) = operator.plans
    warnings = [finding.text for finding in plan.findings if finding.level == "danger"]
    assert len(warnings) == 2
    assert all("gives it back to whoever else holds it" in text for text in warnings)


def test_a_declined_undo_changes_nothing() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)

    with pytest.raises(Exception, match="declined"):
        alone(world, journal, UNDO, Operator(approvals=[False]))

    assert statuses(world)[OLD[USER]] is KeyStatus.INACTIVE


def test_an_undo_under_another_digest_is_refused_and_names_its_own() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)

    with pytest.raises(GuardError) as refused:
        alone(world, journal, UNDO, digest="sha256:" + "0" * 64)
    digest = next(word for word in refused.value.remedy.replace(",", " ").split() if word.startswith("sha256:"))
    outcome = alone(world, journal, UNDO, digest=digest)

    assert outcome.exit_code is ExitCode.DONE
    assert statuses(world)[OLD[USER]] is KeyStatus.ACTIVE


def test_an_undo_that_died_in_the_middle_goes_on_with_what_is_left() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)

    class Died(BaseException):
        """The process is gone."""

    def die(call, moment):
        if call.operation == "set_key_status" and moment == "after":
            raise Died

    world.on_call = die
    with pytest.raises(Died):
        alone(world, journal, UNDO)
    world.on_call = lambda _call, _moment: None
    operator = Operator()

    outcome = alone(world, journal, UNDO, operator)

    assert outcome.exit_code is ExitCode.DONE
    assert {statuses(world, user)[OLD[user]] for user in OLD} == {KeyStatus.ACTIVE}


@pytest.mark.parametrize("operation", ["tag_user", "put_user_policy", "put_role_policy"])
def test_an_undo_takes_away_what_was_written_just_before_and_no_read_shows_yet(operation) -> None:
    state = two_users()
    arn = f"arn:aws:iam::{ACCOUNT}:role/deployer"
    account = state.accounts[ACCOUNT]
    account.roles["deployer"] = [Version(value=IamRole(name="deployer", arn=arn, trust={}))]
    assumed = {"signer": OLD[USER], "actor": USER, "issued_key_id": "ASIAASSUMEDBYDEPLOYA", "role": arn}
    account.trail.append(TrailEvent(id="e", at=START - timedelta(hours=1), name="AssumeRole", service="sts", **assumed))
    world = TwinWorld(state)
    journal = begin(world)

    class Died(BaseException):
        """The process is gone."""

    def die(call, moment):
        if call.operation == operation and moment == "after":
            raise Died

    world.on_call = die
    with pytest.raises(Died):
        Engine(journal, world.platforms(), Answers(strategy="contain"), parallel=1, pilot=0).run(PLAYBOOK)
    world.on_call = lambda _call, _moment: None

    outcome = alone(world, journal, UNDO)

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    world.clock.sleep(60)
    aws = world.aws[ACCOUNT]
    assert not any(aws.user_tags(user) or aws.user_policy(user, POLICY) for user in OLD)
    assert aws.role_policy("deployer", POLICY) is None


# --- retirement -----------------------------------------------------------------------------------------------------

AGREED = {"keys.delete_after_grace:": True}


def test_nothing_is_deleted_before_its_grace_time_is_over() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert OLD[USER] in statuses(world)
    assert [finding.due_at for finding in outcome.findings if "not to be deleted yet" in finding.text]


def test_a_contained_key_too_is_retired_only_while_every_place_holds_the_new_one() -> None:
    """It was switched off before there was a new key, so the containment itself knows of no places."""
    world = TwinWorld(two_users())
    journal = rotate(world, Answers(strategy="contain"))
    world.clock.sleep(25 * 3600)
    sink = Sink(kind=SinkKind.CONTEXT, id="ctx-deploy", name="deploy", organization=ORGANIZATION)
    world.foreign_put_pair(sink, OLD[USER], *PAIR)
    world.clock.sleep(60)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert any("does not hold the new key" in trouble.reason for trouble in outcome.troubles)
    assert OLD[USER] in statuses(world)
    assert OLD["ci-ecr"] not in statuses(world, "ci-ecr")


def test_a_retirement_that_died_just_after_a_deletion_goes_on_while_the_list_lags() -> None:
    """The list shows the deleted key for some seconds, and nothing more can be asked about it."""
    world = TwinWorld(two_users())
    journal = rotate(world)
    world.clock.sleep(25 * 3600)

    class Died(BaseException):
        """The process is gone."""

    def die(call, moment):
        if call.operation == "delete_access_key" and moment == "after":
            raise Died

    world.on_call = die
    with pytest.raises(Died):
        alone(world, journal, RETIREMENT, Operator(AGREED))
    world.on_call = lambda _call, _moment: None

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert all(OLD[user] not in statuses(world, user) for user in OLD)


def test_after_the_grace_time_the_silent_key_is_deleted_and_the_new_one_stays() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    journal.append(Sealed(outcome="done", exit_code=0))
    world.clock.sleep(25 * 3600)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    for user in OLD:
        assert OLD[user] not in statuses(world, user)
        assert list(statuses(world, user).values()) == [KeyStatus.ACTIVE]


def test_without_a_yes_it_stays() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    world.clock.sleep(25 * 3600)

    outcome = alone(world, journal, RETIREMENT, Operator({"keys.delete_after_grace:": False}))

    assert OLD[USER] in statuses(world)
    assert any("kept at your word" in finding.text for finding in outcome.findings)


def test_a_key_that_somebody_missed_is_not_deleted() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    world.clock.sleep(3600)
    key = world.state.accounts[ACCOUNT].keys[OLD[USER]]
    key.last_used = Use(at=world.clock.now(), service="s3", region="eu-west-1")
    world.clock.sleep(25 * 3600)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert outcome.exit_code is ExitCode.WAITING
    assert statuses(world)[OLD[USER]] is KeyStatus.INACTIVE
    assert any("somebody tried" in trouble.reason for trouble in outcome.troubles)
    assert OLD["ci-ecr"] not in statuses(world, "ci-ecr")


def test_a_key_whose_place_went_back_to_it_is_not_deleted() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    sink = next(item for item in world.platforms().circleci.contexts(world.platforms().circleci.organizations()[0]))
    world.foreign_put_pair(sink, OLD[USER], "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    world.clock.sleep(25 * 3600)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert OLD[USER] in statuses(world)
    assert any("does not hold the new key" in trouble.reason for trouble in outcome.troubles)


def test_after_a_containment_too_every_place_is_read_before_the_old_key_is_deleted() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world, Answers(strategy="contain", severity="confirmed"))
    sink = next(item for item in world.platforms().circleci.contexts(world.platforms().circleci.organizations()[0]))
    world.foreign_put_pair(sink, OLD[USER], "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    world.clock.sleep(25 * 3600)

    outcome = alone(world, journal, RETIREMENT, Operator(AGREED))

    assert OLD[USER] in statuses(world)
    assert any("does not hold the new key" in trouble.reason for trouble in outcome.troubles)
    assert OLD["ci-ecr"] not in statuses(world, "ci-ecr")


def test_a_fresh_switching_off_soaks_first() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    no_grace = Operator({**AGREED, "keys.grace_hours:": 0})

    outcome = alone(world, journal, RETIREMENT, no_grace, waits=replace(Waits(), soak=100_000))

    assert outcome.exit_code is ExitCode.WAITING
    assert OLD[USER] in statuses(world)


def test_what_fell_due_later_is_retired_in_a_further_round() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world)
    early = Operator({**AGREED, "keys.grace_hours:111122223333/ci-deploy": 1, "keys.grace_hours:": 48})
    world.clock.sleep(2 * 3600)

    first = alone(world, journal, RETIREMENT, early)
    assert OLD[USER] not in statuses(world)
    assert OLD["ci-ecr"] in statuses(world, "ci-ecr")
    world.clock.sleep(48 * 3600)
    second = alone(world, journal, RETIREMENT, early)

    assert first.exit_code is second.exit_code is ExitCode.DONE
    assert OLD["ci-ecr"] not in statuses(world, "ci-ecr")


def test_the_denial_of_old_sessions_is_taken_away_once_none_can_be_alive_and_by_undo_at_once() -> None:
    world = TwinWorld(two_users())
    journal = rotate(world, Answers(strategy="contain", severity="confirmed"))
    aws = world.platforms().aws[ACCOUNT]
    assert aws.user_policy(USER, POLICY) is not None

    alone(world, journal, RETIREMENT, Operator({"keys.delete_after_grace:": False}))
    assert aws.user_policy(USER, POLICY) is not None
    world.clock.sleep(37 * 3600)
    alone(world, journal, RETIREMENT, Operator({"keys.delete_after_grace:": False}))
    world.clock.sleep(60)
    assert aws.user_policy(USER, POLICY) is None

    other = TwinWorld(two_users())
    journal = rotate(other, Answers(strategy="contain", severity="confirmed"))
    alone(other, journal, UNDO)
    other.clock.sleep(60)
    assert other.platforms().aws[ACCOUNT].user_policy(USER, POLICY) is None


# --- the first minute -----------------------------------------------------------------------------------------------


def test_a_key_is_off_after_one_approval_and_listed_again_and_circleci_is_never_asked() -> None:
    world = TwinWorld(two_users())
    calls = []
    world.on_call = lambda call, moment: calls.append(call) if moment == "before" else None
    operator = Operator()

    outcome = alone(world, begin(world), contain_now([OLD[USER]]), operator)

    assert outcome.exit_code is ExitCode.DONE
    assert statuses(world)[OLD[USER]] is KeyStatus.INACTIVE
    assert statuses(world, "ci-ecr")[OLD["ci-ecr"]] is KeyStatus.ACTIVE
    assert len(operator.plans) == 1
    assert {call.service for call in calls} == {"iam"}
    assert [call.operation for call in calls].index("set_key_status") <= 4


def test_the_case_goes_on_as_a_run_that_replaces_the_contained_key() -> None:
    world = TwinWorld(two_users())
    journal = begin(world)
    alone(world, journal, contain_now([OLD[USER]]))

    class Responder(Operator):
        def answer(self, question):
            if question.id.startswith("keys.strategy:") and "/ci-deploy/" in question.id:
                self.asked.append((question.id, question.proposal))
                return "contain"
            return super().answer(question)

    operator = Responder()
    outcome = Engine(journal, world.platforms(), operator, parallel=1, pilot=0).run(PLAYBOOK)

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert (f"keys.strategy:{ACCOUNT}/{USER}/{OLD[USER]}", "contain") in operator.asked
    assert statuses(world)[OLD[USER]] is KeyStatus.INACTIVE
    assert sorted(statuses(world).values()) == [KeyStatus.ACTIVE, KeyStatus.INACTIVE]


def test_an_unknown_key_and_our_own_are_refused_and_nothing_is_switched_off() -> None:
    world = TwinWorld(two_users())
    world.state.accounts[ACCOUNT].own_key_id = OLD["ci-ecr"]

    with pytest.raises(UsageError, match="is no key of"):
        alone(world, begin(world), contain_now([OLD[USER], "AKIAUNKNOWNUNKNOWN22"]))
    with pytest.raises(GuardError, match="lock itself out"):
        alone(world, begin(world), contain_now([OLD[USER], OLD["ci-ecr"]]))

    assert {status for user in OLD for status in statuses(world, user).values()} == {KeyStatus.ACTIVE}


def test_the_other_keys_of_the_user_and_awss_quarantine_are_named() -> None:
    state = two_users()
    world = TwinWorld(state)
    other = world.foreign_create_key(ACCOUNT, USER)
    quarantine = "arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3"
    world.foreign_change_rights(ACCOUNT, USER, lambda rights: msgspec.structs.replace(rights, attached=(quarantine,)))
    world.clock.sleep(60)
    operator = Operator()

    alone(world, begin(world), contain_now([OLD[USER]]), operator)

    texts = [finding.text for plan in operator.plans for finding in plan.findings]
    assert any(other in text and "stays on" in text for text in texts)
    assert any("under quarantine" in text for text in texts)
