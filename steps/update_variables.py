"""Eradication of every other secret: write the new value from where the responder says, or check what hands did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from playbook.errors import Effect, ServiceError, UsageError
from playbook.model import Action, Observation, Phase, Plan, Status, Step
from playbook.ports import MaskedVariable, Sink, SinkKind, display
from playbook.secret import Secret
from steps.decisions import VariableDecision, decide_keys, decide_variables

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import Evidence, View, World


@dataclass(frozen=True, kw_only=True)
class ObtainValue(Action):
    """Take the new value into memory, and again after a crash; it is kept nowhere else."""

    kind: ClassVar[str] = "value:obtain"
    provides: ClassVar[bool] = True
    changes: ClassVar[bool] = False

    sink: Sink
    name: str
    source: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    @property
    def attended(self) -> bool:
        return self.source == "prompt"

    def describe(self) -> str:
        return f"take the new value of {display(self.name)} from {display(self.source)}"

    def observe(self, view: View) -> Observation:
        held = self.credential in view.held
        return Observation(status=Status.PRESENT if held else Status.ABSENT, evidence={"source": self.source})

    def apply(self, world: World) -> Evidence:
        world.hold(self.credential, world.obtain(self.source))
        return {"source": self.source}


@dataclass(frozen=True, kw_only=True)
class UpdateVariable(Action):
    """Write a new value over one variable and read its tail back; a context's `updated_at` must move too."""

    kind: ClassVar[str] = "circleci:update-variable"
    needs: ClassVar[bool] = True
    destroys: ClassVar[bool] = True

    sink: Sink
    name: str
    written_before: str
    """`written_at` in the inventory."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    def describe(self) -> str:
        return f"write a new value of {display(self.name)} into {self.sink.kind.value} {display(self.sink.name)}"

    def observe(self, view: View) -> Observation:
        where = f"{display(self.name)} in {display(self.sink.name)}"
        seen = view.circleci.variables(self.sink).find(self.name)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"{where} is no longer there")
        value = view.held.get(self.credential)
        if not isinstance(value, Secret):
            return Observation(status=Status.CONFLICT, reason=f"the new value of {where} is no longer in memory")
        moved = written_at(seen) != self.written_before
        matches = seen.tail == value.tail()
        evidence: Evidence = {"tail_matches": matches, "updated_at": written_at(seen)}
        attempts = view.past(self.key)
        if not attempts and moved:
            reason = f"somebody wrote {where} since the inventory"
            return Observation(status=Status.CONFLICT, evidence=evidence, reason=reason)
        if not attempts or attempts[-1].applied is None or attempts[-1].reset:
            return Observation(status=Status.ABSENT, evidence=evidence)
        if matches and (moved or self.sink.kind is SinkKind.PROJECT):
            return Observation(status=Status.PRESENT, evidence=evidence)
        reason = f"{where} does not show the new value yet"
        return Observation(
            status=Status.PENDING, evidence=evidence, reason=reason, wait="sink", otherwise=Status.ABSENT
        )

    def apply(self, world: World) -> Evidence:
        value = world.held.get(self.credential)
        if not isinstance(value, Secret):
            raise ServiceError(f"the writing of {display(self.name)}", code="SecretNotHeld", effect=Effect.NONE)
        world.circleci.put_variable(self.sink, self.name, value)
        return {}


@dataclass(frozen=True, kw_only=True)
class ConfirmRotatedByHand(Action):
    """Somebody changes the variable by hand; done is what CircleCI shows, not what is said."""

    kind: ClassVar[str] = "circleci:confirm-rotated-by-hand"
    changes: ClassVar[bool] = False

    sink: Sink
    name: str
    written_before: str
    tail_before: str

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    @property
    def lane(self) -> str:
        return f"circleci:{self.sink.kind.value}/{self.sink.id}/{self.name}"

    def describe(self) -> str:
        return f"see that {display(self.name)} in {self.sink.kind.value} {display(self.sink.name)} was changed by hand"

    def observe(self, view: View) -> Observation:
        where = f"{display(self.name)} in {display(self.sink.name)}"
        seen = view.circleci.variables(self.sink).find(self.name)
        if seen is None:
            return Observation(status=Status.CONFLICT, reason=f"{where} is no longer there")
        moved = written_at(seen) != self.written_before
        changed = bool(self.tail_before) and seen.tail is not None and seen.tail != self.tail_before
        if moved or changed:
            return Observation(
                status=Status.PRESENT, evidence={"updated_at": written_at(seen), "tail_changed": changed}
            )
        return Observation(status=Status.CONFLICT, reason=f"{where} is not changed yet: write the new value by hand")

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


def written_at(variable: MaskedVariable) -> str:
    """What proves a write: a context's `updated_at`; a project shows at most when a variable was made anew."""
    moment = variable.updated_at or variable.created_at
    return moment.isoformat() if moment is not None else ""


class UpdateVariables(Step):
    """Give every other exposed secret its new value."""

    id = "update_variables"
    title = "Update the other secrets"
    phase = Phase.ERADICATION
    kinds = (ObtainValue, UpdateVariable, ConfirmRotatedByHand)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan what was decided about every secret that is no AWS key of these accounts."""
        decided = decide_variables(decide_keys(view, case, ask), ask)
        for item in decided:
            _refuse_recreate(item)
        actions = [action for item in decided if item.source != "keep" for action in _actions(item)]
        return Plan(step=self.id, actions=tuple(actions))


def _refuse_recreate(item: VariableDecision) -> None:
    """Nobody but its issuer makes a new value of a variable; `recreate` is an answer about keys and tokens."""
    if item.source == "recreate":
        raise UsageError(
            f"`variables.value_from` for {display(item.stored.variable.name)} in {display(item.stored.sink.name)} "
            'cannot be "recreate": CircleCI makes no new value of a variable. Nothing of this plan was carried out.',
            remedy='Say where the new value comes from, or narrow that entry, such as kind = "checkout-key".',
        )


def _actions(item: VariableDecision) -> tuple[Action, ...]:
    sink, variable = item.stored.sink, item.stored.variable
    if item.source == "done-by-hand":
        return (
            ConfirmRotatedByHand(
                sink=sink, name=variable.name, written_before=written_at(variable), tail_before=variable.tail or ""
            ),
        )
    credential = f"value:{item.stored.id}"
    obtain = ObtainValue(sink=sink, name=variable.name, source=item.source, credential=credential)
    update = UpdateVariable(
        sink=sink, name=variable.name, written_before=written_at(variable), credential=credential, after=(obtain.key,)
    )
    return obtain, update
