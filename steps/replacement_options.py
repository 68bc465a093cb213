"""How one key's replacement is proved before the old one goes off: the questions, and the gates they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from playbook.errors import UsageError
from playbook.model import Action, Finding, Question
from playbook.ports import Project, SinkKind, display
from steps.canary_job import RerunAsCanary, RunCanary
from steps.gates import ProveAtService
from steps.iam_keys import Pair
from steps.places import is_restricted, projects_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Ask
    from playbook.ports import View
    from steps.decisions import Decisions, KeyDecision

SERVICES: Final = frozenset({"ecr", "s3"})
HOME_REGIONS: Final = {"aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1"}
"""By partition: a region whose STS answers; us-east-1 everywhere else."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the responder wants of one replacement."""

    canary: bool
    workflows: tuple[tuple[str, str], ...]
    """Project slug and workflow name, to be run again where an inline config is not possible."""
    services: tuple[tuple[str, str], ...]
    """Service and region."""


def ask_options(item: KeyDecision, ask: Ask) -> Options:
    """Nobody is bothered: an answers file may say otherwise, and the plan shows what follows."""
    subject = {"user": item.key.user, "account": item.key.account, "id": item.key.id}
    name = f"{item.lane}/{item.key.id}"
    canary = ask(
        Question(
            id=f"keys.canary:{name}",
            prompt=f"Run a job on CircleCI that signs with the new key of {display(item.key.user)}?",
            kind=bool,
            answer_key="keys.canary",
            subject=subject,
            default=True,
            optional=True,
        )
    )
    named = ask(
        Question(
            id=f"keys.canary_workflows:{name}",
            prompt="Which workflows may be run again as a canary (gh/org/repo:workflow)?",
            kind=tuple,
            answer_key="keys.canary_workflows",
            subject=subject,
            open_choices=True,
            default=(),
            optional=True,
        )
    )
    services = ask(
        Question(
            id=f"keys.prove_at:{name}",
            prompt="At which services is the new key proved too (ecr:REGION, s3:REGION)?",
            kind=tuple,
            answer_key="keys.prove_at",
            subject=subject,
            open_choices=True,
            default=(),
            optional=True,
        )
    )
    return Options(
        canary=canary,
        workflows=tuple(_split(str(text), "keys.canary_workflows", "gh/org/repo:workflow") for text in named),
        services=tuple(_service(str(text)) for text in services),
    )


def _split(text: str, key: str, form: str) -> tuple[str, str]:
    first, _, second = text.partition(":")
    if not first or not second:
        raise UsageError(
            f"{display(text)!r} in `{key}` is not of the form {form}. Nothing was changed.",
            remedy=f"Write it as {form}.",
        )
    return first, second


def _service(text: str) -> tuple[str, str]:
    service, region = _split(text, "keys.prove_at", "ecr:REGION or s3:REGION")
    if service not in SERVICES:
        raise UsageError(
            f"A key can be proved at {' and '.join(sorted(SERVICES))}, not at {display(service)!r}. "
            "Nothing was changed.",
            remedy="Correct `keys.prove_at`.",
        )
    return service, region


def service_gates(item: KeyDecision, options: Options, after: tuple[str, ...]) -> list[Action]:
    """The proofs at the services that were named."""
    key = item.key
    return [
        ProveAtService(
            account=key.account,
            user=key.user,
            old_key_id=key.id,
            service=service,
            region=region,
            credential=item.credential,
            after=after,
        )
        for service, region in options.services
    ]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a canary of one key hangs on: the action that mints, and each pair with the key of its store."""

    mint: str
    stores: tuple[tuple[Pair, str], ...]


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """The canaries of one key, and what is to be said of the places that have none."""

    actions: tuple[Action, ...] = ()
    findings: tuple[Finding, ...] = ()


def canaries(view: View, decisions: Decisions, item: KeyDecision, options: Options, planned: Planned) -> Canaries:
    """One canary a place where one is possible, and a finding for the places without one."""
    if not options.canary:
        return Canaries()
    actions: list[Action] = []
    missing: dict[str, list[str]] = {}
    for pair, store in planned.stores:
        projects = [project for project in projects_of(decisions.inventory, pair.sink) if project.id]
        named = next(((p, name) for p in projects for slug, name in options.workflows if slug == p.slug), None)
        if named is not None:
            actions.append(_rerun(item, pair, store, *named))
        elif why := _why_not(view, decisions, pair, projects):
            missing.setdefault(why, []).append(display(pair.sink.name))
        else:
            actions.append(_run(item, pair, store, projects[0], planned.mint))
    findings = tuple(
        Finding(
            level="warning",
            text=f"No canary for {', '.join(sorted(set(places)))}: {why}. Name a workflow to run again instead "
            "(`canary_workflows`), or watch the next build.",
        )
        for why, places in missing.items()
    )
    return Canaries(actions=tuple(actions), findings=findings)


def _run(item: KeyDecision, pair: Pair, store: str, project: Project, mint: str) -> RunCanary:
    return RunCanary(
        pair=pair,
        account=item.key.account,
        user=item.key.user,
        old_key_id=item.key.id,
        project=project,
        user_arn=item.user_arn,
        mint=mint,
        region=_region(item.user_arn),
        credential=item.credential,
        after=(store,),
    )


def _rerun(item: KeyDecision, pair: Pair, store: str, project: Project, workflow: str) -> RerunAsCanary:
    return RerunAsCanary(
        pair=pair,
        account=item.key.account,
        user=item.key.user,
        old_key_id=item.key.id,
        project=project,
        workflow=workflow,
        credential=item.credential,
        after=(store,),
    )


def _why_not(view: View, decisions: Decisions, pair: Pair, projects: Sequence[Project]) -> str:
    """Why an inline config cannot prove this place; empty when it can."""
    if not projects:
        return "no project is known that may use it"
    if projects[0].deleted:
        return "its project is deleted"
    if pair.sink.kind is SinkKind.CONTEXT and is_restricted(decisions.inventory, pair.sink):
        return "a pipeline with a config of ours may not use a restricted context"
    if view.circleci.inline_config_allowed(projects[0]) is False:
        return "the organization does not allow a pipeline with a config of ours"
    return ""


def _region(user_arn: str) -> str:
    partition = user_arn.split(":")[1] if user_arn.count(":") > 1 else "aws"
    return HOME_REGIONS.get(partition, "us-east-1")
