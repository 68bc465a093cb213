"""`contain`, `undo` and the `resume` of a finished case, as processes of their own against moto and the HTTP twin."""

from __future__ import annotations

import json
import re
import signal

import pytest
from e2e.lab import USER, assert_refused, records_of, signal_at

from playbook.ports import KeyStatus

INCIDENTS = 8
BATCH = ("--batch", "--answers", "answers.toml")
CONTAIN = 'strategy = "contain"'
AT_ONCE = ("--wait", "settle=0", "--wait", "relist=0")
NO_GRACE = 'strategy = "replace"\ngrace_hours = 0'


@pytest.fixture(scope="module")
def looked_at(lab):
    """An incident in which nothing is ever changed."""
    return lab.take()


def rotated(incident, home, **answers):
    """A finished case in `home/case`."""
    (home / "answers.toml").write_text(incident.answers(**answers))
    done = incident.run(home, "run", *BATCH, "--yes", "--case", "case")
    assert done.returncode == 0, (done.stdout, done.stderr)
    return incident.assert_rotated()


def assert_undone(incident, new):
    """Both keys are on, and every place still holds the new one: a stored value cannot come back."""
    assert incident.access_keys() == {incident.old_key: KeyStatus.ACTIVE, new: KeyStatus.ACTIVE}
    assert set(incident.sinks().values()) == {new}


# --- contain --------------------------------------------------------------------------------------------------------


def test_a_key_is_off_without_a_circleci_token_and_the_case_goes_on_to_its_replacement(incident, lab, tmp_path):
    asked = len(lab.circleci_writes)

    off = incident.run(
        tmp_path, "contain", incident.old_key, "--yes", "--case", "case", *AT_ONCE, CIRCLE_TOKEN="", CIRCLE_HOST=""
    )

    assert off.returncode == 0, (off.stdout, off.stderr)
    assert incident.access_keys() == {incident.old_key: KeyStatus.INACTIVE}
    assert len(lab.circleci_writes) == asked
    assert f"run --case {tmp_path / 'case'}" in off.stdout
    changed = [record["key"] for record in records_of(tmp_path / "case") if record["type"] == "Applied"]
    assert changed == [f"iam:deactivate-access-key:{incident.account}/{USER}/{incident.old_key}"]

    (tmp_path / "answers.toml").write_text(incident.answers(keys=CONTAIN))
    replaced = incident.run(tmp_path, "run", *BATCH, "--yes", "--case", "case")

    assert replaced.returncode == 0, (replaced.stdout, replaced.stderr)
    incident.assert_rotated()


def test_what_contain_prints_for_a_machine(incident, tmp_path):
    done = incident.run(tmp_path, "contain", incident.old_key, "--yes", "--json", "--case", "case", *AT_ONCE)
    again = incident.run(tmp_path, "contain", incident.old_key, "--yes", "--json", "--case", "again", *AT_ONCE)

    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] == 0
    assert [(key["old_key"], key["old_is"]) for key in document["keys"]] == [(incident.old_key, "off")]
    assert document["next_command"] == f"rotation-playbook run --case {tmp_path / 'case'}"
    # A second one finds it off, and has nothing to do.
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["keys"] == []
    assert "is Inactive already" in again.stderr


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("AKIA2222222222222222", 2, "is no key of"),
        ("not-a-key", 2, "is not the id of an access key"),
        ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 2, "never the secret"),
        ("own", 7, "would lock itself out"),
    ],
    ids=["unknown", "malformed", "a secret", "its own"],
)
def test_what_contain_refuses_changes_nothing(looked_at, lab, tmp_path, name, code, said):
    key_id = lab.aws.operator(looked_at.account).key_id if name == "own" else name
    before = lab.snapshot()

    refused = looked_at.run(tmp_path, "contain", looked_at.old_key, key_id, "--yes", "--case", "case", *AT_ONCE)

    assert_refused(refused, code, said)
    # What is no id may be a secret that was pasted in a hurry.
    assert name.startswith("AKIA") or name == "own" or name not in refused.stderr + refused.stdout
    assert lab.snapshot() == before


def test_contain_without_a_terminal_and_without_yes_asks_for_one_of_them(looked_at, lab, tmp_path):
    before = lab.snapshot()

    assert_refused(looked_at.run(tmp_path, "contain", looked_at.old_key, "--case", "case"), 2, "Add --yes")

    assert lab.snapshot() == before


# --- undo -----------------------------------------------------------------------------------------------------------


def test_undo_of_a_finished_case_by_a_digest_and_a_second_one(incident, lab, tmp_path):
    new = rotated(incident, tmp_path)
    before = lab.snapshot()

    unapproved = incident.run(tmp_path, "undo", "case", *BATCH)
    refused = incident.run(tmp_path, "undo", "case", *BATCH, "--approve", f"sha256:{'0' * 64}")

    assert_refused(unapproved, 7, "--approve sha256:")
    assert_refused(refused, 7, "was not approved", "--approve sha256:")
    assert lab.snapshot() == before

    digest = re.search(r"sha256:[0-9a-f]{64}", refused.stderr.split("give --approve", 1)[1])[0]
    done = incident.run(tmp_path, "undo", "case", *BATCH, "--approve", digest)

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert_undone(incident, new)
    assert "on again, undone" in done.stdout
    status = incident.run(tmp_path, "status", "case")
    assert "undone" in status.stdout.splitlines()[0]

    again = incident.run(tmp_path, "undo", "case", *BATCH, "--yes")

    assert again.returncode == 0, again.stderr
    assert "There is nothing to put back" in again.stdout
    assert_undone(incident, new)


def test_undo_of_a_case_that_was_killed_after_the_old_key_went_off(incident, tmp_path):
    (tmp_path / "answers.toml").write_text(incident.answers())
    process = incident.start(tmp_path, "run", *BATCH, "--yes", "--case", "case")
    assert signal_at(process, tmp_path / "case", "Applied", "iam:deactivate-access-key:", 1, number=signal.SIGKILL)
    process.communicate(timeout=60)
    (new,) = incident.made()

    done = incident.run(tmp_path, "undo", "case", *BATCH, "--yes")

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert_undone(incident, new)
    assert "rotation-playbook-lease" not in incident.user_tags()
    document = json.loads(incident.run(tmp_path, "status", "case", "--json").stdout)
    assert document["status"] == "undone"


# --- retire ---------------------------------------------------------------------------------------------------------


def test_a_finished_case_deletes_its_old_key_once_it_is_due_and_only_when_told_to(incident, tmp_path):
    new = rotated(incident, tmp_path)
    kept = {incident.old_key: KeyStatus.INACTIVE, new: KeyStatus.ACTIVE}

    early = incident.run(tmp_path, "resume", "case", *BATCH, "--yes")

    assert early.returncode == 0, (early.stdout, early.stderr)
    assert f"not to be deleted yet: {incident.old_key}" in early.stdout
    assert incident.access_keys() == kept


def test_the_deletion_is_never_implied(incident, tmp_path):
    new = rotated(incident, tmp_path, keys=NO_GRACE)
    kept = {incident.old_key: KeyStatus.INACTIVE, new: KeyStatus.ACTIVE}

    unanswered = incident.run(tmp_path, "resume", "case", *BATCH, "--yes", "--wait", "soak=0")

    assert_refused(unanswered, 2, "keys.delete_after_grace")
    assert incident.access_keys() == kept

    (tmp_path / "answers.toml").write_text(incident.answers(keys=f"{NO_GRACE}\ndelete_after_grace = true"))
    soaking = incident.run(tmp_path, "resume", "case", *BATCH, "--yes")

    assert soaking.returncode == 11, (soaking.stdout, soaking.stderr)
    assert incident.access_keys() == kept

    done = incident.run(tmp_path, "resume", "case", *BATCH, "--yes", "--wait", "soak=0")

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert incident.access_keys() == {new: KeyStatus.ACTIVE}
    assert set(incident.sinks().values()) == {new}
    assert "Retired: the old keys that were due are deleted" in done.stdout
