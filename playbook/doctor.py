"""Looks before a run whether it can succeed: who we are, what we may do, the clocks; and writes the policy it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from playbook.errors import ServiceError
from playbook.inventory import find_organizations
from playbook.journal import Journal
from playbook.modes import walk
from playbook.ports import Waits, display
from playbook.world import CaseWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Operator, Step
    from playbook.modes import Settings
    from playbook.ports import AwsReader, Platforms

READS: Final = frozenset(
    {
        "cloudtrail:LookupEvents",
        "ec2:DescribeRegions",
        "iam:GenerateCredentialReport",
        "iam:GetAccessKeyLastUsed",
        "iam:GetAccountAuthorizationDetails",
        "iam:GetAccountSummary",
        "iam:GetCredentialReport",
        "iam:GetLoginProfile",
        "iam:GetOpenIDConnectProvider",
        "iam:GetRole",
        "iam:ListAccessKeys",
        "iam:ListMFADevices",
        "iam:ListOpenIDConnectProviders",
        "iam:ListSAMLProviders",
        "iam:ListServiceSpecificCredentials",
        "iam:ListSigningCertificates",
        "iam:ListSSHPublicKeys",
        "iam:ListUsers",
        "iam:SimulatePrincipalPolicy",
    }
)
"""What the preflight, the inventory and the sweep for persistence ask, whatever the plan."""
READING: Final = ("Generate", "Get", "List", "Lookup", "Simulate", "Describe")
"""How the names of actions begin that change nothing."""
TARGETS: Final = (("AccessKey", "user"), ("User", "user"), ("OpenIDConnectProvider", "oidc-provider"), ("Role", "role"))
"""What a change is made to, by a word in its name; what has none of them is a change of a policy."""
SKEW_MAX_S: Final = 240
"""AWS refuses a request signed with a clock that is five minutes off."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """What was found."""

    login: str
    host: str
    organizations: tuple[str, ...]
    identities: Mapping[str, str]
    denied: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    """Accounts in which our permissions cannot be asked."""
    skew_s: Mapping[str, int]
    policies: Mapping[str, Mapping[str, Any]]
    """By account: the least policy."""
    planned: bool
    """True when the policies name the users of a plan, not every user."""

    @property
    def policy(self) -> Mapping[str, Any]:
        """The one policy document, or one for each account."""
        return next(iter(self.policies.values())) if len(self.policies) == 1 else self.policies

    def lines(self) -> list[str]:
        """For a person."""
        lines = [
            f"CircleCI: {display(self.login)} at {display(self.host)}, organizations {', '.join(self.organizations)}"
        ]
        for account, arn in self.identities.items():
            lines.append(f"AWS {account}: {display(arn)}")
            if account in self.denied:
                lines.append(f"  DENIED: {', '.join(self.denied[account])}")
            elif account in self.unknown:
                lines.append("  permissions cannot be asked here; compare with the policy below")
            else:
                lines.append("  every permission that is needed is there")
            if abs(self.skew_s.get(account, 0)) > SKEW_MAX_S:
                lines.append(f"  THIS MACHINE'S CLOCK is {self.skew_s[account]} s off; AWS will refuse to talk to it")
        whose = "the users of this plan" if self.planned else "every user (narrow it with --answers FILE)"
        lines.append(f"The least IAM policy for {whose}:")
        return lines

    def document(self) -> dict[str, Any]:
        """For a machine (schema 1)."""
        return {
            "schema": 1,
            "circleci": {"login": self.login, "host": self.host, "organizations": list(self.organizations)},
            "aws": [
                {
                    "account": account,
                    "arn": arn,
                    "denied": list(self.denied.get(account, ())),
                    "permissions_known": account not in self.unknown,
                    "clock_skew_s": self.skew_s.get(account),
                    "policy": self.policies[account],
                }
                for account, arn in self.identities.items()
            ],
        }


def examine(platforms: Platforms, steps: Sequence[Step], settings: Settings, operator: Operator | None) -> Health:
    """Read who we are everywhere and what we may do; with an operator, walk the plan to name its users."""
    view = CaseWorld(platforms, Journal(), parallel=settings.parallel)
    login = view.circleci.login()
    organizations = find_organizations(view, settings.organizations)
    identities = {account: view.aws(account).identity().arn for account in view.accounts}
    needing = list(steps)
    targets: dict[str, set[str]] | None = None
    if operator is not None:
        walked = walk(platforms, steps, operator, settings, Waits())
        planning = {step for step, _ in walked.actions}
        needing = [step for step in steps if step.id in planning]
        targets = {account: set() for account in view.accounts}
        for _, action in walked.changes:
            account, user = getattr(action, "account", None), getattr(action, "user", None)
            if account in targets and isinstance(user, str):
                targets[account].add(user)
    wanted = sorted(READS | {name for step in needing for kind in step.kinds for name in kind.permissions})
    denied: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    skew: dict[str, int] = {}
    for account in view.accounts:
        allowed = view.aws(account).simulate(wanted)
        if allowed is None:
            unknown.append(account)
        elif missing := tuple(name for name in wanted if not allowed.get(name, False)):
            denied[account] = missing
        if (off := _skew(view, account)) is not None:
            skew[account] = off
    return Health(
        login=login,
        host=view.circleci.host,
        organizations=tuple(display(item.slug) for item in organizations),
        identities=identities,
        denied=denied,
        unknown=tuple(unknown),
        skew_s=skew,
        policies={
            account: policy(view.aws(account), arn, wanted, targets[account] if targets is not None else None)
            for account, arn in identities.items()
        },
        planned=targets is not None,
    )


def _skew(view: CaseWorld, account: str) -> int | None:
    """How far AWS's clock is ahead of ours, by the answer to a harmless read."""
    try:
        users = view.aws(account).users()
        listing = view.aws(account).access_keys(users[0].name) if users else None
    except ServiceError:
        return None
    return round((listing.server_time - view.clock.now()).total_seconds()) if listing is not None else None


def policy(aws: AwsReader, arn: str, wanted: Sequence[str], users: set[str] | None) -> dict[str, Any]:
    """The least IAM policy: reads everywhere, changes of users only of these (None: of every user of the account)."""
    partition = arn.split(":")[1]
    everywhere = f"arn:{partition}:iam::{aws.account}"
    named = None if users is None else sorted(user.arn for user in aws.users() if user.name in users)
    reads = [name for name in wanted if _is_read(name)]
    statements: list[dict[str, Any]] = [
        {"Sid": "PlaybookReads", "Effect": "Allow", "Action": reads, "Resource": "*"},
    ]
    for sid, kind in (("Keys", "user"), ("Roles", "role"), ("Providers", "oidc-provider"), ("Policies", "policy")):
        changes = [name for name in wanted if not _is_read(name) and _target(name) == kind]
        resources = named if kind == "user" and named is not None else [f"{everywhere}:{kind}/*"]
        if changes and resources:
            statements.append({"Sid": f"Playbook{sid}", "Effect": "Allow", "Action": changes, "Resource": resources})
    return {"Version": "2012-10-17", "Statement": statements}


def _is_read(name: str) -> bool:
    return name.partition(":")[2].startswith(READING)


def _target(name: str) -> str:
    return next((kind for word, kind in TARGETS if word in name), "policy")
