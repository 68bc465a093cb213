"""CloudTrail behind `ports.AwsReader`: who made a key, and what a key, a user or a session did, in every region.

`LookupEvents` answers for one region and one attribute, 50 events a page, at two requests a second per account and
region (AWS facts 13): each region has a pace of its own. An event's text is whatever its caller wrote into a user agent
or a name: it is read member by member, and what has not the type it must have is taken as absent.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from playbook.clients.aws_calls import ARN, KEY_ID, AwsCalls, unreadable
from playbook.clients.budget import budget_towards
from playbook.errors import AwsError, Effect
from playbook.ports import KeyCreation, TrailEvent, TrailKey, display

if TYPE_CHECKING:
    from collections.abc import Iterator

    import boto3.session
    from mypy_boto3_cloudtrail import CloudTrailClient

    from playbook.clients.aws_errors import AwsSource
    from playbook.clients.budget import Budget

ENABLED_BY_DEFAULT: Final[Mapping[str, tuple[str, ...]]] = {
    "aws": (
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ca-central-1",
        "eu-central-1",
        "eu-north-1",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    ),
    "aws-cn": ("cn-north-1", "cn-northwest-1"),
    "aws-us-gov": ("us-gov-east-1", "us-gov-west-1"),
}
"""The regions that no account has to opt in to, for where `ec2:DescribeRegions` is refused."""
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})
_CREATION_PAGES_MAX: Final = 20
_PAGES_MAX: Final = 200
_TEXT_MAX: Final = 2048
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_ANY_KEY_ID: Final = re.compile(r"[A-Z0-9]{16,128}")
_SESSION_KEY_ID: Final = re.compile(r"ASIA[A-Z0-9]{12,124}")
_NAMING: Final = ("userName", "roleName", "groupName", "policyName", "policyArn", "accessKeyId", "roleArn")
"""The members of a request that say what it acts on."""


class _Region(NamedTuple):
    client: CloudTrailClient
    budget: Budget


class _Picked(NamedTuple):
    """Which events are looked up."""

    by: TrailKey
    value: str
    since: datetime


class TrailCalls(AwsCalls):
    """The event history of one account."""

    def __init__(self, *, source: AwsSource, session: boto3.session.Session, parallel: int, agent: str) -> None:
        super().__init__(source=source, session=session, parallel=parallel, agent=agent)
        self._home, *_ = self.probe_regions(home_first=True)
        self._trails = {self._home: self._opened_trail(self._home)}
        self._regions: tuple[str, ...] = ()
        self.regions_known = True
        """False once AWS has refused to say which regions are enabled: regions somebody opted in to stay unseen."""
        self.unread_regions: set[str] = set()
        """The regions that refused a look, as those do which an Organization has closed."""
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        super().close()
        for trail in self._trails.values():
            trail.client.close()

    def key_creations(self, user: str, since: datetime) -> tuple[KeyCreation, ...]:
        """CloudTrail's `CreateAccessKey` events for this user; IAM's are logged in one region (AWS facts 14)."""
        what = f"looking up who made the access keys of {self._shown(user)}"
        picked = _Picked(TrailKey.EVENT_NAME, "CreateAccessKey", since)
        events = self._events(what, self._home, picked, pages_max=_CREATION_PAGES_MAX)
        return tuple(found for event in events if (found := _creation(event, self.account, user)))

    def trail(self, by: TrailKey, value: str, since: datetime) -> tuple[TrailEvent, ...]:
        """The events of every enabled region, oldest first; a region but the home one may refuse.

        IAM's own calls are logged in one region alone (AWS facts 14), so by their names only that one is asked.
        """
        what = f"looking up what CloudTrail has of {display(value)} in account {self.account}"
        picked = _Picked(by, value, since)
        found: dict[str, TrailEvent] = {}
        for region in self._regions_of(picked):
            try:
                events = [_told(event, region) for event in self._events(what, region, picked)]
            except AwsError as error:
                if error.code not in _DENIED or region == self._home:
                    raise
                self.unread_regions.add(region)
                continue
            if None in events:
                raise unreadable(what, Effect.NONE)
            found |= {event.event_id: event for event in events if event is not None}
        return tuple(sorted(found.values(), key=lambda event: (event.at, event.event_id)))

    def _regions_of(self, picked: _Picked) -> tuple[str, ...]:
        # Of the other partitions nothing says in which region IAM's events are.
        calls_of_iam = self._iam.meta.service_model.operation_names if self._partition == "aws" else ()
        if picked.by is TrailKey.EVENT_NAME and picked.value in calls_of_iam:
            return (self._home,)
        return self.trail_regions()

    def trail_regions(self) -> tuple[str, ...]:
        """The home region, our own, and the others that are enabled, as far as AWS says."""
        if not self._regions:
            own = self._session.region_name
            self._regions = tuple(dict.fromkeys((self._home, own, *self._enabled_regions())))
        return self._regions

    def _enabled_regions(self) -> tuple[str, ...]:
        what = "asking which regions are enabled"
        client = self._made("ec2", self._reads)
        with closing(client):
            try:
                answer = self._call("DescribeRegions", what, client.describe_regions)
            except AwsError as error:
                if error.retryable:
                    raise
                self.regions_known = False
                return ENABLED_BY_DEFAULT.get(self._partition, ())
        names = sorted(
            str(item.get("RegionName", ""))
            for item in answer.get("Regions", [])
            if item.get("OptInStatus") in ("opt-in-not-required", "opted-in")
        )
        if not all(map(_REGION.fullmatch, names)):
            raise unreadable(what, Effect.NONE)
        return tuple(names)

    def _opened_trail(self, region: str) -> _Region:
        client: CloudTrailClient = self._made("cloudtrail", self._reads, region=region)
        return _Region(client, budget_towards(loopback=self._loopback, rate=2.0, most=2.0))

    def _events(
        self, what: str, region: str, picked: _Picked, *, pages_max: int = _PAGES_MAX
    ) -> Iterator[Mapping[str, Any]]:
        """What one region has; a history longer than `pages_max` pages is an error, never cut in silence."""
        with self._opening:
            trail = self._trails.get(region) or self._opened_trail(region)
            self._trails[region] = trail
        pages = iter(
            trail.client.get_paginator("lookup_events").paginate(
                LookupAttributes=[{"AttributeKey": picked.by.value, "AttributeValue": picked.value}],
                # Whole seconds, as the events have them: one of this very second is not before it.
                StartTime=picked.since.replace(microsecond=0),
            )
        )
        for page in self._pages("LookupEvents", what, pages, budget=trail.budget, pages_max=pages_max):
            yield from page["Events"]


def _creation(event: Mapping[str, Any], account: str, user: str) -> KeyCreation | None:
    """Read an event of this user's keys; one that failed, is someone else's or is garbled attributes nothing."""
    try:
        detail = json.loads(event["CloudTrailEvent"])
        made = detail["responseElements"]["accessKey"]
        asked = detail.get("requestParameters") or {}
        key_id, owner = made["accessKeyId"], asked.get("userName", made.get("userName"))
        if owner != user or detail.get("recipientAccountId", account) != account or not KEY_ID.fullmatch(key_id):
            return None
        return KeyCreation(
            event_id=str(event["EventId"]),
            at=event["EventTime"].astimezone(UTC),
            key_id=key_id,
            # Some events carry the agent in brackets, which would hide a tag at its end.
            user_agent=str(detail.get("userAgent", "")).strip("[]"),
            source_address=str(detail.get("sourceIPAddress", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _told(event: Mapping[str, Any], region: str) -> TrailEvent | None:
    """Read an event; None when it has no id, name or time.

    A detail that cannot be read leaves what stands around it: evidence is not dropped for being garbled.
    """
    event_id, at, name = event.get("EventId"), event.get("EventTime"), event.get("EventName")
    detail = _detail(event.get("CloudTrailEvent"))
    if not (event_id and name and isinstance(at, datetime)):
        return None
    request, reply, who = (_part(detail, part) for part in ("requestParameters", "responseElements", "userIdentity"))
    source = _text(detail, "eventSource") or _text(event, "EventSource")
    key_id = _text(who, "accessKeyId") or _text(event, "AccessKeyId")
    issued = _text(_part(reply, "credentials"), "accessKeyId")
    role = _text(request, "roleArn")
    listed = [_text(item, "ResourceName") for item in event.get("Resources", []) if isinstance(item, Mapping)]
    named = [_text(request, member) for member in _NAMING]
    made = _text(_part(reply, "accessKey"), "accessKeyId")
    return TrailEvent(
        event_id=str(event_id),
        at=at.astimezone(UTC),
        name=str(name)[:_TEXT_MAX],
        service=source.removesuffix(".amazonaws.com"),
        region=_text(detail, "awsRegion") or region,
        key_id=key_id if _ANY_KEY_ID.fullmatch(key_id) else "",
        user=_text(event, "Username") or _text(who, "userName") or _text(who, "arn").rpartition("/")[2],
        source_address=_text(detail, "sourceIPAddress"),
        user_agent=_text(detail, "userAgent").strip("[]"),
        error_code=_text(detail, "errorCode"),
        issued_key_id=issued if _SESSION_KEY_ID.fullmatch(issued) else "",
        role=role if ARN.fullmatch(role) else "",
        resources=tuple(dict.fromkeys(filter(None, (*named, made, *listed)))),
    )


def _detail(text: object) -> Mapping[str, Any]:
    """The event's own JSON, or nothing when it is none."""
    try:
        detail = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        detail = None
    return detail if isinstance(detail, Mapping) else {}


def _part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(whole: Mapping[str, Any], name: str) -> str:
    text = whole.get(name)
    return text[:_TEXT_MAX] if isinstance(text, str) else ""
