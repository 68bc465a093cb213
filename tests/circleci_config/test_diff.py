"""The diff against git, which has to apply it."""

from __future__ import annotations

import subprocess

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.config_diff import unified_diff

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "  d", "- x", "@@", "é", *map(str, range(8))]), max_size=40)


def text_of(lines, newline, last):
    return newline.join(lines) + (newline if last and lines else "")


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(old=LINES, new=LINES, newline=st.sampled_from(["\n", "\r\n"]), ends=st.tuples(st.booleans(), st.booleans()))
def test_git_applies_it(tmp_path_factory, old, new, newline, ends):
    before, after = text_of(old, newline, ends[0]), text_of(new, newline, ends[1])
    patch = unified_diff("config.yml", before, after)
    if before == after or not before or not after:
        assert bool(patch) == (before != after)
        return
    folder = tmp_path_factory.mktemp("diff")
    (folder / "config.yml").write_text(before, newline="")
    applied = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], input=patch.encode(), cwd=folder, capture_output=True, check=False
    )
    assert applied.returncode == 0, applied.stderr
    assert (folder / "config.yml").read_bytes() == after.encode()


def test_it_reads_like_any_other():
    old = [f"line {number}" for number in range(20)]
    new = [*old[:3], "new", *old[3:15], *old[16:]]
    patch = unified_diff("x", "\n".join(old) + "\n", "\n".join(new) + "\n")
    assert patch == (
        "--- a/x\n+++ b/x\n"
        "@@ -1,6 +1,7 @@\n line 0\n line 1\n line 2\n+new\n line 3\n line 4\n line 5\n"
        "@@ -13,7 +14,6 @@\n line 12\n line 13\n line 14\n-line 15\n line 16\n line 17\n line 18\n"
    )


def test_a_new_file_and_no_change():
    assert unified_diff("x", "", "a\n") == "--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n"
    assert unified_diff("x", "a\n", "a\n") == ""
