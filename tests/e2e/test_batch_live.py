"""`run --batch` through the real boto3 and httpx clients, over sockets: moto behind its gate, and the HTTP twin."""

from __future__ import annotations

import json

from e2e.lab import run_program

from playbook.correlate import is_id_name, secret_sibling
from playbook.ports import KeyStatus, SinkKind
from playbook.secret import Secret

ANSWERS = """
[incident]
reference = "SEC-1"
severity = "exposed"

[circleci]
organizations = ["gh/acme"]

[[keys]]
match = { user = "terraform" }
strategy = "keep"
reason = "both slots are taken"

[[keys]]
match = { user = "legacy-uploader" }
strategy = "deactivate"

[[keys]]
match = { user = "ci-*" }
strategy = "replace"

[[variables]]
match = { name = "NPM_TOKEN" }
value_from = "env:NEW_NPM_TOKEN"

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
"""


def snapshot(sandbox):
    """Everything of the live world, as bytes that a dry run must not change."""
    keys = {
        (account, user): sorted(sandbox.aws.keys(account, user).items())
        for account, state in sandbox.state.accounts.items()
        for user in state.users
    }
    return repr((keys, [sorted(item.items()) for item in sandbox._sinks()]))


def pairs(sandbox):
    """Where each scenario key is stored: {scenario key id: [(sink, id variable, secret variable)]}."""
    by_tail = {credential.key_id[-4:]: old for old, credential in sandbox.keys.items()}
    found = {}
    for kind, group in (
        (SinkKind.CONTEXT, sandbox.state.circleci.contexts),
        (SinkKind.PROJECT, sandbox.state.circleci.projects),
    ):
        for name, sink in group.items():
            for variable, stored in sink.variables.items():
                old = by_tail.get(stored.value.tail)
                if old is not None and is_id_name(variable):
                    found.setdefault(old, []).append((kind, name, variable, secret_sibling(variable, sink.variables)))
    return found


def stored(sandbox, kind, name, variable):
    group = sandbox.state.circleci.contexts if kind is SinkKind.CONTEXT else sandbox.state.circleci.projects
    return group[name].variables[variable].value


def test_the_dry_run_shows_what_the_real_run_then_does(sandbox, environment, tmp_path):
    answers = tmp_path / "answers.toml"
    answers.write_text(ANSWERS)
    others = sandbox.arguments()
    before = snapshot(sandbox)
    places = pairs(sandbox)
    untouched = {
        (name, variable): stored.value
        for name, sink in sandbox.state.circleci.contexts.items()
        for variable, stored in sink.variables.items()
    }

    dry = run_program(
        environment, "run", "--dry-run", "--batch", "--answers", answers, "--json", "--exit-code", *others, cwd=tmp_path
    )

    assert dry.returncode == 10, dry.stderr
    assert snapshot(sandbox) == before
    assert not [seen for seen in sandbox.aws.requests() if seen.operation.startswith(("Create", "Update", "Delete"))]
    walked = json.loads(dry.stdout)
    assert walked["waits"] == []

    case = tmp_path / "case"
    approved = ["--answers", answers, "--approve", walked["digest"], "--case", case]
    live = run_program(environment, "run", "--batch", *approved, *others, cwd=tmp_path)

    assert live.returncode == 0, live.stderr + live.stdout
    records = [json.loads(line) for line in (case / "journal.jsonl").read_text().splitlines()]
    applied = [
        record["key"] for record in records if record["type"] == "Applied" and not record["key"].startswith("value:")
    ]
    assert sorted(applied) == sorted(change["key"] for change in walked["changes"])
    print(f"{len(applied)} changes, dry run and real run alike; {len(records)} records")

    rotated = {old for old in places if sandbox.keys[old].user.startswith("ci-")}
    assert rotated
    for old in rotated:
        credential = sandbox.keys[old]
        truth = sandbox.aws.keys(credential.account, credential.user)
        assert truth.pop(credential.key_id) is KeyStatus.INACTIVE
        ((new_id, status),) = truth.items()
        assert status is KeyStatus.ACTIVE
        for kind, name, id_variable, secret_variable in places[old]:
            assert stored(sandbox, kind, name, id_variable).tail == new_id[-4:]
            assert stored(sandbox, kind, name, id_variable).sha256 == Secret(new_id).digest()
            secret = Secret(sandbox.aws._signer(new_id).secret)
            assert stored(sandbox, kind, name, secret_variable).sha256 == secret.digest()
    changed = {
        key
        for key, value in untouched.items()
        if sandbox.state.circleci.contexts[key[0]].variables[key[1]].value != value
    }
    written = {
        (name, variable)
        for old in rotated
        for kind, name, *variables in places[old]
        for variable in variables
        if kind is SinkKind.CONTEXT
    }
    npm = {key for key in untouched if key[1] == "NPM_TOKEN"}
    assert changed == written | npm
