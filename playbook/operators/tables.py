"""What the wizard shows, as pure functions to rich renderables.

Every text from outside goes through `display` into a `Text`, so neither escape sequences nor markup in a name act.
Names and ids are folded, never cut. Nothing is said by colour alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rich.console import RenderableType

    from playbook.model import Action, Finding, Plan, Question

OPEN: Final = "?"
"""Stands where an answer is still missing."""
GAP: Final = 2
FOLDED_MIN: Final = 34
"""A column narrower than this is no table any more: the row is told in lines instead."""
_LEVELS: Final = ("note", "warning", "danger")


def questions(asked: Sequence[Question[Any]], answers: Sequence[Any], rows: Sequence[int], *, width: int) -> Table:
    """One row for each of `rows` (indices): what is asked about, and the answer as it stands."""
    names = list(dict.fromkeys(name for row in rows for name in asked[row].detail))
    cells = [[display(asked[row].detail.get(name, ""), 10_000) for name in names] for row in rows]
    chosen = [answer_text(asked[row], answers[row]) for row in rows]
    numbers = [str(row + 1) for row in rows]
    heads = ["#", *names, "answer"]
    columns = [numbers, *([line[place] for line in cells] for place in range(len(names))), chosen]
    widths = [max(map(cell_len, [head, *column])) + GAP for head, column in zip(heads, columns, strict=True)]
    widest = widths.index(max(widths))
    if sum(widths) - widths[widest] + min(widths[widest], FOLDED_MIN) <= width:
        table = _table(*heads, folding=(heads[widest],))
        for number, line, answer in zip(numbers, cells, chosen, strict=True):
            table.add_row(number, *map(Text, line), _answer(answer))
        return table
    table = _table("#", "what", "answer", folding=("what", "answer"), padding=1)
    room = max(FOLDED_MIN, width - widths[0] - widths[-1] - GAP)
    for number, line, answer in zip(numbers, cells, chosen, strict=True):
        told = [
            Text.assemble((f"{display(name)} ", "dim"), text) for name, text in zip(names, line, strict=True) if text
        ]
        table.add_row(number, Text("\n").join(_packed(told, room)), _answer(answer))
    return table


def answer_text(question: Question[Any], answer: Any) -> str:
    """An answer as it is shown, with a word for one that is not what was proposed."""
    if answer is None:
        return OPEN
    shown = ", ".join(map(str, answer)) if isinstance(answer, tuple) else str(answer)
    proposed = question.proposal if question.proposal is not None else question.default
    return display(shown, 10_000) if answer == proposed else f"{display(shown, 10_000)} (changed)"


def counts(answers: Sequence[Any]) -> str:
    """How often each answer is given, such as `12 replace, 3 keep`."""
    texts = Counter(OPEN if answer is None else display(str(answer)) for answer in answers)
    return ", ".join(f"{count} {text}" for text, count in texts.most_common())


def plan(shown: Plan) -> Table:
    """The changes in the order of execution, numbered; what hangs together stands together, checks without a number."""
    table = _table("#", "effect", "what", folding=("what",))
    number = 0
    for saga in shown.sagas():
        table.add_section()
        for action in saga:
            number += action.changes
            table.add_row(
                str(number) if action.changes else "", _effect(action), Text(display(action.describe(), 10_000))
            )
    return table


def findings(found: Sequence[Finding]) -> Table:
    """What must be known, the gravest last: nearest to the question below it."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(found, key=_gravity):
        level = Text(finding.level.upper(), style="bold") if finding.level == "danger" else Text(display(finding.level))
        due = f" (due {display(finding.due_at)})" if finding.due_at else ""
        table.add_row(level, Text(f"{display(finding.text, 10_000)}{due}"))
    return table


def facts(named: Mapping[str, str]) -> RenderableType:
    """Names and what they stand for, one a line."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in named.items():
        if text:
            table.add_row(Text(display(name)), Text(display(text, 10_000)))
    return table


def _gravity(finding: Finding) -> int:
    return _LEVELS.index(finding.level) if finding.level in _LEVELS else 0


def _effect(action: Action) -> Text:
    if not action.changes:
        return Text("check", style="dim")
    return Text("DESTROYS", style="bold red") if action.destroys else Text("change")


def _answer(text: str) -> Text:
    return Text(text, style="" if text == OPEN or text.endswith(" (changed)") else "bold")


def _table(*heads: str, folding: Collection[str], padding: int = 0) -> Table:
    """A table without lines, in which some columns may fold; `padding` is the space between rows."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, padding, 0), header_style="bold underline")
    for head in heads:
        table.add_column(Text(display(head)), overflow="fold", no_wrap=head not in folding)
    return table


def _packed(parts: Sequence[Text], width: int) -> list[Text]:
    """Put as many parts on a line as fit beside each other."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1].append(" - ").append_text(part)
        else:
            lines.append(part.copy())
    return lines
