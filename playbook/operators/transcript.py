"""Remembers answers, so that nobody is asked twice: not by a later step, and not after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from playbook.errors import GuardError, UsageError
from playbook.operators.validity import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from playbook.model import Action, Operator, Plan, Question, Recourse, Recovery, Trouble
    from playbook.ports import Json

T = TypeVar("T")


class Transcript:
    """An operator in front of another one: what is recorded is not asked, what is asked is recorded first."""

    def __init__(
        self, inner: Operator, recorded: Mapping[str, Json], record: Callable[[Question[Any], Json], None]
    ) -> None:
        """`recorded`: answers by question id; `record`: makes a new one durable before anybody acts on it."""
        self._inner = inner
        self._recorded = dict(recorded)
        self._record = record

    def answer(self, question: Question[T]) -> T:
        """The recorded answer, or a new one."""
        known = self._known(question)
        return known[0] if known else self._keep(question, self._inner.answer(question))

    def answer_all(self, questions: Sequence[Question[T]]) -> list[T]:
        """As `answer`; the questions still open are asked together."""
        known = [self._known(question) for question in questions]
        still_open = [question for question, found in zip(questions, known, strict=True) if not found]
        asked = self._inner.answer_all(still_open) if still_open else []
        fresh = iter([self._keep(question, value) for question, value in zip(still_open, asked, strict=True)])
        return [found[0] if found else next(fresh) for found in known]

    def approve(self, plan: Plan) -> bool:
        """Ask: a yes is journaled by the engine, with the plan's digest."""
        return self._inner.approve(plan)

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        """Ask: the world may have moved since the last time."""
        return self._inner.lost_secret(action, switched, unswitched)

    def recourse(self, trouble: Trouble) -> Recourse:
        """Ask: the same trouble again may deserve another answer."""
        return self._inner.recourse(trouble)

    def _known(self, question: Question[T]) -> tuple[T] | None:
        """The recorded answer, in a tuple so that `False` is one; None when there is none that is valid now."""
        if question.id not in self._recorded:
            return None
        try:
            return (fit(question, self._recorded[question.id]),)
        except (UsageError, GuardError):
            return None

    def _keep(self, question: Question[T], value: object) -> T:
        answer = fit(question, value)
        plain = cast("Json", list(answer) if isinstance(answer, tuple) else answer)
        self._record(question, plain)
        self._recorded[question.id] = plain
        return answer
