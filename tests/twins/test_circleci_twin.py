"""CircleCI keeps its rules: masks, the cap, upserts, times, lag, 403 for a context that is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twins.small_worlds import MADE, NO_LAG, ORGANIZATION, START, context, project, small_world

from playbook.errors import CircleCiError, CredentialsError, Effect
from playbook.ports import Organization, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins.state import ContextRestriction, StoredProject, Value, Variable
from playbook.twins.switches import FreshTail

# Measured by others for contexts, lengths 0 to 12 (facts 2.4).
SHOWN = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4, 9: 4, 10: 4, 11: 4, 12: 4}


def refused(status, action, *arguments):
    with pytest.raises(CircleCiError) as caught:
        action(*arguments)
    assert (caught.value.status, caught.value.effect) == (status, Effect.NONE)


def missing():
    return Sink(kind=SinkKind.CONTEXT, id="nowhere", name="nowhere", organization="gh/acme")


@pytest.mark.parametrize("kind", ["context", "project"])
def test_the_mask_is_the_measured_one(kind):
    world = small_world()
    sink = context(world) if kind == "context" else project(world)
    text = "abcdefghijkl"
    for length, shown in SHOWN.items():
        world.circleci.put_variable(sink, "PROBE", Secret(text[:length]))
        tail = world.circleci.variables(sink).find("PROBE").tail
        assert tail == text[length - shown : length], length


def test_a_write_moves_updated_at_and_keeps_created_at_even_for_the_same_value():
    world = small_world()
    sink = context(world)
    before = world.circleci.variables(sink).find("AWS_ACCESS_KEY_ID")
    moments = []
    for _ in range(2):
        world.circleci.put_variable(sink, "AWS_ACCESS_KEY_ID", Secret("the same value"))
        found = world.circleci.variables(sink).find("AWS_ACCESS_KEY_ID")
        assert found.created_at == before.created_at
        moments.append(found.updated_at)
    assert before.updated_at < moments[0] < moments[1]


@pytest.mark.parametrize("moves", [False, True])
def test_a_project_has_no_updated_at_and_its_created_at_moves_by_switch(moves):
    world = small_world(replace(NO_LAG, overwrite_moves_created_at=moves))
    before = world.circleci.variables(project(world)).find("AWS_ACCESS_KEY_ID")
    world.circleci.put_variable(project(world), "AWS_ACCESS_KEY_ID", Secret("overwritten"))
    after = world.circleci.variables(project(world)).find("AWS_ACCESS_KEY_ID")
    assert (after.tail, after.updated_at) == ("tten", None)
    assert (after.created_at > START) is moves
    assert (after.created_at == before.created_at) is not moves


def test_the_cap_refuses_new_names_only():
    world = small_world()
    sink = context(world, "empty")
    for number in range(100):
        world.circleci.put_variable(sink, f"NAME_{number:03d}", Secret("a value"))
    refused(400, world.circleci.put_variable, sink, "ONE_MORE", Secret("a value"))
    world.circleci.put_variable(sink, "NAME_007", Secret("replaced"))
    listed = world.circleci.variables(sink)
    assert (len(listed.items), listed.complete) == (100, True)
    assert listed.find("NAME_007").tail == "aced"
    world.circleci.delete_variable(sink, "NAME_008")
    world.circleci.put_variable(sink, "ONE_MORE", Secret("a value"))
    for number in range(101):
        world.circleci.put_variable(project(world, "gh/acme/web"), f"NAME_{number}", Secret("a value"))


@pytest.mark.parametrize(("switch", "listed", "complete"), [({}, 100, False), ({"spec_paging": True}, 109, True)])
def test_what_is_over_a_hundred_is_out_of_reach(switch, listed, complete):
    world = small_world(replace(NO_LAG, **switch))
    stored = world.state.circleci.contexts["id-empty"].variables
    for number in range(109):
        stored[f"NAME_{number:03d}"] = Variable(value=Value.opaque("a value"))
    read = world.circleci.variables(context(world, "empty"))
    assert [item.name for item in read.items] == sorted(stored)[:listed]
    assert read.complete is complete
    world.circleci.put_variable(context(world, "empty"), "NAME_108", Secret("an existing one, above the cap"))
    refused(400, world.circleci.put_variable, context(world, "empty"), "NAME_109", Secret("a value"))


@pytest.mark.parametrize("status", [403, 404])
def test_a_context_that_is_not_there_is_refused_on_every_route(status):
    circleci = small_world(replace(NO_LAG, missing_context_status=status)).circleci
    refused(status, circleci.variables, missing())
    refused(status, circleci.restrictions, missing())
    refused(status, circleci.put_variable, missing(), "A", Secret("a value"))
    refused(status, circleci.delete_variable, missing(), "A")


def test_deleting_what_is_not_there_raises_nothing():
    world = small_world()
    world.circleci.delete_variable(context(world), "AWS_ACCESS_KEY_ID")
    world.circleci.delete_variable(context(world), "AWS_ACCESS_KEY_ID")
    world.circleci.delete_variable(project(world), "NEVER_THERE")
    assert world.circleci.variables(context(world)).find("AWS_ACCESS_KEY_ID") is None


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "Ä", "A\n", "A" * 301])
def test_a_variable_has_a_shell_name(name):
    world = small_world()
    refused(400, world.circleci.put_variable, context(world), name, Secret("a value"))


def test_a_fresh_variable_has_no_tail_yet_or_still_the_old_one():
    for mode in FreshTail:
        world = small_world(replace(NO_LAG, tail_lag_s=2, fresh_tail=mode))
        for sink in (context(world), project(world)):
            old = world.circleci.variables(sink).find("AWS_ACCESS_KEY_ID")
            world.circleci.put_variable(sink, "AWS_ACCESS_KEY_ID", Secret("first new value1"))
            world.circleci.put_variable(sink, "AWS_ACCESS_KEY_ID", Secret("second new value2"))
            world.circleci.put_variable(sink, "BRAND_NEW", Secret("third new value3"))
            fresh = world.circleci.variables(sink)
            if mode is FreshTail.OLD:
                assert fresh.find("AWS_ACCESS_KEY_ID") == old
                assert fresh.find("BRAND_NEW") is None
            else:
                assert [fresh.find(name).tail for name in ("AWS_ACCESS_KEY_ID", "BRAND_NEW")] == [None, None]
            world.clock.sleep(2)
            settled = world.circleci.variables(sink)
            assert [settled.find(name).tail for name in ("AWS_ACCESS_KEY_ID", "BRAND_NEW")] == ["lue2", "lue3"]


def test_contexts_are_made_once_by_name():
    world = small_world()
    made = world.circleci.create_context(ORGANIZATION, "aws-oidc")
    assert made in world.circleci.contexts(ORGANIZATION)
    assert world.circleci.variables(made).items == ()
    refused(409, world.circleci.create_context, ORGANIZATION, "aws-oidc")
    refused(400, world.circleci.create_context, ORGANIZATION, " spaced ")
    refused(404, world.circleci.create_context, Organization(id="", slug="gh/else", name=""), "aws")


def test_projects_with_the_deleted_ones_which_can_still_be_read():
    world = small_world()
    gone = StoredProject(
        id="id-gone",
        slug="gh/acme/gone",
        organization="gh/acme",
        known_by=("private",),
        deleted=True,
        variables={"LEFT_BEHIND": Variable(value=Value.opaque("left behind"), created_at=MADE)},
    )
    world.state.circleci.projects[gone.slug] = gone
    found = {item.slug: item for item in world.circleci.projects(ORGANIZATION).items}
    assert list(found) == ["gh/acme/api", "gh/acme/gone", "gh/acme/web"]
    assert (found["gh/acme/gone"].deleted, found["gh/acme/gone"].known_by) == (True, ("private",))
    assert world.circleci.variables(project(world, gone.slug)).find("LEFT_BEHIND").tail == "hind"
    refused(404, world.circleci.put_variable, project(world, gone.slug), "A", Secret("a value"))


def test_a_slug_has_two_spellings_of_its_provider():
    world = small_world()
    sink = replace(project(world), id="github/acme/api")
    assert world.circleci.variables(sink) == world.circleci.variables(project(world))
    refused(404, world.circleci.variables, replace(sink, id="github/acme/nothing"))


def test_restrictions_are_listed():
    world = small_world()
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r1", kind="project", value="id-api")]
    (found,) = world.circleci.restrictions(context(world))
    assert (found.id, found.kind, found.value) == ("r1", "project", "id-api")


def test_a_wrong_token_is_rejected_on_every_call_and_changes_nothing():
    world = small_world()
    world.state.circleci.token_sha256 = Secret("right").digest()
    wrong, right = (world.platforms(Secret(token)).circleci for token in ("wrong", "right"))
    for action in (
        wrong.login,
        wrong.organizations,
        lambda: wrong.variables(context(world)),
        lambda: wrong.put_variable(context(world), "A", Secret("a value")),
    ):
        with pytest.raises(CredentialsError):
            action()
    assert right.login() == "responder"
    assert right.variables(context(world)).find("A") is None
