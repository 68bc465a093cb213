"""What a person is shown of an inventory: whether it is whole, comes first, and it fits the terminal."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from playbook.correlate import StoredVariable
from playbook.exposure import Window
from playbook.inventory import Inventory, StoredRestriction
from playbook.inventory_document import document, findings, to_csv
from playbook.ports import (
    AccessKey,
    Hole,
    KeyStatus,
    LastUsed,
    MaskedVariable,
    Organization,
    Project,
    Restriction,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
    User,
)
from playbook.screen import URGENT_SHOWN, Screen

NOW = datetime(2023, 1, 4, 12, tzinfo=UTC)
MADE = datetime(2022, 6, 1, tzinfo=UTC)
ACCOUNT = "111111111111"
DEPLOY = Sink(kind=SinkKind.CONTEXT, id="c-1", name="deploy", organization="gh/acme")
LONG = Sink(kind=SinkKind.PROJECT, id="gh/acme/" + "x" * 60, name="gh/acme/" + "x" * 60, organization="gh/acme")
ID, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


def a_key(tail: str, *, user: str = "ci-deploy", made: datetime = MADE, active: bool = True) -> AccessKey:
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    return AccessKey(account=ACCOUNT, user=user, id=f"AKIA000000000000{tail}", status=status, created_at=made)


def pair(sink: Sink, tail: str = "WXYZ", secret_tail: str = "s/+c") -> tuple[StoredVariable, ...]:
    return tuple(
        StoredVariable(sink=sink, variable=MaskedVariable(name=name, tail=shown, created_at=MADE, updated_at=MADE))
        for name, shown in ((ID, tail), (SECRET, secret_tail))
    )


def legacy(tail: str) -> StoredSecret:
    return StoredSecret(
        kind=SecretKind.LEGACY_AWS_KEY,
        id="l",
        organization="gh/acme",
        place="gh/acme/web",
        place_kind="project",
        name="AWS permissions",
        tail=tail,
    )


def inventory(*variables: StoredVariable, **more: Any) -> Inventory:
    fields: dict[str, Any] = {
        "generated_at": "2023-01-04T12:00:00Z",
        "kinds": tuple(kind.value for kind in SecretKind),
        "organizations": (Organization(id="o", slug="gh/acme", name="Acme"),),
        "projects": (Project(id="p", slug="gh/acme/web", organization="gh/acme", known_by=("private",)),),
        "contexts": (DEPLOY,),
        "variables": variables,
        "keys": (a_key("WXYZ"),),
        "users": (
            User(
                account=ACCOUNT,
                name="ci-deploy",
                arn=f"arn:aws:iam::{ACCOUNT}:user/ci-deploy",
                policies=("AdministratorAccess",),
                reach=("everything (policy AdministratorAccess)",),
            ),
        ),
        **more,
    }
    return Inventory(**fields)


def shown(found: Inventory, width: int, window: Window | None = None) -> str:
    screen = Screen()
    stream = io.StringIO()
    screen.answer = Console(
        file=stream, width=width, force_terminal=True, color_system=None, highlight=False, markup=False
    )
    screen.inventory(document(found, window=window))
    return stream.getvalue()


CROWDED = inventory(
    *pair(DEPLOY),
    *pair(LONG, "ABCD"),
    StoredVariable(sink=DEPLOY, variable=MaskedVariable(name="WIDE_\u5bc6\u94a5_\x1b[31m", tail=None)),
    keys=(a_key("WXYZ"), a_key("ABCD", user="u" * 64)),
    secrets=(legacy("WXYZ"),),
    root_keys=(ACCOUNT,),
)


@pytest.mark.parametrize("width", [200, 120, 100, 80, 79, 60, 40])
def test_the_table_fits_its_terminal_and_loses_no_id(width) -> None:
    text = shown(CROWDED, width, Window(end=NOW))
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b[31m" not in text
    if width >= 60:
        for key in CROWDED.keys:
            assert key.id in text


def test_the_first_line_says_whether_it_is_whole() -> None:
    assert shown(inventory(*pair(DEPLOY)), 100).startswith("Complete: 2 stored things, 1 access keys.")
    hole = Hole(what="context variables", where="release", why="HTTP403")
    lines = shown(inventory(*pair(DEPLOY), holes=(hole,)), 100).splitlines()
    assert lines[0].startswith("INCOMPLETE: 1 thing(s) could not be read; this is no all-clear.")
    assert "not read: context variables of release (HTTP403)" in "".join(lines[:5])


def test_a_key_says_what_it_opens_and_who_uses_it() -> None:
    text = shown(inventory(*pair(DEPLOY)), 200)
    assert "opens: everything (policy AdministratorAccess); open to every project (1 now)" in text
    assert "deploy: AWS_ACCESS_KEY_ID + AWS_SECRET_ACCESS_KEY" in text
    hole = Hole(what="tags and policies of users", where=ACCOUNT, why="AccessDenied")
    assert "opens: not known" in shown(inventory(*pair(DEPLOY), holes=(hole,)), 200)


def test_a_continued_reading_says_how_old_it_is() -> None:
    text = shown(inventory(*pair(DEPLOY), oldest_read_at="2023-01-04T11:50:00Z"), 100)
    assert "its oldest part is of 2023-01-04T11:50:00Z" in text.splitlines()[2]


WINDOW = Window(start=MADE + timedelta(days=1), end=NOW)


def test_after_completeness_comes_what_is_exposed_then_the_warnings_then_the_keys() -> None:
    lines = shown(CROWDED, 140, WINDOW).splitlines()
    assert lines[0].startswith("Complete: ")
    assert lines[1] == "Exposure: 0 of 6 secrets rotated; 5 exposed, 1 unknown."
    assert lines[2].startswith("!! the root user")
    keys = next(number for number, line in enumerate(lines) if line == "2 access keys")
    assert all(line.startswith((" !", "!!")) for line in lines[2:keys] if line)
    assert lines[-2:] == lines[:2], "a terminal shows the end of a long table"


def test_without_a_window_nothing_is_judged_and_the_flags_are_named() -> None:
    second = shown(inventory(*pair(DEPLOY)), 140).splitlines()[1]
    assert second.startswith("Exposure: not judged. ")
    assert "--exposed-from TIME --exposed-until TIME" in second


def test_keys_that_are_on_and_stored_come_first_and_are_marked() -> None:
    keys = (a_key("AAAA", active=False), a_key("BBBB"), a_key("WXYZ"))
    text = shown(inventory(*pair(DEPLOY), keys=keys), 200, WINDOW)
    rows = [line for line in text.splitlines() if "│ AKIA" in line and "ci-deploy" in line]
    assert [line.split("AKIA")[1][12:16] for line in rows] == ["WXYZ", "BBBB", "AAAA"]
    assert ["EXPOSED" in line for line in rows] == [True, False, False]
    after = shown(inventory(*pair(DEPLOY), keys=keys), 200, Window(end=MADE - timedelta(days=1)))
    assert "EXPOSED" not in after


def test_hundreds_of_warnings_do_not_hide_the_keys() -> None:
    keys = tuple(a_key(f"{number:04}", made=NOW - timedelta(days=1)) for number in range(40))
    lines = shown(inventory(keys=keys), 140, WINDOW).splitlines()
    begins = lines.index("40 access keys")
    assert begins == 2 + URGENT_SHOWN + 2
    assert lines[begins - 2] == f"   {40 - URGENT_SHOWN} more like these stand at the end"
    assert sum("find out by whom" in line for line in lines) == 40, "none is left out"


def test_a_kind_says_how_it_is_rotated_and_where_that_differs() -> None:
    gone = Project(id="q", slug="gh/acme/gone", organization="gh/acme", known_by=("private",), deleted=True)
    sink = Sink(kind=SinkKind.PROJECT, id=gone.slug, name=gone.slug, organization="gh/acme")
    lines = shown(inventory(*pair(DEPLOY), *pair(sink), *pair(LONG), projects=(gone,)), 200).splitlines()
    assert "  rotated by this tool" in lines[lines.index("2 of the kind context-variable") :]
    project = lines[lines.index("4 of the kind project-variable") :]
    assert project[1].startswith("  by hand: 2, such as: gh/acme/gone is deleted and nothing in it can be changed")
    assert project[2] == "  rotated by this tool: 2"


def test_a_restriction_says_which_project_it_means() -> None:
    limits = tuple(
        StoredRestriction(sink=DEPLOY, restriction=Restriction(id=value, kind="project", value=value))
        for value in ("p", "elsewhere")
    )
    rows = document(inventory(restrictions=limits))["secrets"]
    assert [row["note"] for row in rows] == ["only gh/acme/web", "a project that no source lists"]


def test_a_setting_says_why_it_does_not_count() -> None:
    region = StoredVariable(sink=DEPLOY, variable=MaskedVariable(name="AWS_REGION", tail="st-1", updated_at=MADE))
    told = document(inventory(region), window=WINDOW)
    assert told["secrets"][0]["note"] == "a setting by its name, so it does not count"
    assert told["burn_down"]["total"] == 0


def test_the_secret_of_an_unknown_key_says_beside_what_it_stands() -> None:
    rows = document(inventory(*pair(DEPLOY, "QQQQ")))["secrets"]
    assert rows[0]["note"].startswith("tail QQQQ is no key of these accounts")
    assert rows[1]["note"].startswith("it stands beside AWS_ACCESS_KEY_ID: tail QQQQ is no key")


# --- Findings ---------------------------------------------------------------------------------------------------------


def said(found: Inventory, window: Window | None = None) -> list[tuple[str, str]]:
    return [(item["level"], item["text"]) for item in findings(found, window)]


def test_root_keys_come_first_and_are_a_danger() -> None:
    first, *_ = said(CROWDED)
    assert first == ("danger", f"the root user of {ACCOUNT} has access keys: delete them by hand")


def test_one_key_with_two_secrets_is_a_broken_pair() -> None:
    other = Sink(kind=SinkKind.CONTEXT, id="c-2", name="deploy-2", organization="gh/acme")
    same = inventory(*pair(DEPLOY), *pair(other))
    torn = inventory(*pair(DEPLOY), *pair(other, secret_tail="0000"))
    assert not any("broken" in text for _, text in said(same))
    assert [level for level, text in said(torn) if "one of these pairs is broken" in text] == ["warning"]


def test_keys_that_are_stored_nowhere_are_told_used_or_not() -> None:
    keys = (a_key("WXYZ"), a_key("ABCD"), a_key("EFGH"), a_key("IJKL", active=False))
    used = {keys[1].id: LastUsed(at=NOW, service="s3")}
    found = said(inventory(*pair(DEPLOY), keys=keys, last_used=used))
    assert next((level, keys[1].id in text, "was used on 2023-01-04" in text) for level, text in found) == (
        "note",
        True,
        True,
    )
    assert "no use of it is known" in found[1][1]
    assert len(found) == 2


def test_a_key_of_a_legacy_integration_is_stored_and_only_hands_can_change_it() -> None:
    ((level, text),) = said(inventory(secrets=(legacy("WXYZ"),)))
    assert (level, "AKIA000000000000WXYZ of ci-deploy (tail-only)" in text) == ("warning", True)
    told = document(inventory(secrets=(legacy("WXYZ"),)))
    assert told["access_keys"][0]["stored_in"] == ["legacy-aws-key:gh/acme/web:l"]
    assert told["secrets"][0]["access_key"]["confidence"] == "tail-only"
    assert told["secrets"][0]["rotation"].startswith("by-hand: Project Settings > AWS Permissions of gh/acme/web")


def test_a_key_that_was_made_while_strangers_could_read_is_told() -> None:
    window = Window(start=NOW - timedelta(days=14), end=NOW)
    keys = (a_key("WXYZ", made=NOW - timedelta(days=1)), a_key("ABCD"), a_key("EFGH", made=NOW + timedelta(days=1)))
    found = [text for level, text in said(inventory(*pair(DEPLOY), keys=keys), window) if "strangers" in text]
    assert len(found) == 1
    assert keys[0].id in found[0]
    assert "find out by whom" in found[0]


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_a_cell_that_would_run_in_a_spreadsheet_is_quoted() -> None:
    names = ["=cmd()", "+1", "-1", "@x", "\tx", 'plain,with "quotes"\nand a line']
    variables = [StoredVariable(sink=DEPLOY, variable=MaskedVariable(name=name, tail="aaaa")) for name in names]
    rows = list(csv.DictReader(io.StringIO(to_csv(document(inventory(*variables))))))
    assert [row["name"] for row in rows] == ["'=cmd()", "'+1", "'-1", "'@x", "'\tx", names[-1]]
    assert {row["kind"] for row in rows} == {"context-variable"}
    assert {row["exposure"] for row in rows} == {"unknown"}
