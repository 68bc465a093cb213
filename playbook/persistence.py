"""What somebody may have left behind to come back by: pure functions over an account's state and its events.

IAM shows what exists and when it was made; CloudTrail shows who did what from where, also to what is gone again and to
what carries no time, such as a trust policy. The two are joined here: one sighting for one thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from playbook.ports import TrailEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from playbook.ports import AccessKey, AccountDetails, Foothold, IdentityProvider, Role

_LOOK_AT: Final = "find out who did it, and undo it by hand if nobody answers"
_OFF_FIRST: Final = "if nobody answers for it, deny it everything and delete it by hand"
_LOGS: Final = "switch logging on again, and take nothing that CloudTrail does not show for not having happened"
_CODE: Final = "compare the code and the permissions with what you deployed"

WATCHED: Final[Mapping[str, tuple[str, str]]] = {
    # Ways in
    "CreateUser": ("a user was made", _OFF_FIRST),
    "CreateAccessKey": ("an access key was made", "if nobody answers for it, switch it off"),
    "CreateLoginProfile": ("a user was given a password", "delete the login profile if nobody answers for it"),
    "UpdateLoginProfile": ("a user's password was changed", "delete the login profile if nobody answers for it"),
    "CreateServiceSpecificCredential": ("a service credential was made", "delete it if nobody answers for it"),
    "UploadSSHPublicKey": ("an SSH key was added", "delete it if nobody answers for it"),
    "UploadSigningCertificate": ("a signing certificate was added", "delete it if nobody answers for it"),
    "EnableMFADevice": ("an MFA device was added", "remove it if its owner does not know it"),
    "DeactivateMFADevice": ("an MFA device was taken away", _LOOK_AT),
    "CreateRole": ("a role was made", _OFF_FIRST),
    "UpdateAssumeRolePolicy": ("a role's trust policy was changed", "read who may assume it now, and put it back"),
    "CreateOpenIDConnectProvider": ("an OIDC provider was registered", _OFF_FIRST),
    "AddClientIDToOpenIDConnectProvider": ("an OIDC provider got another audience", _LOOK_AT),
    "UpdateOpenIDConnectProviderThumbprint": ("an OIDC provider's thumbprint was changed", _LOOK_AT),
    "CreateSAMLProvider": ("a SAML provider was registered", _OFF_FIRST),
    "UpdateSAMLProvider": ("a SAML provider was changed", _LOOK_AT),
    "CreateTrustAnchor": ("a trust anchor of Roles Anywhere was made", _OFF_FIRST),
    "EnableOutboundWebIdentityFederation": ("outbound web identity federation was switched on", _LOOK_AT),
    # Permissions
    "AttachUserPolicy": ("a managed policy was attached to a user", _LOOK_AT),
    "AttachGroupPolicy": ("a managed policy was attached to a group", _LOOK_AT),
    "AttachRolePolicy": ("a managed policy was attached to a role", _LOOK_AT),
    "PutUserPolicy": ("an inline policy of a user was written", _LOOK_AT),
    "PutGroupPolicy": ("an inline policy of a group was written", _LOOK_AT),
    "PutRolePolicy": ("an inline policy of a role was written", _LOOK_AT),
    "CreatePolicy": ("a managed policy was made", _LOOK_AT),
    "CreatePolicyVersion": ("a managed policy was changed", "compare its versions, and make the right one the default"),
    "SetDefaultPolicyVersion": ("another version of a managed policy was made the default", _LOOK_AT),
    "AddUserToGroup": ("a user was added to a group", _LOOK_AT),
    "DeleteUserPermissionsBoundary": ("a user's permissions boundary was taken away", _LOOK_AT),
    "DeleteRolePermissionsBoundary": ("a role's permissions boundary was taken away", _LOOK_AT),
    "DeleteUserPolicy": ("an inline policy of a user was removed", "see whether it denied something"),
    "DetachUserPolicy": ("a managed policy was taken from a user", "see whether it denied something"),
    "DeleteRolePolicy": ("an inline policy of a role was removed", "see whether it denied something"),
    # What looks away
    "StopLogging": ("CloudTrail's logging was stopped", _LOGS),
    "DeleteTrail": ("a trail was deleted", _LOGS),
    "UpdateTrail": ("a trail was changed", _LOGS),
    "PutEventSelectors": ("what a trail records was changed", _LOGS),
    # Code that runs with a role of its own
    "CreateFunction20150331": ("a Lambda function was made", _CODE),
    "UpdateFunctionCode20150331v2": ("a Lambda function's code was changed", _CODE),
    "AddPermission20150331v2": ("a Lambda function was opened to a caller", _CODE),
    "CreateEventSourceMapping20150331": ("a Lambda function was tied to a source of events", _CODE),
}
"""The calls that leave a way back in, in words, each with what to do (facts, AWS rows 21 and 22)."""

_VERSION: Final = re.compile(r"20\d{6}(?:v\d+)?\Z")
_BY_PLAIN_NAME: Final = {_VERSION.sub("", name): name for name in WATCHED}
_STATE_EVENTS: Final[Mapping[str, frozenset[str]]] = {
    "user": frozenset({"CreateUser"}),
    "access key": frozenset({"CreateAccessKey"}),
    "role": frozenset({"CreateRole"}),
    "managed policy": frozenset({"CreatePolicy", "CreatePolicyVersion", "SetDefaultPolicyVersion"}),
    "OIDC provider": frozenset({"CreateOpenIDConnectProvider"}),
    "SAML provider": frozenset({"CreateSAMLProvider"}),
    "login-profile": frozenset({"CreateLoginProfile"}),
    "mfa-device": frozenset({"EnableMFADevice"}),
    "ssh-key": frozenset({"UploadSSHPublicKey"}),
    "signing-certificate": frozenset({"UploadSigningCertificate"}),
    "service-credential": frozenset({"CreateServiceSpecificCredential"}),
}
_ADVICE: Final = {kind: WATCHED[min(names)][1] for kind, names in _STATE_EVENTS.items()}


@dataclass(frozen=True, kw_only=True)
class Made:
    """One thing that exists and was made (a policy: changed) since."""

    kind: str
    """One of the kinds that `_STATE_EVENTS` knows."""
    name: str
    at: datetime | None
    of: str = ""
    """The user it belongs to."""
    alias: str = ""
    """Its ARN or id, by which events may name it."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One thing that was found, with the events that speak of it."""

    what: str
    """Such as `a user was made: backup-svc`."""
    advice: str
    at: datetime | None
    events: tuple[TrailEvent, ...] = ()
    made: Made | None = None
    """What exists because of it, when IAM shows it."""


def watched_as(event: TrailEvent) -> str | None:
    """The name in `WATCHED` of an event that succeeded, whatever version of its API its name carries."""
    return None if event.error_code else _BY_PLAIN_NAME.get(_VERSION.sub("", event.name))


def made_since(
    details: AccountDetails | None,
    providers: Iterable[IdentityProvider],
    keys: Iterable[AccessKey],
    footholds: Mapping[str, Sequence[Foothold]],
    since: datetime,
) -> tuple[Made, ...]:
    """Everything that IAM dates after a time."""
    found: list[Made] = []
    if details is not None:
        found += [Made(kind="user", name=user.name, at=user.created_at, alias=user.arn) for user in details.users]
        found += [Made(kind="role", name=role.name, at=role.created_at, alias=role.arn) for role in details.roles]
        found += [
            Made(kind="managed policy", name=policy.name, at=policy.changed_at, alias=policy.arn)
            for policy in details.policies
            # AWS's own policies change whenever AWS changes them.
            if policy.arn and not re.match(r"arn:[a-z-]+:iam::aws:", policy.arn)
        ]
    found += [
        Made(
            kind="SAML provider" if provider.saml else "OIDC provider",
            name=provider.url or provider.arn,
            at=provider.created_at,
            alias=provider.arn,
        )
        for provider in providers
    ]
    found += [Made(kind="access key", name=key.id, at=key.created_at, of=key.user) for key in keys]
    found += [
        Made(kind=item.kind, name=item.id, at=item.created_at, of=user, alias=user)
        for user, items in footholds.items()
        for item in items
    ]
    return tuple(item for item in found if item.at is not None and item.at >= since)


def changed_trusts(roles: Iterable[Role], events: Iterable[TrailEvent]) -> dict[str, Role]:
    """By event id, the role whose trust an event changed: what it says now is what counts."""
    by_name = {name: role for role in roles for name in (role.name, role.arn)}
    return {
        event.event_id: by_name[name]
        for event in events
        if watched_as(event) == "UpdateAssumeRolePolicy"
        for name in event.resources
        if name in by_name
    }


def sightings(made: Iterable[Made], events: Iterable[TrailEvent]) -> tuple[Sighting, ...]:
    """One for each thing that was made, with its events, and one for each watched event that speaks of no such thing.

    A thing without an event stays a sighting: the trail is 90 days long, late, and can be switched off.
    """
    listed = sorted(
        {event.event_id: event for event in events if watched_as(event)}.values(),
        key=lambda event: (event.at, event.event_id),
    )
    told: set[str] = set()
    found: list[Sighting] = []
    for item in made:
        names = {item.name, item.alias} - {""}
        mine = tuple(
            event
            for event in listed
            if watched_as(event) in _STATE_EVENTS[item.kind] and names.intersection(event.resources)
        )
        told.update(event.event_id for event in mine)
        found.append(Sighting(what=_what(item), advice=_ADVICE[item.kind], at=item.at, events=mine, made=item))
    for event in listed:
        if event.event_id not in told:
            what, advice = WATCHED[str(watched_as(event))]
            about = f": {', '.join(event.resources)}" if event.resources else ""
            found.append(Sighting(what=f"{what}{about}", advice=advice, at=event.at, events=(event,)))
    return tuple(sorted(found, key=lambda item: (item.at is None, item.at, item.what)))


def _what(item: Made) -> str:
    done = "changed" if item.kind == "managed policy" else "made"
    of = f" of {item.of}" if item.of else ""
    return f"the {item.kind} {item.name}{of} was {done}"


def lookups() -> Iterator[str]:
    """The names by which CloudTrail is asked."""
    yield from WATCHED
