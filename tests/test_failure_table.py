"""`docs/failures.md` against the tests: every row has one that exists, and the table of faults is what happens."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from two_users import ACCOUNT, OLD, PAIR, Answers, two_users

from playbook.engine import Engine
from playbook.errors import CredentialsError, ExitCode
from playbook.journal import Journal, this_host
from playbook.model import Recovery
from playbook.ports import KeyStatus, Waits
from playbook.records import Opened
from playbook.twins.faults import FAULTS, Faults, Kind
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from steps import PLAYBOOK, RETIREMENT

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "failures.md"
ROW = re.compile(r"^\| (F\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
DOES_NOT_APPLY: set[str] = set()
WRITES = {
    "create_access_key": "create key",
    "set_key_status": "set status",
    "delete_access_key": "delete key",
    "put_variable": "put variable",
    "tag_user": "tag the user",
    "run_inline": "run the canary",
    "put_user_policy": "put user policy",
}
KINDS = [kind for kind in FAULTS if kind not in {Kind.CRASH, Kind.CRASH_AFTER}]
"""Crashes have a sweep of their own."""
ONCE = frozenset({"create_access_key"})
"""What must never take effect a second time unseen: the first effect is found, and goes."""
BEGIN, END = "<!-- faults begin -->", "<!-- faults end -->"


def rows():
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_every_failure_has_its_row_and_no_row_is_there_twice():
    assert [name for name, *_ in rows()] == [f"F{number}" for number in range(1, 56)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_exist_or_why_it_cannot_happen(row):
    name, _, does, tests = row
    named = re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", tests)
    assert (name in DOES_NOT_APPLY) == (not named) == does.startswith("does not apply: ")
    for path, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{path}::{test}"


# --- The table of faults --------------------------------------------------------------------------------------------


class Responder(Answers):
    """Contains, ends the sessions, and agrees to the deletions."""

    def answer(self, question):
        if question.id.startswith("keys.delete_after_grace:"):
            return True
        return super().answer(question)


class Played:
    """The whole life of two keys: contained, replaced, and after their grace time deleted."""

    def __init__(self, fault="", **switches):
        self.world = TwinWorld(two_users(canaries=True), switches=Switches(**switches))
        self.world.faults = Faults([fault] if fault else [])
        self.faults = self.world.faults
        self.effects = []
        self.journal = Journal(now=self.world.clock.now)
        self.journal.append(Opened(case="faults", tool="test", mode="rehearsal", host=this_host()))

    def run(self, steps, **how):
        engine = Engine(
            self.journal,
            self.world.platforms(),
            Responder(strategy="contain", severity="confirmed", lost=Recovery.REWRITE_SWITCHED),
            waits=Waits(),
            parallel=1,
            pilot=0,
        )
        try:
            return engine.run(steps, **how).exit_code
        except CredentialsError as error:
            return error.exit_code

    def whole(self):
        """The exit code of each process that it took; after the first nothing is struck any more."""
        codes = [self.run(PLAYBOOK)]
        if codes[0] is not ExitCode.DONE:
            self.world.faults = Faults()
            codes.append(self.run(PLAYBOOK))
        assert codes[-1] is ExitCode.DONE, codes
        self.world.clock.sleep(30 * 3600)
        codes.append(self.run((RETIREMENT,), again=frozenset({RETIREMENT.id}), closes=False))
        if codes[-1] is not ExitCode.DONE:
            self.world.faults = Faults()
            codes.append(self.run((RETIREMENT,), again=frozenset({RETIREMENT.id}), closes=False))
        return codes

    def assert_ended(self):
        """One new key a user, on and in every place of the old one; the old ones and every orphan are gone."""
        self.world.clock.sleep(60)
        circleci = self.world.state.circleci
        held = {
            place.variables[PAIR[0]].value.tail for place in (*circleci.contexts.values(), *circleci.projects.values())
        }
        left = [key for user in OLD for key in self.world.all_keys(ACCOUNT, user)]
        assert {key.status for key in left} == {KeyStatus.ACTIVE}
        assert len(left) == len(OLD)
        assert {key.id[-4:] for key in left} == held


def said(codes):
    """The processes in words."""
    stopped = [code for code in codes if code is not ExitCode.DONE]
    if not stopped:
        return "done in the same run"
    return f"ends with {int(stopped[0])}; `resume` ends it"


OUTCOMES = {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", WRITES)
def test_a_fault_at_a_write_ends_in_the_same_world(write, kind):
    played = Played(f"{kind}:{write}:1")

    codes = played.whole()

    assert played.faults.struck == {Kind(kind): 1}, "the fault never struck"
    assert codes[-1] is ExitCode.DONE, codes
    played.assert_ended()
    OUTCOMES[write, kind] = said(codes)


@pytest.mark.parametrize("lag_s", [0, 1, 5, 10, 20])
def test_slow_consistency_ends_in_the_same_world(lag_s):
    played = Played(
        tail_lag_s=lag_s, list_lag_s=lag_s, status_lag_s=lag_s, sts_lag_s=lag_s, off_lag_s=lag_s, rights_lag_s=lag_s,
        service_lag_s=lag_s, results_lag_s=lag_s,
    )  # fmt: skip

    codes = played.whole()

    assert set(codes) == {ExitCode.DONE}, codes
    played.assert_ended()


def table():
    lines = [f"| fault | {' | '.join(WRITES.values())} |", f"|---|{'---|' * len(WRITES)}"]
    ends = {kind: " | ".join(OUTCOMES[write, kind] for write in WRITES) for kind in KINDS}
    return "\n".join([*lines, *(f"| `{kind}`: {FAULTS[kind]} | {ends[kind]} |" for kind in KINDS)])


def test_the_page_shows_what_the_faults_came_to():
    if len(OUTCOMES) < len(WRITES) * len(KINDS):
        pytest.skip("only some of the faults were injected in this run")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
    else:
        assert shown.strip() == table()
