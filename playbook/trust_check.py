"""Holds the roles that trust CircleCI today against the rules for trust policies; it only reads.

An account that may not be read is a hole with its name, never an all-clear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from playbook.errors import GuardError, ServiceError
from playbook.ports import Hole, SecretKind, display
from playbook.trust import Issuer, Lint, Severity, is_id, lint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.ports import IdentityProvider, Organization, View

_OF_AN_ORGANIZATION: Final = re.compile(r".+/org/(?P<id>[0-9a-f-]{36})")
URGENT: Final = frozenset({Severity.OPEN, Severity.BROKEN})


@dataclass(frozen=True, kw_only=True)
class CheckedRole:
    """One role that trusts CircleCI, and what is wrong with how."""

    account: str
    role: str
    arn: str
    lints: tuple[Lint, ...]


@dataclass(frozen=True, kw_only=True)
class TrustCheck:
    """What was found in all accounts."""

    roles: tuple[CheckedRole, ...]
    holes: tuple[Hole, ...]

    @property
    def is_urgent(self) -> bool:
        """Whether somebody gets in who should not, somebody is kept out who should, or something was not read."""
        return bool(self.holes) or any(item.severity in URGENT for role in self.roles for item in role.lints)

    def rows(self) -> list[tuple[str, ...]]:
        """For a person: account, role, how bad, which statement, what, and what to do."""
        found: list[tuple[str, ...]] = []
        for role in self.roles:
            name = (role.account, display(role.role))
            found += [
                (*name, item.severity.value, str(item.statement), display(item.sentence), display(item.remedy))
                for item in role.lints
            ] or [(*name, "", "", "nothing is wrong", "")]
        found += [
            (hole.where, "", "unread", "", f"{hole.what} could not be read: {hole.why}", "") for hole in self.holes
        ]
        return found

    def document(self) -> dict[str, Any]:
        """For a machine (schema 1)."""
        return {
            "schema": 1,
            "roles": [
                {
                    "account": role.account,
                    "role": role.role,
                    "arn": role.arn,
                    "lints": [
                        {
                            "code": item.code,
                            "severity": item.severity.value,
                            "statement": item.statement,
                            "sentence": item.sentence,
                            "remedy": item.remedy,
                        }
                        for item in role.lints
                    ],
                }
                for role in self.roles
            ],
            "holes": [{"what": hole.what, "where": hole.where, "why": hole.why} for hole in self.holes],
        }


def check_roles(view: View, organizations: Sequence[Organization]) -> TrustCheck:
    """Lint every role, in every account, that trusts an issuer of CircleCI's."""
    holes: list[Hole] = []
    audiences = {item.id: _audience(view, item, holes) for item in organizations if is_id(item.id)}
    roles: list[CheckedRole] = []
    for account in view.accounts:
        try:
            aws = view.aws(account)
            partition = aws.identity().arn.split(":")[1]
            issuers = _issuers(aws.providers(), audiences)
            found = aws.details().roles
        except ServiceError as error:
            holes.append(Hole(what="roles", where=account, why=error.code))
            continue
        for role in sorted(found, key=lambda item: item.name):
            if not any(issuer.name in str(role.trust) or "circleci" in str(role.trust) for issuer in issuers):
                continue
            mine = [issuer for issuer in issuers if issuer.name in str(role.trust)] or issuers[:1]
            lints = tuple(
                item
                for issuer in mine
                for item in lint(
                    role.trust,
                    issuer,
                    partition=partition,
                    account=account,
                    audiences=audiences.get(issuer.organization, ()),
                )
            )
            roles.append(CheckedRole(account=account, role=role.name, arn=role.arn, lints=tuple(dict.fromkeys(lints))))
    return TrustCheck(roles=tuple(roles), holes=tuple(holes))


def _audience(view: View, organization: Organization, holes: list[Hole]) -> tuple[str, ...]:
    """The organization's custom audience; empty where it has none, or where that could not be read."""
    read = view.circleci.organization_secrets(organization, frozenset({SecretKind.OIDC_CLAIMS}))
    holes += read.holes
    details = [row.detail.partition("; ")[0] for row in read.secrets]
    return tuple(name for text in details if not text.startswith("ttl ") for name in text.split(", ") if name)


def _issuers(providers: Iterable[IdentityProvider], organizations: Iterable[str]) -> list[Issuer]:
    """CircleCI's issuers: those of our organizations, and those that the account's providers name."""
    found = [Issuer.cloud(number) for number in organizations]
    for provider in providers:
        match = _OF_AN_ORGANIZATION.fullmatch(provider.url)
        if provider.saml or match is None or not is_id(match["id"]):
            continue
        try:
            found.append(Issuer(url=f"https://{provider.url}", organization=match["id"]))
        except GuardError:
            continue  # an address that is none of CircleCI's
    return list(dict.fromkeys(found))
