"""How far a user's IAM policies reach, in plain words: pure functions over documents that botocore has parsed.

Told are only the rights that make a stolen key worse than its name says: everything, or IAM itself. What narrows such
a right (a condition, named resources, a permissions boundary, a denial) is named and not evaluated: it depends on the
request. Service control policies are not seen from within an account. So it is what a key may do at most, and by how
much that is said too loudly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

EVERYTHING: Final = "everything"
NEARLY_EVERYTHING: Final = "everything but what is named"
IAM_WRITE: Final = "IAM itself"
UNREAD: Final = "not known"
NOTHING: Final = "nothing: everything is denied"
CONDITION: Final = "under a condition"
RESOURCES: Final = "on named resources only"
_WORST_FIRST: Final = (EVERYTHING, NEARLY_EVERYTHING, IAM_WRITE, UNREAD)
_IAM_WRITES: Final = (
    "iam:addusertogroup",
    "iam:attachgrouppolicy",
    "iam:attachrolepolicy",
    "iam:attachuserpolicy",
    "iam:createaccesskey",
    "iam:createloginprofile",
    "iam:createpolicyversion",
    "iam:createrole",
    "iam:createuser",
    "iam:putgrouppolicy",
    "iam:putrolepolicy",
    "iam:putuserpolicy",
    "iam:setdefaultpolicyversion",
    "iam:updateaccesskey",
    "iam:updateassumerolepolicy",
    "iam:updateloginprofile",
)
"""The changes by which a stolen key gets further keys or further rights."""
_QUARANTINE: Final = {"Statement": {"Effect": "Deny", "Action": ["iam:CreateAccessKey"], "Resource": "*"}}
OF_AWS: Final[Mapping[str, Mapping[str, object]]] = {
    "AdministratorAccess": {"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}},
    "PowerUserAccess": {"Statement": {"Effect": "Allow", "NotAction": ["iam:*"], "Resource": "*"}},
    "IAMFullAccess": {"Statement": {"Effect": "Allow", "Action": "iam:*", "Resource": "*"}},
    "AWSDenyAll": {"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}},
    "AWSCompromisedKeyQuarantine": _QUARANTINE,
    "AWSCompromisedKeyQuarantineV2": _QUARANTINE,
    "AWSCompromisedKeyQuarantineV3": _QUARANTINE,
}
"""AWS's own policies whose documents a reply may leave out: as much of each as is told here."""

Limits: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy that counts for a user."""

    where: str
    """Such as `group admins, policy all`."""
    document: object
    """Its default version as it was read; anything but a mapping is not known."""


def reach(policies: Sequence[Policy], boundary: Policy | None = None) -> tuple[str, ...]:
    """What makes this user's keys dangerous: one text a policy and right, with all that narrows it."""
    denials = [(policy, statement) for policy in policies for statement in _denials(policy.document)]
    for policy, statement in denials:
        if _is_all(statement) and not _limits(statement):
            return (f"{NOTHING} ({policy.where})",)
    told: list[str] = []
    for policy in policies:
        for word, limits in grants(policy.document):
            around = () if word == UNREAD else (*_bounded(boundary), *_denied(word, denials))
            told.append(f"{', '.join((word, *limits, *around))} ({policy.where})")
    return tuple(dict.fromkeys(told))


def grants(document: object) -> tuple[tuple[str, Limits], ...]:
    """Read the rights worth telling that one document allows, and what its own statements narrow each by.

    The worst comes first; what is weaker than a right that nothing narrows is left out.
    """
    best: dict[str, Limits] = {}
    for statement in _statements(document):
        word = _right(statement)
        limits = _limits(statement)
        if word and (word not in best or len(limits) < len(best[word])):
            best[word] = limits
    found: list[tuple[str, Limits]] = []
    for word in _WORST_FIRST:
        if word in best:
            found.append((word, best[word]))
            if not best[word]:
                break
    return tuple(found)


def _statements(document: object) -> Iterator[object]:
    if not isinstance(document, Mapping):
        yield None
        return
    statements = document.get("Statement", [])
    yield from statements if isinstance(statements, list) else [statements]


def _right(statement: object) -> str:
    if not isinstance(statement, Mapping):
        return UNREAD
    if statement.get("Effect") != "Allow":
        return ""
    if "NotAction" in statement:
        return NEARLY_EVERYTHING
    if _is_all(statement):
        return EVERYTHING
    return IAM_WRITE if any(_matches(_patterns(statement, "Action"), action) for action in _IAM_WRITES) else ""


def _limits(statement: object) -> Limits:
    if not isinstance(statement, Mapping):
        return ()
    limits = [CONDITION] if statement.get("Condition") else []
    return tuple(limits if _everywhere(statement) else [*limits, RESOURCES])


# --- What narrows a right from outside its policy ---------------------------------------------------------------------


def _bounded(boundary: Policy | None) -> Limits:
    """Name the boundary, unless it is one that keeps nothing out."""
    if boundary is None:
        return ()
    is_open = (EVERYTHING, ()) in grants(boundary.document) and not list(_denials(boundary.document))
    return () if is_open else (f"within {boundary.where}",)


def _denied(word: str, denials: Sequence[tuple[Policy, Mapping[str, object]]]) -> Iterator[str]:
    """Name each policy that denies some of this right, and whether it always does."""
    always: dict[str, bool] = {}
    for policy, statement in denials:
        if word != IAM_WRITE or _denies_iam(statement):
            always[policy.where] = always.get(policy.where, False) or not statement.get("Condition")
    for where, is_always in always.items():
        yield f"less what {where} denies" + ("" if is_always else f" {CONDITION}")


def _denials(document: object) -> Iterator[Mapping[str, object]]:
    for statement in _statements(document):
        if isinstance(statement, Mapping) and statement.get("Effect") == "Deny":
            yield statement


def _denies_iam(statement: Mapping[str, object]) -> bool:
    if "NotAction" in statement:
        spared = _patterns(statement, "NotAction")
        return not all(_matches(spared, action) for action in _IAM_WRITES)
    denied = _patterns(statement, "Action")
    return any(_matches(denied, action) for action in _IAM_WRITES)


# --- Patterns ---------------------------------------------------------------------------------------------------------


def _is_all(statement: Mapping[str, object]) -> bool:
    return any(pattern and set(pattern) <= set("*:") for pattern in _patterns(statement, "Action"))


def _everywhere(statement: Mapping[str, object]) -> bool:
    """Whether it speaks of every resource; one that names none is taken for the worst."""
    if "NotResource" in statement:
        return False
    resources = _texts(statement.get("Resource"))
    return not resources or any(set(text) <= {"*"} for text in resources)


def _patterns(statement: Mapping[str, object], name: str) -> list[str]:
    return [pattern.lower() for pattern in _texts(statement.get(name))]


def _matches(patterns: Iterable[str], action: str) -> bool:
    """IAM knows `*` and `?`, and no ranges."""
    return any(fnmatchcase(action, pattern.replace("[", "[[]")) for pattern in patterns)


def _texts(value: object) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
