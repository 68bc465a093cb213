"""What a twin's world consists of, and the file it survives a SIGKILL in.

A stored value is known (written here: its tail and SHA-256) or opaque (a tail read from the live world). Its text is
nowhere in these types, so `world.json` cannot hold one. Mirrored facts carry `ALWAYS` as the time they took effect,
which no lag reaches.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from playbook.decoding import decoder
from playbook.errors import JournalDamagedError, JournalTooNewError
from playbook.ports import KeyStatus
from playbook.secret import masked_tail

if TYPE_CHECKING:
    from pathlib import Path

    from playbook.secret import Secret

T = TypeVar("T")
Document: TypeAlias = dict[str, Any]
"""A policy document, as JSON."""

VERSION: Final = 2
"""2: roles, policies, providers and all events of the trail. A file of version 1 is read; it has none of them."""
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


class Version(msgspec.Struct, Generic[T], frozen=True, kw_only=True, omit_defaults=True):
    """What something of IAM was from a time on; None: it was gone. A list of them is its history, the truth last."""

    at: datetime = ALWAYS
    value: T | None = None


class Foothold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A password, an MFA device, an SSH key, a certificate or a service credential of a user."""

    kind: str
    id: str
    created_at: datetime | None = None


class Rights(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be changed of a user besides its keys."""

    tags: dict[str, str] = {}
    inline: dict[str, Document] = {}
    attached: tuple[str, ...] = ()
    """The ARNs of managed policies."""


class IamUser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One IAM user as it was at first; `Account.rights` has what became of its tags and policies."""

    name: str
    arn: str
    created_at: datetime | None = None
    tags: dict[str, str] = {}
    policies: tuple[str, ...] = ()
    """The names of attached managed policies: of one of the account where it has one of the name, else of AWS."""
    inline_policies: tuple[str, ...] = ()
    """Names; `inline` has the documents of those whose documents are known."""
    inline: dict[str, Document] = {}
    groups: tuple[str, ...] = ()
    boundary: str = ""
    reach: tuple[str, ...] = ()
    """What the policies allow, in the words of `ports.User`, for it is not worked out here."""
    password_last_used_at: datetime | None = None
    footholds: tuple[Foothold, ...] = ()


class IamGroup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One IAM group; its members name it."""

    name: str
    arn: str
    created_at: datetime | None = None
    inline: dict[str, Document] = {}
    attached: tuple[str, ...] = ()


class IamRole(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One IAM role."""

    name: str
    arn: str
    trust: Document
    path: str = "/"
    created_at: datetime | None = None
    max_session_s: int = 3600
    description: str = ""
    inline: dict[str, Document] = {}
    attached: tuple[str, ...] = ()
    boundary: str = ""
    tags: dict[str, str] = {}


class ManagedPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One managed policy in its default version."""

    name: str
    arn: str
    document: Document
    changed_at: datetime | None = None
    tags: dict[str, str] = {}


class Provider(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One identity provider, of OIDC unless `saml`."""

    arn: str
    url: str = ""
    """Without `https://`."""
    client_ids: tuple[str, ...] = ()
    thumbprints: tuple[str, ...] = ()
    created_at: datetime | None = None
    tags: dict[str, str] = {}
    saml: bool = False


class TrailEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One management event of CloudTrail; as it stands by default, the making of an access key."""

    id: str
    at: datetime
    user: str = ""
    """The user it was done to."""
    key_id: str = ""
    """The access key it made."""
    user_agent: str = ""
    source_address: str = ""
    name: str = "CreateAccessKey"
    service: str = "iam"
    region: str = "us-east-1"
    signer: str = ""
    """The key that signed it: AKIA or ASIA."""
    actor: str = ""
    """The name of the user or session that signed it."""
    error_code: str = ""
    issued_key_id: str = ""
    """The ASIA key it handed out."""
    role: str = ""
    """The ARN of the role it assumed."""
    resources: tuple[str, ...] = ()
    """What else it acted on."""


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
    rights: dict[str, list[Version[Rights]]] = {}
    """By user, once something of them was written; `IamUser` has what was there at first."""
    groups: dict[str, IamGroup] = {}
    roles: dict[str, list[Version[IamRole]]] = {}
    """By name."""
    policies: dict[str, list[Version[ManagedPolicy]]] = {}
    """By ARN; AWS's own among them, where something uses them."""
    providers: dict[str, list[Version[Provider]]] = {}
    """By ARN."""
    accessed: dict[str, dict[str, datetime | None]] = {}
    """By the ARN of a user or role and by service: what was tried before this world began."""
    trail: list[TrailEvent] = []
    quota: int = 2
    """Access keys a user may have, active or not."""
    summary: dict[str, int] = {}
    """What `iam:GetAccountSummary` says, where it differs from AWS's defaults."""
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
    unread: list[str] = []
    """Of a mirrored account: `details` and `providers`, until they are asked for."""


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


class Signing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job signs its calls to AWS with: the names of two variables, or a role."""

    id_variable: str = ""
    secret_variable: str = ""
    role_arn: str = ""


class TestCase(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One test case that a job stored."""

    classname: str
    name: str


class RunJob(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One job: what it needs, and what becomes of it once its time is over."""

    id: str
    name: str
    number: int | None = None
    """None for one that never runs."""
    contexts: tuple[str, ...] = ()
    """Their names, in the order of the configuration."""
    signing: Signing | None = None
    """None for a job that does not use AWS."""
    tells: bool = False
    """It stores what it saw as test cases, as our canary does."""
    status: str = "success"
    """CircleCI's word for its end; until `stopped_at` it is running."""
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    """None for one that has started: it runs until somebody cancels it."""
    tests: list[TestCase] = []


class RunWorkflow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One workflow; its state is its jobs'."""

    id: str
    name: str
    created_at: datetime
    jobs: list[RunJob] = []


class RunPipeline(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One pipeline; its id is the key in the state."""

    id: str
    project: str
    """The project's slug."""
    number: int
    created_at: datetime
    branch: str = "main"
    unversioned: bool = False
    """Its configuration came with the request, which keeps restricted contexts from it."""
    errors: tuple[str, ...] = ()
    workflows: list[RunWorkflow] = []
    compiled: str = ""
    """What it ran with; a stranger's text, kept for whoever asks for it."""
    compiled_setup: str = ""
    """Of one whose configuration was generated: what generated it."""


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
    claims: Claims | None = None
    default_branch: str = "main"
    inline_config: bool | None = False
    """Whether a pipeline may bring its own configuration, if the organization allows it too; None: nobody says."""
    forks_receive_secrets: bool = False
    unread: tuple[str, ...] = ()
    """The operations whose answer a mirror reads from the live world when it is asked (`live_reads`)."""
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
    inline_config: bool | None = False
    """As a project's; both have to allow it."""
    running_disabled: bool | None = False
    """All new work is blocked; None where the live world did not say."""
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
    pipelines: dict[str, RunPipeline] = {}
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
            state = decoder(State).decode(text)
            state.version = VERSION
            return state
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
