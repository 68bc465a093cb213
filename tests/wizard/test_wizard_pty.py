"""The wizard in a real pseudo-terminal: real keys, real escape codes, the installed program."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pexpect
import pyte
import pytest

from playbook.journal import fold, read
from playbook.ports import KeyStatus
from playbook.sandbox import Sandbox
from playbook.twins.scenario import load

PROGRAM = str(Path(sys.executable).with_name("rotation-playbook"))
ENTER = "\r"
DRAWN = r"\x1b\[\?7h"
"""What the terminal is sent at the end of each drawing: from then on the prompt listens."""


class Terminal:
    """One program in a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, arguments, *, env, columns=100, rows=50):
        self.screen = pyte.HistoryScreen(columns, rows, history=2000)
        self._stream = pyte.Stream(self.screen)
        self.child = pexpect.spawn(
            PROGRAM, arguments, env=env, dimensions=(rows, columns), encoding="utf-8", timeout=60
        )
        self.child.logfile_read = self
        self.raw = ""

    def write(self, text):
        self.raw += text
        self._stream.feed(text)

    def flush(self):
        pass

    def sees(self, pattern):
        self.child.expect(pattern)
        return self.child.match

    def answers(self, pattern, keys):
        """Wait for the question; the wizard throws away what is typed before it."""
        match = self.sees(pattern)
        self.child.expect(DRAWN)
        self.child.send(keys)
        return match

    def ends(self, within_s=60):
        self.child.expect(pexpect.EOF, timeout=within_s)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    def shown(self):
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)


@pytest.fixture
def env(tmp_path):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def answer_everything(terminal):
    terminal.answers("How serious is it", ENTER)
    terminal.answers("Which CircleCI organizations", ENTER)
    terminal.answers("What now", ENTER)
    terminal.answers("Why may .* of terraform stay on", "agreed with Kim" + ENTER)
    terminal.answers("11 rows: 9 keep, 2 recreate", ENTER)
    terminal.answers("7 rows: 7 keep", ENTER)
    terminal.answers("Why may PARTNER", ENTER)
    return terminal.sees(r"Type (\d+) to carry them out")


def world(case):
    """Everything of the rehearsal's world that a change would touch."""
    state = json.loads((case / "world.json").read_bytes())
    return {
        "keys": {
            name: {key: value["changes"] for key, value in account["keys"].items()}
            for name, account in state["accounts"].items()
        },
        "contexts": {name: item["variables"] for name, item in state["circleci"]["contexts"].items()},
        "projects": {name: item["variables"] for name, item in state["circleci"]["projects"].items()},
    }


def state_of(case):
    return fold(read(case).records)


@pytest.mark.parametrize("columns", [80, 140])
def test_the_happy_path(env, tmp_path, columns):
    case = tmp_path / "case"
    terminal = Terminal(["rehearse", "--case", str(case)], env=env, columns=columns)

    count = answer_everything(terminal)[1]
    terminal.child.expect(DRAWN)
    terminal.child.send(count + ENTER)

    assert terminal.ends() == 0
    assert "Done: everything planned is done" in terminal.shown()
    state = state_of(case)
    assert state.sealed is not None
    assert state.approvals["run"].by == "typed"
    assert state.answers["incident.severity"].value == "exposed"
    reasons = [item.value for key, item in state.answers.items() if key.startswith("keys.reason:")]
    assert "agreed with Kim" in reasons


def test_a_refused_plan_changes_nothing_and_is_asked_again(env, tmp_path):
    case = tmp_path / "case"
    terminal = Terminal(["rehearse", "--case", str(case)], env=env)
    count = answer_everything(terminal)[1]
    before = world(case) if (case / "world.json").exists() else None
    terminal.child.expect(DRAWN)
    terminal.child.send("yes" + ENTER)

    assert terminal.ends() == 6
    assert "declined" in terminal.shown()
    assert "Nothing was changed" in terminal.shown()
    assert not [key for key, item in state_of(case).progress.items() if item.attempts]
    if before is not None:
        assert world(case) == before

    again = Terminal(["resume", str(case)], env=env)
    assert again.sees(r"Type (\d+) to carry them out")[1] == count
    again.child.expect(DRAWN)
    again.child.send(count + ENTER)

    assert again.ends() == 0
    assert "How serious is it" not in again.shown()


def test_ctrl_c_at_a_question_keeps_the_answers(env, tmp_path):
    case = tmp_path / "case"
    terminal = Terminal(["rehearse", "--case", str(case)], env=env)
    terminal.answers("How serious is it", ENTER)
    terminal.answers("Which CircleCI organizations", ENTER)
    terminal.answers("What now", "\x03")

    assert terminal.ends() == 130
    assert f"resume {case}" in re.sub(r"\s+", " ", terminal.shown())
    given = set(state_of(case).answers)
    assert given >= {"incident.severity", "circleci.organizations"}
    assert not [key for key in given if key.startswith("keys.")]

    again = Terminal(["resume", str(case)], env=env)
    again.answers("What now", ENTER)
    again.answers("Why may .* of terraform stay on", "agreed" + ENTER)
    again.answers("11 rows: 9 keep, 2 recreate", ENTER)
    again.answers("7 rows: 7 keep", ENTER)
    again.answers("Why may PARTNER", ENTER)
    count = again.sees(r"Type (\d+) to carry them out")[1]
    again.child.expect(DRAWN)
    again.child.send(count + ENTER)

    assert again.ends() == 0
    assert "How serious is it" not in again.shown()


def test_ctrl_c_in_the_middle_of_a_live_run_then_resume(env, tmp_path):
    case = tmp_path / "case"
    with Sandbox(load("small").state) as sandbox:
        live = {
            **env,
            **sandbox.environment(),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        # Long enough that the interrupt comes while the new key is proved, short enough for a test.
        waits = [f"--wait={name}={seconds}" for name, seconds in {"proof": 3, "settle": 0, "relist": 0}.items()]
        terminal = Terminal(["run", "--case", str(case), *waits, *sandbox.arguments()], env=live)
        count = answer_everything(terminal)[1]
        terminal.child.expect(DRAWN)
        terminal.child.send(count + ENTER)
        terminal.sees("done    create a new access key")
        terminal.child.sendintr()

        assert terminal.ends() == 130
        assert "finished and journaled first" in terminal.shown()
        assert state_of(case).sealed is None

        again = Terminal(["resume", str(case)], env=live)
        # The canaries' jobs take their time, which is real here.
        assert again.ends(within_s=200) == 0, again.shown()
        assert "How serious is it" not in again.shown()

        for old, credential in sandbox.keys.items():
            if not credential.user.startswith("ci-"):
                continue
            keys = sandbox.aws.keys(credential.account, credential.user)
            assert keys.pop(credential.key_id) is KeyStatus.INACTIVE, old
            assert list(keys.values()) == [KeyStatus.ACTIVE], old
        tries = [attempt for item in state_of(case).progress.values() for attempt in item.attempts]
        assert any(attempt.reset for attempt in tries)
        made = [attempt for attempt in tries if attempt.applied and "replaces" in attempt.applied]
        print(f"{len(made)} keys made for 4 to replace: a secret died with the first process")


# --- A gate that is passed, undo, and the deletion ------------------------------------------------------------------

DOWN = "\x1b[B"


def rehearsed(env, case, columns, *options):
    """A rehearsal up to the approval of its plan, which is given."""
    terminal = Terminal(["rehearse", "--case", str(case), *options], env=env, columns=columns)
    count = answer_everything(terminal)[1]
    terminal.child.expect(DRAWN)
    terminal.child.send(count + ENTER)
    return terminal


def carries_out(terminal):
    count = terminal.sees(r"Type (\d+) to carry them out")[1]
    terminal.child.expect(DRAWN)
    terminal.child.send(count + ENTER)


def words(terminal):
    """What was shown, whatever the width broke it into."""
    return re.sub(r"\s+", " ", terminal.shown())


def old_keys(case):
    """By id, how the keys that the case switched off stand in the rehearsal's world."""
    switched = {action["key_id"] for parts in state_of(case).plans.values() for part in parts
                for action in part.actions if action["kind"] == "iam:deactivate-access-key"}  # fmt: skip
    keys = {name: changes[-1] for account in world(case)["keys"].values() for name, changes in account.items()}
    return {name: keys[name]["status"] for name in switched}


@pytest.mark.parametrize("columns", [80, 140])
def test_a_canary_that_fails_is_passed_with_a_reason_and_then_all_of_it_is_undone(env, tmp_path, columns):
    case = tmp_path / "case"
    terminal = rehearsed({**env, "NO_COLOR": "1"}, case, columns, "--inject", "deny:run_inline:1")
    terminal.sees("This failed")
    terminal.answers("What now", DOWN * 3 + ENTER)
    terminal.answers("Why may this be passed", "the build was watched" + ENTER)

    assert terminal.ends() == 0
    assert "PASSED at your word, not seen: run a canary job" in words(terminal)
    assert "the reason given: the build was watched" in words(terminal)
    passed = [item.evidence for item in state_of(case).progress.values() if item.evidence.get("overridden")]
    assert [item["reason"] for item in passed] == ["the build was watched"]
    seen = [item for key, item in state_of(case).progress.items() if key.startswith("circleci:run-canary:")]
    assert len(seen) > len(passed)
    assert set(old_keys(case).values()) == {"Inactive"}

    undo = Terminal(["undo", str(case)], env={**env, "NO_COLOR": "1"}, columns=columns)
    carries_out(undo)

    assert undo.ends() == 0
    assert "Undone: what can be put back is back as it was" in words(undo)
    assert set(old_keys(case).values()) == {"Active"}
    status = Terminal(["status", str(case)], env=env, columns=columns)
    assert status.ends() == 0
    assert "rehearsal, undone" in words(status)


def test_a_finished_case_offers_the_deletion_and_does_it_once_agreed_to(env, tmp_path):
    case = tmp_path / "case"
    terminal = rehearsed(env, case, 100)
    assert terminal.ends() == 0
    before = old_keys(case)

    early = Terminal(["resume", str(case)], env=env)
    assert early.ends() == 0
    assert "Nothing was deleted: no old key is due" in words(early)
    assert old_keys(case) == before

    later = json.loads((case / "world.json").read_bytes())
    later["now"] = re.sub(r"-11-02", "-11-04", later["now"])
    (case / "world.json").write_text(json.dumps(later))
    retire = Terminal(["resume", str(case)], env=env)
    asked = []
    while len(asked) < len(before):
        key_id = retire.sees(r"Delete (AKIA[A-Z2-7]{16}) of")[1]
        if key_id not in asked:  # an answered question is drawn once more
            retire.child.expect(DRAWN)
            retire.child.send(("n" if asked else "y") + ENTER)
            asked.append(key_id)
    carries_out(retire)

    assert retire.ends() == 0
    assert "Retired: the old keys that were due are deleted for good" in words(retire)
    assert [name for name, status in old_keys(case).items() if status is None] == asked[:1]
