"""What must be true before an old key is switched off: each gate only looks, keeps its evidence, and may be overridden.

No gate, no kill: the stores are read back, the jobs that began with the old key are over, CI was seen to use the new
one, and nobody has used the old one since. A human may pass a gate with a reason, which the journal keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import AwsError
from playbook.model import Action, Observation, Severity, Status
from playbook.ports import TrailKey, WorkflowStatus, display
from steps.iam_keys import credential_of, list_keys, server_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from playbook.ports import Evidence, Pipeline, View, World

JOB_HOURS_MAX: Final = 5
"""CircleCI ends a job after five hours, so nothing older can still run."""
RUNNING_KEPT: Final = 100
"""Pipelines that a look remembers: a record has a size limit."""
FEW: Final = 3
"""So many projects are looked at for each key by itself; more of them for all keys that wait at the same time."""
TOGETHER_S: Final = 1.0
ROUTINE_SILENCE_S: Final = 14_400
"""How long an old key is silent before it goes off, when nothing has happened (design, waits)."""


@dataclass(frozen=True, kw_only=True)
class Gate(Action):
    """A look about one old key, on the lane of its user."""

    changes: ClassVar[bool] = False

    account: str
    user: str
    old_key_id: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.lane}/{self.old_key_id}"

    @property
    def lane(self) -> str:
        return f"{self.account}/{self.user}"

    @property
    def subject(self) -> Mapping[str, str]:
        return {"user": self.user, "account": self.account, "id": self.old_key_id}

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


@dataclass(frozen=True, kw_only=True)
class ProveAtService(Gate):
    """A service that CI uses accepts the new key too: STS may know a key seconds before another service does."""

    kind: ClassVar[str] = "iam:prove-at-service"
    needs: ClassVar[bool] = True
    gate: ClassVar[str] = "service"

    service: str
    """`ecr` or `s3`."""
    region: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.lane}/{self.old_key_id}/{self.service}/{self.region}"

    def describe(self) -> str:
        where = f"{display(self.service)} in {display(self.region)}"
        return f"prove the new key of {display(self.user)} in {self.account} at {where}"

    def observe(self, view: View) -> Observation:
        credential = credential_of(view, self.credential)
        if credential is None:
            return Observation(status=Status.CONFLICT, reason="the secret of the new key is no longer in memory")
        accepted = view.accepts(credential, self.service, self.region)
        evidence: Evidence = {"key_id": credential.key_id, "service": self.service, "region": self.region}
        if accepted:
            return Observation(status=Status.PRESENT, evidence=evidence)
        if accepted is None:
            reason = f"{self.service} in {self.region} gave no answer that says whether it knows {credential.key_id}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        reason = f"{self.service} in {self.region} does not accept {credential.key_id} yet"
        return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="alive")


@dataclass(frozen=True, kw_only=True)
class DrainJobs(Gate):
    """The jobs that may have the old key in their environment are over (F22); at most `drain` seconds.

    Whatever runs at the first look counts, whenever it began: no clock of ours is compared with CircleCI's.
    """

    kind: ClassVar[str] = "circleci:drain-jobs"
    gate: ClassVar[str] = "drain"

    projects: tuple[str, ...]
    """The slugs of the projects whose jobs may use the key."""

    def describe(self) -> str:
        return f"wait for the jobs that began with {self.old_key_id} of {display(self.user)}"

    def observe(self, view: View) -> Observation:
        if not view.waits.drain or not self.projects:
            return Observation(status=Status.PRESENT, evidence={"waited": False})
        looks = view.looks(self.key)
        known = looks[-1].get("pipelines") if looks else None
        if known is None:
            began = float(str(looks[0]["began"])) if looks else view.clock.monotonic()
            evidence: Evidence = {"began": str(began)}
            if not looks and len(self.projects) > FEW:
                reason = "looking at what runs, once for all keys that wait for it"
                return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=TOGETHER_S)
            running = view.share(f"running:{'|'.join(self.projects)}", lambda: self._first_look(view), since=began)
            if running is None:
                reason = "another key's look at what runs is under way"
                return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=TOGETHER_S)
        else:
            running = _busy(view, [str(item) for item in _texts(known)])
        return self._judge(view, running)

    def _judge(self, view: View, running: list[str]) -> Observation:
        evidence: Evidence = {"pipelines": tuple(running[:RUNNING_KEPT]), "running": len(running)}
        if not running:
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{len(running)} pipeline(s) that may still use {self.old_key_id} run on, such as {running[0]}"
        return Observation(
            status=Status.PENDING,
            evidence=evidence,
            reason=reason,
            wait="drain",
            again_s=min(30.0, float(view.waits.drain)),
            otherwise=Status.PRESENT,
        )

    def _first_look(self, view: View) -> list[str]:
        """The ids of the pipelines that have something running, in all of the projects."""
        since = view.clock.now() - timedelta(hours=JOB_HOURS_MAX)
        found: list[tuple[Pipeline, ...]] = view.gather(
            lambda project: view.circleci.pipelines(project, since), self.projects
        )
        return _busy(view, [pipeline.id for pipelines in found for pipeline in pipelines])


def _busy(view: View, pipelines: Sequence[str]) -> list[str]:
    busy = view.gather(lambda pipeline: _is_busy(view, pipeline), pipelines)
    return [pipeline for pipeline, runs in zip(pipelines, busy, strict=True) if runs]


def _is_busy(view: View, pipeline: str) -> bool:
    """Whether jobs of the pipeline may run; a workflow on hold runs none, and starts with what is stored then."""
    idle = WorkflowStatus.ON_HOLD
    return any(not item.status.is_over and item.status is not idle for item in view.circleci.workflows(pipeline))


def _texts(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True, kw_only=True)
class ConfirmSwitched(Gate):
    """The moment, by AWS's clock, from which on the old key must be silent: every gate before this one is passed."""

    kind: ClassVar[str] = "iam:confirm-switched"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:ListAccessKeys"})

    def describe(self) -> str:
        return f"note since when nothing of ours uses {self.old_key_id} of {display(self.user)}"

    def observe(self, view: View) -> Observation:
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        return Observation(status=Status.PRESENT, evidence={"server_time": listing.server_time.isoformat()})


@dataclass(frozen=True, kw_only=True)
class ConfirmSilence(Gate):
    """Nobody has used the old key since every place holds the new one, for `silence` seconds of AWS's clock.

    AWS notes only the first use in a quarter of an hour (facts/aws 9), so a silence shorter than that proves little.
    """

    kind: ClassVar[str] = "iam:confirm-silence"
    permissions: ClassVar[frozenset[str]] = frozenset({"iam:GetAccessKeyLastUsed", "iam:ListAccessKeys"})
    gate: ClassVar[str] = "silence"

    severity: Severity
    """What decides, unless the wait `silence` does."""

    def describe(self) -> str:
        return f"see that nobody uses {self.old_key_id} of {display(self.user)} any more"

    def observe(self, view: View) -> Observation:
        asked = view.waits.silence
        silence_s = asked if asked >= 0 else (ROUTINE_SILENCE_S if self.severity is Severity.ROUTINE else 0)
        try:
            used = view.aws(self.account).last_used(self.old_key_id)
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            # It gave up its slot, by an approved outage: nothing is as silent as that.
            return Observation(status=Status.PRESENT, evidence={"deleted": True})
        last_at = used.at.isoformat() if used.at is not None else "never"
        evidence: Evidence = {"silence_s": silence_s, "last_used_at": last_at}
        if not silence_s:
            # Its use is watched once it is off, and `undo` is one command.
            return Observation(status=Status.PRESENT, evidence=evidence)
        since = self._switched_at(view)
        if since is None:
            return Observation(status=Status.CONFLICT, reason="nothing says since when the new key is in every place")
        heard = used.at is not None and used.at > since
        start = used.at if heard and used.at is not None else since
        listing = list_keys(view, self.account, self.user)
        if isinstance(listing, Observation):
            return listing
        left = (start + timedelta(seconds=silence_s) - listing.server_time).total_seconds()
        if left <= 0:
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{self.old_key_id} must be silent for {silence_s} s; {left:.0f} s are left"
        if heard:
            reason += (
                f"; it was used at {last_at} in {display(used.service)} {display(used.region)}{self._who(view, since)}"
            )
        return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=left)

    def _switched_at(self, view: View) -> datetime | None:
        seen = view.verdict(f"{ConfirmSwitched.kind}:{self.lane}/{self.old_key_id}")
        return server_time(seen) if seen is not None else None

    def _who(self, view: View, since: datetime) -> str:
        """Whom CloudTrail saw using it, when it may be asked: a forgotten consumer has an address."""
        try:
            events = view.aws(self.account).trail(TrailKey.ACCESS_KEY_ID, self.old_key_id, since)
        except AwsError:
            return ""
        seen = sorted({f"{event.source_address} ({event.user_agent[:60]})" for event in events if event.at >= since})
        return f", by {', '.join(display(item) for item in seen[:3])}" if seen else ""
