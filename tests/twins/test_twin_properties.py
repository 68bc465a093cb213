"""Whatever happens in whatever order: the quota holds, masks are right, STS agrees with the truth, files read back."""

from __future__ import annotations

import hashlib
import random
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from twins.small_worlds import ACCOUNT, OLD_KEY, PAIR, context, project, small_world

from playbook.errors import AwsError, CircleCiError
from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.world import Switches, TwinWorld

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=60)
NAME = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)


class TwinMachine(RuleBasedStateMachine):
    """Our calls, strangers' hands, time and kills, against a model that is a few dictionaries."""

    minted = Bundle("minted")

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "world.json"
        self.world = small_world(Switches(), seed=seed, path=self.path)
        self.status = {OLD_KEY: KeyStatus.ACTIVE}
        self.stored = {}
        self.secrets = []
        self.now = self.world.clock.now()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(target=minted)
    def create(self):
        exists = len(self.status)
        try:
            made = self.world.aws[ACCOUNT].create_access_key("ci", tag="t")
        except AwsError as error:
            made, code = None, error.code
        assert (made is None) is (exists >= 2)
        if made is None:
            assert code == "LimitExceeded"
            return None
        self.status[made.key_id] = KeyStatus.ACTIVE
        self.secrets.append(made.secret)
        return made

    @rule()
    def stranger_creates(self):
        if len(self.status) < 5:
            self.status[self.world.foreign_create_key(ACCOUNT, "ci")] = KeyStatus.ACTIVE

    @rule(data=st.data(), status=st.sampled_from((KeyStatus.ACTIVE, KeyStatus.INACTIVE, None)))
    def change(self, data, status):
        if not self.status:
            return
        key = data.draw(st.sampled_from(sorted(self.status)))
        if status is None:
            self.world.aws[ACCOUNT].delete_access_key("ci", key)
            del self.status[key]
        else:
            self.world.aws[ACCOUNT].set_key_status("ci", key, status)
            self.status[key] = status

    @rule(credential=minted)
    def identify(self, credential):
        if credential is None:
            return
        self.world.clock.sleep(4)
        who = self.world.platforms().identify(credential)
        assert (who is not None) is (self.status.get(credential.key_id) is KeyStatus.ACTIVE)

    @rule(name=NAME, text=TEXT, in_context=st.booleans())
    def put(self, name, text, in_context):
        sink = context(self.world) if in_context else project(self.world)
        secret = Secret(text)
        self.world.circleci.put_variable(sink, name, secret)
        self.stored[sink.id, name] = (sink, text)
        self.secrets.append(secret)

    @rule(credential=minted, order=st.sampled_from((PAIR, PAIR[::-1])))
    def store_pair(self, credential, order):
        if credential is None:
            return
        sink = context(self.world)
        values = {PAIR[0]: Secret(credential.key_id), PAIR[1]: credential.secret}
        for name in order:
            self.world.circleci.put_variable(sink, name, values[name])
            self.stored.pop((sink.id, name), None)
        assert self.world.works(sink, *PAIR) is (self.status.get(credential.key_id) is KeyStatus.ACTIVE)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds):
        self.world.clock.sleep(seconds)

    @rule()
    def killed_and_resumed(self):
        self.world = TwinWorld.load(self.path, switches=self.world.switches)

    @invariant()
    def the_truth_is_the_model(self):
        if hasattr(self, "world"):
            assert {key.id: key.status for key in self.world.all_keys(ACCOUNT, "ci")} == self.status

    @invariant()
    def time_never_goes_back(self):
        if hasattr(self, "world"):
            assert self.world.clock.now() >= self.now
            self.now = self.world.clock.now()

    @invariant()
    def masks_are_right_or_not_shown_yet(self):
        if not hasattr(self, "world"):
            return
        for (_, name), (sink, text) in self.stored.items():
            tail = self.world.circleci.variables(sink).find(name).tail
            shown = min(4, len(text) // 2)
            assert tail is None or tail == text[len(text) - shown :]

    @invariant()
    def the_file_holds_digests_not_secrets(self):
        if not hasattr(self, "world"):
            return
        content = self.path.read_text(encoding="utf-8")
        for secret in self.secrets[-3:]:
            text = secret.reveal()
            assert len(text) < 12 or text not in content


TestTwinMachine = TwinMachine.TestCase
TestTwinMachine.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@given(text=TEXT)
@settings(max_examples=200, deadline=None)
def test_a_stored_value_is_its_tail_and_digest(text):
    world = small_world()
    world.circleci.put_variable(context(world), "V", Secret(text))
    value = world.state.circleci.contexts["id-aws"].variables["V"].value
    assert value.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert value.tail == text[len(text) - min(4, len(text) // 2) :]


@given(lag=st.floats(0, 600), waits=st.lists(st.floats(0, 300), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_lagging_list_shows_a_change_exactly_when_its_lag_has_passed(lag, waits):
    world = small_world(Switches(list_lag_s=lag))
    made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
    begun = world.clock.now()
    for wait in (0.0, *waits):
        world.clock.sleep(wait)
        due = world.clock.now() - begun >= timedelta(seconds=lag)
        assert (world.aws[ACCOUNT].access_keys("ci").find(made.key_id) is not None) is due


@given(calls=st.lists(st.sampled_from(("create", "put", "read")), max_size=12), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_refused_call_changes_nothing_but_the_time(calls, seed):
    world = small_world(faults=None)
    chooser = random.Random(seed)
    sink = context(world, "empty")
    for call in calls:
        world.state.accounts[ACCOUNT].denied = ["iam:CreateAccessKey"] if chooser.random() < 0.5 else []
        before = (world.all_keys(ACCOUNT, "ci"), world.circleci.variables(sink))
        try:
            if call == "create":
                world.aws[ACCOUNT].create_access_key("ci", tag="t")
            elif call == "put":
                world.circleci.put_variable(sink, chooser.choice(("GOOD", "not good")), Secret("value"))
            else:
                world.aws[ACCOUNT].users()
        except (AwsError, CircleCiError):
            assert (world.all_keys(ACCOUNT, "ci"), world.circleci.variables(sink)) == before
