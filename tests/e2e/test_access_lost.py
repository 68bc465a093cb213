"""Credentials that end in the middle of a run: it stops in order, leaves nothing dangerous on, and can be resumed."""

from __future__ import annotations

import pytest
from e2e.lab import assert_refused, records_of

from playbook.ports import KeyStatus
from playbook.twins.moto_server import Fault, FaultKind

INCIDENTS = 8
BATCH = ("--batch", "--yes", "--answers", "answers.toml")
RECREATE = 'strategy = "replace"\non_lost_secret = "recreate"'


def settled(folder):
    """Whether every intent in the journal has an end."""
    open_intents = set()
    for record in records_of(folder):
        if record["type"] == "Intended":
            open_intents.add(record["key"])
        elif record["type"] in {"Applied", "Failed"}:
            open_intents.discard(record["key"])
    return not open_intents


@pytest.mark.parametrize("operation", ["CreateAccessKey", "UpdateAccessKey"])
def test_an_aws_session_that_expires_before_a_write(incident, lab, tmp_path, operation):
    (tmp_path / "answers.toml").write_text(incident.answers())
    lab.aws.inject(Fault(operation=operation, kind=FaultKind.EXPIRE, times=-1))

    stopped = incident.run(tmp_path, "run", *BATCH, "--case", "case")

    assert_refused(stopped, 3, "AWS does not accept the default AWS credentials: ExpiredToken", "sign in again")
    assert f"rotation-playbook resume {tmp_path / 'case'}" in stopped.stderr
    assert settled(tmp_path / "case")
    assert incident.access_keys()[incident.old_key] is KeyStatus.ACTIVE
    incident.assert_harmless()

    lab.heal()
    resumed = incident.run(tmp_path, "resume", "case", *BATCH)

    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()
    assert len(incident.made()) == 1


def test_an_aws_session_that_expires_with_a_new_key_in_hand_says_what_is_still_on(incident, lab, tmp_path, monkeypatch):
    """Without AWS nobody can switch the new key off: the run says so, and the next one retires it."""
    (tmp_path / "answers.toml").write_text(incident.answers())
    healthy = lab.aws._next_fault
    made_before = len(lab.aws.requests("CreateAccessKey"))

    def expired(operation):
        if len(lab.aws.requests("CreateAccessKey")) > made_before:
            return Fault(operation=operation, kind=FaultKind.EXPIRE)
        return healthy(operation)

    with monkeypatch.context() as patch:
        patch.setattr(lab.aws, "_next_fault", expired)
        stopped = incident.run(tmp_path, "run", *BATCH, "--case", "case")
    (orphan,) = incident.made()

    assert_refused(stopped, 3, "ExpiredToken", f"STILL ON  {orphan}")
    assert incident.access_keys() == {incident.old_key: KeyStatus.ACTIVE, orphan: KeyStatus.ACTIVE}
    assert set(incident.sinks().values()) == {incident.old_key}

    resumed = incident.run(tmp_path, "resume", "case", *BATCH)

    assert resumed.returncode == 0, resumed.stderr
    assert incident.assert_rotated() != orphan


def revoke_at(lab, number):
    """Let CircleCI refuse the token for good, from the n-th write on."""
    writes = []

    def watch(call, moment):
        if call.operation == "put_variable" and moment == "before":
            writes.append(call.target)
            if len(writes) == number:
                lab.break_circleci("expired:*:1x100000")

    lab.world.on_call = watch


def test_a_circleci_token_revoked_before_any_place_is_written(incident, lab, tmp_path):
    (tmp_path / "answers.toml").write_text(incident.answers())
    revoke_at(lab, 1)

    stopped = incident.run(tmp_path, "run", *BATCH, "--case", "case", "--parallel", "1")

    assert_refused(stopped, 3, "CircleCI does not accept the token", "then go on with `resume`")
    (parked,) = incident.made()
    assert incident.access_keys() == {incident.old_key: KeyStatus.ACTIVE, parked: KeyStatus.INACTIVE}
    incident.assert_harmless()

    still = incident.run(tmp_path, "resume", "case", *BATCH)
    assert_refused(still, 3, "CircleCI does not accept the token")

    lab.heal()
    resumed = incident.run(tmp_path, "resume", "case", *BATCH)

    assert resumed.returncode == 0, resumed.stderr
    assert incident.assert_rotated() != parked


@pytest.mark.parametrize("number", [2, 3], ids=["between the halves of a pair", "after the first place"])
def test_a_circleci_token_revoked_half_way(incident, lab, tmp_path, number):
    (tmp_path / "answers.toml").write_text(incident.answers(keys=RECREATE))
    revoke_at(lab, number)

    stopped = incident.run(tmp_path, "run", *BATCH, "--case", "case", "--parallel", "1")

    assert_refused(stopped, 3, "CircleCI does not accept the token")
    (half,) = incident.made()
    # A place may hold it, so it stays on, as does the key of the places not yet written.
    assert incident.access_keys() == {incident.old_key: KeyStatus.ACTIVE, half: KeyStatus.ACTIVE}
    assert (f"STILL ON  {half}" in stopped.stderr) is (number == 2)
    assert [record["effect"] for record in records_of(tmp_path / "case") if record["type"] == "Failed"] == [
        "unknown" if number == 2 else "none"
    ]

    lab.heal()
    resumed = incident.run(tmp_path, "resume", "case", *BATCH)

    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()
