"""The editor alone: every way of writing a file, every edit, and files that mean harm."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from circleci_config.written import TREES, Writer, documents
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from playbook.circleci_config.document import resolved
from playbook.circleci_config.edit import (
    ConfigError,
    EditRefused,
    Flow,
    InsertItem,
    InsertKey,
    RemoveItem,
    RemoveKey,
    RemoveLines,
    RenameKey,
    Replace,
    ReplaceLines,
    ReplaceText,
    apply,
    parse,
    users_of,
)

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "configs"
MANY = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


# --- A second opinion: PyYAML on the text, and each edit on plain data ----------------------------------------------


def loaded(text):
    """The data as PyYAML's own loader has it; keys as text."""

    def plain(value):
        if isinstance(value, dict):
            return {{True: "on", 7: "7"}.get(key, key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = text.removeprefix("\ufeff")
    return plain(yaml.load(text if text.endswith("\n") else text + "\n", Loader=yaml.CSafeLoader))


def inner(data, path):
    for step in path:
        data = data[step]
    return data


def edited(data, edit, users):
    """The data with one edit made at each of its users."""
    data = json.loads(json.dumps(data))  # nothing in it shared any more
    # The last index first, so that a removal moves none that is still to come.
    for path in sorted(users, key=str, reverse=True):
        holder, last = (inner(data, path[:-1]), path[-1]) if path else ({"": data}, "")
        match edit:
            case Replace(value=value):
                holder[last] = value
            case InsertItem(index=index, value=value):
                holder[last] = holder[last] or []
                holder[last].insert(index, value)
            case InsertKey(key=key, value=value):
                holder[last] = holder[last] or {}
                holder[last][key] = value
            case RenameKey(key=key):
                holder[key] = holder.pop(last)
            case RemoveKey() | RemoveItem():
                del holder[last]
            case ReplaceText(old=old, new=new):
                holder[last] = holder[last].replace(old, new)
            case ReplaceLines(first=first, count=count, lines=lines):
                every = holder[last].split("\n")
                every[first : first + count] = lines
                holder[last] = "\n".join(every)
    return data


def places(data, path=()):
    yield path, data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*path, index))


@st.composite
def edits(draw, data, values=TREES):
    """Any edit that the data allows."""
    path, value = draw(st.sampled_from(list(places(data))))
    kinds = []
    if path:
        kinds += [Replace, RenameKey, RemoveKey] if isinstance(path[-1], str) else [Replace, RemoveItem]
    if isinstance(value, dict) or (value is None and path):
        kinds += [InsertKey]
    if isinstance(value, list) or (value is None and path):
        kinds += [InsertItem]
    if isinstance(value, str) and value:
        kinds += [ReplaceText, ReplaceLines, RemoveLines]
    kind = draw(st.sampled_from(kinds))
    if kind is Replace:
        return Replace(path, draw(values))
    if kind is RenameKey:
        return RenameKey(path, "renamed key")
    if kind is InsertKey:
        return InsertKey(path, "new: key", draw(values), after=draw(st.sampled_from([None, *(value or ())])))
    if kind is InsertItem:
        return InsertItem(path, draw(st.integers(0, len(value or ()))), draw(values))
    if kind is ReplaceText:
        start = draw(st.integers(0, len(value) - 1))
        return ReplaceText(path, value[start : start + 3], draw(st.sampled_from(["x", "", "a: b # c", "é"])))
    if kind in {ReplaceLines, RemoveLines}:
        first = draw(st.integers(0, value.count("\n")))
        lines = draw(st.sampled_from([(), ("new line",), ("- a", "", "  b: c")]))
        return ReplaceLines(path, first, draw(st.integers(0, 1)), lines)
    return kind(path)


def reached(document, edit):
    """The edit with its users, and those."""
    users = users_of(document, edit)
    return (edit if users == {edit.path} else dataclasses.replace(edit, users=users)), users


def lines_of(text):
    return text.removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\n").split("\n")


def is_subsequence(some, every):
    rest = iter(every)
    return all(line in rest for line in some)


COUNTS: Counter[str] = Counter()


@MANY
@given(documents(), st.randoms(use_true_random=False), st.data())
def test_an_edit_changes_its_data_and_no_other_line(data, rnd, draws):
    written = Writer(rnd).write(data)
    note(written.text)
    document = parse(written.text)
    edit, users = reached(document, draws.draw(edits(data)))
    note(edit)
    try:
        result = apply(document, [edit])
    except EditRefused as refused:
        COUNTS[f"refused: {re.sub(r'job[^ ]*|&[^ ]*|[0-9]+', '_', refused.reason)[:60]}"] += 1
        return
    note(result)
    COUNTS["clean"] += 1
    assert loaded(result) == edited(data, edit, users)
    # Byte order mark, line breaks and the last one of the file are as they were.
    assert result.startswith("\ufeff") == written.text.startswith("\ufeff")
    assert result.count("\r\n") == (result.count("\n") if "\r\n" in written.text else 0)
    # What is removed at the end may leave a blank line, which is then the end.
    removed = isinstance(edit, RemoveKey | RemoveItem)
    assert written.text.endswith("\n") == result.endswith("\n") or (removed and result.endswith("\n"))
    check_lines(written, edit, users, result)
    again = parse(result)
    assert apply(again, []) == result


def check_lines(written, edit, users, result):
    """Every line outside of what the edit names is there, unchanged and in order."""
    before, after = lines_of(written.text), lines_of(result)
    if isinstance(edit, InsertItem | InsertKey):
        # Only where it is written in lines: the others are aliases of that.
        users = [user for user in users if any(other[:-1] == user for other in written.lines)] or users
    touched = sorted(set().union(*(may_touch(written, edit, user) for user in users)))
    stay = [line for number, line in enumerate(before) if number not in touched]
    assert is_subsequence(stay, after)
    if touched:
        rest = len(before) - touched[-1] - 1
        assert before[: touched[0]] == after[: touched[0]]
        assert before[len(before) - rest :] == after[len(after) - rest :]
    else:
        assert len(after) > len(before)


def may_touch(written, edit, path):
    """The lines an edit at one path may change; what is written in flow has no lines of its own."""
    lines = written.lines
    below = [other for other in lines if other[:-1] == path]
    if isinstance(edit, InsertItem | InsertKey) and below:
        # A list that begins behind the dash of another one gets its new first item there.
        behind_dash = path in lines and min(lines[other][0] for other in below) == lines[path][0]
        return {lines[path][0]} if behind_dash and getattr(edit, "index", 1) == 0 else set()
    nearest = path
    while nearest not in lines:
        nearest = nearest[:-1]
    start, end = lines[nearest]
    end = past_deeper_comments(lines_of(written.text), start, end)
    if nearest != path or not isinstance(edit, RemoveKey | RemoveItem):
        return {start} if nearest == path and isinstance(edit, RenameKey) else set(range(start, end))
    holder = path[:-1]
    alone = [other for other in lines if other[:-1] == holder] == [path]
    if holder in lines and (alone or lines[holder][0] == start):
        # The last one leaves `{}` on the line above; the first one behind a dash lets the next one move up.
        return set(range(lines[holder][0], past_deeper_comments(lines_of(written.text), *lines[holder])))
    return set(range(start, end))


def past_deeper_comments(every, start, end):
    """Comments below that stand deeper than what goes belong to it."""
    column = len(every[start]) - len(every[start].lstrip())
    for number in range(end, len(every)):
        inner = every[number].lstrip()
        if inner.startswith("#") and len(every[number]) - len(inner) > column:
            end = number + 1
        elif inner:
            break
    return end


@MANY
@given(documents(), st.randoms(use_true_random=False), st.data())
def test_several_edits_at_once_are_those_one_after_the_other(data, rnd, draws):
    written = Writer(rnd).write(data)
    note(written.text)
    document = parse(written.text)
    chosen, expected, taken = [], data, set()
    for _ in range(3):
        edit, users = reached(document, draws.draw(edits(data)))
        jobs = {user[:1] for user in users}
        if () in jobs or jobs & taken:
            continue
        taken |= jobs
        chosen.append(edit)
        expected = edited(expected, edit, users)
    note(chosen)
    try:
        result = apply(document, chosen)
    except EditRefused:
        return
    note(result)
    assert loaded(result) == expected


@MANY
@given(documents(), st.randoms(use_true_random=False))
def test_no_edit_gives_the_same_bytes(data, rnd):
    written = Writer(rnd).write(data)
    document = parse(written.text.encode())
    assert apply(document, []) == written.text
    assert loaded(written.text) == data
    assert document.data == data


@MANY
@given(documents(), st.randoms(use_true_random=False), st.data())
def test_a_path_is_found_from_all_its_users(data, rnd, draws):
    document = parse(Writer(rnd).write(data).text)
    path, _ = draws.draw(st.sampled_from(list(places(data))))
    node = document.node(path)
    shared = document.shared(path)
    users = {path} if shared is None else shared.users
    assert path in users
    # The same node exactly where it is said to be.
    assert {other for other, _ in places(data) if document.node(other) is node} == users


def test_most_edits_are_clean():
    """Runs after the property, whose counts it reads."""
    total = sum(COUNTS.values())
    for what, count in COUNTS.most_common(12):
        print(f"{count:6} {what}")
    assert total
    assert COUNTS["clean"] > 0.9 * total


# --- By example -----------------------------------------------------------------------------------------------------

STEPS = """version: 2.1
jobs:
  build:
    steps:
      # get the code
      - checkout
      # log in
      - run: aws configure set region eu-west-1  # why
      - run: |
          export AWS_PROFILE=x
          aws s3 ls

          echo done
"""
BUILD = ("jobs", "build", "steps")
EXAMPLES = [
    # An inserted item goes above the comments of the next one, in the file's own style.
    (
        "a:\n- x\n# of y\n- y",
        [InsertItem(("a",), 1, {"k": ["v", True, "yes"]})],
        'a:\n- x\n- k:\n  - v\n  - true\n  - "yes"\n# of y\n- y',
    ),
    ("a:\n  # of x\n  - x\n", [InsertItem(("a",), 0, "w")], "a:\n  - w\n  # of x\n  - x\n"),
    ("a:\r\n  - x\r\n", [InsertItem(("a",), 1, "z")], "a:\r\n  - x\r\n  - z\r\n"),
    ("context:  # none yet\n", [InsertItem(("context",), 0, "oidc")], "context:  # none yet\n  - oidc\n"),
    ("context: [a, 'b']  # c\n", [InsertItem(("context",), 2, "x: y")], "context: [a, 'b', 'x: y']  # c\n"),
    ("context: []\n", [InsertItem(("context",), 0, "a")], "context:\n  - a\n"),
    ("context: a\n", [Replace(("context",), ["a", "b"])], "context:\n  - a\n  - b\n"),
    ("context: a\n", [Replace(("context",), Flow(["a", "b"]))], "context: [a, b]\n"),
    ("e: {A: 1, B: 2}\n", [RemoveKey(("e", "B")), InsertKey(("e",), "C", "3")], 'e: {A: 1, C: "3"}\n'),
    ("e: {A: 1, B: 2}\n", [RemoveKey(("e", "A")), RemoveKey(("e", "B"))], "e: {}\n"),
    (
        "jobs:\n  - build # b\n",
        [Replace(("jobs", 0), {"build": {"context": "c"}})],
        "jobs:\n  - build: # b\n      context: c\n",
    ),
    ("- name: x\n  # two\n  key: y\n", [RemoveKey((0, "name"))], "-\n  # two\n  key: y\n"),
    ("- name: x\n  key: y\n", [RemoveKey((0, "name"))], "- key: y\n"),
    ("a:\n  b: 1\n# of c\nc: 2\n", [RemoveKey(("c",), with_comment=True)], "a:\n  b: 1\n"),
    ("a:\n  b: 1\nc: 2\n", [RemoveKey(("a", "b"))], "a: {}\nc: 2\n"),
    ("a:\n  b: 1\nc: 2\n", [RemoveKey(("a", "b"), prune=True)], "c: 2\n"),
    ("a:\n  - b: 1\nc: 2\n", [RemoveKey(("a", 0, "b"), prune=True)], "c: 2\n"),
    (
        "x: &x\n  k: {b: 1}\ny: *x\nc: 2\n",
        [RemoveKey(("y", "k", "b"), prune=True, users=frozenset({("x", "k", "b"), ("y", "k", "b")}))],
        "c: 2\n",
    ),
    ("x: &x 1\ny: *x\n", [Replace(("y",), "new")], "x: &x 1\ny: new\n"),
    ("x: &x 1\ny: *x\n", [Replace(("y",), "new", users=frozenset({("x",), ("y",)}))], "x: &x new\ny: *x\n"),
    ("'aws-region': \"R\"\n", [RenameKey(("aws-region",), "region"), Replace(("region2",), 1)], None),
    ("'aws-region': \"R\"\n", [RenameKey(("aws-region",), "region")], "'region': \"R\"\n"),
    ("'aws-region': \"R\"\n", [Replace(("aws-region",), "S")], "'aws-region': \"S\"\n"),
    (STEPS, [RemoveLines((*BUILD, 2, "run"), 0)], STEPS.replace("          export AWS_PROFILE=x\n", "")),
    (STEPS, [ReplaceText((*BUILD, 1, "run"), "eu-west-1", "x")], STEPS.replace("eu-west-1", "x")),
    (
        STEPS,
        [ReplaceLines((*BUILD, 1, "run"), 0, 1, ("one", "two"))],
        STEPS.replace("aws configure set region eu-west-1  # why\n", "|-  # why\n          one\n          two\n"),
    ),
    (
        "run: >\n  aws s3 ls\n  --profile x\n",
        [ReplaceText(("run",), "s3 ls", "s3 cp")],
        "run: >\n  aws s3 cp\n  --profile x\n",
    ),
    ("b: 1", [InsertKey((), "c", "multi\nline")], "b: 1\nc: |-\n  multi\n  line"),
    ("a: 1\nb: 1", [RemoveKey(("b",))], "a: 1"),
    ("\ufeffa: 1\n", [Replace(("a",), 2.5)], "\ufeffa: 2.5\n"),
    (
        "version: 2\n\njobs: {}\n",
        [InsertKey((), "orbs", {"a": "c/a@1.2"}, after="version")],
        "version: 2\norbs:\n  a: c/a@1.2\n\njobs: {}\n",
    ),
]


# What stands nearest decides how something new is written.
EXAMPLES += [
    (
        "a:\n  b:\n    c: 1\nx:\n    y:\n        z: 1\n",
        [InsertKey(("x",), "new", {"k": {"l": 1}}), InsertKey(("a",), "new", {"k": 1})],
        "a:\n  b:\n    c: 1\n  new:\n    k: 1\nx:\n    y:\n        z: 1\n    new:\n        k:\n            l: 1\n",
    ),
    ("a:\n- 1\nb:\n  - 1\nc:\n  - 1\n", [Replace(("a",), [2, 3])], "a:\n- 2\n- 3\nb:\n  - 1\nc:\n  - 1\n"),
    ("a:\n- 1\nb:\n  - 1\n", [Replace(("b",), [2, 3])], "a:\n- 1\nb:\n  - 2\n  - 3\n"),
]


@pytest.mark.parametrize(("text", "wanted", "expected"), EXAMPLES)
def test_an_example(text, wanted, expected):
    if expected is None:
        with pytest.raises(EditRefused):
            apply(parse(text), wanted)
    else:
        assert apply(parse(text), wanted) == expected


SHARED = """x: &x
  docker:
    - image: a
jobs:
  one:
    <<: *x
  two:
    <<: *x
    environment: {}
"""


def test_a_shared_place_is_changed_only_when_every_user_is_named():
    document = parse(SHARED)
    image = ("docker", 0, "image")
    everyone = frozenset({("x", *image), ("jobs", "one", *image), ("jobs", "two", *image)})
    shared = document.shared(("jobs", "one", *image))
    assert (shared.anchor, shared.line, shared.users) == ("x", 1, everyone)
    assert document.shared(("x",)).merged_into == {("jobs", "one"), ("jobs", "two")}
    for users in (frozenset(), everyone - {("jobs", "two", *image)}, everyone | {("jobs", "three", *image)}):
        with pytest.raises(EditRefused, match="anchor &x of line 1") as refused:
            apply(document, [Replace(("jobs", "one", *image), "b", users=users)])
        assert refused.value.line == 3
    assert apply(document, [Replace(("jobs", "one", *image), "b", users=everyone)]) == SHARED.replace(
        "image: a", "image: b"
    )


MERGED = """x: &x
  A: 1
job:
  environment:
    <<: *x
    B: 2
"""


def test_what_only_merges_an_emptied_mapping_keeps_its_own_keys():
    users = frozenset({("x", "A"), ("job", "environment", "A")})
    wanted = [RemoveKey(("x", "A"), prune=True, users=users)]
    assert apply(parse(MERGED), wanted) == MERGED.replace("&x\n  A: 1", "&x {}")


def test_an_alias_in_a_shared_place_may_give_way_everywhere_it_shows():
    text = "v: &v 1\nx: &x\n  a: *v\ny: *x\n"
    document = parse(text)
    here = frozenset({("x", "a"), ("y", "a")})
    assert users_of(document, Replace(("y", "a"), 2)) == here
    assert apply(document, [Replace(("y", "a"), 2, users=here)]) == text.replace("a: *v", "a: 2")
    everywhere = here | {("v",)}
    assert apply(document, [Replace(("y", "a"), 2, users=everywhere)]) == text.replace("&v 1", "&v 2")
    with pytest.raises(EditRefused, match="written once for several places"):
        apply(document, [Replace(("y", "a"), 2)])


def test_one_edit_named_by_two_paths_is_made_once():
    users = frozenset({("x", *STEP), ("jobs", "one", *STEP), ("jobs", "two", *STEP)})
    edits = [InsertKey(path, "new", 1, users=users) for path in sorted(users)]
    assert apply(parse(SHARED), edits) == SHARED.replace("image: a\n", "image: a\n      new: 1\n")


STEP = ("docker", 0)
REFUSED = [
    ("a: 1\n", [Replace(("b",), 1)], "there is no b"),
    ("a: 1\n", [RemoveKey(("a",))], "the whole document cannot be emptied"),
    ("a: [1]\n", [InsertItem(("a",), 3, 1)], "not a list with such a place"),
    ("a: {b: 1}\n", [InsertKey(("a",), "b", 2)], "has a key b already"),
    ("a: {b: 1}\n", [Replace(("a",), 1), Replace(("a", "b"), 2)], "change the same value"),
    ("a: 1\n", [Replace(("a",), 1), Replace(("a",), 2)], "change the same value"),
    ("a: text\n", [ReplaceText(("a",), "none", "x")], "does not hold the text"),
    ("a: text\n", [RemoveLines(("a",), 1)], "has no such line"),
    ("a: &x 1\nb: *x\n", [RemoveKey(("a",))], "holds the anchor &x, which line 2 uses"),
    ("a:\n  <<: {b: 1}\n  b: 2\nc: 3\n", [RemoveKey(("a", "b"))], "would not say what was asked for"),
    ("? a\n: b\nc: 1\n", [RemoveKey(("a",))], "the result"),
]


@pytest.mark.parametrize(("text", "wanted", "reason"), REFUSED)
def test_what_cannot_be_done_is_refused_with_a_reason(text, wanted, reason):
    with pytest.raises(EditRefused, match=reason) as refused:
        apply(parse(text), wanted)
    assert refused.value.remedy
    assert int(refused.value.exit_code) == 7


@pytest.mark.parametrize(
    ("plain", "meaning"),
    [("yes", True), ("Off", False), ("y", "y"), ("~", None), ("012345670123", "012345670123"), ("1:30", "1:30"),
     ("2.1", 2.1), ("2.10", "2.10"), ("-0", "-0"), ("9" * 4301, "9" * 4301), ("1_000", "1_000"), ("0x1F", "0x1F")],
)  # fmt: skip
def test_what_a_plain_scalar_means(plain, meaning):
    assert resolved(plain) == meaning
    assert type(parse(f"a: {plain}\n").data["a"]) is type(meaning)


# --- Real files, where they are ---------------------------------------------------------------------------------------


def real_files():
    return sorted(CORPUS.rglob("*.yml"))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the real configurations lie beside the project, and not here")
def test_real_files_stay_to_the_byte_and_take_small_edits():
    rnd = random.Random(4)
    counts, reasons = Counter(), Counter()
    values = ["x", "a: b", "yes", {"a": ["b", {"c": None}]}, ["p"], None, True, "one\ntwo\n", "<< parameters.x >>"]
    for path in real_files():
        raw = path.read_bytes()
        try:
            document = parse(raw)
        except ConfigError as error:
            counts["not readable"] += 1
            reasons[error.reason] += 1
            continue
        assert apply(document, []).encode() == raw
        counts["the same bytes"] += 1
        everywhere = list(places(document.data))
        for _ in range(3):
            edit, users = reached(document, one_of(rnd, *rnd.choice(everywhere), values))
            try:
                result = apply(document, [edit])
            except EditRefused as refused:
                counts["edits refused"] += 1
                reasons[refused.reason.split("; ")[0][-60:]] += 1
                continue
            counts["edits clean"] += 1
            wrong = loaded_as_ours(result) != edited(document.data, edit, users)
            counts["edits wrong"] += wrong
    print(f"{len(real_files())} files, seed 4: {dict(counts)}")
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")
    assert counts["the same bytes"] > 0.8 * len(real_files())
    assert not counts["edits wrong"]
    assert counts["edits refused"] < 0.02 * counts["edits clean"]


def one_of(rnd, path, value, values):
    """A random edit of one place."""
    wanted = []
    if path:
        wanted += [Replace(path, rnd.choice(values))]
        wanted += [RemoveKey(path), RenameKey(path, "new-key")] if isinstance(path[-1], str) else [RemoveItem(path)]
    if isinstance(value, dict):
        wanted += [InsertKey(path, "new-key", rnd.choice(values), after=rnd.choice([None, *value]))] * 3
    if isinstance(value, list):
        wanted += [InsertItem(path, rnd.randint(0, len(value)), rnd.choice(values))] * 3
    if isinstance(value, str) and value:
        wanted += [ReplaceText(path, value[:2], "zz"), ReplaceLines(path, value.count("\n"), 1, ("new line",))] * 2
    return rnd.choice(wanted)


def loaded_as_ours(text):
    """PyYAML's nodes of the text as data of ours: it composes, and its own merging is not needed to be right."""
    return parse(text).data
