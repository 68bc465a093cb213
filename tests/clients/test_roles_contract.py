"""Policies, tags, roles, providers and the trail: the twin in memory and the real client over moto pass the same tests.

What only one of them can show is elsewhere: lags, faults and sessions in `tests/twins/test_iam_roles_twin.py`, hostile
replies in `tests/clients/test_aws_roles.py`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from clients.scripted import error_of

from playbook.clients.aws import connect
from playbook.errors import AwsError, Effect
from playbook.ports import KeyStatus, Role, TrailKey
from playbook.secret import Secret
from playbook.twins.moto_server import MotoServer
from playbook.twins.state import Account, IamUser, State
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
ACCOUNT = "123456789012"
NO_LAG = Switches(
    sts_lag_s=0,
    off_lag_s=0,
    list_lag_s=0,
    trail_lag_s=0,
    rights_lag_s=0,
    policy_lag_s=0,
    service_lag_s=0,
    accessed_lag_s=0,
)
ISSUER = "oidc.circleci.com/org/5b1f4b4e-0000-4000-8000-000000000001"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
READ = {
    "Version": "2012-10-17",
    "Statement": [{"Sid": "Read", "Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}],
}
REVOKE = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-01-05T09:00:00Z"}},
        }
    ],
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Federated": PROVIDER},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{ISSUER}:aud": "5b1f4b4e-0000-4000-8000-000000000001"}},
        }
    ],
}
CI = Role(
    name="ci-deploy", arn="", trust=TRUST, path="/ci/", max_session_s=7200, description="CI", tags=(("team", "ci"),)
)
NOWHERE = f"arn:aws:iam::{ACCOUNT}:policy/none"


@pytest.fixture(params=["twin", "client"])
def opened(request, monkeypatch):
    """An account with one user, `ci`; and whether a service accepts a key."""
    if request.param == "twin":
        user = IamUser(name="ci", arn=f"arn:aws:iam::{ACCOUNT}:user/ci", created_at=START)
        operator = f"arn:aws:iam::{ACCOUNT}:user/incident-responder"
        account = Account(id=ACCOUNT, operator_arn=operator, own_key_id="AKIAOPERATOROPERATOR", users={"ci": user})
        state = State(now=START, accounts={ACCOUNT: account})
        world = TwinWorld(state, switches=NO_LAG, rng=random.Random(3), flowing=True)
        yield world.aws[ACCOUNT], world.platforms()
        return
    with MotoServer() as server:
        for name, value in server.environment(server.operator(ACCOUNT)).items():
            monkeypatch.setenv(name, value)
        server.add_user(ACCOUNT, "ci")
        accounts = connect(case_id="c")
        yield accounts.accounts[ACCOUNT], accounts
        accounts.close()


@pytest.fixture
def aws(opened):
    return opened[0]


def refused(code, call, *arguments):
    error = error_of(lambda: call(*arguments), AwsError)
    # What is too small for AWS's model is not even sent.
    codes = {code, "BadParameter"} if code == "ValidationError" else {code}
    assert error.code in codes
    assert error.effect is Effect.NONE


# --- Users ------------------------------------------------------------------------------------------------------------


def test_an_inline_policy_from_the_cradle_to_the_grave(aws):
    assert aws.user_policy("ci", "revoke") is None
    before = aws.access_keys("ci").server_time
    assert aws.put_user_policy("ci", "revoke", READ) >= before
    aws.put_user_policy("ci", "revoke", REVOKE)
    assert aws.user_policy("ci", "revoke") == REVOKE
    assert [user.inline_policies for user in aws.described_users() if user.name == "ci"] == [("revoke",)]
    for _ in range(2):
        aws.delete_user_policy("ci", "revoke")
    assert aws.user_policy("ci", "revoke") is None


def test_inline_policies_have_a_size_and_a_grammar(aws):
    limit = aws.summary()["UserPolicySizeQuota"]
    long = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "a" * limit}]}
    refused("LimitExceeded", aws.put_user_policy, "ci", "long", long)
    refused("MalformedPolicyDocument", aws.put_user_policy, "ci", "bad", {"Version": "2012-10-17", "Statement": []})
    refused("MalformedPolicyDocument", aws.put_user_policy, "ci", "bad", TRUST)
    refused("NoSuchEntity", aws.put_user_policy, "nobody", "p", READ)
    assert aws.user_policy("ci", "long") is None
    assert aws.user_policy("nobody", "p") is None


def test_tags(aws):
    assert aws.user_tags("ci") == {}
    aws.tag_user("ci", "case", "one")
    aws.tag_user("ci", "case", "two")
    aws.tag_user("ci", "team", "")
    assert aws.user_tags("ci") == {"case": "two", "team": ""}
    for _ in range(2):
        aws.untag_user("ci", "case")
    assert aws.user_tags("ci") == {"team": ""}
    refused("NoSuchEntity", aws.user_tags, "nobody")
    refused("NoSuchEntity", aws.tag_user, "nobody", "a", "b")
    aws.untag_user("nobody", "a")


def test_what_a_user_has_not(aws):
    assert aws.attached_user_policies("ci") == ()
    assert aws.footholds("ci") == ()
    refused("NoSuchEntity", aws.attached_user_policies, "nobody")
    refused("NoSuchEntity", aws.footholds, "nobody")


def test_whose_a_key_is(aws):
    made = aws.create_access_key("ci", tag="t/1")
    assert aws.key_owner(made.key_id) == "ci"
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert aws.key_owner(made.key_id) == "ci"
    aws.delete_access_key("ci", made.key_id)
    assert aws.key_owner(made.key_id) is None
    assert aws.key_owner("AKIANOBODYSKEYNOBODY") is None


# --- Roles ------------------------------------------------------------------------------------------------------------


def test_a_role_from_the_cradle_to_the_grave(aws):
    assert aws.role(CI.name) is None
    arn = aws.create_role(CI)
    assert arn == f"arn:aws:iam::{ACCOUNT}:role/ci/{CI.name}"
    policy = aws.create_policy("ci-merged", READ, {"case": "1"})
    aws.put_role_policy(CI.name, "revoke", REVOKE)
    for _ in range(2):
        aws.attach_role_policy(CI.name, policy)
    aws.tag_role(CI.name, "case", "1")
    found = aws.role(CI.name)
    assert replace(found, created_at=None) == replace(
        CI, arn=arn, tags=(("case", "1"), ("team", "ci")), inline=found.inline, attached=(policy,)
    )
    assert [(item.name, item.document) for item in found.inline] == [("revoke", REVOKE)]
    assert aws.role_policy(CI.name, "revoke") == REVOKE
    assert aws.role_policy(CI.name, "none") is None
    assert aws.role_policy("none", "revoke") is None

    aws.update_session_length(CI.name, 3600)
    aws.update_trust(CI.name, TRUST | {"Id": "changed"})
    found = aws.role(CI.name)
    assert (found.max_session_s, found.trust, found.description) == (3600, TRUST | {"Id": "changed"}, "CI")

    refused("DeleteConflict", aws.delete_role, CI.name)
    refused("DeleteConflict", aws.delete_policy, policy)
    for _ in range(2):
        aws.detach_role_policy(CI.name, policy)
        aws.delete_role_policy(CI.name, "revoke")
    for _ in range(2):
        aws.delete_role(CI.name)
        aws.delete_policy(policy)
    assert aws.role(CI.name) is None
    assert aws.managed_policy(policy) is None


def test_what_a_role_may_not_be(aws):
    refused("MalformedPolicyDocument", aws.create_role, replace(CI, trust=READ))
    refused("ValidationError", aws.create_role, replace(CI, max_session_s=60))
    aws.create_role(CI)
    refused("EntityAlreadyExists", aws.create_role, CI)
    refused("MalformedPolicyDocument", aws.update_trust, CI.name, {"Version": "2012-10-17", "Statement": []})
    long = {"Version": "2012-10-17", "Statement": TRUST["Statement"], "Id": "a" * 2048}
    refused("LimitExceeded", aws.update_trust, CI.name, long)
    refused("ValidationError", aws.update_session_length, CI.name, 50_000)
    refused("NoSuchEntity", aws.attach_role_policy, CI.name, NOWHERE)
    for call, *arguments in (
        (aws.update_trust, "none", TRUST),
        (aws.update_session_length, "none", 3600),
        (aws.tag_role, "none", "a", "b"),
        (aws.put_role_policy, "none", "p", READ),
    ):
        refused("NoSuchEntity", call, *arguments)
    limit = aws.summary()["AttachedPoliciesPerRoleQuota"]
    policies = [aws.create_policy(f"p{number}", READ, {}) for number in range(limit + 1)]
    for policy in policies[:limit]:
        aws.attach_role_policy(CI.name, policy)
    refused("LimitExceeded", aws.attach_role_policy, CI.name, policies[limit])
    assert aws.role(CI.name).trust == TRUST


def test_a_managed_policy(aws):
    arn = aws.create_policy("ci-merged", READ, {"case": "1"})
    found = aws.managed_policy(arn)
    assert (found.name, found.arn, found.document) == ("ci-merged", arn, READ)
    assert found.changed_at is not None
    refused("EntityAlreadyExists", aws.create_policy, "ci-merged", READ, {})
    refused("MalformedPolicyDocument", aws.create_policy, "bad", TRUST, {})
    long = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "a" * 6144}]}
    refused("LimitExceeded", aws.create_policy, "long", long, {})
    assert aws.managed_policy(NOWHERE) is None


def test_the_details_have_all_of_it(aws):
    aws.put_user_policy("ci", "revoke", REVOKE)
    aws.tag_user("ci", "case", "1")
    arn = aws.create_role(CI)
    policy = aws.create_policy("ci-merged", READ, {})
    aws.attach_role_policy(CI.name, policy)
    aws.put_role_policy(CI.name, "read", READ)
    details = aws.details()
    (user,) = [user for user in details.users if user.name == "ci"]
    assert [(item.name, item.document) for item in user.inline] == [("revoke", REVOKE)]
    assert user.tags == (("case", "1"),)
    (role,) = details.roles
    assert (role.arn, role.trust, role.attached) == (arn, TRUST, (policy,))
    assert [(item.name, item.document) for item in role.inline] == [("read", READ)]
    assert details.policy(policy).document == READ


# --- Providers --------------------------------------------------------------------------------------------------------


def test_a_provider_from_the_cradle_to_the_grave(aws):
    arn = aws.create_provider(f"https://{ISSUER}", ["one"], {"case": "1"})
    assert arn == PROVIDER
    refused("EntityAlreadyExists", aws.create_provider, f"https://{ISSUER}", ["two"], {})
    refused("InvalidInput", aws.create_provider, f"http://{ISSUER}", [], {})
    for _ in range(2):
        aws.add_client_id(arn, "two")
    (found,) = aws.providers()
    assert (found.arn, found.url, found.client_ids, found.saml) == (arn, ISSUER, ("one", "two"), False)
    assert found.tags == (("case", "1"),)
    for _ in range(2):
        aws.remove_client_id(arn, "one")
    assert aws.providers()[0].client_ids == ("two",)
    for _ in range(2):
        aws.delete_provider(arn)
    assert aws.providers() == ()
    aws.remove_client_id(arn, "two")
    refused("NoSuchEntity", aws.add_client_id, arn, "two")


# --- Traces -----------------------------------------------------------------------------------------------------------


def test_the_trail_names_who_what_and_whom(opened):
    aws, platforms = opened
    since = aws.access_keys("ci").server_time - timedelta(seconds=1)
    made = aws.create_access_key("ci", tag="t/1")
    assert platforms.identify(made) is not None
    aws.put_user_policy("ci", "revoke", REVOKE)
    refused("NoSuchEntity", aws.put_user_policy, "nobody", "revoke", REVOKE)

    (event,) = aws.trail(TrailKey.EVENT_NAME, "CreateAccessKey", since)
    assert (event.service, event.key_id, event.user) == ("iam", aws.own_key_id(), "incident-responder")
    assert {"ci", made.key_id} <= set(event.resources)
    used = aws.trail(TrailKey.ACCESS_KEY_ID, made.key_id, since)
    assert {(item.name, item.service, item.user) for item in used} == {("GetCallerIdentity", "sts", "ci")}
    assert aws.trail(TrailKey.USER_NAME, "ci", since) == used
    written = [item for item in aws.trail(TrailKey.RESOURCE_NAME, "ci", since) if item.name == "PutUserPolicy"]
    assert [item.error_code for item in written] == [""]
    failed = [item for item in aws.trail(TrailKey.RESOURCE_NAME, "nobody", since) if item.name == "PutUserPolicy"]
    assert [item.error_code for item in failed] == ["NoSuchEntity"]
    assert aws.trail(TrailKey.USER_NAME, "stranger", since) == ()
    later = aws.access_keys("ci").server_time + timedelta(minutes=5)
    assert aws.trail(TrailKey.ACCESS_KEY_ID, made.key_id, later) == ()


def test_the_services_a_user_used(opened):
    aws, platforms = opened
    made = aws.create_access_key("ci", tag="t/1")
    arn = f"arn:aws:iam::{ACCOUNT}:user/ci"
    assert aws.accessed_services(arn) == ()
    platforms.identify(made)
    assert [item.service for item in aws.accessed_services(arn)] == ["sts"]
    refused("NoSuchEntity", aws.accessed_services, f"arn:aws:iam::{ACCOUNT}:user/nobody")


@pytest.mark.parametrize("service", ["ecr", "s3"])
def test_whether_a_service_accepts_a_key(opened, service):
    aws, platforms = opened
    made = aws.create_access_key("ci", tag="t/1")
    assert platforms.accepts(made, service, "eu-west-1") is True
    assert platforms.accepts(replace(made, secret=Secret("another")), service, "eu-west-1") is False
    assert platforms.accepts(made, "no-such-service", "eu-west-1") is None
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert platforms.accepts(made, service, "eu-west-1") is False
    aws.delete_access_key("ci", made.key_id)
    assert platforms.accepts(made, service, "eu-west-1") is False
