"""CloudTrail on the twin: what is recorded, when it arrives, how it is looked up; and which services take a key."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, OTHER, START, project, small_world

from playbook.errors import AwsError
from playbook.ports import KeyStatus, TrailKey
from playbook.secret import Secret
from playbook.twins import pipeline
from playbook.twins.faults import Faults
from playbook.twins.seed import mirror
from playbook.twins.state import Account, TrailEvent
from playbook.twins.world import TwinWorld

LONG_AGO = START - timedelta(days=80)
ROLE = f"arn:aws:iam::{OTHER}:role/deploy"


def names(events):
    return [event.name for event in events]


def test_an_event_arrives_late():
    world = small_world(replace(NO_LAG, trail_lag_s=120))
    aws = world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t/1")
    assert aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", LONG_AGO) == ()
    world.clock.sleep(121)
    (event,) = aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", LONG_AGO)
    assert event.resources == ("ci", made.key_id)
    assert "t/1" in event.user_agent.split()
    assert aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", event.at + timedelta(seconds=1)) == ()


def test_an_event_is_forgotten_after_ninety_days():
    world = small_world()
    aws = world.aws[ACCOUNT]
    aws.create_access_key("ci", tag="t/1")
    since = START - timedelta(days=365)
    world.clock.sleep(89 * 86400)
    assert names(aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", since)) == ["CreateAccessKey"]
    assert len(aws.key_creations("ci", since)) == 1
    world.clock.sleep(2 * 86400)
    assert aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", since) == ()
    assert aws.key_creations("ci", since) == ()


def test_every_use_of_a_key_is_in_the_trail_though_last_use_is_coarse():
    world = small_world()
    aws = world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t/1")
    for _ in range(3):
        assert world.platforms().identify(made) is not None
        world.clock.sleep(60)
    used = aws.trail(TrailKey.ACCESS_KEY_ID, made.key_id, LONG_AGO)
    assert names(used) == ["GetCallerIdentity"] * 3
    assert [event.at for event in used] == sorted(event.at for event in used)
    assert {(event.user, event.service) for event in used} == {("ci", "sts")}
    assert aws.last_used(made.key_id).at == used[0].at
    assert aws.trail(TrailKey.USER_NAME, "ci", LONG_AGO) == used


def test_a_job_leaves_its_key_in_the_trail_under_another_address():
    world = small_world()
    stored = world.state.circleci.projects[project(world).id]
    assert pipeline.run(world, stored, []).passed
    (event,) = world.aws[ACCOUNT].trail(TrailKey.ACCESS_KEY_ID, OLD_KEY, LONG_AGO)
    assert (event.user, event.source_address) == ("ci", "198.51.100.20")


def test_our_own_changes_carry_our_key_and_the_session_of_a_role_has_one_too():
    world = small_world()
    aws = world.aws[ACCOUNT]
    aws.set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    aws.tag_user("ci", "case", "1")
    with pytest.raises(AwsError):
        aws.delete_access_key("ci", "AKIANOSUCHKEYNOSUCH2")
    events = aws.trail(TrailKey.RESOURCE_NAME, "ci", LONG_AGO)
    assert names(events) == ["UpdateAccessKey", "TagUser", "DeleteAccessKey"]
    assert [event.error_code for event in events] == ["", "", "NoSuchEntity"]
    (signer,) = {event.key_id for event in events}
    assert signer.startswith("ASIA")
    assert len(signer) == 20
    assert {event.user for event in events} == {"me"}
    world.state.accounts[ACCOUNT].own_key_id = OLD_KEY
    aws_again = TwinWorld(world.state, switches=NO_LAG).aws[ACCOUNT]
    with pytest.raises(Exception, match="does not accept"):
        aws_again.tag_user("ci", "a", "b")
    assert aws_again._state.trail == world.state.accounts[ACCOUNT].trail, "an unsigned call is nobody's"


def test_a_refused_request_that_never_arrived_is_not_in_the_trail():
    world = small_world(faults=Faults(["drop-request:tag_user", "deny:untag_user"]))
    aws = world.aws[ACCOUNT]
    for call in (lambda: aws.tag_user("ci", "a", "b"), lambda: aws.untag_user("ci", "a")):
        with pytest.raises(AwsError):
            call()
    assert aws.trail(TrailKey.RESOURCE_NAME, "ci", LONG_AGO) == ()


def test_a_trail_leads_from_a_key_over_its_sessions_into_another_account():
    world = small_world()
    first = world.foreign_event(
        ACCOUNT,
        "AssumeRole",
        at=START - timedelta(hours=5),
        service="sts",
        region="eu-west-1",
        signer=OLD_KEY,
        actor="ci",
        issued_key_id="ASIASESSIONSESSION22",
        role=ROLE,
        source_address="203.0.113.66",
        user_agent="Boto3/1",
    )
    world.foreign_event(
        OTHER,
        "CreateUser",
        at=START - timedelta(hours=4),
        service="iam",
        signer="ASIASESSIONSESSION22",
        actor="backdoor-session",
        resources=("backdoor",),
    )
    (assumed,) = world.aws[ACCOUNT].trail(TrailKey.ACCESS_KEY_ID, OLD_KEY, LONG_AGO)
    assert (assumed.event_id, assumed.issued_key_id, assumed.role) == (first, "ASIASESSIONSESSION22", ROLE)
    assert (assumed.region, assumed.source_address) == ("eu-west-1", "203.0.113.66")
    assert world.aws[ACCOUNT].trail(TrailKey.ACCESS_KEY_ID, assumed.issued_key_id, LONG_AGO) == ()
    (made,) = world.aws[OTHER].trail(TrailKey.ACCESS_KEY_ID, assumed.issued_key_id, LONG_AGO)
    assert (made.name, made.resources) == ("CreateUser", ("backdoor",))
    assert names(world.aws[ACCOUNT].trail(TrailKey.RESOURCE_NAME, ROLE, LONG_AGO)) == ["AssumeRole"]
    assert world.aws[ACCOUNT].key_creations("ci", LONG_AGO) == (), "only the making of keys attributes one"


def test_a_denied_trail_is_refused():
    for world in (small_world(replace(NO_LAG, trail_denied=True)), small_world()):
        world.state.accounts[ACCOUNT].denied = ["cloudtrail:LookupEvents"]
        with pytest.raises(AwsError) as caught:
            world.aws[ACCOUNT].trail(TrailKey.USER_NAME, "ci", LONG_AGO)
        assert caught.value.code == "AccessDenied"


def test_a_mirrors_trail_is_the_live_one_and_its_own():
    world = small_world()
    world.platforms().identify(world.aws[ACCOUNT].create_access_key("ci", tag="t/1"))
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=(), switches=NO_LAG).aws[ACCOUNT]
    live = world.aws[ACCOUNT].trail(TrailKey.RESOURCE_NAME, "ci", LONG_AGO)
    assert names(live) == ["CreateAccessKey"]
    twin.set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    assert names(twin.trail(TrailKey.RESOURCE_NAME, "ci", LONG_AGO)) == ["CreateAccessKey", "UpdateAccessKey"]
    assert world.aws[ACCOUNT].trail(TrailKey.RESOURCE_NAME, "ci", LONG_AGO) == live


def test_a_mirror_knows_the_owner_of_a_key_it_never_listed():
    world = small_world()
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=(), switches=NO_LAG).aws[ACCOUNT]
    later = world.foreign_create_key(ACCOUNT, "idle")
    assert twin.key_owner(later) == "idle"
    assert twin.key_owner(OLD_KEY) == "ci"
    twin.delete_access_key("ci", OLD_KEY)
    assert twin.key_owner(OLD_KEY) is None
    assert world.aws[ACCOUNT].key_owner(OLD_KEY) == "ci"


def test_a_file_of_before_there_were_other_events_is_read():
    text = (
        b'{"id":"111122223333","operator_arn":"arn:aws:iam::111122223333:user/me","trail":[{"id":"e","at":'
        b'"2026-11-02T08:00:00Z","user":"ci","key_id":"AKIAMADEMADEMADEMA22","user_agent":"x"}]}'
    )
    (event,) = msgspec.json.decode(text, type=Account).trail
    assert isinstance(event, TrailEvent)
    assert (event.name, event.service, event.user, event.key_id) == (
        "CreateAccessKey",
        "iam",
        "ci",
        "AKIAMADEMADEMADEMA22",
    )


# --- Services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["ecr", "s3"])
def test_a_service_learns_of_a_new_key_later_than_sts_and_proving_it_is_a_use(service):
    world = small_world(replace(NO_LAG, sts_lag_s=4, service_lag_s=6, off_lag_s=3))
    aws, platforms = world.aws[ACCOUNT], world.platforms()
    made = aws.create_access_key("ci", tag="t/1")
    assert platforms.accepts(made, service, "eu-west-1") is False
    world.clock.sleep(4)
    assert platforms.identify(made) is not None
    assert platforms.accepts(made, service, "eu-west-1") is False
    world.clock.sleep(2)
    assert platforms.accepts(made, service, "eu-west-1") is True
    last = aws.trail(TrailKey.ACCESS_KEY_ID, made.key_id, LONG_AGO)[-1]
    assert (last.service, last.region) == (service, "eu-west-1")
    assert platforms.accepts(replace(made, secret=Secret("another")), service, "eu-west-1") is False
    assert platforms.accepts(made, "lambda", "eu-west-1") is None
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert platforms.accepts(made, service, "eu-west-1") is True, "switching off has not spread yet"
    world.clock.sleep(3)
    assert platforms.accepts(made, service, "eu-west-1") is False


def test_a_key_under_a_denial_of_everything_is_still_accepted():
    world = small_world()
    aws = world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t/1")
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*"}
    aws.put_user_policy("ci", "deny", {"Version": "2012-10-17", "Statement": [statement]})
    assert not world.session_allowed(ACCOUNT, user="ci")
    assert world.platforms().accepts(made, "s3", "us-east-1") is True
    assert world.platforms().identify(made) is not None


def test_what_was_tried_is_told_hours_later():
    world = small_world(replace(NO_LAG, accessed_lag_s=4 * 3600))
    aws = world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t/1")
    world.platforms().accepts(made, "ecr", "eu-west-1")
    arn = f"arn:aws:iam::{ACCOUNT}:user/ci"
    assert aws.accessed_services(arn) == ()
    world.clock.sleep(4 * 3600 + 1)
    assert [item.service for item in aws.accessed_services(arn)] == ["ecr"]
