"""Recovery: the repositories' own configuration has to name the role, and only their people can merge that.

The step changes nothing. It names what to run in which repository, and waits, for days if need be, until a pipeline
is seen to run with a configuration that names the role or its context.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import ServiceError
from playbook.model import Action, Finding, Observation, Phase, Plan, Question, Status, Step
from playbook.ports import Project, display
from steps.oidc_targets import decide_move

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.model import Ask, Case
    from playbook.ports import Evidence, View, World
    from steps.decisions import KeyDecision
    from steps.oidc_targets import RoleTarget

CONFIGS_READ: Final = 5
"""Of a project's latest pipelines: the merged configuration is in the newest ones, whichever branch they ran on."""
LATER_S: Final = 86_400.0
"""A merge takes people's time: the lane parks at once, and `resume` looks again."""


@dataclass(frozen=True, kw_only=True)
class ConfirmConfigMerged(Action):
    """A pipeline of the project has run with a configuration that names the role or its context."""

    kind: ClassVar[str] = "circleci:confirm-config-merged"
    changes: ClassVar[bool] = False
    gate: ClassVar[str] = "config"

    project: Project
    role_arn: str
    context: str
    account: str
    user: str
    old_key_id: str
    said: bool
    """The responder says that it is merged, whatever pipelines show."""

    @property
    def key(self) -> str:
        return config_key(self.project, self.role_arn)

    @property
    def lane(self) -> str:
        return f"circleci:config/{self.project.slug}/{self.role_arn}"

    @property
    def subject(self) -> Mapping[str, str]:
        return {"user": self.user, "account": self.account, "id": self.old_key_id}

    def describe(self) -> str:
        return f"see that the configuration of {display(self.project.slug)} uses {display(self.context)}"

    def observe(self, view: View) -> Observation:
        if self.said:
            return Observation(status=Status.PRESENT, evidence={"said": True})
        try:
            read = view.circleci.run_configs(self.project, CONFIGS_READ)
        except ServiceError as error:
            reason = f"what {display(self.project.slug)} runs cannot be read ({error.code})"
            return Observation(status=Status.PENDING, reason=reason, again_s=LATER_S)
        for item in read.items:
            if self._names_it(f"{item.compiled}\n{item.compiled_setup}"):
                return Observation(status=Status.PRESENT, evidence={"pipeline": item.number})
        reason = (
            f"none of the latest {len(read.items)} pipeline(s) of {display(self.project.slug)} names the role or the "
            f"context {display(self.context)}: merge the change there, let it run once, then `resume`"
        )
        return Observation(status=Status.PENDING, evidence={"read": len(read.items)}, reason=reason, again_s=LATER_S)

    def _names_it(self, text: str) -> bool:
        """The role's ARN anywhere, or the context as a value of its own; a longer name that begins alike is another."""
        if self.role_arn in text:
            return True
        words = (word.strip(",\"'") for word in text.replace("[", " ").replace("]", " ").split())
        return self.context in words

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


def config_key(project: Project, role_arn: str) -> str:
    """The key of the gate for one project and role."""
    return f"{ConfirmConfigMerged.kind}:{project.slug}/{role_arn}"


class MigrateConfig(Step):
    """Name every repository whose configuration must change, and wait until it has."""

    id = "migrate_config"
    title = "Let the configuration name the role"
    phase = Phase.RECOVERY
    kinds = (ConfirmConfigMerged,)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """One gate a project and role; nothing is written into a repository from here."""
        move = decide_move(view, case, ask)
        if move is None:
            return Plan(step=self.id)
        actions: list[Action] = []
        findings: list[Finding] = []
        for target in move.targets:
            said = all(_ask_merged(target.keys, ask))
            for project in target.projects:
                key = target.keys[0].key
                actions.append(
                    ConfirmConfigMerged(
                        project=project,
                        role_arn=target.arn,
                        context=target.context,
                        account=key.account,
                        user=key.user,
                        old_key_id=key.id,
                        said=said,
                    )
                )
                findings.append(Finding(level="note", text=_to_do(target, project)))
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _ask_merged(keys: Sequence[KeyDecision], ask: Ask) -> list[bool]:
    """Whether the responder says so of each key; nobody is bothered."""
    return ask.all(
        [
            Question(
                id=f"keys.config_merged:{item.lane}/{item.key.id}",
                prompt=f"Do all projects that use {item.key.id} of {display(item.key.user)} ask for a role yet?",
                kind=bool,
                answer_key="keys.config_merged",
                subject={"user": item.key.user, "account": item.key.account, "id": item.key.id},
                default=False,
                optional=True,
            )
            for item in keys
        ]
    )


def _to_do(target: RoleTarget, project: Project) -> str:
    """What to run in a checkout of the repository."""
    words = ["rotation-playbook", "migrate-config", ".", "--role-arn", target.arn, "--context", target.context]
    command = shlex.join([*words, "--region", target.region])
    return f"In a checkout of {display(project.slug)}: `{display(command)}`; review the change, merge it, let it run."
