"""Faults strike where they are told to, with the effect they promise; reads sit out a throttle as clients do."""

from __future__ import annotations

import json
import os
import signal

import pytest
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, context, small_world

from playbook.errors import AwsError, CircleCiError, CredentialsError, Effect, ServiceError, UsageError
from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.faults import FAULTS, READ_RETRIES, Faults, Kind, parse
from playbook.twins.state import VERSION
from playbook.twins.world import TwinWorld


def keys(world):
    return len(world.all_keys(ACCOUNT, "ci"))


@pytest.mark.parametrize(
    ("fault", "code", "effect", "made"),
    [
        ("throttle", "Throttling", Effect.NONE, 0),
        ("deny", "AccessDenied", Effect.NONE, 0),
        ("drop-request", "Timeout", Effect.UNKNOWN, 0),
        ("drop-reply", "Disconnected", Effect.UNKNOWN, 1),
        ("server-error", "InternalFailure", Effect.UNKNOWN, 0),
        ("server-error-applied", "InternalFailure", Effect.UNKNOWN, 1),
    ],
)
def test_a_create_that_is_struck_has_the_effect_it_should(fault, code, effect, made):
    world = small_world(faults=Faults([f"{fault}:create_access_key"]))
    with pytest.raises(AwsError) as caught:
        world.aws[ACCOUNT].create_access_key("ci", tag="t")
    assert (caught.value.code, caught.value.effect) == (code, effect)
    assert keys(world) == 1 + made
    assert world.faults.struck == {Kind(fault): 1}


@pytest.mark.parametrize(
    ("fault", "code", "status", "stored"),
    [
        ("throttle", "HTTP429", 429, False),
        ("deny", "HTTP403", 403, False),
        ("drop-request", "Timeout", None, False),
        ("drop-reply", "Disconnected", None, True),
        ("server-error", "HTTP500", 500, False),
        ("server-error-applied", "HTTP500", 500, True),
    ],
)
def test_so_has_a_put(fault, code, status, stored):
    world = small_world(faults=Faults([f"{fault}:put_variable"]))
    with pytest.raises(CircleCiError) as caught:
        world.circleci.put_variable(context(world), "NEW", Secret("a value"))
    assert (caught.value.code, caught.value.status) == (code, status)
    assert (world.circleci.variables(context(world)).find("NEW") is not None) is stored
    world.circleci.put_variable(context(world), "NEW", Secret("a value"))


def test_credentials_expire_and_time_is_lost():
    world = small_world(faults=Faults(["expired:set_key_status", "delay:variables"]))
    with pytest.raises(CredentialsError):
        world.aws[ACCOUNT].set_key_status("ci", OLD_KEY, KeyStatus.INACTIVE)
    assert world.all_keys(ACCOUNT, "ci")[0].is_active
    before = world.clock.now()
    world.circleci.variables(context(world))
    assert (world.clock.now() - before).total_seconds() == 60


@pytest.mark.parametrize("fault", ["throttle", "drop-request", "drop-reply", "server-error", "server-error-applied"])
def test_a_read_is_tried_again_as_the_clients_do_and_only_so_often(fault):
    world = small_world(faults=Faults([f"{fault}:access_keys:1x{READ_RETRIES}"]))
    before = world.clock.now()
    assert world.aws[ACCOUNT].access_keys("ci").keys
    assert (world.clock.now() - before).total_seconds() == READ_RETRIES

    world = small_world(faults=Faults([f"{fault}:access_keys:1x{READ_RETRIES + 1}"]))
    with pytest.raises(AwsError):
        world.aws[ACCOUNT].access_keys("ci")
    assert world.aws[ACCOUNT].access_keys("ci").keys


def test_without_an_operation_writes_alone_are_struck():
    world = small_world(faults=Faults(["deny"]))
    world.aws[ACCOUNT].users()
    world.circleci.variables(context(world))
    with pytest.raises(ServiceError):
        world.circleci.put_variable(context(world), "NEW", Secret("a value"))
    world.circleci.put_variable(context(world), "NEW", Secret("a value"))


def test_the_nth_call_and_a_stretch_of_calls():
    world = small_world(faults=Faults(["deny:users:3x2"]))
    outcomes = []
    for _ in range(6):
        try:
            world.aws[ACCOUNT].users()
            outcomes.append("ok")
        except AwsError as error:
            outcomes.append(error.code)
    assert outcomes == ["ok", "ok", "AccessDenied", "AccessDenied", "ok", "ok"]


def test_by_chance_is_repeatable_from_the_seed():
    def history(seed):
        world = small_world(faults=Faults(["deny:users:30%"], seed=seed))
        denied = []
        for number in range(200):
            try:
                world.aws[ACCOUNT].users()
            except AwsError:
                denied.append(number)
        return denied

    assert history(4) == history(4) != history(5)
    assert 30 < len(history(4)) < 90


def test_every_fault_has_a_name_and_a_line():
    assert set(FAULTS) == set(Kind)
    for name, line in FAULTS.items():
        assert parse(name).kind == name
        assert 10 < len(line) < 100
    rule = parse("drop-reply:create_access_key")
    assert (rule.kind, rule.operation, rule.nth, rule.times) == (Kind.DROP_REPLY, "create_access_key", 1, 1)


@pytest.mark.parametrize("text", ["", "nonsense", "deny:users:0", "deny:users:x", "deny:a b", "deny:a:1:2"])
def test_a_fault_that_is_none_is_refused_with_the_names(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert "drop-reply" in caught.value.remedy


@pytest.mark.parametrize(("fault", "made"), [("crash", 0), ("crash-after", 1)])
def test_a_crash_is_a_sigkill_and_the_world_survives_it(tmp_path, fault, made):
    path = tmp_path / "world.json"
    world = small_world(path=path, faults=Faults([f"{fault}:create_access_key"]))
    child = os.fork()
    if child == 0:
        world.clock.sleep(7)
        world.aws[ACCOUNT].create_access_key("ci", tag="t")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = TwinWorld.load(path, switches=NO_LAG)
    assert keys(left) == 1 + made
    assert (left.clock.now() - world.clock.now()).total_seconds() >= 7
    assert json.loads(path.read_text())["version"] == VERSION


def test_hooks_see_every_call_before_and_after_its_effect():
    world = small_world(faults=Faults(["drop-reply:create_access_key"]))
    seen = []
    world.on_call = lambda call, moment: seen.append((moment, call.operation, call.target, call.write, keys(world)))
    with pytest.raises(AwsError):
        world.aws[ACCOUNT].create_access_key("ci", tag="t")
    world.aws[ACCOUNT].access_keys("ci")
    target = f"{ACCOUNT}/ci"
    assert seen == [
        ("before", "create_access_key", target, True, 1),
        ("after", "create_access_key", target, True, 2),
        ("before", "access_keys", target, False, 2),
        ("after", "access_keys", target, False, 2),
    ]
