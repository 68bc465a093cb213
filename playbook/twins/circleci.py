"""CircleCI by its own rules (facts/circleci 0 to 3): masks, caps, upserts, and 403 for a context that is not there."""

from __future__ import annotations

import hmac
import re
import uuid
from typing import TYPE_CHECKING, Final, TypeVar

from playbook.errors import CircleCiError, CredentialsError, Effect
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
from playbook.twins.faults import CIRCLECI, READ_RETRIES, Call
from playbook.twins.pipeline import Failure, PipelineRun, context_sink
from playbook.twins.state import Context, Shown, StoredProject, Value, Variable
from playbook.twins.switches import FreshTail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from playbook.ports import ProjectSecrets, RunConfigs, SecretKind, StoredSecrets
    from playbook.secret import Secret
    from playbook.twins.remote import Remote
    from playbook.twins.state import CircleCiState, StoredOrganization

R = TypeVar("R")

PAGE: Final = 100
CONTEXTS_PER_ORGANIZATION: Final = 500
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
_CONTEXT_NAME: Final = re.compile(r"\S(?:[^\r\n\v\f]{0,198}\S)?")


class CircleCiTwin:
    """Implements `ports.CircleCi`, and runs pipelines besides."""

    def __init__(self, world: Remote, token: Secret | None = None, *, retries: int = READ_RETRIES) -> None:
        """`token` is what the caller sends; without one it is whoever the world belongs to."""
        self._world = world
        self._token = token
        self._retries = retries

    @property
    def _state(self) -> CircleCiState:
        return self._world.state.circleci

    @property
    def host(self) -> str:
        """The address of the world this stands for."""
        return self._state.host

    def login(self) -> str:
        """Whose token this is."""
        return self.call("login", "", lambda: self._state.login)

    def organizations(self) -> tuple[Organization, ...]:
        """Every organization of the world."""
        return self.call(
            "organizations",
            "",
            lambda: tuple(
                Organization(id=item.id, slug=item.slug, name=item.name) for item in self._state.organizations.values()
            ),
        )

    def contexts(self, organization: Organization) -> tuple[Sink, ...]:
        """The organization's contexts, by name."""

        def effect() -> tuple[Sink, ...]:
            self._require_organization("contexts", organization)
            return tuple(context_sink(context) for context in self.contexts_of(organization.slug))

        return self.call("contexts", organization.slug, effect)

    def projects(self, organization: Organization) -> Projects:
        """The organization's projects, deleted ones included, with the holes of the world that was mirrored."""

        def effect() -> Projects:
            self._require_organization("projects", organization)
            holes = self._state.organizations[organization.slug].holes
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
            found = self._require_context("restrictions", context.id)
            return tuple(Restriction(id=item.id, kind=item.kind, value=item.value) for item in found.restrictions)

        return self.call("restrictions", context.id, effect)

    def project_secrets(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        """Everything the project stores of these kinds, with the calls the real client would make."""
        return stored.of_project(self, project, kinds)

    def organization_secrets(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        """Runner tokens and custom OIDC claims."""
        return stored.of_organization(self, organization, kinds)

    def run_configs(self, project: Project, most: int) -> RunConfigs:
        """What the project's latest pipelines ran with."""
        return stored.run_configs(self, project, most)

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
            self._require_organization("create_context", organization)
            contexts = self.contexts_of(organization.slug)
            if _CONTEXT_NAME.fullmatch(name) is None or len(contexts) >= CONTEXTS_PER_ORGANIZATION:
                raise refusal("create_context", 400)
            if any(context.name == name for context in contexts):
                raise refusal("create_context", self._world.switches.duplicate_context_status)
            number = str(uuid.UUID(bytes=self._world.random.randbytes(16), version=4))
            context = Context(id=number, name=name, organization=organization.slug, created_at=self._world.clock.now())
            self._state.contexts[number] = context
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
            found = self._state.projects.get(canonical(project))
            if found is None or found.deleted:
                return PipelineRun(project=project, contexts=tuple(contexts), failure=Failure.NO_SUCH_PROJECT)
            by_name = {context.name: context for context in self.contexts_of(found.organization)}
            if any(name not in by_name for name in contexts):
                return PipelineRun(project=project, contexts=tuple(contexts), failure=Failure.UNAUTHORIZED)
            listed = [by_name[name] for name in contexts]
            return pipeline.run(self._world, found, listed, id_variable=id_variable, secret_variable=secret_variable)

        return self.call("run_pipeline", canonical(project), effect)

    def shown_variables(self, sink: Sink) -> Variables:
        """What a sink's list shows, without a call."""
        held = self._variables_of("variables", sink)
        if sink.kind is SinkKind.PROJECT:
            project = self._state.projects[canonical(sink.id)]
            return self.undated_variables(project) if project.deleted else Variables(items=self._all_shown(sink, held))
        shown = self._all_shown(sink, held)
        switches = self._world.switches
        if switches.spec_paging or switches.v3_variables:
            return Variables(items=shown)
        hidden = len(shown) > PAGE or self._state.contexts[sink.id].hides_more
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
        now = self._world.clock.now()
        old = variables.get(name)
        moves = sink.kind is SinkKind.PROJECT and self._world.switches.overwrite_moves_created_at
        variables[name] = Variable(
            value=value,
            created_at=now if old is None or moves else old.created_at,
            updated_at=now,
            written_at=now,
            before=None if old is None else self._settled(old),
        )
        return variables[name]

    def contexts_of(self, organization: str) -> list[Context]:
        """The stored contexts of an organization by name, without a call."""
        found = (item for item in self._state.contexts.values() if item.organization == organization)
        return sorted(found, key=lambda context: context.name)

    def projects_of(self, organization: str) -> list[StoredProject]:
        """The stored projects of an organization by slug, without a call."""
        found = (item for item in self._state.projects.values() if item.organization == organization)
        return sorted(found, key=lambda project: project.slug)

    def stored_organization(self, slug: str) -> StoredOrganization | None:
        """The organization of this slug, without a call."""
        return next(
            (item for item in self._state.organizations.values() if canonical(item.slug) == canonical(slug)), None
        )

    def organization_id(self, slug: str) -> str:
        """Its id; empty where there is none."""
        found = self.stored_organization(slug)
        return found.id if found is not None else ""

    def stored_project(self, operation: str, slug: str, project_id: str = "") -> StoredProject:
        """A project by its id, or by its slug where no id is known, without a call; refused if it is nowhere."""
        projects = self._state.projects
        found = projects.get(canonical(slug))
        if project_id and (found is None or found.id != project_id):
            # The slug of a deleted project may have gone to a living one.
            found = next((item for item in projects.values() if item.id == project_id), None)
        if found is None:
            raise refusal(operation, 404)
        return found

    def living_project(self, operation: str, slug: str) -> StoredProject:
        """A project that is not deleted, without a call; v2 knows no other."""
        found = self._state.projects.get(canonical(slug))
        if found is None or found.deleted:
            raise refusal(operation, 404)
        return found

    def require_private_details(self) -> None:
        """Refuse as a host does that lacks the private route."""
        if not self._world.switches.private_details:
            raise refusal("project_details", 404)

    def call(self, operation: str, target: str, effect: Callable[[], R], *, write: bool = False) -> R:
        """Carry out any call of this token; the routes that `ports` does not need go through here as well."""

        def permitted() -> R:
            self._require_token()
            refused = self._state.refusals.get(f"{operation}:{target}")
            if refused is not None:
                raise CircleCiError(operation, code=refused.code, status=refused.status, effect=Effect.NONE)
            return effect()

        call = Call(service=CIRCLECI, operation=operation, target=target, write=write)
        return self._world.call(call, permitted, retries=self._retries)

    def _require_token(self) -> None:
        accepted = self._state.token_sha256
        if accepted is None or self._token is None:
            return
        if not hmac.compare_digest(accepted, self._token.digest()):
            raise CredentialsError(
                "CircleCI does not accept the token.",
                remedy="Make a new personal API token in CircleCI's user settings and give it with "
                "--circleci-token-file or CIRCLE_TOKEN.",
            )

    def _require_organization(self, operation: str, organization: Organization) -> None:
        if organization.slug not in self._state.organizations:
            raise refusal(operation, 404)

    def _require_context(self, operation: str, context_id: str) -> Context:
        if (found := self._state.contexts.get(context_id)) is None:
            raise refusal(operation, self._world.switches.missing_context_status)
        return found

    def _variables_of(self, operation: str, sink: Sink, *, write: bool = False) -> dict[str, Variable]:
        if sink.kind is SinkKind.CONTEXT:
            return self._require_context(operation, sink.id).variables
        project = self._state.projects.get(canonical(sink.id))
        # A deleted project keeps its secrets: the private route still reads them, nothing can write them.
        if project is None or (project.deleted and write):
            raise refusal(operation, 404)
        return project.variables

    def _is_full(self, context_id: str) -> bool:
        context = self._state.contexts[context_id]
        return context.hides_more or len(context.variables) >= self._world.switches.variables_per_context

    def _settled(self, variable: Variable) -> Shown | None:
        """What a lagging list shows of it now."""
        if variable.written_at <= self._world.ago(self._world.switches.tail_lag_s):
            return Shown(value=variable.value, updated_at=variable.updated_at)
        return variable.before

    def _shown(self, sink: Sink, name: str, variable: Variable) -> MaskedVariable | None:
        fresh = variable.written_at > self._world.ago(self._world.switches.tail_lag_s)
        tail, updated_at = variable.value.tail, variable.updated_at
        if fresh and self._world.switches.fresh_tail is FreshTail.NOTHING:
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


def refusal(operation: str, status: int) -> CircleCiError:
    """Build CircleCI's definite no."""
    return CircleCiError(operation, code=f"HTTP{status}", status=status, effect=Effect.NONE)


def names_variable(text: str) -> bool:
    """Whether CircleCI takes this for a variable's name (facts 2.6)."""
    return _VARIABLE_NAME.fullmatch(text) is not None


def canonical(slug: str) -> str:
    """One spelling of a slug: `gh/...` and `bb/...`, whichever of both the caller used."""
    provider, separator, rest = slug.partition("/")
    return {"github": "gh", "bitbucket": "bb"}.get(provider, provider) + separator + rest
