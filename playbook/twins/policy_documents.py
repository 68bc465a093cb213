"""Policy documents as AWS takes them: their grammar, their size, and whom a deny of theirs cuts off.

Only as much of AWS's evaluation is here as containment needs: a deny of every action on every resource, alone or with
a condition on `aws:TokenIssueTime`, which only temporary credentials have (facts/aws 17, 18).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from playbook.errors import AwsError, Effect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playbook.ports import Json
    from playbook.twins.state import Document

_VERSIONS: Final = {None, "2008-10-17", "2012-10-17"}
_OPERATORS: Final = frozenset(
    f"{kind}{comparison}".lower()
    for kind, comparisons in {
        "String": ("Equals", "NotEquals", "EqualsIgnoreCase", "NotEqualsIgnoreCase", "Like", "NotLike"),
        "Numeric": ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals"),
        "Date": ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals"),
        "Arn": ("Equals", "NotEquals", "Like", "NotLike"),
        "IpAddress": ("",),
        "NotIpAddress": ("",),
        "Binary": ("Equals",),
        "Bool": ("",),
        "Null": ("",),
    }.items()
    for comparison in comparisons
)
_SID: Final = re.compile(r"[A-Za-z0-9]*")
_ISSUED: Final = "aws:tokenissuetime"


def required(operation: str, document: Mapping[str, Json], *, trust: bool = False) -> Document:
    """A copy of a document that AWS would take; anything else is refused. `trust`: it says who may assume a role."""
    copy: Document = json.loads(compact(document))
    if not _is_well_formed(copy, trust=trust):
        raise AwsError(operation, code="MalformedPolicyDocument", status=400, effect=Effect.NONE)
    return copy


def compact(document: Mapping[str, Json]) -> str:
    """The text in which a document is sent."""
    return json.dumps(document, separators=(",", ":"))


def size(*documents: Mapping[str, Json]) -> int:
    """The characters that count against a quota: all but white space."""
    return sum(len(re.sub(r"\s", "", compact(document))) for document in documents)


def _is_well_formed(document: Document, *, trust: bool) -> bool:
    if document.get("Version") not in _VERSIONS or not document.keys() <= {"Version", "Id", "Statement"}:
        return False
    found = list(_statements(document))
    sids = [statement.get("Sid") for statement in found if isinstance(statement, dict) and statement.get("Sid")]
    return (
        bool(found)
        and all(isinstance(statement, dict) and _is_statement(statement, trust=trust) for statement in found)
        and len(set(map(str, sids))) == len(sids)
    )


def _is_statement(statement: Document, *, trust: bool) -> bool:
    def one_of(*names: str) -> bool:
        return len(statement.keys() & set(names)) == 1

    conditions = statement.get("Condition", {})
    return (
        statement.get("Effect") in ("Allow", "Deny")
        and one_of("Action", "NotAction")
        and (one_of("Principal", "NotPrincipal") if trust else one_of("Resource", "NotResource"))
        and statement.keys().isdisjoint(("Resource", "NotResource") if trust else ("Principal", "NotPrincipal"))
        and isinstance(sid := statement.get("Sid", ""), str)
        and _SID.fullmatch(sid) is not None
        and isinstance(conditions, dict)
        and all(_plain(operator) in _OPERATORS and isinstance(keys, dict) for operator, keys in conditions.items())
    )


def _plain(operator: str) -> str:
    """An operator without what may stand around it."""
    lower = operator.lower().removeprefix("forallvalues:").removeprefix("foranyvalue:")
    return lower if lower == "null" else lower.removesuffix("ifexists")


# --- Who is cut off ---------------------------------------------------------------------------------------------------


def denies(documents: Iterable[Mapping[str, Json]], issued_at: datetime | None) -> bool:
    """Whether these documents deny everything to credentials issued then; None: a key that does not expire."""
    return any(
        statement.get("Effect") == "Deny"
        and _is_all(statement.get("Action"))
        and _is_all(statement.get("Resource"))
        and _is_met(statement.get("Condition", {}), issued_at)
        for document in documents
        for statement in _statements(document)
    )


def _statements(document: Mapping[str, Any]) -> Iterator[Any]:
    found = document.get("Statement", ())
    yield from [found] if isinstance(found, Mapping) else found if isinstance(found, Sequence) else ()


def _is_all(value: object) -> bool:
    return "*" in (value if isinstance(value, list | tuple) else [value])


def _is_met(conditions: Mapping[str, Mapping[str, Any]], issued_at: datetime | None) -> bool:
    """Every condition must be met; one on anything but the issue time is not, for nothing is known of the request."""
    return all(
        key.lower() == _ISSUED and any(_holds(operator, value, issued_at) for value in _values(wanted))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _values(wanted: object) -> list[object]:
    return list(wanted) if isinstance(wanted, list | tuple) else [wanted]


def _holds(operator: str, value: object, issued_at: datetime | None) -> bool:
    text = str(value)
    if operator.lower() == "null":
        return (text.lower() == "true") is (issued_at is None)
    if issued_at is None:
        return operator.lower().endswith("ifexists")
    match _plain(operator):
        case "datelessthan":
            return issued_at < _moment(text)
        case "datelessthanequals":
            return issued_at <= _moment(text)
        case _:
            return False


def _moment(text: str) -> datetime:
    """A moment as policies write it: ISO 8601, or seconds since 1970."""
    if text.isdecimal():
        return datetime.fromtimestamp(int(text), UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
