"""Files that mean harm: refused with a line and a reason, in bounded time and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from playbook.circleci_config.document import ALIASES_MAX, DEPTH_MAX, EVENTS_MAX, SIZE_MAX
from playbook.circleci_config.edit import ConfigError, InsertItem, RemoveKey, Replace, apply, parse, users_of

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
MERGED_LAUGHS = "m0: &m0 {x: 1}\n" + "".join(
    f"m{n}: &m{n}\n" + "".join(f"  k{k}:\n    <<: *m{n - 1}\n" for k in range(9)) for n in range(1, 9)
)
HOSTILE = {
    "longer than the limit": ("a: " + "x" * SIZE_MAX, None, "longer than 1 MiB"),
    "bytes longer than the limit": ("a: " + "é" * (SIZE_MAX // 2), None, "longer than 1 MiB"),
    "a merge conflict": ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> theirs\n", 2, "merge conflict"),
    "a key twice": ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "twice"),
    "a key twice in other words": ('7: 1\n"7": 2\n', 2, "twice"),
    "not UTF-8": (b"a: 1\nb: \xff\n", 2, "UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), 1, "UTF-8"),
    "a lone surrogate": ("a: \ud800", None, "UTF-8"),
    "a control character": ("a: 1\nb: \x07\n", 2, "character"),
    "an odd line break": ("a: 1\nb: x\u2028c: 2\n", 2, "line break"),
    "a lone carriage return": ("a: 1\rb: 2\n", 1, "line break"),
    "aliases that multiply": (LAUGHS, 7, "multiply"),
    "merges that multiply": (MERGED_LAUGHS, None, "multiply"),
    "an alias in its own anchor": ("a: &a\n  b: *a\n", 2, "no anchor"),
    "an alias without an anchor": ("a: *b\n", 1, "no anchor"),
    "more aliases than any file has": ("a: &a 1\nb: [" + "*a, " * (ALIASES_MAX + 1) + "]\n", 2, "aliases"),
    "flow nested deep": ("[" * 100_000, 1, f"{DEPTH_MAX} levels"),
    "blocks nested deep": ("- " * 100_000, 1, f"{DEPTH_MAX} levels"),
    "more nodes than any file has": ("[" + "1," * (EVENTS_MAX + 1) + "]", 1, "nodes"),
    "a tag that runs code": ("a: !!python/object/apply:os.system [id]\n", 1, "tag"),
    "a tag that reads a file": ("a: 1\nb: !include other.yml\n", 2, "tag"),
    "two documents": ("a: 1\n---\nb: 2\n", 2, "second document"),
    "a key that is a list": ("? [a]\n: b\n", 1, "not plain text"),
    "a merge of a text": ("a:\n  <<: b\n", 2, "not a mapping"),
    "a tab for indentation": ("a:\n\tb: 1\n", 2, "tab|token"),
    "no YAML": ("a: b: c\n", 1, "not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_with_its_line(name):
    source, line, reason = HOSTILE[name]
    with pytest.raises(ConfigError, match=reason) as refused:
        parse(source)
    assert int(refused.value.exit_code) == 7
    if line is not None:
        assert refused.value.line == line
        assert f"line {line}: " in refused.value.message


def test_no_refusal_quotes_the_file():
    for source, _, _ in HOSTILE.values():
        with pytest.raises(ConfigError) as refused:
            parse(source)
        assert "HEAD" not in refused.value.message
        assert len(refused.value.message) < 200


CHILD = """
import json, resource, sys
limit = 256 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
sys.path[:0] = json.loads(sys.argv[1])
from playbook.circleci_config.edit import ConfigError, parse
try:
    parse(sys.stdin.buffer.read())
except ConfigError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("name", [name for name in HOSTILE if "lone surrogate" not in name])
def test_it_is_refused_within_256_mib(name):
    source, _, reason = HOSTILE[name]
    raw = source if isinstance(source, bytes) else source.encode()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(sys.path)], input=raw, capture_output=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr.decode()[-500:]
    assert child.stdout.strip()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{name}: {reason}; largest child so far {spent.ru_maxrss >> 10} MiB")


JOB = """\
  job{n}:
    docker:
      - image: cimg/base:stable  # {n}
    environment: {{A: {n}, B: x}}
    steps:
      - checkout
      - run: |
          aws s3 ls
          echo {n}
"""


def test_twenty_thousand_lines_are_edited():
    jobs = "".join(JOB.format(n=n) for n in range(2_200))
    text = f"version: 2.1\njobs:\n{jobs}"
    assert text.count("\n") > 19_000
    document = parse(text)
    edits = [
        each
        for n in range(2_200)
        for each in (
            InsertItem(("jobs", f"job{n}", "steps"), 1, {"aws-cli/setup": {"role_arn": "x"}}),
            RemoveKey(("jobs", f"job{n}", "environment", "A")),
            Replace(("jobs", f"job{n}", "docker", 0, "image"), "cimg/aws:1"),
        )
    ]
    result = apply(document, edits)
    assert result.count("cimg/aws:1  # ") == 2_200
    assert result.count("\n") == text.count("\n") + 2 * 2_200


def test_a_thousand_users_of_one_anchor_are_found_and_changed():
    text = "x: &x\n  image: a\njobs:\n" + "".join(f"  j{n}:\n    docker:\n      - *x\n" for n in range(1_000))
    document = parse(text)
    users = users_of(document, Replace(("x", "image"), "b"))
    assert len(users) == 1_001
    assert apply(document, [Replace(("x", "image"), "b", users=users)]) == text.replace("image: a", "image: b")
