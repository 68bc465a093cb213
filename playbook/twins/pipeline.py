"""A CI job on the twin: it resolves its environment as CircleCI does and signs with what it finds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.ports import Sink, SinkKind
from playbook.twins.iam_keys import Standing, standing, use
from playbook.twins.state import Account, Key, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.twins.remote import Remote
    from playbook.twins.state import Context, StoredProject, Variable

ID_VARIABLE: Final = "AWS_ACCESS_KEY_ID"
SECRET_VARIABLE: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  # the name of a variable
TAIL: Final = 4
"""Characters of a key id that CircleCI shows."""


class Failure(StrEnum):
    """Why a job cannot use AWS."""

    NO_SUCH_PROJECT = "no such project"
    UNAUTHORIZED = "a context does not let this project use it"
    NO_CREDENTIALS = "a variable is missing"
    UNKNOWN_KEY = "the key is in no account"
    AMBIGUOUS = "several keys have this tail"
    MISMATCH = "id and secret do not belong together"
    INACTIVE = "the key is inactive"
    DELETED = "the key is deleted"
    NOT_PROPAGATED = "the key is not accepted yet"


@dataclass(frozen=True, kw_only=True)
class PipelineRun:
    """What a job reports: who it is to AWS, or why it is nobody; and where its two variables came from."""

    project: str
    contexts: tuple[str, ...]
    failure: Failure | None = None
    account: str = ""
    user: str = ""
    key_tail: str = ""
    """The last four characters of the key id it signed with."""
    id_from: Sink | None = None
    secret_from: Sink | None = None
    shadowed: tuple[Sink, ...] = ()
    """The sinks whose pair, or half of one, another sink's value hides."""
    unproven: tuple[str, ...] = ()
    """Contexts restricted by a group or an expression, which the twin cannot evaluate and lets pass."""

    @property
    def passed(self) -> bool:
        """Whether the job could sign."""
        return self.failure is None


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The key that a stored pair belongs to, or why it belongs to none."""

    account: Account | None = None
    key: Key | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Who a job is to AWS with a stored pair, or why it is nobody."""

    failure: Failure | None = None
    account: str = ""
    user: str = ""
    key_id: str = ""


def sign(world: Remote, key_id: Variable, secret: Variable) -> Signed:
    """Sign a request with a stored pair: at the twin's own AWS, or at the one that is served beside it."""
    if world.sign is not None:
        return world.sign(key_id.value, secret.value)
    who = owner(world, key_id, secret)
    failure = who.failure or _failure_of(world, who.key)
    if who.key is not None and failure is None:
        use(world, who.key)
    return Signed(
        failure=failure,
        account=who.account.id if who.account is not None else "",
        user=who.key.user if who.key is not None else "",
        key_id=who.key.id if who.key is not None else "",
    )


def owner(world: Remote, key_id: Variable, secret: Variable) -> Owner:
    """Find the key of a stored pair.

    A known id is compared by its digest. An opaque one counts as the key whose id ends with its tail, if exactly one
    does, and its secret as that key's as long as it has not been written here: half a pair written is a torn pair.
    """
    holders = [
        (account, key)
        for account in world.state.accounts.values()
        for key in account.keys.values()
        if _is_id_of(key_id, key)
    ]
    if len(holders) != 1:
        return Owner(failure=Failure.AMBIGUOUS if holders else Failure.UNKNOWN_KEY)
    account, key = holders[0]
    if not _is_secret_of(secret.value, key, id_is_known=key_id.value.sha256 is not None):
        return Owner(failure=Failure.MISMATCH)
    return Owner(account=account, key=key)


def _is_id_of(variable: Variable, key: Key) -> bool:
    value = variable.value
    if value.sha256 is not None:
        return value.sha256 == hashlib.sha256(key.id.encode()).hexdigest()
    # What was stored before a key existed cannot hold it, however its tail ends.
    return key.changes[0].at <= variable.written_at and bool(value.tail) and key.id[-TAIL:] == value.tail


def _is_secret_of(value: Value, key: Key, *, id_is_known: bool) -> bool:
    own = key.secret or Value(tail=None)
    if value.sha256 is not None:
        return value.sha256 == own.sha256
    return not id_is_known and (value.tail is None or own.tail is None or value.tail == own.tail)


def run(
    world: Remote,
    project: StoredProject,
    contexts: Sequence[Context],
    *,
    id_variable: str = ID_VARIABLE,
    secret_variable: str = SECRET_VARIABLE,
) -> PipelineRun:
    """Run one job: project variables first, then each context in its listed order, the later hiding the earlier."""
    names = tuple(context.name for context in contexts)
    if not all(admits(context, project) for context in contexts):
        return PipelineRun(project=project.slug, contexts=names, failure=Failure.UNAUTHORIZED)
    unproven = tuple(
        context.name for context in contexts if any(item.kind != "project" for item in context.restrictions)
    )
    ids, secrets = found(project, contexts, id_variable), found(project, contexts, secret_variable)
    if not ids or not secrets:
        missing = Failure.NO_CREDENTIALS
        return PipelineRun(project=project.slug, contexts=names, failure=missing, unproven=unproven)
    who = sign(world, ids[-1][1], secrets[-1][1])
    return PipelineRun(
        project=project.slug,
        contexts=names,
        failure=who.failure,
        account=who.account,
        user=who.user,
        key_tail=who.key_id[-TAIL:],
        id_from=ids[-1][0],
        secret_from=secrets[-1][0],
        shadowed=tuple(_unique(sink for sink, _ in (*ids[:-1], *secrets[:-1]))),
        unproven=unproven,
    )


def found(project: StoredProject, contexts: Sequence[Context], name: str) -> list[tuple[Sink, Variable]]:
    """Where a job finds a variable, the last of which is what it gets."""
    sources = [(project_sink(project), project.variables), *((context_sink(item), item.variables) for item in contexts)]
    return [(sink, variables[name]) for sink, variables in sources if name in variables]


def admits(context: Context, project: StoredProject) -> bool:
    """Whether the context's project restrictions let this project use it."""
    allowed = [item.value for item in context.restrictions if item.kind == "project"]
    return not allowed or project.id in allowed


def _failure_of(world: Remote, key: Key | None) -> Failure | None:
    if key is None:
        return Failure.UNKNOWN_KEY
    return {
        Standing.ACCEPTED: None,
        Standing.INACTIVE: Failure.INACTIVE,
        Standing.DELETED: Failure.DELETED,
        Standing.NOT_PROPAGATED: Failure.NOT_PROPAGATED,
    }[standing(world, key)]


def _unique(sinks: Iterable[Sink]) -> list[Sink]:
    return list({(sink.kind, sink.id): sink for sink in sinks}.values())


def context_sink(context: Context) -> Sink:
    """The noun of `ports` for a stored context."""
    return Sink(kind=SinkKind.CONTEXT, id=context.id, name=context.name, organization=context.organization)


def project_sink(project: StoredProject) -> Sink:
    """The noun of `ports` for a stored project."""
    return Sink(kind=SinkKind.PROJECT, id=project.slug, name=project.slug, organization=project.organization)
