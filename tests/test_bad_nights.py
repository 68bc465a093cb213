"""What a hostile reader found: approved work that vanished, keys switched back on, words that hid what was still on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from two_users import ACCOUNT, OLD, ORGANIZATION, PAIR, START, Answers, two_users

from playbook import modes
from playbook.engine import Engine
from playbook.errors import CircleCiError, Effect, ExitCode, GuardError, UsageError
from playbook.journal import Journal, this_host
from playbook.lanes import Lanes
from playbook.model import Recourse, Recovery
from playbook.ports import KeyStatus, Sink, SinkKind, Waits
from playbook.records import Opened, Reset, Skipped
from playbook.secret import Secret
from playbook.summary import key_rows
from playbook.twins.circleci import CircleCiTwin
from playbook.twins.faults import Faults
from playbook.twins.state import ALWAYS, Context, IamUser, Key, Value, Variable
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK

DEPLOY = Sink(kind=SinkKind.CONTEXT, id="ctx-deploy", name="deploy", organization=ORGANIZATION)


def opened(world):
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case="night", tool="test", mode="rehearsal", host=this_host()))
    return journal


def run(world, journal, operator=None, **options):
    """A process of its own: whatever it held in memory is gone afterwards."""
    engine = Engine(journal, world.platforms(), operator or Answers(), parallel=1, **options)
    return engine.run(PLAYBOOK)


def carry_out(world, journal, operator, *, between=lambda: None, yes=True):
    return modes.carry_out(
        journal,
        world.platforms(),
        PLAYBOOK,
        operator,
        modes.Conduct(
            settings=modes.Settings(parallel=1),
            waits=Waits(),
            approval=modes.Approval(yes=yes, batch=True),
            tell=lambda _event, _fields: None,
            started=lambda _engine: None,
        ),
        show=lambda _walked: between(),
    )


def status_of(world, user, key_id):
    return {key.id: key.status for key in world.all_keys(ACCOUNT, user)}.get(key_id)


def row(journal, user):
    return next(row for row in key_rows(journal.state) if row.user == user)


@pytest.mark.parametrize("strategy", ["replace", "contain"])
def test_an_approved_place_that_can_no_longer_be_read_stops_the_run(monkeypatch, strategy):
    world = TwinWorld(two_users())
    journal = opened(world)
    read = CircleCiTwin.project_secrets

    def refuse(self, project, kinds):
        if project.slug == "gh/acme/api":
            raise CircleCiError("reading", code="HTTP403", effect=Effect.NONE, status=403)
        return read(self, project, kinds)

    with pytest.raises(GuardError, match="no longer holds a change that was approved"):
        carry_out(
            world,
            journal,
            Answers(strategy=strategy),
            between=lambda: monkeypatch.setattr(CircleCiTwin, "project_secrets", refuse),
        )

    assert not [key for key in journal.state.progress if key.startswith("iam:create-access-key")]
    assert world.works(DEPLOY, *PAIR) is (strategy == "replace")


def test_approved_work_that_somebody_did_meanwhile_is_no_broken_promise():
    world = TwinWorld(two_users())
    journal = opened(world)
    old = OLD["ci-deploy"]

    outcome = carry_out(
        world,
        journal,
        Answers(strategy="deactivate"),
        between=lambda: world.foreign_set_status(ACCOUNT, old, KeyStatus.INACTIVE),
    )

    assert outcome.exit_code is ExitCode.DONE
    assert status_of(world, "ci-deploy", old) is KeyStatus.INACTIVE


def write_back(world, user="ci-deploy"):
    """A colleague stores the old pair again."""
    world.foreign_put_pair(DEPLOY, OLD[user], *PAIR)


def night_with_an_undone_deactivation():
    world = TwinWorld(two_users())
    journal = opened(world)

    def colleague(call, when):
        if when == "after" and call.operation == "set_key_status" and OLD["ci-deploy"] in call.target:
            world.on_call = None
            write_back(world)

    world.on_call = colleague
    outcome = run(world, journal)
    assert outcome.exit_code is ExitCode.WAITING
    assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.ACTIVE
    return world, journal


def test_what_was_undone_is_not_called_off():
    _, journal = night_with_an_undone_deactivation()

    assert row(journal, "ci-deploy").old_is == "on again, undone"
    assert row(journal, "ci-ecr").old_is == "off"


def test_a_key_that_a_human_switched_off_stays_off():
    world, journal = night_with_an_undone_deactivation()
    world.foreign_set_status(ACCOUNT, OLD["ci-deploy"], KeyStatus.INACTIVE)

    for _ in range(2):
        assert run(world, journal).exit_code is ExitCode.WAITING
        assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.INACTIVE


def test_a_place_that_goes_back_after_the_key_is_off_gets_its_key_back_once():
    world = TwinWorld(two_users())
    journal = opened(world)
    done = "iam:deactivate-access-key:" + f"{ACCOUNT}/ci-deploy/{OLD['ci-deploy']}"

    def tell(event, fields):
        if event == "verified" and fields["key"] == done:
            write_back(world)

    outcome = run(world, journal, tell=tell)

    assert outcome.exit_code is ExitCode.WAITING
    assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.ACTIVE
    assert world.works(DEPLOY, *PAIR)
    world.foreign_set_status(ACCOUNT, OLD["ci-deploy"], KeyStatus.INACTIVE)
    run(world, journal)
    assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.INACTIVE


class Skipper(Answers):
    def recourse(self, trouble):
        return Recourse.SKIP


def test_the_last_words_do_not_call_off_what_is_on():
    world = TwinWorld(two_users(), faults=Faults(["deny:put_variable:1x200"]))
    journal = opened(world)

    outcome = run(world, journal, Skipper())

    assert outcome.exit_code is ExitCode.SOME_FAILED
    said = [finding.text for finding in outcome.findings]
    for user, old in OLD.items():
        assert status_of(world, user, old) is KeyStatus.ACTIVE
        assert not [text for text in said if text.startswith("Switched off") and old in text]
        assert [text for text in said if text.startswith("STILL ON") and old in text]


def test_an_orphan_of_ours_is_named_while_it_is_there():
    world = TwinWorld(two_users(), faults=Faults(["drop-reply:create_access_key:1", "deny:set_key_status:1x50"]))
    journal = opened(world)

    run(world, journal, Skipper())

    ((orphan, status),) = {
        key.id: key.status for key in world.all_keys(ACCOUNT, "ci-deploy") if key.id != OLD["ci-deploy"]
    }.items()
    assert status is KeyStatus.ACTIVE
    assert (row(journal, "ci-deploy").new_key, row(journal, "ci-deploy").new_is) == (orphan, "ON, an orphan of ours")


def many_sinks(count):
    state = two_users()
    pair = state.circleci.contexts["ctx-deploy"].variables
    for number in range(count):
        name = f"{number:04}-" + "x" * 60
        copies = {
            key: Variable(value=item.value, created_at=item.created_at, updated_at=item.updated_at, written_at=ALWAYS)
            for key, item in pair.items()
        }
        state.circleci.contexts[name] = Context(id=name, name=name, organization=ORGANIZATION, variables=copies)
    return TwinWorld(state)


def test_a_lost_secret_with_hundreds_of_places_can_be_resumed(tmp_path):
    world = many_sinks(250)
    folder = tmp_path / "case"
    journal = Journal.open(folder, now=world.clock.now)
    journal.append(Opened(case="night", tool="test", mode="rehearsal", host=this_host()))

    class Died(BaseException):
        pass

    def dies(call, when):
        if call.operation == "put_variable" and when == "before":
            raise Died

    world.on_call = dies
    with pytest.raises(Died):
        run(world, journal)
    journal.close()
    world.on_call = None

    again = Journal.open(folder, now=world.clock.now)
    outcome = run(world, again)

    assert outcome.exit_code is ExitCode.DONE
    assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.INACTIVE


def test_tls_keys_are_not_written_to_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

    with pytest.raises(UsageError, match="SSLKEYLOGFILE"):
        modes.connect(modes.Settings(), Secret("token"), case="night", ask_secret=None)

    assert not (tmp_path / "keys").exists()


def test_thousands_of_findings_fit_into_the_journal(tmp_path):
    from playbook.model import Finding, Phase, Plan, Step

    class Talkative(Step):
        id = "talkative"
        title = "Talkative"
        phase = Phase.ANALYSIS

        def plan(self, view, case, ask):
            return Plan(step=self.id, findings=tuple(Finding(level="note", text="x" * 200) for _ in range(5000)))

    world = TwinWorld(two_users())
    journal = opened(world)

    outcome = Engine(journal, world.platforms(), Answers()).run([Talkative()])

    assert len(outcome.findings) == 5000


def test_what_a_human_left_out_no_reset_brings_back():
    world = TwinWorld(two_users())
    journal = opened(world)
    journal.append(Skipped(key="a", reason="left out by the responder"))
    journal.append(Reset(keys=["a", "b"], lost="AKIA", reason="lost"))

    assert (journal.state.of("a").state, journal.state.of("b").state) == ("skipped", "planned")


def test_an_answers_file_may_be_corrected_until_the_run_is_approved():
    world = TwinWorld(two_users())
    journal = opened(world)
    with pytest.raises(Exception, match="is not approved"):
        carry_out(world, journal, Answers(strategy="replace"), yes=False)

    outcome = carry_out(world, journal, Answers(strategy="deactivate"))

    assert outcome.exit_code is ExitCode.DONE
    assert set(world.created(ACCOUNT, "ci-deploy")) == {OLD["ci-deploy"]}
    assert status_of(world, "ci-deploy", OLD["ci-deploy"]) is KeyStatus.INACTIVE


def test_a_tail_that_was_hidden_at_first_proves_no_work_by_hand(monkeypatch):
    state = two_users()
    written = START - timedelta(days=9)
    state.circleci.projects["gh/acme/api"].variables["NPM_TOKEN"] = Variable(
        value=Value.of(Secret("npm_0123456789abcdef")), created_at=written, updated_at=written, written_at=ALWAYS
    )
    world = TwinWorld(state)
    shown = CircleCiTwin._shown
    hidden = [True]

    def hide(self, sink, name, variable):
        seen = shown(self, sink, name, variable)
        return replace(seen, tail=None) if seen is not None and name == "NPM_TOKEN" and hidden[0] else seen

    monkeypatch.setattr(CircleCiTwin, "_shown", hide)

    class ByHand(Answers):
        def answer(self, question):
            return "done-by-hand" if "NPM_TOKEN" in question.id else super().answer(question)

    def tell(event, fields):
        if event == "step" and fields["step"] == "replace_access_keys":
            hidden[0] = False

    outcome = run(world, opened(world), ByHand(), tell=tell)

    assert outcome.exit_code is ExitCode.WAITING
    assert any("not changed yet" in trouble.reason for trouble in outcome.troubles)


def test_a_key_with_an_unseen_place_is_not_rotated_without_a_word(monkeypatch):
    world = TwinWorld(two_users())
    shown = CircleCiTwin._shown

    def hide(self, sink, name, variable):
        seen = shown(self, sink, name, variable)
        return replace(seen, tail=None) if seen is not None and sink.id == "gh/acme/api" else seen

    monkeypatch.setattr(CircleCiTwin, "_shown", hide)

    class Keeps(Answers):
        def answer(self, question):
            return "keep" if question.id.startswith("variables.value_from") else super().answer(question)

    outcome = run(world, opened(world), Keeps())

    dangers = [finding.text for finding in outcome.findings if finding.level == "danger"]
    assert any("gh/acme/api:AWS_ACCESS_KEY_ID does not show its tail" in text for text in dangers)


def test_three_times_the_keys_cost_three_times_the_looks_at_lanes(monkeypatch):
    asked = [0]
    blockers = Lanes._blockers

    def count(self, action):
        asked[0] += 1
        return blockers(self, action)

    monkeypatch.setattr(Lanes, "_blockers", count)

    def cost(users):
        world = TwinWorld(many_users(users))
        asked[0] = 0
        assert run(world, opened(world), Answers(lost=Recovery.STOP)).exit_code is ExitCode.DONE
        return asked[0]

    few, many = cost(50), cost(150)

    print(f"50 keys ask {few} times what blocks a lane, 150 keys {many} times: {many / few:.2f} times as often")
    assert many / few < 3.5


def many_users(count):
    state = two_users()
    account = state.accounts[ACCOUNT]
    template = account.keys[OLD["ci-deploy"]]
    pair = state.circleci.contexts["ctx-deploy"].variables
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    for number in range(count):
        tail = "".join(letters[number // 32**place % 32] for place in range(4))
        user, key_id = f"ci-{tail.lower()}", f"AKIAMANYKEYSAAAA{tail}"
        account.users[user] = IamUser(name=user, arn=f"arn:aws:iam::{ACCOUNT}:user/{user}")
        account.keys[key_id] = Key(
            id=key_id, user=user, created_at=template.created_at, changes=template.changes, secret=template.secret
        )
        values = dict(zip(PAIR, (Value.of(Secret(key_id)), template.secret), strict=True))
        copies = {
            name: Variable(
                value=values[name], created_at=item.created_at, updated_at=item.updated_at, written_at=ALWAYS
            )
            for name, item in pair.items()
        }
        state.circleci.contexts[user] = Context(id=user, name=user, organization=ORGANIZATION, variables=copies)
    return state
