"""`migrate-config` as a user runs it: a process of its own, on checkouts made for the purpose."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import stat
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml

PROGRAM = Path(sys.executable).with_name("rotation-playbook")
ROLE = "arn:aws:iam::123456789012:role/ci"
CONFIG = """\
version: 2.1  # ours
orbs:
  aws-cli: circleci/aws-cli@5.1.3
jobs:
  deploy:
    docker: [{image: 'cimg/base:stable'}]
    steps:
      - checkout
      # copy the site
      - aws-cli/setup
      - run: aws s3 sync site s3://site
workflows:
  main:
    jobs:
      - deploy:
          context: [site]
"""
NOTHING = "version: 2.1\njobs:\n  build:\n    docker: [{image: cimg/base:stable}]\n    steps: [checkout]\n"
UNREADABLE = "version: 2.1\njobs:\n<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> theirs\n"
GIT_IDENTITY = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.com",
}  # fmt: skip


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        **GIT_IDENTITY,
    }


@pytest.fixture
def run(environment, tmp_path):
    def call(*arguments, role=True, **more):
        command = [PROGRAM, "migrate-config", *map(str, arguments), *(["--role-arn", ROLE] if role else [])]
        done = subprocess.run(
            command, env=environment | more, cwd=tmp_path, capture_output=True, timeout=120, check=False
        )
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in done.stderr
        assert "bug" not in done.stderr
        return done

    return call


@pytest.fixture
def checkout(tmp_path, environment):
    def make(name="my shop", config=CONFIG, *, git=True, **others):
        root = tmp_path / name
        (root / ".circleci").mkdir(parents=True)
        (root / ".circleci/config.yml").write_text(config, newline="")
        for other, text in others.items():
            (root / f".circleci/{other}.yml").write_text(text)
        if git:
            for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
                subprocess.run(["git", *arguments], cwd=root, env=environment, check=True, timeout=60)
        return root

    return make


def git(root, *arguments):
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, check=True, timeout=60, text=True
    ).stdout.strip()


def config_of(root):
    return (root / ".circleci/config.yml").read_text()


# --- A diff -----------------------------------------------------------------------------------------------------------


def test_a_diff_is_shown_that_git_applies_and_nothing_is_written(run, checkout):
    root = checkout()
    shown = run(root)
    assert shown.returncode == 10
    assert config_of(root) == CONFIG
    assert shown.stdout.startswith("--- a/.circleci/config.yml\n+++ b/.circleci/config.yml\n")
    assert "not written" in shown.stderr
    subprocess.run(["git", "apply", "-"], input=shown.stdout.encode(), cwd=root, check=True, timeout=60)
    migrated = config_of(root)
    assert ROLE in migrated
    assert "version: 2.1  # ours\n" in migrated
    assert "      # copy the site\n" in migrated
    assert "aws-oidc" in migrated


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_diff_of_a_file_without_a_last_line_break_applies_too(run, checkout, ending):
    root = checkout(config=CONFIG.rstrip("\n").replace("\n", ending))
    shown = run(root)
    assert shown.returncode == 10
    patch = subprocess.run([PROGRAM, "migrate-config", root, "--role-arn", ROLE], capture_output=True, check=False)
    subprocess.run(["git", "apply", "-"], input=patch.stdout, cwd=root, check=True, timeout=60)
    assert ROLE in config_of(root)


def test_a_terminal_gets_colours_unless_told_otherwise(environment, checkout, tmp_path):
    root = checkout()
    seen = {}
    for name, more in (("coloured", {}), ("plain", {"NO_COLOR": "1"})):
        parent, child = pty.openpty()
        fcntl.ioctl(parent, termios.TIOCSWINSZ, b"\x28\x00\xc8\x00\x00\x00\x00\x00")
        process = subprocess.Popen(
            [PROGRAM, "migrate-config", root, "--role-arn", ROLE],
            stdin=child, stdout=child, stderr=child, env=environment | {"TERM": "xterm-256color"} | more,
        )  # fmt: skip
        os.close(child)
        text = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
        os.close(parent)
        assert process.wait(timeout=60) == 10
        seen[name] = text.decode()
    assert "\x1b[32m+" in seen["coloured"]
    assert "\x1b[31m-" in seen["coloured"] or "\x1b[32m+" in seen["coloured"]
    assert "\x1b[3" not in seen["plain"]


def test_json_says_the_same(run, checkout):
    root, other = checkout(), checkout("other", NOTHING)
    told = run(root, other, "--json")
    document = json.loads(told.stdout)
    assert told.returncode == document["exit_code"] == 10
    assert [file["verdict"] for file in document["files"]] == ["migrated", "nothing to do"]
    assert document["files"][0]["diff"].startswith("--- a/")
    assert document["files"][0]["schema_breaches"] == 0
    assert document["files"][1]["diff"] is None


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_writing_keeps_the_mode_says_how_to_undo_and_does_nothing_twice(run, checkout):
    root = checkout()
    path = root / ".circleci/config.yml"
    path.chmod(0o640)
    written = run(root, "--write")
    assert written.returncode == 0
    assert written.stdout == ""
    after = path.read_text()
    assert ROLE in after
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in path.parent.iterdir()) == ["config.yml"]
    again = run(root, "--write")
    assert again.returncode == 0
    assert "1 nothing to do" in again.stderr
    assert path.read_text() == after
    undo(written)
    assert path.read_text() == CONFIG


def undo(done):
    (command,) = [line.split("undo: ")[1] for line in done.stderr.splitlines() if "undo: " in line]
    for each in command.split(" && "):
        subprocess.run(shlex.split(each), check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("case", [False, True])
def test_what_git_cannot_bring_back_is_kept(run, checkout, tmp_path, case):
    root = checkout(git=False)
    written = run(root, "--write", *(["--case", tmp_path / "case"] if case else []))
    assert written.returncode == 0
    kept = list((tmp_path / ("case" if case else "state/playbook") / "originals").iterdir())
    assert [each.read_text() for each in kept] == [CONFIG]
    assert stat.S_IMODE(kept[0].stat().st_mode) == 0o600
    assert config_of(root) != CONFIG
    undo(written)
    assert config_of(root) == CONFIG


def test_a_change_that_is_not_committed_is_kept_too(run, checkout, tmp_path):
    root = checkout()
    (root / ".circleci/config.yml").write_text(CONFIG + "# mine\n")
    undo(run(root, "--write"))
    assert config_of(root) == CONFIG + "# mine\n"


def test_every_file_of_a_dynamic_configuration_is_looked_at(run, checkout):
    root = checkout(config="version: 2.1\nsetup: true\n" + NOTHING.removeprefix("version: 2.1\n"), continued=CONFIG)
    done = run(root / ".circleci", "--write")
    assert done.returncode == 0
    assert ROLE in (root / ".circleci/continued.yml").read_text()
    assert "2 file(s): 1 migrated, 1 nothing to do" in done.stderr


def test_one_that_is_refused_does_not_stop_the_others(run, checkout):
    good, bad = checkout(), checkout("bad", UNREADABLE)
    shown = run(good, bad)
    assert shown.returncode == 7
    done = run(good, bad, "--write")
    assert done.returncode == 12
    assert ROLE in config_of(good)
    assert config_of(bad) == UNREADABLE
    assert "line 3: a merge conflict is not resolved" in done.stderr
    assert run(bad, "--write").returncode == 7


DYNAMIC = """\
version: 2.1
jobs:
  deploy:
    docker: [{image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/tools:1}]
    resource_class: acme/runner
    steps: [checkout, run: make]
workflows:
  main:
    jobs: [deploy]
"""


@pytest.mark.parametrize("branch", [False, True])
def test_a_further_file_comes_along_and_never_replaces_one(run, checkout, branch):
    root = checkout(config=DYNAMIC)
    how = ["--self-hosted", *(["--branch", "x"] if branch else ["--write"])]
    done = run(root, *how)
    assert done.returncode == 0, done.stderr
    if branch:
        assert "ecr-password" in git(root, "show", "x:.circleci/continue-config.yml")
        assert "setup: true" in git(root, "show", "x:.circleci/config.yml")
    else:
        assert "ecr-password" in (root / ".circleci/continue-config.yml").read_text()
        assert "2 nothing to do" in run(root, *how).stderr
        undo(done)
        assert sorted(each.name for each in (root / ".circleci").iterdir()) == ["config.yml"]
    assert config_of(root) == DYNAMIC
    other = checkout("other", DYNAMIC, **{"continue-config": NOTHING})
    refused = run(other, *how)
    assert refused.returncode == 7
    assert "there is one already" in refused.stderr
    assert (other / ".circleci/continue-config.yml").read_text() == NOTHING


TWO_KEYS = CONFIG.replace(
    "      - run: aws s3 sync site s3://site\n",
    "      - run: |\n"
    "          export AWS_ACCESS_KEY_ID=$ONE_KEY AWS_SECRET_ACCESS_KEY=$ONE_SECRET\n"
    "          aws s3 sync site s3://one\n"
    "          export AWS_ACCESS_KEY_ID=$TWO_KEY AWS_SECRET_ACCESS_KEY=$TWO_SECRET\n"
    "          aws s3 sync site s3://two\n",
)


def test_what_is_refused_comes_with_a_patch_to_go_on_from(run, checkout):
    root = checkout(config=TWO_KEYS)
    done = run(root, "--json", "--write")
    (file,) = json.loads(done.stdout)["files"]
    assert done.returncode == 7
    assert file["verdict"] == "refused"
    assert file["reasons"][0]["text"]
    assert config_of(root) == TWO_KEYS
    assert "A patch to go on from by hand" in run(root).stderr
    subprocess.run(["git", "apply", "-"], input=file["by_hand"].encode(), cwd=root, check=True, timeout=60)
    assert ROLE in config_of(root)
    assert "aws-oidc" in config_of(root)


def test_a_link_out_of_the_checkout_is_refused(run, checkout, tmp_path):
    root = checkout()
    outside = tmp_path / "outside.yml"
    outside.write_text(CONFIG)
    path = root / ".circleci/config.yml"
    path.unlink()
    path.symlink_to(outside)
    done = run(root, "--write")
    assert done.returncode == 7
    assert "leaves the checkout" in done.stderr
    assert outside.read_text() == CONFIG


def test_a_link_within_the_checkout_is_followed_and_stays_one(run, checkout):
    root = checkout(git=False)
    path = root / ".circleci/config.yml"
    path.rename(root / "ci.yml")
    path.symlink_to("../ci.yml")
    assert run(root, "--write").returncode == 0
    assert path.is_symlink()
    assert ROLE in (root / "ci.yml").read_text()


def test_what_is_no_file_is_refused(run, checkout):
    root = checkout(git=False)
    path = root / ".circleci/config.yml"
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in run(root, "--write").stderr
    path.unlink()
    path.symlink_to("config.yml")
    assert run(root, "--write").returncode == 7
    path.unlink()
    path.write_bytes(b"a: " + b"x" * (1 << 21))
    assert "longer than 1 MiB" in run(root, "--write").stderr


# --- A branch ---------------------------------------------------------------------------------------------------------


def test_a_branch_leaves_the_working_tree_the_index_and_head_alone(run, checkout, environment):
    root = checkout()
    hook = root / ".git/hooks/reference-transaction"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    path = root / ".circleci/config.yml"
    path.write_text(CONFIG + "# not committed\n")
    (root / "staged").write_text("x")
    subprocess.run(["git", "add", "staged"], cwd=root, check=True, timeout=60)
    (root / "hooked").unlink(missing_ok=True)
    before = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "symbolic-ref", "HEAD")

    done = run(root, "--branch", "oidc/login")

    assert done.returncode == 0
    assert before == (
        git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "symbolic-ref", "HEAD")
    )  # fmt: skip
    assert config_of(root) == CONFIG + "# not committed\n"
    assert not (root / "hooked").exists()
    committed = git(root, "show", "oidc/login:.circleci/config.yml")
    assert ROLE in committed
    assert "# not committed" not in committed
    assert git(root, "rev-parse", "oidc/login^") == before[1]
    assert git(root, "diff", "--name-only", "HEAD", "oidc/login") == ".circleci/config.yml"
    assert "OIDC" in git(root, "log", "-1", "--format=%s", "oidc/login")

    again = run(root, "--branch", "oidc/login")
    assert again.returncode == 0
    assert "holds it already" in again.stderr
    undo(done)
    assert "oidc/login" not in git(root, "branch", "--list")


def test_a_branch_that_is_there_is_refused(run, checkout):
    root = checkout()
    git(root, "branch", "there")
    tip = git(root, "rev-parse", "there")
    done = run(root, "--branch", "there")
    assert done.returncode == 7
    assert "there is a branch there already" in done.stderr
    assert git(root, "rev-parse", "there") == tip


@pytest.mark.parametrize("name", ["a..b", "-d", "x.lock", "a b", ""])
def test_a_name_that_git_does_not_take_makes_no_branch(run, checkout, name):
    root = checkout()
    refs = git(root, "for-each-ref")
    assert run(root, f"--branch={name}").returncode == 7
    assert git(root, "for-each-ref") == refs


def test_a_branch_needs_a_commit_to_stand_on(run, checkout, tmp_path):
    assert "no git checkout" in run(checkout(git=False), "--branch", "x").stderr
    root = checkout("fresh", git=False)
    git(root, "init", "-q")
    assert "not committed" in run(root, "--branch", "x").stderr


def test_several_files_of_one_checkout_are_one_commit(run, checkout):
    root = checkout(continued=CONFIG)
    assert run(root, "--branch", "x").returncode == 0
    assert git(root, "rev-list", "--count", "HEAD..x") == "1"
    assert len(git(root, "diff", "--name-only", "HEAD", "x").split()) == 2


# --- Explaining and options -------------------------------------------------------------------------------------------


def test_explaining_needs_no_role_and_changes_nothing(run, checkout):
    root, bad = checkout(), checkout("bad", UNREADABLE)
    told = run(root, "--explain", role=False)
    assert told.returncode == 0
    assert "main/deploy" in told.stdout
    assert "implicit, with a context" in told.stdout
    document = json.loads(run(root, bad, "--explain", "--json", role=False).stdout)
    assert document["files"][0]["jobs"][0]["contexts"] == ["site"]
    assert document["files"][0]["jobs"][0]["needs_stored_key"] is True
    assert document["files"][1]["readable"] is False
    assert document["exit_code"] == 7
    assert config_of(root) == CONFIG


@pytest.mark.parametrize(
    "arguments",
    [
        ["--role-arn", "not an arn"],
        ["--role-arn", ROLE, "--region", "x; rm"],
        ["--role-arn", ROLE, "--job-role", "deploy"],
        ["--role-arn", ROLE, "--session-duration", "1"],
        ["--role-arn", ROLE, "--write", "--branch", "x"],
        [],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_read(run, checkout, arguments):
    root = checkout()
    done = run(root, *arguments, role=False)
    assert done.returncode == 2
    assert done.stderr
    assert config_of(root) == CONFIG


def test_a_path_without_a_configuration_is_named(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("empty", "nowhere"):
        done = run(tmp_path / path)
        assert done.returncode == 2
        assert path in done.stderr


def test_an_inline_orb_wraps_the_login(run, checkout):
    root = checkout()
    assert run(root, "--as-orb", "--write").returncode == 0
    orbs = yaml.safe_load(config_of(root))["orbs"]
    assert any(isinstance(orb, dict) and "commands" in orb for orb in orbs.values())


def test_the_sources_of_an_orb_are_written_once(run, checkout, tmp_path):
    root = checkout()
    done = run(root, "--as-orb", tmp_path / "orb")
    assert done.returncode == 10
    files = [path for path in (tmp_path / "orb").rglob("*") if path.is_file()]
    print(sorted(str(path.relative_to(tmp_path)) for path in files))
    assert any(path.name == "@orb.yml" for path in files)
    again = run(root, "--as-orb", tmp_path / "orb")
    assert again.returncode == 2
    assert "already" in again.stderr


# --- CircleCI's own tool ----------------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
echo "$@" >> "{log}"
env >> "{log}"
cat "$3" >> "{log}"
exit {code}
"""


@pytest.mark.parametrize("code", [0, 1])
def test_the_tool_is_asked_only_when_told_to(run, checkout, tmp_path, environment, code):
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    (folder / "circleci").write_text(FAKE.format(log=log, code=code))
    (folder / "circleci").chmod(0o755)
    more = {"PATH": f"{folder}:{environment['PATH']}", "AWS_SECRET_ACCESS_KEY": "canary"}
    root = checkout()
    assert run(root, **more).returncode == 10
    assert not log.exists()
    done = run(root, "--validate-with-cli", **more)
    assert done.returncode == (7 if code else 10)
    assert "sent to CircleCI" in done.stderr
    assert log.read_text().startswith("config validate ")
    assert ROLE in log.read_text()
    assert "canary" not in log.read_text()


def test_without_the_tool_nothing_is_sent(run, checkout, tmp_path):
    done = run(checkout(), "--validate-with-cli", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "nothing was sent" in done.stderr


def test_a_job_whose_script_reaches_aws_is_named_by_hand(run, tmp_path):
    hidden = CONFIG.replace("aws s3 sync site s3://site", "./deploy.sh").replace("      - aws-cli/setup\n", "")
    path = tmp_path / "hidden.yml"
    path.write_text(hidden)
    unseen = run(path)
    named = run(path, "--also-job", "deploy")
    assert unseen.returncode == 0
    assert named.returncode == 10
    assert f"+          role_arn: {ROLE}" in named.stdout or f"role_arn: {ROLE}" in named.stdout
    assert path.read_text() == hidden
