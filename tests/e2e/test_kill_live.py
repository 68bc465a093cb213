"""The installed program, through its real clients, killed or interrupted at chosen moments, then resumed to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e.lab import assert_refused, records_of, signal_at

from playbook.ports import KeyStatus
from playbook.twins.moto_server import Fault, FaultKind

RECREATE = 'strategy = "replace"\non_lost_secret = "recreate"'
CREATE = "iam:create-access-key:"
STORE = "circleci:store-access-key:"
OFF = "iam:deactivate-access-key:"
MOMENTS = {
    "the create is declared": ("Intended", CREATE, 1),
    "the create is done": ("Applied", CREATE, 1),
    "the new key is proved": ("Verified", "iam:prove-access-key:", 1),
    "a first store is declared": ("Intended", STORE, 1),
    "a first store is done": ("Applied", STORE, 1),
    "all stores are seen": ("Verified", STORE, 3),
    "the old key is to go off": ("Intended", OFF, 1),
    "the old key is off": ("Applied", OFF, 1),
}
"""When to kill: as soon as the journal holds so many records of this type about this key."""
UNDECIDED = ("the create is done", "a first store is done", "the old key is off")
"""The moments tried without an answer to what a lost secret may break."""
KILLS = int(os.environ.get("KILLS", "15"))
SEED = int(os.environ.get("SEED", "20230104"))
KILLS_A_CASE = 5
"""At most, so that every case also comes to its end."""
RECORDS = 75
"""About as many as an undisturbed run of one incident has from its approval to its end."""
INCIDENTS = len(MOMENTS) + len(UNDECIDED) + 20 + KILLS
SIDE_BY_SIDE = 3
MADE_MAX = 2
"""One key before the kill, and one in its place."""


def killed(incident, home, moment, keys):
    """Begin a run, kill it at a moment, and say what its journal held and what its resumption said."""
    home.mkdir()
    (home / "answers.toml").write_text(incident.answers(keys=keys))
    process = incident.start(home, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")
    died = signal_at(process, home / "case", *MOMENTS[moment])
    process.communicate(timeout=60)
    assert died, f"{moment}: it ended with {process.returncode} before"
    left = len(records_of(home / "case"))
    resumed = incident.run(home, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")
    assert "Traceback" not in resumed.stderr
    return left, resumed


def side_by_side(function, moments):
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return dict(zip(moments, pool.map(function, moments), strict=True))


def test_killed_anywhere_it_ends_where_a_lost_secret_may_be_made_anew(lab, tmp_path):
    incidents = {moment: lab.take() for moment in MOMENTS}

    ends = side_by_side(
        lambda moment: killed(incidents[moment], tmp_path / moment.replace(" ", "-"), moment, RECREATE), MOMENTS
    )

    for moment, (left, resumed) in ends.items():
        incident = incidents[moment]
        assert resumed.returncode == 0, (moment, resumed.stderr, resumed.stdout)
        incident.assert_rotated()
        assert len(incident.made()) <= MADE_MAX, moment
        print(f"killed when {moment} ({left} records): ended, {len(incident.made())} key(s) made")


def test_killed_anywhere_it_ends_or_waits_with_every_place_working(lab, tmp_path):
    incidents = {moment: lab.take() for moment in UNDECIDED}
    waited = []

    ends = side_by_side(
        lambda moment: killed(incidents[moment], tmp_path / moment.replace(" ", "-"), moment, 'strategy = "replace"'),
        UNDECIDED,
    )

    for moment, (left, resumed) in ends.items():
        incident = incidents[moment]
        if resumed.returncode == 11:
            waited.append(moment)
            assert "is lost and" in resumed.stdout
            assert incident.made()[-1] in resumed.stdout
            assert "on_lost_secret" in resumed.stdout
            assert None in incident.sinks().values() or incident.assert_harmless() is None
        else:
            assert resumed.returncode == 0, (moment, resumed.stderr, resumed.stdout)
            incident.assert_rotated()
        print(f"killed when {moment} ({left} records): exit {resumed.returncode}")
    # It must not wait where no place holds the lost key, nor where every place does: a new one hurts nobody.
    assert set(waited) <= {"a first store is done"}

    for moment in waited:
        incident, home = incidents[moment], tmp_path / moment.replace(" ", "-")
        (home / "answers.toml").write_text(incident.answers(keys=RECREATE))
        resumed = incident.run(home, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")
        assert resumed.returncode == 0, (moment, resumed.stderr, resumed.stdout)
        incident.assert_rotated()


def killed_at_random(process, folder, rng):
    """Kill the process once its journal has grown by a random number of records, and a little later; or let it end."""
    path = folder / "journal.jsonl"
    wanted = len(records_of(folder)) + rng.randint(1, RECORDS)
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= wanted:
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            break
        time.sleep(0.002)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    return process.returncode == -signal.SIGKILL


def until_it_ends(incident, home, rng):
    """One case, killed a few times and resumed each time; the last process is left alone. Answers the kills."""
    home.mkdir()
    (home / "answers.toml").write_text(incident.answers(keys=RECREATE))
    case = ["--batch", "--yes", "--answers", "answers.toml"]
    kills = 0
    while kills < KILLS_A_CASE:
        command = ["resume", "case"] if records_of(home / "case") else ["run", "--case", "case"]
        process = incident.start(home, *command, *case)
        if not killed_at_random(process, home / "case", rng):
            assert process.returncode == 0
            break
        kills += 1
    else:
        done = incident.run(home, "resume", "case", *case)
        assert done.returncode == 0, (done.stdout, done.stderr)
    return kills


def test_killed_at_random_times_every_case_ends_in_the_same_world(lab, tmp_path):
    """Lease, mint, proof, three places, three canaries, gates and the switch, killed anywhere and as often as it is."""
    cases = iter(range(KILLS))
    kills = []

    def one_after_another(_worker):
        while len(kills) < KILLS and (number := next(cases, None)) is not None:
            incident = lab.take()
            count = until_it_ends(incident, tmp_path / f"random-{number}", random.Random(f"{SEED}/{number}"))
            incident.assert_rotated()
            kills.extend([number] * count)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(one_after_another, range(SIDE_BY_SIDE)))

    killed_cases = len(set(kills))
    print(f"\n{len(kills)} kills -9 in {killed_cases} cases, seed {SEED}: every case ended in the same world")
    assert len(kills) >= KILLS


def test_killed_between_the_two_halves_of_a_pair(incident, lab, tmp_path):
    """The worst instant: the id is new, the secret is old. The run says so, and never calls it done."""
    (tmp_path / "answers.toml").write_text(incident.answers())
    process = incident.start(
        tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case", "--parallel", "1"
    )
    halves = []

    def kill_at_the_second_half(call, moment):
        if call.operation == "put_variable" and moment == "before":
            halves.append(call.target)
            if len(halves) == 2:
                process.kill()
                process.wait()

    lab.world.on_call = kill_at_the_second_half
    lab.break_circleci("drop-request:put_variable:2")
    process.communicate(timeout=60)
    lab.heal()
    assert process.returncode == -signal.SIGKILL
    assert list(incident.sinks().values()).count(None) == 1

    stopped = incident.run(tmp_path, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")
    (tmp_path / "answers.toml").write_text(incident.answers(keys=RECREATE))
    resumed = incident.run(tmp_path, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")

    assert stopped.returncode == 11, stopped.stderr
    assert "is lost and 1 place(s) already hold it" in stopped.stdout
    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGINT, 130, ("Applied", CREATE, 1)),
        (signal.SIGTERM, 143, ("Applied", CREATE, 1)),
        (signal.SIGHUP, 130, ("Applied", STORE, 1)),
        (signal.SIGTERM, 143, ("Answered", "", 3)),
    ],
    ids=["INT after the create", "TERM after the create", "HUP after a store", "TERM in the walk"],
)
def test_a_signal_stops_it_in_order(incident, tmp_path, number, code, moment):
    (tmp_path / "answers.toml").write_text(incident.answers(keys=RECREATE))
    process = incident.start(tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")

    assert signal_at(process, tmp_path / "case", *moment, number=number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == code, said
    assert "Traceback" not in said
    assert f"rotation-playbook resume {tmp_path / 'case'}" in said
    kinds = [record["type"] for record in records_of(tmp_path / "case")]
    assert kinds.count("Intended") == kinds.count("Applied") + kinds.count("Failed")
    incident.assert_harmless()

    resumed = incident.run(tmp_path, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")

    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()


def test_resume_from_another_folder_needs_only_the_case(incident, tmp_path):
    """The case keeps where the answers and the token file are, whatever folder the run began in."""
    (tmp_path / "answers.toml").write_text(incident.answers(keys=RECREATE))
    token = tmp_path / "token"
    token.write_text(incident.environment(tmp_path)["CIRCLE_TOKEN"])
    token.chmod(0o600)
    begin = ["run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case", "--circleci-token-file", "token"]
    process = incident.start(tmp_path, *begin, CIRCLE_TOKEN="")
    assert signal_at(process, tmp_path / "case", "Applied", STORE, 1)
    process.communicate(timeout=60)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    resumed = incident.run(tmp_path, "resume", tmp_path / "case", "--yes", cwd=elsewhere, CIRCLE_TOKEN="")

    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()


# --- Lost replies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FaultKind.DROP_REPLY, FaultKind.CUT_REPLY, FaultKind.SHORTEN_REPLY])
def test_a_lost_reply_of_the_create_leaves_one_orphan_which_goes(incident, lab, tmp_path, kind):
    (tmp_path / "answers.toml").write_text(incident.answers())
    lab.aws.inject(Fault(operation="CreateAccessKey", kind=kind, at_byte=450))

    done = incident.run(tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")

    assert done.returncode == 0, done.stderr
    incident.assert_rotated()
    orphan, kept = incident.made()
    assert orphan not in incident.access_keys()
    assert incident.access_keys()[kept] is KeyStatus.ACTIVE
    deleted = [seen.parameters["AccessKeyId"] for seen in lab.aws.requests("DeleteAccessKey") if seen.status == 200]
    assert deleted.count(orphan) == 1
    assert incident.old_key not in deleted
    assert any(seen.account == incident.account for seen in lab.aws.requests("LookupEvents"))
    unknown = [record for record in records_of(tmp_path / "case") if record["type"] == "Failed"]
    assert [record["effect"] for record in unknown] == ["unknown"]


@pytest.mark.parametrize("fault", ["drop-reply", "server-error-applied", "throttle"])
def test_a_lost_write_to_circleci_is_written_again(incident, lab, tmp_path, fault):
    (tmp_path / "answers.toml").write_text(incident.answers())
    lab.break_circleci(f"{fault}:put_variable:1", f"{fault}:put_variable:4")

    done = incident.run(tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")

    assert sum(lab.world.faults.struck.values()) == 2
    assert done.returncode == 0, done.stderr
    incident.assert_rotated()
    assert len(incident.made()) == 1


def test_a_lost_reply_of_the_switch_off(incident, lab, tmp_path):
    (tmp_path / "answers.toml").write_text(incident.answers())
    lab.aws.inject(Fault(operation="UpdateAccessKey", kind=FaultKind.DROP_REPLY))

    done = incident.run(tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case")

    assert done.returncode == 0, done.stderr
    incident.assert_rotated()


def test_a_place_that_refuses_keeps_the_old_key_on(incident, lab, tmp_path):
    """A 403 half-way: the other places are written, the old key stays on, and the run names the place."""
    (tmp_path / "answers.toml").write_text(incident.answers())
    lab.break_circleci("deny:put_variable:3x1000")

    failed = incident.run(
        tmp_path, "run", "--batch", "--yes", "--answers", "answers.toml", "--case", "case", "--parallel", "1"
    )
    assert_refused(failed, failed.returncode)
    assert failed.returncode in {11, 12}, failed.stderr
    assert "HTTP403" in failed.stdout
    incident.assert_harmless()
    assert incident.access_keys()[incident.old_key] is KeyStatus.ACTIVE
    lab.heal()

    (tmp_path / "answers.toml").write_text(incident.answers(keys=RECREATE))
    resumed = incident.run(tmp_path, "resume", "case", "--batch", "--yes", "--answers", "answers.toml")

    assert resumed.returncode == 0, resumed.stderr
    incident.assert_rotated()
