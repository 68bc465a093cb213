"""The published schema, where its extra is installed, and what is said where it is not."""

from __future__ import annotations

import pytest

from playbook import config_schema
from playbook.circleci_config.edit import parse
from playbook.config_schema import schema_findings

GOOD = "version: 2.1\njobs:\n  build:\n    docker: [{image: cimg/base:stable}]\n    steps: [checkout]\n"


@pytest.fixture
def fresh():
    config_schema._validator.cache_clear()
    yield
    config_schema._validator.cache_clear()


def test_a_configuration_that_keeps_it():
    assert schema_findings(parse(GOOD).data) == ()


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        (GOOD.replace("2.1", "7"), "version (enum)"),
        (GOOD + "orbs: [CANARY]\n", "orbs (type)"),
        (GOOD.replace("steps: [checkout]", "steps: CANARY"), "jobs.build (oneOf)"),
    ],
)
def test_a_breach_is_named_by_place_and_rule_and_quotes_nothing(changed, finding):
    found = schema_findings(parse(changed).data)
    assert finding in found
    assert "CANARY" not in "".join(found)


def test_it_knows_the_image_login_by_oidc():
    login = "{image: a, aws_auth: {oidc_role_arn: 'arn:aws:iam::123456789012:role/x'}}"
    both = "{image: a, aws_auth: {oidc_role_arn: x, aws_access_key_id: y}}"
    assert schema_findings(parse(GOOD.replace("{image: cimg/base:stable}", login)).data) == ()
    assert schema_findings(parse(GOOD.replace("{image: cimg/base:stable}", both)).data)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("missing", ["check_jsonschema", "jsonschema"])
def test_without_the_extra_nothing_is_claimed(monkeypatch, missing):
    there = config_schema.find_spec
    monkeypatch.setattr(config_schema, "find_spec", lambda name: None if name == missing else there(name))
    assert schema_findings(parse(GOOD).data) is None


@pytest.mark.usefixtures("fresh")
def test_the_schema_is_read_without_running_the_package_that_ships_it(monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "check_jsonschema", raising=False)
    assert schema_findings(parse(GOOD).data) == ()
    assert "check_jsonschema" not in sys.modules
