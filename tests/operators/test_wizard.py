"""The wizard at a keyboard of bytes: what it asks, what it shows, and what it takes for a yes."""

from __future__ import annotations

import io
import os
import pty
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from playbook.errors import UsageError
from playbook.model import Action, Choice, Finding, Observation, Plan, Question, Recourse, Recovery, Status, Trouble
from playbook.operators import tables
from playbook.operators.prompts import Prompts, Terminal, open_terminal
from playbook.operators.wizard import Wizard, _rows, ask_secret, console_to_stderr
from playbook.ports import display
from playbook.secret import Secret

ENTER, DOWN, SPACE, CTRL_C, CTRL_D, CTRL_A, CTRL_K = "\r", "\x1b[B", " ", "\x03", "\x04", "\x01", "\x0b"
STRATEGIES = tuple(Choice(value=name, title=f"{name} - it") for name in ("replace", "contain", "deactivate", "keep"))
HOSTILE = "a\x1b]52;c;cHduZWQ=\x07\x1b[31m\u202egnp\u200b\x9b2J[/red]\r\n"


@dataclass(frozen=True, kw_only=True)
class ChangeForTest(Action):
    kind: ClassVar[str] = "test-wizard:change"
    name: str
    place: str = "123456789012/ci-deploy"

    @property
    def key(self):
        return f"{self.kind}:{self.name}"

    @property
    def lane(self):
        return self.place

    def describe(self):
        return self.name

    def observe(self, view):
        return Observation(status=Status.ABSENT)

    def apply(self, world):
        return {}


@dataclass(frozen=True, kw_only=True)
class DestroyForTest(ChangeForTest):
    kind: ClassVar[str] = "test-wizard:destroy"
    destroys: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class CheckForTest(ChangeForTest):
    kind: ClassVar[str] = "test-wizard:check"
    changes: ClassVar[bool] = False


PLAN = Plan(
    step="run",
    actions=(
        ChangeForTest(name="create a new access key for ci-deploy in 123456789012, in place of AKIAIOSFODNN7EXAMPLE"),
        CheckForTest(name="prove the new key at STS"),
        DestroyForTest(name="write the new key into context deploy", place="circleci:context/1/AWS_ACCESS_KEY_ID"),
        DestroyForTest(name="deactivate AKIAIOSFODNN7EXAMPLE of ci-deploy in 123456789012"),
    ),
    findings=(
        Finding(level="danger", text="the root user has keys"),
        Finding(level="note", text="to be deleted", due_at="2023-01-05"),
    ),
)


class Desk:
    """A wizard at a keyboard: each prompt gets the next keys, but only once it stands there."""

    def __init__(self, keyboard, *, width=80):
        self.keyboard = keyboard
        self.keys = []
        self.prompts = 0
        self.paper = io.StringIO()
        console = Console(file=self.paper, width=width, markup=False, highlight=False, emoji=False)
        self.wizard = Wizard(console=console, prompts=Prompts(self.open))

    def open(self):
        return Terminal(input=self.keyboard, output=DummyOutput(), discard_typed=self.begin)

    def begin(self):
        clear_typeahead(self.keyboard)
        self.prompts += 1
        self.keyboard.send_text(self.keys.pop(0))

    def type(self, *keys):
        self.keys = list(keys)
        return self.wizard

    @property
    def shown(self):
        return self.paper.getvalue()


@pytest.fixture
def desk():
    with create_pipe_input() as keyboard:
        made = Desk(keyboard)
        yield made
        assert made.keys == [], "the wizard asked less than it was to"


def question(number=0, **more):
    fields = {
        "id": f"keys.strategy:{number}",
        "prompt": "What becomes of it?",
        "kind": str,
        "answer_key": "keys.strategy",
        "choices": STRATEGIES,
        "proposal": "replace",
        "detail": {"user": f"ci-{number}", "key": f"AKIAIOSFODNN7EXA{number:04}"},
    }
    return Question(**(fields | more))


# --- One question ---------------------------------------------------------------------------------------------------


def test_enter_takes_the_proposal_and_arrows_take_another(desk):
    assert desk.type(ENTER).answer(question()) == "replace"
    assert desk.type(DOWN + ENTER).answer(question()) == "contain"
    assert desk.type(ENTER).answer(question(proposal="keep")) == "keep"
    assert desk.type(ENTER).answer(question(proposal=None, default="deactivate")) == "deactivate"
    assert "AKIAIOSFODNN7EXA0000" in desk.shown


def test_a_proposal_that_is_no_choice_is_not_preselected(desk):
    assert desk.type(ENTER).answer(question(proposal="gone")) == "replace"


def test_an_open_question_takes_a_choice_or_a_typed_text_that_fits(desk):
    asked = question(answer_key="variables.value_from", choices=STRATEGIES[3:], open_choices=True, proposal="keep")

    assert desk.type(ENTER).answer(asked) == "keep"
    # What does not fit is not taken: the prompt stays until it does.
    typed = "hunter2" + ENTER + CTRL_A + CTRL_K + "env:NEW_TOKEN" + ENTER
    assert desk.type(DOWN + ENTER, typed).answer(asked) == "env:NEW_TOKEN"


def test_several_choices_are_ticked_and_none_is_refused(desk):
    asked = question(
        kind=tuple,
        answer_key="circleci.organizations",
        choices=tuple(Choice(value=f"gh/{name}", title=name) for name in "abc"),
        proposal=("gh/a",),
    )

    assert desk.type(ENTER).answer(asked) == ("gh/a",)
    assert desk.type(DOWN + SPACE + ENTER).answer(asked) == ("gh/a", "gh/b")
    assert desk.type(SPACE + ENTER + DOWN + DOWN + SPACE + ENTER).answer(asked) == ("gh/c",)


def test_an_open_list_takes_other_names_too(desk):
    asked = question(
        kind=tuple,
        answer_key="circleci.organizations",
        choices=(Choice(value="gh/a", title="a"),),
        proposal=("gh/a",),
        open_choices=True,
    )

    assert desk.type(DOWN + SPACE + ENTER, "gh/x, gh/y" + ENTER).answer(asked) == ("gh/a", "gh/x", "gh/y")
    assert desk.type("gh/z" + ENTER).answer(question(kind=tuple, answer_key="x.y", choices=())) == ("gh/z",)


def test_too_many_choices_are_narrowed_first(desk):
    asked = question(
        kind=tuple,
        answer_key="circleci.organizations",
        choices=tuple(Choice(value=f"gh/org-{number:03}", title=f"gh/org-{number:03}") for number in range(100)),
        proposal=None,
    )
    narrowed = "nothing" + ENTER + CTRL_A + CTRL_K + "org" + ENTER + CTRL_A + CTRL_K + "ORG-09" + ENTER

    assert desk.type(narrowed, SPACE + DOWN + SPACE + ENTER).answer(asked) == ("gh/org-090", "gh/org-091")


def test_a_bool_needs_a_key_and_enter_and_enter_alone_is_no(desk):
    asked = question(kind=bool, answer_key="keys.canary", choices=(), proposal=True)

    assert desk.type(ENTER).answer(asked) is False
    assert desk.type("y" + ENTER).answer(asked) is True
    assert desk.type("yn" + ENTER).answer(asked) is False


def test_a_number_and_a_text_are_checked_while_they_are_typed(desk):
    hours = question(kind=int, answer_key="keys.grace_hours", choices=(), proposal=None, default=24)
    reason = question(answer_key="keys.reason", choices=(), proposal=None)

    assert desk.type(ENTER).answer(hours) == 24
    again = CTRL_A + CTRL_K
    assert desk.type(again + "-5" + ENTER + again + "9999999999999" + ENTER + again + "48" + ENTER).answer(hours) == 48
    assert desk.type(" " + ENTER + "it is not used" + ENTER).answer(reason) == "it is not used"


def test_pasted_newlines_do_not_end_up_in_a_text(desk):
    asked = question(answer_key="keys.reason", choices=(), proposal=None)

    assert desk.type("\x1b[200~two\nlines\n\x1b[201~" + ENTER).answer(asked) == "two lines"


def test_a_secret_is_taken_hidden_and_without_the_newline_that_ends_a_paste(desk):
    secret = ask_secret("New value (hidden):", prompts=desk.type(ENTER + "\x1b[200~tok123\n\x1b[201~" + ENTER)._prompts)

    assert isinstance(secret, Secret)
    assert secret.is_same_as(Secret("tok123"))
    assert "tok123" not in desk.shown


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_ctrl_c_and_ctrl_d_interrupt(desk, key):
    with pytest.raises(KeyboardInterrupt):
        desk.type(key).answer(question(answer_key="keys.reason", choices=(), proposal=None))


def test_ctrl_c_interrupts_every_kind_of_prompt(desk):
    for more in ({}, {"kind": bool, "choices": ()}, {"kind": tuple}, {"kind": int, "choices": ()}):
        with pytest.raises(KeyboardInterrupt):
            desk.type(CTRL_C).answer(question(**({"answer_key": "x.y", "proposal": None} | more)))
    with pytest.raises(KeyboardInterrupt):
        ask_secret("?", prompts=desk.type(CTRL_C)._prompts)


def test_a_prompt_leaves_the_handler_of_sigint_as_it_was(desk):
    def mine(_number, _frame):
        pass

    before = signal.signal(signal.SIGINT, mine)
    try:
        desk.type(ENTER).answer(question())
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


# --- A table of questions -------------------------------------------------------------------------------------------


def test_a_table_is_accepted_as_proposed(desk):
    assert desk.type(ENTER).answer_all([question(number) for number in range(5)]) == ["replace"] * 5
    assert desk.prompts == 1
    assert "5 rows: 5 replace" in desk.shown
    assert all(f"AKIAIOSFODNN7EXA{number:04}" in desk.shown for number in range(5))


def test_one_row_and_several_rows_are_changed(desk):
    keys = (DOWN + ENTER, "2" + ENTER, DOWN + ENTER, DOWN * 2 + ENTER, "4, 3-4" + ENTER, DOWN * 3 + ENTER, ENTER)

    answers = desk.type(*keys).answer_all([question(number) for number in range(5)])

    assert answers == ["replace", "contain", "keep", "keep", "replace"]
    assert "contain (changed)" in desk.shown
    assert "5 rows: 2 replace, 2 keep, 1 contain" in desk.shown


def test_rows_that_there_are_not_are_refused_while_they_are_typed(desk):
    again = CTRL_A + CTRL_K
    typed = "0" + ENTER + again + "4" + ENTER + again + "1,2" + ENTER + again + "x" + ENTER + again + "3" + ENTER

    answers = desk.type(DOWN + ENTER, typed, DOWN + ENTER, ENTER).answer_all([question(n) for n in range(3)])

    assert answers == ["replace", "replace", "contain"]


def test_open_rows_must_be_answered_before_the_table_is_accepted(desk):
    asked = [question(0), question(1, proposal=None), question(2, proposal=None)]

    answers = desk.type(ENTER, ENTER, DOWN + ENTER, ENTER).answer_all(asked)

    assert answers == ["replace", "replace", "contain"]
    assert "3 rows: 2 ?, 1 replace" in desk.shown


def test_one_answer_for_several_rows_is_asked_again_where_it_does_not_fit(desk):
    asked = [question(0), question(1, choices=STRATEGIES[2:], proposal="keep")]

    answers = desk.type(DOWN * 2 + ENTER, "1-2" + ENTER, DOWN + ENTER, ENTER, ENTER).answer_all(asked)

    assert answers == ["contain", "keep"]


def test_a_long_table_is_not_printed_again_unless_asked_for(desk):
    asked = [question(number) for number in range(200)]
    keys = (DOWN + ENTER, "150" + ENTER, DOWN + ENTER, DOWN * 3 + ENTER, ENTER)

    answers = desk.type(*keys).answer_all(asked)

    assert answers[149] == "contain"
    assert desk.shown.count("AKIAIOSFODNN7EXA0007") == 2
    assert desk.shown.count("AKIAIOSFODNN7EXA0149") == 4


def test_a_single_question_is_simply_asked(desk):
    assert desk.type(ENTER).answer_all([question()]) == ["replace"]
    assert desk.wizard.answer_all([]) == []


@given(text=st.text(st.sampled_from("0123456789,- "), max_size=12), count=st.integers(1, 30))
def test_rows_are_sorted_unique_in_range_and_written_in_full(text, count):
    rows = _rows(text, count)

    assert rows == sorted(set(rows) & set(range(count)))
    assert _rows(", ".join(str(row + 1) for row in rows), count) == rows


# --- Decisions ------------------------------------------------------------------------------------------------------


def test_only_the_typed_number_of_changes_is_a_yes(desk):
    assert desk.type("3" + ENTER).approve(PLAN) is True
    for typed in ("", "y", "yes", "2", "4", "33", "3.", "three", "0"):
        assert desk.type(typed + ENTER).approve(PLAN) is False
    with pytest.raises(KeyboardInterrupt):
        desk.type("3" + CTRL_C).approve(PLAN)


def test_a_plan_without_changes_is_approved_without_a_question(desk):
    assert desk.wizard.approve(Plan(step="s"))
    assert desk.wizard.approve(Plan(step="s", actions=(CheckForTest(name="look"),), findings=PLAN.findings))
    assert desk.prompts == 0
    assert "the root user has keys" in desk.shown


@pytest.mark.parametrize(("width", "lines"), [(80, 13), (140, 12)])
def test_the_plan_is_shown_in_order_with_what_it_destroys_in_words(desk, width, lines):
    desk.wizard._console = Console(file=desk.paper, width=width, markup=False, highlight=False)

    desk.type("3" + ENTER).approve(PLAN)

    shown = [line.rstrip() for line in desk.shown.splitlines()]
    assert max(map(len, shown)) <= width
    assert len(shown) == lines
    folded = " ".join(desk.shown.split())
    for text in (
        "1 change create a new access key for ci-deploy in 123456789012, in place of AKIAIOSFODNN7EXAMPLE",
        "check prove the new key at STS 2 DESTROYS deactivate AKIAIOSFODNN7EXAMPLE",
        "3 DESTROYS write the new key into context deploy",
        "note to be deleted (due 2023-01-05) DANGER the root user has keys",
        "3 changes in 2 places. Nothing of this plan was done yet.",
    ):
        assert text in folded
    assert shown[-1] == "2 of them end or overwrite something that may work: DESTROYS, above."


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_lost_secret_is_settled_by_a_typed_word_alone(desk, recovery):
    typed = ENTER + "y" + ENTER + CTRL_A + CTRL_K + recovery.value + ENTER
    switched = [DestroyForTest(name=f"write into sink-{number}") for number in range(25)]

    chosen = desk.type(typed).lost_secret(PLAN.actions[0], switched, [DestroyForTest(name="write into last")])

    assert chosen is recovery
    folded = " ".join(desk.shown.split())
    assert "hold the new key (25)" in folded
    assert "hold the old key (1)" in folded
    assert "write into sink-0; write into sink-1;" in folded
    assert "and 5 more" in folded
    assert "write into last" in folded


def test_enter_alone_leaves_a_lane_waiting(desk):
    trouble = Trouble(action=PLAN.actions[3], reason="denied", remedy="ask", still_on="both keys", failed=True)

    assert desk.type(ENTER).recourse(trouble) is Recourse.ABORT
    assert desk.type(DOWN + ENTER).recourse(trouble) is Recourse.RETRY
    assert desk.type(DOWN * 2 + ENTER).recourse(trouble) is Recourse.SKIP
    assert all(text in desk.shown for text in ("denied", "both keys", "ask", "This failed."))


# --- What is shown --------------------------------------------------------------------------------------------------


def rendered(renderable, width):
    paper = io.StringIO()
    Console(file=paper, width=width, markup=False, highlight=False, emoji=False).print(renderable)
    return paper.getvalue()


FULL = [
    question(
        number,
        detail={
            "account": "123456789012",
            "user": f"ci-deploy-{number}",
            "key": f"AKIAIOSFODNN7EXA{number:04}",
            "status": "Active",
            "last used": "2023-01-02",
            "stored in": "deploy-production:AWS_ACCESS_KEY_ID, gh/acme/web:AWS_ACCESS_KEY_ID",
            "confidence": "strong",
        },
    )
    for number in range(2)
]


def shown(asked, answers, width):
    table = tables.questions(asked, answers, range(len(asked)), width=width)
    return "".join(f"{line.rstrip()}\n" for line in rendered(table, width).splitlines())


AT_118 = """\
#  user         key                   last used   stored in                                 confidence  answer
1  ci-deploy-0  AKIAIOSFODNN7EXA0000  2023-01-02  deploy-production:AWS_ACCESS_KEY_ID,      strong      replace
                                                  gh/acme/web:AWS_ACCESS_KEY_ID
2  ci-deploy-1  AKIAIOSFODNN7EXA0001  2023-01-02  deploy-production:AWS_ACCESS_KEY_ID,      strong      keep (changed)
                                                  gh/acme/web:AWS_ACCESS_KEY_ID
"""
AT_80 = """\
#  what                                                                  answer

1  account 123456789012 - user ci-deploy-0 - key AKIAIOSFODNN7EXA0000    replace
   status Active - last used 2023-01-02
   stored in deploy-production:AWS_ACCESS_KEY_ID,
   gh/acme/web:AWS_ACCESS_KEY_ID
   confidence strong

2  account 123456789012 - user ci-deploy-1 - key AKIAIOSFODNN7EXA0001    ?
   status Active - last used 2023-01-02
   stored in deploy-production:AWS_ACCESS_KEY_ID,
   gh/acme/web:AWS_ACCESS_KEY_ID
   confidence strong
"""


def test_the_table_of_keys_is_a_row_a_key_where_there_is_room_and_lines_where_there_is_none():
    narrow = [
        replace(item, detail={name: text for name, text in item.detail.items() if name not in {"account", "status"}})
        for item in FULL
    ]

    assert shown(FULL, ["replace", None], 80) == AT_80
    assert len(shown(FULL, ["replace", "keep"], 140).splitlines()) == 5
    assert shown(narrow, ["replace", "keep"], 118) == AT_118


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(name=_names, other=_names, width=st.sampled_from([20, 40, 80, 140]))
def test_no_name_is_cut_and_none_acts_on_the_terminal(name, other, width):
    asked = [
        question(answer_key="x.y", choices=(), detail={"user": name + "x", "place": other}, proposal=other or None)
    ]
    plan = Plan(
        step="s",
        actions=(DestroyForTest(name=name, place=other),),
        findings=(Finding(level=other, text=name, due_at=other),),
    )
    for renderable in (
        tables.questions(asked, [other or None], [0], width=width),
        tables.plan(plan),
        tables.findings(plan.findings),
        tables.facts({"what": name + "x"}),
    ):
        text = rendered(renderable, width)
        assert display(text.replace("\n", ""), 10**6) == text.replace("\n", "")
    shown = "".join(rendered(tables.facts({"what": name + "x"}), 80).split())
    assert "".join(display(name, 10**6).split()) in shown


def test_a_hostile_name_does_nothing_anywhere(desk):
    asked = question(prompt=HOSTILE, detail={"user": HOSTILE}, choices=(Choice(value="replace", title=HOSTILE),))
    plan = Plan(
        step="s",
        actions=(DestroyForTest(name=HOSTILE, place=HOSTILE),),
        findings=(Finding(level="note", text=HOSTILE),),
    )
    trouble = Trouble(action=plan.actions[0], reason=HOSTILE, remedy=HOSTILE, still_on=HOSTILE)
    keys = (ENTER, ENTER, "no" + ENTER, "stop" + ENTER, ENTER)
    wizard = desk.type(*keys)

    wizard.answer(asked)
    wizard.answer_all([asked, asked])
    wizard.approve(plan)
    wizard.lost_secret(plan.actions[0], plan.actions, plan.actions)
    wizard.recourse(trouble)

    for character in ("\x1b", "\x07", "\x9b", "\u202e", "\u200b", "\r"):
        assert character not in desk.shown
    assert "[/red]" in desk.shown


# --- The terminal ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_nothing_is_asked(monkeypatch):
    for stream in (io.StringIO("3\n"), None):
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(UsageError, match="no terminal") as caught:
            Wizard(console=Console(file=io.StringIO())).approve(PLAN)
        assert "--batch" in caught.value.remedy
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    with pytest.raises(UsageError):
        open_terminal()


def test_what_was_typed_early_answers_nothing(monkeypatch):
    """At a real terminal: `3` and Enter typed too early, which would approve the plan, are thrown away."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")
    heard = bytearray()

    def person():
        for wanted, keys in ((b"What becomes", b"\r3\r"), (b"Type 3", b"no\r")):
            while wanted not in heard:
                heard.extend(os.read(ours, 4096))
            os.write(ours, keys)
        while b"never" not in heard:
            heard.extend(os.read(ours, 4096))

    with os.fdopen(theirs, "r+b", buffering=0) as raw, io.TextIOWrapper(raw, write_through=True) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        wizard = Wizard(console=Console(file=io.StringIO()))
        typist = threading.Thread(target=person, daemon=True)
        typist.start()
        os.write(ours, b"\x1b[B\r")
        time.sleep(0.05)

        assert wizard.answer(question()) == "replace"
        assert wizard.approve(PLAN) is False
        terminal.write("never\n")
        typist.join(5)
    os.close(ours)
    assert not typist.is_alive()


def test_talk_goes_to_stderr(capsys):
    console_to_stderr().print("[bold]hello[/bold] :smile:")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[bold]hello[/bold] :smile:\n"
