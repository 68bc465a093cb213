"""The lease on a user: taken, noticed, taken over when it is stale, given back - and never another case's."""

from __future__ import annotations

from datetime import timedelta

import pytest
from two_users import ACCOUNT, START, Answers, two_users

from playbook.engine import Engine
from playbook.errors import ExitCode
from playbook.journal import Journal
from playbook.records import Applied, Opened
from playbook.twins.state import Rights, Version
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK
from steps.user_lease import TAG

USER = "ci-deploy"
TAKE = f"iam:take-lease:{ACCOUNT}/{USER}"


def world(lease: str = "") -> TwinWorld:
    state = two_users()
    if lease:
        state.accounts[ACCOUNT].rights[USER] = [Version(value=Rights(tags={TAG: lease}))]
    return TwinWorld(state)


def begin(twin: TwinWorld) -> Journal:
    journal = Journal(now=twin.clock.now)
    journal.append(Opened(case="ours", tool="test", mode="rehearsal", host="here"))
    return journal


def run(twin: TwinWorld, journal: Journal):
    return Engine(journal, twin.platforms(), Answers(), parallel=1, pilot=0).run(PLAYBOOK)


def lease_of(twin: TwinWorld) -> str:
    twin.clock.sleep(60)
    return twin.aws[ACCOUNT].user_tags(USER).get(TAG, "")


def another(twin: TwinWorld, value: str) -> None:
    """Another responder writes the tag, or takes it away."""
    twin.foreign_change_rights(ACCOUNT, USER, lambda _held: Rights(tags={TAG: value} if value else {}))


def test_it_is_given_back_at_the_end() -> None:
    twin = world()
    assert run(twin, begin(twin)).exit_code is ExitCode.DONE
    assert not lease_of(twin)


def test_a_fresh_one_of_another_case_stops_that_user_and_names_the_case() -> None:
    twin = world(f"theirs@{START.isoformat()}")

    outcome = run(twin, begin(twin))

    assert any("case theirs works on ci-deploy" in trouble.reason for trouble in outcome.troubles)
    assert lease_of(twin).startswith("theirs@")
    assert len(twin.all_keys(ACCOUNT, USER)) == 1
    assert len(twin.all_keys(ACCOUNT, "ci-ecr")) == 2


def test_a_stale_one_is_taken_over_with_a_record_of_what_stood_there() -> None:
    left = f"theirs@{(START - timedelta(hours=1)).isoformat()}"
    twin = world(left)
    journal = begin(twin)
    records = []
    append = journal.append
    journal.append = lambda record: (records.append(record), append(record))[1]

    assert run(twin, journal).exit_code is ExitCode.DONE

    (taken,) = [record for record in records if isinstance(record, Applied) and record.key == TAKE]
    assert taken.evidence["instead_of"] == left


@pytest.mark.parametrize("gone", [True, False])
def test_of_two_who_wrote_at_once_the_last_one_has_it_until_it_lets_go(gone: bool) -> None:
    twin = world()
    journal = begin(twin)

    def write_too(call, moment):
        if call.operation == "tag_user" and USER in call.target and moment == "after":
            twin.on_call = lambda _call, _moment: None
            another(twin, f"theirs@{twin.clock.now().isoformat()}")

    twin.on_call = write_too
    stopped = run(twin, journal)
    assert any("case theirs works on ci-deploy" in trouble.reason for trouble in stopped.troubles)
    if gone:
        another(twin, "")
        twin.clock.sleep(60)

    outcome = run(twin, journal)

    assert (outcome.exit_code is ExitCode.DONE) is gone
    assert lease_of(twin).partition("@")[0] == ("" if gone else "theirs")
