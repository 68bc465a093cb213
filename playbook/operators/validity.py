"""What counts as an answer to a question, said once for the file, the terminal and the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from playbook.errors import GuardError, UsageError
from playbook.operators.answers_file import ALLOWED, TEXT_MAX, accepts
from playbook.ports import display

if TYPE_CHECKING:
    from playbook.model import Choice, Question

T = TypeVar("T")


def fit(question: Question[T], value: object) -> T:
    """Answer the value in the question's own kind, or refuse it and say what is allowed.

    The refusal never quotes the value: a secret typed in the wrong place must not be printed.
    """
    answer = _of_kind(question, value)
    if answer is None or not _is_chosen(question, answer) or not _holds(question, answer):
        raise UsageError(
            f"`{question.answer_key}`{about(question)} cannot be answered like that.",
            remedy=f"Use {allowed(question)}.",
        )
    if isinstance(answer, str) and answer in question.refused:
        raise GuardError(
            f'`{question.answer_key} = "{display(answer)}"`{about(question)} is refused: {question.refused[answer]}. '
            "Nothing was changed.",
            remedy=f"Answer {allowed(question)}.",
        )
    return cast("T", answer)


def allowed(question: Question[Any]) -> str:
    """What may be answered, in words."""
    values = [f'"{display(str(choice.value))}"' for choice in _offered(question)]
    rule = ALLOWED.get(question.answer_key, "")
    if question.kind is tuple and values:
        return f"at least one of {', '.join(values)}" + (", or other names" if question.open_choices else "")
    if values and not question.open_choices:
        return f"one of {', '.join(values)}"
    if rule:
        return rule
    if values:
        return f"one of {', '.join(values)}, or another text"
    kinds = {bool: "true or false", int: "a whole number, 0 or more", tuple: "at least one name"}
    return kinds.get(question.kind, f"a text that is not blank, of at most {TEXT_MAX} characters")


def _offered(question: Question[Any]) -> list[Choice]:
    return [item for item in question.choices if not item.declines and item.value not in question.refused]


def about(question: Question[Any]) -> str:
    """Name the subject of a question, such as ` for user ci-bot, account 123456789012`."""
    named = ", ".join(f"{display(name)} {display(text)}" for name, text in question.subject.items())
    return f" for {named}" if named else ""


def _of_kind(question: Question[Any], value: object) -> object | None:
    """The value as the question's kind, plain and bounded, or None."""
    kind: type[Any] = question.kind
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
    if kind is tuple:
        if not isinstance(value, list | tuple):
            return None
        texts = tuple(_text(item) for item in value)
        # None at all is an answer only where it is the safe one.
        return None if None in texts or not (texts or question.default == ()) else texts
    return _text(value)


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value.strip() or len(value) > TEXT_MAX:
        return None
    # A member of a StrEnum is text too, but it is not what the journal gives back.
    return str(value)


def _is_chosen(question: Question[Any], answer: object) -> bool:
    if not question.choices or question.open_choices:
        return True
    values = {str(choice.value) for choice in question.choices if not choice.declines}
    return all(item in values for item in (answer if isinstance(answer, tuple) else (answer,)))


def _holds(question: Question[Any], answer: object) -> bool:
    """Whether the answers file could say it, so that what was rehearsed by hand runs in batch."""
    return accepts(question.answer_key, list(answer) if isinstance(answer, tuple) else answer)
