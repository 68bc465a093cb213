"""What AWS's two bulk documents say of users: the account's authorization details and the credential report.

Pure functions over replies that botocore has parsed; how far policies reach is for `aws_reach` to say.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from playbook.clients.aws_reach import OF_AWS, UNREAD, Policy, reach
from playbook.ports import CredentialReport, LastUsed, ReportedKey, ReportedUser

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWNED_BY_AWS: Final = ":iam::aws:policy/"
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
        return _boundary_arn(self.item)

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
            unread: list[str] = []
            policies = list(self._policies_of(item, "UserPolicyList", ""))
            for name in item.get("GroupList", []):
                group = self.groups.get(str(name))
                if group is None:
                    unread.append(f"{UNREAD} (group {name})")
                else:
                    policies += self._policies_of(group, "GroupPolicyList", f"group {name}, ")
            yield DescribedUser(item=item, reach=(*reach(policies, self._boundary_of(item)), *unread))

    def _policies_of(self, holder: Mapping[str, Any], inline: str, whose: str) -> Iterator[Policy]:
        for policy in holder.get(inline, []):
            yield Policy(where=f"{whose}inline policy {_name(policy)}", document=policy.get("PolicyDocument"))
        for policy in holder.get("AttachedManagedPolicies", []):
            where = f"{whose}policy {_name(policy)}"
            yield Policy(where=where, document=self._document(str(policy.get("PolicyArn", "")), _name(policy)))

    def _document(self, arn: str, name: str) -> object:
        """A managed policy's document; of AWS's own that the reply leaves out, only what is worth telling."""
        if arn in self.documents or _OWNED_BY_AWS not in arn:
            return self.documents.get(arn)
        return OF_AWS.get(name, {})

    def _boundary_of(self, item: Mapping[str, Any]) -> Policy | None:
        arn = _boundary_arn(item)
        if not arn:
            return None
        name = arn.rpartition("/")[2]
        return Policy(where=f"the boundary {name}", document=self._document(arn, name))


def _name(policy: Mapping[str, Any]) -> str:
    return str(policy.get("PolicyName", ""))


def _boundary_arn(item: Mapping[str, Any]) -> str:
    return str(item.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", ""))


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
