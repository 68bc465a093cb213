"""When builds may have failed because a key was being replaced, and which ones did: reads only.

The id and the secret of a pair are two writes, and between them the pair belongs to no key. A context shows the time
of each write, so CircleCI's own clock tells how long that was; a project shows none, and AWS's times bound it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from playbook import canary
from playbook.errors import CircleCiError, Effect
from playbook.model import Strategy
from playbook.ports import AccessKey, Pipeline, Sink, SinkKind, Workflow, WorkflowStatus, display
from steps.iam_keys import DeactivateKey, server_time
from steps.places import projects_of
from steps.replace_access_keys import CreateAccessKey, StoreKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.correlate import StoredVariable
    from playbook.inventory import Inventory
    from playbook.ports import Attempt, Job, Variables, View
    from steps.decisions import KeyDecision

LOOK_BACK: Final = timedelta(hours=5)
"""How long before a window a pipeline is looked for that still ran in it: no job runs longer than five hours."""
PIPELINES_MAX: Final = 500
"""Pipelines that are looked into, newest first: each costs a call, and a large organization starts thousands a day."""
FAILED: Final = frozenset({WorkflowStatus.FAILED, WorkflowStatus.ERROR})
_UNHARMED: Final = frozenset(
    {"success", "blocked", "not_run", "not_running", "on_hold", "canceled", "queued", "running", "skipped"}
)
"""Words for a job that did not fail."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time in which builds that use one place could not sign, or may have been unable to."""

    sink: Sink
    key: AccessKey
    """The key that was replaced."""
    start: datetime
    end: datetime | None
    """None: not over, or its end is not known."""
    why: str

    def overlaps(self, began: datetime, ended: datetime | None) -> bool:
        """Whether something that ran from then to then ran in it; what has no end runs still."""
        return (self.end is None or began <= self.end) and (ended is None or ended >= self.start)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How long the two halves of one pair did not belong together, by CircleCI's own clock."""

    sink: Sink
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What became of the places of the replaced keys, and what of it could not be told."""

    windows: tuple[Window, ...] = ()
    gaps: tuple[Gap, ...] = ()
    unmeasured: tuple[Sink, ...] = ()
    """Places that show no times: every project."""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FailedBuild:
    """One workflow that failed in a window and was not run again since."""

    workflow: Workflow
    pipeline: Pipeline
    window: Window


@dataclass(frozen=True, kw_only=True)
class FailedBuilds:
    """What failed in the windows, and what of it could not be told."""

    builds: tuple[FailedBuild, ...]
    unread: tuple[str, ...] = ()
    """The projects whose builds could not be read, each with the reason."""
    not_looked_at: int = 0
    """Older pipelines beyond the limit."""


def find_windows(view: View, decided: Iterable[KeyDecision]) -> Windows:
    """The windows of every place that this run wrote a new key into."""
    windows: list[Window] = []
    gaps: list[Gap] = []
    unmeasured: list[Sink] = []
    doubts: list[str] = []
    decided = tuple(decided)
    lists = _lists(view, [place.stored for item in decided for place in item.places])
    for item in decided:
        off_at = _switched_off_at(view, item)
        for place in item.places:
            sink = place.stored.sink
            names = (place.stored.variable.name, str(place.secret_name))
            attempts = _writes(view, sink, names[0])
            if not attempts:
                continue
            shown = lists.get(sink)
            torn = _torn(shown, names, attempts) if not isinstance(shown, CircleCiError) else None
            if isinstance(shown, CircleCiError):
                doubts.append(f"when {display(sink.name)} was written could not be read ({shown.code})")
            if torn is not None:
                gaps.append(Gap(sink=sink, seconds=(torn[1] - torn[0]).total_seconds()))
                why = "its key id and its secret did not belong together"
                windows.append(Window(sink=sink, key=item.key, start=torn[0], end=torn[1], why=why))
            elif (made_at := _minted_at(view, item)) is not None:
                unmeasured.append(sink)
                end = off_at if item.strategy is Strategy.REPLACE else None
                why = "its key was being replaced; CircleCI does not show when"
                windows.append(Window(sink=sink, key=item.key, start=made_at, end=end, why=why))
            if item.strategy is Strategy.CONTAIN and off_at is not None:
                end = torn[1] if torn is not None else None
                why = "its old key was off already"
                windows.append(Window(sink=sink, key=item.key, start=off_at, end=end, why=why))
    return Windows(windows=tuple(windows), gaps=tuple(gaps), unmeasured=tuple(unmeasured), doubts=tuple(doubts))


def _writes(view: View, sink: Sink, id_variable: str) -> list[Attempt]:
    """The tries to write a new pair there that may have had an effect, oldest first."""
    tried = view.past(f"{StoreKey.kind}:{sink.kind.value}/{sink.id}/{id_variable}")
    return [attempt for attempt in tried if attempt.failed != Effect.NONE]


def _lists(view: View, stored: Sequence[StoredVariable]) -> dict[Sink, Variables | CircleCiError]:
    """What each context with a new pair shows, or why it cannot be read; each is read once, all side by side."""
    written = [item for item in stored if item.sink.kind is SinkKind.CONTEXT]
    sinks = tuple({item.sink: None for item in written if _writes(view, item.sink, item.variable.name)})

    def read(sink: Sink) -> Variables | CircleCiError:
        try:
            return view.circleci.variables(sink)
        except CircleCiError as error:
            return error

    return dict(zip(sinks, view.gather(read, sinks), strict=True))


def _torn(
    stored: Variables | None, names: tuple[str, str], attempts: Sequence[Attempt]
) -> tuple[datetime, datetime] | None:
    """From the first half written to the last; None where CircleCI shows no times, as for projects."""
    if stored is None:
        return None
    found = [variable for name in names if (variable := stored.find(name)) is not None]
    shown = [variable.updated_at for variable in found if variable.updated_at is not None]
    if len(shown) < len(names):
        return None
    # A pair that was written again after a crash was torn since the first try: what each later try saw, and the first
    # one did not, is a write of ours.
    before = set(_seen(attempts[0]))
    ours = [moment for attempt in attempts[1:] for moment in _seen(attempt) if moment not in before]
    return min([*shown, *ours]), max(shown)


def _seen(attempt: Attempt) -> list[datetime]:
    times = attempt.basis.get("updated_at")
    return [datetime.fromisoformat(str(text)) for text in times] if isinstance(times, list | tuple) else []


def _minted_at(view: View, item: KeyDecision) -> datetime | None:
    """AWS's time of the first key made in its place."""
    made = view.past(f"{CreateAccessKey.kind}:{item.lane}/{item.key.id}")
    times = [server_time(attempt.applied) for attempt in made if attempt.applied is not None]
    return min((moment for moment in times if moment is not None), default=None)


def _switched_off_at(view: View, item: KeyDecision) -> datetime | None:
    """AWS's time of the first switching off."""
    done = view.past(f"{DeactivateKey.kind}:{item.lane}/{item.key.id}")
    times = [server_time(attempt.applied) for attempt in done if attempt.applied is not None]
    return min((moment for moment in times if moment is not None), default=None)


# --- Builds ---------------------------------------------------------------------------------------------------------


def find_failed(view: View, inventory: Inventory, windows: Sequence[Window]) -> FailedBuilds:
    """The workflows that failed in a window, newest first, each once; what was not looked at is said."""
    by_project: defaultdict[str, list[Window]] = defaultdict(list)
    users = {window.sink: projects_of(inventory, window.sink) for window in windows}
    for window in windows:
        for project in users[window.sink]:
            by_project[project.slug].append(window)
    unread: list[str] = []
    listed = view.gather(lambda pair: _pipelines(view, *pair, unread), list(by_project.items()))
    newest = sorted((one for found in listed for one in found), key=lambda one: one.created_at, reverse=True)
    read = view.gather(lambda one: _of_pipeline(view, one, by_project[one.project], unread), newest[:PIPELINES_MAX])
    failed = [build for builds in read for build in builds]
    return FailedBuilds(
        builds=tuple(sorted(failed, key=lambda build: build.workflow.created_at, reverse=True)),
        unread=tuple(dict.fromkeys(unread)),
        not_looked_at=max(0, len(newest) - PIPELINES_MAX),
    )


def _pipelines(view: View, slug: str, windows: list[Window], unread: list[str]) -> list[Pipeline]:
    """The project's pipelines that may have run in one of its windows."""
    since = min(window.start for window in windows) - LOOK_BACK
    ends = [window.end for window in windows]
    until = None if None in ends else max(end for end in ends if end is not None)
    try:
        found = view.circleci.pipelines(slug, since)
    except CircleCiError as error:
        unread.append(f"{slug} ({error.code})")
        return []
    return [replace(one, project=slug) for one in found if until is None or one.created_at <= until]


def _of_pipeline(view: View, pipeline: Pipeline, windows: list[Window], unread: list[str]) -> list[FailedBuild]:
    try:
        workflows = view.circleci.workflows(pipeline.id)
    except CircleCiError as error:
        unread.append(f"{pipeline.project} ({error.code})")
        return []
    found = []
    for workflow in workflows:
        # Our own canary says by itself what it saw, and is no build of theirs.
        if workflow.status not in FAILED or workflow.name == canary.WORKFLOW or newer_runs(workflow, workflows):
            continue
        hit = [window for window in windows if window.overlaps(workflow.created_at, workflow.stopped_at)]
        if hit and (window := _hit_by_a_job(view, workflow, hit)) is not None:
            found.append(FailedBuild(workflow=workflow, pipeline=pipeline, window=window))
    return found


def newer_runs(workflow: Workflow, workflows: Iterable[Workflow]) -> list[Workflow]:
    """The later runs of the same workflow in the same pipeline, newest first: a rerun keeps the name."""
    later = [
        other
        for other in workflows
        if other.id != workflow.id and other.name == workflow.name and other.created_at > workflow.created_at
    ]
    return sorted(later, key=lambda other: other.created_at, reverse=True)


def _hit_by_a_job(view: View, workflow: Workflow, windows: list[Window]) -> Window | None:
    """The first window in which one of its failed jobs ran; a workflow that shows none counts by its own time."""
    try:
        failed = [job for job in view.circleci.jobs(workflow.id) if job.status not in _UNHARMED]
    except CircleCiError:
        failed = []
    timed = [(job.started_at, job) for job in failed if job.started_at is not None]
    if not timed:
        return windows[0]
    return next((window for window in windows if any(_ran_in(window, began, job) for began, job in timed)), None)


def _ran_in(window: Window, began: datetime, job: Job) -> bool:
    return window.overlaps(began, job.stopped_at)
