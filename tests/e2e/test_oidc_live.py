"""A move to OIDC by the installed program, through boto3 and httpx over sockets, and back: moto, and the HTTP twin."""

from __future__ import annotations

import json

import pytest
from e2e.lab import run_program, scrubbed

from playbook.sandbox import Sandbox
from playbook.twins.scenario import load
from playbook.twins.switches import Switches

ANSWERS = """
[incident]
reference = "SEC-1"
severity = "routine"

[circleci]
organizations = ["gh/acme"]

[[keys]]
match = { user = "ci-*" }
strategy = "oidc"
config_merged = true

[[variables]]
match = { name = "*" }
value_from = "keep"
reason = "another day"

[waits]
visible = 3
proof = 0
sink = 3
settle = 0
relist = 0
silence = 0
"""


SLOW_S = 400
"""Canaries are jobs of real seconds, one key after the pilot's."""


@pytest.fixture
def sandbox():
    with Sandbox(load("oidc").state) as served:
        served.world.switches = Switches(tail_lag_s=0, job_s=1, results_lag_s=0)
        yield served


@pytest.fixture
def environment(sandbox, tmp_path):
    return {**scrubbed(tmp_path), **sandbox.environment()}


def roles(sandbox):
    """By account: the roles in moto that trust CircleCI."""
    return {
        account: sorted(
            role.name
            for role in sandbox.aws._backend(account).roles.values()
            if "oidc.circleci.com" in str(role.assume_role_policy_document)
        )
        for account in sandbox.state.accounts
    }


def stored(sandbox):
    circleci = sandbox.state.circleci
    return {
        **{item.name: sorted(item.variables) for item in circleci.contexts.values()},
        **{slug: sorted(item.variables) for slug, item in circleci.projects.items()},
    }


def works(sandbox, variables, id_variable, secret_variable):
    """Whether moto takes the stored pair, by the digests that the twin keeps."""
    tail = variables[id_variable].value.tail
    for account, state in sandbox.state.accounts.items():
        for user in state.users:
            for key_id, status in sandbox.aws.keys(account, user).items():
                if key_id[-4:] == tail and status.value == "Active":
                    secret = sandbox.aws.secret_of(key_id)
                    return variables[secret_variable].value.sha256 == secret.digest()
    return False


def test_three_projects_move_through_the_real_clients_and_back(sandbox, environment, tmp_path):
    answers = tmp_path / "answers.toml"
    answers.write_text(ANSWERS)
    others = sandbox.arguments()
    before = stored(sandbox)
    dry = run_program(environment, "run", "--dry-run", "--batch", "--answers", answers, "--json", *others, cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert stored(sandbox) == before
    assert not any(roles(sandbox).values())
    walked = json.loads(dry.stdout)
    case = tmp_path / "case"
    approved = ["--answers", answers, "--approve", walked["digest"], "--case", case]

    live = run_program(environment, "run", "--batch", *approved, *others, cwd=tmp_path, timeout=SLOW_S)

    assert live.returncode == 0, live.stderr + live.stdout
    records = [json.loads(line) for line in (case / "journal.jsonl").read_text().splitlines()]
    applied = [record["key"] for record in records if record["type"] == "Applied"]
    assert sorted(applied) == sorted(change["key"] for change in walked["changes"])
    assert roles(sandbox) == {"111122223333": ["circleci-api", "circleci-web"], "444455556666": ["circleci-data"]}
    after = stored(sandbox)
    assert [after[slug] for slug in ("gh/acme/api", "gh/acme/web", "gh/acme/data")] == [[], [], []]
    canaries = [item["evidence"]["arn"] for item in records if item["type"] == "Verified" and "canary" in item["key"]]
    assert len(canaries) == 3
    assert all(":assumed-role/circleci-" in arn for arn in canaries)
    print(f"{len(applied)} changes, dry run and real run alike; {len(records)} records")

    undone = run_program(environment, "undo", case, "--batch", "--yes", cwd=tmp_path, timeout=SLOW_S)

    assert undone.returncode == 0, undone.stderr + undone.stdout
    assert stored(sandbox) == before
    assert not any(roles(sandbox).values())
    assert not any(sandbox.aws._backend(account).open_id_providers for account in sandbox.state.accounts)
    circleci = sandbox.state.circleci
    production = next(item for item in circleci.contexts.values() if item.name == "aws-production")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert works(sandbox, production.variables, *names)
    for slug, prefix in (("gh/acme/api", ""), ("gh/acme/web", "DEPLOY_"), ("gh/acme/data", "")):
        assert works(sandbox, circleci.projects[slug].variables, *(f"{prefix}{name}" for name in names))
