"""Build a twin of a world by reading it, for a dry run: what the readers show is all that it knows.

Values stay opaque. A read that is refused is refused by the twin too, so that a dry run has the same holes; what was
left out on purpose (another organization) is refused as well, never shown as empty. What most rehearsals do not need
is read when the twin is asked for it: pipelines (`live_reads`), roles, policies, identity providers and the trail.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from playbook.credential_report import last_uses, to_ask
from playbook.errors import ServiceError
from playbook.ports import KeyStatus, SecretKind
from playbook.twins import rows
from playbook.twins import state as states
from playbook.twins.circleci_calls import canonical
from playbook.twins.iam_calls import PERMISSIONS
from playbook.twins.live_reads import READS
from playbook.twins.refusals import NOT_MIRRORED
from playbook.twins.state import ALWAYS, Change, Refusal, Use, Value
from playbook.twins.world import TwinWorld

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from playbook.ports import (
        AccessKey,
        AwsReader,
        CircleCiReader,
        KeyListing,
        LastUsed,
        Organization,
        Platforms,
        Project,
        Restriction,
        Sink,
        User,
        Variables,
    )
    from playbook.twins.faults import Faults
    from playbook.twins.switches import Switches

T = TypeVar("T")
R = TypeVar("R")

LATER: Final = ("details", "providers")
"""What of an account is read when the twin is first asked for it."""
QUOTA: Final = "AccessKeysPerUserQuota"
SKEW_MIN_S: Final = 2.0
"""A smaller difference is the seconds of a `Date` header and the time of the call, not a clock that is wrong."""


class Gather(Protocol):
    """How many reads are made side by side; the results come in order."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Sequence[R]:
        """Map over the items."""
        ...


def one_by_one(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Gather without any concurrency."""
    return [function(item) for item in items]


@dataclass(frozen=True, kw_only=True)
class _Refused:
    refusal: Refusal


def mirror(
    platforms: Platforms,
    *,
    accounts: Iterable[str],
    organizations: Iterable[str],
    gather: Gather = one_by_one,
    actions: Iterable[str] = (),
    kinds: Iterable[SecretKind] = SecretKind,
    path: Path | None = None,
    switches: Switches | None = None,
    faults: Faults | None = None,
    rng: random.Random | None = None,
) -> TwinWorld:
    """Read these accounts and organizations (by slug) and build their twin.

    `actions` are further IAM actions to ask the policy simulator about, so that the twin can answer for them.
    `kinds` are the kinds of secret to read besides variables; the twin has a hole for each that was left out.
    A rejected credential is raised; everything else that cannot be read becomes a hole of the twin.
    """
    wanted = sorted({*chain.from_iterable(PERMISSIONS.values()), *actions})
    state = states.State(now=platforms.clock.now())
    wanted_organizations = {canonical(slug) for slug in organizations}
    state.circleci = _circleci(platforms.circleci, wanted_organizations, frozenset(kinds), gather)
    tails = _tails(state.circleci)
    for account in accounts:
        state.accounts[account] = _account(platforms, account, wanted, tails, gather)
    twin = TwinWorld(state, path=path, switches=switches, faults=faults, rng=rng, live=platforms.aws)
    twin.mirrored = platforms.circleci
    return twin


def _try(read: Callable[[], T]) -> T | _Refused:
    try:
        return read()
    except ServiceError as error:
        return _Refused(refusal=Refusal(code=error.code, status=error.status))


# --- AWS ----------------------------------------------------------------------------------------------------------


def _tails(circleci: states.CircleCiState) -> frozenset[str]:
    """The tails of everything that may be an access key id."""
    stored = [context.variables for context in circleci.contexts.values()]
    stored += [project.variables for project in circleci.projects.values()]
    tails = {variable.value.tail or "" for variables in stored for variable in variables.values()}
    legacy = (project.legacy_aws for project in circleci.projects.values())
    return frozenset(tails | {pair.access_key_id[-4:] for pair in legacy if pair is not None})


def _account(
    platforms: Platforms, account: str, actions: Sequence[str], tails: frozenset[str], gather: Gather
) -> states.Account:
    reader: AwsReader = platforms.aws[account]
    who = reader.identity()
    made = states.Account(id=account, operator_arn=who.arn, own_key_id=reader.own_key_id(), unread=list(LATER))
    _permissions(made, reader, actions)
    users = _keep(made.refusals, "users:", _try(reader.users)) or ()
    described = _keep(made.refusals, "described_users:", _try(reader.described_users)) or ()
    made.users = {user.name: _user(user) for user in (*users, *described)}
    listings = gather(lambda user: _try(lambda: reader.access_keys(user.name)), users)
    for user, listing in zip(users, listings, strict=True):
        _add_keys(made, _keep(made.refusals, f"access_keys:{user.name}", listing))
    _last_uses(made, reader, [key for item in listings for key in _keys(item)], tails, gather)
    if users:
        since = platforms.clock.now()
        _keep(made.refusals, "key_creations:*", _try(lambda: reader.key_creations(users[0].name, since)))
    made.skew_s = _skew(platforms, listings)
    return made


def _permissions(made: states.Account, reader: AwsReader, actions: Sequence[str]) -> None:
    summary = _keep(made.refusals, "summary:", _try(reader.summary))
    if summary is not None:
        made.summary = dict(summary)
        made.quota = summary.get(QUOTA, made.quota)
    allowed = _keep(made.refusals, "simulate:", _try(lambda: reader.simulate(actions)))
    made.can_simulate = allowed is not None
    made.simulated = dict(allowed or {})


def _user(user: User) -> states.IamUser:
    return states.IamUser(
        name=user.name,
        arn=user.arn,
        created_at=user.created_at,
        tags=dict(user.tags),
        policies=user.policies,
        inline_policies=user.inline_policies,
        groups=user.groups,
        boundary=user.boundary,
        reach=user.reach,
    )


def _add_keys(made: states.Account, listing: KeyListing | None) -> None:
    for key in listing.keys if listing is not None else ():
        made.keys[key.id] = _key(key)


def _key(key: AccessKey) -> states.Key:
    changes = [Change(at=ALWAYS, status=KeyStatus.ACTIVE)]
    if key.status is not KeyStatus.ACTIVE:
        changes.append(Change(at=ALWAYS, status=key.status))
    return states.Key(id=key.id, user=key.user, created_at=key.created_at, changes=changes)


def _keys(listing: KeyListing | _Refused) -> tuple[AccessKey, ...]:
    return () if isinstance(listing, _Refused) else listing.keys


def _last_uses(
    made: states.Account, reader: AwsReader, keys: Sequence[AccessKey], tails: frozenset[str], gather: Gather
) -> None:
    """As an inventory reads them: from the report, but for those that `to_ask` names."""
    report = _try(reader.credential_report)
    known = {} if isinstance(report, _Refused) else last_uses(report, keys)
    asked = to_ask(keys, known, tails, len(made.users))
    for key_id, used in known.items():
        made.keys[key_id].last_used = _use(used)
    for key, answer in zip(asked, gather(lambda key: _try(lambda: reader.last_used(key.id)), asked), strict=True):
        made.keys[key.id].last_used = _use(_keep(made.refusals, f"last_used:{key.id}", answer))


def _use(used: LastUsed | None) -> Use | None:
    if used is None or used.at is None:
        return None
    return Use(at=used.at, service=used.service, region=used.region)


def _skew(platforms: Platforms, listings: Sequence[KeyListing | _Refused]) -> float:
    answered = next((item for item in reversed(listings) if not isinstance(item, _Refused)), None)
    if answered is None:
        return 0.0
    skew_s = (answered.server_time - platforms.clock.now()).total_seconds()
    return skew_s if abs(skew_s) > SKEW_MIN_S else 0.0


def _keep(refusals: dict[str, Refusal], place: str, answer: T | _Refused) -> T | None:
    """Unwrap an answer; a refusal goes where the twin will refuse."""
    if isinstance(answer, _Refused):
        refusals[place] = answer.refusal
        return None
    return answer


# --- CircleCI -------------------------------------------------------------------------------------------------------


def _circleci(
    reader: CircleCiReader, wanted: set[str], kinds: frozenset[SecretKind], gather: Gather
) -> states.CircleCiState:
    made = states.CircleCiState(host=reader.host, login=reader.login())
    visible = reader.organizations()
    for item in visible:
        made.organizations[item.slug] = states.StoredOrganization(id=item.id, slug=item.slug, name=item.name)
    asked = [item for item in visible if canonical(item.slug) in wanted]
    for item in visible:
        if item not in asked:
            for operation in ("contexts", "projects", "running_disabled"):
                made.refusals[f"{operation}:{item.slug}"] = Refusal(code=NOT_MIRRORED)
            made.organizations[item.slug].missed = _left_out(rows.OF_ORGANIZATIONS, item.slug)
    _blocks(made, reader, asked, gather)
    contexts = _contexts(made, reader, asked, gather)
    _read_contexts(made, reader, contexts, gather)
    projects = _projects(made, reader, asked, gather)
    _read_projects(made, reader, projects, kinds, gather)
    found = gather(lambda item: reader.organization_secrets(item, kinds), asked)
    for organization, secrets in zip(asked, found, strict=True):
        stored = made.organizations[organization.slug]
        rows.add_to_organization(stored, secrets)
        stored.missed += _left_out(rows.OF_ORGANIZATIONS - kinds, organization.slug)
    return made


def _blocks(made: states.CircleCiState, reader: CircleCiReader, asked: Sequence[Organization], gather: Gather) -> None:
    """Read whether new work is blocked. That a config of ours is allowed is told of projects, which are asked later."""
    answers = gather(lambda item: _try(lambda: reader.running_disabled(item)), asked)
    for organization, read in zip(asked, answers, strict=True):
        stored = made.organizations[organization.slug]
        stored.running_disabled = _keep(made.refusals, f"running_disabled:{organization.slug}", read)
        stored.inline_config = True


def _left_out(kinds: frozenset[SecretKind], place: str) -> list[states.MissedRead]:
    return [states.MissedRead(what=kind.value, where=place, why=NOT_MIRRORED) for kind in sorted(kinds)]


def _read_contexts(
    made: states.CircleCiState, reader: CircleCiReader, contexts: Sequence[Sink], gather: Gather
) -> None:
    variables = gather(lambda sink: _try(lambda: reader.variables(sink)), contexts)
    for sink, read in zip(contexts, variables, strict=True):
        kept = _keep(made.refusals, f"variables:{sink.id}", read)
        made.contexts[sink.id].variables = _variables(kept)
        made.contexts[sink.id].hides_more = kept is None or not kept.complete
    restrictions = gather(lambda sink: _try(lambda: reader.restrictions(sink)), contexts)
    for sink, found in zip(contexts, restrictions, strict=True):
        shown = _keep(made.refusals, f"restrictions:{sink.id}", found)
        made.contexts[sink.id].restrictions = [_restriction(item) for item in shown or ()]


def _read_projects(
    made: states.CircleCiState,
    reader: CircleCiReader,
    projects: Sequence[Project],
    kinds: frozenset[SecretKind],
    gather: Gather,
) -> None:
    """Read the projects' variables and whatever else of them is wanted."""
    asked = kinds | {SecretKind.PROJECT_VARIABLE}
    found = gather(lambda project: reader.project_secrets(project, asked), projects)
    stored = {item.id or item.slug: item for item in made.projects.values()}
    for project, secrets in zip(projects, found, strict=True):
        twin = stored[project.id or canonical(project.slug)]
        twin.variables = _variables(secrets.variables)
        rows.add_to_project(twin, secrets)
        twin.missed += _left_out(rows.OF_PROJECTS - asked, project.slug)
        for hole in secrets.holes:
            if hole.what == SecretKind.PROJECT_VARIABLE:
                made.refusals[f"variables:{project.slug}"] = _refusal(hole.why)


def _refusal(code: str) -> Refusal:
    """The refusal behind a hole, whose code has the status in it where there was one."""
    number = code.removeprefix("HTTP")
    return Refusal(code=code, status=int(number) if number.isdecimal() else None)


def _contexts(
    made: states.CircleCiState, reader: CircleCiReader, asked: Sequence[Organization], gather: Gather
) -> list[Sink]:
    sinks: list[Sink] = []
    for organization, read in zip(asked, gather(lambda item: _try(lambda: reader.contexts(item)), asked), strict=True):
        for sink in _keep(made.refusals, f"contexts:{organization.slug}", read) or ():
            made.contexts[sink.id] = states.Context(id=sink.id, name=sink.name, organization=sink.organization)
            sinks.append(sink)
    return sinks


def _projects(
    made: states.CircleCiState, reader: CircleCiReader, asked: Sequence[Organization], gather: Gather
) -> list[Project]:
    found: list[Project] = []
    for organization, read in zip(asked, gather(lambda item: _try(lambda: reader.projects(item)), asked), strict=True):
        projects = _keep(made.refusals, f"projects:{organization.slug}", read)
        if projects is None:
            continue
        made.organizations[organization.slug].holes = [
            states.MissedRead(what=hole.what, where=hole.where, why=hole.why) for hole in projects.holes
        ]
        # A slug that was given away again names the living project; the deleted one goes by its id.
        for project in sorted(projects.items, key=lambda item: item.deleted):
            slug = canonical(project.slug)
            made.projects[project.id if slug in made.projects else slug] = _project(project)
            found.append(project)
    return found


def _project(project: Project) -> states.StoredProject:
    return states.StoredProject(
        id=project.id,
        slug=project.slug,
        organization=project.organization,
        known_by=project.known_by,
        deleted=project.deleted,
        unread=() if project.deleted else tuple(READS),
    )


def _variables(read: Variables | None) -> dict[str, states.Variable]:
    return {
        item.name: states.Variable(value=Value(tail=item.tail), created_at=item.created_at, updated_at=item.updated_at)
        for item in (read.items if read is not None else ())
    }


def _restriction(item: Restriction) -> states.ContextRestriction:
    return states.ContextRestriction(id=item.id, kind=item.kind, value=item.value)
