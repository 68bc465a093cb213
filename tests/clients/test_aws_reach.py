"""What a user's policies allow at most, and everything that narrows it, in words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.clients.aws_details import Details
from playbook.clients.aws_reach import (
    CONDITION,
    EVERYTHING,
    IAM_WRITE,
    NEARLY_EVERYTHING,
    OF_AWS,
    RESOURCES,
    UNREAD,
    Policy,
    grants,
    reach,
)

ACCOUNT = "123456789012"
MFA = {"Bool": {"aws:MultiFactorAuthPresent": "true"}}
OFFICE = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}


def allow(action, **more):
    return {"Effect": "Allow", "Action": action, "Resource": "*", **more}


def deny(action, **more):
    return {"Effect": "Deny", "Action": action, "Resource": "*", **more}


def policy(*statements, where="policy p"):
    return Policy(where=where, document={"Version": "2012-10-17", "Statement": list(statements)})


# --- One document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([allow("*")], EVERYTHING),
        ([allow(["s3:GetObject", "*"])], EVERYTHING),
        ([allow("*:*")], EVERYTHING),
        (allow("*"), EVERYTHING),  # one statement that is no list
        ([allow("iam:*")], IAM_WRITE),
        ([allow("IAM:CreateAccessKey")], IAM_WRITE),
        ([allow("iam:Create*")], IAM_WRITE),
        ([allow("i?m:put*")], IAM_WRITE),
        ([{"Effect": "Allow", "NotAction": ["iam:*"], "Resource": "*"}], NEARLY_EVERYTHING),
        ([allow("iam:CreateUser"), allow("*")], EVERYTHING),
        ([allow("*", Resource=["arn:aws:s3:::a", "*"])], EVERYTHING),
        ([{"Effect": "Allow", "Action": "*"}], EVERYTHING),
        (["garbage"], UNREAD),
    ],
)
def test_a_right_that_nothing_narrows(statements, expected):
    assert grants({"Version": "2012-10-17", "Statement": statements}) == ((expected, ()),)


@pytest.mark.parametrize(
    "statements",
    [
        [],
        [allow(None)],
        [allow("s3:*")],
        [allow("[a-z]*")],  # no range in IAM
        [allow("iam:PassRole")],
        [allow(["iam:Get*", "iam:List*"])],
        [deny("*")],
    ],
)
def test_what_is_not_worth_telling(statements):
    assert grants({"Statement": statements}) == ()


@pytest.mark.parametrize(
    ("statement", "limits"),
    [
        (allow("*", Condition=OFFICE), (CONDITION,)),
        (allow("*", Condition={}), ()),
        (allow("*", Resource="arn:aws:s3:::bucket/*"), (RESOURCES,)),
        (allow("*", Resource=["arn:aws:s3:::a", "arn:aws:s3:::b"], Condition=MFA), (CONDITION, RESOURCES)),
        ({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::bucket"}, (RESOURCES,)),
    ],
)
def test_what_narrows_a_right_within_its_statement(statement, limits):
    assert grants({"Statement": statement}) == ((EVERYTHING, limits),)


def test_the_least_narrow_statement_counts_and_what_is_weaker_than_an_open_right_is_left_out():
    both = [allow("*", Condition=MFA), allow("*"), allow("iam:*")]
    assert grants({"Statement": both}) == ((EVERYTHING, ()),)
    some = [allow("*", Condition=MFA), allow("iam:*", Condition=OFFICE), allow("iam:CreateUser"), "garbage"]
    assert grants({"Statement": some}) == ((EVERYTHING, (CONDITION,)), (IAM_WRITE, ()))


@pytest.mark.parametrize("document", [None, "%7B", [], 5])
def test_a_document_that_is_none_is_not_known(document):
    assert reach([Policy(where="policy p", document=document)]) == ("not known (policy p)",)


JUNK = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.sampled_from(["*", "Allow", "Deny", "iam:*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Statement", "Effect", "Action", "NotAction", "Resource", "Condition", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(JUNK, max_size=3), st.none() | JUNK)
def test_any_documents_are_judged(documents, boundary):
    policies = [Policy(where=f"policy {number}", document=item) for number, item in enumerate(documents)]
    told = reach(policies, None if boundary is None else Policy(where="the boundary b", document=boundary))
    words = (EVERYTHING, NEARLY_EVERYTHING, IAM_WRITE, UNREAD, "nothing")
    assert all(text.startswith(words) and text.endswith(")") for text in told)


# --- All of a user's policies -----------------------------------------------------------------------------------------


def test_an_administrator_is_told_plainly():
    assert reach([policy(allow("*"))]) == ("everything (policy p)",)


def test_a_condition_is_said():
    assert reach([policy(allow("*", Condition=OFFICE))]) == ("everything, under a condition (policy p)",)


def test_a_denial_in_another_policy_is_said_with_its_own_condition():
    admin = policy(allow("*"), where="policy admin")
    assert reach([admin, policy(deny("s3:*"), where="policy no-s3")]) == (
        "everything, less what policy no-s3 denies (policy admin)",
    )
    forced = {"Effect": "Deny", "NotAction": "iam:*", "Resource": "*", "Condition": MFA}
    assert reach([admin, policy(forced, where="policy mfa")]) == (
        "everything, less what policy mfa denies under a condition (policy admin)",
    )
    assert reach([admin, policy(forced, deny("s3:*"), where="policy both")]) == (
        "everything, less what policy both denies (policy admin)",
    )


def test_a_denial_of_something_else_does_not_narrow_iam():
    iam = policy(allow("iam:*"))
    assert reach([iam, policy(deny("s3:*"), where="policy no-s3")]) == ("IAM itself (policy p)",)
    assert reach([iam, policy(deny("iam:Create*"), where="policy d")]) == (
        "IAM itself, less what policy d denies (policy p)",
    )
    sparing = {"Effect": "Deny", "NotAction": "iam:*", "Resource": "*"}
    assert reach([iam, policy(sparing, where="policy d")]) == ("IAM itself (policy p)",)


def test_who_is_denied_everything_reaches_nothing():
    quarantined = [policy(allow("*")), policy(deny("*"), where="policy stop")]
    assert reach(quarantined) == ("nothing: everything is denied (policy stop)",)
    for narrowed in (deny("*", Condition=MFA), deny("*", Resource="arn:aws:s3:::a")):
        (told,) = reach([policy(allow("*")), policy(narrowed, where="policy stop")])
        assert told.startswith("everything, less what policy stop denies")


def test_a_boundary_is_said_unless_it_keeps_nothing_out():
    admin = [policy(allow("*"))]
    assert reach(admin, policy(allow("s3:*"), where="the boundary dev")) == (
        "everything, within the boundary dev (policy p)",
    )
    assert reach(admin, policy(allow("*"), where="the boundary open")) == ("everything (policy p)",)
    for narrow in ((allow("*", Condition=MFA),), (allow("*"), deny("iam:*"))):
        assert "within the boundary dev" in reach(admin, policy(*narrow, where="the boundary dev"))[0]
    assert reach(admin, Policy(where="the boundary gone", document=None)) == (
        "everything, within the boundary gone (policy p)",
    )


# --- From a reply -----------------------------------------------------------------------------------------------------


def user_of(*, attached=(), boundary="", **more):
    details = Details()
    item = {
        "UserName": "ci",
        "AttachedManagedPolicies": [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in attached],
        **({"PermissionsBoundary": {"PermissionsBoundaryArn": boundary}} if boundary else {}),
    }
    details.add({"UserDetailList": [item], **more})
    (found,) = details.described()
    return found


def aws_policy(name):
    return f"arn:aws:iam::aws:policy/{name}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AdministratorAccess", ("everything (policy AdministratorAccess)",)),
        ("PowerUserAccess", ("everything but what is named (policy PowerUserAccess)",)),
        ("IAMFullAccess", ("IAM itself (policy IAMFullAccess)",)),
        ("AWSDenyAll", ("nothing: everything is denied (policy AWSDenyAll)",)),
        ("ReadOnlyAccess", ()),
    ],
)
def test_aws_own_policies_are_known_where_the_reply_leaves_them_out(name, expected):
    assert user_of(attached=[aws_policy(name)]).reach == expected


@pytest.mark.parametrize("name", sorted(name for name in OF_AWS if "Quarantine" in name))
def test_a_quarantine_of_aws_narrows_and_does_not_stop(name):
    assert user_of(attached=[aws_policy("AdministratorAccess"), aws_policy(name)]).reach == (
        f"everything, less what policy {name} denies (policy AdministratorAccess)",
    )


def test_the_boundary_of_a_reply_is_looked_up():
    ours = f"arn:aws:iam::{ACCOUNT}:policy/dev"
    document = {"Statement": allow("s3:*")}
    listed = [{"Arn": ours, "PolicyVersionList": [{"IsDefaultVersion": True, "Document": document}]}]
    admin = [aws_policy("AdministratorAccess")]
    told = "everything, within the boundary dev (policy AdministratorAccess)"
    assert user_of(attached=admin, boundary=ours, Policies=listed).reach == (told,)
    assert user_of(attached=admin, boundary=ours).reach == (told,), "unread, so it may narrow"
    open_one = user_of(attached=admin, boundary=aws_policy("AdministratorAccess"))
    assert open_one.reach == ("everything (policy AdministratorAccess)",)
    assert open_one.boundary == aws_policy("AdministratorAccess"), "named all the same"
