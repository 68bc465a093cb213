"""A configuration parsed with the place of every node, within limits that hold for a stranger's file.

PyYAML's C parser gives events with marks that count characters; they are composed here, because its composer forgets
where an alias is written, and an alias bomb must be seen before anything is expanded. Nothing is built from a tag.

What a plain scalar means follows the parser CircleCI uses (YAML 1.1) where that loses nothing: `true`, `yes`, `on` and
their opposites are booleans, `~`, `null` and nothing are null, and a number written the usual way is a number. Every
other plain scalar stays the text it is, so an account id such as 012345670123 is never read as octal, nor `1:30` as
ninety. Keys are always text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml

from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE_MAX: Final = 1 << 20
"""Bytes."""
DEPTH_MAX: Final = 100
EVENTS_MAX: Final = 150_000
ALIASES_MAX: Final = 2_000
EXPANDED_MAX: Final = 200_000
"""Nodes once every alias and merge is written out: what an alias bomb multiplies."""
_DIGITS_MAX: Final = 18
_CORE: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset({f"{_CORE}{name}" for name in ("str", "seq", "map", "int", "float", "bool", "null")})
_AS_TEXT: Final = frozenset({f"{_CORE}str", "!"})
_BOOLEANS: Final = {
    spelling: value
    for value, words in ((True, ("true", "yes", "on")), (False, ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"-?[0-9]+\.[0-9]+")
_CONFLICT: Final = re.compile(r"^(?:<{7}|>{7}|\|{7})(?: |\r?$)", re.MULTILINE)
_ODD_BREAK: Final = re.compile("[\x85\u2028\u2029]|\r(?!\n)")

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root down to a value, as the data has them once aliases and merges are resolved."""


class ConfigError(GuardError):
    """The text is not a configuration that can be read within the limits; names the line and quotes nothing."""

    def __init__(self, reason: str, *, line: int | None = None) -> None:
        place = f"line {line}: " if line is not None else ""
        super().__init__(
            f"The configuration cannot be read: {place}{reason}. Nothing was changed.",
            remedy="Correct the file by hand (CircleCI would refuse it too, or read it another way), then try again.",
        )
        self.reason = reason
        self.line = line
        """Counted from 1; None when it is the whole file."""


# --- Nodes ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """A value where it is written; `start` is that of its anchor or tag, `body` what follows those, `end` past it.

    All three count characters in `Document.text`. The end of a block is the end of its last value: trailing comments
    and blank lines do not belong to it.
    """

    start: int
    body: int
    end: int
    anchor: str = ""
    size: int = 1
    """Nodes in it, once every alias and merge is written out."""
    height: int = 1


@dataclass(slots=True, eq=False, kw_only=True)
class Scalar(Node):
    """One text; `style` is one of `'`, `"`, `|`, `>`, or nothing for a plain one."""

    value: str
    style: str = ""
    verbatim: bool = False
    """Text whatever it looks like: it is quoted, a block, or tagged as text."""

    @property
    def data(self) -> Any:
        """What it means; see the module."""
        return self.value if self.verbatim else resolved(self.value)


@dataclass(slots=True, eq=False, kw_only=True)
class Alias(Node):
    """A use of an anchor."""

    target: Sequence | Mapping | Scalar


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence(Node):
    """A list, in flow (`[a, b]`) or block style."""

    flow: bool
    items: list[Value] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Entry:
    """A key and its value; `index` is its place among the entries of the mapping that holds it."""

    key: Scalar
    value: Value
    index: int


@dataclass(slots=True, eq=False, kw_only=True)
class Mapping(Node):
    """Keys with values, in flow (`{a: b}`) or block style; `merges` are those under `<<`, the first one winning."""

    flow: bool
    entries: list[Entry] = field(default_factory=list)
    own: dict[str, Entry] = field(default_factory=dict)
    merges: list[Mapping] = field(default_factory=list)

    def find(self, key: str) -> tuple[Mapping, Entry] | None:
        """The entry that gives the key its value, with the mapping that holds it: its own first, then the merged."""
        if key in self.own:
            return self, self.own[key]
        for merged in self.merges:
            if (found := merged.find(key)) is not None:
                return found
        return None

    def names(self) -> Iterator[str]:
        """Every key once, its own before the merged."""
        if not self.merges:
            yield from self.own
            return
        yield from dict.fromkeys((*self.own, *(key for merged in self.merges for key in merged.names())))


Value: TypeAlias = Scalar | Sequence | Mapping | Alias
Solid: TypeAlias = Scalar | Sequence | Mapping


def target(value: Value) -> Solid:
    """The node itself, or the one the alias stands for."""
    return value.target if isinstance(value, Alias) else value


def resolved(text: str) -> Any:
    """What a plain scalar means; see the module."""
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _NULLS:
        return None
    if len(text) <= _DIGITS_MAX:
        if _INTEGER.fullmatch(text) and text != "-0":
            return int(text)
        if _FLOAT.fullmatch(text) and repr(float(text)) == text:
            return float(text)
    return text


def as_data(value: Value | None) -> Any:
    """Plain data of a node, nothing in it shared; its size is within the limits, for the parser kept them."""
    if value is None:
        return None
    node = target(value)
    if isinstance(node, Scalar):
        return node.data
    if isinstance(node, Sequence):
        return [as_data(item) for item in node.items]
    if not node.merges:
        return {key: as_data(entry.value) for key, entry in node.own.items()}
    found = {key: node.find(key) for key in node.names()}
    return {key: as_data(where[1].value) for key, where in found.items() if where is not None}


# --- The document ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place that holds a value: where a path ends. The mapping is the one that holds the entry, merged or not."""

    holder: Mapping | Sequence | None
    """None for the root."""
    index: int
    """Among the holder's entries or items."""
    value: Value


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A place that several paths lead to, because it is anchored."""

    anchor: str
    line: int
    """Where the anchor is, counted from 1."""
    users: frozenset[KeyPath]
    """Every path that leads to this very place, the anchor's own included."""
    merged_into: frozenset[KeyPath] = frozenset()
    """The mappings that take its keys by `<<`, when it is a mapping."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """A parsed configuration; `text` is without byte order mark, and ends with a line break whether the file does."""

    text: str
    bom: bool
    newline: str
    final_newline: bool
    root: Solid | None
    aliases: tuple[Alias, ...]

    @cached_property
    def data(self) -> Any:
        """Plain data with aliases and merges resolved; nothing in it is shared. Treat it as read-only."""
        return as_data(self.root)

    def slot(self, path: KeyPath) -> Slot:
        """The place a path leads to; raises `KeyError` with the path when there is none."""
        if self.root is None:
            raise KeyError(path)
        slot = Slot(holder=None, index=0, value=self.root)
        for step in path:
            node = target(slot.value)
            if isinstance(node, Mapping) and isinstance(step, str) and (found := node.find(step)) is not None:
                holder, entry = found
                slot = Slot(holder=holder, index=entry.index, value=entry.value)
            elif isinstance(node, Sequence) and isinstance(step, int) and 0 <= step < len(node.items):
                slot = Slot(holder=node, index=step, value=node.items[step])
            else:
                raise KeyError(path)
        return slot

    def node(self, path: KeyPath) -> Solid:
        """The node a path leads to, behind any alias; raises `KeyError` with the path when there is none."""
        return target(self.slot(path).value)

    def __contains__(self, path: KeyPath) -> bool:
        try:
            self.slot(path)
        except KeyError:
            return False
        return True

    def line(self, path: KeyPath) -> int:
        """The line, counted from 1, where the value of a path is written: an alias counts, not what it stands for."""
        slot = self.slot(path)
        if isinstance(slot.holder, Mapping):
            return self.line_at(slot.holder.entries[slot.index].key.start)
        return self.line_at(slot.value.start)

    def line_at(self, position: int) -> int:
        """The line, counted from 1, of a character."""
        return bisect_right(self._line_starts, position)

    def shared(self, path: KeyPath) -> Shared | None:
        """The anchor and every user, when an edit in the node of this path would show elsewhere too."""
        node = self.node(path)
        users = frozenset(self.paths_of(node))
        merged_into = frozenset(place for user in self._merging(node) for place in self.paths_of(user))
        if users == {path} and not merged_into:
            return None
        anchored = node if node.anchor else self._anchored_on_the_way(path)
        return Shared(
            anchor=anchored.anchor, line=self.line_at(anchored.start), users=users, merged_into=merged_into - users
        )

    def paths_of(self, node: Solid) -> set[KeyPath]:
        """Every path that leads to a node, through whatever alias or merge."""
        if node is self.root:
            return {()}
        paths: set[KeyPath] = set()
        for holder, index in self._holders.get(id(node), ()):
            paths |= self.paths_to(holder, index)
        return paths

    def paths_to(self, holder: Mapping | Sequence, index: int) -> set[KeyPath]:
        """Every path that leads to one place of a mapping or list."""
        if isinstance(holder, Sequence):
            return {(*path, index) for path in self.paths_of(holder)}
        entry = holder.entries[index]
        key = entry.key.value
        paths: set[KeyPath] = set()
        for mapping in (holder, *self._merging(holder)):
            found = mapping.find(key)
            if found is not None and found[1] is entry:
                paths |= {(*path, key) for path in self.paths_of(mapping)}
        return paths

    def paths_gaining(self, mapping: Mapping, key: str) -> set[KeyPath]:
        """The paths of the mappings that will have a new key once `mapping` has it."""
        paths = self.paths_of(mapping)
        for user in self._merging(mapping):
            if user.find(key) is None:
                paths |= self.paths_of(user)
        return paths

    def _merging(self, node: Solid) -> list[Mapping]:
        """The mappings that merge this one, directly or through others."""
        found: dict[int, Mapping] = {}
        waiting = [node]
        while waiting:
            for user in self._merged_into.get(id(waiting.pop()), ()):
                if id(user) not in found:
                    found[id(user)] = user
                    waiting.append(user)
        return list(found.values())

    def _anchored_on_the_way(self, path: KeyPath) -> Solid:
        """The innermost anchored node that a path leads through, merged mappings included; else the node itself."""
        anchored = node = self.node(())
        for length in range(1, len(path) + 1):
            slot = self.slot(path[:length])
            for passed in (slot.holder, target(slot.value)):
                anchored = passed if passed is not None and passed.anchor else anchored
            node = target(slot.value)
        return anchored if anchored.anchor else node

    def home(self, node: Solid) -> tuple[Mapping | Sequence, int] | None:
        """Where a node itself is written, not an alias of it; None for the root."""
        return self._homes.get(id(node))

    @cached_property
    def _homes(self) -> dict[int, tuple[Mapping | Sequence, int]]:
        return {
            id(value): (node, index)
            for node in self.nodes()
            if isinstance(node, Mapping | Sequence)
            for index, value in enumerate(_values(node))
            if not isinstance(value, Alias)
        }

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(found.end() for found in re.finditer("\n", self.text))]

    @cached_property
    def _holders(self) -> dict[int, list[tuple[Mapping | Sequence, int]]]:
        """By the identity of a node, the places that hold it or an alias of it; what only a merge holds is in none."""
        holders: dict[int, list[tuple[Mapping | Sequence, int]]] = {}
        for node in self.nodes():
            values = _values(node)
            for index, value in enumerate(values):
                if isinstance(node, Mapping | Sequence) and not _is_merge(node, index):
                    holders.setdefault(id(target(value)), []).append((node, index))
        return holders

    @cached_property
    def _merged_into(self) -> dict[int, list[Mapping]]:
        users: dict[int, list[Mapping]] = {}
        for node in self.nodes():
            for merged in node.merges if isinstance(node, Mapping) else ():
                users.setdefault(id(merged), []).append(node)  # type: ignore[arg-type]  # only a mapping merges
        return users

    def nodes(self) -> Iterator[Solid]:
        """Every node once, in the order of the text."""
        waiting: list[Value] = [self.root] if self.root is not None else []
        while waiting:
            node = waiting.pop()
            if not isinstance(node, Alias):
                yield node
                waiting += reversed(_values(node))


def _values(node: Solid) -> list[Value]:
    if isinstance(node, Mapping):
        return [entry.value for entry in node.entries]
    return node.items if isinstance(node, Sequence) else []


def _is_merge(node: Solid, index: int) -> bool:
    return isinstance(node, Mapping) and is_merge_key(node.entries[index].key)


def is_merge_key(key: Scalar) -> bool:
    """Whether it is `<<`, which takes the keys of other mappings."""
    return key.value == "<<" and not key.verbatim


# --- Parsing --------------------------------------------------------------------------------------------------------


def parse(source: str | bytes) -> Document:
    """Read one configuration; raises `ConfigError` for what is no YAML, beyond the limits, or read in several ways.

    Refused: over 1 MiB, invalid UTF-8, merge-conflict markers, line breaks other than LF and CRLF, several documents,
    duplicate keys, keys that are not scalars, tags beyond YAML's own, aliases that multiply, and deep nesting.
    """
    return _parsed(_decoded(source))


@lru_cache(maxsize=4)
def _parsed(text: str) -> Document:
    """Kept for a few texts: a rewrite is read by its editor, by who asked for it, and by who checks it."""
    bom = text.startswith("\ufeff")
    text = text[1:] if bom else text
    if (found := _CONFLICT.search(text)) is not None:
        raise ConfigError("a merge conflict is not resolved", line=_line(text, found.start()))
    if (found := _ODD_BREAK.search(text)) is not None:
        raise ConfigError("a line break that is neither LF nor CRLF", line=_line(text, found.start()))
    newline = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
    final_newline = text.endswith("\n") or not text
    text = text if final_newline else text + newline
    composer = _Composer(text)
    root = composer.compose()
    return Document(
        text=text,
        bom=bom,
        newline=newline,
        final_newline=final_newline,
        root=root,
        aliases=tuple(composer.aliases),
    )


def _decoded(source: str | bytes) -> str:
    try:
        raw = source.encode("utf-8") if isinstance(source, str) else source
        if len(raw) > SIZE_MAX:
            raise ConfigError(f"it is longer than {SIZE_MAX >> 20} MiB")
        return source if isinstance(source, str) else raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("it is not UTF-8", line=bytes(error.object[: error.start]).count(b"\n") + 1) from None
    except UnicodeEncodeError:
        raise ConfigError("it is not text that UTF-8 can hold") from None


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


class _Composer:
    """Builds the nodes from events, and stops at the first limit."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.aliases: list[Alias] = []
        self._anchors: dict[str, Solid] = {}
        self._open: list[tuple[Mapping | Sequence, list[Value]]] = []
        self._root: Solid | None = None
        self._documents = 0

    def compose(self) -> Solid | None:
        try:
            for number, event in enumerate(yaml.parse(self.text, Loader=yaml.CSafeLoader)):
                if number > EVENTS_MAX:
                    raise ConfigError(f"it has more than {EVENTS_MAX} nodes", line=_at(event))
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise ConfigError(
                f"it is not YAML ({error.problem or error.context})", line=mark.line + 1 if mark is not None else None
            ) from None
        except yaml.YAMLError:
            raise ConfigError("it holds a character that YAML does not allow", line=self._first_bad()) from None
        return self._root

    def _take(self, event: yaml.Event) -> None:
        # The most frequent first.
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise ConfigError("a second document begins", line=_at(event))

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        start, body, end, anchor = self._span(event)
        kind = Mapping if isinstance(event, yaml.MappingStartEvent) else Sequence
        node = kind(start=start, body=body, end=end, anchor=anchor, flow=bool(event.flow_style))
        self._open.append((node, []))
        if len(self._open) > DEPTH_MAX:
            raise ConfigError(f"it is nested deeper than {DEPTH_MAX} levels", line=_at(event))
        if node.anchor:
            # Until it is closed, an alias of it would be inside itself.
            self._anchors.pop(node.anchor, None)

    def _end(self, event: yaml.Event) -> None:
        node, values = self._open.pop()
        node.end = _end(event) if node.flow else max((value.end for value in values), default=node.end)
        if isinstance(node, Sequence):
            node.items = values
        else:
            self._fill(node, values)
        solid = [value.target if isinstance(value, Alias) else value for value in values]
        node.size += sum(each.size for each in solid)
        node.height = max((each.height for each in solid), default=0) + 1
        if node.size > EXPANDED_MAX or node.height > DEPTH_MAX:
            raise ConfigError("its aliases multiply beyond what a configuration needs", line=self._at(node))
        self._add(node, event)

    def _fill(self, node: Mapping, values: list[Value]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, Scalar):
                raise ConfigError("a key is not plain text", line=self._at(key))
            node.entries.append(Entry(key, value, len(node.entries)))
            if is_merge_key(key):
                node.merges += self._merged(value)
            elif key.value in node.own:
                raise ConfigError("a key is there twice", line=self._at(key))
            else:
                node.own[key.value] = node.entries[-1]

    def _merged(self, value: Value) -> list[Mapping]:
        node = target(value)
        sources = [target(item) for item in node.items] if isinstance(node, Sequence) else [node]
        merged = [source for source in sources if isinstance(source, Mapping)]
        if len(merged) != len(sources):
            raise ConfigError("what `<<` names is not a mapping", line=self._at(value))
        return merged

    def _alias(self, event: yaml.AliasEvent) -> None:
        found = self._anchors.get(event.anchor or "")
        if found is None:
            raise ConfigError("an alias has no anchor above it", line=_at(event))
        start = _start(event)
        alias = Alias(start=start, body=start, end=_end(event), target=found)
        self.aliases.append(alias)
        if len(self.aliases) > ALIASES_MAX:
            raise ConfigError(f"it has more than {ALIASES_MAX} aliases", line=_at(event))
        self._add(alias, event)

    def _add(self, value: Value, event: yaml.Event) -> None:
        if value.anchor and not isinstance(value, Alias):
            self._anchors[value.anchor] = value
        if self._open:
            self._open[-1][1].append(value)
        elif isinstance(value, Alias):
            raise ConfigError("an alias has no anchor above it", line=_at(event))
        else:
            self._root = value

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        style = event.style or ""
        start, body, end, anchor = self._span(event)
        scalar = Scalar(
            start=start,
            body=body,
            end=end,
            anchor=anchor,
            value=event.value,
            style=style,
            verbatim=bool(style) or event.tag in _AS_TEXT,
        )
        if style in {"|", ">"}:
            scalar.end = self._end_of_block(scalar)
        return scalar

    def _end_of_block(self, scalar: Scalar) -> int:
        """Past its last line; blank lines after it belong to it only when the header says to keep them."""
        text = self.text
        header_end = text.index("\n", scalar.body)
        if "+" in text[scalar.body : header_end].split("#")[0]:
            end = text.rfind("\n", 0, scalar.end)
        elif scalar.style == "|":
            end = header_end
            for _ in range(scalar.value.rstrip("\n").count("\n") + 1 if scalar.value.strip("\n") else 0):
                end = text.index("\n", end + 1)
        else:
            end = text.find("\n", scalar.body + len(text[scalar.body : scalar.end].rstrip(" \r\n")))
        end = max(end, header_end)
        return end - 1 if text[end - 1] == "\r" else end

    def _span(
        self, event: yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent
    ) -> tuple[int, int, int, str]:
        """Where a node starts, where what its anchor and tag are of starts, where it ends, and the anchor."""
        start, end, tag = _start(event), _end(event), event.tag
        if event.anchor is None and tag is None:
            return start, start, end, ""
        if tag is not None and tag != "!" and tag not in _TAGS:
            raise ConfigError("a tag that is not YAML's own", line=_at(event))
        body = self._past_properties(start, end if isinstance(event, yaml.ScalarEvent) else len(self.text))
        return start, body, max(body, end), event.anchor or ""

    def _past_properties(self, position: int, limit: int) -> int:
        while position < limit and self.text[position] in "&!":
            position = min(_PROPERTY.match(self.text, position).end(), limit)  # type: ignore[union-attr]  # one stands here
            past = skip_blank(self.text, position)
            position = past if past < limit else position
        return position

    def _first_bad(self) -> int | None:
        found = re.search("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff", self.text)
        return _line(self.text, found.start()) if found is not None else None

    def _at(self, node: Node) -> int:
        return _line(self.text, node.start)


_PROPERTY: Final = re.compile(r"[&!][^\s,\[\]{}]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|(?<=[ \t\r\n])#[^\n]*)*")


def skip_blank(text: str, position: int) -> int:
    """The position past white space, line breaks and comments."""
    found = _BLANK.match(text, position)
    return found.end() if found is not None else position


def _start(event: yaml.Event) -> int:
    return int(event.start_mark.index)  # type: ignore[union-attr]  # the parser marks every event


def _end(event: yaml.Event) -> int:
    return int(event.end_mark.index)  # type: ignore[union-attr]  # as above


def _at(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1  # type: ignore[union-attr]  # as above
