"""What a user may do, put into a role: nothing lost, nothing won, or a refusal with numbers."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.errors import GuardError
from playbook.iam_policy import Effect, Statement, as_document, parse, size
from playbook.role_permissions import (
    FINDINGS,
    HeldPolicy,
    RoleLimits,
    Use,
    UserPolicies,
    copy_to_role,
    difference,
    draft,
    ecr_pull,
    findings,
    merge,
    use_of_event,
)

LIMITS = RoleLimits()
BUCKET = "arn:aws:s3:::acme-assets"


def document(*statements, version="2012-10-17"):
    return {"Version": version, "Statement": list(statements)}


def allow(action, resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action, resource="*", **more):
    return {**allow(action, resource, **more), "Effect": "Deny"}


def held(*policies, boundary=""):
    return UserPolicies(account="111122223333", user="ci-deploy", policies=policies, boundary=boundary)


def inline(*statements, name="own", group=""):
    return HeldPolicy(name=name, document=document(*statements), group=group)


def managed(name, *statements, group=""):
    return HeldPolicy(
        name=name, document=document(*statements), arn=f"arn:aws:iam::111122223333:policy/{name}", group=group
    )


def read(*documents):
    return [item for each in documents for item in parse(each, trust=False).statements]


# --- A little evaluator, written another way ------------------------------------------------------------------------


@cache
def fits(pattern, text):
    body = "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    return re.fullmatch(body, text, re.DOTALL) is not None


def applies(statement, action, resource, true_conditions):
    acts = any(
        fits(pattern.lower(), action.lower())
        for pattern in statement["Action" if "Action" in statement else "NotAction"]
    )
    on = any(fits(pattern, resource) for pattern in statement["Resource" if "Resource" in statement else "NotResource"])
    conditions = [
        (operator, key, tuple(sorted(values)))
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    ]
    return (
        acts is ("Action" in statement)
        and on is ("Resource" in statement)
        and all(condition in true_conditions for condition in conditions)
    )


def listed(statement):
    """The statement with every value as a list."""
    many = {name: [value] if isinstance(value, str) else value for name, value in statement.items() if name != "Effect"}
    block = many.pop("Condition", None)
    if block:
        many["Condition"] = {
            operator: {key: [value] if isinstance(value, str) else value for key, value in keys.items()}
            for operator, keys in block.items()
        }
    return {**many, "Effect": statement["Effect"]}


def decision(statements, action, resource, true_conditions=()):
    found = {item["Effect"] for item in statements if applies(item, action, resource, true_conditions)}
    return "Deny" if "Deny" in found else "Allow" if "Allow" in found else "nothing"


ACTIONS = ("s3:GetObject", "s3:GetObjectAcl", "s3:PutObject", "ec2:RunInstances", "ecr:GetAuthorizationToken")
RESOURCES = (BUCKET, f"{BUCKET}/a", f"{BUCKET}/a/b", "arn:aws:ec2:eu-west-1:1:instance/i-1", "*")
ACTION_PATTERNS = (
    "*",
    "s3:*",
    "s3:Get*",
    "S3:getobject",
    "s3:GetObject",
    "s3:PutObject",
    "ec2:*",
    "e*:*",
    "s3:?etObject",
)
RESOURCE_PATTERNS = (
    "*",
    f"{BUCKET}*",
    BUCKET,
    f"{BUCKET}/*",
    f"{BUCKET}/a",
    f"{BUCKET}/?",
    "arn:aws:ec2:*:1:instance/*",
    "arn:aws:*",
)
CONDITIONS = ({"StringEquals": {"k": "a"}}, {"StringEquals": {"k": ["a", "b"]}}, {"Bool": {"l": "true"}},
              {"StringEquals": {"k": "a"}, "Bool": {"l": "true"}})  # fmt: skip
ATOMS = (("StringEquals", "k", ("a",)), ("StringEquals", "k", ("a", "b")), ("Bool", "l", ("true",)))
ENVIRONMENTS = (set(), {ATOMS[0]}, {ATOMS[1]}, {ATOMS[0], ATOMS[2]}, set(ATOMS))
REQUESTS = list(itertools.product(ACTIONS, RESOURCES))


@st.composite
def statements(draw):
    item = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"])), "Sid": draw(st.sampled_from(["One", "Two"]))}
    item[draw(st.sampled_from(["Action", "Action", "NotAction"]))] = draw(
        st.lists(st.sampled_from(ACTION_PATTERNS), min_size=1, max_size=3)
    )
    item[draw(st.sampled_from(["Resource", "Resource", "NotResource"]))] = draw(
        st.lists(st.sampled_from(RESOURCE_PATTERNS), min_size=1, max_size=3)
    )
    if draw(st.booleans()):
        item["Condition"] = draw(st.sampled_from(CONDITIONS))
    return item


COUNTED = Counter()


@settings(max_examples=100, deadline=None)
@given(st.lists(statements(), min_size=1, max_size=6))
def test_merging_decides_every_request_as_before(items):
    merged = merge(read(document(*items)))
    after = [listed(item) for item in as_document(merged)["Statement"]]
    before = [listed(item) for item in items]
    for true_conditions in ENVIRONMENTS:
        for action, resource in REQUESTS:
            expected = decision(before, action, resource, true_conditions)
            COUNTED[expected] += 1
            assert decision(after, action, resource, true_conditions) == expected, (action, resource, true_conditions)
    assert size(as_document(merged)) <= size(document(*items))
    assert merge(merged) == merged


def test_the_merging_was_tried_on_every_kind_of_answer():
    test_merging_decides_every_request_as_before()
    print(f"decisions compared: {dict(COUNTED)}")
    assert min(COUNTED[kind] for kind in ("Allow", "Deny", "nothing")) > 1_000


def test_what_is_said_twice_is_said_once():
    merged = merge(
        read(
            document(allow("s3:GetObject", f"{BUCKET}/*", Sid="A")),
            document(allow(["s3:getobject", "s3:PutObject"], f"{BUCKET}/*", Sid="A")),
            document(allow("s3:Get*", [f"{BUCKET}/*", "arn:aws:s3:::other/*"])),
            document(allow("ec2:*"), allow("ec2:RunInstances", "arn:aws:ec2:*:*:instance/*")),
        )
    )
    assert as_document(merged)["Statement"] == [
        allow("s3:PutObject", f"{BUCKET}/*"),
        allow("s3:Get*", [f"{BUCKET}/*", "arn:aws:s3:::other/*"]),
        allow("ec2:*"),
    ]


def test_a_variable_is_covered_by_nothing_that_it_might_escape():
    home = "arn:aws:s3:::home/${aws:username}/*"
    for wide, covered in (
        ("arn:aws:s3:::home/*", True),
        ("*", True),
        ("arn:aws:s3:::home/*/*", False),
        ("arn:aws:s3:::home/$*", False),
        ("arn:aws:s3:::home/${*}", False),
        ("arn:*", False),
    ):
        merged = merge(read(document(allow("s3:GetObject", wide), allow("s3:GetObject", home))))
        kept = merged[0].resources
        assert (home not in kept) is covered, wide


def test_a_document_of_2008_keeps_its_dollars():
    old = HeldPolicy(name="old", document=document(allow("s3:GetObject", f"{BUCKET}/${{x}}"), version="2008-10-17"))
    made = copy_to_role(held(old), LIMITS)
    assert made.inline[0].document["Statement"][0]["Resource"] == f"{BUCKET}/${{$}}{{x}}"


# --- Fitting --------------------------------------------------------------------------------------------------------


def wide(name, count, *, service="s3"):
    return managed(
        name, allow([f"{service}:Action{name}{number}" for number in range(count)], f"arn:aws:{service}:::{name}/*")
    )


def test_what_fits_stays_as_it_is():
    boundary = "arn:aws:iam::111122223333:policy/limit"
    made = copy_to_role(
        held(
            managed("shared", allow("s3:GetObject"), group="ci"),
            managed("shared", allow("s3:GetObject"), group="deploy"),
            managed("own", allow("ec2:*")),
            inline(allow("sqs:SendMessage"), group="ci"),
            inline(deny("iam:*")),
            boundary=boundary,
        ),
        LIMITS,
    )
    assert made.attached == ("arn:aws:iam::111122223333:policy/shared", "arn:aws:iam::111122223333:policy/own")
    assert made.boundary == boundary
    assert made.managed == ()
    assert made.inline[0].document["Statement"] == [allow("sqs:SendMessage"), deny("iam:*")]
    assert made.inline[0].size == len(json.dumps(made.inline[0].document, separators=(",", ":")))


def test_too_many_attached_policies_are_written_out_the_smallest_first():
    policies = [wide(f"p{number:02}", 3 + number) for number in range(13)]
    made = copy_to_role(held(*policies), LIMITS)
    assert made.attached == tuple(policy.arn for policy in policies[3:])
    actions = {action for statement in made.statements for action in statement.actions}
    assert actions == {action for policy in policies[:3] for action in read(policy.document)[0].actions}


def test_what_is_too_long_inline_goes_into_new_managed_policies():
    many = [
        allow([f"svc{number}:Action{index}" for index in range(20)], f"arn:aws:svc{number}:::x/*")
        for number in range(40)
    ]
    made = copy_to_role(held(inline(*many)), LIMITS)
    assert made.managed
    assert sum(policy.size for policy in made.inline) <= LIMITS.inline_size
    assert all(policy.size <= LIMITS.managed_size for policy in made.managed)
    assert len(made.managed) <= LIMITS.attachments
    assert len({policy.name for policy in (*made.inline, *made.managed)}) == len(made.managed) + 1
    before, after = read(document(*many)), made.statements
    assert {(action, item.resources) for item in before for action in item.actions} == {
        (action, item.resources) for item in after for action in item.actions
    }
    print(f"{size(document(*many))} characters: inline {made.inline[0].size}, managed {[p.size for p in made.managed]}")


def test_one_statement_longer_than_any_policy_is_cut():
    long = allow(
        [f"svc:Action{index}" for index in range(60)], [f"arn:aws:svc:::thing{index}/*" for index in range(900)]
    )
    made = copy_to_role(held(inline(long)), LIMITS)
    pairs = Counter(
        (action, resource) for item in made.statements for action in item.actions for resource in item.resources
    )
    assert len(pairs) == 60 * 900
    assert set(pairs.values()) == {1}


def test_what_does_not_fit_is_refused_with_numbers():
    policies = [wide(f"p{number:02}", 200) for number in range(20)]
    own = inline(*(allow([f"svc{n}:Action{index}" for index in range(40)], f"arn:aws:svc{n}:::x/*") for n in range(15)))
    with pytest.raises(GuardError) as refused:
        copy_to_role(held(*policies, own), LIMITS)
    print(refused.value.message)
    for part in (r"20 managed policies", r"\d{5} characters", r"10 attached", r"6144", r"10240", "No role was made"):
        assert re.search(part, refused.value.message), part
    with pytest.raises(GuardError):
        copy_to_role(held(inline({**allow("x:*"), "NotResource": ["r" * 11_000]} | {"Resource": None})), LIMITS)


def test_a_statement_that_cannot_be_cut_and_does_not_fit_is_refused():
    long = {"Effect": "Allow", "NotAction": [f"svc:Action{index}" for index in range(1000)], "Resource": "*"}
    with pytest.raises(GuardError, match="does not fit"):
        copy_to_role(held(inline(long)), LIMITS)


def test_limits_are_read_from_the_account():
    summary = {"RolePolicySizeQuota": 5, "PolicySizeQuota": 6, "AttachedPoliciesPerRoleQuota": 20}
    assert RoleLimits.of(summary) == RoleLimits(inline_size=5, managed_size=6, attachments=20)
    assert RoleLimits.of({}) == LIMITS


def test_a_user_without_policies_makes_a_role_without():
    assert copy_to_role(held(), LIMITS).statements == ()


# --- Findings -------------------------------------------------------------------------------------------------------

ODD = [
    (allow("s3:*", "arn:aws:s3:::home/${aws:username}/*"), {"user-name"}),
    (allow("s3:*", Condition={"StringEquals": {"aws:username": "ci"}}), {"user-name"}),
    (deny("s3:*", Condition={"StringNotEquals": {"aws:UserName": "ci"}}), {"user-name"}),
    (allow("s3:*", "arn:aws:s3:::${aws:userid}"), {"user-id"}),
    (deny("*", Condition={"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}}), {"mfa"}),
    (deny("*", Condition={"DateLessThan": {"aws:TokenIssueTime": "2026-01-01T00:00:00Z"}}), {"session-time"}),
    (allow("s3:*", Condition={"StringEquals": {"aws:PrincipalTag/team": "a"}}), {"principal"}),
    (allow("s3:*", Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::1:user/ci"}}), {"principal"}),
    (allow("iam:ChangePassword", "arn:aws:iam::1:user/ci-deploy"), {"own-user"}),
    (allow("iam:*MFADevice", "arn:aws:iam::*:mfa/${aws:username}"), {"own-user", "user-name"}),
    (allow("sts:GetSessionToken"), {"session-calls"}),
    ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, {"not-action"}),
    ({"Effect": "Deny", "NotAction": "iam:*", "Resource": "*"}, set()),
    (allow("s3:GetObject", f"{BUCKET}/*", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), set()),
    (allow("*"), set()),
]


@pytest.mark.parametrize(("item", "expected"), ODD, ids=range(len(ODD)))
def test_what_means_something_else_for_a_role_is_named(item, expected):
    policy = inline(allow("ec2:DescribeInstances"), item, group="ci")
    found = findings(held(policy))
    assert {finding.code for finding in found} == expected
    for finding in found:
        assert finding.statement == 2
        assert finding.sentence.startswith("own of group ci, statement 2: ")
        assert finding.sentence.endswith(".")
    assert copy_to_role(held(policy), LIMITS).findings == found


def test_the_boundary_is_looked_at_and_kept_as_it_is():
    limit = "arn:aws:iam::111122223333:policy/limit"
    inside = replace(held(boundary=limit), boundary_document=document(allow("s3:*", "arn:aws:s3:::${aws:username}")))
    made = copy_to_role(inside, LIMITS)
    assert made.boundary == limit
    assert made.attached == ()
    assert [finding.policy for finding in made.findings] == ["the boundary"]


def test_every_finding_is_explained_in_the_documents_in_its_own_words():
    page = (Path(__file__).parents[1] / "docs" / "role-permissions.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert told == dict(FINDINGS)


def test_the_limits_of_the_documents_are_the_defaults():
    page = (Path(__file__).parents[1] / "docs" / "role-permissions.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| [a-z ,]+ \| ([\d,]+) \| `(\w+)` \|$", page, re.MULTILINE)
    summary = {name: int(value.replace(",", "")) for value, name in told}
    assert len(summary) == 3
    assert RoleLimits.of(summary) == LIMITS
    assert RoleLimits.of(dict.fromkeys(summary, 1)) == RoleLimits(inline_size=1, managed_size=1, attachments=1)


def test_every_finding_is_shown():
    assert set().union(*(expected for _, expected in ODD)) == set(FINDINGS)


def test_a_finding_says_whether_it_allows_or_denies_more():
    [never] = findings(held(inline(allow("s3:*", Condition={"StringEquals": {"aws:username": "ci"}}))))
    assert "never holds then, so it allows nothing" in never.sentence
    [always] = findings(held(inline(deny("s3:*", Condition={"StringNotLike": {"aws:username": "ci"}}))))
    assert "always holds then, so it denies more" in always.sentence
    [null] = findings(held(inline(allow("s3:*", Condition={"Null": {"aws:username": "true"}}))))
    assert "always holds" in null.sentence


# --- Least privilege ------------------------------------------------------------------------------------------------


def test_a_draft_keeps_what_was_used_its_conditions_and_every_denial():
    copied = read(
        document(
            allow("s3:*", [BUCKET, f"{BUCKET}/*"], Condition={"Bool": {"aws:SecureTransport": "true"}}),
            allow(["ec2:RunInstances", "ec2:TerminateInstances"]),
            allow(["sqs:*", "sns:Publish"]),
            deny("s3:DeleteBucket"),
        )
    )
    uses = [
        use_of_event("s3.amazonaws.com", "GetObject", f"{BUCKET}/a"),
        use_of_event("ec2.amazonaws.com", "RunInstances"),
        Use(service="sns"),
        use_of_event("iam.amazonaws.com", "CreateUser"),
    ]
    made = draft(copied, uses)
    assert made.document["Statement"] == [
        allow("s3:GetObject", f"{BUCKET}/a", Condition={"Bool": {"aws:SecureTransport": "true"}}),
        allow(["ec2:RunInstances", "sns:Publish"]),
        deny("s3:DeleteBucket"),
    ]
    assert made.unexplained == (Use(service="iam", action="CreateUser"),)
    shown = difference(copied, made.statements)
    assert '-        "ec2:TerminateInstances"' in shown
    assert "sns:Publish" in shown
    assert difference(copied, copied) == ""


def test_nothing_used_is_nothing_allowed():
    made = draft(read(document(allow("*"))), [])
    assert made.statements == ()
    assert made.document is None


USES = st.builds(
    Use,
    service=st.sampled_from(["s3", "ec2", "ecr", "iam"]),
    action=st.sampled_from(["", "GetObject", "PutObject", "RunInstances", "GetAuthorizationToken"]),
    resource=st.sampled_from(["", *RESOURCES]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(statements(), min_size=1, max_size=5), st.lists(USES, max_size=4))
def test_a_draft_is_never_wider_and_allows_what_was_used_and_allowed(items, uses):
    made = draft(read(document(*items)), uses)
    before = [listed(item) for item in items]
    after = [listed(item) for item in as_document(made.statements)["Statement"]]
    for true_conditions in (set(), set(ATOMS)):
        for action, resource in REQUESTS:
            then, now = (decision(each, action, resource, true_conditions) for each in (before, after))
            used = any(
                use.service == action.split(":")[0]
                and use.action in {"", action.split(":")[1]}
                and use.resource in {"", "*", resource}
                for use in uses
            )
            assert now == then or (then == "Allow" and now == "nothing" and not used), (action, resource)


@pytest.mark.parametrize(
    ("source", "name", "action"),
    [
        ("s3.amazonaws.com", "ListBuckets", "s3:ListAllMyBuckets"),
        ("s3.amazonaws.com", "HeadObject", "s3:GetObject"),
        ("lambda.amazonaws.com", "UpdateFunctionCode20150331v2", "lambda:UpdateFunctionCode"),
        ("monitoring.amazonaws.com", "PutMetricData", "cloudwatch:PutMetricData"),
        ("ecr.amazonaws.com", "GetAuthorizationToken", "ecr:GetAuthorizationToken"),
    ],
)
def test_an_event_is_read_as_the_action_that_allows_it(source, name, action):
    use = use_of_event(source, name)
    assert f"{use.service}:{use.action}" == action


# --- Images ---------------------------------------------------------------------------------------------------------


def test_pulling_images_takes_three_actions_or_four():
    repository = "arn:aws:ecr:eu-west-1:111122223333:repository/web"
    token, layers = ecr_pull((repository,))
    assert token == Statement(effect=Effect.ALLOW, actions=("ecr:GetAuthorizationToken",), resources=("*",))
    assert set(layers.actions) == {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    assert layers.resources == (repository,)
    assert "ecr:BatchCheckLayerAvailability" in ecr_pull(docker=True)[1].actions
    made = copy_to_role(held(inline(allow("ecr:*"))), LIMITS, extra=ecr_pull((repository,)))
    assert made.inline[0].document["Statement"] == [allow("ecr:*")]
    made = copy_to_role(held(), replace(LIMITS), extra=ecr_pull((repository,)))
    assert len(made.statements) == 2
