"""Collects an inventory through a `View`: only reads, side by side, and whatever is refused becomes a hole.

The reading has three rounds. First the lists (contexts, projects, users), then everything that hangs on their items,
both platforms at once, and last the last uses of keys that the credential report does not tell. The report tells them
in two calls, so that a thousand users stay under 1.15 calls each; a key that it leaves in doubt, or that CircleCI
stores while those are few, is asked about by itself. Where the report is refused, every key is.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from playbook.config_jobs import ConfigUse, UnreadableConfigError, config_use
from playbook.correlate import StoredVariable
from playbook.credential_report import last_uses, to_ask
from playbook.errors import ServiceError
from playbook.inventory import Inventory, KeyUse, Reads, Row, Run, Said, StoredRestriction, line_of, row_of
from playbook.ports import RUN_CONFIG, Hole, Project, SecretKind, Sink, SinkKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from playbook.config_jobs import JobUse
    from playbook.ports import AccessKey, CredentialReport, LastUsed, Organization, RunConfig, User, View
    from playbook.reading import Reading

ALL_KINDS: Final = frozenset(SecretKind)
OF_PROJECTS: Final = frozenset(
    {
        SecretKind.PROJECT_VARIABLE,
        SecretKind.LEGACY_AWS_KEY,
        SecretKind.CHECKOUT_KEY,
        SecretKind.SSH_KEY,
        SecretKind.PROJECT_TOKEN,
        SecretKind.WEBHOOK_SECRET,
        SecretKind.TRIGGER_URL,
        SecretKind.OIDC_CLAIMS,
    }
)
OF_ORGANIZATIONS: Final = frozenset({SecretKind.RUNNER_TOKEN, SecretKind.OIDC_CLAIMS})
OF_CONTEXTS: Final = frozenset({SecretKind.CONTEXT_VARIABLE, SecretKind.CONTEXT_RESTRICTION})
FROM_FILE: Final = "file"
"""How a project is said to be known that only the responder's list names."""


@dataclass(frozen=True, kw_only=True)
class Advance:
    """How far a reading is."""

    done: int
    total: int
    """Of this round; the later rounds are not known before the first is over."""
    what: str


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One thing to read: a port's call, and the rows it becomes."""

    what: str
    where: str
    key: str
    """Unique in the reading; by it an interrupted one knows what it has."""
    read: Callable[[], list[Row]]
    lasting: bool = True
    """False for what a continued reading reads again, because nothing is left of it but what others made of it."""


def collect(
    view: View,
    organizations: Sequence[Organization],
    accounts: Sequence[str],
    *,
    kinds: Iterable[SecretKind] = ALL_KINDS,
    known_projects: Sequence[str] = (),
    said: Mapping[str, str] | None = None,
    runs: int = 0,
    reading: Reading | None = None,
    progress: Callable[[Advance], None] = lambda _advance: None,
) -> Inventory:
    """Read everything once; a refused read becomes a hole, anything else that fails stops the reading.

    `known_projects` are slugs that the responder knows; `said` tells which key a variable holds by a person's word;
    of each project the configurations of so many `runs` are read, which costs a call for each and one for their list.
    """
    return _Collector(view, frozenset(kinds), runs, reading, progress).collect(
        organizations, accounts, known_projects, said or {}
    )


class _Collector:
    def __init__(
        self,
        view: View,
        kinds: frozenset[SecretKind],
        runs: int,
        reading: Reading | None,
        progress: Callable[[Advance], None],
    ) -> None:
        self.view = view
        self.kinds = kinds
        self.runs = runs
        self.reading = reading
        self.progress = progress
        self.oldest: datetime | None = None
        self.asked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()
        self.reports: dict[str, CredentialReport] = {}
        self.lock = threading.Lock()
        self.done = 0

    def collect(
        self,
        organizations: Sequence[Organization],
        accounts: Sequence[str],
        known_projects: Sequence[str],
        said: Mapping[str, str],
    ) -> Inventory:
        began_at = self.view.clock.now()
        lists = self._round(
            [part for item in organizations for part in self._lists(item)]
            + [part for account in accounts for part in self._account(account)]
        )
        lists += self._named(organizations, known_projects, lists)
        first = Inventory.from_rows([("generated_at", ""), *_merged_users(lists)])
        second = self._round(self._circleci(organizations, first), [*self._reports(accounts), *self._keys(first)])
        rows = [*_merged_users(lists), *second]
        found = Inventory.from_rows([("generated_at", ""), *rows])
        rows += self._round(self._uses(found))
        rows += [("hole", hole) for hole in self.view.unopened]
        done = Inventory.from_rows([("generated_at", ""), *rows])
        return replace(
            done,
            generated_at=_iso(self.view.clock.now()),
            oldest_read_at=_iso(min(self.oldest, began_at)) if self.oldest is not None else "",
            kinds=tuple(sorted(self.kinds)),
            organizations=tuple(organizations),
            users=_with_passwords(done.users, self.reports),
            last_used=self._last_used(done),
            said=tuple(Said(place=place, key_id=key_id) for place, key_id in said.items()),
            reads=tuple(
                Reads(what=what, asked=count, refused=self.refused[what], reused=self.reused[what])
                for what, count in sorted(self.asked.items())
            ),
        )

    # --- what to read ---

    def _lists(self, organization: Organization) -> list[_Part]:
        def projects() -> list[Row]:
            listed = self.view.circleci.projects(organization)
            return [*(("project", item) for item in listed.items), *(("hole", hole) for hole in listed.holes)]

        parts = [_Part(what="projects", where=organization.slug, key=f"projects {organization.slug}", read=projects)]
        contexts = _Part(
            what="contexts",
            where=organization.slug,
            key=f"contexts {organization.slug}",
            read=lambda: [("context", item) for item in self.view.circleci.contexts(organization)],
        )
        return [contexts, *parts]

    def _account(self, account: str) -> list[_Part]:
        def root_key() -> list[Row]:
            present = self.view.aws(account).summary().get("AccountAccessKeysPresent", 0)
            return [("root_key", account)] if present else []

        return [
            _Part(
                what="IAM users",
                where=account,
                key=f"users {account}",
                read=lambda: [("user", user) for user in self.view.aws(account).users()],
            ),
            _Part(
                what="tags and policies of users",
                where=account,
                key=f"details {account}",
                read=lambda: [("user", user) for user in self.view.aws(account).described_users()],
            ),
            _Part(what="the root user's access keys", where=account, key=f"summary {account}", read=root_key),
        ]

    def _named(self, organizations: Sequence[Organization], slugs: Sequence[str], lists: Sequence[Row]) -> list[Row]:
        """Add the projects that the responder knows; what no organization of this reading owns is a hole."""
        known = {item.slug for name, item in lists if name == "project"}
        rows: list[Row] = []
        for slug in dict.fromkeys(slugs):
            if slug in known:
                continue
            owner = next((item.slug for item in organizations if slug.startswith(f"{item.slug}/")), None)
            if owner is None:
                why = "it is in none of the organizations that are read"
                rows.append(("hole", Hole(what="project of the file", where=slug, why=why)))
            else:
                rows.append(("project", Project(id="", slug=slug, organization=owner, known_by=(FROM_FILE,))))
        return rows

    def _circleci(self, organizations: Sequence[Organization], first: Inventory) -> list[_Part]:
        parts: list[_Part] = []
        if SecretKind.CONTEXT_VARIABLE in self.kinds:
            parts += [self._context(context) for context in first.contexts]
        if SecretKind.CONTEXT_RESTRICTION in self.kinds:
            parts += [self._restrictions(context) for context in first.contexts]
        if self.kinds & OF_PROJECTS:
            parts += [self._project(project) for project in first.projects]
        if self.kinds & OF_ORGANIZATIONS:
            parts += [self._organization(organization) for organization in organizations]
        if self.runs:
            # v2 no longer shows the pipelines of a deleted project, and nobody can run one.
            parts += [self._runs(project) for project in first.projects if not project.deleted]
        return parts

    def _context(self, sink: Sink) -> _Part:
        def read() -> list[Row]:
            stored = self.view.circleci.variables(sink)
            rows: list[Row] = [("variable", StoredVariable(sink=sink, variable=item)) for item in stored.items]
            return rows if stored.complete else [*rows, ("hole", _hidden("context variables", sink.name, len(rows)))]

        return _Part(what="context variables", where=sink.name, key=f"context {sink.id}", read=read)

    def _restrictions(self, sink: Sink) -> _Part:
        def read() -> list[Row]:
            found = self.view.circleci.restrictions(sink)
            return [("restriction", StoredRestriction(sink=sink, restriction=item)) for item in found]

        return _Part(what="context restrictions", where=sink.name, key=f"restrictions {sink.id}", read=read)

    def _project(self, project: Project) -> _Part:
        def read() -> list[Row]:
            found = self.view.circleci.project_secrets(project, self.kinds & OF_PROJECTS)
            sink = project_sink(project)
            rows: list[Row] = [("variable", StoredVariable(sink=sink, variable=item)) for item in found.variables.items]
            rows += [("secret", item) for item in found.secrets]
            rows += [("hole", hole) for hole in found.holes]
            if not found.variables.complete and not found.holes:
                rows.append(("hole", _hidden("project variables", project.slug, len(found.variables.items))))
            return rows

        return _Part(what="project secrets", where=project.slug, key=f"project {project.slug} {project.id}", read=read)

    def _organization(self, organization: Organization) -> _Part:
        def read() -> list[Row]:
            found = self.view.circleci.organization_secrets(organization, self.kinds & OF_ORGANIZATIONS)
            return [*(("secret", item) for item in found.secrets), *(("hole", hole) for hole in found.holes)]

        where = organization.slug
        return _Part(what="secrets of the organization", where=where, key=f"organization {where}", read=read)

    def _runs(self, project: Project) -> _Part:
        def run(number: int, use: ConfigUse) -> Row:
            run = Run(project=project.slug, organization=project.organization, number=number, use=use)
            return ("run", run)

        def read() -> list[Row]:
            found = self.view.circleci.run_configs(project, self.runs)
            rows = [run(item.number, _use_of(item)) for item in found.items]
            rows += [("hole", hole) for hole in found.holes]
            return rows or [run(0, ConfigUse(doubts=("no run of it is known, so its jobs are not",)))]

        return _Part(what=RUN_CONFIG, where=project.slug, key=f"runs {project.slug}", read=read)

    def _reports(self, accounts: Sequence[str]) -> list[_Part]:
        def reader(account: str) -> Callable[[], list[Row]]:
            def read() -> list[Row]:
                try:
                    self.reports[account] = self.view.aws(account).credential_report()
                except ServiceError:
                    # It only spares calls: without it every key is asked about by itself.
                    self.refused["credential report"] += 1
                return []

            return read

        return [
            _Part(what="credential report", where=account, key=f"report {account}", read=reader(account), lasting=False)
            for account in accounts
        ]

    def _keys(self, first: Inventory) -> list[_Part]:
        def reader(user: User) -> Callable[[], list[Row]]:
            return lambda: [("key", key) for key in self.view.aws(user.account).access_keys(user.name).keys]

        return [
            _Part(
                what="access keys",
                where=f"{user.account}/{user.name}",
                key=f"keys {user.account}/{user.name}",
                read=reader(user),
            )
            for user in first.users
        ]

    def _uses(self, found: Inventory) -> list[_Part]:
        """Ask about the keys of which the report says nothing, and those that CircleCI may store while they are few."""

        def reader(key: AccessKey) -> Callable[[], list[Row]]:
            return lambda: [("last_used", KeyUse(id=key.id, used=self.view.aws(key.account).last_used(key.id)))]

        tails = {stored.variable.tail or "" for stored in found.variables}
        tails |= {item.tail or "" for item in found.secrets}
        asked = to_ask(found.keys, self._reported(found), tails, len(found.users))
        return [
            _Part(what="last use", where=f"{key.account}/{key.user}/{key.id}", key=f"use {key.id}", read=reader(key))
            for key in asked
        ]

    def _reported(self, found: Inventory) -> dict[str, LastUsed]:
        uses: dict[str, LastUsed] = {}
        for account, report in self.reports.items():
            told = last_uses(report, [key for key in found.keys if key.account == account])
            uses |= {key: replace(used, reported_at=report.generated_at) for key, used in told.items()}
        return uses

    def _last_used(self, done: Inventory) -> dict[str, LastUsed]:
        """The fresher answer of the two, in the order of the keys."""
        uses = {**self._reported(done), **done.last_used}
        return {key.id: uses[key.id] for key in done.keys if key.id in uses}

    # --- reading ---

    def _round(self, *tracks: list[_Part]) -> list[Row]:
        """Read the parts of all tracks side by side, so that no platform waits for the other; rows come in order."""
        order = _interleaved([len(track) for track in tracks])
        parts = [tracks[track][place] for track, place in order]
        self.done = 0
        results = self.view.gather(lambda part: self._read(part, len(parts)), parts)
        by_place = dict(zip(order, results, strict=True))
        return [row for place in sorted(by_place) for row in by_place[place]]

    def _read(self, part: _Part, total: int) -> list[Row]:
        kept = self.reading.known(part.key) if self.reading is not None and part.lasting else None
        if kept is not None:
            rows = [row_of(line) for line in kept.lines]
        else:
            try:
                rows = part.read()
            except ServiceError as error:
                rows = [("hole", Hole(what=part.what, where=part.where, why=error.code))]
            whole = not any(name == "hole" for name, _ in rows)
            if self.reading is not None and part.lasting and whole:
                self.reading.keep(part.key, [line_of(row) for row in rows], self.view.clock.now())
        with self.lock:
            self.asked[part.what] += 1
            self.refused[part.what] += any(name == "hole" for name, _ in rows)
            if kept is not None:
                self.reused[part.what] += 1
                self.oldest = min(self.oldest or kept.at, kept.at)
            self.done += 1
            advance = Advance(done=self.done, total=total, what=part.what)
        self.progress(advance)
        return rows


def project_sink(project: Project) -> Sink:
    """The project as a place of variables."""
    return Sink(kind=SinkKind.PROJECT, id=project.slug, name=project.slug, organization=project.organization)


def _use_of(run: RunConfig) -> ConfigUse:
    """What a run used. Of the part that generates the rest only the jobs count: what it leaves open stands there."""
    if not run.compiled:
        doubts: tuple[str, ...] = (f"pipeline {run.number} had not generated its configuration yet",)
    else:
        doubts = ()
    jobs: list[JobUse] = []
    for text in filter(None, (run.compiled, run.compiled_setup)):
        try:
            use = config_use(text)
        except UnreadableConfigError as error:
            doubts += (f"what pipeline {run.number} ran with cannot be read: {error}",)
            continue
        jobs += use.jobs
        doubts += use.doubts if text is run.compiled else ()
    return ConfigUse(jobs=tuple(jobs), doubts=doubts)


def _hidden(what: str, where: str, shown: int) -> Hole:
    return Hole(what=what, where=where, why=f"more than {shown} variables; the API shows no more")


def _interleaved(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The places (track, number) in an order that begins all tracks at once and ends them together."""
    places = [(track, number) for track, length in enumerate(lengths) for number in range(length)]
    return sorted(places, key=lambda place: ((place[1] + 0.5) / lengths[place[0]], place[0]))


def _merged_users(rows: Sequence[Row]) -> list[Row]:
    """One row a user: the list says who there is, the details (which come after it) say what they may do."""
    users = {(item.account, item.name): item for name, item in rows if name == "user"}
    return [*(row for row in rows if row[0] != "user"), *(("user", user) for user in users.values())]


def _with_passwords(users: Sequence[User], reports: Mapping[str, CredentialReport]) -> tuple[User, ...]:
    used = {
        (account, row.name): row.password_last_used_at for account, report in reports.items() for row in report.users
    }
    return tuple(replace(user, password_last_used_at=used.get((user.account, user.name))) for user in users)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
