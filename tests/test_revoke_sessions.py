"""Sessions end and nothing else does, on twins: whenever the process dies, whatever is refused, whoever interferes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from containment import ACCOUNT, CI, DEPLOY, OLD, START, THIEF, TRUST, Night
from hypothesis import given
from hypothesis import strategies as st

from playbook.errors import ExitCode
from playbook.journal import fold, read
from playbook.model import Recourse, Status
from playbook.ports import KeyStatus, Waits
from playbook.records import Applied, Failed, Intended, Planned, Verified
from playbook.report import from_state, to_markdown
from playbook.twins.state import Account, IamRole
from steps import PLAYBOOK
from steps.revoke_sessions import isolating_policy
from steps.session_policies import (
    POLICY,
    ROLE_SESSION,
    SIZE,
    USER_SESSION,
    RemoveSessionPolicy,
    RevokeRoleSessions,
    RevokeUserSessions,
    cutoff_of,
    deny_before,
    policy_size,
)

REVOKE = f"{RevokeUserSessions.kind}:{ACCOUNT}/ci-deploy"
FOREIGN = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["*"], "Resource": ["*"]}]}


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def spread(night):
    night.twin.clock.advance(60)


def sessions_are_cut(night, user="ci-deploy"):
    """Every session made until the key had stopped working is denied; a key that does not expire works."""
    off_at = max(change.at for change in night.twin.state.accounts[ACCOUNT].keys[OLD[user]].changes)
    last = off_at + timedelta(seconds=night.twin.switches.off_lag_s)
    allowed = night.twin.session_allowed
    return (
        not allowed(ACCOUNT, user=user, issued_at=START - timedelta(hours=1))
        and not allowed(ACCOUNT, user=user, issued_at=last)
        and allowed(ACCOUNT, user=user, issued_at=None)
    )


# --- The policy -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31).map(lambda s: datetime.fromtimestamp(s, UTC)))
def test_the_time_in_our_policy_is_read_back(moment):
    assert cutoff_of(json.loads(json.dumps(deny_before(moment)))) == moment
    assert policy_size(deny_before(moment)) == SIZE


@pytest.mark.parametrize(
    "change",
    [
        lambda doc: doc["Statement"].append({"Effect": "Allow", "Action": "*", "Resource": "*"}),
        lambda doc: doc["Statement"][0].update(Effect="Allow"),
        lambda doc: doc["Statement"][0].update(Resource=["arn:aws:s3:::one"]),
        lambda doc: doc["Statement"][0]["Condition"].update({"Bool": {"aws:MultiFactorAuthPresent": "false"}}),
        lambda doc: doc["Statement"][0]["Condition"]["DateLessThan"].update({"aws:TokenIssueTime": "soon"}),
        lambda doc: doc["Statement"][0]["Condition"]["DateLessThan"].update(
            {"aws:TokenIssueTime": "2026-13-01T00:00:00Z"}
        ),
        lambda doc: doc.clear(),
    ],
)
def test_a_policy_that_differs_in_anything_is_not_ours(change):
    document = deny_before(START)
    change(document)
    assert cutoff_of(document) is None


# --- The whole containment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["contain", "deactivate"])
@pytest.mark.parametrize("off_lag", [0, 4, 25])
def test_sessions_made_until_the_key_was_off_are_cut_and_the_new_key_works(tmp_path, strategy, off_lag):
    night = Night(tmp_path, off_lag_s=off_lag)
    assert night.run(strategy=strategy).exit_code is ExitCode.DONE
    spread(night)
    for user in OLD:
        assert sessions_are_cut(night, user)
        keys = [key for key in night.twin.all_keys(ACCOUNT, user) if key.status is KeyStatus.ACTIVE]
        assert len(keys) == (1 if strategy == "contain" else 0)
    later = night.twin.clock.now() + timedelta(minutes=5)
    assert night.twin.session_allowed(ACCOUNT, user="ci-deploy", issued_at=later)


def test_a_session_minted_after_the_plan_and_before_the_key_stops_working_is_cut(night):
    """The time is of the deactivation, not of the plan: the thief takes a session in the seconds between."""
    minted = []
    night.during["after set_key_status"] = lambda: (
        night.twin.clock.advance(3),
        minted.append(night.twin.clock.now()),
    )
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    spread(night)
    assert not night.twin.session_allowed(ACCOUNT, user="ci-deploy", issued_at=minted[0])


def test_nothing_is_revoked_where_keys_are_only_replaced(night):
    night.break_in()
    assert night.run(strategy="replace").exit_code is ExitCode.DONE
    assert night.wrote("put_user_policy") == []
    assert night.policy() is None


def test_the_policy_comes_after_the_key_is_off_and_before_the_new_one(night):
    night.run(strategy="contain")
    order = [(operation, target) for moment, operation, target in night.calls if moment == "before"]
    off = order.index(("set_key_status", f"{ACCOUNT}/ci-deploy/{DEPLOY}"))
    denied = order.index(("put_user_policy", f"{ACCOUNT}/ci-deploy/{POLICY}"))
    minted = order.index(("create_access_key", f"{ACCOUNT}/ci-deploy"))
    assert off < denied < minted


def test_confirmed_misuse_cuts_sessions_of_a_key_that_is_only_replaced_and_says_what_it_does_not(night):
    assert night.run(strategy="replace", severity="confirmed").exit_code is ExitCode.DONE
    spread(night)
    before = START - timedelta(minutes=1)
    assert not night.twin.session_allowed(ACCOUNT, user="ci-deploy", issued_at=before)
    assert any("stays on until it is replaced" in text for text in night.texts("danger"))


def test_the_answers_file_may_say_no(night):
    assert night.run(strategy="contain", said={"keys.revoke_sessions": False}).exit_code is ExitCode.DONE
    assert night.policy() is None
    assert any("are not ended" in text for text in night.texts("warning"))


def test_the_removal_is_planned_for_when_no_session_can_be_alive(night):
    night.run(strategy="contain")
    due = [item.due_at for item in night.outcome.findings if POLICY in item.text and item.due_at]
    assert len(due) == 2
    assert all(datetime.fromisoformat(at) - START >= USER_SESSION for at in due)


# --- Roles ----------------------------------------------------------------------------------------------------------


def test_roles_that_the_key_or_its_sessions_assumed_lose_their_sessions(night):
    night.break_in()
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    spread(night)
    allowed = night.twin.session_allowed
    assert not allowed(ACCOUNT, role="deployer", issued_at=START - timedelta(hours=1))
    assert allowed(ACCOUNT, role="deployer", issued_at=night.twin.clock.now() + timedelta(minutes=5))
    assert night.wrote("put_role_policy") == [f"{ACCOUNT}/deployer/{POLICY}"]
    assert any("Every session of the role deployer" in text for text in night.texts())


def test_a_role_that_was_assumed_too_long_ago_is_left_alone(night):
    night.break_in(ago=timedelta(hours=14))
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    assert night.wrote("put_role_policy") == []


def test_the_plan_does_not_change_while_the_clock_goes_on(night):
    """A role at the edge of twelve hours stays in the plan, because from when counts is an answer that is kept."""
    night.break_in(ago=ROLE_SESSION - timedelta(minutes=1))
    since = (START - ROLE_SESSION).isoformat()
    said = {"incident.sessions_since": since}
    night.twin.clock.advance(3600)
    night.run(strategy="contain", said=said)
    assert night.wrote("put_role_policy") == [f"{ACCOUNT}/deployer/{POLICY}"]


def test_a_role_in_an_account_that_is_not_connected_is_named(night):
    night.event("AssumeRole", role="arn:aws:iam::999988887777:role/prod", issued_key_id="ASIAOVERTHEREAAAAAAA", **THIEF)
    night.twin.clock.advance(300)
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    assert any("prod in 999988887777" in text and "not connected" in text for text in night.texts("danger"))


def test_a_role_in_another_connected_account_is_revoked_there(tmp_path):
    night = Night(tmp_path)
    other = "444455556666"
    night.twin.state.accounts[other] = Account(id=other, operator_arn=f"arn:aws:iam::{other}:role/me")
    night = Night(tmp_path, state=night.twin.state)
    role = f"arn:aws:iam::{other}:role/prod"
    made = {"name": "prod", "arn": role, "trust": TRUST, "created_at": START - timedelta(days=9)}
    night.twin.foreign_put_role(other, IamRole(**made))
    night.event("AssumeRole", role=role, issued_key_id="ASIAOVERTHEREAAAAAAA", **THIEF)
    night.event("GetSecretValue", account=other, signer="ASIAOVERTHEREAAAAAAA", service="secretsmanager", **THIEF)
    night.twin.clock.advance(300)
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    spread(night)
    assert night.wrote("put_role_policy") == [f"{other}/prod/{POLICY}"]
    assert not night.twin.session_allowed(other, role="prod", issued_at=START)
    assert any("secretsmanager" in text for text in night.texts())


def test_no_policy_can_be_put_on_a_service_linked_role(night):
    path = "/aws-service-role/ecs.amazonaws.com/"
    night.add_role("AWSServiceRoleForECS", path)
    arn = f"arn:aws:iam::{ACCOUNT}:role{path}AWSServiceRoleForECS"
    night.event("AssumeRole", role=arn, issued_key_id="ASIASERVICELINKEDAAA", **THIEF)
    night.twin.clock.advance(300)
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    assert night.wrote("put_role_policy") == []
    assert any("service-linked" in text for text in night.texts("danger"))


# --- Who used it ----------------------------------------------------------------------------------------------------


def test_who_used_the_key_is_told_with_what_is_unusual(night):
    night.break_in()
    night.twin.clock.advance(300)
    window = {"incident.exposed_from": "2026-01-03T00:00:00Z"}
    night.run(strategy="contain", said=window)
    (text,) = [text for text in night.texts("danger") if text.startswith(DEPLOY)]
    for part in (THIEF["source_address"], "Boto3/1", "2 session(s)", "1 role(s)", "Not its usual agents: Boto3/1"):
        assert part in text
    assert CI["source_address"] not in text


def test_a_trail_of_several_pages_is_told_whole(night):
    for number in range(130):
        night.event("GetAuthorizationToken", ago=timedelta(minutes=number + 10), service="ecr", **CI)
    night.run(strategy="contain")
    assert any("was used 130 times" in text for text in night.texts("warning"))


def test_a_trail_that_may_not_be_read_is_a_hole_and_no_all_clear(tmp_path):
    night = Night(tmp_path, trail_denied=True)
    night.break_in()
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    dangers = night.texts("danger")
    assert any("CloudTrail could not be read" in text for text in dangers)
    assert any("Not read: CloudTrail's events" in text and "no all-clear" in text for text in dangers)
    assert not any("was not used" in text for text in night.texts())
    spread(night)
    assert sessions_are_cut(night)


# --- Quarantine and isolation ---------------------------------------------------------------------------------------


def test_awss_quarantine_is_named_with_what_it_breaks(night):
    night.attach("arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3")
    night.run(strategy="contain")
    (text,) = [text for text in night.texts("danger") if "AWSCompromisedKeyQuarantineV3" in text]
    for part in ("ecr:GetAuthorizationToken", "iam:CreateAccessKey", "NEW key", "detached"):
        assert part in text


def test_on_confirmed_misuse_the_service_control_policy_is_offered(night):
    night.run(strategy="contain", severity="confirmed")
    (text,) = [text for text in night.texts() if "service control policy" in text]
    document = json.loads(text[text.index("{") :])
    assert document == isolating_policy(
        [f"arn:aws:iam::{ACCOUNT}:user/{user}" for user in OLD], f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me"
    )
    assert document["Statement"][1]["Condition"]["ArnNotEquals"]["aws:PrincipalArn"] == [
        f"arn:aws:iam::{ACCOUNT}:role/responder"
    ]
    assert any("GetFederationToken" in text for text in night.texts())


# --- What can go wrong ----------------------------------------------------------------------------------------------


def test_a_foreign_policy_of_our_name_is_not_overwritten(night):
    night.put_inline(POLICY, FOREIGN)
    spread(night)
    assert night.run(strategy="contain").exit_code is ExitCode.WAITING
    assert night.policy() == FOREIGN
    assert night.wrote("put_user_policy") == [f"{ACCOUNT}/ci-ecr/{POLICY}"]
    (trouble,) = night.outcome.troubles
    assert "did not write" in trouble.reason
    assert trouble.action.key == REVOKE


def test_an_older_policy_of_ours_is_moved_forward(night):
    night.put_inline(POLICY, deny_before(START - timedelta(days=3)))
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    spread(night)
    assert sessions_are_cut(night)


def test_a_policy_that_denies_late_enough_already_is_left_as_it_is(night):
    night.put_inline(POLICY, deny_before(START + timedelta(hours=1)))
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    assert f"{ACCOUNT}/ci-deploy/{POLICY}" not in night.wrote("put_user_policy")
    assert night.records(Verified, REVOKE)


def test_inline_policies_that_leave_no_room_are_told_with_numbers(night):
    big = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:Get*"], "Resource": ["x" * 1900]}]}
    night.put_inline("big", big)
    night.twin.clock.advance(10)
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    (text,) = [text for text in night.texts("danger") if "NOT ended" in text]
    assert f"{policy_size(big)} of 2048" in text
    assert str(SIZE) in text
    assert night.wrote("put_user_policy") == [f"{ACCOUNT}/ci-ecr/{POLICY}"]


def test_a_quota_that_only_iam_knows_of_ends_in_a_sentence(night):
    big = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:Get*"], "Resource": ["x" * 1900]}]}
    night.during["put_user_policy"] = lambda: night.put_inline("big", big)
    outcome = night.run(strategy="contain")
    assert outcome.exit_code is not ExitCode.DONE
    (trouble,) = [item for item in outcome.troubles if item.action.key == REVOKE]
    assert "LimitExceeded" in trouble.reason
    assert "AWSDenyAll" in trouble.remedy


def test_a_refused_write_parks_that_user_and_not_the_other(night):
    outcome = night.run(strategy="contain", faults=["deny:put_user_policy:1"])
    assert outcome.exit_code is ExitCode.SOME_FAILED
    assert len(outcome.troubles) == 1
    again = night.run(strategy="contain")
    assert again.exit_code is ExitCode.DONE
    spread(night)
    assert all(sessions_are_cut(night, user) for user in OLD)


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
def test_a_lost_or_failed_write_is_looked_at_and_made_good(night, fault):
    outcome = night.run(strategy="contain", faults=[f"{fault}:put_user_policy:1"])
    assert outcome.exit_code is ExitCode.DONE
    assert len(night.records(Failed, RevokeUserSessions.kind)) == 1
    spread(night)
    assert all(sessions_are_cut(night, user) for user in OLD)


def test_a_policy_that_a_thief_takes_off_again_is_put_back(night):
    def take_off():
        account = night.twin.state.accounts[ACCOUNT]
        rights = account.rights["ci-deploy"][-1].value
        kept = {name: document for name, document in rights.inline.items() if name != POLICY}
        night.twin.foreign_change_rights(ACCOUNT, "ci-deploy", lambda r: msgspec.structs.replace(r, inline=kept))

    night.during["after put_user_policy"] = take_off
    assert night.run(strategy="contain").exit_code is ExitCode.DONE
    spread(night)
    assert sessions_are_cut(night)
    assert len(night.records(Applied, REVOKE)) == 2


def test_a_user_that_is_gone_keeps_no_role_session_alive(night):
    """A thief who deletes the user must not keep its roles' sessions: the time comes from another user's list."""
    night.break_in()

    def delete():
        del night.twin.state.accounts[ACCOUNT].users["ci-deploy"]

    night.during["put_role_policy"] = lambda: None
    night.during["after put_user_policy"] = delete
    night.run(strategy="deactivate")
    spread(night)
    assert not night.twin.session_allowed(ACCOUNT, role="deployer", issued_at=START - timedelta(hours=1))


READS_A_KILL = 7
"""Of the moments of reads, every so many is one to die at."""

# --- Killed ---------------------------------------------------------------------------------------------------------


def instants(tmp_path, **answers):
    """The instants to die at, between the first switch-off and the end: around every write, and at some reads."""
    night = Night(tmp_path / "whole")
    night.break_in()
    night.twin.clock.advance(300)
    night.run(**answers)
    first = next(at for at, call in enumerate(night.calls) if call[1] == "set_key_status")
    writes = {"set_key_status", "put_user_policy", "put_role_policy"}
    numbers = [
        at for at, call in enumerate(night.calls) if at >= first and (call[1] in writes or at % READS_A_KILL == 0)
    ]
    return [at + 1 for at in numbers], len(night.calls)


def test_a_process_that_is_killed_while_it_contains_goes_on_to_the_same_end(tmp_path):
    numbers, calls = instants(tmp_path, strategy="deactivate", severity="confirmed")
    tried = 0
    for kill_at in numbers:
        night = Night(tmp_path / str(kill_at))
        night.break_in()
        night.twin.clock.advance(300)
        assert night.run(kill_at=kill_at, strategy="deactivate", severity="confirmed") is None
        assert night.run(strategy="deactivate", severity="confirmed").exit_code is ExitCode.DONE, kill_at
        spread(night)
        for user in OLD:
            assert sessions_are_cut(night, user), kill_at
            document = night.policy(user)
            assert cutoff_of(document) is not None
            intended = [item.basis["cutoff"] for item in night.records(Intended, f"{RevokeUserSessions.kind}:")]
            assert cutoff_of(document).isoformat() in intended
        assert not night.twin.session_allowed(ACCOUNT, role="deployer", issued_at=START)
        tried += 1
    print(f"{tried} kills among {calls} moments")
    assert tried > 20


# --- Taking the policy away -----------------------------------------------------------------------------------------


def contained(night):
    night.break_in()
    night.twin.clock.advance(300)
    assert night.run(strategy="deactivate").exit_code is ExitCode.DONE
    spread(night)


def removal(night, action):
    return action.observe(night.case_view())


@pytest.mark.parametrize(
    ("action", "longest"),
    [
        (RemoveSessionPolicy(account=ACCOUNT, user="ci-deploy"), USER_SESSION),
        (RemoveSessionPolicy(account=ACCOUNT, role="deployer"), ROLE_SESSION),
    ],
)
def test_the_policy_is_removed_only_once_no_session_can_be_alive(night, action, longest):
    contained(night)
    seen = removal(night, action)
    assert seen.status is Status.PENDING
    assert seen.again_s > longest.total_seconds() - 600
    night.twin.clock.advance(longest.total_seconds() + 60)
    assert removal(night, action).status is Status.ABSENT
    view = night.view()
    action.apply(view)
    night.twin.clock.advance(10)
    assert removal(night, action).status is Status.PRESENT


def test_a_policy_that_somebody_changed_is_not_removed(night):
    contained(night)
    night.put_inline(POLICY, FOREIGN)
    spread(night)
    assert removal(night, RemoveSessionPolicy(account=ACCOUNT, user="ci-deploy")).status is Status.CONFLICT


def test_the_undoing_removes_the_very_policy_that_was_written_and_no_other(night):
    contained(night)
    (planned,) = [a for part in night.records(Planned) for a in part.actions if a["kind"] == RevokeRoleSessions.kind]
    assert planned["role"] == "deployer"
    action = RevokeUserSessions(account=ACCOUNT, user="ci-deploy", keys=(f"{ACCOUNT}/ci-deploy/{DEPLOY}",))
    (undo,) = action.undo({})
    assert removal(night, undo).status is Status.ABSENT
    night.put_inline(POLICY, deny_before(START + timedelta(days=9)))
    spread(night)
    assert removal(night, undo).status is Status.PRESENT
    night.put_inline(POLICY, FOREIGN)
    spread(night)
    assert removal(night, undo).status is Status.PRESENT


# --- The look after it ----------------------------------------------------------------------------------------------

GATE = "iam:confirm-contained"
WAYS = {
    "a key": lambda night: night.twin.foreign_create_key(ACCOUNT, "ci-deploy"),
    "a password": lambda night: night.give("login-profile"),
    "an MFA device": lambda night: night.give("mfa-device"),
    "a managed policy": lambda night: night.attach("arn:aws:iam::aws:policy/AdministratorAccess"),
    "an inline policy": lambda night: night.put_inline("mine", FOREIGN),
    "a group": lambda night: night.change_user(groups=("admins",)),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_a_thief_adds_in_the_seconds_after_the_switch_off_is_found(night, way):
    """F49: the switched-off key still works when its answer comes back."""
    night.during["after set_key_status"] = lambda: WAYS[way](night)
    outcome = night.run(strategy="deactivate")
    assert outcome.exit_code is ExitCode.WAITING
    (trouble,) = [item for item in outcome.troubles if item.action.kind == GATE]
    assert "ci-deploy has the" in trouble.reason
    assert "was not there" in trouble.reason


def test_what_was_there_before_is_no_difference(night):
    for way in list(WAYS)[1:]:
        WAYS[way](night)
    night.twin.clock.advance(30)
    outcome = night.run(strategy="deactivate")
    assert not [item.reason for item in outcome.troubles if item.action.kind == GATE]


def test_a_changed_and_a_missing_belonging_are_told(night):
    night.put_inline("mine", TRUST)
    night.give("mfa-device")
    night.twin.clock.advance(30)

    def react():
        night.put_inline("mine", FOREIGN)
        night.change_user(footholds=())

    night.during["after set_key_status"] = react
    outcome = night.run(strategy="deactivate")
    (trouble,) = [item for item in outcome.troubles if item.action.kind == GATE]
    assert "the inline policy mine" in trouble.reason
    assert "lost or changed 1 MFA device" in trouble.reason


def test_a_key_that_is_switched_on_again_is_named(night):
    night.during["put_user_policy"] = lambda: night.twin.foreign_set_status(ACCOUNT, DEPLOY, KeyStatus.ACTIVE)
    outcome = night.run(strategy="contain")
    reasons = [item.reason for item in outcome.troubles if item.action.kind == GATE]
    assert any(f"{DEPLOY} of ci-deploy, which this run switched off, is active again" in text for text in reasons)


def test_the_last_look_comes_after_relist_and_agrees_with_one_before(night):
    night.run(strategy="contain")
    (verified,) = night.records(Verified, GATE)
    off = [item.evidence["server_time"] for item in night.records(Applied, "iam:deactivate-access-key")]
    last = datetime.fromisoformat(verified.evidence["server_time"])
    assert (last - datetime.fromisoformat(max(off))).total_seconds() >= Waits().relist


def test_what_could_not_be_read_is_no_all_clear_and_a_human_may_pass_it(night):
    night.twin.state.accounts[ACCOUNT].denied.append("iam:GetAccountAuthorizationDetails")
    outcome = night.run(strategy="deactivate")
    (trouble,) = [item for item in outcome.troubles if item.action.kind == GATE]
    assert "iam:GetAccountAuthorizationDetails" in trouble.reason
    assert any("Not read: policies and groups" in text for text in night.texts("danger"))
    assert trouble.action.gate == "contained"


def test_the_run_goes_on_with_the_new_key_of_a_user_whose_look_waits(night):
    """The gate knows the keys that this run makes, when it is looked at again later."""
    night.during["after set_key_status"] = lambda: night.give("login-profile")
    assert night.run(strategy="contain").exit_code is ExitCode.WAITING
    assert len(night.twin.created(ACCOUNT, "ci-deploy")) == 2
    night.change_user(footholds=())
    assert night.run(strategy="contain").exit_code is ExitCode.DONE


def test_a_skipped_look_is_left_out_and_said(night):
    night.during["after set_key_status"] = lambda: night.give("login-profile")
    night.run(strategy="deactivate")
    original = night.run

    def skipping(**answers):
        from containment import Responder

        recourse = Responder.recourse
        Responder.recourse = lambda self, trouble: Recourse.SKIP
        try:
            return original(**answers)
        finally:
            Responder.recourse = recourse

    assert skipping(strategy="deactivate").exit_code is ExitCode.SOME_FAILED


# --- The report -----------------------------------------------------------------------------------------------------


def test_the_report_says_first_who_used_the_exposed_keys(night):
    night.break_in()
    night.twin.clock.advance(300)
    night.run(strategy="contain", said={"incident.exposed_from": "2026-01-03T00:00:00Z"})
    recovered = read(night.folder)
    report = from_state(fold(recovered.records), PLAYBOOK, folder="case", head=recovered.head)
    text = to_markdown(report)
    assert report.findings[0].text.startswith(DEPLOY)
    assert 0 < text.index("## Who used the exposed keys") < text.index("## Where it stands")
    assert text.index("203.0.113.66") < text.index("## Where it stands")


def test_a_report_without_such_use_has_no_such_section(night):
    night.run(strategy="replace")
    recovered = read(night.folder)
    report = from_state(fold(recovered.records), PLAYBOOK, folder="case", head=recovered.head)
    assert "Who used the exposed keys" not in to_markdown(report)


def test_the_runbook_shows_the_policies_as_they_are_written():
    text = (Path(__file__).parents[1] / "docs" / "runbook" / "revoke_sessions.md").read_text()
    denial, isolation = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    assert cutoff_of(denial) is not None
    (user,) = isolation["Statement"][1]["Resource"]
    assert isolation == isolating_policy([user], f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me")
    assert f"{SIZE} characters" in text
