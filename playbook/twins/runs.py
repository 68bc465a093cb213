"""Pipelines, workflows and jobs on the twin: how they start, what is seen of them as time passes, how they end.

A run is stored with the times at which its jobs end; what is seen is worked out from the clock, so nothing has to
tick. The calls are `CircleCiTwin`'s, which this module does the work for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from playbook.ports import Job, Pipeline, StoredTest, Workflow, WorkflowStatus
from playbook.twins.inline_config import ConfigError, PlannedJob, read_config
from playbook.twins.jobs import FAILED, SUCCESS, UNAUTHORIZED, Run, carry_out
from playbook.twins.refusals import inline_config_forbidden, refusal
from playbook.twins.state import RunJob, RunPipeline, RunWorkflow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playbook.twins.remote import Remote
    from playbook.twins.state import StoredProject

RUNNING: Final = "running"
ON_HOLD: Final = "on_hold"
CANCELED: Final = "canceled"
OWN_WORKFLOW: Final = "build"
"""What the workflow and the job of the repository's own configuration are called."""


# --- What is seen ---------------------------------------------------------------------------------------------------


def pipeline_seen(stored: RunPipeline) -> Pipeline:
    """A pipeline as its reader sees it."""
    return Pipeline(
        id=stored.id,
        project=stored.project,
        created_at=stored.created_at,
        number=stored.number,
        errors=stored.errors,
    )


def workflow_seen(world: Remote, owner: RunPipeline, stored: RunWorkflow) -> Workflow:
    """A workflow as its reader sees it now."""
    status = _status(job_status(world, job) for job in stored.jobs)
    ends = [job.stopped_at for job in stored.jobs if job.stopped_at is not None]
    return Workflow(
        id=stored.id,
        name=stored.name,
        pipeline=owner.id,
        project=owner.project,
        status=status,
        created_at=stored.created_at,
        stopped_at=max(ends, default=stored.created_at) if status.is_over else None,
    )


def job_seen(world: Remote, stored: RunJob) -> Job:
    """A job as its reader sees it now."""
    status = job_status(world, stored)
    return Job(
        id=stored.id,
        name=stored.name,
        status=status,
        number=stored.number,
        started_at=stored.started_at,
        stopped_at=None if status == RUNNING else stored.stopped_at,
    )


def tests_seen(world: Remote, project: StoredProject, number: int) -> tuple[StoredTest, ...]:
    """The test cases of a job by its number in its project; a job's appear a moment after its end."""
    job = next((item for item in _jobs_of(world, project) if item.number == number), None)
    if job is None:
        raise refusal("test_results", 404)
    stored_at = job.stopped_at
    if stored_at is None or stored_at > world.ago(world.switches.results_lag_s):
        return ()
    return tuple(StoredTest(name=item.name, classname=item.classname, result=SUCCESS) for item in job.tests)


def job_status(world: Remote, job: RunJob) -> str:
    """CircleCI's word for a job's state now."""
    if job.started_at is None:
        return job.status
    return RUNNING if job.stopped_at is None or job.stopped_at > world.clock.now() else job.status


def _status(words: Iterable[str]) -> WorkflowStatus:
    seen = set(words)
    has_failed = bool(seen & {FAILED, "infrastructure_fail", "timedout"})
    if RUNNING in seen:
        return WorkflowStatus.FAILING if has_failed or UNAUTHORIZED in seen else WorkflowStatus.RUNNING
    if UNAUTHORIZED in seen:
        return WorkflowStatus.UNAUTHORIZED
    if CANCELED in seen:
        return WorkflowStatus.CANCELED
    if has_failed:
        return WorkflowStatus.FAILED
    if ON_HOLD in seen:
        return WorkflowStatus.ON_HOLD
    return WorkflowStatus.SUCCESS if SUCCESS in seen else WorkflowStatus.NOT_RUN


# --- What is done ---------------------------------------------------------------------------------------------------


def find_pipeline(world: Remote, operation: str, pipeline_id: str) -> RunPipeline:
    """A pipeline by its id, or a refusal."""
    found = world.state.circleci.pipelines.get(pipeline_id)
    if found is None:
        raise refusal(operation, 404)
    return found


def find_workflow(world: Remote, operation: str, workflow_id: str) -> tuple[RunPipeline, RunWorkflow]:
    """A workflow by its id with its pipeline, or a refusal."""
    for pipeline in world.state.circleci.pipelines.values():
        for workflow in pipeline.workflows:
            if workflow.id == workflow_id:
                return pipeline, workflow
    raise refusal(operation, 404)


def allows_inline(world: Remote, project: StoredProject) -> bool | None:
    """Whether the project and its organization both allow a configuration that comes with a request."""
    owner = world.state.circleci.organizations[project.organization]
    said = (owner.inline_config, project.inline_config)
    return False if False in said else None if None in said else True


def start_inline(world: Remote, project: StoredProject, definition_id: str, branch: str, config: str) -> RunPipeline:
    """Start a pipeline with a configuration that came with the request."""
    if not any(item.id == definition_id for item in project.definitions):
        raise refusal("run_inline", 404)
    if allows_inline(world, project) is False:
        raise inline_config_forbidden("run_inline")
    _require_running(world, "run_inline", project)
    made = _new_pipeline(world, project, branch, unversioned=True)
    try:
        planned = read_config(config)
    except ConfigError as error:
        made.errors = (error.args[0],)
        return made
    for item in planned:
        jobs = [_new_job(world, job) for job in item.jobs]
        _start(world, project, made, item.name, jobs)
    return made


def start_own(world: Remote, project: StoredProject, branch: str) -> RunPipeline:
    """Start a pipeline with the repository's own configuration, of which the twin knows nothing but that it runs."""
    _require_running(world, "run_inline", project)
    made = _new_pipeline(world, project, branch, unversioned=False)
    _start(world, project, made, OWN_WORKFLOW, [_new_job(world, PlannedJob(name=OWN_WORKFLOW))])
    return made


def rerun(world: Remote, workflow_id: str, *, from_failed: bool) -> RunWorkflow:
    """Run a workflow again; `from_failed` keeps the jobs that succeeded, and needs one that did not."""
    pipeline, old = find_workflow(world, "rerun_workflow", workflow_id)
    projects = world.state.circleci.projects.values()
    project = next((item for item in projects if item.slug == pipeline.project and not item.deleted), None)
    if project is None:
        raise refusal("rerun_workflow", 404)
    _require_running(world, "rerun_workflow", project)
    kept = [from_failed and job_status(world, job) == SUCCESS for job in old.jobs]
    if from_failed and all(kept):
        raise refusal("rerun_workflow", 400)
    jobs = [
        job
        if is_kept
        else RunJob(
            id=world.new_id(),
            name=job.name,
            contexts=job.contexts,
            signing=job.signing,
            tells=job.tells,
            status=ON_HOLD if job.started_at is None and job.status == ON_HOLD else SUCCESS,
        )
        for job, is_kept in zip(old.jobs, kept, strict=True)
    ]
    return _start(world, project, pipeline, old.name, jobs)


def cancel(world: Remote, workflow_id: str) -> None:
    """End what still runs or waits of a workflow."""
    now = world.clock.now()
    _, workflow = find_workflow(world, "cancel_workflow", workflow_id)
    for job in workflow.jobs:
        if job_status(world, job) in (RUNNING, ON_HOLD):
            job.status, job.stopped_at, job.tests = CANCELED, now, []


def _require_running(world: Remote, operation: str, project: StoredProject) -> None:
    if world.state.circleci.organizations[project.organization].running_disabled:
        raise refusal(operation, world.switches.blocked_status)


def _new_pipeline(world: Remote, project: StoredProject, branch: str, *, unversioned: bool) -> RunPipeline:
    pipelines = world.state.circleci.pipelines
    number = 1 + max((item.number for item in pipelines.values() if item.project == project.slug), default=0)
    made = RunPipeline(
        id=world.new_id(),
        project=project.slug,
        number=number,
        created_at=world.clock.now(),
        branch=branch,
        unversioned=unversioned,
    )
    pipelines[made.id] = made
    return made


def _new_job(world: Remote, planned: PlannedJob) -> RunJob:
    return RunJob(
        id=world.new_id(),
        name=planned.name,
        contexts=planned.contexts,
        signing=planned.signing,
        tells=planned.tells,
        status=ON_HOLD if planned.waits else SUCCESS,
    )


def _start(world: Remote, project: StoredProject, pipeline: RunPipeline, name: str, jobs: list[RunJob]) -> RunWorkflow:
    """Add a workflow and start every job that neither has run nor waits for a person, all at once."""
    now = world.clock.now()
    made = RunWorkflow(id=world.new_id(), name=name, created_at=now, jobs=jobs)
    number = max((job.number or 0 for job in _jobs_of(world, project)), default=0)
    run = Run(world, pipeline, made, project)
    for job in jobs:
        if job.started_at is None and job.status != ON_HOLD:
            number += 1
            job.number, job.started_at = number, now
            job.stopped_at = now + timedelta(seconds=world.switches.job_s)
            carry_out(run, job)
    pipeline.workflows.append(made)
    return made


def _jobs_of(world: Remote, project: StoredProject) -> Iterator[RunJob]:
    for pipeline in world.state.circleci.pipelines.values():
        if pipeline.project == project.slug:
            for workflow in pipeline.workflows:
                yield from workflow.jobs
