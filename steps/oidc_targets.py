"""What moves to OIDC: which roles, for which projects and keys, trusted how, and carried by which contexts.

Both ends of the move ask for it: what is made before the configuration changes, and what goes away after. It rests on
answers, on the inventory and on settings alone, so that it says the same before and after anything was made.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError, UsageError
from playbook.model import Choice, Question, Strategy
from playbook.ports import Organization, Project, SecretKind, SinkKind, display
from playbook.trust import TRUST_SIZE_DEFAULT, Grant, Issuer, Pin, TrustedProject, split
from steps.decisions import Decisions, KeyDecision, decide_keys
from steps.iam_keys import Pair
from steps.places import projects_of
from steps.replacement_options import HOME_REGIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Ask, Case
    from playbook.ports import View

COPY, LEAST_PRIVILEGE = "copy", "least-privilege"
EVERY, AUTO, CIRCLECI = "*", "auto", "circleci"
"""Answers that mean: every branch; the region that the key was used in last; the host's own issuer."""
ROLE_NAME_MAX: Final = 64
_ROLE_NAME: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_UNFIT: Final = re.compile(r"[^\w+=,.@-]", re.ASCII)
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_HOSTS: Final = {"gh": "github.com", "github": "github.com", "bb": "bitbucket.org", "bitbucket": "bitbucket.org"}
CLOUD_HOST: Final = "https://circleci.com"
LOOPBACK: Final = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?")


@dataclass(frozen=True, kw_only=True)
class OidcOptions:
    """The answers under `[oidc]`."""

    role_name: str
    context: str
    pin: Pin | None
    permissions: str
    branch: str
    region: str
    issuer: str
    images: tuple[str, ...]
    """ARNs of the ECR repositories that CircleCI pulls images from with the role; `*` for every one."""


@dataclass(frozen=True, kw_only=True)
class RoleTarget:
    """One role: who may assume it, what it stands in for, and the context that names it."""

    organization: Organization
    partition: str
    name: str
    grant: Grant
    projects: tuple[Project, ...]
    keys: tuple[KeyDecision, ...]
    """The keys it stands in for."""
    context: str
    """The context's name."""
    region: str

    @property
    def account(self) -> str:
        """The account it is in."""
        return self.grant.account

    @property
    def arn(self) -> str:
        """What jobs are told to assume."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Move:
    """Everything that moves, and what it rests on."""

    decisions: Decisions
    options: OidcOptions
    targets: tuple[RoleTarget, ...] = ()

    @property
    def keys(self) -> tuple[KeyDecision, ...]:
        """The keys that end with it."""
        return tuple(dict.fromkeys(key for target in self.targets for key in target.keys))

    def of_key(self, item: KeyDecision) -> tuple[RoleTarget, ...]:
        """The roles that stand in for one key."""
        return tuple(target for target in self.targets if item in target.keys)


def pairs_of(item: KeyDecision) -> tuple[Pair, ...]:
    """The places that hold a key."""
    return tuple(
        Pair(sink=place.stored.sink, id_variable=place.stored.variable.name, secret_variable=str(place.secret_name))
        for place in item.places
    )


def decide_move(view: View, case: Case, ask: Ask) -> Move | None:
    """What moves to OIDC; None when no key does, and then nothing more is read or asked."""
    strategies = [answer for name, answer in case.answers.items() if name.startswith("keys.strategy:")]
    if strategies and Strategy.OIDC.value not in strategies:
        # All of them are asked at once, by an earlier step: asking again would read uses of keys for nothing.
        return None
    decisions = decide_keys(view, case, ask)
    moving = [item for item in decisions.keys if item.strategy is Strategy.OIDC and item.places]
    if not moving:
        return None
    options = ask_options(ask)
    roles = _roles(decisions, moving, options)
    serving = {project.slug: project for role in roles.values() for project in role.projects.values()}
    forks = dict(zip(serving, view.gather(view.circleci.forks_receive_secrets, serving.values()), strict=True))
    targets: list[RoleTarget] = []
    for role in roles.values():
        targets += _targets(view, decisions, options, role, forks)
    return Move(decisions=decisions, options=options, targets=_with_contexts(targets, options))


# --- Questions ------------------------------------------------------------------------------------------------------


def _text(ask: Ask, prompt: str, default: str, *, answer_key: str, choices: tuple[str, ...] = ()) -> str:
    return ask(
        Question(
            id=answer_key,
            prompt=prompt,
            kind=str,
            answer_key=answer_key,
            choices=tuple(Choice(value=value, title=value) for value in choices),
            default=default,
            optional=True,
        )
    )


def ask_options(ask: Ask) -> OidcOptions:
    """Nobody is bothered: an answers file may say otherwise, and the plan shows what follows."""
    role_name = _text(ask, "What are the roles called?", "circleci-{project}", answer_key="oidc.role_name")
    unknown = set(_PLACEHOLDER.findall(role_name)) - {"project", "context"}
    if unknown or not _ROLE_NAME.fullmatch(_PLACEHOLDER.sub("x", role_name)):
        raise UsageError(
            f"{display(role_name)!r} in `oidc.role_name` gives no name that IAM takes. Nothing was changed.",
            remedy="Letters, digits and any of +=,.@_- with {project} or {context} where they are to stand.",
        )
    pins = ("default", *(pin.value for pin in Pin))
    trust = _text(ask, "By which claim does a role know a project?", "default", answer_key="oidc.trust", choices=pins)
    images = ask(
        Question(
            id="oidc.ecr_repositories",
            prompt="From which ECR repositories does CircleCI pull images (their ARNs, or *)?",
            kind=tuple,
            answer_key="oidc.ecr_repositories",
            open_choices=True,
            default=(),
            optional=True,
        )
    )
    return OidcOptions(
        role_name=role_name,
        context=_text(ask, "Which context carries the role?", "aws-oidc", answer_key="oidc.context"),
        pin=None if trust == "default" else Pin(trust),
        permissions=_text(
            ask, "What may the roles do?", COPY, answer_key="oidc.permissions", choices=(COPY, LEAST_PRIVILEGE)
        ),
        branch=_text(ask, "Which branch alone may use the roles (*: every one)?", EVERY, answer_key="oidc.branch"),
        region=_text(
            ask, "Which region do the jobs work in (auto: the key's last one)?", AUTO, answer_key="oidc.region"
        ),
        issuer=_text(
            ask, "Who signs the tokens ({org} stands for the organization's id)?", CIRCLECI, answer_key="oidc.issuer"
        ),
        images=tuple(map(str, images)),
    )


# --- Which projects share a role ------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Role:
    """A role before it is known how many its trust policy takes."""

    name: str
    label: str
    account: str
    organization: str
    projects: dict[str, Project]
    keys: dict[str, KeyDecision]


def _roles(decisions: Decisions, moving: Sequence[KeyDecision], options: OidcOptions) -> dict[tuple[str, str], _Role]:
    """By account and name: the roles that the template gives, each with the projects of all its keys."""
    placed = [(item, pair, _serving(decisions, pair)) for item in moving for pair in pairs_of(item)]
    named = {project.slug for _, _, projects in placed for project in projects}
    short = Counter(slug.rpartition("/")[2] for slug in named)
    roles: dict[tuple[str, str], _Role] = {}
    for item, pair, projects in placed:
        for project in projects:
            last = project.slug.rpartition("/")[2]
            label = last if short[last] == 1 else "-".join(project.slug.split("/")[1:])
            place = pair.sink.name if pair.sink.kind is SinkKind.CONTEXT else label
            name = options.role_name.replace("{project}", label).replace("{context}", place)
            name = _UNFIT.sub("-", name)
            if "{context}" in options.role_name and "{project}" not in options.role_name:
                label = place
            _require_length(name)
            role = roles.setdefault(
                (item.key.account, name),
                _Role(
                    name=name,
                    label=_UNFIT.sub("-", label) if "{" in options.role_name else "",
                    account=item.key.account,
                    organization=project.organization,
                    projects={},
                    keys={},
                ),
            )
            _require_one_organization(role, project)
            role.projects[project.slug] = project
            role.keys[item.key.id] = item
    return roles


def _serving(decisions: Decisions, pair: Pair) -> tuple[Project, ...]:
    found = projects_of(decisions.inventory, pair.sink)
    living = tuple(project for project in found if project.id and not project.deleted)
    if not living:
        raise GuardError(
            f"No living project is known that may use {pair.describe()}, so nothing there can move to OIDC. "
            "Nothing was changed.",
            remedy="Give that key the strategy `deactivate`, or see that the token can read its project.",
        )
    return living


def _require_length(name: str) -> None:
    if len(name) > ROLE_NAME_MAX:
        raise GuardError(
            f"The role would be called {display(name)}, which is longer than IAM's {ROLE_NAME_MAX} characters. "
            "Nothing was changed.",
            remedy="Choose a shorter `oidc.role_name`.",
        )


def _require_one_organization(role: _Role, project: Project) -> None:
    if role.organization != project.organization:
        raise GuardError(
            f"The role {display(role.name)} would be for projects of {display(role.organization)} and of "
            f"{display(project.organization)}, whose tokens have different issuers. Nothing was changed.",
            remedy="Put {project} into `oidc.role_name`, or move one organization at a time.",
        )


# --- What a role trusts ---------------------------------------------------------------------------------------------


def _targets(
    view: View, decisions: Decisions, options: OidcOptions, role: _Role, forks: dict[str, bool]
) -> list[RoleTarget]:
    """The roles that one becomes: its trust policy may be too long for one."""
    organization = _organization(decisions, role.organization)
    keys = tuple(role.keys.values())
    partition = next((item.user_arn.split(":")[1] for item in keys if item.user_arn.count(":") > 1), "aws")
    projects = tuple(role.projects[slug] for slug in sorted(role.projects))
    grant = Grant(
        issuer=_issuer(view, options, organization),
        partition=partition,
        account=role.account,
        projects=tuple(_trusted(project, options, forks[project.slug]) for project in projects),
        audiences=_audiences(decisions, organization, projects),
        pin=options.pin,
    )
    limit = view.aws(role.account).summary().get("AssumeRolePolicySizeQuota", TRUST_SIZE_DEFAULT)
    by_id = {project.id: project for project in projects}
    found = []
    for number, part in enumerate(split(grant, limit), start=1):
        suffix = f"-{number}" if number > 1 else ""
        _require_length(f"{role.name}{suffix}")
        found.append(
            RoleTarget(
                organization=organization,
                partition=partition,
                name=f"{role.name}{suffix}",
                grant=part,
                projects=tuple(by_id[trusted.id] for trusted in part.projects),
                keys=keys,
                context=f"{role.label}{suffix}".strip("-"),
                region=_region(decisions, keys, partition) if options.region == AUTO else options.region,
            )
        )
    return found


def _organization(decisions: Decisions, slug: str) -> Organization:
    found = next((item for item in decisions.inventory.organizations if item.slug == slug), None)
    if found is None or not found.id:
        raise GuardError(
            f"CircleCI does not say the id of the organization {display(slug)}, which its tokens carry. "
            "Nothing was changed.",
            remedy="Use a token of a member of that organization; its settings show the id.",
        )
    return found


def _issuer(view: View, options: OidcOptions, organization: Organization) -> Issuer:
    if options.issuer != CIRCLECI:
        return Issuer(url=options.issuer.replace("{org}", organization.id), organization=organization.id)
    host = view.circleci.host.rstrip("/")
    if host != CLOUD_HOST and not LOOPBACK.fullmatch(host):
        raise GuardError(
            f"{display(host)} signs its tokens under an address that this tool cannot know. Nothing was changed.",
            remedy="Take the `iss` of a token of that server and set `oidc.issuer`, with {org} for the organization.",
        )
    return Issuer.cloud(organization.id)


def _trusted(project: Project, options: OidcOptions, forks_receive_secrets: bool) -> TrustedProject:  # noqa: FBT001  # private, one caller
    provider, _, rest = project.slug.partition("/")
    return TrustedProject(
        id=project.id,
        origin=f"{_HOSTS[provider]}/{rest}" if provider in _HOSTS else "",
        refs=() if options.branch == EVERY else (f"refs/heads/{options.branch}",),
        forks_receive_secrets=forks_receive_secrets,
    )


def custom_audiences(detail: str) -> tuple[str, ...]:
    """The audiences in a row of custom claims, which may say a token's life besides."""
    names = detail.partition("; ")[0]
    return () if names.startswith("ttl ") else tuple(filter(None, names.split(", ")))


def _audiences(decisions: Decisions, organization: Organization, projects: Sequence[Project]) -> tuple[str, ...]:
    """Every audience in force for one of the projects: its own, else the organization's, else the organization's id."""
    inventory = decisions.inventory
    unread = [hole for hole in inventory.holes if hole.what == SecretKind.OIDC_CLAIMS.value]
    slugs = {project.slug for project in projects}
    missing = [hole for hole in unread if hole.where in {organization.slug, *slugs}]
    if missing:
        raise GuardError(
            f"The custom OIDC claims of {display(missing[0].where)} could not be read ({display(missing[0].why)}), so "
            "nothing says which audience its tokens have. Nothing was changed.",
            remedy="Give the token the right to read them, then begin a new case.",
        )
    rows = [row for row in inventory.secrets if row.kind is SecretKind.OIDC_CLAIMS]
    custom = {row.place: custom_audiences(row.detail) for row in rows}
    own = custom.get(organization.slug) or (organization.id,)
    found = [audience for slug in sorted(slugs) for audience in custom.get(slug) or own]
    return tuple(dict.fromkeys(found))


def _region(decisions: Decisions, keys: Sequence[KeyDecision], partition: str) -> str:
    used = [decisions.inventory.last_used.get(item.key.id) for item in keys]
    seen = [use.region for use in used if use is not None and re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", use.region)]
    return seen[0] if seen else HOME_REGIONS.get(partition, "us-east-1")


# --- Which context carries a role -----------------------------------------------------------------------------------


def _with_contexts(targets: Sequence[RoleTarget], options: OidcOptions) -> tuple[RoleTarget, ...]:
    """Name the contexts: there is one AWS_ROLE_ARN in each, so a second role needs another one."""
    of_organization = Counter(target.organization.slug for target in targets)
    labels = Counter((target.organization.slug, target.context) for target in targets)
    named = []
    for target in targets:
        parts = [options.context]
        if of_organization[target.organization.slug] > 1:
            # `labels` is counted before any name is given, so the answer does not hang on the order.
            parts += [target.context] if target.context else []
            parts += [target.account] if labels[target.organization.slug, target.context] > 1 else []
        named.append(replace(target, context="-".join(parts)))
    return tuple(named)
