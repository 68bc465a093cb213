"""What is recorded is not asked; what is asked is recorded before it counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbook.errors import JournalWriteError, MissingAnswerError, UsageError
from playbook.model import Choice, Question, Recourse, Recovery
from playbook.operators.transcript import Transcript

CHOICES = (Choice(value="a", title="A"), Choice(value="b", title="B"))


def question(identity="q", kind=str, **more):
    return Question(id=identity, prompt="?", kind=kind, answer_key="x.y", **more)


class Scripted:
    """Gives prepared answers, fails on any question that was not expected, and says what was left."""

    def __init__(self, **answers):
        self.answers = answers
        self.together = []

    def answer(self, asked):
        return self.answers.pop(asked.id)

    def answer_all(self, asked):
        self.together.append([item.id for item in asked])
        return [self.answers.pop(item.id) for item in asked]

    def approve(self, plan):
        return plan == "yes"

    def lost_secret(self, action, switched, unswitched):
        return (action, switched, unswitched)

    def recourse(self, trouble):
        return trouble


def test_a_recorded_answer_is_not_asked_again():
    transcript = Transcript(Scripted(), {"q": "a", "t": ["x", "y"], "f": False, "n": 0}, pytest.fail)

    assert transcript.answer(question()) == "a"
    assert transcript.answer(question("t", tuple)) == ("x", "y")
    assert transcript.answer(question("f", bool)) is False
    assert transcript.answer(question("n", int)) == 0


def test_a_new_answer_is_recorded_once_and_before_it_is_returned():
    recorded = []
    inner = Scripted(q=("a", "b"))
    transcript = Transcript(inner, {}, lambda asked, value: recorded.append((asked.id, value)))

    assert transcript.answer(question(kind=tuple)) == ("a", "b")
    assert transcript.answer(question(kind=tuple)) == ("a", "b")
    assert recorded == [("q", ["a", "b"])]
    assert inner.answers == {}


def test_an_answer_that_could_not_be_recorded_is_not_given():
    def full(_asked, _value):
        raise JournalWriteError("the disk is full", remedy="make room")

    transcript = Transcript(Scripted(q="a"), {}, full)

    with pytest.raises(JournalWriteError):
        transcript.answer(question())
    with pytest.raises(KeyError):
        transcript.answer(question())


@pytest.mark.parametrize("stale", ["gone", 3, None, ["a"], ""])
def test_a_recorded_answer_that_is_no_longer_valid_is_asked_afresh(stale):
    recorded = []
    transcript = Transcript(Scripted(q="b"), {"q": stale}, lambda asked, value: recorded.append(value))

    assert transcript.answer(question(choices=CHOICES)) == "b"
    assert recorded == ["b"]


def test_only_the_open_ones_of_a_table_are_asked_and_they_keep_their_places():
    inner = Scripted(q1="a", q3="b")
    recorded = []
    transcript = Transcript(
        inner, {"q0": "b", "q2": "a", "q3": "stale"}, lambda asked, value: recorded.append(asked.id)
    )

    assert transcript.answer_all([question(f"q{number}", choices=CHOICES) for number in range(4)]) == list("baab")
    assert inner.together == [["q1", "q3"]]
    assert recorded == ["q1", "q3"]
    assert transcript.answer_all([question("q1", choices=CHOICES)]) == ["a"]
    assert len(inner.together) == 1


def test_an_operator_that_answers_nonsense_is_not_recorded():
    transcript = Transcript(Scripted(q="c"), {}, pytest.fail)

    with pytest.raises(UsageError):
        transcript.answer(question(choices=CHOICES))


def test_a_missing_answer_passes_through():
    class Silent(Scripted):
        def answer(self, asked):
            raise MissingAnswerError("missing", answer_key=asked.answer_key, remedy="add it")

    with pytest.raises(MissingAnswerError):
        Transcript(Silent(), {}, pytest.fail).answer(question())


def test_everything_else_is_asked_every_time():
    transcript = Transcript(Scripted(), {}, pytest.fail)

    assert transcript.approve("yes")
    assert not transcript.approve("no")
    assert transcript.lost_secret(1, [2], [3]) == (1, [2], [3])
    assert transcript.recourse(Recourse.SKIP) is Recourse.SKIP
    assert Recovery.STOP.value == "stop"


_kinds = {
    str: st.text(min_size=1, max_size=9).filter(lambda text: text.strip()),
    bool: st.booleans(),
    int: st.integers(0, 99),
    tuple: st.lists(st.text("abc", min_size=1), min_size=1, max_size=4).map(tuple),
}


@given(data=st.data(), kind=st.sampled_from(list(_kinds)))
def test_answers_survive_a_crash(data, kind):
    value = data.draw(_kinds[kind])
    journal = {}
    asked = question(kind=kind)

    Transcript(Scripted(q=value), {}, lambda item, plain: journal.update({item.id: plain})).answer(asked)
    resumed = Transcript(Scripted(), json.loads(json.dumps(journal)), pytest.fail)

    assert resumed.answer(asked) == value
    assert resumed.answer_all([asked]) == [value]
