"""The human as an operator: shows tables on stderr, asks, and lets nothing be destroyed without a typed number."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rich.console import Console
from rich.text import Text

from playbook.errors import DeclinedError, GuardError, UsageError
from playbook.model import Choice, Recourse, Recovery
from playbook.operators import tables
from playbook.operators.prompts import Prompts
from playbook.operators.validity import allowed, fit
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from playbook.model import Action, Plan, Question, Trouble
    from playbook.secret import Secret

T = TypeVar("T")

ROWS_SHOWN_AGAIN: Final = 30
"""A longer table is not printed again after each change, only the rows that changed."""
CHOICES_MAX: Final = 40
"""More boxes than this cannot be looked over: a part of the name narrows them first."""
NAMES_SHOWN: Final = 20
_OTHER: Final = "\0other"
_ACCEPT, _OPEN, _ONE, _SEVERAL, _SHOW = "accept", "open", "one", "several", "show"


def console_to_stderr() -> Console:
    """A console that leaves stdout to results and takes no markup from anybody."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def ask_secret(prompt: str, *, prompts: Prompts | None = None) -> Secret:
    """Take a secret at the terminal without showing it."""
    return (prompts or Prompts()).hidden(prompt)


class Wizard:
    """Asks a person at a terminal; Ctrl-C raises `KeyboardInterrupt`, and what was answered before is kept."""

    def __init__(self, *, console: Console | None = None, prompts: Prompts | None = None) -> None:
        self._console = console or console_to_stderr()
        self._prompts = prompts or Prompts()

    # -- questions --

    def answer(self, question: Question[T]) -> T:
        """Ask one question, with what is known about its subject above it."""
        if question.detail:
            self._show(tables.facts(question.detail))
        return self._ask(question)

    def answer_all(self, questions: Sequence[Question[T]]) -> list[T]:
        """Show all questions with their proposed answers as one table, to accept or to change."""
        asked = [question for question in questions if not (question.optional and question.default is not None)]
        if len(asked) < len(questions):
            given = iter(self.answer_all(asked))
            return [next(given) if question in asked else self._ask(question) for question in questions]
        if len(questions) <= 1:
            return [self.answer(question) for question in questions]
        answers: list[T | None] = [_proposed(question) for question in questions]
        rows = list(range(len(questions)))
        while True:
            self._show(tables.questions(questions, answers, rows, width=self._console.width))
            self._show(Text(f"{len(questions)} rows: {tables.counts(answers)}", style="bold"))
            chosen = self._prompts.pick("What now?", _next_moves(answers))
            if chosen == _ACCEPT:
                return [fit(question, answer) for question, answer in zip(questions, answers, strict=True)]
            changed = self._change(chosen, questions, answers)
            rows = changed if len(questions) > ROWS_SHOWN_AGAIN else list(range(len(questions)))

    def _ask(self, question: Question[T]) -> T:
        if question.optional and question.default is not None:
            return question.default
        check = _checker(question)
        preset = _proposed(question)
        if question.kind is bool:
            return fit(question, self._prompts.confirm(question.prompt))
        if question.kind is tuple:
            return fit(question, self._several(question, preset))
        if question.choices:
            picked = self._pick(question, preset)
            if picked != _OTHER:
                return fit(question, picked)
        is_choice = preset in {item.value for item in question.choices}
        default = "" if preset is None or is_choice else str(preset)
        text = self._prompts.text(question.prompt, default=default, check=lambda text: check(_typed(question, text)))
        return fit(question, _typed(question, text))

    def _pick(self, question: Question[Any], preset: Any) -> str:
        other = (Choice(value=_OTHER, title="something else - type it"),) if question.open_choices else ()
        offered = [choice for choice in question.choices if choice.value not in question.refused]
        for value, why in question.refused.items():
            self._show(Text(f"Not offered here: {value}, because {why}.", style="dim"))
        picked = self._prompts.pick(question.prompt, (*offered, *other), preselected=str(preset))
        if any(choice.declines for choice in question.choices if choice.value == picked):
            raise DeclinedError("Stopped at your word. Nothing was changed.", remedy="`resume` asks again.")
        return picked

    def _several(self, question: Question[Any], preset: Any) -> list[str]:
        """Pick boxes, and type names when the question is open to others."""
        before: tuple[str, ...] = preset or ()
        check = _checker(question)
        if not question.choices:
            return self._names(question, before)
        choices = self._narrowed(question)
        other = (Choice(value=_OTHER, title="others - type their names"),) if question.open_choices else ()
        picked = self._prompts.pick_several(
            question.prompt,
            (*choices, *other),
            preselected=before,
            check=lambda names: check([name for name in names if name != _OTHER]) if _OTHER not in names else "",
        )
        named = [name for name in picked if name != _OTHER]
        return named if _OTHER not in picked else [*named, *self._names(question, ())]

    def _names(self, question: Question[Any], preset: Sequence[str]) -> list[str]:
        check = _checker(question)
        text = self._prompts.text(
            f"{question.prompt} (names, with commas between them)",
            default=", ".join(preset),
            check=lambda text: check(_split(text)),
        )
        return _split(text)

    def _narrowed(self, question: Question[Any]) -> Sequence[Choice]:
        """Few enough choices to be looked over."""
        choices: Sequence[Choice] = question.choices
        while len(choices) > CHOICES_MAX:

            def hits(part: str) -> list[Choice]:
                return [item for item in question.choices if part.lower() in item.title.lower()]

            def check(part: str) -> str:
                count = len(hits(part))
                return "" if 0 < count <= CHOICES_MAX else f"{count} of {len(question.choices)} have that in them."

            choices = hits(
                self._prompts.text(f"There are {len(choices)} to pick from. Type a part of the names", check=check)
            )
        return choices

    def _change(self, how: str, questions: Sequence[Question[T]], answers: list[T | None]) -> list[int]:
        """Ask again about some rows, and answer which."""
        if how == _SHOW:
            return list(range(len(questions)))
        if how == _OPEN:
            rows = [row for row, answer in enumerate(answers) if answer is None]
        else:
            single = how == _ONE
            text = self._prompts.text(
                "Which row?" if single else "Which rows? (such as 3, 5-7)",
                check=lambda text: _row_problem(text, len(questions), single=single),
            )
            rows = _rows(text, len(questions))
        if how != _SEVERAL:
            for row in rows:
                self._show(tables.questions(questions, answers, [row], width=self._console.width))
                answers[row] = self._ask(questions[row])
            return rows
        # One answer for all of them, unless it does not fit some: those are asked about one by one.
        answer = self._ask(questions[rows[0]])
        for row in rows:
            answers[row] = answer if not _checker(questions[row])(answer) else self._ask(questions[row])
        return rows

    # -- decisions --

    def approve(self, plan: Plan) -> bool:
        """Show the plan and take the typed number of its changes for a yes; anything else is a no."""
        changes = [action for action in plan.actions if action.changes]
        if plan.findings:
            self._show(tables.findings(plan.findings))
        if not changes:
            return True
        self._show(tables.plan(plan))
        destroying = sum(action.destroys for action in changes)
        lanes = len({action.lane for action in changes})
        self._show(
            Text(f"{len(changes)} changes in {lanes} places. Nothing of this plan was done yet.", style="bold"),
            Text(f"{destroying} of them end or overwrite something that may work: DESTROYS, above.")
            if destroying
            else "",
        )
        typed = self._prompts.text(f"Type {len(changes)} to carry them out; anything else declines")
        return typed == str(len(changes))

    def lost_secret(self, action: Action, switched: Sequence[Action], unswitched: Sequence[Action]) -> Recovery:
        """Show who would be down under each choice, and have the chosen word typed."""
        self._show(
            Text("The secret of a new key is lost, and somebody must break for a while.", style="bold"),
            tables.facts(
                {
                    "lost": action.describe(),
                    f"hold the new key ({len(switched)})": _listed(switched),
                    f"hold the old key ({len(unswitched)})": _listed(unswitched),
                }
            ),
            tables.facts(
                {
                    Recovery.STOP.value: "change nothing now: both keys stay on, nobody breaks, this one waits",
                    Recovery.REWRITE_SWITCHED.value: f"{len(switched)} place(s), those on the new key, are down until "
                    "they are written again, first of all",
                    Recovery.CUT_OLD.value: f"{len(unswitched)} place(s), those on the old key, are down until they "
                    "are written; the old key is deleted now",
                }
            ),
        )
        words = [recovery.value for recovery in Recovery]
        wanted = f"Type one of these words: {', '.join(words)}"
        return Recovery(self._prompts.text(wanted, check=lambda text: "" if text in words else f"{wanted}."))

    def recourse(self, trouble: Trouble) -> Recourse:
        """Show why a lane stands still and ask what to do; waiting is what Enter alone chooses."""
        self._show(
            Text("This failed." if trouble.failed else "This cannot go on by itself.", style="bold"),
            tables.facts(
                {
                    "what": trouble.action.describe(),
                    "why": trouble.reason,
                    "still on": trouble.still_on,
                    "remedy": trouble.remedy,
                }
            ),
        )
        choices = [
            Choice(value=Recourse.ABORT.value, title="leave it waiting - go on with the others, `resume` comes back"),
            Choice(value=Recourse.RETRY.value, title="retry - look again now, and go on from what is seen"),
            Choice(value=Recourse.SKIP.value, title="skip - leave it out for good, and all that was to follow it"),
        ]
        if trouble.action.gate:
            title = f"override - pass the {trouble.action.gate} gate; the reason you type is kept in the journal"
            choices.append(Choice(value=Recourse.OVERRIDE.value, title=title))
        chosen = self._prompts.pick("What now?", choices)
        return Recourse(chosen)

    def _show(self, *shown: RenderableType) -> None:
        self._console.print()
        for item in shown:
            if item:
                self._console.print(item)


def _next_moves(answers: Sequence[Any]) -> list[Choice]:
    missing = sum(answer is None for answer in answers)
    first = (
        Choice(value=_OPEN, title=f"Answer the {missing} open rows, marked {tables.OPEN}")
        if missing
        else Choice(value=_ACCEPT, title=f"Accept all {len(answers)} answers as they stand")
    )
    moves = [
        first,
        Choice(value=_ONE, title="Change one row"),
        Choice(value=_SEVERAL, title="Change several rows to one answer"),
    ]
    if len(answers) > ROWS_SHOWN_AGAIN:
        moves.append(Choice(value=_SHOW, title="Show the whole table again"))
    return moves


def _proposed(question: Question[T]) -> T | None:
    """The proposal, else the default, when it is a valid answer."""
    value = question.proposal if question.proposal is not None else question.default
    try:
        return None if value is None else fit(question, value)
    except UsageError:
        return None


def _checker(question: Question[Any]) -> Callable[[Any], str]:
    """What is wrong with an answer, in a sentence; nothing when it fits."""

    def check(value: Any) -> str:
        try:
            fit(question, value)
        except (UsageError, GuardError):
            return f"Use {allowed(question)}."
        return ""

    return check


def _typed(question: Question[Any], text: str) -> str | int:
    is_number = question.kind is int and text.isascii() and text.isdigit() and len(text) <= len(str(1 << 31))
    return int(text) if is_number else text


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _row_problem(text: str, count: int, *, single: bool) -> str:
    rows = _rows(text, count)
    if not rows or (single and len(rows) > 1):
        return f"Type {'one number' if single else 'numbers such as 3, 5-7'} from 1 to {count}."
    return ""


def _rows(text: str, count: int) -> list[int]:
    """The rows, from 0, that `3, 5-7` names; none at all when it is not written like that or goes beyond `count`."""
    rows: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        first, last = (int(found.group(1)), int(found.group(2) or found.group(1))) if found else (0, 0)
        if not 1 <= first <= last <= count:
            return []
        rows.update(range(first - 1, last))
    return sorted(rows)


def _listed(actions: Sequence[Action]) -> str:
    shown = "; ".join(display(action.describe()) for action in actions[:NAMES_SHOWN])
    more = len(actions) - NAMES_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown or "none"
