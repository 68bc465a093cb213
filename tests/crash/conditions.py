"""What a case is made of: the world, how its engine runs and who answers, what each process meets, who meddles."""

from __future__ import annotations

from dataclasses import dataclass

from playbook.model import Recovery
from playbook.ports import Waits

LAGS = {
    "none": {"sts_lag_s": 0, "off_lag_s": 0, "list_lag_s": 0, "tail_lag_s": 0, "trail_lag_s": 0},
    "short": {},
    "long": {"sts_lag_s": 25, "off_lag_s": 25, "list_lag_s": 25, "tail_lag_s": 25, "trail_lag_s": 200},
}
"""Short is the twins' default: seconds for IAM and CircleCI, two minutes for CloudTrail. Long outlasts the proof."""
RUN, RETIRE, UNDO = "run", "retire", "undo"
"""What a process does: the playbook, or one of the steps beside it."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The world of a case, and how its engine runs."""

    strategy: str = "replace"
    """`replace`, `contain`, or `mixed`: one user so, one user so."""
    severity: str = "exposed"
    policy: str = Recovery.STOP.value
    lag: str = "short"
    stale: bool = False
    """A list shows the old tail while it lags, not none."""
    trail_denied: bool = False
    quota: int | None = None
    """Keys per user, where it is not IAM's two."""
    canaries: str = ""
    """`inline`: jobs with a config of ours; `broken`: none of them starts; `rerun`: a named workflow is run again."""
    spare: str = ""
    """ci-deploy has a second key, never used and stored nowhere, `on` or `off`: its slot is needed."""
    busy: bool = False
    """A job that began before the rotation runs on for a while."""
    secrets: bool = False
    """A project has a deploy key and a webhook, and both get new secrets."""
    role: bool = False
    """The key of ci-deploy assumed a role an hour ago."""
    block: bool = False
    """New work is blocked and what runs is cancelled; only where the severity is `confirmed`."""
    foreign: str = ""
    """What somebody else left on ci-deploy: `lease`, `stale-lease`, or a `policy` under the name of ours."""
    silence: int = -1
    """The wait of that name."""
    first_minute: bool = False
    """The keys were contained by `contain_now` before anything else."""
    then: str = ""
    """`retire` or `undo`: what comes after the run."""
    returns_after_s: int = 25 * 3600
    """When somebody comes back to retire; an old key stays for a day."""
    early: bool = False
    """It comes as soon as the processes that meet something are over, wherever the run stands."""
    parallel: int = 1
    pilot: int = 1
    retries: int = 0
    """How many troubles in one process the responder answers with `retry`."""
    overrides: int = 0
    """How many gates in trouble the responder passes with a reason, in one process."""
    mutant: str = ""
    seed: int = 0

    @property
    def waits(self) -> Waits:
        """The waits in force."""
        return Waits(silence=self.silence)

    @property
    def silence_s(self) -> int:
        """How long an old key must have been silent before it goes off."""
        return self.silence if self.silence >= 0 else (14_400 if self.severity == "routine" else 0)


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """Somebody else acts, just before our remote call number `at`.

    Counted from 1, in that process: from its beginning, or once a create intent of ours is in the journal.
    """

    at: int
    what: str
    """`key`: mints one; `put-old`, `put-unknown`: writes into a sink; `off-new`: switches our new key off; `lease`:
    takes a lease on the user; `use-old`: signs with the old key; `build`: a build of the project fails."""
    where: str = "ci-deploy"
    """A user, a sink's id, or a project's slug."""
    at_once: bool = False
    """Counted from the beginning of the process."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of a case meets."""

    kill_at: int = 0
    """The instant at which it is killed; 0: never."""
    power: bool = False
    """The machine dies, not only the process: what was not synced is gone."""
    faults: tuple[str, ...] = ()
    strangers: tuple[Stranger, ...] = ()
