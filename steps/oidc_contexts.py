"""The context that carries a role: made or found by name, limited to its projects before anything is written into it.

What it stores is no secret, so both values stand in the plan. They are the role's ARN and a region; which role a job
gets is decided by the trust policy, and the restriction keeps other projects from naming it by accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import CircleCiError, Effect
from playbook.model import Action, Observation, Status
from playbook.ports import Organization, Project, Sink, SinkKind, display
from playbook.secret import Secret, masked_tail
from steps.oidc_providers import not_there, still_there, tried
from steps.places import BY_PROJECT

if TYPE_CHECKING:
    from playbook.ports import Evidence, View, World

ROLE_ARN, REGION = "AWS_ROLE_ARN", "AWS_DEFAULT_REGION"
SETTINGS: Final = frozenset({ROLE_ARN, REGION})


@dataclass(frozen=True, kw_only=True)
class ContextAction(Action):
    """What is done to one context; its id may not exist when the plan is made."""

    organization: Organization
    context: str
    """Its name."""
    context_id: str = ""
    """Empty for one that this case makes."""

    @property
    def lane(self) -> str:
        return f"circleci:context/{self.organization.slug}/{self.context}"

    @property
    def what(self) -> str:
        """The context, for a sentence."""
        return f"context {display(self.context)} of {display(self.organization.slug)}"

    @property
    def create(self) -> str:
        """The key of the action that makes it."""
        return f"{CreateContext.kind}:{self.organization.slug}/{self.context}"

    def _sink(self, view: View) -> Sink | None:
        """The context: by the id that is known, that was made, or that its name finds."""
        made = [str(item.applied["context"]) for item in view.past(self.create) if item.applied is not None]
        number = self.context_id or next(iter(made), "")
        if number:
            return Sink(kind=SinkKind.CONTEXT, id=number, name=self.context, organization=self.organization.slug)
        return self._listed(view)

    def _listed(self, view: View) -> Sink | None:
        listed = view.circleci.contexts(self.organization)
        return next((sink for sink in listed if sink.name == self.context), None)

    def _needed(self, view: View) -> Sink | Observation:
        return self._sink(view) or Observation(
            status=Status.PENDING, reason=f"{self.what} is not listed", wait="visible"
        )

    def _required(self, view: View) -> Sink:
        sink = self._sink(view)
        if sink is None:
            raise CircleCiError(f"a change of {self.what}", code="NoSuchContext", effect=Effect.NONE, retryable=True)
        return sink


@dataclass(frozen=True, kw_only=True)
class CreateContext(ContextAction):
    """Make the context that carries a role."""

    kind: ClassVar[str] = "circleci:create-context"
    at_most_once: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return self.create

    def describe(self) -> str:
        return f"create {self.what}"

    def observe(self, view: View) -> Observation:
        seen = self._listed(view)
        if seen is None:
            return not_there(view, self.key, self.what)
        attempts = [item for item in view.past(self.key) if not item.reset and item.failed != Effect.NONE]
        if not attempts:
            reason = f"somebody else made {self.what} since this was planned"
            return Observation(status=Status.CONFLICT, reason=reason)
        if attempts[-1].applied is None and view.circleci.variables(seen).items:
            # Names are unique, so ours was not made; what stores something already is not ours by its looks either.
            reason = f"{self.what} appeared while a try of ours was under way, and it stores something already"
            return Observation(status=Status.CONFLICT, reason=reason)
        return Observation(status=Status.PRESENT, evidence={"context": seen.id})

    def apply(self, world: World) -> Evidence:
        return {"context": world.circleci.create_context(self.organization, self.context).id}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (DeleteContext(organization=self.organization, context=self.context),)


@dataclass(frozen=True, kw_only=True)
class DeleteContext(ContextAction):
    """Remove a context that this case made, unless it stores anything."""

    kind: ClassVar[str] = "circleci:delete-context"

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}/{self.context}"

    def describe(self) -> str:
        return f"remove {self.what} again"

    def observe(self, view: View) -> Observation:
        seen = self._listed(view)
        if seen is None:
            return Observation(status=Status.PRESENT)
        ours = self._sink(view)
        if ours is not None and ours.id != seen.id:
            return Observation(status=Status.PRESENT, evidence={"ours": False})
        left = view.circleci.variables(seen).items
        if left:
            reason = f"{self.what} stores {display(left[0].name)}"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        return still_there(view, self.key, self.what)

    def apply(self, world: World) -> Evidence:
        sink = self._required(world)
        world.circleci.delete_context(sink)
        return {"context": sink.id}


@dataclass(frozen=True, kw_only=True)
class RestrictContext(ContextAction):
    """Let one project use the context, which shuts out those that are not named."""

    kind: ClassVar[str] = "circleci:restrict-context"

    project: Project

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}/{self.context}/{self.project.id}"

    def describe(self) -> str:
        return f"limit {self.what} to {display(self.project.slug)}"

    def observe(self, view: View) -> Observation:
        sink = self._needed(view)
        if isinstance(sink, Observation):
            return sink
        found = [item for item in view.circleci.restrictions(sink) if item.kind == BY_PROJECT]
        mine = next((item for item in found if item.value == self.project.id), None)
        if mine is not None:
            return Observation(status=Status.PRESENT, evidence={"restriction": mine.id})
        return not_there(view, self.key, f"the restriction of {self.what} to {display(self.project.slug)}")

    def apply(self, world: World) -> Evidence:
        made = world.circleci.create_restriction(self._required(world), BY_PROJECT, self.project.id)
        return {"restriction": made.id}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (
            LiftRestriction(
                organization=self.organization,
                context=self.context,
                context_id=self.context_id,
                project=self.project,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class LiftRestriction(ContextAction):
    """Take a restriction away that this case set; the last one goes only once the context stores nothing of ours."""

    kind: ClassVar[str] = "circleci:lift-restriction"

    project: Project

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}/{self.context}/{self.project.id}"

    def describe(self) -> str:
        return f"no longer let {display(self.project.slug)} use {self.what}"

    def observe(self, view: View) -> Observation:
        sink = self._sink(view)
        if sink is None or (not self.context_id and self._listed(view) is None):
            return Observation(status=Status.PRESENT)
        found = [item for item in view.circleci.restrictions(sink) if item.kind == BY_PROJECT]
        mine = next((item for item in found if item.value == self.project.id), None)
        if mine is None:
            return Observation(status=Status.PRESENT)
        if len(found) == 1 and view.circleci.variables(sink).items:
            reason = f"without its last restriction every project could use what {self.what} stores"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        seen = still_there(view, self.key, f"the restriction of {self.what}")
        return Observation(
            status=seen.status,
            evidence={"restriction": mine.id},
            reason=seen.reason,
            wait=seen.wait,
            otherwise=seen.otherwise,
        )

    def apply(self, world: World) -> Evidence:
        number = str(world.past(self.key)[-1].basis["restriction"])
        world.circleci.delete_restriction(self._required(world), number)
        return {"restriction": number}


@dataclass(frozen=True, kw_only=True)
class SettingAction(ContextAction):
    """What is done to one variable whose value is no secret."""

    name: str
    value: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}/{self.context}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class StoreSetting(SettingAction):
    """Write a role's ARN or its region into the context, only while the context is limited to projects."""

    kind: ClassVar[str] = "circleci:store-setting"

    def describe(self) -> str:
        return f"store {display(self.name)} = {display(self.value)} in {self.what}"

    def observe(self, view: View) -> Observation:
        sink = self._needed(view)
        if isinstance(sink, Observation):
            return sink
        if not any(item.kind == BY_PROJECT for item in view.circleci.restrictions(sink)):
            reason = f"{self.what} is open to every project, and so would be what it stores"
            return Observation(status=Status.CONFLICT, reason=reason)
        seen = view.circleci.variables(sink).find(self.name)
        if seen is not None and seen.tail == masked_tail(self.value):
            return Observation(status=Status.PRESENT, evidence={"context": sink.id})
        if seen is not None and not tried(view, self.key):
            if seen.tail is None:
                reason = f"the tail of {self.name} in {self.what} is not shown, so nothing tells what a write destroys"
                return Observation(status=Status.PENDING, reason=reason, wait="sink")
            reason = f"{self.what} has another {self.name}, which nothing could bring back"
            return Observation(status=Status.CONFLICT, reason=reason)
        return not_there(view, self.key, f"{self.name} of {self.what}")

    def apply(self, world: World) -> Evidence:
        sink = self._required(world)
        world.circleci.put_variable(sink, self.name, Secret(self.value))
        return {"context": sink.id}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (
            RemoveSetting(
                organization=self.organization,
                context=self.context,
                context_id=self.context_id,
                name=self.name,
                value=self.value,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class RemoveSetting(SettingAction):
    """Remove a variable that this case wrote, while it shows what we wrote."""

    kind: ClassVar[str] = "circleci:remove-setting"

    def describe(self) -> str:
        return f"remove {display(self.name)} from {self.what} again"

    def observe(self, view: View) -> Observation:
        sink = self._sink(view)
        if sink is None or (not self.context_id and self._listed(view) is None):
            return Observation(status=Status.PRESENT)
        seen = view.circleci.variables(sink).find(self.name)
        if seen is None:
            return Observation(status=Status.PRESENT)
        if seen.tail is None:
            reason = f"the tail of {self.name} in {self.what} is not shown yet"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        if seen.tail != masked_tail(self.value):
            reason = f"somebody wrote another {self.name} into {self.what}"
            return Observation(status=Status.CONFLICT, reason=reason)
        return still_there(view, self.key, f"{self.name} of {self.what}")

    def apply(self, world: World) -> Evidence:
        world.circleci.delete_variable(self._required(world), self.name)
        return {"name": self.name}
