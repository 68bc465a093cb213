"""The canary's job: run for real with a stand-in `aws`, so that what it prints and stores is what is read back."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from playbook.canary import CanaryReport, read_report, with_keys, with_role
from playbook.ports import StoredTest

KEY_ID = "AKIAQRSTUVWX2345WXYZ"
SECRET = "made-up-secret-of-the-canary-test-1234567"
ARN = "arn:aws:iam::123456789012:user/ci/deploy-bot"
AWS = """#!/bin/sh
case "$*" in
*get-caller-identity*)
  if [ "$AWS_SECRET_ACCESS_KEY" != "{secret}" ] && [ -z "${{AWS_SESSION_TOKEN:-}}" ]; then
    echo "An error occurred (SignatureDoesNotMatch) when calling: $AWS_SECRET_ACCESS_KEY" >&2; exit 254
  fi
  printf '123456789012\\t%s\\n' "${{AWS_SESSION_TOKEN:+arn:aws:sts::123456789012:assumed-role/ci/s}}{arn}" ;;
*assume-role-with-web-identity*)
  if [ -z "${{CIRCLE_OIDC_TOKEN_V2:-}}" ]; then echo "(InvalidIdentityToken)" >&2; exit 254; fi
  printf 'ASIAQRSTUVWX2345ABCD\\tsession-secret\\tsession-token\\n' ;;
esac
"""


def run(tmp_path: Path, config: str, variables: dict[str, str], *, arn: str = ARN) -> tuple[CanaryReport, str, int]:
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "aws"
    stand_in.write_text(AWS.format(secret=SECRET, arn=arn))
    stand_in.chmod(0o755)
    job = yaml.safe_load(config)["jobs"]["canary"]
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **job["environment"], **variables}
    command = job["steps"][0]["run"]["command"]
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    stored = ET.parse(tmp_path / "canary" / "results.xml").getroot()
    results = [
        StoredTest(name=case.attrib["name"], classname=case.attrib["classname"], result="success") for case in stored
    ]
    return read_report(results), done.stdout + done.stderr, done.returncode


def test_the_job_says_account_arn_and_tail_and_nothing_more(tmp_path: Path) -> None:
    config = with_keys(["deploy"], "PROD_AWS_ACCESS_KEY_ID", "PROD_AWS_SECRET_ACCESS_KEY", "eu-west-1")

    report, said, code = run(tmp_path, config, {"PROD_AWS_ACCESS_KEY_ID": KEY_ID, "PROD_AWS_SECRET_ACCESS_KEY": SECRET})

    assert report == CanaryReport(account="123456789012", arn=ARN, tail="WXYZ")
    assert code == 0
    assert said == f"account: 123456789012\narn: {ARN}\ntail: WXYZ\n"
    assert SECRET not in said
    assert KEY_ID not in said


def test_a_pair_that_does_not_sign_gives_the_code_and_not_the_message(tmp_path: Path) -> None:
    config = with_keys([], "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "us-east-1")

    report, said, code = run(tmp_path, config, {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "torn-half"})

    assert report == CanaryReport(failure="SignatureDoesNotMatch")
    assert code == 1
    assert "torn-half" not in said


def test_variables_that_are_missing_are_a_failure(tmp_path: Path) -> None:
    config = with_keys([], "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "us-east-1")

    report, _, code = run(tmp_path, config, {})

    assert report.failure
    assert code == 1


def test_a_role_is_proved_through_the_token_and_a_static_key_beside_it_is_named(tmp_path: Path) -> None:
    config = with_role(["aws-oidc"], "arn:aws:iam::123456789012:role/ci", "us-east-1")

    report, said, code = run(
        tmp_path,
        config,
        {"CIRCLE_OIDC_TOKEN_V2": "token", "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "x"},
        arn="",
    )

    assert report == CanaryReport(
        account="123456789012", arn="arn:aws:sts::123456789012:assumed-role/ci/s", tail="ABCD", static_tail="WXYZ"
    )
    assert code == 0
    assert "session-secret" not in said
    assert "session-token" not in said


def test_a_token_that_is_refused_is_a_failure(tmp_path: Path) -> None:
    config = with_role([], "arn:aws:iam::123456789012:role/ci", "us-east-1")

    report, _, code = run(tmp_path, config, {})

    assert report == CanaryReport(failure="InvalidIdentityToken")
    assert code == 1


@pytest.mark.parametrize(
    ("classname", "name"),
    [
        ("account", "12345678901"),
        ("account", "123456789012\n"),
        ("arn", "arn:aws:iam::123456789012:user/\x1b[2J"),
        ("tail", "wxyz"),
        ("tail", "WXYZ2"),
        ("failure", "Bad code"),
        ("unknown", "123456789012"),
    ],
)
def test_what_a_stranger_stored_is_passed_over(classname: str, name: str) -> None:
    report = read_report([StoredTest(name=name, classname=classname, result="success")])

    assert report == CanaryReport()
    assert report.is_empty


def test_the_config_attaches_every_context_in_order() -> None:
    config = yaml.safe_load(with_keys(["one", "two: three"], "A", "B", "us-east-1"))

    assert config["workflows"]["rotation-playbook-canary"]["jobs"] == [{"canary": {"context": ["one", "two: three"]}}]
    assert config["version"] == 2.1
