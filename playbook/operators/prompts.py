"""The only file that talks to questionary: five kinds of prompt, made safe for a tool that destroys.

Measured traps it closes: a key typed while we were busy answers the next prompt, so what was typed early is thrown
away; a pipe on stdin answers too, so both ends must be a terminal; `ask()` turns Ctrl-C into `None`, so it is never
used, and neither is the search filter, which returns the first choice when nothing matches.
"""

from __future__ import annotations

import sys
import termios
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from playbook.errors import UsageError
from playbook.ports import display
from playbook.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output
    from questionary import Question as Prompt

    from playbook.model import Choice

SECRET_MAX: Final = 32_000
"""CircleCI's limit for a value, in characters (facts, section 2.6)."""
_STYLE: Final = (("qmark", "bold"), ("pointer", "bold"), ("highlighted", "bold reverse"), ("answer", "bold"))


class Terminal(NamedTuple):
    """Both ends of one prompt."""

    input: Input
    output: Output
    discard_typed: Callable[[], None]
    """Throws away what was typed before the prompt stood there."""


def open_terminal() -> Terminal:
    """The keyboard, and stderr for the prompt, so that stdout carries results alone; refused when either is missing."""
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
        raise UsageError(
            "There is a question to ask, and no terminal to ask it at.",
            remedy="Run it at a terminal, or with --batch and --answers FILE (and --approve DIGEST, or --yes).",
        )
    from prompt_toolkit.input import create_input  # noqa: PLC0415  # 0.1 s that a batch run does without
    from prompt_toolkit.input.typeahead import clear_typeahead  # noqa: PLC0415  # as above
    from prompt_toolkit.output import create_output  # noqa: PLC0415  # as above

    keyboard = create_input(sys.stdin)

    def discard_typed() -> None:
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        clear_typeahead(keyboard)

    return Terminal(input=keyboard, output=create_output(stdout=sys.stderr), discard_typed=discard_typed)


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


class Prompts:
    """Asks at a terminal. Ctrl-C and Ctrl-D raise `KeyboardInterrupt`."""

    def __init__(self, terminal: Callable[[], Terminal] = open_terminal) -> None:
        self._terminal = terminal

    def pick(self, message: str, choices: Sequence[Choice], *, preselected: str = "") -> str:
        """One of the choices."""
        import questionary  # noqa: PLC0415  # 0.1 s that a batch run does without

        listed = [questionary.Choice(title=display(item.title), value=str(item.value)) for item in choices]
        chosen = next((item for item in listed if item.value == preselected), listed[0])
        answer: str = self._ask(
            lambda ends: questionary.select(
                display(message), listed, default=chosen, instruction="(arrow keys, then Enter)", **ends
            )
        )
        return answer

    def pick_several(
        self, message: str, choices: Sequence[Choice], *, preselected: Collection[str], check: Callable[[Any], str]
    ) -> list[str]:
        """Any number of the choices that `check` has nothing against."""
        import questionary  # noqa: PLC0415  # as above

        listed = [
            questionary.Choice(title=display(item.title), value=str(item.value), checked=item.value in preselected)
            for item in choices
        ]
        answer: list[str] = self._ask(
            lambda ends: questionary.checkbox(
                display(message),
                listed,
                validate=lambda picked: check(picked) or True,
                instruction="(arrow keys; space picks or drops; Enter ends)",
                **ends,
            )
        )
        return answer

    def text(self, message: str, *, default: str = "", check: Callable[[str], str] = lambda _text: "") -> str:
        """One line that `check` has nothing against; newlines that were pasted become spaces."""
        import questionary  # noqa: PLC0415  # as above

        answer: str = self._ask(
            lambda ends: questionary.text(
                display(message), default=default, validate=lambda text: check(_one_line(text)) or True, **ends
            )
        )
        return _one_line(answer)

    def confirm(self, message: str) -> bool:
        """Yes or no; Enter alone is no, and a single key decides nothing."""
        import questionary  # noqa: PLC0415  # as above

        answer: bool = self._ask(
            lambda ends: questionary.confirm(display(message), default=False, auto_enter=False, **ends)
        )
        return answer

    def hidden(self, message: str) -> Secret:
        """A secret, not shown; the newline that ends a pasted value is no part of it."""
        import questionary  # noqa: PLC0415  # as above

        def check(text: str) -> bool | str:
            length = len(text.strip("\r\n"))
            return 0 < length <= SECRET_MAX or f"Type or paste a value of 1 to {SECRET_MAX} characters."

        return Secret(
            self._ask(lambda ends: questionary.password(display(message), validate=check, **ends)).strip("\r\n")
        )

    def _ask(self, make: Callable[[dict[str, Any]], Prompt]) -> Any:
        from questionary import Style  # noqa: PLC0415  # as above

        terminal = self._terminal()
        prompt = make({"input": terminal.input, "output": terminal.output, "qmark": "?", "style": Style(list(_STYLE))})
        terminal.discard_typed()
        try:
            return prompt.unsafe_ask()
        except EOFError:
            raise KeyboardInterrupt from None


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
