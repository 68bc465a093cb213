"""What a twin's world consists of, and the file it survives a SIGKILL in.

A stored value is known (written here: its tail and SHA-256) or opaque (a tail read from the live world). Its text is
nowhere in these types, so `world.json` cannot hold one. Mirrored facts carry `ALWAYS` as the time they took effect,
which no lag reaches.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from playbook.decoding import decoder
from playbook.errors import JournalDamagedError, JournalTooNewError
from playbook.ports import KeyStatus
from playbook.secret import masked_tail

if TYPE_CHECKING:
    from pathlib import Path

    from playbook.secret import Secret

VERSION: Final = 1
ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored value without its text; `sha256` is None for one this twin has never seen."""

    tail: str | None
    """None when the API did not show it."""
    sha256: str | None = None

    @classmethod
    def of(cls, secret: Secret) -> Value:
        """Keep what recognises a secret, and let go of the rest."""
        return cls(tail=secret.tail(), sha256=secret.digest())

    @classmethod
    def opaque(cls, text: str) -> Value:
        """Only what CircleCI shows of a made-up text, as if it had been read from a live world."""
        return cls(tail=masked_tail(text))


# --- AWS ----------------------------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key's status from a time on; None: it is deleted."""

    at: datetime
    status: KeyStatus | None


class Use(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The use of a key that IAM has recorded."""

    at: datetime
    service: str = ""
    region: str = ""


class Key(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An access key with its whole history, by which each reader sees it as late as its lag says."""

    id: str
    user: str
    created_at: datetime
    changes: list[Change]
    """The creation first; the last one is the truth."""
    secret: Value | None = None
    """None for a mirrored key: nobody here has seen its secret."""
    last_used: Use | None = None
    tag: str = ""
    """The tag its creation was asked with; empty for a stranger's key."""

    @property
    def status(self) -> KeyStatus | None:
        """The truth, whatever a lagging list shows; None for a deleted key."""
        return self.changes[-1].status


class IamUser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One IAM user."""

    name: str
    arn: str
    created_at: datetime | None = None
    tags: dict[str, str] = {}
    policies: tuple[str, ...] = ()
    inline_policies: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    boundary: str = ""
    reach: tuple[str, ...] = ()
    """What the policies allow, in the words of `ports.User`: the policies themselves are not kept."""
    password_last_used_at: datetime | None = None


class TrailEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One `CreateAccessKey` event of CloudTrail."""

    id: str
    at: datetime
    user: str
    key_id: str
    user_agent: str
    source_address: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A read that the live world refused, so that its twin refuses it alike."""

    code: str
    status: int | None = None


class Account(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One AWS account, and who the operator is in it."""

    id: str
    operator_arn: str
    own_key_id: str = ""
    """The access key that signs the operator's calls; empty for a role session."""
    users: dict[str, IamUser] = {}
    keys: dict[str, Key] = {}
    trail: list[TrailEvent] = []
    quota: int = 2
    """Access keys a user may have, active or not."""
    summary: dict[str, int] = {}
    denied: list[str] = []
    """IAM actions that the operator may not use: they are refused."""
    simulated: dict[str, bool] = {}
    """What a mirrored account's policy simulator answered. It is shown and not enforced: a policy that allows an
    action for some users only reads as a denial there."""
    can_simulate: bool = True
    """False: `simulate` answers None, as where the operator may not ask."""
    skew_s: float = 0
    """How far AWS's time is ahead of the local clock."""
    refusals: dict[str, Refusal] = {}
    """By operation and target, such as `access_keys:ci-deploy`."""


# --- CircleCI -----------------------------------------------------------------------------------------------------


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a lagging list still shows of a variable that was written since."""

    value: Value
    updated_at: datetime | None


class Variable(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One stored variable."""

    value: Value
    created_at: datetime | None = None
    updated_at: datetime | None = None
    """Moves with every write; projects do not show it."""
    written_at: datetime = ALWAYS
    before: Shown | None = None
    """What was shown when it was written; None for a new name."""


class ContextRestriction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may use a context."""

    id: str
    kind: str
    value: str


class Context(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One context; its id is the key in the state."""

    id: str
    name: str
    organization: str
    created_at: datetime | None = None
    variables: dict[str, Variable] = {}
    restrictions: list[ContextRestriction] = []
    hides_more: bool = False
    """The live context held more variables than its API shows."""


class CheckoutKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key by which a project's jobs read its repository; the private half is nobody's to see."""

    fingerprint: str
    """MD5 with colons, which is what every route shows unasked."""
    type: str = "deploy-key"
    public_key: str = ""
    preferred: bool = False
    created_at: datetime | None = None


class SshKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key for some host besides the repository's."""

    fingerprint: str
    hostname: str = ""
    public_key: str = ""


class LegacyAwsKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The pair of the old AWS integration, as it is shown."""

    access_key_id: str
    has_secret: bool = True


class ProjectToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A project's API token, less its value."""

    id: str
    label: str
    scope: str = "all"
    created_at: datetime | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An outbound webhook, less its signing secret."""

    id: str
    name: str
    url: str = ""
    has_secret: bool = True
    events: tuple[str, ...] = ("workflow-completed",)
    verify_tls: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Trigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What starts a pipeline; one of the provider `webhook` has an address whose secret is not kept here."""

    id: str
    provider: str = "webhook"
    url: str = ""
    """Without its query."""
    sender: str = ""
    event_name: str = ""
    created_at: datetime | None = None


class PipelineDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of a project's pipelines, with its triggers."""

    id: str
    name: str = ""
    created_at: datetime | None = None
    triggers: list[Trigger] = []


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run, with the configuration that it ran with."""

    id: str
    number: int
    created_at: datetime
    branch: str = "main"
    compiled: str = ""
    compiled_setup: str = ""
    """Of a run whose configuration was generated: what generated it."""
    error: str = ""
    """Why nothing ran."""


class RunnerToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token that runner agents sign in with, less its value."""

    id: str
    nickname: str
    created_at: datetime | None = None


class RunnerClass(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resource class of self-hosted runners."""

    id: str
    name: str
    """`namespace/name`."""
    description: str = ""
    tokens: list[RunnerToken] = []


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Custom OIDC claims; of what is not customised there is nothing."""

    audience: tuple[str, ...] = ()
    audience_updated_at: datetime | None = None
    ttl: str = ""
    ttl_updated_at: datetime | None = None


class MissedRead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hole that the live world reported."""

    what: str
    where: str
    why: str


class StoredProject(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One project; its slug is the key in the state."""

    id: str
    slug: str
    organization: str
    known_by: tuple[str, ...] = ("private", "v3", "v1.1")
    deleted: bool = False
    variables: dict[str, Variable] = {}
    checkout_keys: list[CheckoutKey] = []
    ssh_keys: list[SshKey] = []
    legacy_aws: LegacyAwsKeys | None = None
    tokens: list[ProjectToken] = []
    webhooks: list[Webhook] = []
    definitions: list[PipelineDefinition] = []
    pipelines: list[Pipeline] = []
    """The latest first."""
    claims: Claims | None = None
    missed: list[MissedRead] = []
    """Kinds of secret that the live world did not show."""


class StoredOrganization(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One organization; its slug is the key in the state."""

    id: str
    slug: str
    name: str
    holes: list[MissedRead] = []
    """Of its projects."""
    runner_classes: list[RunnerClass] = []
    claims: Claims | None = None
    missed: list[MissedRead] = []
    """Kinds of secret that the live world did not show."""


class CircleCiState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All of CircleCI that the token can see."""

    host: str = "https://circleci.com"
    login: str = ""
    token_sha256: str | None = None
    """The one token that is accepted; None: whichever the twin was given."""
    organizations: dict[str, StoredOrganization] = {}
    contexts: dict[str, Context] = {}
    projects: dict[str, StoredProject] = {}
    refusals: dict[str, Refusal] = {}
    """By operation and target, such as `variables:gh/acme/api`."""


class State(msgspec.Struct, kw_only=True):
    """A whole world at one moment."""

    now: datetime
    accounts: dict[str, Account] = {}
    circleci: CircleCiState = msgspec.field(default_factory=CircleCiState)
    version: int = VERSION


def save(state: State, path: Path) -> None:
    """Replace the file at once, readable by its owner alone. Not synced: it must survive a SIGKILL, no more."""
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor has no path
        file.write(msgspec.json.encode(state))
    new.replace(path)


def load(path: Path) -> State:
    """Read a world back; a file of another version or form is refused."""
    try:
        text = path.read_bytes()
        version = decoder(_Header).decode(text).version
        if version <= VERSION:
            return decoder(State).decode(text)
    except (OSError, msgspec.MsgspecError):
        raise JournalDamagedError(
            f"{path.name}, the rehearsal's world, cannot be read.",
            remedy="Start the rehearsal again in a new case folder; no live system is involved.",
        ) from None
    raise JournalTooNewError(
        f"{path.name}, the rehearsal's world, was written by a newer version (format {version}).",
        remedy="Use the version that wrote it, or start the rehearsal again in a new case folder.",
    )


class _Header(msgspec.Struct):
    version: int
