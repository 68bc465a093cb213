"""What was made, as Terraform and CloudFormation: both say the same as the data, and adopt what exists."""

from __future__ import annotations

import json
import re

import hcl2
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.worlds import ACCOUNT, GOOD, MADE, ORGANIZATION, PROVIDER

from playbook.errors import GuardError
from playbook.infrastructure_code import (
    InfrastructureCode,
    ManagedPolicyCode,
    ProviderCode,
    RoleCode,
    cloudformation,
    cloudformation_import,
    hcl_text,
    terraform,
)

HOME = "arn:aws:s3:::home/${aws:username}/%{x}/*"
TRICKY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": 'quotes " and \\ back',
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": [HOME, "$${literal}", "$", "%%{a", "täglich", "line\nbreak\ttab"],
            "Condition": {
                "Bool": {"aws:SecureTransport": True},
                "NumericLessThan": {"s3:max-keys": 10},
                "Null": {"x": "true"},
            },
        }
    ],
}
PLAIN = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "iam:*", "Resource": "*"}]}
EXTRA = f"arn:aws:iam::{ACCOUNT}:policy/ci/copied-from-user-1"
CODE = InfrastructureCode(
    providers=(
        ProviderCode(
            arn=PROVIDER,
            url=f"https://oidc.circleci.com/org/{ORGANIZATION}",
            audiences=(ORGANIZATION,),
            tags=(("made-by", "rotation-playbook"),),
        ),
    ),
    policies=(ManagedPolicyCode(arn=EXTRA, name="copied-from-user-1", path="/ci/", document=TRICKY),),
    roles=(
        RoleCode(
            name="circleci-web",
            trust=MADE["a branch limit for one of two"],
            inline=(("copied-from-user", TRICKY), ("denials", PLAIN)),
            attached=("arn:aws:iam::aws:policy/ReadOnlyAccess", EXTRA),
            boundary=f"arn:aws:iam::{ACCOUNT}:policy/limit",
            max_session_s=7200,
            description="Deploys ${web} from CircleCI",
            tags=(("case", "SEC-1234"), ('we"ird ${key}', "%{value}")),
        ),
        RoleCode(name="circleci.web", trust=MADE["by project id"]),
    ),
)  # fmt: skip


# --- Reading it back ------------------------------------------------------------------------------------------------


def unquoted(text):
    """A text of HCL as the text it stands for."""
    assert text[0] == text[-1] == '"', text
    assert not re.search(r"(?:^|[^$])\$\{|(?:^|[^%])%\{|\${3}\{|%{3}\{", text), "it might be read as a template"
    return json.loads(re.sub(r"([$%])\1\{", r"\1{", text))


def value_of(node):
    """What a value of HCL stands for; a `jsonencode(...)` is read by the parser as an expression."""
    if isinstance(node, dict):
        return {unquoted(key) if key[0] == '"' else key: value_of(item) for key, item in node.items()}
    if isinstance(node, list):
        return [value_of(item) for item in node]
    if isinstance(node, str) and node[:1] == '"':
        return unquoted(node)
    return node


def documents_of(text):
    """The argument of each `jsonencode`, parsed as HCL by itself, in order."""
    arguments = re.findall(r"= jsonencode\((\{.*?\n  \})\)\n", text, re.DOTALL)
    return [value_of(hcl2.loads(f"x = {argument}\n")["x"]) for argument in arguments]


def resources_of(text):
    parsed = hcl2.loads(text)
    return {
        (unquoted(kind), unquoted(label)): {key: item for key, item in body.items() if not key.startswith("__")}
        for block in parsed["resource"]
        for kind, labels in block.items()
        for label, body in labels.items()
    }, [(block["to"].strip("${}"), unquoted(block["id"])) for block in parsed["import"]]


def test_terraform_says_what_the_data_says():
    text = terraform(CODE)
    resources, imports = resources_of(text)
    assert documents_of(text) == [TRICKY, MADE["a branch limit for one of two"], TRICKY, PLAIN, MADE["by project id"]]
    provider = resources["aws_iam_openid_connect_provider", f"circleci_{ORGANIZATION[:8]}"]
    assert value_of(provider["url"]) == f"https://oidc.circleci.com/org/{ORGANIZATION}"
    assert value_of(provider["client_id_list"]) == [ORGANIZATION]
    [role] = [body for (kind, _), body in resources.items() if kind == "aws_iam_role" and "description" in body]
    assert value_of(role["name"]) == "circleci-web"
    assert value_of(role["description"]) == "Deploys ${web} from CircleCI"
    assert role["max_session_duration"] == 7200
    assert value_of(role["permissions_boundary"]) == f"arn:aws:iam::{ACCOUNT}:policy/limit"
    assert value_of(role["tags"]) == {"case": "SEC-1234", 'we"ird ${key}': "%{value}"}
    print(f"{len(resources)} resources, {len(imports)} imports, {len(text)} characters")


def test_terraform_adopts_every_resource_by_the_id_it_is_known_by():
    resources, imports = resources_of(terraform(CODE))
    assert [to for to, _ in imports] == [".".join(link) for link in resources]
    assert len({to for to, _ in imports}) == len(imports) == 8
    assert {id_ for _, id_ in imports} == {
        PROVIDER,
        EXTRA,
        "circleci-web",
        "circleci.web",
        "circleci-web:copied-from-user",
        "circleci-web:denials",
        "circleci-web/arn:aws:iam::aws:policy/ReadOnlyAccess",
        f"circleci-web/{EXTRA}",
    }


def test_a_policy_of_ours_is_referred_to_and_one_of_others_is_named():
    text = terraform(CODE)
    assert "policy_arn = aws_iam_policy.policy_copied_from_user_1.arn\n" in text
    assert 'policy_arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"\n' in text
    resources = json.loads(cloudformation(CODE))["Resources"]
    [role] = [item for item in resources.values() if item["Properties"].get("RoleName") == "circleci-web"]
    assert role["Properties"]["ManagedPolicyArns"] == [
        "arn:aws:iam::aws:policy/ReadOnlyAccess",
        {"Ref": "PolicyCopiedFromUser1"},
    ]


def test_cloudformation_says_what_the_data_says_and_reads_no_variable():
    text = cloudformation(CODE)
    template = json.loads(text)
    assert yaml.safe_load(text) == template
    resources = template["Resources"]
    assert {item["Type"] for item in resources.values()} == {
        "AWS::IAM::OIDCProvider", "AWS::IAM::ManagedPolicy", "AWS::IAM::Role",
    }  # fmt: skip
    assert all(item["DeletionPolicy"] == "Retain" for item in resources.values())
    assert "Fn::Sub" not in text
    [policy] = [item["Properties"] for item in resources.values() if item["Type"] == "AWS::IAM::ManagedPolicy"]
    assert policy == {"ManagedPolicyName": "copied-from-user-1", "Path": "/ci/", "PolicyDocument": TRICKY}
    [role] = [item["Properties"] for item in resources.values() if item["Properties"].get("RoleName") == "circleci-web"]
    assert role["AssumeRolePolicyDocument"] == MADE["a branch limit for one of two"]
    assert role["Policies"][0] == {"PolicyName": "copied-from-user", "PolicyDocument": TRICKY}
    assert role["PermissionsBoundary"] == f"arn:aws:iam::{ACCOUNT}:policy/limit"
    assert role["MaxSessionDuration"] == 7200
    assert {"Key": "case", "Value": "SEC-1234"} in role["Tags"]
    bare = next(
        item["Properties"] for item in resources.values() if item["Properties"].get("RoleName") == "circleci.web"
    )
    assert set(bare) == {"RoleName", "Path", "MaxSessionDuration", "AssumeRolePolicyDocument"}


def test_cloudformation_imports_every_resource_of_its_template():
    resources = json.loads(cloudformation(CODE))["Resources"]
    imports = json.loads(cloudformation_import(CODE))
    assert {(item["LogicalResourceId"], item["ResourceType"]) for item in imports} == {
        (label, item["Type"]) for label, item in resources.items()
    }
    assert [item["ResourceIdentifier"] for item in imports] == [
        {"Arn": PROVIDER}, {"PolicyArn": EXTRA}, {"RoleName": "circleci-web"}, {"RoleName": "circleci.web"},
    ]  # fmt: skip
    assert all(re.fullmatch(r"[A-Za-z0-9]{1,255}", label) for label in resources)


def test_names_that_look_alike_get_labels_that_do_not():
    names = ("a-b", "a.b", "a_b", "A-b", "x" * 64, "x" * 63 + "y")
    code = InfrastructureCode(roles=tuple(RoleCode(name=name, trust=PLAIN) for name in names))
    resources, _ = resources_of(terraform(code))
    assert len(resources) == len(names)
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*", label) for _, label in resources)
    assert len(json.loads(cloudformation(code))["Resources"]) == len(names)


def test_the_same_data_is_the_same_text():
    assert terraform(CODE) == terraform(CODE)
    assert terraform(InfrastructureCode()) == ""
    assert json.loads(cloudformation_import(InfrastructureCode())) == []


def test_what_is_named_twice_is_refused():
    role = RoleCode(name="twice", trust=PLAIN)
    with pytest.raises(GuardError, match="role twice is named twice"):
        InfrastructureCode(roles=(role, role))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('$%{}"\\ ~\n', max_size=12))
def test_no_text_is_read_as_a_template(value):
    written = hcl_text(value)
    assert "\n" not in written
    assert set(re.findall(r"\\(.)", written)) <= set('nrtu"\\')
    assert unquoted(written) == value


def test_every_policy_that_is_made_comes_through_both():
    for name, grant in GOOD.items():
        code = InfrastructureCode(roles=(RoleCode(name="role", trust=MADE[name]),))
        assert documents_of(terraform(code)) == [MADE[name]], grant
        [role] = json.loads(cloudformation(code))["Resources"].values()
        assert role["Properties"]["AssumeRolePolicyDocument"] == MADE[name]
