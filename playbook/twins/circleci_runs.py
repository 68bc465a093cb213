"""The calls of CircleCI's twin about pipelines: starting, watching and ending them, and who may start any at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.errors import CircleCiError, Effect
from playbook.ports import RUN_CONFIG, Hole, PipelineDefinition, RunConfig, RunConfigs
from playbook.twins import runs
from playbook.twins.circleci_calls import CircleCiCalls, canonical
from playbook.twins.live_reads import read_once
from playbook.twins.refusals import NOT_MIRRORED, not_available, refusal
from playbook.twins.state import ALWAYS

if TYPE_CHECKING:
    from datetime import datetime

    from playbook.ports import Job, Organization, Pipeline, Project, StoredTest, Workflow
    from playbook.twins.state import RunPipeline, StoredProject


class RunCalls(CircleCiCalls):
    """Implements the part of `ports.CircleCi` that is about pipelines."""

    def pipeline_definitions(self, project: Project) -> tuple[PipelineDefinition, ...]:
        """What the project's pipelines are started from."""

        def effect() -> tuple[PipelineDefinition, ...]:
            found = self._read_project("pipeline_definitions", project)
            return tuple(PipelineDefinition(id=item.id, name=item.name) for item in found.definitions)

        return self.call("pipeline_definitions", project.slug, effect)

    def default_branch(self, project: Project) -> str:
        """The branch of the code that counts."""

        def effect() -> str:
            return self._read_project("default_branch", project).default_branch

        return self.call("default_branch", project.slug, effect)

    def inline_config_allowed(self, project: Project) -> bool | None:
        """Whether the project and its organization both allow a configuration of ours; None where neither says."""

        def effect() -> bool | None:
            found = self._read_project("inline_config_allowed", project)
            return runs.allows_inline(self.world, found)

        return self.call("inline_config_allowed", project.slug, effect)

    def forks_receive_secrets(self, project: Project) -> bool:
        """Whether builds of forked pull requests get the project's secrets."""

        def effect() -> bool:
            return self._read_project("forks_receive_secrets", project).forks_receive_secrets

        return self.call("forks_receive_secrets", project.slug, effect)

    def pipelines(self, project: str, since: datetime) -> tuple[Pipeline, ...]:
        """The project's pipelines created since, newest first."""

        def effect() -> tuple[Pipeline, ...]:
            found = self.living_project("pipelines", project)
            made = [item for item in self.state.pipelines.values() if item.project == found.slug]
            newest = sorted(made, key=lambda item: (item.created_at, item.number), reverse=True)
            return tuple(runs.pipeline_seen(item) for item in newest if item.created_at >= since)

        return self.call("pipelines", project, effect)

    def run_configs(self, project: Project, most: int) -> RunConfigs:
        """What the latest pipelines ran with, those left out that did not compile."""
        if self.world.mirrored is not None:
            # Nothing that a dry run needs: refused, not shown as none.
            raise CircleCiError("run_configs", code=NOT_MIRRORED, effect=Effect.NONE)
        items: list[RunConfig] = []
        holes: list[Hole] = []
        for listed in [item for item in self.pipelines(project.slug, ALWAYS) if not item.errors][:most]:
            try:
                found = self.config_of(listed.id)
            except CircleCiError as error:
                where = f"{project.slug} (pipeline {listed.number})"
                holes.append(Hole(what=RUN_CONFIG, where=where, why=error.code))
                continue
            items.append(
                RunConfig(
                    number=found.number,
                    created_at=found.created_at,
                    compiled=found.compiled,
                    compiled_setup=found.compiled_setup,
                )
            )
        return RunConfigs(items=tuple(items), holes=tuple(holes))

    def config_of(self, pipeline_id: str) -> RunPipeline:
        """The stored pipeline, asked for its configuration."""

        def effect() -> RunPipeline:
            return runs.find_pipeline(self.world, "pipeline_config", pipeline_id)

        return self.call("pipeline_config", pipeline_id, effect)

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """One pipeline, with why it made no workflow."""

        def effect() -> Pipeline:
            return runs.pipeline_seen(runs.find_pipeline(self.world, "pipeline", pipeline_id))

        return self.call("pipeline", pipeline_id, effect)

    def workflows(self, pipeline_id: str) -> tuple[Workflow, ...]:
        """The pipeline's workflows, newest first."""

        def effect() -> tuple[Workflow, ...]:
            found = runs.find_pipeline(self.world, "workflows", pipeline_id)
            return tuple(runs.workflow_seen(self.world, found, item) for item in reversed(found.workflows))

        return self.call("workflows", pipeline_id, effect)

    def jobs(self, workflow_id: str) -> tuple[Job, ...]:
        """The workflow's jobs."""

        def effect() -> tuple[Job, ...]:
            _, found = runs.find_workflow(self.world, "jobs", workflow_id)
            return tuple(runs.job_seen(self.world, item) for item in found.jobs)

        return self.call("jobs", workflow_id, effect)

    def test_results(self, project: str, job_number: int) -> tuple[StoredTest, ...]:
        """What the job stored; nothing until a moment after its end."""

        def effect() -> tuple[StoredTest, ...]:
            return runs.tests_seen(self.world, self.living_project("test_results", project), job_number)

        return self.call("test_results", f"{project}/{job_number}", effect)

    def running_disabled(self, organization: Organization) -> bool | None:
        """Whether all new work is blocked; None on a host that does not say."""

        def effect() -> bool | None:
            found = self.require_organization("running_disabled", organization)
            return found.running_disabled if self.world.switches.v3_settings else None

        return self.call("running_disabled", organization.slug, effect)

    def run_inline(self, project: Project, definition: PipelineDefinition, branch: str, config: str) -> Pipeline:
        """Start a pipeline with this configuration, and settle at once how it will end."""

        def effect() -> Pipeline:
            found = self.living_project("run_inline", project.slug, project.id)
            read_once(self.world, found, "pipeline_definitions", "inline_config_allowed")
            return runs.pipeline_seen(runs.start_inline(self.world, found, definition.id, branch, config))

        return self.call("run_inline", project.slug, effect, write=True)

    def run_repository_config(self, project: Project, branch: str) -> Pipeline:
        """Start a pipeline with the repository's own configuration, as a host does that drops ours."""

        def effect() -> Pipeline:
            found = self.living_project("run_inline", project.slug, project.id)
            return runs.pipeline_seen(runs.start_own(self.world, found, branch))

        return self.call("run_inline", project.slug, effect, write=True)

    def rerun_workflow(self, workflow_id: str, *, from_failed: bool) -> str:
        """Run a workflow again, with the environment as it is now."""

        def effect() -> str:
            return runs.rerun(self.world, workflow_id, from_failed=from_failed).id

        return self.call("rerun_workflow", workflow_id, effect, write=True)

    def cancel_workflow(self, workflow_id: str) -> None:
        """End what runs or waits of a workflow."""
        self.call("cancel_workflow", workflow_id, lambda: runs.cancel(self.world, workflow_id), write=True)

    def set_running_disabled(self, organization: Organization, *, disabled: bool) -> None:
        """Block or allow all new work; what runs goes on."""

        def effect() -> None:
            found = self.require_organization("set_running_disabled", organization)
            if not self.world.switches.v3_settings or found.running_disabled is None:
                raise not_available("set_running_disabled")
            found.running_disabled = disabled

        self.call("set_running_disabled", organization.slug, effect, write=True)

    def _read_project(self, operation: str, project: Project) -> StoredProject:
        """A living project with what this operation tells of it."""
        found = self.living_project(operation, project.slug, project.id)
        read_once(self.world, found, operation)
        return found

    def living_project(self, operation: str, slug: str, project_id: str = "") -> StoredProject:
        """A project that is not deleted, without a call; refused if there is none."""
        found = self.stored_project(operation, canonical(slug), project_id)
        if found.deleted:
            raise refusal(operation, 404)
        return found
