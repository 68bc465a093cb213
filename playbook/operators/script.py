"""The answers file as an operator: answers what it says, takes safe defaults aloud, and names what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from playbook.errors import MissingAnswerError, UsageError
from playbook.model import Recourse, Recovery
from playbook.operators.answers_file import ENTRIES, AnswersFile, line, match_line, parse, plain
from playbook.operators.validity import about, allowed, fit
from playbook.ports import Waits, display

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from playbook.model import Action, Plan, Question, Trouble
    from playbook.ports import Json

T = TypeVar("T")

MISSING_SHOWN: Final = 20
"""Missing answers named at once; a thousand lines would hide the first."""


class Script:
    """A batch run's operator: asks nothing, guesses nothing."""

    def __init__(
        self,
        source: str | AnswersFile,
        *,
        approve_digest: str | None = None,
        yes: bool = False,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        """`source`: the file's text, or a file checked before; `say` hears of every default that is taken."""
        self.file = parse(source) if isinstance(source, str) else source
        written = self.file.approve.digest
        if approve_digest and written and approve_digest != written:
            raise UsageError(
                "--approve and `approve.digest` in the answers file name two different plans. Nothing was changed.",
                remedy="Leave one of them out.",
            )
        self.approve_digest = approve_digest or written
        """The plan that was reviewed, which `modes` compares; None when no digest was given."""
        self.yes = yes
        self._say = say
        self._said: set[str] = set()

    @property
    def waits(self) -> Mapping[str, int]:
        """The waits that the file names."""
        return self.file.waits

    def waits_over(self, base: Waits) -> Waits:
        """The base's waits with the file's in their place."""
        return replace(base, **self.file.waits)

    def answer(self, question: Question[T]) -> T:
        """What the file says, else the safe default; raises `MissingAnswerError` when there is neither."""
        value = self._find(question)
        if value is not None:
            return fit(question, value)
        if question.default is None:
            raise self._missing([question])
        if question.id not in self._said and not question.optional:
            self._said.add(question.id)
            shown = display(str(question.default))
            self._say(f"`{question.answer_key}`{about(question)} is not answered; the safe default is taken: {shown}")
        return question.default

    def answer_all(self, questions: Sequence[Question[T]]) -> list[T]:
        """As `answer`, but what is missing is named all at once."""
        missing = [question for question in questions if question.default is None and self._find(question) is None]
        if missing:
            raise self._missing(missing)
        return [self.answer(question) for question in questions]

    def approve(self, plan: Plan) -> bool:
        """`--yes`, or nothing to approve; a digest is compared by `modes`, which knows the whole run."""
        return self.yes or not any(action.changes for action in plan.actions)

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        """`on_lost_secret` of the key's entry; "recreate" always means to write the switched places again."""
        account, user = str(getattr(action, "account", "")), str(getattr(action, "user", ""))
        subject = {"user": user, "account": account, "id": str(getattr(action, "old_key_id", ""))}
        found = self.file.entry("keys", subject)
        recreate = found is not None and getattr(found[1], "on_lost_secret", None) == "recreate"
        chosen = Recovery.REWRITE_SWITCHED if recreate else Recovery.STOP
        self._say(
            f"The secret of the new key of {display(user)} in {display(account)} is lost; {len(switched)} place(s) "
            f"hold the new key, {len(unswitched)} the old one. on_lost_secret says: {chosen.value}"
        )
        return chosen

    def recourse(self, trouble: Trouble) -> Recourse:
        """ABORT: this lane waits and the others go on; or OVERRIDE, for a gate that the key's entry names.

        Leaving a target out is a decision no file makes.
        """
        found = self.file.entry("keys", trouble.action.subject) if trouble.action.gate else None
        entry = found[1] if found is not None else None
        if trouble.action.gate in (getattr(entry, "override", None) or ()) and getattr(entry, "reason", None):
            self._say(f"Overridden, as the answers file says: {display(trouble.action.describe())}")
            return Recourse.OVERRIDE
        self._say(f"Left waiting: {display(trouble.action.describe())}: {display(trouble.reason)}")
        return Recourse.ABORT

    def _find(self, question: Question[Any]) -> Json:
        table, _, key = question.answer_key.partition(".")
        if table not in ENTRIES:
            return self.file.value(table, key)
        found = self.file.entry(table, question.subject)
        return plain(getattr(found[1], key, None)) if found else None

    def _missing(self, questions: Sequence[Question[Any]]) -> MissingAnswerError:
        first, count = questions[0], len(questions)
        also = f", and {count - 1} more answer(s) are missing too" if count > 1 else ""
        left_out = f"\n\n# and {count - MISSING_SHOWN} more" if count > MISSING_SHOWN else ""
        return MissingAnswerError(
            f"The answers file does not say `{first.answer_key}`{about(first)}{also}. Nothing was changed.",
            answer_key=first.answer_key,
            remedy="\n\n".join(self._advice(question) for question in questions[:MISSING_SHOWN]) + left_out,
        )

    def _advice(self, question: Question[Any]) -> str:
        """The lines to add, and where."""
        table, _, key = question.answer_key.partition(".")
        wanted = f"{line(key, _example(question))}  # {allowed(question)}"
        if table not in ENTRIES:
            return f"Add under [{table}]:\n\n{wanted}"
        found = self.file.entry(table, question.subject)
        if found is not None:
            number, entry = found
            globs = {name: getattr(entry.match, name) for name in entry.match.__struct_fields__}
            shown = ", ".join(line(name, glob) for name, glob in globs.items() if glob is not None)
            return f"Add to entry {number} of [[{table}]], whose match {{ {shown} }} fits first:\n\n{wanted}"
        return f"Add, with the values you want:\n\n[[{table}]]\n{match_line(question.subject)}\n{wanted}"


def _example(question: Question[Any]) -> Json:
    """A value to show: what the wizard would propose, else the first choice."""
    if question.proposal is not None:
        return list(question.proposal) if isinstance(question.proposal, tuple) else question.proposal
    if question.choices:
        first = str(question.choices[0].value)
        return [first] if question.kind is tuple else first
    shown: dict[type[Any], Json] = {bool: False, int: 0, tuple: ["..."]}
    return shown.get(question.kind, "...")
