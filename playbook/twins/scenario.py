"""The worlds that a rehearsal ships: a TOML file names the organisation, its labels become ids and tails.

Nothing in a scenario is a secret: an access key is a label, its id is drawn from the label's digest, and what the
variables hold is opaque from the start, as it would be in a live world.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import uuid
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from playbook.decoding import met
from playbook.errors import UsageError
from playbook.ports import KeyStatus
from playbook.twins import scenario_rights as rights
from playbook.twins import state as states
from playbook.twins.state import ALWAYS, Change, State, Use, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIX: Final = ".toml"
ANSWERS_SUFFIX: Final = ".answers.toml"
EVERYONE: Final = "everyone"
_FOLDER: Final = "scenarios"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A world to begin with, and the answers that take the whole playbook through it."""

    name: str
    title: str
    state: State
    answers: str
    """The text of an answers file."""


def names() -> tuple[str, ...]:
    """The scenarios that ship, sorted."""
    files = (item.name for item in (resources.files(__package__) / _FOLDER).iterdir())
    return tuple(
        sorted(
            name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX) and not name.endswith(ANSWERS_SUFFIX)
        )
    )


def load(name: str) -> Scenario:
    """Build a shipped scenario's world anew."""
    if name not in names():
        raise UsageError(
            f"There is no scenario {name!r}.", remedy=f"Choose one of those that ship: {', '.join(names())}."
        )
    folder = resources.files(__package__) / _FOLDER
    text = (folder / f"{name}{SUFFIX}").read_text(encoding="utf-8")
    answers = (folder / f"{name}{ANSWERS_SUFFIX}").read_text(encoding="utf-8")
    described = msgspec.toml.decode(text, type=met(_World))
    return Scenario(name=name, title=described.title, state=_Builder(name, described).state(), answers=answers)


def state_from_text(name: str, text: str) -> State:
    """Build a world from a scenario's text; `name` is what its made-up ids are drawn from."""
    try:
        described = msgspec.toml.decode(text, type=met(_World))
    except msgspec.MsgspecError as error:
        raise UsageError(f"The scenario {name} cannot be read: {error}.", remedy="Correct the file.") from None
    return _Builder(name, described).state()


# --- The file's form ----------------------------------------------------------------------------------------------


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Key(_Strict):
    label: str
    created: datetime
    status: KeyStatus = KeyStatus.ACTIVE
    last_used: datetime | None = None
    service: str = ""
    region: str = ""


class _User(_Strict):
    name: str
    created: datetime
    tags: dict[str, str] = {}
    policies: tuple[str, ...] = ()
    """The names of managed policies; those the account does not describe are AWS's own."""
    inline: dict[str, str] = {}
    """Policies as JSON, by name."""
    groups: tuple[str, ...] = ()
    boundary: str = ""
    reach: tuple[str, ...] = ()
    keys: tuple[_Key, ...] = ()
    footholds: tuple[rights.DescribedFoothold, ...] = ()
    accessed: dict[str, datetime] = {}
    """By service: when it was tried last."""


class _Account(_Strict):
    id: str
    operator: str
    """The operator's ARN from the part after the account on."""
    signs_with: str = ""
    """The label of the access key that the operator signs with; empty for a role session."""
    denied: tuple[str, ...] = ()
    users: tuple[_User, ...] = ()
    groups: tuple[rights.DescribedGroup, ...] = ()
    policies: tuple[rights.DescribedPolicy, ...] = ()
    roles: tuple[rights.DescribedRole, ...] = ()
    providers: tuple[rights.DescribedProvider, ...] = ()
    events: tuple[rights.DescribedEvent, ...] = ()
    quotas: dict[str, int] = {}
    """What the account's summary says, where it differs from AWS's defaults."""


class _Variable(_Strict):
    name: str
    written: datetime
    created: datetime | None = None
    id_of: str = ""
    secret_of: str = ""
    text: str = ""
    """The text of a setting that is no secret; without any of the three the variable holds a made-up secret."""


class _Restriction(_Strict):
    """One of the three."""

    project: str = ""
    group: str = ""
    """`everyone` is the group of all members, which restricts nothing."""
    expression: str = ""


class _Claims(_Strict):
    updated: datetime
    audience: tuple[str, ...] = ()
    ttl: str = ""


class _RunnerToken(_Strict):
    nickname: str
    created: datetime


class _RunnerClass(_Strict):
    name: str
    """`namespace/name`."""
    tokens: tuple[_RunnerToken, ...] = ()


class _Organization(_Strict):
    slug: str
    name: str
    inline_config: bool = False
    """Whether pipelines may bring their own configuration, which is how a canary runs."""
    running_disabled: bool = False
    runners: tuple[_RunnerClass, ...] = ()
    claims: _Claims | None = None


class _Context(_Strict):
    name: str
    organization: str
    created: datetime
    variables: tuple[_Variable, ...] = ()
    restrictions: tuple[_Restriction, ...] = ()


class _CheckoutKey(_Strict):
    created: datetime
    type: Literal["deploy-key", "github-user-key", "bitbucket-user-key"] = "deploy-key"


class _SshKey(_Strict):
    hostname: str


class _Token(_Strict):
    label: str
    created: datetime
    scope: Literal["status", "view-builds", "all"] = "all"


class _Webhook(_Strict):
    name: str
    url: str
    created: datetime
    updated: datetime | None = None
    signed: bool = True


class _Trigger(_Strict):
    name: str
    created: datetime
    provider: str = "webhook"
    sender: str = ""


class _Run(_Strict):
    number: int
    created: datetime
    branch: str = "main"
    compiled: str = ""
    setup: str = ""
    error: str = ""


class _Job(_Strict):
    name: str
    started: datetime | None = None
    stopped: datetime | None = None
    """Without it a job that started is still running."""
    status: str = "success"
    contexts: tuple[str, ...] = ()
    signs_with: tuple[str, str] | None = None
    """The variables with the id and the secret of the key that it uses AWS with."""
    role: str = ""
    """The ARN of the role that it uses AWS as."""


class _Workflow(_Strict):
    name: str
    created: datetime
    jobs: tuple[_Job, ...]
    branch: str = "main"


class _Project(_Strict):
    slug: str
    deleted: bool = False
    default_branch: str = "main"
    inline_config: bool | None = None
    """Without it, as the organization."""
    forks_receive_secrets: bool = False
    workflows: tuple[_Workflow, ...] = ()
    """What ran or runs, oldest first, each in a pipeline of its own."""
    variables: tuple[_Variable, ...] = ()
    checkout_keys: tuple[_CheckoutKey, ...] = ()
    """The last one is preferred."""
    ssh_keys: tuple[_SshKey, ...] = ()
    legacy_aws_key: str = ""
    """The label of the access key that the old AWS integration holds."""
    tokens: tuple[_Token, ...] = ()
    webhooks: tuple[_Webhook, ...] = ()
    triggers: tuple[_Trigger, ...] = ()
    """All of the project's one pipeline definition."""
    runs: tuple[_Run, ...] = ()
    """Pipelines of which only the configuration is known."""
    claims: _Claims | None = None


class _World(_Strict):
    title: str
    now: datetime
    login: str
    accounts: tuple[_Account, ...]
    organizations: tuple[_Organization, ...]
    strangers: tuple[str, ...] = ()
    """Labels of keys that variables hold and no account knows."""
    contexts: tuple[_Context, ...] = ()
    projects: tuple[_Project, ...] = ()


# --- From the file to a world ---------------------------------------------------------------------------------------


class _Builder:
    def __init__(self, name: str, described: _World) -> None:
        self._name = name
        self._described = described
        keys = [key.label for account in described.accounts for user in account.users for key in user.keys]
        self._labels = frozenset((*keys, *described.strangers))

    def state(self) -> State:
        described = self._described
        return states.State(
            now=described.now,
            accounts={account.id: self._account(account) for account in described.accounts},
            circleci=states.CircleCiState(
                login=described.login,
                organizations={item.slug: self._organization(item) for item in described.organizations},
                contexts={context.id: context for context in map(self._context, described.contexts)},
                projects={project.slug: self._project(project) for project in described.projects},
                pipelines={item.id: item for project in described.projects for item in self._pipelines(project)},
            ),
        )

    def _account(self, described: _Account) -> states.Account:
        service = "sts" if described.operator.startswith("assumed-role/") else "iam"
        users = {
            user.name: states.IamUser(
                name=user.name,
                arn=f"arn:aws:iam::{described.id}:user/{user.name}",
                created_at=user.created,
                tags=user.tags,
                policies=user.policies,
                inline=rights.documents(user.inline),
                groups=user.groups,
                boundary=user.boundary,
                reach=user.reach,
                footholds=tuple(map(rights.foothold, user.footholds)),
            )
            for user in described.users
        }
        keys = (self._key(user.name, key) for user in described.users for key in user.keys)
        account = states.Account(
            id=described.id,
            operator_arn=f"arn:aws:{service}::{described.id}:{described.operator}",
            own_key_id=self._id_of(described.signs_with) if described.signs_with else "",
            users=users,
            keys={key.id: key for key in keys},
            denied=list(described.denied),
            accessed={users[user.name].arn: dict(user.accessed) for user in described.users if user.accessed},
            summary=described.quotas,
        )
        self._add_rights(account, described)
        return account

    def _add_rights(self, account: states.Account, described: _Account) -> None:
        arns = rights.add(account, described.policies)
        for group in described.groups:
            rights.add_group(account, group, arns)
        for role in described.roles:
            rights.add_role(account, role, arns)
        for provider in described.providers:
            rights.add_provider(account, provider)
        for number, item in enumerate(described.events):
            event_id = self._uuid(f"event {described.id} {number}")
            account.trail.append(rights.event(item, event_id, self._id_of, self._session_id_of))

    def _key(self, user: str, described: _Key) -> states.Key:
        changes = [Change(at=ALWAYS, status=KeyStatus.ACTIVE)]
        if described.status is not KeyStatus.ACTIVE:
            changes.append(Change(at=ALWAYS, status=described.status))
        used = described.last_used
        return states.Key(
            id=self._id_of(described.label),
            user=user,
            created_at=described.created,
            changes=changes,
            secret=Value(tail=self._made_up(f"secret of {described.label}")[-4:]),
            last_used=None if used is None else Use(at=used, service=described.service, region=described.region),
        )

    def _organization(self, described: _Organization) -> states.StoredOrganization:
        return states.StoredOrganization(
            id=self._uuid(described.slug),
            slug=described.slug,
            name=described.name,
            runner_classes=[
                states.RunnerClass(
                    id=self._uuid(f"runner {item.name}"),
                    name=item.name,
                    tokens=[
                        states.RunnerToken(
                            id=self._uuid(f"runner token {item.name} {token.nickname}"),
                            nickname=token.nickname,
                            created_at=token.created,
                        )
                        for token in item.tokens
                    ],
                )
                for item in described.runners
            ],
            claims=_claims(described.claims),
            inline_config=described.inline_config,
            running_disabled=described.running_disabled,
        )

    def _context(self, described: _Context) -> states.Context:
        return states.Context(
            id=self._uuid(f"context {described.organization}/{described.name}"),
            name=described.name,
            organization=described.organization,
            created_at=described.created,
            variables=self._variables(described.name, described.variables),
            restrictions=[self._restriction(described, item) for item in described.restrictions],
        )

    def _restriction(self, context: _Context, described: _Restriction) -> states.ContextRestriction:
        named = [(kind, value) for kind, value in msgspec.structs.asdict(described).items() if value]
        if len(named) != 1:
            raise UsageError(
                f"A restriction of the context {context.name} in the scenario {self._name} is not one thing.",
                remedy="Write exactly one of project, group and expression.",
            )
        kind, value = named[0]
        number = self._uuid(f"restriction {context.name} {value}")
        if kind == "project":
            value = self._uuid(value)
        elif kind == "group":
            value = self._uuid(context.organization if value == EVERYONE else f"group {value}")
        return states.ContextRestriction(id=number, kind=kind, value=value)

    def _project(self, described: _Project) -> states.StoredProject:
        organization = described.slug.rpartition("/")[0]
        variables = self._variables(described.slug, described.variables)
        for variable in variables.values():
            variable.updated_at = None
        return states.StoredProject(
            id=self._uuid(described.slug),
            slug=described.slug,
            organization=organization,
            deleted=described.deleted,
            variables=variables,
            checkout_keys=[
                states.CheckoutKey(
                    fingerprint=self._fingerprint(f"checkout key {described.slug} {number}"),
                    type=item.type,
                    preferred=number == len(described.checkout_keys),
                    created_at=item.created,
                )
                for number, item in enumerate(described.checkout_keys, 1)
            ],
            ssh_keys=[
                states.SshKey(
                    fingerprint=self._fingerprint(f"ssh key {described.slug} {item.hostname}"), hostname=item.hostname
                )
                for item in described.ssh_keys
            ],
            legacy_aws=states.LegacyAwsKeys(access_key_id=self._id_of(described.legacy_aws_key))
            if described.legacy_aws_key
            else None,
            tokens=[self._token(described.slug, item) for item in described.tokens],
            webhooks=[self._webhook(described.slug, item) for item in described.webhooks],
            definitions=[] if described.deleted else [self._definition(described)],
            claims=_claims(described.claims),
            default_branch=described.default_branch,
            inline_config=self._allows_inline(described),
            forks_receive_secrets=described.forks_receive_secrets,
        )

    def _token(self, slug: str, described: _Token) -> states.ProjectToken:
        return states.ProjectToken(
            id=self._uuid(f"token {slug} {described.label}"),
            label=described.label,
            scope=described.scope,
            created_at=described.created,
        )

    def _webhook(self, slug: str, described: _Webhook) -> states.Webhook:
        return states.Webhook(
            id=self._uuid(f"webhook {slug} {described.name}"),
            name=described.name,
            url=described.url,
            has_secret=described.signed,
            created_at=described.created,
            updated_at=described.updated or described.created,
        )

    def _allows_inline(self, described: _Project) -> bool:
        if described.inline_config is not None:
            return described.inline_config
        owner = described.slug.rpartition("/")[0]
        return any(item.inline_config for item in self._described.organizations if item.slug == owner)

    def _definition(self, described: _Project) -> states.PipelineDefinition:
        """The one definition of a project, with all its triggers."""
        return states.PipelineDefinition(
            id=self._uuid(f"definition {described.slug}"),
            name="build",
            created_at=min((item.created for item in described.triggers), default=None),
            triggers=[self._trigger(described.slug, item) for item in described.triggers],
        )

    def _pipelines(self, described: _Project) -> list[states.RunPipeline]:
        made: list[states.RunPipeline] = []
        job_numbers = itertools.count(1)
        for number, workflow in enumerate(described.workflows, 1):
            place = f"{described.slug} {number}"
            stored = states.RunWorkflow(
                id=self._uuid(f"workflow {place}"),
                name=workflow.name,
                created_at=workflow.created,
                jobs=[self._job(place, item, job_numbers) for item in workflow.jobs],
            )
            made.append(
                states.RunPipeline(
                    id=self._uuid(f"pipeline {place}"),
                    project=described.slug,
                    number=number,
                    created_at=workflow.created,
                    branch=workflow.branch,
                    workflows=[stored],
                )
            )
        return [*made, *(self._run(described.slug, item) for item in described.runs)]

    def _run(self, slug: str, described: _Run) -> states.RunPipeline:
        return states.RunPipeline(
            id=self._uuid(f"run {slug} {described.number}"),
            project=slug,
            number=described.number,
            created_at=described.created,
            branch=described.branch,
            errors=(described.error,) if described.error else (),
            compiled=described.compiled,
            compiled_setup=described.setup,
        )

    def _job(self, place: str, described: _Job, numbers: Iterator[int]) -> states.RunJob:
        id_variable, secret_variable = described.signs_with or ("", "")
        signing = states.Signing(id_variable=id_variable, secret_variable=secret_variable, role_arn=described.role)
        return states.RunJob(
            id=self._uuid(f"job {place} {described.name}"),
            name=described.name,
            number=None if described.started is None else next(numbers),
            contexts=described.contexts,
            signing=signing if id_variable or described.role else None,
            status=described.status,
            started_at=described.started,
            stopped_at=described.stopped,
        )

    def _trigger(self, slug: str, described: _Trigger) -> states.Trigger:
        number = self._uuid(f"trigger {slug} {described.name}")
        is_webhook = described.provider == "webhook"
        return states.Trigger(
            id=number,
            provider=described.provider,
            url=f"https://internal.circleci.com/private/soc/e/{number}" if is_webhook else "",
            sender=described.sender,
            event_name=described.name,
            created_at=described.created,
        )

    def _variables(self, place: str, described: Iterable[_Variable]) -> dict[str, states.Variable]:
        return {
            item.name: states.Variable(
                value=self._value(place, item), created_at=item.created or item.written, updated_at=item.written
            )
            for item in described
        }

    def _value(self, place: str, described: _Variable) -> Value:
        if described.id_of:
            return Value.opaque(self._id_of(described.id_of))
        if described.secret_of:
            self._require(described.secret_of)
            return Value.opaque(self._made_up(f"secret of {described.secret_of}"))
        return Value.opaque(described.text or self._made_up(f"{place} {described.name}"))

    def _require(self, label: str) -> None:
        if label not in self._labels:
            raise UsageError(
                f"The scenario {self._name} speaks of a key {label!r} that no account and no stranger has.",
                remedy="Correct the label, or add it to `strangers`.",
            )

    def _id_of(self, label: str) -> str:
        self._require(label)
        return "AKIA" + base64.b32encode(self._digest(f"id of {label}"))[:16].decode()

    def _session_id_of(self, label: str) -> str:
        return "ASIA" + base64.b32encode(self._digest(f"session {label}"))[:16].decode()

    def _made_up(self, what: str) -> str:
        return base64.b64encode(self._digest(what))[:40].decode()

    def _uuid(self, what: str) -> str:
        return str(uuid.UUID(bytes=self._digest(f"uuid of {what}")[:16], version=4))

    def _fingerprint(self, what: str) -> str:
        return self._digest(what)[:16].hex(":")

    def _digest(self, what: str) -> bytes:
        return hashlib.sha256(f"{self._name}: {what}".encode()).digest()


def _claims(described: _Claims | None) -> states.Claims | None:
    if described is None:
        return None
    return states.Claims(
        audience=described.audience,
        audience_updated_at=described.updated if described.audience else None,
        ttl=described.ttl,
        ttl_updated_at=described.updated if described.ttl else None,
    )
