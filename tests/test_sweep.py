"""What a thief leaves behind is found, explained and left alone; what this run made is not taken for a thief's."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import msgspec
import pytest
from containment import ACCOUNT, CASE, DEPLOY, OLD, START, THIEF, THIEVES_SESSION, TRUST, Night

from playbook.errors import ExitCode
from playbook.model import Case
from playbook.persistence import WATCHED, Made, Sighting, made_since, sightings, watched_as
from playbook.ports import AccountDetails, Attempt, IdentityProvider, KeyStatus, PolicyDocument, Principal, TrailEvent
from playbook.twins.state import Account, Change, IamRole, IamUser, Key, Provider, Version
from steps import PLAYBOOK
from steps.session_policies import POLICY
from steps.sweep_for_persistence import SweepForPersistence, _Ours

LOOKING = [step for step in PLAYBOOK if step.id in {"check_access", "inventory_secrets"}] + [SweepForPersistence()]
WINDOW = {"incident.exposed_from": "2026-01-01T00:00:00Z"}
KEEP = {"keys.strategy": "keep", "keys.reason": "looked at already"}


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def sweep(night, **options):
    """Look a while later, when CloudTrail has delivered."""
    night.twin.clock.advance(900)
    return night.run(steps=LOOKING, said={**WINDOW, **KEEP, **options})


def new_user(night, name="backup-svc", *, by=DEPLOY):
    account = night.twin.state.accounts[ACCOUNT]
    arn = f"arn:aws:iam::{ACCOUNT}:user/{name}"
    account.users[name] = IamUser(name=name, arn=arn, created_at=night.twin.clock.now().replace(microsecond=0))
    night.event("CreateUser", service="iam", signer=by, resources=(name,), **THIEF)
    return name


def new_key(night, user="ci-deploy", *, event=True):
    made = night.twin.foreign_create_key(ACCOUNT, user)
    trail = night.twin.state.accounts[ACCOUNT].trail
    if not event:
        trail[:] = [item for item in trail if item.key_id != made]
    return made


# --- What is found --------------------------------------------------------------------------------------------------


def test_a_quiet_account_is_no_all_clear_but_says_what_was_searched(night):
    assert sweep(night).exit_code is ExitCode.DONE
    assert night.texts("danger") == []
    assert any("Nothing that leads back in was found" in text for text in night.texts())
    (text,) = [text for text in night.texts("note") if text.startswith("Searched:")]
    assert "data events" in text


def test_a_new_user_is_explained_with_who_when_and_from_where(night):
    new_user(night)
    sweep(night)
    (text,) = [text for text in night.texts("danger") if "backup-svc" in text]
    for part in (
        "the user backup-svc was made",
        "by ci-deploy",
        DEPLOY,
        THIEF["source_address"],
        "Boto3/1",
        "exposed key",
    ):
        assert part in text
    assert "deny it everything" in text


def test_a_password_of_a_new_user_is_looked_for(night):
    new_user(night)
    night.give("login-profile", "backup-svc", "backup-svc")
    sweep(night)
    assert any("the login-profile backup-svc of backup-svc was made" in text for text in night.texts())


def test_a_new_key_without_an_event_is_told_all_the_same(night):
    """The trail can be late, cut, or switched off: what IAM shows counts by itself."""
    made = new_key(night, event=False)
    sweep(night)
    (text,) = [text for text in night.texts("warning") if made in text and text.startswith("In ")]
    assert "CloudTrail does not show by whom" in text


def test_a_new_role_and_provider_are_found(night):
    account = night.twin.state.accounts[ACCOUNT]
    now = night.twin.clock.now().replace(microsecond=0)
    role = IamRole(name="helper", arn=f"arn:aws:iam::{ACCOUNT}:role/helper", trust=TRUST, created_at=now)
    night.twin.foreign_put_role(ACCOUNT, role)
    arn = f"arn:aws:iam::{ACCOUNT}:oidc-provider/login.example.org"
    account.providers[arn] = [Version(value=Provider(arn=arn, url="login.example.org", created_at=now))]
    sweep(night)
    told = " ".join(night.texts("warning"))
    assert "the role helper was made" in told
    assert "the OIDC provider login.example.org was made" in told


def test_a_changed_trust_policy_says_whom_it_trusts_now(night):
    night.add_role("admin")
    evil = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "999988887777"}, "Action": "sts:AssumeRole"}],
    }
    arn = f"arn:aws:iam::{ACCOUNT}:role/admin"
    made = START - timedelta(days=300)
    night.twin.foreign_put_role(ACCOUNT, IamRole(name="admin", arn=arn, trust=evil, created_at=made))
    night.event("UpdateAssumeRolePolicy", service="iam", resources=("admin",), **THIEF)
    sweep(night)
    (text,) = [text for text in night.texts("danger") if "trust policy" in text]
    assert "it trusts now" in text
    assert "999988887777" in text


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("StopLogging", "logging was stopped"),
        ("DeleteTrail", "a trail was deleted"),
        ("UpdateFunctionCode20150331v2", "a Lambda function's code was changed"),
        ("AttachUserPolicy", "a managed policy was attached to a user"),
        ("CreatePolicyVersion", "a managed policy was changed"),
        ("CreateSAMLProvider", "a SAML provider was registered"),
        ("DeactivateMFADevice", "an MFA device was taken away"),
    ],
)
def test_what_an_exposed_key_did_is_dangerous_and_what_others_did_is_named(tmp_path, name, part):
    night = Night(tmp_path)
    night.event(name, service="any", resources=("thing",), **THIEF)
    night.event(name, service="any", resources=("other",), signer="AKIAADMINSOWNKEYAAAA", actor="ann")
    sweep(night)
    (danger,) = [text for text in night.texts("danger") if part in text]
    (warning,) = [text for text in night.texts("warning") if part in text]
    assert "thing" in danger
    assert "by ann" in warning


def test_what_a_session_of_the_key_did_is_found_breadth_first(night):
    night.break_in()
    new_user(night, "deep", by="ASIATHIEFROLEAAAAAAA")
    sweep(night)
    (text,) = [text for text in night.texts("danger") if "the user deep was made" in text]
    assert "ASIATHIEFROLEAAAAAAA" in text


def test_a_call_that_was_refused_left_nothing_behind(night):
    night.event("CreateUser", service="iam", error_code="AccessDenied", resources=("nobody",), **THIEF)
    sweep(night)
    assert not any("nobody" in text.split(":")[0] for text in night.texts("danger"))


def test_what_was_there_before_the_window_is_not_told(night):
    new_user(night, "old-hand")
    account = night.twin.state.accounts[ACCOUNT]
    account.users["old-hand"] = msgspec.structs.replace(
        account.users["old-hand"], created_at=START - timedelta(days=99)
    )
    account.trail.clear()
    sweep(night)
    assert not any("old-hand" in text for text in night.texts("danger") + night.texts("warning"))


def test_a_hundred_changes_do_not_hide_the_dangerous_ones(night):
    for number in range(130):
        night.event("AttachRolePolicy", service="iam", resources=(f"role-{number}",), signer="AKIAADMINSOWNKEYAAAA")
    new_user(night)
    sweep(night)
    told = [text for text in night.texts() if text.startswith(f"In {ACCOUNT}")]
    assert "backup-svc" in told[0]
    assert len(told) == 100
    assert any("31 more things" in text for text in night.texts("warning"))


# --- What is no thief's ---------------------------------------------------------------------------------------------


def test_what_this_run_made_is_not_reported(night):
    """The new keys and our denials are known by the journal, once CloudTrail shows them."""
    night.break_in()
    night.twin.clock.advance(300)
    before = [step for step in PLAYBOOK if step.id not in {"sweep_for_persistence", "close_incident"}]
    assert night.run(strategy="contain", steps=before, said=WINDOW).exit_code is ExitCode.DONE
    made = night.twin.created(ACCOUNT, "ci-deploy").keys() - OLD.values()
    night.twin.clock.advance(900)
    assert night.run(strategy="contain", said=WINDOW).exit_code is ExitCode.DONE
    sweep_told = [item.text for item in night.outcome.findings if item.text.startswith(f"In {ACCOUNT} ")]
    assert len(made) == 1
    assert not any(key in text for key in made for text in sweep_told)
    assert not any(POLICY in text for text in sweep_told)


def test_a_thief_who_uses_our_agent_is_not_taken_for_us(night):
    """CloudTrail shows our user agent to whoever may read it; only what the journal made is ours."""
    made = night.twin.foreign_create_key(ACCOUNT, "ci-deploy", agent=f"Boto3/1 rotation-playbook/{CASE} {CASE}.7")
    night.event("PutUserPolicy", service="iam", resources=("ci-ecr", POLICY), user_agent=f"rotation-playbook/{CASE}")
    sweep(night)
    told = night.texts("warning") + night.texts("danger")
    assert any(made in text for text in told)
    assert any(POLICY in text for text in told)


def test_a_key_of_ours_whose_making_was_lost_is_not_reported(night):
    before = [step for step in PLAYBOOK if step.id not in {"sweep_for_persistence", "close_incident"}]
    faults = ["drop-reply:create_access_key:1"]
    assert night.run(strategy="contain", steps=before, said=WINDOW, faults=faults).exit_code is ExitCode.DONE
    night.twin.clock.advance(900)
    assert night.run(strategy="contain", said=WINDOW).exit_code is ExitCode.DONE
    every = {key for user in OLD for key in night.twin.created(ACCOUNT, user)}
    assert len(every - set(OLD.values())) == 3
    told = [item.text for item in night.outcome.findings if item.text.startswith(f"In {ACCOUNT} ")]
    assert not any(key in text for key in every for text in told)


@pytest.mark.parametrize(("failed", "ours"), [(None, True), ("unknown", True), ("none", False)])
def test_a_role_is_ours_when_a_plan_names_it_and_our_own_create_may_have_made_it(failed, ours):
    key = f"iam:create-role:{ACCOUNT}/circleci-api"
    tried = Attempt(seq=3, tag="case.3", basis={}, failed=failed)
    view = SimpleNamespace(past=lambda name: (tried,) if name == key else ())
    known = _Ours(view, ACCOUNT, (), Case(id="case", verified=frozenset({key})))

    def seen(name):
        return Sighting(what="x", advice="y", at=START, made=Made(kind="role", name=name, at=START, alias="arn"))

    assert known.explains(seen("circleci-api")) is ours
    assert not known.explains(seen("circleci"))
    assert not known.explains(seen("api"))


# --- What is decided ------------------------------------------------------------------------------------------------


def test_nothing_is_changed_without_a_decision(night):
    made = []
    night.during["providers"] = lambda: made.append(new_key(night))
    new_user(night)
    assert sweep(night).exit_code is ExitCode.DONE
    assert night.wrote("set_key_status") == []
    assert night.wrote("put_user_policy") == night.wrote("delete_access_key") == []
    assert night.twin.state.accounts[ACCOUNT].keys[made[0]].status is KeyStatus.ACTIVE


def made_after_the_inventory(night, user="ci-deploy"):
    """A key that no decision of before speaks of."""
    made = []

    def make():
        made.append(new_key(night, user))
        night.twin.clock.advance(60)

    night.during["providers"] = make
    return made


def test_a_key_that_was_found_is_asked_about_and_switched_off_where_that_is_chosen(night):
    made = made_after_the_inventory(night)
    assert sweep(night, **{"keys.found:": "deactivate"}).exit_code is ExitCode.DONE
    assert [name for name in night.operator.asked if name.startswith("keys.found:")] == [
        f"keys.found:{ACCOUNT}/ci-deploy/{made[0]}"
    ]
    assert night.twin.state.accounts[ACCOUNT].keys[made[0]].status is KeyStatus.INACTIVE
    assert night.twin.state.accounts[ACCOUNT].keys[DEPLOY].status is KeyStatus.ACTIVE


def test_a_key_that_was_found_is_left_on_by_default(night):
    made = made_after_the_inventory(night)
    sweep(night)
    assert night.twin.state.accounts[ACCOUNT].keys[made[0]].status is KeyStatus.ACTIVE


def test_a_key_of_the_inventory_is_asked_about_again_only_when_an_exposed_key_made_it(night):
    decided, thieves = new_key(night), new_key(night, "ci-ecr", event=False)
    night.event("CreateAccessKey", service="iam", resources=("ci-ecr", thieves), **THIEF)
    sweep(night)
    asked = [name for name in night.operator.asked if name.startswith("keys.found:")]
    assert asked == [f"keys.found:{ACCOUNT}/ci-ecr/{thieves}"]
    assert any(decided in text for text in night.texts("warning"))


def test_the_key_that_signs_this_run_is_not_offered(night):
    account = night.twin.state.accounts[ACCOUNT]
    account.users["me"] = IamUser(
        name="me", arn=f"arn:aws:iam::{ACCOUNT}:user/me", created_at=START - timedelta(days=1)
    )
    made = START - timedelta(hours=1)
    night.event("CreateAccessKey", service="iam", resources=("me", "AKIAMYOWNKEYAAAAAAAA"), **THIEF)
    account.keys["AKIAMYOWNKEYAAAAAAAA"] = Key(
        id="AKIAMYOWNKEYAAAAAAAA", user="me", created_at=made, changes=[Change(at=made, status=KeyStatus.ACTIVE)]
    )
    account.own_key_id = "AKIAMYOWNKEYAAAAAAAA"
    questions = []
    from containment import Responder

    answer = Responder.answer

    def listen(self, question):
        questions.append(question)
        return answer(self, question)

    Responder.answer = listen
    try:
        sweep(night)
    finally:
        Responder.answer = answer
    (question,) = [item for item in questions if item.id.startswith("keys.found:")]
    assert "deactivate" in question.refused


def test_a_role_that_was_assumed_after_the_plan_is_named_once_the_trail_shows_it(tmp_path):
    """CloudTrail is late: a role assumed in the last minutes is in no plan of the containment."""
    night = Night(tmp_path, trail_lag_s=600)
    night.add_role()
    night.during["set_key_status"] = lambda: night.event(
        "AssumeRole", role=f"arn:aws:iam::{ACCOUNT}:role/deployer", issued_key_id=THIEVES_SESSION, **THIEF
    )
    before = [step for step in PLAYBOOK if step.id not in {"sweep_for_persistence", "close_incident"}]
    assert night.run(strategy="deactivate", steps=before).exit_code is ExitCode.DONE
    assert night.wrote("put_role_policy") == []
    night.twin.clock.advance(900)
    night.run(strategy="deactivate")
    assert any("The role deployer" in text and "were not ended" in text for text in night.texts("danger"))


def test_a_role_whose_sessions_were_ended_is_not_named_again(night):
    night.break_in()
    night.twin.clock.advance(300)
    night.run(strategy="deactivate")
    assert not any("were not ended" in text for text in night.texts())


# --- Holes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("iam:GetAccountAuthorizationDetails", "users, roles and policies"),
        ("iam:ListOpenIDConnectProviders", "identity providers"),
        ("iam:ListMFADevices", "passwords, MFA devices and certificates"),
        ("cloudtrail:LookupEvents", "CloudTrail's events"),
    ],
)
def test_a_refused_read_is_a_named_hole_and_never_an_all_clear(tmp_path, action, what):
    night = Night(tmp_path)
    night.twin.state.accounts[ACCOUNT].denied.append(action)
    assert sweep(night).exit_code is ExitCode.DONE
    assert any(text.startswith(f"Not read: {what}") and "AccessDenied" in text for text in night.texts("danger"))
    assert not any("Nothing that leads back in" in text for text in night.texts())


def test_each_account_is_swept(tmp_path):
    night = Night(tmp_path)
    other = "444455556666"
    state = night.twin.state
    state.accounts[other] = Account(id=other, operator_arn=f"arn:aws:iam::{other}:role/me")
    night = Night(tmp_path, state=state)
    now = night.twin.clock.now().replace(microsecond=0)
    role = IamRole(name="helper", arn=f"arn:aws:iam::{other}:role/helper", trust=TRUST, created_at=now)
    night.twin.foreign_put_role(other, role)
    sweep(night)
    assert any(f"In {other} the role helper was made" in text for text in night.texts("warning"))


# --- The pure part --------------------------------------------------------------------------------------------------


def event(name, *resources, number=1, error=""):
    return TrailEvent(event_id=f"e{number}", at=START, name=name, service="iam", resources=resources, error_code=error)


def test_an_event_is_watched_by_its_plain_name_and_only_when_it_succeeded():
    assert watched_as(event("UpdateFunctionCode20150331v2")) == "UpdateFunctionCode20150331v2"
    assert watched_as(event("UpdateFunctionCode")) == "UpdateFunctionCode20150331v2"
    assert watched_as(event("CreateUser")) == "CreateUser"
    assert watched_as(event("CreateUser", error="AccessDenied")) is None
    assert watched_as(event("ListUsers")) is None


def test_every_watched_call_has_words_and_advice():
    assert all(what and advice and not advice.endswith(".") for what, advice in WATCHED.values())
    print(f"{len(WATCHED)} calls are watched")


def test_a_thing_and_its_event_are_one_sighting():
    made = Made(kind="user", name="eve", at=START, alias="arn:eve")
    found = sightings([made], [event("CreateUser", "arn:eve"), event("CreateUser", "bob", number=2)])
    assert [(item.made, len(item.events)) for item in found] == [(None, 1), (made, 1)]


def test_an_event_that_is_looked_up_twice_is_told_once():
    twice = [event("StopLogging", "trail"), event("StopLogging", "trail")]
    assert len(sightings([], twice)) == 1


def test_aws_own_policies_are_nobodys_doing():
    document = {"Version": "2012-10-17"}
    details = AccountDetails(
        users=(Principal(name="u", arn="arn:u", created_at=START - timedelta(days=1)),),
        policies=(
            PolicyDocument(name="A", arn="arn:aws:iam::aws:policy/A", document=document, changed_at=START),
            PolicyDocument(name="B", arn=f"arn:aws:iam::{ACCOUNT}:policy/B", document=document, changed_at=START),
        ),
    )
    provider = IdentityProvider(arn="arn:saml", url="", saml=True, created_at=START)
    undated = IdentityProvider(arn="arn:other", url="x")
    found = made_since(details, [provider, undated], [], {}, START)
    assert [(item.kind, item.name) for item in found] == [("managed policy", "B"), ("SAML provider", "arn:saml")]
