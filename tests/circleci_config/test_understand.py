# ruff: noqa: E501, ISC004, Q003  # scripts as they stand in files
"""Which jobs reach AWS and how: every way that credentials come, by everything that configurations are made of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.circleci_config import shell
from playbook.circleci_config.document import parse
from playbook.circleci_config.shell import Form, Origin
from playbook.circleci_config.understand import ASSUMED, How, Platform, What, understand

WORKFLOW = "workflows: {main: {jobs: [job]}}\n"
WITH_CONTEXT = "workflows: {main: {jobs: [job: {context: [aws, other]}]}}\n"


def job(steps, *, head="", workflow=WORKFLOW, executor="docker: [image: cimg/base:current]"):
    return f"version: 2.1\n{head}jobs:\n  job:\n    {executor}\n    steps:\n{steps}\n{workflow}"


def how(text):
    (run,) = understand(parse(text).data).runs
    return run.how


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("      - run: aws s3 ls", (How.IMPLICIT,)),
        ("      - run: {command: 'cd site && aws s3 sync . s3://b'}", (How.IMPLICIT,)),
        ("      - run: echo \"$(aws sts get-caller-identity)\"", (How.IMPLICIT,)),
        ("      - run: npx serverless deploy --stage prod", (How.IMPLICIT,)),
        ("      - run: eb deploy production", (How.IMPLICIT,)),
        ("      - run: ./venv/bin/aws s3 ls", (How.IMPLICIT,)),
        ("      - run: docker run -e AWS_ACCESS_KEY_ID -e AWS_SECRET_ACCESS_KEY tool", (How.IMPLICIT,)),
        ("      - run: |\n          export AWS_ACCESS_KEY_ID=$PROD_KEY\n          aws s3 ls", (How.SHELL, How.IMPLICIT)),
        ("      - run: AWS_ACCESS_KEY_ID=$K AWS_SECRET_ACCESS_KEY=$S ./deploy.sh", (How.SHELL,)),
        ("      - run: echo 'export AWS_ACCESS_KEY_ID=$PROD_KEY' >> $BASH_ENV", (How.SHELL,)),
        ("      - run: aws configure set aws_access_key_id $K --profile p", (How.CONFIGURE,)),
        ("      - run: serverless config credentials --provider aws --key $K --secret $S", (How.CONFIGURE,)),
        ("      - run: printf '[default]\\naws_access_key_id=%s' > ~/.aws/credentials", ()),
        ("      - run: echo \"aws_access_key_id=$K\" >> ~/.aws/credentials", (How.FILE,)),
        ("      - run: echo $ALL | base64 -d > ~/.aws/credentials", (How.FILE,)),
        ("      - run: |\n          role=$(aws sts assume-role --role-arn $R)\n"
         "          export AWS_ACCESS_KEY_ID=$(echo $role | jq .Credentials.AccessKeyId)",
         (How.IMPLICIT, How.CHAIN)),
        ("      - run:\n          command: make\n          environment: {AWS_ACCESS_KEY_ID: $K}", (How.ENVIRONMENT,)),
        ("      - run: export ENV=`eb list | grep x`", (How.IMPLICIT,)),
        ("      - run: pipenv run aws s3 ls", (How.IMPLICIT,)),
        ("      - run: inspec exec tests -t aws://us-east-1", (How.IMPLICIT,)),
        # None of these reaches AWS.
        ("      - run: echo aws s3 ls", ()),
        ("      - run: pip install awscli", ()),
        ("      - run: aws --version", ()),
        ("      - run: bundle install --with aws development", ()),
        ("      - run: aws --endpoint-url http://localhost:4566 s3 ls", ()),
        ("      - run: AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test aws s3 ls", ()),
        ("      - run: |\n          export AWS_ACCESS_KEY_ID=foo\n          aws dynamodb list-tables", ()),
        ("      - run: |\n          # aws s3 ls\n          true", ()),
        ("      - run: make", ()),
    ],
)  # fmt: skip
def test_a_script(steps, expected):
    assert how(job(steps)) == expected


def test_a_tool_of_many_clouds_counts_where_the_job_speaks_of_aws():
    assert how(job("      - run: terraform apply", workflow=WITH_CONTEXT)) == (How.CONTEXT,)
    assert how(job("      - run: cd aws && terraform apply")) == (How.IMPLICIT,)
    assert how(job("      - run: gcloud auth login && terraform apply")) == ()
    assert how(job("      - run: pulumi up")) == ()


def test_terraform_is_taken_to_be_of_aws_where_nothing_names_another_cloud():
    (run,) = understand(parse(job("      - run: terraform apply")).data).runs
    assert run.how == (How.IMPLICIT,)
    assert run.uses[0].detail.endswith(ASSUMED)
    assert how(job("      - run: terraform fmt -check && terraform validate")) == ()


def test_a_key_of_a_job_that_talks_to_a_stand_in_is_none():
    text = job("      - run: aws s3 ls", executor="docker: [{image: x, environment: {AWS_ACCESS_KEY_ID: local}}]")
    (run,) = understand(parse(text).data).runs
    assert run.dummy
    assert run.how == ()


@pytest.mark.parametrize(
    ("orb", "step", "expected"),
    [
        ("aws-cli@5.4.1", "x/setup: {role_arn: $R}", (How.OIDC,)),
        ("aws-cli@3.1.5", "x/setup: {role-arn: $R}", (How.OIDC,)),
        ("aws-cli@2.0.6", "x/setup: {role-arn: $R}", (How.IMPLICIT,)),  # a static profile that takes a role
        ("aws-cli@3.1.1", "x/assume-role-with-web-identity: {role-arn: $R}", (How.OIDC,)),
        ("aws-cli@4.0.0", "x/setup", (How.IMPLICIT,)),
        ("aws-cli@4.0.0", "x/setup: {aws_access_key_id: PROD_KEY}", (How.PARAMETER, How.IMPLICIT)),
        ("aws-cli@0.1.4", "x/install", ()),
        ("aws-s3@3.0.0", "x/sync: {from: a, to: s3://b}", (How.IMPLICIT,)),
        ("aws-ecr@8.2.1", "x/build-and-push-image: {repo: r}", (How.IMPLICIT,)),
        ("aws-ecr@8.2.1", "x/build-and-push-image: {repo: r, role-arn: $R, assume-web-identity: true}", (How.OIDC,)),
        ("aws-ecr@9.8.1", "x/build_and_push_image: {repo: r, auth: [run: 'echo $CIRCLE_OIDC_TOKEN_V2']}", (How.OIDC,)),
    ],
)
def test_a_step_of_an_orb(orb, step, expected):
    assert how(job(f"      - {step}", head=f"orbs: {{x: circleci/{orb}}}\n")) == expected


def test_credentials_come_through_commands_parameters_anchors_and_inline_orbs():
    text = """\
version: 2.1
orbs:
  ours:
    commands:
      upload:
        parameters: {to: {type: string}}
        steps:
          - run: aws s3 sync . << parameters.to >>
    jobs:
      publish:
        docker: [image: cimg/base:current]
        steps: [upload: {to: s3://b}]
commands:
  with-login:
    parameters:
      login: {type: steps, default: []}
      command: {type: string}
    steps:
      - steps: << parameters.login >>
      - when:
          condition: true
          steps:
            - run: << parameters.command >>
defaults: &defaults
  docker: [image: cimg/base:current]
  steps: &steps
    - with-login: {command: aws s3 ls}
jobs:
  by-command:
    <<: *defaults
  by-parameter:
    docker: [image: cimg/base:current]
    steps:
      - with-login:
          login: [run: 'aws sts assume-role-with-web-identity --role-arn $R']
          command: aws s3 ls
  unreached:
    <<: *defaults
  orb-inside:
    docker: [image: cimg/base:current]
    steps: [ours/upload: {to: s3://c}]
workflows:
  main:
    jobs: [by-command, by-parameter, orb-inside, ours/publish, wait: {type: approval}]
"""
    reading = understand(parse(text).data)
    assert {run.name: run.how for run in reading.runs} == {
        "by-command": (How.IMPLICIT,),
        "by-parameter": (How.OIDC,),
        "orb-inside": (How.IMPLICIT,),
        "ours/publish": (How.IMPLICIT,),
    }
    assert reading.unreached == ("unreached",)
    paths = {run.name: run.static[0].path for run in reading.static_runs}
    assert paths["by-command"] == ("commands", "with-login", "steps", 1, "when", "steps", 0, "run")
    assert paths["ours/publish"] == ("orbs", "ours", "commands", "upload", "steps", 0, "run")


@pytest.mark.parametrize(
    ("executor", "platform"),
    [
        ("docker: [image: 'alpine:3.20']", Platform.MINIMAL),
        ("docker: [image: 'golang:1.23']", Platform.MINIMAL),
        ("docker: [image: 'hashicorp/terraform:1.9']", Platform.MINIMAL),
        ("docker: [image: 'cimg/go:1.23']", Platform.LINUX),
        ("docker: [image: 'python:3.12']", Platform.LINUX),
        ("machine: true", Platform.LINUX),
        ("machine: {image: 'windows-server-2022-gui:current'}", Platform.WINDOWS),
        ("executor: {name: x/default, shell: bash.exe}", Platform.WINDOWS),
        ("macos: {xcode: 16.0.0}", Platform.MACOS),
        ("executor: << parameters.unbound >>", Platform.UNKNOWN),
    ],
)
def test_where_the_steps_run(executor, platform):
    text = job("      - run: aws s3 ls", executor=executor, head="orbs: {x: circleci/windows@5.0.0}\n")
    assert understand(parse(text).data).runs[0].platform is platform


def test_no_workflow_runs_the_build_job():
    data = {"version": 2, "jobs": {"build": {"steps": [{"run": "aws s3 ls"}]}, "other": {}}}
    reading = understand(data)
    assert [(run.job, run.entry) for run in reading.static_runs] == [("build", ())]


def test_what_cannot_be_seen_is_said():
    text = """\
version: 2.1
setup: true
orbs: {ours: acme/aws-tools@1.0.0}
jobs:
  job:
    docker: [image: $ECR_IMAGE]
    steps:
      - ours/assume: {account: "1"}
      - run: ./scripts/deploy.sh
workflows: {main: {jobs: [job, ours/release, missing]}}
"""
    reading = understand(parse(text).data)
    said = " ".join(reading.doubts)
    for words in ("generates", "ours/release", "missing", "$ECR_IMAGE"):
        assert words in said, words
    assert reading.runs[0].hidden == ("the orb acme/aws-tools", "./scripts/deploy.sh")


def test_credentials_that_travel_in_the_workspace():
    text = """\
version: 2.1
jobs:
  login:
    docker: [image: cimg/base:current]
    steps:
      - run: aws configure set aws_access_key_id $K
      - persist_to_workspace: {root: /home/circleci, paths: [.aws]}
  job:
    docker: [image: cimg/base:current]
    steps:
      - attach_workspace: {at: /home/circleci}
      - run: aws s3 ls
workflows: {main: {jobs: [login, job]}}
"""
    login, user = understand(parse(text).data).runs
    assert login.how == (How.CONFIGURE,)
    assert user.static == ()
    assert any(event.what is What.MAYBE and "workspace" in event.detail for event in user.events)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["run", "aws s3 ls", "x/setup", "<< parameters.a >>", ""]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["jobs", "steps", "run", "command", "workflows", "orbs", "commands", "executors", "docker", "image",
             "parameters", "a", "x/setup", "when", "context", "executor", "environment", "pre-steps", "build"]
        ), inner, max_size=5,
    ),
    max_leaves=40,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(ANY, ANY, ANY)
def test_nothing_that_parses_makes_it_fail(jobs, workflows, orbs):
    for data in (jobs, {"version": 2.1, "jobs": jobs, "workflows": workflows, "orbs": orbs, "commands": jobs}):
        reading = understand(data)
        assert all(run.how is not None and run.static is not None and run.hidden is not None for run in reading.runs)


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("$PROD_KEY", Origin.STATIC),
        ('"${PROD_KEY}"', Origin.STATIC),
        ("${<< parameters.env >>_KEY}", Origin.STATIC),
        ("$AWS_ACCESS_KEY_ID", Origin.SAME),
        ("AKIAIOSFODNN7EXAMPLA", Origin.LITERAL),
        ("dummy", Origin.DUMMY),
        ("'local'", Origin.DUMMY),
        ("$(jq -r .Credentials.AccessKeyId role.json)", Origin.DERIVED),
        ("$MADE", Origin.DERIVED),
    ],
)
def test_where_a_value_comes_from(value, origin):
    keys = shell.read(f"MADE=$(aws sts assume-role)\nexport AWS_ACCESS_KEY_ID={value}").keys
    assert [(key.form, key.origin) for key in keys] == [(Form.EXPORT, origin)]
