"""Every row says how it is rotated: by this tool, guided, or by hand with the exact place."""

from __future__ import annotations

import re

import pytest
from twins.kinds_world import ACME, kinds_state, kinds_world, rich_project

from playbook.collect import collect
from playbook.inventory_document import document
from playbook.journal import Journal
from playbook.ports import SecretKind, StoredSecret
from playbook.rotation import THIS_TOOL, way_of, way_of_restriction, way_of_variable
from playbook.world import CaseWorld

FORM = re.compile(r"(this-tool|guided: .+|by-hand: .+|none: .+)")
GUIDED = {
    SecretKind.CHECKOUT_KEY,
    SecretKind.SSH_KEY,
    SecretKind.PROJECT_TOKEN,
    SecretKind.WEBHOOK_SECRET,
    SecretKind.TRIGGER_URL,
    SecretKind.RUNNER_TOKEN,
}
VARIABLES = {SecretKind.CONTEXT_VARIABLE, SecretKind.PROJECT_VARIABLE}


def stored(kind, *, place="gh/acme/api", detail="", name="host.example", **more):
    return StoredSecret(
        kind=kind, id="x", organization="gh/acme", place=place, place_kind="project", name=name, detail=detail, **more
    )


@pytest.mark.parametrize("kind", sorted(set(SecretKind) - VARIABLES - {SecretKind.CONTEXT_RESTRICTION}))
def test_each_kind_says_how_and_where(kind) -> None:
    way = way_of(stored(kind, detail="deploy-key"))
    assert FORM.fullmatch(way)
    assert way.startswith("guided: ") == (kind in GUIDED)
    assert "gh/acme/api" in way or way.startswith("none: ")
    assert "{" not in way, "every place is filled in"


def test_a_legacy_key_is_changed_in_one_page_by_hand() -> None:
    assert way_of(stored(SecretKind.LEGACY_AWS_KEY)).startswith(
        "by-hand: Project Settings > AWS Permissions of gh/acme/api"
    )


def test_an_ssh_key_names_its_host_before_and_after() -> None:
    assert way_of(stored(SecretKind.SSH_KEY)).count("host.example") == 2


@pytest.mark.parametrize("detail", ["github-user-key", "bitbucket-user-key"])
def test_a_user_key_is_its_users(detail) -> None:
    assert way_of(stored(SecretKind.CHECKOUT_KEY, detail=detail)).startswith("by-hand: only the user")


def test_the_api_makes_no_checkout_key_for_a_standalone_project() -> None:
    way = way_of(stored(SecretKind.CHECKOUT_KEY, place="circleci/a/b", detail="deploy-key"))
    assert way.startswith("by-hand: Project Settings > SSH Keys of circleci/a/b")


def test_what_has_no_secret_behind_it_needs_no_rotation() -> None:
    assert way_of(stored(SecretKind.WEBHOOK_SECRET, set=False)).startswith("none: ")


@pytest.mark.parametrize("kind", [SecretKind.LEGACY_AWS_KEY, SecretKind.CHECKOUT_KEY, SecretKind.SSH_KEY])
def test_nothing_in_a_deleted_project_can_be_changed(kind) -> None:
    way = way_of(stored(kind, detail="deploy-key"), deleted=True)
    assert way.startswith("by-hand: gh/acme/api is deleted")
    assert "{" not in way


def test_variables_are_this_tools_but_for_deleted_projects() -> None:
    assert way_of_variable("aws-production") == THIS_TOOL
    assert way_of_variable("gh/acme/old", deleted=True) == (
        "by-hand: gh/acme/old is deleted and nothing in it can be changed any more: "
        "revoke the value where it was issued"
    )
    assert way_of_restriction().startswith("none: ")


def test_a_hostile_name_stays_text() -> None:
    way = way_of(stored(SecretKind.SSH_KEY, name="a{place}\x1b[2J\u202e", place="gh/acme/{name}"))
    assert "\x1b" not in way
    assert "\u202e" not in way
    assert "a{place}" in way
    assert "gh/acme/{name}" in way


def test_the_document_knows_which_projects_are_deleted() -> None:
    gone = rich_project("gh/acme/gone", deleted=True, known_by=("private",))
    world = kinds_world(kinds_state(rich_project("gh/acme/api"), gone))
    told = document(collect(CaseWorld(world.platforms(), Journal(), parallel=4), (ACME,), ()))
    ways = {(row.get("project"), row["kind"]): row["rotation"] for row in told["secrets"]}
    assert all(FORM.fullmatch(way) for way in ways.values())
    assert ways["gh/acme/api", "project-variable"] == THIS_TOOL
    for kind in ("project-variable", "checkout-key", "ssh-key", "legacy-aws-key"):
        assert "gh/acme/gone is deleted" in ways["gh/acme/gone", kind]
