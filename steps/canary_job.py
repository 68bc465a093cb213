"""The canary as an action: a job on CircleCI signs with what was stored, and says who it is.

A read-back proves that a value was stored; only a job proves that CI finds it where it looks. An inline config may
not use a restricted context (facts/circleci 2.7) and may be forbidden altogether; then a workflow that the responder
names is run again instead, and its success is the verdict.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.canary import JOB, WORKFLOW, CanaryReport, read_report, with_keys
from playbook.errors import CircleCiError, Effect, ServiceError
from playbook.model import Action, Observation, Status
from playbook.ports import Project, Sink, SinkKind, WorkflowStatus, display
from steps.iam_keys import Pair, minted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Evidence, View, Workflow, World

POLL_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class CanaryAction(Action):
    """What every canary shares: it runs in one project on behalf of one key, and is watched to its end."""

    permissions: ClassVar[frozenset[str]] = frozenset()
    gate: ClassVar[str] = "canary"

    account: str
    user: str
    old_key_id: str
    project: Project

    @property
    @abstractmethod
    def means(self) -> str:
        """What the job reaches AWS with, for a sentence."""

    @property
    def subject(self) -> Mapping[str, str]:
        return {"user": self.user, "account": self.account, "id": self.old_key_id}

    def _applied(self, view: View, name: str) -> str:
        """What the last try that counts has started, by its id; empty when there is none."""
        tries = [attempt for attempt in view.past(self.key) if not attempt.reset and attempt.applied is not None]
        return str(tries[-1].applied[name]) if tries and tries[-1].applied is not None else ""

    def _wait_for(self, workflow: Workflow) -> Observation | None:
        """Nothing once the workflow succeeded; else what it waits for, or why it failed."""
        where = f"workflow {display(workflow.name)} in {display(self.project.slug)}"
        evidence: Evidence = {"workflow": workflow.id, "status": workflow.status.value}
        if workflow.status is WorkflowStatus.UNAUTHORIZED:
            reason = f"{where} may not use {self.means}: a restriction keeps it out"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if not workflow.status.is_over:
            reason = f"{where} is {workflow.status.value}"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=POLL_S)
        return None


@dataclass(frozen=True, kw_only=True)
class InlineCanary(CanaryAction):
    """Run a one-job config of ours, and compare who it was with whom it should be."""

    def observe(self, view: View) -> Observation:
        pipeline_id = self._applied(view, "pipeline")
        if not pipeline_id:
            return Observation(status=Status.ABSENT)
        pipeline = view.circleci.pipeline(pipeline_id)
        if pipeline.errors:
            reason = f"CircleCI did not run the canary: {display(pipeline.errors[0])}"
            return Observation(status=Status.CONFLICT, evidence={"pipeline": pipeline_id}, reason=reason)
        workflows = view.circleci.workflows(pipeline_id)
        evidence: Evidence = {"pipeline": pipeline_id}
        if not workflows:
            reason = f"the canary in {display(self.project.slug)} has not begun"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, again_s=POLL_S)
        ours = next((item for item in workflows if item.name == WORKFLOW), None)
        if ours is None:
            # Said of projects on the OAuth integration: the config is dropped without a word.
            reason = f"CircleCI ran {display(workflows[0].name)} of {display(self.project.slug)} instead of the canary"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return self._wait_for(ours) or self._verdict(view, ours)

    def _verdict(self, view: View, workflow: Workflow) -> Observation:
        job = next((job for job in view.circleci.jobs(workflow.id) if job.name == JOB and job.number is not None), None)
        evidence: Evidence = {"pipeline": workflow.pipeline, "workflow": workflow.id, "status": workflow.status.value}
        if job is None or job.number is None:
            reason = f"the canary in {display(self.project.slug)} ended without its job ({workflow.status.value})"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        report = read_report(view.circleci.test_results(self.project.slug, job.number))
        if report.is_empty:
            reason = f"the canary in {display(self.project.slug)} is over, and what it saw cannot be read yet"
            return Observation(status=Status.PENDING, evidence=evidence, reason=reason, wait="sink")
        if report.failure:
            reason = f"a job with {self.means} could not sign: {report.failure}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return self._compare(view, report, {**evidence, "account": report.account, "arn": report.arn})

    @abstractmethod
    def _compare(self, view: View, report: CanaryReport, evidence: Evidence) -> Observation:
        """Judge what the job saw."""

    @abstractmethod
    def _config(self) -> str:
        """The configuration to run."""

    def _branch(self, view: View) -> str:
        """The branch that the job says it is of."""
        return view.circleci.default_branch(self.project)

    def apply(self, world: World) -> Evidence:
        definitions = world.circleci.pipeline_definitions(self.project)
        if not definitions:
            raise CircleCiError(
                f"the canary in {display(self.project.slug)}, which has no pipeline definition",
                code="NoPipelineDefinition",
                effect=Effect.NONE,
                retryable=False,
            )
        started = world.circleci.run_inline(self.project, definitions[0], self._branch(world), self._config())
        return {"pipeline": started.id, "project": self.project.slug}


@dataclass(frozen=True, kw_only=True)
class PairCanary(CanaryAction):
    """A canary of one place of a key."""

    pair: Pair

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.pair.id}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.pair.id}"

    @property
    def means(self) -> str:
        return self.pair.describe()


@dataclass(frozen=True, kw_only=True)
class RunCanary(InlineCanary, PairCanary):
    """Run our one-job config with the place attached, and compare who it was with whom it should be."""

    kind: ClassVar[str] = "circleci:run-canary"

    user_arn: str
    mint: str
    region: str

    def describe(self) -> str:
        return f"run a canary job in {display(self.project.slug)} that signs with {self.pair.describe()}"

    def _compare(self, view: View, report: CanaryReport, evidence: Evidence) -> Observation:
        made = minted(view, self.mint)
        new = made[-1] if made else ""
        if report.tail != new[-4:]:
            reason = f"a job with {self.pair.describe()} signed with another key than {new}{self._shadow(view, report)}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if report.account != self.account or (self.user_arn and report.arn != self.user_arn):
            reason = f"a job with {self.pair.describe()} is {display(report.arn)}, not {display(self.user_arn)}"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        return Observation(status=Status.PRESENT, evidence={**evidence, "key_id": new})

    def _shadow(self, view: View, report: CanaryReport) -> str:
        """Which other place holds what the job found instead."""
        if self.pair.sink.kind is SinkKind.PROJECT:
            return ": somebody wrote another one"
        slug = self.project.slug
        place = Sink(kind=SinkKind.PROJECT, id=slug, name=slug, organization=self.project.organization)
        try:
            seen = view.circleci.variables(place).find(self.pair.id_variable)
        except ServiceError:
            seen = None
        if seen is not None and seen.tail == report.tail:
            return f": the project variable {display(self.pair.id_variable)} of {display(slug)} has it"
        return ": another source hides what was written"

    def _config(self) -> str:
        sink = self.pair.sink
        contexts = [sink.name] if sink.kind is SinkKind.CONTEXT else []
        return with_keys(contexts, self.pair.id_variable, self.pair.secret_variable, self.region)


@dataclass(frozen=True, kw_only=True)
class RerunAsCanary(PairCanary):
    """Run a workflow that the responder named once more; that it succeeds with the new key is the verdict."""

    kind: ClassVar[str] = "circleci:rerun-as-canary"

    workflow: str
    """The workflow's name; its newest run that is over is run again."""

    def describe(self) -> str:
        return (
            f"run workflow {display(self.workflow)} of {display(self.project.slug)} again, with {self.pair.describe()}"
        )

    def observe(self, view: View) -> Observation:
        rerun = self._applied(view, "workflow")
        if not rerun:
            return Observation(status=Status.ABSENT)
        pipeline = self._applied(view, "pipeline")
        found = next((item for item in view.circleci.workflows(pipeline) if item.id == rerun), None)
        if found is None:
            reason = f"the rerun of {display(self.workflow)} is not listed yet"
            return Observation(status=Status.PENDING, reason=reason, wait="sink")
        waiting = self._wait_for(found)
        if waiting is not None:
            return waiting
        evidence: Evidence = {"workflow": rerun, "pipeline": pipeline, "status": found.status.value}
        if found.status is WorkflowStatus.SUCCESS:
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"workflow {display(self.workflow)} of {display(self.project.slug)} ended {found.status.value}"
        return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)

    def apply(self, world: World) -> Evidence:
        since = world.clock.now().replace(year=world.clock.now().year - 1, day=1)
        for pipeline in world.circleci.pipelines(self.project.slug, since):
            for workflow in world.circleci.workflows(pipeline.id):
                if workflow.name == self.workflow and workflow.status.is_over:
                    new = world.circleci.rerun_workflow(workflow.id, from_failed=False)
                    return {"pipeline": pipeline.id, "workflow": new}
        raise CircleCiError(
            f"the rerun of {display(self.workflow)} in {display(self.project.slug)}, which never ran",
            code="NoSuchWorkflow",
            effect=Effect.NONE,
            retryable=False,
        )
