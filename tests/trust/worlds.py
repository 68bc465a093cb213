"""One organization and its neighbours, the tokens that knock, and faulty policies.

The faults are those of CircleCI's pages of 2022 to 2026, of public Terraform modules and of support threads, and their
close relatives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from playbook.iam_policy import Document
from playbook.trust import PROJECT_ID, Grant, Issuer, Pin, Token, TrustedProject, audit_log_token, job_token, make_trust

ORGANIZATION = "1f0e4c7a-52d9-4b1e-9a36-0c8d7e6f5a41"
STRANGERS = "9b7d2e10-6c35-4f88-8a1d-2e4f6a8c0b13"
WEB = "a3c9e1f0-2b47-4d86-9e15-7f3a1c5d8b20"
API = "b4d0f2a1-3c58-4e97-8f26-804b2d6e9c31"
USER = "6d2b8f04-1a3c-4e5f-9081-72635445a1b7"
ACCOUNT = "111122223333"
ORIGIN = "github.com/acme/web"

ISSUER = Issuer.cloud(ORGANIZATION)
PROVIDER = ISSUER.provider(partition="aws", account=ACCOUNT)
AUD, SUB, PROJECT = ISSUER.key("aud"), ISSUER.key("sub"), ISSUER.key(PROJECT_ID)
SUBJECT = f"org/{ORGANIZATION}/project/{WEB}/user/*"
ASSUME = "sts:AssumeRoleWithWebIdentity"
ID = "????????-????-????-????-????????????"

PLAIN = Grant(issuer=ISSUER, partition="aws", account=ACCOUNT, projects=(TrustedProject(id=WEB),))
BY_SUBJECT = replace(PLAIN, pin=Pin.SUBJECT)
CHINA = replace(PLAIN, partition="aws-cn")
FORKED = replace(PLAIN, projects=(TrustedProject(id=WEB, origin=ORIGIN, forks_receive_secrets=True),))
BRANCH = replace(PLAIN, projects=(TrustedProject(id=WEB, origin=ORIGIN, refs=("refs/heads/main",)),))
SERVER = replace(PLAIN, issuer=Issuer(url="https://ci.acme.example/oidc", organization=ORGANIZATION))


def token(project: str = WEB, *, issuer: Issuer = ISSUER, audience: str = "", origin: str = "", ref: str = "") -> Token:
    return job_token(issuer, project, user=USER, audience=audience, origin=origin, ref=ref)


MAIN = "refs/heads/main"
FORGED = f"refs/heads/x/vcs-origin/{ORIGIN}/vcs-ref/{MAIN}"

TOKENS: dict[str, Token] = {
    "first form": token(),
    "second form, main": token(origin=ORIGIN, ref=MAIN),
    "another branch": token(origin=ORIGIN, ref="refs/heads/try"),
    "a fork": token(origin="github.com/mallory/web", ref="refs/heads/main"),
    "a fork that forges": token(origin="github.com/mallory/web", ref=FORGED),
    "another project": token(API, origin="github.com/acme/api", ref=MAIN),
    "another audience": token(audience="sts.amazonaws.com", origin=ORIGIN, ref=MAIN),
    "audit logs": audit_log_token(ISSUER),
}


@dataclass(frozen=True)
class Bad:
    """A faulty policy, the grant it was meant for, and what is to be said of it."""

    name: str
    policy: Document
    lints: set[str]
    violations: set[str]
    grant: Grant = PLAIN


def statement(condition: Document | None, **changed: object) -> dict[str, object]:
    made: dict[str, object] = {"Effect": "Allow", "Principal": {"Federated": PROVIDER}, "Action": ASSUME, **changed}
    if condition is not None:
        made["Condition"] = condition
    return {name: value for name, value in made.items() if value is not None}


def policy(*statements: dict[str, object]) -> dict[str, object]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def one(condition: Document | None, **changed: object) -> dict[str, object]:
    return policy(statement(condition, **changed))


RIGHT = {"StringEquals": {AUD: ORGANIZATION, PROJECT: WEB}}
BY_SUB = {"StringEquals": {AUD: ORGANIZATION}, "StringLike": {SUB: SUBJECT}}
ALL = {"another-project", "audit-logs", "empty-context"}


def like(sub: object) -> dict[str, object]:
    return {"StringEquals": {AUD: ORGANIZATION}, "StringLike": {SUB: sub}}


BAD: tuple[Bad, ...] = (
    Bad(
        "the audience of CircleCI's page of 2026",
        one({"StringEquals": {AUD: "sts.amazonaws.com", PROJECT: WEB}}),
        {"documented-audience"},
        {"refuses-wanted", "another-audience"},
    ),
    Bad(
        "the audience alone",
        one({"StringEquals": {AUD: ORGANIZATION}}),
        {"audience-only"},
        ALL | {"another-organization"},
    ),
    Bad(
        "no condition at all",
        one(None),
        {"no-audience", "audience-only"},
        ALL | {"another-audience", "another-organization"},
    ),
    Bad(
        "the subject alone",
        one({"StringLike": {SUB: SUBJECT}}),
        {"no-audience"},
        {"another-audience", "empty-context"},
    ),
    Bad(
        "a wildcard under StringEquals",
        one({"StringEquals": {AUD: ORGANIZATION, SUB: SUBJECT}}),
        {"wildcard-in-equals", "first-form-only"},
        {"refuses-wanted"},
    ),
    Bad(
        "keys without the organization",
        one(
            {"StringEquals": {"oidc.circleci.com:aud": ORGANIZATION}, "StringLike": {"oidc.circleci.com:sub": SUBJECT}}
        ),
        {"key-without-organization", "no-audience", "audience-only"},
        {"refuses-wanted"},
    ),
    Bad(
        "keys with a scheme",
        one({"StringEquals": {f"https://{AUD}": ORGANIZATION, f"https://{PROJECT}": WEB}}),
        {"key-with-scheme", "no-audience", "audience-only"},
        {"refuses-wanted"},
    ),
    Bad(
        "a context's id",
        one({**BY_SUB, "ForAnyValue:StringEquals": {ISSUER.key("oidc.circleci.com/context-ids"): API}}),
        {"claim-is-no-key"},
        {"refuses-wanted"},
    ),
    Bad(
        "the branch as a claim",
        one({"StringEquals": {**RIGHT["StringEquals"], ISSUER.key("oidc.circleci.com/vcs-ref"): MAIN}}),
        {"claim-is-no-key"},
        {"refuses-wanted"},
    ),
    Bad(
        "every subject of the organization",
        one(like(f"org/{ORGANIZATION}/*")),
        {"organization-wide"},
        {"another-project", "audit-logs"},
    ),
    Bad(
        "every subject",
        one(like("*")),
        {"organization-wide"},
        {"another-project", "another-organization", "audit-logs"},
    ),
    Bad(
        "every project of the organization",
        one(like(f"org/{ORGANIZATION}/project/*")),
        {"wildcard-in-project"},
        {"another-project"},
    ),
    Bad(
        "the beginning of a project's id",
        one(like(f"org/{ORGANIZATION}/project/{WEB[:8]}*")),
        {"wildcard-in-project"},
        {"another-project"},
    ),
    Bad(
        "CircleCI's example of a branch limit",
        one(like(f"org/{ORGANIZATION}/project/*/user/*/vcs-origin/github.com/acme/*/vcs-ref/{MAIN}")),
        {"wildcard-in-project", "branch-can-be-forged"},
        {"another-project", "another-branch", "fork"},
        BRANCH,
    ),
    Bad(
        "a branch limit with a star for the user",
        one(like(f"org/{ORGANIZATION}/project/{WEB}/user/*/vcs-origin/{ORIGIN}/vcs-ref/{MAIN}")),
        {"branch-can-be-forged"},
        {"another-branch", "fork"},
        BRANCH,
    ),
    Bad(
        "one user's subject of the first form",
        one({"StringEquals": {AUD: ORGANIZATION, SUB: SUBJECT.replace("*", USER)}}),
        {"first-form-only"},
        {"refuses-wanted"},
    ),
    Bad(
        "ForAllValues",
        one(
            {
                "ForAllValues:StringEquals": {AUD: ORGANIZATION},
                "ForAllValues:StringLike": {SUB: SUBJECT},
            }
        ),
        {"for-all-values"},
        {"empty-context"},
    ),
    Bad(
        "IfExists",
        one({"StringEquals": {AUD: ORGANIZATION}, "StringEqualsIfExists": {PROJECT: WEB}}),
        {"if-exists"},
        {"audit-logs", "empty-context"},
    ),
    Bad(
        "all but one project",
        one({"StringEquals": {AUD: ORGANIZATION}, "StringNotLike": {SUB: f"org/{ORGANIZATION}/project/{API}/*"}}),
        {"only-not", "audience-only"},
        ALL | {"another-organization"},
    ),
    Bad("everybody as principal", one(RIGHT, Principal="*"), {"any-principal"}, {"another-principal"}),
    Bad(
        "everybody but one",
        one(RIGHT, Principal=None, NotPrincipal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/intern"}),
        {"not-principal"},
        {"another-principal"},
    ),
    Bad(
        "the whole account beside the token",
        policy(
            statement(RIGHT),
            statement(None, Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, Action="sts:AssumeRole"),
        ),
        {"another-principal"},
        {"another-principal"},
    ),
    Bad(
        "the issuer that all organizations share",
        one(RIGHT, Principal={"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.circleci.com"}),
        {"root-issuer"},
        {"refuses-wanted", "another-principal"},
    ),
    Bad("another action", one(RIGHT, Action="sts:AssumeRole"), {"wrong-action"}, {"refuses-wanted", "another-action"}),
    Bad("every action", one(RIGHT, Action="sts:*"), {"broad-action"}, {"another-action"}),
    Bad(
        "names for ids",
        one(like("org/acme/project/web/user/*")),
        {"subject-of-another-organization", "name-for-an-id"},
        {"refuses-wanted"},
    ),
    Bad(
        "an id in capitals",
        one({"StringEquals": {AUD: ORGANIZATION, PROJECT: WEB.upper()}}),
        {"name-for-an-id"},
        {"refuses-wanted"},
    ),
    Bad(
        "the project's id where AWS has no such key",
        one(RIGHT, Principal={"Federated": CHINA.provider}),
        {"project-id-elsewhere"},
        {"refuses-wanted"},
        CHINA,
    ),
    Bad("nothing of forks that receive secrets", one(RIGHT), set(), {"fork"}, FORKED),
    Bad(
        "only from the office",
        one({**RIGHT, "IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}),
        {"not-in-the-token"},
        {"refuses-wanted"},
    ),
    Bad("an operator that there is not", one({"StringMatches": {AUD: ORGANIZATION}}), {"malformed"}, {"malformed"}),
)

# Further faults, each with its lints.
MORE = [
    (one({"StringEquals": {AUD: STRANGERS, PROJECT: WEB}}), {"foreign-audience"}),
    (one({"StringEquals": {AUD: [ORGANIZATION, "x"], PROJECT: WEB}}), {"extra-audience"}),
    (one({"StringLike": {AUD: "*", PROJECT: WEB}}), {"any-audience"}),
    (one({"StringEquals": {AUD: ORGANIZATION}, "StringLike": {PROJECT: f"{WEB[:4]}*"}}), {"wildcard-in-project"}),
    (one({**RIGHT, "StringLike": {ISSUER.key("amr"): "x"}}), {"claim-not-sent"}),
    (one({**RIGHT, "StringLike": {Issuer.cloud(STRANGERS).key("sub"): "*"}}), {"key-of-another-issuer"}),
    (one(like("repo:acme/web:*")), {"no-subject-of-circleci"}),
    (
        one(RIGHT, Principal={"Federated": Issuer.cloud(STRANGERS).provider(partition="aws", account=ACCOUNT)}),
        {"another-provider"},
    ),
    (one(RIGHT, Action=None, NotAction="sts:AssumeRole"), {"broad-action"}),
    (one(None, Principal={"Service": "ec2.amazonaws.com"}, Action="sts:AssumeRole"), set()),
    (policy(statement(RIGHT), statement(None, Effect="Deny", Principal="*", Action="sts:TagSession")), set()),
    (policy(statement(RIGHT), statement({"Null": {"oidc.circleci.com:sub": "true"}}, Effect="Deny")),
     {"key-without-organization"}),
]  # fmt: skip

GOOD: dict[str, Grant] = {
    "by project id": PLAIN,
    "by subject": BY_SUBJECT,
    "where AWS has no key for the project": CHINA,
    "a self-hosted server": SERVER,
    "a custom audience": replace(PLAIN, audiences=("sts.amazonaws.com",)),
    "two projects": replace(PLAIN, projects=(TrustedProject(id=WEB), TrustedProject(id=API))),
    "forks receive secrets": FORKED,
    "one branch": BRANCH,
    "a branch limit for one of two": replace(
        PLAIN, projects=(TrustedProject(id=API), TrustedProject(id=WEB, origin=ORIGIN, refs=("refs/heads/release/*",)))
    ),
}
MADE: dict[str, Document] = {name: make_trust(grant) for name, grant in GOOD.items()}
