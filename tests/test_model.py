"""A plan that cannot be carried out does not construct, and an action is the same after the journal as before it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import steps
from playbook.errors import ExitCode, GuardError, JournalDamagedError
from playbook.model import (
    Action,
    Confidence,
    Finding,
    Observation,
    Plan,
    Status,
    Step,
    action_from_data,
)
from playbook.ports import Evidence, SinkKind, View, World, display
from steps.replace_access_keys import StoreKey

# --- Plans ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Move(Action):
    """A change with nothing special about it."""

    kind: ClassVar[str] = "test:move"

    name: str
    place: str = "here"
    count: int = 0

    @property
    def key(self) -> str:
        return f"test:{self.name}"

    @property
    def lane(self) -> str:
        return self.place

    def describe(self) -> str:
        return f"move {self.name}"

    def observe(self, view: View) -> Observation:
        return Observation(status=Status.ABSENT)

    def apply(self, world: World) -> Evidence:
        return {}


@dataclass(frozen=True, kw_only=True)
class Mint(Move):
    """Provides its credential."""

    kind: ClassVar[str] = "test:mint"
    provides: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Use(Move):
    """Needs its credential."""

    kind: ClassVar[str] = "test:use"
    needs: ClassVar[bool] = True


def refused(match: str, *actions: Action) -> None:
    with pytest.raises(GuardError, match=match) as caught:
        Plan(step="s", actions=actions)
    assert caught.value.exit_code is ExitCode.GUARD


def test_an_empty_plan_and_a_plain_one_construct() -> None:
    Plan(step="s")
    Plan(step="s", actions=(Move(name="a"), Move(name="b"), Move(name="c", place="there", after=("test:a",))))


def test_two_actions_with_one_key_are_refused() -> None:
    refused("two actions with the key test:a", Move(name="a"), Move(name="a", place="there"))


def test_a_name_that_is_not_in_the_plan_is_refused() -> None:
    refused("wait for test:gone, which it does not hold", Move(name="a", after=("test:gone",)))


@pytest.mark.parametrize(
    "actions",
    [
        (Move(name="a", after=("test:a",)),),
        (Move(name="a", place="1", after=("test:b",)), Move(name="b", place="2", after=("test:a",))),
        # The lane's own order closes the ring: a, then b, but a waits for b.
        (Move(name="a", after=("test:b",)), Move(name="b")),
        (
            Move(name="a", place="1"),
            Move(name="b", place="1"),
            Move(name="c", place="2", after=("test:b",)),
            Move(name="d", place="3", after=("test:c",)),
            Move(name="e", place="2"),
            replace(Move(name="f", place="4", after=("test:e",))),
            Move(name="g", place="3", after=("test:h",)),
            Move(name="h", place="4", after=("test:g",)),
        ),
    ],
)
def test_a_ring_is_refused(actions: tuple[Action, ...]) -> None:
    refused("waits for itself", *actions)


def test_a_need_is_met_earlier_in_the_lane_or_through_after() -> None:
    mint = Mint(name="mint", place="1", credential="new")
    Plan(step="s", actions=(mint, Use(name="use", place="1", credential="new")))
    Plan(step="s", actions=(mint, Use(name="use", place="2", credential="new", after=("test:mint",))))
    through = Move(name="gate", place="3", after=("test:mint",))
    Plan(step="s", actions=(mint, through, Use(name="use", place="2", credential="new", after=("test:gate",))))


@pytest.mark.parametrize(
    "actions",
    [
        (Use(name="use", credential="new"),),
        (Mint(name="mint", credential="other"), Use(name="use", credential="new")),
        (Use(name="use", credential="new"), Mint(name="mint", credential="new")),
        # Side by side, whatever the order in which they are listed.
        (Mint(name="mint", place="1", credential="new"), Use(name="use", place="2", credential="new")),
        # Later in its own lane, but nothing makes that lane wait for the mint.
        (
            Mint(name="mint", place="1", credential="new"),
            Move(name="first", place="2"),
            Use(name="use", place="2", credential="new"),
        ),
    ],
)
def test_a_need_that_nothing_surely_provides_first_is_refused(actions: tuple[Action, ...]) -> None:
    refused("before anything provides it", *actions)


def reachable(actions: list[Action]) -> dict[str, set[str]]:
    """The oracle: by action, all that is done before it; a ring shows as an action before itself."""
    direct: dict[str, set[str]] = {}
    last: dict[str, str] = {}
    for action in actions:
        direct[action.key] = {*action.after} | ({last[action.lane]} if action.lane in last else set())
        last[action.lane] = action.key
    closed = {key: set(found) for key, found in direct.items()}
    for _ in actions:
        for key, found in closed.items():
            closed[key] = found.union(*(closed[other] for other in found))
    return closed


@st.composite
def small_plans(draw: st.DrawFn) -> list[Action]:
    count = draw(st.integers(1, 7))
    names = [f"test:{number}" for number in range(count)]
    return [
        draw(st.sampled_from([Move, Mint, Use]))(
            name=str(number),
            place=draw(st.sampled_from("abc")),
            credential=draw(st.sampled_from(["x", "y"])),
            after=tuple(draw(st.lists(st.sampled_from(names), max_size=2, unique=True))),
        )
        for number in range(count)
    ]


@given(small_plans())
@settings(max_examples=300, deadline=None)
def test_plans_construct_exactly_when_the_oracle_says_so(actions: list[Action]) -> None:
    earlier = reachable(actions)
    by_key = {action.key: action for action in actions}
    ring = any(action.key in earlier[action.key] for action in actions)
    unmet = any(
        action.needs
        and not any(by_key[key].provides and by_key[key].credential == action.credential for key in earlier[action.key])
        for action in actions
    )
    if ring:
        refused("waits for itself", *actions)
    elif unmet:
        refused("before anything provides it", *actions)
    else:
        Plan(step="s", actions=tuple(actions))


def test_a_plan_of_ten_thousand_lanes_constructs() -> None:
    actions: list[Action] = []
    for number in range(2500):
        mint = Mint(name=f"m{number}", place=f"user{number}", credential=f"c{number}")
        sinks = [
            Use(name=f"u{number}/{sink}", place=f"sink{number}/{sink}", credential=f"c{number}", after=(mint.key,))
            for sink in range(2)
        ]
        off = Move(name=f"o{number}", place=f"user{number}", after=tuple(sink.key for sink in sinks))
        actions += [mint, *sinks, off]
    assert len(Plan(step="s", actions=tuple(actions)).actions) == 10_000


# --- Digests --------------------------------------------------------------------------------------------------------


@given(st.permutations([Move(name=str(number), place=str(number), count=number) for number in range(6)]))
@settings(max_examples=40, deadline=None)
def test_a_digest_does_not_depend_on_the_order_of_lanes(actions: list[Action]) -> None:
    expected = Plan(step="s", actions=tuple(sorted(actions, key=lambda action: action.key))).digest()
    assert Plan(step="s", actions=tuple(actions)).digest() == expected


def test_a_digest_covers_the_actions_and_the_step_but_not_the_talk() -> None:
    one, two = Move(name="a", place="1"), Move(name="b", place="2")
    plan = Plan(step="s", actions=(one, two))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", plan.digest())
    talked = replace(plan, findings=(Finding(level="note", text="x"),), attachment=("{}",))
    assert talked.digest() == plan.digest()
    others = [
        Plan(step="other", actions=(one, two)),
        Plan(step="s", actions=(one,)),
        Plan(step="s"),
        Plan(step="s", actions=(one, replace(two, count=1))),
        Plan(step="s", actions=(one, replace(two, after=(one.key,)))),
        Plan(step="s", actions=(one, replace(two, credential="c"))),
        Plan(step="s", actions=(one, Mint(name="b", place="2"))),
    ]
    assert len({plan.digest(), *(other.digest() for other in others)}) == 1 + len(others)


# --- Every registered kind ------------------------------------------------------------------------------------------

KINDS = sorted(
    (cls for cls in Action.registry.values() if cls.__module__.startswith("steps.")), key=lambda cls: cls.kind
)


def actions_of(cls: type[Action], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[Action]:
    hints = get_type_hints(cls)
    return st.builds(cls, **({item.name: st.from_type(hints[item.name]) for item in fields(cls)} | own))


def test_there_are_kinds_to_test() -> None:
    print(f"{len(KINDS)} kinds: {', '.join(cls.kind for cls in KINDS)}")
    assert len(KINDS) >= 9


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
def test_an_action_round_trips_through_the_journals_json(cls: type[Action]) -> None:
    @given(actions_of(cls))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    def check(action: Action) -> None:
        again = action_from_data(json.loads(json.dumps(action.data())))
        assert again == action
        assert type(again) is cls
        assert (again.digest(), again.key, again.lane) == (action.digest(), action.key, action.lane)

    check()


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
def test_what_is_shown_for_approval_holds_no_foreign_control_character(cls: type[Action]) -> None:
    # Accounts and key ids have AWS's own alphabet; names are anybody's.
    ids = st.from_regex(r"[A-Z0-9]{4,20}", fullmatch=True)
    own = {item.name: ids for item in fields(cls) if item.name in {"account", "key_id", "old_key_id"}}

    @given(actions_of(cls, **own))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    def check(action: Action) -> None:
        shown = action.describe()
        assert display(shown, limit=10_000) == shown

    check()


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
def test_a_digest_is_sensitive_to_every_field(cls: type[Action]) -> None:
    hints = get_type_hints(cls)

    @given(actions_of(cls), st.data())
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(action: Action, data: st.DataObject) -> None:
        for item in fields(cls):
            other = data.draw(st.from_type(hints[item.name]), label=item.name)
            assume(other != getattr(action, item.name))
            assert replace(action, **{item.name: other}).digest() != action.digest()

    check()


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
def test_data_with_a_field_too_many_too_few_or_wrong_is_damage(cls: type[Action]) -> None:
    @given(actions_of(cls))
    @settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    def check(action: Action) -> None:
        data = json.loads(json.dumps(action.data()))
        wrong: list[dict[str, Any]] = [{**data, "extra": 1}, {**data, "kind": "iam:unknown"}, {**data, "kind": None}]
        wrong += [{name: value for name, value in data.items() if name != left_out} for left_out in data]
        wrong += [{**data, name: {"not": ["what", "fits"]}} for name in data]
        wrong += [{**data, name: {**value, "extra": 1}} for name, value in data.items() if isinstance(value, dict)]
        for item in wrong:
            with pytest.raises(JournalDamagedError, match="The journal plans"):
                action_from_data(item)

    check()


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.kind)
def test_a_kind_is_a_stable_name_planned_by_a_step(cls: type[Action]) -> None:
    assert re.fullmatch(r"[a-z]+:[a-z]+(-[a-z]+)*", cls.kind)
    assert cls.kind != cls.__name__
    assert any(cls in step.kinds for step in (*steps.PLAYBOOK, steps.RETIREMENT, steps.UNDO))
    if cls.at_most_once:
        assert cls.__name__.startswith(("Create", "Rerun"))
    if cls.kind.startswith("iam:") and cls.changes:
        assert cls.permissions
    assert all(re.fullmatch(r"[a-z]+:[A-Z][A-Za-z]+", name) for name in cls.permissions)


def test_two_actions_cannot_share_a_kind() -> None:
    before = dict(Action.registry)
    with pytest.raises(TypeError, match="two actions are called 'test:move'"):
        type("Other", (Move,), {"kind": "test:move"})
    assert Action.registry == before


def test_steps_have_names_of_their_own_and_say_what_they_are() -> None:
    ids = [step.id for step in steps.PLAYBOOK]
    assert len(set(ids)) == len(ids)
    for step in steps.PLAYBOOK:
        assert isinstance(step, Step)
        assert type(step).__module__ == f"steps.{step.id}"
        assert type(step).__name__ == "".join(word.title() for word in step.id.split("_"))
        assert step.title


def test_confidence_has_an_order() -> None:
    words = list(Confidence)
    for place, one in enumerate(words):
        assert [one.reaches(other) for other in words] == [number <= place for number in range(len(words))]


@given(actions_of(StoreKey))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_actions_data_is_plain_down_to_its_leaves(action: Action) -> None:
    data: Any = action.data()
    assert type(data["pair"]["sink"]["kind"]) is str
    assert data["pair"]["sink"]["kind"] in {kind.value for kind in SinkKind}
