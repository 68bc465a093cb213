"""The shapes of CircleCI's replies about stored secrets other than variables, and the rows they become.

What a reply should not show (a trigger's secret, a signing secret in clear) is dropped while it is decoded, so that
no object of this program, and so no exception, ever holds it. Both spellings of a key are read (facts 10).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from playbook.clients.circleci_replies import Id, Name, ProjectVariable, when
from playbook.ports import SecretKind, StoredSecret

if TYPE_CHECKING:
    from datetime import datetime

Text = Annotated[str, msgspec.Meta(max_length=4096)]

_KEY_ID: Final = re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{12,28}")
_KEY_ID_TAIL: Final = re.compile(r"[A-Z0-9]{4}\Z")
_ADDRESS: Final = re.compile(
    r"(https?://)(?:[^/?#@\\]*@)?([a-z0-9.-]+(?::\d{1,5})?)(?=[/?#]|\Z)((?:/[a-z0-9_.~-]*)*)", re.IGNORECASE
)
_WITHHELD: Final = "withheld"
ANY_HOST: Final = "any host"
"""What an inventory calls the host of an SSH key that is offered to every host."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where rows are: what `StoredSecret` says of it."""

    organization: str
    name: str
    kind: str

    def row(
        self,
        kind: SecretKind,
        number: str,
        name: str,
        *,
        tail: str | None = None,
        created_at: datetime | None = None,
        updated_at: datetime | None = None,
        detail: str = "",
        present: bool = True,
    ) -> StoredSecret:
        """A row about something stored here."""
        return StoredSecret(
            kind=kind,
            id=number,
            organization=self.organization,
            place=self.name,
            place_kind=self.kind,
            name=name,
            tail=tail,
            created_at=created_at,
            updated_at=updated_at,
            detail=detail,
            set=present,
        )


class CheckoutKey(msgspec.Struct):
    """A checkout key, which v2 and the private route show alike."""

    fingerprint: Name
    type: Text = ""
    created_at: str | None = None
    created_at_hyphened: str | None = msgspec.field(default=None, name="created-at")

    def row(self, place: Place) -> StoredSecret:
        """As the inventory knows it: by its fingerprint."""
        created_at = when(self.created_at or self.created_at_hyphened)
        return place.row(
            SecretKind.CHECKOUT_KEY, self.fingerprint, self.fingerprint, created_at=created_at, detail=self.type
        )


class SshKey(msgspec.Struct):
    """An additional SSH key; nothing tells its age, and one key may serve several hosts."""

    fingerprint: Name
    hostname: Text | None = None

    def row(self, place: Place) -> StoredSecret:
        """As the inventory knows it: by its host, which is empty for a key that is offered to every host."""
        return place.row(SecretKind.SSH_KEY, self.fingerprint, self.hostname or ANY_HOST)


class LegacyAwsKeys(msgspec.Struct):
    """The key pair of the old AWS integration; only the private route shows it (facts 4.3)."""

    access_key_id: Text | None = None
    secret_access_key: Text | None = None

    def __post_init__(self) -> None:
        """Forget everything of the secret but whether there is one: nobody documents that it is masked."""
        self.secret_access_key = _WITHHELD if self.secret_access_key else None

    def row(self, place: Place) -> StoredSecret | None:
        """As the inventory knows it; two empty texts are what some tools write for no pair at all."""
        shown = self.access_key_id or ""
        if not shown and not self.secret_access_key:
            return None
        tail = _KEY_ID_TAIL.search(shown)
        return place.row(
            SecretKind.LEGACY_AWS_KEY,
            shown or "unnamed",
            "AWS permissions",
            tail=tail[0] if tail else None,
            detail=shown if _KEY_ID.fullmatch(shown) else "",
            present=bool(self.secret_access_key),
        )


class ProjectDetails(msgspec.Struct):
    """`GET /api/private/project/{id}`: four kinds in one reply, for a deleted project too (facts 4.3).

    A reply without its lists is refused: it must not pass for a project that stores nothing.
    """

    project_env_vars: list[ProjectVariable] | None
    checkout_keys: list[CheckoutKey] | None
    ssh_keys: list[SshKey] | None
    legacy_aws_keys: LegacyAwsKeys | None = None


class Settings(msgspec.Struct):
    """v1.1's project settings, of which only the SSH keys are read."""

    ssh_keys: list[SshKey]


class OrganizationDetail(msgspec.Struct):
    """`GET /organization/{slug or id}`, of which only the id counts; some organizations have none."""

    id: Id | Literal[""] | None = None


class ProjectToken(msgspec.Struct):
    """A project API token; its value was shown once, when it was made."""

    id: Id | int
    label: Text | None = None
    scope: Text | None = None
    created_at: str | None = None
    time: str | None = None

    def row(self, place: Place) -> StoredSecret:
        """As the inventory knows it: by its label, with its scope."""
        return place.row(
            SecretKind.PROJECT_TOKEN,
            str(self.id),
            self.label or "unnamed",
            created_at=when(self.created_at or self.time),
            detail=self.scope or "",
        )


class Webhook(msgspec.Struct):
    """An outbound webhook; its signing secret reads back masked, or as the empty text when there is none."""

    id: Id
    name: Text = ""
    url: Text = ""
    signing_secret: str | None = None
    signing_secret_hyphened: str | None = msgspec.field(default=None, name="signing-secret")
    created_at: str | None = None
    created_at_hyphened: str | None = msgspec.field(default=None, name="created-at")
    updated_at: str | None = None
    updated_at_hyphened: str | None = msgspec.field(default=None, name="updated-at")

    def __post_init__(self) -> None:
        """Forget the secret, should it ever come unmasked, and all of the address but its host."""
        self.signing_secret = _presence(self.signing_secret)
        self.signing_secret_hyphened = _presence(self.signing_secret_hyphened)
        # A receiver's address may be a secret in itself, and in any part of it.
        self.url = redacted(self.url, path=False)

    @property
    def is_signed(self) -> bool:
        """Whether the reply says that there is a secret."""
        return bool(self.signing_secret or self.signing_secret_hyphened)

    def row(self, place: Place) -> StoredSecret:
        """As the inventory knows it. A reply that says nothing of a secret does not say that there is none."""
        said = [text for text in (self.signing_secret, self.signing_secret_hyphened) if text is not None]
        return place.row(
            SecretKind.WEBHOOK_SECRET,
            self.id,
            self.name or self.url,
            created_at=when(self.created_at or self.created_at_hyphened),
            updated_at=when(self.updated_at or self.updated_at_hyphened),
            detail=self.url,
            present=any(said) or not said,
        )


class InboundWebhook(msgspec.Struct):
    """Where somebody else starts pipelines; its `url` comes with the secret in clear (facts 4.6)."""

    url: str = ""
    sender: Text = ""

    def __post_init__(self) -> None:
        """Cut the secret off."""
        self.url = redacted(self.url)


class EventSource(msgspec.Struct):
    """What fires a trigger."""

    provider: Text = ""
    webhook: InboundWebhook | None = None


class Trigger(msgspec.Struct):
    """One trigger of a pipeline definition; only those that a webhook fires carry a secret."""

    id: Id
    event_name: Text | None = None
    created_at: str | None = None
    event_source: EventSource | None = None

    def row(self, place: Place) -> StoredSecret | None:
        """As the inventory knows it, with the address less its secret; None for a trigger without one."""
        source = self.event_source or EventSource()
        webhook = source.webhook or InboundWebhook()
        # An address that is not shown, or without its secret, has one all the same: such a trigger cannot do without.
        if source.provider != "webhook" and not webhook.url:
            return None
        return place.row(
            SecretKind.TRIGGER_URL,
            self.id,
            webhook.url or self.event_name or "unnamed",
            created_at=when(self.created_at),
            detail=webhook.sender,
        )


class RunnerClass(msgspec.Struct):
    """A runner's resource class, `namespace/name`."""

    resource_class: Name
    id: Id | None = None


class RunnerToken(msgspec.Struct):
    """A token that runner agents sign in with; its value was shown once."""

    id: Id
    nickname: Text | None = None
    created_at: str | None = None

    def row(self, place: Place) -> StoredSecret:
        """As the inventory knows it: by its nickname."""
        return place.row(SecretKind.RUNNER_TOKEN, self.id, self.nickname or "unnamed", created_at=when(self.created_at))


class Claims(msgspec.Struct):
    """Custom OIDC claims of an organization or a project; where none are set only the ids come (facts 6)."""

    audience: list[Text] | None = None
    audience_updated_at: str | None = None
    ttl: Text | None = None
    ttl_updated_at: str | None = None

    def row(self, place: Place, number: str) -> StoredSecret | None:
        """As the inventory knows it; None where nothing is customised."""
        if not self.audience and not self.ttl:
            return None
        parts = [", ".join(self.audience or ()), f"ttl {self.ttl}" if self.ttl else ""]
        times = [moment for moment in (when(self.audience_updated_at), when(self.ttl_updated_at)) if moment]
        return place.row(
            SecretKind.OIDC_CLAIMS,
            number,
            "custom claims",
            updated_at=max(times, default=None),
            detail="; ".join(filter(None, parts)),
        )


def redacted(url: str, *, path: bool = True) -> str:
    """Keep scheme, host and the plain part of the path; anything else may be a secret.

    What is kept is chosen by what it consists of, not by what is cut off, so that no odd spelling of `?` gets through.
    """
    found = _ADDRESS.match(url)
    return f"{found[1]}{found[2]}{found[3] if path else ''}" if found else ""


def _presence(text: str | None) -> str | None:
    return _WITHHELD if text else text
