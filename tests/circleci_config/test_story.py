"""The four configurations of the story, and what becomes of each."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from playbook.circleci_config.as_orb import orb_sources
from playbook.circleci_config.document import parse
from playbook.circleci_config.rewrite import Options, Verdict, migrate
from playbook.circleci_config.understand import How, understand

ROLE = "arn:aws:iam::111122223333:role/ci"
OPTIONS = Options(role_arn=ROLE, context="aws-oidc", region="eu-west-1")


def migrated(text: str, options: Options = OPTIONS) -> str:
    migration = migrate(parse(text), options)
    assert migration.verdict is Verdict.MIGRATED, migration.reasons
    again = migrate(parse(migration.after), options)
    assert again.verdict is Verdict.NOTHING, again.reasons
    return migration.after


def test_an_orb_and_a_context():
    before = """\
version: 2.1
orbs:
  aws-cli: circleci/aws-cli@1.3.2  # installs the CLI
jobs:
  deploy:
    docker:
      - image: cimg/python:3.12
    steps:
      - checkout
      - aws-cli/setup:
          aws-access-key-id: PROD_KEY
          aws-secret-access-key: PROD_SECRET
          aws-region: PROD_REGION  # where the bucket is
      - run: aws s3 sync site s3://site
workflows:
  deploy:
    jobs:
      - deploy:
          context: prod
"""
    assert understand(parse(before).data).runs[0].how == (How.PARAMETER, How.CONTEXT)
    assert (
        migrated(before)
        == f"""\
version: 2.1
orbs:
  aws-cli: circleci/aws-cli@5.4.1  # installs the CLI
jobs:
  deploy:
    docker:
      - image: cimg/python:3.12
    steps:
      - checkout
      - aws-cli/setup:
          region: ${{PROD_REGION}}  # where the bucket is
          role_arn: {ROLE}
      - run: aws s3 sync site s3://site
workflows:
  deploy:
    jobs:
      - deploy:
          context:
            - prod
            - aws-oidc
"""
    )


def test_an_image_of_ecr_by_aws_auth():
    before = """\
version: 2.1
executors:
  ours:
    docker:
      - image: 111122223333.dkr.ecr.eu-west-1.amazonaws.com/build:1
jobs:
  test:
    executor: ours
    steps: [checkout, run: make test]
  lint:
    docker:
      - image: cimg/base:current
      - image: 111122223333.dkr.ecr.eu-west-1.amazonaws.com/database:1
        aws_auth:
          aws_access_key_id: $ECR_KEY
          aws_secret_access_key: $ECR_SECRET
    steps: [checkout, run: make lint]
workflows:
  test:
    jobs: [test, lint]
"""
    reading = understand(parse(before).data)
    assert [run.how for run in reading.runs] == [(How.IMAGE,), (How.AWS_AUTH,)]
    after = migrated(before, replace(OPTIONS, context=""))
    assert (
        after
        == f"""\
version: 2.1
executors:
  ours:
    docker:
      - image: 111122223333.dkr.ecr.eu-west-1.amazonaws.com/build:1
        aws_auth:
          oidc_role_arn: {ROLE}
jobs:
  test:
    executor: ours
    steps: [checkout, run: make test]
  lint:
    docker:
      - image: cimg/base:current
      - image: 111122223333.dkr.ecr.eu-west-1.amazonaws.com/database:1
        aws_auth:
          oidc_role_arn: {ROLE}
    steps: [checkout, run: make lint]
workflows:
  test:
    jobs: [test, lint]
"""
    )


DYNAMIC = """\
version: 2.1
parameters:
  nightly: {type: boolean, default: false}
jobs:
  test:
    docker:
      - image: 111122223333.dkr.ecr.eu-west-1.amazonaws.com/build:1
        aws_auth:
          aws_access_key_id: $ECR_KEY
          aws_secret_access_key: $ECR_SECRET
    resource_class: example/runner
    steps: [checkout, run: make test]
workflows:
  test:
    jobs: [test]
"""


def test_an_image_of_ecr_on_a_runner_by_dynamic_configuration():
    migration = migrate(parse(DYNAMIC), replace(OPTIONS, context="aws-oidc"))
    assert migration.verdict is Verdict.MIGRATED, migration.reasons
    setup = parse(migration.after).data
    assert setup["setup"] is True
    assert setup["parameters"] == {"nightly": {"type": "boolean", "default": False}}, (
        "the trigger's parameters pass both"
    )
    ((name, job),) = setup["jobs"].items()
    assert setup["workflows"]["setup"]["jobs"] == [{name: {"context": "aws-oidc"}}]
    assert job["steps"][:2] == ["checkout", {"aws-cli/setup": {"role_arn": ROLE, "region": "eu-west-1"}}]
    script = job["steps"][2]["run"]["command"]
    assert 'aws ecr get-login-password --region "eu-west-1"' in script
    assert "<<" not in script, "CircleCI would read a parameter"
    continued = parse(migration.files["continue-config.yml"]).data
    assert continued["parameters"]["ecr-password"] == {"type": "string", "default": ""}
    image = continued["jobs"]["test"]["docker"][0]
    assert image == {
        "image": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/build:1",
        "auth": {"username": "AWS", "password": "<< pipeline.parameters.ecr-password >>"},
    }
    assert understand(setup).static_runs == understand(continued).static_runs == ()
    assert migrate(parse(migration.after), OPTIONS).verdict is Verdict.NOTHING


def test_a_setup_configuration_cannot_set_up_once_more():
    migration = migrate(parse(DYNAMIC.replace("version: 2.1", "version: 2.1\nsetup: true")), OPTIONS)
    assert migration.verdict is Verdict.REFUSED
    assert "setup workflow" in migration.reasons[0].text


@pytest.mark.parametrize("image", ["cimg/base:current", "alpine:3.20"])
def test_the_login_wrapped_once_as_an_inline_orb(image):
    before = f"""\
version: 2.1
jobs:
  upload:
    docker: [image: "{image}"]
    steps:
      - checkout
      - run: aws s3 sync site s3://site
  invalidate:
    docker: [image: "{image}"]
    steps:
      - run: aws cloudfront create-invalidation --distribution-id X --paths '/*'
workflows:
  site:
    jobs: [upload, invalidate]
"""
    data = parse(migrated(before, replace(OPTIONS, as_orb=True))).data
    orb = data["orbs"]["aws-oidc"]
    assert orb["orbs"] == {"aws-cli": "circleci/aws-cli@5.4.1"}
    step = data["jobs"]["invalidate"]["steps"][0]
    assert step == data["jobs"]["upload"]["steps"][1]
    ((called, parameters),) = step.items()
    assert parameters == {"role_arn": ROLE, "region": "eu-west-1"}
    command = orb["commands"][called.removeprefix("aws-oidc/")]
    assert set(parameters) <= set(command["parameters"])
    assert list(data["orbs"]) == ["aws-oidc"]


def packed(sources):
    """What packing makes of an orb's sources: one mapping, a key for each folder."""
    orb = dict(parse(sources["src/@orb.yml"]).data)
    for name, text in sources.items():
        if name.startswith("src/") and name != "src/@orb.yml":
            _, folder, file = name.split("/")
            orb.setdefault(folder, {})[file.removesuffix(".yml")] = parse(text).data
    return orb


def test_the_sources_of_an_orb_that_a_team_publishes():
    sources = orb_sources()
    orb = packed(sources)
    assert {"commands", "jobs", "executors", "examples", "orbs"} <= set(orb)
    assert all(command["description"] and command["steps"] for command in orb["commands"].values())
    tests = {**parse(sources[".circleci/test.yml"]).data, "orbs": {"aws-oidc": orb}}
    reading = understand(tests)
    assert {run.name for run in reading.runs} == {"test-login", "test-login-in-a-small-image", "aws-oidc/run"}
    assert all(run.how == (How.OIDC,) for run in reading.runs), "every test logs in before it uses AWS"
    assert understand({**orb["examples"]["log-in"]["usage"], "orbs": {"aws-oidc": orb}}).runs[0].how == (How.OIDC,)
    for name, text in sources.items():
        assert text.endswith("\n"), name
        assert "AKIA" not in text
    for command in orb["commands"].values():
        used = set(re.findall(r"<< parameters\.(\w+) >>", repr(command["steps"])))
        assert used == set(command["parameters"])
