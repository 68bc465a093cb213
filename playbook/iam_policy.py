"""The language of IAM policies: statements, wildcards, variables and sizes; pure.

What IAM itself refuses to store (an unknown operator, two elements that exclude each other) is refused here with a
`GuardError`: nothing is guessed about a document that no account can hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Document: TypeAlias = Mapping[str, Any]
"""A policy as JSON decodes to."""

VERSION: Final = "2012-10-17"
"""The only version that has variables."""
_ELEMENTS: Final = {
    "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition",
}  # fmt: skip
_PRINCIPAL_KINDS: Final = {"AWS", "Federated", "Service", "CanonicalUser"}
_OPERATORS: Final = {
    name.lower(): name
    for name in (
        "StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike",
        "StringNotLike", "NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals",
        "NumericGreaterThan", "NumericGreaterThanEquals", "DateEquals", "DateNotEquals", "DateLessThan",
        "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals", "Bool", "BinaryEquals", "IpAddress",
        "NotIpAddress", "ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "Null",
    )
}  # fmt: skip
_QUANTIFIERS: Final = {"forallvalues": "ForAllValues", "foranyvalue": "ForAnyValue"}
_VARIABLE: Final = re.compile(r"\$\{([^{}]*)\}")
_DEFAULT: Final = re.compile(r"\s*([^,]+?)\s*,\s*'([^']*)'\s*")


class Wild(Enum):
    """The two wildcards; both match across `/` and `:`."""

    ANY = "*"
    ONE = "?"


Glob: TypeAlias = tuple[str | Wild, ...]
"""A pattern, one item for each character or wildcard."""


class Effect(StrEnum):
    """What a statement does when it matches."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One key of one operator: any of `values` is enough, and every condition of a statement must hold."""

    operator: str
    """As written: `ForAnyValue:StringLikeIfExists`."""
    quantifier: str
    """`ForAllValues`, `ForAnyValue`, or an empty text."""
    base: str
    """The operator alone, in AWS's own spelling: `StringLike`."""
    if_exists: bool
    key: str
    values: tuple[str, ...]

    @property
    def is_negated(self) -> bool:
        """Whether a match makes it false: `StringNotEquals`, `ArnNotLike`, `NotIpAddress`, ..."""
        return "Not" in self.base

    @property
    def is_pattern(self) -> bool:
        """Whether `*` and `?` in its values are wildcards."""
        return "Like" in self.base or self.base.startswith("Arn")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """One caller that a statement names; a bare `"*"` has the kind `*`."""

    kind: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement; a `not_...` flag says that the list names what it does not match."""

    effect: Effect
    actions: tuple[str, ...]
    not_actions: bool = False
    principals: tuple[Principal, ...] = ()
    not_principals: bool = False
    resources: tuple[str, ...] = ()
    not_resources: bool = False
    conditions: tuple[Condition, ...] = ()
    sid: str = ""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A whole document."""

    version: str
    statements: tuple[Statement, ...]

    @property
    def has_variables(self) -> bool:
        """Whether `${...}` means something: not in the version of 2008."""
        return self.version == VERSION


def parse(document: Document, *, trust: bool) -> Policy:
    """Read a role's trust policy (`trust`), or a policy of permissions. Raises `GuardError` for what IAM refuses."""
    if not isinstance(document, Mapping):
        raise _refused("it is no JSON object")
    unknown = sorted(set(document) - {"Version", "Id", "Statement"})
    if unknown:
        raise _refused(f"it has the element {unknown[0]!r}, which no policy has")
    version = document.get("Version", "2008-10-17")
    if version not in {VERSION, "2008-10-17"}:
        raise _refused("its Version is neither 2012-10-17 nor 2008-10-17")
    found = document.get("Statement")
    statements = [found] if isinstance(found, Mapping) else found
    if not isinstance(statements, list | tuple) or not statements:
        raise _refused("it has no statement")
    return Policy(version=version, statements=tuple(_statement(item, trust=trust) for item in statements))


def _refused(why: str) -> GuardError:
    return GuardError(
        f"This is no policy that IAM would store: {why}. Nothing was changed.",
        remedy="Correct the document, or take the one that this tool makes.",
    )


def _statement(item: object, *, trust: bool) -> Statement:
    if not isinstance(item, Mapping):
        raise _refused("a statement is no JSON object")
    unknown = sorted(set(item) - _ELEMENTS)
    if unknown:
        raise _refused(f"a statement has the element {unknown[0]!r}, which none has")
    effect = item.get("Effect")
    if effect not in {"Allow", "Deny"}:
        raise _refused("an Effect is neither Allow nor Deny")
    actions, not_actions = _one_of(item, "Action", "NotAction")
    principals: tuple[Principal, ...] = ()
    resources: tuple[str, ...] = ()
    not_principals = not_resources = False
    if trust:
        if "Resource" in item or "NotResource" in item:
            raise _refused("a statement of a trust policy has a Resource; the role itself is the resource")
        if ("Principal" in item) == ("NotPrincipal" in item):
            raise _refused("a statement needs Principal or NotPrincipal, and not both")
        not_principals = "NotPrincipal" in item
        principals = _principals(item["NotPrincipal" if not_principals else "Principal"])
    else:
        if "Principal" in item or "NotPrincipal" in item:
            raise _refused("a statement of a user's or role's policy names a Principal")
        resources, not_resources = _one_of(item, "Resource", "NotResource")
    return Statement(
        effect=Effect(effect),
        actions=actions,
        not_actions=not_actions,
        principals=principals,
        not_principals=not_principals,
        resources=resources,
        not_resources=not_resources,
        conditions=_conditions(item.get("Condition", {})),
        sid=str(item.get("Sid", "")),
    )


def _one_of(item: Mapping[str, Any], name: str, negated: str) -> tuple[tuple[str, ...], bool]:
    if (name in item) == (negated in item):
        raise _refused(f"a statement needs {name} or {negated}, and not both")
    values = _texts(item[negated if negated in item else name], name)
    if not values:
        raise _refused(f"a statement's {name} is empty")
    return values, negated in item


def _texts(value: object, what: str) -> tuple[str, ...]:
    """One value or a list of them, as text; JSON's booleans and numbers are AWS's `true` and `3`."""
    items = value if isinstance(value, list | tuple) else [value]
    found: list[str] = []
    for item in items:
        if isinstance(item, bool):
            found.append("true" if item else "false")
        elif isinstance(item, str | int | float):
            found.append(str(item))
        else:
            raise _refused(f"{what} holds something that is neither text, number nor truth value")
    return tuple(found)


def _principals(value: object) -> tuple[Principal, ...]:
    if value == "*":
        return (Principal(kind="*", value="*"),)
    if not isinstance(value, Mapping) or not value or set(value) - _PRINCIPAL_KINDS:
        raise _refused('a Principal is neither "*" nor an object of AWS, Federated, Service or CanonicalUser')
    return tuple(
        Principal(kind=kind, value=text) for kind, texts in value.items() for text in _texts(texts, "Principal")
    )


def _conditions(block: object) -> tuple[Condition, ...]:
    if not isinstance(block, Mapping):
        raise _refused("a Condition is no JSON object")
    found: list[Condition] = []
    for operator, keys in block.items():
        quantifier, base, if_exists = _operator(operator)
        if not isinstance(keys, Mapping):
            raise _refused(f"the operator {operator} holds no JSON object")
        for key, value in keys.items():
            values = _texts(value, f"the condition on {key}")
            found.append(
                Condition(
                    operator=operator, quantifier=quantifier, base=base, if_exists=if_exists, key=key, values=values
                )
            )
    return tuple(found)


def _operator(text: str) -> tuple[str, str, bool]:
    """Quantifier, base and IfExists of an operator."""
    first, colon, rest = text.partition(":")
    quantifier = _QUANTIFIERS.get(first.lower(), "") if colon else ""
    name = (rest if quantifier else text).lower()
    if_exists = name.endswith("ifexists")
    base = _OPERATORS.get(name.removesuffix("ifexists"))
    if base is None or (if_exists and base == "Null"):
        raise _refused(f"there is no condition operator {text!r}")
    return quantifier, base, if_exists


# --- Wildcards and variables ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def glob(pattern: str) -> Glob:
    """Read `*` and `?` as wildcards; everything else stands for itself."""
    return tuple(Wild(char) if char in "*?" else char for char in pattern)


def literal(text: str) -> Glob:
    """Read nothing as a wildcard."""
    return tuple(text)


def matches(pattern: Glob, text: str) -> bool:
    """Whether the whole text fits; at most pattern times text steps, so no document can make it slow."""
    at = start = 0
    star = -1
    length, size = len(pattern), len(text)
    while at < size:
        if start < length and (pattern[start] is Wild.ONE or pattern[start] == text[at]):
            start, at = start + 1, at + 1
        elif start < length and pattern[start] is Wild.ANY:
            star, mark = start, at
            start += 1
        elif star >= 0:
            mark += 1
            start, at = star + 1, mark
        else:
            return False
    return all(item is Wild.ANY for item in pattern[start:])


def like(pattern: str, text: str) -> bool:
    """`StringLike` of one value without variables."""
    return matches(glob(pattern), text)


def action_matches(pattern: str, action: str) -> bool:
    """Whether an `Action` value covers an action; AWS does not look at the case of either."""
    return like(pattern.lower(), action.lower())


def covers(pattern: Glob, narrower: Glob) -> bool:
    """Whether every text that fits `narrower` fits `pattern` too; a wildcard is covered by the same or a wider one.

    False where the two merely might: it decides what may be left out, and leaving out must be safe.
    """
    reached = {0}
    for item in narrower:
        step: set[int] = set()
        for at in _closure(pattern, reached):
            if at == len(pattern):
                continue
            if pattern[at] is Wild.ANY:
                step.add(at)
            elif item is not Wild.ANY and (pattern[at] is Wild.ONE or pattern[at] == item):
                step.add(at + 1)
        reached = step
    return len(pattern) in _closure(pattern, reached)


def _closure(pattern: Glob, reached: set[int]) -> set[int]:
    found = set(reached)
    for at in reached:
        end = at
        while end < len(pattern) and pattern[end] is Wild.ANY:
            end += 1
            found.add(end)
    return found


def variables(text: str) -> tuple[str, ...]:
    """The keys that a value refers to, without `${*}`, `${?}` and `${$}`, which stand for the character."""
    names = [_default(inner)[0] for inner in _VARIABLE.findall(text)]
    return tuple(name for name in names if name not in {"*", "?", "$"})


def _default(inner: str) -> tuple[str, str | None]:
    found = _DEFAULT.fullmatch(inner)
    return (found[1], found[2]) if found else (inner.strip(), None)


def resolve(text: str, lookup: Callable[[str], str | None], *, pattern: bool) -> Glob | None:
    """Put values for variables; None when one has neither a value nor a default: then nothing matches.

    `lookup` answers the value of a key in lower case. What a variable brings in is never a wildcard.
    """
    read = glob if pattern else literal
    items: list[str | Wild] = []
    end = 0
    for found in _VARIABLE.finditer(text):
        items += read(text[end : found.start()])
        name, default = _default(found[1])
        value = name if name in {"*", "?", "$"} else lookup(name.lower())
        if value is None:
            value = default
        if value is None:
            return None
        items += value
        end = found.end()
    return (*items, *read(text[end:]))


# --- Documents and sizes --------------------------------------------------------------------------------------------


def compact(document: Document) -> str:
    """The document as it is sent: JSON without white space between its parts."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def size(document: Document) -> int:
    """What a quota counts: IAM does not count white space, and none is sent; that inside a text is counted here."""
    return len(compact(document))


def as_document(statements: Sequence[Statement], *, version: str = VERSION) -> dict[str, Any]:
    """The statements as a document again; a list of one is written as that one."""
    return {"Version": version, "Statement": [_as_json(statement) for statement in statements]}


def _as_json(statement: Statement) -> dict[str, Any]:
    found: dict[str, Any] = {"Sid": statement.sid} if statement.sid else {}
    found["Effect"] = statement.effect.value
    if statement.principals:
        found["NotPrincipal" if statement.not_principals else "Principal"] = _principals_as_json(statement.principals)
    found["NotAction" if statement.not_actions else "Action"] = _short(statement.actions)
    if statement.resources:
        found["NotResource" if statement.not_resources else "Resource"] = _short(statement.resources)
    if statement.conditions:
        block: dict[str, dict[str, Any]] = {}
        for condition in statement.conditions:
            block.setdefault(condition.operator, {})[condition.key] = _short(condition.values)
        found["Condition"] = block
    return found


def _short(values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _principals_as_json(principals: tuple[Principal, ...]) -> str | dict[str, Any]:
    if principals[0].kind == "*":
        return "*"
    kinds: dict[str, tuple[str, ...]] = {}
    for principal in principals:
        kinds[principal.kind] = (*kinds.get(principal.kind, ()), principal.value)
    return {kind: _short(values) for kind, values in kinds.items()}
