"""Nobody is sent a secret because a variable or a file said so."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from playbook.clients.endpoints import Override, aws_overrides, check_aws, circleci_host, is_loopback
from playbook.errors import UsageError


@pytest.mark.parametrize(
    ("flag", "environ", "expected"),
    [
        (None, {}, "https://circleci.com"),
        ("https://CircleCI.com/", {}, "https://circleci.com"),
        ("https://circleci.com:443", {}, "https://circleci.com"),
        ("http://127.0.0.1:8080", {}, "http://127.0.0.1:8080"),
        ("http://localhost:8080/", {}, "http://localhost:8080"),
        ("http://[::1]:8080", {}, "http://[::1]:8080"),
        (None, {"CIRCLE_HOST": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
        (None, {"CIRCLE_HOST": "http://127.0.0.1:1", "CIRCLECI_CLI_HOST": "http://127.0.0.1:2"}, "http://127.0.0.1:1"),
        (None, {"CIRCLECI_CLI_HOST": "http://127.0.0.1:2"}, "http://127.0.0.1:2"),
        ("http://127.0.0.1:3", {"CIRCLE_HOST": "https://evil.example"}, "http://127.0.0.1:3"),
    ],
)
def test_where_the_host_comes_from(flag, environ, expected):
    assert circleci_host(flag, environ) == expected


@pytest.mark.parametrize(
    "given_host",
    [
        "circleci.com",
        "ftp://circleci.com",
        "https://user:pass@circleci.com",
        "https://circleci.com@evil.example",
        "https://circleci.com/api/v2",
        "https://circleci.com/../evil",
        "https://circleci.com?x=1",
        "https://circleci.com#x",
        "https://circleci.com\\@evil.example",
        "https://circleci.com\r\nX: y",
        "https://circleci.com:99999",
        "https://circleci.com:0",
        "https://",
        "http://127.0.0.1@evil.example",
        "https://circl\u0435ci.com",
        "https://circleci.com.",
        "http://127.0.0.1:80:80",
    ],
)
def test_a_strange_host_is_refused_even_with_leave(given_host):
    with pytest.raises(UsageError) as caught:
        circleci_host(given_host, {}, allow_endpoint_override=True)
    assert "\r" not in str(caught.value)


@pytest.mark.parametrize(
    "given_host",
    ["https://ci.example.com", "https://evilcircleci.com", "https://169.254.169.254", "https://0x7f000001"],
)
def test_another_host_needs_leave(given_host):
    with pytest.raises(UsageError, match="--circleci-host sends calls to"):
        circleci_host(given_host, {})
    assert circleci_host(given_host, {}, allow_endpoint_override=True) == given_host


def test_another_host_needs_tls_even_with_leave():
    with pytest.raises(UsageError, match="without TLS"):
        circleci_host("http://ci.example.com", {}, allow_endpoint_override=True)


@seed(5)
@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("htps:/127.0localcie@\\#?[]x \n\u0430%"), max_size=40).map(lambda tail: f"http{tail}"))
@example("http://127.0.0.1#@evil.example/")
@example("http://localhost\t.evil.example")
def test_what_counts_as_loopback_is_loopback_to_a_url_parser_too(url):
    if is_loopback(url):
        parts = urlsplit(url)
        assert parts.hostname in {"localhost", "::1"} or parts.hostname.startswith("127.")
        assert parts.username is None


def test_every_way_to_redirect_aws_is_found(tmp_path):
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        "[default]\nendpoint_url = https://default.example\n"
        "[profile work]\nservices = mine\nendpoint_url = http://127.0.0.1:1\n"
        "[profile off]\nendpoint_url = https://off.example\nignore_configured_endpoint_urls = true\n"
        "[services mine]\niam =\n  endpoint_url = https://iam.example\nsqs =\n  endpoint_url = https://sqs.example\n"
    )
    credentials.write_text("[work]\nendpoint_url = https://credentials.example\n")
    environ = {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_ENDPOINT_URL": "https://all.example",
        "AWS_ENDPOINT_URL_IAM": "https://iam-env.example",
        "AWS_ENDPOINT_URL_SQS": "https://not-ours.example",
    }
    hosts = {urlsplit(override.url).hostname for override in aws_overrides(environ, ["work", "off"])}
    assert hosts == {"all.example", "iam-env.example", "127.0.0.1", "iam.example", "credentials.example"}
    assert "default.example" in {urlsplit(o.url).hostname for o in aws_overrides(environ, [])}
    assert aws_overrides({**environ, "AWS_PROFILE": "off"}, [])[2:] == []
    assert aws_overrides({**environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ["work"]) == []


def test_a_missing_file_is_empty_and_a_broken_one_is_named(tmp_path):
    assert aws_overrides({"AWS_CONFIG_FILE": str(tmp_path / "none")}, []) == []
    broken = tmp_path / "broken"
    broken.write_text("[profile x\nendpoint_url = y")
    with pytest.raises(UsageError, match="broken cannot be read"):
        aws_overrides({"AWS_CONFIG_FILE": str(broken)}, [])


def test_an_aws_override_off_this_machine_needs_leave_and_tls():
    check_aws([Override("AWS_ENDPOINT_URL", "http://127.0.0.1:5000")], allow_endpoint_override=False)
    abroad = [Override("AWS_ENDPOINT_URL_IAM", "https://iam.example")]
    with pytest.raises(UsageError, match=r"AWS_ENDPOINT_URL_IAM sends calls to https://iam\.example"):
        check_aws(abroad, allow_endpoint_override=False)
    check_aws(abroad, allow_endpoint_override=True)
    with pytest.raises(UsageError, match="without TLS"):
        check_aws([Override("x", "http://iam.example")], allow_endpoint_override=True)
