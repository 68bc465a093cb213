"""The commands that look, and the rehearsal, as the installed program shows them to people and to machines."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys

import pytest
from e2e.lab import CHANGING, PROGRAM, USER, records_of, run_program, scrubbed

from playbook import __version__
from playbook.cli import commands
from playbook.twins.faults import FAULTS
from playbook.twins.moto_server import Fault, FaultKind

INCIDENTS = 4
BATCH = ("--batch", "--answers", "answers.toml")


@pytest.fixture(scope="module")
def shared(lab):
    """An incident that is only looked at."""
    return lab.take()


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A finished case that is only looked at."""
    home = tmp_path_factory.mktemp("rehearsed")
    assert run_program(scrubbed(home), "rehearse", "--case", home / "case", cwd=home).returncode == 0
    return home / "case"


# --- inventory ------------------------------------------------------------------------------------------------------


def test_the_inventory_as_json_has_the_published_shape(shared, lab, tmp_path):
    before = lab.snapshot()

    done = shared.run(tmp_path, "inventory", "--json", "--organization", shared.organization)

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {name: type(value) for name, value in document.items()}.items() >= {
        "schema": int,
        "generated_at": str,
        "complete": bool,
        "holes": list,
        "organizations": list,
        "projects": list,
        "contexts": list,
        "secrets": list,
        "access_keys": list,
    }.items()
    assert document["schema"] == 1
    assert document["complete"] is True
    assert document["holes"] == []
    secrets = {(row.get("context") or row.get("project"), row["name"]): row for row in document["secrets"]}
    assert {place for place, _ in secrets} >= {"deploy", "release", f"{shared.organization}/api"}
    held = secrets["deploy", "AWS_ACCESS_KEY_ID"]
    assert set(held) >= {"id", "kind", "organization", "name", "tail", "created_at", "updated_at", "exposure",
                         "rotation", "access_key"}  # fmt: skip
    assert held["kind"] == "context-variable"
    assert held["tail"] == shared.old_key[-4:]
    assert held["access_key"] | {"evidence": []} == {
        "account": shared.account, "user": USER, "id": shared.old_key, "confidence": "strong", "evidence": [],
    }  # fmt: skip
    assert secrets["deploy", "NPM_TOKEN"]["access_key"] is None
    assert secrets[f"{shared.organization}/api", "AWS_ACCESS_KEY_ID"]["kind"] == "project-variable"
    keys = {row["id"]: row for row in document["access_keys"]}
    assert set(keys[shared.old_key]) >= {"account", "user", "id", "status", "created_at", "last_used_at",
                                         "last_used_service", "last_used_as_of", "stored_in"}  # fmt: skip
    assert set(keys[shared.old_key]["stored_in"]) == {
        row["id"] for (_, name), row in secrets.items() if name.endswith(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
    }
    assert lab.snapshot() == before


def test_the_inventory_as_a_table_and_as_csv(shared, tmp_path):
    table = shared.run(tmp_path, "inventory", "--organization", shared.organization)
    rows = shared.run(tmp_path, "inventory", "--format", "csv", "--organization", shared.organization)

    assert table.returncode == rows.returncode == 0, table.stderr + rows.stderr
    assert table.stdout.startswith("Complete: ")
    assert shared.old_key in table.stdout
    read = list(csv.DictReader(io.StringIO(rows.stdout)))
    assert {row["access_key"] for row in read} == {"", shared.old_key}
    assert {row["name"] for row in read} >= {"AWS_ACCESS_KEY_ID", "NPM_TOKEN", "RELEASE_AWS_ACCESS_KEY_ID"}


def test_the_inventory_of_one_kind_and_as_a_nightly_check(shared, lab, tmp_path):
    done = shared.run(
        tmp_path, "inventory", "--json", "--organization", shared.organization, "--kind", "project-variable",
        "--fail-on-exposed",
    )  # fmt: skip

    assert done.returncode == 10, done.stderr
    assert {row["kind"] for row in json.loads(done.stdout)["secrets"]} == {"project-variable"}


def test_an_inventory_with_a_hole_is_no_all_clear(shared, lab, tmp_path):
    lab.break_circleci("deny:variables:1x1000")
    try:
        done = shared.run(tmp_path, "inventory", "--organization", shared.organization)
        nightly = shared.run(tmp_path, "inventory", "--organization", shared.organization, "--fail-on-exposed")
    finally:
        lab.heal()

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("INCOMPLETE: ")
    assert "not read: " in done.stdout
    assert nightly.returncode == 10


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_a_run_needs_no_more_than_the_policy_that_doctor_prints(incident, lab, tmp_path, monkeypatch):
    """The gate refuses every action outside the printed policy, and every change of another user: it ends 0."""
    (tmp_path / "answers.toml").write_text(incident.answers(keys='strategy = "replace"\non_lost_secret = "recreate"'))
    doctor = incident.run(tmp_path, "doctor", "--answers", "answers.toml", "--json")
    assert doctor.returncode == 0, doctor.stderr
    ((account,),) = [json.loads(doctor.stdout)["aws"]]
    reads, changes = account["policy"]["Statement"]
    assert reads["Resource"] == "*"
    assert not [name for name in reads["Action"] if name.partition(":")[2].startswith(CHANGING)]
    assert changes["Resource"] == [f"arn:aws:iam::{incident.account}:user/{USER}"]
    allowed = {name.partition(":")[2] for name in (*reads["Action"], *changes["Action"])}
    refused = []
    healthy = lab.aws._next_fault

    def enforce(operation):
        # Everybody may ask STS who they are, whatever their policies say (facts, AWS row 7).
        if operation in allowed or operation == "GetCallerIdentity":
            return healthy(operation)
        refused.append(operation)
        return Fault(operation=operation, kind=FaultKind.DENY)

    monkeypatch.setattr(lab.aws, "_next_fault", enforce)
    # A lost reply makes the run use the rarer actions too: CloudTrail, and the deletion of the orphan.
    lab.aws.inject(Fault(operation="CreateAccessKey", kind=FaultKind.DROP_REPLY))

    done = incident.run(tmp_path, "run", *BATCH, "--yes", "--case", "case")

    assert done.returncode == 0, done.stderr
    incident.assert_rotated()
    assert refused == []
    seen = [seen for seen in lab.aws.requests() if seen.account == incident.account]
    # Nor more than it needs: only a role session asks for its own role, and here is no provider to look at.
    assert allowed - {item.operation for item in seen} == {"GetRole", "GetOpenIDConnectProvider"}
    touched = {seen.parameters["UserName"] for seen in seen if seen.operation.startswith(CHANGING)}
    assert touched == {USER}
    print(f"{len(seen)} requests of {len({seen.operation for seen in seen})} actions under {len(allowed)} allowed")


def test_doctor_names_what_is_denied(shared, lab, tmp_path):
    lab.aws.inject(Fault(operation="DeleteAccessKey", kind=FaultKind.DENY, times=-1))
    try:
        done = shared.run(tmp_path, "doctor")
    finally:
        lab.heal()

    assert done.returncode == 3
    assert "DENIED: iam:DeleteAccessKey" in done.stdout
    assert '"Version": "2012-10-17"' in done.stdout


# --- A case, looked at ----------------------------------------------------------------------------------------------


def test_a_finished_case_can_be_looked_at_and_its_answers_used_again(incident, tmp_path):
    (tmp_path / "answers.toml").write_text(incident.answers())
    dry = incident.run(tmp_path, "run", "--dry-run", *BATCH, "--json", "--case", "dry")
    assert dry.returncode == 0, dry.stderr
    digest = json.loads(dry.stdout)["digest"]
    assert json.loads(dry.stdout)["waits"] == []

    printed = incident.run(tmp_path, "answers", "dry")
    (tmp_path / "answers.toml").write_text(printed.stdout)
    waits = [part for name in ("proof", "settle", "relist") for part in ("--wait", f"{name}=0")]
    done = incident.run(tmp_path, "run", *BATCH, "--approve", digest, "--case", "case", "--json", *waits)

    assert done.returncode == 0, done.stderr
    incident.assert_rotated()
    document = json.loads(done.stdout)
    assert (document["schema"], document["status"], document["exit_code"]) == (1, "finished", 0)
    assert document["next_command"] == ""
    assert [(row["old_key"], row["old_is"], row["places"]) for row in document["keys"]] == [
        (incident.old_key, "off", "3 of 3")
    ]
    assert {row["status"] for row in document["steps"]} == {"done"}

    again = incident.run(tmp_path, "status", "case", "--json")
    assert json.loads(again.stdout) == document
    shown = incident.run(tmp_path, "status", "case")
    assert incident.old_key in shown.stdout
    verified = incident.run(tmp_path, "verify", "case", "--json")
    assert json.loads(verified.stdout)["records"] == len(records_of(tmp_path / "case"))
    assert json.loads(verified.stdout)["head"] == records_of(tmp_path / "case")[-1]["sum"]
    markdown = incident.run(tmp_path, "report", "case")
    assert incident.old_key in markdown.stdout
    reported = incident.run(tmp_path, "report", "case", "--format", "json")
    assert json.loads(reported.stdout)
    finished = incident.run(tmp_path, "resume", "case", *BATCH, "--yes")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(incident.run(tmp_path, "status", "--json").stdout) == {"schema": 1, "cases": []}


# --- rehearse -------------------------------------------------------------------------------------------------------

_WITHOUT_A_NETWORK = """
import os, sys
def refuse(event, arguments):
    if event in {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}:
        os.write(2, f"{event} {arguments[1:]}".encode())
        os._exit(99)
sys.addaudithook(refuse)
from playbook.cli import main
main(sys.argv[1:])
"""


def test_a_rehearsal_needs_no_environment_no_files_and_no_network(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_A_NETWORK, "rehearse", "--case", str(tmp_path / "case")],
        env={},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ off │") == 5
    assert "Done: everything planned is done and was seen in place." in done.stdout
    assert not {"boto3", "botocore", "httpx"} & set(done.stderr.split())
    assert (tmp_path / "case").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "case").iterdir()} == {0o600}


@pytest.mark.parametrize("fault", [*FAULTS, "drop-reply:create_access_key", "throttle:*:20%", "crash:put_variable:1"])
def test_a_rehearsed_fault_ends_or_waits_and_resume_goes_on(tmp_path, fault):
    case = tmp_path / "case"
    environment = scrubbed(tmp_path)

    drilled = run_program(environment, "rehearse", "--inject", fault, "--case", case, cwd=tmp_path)

    # What is denied is a switching off, and the end of that key's sessions waits for it.
    expected = {"crash": -signal.SIGKILL, "crash-after": -signal.SIGKILL, "expired": 3, "deny": 11}.get(
        fault.partition(":")[0], 0
    )
    assert drilled.returncode == expected, drilled.stderr
    assert "Traceback" not in drilled.stderr
    assert "bug" not in drilled.stderr
    if expected:
        resumed = run_program(environment, "resume", case, cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
    sealed = records_of(case)[-1]
    assert (sealed["type"], sealed["exit_code"]) == ("Sealed", 0)


def test_a_rehearsed_crash_between_the_places_waits_and_can_be_decided(tmp_path):
    """The shipped answers say `on_lost_secret = "stop"`: it waits, names the key, and goes on once somebody decides."""
    case = tmp_path / "case"
    environment = scrubbed(tmp_path)
    crashed = run_program(
        environment, "rehearse", "--inject", "crash:put_variable:3", "--parallel", "1", "--case", case, cwd=tmp_path
    )
    assert crashed.returncode == -signal.SIGKILL

    waits = run_program(environment, "resume", case, cwd=tmp_path)
    document = json.loads(run_program(environment, "status", case, "--json", cwd=tmp_path).stdout)
    printed = run_program(environment, "answers", case, cwd=tmp_path).stdout
    answers = tmp_path / "answers.toml"
    answers.write_text(printed.replace('strategy = "replace"', 'strategy = "replace"\non_lost_secret = "recreate"'))
    ended = run_program(environment, "resume", case, "--batch", "--yes", "--answers", answers, cwd=tmp_path)

    assert waits.returncode == 11, waits.stderr
    assert "is lost and" in waits.stdout
    assert f"rotation-playbook resume {case}" in waits.stdout
    assert document["status"] == "open"
    assert document["next_command"] == f"rotation-playbook resume {case}"
    assert ended.returncode == 0, ended.stderr


def test_a_wait_longer_than_the_patience_ends_the_run_and_resume_may_change_it(tmp_path):
    environment = scrubbed(tmp_path)
    patience = ("--wait", "proof=3600", "--wait", "patience=60")

    waits = run_program(environment, "rehearse", *patience, "--case", "case", cwd=tmp_path)
    ended = run_program(environment, "resume", "case", "--wait", "proof=1", cwd=tmp_path)

    assert waits.returncode == 11, waits.stderr
    assert "3 over 3600 s are wanted" in waits.stdout
    assert ended.returncode == 0, ended.stderr


def test_resume_without_a_case_takes_the_newest_unfinished_one(tmp_path):
    environment = scrubbed(tmp_path)
    for _ in range(2):
        crashed = run_program(environment, "rehearse", "--inject", "crash", cwd=tmp_path)
        assert crashed.returncode == -signal.SIGKILL
    finished = run_program(environment, "rehearse", cwd=tmp_path)
    before = json.loads(run_program(environment, "status", "--json", cwd=tmp_path).stdout)["cases"]

    resumed = run_program(environment, "resume", "--json", cwd=tmp_path)

    after = json.loads(run_program(environment, "status", "--json", cwd=tmp_path).stdout)["cases"]
    assert finished.returncode == resumed.returncode == 0, resumed.stderr
    newest, oldest = sorted(before, key=lambda case: case["opened_at"], reverse=True)
    assert json.loads(resumed.stdout)["case"] == newest["case"]
    assert [case["case"] for case in after] == [oldest["case"]]


def test_a_dry_run_is_never_the_case_to_resume(incident, tmp_path):
    (tmp_path / "answers.toml").write_text(incident.answers())
    crashed = incident.run(tmp_path, "rehearse", "--inject", "crash")
    dry = incident.run(tmp_path, "run", "--dry-run", *BATCH, "--case", tmp_path / "state/playbook/cases/zzz")
    assert (crashed.returncode, dry.returncode) == (-signal.SIGKILL, 0), dry.stderr

    cases = json.loads(incident.run(tmp_path, "status", "--json").stdout)["cases"]
    resumed = incident.run(tmp_path, "resume", "--json")

    assert [case["mode"] for case in cases] == ["rehearsal"]
    looked = json.loads(incident.run(tmp_path, "status", "zzz", "--json").stdout)
    assert (looked["mode"], looked["status"], looked["next_command"]) == ("dry-run", "finished", "")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["mode"] == "rehearsal"


# --- Terminals and pipes --------------------------------------------------------------------------------------------


def in_a_shell(line, environment, cwd):
    return subprocess.run(
        ["bash", "-c", line], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_off_a_terminal_nothing_is_cut_or_coloured(tmp_path):
    environment = {**scrubbed(tmp_path), "COLUMNS": "40", "TTY_COMPATIBLE": "1"}

    done = run_program(environment, "rehearse", "--case", "case", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    made = [item["evidence"]["key_id"] for item in records_of(tmp_path / "case") if item["type"] == "Applied"
            and item["key"].startswith("iam:create-access-key:")]  # fmt: skip
    assert len(made) == 4
    assert all(key in done.stdout for key in made)
    assert "\x1b" not in done.stdout + done.stderr
    assert "…" not in done.stdout + done.stderr
    forced = run_program({**environment, "FORCE_COLOR": "1"}, "status", "case", cwd=tmp_path)
    assert "\x1b[1m" in forced.stdout
    assert all(key in forced.stdout for key in made)
    sober = run_program({**environment, "FORCE_COLOR": "1", "NO_COLOR": "1"}, "rehearse", cwd=tmp_path)
    assert re.search(r"\x1b\[[0-9;]*[349][0-7]m", sober.stderr + sober.stdout) is None


@pytest.mark.parametrize("command", ["rehearse --case {case}", "status {done}", "report {done}", "inventory --json"])
def test_a_reader_that_goes_away_is_no_error(shared, rehearsed, tmp_path, command):
    line = f"{PROGRAM} {command.format(case='case', done=rehearsed)} | true; echo ${{PIPESTATUS[0]}}"

    piped = in_a_shell(line, shared.environment(tmp_path), tmp_path)

    assert "Traceback" not in piped.stderr
    assert "BrokenPipe" not in piped.stderr
    assert piped.stdout.split()[-1] == "0"
    if command.startswith("rehearse"):
        # Nobody read the table, and all the same everything was done.
        assert records_of(tmp_path / "case")[-1]["type"] == "Sealed"


def test_progress_that_nobody_can_read_stops_nothing(tmp_path):
    """A closed standard error, as of a terminal that is gone, must not stop a rotation half-way."""
    line = f"{PROGRAM} rehearse --case case <&- 2>&-; echo $?"

    done = in_a_shell(line, scrubbed(tmp_path), tmp_path)

    assert done.stdout.split()[-1] == "0", done.stdout
    assert records_of(tmp_path / "case")[-1]["type"] == "Sealed"


@pytest.mark.parametrize(("command", "code"), [("rehearse --case case", "2"), ("status {done}", "2")])
def test_a_full_disk_behind_the_output_is_said(rehearsed, tmp_path, command, code):
    line = f"{PROGRAM} {command.format(done=rehearsed)} >/dev/full; echo $? >&2"

    done = in_a_shell(line, scrubbed(tmp_path), tmp_path)

    assert done.stderr.split()[-1] == code, done.stderr
    assert "could not be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if command.startswith("rehearse"):
        assert records_of(tmp_path / "case")[-1]["type"] == "Sealed"


def test_version_and_help(tmp_path):
    from click.testing import CliRunner

    version = run_program(scrubbed(tmp_path), "--version", cwd=tmp_path)

    assert version.stdout.strip() == f"rotation-playbook, version {__version__}"
    for name in ("", *commands.commands):
        shown = CliRunner().invoke(commands, [*([name] if name else []), "--help"], prog_name="rotation-playbook")
        assert shown.exit_code == 0
        assert len(shown.output.splitlines()) <= 40, name


def test_the_sandbox_serves_what_its_own_settings_name(tmp_path):
    process = subprocess.Popen(
        [PROGRAM, "sandbox", "--seconds", "30"], env=scrubbed(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("# Ctrl-C"):
                break
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        others = next(line for line in lines if line.startswith("# Then:")).split()[5:]
        done = run_program({**scrubbed(tmp_path), **exported}, "inventory", "--json", *others, cwd=tmp_path)
    finally:
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["access_keys"]) == 8
