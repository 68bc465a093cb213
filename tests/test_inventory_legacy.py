"""A key in the old AWS integration of a project is stored too, where only hands can change it: no run may forget it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from playbook.correlate import StoredVariable, legacy_held
from playbook.inventory import Inventory
from playbook.model import Case, Question
from playbook.ports import AccessKey, KeyStatus, MaskedVariable, SecretKind, Sink, SinkKind, StoredSecret, User
from steps.decisions import decide_keys

READ_AT = "2026-01-05T09:00:00+00:00"

MADE = datetime(2022, 6, 1, tzinfo=UTC)
ACCOUNT = "111111111111"
DEPLOY = Sink(kind=SinkKind.CONTEXT, id="c-1", name="deploy", organization="gh/acme")


def a_key(tail: str, *, user: str = "ci-deploy", active: bool = True) -> AccessKey:
    status = KeyStatus.ACTIVE if active else KeyStatus.INACTIVE
    return AccessKey(account=ACCOUNT, user=user, id=f"AKIA000000000000{tail}", status=status, created_at=MADE)


def legacy(tail: str | None, *, whole: str = "", kind: SecretKind = SecretKind.LEGACY_AWS_KEY) -> StoredSecret:
    return StoredSecret(
        kind=kind,
        id="l",
        organization="gh/acme",
        place="gh/acme/web",
        place_kind="project",
        name="AWS permissions",
        tail=tail,
        detail=whole,
    )


class Nobody:
    """A view in which this run signs with a role."""

    def aws(self, account: str) -> Nobody:
        return self

    def own_key_id(self) -> str:
        return ""


class Answers:
    """Takes what is proposed, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Question[Any]] = []

    def __call__(self, question: Question[Any]) -> Any:
        self.asked.append(question)
        return question.default if question.default is not None else question.proposal or "because"

    def all(self, questions: Any) -> list[Any]:
        return [self(question) for question in questions]


def asked_about(inventory: Inventory) -> dict[str, Question[Any]]:
    answers = Answers()
    decide_keys(Nobody(), Case(id="case", inventory=inventory.to_lines()), answers)  # type: ignore[arg-type]
    found = {question.subject["id"]: question for question in answers.asked if question.answer_key == "keys.strategy"}
    assert set(found) == {key.id for key in inventory.keys}
    return found


def pair(tail: str) -> tuple[StoredVariable, ...]:
    names = (("AWS_ACCESS_KEY_ID", tail), ("AWS_SECRET_ACCESS_KEY", "s/+c"))
    return tuple(
        StoredVariable(sink=DEPLOY, variable=MaskedVariable(name=name, tail=shown, updated_at=MADE))
        for name, shown in names
    )


def test_a_whole_id_is_certain_a_tail_is_not_and_two_keys_are_none() -> None:
    ours, twin = (
        a_key("WXYZ"),
        AccessKey(account=ACCOUNT, user="x", id="AKIA111111111111WXYZ", status=KeyStatus.ACTIVE, created_at=MADE),
    )
    found = {
        (held.key.id, held.confidence)
        for secrets, keys in [
            ([legacy("WXYZ")], [ours]),
            ([legacy("WXYZ", whole=ours.id)], [ours, twin]),
        ]
        for held in legacy_held(secrets, keys)
    }
    assert found == {(ours.id, "tail-only"), (ours.id, "confirmed")}
    nobodys = [
        ([legacy("WXYZ")], [ours, twin]),
        ([legacy("WXYZ", whole="AKIA222222222222WXYZ")], [ours]),  # another account's key with the same tail
        ([legacy(None)], [ours]),
        ([legacy("")], [ours]),
        ([legacy("WXYZ", kind=SecretKind.SSH_KEY)], [ours]),
    ]
    assert [legacy_held(secrets, keys) for secrets, keys in nobodys] == [()] * len(nobodys)


def test_a_key_that_only_a_legacy_integration_holds_has_no_safe_default() -> None:
    question = asked_about(Inventory(generated_at=READ_AT, keys=(a_key("WXYZ"),), secrets=(legacy("WXYZ"),)))[
        a_key("WXYZ").id
    ]
    assert question.default is None
    assert question.detail["stored in"] == "the AWS integration of gh/acme/web"
    assert set(question.refused) == {"replace", "contain", "oidc"}
    assert "clear that by hand" in question.refused["replace"]


def test_a_key_that_a_legacy_integration_holds_too_is_not_replaced_under_its_feet() -> None:
    inventory = Inventory(
        generated_at=READ_AT, keys=(a_key("WXYZ"),), variables=pair("WXYZ"), secrets=(legacy("WXYZ"),)
    )
    question = asked_about(inventory)[a_key("WXYZ").id]
    assert "replace" in question.refused
    assert "deactivate" not in question.refused
    assert question.detail["stored in"] == "deploy:AWS_ACCESS_KEY_ID, the AWS integration of gh/acme/web"
    assert question.proposal == "keep"


def test_a_key_elsewhere_is_not_held_back_by_it() -> None:
    inventory = Inventory(
        generated_at=READ_AT, keys=(a_key("WXYZ"),), variables=pair("WXYZ"), secrets=(legacy("ABCD"),)
    )
    question = asked_about(inventory)[a_key("WXYZ").id]
    assert question.refused == {}
    assert question.proposal == "replace"


def test_the_question_says_what_the_key_opens() -> None:
    user = User(
        account=ACCOUNT,
        name="ci-deploy",
        arn=f"arn:aws:iam::{ACCOUNT}:user/ci-deploy",
        reach=("everything (policy AdministratorAccess)",),
    )
    inventory = Inventory(generated_at=READ_AT, keys=(a_key("WXYZ"), a_key("ABCD", user="x")), users=(user,))
    found = asked_about(inventory)
    assert found[a_key("WXYZ").id].detail["opens"] == "everything (policy AdministratorAccess)"
    assert found[a_key("ABCD").id].detail["opens"] == ""
