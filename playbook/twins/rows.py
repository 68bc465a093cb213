"""An inventory's rows, and what a twin stores of them: both ways, so that a twin can be made from what readers show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.ports import SecretKind, StoredSecret
from playbook.twins import state as states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playbook.ports import Hole, ProjectSecrets, StoredSecrets

OF_ORGANIZATIONS: Final = frozenset({SecretKind.RUNNER_TOKEN, SecretKind.OIDC_CLAIMS})
OF_PROJECTS: Final = frozenset(SecretKind) - {
    SecretKind.CONTEXT_VARIABLE,
    SecretKind.CONTEXT_RESTRICTION,
    SecretKind.RUNNER_TOKEN,
}
PROJECT: Final = "project"
ORGANIZATION: Final = "organization"
RESOURCE_CLASS: Final = "resource-class"
WEBHOOK: Final = "webhook"
"""The provider of the triggers whose address carries a secret."""
ANY_HOST: Final = "any host"
"""What an inventory calls the host of an SSH key that is offered to every host."""
_TTL: Final = "ttl "
_TAIL: Final = 4


# --- From what is stored to rows --------------------------------------------------------------------------------------


def key_rows(stored: states.StoredProject) -> list[StoredSecret]:
    """What the private route shows of a project besides its variables."""
    return [*checkout_rows(stored), *ssh_rows(stored), *_legacy_rows(stored)]


def checkout_rows(stored: states.StoredProject) -> list[StoredSecret]:
    """A project's checkout keys."""
    return [
        StoredSecret(
            kind=SecretKind.CHECKOUT_KEY,
            id=item.fingerprint,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name=item.fingerprint,
            created_at=item.created_at,
            detail=item.type,
        )
        for item in stored.checkout_keys
    ]


def ssh_rows(stored: states.StoredProject) -> list[StoredSecret]:
    """A project's additional SSH keys."""
    return [
        StoredSecret(
            kind=SecretKind.SSH_KEY,
            id=item.fingerprint,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name=item.hostname or ANY_HOST,
        )
        for item in stored.ssh_keys
    ]


def _legacy_rows(stored: states.StoredProject) -> list[StoredSecret]:
    pairs = [stored.legacy_aws] if stored.legacy_aws is not None else []
    return [
        StoredSecret(
            kind=SecretKind.LEGACY_AWS_KEY,
            id=item.access_key_id,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name="AWS permissions",
            tail=item.access_key_id[-_TAIL:],
            detail=item.access_key_id if item.access_key_id.startswith("AKIA") else "",
            set=item.has_secret,
        )
        for item in pairs
    ]


def token_rows(stored: states.StoredProject) -> list[StoredSecret]:
    """A project's API tokens."""
    return [
        StoredSecret(
            kind=SecretKind.PROJECT_TOKEN,
            id=item.id,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name=item.label,
            created_at=item.created_at,
            detail=item.scope,
        )
        for item in stored.tokens
    ]


def webhook_rows(stored: states.StoredProject) -> list[StoredSecret]:
    """A project's outbound webhooks, with what is shown of their addresses: the host."""
    return [
        StoredSecret(
            kind=SecretKind.WEBHOOK_SECRET,
            id=item.id,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name=item.name,
            created_at=item.created_at,
            updated_at=item.updated_at,
            detail="/".join(item.url.split("/")[:3]),
            set=item.has_secret,
        )
        for item in stored.webhooks
    ]


def trigger_rows(stored: states.StoredProject, definition: states.PipelineDefinition) -> list[StoredSecret]:
    """The triggers of one pipeline definition that others start with an address and its secret."""
    return [
        StoredSecret(
            kind=SecretKind.TRIGGER_URL,
            id=item.id,
            organization=stored.organization,
            place=stored.slug,
            place_kind=PROJECT,
            name=item.url or item.event_name or "unnamed",
            created_at=item.created_at,
            detail=item.sender,
        )
        for item in definition.triggers
        if item.provider == WEBHOOK
    ]


def runner_rows(owner: states.StoredOrganization, runner: states.RunnerClass) -> list[StoredSecret]:
    """The tokens of one resource class."""
    return [
        StoredSecret(
            kind=SecretKind.RUNNER_TOKEN,
            id=item.id,
            organization=owner.slug,
            place=runner.name,
            place_kind=RESOURCE_CLASS,
            name=item.nickname,
            created_at=item.created_at,
        )
        for item in runner.tokens
    ]


def claims_rows(stored: states.StoredProject | states.StoredOrganization) -> list[StoredSecret]:
    """What the OIDC tokens of a project, or of all projects of an organization, claim besides the usual."""
    claims = stored.claims
    if claims is None or not (claims.audience or claims.ttl):
        return []
    is_project = isinstance(stored, states.StoredProject)
    parts = [", ".join(claims.audience), f"{_TTL}{claims.ttl}" if claims.ttl else ""]
    times = [moment for moment in (claims.audience_updated_at, claims.ttl_updated_at) if moment is not None]
    return [
        StoredSecret(
            kind=SecretKind.OIDC_CLAIMS,
            id=stored.id,
            organization=stored.organization if isinstance(stored, states.StoredProject) else stored.slug,
            place=stored.slug,
            place_kind=PROJECT if is_project else ORGANIZATION,
            name="custom claims",
            updated_at=max(times, default=None),
            detail="; ".join(filter(None, parts)),
        )
    ]


# --- From rows to what is stored --------------------------------------------------------------------------------------


def add_to_project(stored: states.StoredProject, read: ProjectSecrets) -> None:
    """Store what a reader showed of a project, so that the twin shows it too."""
    stored.missed = _missed(read.holes)
    triggers: list[states.Trigger] = []
    for row in read.secrets:
        match row.kind:
            case SecretKind.CHECKOUT_KEY:
                key = states.CheckoutKey(fingerprint=row.id, type=row.detail, created_at=row.created_at)
                stored.checkout_keys = [*stored.checkout_keys, key]
            case SecretKind.SSH_KEY:
                host = "" if row.name == ANY_HOST else row.name
                stored.ssh_keys = [*stored.ssh_keys, states.SshKey(fingerprint=row.id, hostname=host)]
            case SecretKind.LEGACY_AWS_KEY:
                stored.legacy_aws = states.LegacyAwsKeys(access_key_id=row.id, has_secret=row.set)
            case SecretKind.PROJECT_TOKEN:
                token = states.ProjectToken(id=row.id, label=row.name, scope=row.detail, created_at=row.created_at)
                stored.tokens = [*stored.tokens, token]
            case SecretKind.WEBHOOK_SECRET:
                stored.webhooks = [*stored.webhooks, _webhook(row)]
            case SecretKind.TRIGGER_URL:
                triggers.append(_trigger(row))
            case SecretKind.OIDC_CLAIMS:
                stored.claims = _claims(row)
            case _:
                continue
    if triggers:
        # The definitions themselves are not in the rows; one that holds all triggers shows the same rows.
        stored.definitions = [states.PipelineDefinition(id=stored.id, triggers=triggers)]


def add_to_organization(stored: states.StoredOrganization, read: StoredSecrets) -> None:
    """Store what a reader showed of an organization, so that the twin shows it too."""
    stored.missed = _missed(read.holes)
    classes: dict[str, list[states.RunnerToken]] = {}
    for row in read.secrets:
        if row.kind is SecretKind.RUNNER_TOKEN:
            token = states.RunnerToken(id=row.id, nickname=row.name, created_at=row.created_at)
            classes.setdefault(row.place, []).append(token)
        elif row.kind is SecretKind.OIDC_CLAIMS:
            stored.claims = _claims(row)
    stored.runner_classes = [states.RunnerClass(id=name, name=name, tokens=tokens) for name, tokens in classes.items()]


def _missed(holes: Iterable[Hole]) -> list[states.MissedRead]:
    return [states.MissedRead(what=hole.what, where=hole.where, why=hole.why) for hole in holes]


def _webhook(row: StoredSecret) -> states.Webhook:
    return states.Webhook(
        id=row.id,
        name=row.name,
        url=row.detail,
        has_secret=row.set,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _trigger(row: StoredSecret) -> states.Trigger:
    url = row.name if "://" in row.name else ""
    return states.Trigger(
        id=row.id, url=url, sender=row.detail, event_name="" if url else row.name, created_at=row.created_at
    )


def _claims(row: StoredSecret) -> states.Claims:
    """Read a row's detail back; its one time stands for both."""
    audience, _, ttl = row.detail.rpartition(_TTL)
    if not row.detail.partition("; ")[2] and not row.detail.startswith(_TTL):
        audience, ttl = row.detail, ""
    named = tuple(filter(None, audience.removesuffix("; ").split(", ")))
    return states.Claims(
        audience=named,
        audience_updated_at=row.updated_at if named else None,
        ttl=ttl,
        ttl_updated_at=row.updated_at if ttl else None,
    )
