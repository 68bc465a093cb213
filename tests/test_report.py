"""The report says what the journal says, cites it, and lets no name act."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from playbook import journal, report
from playbook.model import Action, Observation, Phase, Status, Step
from playbook.ports import Hole, display
from playbook.records import (
    Answered,
    Applied,
    Approved,
    Done,
    Failed,
    Intended,
    Observed,
    Opened,
    Planned,
    Reset,
    Sealed,
    Skipped,
    Verified,
)
from playbook.report import CaseReport, escape, from_state, to_json, to_markdown
from steps import PLAYBOOK

ROOT = Path(report.__file__).parents[1]
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = "a|b\n# c\r\n<img src=x onerror=y> [l](http://evil) `d` *e* _f_ ~~g~~ &lt; \x1b[31m\u202e\u200b\x9b $x$ \\ https://evil"


@dataclass(frozen=True, kw_only=True)
class DoForTest(Action):
    kind: ClassVar[str] = "test-report:do"
    destroys: ClassVar[bool] = True
    name: str

    @property
    def key(self):
        return f"{self.kind}:{self.name}"

    @property
    def lane(self):
        return f"lane of {self.name}"

    def describe(self):
        return f"do {self.name}"

    def observe(self, view):
        return Observation(status=Status.ABSENT)

    def apply(self, world):
        return {}


class StepForTest(Step):
    id = "a_step"
    title = "A step"
    phase = Phase.CONTAINMENT

    def plan(self, view, case, ask):
        raise NotImplementedError


def folded(*records):
    stamped = [replace_record(record, number) for number, record in enumerate(records)]
    return journal.fold(stamped)


def replace_record(record, number):
    data = {name: getattr(record, name) for name in record.__struct_fields__}
    return type(record)(**data | {"seq": number, "at": f"2026-01-02T03:04:{number % 60:02}Z"})


OPENED = Opened(case="c1", tool="rotation-playbook 0", mode="live", host="h")


def planned(*names, findings=(), **more):
    actions = [DoForTest(name=name, **more.pop(name, {})).data() for name in names]
    return Planned(
        step="a_step", round=0, part=0, parts=1, digest="d", actions=actions, findings=list(findings), attachment="x"
    )


def made(*records, **more):
    return from_state(folded(*records), [StepForTest()], folder="/cases/c1", head="abc", **more)


def test_an_empty_journal_is_all_unknown():
    text = to_markdown(made())

    assert text.startswith("# Case unknown\n\n**unknown**")
    assert "| Severity | unknown | unknown |" in text
    assert json.loads(to_json(made()))["case"] is None


@pytest.mark.parametrize(
    ("mode", "words"), [("live", "live: "), ("rehearsal", "nothing live was read or changed"), ("dry-run", "only read")]
)
def test_the_mode_is_said_first(mode, words):
    assert words in to_markdown(made(replace_record(Opened(case="c", tool="t", mode=mode, host="h"), 0))).split("\n")[2]


def test_each_state_is_said_in_words_with_its_record_and_its_time():
    names = ("planned", "intended", "applied", "verified", "refused", "left-out", "doubtful")
    keys = {name: DoForTest(name=name).key for name in names}
    intents = [Intended(key=keys[name]) for name in names if name not in {"planned", "left-out"}]
    text = to_markdown(
        made(
            OPENED,
            planned(*names, findings=[{"level": "danger", "text": "look", "due_at": "2027"}]),
            *intents,
            Applied(key=keys["applied"], evidence={"key_id": "AKIA"}),
            Verified(key=keys["verified"], evidence={"sinks": ["a", 1], "ok": True}),
            Failed(key=keys["refused"], effect="none", code="AccessDenied"),
            Skipped(key=keys["left-out"], reason="by decision"),
            Failed(key=keys["doubtful"], effect="unknown", code="Timeout"),
        )
    )

    at = "2026-01-02T03:04"
    for row in (
        "| do planned | DESTROYS | not begun | - | - | - | 1 |",
        f"| do intended | DESTROYS | begun, its end is unknown | - | - | {at}:02Z | 2 |",
        f"| do applied | DESTROYS | done, not seen yet | key_id: AKIA | - | {at}:07Z | 7 |",
        f'| do verified | DESTROYS | done and seen | sinks: \\["a", 1\\]; ok: true | - | {at}:08Z | 8 |',
        f"| do refused | DESTROYS | refused | - | AccessDenied | {at}:09Z | 9 |",
        f"| do left-out | DESTROYS | left out | - | by decision | {at}:10Z | 10 |",
        f"| do doubtful | DESTROYS | begun, its end is unknown | - | Timeout | {at}:11Z | 11 |",
        "| danger | look | 2027 | a_step | 1 |",
        "| lane of refused | do refused | AccessDenied | 9 |",
        "| lane of planned | do planned | unknown | 1 |",
        "5 lane(s) are not finished:",
        "Next: rotation-playbook resume /cases/c1",
    ):
        assert row in text


def test_a_lane_that_waits_for_another_says_so():
    first, second = DoForTest(name="first"), DoForTest(name="second", after=("test-report:do:first",))
    parts = Planned(step="a_step", round=0, part=0, parts=1, digest="d", actions=[first.data(), second.data()])

    assert [lane.reason for lane in made(OPENED, parts).waiting] == [None, "it waits for test-report:do:first"]


def test_what_no_plan_holds_is_reported_too():
    parking = DoForTest(name="parking")
    text = to_markdown(
        made(
            OPENED,
            Intended(key=parking.key, action=parking.data()),
            Applied(key=parking.key, evidence={"status": "Inactive"}),
            Reset(keys=[], lost="AKIALOST", reason="nobody holds its secret any more"),
        )
    )

    assert "| do parking | done, not seen yet | status: Inactive | 2026-01-02T03:04:02Z | 2 |" in text
    assert "The secret of AKIALOST was lost" in text
    assert "(record 3)" in text


def test_decisions_are_cited_and_a_closed_case_has_no_next_command():
    text = to_markdown(
        made(
            OPENED,
            Answered(id="incident.severity", answer_key="incident.severity", subject={}, value="exposed"),
            Answered(id="incident.reference", answer_key="incident.reference", subject={}, value="SEC-1234"),
            Answered(id="k", answer_key="keys.strategy", subject={"user": "ci", "id": "AKIA"}, value="keep"),
            Answered(id="o", answer_key="circleci.organizations", subject={}, value=["gh/acme"]),
            planned(),
            Approved(subject="run", digest="sha256:1", by="typed", host="h"),
            Done(step="a_step"),
            Sealed(outcome="done", exit_code=0),
        )
    )

    for row in (
        "| Severity | exposed | 1 |",
        "| Reference | SEC-1234 | 2 |",
        "| keys.strategy | user: ci; id: AKIA | keep | 3 |",
        '| circleci.organizations | - | \\["gh/acme"\\] | 4 |',
        "| run | typed | h | sha256:1 | 2026-01-02T03:04:06Z | 6 |",
        "| A step | containment | done | 0 of 0 | 2026-01-02T03:04:07Z | 7 |",
        "| Outcome | done | 8 |",
        "Everything that was planned is settled (record 8).",
    ):
        assert row in text
    assert "Next:" not in text


def test_not_having_looked_is_not_the_same_as_nothing_missing():
    hole = Hole(what="variables", where="gh/acme/web", why="HTTP403")

    assert "Unknown: this report was made without the inventory" in to_markdown(made(OPENED, planned()))
    assert "Everything that was to be read was read (record 1)." in to_markdown(made(OPENED, planned(), holes=()))
    text = to_markdown(made(OPENED, planned(), holes=[hole]))
    assert "INCOMPLETE: 1 thing(s) were not read, so this is no all-clear (record 1)." in text
    assert "| variables | gh/acme/web | HTTP403 |" in text


# --- A whole rehearsal ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "case"
    subprocess.run(
        [sys.executable, "-m", "playbook", "rehearse", "--batch", "--case", str(folder)],
        cwd=ROOT, check=True, capture_output=True, timeout=120, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    return folder


def tokens(text):
    for token in PARSER.parse(text):
        yield token
        yield from token.children or ()


def rows(text):
    """Every table row of the document, as the texts of its cells."""
    cells, found = [], []
    for token in PARSER.parse(text):
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append("".join(child.content for child in token.children))
        elif token.type == "tr_close":
            found.append(list(cells))
    return found


def test_every_prefix_of_a_journal_is_reported_and_nothing_is_claimed_that_it_does_not_say(rehearsed):
    records = journal.read(rehearsed).records
    verified = {}
    claims = 0
    for length in range(1, len(records) + 1):
        record = records[length - 1]
        if isinstance(record, Verified):
            verified[record.key] = record.seq
        if length % 5 and length != len(records):
            continue
        prefix = from_state(journal.fold(records[:length]), PLAYBOOK, folder=str(rehearsed), head="h")
        for action in (action for step in prefix.steps for action in step.actions):
            claims += 1
            assert action.record is not None
            assert action.record < length
            assert (action.status == "verified") == (action.key in verified)
            if action.status == "verified":
                assert action.record == verified[action.key]
        for key in prefix.keys:
            assert (key.old_is == "off") == (
                f"iam:deactivate-access-key:{key.account}/{key.user}/{key.old_key}" in verified
            )
            assert all(number < length for number in key.records)
        assert (prefix.outcome is None) == (length < len(records))
        cited = [int(cells[-1]) for cells in rows(to_markdown(prefix)) if cells[-1].isdigit()]
        assert cited
        assert max(cited) < length
        assert json.loads(to_json(prefix))["schema"] == 1
    print(f"{len(records)} records, {claims} claims checked against the records that they cite")


def test_the_report_of_a_finished_rehearsal_reads_as_one(rehearsed):
    recovered = journal.read(rehearsed)
    text = to_markdown(
        from_state(journal.fold(recovered.records), PLAYBOOK, folder=str(rehearsed), head=recovered.head)
    )

    assert "REHEARSAL" in text.split("\n")[2]
    assert [line for line in text.split("\n") if line.startswith("## ")] == [
        f"## {name}" for name in ("Where it stands", "Keys", "Completeness", "Findings", "Steps", "Decisions")
    ]
    assert recovered.head in text
    assert text.count("| off | AKIA") == 4
    assert "\n\n\n" not in text
    assert max(len(row) for row in rows(text)) == 7
    assert text.endswith("\n")


# --- Hostile names --------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(max_size=40), st.text("a_*`[]()<>|~&!#:/w.\\$ -+=1)\n", max_size=30), st.just(HOSTILE)))
def test_any_name_in_a_cell_means_itself(text):
    document = f"| x | y |\n|---|---|\n| a {escape(text)} b | z |\n"

    parsed = [token for token in tokens(document) if token.type not in {"inline", "text"}]
    assert {token.type.rsplit("_", 1)[0] for token in parsed} == {"table", "thead", "tbody", "tr", "th", "td"}
    cells = rows(document)[1]
    shown = display(text, 10**6) if text else "unknown"
    assert cells == [f"a {shown} b", "z"]


def test_addresses_are_not_made_into_links():
    # GitHub links bare addresses too, which the parser of the tests does not.
    assert escape("see https://evil and www.evil.example") == "see https\\://evil and www\\.evil.example"


def test_a_hostile_name_in_every_field_changes_nothing_about_the_document():
    def filled(cls):
        values = {}
        for item in fields(cls):
            if item.name in {"evidence", "subject"}:
                values[item.name] = {HOSTILE: HOSTILE, "list": [HOSTILE, {"x": HOSTILE}]}
            elif item.name in {"record", "finished", "total"}:
                values[item.name] = 1
            elif item.name in {"changes", "destroys"}:
                values[item.name] = True
            elif item.name == "records":
                values[item.name] = (1, 2)
            elif item.name == "places":
                values[item.name] = (filled(report.ReportedPlace),)
            elif item.name == "actions":
                values[item.name] = (filled(report.ReportedAction),)
            else:
                values[item.name] = HOSTILE
        return cls(**values)

    document = CaseReport(
        case=HOSTILE, mode=HOSTILE, tool=HOSTILE, host=HOSTILE, opened_at=HOSTILE, last_at=HOSTILE, outcome=HOSTILE,
        head=HOSTILE, next_command=HOSTILE,
        severity=filled(report.ReportedAnswer), reference=filled(report.ReportedAnswer),
        keys=(filled(report.ReportedKey),), steps=(filled(report.ReportedStep),), waiting=(filled(report.WaitingLane),),
        findings=(filled(report.ReportedFinding),), holes=(filled(Hole),), also=(filled(report.ReportedAction),),
        lost=(filled(report.LostSecret),), answers=(filled(report.ReportedAnswer),),
        approvals=(filled(report.ReportedApproval),),
    )  # fmt: skip
    tame = json.loads(to_json(document).replace(json.dumps(HOSTILE)[1:-1], "name"))
    text = to_markdown(document)

    found = {token.type for token in tokens(text)}
    assert not found & {
        "link_open",
        "image",
        "html_inline",
        "html_block",
        "code_inline",
        "code_block",
        "fence",
        "em_open",
    }
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e]", text)
    assert text.count("\n# ") == 0
    assert len([token for token in PARSER.parse(text) if token.type == "heading_open"]) == 9
    shape = [len(cells) for cells in rows(text)]
    assert shape == [len(cells) for cells in rows(to_markdown(_tame(document)))]
    assert to_json(document).isascii()
    assert json.loads(to_json(document))["case"] == HOSTILE
    assert tame["case"] == "name"


def _tame(value):
    """The same report with a harmless name in every place."""
    if value == HOSTILE:
        return "name"
    if isinstance(value, tuple | list):
        return tuple(_tame(item) for item in value)
    if isinstance(value, dict):
        return {_tame(name): _tame(item) for name, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{item.name: _tame(getattr(value, item.name)) for item in fields(value)})
    return value


def test_observed_reasons_reach_the_report():
    action = DoForTest(name="x")
    seen = Observed(key=action.key, status="conflict", reason="somebody wrote it")

    assert made(OPENED, planned("x"), seen).waiting[0].reason == "somebody wrote it"
