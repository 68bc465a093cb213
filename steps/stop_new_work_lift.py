"""The undoing of the block on new work: builds may start again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.model import Action, Observation, Status
from playbook.ports import Organization, display

if TYPE_CHECKING:
    from playbook.ports import Evidence, View, World

BY_HAND: Final = "in CircleCI, Organization Settings, Advanced, allow new work"


@dataclass(frozen=True, kw_only=True)
class AllowNewWork(Action):
    """Let an organization start builds again."""

    kind: ClassVar[str] = "circleci:allow-new-work"

    organization: Organization

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}"

    @property
    def lane(self) -> str:
        return f"circleci:organization/{self.organization.slug}"

    def describe(self) -> str:
        return f"allow new work in {display(self.organization.slug)} again"

    def observe(self, view: View) -> Observation:
        disabled = view.circleci.running_disabled(self.organization)
        if disabled is None:
            reason = f"CircleCI does not say whether {display(self.organization.slug)} may start work: {BY_HAND}"
            return Observation(status=Status.CONFLICT, reason=reason)
        evidence: Evidence = {"blocked": disabled}
        if not disabled:
            return Observation(status=Status.PRESENT, evidence=evidence)
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"{display(self.organization.slug)} still shows the block"
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        world.circleci.set_running_disabled(self.organization, disabled=False)
        return {"running_disabled": False}
