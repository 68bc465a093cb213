"""What is wrong with a trust policy that exists, said so that a person can put it right.

`prove` says whether a policy lets in the right ones; a lint says why not, and also names what works today and breaks
with the next orb. The rules are the faults that were seen in public policies and in CircleCI's own pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError
from playbook.iam_policy import Effect, Statement, Wild, action_matches, glob, like, parse
from playbook.trust.evaluation import ASSUME
from playbook.trust.tokens import CLOUD, PROJECT_ID, Issuer, is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playbook.iam_policy import Condition, Document, Policy

DOCUMENTED_AUDIENCE: Final = "sts.amazonaws.com"
"""What CircleCI's page told people to write from 2026-03-26 to 2026-08-17; a job's token does not carry it."""
CLAIMS_THAT_ARE_NO_KEYS: Final = (
    "org-id", "context-ids", "job-id", "workflow-id", "pipeline-id", "pipeline-definition-id", "vcs-origin", "vcs-ref",
    "ssh-rerun",
)  # fmt: skip
_NO_KEYS: Final = tuple(text for claim in CLAIMS_THAT_ARE_NO_KEYS for text in (f"{CLOUD}/{claim}", f":{claim}"))


class Severity(StrEnum):
    """How bad it is."""

    OPEN = "open"
    """Somebody gets in who should not."""
    BROKEN = "broken"
    """Somebody who should get in does not, or a condition never does anything."""
    FRAGILE = "fragile"
    """It works today, or it cannot be told from the policy alone."""


LINTS: Final = {
    "another-provider": Severity.OPEN,
    "any-audience": Severity.OPEN,
    "any-principal": Severity.OPEN,
    "audience-only": Severity.OPEN,
    "branch-can-be-forged": Severity.OPEN,
    "for-all-values": Severity.OPEN,
    "if-exists": Severity.OPEN,
    "no-audience": Severity.OPEN,
    "not-principal": Severity.OPEN,
    "only-not": Severity.OPEN,
    "organization-wide": Severity.OPEN,
    "root-issuer": Severity.OPEN,
    "wildcard-in-project": Severity.OPEN,
    "claim-is-no-key": Severity.BROKEN,
    "claim-not-sent": Severity.BROKEN,
    "documented-audience": Severity.BROKEN,
    "foreign-audience": Severity.BROKEN,
    "key-of-another-issuer": Severity.BROKEN,
    "key-with-scheme": Severity.BROKEN,
    "key-without-organization": Severity.BROKEN,
    "malformed": Severity.BROKEN,
    "name-for-an-id": Severity.BROKEN,
    "no-subject-of-circleci": Severity.BROKEN,
    "project-id-elsewhere": Severity.BROKEN,
    "subject-of-another-organization": Severity.BROKEN,
    "wildcard-in-equals": Severity.BROKEN,
    "wrong-action": Severity.BROKEN,
    "another-principal": Severity.FRAGILE,
    "broad-action": Severity.FRAGILE,
    "extra-audience": Severity.FRAGILE,
    "first-form-only": Severity.FRAGILE,
    "not-in-the-token": Severity.FRAGILE,
}
"""Every code, and how bad it is."""


@dataclass(frozen=True, kw_only=True)
class Lint:
    """One fault of one statement (from 1; 0 is the whole document)."""

    code: str
    severity: Severity
    statement: int
    sentence: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One allowing statement and what it is held against."""

    number: int
    statement: Statement
    issuer: Issuer
    partition: str
    account: str
    audiences: tuple[str, ...]

    def conditions(self, claim: str) -> tuple[Condition, ...]:
        """The statement's conditions on a claim of the issuer."""
        key = self.issuer.key(claim).lower()
        return tuple(condition for condition in self.statement.conditions if condition.key.lower() == key)

    def found(self, code: str, sentence: str, remedy: str) -> Lint:
        return Lint(code=code, severity=LINTS[code], statement=self.number, sentence=sentence, remedy=remedy)


def lint(
    policy: Document, issuer: Issuer, *, partition: str, account: str, audiences: tuple[str, ...] = ()
) -> tuple[Lint, ...]:
    """Every fault of a role's trust policy, as far as it concerns this organization's tokens.

    `audiences` are those in force; empty is the organization's id. A policy that names neither the issuer nor its
    provider nor everybody concerns others: it gets no lint.
    """
    try:
        parsed = parse(policy, trust=True)
    except GuardError as error:
        remedy = error.remedy
        return (
            Lint(code="malformed", severity=LINTS["malformed"], statement=0, sentence=error.message, remedy=remedy),
        )
    if not _concerns(parsed, issuer):
        return ()
    found: list[Lint] = []
    for number, statement in enumerate(parsed.statements, start=1):
        look = _Look(
            number=number,
            statement=statement,
            issuer=issuer,
            partition=partition,
            account=account,
            audiences=audiences or (issuer.organization,),
        )
        rules = _ALLOW_RULES if statement.effect is Effect.ALLOW else _ANY_RULES
        found += [item for rule in rules for item in rule(look)]
    return tuple(dict.fromkeys(found))


def _concerns(policy: Policy, issuer: Issuer) -> bool:
    hosts = (CLOUD, issuer.name)
    return any(
        principal.value == "*" or statement.not_principals or any(host in principal.value for host in hosts)
        for statement in policy.statements
        for principal in statement.principals
    ) or any(
        any(host in condition.key.lower() for host in hosts)
        for statement in policy.statements
        for condition in statement.conditions
    )


def _is_ours(look: _Look) -> bool:
    """Whether the statement lets tokens of this issuer in, as far as principal and action go."""
    provider = look.issuer.provider(partition=look.partition, account=look.account)
    named = any(principal.value in {"*", provider} for principal in look.statement.principals)
    acts = any(action_matches(pattern, ASSUME) for pattern in look.statement.actions) is not look.statement.not_actions
    return (named or look.statement.not_principals) and acts


# --- Principals and actions -----------------------------------------------------------------------------------------


def _principals(look: _Look) -> Iterator[Lint]:
    statement = look.statement
    if statement.not_principals:
        yield look.found(
            "not-principal",
            "It allows everybody but the principals it names.",
            "Name the identity provider under Principal instead of NotPrincipal.",
        )
        return
    provider = look.issuer.provider(partition=look.partition, account=look.account)
    for principal in statement.principals:
        if principal.value == "*":
            yield look.found(
                "any-principal",
                "Its principal is everybody, in every account.",
                f"Name the identity provider: {provider}.",
            )
        elif principal.value.endswith(f":oidc-provider/{CLOUD}"):
            yield look.found(
                "root-issuer",
                "It trusts the issuer that all organizations of CircleCI share.",
                f"Trust the organization's own issuer: {provider}.",
            )
        elif principal.value != provider and CLOUD in principal.value:
            yield look.found(
                "another-provider",
                f"It trusts {principal.value}, which is not this organization's identity provider in this account.",
                f"Name {provider}, without a scheme and with this account's number.",
            )
        elif principal.value != provider:
            yield look.found(
                "another-principal",
                f"It lets in {principal.value} too, which no token of CircleCI's has to do with.",
                "Give others a role of their own, so that each can be closed alone.",
            )


def _actions(look: _Look) -> Iterator[Lint]:
    statement = look.statement
    if statement.not_actions or any("*" in action or "?" in action for action in statement.actions):
        yield look.found(
            "broad-action",
            "It allows more than the one action that a token needs.",
            f"Allow {ASSUME} and nothing else.",
        )
    elif any(principal.kind == "Federated" for principal in statement.principals) and not any(
        action_matches(action, ASSUME) for action in statement.actions
    ):
        yield look.found(
            "wrong-action",
            f"It names an identity provider and not {ASSUME}, so no token ever assumes the role by it.",
            f"Allow {ASSUME}.",
        )


# --- Keys -----------------------------------------------------------------------------------------------------------


def _keys(look: _Look) -> Iterator[Lint]:
    """Keys that no request has; under an allowing statement they brick the role, negated they do nothing."""
    for condition in look.statement.conditions:
        key = condition.key.lower()
        if key.startswith(("aws:", "sts:")):
            yield look.found(
                "not-in-the-token",
                f"Whether it matches depends on {condition.key}, which the caller's place or call decides.",
                "Pin the project by its token, and keep such a condition only beside that.",
            )
        elif key not in {look.issuer.key("aud").lower(), look.issuer.key("sub").lower()}:
            reason = _why_dead(look, key)
            if reason is not None:
                yield _dead(look, condition, *reason)


def _why_dead(look: _Look, key: str) -> tuple[str, str] | None:
    """Why no request of this issuer has the key, as a code and in words; None when one may have it."""
    issuer = look.issuer
    if key == issuer.key(PROJECT_ID).lower():
        if issuer.maps_project_id(look.partition):
            return None
        return "project-id-elsewhere", f"AWS makes none of that claim for this issuer in {look.partition}"
    name = key.rpartition(":")[0]
    cases: tuple[tuple[bool, str, str], ...] = (
        (key.startswith("https://"), "key-with-scheme", "AWS's keys begin with the issuer without https://"),
        (key.endswith((":amr", ":azp")), "claim-not-sent", "CircleCI's tokens do not carry that claim"),
        (key.endswith(_NO_KEYS), "claim-is-no-key", "AWS makes no key of that claim"),
        (key.startswith((f"{CLOUD}:", PROJECT_ID)), "key-without-organization", "it lacks the organization's part"),
        (CLOUD in name, "key-of-another-issuer", "it is no key of this organization's issuer"),
    )
    return next(((code, why) for applies, code, why in cases if applies), None)


def _dead(look: _Look, condition: Condition, code: str, why: str) -> Lint:
    issuer = look.issuer
    known = [issuer.key("aud"), issuer.key("sub")]
    if issuer.maps_project_id(look.partition):
        known.append(issuer.key(PROJECT_ID))
    return look.found(
        code,
        f"No request ever has the key {condition.key}: {why}.",
        f"Use {', '.join(known[:-1])} or {known[-1]}.",
    )


def _operators(look: _Look) -> Iterator[Lint]:
    """Operators that let an absent claim through, and those that take a wildcard for a letter."""
    for condition in (*look.conditions("aud"), *look.conditions("sub"), *look.conditions(PROJECT_ID)):
        told = f"{condition.operator} on {condition.key}"
        if condition.quantifier == "ForAllValues":
            yield look.found(
                "for-all-values",
                f"{told} holds when the claim is absent.",
                f"Write {condition.base} without the quantifier: the claim has one value.",
            )
        if condition.if_exists:
            yield look.found(
                "if-exists",
                f"{told} holds when the claim is absent.",
                f"Write {condition.base} without IfExists.",
            )
        if condition.base == "StringEquals" and any(set(value) & set("*?") for value in condition.values):
            yield look.found(
                "wildcard-in-equals",
                f"{told} takes its wildcard for a letter, so it never matches.",
                "Write StringLike.",
            )
        if condition.is_negated and look.statement.effect is Effect.ALLOW:
            yield look.found(
                "only-not",
                f"{told} lets in everything that it does not name.",
                "Name what may come in.",
            )


# --- Values ---------------------------------------------------------------------------------------------------------


def _audience(look: _Look) -> Iterator[Lint]:
    if not _is_ours(look):
        return
    positive = [condition for condition in look.conditions("aud") if not condition.is_negated]
    values = [value for condition in positive for value in condition.values]
    right = ", ".join(look.audiences)
    if not positive:
        yield look.found(
            "no-audience",
            "It does not look at the audience.",
            f"Add StringEquals on {look.issuer.key('aud')} with {right}.",
        )
    elif any(condition.is_pattern and _is_wide(value) for condition in positive for value in condition.values):
        yield look.found("any-audience", "It takes every audience.", f"Name the audience: {right}.")
    elif not any(value in look.audiences for value in values):
        documented = DOCUMENTED_AUDIENCE in values
        told = "CircleCI's page said so for some months of 2026" if documented else "no custom audience says so"
        yield look.found(
            "documented-audience" if documented else "foreign-audience",
            f"It wants the audience {', '.join(values)}, which a job's token does not carry ({told}).",
            f"Write {right}.",
        )
    elif any(value not in look.audiences for value in values):
        extra = ", ".join(value for value in values if value not in look.audiences)
        yield look.found(
            "extra-audience",
            f"It also takes the audience {extra}, which any job can ask for.",
            f"Leave only {right}.",
        )


def _is_wide(value: str) -> bool:
    return set(value) <= set("*?")


def _who(look: _Look) -> Iterator[Lint]:
    """Whether a project is pinned at all."""
    if not _is_ours(look):
        return
    pins = [
        condition
        for condition in (*look.conditions("sub"), *look.conditions(PROJECT_ID))
        if not condition.is_negated and condition.base != "Null"
    ]
    remedy = f"Pin the project by {look.issuer.key('sub')}"
    if look.issuer.maps_project_id(look.partition):
        remedy = f"Pin the project by {look.issuer.key(PROJECT_ID)}"
    if not pins:
        yield look.found(
            "audience-only",
            "It looks at no project: every job of the organization gets in, and so does the stream of audit logs.",
            f"{remedy}.",
        )


def _subjects(look: _Look) -> Iterator[Lint]:
    for condition in look.conditions("sub"):
        if condition.is_negated or condition.base == "Null":
            continue
        for value in condition.values:
            yield from _subject(look, condition, value)
    for condition in look.conditions(PROJECT_ID):
        for value in condition.values:
            if condition.is_pattern and set(value) & set("*?"):
                yield _wide_project(look, value)
            elif not is_id(value) and not set(value) & set("*?$"):
                yield _name_for_an_id(look, value)


def _subject(look: _Look, condition: Condition, value: str) -> Iterator[Lint]:
    organization = look.issuer.organization
    parts = value.split("/")
    if condition.is_pattern and like(value, f"org/{organization}/file-streaming/audit-logs"):
        yield look.found(
            "organization-wide",
            f"{value} fits every project, and the stream of audit logs.",
            f"Name the project: org/{organization}/project/PROJECT/user/*.",
        )
        return
    if len(parts) < 4 or parts[0] != "org" or parts[2] != "project":  # noqa: PLR2004  # org/O/project/P
        yield look.found(
            "no-subject-of-circleci",
            f"{value} is not how CircleCI's subjects begin.",
            f"Write org/{organization}/project/PROJECT/user/*.",
        )
        return
    if parts[1] != organization and not set(parts[1]) & set("*?"):
        yield look.found(
            "subject-of-another-organization",
            f"{value} names another organization than the issuer's, so it never matches.",
            f"Write org/{organization}/project/PROJECT/user/*.",
        )
    if condition.is_pattern and set(parts[3]) & set("*?"):
        yield _wide_project(look, value)
    elif not is_id(parts[3]):
        yield _name_for_an_id(look, value)
    yield from _after_the_project(look, condition, value)


def _after_the_project(look: _Look, condition: Condition, value: str) -> Iterator[Lint]:
    """Where tokens of the second form go on after the user."""
    _, marker, code = value.partition("/vcs-origin/")
    if not marker:
        if not condition.is_pattern or (Wild.ANY not in glob(value)):
            yield look.found(
                "first-form-only",
                f"{value} fits tokens of the first form alone; newer orbs send the second.",
                f"Write StringLike with {'/'.join(value.split('/')[:5])}/*.",
            )
        return
    user = value.partition("/user/")[2].partition("/vcs-origin/")[0]
    origin, _, _ = code.partition("/vcs-ref/")
    if condition.is_pattern and ("*" in user or "*" in origin):
        yield look.found(
            "branch-can-be-forged",
            f"{value} has a * before the origin or the branch; * runs across /, so a branch called "
            "x/vcs-origin/.../vcs-ref/... passes for any other.",
            "Write the user as ????????-????-????-????-???????????? and the origin in full.",
        )


def _wide_project(look: _Look, value: str) -> Lint:
    return look.found(
        "wildcard-in-project",
        f"{value} fits more than one project.",
        "Write each project's whole id.",
    )


def _name_for_an_id(look: _Look, value: str) -> Lint:
    return look.found(
        "name-for-an-id",
        f"{value} has no UUID in small letters where the project's id stands, so it never matches.",
        "Take the project's id, letter by letter.",
    )


_ANY_RULES: Final[tuple[Callable[[_Look], Iterator[Lint]], ...]] = (_keys,)
_ALLOW_RULES: Final[tuple[Callable[[_Look], Iterator[Lint]], ...]] = (
    _principals,
    _actions,
    _audience,
    _who,
    _keys,
    _operators,
    _subjects,
)
