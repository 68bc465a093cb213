"""CloudTrail's event history of one account: what is recorded, and when it can be looked up.

Recorded are the changes we make, refused ones too, and the signatures of access keys; our own reads are left out, for
nobody asks for them. What an attacker did comes from a scenario or from `TwinWorld.foreign_event`.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from playbook import ports
from playbook.ports import TrailKey
from playbook.twins.state import TrailEvent

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from playbook.twins.remote import Remote
    from playbook.twins.state import Account

OUR_AGENT: Final = "Boto3/1 rotation-playbook"
OUR_ADDRESS: Final = "192.0.2.10"
HISTORY: Final = timedelta(days=90)
"""How far back events can be looked up (facts/aws 13)."""


class Seen(TypedDict, total=False):
    """What an event says besides its name, id and time."""

    service: str
    region: str
    signer: str
    actor: str
    user: str
    key_id: str
    user_agent: str
    source_address: str
    error_code: str
    issued_key_id: str
    role: str
    resources: tuple[str, ...]


def record(
    world: Remote, account: Account, name: str, *, at: datetime | None = None, **said: Unpack[Seen]
) -> TrailEvent:
    """Append an event, of this moment unless another is named."""
    event = TrailEvent(id=f"event-{len(account.trail)}", at=at or server_time(world, account), name=name, **said)
    account.trail.append(event)
    return event


def delivered(world: Remote, account: Account) -> list[TrailEvent]:
    """The events that can be looked up by now."""
    until = world.ago(world.switches.trail_lag_s) + timedelta(seconds=account.skew_s)
    oldest = server_time(world, account) - HISTORY
    return [event for event in account.trail if oldest <= event.at <= until]


def found(events: Iterable[TrailEvent], by: TrailKey, value: str, since: datetime) -> tuple[ports.TrailEvent, ...]:
    """The events that this attribute picks, oldest first; their times are whole seconds."""
    told = (told_of(event) for event in events if event.at >= since.replace(microsecond=0))
    return tuple(sorted((event for event in told if _is_picked(event, by, value)), key=lambda event: event.at))


def _is_picked(event: ports.TrailEvent, by: TrailKey, value: str) -> bool:
    match by:
        case TrailKey.ACCESS_KEY_ID:
            return event.key_id == value
        case TrailKey.USER_NAME:
            return event.user == value
        case TrailKey.EVENT_NAME:
            return event.name == value
        case TrailKey.RESOURCE_NAME:
            return value in event.resources


def told_of(event: TrailEvent) -> ports.TrailEvent:
    """The noun of `ports` for a recorded event."""
    return ports.TrailEvent(
        event_id=event.id,
        at=event.at,
        name=event.name,
        service=event.service,
        region=event.region,
        key_id=event.signer,
        user=event.actor,
        source_address=event.source_address,
        user_agent=event.user_agent,
        error_code=event.error_code,
        issued_key_id=event.issued_key_id,
        role=event.role,
        resources=tuple(dict.fromkeys(filter(None, (event.user, event.key_id, event.role, *event.resources)))),
    )


def server_time(world: Remote, account: Account) -> datetime:
    """AWS's own time, in the whole seconds of a `Date` header and of a key's CreateDate."""
    return (world.clock.now() + timedelta(seconds=account.skew_s)).replace(microsecond=0)


def own_signer(account: Account) -> str:
    """The key that signs the operator's calls; for a role session one that never changes."""
    drawn = base64.b32encode(hashlib.sha256(account.operator_arn.encode()).digest()).decode()
    return account.own_key_id or f"ASIA{drawn[:16]}"


def own_name(account: Account) -> str:
    """The operator's name in the trail: of the user, or of the role session."""
    return account.operator_arn.rpartition("/")[2]
