"""The roles that jobs assume: made with a trust policy that was proved, or adopted by an approved change of theirs.

IAM keeps no earlier version of a trust policy (invariants F51), so a change of one keeps the whole old document in its
intent, and putting it back is an action of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.model import Action, Observation, Status
from playbook.ports import Project, Role, display
from steps.oidc_providers import CASE_TAG, case_of, not_there, still_there, tried

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from playbook.ports import Evidence, Json, View, World

SESSION_MIN_S, SESSION_MAX_S = 3600, 43200
SAMPLED_PROJECTS: Final = 20
SAMPLED_PIPELINES: Final = 5
SAMPLED: Final = timedelta(days=30)
DESCRIPTION: Final = "Assumed by CircleCI jobs with their OIDC token, in place of stored access keys"
READ_ROLE: Final = frozenset(
    {"iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy", "iam:ListAttachedRolePolicies", "iam:ListRoleTags"}
)


def as_text(document: Mapping[str, Json]) -> str:
    """A policy as the text that an action keeps."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def same(document: Mapping[str, Json], text: str) -> bool:
    """Whether a policy as read is the one that an action keeps."""
    return as_text(document) == text


def longest_job_s(view: View, projects: tuple[Project, ...]) -> int:
    """Whole hours of the longest job among a project's latest, in seconds and within what a role takes."""
    since = view.clock.now() - SAMPLED
    longest = 0.0
    for project in projects[:SAMPLED_PROJECTS]:
        for pipeline in view.circleci.pipelines(project.slug, since)[:SAMPLED_PIPELINES]:
            for workflow in view.circleci.workflows(pipeline.id):
                lasted = [_lasted_s(job.started_at, job.stopped_at) for job in view.circleci.jobs(workflow.id)]
                longest = max([longest, *lasted])
    hours = -(-int(longest) // 3600)
    return min(max(hours * 3600, SESSION_MIN_S), SESSION_MAX_S)


def _lasted_s(start: datetime | None, end: datetime | None) -> float:
    return (end - start).total_seconds() if start is not None and end is not None else 0.0


@dataclass(frozen=True, kw_only=True)
class RoleAction(Action):
    """What is done to one role; everything about it is on one lane, so that undoing goes the same way back."""

    account: str
    role: str

    @property
    def lane(self) -> str:
        return f"iam-role:{self.account}/{self.role}"

    @property
    def what(self) -> str:
        """The role, for a sentence."""
        return f"role {display(self.role)} in {self.account}"

    def _seen(self, view: View) -> Role | None:
        return view.aws(self.account).role(self.role)


@dataclass(frozen=True, kw_only=True)
class CreateRole(RoleAction):
    """Make a role with its proved trust policy, its boundary, and sessions as long as the longest job seen."""

    kind: ClassVar[str] = "iam:create-role"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:CreateRole", "iam:TagRole"}
    at_most_once: ClassVar[bool] = True

    trust: str
    boundary: str
    projects: tuple[Project, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}"

    def describe(self) -> str:
        return f"create {self.what}, which {len(self.projects)} project(s) may assume"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None:
            return not_there(view, self.key, self.what)
        ours = tried(view, self.key) and dict(seen.tags).get(CASE_TAG) == case_of(view, self.key)
        if not ours:
            reason = f"somebody else made {self.what} since this was planned"
            return Observation(status=Status.CONFLICT, reason=reason)
        if not same(seen.trust, self.trust):
            reason = f"somebody changed whom {self.what} trusts"
            return Observation(status=Status.CONFLICT, reason=reason)
        return Observation(status=Status.PRESENT, evidence={"arn": seen.arn, "max_session_s": seen.max_session_s})

    def apply(self, world: World) -> Evidence:
        session_s = longest_job_s(world, self.projects)
        arn = world.aws(self.account).create_role(
            Role(
                name=self.role,
                arn="",
                trust=json.loads(self.trust),
                max_session_s=session_s,
                description=DESCRIPTION,
                boundary=self.boundary,
                tags=((CASE_TAG, case_of(world, self.key)),),
            )
        )
        return {"arn": arn, "max_session_s": session_s}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (DeleteRole(account=self.account, role=self.role, create=self.key, trust=self.trust),)


@dataclass(frozen=True, kw_only=True)
class DeleteRole(RoleAction):
    """Remove a role that this case made, once nothing of ours hangs on it; what others hung on it stops this."""

    kind: ClassVar[str] = "iam:delete-role"
    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:DeleteRole"}

    create: str
    trust: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}"

    def describe(self) -> str:
        return f"remove {self.what} again"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None or dict(seen.tags).get(CASE_TAG) != case_of(view, self.create):
            return Observation(status=Status.PRESENT, evidence={"ours": False})
        if not same(seen.trust, self.trust):
            reason = f"somebody changed whom {self.what} trusts, so it is not removed"
            return Observation(status=Status.CONFLICT, reason=reason)
        left = [policy.name for policy in seen.inline] + list(seen.attached)
        if left:
            reason = f"{self.what} still has the policy {display(left[0])}"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        return still_there(view, self.key, self.what)

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).delete_role(self.role)
        return {"role": self.role}


@dataclass(frozen=True, kw_only=True)
class TrustAction(RoleAction):
    """Replace a role's whole trust policy, only while it is the one that was looked at."""

    permissions: ClassVar[frozenset[str]] = READ_ROLE | {"iam:UpdateAssumeRolePolicy"}

    trust: str
    before: str
    """The document that it replaces."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.role}"

    def observe(self, view: View) -> Observation:
        seen = self._seen(view)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"{self.what} is gone")
        if same(seen.trust, self.trust):
            return Observation(status=Status.PRESENT, evidence={"arn": seen.arn})
        if not same(seen.trust, self.before):
            reason = f"somebody changed whom {self.what} trusts since this was planned"
            return Observation(status=Status.CONFLICT, reason=reason)
        evidence: Evidence = {"before": self.before}
        if any(attempt.applied is not None and not attempt.reset for attempt in view.past(self.key)):
            reason = f"the new trust policy of {self.what} is not shown yet"
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).update_trust(self.role, json.loads(self.trust))
        return {"role": self.role}


@dataclass(frozen=True, kw_only=True)
class UpdateTrust(TrustAction):
    """Adopt a role that is there: it trusts the projects that move, and whom it trusted before stays in the intent."""

    kind: ClassVar[str] = "iam:update-trust"
    destroys: ClassVar[bool] = True

    def describe(self) -> str:
        return f"replace whom {self.what} trusts"

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (RestoreTrust(account=self.account, role=self.role, trust=self.before, before=self.trust),)


@dataclass(frozen=True, kw_only=True)
class RestoreTrust(TrustAction):
    """Give a role the trust policy back that it had."""

    kind: ClassVar[str] = "iam:restore-trust"

    def describe(self) -> str:
        return f"give {self.what} its earlier trust policy back"
