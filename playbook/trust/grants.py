"""Who may assume a role, and the trust policy that says so.

A project is pinned by its id where AWS has a key for it, else by the token's subject. Where a fork's builds receive
secrets, or only some branches may deploy, the subject must say where the code came from, so tokens of the first form
are refused there: they say nothing of it.

The subject of such a policy is `.../user/????????-????-????-????-????????????/vcs-origin/...`, not `.../user/*/...`.
A `*` runs across `/`, and a branch may be called `x/vcs-origin/github.com/acme/web/vcs-ref/refs/heads/main`: with `*`
whoever may name a branch chooses what the policy reads as origin and branch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from playbook.errors import GuardError
from playbook.iam_policy import VERSION, size
from playbook.trust.evaluation import ASSUME
from playbook.trust.tokens import PROJECT_ID, Issuer, is_id

ANY_ID: Final = "????????-????-????-????-????????????"
"""A UUID as a pattern of fixed length."""
TRUST_SIZE_DEFAULT: Final = 2048
"""Characters, where the account does not say: `AssumeRolePolicySizeQuota` of `iam:GetAccountSummary` does."""
_ORIGIN: Final = re.compile(r"[A-Za-z0-9.-]+(/[A-Za-z0-9_.-]+){2,}")
_REF: Final = re.compile(r"refs/(heads|tags)/[^\s?\[\]^~:\\]+")


class Pin(StrEnum):
    """By which key a policy knows a project."""

    PROJECT_ID = "project-id"
    SUBJECT = "sub"


@dataclass(frozen=True, kw_only=True)
class TrustedProject:
    """One project that may assume the role."""

    id: str
    """The project's UUID."""
    origin: str = ""
    """Where its code is, as tokens say it: `github.com/acme/web`. Needed for the two below."""
    refs: tuple[str, ...] = ()
    """The only branches and tags that may: `refs/heads/main`, `refs/heads/release/*`. Empty: every one."""
    forks_receive_secrets: bool = False
    """The project's setting `forks_receive_secret_env_vars`."""

    @property
    def is_restricted(self) -> bool:
        """Whether it matters where the code of a build came from."""
        return bool(self.refs) or self.forks_receive_secrets


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Who may assume one role, in one account. Raises `GuardError` for what no policy could say."""

    issuer: Issuer
    partition: str
    account: str
    projects: tuple[TrustedProject, ...]
    audiences: tuple[str, ...] = ()
    """The audiences of the tokens; empty: the organization's id, which is what CircleCI sends unless told otherwise."""
    pin: Pin | None = None
    """None: by project id where AWS has that key, else by subject."""

    def __post_init__(self) -> None:
        if not self.projects:
            raise _impossible("A role that no project may assume needs no trust policy", "Name a project.")
        ids = [project.id for project in self.projects]
        if len(set(ids)) < len(ids):
            raise _impossible("A project is named twice", "Name each project once.")
        if not all(map(is_id, ids)):
            raise _impossible("A project is known to OIDC by its UUID in small letters", "Take ids, not names.")
        if not all(audience and not set(audience) & set("*?$") for audience in self.audiences):
            raise _impossible("An audience is empty or has a wildcard in it", "Name the audiences letter by letter.")
        if self.pin is Pin.PROJECT_ID and not self.issuer.maps_project_id(self.partition):
            where = f"the partition {self.partition}, for tokens of {self.issuer.name}"
            raise _impossible(f"AWS has no key for the project's id in {where}", "Pin projects by subject there.")
        for project in self.projects:
            if project.is_restricted and not _ORIGIN.fullmatch(project.origin):
                what = "a branch limit" if project.refs else "builds of forks that receive secrets"
                raise _impossible(
                    f"Project {project.id} has {what}, and where its code is was not said",
                    "Give its origin as tokens say it, such as github.com/acme/web.",
                )
            if not all(map(_REF.fullmatch, project.refs)):
                raise _impossible(
                    f"Project {project.id} is limited to something that is no branch or tag",
                    "Write references in full, such as refs/heads/main; `*` may stand in them.",
                )

    @property
    def accepted(self) -> tuple[str, ...]:
        """The audiences that the policy takes."""
        return self.audiences or (self.issuer.organization,)

    @property
    def by(self) -> Pin:
        """By which key unrestricted projects are pinned."""
        if self.pin is not None:
            return self.pin
        return Pin.PROJECT_ID if self.issuer.maps_project_id(self.partition) else Pin.SUBJECT

    @property
    def provider(self) -> str:
        """The ARN of the identity provider that the role trusts."""
        return self.issuer.provider(partition=self.partition, account=self.account)


def _impossible(what: str, remedy: str) -> GuardError:
    return GuardError(f"{what}. No trust policy was made and nothing was changed.", remedy=remedy)


def subjects(issuer: Issuer, project: TrustedProject) -> tuple[str, ...]:
    """The patterns of `sub` that are this project's tokens and nobody else's."""
    start = f"org/{issuer.organization}/project/{project.id}/user"
    if not project.is_restricted:
        return (f"{start}/*",)
    origin = f"{start}/{ANY_ID}/vcs-origin/{project.origin}/vcs-ref"
    return tuple(f"{origin}/{ref}" for ref in project.refs or ("*",))


def make_trust(grant: Grant) -> dict[str, Any]:
    """Make the trust policy of a grant: one statement for the projects as such, one for those that are restricted."""
    key = grant.issuer.key
    free = [project for project in grant.projects if not project.is_restricted]
    restricted = [project for project in grant.projects if project.is_restricted]
    statements: list[dict[str, Any]] = []
    if free and grant.by is Pin.PROJECT_ID:
        statements.append(_statement(grant, {key(PROJECT_ID): _short([project.id for project in free])}, {}))
    elif free:
        restricted = [*free, *restricted]
    if restricted:
        patterns = [pattern for project in restricted for pattern in subjects(grant.issuer, project)]
        statements.append(_statement(grant, {}, {key("sub"): _short(patterns)}))
    return {"Version": VERSION, "Statement": statements}


def _statement(grant: Grant, equals: dict[str, Any], alike: dict[str, Any]) -> dict[str, Any]:
    condition: dict[str, Any] = {"StringEquals": {grant.issuer.key("aud"): _short(list(grant.accepted)), **equals}}
    if alike:
        condition["StringLike"] = alike
    return {
        "Effect": "Allow",
        "Principal": {"Federated": grant.provider},
        "Action": ASSUME,
        "Condition": condition,
    }


def _short(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def split(grant: Grant, limit: int = TRUST_SIZE_DEFAULT) -> tuple[Grant, ...]:
    """Divide a grant over as few roles as its order allows, each with a policy of at most `limit` characters.

    The projects stay in their order, so that one added at the end moves none before it to another role. Raises
    `GuardError` when one project alone does not fit.
    """
    parts: list[list[TrustedProject]] = []
    for project in grant.projects:
        if parts and _length(grant, [*parts[-1], project]) <= limit:
            parts[-1].append(project)
            continue
        alone = _length(grant, [project])
        if alone > limit:
            raise GuardError(
                f"The trust policy for project {project.id} alone takes {alone} characters, and the account allows "
                f"{limit}. No role was made.",
                remedy="Name fewer branches, put one pattern for several, or ask AWS for a higher quota.",
            )
        parts.append([project])
    return tuple(replace(grant, projects=tuple(part)) for part in parts)


def _length(grant: Grant, projects: list[TrustedProject]) -> int:
    return size(make_trust(replace(grant, projects=tuple(projects))))
