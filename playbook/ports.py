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
class TrailEvent:
    """One management event of CloudTrail; it arrives minutes late, and data events (S3 objects) are not among them."""

    event_id: str
    at: datetime
    name: str
    """The API call, such as `CreateUser`."""
    service: str
    """Such as `iam` or `sts`: the event source without `.amazonaws.com`."""
    region: str = ""
    key_id: str = ""
    """The key that signed: AKIA of a user, ASIA of a session."""
    user: str = ""
    """The IAM user's or the session's name."""
    source_address: str = ""
    user_agent: str = ""
    error_code: str = ""
    """Empty when the call succeeded."""
    issued_key_id: str = ""
    """The ASIA key id that the call handed out (`AssumeRole`, `GetSessionToken`, ...): where the trail goes on."""
    role: str = ""
    """The ARN of the role that was assumed."""
    resources: tuple[str, ...] = ()
    """What it acted on: the names and ARNs that CloudTrail lists, and the user, role or policy of its request."""


class TrailKey(StrEnum):
    """What CloudTrail can look events up by, one at a time (facts/aws 13)."""

    ACCESS_KEY_ID = "AccessKeyId"
    USER_NAME = "Username"
    EVENT_NAME = "EventName"
    RESOURCE_NAME = "ResourceName"


@dataclass(frozen=True, kw_only=True)
class Foothold:
    """Something beside access keys and policies by which one can come back as a user."""

    kind: str
    """`login-profile`, `mfa-device`, `ssh-key`, `signing-certificate` or `service-credential`."""
    id: str
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyDocument:
    """A policy by its name and, when it is a managed one, its ARN."""

    name: str
    document: Mapping[str, Json]
    arn: str = ""
    changed_at: datetime | None = None
    """When its default version was made; inline policies have no time."""


@dataclass(frozen=True, kw_only=True)
class Principal:
    """An IAM user or group with everything that gives it permissions: `iam:GetAccountAuthorizationDetails`."""

    name: str
    arn: str
    created_at: datetime | None = None
    inline: tuple[PolicyDocument, ...] = ()
    attached: tuple[str, ...] = ()
    """The ARNs of managed policies."""
    groups: tuple[str, ...] = ()
    boundary: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Role:
    """An IAM role with its trust policy and its permissions."""

    name: str
    arn: str
    trust: Mapping[str, Json]
    path: str = "/"
    created_at: datetime | None = None
    max_session_s: int = 3600
    description: str = ""
    inline: tuple[PolicyDocument, ...] = ()
    attached: tuple[str, ...] = ()
    boundary: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class AccountDetails:
    """Who may do what in an account, in one paged read; AWS-managed policies are there when something uses them."""

    users: tuple[Principal, ...] = ()
    groups: tuple[Principal, ...] = ()
    roles: tuple[Role, ...] = ()
    policies: tuple[PolicyDocument, ...] = ()
    """Managed policies, each in its default version."""

    def policy(self, arn: str) -> PolicyDocument | None:
        """The managed policy with this ARN, if it was listed."""
        return next((policy for policy in self.policies if policy.arn == arn), None)


@dataclass(frozen=True, kw_only=True)
class IdentityProvider:
    """An OIDC provider (or, with `saml`, a SAML one) registered in an account."""

    arn: str
    url: str
    """The issuer without `https://`, as IAM keeps it; empty for SAML."""
    client_ids: tuple[str, ...] = ()
    thumbprints: tuple[str, ...] = ()
    created_at: datetime | None = None
    tags: tuple[tuple[str, str], ...] = ()
    saml: bool = False


@dataclass(frozen=True, kw_only=True)
class AccessedService:
    """One service of `iam:GetServiceLastAccessedDetails`; denied attempts count too (facts/aws 9)."""

    service: str
    """The namespace, such as `ecr`."""
    at: datetime | None


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

    def key_owner(self, key_id: str) -> str | None:
        """The user whose key this is (`iam:GetAccessKeyLastUsed` names it); None when it is no key of this account."""
        ...

    def trail(self, by: TrailKey, value: str, since: datetime) -> tuple[TrailEvent, ...]:
        """CloudTrail's events in every enabled region, oldest first; 2 requests a second a region, 90 days back."""
        ...

    def user_tags(self, user: str) -> Mapping[str, str]:
        """The user's tags, read now. Raises `AwsError` with code `NoSuchEntity` when the user is gone."""
        ...

    def user_policy(self, user: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a user, or None."""
        ...

    def role_policy(self, role: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a role, or None."""
        ...

    def attached_user_policies(self, user: str) -> tuple[str, ...]:
        """The ARNs of the managed policies attached to the user itself, read now."""
        ...

    def footholds(self, user: str) -> tuple[Foothold, ...]:
        """Passwords, MFA devices, SSH keys, certificates and service credentials of one user."""
        ...

    def details(self) -> AccountDetails:
        """Every user, group, role and customer policy with their documents, all pages."""
        ...

    def providers(self) -> tuple[IdentityProvider, ...]:
        """Every OIDC and SAML provider of the account."""
        ...

    def role(self, name: str) -> Role | None:
        """One role with trust, inline and attached policies, or None."""
        ...

    def managed_policy(self, arn: str) -> PolicyDocument | None:
        """The default version of a managed policy, or None."""
        ...

    def accessed_services(self, arn: str) -> tuple[AccessedService, ...]:
        """What a user or role tried to use; takes a job of seconds, and lags by hours."""
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

    def put_user_policy(self, user: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy of a user, new or not. Answers AWS's time."""
        ...

    def delete_user_policy(self, user: str, name: str) -> None:
        """Remove an inline policy of a user; one that is not there raises nothing."""
        ...

    def put_role_policy(self, role: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy of a role, new or not. Answers AWS's time."""
        ...

    def delete_role_policy(self, role: str, name: str) -> None:
        """Remove an inline policy of a role; one that is not there raises nothing."""
        ...

    def tag_user(self, user: str, key: str, value: str) -> datetime:
        """Set one tag. Answers AWS's time."""
        ...

    def untag_user(self, user: str, key: str) -> None:
        """Remove one tag; one that is not there raises nothing."""
        ...

    def create_provider(self, url: str, client_ids: Sequence[str], tags: Mapping[str, str]) -> str:
        """Register an OIDC issuer (`https://...`) and answer its ARN. `EntityAlreadyExists` when there is one."""
        ...

    def add_client_id(self, arn: str, client_id: str) -> None:
        """Add an audience to an OIDC provider; idempotent."""
        ...

    def remove_client_id(self, arn: str, client_id: str) -> None:
        """Remove an audience from an OIDC provider; one that is not there raises nothing."""
        ...

    def delete_provider(self, arn: str) -> None:
        """Remove an OIDC provider; one that is not there raises nothing."""
        ...

    def create_role(self, role: Role) -> str:
        """Make a role with trust, path, session length, boundary, description and tags; answers its ARN.

        Its policies are put and attached one by one. `EntityAlreadyExists` when there is one.
        """
        ...

    def update_trust(self, role: str, document: Mapping[str, Json]) -> None:
        """Replace a role's whole trust policy; AWS keeps no earlier version (invariants F51)."""
        ...

    def update_session_length(self, role: str, seconds: int) -> None:
        """Set a role's longest session, 3,600 to 43,200 seconds."""
        ...

    def tag_role(self, role: str, key: str, value: str) -> None:
        """Set one tag of a role."""
        ...

    def attach_role_policy(self, role: str, policy_arn: str) -> None:
        """Attach a managed policy; idempotent."""
        ...

    def detach_role_policy(self, role: str, policy_arn: str) -> None:
        """Detach a managed policy; one that is not attached raises nothing."""
        ...

    def create_policy(self, name: str, document: Mapping[str, Json], tags: Mapping[str, str]) -> str:
        """Make a managed policy and answer its ARN. `EntityAlreadyExists` when there is one of the name."""
        ...

    def delete_policy(self, arn: str) -> None:
        """Delete a managed policy that is attached nowhere; one that is not there raises nothing."""
        ...

    def delete_role(self, role: str) -> None:
        """Delete a role without policies; one that is not there raises nothing."""
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


@dataclass(frozen=True, kw_only=True)
class PipelineDefinition:
    """What a pipeline of a project is started from (`/projects/{id}/pipeline-definitions`)."""

    id: str
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One run of a project's configuration."""

    id: str
    project: str
    """The project's slug."""
    created_at: datetime
    number: int = 0
    errors: tuple[str, ...] = ()
    """Why it made no workflow, in CircleCI's words."""


class WorkflowStatus(StrEnum):
    """CircleCI's own words for a workflow's state."""

    SUCCESS = "success"
    RUNNING = "running"
    NOT_RUN = "not_run"
    FAILED = "failed"
    ERROR = "error"
    FAILING = "failing"
    ON_HOLD = "on_hold"
    CANCELED = "canceled"
    UNAUTHORIZED = "unauthorized"
    UNKNOWN = "unknown"
    """A word this version does not know: never taken for an end."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more; a workflow on hold may go on."""
        return self in {
            WorkflowStatus.SUCCESS,
            WorkflowStatus.NOT_RUN,
            WorkflowStatus.FAILED,
            WorkflowStatus.ERROR,
            WorkflowStatus.CANCELED,
            WorkflowStatus.UNAUTHORIZED,
        }


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """One workflow of a pipeline."""

    id: str
    name: str
    pipeline: str
    project: str
    status: WorkflowStatus
    created_at: datetime
    stopped_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a workflow; `number` is None until it runs, and for an approval."""

    id: str
    name: str
    status: str
    number: int | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class StoredTest:
    """One test case that a job stored; how the canary says what it saw."""

    name: str
    classname: str
    result: str
    message: str = ""


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

    def pipeline_definitions(self, project: Project) -> tuple[PipelineDefinition, ...]:
        """What a pipeline of the project can be started from."""
        ...

    def default_branch(self, project: Project) -> str:
        """The branch a pipeline runs on when none is named."""
        ...

    def inline_config_allowed(self, project: Project) -> bool | None:
        """Whether a pipeline may be started with a config of ours; None when this cannot be asked."""
        ...

    def pipelines(self, project: str, since: datetime) -> tuple[Pipeline, ...]:
        """The pipelines of a project (its slug) created since, newest first."""
        ...

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """One pipeline, with the errors that kept it from running."""
        ...

    def workflows(self, pipeline_id: str) -> tuple[Workflow, ...]:
        """The workflows of a pipeline, reruns included."""
        ...

    def jobs(self, workflow_id: str) -> tuple[Job, ...]:
        """The jobs of a workflow."""
        ...

    def test_results(self, project: str, job_number: int) -> tuple[StoredTest, ...]:
        """The test cases that a job of the project (its slug) stored."""
        ...

    def running_disabled(self, organization: Organization) -> bool | None:
        """Whether all new work of the organization is blocked; None where the API does not say (Server)."""
        ...

    def forks_receive_secrets(self, project: Project) -> bool:
        """Whether builds of forked pull requests get the project's secrets and OIDC tokens."""
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

    def delete_context(self, context: Sink) -> None:
        """Remove a context and all it stores; one that is not there raises nothing."""
        ...

    def create_restriction(self, context: Sink, kind: str, value: str) -> Restriction:
        """Restrict a context further. One that is there already is answered as it is (409)."""
        ...

    def delete_restriction(self, context: Sink, restriction_id: str) -> None:
        """Lift a restriction; the last project restriction opens the context to every project."""
        ...

    def run_inline(self, project: Project, definition: PipelineDefinition, branch: str, config: str) -> Pipeline:
        """Start a pipeline with this config instead of the repository's. Not idempotent.

        Raises `CircleCiError` with code `InlineConfigForbidden` where the organization or project does not allow it.
        """
        ...

    def rerun_workflow(self, workflow_id: str, *, from_failed: bool) -> str:
        """Run a workflow again, whole or from where it failed, and answer the new one's id. Not idempotent."""
        ...

    def cancel_workflow(self, workflow_id: str) -> None:
        """Cancel what still runs of a workflow; one that is over raises nothing."""
        ...

    def set_running_disabled(self, organization: Organization, *, disabled: bool) -> None:
        """Block or allow all new work of the organization; what runs goes on. Idempotent."""
        ...

    def create_checkout_key(self, project: Project, kind: str) -> StoredSecret:
        """Make a `deploy-key` or `user-key`. Not idempotent; standalone projects answer 400."""
        ...

    def delete_checkout_key(self, project: Project, fingerprint: str) -> None:
        """Remove a checkout key from CircleCI, not from the code host; one that is not there raises nothing."""
        ...

    def delete_ssh_key(self, project: Project, hostname: str, fingerprint: str) -> None:
        """Remove an additional SSH key; one that is not there raises nothing."""
        ...

    def delete_project_token(self, project: Project, token_id: str) -> None:
        """Revoke a project API token; one that is not there raises nothing."""
        ...

    def delete_runner_token(self, token_id: str) -> None:
        """Revoke a runner token; one that is not there raises nothing."""
        ...

    def set_webhook_secret(self, webhook_id: str, value: Secret) -> None:
        """Give a webhook a new signing secret; both spellings of the field are sent (facts/circleci 4.5)."""
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

    def accepts(self, credential: Credential, service: str, region: str) -> bool | None:
        """Whether a service CI uses (`ecr`, `s3`) accepts this new credential's signature; None: it cannot be told.

        A refusal for want of permission is an acceptance: the signature was checked before it.
        """
        ...

    def past(self, key: str) -> tuple[Attempt, ...]:
        """The intents so far of the action with this key, oldest first."""
        ...

    def verdict(self, key: str) -> Evidence | None:
        """The evidence of the action's `Verified`, when that is its last word; a gate passed by hand says so in it."""
        ...

    def looks(self, key: str) -> tuple[Evidence, ...]:
        """The evidence of this process's earlier looks at an action that was pending, oldest first."""
        ...

    def share(self, name: str, read: Callable[[], R], *, since: float) -> R | None:
        """A reading that lanes have in common, if one of this name began at `since` (`Clock.monotonic`) or later.

        Else it is made now, by this caller. None: another lane is at it; look again a little later.
        """
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
    accepts: Callable[[Credential, str, str], bool | None] = field(default=lambda _credential, _service, _region: None)
    """Asks a service, in a region, whether it accepts the credential's signature."""
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
