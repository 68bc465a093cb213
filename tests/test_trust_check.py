"""`doctor --oidc` on the twin: the roles that trust CircleCI today, and what is wrong with how; and roles as code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from oidc_world import FIRST, SECOND, STEPS, oidc_case, undo

from playbook import cli
from playbook.engine import not_put_back
from playbook.errors import GuardError
from playbook.infrastructure_code import cloudformation, terraform
from playbook.inventory import find_organizations
from playbook.journal import Journal
from playbook.trust import Grant, Issuer, TrustedProject, make_trust
from playbook.trust_check import check_roles
from playbook.twins import state as states
from playbook.world import CaseWorld
from steps.oidc_code import made_in_iam

WRITES = ("create", "put", "delete", "update", "attach", "add", "set", "tag", "remove", "detach")


def checked(case):
    view = CaseWorld(case.world.platforms(), Journal(), parallel=1)
    return check_roles(view, find_organizations(view, ("gh/acme",)))


def add_role(case, name, trust, account=FIRST):
    made = states.IamRole(name=name, arn=f"arn:aws:iam::{account}:role/{name}", trust=trust)
    case.world.foreign_put_role(account, made)
    case.world.clock.advance(60)


def good(case, account=FIRST):
    owner = case.world.state.circleci.organizations["gh/acme"].id
    projects = (TrustedProject(id=case.world.state.circleci.projects["gh/acme/api"].id),)
    return make_trust(Grant(issuer=Issuer.cloud(owner), partition="aws", account=account, projects=projects))


def test_good_and_bad_roles_are_told_apart_in_every_account_and_nothing_is_changed():
    case = oidc_case()
    trust = good(case)
    add_role(case, "right", trust)
    wrong = json.loads(json.dumps(trust))
    (statement,) = wrong["Statement"]
    key = next(name for name in statement["Condition"]["StringEquals"] if name.endswith(":aud"))
    statement["Condition"]["StringEquals"] = {key: "sts.amazonaws.com"}
    add_role(case, "as-documented", wrong)
    only = json.loads(json.dumps(good(case, SECOND)))
    only["Statement"][0]["Condition"]["StringEquals"] = {
        name: value
        for name, value in only["Statement"][0]["Condition"]["StringEquals"].items()
        if name.endswith(":aud")
    }
    add_role(case, "anybody", only, SECOND)
    add_role(case, "unrelated", {"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]})  # fmt: skip
    calls = []
    case.world.on_call = lambda call, _when: calls.append(call.operation)
    found = checked(case)
    case.world.on_call = None
    codes = {(role.account, role.role): {item.code for item in role.lints} for role in found.roles}
    assert codes[FIRST, "right"] == set()
    assert "documented-audience" in codes[FIRST, "as-documented"]
    assert "audience-only" in codes[SECOND, "anybody"]
    assert (FIRST, "unrelated") not in codes
    assert found.is_urgent
    assert not [name for name in calls if name.startswith(WRITES)]
    rows = found.rows()
    assert any(row[1] == "right" and row[4] == "nothing is wrong" for row in rows)
    assert {row["role"] for row in found.document()["roles"]} == {"right", "as-documented", "anybody"}


def test_what_this_tool_makes_has_no_fault():
    case = oidc_case()
    case.play(*STEPS)
    case.world.clock.advance(60)
    found = checked(case)
    assert [role.role for role in found.roles] == ["circleci-api", "circleci-web", "circleci-data"]
    assert not [item for role in found.roles for item in role.lints]
    assert not found.is_urgent


def test_an_account_that_may_not_be_read_is_a_hole_and_no_all_clear():
    case = oidc_case(faults=["deny:details:1x1"])
    found = checked(case)
    assert [hole.where for hole in found.holes] == [FIRST]
    assert found.is_urgent
    assert any(row[0] == FIRST and row[2] == "unread" for row in found.rows())


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_command_prints_a_table_or_json_and_says_10(monkeypatch, form):
    case = oidc_case()
    wrong = good(case)
    del wrong["Statement"][0]["Condition"]
    add_role(case, "anybody", wrong)
    monkeypatch.setattr(cli, "_live", lambda *_args, **_named: case.world.platforms())
    arguments = ["doctor", "--oidc", "--organization", "gh/acme", "--no-input"]
    result = CliRunner().invoke(cli.commands, [*arguments, *(["--json"] if form == "json" else [])])
    assert result.exit_code == 10, result.output
    if form == "json":
        (role,) = json.loads(result.stdout)["roles"]
        assert role["role"] == "anybody"
    else:
        assert "anybody" in result.stdout


# --- As code --------------------------------------------------------------------------------------------------------


def test_what_was_made_is_written_as_code_account_by_account_until_it_is_put_back():
    case = oidc_case()
    case.play(*STEPS)
    made = made_in_iam("toy", not_put_back(case.journal.state))
    assert sorted(made) == [FIRST, SECOND]
    assert sorted(role.name for role in made[FIRST].roles) == ["circleci-api", "circleci-web"]
    text = terraform(made[FIRST])
    assert 'name                 = "circleci-api"' in text
    assert "max_session_duration = 7200" in text
    assert f'"arn:aws:iam::{FIRST}:policy/acme-deploy"' in text
    resources = json.loads(cloudformation(made[SECOND]))["Resources"]
    assert sorted(item["Type"] for item in resources.values()) == ["AWS::IAM::OIDCProvider", "AWS::IAM::Role"]
    undo(case)
    with pytest.raises(GuardError, match="made no provider and no role"):
        made_in_iam("toy", not_put_back(case.journal.state))
