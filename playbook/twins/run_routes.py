"""Pipelines, workflows, jobs and the settings that decide who may start any, over HTTP (facts: circleci 1 and 5)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from playbook.ports import Organization, Pipeline, PipelineDefinition, Project
from playbook.twins import runs
from playbook.twins.http_api import BAD_BODY, Routes, fields_of, iso, json_reply, message_reply, no_route, page_of
from playbook.twins.jobs import user_id
from playbook.twins.refusals import refusal
from playbook.twins.state import ALWAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Job, StoredTest, Workflow
    from playbook.twins.http_api import Api, Reply, Request
    from playbook.twins.state import RunPipeline, StoredOrganization, StoredProject

RUN_ROUTES: Final = Routes()
PIPELINES_PAGE: Final = 20
TESTS_PAGE: Final = 100


def _project(found: StoredProject) -> Project:
    return Project(id=found.id, slug=found.slug, organization=found.organization, known_by=found.known_by)


# --- Starting -------------------------------------------------------------------------------------------------------


@RUN_ROUTES.add("POST", "/api/v2/project/{slug}/pipeline/run")
def _run(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    fields = fields_of(request)
    config, checkout = fields.get("config"), fields.get("checkout")
    if not isinstance(config, dict) or not isinstance(checkout, dict):
        return message_reply(400, BAD_BODY)
    found = api.project("run_inline", parts["slug"])
    takes_content = found.slug.startswith("circleci/") or api.world.switches.run_takes_content
    content = config.get("content") if takes_content else None
    definition = PipelineDefinition(id=str(fields.get("definition_id")))
    return _started(api, found, definition, str(checkout.get("branch", found.default_branch)), content)


@RUN_ROUTES.add("POST", "/api/v2/project/{slug}/pipeline")
def _run_older(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    """The older route, whose `config` the description lacks."""
    fields = fields_of(request)
    found = api.project("run_inline", parts["slug"])
    if not found.definitions:
        raise refusal("run_inline", 404)
    definition = PipelineDefinition(id=found.definitions[0].id)
    return _started(api, found, definition, str(fields.get("branch", found.default_branch)), fields.get("config"))


def _started(api: Api, found: StoredProject, definition: PipelineDefinition, branch: str, content: str | None) -> Reply:
    if content is None:
        made = api.twin.run_repository_config(_project(found), branch)
    else:
        made = api.twin.run_inline(_project(found), definition, branch, content)
    state = "errored" if made.errors else "created"
    return json_reply(201, {"id": made.id, "number": made.number, "state": state, "created_at": iso(made.created_at)})


@RUN_ROUTES.add("POST", "/api/v2/workflow/{id}/rerun")
def _rerun(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    from_failed = bool(fields_of(request).get("from_failed")) if request.body else False
    return json_reply(202, {"workflow_id": api.twin.rerun_workflow(parts["id"], from_failed=from_failed)})


@RUN_ROUTES.add("POST", "/api/v2/workflow/{id}/cancel")
def _cancel(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    api.twin.cancel_workflow(parts["id"])
    return message_reply(202, "Accepted.")


# --- Watching -------------------------------------------------------------------------------------------------------


@RUN_ROUTES.add("GET", "/api/v2/project/{slug}/pipeline")
def _pipelines(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("pipelines", parts["slug"])
    rows = [_pipeline_row(api, item) for item in api.twin.pipelines(found.slug, ALWAYS)]
    items, token = page_of(rows, PIPELINES_PAGE, request.query.get("page-token"))
    return json_reply(200, {"items": items, "next_page_token": token})


@RUN_ROUTES.add("GET", "/api/v2/pipeline/{id}")
def _pipeline(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    return json_reply(200, _pipeline_row(api, api.twin.pipeline(parts["id"])))


def _pipeline_row(api: Api, item: Pipeline) -> dict[str, Any]:
    made = iso(item.created_at)
    return {
        "id": item.id,
        "number": item.number,
        "project_slug": item.project,
        "created_at": made,
        "updated_at": made,
        "state": "errored" if item.errors else "created",
        "errors": [{"type": "config", "message": text} for text in item.errors],
        "trigger": {
            "type": "api",
            "received_at": made,
            "actor": {"login": api.world.state.circleci.login, "avatar_url": ""},
        },
    }


@RUN_ROUTES.add("GET", "/api/v2/pipeline/{id}/config")
def _config(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.config_of(parts["id"])
    # The source is whatever it was compiled from; nobody here has it.
    shown = {"source": "", "compiled": found.compiled}
    if found.compiled_setup:
        shown |= {"setup-config": "", "compiled-setup-config": found.compiled_setup}
    return json_reply(200, shown)


@RUN_ROUTES.add("GET", "/api/v2/pipeline/{id}/workflow")
def _workflows(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.workflows(parts["id"])
    owner = runs.find_pipeline(api.world, "workflows", parts["id"])
    items, token = page_of(
        [_workflow_row(api, owner, item) for item in found], PIPELINES_PAGE, request.query.get("page-token")
    )
    return json_reply(200, {"items": items, "next_page_token": token})


@RUN_ROUTES.add("GET", "/api/v2/workflow/{id}")
def _workflow(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    owner, _ = api.twin.call("workflow", parts["id"], lambda: runs.find_workflow(api.world, "jobs", parts["id"]))
    found = next(item for item in owner.workflows if item.id == parts["id"])
    return json_reply(200, _workflow_row(api, owner, runs.workflow_seen(api.world, owner, found)))


def _workflow_row(api: Api, owner: RunPipeline, item: Workflow) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "status": item.status.value,
        "created_at": iso(item.created_at),
        "stopped_at": iso(item.stopped_at),
        "pipeline_id": item.pipeline,
        "pipeline_number": owner.number,
        "project_slug": item.project,
        "started_by": user_id(api.world.state.circleci.login),
    }


@RUN_ROUTES.add("GET", "/api/v2/workflow/{id}/job")
def _jobs(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.twin.jobs(parts["id"])
    owner, _ = runs.find_workflow(api.world, "jobs", parts["id"])
    return json_reply(200, {"items": [_job_row(owner, item) for item in found], "next_page_token": None})


def _job_row(owner: RunPipeline, item: Job) -> dict[str, Any]:
    number = {} if item.number is None else {"job_number": item.number}
    return {
        "id": item.id,
        "name": item.name,
        "status": item.status,
        "type": "approval" if item.status == runs.ON_HOLD else "build",
        "started_at": iso(item.started_at),
        "stopped_at": iso(item.stopped_at),
        "dependencies": [],
        "project_slug": owner.project,
        **number,
    }


@RUN_ROUTES.add("GET", "/api/v2/project/{slug}/{number}/tests")
def _tests(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    number = int(parts["number"]) if parts["number"].isdecimal() else 0
    found = api.twin.test_results(api.project("test_results", parts["slug"]).slug, number)
    items, token = page_of([_test_row(item) for item in found], TESTS_PAGE, request.query.get("page-token"))
    return json_reply(200, {"items": items, "next_page_token": token})


def _test_row(item: StoredTest) -> dict[str, Any]:
    return {
        "name": item.name,
        "classname": item.classname,
        "result": item.result,
        "message": item.message,
        "file": "",
        "source": "unknown",
        "run_time": 0.0,
    }


# --- Settings -------------------------------------------------------------------------------------------------------


@RUN_ROUTES.add("GET", "/api/v2/project/{slug}/settings")
def _settings(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    found = _project(api.project("forks_receive_secrets", parts["slug"]))
    advanced = {
        "autocancel_builds": False,
        "build_fork_prs": False,
        "build_prs_only": False,
        "disable_ssh": False,
        "forks_receive_secret_env_vars": api.twin.forks_receive_secrets(found),
        "oss": False,
        "set_github_status": True,
        "setup_workflows": True,
        "write_settings_requires_admin": False,
        "pr_only_branch_overrides": [],
    }
    return json_reply(200, {"advanced": advanced})


@RUN_ROUTES.add("GET", "/api/v3/projects/{id}/settings")
def _project_settings(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.v3_settings:
        return no_route()
    found = api.project("inline_config_allowed", parts["id"])
    said = api.twin.call("inline_config_allowed", found.slug, lambda: found.inline_config)
    return _attributes({} if said is None else {"enable_unversioned_config": said})


@RUN_ROUTES.add("GET", "/api/v3/orgs/{id}/settings")
def _organization_settings(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.v3_settings:
        return no_route()
    found = api.organization("running_disabled", parts["id"])
    blocked = api.twin.running_disabled(_organization(found))
    said = {"is_running_disabled": blocked, "enable_unversioned_config": found.inline_config}
    return _attributes({name: value for name, value in said.items() if value is not None})


@RUN_ROUTES.add("POST", "/api/v3/orgs/{id}/update-settings")
def _update_settings(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    if not api.world.switches.v3_settings:
        return no_route()
    fields = fields_of(request)
    found = api.organization("set_running_disabled", parts["id"])
    disabled = fields.get("is_running_disabled")
    if not isinstance(disabled, bool):
        return json_reply(400, {"error": {"id": str(uuid.uuid4()), "title": BAD_BODY, "detail": BAD_BODY}})
    api.twin.set_running_disabled(_organization(found), disabled=disabled)
    return _attributes({"is_running_disabled": disabled})


def _organization(found: StoredOrganization) -> Organization:
    return Organization(id=found.id, slug=found.slug, name=found.name)


def _attributes(attributes: Mapping[str, Any]) -> Reply:
    """What v3 answers about settings, which have no id of their own."""
    return json_reply(200, {"data": {"attributes": dict(attributes)}})
