"""Users' policies and tags, roles, managed policies and providers on the twin, by AWS's rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from twins.small_worlds import ACCOUNT, NO_LAG, OLD_KEY, OTHER, START, small_state, small_world

from playbook.errors import AwsError, Effect
from playbook.ports import Role, TrailKey
from playbook.twins import sessions
from playbook.twins.faults import Faults
from playbook.twins.seed import mirror
from playbook.twins.state import VERSION, Foothold, IamGroup, IamRole, ManagedPolicy, Provider, Version
from playbook.twins.world import TwinWorld

ISSUER = "oidc.circleci.com/org/5b1f4b4e-0000-4000-8000-000000000001"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
SPARE = f"arn:aws:iam::{ACCOUNT}:policy/spare"
READ = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
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
CI = Role(name="ci-deploy", arn="", trust=TRUST, max_session_s=7200, description="CI", tags=(("team", "ci"),))


def refused(code, action, *arguments):
    with pytest.raises(AwsError) as caught:
        action(*arguments)
    assert caught.value.code == code
    assert caught.value.effect is Effect.NONE


def deny_before(moment):
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Action": "*",
                "Resource": "*",
                "Condition": {"DateLessThan": {"aws:TokenIssueTime": moment.isoformat()}},
            }
        ],
    }


def padded(letters):
    """A document whose counted size grows one by one with `letters`."""
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "a" * letters}
    return {"Version": "2012-10-17", "Statement": [statement]}


# --- Users ------------------------------------------------------------------------------------------------------------


def test_a_users_inline_policy_is_written_read_replaced_and_removed():
    aws = small_world().aws[ACCOUNT]
    assert aws.user_policy("ci", "deny") is None
    at = aws.put_user_policy("ci", "deny", READ)
    assert at.microsecond == 0
    assert aws.user_policy("ci", "deny") == READ
    aws.put_user_policy("ci", "deny", deny_before(START))
    assert aws.user_policy("ci", "deny") == deny_before(START)
    assert [user.inline_policies for user in aws.described_users()] == [("deny",), ()]
    aws.delete_user_policy("ci", "deny")
    aws.delete_user_policy("ci", "deny")
    assert aws.user_policy("ci", "deny") is None


def test_the_size_of_all_inline_policies_of_a_user_has_a_limit_that_the_summary_tells():
    world = small_world()
    aws = world.aws[ACCOUNT]
    limit = aws.summary()["UserPolicySizeQuota"]
    overhead = len('{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":""}]}')
    aws.put_user_policy("ci", "one", padded(limit - overhead))
    refused("LimitExceeded", aws.put_user_policy, "ci", "two", READ)
    refused("LimitExceeded", aws.put_user_policy, "ci", "one", padded(limit - overhead + 1))
    assert aws.user_policy("ci", "two") is None
    world.state.accounts[ACCOUNT].summary["UserPolicySizeQuota"] = limit * 2
    aws.put_user_policy("ci", "two", READ)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"Version": "2012-10-17", "Statement": []},
        {"Version": "2020-01-01", "Statement": READ["Statement"]},
        {"Version": "2012-10-17", "Statement": ["Deny"]},
        {"Version": "2012-10-17", "Statement": [{"Effect": "Block", "Action": "*", "Resource": "*"}]},
        {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*"}]},
        {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Resource": "*"}]},
        TRUST,
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"DateBefore": {"a": "b"}}},
            ],
        },
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Sid": "A", "Effect": "Deny", "Action": "*", "Resource": "*"},
                {"Sid": "A", "Effect": "Deny", "Action": "*", "Resource": "*"},
            ],
        },
    ],
)
def test_a_document_that_aws_would_not_take_is_refused(document):
    aws = small_world().aws[ACCOUNT]
    refused("MalformedPolicyDocument", aws.put_user_policy, "ci", "deny", document)
    assert aws.user_policy("ci", "deny") is None


def test_tags_are_set_changed_without_regard_to_case_and_removed():
    world = small_world()
    world.state.accounts[ACCOUNT].users["ci"] = msgspec.structs.replace(
        world.state.accounts[ACCOUNT].users["ci"], tags={"team": "ci"}
    )
    aws = world.aws[ACCOUNT]
    aws.tag_user("ci", "Case", "one")
    aws.tag_user("ci", "case", "two")
    assert aws.user_tags("ci") == {"team": "ci", "case": "two"}
    assert aws.described_users()[0].tags == (("case", "two"), ("team", "ci"))
    aws.untag_user("ci", "CASE")
    aws.untag_user("ci", "case")
    assert aws.user_tags("ci") == {"team": "ci"}
    for number in range(49):
        aws.tag_user("ci", f"k{number}", "")
    refused("LimitExceeded", aws.tag_user, "ci", "k49", "")
    refused("ValidationError", aws.tag_user, "ci", "aws:mine", "")
    refused("NoSuchEntity", aws.user_tags, "nobody")
    refused("NoSuchEntity", aws.tag_user, "nobody", "a", "b")


def test_a_removal_from_a_user_that_is_gone_raises_nothing():
    aws = small_world().aws[ACCOUNT]
    aws.untag_user("nobody", "a")
    aws.delete_user_policy("nobody", "a")
    assert aws.user_policy("nobody", "a") is None


def test_attached_policies_are_the_accounts_own_where_it_has_one_of_the_name():
    world = small_world()
    held = world.state.accounts[ACCOUNT]
    own = f"arn:aws:iam::{ACCOUNT}:policy/acme-deploy"
    held.policies[own] = [Version(value=ManagedPolicy(name="acme-deploy", arn=own, document=READ))]
    held.users["ci"] = msgspec.structs.replace(held.users["ci"], policies=("acme-deploy", "AdministratorAccess"))
    aws = world.aws[ACCOUNT]
    assert aws.attached_user_policies("ci") == (own, "arn:aws:iam::aws:policy/AdministratorAccess")
    assert aws.described_users()[0].policies == ("acme-deploy", "AdministratorAccess")
    assert aws.managed_policy(own).document == READ
    assert aws.managed_policy("arn:aws:iam::aws:policy/AdministratorAccess") is None


def test_footholds_and_owners_are_told():
    world = small_world()
    held = world.state.accounts[ACCOUNT]
    item = Foothold(kind="login-profile", id="ci", created_at=START)
    held.users["ci"] = msgspec.structs.replace(held.users["ci"], footholds=(item,))
    aws = world.aws[ACCOUNT]
    assert [(found.kind, found.id, found.created_at) for found in aws.footholds("ci")] == [
        ("login-profile", "ci", START)
    ]
    assert aws.footholds("idle") == ()
    refused("NoSuchEntity", aws.footholds, "nobody")
    assert aws.key_owner(OLD_KEY) == "ci"
    assert world.aws[OTHER].key_owner(OLD_KEY) is None
    aws.delete_access_key("ci", OLD_KEY)
    assert aws.key_owner(OLD_KEY) is None


# --- Sessions ---------------------------------------------------------------------------------------------------------


def test_a_deny_before_a_moment_cuts_older_sessions_and_neither_younger_ones_nor_the_keys():
    world = small_world(replace(NO_LAG, policy_lag_s=4))
    before, after = START - timedelta(hours=1), START + timedelta(hours=1)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=before)
    world.aws[ACCOUNT].put_user_policy("ci", "revoke", deny_before(START))
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=before), "the policy has not spread yet"
    world.clock.sleep(4)
    assert not world.session_allowed(ACCOUNT, user="ci", issued_at=before)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=after)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=None), "a key has no time of issue"
    world.aws[ACCOUNT].delete_user_policy("ci", "revoke")
    world.clock.sleep(4)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=before)


@pytest.mark.parametrize(
    ("condition", "session", "key"),
    [
        (None, False, False),
        ({"Null": {"aws:TokenIssueTime": "false"}}, False, True),
        ({"Null": {"aws:TokenIssueTime": "true"}}, True, False),
        ({"DateLessThan": {"AWS:tokenissuetime": "2026-11-02T09:00:00Z"}}, False, True),
        ({"DateLessThanIfExists": {"aws:TokenIssueTime": "2026-11-02T09:00:00Z"}}, False, False),
        ({"DateLessThan": {"aws:TokenIssueTime": ["2020-01-01T00:00:00Z", "1793610000"]}}, False, True),
        ({"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}, True, True),
        ({"DateGreaterThan": {"aws:TokenIssueTime": "2026-11-02T09:00:00Z"}}, True, True),
    ],
)
def test_what_a_denial_of_everything_reaches(condition, session, key):
    world = small_world()
    statement = {"Effect": "Deny", "Action": ["*"], "Resource": "*"}
    if condition is not None:
        statement["Condition"] = condition
    world.aws[ACCOUNT].put_user_policy("ci", "deny", {"Version": "2012-10-17", "Statement": statement})
    issued_at = START - timedelta(hours=2)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=issued_at) is session
    assert world.session_allowed(ACCOUNT, user="ci") is key


def test_a_denial_of_some_actions_cuts_nothing():
    world = small_world()
    statement = {"Effect": "Deny", "Action": "iam:*", "Resource": "*"}
    world.aws[ACCOUNT].put_user_policy("ci", "deny", {"Version": "2012-10-17", "Statement": [statement]})
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=START)


def test_the_sessions_of_a_role_end_by_a_policy_of_the_role_or_with_it():
    world = small_world()
    aws = world.aws[ACCOUNT]
    issued_at = START - timedelta(hours=1)
    assert not world.session_allowed(ACCOUNT, role=CI.name, issued_at=issued_at)
    aws.create_role(CI)
    assert world.session_allowed(ACCOUNT, role=CI.name, issued_at=issued_at)
    aws.update_trust(CI.name, deny_to_all())
    assert world.session_allowed(ACCOUNT, role=CI.name, issued_at=issued_at), "a trust policy ends no session"
    aws.put_role_policy(CI.name, "AWSRevokeOlderSessions", deny_before(START))
    assert not world.session_allowed(ACCOUNT, role=CI.name, issued_at=issued_at)
    assert world.session_allowed(ACCOUNT, role=CI.name, issued_at=START + timedelta(hours=1))
    aws.delete_role_policy(CI.name, "AWSRevokeOlderSessions")
    aws.delete_role(CI.name)
    assert not world.session_allowed(ACCOUNT, role=CI.name, issued_at=START)


@seed(23)
@settings(max_examples=200, deadline=None)
@given(issued=st.integers(-7200, 7200), denied=st.integers(-7200, 7200), later=st.integers(0, 600))
def test_a_session_is_cut_exactly_when_it_was_issued_before_the_moment_of_the_denial(issued, denied, later):
    world = small_world()
    moment, issued_at = START + timedelta(seconds=denied), START + timedelta(seconds=issued)
    world.aws[ACCOUNT].put_user_policy("ci", "revoke", deny_before(moment))
    world.clock.sleep(later)
    assert world.session_allowed(ACCOUNT, user="ci", issued_at=issued_at) is (issued_at >= moment)
    assert world.session_allowed(ACCOUNT, user="ci")
    assert world.session_allowed(ACCOUNT, user="idle", issued_at=issued_at)


def test_sts_learns_of_a_role_and_of_its_provider_late():
    world = small_world(replace(NO_LAG, policy_lag_s=4))
    aws = world.aws[ACCOUNT]
    arn = aws.create_role(CI)
    aws.create_provider(f"https://{ISSUER}", ["one"], {})
    held = world.state.accounts[ACCOUNT]
    assert sessions.role_seen(world, arn) is None
    assert sessions.provider_seen(world, held, f"https://{ISSUER}") is None
    world.clock.sleep(4)
    account, role = sessions.role_seen(world, arn)
    assert (account.id, role.trust) == (ACCOUNT, TRUST)
    assert sessions.provider_seen(world, held, f"https://{ISSUER}").client_ids == ("one",)
    assert sessions.provider_seen(world, world.state.accounts[OTHER], f"https://{ISSUER}") is None
    aws.update_trust(CI.name, deny_to_all())
    assert sessions.role_seen(world, arn)[1].trust == TRUST, "the change has not spread"
    aws.delete_role(CI.name)
    world.clock.sleep(4)
    assert sessions.role_seen(world, arn) is None


def deny_to_all():
    statement = {"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


# --- Roles ------------------------------------------------------------------------------------------------------------


def test_a_role_is_made_filled_changed_and_deleted():
    world = small_world()
    aws = world.aws[ACCOUNT]
    assert aws.role(CI.name) is None
    arn = aws.create_role(replace(CI, path="/ci/"))
    assert arn == f"arn:aws:iam::{ACCOUNT}:role/ci/{CI.name}"
    aws.put_role_policy(CI.name, "read", READ)
    aws.attach_role_policy(CI.name, "arn:aws:iam::aws:policy/ReadOnlyAccess")
    aws.attach_role_policy(CI.name, "arn:aws:iam::aws:policy/ReadOnlyAccess")
    aws.tag_role(CI.name, "case", "1")
    aws.update_session_length(CI.name, 3600)
    aws.update_trust(CI.name, deny_to_all())
    found = aws.role(CI.name)
    assert (found.arn, found.path, found.trust, found.max_session_s) == (arn, "/ci/", deny_to_all(), 3600)
    assert [(policy.name, policy.document) for policy in found.inline] == [("read", READ)]
    assert found.attached == ("arn:aws:iam::aws:policy/ReadOnlyAccess",)
    assert found.tags == (("case", "1"), ("team", "ci"))
    assert aws.role_policy(CI.name, "read") == READ
    assert aws.role_policy(CI.name, "other") is None
    assert aws.role_policy("other", "read") is None
    refused("DeleteConflict", aws.delete_role, CI.name)
    aws.delete_role_policy(CI.name, "read")
    refused("DeleteConflict", aws.delete_role, CI.name)
    aws.detach_role_policy(CI.name, "arn:aws:iam::aws:policy/ReadOnlyAccess")
    aws.delete_role(CI.name)
    assert aws.role(CI.name) is None
    for _ in range(2):
        aws.delete_role(CI.name)
        aws.delete_role_policy(CI.name, "read")
        aws.detach_role_policy(CI.name, "arn:aws:iam::aws:policy/ReadOnlyAccess")


def test_what_a_role_may_not_be():
    world = small_world()
    aws = world.aws[ACCOUNT]
    refused("ValidationError", aws.create_role, replace(CI, name="a/b"))
    refused("ValidationError", aws.create_role, replace(CI, path="ci"))
    refused("ValidationError", aws.create_role, replace(CI, max_session_s=60))
    refused("MalformedPolicyDocument", aws.create_role, replace(CI, trust=READ))
    aws.create_role(CI)
    refused("EntityAlreadyExists", aws.create_role, replace(CI, name=CI.name.upper()))
    refused("ValidationError", aws.update_session_length, CI.name, 43201)
    refused("NoSuchEntity", aws.update_trust, "other", TRUST)
    refused("NoSuchEntity", aws.attach_role_policy, CI.name, f"arn:aws:iam::{ACCOUNT}:policy/none")
    world.state.accounts[ACCOUNT].summary |= {"AttachedPoliciesPerRoleQuota": 1, "AssumeRolePolicySizeQuota": 100}
    aws.attach_role_policy(CI.name, "arn:aws:iam::aws:policy/One")
    refused("LimitExceeded", aws.attach_role_policy, CI.name, "arn:aws:iam::aws:policy/Two")
    refused("LimitExceeded", aws.update_trust, CI.name, TRUST)
    assert aws.role(CI.name).trust == TRUST
    world.state.accounts[ACCOUNT].summary["RolePolicySizeQuota"] = 120
    aws.put_role_policy(CI.name, "one", READ)
    refused("LimitExceeded", aws.put_role_policy, CI.name, "two", READ)


def test_a_managed_policy_is_deleted_only_when_it_is_attached_nowhere():
    world = small_world()
    aws = world.aws[ACCOUNT]
    arn = aws.create_policy("ci-merged", READ, {"case": "1"})
    assert arn == f"arn:aws:iam::{ACCOUNT}:policy/ci-merged"
    assert aws.managed_policy(arn).document == READ
    refused("EntityAlreadyExists", aws.create_policy, "CI-merged", READ, {})
    world.state.accounts[ACCOUNT].summary["PolicySizeQuota"] = 10
    refused("LimitExceeded", aws.create_policy, "long", READ, {})
    aws.create_role(CI)
    aws.attach_role_policy(CI.name, arn)
    refused("DeleteConflict", aws.delete_policy, arn)
    aws.detach_role_policy(CI.name, arn)
    world.foreign_change_rights(ACCOUNT, "ci", lambda held: msgspec.structs.replace(held, attached=(arn,)))
    refused("DeleteConflict", aws.delete_policy, arn)
    world.foreign_change_rights(ACCOUNT, "ci", lambda held: msgspec.structs.replace(held, attached=()))
    aws.delete_policy(arn)
    aws.delete_policy(arn)
    assert aws.managed_policy(arn) is None


def test_what_was_written_shows_once_it_has_spread_and_a_write_acts_on_the_truth():
    world = small_world(replace(NO_LAG, rights_lag_s=2))
    aws = world.aws[ACCOUNT]
    aws.create_role(CI)
    aws.put_role_policy(CI.name, "read", READ)
    arn = aws.create_provider(f"https://{ISSUER}", ["aud"], {})
    aws.tag_user("ci", "case", "1")
    assert aws.role(CI.name) is None
    assert aws.providers() == ()
    assert aws.user_tags("ci") == {}
    world.clock.sleep(2)
    assert aws.role(CI.name).inline
    assert [provider.arn for provider in aws.providers()] == [arn]
    assert aws.user_tags("ci") == {"case": "1"}
    aws.delete_provider(arn)
    assert aws.providers()
    world.clock.sleep(2)
    assert aws.providers() == ()


# --- Providers --------------------------------------------------------------------------------------------------------


def test_a_provider_keeps_its_audiences():
    aws = small_world().aws[ACCOUNT]
    arn = aws.create_provider(f"https://{ISSUER}", ["one"], {"case": "1"})
    assert arn == PROVIDER
    refused("EntityAlreadyExists", aws.create_provider, f"https://{ISSUER}", ["one"], {})
    aws.add_client_id(arn, "two")
    aws.add_client_id(arn, "two")
    (found,) = aws.providers()
    assert (found.url, found.client_ids, found.tags, found.saml) == (ISSUER, ("one", "two"), (("case", "1"),), False)
    assert [len(thumbprint) for thumbprint in found.thumbprints] == [40]
    aws.remove_client_id(arn, "one")
    aws.remove_client_id(arn, "one")
    assert aws.providers()[0].client_ids == ("two",)
    aws.delete_provider(arn)
    aws.delete_provider(arn)
    aws.remove_client_id(arn, "two")
    refused("NoSuchEntity", aws.add_client_id, arn, "two")


@pytest.mark.parametrize(
    "url",
    ["http://oidc.circleci.com/org/x", "https://oidc.circleci.com:8443/org/x", "https://oidc.circleci.com/?a=b", "x"],
)
def test_an_issuer_is_an_https_address_without_port_or_query(url):
    aws = small_world().aws[ACCOUNT]
    refused("InvalidInput", aws.create_provider, url, [], {})
    assert aws.providers() == ()


def test_an_account_has_a_hundred_providers_and_a_provider_a_hundred_audiences():
    world = small_world()
    aws = world.aws[ACCOUNT]
    refused("LimitExceeded", aws.create_provider, f"https://{ISSUER}", [f"a{number}" for number in range(101)], {})
    arn = aws.create_provider(f"https://{ISSUER}", [f"a{number}" for number in range(100)], {})
    refused("LimitExceeded", aws.add_client_id, arn, "a100")
    held = world.state.accounts[ACCOUNT].providers
    held |= {f"arn:{number}": [Version(value=Provider(arn=f"arn:{number}", saml=True))] for number in range(99)}
    refused("LimitExceeded", aws.create_provider, "https://example.com", [], {})
    refused("NoSuchEntity", aws.add_client_id, "arn:1", "a")


# --- The account, its file, its mirror --------------------------------------------------------------------------------


def rich_world(**options) -> TwinWorld:
    state = small_state()
    held = state.accounts[ACCOUNT]
    own = f"arn:aws:iam::{ACCOUNT}:policy/acme-deploy"
    held.users["ci"] = msgspec.structs.replace(
        held.users["ci"],
        policies=("acme-deploy",),
        inline={"read": READ},
        tags={"team": "ci"},
        groups=("robots",),
        footholds=(Foothold(kind="mfa-device", id="arn:mfa", created_at=START),),
    )
    held.groups["robots"] = IamGroup(name="robots", arn=f"arn:aws:iam::{ACCOUNT}:group/robots", inline={"r": READ})
    held.policies[own] = [Version(value=ManagedPolicy(name="acme-deploy", arn=own, document=READ))]
    arn = f"arn:aws:iam::{ACCOUNT}:role/admin"
    admin = IamRole(name="admin", arn=arn, trust=TRUST, inline={"own": READ}, attached=(own,))
    held.roles["admin"] = [Version(value=admin)]
    held.roles["spare"] = [Version(value=IamRole(name="spare", arn=f"{arn}-spare", trust=TRUST))]
    held.policies[SPARE] = [Version(value=ManagedPolicy(name="spare", arn=SPARE, document=READ))]
    held.providers[PROVIDER] = [Version(value=Provider(arn=PROVIDER, url=ISSUER, client_ids=("one",)))]
    held.accessed[arn] = {"s3": START - timedelta(days=2), "ec2": None}
    return TwinWorld(state, switches=NO_LAG, **options)


def test_the_details_are_the_whole_account():
    details = rich_world().aws[ACCOUNT].details()
    assert [user.name for user in details.users] == ["ci", "idle"]
    ci = details.users[0]
    own = f"arn:aws:iam::{ACCOUNT}:policy/acme-deploy"
    assert ([policy.name for policy in ci.inline], ci.attached, ci.groups) == (["read"], (own,), ("robots",))
    assert ci.tags == (("team", "ci"),)
    assert [(group.name, group.inline[0].document) for group in details.groups] == [("robots", READ)]
    assert [(role.name, role.trust, role.attached) for role in details.roles] == [
        ("admin", TRUST, (own,)),
        ("spare", TRUST, ()),
    ]
    assert details.policy(own).document == READ


def test_the_file_keeps_all_of_it(tmp_path):
    world = rich_world(path=tmp_path / "world.json")
    aws = world.aws[ACCOUNT]
    aws.put_user_policy("ci", "deny", deny_before(START))
    aws.create_role(CI)
    aws.add_client_id(PROVIDER, "two")
    again = TwinWorld.load(tmp_path / "world.json", switches=NO_LAG)
    assert again.state == world.state
    assert again.aws[ACCOUNT].details() == aws.details()
    assert again.aws[ACCOUNT].providers() == aws.providers()


def test_a_mirror_reads_roles_and_policies_only_when_asked_and_its_changes_stay_its_own():
    world = rich_world()
    live = world.aws[ACCOUNT]
    asked = []
    world.on_call = lambda call, moment: asked.append(call.operation) if moment == "before" else None
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=(), switches=NO_LAG).aws[ACCOUNT]
    assert not {"details", "providers", "trail", "role"} & set(asked)
    assert twin.details() == live.details()
    assert twin.providers() == live.providers()
    assert twin.role("admin") == live.role("admin")
    assert asked.count("details") == 2, "the mirror once, this test once"
    assert twin.footholds("ci") == live.footholds("ci")
    arn = live.role("admin").arn
    assert twin.accessed_services(arn) == live.accessed_services(arn)
    before = world.state.accounts[ACCOUNT].trail[:]
    twin.put_user_policy("ci", "deny", READ)
    twin.create_role(CI)
    twin.tag_user("ci", "case", "1")
    twin.add_client_id(PROVIDER, "two")
    assert twin.user_policy("ci", "deny") == READ
    assert twin.user_tags("ci") == {"team": "ci", "case": "1"}
    assert twin.providers()[0].client_ids == ("one", "two")
    assert twin.role(CI.name) is not None
    assert twin.accessed_services(twin.role(CI.name).arn) == ()
    assert live.user_policy("ci", "deny") is None
    assert live.role(CI.name) is None
    assert live.user_tags("ci") == {"team": "ci"}
    assert live.providers()[0].client_ids == ("one",)
    assert world.state.accounts[ACCOUNT].trail == before
    assert [event.name for event in twin.trail(TrailKey.EVENT_NAME, "CreateRole", START)] == ["CreateRole"]


def test_a_mirror_refuses_what_the_live_account_refuses_and_a_file_of_one_does_not_invent(tmp_path):
    world = rich_world()
    world.state.accounts[ACCOUNT].denied = ["iam:GetAccountAuthorizationDetails"]
    path = tmp_path / "world.json"
    twin = mirror(world.platforms(), accounts=(ACCOUNT,), organizations=(), switches=NO_LAG, path=path)
    refused("AccessDenied", twin.aws[ACCOUNT].role, "admin")
    left = TwinWorld.load(path, switches=NO_LAG)
    assert left.state.version == VERSION
    refused("NotMirrored", left.aws[ACCOUNT].role, "admin")
    refused("NotMirrored", left.aws[ACCOUNT].providers)


# --- Permissions and faults -------------------------------------------------------------------------------------------

WRITES = {
    "put_user_policy": ("iam:PutUserPolicy", ("ci", "x", READ)),
    "delete_user_policy": ("iam:DeleteUserPolicy", ("ci", "read")),
    "put_role_policy": ("iam:PutRolePolicy", ("admin", "x", READ)),
    "delete_role_policy": ("iam:DeleteRolePolicy", ("admin", "own")),
    "tag_user": ("iam:TagUser", ("ci", "a", "b")),
    "untag_user": ("iam:UntagUser", ("ci", "team")),
    "create_provider": ("iam:CreateOpenIDConnectProvider", ("https://example.com", ("a",), {})),
    "add_client_id": ("iam:AddClientIDToOpenIDConnectProvider", (PROVIDER, "two")),
    "remove_client_id": ("iam:RemoveClientIDFromOpenIDConnectProvider", (PROVIDER, "one")),
    "delete_provider": ("iam:DeleteOpenIDConnectProvider", (PROVIDER,)),
    "create_role": ("iam:CreateRole", (CI,)),
    "update_trust": ("iam:UpdateAssumeRolePolicy", ("admin", deny_to_all())),
    "update_session_length": ("iam:UpdateRole", ("admin", 7200)),
    "tag_role": ("iam:TagRole", ("admin", "a", "b")),
    "attach_role_policy": ("iam:AttachRolePolicy", ("admin", "arn:aws:iam::aws:policy/X")),
    "detach_role_policy": ("iam:DetachRolePolicy", ("admin", f"arn:aws:iam::{ACCOUNT}:policy/acme-deploy")),
    "create_policy": ("iam:CreatePolicy", ("x", READ, {})),
    "delete_policy": ("iam:DeletePolicy", (SPARE,)),
    "delete_role": ("iam:DeleteRole", ("spare",)),
}


def without_trail(world):
    held = msgspec.json.decode(msgspec.json.encode(world.state.accounts[ACCOUNT]))
    held.pop("trail", None)
    return held


@pytest.mark.parametrize("operation", WRITES)
def test_a_write_that_is_denied_changes_nothing_and_leaves_its_event(operation):
    permission, arguments = WRITES[operation]
    world = rich_world()
    world.state.accounts[ACCOUNT].denied = [permission]
    before = without_trail(world)
    refused("AccessDenied", getattr(world.aws[ACCOUNT], operation), *arguments)
    assert without_trail(world) == before
    event = world.state.accounts[ACCOUNT].trail[-1]
    assert (event.name, event.error_code) == (permission.partition(":")[2], "AccessDenied")


@pytest.mark.parametrize("operation", WRITES)
def test_a_write_is_struck_by_the_faults_of_its_name(operation):
    arguments = WRITES[operation][1]
    for fault, effect in (("drop-request", Effect.UNKNOWN), ("throttle", Effect.NONE)):
        world = rich_world(faults=Faults([f"{fault}:{operation}"]))
        before = without_trail(world)
        with pytest.raises(AwsError) as caught:
            getattr(world.aws[ACCOUNT], operation)(*arguments)
        assert caught.value.effect is effect
        assert without_trail(world) == before
    world = rich_world(faults=Faults([f"drop-reply:{operation}"]))
    with pytest.raises(AwsError) as caught:
        getattr(world.aws[ACCOUNT], operation)(*arguments)
    assert caught.value.effect is Effect.UNKNOWN
    done = rich_world()
    getattr(done.aws[ACCOUNT], operation)(*arguments)
    assert without_trail(done) != before
    assert [event.name for event in world.state.accounts[ACCOUNT].trail] == [
        event.name for event in done.state.accounts[ACCOUNT].trail
    ]
