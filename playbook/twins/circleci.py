"""CircleCI by its own rules (facts/circleci 0 to 3): masks, caps, upserts, and 403 for a context that is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from playbook.ports import (
    Hole,
    MaskedVariable,
    Organization,
    Project,
    Projects,
    Restriction,
    Sink,
    SinkKind,
    Variables,
)
from playbook.twins import pipeline, stored
from playbook.twins.circleci_calls import canonical
from playbook.twins.circleci_changes import SecretChanges
from playbook.twins.circleci_runs import RunCalls
from playbook.twins.pipeline import Failure, PipelineRun, context_sink
from playbook.twins.refusals import refusal
from playbook.twins.state import Context, Shown, StoredProject, Value, Variable
from playbook.twins.switches import FreshTail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.ports import ProjectSecrets, SecretKind, StoredSecrets
    from playbook.secret import Secret

PAGE: Final = 100
CONTEXTS_PER_ORGANIZATION: Final = 500
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_CONTEXT_NAME: Final = re.compile(r"\S(?:[^\r\n\v\f]{0,198}\S)?")


class CircleCiTwin(RunCalls, SecretChanges):
    """Implements `ports.CircleCi`, and runs pipelines besides."""

    @property
    def host(self) -> str:
        """The address of the world this stands for."""
        return self.state.host

    def login(self) -> str:
        """Whose token this is."""
        return self.call("login", "", lambda: self.state.login)

    def organizations(self) -> tuple[Organization, ...]:
        """Every organization of the world."""
        return self.call(
            "organizations",
            "",
            lambda: tuple(
                Organization(id=item.id, slug=item.slug, name=item.name) for item in self.state.organizations.values()
            ),
        )

    def contexts(self, organization: Organization) -> tuple[Sink, ...]:
        """The organization's contexts, by name."""

        def effect() -> tuple[Sink, ...]:
            self.require_organization("contexts", organization)
            return tuple(context_sink(context) for context in self.contexts_of(organization.slug))

        return self.call("contexts", organization.slug, effect)

    def projects(self, organization: Organization) -> Projects:
        """The organization's projects, deleted ones included, with the holes of the world that was mirrored."""

        def effect() -> Projects:
            self.require_organization("projects", organization)
            holes = self.state.organizations[organization.slug].holes
            return Projects(
                items=tuple(
                    Project(
                        id=item.id,
                        slug=item.slug,
                        organization=item.organization,
                        known_by=item.known_by,
                        deleted=item.deleted,
                    )
                    for item in self.projects_of(organization.slug)
                ),
                holes=tuple(Hole(what=hole.what, where=hole.where, why=hole.why) for hole in holes),
            )

        return self.call("projects", organization.slug, effect)

    def variables(self, sink: Sink) -> Variables:
        """What is stored, masked; of a context only the first 100 by name."""
        return self.call("variables", sink.id, lambda: self.shown_variables(sink))

    def restrictions(self, context: Sink) -> tuple[Restriction, ...]:
        """Who may use the context."""

        def effect() -> tuple[Restriction, ...]:
            found = self.require_context("restrictions", context.id)
            return tuple(Restriction(id=item.id, kind=item.kind, value=item.value) for item in found.restrictions)

        return self.call("restrictions", context.id, effect)

    def project_secrets(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        """Everything the project stores of these kinds, with the calls the real client would make."""
        return stored.of_project(self, project, kinds)

    def organization_secrets(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        """Runner tokens and custom OIDC claims."""
        return stored.of_organization(self, organization, kinds)

    def put_variable(self, sink: Sink, name: str, value: Secret) -> None:
        """Store a value's tail and digest under a name; a new name at the cap is refused, an existing one is not."""
        self.write_variable(sink, name, value)

    def write_variable(self, sink: Sink, name: str, value: Secret) -> Variable:
        """Do what `put_variable` does, and answer what is stored now."""
        kept = Value.of(value)

        def effect() -> Variable:
            variables = self._variables_of("put_variable", sink, write=True)
            if not names_variable(name):
                raise refusal("put_variable", 400)
            if sink.kind is SinkKind.CONTEXT and name not in variables and self._is_full(sink.id):
                raise refusal("put_variable", 400)
            return self.store(sink, name, kept)

        return self.call("put_variable", f"{sink.id}/{name}", effect, write=True)

    def delete_variable(self, sink: Sink, name: str) -> None:
        """Remove a variable, if it is there."""
        self.remove_variable(sink, name)

    def remove_variable(self, sink: Sink, name: str) -> bool:
        """Remove a variable, and say whether it was there: sources disagree on what the API answers then."""

        def effect() -> bool:
            return self._variables_of("delete_variable", sink, write=True).pop(name, None) is not None

        return self.call("delete_variable", f"{sink.id}/{name}", effect, write=True)

    def create_context(self, organization: Organization, name: str) -> Sink:
        """Make a context; names are unique in an organization."""

        def effect() -> Sink:
            self.require_organization("create_context", organization)
            contexts = self.contexts_of(organization.slug)
            if _CONTEXT_NAME.fullmatch(name) is None or len(contexts) >= CONTEXTS_PER_ORGANIZATION:
                raise refusal("create_context", 400)
            if any(context.name == name for context in contexts):
                raise refusal("create_context", self.world.switches.duplicate_context_status)
            number = self.world.new_id()
            context = Context(id=number, name=name, organization=organization.slug, created_at=self.world.clock.now())
            self.state.contexts[number] = context
            return context_sink(context)

        return self.call("create_context", f"{organization.slug}/{name}", effect, write=True)

    def run_pipeline(
        self,
        project: str,
        contexts: Sequence[str],
        *,
        id_variable: str = pipeline.ID_VARIABLE,
        secret_variable: str = pipeline.SECRET_VARIABLE,
    ) -> PipelineRun:
        """Run one job of a project (its slug) with these contexts (their names, as its config lists them)."""

        def effect() -> PipelineRun:
            found = self.state.projects.get(canonical(project))
            if found is None or found.deleted:
                return PipelineRun(project=project, contexts=tuple(contexts), failure=Failure.NO_SUCH_PROJECT)
            by_name = {context.name: context for context in self.contexts_of(found.organization)}
            if any(name not in by_name for name in contexts):
                return PipelineRun(project=project, contexts=tuple(contexts), failure=Failure.UNAUTHORIZED)
            listed = [by_name[name] for name in contexts]
            return pipeline.run(self.world, found, listed, id_variable=id_variable, secret_variable=secret_variable)

        return self.call("run_pipeline", canonical(project), effect)

    def shown_variables(self, sink: Sink) -> Variables:
        """What a sink's list shows, without a call."""
        held = self._variables_of("variables", sink)
        if sink.kind is SinkKind.PROJECT:
            project = self.state.projects[canonical(sink.id)]
            return self.undated_variables(project) if project.deleted else Variables(items=self._all_shown(sink, held))
        shown = self._all_shown(sink, held)
        switches = self.world.switches
        if switches.spec_paging or switches.v3_variables:
            return Variables(items=shown)
        hidden = len(shown) > PAGE or self.state.contexts[sink.id].hides_more
        return Variables(items=shown[:PAGE], complete=not hidden)

    def undated_variables(self, project: StoredProject) -> Variables:
        """What the private route shows of a project's variables, without a call: names and tails (facts 4.3)."""
        shown = self._all_shown(pipeline.project_sink(project), project.variables)
        return Variables(items=tuple(MaskedVariable(name=item.name, tail=item.tail) for item in shown))

    def _all_shown(self, sink: Sink, held: Mapping[str, Variable]) -> tuple[MaskedVariable, ...]:
        return tuple(item for name in sorted(held) if (item := self._shown(sink, name, held[name])) is not None)

    def store(self, sink: Sink, name: str, value: Value) -> Variable:
        """Write a value into a sink that exists, without a call and without asking whether it may."""
        variables = self._variables_of("put_variable", sink)
        now = self.world.clock.now()
        old = variables.get(name)
        moves = sink.kind is SinkKind.PROJECT and self.world.switches.overwrite_moves_created_at
        variables[name] = Variable(
            value=value,
            created_at=now if old is None or moves else old.created_at,
            updated_at=now,
            written_at=now,
            before=None if old is None else self._settled(old),
        )
        return variables[name]

    def _variables_of(self, operation: str, sink: Sink, *, write: bool = False) -> dict[str, Variable]:
        if sink.kind is SinkKind.CONTEXT:
            return self.require_context(operation, sink.id).variables
        project = self.state.projects.get(canonical(sink.id))
        # A deleted project keeps its secrets: the private route still reads them, nothing can write them.
        if project is None or (project.deleted and write):
            raise refusal(operation, 404)
        return project.variables

    def _is_full(self, context_id: str) -> bool:
        context = self.state.contexts[context_id]
        return context.hides_more or len(context.variables) >= self.world.switches.variables_per_context

    def _settled(self, variable: Variable) -> Shown | None:
        """What a lagging list shows of it now."""
        if variable.written_at <= self.world.ago(self.world.switches.tail_lag_s):
            return Shown(value=variable.value, updated_at=variable.updated_at)
        return variable.before

    def _shown(self, sink: Sink, name: str, variable: Variable) -> MaskedVariable | None:
        fresh = variable.written_at > self.world.ago(self.world.switches.tail_lag_s)
        tail, updated_at = variable.value.tail, variable.updated_at
        if fresh and self.world.switches.fresh_tail is FreshTail.NOTHING:
            tail = None
        elif fresh:
            if variable.before is None:
                return None
            tail, updated_at = variable.before.value.tail, variable.before.updated_at
        return MaskedVariable(
            name=name,
            tail=tail,
            created_at=variable.created_at,
            updated_at=updated_at if sink.kind is SinkKind.CONTEXT else None,
        )


def names_variable(text: str) -> bool:
    """Whether CircleCI takes this for a variable's name (facts 2.6)."""
    return _VARIABLE_NAME.fullmatch(text) is not None
