"""The shapes of CircleCI's replies about pipelines and settings, and what is read out of them.

A time decides whether a job can still use an old secret, so one that cannot be read is refused and never left out. A
status of a word that is not known is kept as such: it is never taken for an end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from playbook.clients.circleci_replies import Id, Name, Slug
from playbook.ports import Job, Pipeline, PipelineDefinition, StoredTest, Workflow, WorkflowStatus

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Definition(msgspec.Struct):
    """One pipeline definition."""

    id: Id
    name: str | None = None

    def definition(self) -> PipelineDefinition:
        """As the rest of the program knows it."""
        return PipelineDefinition(id=self.id, name=self.name or "")


class Definitions(msgspec.Struct):
    """A project's pipeline definitions, which come as one page."""

    items: list[Definition]


class VcsInfo(msgspec.Struct):
    """Where a project's code is."""

    default_branch: Name


class ProjectCode(msgspec.Struct):
    """`GET /project/{slug}`, of which only the code counts."""

    vcs_info: VcsInfo


class PipelineError(msgspec.Struct):
    """Why a pipeline made no workflow."""

    message: str


class ListedPipeline(msgspec.Struct):
    """A pipeline, listed or alone."""

    id: Id
    project_slug: Slug
    created_at: Moment
    number: Number
    errors: list[PipelineError] = []

    def pipeline(self) -> Pipeline:
        """As the rest of the program knows it."""
        return Pipeline(
            id=self.id,
            project=self.project_slug,
            created_at=self.created_at.astimezone(UTC),
            number=self.number,
            errors=tuple(item.message for item in self.errors),
        )


class PipelineConfig(msgspec.Struct):
    """What a pipeline ran with; the compiled texts are empty or absent when there are none (facts 7)."""

    compiled: str | None = None
    compiled_setup: str | None = msgspec.field(default=None, name="compiled-setup-config")


class StartedPipeline(msgspec.Struct):
    """What starting a pipeline answers."""

    id: Id
    created_at: Moment
    number: Number

    def pipeline(self, project: str) -> Pipeline:
        """As the rest of the program knows it."""
        return Pipeline(id=self.id, project=project, created_at=self.created_at.astimezone(UTC), number=self.number)


class ListedWorkflow(msgspec.Struct):
    """A workflow, listed or alone; it has no `stopped_at` while it runs, whatever the description says."""

    id: Id
    name: Name
    status: str
    pipeline_id: Id
    project_slug: Slug
    created_at: Moment
    stopped_at: Moment | None = None

    def workflow(self) -> Workflow:
        """As the rest of the program knows it."""
        known = {status.value for status in WorkflowStatus}
        return Workflow(
            id=self.id,
            name=self.name,
            pipeline=self.pipeline_id,
            project=self.project_slug,
            status=WorkflowStatus(self.status) if self.status in known else WorkflowStatus.UNKNOWN,
            created_at=self.created_at.astimezone(UTC),
            stopped_at=_in_utc(self.stopped_at),
        )


class ListedJob(msgspec.Struct):
    """A job of a workflow."""

    id: Id
    name: Name
    status: Name
    job_number: Number | None = None
    started_at: Moment | None = None
    stopped_at: Moment | None = None

    def job(self) -> Job:
        """As the rest of the program knows it."""
        return Job(
            id=self.id,
            name=self.name,
            status=self.status,
            number=self.job_number,
            started_at=_in_utc(self.started_at),
            stopped_at=_in_utc(self.stopped_at),
        )


class ListedTest(msgspec.Struct):
    """One test case; two of one name are two."""

    case: str = msgspec.field(name="name")
    classname: str = ""
    result: str = ""
    message: str | None = None

    def test(self) -> StoredTest:
        """As the rest of the program knows it."""
        return StoredTest(name=self.case, classname=self.classname, result=self.result, message=self.message or "")


class Rerun(msgspec.Struct):
    """What a rerun answers."""

    workflow_id: Id


class Advanced(msgspec.Struct):
    """A project's settings, of which only one counts; a reply without it does not say no."""

    forks_receive_secret_env_vars: bool


class ProjectSettings(msgspec.Struct):
    """`GET /project/{slug}/settings`."""

    advanced: Advanced


class FeatureFlags(msgspec.Struct):
    """v1.1's flags of a project, in either spelling."""

    hyphened: bool | None = msgspec.field(default=None, name="api-trigger-with-config")
    underscored: bool | None = msgspec.field(default=None, name="api_trigger_with_config")


class OlderSettings(msgspec.Struct):
    """v1.1's settings of a project, of which only the flags are read."""

    feature_flags: FeatureFlags = msgspec.field(default_factory=FeatureFlags)


class Settings(msgspec.Struct):
    """v3's settings of an organization or a project; what it does not say stays unsaid."""

    is_running_disabled: bool | None = None
    enable_unversioned_config: bool | None = None


class SettingsData(msgspec.Struct):
    """One level of v3's envelope."""

    attributes: Settings


class V3Settings(msgspec.Struct):
    """v3's envelope of settings, which have no id of their own."""

    data: SettingsData


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
