"""The world's file: atomic, private, without a secret, and never behind the time it was left at."""

from __future__ import annotations

import json
import random
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, PAIR, START, context, project, small_state, small_world

from playbook.errors import JournalDamagedError, JournalTooNewError, UsageError
from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.clock import VirtualClock
from playbook.twins.world import Switches, TwinWorld


def test_a_clock_moves_at_once_and_only_forward():
    told = []
    clock = VirtualClock(START, on_sleep=lambda: told.append(clock.now()))
    begun = clock.monotonic()
    clock.sleep(90.5)
    clock.sleep(0)
    clock.sleep(-10)
    assert clock.monotonic() - begun == pytest.approx(90.5)
    assert (clock.now() - START).total_seconds() == 90.5
    assert told == [clock.now()]
    assert clock.now().tzinfo is UTC
    with pytest.raises(ValueError, match="aware"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_threads_lose_no_second_of_it():
    clock = VirtualClock(START)
    threads = [threading.Thread(target=lambda: [clock.sleep(1) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (clock.now() - START).total_seconds() == 1600


def test_a_flowing_clock_runs_by_itself():
    clock = VirtualClock(START, flowing=True)
    first = clock.now()
    clock.sleep(5)
    assert clock.now() > first
    assert (clock.now() - START).total_seconds() >= 5


def test_every_write_and_every_sleep_is_in_the_file(tmp_path):
    path = tmp_path / "world.json"
    world = small_world(path=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t/1")
    world.circleci.put_variable(context(world), PAIR[0], Secret(made.key_id))
    world.circleci.put_variable(context(world), PAIR[1], made.secret)
    world.clock.sleep(33)
    world.platforms().identify(made)

    again = TwinWorld.load(path, switches=NO_LAG)
    assert again.state == world.state
    assert again.clock.now() == world.clock.now()
    assert again.works(context(again), *PAIR)
    assert again.pair_key(context(again), *PAIR) == made.key_id
    assert again.platforms().identify(made) is not None, "STS knows the secret by its digest"
    assert again.aws[ACCOUNT].last_used(made.key_id).at is not None
    assert [item.name for item in tmp_path.iterdir()] == ["world.json"]


def test_lags_go_on_over_a_restart(tmp_path):
    path = tmp_path / "world.json"
    world = small_world(replace(NO_LAG, list_lag_s=10, tail_lag_s=10), path=path)
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    world.circleci.put_variable(project(world), "NEW", Secret("a fresh value"))
    again = TwinWorld.load(path, switches=world.switches)
    assert again.aws[ACCOUNT].access_keys("ci").find(made.key_id) is None
    assert again.circleci.variables(project(again)).find("NEW").tail is None
    again.clock.sleep(10)
    assert again.aws[ACCOUNT].access_keys("ci").find(made.key_id) is not None
    assert again.circleci.variables(project(again)).find("NEW").tail == "alue"


def test_no_secret_is_ever_in_the_file(tmp_path):
    path = tmp_path / "world.json"
    world = small_world(path=path)
    canary = "canary-3f9d1c77-never-on-disk"
    written = []
    world.on_call = lambda _call, _moment: written.append(path.read_bytes())
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    obtained = world.platforms().obtain("env:NEW_NPM_TOKEN")
    for sink in (context(world), project(world)):
        world.circleci.put_variable(sink, "CANARY", Secret(canary))
        world.circleci.put_variable(sink, "OBTAINED", obtained)
        world.circleci.put_variable(sink, PAIR[1], made.secret)
        world.foreign_put(sink, "FOREIGN", canary[::-1])
    world.foreign_create_key(ACCOUNT, "idle")
    written.append(path.read_bytes())
    secrets = [canary, canary[::-1], made.secret.reveal(), obtained.reveal()]
    shards = {text[at : at + 5] for text in secrets for at in range(len(text) - 4)}
    assert len(written) == 15
    assert not [shard for shard in shards for content in written if shard.encode() in content]


def test_obtain_never_reads_the_real_value(monkeypatch, tmp_path):
    monkeypatch.setenv("NEW_TOKEN", "the real new value")
    (tmp_path / "token").write_text("the real new value")
    obtain = small_world().platforms().obtain
    for source in ("env:NEW_TOKEN", f"file:{tmp_path}/token", 'command:["cat", "/etc/hostname"]', "prompt"):
        value = obtain(source).reveal()
        assert "real" not in value
        assert value.startswith("made-up-")
    with pytest.raises(UsageError):
        obtain("done-by-hand")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 1, "now": "yesterday"}', b'{"now": 1}', b"\xff\xfe"]
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "world.json"
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError, match=r"world\.json"):
        TwinWorld.load(path)


def test_a_newer_file_is_refused_by_its_number(tmp_path):
    path = tmp_path / "world.json"
    path.write_text(json.dumps({"version": 3, "now": "2026-01-01T00:00:00Z", "something": "new"}))
    with pytest.raises(JournalTooNewError, match="format 3"):
        TwinWorld.load(path)
    with pytest.raises(JournalDamagedError):
        TwinWorld.load(tmp_path / "missing.json")


def test_lanes_side_by_side_lose_nothing(tmp_path):
    path = tmp_path / "world.json"
    world = small_world(replace(NO_LAG, keys_per_user=1000), path=path)
    made, failures = [], []

    def lane(number):
        try:
            for turn in range(5):
                credential = world.aws[ACCOUNT].create_access_key("ci", tag=f"{number}/{turn}")
                made.append(credential.key_id)
                world.circleci.put_variable(context(world), f"V_{number}_{turn}", credential.secret)
                world.clock.sleep(1)
        except Exception as error:  # noqa: BLE001  # a thread's error must reach the test
            failures.append(error)

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(made)) == 40
    left = TwinWorld.load(path, switches=world.switches)
    assert left.created(ACCOUNT, "ci").keys() == set(made)
    assert len(left.circleci.variables(context(left)).items) == 42


def test_strangers_act_without_a_call_of_ours():
    world = small_world(Switches())
    world.on_call = lambda call, _moment: pytest.fail(f"{call} is no call of ours")
    key = world.foreign_create_key(ACCOUNT, "ci")
    world.foreign_set_status(ACCOUNT, OLD_KEY, KeyStatus.INACTIVE)
    world.foreign_put_pair(context(world), key, *PAIR)
    assert [(item.id, item.status) for item in world.all_keys(ACCOUNT, "ci")] == [
        (OLD_KEY, KeyStatus.INACTIVE),
        (key, KeyStatus.ACTIVE),
    ]
    assert world.pair_key(context(world), *PAIR) == key


def test_a_world_without_a_path_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = TwinWorld(small_state(), rng=random.Random(1))
    world.aws[ACCOUNT].create_access_key("ci", tag="t")
    world.clock.sleep(1)
    assert list(tmp_path.iterdir()) == []
