"""Which key makes room: the whole state table, and what it refuses."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from two_users import ACCOUNT, OLD, Answers, two_users

from playbook.engine import Engine
from playbook.errors import AwsError, Effect, ExitCode
from playbook.journal import Journal
from playbook.modes import journaled
from playbook.ports import AccessKey, KeyStatus, LastUsed
from playbook.records import Opened
from playbook.twins.state import ALWAYS, Change, Key, Use
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK
from steps.key_slots import Slots, choose_slots, use_of, verdict
from steps.key_slots import Use as Known

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
OLD_ENOUGH = NOW - timedelta(days=400)
USES = {
    Known.NEVER: LastUsed(at=None),
    Known.LONG_AGO: LastUsed(at=NOW - timedelta(days=91)),
    Known.RECENT: LastUsed(at=NOW - timedelta(days=89)),
    Known.UNKNOWN: None,
}
EXPECTED = {
    # (active, use, stored): how well it suits to go; None: it stays
    (False, Known.NEVER, False): 0,
    (False, Known.LONG_AGO, False): 1,
    (True, Known.NEVER, False): 2,
    (True, Known.LONG_AGO, False): 3,
    (False, Known.RECENT, False): None,
    (True, Known.RECENT, False): None,
    (False, Known.UNKNOWN, False): None,
    (True, Known.UNKNOWN, False): None,
}


def key(name: str, *, active: bool = True, created: datetime = OLD_ENOUGH) -> AccessKey:
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    return AccessKey(account=ACCOUNT, user="ci", id=f"AKIA{name:A<16}", status=status, created_at=created)


@pytest.mark.parametrize(
    ("active", "use", "stored"), list(itertools.product((True, False), Known, (True, False))), ids=str
)
def test_the_whole_table(active: bool, use: Known, stored: bool) -> None:
    rank, why = verdict(key("X", active=active), use, stored=stored, now=NOW)

    assert rank == EXPECTED.get((active, use, stored))
    assert bool(why) == (rank is None)


@pytest.mark.parametrize("use", list(Known))
def test_a_last_use_is_judged_by_its_age_and_no_answer_is_no_proof(use: Known) -> None:
    assert use_of(USES[use], NOW) is use


def test_a_key_less_than_a_day_old_stays_however_unused() -> None:
    assert verdict(key("X", created=NOW - timedelta(hours=23)), Known.NEVER, stored=False, now=NOW)[0] is None


def slots(*others: AccessKey, used: dict[str, LastUsed] | None = None, stored: frozenset[str] = frozenset()) -> Slots:
    uses = {item.id: LastUsed(at=None) for item in others} if used is None else used
    return choose_slots(key("TARGET"), others, last_used=uses, stored=stored, now=NOW)


def test_a_user_with_one_key_has_room() -> None:
    assert slots() == Slots()


def test_the_inactive_one_goes_first() -> None:
    on, off = key("ON"), key("OFF", active=False)

    assert slots(off).free == (off,)
    assert slots(on).free == (on,)


def test_more_than_two_keys_are_accepted_and_enough_of_them_go() -> None:
    on, off, recent = key("ON"), key("OFF", active=False), key("RECENT")
    used = {on.id: LastUsed(at=None), off.id: LastUsed(at=None), recent.id: USES[Known.RECENT]}

    assert slots(on, off).free == (off, on)
    refused = slots(on, off, recent, used=used)
    assert not refused.free
    assert f"{recent.id} (Active) stays: it was used within the last 90 days" in refused.refusal


def test_a_stored_key_and_one_whose_last_use_is_not_known_stay_and_are_named() -> None:
    other = key("OTHER", active=False)

    assert "it is stored in CircleCI" in slots(other, stored=frozenset({other.id})).refusal
    assert "nothing says when it was used last" in slots(other, used={}).refusal


# --- through the engine ---------------------------------------------------------------------------------------------

SPARE = "AKIASPARESPARESPARE2"


class Willing(Answers):
    """Agrees to the deletion, or not."""

    def __init__(self, agreed: bool = True) -> None:
        super().__init__()
        self.agreed = agreed

    def answer(self, question):
        if question.id.startswith("keys.delete_to_make_room:"):
            self.asked.append(question.id)
            return self.agreed
        if question.id.startswith("keys.reason:"):
            return "it has no room"
        return super().answer(question)


def world(*, active: bool = False, used_at: datetime | None = None) -> TwinWorld:
    state = two_users()
    account = state.accounts[ACCOUNT]
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    account.keys[SPARE] = Key(
        id=SPARE, user="ci-deploy", created_at=OLD_ENOUGH, changes=[Change(at=ALWAYS, status=status)]
    )
    if used_at is not None:
        account.keys[SPARE].last_used = Use(at=used_at, service="s3", region="eu-west-1")
    return TwinWorld(state)


def run(twin: TwinWorld, operator: Answers):
    journal = Journal(now=twin.clock.now)
    journal.append(Opened(case="slots", tool="test", mode="rehearsal", host="here"))
    return Engine(journal, twin.platforms(), operator, parallel=1).run(PLAYBOOK), journal


def keys_of(twin: TwinWorld) -> dict[str, KeyStatus]:
    return {item.id: item.status for item in twin.all_keys(ACCOUNT, "ci-deploy")}


@pytest.mark.parametrize("active", [False, True])
def test_the_spare_key_is_deleted_by_an_approved_action_and_the_other_replaced(active: bool) -> None:
    twin, operator = world(active=active), Willing()

    outcome, journal = run(twin, operator)

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert SPARE not in keys_of(twin)
    assert keys_of(twin)[OLD["ci-deploy"]] is KeyStatus.INACTIVE
    planned = [action["kind"] for parts in journal.state.plans.values() for part in parts for action in part.actions]
    assert planned.count("iam:delete-access-key") == 1
    assert f"keys.delete_to_make_room:{ACCOUNT}/ci-deploy/{SPARE}" in operator.asked


def test_once_the_slot_is_free_the_answer_that_needed_it_still_stands() -> None:
    """Later steps decide anew; an answer that could be kept only while the spare key was there must not be refused."""
    twin = world()
    journal = Journal(now=twin.clock.now)
    journal.append(Opened(case="slots", tool="test", mode="rehearsal", host="here"))

    outcome = Engine(journal, twin.platforms(), journaled(Willing(), journal), parallel=1).run(PLAYBOOK)

    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert SPARE not in keys_of(twin)


def test_a_spare_key_that_is_used_after_it_was_chosen_stays() -> None:
    twin = world(active=True)
    twin_key = twin.state.accounts[ACCOUNT].keys[SPARE]

    class Late(Willing):
        def approve(self, plan):
            if plan.step == "replace_access_keys":
                twin_key.last_used = Use(at=twin.clock.now(), service="s3", region="eu-west-1")
            return True

    outcome, _ = run(twin, Late())

    assert outcome.exit_code is ExitCode.WAITING
    assert keys_of(twin)[SPARE] is KeyStatus.ACTIVE
    assert keys_of(twin)[OLD["ci-deploy"]] is KeyStatus.ACTIVE
    assert any("it is not given up" in trouble.reason for trouble in outcome.troubles)


def test_an_api_error_never_leads_to_a_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = world()
    aws = twin.platforms().aws[ACCOUNT]

    def denied(self, key_id):
        raise AwsError("a look", code="AccessDenied", effect=Effect.NONE)

    monkeypatch.setattr(type(aws), "last_used", denied)
    operator = Willing()
    operator.strategy = "keep"

    outcome, _ = run(twin, operator)

    assert SPARE in keys_of(twin)
    assert not [asked for asked in operator.asked if "delete_to_make_room" in asked]
    assert outcome.exit_code is ExitCode.DONE
