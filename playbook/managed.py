"""Which IAM users Terraform, CloudFormation or CDK manages, and the lines that keep its next run from undoing ours.

Such a tool holds the old key in its own state: Terraform switches a key on again that it finds inactive, makes a
deleted one anew, and writes the old value back into a CircleCI variable that it feeds. Pure functions over what IAM
and CloudTrail show; a tag is somebody's word and a user agent only says who made it, so both are named as evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.model import Finding
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from playbook.ports import TrailEvent, User


class Manager(StrEnum):
    """A tool that keeps an account as its files say."""

    TERRAFORM = "Terraform"
    CLOUDFORMATION = "CloudFormation"
    CDK = "AWS CDK"


@dataclass(frozen=True, kw_only=True)
class ManagedUser:
    """One IAM user that a tool manages, and what says so."""

    account: str
    user: str
    manager: Manager
    evidence: str
    """For a person: the tag, or the call that CloudTrail shows."""
    stack: str = ""
    """The name of its CloudFormation stack, where a tag tells it."""


STACK_NAME: Final = "aws:cloudformation:stack-name"
"""CloudFormation puts it on what it makes; nobody else can set a tag that begins with `aws:`."""
_STACK_TAGS: Final = "aws:cloudformation:"
_CDK_TAGS: Final = ("aws-cdk:", "aws:cdk:")
_NAMING_TAGS: Final = frozenset(
    {"managedby", "createdby", "provisionedby", "provisioner", "deployedby", "maintainedby", "iac", "tool", "source"}
)
"""Tags by which teams name the tool, without `-`, `_`, `:` and capitals."""
_NO: Final = frozenset({"", "false", "no", "0", "none"})
_WORDS: Final = (
    ("terraform", Manager.TERRAFORM),
    ("opentofu", Manager.TERRAFORM),
    ("terragrunt", Manager.TERRAFORM),
    ("cdk", Manager.CDK),
    ("cloudformation", Manager.CLOUDFORMATION),
)
_AGENTS: Final = (
    ("terraform", Manager.TERRAFORM),
    ("opentofu", Manager.TERRAFORM),
    ("aws-cdk", Manager.CDK),
    ("cloudformation.amazonaws.com", Manager.CLOUDFORMATION),
)
"""What a user agent has in it: the AWS provider sends `APN/1.0 HashiCorp/1.0 Terraform/...`, a stack its service."""
_MAKING: Final = frozenset({"CreateUser", "CreateAccessKey"})


def find_managed(users: Iterable[User], events: Mapping[str, Sequence[TrailEvent]]) -> tuple[ManagedUser, ...]:
    """Say which of the users a tool manages; `events` are CloudTrail's by account, and may be missing.

    A tag goes before an event: it says who manages the user now, the event who made it then.
    """
    found: list[ManagedUser] = []
    for user in users:
        managed = _by_tag(user) or _by_event(user, events.get(user.account, ()))
        if managed is not None:
            found.append(managed)
    return tuple(found)


def managed_findings(users: Iterable[User], events: Mapping[str, Sequence[TrailEvent]]) -> tuple[Finding, ...]:
    """Warn of each managed user, with the lines that its owner has to change before the next run of the tool."""
    return tuple(
        Finding(
            level="warning",
            text=f"{display(item.user)} in {item.account} seems to be managed by {item.manager.value} "
            f"({item.evidence}). {_advice(item)}",
        )
        for item in find_managed(users, events)
    )


def _by_tag(user: User) -> ManagedUser | None:
    tags = dict(user.tags)
    stack = tags.get(STACK_NAME, "")
    managers = [(key, manager) for key, value in user.tags if (manager := _manager_of_tag(key, value)) is not None]
    if not managers:
        return None
    # CDK works through CloudFormation, so both may show; the one that people edit is the one to name.
    key, manager = next((item for item in managers if item[1] is Manager.CDK), managers[0])
    evidence = f"its tag {display(key)} is {display(tags[key], 80)!r}"
    return ManagedUser(account=user.account, user=user.name, manager=manager, evidence=evidence, stack=stack)


def _manager_of_tag(key: str, value: str) -> Manager | None:
    name, said = key.lower(), value.strip().lower()
    if name.startswith(_CDK_TAGS):
        return Manager.CDK
    if name.startswith(_STACK_TAGS):
        return Manager.CLOUDFORMATION
    plain = "".join(character for character in name if character.isalnum())
    if plain in _NAMING_TAGS:
        return next((manager for word, manager in _WORDS if word in said), None)
    if plain.startswith(("terraform", "opentofu")) and said not in _NO:
        return Manager.TERRAFORM
    return None


def _by_event(user: User, events: Sequence[TrailEvent]) -> ManagedUser | None:
    """By the newest call that made the user or a key of it; a refused call made nothing."""
    made = [
        event
        for event in events
        if event.name in _MAKING and not event.error_code and {user.name, user.arn} & set(event.resources)
    ]
    for event in sorted(made, key=lambda event: event.at, reverse=True):
        agent = event.user_agent.lower()
        manager = next((manager for word, manager in _AGENTS if word in agent), None)
        if manager is not None:
            evidence = f"{event.name} of {event.at.date().isoformat()} came from {display(event.user_agent, 60)!r}"
            return ManagedUser(account=user.account, user=user.name, manager=manager, evidence=evidence)
    return None


def _advice(item: ManagedUser) -> str:
    if item.manager is Manager.TERRAFORM:
        return (
            "Its next apply would switch the old key on again, or make another one. Before it runs, put in the place "
            "of the key's block: removed { from = aws_iam_access_key.NAME lifecycle { destroy = false } } (before "
            "Terraform 1.7: delete the block, and terraform state rm 'aws_iam_access_key.NAME'). Find NAME with "
            "terraform state list | grep aws_iam_access_key. A Terraform resource that writes the CircleCI variable "
            "from that key puts the old value back: remove it in the same way."
        )
    stack = f"stack {display(item.stack)}" if item.stack else "its stack"
    if item.manager is Manager.CDK:
        return (
            f"The next deploy of {stack} may put the old key back, and its removal deletes the key. Call "
            "applyRemovalPolicy(RemovalPolicy.RETAIN) on the AccessKey construct, deploy, then remove the construct "
            "and deploy again."
        )
    return (
        f"The next update of {stack} may put the old key back, and its removal deletes the key. Give the "
        "AWS::IAM::AccessKey resource DeletionPolicy: Retain, update the stack, then remove the resource from the "
        "template and update again."
    )
