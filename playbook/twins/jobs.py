"""One CI job on the twin: who it is to AWS with what its contexts and its project give it, and what it then says.

What it signs with is decided when it starts, for that is when CircleCI hands an environment out: a job that began
before a secret was rotated goes on with the old one.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from playbook import canary
from playbook.twins import pipeline
from playbook.twins.iam_keys import ID_ALPHABET
from playbook.twins.pipeline import Failure
from playbook.twins.state import TestCase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from playbook.ports import Json
    from playbook.twins.remote import Remote
    from playbook.twins.state import Context, RunJob, RunPipeline, RunWorkflow, StoredOrganization, StoredProject

SUCCESS: Final = "success"
FAILED: Final = "failed"
UNAUTHORIZED: Final = "unauthorized"
REFUSED_ROLE: Final = "AccessDenied"
"""What STS says of a role whose trust policy does not match, and of one that is not there."""
UNNAMED: Final = "unknown"
"""What the canary says where the CLI named no error code, as it does not for want of credentials."""
_CODES: Final[Mapping[Failure, str]] = {
    Failure.NO_CREDENTIALS: UNNAMED,
    Failure.AMBIGUOUS: UNNAMED,
    Failure.UNKNOWN_KEY: "InvalidClientTokenId",
    Failure.INACTIVE: "InvalidClientTokenId",
    Failure.DELETED: "InvalidClientTokenId",
    Failure.NOT_PROPAGATED: "InvalidClientTokenId",
    Failure.MISMATCH: "SignatureDoesNotMatch",
}


class Run:
    """What a job knows of where it runs."""

    def __init__(self, world: Remote, owner: RunPipeline, workflow: RunWorkflow, project: StoredProject) -> None:
        self.world = world
        self.pipeline = owner
        self.workflow = workflow
        self.project = project

    @property
    def organization(self) -> StoredOrganization:
        """Whose project it is."""
        return self.world.state.circleci.organizations[self.project.organization]

    def contexts(self, names: Sequence[str]) -> list[Context] | None:
        """The contexts of these names, or None where one is not there or is not for this run."""
        stored = self.world.state.circleci.contexts.values()
        by_name = {item.name: item for item in stored if item.organization == self.project.organization}
        if any(name not in by_name for name in names):
            return None
        found = [by_name[name] for name in names]
        if not all(pipeline.admits(context, self.project) for context in found):
            return None
        if self.pipeline.unversioned and any(self._is_restricted(context) for context in found):
            return None
        return found

    def _is_restricted(self, context: Context) -> bool:
        """Whether anything restricts it; the group of all members, whose id is the organization's, does not."""
        everyone = ("group", self.organization.id)
        return any((item.kind, item.value) != everyone for item in context.restrictions)


def user_id(login: str) -> str:
    """The id of a user, made from the login."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, login))


def carry_out(run: Run, job: RunJob) -> None:
    """Settle how a job that starts now will end, and what it will have stored."""
    contexts = run.contexts(job.contexts)
    if contexts is None:
        job.status, job.number, job.started_at, job.stopped_at = UNAUTHORIZED, None, None, None
        return
    signing = job.signing
    if signing is None:
        return
    if signing.role_arn:
        seen = _with_role(run, job, contexts)
    else:
        seen = _with_keys(run, contexts, signing.id_variable, signing.secret_variable)
    if canary.FAILURE in seen:
        job.status = FAILED
    if job.tells:
        job.tests = [TestCase(classname=classname, name=name) for classname, name in seen.items()]


def _with_keys(run: Run, contexts: Sequence[Context], id_variable: str, secret_variable: str) -> dict[str, str]:
    found = pipeline.run(run.world, run.project, contexts, id_variable=id_variable, secret_variable=secret_variable)
    if found.failure is not None:
        return {canary.FAILURE: _CODES.get(found.failure, UNNAMED)}
    user = run.world.state.accounts[found.account].users.get(found.user)
    arn = user.arn if user is not None else f"arn:aws:iam::{found.account}:user/{found.user}"
    return {canary.ACCOUNT: found.account, canary.ARN: arn, canary.TAIL: found.key_tail}


def _with_role(run: Run, job: RunJob, contexts: Sequence[Context]) -> dict[str, str]:
    seen: dict[str, str] = {}
    static = pipeline.found(run.project, contexts, pipeline.ID_VARIABLE)
    if static and static[-1][1].value.tail:
        seen[canary.STATIC_TAIL] = static[-1][1].value.tail
    if job.signing is None or not run.organization.id:
        return {**seen, canary.FAILURE: UNNAMED}
    identity = run.world.assume_role(job.signing.role_arn, claims(run, job, contexts))
    if identity is None:
        return {**seen, canary.FAILURE: REFUSED_ROLE}
    tail = "".join(run.world.random.choices(ID_ALPHABET, k=pipeline.TAIL))
    return {**seen, canary.ACCOUNT: identity.account, canary.ARN: identity.arn, canary.TAIL: tail}


def claims(run: Run, job: RunJob, contexts: Sequence[Context]) -> dict[str, Json]:
    """What the job's OIDC token says: `CIRCLE_OIDC_TOKEN_V2` (facts/circleci 6)."""
    owner, project = run.organization, run.project
    ref = f"refs/heads/{run.pipeline.branch}"
    subject = f"org/{owner.id}/project/{project.id}/user/{user_id(run.world.state.circleci.login)}"
    about: dict[str, Json] = {
        "project-id": project.id,
        "org-id": owner.id,
        "context-ids": [context.id for context in contexts],
        "job-id": job.id,
        "workflow-id": run.workflow.id,
        "pipeline-id": run.pipeline.id,
        "ssh-rerun": False,
    }
    if (origin := _origin(project.slug)) is not None:
        subject = f"{subject}/vcs-origin/{origin}/vcs-ref/{ref}"
        about |= {"vcs-origin": origin, "vcs-ref": ref}
    return {
        "iss": f"https://oidc.circleci.com/org/{owner.id}",
        "aud": _audience(owner, project),
        "sub": subject,
        **{f"oidc.circleci.com/{name}": value for name, value in about.items()},
    }


def _audience(owner: StoredOrganization, project: StoredProject) -> Json:
    """The project's own audience, else the organization's, else the organization's id."""
    for custom in (project.claims, owner.claims):
        if custom is not None and custom.audience:
            return custom.audience[0] if len(custom.audience) == 1 else list(custom.audience)
    return owner.id


def _origin(slug: str) -> str | None:
    """Where the code is; a standalone project's slug does not tell."""
    provider, _, rest = slug.partition("/")
    host = {"gh": "github.com", "github": "github.com", "bb": "bitbucket.org", "bitbucket": "bitbucket.org"}
    return f"{host[provider]}/{rest}" if provider in host else None
