"""Post-incident: look for what somebody left behind to come back by, in IAM and in CloudTrail; change nothing unasked.

Every finding says what, who, when, from where, and what to do. What this run made itself is known by the journal, not
by a name that anybody could use. A read that is refused is a hole with its name, never an all-clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from playbook.errors import AwsError, Effect
from playbook.model import Action, Choice, Finding, Phase, Plan, Question, Severity, Step
from playbook.persistence import changed_trusts, lookups, made_since, sightings
from playbook.ports import AccessKey, AccountDetails, Foothold, IdentityProvider, TrailEvent, TrailKey, display
from playbook.scope import ask_window
from steps.decisions import decide_keys
from steps.exposed_keys import HISTORY, to_contain, trace_holes, trace_keys, unread
from steps.iam_keys import DeactivateKey, minted, server_time
from steps.oidc_permissions import AttachRolePolicy, PutRolePolicy
from steps.oidc_providers import AddAudience, CreateProvider
from steps.session_policies import POLICY, RevokeRoleSessions, RevokeUserSessions
from steps.user_states import CREATE_KIND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from playbook.model import Ask, Case
    from playbook.persistence import Made, Sighting
    from playbook.ports import View
    from playbook.usage import Trace
    from steps.decisions import Decisions, KeyDecision

R = TypeVar("R")

LEAVE: Final = "leave"
DEACTIVATE: Final = "deactivate"
CHOICES: Final = (
    Choice(value=LEAVE, title="leave - I find out whose it is"),
    Choice(value=DEACTIVATE, title="deactivate - off now; it can be switched on again"),
)
SHOWN_MAX: Final = 100
"""Sightings of one account that are told one by one; the dangerous ones come first."""
CREATES: Final = ("iam:create-role:", "iam:create-policy:", "iam:create-provider:", "iam:create-oidc-provider:")
"""The keys of actions that bring something into being whose name the plan says."""
SAME_EFFECT: Final[Mapping[str, str]] = {
    "CreateOpenIDConnectProvider": CreateProvider.kind,
    "AddClientIDToOpenIDConnectProvider": AddAudience.kind,
    "AttachRolePolicy": AttachRolePolicy.kind,
}
"""Calls that say by their names alone what they do: whoever else made the same one did what was approved."""
AT_ONCE: Final = timedelta(seconds=5)
"""How far the event of a write of ours may be from the time that its answer carried."""
LATE: Final = timedelta(minutes=15)
"""CloudTrail delivers within about five minutes, without a promise (facts, AWS row 14)."""


class SweepForPersistence(Step):
    """Find new users, keys, roles, passwords, policies, trust changes and providers, and explain each."""

    id = "sweep_for_persistence"
    title = "Sweep for persistence"
    phase = Phase.POST_INCIDENT
    kinds = (DeactivateKey,)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Look everywhere, tell everything; a key that somebody made is switched off only where that is chosen."""
        decisions = decide_keys(view, case, ask)
        window = ask_window(ask)
        start = window.start if window is not None and window.start is not None else view.clock.now() - HISTORY
        traces = trace_keys(view, _suspects(decisions))
        findings = [*trace_holes(traces), *_reach(view, start)]
        actions: list[Action] = []
        for account in view.accounts:
            swept = _Account(view, account, start=start, traces=traces, decisions=decisions, case=case)
            findings += swept.findings()
            actions += swept.decide(ask)
        findings += _unrevoked(view, traces)
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _suspects(decisions: Decisions) -> tuple[KeyDecision, ...]:
    """The keys that are followed; where nothing happened only those that went off at once, for each costs look-ups."""
    contained = to_contain(decisions)
    if decisions.severity is Severity.ROUTINE:
        return contained
    exposed = [item for item in decisions.keys if item.places or item.doubtful or item.by_hand]
    return tuple(item for item in decisions.keys if item in contained or item in exposed)


def _reach(view: View, start: datetime) -> Iterator[Finding]:
    """What this search cannot see, in general."""
    now = view.clock.now()
    oldest = max(start, now - HISTORY).isoformat(timespec="minutes")
    text = (
        f"Searched: what IAM dates since {start.isoformat(timespec='minutes')}, and CloudTrail's management events "
        f"since {oldest}. Not seen: data events (objects read, functions called), the last minutes "
        f"(events come late; look again after {(now + LATE).isoformat(timespec='minutes')}), other services' own users."
    )
    yield Finding(level="note", text=text)


def _unrevoked(view: View, traces: Sequence[Trace]) -> Iterator[Finding]:
    """Roles that an exposed key assumed so late that no plan could know of them."""
    for trace in traces:
        for role in trace.roles:
            if role.account not in view.accounts or ":role/aws-service-role/" in role.arn:
                continue
            attempts = view.past(f"{RevokeRoleSessions.kind}:{role.account}/{role.name}")
            denied = [str(attempt.basis["cutoff"]) for attempt in attempts if attempt.applied is not None]
            if denied and max(denied) > role.at.isoformat():
                continue
            if role.at + timedelta(hours=12) > view.clock.now():
                text = (
                    f"The role {display(role.name)} in {role.account} was assumed with {trace.key_id} at "
                    f"{role.at.isoformat(timespec='minutes')}, and its sessions were not ended: begin a new case with "
                    "`contain` or `deactivate` for that key, or deny them by hand (runbook, revoke_sessions)."
                )
                yield Finding(level="danger", text=text)


# --- One account ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Everything read of one account."""

    details: AccountDetails | None = None
    providers: tuple[IdentityProvider, ...] = ()
    keys: tuple[AccessKey, ...] = ()
    footholds: Mapping[str, tuple[Foothold, ...]] = field(default_factory=dict)
    events: tuple[TrailEvent, ...] = ()


class _Account:
    def __init__(
        self, view: View, account: str, *, start: datetime, traces: Sequence[Trace], decisions: Decisions, case: Case
    ) -> None:
        self._view = view
        self._account = account
        self._start = start
        self._keys = tuple(item for item in decisions.keys if item.key.account == account)
        self._holes: list[Finding] = []
        self._tainted = frozenset(key_id for trace in traces for key_id in trace.followed)
        self._followed = tuple(event for trace in traces for event in trace.events)
        self._ours = _Ours(view, account, self._keys, case)
        self._read = self._look()
        self._sightings = tuple(
            item for item in sightings(self._made(), self._events()) if not self._ours.explains(item)
        )

    def _try(self, what: str, where: str, read: Callable[[], tuple[R, ...]]) -> tuple[R, ...]:
        try:
            return read()
        except AwsError as error:
            self._holes.append(unread(what, where, error))
            return ()

    def _look(self) -> _Seen:
        aws = self._view.aws(self._account)
        details = next(iter(self._try("users, roles and policies", self._account, lambda: (aws.details(),))), None)
        providers = self._try("identity providers", self._account, aws.providers)
        users = self._try("users", self._account, aws.users)
        listings = self._view.gather(self._listing, [user.name for user in users])
        events = self._view.gather(self._named, list(lookups()))
        found = tuple(event for some in events for event in some)
        touched = self._touched(details, found)
        return _Seen(
            details=details,
            providers=providers,
            keys=tuple(key for listed in listings for key in listed),
            footholds=dict(zip(touched, self._view.gather(self._footholds, touched), strict=True)),
            events=found,
        )

    def _listing(self, user: str) -> tuple[AccessKey, ...]:
        aws = self._view.aws(self._account)
        return self._try("access keys", f"{user} in {self._account}", lambda: aws.access_keys(user).keys)

    def _named(self, name: str) -> tuple[TrailEvent, ...]:
        since = max(self._start, self._view.clock.now() - HISTORY)
        aws = self._view.aws(self._account)
        where = f"{name} in {self._account}"
        return self._try("CloudTrail's events", where, lambda: aws.trail(TrailKey.EVENT_NAME, name, since))

    def _footholds(self, user: str) -> tuple[Foothold, ...]:
        aws = self._view.aws(self._account)
        what = "passwords, MFA devices and certificates"
        try:
            return aws.footholds(user)
        except AwsError as error:
            if error.code != "NoSuchEntity":  # a user that is gone has nothing
                self._holes.append(unread(what, f"{user} in {self._account}", error))
            return ()

    def _touched(self, details: AccountDetails | None, events: Sequence[TrailEvent]) -> list[str]:
        """The users that have an exposed key, are new, or that somebody did something to."""
        known = {user.name: user for user in details.users} if details is not None else {}
        named = {name for event in (*events, *self._followed) for name in event.resources}
        touched = {item.key.user for item in self._keys if item.places or item.doubtful or item.by_hand}
        touched |= {name for name, user in known.items() if user.created_at and user.created_at >= self._start}
        touched |= named & known.keys()
        return sorted(touched)

    def _made(self) -> tuple[Made, ...]:
        seen = self._read
        return made_since(seen.details, seen.providers, seen.keys, seen.footholds, self._start)

    def _events(self) -> tuple[TrailEvent, ...]:
        return (*self._read.events, *self._followed)

    # -- what is said --

    def findings(self) -> Iterator[Finding]:
        """The holes first, then every sighting, the dangerous ones first."""
        yield from self._holes
        told = sorted(map(self._finding, self._sightings), key=lambda finding: finding.level != "danger")
        yield from told[:SHOWN_MAX]
        if len(told) > SHOWN_MAX:
            text = f"{len(told) - SHOWN_MAX} more things of {self._account} were made or changed since: see CloudTrail."
            yield Finding(level="warning", text=text)
        if not told and not self._holes:
            text = f"Nothing that leads back in was found in {self._account}, within what was searched."
            yield Finding(level="note", text=text)

    def _finding(self, item: Sighting) -> Finding:
        by_thief = [event for event in item.events if event.key_id in self._tainted]
        when = item.at.isoformat(timespec="minutes") if item.at is not None else "at an unknown time"
        event = next(iter((*by_thief, *item.events)), None)
        if event is None:
            who = "CloudTrail does not show by whom"
        else:
            signer = f" with {display(event.key_id)}" if event.key_id else ""
            caller = display(event.user) or "an unknown caller"
            address = display(event.source_address) or "an unknown address"
            who = f"by {caller}{signer} from {address} ({display(event.user_agent, 60) or 'no agent'})"
        trusts = changed_trusts(self._read.details.roles if self._read.details else (), item.events)
        now = "".join(f"; it trusts now: {display(_trusted(role.trust), 200)}" for role in trusts.values())
        exposed = " It was done with an exposed key." if by_thief else ""
        text = f"In {self._account} {display(item.what, 300)}, {when}, {who}{now}: {item.advice}.{exposed}"
        return Finding(level="danger" if by_thief else "warning", text=text)

    # -- what may be decided --

    def decide(self, ask: Ask) -> Iterator[Action]:
        """A key that somebody made, in case it is to go off; nothing is done unless that is chosen.

        What becomes of a key that the inventory lists was asked before, unless an exposed key made it.
        """
        decided = {item.key.id for item in self._keys}
        made = {
            item.made.name
            for item in self._sightings
            if item.made is not None
            and item.made.kind == "access key"
            and (item.made.name not in decided or any(event.key_id in self._tainted for event in item.events))
        }
        found = [key for key in self._read.keys if key.id in made and key.is_active]
        for key in found:
            if ask(self._question(key)) == DEACTIVATE:
                yield DeactivateKey(account=key.account, user=key.user, key_id=key.id)

    def _question(self, key: AccessKey) -> Question[str]:
        own = self._view.aws(self._account).own_key_id() == key.id
        why = f"this run signs with {key.id} itself and would lock itself out; run with another identity for that"
        return Question(
            id=f"keys.found:{key.account}/{key.user}/{key.id}",
            prompt=f"What becomes of {key.id} of {display(key.user)}, made {key.created_at.isoformat()}?",
            kind=str,
            answer_key="keys.found",
            subject={"user": key.user, "account": key.account, "id": key.id},
            choices=CHOICES,
            default=LEAVE,
            proposal=LEAVE,
            refused={DEACTIVATE: why} if own else {},
        )


def _trusted(document: Mapping[str, object]) -> str:
    """Whom a trust policy names."""
    statements = document.get("Statement")
    found = statements if isinstance(statements, list) else [statements]
    named = [str(item.get("Principal", "?")) for item in found if isinstance(item, dict)]
    return ", ".join(named) or "nobody that can be read"


# --- What this run made ---------------------------------------------------------------------------------------------


class _Ours:
    """What this case made itself, by the ids and times that its journal kept.

    A user agent proves nothing by itself: a thief who may read CloudTrail sees ours there.
    """

    def __init__(self, view: View, account: str, keys: Sequence[KeyDecision], case: Case) -> None:
        self._view = view
        self._account = account
        self._every = (*case.verified, *case.unsettled)
        self._planned = tuple(key for key in self._every if key.startswith(CREATES))
        creates = [f"{CREATE_KIND}:{item.lane}/{item.key.id}" for item in keys]
        self._minted = frozenset(made for create in creates for made in minted(view, create))
        self._unanswered = tuple(
            attempt.tag for create in creates for attempt in view.past(create) if attempt.applied is None
        )

    def explains(self, item: Sighting) -> bool:
        """Whether the journal says that it was us."""
        if item.made is not None and item.made.kind == "access key" and item.made.name in self._minted:
            return True
        if item.made is not None and self._was_planned(item.made):
            return True
        return bool(item.events) and all(self._is_ours(event) for event in item.events)

    def _was_planned(self, made: Made) -> bool:
        """A role, policy or provider that a plan of this case names, and that its own create may have made."""
        names = tuple(f"{self._account}/{name}" for name in (made.name, made.alias) if name)
        mine = (key for key in self._planned if key.endswith(names))
        return any(attempt.failed != Effect.NONE for key in mine for attempt in self._view.past(key))

    def _is_ours(self, event: TrailEvent) -> bool:
        if event.name == "CreateAccessKey":
            # A create whose reply was lost is known by its intent's tag, which went out once (invariants 3.8).
            lost = any(tag in event.user_agent.split() for tag in self._unanswered)
            return lost or bool(self._minted.intersection(event.resources))
        if event.name in SAME_EFFECT:
            return any(self._may_have_done(key) for key in self._naming(SAME_EFFECT[event.name], event))
        if event.name == "PutRolePolicy" and POLICY not in event.resources:
            return any(self._did_then(key, event) for key in self._naming(PutRolePolicy.kind, event))
        kinds = {
            "PutUserPolicy": RevokeUserSessions.kind,
            "PutRolePolicy": RevokeRoleSessions.kind,
        }
        if event.name not in kinds or POLICY not in event.resources:
            return False
        return any(self._did_then(f"{kinds[event.name]}:{self._account}/{name}", event) for name in event.resources)

    def _naming(self, kind: str, event: TrailEvent) -> list[str]:
        """The actions of this case that name everything that the event does."""
        names = [name.removeprefix("https://") for name in event.resources]
        mine = [key for key in self._every if key.startswith(f"{kind}:{self._account}/")]
        return [key for key in mine if names and all(f"/{name}/" in f"{key}/" for name in names)]

    def _may_have_done(self, key: str) -> bool:
        return any(attempt.failed != Effect.NONE for attempt in self._view.past(key))

    def _did_then(self, key: str, event: TrailEvent) -> bool:
        times = (server_time(attempt.applied or attempt.basis) for attempt in self._view.past(key))
        return any(at is not None and abs(event.at - at) <= AT_ONCE for at in times)
