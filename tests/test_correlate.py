"""What the tails say, and above all what they do not say: a wrong match is worse than none."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.correlate import (
    CLOCKS_APART,
    NOT_SECRET,
    Correlation,
    Match,
    StoredVariable,
    correlate,
    is_id_name,
    secret_sibling,
    variable_id,
)
from playbook.model import Confidence
from playbook.ports import AccessKey, KeyStatus, LastUsed, MaskedVariable, Sink, SinkKind, display
from playbook.secret import masked_tail

DAY = timedelta(days=1)
MADE = datetime(2022, 6, 1, tzinfo=UTC)
CONTEXT = Sink(kind=SinkKind.CONTEXT, id="c-1", name="release", organization="gh/acme")
PROJECT = Sink(kind=SinkKind.PROJECT, id="gh/acme/web", name="gh/acme/web", organization="gh/acme")


def key(key_id: str = "AKIAEXAMPLE7WXYZ", user: str = "robot", *, account: str = "111111111111") -> AccessKey:
    return AccessKey(account=account, user=user, id=key_id, status=KeyStatus.ACTIVE, created_at=MADE)


def stored(
    name: str,
    tail: str | None = "WXYZ",
    *,
    sink: Sink = CONTEXT,
    updated_at: datetime | None = None,
    created_at: datetime | None = None,
) -> StoredVariable:
    variable = MaskedVariable(name=name, tail=tail, created_at=created_at, updated_at=updated_at)
    return StoredVariable(sink=sink, variable=variable)


def only(correlation: Correlation) -> Match:
    assert len(correlation.matches) == 1
    return correlation.matches[0]


# --- Names ----------------------------------------------------------------------------------------------------------

PAIRS = [
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("PROD_AWS_ACCESS_KEY_ID", "PROD_AWS_SECRET_ACCESS_KEY"),
    ("AWS_ACCESS_KEY_ID_STAGING", "AWS_SECRET_ACCESS_KEY_STAGING"),
    ("X_AWS_ACCESS_KEY_ID_2", "X_AWS_SECRET_ACCESS_KEY_2"),
    ("TF_VAR_aws_access_key_id", "TF_VAR_aws_secret_access_key"),
    ("TF_VAR_access_key", "TF_VAR_secret_key"),
    ("aws_access_key_id", "aws_secret_access_key"),
    ("AWS_ACCESS_KEY", "AWS_SECRET_KEY"),
    ("AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_SECRET"),
    ("AWS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    ("S3_KEY_ID", "S3_KEY_SECRET"),
    ("ECR_ID", "ECR_SECRET"),
    ("DEPLOY_KEY", "DEPLOY_SECRET"),
]


@pytest.mark.parametrize(("id_name", "secret_name"), PAIRS)
def test_a_pair_is_found_by_its_names(id_name: str, secret_name: str) -> None:
    beside = [id_name, secret_name, "AWS_REGION", "NPM_TOKEN"]
    assert secret_sibling(id_name, beside) == secret_name
    found = only(correlate([stored(id_name), stored(secret_name, "abcd")], [key()]))
    assert (found.key, found.secret_name) == (key(), secret_name)


def test_a_sibling_keeps_prefix_suffix_and_case() -> None:
    beside = ["AWS_SECRET_ACCESS_KEY", "PROD_AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"]
    assert secret_sibling("STAGING_AWS_ACCESS_KEY_ID", beside) is None
    assert secret_sibling("AWS_ACCESS_KEY_ID_STAGING", beside) is None
    assert secret_sibling("PROD_AWS_ACCESS_KEY_ID", beside) == "PROD_AWS_SECRET_ACCESS_KEY"
    assert secret_sibling("aws_access_key_id", beside) == "aws_secret_access_key"
    assert secret_sibling("NPM_TOKEN", [*beside, "NPM_TOKEN"]) is None


@given(st.from_regex(r"[A-Z_]{0,6}", fullmatch=True), st.from_regex(r"(_[A-Z0-9]{1,6})?", fullmatch=True))
def test_any_prefix_and_suffix_goes_to_both_names(prefix: str, suffix: str) -> None:
    id_name, secret_name = f"{prefix}AWS_ACCESS_KEY_ID{suffix}", f"{prefix}AWS_SECRET_ACCESS_KEY{suffix}"
    others = [f"{prefix}AWS_SECRET_ACCESS_KEY_{number}" for number in range(3)]
    assert is_id_name(id_name)
    assert not is_id_name(secret_name)
    assert secret_sibling(id_name, [*others, secret_name]) == secret_name


@pytest.mark.parametrize(
    "name",
    [
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "PROD_AWS_REGION",
        "AWS_REGION_EU",
        "TF_VAR_aws_region",
        "AWS_ACCOUNT_ID",
        "aws_account_id",
        "AWS_ROLE_ARN",
        "AWS_PROFILE",
        "AWS_ECR_REGISTRY_ID",
        "AWS_ECR_ACCOUNT_URL",
        "AWS_RESOURCE_NAME_PREFIX",
        "AWS_DEFAULT_OUTPUT",
        "AWS_PAGER",
    ],
)
def test_a_setting_is_no_secret(name: str) -> None:
    found = correlate([stored(name, "st-1")], [key()])
    assert found == Correlation(matches=(), others=())


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCOUNT_ACCESS_KEY_ID",
        "AWS_PROFILE_PROD_ACCESS_KEY_ID",
        "AWS_REGION_EU_AWS_ACCESS_KEY_ID",
        "aws_account_access_key",
    ],
)
def test_an_id_whose_name_also_speaks_of_a_setting_is_not_overlooked(name: str) -> None:
    assert not NOT_SECRET.fullmatch(name)
    assert only(correlate([stored(name)], [key()])).key == key()


@pytest.mark.parametrize("name", ["AWS_ACCOUNT_SECRET", "AWS_PROFILE_TOKEN", "AWS_ACCOUNT_PASSWORD", "NPM_TOKEN"])
def test_any_other_secret_is_named_among_the_others(name: str) -> None:
    found = correlate([stored(name, "abcd")], [key()])
    assert [item.variable.name for item in found.others] == [name]
    assert not found.matches


# --- Confidence -----------------------------------------------------------------------------------------------------


def test_one_fitting_key_without_a_witness_is_tail_only() -> None:
    found = only(correlate([stored("AWS_ACCESS_KEY_ID")], [key(), key("AKIAOTHER7777")]))
    assert (found.confidence, found.key) == ("tail-only", key())
    assert found.evidence == ("tail WXYZ fits one key only",)


@pytest.mark.parametrize(
    ("variable", "user", "sink"),
    [
        ("AWS_ACCESS_KEY_ID", "release-bot", CONTEXT),
        ("AWS_ACCESS_KEY_ID", "ci-web", PROJECT),
        ("STAGING_AWS_ACCESS_KEY_ID", "staging", CONTEXT),
    ],
)
def test_the_users_name_in_the_place_is_a_witness(variable: str, user: str, sink: Sink) -> None:
    found = only(correlate([stored(variable, sink=sink)], [key(user=user)]))
    assert found.confidence == "strong"
    assert "share" in found.evidence[1]


@pytest.mark.parametrize(
    ("user", "sink"),
    [
        ("acme-robot", PROJECT),  # the organization's own name stands in each of its projects
        ("aws-ci-bot", CONTEXT),
        ("r", replace(CONTEXT, name="r")),
        ("robot", CONTEXT),
    ],
)
def test_a_word_that_is_everywhere_is_no_witness(user: str, sink: Sink) -> None:
    assert only(correlate([stored("AWS_ACCESS_KEY_ID", sink=sink)], [key(user=user)])).confidence == "tail-only"


def test_a_pair_written_after_the_key_was_made_is_a_witness() -> None:
    pair = [stored("AWS_ACCESS_KEY_ID", updated_at=MADE + DAY), stored("AWS_SECRET_ACCESS_KEY", "abcd")]
    assert only(correlate(pair, [key()])).confidence == "strong"
    assert only(correlate(pair[:1], [key()])).confidence == "tail-only"
    in_project = [replace(item, sink=PROJECT) for item in pair]
    assert only(correlate(in_project, [key()])).confidence == "strong"


def test_a_key_used_after_the_variable_was_written_is_a_witness() -> None:
    variable = stored("AWS_ACCESS_KEY_ID", created_at=MADE - DAY, sink=PROJECT)
    used = {key().id: LastUsed(at=MADE + DAY)}
    assert only(correlate([variable], [key()], used)).confidence == "strong"
    never = {key().id: LastUsed(at=None)}
    assert only(correlate([variable], [key()], never)).confidence == "tail-only"


def test_a_context_written_before_the_key_was_made_contradicts_every_witness_and_says_so() -> None:
    early = stored("RELEASE_AWS_ACCESS_KEY_ID", updated_at=MADE - DAY)
    used = {key().id: LastUsed(at=MADE + DAY)}
    found = only(correlate([early], [key(user="release")], used))
    assert found.confidence == "tail-only"
    assert "before that key was made" in found.evidence[1]
    skewed = stored("RELEASE_AWS_ACCESS_KEY_ID", updated_at=MADE - CLOCKS_APART)
    assert only(correlate([skewed], [key(user="release")], used)).confidence == "strong"


def test_a_project_variable_made_before_the_key_may_hold_it_all_the_same() -> None:
    early = stored("AWS_ACCESS_KEY_ID", created_at=MADE - 300 * DAY, sink=PROJECT)
    assert only(correlate([early], [key(user="web")])).confidence == "strong"


def test_two_keys_with_one_tail_are_ambiguous_whatever_else_fits() -> None:
    pair = [stored("AWS_ACCESS_KEY_ID", updated_at=MADE + DAY), stored("AWS_SECRET_ACCESS_KEY", "abcd")]
    twins = [key(user="release"), key("AKIAOTHER777WXYZ", "other", account="222222222222")]
    found = only(correlate(pair, twins))
    assert (found.confidence, found.key, found.secret_name) == ("ambiguous", None, "AWS_SECRET_ACCESS_KEY")
    assert all(one.id in found.evidence[0] for one in twins)


def test_a_tail_of_no_listed_key_is_unknown_and_said_plainly() -> None:
    found = only(correlate([stored("AWS_ACCESS_KEY_ID", "QQQQ")], [key()]))
    assert (found.confidence, found.key) == ("unknown", None)
    assert "tail QQQQ is no key of these accounts" in found.evidence[0]


@pytest.mark.parametrize("tail", [None, "", "XYZ", "wxyz", "WX*Z"])
def test_an_absent_short_or_foreign_tail_never_matches(tail: str | None) -> None:
    found = only(correlate([stored("AWS_ACCESS_KEY_ID", tail)], [key(), key("AKIA"), key("")]))
    assert (found.confidence, found.key) == ("unknown", None)
    assert ("did not show" in found.evidence[0]) == (tail is None)


def test_a_key_is_found_by_its_tail_under_any_name() -> None:
    found = correlate([stored("DEPLOY_LOGIN"), stored("NPM_TOKEN", "abcd")], [key()])
    assert only(found).key == key()
    assert [item.variable.name for item in found.others] == ["NPM_TOKEN"]


def test_a_secret_whose_tail_happens_to_fit_is_not_an_id() -> None:
    found = correlate([stored("AWS_SECRET_ACCESS_KEY")], [key()])
    assert not found.matches
    assert [item.variable.name for item in found.others] == ["AWS_SECRET_ACCESS_KEY"]


def test_one_key_in_many_places_is_listed_with_all_of_them() -> None:
    other = replace(CONTEXT, id="c-2", name="nightly")
    variables = [
        stored(name, sink=sink) for sink in (CONTEXT, other, PROJECT) for name in ("AWS_ACCESS_KEY_ID", "B_KEY_ID")
    ]
    found = correlate(variables, [key(), key("AKIAOTHER7777")])
    assert [match.stored.id for match in found.stored_in(key().id)] == [item.id for item in variables]
    assert found.stored_in("AKIAOTHER7777") == ()


def test_a_secret_that_two_ids_claim_belongs_to_the_one_that_names_it_best() -> None:
    """Replacing the leftover key would otherwise write its secret over the working one (invariant I3)."""
    works, leftover = key(), key("AKIALEFTOVER7AAA2", "old")
    beside = [
        stored("AWS_ACCESS_KEY", "AAA2"),
        stored("AWS_ACCESS_KEY_ID"),
        stored("AWS_SECRET_ACCESS_KEY", "abcd"),
    ]
    found = {match.stored.variable.name: match for match in correlate(beside, [works, leftover]).matches}
    assert found["AWS_ACCESS_KEY_ID"].secret_name == "AWS_SECRET_ACCESS_KEY"
    assert found["AWS_ACCESS_KEY"].secret_name is None
    unknown = {match.stored.variable.name: match for match in correlate(beside, [works]).matches}
    assert unknown["AWS_ACCESS_KEY"].secret_name is None
    best_unknown = {match.stored.variable.name: match for match in correlate(beside, [leftover]).matches}
    assert best_unknown["AWS_ACCESS_KEY"].secret_name is None

    same = [replace(item, variable=replace(item.variable, tail="WXYZ")) for item in beside[:2]]
    both = correlate([*same, beside[2]], [works]).matches
    assert {match.secret_name for match in both} == {"AWS_SECRET_ACCESS_KEY"}


def test_ids_keep_sinks_and_names_apart() -> None:
    assert variable_id(CONTEXT, "A") == "context:c-1:A"
    same = replace(PROJECT, kind=SinkKind.CONTEXT)
    assert len({variable_id(sink, name) for sink in (CONTEXT, PROJECT, same) for name in ("A", "B")}) == 6


def test_foreign_text_in_the_evidence_is_made_harmless() -> None:
    odd = stored("AWS_ACCESS_KEY_ID", "\x1b[2J")
    twins = [key(user="a\x1b[31m"), key("AKIAOTHER777WXYZ", "b\u202e")]
    for match in correlate([odd, stored("AWS_KEY_ID")], twins).matches:
        for line in match.evidence:
            assert display(line, 10_000) == line


# --- Generated worlds whose truth is known --------------------------------------------------------------------------

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
USERS = ("release", "web", "api", "robot", "acme-ci")


@dataclass
class Truth:
    """A world, and which key id each id variable really holds."""

    variables: list[StoredVariable]
    listed: list[AccessKey]
    holds: dict[str, str]
    strangers: set[str]


def a_world(dice: random.Random, *, keys: int, places: int, tails: int, strangers: int) -> Truth:
    """Keys with few different tails, so that they collide; strangers' keys are stored but not listed."""
    pool = ["".join(dice.choices(ALPHABET, k=4)) for _ in range(tails)]

    def one(number: int) -> AccessKey:
        made = key(f"AKIA{number:08d}{dice.choice(pool)}", dice.choice(USERS), account=str(dice.randrange(2)))
        return replace(made, created_at=MADE + dice.randrange(200) * DAY)

    everything = [one(number) for number in range(keys + strangers)]
    listed, unlisted = everything[:keys], everything[keys:]
    truth = Truth(variables=[], listed=listed, holds={}, strangers={item.id for item in unlisted})
    for number in range(places):
        context = bool(dice.randrange(2))
        sink = replace(CONTEXT if context else PROJECT, id=f"s{number}", name=dice.choice(USERS))
        held = dice.choice(everything)
        id_name, secret_name = dice.choice(PAIRS)
        written = held.created_at + dice.randrange(100) * DAY
        tail = None if dice.random() < 0.1 else masked_tail(held.id)
        dates = {"updated_at": written} if context else {"created_at": MADE - DAY}
        truth.variables.append(stored(id_name, tail, sink=sink, **dates))
        truth.holds[truth.variables[-1].id] = held.id
        for name, shown in ((secret_name, "ab/+"), ("AWS_REGION", "st-1"), ("NPM_TOKEN", "x7Qz")):
            if dice.random() < 0.8:
                truth.variables.append(stored(name, shown, sink=sink, **dates))
    dice.shuffle(truth.variables)
    return truth


worlds = st.builds(
    lambda seed, keys, places, tails, strangers: a_world(
        random.Random(seed), keys=keys, places=places, tails=tails, strangers=strangers
    ),
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 8),
    st.integers(1, 4),
)
anything_goes = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(worlds)
@anything_goes
def test_when_tails_collide_nothing_is_strong_and_nothing_is_lost(truth: Truth) -> None:
    found = correlate(truth.variables, truth.listed)
    by_tail = Counter(item.id[-4:] for item in truth.listed)
    for match in found.matches:
        tail = match.stored.variable.tail
        if tail is None or not by_tail[tail]:
            assert (match.confidence, match.key) == ("unknown", None)
        elif by_tail[tail] > 1:
            assert (match.confidence, match.key) == ("ambiguous", None)
        else:
            assert match.confidence in {"tail-only", "strong"}
            assert match.key is not None
            # With one listed key of this tail, only a stranger's key can be mistaken for it.
            really = truth.holds[match.stored.id]
            assert really == match.key.id or really in truth.strangers
        assert match.confidence in set(Confidence)
        assert match.evidence
    matched = {match.stored.id: match for match in found.matches}
    for place, held in truth.holds.items():
        tail = next(item.variable.tail for item in truth.variables if item.id == place)
        if tail is not None and held not in truth.strangers:
            listed_once = by_tail[tail] == 1
            assert (matched[place].key is not None and matched[place].key.id == held) == listed_once


@given(worlds)
@anything_goes
def test_every_variable_is_a_match_a_matchs_secret_a_setting_or_another_secret(truth: Truth) -> None:
    found = correlate(truth.variables, truth.listed)
    matched = [match.stored.id for match in found.matches]
    secrets = [variable_id(match.stored.sink, match.secret_name) for match in found.matches if match.secret_name]
    others = [item.id for item in found.others]
    assert len(set(matched + others)) == len(matched + others)
    assert not set(others) & set(secrets)
    for item in truth.variables:
        is_setting = item.variable.name == "AWS_REGION"
        assert is_setting != (item.id in {*matched, *secrets, *others})


@given(worlds, st.randoms(use_true_random=False))
@anything_goes
def test_the_order_of_what_was_read_changes_nothing(truth: Truth, dice: random.Random) -> None:
    expected = correlate(truth.variables, truth.listed)
    variables, listed = list(truth.variables), list(truth.listed)
    dice.shuffle(variables)
    dice.shuffle(listed)
    found = correlate(variables, listed)

    def told(correlation: Correlation) -> dict[str, tuple[str, str | None, str | None]]:
        return {
            match.stored.id: (match.confidence, match.key.id if match.key else None, match.secret_name)
            for match in correlation.matches
        }

    assert told(found) == told(expected)
    assert {item.id for item in found.others} == {item.id for item in expected.others}


def test_how_often_a_strangers_key_with_our_tail_is_taken_for_ours() -> None:
    """The limit of four characters, measured: a stranger's key that shares tail and place may look strong."""
    seed = 7
    dice = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(300):
        truth = a_world(dice, keys=8, places=12, tails=12, strangers=4)
        for match in correlate(truth.variables, truth.listed).matches:
            if match.key is not None:
                right = truth.holds[match.stored.id] == match.key.id
                counts[f"{'right' if right else 'wrong'} {match.confidence}"] += 1
    shares = {
        name: counts[f"wrong {name}"] / (counts[f"wrong {name}"] + counts[f"right {name}"])
        for name in ("strong", "tail-only")
    }
    print(f"seed {seed}, 12 tails for 12 keys: {dict(sorted(counts.items()))}, wrong {shares}")
    assert counts["right strong"] > 100
    assert shares["strong"] < shares["tail-only"]


def test_ten_thousand_keys_and_five_thousand_variables_are_right_and_quick() -> None:
    seed = 11
    dice = random.Random(seed)
    truth = a_world(dice, keys=10_000, places=2_500, tails=20**4, strangers=100)
    found = correlate(truth.variables, truth.listed)
    claimed = [match for match in found.matches if match.key is not None]
    right = sum(1 for match in claimed if match.key and truth.holds[match.stored.id] == match.key.id)
    ours = sum(1 for held in truth.holds.values() if held not in truth.strangers)
    print(
        f"seed {seed}: {len(truth.variables)} variables, {len(claimed)} claimed, precision {right / len(claimed):.4f}, "
        f"recall {right / ours:.4f} (a tenth of the tails is absent, and equal tails are never claimed)"
    )
    assert right / len(claimed) > 0.99
    assert right / ours > 0.8
