"""A call of CircleCI's twin, and how it finds what a call is about: what all its parts build on."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, TypeVar

from playbook.errors import CircleCiError, CredentialsError, Effect
from playbook.twins.faults import CIRCLECI, READ_RETRIES, Call
from playbook.twins.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from playbook.ports import Organization
    from playbook.secret import Secret
    from playbook.twins.remote import Remote
    from playbook.twins.state import CircleCiState, Context, StoredOrganization, StoredProject

R = TypeVar("R")


class CircleCiCalls:
    """Whoever sends one token to the world's CircleCI."""

    def __init__(self, world: Remote, token: Secret | None = None, *, retries: int = READ_RETRIES) -> None:
        """`token` is what the caller sends; without one it is whoever the world belongs to."""
        self.world = world
        self._token = token
        self._retries = retries

    @property
    def state(self) -> CircleCiState:
        """What CircleCI knows in this world."""
        return self.world.state.circleci

    def contexts_of(self, organization: str) -> list[Context]:
        """The stored contexts of an organization by name, without a call."""
        found = (item for item in self.state.contexts.values() if item.organization == organization)
        return sorted(found, key=lambda context: context.name)

    def projects_of(self, organization: str) -> list[StoredProject]:
        """The stored projects of an organization by slug, without a call."""
        found = (item for item in self.state.projects.values() if item.organization == organization)
        return sorted(found, key=lambda project: project.slug)

    def stored_organization(self, slug: str) -> StoredOrganization | None:
        """The organization of this slug, without a call."""
        return next(
            (item for item in self.state.organizations.values() if canonical(item.slug) == canonical(slug)), None
        )

    def organization_id(self, slug: str) -> str:
        """Its id; empty where there is none."""
        found = self.stored_organization(slug)
        return found.id if found is not None else ""

    def stored_project(self, operation: str, slug: str, project_id: str = "") -> StoredProject:
        """A project by its id, or by its slug where no id is known, without a call; refused if it is nowhere."""
        projects = self.state.projects
        found = projects.get(canonical(slug))
        if project_id and (found is None or found.id != project_id):
            # The slug of a deleted project may have gone to a living one.
            found = next((item for item in projects.values() if item.id == project_id), None)
        if found is None:
            raise refusal(operation, 404)
        return found

    def require_private_details(self) -> None:
        """Refuse as a host does that lacks the private route."""
        if not self.world.switches.private_details:
            raise refusal("project_details", 404)

    def call(self, operation: str, target: str, effect: Callable[[], R], *, write: bool = False) -> R:
        """Carry out any call of this token; the routes that `ports` does not need go through here as well."""

        def permitted() -> R:
            self._require_token()
            refused = self.state.refusals.get(f"{operation}:{target}")
            if refused is not None:
                raise CircleCiError(operation, code=refused.code, status=refused.status, effect=Effect.NONE)
            return effect()

        call = Call(service=CIRCLECI, operation=operation, target=target, write=write)
        return self.world.call(call, permitted, retries=self._retries)

    def _require_token(self) -> None:
        accepted = self.state.token_sha256
        if accepted is None or self._token is None:
            return
        if not hmac.compare_digest(accepted, self._token.digest()):
            raise CredentialsError(
                "CircleCI does not accept the token.",
                remedy="Make a new personal API token in CircleCI's user settings and give it with "
                "--circleci-token-file or CIRCLE_TOKEN.",
            )

    def require_organization(self, operation: str, organization: Organization) -> StoredOrganization:
        """The organization as it is stored, or a refusal."""
        found = self.state.organizations.get(organization.slug)
        if found is None:
            raise refusal(operation, 404)
        return found

    def require_context(self, operation: str, context_id: str) -> Context:
        """A context as it is stored; what is not there is refused as whatever may not be seen."""
        if (found := self.state.contexts.get(context_id)) is None:
            raise refusal(operation, self.world.switches.missing_context_status)
        return found


def canonical(slug: str) -> str:
    """One spelling of a slug: `gh/...` and `bb/...`, whichever of both the caller used."""
    provider, separator, rest = slug.partition("/")
    return {"github": "gh", "bitbucket": "bb"}.get(provider, provider) + separator + rest
