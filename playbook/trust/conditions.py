"""Whether a condition holds for a request: true, false, or unknown where the request leaves it open."""

from __future__ import annotations

import ipaddress
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from playbook.iam_policy import glob, like, literal, matches, resolve, variables

if TYPE_CHECKING:
    from playbook.iam_policy import Condition, Glob

Truth: TypeAlias = bool | None
"""None: it depends on something that is not known."""

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "Equals": operator.eq,
    "NotEquals": operator.eq,  # turned round like every negated operator
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}
_ARN_PARTS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Context:
    """The keys of a request, in lower case, and patterns of keys whose values only the caller knows."""

    values: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]

    def is_open(self, key: str) -> bool:
        """Whether the request may have this key with any value."""
        return not self.values.get(key) and any(like(pattern, key) for pattern in self.unknown)


def every(truths: Iterable[Truth]) -> Truth:
    """True when all are, false as soon as one is."""
    found = list(truths)
    return False if False in found else (None if None in found else True)


def some(truths: Iterable[Truth]) -> Truth:
    """True as soon as one is, false when all are."""
    found = list(truths)
    return True if True in found else (None if None in found else False)


def holds(condition: Condition, context: Context, *, with_variables: bool) -> Truth:
    """Whether this condition lets its statement match.

    An absent key: a negated operator holds, so does `IfExists` and every `ForAllValues`; `ForAnyValue` never does.
    Of `ForAnyValue...IfExists` AWS's texts say both, so it stays unknown. Several values under an operator without
    quantifier are an answer only when they agree.
    """
    key = condition.key.lower()
    if context.is_open(key):
        return None
    values = context.values.get(key, ())
    if condition.base == "Null":
        absent = not values
        return any(value.lower() == ("true" if absent else "false") for value in condition.values)
    if not values:
        return _holds_without_key(condition)
    each = [_fits(condition, value, context, with_variables=with_variables) for value in values]
    if condition.quantifier:
        return every(each) if condition.quantifier == "ForAllValues" else some(each)
    return each[0] if len(set(each)) == 1 else None


def _holds_without_key(condition: Condition) -> Truth:
    if condition.quantifier == "ForAnyValue":
        return None if condition.if_exists else False
    return condition.quantifier == "ForAllValues" or condition.if_exists or condition.is_negated


def _fits(condition: Condition, value: str, context: Context, *, with_variables: bool) -> Truth:
    if condition.base == "StringEquals" and not any("${" in wanted for wanted in condition.values):
        return value in condition.values
    found = some(_compare(condition, wanted, value, context, with_variables) for wanted in condition.values)
    return found if found is None or not condition.is_negated else not found


def _compare(condition: Condition, wanted: str, value: str, context: Context, with_variables: bool) -> Truth:  # noqa: FBT001
    """Whether one value of the request fits one of the policy, before negation."""
    base = condition.base
    if base.startswith(("String", "Arn", "Binary")):
        return _text_fits(condition, wanted, value, context, with_variables=with_variables)
    if base == "Bool":
        return wanted.lower() == value.lower()
    if base.endswith("IpAddress"):
        return _address_fits(wanted, value)
    read = _moment if base.startswith("Date") else _number
    left, right = read(value), read(wanted)
    if left is None or right is None:
        return None
    return _COMPARISONS[base.removeprefix("Date").removeprefix("Numeric")](left, right)


def _text_fits(condition: Condition, wanted: str, value: str, context: Context, *, with_variables: bool) -> Truth:
    pattern: Glob | None
    if with_variables and "${" in wanted:
        if any(context.is_open(name.lower()) for name in variables(wanted)):
            return None
        pattern = resolve(wanted, _lookup(context), pattern=condition.is_pattern)
    elif condition.base.startswith("StringLike") and not value.startswith(_beginning(wanted)):
        return False  # spares the walk through the pattern, which with hundreds of projects is what costs
    else:
        pattern = glob(wanted) if condition.is_pattern else literal(wanted)
    if pattern is None:
        return False
    if condition.base.startswith("Arn"):
        return _arn_fits(pattern, value)
    if condition.base.endswith("IgnoreCase"):
        return matches(tuple(item.lower() if isinstance(item, str) else item for item in pattern), value.lower())
    return matches(pattern, value)


def _beginning(pattern: str) -> str:
    """What stands before the first wildcard."""
    return pattern.partition("*")[0].partition("?")[0]


def _lookup(context: Context) -> Callable[[str], str | None]:
    def value(key: str) -> str | None:
        found = context.values.get(key, ())
        return found[0] if len(found) == 1 else None

    return value


def _arn_fits(pattern: Glob, value: str) -> bool:
    """Part by part: a wildcard does not span the colons, but for the last part, which is all the rest."""
    wanted: list[Glob] = [()]
    for item in pattern:
        if item == ":" and len(wanted) < _ARN_PARTS:
            wanted.append(())
        else:
            wanted[-1] = (*wanted[-1], item)
    parts = value.split(":", _ARN_PARTS - 1)
    return len(parts) == len(wanted) == _ARN_PARTS and all(
        matches(part, text) for part, text in zip(wanted, parts, strict=True)
    )


def _address_fits(wanted: str, value: str) -> Truth:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moment(text: str) -> float | None:
    """Seconds since 1970, which AWS takes beside ISO 8601."""
    number = _number(text)
    if number is not None:
        return number
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
