"""How an inventory is read: in few calls, side by side, with progress, and on from where it was interrupted."""

from __future__ import annotations

import io
import json
import random
import stat
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playbook import survey
from playbook.collect import ALL_KINDS, Advance, collect
from playbook.credential_report import FEW, last_uses, to_ask
from playbook.errors import AwsError, CircleCiError, Effect, JournalError, JournalLockedError, UsageError
from playbook.inventory import Inventory
from playbook.inventory_document import document
from playbook.journal import Journal
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
    ReportedKey,
    ReportedUser,
    Restriction,
    SecretKind,
    Sink,
    SinkKind,
    StoredSecret,
    StoredSecrets,
    User,
    Variables,
)
from playbook.reading import FILE, FRESH, Reading
from playbook.screen import ReadingProgress
from playbook.twins.scenario import load
from playbook.twins.seed import mirror
from playbook.twins.world import TwinWorld
from playbook.world import CaseWorld

NOW = datetime(2023, 1, 4, 12, 0, tzinfo=UTC)
ACME = Organization(id="org-1", slug="gh/acme", name="Acme")
ACCOUNT = "111111111111"
MADE = datetime(2022, 6, 1, tzinfo=UTC)


class Counting:
    """A world of a chosen size behind `ports.View`, which counts its calls and can be told to fail."""

    def __init__(self, *, users: int = 40, contexts: int = 6, projects: int = 20, stored: int = 3) -> None:
        self.calls: Counter[str] = Counter()
        self.order: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.now_at = NOW
        self.account = ACCOUNT
        self.accounts = (ACCOUNT,)
        self.unopened: tuple[Hole, ...] = ()
        self.circleci = self
        self.clock = self
        self.host = "https://circleci.com"
        self._lock = threading.Lock()
        self._users = [f"user-{number:04}" for number in range(users)]
        self._contexts = [
            Sink(kind=SinkKind.CONTEXT, id=f"c-{number}", name=f"ctx-{number}", organization="gh/acme")
            for number in range(contexts)
        ]
        self._projects = [
            Project(id=f"p-{number}", slug=f"gh/acme/p{number}", organization="gh/acme", known_by=("private",))
            for number in range(projects)
        ]
        self.stored = stored

    def now(self) -> datetime:
        return self.now_at

    def aws(self, account: str) -> Counting:
        return self

    def gather(self, function, items):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(function, items))

    def count(self, what: str, place: str = "") -> None:
        with self._lock:
            self.calls[what] += 1
            self.order.append(what)
        for name in (what, f"{what} {place}"):
            if name in self.errors:
                raise self.errors[name]

    def contexts(self, organization):
        self.count("contexts")
        return tuple(self._contexts)

    def projects(self, organization):
        self.count("projects")
        return Projects(items=tuple(self._projects))

    def variables(self, sink):
        self.count("variables", sink.id)
        number = int(sink.id.partition("-")[2])
        tail = self.key(self._users[number]).id[-4:] if number < self.stored else "ZZZZ"
        return Variables(items=(MaskedVariable(name="AWS_ACCESS_KEY_ID", tail=tail, updated_at=NOW),))

    def restrictions(self, context):
        self.count("restrictions", context.id)
        return (Restriction(id="r", kind="project", value="p-1"),)

    def project_secrets(self, project, kinds):
        self.count("project_secrets", project.slug)
        row = StoredSecret(
            kind=SecretKind.SSH_KEY, id="fp", organization="gh/acme", place=project.slug, place_kind="project", name="h"
        )
        return ProjectSecrets(variables=Variables(items=(MaskedVariable(name="A", tail="aaaa"),)), secrets=(row,))

    def organization_secrets(self, organization, kinds):
        self.count("organization_secrets")
        return StoredSecrets()

    def key(self, user: str) -> AccessKey:
        number = self._users.index(user)
        digits = "".join("ABCDEFGHIJKLMNOP"[(number >> shift) & 15] for shift in (12, 8, 4, 0))
        return AccessKey(
            account=ACCOUNT, user=user, id=f"AKIA00000000{digits}", status=KeyStatus.ACTIVE, created_at=MADE
        )

    def users(self):
        self.count("users")
        return tuple(
            User(account=ACCOUNT, name=name, arn=f"arn:aws:iam::{ACCOUNT}:user/{name}") for name in self._users
        )

    def described_users(self):
        self.count("described_users")
        return ()

    def summary(self):
        self.count("summary")
        return {}

    def access_keys(self, user):
        self.count("access_keys", user)
        return KeyListing(keys=(self.key(user),), server_time=self.now_at)

    def last_used(self, key_id):
        self.count("last_used", key_id)
        return LastUsed(at=NOW, service="s3")

    def credential_report(self):
        self.count("credential_report")
        old = LastUsed(at=NOW - timedelta(hours=3), service="ec2")
        rows = [ReportedUser(name=name, keys=(ReportedKey(changed_at=MADE, last_used=old),)) for name in self._users]
        return CredentialReport(generated_at=NOW - timedelta(hours=2), users=tuple(rows))


def collected(view: Counting, **more) -> Inventory:
    return collect(view, (ACME,), (ACCOUNT,), **more)


# --- Calls ----------------------------------------------------------------------------------------------------------


def test_a_thousand_users_cost_at_most_1_15_calls_each() -> None:
    view = Counting(users=1000, contexts=60, projects=0, stored=60)
    found = collected(view)
    aws = ("users", "described_users", "summary", "access_keys", "last_used", "credential_report")
    calls = sum(view.calls[name] for name in aws)
    print(f"\n{calls} calls for {len(found.users)} users: {calls / len(found.users):.3f} each")
    assert view.calls["access_keys"] == 1000
    assert view.calls["last_used"] == 60
    assert calls <= 1.15 * 1000
    assert len(found.last_used) == 1000
    stored = {match.key.id for match in found.correlation().matches if match.key}
    assert {found.last_used[key].service for key in stored} == {"s3"}
    assert {used.service for key, used in found.last_used.items() if key not in stored} == {"ec2"}


def test_where_many_keys_are_stored_the_report_is_believed_and_its_age_is_said() -> None:
    view = Counting(users=1000, contexts=400, stored=400)
    found = collect(view, (ACME,), (ACCOUNT,), kinds=(SecretKind.CONTEXT_VARIABLE,))
    aws = ("users", "described_users", "summary", "access_keys", "last_used", "credential_report")
    spent = sum(view.calls[name] for name in aws)
    print(f"{spent} calls for 1000 users with 400 stored keys")
    assert (view.calls["last_used"], spent <= 1.15 * 1000) == (0, True)
    at = view.credential_report().generated_at
    assert {(used.service, used.reported_at) for used in found.last_used.values()} == {("ec2", at)}
    told = document(found)
    assert {key["last_used_as_of"] for key in told["access_keys"]} == {at.isoformat().replace("+00:00", "Z")}
    (said,) = [item["text"] for item in told["findings"] if "credential reports" in item["text"]]
    assert said.startswith("the last use of 400 stored keys")


def test_a_few_stored_keys_are_asked_about_and_are_as_of_now() -> None:
    view = Counting(users=200, contexts=100, stored=100)
    found = collect(view, (ACME,), (ACCOUNT,), kinds=(SecretKind.CONTEXT_VARIABLE,))
    assert view.calls["last_used"] == FEW
    told = document(found)
    stored = [key for key in told["access_keys"] if key["stored_in"]]
    assert (len(stored), {key["last_used_as_of"] for key in stored}) == (100, {None})
    assert not any("credential reports" in item["text"] for item in told["findings"])


@pytest.mark.parametrize(("users", "stored", "asked"), [(5, 5, 5), (1000, 100, 100), (1000, 101, 1), (3000, 300, 300)])
def test_who_is_asked_about_by_itself(users, stored, asked) -> None:
    keys = [a_key(number, made=MADE) for number in range(users)]
    tails = {key.id[-4:] for key in keys[:stored]}
    doubtful = keys[0].id
    known = {key.id for key in keys} - {doubtful}
    found = to_ask(keys, known, tails, users)
    assert (len(found), doubtful in {key.id for key in found}) == (asked, True)


def test_without_a_report_every_key_is_asked_about_and_nothing_is_missing() -> None:
    view = Counting(users=30)
    view.errors["credential_report"] = AwsError("the report", code="AccessDenied", effect=Effect.NONE)
    found = collected(view)
    assert view.calls["last_used"] == 30
    assert {used.service for used in found.last_used.values()} == {"s3"}
    assert found.complete
    assert next(item for item in found.reads if item.what == "credential report").refused == 1


def test_a_key_that_the_report_hides_is_listed_all_the_same() -> None:
    view = Counting(users=5)
    view._projects = []
    report = CredentialReport(generated_at=NOW - timedelta(hours=4), users=())
    view.credential_report = lambda: report
    assert len(collected(view).keys) == 5


def test_the_platforms_are_read_at_the_same_time() -> None:
    view = Counting(users=100, projects=100, contexts=0)
    collected(view)
    second = [what for what in view.order if what in {"project_secrets", "access_keys"}]
    halves = Counter(second[: len(second) // 2])
    print(f"\nin the first half: {dict(halves)}")
    assert min(halves.values()) > 40


def test_kinds_that_nobody_asked_for_are_not_called_for() -> None:
    view = Counting()
    found = collected(view, kinds={SecretKind.CONTEXT_VARIABLE})
    assert view.calls["variables"] == 6
    assert view.calls["project_secrets"] == view.calls["organization_secrets"] == view.calls["restrictions"] == 0
    assert found.kinds == ("context-variable",)
    asked = []
    view.project_secrets = lambda project, kinds: asked.append(kinds) or ProjectSecrets(variables=Variables(items=()))
    collected(view, kinds={SecretKind.SSH_KEY, SecretKind.RUNNER_TOKEN})
    assert set(asked) == {frozenset({SecretKind.SSH_KEY})}
    assert view.calls["organization_secrets"] == 1


def test_the_counts_say_what_was_asked_and_what_was_refused() -> None:
    view = Counting()
    view.errors["variables c-2"] = CircleCiError("the read", code="HTTP403", status=403, effect=Effect.NONE)
    view.errors["project_secrets gh/acme/p3"] = CircleCiError("x", code="HTTP500", status=500, effect=Effect.NONE)
    reads = {item.what: (item.asked, item.refused) for item in collected(view).reads}
    assert reads["context variables"] == (6, 1)
    assert reads["project secrets"] == (20, 1)
    assert reads["access keys"] == (40, 0)


def test_an_account_that_was_not_opened_is_a_hole() -> None:
    view = Counting()
    view.unopened = (Hole(what="AWS account", where="222222222222 (dev)", why="AccessDenied"),)
    found = collected(view)
    assert not found.complete
    assert found.holes == view.unopened


def test_projects_of_a_file_are_read_and_a_strangers_one_is_a_hole() -> None:
    view = Counting()
    found = collected(view, known_projects=("gh/acme/p1", "gh/acme/forgotten", "gh/other/x"))
    known = {project.slug: project.known_by for project in found.projects}
    assert known["gh/acme/p1"] == ("private",)
    assert known["gh/acme/forgotten"] == ("file",)
    assert [(hole.where, "none of the organizations" in hole.why) for hole in found.holes] == [("gh/other/x", True)]
    assert view.calls["project_secrets"] == 21


# --- The credential report --------------------------------------------------------------------------------------------


def a_key(number: int, *, made: datetime, user: str = "ci") -> AccessKey:
    return AccessKey(account=ACCOUNT, user=user, id=f"AKIA{number:016}", status=KeyStatus.ACTIVE, created_at=made)


def a_column(changed_at: datetime | None, service: str) -> ReportedKey:
    return ReportedKey(changed_at=changed_at, last_used=LastUsed(at=NOW, service=service))


def reported(*columns: ReportedKey, at: datetime = NOW) -> CredentialReport:
    return CredentialReport(generated_at=at, users=(ReportedUser(name="ci", keys=columns),))


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("report", "keys", "expected"),
    [
        (reported(a_column(MADE, "s3")), [a_key(1, made=MADE)], {1: "s3"}),
        (reported(a_column(MADE + DAY, "s3")), [a_key(1, made=MADE)], {1: "s3"}),  # its status was changed since
        (
            reported(a_column(MADE + DAY, "b"), a_column(MADE, "a")),  # the columns in the other order
            [a_key(1, made=MADE), a_key(2, made=MADE + DAY)],
            {1: "a", 2: "b"},
        ),
        (reported(a_column(MADE, "s3"), a_column(MADE, "ec2")), [a_key(1, made=MADE), a_key(2, made=MADE)], {}),
        (reported(a_column(MADE - DAY, "s3")), [a_key(1, made=MADE)], {}),  # the column of a key that is gone
        (reported(a_column(MADE, "s3"), at=MADE), [a_key(1, made=MADE + DAY)], {}),  # made after the report
        (reported(a_column(MADE, "s3")), [a_key(1, made=MADE + DAY)], {}),
        (reported(a_column(NOW, "s3")), [a_key(1, made=NOW - timedelta(minutes=1))], {}),  # too young to be sure
        (reported(a_column(None, "s3")), [a_key(1, made=MADE)], {}),
        (
            reported(a_column(MADE, "a"), a_column(MADE + 3 * DAY, "b")),
            [a_key(1, made=MADE), a_key(2, made=MADE + DAY)],  # the second was switched off since
            {1: "a", 2: "b"},
        ),
        (
            reported(a_column(MADE + 2 * DAY, "a"), a_column(MADE + 3 * DAY, "b")),
            [a_key(1, made=MADE), a_key(2, made=MADE + DAY)],  # both were, and nothing tells them apart
            {},
        ),
        (reported(), [a_key(1, made=MADE)], {}),
    ],
)
def test_the_report_speaks_only_of_keys_that_it_can_mean(report, keys, expected) -> None:
    found = last_uses(report, keys)
    assert {int(key.removeprefix("AKIA")): used.service for key, used in found.items()} == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=0, max_size=2),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["delete", "toggle", "use"])), max_size=6),
    st.integers(0, 9),
    st.booleans(),
)
def test_whatever_happened_the_report_never_lends_a_key_another_ones_use(made, changes, at_day, swapped) -> None:
    """A history of one user, a report of some day in it, and the list of today."""
    days = [NOW - timedelta(days=10 - day, seconds=number) for number, day in enumerate(made)]
    keys = {number: a_key(number, made=day) for number, day in enumerate(days)}
    at = NOW - timedelta(days=10 - at_day)
    changed = dict(enumerate(days))
    gone: set[int] = set()
    for number, (day, what) in enumerate(changes):
        moment = NOW - timedelta(days=10 - day, minutes=number)
        target = number % 2
        if target not in keys or moment < keys[target].created_at or moment > at or day > at_day:
            continue
        if what == "toggle":
            changed[target] = max(changed[target], moment)
    deleted_since = {number for number, (_, what) in enumerate(changes) if what == "delete" and number in keys}
    columns = [a_column(changed[number], f"of {number}") for number in keys if keys[number].created_at < at]
    gone = deleted_since
    report = reported(*(reversed(columns) if swapped else columns), at=at)
    listed = [key for number, key in keys.items() if number not in gone]
    for key_id, used in last_uses(report, listed).items():
        assert used.service == f"of {int(key_id.removeprefix('AKIA'))}"


# --- Interrupted and continued ----------------------------------------------------------------------------------------


def a_reading(folder, view: Counting, scope: str = "s") -> Reading:
    return Reading(folder, scope=scope, now=view.now())


def test_an_interrupted_inventory_goes_on_where_it_was(tmp_path) -> None:
    whole = collected(Counting())
    view = Counting()
    view.errors["project_secrets gh/acme/p13"] = KeyboardInterrupt()
    with a_reading(tmp_path, view) as reading, pytest.raises(KeyboardInterrupt):
        collected(view, reading=reading)
    done = view.calls.total()
    view.errors.clear()
    view.calls.clear()
    view.now_at = NOW + timedelta(minutes=5)
    with a_reading(tmp_path, view) as reading:
        taken_up = reading.taken_up
        found = collected(view, reading=reading)
    print(f"\n{done} calls before the interruption, {taken_up} parts taken up, {view.calls.total()} calls after it")
    assert taken_up > 10
    assert view.calls["contexts"] == view.calls["users"] == 0
    assert view.calls["credential_report"] == 1
    assert {row[0] for row in found.rows()} >= {"variable", "key", "secret", "restriction"}
    assert sorted(found.to_lines()[2:]) != []
    same = ("organizations", "projects", "contexts", "variables", "secrets", "restrictions", "users", "keys")
    assert [getattr(found, name) for name in same] == [getattr(whole, name) for name in same]
    assert found.complete
    assert found.generated_at == "2023-01-04T12:05:00Z"
    assert found.oldest_read_at == "2023-01-04T12:00:00Z"
    assert sum(item.reused for item in found.reads) == taken_up


def test_what_was_refused_is_asked_again_and_the_rest_is_not(tmp_path) -> None:
    view = Counting()
    view.errors["variables c-5"] = CircleCiError("the read", code="HTTP403", status=403, effect=Effect.NONE)
    with a_reading(tmp_path, view) as reading:
        assert not collected(view, reading=reading).complete
    view.errors.clear()
    view.calls.clear()
    with a_reading(tmp_path, view) as reading:
        assert collected(view, reading=reading).complete
    assert view.calls == {"variables": 1, "credential_report": 1}


def test_old_parts_and_parts_of_another_inventory_are_read_again(tmp_path) -> None:
    view = Counting()
    with a_reading(tmp_path, view) as reading:
        collected(view, reading=reading)
    before = (tmp_path / FILE).read_bytes()
    with a_reading(tmp_path, view, scope="another") as reading:
        assert reading.taken_up == 0
    (tmp_path / FILE).write_bytes(before)
    view.now_at = NOW + FRESH + timedelta(seconds=1)
    with a_reading(tmp_path, view) as reading:
        assert reading.taken_up == 0
    (tmp_path / FILE).write_bytes(before)
    view.now_at = NOW - timedelta(hours=1)  # the clock was set back: nobody knows how old they are
    with a_reading(tmp_path, view) as reading:
        assert reading.taken_up == 0


def test_a_tail_that_was_cut_anywhere_costs_the_last_parts_only(tmp_path) -> None:
    view = Counting(users=5, contexts=2, projects=3)
    with a_reading(tmp_path, view) as reading:
        collected(view, reading=reading)
    whole = (tmp_path / FILE).read_bytes()
    kept = []
    for length in range(0, len(whole), 97):
        (tmp_path / FILE).write_bytes(whole[:length])
        with a_reading(tmp_path, view) as reading:
            kept.append(reading.taken_up)
    print(f"\n{len(kept)} cuts; parts taken up: {kept[0]} to {kept[-1]}")
    assert kept == sorted(kept)
    assert kept[0] == 0
    assert kept[-1] >= 15
    # Rows without their end line are nobody's: the part is read again.
    view.calls.clear()
    with a_reading(tmp_path, view) as reading:
        assert collected(view, reading=reading).complete


def test_the_file_is_private_locked_and_goes_when_it_is_finished(tmp_path) -> None:
    view = Counting()
    folder = tmp_path / "case"
    with a_reading(folder, view) as reading:
        path = folder / FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(JournalLockedError):
            a_reading(folder, view)
        reading.finish()
        assert not path.exists()
    (tmp_path / "target").write_text("")
    (tmp_path / FILE).symlink_to(tmp_path / "target")
    with pytest.raises(JournalError):
        a_reading(tmp_path, view)


def test_a_case_can_begin_in_the_folder_of_an_inventory(tmp_path) -> None:
    view = Counting()
    with a_reading(tmp_path / "case", view):
        pass
    Journal.open(tmp_path / "case").close()


def test_no_part_of_the_file_holds_what_the_platforms_did_not_show(tmp_path) -> None:
    view = Counting(users=3, contexts=1, projects=1)
    with a_reading(tmp_path, view) as reading:
        collected(view, reading=reading)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    names = {row["row"] for row in rows if "row" in row}
    assert names <= {"context", "project", "user", "variable", "secret", "restriction", "key", "last_used"}


# --- Progress ---------------------------------------------------------------------------------------------------------


def test_progress_counts_up_to_the_total_of_each_round() -> None:
    steps: list[Advance] = []
    collected(Counting(), progress=steps.append)
    rounds = [step for step in steps if step.done == step.total]
    assert [step.total for step in rounds] == [5, 6 + 6 + 20 + 1 + 1 + 40, 3]
    assert len(steps) == sum(step.total for step in rounds)


def test_progress_off_a_terminal_is_a_line_every_few_seconds(monkeypatch) -> None:
    times = iter(number * 0.5 for number in range(1000))
    monkeypatch.setattr("playbook.screen.time.monotonic", lambda: next(times))
    stream = io.StringIO()
    progress = ReadingProgress(stream)
    for number in range(1, 101):
        progress(Advance(done=number, total=100, what="projects"))
    progress.close()
    lines = stream.getvalue().splitlines()
    print(f"\n{lines[0]}\n{lines[-1]}")
    assert 8 <= len(lines) <= 10
    assert "about" in lines[0]
    left = [int(line.rpartition("about ")[2].split()[0]) for line in lines]
    assert left == sorted(left, reverse=True)
    assert "\r" not in stream.getvalue()


def test_progress_on_a_terminal_is_redrawn_and_wiped(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    times = iter(number * 0.5 for number in range(1000))
    monkeypatch.setattr("playbook.screen.time.monotonic", lambda: next(times))
    stream = Terminal()
    progress = ReadingProgress(stream)
    for number in (1, 2, 3):
        progress(Advance(done=number, total=3, what="access keys"))
    progress.close()
    assert stream.getvalue().count("\r") >= 3
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().rstrip("\r").rpartition("\r")[2].strip() == ""


# --- On the twins -----------------------------------------------------------------------------------------------------


def test_the_shipped_scenario_is_complete_and_says_the_same_in_any_number_of_threads() -> None:
    found = []
    for parallel in (1, 16):
        world = TwinWorld(load("small").state, rng=random.Random(1))
        view = CaseWorld(world.platforms(), Journal(), parallel=parallel)
        found.append(collect(view, view.circleci.organizations(), view.accounts, kinds=ALL_KINDS))
    assert found[0] == found[1]
    assert found[0].complete
    assert {secret.kind for secret in found[0].secrets} >= {SecretKind.CHECKOUT_KEY, SecretKind.RUNNER_TOKEN}
    kinds = Counter(secret.kind.value for secret in found[0].secrets)
    print(f"\n{len(found[0].variables)} variables, {dict(kinds)}, {len(found[0].keys)} keys")


# --- What the command is given ----------------------------------------------------------------------------------------


def test_a_projects_file_is_a_list_of_slugs(tmp_path) -> None:
    path = tmp_path / "projects"
    path.write_text("gh/acme/api  # the API\n\n# nothing\ncircleci/9f/77\ngh/acme/api\n")
    assert survey.projects_of(path) == ("gh/acme/api", "circleci/9f/77")
    path.write_text("gh/acme/api\nacme\n")
    with pytest.raises(UsageError, match="Slug 2"):
        survey.projects_of(path)
    with pytest.raises(UsageError):
        survey.projects_of(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "AKIA0000000000000001", "x=", "x=ASIA0000000000000001", "=AKIA0000000000000001"])
def test_a_persons_word_names_a_place_and_a_key(text) -> None:
    with pytest.raises(UsageError):
        survey.said_of([text])


def test_a_place_may_hold_equal_signs() -> None:
    assert survey.said_of(["context:a=b:N=AKIA0000000000000001"]) == {"context:a=b:N": "AKIA0000000000000001"}


# --- The twin of a live world -----------------------------------------------------------------------------------------


def test_a_twin_is_read_in_as_few_calls_and_shows_the_same() -> None:
    world = TwinWorld(load("small").state, rng=random.Random(1))
    calls: Counter[str] = Counter()
    world.on_call = lambda call, moment: calls.update([call.operation] if moment == "before" else [])
    live = CaseWorld(world.platforms(), Journal())
    twin = mirror(world.platforms(), accounts=live.accounts, organizations=["gh/acme"], gather=live.gather)
    asked = calls["last_used"]
    stored = {"gh/acme"}
    there = CaseWorld(twin.platforms(), Journal())
    organizations = [item for item in live.circleci.organizations() if item.slug in stored]
    first, second = (collect(view, organizations, view.accounts) for view in (live, there))
    print(f"\n{asked} of {len(first.keys)} keys were asked about")
    assert asked == len({match.key.id for match in first.correlation().matches if match.key}) < len(first.keys)
    assert first.last_used == second.last_used
    assert first.users == second.users
    assert first.keys == second.keys
    assert second.complete
