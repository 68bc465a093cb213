"""How right correlation is, on made-up accounts of 10,000 keys and 5,000 variables, with and without adversaries."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from playbook.correlate import Correlation, StoredVariable, correlate
from playbook.ports import AccessKey, KeyStatus, LastUsed, MaskedVariable, Sink, SinkKind

KEYS = 10_000
VARIABLES = 5_000
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
SECRET_ALPHABET = ALPHABET + ALPHABET.lower() + "0189+/"
BEGAN = datetime(2019, 1, 1, tzinfo=UTC)
NOW = datetime(2023, 1, 4, tzinfo=UTC)
TEAMS = ("billing", "search", "mobile", "data", "infra", "platform", "growth", "payments", "media", "risk")
NAMES = (
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("PROD_AWS_ACCESS_KEY_ID", "PROD_AWS_SECRET_ACCESS_KEY"),
    ("AWS_ACCESS_KEY_ID_STAGING", "AWS_SECRET_ACCESS_KEY_STAGING"),
    ("TF_VAR_aws_access_key_id", "TF_VAR_aws_secret_access_key"),
    ("S3_KEY_ID", "S3_KEY_SECRET"),
)
OTHERS = ("NPM_TOKEN", "SENTRY_DSN", "DATABASE_URL", "SLACK_WEBHOOK", "GITHUB_TOKEN")


@dataclass
class Made:
    """A made-up world, and which key each variable truly holds (None: a stranger's, or no key at all)."""

    keys: list[AccessKey]
    variables: list[StoredVariable] = field(default_factory=list)
    truth: dict[str, str | None] = field(default_factory=dict)
    last_used: dict[str, LastUsed] = field(default_factory=dict)
    planted: set[str] = field(default_factory=set)


def a_moment(draw: random.Random, since: datetime) -> datetime:
    return since + (NOW - since) * draw.random()


def a_tail(draw: random.Random, alphabet: str) -> str:
    return "".join(draw.choices(alphabet, k=4))


def made(seed: int, *, strangers: float, planted: int) -> Made:
    """`strangers`: the share of key variables that hold another account's key; `planted`: those made to deceive."""
    draw = random.Random(seed)
    keys = [
        AccessKey(
            account=f"{draw.randrange(5):012}",
            user=f"ci-{draw.choice(TEAMS)}-{number % 700}",
            id="AKIA" + "".join(draw.choices(ALPHABET, k=16)),
            status=KeyStatus.ACTIVE,
            created_at=a_moment(draw, BEGAN),
        )
        for number in range(KEYS)
    ]
    world = Made(keys=keys)
    world.last_used = {key.id: LastUsed(at=a_moment(draw, key.created_at)) for key in keys if draw.random() < 0.7}
    while len(world.variables) < VARIABLES - 2 * planted:
        kind = draw.random()
        if kind < 0.4:
            add_other(world, draw)
        else:
            add_pair(world, draw, None if draw.random() < strangers else draw.choice(keys))
    for _ in range(planted):
        plant(world, draw)
    return world


def a_sink(draw: random.Random, number: int, words: str) -> Sink:
    if draw.random() < 0.5:
        return Sink(kind=SinkKind.CONTEXT, id=f"c-{number}", name=f"{words}-{number}", organization="gh/acme")
    slug = f"gh/acme/{words}-{number}"
    return Sink(kind=SinkKind.PROJECT, id=slug, name=slug, organization="gh/acme")


def store(world: Made, sink: Sink, name: str, tail: str, at: datetime, truth: str | None) -> str:
    context = sink.kind is SinkKind.CONTEXT
    stored = StoredVariable(
        sink=sink,
        variable=MaskedVariable(name=name, tail=tail, created_at=at, updated_at=at if context else None),
    )
    world.variables.append(stored)
    world.truth[stored.id] = truth
    return stored.id


def add_other(world: Made, draw: random.Random) -> None:
    number = len(world.variables)
    sink = a_sink(draw, number, draw.choice(TEAMS))
    store(world, sink, draw.choice(OTHERS), a_tail(draw, SECRET_ALPHABET), a_moment(draw, BEGAN), None)


def add_pair(world: Made, draw: random.Random, key: AccessKey | None) -> None:
    number = len(world.variables)
    team = key.user.split("-")[1] if key is not None and draw.random() < 0.5 else draw.choice(TEAMS)
    sink = a_sink(draw, number, team)
    id_name, secret_name = draw.choice(NAMES)
    at = a_moment(draw, key.created_at if key is not None else BEGAN)
    tail = key.id[-4:] if key is not None else a_tail(draw, ALPHABET)
    store(world, sink, id_name, tail, at, key.id if key is not None else None)
    store(world, sink, secret_name, a_tail(draw, SECRET_ALPHABET), at, None)


def plant(world: Made, draw: random.Random) -> None:
    """A stranger's key with the tail of one of ours, in a pair of the usual names, in a place named after its user."""
    ours = draw.choice(world.keys)
    sink = a_sink(draw, len(world.variables), ours.user)
    at = a_moment(draw, ours.created_at)
    world.planted.add(store(world, sink, *(NAMES[0][0], ours.id[-4:]), at, None))
    store(world, sink, NAMES[0][1], a_tail(draw, SECRET_ALPHABET), at, None)


def measured(world: Made, found: Correlation) -> dict[str, tuple[int, int]]:
    """By confidence: how many matches name a key, and how many of them the wrong one."""
    named: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for match in found.matches:
        named[match.confidence] += match.key is not None
        wrong[match.confidence] += match.key is not None and world.truth[match.stored.id] != match.key.id
    return {confidence: (named[confidence], wrong[confidence]) for confidence in named}


def print_measured(title: str, world: Made, found: Correlation, took_s: float) -> None:
    held = {stored for stored, key in world.truth.items() if key is not None}
    by_confidence = measured(world, found)
    right = {
        match.stored.id
        for match in found.matches
        if match.key is not None and world.truth[match.stored.id] == match.key.id
    }
    print(f"\n{title}: {len(world.keys)} keys, {len(world.variables)} variables, {len(held)} hold one; {took_s:.2f} s")
    for confidence in ("confirmed", "strong", "tail-only", "ambiguous", "unknown"):
        named, wrong = by_confidence.get(confidence, (0, 0))
        count = sum(match.confidence == confidence for match in found.matches)
        precision = f"precision {1 - wrong / named:.4f}" if named else "names no key"
        recall = sum(match.confidence == confidence and match.stored.id in right for match in found.matches) / len(held)
        print(f"  {confidence:10} {count:5} matches, {precision}, recall {recall:.4f}")
    print(f"  all        {len(found.matches):5} matches, recall {len(right & held) / len(held):.4f}")


def timed(world: Made, said: dict[str, str] | None = None) -> tuple[Correlation, float]:
    began_at = time.process_time()
    return correlate(world.variables, world.keys, world.last_used, said), time.process_time() - began_at


@pytest.mark.parametrize("seed", [1, 2])
def test_in_an_honest_world_nearly_every_key_is_found_and_nearly_every_match_is_right(seed) -> None:
    world = made(seed, strangers=0.1, planted=0)
    found, took_s = timed(world)
    print_measured(f"honest, seed {seed}", world, found, took_s)
    by_confidence = measured(world, found)
    named, wrong = by_confidence["strong"]
    held = [stored for stored, key in world.truth.items() if key is not None]
    right = sum(match.key is not None and world.truth[match.stored.id] == match.key.id for match in found.matches)
    # Four characters of 32 are 1,048,576 tails: a stranger's key has one of ours in one case of a hundred, and
    # another of our own keys has the same one as often, which is then said to be ambiguous.
    assert wrong / named < 0.005
    assert right / len(held) > 0.98
    assert named / len(held) > 0.85
    assert "confirmed" not in by_confidence
    assert took_s < 3


@pytest.mark.parametrize("seed", [3, 4])
def test_no_deceiver_is_ever_confirmed(seed) -> None:
    world = made(seed, strangers=0.3, planted=250)
    found, took_s = timed(world)
    print_measured(f"with 250 deceivers, seed {seed}", world, found, took_s)
    by_confidence = measured(world, found)
    named, wrong = by_confidence["strong"]
    deceived = sum(match.stored.id in world.planted and match.confidence == "strong" for match in found.matches)
    print(
        f"  {deceived} of {len(world.planted)} deceivers reach `strong`, so that {wrong / named:.1%} of those are wrong"
    )
    assert "confirmed" not in by_confidence
    # Their tail, their names and their user's name are all ours: nothing but a canary can tell. But the honest
    # majority is not drawn in.
    honest = [match for match in found.matches if match.stored.id not in world.planted and match.key is not None]
    wrong_honest = sum(world.truth[match.stored.id] != match.key.id for match in honest if match.key is not None)
    assert wrong_honest / len(honest) < 0.01


def test_a_word_confirms_what_the_tail_does_not_deny_and_nothing_else() -> None:
    world = made(5, strangers=0.3, planted=100)
    draw = random.Random(6)
    plain = {match.stored.id: match for match in correlate(world.variables, world.keys, world.last_used).matches}
    lies = {stored.id: draw.choice(world.keys).id for stored in world.variables}
    truths = {stored: key for stored, key in world.truth.items() if key is not None}
    found, _ = timed(world, {**lies, **truths})
    wrong = [
        match
        for match in found.matches
        if match.confidence == "confirmed" and match.key is not None and world.truth[match.stored.id] != match.key.id
    ]
    confirmed = [match for match in found.matches if match.confidence == "confirmed"]
    print(
        f"\n{len(truths)} true words, {len(lies) - len(truths)} false: {len(confirmed)} confirmed, {len(wrong)} wrong"
    )
    assert len(confirmed) >= len(truths)
    # A false word that happens to have the right tail cannot be told from a true one.
    assert all(match.key.id.endswith(match.stored.variable.tail) for match in wrong)  # type: ignore[union-attr,arg-type]
    assert len(wrong) <= 3
    for match in found.matches:
        if match.confidence != "confirmed":
            assert match.key == plain[match.stored.id].key


def test_many_keys_cost_no_more_than_their_number() -> None:
    small, large = made(7, strangers=0.1, planted=0), made(7, strangers=0.1, planted=0)
    large.keys.extend(made(8, strangers=0, planted=0).keys)
    _, one_s = timed(small)
    _, two_s = timed(large)
    print(f"\n10,000 keys in {one_s:.2f} s, 20,000 in {two_s:.2f} s")
    assert two_s < 5 * one_s + 0.5
