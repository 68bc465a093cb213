"""Eradication of the stored secrets that are no variables: by the API where there is one, else by hand and then seen.

Checkout keys are made anew and deleted, in this order; a webhook gets a new signing secret; tokens are shown once, so
hands place them and the old one is revoked after; SSH keys, trigger addresses and the old AWS integration are hands'.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import Effect, ServiceError
from playbook.inventory import Inventory, secret_id
from playbook.model import Action, Choice, Finding, Observation, Phase, Plan, Question, Severity, Status, Step
from playbook.ports import SecretKind, Sink, SinkKind, display
from playbook.scope import ask_severity
from playbook.secret import Secret
from steps.checkout_keys import DEPLOY_KEY, CreateCheckoutKey, DeleteCheckoutKey
from steps.stored_secrets import (
    BY_HAND,
    NAMES,
    RESOURCE_CLASS,
    STANDALONE,
    ConfirmGone,
    ConfirmSuccessor,
    RevokeToken,
    SecretPlace,
    updated_at,
)
from steps.update_variables import ObtainValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.model import Ask, Case
    from playbook.ports import Evidence, StoredSecret, View, World

KEEP, BY_HANDS, RECREATE = "keep", "done-by-hand", "recreate"
TOKENS: Final = frozenset({SecretKind.PROJECT_TOKEN, SecretKind.RUNNER_TOKEN})
NAMED_MAX: Final = 20
"""Secrets of one kind that a finding names; a thousand names would hide what it says."""


@dataclass(frozen=True, kw_only=True)
class SetWebhookSecret(Action):
    """Give a webhook a new signing secret; seen is its mask and that `updated_at` moved."""

    kind: ClassVar[str] = "circleci:set-webhook-secret"
    needs: ClassVar[bool] = True
    destroys: ClassVar[bool] = True

    place: SecretPlace
    id: str
    name: str
    updated_before: str
    """`updated_at` in the inventory."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.place.place}/{self.id}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.place.kind.value}/{self.place.place}/{self.id}"

    def describe(self) -> str:
        return f"give the webhook {display(self.name)} of {display(self.place.place)} a new signing secret"

    def observe(self, view: View) -> Observation:
        where = f"the webhook {display(self.name)} of {display(self.place.place)}"
        seen = next((row for row in self.place.read(view) if row.id == self.id), None)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"{where} is no longer there")
        if not isinstance(view.held.get(self.credential), Secret):
            return Observation(status=Status.CONFLICT, reason=f"the new secret of {where} is no longer in memory")
        updated = updated_at(seen)
        evidence: Evidence = {"updated_at": updated, "set": seen.set}
        attempts = [attempt for attempt in view.past(self.key) if attempt.failed != Effect.NONE]
        if not attempts and updated != self.updated_before:
            reason = f"somebody changed {where} since the inventory"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if not attempts or attempts[-1].applied is None or attempts[-1].reset:
            return Observation(status=Status.ABSENT, evidence=evidence)
        if seen.set and updated != self.updated_before:
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{where} does not show the new secret yet" if seen.set else f"{where} has no signing secret now"
        return Observation(
            status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
        )

    def apply(self, world: World) -> Evidence:
        value = world.held.get(self.credential)
        if not isinstance(value, Secret):
            raise ServiceError(f"the writing of {display(self.name)}", code="SecretNotHeld", effect=Effect.NONE)
        world.circleci.set_webhook_secret(self.id, value)
        return {"id": self.id}


class RotateCheckoutKeys(Step):
    """Rotate every stored secret that is no variable, or say plainly that it was kept."""

    id = "rotate_checkout_keys"
    title = "Rotate keys, tokens and webhooks"
    phase = Phase.ERADICATION
    kinds = (
        CreateCheckoutKey,
        DeleteCheckoutKey,
        ObtainValue,
        SetWebhookSecret,
        ConfirmSuccessor,
        RevokeToken,
        ConfirmGone,
    )

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Ask what becomes of each secret; what is kept or was not read becomes a finding, never silence."""
        del view
        severity = ask_severity(ask)
        inventory = Inventory.from_lines(case.inventory)
        stored = [item for item in inventory.secrets if item.kind in NAMES and item.set]
        # Of a deleted project nothing can be changed any more, so nothing is asked about it.
        dead = [item for item in stored if _place(item, inventory).deleted]
        secrets = [item for item in stored if item not in dead]
        answers = ask.all([_question(item, severity) for item in secrets])
        kept = [item for item, answer in zip(secrets, answers, strict=True) if answer == KEEP]
        ask.all([_reason_question(item) for item in kept])
        actions: list[Action] = []
        findings = [*_unread(inventory), *_of_deleted_projects(dead), *_kept(kept, severity)]
        for item, answer in zip(secrets, answers, strict=True):
            if answer != KEEP:
                actions += _actions(item, answer, inventory)
        findings += _left_at_code_host([action for action in actions if isinstance(action, DeleteCheckoutKey)])
        findings += _hands_needed([item for item, answer in zip(secrets, answers, strict=True) if answer == BY_HANDS])
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


# --- What becomes of each -------------------------------------------------------------------------------------------


def secret_subject(secret: StoredSecret) -> dict[str, str]:
    """What `[[variables]]` is matched with."""
    place = {"project": secret.place} if secret.place_kind == "project" else {}
    detail = {"detail": secret.detail} if secret.detail else {}
    return {"kind": secret.kind.value, **detail, "name": secret.name, **place}


def _question(secret: StoredSecret, severity: Severity) -> Question[str]:
    is_webhook = secret.kind is SecretKind.WEBHOOK_SECRET
    why_not = _not_recreated(secret)
    # Proposed is only what needs no hands: accepting a whole table must not end in a dozen things to do.
    automatic = secret.kind is SecretKind.CHECKOUT_KEY and not why_not and severity is not Severity.ROUTINE
    last = secret.updated_at or secret.created_at
    return Question(
        id=f"variables.value_from:{secret_id(secret)}",
        prompt=f"What becomes of the {NAMES[secret.kind]} {display(secret.name)} of {display(secret.place)}?",
        kind=str,
        answer_key="variables.value_from",
        subject=secret_subject(secret),
        choices=_choices(secret.kind),
        open_choices=is_webhook,
        default=KEEP,
        proposal=RECREATE if automatic else KEEP,
        refused={RECREATE: why_not} if why_not else {},
        detail={
            "kind": secret.kind.value,
            "name": secret.name,
            "place": secret.place,
            "written": last.date().isoformat() if last is not None else "unknown",
            "note": "" if is_webhook else why_not,
        },
    )


def _choices(kind: SecretKind) -> tuple[Choice, ...]:
    by_hand = Choice(value=BY_HANDS, title="done-by-hand - I replace it myself; check that the old one is gone")
    recreate = Choice(
        value=RECREATE,
        title="recreate - I make and place the new one under the same name; then revoke the old one"
        if kind in TOKENS
        else "recreate - make the new one, then delete the old one",
    )
    prompt = (Choice(value="prompt", title="prompt - type the new secret now, hidden"),)
    return (
        Choice(value=KEEP, title="keep - leave it"),
        *(prompt if kind is SecretKind.WEBHOOK_SECRET else ()),
        recreate,
        by_hand,
    )


def _reason_question(secret: StoredSecret) -> Question[str]:
    return Question(
        id=f"variables.reason:{secret_id(secret)}",
        prompt=f"Why may the {NAMES[secret.kind]} {display(secret.name)} of {display(secret.place)} stay?",
        kind=str,
        answer_key="variables.reason",
        subject=secret_subject(secret),
        default="no reason was given",
        optional=True,
    )


def _not_recreated(secret: StoredSecret) -> str:
    """Why `recreate` cannot be carried out; empty when it can."""
    if secret.kind in TOKENS:
        return ""
    if secret.kind is not SecretKind.CHECKOUT_KEY:
        return f"CircleCI has no API that makes a new {NAMES[secret.kind]}"
    if secret.detail != DEPLOY_KEY:
        return "it belongs to a user, and only that user can make a new one: in CircleCI, Project Settings, SSH Keys"
    if secret.place.startswith(STANDALONE):
        return "CircleCI has no API for the checkout keys of a project that is no repository of GitHub or Bitbucket"
    return ""


def _place(secret: StoredSecret, inventory: Inventory) -> SecretPlace:
    if secret.place_kind == RESOURCE_CLASS:
        owner = next((item.id for item in inventory.organizations if item.slug == secret.organization), "")
        project = None
    else:
        projects = [item for item in inventory.projects if item.slug == secret.place]
        # The slug of a deleted project may have gone to a living one, which then comes first.
        project = min(projects, key=lambda item: item.deleted, default=None)
        owner = project.id if project is not None else ""
    return SecretPlace(
        kind=secret.kind,
        place=secret.place,
        place_kind=secret.place_kind,
        organization=secret.organization,
        owner_id=owner,
        deleted=project is not None and project.deleted,
    )


def _actions(secret: StoredSecret, answer: str, inventory: Inventory) -> tuple[Action, ...]:
    place = _place(secret, inventory)
    here = [item.id for item in inventory.secrets if (item.kind, item.place) == (secret.kind, secret.place)]
    known = tuple(sorted(here))
    if answer == BY_HANDS:
        is_webhook = secret.kind is SecretKind.WEBHOOK_SECRET
        before = updated_at(secret) if is_webhook else ""
        return (ConfirmGone(place=place, id=secret.id, name=secret.name, known=known, updated_before=before),)
    if secret.kind is SecretKind.CHECKOUT_KEY:
        create = CreateCheckoutKey(place=place, old=secret.id)
        delete = DeleteCheckoutKey(place=place, fingerprint=secret.id, create=create.key, after=(create.key,))
        return create, delete
    if secret.kind in TOKENS:
        successor = ConfirmSuccessor(place=place, id=secret.id, name=secret.name, known=known)
        revoke = RevokeToken(place=place, id=secret.id, name=secret.name, known=known, after=(successor.key,))
        return successor, revoke
    credential = f"value:{secret_id(secret)}"
    sink = Sink(kind=SinkKind.PROJECT, id=secret.place, name=secret.place, organization=secret.organization)
    # No variable can be called like that, so that nothing else has its key.
    obtain = ObtainValue(sink=sink, name=f"webhook {secret.id}", source=answer, credential=credential)
    write = SetWebhookSecret(
        place=place,
        id=secret.id,
        name=secret.name,
        updated_before=updated_at(secret),
        credential=credential,
        after=(obtain.key,),
    )
    return obtain, write


# --- What must be said ----------------------------------------------------------------------------------------------


def _unread(inventory: Inventory) -> list[Finding]:
    """The kinds that were not read whole: nothing was asked about what nobody saw."""
    findings = []
    for kind, name in NAMES.items():
        holes = [hole for hole in inventory.holes if hole.what == kind.value]
        if holes:
            where = _named(f"{hole.where} ({hole.why})" for hole in holes)
            text = f"Not rotated, because it could not be read: {name}s of {where}."
            findings.append(Finding(level="danger", text=text))
    return findings


def _of_deleted_projects(dead: Sequence[StoredSecret]) -> list[Finding]:
    if not dead:
        return []
    named = _named(f"{NAMES[item.kind]} {item.name} of {item.place}" for item in dead)
    text = (
        f"Cannot be changed, because the project is deleted and CircleCI keeps what it stored: {named}. "
        "Make it worthless where it is accepted: at the code host, on the target machine, in IAM."
    )
    return [Finding(level="warning", text=text)]


def _kept(kept: Sequence[StoredSecret], severity: Severity) -> list[Finding]:
    level = "note" if severity is Severity.ROUTINE else "warning"
    by_kind: defaultdict[SecretKind, list[StoredSecret]] = defaultdict(list)
    for item in kept:
        by_kind[item.kind].append(item)
    return [
        Finding(
            level=level,
            text=f"Kept, and whoever has it can go on using it: {len(items)} {NAMES[kind]}"
            f"{'s' if len(items) > 1 else ''}, {_named(f'{item.name} of {item.place}' for item in items)}.",
        )
        for kind, items in by_kind.items()
    ]


def _left_at_code_host(deletes: Sequence[DeleteCheckoutKey]) -> list[Finding]:
    """CircleCI deletes a key only on its own side (facts/circleci 4.1)."""
    counts = Counter(action.place.place for action in deletes)
    return [
        Finding(
            level="warning",
            text=f"Deleting {count} checkout key{'s' if count > 1 else ''} of {display(place)} at CircleCI leaves "
            f"{'them' if count > 1 else 'it'} valid at the code host: delete the old one there too, "
            f"{_code_host(place)}. Give the new one write access there if a job pushes with it.",
        )
        for place, count in counts.items()
    ]


def _code_host(slug: str) -> str:
    provider, _, repository = slug.partition("/")
    if provider in {"gh", "github"}:
        return f"at GitHub, {display(repository)}, Settings, Deploy keys"
    if provider in {"bb", "bitbucket"}:
        return f"at Bitbucket, {display(repository)}, Repository settings, Access keys"
    return "among the repository's deploy keys"


def _hands_needed(secrets: Iterable[StoredSecret]) -> list[Finding]:
    by_kind: defaultdict[SecretKind, list[str]] = defaultdict(list)
    for item in secrets:
        by_kind[item.kind].append(f"{item.name} of {item.place}")
    return [
        Finding(level="warning", text=f"By hand, {NAMES[kind]}: {_named(names)}: {BY_HAND[kind]}.")
        for kind, names in by_kind.items()
    ]


def _named(names: Iterable[str]) -> str:
    listed = [display(name, 120) for name in names]
    more = len(listed) - NAMED_MAX
    return ", ".join(listed[:NAMED_MAX]) + (f", and {more} more" if more > 0 else "")
