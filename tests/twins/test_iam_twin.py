"""IAM, STS and CloudTrail keep AWS's rules: quota, propagation, lagging lists, coarse use, late events."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, OTHER, OTHER_KEY, START, small_world

from playbook.errors import AwsError, CredentialsError, Effect
from playbook.ports import Credential, Identity, KeyStatus
from playbook.secret import Secret
from playbook.twins.iam import keys_of
from playbook.twins.world import Switches


def refused(code, action, *arguments, **named):
    with pytest.raises(AwsError) as caught:
        action(*arguments, **named)
    assert caught.value.code == code
    assert caught.value.effect is Effect.NONE
    return caught.value


def test_a_third_key_is_refused_and_an_inactive_one_keeps_its_slot():
    aws = small_world().aws[ACCOUNT]
    second = aws.create_access_key("ci", tag="t/1")
    aws.set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)

    assert refused("LimitExceeded", aws.create_access_key, "ci", tag="t/2").status == 409

    aws.delete_access_key("ci", OLD_KEY)
    third = aws.create_access_key("ci", tag="t/3")
    assert {key.id for key in aws.access_keys("ci").keys} == {second.key_id, third.key_id}


@pytest.mark.parametrize(("quota", "allowed"), [(1, 0), (2, 1), (5, 4)])
def test_the_quota_is_a_switch(quota, allowed):
    world = small_world(replace(NO_LAG, keys_per_user=quota))
    aws = world.aws[ACCOUNT]
    for number in range(allowed):
        aws.create_access_key("ci", tag=f"t/{number}")
    refused("LimitExceeded", aws.create_access_key, "ci", tag="t/x")
    assert aws.summary()["AccessKeysPerUserQuota"] == quota


def test_a_user_can_have_more_keys_than_the_quota():
    world = small_world()
    made = [world.foreign_create_key(ACCOUNT, "ci") for _ in range(7)]
    assert {key.id for key in world.aws[ACCOUNT].access_keys("ci").keys} == {OLD_KEY, *made}


def test_ids_and_secrets_look_like_awss_and_never_repeat_over_a_restart_with_the_same_seed():
    first = small_world(seed=5).aws[ACCOUNT].create_access_key("ci", tag="t")
    world = small_world(seed=5)
    again = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    assert again.key_id == first.key_id, "a seed makes a run repeatable"

    world.random.seed(5)
    third = world.aws[OTHER].create_access_key("ci", tag="t")
    assert third.key_id != again.key_id, "the same draw again must not collide"
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", third.key_id)
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", third.secret.reveal())


def test_times_are_awss_in_whole_seconds():
    world = small_world()
    world.state.accounts[ACCOUNT].skew_s = 3600
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    assert made.created_at == made.server_time == (START + timedelta(hours=1)).replace(microsecond=0)
    assert world.aws[ACCOUNT].access_keys("ci").server_time == made.server_time


def test_a_new_key_is_accepted_only_once_it_has_propagated():
    world = small_world(replace(NO_LAG, sts_lag_s=4))
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    identify = world.platforms().identify
    assert identify(made) is None
    world.clock.sleep(3.9)
    assert identify(made) is None
    world.clock.sleep(0.2)
    assert identify(made) == Identity(account=ACCOUNT, arn=f"arn:aws:iam::{ACCOUNT}:user/ci")


def test_inactive_deleted_unknown_and_mistyped_keys_all_get_the_same_answer():
    world = small_world()
    identify, aws = world.platforms().identify, world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t")
    assert identify(made) is not None

    wrong = Credential(**{**vars(made), "secret": Secret("x" * 40)})
    unknown = Credential(**{**vars(made), "key_id": "AKIA" + "A" * 16})
    mirrored = Credential(**{**vars(made), "key_id": OLD_KEY})
    assert [identify(item) for item in (wrong, unknown, mirrored)] == [None, None, None]

    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert identify(made) is None
    aws.set_key_status("ci", made.key_id, KeyStatus.ACTIVE)
    assert identify(made) is not None
    aws.delete_access_key("ci", made.key_id)
    assert identify(made) is None


def test_off_is_not_immediate():
    world = small_world(replace(NO_LAG, off_lag_s=4))
    aws, identify = world.aws[ACCOUNT], world.platforms().identify
    made = aws.create_access_key("ci", tag="t")
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert identify(made) is not None
    world.clock.sleep(4)
    assert identify(made) is None


def test_lists_lag_for_new_and_deleted_keys_and_for_a_status_if_switched():
    world = small_world(replace(NO_LAG, list_lag_s=2, status_lag_s=5))
    aws = world.aws[ACCOUNT]
    made = aws.create_access_key("ci", tag="t")
    assert aws.access_keys("ci").find(made.key_id) is None
    assert made.key_id in {key.id for key in world.all_keys(ACCOUNT, "ci")}, "the truth does not lag"
    world.clock.sleep(2)
    assert aws.access_keys("ci").find(made.key_id) is not None

    aws.set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    assert aws.access_keys("ci").find(OLD_KEY).is_active
    world.clock.sleep(5)
    assert not aws.access_keys("ci").find(OLD_KEY).is_active

    aws.delete_access_key("ci", OLD_KEY)
    assert aws.access_keys("ci").find(OLD_KEY) is not None
    refused("NoSuchEntity", aws.delete_access_key, "ci", OLD_KEY)
    world.clock.sleep(2)
    assert aws.access_keys("ci").find(OLD_KEY) is None


def test_what_is_not_there_answers_no_such_entity():
    aws = small_world().aws[ACCOUNT]
    for action, arguments in (
        (aws.access_keys, ("nobody",)),
        (aws.set_key_status, ("idle", OLD_KEY, KeyStatus.INACTIVE)),
        (aws.set_key_status, ("ci", OTHER_KEY, KeyStatus.INACTIVE)),
        (aws.delete_access_key, ("ci", "AKIA" + "Z" * 16)),
        (aws.last_used, ("AKIA" + "Z" * 16,)),
    ):
        assert refused("NoSuchEntity", action, *arguments).status == 404
    refused("NoSuchEntity", aws.create_access_key, "nobody", tag="t")
    refused("ValidationError", aws.create_access_key, "", tag="t")
    refused("ValidationError", aws.set_key_status, "ci", OLD_KEY, KeyStatus.EXPIRED)


def test_setting_a_status_twice_is_one_change():
    world = small_world()
    for _ in range(3):
        world.aws[ACCOUNT].set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    (key,) = keys_of(world.state.accounts[ACCOUNT], "ci")
    assert [change.status for change in key.changes] == [KeyStatus.ACTIVE, KeyStatus.INACTIVE]


def test_of_several_uses_in_fifteen_minutes_the_first_is_recorded():
    world = small_world()
    aws, identify = world.aws[ACCOUNT], world.platforms().identify
    made = aws.create_access_key("ci", tag="t")
    assert aws.last_used(made.key_id).at is None
    identify(made)
    first = aws.last_used(made.key_id)
    assert (first.at, first.service) == (world.clock.now().replace(microsecond=0), "sts")
    world.clock.sleep(600)
    identify(made)
    assert aws.last_used(made.key_id) == first
    world.clock.sleep(600)
    identify(made)
    assert aws.last_used(made.key_id).at > first.at


def test_cloudtrail_is_late_and_knows_our_tag_from_a_strangers():
    world = small_world(replace(NO_LAG, trail_lag_s=120))
    aws = world.aws[ACCOUNT]
    since = aws.access_keys("ci").server_time
    made = aws.create_access_key("ci", tag="case-7/12")
    stranger = world.foreign_create_key(ACCOUNT, "ci")
    world.foreign_create_key(ACCOUNT, "idle")
    assert aws.key_creations("ci", since) == ()
    world.clock.sleep(121)
    events = {event.key_id: event for event in aws.key_creations("ci", since)}
    assert set(events) == {made.key_id, stranger}
    assert "case-7/12" in events[made.key_id].user_agent
    assert "case-7/12" not in events[stranger].user_agent
    assert aws.key_creations("ci", since + timedelta(minutes=10)) == ()


def test_cloudtrail_can_be_denied():
    aws = small_world(replace(NO_LAG, trail_denied=True)).aws[ACCOUNT]
    refused("AccessDenied", aws.key_creations, "ci", START)


def test_denied_actions_are_refused_and_the_simulator_says_so():
    world = small_world()
    state = world.state.accounts[ACCOUNT]
    state.denied.append("iam:UpdateAccessKey")
    aws = world.aws[ACCOUNT]
    assert aws.simulate(["iam:UpdateAccessKey", "iam:CreateAccessKey"]) == {
        "iam:UpdateAccessKey": False,
        "iam:CreateAccessKey": True,
    }
    refused("AccessDenied", aws.set_key_status, "ci", OLD_KEY, KeyStatus.INACTIVE)
    assert world.all_keys(ACCOUNT, "ci")[0].is_active
    state.can_simulate = False
    assert aws.simulate(["iam:CreateAccessKey"]) is None


def test_who_switches_off_the_key_that_signs_is_locked_out():
    world = small_world(Switches())
    world.state.accounts[ACCOUNT].own_key_id = OLD_KEY
    aws = world.aws[ACCOUNT]
    assert aws.own_key_id() == OLD_KEY
    assert aws.identity().account == ACCOUNT
    aws.set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    aws.access_keys("ci")  # AWS has not noticed yet
    world.clock.sleep(4)
    with pytest.raises(CredentialsError):
        aws.access_keys("ci")
    assert world.aws[OTHER].users(), "the other account has an operator of its own"


def test_users_are_sorted_and_carry_their_arn():
    users = small_world().aws[ACCOUNT].users()
    assert [(user.name, user.arn) for user in users] == [
        ("ci", f"arn:aws:iam::{ACCOUNT}:user/ci"),
        ("idle", f"arn:aws:iam::{ACCOUNT}:user/idle"),
    ]
