"""What is done to stored secrets that are no variables: where each is read again, and the gates for what hands do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import CircleCiError, Effect
from playbook.model import Action, Observation, Status
from playbook.ports import Organization, Project, SecretKind, StoredSecret, display

if TYPE_CHECKING:
    from playbook.ports import Evidence, Hole, View, World

RESOURCE_CLASS: Final = "resource-class"
STANDALONE: Final = "circleci/"
"""How the slug of a project begins that is no repository of GitHub or Bitbucket by OAuth (facts/circleci 0.6)."""

NAMES: Final = {
    SecretKind.CHECKOUT_KEY: "checkout key",
    SecretKind.SSH_KEY: "SSH key",
    SecretKind.PROJECT_TOKEN: "API token",
    SecretKind.RUNNER_TOKEN: "runner token",
    SecretKind.WEBHOOK_SECRET: "webhook secret",
    SecretKind.TRIGGER_URL: "trigger address",
    SecretKind.LEGACY_AWS_KEY: "key of the old AWS integration",
}
BY_HAND: Final = {
    SecretKind.CHECKOUT_KEY: "in CircleCI, Project Settings, SSH Keys, add a new checkout key and delete this one; "
    "then delete it at the code host",
    SecretKind.SSH_KEY: "put a new public key on the target; in CircleCI, Project Settings, SSH Keys, Additional SSH "
    "Keys, add the new private key; put its fingerprint into add_ssh_keys in every branch that uses it; delete the old "
    "key there and on the target",
    SecretKind.PROJECT_TOKEN: "in CircleCI, Project Settings, API Permissions, make a new token, which is shown once; "
    "put it wherever the old one is used; then delete the old one",
    SecretKind.RUNNER_TOKEN: "in CircleCI, Self-Hosted Runners, make a new token of the resource class, which is shown "
    "once; put it into the configuration of its agents and restart them; then delete the old one",
    SecretKind.WEBHOOK_SECRET: "in CircleCI, Project Settings, Webhooks, give it a new secret, and its receiver too",
    SecretKind.TRIGGER_URL: "in CircleCI, Project Settings, Project Setup, make the trigger anew, give its new address "
    "to whoever calls it, and delete this one",
    SecretKind.LEGACY_AWS_KEY: "in CircleCI, Project Settings, AWS Permissions, remove the key; jobs that relied on it "
    "need a context or a role instead",
}
"""Where hands go, by kind; the private address of a page is no part of any contract, its name is what people see."""


@dataclass(frozen=True, kw_only=True)
class SecretPlace:
    """Where secrets of one kind are stored: enough of a project or an organization to read them again."""

    kind: SecretKind
    place: str
    """The project's slug, or the runner's resource class."""
    place_kind: str
    organization: str
    owner_id: str
    """The id of the project, or of the organization of a resource class."""
    deleted: bool = False

    def describe(self, name: str) -> str:
        """For a person: `API token badge of gh/acme/api`."""
        return f"{NAMES.get(self.kind, self.kind.value)} {display(name)} of {display(self.place)}"

    @property
    def project(self) -> Project:
        """The project, as far as a call needs it."""
        return Project(
            id=self.owner_id, slug=self.place, organization=self.organization, known_by=(), deleted=self.deleted
        )

    def read(self, view: View) -> tuple[StoredSecret, ...]:
        """The secrets stored here now. Raises `CircleCiError` when they cannot be read: a hole is no answer."""
        kinds = frozenset({self.kind})
        holes: tuple[Hole, ...]
        if self.place_kind == RESOURCE_CLASS:
            owner = Organization(id=self.owner_id, slug=self.organization, name=self.organization)
            of_owner = view.circleci.organization_secrets(owner, kinds)
            secrets, holes = of_owner.secrets, of_owner.holes
            # A class that nobody may read says nothing about another one.
            holes = tuple(hole for hole in holes if hole.where in {self.place, self.organization})
        else:
            of_project = view.circleci.project_secrets(self.project, kinds)
            secrets, holes = of_project.secrets, of_project.holes
        missed = next((hole.why for hole in holes if hole.what == self.kind.value), None)
        if missed is not None:
            raise CircleCiError(
                f"the reading of the {NAMES[self.kind]}s of {display(self.place)}",
                code=missed,
                effect=Effect.NONE,
                retryable=not missed.startswith("HTTP4"),
            )
        return tuple(item for item in secrets if item.kind is self.kind and item.place == self.place)


def updated_at(secret: StoredSecret) -> str:
    """What proves a write to a webhook; no other kind has it."""
    return secret.updated_at.isoformat() if secret.updated_at is not None else ""


def successors(rows: tuple[StoredSecret, ...], name: str, known: tuple[str, ...]) -> list[str]:
    """The ids of what was made under this name since the inventory."""
    return [row.id for row in rows if row.name == name and row.id not in known]


@dataclass(frozen=True, kw_only=True)
class ConfirmGone(Action):
    """Somebody replaces a secret by hand; done is that CircleCI no longer shows the old one, not what is said."""

    kind: ClassVar[str] = "circleci:confirm-gone"
    changes: ClassVar[bool] = False

    place: SecretPlace
    id: str
    name: str
    known: tuple[str, ...]
    """Every id of the kind in its place when the plan was made."""
    updated_before: str = ""
    """Of a webhook, which stays the same one with another secret: its `updated_at` in the inventory."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.kind.value}/{self.place.place}/{self.id}/{self.name}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.place.kind.value}/{self.place.place}/{self.id}/{self.name}"

    def describe(self) -> str:
        return f"see that the {self.place.describe(self.name)} was replaced by hand"

    def observe(self, view: View) -> Observation:
        rows = self.place.read(view)
        made = [row.id for row in rows if row.id not in self.known]
        evidence: Evidence = {"id": self.id, "made_since": made}
        # One SSH key may serve several hosts, each a row of its own.
        old = next((row for row in rows if (row.id, row.name) == (self.id, self.name)), None)
        if old is None:
            return Observation(status=Status.PRESENT, evidence=evidence)
        if self.updated_before and old.set and updated_at(old) != self.updated_before:
            return Observation(status=Status.PRESENT, evidence={**evidence, "updated_at": updated_at(old)})
        reason = f"the {self.place.describe(self.name)} is still the old one: {BY_HAND[self.place.kind]}"
        return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class ConfirmSuccessor(Action):
    """Somebody makes the new token and places it, for it is shown once; seen is that there is one of the same name."""

    kind: ClassVar[str] = "circleci:confirm-successor"
    changes: ClassVar[bool] = False

    place: SecretPlace
    id: str
    name: str
    known: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.kind.value}/{self.place.place}/{self.id}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.place.kind.value}/{self.place.place}/{self.id}"

    def describe(self) -> str:
        return f"see that there is a new {self.place.describe(self.name)}"

    def observe(self, view: View) -> Observation:
        made = successors(self.place.read(view), self.name, self.known)
        if made:
            return Observation(status=Status.PRESENT, evidence={"id": self.id, "successors": made})
        reason = (
            f"there is no new {self.place.describe(self.name)} yet: {BY_HAND[self.place.kind].rpartition(';')[0]}. "
            "Give it the same name, and come back only once it is in use: the old one is revoked then"
        )
        return Observation(status=Status.CONFLICT, evidence={"id": self.id}, reason=reason)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class RevokeToken(Action):
    """Revoke a project's or a runner's token for good, while a newer one of the same name is seen beside it."""

    kind: ClassVar[str] = "circleci:revoke-token"
    destroys: ClassVar[bool] = True

    place: SecretPlace
    id: str
    name: str
    known: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.kind.value}/{self.place.place}/{self.id}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.place.kind.value}/{self.place.place}/{self.id}"

    def describe(self) -> str:
        return f"revoke the old {self.place.describe(self.name)} once there is a new one"

    def observe(self, view: View) -> Observation:
        rows = self.place.read(view)
        made = successors(rows, self.name, self.known)
        evidence: Evidence = {"id": self.id, "successors": made}
        if not any(row.id == self.id for row in rows):
            return Observation(status=Status.PRESENT, evidence=evidence)
        if not made:
            reason = f"the new {self.place.describe(self.name)} is gone again, so the old one is left alone"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"the {self.place.describe(self.name)} is revoked but still listed"
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        if self.place.kind is SecretKind.RUNNER_TOKEN:
            world.circleci.delete_runner_token(self.id)
        else:
            world.circleci.delete_project_token(self.place.project, self.id)
        return {"id": self.id}
