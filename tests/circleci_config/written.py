"""Writes made-up data as YAML in every way people do, and remembers on which lines each value stands.

Independent of the editor: it shares no code with it. Whatever it writes, PyYAML reads back as the data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]
WORDS = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@-]+)*")
NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
SPACES = (" ", "   ")
"""Before a comment right after a colon or a dash no parser takes a tab."""
COMMENTS = ("# plain", "#no space", "# tab\there", "# - looks: like an item", "# ключ ☃ \U0001f600", "# 'quotes\"", "#")

WRAPPED = {"two words", "wrapped over lines"}
"""Texts that may stand on several lines."""

# --- Data -----------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "run",
        "name",
        "command",
        "steps",
        "docker",
        "image",
        "environment",
        "AWS_REGION",
        "a b",
        "ключ",
        "x/y-z",
        "on",
        "7",
    ]
)
LINES = st.sampled_from(
    ["echo hi", "aws s3 ls", "  indented", "", "# shell comment", "a: b", "tab\tinside", "- dash", "☃"]
)
TEXTS = st.sampled_from(
    ["plain", "two words", "wrapped over lines",
     "yes", "~", "012345", "1:30", "# no", "a: b", "it's", 'say "hi"', "<< parameters.x >>", "é☃",
     "", "- x", "[a]", "{a}", "*x", "&x", "!x", "%x", "@x", "trailing ", " leading", "a #b", "http://x:1",
     "2021-01-01", "1e3"]
)  # fmt: skip
BLOCKS = st.builds(
    lambda first, lines, end: "\n".join([first, *lines, "last"]) + end,
    st.sampled_from(["set -e", "export A=1"]),
    st.lists(LINES, max_size=4),
    st.sampled_from(["", "\n", "\n\n"]),
)
SCALARS = st.one_of(TEXTS, BLOCKS, st.integers(0, 99), st.booleans(), st.none(), st.sampled_from([2.1, 0.5]))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A mapping whose parts repeat and extend each other, so that anchors and merges have something to do."""
    pool = draw(st.lists(TREES, min_size=1, max_size=4))
    bases = [value for value in pool if isinstance(value, dict)]
    result: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 5))):
        value = draw(st.sampled_from(pool))
        if bases and draw(st.booleans()):
            value = {**draw(st.sampled_from(bases)), **draw(st.dictionaries(KEYS, TREES, max_size=2))}
        if draw(st.booleans()):
            value = draw(st.sampled_from([[value, "checkout"], {"steps": value}, [[value], value]]))
        result[f"job{index}"] = value
    return result


# --- Text -----------------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """The text, and for each path of the data the lines (first, past the last) its entry or item takes."""

    text: str
    lines: dict[Path, tuple[int, int]]


@dataclass
class Writer:
    """One way of writing: what it chooses, it chooses by `random`."""

    random: Random
    step: int = 2
    indentless: bool = False
    out: list[str] = field(default_factory=list)
    lines: dict[Path, tuple[int, int]] = field(default_factory=dict)
    anchors: list[tuple[str, Any]] = field(default_factory=list)
    named: int = 0
    block_ends: int = -1

    def maybe(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def write(self, data: dict[str, Any]) -> Written:
        self.step = self.random.choice([2, 2, 2, 3, 4])
        self.indentless = self.maybe(3)
        if self.maybe(5):
            self.out += [*(["%YAML 1.1"] if self.maybe(3) else []), "# top", "---"]
        self.mapping(data, 0, ())
        if self.maybe(4):
            self.out += ["# the end"] if len(self.out) == self.block_ends else ["", "# the end"]
        newline = "\r\n" if self.maybe(4) else "\n"
        text = newline.join(self.out) + ("" if self.out[-1] and self.maybe(4) else newline)
        return Written(("\ufeff" if self.maybe(6) else "") + text, self.lines)

    def around(self, column: int) -> None:
        """Blank lines and comments before an entry."""
        if self.maybe(8) and len(self.out) != self.block_ends:
            self.out.append("")
        for _ in range(self.random.choice([0, 0, 0, 1, 2])):
            self.out.append(" " * column + self.random.choice(COMMENTS))

    def trailing(self, gaps: tuple[str, ...] = (" ", "  ", "\t")) -> str:
        return f"{self.random.choice(gaps)}{self.random.choice(COMMENTS)}" if self.maybe(4) else ""

    def mapping(self, data: dict[str, Any], column: int, path: Path, *, first: str = "") -> None:
        """`first` is what stands before the first key on its line: the dash of an item."""
        own = dict(data)
        merged = next((name for name, value in self.anchors if isinstance(value, dict) and value
                       and value.items() <= own.items()), None) if self.maybe(2) else None  # fmt: skip
        if merged is not None:
            base = dict(self.anchors)[merged]
            own = {key: value for key, value in own.items() if key not in base or self.maybe(6)}
            here = len(self.out)
            self.out.append(f"{first or ' ' * column}<<: *{merged}")
            self.lines |= {(*path, key): (here, here + 1) for key in base if key not in own}
            first = ""
        for key, value in own.items():
            if not first:
                self.around(column)
            start = len(self.out)
            self.entry(f"{first or ' ' * column}{self.key(key)}:", value, column, (*path, key))
            self.lines[*path, key] = (start, len(self.out))
            first = ""

    def key(self, key: str) -> str:
        return key if WORDS.fullmatch(key) and key not in NOT_TEXT else f'"{key}"' if self.maybe(2) else f"'{key}'"

    def sequence(self, data: list[Any], column: int, path: Path, *, first: str = "") -> None:
        for index, value in enumerate(data):
            if not first:
                self.around(column)
            start = len(self.out)
            lead = f"{first or ' ' * column}-"
            if isinstance(value, dict) and value and self.maybe(2):
                self.mapping(value, column + 2, (*path, index), first=f"{lead} ")
            elif isinstance(value, list) and value and self.maybe(3):
                self.sequence(value, column + 2, (*path, index), first=f"{lead} ")
            else:
                self.entry(lead, value, column, (*path, index), item=True)
            self.lines[*path, index] = (start, len(self.out))
            first = ""

    def entry(self, lead: str, value: Any, column: int, path: Path, *, item: bool = False) -> None:
        known = [name for name, anchored in self.anchors if type(anchored) is type(value) and anchored == value]
        if known and self.maybe(2):
            self.out.append(f"{lead} *{known[-1]}{self.trailing()}")
            return
        anchor = ""
        if value is not None and self.maybe(4):
            self.named += 1
            anchor = f" &a{self.named}"
        if isinstance(value, dict | list) and value and not self.maybe(4):
            self.out.append(f"{lead}{anchor}{self.trailing(SPACES)}")
            inner = column + (2 if item else self.step)
            if isinstance(value, dict):
                self.mapping(value, inner, path)
            else:
                self.sequence(value, column if self.indentless and not item else inner, path)
            if self.maybe(6) and len(self.out) != self.block_ends:
                self.out.append(" " * (inner + 2) + self.random.choice(COMMENTS))
        elif isinstance(value, str) and "\n" in value:
            self.block(f"{lead}{anchor}", value, column + self.step)
        elif isinstance(value, dict | list) and value and self.maybe(3):
            self.flow_on_lines(f"{lead}{anchor}", value, column + self.step + 1)
        elif value is None and self.maybe(2):
            self.out.append(f"{lead}{self.trailing(SPACES)}")
        elif isinstance(value, str) and value in WRAPPED and self.maybe(2):
            self.wrapped(f"{lead}{anchor}", value, column + self.step)
        else:
            self.out.append(f"{lead}{anchor} {self.flow(value)}{self.trailing()}")
        if anchor:
            self.anchors.append((anchor[2:], value))

    def block(self, lead: str, text: str, column: int) -> None:
        body = text.rstrip("\n")
        chomp = {0: "-", 1: ""}.get(len(text) - len(body), "+")
        indicator = str(self.step) if self.maybe(4) else ""
        self.out.append(f"{lead} |{indicator}{chomp}{self.trailing()}")
        self.out += [f"{' ' * column}{line}" if line or self.maybe(5) else "" for line in body.split("\n")]
        self.out += [""] * (len(text) - len(body) - 1)
        self.block_ends = len(self.out)

    def wrapped(self, lead: str, text: str, column: int) -> None:
        """A text over several lines that fold into one, on the next line, or with a tag."""
        blank = " " * column
        first, _, rest = text.partition(" ")
        self.out += self.random.choice(
            [
                [lead, f"{blank}{text}{self.trailing()}"],
                [f"{lead} !!str {text}{self.trailing()}"],
                [f"{lead} {first}", f"{blank}{rest}{self.trailing()}"],
                [f"{lead} '{first}", f"{blank}{rest}'{self.trailing()}"],
                [f'{lead} "{first} \\', f'{blank}{rest}"{self.trailing()}'],
                [f"{lead} >-{self.trailing()}", f"{blank}{first}", f"{blank}{rest}"],
            ]
        )
        # A comment below would be one more line of the last form.
        self.block_ends = len(self.out)

    def flow_on_lines(self, lead: str, value: dict[str, Any] | list[Any], column: int) -> None:
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        parts = [f"{self.key(key)}: {self.flow(item)}" for key, item in value.items()] if isinstance(value, dict) else [
            self.flow(item) for item in value]  # fmt: skip
        self.out.append(f"{lead} {opening}{self.trailing()}")
        for index, part in enumerate(parts):
            comma = "," if index < len(parts) - 1 or self.maybe(3) else ""
            self.out.append(f"{' ' * column}{part}{comma}{self.trailing()}")
        self.out.append(f"{' ' * column}{closing}{self.trailing()}")

    def flow(self, value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.key(key)}: {self.flow(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(self.flow(item) for item in value) + "]"
        if value is None:
            return "null"
        if isinstance(value, bool):
            return str(value).lower()
        return self.text(value) if isinstance(value, str) else repr(value)

    def text(self, value: str) -> str:
        if WORDS.fullmatch(value) and value.lower() not in NOT_TEXT and not self.maybe(3):
            return value
        if "\n" in value or "\t" in value or self.maybe(2):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'
        return "'" + value.replace("'", "''") + "'"
