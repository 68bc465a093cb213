"""The fold is pure and incremental, every record round-trips, and the format's document tells the truth."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.errors import Effect, JournalDamagedError
from playbook.journal import GENESIS, LINE_MAX, PLAN_LINE_MAX, Journal, decode, encode, fold, recover
from playbook.ports import Attempt
from playbook.records import (
    FORMAT,
    RECORD_TYPES,
    Answered,
    Applied,
    Approved,
    Done,
    Failed,
    Intended,
    Observed,
    Opened,
    Planned,
    Record,
    Reset,
    Sealed,
    Skipped,
    State,
    TakenOver,
    Verified,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "journal-format.md"
NOON = datetime(2023, 1, 4, 12, tzinfo=UTC)
COMMON = tuple(Record.__struct_fields__)

# --- Generated records ----------------------------------------------------------------------------------------------

keys = st.sampled_from(["mint", "store/a", "store/b", "off"])
whole_numbers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | whole_numbers | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
BY_HINT: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(0, 2**40),
    bool: st.booleans(),
    Any: json_values,
    dict[str, str]: st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    dict[str, Any]: json_objects,
    dict[str, Any] | None: st.none() | json_objects,
    list[str]: st.lists(keys, max_size=3),
    list[dict[str, Any]]: st.lists(json_objects, max_size=2),
    list[dict[str, str]]: st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2), max_size=2),
}
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "key": keys,
    "step": st.sampled_from(["check", "replace"]),
    "round": st.integers(0, 2),
    "part": st.integers(0, 2),
    "parts": st.integers(1, 3),
    "effect": st.sampled_from([effect.value for effect in Effect]),
}


def records_of(cls: type[Record]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    own = [name for name in cls.__struct_fields__ if name not in COMMON]
    return st.builds(cls, **{name: BY_NAME.get(name, BY_HINT[hints[name]]) for name in own})


any_record = st.one_of(*(records_of(cls) for cls in RECORD_TYPES))


def possible(said: list[Any]) -> list[Any]:
    """Leave out what the engine never writes: the end of an action that was not begun."""
    begun: set[str] = set()
    kept = []
    for record in said:
        if isinstance(record, Intended):
            begun.add(record.key)
        if not isinstance(record, Applied | Failed) or record.key in begun:
            kept.append(msgspec.structs.replace(record, seq=len(kept), at=f"t{len(kept)}"))
    return kept


histories = st.lists(any_record, max_size=25).map(possible)


@given(any_record, st.integers(0, 2**31), st.text(max_size=30))
@settings(max_examples=250, deadline=None)
def test_decoding_an_encoded_record_gives_it_back(record: Any, seq: int, at: str) -> None:
    stamped = msgspec.structs.replace(record, seq=seq, at=at)
    line, head = encode(stamped, GENESIS)
    assert b"\n" not in line
    assert decode(line, GENESIS, seq) == (stamped, head)
    assert decode(line, head, seq) is None
    assert decode(line, GENESIS, seq + 1) is None


@given(histories)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_folding_step_by_step_is_folding_every_prefix(history: list[Any]) -> None:
    growing = State()
    for number, record in enumerate(history, start=1):
        growing.apply(record)
        assert growing == fold(history[:number])


@given(histories)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_fold_is_pure_and_survives_the_disk(history: list[Any]) -> None:
    before = [msgspec.json.encode(record) for record in history]
    first = fold(history)
    assert fold(history) == first
    assert [msgspec.json.encode(record) for record in history] == before

    content, head = b"", GENESIS
    for record in history:
        line, head = encode(record, head)
        content += line + b"\n"
    recovered = recover(content)
    assert list(recovered.records) == history
    assert fold(recovered.records) == first
    assert recover(content[: recovered.length]) == recovered


@given(st.lists(any_record, max_size=12).map(possible))
@settings(max_examples=50, deadline=None)
def test_a_journal_in_memory_folds_what_it_is_given(history: list[Any]) -> None:
    journal = Journal(now=lambda: NOON)
    for record in history:
        journal.append(record)
    at = NOON.isoformat(timespec="milliseconds")
    assert journal.seq == len(history)
    assert journal.state == fold([msgspec.structs.replace(record, at=at) for record in history])


# --- What the fold means --------------------------------------------------------------------------------------------


def after(*said: Any) -> State:
    return fold([msgspec.structs.replace(record, seq=number) for number, record in enumerate(said)])


OPENED = Opened(case="c0ffee", tool="t", mode="live", host="here/1")


def part(number: int, parts: int, digest: str, *, turn: int = 0, lane: str = "") -> Planned:
    return Planned(step="s", round=turn, part=number, parts=parts, digest=digest, lane=lane)


def test_a_plan_stands_only_when_all_its_parts_are_there() -> None:
    assert after().plan("s") is None
    assert after(part(0, 3, "d"), part(1, 3, "d")).plan("s") is None
    found = after(part(0, 3, "d"), part(1, 3, "d", lane="a"), part(2, 3, "d", lane="b")).plan("s")
    assert found is not None
    assert found[0] == "d"
    assert [one.lane for one in found[1]] == ["", "a", "b"]


def test_a_plan_cut_short_is_replaced_and_a_whole_one_is_too() -> None:
    found = after(part(0, 2, "old"), part(0, 2, "new"), part(1, 2, "new", lane="a")).plan("s")
    assert found is not None
    assert (found[0], len(found[1])) == ("new", 2)
    assert after(part(0, 1, "old"), part(0, 2, "new")).plan("s") is None


def test_a_later_round_adds_to_the_plan_and_one_cut_short_does_not() -> None:
    first = (part(0, 2, "one"), part(1, 2, "one", lane="a"))
    both = after(*first, part(0, 2, "two", turn=1), part(1, 2, "two", turn=1, lane="b")).plan("s")
    assert both is not None
    assert (both[0], [one.lane for one in both[1]]) == ("two", ["", "a", "", "b"])
    cut = after(*first, part(0, 2, "two", turn=1)).plan("s")
    assert cut is not None
    assert (cut[0], len(cut[1])) == ("one", 2)


def test_planning_a_done_step_again_opens_it() -> None:
    assert after(part(0, 1, "d"), Done(step="s")).done == ["s"]
    assert after(part(0, 1, "d"), Done(step="s"), part(0, 1, "d", turn=1)).done == []


@pytest.mark.parametrize(("effect", "state"), [("none", "failed"), ("unknown", "intended")])
def test_a_failure_whose_effect_is_unknown_leaves_the_intent_open(effect: str, state: str) -> None:
    progress = after(OPENED, Intended(key="k"), Failed(key="k", effect=effect, code="Timeout")).progress["k"]
    assert progress.state == state
    assert progress.reason == "Timeout"
    assert progress.attempts == [Attempt(seq=1, tag="c0ffee.1", basis={}, failed=effect)]


def test_one_action_through_its_life() -> None:
    said = [OPENED, Intended(key="k", basis={"n": 1}), Applied(key="k", evidence={"id": "x"})]
    assert after(*said).progress["k"].state == "applied"
    said.append(Observed(key="k", status="pending", reason="not yet"))
    assert (after(*said).progress["k"].state, after(*said).progress["k"].reason) == ("applied", "not yet")
    said.append(Verified(key="k", evidence={"seen": True}))
    done = after(*said).progress["k"]
    assert (done.state, done.evidence, done.reason, done.seq) == ("verified", {"seen": True}, "", 4)
    assert done.attempts[-1].applied == {"id": "x"}
    assert after(Skipped(key="k", reason="no")).progress["k"].state == "skipped"


def test_an_action_that_no_plan_holds_is_kept_from_its_intent() -> None:
    data = {"kind": "k", "n": 1}
    assert after(Intended(key="k", action=data), Intended(key="k")).progress["k"].data == data


def test_a_reset_sends_back_and_names_what_comes_first() -> None:
    said = [OPENED]
    for key in ("mint", "a", "b"):
        said += [Intended(key=key), Applied(key=key, evidence={}), Verified(key=key)]
    reset = Reset(keys=["mint", "a", "b"], lost="AKIA", reason="gone", first=["a"], keep=True)
    state = after(*said, reset)
    assert {state.progress[key].state for key in ("mint", "a", "b")} == {"planned"}
    assert all(attempt.reset and attempt.kept for attempt in state.progress["mint"].attempts)
    assert state.first == {"mint": frozenset({"a"}), "b": frozenset({"a"})}
    again = after(*said, reset, Reset(keys=["mint", "a", "b"], lost="AKIB", reason="gone"))
    assert again.first == {}
    assert [item.lost for item in again.resets] == ["AKIA", "AKIB"]


def test_hosts_answers_approvals_and_the_end_are_remembered() -> None:
    state = after(
        OPENED,
        Answered(id="q", answer_key="q", subject={}, value=1),
        Answered(id="q", answer_key="q", subject={}, value=2),
        Approved(subject="run", digest="d", by="typed", host="here/1"),
        TakenOver(host="there/1"),
        Sealed(outcome="done", exit_code=0),
    )
    assert state.hosts == ["here/1", "there/1"]
    assert state.answers["q"].value == 2
    assert state.approvals["run"].digest == "d"
    assert state.sealed == Sealed(seq=5, outcome="done", exit_code=0)


@pytest.mark.parametrize("end", [Applied(key="k"), Failed(key="k", effect="none", code="c")])
def test_the_end_of_what_was_never_begun_is_damage(end: Any) -> None:
    with pytest.raises(JournalDamagedError, match="Record 1 ends an action that no record began"):
        after(OPENED, end)


def test_every_record_type_changes_the_state() -> None:
    begun = [OPENED, Intended(key="k")]
    base = after(*begun)
    for cls in RECORD_TYPES:
        record = next(
            item
            for item in (
                Opened(case="x", tool="t", mode="live", host="h"),
                Answered(id="q", answer_key="q", subject={}, value=1),
                part(0, 1, "d"),
                Approved(subject="run", digest="d", by="b", host="h"),
                Intended(key="k"),
                Applied(key="k"),
                Observed(key="k", status="pending", reason="r"),
                Verified(key="k"),
                Failed(key="k", effect="none", code="c"),
                Skipped(key="k", reason="r"),
                Reset(keys=["k"], lost="l", reason="r"),
                TakenOver(host="h"),
                Done(step="s"),
                Sealed(outcome="o", exit_code=0),
            )
            if isinstance(item, cls)
        )
        assert any(getattr(after(*begun, record), item.name) != getattr(base, item.name) for item in fields(State))


# --- The document ---------------------------------------------------------------------------------------------------


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/journal-format.md has no section {title!r}"
    return found[1]


def documented_fields(title: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section(title), re.MULTILINE)


@pytest.mark.parametrize("cls", RECORD_TYPES)
def test_every_field_of_every_record_is_documented_and_no_other(cls: type[Record]) -> None:
    own = [name for name in cls.__struct_fields__ if name not in COMMON]
    assert documented_fields(cls.__name__) == own


def test_the_document_knows_the_common_fields_every_type_and_the_limits() -> None:
    text = DOCUMENT.read_text()
    assert documented_fields("A line") == ["type", *COMMON, "sum"]
    assert set(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == {cls.__name__ for cls in RECORD_TYPES}
    assert f"This page describes format {FORMAT}." in text
    assert (
        f"At most {LINE_MAX // 1024} KiB; a `Planned`, an `Intended` (with its action) and a `Reset` at most " in text
    )
    assert f"{PLAN_LINE_MAX // 1024} KiB, for they may name" in text
    assert len(RECORD_TYPES) == len(get_args(decode.__globals__["AnyRecord"])) == 14


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_example_in_the_document_verifies() -> None:
    """It is also the golden journal of format 1: later versions must go on reading it."""
    recovered = recover(block("json").encode())
    assert [type(record) for record in recovered.records] == [Opened, Intended, Applied]
    assert recovered.records[1].basis == {"status": "Active"}


def run_recipe(folder: Path) -> tuple[int, str]:
    done = subprocess.run(["sh", "-c", block("sh")], cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_recipe_in_the_document_verifies_by_hand(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "case")
    journal.append(OPENED)
    journal.append(Answered(id="q", answer_key="a", subject={}, value={"a": 1, "sum": 'x","sum":"y"}'}))
    journal.append(Skipped(key="k", reason="é \u2028 \\n \\\\ 'quoted' $HOME `id` %s * "))
    journal.close()
    assert run_recipe(journal.folder or tmp_path) == (0, f"3 records, head {journal.head}\n")

    path = tmp_path / "case" / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    for number in range(3):
        damaged = list(lines)
        damaged[number] = damaged[number].replace(b'"v":1', b'"v":2')
        path.write_bytes(b"\n".join(damaged))
        assert run_recipe(path.parent) == (1, f"line {number + 1} does not verify\n")
