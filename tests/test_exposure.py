"""Exposed, rotated since, or unknown: each verdict follows from what the platforms show; doubt is never done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.correlate import StoredVariable
from playbook.errors import UsageError
from playbook.exposure import (
    NO_PROOF,
    NOT_SAID_FROM,
    NOT_SAID_UNTIL,
    BurnDown,
    Exposure,
    Proof,
    Window,
    burn_down,
    judge,
)
from playbook.inventory import Inventory, secret_id
from playbook.inventory_document import document, is_exposed
from playbook.ports import (
    AccessKey,
    Hole,
    KeyStatus,
    MaskedVariable,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
)
from playbook.survey import window_of

START = datetime(2022, 12, 21, tzinfo=UTC)
END = datetime(2023, 1, 4, 23, 59, 59, tzinfo=UTC)
WINDOW = Window(start=START, end=END)
BEFORE, DURING, AFTER = START - timedelta(days=30), START + timedelta(days=3), END + timedelta(hours=2)
DEPLOY = Sink(kind=SinkKind.CONTEXT, id="c-1", name="deploy", organization="gh/acme")
API = Sink(kind=SinkKind.PROJECT, id="gh/acme/api", name="gh/acme/api", organization="gh/acme")
EXPOSED, ROTATED, UNKNOWN = Exposure.EXPOSED, Exposure.ROTATED, Exposure.UNKNOWN


def variable(sink=DEPLOY, name="NPM_TOKEN", *, tail="9qZq", created=BEFORE, updated=None) -> StoredVariable:
    return StoredVariable(
        sink=sink, variable=MaskedVariable(name=name, tail=tail, created_at=created, updated_at=updated)
    )


def a_key(made, *, tail="WXYZ", active=True) -> AccessKey:
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    return AccessKey(account="1" * 12, user="ci-deploy", id=f"AKIA000000000000{tail}", status=status, created_at=made)


def secret(kind=SecretKind.CHECKOUT_KEY, **more) -> StoredSecret:
    return StoredSecret(
        kind=kind, id="s-1", organization="gh/acme", place="gh/acme/api", place_kind="project", name="n", **more
    )


def verdict(stored, *, keys=(), window=WINDOW, proof=NO_PROOF, beside=()):
    inventory = Inventory(generated_at="", variables=(stored, *beside), keys=tuple(keys))
    return judge(inventory, window, proof)[stored.id]


# --- Variables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updated", "expected"),
    [(BEFORE, EXPOSED), (DURING, EXPOSED), (END, EXPOSED), (AFTER, ROTATED), (END + timedelta(seconds=1), ROTATED)],
)
def test_a_contexts_variable_is_judged_by_its_last_write(updated, expected) -> None:
    found = verdict(variable(updated=updated))
    assert found.exposure is expected
    assert found.why


def test_blimmers_mistake_is_not_made_the_creation_of_a_variable_says_nothing_once_it_was_written_again() -> None:
    assert verdict(variable(created=BEFORE, updated=AFTER)).exposure is ROTATED


@pytest.mark.parametrize(
    ("created", "expected"), [(BEFORE, UNKNOWN), (DURING, UNKNOWN), (AFTER, ROTATED), (None, UNKNOWN)]
)
def test_a_projects_variable_is_proved_by_being_made_anew_or_by_nothing(created, expected) -> None:
    assert verdict(variable(API, created=created)).exposure is expected


def test_a_project_variable_that_this_case_wrote_is_rotated() -> None:
    stored = variable(API)
    proof = Proof(since=AFTER, written=frozenset({stored.id}))
    assert verdict(stored, proof=proof).exposure is ROTATED
    assert verdict(stored, proof=proof, window=None).exposure is ROTATED


def test_a_case_opened_while_strangers_could_read_proves_nothing() -> None:
    stored = variable(API)
    early = Proof(since=DURING, written=frozenset({stored.id}))
    assert verdict(stored, proof=early).exposure is UNKNOWN
    assert verdict(variable(updated=DURING), proof=Proof(since=DURING)).exposure is EXPOSED


ID, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


def pair(sink, *, id_written=None, secret_written=None):
    held = variable(sink, ID, tail="WXYZ", created=BEFORE, updated=id_written)
    beside = variable(sink, SECRET, tail="s/+c", created=BEFORE, updated=secret_written)
    return held, beside


def test_the_same_old_key_written_again_is_still_exposed() -> None:
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=AFTER)
    for stored, other in ((held, beside), (beside, held)):
        found = verdict(stored, keys=[a_key(BEFORE)], beside=[other])
        assert found.exposure is EXPOSED
        assert "AKIA000000000000WXYZ existed then" in found.why


def test_a_key_that_is_off_is_rotated_and_one_that_the_case_switched_off_too() -> None:
    held, beside = pair(DEPLOY, id_written=BEFORE, secret_written=BEFORE)
    key = a_key(BEFORE - timedelta(days=9))
    assert verdict(held, keys=[key], beside=[beside]).exposure is EXPOSED
    off = Proof(since=AFTER, off=frozenset({key.id}))
    assert verdict(held, keys=[key], beside=[beside], proof=off).exposure is ROTATED
    inactive = a_key(BEFORE - timedelta(days=9), active=False)
    assert verdict(held, keys=[inactive], beside=[beside]).exposure is ROTATED
    assert verdict(beside, keys=[inactive], beside=[held]).exposure is ROTATED


def test_a_new_key_proves_its_id_in_a_project_and_its_secret_only_by_a_write_of_its_own() -> None:
    new = a_key(AFTER)
    named = Sink(kind=SinkKind.PROJECT, id="gh/acme/deploy", name="gh/acme/deploy", organization="gh/acme")
    held, beside = pair(named)
    assert verdict(held, keys=[new], beside=[beside]).exposure is ROTATED
    assert verdict(beside, keys=[new], beside=[held]).exposure is UNKNOWN
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=AFTER)
    assert verdict(beside, keys=[new], beside=[held]).exposure is ROTATED
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=BEFORE)
    torn = verdict(beside, keys=[new], beside=[held])
    assert torn.exposure is EXPOSED
    assert "the pair is broken" in torn.why


def test_a_tail_alone_decides_nothing() -> None:
    """The variable shares a tail with an old key that is off, and nothing else speaks for it."""
    stored = variable(API, "NPM_TOKEN", tail="WXYZ")
    assert verdict(stored, keys=[a_key(BEFORE, active=False)]).exposure is UNKNOWN


# --- Everything else --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (secret(created_at=BEFORE), EXPOSED),
        (secret(created_at=AFTER), ROTATED),
        (secret(), UNKNOWN),
        (secret(SecretKind.SSH_KEY), UNKNOWN),
        (secret(SecretKind.PROJECT_TOKEN, created_at=DURING), EXPOSED),
        (secret(SecretKind.RUNNER_TOKEN, created_at=AFTER), ROTATED),
        (secret(SecretKind.WEBHOOK_SECRET, created_at=BEFORE, updated_at=AFTER), ROTATED),
        (secret(SecretKind.WEBHOOK_SECRET, created_at=BEFORE), EXPOSED),
        # A token cannot be changed in place, whatever moved its date.
        (secret(SecretKind.PROJECT_TOKEN, created_at=BEFORE, updated_at=AFTER), EXPOSED),
        (secret(SecretKind.LEGACY_AWS_KEY, tail="AAAA"), UNKNOWN),
    ],
)
def test_other_kinds_are_judged_by_what_their_kind_shows(stored, expected) -> None:
    inventory = Inventory(generated_at="", secrets=(stored,))
    assert judge(inventory, WINDOW)[secret_id(stored)].exposure is expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [(a_key(BEFORE), EXPOSED), (a_key(AFTER), ROTATED), (a_key(BEFORE, active=False), ROTATED)],
)
def test_a_legacy_pair_is_judged_by_its_key(key, expected) -> None:
    stored = secret(SecretKind.LEGACY_AWS_KEY, tail="WXYZ")
    inventory = Inventory(generated_at="", secrets=(stored,), keys=(key,))
    assert judge(inventory, WINDOW)[secret_id(stored)].exposure is expected


def test_what_is_no_secret_has_no_verdict() -> None:
    claims = secret(SecretKind.OIDC_CLAIMS, updated_at=BEFORE)
    empty = secret(SecretKind.WEBHOOK_SECRET, created_at=BEFORE, set=False)
    assert judge(Inventory(generated_at="", secrets=(claims, empty)), WINDOW) == {}


def test_a_broken_pair_written_after_the_window_is_no_proof_either_way() -> None:
    made = AFTER + timedelta(hours=1)
    held, beside = pair(DEPLOY, id_written=made, secret_written=AFTER)
    found = verdict(beside, keys=[a_key(made)], beside=[held])
    assert found.exposure is UNKNOWN
    assert "the pair is broken" in found.why


# --- Windows ----------------------------------------------------------------------------------------------------------


def test_without_a_window_everything_is_unknown() -> None:
    for stored in (variable(updated=AFTER), variable(API, created=AFTER)):
        assert verdict(stored, window=None).exposure is UNKNOWN


def test_a_window_that_has_no_end_proves_no_rotation() -> None:
    still_open = Window(start=START)
    assert verdict(variable(updated=BEFORE), window=still_open).exposure is EXPOSED
    assert verdict(variable(updated=AFTER), window=still_open).exposure is UNKNOWN
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=AFTER)
    assert verdict(held, keys=[a_key(AFTER)], beside=[beside], window=still_open).exposure is UNKNOWN


def test_a_window_that_has_no_beginning_covers_everything_before_its_end() -> None:
    assert verdict(variable(updated=BEFORE), window=Window(end=END)).exposure is EXPOSED
    assert verdict(variable(updated=AFTER), window=Window(end=END)).exposure is ROTATED


def test_the_two_texts_that_say_nothing_are_no_window() -> None:
    assert Window.of(NOT_SAID_FROM, NOT_SAID_UNTIL) is None
    assert Window.of("", "") is None
    assert Window.of(NOT_SAID_FROM, "2023-01-04T23:59:59Z") == Window(end=END)


@pytest.mark.parametrize(
    ("start", "end"),
    [("soon", ""), ("2022-12-21", ""), ("", "2023-01-04T00:00:00"), ("2023-01-04T00:00:00Z", "2022-12-21T00:00:00Z")],
)
def test_a_window_that_is_none_is_refused(start, end) -> None:
    with pytest.raises(UsageError, match="not two times with their offsets"):
        window_of(start, end)


moments = st.datetimes(datetime(2022, 6, 1), datetime(2023, 6, 1), timezones=st.just(UTC))  # noqa: DTZ001  # made aware


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([DEPLOY, API]),
            st.sampled_from([ID, SECRET, "NPM_TOKEN", "AWS_REGION"]),
            st.sampled_from(["WXYZ", "ABCD", None]),
            st.none() | moments,
            st.none() | moments,
        ),
        max_size=6,
        unique_by=lambda item: (item[0].id, item[1]),
    ),
    st.lists(st.tuples(st.sampled_from(["WXYZ", "ABCD"]), moments, st.booleans()), max_size=3),
)
def test_rotated_always_has_a_proof_that_is_younger_than_the_window(stored, keys) -> None:
    variables = tuple(
        variable(sink, name, tail=tail, created=created, updated=updated if sink is DEPLOY else None)
        for sink, name, tail, created, updated in stored
    )
    held = tuple(a_key(made, tail=tail, active=active) for tail, made, active in keys)
    inventory = Inventory(generated_at="", variables=variables, keys=held)
    verdicts = judge(inventory, WINDOW)
    assert set(verdicts) == {item.id for item in variables}
    for item in variables:
        found = verdicts[item.id]
        times = [item.variable.created_at, item.variable.updated_at, *(key.created_at for key in held)]
        switched_off = any(not key.is_active for key in held)
        if found.exposure is ROTATED:
            assert switched_off or any(at is not None and at > END for at in times)
        if found.exposure is EXPOSED:
            assert any(at is not None and at <= END for at in times)
        assert found.why
    counted = burn_down(inventory, verdicts)
    assert counted.total == counted.rotated + counted.exposed + counted.unknown
    assert counted.total == sum(item.variable.name != "AWS_REGION" for item in variables)


# --- The nightly check ------------------------------------------------------------------------------------------------


def told(*variables, keys=(), holes=(), window=WINDOW):
    return document(
        Inventory(generated_at="", variables=variables, keys=tuple(keys), holes=tuple(holes)), window=window
    )


def test_the_nightly_check_never_passes_over_what_is_not_proved() -> None:
    fine = told(variable(updated=AFTER))
    assert fine["burn_down"] == {"total": 1, "rotated": 1, "exposed": 0, "unknown": 0}
    assert not is_exposed(fine)
    assert is_exposed(told(variable(updated=AFTER), holes=[Hole(what="projects", where="gh/acme", why="HTTP403")]))
    assert is_exposed(told(variable(updated=DURING)))
    assert is_exposed(told(variable(API)))
    assert not is_exposed(told(variable(API, "AWS_REGION")))


def test_without_a_window_the_nightly_check_looks_for_keys_that_are_on_and_stored() -> None:
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=AFTER)
    assert is_exposed(told(held, beside, keys=[a_key(BEFORE)], window=None))
    assert not is_exposed(told(held, beside, keys=[a_key(BEFORE, active=False)], window=None))
    assert not is_exposed(told(variable(API), window=None))
    held, beside = pair(DEPLOY, id_written=AFTER, secret_written=AFTER)
    assert not is_exposed(told(held, beside, keys=[a_key(AFTER - timedelta(minutes=9))]))


def test_the_burn_down_reads_as_a_sentence() -> None:
    counted = BurnDown(total=52, rotated=37, exposed=12, unknown=3)
    assert counted.text() == "37 of 52 rotated; 12 exposed, 3 unknown"
