"""CircleCI's OIDC tokens, as the condition keys that AWS makes of them.

A token of the second form says where its code came from, one of the first form does not:

    org/ORG/project/PROJECT/user/USER
    org/ORG/project/PROJECT/user/USER/vcs-origin/github.com/acme/web/vcs-ref/refs/heads/main

AWS maps `aud`, `sub` and, in the commercial partition and for CircleCI's own issuer alone, the project's id. No other
claim of CircleCI's is a key. `amr` and `azp` would be, and CircleCI sends neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOUD: Final = "oidc.circleci.com"
PROJECT_ID: Final = "oidc.circleci.com/project-id"
"""The claim, and the last part of the key that AWS makes of it."""
COMMERCIAL: Final = "aws"
"""The partition in which the project's id is a key."""
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ISSUER: Final = re.compile(r"https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9._~-]+)*/?")


def is_id(text: str) -> bool:
    """Whether this is a UUID as CircleCI writes it: AWS compares letter by letter, so capitals never match."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Issuer:
    """Who signs the tokens of one organization: CircleCI's cloud, or a self-hosted server."""

    url: str
    """As in the token's `iss`: https, no port, no query."""
    organization: str
    """The organization's UUID, which is also the audience unless a custom one is set."""

    def __post_init__(self) -> None:
        if not is_id(self.organization):
            raise GuardError(
                "An organization is known to OIDC by its UUID in small letters, and this is none. Nothing was changed.",
                remedy="Take the id that the organization's settings show.",
            )
        if not _ISSUER.fullmatch(self.url):
            raise GuardError(
                "AWS takes an issuer only as an https address without port and query. Nothing was changed.",
                remedy="Take the `iss` of a token of this organization.",
            )

    @classmethod
    def cloud(cls, organization: str) -> Issuer:
        """The issuer of an organization on circleci.com."""
        return cls(url=f"https://{CLOUD}/org/{organization}", organization=organization)

    @property
    def name(self) -> str:
        """The address without its scheme, which begins every condition key."""
        return self.url.removeprefix("https://")

    def key(self, claim: str) -> str:
        """The condition key of a claim."""
        return f"{self.name}:{claim}"

    def provider(self, *, partition: str, account: str) -> str:
        """The ARN of the identity provider in an account."""
        return f"arn:{partition}:iam::{account}:oidc-provider/{self.name}"

    def maps_project_id(self, partition: str) -> bool:
        """Whether AWS makes a key of the project's id there."""
        return partition == COMMERCIAL and self.name.startswith(f"{CLOUD}/org/")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What of a token AWS looks at."""

    issuer: Issuer
    subject: str
    audiences: tuple[str, ...]
    project: str = ""
    """The UUID in the claim `oidc.circleci.com/project-id`; empty for a token that no job asked for."""

    def keys(self, partition: str) -> Mapping[str, tuple[str, ...]]:
        """The condition keys of a request with this token."""
        found = {self.issuer.key("aud"): self.audiences, self.issuer.key("sub"): (self.subject,)}
        if self.project and self.issuer.maps_project_id(partition):
            found[self.issuer.key(PROJECT_ID)] = (self.project,)
        return found


def job_token(issuer: Issuer, project: str, *, user: str, audience: str = "", origin: str = "", ref: str = "") -> Token:
    """A job's token: of the second form with `origin` and `ref`, else of the first.

    The second form lacks both for a pipeline that a custom webhook started, and then looks like the first. A build of
    a forked pull request runs in the project it asks to change and names the fork as its origin.
    """
    subject = f"org/{issuer.organization}/project/{project}/user/{user}"
    if origin or ref:
        subject += f"/vcs-origin/{origin}/vcs-ref/{ref}"
    return Token(issuer=issuer, subject=subject, audiences=(audience or issuer.organization,), project=project)


def audit_log_token(issuer: Issuer, audience: str = "") -> Token:
    """The token with which CircleCI itself streams audit logs: the organization's own, of no project."""
    subject = f"org/{issuer.organization}/file-streaming/audit-logs"
    return Token(issuer=issuer, subject=subject, audiences=(audience or issuer.organization,))
