"""Trust policies: what we make lets in the right ones, what was seen in the wild is told what is wrong with it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.worlds import (
    ACCOUNT,
    API,
    AUD,
    BAD,
    BRANCH,
    BY_SUBJECT,
    CHINA,
    FORGED,
    FORKED,
    GOOD,
    ID,
    ISSUER,
    MADE,
    MAIN,
    MORE,
    ORGANIZATION,
    ORIGIN,
    PLAIN,
    PROJECT,
    PROVIDER,
    RIGHT,
    SUB,
    SUBJECT,
    USER,
    WEB,
    Bad,
    like,
    one,
    policy,
    statement,
    token,
)

from playbook.errors import GuardError
from playbook.iam_policy import glob, parse, size
from playbook.trust import (
    Grant,
    Issuer,
    Outcome,
    Pin,
    TrustedProject,
    audit_log_token,
    evaluate,
    lint,
    make_trust,
    prove,
    split,
    wanted_tokens,
)
from playbook.trust import proof as proofs
from playbook.trust.adversary import TooManyStatesError, find, identifier, name, reference, text


def decide(document, knocking, partition="aws"):
    return evaluate(document, PROVIDER, knocking.keys(partition)).outcome


def codes(found):
    return {item.code for item in found}


# --- What we make ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_what_we_make_is_proved_and_has_no_lint(name):
    grant, document = GOOD[name], MADE[name]
    assert prove(document, grant) == ()
    found = lint(document, grant.issuer, partition=grant.partition, account=grant.account, audiences=grant.accepted)
    assert found == ()
    assert json.loads(json.dumps(document)) == document


def test_the_default_is_what_the_partition_supports():
    assert PROJECT in MADE["by project id"]["Statement"][0]["Condition"]["StringEquals"]
    china = make_trust(CHINA)["Statement"][0]
    assert china["Condition"]["StringLike"] == {SUB: SUBJECT}
    assert china["Principal"]["Federated"].startswith("arn:aws-cn:iam::")


def test_a_fork_and_a_forged_branch_stay_out_and_so_does_a_token_that_says_nothing_of_them():
    for grant in (FORKED, BRANCH):
        document = make_trust(grant)
        assert decide(document, token(origin=ORIGIN, ref=MAIN)) is Outcome.ALLOWED
        for strange in (
            token(),
            token(origin="github.com/mallory/web", ref=MAIN),
            token(origin="github.com/mallory/web", ref=FORGED),
            token(origin=f"{ORIGIN}-2", ref=MAIN),
        ):
            assert decide(document, strange) is Outcome.IMPLICITLY_DENIED
    assert decide(make_trust(FORKED), token(origin=ORIGIN, ref="refs/heads/try")) is Outcome.ALLOWED
    assert decide(make_trust(BRANCH), token(origin=ORIGIN, ref="refs/heads/try")) is Outcome.IMPLICITLY_DENIED
    assert decide(make_trust(BRANCH), token(origin=ORIGIN, ref=FORGED)) is Outcome.IMPLICITLY_DENIED


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: replace(PLAIN, projects=()), "needs no trust policy"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB), TrustedProject(id=WEB))), "named twice"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id="web"),)), "UUID"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB.upper()),)), "small letters"),
        (lambda: replace(PLAIN, audiences=("*",)), "wildcard"),
        (lambda: replace(PLAIN, audiences=("",)), "empty"),
        (lambda: replace(CHINA, pin=Pin.PROJECT_ID), "no key for the project's id"),
        (lambda: replace(GOOD["a self-hosted server"], pin=Pin.PROJECT_ID), "no key for the project's id"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB, refs=(MAIN,)),)), "where its code is"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB, forks_receive_secrets=True),)), "where its code is"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB, origin=ORIGIN, refs=("main",)),)), "branch or tag"),
        (lambda: replace(PLAIN, projects=(TrustedProject(id=WEB, origin="github.com/*/web", refs=(MAIN,)),)), "origin"),
        (lambda: Issuer.cloud("acme"), "UUID"),
        (lambda: Issuer(url="http://oidc.circleci.com", organization=ORGANIZATION), "https"),
        (lambda: Issuer(url="https://ci.acme.example:8443", organization=ORGANIZATION), "port"),
    ],
)
def test_what_no_policy_could_say_is_refused_with_a_sentence(make, told):
    with pytest.raises(GuardError) as refused:
        make()
    assert told in refused.value.message + refused.value.remedy
    assert "othing was changed" in refused.value.message


# --- Sizes ----------------------------------------------------------------------------------------------------------


def many(count: int, pin: Pin | None = None) -> Grant:
    projects = tuple(TrustedProject(id=str(UUID(int=(0xA5 << 120) + number, version=4))) for number in range(count))
    return replace(PLAIN, projects=projects, pin=pin)


@pytest.mark.parametrize("count", [1, 16, 17, 40, 41, 200])
@pytest.mark.parametrize("limit", [2048, 4096, 8192])
@pytest.mark.parametrize("pin", Pin)
def test_projects_are_divided_over_roles_by_the_size_that_the_account_allows(count, limit, pin):
    fits = {Pin.SUBJECT: {2048: 16, 4096: 38, 8192: 81}, Pin.PROJECT_ID: {2048: 40, 4096: 93, 8192: 198}}[pin][limit]
    grant = many(count, pin)
    parts = split(grant, limit)
    sizes = [size(make_trust(part)) for part in parts]
    print(f"{count} projects by {pin} at {limit}: {[len(part.projects) for part in parts]} in {sizes} characters")
    assert [len(part.projects) for part in parts] == [fits] * (count // fits) + ([count % fits] if count % fits else [])
    assert tuple(project for part in parts for project in part.projects) == grant.projects
    assert max(sizes) <= limit
    for part in {parts[0], parts[-1]}:
        assert prove(make_trust(part), part) == ()


def test_a_project_that_does_not_fit_alone_is_refused_with_numbers():
    refs = tuple(f"refs/heads/release/{number}" for number in range(40))
    grant = replace(PLAIN, projects=(TrustedProject(id=WEB, origin=ORIGIN, refs=refs),))
    with pytest.raises(GuardError) as refused:
        split(grant, 2048)
    assert re.search(r"takes \d{4} characters, and the account allows 2048", refused.value.message)


def test_a_project_added_at_the_end_moves_no_other():
    before, after = split(many(100), 2048), split(many(101), 2048)
    assert before[:-1] == after[: len(before) - 1]


# --- What was seen in the wild --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_policy_is_told_what_is_wrong_with_it(bad: Bad):
    grant = bad.grant
    found = lint(bad.policy, grant.issuer, partition=grant.partition, account=grant.account)
    for item in found:
        assert item.sentence.endswith("."), item
        assert item.remedy.endswith("."), item
    assert codes(found) == bad.lints
    against = prove(bad.policy, grant)
    for violation in against:
        assert violation.sentence.endswith("."), violation
    assert codes(against) == bad.violations


def test_there_are_enough_of_them_and_every_one_breaks_something():
    print(f"{len(BAD)} bad policies, {len(set().union(*(bad.lints for bad in BAD)))} kinds of lint")
    assert len(BAD) >= 12
    assert all(bad.violations for bad in BAD)


@pytest.mark.parametrize(("document", "expected"), MORE, ids=range(len(MORE)))
def test_other_faults_have_their_lint_and_what_is_none_has_not(document, expected):
    assert codes(lint(document, ISSUER, partition="aws", account=ACCOUNT)) == expected


# --- The prover is an adversary -------------------------------------------------------------------------------------


def test_the_prover_finds_the_branch_that_forges_its_origin():
    document = one(like(f"org/{ORGANIZATION}/project/{WEB}/user/*/vcs-origin/{ORIGIN}/vcs-ref/{MAIN}"))
    fork = next(item for item in prove(document, BRANCH) if item.code == "fork")
    assert fork.token is not None
    print(fork.token.subject)
    assert "/vcs-origin/github.com/" in fork.token.subject
    assert decide(document, fork.token) is Outcome.ALLOWED


@pytest.mark.parametrize(
    "sub",
    [
        f"org/{ORGANIZATION}/project/{WEB[:-1]}?/user/*",
        f"org/{ORGANIZATION}/project/{WEB[:4]}*{WEB[-4:]}/user/*",
        f"org/{ORGANIZATION}/project/?*/user/*",
        f"org/{ORGANIZATION}/*{WEB}*",
        f"*{WEB}/user/*",
    ],
)
def test_the_prover_needs_no_sample_that_happens_to_fit(sub):
    found = prove(one(like([sub, SUBJECT])), PLAIN)
    expected = {"another-project"} if sub[-4:] == "er/*" and sub[0] == "o" else set()
    assert expected <= codes(found)
    assert codes(found) <= {"another-project", "another-organization"}
    if not expected:
        assert found, "a user's id, or a part of another subject, can be a project's id as far as the pattern goes"
    for violation in found:
        assert decide(one(like([sub, SUBJECT])), violation.token) is Outcome.ALLOWED


def test_a_wanted_token_that_no_sample_shows_is_found_too():
    start = SUBJECT.removesuffix("*")
    users = sorted({user[0] for user in proofs.USERS})
    found = prove(one(like([f"{start}{first}*" for first in users])), PLAIN)
    assert codes(found) == {"refuses-wanted"}
    assert found[0].token.subject.removeprefix(start)[0] not in users
    assert prove(one(like([f"{start}{first}*" for first in "0123456789abcdef"])), PLAIN) == ()
    branch = make_trust(BRANCH)["Statement"][0]["Condition"]["StringLike"][SUB]
    release = replace(BRANCH, projects=(replace(BRANCH.projects[0], refs=("refs/heads/release/*",)),))
    narrow = [branch.replace(MAIN, f"refs/heads/release/{first}*") for first in "x1"]
    assert codes(prove(one(like(narrow)), release)) == {"refuses-wanted"}
    not_one = statement({"StringLike": {SUB: f"{start}a*"}}, Effect="Deny")
    assert codes(prove(policy(statement(RIGHT), not_one), PLAIN)) == {"refuses-wanted"}


def test_a_denying_statement_is_taken_into_account():
    wide = statement(like(f"org/{ORGANIZATION}/project/*"))
    unless = statement({"StringNotLike": {SUB: SUBJECT}}, Effect="Deny")
    assert prove(policy(wide, unless), PLAIN) == ()
    but_one = statement({"StringLike": {SUB: f"org/{ORGANIZATION}/project/{API[:1]}*"}}, Effect="Deny")
    found = prove(policy(wide, but_one), PLAIN)
    assert codes(found) == {"another-project"}


def test_a_denial_that_does_not_concern_the_token_hides_nothing():
    wide = f"org/{ORGANIZATION}/project/{API[:4]}*"  # which no plain sample fits
    for harmless in (
        {"Action": "sts:TagSession"},
        {"Principal": {"AWS": "*"}},
        {"Principal": {"Federated": f"{PROVIDER}-not"}},
    ):
        document = policy(statement(like(wide)), statement({"StringLike": {SUB: wide}}, Effect="Deny", **harmless))
        assert "another-project" in codes(prove(document, PLAIN)), harmless
    china = {"Principal": {"Federated": CHINA.provider}}
    document = policy(statement(like(wide), **china), statement({"StringLike": {PROJECT: "*"}}, Effect="Deny", **china))
    assert "another-project" in codes(prove(document, CHINA))


def test_the_prover_knows_other_hosts_and_other_letters():
    start = f"org/{ORGANIZATION}/project/{API[:-1]}?/user/{ID}/vcs-origin"
    for origin in ("bitbucket.org/acme/web", "gitlab.com/acme/deep/web"):
        assert "another-project" in codes(prove(one(like([SUBJECT, f"{start}/{origin}/vcs-ref/*"])), PLAIN)), origin
    capital = replace(BRANCH, projects=(replace(BRANCH.projects[0], origin="github.com/Acme/Web"),))
    right = make_trust(capital)["Statement"][0]
    pattern = right["Condition"]["StringLike"][SUB]
    other = pattern.replace(ID, USER).replace("heads/main", "heads/try")
    careless = statement({"StringEquals": {AUD: ORGANIZATION}, "StringEqualsIgnoreCase": {SUB: other}})
    assert prove(policy(right), capital) == ()
    assert codes(prove(policy(right, careless), capital)) == {"not-provable"}, (
        "letters of any case: refused, not guessed"
    )


def test_what_cannot_be_proved_is_not_called_right():
    entangled = policy(
        statement(like(f"org/{ORGANIZATION}/project/*")),
        statement({"StringNotLike": {SUB: SUBJECT}, "StringEquals": {AUD: ORGANIZATION}}, Effect="Deny"),
    )
    assert "not-provable" in codes(prove(entangled, PLAIN))
    variable = one({"StringEquals": {AUD: ORGANIZATION}, "StringLike": {SUB: f"org/{ORGANIZATION}/project/${{aws:x}}"}})
    assert {"not-provable", "refuses-wanted"} <= codes(prove(variable, PLAIN))
    many_ways = {"StringEquals": {AUD: ORGANIZATION}}
    for number, operator in enumerate(("StringLike", "StringLikeIfExists", "ForAnyValue:StringLike")):
        many_ways[operator] = {SUB: [f"*{number}{index}*" for index in range(20)]}
    assert "not-provable" in codes(prove(one(many_ways), PLAIN))


def test_a_search_that_would_not_end_says_so(monkeypatch):
    patterns = [glob("*" + "a?" * 9 + "z"), glob("*" + "?b" * 9 + "z")]
    monkeypatch.setattr("playbook.trust.adversary.STATES_MAX", 300)
    with pytest.raises(TooManyStatesError):
        find(reference(), must=patterns, never=[glob("*z")])
    monkeypatch.setattr("playbook.trust.adversary.STATES_MAX", 3)
    assert {"not-provable"} <= codes(prove(one(like(f"org/{ORGANIZATION}/project/*")), PLAIN))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_the_search_finds_fits_and_where_it_finds_nothing_there_is_nothing(data):
    alphabet = st.sampled_from("ab/*?")
    must = data.draw(st.lists(st.text(alphabet, max_size=5), max_size=2))
    never = data.draw(st.lists(st.text(alphabet, max_size=4), max_size=2))
    form, shape = data.draw(
        st.sampled_from(
            [
                (text("a") + reference(), "a.+"),
                (text("a") + reference() + text("/b"), "a.+/b"),
                (name() + text("/b/") + reference(), "[^/]+/b/.+"),
            ]
        )
    )
    found = find(form, must=[glob(each) for each in must], never=[glob(each) for each in never])

    def fits(value):
        def full(pattern):
            return re.fullmatch(pattern.replace("*", ".*").replace("?", "."), value, re.DOTALL)

        return bool(re.fullmatch(shape, value)) and all(map(full, must)) and not any(map(full, never))

    if found is not None:
        assert fits(found)
    else:
        tried = [""]
        for _ in range(5):
            tried = [before + letter for before in tried for letter in "ab/c"]
            assert not any(map(fits, tried))


def test_the_search_makes_ids_of_the_right_form():
    found = find(identifier(), must=(glob("ffff*"),), never=(glob("ffff0*"),))
    assert found is not None
    assert str(UUID(found)) == found
    assert found.startswith("ffff")
    assert not found.startswith("ffff0")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_right_policy_that_lets_another_in_is_proved(data):
    """Replace characters of a right pattern by wildcards: proved only if no other project, fork or branch gets in."""
    grant = data.draw(st.sampled_from([BY_SUBJECT, FORKED, BRANCH]))
    document = json.loads(json.dumps(make_trust(grant)))
    pattern = document["Statement"][0]["Condition"]["StringLike"][SUB]
    at = data.draw(st.integers(0, len(pattern) - 1))
    mutated = pattern[:at] + data.draw(st.sampled_from("*?")) + pattern[at + 1 :]
    document["Statement"][0]["Condition"]["StringLike"][SUB] = mutated
    proved = not prove(document, grant)
    rivals = [
        token(WEB[: at % 36] + ("0" if WEB[at % 36] != "0" else "1") + WEB[at % 36 + 1 :], origin=ORIGIN, ref=MAIN)
        if WEB[at % 36] != "-"
        else token(API),
        token(API, origin=ORIGIN, ref=FORGED),
        audit_log_token(ISSUER),
    ]
    if grant is not BY_SUBJECT:
        rivals += [
            token(),
            token(origin="github.com/mallory/web", ref=FORGED),
            token(origin="github.com/acme/wex", ref=MAIN),
        ]
    if proved:
        assert not [rival.subject for rival in rivals if decide(document, rival) is not Outcome.IMPLICITLY_DENIED]


def test_wanted_tokens_are_of_both_forms_and_every_audience():
    grant = replace(PLAIN, audiences=("one", "two"))
    subjects = {(found.audiences, "/vcs-ref/" in found.subject) for found in wanted_tokens(grant)}
    assert len(subjects) == 4
    assert all("/vcs-ref/" in found.subject for found in wanted_tokens(FORKED))
    assert proofs.OTHER_ID not in {project.id for project in grant.projects}


# --- One decision at a time -----------------------------------------------------------------------------------------


def holds(condition, claims, *, unknown=()):
    outcome = evaluate(one(condition), PROVIDER, claims, unknown=unknown).outcome
    return {Outcome.ALLOWED: True, Outcome.IMPLICITLY_DENIED: False, Outcome.UNDECIDED: None}[outcome]


CASES = [
    # wildcards run across / and :, letters count, names of keys do not
    ({"StringLike": {"K:x": "a*c"}}, {"k:X": "a/b:c"}, True),
    ({"StringLike": {"k": "a?c"}}, {"k": "a/c"}, True),
    ({"StringLike": {"k": "a?c"}}, {"k": "ac"}, False),
    ({"StringLike": {"k": "a*"}}, {"k": "A"}, False),
    ({"StringEqualsIgnoreCase": {"k": "AB"}}, {"k": "aB"}, True),
    ({"StringNotEqualsIgnoreCase": {"k": "AB"}}, {"k": "aB"}, False),
    ({"StringEquals": {"k": "a*"}}, {"k": "ab"}, False),
    ({"StringEquals": {"k": "a*"}}, {"k": "a*"}, True),
    ({"stringequals": {"k": "a"}}, {"k": "a"}, True),
    # absent
    ({"StringEquals": {"k": "a"}}, {}, False),
    ({"StringNotEquals": {"k": "a"}}, {}, True),
    ({"StringNotLike": {"k": "a"}}, {}, True),
    ({"StringLikeIfExists": {"k": "a"}}, {}, True),
    ({"StringLikeIfExists": {"k": "a"}}, {"k": "b"}, False),
    ({"Null": {"k": "true"}}, {}, True),
    ({"Null": {"k": True}}, {"k": "a"}, False),
    ({"Null": {"k": "false"}}, {"k": "a"}, True),
    # several values
    ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {"k": ("a", "b")}, True),
    ({"ForAllValues:StringEquals": {"k": ["a", "b"]}}, {"k": ("a", "c")}, False),
    ({"ForAllValues:StringEquals": {"k": "a"}}, {}, True),
    ({"ForAnyValue:StringEquals": {"k": "a"}}, {"k": ("c", "a")}, True),
    ({"ForAnyValue:StringNotEquals": {"k": "a"}}, {"k": ("c", "a")}, True),
    ({"ForAllValues:StringNotEquals": {"k": "a"}}, {"k": ("c", "a")}, False),
    ({"ForAnyValue:StringEquals": {"k": "a"}}, {}, False),
    ({"ForAnyValue:StringEqualsIfExists": {"k": "a"}}, {}, None),
    ({"StringEquals": {"k": "a"}}, {"k": ("a", "b")}, None),
    ({"StringEquals": {"k": ["a", "b"]}}, {"k": ("a", "b")}, True),
    # all of them must hold
    ({"StringEquals": {"k": "a", "l": "b"}}, {"k": "a", "l": "b"}, True),
    ({"StringEquals": {"k": "a"}, "StringLike": {"k": "b"}}, {"k": "a"}, False),
    ({"StringEquals": {"k": []}}, {"k": "a"}, False),
    # other types
    ({"Bool": {"k": True}}, {"k": "true"}, True),
    ({"Bool": {"k": "false"}}, {"k": "true"}, False),
    ({"NumericLessThan": {"k": 10}}, {"k": "9.5"}, True),
    ({"NumericGreaterThanEquals": {"k": "10"}}, {"k": "9"}, False),
    ({"NumericNotEquals": {"k": "10"}}, {"k": "10"}, False),
    ({"NumericEquals": {"k": "ten"}}, {"k": "10"}, None),
    ({"DateLessThan": {"k": "2026-01-01T00:00:00Z"}}, {"k": "2025-12-31T23:59:59Z"}, True),
    ({"DateGreaterThan": {"k": "1700000000"}}, {"k": "2025-12-31T23:59:59"}, True),
    ({"DateGreaterThan": {"k": "yesterday"}}, {"k": "2025-12-31T23:59:59"}, None),
    ({"IpAddress": {"k": "203.0.113.0/24"}}, {"k": "203.0.113.9"}, True),
    ({"NotIpAddress": {"k": "203.0.113.0/24"}}, {"k": "203.0.113.9"}, False),
    ({"IpAddress": {"k": "nowhere"}}, {"k": "203.0.113.9"}, None),
    ({"BinaryEquals": {"k": "QUJD"}}, {"k": "QUJD"}, True),
    ({"ArnLike": {"k": "arn:aws:iam::*:role/*"}}, {"k": "arn:aws:iam::1:role/a:b"}, True),
    ({"ArnLike": {"k": "arn:*:role/a"}}, {"k": "arn:aws:iam::1:role/a"}, False),
    ({"ArnEquals": {"k": "arn:aws:iam::1:role/*"}}, {"k": "arn:aws:iam::1:role/a"}, True),
    ({"ArnNotLike": {"k": "arn:aws:iam::1:role/*"}}, {"k": "no arn"}, True),
    # variables
    ({"StringEquals": {"k": "a${l}c"}}, {"k": "abc", "l": "b"}, True),
    ({"StringLike": {"k": "${l}"}}, {"k": "abc", "l": "a*"}, False),
    ({"StringLike": {"k": "${l, 'x'}*"}}, {"k": "xy"}, True),
    ({"StringEquals": {"k": "${l}"}}, {"k": ""}, False),
    ({"StringLike": {"k": "a${*}"}}, {"k": "ab"}, False),
    ({"StringLike": {"k": "a${*}${?}${$}"}}, {"k": "a*?$"}, True),
]


@pytest.mark.parametrize(("condition", "claims", "expected"), CASES, ids=range(len(CASES)))
def test_a_condition_holds_as_iam_says(condition, claims, expected):
    assert holds(condition, claims) is expected


def test_what_the_token_does_not_decide_is_neither_allowed_nor_refused():
    condition = {**RIGHT, "IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}
    decision = evaluate(one(condition), PROVIDER, token().keys("aws"))
    assert decision.outcome is Outcome.UNDECIDED
    assert decision.open_keys == ("aws:SourceIp",)
    assert not decision.allows
    assert not decision.refuses
    assert holds({"StringEquals": {"k": "${aws:username}"}}, {"k": "x"}, unknown=("aws:*",)) is None
    assert evaluate(one(condition), PROVIDER, token(API).keys("aws")).refuses


def test_an_old_document_has_no_variables():
    document = {**one({"StringEquals": {"k": "${l}"}}), "Version": "2008-10-17"}
    assert evaluate(document, PROVIDER, {"k": "b", "l": "b"}).refuses
    assert evaluate(document, PROVIDER, {"k": "${l}"}).allows


@pytest.mark.parametrize(
    ("principal", "kind", "arn", "expected"),
    [
        ({"Federated": PROVIDER}, "Federated", PROVIDER, Outcome.ALLOWED),
        ({"Federated": [f"{PROVIDER}x", PROVIDER]}, "Federated", PROVIDER, Outcome.ALLOWED),
        ({"Federated": f"{PROVIDER[:-1]}*"}, "Federated", PROVIDER, Outcome.IMPLICITLY_DENIED),
        ({"Federated": PROVIDER.upper()}, "Federated", PROVIDER, Outcome.IMPLICITLY_DENIED),
        ({"AWS": "*"}, "Federated", PROVIDER, Outcome.UNDECIDED),
        ("*", "Federated", PROVIDER, Outcome.ALLOWED),
        ({"AWS": ACCOUNT}, "AWS", f"arn:aws:iam::{ACCOUNT}:user/x", Outcome.ALLOWED),
        ({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "AWS", f"arn:aws:iam::{ACCOUNT}:user/x", Outcome.ALLOWED),
        ({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "AWS", "arn:aws:iam::999999999999:user/x", Outcome.IMPLICITLY_DENIED),
        ({"Service": "ec2.amazonaws.com"}, "Service", "ec2.amazonaws.com", Outcome.ALLOWED),
    ],
)
def test_a_principal_is_named_or_not(principal, kind, arn, expected):
    assert evaluate(one(None, Principal=principal, Action="*"), arn, {}, kind=kind).outcome is expected


def test_a_denial_outweighs_and_one_in_doubt_leaves_it_open():
    allow = statement(RIGHT)
    assert evaluate(policy(allow, statement(None, Effect="Deny")), PROVIDER, token().keys("aws")).outcome is (
        Outcome.EXPLICITLY_DENIED
    )
    doubt = statement({"Bool": {"aws:SecureTransport": "false"}}, Effect="Deny")
    assert evaluate(policy(allow, doubt), PROVIDER, token().keys("aws")).outcome is Outcome.UNDECIDED
    other = statement(None, Effect="Deny", Action=["sts:Tag*"])
    assert evaluate(policy(allow, other), PROVIDER, token().keys("aws")).allows
    assert evaluate(one(RIGHT, Action="STS:assumerole*"), PROVIDER, token().keys("aws")).allows


MALFORMED = [
    [],
    {},
    {"Statement": []},
    {"Statement": "x"},
    {"Version": "2020-01-01", "Statement": statement(RIGHT)},
    {"Statement": [statement(RIGHT)], "Extra": 1},
    one(RIGHT, Effect="allow"),
    one(RIGHT, Effekt="Allow"),
    one(RIGHT, Action=None),
    one(RIGHT, NotAction="sts:*"),
    one(RIGHT, Action=[]),
    one(RIGHT, Action={"a": 1}),
    one(RIGHT, Principal=None),
    one(RIGHT, Principal="arn:aws:iam::1:root"),
    one(RIGHT, Principal={"Person": "x"}),
    one(RIGHT, Resource="*"),
    one({"StringEqualz": {AUD: "x"}}),
    one({"Nul": {AUD: "x"}}),
    one({"NullIfExists": {AUD: "true"}}),
    one({"ForSomeValues:StringLike": {AUD: "x"}}),
    one({"StringLike": AUD}),
    one([]),
    one({"StringLike": {AUD: None}}),
    {"Statement": [7]},
]


@pytest.mark.parametrize("document", MALFORMED, ids=range(len(MALFORMED)))
def test_what_iam_would_not_store_is_refused_and_never_evaluated(document):
    with pytest.raises(GuardError) as refused:
        evaluate(document, PROVIDER, token().keys("aws"))
    assert refused.value.remedy
    assert codes(prove(document, PLAIN)) == {"malformed"}
    assert codes(lint(document, ISSUER, partition="aws", account=ACCOUNT)) == {"malformed"}
    with pytest.raises(GuardError):
        parse(document, trust=True)


def test_a_hostile_pattern_is_matched_in_good_time():
    steps = like("*" + "a*" * 2000 + "b")
    assert evaluate(one(steps), PROVIDER, {AUD: ORGANIZATION, SUB: "a" * 4000}).refuses


def test_user_is_an_id():
    assert str(UUID(USER)) == USER
