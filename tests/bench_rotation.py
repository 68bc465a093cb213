"""`make bench`: 1,000 keys of three places each are replaced on the twins, with 50 ms a call and real threads.

Every remote call of the engine waits 50 ms of real time, as if it went over a network, and everything else is the
program's own cost. The same world with 30 keys and one lane, in the same run, says what the lanes are worth.
A watcher beside the engine looks at the truth after every change: whether each stored pair is whole and its key on.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from playbook.engine import Engine
from playbook.errors import ExitCode
from playbook.journal import Journal, this_host
from playbook.ports import KeyStatus, Waits
from playbook.records import Opened
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.iam_keys import Standing, standing
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK

KEYS = int(os.environ.get("BENCH_KEYS", "1000"))
KEYS_ONE_LANE = 30
PLACES = 3
PAIRS_A_CONTEXT = 50
"""A context holds 100 variables at most."""
DELAY_S = 0.05
# No waits and no lags: virtual time passes only while nothing else is under way, and would hold real threads up.
WAITS = Waits(proof=0, settle=0, relist=0)
PROMPT = Switches(sts_lag_s=0, off_lag_s=0, list_lag_s=0, status_lag_s=0, rights_lag_s=0, service_lag_s=0, tail_lag_s=0)
PARALLEL = 16
ACCOUNT = "111122223333"
ORGANIZATION = "gh/acme"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def key_id(number):
    return "AKIAOLD" + "".join(ALPHABET[(number * 7919 >> shift) & 31] for shift in range(60, -1, -5))


def names(number):
    return f"CI{number}_AWS_ACCESS_KEY_ID", f"CI{number}_AWS_SECRET_ACCESS_KEY"


def world_of(keys):
    """So many users with one key each, whose pair is stored in three contexts under names of its own."""
    made, written = START - timedelta(days=201), START - timedelta(days=200)
    users, stored, contexts = {}, {}, {}
    for number in range(keys):
        user = f"ci{number}"
        secret = Secret(f"old/{user}/".ljust(36, "x") + f"{number:04}"[-4:])
        users[user] = states.IamUser(name=user, arn=f"arn:aws:iam::{ACCOUNT}:user/{user}", created_at=made)
        stored[key_id(number)] = states.Key(
            id=key_id(number),
            user=user,
            created_at=made,
            changes=[states.Change(at=states.ALWAYS, status=KeyStatus.ACTIVE)],
            secret=states.Value.of(secret),
        )
        for place in range(PLACES):
            name = f"context-{place}-{number // PAIRS_A_CONTEXT}"
            context = contexts.setdefault(
                name, states.Context(id=name, name=name, organization=ORGANIZATION, variables={})
            )
            for variable, value in zip(names(number), (Secret(key_id(number)), secret), strict=True):
                context.variables[variable] = states.Variable(
                    value=states.Value.of(value), created_at=written, updated_at=written, written_at=states.ALWAYS
                )
    account = states.Account(
        id=ACCOUNT, operator_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me", users=users, keys=stored
    )
    organization = states.StoredOrganization(id="org-1", slug=ORGANIZATION, name="acme")
    circleci = states.CircleCiState(
        login="responder", organizations={ORGANIZATION: organization}, contexts=contexts, projects={}
    )
    return TwinWorld(states.State(now=START, accounts={ACCOUNT: account}, circleci=circleci), switches=PROMPT)


class Answers:
    """Replace every key; the safe answer to the rest."""

    def answer(self, question):
        given = {"incident.severity": "exposed", "circleci.organizations": (ORGANIZATION,)}
        if question.id.startswith("keys.strategy:"):
            return "replace"
        return given.get(question.id, question.default)

    def answer_all(self, questions):
        return [self.answer(question) for question in questions]

    def approve(self, plan):
        return True


class Watcher:
    """Counts the calls, delays each, and looks at the truth after every change of a key or of a stored value."""

    def __init__(self, world, keys):
        self.world = world
        self.calls = Counter()
        self.torn_s = []
        self.down_s = dict.fromkeys((f"ci{number}" for number in range(keys)), 0.0)
        self._torn_since = {}
        self._down_since = {}
        self._lock = threading.Lock()
        self._by_digest = {}

    def __call__(self, call, moment):
        if moment == "before":
            time.sleep(DELAY_S)
            return
        with self._lock:
            self.calls[call.operation] += 1
            if call.operation == "put_variable":
                sink, _, name = call.target.rpartition("/")
                self._look(sink, name.partition("_")[0].removeprefix("CI"))
            elif call.operation in {"set_key_status", "delete_access_key"}:
                user = call.target.split("/")[1]
                number = user.removeprefix("ci")
                for place in range(PLACES):
                    self._look(f"context-{place}-{int(number) // PAIRS_A_CONTEXT}", number)

    def _look(self, sink, number):
        """Whether the pair is whole, and whether its key signs; note when either begins and ends to be untrue."""
        now, pair = time.perf_counter(), (sink, number)
        with self.world.lock:
            key_id, secret = (self.world.state.circleci.contexts[sink].variables[name] for name in names(number))
            key = self._key(key_id.value.sha256)
            torn = key is None or key.secret is None or key.secret.sha256 != secret.value.sha256
            down = not torn and standing(self.world, key) is not Standing.ACCEPTED
        if torn:
            self._torn_since.setdefault(pair, now)
        elif pair in self._torn_since:
            self.torn_s.append(now - self._torn_since.pop(pair))
        if down:
            self._down_since.setdefault(pair, now)
        elif pair in self._down_since:
            self.down_s[f"ci{number}"] += now - self._down_since.pop(pair)

    def _key(self, digest):
        if digest not in self._by_digest:
            self._by_digest = {
                Secret(item.id).digest(): item for item in self.world.state.accounts[ACCOUNT].keys.values()
            }
        return self._by_digest.get(digest)

    def assert_over(self):
        assert not self._torn_since, "a pair stayed torn"
        assert not self._down_since, "a place stayed without a key that is on"


def rotated(keys, parallel):
    """Seconds and the watcher of one whole run."""
    world = world_of(keys)
    watcher = Watcher(world, keys)
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case="bench", tool="bench", mode="rehearsal", host=this_host()))
    engine = Engine(journal, world.platforms(), Answers(), waits=WAITS, parallel=parallel)
    world.on_call = watcher
    began = time.perf_counter()
    outcome = engine.run(PLAYBOOK)
    seconds = time.perf_counter() - began
    assert outcome.exit_code is ExitCode.DONE, [trouble.reason for trouble in outcome.troubles][:3]
    watcher.assert_over()
    statuses = Counter(key.status for number in range(keys) for key in world.all_keys(ACCOUNT, f"ci{number}"))
    assert statuses == {KeyStatus.ACTIVE: keys, KeyStatus.INACTIVE: keys}
    return seconds, watcher


@pytest.mark.timeout(0)
def test_a_thousand_keys_are_replaced_side_by_side_without_downtime():
    seconds, watcher = rotated(KEYS, PARALLEL)
    one_lane_s, one_lane = rotated(KEYS_ONE_LANE, 1)
    calls, one_lane_calls = watcher.calls.total(), one_lane.calls.total()
    ratio = (one_lane_s / KEYS_ONE_LANE) / (seconds / KEYS)
    down = sorted(watcher.down_s.values())
    torn = sorted(watcher.torn_s)

    print(f"\n{KEYS} keys with {PLACES} places each, {DELAY_S * 1000:.0f} ms a call, {PARALLEL} lanes")
    print(f"  {calls} calls ({calls / KEYS:.1f} a key) in {seconds:.1f} s: {calls / seconds:.0f} calls a second")
    print(
        f"  one lane, {KEYS_ONE_LANE} keys: {one_lane_calls} calls in {one_lane_s:.1f} s; "
        f"a key costs {ratio:.1f} times less time side by side"
    )
    print(f"  most: {', '.join(f'{name} {count}' for name, count in watcher.calls.most_common(8))}")
    print(f"  downtime of a key: min {down[0]:.3f} s, median {statistics.median(down):.3f} s, max {down[-1]:.3f} s")
    print(
        f"  torn pairs: {len(torn)} of {KEYS * PLACES}, each for {torn[0]:.3f} to {torn[-1]:.3f} s "
        f"(median {statistics.median(torn):.3f} s): the id and the secret are two writes"
    )
    assert down[-1] == 0
    assert len(torn) == KEYS * PLACES
    assert ratio > PARALLEL / 4
