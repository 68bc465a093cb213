"""Policies, roles, providers and the trail over boto3: what is sent, how often, and what a reply may not do to us."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from clients.scripted import error_of, everything_about
from clients.test_roles_contract import CI, ISSUER, PROVIDER, READ, TRUST
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from playbook.clients import aws_policies, aws_trail, aws_users
from playbook.clients.aws import connect
from playbook.clients.aws_errors import AwsSource, guarded
from playbook.errors import AwsError, Effect
from playbook.ports import TrailEvent, TrailKey
from playbook.twins.moto_server import Fault, FaultKind, MotoServer, SeenRequest

ONE, TWO = "111111111111", "222222222222"
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)
POLICY = f"arn:aws:iam::{ONE}:policy/merged"


@pytest.fixture(scope="module")
def moto():
    with MotoServer() as server:
        yield server


@pytest.fixture
def server(moto, monkeypatch):
    """The module's server, emptied, with our own credentials in the environment."""
    moto.heal()
    moto.empty()
    for name, value in moto.environment(moto.operator(ONE)).items():
        monkeypatch.setenv(name, value)
    moto.add_user(ONE, "ci")
    return moto


@pytest.fixture
def accounts(server):
    opened = connect(case_id="case-1")
    yield opened
    opened.close()


@pytest.fixture
def aws(accounts):
    return accounts.accounts[ONE]


# --- writes -----------------------------------------------------------------------------------------------------------

WRITES = {
    "PutUserPolicy": lambda aws: aws.put_user_policy("ci", "x", READ),
    "DeleteUserPolicy": lambda aws: aws.delete_user_policy("ci", "x"),
    "TagUser": lambda aws: aws.tag_user("ci", "a", "b"),
    "UntagUser": lambda aws: aws.untag_user("ci", "a"),
    "CreateRole": lambda aws: aws.create_role(CI),
    "UpdateAssumeRolePolicy": lambda aws: aws.update_trust("r", TRUST),
    "UpdateRole": lambda aws: aws.update_session_length("r", 3600),
    "TagRole": lambda aws: aws.tag_role("r", "a", "b"),
    "DeleteRole": lambda aws: aws.delete_role("r"),
    "PutRolePolicy": lambda aws: aws.put_role_policy("r", "x", READ),
    "DeleteRolePolicy": lambda aws: aws.delete_role_policy("r", "x"),
    "AttachRolePolicy": lambda aws: aws.attach_role_policy("r", POLICY),
    "DetachRolePolicy": lambda aws: aws.detach_role_policy("r", POLICY),
    "CreatePolicy": lambda aws: aws.create_policy("merged", READ, {"a": "b"}),
    "DeletePolicy": lambda aws: aws.delete_policy(POLICY),
    "CreateOpenIDConnectProvider": lambda aws: aws.create_provider(f"https://{ISSUER}", ["a"], {"a": "b"}),
    "AddClientIDToOpenIDConnectProvider": lambda aws: aws.add_client_id(PROVIDER, "a"),
    "RemoveClientIDFromOpenIDConnectProvider": lambda aws: aws.remove_client_id(PROVIDER, "a"),
    "DeleteOpenIDConnectProvider": lambda aws: aws.delete_provider(PROVIDER),
}


@pytest.mark.parametrize("operation", WRITES)
def test_a_write_is_one_request_whatever_becomes_of_it(aws, server, operation):
    """A lost answer leaves the effect unknown; a refusal says that there is none."""
    expected = {
        FaultKind.DROP_REQUEST: (Effect.UNKNOWN, True),
        FaultKind.DROP_REPLY: (Effect.UNKNOWN, True),
        FaultKind.SERVER_ERROR: (Effect.UNKNOWN, True),
        FaultKind.THROTTLE: (Effect.NONE, True),
        FaultKind.DENY: (Effect.NONE, False),
    }
    for number, (kind, told) in enumerate(expected.items(), 1):
        server.heal()
        server.inject(Fault(operation=operation, kind=kind, times=-1))
        error = error_of(lambda: WRITES[operation](aws), AwsError)
        assert (error.effect, error.retryable) == told, kind
        assert len(server.requests(operation)) == number, kind
    assert f"Allow {operation} to" in error.remedy


def test_documents_are_sent_without_white_space(aws, server):
    aws.put_user_policy("ci", "x", READ)
    (sent,) = server.requests("PutUserPolicy")
    assert sent.parameters["PolicyDocument"] == json.dumps(READ, separators=(",", ":"))


def test_what_a_role_does_not_have_is_not_sent(aws, server):
    aws.create_role(replace(CI, description="", tags=()))
    (sent,) = server.requests("CreateRole")
    assert not {"Description", "PermissionsBoundary"} & sent.parameters.keys()
    aws.delete_role(CI.name)
    aws.create_role(replace(CI, boundary="arn:aws:iam::aws:policy/ReadOnlyAccess"))
    assert server.requests("CreateRole")[1].parameters["PermissionsBoundary"].endswith("ReadOnlyAccess")
    assert aws.role(CI.name).boundary == "arn:aws:iam::aws:policy/ReadOnlyAccess"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "r\u00f4le", "../r"])
def test_a_doubtful_name_is_never_sent(aws, server, name):
    before = len(server.requests())
    for call in (
        lambda: aws.role(name),
        lambda: aws.delete_role(name),
        lambda: aws.update_trust(name, TRUST),
        lambda: aws.put_role_policy(name, "p", READ),
    ):
        assert error_of(call, AwsError).code == "BadRoleName"
    for call in (
        lambda: aws.user_tags(name),
        lambda: aws.footholds(name),
        lambda: aws.put_user_policy(name, "p", READ),
    ):
        assert error_of(call, AwsError).code == "BadUserName"
    assert aws.key_owner(name) is None
    assert len(server.requests()) == before


def test_the_key_of_another_account_is_nobodys_here(aws, server):
    server.add_user(TWO, "ci")
    assert aws.key_owner(server.add_key(TWO, "ci").key_id) is None
    assert aws.key_owner(server.add_key(ONE, "ci").key_id) == "ci"


# --- reads that nobody can make ---------------------------------------------------------------------------------------


def test_a_role_that_goes_while_it_is_read_is_none(aws, server):
    aws.create_role(CI)
    backend = server._backend(ONE)
    original = aws._iam.get_role

    def gone(**asked):
        answer = original(**asked)
        backend.roles.clear()
        return answer

    aws._iam.get_role = gone
    assert aws.role(CI.name) is None


@pytest.mark.parametrize("document", ["%7Bnot", None, [], 7])
def test_a_document_that_is_none_is_an_error_and_not_an_empty_policy(document):
    role = {"RoleName": "r", "Arn": "a", "AssumeRolePolicyDocument": document}
    error = error_of(lambda: aws_policies.role(role, (), (), "reading"), AwsError)
    assert (error.code, error.effect) == ("Unreadable", Effect.NONE)
    pages = aws_policies.AccountPages("reading")
    page = {"UserDetailList": [{"UserName": "u", "Arn": "a", "UserPolicyList": [{"PolicyName": "p"}]}]}
    page["UserDetailList"][0]["UserPolicyList"][0]["PolicyDocument"] = document
    assert error_of(lambda: pages.add(page), AwsError).code == "Unreadable"


def test_only_the_default_version_of_a_policy_counts():
    pages = aws_policies.AccountPages("reading")
    versions = [{"IsDefaultVersion": False, "Document": {}}, {"IsDefaultVersion": True, "Document": READ}]
    pages.add({"Policies": [{"PolicyName": "p", "Arn": POLICY, "PolicyVersionList": versions}]})
    assert pages.details().policy(POLICY).document == READ


def test_a_creation_that_answers_no_arn_may_have_happened(aws, monkeypatch):
    monkeypatch.setattr(aws_policies, "arn_of", lambda *_: None)
    for operation in ("CreateRole", "CreatePolicy", "CreateOpenIDConnectProvider"):
        error = error_of(lambda operation=operation: WRITES[operation](aws), AwsError)
        assert (error.code, error.effect) == ("Unreadable", Effect.UNKNOWN)


@pytest.mark.parametrize(("status", "code"), [("FAILED", "JobFailed"), ("IN_PROGRESS", "JobRunning")])
def test_a_job_that_does_not_end_is_told(aws, monkeypatch, status, code):
    monkeypatch.setattr(aws_users, "_JOB_PAUSE_S", 0)
    monkeypatch.setattr(aws, "_job", lambda *_, **__: {"JobStatus": status})
    error = error_of(lambda: aws.accessed_services(f"arn:aws:iam::{ONE}:user/ci"), AwsError)
    assert error.code == code


def test_a_job_of_several_pages(aws, monkeypatch):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    pages = [
        {
            "JobStatus": "COMPLETED",
            "IsTruncated": True,
            "Marker": "m",
            "ServicesLastAccessed": [{"ServiceNamespace": "s3", "LastAuthenticated": at}],
        },
        {"JobStatus": "COMPLETED", "ServicesLastAccessed": [{"ServiceNamespace": "ec2"}]},
    ]
    asked = []
    monkeypatch.setattr(aws, "_job", lambda *_, **more: asked.append(more) or pages[len(asked) - 1])
    found = aws.accessed_services(f"arn:aws:iam::{ONE}:user/ci")
    assert [(item.service, item.at) for item in found] == [("s3", at), ("ec2", None)]
    assert asked == [{}, {"Marker": "m"}]


# --- the trail --------------------------------------------------------------------------------------------------------


def a_request(operation, **more):
    given_by = {"service": "sts", "region": "eu-west-1", "key_id": "AKIAABCDEFGHIJKLMNOP", "user": "ci"}
    return SeenRequest(
        **{
            "id": f"id-{operation}",
            "at": datetime.now(UTC) - timedelta(minutes=5),
            "operation": operation,
            "account": "",
            "user_agent": "[aws-cli/2]",
            "parameters": {},
            "source_address": "203.0.113.66",
            "status": 200,
            **given_by,
            **more,
        }
    )


def test_a_trail_leads_over_regions_to_a_session_and_what_it_did(aws, server):
    role = f"arn:aws:iam::{ONE}:role/ops/admin"
    assumed = a_request("AssumeRole", parameters={"RoleArn": role}, made_key_id="ASIAABCDEFGHIJKLMNOP")
    made = a_request(
        "CreateUser",
        service="iam",
        key_id="ASIAABCDEFGHIJKLMNOP",
        user="session",
        parameters={"UserName": "backdoor"},
        at=datetime.now(UTC) - timedelta(minutes=4),
    )
    elsewhere = a_request("ListBuckets", service="s3", region="ap-south-1", at=datetime.now(UTC) - timedelta(minutes=9))
    for event in (assumed, made, elsewhere):
        server.add_event(ONE, event)
    server.add_event(TWO, a_request("GetCallerIdentity"))

    first, second = aws.trail(TrailKey.ACCESS_KEY_ID, "AKIAABCDEFGHIJKLMNOP", LONG_AGO)
    assert (first.name, first.region) == ("ListBuckets", "ap-south-1")
    assert (second.issued_key_id, second.role, second.region) == ("ASIAABCDEFGHIJKLMNOP", role, "eu-west-1")
    assert (second.user_agent, second.source_address, second.user) == ("aws-cli/2", "203.0.113.66", "ci")
    (next_one,) = aws.trail(TrailKey.ACCESS_KEY_ID, second.issued_key_id, LONG_AGO)
    assert (next_one.name, next_one.service, next_one.resources) == ("CreateUser", "iam", ("backdoor",))
    assert aws.regions_known
    assert not aws.unread_regions


def test_iams_own_calls_are_asked_for_in_their_one_region_and_others_in_every_one(aws, server):
    server.add_event(ONE, a_request("CreateUser", service="iam", parameters={"UserName": "backdoor"}))
    server.add_event(ONE, a_request("StopLogging", service="cloudtrail", region="ap-south-1"))
    before = len(server.requests("LookupEvents"))

    (made,) = aws.trail(TrailKey.EVENT_NAME, "CreateUser", LONG_AGO)
    once = len(server.requests("LookupEvents"))
    (stopped,) = aws.trail(TrailKey.EVENT_NAME, "StopLogging", LONG_AGO)

    assert (made.region, stopped.region) == ("us-east-1", "ap-south-1")
    assert once - before == 1
    assert len(server.requests("LookupEvents")) - once == len(aws.trail_regions())


def test_regions_come_from_ec2_and_where_it_refuses_are_those_nobody_opts_in_to(aws, server):
    regions = aws.trail_regions()
    assert {"us-east-1", "eu-west-1", "ap-south-1"} <= set(regions)
    assert "ap-east-1" not in regions, "not opted in"
    assert regions[0] == "us-east-1"
    assert len(server.requests("DescribeRegions")) == 1
    aws.trail_regions()
    assert len(server.requests("DescribeRegions")) == 1, "asked once"


def test_regions_without_permission_to_ask(aws, server):
    server.inject(Fault(operation="DescribeRegions", kind=FaultKind.DENY, times=-1))
    assert set(aws.trail_regions()) == set(aws_trail.ENABLED_BY_DEFAULT["aws"])
    assert not aws.regions_known


def test_an_outage_of_ec2_is_no_refusal(aws, server):
    server.inject(Fault(operation="DescribeRegions", kind=FaultKind.THROTTLE, times=-1))
    error = error_of(aws.trail_regions, AwsError)
    assert error.retryable
    assert aws.regions_known


def test_a_region_that_refuses_is_named_and_the_home_region_must_not(aws, monkeypatch):
    monkeypatch.setattr(aws, "trail_regions", lambda: ("us-east-1", "eu-west-1", "eu-west-2"))
    look_up = aws._events

    def events(what, region, picked, **more):
        if region == refusing:
            raise AwsError(what, code="AccessDeniedException", effect=Effect.NONE)
        return look_up(what, region, picked, **more)

    monkeypatch.setattr(aws, "_events", events)
    refusing = "eu-west-2"
    aws.trail(TrailKey.USER_NAME, "ci", LONG_AGO)
    assert aws.unread_regions == {"eu-west-2"}
    refusing = "us-east-1"
    assert error_of(lambda: aws.trail(TrailKey.USER_NAME, "ci", LONG_AGO), AwsError).code == "AccessDeniedException"


def test_each_region_has_a_pace_of_two_a_second(aws, monkeypatch):
    monkeypatch.setattr(aws, "_loopback", False)
    trails = [aws._opened_trail(region) for region in ("eu-west-1", "eu-west-2")]
    assert [trail.budget.rate for trail in trails] == [2.0, 2.0]
    assert trails[0].budget is not trails[1].budget
    for _ in range(20):
        trails[0].budget.succeeded()
    assert trails[0].budget.rate == 2.0
    for trail in trails:
        trail.client.close()


def test_a_history_that_is_too_long_is_an_error_and_not_a_part_of_it(aws, server, monkeypatch):
    monkeypatch.setattr(aws_trail, "_PAGES_MAX", 1)
    monkeypatch.setattr(aws._events.__func__, "__kwdefaults__", {"pages_max": 1})
    for number in range(60):
        server.add_event(ONE, a_request("GetCallerIdentity", id=f"id-{number}"))
    error = error_of(lambda: aws.trail(TrailKey.USER_NAME, "ci", LONG_AGO), AwsError)
    assert error.code == "TooManyPages"


MEMBERS = (
    "accessKey",
    "accessKeyId",
    "arn",
    "awsRegion",
    "credentials",
    "errorCode",
    "eventSource",
    "requestParameters",
    "responseElements",
    "roleArn",
    "sourceIPAddress",
    "userAgent",
    "userIdentity",
    "userName",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@seed(11)
@settings(max_examples=200, deadline=None)
@given(detail=JSON, resources=st.lists(JSON, max_size=3), username=JSON, text=st.text(max_size=30))
def test_no_event_can_be_anything_but_texts(detail, resources, username, text):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for body in (json.dumps(detail), text, None, 7):
        event = {"EventId": "e", "EventName": "E", "EventTime": at, "CloudTrailEvent": body}
        told = aws_trail._told(event | {"Resources": resources, "Username": username}, "eu-west-1")
        assert isinstance(told, TrailEvent)
        assert (told.event_id, told.name, told.at) == ("e", "E", at)
        for value in (told.service, told.key_id, told.user, told.source_address, told.user_agent, told.error_code):
            assert isinstance(value, str)
        assert told.issued_key_id == "" or told.issued_key_id.startswith("ASIA")
        assert all(isinstance(item, str) for item in told.resources)


def test_an_event_without_an_id_or_a_time_is_an_error(aws, monkeypatch):
    monkeypatch.setattr(aws, "trail_regions", lambda: ("us-east-1",))
    monkeypatch.setattr(aws, "_events", lambda *_, **__: iter([{"EventName": "E"}]))
    assert error_of(lambda: aws.trail(TrailKey.USER_NAME, "ci", LONG_AGO), AwsError).code == "Unreadable"


# --- proof at a service -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["ecr", "s3"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FaultKind.DENY, True),
        (FaultKind.SERVER_ERROR, None),
        (FaultKind.DROP_REPLY, None),
        (FaultKind.THROTTLE, None),
        (FaultKind.EXPIRE, None),
    ],
)
def test_only_a_signature_that_was_checked_is_an_answer(accounts, server, all_records, service, kind, expected):
    key = server.add_key(ONE, "ci")
    operation = {"ecr": "GetAuthorizationToken", "s3": "ListBuckets"}[service]
    server.inject(Fault(operation=operation, kind=kind, times=-1))
    assert accounts.accepts(key, service, "eu-west-1") is expected
    server.heal()
    assert accounts.accepts(key, service, "eu-west-1") is True
    assert {seen.region for seen in server.requests(operation)} == {"eu-west-1"}
    assert {seen.key_id for seen in server.requests(operation)} == {key.key_id}
    assert not [record for record in all_records if key.secret.reveal() in record or "auth-token" in record]


@pytest.mark.parametrize(
    ("code", "operation", "retryable", "said"),
    [
        ("ConcurrentModification", "UpdateAssumeRolePolicy", True, "Try again"),
        ("EntityTemporarilyUnmodifiable", "PutUserPolicy", True, "Try again"),
        ("LimitExceeded", "PutRolePolicy", False, "get-account-summary"),
        ("LimitExceeded", "CreateAccessKey", False, "as many access keys"),
        ("NoSuchEntity", "AttachRolePolicy", False, "never there"),
        ("EntityAlreadyExists", "CreateRole", False, "of this name"),
        ("DeleteConflict", "DeleteRole", False, "must go first"),
        ("MalformedPolicyDocument", "CreatePolicy", False, "does not take this policy"),
    ],
)
def test_what_is_said_of_a_refusal_fits_what_was_asked(code, operation, retryable, said):
    def refuse():
        reply = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 409}}
        raise ClientError(reply, operation)

    source = AwsSource.of_profile(None)
    error = error_of(
        lambda: guarded(refuse, source=source, operation=operation, what="it", doubt=Effect.UNKNOWN), AwsError
    )
    assert (error.code, error.effect, error.retryable) == (code, Effect.NONE, retryable)
    assert said in error.remedy


def test_an_error_of_a_role_carries_no_reply(aws, server):
    server.inject(Fault(operation="GetRole", kind=FaultKind.SHORTEN_REPLY, at_byte=30, times=-1))
    aws.create_role(CI)
    error = error_of(lambda: aws.role(CI.name), AwsError)
    assert error.code == "Unreadable"
    assert "<GetRoleResponse" not in everything_about(error)
