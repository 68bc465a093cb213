"""The pipelines of a project and the configuration each ran with, over HTTP (facts: circleci 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from playbook.twins.circleci import canonical, refusal
from playbook.twins.http_api import Routes, iso, json_reply, page_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.twins.http_api import Api, Reply, Request
    from playbook.twins.state import Pipeline, StoredProject

CONFIG_ROUTES: Final = Routes()
PIPELINES_PAGE: Final = 20


def _row(api: Api, project: StoredProject, item: Pipeline) -> dict[str, Any]:
    at = iso(item.created_at)
    repository = f"https://github.com/{project.slug.partition('/')[2]}"
    return {
        "id": item.id,
        "errors": [{"type": "config", "message": item.error}] if item.error else [],
        "project_slug": project.slug,
        "updated_at": at,
        "number": item.number,
        "state": "errored" if item.error else "created" if item.compiled else "setup",
        "created_at": at,
        "trigger": {
            "type": "webhook",
            "received_at": at,
            "actor": {"login": api.world.state.circleci.login, "avatar_url": None},
        },
        "vcs": {
            "provider_name": "GitHub",
            "origin_repository_url": repository,
            "target_repository_url": repository,
            "revision": item.id.replace("-", ""),
            "branch": item.branch,
        },
    }


@CONFIG_ROUTES.add("GET", "/api/v2/project/{slug}/pipeline")
def _pipelines(api: Api, request: Request, parts: Mapping[str, str]) -> Reply:
    found = api.project("pipelines", parts["slug"])
    rows = [_row(api, found, item) for item in found.pipelines]
    shown = api.twin.call("pipelines", canonical(found.slug), lambda: rows)
    items, token = page_of(shown, PIPELINES_PAGE, request.query.get("page-token"))
    return json_reply(200, {"items": items, "next_page_token": token})


@CONFIG_ROUTES.add("GET", "/api/v2/pipeline/{id}/config")
def _config(api: Api, _request: Request, parts: Mapping[str, str]) -> Reply:
    def effect() -> Pipeline:
        for project in api.world.state.circleci.projects.values():
            for item in project.pipelines:
                if item.id == parts["id"]:
                    return item
        raise refusal("pipeline_config", 404)

    found = api.twin.call("pipeline_config", parts["id"], effect)
    # The source is whatever it was compiled from; nobody here has it.
    shown = {"source": "", "compiled": found.compiled}
    if found.compiled_setup:
        shown |= {"setup-config": "", "compiled-setup-config": found.compiled_setup}
    return json_reply(200, shown)
