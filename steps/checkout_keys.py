"""The actions on checkout keys: make the new deploy key, see it listed, then delete the old one at CircleCI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import Effect
from playbook.model import Action, Observation, Status
from playbook.ports import display
from steps.stored_secrets import SecretPlace

if TYPE_CHECKING:
    from playbook.ports import Attempt, Evidence, StoredSecret, View, World

DEPLOY_KEY: Final = "deploy-key"


def made_keys(view: View, create: str, rows: tuple[StoredSecret, ...]) -> list[str]:
    """The fingerprints that the tries of the action with the key `create` made, as far as they are listed.

    A try whose end nobody knows may have made whatever deploy key is listed now and was not when it was declared. More
    than one is for a human: an orphan of ours, or a stranger's.
    """
    listed = [row.id for row in rows if row.detail == DEPLOY_KEY]
    made = {fingerprint for attempt in view.past(create) for fingerprint in _made_by(attempt, listed)}
    return [fingerprint for fingerprint in listed if fingerprint in made]


def _made_by(attempt: Attempt, listed: list[str]) -> list[str]:
    if attempt.failed == Effect.NONE:
        return []
    if attempt.applied is not None:
        return [str(attempt.applied["fingerprint"])]
    before = attempt.basis.get("fingerprints")
    # Without a list to compare with nothing is ours.
    known = {str(item) for item in before} if isinstance(before, list | tuple) else set(listed)
    return [fingerprint for fingerprint in listed if fingerprint not in known]


@dataclass(frozen=True, kw_only=True)
class CreateCheckoutKey(Action):
    """Make the deploy key that takes an old one's place; CircleCI puts it at the code host itself."""

    kind: ClassVar[str] = "circleci:create-checkout-key"
    at_most_once: ClassVar[bool] = True

    place: SecretPlace
    old: str
    """The fingerprint of the key it replaces."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.place}/{self.old}"

    @property
    def lane(self) -> str:
        # One lane a project: two tries at once could not be told apart by what is new in the list.
        return f"circleci:{self.place.kind.value}/{self.place.place}"

    def describe(self) -> str:
        return f"create a new deploy key for {display(self.place.place)}, in place of {display(self.old)}"

    def observe(self, view: View) -> Observation:
        rows = self.place.read(view)
        listed = [row.id for row in rows]
        evidence: Evidence = {"fingerprints": listed}
        attempts = [attempt for attempt in view.past(self.key) if attempt.failed != Effect.NONE]
        if attempts:
            return self._observe_made(made_keys(view, self.key, rows), attempts[-1], evidence)
        if self.old not in listed:
            reason = f"the {self.place.describe(self.old)} is gone: somebody else replaced it"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return Observation(status=Status.ABSENT, evidence=evidence)

    def _observe_made(self, made: list[str], last: Attempt, evidence: Evidence) -> Observation:
        """What became of the tries so far; a lost reply is settled by the list, and never repeated blindly."""
        if len(made) == 1:
            return Observation(status=Status.PRESENT, evidence={**evidence, "fingerprint": made[0]})
        if made:
            reason = (
                f"{' and '.join(map(display, made))} appeared in {display(self.place.place)} while a try of ours was "
                "under way, and nothing says which is ours; delete the one that nobody needs"
            )
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if last.applied is not None:
            reason = f"the new deploy key {display(str(last.applied['fingerprint']))} is made but not listed"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="visible")
        reason = f"the last try may have made a deploy key in {display(self.place.place)} that is not listed yet"
        return Observation(
            status=Status.PENDING, evidence=evidence, reason=reason, wait="visible", otherwise=Status.ABSENT
        )

    def apply(self, world: World) -> Evidence:
        made = world.circleci.create_checkout_key(self.place.project, DEPLOY_KEY)
        return {"fingerprint": made.id}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        fingerprint = done.get("fingerprint")
        if not fingerprint:
            return ()
        return (DeleteCheckoutKey(place=self.place, fingerprint=str(fingerprint), beside=self.old),)


@dataclass(frozen=True, kw_only=True)
class DeleteCheckoutKey(Action):
    """Remove a checkout key from CircleCI, only while the one that does its work is listed."""

    kind: ClassVar[str] = "circleci:delete-checkout-key"
    destroys: ClassVar[bool] = True

    place: SecretPlace
    fingerprint: str
    create: str = ""
    """The action that makes its successor."""
    beside: str = ""
    """The undoing of a create: the old key, without which the project could not be checked out any more."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.place}/{self.fingerprint}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.place.kind.value}/{self.place.place}"

    def describe(self) -> str:
        return f"delete the {self.place.describe(self.fingerprint)} at CircleCI"

    def observe(self, view: View) -> Observation:
        rows = self.place.read(view)
        evidence: Evidence = {"fingerprints": [row.id for row in rows]}
        if not any(row.id == self.fingerprint for row in rows):
            return Observation(status=Status.PRESENT, evidence=evidence)
        if self.create and len(made_keys(view, self.create, rows)) != 1:
            reason = f"the deploy key in place of {display(self.fingerprint)} is not listed, so the old one stays"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if self.beside and not any(row.id == self.beside for row in rows):
            reason = (
                f"the key {display(self.beside)} is gone already, and nothing could be checked out without this one"
            )
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"the {self.place.describe(self.fingerprint)} is deleted but still listed"
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        world.circleci.delete_checkout_key(self.place.project, self.fingerprint)
        return {"fingerprint": self.fingerprint}
