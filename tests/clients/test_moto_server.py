"""The gate in front of moto has the rules that moto leaves out."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from playbook.errors import UsageError
from playbook.ports import KeyStatus
from playbook.twins.moto_server import Fault, FaultKind, MotoServer

ONE, TWO = "111111111111", "222222222222"


@pytest.fixture(scope="module")
def server():
    with MotoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def emptied(server):
    server.empty()
    server.heal()


def client_of(server, service, key, secret=None, token=None, region="us-east-1"):
    return boto3.client(
        service,
        endpoint_url=server.url,
        aws_access_key_id=key.key_id,
        aws_secret_access_key=secret or key.secret.reveal(),
        aws_session_token=token,
        region_name=region,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


def refusal(call):
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"]


def test_only_a_living_key_with_its_own_secret_signs(server):
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    call = client_of(server, "sts", key).get_caller_identity
    assert call()["Arn"] == f"arn:aws:iam::{ONE}:user/ci"
    assert refusal(client_of(server, "sts", key, secret="wrong").get_caller_identity) == "SignatureDoesNotMatch"
    server.set_status(ONE, "ci", key.key_id, KeyStatus.INACTIVE)
    assert refusal(call) == "InvalidClientTokenId"
    server.remove_key(ONE, "ci", key.key_id)
    assert refusal(call) == "InvalidClientTokenId"


def test_a_session_signs_in_its_own_account_and_needs_its_token(server):
    sts = client_of(server, "sts", server.operator(ONE))
    session = sts.assume_role(RoleArn=f"arn:aws:iam::{TWO}:role/ops", RoleSessionName="responder")["Credentials"]
    key = type("Key", (), {"key_id": session["AccessKeyId"]})
    good = client_of(server, "sts", key, session["SecretAccessKey"], session["SessionToken"])
    assert good.get_caller_identity()["Account"] == TWO
    bad = client_of(server, "sts", key, session["SecretAccessKey"], "another")
    assert refusal(bad.get_caller_identity) == "InvalidClientTokenId"


def test_an_unsigned_request_is_refused(server):
    request = urllib.request.Request(server.url, data=b"Action=ListUsers&Version=2010-05-08")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(request)
    assert caught.value.code == 403
    caught.value.close()


def test_a_fault_strikes_as_often_as_it_says(server):
    iam = client_of(server, "iam", server.operator(ONE))
    server.inject(Fault(operation="ListUsers", kind=FaultKind.THROTTLE, times=2))
    assert [refusal(iam.list_users) for _ in range(2)] == ["Throttling"] * 2
    assert len(iam.list_users()["Users"]) == 1
    server.inject(Fault(operation="*", kind=FaultKind.DENY, times=-1))
    assert [refusal(iam.list_users) for _ in range(3)] == ["AccessDenied"] * 3
    server.heal()
    iam.list_users()


@pytest.mark.parametrize(("kind", "keys"), [(FaultKind.DROP_REQUEST, 0), (FaultKind.DROP_REPLY, 1)])
def test_a_dropped_request_has_no_effect_and_a_dropped_reply_has(server, kind, keys):
    iam = client_of(server, "iam", server.operator(ONE))
    server.add_user(ONE, "ci")
    server.inject(Fault(operation="CreateAccessKey", kind=kind))
    with pytest.raises(ConnectionClosedError):
        iam.create_access_key(UserName="ci")
    assert len(server.keys(ONE, "ci")) == keys


def test_what_was_seen_holds_no_secret_and_each_account_sees_its_own_events(server):
    for account in (ONE, TWO):
        server.add_user(account, "ci")
        client_of(server, "iam", server.operator(account)).create_access_key(UserName="ci")
    secrets = [server.secret_of(key).reveal() for account in (ONE, TWO) for key in server.keys(account, "ci")]
    assert not any(secret in repr(server.requests()) for secret in secrets)
    for account in (ONE, TWO):
        trail = client_of(server, "cloudtrail", server.operator(account))
        found = trail.lookup_events(
            LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateAccessKey"}]
        )
        (event,) = found["Events"]
        (key_id,) = server.keys(account, "ci")
        assert key_id in event["CloudTrailEvent"]
        assert not any(secret in repr(event) for secret in secrets)
    abroad = client_of(server, "cloudtrail", server.operator(ONE), region="eu-west-1")
    assert [event["EventName"] for event in abroad.lookup_events()["Events"]] == []


def test_an_event_arrives_late_if_asked_to(server):
    server.trail_lag_s = 60
    try:
        operator = server.operator(ONE)
        client_of(server, "iam", operator).list_users()
        assert client_of(server, "cloudtrail", operator).lookup_events()["Events"] == []
    finally:
        server.trail_lag_s = 0


def test_without_the_extra_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "flask_cors", None)
    with pytest.raises(UsageError) as caught:
        MotoServer()
    assert "rotation-playbook[sandbox]" in caught.value.remedy
