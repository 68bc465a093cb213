"""The installed program's inventory of a served world: no row missing, none invented, interrupted and continued."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import threading
import time
from collections import Counter
from importlib import resources

import jsonschema
import pytest
from e2e.lab import PROGRAM, run_program

from playbook.reading import FILE
from playbook.twins.faults import Faults, parse

SHAPE = json.loads((resources.files("playbook") / "schemas" / "inventory.schema.json").read_text())
CONFIG = """
jobs:
  deploy: {docker: [{image: cimg/base:2024.01}]}
  pull: {docker: [{image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/base:1}]}
workflows:
  main:
    jobs: [pull, {deploy: {context: aws-production}}]
"""


@pytest.fixture
def ask(sandbox, environment, tmp_path):
    def run(*arguments):
        return run_program(environment, "inventory", *sandbox.arguments(), *arguments, cwd=tmp_path)

    return run


def told(done, code=0):
    assert done.returncode == code, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, SHAPE)
    return document


def stored_in(state):
    """What the served world truly stores, by kind."""
    circleci = state.circleci
    projects = circleci.projects.values()
    return Counter(
        {
            "context-variable": sum(len(item.variables) for item in circleci.contexts.values()),
            "context-restriction": sum(len(item.restrictions) for item in circleci.contexts.values()),
            "project-variable": sum(len(item.variables) for item in projects),
            "checkout-key": sum(len(item.checkout_keys) for item in projects),
            "ssh-key": sum(len(item.ssh_keys) for item in projects),
            "legacy-aws-key": sum(item.legacy_aws is not None for item in projects),
            "project-token": sum(len(item.tokens) for item in projects),
            "webhook-secret": sum(len(item.webhooks) for item in projects),
            "trigger-url": sum(
                trigger.provider == "webhook"
                for item in projects
                for each in item.definitions
                for trigger in each.triggers
            ),
        }
    )


def test_no_row_is_missing_and_none_is_invented(sandbox, ask):
    document = told(ask("--json"))
    found = Counter(row["kind"] for row in document["secrets"])
    truth = stored_in(sandbox.state)
    print(f"\n{dict(found)}")
    assert document["complete"]
    assert {kind: found[kind] for kind in truth} == dict(truth)
    assert found["runner-token"] == 2
    assert found["oidc-claims"] >= 1
    assert set(found) == set(truth) | {"runner-token", "oidc-claims"}
    assert len({row["id"] for row in document["secrets"]}) == len(document["secrets"])
    keys = {key.key_id for key in sandbox.keys.values()}
    assert {row["id"] for row in document["access_keys"]} >= keys
    assert "secret=" not in json.dumps(document)


def test_users_come_with_tags_and_reach_and_the_table_says_what_their_keys_open(sandbox, ask):
    users = {(user["account"], user["name"]): user for user in told(ask("--json"))["users"]}
    first = min(sandbox.state.accounts)
    assert users[first, "terraform"]["reach"] == ["everything (policy AdministratorAccess)"]
    assert users[first, "terraform"]["tags"] == {"team": "infrastructure"}
    assert (users[first, "ci-deploy"]["policies"], users[first, "ci-deploy"]["reach"]) == (["acme-deploy"], [])
    table = ask("--format", "table").stdout
    assert table.startswith("Complete: ")
    assert "opens: everything (policy AdministratorAccess); open to 1 project(s)" in table
    assert "opens: acme-deploy; open to 2 project(s)" in table


SERVED_FIRST = 50
"""Looks at the world (two a call) after which the server is slow."""


def test_an_interrupted_inventory_goes_on_where_it_was(sandbox, environment, tmp_path):
    # From then on every answer takes seconds, so that no busy machine ends the reading before the interrupt.
    served, go_on = itertools.count(), threading.Event()
    sandbox.world.on_call = lambda *_: next(served) < SERVED_FIRST or go_on.wait(2)
    folder = tmp_path / "case"
    command = [PROGRAM, "inventory", *sandbox.arguments(), "--json", "--case", str(folder), "--parallel", "1"]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background is born deaf to the interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # nothing else runs here
    )
    wait_for(lambda: folder.joinpath(FILE).exists() and folder.joinpath(FILE).read_text().count('"part"') >= 12)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    go_on.set()
    assert process.returncode == 130
    assert output == ""

    done = run_program(environment, *command[1:], cwd=tmp_path)

    document = told(done)
    assert "Going on with an interrupted inventory" in done.stderr
    assert document["complete"]
    assert sum(item["reused"] for item in document["calls"]) >= 10
    assert document["oldest_read_at"] < document["generated_at"]
    assert not folder.joinpath(FILE).exists()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_refused_is_named_and_a_second_run_asks_for_no_more_than_that(sandbox, ask, tmp_path):
    sandbox.world.faults = Faults([parse("deny:restrictions:1x1000")])
    first = ask("--case", tmp_path / "case")
    assert first.stdout.startswith("INCOMPLETE: ")
    sandbox.world.faults = Faults()
    second = told(ask("--json", "--case", tmp_path / "case"))
    assert second["complete"]
    asked = {item["what"]: item["asked"] - item["reused"] for item in second["calls"]}
    assert asked["context restrictions"] == 3
    assert asked["context variables"] == asked["access keys"] == 0


def test_exposure_and_the_nightly_check(ask):
    window = ("--exposed-from", "2000-01-01T00:00:00Z", "--exposed-until", "2000-01-02T00:00:00Z")
    document = told(ask("--json", *window))
    assert {row["exposure"] for row in document["secrets"]} == {"rotated", "unknown", None}
    assert document["exposure_window"] == {"from": "2000-01-01T00:00:00Z", "until": "2000-01-02T00:00:00Z"}
    lean = told(ask("--json", "--kind", "context-variable", "--fail-on-exposed", *window))
    assert lean["burn_down"]["rotated"] == lean["burn_down"]["total"] > 5
    now = ask("--json", "--fail-on-exposed", "--exposed-until", "2999-01-01T00:00:00Z")
    assert told(now, 10)["burn_down"]["rotated"] == 0
    wrong = ask("--exposed-from", "yesterday")
    assert wrong.returncode == 2
    assert "--exposed-from 2022-12-21T00:00:00Z" in wrong.stderr


def test_checkouts_name_the_jobs(sandbox, ask, tmp_path):
    (tmp_path / "api/.circleci").mkdir(parents=True)
    (tmp_path / "api/.circleci/config.yml").write_text(CONFIG)
    document = told(ask("--json", "--checkout", f"gh/acme/api={tmp_path / 'api'}"))
    jobs = {(job["job"], job["via"]) for row in document["access_keys"] for job in row["blast_radius"]["jobs"]}
    assert ("deploy", "the context aws-production") in jobs
    assert any(job == "pull" and "ECR" in via for job, via in jobs)
    table = ask("--checkout", f"gh/acme/api={tmp_path / 'api'}")
    assert "seen in 2 job(s)" in table.stdout
    assert ask("--checkout", tmp_path / "none").returncode == 2


def test_what_pipelines_ran_with_names_the_jobs(sandbox, ask):
    document = told(ask("--json", "--compiled-configs", "2"))
    assert document["complete"]
    jobs = {
        (job["project"], job["file"], job["job"], job["via"])
        for row in document["access_keys"]
        for job in row["blast_radius"]["jobs"]
    }
    assert ("gh/acme/api", "pipeline 811", "release", "the context aws-production") in jobs
    assert ("gh/acme/web", "pipeline 96", "preview", "the context aws-staging") in jobs
    assert any(file == "pipeline 811" and job == "build" and "ECR" in via for _, file, job, via in jobs)
    sandbox.world.faults = Faults([parse("deny:pipelines:1x1")])
    holed = told(ask("--json", "--compiled-configs", "1"))
    assert [hole["what"] for hole in holed["holes"]] == ["configuration of a run"]
    assert ask("--compiled-configs", "21").returncode == 2


def test_a_persons_word_confirms_a_row(ask):
    document = told(ask("--json"))
    row = next(row for row in document["secrets"] if row["access_key"] and row["name"].endswith("ACCESS_KEY_ID"))
    again = told(ask("--json", "--holds", f"{row['id']}={row['access_key']['id']}"))
    confirmed = next(item for item in again["secrets"] if item["id"] == row["id"])
    assert confirmed["access_key"]["confidence"] == "confirmed"


def test_projects_of_a_file_and_one_that_is_nobodys(ask, tmp_path):
    (tmp_path / "projects").write_text("gh/acme/api\ngh/nobody/x\n")
    done = ask("--json", "--projects-file", tmp_path / "projects")
    document = told(done)
    assert [hole["where"] for hole in document["holes"]] == ["gh/nobody/x"]
    assert not document["complete"]


def test_a_case_counts_down_what_it_rotated(sandbox, environment, tmp_path):
    done = run_program(environment, "rehearse", "--batch", "--case", tmp_path / "case", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(run_program(environment, "status", "--json", tmp_path / "case", cwd=tmp_path).stdout)
    left = document["burn_down"]
    print(f"\n{left}")
    assert left["rotated"] >= 16
    assert left["total"] == left["rotated"] + left["exposed"] + left["unknown"]
    assert f"Secrets: {left['rotated']} of {left['total']} rotated" in (
        run_program(environment, "status", tmp_path / "case", cwd=tmp_path).stdout
    )
