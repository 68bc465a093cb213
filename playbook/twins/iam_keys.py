"""Access keys on the twins: their histories, who sees which part of them when, and what becomes of a signature.

Every key keeps its history of changes. Who looks decides what is seen: the truth is the last change, a list, STS and
any other service see each change only once their lag has passed (facts/aws 2).
"""

from __future__ import annotations

import base64
import hmac
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.ports import Identity, KeyStatus
from playbook.twins import trail
from playbook.twins.faults import Call
from playbook.twins.state import Change, Key, TrailEvent, Use

if TYPE_CHECKING:
    from playbook.ports import Credential
    from playbook.twins.remote import Remote
    from playbook.twins.state import Account, Value

ID_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
ID_RANDOM: Final = 16
SECRET_BYTES: Final = 30
"""Base64 makes 40 characters of them."""
PROVED_WITH: Final = {"ecr": "GetAuthorizationToken", "s3": "ListBuckets", "sts": "GetCallerIdentity"}
"""The calls that show whether a service accepts a key; without permission they are refused, and so prove it too."""


class Standing(StrEnum):
    """What STS makes of a key id at this moment."""

    ACCEPTED = "accepted"
    INACTIVE = "inactive"
    DELETED = "deleted"
    NOT_PROPAGATED = "not propagated"


def keys_of(account: Account, user: str) -> list[Key]:
    """Every key the user ever had, the deleted ones among them."""
    return [key for key in account.keys.values() if key.user == user]


def existing(account: Account, user: str) -> list[Key]:
    """The keys that count against the quota: the truth, not what a list shows."""
    return [key for key in keys_of(account, user) if key.status is not None]


def find_key(world: Remote, key_id: str) -> tuple[Account, Key] | None:
    """The key of this id in whichever account, deleted ones included."""
    for account in world.state.accounts.values():
        if (key := account.keys.get(key_id)) is not None:
            return account, key
    return None


def seen(world: Remote, key: Key, *, made: float, switched: float, gone: float) -> KeyStatus | None:
    """A key's status to one who learns of its creation, its changes and its deletion with these lags."""
    now = world.clock.now()
    status: KeyStatus | None = None
    for number, item in enumerate(key.changes):
        lag = made if number == 0 else gone if item.status is None else switched
        if item.at + timedelta(seconds=lag) > now:
            break
        status = item.status
    return status


def standing(world: Remote, key: Key, *, lag_s: float | None = None) -> Standing:
    """What STS makes of the key now; a change takes a while to reach it, in both directions (facts 2, 4 and 6).

    `lag_s` is another service's own lag for a new key.
    """
    switches = world.switches
    made = switches.sts_lag_s if lag_s is None else lag_s
    if key.changes[0].at > world.ago(made):
        return Standing.NOT_PROPAGATED
    status = seen(world, key, made=made, switched=switches.off_lag_s, gone=switches.off_lag_s)
    if status is None:
        return Standing.DELETED
    return Standing.ACCEPTED if status is KeyStatus.ACTIVE else Standing.INACTIVE


def identify(world: Remote, credential: Credential) -> Identity | None:
    """`sts:GetCallerIdentity` signed with a credential; None for all that AWS answers with the same refusal."""

    def effect() -> Identity | None:
        found = _signing(world, credential)
        if found is None or standing(world, found[1]) is not Standing.ACCEPTED:
            return None
        account, key = found
        use(world, key, agent=trail.OUR_AGENT, address=trail.OUR_ADDRESS)
        return Identity(account=account.id, arn=account.users[key.user].arn)

    call = Call(service="sts", operation="identify", target=credential.key_id, write=False)
    return world.call(call, effect)


def accepts(world: Remote, credential: Credential, service: str, region: str) -> bool | None:
    """Whether a service accepts a credential's signature, whatever it is permitted; None for a service not known."""
    if service not in PROVED_WITH:
        return None

    def effect() -> bool:
        lag_s = None if service == "sts" else world.switches.service_lag_s
        found = _signing(world, credential)
        if found is None or standing(world, found[1], lag_s=lag_s) is not Standing.ACCEPTED:
            return False
        use(world, found[1], service=service, region=region, agent=trail.OUR_AGENT, address=trail.OUR_ADDRESS)
        return True

    call = Call(service=service, operation="accepts", target=credential.key_id, write=False)
    return world.call(call, effect)


def _signing(world: Remote, credential: Credential) -> tuple[Account, Key] | None:
    """The key that this credential is the pair of."""
    found = find_key(world, credential.key_id)
    if found is None or found[1].secret is None or found[1].secret.sha256 is None:
        return None
    return found if hmac.compare_digest(found[1].secret.sha256, credential.secret.digest()) else None


def use(
    world: Remote,
    key: Key,
    *,
    service: str = "sts",
    region: str = "us-east-1",
    agent: str = "aws-cli/2",
    address: str = "198.51.100.20",
) -> None:
    """Record a signature: in the trail always, in the key unless one was recorded a short while ago (facts/aws 9)."""
    found = find_key(world, key.id)
    if found is not None:
        trail.record(
            world,
            found[0],
            PROVED_WITH.get(service, "Unknown"),
            service=service,
            region=region,
            signer=key.id,
            actor=key.user,
            user_agent=agent,
            source_address=address,
        )
    if key.last_used is None or key.last_used.at <= world.ago(world.switches.use_span_s):
        key.last_used = Use(at=world.clock.now().replace(microsecond=0), service=service, region=region)
    world.changed()


def change(world: Remote, key: Key, status: KeyStatus | None) -> None:
    """Append to a key's history, if it changes anything."""
    if key.status is not status:
        key.changes.append(Change(at=world.clock.now(), status=status))


def add_key(world: Remote, account: Account, user: str, secret: Value, *, tag: str = "", agent: str = "") -> Key:
    """Bring a new active key into being, with its CloudTrail event; quotas are the caller's business."""
    key = Key(
        id=_mint_id(world),
        user=user,
        created_at=trail.server_time(world, account),
        changes=[Change(at=world.clock.now(), status=KeyStatus.ACTIVE)],
        secret=secret,
        tag=tag,
    )
    account.keys[key.id] = key
    account.trail.append(
        TrailEvent(
            id=f"event-of-{key.id}",
            at=key.created_at,
            user=user,
            key_id=key.id,
            user_agent=agent or f"{trail.OUR_AGENT} {tag}",
            source_address=trail.OUR_ADDRESS if tag else "203.0.113.77",
            signer=trail.own_signer(account) if tag else "",
            actor=trail.own_name(account) if tag else "",
        )
    )
    return key


def _mint_id(world: Remote) -> str:
    """Draw until the id is new: a seed that was used before must not repeat one."""
    while True:
        key_id = "AKIA" + "".join(world.random.choices(ID_ALPHABET, k=ID_RANDOM))
        if find_key(world, key_id) is None:
            return key_id


def mint_secret(world: Remote) -> str:
    """Make up 40 characters of the shape of an AWS secret."""
    return base64.b64encode(world.random.randbytes(SECRET_BYTES)).decode()
