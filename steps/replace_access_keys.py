"""Eradication: mint a new key, prove it, store it wherever the old one is, read it back, then switch the old one off.

The order is the safety: the first write into a sink destroys the old secret there, so the new key is proved before
it, and the old key is switched off only while every sink is seen to hold the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

from playbook.errors import AwsError, CredentialsError, Effect, ServiceError
from playbook.managed import managed_findings
from playbook.model import Action, Finding, Observation, Phase, Plan, Status, Step, Strategy
from playbook.ports import Attempt, Credential, KeyListing, TrailKey, display
from playbook.secret import Secret
from steps.canary_job import RerunAsCanary, RunCanary
from steps.decisions import REPLACING, Decisions, KeyDecision, decide_keys
from steps.gates import ConfirmSilence, ConfirmSwitched, DrainJobs, ProveAtService
from steps.iam_keys import (
    ActivateKey,
    ConfirmKeys,
    DeactivateKey,
    DeleteKey,
    Pair,
    credential_of,
    list_keys,
    minted,
    name_strangers,
    retire,
    server_time,
)
from steps.key_slots import KEYS_PER_USER, ProveUnused, free_slot
from steps.places import projects_of
from steps.replacement_options import Canaries, Planned, ask_options, canaries, service_gates
from steps.user_lease import ReleaseLease, TakeLease

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import AccessKey, Evidence, TrailEvent, Variables, View, World

TRAILED_MAX = 20
"""Users whose makers are looked for in CloudTrail, which answers two questions a second."""
TRAIL_DAYS = 90
PROOFS = 3
"""Consecutive good answers of STS; one alone is no proof (facts, AWS row 5)."""


@dataclass(frozen=True, kw_only=True)
class CreateAccessKey(Action):
    """Mint the replacement of one key."""

    kind: ClassVar[str] = "iam:create-access-key"
    permissions: ClassVar[frozenset[str]] = frozenset(
        {"iam:ListAccessKeys", "iam:CreateAccessKey", "iam:GetAccessKeyLastUsed", "cloudtrail:LookupEvents"}
    )
    at_most_once: ClassVar[bool] = True
    provides: ClassVar[bool] = True

    account: str
    user: str
    old_key_id: str
    known: tuple[str, ...]
    """Every key of the user when the plan was made."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.user}/{self.old_key_id}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    def describe(self) -> str:
        return f"create a new access key for {display(self.user)} in {self.account}, in place of {self.old_key_id}"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        held = credential_of(view, self.credential)
        if held is not None:
            return self._observe_held(held, listing)
        attempts = view.past(self.key)
        for attempt, later in zip_longest(attempts, attempts[1:]):
            settled = self._observe_attempt(view, attempt, later, listing)
            if settled is not None:
                return settled
        return self._observe_premise(view, listing)

    def _observe_held(self, held: Credential, listing: KeyListing) -> Observation:
        seen = listing.find(held.key_id)
        evidence = {"key_id": held.key_id, "server_time": listing.server_time.isoformat()}
        if seen is None:
            reason = f"{held.key_id} is made but not listed yet"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="visible")
        if not seen.is_active:
            return Observation(
                status=Status.CONFLICT, evidence=evidence, reason=f"somebody switched the new key {held.key_id} off"
            )
        return Observation(status=Status.PRESENT, evidence=evidence)

    def _observe_attempt(
        self, view: View, attempt: Attempt, later: Attempt | None, listing: KeyListing
    ) -> Observation | None:
        """What became of one earlier try; None when nothing of it is left in the world."""
        if attempt.applied is not None:
            key_id = str(attempt.applied["key_id"])
            if attempt.kept:
                return self._make_room(view, listing)
            return self._observe_orphan(view, key_id, server_time(attempt.applied), listing)
        if attempt.failed == Effect.NONE:
            return None
        return self._observe_unknown(view, attempt, later, listing)

    def _observe_orphan(
        self, view: View, key_id: str, made_at: datetime | None, listing: KeyListing
    ) -> Observation | None:
        """A key of ours whose secret is lost: it must go; gone is what we deleted, not what a list leaves out."""
        evidence = {"orphan": key_id, "server_time": listing.server_time.isoformat()}
        deleted = any(a.applied is not None for a in view.past(f"{DeleteKey.kind}:{self.lane}/{key_id}"))
        listed = listing.find(key_id) is not None
        if listed and not deleted:
            reason = f"the secret of {key_id}, which this run made, is lost"
            return Observation(status=Status.TAINTED, evidence=evidence, reason=reason)
        if listed:
            reason = f"{key_id} is deleted but still listed"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="visible")
        visible = timedelta(seconds=view.waits.visible)
        if not deleted and made_at is not None and listing.server_time < made_at + visible:
            reason = f"{key_id}, which this run made, is not listed yet"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=10)
        return None

    def _observe_unknown(
        self, view: View, attempt: Attempt, later: Attempt | None, listing: KeyListing
    ) -> Observation | None:
        """A try whose end nobody knows: find out whether it made a key, and which (invariants 3.8)."""
        asked_at = server_time(attempt.basis)
        if asked_at is None:
            return Observation(status=Status.CONFLICT, reason="an earlier try of this run kept no time to look from")
        before = attempt.basis.get("keys")
        known = (
            {*(str(item) for item in before or ()), *minted(view, self.key)}
            if isinstance(before, list | tuple)
            else set()
        )
        visible_at = asked_at + timedelta(seconds=view.waits.visible)
        over = listing.server_time >= visible_at
        try:
            creations = view.aws(self.account).key_creations(self.user, asked_at - timedelta(seconds=60))
        except AwsError:
            creations = None
        ours = [event.key_id for event in creations or () if attempt.tag in event.user_agent.split()]
        if ours:
            return self._observe_orphan(view, ours[0], asked_at, listing)
        strangers = {event.key_id for event in creations or ()}
        # What came after the next try began is that one's candidate: this one was settled before it.
        next_at = server_time(later.basis) if later is not None else None
        second = timedelta(seconds=1)
        candidates = [
            key
            for key in listing.keys
            if key.id not in known
            and key.created_at >= asked_at - second
            and (next_at is None or key.created_at < next_at - second)
        ]
        unexplained = [key for key in candidates if key.id not in strangers]
        evidence = {"candidates": [key.id for key in candidates], "server_time": listing.server_time.isoformat()}
        if unexplained and (over or creations is None):
            return self._ask_whose(view, unexplained[0], creations is None, evidence)
        # Not made only once a key would be visible, and never because another candidate was a stranger's.
        if not over:
            left = (visible_at - listing.server_time).total_seconds()
            reason = "the last try may have made a key that is not listed yet"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=min(10.0, left))
        return None

    def _ask_whose(self, view: View, key: AccessKey, denied: bool, evidence: Evidence) -> Observation:  # noqa: FBT001  # private, one caller
        try:
            used = view.aws(self.account).last_used(key.id).at is not None
        except AwsError:
            used = False  # denied, or gone by now: it adds nothing to what the human must look at
        why = "CloudTrail may not be read" if denied else "CloudTrail does not show who made it"
        what = "; it was used already, so somebody holds its secret" if used else ""
        reason = f"{key.id} appeared while a try of ours was under way, and {why}{what}; it is left alone"
        return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)

    def _kept(self, view: View) -> list[str]:
        """The keys of ours that stay without their secret, oldest first, because sinks work with them."""
        return [str(a.applied["key_id"]) for a in view.past(self.key) if a.kept and a.applied is not None]

    def _make_room(self, view: View, listing: KeyListing) -> Observation | None:
        """The last lost key stays, because sinks work with it: the one it was to replace gives up its slot."""
        given_up = [key_id for key_id in (self.old_key_id, *self._kept(view)[:-1]) if listing.find(key_id) is not None]
        if not given_up:
            return None
        evidence = {"orphan": given_up[0], "server_time": listing.server_time.isoformat()}
        reason = f"{given_up[0]} gives its slot to the next new key, as approved"
        return Observation(status=Status.TAINTED, evidence=evidence, reason=reason)

    def _observe_premise(self, view: View, listing: KeyListing) -> Observation:
        listed = [key.id for key in listing.keys]
        evidence = {"keys": listed, "server_time": listing.server_time.isoformat()}
        kept = self._kept(view)
        if self.old_key_id not in listed and not kept:
            reason = f"{self.old_key_id} is gone: somebody else rotated {display(self.user)}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        strangers = [key_id for key_id in listed if key_id not in {*self.known, *kept}]
        if strangers:
            reason = name_strangers(self.user, strangers)
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if len(listed) >= KEYS_PER_USER:
            reason = (
                f"{display(self.user)} has {len(listed)} keys already ({', '.join(listed)}), "
                f"and IAM allows {KEYS_PER_USER}"
            )
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        tag = world.past(self.key)[-1].tag
        minted_key = world.aws(self.account).create_access_key(self.user, tag=tag)
        world.hold(self.credential, minted_key)
        return {
            "key_id": minted_key.key_id,
            "replaces": [self.old_key_id, *self._kept(world)][-1],
            "server_time": minted_key.server_time.isoformat(),
        }

    def repair(self, seen: Observation) -> tuple[Action, ...]:
        return retire(self.account, self.user, str(seen.evidence["orphan"]))

    def park(self, done: Evidence) -> tuple[Action, ...]:
        return (DeactivateKey(account=self.account, user=self.user, key_id=str(done["key_id"]), mint=self.key),)


@dataclass(frozen=True, kw_only=True)
class ProveKey(Action):
    """The new key answers at STS as the right user, several times in a row, before any sink is touched (I4)."""

    kind: ClassVar[str] = "iam:prove-access-key"
    changes: ClassVar[bool] = False
    needs: ClassVar[bool] = True

    account: str
    user: str
    user_arn: str
    old_key_id: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.account}/{self.user}/{self.old_key_id}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    def describe(self) -> str:
        return f"prove the new key of {display(self.user)} in {self.account} at STS"

    def observe(self, view: View) -> Observation:
        credential = credential_of(view, self.credential)
        if credential is None:
            return Observation(status=Status.CONFLICT, reason="the secret of the new key is no longer in memory")
        identity = view.identify(credential)
        now_ms = int(view.clock.monotonic() * 1000)
        if identity is None:
            reason = f"{credential.key_id} is not accepted by STS yet"
            evidence: Evidence = {"key_id": credential.key_id, "good": 0, "since_ms": now_ms}
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="alive")
        if identity.account != self.account or (self.user_arn and identity.arn != self.user_arn):
            reason = f"STS says that {credential.key_id} is {display(identity.arn)}, not {display(self.user_arn)}"
            return Observation(status=Status.CONFLICT, reason=reason)
        last = view.looks(self.key)[-1] if view.looks(self.key) else {}
        good = int(str(last.get("good", 0))) + 1
        since_ms = int(str(last.get("since_ms", now_ms))) if good > 1 else now_ms
        evidence = {"key_id": credential.key_id, "good": good, "since_ms": since_ms, "arn": identity.arn}
        if good >= PROOFS and now_ms - since_ms >= view.waits.proof * 1000:
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{credential.key_id} answered {good} time(s); {PROOFS} over {view.waits.proof} s are wanted"
        again_s = max(view.waits.proof / (PROOFS - 1), 0.05)
        return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=again_s)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class StoreKey(Action):
    """Write the new pair over the old one in one sink, under the names found there, and read both tails back."""

    kind: ClassVar[str] = "circleci:store-access-key"
    needs: ClassVar[bool] = True
    destroys: ClassVar[bool] = True

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
    def mint(self) -> str:
        """The key of the action that makes what is stored here."""
        return f"{CreateAccessKey.kind}:{self.account}/{self.user}/{self.old_key_id}"

    def describe(self) -> str:
        return (
            f"write the new key of {display(self.user)} into {self.pair.describe()} "
            f"and its secret into {display(self.pair.secret_variable)}"
        )

    def observe(self, view: View) -> Observation:
        stored = view.circleci.variables(self.pair.sink)
        id_seen, secret_seen = stored.find(self.pair.id_variable), stored.find(self.pair.secret_variable)
        tried = [attempt for attempt in view.past(self.key) if not attempt.reset]
        if id_seen is None or secret_seen is None:
            reason = f"{self.pair.describe()} is no longer there"
            if tried:
                return Observation(status=Status.PENDING, reason=reason, wait="sink")
            return Observation(status=Status.CONFLICT, reason=reason)
        credential = credential_of(view, self.credential)
        if credential is None:
            return Observation(status=Status.CONFLICT, reason="the secret of the new key is no longer in memory")
        evidence = self._evidence(stored, credential)
        id_is_new = id_seen.tail == credential.key_id[-4:]
        if id_is_new and secret_seen.tail == credential.secret.tail():
            if tried:
                return Observation(status=Status.PRESENT, evidence=evidence)
            return Observation(status=Status.CONFLICT, reason=f"{self.pair.describe()} shows the new key unwritten")
        ours = {self.old_key_id[-4:], *(key_id[-4:] for key_id in minted(view, self.mint))}
        if id_seen.tail is not None and id_seen.tail not in ours:
            # Its value is somebody else's, and a write would destroy it for good (I7).
            reason = f"{self.pair.describe()} holds a key that this run does not know (tail {display(id_seen.tail)})"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return self._observe_unequal(tried, evidence, shown=id_seen.tail is not None and secret_seen.tail is not None)

    def _observe_unequal(self, tried: list[Attempt], evidence: Evidence, *, shown: bool) -> Observation:
        """The pair is old, torn or not shown yet: write it, unless a write of ours may still become visible."""
        if not tried:
            if shown:
                return Observation(status=Status.ABSENT, evidence=evidence)
            reason = f"the tails in {self.pair.describe()} are not shown, so nothing tells what a write would destroy"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="sink")
        if tried[-1].applied is None:
            # Writing the same value again is safe, and waiting would leave a torn pair.
            return Observation(status=Status.ABSENT, evidence=evidence)
        reason = f"{self.pair.describe()} does not show the new key yet"
        return Observation(
            status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
        )

    def _evidence(self, stored: Variables, credential: Credential) -> Evidence:
        id_seen, secret_seen = stored.find(self.pair.id_variable), stored.find(self.pair.secret_variable)
        written = [item.updated_at for item in (id_seen, secret_seen) if item is not None and item.updated_at]
        return {
            "key_id": credential.key_id,
            "id_matches": id_seen is not None and id_seen.tail == credential.key_id[-4:],
            "secret_matches": secret_seen is not None and secret_seen.tail == credential.secret.tail(),
            "updated_at": [moment.isoformat() for moment in written],
        }

    def apply(self, world: World) -> Evidence:
        credential = credential_of(world, self.credential)
        if credential is None:
            raise ServiceError(
                f"the writing of {self.pair.describe()}", code="SecretNotHeld", effect=Effect.NONE, retryable=False
            )
        world.circleci.put_variable(self.pair.sink, self.pair.id_variable, Secret(credential.key_id))
        try:
            self._put_secret(world, credential)
        except CredentialsError as error:
            error.effect = Effect.UNKNOWN
            raise
        except ServiceError:
            # The pair is torn now, so the second half is tried once more at once.
            try:
                self._put_secret(world, credential)
            except ServiceError as again:
                raise type(again)(
                    f"the second half of {self.pair.describe()}",
                    code=again.code,
                    effect=Effect.UNKNOWN,
                    status=again.status,
                    request_id=again.request_id,
                    retryable=again.retryable,
                ) from None
        return {"key_id": credential.key_id}

    def _put_secret(self, world: World, credential: Credential) -> None:
        world.circleci.put_variable(self.pair.sink, self.pair.secret_variable, credential.secret)

    def holds(self, view: View, made: Evidence) -> bool:
        try:
            tail, _ = self.pair.tails(view)
        except ServiceError:
            return True
        return tail is None or tail == str(made["key_id"])[-4:]


class ReplaceAccessKeys(Step):
    """Replace every key whose strategy says so, with zero downtime or after its containment."""

    id = "replace_access_keys"
    title = "Replace the access keys"
    phase = Phase.ERADICATION
    kinds = (
        TakeLease,
        ProveUnused,
        CreateAccessKey,
        ProveKey,
        ProveAtService,
        StoreKey,
        RunCanary,
        RerunAsCanary,
        DrainJobs,
        ConfirmSwitched,
        ConfirmSilence,
        DeactivateKey,
        ActivateKey,
        DeleteKey,
        ConfirmKeys,
        ReleaseLease,
    )

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan mint, proof, stores, gates, deactivation and the last look for every key to replace."""
        decisions = decide_keys(view, case, ask)
        actions: list[Action] = []
        findings: list[Finding] = []
        for item in decisions.keys:
            if item.strategy not in REPLACING:
                continue
            if not item.places:
                text = f"{item.key.id} of {display(item.key.user)} is stored nowhere in CircleCI: nothing to replace."
                findings.append(Finding(level="warning", text=text))
                continue
            planned, found = _replacement(view, decisions, item, ask)
            actions += planned
            findings += found
        if actions:
            findings += _managed(view, decisions)
            findings += [
                Finding(
                    level="danger",
                    text=f"{display(match.stored.sink.name)}:{display(match.stored.variable.name)} does not show its "
                    "tail: if it holds one of the keys replaced here, its builds fail once that key is off.",
                )
                for match in decisions.correlation.hidden
            ]
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _managed(view: View, decisions: Decisions) -> tuple[Finding, ...]:
    """The users whose next `apply` would undo this work: by their tags, and where they are few by CloudTrail."""
    replaced = {
        (item.key.account, item.key.user) for item in decisions.keys if item.strategy in REPLACING and item.places
    }
    users = [user for user in decisions.inventory.users if (user.account, user.name) in replaced]
    events: dict[str, list[TrailEvent]] = {}
    if len(users) <= TRAILED_MAX:
        since = datetime.fromisoformat(decisions.inventory.generated_at) - timedelta(days=TRAIL_DAYS)
        for user in users:
            try:
                made = view.aws(user.account).trail(TrailKey.RESOURCE_NAME, user.name, since)
            except AwsError:
                continue  # its tags are asked all the same
            events.setdefault(user.account, []).extend(made)
    return managed_findings(users, events)


def _replacement(
    view: View, decisions: Decisions, item: KeyDecision, ask: Ask
) -> tuple[list[Action], tuple[Finding, ...]]:
    """One key's saga, in the order of its lanes: lease, room, mint, proof, stores, canaries, gates, off, last look."""
    key, credential, options = item.key, item.credential, ask_options(item, ask)
    known = tuple(other.key.id for other in decisions.of_user(key.account, key.user))
    pairs = tuple(
        Pair(sink=place.stored.sink, id_variable=place.stored.variable.name, secret_variable=str(place.secret_name))
        for place in item.places
    )
    lease = TakeLease(account=key.account, user=key.user)
    room = [action for victim in item.room for action in free_slot(victim, view.aws(key.account).last_used(victim.id))]
    create = CreateAccessKey(account=key.account, user=key.user, old_key_id=key.id, known=known, credential=credential)
    prove = ProveKey(
        account=key.account,
        user=key.user,
        user_arn=item.user_arn,
        old_key_id=key.id,
        credential=credential,
        after=(create.key,),
    )
    services = service_gates(item, options, (prove.key,))
    proved = (create.key, prove.key, *(gate.key for gate in services))
    stores = [
        StoreKey(pair=pair, account=key.account, user=key.user, old_key_id=key.id, credential=credential, after=proved)
        for pair in pairs
    ]
    stored = tuple(store.key for store in stores)
    planned = Planned(mint=create.key, stores=tuple(zip(pairs, stored, strict=True)))
    seen = canaries(view, decisions, item, options, planned)
    actions: list[Action] = [lease, *room, create, prove, *services, *stores, *seen.actions]
    if item.strategy is Strategy.REPLACE:
        actions += _switch_off(decisions, item, pairs, planned, seen)
    confirm = ConfirmKeys(
        account=key.account,
        user=key.user,
        expected=known,
        off=(key.id,),
        pairs=pairs,
        mint=create.key,
        credential=credential,
        after=(*stored, *(canary.key for canary in seen.actions)),
    )
    return [*actions, confirm, ReleaseLease(account=key.account, user=key.user)], seen.findings


def _switch_off(
    decisions: Decisions, item: KeyDecision, pairs: tuple[Pair, ...], planned: Planned, seen: Canaries
) -> list[Action]:
    """The gates before the old key goes off, and its going off; after a containment it is off already.

    They are all on the user's lane, so each waits for the one before.
    """
    key, credential = item.key, item.credential
    stored = tuple(store for _, store in planned.stores)
    canaried = tuple(canary.key for canary in seen.actions)
    serving = sorted({project.slug for pair in pairs for project in projects_of(decisions.inventory, pair.sink)})
    drain = DrainJobs(
        account=key.account,
        user=key.user,
        old_key_id=key.id,
        projects=tuple(serving),
        credential=credential,
        after=stored,
    )
    switched = ConfirmSwitched(
        account=key.account, user=key.user, old_key_id=key.id, credential=credential, after=canaried
    )
    silence = ConfirmSilence(
        account=key.account,
        user=key.user,
        old_key_id=key.id,
        severity=decisions.severity,
        credential=credential,
    )
    off = DeactivateKey(
        account=key.account,
        user=key.user,
        key_id=key.id,
        pairs=pairs,
        mint=planned.mint,
        credential=credential,
        after=stored,
    )
    return [drain, switched, silence, off]
