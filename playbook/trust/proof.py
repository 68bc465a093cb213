"""Proves that a trust policy lets in whom it should, and nobody else.

Samples show little: a policy is judged by the worst token that its own patterns let through. For every way in which
an allowing statement can match, `adversary.find` looks for a subject of each unwanted form; what it finds is put to
`evaluate` with every audience that the policy knows. Where no answer is certain the proof fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError
from playbook.iam_policy import Effect, Glob, Policy, Wild, glob, literal, parse
from playbook.trust import adversary
from playbook.trust.adversary import Form
from playbook.trust.evaluation import ASSUME, Outcome, evaluate
from playbook.trust.grants import ANY_ID
from playbook.trust.tokens import CLOUD, PROJECT_ID, Issuer, Token, audit_log_token, job_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from playbook.iam_policy import Condition, Document, Statement
    from playbook.trust.evaluation import Decision
    from playbook.trust.grants import Grant, TrustedProject

USERS: Final = ("5f0c1c52-6a2e-4c67-9d0e-3a7f2b1c4d5e", "00000000-0000-0000-0000-000000000000")
OTHER_ID: Final = "c0ffee00-dead-4bad-8bad-0123456789ab"
"""A project, or an organization, that nobody wants."""
_START: Final = f"org/{OTHER_ID}/project/{OTHER_ID}/"
_ID_AT: Final = len(f"org/{OTHER_ID}/project/")
_PINNED: Final = re.compile(r"org/[^*]{36}/project/[0-9a-f-]{36}/")
OTHER_AUDIENCE: Final = "an-audience-that-nobody-named"
COMBINATIONS_MAX: Final = 2_000
ROLE_ACTIONS: Final = (
    ASSUME,
    "sts:AssumeRole",
    "sts:AssumeRoleWithSAML",
    "sts:SetContext",
    "sts:SetSourceIdentity",
    "sts:TagSession",
)
VIOLATIONS: Final = (
    "refuses-wanted",
    "another-project",
    "another-organization",
    "another-audience",
    "audit-logs",
    "empty-context",
    "fork",
    "another-branch",
    "another-principal",
    "another-action",
    "malformed",
    "not-provable",
)
"""Every code of a `Violation`."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Why a trust policy must not be used for a grant."""

    code: str
    """One of `VIOLATIONS`."""
    sentence: str
    token: Token | None = None
    """The token that shows it."""


@dataclass(frozen=True, kw_only=True)
class _Unwanted:
    """A family of subjects that must stay out: a form, less the patterns of those that may come in."""

    code: str
    what: str
    form: Form
    never: tuple[Glob, ...]
    among: frozenset[str] | None = None
    """The projects of which it consists; None: all but those of the grant."""
    sample: str = ""
    """One of it; empty: to be searched for."""


@dataclass(frozen=True, kw_only=True)
class _Demand:
    """One way in which a statement can match: patterns that the subject must fit, and must not."""

    must: tuple[Glob, ...]
    never: tuple[Glob, ...]

    @property
    def projects(self) -> frozenset[str]:
        """The projects that some pattern of it pins letter by letter."""
        return frozenset(pinned for pattern in self.must if (pinned := _pinned(pattern)))


def _pinned(pattern: Glob) -> str:
    """The project's id, where the pattern is `org/ID/project/` and a whole id; else an empty text."""
    shape = "".join("?" if item is Wild.ONE else "*" if item is Wild.ANY else item for item in pattern[: len(_START)])
    return shape[_ID_AT:-1] if _PINNED.fullmatch(shape) else ""


def prove(policy: Document, grant: Grant) -> tuple[Violation, ...]:
    """Everything that speaks against using this policy for this grant; empty when it is proved right.

    Wanted: the projects of the grant with tokens of both forms, or, where a project's origin or branch matters, with
    those of the second form that name them. Unwanted: everybody and everything else, a restricted project's token of
    the first form included, because a fork has the same. One violation is reported for each code and project.
    """
    try:
        parsed = parse(policy, trust=True)
    except GuardError as error:
        return (Violation(code="malformed", sentence=error.message),)
    found: dict[tuple[str, str], Violation] = {}
    checks = (_wanted, _strange_contexts, _strange_audiences, _strange_subjects, _strange_principals)
    for check in checks:
        for violation in check(parsed, grant):
            project = violation.token.project if violation.token and violation.code == "refuses-wanted" else ""
            found.setdefault((violation.code, project), violation)
    return tuple(found.values())


# --- Those who are wanted -------------------------------------------------------------------------------------------


def wanted_tokens(grant: Grant) -> Iterator[Token]:
    """Tokens that a policy for this grant must let in: every project, every form, every audience."""
    for project in grant.projects:
        for audience in grant.accepted:
            for user in USERS:
                if not project.is_restricted:
                    yield job_token(grant.issuer, project.id, user=user, audience=audience)
                origin = project.origin or "github.com/acme/web"
                for ref in _some_refs(project):
                    yield job_token(grant.issuer, project.id, user=user, audience=audience, origin=origin, ref=ref)


def _some_refs(project: TrustedProject) -> tuple[str, ...]:
    if not project.refs:
        return ("refs/heads/main", "refs/tags/v1.0", "refs/pull/7/head")
    return tuple(ref.replace("*", filling) for ref in project.refs for filling in ("x", "1.0/y"))


def _wanted(policy: Policy, grant: Grant) -> Iterator[Violation]:
    for token in (*wanted_tokens(grant), *_left_out(policy, grant)):
        decision = _decide(policy, grant, token)
        if not decision.allows:
            said = _said(decision)
            yield Violation(
                code="refuses-wanted",
                sentence=f"Project {token.project} is not let in with the subject {token.subject}: {said}.",
                token=token,
            )


def _left_out(policy: Policy, grant: Grant) -> Iterator[Token]:
    """A token of each project that no allowing pattern fits, and one that a denying pattern does, where there are any.

    They are only candidates, so a search that does not end leaves them out: what is refused harms nobody.
    """
    allow, deny = _simple_patterns(policy, grant)
    fixed = [(pattern, _fixed(pattern)) for pattern in allow]
    for project in grant.projects:
        near = tuple(pattern for pattern, text in fixed if project.id in text)
        for form in _wanted_forms(grant, project):
            for must, never in (((), near), *(((pattern,), ()) for pattern in deny)):
                try:
                    subject = adversary.find(form, must=must, never=never)
                except adversary.TooManyStatesError:
                    continue
                if subject is not None:
                    yield _token(grant.issuer, subject, grant.accepted[0])


def _simple_patterns(policy: Policy, grant: Grant) -> tuple[tuple[Glob, ...], tuple[Glob, ...]]:
    """The patterns of subjects that are enough by themselves to allow, and those that are enough to deny."""
    found: dict[Effect, list[Glob]] = {Effect.ALLOW: [], Effect.DENY: []}
    for statement in policy.statements:
        for condition in _about_subjects(statement, grant):
            if not condition.is_negated:
                found[statement.effect] += [_pattern(condition, value, grant.issuer) for value in condition.values]
    return tuple(found[Effect.ALLOW]), tuple(found[Effect.DENY])


def _fixed(pattern: Glob) -> str:
    """A pattern as text, with what is not fixed left blank, to see quickly whether a project's id may stand in it."""
    return _pinned(pattern) or "".join(item if isinstance(item, str) else " " for item in pattern)


def _wanted_forms(grant: Grant, project: TrustedProject) -> Iterator[Form]:
    start = (
        *adversary.text(f"org/{grant.issuer.organization}/project/{project.id}/user/"),
        *adversary.identifier(),
    )
    if not project.is_restricted:
        yield start
    for ref in project.refs or ("refs/heads/*",):
        origin = adversary.text(f"/vcs-origin/{project.origin or 'github.com/acme/web'}/vcs-ref/")
        pieces = [adversary.text(part) for part in ref.split("*")]
        filled = [piece for part in pieces[1:] for piece in (*adversary.reference(), *part)]
        yield (*start, *origin, *pieces[0], *filled)


def _decide(policy: Policy, grant: Grant, token: Token) -> Decision:
    return evaluate(policy, grant.provider, token.keys(grant.partition))


def _said(decision: Decision) -> str:
    if decision.outcome is Outcome.UNDECIDED:
        on = ", ".join(decision.open_keys) or "how IAM reads a statement"
        return f"it depends on {on}, which a token does not decide"
    return decision.outcome.value


# --- Those who are not ----------------------------------------------------------------------------------------------


def _strange_contexts(policy: Policy, grant: Grant) -> Iterator[Violation]:
    """No claim at all, only some, and the token with which CircleCI streams audit logs."""
    issuer = grant.issuer
    token = job_token(issuer, grant.projects[0].id, user=USERS[0], audience=grant.accepted[0])
    claims = token.keys(grant.partition)
    pieces: tuple[Mapping[str, tuple[str, ...]], ...] = (
        {},
        {issuer.key("aud"): claims[issuer.key("aud")]},
        {key: value for key, value in claims.items() if key != issuer.key("aud")},
    )
    for piece in pieces:
        decision = evaluate(policy, grant.provider, piece)
        if not decision.refuses:
            lacking = "without any claim" if not piece else f"with nothing but {', '.join(sorted(piece))}"
            yield Violation(code="empty-context", sentence=f"A request {lacking} is not refused: {_said(decision)}.")
    for audience in _audiences(policy, grant):
        stream = audit_log_token(issuer, audience)
        decision = _decide(policy, grant, stream)
        if not decision.refuses:
            yield Violation(
                code="audit-logs",
                sentence=f"CircleCI's own stream of audit logs is not refused: {_said(decision)}.",
                token=stream,
            )


def _audiences(policy: Policy, grant: Grant) -> tuple[str, ...]:
    """Those that are wanted, one that is not, and one for each audience that the policy knows.

    A job chooses its audience freely (`circleci run oidc get`), so an attacker inside the organization does.
    """
    key = grant.issuer.key("aud").lower()
    named = [
        value.replace("*", "x").replace("?", "x") if condition.is_pattern else value
        for statement in policy.statements
        for condition in statement.conditions
        if condition.key.lower() == key
        for value in condition.values
    ]
    return tuple(dict.fromkeys((*grant.accepted, OTHER_AUDIENCE, *named)))


def _strange_audiences(policy: Policy, grant: Grant) -> Iterator[Violation]:
    for audience in _audiences(policy, grant):
        if audience in grant.accepted:
            continue
        for project in grant.projects:
            for origin, ref in (("", ""), (project.origin or "github.com/acme/web", _some_refs(project)[0])):
                token = job_token(grant.issuer, project.id, user=USERS[0], audience=audience, origin=origin, ref=ref)
                decision = _decide(policy, grant, token)
                if not decision.refuses:
                    yield Violation(
                        code="another-audience",
                        sentence=f"A token for the audience {audience} is not refused: {_said(decision)}.",
                        token=token,
                    )


def _strange_subjects(policy: Policy, grant: Grant) -> Iterator[Violation]:
    audiences = _audiences(policy, grant)
    entangled = _is_entangled(policy, grant)
    demands = _demands(policy, grant)
    for family in _families(grant):
        try:
            plain = family.sample or adversary.find(family.form, must=(), never=family.never)
            subjects = [*([plain] if plain else []), *_slipping(family, demands, grant)]
        except adversary.TooManyStatesError:
            yield _not_provable(family)
            continue
        for subject in subjects:
            for audience in audiences:
                token = _token(grant.issuer, subject, audience)
                decision = _decide(policy, grant, token)
                if not decision.refuses:
                    sentence = f"{family.what} is not refused ({_said(decision)}): {subject}"
                    yield Violation(code=family.code, sentence=f"{sentence}.", token=token)
        if entangled and len(subjects) > 1:
            yield _not_provable(family)


def _not_provable(family: _Unwanted) -> Violation:
    return Violation(
        code="not-provable",
        sentence=f"The policy is too entangled to prove that this stays out: {family.what[:1].lower()}"
        f"{family.what[1:]}.",
    )


def _slipping(family: _Unwanted, demands: Sequence[_Demand] | None, grant: Grant) -> list[str]:
    """A subject of the family for each demand that some of it meets.

    Ids of projects are unique over all organizations, so a demand that pins a project is met by that one alone.
    """
    if demands is None:
        raise adversary.TooManyStatesError
    ours = frozenset(project.id for project in grant.projects)
    found: list[str] = []
    for demand in demands:
        pinned = demand.projects
        if pinned & ours if family.among is None else pinned - family.among:
            continue
        never = tuple(
            pattern
            for pattern in (*family.never, *demand.never)
            if not any(adversary.disjoint(pattern, wanted) for wanted in demand.must)
        )
        subject = adversary.find(family.form, must=demand.must, never=never)
        if subject is not None:
            found.append(subject)
    return found


def _token(issuer: Issuer, subject: str, audience: str) -> Token:
    """The token of a subject; every job's subject has its project in the fourth place."""
    parts = subject.split("/")
    return Token(issuer=issuer, subject=subject, audiences=(audience,), project=parts[3] if len(parts) > 4 else "")  # noqa: PLR2004


def _families(grant: Grant) -> Iterator[_Unwanted]:
    """Every kind of subject that must stay out."""
    organization = grant.issuer.organization
    inside = adversary.text(f"org/{organization}/project/")
    user = (*adversary.text("/user/"), *adversary.identifier())
    code = (
        *adversary.text("/vcs-origin/"),
        *adversary.name(),
        *adversary.text("/"),
        *adversary.reference(),
        *adversary.text("/vcs-ref/refs/"),
        *adversary.reference(),
    )
    anyone = (*adversary.identifier(), *adversary.text("/project/"), *adversary.identifier(), *user)
    ours = tuple(glob(f"org/{organization}/project/{project.id}/*") for project in grant.projects)
    stranger = Issuer.cloud(OTHER_ID)
    for tail, origin, ref in (((), "", ""), (code, "github.com/somebody/web", "refs/heads/main")):
        form = (*inside, *adversary.identifier(), *user, *tail)
        yield _Unwanted(
            code="another-project",
            what="Another project",
            form=form,
            never=ours,
            sample=job_token(grant.issuer, OTHER_ID, user=USERS[0], origin=origin, ref=ref).subject,
        )
        yield _Unwanted(
            code="another-organization",
            what="Another organization",
            sample=job_token(stranger, USERS[0], user=USERS[0], origin=origin, ref=ref).subject,
            form=(*adversary.text("org/"), *anyone, *tail),
            never=(
                glob(f"org/{organization}/*"),
                *(glob(f"org/*/project/{project.id}/*") for project in grant.projects),
            ),
        )
    for project in grant.projects:
        if project.is_restricted:
            start = f"org/{organization}/project/{project.id}"
            yield from _restricted_families(project, (*adversary.text(start), *user), start)


def _restricted_families(project: TrustedProject, start: Form, subject: str) -> Iterator[_Unwanted]:
    """What one project's own builds must not do: come from a fork, from another branch, or from who knows where."""
    code = "fork" if project.forks_receive_secrets else "another-branch"
    among = frozenset({project.id})
    what = "A token that does not say where the code came from"
    yield _Unwanted(code=code, what=what, form=start, never=(), among=among)
    host = project.origin.split("/", maxsplit=1)[0]
    origin = f"{subject}/user/{ANY_ID}/vcs-origin/{project.origin}/vcs-ref"
    yield _Unwanted(
        code="fork",
        what="A build of a fork",
        form=(
            *start,
            *adversary.text(f"/vcs-origin/{host}/"),
            *adversary.name(),
            *adversary.text("/"),
            *adversary.name(),
            *adversary.text("/vcs-ref/refs/"),
            *adversary.reference(),
        ),
        never=(glob(f"{origin}/*"),),
        among=among,
    )
    if project.refs:
        yield _Unwanted(
            code="another-branch",
            what="A branch that may not",
            form=(*start, *adversary.text(f"/vcs-origin/{project.origin}/vcs-ref/refs/"), *adversary.reference()),
            never=tuple(glob(f"{origin}/{ref}") for ref in project.refs),
            among=among,
        )


# --- How a policy can match -----------------------------------------------------------------------------------------


def _demands(policy: Policy, grant: Grant) -> list[_Demand] | None:
    """Every way in which an allowing statement can match a subject; None when they are too many to try."""
    escapes = [
        _escapes(statement, grant)
        for statement in policy.statements
        if statement.effect is Effect.DENY and _denies_the_provider(policy, statement, grant)
    ]
    found: list[_Demand] = []
    for statement in policy.statements:
        if statement.effect is Effect.DENY:
            continue
        choices = [_choices(condition, grant.issuer) for condition in _about_subjects(statement, grant)]
        for combination in islice(product(*choices, *escapes), COMBINATIONS_MAX + 1):
            found.append(
                _Demand(
                    must=tuple(pattern for demand in combination for pattern in demand.must),
                    never=tuple(pattern for demand in combination for pattern in demand.never),
                )
            )
            if len(found) > COMBINATIONS_MAX:
                return None
    return found


def _denies_the_provider(policy: Policy, statement: Statement, grant: Grant) -> bool:
    """Whether a statement surely denies our provider, its conditions apart: only then is there something to escape."""
    bare = Policy(version=policy.version, statements=(replace(statement, conditions=()),))
    return evaluate(bare, grant.provider, {}).outcome is Outcome.EXPLICITLY_DENIED


def _claim_keys(grant: Grant) -> set[str]:
    """The keys that tell one subject from another; where AWS has none for the project's id it tells nothing."""
    issuer = grant.issuer
    pinned = {issuer.key(PROJECT_ID).lower()} if issuer.maps_project_id(grant.partition) else set()
    return {issuer.key("sub").lower()} | pinned


def _about_subjects(statement: Statement, grant: Grant) -> list[Condition]:
    keys = _claim_keys(grant)
    return [
        condition
        for condition in statement.conditions
        if condition.key.lower() in keys and condition.base.startswith("String")
    ]


def _choices(condition: Condition, issuer: Issuer) -> list[_Demand]:
    """One demand for each value that is enough, or a single one to avoid them all."""
    patterns = tuple(_pattern(condition, value, issuer) for value in condition.values)
    if condition.is_negated:
        return [_Demand(must=(), never=patterns)]
    return [_Demand(must=(pattern,), never=()) for pattern in patterns]


def _pattern(condition: Condition, value: str, issuer: Issuer) -> Glob:
    """The subjects that a value lets match, all of them and perhaps more: `evaluate` has the last word."""
    if "${" in value:
        return (Wild.ANY,)
    pattern = glob(value) if condition.is_pattern else literal(value)
    if condition.base.endswith("IgnoreCase"):
        pattern = tuple(Wild.ONE if isinstance(item, str) and item.isalpha() else item for item in pattern)
    if condition.key.lower() == issuer.key(PROJECT_ID).lower():
        return (*glob(f"org/{ANY_ID}/project/"), *pattern, *glob("/user/*"))
    return pattern


def _escapes(statement: Statement, grant: Grant) -> list[_Demand]:
    """How a subject gets past a denying statement that has one condition, on the subject."""
    about = _about_subjects(statement, grant)
    if len(about) != 1 or len(statement.conditions) != 1:
        return [_Demand(must=(), never=())]
    patterns = tuple(_pattern(about[0], value, grant.issuer) for value in about[0].values)
    if about[0].is_negated:
        return [_Demand(must=(pattern,), never=()) for pattern in patterns]
    return [_Demand(must=(), never=patterns)]


def _is_entangled(policy: Policy, grant: Grant) -> bool:
    """Whether there are ways to match or to escape that `_demands` only knows roughly.

    Then a subject that was found and refused says nothing of its likes.
    """
    if any("${" in value for item in policy.statements for condition in item.conditions for value in condition.values):
        return True
    claims = _claim_keys(grant)
    for statement in policy.statements:
        about = [condition for condition in statement.conditions if condition.key.lower() in claims]
        if any("IgnoreCase" in condition.base for condition in about):
            return True
        if statement.effect is Effect.DENY and about and len(statement.conditions) > 1:
            return True
    return False


# --- Other callers, other actions -----------------------------------------------------------------------------------


def _strange_principals(policy: Policy, grant: Grant) -> Iterator[Violation]:
    """Any caller but the provider, and any action but the one: nothing of their requests is known."""
    actions = dict.fromkeys(
        (
            *ROLE_ACTIONS,
            *(
                pattern.replace("*", "X").replace("?", "X")
                for statement in policy.statements
                if not statement.not_actions
                for pattern in statement.actions
            ),
        )
    )
    for kind, arn in _callers(policy, grant):
        for action in actions:
            ours = kind == "Federated" and arn == grant.provider
            if ours and action.lower() == ASSUME.lower():
                continue
            decision = evaluate(policy, arn, {}, kind=kind, action=action, unknown=("*",))
            if decision.refuses:
                continue
            if ours:
                yield Violation(code="another-action", sentence=f"The provider is not refused {action}.")
            else:
                yield Violation(code="another-principal", sentence=f"{arn} is not refused {action}.")


def _callers(policy: Policy, grant: Grant) -> Sequence[tuple[str, str]]:
    iam = f"arn:{grant.partition}:iam::{grant.account}"
    stranger = Issuer.cloud(OTHER_ID).provider(partition=grant.partition, account=grant.account)
    named = [
        (principal.kind, principal.value)
        for statement in policy.statements
        for principal in statement.principals
        if principal.value != "*" and not statement.not_principals
    ]
    return tuple(
        dict.fromkeys(
            (
                ("Federated", grant.provider),
                ("Federated", stranger),
                ("Federated", f"{iam}:oidc-provider/{CLOUD}"),
                ("Federated", f"{iam}:saml-provider/somebody"),
                ("AWS", f"{iam}:user/somebody"),
                ("AWS", f"arn:{grant.partition}:iam::999999999999:role/somebody"),
                ("Service", "ec2.amazonaws.com"),
                *named,
            )
        )
    )
