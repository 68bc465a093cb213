"""The AWS client against moto behind its gate, over real sockets."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from clients.scripted import error_of, everything_about, reply

from playbook.clients.aws import connect
from playbook.errors import AwsError, CredentialsError, Effect, UsageError
from playbook.ports import Identity, KeyStatus
from playbook.secret import Secret
from playbook.twins.moto_server import Fault, FaultKind, MotoServer

ONE, TWO = "111111111111", "222222222222"
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


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
    return moto


@pytest.fixture
def aws(server):
    accounts = connect(case_id="case-1")
    yield accounts.accounts[ONE]
    accounts.close()


def sent(server, operation):
    return list(server.requests(operation))


# --- who we are -------------------------------------------------------------------------------------------------------


def test_the_default_chain_is_one_account(server):
    accounts = connect(case_id="case-1")
    assert list(accounts.accounts) == [ONE]
    assert accounts.sources == {ONE: "the default AWS credentials"}
    assert [override.where for override in accounts.overrides] == ["AWS_ENDPOINT_URL"]
    aws = accounts.accounts[ONE]
    assert aws.identity().arn == f"arn:aws:iam::{ONE}:user/incident-responder"
    assert aws.own_key_id() in server.keys(ONE, "incident-responder")


def profiles_file(tmp_path, monkeypatch, **credentials):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    lines = []
    for name, credential in credentials.items():
        lines += [f"[{name}]", f"aws_access_key_id={credential.key_id}"]
        lines += [f"aws_secret_access_key={credential.secret.reveal()}"]
    (tmp_path / "aws-credentials").write_text("\n".join(lines))


def test_profiles_and_roles_lead_to_one_account_each(server, tmp_path, monkeypatch):
    profiles_file(tmp_path, monkeypatch, hub=server.operator(ONE), other=server.operator(TWO))
    role = "arn:aws:iam::333333333333:role/responders/rotate"
    accounts = connect(profiles=["hub", "other"], role_arns=[role], case_id="case-1")
    assert set(accounts.accounts) == {ONE, TWO, "333333333333"}
    assert accounts.sources[TWO] == "the AWS profile 'other'"
    assert accounts.sources["333333333333"] == f"the role {role}"
    third = accounts.accounts["333333333333"]
    assert third.own_key_id() == ""
    assert ":assumed-role/rotate/rotation-playbook-case-1" in third.identity().arn
    server.add_user("333333333333", "ci")
    assert [user.name for user in third.users()] == ["ci"]
    made = third.create_access_key("ci", tag="case-1/1")
    assert list(server.keys("333333333333", "ci")) == [made.key_id]
    assert len(sent(server, "AssumeRole")) == 1


def test_two_sources_for_one_account_are_refused(server, tmp_path, monkeypatch):
    profiles_file(tmp_path, monkeypatch, a=server.operator(ONE), b=server.operator(ONE))
    error = error_of(lambda: connect(profiles=["a", "b"], case_id="case-1"), UsageError)
    assert "'a'" in str(error)
    assert "'b'" in str(error)
    assert ONE in str(error)


def test_credentials_that_are_missing_unknown_or_rejected_say_so(server, tmp_path, monkeypatch):
    error = error_of(lambda: connect(profiles=["nobody"], case_id="c"), CredentialsError)
    assert "no such profile: the AWS profile 'nobody'" in str(error)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    error = error_of(lambda: connect(case_id="c"), CredentialsError)
    assert "SignatureDoesNotMatch" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAABCDEFGHIJKLMNOP")
    error = error_of(lambda: connect(case_id="c"), CredentialsError)
    assert "InvalidClientTokenId" in str(error)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = error_of(lambda: connect(case_id="c"), CredentialsError)
    assert "missing" in str(error)
    (tmp_path / "aws-config").write_text("[profile sso]\nsso_session = s\nsso_account_id = 1\nsso_role_name = r\n")
    error = error_of(lambda: connect(profiles=["sso"], case_id="c"), (CredentialsError, UsageError))
    assert "'sso'" in str(error)


def test_an_expired_sso_session_names_the_command_that_renews_it(server, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "aws-config").write_text(
        "[profile work]\nsso_session = s\nsso_account_id = 111111111111\nsso_role_name = r\n"
        "[sso-session s]\nsso_start_url = https://x.example/start\nsso_region = us-east-1\n"
    )
    error = error_of(lambda: connect(profiles=["work"], case_id="c"), CredentialsError)
    assert "aws sso login --profile work" in error.remedy


def test_a_role_that_may_not_be_assumed_is_a_matter_of_credentials(server):
    server.inject(Fault(operation="AssumeRole", kind=FaultKind.DENY))
    role = "arn:aws:iam::333333333333:role/rotate"
    error = error_of(lambda: connect(role_arns=[role], case_id="c"), CredentialsError)
    assert "AccessDenied" in str(error)
    assert "may assume" in error.remedy
    error = error_of(lambda: connect(role_arns=["arn:aws:iam::1:user/x"], case_id="c"), UsageError)
    assert "not the ARN of a role" in str(error)


def test_a_session_that_expires_in_mid_run_is_a_definite_no(aws, server):
    server.add_user(ONE, "ci")
    (own,) = [key for key in server.keys(ONE, "incident-responder") if key == aws.own_key_id()]
    server.set_status(ONE, "incident-responder", own, KeyStatus.INACTIVE)
    error = error_of(lambda: aws.create_access_key("ci", tag="t"), CredentialsError)
    assert "InvalidClientTokenId" in str(error)
    assert server.keys(ONE, "ci") == {}


def test_a_clock_that_is_off_is_named(serve, monkeypatch):
    body = "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>x</Message></Error></ErrorResponse>"
    server = serve(reply(body, 403, Date="Wed, 21 Oct 2015 07:28:00 GMT"))
    for name, value in {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "AKIA", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    error = error_of(lambda: connect(case_id="c"), CredentialsError)
    assert "minutes fast; set it right" in error.remedy


def test_an_endpoint_off_this_machine_needs_leave(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_IAM", "https://iam.example")
    error_of(lambda: connect(case_id="c"), UsageError)


def test_a_proxy_hears_nothing_of_a_loopback_call(server, serve, monkeypatch):
    trap = serve(reply("{}"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, trap.url)
    accounts = connect(case_id="c", role_arns=[f"arn:aws:iam::{TWO}:role/r"])
    accounts.accounts[ONE].users()
    accounts.accounts[TWO].users()
    assert trap.arrived == []


# --- reading ----------------------------------------------------------------------------------------------------------


def test_users_and_keys(aws, server):
    server.add_user(ONE, "ci-bot", path="/ci/")
    first, second = server.add_key(ONE, "ci-bot"), server.add_key(ONE, "ci-bot", active=False)
    found = {user.name: user for user in aws.users()}
    assert found["ci-bot"].arn == f"arn:aws:iam::{ONE}:user/ci/ci-bot"
    assert found["ci-bot"].created_at.tzinfo is UTC
    listing = aws.access_keys("ci-bot")
    assert {(key.id, key.status) for key in listing.keys} == {
        (first.key_id, KeyStatus.ACTIVE),
        (second.key_id, KeyStatus.INACTIVE),
    }
    assert abs(listing.server_time - datetime.now(UTC)) < timedelta(seconds=3)
    error = error_of(lambda: aws.access_keys("nobody"), AwsError)
    assert (error.code, error.status, error.effect) == ("NoSuchEntity", 404, Effect.NONE)


def test_last_used(aws, server):
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    unused = aws.last_used(key.key_id)
    assert (unused.at, unused.service, unused.region) == (None, "", "")
    own = aws.last_used(aws.own_key_id())
    assert own.service == "iam"
    assert own.at.tzinfo is UTC


def test_the_summary_and_our_permissions(aws, server):
    assert aws.summary()["AccessKeysPerUserQuota"] == 2
    asked = ["iam:CreateAccessKey", "iam:ListUsers", *(f"iam:Get{number}" for number in range(60))]
    assert aws.simulate(asked) == dict.fromkeys(asked, True)
    server.inject(Fault(operation="CreateAccessKey", kind=FaultKind.DENY, times=-1))
    assert aws.simulate(asked)["iam:CreateAccessKey"] is False
    server.inject(Fault(operation="SimulatePrincipalPolicy", kind=FaultKind.DENY))
    assert aws.simulate(asked) is None


def test_reads_are_repeated_and_writes_are_not(aws, server):
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    for kind in (FaultKind.THROTTLE, FaultKind.DROP_REQUEST, FaultKind.SERVER_ERROR, FaultKind.DROP_REPLY):
        server.inject(Fault(operation="ListAccessKeys", kind=kind))
        assert aws.access_keys("ci").find(key.key_id)
        for operation, call in (
            ("UpdateAccessKey", lambda: aws.set_key_status("ci", key.key_id, KeyStatus.ACTIVE)),
            ("DeleteAccessKey", lambda: aws.delete_access_key("ci", "AKIAABCDEFGHIJKLMNOP")),
        ):
            before = len(sent(server, operation))
            server.inject(Fault(operation=operation, kind=kind))
            error = error_of(call, AwsError)
            assert len(sent(server, operation)) == before + 1
            assert error.effect is (Effect.NONE if kind is FaultKind.THROTTLE else Effect.UNKNOWN)
            assert error.retryable


def test_a_denial_names_what_to_allow(aws, server):
    server.inject(
        Fault(operation="ListUsers", kind=FaultKind.DENY), Fault(operation="LookupEvents", kind=FaultKind.DENY)
    )
    error = error_of(aws.users, AwsError)
    assert (error.code, error.status, error.retryable) == ("AccessDenied", 403, False)
    assert "Allow ListUsers" in error.remedy
    assert error_of(lambda: aws.key_creations("ci", LONG_AGO), AwsError).code == "AccessDenied"


# --- writing ----------------------------------------------------------------------------------------------------------


def test_the_life_of_a_key(aws, server):
    server.add_user(ONE, "ci")
    made = aws.create_access_key("ci", tag="case-1/17")
    assert (made.account, made.user) == (ONE, "ci")
    assert server.accepts(made.key_id, made.secret)
    assert abs(made.server_time - made.created_at) < timedelta(seconds=2)
    at = aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    assert at.tzinfo is UTC
    assert server.keys(ONE, "ci") == {made.key_id: KeyStatus.INACTIVE}
    assert not server.accepts(made.key_id, made.secret)
    aws.set_key_status("ci", made.key_id, KeyStatus.INACTIVE)
    aws.delete_access_key("ci", made.key_id)
    assert server.keys(ONE, "ci") == {}
    error = error_of(lambda: aws.delete_access_key("ci", made.key_id), AwsError)
    assert (error.code, error.effect) == ("NoSuchEntity", Effect.NONE)


def test_the_third_key_is_a_definite_no(aws, server):
    server.add_user(ONE, "ci")
    server.add_key(ONE, "ci")
    server.add_key(ONE, "ci", active=False)
    error = error_of(lambda: aws.create_access_key("ci", tag="t"), AwsError)
    assert (error.code, error.effect, error.retryable) == ("LimitExceeded", Effect.NONE, False)
    assert "one of them must go first" in error.remedy


@pytest.mark.parametrize("user", ["", " ", "a/b", "a" * 65, "ci\n", "c\u0456"])
def test_a_doubtful_user_name_is_never_sent(aws, server, user):
    key = "AKIAABCDEFGHIJKLMNOP"
    for call in (
        lambda: aws.create_access_key(user, tag="t"),
        lambda: aws.set_key_status(user, key, KeyStatus.INACTIVE),
        lambda: aws.delete_access_key(user, key),
        lambda: aws.access_keys(user),
    ):
        assert error_of(call, AwsError).code == "BadUserName"
    assert error_of(lambda: aws.delete_access_key("ci", "ASIA"), AwsError).code == "BadKeyId"
    operations = {seen.operation for seen in server.requests()}
    assert operations == {"GetCallerIdentity"}


def test_a_lost_reply_to_a_create_is_one_request_and_an_unknown_effect(aws, server):
    for kind, keys in ((FaultKind.DROP_REPLY, 1), (FaultKind.SERVER_ERROR, 1), (FaultKind.DROP_REQUEST, 1)):
        user = f"ci-{kind.value}"
        server.add_user(ONE, user)
        before = len(sent(server, "CreateAccessKey"))
        server.inject(Fault(operation="CreateAccessKey", kind=kind))
        error = error_of(lambda user=user: aws.create_access_key(user, tag="t"), AwsError)
        assert error.effect is Effect.UNKNOWN
        assert len(sent(server, "CreateAccessKey")) == before + keys
        assert len(server.keys(ONE, user)) == (1 if kind is FaultKind.DROP_REPLY else 0)


def test_throttling_a_create_is_a_definite_no(aws, server):
    server.add_user(ONE, "ci")
    server.inject(Fault(operation="CreateAccessKey", kind=FaultKind.THROTTLE))
    error = error_of(lambda: aws.create_access_key("ci", tag="t"), AwsError)
    assert (error.code, error.effect, error.retryable) == ("Throttling", Effect.NONE, True)
    assert len(sent(server, "CreateAccessKey")) == 1


IDENTITY = (
    f"<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::{ONE}:user/ir</Arn><UserId>U</UserId>"
    f"<Account>{ONE}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)
SECRET = "cAnArY/" + "Zq9+" * 8 + "Q"
MADE = (
    '<CreateAccessKeyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><CreateAccessKeyResult><AccessKey>'
    "<UserName>ci</UserName><AccessKeyId>AKIAABCDEFGHIJKLMNOP</AccessKeyId><Status>Active</Status>"
    f"<SecretAccessKey>{SECRET}</SecretAccessKey><CreateDate>2026-01-01T00:00:00Z</CreateDate>"
    "</AccessKey></CreateAccessKeyResult></CreateAccessKeyResponse>"
)


def scripted_account(serve, monkeypatch, answers):
    """An account whose server answers a create with whatever `answers["made"]` holds."""
    server = serve(lambda arrived: reply(IDENTITY) if b"GetCallerIdentity" in arrived.body else answers["made"])
    for name, value in {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "AKIA", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    aws = connect(case_id="c").accounts[ONE]
    server.arrived.clear()
    return aws, server


def test_no_cut_reply_of_a_create_shows_the_secret(serve, monkeypatch, all_records):
    """Cut after every byte from the secret's first to its last and every seventh elsewhere, with a length that fits
    what arrived and with one that does not.
    """
    answers = {}
    aws, server = scripted_account(serve, monkeypatch, answers)
    answers["made"] = reply(MADE)
    assert aws.create_access_key("ci", tag="t").secret.reveal() == SECRET
    secret_at = MADE.index(SECRET)
    offsets = sorted({*range(0, len(MADE), 7), *range(secret_at, secret_at + len(SECRET) + 1)})
    parts = [SECRET[start : start + 8] for start in range(len(SECRET) - 8)]
    for offset in offsets:
        for length in (offset, len(MADE)):
            answers["made"] = reply(MADE[:offset], length=length)
            server.arrived.clear()
            error = error_of(lambda: aws.create_access_key("ci", tag="t"))
            assert isinstance(error, AwsError)
            assert error.effect is Effect.UNKNOWN
            assert error.__context__ is None
            assert len(server.arrived) == 1
            told = everything_about(error)
            assert not any(part in told for part in parts)
    told = "\n".join(all_records)
    assert not any(part in told for part in parts)
    print(f"{2 * len(offsets)} cut replies")


@pytest.mark.parametrize(
    "made",
    [
        reply("<html>502 Bad Gateway</html>", 502),
        reply(MADE, 302, Location="http://127.0.0.1:9/"),
        reply(MADE.replace("AKIA", "ASIA")),
        reply(MADE.replace("<UserName>ci<", "<UserName>other<")),
        reply(MADE.replace(SECRET, "")),
        reply("<CreateAccessKeyResponse/>"),
        reply(""),
        None,
    ],
)
def test_a_strange_reply_to_a_create_is_an_unknown_effect(serve, monkeypatch, made):
    aws, server = scripted_account(serve, monkeypatch, {"made": made})
    error = error_of(lambda: aws.create_access_key("ci", tag="t"))
    assert isinstance(error, AwsError)
    assert error.effect is Effect.UNKNOWN
    assert len(server.arrived) == 1
    assert SECRET not in everything_about(error)


def test_a_hostile_error_code_is_not_repeated(serve, monkeypatch):
    body = f"<ErrorResponse><Error><Code>\x1b{SECRET} x</Code><Message>{SECRET}</Message></Error></ErrorResponse>"
    aws, _ = scripted_account(serve, monkeypatch, {"made": reply(body, 400)})
    error = error_of(lambda: aws.create_access_key("ci", tag="t"))
    assert (error.code, error.effect) == ("Unreadable", Effect.UNKNOWN)
    body = body.replace("\x1b", "")
    aws, _ = scripted_account(serve, monkeypatch, {"made": reply(body, 400)})
    error = error_of(lambda: aws.create_access_key("ci", tag="t"))
    assert (error.code, error.effect) == ("Unrecognised", Effect.NONE)
    assert SECRET not in everything_about(error)


def test_a_host_that_cannot_be_reached_is_a_definite_no(serve, monkeypatch):
    aws, server = scripted_account(serve, monkeypatch, {"made": None})
    server.close()
    error = error_of(lambda: aws.create_access_key("ci", tag="t"), AwsError)
    assert (error.code, error.effect, error.retryable) == ("Unreachable", Effect.NONE, True)


def test_debug_logging_shows_no_secret(aws, server, all_records):
    server.add_user(ONE, "ci")
    made = aws.create_access_key("ci", tag="t")
    assert not any(made.secret.reveal() in record for record in all_records)
    assert not any(record.startswith(("botocore", "urllib3", "boto3")) for record in all_records)


# --- attribution ------------------------------------------------------------------------------------------------------


def test_cloudtrail_knows_our_request_by_its_tag(aws, server):
    server.add_user(ONE, "ci")
    server.add_user(ONE, "other")
    made = aws.create_access_key("ci", tag="case-1/17")
    aws.create_access_key("other", tag="case-1/18")
    (event,) = aws.key_creations("ci", LONG_AGO)
    assert event.key_id == made.key_id
    assert "case-1/17" in event.user_agent.split()
    assert event.source_address == "127.0.0.1"
    assert aws.key_creations("ci", datetime.now(UTC) + timedelta(hours=1)) == ()


def test_the_lost_key_is_attributed_too(aws, server):
    server.add_user(ONE, "ci")
    server.inject(Fault(operation="CreateAccessKey", kind=FaultKind.CUT_REPLY, at_byte=10))
    error_of(lambda: aws.create_access_key("ci", tag="case-1/19"), AwsError)
    (event,) = aws.key_creations("ci", LONG_AGO)
    assert [event.key_id] == list(server.keys(ONE, "ci"))
    assert "case-1/19" in event.user_agent.split()


def test_trail_pages_are_followed(aws, server):
    server.add_user(ONE, "ci")
    for number in range(60):
        made = aws.create_access_key("ci", tag=f"t/{number}")
        server.remove_key(ONE, "ci", made.key_id)
    assert len({event.key_id for event in aws.key_creations("ci", LONG_AGO)}) == 60


def test_a_tag_that_cannot_travel_is_refused(aws, server):
    server.add_user(ONE, "ci")
    for tag in ("a b", "a\nb", "caf\u00e9"):
        error_of(lambda tag=tag: aws.create_access_key("ci", tag=tag), UsageError)
    assert server.keys(ONE, "ci") == {}


# --- proof ------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_nobody_until_it_has_spread(server):
    accounts = connect(case_id="c")
    server.add_user(ONE, "ci")
    server.propagation_s = 0.4
    try:
        made = accounts.accounts[ONE].create_access_key("ci", tag="t")
        tries, started = 1, time.monotonic()
        while (identity := accounts.identify(made)) is None:
            tries += 1
            assert time.monotonic() - started < 5
    finally:
        server.propagation_s = 0
    assert (identity.account, identity.arn) == (ONE, f"arn:aws:iam::{ONE}:user/ci")
    assert tries > 1
    print(f"accepted at try {tries}")


def test_an_inactive_deleted_or_wrong_key_is_nobody_and_a_strangers_is_told(server):
    accounts = connect(case_id="c")
    server.add_user(ONE, "ci")
    server.add_user(ONE, "stranger")
    key, foreign = server.add_key(ONE, "ci"), server.add_key(ONE, "stranger")
    assert accounts.identify(key).arn.endswith("user/ci")
    wrong = type(key)(**{**vars_of(key), "secret": Secret("wrong" * 8)})
    assert accounts.identify(wrong) is None
    mixed = type(key)(**{**vars_of(foreign), "user": "ci"})
    assert accounts.identify(mixed).arn.endswith("user/stranger")
    server.set_status(ONE, "ci", key.key_id, KeyStatus.INACTIVE)
    assert accounts.identify(key) is None
    server.remove_key(ONE, "ci", key.key_id)
    assert accounts.identify(key) is None


def vars_of(credential):
    return {name: getattr(credential, name) for name in credential.__dataclass_fields__}


def test_an_outage_is_not_a_no(server):
    accounts = connect(case_id="c")
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    server.inject(Fault(operation="GetCallerIdentity", kind=FaultKind.DENY))
    error = error_of(lambda: accounts.identify(key), AwsError)
    assert error.code == "AccessDenied"
    assert key.secret.reveal() not in everything_about(error)


def test_regions_of_the_probe(aws, monkeypatch):
    assert aws.probe_regions() == ("us-east-1", "us-west-2")
    monkeypatch.setattr(aws, "_session", type("S", (), {"region_name": "eu-west-1"}))
    assert aws.probe_regions() == ("eu-west-1", "us-east-1")
    monkeypatch.setattr(aws, "_partition", "aws-cn")
    monkeypatch.setattr(aws, "_session", type("S", (), {"region_name": "cn-northwest-1"}))
    assert aws.probe_regions() == ("cn-northwest-1", "cn-north-1")
    assert aws.probe_regions(home_first=True)[0] == "cn-north-1"


def test_all_regions_must_agree(server, monkeypatch):
    accounts = connect(case_id="c")
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    monkeypatch.setattr(accounts, "overrides", ())
    opened = accounts._opened[ONE]
    asked, probe = [], opened.probe
    monkeypatch.setattr(opened, "probe", lambda credential, region: asked.append(region) or probe(credential, region))
    assert accounts.identify(key).arn.endswith("user/ci")
    assert asked == ["us-east-1", "us-west-2"]
    monkeypatch.setattr(
        opened, "probe", lambda credential, region: probe(credential, region) if "east" in region else None
    )
    assert accounts.identify(key) is None


def test_regions_that_disagree_name_nobody(server, monkeypatch):
    accounts = connect(case_id="c")
    server.add_user(ONE, "ci")
    key = server.add_key(ONE, "ci")
    monkeypatch.setattr(accounts, "overrides", ())
    names = {"us-east-1": "ci", "us-west-2": "other"}
    monkeypatch.setattr(
        accounts._opened[ONE],
        "probe",
        lambda _, region: Identity(account=ONE, arn=f"arn:aws:iam::{ONE}:user/{names[region]}"),
    )
    assert accounts.identify(key) is None


def test_lanes_write_side_by_side(aws, server):
    for number in range(8):
        server.add_user(ONE, f"ci-{number}")
    made, failed = {}, []

    def mint(number):
        try:
            made[number] = aws.create_access_key(f"ci-{number}", tag=f"t/{number}")
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=mint, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert all(list(server.keys(ONE, f"ci-{number}")) == [made[number].key_id] for number in range(8))
    tags = {seen.parameters["UserName"]: seen.user_agent.split()[-1] for seen in sent(server, "CreateAccessKey")}
    assert tags == {f"ci-{number}": f"t/{number}" for number in range(8)}
