# ruff: noqa: E501, ISC004, Q003  # scripts as they stand in files
"""From access keys to OIDC: what each way of handing a key on becomes, and what is refused instead of guessed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from playbook.circleci_config import orbs, scripts
from playbook.circleci_config.document import parse
from playbook.circleci_config.login import PLAIN_NAME, Login, plain_step, problem
from playbook.circleci_config.rewrite import Options, Verdict, migrate

ROLE = "arn:aws:iam::111122223333:role/ci"
OPTIONS = Options(role_arn=ROLE, context="aws-oidc")


def config(steps, *, orbs="", image="cimg/base:current", version="2.1", workflow="workflows: {main: {jobs: [job]}}"):
    head = f"orbs:\n{orbs}" if orbs else ""
    return f"version: {version}\n{head}jobs:\n  job:\n    docker: [image: '{image}']\n    steps:\n{steps}\n{workflow}\n"


def migrated(text, options=OPTIONS):
    migration = migrate(parse(text), options)
    assert migration.verdict is Verdict.MIGRATED, migration.reasons
    assert migrate(parse(migration.after), options).verdict is Verdict.NOTHING
    return migration


def steps_of(text, options=OPTIONS):
    return parse(migrated(text, options).after).data["jobs"]["job"]["steps"]


def refused(text, options=OPTIONS):
    migration = migrate(parse(text), options)
    assert migration.verdict is Verdict.REFUSED
    assert migration.after == migration.before == text
    return migration.reasons[0]


# --- Scripts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("export AWS_ACCESS_KEY_ID=$K\nexport AWS_SECRET_ACCESS_KEY=$S\naws s3 ls\n", "aws s3 ls\n"),
        ("export AWS_ACCESS_KEY_ID=$K AWS_SECRET_ACCESS_KEY=$S AWS_REGION=x\naws s3 ls", "export AWS_REGION=x\naws s3 ls"),
        ("AWS_ACCESS_KEY_ID=$K AWS_SECRET_ACCESS_KEY=$S aws s3 ls", "aws s3 ls"),
        ("AWS_ACCESS_KEY_ID=\"$K\" \\\nAWS_SECRET_ACCESS_KEY=\"$S\" \\\naws s3 ls | cat", "aws s3 ls | cat"),
        ("if test $X; then\n  export AWS_ACCESS_KEY_ID=$K\nfi\nmake", "if test $X; then\n  :\nfi\nmake"),
        ("aws configure set aws_access_key_id $K && aws configure set aws_secret_access_key $S && aws s3 ls", "aws s3 ls"),
        ("cat > ~/.aws/credentials <<EOF\n[default]\naws_access_key_id=$K\nEOF\naws s3 ls", "aws s3 ls"),
        ("mkdir ~/.aws\necho \"aws_access_key_id=$K\" > ~/.aws/credentials\naws s3 ls", "mkdir -p ~/.aws\naws s3 ls"),
        ("docker run -e AWS_ACCESS_KEY_ID=$K -e AWS_SECRET_ACCESS_KEY=$S image",
         "docker run -e AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
         " -e AWS_SESSION_TOKEN=$AWS_SESSION_TOKEN image"),
        ("docker run \\\n  --env AWS_ACCESS_KEY_ID \\\n  --env AWS_SECRET_ACCESS_KEY \\\n  image",
         "docker run \\\n  --env AWS_ACCESS_KEY_ID \\\n  --env AWS_SECRET_ACCESS_KEY --env AWS_SESSION_TOKEN \\\n  image"),
        ("echo \"AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY\" >> .env",
         "echo \"AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY\" >> .env\n"
         "echo \"AWS_SESSION_TOKEN=$AWS_SESSION_TOKEN\" >> .env"),
        ("ecs deploy c s \\\n  --access-key-id $K \\\n  --secret-access-key $S \\\n  --timeout 9", "ecs deploy c s \\\n  --timeout 9"),
        ("export AWS_ACCESS_KEY_ID=$<< parameters.env >>_KEY\naws s3 ls", "aws s3 ls"),
        ("AWS_ACCESS_KEY_ID=${<< parameters.key >>} AWS_SECRET_ACCESS_KEY=$<<parameters.secret>> make", "make"),
        ("aws configure <<EOF\n$PROD_ACCESS_KEY\n$PROD_SECRET\neu-west-1\njson\nEOF\naws s3 ls", "aws s3 ls"),
        ("printf '%s\\n' $K_ACCESS_KEY_ID $S us json | aws configure --profile p\naws s3 ls", "aws s3 ls"),
        ("s3cmd --access_key=$K --secret_key=$S ls", "s3cmd ls"),
        ("./ecs-deploy -k $AWS_ACCESS_KEY_ID -s $AWS_SECRET_ACCESS_KEY -r eu-west-1 -c c", "./ecs-deploy -r eu-west-1 -c c"),
        ('terraform init -backend-config="access_key=$AWS_ACCESS_KEY_ID" -backend-config="bucket=b"',
         'terraform init -backend-config="bucket=b"'),
        ("export AWS_ACCESS_KEY_ID=${!NAME}\naws s3 ls", "aws s3 ls"),
        ("K=$(eval echo \\$${STAGE}_KEY)\nexport AWS_ACCESS_KEY_ID=$K\naws s3 ls", "K=$(eval echo \\$${STAGE}_KEY)\naws s3 ls"),
        # Left alone: dummies, what the script makes itself, what names no key.
        ("AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test make test", None),
        ("role=$(aws sts assume-role)\nexport AWS_ACCESS_KEY_ID=$(echo $role | jq -r .a)", None),
        ("export AWS_REGION=$R\naws s3 ls", None),
    ],
)  # fmt: skip
def test_a_script_without_its_keys(before, after):
    found = scripts.rewritten(before)
    assert not found.obstacles
    assert found.text == (before if after is None else after)
    assert scripts.rewritten(found.text).text == found.text


@pytest.mark.parametrize(
    "script",
    [
        'set -e\nmkdir -p ~/.aws\necho "aws_access_key_id=$K" >> ~/.aws/credentials',
        "echo 'export AWS_ACCESS_KEY_ID=$K' >> $BASH_ENV",
    ],
)
def test_a_step_that_only_hands_a_key_on_becomes_the_login(script):
    lines = "\n".join(f"          {line}" for line in script.split("\n"))
    steps = steps_of(config(f"      - run: |\n{lines}\n      - run: aws s3 ls"))
    assert steps == [{"aws-cli/setup": {"role_arn": ROLE}}, {"run": "aws s3 ls"}]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to ask")
def test_what_is_left_of_a_script_is_still_a_script():
    blocks = (
        "if true; then\n{}\nfi",
        "for x in 1; do\n{}\ndone",
        "f() {{\n{}\n}}",
        "if a; then\n{}\nelse\nb\nfi",
        "{}",
    )
    keys = ("  export AWS_ACCESS_KEY_ID=$K", "  aws configure set aws_access_key_id $K", "  AWS_ACCESS_KEY_ID=$K make")
    for block in blocks:
        for key in keys:
            text = scripts.rewritten(block.format(key)).text
            assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0, text


# --- Where the login goes -------------------------------------------------------------------------------------------


def test_before_the_first_use_and_after_the_code():
    steps = steps_of(config("      - checkout\n      - run: make\n      - run: aws s3 ls\n      - run: aws s3 ls"))
    assert [next(iter(step)) if isinstance(step, dict) else step for step in steps] == [
        "checkout", "run", "aws-cli/setup", "run", "run",
    ]  # fmt: skip


def test_a_key_that_a_step_keeps_for_the_later_ones():
    steps = steps_of(config("""\
      - run: |
          echo "export AWS_ACCESS_KEY_ID=$STAGING_KEY" >> $BASH_ENV
          echo "export AWS_SECRET_ACCESS_KEY=$STAGING_SECRET" >> $BASH_ENV
          echo "export STAGE=staging" >> $BASH_ENV
      - run: aws s3 ls"""))  # fmt: skip
    assert steps == [
        {"run": 'echo "export STAGE=staging" >> $BASH_ENV\n'},
        {"aws-cli/setup": {"role_arn": ROLE}},
        {"run": "aws s3 ls"},
    ]


def test_before_whatever_may_fail_when_a_step_runs_after_a_failure():
    late = "      - run: {command: aws s3 rm s3://b, when: on_fail}"
    steps = steps_of(config(f"      - checkout\n      - run: make\n{late}"))
    assert list(steps[1]) == ["aws-cli/setup"]
    own_installer = "      - run: sudo ./aws/install"
    steps = steps_of(config(f"      - checkout\n{own_installer}\n      - run: make\n{late}"))
    assert list(steps[2]) == ["aws-cli/setup"], "the CLI's installer refuses where the orb has been"


def test_the_profile_that_the_key_was_kept_in():
    steps = steps_of(config("      - run: |\n          make\n          aws configure set aws_access_key_id $K --profile p\n"
                            "      - run: aws s3 ls --profile p"))  # fmt: skip
    assert steps[1] == {"aws-cli/setup": {"role_arn": ROLE, "profile_name": "p"}}


def test_a_profile_that_takes_a_further_role_is_not_bypassed_by_the_environment():
    script = '      - run: |\n          echo "source_profile=default" > ~/.aws/config\n          make\n'
    key = '          echo "aws_access_key_id=$CI_KEY" > ~/.aws/credentials\n      - run: aws s3 ls'
    steps = steps_of(config(script + key))
    assert steps[1]["aws-cli/setup"]["set_aws_env_vars"] is False


def test_an_orbs_job_logs_in_before_its_steps():
    text = """\
version: 2.1
orbs:
  aws-ecs: circleci/aws-ecs@1.4.0
workflows:
  main:
    jobs:
      - aws-ecs/deploy-service-update: {family: f, cluster-name: c, aws-access-key-id: PROD_KEY}
"""
    data = parse(migrated(text).after).data
    assert data["workflows"]["main"]["jobs"] == [
        {
            "aws-ecs/deploy-service-update": {
                "family": "f",
                "cluster-name": "c",
                "context": "aws-oidc",
                "pre-steps": [{"aws-cli/setup": {"role_arn": ROLE}}],
            }
        }
    ]


def test_windows_logs_in_where_every_tool_reads():
    text = config("      - run: aws s3 ls").replace(
        "docker: [image: 'cimg/base:current']", "machine: {image: windows-2022}"
    )
    data = parse(migrated(text).after).data
    (command,) = data["commands"].values()
    assert command["steps"][0]["run"]["shell"] == "bash.exe"


# --- Orbs by version ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "after", "role"),
    [
        ("0.1.13", "5.4.1", "role_arn"),
        ("2.0.6", "5.4.1", "role_arn"),
        ("2", "5.4.1", "role_arn"),
        ("3.0.0", "3.2.0", "role-arn"),
        ("3.1.4", "3.2.0", "role-arn"),
        ("3.1.5", "3.1.5", "role-arn"),
        ("3", "3", "role-arn"),
        ("4.0.0", "4.0.0", "role_arn"),
        ("4.1.2", "5.4.1", "role_arn"),
        ("4.1", "5.4.1", "role_arn"),
        ("5.1.1", "5.4.1", "role_arn"),
        ("5.1.2", "5.1.2", "role_arn"),
        ("5", "5", "role_arn"),
        ("volatile", "volatile", "role_arn"),
    ],
)
def test_the_version_at_which_oidc_works_and_a_leftover_key_does_not_win(version, after, role):
    text = config("      - x/setup\n      - run: aws s3 ls", orbs=f"  x: circleci/aws-cli@{version}\n")
    data = parse(migrated(text).after).data
    assert data["orbs"] == {"x": f"circleci/aws-cli@{after}"}
    assert data["jobs"]["job"]["steps"][0] == {"x/setup": {role: ROLE}}


def test_a_renamed_orb_is_renamed_wherever_it_is_used():
    text = """\
version: 2.1
orbs:
  aws-cli: circleci/aws-cli@1.3.2
jobs:
  job:
    docker: [image: cimg/base:current]
    steps:
      - aws-cli/setup: {profile-name: p, aws-access-key-id: K, aws-region: R}
      - run: aws s3 ls
  unreached:
    docker: [image: cimg/base:current]
    steps:
      - aws-cli/setup: {aws-access-key-id: K2, aws-region: R2}
      - aws-cli/role-arn-setup: {profile-name: q, role-arn: $R}
workflows: {main: {jobs: [job]}}
"""
    jobs = parse(migrated(text).after).data["jobs"]
    assert jobs["job"]["steps"][0] == {"aws-cli/setup": {"profile_name": "p", "region": "${R}", "role_arn": ROLE}}
    assert jobs["unreached"]["steps"] == [
        {"aws-cli/setup": {"aws_access_key_id": "${K2}", "region": "${R2}"}},
        {"aws-cli/role_arn_setup": {"profile_name": "q", "role_arn": "$R"}},
    ]


def test_an_old_ecr_orb_moves_to_the_one_that_takes_a_login():
    text = """\
version: 2.1
orbs:
  aws-ecr: circleci/aws-ecr@6.15.3
jobs:
  scan:
    docker: [image: cimg/base:current]
    steps: [checkout]
workflows:
  main:
    jobs:
      - aws-ecr/build-and-push-image: {repo: r, account-url: OUR_REGISTRY, aws-access-key-id: K, create-repo: true}
      - scan: {requires: [aws-ecr/build-and-push-image]}
"""
    data = parse(migrated(text).after).data
    assert data["orbs"] == {"aws-ecr": "circleci/aws-ecr@9.8.1", "aws-cli": "circleci/aws-cli@5.4.1"}
    job, scan = data["workflows"]["main"]["jobs"]
    assert job == {
        "aws-ecr/build_and_push_image": {
            "repo": "r",
            "account_id": "${OUR_REGISTRY%%.*}",
            "create_repo": True,
            "region": "${AWS_REGION}",  # what 6 took unasked
            "auth": [{"aws-cli/setup": {"role_arn": ROLE}}],
            "context": "aws-oidc",
        }
    }
    assert scan == {"scan": {"requires": ["aws-ecr/build_and_push_image"]}}


def test_a_login_that_is_given_as_steps_is_moved_where_it_stands():
    text = """\
version: 2.1
orbs:
  aws-ecr: circleci/aws-ecr@9.0
  aws-cli: circleci/aws-cli@4.1
workflows:
  main:
    jobs:
      - aws-ecr/build_and_push_image: {repo: r, auth: [aws-cli/setup: {aws_access_key_id: K}]}
"""
    (job,) = parse(migrated(text).after).data["workflows"]["main"]["jobs"]
    assert job == {
        "aws-ecr/build_and_push_image": {
            "repo": "r",
            "auth": [{"aws-cli/setup": {"role_arn": ROLE}}],
            "context": "aws-oidc",
        }
    }


def test_an_executor_that_takes_other_parameters_is_refused():
    text = """\
version: 2.1
orbs:
  aws-ecr: circleci/aws-ecr@6.15.3
workflows:
  main:
    jobs:
      - aws-ecr/build-and-push-image:
          repo: r
          executor: {name: aws-ecr/default, image: x}
"""
    assert "executor" in refused(text).text


def test_an_image_that_was_only_built_is_not_pushed():
    text = config("      - aws-ecr/build-image: {repo: r}", orbs="  aws-ecr: circleci/aws-ecr@6.15.3\n")
    steps = steps_of(text.replace("aws-ecr/build-image", "aws-ecr/ecr-login\n      - aws-ecr/build-image"))
    assert steps[2]["aws-ecr/build_image"]["push_image"] is False


def test_variables_in_a_list():
    step = "      - run:\n          command: make\n          environment:\n            - AWS_ACCESS_KEY_ID: $K\n            - X: 1"
    steps = steps_of(config(step))
    assert steps == [{"aws-cli/setup": {"role_arn": ROLE}}, {"run": {"command": "make", "environment": [{"X": 1}]}}]


def test_a_version_with_which_a_leftover_key_wins_is_told():
    text = config("      - x/setup: {role_arn: $R}\n      - run: aws s3 ls", orbs="  x: circleci/aws-cli@4.1.3\n")
    migration = migrate(parse(text), OPTIONS)
    assert migration.verdict is Verdict.NOTHING
    assert "wins over the role" in migration.notes[0]


def test_what_has_no_successor_is_refused():
    text = """\
version: 2.1
orbs:
  aws-ecr: circleci/aws-ecr@6.1.0
workflows: {main: {jobs: [aws-ecr/build-and-push-image: {repo: r, return-sha-var: SHA}]}}
"""
    assert "return-sha-var" in refused(text).text


def test_only_the_majors_that_are_known_are_told_apart():
    assert orbs.orb_of("x", "circleci/aws-cli@dev:alpha").number is None
    assert orbs.orb_of("x", "circleci/aws-cli@4.1").number == (4, 1, orbs.NEWEST)
    assert orbs.orb_of("x", {"commands": {}}) is None


# --- The workflow and the version -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "after"),
    [
        ("job", {"job": {"context": "aws-oidc"}}),
        ("job: {requires: [other]}", {"job": {"requires": ["other"], "context": "aws-oidc"}}),
        ("job: {context: aws}", {"job": {"context": ["aws", "aws-oidc"]}}),
        ("job: {context: [aws, more]}", {"job": {"context": ["aws", "more", "aws-oidc"]}}),
        ("job: {context: aws-oidc}", {"job": {"context": "aws-oidc"}}),
        ("job: {context: []}", {"job": {"context": "aws-oidc"}}),
        ("job:", {"job": {"context": "aws-oidc"}}),
    ],
)
def test_the_context_is_added_to_what_is_there(entry, after):
    text = config("      - run: aws s3 ls", workflow=f"workflows:\n  main:\n    jobs:\n      - {entry}\n      - other")
    text = text.replace("jobs:\n  job:", "jobs:\n  other: {docker: [image: x], steps: [checkout]}\n  job:", 1)
    assert parse(migrated(text).after).data["workflows"]["main"]["jobs"][0] == after


def test_version_2_becomes_2_1_and_a_heredoc_stays_one():
    text = config(
        "      - run: |\n          cat > x <<EOF\n          a\n          EOF\n          aws s3 cp x s3://b", version="2"
    )
    migration = migrated(text)
    data = parse(migration.after).data
    assert data["version"] == 2.1
    assert data["jobs"]["job"]["steps"][1]["run"].startswith("cat > x \\<<EOF\n")
    assert any("2.1" in note for note in migration.notes)


def test_a_file_without_a_workflow_gets_one_for_its_context():
    text = config("      - run: aws s3 ls", version="2", workflow="").replace("  job:", "  build:")
    data = parse(migrated(text).after).data
    assert data["workflows"] == {"build": {"jobs": [{"build": {"context": "aws-oidc"}}]}}
    limited = text.replace("    steps:", "    branches: {only: main}\n    steps:")
    data = parse(migrated(limited).after).data
    assert data["workflows"]["build"]["jobs"][0]["build"]["filters"] == {"branches": {"only": "main"}}
    assert "branches" not in data["jobs"]["build"]
    assert "workflows" not in parse(migrated(text, replace(OPTIONS, context="")).after).data


# --- Refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            "      - run: |\n          if prod; then export AWS_ACCESS_KEY_ID=$P; else export AWS_ACCESS_KEY_ID=$Q; fi",
            "more than",
        ),
        (
            "      - run: |\n          export AWS_ACCESS_KEY_ID=$P\n          aws s3 ls\n      - run: aws s3 ls",
            "one role",
        ),
        ("      - run: aws sts get-session-token", "may not"),
        ("      - run: aws sts assume-role --role-arn $R --duration-seconds 7200", "3600"),
        ("      - run: terraform apply -var access_key=$AWS_ACCESS_KEY_ID", "Terraform"),
        ("      - run: sed -i s/KEY/$AWS_ACCESS_KEY_ID/ config", "token would not go"),
        ("      - run: ./tool --access-key-id $AWS_ACCESS_KEY_ID", "argument"),
        (
            "      - run: |\n          {\n            echo '[default]'\n            echo \"aws_access_key_id=$K\"\n          } > ~/.aws/credentials\n          aws s3 ls",
            "block",
        ),
        ("      - ours/push: {aws-access-key-id: K}", "out of sight"),
    ],
)
def test_what_one_role_cannot_stand_for_is_refused(steps, words):
    text = config(steps, orbs="  ours: acme/tools@1.0.0\n")
    reason = refused(text)
    assert words in reason.text
    assert reason.line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"role_arn": "ci"}, "role"),
        ({"role_arn": 'arn:aws:iam::111122223333:role/ci"; rm -rf /'}, "role"),
        ({"region": "Ireland"}, "region"),
        ({"session_name": "a b"}, "session"),
        ({"session_duration": 60}, "duration"),
    ],
)
def test_a_login_that_cannot_be_written_is_refused(options, words):
    assert words in refused(config("      - run: aws s3 ls"), replace(OPTIONS, **options)).text


def test_two_jobs_that_share_their_login_cannot_take_two_roles():
    text = """\
version: 2.1
orbs: {aws-cli: circleci/aws-cli@5.4.1}
commands:
  login: {steps: [aws-cli/setup]}
jobs:
  one: {docker: [image: cimg/base:current], steps: [login, run: aws s3 ls]}
  two: {docker: [image: cimg/base:current], steps: [login, run: aws s3 ls]}
workflows: {main: {jobs: [one, two]}}
"""
    two = replace(OPTIONS, roles={"two": "arn:aws:iam::111122223333:role/two"})
    assert "different roles" in refused(text, two).text
    assert parse(migrated(text).after).data["commands"]["login"]["steps"] == [{"aws-cli/setup": {"role_arn": ROLE}}]


def test_a_job_may_take_a_role_of_its_own():
    text = """\
version: 2.1
jobs:
  one: {docker: [image: cimg/base:current], steps: [run: aws s3 ls]}
  two: {docker: [image: cimg/base:current], steps: [run: aws s3 ls]}
workflows: {main: {jobs: [one, two]}}
"""
    jobs = parse(migrated(text, replace(OPTIONS, roles={"two": "$ROLE_TWO"})).after).data["jobs"]
    assert [jobs[name]["steps"][0]["aws-cli/setup"]["role_arn"] for name in ("one", "two")] == [ROLE, "$ROLE_TWO"]


def test_options_that_reach_docker_through_a_parameter_bring_the_token():
    text = """\
version: 2.1
commands:
  in-docker:
    parameters: {options: {type: string}}
    steps:
      - run: docker run << parameters.options >> image
jobs:
  job:
    docker: [image: cimg/base:current]
    steps:
      - in-docker:
          options: >-
            --init
            --env=AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID
            --env=AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
            --env=X=1
workflows: {main: {jobs: [job]}}
"""
    after = migrated(text).after
    assert parse(after).data["jobs"]["job"]["steps"][1]["in-docker"]["options"].split(" --env=") == [
        "--init",
        "AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN=$AWS_SESSION_TOKEN",
        "X=1",
    ]
    assert "          options: >-\n            --init\n" in after, "the folded text stays folded"


def test_what_a_person_must_know_is_noted():
    text = config(
        "      - run: AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID docker-compose up\n"
        "      - run: ./deploy.sh --key $APP_AWS_ACCESS_KEY_ID\n"
        "      - run: terraform apply"
    )
    notes = " ".join(migrated(text).notes)
    for words in ("compose file", "APP_AWS_ACCESS_KEY_ID"):
        assert words in notes, words
    assert "names another cloud" in " ".join(migrated(config("      - run: terraform apply")).notes)
    assert "small" not in notes
    plain = migrated(config("      - run: aws s3 ls", image="alpine:3.20"))
    assert "no bash" in " ".join(plain.notes)


def test_a_key_that_is_written_in_the_file_is_told_and_not_repeated():
    key = "AKIA" + "Q" * 16
    for step in (
        f"      - run: AWS_ACCESS_KEY_ID={key} make",
        f"      - run: {{command: make, environment: {{AWS_ACCESS_KEY_ID: {key}}}}}",
    ):
        migration = migrated(config(step))
        assert key not in migration.after
        assert any("history" in note for note in migration.notes)
        assert not any(key in note for note in migration.notes)


def test_a_region_that_the_job_sets_is_left_to_it():
    script = "      - run: echo 'export AWS_DEFAULT_REGION=eu-north-1' >> $BASH_ENV\n      - run: aws s3 ls"
    steps = steps_of(config(script), replace(OPTIONS, region="us-east-1"))
    assert steps[1] == {"aws-cli/setup": {"role_arn": ROLE}}


def test_a_job_whose_script_reaches_aws_may_be_named():
    text = config("      - checkout\n      - run: .circleci/build.sh")
    assert migrate(parse(text), OPTIONS).verdict is Verdict.NOTHING
    steps = steps_of(text, replace(OPTIONS, also=frozenset({"job"})))
    assert steps == ["checkout", {"aws-cli/setup": {"role_arn": ROLE}}, {"run": ".circleci/build.sh"}]


def test_a_place_that_another_job_shares_is_refused_with_its_line():
    text = """\
version: 2.1
steps: &steps
  - checkout
  - run: << parameters.command >>
jobs:
  one:
    parameters: {command: {type: string, default: aws s3 ls}}
    docker: [image: cimg/base:current]
    steps: *steps
  two:
    parameters: {command: {type: string, default: make}}
    docker: [image: cimg/base:current]
    steps: *steps
workflows: {main: {jobs: [one, two]}}
"""
    reason = refused(text)
    assert "jobs.two.steps" in reason.text
    assert reason.line == 9  # where the job takes the shared steps
    assert migrate(parse(text.replace("[one, two]", "[one]")), OPTIONS).verdict is Verdict.MIGRATED


def test_a_file_that_circleci_does_not_run_is_refused():
    assert "version" in refused("version: 3.7\njobs: {build: {docker: [image: x], steps: [run: aws s3 ls]}}\n").text


# --- The plain login, run for real against stand-ins ----------------------------------------------------------------

ANSWER = (
    "<AssumeRoleWithWebIdentityResponse><Credentials>\n<AccessKeyId>ASIATHEKEY</AccessKeyId>\n"
    "<SecretAccessKey>the/secret+</SecretAccessKey><SessionToken>the+token==</SessionToken></Credentials>"
    "</AssumeRoleWithWebIdentityResponse>"
)
STAND_INS = {
    "aws": '#!/bin/sh\nprintf "ASIATHEKEY\\tthe/secret+\\tthe+token==\\n"\n',
    "curl": f"#!/bin/sh\ncat <<'E'\n{ANSWER}\nE\n",
    "python3": f"#!/bin/sh\ncat > \"$SENT\"\ncat <<'E'\n{ANSWER}\nE\n",
    "wget": '#!/bin/sh\nwhile [ "$1" != -O ]; do shift; done\ncat > "$2" <<\'E\'\n' + ANSWER + "\nE\n",
}
NEEDED = ("sh", "bash", "tr", "cut", "sed", "cat", "mktemp", "rm", "mkdir")


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("tool", sorted(STAND_INS))
def test_the_plain_login_by_every_tool(tmp_path, tool, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    bin_, home = tmp_path / "bin", tmp_path / "home"
    bin_.mkdir()
    home.mkdir()
    for name in NEEDED:
        (bin_ / name).symlink_to(shutil.which(name))
    (bin_ / tool).write_text(STAND_INS[tool])
    (bin_ / tool).chmod(0o755)
    step = plain_step(Login(role="arn:aws:iam::111122223333:role/a+b", region="eu-west-1", profile="p"))["run"]
    assert step["name"] == PLAIN_NAME
    environment = {
        "PATH": str(bin_), "HOME": str(home), "BASH_ENV": str(tmp_path / "env"), "CIRCLE_OIDC_TOKEN_V2": "e30.e30.x-y_z",
        "CIRCLE_JOB": "deploy to prod", "SENT": str(tmp_path / "sent"), "AWS_ACCESS_KEY_ID": "AKIAOLD",
    }  # fmt: skip
    (tmp_path / "env").write_text("")
    done = subprocess.run(
        [bin_ / shell, "-e", "-c", step["command"]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert not re.search(r"ASIATHEKEY|the/secret|the\+token|e30", said), "it must print nothing of them"
    credentials = home / ".aws" / "credentials"
    assert credentials.read_text() == (
        "[p]\naws_access_key_id = ASIATHEKEY\naws_secret_access_key = the/secret+\naws_session_token = the+token==\n"
    )
    assert credentials.stat().st_mode & 0o077 == 0
    later = subprocess.run(
        ["bash", "-c", "echo $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $AWS_SESSION_TOKEN"],
        env={**environment, "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert later.stdout == "ASIATHEKEY the/secret+ the+token==\n"
    if tool == "python3":
        sent = Path(environment["SENT"]).read_text()
        assert "RoleArn=arn:aws:iam::111122223333:role/a%2Bb&RoleSessionName=deploy-to-prod&" in sent
        assert sent.endswith("WebIdentityToken=e30.e30.x-y_z")


def test_the_plain_login_fails_without_a_token_or_an_answer(tmp_path):
    (tmp_path / "aws").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "aws").chmod(0o755)
    script = plain_step(Login(role=ROLE))["run"]["command"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for token in ({}, {"CIRCLE_OIDC_TOKEN_V2": "x"}):
        done = subprocess.run(["bash", "-e", "-c", script], env=environment | token, capture_output=True, check=False)
        assert done.returncode != 0
    assert not (tmp_path / ".aws").exists()


def test_a_login_is_checked():
    assert not problem(Login(role=ROLE, region="us-gov-west-1", session_name="ci", duration=900))
    assert not problem(Login(role="${AWS_ROLE_ARN}", region="$AWS_REGION"))
