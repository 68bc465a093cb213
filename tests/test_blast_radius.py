"""What a leaked key reaches: contexts, their restrictions, projects, and the jobs of checkouts."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook.blast_radius import IMPLICIT_ECR, Checkout, Radius, blast_radius
from playbook.blast_radius import document as told_radius
from playbook.config_jobs import (
    ALIASES_MAX,
    DEPTH_MAX,
    SIZE_MAX,
    ConfigUse,
    JobUse,
    UnreadableConfigError,
    config_use,
)
from playbook.correlate import StoredVariable
from playbook.errors import UsageError
from playbook.inventory import Inventory, StoredRestriction
from playbook.ports import (
    AccessKey,
    Hole,
    KeyStatus,
    MaskedVariable,
    Organization,
    Project,
    Restriction,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
)
from playbook.survey import checkouts_of

MADE = datetime(2022, 6, 1, tzinfo=UTC)
ACME = Organization(id="0a-org", slug="gh/acme", name="Acme")
PROJECTS = tuple(
    Project(id=f"p-{name}", slug=f"gh/acme/{name}", organization="gh/acme", known_by=("private",))
    for name in ("api", "web", "infra")
)
DEPLOY = Sink(kind=SinkKind.CONTEXT, id="c-1", name="deploy", organization="gh/acme")
SHARED = Sink(kind=SinkKind.CONTEXT, id="c-2", name="shared", organization="gh/acme")
WEB = Sink(kind=SinkKind.PROJECT, id="gh/acme/web", name="gh/acme/web", organization="gh/acme")
KEY = AccessKey(account="1" * 12, user="ci", id="AKIA000000000000WXYZ", status=KeyStatus.ACTIVE, created_at=MADE)
ID, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


def pair(sink: Sink, prefix: str = "") -> list[StoredVariable]:
    tails = ((f"{prefix}{ID}", "WXYZ"), (f"{prefix}{SECRET}", "s/+c"))
    return [StoredVariable(sink=sink, variable=MaskedVariable(name=name, tail=tail)) for name, tail in tails]


def restriction(sink: Sink, kind: str, value: str) -> StoredRestriction:
    return StoredRestriction(sink=sink, restriction=Restriction(id=f"{kind}-{value}", kind=kind, value=value))


def inventory(*variables: StoredVariable, restrictions=(), **more) -> Inventory:
    return Inventory(
        generated_at="",
        kinds=tuple(kind.value for kind in SecretKind),
        organizations=(ACME,),
        projects=PROJECTS,
        contexts=(DEPLOY, SHARED),
        variables=variables,
        restrictions=tuple(restrictions),
        keys=(KEY,),
        **more,
    )


def radius(*variables, checkouts=(), **more) -> Radius:
    return blast_radius(inventory(*variables, **more), checkouts)[KEY.id]


# --- Restrictions -----------------------------------------------------------------------------------------------------


def test_no_restriction_opens_a_context_to_every_project() -> None:
    found = radius(*pair(DEPLOY))
    assert found.contexts[0].every_project
    assert found.projects == ("gh/acme/api", "gh/acme/infra", "gh/acme/web")
    assert found.doubts == ()


def test_project_restrictions_name_the_projects_also_those_that_no_source_lists() -> None:
    limits = [restriction(DEPLOY, "project", "p-web"), restriction(DEPLOY, "project", "p-gone")]
    found = radius(*pair(DEPLOY), restrictions=limits)
    assert found.projects == ("gh/acme/web", "p-gone")
    assert not found.contexts[0].every_project


def test_the_group_of_all_members_limits_nothing_another_group_and_an_expression_are_doubts() -> None:
    everybody = radius(*pair(DEPLOY), restrictions=[restriction(DEPLOY, "group", ACME.id)])
    assert everybody.doubts == ()
    assert len(everybody.projects) == 3
    some = radius(*pair(DEPLOY), restrictions=[restriction(DEPLOY, "group", "g-1")])
    assert ["limited to a group" in doubt for doubt in some.doubts] == [True]
    asked = radius(*pair(DEPLOY), restrictions=[restriction(DEPLOY, "expression", 'pipeline.git.branch == "main"')])
    assert ["not evaluated" in doubt for doubt in asked.doubts] == [True]
    assert len(asked.projects) == 3


def test_restrictions_that_were_not_read_are_assumed_away_and_said() -> None:
    hole = Hole(what="context restrictions", where="deploy", why="HTTP403")
    found = radius(*pair(DEPLOY), holes=(hole,))
    assert len(found.projects) == 3
    assert ["was not read" in doubt for doubt in found.doubts] == [True]
    bare = Inventory(generated_at="", variables=tuple(pair(DEPLOY)), keys=(KEY,), projects=PROJECTS)
    assert "was not read" in blast_radius(bare)[KEY.id].doubts[0]


def test_a_project_that_could_not_be_listed_is_a_doubt_where_everybody_may_use_the_key() -> None:
    hole = Hole(what="projects", where="gh/acme", why="HTTP500")
    assert "not every project" in radius(*pair(DEPLOY), holes=(hole,)).doubts[0]
    limits = [restriction(DEPLOY, "project", "p-web")]
    assert radius(*pair(DEPLOY), holes=(hole,), restrictions=limits).doubts == ()


def test_a_key_in_a_project_and_in_a_legacy_integration_reaches_those_projects() -> None:
    legacy = StoredSecret(
        kind=SecretKind.LEGACY_AWS_KEY,
        id="l",
        organization="gh/acme",
        place="gh/acme/infra",
        place_kind="project",
        name="AWS permissions",
        tail="WXYZ",
    )
    assert radius(*pair(WEB), secrets=(legacy,)).projects == ("gh/acme/infra", "gh/acme/web")
    assert radius(secrets=(legacy,)).projects == ("gh/acme/infra",)


def test_a_key_that_is_stored_nowhere_reaches_nothing() -> None:
    assert blast_radius(inventory()) == {}


def test_the_radius_is_told_as_json() -> None:
    limits = [restriction(DEPLOY, "project", "p-web")]
    told = told_radius(radius(*pair(DEPLOY), restrictions=limits))
    assert told["contexts"] == [
        {
            "id": "c-1",
            "name": "deploy",
            "organization": "gh/acme",
            "every_project": False,
            "restrictions": ["context-restriction:c-1:project-p-web"],
        }
    ]
    assert told["projects"] == ["gh/acme/web"]


# --- Configurations ---------------------------------------------------------------------------------------------------

CONFIG = """
version: 2.1
executors:
  ecr:
    docker:
      - image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/base:1
  signed:
    docker:
      - image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/base:1
        aws_auth:
          aws_access_key_id: $PROD_AWS_ACCESS_KEY_ID
          aws_secret_access_key: $PROD_AWS_SECRET_ACCESS_KEY
defaults: &defaults
  docker:
    - image: cimg/base:2024.01
  steps: [checkout]
jobs:
  test: *defaults
  lint:
    <<: *defaults
    executor: ecr
  build:
    docker:
      - image: cimg/base:2024.01
      - image: 123456789012.dkr.ecr.eu-west-1.amazonaws.com/postgres:16
    steps: [checkout]
  publish:
    executor: {name: signed}
    steps: [checkout]
workflows:
  version: 2
  main:
    jobs:
      - test
      - lint
      - build: {requires: [test]}
      - hold: {type: approval}
      - publish: {context: [deploy, shared], name: publish-it}
      - aws-ecr/build_and_push_image: {context: deploy}
  nightly:
    triggers: [{schedule: {cron: "0 0 * * *", filters: {branches: {only: main}}}}]
    jobs:
      - test: {context: shared}
"""


def test_the_jobs_of_a_configuration_with_contexts_and_images() -> None:
    use = config_use(CONFIG)
    ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert use.jobs == (
        JobUse(workflow="main", name="test"),
        JobUse(workflow="main", name="lint", ecr_images=(f"{ecr}/base:1",)),
        JobUse(workflow="main", name="build", ecr_images=(f"{ecr}/postgres:16",)),
        JobUse(workflow="main", name="hold"),
        JobUse(
            workflow="main",
            name="publish-it",
            contexts=("deploy", "shared"),
            aws_auth=("PROD_AWS_ACCESS_KEY_ID", "PROD_AWS_SECRET_ACCESS_KEY"),
        ),
        JobUse(workflow="main", name="aws-ecr/build_and_push_image", contexts=("deploy",)),
        JobUse(workflow="nightly", name="test", contexts=("shared",)),
    )
    assert use.doubts == ("the job aws-ecr/build_and_push_image is an orb's: its images are not in the checkout",)


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("setup: true\nworkflows: {}", "generates the configuration"),
        ("jobs: {a: {}}\nworkflows: {w: {jobs: [{a: {context: << parameters.where >>}}]}}", "is a parameter"),
    ],
)
def test_what_the_text_leaves_open_is_said(text, doubt) -> None:
    assert [doubt in said for said in config_use(text).doubts] == [True]


def test_a_configuration_without_workflows_runs_build() -> None:
    text = "version: 2\njobs: {build: {docker: [{image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/a}]}}"
    assert [job.name for job in config_use(text).jobs] == ["build"]


def checkout(text: str, *, project: str = "gh/acme/web") -> Checkout:
    return Checkout(project=project, organization="gh/acme", file="web/.circleci/config.yml", use=config_use(text))


def test_jobs_that_name_the_context_are_named() -> None:
    jobs = radius(*pair(DEPLOY), checkouts=[checkout(CONFIG, project="gh/acme/api")]).jobs
    assert [(job.workflow, job.job, job.via) for job in jobs] == [
        ("main", "publish-it", "the context deploy"),
        ("main", "aws-ecr/build_and_push_image", "the context deploy"),
    ]


def test_a_pull_from_ecr_without_aws_auth_uses_the_projects_own_key() -> None:
    jobs = radius(*pair(WEB), checkouts=[checkout(CONFIG)]).jobs
    assert [job.job for job in jobs if job.via == IMPLICIT_ECR] == ["lint", "build"]
    elsewhere = radius(*pair(WEB), checkouts=[checkout(CONFIG, project="gh/acme/api")]).jobs
    assert elsewhere == ()
    # A key of another name is no use to the puller.
    prefixed = radius(*pair(WEB, "PROD_"), checkouts=[checkout(CONFIG)]).jobs
    assert [job.job for job in prefixed if job.via == IMPLICIT_ECR] == []
    assert [job.job for job in prefixed if job.via.startswith("aws_auth")] == ["publish-it"]


def test_aws_auth_takes_its_variables_from_the_jobs_own_contexts() -> None:
    jobs = radius(*pair(SHARED, "PROD_"), checkouts=[checkout(CONFIG)]).jobs
    assert {(job.job, job.via) for job in jobs} == {
        ("publish-it", "the context shared"),
        ("publish-it", "aws_auth, by PROD_AWS_ACCESS_KEY_ID"),
        ("test", "the context shared"),
    }


def test_a_context_of_the_same_name_in_another_organization_is_another_one() -> None:
    there = Checkout(project="gh/other/x", organization="gh/other", file="x", use=config_use(CONFIG))
    assert radius(*pair(DEPLOY), checkouts=[there]).jobs == ()
    nobodys = Checkout(project="", organization="", file="x", use=config_use(CONFIG))
    assert len(radius(*pair(DEPLOY), checkouts=[nobodys]).jobs) == 2


# --- Hostile files ----------------------------------------------------------------------------------------------------


def bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 {k: v}"]
    for level in range(1, levels):
        merged = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} {{<<: [{merged}], x{level}: [{merged}]}}")
    return "\n".join([*lines, f"jobs: *a{levels - 1}", f"workflows: {{w: {{jobs: [*a{levels - 1}]}}}}"])


@pytest.mark.parametrize(
    "text",
    [
        "a: [" * (DEPTH_MAX + 1),
        "[" * 100_000,
        "x: " + "a" * SIZE_MAX,
        "a: &a 1\nb: [" + ", ".join(["*a"] * (ALIASES_MAX + 1)) + "]",
        "a: b: c",
        "\x00",
        "a: *nobody",
        "--- a\n--- b",
        "!!python/object/apply:os.system [x]: [",
    ],
    ids=range(9),
)
def test_a_file_beyond_the_limits_is_refused_and_not_quoted(text) -> None:
    with pytest.raises(UnreadableConfigError) as caught:
        config_use(text)
    assert len(str(caught.value)) < 100
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None


def test_aliases_and_merges_are_never_expanded() -> None:
    began_at = time.monotonic()
    config_use(bomb(30, 10))
    took_s = time.monotonic() - began_at
    print(f"\na bomb of 10^29 nodes: {took_s * 1000:.0f} ms")
    assert took_s < 2


def test_a_mapping_that_merges_itself_ends() -> None:
    assert config_use("jobs: &j\n  <<: *j\nworkflows: {w: &w {<<: [*w, *w], jobs: [a]}}").jobs[0].name == "a"


def test_a_tag_builds_nothing() -> None:
    use = config_use('workflows: {w: {jobs: [!!python/object/apply:os.system ["exit 1"], b]}}')
    assert [job.name for job in use.jobs] == ["b"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=" \n-:[]{}&*!<>|'\"#ab1jobsworkflwcntexdk", max_size=200))
def test_any_text_is_read_or_refused(text) -> None:
    try:
        use = config_use(text)
    except UnreadableConfigError:
        return
    assert isinstance(use, ConfigUse)


def test_a_truncated_configuration_is_read_or_refused() -> None:
    for length in range(len(CONFIG)):
        try:
            config_use(CONFIG[:length])
        except UnreadableConfigError:
            continue


# --- Checkouts --------------------------------------------------------------------------------------------------------


def a_checkout(folder, *, origin: str | None = None):
    (folder / ".circleci").mkdir(parents=True)
    (folder / ".circleci" / "config.yml").write_text(CONFIG)
    if origin is not None:
        (folder / ".git").mkdir()
        (folder / ".git" / "config").write_text(f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {origin}\n')
    return str(folder)


@pytest.mark.parametrize(
    ("origin", "slug"),
    [
        ("git@github.com:acme/web.git", "gh/acme/web"),
        ("https://github.com/acme/web", "gh/acme/web"),
        ("https://token@github.com/acme/web.git", "gh/acme/web"),
        ("ssh://git@bitbucket.org/acme/web.git", "bb/acme/web"),
        ("git@gitlab.com:acme/web.git", ""),
        ("https://evil.example/github.com/acme/web", ""),
        (None, ""),
    ],
)
def test_whose_checkout_it_is(tmp_path, origin, slug) -> None:
    (found,) = checkouts_of([a_checkout(tmp_path / "web", origin=origin)])
    assert found.project == slug
    assert found.file == "web/.circleci/config.yml"
    assert found.use.jobs


def test_a_slug_may_be_said(tmp_path) -> None:
    folder = a_checkout(tmp_path / "a=b", origin="git@github.com:acme/fork.git")
    (said,) = checkouts_of([f"gh/acme/web={folder}"])
    assert (said.project, said.organization) == ("gh/acme/web", "gh/acme")
    (read,) = checkouts_of([folder])
    assert read.project == "gh/acme/fork"


def test_a_checkout_that_cannot_be_read_is_a_doubt(tmp_path) -> None:
    folder = a_checkout(tmp_path / "web")
    (tmp_path / "web/.circleci/broken.yml").write_text("a: b: c: SECRETTEXT")
    (tmp_path / "web/.circleci/binary.yaml").write_bytes(b"\xff\xfe")
    found = checkouts_of([folder])
    doubts = [doubt for item in found for doubt in item.use.doubts if "cannot be read" in doubt]
    assert len(found) == 3
    assert len(doubts) == 2
    assert "SECRETTEXT" not in "".join(doubts)
    (tmp_path / "empty").mkdir()
    (empty,) = checkouts_of([str(tmp_path / "empty")])
    assert "no configuration" in empty.use.doubts[0]
    with pytest.raises(UsageError):
        checkouts_of([str(tmp_path / "none")])


# --- Large ------------------------------------------------------------------------------------------------------------


def test_a_large_organization_takes_no_time() -> None:
    draw = random.Random(7)
    contexts = [
        Sink(kind=SinkKind.CONTEXT, id=f"c-{number}", name=f"n{number}", organization="gh/acme")
        for number in range(500)
    ]
    keys = [
        AccessKey(
            account="1" * 12,
            user=f"u{number}",
            id="AKIA" + "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16)),
            status=KeyStatus.ACTIVE,
            created_at=MADE,
        )
        for number in range(500)
    ]
    variables = [
        StoredVariable(sink=sink, variable=MaskedVariable(name=ID, tail=key.id[-4:]))
        for sink, key in zip(contexts, keys, strict=True)
    ]
    large = Inventory(
        generated_at="",
        kinds=("context-restriction",),
        organizations=(ACME,),
        projects=PROJECTS * 100,
        contexts=tuple(contexts),
        variables=tuple(variables),
        keys=tuple(keys),
    )
    began_at = time.monotonic()
    found = blast_radius(large)
    print(f"\n{len(found)} keys in {time.monotonic() - began_at:.2f} s")
    assert len(found) > 480
