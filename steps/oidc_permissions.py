"""What a role may do: the user's permissions put into what a role may hold, as actions on that role."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import AwsError, GuardError
from playbook.iam_policy import parse
from playbook.model import Action, Finding, Observation, Status
from playbook.ports import AccountDetails, PolicyDocument, TrailKey, display
from playbook.role_permissions import (
    HeldPolicy,
    NewPolicy,
    RoleLimits,
    RolePermissions,
    Use,
    UserPolicies,
    copy_to_role,
    difference,
    draft,
    ecr_pull,
    use_of_event,
)
from steps.oidc_providers import CASE_TAG, case_of, not_there, still_there, tried
from steps.oidc_roles import READ_ROLE, RoleAction, as_text, same
from steps.oidc_targets import LEAST_PRIVILEGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.iam_policy import Statement
    from playbook.ports import Evidence, Json, Role, View, World
    from steps.decisions import KeyDecision
    from steps.oidc_targets import OidcOptions, RoleTarget

TRAIL_DAYS: Final = 90
READ_POLICY: Final = frozenset({"iam:GetPolicy", "iam:GetPolicyVersion"})


@dataclass(frozen=True, kw_only=True)
class CreatePolicy(RoleAction):
    """Make a managed policy for a role whose inline room does not do."""

    kind: ClassVar[str] = "iam:create-policy"
    permissions: ClassVar[frozenset[str]] = READ_POLICY | {"iam:CreatePolicy", "iam:TagPolicy"}
    at_most_once: ClassVar[bool] = True

    arn: str
    name: str
    document: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.arn}"

    def describe(self) -> str:
        return f"create the policy {display(self.name)} for {self.what}"

    def observe(self, view: View) -> Observation:
        seen = view.aws(self.account).managed_policy(self.arn)
        if seen is None:
            return not_there(view, self.key, f"the policy {display(self.arn)}")
        if not tried(view, self.key) or not same(seen.document, self.document):
            reason = f"there is a policy {display(self.arn)} that this run did not make"
            return Observation(status=Status.CONFLICT, reason=reason)
        return Observation(status=Status.PRESENT, evidence={"arn": self.arn})

    def apply(self, world: World) -> Evidence:
        tags = {CASE_TAG: case_of(world, self.key)}
        return {"arn": world.aws(self.account).create_policy(self.name, json.loads(self.document), tags)}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (DeletePolicy(account=self.account, role=self.role, arn=self.arn, document=self.document),)


@dataclass(frozen=True, kw_only=True)
class DeletePolicy(RoleAction):
    """Remove a managed policy that this case made, while it says what we wrote."""

    kind: ClassVar[str] = "iam:delete-policy"
    permissions: ClassVar[frozenset[str]] = READ_POLICY | {"iam:DeletePolicy"}

    arn: str
    document: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.arn}"

    def describe(self) -> str:
        return f"remove the policy {display(self.arn)} again"

    def observe(self, view: View) -> Observation:
        seen = view.aws(self.account).managed_policy(self.arn)
        if seen is None:
            return Observation(status=Status.PRESENT)
        if not same(seen.document, self.document):
            reason = f"somebody changed the policy {display(self.arn)}, which this run made"
            return Observation(status=Status.CONFLICT, reason=reason)
        return still_there(view, self.key, f"the policy {display(self.arn)}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).delete_policy(self.arn)
        return {"arn": self.arn}


@dataclass(frozen=True, kw_only=True)
class PutRolePolicy(RoleAction):
    """Write one inline policy of a role; one of that name that says something else is left alone."""

    kind: ClassVar[str] = "iam:put-role-policy"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:PutRolePolicy"}

    name: str
    document: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}/{self.name}"

    def describe(self) -> str:
        return f"write the policy {display(self.name)} of {self.what}"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None:
            reason = f"{self.what} is not shown"
            return Observation(status=Status.PENDING, reason=reason, wait="visible")
        found = _inline(seen, self.name)
        if found is None:
            return not_there(view, self.key, f"the policy {display(self.name)} of {self.what}")
        if same(found, self.document):
            return Observation(status=Status.PRESENT, evidence={"policy": self.name})
        reason = f"{self.what} has a policy {display(self.name)} that this run did not write; it is not overwritten"
        return Observation(status=Status.CONFLICT, reason=reason)

    def apply(self, world: World) -> Evidence:
        at = world.aws(self.account).put_role_policy(self.role, self.name, json.loads(self.document))
        return {"policy": self.name, "server_time": at.isoformat()}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (RemoveRolePolicy(account=self.account, role=self.role, name=self.name, document=self.document),)


@dataclass(frozen=True, kw_only=True)
class RemoveRolePolicy(RoleAction):
    """Take away an inline policy of a role that this case wrote, while it says what we wrote."""

    kind: ClassVar[str] = "iam:remove-role-policy"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:DeleteRolePolicy"}

    name: str
    document: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}/{self.name}"

    def describe(self) -> str:
        return f"take the policy {display(self.name)} from {self.what} again"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        found = _inline(seen, self.name) if seen is not None else None
        if found is None:
            return Observation(status=Status.PRESENT)
        if not same(found, self.document):
            reason = f"somebody changed the policy {display(self.name)} of {self.what}"
            return Observation(status=Status.CONFLICT, reason=reason)
        return still_there(view, self.key, f"the policy {display(self.name)}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).delete_role_policy(self.role, self.name)
        return {"policy": self.name}


@dataclass(frozen=True, kw_only=True)
class AttachRolePolicy(RoleAction):
    """Attach a managed policy to a role."""

    kind: ClassVar[str] = "iam:attach-role-policy"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:AttachRolePolicy"}

    arn: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}/{self.arn}"

    def describe(self) -> str:
        return f"attach {display(self.arn)} to {self.what}"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None:
            reason = f"{self.what} is not shown"
            return Observation(status=Status.PENDING, reason=reason, wait="visible")
        if self.arn in seen.attached:
            return Observation(status=Status.PRESENT, evidence={"policy": self.arn})
        return not_there(view, self.key, f"{display(self.arn)} of {self.what}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).attach_role_policy(self.role, self.arn)
        return {"policy": self.arn}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (DetachRolePolicy(account=self.account, role=self.role, arn=self.arn),)


@dataclass(frozen=True, kw_only=True)
class DetachRolePolicy(RoleAction):
    """Detach a managed policy that this case attached."""

    kind: ClassVar[str] = "iam:detach-role-policy"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:DetachRolePolicy"}

    arn: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}/{self.arn}"

    def describe(self) -> str:
        return f"detach {display(self.arn)} from {self.what} again"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None or self.arn not in seen.attached:
            return Observation(status=Status.PRESENT)
        return still_there(view, self.key, f"{display(self.arn)} of {self.what}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).detach_role_policy(self.role, self.arn)
        return {"policy": self.arn}


def _inline(role: Role, name: str) -> Mapping[str, Json] | None:
    return next((policy.document for policy in role.inline if policy.name == name), None)


# --- From the user's policies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """What one role is given, and what must be said of it."""

    held: RolePermissions
    findings: tuple[Finding, ...]


def permissions_of(view: View, target: RoleTarget, options: OidcOptions, details: AccountDetails) -> Permissions:
    """What the users of the target's keys may do, as a role may hold it; refused with numbers where it does not fit."""
    limits = RoleLimits.of(view.aws(target.account).summary())
    held = _user_policies(view, target, details)
    images = options.images if options.images != ("*",) else ()
    extra = ecr_pull(images) if options.images else ()
    name = f"{target.name}-permissions"
    copied = copy_to_role(held, limits, name=name, extra=extra)
    findings = [
        Finding(
            level="warning",
            text=f"Role {display(target.name)}: policy {display(item.policy)}, statement {item.statement}: "
            f"{item.sentence}",
        )
        for item in copied.findings
    ]
    if options.permissions != LEAST_PRIVILEGE:
        return Permissions(held=copied, findings=tuple(findings))
    return _least(view, target, held, limits, extra, copied, findings)


def _least(  # noqa: PLR0917  # a user's permissions, the limits, and what was found so far
    view: View,
    target: RoleTarget,
    held: UserPolicies,
    limits: RoleLimits,
    extra: tuple[Statement, ...],
    copied: RolePermissions,
    findings: list[Finding],
) -> Permissions:
    """The draft from what the keys really did, and the difference for a person to look at."""
    before = tuple(item for policy in held.policies for item in parse(policy.document, trust=False).statements)
    uses = [use for item in target.keys for use in _uses(view, item)]
    made = draft(before, uses)
    document = made.document
    if document is None:
        raise GuardError(
            f"Neither CloudTrail nor IAM shows anything that {held.user} of account {held.account} is allowed and did "
            f"in {TRAIL_DAYS} days, so the least its role needs cannot be told. Nothing was changed.",
            remedy='Set `oidc.permissions` to "copy", and narrow the role once it has been used.',
        )
    drafted = UserPolicies(
        account=held.account,
        user=held.user,
        policies=(HeldPolicy(name="draft", document=document),),
        boundary=held.boundary,
    )
    changed = [line for line in difference(before, made.statements).splitlines() if line[:1] in {"+", "-"}][2:]
    lost = sum(line.startswith("-") for line in changed)
    findings.append(
        Finding(
            level="warning",
            text=f"Role {display(target.name)} is given what {len(uses)} seen use(s) need and no more; CloudTrail "
            f"shows no data events. Against what the user may do {lost} line(s) fall away: {'; '.join(changed)[:2000]}",
        )
    )
    if made.unexplained:
        named = ", ".join(sorted({f"{use.service}:{use.action or '*'}" for use in made.unexplained}))
        findings.append(
            Finding(level="note", text=f"Role {display(target.name)}: seen, and not allowed to the user: {named}.")
        )
    fitted = copy_to_role(drafted, limits, name=f"{target.name}-permissions", extra=extra)
    return Permissions(held=replace(fitted, boundary=copied.boundary), findings=tuple(findings))


def _uses(view: View, item: KeyDecision) -> list[Use]:
    """What a key did, by CloudTrail, and what else its user touched, by service."""
    aws = view.aws(item.key.account)
    since = _since(view)
    events = aws.trail(TrailKey.ACCESS_KEY_ID, item.key.id, since)
    seen = [
        use_of_event(event.service, event.name, next(iter(event.resources), ""))
        for event in events
        if not event.error_code
    ]
    exact = {use.service for use in seen}
    accessed = aws.accessed_services(item.user_arn) if item.user_arn else ()
    return [
        *(Use(service=use.service, action=use.action, resource=_arn(use.resource)) for use in seen),
        *(
            Use(service=service.service)
            for service in accessed
            if service.at is not None and service.at >= since and service.service not in exact
        ),
    ]


def _since(view: View) -> datetime:
    return view.clock.now() - timedelta(days=TRAIL_DAYS)


def _arn(resource: str) -> str:
    return resource if resource.startswith("arn:") else ""


def _user_policies(view: View, target: RoleTarget, details: AccountDetails) -> UserPolicies:
    users = list(dict.fromkeys(item.key.user for item in target.keys))
    policies: dict[tuple[str, str, str], HeldPolicy] = {}
    boundaries = set()
    for name in users:
        user = next((item for item in details.users if item.name == name), None)
        if user is None:
            raise GuardError(
                f"The user {display(name)} is gone from {target.account}, so nothing says what its role may do. "
                "Nothing was changed.",
                remedy="Begin a new case.",
            )
        boundaries.add(user.boundary)
        groups = [group for group in details.groups if group.name in user.groups]
        for holder, group in ((user, ""), *((group, group.name) for group in groups)):
            held = [HeldPolicy(name=item.name, document=item.document, group=group) for item in holder.inline]
            found = [_managed(view, target.account, arn, details) for arn in holder.attached]
            held += [HeldPolicy(name=item.name, document=item.document, arn=item.arn, group=group) for item in found]
            owner = group or name
            policies |= {(policy.arn, "" if policy.arn else owner, policy.name): policy for policy in held}
    if len(boundaries) > 1:
        raise GuardError(
            f"The users {', '.join(map(display, users))} have different permissions boundaries, and one role has one. "
            "Nothing was changed.",
            remedy="Put {project} or {context} into `oidc.role_name`, so that each has a role of its own.",
        )
    return UserPolicies(
        account=target.account, user=", ".join(users), policies=tuple(policies.values()), boundary=boundaries.pop()
    )


def _managed(view: View, account: str, arn: str, details: AccountDetails) -> PolicyDocument:
    found = details.policy(arn)
    if found is None:
        try:
            found = view.aws(account).managed_policy(arn)
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
    if found is None:
        raise GuardError(
            f"The policy {display(arn)} cannot be read, so nothing says what the role must be able to do. "
            "Nothing was changed.",
            remedy="Allow iam:GetPolicy and iam:GetPolicyVersion, or detach it first.",
        )
    return replace(found, arn=arn)


def permission_actions(target: RoleTarget, held: RolePermissions, after: tuple[str, ...]) -> list[Action]:
    """The actions that give a role what it is to hold, in the order of its lane."""
    account, role = target.account, target.name
    made = [
        CreatePolicy(
            account=account,
            role=role,
            name=policy.name,
            arn=f"arn:{target.partition}:iam::{account}:policy/{policy.name}",
            document=as_text(policy.document),
            after=after,
        )
        for policy in held.managed
    ]
    return [
        *(_put(target, policy, after) for policy in held.inline),
        *made,
        *(AttachRolePolicy(account=account, role=role, arn=arn, after=after) for arn in held.attached),
        *(AttachRolePolicy(account=account, role=role, arn=policy.arn, after=after) for policy in made),
    ]


def _put(target: RoleTarget, policy: NewPolicy, after: tuple[str, ...]) -> PutRolePolicy:
    return PutRolePolicy(
        account=target.account,
        role=target.name,
        name=policy.name,
        document=as_text(policy.document),
        after=after,
    )
