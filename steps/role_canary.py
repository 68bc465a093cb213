"""The canary of a role: a job exchanges its own token for it, and says who it is then.

It has no context attached: a configuration of ours may use none that is restricted (facts/circleci 2.7), and the role's
ARN is given to it. What it proves is the trust policy, the provider and the audience, and that the caller is the role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from playbook.canary import CanaryReport, with_role
from playbook.errors import ServiceError
from playbook.model import Observation, Status
from playbook.ports import Sink, SinkKind, display
from steps.canary_job import InlineCanary

if TYPE_CHECKING:
    from playbook.ports import Evidence, View


@dataclass(frozen=True, kw_only=True)
class RunRoleCanary(InlineCanary):
    """Run a job that assumes the role, and see that it is the role and not a key that lies in the way."""

    kind: ClassVar[str] = "circleci:run-role-canary"

    role_arn: str
    region: str
    branch: str
    """The only branch that may; empty: the default one is as good as any."""
    moving: tuple[str, ...]
    """The keys that go away: one of them in the job's environment is expected until then."""

    @property
    def key(self) -> str:
        return role_canary_key(self.project.slug, self.role_arn)

    @property
    def lane(self) -> str:
        return f"circleci:oidc/{self.project.slug}/{self.role_arn}"

    @property
    def means(self) -> str:
        return f"the role {display(self.role_arn)}"

    def describe(self) -> str:
        return f"run a canary job in {display(self.project.slug)} that assumes {display(self.role_arn)}"

    def _config(self) -> str:
        return with_role([], self.role_arn, self.region)

    def _branch(self, view: View) -> str:
        return self.branch or super()._branch(view)

    def _compare(self, view: View, report: CanaryReport, evidence: Evidence) -> Observation:
        assumed = re.escape(re.sub(":iam:(.*):role/(?:.*/)?", r":sts:\1:assumed-role/", self.role_arn))
        if report.account != self.account or not re.fullmatch(f"{assumed}/[^/]+", report.arn):
            reason = f"a job that assumes {display(self.role_arn)} is {display(report.arn)}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if report.static_tail and report.static_tail not in {key_id[-4:] for key_id in self.moving}:
            reason = (
                f"a job of {display(self.project.slug)} has another key in its environment, which wins over the role: "
                f"{self._holder(view, report.static_tail)}"
            )
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return Observation(status=Status.PRESENT, evidence={**evidence, "static_key": bool(report.static_tail)})

    def _holder(self, view: View, tail: str) -> str:
        """The place that holds it, as far as the project's own variables tell."""
        slug = self.project.slug
        place = Sink(kind=SinkKind.PROJECT, id=slug, name=slug, organization=self.project.organization)
        try:
            names = [item.name for item in view.circleci.variables(place).items if item.tail == tail]
        except ServiceError:
            names = []
        if names:
            return f"the project variable {display(names[0])} of {display(slug)} has it"
        return "no variable of the project shows it, so look at its configuration and its image"


def role_canary_key(slug: str, role_arn: str) -> str:
    """The key of the canary of one project and role."""
    return f"{RunRoleCanary.kind}:{slug}/{role_arn}"
