"""A job resolves its environment as CircleCI does and signs with what it finds: a canary fails where the real would."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, OTHER, OTHER_KEY, PAIR, context, project, small_world

from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.pipeline import Failure
from playbook.twins.state import ALWAYS, Change, ContextRestriction, Key, Value, Variable


def store(world, sink, credential):
    world.circleci.put_variable(sink, PAIR[0], Secret(credential.key_id))
    world.circleci.put_variable(sink, PAIR[1], credential.secret)


def test_the_opaque_pair_belongs_to_the_key_with_its_tail():
    world = small_world()
    run = world.circleci.run_pipeline("gh/acme/api", [])
    assert (run.passed, run.account, run.user, run.key_tail) == (True, ACCOUNT, "ci", OLD_KEY[-4:])
    assert world.works(project(world), *PAIR)
    assert world.pair_key(project(world), *PAIR) == OLD_KEY


def test_contexts_hide_the_project_and_the_later_one_hides_the_earlier():
    world = small_world()
    run = world.circleci.run_pipeline("gh/acme/api", ["aws", "staging"])
    assert (run.account, run.key_tail) == (OTHER, OTHER_KEY[-4:])
    assert run.id_from == run.secret_from == context(world, "staging")
    assert run.shadowed == (project(world), context(world, "aws"))
    assert world.circleci.run_pipeline("gh/acme/api", ["staging", "aws"]).account == ACCOUNT


def test_half_a_pair_shadowed_does_not_belong_together_and_says_where_each_half_came_from():
    world = small_world()
    made = world.aws[OTHER].create_access_key("ci", tag="t")
    world.circleci.put_variable(context(world, "empty"), PAIR[1], made.secret)
    run = world.circleci.run_pipeline("gh/acme/api", ["empty"])
    assert run.failure is Failure.MISMATCH
    assert (run.id_from, run.secret_from) == (project(world), context(world, "empty"))


def test_a_torn_pair_works_in_neither_order_until_it_is_whole():
    for order in (PAIR, PAIR[::-1]):
        world = small_world()
        made = world.aws[ACCOUNT].create_access_key("ci", tag="t")
        values = {PAIR[0]: Secret(made.key_id), PAIR[1]: made.secret}
        assert world.works(context(world), *PAIR)
        world.circleci.put_variable(context(world), order[0], values[order[0]])
        assert not world.works(context(world), *PAIR)
        assert world.pair_key(context(world), *PAIR) is None
        world.circleci.put_variable(context(world), order[1], values[order[1]])
        assert world.works(context(world), *PAIR)
        assert world.pair_key(context(world), *PAIR) == made.key_id


@pytest.mark.parametrize(("status", "failure"), [(KeyStatus.INACTIVE, Failure.INACTIVE), (None, Failure.DELETED)])
def test_a_key_that_is_off_fails_once_that_has_spread(status, failure):
    world = small_world(replace(NO_LAG, off_lag_s=4))
    world.foreign_set_status(ACCOUNT, OLD_KEY, status)
    assert world.circleci.run_pipeline("gh/acme/api", []).passed
    assert not world.works(project(world), *PAIR), "the truth does not wait"
    world.clock.sleep(4)
    assert world.circleci.run_pipeline("gh/acme/api", []).failure is failure


def test_a_key_that_has_not_spread_yet_fails():
    world = small_world(replace(NO_LAG, sts_lag_s=4))
    store(world, project(world), world.aws[ACCOUNT].create_access_key("ci", tag="t"))
    assert world.circleci.run_pipeline("gh/acme/api", []).failure is Failure.NOT_PROPAGATED
    world.clock.sleep(4)
    assert world.circleci.run_pipeline("gh/acme/api", []).passed


def test_a_restricted_context_lets_only_its_projects_in_and_what_cannot_be_evaluated_is_named():
    world = small_world()
    world.state.circleci.contexts["id-aws"].restrictions = [ContextRestriction(id="r", kind="project", value="id-web")]
    world.state.circleci.contexts["id-staging"].restrictions = [ContextRestriction(id="g", kind="group", value="devs")]
    assert world.circleci.run_pipeline("gh/acme/api", ["aws"]).failure is Failure.UNAUTHORIZED
    assert world.circleci.run_pipeline("gh/acme/web", ["aws"]).passed
    assert world.circleci.run_pipeline("gh/acme/api", ["staging"]).unproven == ("staging",)


def test_what_is_missing_is_said():
    world = small_world()
    run = world.circleci.run_pipeline
    assert run("gh/acme/web", []).failure is Failure.NO_CREDENTIALS
    assert run("gh/acme/web", ["empty"]).failure is Failure.NO_CREDENTIALS
    assert run("gh/acme/web", ["nowhere"]).failure is Failure.UNAUTHORIZED
    assert run("gh/acme/nothing", []).failure is Failure.NO_SUCH_PROJECT
    world.foreign_put(project(world), PAIR[0], "AKIA" + "Q" * 16)
    assert run("gh/acme/api", []).failure is Failure.UNKNOWN_KEY


def test_two_keys_with_one_tail_are_ambiguous_but_a_key_made_later_is_no_candidate():
    world = small_world()
    twin = "AKIA" + "B" * 12 + OLD_KEY[-4:]
    keys = world.state.accounts[OTHER].keys
    keys[twin] = Key(
        id=twin,
        user="ci",
        created_at=world.clock.now(),
        changes=[Change(at=world.clock.now(), status=KeyStatus.ACTIVE)],
    )
    assert world.works(project(world), *PAIR)
    keys[twin].changes = [Change(at=ALWAYS, status=KeyStatus.ACTIVE)]
    assert world.circleci.run_pipeline("gh/acme/api", []).failure is Failure.AMBIGUOUS
    assert not world.works(project(world), *PAIR)


def test_a_tail_that_was_not_shown_matches_no_key():
    world = small_world()
    for tail in (None, "", "x", OLD_KEY[-3:]):
        world.state.circleci.projects["gh/acme/api"].variables[PAIR[0]] = Variable(value=Value(tail=tail))
        assert world.circleci.run_pipeline("gh/acme/api", []).failure is Failure.UNKNOWN_KEY


def test_a_job_leaves_its_trace_in_last_used():
    world = small_world()
    assert world.aws[ACCOUNT].last_used(OLD_KEY).at is None
    world.circleci.run_pipeline("gh/acme/api", [])
    assert world.aws[ACCOUNT].last_used(OLD_KEY).at == world.clock.now().replace(microsecond=0)


def test_a_strangers_pair_of_either_kind():
    world = small_world()
    stranger = world.foreign_create_key(OTHER, "ci")
    world.foreign_put_pair(project(world, "gh/acme/web"), stranger, *PAIR)
    assert world.pair_key(project(world, "gh/acme/web"), *PAIR) == stranger
    world.foreign_put_pair(project(world, "gh/acme/web"), OLD_KEY, *PAIR)
    assert world.pair_key(project(world, "gh/acme/web"), *PAIR) == OLD_KEY
