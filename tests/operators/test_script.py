"""The answers file as an operator."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import ClassVar, get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from playbook.errors import MissingAnswerError, UsageError
from playbook.model import Action, Choice, Observation, Plan, Question, Recourse, Recovery, Status, Trouble
from playbook.operators import answers_file
from playbook.operators.answers_file import ALLOWED, LINE_MAX, SIZE_MAX, AnswersFile, dump, parse, read
from playbook.operators.script import Script
from playbook.operators.validity import allowed, fit
from playbook.ports import Waits, display

WHOLE = """
[incident]
reference = "SEC-1234"
severity = "exposed"
exposed_from = 2022-12-21T00:00:00Z
exposed_until = 2023-01-04T23:59:59+02:00

[circleci]
organizations = ["gh/acme"]

[[keys]]
match = { user = "ci-*", account = "123456789012" }
strategy = "replace"
old_key = "deactivate"
grace_hours = 24
delete_after_grace = false
canary = true
reason = "..."
min_confidence = "strong"
on_lost_secret = "recreate"

[[keys]]
match = {}
strategy = "keep"

[[variables]]
match = { name = "NPM_TOKEN" }
value_from = "env:NEW_NPM_TOKEN"

[[variables]]
match = { project = "gh/acme/*" }
value_from = 'command:["op", "read", "op://vault/\\"x\\""]'
reason = "asked"

[waits]
proof = 0
patience = 60

[oidc]
role_name = "circleci-{project}"
[approve]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
"""
STRATEGIES = tuple(Choice(value=name, title=name) for name in ("replace", "contain", "deactivate", "keep"))


def ask_strategy(user="ci-bot", account="123456789012", key_id="AKIA1", **changes):
    question = Question(
        id=f"keys.strategy:{account}/{user}/{key_id}",
        prompt="?",
        kind=str,
        answer_key="keys.strategy",
        subject={"user": user, "account": account, "id": key_id},
        choices=STRATEGIES,
        proposal="replace",
    )
    return replace(question, **changes)


@dataclass(frozen=True, kw_only=True)
class MintForTest(Action):
    kind: ClassVar[str] = "test-script:mint"
    account: str = "123456789012"
    user: str = "ci-bot"
    old_key_id: str = "AKIA1"

    @property
    def key(self):
        return f"{self.kind}:{self.user}"

    @property
    def lane(self):
        return self.user

    def describe(self):
        return f"mint for {self.user}"

    def observe(self, view):
        return Observation(status=Status.ABSENT)

    def apply(self, world):
        return {}


def test_every_key_of_the_design_is_read():
    script = Script(WHOLE)

    def answer(key, kind=str, **subject):
        return script.answer(Question(id=key, prompt="?", kind=kind, answer_key=key, subject=subject))

    ci = {"user": "ci-deploy", "account": "123456789012", "id": "AKIA9"}
    assert answer("incident.reference") == "SEC-1234"
    assert answer("incident.exposed_from") == "2022-12-21T00:00:00Z"
    assert answer("incident.exposed_until") == "2023-01-04T21:59:59Z"
    assert answer("circleci.organizations", tuple) == ("gh/acme",)
    assert answer("keys.grace_hours", int, **ci) == 24
    assert answer("keys.delete_after_grace", bool, **ci) is False
    assert answer("keys.canary", bool, **ci) is True
    assert answer("keys.min_confidence", **ci) == "strong"
    assert answer("variables.value_from", name="NPM_TOKEN", context="deploy") == "env:NEW_NPM_TOKEN"
    assert answer("variables.value_from", name="X", project="gh/acme/web").startswith("command:[")
    assert answer("oidc.role_name") == "circleci-{project}"
    assert script.waits == {"proof": 0, "patience": 60}
    assert script.waits_over(Waits()) == replace(Waits(), proof=0, patience=60)
    assert script.approve_digest == "sha256:" + "0" * 64


def test_the_first_match_wins_and_an_absent_name_matches_all():
    script = Script(WHOLE)

    assert script.answer(ask_strategy()) == "replace"
    assert script.answer(ask_strategy(account="999999999999")) == "keep"
    assert script.answer(ask_strategy(user="CI-bot")) == "keep"


def test_a_matched_name_that_the_subject_lacks_does_not_match():
    script = Script('[[variables]]\nmatch = { context = "*" }\nvalue_from = "keep"\n')
    question = Question(
        id="v", prompt="?", kind=str, answer_key="variables.value_from", subject={"name": "A", "project": "gh/a/b"}
    )

    with pytest.raises(MissingAnswerError):
        script.answer(question)


def test_a_missing_answer_names_the_exact_lines_and_those_lines_are_the_remedy():
    question = ask_strategy(user='we"ird[*]\n', key_id="AKIA\x1b[31m")

    with pytest.raises(MissingAnswerError) as caught:
        Script("").answer(question)

    assert caught.value.answer_key == "keys.strategy"
    assert "Nothing was changed" in caught.value.message
    assert "\x1b" not in caught.value.message + caught.value.remedy
    lines = caught.value.remedy.split("\n\n", 1)[1]
    assert Script(lines).answer(question) == "replace"
    with pytest.raises(MissingAnswerError):
        Script(lines).answer(ask_strategy(user='we"ird*\n'))


def test_an_entry_that_matches_but_is_silent_gives_the_default_or_says_which_entry():
    text = '[[keys]]\nmatch = { user = "other" }\n[[keys]]\nmatch = { user = "ci-*" }\nreason = "why"\n'
    said = []

    assert Script(text, say=said.append).answer(ask_strategy(default="keep")) == "keep"
    assert len(said) == 1
    assert "safe default" in said[0]
    assert "ci-bot" in said[0]
    with pytest.raises(MissingAnswerError, match=r"does not say `keys.strategy` for user ci-bot") as caught:
        Script(text).answer(ask_strategy())
    assert 'entry 2 of [[keys]], whose match { user = "ci-*" }' in caught.value.remedy
    assert 'strategy = "replace"  # one of "replace", "contain"' in caught.value.remedy


def test_a_default_is_said_once_though_it_is_asked_in_every_step():
    said = []
    script = Script("", say=said.append)

    for _ in range(3):
        script.answer(ask_strategy(default="keep"))

    assert len(said) == 1


def test_all_missing_answers_of_one_kind_are_named_together():
    questions = [ask_strategy(user=f"user-{number}") for number in range(30)]

    with pytest.raises(MissingAnswerError, match="29 more") as caught:
        Script("").answer_all(questions)

    assert caught.value.remedy.count("[[keys]]") == 20
    assert "and 10 more" in caught.value.remedy


def test_an_answer_that_is_no_choice_is_refused_and_the_allowed_ones_named():
    with pytest.raises(UsageError, match=r"keys.strategy") as caught:
        Script('[[keys]]\nmatch = {}\nstrategy = "oidc"\n').answer(ask_strategy())

    assert caught.value.remedy == 'Use one of "replace", "contain", "deactivate", "keep".'


def test_approval_needs_yes_unless_nothing_changes():
    plan = Plan(step="s", actions=(MintForTest(),))

    assert Script("", yes=True).approve(plan)
    assert not Script("").approve(plan)
    assert not Script(WHOLE).approve(plan)
    assert Script("").approve(Plan(step="s"))


def test_two_different_digests_are_refused():
    with pytest.raises(UsageError, match="two different plans"):
        Script(WHOLE, approve_digest="sha256:" + "1" * 64)
    assert Script("", approve_digest="sha256:" + "1" * 64).approve_digest == "sha256:" + "1" * 64


def test_a_lost_secret_is_settled_by_the_entry_of_the_key():
    said = []

    assert Script(WHOLE, say=said.append).lost_secret(MintForTest(), [MintForTest()], []) is Recovery.REWRITE_SWITCHED
    assert Script("").lost_secret(MintForTest(), [], []) is Recovery.STOP
    assert Script(WHOLE).lost_secret(MintForTest(user="other"), [], []) is Recovery.STOP
    by_id = '[[keys]]\nmatch = { id = "AKIA1" }\non_lost_secret = "recreate"\n'
    assert Script(by_id).lost_secret(MintForTest(), [], []) is Recovery.REWRITE_SWITCHED
    assert "1 place(s) hold the new key" in said[0]


def test_a_lane_in_trouble_is_left_waiting_never_left_out():
    said = []
    trouble = Trouble(action=MintForTest(), reason="it said \x1b[31mno", remedy="look")

    assert Script("", say=said.append).recourse(trouble) is Recourse.ABORT
    assert "\x1b" not in said[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[incidents]\n", ["`incidents`", "incident, circleci, keys, variables, waits, oidc, approve"]),
        ('[incident]\nseverity = "high"\n', ["`incident.severity`", '"confirmed", "exposed" or "routine"']),
        ("[incident]\nexposed_from = 2022-12-21T00:00:00\n", ["`incident.exposed_from`", "2022-12-21T00:00:00Z"]),
        ("[incident]\nexposed_from = 2022-12-21\n", ["`incident.exposed_from`", "offset"]),
        (
            "[incident]\nexposed_from = 2022-12-21T00:00:00Z\nexposed_until = 2022-12-20T00:00:00Z\n",
            ["`incident.exposed_until` is before"],
        ),
        (
            "[incident]\nexposed_from = 0001-01-01T00:00:00+23:59\nexposed_until = 2022-12-20T00:00:00Z\n",
            ["`incident.exposed_until`"],
        ),
        ('[[keys]]\nmatch = { user = "a" }\n[[keys]]\nmatch = {}\ngrace_hours = -1\n', ["`keys[2].grace_hours`"]),
        ("[[keys]]\nmatch = {}\ngrace_hours = true\n", ["`keys[1].grace_hours`", "whole number"]),
        ("[[keys]]\nmatch = {}\ncanary = 1\n", ["`keys[1].canary`", "true or false"]),
        ("[[keys]]\nmatch = {}\nstratgy = 1\n", ["`stratgy`", "`keys[1]`", "strategy, old_key"]),
        ("[[keys]]\nmatch = { name = 'x' }\n", ["`name`", "`keys[1].match`", "user, account, id"]),
        ("[[keys]]\nmatch = { account = 123456789012 }\n", ["`keys[1].match.account`", "quotes"]),
        ("[[keys]]\nstrategy = 'keep'\n", ["`keys[1]`", "lacks `match`", "{} matches every key"]),
        ("keys = 3\n", ["`keys`", "[[keys]]"]),
        ("incident = 3\n", ["`incident`", "[incident]"]),
        ("[waits]\nproof = -1\n", ["`waits`", "0 or more", "silence"]),
        ("[waits]\nproof = 1.5\n", ["`waits`", "whole number"]),
        ("[waits]\nprof = 1\n", ["`waits.prof`", "proof"]),
        ("[circleci]\norganizations = []\n", ["`circleci.organizations`", "at least one"]),
        ("[circleci]\norganizations = 'gh/acme'\n", ["`circleci.organizations`", "list"]),
        ("[[variables]]\nmatch = {}\nvalue_from = 'command:rm -rf'\n", ["`variables[1].value_from`", "command:["]),
        ("[[variables]]\nmatch = {}\nvalue_from = 'env:A B'\n", ["`variables[1].value_from`", "env:NAME"]),
        ("[[variables]]\nmatch = {}\nvalue_from = 'command:[1]'\n", ["`variables[1].value_from`"]),
        ("[approve]\ndigest = 'yes'\n", ["`approve.digest`", "64 hexadecimal"]),
        ("[incident\n", ["no valid TOML", "line 1"]),
        ("a = 1\na = 2\n", ["no valid TOML"]),
        (f"a = {'9' * 3999}{'9' * 90}", ["`a`", "answers file"]),
        ("a = " + "[" * 3000, ["no valid TOML"]),
        ("x." * 3000 + "x = 1", [f"longer than {LINE_MAX}"]),
        ("#" * 10 + "\n# x" * (SIZE_MAX // 4), ["larger than 1 MiB"]),
        ("# \U0001f511" + "\n# \U0001f511" * (SIZE_MAX // 7), ["larger than 1 MiB"]),
    ],
)
def test_what_is_wrong_is_a_sentence_that_names_the_key_and_what_is_allowed(text, names):
    with pytest.raises(UsageError) as caught:
        parse(text)

    said = f"{caught.value.message} {caught.value.remedy}"
    assert caught.value.exit_code == 2
    assert "Nothing was changed." in said
    for name in names:
        assert name in said


def test_a_secret_pasted_into_the_wrong_key_is_not_printed():
    secret = "npm_0123456789abcdefghijklmnopqrstuvwxyz"
    for text in (
        f'[[variables]]\nmatch = {{}}\nvalue_from = "{secret}"\n',
        f'[incident]\nseverity = "{secret}"\n',
        f"[[variables]]\nmatch = {{}}\nvalue_from = {secret}\n",
        f'[[variables]]\nmatch = {{}}\nvalue_from = "{secret}\n',
        f'[approve]\ndigest = "{secret}"\n',
    ):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert secret not in f"{caught.value.message} {caught.value.remedy} {caught.value!r}"


def test_the_words_for_people_and_the_schema_name_the_same_keys():
    found = set()
    for table in ("incident", "circleci", "oidc", "approve"):
        hints = get_type_hints(get_type_hints(AnswersFile)[table])
        found |= {f"{table}.{name}" for name in hints}
    for table, entry in (("keys", answers_file.KeysEntry), ("variables", answers_file.VariablesEntry)):
        found |= {f"{table}.{name}" for name in entry.__struct_fields__}
        found |= {f"{table}.match.{name}" for name in get_type_hints(entry)["match"].__struct_fields__}

    assert found | {"waits"} == set(ALLOWED)


def test_reading_says_what_is_wrong_with_the_file(tmp_path):
    (tmp_path / "latin").write_bytes(b"# caf\xe9\n")
    (tmp_path / "large").write_bytes(b"#" * (SIZE_MAX + 1))
    (tmp_path / "good").write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())

    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "missing")
    with pytest.raises(UsageError, match="UTF-8"):
        read(tmp_path / "latin")
    with pytest.raises(UsageError, match="1 MiB"):
        read(tmp_path / "large")
    assert parse(read(tmp_path / "good")) == parse(WHOLE)


# --- Properties -----------------------------------------------------------------------------------------------------

_WORDS = """
incident circleci keys variables waits oidc approve match strategy severity proof digest organizations user
value_from grace_hours exposed_from = [ ] [[ ]] { } . , # ' nan true -1 1 "keep" "ci-*" 2022-12-21T00:00:00Z 07:32:00
"""
_words = st.sampled_from([*re.findall(r"\S+", _WORDS), '"""', "\\", "\n", "\x00", "\u202e", " "])
_garbage = st.one_of(st.text(max_size=200), st.lists(_words, max_size=60).map(" ".join), st.lists(_words).map("".join))


def _outcome(read_it):
    """A checked file, or a refusal that may be shown; any other exception fails the test."""
    try:
        assert isinstance(read_it(), AnswersFile)
    except UsageError as error:
        shown = error.message
    else:
        return ""
    assert display(shown, 10**6) == shown
    return shown


@settings(max_examples=600, deadline=None)
@given(text=_garbage)
def test_any_text_is_a_script_or_a_usage_error(text):
    _outcome(lambda: Script(text).file)


_values = st.recursive(
    st.one_of(
        st.none().map(lambda _: "x"),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=10),
        st.datetimes(timezones=st.sampled_from([None, UTC])),
        st.dates(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_words, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(data=st.dictionaries(_words, _values, max_size=5))
def test_any_data_of_the_wrong_shape_is_a_usage_error(data):
    _outcome(lambda: answers_file._checked(data))


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_reasons = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(lambda text: text.strip())
_subjects = {
    "keys": st.fixed_dictionaries({"user": _names, "account": _names, "id": _names}),
    "variables": st.one_of(
        st.fixed_dictionaries({"name": _names, "context": _names}),
        st.fixed_dictionaries({"name": _names, "project": _names}),
        st.fixed_dictionaries({"name": _names}),
    ),
}
_answers = {
    "incident.reference": (str, _reasons),
    "incident.severity": (str, st.sampled_from(["confirmed", "exposed", "routine"])),
    "incident.exposed_from": (
        str,
        st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001  # aware by the second argument
            lambda moment: moment.isoformat().replace("+00:00", "Z")
        ),
    ),
    "circleci.organizations": (tuple, st.lists(_reasons, min_size=1, max_size=3).map(tuple)),
    "oidc.role_name": (str, _reasons),
    "keys.strategy": (str, st.sampled_from(["replace", "contain", "deactivate", "keep"])),
    "keys.reason": (str, _reasons),
    "keys.grace_hours": (int, st.integers(0, 87_600)),
    "keys.canary": (bool, st.booleans()),
    "keys.on_lost_secret": (str, st.sampled_from(["stop", "recreate"])),
    "variables.value_from": (
        str,
        st.one_of(
            st.sampled_from(["keep", "done-by-hand", "prompt", "env:A_1", 'command:["a", "b\\n\\u0000"]']),
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9).map("file:{}".format),
        ),
    ),
    "variables.reason": (str, _reasons),
}


@st.composite
def _answered(draw):
    key = draw(st.sampled_from(sorted(_answers)))
    kind, values = _answers[key]
    subject = draw(_subjects[key.split(".")[0]]) if key.split(".")[0] in _subjects else {}
    question = Question(id=f"{key}:{sorted(subject.items())}", prompt="?", kind=kind, answer_key=key, subject=subject)
    return question, draw(values)


@settings(max_examples=400, deadline=None)
@given(answers=st.lists(_answered(), max_size=12, unique_by=lambda pair: pair[0].id))
def test_answers_printed_as_a_file_give_the_same_answers(answers):
    for question, value in answers:
        assert fit(question, value) == value
    given_answers = [
        (
            {"answer_key": question.answer_key, "subject": dict(question.subject)},
            value if kind is not tuple else [*value],
        )
        for question, value in answers
        for kind in (question.kind,)
    ]

    text = dump(given_answers)

    tomllib.loads(text)
    assert all(display(line, 10**6) == line for line in text.split("\n"))
    said = []
    script = Script(text, say=said.append)
    for question, value in answers:
        assert script.answer(question) == value
    assert said == []


@settings(max_examples=300, deadline=None)
@given(text=_names, other=_names)
def test_a_printed_match_fits_its_own_subject_alone(text, other):
    assume(text != other)
    question = ask_strategy(user=text)

    script = Script(dump([({"answer_key": "keys.strategy", "subject": question.subject}, "keep")]))

    assert script.answer(question) == "keep"
    with pytest.raises(MissingAnswerError):
        script.answer(ask_strategy(user=other))


@settings(max_examples=200, deadline=None)
@given(glob=st.text("ab*?[]!-", max_size=6), name=st.text("ab", max_size=4))
def test_matching_is_the_shells(glob, name):
    file = parse(f"[[keys]]\nmatch = {{ user = '{glob}' }}\nstrategy = 'keep'\n")

    assert (file.entry("keys", {"user": name}) is not None) == fnmatchcase(name, glob)


def test_what_is_allowed_is_said_for_every_kind_of_question():
    def words(kind, **more):
        return allowed(Question(id="x", prompt="?", kind=kind, answer_key=more.pop("answer_key", "x.y"), **more))

    assert words(bool) == "true or false"
    assert words(int) == "a whole number, 0 or more"
    assert "at least one name" in words(tuple)
    assert "not blank" in words(str)
    assert words(tuple, choices=STRATEGIES[:2], open_choices=True) == (
        'at least one of "replace", "contain", or other names'
    )
    assert words(str, choices=STRATEGIES[:1], open_choices=True) == 'one of "replace", or another text'
    assert words(str, answer_key="variables.value_from", open_choices=True) == ALLOWED["variables.value_from"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(bool, value) for value in (1, "true", None)],
        *[(int, value) for value in (True, -1, "3", 1.0)],
        *[(str, value) for value in ("", " \n", 3, "x" * 2001, None)],
        *[(tuple, value) for value in ("abc", [], ["a", 1], [""], {"a": 1})],
    ],
)
def test_what_is_not_an_answer_is_refused(kind, value):
    with pytest.raises(UsageError):
        fit(Question(id="x", prompt="?", kind=kind, answer_key="x.y"), value)
