"""What a leaked key opens and who uses it: key, variables, contexts, restrictions, projects, jobs; pure functions.

From an inventory alone the answer is the most that CircleCI would allow: a context without a project restriction is
open to every project of its organization. Configurations, of checkouts and of runs, narrow nothing; they name the jobs
that really use it, also where no word of the job says so: CircleCI pulls an image of ECR without `aws_auth` with the
project's own key (facts 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from playbook.config_jobs import ConfigUse
from playbook.inventory import StoredRestriction, restriction_id
from playbook.ports import RUN_CONFIG, SecretKind, Sink, SinkKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from playbook.config_jobs import JobUse
    from playbook.correlate import Match
    from playbook.inventory import Inventory, Run
    from playbook.ports import Project

BY_PROJECT: Final = "project"
BY_CONTEXT: Final = "context"
IMPLICIT_ECR: Final = "the project's own variables, for an image of ECR without aws_auth"
_ECR_PAIR: Final = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
_RESTRICTIONS: Final = "context restrictions"


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """One configuration of one project: a file of a checkout, or what a pipeline ran with."""

    project: str
    """The project's slug; empty when the checkout does not say whose it is."""
    organization: str
    file: str
    """The file's path, or `pipeline` and its number."""
    use: ConfigUse


@dataclass(frozen=True, kw_only=True)
class ContextReach:
    """One context that holds the key, and the projects that may use it."""

    context: Sink
    restrictions: tuple[StoredRestriction, ...]
    projects: tuple[str, ...]
    every_project: bool
    """True: nothing restricts it to projects, so a project made tomorrow may use it too."""


@dataclass(frozen=True, kw_only=True)
class JobReach:
    """One job that uses the key, and by what."""

    project: str
    file: str
    workflow: str
    job: str
    via: str


@dataclass(frozen=True, kw_only=True)
class Radius:
    """Everything that one key reaches within CircleCI."""

    contexts: tuple[ContextReach, ...] = ()
    projects: tuple[str, ...] = ()
    """Every project that may use it, through a context or by a variable of its own."""
    jobs: tuple[JobReach, ...] = ()
    """Only of the configurations that were read."""
    doubts: tuple[str, ...] = ()
    """What keeps this from being the whole answer."""


def blast_radius(inventory: Inventory, checkouts: Sequence[Checkout] = ()) -> dict[str, Radius]:
    """By key id, for every key that CircleCI stores."""
    worked = _Radius(inventory, checkouts)
    by_key: dict[str, list[Match]] = {}
    for match in inventory.correlation().matches:
        if match.key is not None:
            by_key.setdefault(match.key.id, []).append(match)
    legacy: dict[str, list[str]] = {}
    for held in inventory.legacy.values():
        legacy.setdefault(held.key.id, []).append(held.secret.place)
    return {key: worked.of(by_key.get(key, ()), legacy.get(key, ())) for key in dict.fromkeys([*by_key, *legacy])}


class _Radius:
    def __init__(self, inventory: Inventory, checkouts: Sequence[Checkout]) -> None:
        self.checkouts = [*checkouts, *map(_of_run, inventory.runs)]
        self.doubtful = [checkout for checkout in self.checkouts if checkout.use.doubts]
        # By what a key may be met in: a large organization has thousands of runs, and as many keys.
        self.at: dict[tuple[str, str], list[int]] = {}
        for number, checkout in enumerate(self.checkouts):
            self.at.setdefault((BY_PROJECT, checkout.project), []).append(number)
            for name in dict.fromkeys(name for job in checkout.use.jobs for name in job.contexts):
                self.at.setdefault((BY_CONTEXT, name), []).append(number)
        self.by_id: Mapping[str, Project] = {item.id: item for item in inventory.projects if item.id}
        self.organization_ids = {item.slug: item.id for item in inventory.organizations}
        self.slugs: dict[str, list[str]] = {}
        for project in inventory.projects:
            self.slugs.setdefault(project.organization, []).append(project.slug)
        self.restrictions: dict[str, list[StoredRestriction]] = {}
        for stored in inventory.restrictions:
            self.restrictions.setdefault(stored.sink.id, []).append(stored)
        # A case of the first version read no restrictions; nor does an inventory that was limited to other kinds.
        self.restrictions_read = SecretKind.CONTEXT_RESTRICTION.value in inventory.kinds
        self.unread = {hole.where for hole in inventory.holes if hole.what == _RESTRICTIONS}
        self.unread_runs = [hole.where for hole in inventory.holes if hole.what == RUN_CONFIG]
        self.project_holes = [hole.where for hole in inventory.holes if "project" in hole.what]
        self.names: dict[str, set[str]] = {}
        for variable in inventory.variables:
            if variable.sink.kind is SinkKind.PROJECT:
                self.names.setdefault(variable.sink.id, set()).add(variable.variable.name)

    def of(self, matches: Iterable[Match], legacy: Iterable[str]) -> Radius:
        doubts: list[str] = []
        contexts: dict[str, ContextReach] = {}
        own: dict[str, set[str]] = {place: set() for place in legacy}
        in_contexts: dict[str, set[str]] = {}
        for match in matches:
            sink = match.stored.sink
            names = {match.stored.variable.name, *([match.secret_name] if match.secret_name else [])}
            if sink.kind is SinkKind.CONTEXT:
                contexts.setdefault(sink.id, self._context(sink, doubts))
                in_contexts.setdefault(sink.id, set()).update(names)
            else:
                own.setdefault(sink.id, set()).update(names)
        reached = {slug for reach in contexts.values() for slug in reach.projects}
        places = [(BY_PROJECT, slug) for slug in own]
        places += [(BY_CONTEXT, reach.context.name) for reach in contexts.values()]
        jobs = [
            job
            for number in sorted({number for place in places for number in self.at.get(place, ())})
            for job in self._jobs(self.checkouts[number], contexts, in_contexts, own)
        ]
        reached |= own.keys()
        doubts += [
            f"{checkout.project or checkout.file}: {doubt}"
            for checkout in self.doubtful
            if not checkout.project or checkout.project in reached
            for doubt in checkout.use.doubts
        ]
        doubts += [
            f"{where}: what it ran with was not read"
            for where in self.unread_runs
            if where.partition(" ")[0] in reached
        ]
        if self.project_holes and any(reach.every_project for reach in contexts.values()):
            doubts.append("not every project of the organization was read")
        return Radius(
            contexts=tuple(contexts.values()),
            projects=tuple(sorted(reached)),
            jobs=tuple(dict.fromkeys(jobs)),
            doubts=tuple(dict.fromkeys(doubts)),
        )

    def _context(self, sink: Sink, doubts: list[str]) -> ContextReach:
        found = self.restrictions.get(sink.id, [])
        if not self.restrictions_read or sink.name in self.unread:
            doubts.append(f"who may use the context {sink.name} was not read; every project is assumed")
        projects = [item.restriction.value for item in found if item.restriction.kind == BY_PROJECT]
        for item in found:
            restriction = item.restriction
            if restriction.kind == "expression":
                doubts.append(f"the context {sink.name} asks an expression of the pipeline; it is not evaluated")
            elif restriction.kind == "group" and restriction.value != self.organization_ids.get(sink.organization):
                doubts.append(f"the context {sink.name} is limited to a group, so not everybody may start such a job")
        slugs = self.slugs.get(sink.organization, [])
        return ContextReach(
            context=sink,
            restrictions=tuple(found),
            projects=tuple(sorted(map(self._slug, projects) if projects else slugs)),
            every_project=not projects,
        )

    def _slug(self, project_id: str) -> str:
        """A restriction names a project by its id, which may be of one that no source lists."""
        return self.by_id[project_id].slug if project_id in self.by_id else project_id

    def _jobs(
        self,
        checkout: Checkout,
        contexts: Mapping[str, ContextReach],
        in_contexts: Mapping[str, set[str]],
        own: Mapping[str, set[str]],
    ) -> Iterator[JobReach]:
        for job in checkout.use.jobs:
            for via in self._ways(checkout, job, contexts, in_contexts, own):
                project = checkout.project
                yield JobReach(project=project, file=checkout.file, workflow=job.workflow, job=job.name, via=via)

    def _ways(
        self,
        checkout: Checkout,
        job: JobUse,
        contexts: Mapping[str, ContextReach],
        in_contexts: Mapping[str, set[str]],
        own: Mapping[str, set[str]],
    ) -> Iterator[str]:
        at_hand = set(own.get(checkout.project, ()))
        for key, reach in contexts.items():
            ours = checkout.organization in {"", reach.context.organization}
            if ours and reach.context.name in job.contexts:
                yield f"the context {reach.context.name}"
                at_hand |= in_contexts[key]
        if checkout.project in own:
            yield "the project's own variables"
        named = at_hand & set(job.aws_auth)
        if named:
            yield f"aws_auth, by {min(named)}"
        if job.ecr_images and self.names.get(checkout.project, set()) >= _ECR_PAIR and at_hand & _ECR_PAIR:
            yield IMPLICIT_ECR


def _of_run(run: Run) -> Checkout:
    file = f"pipeline {run.number}" if run.number else "pipelines"
    return Checkout(project=run.project, organization=run.organization, file=file, use=run.use)


def document(radius: Radius) -> dict[str, object]:
    """As JSON for `access_keys[].blast_radius`."""
    return {
        "contexts": [
            {
                "id": reach.context.id,
                "name": reach.context.name,
                "organization": reach.context.organization,
                "every_project": reach.every_project,
                "restrictions": [restriction_id(item) for item in reach.restrictions],
            }
            for reach in radius.contexts
        ],
        "projects": list(radius.projects),
        "jobs": [
            {"project": job.project, "file": job.file, "workflow": job.workflow, "job": job.job, "via": job.via}
            for job in radius.jobs
        ],
        "doubts": list(radius.doubts),
    }
