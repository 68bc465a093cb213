"""Who used a key: CloudTrail's events by key id, followed through every session that the key handed out.

Pure functions over events and over one function that looks them up. An `AssumeRole`, `GetSessionToken` or
`GetFederationToken` names the key id of the session it made, so the trail of an AKIA key goes on under ASIA ids,
breadth first, in another account too (facts, AWS row 15). CloudTrail answers two look-ups a second and goes back 90
days, so the search has a budget; what a cut or a refusal leaves open is said, never passed over.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from playbook.errors import AwsError
from playbook.ports import Hole, TrailEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable


LOOKUPS_MAX: Final = 600
"""Look-ups of all searches together; at two a second that is five minutes."""
EVENTS_MAX: Final = 20_000

Look: TypeAlias = "Callable[[str, str], tuple[TrailEvent, ...]]"
"""The events of an account (first) that a key id (second) signed, oldest first."""

_ROLE: Final = re.compile(r"arn:[a-z-]+:iam::(?P<account>\d{12}):role/(?:[!-~]*/)?(?P<name>[\w+=,.@-]{1,64})")
_PRODUCT: Final = re.compile(r"\[?(?P<name>[^\s/\]]+)(?:/(?P<major>\d+))?")


@dataclass
class Budget:
    """What a search may still spend."""

    lookups: int = LOOKUPS_MAX
    events: int = EVENTS_MAX

    @property
    def spent(self) -> bool:
        """Whether nothing more may be looked up."""
        return self.lookups <= 0 or self.events <= 0

    @classmethod
    def share(cls, searches: int) -> Budget:
        """What each of so many searches may spend: at least one look-up, for the key itself."""
        return cls(lookups=max(1, LOOKUPS_MAX // max(1, searches)))


@dataclass(frozen=True, kw_only=True)
class AssumedRole:
    """A role that the key, or a session that goes back to it, assumed."""

    arn: str
    account: str
    name: str
    at: datetime
    """When it was assumed last."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Everything that CloudTrail shows of one key and of the sessions that go back to it."""

    key_id: str
    events: tuple[TrailEvent, ...]
    """All of them, oldest first."""
    followed: tuple[str, ...]
    """The key ids that were looked up, the key itself first."""
    open_ends: tuple[str, ...] = ()
    """The key ids of sessions that the budget did not suffice for."""
    holes: tuple[Hole, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether at least the key itself could be looked up; if not, its use is unknown."""
        return self.key_id in self.followed

    @property
    def own(self) -> tuple[TrailEvent, ...]:
        """The events that the key itself signed."""
        return tuple(event for event in self.events if event.key_id == self.key_id)

    @property
    def sessions(self) -> tuple[str, ...]:
        """The key ids of all sessions that were handed out."""
        return tuple(dict.fromkeys(event.issued_key_id for event in self.events if event.issued_key_id))

    @property
    def roles(self) -> tuple[AssumedRole, ...]:
        """Every role that was assumed, each once, in the order of their ARNs."""
        last: dict[str, AssumedRole] = {}
        for event in self.events:
            found = _ROLE.fullmatch(event.role)
            if found is not None and not event.error_code:
                last[event.role] = AssumedRole(
                    arn=event.role, account=found["account"], name=found["name"], at=event.at
                )
        return tuple(last[arn] for arn in sorted(last))


def follow(key_id: str, home: str, accounts: Collection[str], look: Look, budget: Budget) -> Trace:
    """Look a key up in its account, and then every session it made, each where its events are logged.

    `accounts` are those that can be asked; a session of a role in another one is a hole.
    """
    waiting = deque([(home, key_id)])
    known = {(home, key_id)}
    events: dict[tuple[str, str], TrailEvent] = {}
    holes: dict[Hole, None] = {}
    followed: dict[str, None] = {}
    while waiting and not budget.spent:
        account, looked = waiting.popleft()
        budget.lookups -= 1
        try:
            found = look(account, looked)
        except AwsError as error:
            holes[Hole(what="CloudTrail's events", where=f"{looked} in {account}", why=error.code)] = None
            continue
        followed[looked] = None
        budget.events -= len(found)
        for event in found:
            events.setdefault((account, event.event_id), event)
            for place in _goes_on(event, account):
                if place[0] not in accounts:
                    what = "what the sessions did"
                    where = f"{event.role or event.issued_key_id} in {place[0]}"
                    holes[Hole(what=what, where=where, why="the account is not connected")] = None
                elif place not in known:
                    known.add(place)
                    waiting.append(place)
    return Trace(
        key_id=key_id,
        events=tuple(sorted(events.values(), key=lambda event: (event.at, event.event_id))),
        followed=tuple(followed),
        open_ends=tuple(dict.fromkeys(looked for _, looked in waiting if looked not in followed)),
        holes=tuple(holes),
    )


def _goes_on(event: TrailEvent, account: str) -> tuple[tuple[str, str], ...]:
    """Where the session that an event handed out leaves its own events: in the account of its role."""
    if not event.issued_key_id or event.error_code:
        return ()
    role = _ROLE.fullmatch(event.role)
    return ((role["account"] if role else account, event.issued_key_id),)


# --- What the events say --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The events of one key in figures; every list has the most frequent first."""

    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    refused: int = 0
    """Calls that AWS answered with an error: a thief tries doors."""
    addresses: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    """User agents by product and major version, such as `aws-cli/2`."""
    services: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a key was used while strangers could read it, beside how it is used otherwise."""

    inside: Usage
    unusual_agents: tuple[str, ...] = ()
    """Agents of that time that no other use has; with no other use, all but the most frequent one."""
    unusual_addresses: tuple[str, ...] = ()
    """Addresses of that time that no other use has; empty where there is no other use to compare with."""
    compared: bool = field(default=False)
    """Whether there was any other use to compare with."""

    @property
    def is_unusual(self) -> bool:
        """Whether more than the usual agents used it."""
        return bool(self.unusual_agents)


def usage(events: Iterable[TrailEvent]) -> Usage:
    """Count events."""
    listed = sorted(events, key=lambda event: event.at)
    if not listed:
        return Usage()
    return Usage(
        count=len(listed),
        first=listed[0].at,
        last=listed[-1].at,
        refused=sum(bool(event.error_code) for event in listed),
        addresses=_by_frequency(event.source_address for event in listed),
        agents=_by_frequency(agent_product(event.user_agent) for event in listed),
        services=_by_frequency(event.service for event in listed),
        regions=_by_frequency(event.region for event in listed),
    )


def judge(events: Iterable[TrailEvent], start: datetime | None, end: datetime | None) -> Judged:
    """Compare the use between two times (None: an end nobody has said) with the use outside them."""
    inside: list[TrailEvent] = []
    outside: list[TrailEvent] = []
    for event in events:
        is_inside = (start is None or event.at >= start) and (end is None or event.at <= end)
        (inside if is_inside else outside).append(event)
    within, otherwise = usage(inside), usage(outside)
    usual = otherwise.agents or within.agents[:1]
    known = set(otherwise.addresses)
    return Judged(
        inside=within,
        unusual_agents=tuple(agent for agent in within.agents if agent not in usual),
        unusual_addresses=tuple(one for one in within.addresses if one not in known) if outside else (),
        compared=bool(outside),
    )


def agent_product(user_agent: str) -> str:
    """Reduce a user agent to its first product and major version: `aws-cli/2.15.1 Python/3.11` is `aws-cli/2`."""
    found = _PRODUCT.match(user_agent.strip())
    if found is None:
        return "no agent"
    return f"{found['name']}/{found['major']}" if found["major"] else found["name"]


def _by_frequency(names: Iterable[str]) -> tuple[str, ...]:
    counted = Counter(name for name in names if name)
    return tuple(sorted(counted, key=lambda name: (-counted[name], name)))
