"""The nouns of the two platforms, and the protocols through which the rest of the program sees them.

A `...Reader` only reads; its writable twin adds the changes. Planning and observing get readers, so the type
checker refuses a write there. Adapters (`clients/`) and simulators (`twins/`) implement the same protocols.
Times are aware, in UTC. Every id, name and tail came from a platform and is untrusted text: `display` it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


Json: TypeAlias = "str | int | bool | Sequence[Json] | Mapping[str, Json] | None"
Evidence: TypeAlias = "Mapping[str, Json]"
"""What justifies a claim: ids, times, counts and booleans. Never a secret, never a tail of one."""

T = TypeVar("T")
R = TypeVar("R")


# --- AWS ----------------------------------------------------------------------------------------------------------


class KeyStatus(StrEnum):
    """IAM's own words for an access key's state."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"
    EXPIRED = "Expired"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a credential is, as `sts:GetCallerIdentity` says."""

    account: str
    arn: str


@dataclass(frozen=True, kw_only=True)
class User:
    """One IAM user."""

    account: str
    name: str
    arn: str
    created_at: datetime | None = None
    tags: tuple[tuple[str, str], ...] = ()
    policies: tuple[str, ...] = ()
    """The names of the managed policies attached to the user itself."""
    inline_policies: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    boundary: str = ""
    """The ARN of the permissions boundary; it is named, never evaluated."""
    reach: tuple[str, ...] = ()
    """What makes a stolen key worse than its policies' names say, in words: everything, or IAM itself."""
    password_last_used_at: datetime | None = None
    """From the credential report, which may be hours old."""


@dataclass(frozen=True, kw_only=True)
class AccessKey:
    """One access key as `iam:ListAccessKeys` shows it; its secret is not readable, by anyone."""

    account: str
    user: str
    id: str
    status: KeyStatus
    created_at: datetime

    @property
    def is_active(self) -> bool:
        """Only `Active` keys can sign; `Expired` ones cannot."""
        return self.status is KeyStatus.ACTIVE


@dataclass(frozen=True, kw_only=True)
class KeyListing:
    """The keys of one user and AWS's own time of the answer (its `Date` header), so that no local clock decides."""

    keys: tuple[AccessKey, ...]
    server_time: datetime

    def find(self, key_id: str) -> AccessKey | None:
        """The key with this id, if it is listed."""
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, kw_only=True)
class LastUsed:
    """`iam:GetAccessKeyLastUsed`; `at` is None for a key that was never used. AWS's record lags and is coarse."""

    at: datetime | None
    service: str = ""
    region: str = ""
    reported_at: datetime | None = None
    """When the credential report was made that says so; None: the key was asked about by itself."""


@dataclass(frozen=True, kw_only=True)
class ReportedKey:
    """One of the two key columns of a credential report; it carries no key id (facts/aws 11)."""

    changed_at: datetime | None
    """When the key was made or its status last changed."""
    last_used: LastUsed


@dataclass(frozen=True, kw_only=True)
class ReportedUser:
    """One row of a credential report."""

    name: str
    keys: tuple[ReportedKey, ...] = ()
    password_last_used_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class CredentialReport:
    """`iam:GetCredentialReport`: up to four hours old, so it adds to what is listed and never replaces it."""

    generated_at: datetime
    users: tuple[ReportedUser, ...]


@dataclass(frozen=True, kw_only=True)
class KeyCreation:
    """A CloudTrail event of `CreateAccessKey`, by which a key is attributed to the one who made it."""

    event_id: str
    at: datetime
    key_id: str
    user_agent: str
    source_address: str = ""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A minted access key with its secret, which exists nowhere but here."""

    account: str
    user: str
    key_id: str
    secret: Secret
    created_at: datetime
    server_time: datetime


class AwsReader(Protocol):
    """One AWS account, read only."""

    @property
    def account(self) -> str:
        """The 12-digit account id."""
        ...

    def identity(self) -> Identity:
        """Who we are in this account. Raises `CredentialsError` when nobody."""
        ...

    def own_key_id(self) -> str:
        """The access key id that signs our own calls, or an empty text for a role session."""
        ...

    def users(self) -> tuple[User, ...]:
        """Every user, all pages."""
        ...

    def described_users(self) -> tuple[User, ...]:
        """Every user with tags, groups and the reach of the policies: `iam:GetAccountAuthorizationDetails`."""
        ...

    def credential_report(self) -> CredentialReport:
        """Last uses of passwords and keys in one document, as of hours ago."""
        ...

    def access_keys(self, user: str) -> KeyListing:
        """The keys of one user. Raises `AwsError` with code `NoSuchEntity` when the user is gone."""
        ...

    def last_used(self, key_id: str) -> LastUsed:
        """When and where the key signed last."""
        ...

    def key_creations(self, user: str, since: datetime) -> tuple[KeyCreation, ...]:
        """CloudTrail's `CreateAccessKey` events for this user; they arrive late (minutes)."""
        ...

    def summary(self) -> Mapping[str, int]:
        """`iam:GetAccountSummary`: quotas in force, and whether the root user has keys."""
        ...

    def simulate(self, actions: Sequence[str]) -> Mapping[str, bool] | None:
        """Which of these IAM actions our identity may use, or None when this cannot be asked."""
        ...


class Aws(AwsReader, Protocol):
    """One AWS account, writable. Each write is sent to the network once; the engine decides what follows."""

    def create_access_key(self, user: str, *, tag: str) -> Credential:
        """Mint a key. Not idempotent. `tag` goes into the user agent, by which CloudTrail knows our request."""
        ...

    def set_key_status(self, user: str, key_id: str, status: KeyStatus) -> datetime:
        """Activate or deactivate; idempotent. Answers AWS's time."""
        ...

    def delete_access_key(self, user: str, key_id: str) -> datetime:
        """Delete for good. A key already gone raises `AwsError` with code `NoSuchEntity`. Answers AWS's time."""
        ...


# --- CircleCI -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Organization:
    """An organization the token can see; `id` may be empty (`/me/collaborations` has null ids)."""

    id: str
    slug: str
    name: str


class SinkKind(StrEnum):
    """The two kinds of place where CircleCI stores a variable."""

    CONTEXT = "context"
    PROJECT = "project"


@dataclass(frozen=True, kw_only=True)
class Sink:
    """A place a credential is stored: a context (by its id) or a project (by its slug)."""

    kind: SinkKind
    id: str
    """The context's UUID, or the project's slug `gh/org/repo`: what the API is asked with."""
    name: str
    """The context's name, or the slug again: what a person knows it by."""
    organization: str
    """The organization's slug."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A CircleCI project and the sources that knew it."""

    id: str
    slug: str
    organization: str
    known_by: tuple[str, ...]
    deleted: bool = False


@dataclass(frozen=True, kw_only=True)
class MaskedVariable:
    """A stored variable as the API shows it: never its value."""

    name: str
    tail: str | None
    """The last characters (see `secret.masked_tail`), without any mask; None when the API did not say: "not yet
    seen", never a match. An empty text is a value too short to have a tail."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    """Moves with every write, also of the same value. Contexts only; projects have none."""


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The variables of one sink; `complete` is False when the API hides some (over 100 in a context)."""

    items: tuple[MaskedVariable, ...]
    complete: bool = True

    def find(self, name: str) -> MaskedVariable | None:
        """The variable of this name, if it is listed."""
        return next((variable for variable in self.items if variable.name == name), None)


class SecretKind(StrEnum):
    """Every kind of thing an inventory lists; the last two are no secrets, but they decide who may read some."""

    CONTEXT_VARIABLE = "context-variable"
    PROJECT_VARIABLE = "project-variable"
    LEGACY_AWS_KEY = "legacy-aws-key"
    CHECKOUT_KEY = "checkout-key"
    SSH_KEY = "ssh-key"
    PROJECT_TOKEN = "project-token"  # noqa: S105  # the name of a kind
    WEBHOOK_SECRET = "webhook-secret"  # noqa: S105  # as above
    TRIGGER_URL = "trigger-url"
    RUNNER_TOKEN = "runner-token"  # noqa: S105  # as above
    OIDC_CLAIMS = "oidc-claims"
    CONTEXT_RESTRICTION = "context-restriction"


@dataclass(frozen=True, kw_only=True)
class StoredSecret:
    """One row of an inventory that is no variable; its value is never readable."""

    kind: SecretKind
    id: str
    """The platform's own: a fingerprint, a token's, a webhook's or a trigger's id."""
    organization: str
    """The organization's slug."""
    place: str
    """Where it is: a project's slug, a context's name, a runner's resource class, or the organization's slug."""
    place_kind: str
    """`project`, `context`, `resource-class` or `organization`."""
    name: str
    """What a person knows it by: a label, a host, an address without its secret."""
    tail: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    detail: str = ""
    """The kind's own: `deploy-key`, a token's scope, a restriction's type, custom audiences."""
    set: bool = True
    """False when the platform says that there is no secret behind it, such as a webhook without one."""


@dataclass(frozen=True, kw_only=True)
class ProjectSecrets:
    """Everything one project stores, and what of it could not be read."""

    variables: Variables
    secrets: tuple[StoredSecret, ...] = ()
    holes: tuple[Hole, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoredSecrets:
    """Rows of several kinds, and what of them could not be read."""

    secrets: tuple[StoredSecret, ...] = ()
    holes: tuple[Hole, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """Who may use a context: a project, a group, or an expression."""

    id: str
    kind: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Something that should have been read and was not: what keeps an inventory from being complete."""

    what: str
    where: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Projects:
    """The projects of an organization from all sources, and the sources that failed."""

    items: tuple[Project, ...]
    holes: tuple[Hole, ...] = ()


RUN_CONFIG: Final = "configuration of a run"
"""How a hole names what could not be read of one."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What one pipeline ran with, orbs and parameters resolved: a stranger's texts, which may hold anything."""

    number: int
    created_at: datetime | None
    compiled: str = field(repr=False)
    """Empty when there is none, as of a pipeline that waits for the configuration its setup generates."""
    compiled_setup: str = field(default="", repr=False)
    """The part that generates the other; empty where nothing is generated."""


@dataclass(frozen=True, kw_only=True)
class RunConfigs:
    """The configurations of a project's latest pipelines, and those that were refused."""

    items: tuple[RunConfig, ...] = ()
    holes: tuple[Hole, ...] = ()


class CircleCiReader(Protocol):
    """CircleCI, read only. A refused read raises `CircleCiError`; a rejected token `CredentialsError`."""

    @property
    def host(self) -> str:
        """The base address, such as `https://circleci.com`."""
        ...

    def login(self) -> str:
        """Whose token this is (`/me`)."""
        ...

    def organizations(self) -> tuple[Organization, ...]:
        """Every organization the token can see."""
        ...

    def contexts(self, organization: Organization) -> tuple[Sink, ...]:
        """Every context of the organization, as sinks."""
        ...

    def projects(self, organization: Organization) -> Projects:
        """Every project, as the union of the sources that know them."""
        ...

    def variables(self, sink: Sink) -> Variables:
        """What is stored in a context or a project. A missing context raises `CircleCiError` with status 403."""
        ...

    def restrictions(self, context: Sink) -> tuple[Restriction, ...]:
        """Who may use the context."""
        ...

    def project_secrets(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        """Everything the project stores of these kinds, in as few calls as they need; what fails becomes a hole."""
        ...

    def organization_secrets(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        """What belongs to the organization itself: runner tokens and custom OIDC claims."""
        ...

    def run_configs(self, project: Project, most: int) -> RunConfigs:
        """What the latest pipelines ran with, newest first, at most so many: a call for the list, one for each."""
        ...


class CircleCi(CircleCiReader, Protocol):
    """CircleCI, writable."""

    def put_variable(self, sink: Sink, name: str, value: Secret) -> None:
        """Store a value under a name, new or not: a context by PUT, a project by POST, which overwrites."""
        ...

    def delete_variable(self, sink: Sink, name: str) -> None:
        """Remove a variable; one that is not there raises nothing."""
        ...

    def create_context(self, organization: Organization, name: str) -> Sink:
        """Make a context. Not idempotent."""
        ...


# --- What the engine adds -------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time that a twin can turn by itself."""

    def now(self) -> datetime:
        """The local time, for display and for the journal; no decision compares it across processes."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, for waits within this process."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class Waits:
    """Seconds to wait, by name; every one may be 0. `docs/waits.md` says what each protects."""

    visible: int = 300
    """Before a create that is not listed counts as not made."""
    proof: int = 10
    """Over which a new key must answer at STS."""
    alive: int = 60
    """At most, for a new key to be accepted at all."""
    sink: int = 60
    """For a written tail to be read back."""
    settle: int = 10
    """Between two agreeing reads, and before the first look after a deactivation."""
    relist: int = 60
    """Before the last look at a user's keys."""
    drain: int = 18000
    """At most, for jobs that began before the last write."""
    silence: int = -1
    """The old key unused for this long before it is deactivated; -1: what the severity says."""
    soak: int = 1800
    """Inactive for this long before a delete."""
    patience: int = 900
    """The longest wait within one run; what needs longer ends the run with exit 11."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One durable intent to apply an action, and what the journal knows of its end."""

    seq: int
    """The sequence number of its `Intended`."""
    tag: str
    """Unique in the world: the case's id and `seq`; sent along where a platform records it."""
    basis: Evidence
    """The observation it rests on: for a create the ids listed before and AWS's time."""
    applied: Evidence | None = None
    """What came back, when it did."""
    failed: str | None = None
    """None, or the `Effect` of the failure."""
    reset: bool = False
    """True when a later `Reset` sent the action back to planned: its secret is lost."""
    kept: bool = False
    """True when that `Reset` keeps what it made until its successor is in place."""


class View(Protocol):
    """All that planning and observing may see."""

    @property
    def accounts(self) -> tuple[str, ...]:
        """The ids of the named AWS accounts."""
        ...

    @property
    def unopened(self) -> tuple[Hole, ...]:
        """The AWS accounts that should have been opened and were not."""
        ...

    @property
    def circleci(self) -> CircleCiReader:
        """CircleCI, read only."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of this world."""
        ...

    @property
    def waits(self) -> Waits:
        """The waits in force."""
        ...

    @property
    def held(self) -> Mapping[str, Credential | Secret]:
        """The secrets in this process's memory, by the name of their credential."""
        ...

    def aws(self, account: str) -> AwsReader:
        """One of `accounts`, read only."""
        ...

    def identify(self, credential: Credential) -> Identity | None:
        """Who STS says this new credential is, asked in every probe region; None while it is not accepted."""
        ...

    def past(self, key: str) -> tuple[Attempt, ...]:
        """The intents so far of the action with this key, oldest first."""
        ...

    def looks(self, key: str) -> tuple[Evidence, ...]:
        """The evidence of this process's earlier looks at an action that was pending, oldest first."""
        ...

    def gather(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Map over items, side by side within `--parallel`, results in order; the first error is raised."""
        ...


class World(View, Protocol):
    """All that `apply` may change."""

    @property
    def circleci(self) -> CircleCi:
        """CircleCI, writable."""
        ...

    def aws(self, account: str) -> Aws:
        """One of `accounts`, writable."""
        ...

    def hold(self, name: str, secret: Credential | Secret) -> None:
        """Keep a secret in this process's memory under its credential's name."""
        ...

    def obtain(self, source: str) -> Secret:
        """A new value from `env:NAME`, `file:PATH`, `command:[argv]` or `prompt`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Platforms:
    """One world's ends, live or twins, as `modes` builds them."""

    aws: Mapping[str, Aws]
    circleci: CircleCi
    clock: Clock
    identify: Callable[[Credential], Identity | None]
    """Asks STS in two regions (one under an endpoint override) and answers only when all agree."""
    obtain: Callable[[str], Secret]
    check_source: Callable[[str], None] = field(default=lambda _source: None)
    """Refuses a source of a new value that would fail later; reads no value."""
    close: Callable[[], None] = field(default=lambda: None)
    unopened: tuple[Hole, ...] = ()
    """AWS accounts that were to be opened and refused."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the world was opened."""


_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def display(text: str, limit: int = 400) -> str:
    r"""Make foreign text safe for a terminal, a log or a report: one line, no control or invisible characters.

    Escapes every character of the categories Cc, Cf, Cs, Co, Cn, Zl and Zp as `\u{...}`, then cuts at `limit`.
    """
    if text.isascii() and text.isprintable():
        safe = text
    else:
        safe = "".join(
            f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _HIDDEN_CATEGORIES else character
            for character in text
        )
    return safe if len(safe) <= limit else f"{safe[: limit - 3]}..."
