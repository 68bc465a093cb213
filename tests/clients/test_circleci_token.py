"""Where the token comes from: one source, named; two different values are an error; the value is never shown."""

from __future__ import annotations

import io

import pytest
from clients.scripted import error_of

from playbook.clients.credentials import ENVIRONMENT, find_circleci_token
from playbook.errors import UsageError


def find(tmp_path, environ=None, **given):
    warnings = []
    found = find_circleci_token(environ=environ or {}, home=tmp_path, warn=warnings.append, **given)
    return (found[0].reveal(), found[1], warnings) if found else None


def private(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_nothing_is_none(tmp_path):
    assert find(tmp_path, {"CIRCLE_TOKEN": ""}) is None


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_each_variable_counts(tmp_path, name):
    assert find(tmp_path, {name: "tok-1\n"}) == ("tok-1", name, [])


def test_the_same_value_twice_is_no_conflict_and_the_first_source_is_named(tmp_path):
    assert find(tmp_path, {"CIRCLECI_CLI_TOKEN": "a", "CIRCLE_TOKEN": "a"}) == ("a", "CIRCLE_TOKEN", [])


def test_two_values_name_both_sources_and_neither_value(tmp_path):
    one, two = "ONE" * 4, "TWO" * 4
    path = private(tmp_path / "token", f"{one}\n")
    error = error_of(lambda: find(tmp_path, {"CIRCLECI_TOKEN": two}, token_file=path), UsageError)
    assert str(path) in str(error)
    assert "CIRCLECI_TOKEN" in str(error)
    assert one not in f"{error!r} {error} {error.remedy}"
    assert two not in f"{error!r} {error} {error.remedy}"


def test_standard_input_counts_as_set(tmp_path):
    assert find(tmp_path, token_stdin=io.StringIO("abc\n"))[:2] == ("abc", "--circleci-token-stdin")
    with pytest.raises(UsageError, match="two different"):
        find(tmp_path, {"CIRCLE_TOKEN": "x"}, token_stdin=io.StringIO("abc\n"))


def test_a_file_others_can_read_is_used_with_a_warning(tmp_path):
    path = private(tmp_path / "token", "abc\n")
    path.chmod(0o640)
    value, source, warnings = find(tmp_path, token_file=path)
    assert (value, source) == ("abc", f"--circleci-token-file {path}")
    assert len(warnings) == 1
    assert "chmod 600" in warnings[0]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        find(tmp_path, token_file=tmp_path / "none")


@pytest.mark.parametrize("bad", ["", "\n", "a b", "a\nb", "a\tb", "\x1b[31m", "tök", "x" * 2000, " a"])
def test_what_is_no_token_is_refused_unprinted(tmp_path, bad):
    path = private(tmp_path / "token", bad)
    with pytest.raises(UsageError, match="does not hold a token") as caught:
        find(tmp_path, token_file=path)
    assert len(bad) < 3 or bad not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host: https://circleci.com\ntoken: abc123\n", "abc123"),
        ("token: 'abc'\n", "abc"),
        ('token: "abc" # mine\n', "abc"),
        ("token: abc   # mine\r\n", "abc"),
        ("token:\nhost: x\n", None),
        ('token: ""\n', None),
        ("token: null\n", None),
        ("nested:\n  token: abc\n", None),
        ("mytoken: abc\n", None),
        ("host: x\n", None),
    ],
)
def test_the_tools_settings_file_is_the_last_resort(tmp_path, text, expected):
    path = private(tmp_path / ".circleci" / "cli.yml", text)
    found = find(tmp_path)
    assert found == ((expected, str(path), []) if expected else None)
    assert find(tmp_path, {"CIRCLE_TOKEN": "fresh"})[:2] == ("fresh", "CIRCLE_TOKEN")


@pytest.mark.parametrize("text", ["token: &a abc\n", "token: |\n  abc\n", "token: !!str abc\n", "token: a\ntoken: b\n"])
def test_a_settings_file_that_needs_yaml_is_refused(tmp_path, text):
    private(tmp_path / ".circleci" / "cli.yml", text)
    with pytest.raises(UsageError, match="one plain line"):
        find(tmp_path)


def test_the_newer_tools_file_is_found_where_xdg_says_and_must_agree(tmp_path):
    new = private(tmp_path / "xdg" / "circleci" / "config.yml", "token: new\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert find(tmp_path, environ)[:2] == ("new", str(new))
    private(tmp_path / ".circleci" / "cli.yml", "token: old\n")
    with pytest.raises(UsageError, match="two different"):
        find(tmp_path, environ)
