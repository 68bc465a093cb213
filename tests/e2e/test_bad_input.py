"""Whatever a user gets wrong ends in a sentence, a remedy and an exit code, and nothing in the world has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from e2e.lab import PROGRAM, assert_refused, run_program, scrubbed

from playbook.journal import Journal, encode
from playbook.records import Opened

INCIDENTS = 1


@pytest.fixture(scope="module")
def shared(lab):
    """One incident for the whole module: nothing may happen to it."""
    return lab.take()


@pytest.fixture
def batch(shared, lab, tmp_path):
    """Run `run --batch --yes` and see that the world is as it was."""
    before = lab.snapshot()

    def run(answers=None, *arguments, command=("run", "--batch", "--yes"), without=(), **more):
        file = tmp_path / "answers.toml"
        if isinstance(answers, bytes):
            file.write_bytes(answers)
        else:
            file.write_text(shared.answers() if answers is None else answers)
        environment = {
            name: value for name, value in shared.environment(tmp_path, **more).items() if name not in without
        }
        return run_program(environment, *command, "--answers", file, *arguments, cwd=tmp_path)

    yield run
    assert lab.snapshot() == before


# --- CircleCI's token -----------------------------------------------------------------------------------------------


def test_without_a_circleci_token(batch):
    done = batch(without={"CIRCLE_TOKEN"})

    assert_refused(done, 3, "There is no CircleCI token", "Set CIRCLE_TOKEN, or name a file with --circleci-token-file")


def test_a_wrong_circleci_token(batch):
    done = batch(CIRCLE_TOKEN="CCIPAT_wrong_token")

    assert_refused(done, 3, "CircleCI does not accept the token", "Make a new personal API token")
    assert "CCIPAT_wrong_token" not in done.stderr + done.stdout


def test_two_different_circleci_tokens(batch):
    done = batch(CIRCLECI_TOKEN="CCIPAT_another")

    assert_refused(done, 2, "CIRCLE_TOKEN and CIRCLECI_TOKEN hold two different CircleCI tokens", "Leave only the one")


# --- Answers --------------------------------------------------------------------------------------------------------


def test_an_unknown_organization(batch, shared):
    done = batch(shared.answers().replace(shared.organization, "gh/nobody"))

    assert_refused(done, 2, "does not see an organization 'gh/nobody'; it sees gh/org0", "Correct the slug")


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (lambda text: text + "\n[incident\n", ("The answers file is no valid TOML (at line", "Correct that place")),
        (
            lambda text: text.replace("[circleci]", "severty = 'exposed'\n[circleci]"),
            ("There is no key `severty` in `incident`", "Use one of reference, severity"),
        ),
        (
            lambda text: text.replace('severity = "exposed"', "severity = 3"),
            ("`incident.severity` in the answers file is not what it may be", "Write incident.severity as"),
        ),
        (lambda text: text.encode() + b"\n# caf\xe9\n", ("is no UTF-8 text (byte", "Save it as UTF-8")),
        (lambda text: text + "#" * (2 << 20), ("The answers file is larger than 1 MiB", "Use globs")),
        (lambda text: text + "\n[waits.visible]\n", ("The answers file is no valid TOML", "Correct that place")),
        (
            lambda text: text.replace("[waits]", "[waits]\nnap = 3"),
            ("has a wait that there is not: `waits.nap`", "visible, proof"),
        ),
    ],
    ids=["not TOML", "unknown key", "wrong type", "not UTF-8", "2 MiB", "given twice", "unknown wait"],
)
def test_a_malformed_answers_file(batch, shared, spoil, sentences):
    done = batch(spoil(shared.answers()))

    assert_refused(done, 2, *sentences, "Nothing was changed")


def test_an_answers_file_that_is_not_there(batch, tmp_path):
    done = batch(None, "--answers", tmp_path / "nowhere.toml")

    assert_refused(done, 2, "nowhere.toml cannot be read: No such file or directory", "Name a file you may read")


@pytest.mark.parametrize(
    ("without", "answer_key"),
    [
        ('severity = "exposed"', "incident.severity"),
        ('organizations = ["{org}"]', "circleci.organizations"),
        ('strategy = "replace"', "keys.strategy"),
        ('value_from = "env:NEW_NPM_TOKEN"', "variables.value_from"),
    ],
)
def test_a_missing_answer_is_named_with_its_key(batch, shared, without, answer_key):
    done = batch(shared.answers().replace(without.format(org=shared.organization), ""))

    assert_refused(done, 2, f"The answers file does not say `{answer_key}`", "Nothing was changed", "Add")


def test_a_kept_key_that_is_exposed_needs_a_reason(batch, shared):
    done = batch(shared.answers(keys='strategy = "keep"'))

    assert_refused(done, 2, "The answers file does not say `keys.reason`", "Nothing was changed")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("env:NOT_THERE", "The environment has no variable 'NOT_THERE'"),
        ("file:/nowhere/at/all", "cannot be read: No such file or directory"),
        ("prompt", "there is no terminal"),
    ],
)
def test_a_source_that_would_fail_in_the_middle_is_refused_before(batch, shared, source, sentence):
    done = batch(shared.answers(npm=f'value_from = "{source}"'))

    assert_refused(done, 2, sentence, "Correct `value_from`")


def test_a_value_file_that_others_may_read(batch, shared, tmp_path):
    value = tmp_path / "value"
    value.write_text("npm_from_file")
    value.chmod(0o644)

    done = batch(shared.answers(npm=f'value_from = "file:{value}"'))

    assert_refused(done, 2, "others may read it", "chmod 600")


# --- AWS's credentials ----------------------------------------------------------------------------------------------


def test_without_aws_credentials(batch):
    done = batch(without={"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})

    assert_refused(done, 3, "AWS credentials are missing", "--profile")


def test_wrong_aws_credentials(batch):
    secret = "wrong/secret/wrong/secret/wrong/secret/00"

    done = batch(AWS_SECRET_ACCESS_KEY=secret)

    assert_refused(done, 3, "AWS does not accept the default AWS credentials: SignatureDoesNotMatch")
    assert secret not in done.stderr + done.stdout


def test_an_unknown_aws_profile(batch):
    done = batch(None, "--profile", "nobody")

    assert_refused(done, 3, "There is no such profile: the AWS profile 'nobody'", "aws configure list-profiles")


def test_a_role_that_may_not_be_assumed(batch):
    done = batch(None, "--role-arn", "not-an-arn")

    assert_refused(done, 2, "'not-an-arn' is not the ARN of a role", "arn:aws:iam::123456789012:role/NAME")


def test_the_key_that_the_run_signs_with(batch, shared, lab):
    own = lab.sandbox.keys[next(old for old, key in lab.sandbox.keys.items() if key.account == shared.account)]

    done = batch(AWS_ACCESS_KEY_ID=own.key_id, AWS_SECRET_ACCESS_KEY=own.secret.reveal())

    assert_refused(done, 7, f"this run signs with {own.key_id} itself", "run with another identity")


# --- Approval -------------------------------------------------------------------------------------------------------


def test_an_approved_digest_that_is_another_plans(batch):
    done = batch(None, "--approve", "sha256:" + "0" * 64, command=("run", "--batch"))

    assert_refused(done, 7, "The plan is now sha256:", "Nothing was changed", "Review the plan again")


def test_a_batch_that_nobody_approved_shows_the_digest(batch):
    done = batch(command=("run", "--batch"))

    assert_refused(done, 2, "is not approved. Nothing was changed", "[approve] digest = ", "--yes")
    assert "Digest: sha256:" in done.stderr


def test_without_a_terminal_and_without_batch(shared, tmp_path):
    done = shared.run(tmp_path, "run")

    assert_refused(done, 2, "There is no terminal to ask on. Nothing was changed", "--batch --answers FILE")


def test_batch_without_answers(shared, tmp_path):
    done = shared.run(tmp_path, "run", "--batch")

    assert_refused(done, 2, "--batch asks nothing, so it needs answers", "--answers FILE")


# --- Cases ----------------------------------------------------------------------------------------------------------


def _begun(folder):
    """A case with a few records."""
    journal = Journal.open(folder)
    journal.append(Opened(case="c0ffee", tool="rotation-playbook 0.1.0", mode="live", host="here", settings={}))
    return journal


def test_a_journal_from_a_newer_version(batch, tmp_path):
    case = tmp_path / "case"
    _begun(case).close()
    line, _ = encode(Opened(v=9, case="c0ffee", tool="rotation-playbook 9.0", mode="live", host="here"), "0" * 64)
    (case / "journal.jsonl").write_bytes(line + b"\n")

    for command in (["run", "--batch", "--yes", "--case", case], ["resume", case, "--batch", "--yes"]):
        done = batch(command=command)
        assert_refused(done, 5, "has format 9; this version reads up to 1", "Install the version that wrote it")
    assert (case / "journal.jsonl").read_bytes() == line + b"\n"


def test_a_folder_with_a_foreign_file(batch, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    (case / "thesis.tex").write_text("mine")

    done = batch(None, "--case", case)

    assert_refused(done, 5, "is not a case folder of ours: it holds 'thesis.tex'", "Name an empty or new folder")
    assert sorted(path.name for path in case.iterdir()) == ["thesis.tex"]


def test_a_link_instead_of_a_folder(batch, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "case").symlink_to(tmp_path / "real")

    done = batch(None, "--case", tmp_path / "case")

    assert_refused(done, 5, "is not a case folder of ours: it is a link or a file")
    assert not list((tmp_path / "real").iterdir())


def test_a_file_instead_of_a_folder(batch, tmp_path):
    (tmp_path / "case").write_text("a file")

    done = batch(None, "--case", tmp_path / "case")

    assert_refused(done, 5, "is not a case folder of ours: it is a link or a file")


def test_a_damaged_journal_names_the_line(batch, tmp_path):
    case = tmp_path / "case"
    journal = _begun(case)
    for host in ("here", "there", "everywhere"):
        journal.append(Opened(case="c0ffee", tool="t", mode="live", host=host))
    journal.close()
    path = case / "journal.jsonl"
    damaged = path.read_bytes().replace(b'"host":"there"', b'"host":"thera"')
    path.write_bytes(damaged)

    done = batch(command=("resume", case, "--batch", "--yes"))

    assert_refused(done, 5, "Line 3 of the journal (byte", "does not verify", "restore the journal from a copy")
    for command in ("status", "verify", "report", "answers"):
        looked = run_program(scrubbed(tmp_path), command, case, cwd=tmp_path)
        assert_refused(looked, 5, "Line 3 of the journal (byte", "does not verify")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("command", ["status", "verify", "report", "answers", "resume"])
def test_commands_on_something_that_is_no_case(tmp_path, command):
    folder = tmp_path / "empty"
    folder.mkdir()

    done = run_program(scrubbed(tmp_path), command, folder, cwd=tmp_path)

    assert_refused(done, 2 if command == "resume" else 5, "holds no case", "status")


@pytest.mark.parametrize("command", ["verify", "report", "answers", "resume"])
def test_commands_without_any_case(tmp_path, command):
    done = run_program(scrubbed(tmp_path), command, cwd=tmp_path)

    assert_refused(done, 2, "There is no unfinished case", "`run` or `rehearse`")


def test_a_case_that_another_process_works_on(batch, tmp_path):
    case = tmp_path / "case"
    journal = _begun(case)
    try:
        done = batch(None, "--case", case)
    finally:
        journal.close()

    assert_refused(done, 5, f"Another process works on this case: process {os.getpid()} on", "Wait for it or stop it")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(shared, lab, tmp_path):
    before = lab.snapshot()
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    answers = tmp_path / "answers.toml"
    answers.write_text(shared.answers())
    # Root writes anywhere; without its capabilities it does not.
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*drop, PROGRAM, "run", "--batch", "--yes", "--answers", str(answers), "--case", str(locked / "case")]

    done = subprocess.run(
        command,
        env=shared.environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert_refused(done, 5, "cannot be made or written: Permission denied", "name another folder with --case")
    assert lab.snapshot() == before


def test_a_dry_run_is_never_continued_live(batch, tmp_path):
    case = tmp_path / "case"
    assert batch(None, "--dry-run", "--case", case).returncode == 0

    assert_refused(batch(None, "--case", case), 2, "is a dry-run, not a live", "Name another folder")
    resumed = batch(command=("resume", case, "--batch", "--yes"))
    assert_refused(resumed, 2, "a dry run is never continued live", "`answers`")


# --- Words on the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["rehearse", "gigantic"], ["There is no scenario 'gigantic'", "small"]),
        (["rehearse", "--inject", "meteor"], ["There is no fault 'meteor'", "drop-reply"]),
        (["rehearse", "--inject", "throttle:put_variable:0"], ["There is no fault", "KIND:OPERATION:WHEN"]),
        (["rehearse", "--wait", "nap=3"], ["there is no wait 'nap'", "visible, proof"]),
        (["rehearse", "--wait", "proof=soon"], ["'proof=soon' is not NAME=SECONDS"]),
        (["rehearse", "--wait", "proof=²"], ["is not NAME=SECONDS"]),
        (["run", "--parallel", "0"], ["--parallel"]),
        (["explode"], ["No such command"]),
        (["run", "--no-such-option"], ["No such option"]),
        (["sandbox", "gigantic"], ["There is no scenario 'gigantic'"]),
        (["inventory", "--kind", "sonnet"], ["'sonnet'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unknown_name(shared, lab, tmp_path, arguments, sentences):
    before = lab.snapshot()

    done = shared.run(tmp_path, *arguments)

    assert_refused(done, 2, *sentences)
    assert lab.snapshot() == before
    assert not list(tmp_path.rglob("journal.jsonl"))


# --- Endpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "url", "sentences"),
    [
        ("AWS_ENDPOINT_URL", "https://iam.example.net", ["which is not the platform's own", "--allow-endpoint"]),
        ("AWS_ENDPOINT_URL_IAM", "https://iam.example.net", ["which is not the platform's own", "--allow-endpoint"]),
        ("AWS_ENDPOINT_URL_STS", "http://iam.example.net", ["without TLS", "Use an https address"]),
        ("CIRCLE_HOST", "https://ci.example.net", ["which is not the platform's own", "--allow-endpoint-override"]),
        ("CIRCLE_HOST", "http://ci.example.net", ["without TLS", "Use an https address"]),
        ("CIRCLE_HOST", "https://ci.example.net/path", ["is not an address that can be used"]),
        ("CIRCLE_HOST", "http://127.0.0.1@ci.example.net", ["is not an address that can be used"]),
    ],
)
def test_an_endpoint_that_leaves_this_machine(batch, variable, url, sentences):
    done = batch(**{variable: url})

    assert_refused(done, 2, variable, *sentences)


class _Elsewhere(BaseHTTPRequestHandler):
    """A host that sends everybody, with what they carry, somewhere else."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.target:
            self.send_response(self.server.code)
            self.send_header("Location", self.server.target + self.path)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def two_hosts():
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) for _ in range(2)]
    thief, host = servers
    thief.target, thief.seen = "", []
    host.target, host.seen = f"http://127.0.0.1:{thief.server_address[1]}", []
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield host, thief
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("code", [302, 307])
def test_a_host_that_redirects_gets_no_token_to_pass_on(batch, two_hosts, code):
    host, thief = two_hosts
    host.code = code

    done = batch(CIRCLE_HOST=f"http://127.0.0.1:{host.server_address[1]}")

    assert_refused(done, 4, f"HTTP{code}", "Redirects are never followed")
    assert host.seen
    assert thief.seen == []


# --- Python itself --------------------------------------------------------------------------------------------------


def test_python_with_its_checks_switched_off(shared, lab, tmp_path):
    before = lab.snapshot()

    done = shared.run(tmp_path, "inventory", PYTHONOPTIMIZE="1")

    assert_refused(done, 2, "Python runs with -O", "Run it without -O")
    assert lab.snapshot() == before


@pytest.mark.parametrize("package", ["steps", "playbook"])
def test_a_strangers_package_in_the_working_directory(shared, lab, tmp_path, package):
    before = lab.snapshot()
    planted = tmp_path / package
    planted.mkdir()
    ran = tmp_path / "ran"
    (planted / "__init__.py").write_text(f"open({str(ran)!r}, 'w').write('with your credentials')\nPLAYBOOK = ()\n")

    plain = shared.run(tmp_path, "status")
    lured = shared.run(tmp_path, "inventory", PYTHONPATH=str(tmp_path))

    assert plain.returncode == 0, plain.stderr
    if package == "steps":
        assert not ran.exists()
        assert_refused(lured, 2, "Python found another package called `playbook` or `steps`", "without PYTHONPATH")
    assert lured.returncode != 0
    assert lab.snapshot() == before


def test_the_working_directory_is_a_file_system_root_without_a_home(shared, lab):
    """No HOME and no XDG_STATE_HOME: the looking commands still answer."""
    before = lab.snapshot()
    environment = shared.environment(Path("/nonexistent"))

    done = run_program(environment, "inventory", "--format", "json", cwd="/")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] is True
    assert lab.snapshot() == before
