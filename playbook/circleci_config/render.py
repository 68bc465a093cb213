"""Plain data as YAML in the style of one file: its indentation, its lists, its quotes, its line breaks.

A text is plain where every YAML parser reads it back as that text, and quoted otherwise; a text of several lines is a
literal block, or double-quoted inside `[...]` and `{...}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from playbook.circleci_config.document import Mapping, Scalar, Sequence, resolved

if TYPE_CHECKING:
    from playbook.circleci_config.document import Document, Value

_INDICATORS: Final = frozenset(",[]{}#&*!|>'\"%@`")
_NEED_FOLLOWER: Final = frozenset("-?:")
_ALSO_BOOLEAN: Final = frozenset({"y", "Y", "n", "N"})
_ALSO_NUMBER: Final = re.compile(r"[-+]?(?:0[ox]?[0-9a-fA-F_]+|[0-9][0-9_.:]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+)")
_RESOLVERS: Final = yaml.SafeLoader.yaml_implicit_resolvers
_STEP: Final = 2
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LATIN_MAX: Final = 0xFF
_PLANE_MAX: Final = 0xFFFF


@dataclass(frozen=True)
class Flow:
    """A mapping or list to be written as `{...}` or `[...]` even where a block is possible."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one file is written; what it leaves open is two spaces, indented lists, double quotes."""

    step: int = _STEP
    """Columns from a mapping to the one inside it."""
    indentless: bool = False
    """Whether the dashes of a list stand under the first letter of its key."""
    quote: str = '"'


@dataclass(frozen=True)
class Block:
    """A value in lines: the first goes where the value stands, after a space unless it is empty; the others below."""

    first: str
    rest: tuple[str, ...] = ()


class Habits:
    """How a file is written, near one place of it: what stands nearest speaks before what stands far."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._known: dict[int, tuple[Counter[int], Counter[bool]]] = {}
        quotes = Counter(node.style for node in document.nodes() if isinstance(node, Scalar))
        self._quote = "'" if quotes["'"] > quotes['"'] else '"'

    def near(self, node: Mapping | Sequence, old: Value | None = None) -> Style:
        """The style for something new in a mapping or list; `old` is the value it takes the place of."""
        steps, dashes = self._of_list(old)
        place: Mapping | Sequence | None = node
        while place is not None and not (steps and dashes):
            more_steps, more_dashes = self._of(place)
            steps, dashes = steps or more_steps, dashes or more_dashes
            home = self._document.home(place)
            place = home[0] if home is not None else None
        return Style(
            step=steps.most_common(1)[0][0] if steps else _STEP,
            indentless=dashes[True] > dashes[False],
            quote=self._quote,
        )

    def _of_list(self, old: Value | None) -> tuple[Counter[int], Counter[bool]]:
        """Where the dashes of a list that is replaced stand."""
        home = self._document.home(old) if isinstance(old, Sequence) and not old.flow else None
        if home is None or not isinstance(home[0], Mapping) or old is None:
            return Counter(), Counter()
        offset = self._column(old.body) - self._column(home[0].entries[home[1]].key.start)
        return Counter(), Counter([offset == 0])

    def _of(self, node: Mapping | Sequence) -> tuple[Counter[int], Counter[bool]]:
        """The habits of everything in one mapping or list; each is counted once for all who ask."""
        if id(node) not in self._known:
            steps: Counter[int] = Counter()
            dashes: Counter[bool] = Counter()
            for entry in node.entries if isinstance(node, Mapping) and not node.flow else ():
                inner = entry.value
                if isinstance(inner, Mapping | Sequence) and not inner.flow:
                    offset = self._column(inner.body) - self._column(entry.key.start)
                    if isinstance(inner, Sequence):
                        dashes[offset == 0] += 1
                    elif offset > 0:
                        steps[offset] += 1
            for value in (entry.value for entry in node.entries) if isinstance(node, Mapping) else node.items:
                if isinstance(value, Mapping | Sequence):
                    inside = self._of(value)
                    steps += inside[0]
                    dashes += inside[1]
            self._known[id(node)] = steps, dashes
        return self._known[id(node)]

    def _column(self, position: int) -> int:
        return column(self._document.text, position)


def column(text: str, position: int) -> int:
    """How many characters stand before a position on its line."""
    return position - (text.rfind("\n", 0, position) + 1)


def plain(value: Any) -> Any:
    """The data of a value to be written: `Flow` unwrapped, tuples as lists, keys as text."""
    if isinstance(value, Flow):
        return plain(value.value)
    if isinstance(value, MappingABC):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# --- Blocks ---------------------------------------------------------------------------------------------------------


def under_key(value: Any, at: int, style: Style) -> Block:
    """A value after `key:`, where the key stands in column `at`."""
    if isinstance(value, MappingABC) and value:
        return Block("", tuple(_mapping(value, at + style.step, style)))
    if isinstance(value, list | tuple) and value:
        return Block("", tuple(_sequence(value, at if style.indentless else at + style.step, style)))
    if isinstance(value, str) and _is_literal(value):
        return _literal(value, at + style.step)
    return Block("" if value is None else flow(value, style, inside=False))


def under_dash(value: Any, at: int, style: Style) -> Block:
    """A value after `- `, which itself begins in column `at`."""
    if isinstance(value, MappingABC) and value:
        first, *rest = _mapping(value, at, style)
        return Block(first[at:], tuple(rest))
    if isinstance(value, list | tuple) and value:
        first, *rest = _sequence(value, at, style)
        return Block(first[at:], tuple(rest))
    if isinstance(value, str) and _is_literal(value):
        return _literal(value, at)
    return Block(flow(value, style, inside=False))


def key_lines(key: str, value: Any, at: int, style: Style) -> list[str]:
    """The lines of one entry of a block mapping in column `at`, without line breaks."""
    block = under_key(value, at, style)
    gap = " " if block.first else ""
    return [f"{' ' * at}{scalar(key, style, inside=False)}:{gap}{block.first}", *block.rest]


def item_lines(value: Any, at: int, style: Style, *, gap: int = 1) -> list[str]:
    """The lines of one item of a block list whose dashes stand in column `at`."""
    block = under_dash(value, at + 1 + gap, style)
    return [f"{' ' * at}-{' ' * gap}{block.first}", *block.rest]


def _mapping(value: MappingABC[Any, Any], at: int, style: Style) -> list[str]:
    return [line for key, item in value.items() for line in key_lines(str(key), item, at, style)]


def _sequence(value: list[Any] | tuple[Any, ...], at: int, style: Style) -> list[str]:
    return [line for item in value for line in item_lines(item, at, style)]


def _is_literal(text: str) -> bool:
    """Whether a literal block can hold it: several lines, all printable, and no blank one that a next could join."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and not text.endswith("\n\n")
        and any(lines)
        and all(line.replace("\t", " ").isprintable() for line in lines)
    )


def _literal(text: str, at: int) -> Block:
    body = text.rstrip("\n")
    lines = body.split("\n")
    if next(line for line in lines if line)[0] in " \t":
        # A block that begins with white space must state its indentation; quotes cannot be miscounted.
        return Block(quoted(text, '"'))
    chomp = "-" if body == text else ""
    return Block(f"|{chomp}", tuple(f"{' ' * at}{line}" if line else "" for line in lines))


# --- One line -------------------------------------------------------------------------------------------------------


def flow(value: Any, style: Style, *, inside: bool = True) -> str:
    """A value on one line; `inside` says that it stands in `[...]` or `{...}` already."""
    if isinstance(value, Flow):
        return flow(value.value, style, inside=inside)
    if isinstance(value, MappingABC):
        pairs = (f"{scalar(str(key), style)}: {flow(item, style)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item, style) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    return scalar(str(value), style, inside=inside)


def scalar(text: str, style: Style, *, inside: bool = True) -> str:
    """A text on one line: plain where that is safe, else in the file's quotes."""
    if _is_plain(text, inside=inside):
        return text
    return quoted(text, style.quote)


def quoted(text: str, quote: str) -> str:
    """A text in quotes; double ones when single ones cannot hold it."""
    if quote == "'" and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(_ESCAPES.get(letter) or _escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    code = ord(letter)
    if code <= _LATIN_MAX:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _PLANE_MAX else f"\\U{code:08x}"


def _is_plain(text: str, *, inside: bool) -> bool:
    if not text or not text.isprintable() or text != text.strip() or text[0] in _INDICATORS:
        return False
    if text[0] in _NEED_FOLLOWER and (len(text) == 1 or text[1] in " ,[]{}"):
        return False
    if ": " in text or " #" in text or text.endswith(":") or text.startswith(("---", "...")):
        return False
    if inside and any(letter in ",[]{}:?" for letter in text):
        return False
    return _is_text_everywhere(text)


def _is_text_everywhere(text: str) -> bool:
    """Whether YAML 1.1 and 1.2 both read a plain scalar as text."""
    if not isinstance(resolved(text), str) or text in _ALSO_BOOLEAN or _ALSO_NUMBER.fullmatch(text):
        return False
    candidates = (*_RESOLVERS.get(text[0], ()), *_RESOLVERS.get(None, ()))
    return not any(pattern.match(text) for _, pattern in candidates)
