"""An inventory says what was read, what was not, and never that it is complete when it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playbook.cli import KINDS
from playbook.collect import collect
from playbook.correlate import StoredVariable
from playbook.errors import AwsError, CircleCiError, CredentialsError, Effect, ExitCode, UsageError
from playbook.exposure import Window
from playbook.inventory import Inventory, Reads, Said, StoredRestriction, ask_organizations, find_organizations
from playbook.inventory_document import SCHEMA, document
from playbook.journal import Journal
from playbook.model import Question
from playbook.ports import (
    AccessKey,
    CredentialReport,
    Hole,
    KeyListing,
    KeyStatus,
    LastUsed,
    MaskedVariable,
    Organization,
    Project,
    Projects,
    ProjectSecrets,
    Restriction,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
    StoredSecrets,
    User,
    Variables,
)

NOW = datetime(2023, 1, 4, 12, 30, tzinfo=UTC)
MADE = datetime(2022, 6, 1, tzinfo=UTC)
ACME = Organization(id="org-1", slug="gh/acme", name="Acme")
NAMELESS = Organization(id="", slug="circleci/Frag", name="No id")
SHAPE = json.loads((resources.files("playbook") / "schemas" / "inventory.schema.json").read_text())
ACCOUNTS = ("111111111111", "222222222222")

# --- A small world behind a view ------------------------------------------------------------------------------------


def refusal(code: str = "HTTP403") -> CircleCiError:
    return CircleCiError("the read", code=code, effect=Effect.NONE, status=403)


def denial(code: str = "AccessDenied") -> AwsError:
    return AwsError("iam:Read", code=code, effect=Effect.NONE)


class Refusing:
    """Answers from the world, except where a test put an error."""

    def __init__(self) -> None:
        self.errors: dict[tuple[str, ...], Exception] = {}
        self.asked: list[tuple[str, ...]] = []

    def check(self, *what: str) -> None:
        self.asked.append(what)
        if what in self.errors:
            raise self.errors[what]


class SmallCircleCi(Refusing):
    def __init__(self) -> None:
        super().__init__()
        self.seen: tuple[Organization, ...] = (ACME, NAMELESS)
        self.stored = {
            "ctx-1": (
                masked("AWS_ACCESS_KEY_ID", "AAA2", updated_at=NOW - timedelta(days=9)),
                masked("AWS_SECRET_ACCESS_KEY", "x/+z", updated_at=NOW - timedelta(days=9)),
                masked("AWS_REGION", "st-1", updated_at=NOW - timedelta(days=9)),
            ),
            "gh/acme/web": (masked("NPM_TOKEN", "q9Qz"), masked("AWS_ACCESS_KEY_ID", "ZZZZ")),
            "gh/acme/gone": (),
        }
        self.complete = True
        self.project_holes: tuple[Hole, ...] = ()
        self.secret_holes: tuple[Hole, ...] = ()
        self.kinds_asked: list[frozenset[SecretKind]] = []

    def organizations(self) -> tuple[Organization, ...]:
        self.check("organizations")
        return self.seen

    def contexts(self, organization: Organization) -> tuple[Sink, ...]:
        self.check("contexts", organization.slug)
        if organization is not ACME:
            return ()
        return (Sink(kind=SinkKind.CONTEXT, id="ctx-1", name="deploy", organization="gh/acme"),)

    def projects(self, organization: Organization) -> Projects:
        self.check("projects", organization.slug)
        if organization is not ACME:
            return Projects(items=())
        return Projects(
            items=(
                Project(id="p-1", slug="gh/acme/web", organization="gh/acme", known_by=("v3", "private")),
                Project(id="p-2", slug="gh/acme/gone", organization="gh/acme", known_by=("private",), deleted=True),
            ),
            holes=self.project_holes,
        )

    def variables(self, sink: Sink) -> Variables:
        self.check("variables", sink.id)
        return Variables(items=self.stored[sink.id], complete=self.complete)

    def restrictions(self, context: Sink) -> tuple[Restriction, ...]:
        self.check("restrictions", context.id)
        return (Restriction(id="r-1", kind="project", value="p-1"),)

    def project_secrets(self, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
        self.check("project_secrets", project.slug)
        self.kinds_asked.append(kinds)
        keys = [stored(SecretKind.CHECKOUT_KEY, "fp", project.slug, "project", created_at=MADE)]
        return ProjectSecrets(
            variables=Variables(items=self.stored.get(project.slug, ())),
            secrets=tuple(key for key in keys if key.kind in kinds and project.slug == "gh/acme/web"),
            holes=self.secret_holes if project.slug == "gh/acme/web" else (),
        )

    def organization_secrets(self, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
        self.check("organization_secrets", organization.slug)
        self.kinds_asked.append(kinds)
        if organization is not ACME or SecretKind.RUNNER_TOKEN not in kinds:
            return StoredSecrets()
        return StoredSecrets(secrets=(stored(SecretKind.RUNNER_TOKEN, "t-1", "acme/linux", "resource-class"),))


class SmallAws(Refusing):
    def __init__(self, account: str, users: dict[str, tuple[AccessKey, ...]]) -> None:
        super().__init__()
        self.account = account
        self.by_user = users
        self.root_keys = 0
        self.report: CredentialReport | None = None

    def users(self) -> tuple[User, ...]:
        self.check("users")
        return tuple(
            User(account=self.account, name=name, arn=f"arn:aws:iam::{self.account}:user/{name}")
            for name in self.by_user
        )

    def described_users(self) -> tuple[User, ...]:
        self.check("described_users")
        return tuple(
            User(
                account=self.account,
                name=name,
                arn=f"arn:aws:iam::{self.account}:user/{name}",
                tags=(("team", "ci"),),
                policies=("AdministratorAccess",),
                reach=("everything (policy AdministratorAccess)",),
            )
            for name in self.by_user
        )

    def credential_report(self) -> CredentialReport:
        self.check("credential_report")
        if self.report is None:
            raise denial("ReportNotPresent")
        return self.report

    def summary(self) -> dict[str, int]:
        self.check("summary")
        return {"AccountAccessKeysPresent": self.root_keys}

    def access_keys(self, user: str) -> KeyListing:
        self.check("access_keys", user)
        return KeyListing(keys=self.by_user[user], server_time=NOW)

    def last_used(self, key_id: str) -> LastUsed:
        self.check("last_used", key_id)
        return (
            LastUsed(at=NOW - timedelta(days=1), service="s3", region="us-east-1")
            if "1" in key_id
            else LastUsed(at=None)
        )


class SmallView:
    """As much of `ports.View` as collecting needs; it has nothing that could write."""

    def __init__(self) -> None:
        self.circleci = SmallCircleCi()
        first, second = ACCOUNTS
        self._aws = {
            first: SmallAws(first, {"deploy": (key("AKIA1AAA2", "deploy"), key("AKIA2BBB3", "deploy", active=False))}),
            second: SmallAws(second, {"deploy": (key("AKIA3CCC4", "deploy", account=second),), "idle": ()}),
        }
        self.clock = self
        self.accounts = ACCOUNTS
        self.unopened: tuple[Hole, ...] = ()

    def now(self) -> datetime:
        return NOW

    def aws(self, account: str) -> SmallAws:
        return self._aws[account]

    def gather(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(function, items))


def masked(name: str, tail: str | None, *, updated_at: datetime | None = None) -> MaskedVariable:
    return MaskedVariable(name=name, tail=tail, updated_at=updated_at)


def key(key_id: str, user: str, *, account: str = ACCOUNTS[0], active: bool = True) -> AccessKey:
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    return AccessKey(account=account, user=user, id=key_id, status=status, created_at=MADE)


def stored(kind: SecretKind, number: str, place: str, place_kind: str, **more: Any) -> StoredSecret:
    return StoredSecret(
        kind=kind, id=number, organization="gh/acme", place=place, place_kind=place_kind, name=number, **more
    )


@pytest.fixture
def view() -> SmallView:
    return SmallView()


def collected(view: SmallView) -> Inventory:
    return collect(view, (ACME, NAMELESS), ACCOUNTS)  # type: ignore[arg-type]


# --- Collecting -----------------------------------------------------------------------------------------------------


def test_everything_is_read_once_and_nothing_is_missing(view: SmallView) -> None:
    found = collected(view)
    assert found.complete
    assert [item.id for item in found.contexts] == ["ctx-1"]
    assert [item.slug for item in found.projects] == ["gh/acme/web", "gh/acme/gone"]
    assert [(item.sink.id, item.variable.name) for item in found.variables] == [
        ("ctx-1", "AWS_ACCESS_KEY_ID"),
        ("ctx-1", "AWS_SECRET_ACCESS_KEY"),
        ("ctx-1", "AWS_REGION"),
        ("gh/acme/web", "NPM_TOKEN"),
        ("gh/acme/web", "AWS_ACCESS_KEY_ID"),
    ]
    assert [item.id for item in found.keys] == ["AKIA1AAA2", "AKIA2BBB3", "AKIA3CCC4"]
    assert len(found.users) == 3
    assert set(found.last_used) == {item.id for item in found.keys}
    assert found.generated_at == "2023-01-04T12:30:00Z"
    asked = [*view.circleci.asked, *view.aws(ACCOUNTS[0]).asked]
    assert len(set(asked)) == len(asked)
    assert [item.kind.value for item in found.secrets] == ["checkout-key", "runner-token"]
    assert [(item.sink.id, item.restriction.value) for item in found.restrictions] == [("ctx-1", "p-1")]
    assert {user.tags for user in found.users} == {(("team", "ci"),)}
    assert found.kinds == tuple(sorted(SecretKind))


REFUSED_READS: list[tuple[str, tuple[str, ...], Hole]] = [
    ("circleci", ("contexts", "gh/acme"), Hole(what="contexts", where="gh/acme", why="HTTP403")),
    ("circleci", ("projects", "gh/acme"), Hole(what="projects", where="gh/acme", why="HTTP403")),
    ("circleci", ("variables", "ctx-1"), Hole(what="context variables", where="deploy", why="HTTP403")),
    ("circleci", ("project_secrets", "gh/acme/web"), Hole(what="project secrets", where="gh/acme/web", why="HTTP403")),
    ("circleci", ("restrictions", "ctx-1"), Hole(what="context restrictions", where="deploy", why="HTTP403")),
    (
        "circleci",
        ("organization_secrets", "gh/acme"),
        Hole(what="secrets of the organization", where="gh/acme", why="HTTP403"),
    ),
    (
        "aws",
        ("described_users",),
        Hole(what="tags and policies of users", where=ACCOUNTS[0], why="AccessDenied"),
    ),
    ("aws", ("summary",), Hole(what="the root user's access keys", where=ACCOUNTS[0], why="AccessDenied")),
    ("aws", ("users",), Hole(what="IAM users", where=ACCOUNTS[0], why="AccessDenied")),
    ("aws", ("access_keys", "deploy"), Hole(what="access keys", where=f"{ACCOUNTS[0]}/deploy", why="AccessDenied")),
    (
        "aws",
        ("last_used", "AKIA1AAA2"),
        Hole(what="last use", where=f"{ACCOUNTS[0]}/deploy/AKIA1AAA2", why="AccessDenied"),
    ),
]


def refuse(view: SmallView, platform: str, what: tuple[str, ...]) -> None:
    if platform == "circleci":
        view.circleci.errors[what] = refusal()
    else:
        view.aws(ACCOUNTS[0]).errors[what] = denial()


@pytest.mark.parametrize(("platform", "what", "hole"), REFUSED_READS, ids=[read[2].what for read in REFUSED_READS])
def test_a_refused_read_is_a_hole_and_the_rest_is_read(
    view: SmallView, platform: str, what: tuple[str, ...], hole: Hole
) -> None:
    whole = collected(SmallView())
    refuse(view, platform, what)
    found = collected(view)
    assert found.holes == (hole,)
    assert not found.complete
    assert document(found)["complete"] is False
    assert {item.id for item in found.variables} <= {item.id for item in whole.variables}
    assert ACCOUNTS[1] in {item.account for item in found.keys}


def test_every_refused_read_is_named(view: SmallView) -> None:
    refuse(view, "circleci", ("variables", "ctx-1"))
    refuse(view, "circleci", ("project_secrets", "gh/acme/web"))
    refuse(view, "aws", ("access_keys", "deploy"))
    view.circleci.project_holes = (Hole(what="projects (v3)", where="gh/acme", why="HTTP500"),)
    found = collected(view)
    assert [hole.what for hole in found.holes] == [
        "projects (v3)",
        "context variables",
        "project secrets",
        "access keys",
    ]
    assert len(document(found)["holes"]) == 4


def test_variables_that_the_api_hides_are_a_hole(view: SmallView) -> None:
    view.circleci.complete = False
    found = collected(view)
    assert [(hole.what, hole.where) for hole in found.holes] == [("context variables", "deploy")]
    assert "shows no more" in found.holes[0].why
    assert len(found.variables) == 5


def test_a_rejected_token_or_a_bug_is_no_hole(view: SmallView) -> None:
    for error in (CredentialsError("expired", remedy="again"), ZeroDivisionError()):
        view.circleci.errors["variables", "ctx-1"] = error
        with pytest.raises(type(error)):
            collected(view)
    view.circleci.errors.clear()
    view.aws(ACCOUNTS[1]).errors["access_keys", "idle"] = CredentialsError("expired", remedy="again")
    with pytest.raises(CredentialsError):
        collected(view)


# --- The document ---------------------------------------------------------------------------------------------------


def undescribed(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """The fields of a document that its schema does not describe: it allows them, but we ship none."""
    if isinstance(value, list):
        return [found for item in value for found in undescribed(item, schema.get("items", {}), f"{where}[]")]
    if not isinstance(value, dict):
        return []
    known = schema.get("properties")
    if known is None:
        return [] if "additionalProperties" in schema else [where]
    return [
        found
        for name, item in value.items()
        for found in (undescribed(item, known[name], f"{where}.{name}") if name in known else [f"{where}.{name}"])
    ]


def check_schema(told: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SHAPE, format_checker=jsonschema.FormatChecker()).validate(told)
    assert undescribed(told, SHAPE) == []


def test_the_document_has_the_shape_that_other_tools_read(view: SmallView) -> None:
    view.aws(ACCOUNTS[0]).root_keys = 1
    view.circleci.project_holes = (Hole(what="project source", where="gh/acme (v3)", why="HTTP500"),)
    told = document(collected(view), window=Window(end=NOW))
    assert json.loads(json.dumps(told)) == told
    check_schema(told)
    assert told["schema"] == SCHEMA == 1
    assert told["complete"] is False
    assert told["organizations"][0] == {"id": "org-1", "slug": "gh/acme", "name": "Acme"}
    assert told["projects"][1]["deleted"] is True
    assert told["projects"][0]["known_by"] == ["v3", "private"]
    assert told["contexts"] == [{"id": "ctx-1", "name": "deploy", "organization": "gh/acme"}]
    assert told["root_keys"] == [ACCOUNTS[0]]
    assert told["users"][0]["reach"] == ["everything (policy AdministratorAccess)"]
    ids = [row["id"] for row in told["secrets"]]
    assert len(set(ids)) == len(ids) == 8
    for row in told["access_keys"]:
        assert set(row["stored_in"]) <= set(ids)
    places = {
        row["kind"]: row.get("context") or row.get("project") or row.get("resource_class") for row in told["secrets"]
    }
    assert places == {
        "context-variable": "deploy",
        "project-variable": "gh/acme/web",
        "checkout-key": "gh/acme/web",
        "runner-token": "acme/linux",
        "context-restriction": "deploy",
    }
    assert next(row for row in told["secrets"] if row["kind"] == "checkout-key")["known_by"] == ["v3", "private"]


def test_a_schema_that_lets_everything_pass_would_be_noticed(view: SmallView) -> None:
    told = document(collected(view))
    for path, broken in [
        (("schema",), 2),
        (("secrets", 0, "kind"), "password"),
        (("secrets", 0, "exposure"), "fine"),
        (("access_keys", 0, "status"), "on"),
        (("access_keys", 0, "last_used_at"), 5),
        (("holes",), None),
    ]:
        copy = json.loads(json.dumps(told))
        place = copy
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = broken
        with pytest.raises(jsonschema.ValidationError):
            check_schema(copy)
    copy = json.loads(json.dumps(told))
    del copy["secrets"][0]["rotation"]
    with pytest.raises(jsonschema.ValidationError):
        check_schema(copy)
    with pytest.raises(AssertionError):
        check_schema({**told, "surprise": 1})


def test_the_command_line_and_the_schema_know_every_kind() -> None:
    assert set(KINDS) == {kind.value for kind in SecretKind}
    assert set(SHAPE["properties"]["secrets"]["items"]["properties"]["kind"]["enum"]) == set(KINDS)


def test_the_document_says_where_a_key_is_and_what_a_place_holds(view: SmallView) -> None:
    told = document(collected(view))
    rows = {row["id"]: row for row in told["secrets"]}
    held = rows["context:ctx-1:AWS_ACCESS_KEY_ID"]["access_key"]
    assert (held["account"], held["user"], held["id"], held["confidence"]) == (
        ACCOUNTS[0],
        "deploy",
        "AKIA1AAA2",
        "strong",
    )
    beside = rows["context:ctx-1:AWS_SECRET_ACCESS_KEY"]["access_key"]
    assert beside["id"] == "AKIA1AAA2"
    assert beside["evidence"][0] == "it stands beside AWS_ACCESS_KEY_ID"
    assert rows["context:ctx-1:AWS_REGION"]["access_key"] is None
    assert rows["project:gh/acme/web:AWS_ACCESS_KEY_ID"]["access_key"] is None
    assert rows["project:gh/acme/web:AWS_ACCESS_KEY_ID"]["tail"] == "ZZZZ"
    assert rows["context:ctx-1:AWS_REGION"]["updated_at"] == "2022-12-26T12:30:00Z"

    keys = {row["id"]: row for row in told["access_keys"]}
    assert keys["AKIA1AAA2"]["stored_in"] == ["context:ctx-1:AWS_ACCESS_KEY_ID", "context:ctx-1:AWS_SECRET_ACCESS_KEY"]
    assert keys["AKIA1AAA2"]["last_used_at"] == "2023-01-03T12:30:00Z"
    assert keys["AKIA1AAA2"]["last_used_service"] == "s3"
    assert (keys["AKIA2BBB3"]["status"], keys["AKIA2BBB3"]["stored_in"]) == ("Inactive", [])
    assert (keys["AKIA2BBB3"]["last_used_at"], keys["AKIA2BBB3"]["last_used_service"]) == (None, None)


def test_kinds_limit_the_secrets_and_nothing_else(view: SmallView) -> None:
    found = collected(view)
    everything, some = document(found), document(found, kinds=["project-variable"])
    assert {row["kind"] for row in some["secrets"]} == {"project-variable"}
    assert len(some["secrets"]) == 2
    assert document(found, kinds=["webhook-secret"])["secrets"] == []
    assert {name: value for name, value in some.items() if name != "secrets"} == {
        name: value for name, value in everything.items() if name != "secrets"
    }


def test_a_document_with_holes_names_them(view: SmallView) -> None:
    refuse(view, "circleci", ("variables", "ctx-1"))
    told = document(collected(view))
    assert told["complete"] is False
    assert told["holes"] == [{"what": "context variables", "where": "deploy", "why": "HTTP403"}]


# --- Lines ----------------------------------------------------------------------------------------------------------

moments = st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants it naive
text = st.text(max_size=12)
sinks = st.builds(Sink, kind=st.sampled_from(SinkKind), id=text, name=text, organization=text)
variables = st.builds(
    MaskedVariable,
    name=text,
    tail=st.none() | text,
    created_at=st.none() | moments,
    updated_at=st.none() | moments,
)
uses = st.builds(LastUsed, at=st.none() | moments, service=text, region=text)


def several(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=3).map(tuple)


inventories = st.builds(
    Inventory,
    generated_at=text,
    organizations=several(st.builds(Organization, id=text, slug=text, name=text)),
    projects=several(
        st.builds(Project, id=text, slug=text, organization=text, known_by=several(text), deleted=st.booleans())
    ),
    contexts=several(sinks),
    variables=several(st.builds(StoredVariable, sink=sinks, variable=variables)),
    users=several(
        st.builds(
            User,
            account=text,
            name=text,
            arn=text,
            created_at=st.none() | moments,
            tags=several(st.tuples(text, text)),
            policies=several(text),
            groups=several(text),
            reach=several(text),
            boundary=text,
            password_last_used_at=st.none() | moments,
        )
    ),
    keys=several(
        st.builds(AccessKey, account=text, user=text, id=text, status=st.sampled_from(KeyStatus), created_at=moments)
    ),
    last_used=st.dictionaries(text, uses, max_size=3),
    oldest_read_at=text,
    kinds=several(st.sampled_from([kind.value for kind in SecretKind])),
    secrets=several(
        st.builds(
            StoredSecret,
            kind=st.sampled_from(SecretKind),
            id=text,
            organization=text,
            place=text,
            place_kind=st.sampled_from(["project", "context", "resource-class", "organization"]),
            name=text,
            tail=st.none() | text,
            created_at=st.none() | moments,
            updated_at=st.none() | moments,
            detail=text,
            set=st.booleans(),
        )
    ),
    restrictions=several(
        st.builds(StoredRestriction, sink=sinks, restriction=st.builds(Restriction, id=text, kind=text, value=text))
    ),
    root_keys=several(text),
    said=several(st.builds(Said, place=text, key_id=text)),
    reads=several(st.builds(Reads, what=text, asked=st.integers(0, 9), refused=st.integers(0, 9), reused=st.just(0))),
    holes=several(st.builds(Hole, what=text, where=text, why=text)),
)
quickly = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(inventories)
@quickly
def test_lines_read_back_as_the_same_inventory(inventory: Inventory) -> None:
    lines = inventory.to_lines()
    assert not any("\n" in line for line in lines)
    assert Inventory.from_lines(lines) == inventory
    assert Inventory.from_lines(lines).to_lines() == lines


def test_lines_survive_the_case_folder_and_a_resume(tmp_path: Any, view: SmallView) -> None:
    view.circleci.seen = (Organization(id="o", slug="gh/odd", name="odd \u2028 name \x85 \x1c \r here"),)
    inventory = collect(view, view.circleci.seen, ACCOUNTS)  # type: ignore[arg-type]
    journal = Journal.open(tmp_path / "case")
    digest = journal.attach("inventory.jsonl", inventory.to_lines())
    journal.close()
    resumed = Journal.open(tmp_path / "case")
    assert Inventory.from_lines(resumed.attachment("inventory.jsonl", digest)) == inventory
    resumed.close()


@given(inventories)
@quickly
def test_a_document_can_be_made_of_any_inventory(inventory: Inventory) -> None:
    told = json.loads(json.dumps(document(inventory)))
    assert len(told["secrets"]) == len(inventory.variables) + len(inventory.secrets) + len(inventory.restrictions)
    assert len(told["access_keys"]) == len(inventory.keys)
    assert told["complete"] is (not inventory.holes)
    check_schema(told)


def test_no_lines_are_an_empty_inventory() -> None:
    assert Inventory.from_lines(()) == Inventory(generated_at="")


# --- Organizations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gh/acme", "github/acme", "org-1"])
def test_an_organization_is_found_by_slug_long_slug_or_id(view: SmallView, name: str) -> None:
    assert find_organizations(view, [name]) == (ACME,)  # type: ignore[arg-type]
    assert find_organizations(view, [name, "gh/acme", name]) == (ACME,)  # type: ignore[arg-type]


def test_no_name_means_every_organization(view: SmallView) -> None:
    assert find_organizations(view, []) == (ACME, NAMELESS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gh/other", "", "Acme", "acme", "\x1b[2J"])
def test_an_unknown_organization_is_refused_with_those_that_are_seen(view: SmallView, name: str) -> None:
    with pytest.raises(UsageError, match="it sees gh/acme, circleci/Frag") as caught:
        find_organizations(view, ["gh/acme", name])  # type: ignore[arg-type]
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\x1b" not in caught.value.message
    view.circleci.seen = ()
    with pytest.raises(UsageError, match="it sees none at all"):
        find_organizations(view, [name])  # type: ignore[arg-type]


def test_asking_for_organizations_has_no_safe_default(view: SmallView) -> None:
    asked: list[Question[Any]] = []

    class Ask:
        def __call__(self, question: Question[Any]) -> Any:
            asked.append(question)
            return ("gh/acme",)

        def all(self, questions: Any) -> Any:
            raise AssertionError

    assert ask_organizations(view, Ask()) == (ACME,)  # type: ignore[arg-type]
    assert asked[0].default is None
    assert asked[0].proposal == ("gh/acme", "circleci/Frag")
    assert asked[0].answer_key == "circleci.organizations"
