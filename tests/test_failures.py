"""Rows of the failure table that no other test provokes, on the twins through the real engine (docs/failures.md)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from two_users import ACCOUNT, OLD, PAIR, Answers, two_users

from playbook.engine import Engine
from playbook.errors import ExitCode
from playbook.journal import Journal, read, this_host
from playbook.model import Recovery
from playbook.ports import Identity, KeyStatus, Waits
from playbook.records import Opened
from playbook.twins.faults import Faults
from playbook.twins.pipeline import context_sink, project_sink
from playbook.twins.state import Change
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK, RETIREMENT
from steps.user_lease import TAG

USER = "ci-deploy"
BOTH = tuple(OLD)
OLD_ON = dict.fromkeys(OLD.values(), KeyStatus.ACTIVE)


class Killed(BaseException):
    """The process is gone."""


class Replacing(Answers):
    """Replaces the old keys, and leaves every other one that it finds on."""

    def answer(self, question):
        if question.id.startswith("keys.strategy:"):
            return "replace" if question.id.rpartition("/")[2] in OLD.values() else "keep"
        return "a colleague's, perhaps" if question.id.startswith("keys.reason:") else super().answer(question)


def begin(world, case="first"):
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case=case, tool="test", mode="rehearsal", host=this_host()))
    return journal


def run(world, journal=None, *, platforms=None, operator=None, waits=None, steps=PLAYBOOK, again=frozenset()):
    engine = Engine(
        journal or begin(world),
        platforms or world.platforms(),
        operator or Answers(),
        waits=waits or Waits(),
        parallel=1,
        pilot=0,
    )
    return engine.run(steps, again=again, closes=not again)


def killed_before(world, operation, journal, number=1):
    """A run that is killed just before its n-th call of an operation."""
    calls = []

    def kill(call, moment):
        if call.operation == operation and moment == "before":
            calls.append(call)
            if len(calls) == number:
                raise Killed

    world.on_call = kill
    with pytest.raises(Killed):
        run(world, journal)
    world.on_call = None


def keys(world, user=USER):
    return {key.id: key.status for key in world.all_keys(ACCOUNT, user)}


def every_key(world):
    return {key: status for user in BOTH for key, status in keys(world, user).items()}


def holders(world):
    """By place, the tail of the id that is stored there."""
    circleci = world.state.circleci
    places = {**circleci.contexts, **circleci.projects}
    return {name: place.variables[PAIR[0]].value.tail for name, place in places.items()}


def untouched(world):
    return holders(world) == holders(TwinWorld(two_users()))


def reasons(outcome):
    return [trouble.reason for trouble in outcome.troubles]


def deploy(world):
    return context_sink(world.state.circleci.contexts["ctx-deploy"])


# --- Making and proving the new key ---------------------------------------------------------------------------------


def test_a_create_that_never_arrived_is_looked_for_and_then_made_once():
    world = TwinWorld(two_users())
    world.faults = Faults(["drop-request:create_access_key:1"])

    outcome = run(world)

    assert outcome.exit_code is ExitCode.DONE, reasons(outcome)
    assert sorted(len(keys(world, user)) for user in BOTH) == [2, 2]


def test_an_unknown_key_that_cannot_be_laid_at_anybodys_door_is_named_and_left_on():
    """Our create's reply is lost while a colleague makes a key, and CloudTrail may not be asked."""
    world = TwinWorld(two_users(), switches=Switches(trail_denied=True, keys_per_user=4))
    world.faults = Faults(["drop-reply:create_access_key:1"])
    theirs = []

    def meddle(call, moment):
        if call.operation == "create_access_key" and moment == "before" and not theirs:
            theirs.append(world.foreign_create_key(ACCOUNT, call.target.split("/")[1]))

    world.on_call = meddle
    outcome = run(world)

    assert outcome.exit_code is ExitCode.WAITING
    assert set(keys(world).values()) == {KeyStatus.ACTIVE}, "nothing that may be somebody's is switched off"
    assert theirs[0] in keys(world)
    assert any("CloudTrail may not be read; it is left alone" in reason for reason in reasons(outcome))


def test_a_key_that_sts_never_accepts_reaches_no_place_and_does_not_stay_on():
    world = TwinWorld(two_users(), switches=Switches(sts_lag_s=100_000))

    outcome = run(world)

    assert outcome.exit_code is ExitCode.WAITING
    assert untouched(world)
    assert every_key(world).items() >= OLD_ON.items()
    made = every_key(world).keys() - OLD_ON.keys()
    assert made
    assert {every_key(world)[key] for key in made} == {KeyStatus.INACTIVE}


def test_a_new_key_that_is_somebody_else_reaches_no_place():
    world = TwinWorld(two_users())
    stranger = Identity(account=ACCOUNT, arn=f"arn:aws:iam::{ACCOUNT}:user/somebody-else")

    outcome = run(world, platforms=replace(world.platforms(), identify=lambda _credential: stranger))

    assert outcome.exit_code is ExitCode.WAITING
    assert untouched(world)
    assert every_key(world).items() >= OLD_ON.items()
    assert {every_key(world)[key] for key in every_key(world).keys() - OLD_ON.keys()} == {KeyStatus.INACTIVE}


# --- Places ---------------------------------------------------------------------------------------------------------


def test_a_place_that_somebody_rotated_before_our_write_is_not_overwritten():
    world = TwinWorld(two_users(), switches=Switches(keys_per_user=4))
    theirs = []

    def meddle(call, moment):
        if call.operation == "create_access_key" and moment == "after" and USER in call.target and not theirs:
            theirs.append(world.foreign_create_key(ACCOUNT, USER))
            world.foreign_put_pair(deploy(world), theirs[0], *PAIR)

    world.on_call = meddle
    outcome = run(world)

    assert outcome.exit_code is ExitCode.WAITING
    assert holders(world)["ctx-deploy"] == theirs[0][-4:]
    assert keys(world)[OLD[USER]] is KeyStatus.ACTIVE


@pytest.mark.parametrize("fresh_tail", ["nothing", "old"])
@pytest.mark.parametrize("lag_s", [0, 5, 20])
def test_a_read_back_that_lags_is_waited_for(fresh_tail, lag_s):
    lag = Switches(tail_lag_s=lag_s, list_lag_s=lag_s, status_lag_s=lag_s, sts_lag_s=lag_s, fresh_tail=fresh_tail)
    world = TwinWorld(two_users(), switches=lag)

    outcome = run(world)

    assert outcome.exit_code is ExitCode.DONE, reasons(outcome)
    assert {every_key(world)[key] for key in OLD_ON} == {KeyStatus.INACTIVE}
    assert all(tail not in {key[-4:] for key in OLD_ON} for tail in holders(world).values())


def test_a_context_that_is_deleted_half_way_keeps_the_old_key_on():
    world = TwinWorld(two_users())

    def meddle(call, moment):
        if call.operation == "create_access_key" and moment == "after" and USER in call.target:
            world.state.circleci.contexts.pop("ctx-deploy", None)

    world.on_call = meddle
    outcome = run(world)

    assert outcome.exit_code in {ExitCode.WAITING, ExitCode.SOME_FAILED}
    assert keys(world)[OLD[USER]] is KeyStatus.ACTIVE
    assert keys(world, "ci-ecr")[OLD["ci-ecr"]] is KeyStatus.INACTIVE, "the other user's goes on"


# --- Switching off, deleting, and the last look ---------------------------------------------------------------------


def test_a_deletion_whose_reply_is_lost_is_done_once():
    world = TwinWorld(two_users())
    journal = begin(world)
    run(world, journal)
    world.clock.sleep(30 * 3600)
    world.faults = Faults(["drop-reply:delete_access_key:1"])

    class Agreed(Answers):
        def answer(self, question):
            return True if question.id.startswith("keys.delete_after_grace:") else super().answer(question)

    outcome = run(world, journal, operator=Agreed(), steps=(RETIREMENT,), again=frozenset({RETIREMENT.id}))

    assert outcome.exit_code is ExitCode.DONE, reasons(outcome)
    assert not every_key(world).keys() & OLD_ON.keys()
    assert set(every_key(world).values()) == {KeyStatus.ACTIVE}


def test_a_key_that_appears_before_the_last_look_is_never_a_success():
    world = TwinWorld(two_users(), switches=Switches(keys_per_user=4))
    theirs = []

    def meddle(call, moment):
        if call.operation == "set_key_status" and moment == "after" and USER in call.target and not theirs:
            theirs.append(world.foreign_create_key(ACCOUNT, USER))

    world.on_call = meddle
    outcome = run(world)

    assert outcome.exit_code is ExitCode.WAITING
    assert any(theirs[0] in reason for reason in reasons(outcome))


def test_when_iam_takes_no_writes_nothing_is_claimed_to_be_off():
    world = TwinWorld(two_users())
    world.faults = Faults(
        [f"server-error:{name}:1x1000" for name in ("set_key_status", "create_access_key", "tag_user")]
    )

    outcome = run(world, operator=Answers(strategy="contain"))

    assert outcome.exit_code in {ExitCode.WAITING, ExitCode.SOME_FAILED}
    assert outcome.troubles
    assert every_key(world) == OLD_ON
    assert untouched(world)


def test_a_user_that_is_deleted_half_way_is_not_made_again():
    world = TwinWorld(two_users())

    def meddle(call, moment):
        if call.operation == "put_variable" and moment == "before" and call.target.startswith("ctx-deploy"):
            account = world.state.accounts[ACCOUNT]
            for key in account.keys.values():
                if key.user == USER:
                    key.changes.append(Change(at=world.clock.now(), status=None))
            account.users.pop(USER, None)

    world.on_call = meddle
    outcome = run(world)

    assert outcome.exit_code in {ExitCode.WAITING, ExitCode.SOME_FAILED}
    assert USER not in world.state.accounts[ACCOUNT].users
    assert any("is gone" in reason for reason in reasons(outcome)), reasons(outcome)


# --- Two responders, two machines -----------------------------------------------------------------------------------


def tagged(world, value):
    world.platforms().aws[ACCOUNT].tag_user(USER, TAG, value)
    world.clock.sleep(10)


def test_a_colleagues_case_on_the_same_user_stops_ours_before_anything_is_made():
    world = TwinWorld(two_users())
    tagged(world, f"theirs@{world.clock.now().isoformat()}")

    outcome = run(world)

    assert outcome.exit_code is ExitCode.WAITING
    assert keys(world) == {OLD[USER]: KeyStatus.ACTIVE}
    assert any("case theirs works on ci-deploy" in reason for reason in reasons(outcome)), reasons(outcome)
    assert keys(world, "ci-ecr")[OLD["ci-ecr"]] is KeyStatus.INACTIVE, "the other user is nobody's"


def test_a_lease_that_was_left_behind_is_taken_over_with_a_record_and_goes_with_the_run():
    world = TwinWorld(two_users())
    stale = f"theirs@{world.clock.now().isoformat()}"
    tagged(world, stale)
    world.clock.sleep(31 * 60)
    journal = begin(world)

    outcome = run(world, journal)

    assert outcome.exit_code is ExitCode.DONE, reasons(outcome)
    taken = journal.state.progress[f"iam:take-lease:{ACCOUNT}/{USER}"]
    assert [attempt.applied["instead_of"] for attempt in taken.attempts if attempt.applied] == [stale]
    world.clock.sleep(10)
    assert TAG not in world.platforms().aws[ACCOUNT].user_tags(USER)


def test_a_run_that_wakes_after_a_colleague_took_over_stops_and_breaks_nothing():
    """It slept with its new key in hand; meanwhile another one rotated the user to the end."""
    world = TwinWorld(two_users(), switches=Switches(keys_per_user=4))
    theirs = []

    def sleep(call, moment):
        first = call.operation == "put_variable" and moment == "before" and not theirs
        if first and call.target.startswith("ctx-deploy"):
            theirs.append(world.foreign_create_key(ACCOUNT, USER))
            for place in (deploy(world), project_sink(world.state.circleci.projects["gh/acme/api"])):
                world.foreign_put_pair(place, theirs[0], *PAIR)
            world.foreign_set_status(ACCOUNT, OLD[USER], KeyStatus.INACTIVE)
            world.clock.sleep(3600)
            raise Killed

    world.on_call = sleep
    journal = begin(world)
    with pytest.raises(Killed):
        run(world, journal)
    world.on_call = None
    before = {name: tail for name, tail in holders(world).items() if name in {"ctx-deploy", "gh/acme/api"}}

    outcome = run(world, journal, operator=Answers(lost=Recovery.STOP))

    assert outcome.exit_code is ExitCode.WAITING
    assert {name: holders(world)[name] for name in before} == before == dict.fromkeys(before, theirs[0][-4:])
    assert keys(world)[theirs[0]] is KeyStatus.ACTIVE


def test_a_case_whose_journal_is_lost_is_met_by_its_own_lease_and_changes_nothing():
    world = TwinWorld(two_users(), switches=Switches(keys_per_user=4))
    killed_before(world, "put_variable", begin(world, "lost"))
    world.clock.sleep(60)
    before = keys(world), holders(world)["ctx-deploy"], holders(world)["gh/acme/api"]

    outcome = run(world, begin(world, "second"), operator=Replacing())

    assert outcome.exit_code is ExitCode.WAITING
    assert any("case lost works on" in reason for reason in reasons(outcome)), reasons(outcome)
    assert (keys(world), holders(world)["ctx-deploy"], holders(world)["gh/acme/api"]) == before


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_a_journal_that_somebody_shortened_is_believed_in_nothing_it_says_of_the_world(tmp_path, cut):
    world = TwinWorld(two_users())
    journal = Journal.open(tmp_path / "case", now=world.clock.now)
    journal.append(Opened(case="short", tool="test", mode="rehearsal", host=this_host()))
    run(world, journal)
    journal.close()
    head, before = read(tmp_path / "case").head, (every_key(world), holders(world))
    path = tmp_path / "case" / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-cut]))

    journal = Journal.open(tmp_path / "case", now=world.clock.now)
    assert read(tmp_path / "case").head != head
    outcome = run(world, journal)
    journal.close()

    assert outcome.exit_code is ExitCode.DONE, reasons(outcome)
    assert (every_key(world), holders(world)) == before
