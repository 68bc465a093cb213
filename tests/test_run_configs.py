"""What pipelines ran with: read from the twin and over HTTP alike, and followed to the jobs that use a key."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from twins import kinds_world as worlds
from twins.kinds_world import ACME, day, kinds_state, kinds_world, number

from playbook.blast_radius import IMPLICIT_ECR, blast_radius
from playbook.clients.circleci import CircleCiClient
from playbook.collect import collect
from playbook.config_jobs import SIZE_MAX, JobUse
from playbook.correlate import StoredVariable
from playbook.errors import CircleCiError
from playbook.inventory import Inventory
from playbook.inventory_document import document
from playbook.journal import Journal
from playbook.ports import RUN_CONFIG, AccessKey, Hole, KeyStatus, MaskedVariable, Project, SecretKind, Sink, SinkKind
from playbook.reading import FILE, Reading
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.http_api import Api
from playbook.twins.seed import NOT_MIRRORED, mirror
from playbook.twins.server import CircleCiServer
from playbook.twins.state import Refusal
from playbook.world import CaseWorld

SLUG = "gh/acme/api"
API = Project(id=number(SLUG), slug=SLUG, organization="gh/acme", known_by=("private",))
KEY = AccessKey(account="1" * 12, user="ci", id="AKIA000000000000WXYZ", status=KeyStatus.ACTIVE, created_at=day(90))
DEPLOY = Sink(kind=SinkKind.CONTEXT, id=number("deploy"), name="deploy", organization="gh/acme")
PULL = "{docker: [{image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/a:1}]}"


@pytest.fixture(params=["twin", "client"])
def open_circleci(request):
    """A factory: the port of a world, in memory or through a socket."""
    opened = []

    def start(world):
        if request.param == "twin":
            return world.circleci
        server = CircleCiServer(world, Secret("the-token"))
        server.start()
        client = CircleCiClient(host=server.url, token=Secret("the-token"), attempts=1)
        opened.extend((client.close, server.stop))
        return client

    yield start
    for close in opened:
        close()


def pipeline(count, compiled="", **more):
    return states.RunPipeline(
        id=number("pipeline", count),
        project=SLUG,
        number=count,
        created_at=day(100 - count),
        compiled=compiled,
        **more,
    )


def world_of(*pipelines, deleted=False, **refusals):
    state = kinds_state(states.StoredProject(id=API.id, slug=SLUG, organization="gh/acme", deleted=deleted))
    state.circleci.pipelines = {item.id: item for item in pipelines}
    state.circleci.refusals |= {name.replace("__", ":", 1): refusal for name, refusal in refusals.items()}
    return kinds_world(state)


def read(world, **options):
    return collect(CaseWorld(world.platforms(), Journal(), parallel=4), (ACME,), (), **options)


# --- The ports --------------------------------------------------------------------------------------------------------


def test_the_latest_pipelines_that_compiled_come_first(open_circleci) -> None:
    circleci = open_circleci(world_of(*worlds.pipelines(SLUG)))
    found = circleci.run_configs(API, 20)
    assert [item.number for item in found.items] == [8, 7, 6], "9 did not compile"
    assert [(bool(item.compiled), bool(item.compiled_setup)) for item in found.items] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    assert found.items[2].created_at == day(23)
    assert found.holes == ()
    assert [item.number for item in circleci.run_configs(API, 1).items] == [8]


def test_one_page_of_the_list_is_enough(open_circleci) -> None:
    circleci = open_circleci(world_of(*(pipeline(60 - count, "jobs: {}") for count in range(45))))
    assert [item.number for item in circleci.run_configs(API, 20).items] == list(range(60, 40, -1))


def test_a_refused_configuration_is_a_hole_and_the_others_are_read(open_circleci) -> None:
    world = world_of(pipeline(2, "jobs: {}"), pipeline(1, "jobs: {}"))
    world.state.circleci.refusals[f"pipeline_config:{number('pipeline', 2)}"] = Refusal(code="HTTP403", status=403)
    found = open_circleci(world).run_configs(API, 5)
    assert [item.number for item in found.items] == [1]
    assert found.holes == (Hole(what=RUN_CONFIG, where=f"{SLUG} (pipeline 2)", why="HTTP403"),)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_list_is_raised(open_circleci, status) -> None:
    world = world_of(pipeline(1, "jobs: {}"))
    world.state.circleci.refusals[f"pipelines:{SLUG}"] = Refusal(code=f"HTTP{status}", status=status)
    with pytest.raises(CircleCiError) as caught:
        open_circleci(world).run_configs(API, 1)
    assert caught.value.status == status


def test_v2_knows_no_pipelines_of_a_deleted_project(open_circleci) -> None:
    with pytest.raises(CircleCiError) as caught:
        open_circleci(world_of(pipeline(1, "jobs: {}"), deleted=True)).run_configs(API, 1)
    assert caught.value.status == 404


def test_the_texts_are_in_no_print_of_them(open_circleci) -> None:
    circleci = open_circleci(
        world_of(pipeline(1, "inline: a-value-nobody-should-have-put-there", compiled_setup="s3t"))
    )
    assert "nobody" not in repr(circleci.run_configs(API, 1))
    assert "s3t" not in repr(circleci.run_configs(API, 1))


def test_a_dry_run_does_not_show_none_where_it_did_not_look() -> None:
    made = mirror(world_of(pipeline(1, "jobs: {}")).platforms(), accounts=(), organizations=("gh/acme",))
    with pytest.raises(CircleCiError) as caught:
        made.circleci.run_configs(API, 1)
    assert caught.value.code == NOT_MIRRORED


# --- Collected --------------------------------------------------------------------------------------------------------


def test_only_who_asks_for_runs_pays_for_them(monkeypatch) -> None:
    asked = Counter()
    answer = Api.answer

    def watched(api, request):
        asked[re.sub("[0-9a-f-]{36}", "*", request.path)] += 1
        return answer(api, request)

    monkeypatch.setattr(Api, "answer", watched)
    world = world_of(*(pipeline(9 - count, "jobs: {}") for count in range(5)))
    with (
        CircleCiServer(world, Secret("the-token")) as server,
        CircleCiClient(host=server.url, token=Secret("the-token")) as client,
    ):
        platforms = world.platforms()
        view = CaseWorld(type(platforms)(**{**vars(platforms), "circleci": client}), Journal(), parallel=4)
        none = collect(view, (ACME,), ())
        assert (none.runs, [path for path in asked if "pipeline" in path and "definitions" not in path]) == ((), [])
        some = collect(view, (ACME,), (), runs=3)
    assert [run.number for run in some.runs] == [9, 8, 7]
    assert asked[f"/api/v2/project/{SLUG}/pipeline"] == 1
    assert asked["/api/v2/pipeline/*/config"] == 3


def test_what_ran_is_kept_as_jobs_and_doubts_never_as_text() -> None:
    setup = "setup: true\njobs: {g: {}}\nworkflows: {w: {jobs: [{g: {context: deploy}}]}}"
    world = world_of(
        pipeline(5, "", compiled_setup=setup),
        pipeline(4, "jobs: {a: {}}\nworkflows: {w: {jobs: [a]}}", compiled_setup=setup),
        pipeline(3, "a: [unclosed"),
        pipeline(2, "#" * (SIZE_MAX + 1)),
    )
    found = read(world, runs=20)
    assert found.complete
    uses = {run.number: run.use for run in found.runs}
    generating = JobUse(workflow="w", name="g", contexts=("deploy",))
    assert uses[5].jobs == (generating,)
    assert ["had not generated its configuration yet" in doubt for doubt in uses[5].doubts] == [True]
    assert uses[4].jobs == (JobUse(workflow="w", name="a"), generating)
    assert uses[4].doubts == (), "what it generated is at hand"
    assert [uses[count].doubts for count in (3, 2)] == [
        ("what pipeline 3 ran with cannot be read: it is not YAML",),
        ("what pipeline 2 ran with cannot be read: it is longer than 1 MiB",),
    ]
    assert Inventory.from_lines(found.to_lines()) == found


def test_a_secret_in_a_configuration_goes_no_further(tmp_path) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY"
    compiled = f"""
jobs:
  a:
    environment: {{AWS_SECRET_ACCESS_KEY: {secret}}}
    docker: [{{image: cimg/base, aws_auth: {{aws_access_key_id: $ID, aws_secret_access_key: {secret}}}}}]
    steps: [{{run: "echo {secret}"}}]
workflows: {{w: {{jobs: [{{a: {{context: deploy}}}}]}}}}
"""
    kept = Reading(tmp_path, scope="s", now=day(0))
    with kept:
        found = read(world_of(pipeline(1, compiled)), runs=1, reading=kept)
    assert found.runs[0].use.jobs == (JobUse(workflow="w", name="a", contexts=("deploy",), aws_auth=("ID",)),)
    everything = [*found.to_lines(), json.dumps(document(found)), (tmp_path / FILE).read_text()]
    assert '"aws_auth":["ID"]' in everything[-1]
    assert not any(secret in text for text in everything)


def test_a_project_without_a_run_is_a_doubt_a_refused_one_a_hole() -> None:
    (run,) = read(world_of(), runs=1).runs
    assert (run.number, run.use.jobs, run.use.doubts) == (0, (), ("no run of it is known, so its jobs are not",))
    refused = {f"pipelines__{SLUG}": Refusal(code="HTTP403", status=403)}
    found = read(world_of(pipeline(1, "jobs: {}"), **refused), runs=1)
    assert (found.runs, found.complete) == ((), False)
    assert found.holes == (Hole(what=RUN_CONFIG, where=SLUG, why="HTTP403"),)


def test_a_deleted_project_is_not_asked() -> None:
    found = read(world_of(pipeline(1, "jobs: {}"), deleted=True), runs=1)
    assert (found.runs, found.complete) == ((), True)


# --- The blast radius -------------------------------------------------------------------------------------------------


def pair(sink):
    tails = (("AWS_ACCESS_KEY_ID", "WXYZ"), ("AWS_SECRET_ACCESS_KEY", "s/+c"))
    return [StoredVariable(sink=sink, variable=MaskedVariable(name=name, tail=tail)) for name, tail in tails]


def radius(*compiled, sink=DEPLOY, holes=(), projects=(API,)):
    runs = read(world_of(*(pipeline(count, text) for count, text in enumerate(compiled, 1))), runs=20).runs
    found = Inventory(
        generated_at="",
        kinds=tuple(kind.value for kind in SecretKind),
        organizations=(ACME,),
        projects=projects,
        contexts=(DEPLOY,),
        variables=tuple(pair(sink)),
        keys=(KEY,),
        runs=runs,
        holes=holes,
    )
    return blast_radius(found)[KEY.id]


def test_runs_name_the_jobs_that_use_a_key() -> None:
    compiled = f"jobs: {{a: {PULL}, b: {{}}}}\nworkflows: {{w: {{jobs: [a, {{b: {{context: deploy}}}}]}}}}"
    assert [(job.file, job.job, job.via) for job in radius(compiled).jobs] == [
        ("pipeline 1", "b", "the context deploy")
    ]
    own = Sink(kind=SinkKind.PROJECT, id=SLUG, name=SLUG, organization="gh/acme")
    assert ("pipeline 1", "a", IMPLICIT_ECR) in [
        (job.file, job.job, job.via) for job in radius(compiled, sink=own).jobs
    ]


def test_doubts_are_told_of_the_projects_that_may_use_the_key() -> None:
    assert radius("a: [unclosed").doubts == (f"{SLUG}: what pipeline 1 ran with cannot be read: it is not YAML",)
    hole = Hole(what=RUN_CONFIG, where=f"{SLUG} (pipeline 3)", why="HTTP403")
    assert radius(holes=(hole,)).doubts == (
        f"{SLUG}: no run of it is known, so its jobs are not",
        f"{SLUG} (pipeline 3): what it ran with was not read",
    )
    elsewhere = Sink(kind=SinkKind.PROJECT, id="gh/acme/web", name="gh/acme/web", organization="gh/acme")
    assert radius("a: [unclosed", sink=elsewhere, holes=(hole,)).doubts == ()


def test_two_runs_with_the_same_jobs_are_told_apart() -> None:
    compiled = worlds.pipelines(SLUG)[-1].compiled
    assert [(job.file, job.job) for job in radius(compiled, compiled).jobs] == [
        ("pipeline 2", "a"),
        ("pipeline 1", "a"),
    ]
