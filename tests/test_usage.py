"""Who used a key: events of made-up thieves, followed through sessions and accounts, with and without a budget."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.errors import AwsError, Effect
from playbook.ports import TrailEvent
from playbook.usage import LOOKUPS_MAX, Budget, agent_product, follow, judge, usage

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
HOME, OTHER, FOREIGN = "111122223333", "444455556666", "777788889999"
KEY = "AKIAOLDDEPLOYAAAAD2P"


def event(number, *, key=KEY, name="GetCallerIdentity", issued="", role="", error="", agent="aws-cli/2.15.1", at=0):
    return TrailEvent(
        event_id=f"event-{number}",
        at=START + timedelta(minutes=at or number),
        name=name,
        service="sts",
        region="us-east-1",
        key_id=key,
        user="ci-deploy",
        source_address=f"203.0.113.{number % 200}",
        user_agent=agent,
        issued_key_id=issued,
        role=role,
        error_code=error,
    )


class Trail:
    """The trails of some accounts; counts what it is asked."""

    def __init__(self, **events):
        self.events = {account.removeprefix("a"): found for account, found in events.items()}
        self.asked = []
        self.refuses = {}

    def look(self, account, key_id):
        self.asked.append((account, key_id))
        if key_id in self.refuses:
            raise AwsError("the look-up", code=self.refuses[key_id], effect=Effect.NONE)
        return tuple(item for item in self.events.get(account, ()) if item.key_id == key_id)

    def follow(self, budget=None, accounts=(HOME, OTHER)):
        return follow(KEY, HOME, accounts, self.look, budget or Budget())


def arn(name, account=HOME, path=""):
    return f"arn:aws:iam::{account}:role/{path}{name}"


def test_sessions_are_followed_breadth_first():
    trail = Trail(
        a111122223333=[
            event(1, name="GetSessionToken", issued="ASIAFIRST"),
            event(2, name="AssumeRole", issued="ASIAROLE", role=arn("deployer")),
            event(3, key="ASIAFIRST", name="AssumeRole", issued="ASIADEEP", role=arn("admin", path="ops/")),
            event(4, key="ASIAROLE", name="ListBuckets"),
            event(5, key="ASIADEEP", name="CreateUser"),
        ]
    )
    trace = trail.follow()
    assert trail.asked == [(HOME, KEY), (HOME, "ASIAFIRST"), (HOME, "ASIAROLE"), (HOME, "ASIADEEP")]
    assert [item.event_id for item in trace.events] == [f"event-{number}" for number in range(1, 6)]
    assert trace.sessions == ("ASIAFIRST", "ASIAROLE", "ASIADEEP")
    assert [(role.name, role.account, role.at) for role in trace.roles] == [
        ("deployer", HOME, START + timedelta(minutes=2)),
        ("admin", HOME, START + timedelta(minutes=3)),
    ]
    assert [item.event_id for item in trace.own] == ["event-1", "event-2"]
    assert trace.holes == ()
    assert trace.open_ends == ()


def test_a_session_of_a_role_elsewhere_is_looked_up_where_its_events_are():
    trail = Trail(
        a111122223333=[event(1, name="AssumeRole", issued="ASIAOVER", role=arn("prod", OTHER))],
        a444455556666=[event(2, key="ASIAOVER", name="GetSecretValue")],
    )
    trace = trail.follow()
    assert trail.asked == [(HOME, KEY), (OTHER, "ASIAOVER")]
    assert [item.name for item in trace.events] == ["AssumeRole", "GetSecretValue"]


def test_a_role_in_an_account_that_is_not_connected_is_a_hole():
    trail = Trail(a111122223333=[event(1, name="AssumeRole", issued="ASIAOVER", role=arn("prod", FOREIGN))])
    trace = trail.follow()
    assert trail.asked == [(HOME, KEY)]
    (hole,) = trace.holes
    assert arn("prod", FOREIGN) in hole.where
    assert "not connected" in hole.why
    assert [role.account for role in trace.roles] == [FOREIGN]


def test_a_refused_look_up_is_a_hole_and_the_others_go_on():
    trail = Trail(
        a111122223333=[
            event(1, name="GetSessionToken", issued="ASIAONE"),
            event(2, name="GetSessionToken", issued="ASIATWO"),
            event(3, key="ASIATWO"),
        ]
    )
    trail.refuses = {"ASIAONE": "AccessDenied"}
    trace = trail.follow()
    (hole,) = trace.holes
    assert (hole.where, hole.why) == (f"ASIAONE in {HOME}", "AccessDenied")
    assert [item.event_id for item in trace.events] == ["event-1", "event-2", "event-3"]
    assert "ASIAONE" not in trace.followed


def test_a_call_that_was_refused_handed_nothing_out():
    trail = Trail(
        a111122223333=[event(1, name="AssumeRole", issued="ASIANEVER", role=arn("admin"), error="AccessDenied")]
    )
    trace = trail.follow()
    assert trail.asked == [(HOME, KEY)]
    assert trace.roles == ()


def test_sessions_that_go_round_in_a_ring_end():
    trail = Trail(
        a111122223333=[
            event(1, name="AssumeRole", issued="ASIAONE", role=arn("a")),
            event(2, key="ASIAONE", name="AssumeRole", issued="ASIATWO", role=arn("b")),
            event(3, key="ASIATWO", name="AssumeRole", issued="ASIAONE", role=arn("a")),
        ]
    )
    assert len(trail.follow().followed) == 3
    assert len(trail.asked) == 3


@pytest.mark.parametrize("budget", [Budget(lookups=3), Budget(events=12)])
def test_a_search_that_is_cut_names_its_open_ends(budget):
    trail = Trail(
        a111122223333=[
            *(event(number, name="GetSessionToken", issued=f"ASIA{number:02}") for number in range(1, 11)),
            *(event(100 + number, key=f"ASIA{number:02}") for number in range(1, 11)),
        ]
    )
    trace = trail.follow(budget)
    assert budget.spent
    assert len(trace.followed) == 3
    assert trace.open_ends == tuple(f"ASIA{number:02}" for number in range(3, 11))


def test_a_key_that_could_not_be_looked_up_is_not_known():
    trail = Trail(a111122223333=[event(1)])
    assert trail.follow(Budget(lookups=1)).is_known
    spent = trail.follow(Budget(lookups=0))
    assert not spent.is_known
    assert spent.open_ends == (KEY,)


@pytest.mark.parametrize("searches", [0, 1, 7, LOOKUPS_MAX, 10 * LOOKUPS_MAX])
def test_every_search_has_a_share_and_at_least_one_look_up(searches):
    share = Budget.share(searches).lookups
    assert 1 <= share <= LOOKUPS_MAX
    assert share * searches <= max(LOOKUPS_MAX, searches)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_session_that_can_be_reached_is_followed_once(data):
    """Against a plain closure over a random graph of sessions."""
    count = data.draw(st.integers(1, 12))
    names = [KEY, *(f"ASIA{number:02}" for number in range(count))]
    edges = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names[1:])), max_size=30))
    events = [event(number, key=a, name="AssumeRole", issued=b) for number, (a, b) in enumerate(edges)]
    random.Random(1).shuffle(events)
    trail = Trail(a111122223333=events)
    reached, waiting = {KEY}, [KEY]
    while waiting:
        here = waiting.pop()
        for a, b in edges:
            if a == here and b not in reached:
                reached.add(b)
                waiting.append(b)
    trace = trail.follow()
    assert set(trace.followed) == reached
    assert len(trail.asked) == len(reached)
    assert {item.event_id for item in trace.events} == {item.event_id for item in events if item.key_id in reached}
    assert list(trace.events) == sorted(trace.events, key=lambda item: (item.at, item.event_id))


# --- Figures --------------------------------------------------------------------------------------------------------


def test_the_most_frequent_come_first_and_refused_calls_are_counted():
    events = [event(1), event(1), event(2, error="AccessDenied"), event(3, agent="Boto3/1.34")]
    seen = usage(events)
    assert (seen.count, seen.refused) == (4, 1)
    assert seen.addresses[0] == "203.0.113.1"
    assert seen.agents == ("aws-cli/2", "Boto3/1")
    assert (seen.first, seen.last) == (START + timedelta(minutes=1), START + timedelta(minutes=3))


def test_an_agent_of_the_window_that_no_other_use_has_is_unusual():
    events = [event(1), event(100, agent="Boto3/1.34 kali"), event(101)]
    judged = judge(events, START + timedelta(minutes=50), None)
    assert judged.compared
    assert judged.unusual_agents == ("Boto3/1",)
    assert judged.unusual_addresses == ("203.0.113.100", "203.0.113.101")
    assert judged.is_unusual


def test_another_version_of_the_usual_agent_is_usual():
    events = [event(1, agent="aws-cli/2.1.0"), event(100, agent="aws-cli/2.15.9 Python/3.11")]
    assert not judge(events, START + timedelta(minutes=50), None).is_unusual


def test_without_other_use_all_but_the_most_frequent_agent_are_unusual():
    events = [event(1), event(2), event(3, agent="python-requests/2.31")]
    judged = judge(events, None, None)
    assert not judged.compared
    assert judged.unusual_agents == ("python-requests/2",)
    assert judged.unusual_addresses == ()


def test_use_after_the_window_is_no_use_inside_it():
    judged = judge([event(1), event(500)], START, START + timedelta(minutes=50))
    assert judged.inside.count == 1


@pytest.mark.parametrize(
    ("text", "product"),
    [
        ("aws-cli/2.15.1 Python/3.11.6 Linux/5.10", "aws-cli/2"),
        ("Boto3/1.34.0 md/Botocore#1.34.0", "Boto3/1"),
        ("[S3Console/0.4, aws-internal/3]", "S3Console/0"),
        ("console.amazonaws.com", "console.amazonaws.com"),
        ("APN/1.0 HashiCorp/1.0 Terraform/1.5.7", "APN/1"),
        ("", "no agent"),
        ("   ", "no agent"),
    ],
)
def test_an_agent_is_told_by_product_and_major_version(text, product):
    assert agent_product(text) == product
