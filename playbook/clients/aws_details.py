"""What AWS's two bulk documents say of users: the account's authorization details and the credential report.

Pure functions over replies that botocore has parsed. A policy's reach is told plainly, from what its statements allow;
conditions, denials and boundaries are not weighed, so a reach is what a stolen key may do at most.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from playbook.ports import CredentialReport, LastUsed, ReportedKey, ReportedUser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EVERYTHING: Final = "everything"
NEARLY_EVERYTHING: Final = "everything but what is named"
IAM_WRITE: Final = "IAM itself"
UNREAD: Final = "not known"
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
_OF_AWS: Final = {
    "AdministratorAccess": EVERYTHING,
    "IAMFullAccess": IAM_WRITE,
    "PowerUserAccess": NEARLY_EVERYTHING,
}
"""AWS's own policies whose documents a reply may leave out."""
_OF_REPORT_NEVER: Final = frozenset({"", "N/A", "no_information", "not_supported"})


# --- Authorization details --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DescribedUser:
    """One user of the details, before its fields are checked."""

    item: Mapping[str, Any]
    reach: tuple[str, ...]

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """Keys and values, sorted."""
        return tuple(sorted((str(tag["Key"]), str(tag["Value"])) for tag in self.item.get("Tags", [])))

    @property
    def boundary(self) -> str:
        """The ARN of the permissions boundary, or an empty text."""
        return str(self.item.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""))

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the managed policies attached to the user itself."""
        return tuple(sorted(_name(policy) for policy in self.item.get("AttachedManagedPolicies", [])))

    @property
    def inline_policies(self) -> tuple[str, ...]:
        """The names of the user's inline policies."""
        return tuple(sorted(_name(policy) for policy in self.item.get("UserPolicyList", [])))

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the user's groups."""
        return tuple(sorted(str(group) for group in self.item.get("GroupList", [])))


@dataclass(kw_only=True)
class Details:
    """The pages of `GetAccountAuthorizationDetails`, gathered: users point at groups and policies of other pages."""

    users: list[Mapping[str, Any]] = field(default_factory=list)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    """By a managed policy's ARN: its default version."""

    def add(self, page: Mapping[str, Any]) -> None:
        """Take in one page."""
        self.users += page.get("UserDetailList", [])
        self.groups |= {str(group["GroupName"]): group for group in page.get("GroupDetailList", [])}
        for policy in page.get("Policies", []):
            for version in policy.get("PolicyVersionList", []):
                if version.get("IsDefaultVersion"):
                    self.documents[str(policy["Arn"])] = version.get("Document")

    def described(self) -> Iterator[DescribedUser]:
        """Every user with what makes its keys dangerous."""
        for item in self.users:
            found = list(self._reach_of(item, "UserPolicyList", ""))
            for name in item.get("GroupList", []):
                group = self.groups.get(str(name))
                if group is None:
                    found.append(f"{UNREAD} (group {name})")
                else:
                    found += self._reach_of(group, "GroupPolicyList", f"group {name}, ")
            yield DescribedUser(item=item, reach=tuple(dict.fromkeys(found)))

    def _reach_of(self, holder: Mapping[str, Any], inline: str, whose: str) -> Iterator[str]:
        for policy in holder.get(inline, []):
            yield from _told(policy.get("PolicyDocument"), f"{whose}inline policy {_name(policy)}")
        for policy in holder.get("AttachedManagedPolicies", []):
            name, arn = _name(policy), str(policy.get("PolicyArn", ""))
            if arn in self.documents:
                yield from _told(self.documents[arn], f"{whose}policy {name}")
            elif ":iam::aws:policy/" not in arn:
                yield f"{UNREAD} ({whose}policy {name})"
            elif name in _OF_AWS:
                yield f"{_OF_AWS[name]} ({whose}policy {name})"


def _name(policy: Mapping[str, Any]) -> str:
    return str(policy.get("PolicyName", ""))


def _told(document: object, where: str) -> Iterator[str]:
    reach = reach_of(document)
    if reach:
        yield f"{reach} ({where})"


def reach_of(document: object) -> str:
    """Say of a policy document whether it allows everything, or changes of IAM; an empty text for neither."""
    if not isinstance(document, Mapping):
        return UNREAD
    statements = document.get("Statement", [])
    found = {_statement_reach(item) for item in (statements if isinstance(statements, list) else [statements])}
    return next((word for word in (EVERYTHING, NEARLY_EVERYTHING, IAM_WRITE, UNREAD) if word in found), "")


def _statement_reach(statement: object) -> str:
    if not isinstance(statement, Mapping):
        return UNREAD
    if statement.get("Effect") != "Allow":
        return ""
    if "NotAction" in statement:
        return NEARLY_EVERYTHING
    patterns = [pattern.lower() for pattern in _texts(statement.get("Action"))]
    if any(set(pattern) <= set("*:") and pattern for pattern in patterns):
        return EVERYTHING
    writes = any(fnmatchcase(action, pattern.replace("[", "[[]")) for pattern in patterns for action in _IAM_WRITES)
    return IAM_WRITE if writes else ""


def _texts(value: object) -> Iterable[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


# --- The credential report ------------------------------------------------------------------------------------------


def report_from(content: bytes, generated_at: datetime) -> CredentialReport:
    """Read the report's CSV; a column or a time that is not there is not known. Raises ValueError for no CSV."""
    rows = csv.DictReader(io.StringIO(content.decode("utf-8", "replace")))
    try:
        users = tuple(_reported(row) for row in rows)
    except csv.Error:
        raise ValueError("the credential report is no CSV") from None
    return CredentialReport(generated_at=generated_at.astimezone(UTC), users=users)


def _reported(row: Mapping[str, Any]) -> ReportedUser:
    def text(column: str) -> str:
        value = row.get(column)
        return value if isinstance(value, str) and value not in _OF_REPORT_NEVER else ""

    keys = []
    for number in (1, 2):
        column = f"access_key_{number}"
        changed_at = _moment(text(f"{column}_last_rotated"))
        if changed_at is None and text(f"{column}_active").lower() != "true":
            continue
        used = LastUsed(
            at=_moment(text(f"{column}_last_used_date")),
            service=text(f"{column}_last_used_service"),
            region=text(f"{column}_last_used_region"),
        )
        keys.append(ReportedKey(changed_at=changed_at, last_used=used))
    return ReportedUser(name=text("user"), keys=tuple(keys), password_last_used_at=_moment(text("password_last_used")))


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None else None
