"""The identity provider of an account: CircleCI's issuer, made or adopted, with the audience that its tokens have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import Effect
from playbook.model import Action, Observation, Status
from playbook.ports import IdentityProvider, Organization, Project, SecretKind, display
from steps.oidc_targets import custom_audiences

if TYPE_CHECKING:
    from playbook.ports import Evidence, Role, View, World

CASE_TAG: Final = "rotation-playbook-case"
"""On everything that a case makes in IAM; its value is the case's id."""


def case_of(view: View, key: str) -> str:
    """The id of the case that this action belongs to, from its latest intent; empty before the first."""
    past = view.past(key)
    return past[-1].tag.partition(".")[0] if past else ""


def tried(view: View, key: str) -> bool:
    """Whether something of this action may be in the world."""
    return any(not attempt.reset and attempt.failed != Effect.NONE for attempt in view.past(key))


def not_there(view: View, key: str, what: str, evidence: Evidence | None = None) -> Observation:
    """What it means that the effect of a create is not shown: never tried, not visible yet, or not made."""
    attempts = [item for item in view.past(key) if not item.reset and item.failed != Effect.NONE]
    if not attempts:
        return Observation(status=Status.ABSENT, evidence=evidence or {})
    if attempts[-1].applied is not None:
        reason = f"{what} is made and not shown yet"
        return Observation(status=Status.PENDING, reason=reason, wait="visible")
    reason = f"the last try may have made {what}, which is not shown yet"
    return Observation(
        status=Status.PENDING, evidence=evidence or {}, reason=reason, wait="visible", otherwise=Status.ABSENT
    )


def still_there(view: View, key: str, what: str) -> Observation:
    """What it means that something to be removed is still shown: it is there, or our removal is not visible yet."""
    if any(attempt.applied is not None and not attempt.reset for attempt in view.past(key)):
        reason = f"{what} is removed and still shown"
        return Observation(status=Status.PENDING, reason=reason, wait="sink", otherwise=Status.ABSENT)
    return Observation(status=Status.ABSENT)


@dataclass(frozen=True, kw_only=True)
class ConfirmAudience(Action):
    """The tokens still have the audience that the trust policies are made for: changing it breaks every one."""

    kind: ClassVar[str] = "circleci:confirm-audience"
    changes: ClassVar[bool] = False

    organization: Organization
    projects: tuple[Project, ...]
    custom: tuple[tuple[str, tuple[str, ...]], ...]
    """Slug and custom audiences of the organization and of each project that has some."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}"

    @property
    def lane(self) -> str:
        return f"circleci:oidc-claims/{self.organization.slug}"

    def describe(self) -> str:
        return f"see that OIDC tokens of {display(self.organization.slug)} have the audience they had"

    def observe(self, view: View) -> Observation:
        kinds = frozenset({SecretKind.OIDC_CLAIMS})
        own = view.circleci.organization_secrets(self.organization, kinds)
        read = view.gather(lambda project: view.circleci.project_secrets(project, kinds), self.projects)
        holes = [*own.holes, *(hole for part in read for hole in part.holes)]
        if holes:
            reason = f"the OIDC claims of {display(holes[0].where)} cannot be read: {display(holes[0].why)}"
            return Observation(status=Status.CONFLICT, reason=reason)
        rows = [*own.secrets, *(row for part in read for row in part.secrets)]
        found = {row.place: custom_audiences(row.detail) for row in rows if custom_audiences(row.detail)}
        expected = dict(self.custom)
        changed = sorted(place for place in {*found, *expected} if found.get(place) != expected.get(place))
        if changed:
            reason = (
                f"the audience of {display(changed[0])} was changed since the inventory: trust policies for the old "
                "one would let nobody in; begin a new case"
            )
            return Observation(status=Status.CONFLICT, reason=reason)
        return Observation(status=Status.PRESENT, evidence={"places": len(expected)})

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class ProviderAction(Action):
    """What is done to the provider of one issuer in one account."""

    account: str
    arn: str

    @property
    def lane(self) -> str:
        return f"iam-provider:{self.arn}"

    def _provider(self, view: View) -> IdentityProvider | None:
        return next((item for item in view.aws(self.account).providers() if item.arn == self.arn), None)


@dataclass(frozen=True, kw_only=True)
class CreateProvider(ProviderAction):
    """Register CircleCI's issuer in an account; IAM finds the thumbprint itself."""

    kind: ClassVar[str] = "iam:create-oidc-provider"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListOpenIDConnectProviders",
            "iam:GetOpenIDConnectProvider",
            "iam:CreateOpenIDConnectProvider",
            "iam:TagOpenIDConnectProvider",
        }
    )
    at_most_once: ClassVar[bool] = True

    url: str
    audiences: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.arn}"

    def describe(self) -> str:
        return f"register {display(self.url)} as an identity provider in {self.account}"

    def observe(self, view: View) -> Observation:
        seen = self._provider(view)
        if seen is None:
            return not_there(view, self.key, f"the provider {display(self.arn)}")
        lacking = [audience for audience in self.audiences if audience not in seen.client_ids]
        if lacking:
            reason = f"the provider {display(self.arn)} was made by somebody else, without the audience {lacking[0]}"
            return Observation(status=Status.CONFLICT, reason=reason)
        return Observation(status=Status.PRESENT, evidence={"arn": seen.arn, "audiences": seen.client_ids})

    def apply(self, world: World) -> Evidence:
        tags = {CASE_TAG: case_of(world, self.key)}
        return {"arn": world.aws(self.account).create_provider(self.url, self.audiences, tags)}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (DeleteProvider(account=self.account, arn=self.arn, create=self.key),)


@dataclass(frozen=True, kw_only=True)
class DeleteProvider(ProviderAction):
    """Remove a provider that this case made; one that somebody else made stays."""

    kind: ClassVar[str] = "iam:delete-oidc-provider"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListOpenIDConnectProviders",
            "iam:GetOpenIDConnectProvider",
            "iam:DeleteOpenIDConnectProvider",
            "iam:GetAccountAuthorizationDetails",
        }
    )

    create: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.arn}"

    def describe(self) -> str:
        return f"remove the identity provider {display(self.arn)} again"

    def observe(self, view: View) -> Observation:
        seen = self._provider(view)
        if seen is None or dict(seen.tags).get(CASE_TAG) != case_of(view, self.create):
            return Observation(status=Status.PRESENT, evidence={"ours": False})
        # What trusted it before it was there has done without.
        trusting = [
            role.name
            for role in view.aws(self.account).details().roles
            if self.arn in str(role.trust) and not _is_older(role, seen)
        ]
        if trusting:
            reason = f"{len(trusting)} newer role(s) trust {display(self.arn)}, such as {display(trusting[0])}"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        return still_there(view, self.key, f"the provider {display(self.arn)}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).delete_provider(self.arn)
        return {"arn": self.arn}


def _is_older(role: Role, provider: IdentityProvider) -> bool:
    return role.created_at is not None and provider.created_at is not None and role.created_at < provider.created_at


@dataclass(frozen=True, kw_only=True)
class AddAudience(ProviderAction):
    """Let a provider that is there take one more audience."""

    kind: ClassVar[str] = "iam:add-oidc-audience"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListOpenIDConnectProviders",
            "iam:GetOpenIDConnectProvider",
            "iam:AddClientIDToOpenIDConnectProvider",
        }
    )

    audience: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.arn}/{self.audience}"

    def describe(self) -> str:
        return f"add the audience {display(self.audience)} to the identity provider {display(self.arn)}"

    def observe(self, view: View) -> Observation:
        seen = self._provider(view)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"the provider {display(self.arn)} is gone")
        if self.audience in seen.client_ids:
            return Observation(status=Status.PRESENT, evidence={"audiences": seen.client_ids})
        return not_there(view, self.key, f"the audience {display(self.audience)}", {"audiences": seen.client_ids})

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).add_client_id(self.arn, self.audience)
        return {"audience": self.audience}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (RemoveAudience(account=self.account, arn=self.arn, audience=self.audience),)


@dataclass(frozen=True, kw_only=True)
class RemoveAudience(ProviderAction):
    """Take away an audience that this case added."""

    kind: ClassVar[str] = "iam:remove-oidc-audience"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {
            "iam:ListOpenIDConnectProviders",
            "iam:GetOpenIDConnectProvider",
            "iam:RemoveClientIDFromOpenIDConnectProvider",
        }
    )

    audience: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.arn}/{self.audience}"

    def describe(self) -> str:
        return f"take the audience {display(self.audience)} from the identity provider {display(self.arn)} again"

    def observe(self, view: View) -> Observation:
        seen = self._provider(view)
        if seen is None or self.audience not in seen.client_ids:
            return Observation(status=Status.PRESENT)
        return still_there(view, self.key, f"the audience {display(self.audience)}")

    def apply(self, world: World) -> Evidence:
        world.aws(self.account).remove_client_id(self.arn, self.audience)
        return {"audience": self.audience}
