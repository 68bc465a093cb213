"""What IAM decides about one request to assume a role, from the role's trust policy alone.

A decision may be undecided: a condition on `aws:SourceIp` holds or not by where the caller stands, which no token
says. Whoever needs a yes takes only `allows`, whoever needs a no takes only `refuses`; undecided is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.iam_policy import Effect, Policy, action_matches, parse
from playbook.trust.conditions import Context, Truth, every, holds, some

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.iam_policy import Document, Principal, Statement

ASSUME: Final = "sts:AssumeRoleWithWebIdentity"
OPEN_KEYS: Final = ("aws:*", "sts:*")
"""Keys that depend on the call, not on the token: address, time, session name, tags."""


class Outcome(StrEnum):
    """IAM's three answers, and ours where none of them is certain."""

    ALLOWED = "allowed"
    IMPLICITLY_DENIED = "implicitly denied"
    EXPLICITLY_DENIED = "explicitly denied"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The outcome and the statements (from 1) that made it."""

    outcome: Outcome
    statements: tuple[int, ...] = ()
    open_keys: tuple[str, ...] = ()
    """UNDECIDED: the keys on which it depends."""

    @property
    def allows(self) -> bool:
        """Whether the role is assumed, wherever the caller stands."""
        return self.outcome is Outcome.ALLOWED

    @property
    def refuses(self) -> bool:
        """Whether the role is not assumed, wherever the caller stands."""
        return self.outcome in {Outcome.IMPLICITLY_DENIED, Outcome.EXPLICITLY_DENIED}


def evaluate(
    policy: Document | Policy,
    principal: str,
    claims: Mapping[str, str | tuple[str, ...]],
    *,
    kind: str = "Federated",
    action: str = ASSUME,
    unknown: tuple[str, ...] = OPEN_KEYS,
) -> Decision:
    """Decide one request.

    `principal` is the ARN of the identity provider (or, with another `kind`, of whoever calls); `claims` are condition
    keys with one or several values, as `Token.keys` makes them. A key that is neither in them nor fits `unknown` is
    absent. Raises `GuardError` when the policy is none.
    """
    parsed = policy if isinstance(policy, Policy) else parse(policy, trust=True)
    context = Context(
        values={key.lower(): (value,) if isinstance(value, str) else tuple(value) for key, value in claims.items()},
        unknown=unknown,
    )
    caller = (kind, principal)
    found = [
        (number, statement, _matches(statement, caller, action, context, with_variables=parsed.has_variables))
        for number, statement in enumerate(parsed.statements, start=1)
    ]
    allow = [(number, statement, truth) for number, statement, truth in found if statement.effect is Effect.ALLOW]
    deny = [(number, statement, truth) for number, statement, truth in found if statement.effect is Effect.DENY]
    if some(truth for _, _, truth in deny):
        numbers = tuple(number for number, _, truth in deny if truth)
        return Decision(outcome=Outcome.EXPLICITLY_DENIED, statements=numbers)
    allowed = some(truth for _, _, truth in allow)
    denied = some(truth for _, _, truth in deny)
    if allowed is False:
        return Decision(outcome=Outcome.IMPLICITLY_DENIED)
    if allowed and denied is False:
        numbers = tuple(number for number, _, truth in allow if truth)
        return Decision(outcome=Outcome.ALLOWED, statements=numbers)
    doubtful = [(number, statement) for number, statement, truth in found if truth is None]
    keys = {
        condition.key
        for _, statement in doubtful
        for condition in statement.conditions
        if holds(condition, context, with_variables=parsed.has_variables) is None
    }
    numbers = tuple(number for number, _ in doubtful)
    return Decision(outcome=Outcome.UNDECIDED, statements=numbers, open_keys=tuple(sorted(keys)))


def _matches(
    statement: Statement, caller: tuple[str, str], action: str, context: Context, *, with_variables: bool
) -> Truth:
    named = any(action_matches(pattern, action) for pattern in statement.actions)
    if named is statement.not_actions:
        return False
    principal = _names(statement, caller)
    if principal is False:
        return False
    return every(
        [principal, *(holds(condition, context, with_variables=with_variables) for condition in statement.conditions)]
    )


def _names(statement: Statement, caller: tuple[str, str]) -> Truth:
    found = some(_is(principal, caller) for principal in statement.principals)
    if not statement.not_principals:
        return found
    return found if found is None else not found


def _is(principal: Principal, caller: tuple[str, str]) -> Truth:
    """Whether a principal of the policy is the caller.

    IAM takes no pattern within an ARN here, and does not say whether `{"AWS": "*"}` covers a federated caller.
    """
    kind, arn = caller
    if principal.kind == "*":
        return True
    if principal.value == "*":
        return True if principal.kind == kind else (None if principal.kind == "AWS" else False)
    if principal.kind != kind:
        return False
    if kind == "AWS" and _account(principal.value):
        # The account stands for everyone in it whom its own policies let.
        return arn == principal.value or f":{_account(principal.value)}:" in arn
    return principal.value == arn


def _account(value: str) -> str:
    """The account id, when a principal names a whole account."""
    if value.isdecimal():
        return value
    parts = value.split(":")
    return parts[4] if len(parts) > 4 and parts[-1] == "root" else ""  # noqa: PLR2004  # an ARN's fifth part
