"""Recovery: allow new work again, say how long builds could not sign, and run again what failed because of it.

It begins when everything before it is settled: a block that is lifted too early lets builds run with exposed secrets,
and CircleCI refuses reruns while it stands (facts/circleci 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.errors import CircleCiError, Effect
from playbook.model import Action, Finding, Observation, Phase, Plan, Question, Status, Step
from playbook.ports import Organization, WorkflowStatus, display
from steps.build_windows import FailedBuild, FailedBuilds, Gap, Windows, find_failed, find_windows, newer_runs
from steps.decisions import REPLACING, decide_keys
from steps.stop_new_work import AllowNewWork, BlockNewWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.inventory import Inventory
    from playbook.model import Ask, Case
    from playbook.ports import Attempt, Evidence, View, Workflow, World

BY_HAND: Final = "in CircleCI, Organization Settings, Advanced, allow new work"
WATCH_S: Final = 10.0
NAMED_MAX: Final = 20
"""Places that a finding names; of the gaps the longest, for the median speaks for the others."""


@dataclass(frozen=True, kw_only=True)
class RerunWorkflow(Action):
    """Run a failed workflow again from where it failed, once, and watch it to its end.

    A rerun is a new workflow of the same name in the same pipeline, so that a try whose reply was lost is found there.
    """

    kind: ClassVar[str] = "circleci:rerun-workflow"
    at_most_once: ClassVar[bool] = True

    project: str
    """The project's slug."""
    pipeline: str
    number: int
    """The pipeline's, by which people find it."""
    workflow: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.workflow}"

    @property
    def lane(self) -> str:
        return f"circleci:workflow/{self.workflow}"

    @property
    def page(self) -> str:
        """Where a person finds it."""
        where = f"pipeline {self.number}, workflow {display(self.name)}"
        return f"in CircleCI, Pipelines, project {display(self.project)}, {where}"

    def describe(self) -> str:
        return (
            f"run {display(self.name)} of {display(self.project)} (pipeline {self.number}) again from where it failed"
        )

    def observe(self, view: View) -> Observation:
        workflows = view.circleci.workflows(self.pipeline)
        failed = next((item for item in workflows if item.id == self.workflow), None)
        if failed is None:
            reason = f"the failed workflow is no longer listed: look {self.page}"
            return Observation(status=Status.CONFLICT, reason=reason)
        later = newer_runs(failed, workflows)
        evidence: Evidence = {"before": [item.id for item in later]}
        attempts = [attempt for attempt in view.past(self.key) if attempt.failed != Effect.NONE]
        if not attempts:
            # A rerun that somebody else began serves as well; a second one beside it would do the same work twice.
            return self._watch(later) if later else Observation(status=Status.ABSENT, evidence=evidence)
        return self._observe_tried(attempts[-1], later, evidence)

    def _observe_tried(self, last: Attempt, later: list[Workflow], evidence: Evidence) -> Observation:
        if last.applied is not None:
            made = str(last.applied["workflow"])
            at = next((number for number, item in enumerate(later) if item.id == made), None)
            if at is not None:
                # Whoever ran it once more since then settles it too.
                return self._watch(later[: at + 1])
            reason = f"the rerun of {display(self.name)} is accepted but not listed yet"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="visible")
        before = last.basis.get("before")
        known = {str(item) for item in before} if isinstance(before, list | tuple) else set()
        fresh = [item for item in later if item.id not in known]
        if fresh:
            return self._watch(fresh)
        reason = f"the last try may have started {display(self.name)} again, which is not listed yet"
        return Observation(
            status=Status.PENDING, evidence=evidence, reason=reason, wait="visible", otherwise=Status.ABSENT
        )

    def _watch(self, runs: list[Workflow]) -> Observation:
        """How the reruns go, newest first: one success is enough, and a failure counts only once none runs."""
        passed = next((run for run in runs if run.status is WorkflowStatus.SUCCESS), None)
        if passed is not None:
            evidence: Evidence = {"workflow": passed.id, "status": passed.status.value}
            return Observation(status=Status.PRESENT, evidence=evidence)
        going = next((run for run in runs if not run.status.is_over), None)
        run = going or runs[0]
        evidence = {"workflow": run.id, "status": run.status.value}
        if going is None:
            reason = f"the rerun of {display(self.name)} ended as {run.status.value}: look {self.page}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        waits = ", and waits for an approval there" if run.status is WorkflowStatus.ON_HOLD else ""
        reason = f"the rerun of {display(self.name)} is {run.status.value}{waits}: {self.page}"
        return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=WATCH_S)

    def apply(self, world: World) -> Evidence:
        return {"workflow": world.circleci.rerun_workflow(self.workflow, from_failed=True)}


class ConfirmBuilds(Step):
    """See that builds go on, once everything before is settled."""

    id = "confirm_builds"
    title = "Confirm that builds go on"
    phase = Phase.RECOVERY
    kinds = (AllowNewWork, RerunWorkflow)
    closing = True

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan the lifting of our block and the reruns that somebody wants; say what could not sign, and how long."""
        decisions = decide_keys(view, case, ask)
        lifts, findings = _lift_blocks(view, decisions.inventory)
        replaced = [item for item in decisions.keys if item.strategy in REPLACING]
        windows = find_windows(view, replaced)
        findings += _about_gaps(windows)
        failed = find_failed(view, decisions.inventory, windows.windows)
        answers = ask.all([_rerun_question(build) for build in failed.builds])
        findings += _doubts(windows, failed)
        lifted = {action.organization.slug: action.key for action in lifts}
        organizations = {project.slug: project.organization for project in decisions.inventory.projects}
        reruns: list[Action] = []
        for build, wanted in zip(failed.builds, answers, strict=True):
            organization = organizations.get(build.workflow.project, "")
            after = (lifted[organization],) if organization in lifted else ()
            rerun = _rerun(build, after)
            reruns += [rerun] if wanted else []
            findings += [] if wanted else [_left_failed(build, rerun)]
        return Plan(step=self.id, actions=(*lifts, *reruns), findings=tuple(findings))


def _lift_blocks(view: View, inventory: Inventory) -> tuple[list[AllowNewWork], list[Finding]]:
    """Lift what this case blocked; a block that somebody else set is theirs."""
    lifts: list[AllowNewWork] = []
    findings: list[Finding] = []
    for organization in inventory.organizations:
        # Blocked already when this case wanted it means that somebody else did it.
        tried = view.past(BlockNewWork(organization=organization).key)
        ours = any(attempt.failed != Effect.NONE for attempt in tried)
        blocked = _is_blocked(view, organization)
        slug = display(organization.slug)
        if ours and blocked:
            lifts.append(AllowNewWork(organization=organization))
        elif ours and blocked is None:
            text = f"This case blocked new work in {slug}, and whether it still is cannot be read: {BY_HAND}."
            findings.append(Finding(level="danger", text=text))
        elif blocked:
            text = f"New work in {slug} is blocked, not by this case: it stays blocked until somebody allows it."
            findings.append(Finding(level="warning", text=text))
    return lifts, findings


def _is_blocked(view: View, organization: Organization) -> bool | None:
    try:
        return view.circleci.running_disabled(organization) if organization.id else None
    except CircleCiError:
        return None


def _about_gaps(windows: Windows) -> list[Finding]:
    """How long pairs were torn: the median and the longest, then the longest by name."""
    findings: list[Finding] = []
    if windows.gaps:
        longest = sorted(windows.gaps, key=lambda gap: gap.seconds, reverse=True)
        middle = median(gap.seconds for gap in windows.gaps)
        text = (
            f"Between the key id and the secret of one place passed {middle:.1f} s (median of {len(longest)}), "
            f"at most {longest[0].seconds:.1f} s, by CircleCI's clock: {_named(longest)}."
        )
        findings.append(Finding(level="note", text=text))
    if windows.unmeasured:
        names = ", ".join(dict.fromkeys(display(sink.name) for sink in windows.unmeasured[:NAMED_MAX]))
        text = f"CircleCI shows no times for the variables of projects, so that gap is not known: {names}."
        findings.append(Finding(level="note", text=text))
    return findings


def _doubts(windows: Windows, failed: FailedBuilds) -> list[Finding]:
    """What keeps the list of failed builds from being an all-clear."""
    said = list(windows.doubts)
    if failed.unread:
        more = len(failed.unread) - NAMED_MAX
        named = ", ".join(display(item) for item in failed.unread[:NAMED_MAX])
        said.append(f"the builds of {named}{f', and of {more} more' if more > 0 else ''} could not be read")
    if failed.not_looked_at:
        said.append(f"{failed.not_looked_at} older pipelines were not looked into")
    return [Finding(level="warning", text=f"Not known: {doubt}.") for doubt in said]


def _named(longest: Sequence[Gap]) -> str:
    named = [f"{gap.sink.kind.value} {display(gap.sink.name)} {gap.seconds:.1f} s" for gap in longest[:NAMED_MAX]]
    more = len(longest) - NAMED_MAX
    return ", ".join(named) + (f", and {more} more" if more > 0 else "")


def _rerun_question(build: FailedBuild) -> Question[bool]:
    key, workflow = build.window.key, build.workflow
    number = build.pipeline.number
    return Question(
        id=f"keys.rerun_failed:{workflow.id}",
        prompt=f"Run {display(workflow.name)} of {display(workflow.project)} (pipeline {number}) again?",
        kind=bool,
        answer_key="keys.rerun_failed",
        subject={"user": key.user, "account": key.account, "id": key.id},
        default=False,
        detail={
            "project": workflow.project,
            "workflow": workflow.name,
            "pipeline": str(number),
            "began": workflow.created_at.isoformat(timespec="seconds"),
            "why": f"{build.window.sink.name}: {build.window.why}",
        },
    )


def _rerun(build: FailedBuild, after: tuple[str, ...]) -> RerunWorkflow:
    return RerunWorkflow(
        project=build.workflow.project,
        pipeline=build.pipeline.id,
        number=build.pipeline.number,
        workflow=build.workflow.id,
        name=build.workflow.name,
        after=after,
    )


def _left_failed(build: FailedBuild, rerun: RerunWorkflow) -> Finding:
    where = f"{build.window.sink.kind.value} {display(build.window.sink.name)}"
    text = (
        f"{display(build.workflow.name)} of {display(build.workflow.project)} failed while it could not use {where} "
        f"({build.window.why}), and is not run again: {rerun.page}, Rerun from failed."
    )
    return Finding(level="warning", text=text)
