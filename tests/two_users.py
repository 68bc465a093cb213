"""A world of two users and four sinks, and the answers that rotate both: what engine tests and the sweep run on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from playbook.model import Recourse, Recovery
from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.state import (
    ALWAYS,
    Account,
    Change,
    CircleCiState,
    Context,
    IamUser,
    Key,
    PipelineDefinition,
    State,
    StoredOrganization,
    StoredProject,
    Value,
    Variable,
)

ACCOUNT = "111122223333"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
OLD = {"ci-deploy": "AKIAOLDDEPLOYAAAAD2P", "ci-ecr": "AKIAOLDECRAAAAAAAE3C"}
ORGANIZATION = "gh/acme"
PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def _old_secret(user: str) -> Secret:
    return Secret(f"old/{user}/".ljust(36, "x") + user[-4:])


def _pair(user: str) -> dict[str, Variable]:
    written = START - timedelta(days=200)
    values = (Secret(OLD[user]), _old_secret(user))
    return {
        name: Variable(value=Value.of(value), created_at=written, updated_at=written, written_at=ALWAYS)
        for name, value in zip(PAIR, values, strict=True)
    }


def two_users(*, canaries: bool = False) -> State:
    """`canaries`: whether the organization lets a pipeline bring a config of its own, so that canaries can run."""
    made = START - timedelta(days=201)
    users = {name: IamUser(name=name, arn=f"arn:aws:iam::{ACCOUNT}:user/{name}", created_at=made) for name in OLD}
    keys = {
        key_id: Key(
            id=key_id,
            user=user,
            created_at=made,
            changes=[Change(at=ALWAYS, status=KeyStatus.ACTIVE)],
            secret=Value.of(_old_secret(user)),
        )
        for user, key_id in OLD.items()
    }
    account = Account(
        id=ACCOUNT, operator_arn=f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me", users=users, keys=keys
    )
    contexts = {
        f"ctx-{name}": Context(id=f"ctx-{name}", name=name, organization=ORGANIZATION, variables=_pair(user))
        for name, user in (("deploy", "ci-deploy"), ("ecr", "ci-ecr"))
    }
    projects = {
        slug: StoredProject(
            id=f"id-{slug}",
            slug=slug,
            organization=ORGANIZATION,
            variables=_pair(user),
            definitions=[PipelineDefinition(id=f"definition-{slug}", name="build", created_at=made)]
            if canaries
            else [],
            inline_config=canaries,
        )
        for slug, user in (("gh/acme/api", "ci-deploy"), ("gh/acme/web", "ci-ecr"))
    }
    circleci = CircleCiState(
        login="responder",
        organizations={
            ORGANIZATION: StoredOrganization(id="org-1", slug=ORGANIZATION, name="acme", inline_config=canaries)
        },
        contexts=contexts,
        projects=projects,
    )
    return State(now=START, accounts={ACCOUNT: account}, circleci=circleci)


class Answers:
    """An operator that answers from a small table and says yes."""

    def __init__(self, *, strategy: str = "replace", severity: str = "exposed", lost: Recovery = Recovery.STOP):
        self.strategy = strategy
        self.severity = severity
        self.lost = lost
        self.troubles = []
        self.asked = []

    def answer(self, question):
        self.asked.append(question.id)
        if question.id == "incident.severity":
            return self.severity
        if question.id == "circleci.organizations":
            return (ORGANIZATION,)
        if question.id.startswith("keys.strategy:"):
            return self.strategy if question.default is None else question.default
        if question.default is not None:
            return question.default
        raise AssertionError(f"nobody expected {question.id}")

    def answer_all(self, questions):
        return [self.answer(question) for question in questions]

    def approve(self, plan):
        return True

    def lost_secret(self, action, switched, unswitched):
        return self.lost

    def recourse(self, trouble):
        self.troubles.append(trouble)
        return Recourse.ABORT
