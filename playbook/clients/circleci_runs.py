"""Pipelines, workflows, jobs and the settings that decide who may start any.

What is surprising about the API, and where the client answers it (facts/circleci.md):

- there are two routes that take a configuration of ours, and each takes it for one kind of project only: a wrong
  one drops it without a word and runs the repository's, so `run_inline` chooses by the slug;
- a pipeline that is not started is answered with 200, a started one with 201;
- settings are v3's alone, which Server does not have: there the answer is None, or `NotAvailable` for a change;
- a workflow that is over cannot be cancelled, which is what was wanted.
"""

from __future__ import annotations

import json
from datetime import UTC
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from playbook.clients import circleci_replies as replies
from playbook.clients import circleci_run_replies as shapes
from playbook.clients.circleci_calls import CircleCiCalls, older_project_path, project_path
from playbook.clients.circleci_transport import decoded, lacks_route, path_of, unreadable
from playbook.errors import CircleCiError, Effect
from playbook.ports import RUN_CONFIG, Hole, RunConfig, RunConfigs, display

if TYPE_CHECKING:
    from datetime import datetime

    from playbook.clients.circleci_transport import Answer
    from playbook.ports import (
        Job,
        Organization,
        Pipeline,
        PipelineDefinition,
        Project,
        StoredTest,
        Workflow,
    )

INLINE_CONFIG_FORBIDDEN: Final = "InlineConfigForbidden"
NOT_AVAILABLE: Final = "NotAvailable"
_NOT_FOUND: Final = frozenset({HTTPStatus.NOT_FOUND.value})
_NOT_TOLD: Final = frozenset({HTTPStatus.NOT_FOUND.value, HTTPStatus.FORBIDDEN.value})
_NOT_CANCELLED: Final = frozenset({HTTPStatus.BAD_REQUEST.value, HTTPStatus.CONFLICT.value})
_ALLOW: Final = (
    "Allow pipelines with unversioned configuration in the advanced settings of the organization and of the project, "
    "or start a job by hand."
)
_NOT_SEEN: Final = "It is gone, or the token's user cannot see it; check the name, then go on with `resume`."
_STILL_RUNS: Final = "It still runs: cancel it in CircleCI's web page, or try again."
_BY_HAND: Final = "This host's API cannot do it; do it in CircleCI's web page, in the advanced settings."


class RunCalls(CircleCiCalls):
    """The part of `CircleCiClient` that is about pipelines."""

    # --- reading ---

    def pipeline_definitions(self, project: Project) -> tuple[PipelineDefinition, ...]:
        """What the project's pipelines are started from; the list is a single page, which Server does not have."""
        path = path_of("/api/v2/projects", self._project_number(project), "pipeline-definitions")
        what = f"listing the pipeline definitions of {display(project.slug)}"
        answer = self._transport.repeated(what, "GET", path, expected=_NOT_FOUND)
        if answer.status != HTTPStatus.NOT_FOUND:
            return tuple(item.definition() for item in decoded(what, answer, shapes.Definitions, Effect.NONE).items)
        if lacks_route(answer):
            return ()
        raise _refused(what, answer, f"HTTP{answer.status}", _NOT_SEEN)

    def default_branch(self, project: Project) -> str:
        """The branch of the code that counts."""
        what = f"reading the default branch of {display(project.slug)}"
        return self._transport.get(what, project_path(project.slug), shapes.ProjectCode).vcs_info.default_branch

    def inline_config_allowed(self, project: Project) -> bool | None:
        """Whether project and organization both allow it; None where one of them does not say and none forbids it."""
        owner = self._organization_number(project.organization)
        said = (
            self._setting("projects", self._project_number(project)),
            self._setting("orgs", owner) if owner else None,
        )
        of_project = self._older_flag(project) if said[0] is None else said[0]
        return False if False in (of_project, said[1]) else None if None in (of_project, said[1]) else True

    def forks_receive_secrets(self, project: Project) -> bool:
        """Whether builds of forked pull requests get the project's secrets; a reply that does not say is refused."""
        what = f"reading the settings of {display(project.slug)}"
        settings = self._transport.get(what, project_path(project.slug, "settings"), shapes.ProjectSettings)
        return settings.advanced.forks_receive_secret_env_vars

    def pipelines(self, project: str, since: datetime) -> tuple[Pipeline, ...]:
        """The project's pipelines created since; the list begins with the newest, so its end is not read."""
        what = f"listing the pipelines of {display(project)}"
        found: list[Pipeline] = []
        for item in self._pages(what, project_path(project, "pipeline"), replies.Page[shapes.ListedPipeline], {}):
            pipeline = item.pipeline()
            if pipeline.created_at < since:
                break
            found.append(pipeline)
        return tuple(found)

    def run_configs(self, project: Project, most: int) -> RunConfigs:
        """What the latest pipelines ran with; one page of the list is enough, and one without errors compiled."""
        what = f"listing the pipelines of {display(project.slug)}"
        page = self._transport.get(what, project_path(project.slug, "pipeline"), replies.Page[shapes.ListedPipeline])
        items: list[RunConfig] = []
        holes: list[Hole] = []
        for pipeline in [item for item in page.items if not item.errors][:most]:
            where = f"{project.slug} (pipeline {pipeline.number})"
            path = path_of("/api/v2/pipeline", pipeline.id, "config")
            try:
                config = self._transport.get(f"reading what {display(where)} ran with", path, shapes.PipelineConfig)
            except CircleCiError as error:
                holes.append(Hole(what=RUN_CONFIG, where=where, why=error.code))
                continue
            items.append(
                RunConfig(
                    number=pipeline.number,
                    created_at=pipeline.created_at.astimezone(UTC),
                    compiled=config.compiled or "",
                    compiled_setup=config.compiled_setup or "",
                )
            )
        return RunConfigs(items=tuple(items), holes=tuple(holes))

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """One pipeline, with why it made no workflow."""
        path = path_of("/api/v2/pipeline", pipeline_id)
        return self._transport.get("reading a pipeline", path, shapes.ListedPipeline).pipeline()

    def workflows(self, pipeline_id: str) -> tuple[Workflow, ...]:
        """The pipeline's workflows, reruns included."""
        path = path_of("/api/v2/pipeline", pipeline_id, "workflow")
        found = self._pages("listing workflows", path, replies.Page[shapes.ListedWorkflow], {})
        return tuple(item.workflow() for item in found)

    def jobs(self, workflow_id: str) -> tuple[Job, ...]:
        """The workflow's jobs."""
        path = path_of("/api/v2/workflow", workflow_id, "job")
        found = self._pages("listing jobs", path, replies.Page[shapes.ListedJob], {})
        return tuple(item.job() for item in found)

    def test_results(self, project: str, job_number: int) -> tuple[StoredTest, ...]:
        """The test cases that a job stored, as far as they can be read by now."""
        what = f"reading the test results of job {job_number} of {display(project)}"
        path = project_path(project, str(job_number), "tests")
        return tuple(item.test() for item in self._pages(what, path, replies.Page[shapes.ListedTest], {}))

    def running_disabled(self, organization: Organization) -> bool | None:
        """Whether all new work is blocked; None where the host has no such setting, or the organization no id."""
        owner = organization.id or self._organization_number(organization.slug)
        if not owner:
            return None
        what = f"reading the settings of {display(organization.slug)}"
        answer = self._transport.repeated(what, "GET", path_of("/api/v3/orgs", owner, "settings"), expected=_NOT_FOUND)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        return decoded(what, answer, shapes.V3Settings, Effect.NONE).data.attributes.is_running_disabled

    # --- writing ---

    def run_inline(self, project: Project, definition: PipelineDefinition, branch: str, config: str) -> Pipeline:
        """Start a pipeline with this configuration; the request is sent once, whatever becomes of it."""
        what = f"starting a pipeline of {display(project.slug)}"
        if project.slug.startswith("circleci/"):
            path = project_path(project.slug, "pipeline", "run")
            source = {"branch": branch, "content": config}
            body = {"definition_id": definition.id, "config": source, "checkout": {"branch": branch}}
            answer = self._start(what, path, json.dumps(body).encode())
        else:
            path = project_path(project.slug, "pipeline")
            answer = self._start(what, path, json.dumps({"branch": branch, "config": config}).encode())
        return decoded(what, answer, shapes.StartedPipeline, Effect.UNKNOWN).pipeline(project.slug)

    def rerun_workflow(self, workflow_id: str, *, from_failed: bool) -> str:
        """Run a workflow again; the request is sent once, whatever becomes of it."""
        what = "running a workflow again"
        body = json.dumps({"from_failed": from_failed}).encode()
        path = path_of("/api/v2/workflow", workflow_id, "rerun")
        answer = self._transport.once(what, "POST", path, body=lambda: body)
        return decoded(what, answer, shapes.Rerun, Effect.UNKNOWN).workflow_id

    def cancel_workflow(self, workflow_id: str) -> None:
        """Cancel what still runs; a refusal counts as done only where the workflow is seen to be over."""
        what = "cancelling a workflow"
        path = path_of("/api/v2/workflow", workflow_id, "cancel")
        answer = self._transport.repeated(what, "POST", path, expected=_NOT_CANCELLED)
        if answer.status not in _NOT_CANCELLED:
            return
        found = self._transport.get(what, path_of("/api/v2/workflow", workflow_id), shapes.ListedWorkflow)
        if not found.workflow().status.is_over:
            raise _refused(what, answer, f"HTTP{answer.status}", _STILL_RUNS)

    def set_running_disabled(self, organization: Organization, *, disabled: bool) -> None:
        """Block or allow all new work; a host without the setting is refused with `NotAvailable`."""
        what = f"changing the settings of {display(organization.slug)}"
        owner = organization.id or self._organization_number(organization.slug)
        if not owner:
            raise CircleCiError(what, code=NOT_AVAILABLE, effect=Effect.NONE, remedy=_BY_HAND)
        path = path_of("/api/v3/orgs", owner, "update-settings")
        body = json.dumps({"is_running_disabled": disabled}).encode()
        answer = self._transport.repeated(what, "POST", path, body=lambda: body, expected=_NOT_FOUND)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise _refused(what, answer, NOT_AVAILABLE, _BY_HAND)
        settings = decoded(what, answer, shapes.V3Settings, Effect.UNKNOWN).data.attributes
        if settings.is_running_disabled is not disabled:
            raise unreadable(what, answer, Effect.UNKNOWN)

    # --- calls ---

    def _start(self, what: str, path: str, body: bytes) -> Answer:
        """Start a pipeline once; what is refused, and what is answered without a pipeline, was not started."""
        forbidden = frozenset({HTTPStatus.FORBIDDEN.value})
        answer = self._transport.once(what, "POST", path, body=lambda: body, expected=forbidden)
        if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.OK):
            raise _refused(what, answer, INLINE_CONFIG_FORBIDDEN, _ALLOW)
        return answer

    def _setting(self, surface: str, number: str) -> bool | None:
        """v3's word on configurations of ours; None where the host lacks it or the token may not see it."""
        what, path = "reading settings", path_of(f"/api/v3/{surface}", number, "settings")
        answer = self._transport.repeated(what, "GET", path, expected=_NOT_TOLD)
        if answer.status in _NOT_TOLD:
            return None
        return decoded(what, answer, shapes.V3Settings, Effect.NONE).data.attributes.enable_unversioned_config

    def _older_flag(self, project: Project) -> bool | None:
        """v1.1's word on the same, of a project."""
        what = f"reading the settings of {display(project.slug)}"
        path = older_project_path(project.slug, "settings")
        answer = self._transport.repeated(what, "GET", path, expected=_NOT_TOLD)
        if answer.status in _NOT_TOLD:
            return None
        flags = decoded(what, answer, shapes.OlderSettings, Effect.NONE).feature_flags
        return flags.underscored if flags.hyphened is None else flags.hyphened


def _refused(what: str, answer: Answer, code: str, remedy: str) -> CircleCiError:
    """A definite no, by a code of ours or the status."""
    return CircleCiError(
        what, code=code, status=answer.status, effect=Effect.NONE, request_id=answer.request_id, remedy=remedy
    )
