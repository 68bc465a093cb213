"""Taking a stored key out of its place, and what makes up for it: CircleCI gives no value back (invariants F52).

The compensation of a removal is not the old value but a new one: a key is minted for the user, proved, and stored
under the old names. All places of one key share one mint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from playbook.errors import Effect, ServiceError
from playbook.model import Action, Observation, Status
from playbook.ports import display
from playbook.secret import Secret
from steps.iam_keys import DeactivateKey, Pair, credential_of, minted
from steps.oidc_providers import not_there, still_there, tried
from steps.replace_access_keys import CreateAccessKey, ProveKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Evidence, Variables, View, World


@dataclass(frozen=True, kw_only=True)
class PairAction(Action):
    """What is done to the two variables of one place."""

    pair: Pair
    account: str
    user: str
    old_key_id: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.pair.id}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.pair.id}"

    @property
    def subject(self) -> Mapping[str, str]:
        return {"user": self.user, "account": self.account, "id": self.old_key_id}

    @property
    def both(self) -> str:
        """Both variables, for a sentence."""
        return f"{self.pair.describe()} and {display(self.pair.secret_variable)}"

    def _shown(self, stored: Variables) -> tuple[bool, bool]:
        names = (self.pair.id_variable, self.pair.secret_variable)
        id_there, secret_there = (stored.find(name) is not None for name in names)
        return id_there, secret_there


@dataclass(frozen=True, kw_only=True)
class RemovePair(PairAction):
    """Remove a key from one place, only while every project that reads it was seen to do without."""

    kind: ClassVar[str] = "circleci:remove-access-key"
    destroys: ClassVar[bool] = True

    user_arn: str
    known: tuple[str, ...]
    """Every key of the user when the plan was made."""
    proofs: tuple[str, ...]
    """The keys of the canaries whose verdicts it rests on."""

    def describe(self) -> str:
        return f"remove {self.old_key_id} from {self.both}"

    def observe(self, view: View) -> Observation:
        stored = view.circleci.variables(self.pair.sink)
        there = self._shown(stored)
        if not any(there):
            return Observation(status=Status.PRESENT, evidence={"key_id": self.old_key_id})
        seen = stored.find(self.pair.id_variable)
        if seen is None:
            if tried(view, self.key):
                return self._unless_lagging(view)
            reason = f"half of {self.both} is gone, and this run did not remove it"
            return Observation(status=Status.CONFLICT, reason=reason)
        if seen.tail is None:
            reason = f"the tail in {self.pair.describe()} is not shown, so nothing tells what would be removed"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        if seen.tail != self.old_key_id[-4:]:
            if tried(view, self.key):
                # Ours is gone, and what somebody stored since is not ours to judge.
                return Observation(status=Status.PRESENT, evidence={"key_id": self.old_key_id, "stored_again": True})
            reason = f"{self.pair.describe()} no longer holds {self.old_key_id}"
            return Observation(status=Status.CONFLICT, reason=reason)
        unproved = [proof for proof in self.proofs if view.verdict(proof) is None]
        if unproved:
            reason = f"nothing has proved that jobs do without {self.old_key_id}: {display(unproved[0])}"
            return Observation(status=Status.CONFLICT, reason=reason)
        return self._unless_lagging(view)

    def _unless_lagging(self, view: View) -> Observation:
        return still_there(view, self.key, self.both)

    def apply(self, world: World) -> Evidence:
        world.circleci.delete_variable(self.pair.sink, self.pair.id_variable)
        try:
            world.circleci.delete_variable(self.pair.sink, self.pair.secret_variable)
        except ServiceError as error:
            raise type(error)(
                f"the second half of {self.both}",
                code=error.code,
                effect=Effect.UNKNOWN,
                status=error.status,
                request_id=error.request_id,
                retryable=error.retryable,
            ) from None
        return {"key_id": self.old_key_id}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        credential = f"restored:{self.account}/{self.user}/{self.old_key_id}"
        create = CreateAccessKey(
            account=self.account, user=self.user, old_key_id=self.old_key_id, known=self.known, credential=credential
        )
        prove = ProveKey(
            account=self.account,
            user=self.user,
            user_arn=self.user_arn,
            old_key_id=self.old_key_id,
            credential=credential,
            after=(create.key,),
        )
        restore = RestorePair(
            pair=self.pair,
            account=self.account,
            user=self.user,
            old_key_id=self.old_key_id,
            credential=credential,
            after=(create.key, prove.key),
        )
        return create, prove, restore


@dataclass(frozen=True, kw_only=True)
class RestorePair(PairAction):
    """Store a newly minted key under the old names, where the old one was removed."""

    kind: ClassVar[str] = "circleci:restore-access-key"
    needs: ClassVar[bool] = True

    @property
    def mint(self) -> str:
        """The key of the action that makes what is stored here."""
        return f"{CreateAccessKey.kind}:{self.account}/{self.user}/{self.old_key_id}"

    def describe(self) -> str:
        return f"write a new key of {display(self.user)} into {self.both}, where {self.old_key_id} was"

    def observe(self, view: View) -> Observation:
        credential = credential_of(view, self.credential)
        if credential is None:
            return Observation(status=Status.CONFLICT, reason="the secret of the new key is no longer in memory")
        stored = view.circleci.variables(self.pair.sink)
        id_seen, secret_seen = stored.find(self.pair.id_variable), stored.find(self.pair.secret_variable)
        evidence: Evidence = {"key_id": credential.key_id}
        tails = tuple(item.tail if item is not None else None for item in (id_seen, secret_seen))
        if tails == (credential.key_id[-4:], credential.secret.tail()):
            return Observation(status=Status.PRESENT, evidence=evidence)
        ours = {key_id[-4:] for key_id in minted(view, self.mint)}
        if id_seen is not None and id_seen.tail is not None and id_seen.tail not in ours:
            reason = f"somebody stored another key in {self.pair.describe()}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if id_seen is None and secret_seen is not None and not tried(view, self.key):
            reason = f"somebody stored {display(self.pair.secret_variable)} beside {self.pair.describe()}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        waiting = not_there(view, self.key, self.both, evidence)
        if waiting.status is Status.ABSENT or not self._written(view):
            # Writing the same value again is safe, and waiting would leave a torn pair.
            return Observation(status=Status.ABSENT, evidence=evidence)
        return Observation(
            status=Status.PENDING,
            evidence=evidence,
            reason=waiting.reason,
            wait="sink",
            otherwise=Status.ABSENT,
        )

    def _written(self, view: View) -> bool:
        past = [attempt for attempt in view.past(self.key) if not attempt.reset]
        return bool(past) and past[-1].applied is not None

    def apply(self, world: World) -> Evidence:
        credential = credential_of(world, self.credential)
        if credential is None:
            raise ServiceError(f"the writing of {self.both}", code="SecretNotHeld", effect=Effect.NONE, retryable=False)
        world.circleci.put_variable(self.pair.sink, self.pair.id_variable, Secret(credential.key_id))
        try:
            world.circleci.put_variable(self.pair.sink, self.pair.secret_variable, credential.secret)
        except ServiceError as error:
            raise type(error)(
                f"the second half of {self.both}",
                code=error.code,
                effect=Effect.UNKNOWN,
                status=error.status,
                request_id=error.request_id,
                retryable=error.retryable,
            ) from None
        return {"key_id": credential.key_id}

    def holds(self, view: View, made: Evidence) -> bool:
        try:
            tail = self.pair.tails(view)[0]
        except ServiceError:
            return True
        return tail == str(made["key_id"])[-4:]


@dataclass(frozen=True, kw_only=True)
class DeactivateUnstoredKey(DeactivateKey):
    """Switch a key off whose jobs use a role, only while no place shows it any more."""

    kind: ClassVar[str] = "iam:deactivate-unstored-key"

    removed: tuple[Pair, ...]
    """Every place that held it."""

    @property
    def key(self) -> str:
        # The same thing happens to the key as by any other switching off, and later steps look for that.
        return f"{DeactivateKey.kind}:{self.lane}/{self.key_id}"

    def observe(self, view: View) -> Observation:
        seen = super().observe(view)
        if seen.status is not Status.ABSENT:
            return seen
        for pair in self.removed:
            stored = view.circleci.variables(pair.sink).find(pair.id_variable)
            if stored is None:
                continue
            if stored.tail is None or stored.tail == self.key_id[-4:]:
                reason = f"{pair.describe()} still shows {self.key_id}, or does not say what it holds"
                return Observation(status=Status.PENDING, reason=reason, wait="sink")
        return seen
