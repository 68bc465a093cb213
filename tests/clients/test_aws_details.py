"""Tags, policies, the credential report and a whole Organization, through boto3 against moto's socket."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.clients import aws as aws_module
from playbook.clients.aws import connect
from playbook.clients.aws_details import Details, report_from
from playbook.errors import AwsError, UsageError
from playbook.ports import LastUsed
from playbook.twins.moto_server import Fault, FaultKind, MotoServer

ACCOUNT = "123456789012"

pytestmark = pytest.mark.usefixtures("no_backoff")


def allow(action, **more):
    return {"Effect": "Allow", "Action": action, "Resource": "*", **more}


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_what_the_reply_leaves_out_is_known_by_name_or_not_known():
    details = Details()
    details.add(
        {
            "UserDetailList": [
                {
                    "UserName": "a",
                    "AttachedManagedPolicies": [
                        {
                            "PolicyName": "AdministratorAccess",
                            "PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess",
                        },
                        {"PolicyName": "ReadOnlyAccess", "PolicyArn": "arn:aws:iam::aws:policy/ReadOnlyAccess"},
                        {"PolicyName": "Ours", "PolicyArn": f"arn:aws:iam::{ACCOUNT}:policy/Ours"},
                    ],
                    "GroupList": ["gone"],
                }
            ]
        }
    )
    (user,) = details.described()
    assert user.reach == (
        "everything (policy AdministratorAccess)",
        "not known (policy Ours)",
        "not known (group gone)",
    )


# --- The credential report --------------------------------------------------------------------------------------------


REPORT_COLUMNS = [
    "user", "arn", "user_creation_time", "password_enabled", "password_last_used", "mfa_active",
    *(f"access_key_{number}_{what}" for number in (1, 2) for what in (
        "active", "last_rotated", "last_used_date", "last_used_region", "last_used_service")),
]  # fmt: skip


def a_report(*rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, REPORT_COLUMNS, restval="N/A")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def test_a_report_is_read_with_all_its_ways_to_say_nothing():
    at = datetime(2023, 1, 4, 12, tzinfo=UTC)
    content = a_report(
        {"user": "<root_account>", "password_last_used": "2022-12-24T08:00:00+00:00"},
        {
            "user": "ci",
            "password_last_used": "no_information",
            "access_key_1_active": "true",
            "access_key_1_last_rotated": "2022-06-01T00:00:00+00:00",
            "access_key_1_last_used_date": "2023-01-03T10:00:00Z",
            "access_key_1_last_used_region": "N/A",
            "access_key_1_last_used_service": "s3",
            "access_key_2_active": "false",
            "access_key_2_last_rotated": "2022-07-01T00:00:00+00:00",
            "access_key_2_last_used_date": "N/A",
        },
        {"user": "none", "access_key_1_active": "false"},
    )
    report = report_from(content, at)
    root, ci, none = report.users
    assert root.password_last_used_at == datetime(2022, 12, 24, 8, tzinfo=UTC)
    assert [key.last_used for key in ci.keys] == [
        LastUsed(at=datetime(2023, 1, 3, 10, tzinfo=UTC), service="s3"),
        LastUsed(at=None),
    ]
    assert ci.password_last_used_at is None
    assert none.keys == ()
    assert report.generated_at == at


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_a_report(content):
    with suppress(ValueError):
        report_from(content, datetime(2023, 1, 4, tzinfo=UTC))


# --- Against moto -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    with MotoServer() as running:
        yield running


@pytest.fixture
def opened(server, monkeypatch):
    for name, value in server.environment(server.operator(ACCOUNT)).items():
        monkeypatch.setenv(name, value)
    accounts = connect(case_id="case-1")
    yield accounts
    accounts.close()


def test_users_come_with_tags_groups_and_the_reach_of_their_policies(server, opened):
    iam = boto3.session.Session().client("iam")
    iam.create_user(UserName="ci-deploy", Tags=[{"Key": "team", "Value": "platform"}])
    iam.put_user_policy(
        UserName="ci-deploy",
        PolicyName="rotate",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow("iam:CreateAccessKey")]}),
    )
    iam.create_group(GroupName="admins")
    policy = iam.create_policy(
        PolicyName="all", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow("*")]})
    )["Policy"]
    iam.attach_group_policy(GroupName="admins", PolicyArn=policy["Arn"])
    iam.add_user_to_group(GroupName="admins", UserName="ci-deploy")
    reader = iam.create_policy(
        PolicyName="read", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:Get*")]})
    )["Policy"]
    iam.attach_user_policy(UserName="ci-deploy", PolicyArn=reader["Arn"])

    found = {user.name: user for user in opened.accounts[ACCOUNT].described_users()}

    user = found["ci-deploy"]
    assert user.tags == (("team", "platform"),)
    assert (user.policies, user.inline_policies, user.groups) == (("read",), ("rotate",), ("admins",))
    assert user.reach == ("IAM itself (inline policy rotate)", "everything (group admins, policy all)")
    assert {user.name for user in opened.accounts[ACCOUNT].users()} == set(found)
    assert len(server.requests("GetAccountAuthorizationDetails")) == 1


def test_a_policys_default_version_counts(opened):
    iam = boto3.session.Session().client("iam")
    iam.create_user(UserName="ci")
    policy = iam.create_policy(
        PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow("*")]})
    )["Policy"]
    iam.attach_user_policy(UserName="ci", PolicyArn=policy["Arn"])
    iam.create_policy_version(
        PolicyArn=policy["Arn"],
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:*")]}),
        SetAsDefault=True,
    )
    found = {user.name: user for user in opened.accounts[ACCOUNT].described_users()}
    assert found["ci"].reach == ()


def test_the_report_is_waited_for_and_read(server, opened, monkeypatch):
    monkeypatch.setattr(aws_module, "_REPORT_PAUSE_S", 0.01)
    server.add_user(ACCOUNT, "ci")
    server.add_key(ACCOUNT, "ci")
    report = opened.accounts[ACCOUNT].credential_report()
    assert {user.name for user in report.users} >= {"ci"}
    assert len(next(user for user in report.users if user.name == "ci").keys) == 1
    assert len(server.requests("GenerateCredentialReport")) >= 2
    server.inject(Fault(operation="GenerateCredentialReport", kind=FaultKind.DENY))
    with pytest.raises(AwsError) as caught:
        opened.accounts[ACCOUNT].credential_report()
    assert caught.value.code == "AccessDenied"


def organization(*names):
    client = boto3.session.Session().client("organizations")
    client.create_organization(FeatureSet="ALL")
    for name in names:
        client.create_account(AccountName=name, Email=f"{name}@example.com")
    return {item["Name"]: item["Id"] for item in client.list_accounts()["Accounts"] if item["Name"] in names}


def test_every_account_of_an_organization_is_opened_through_a_role(server, opened):
    ids = organization("dev", "prod")
    every = connect(case_id="case-1", organization_role="audit")
    try:
        assert set(every.accounts) == {ACCOUNT, *ids.values()}
        assert every.unopened == ()
        assumed = [seen.parameters["RoleArn"] for seen in server.requests("AssumeRole")]
        assert sorted(assumed) == sorted(f"arn:aws:iam::{number}:role/audit" for number in ids.values())
        assert [account.account for account in every.accounts.values()] == list(every.accounts)
    finally:
        every.close()


def test_a_refused_account_is_a_hole_and_the_others_are_opened(server, opened):
    ids = organization("dev", "prod", "test")
    server.inject(Fault(operation="AssumeRole", kind=FaultKind.DENY))
    every = connect(case_id="case-1", organization_role="audit")
    every.close()
    (hole,) = every.unopened
    assert hole.what == "AWS account"
    assert len(every.accounts) == 3
    assert hole.where.split()[0] in set(ids.values()) - set(every.accounts)


def test_a_suspended_account_is_skipped_and_said(opened, monkeypatch):
    ids = organization("dev", "old")
    client = boto3.session.Session().client("organizations")
    client.close_account(AccountId=ids["old"])
    every = connect(case_id="case-1", organization_role="audit")
    every.close()
    assert set(every.accounts) == {ACCOUNT, ids["dev"]}
    assert every.unopened == ()
    assert len(every.notes) == 1
    assert ids["old"] in every.notes[0]


def test_who_may_not_list_the_organization_is_told(server, opened):
    server.inject(Fault(operation="ListAccounts", kind=FaultKind.DENY, times=-1))
    with pytest.raises(AwsError) as caught:
        connect(case_id="case-1", organization_role="audit")
    assert caught.value.code == "AccessDenied"
    server.heal()
    organization("dev")
    with pytest.raises(UsageError):
        connect(case_id="case-1", organization_role="not a role's name")


def test_a_young_key_is_listed_before_any_report_knows_it(server, opened):
    server.add_user(ACCOUNT, "ci")
    made = server.add_key(ACCOUNT, "ci")
    account = opened.accounts[ACCOUNT]
    report = account.credential_report()
    assert report.generated_at < made.created_at - timedelta(days=1)
    assert [key.id for key in account.access_keys("ci").keys] == [made.key_id]
