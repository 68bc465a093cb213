"""Who manages a user besides us: by tags and by CloudTrail, and what its owner is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from playbook.managed import Manager, find_managed, managed_findings
from playbook.ports import TrailEvent, User

ACCOUNT, OTHER = "111122223333", "444455556666"
NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
TERRAFORM_AGENT = (
    "APN/1.0 HashiCorp/1.0 Terraform/1.9.8 (+https://www.terraform.io) terraform-provider-aws/5.80.0 aws-sdk-go-v2/1.32"
)


def user(name="ci-deploy", account=ACCOUNT, **tags):
    return User(account=account, name=name, arn=f"arn:aws:iam::{account}:user/{name}", tags=tuple(tags.items()))


def event(name="CreateAccessKey", agent=TERRAFORM_AGENT, resources=("ci-deploy",), *, at=NOON, error=""):
    return TrailEvent(
        event_id=f"e-{name}-{at.isoformat()}",
        at=at,
        name=name,
        service="iam",
        user="terraform-runner",
        user_agent=agent,
        error_code=error,
        resources=resources,
    )


def managers(*users, **by_account):
    return [item.manager for item in find_managed(users, by_account)]


@pytest.mark.parametrize(
    ("tags", "manager"),
    [
        ({"terraform": "true"}, Manager.TERRAFORM),
        ({"Terraform": "yes"}, Manager.TERRAFORM),
        ({"terraform:workspace": "prod"}, Manager.TERRAFORM),
        ({"ManagedBy": "Terraform"}, Manager.TERRAFORM),
        ({"managed-by": "terraform-cloud"}, Manager.TERRAFORM),
        ({"managed_by": "OpenTofu"}, Manager.TERRAFORM),
        ({"created-by": "terragrunt"}, Manager.TERRAFORM),
        ({"managed-by": "cdk"}, Manager.CDK),
        ({"aws-cdk:auto": "x"}, Manager.CDK),
        ({"ManagedBy": "CloudFormation"}, Manager.CLOUDFORMATION),
        ({"aws:cloudformation:stack-name": "ci-users"}, Manager.CLOUDFORMATION),
        ({"aws:cloudformation:stack-name": "ci-users", "aws-cdk:path": "Ci/User"}, Manager.CDK),
    ],
)
def test_a_tag_names_the_tool(tags, manager):
    assert managers(user(**tags)) == [manager]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"terraform": "false"},
        {"terraform": " No "},
        {"ManagedBy": "the platform team"},
        {"team": "terraform"},
        {"Name": "cdk-fan"},
    ],
)
def test_a_tag_that_says_no_or_something_else_names_none(tags):
    assert not managers(user(**tags))


@pytest.mark.parametrize(
    ("agent", "manager"),
    [
        (TERRAFORM_AGENT, Manager.TERRAFORM),
        ("APN/1.0 HashiCorp/1.0 OpenTofu/1.8.0", Manager.TERRAFORM),
        ("cloudformation.amazonaws.com", Manager.CLOUDFORMATION),
        ("aws-sdk-nodejs/2.1 linux/v20 aws-cdk/2.150.0", Manager.CDK),
        ("aws-cli/2.15.0 md/command#iam.create-access-key", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("call", ["CreateUser", "CreateAccessKey"])
def test_cloudtrail_tells_who_made_the_user_or_its_key(agent, manager, call):
    events = {ACCOUNT: [event(call, agent)]}
    assert [item.manager for item in find_managed([user()], events)] == ([manager] if manager else [])


def test_only_a_call_that_made_something_of_this_user_in_this_account_counts():
    other_call = event("TagUser")
    other_user = event(resources=("somebody-else",))
    refused = event(error="AccessDenied")
    assert not find_managed([user()], {ACCOUNT: [other_call, other_user, refused], OTHER: [event()]})
    assert find_managed([user(account=OTHER)], {OTHER: [event()]})
    by_arn = event(resources=(f"arn:aws:iam::{ACCOUNT}:user/ci-deploy",))
    assert find_managed([user()], {ACCOUNT: [by_arn]})


def test_the_newest_call_of_a_tool_counts_and_a_tag_goes_before_it():
    before = event("CreateUser", "cloudformation.amazonaws.com", at=NOON - timedelta(days=400))
    by_hand = event(agent="aws-cli/2", at=NOON + timedelta(days=1))
    newest = find_managed([user()], {ACCOUNT: [by_hand, before, event()]})
    assert [item.manager for item in newest] == [Manager.TERRAFORM]
    tagged = find_managed([user(**{"aws:cloudformation:stack-name": "ci-users"})], {ACCOUNT: [event()]})
    assert [(item.manager, item.stack) for item in tagged] == [(Manager.CLOUDFORMATION, "ci-users")]


def test_the_finding_has_the_line_to_write():
    terraform, cdk, stack = managed_findings(
        [
            user("a", ManagedBy="terraform"),
            user("b", **{"aws-cdk:path": "Ci/User"}),
            user("c", **{"aws:cloudformation:stack-name": "ci-users"}),
            user("d"),
        ],
        {},
    )
    assert {item.level for item in (terraform, cdk, stack)} == {"warning"}
    assert "removed { from = aws_iam_access_key.NAME lifecycle { destroy = false } }" in terraform.text
    assert "terraform state rm 'aws_iam_access_key.NAME'" in terraform.text
    assert "switch the old key on again" in terraform.text
    assert "RemovalPolicy.RETAIN" in cdk.text
    assert "DeletionPolicy: Retain" in stack.text
    assert "stack ci-users" in stack.text


def test_what_a_stranger_wrote_into_a_tag_or_an_agent_stays_on_one_line():
    hostile = user("x\n\x1b[2Ky", ManagedBy="terraform\x1b]0;\u202e\n")
    seen = event(agent="Terraform\x1b[1A\n" + "A" * 5000, resources=("plain",))
    for finding in (*managed_findings([hostile], {}), *managed_findings([user("plain")], {ACCOUNT: [seen]})):
        assert finding.text.isprintable()
        assert len(finding.text) < 1200
