"""Containment, before the keys: note what their users have and, when misuse was seen, stop what runs with them.

Blocking all new work stops no job that runs; those are listed, and cancelled where the responder says so. While work
is blocked CircleCI refuses reruns and pipelines of ours too, a canary among them (facts, CircleCI section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from playbook.blast_radius import blast_radius
from playbook.errors import CircleCiError
from playbook.model import Action, Choice, Finding, Observation, Phase, Plan, Question, Severity, Status, Step
from playbook.ports import Organization, display
from playbook.scope import ask_severity
from steps.decisions import decide_keys
from steps.exposed_keys import by_user, to_contain
from steps.user_states import NoteUsers, in_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from playbook.model import Ask, Case
    from playbook.ports import CircleCiReader, Evidence, Pipeline, View, Workflow, World
    from steps.decisions import Decisions, KeyDecision

T = TypeVar("T")

RECENT: Final = timedelta(hours=24)
"""How old a pipeline may be whose workflows are looked at; a job ends after five hours."""
PIPELINES_MAX: Final = 500
NAMED_MAX: Final = 5
"""Places that one finding names; more are counted."""
NONE: Final = "none"
ALL: Final = "all"


@dataclass(frozen=True, kw_only=True)
class BlockNewWork(Action):
    """Keep every new pipeline and rerun of an organization from starting; what runs goes on."""

    kind: ClassVar[str] = "circleci:block-new-work"
    destroys: ClassVar[bool] = True

    organization: Organization

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}"

    @property
    def lane(self) -> str:
        return f"circleci:organization/{self.organization.slug}"

    def describe(self) -> str:
        return f"block all new work of {display(self.organization.slug)}: no pipeline or rerun starts"

    def observe(self, view: View) -> Observation:
        seen = view.circleci.running_disabled(self.organization)
        if seen:
            return Observation(status=Status.PRESENT, evidence={"running_disabled": True})
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=_by_hand(self.organization))
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"{display(self.organization.slug)} is blocked but does not show it yet"
            return Observation(status=Status.PENDING, reason=reason, wait="sink", otherwise=Status.ABSENT)
        return Observation(status=Status.ABSENT, evidence={"running_disabled": False})

    def apply(self, world: World) -> Evidence:
        world.circleci.set_running_disabled(self.organization, disabled=True)
        return {"running_disabled": True}

    def undo(self, done: Evidence) -> tuple[Action, ...]:
        del done
        return (AllowNewWork(organization=self.organization),)


@dataclass(frozen=True, kw_only=True)
class AllowNewWork(Action):
    """Lift the block that this case set; one that somebody else set before stays."""

    kind: ClassVar[str] = "circleci:allow-new-work"

    organization: Organization

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.organization.slug}"

    @property
    def lane(self) -> str:
        return f"circleci:organization/{self.organization.slug}"

    def describe(self) -> str:
        return f"allow new work of {display(self.organization.slug)} again"

    def observe(self, view: View) -> Observation:
        tried = view.past(f"{BlockNewWork.kind}:{self.organization.slug}")
        ours = any(attempt.failed != "none" for attempt in tried)
        if not ours:
            return Observation(status=Status.PRESENT, evidence={"blocked_by_us": False})
        seen = view.circleci.running_disabled(self.organization)
        if seen is None:
            reason = f"CircleCI does not say whether {display(self.organization.slug)} is blocked: {_PAGE}"
            return Observation(status=Status.CONFLICT, reason=reason)
        if not seen:
            return Observation(status=Status.PRESENT, evidence={"running_disabled": False})
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"{display(self.organization.slug)} is allowed to work again but does not show it yet"
            return Observation(status=Status.PENDING, reason=reason, wait="sink", otherwise=Status.ABSENT)
        return Observation(status=Status.ABSENT, evidence={"running_disabled": True})

    def apply(self, world: World) -> Evidence:
        world.circleci.set_running_disabled(self.organization, disabled=False)
        return {"running_disabled": False}


@dataclass(frozen=True, kw_only=True)
class CancelWorkflow(Action):
    """Cancel what still runs of one workflow; a rerun is what brings it back."""

    kind: ClassVar[str] = "circleci:cancel-workflow"
    destroys: ClassVar[bool] = True

    workflow_id: str
    name: str
    pipeline: str
    """The pipeline's id."""
    project: str
    """The project's slug."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.workflow_id}"

    @property
    def lane(self) -> str:
        return f"circleci:workflow/{self.workflow_id}"

    def describe(self) -> str:
        return f"cancel the workflow {display(self.name)} of {display(self.project)} ({display(self.workflow_id)})"

    def observe(self, view: View) -> Observation:
        found = next((item for item in view.circleci.workflows(self.pipeline) if item.id == self.workflow_id), None)
        if found is None:
            reason = f"the workflow {display(self.workflow_id)} is no longer listed by its pipeline"
            return Observation(status=Status.CONFLICT, reason=reason)
        evidence: Evidence = {"workflow": self.workflow_id, "status": found.status.value}
        if found.status.is_over:
            return Observation(status=Status.PRESENT, evidence=evidence)
        if any(attempt.applied is not None for attempt in view.past(self.key)):
            reason = f"{display(self.name)} of {display(self.project)} is cancelled and not over yet"
            return Observation(
                status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
            )
        return Observation(status=Status.ABSENT, evidence=evidence)

    def apply(self, world: World) -> Evidence:
        world.circleci.cancel_workflow(self.workflow_id)
        return {"workflow": self.workflow_id}


class StopNewWork(Step):
    """Note what the users have whose keys go off; on confirmed misuse, block new work and cancel what runs."""

    id = "stop_new_work"
    title = "Contain: stop new work"
    phase = Phase.CONTAINMENT
    kinds = (NoteUsers, BlockNewWork, AllowNewWork, CancelWorkflow)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Ask whether to block and what to cancel; nobody is asked unless misuse was seen."""
        decisions = decide_keys(view, case, ask)
        items = to_contain(decisions)
        actions: list[Action] = [
            NoteUsers(account=account, users=users) for account, users in in_batches(by_user(items))
        ]
        findings: list[Finding] = []
        if decisions.severity is Severity.CONFIRMED:
            organizations = decisions.inventory.organizations
            actions += _blocks(view, ask, organizations)
            findings += _about_blocks(view, organizations, actions)
            running = _Running(view, decisions, items)
            findings += running.findings()
            actions += running.ask_which(ask)
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def lift_blocks(view: View, organizations: Sequence[Organization], ask: Ask) -> tuple[AllowNewWork, ...]:
    """What lifts the blocks that the responder asked for, once the new keys are in place: for a later step."""
    if ask_severity(ask) is not Severity.CONFIRMED:
        return ()
    blocks = _blocks(view, ask, organizations)
    return tuple(AllowNewWork(organization=block.organization) for block in blocks)


# --- Blocking -------------------------------------------------------------------------------------------------------

_PAGE: Final = "look at Organization Settings > Advanced"


def _is_blocked(view: View, organization: Organization) -> bool | str:
    """Whether new work is blocked, or why that cannot be told."""
    try:
        seen = view.circleci.running_disabled(organization)
    except CircleCiError as error:
        if error.retryable:
            raise
        return error.code
    return "its API has no such setting" if seen is None else seen


def _by_hand(organization: Organization) -> str:
    return (
        f"New work of {display(organization.slug)} can be blocked by hand only: Organization Settings > Advanced "
        "in CircleCI's web app (where that is missing, stop building each project in its Project Settings)"
    )


def _blocks(view: View, ask: Ask, organizations: Sequence[Organization]) -> tuple[BlockNewWork, ...]:
    """The blocks that the responder wants, where CircleCI has such a setting."""
    able = [item for item in organizations if isinstance(_is_blocked(view, item), bool)]
    if not able:
        return ()
    wanted = ask(
        Question(
            id="incident.block_new_work",
            prompt=f"Block all new work of {', '.join(display(item.slug) for item in able)} until the new keys are in?",
            kind=bool,
            answer_key="incident.block_new_work",
            default=False,
        )
    )
    return tuple(BlockNewWork(organization=item) for item in able) if wanted else ()


def _about_blocks(view: View, organizations: Sequence[Organization], planned: Sequence[Action]) -> Iterator[Finding]:
    """What a block means, and where only hands can set one."""
    for organization in organizations:
        seen = _is_blocked(view, organization)
        if isinstance(seen, str):
            yield Finding(level="warning", text=f"{_by_hand(organization)} ({display(seen)}).")
        elif BlockNewWork(organization=organization) in planned:
            text = (
                f"While new work of {display(organization.slug)} is blocked no pipeline starts, no rerun and no canary "
                "either; what runs goes on. The block is lifted once the new keys are in place."
            )
            yield Finding(level="warning", text=text)


# --- What runs ------------------------------------------------------------------------------------------------------


class _Running:
    """The workflows that run now in projects that may use an exposed key."""

    def __init__(self, view: View, decisions: Decisions, items: Sequence[KeyDecision]) -> None:
        reach = blast_radius(decisions.inventory)
        keys = [item.key.id for item in items]
        self._projects = sorted({slug for key in keys if key in reach for slug in reach[key].projects})
        self._unread: list[str] = []
        self._cut = 0
        self.workflows = self._read(view)

    def _read(self, view: View) -> tuple[Workflow, ...]:
        circleci = view.circleci
        since = view.clock.now() - RECENT

        def pipelines(slug: str) -> tuple[Pipeline, ...]:
            return circleci.pipelines(slug, since)

        listed = view.gather(lambda slug: self._try(pipelines, slug, slug), self._projects)
        newest = sorted((one for found in listed for one in found), key=lambda one: one.created_at, reverse=True)
        self._cut = max(0, len(newest) - PIPELINES_MAX)
        found = view.gather(lambda one: self._workflows(circleci, one), newest[:PIPELINES_MAX])
        return tuple(item for items in found for item in items if not item.status.is_over)

    def _workflows(self, circleci: CircleCiReader, pipeline: Pipeline) -> tuple[Workflow, ...]:
        return self._try(circleci.workflows, pipeline.id, f"a pipeline of {pipeline.project}")

    def _try(self, read: Callable[[str], tuple[T, ...]], argument: str, where: str) -> tuple[T, ...]:
        try:
            return read(argument)
        except CircleCiError as error:
            self._unread.append(f"{display(where)} ({error.code})")
            return ()

    def findings(self) -> Iterator[Finding]:
        """What runs, and what could not be looked at."""
        for item in self.workflows:
            text = (
                f"It runs now and may hold an exposed key: workflow {display(item.name)} of {display(item.project)}, "
                f"{item.status.value} since {item.created_at.isoformat(timespec='minutes')} ({display(item.id)})."
            )
            yield Finding(level="warning", text=text)
        if self._unread:
            more = f" and {len(self._unread) - NAMED_MAX} more" if len(self._unread) > NAMED_MAX else ""
            text = f"What runs was not read everywhere: {'; '.join(self._unread[:NAMED_MAX])}{more}."
            yield Finding(level="danger", text=text)
        if self._cut:
            text = f"Only the {PIPELINES_MAX} newest pipelines of the last day were looked at; {self._cut} were not."
            yield Finding(level="warning", text=text)

    def ask_which(self, ask: Ask) -> Iterator[Action]:
        """The workflows that the responder wants cancelled."""
        if not self.workflows:
            return
        offered = [
            Choice(value=item.id, title=display(f"{item.name} of {item.project}, {item.status.value}"))
            for item in self.workflows
        ]
        chosen = ask(
            Question(
                id="incident.cancel_workflows",
                prompt="Which of the running workflows are cancelled?",
                kind=tuple,
                answer_key="incident.cancel_workflows",
                choices=(
                    Choice(value=NONE, title="none - they go on, and fail once their key is off"),
                    Choice(value=ALL, title="all of them"),
                    *offered,
                ),
                open_choices=True,
                default=(NONE,),
                proposal=(NONE,),
            )
        )
        for item in self.workflows:
            if item.id in chosen or ALL in chosen:
                yield CancelWorkflow(workflow_id=item.id, name=item.name, pipeline=item.pipeline, project=item.project)
