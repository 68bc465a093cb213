"""A move to OIDC by the wizard in a real pseudo-terminal, and its undoing: 3 projects in 2 accounts, real keys."""

from __future__ import annotations

import json

import pytest
from wizard.test_wizard_pty import DRAWN, ENTER, Terminal, env  # noqa: F401  # the fixture

from playbook.twins import state as states
from playbook.twins.iam_calls import truth

UP, DOWN = "\x1b[A", "\x1b[B"
PROJECTS = ("gh/acme/api", "gh/acme/data", "gh/acme/web")


def stored(case):
    circleci = states.load(case / "world.json").circleci
    return {slug: sorted(item.variables) for slug, item in circleci.projects.items()}


def roles(case):
    accounts = states.load(case / "world.json").accounts.values()
    return sorted(name for account in accounts for name, history in account.roles.items() if truth(history))


@pytest.mark.parametrize("columns", [100])
def test_keys_move_to_roles_by_hand_and_come_back(env, tmp_path, columns):  # noqa: F811  # as above
    case = tmp_path / "case"
    terminal = Terminal(["rehearse", "oidc", "--case", str(case)], env=env, columns=columns)
    terminal.answers("How serious is it", ENTER)
    terminal.answers("Which CircleCI organizations", ENTER)
    terminal.answers("What now", DOWN * 2 + ENTER)
    terminal.answers("Which rows", "1-3" + ENTER)
    terminal.answers("What becomes of", DOWN * 3 + ENTER)
    terminal.answers("What now", ENTER)
    count = terminal.sees(r"Type (\d+) to carry them out")[1]
    terminal.child.expect(DRAWN)
    terminal.child.send(count + ENTER)
    for _ in PROJECTS:
        terminal.answers("What now", UP + ENTER)
        terminal.answers("Why may this be passed", "merged on Tuesday" + ENTER)
    assert terminal.ends() == 0, terminal.shown()[-2000:]
    assert roles(case) == ["circleci-api", "circleci-data", "circleci-web"]
    assert stored(case) == {slug: [] for slug in PROJECTS}
    records = [json.loads(line) for line in (case / "journal.jsonl").read_text().splitlines()]
    passed = [item for item in records if item["type"] == "Verified" and "confirm-config-merged" in item["key"]]
    assert [item["evidence"]["reason"] for item in passed] == ["merged on Tuesday"] * 3

    back = Terminal(["undo", str(case)], env=env, columns=columns)
    count = back.sees(r"Type (\d+) to carry them out")[1]
    back.child.expect(DRAWN)
    back.child.send(count + ENTER)
    assert back.ends() == 0, back.shown()[-2000:]
    assert not roles(case)
    assert all(len(names) == 2 for names in stored(case).values())
