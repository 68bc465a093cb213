"""Edits of a configuration by position: only the spans that change are written, the rest stays to the byte.

    document = parse(text)
    edits = [InsertItem(("jobs", "deploy", "steps"), 1, {"aws-cli/setup": {"role_arn": arn}})]
    new_text = apply(document, edits)          # raises EditRefused, and then nothing was produced

All paths name the document as it was parsed, whatever else the same call changes. Afterwards the result is parsed
again: its data must be the data before with the edits made to it, and everything outside the spans is the same text;
otherwise the edit is refused. A file's byte order mark, line breaks and missing final newline stay.

**Shared places.** A path through an alias or a merge leads to text that other paths show too. Such an edit must carry
`users`, the set of every path (of the same form as its own) that will change; `users_of` tells what that set is. When
it is not that set, the edit is refused and the anchor's line is named. The exception is an alias itself: `a: *x` may
be replaced or removed as it stands, and only `a` changes.

**Comments.** A comment on the line of a removed key or item goes with it, and so do those right below that stand
deeper than it. Comments above stay, unless `with_comment` says that those directly above, in the same column, belong
to it. An inserted item goes above the comments that stand directly above the item it comes before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from playbook.circleci_config import render
from playbook.circleci_config.document import (
    Alias,
    ConfigError,
    Document,
    Entry,
    KeyPath,
    Mapping,
    Scalar,
    Sequence,
    Shared,
    Slot,
    Value,
    parse,
    skip_blank,
    target,
)
from playbook.circleci_config.render import Block, Flow, Style
from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as SequenceABC

__all__ = [
    "Alias",
    "ConfigError",
    "Document",
    "Edit",
    "EditRefused",
    "Flow",
    "InsertItem",
    "InsertKey",
    "KeyPath",
    "Mapping",
    "RemoveItem",
    "RemoveKey",
    "RemoveLines",
    "RenameKey",
    "Replace",
    "ReplaceLines",
    "ReplaceText",
    "Scalar",
    "Sequence",
    "Shared",
    "apply",
    "parse",
    "users_of",
]


class EditRefused(GuardError):  # noqa: N818  # the verdict, not a fault
    """The edit cannot be made without touching something else; `reason` says why, `line` where (counted from 1)."""

    def __init__(self, reason: str, *, line: int | None = None, path: KeyPath = ()) -> None:
        place = f"line {line}: " if line is not None else ""
        super().__init__(
            f"The configuration was not rewritten: {place}{reason}.",
            remedy="Nothing was changed. Make this change by hand, then run it again for the rest.",
        )
        self.reason = reason
        self.line = line
        self.path = path


# --- What can be asked for ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replace:
    """Put another value in the place of one: a scalar, or a whole mapping or list (its comments go with it)."""

    path: KeyPath
    value: Any
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class InsertItem:
    """Put a new item before the one at `index` of a list; the list's length appends. A null becomes a list."""

    path: KeyPath
    index: int
    value: Any
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class InsertKey:
    """Put a new key into a mapping, after another key of its own or last. A null becomes a mapping."""

    path: KeyPath
    key: str
    value: Any
    after: str | None = None
    users: frozenset[KeyPath] = frozenset()
    """Paths of mappings, as `path` is."""


@dataclass(frozen=True)
class RenameKey:
    """Give the key at the end of a path another name; its value stays as it is."""

    path: KeyPath
    key: str
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class RemoveKey:
    """Remove a key with its value. The last one leaves `{}`, or with `prune` takes what held it along."""

    path: KeyPath
    prune: bool = False
    with_comment: bool = False
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class RemoveItem:
    """Remove an item of a list. The last one leaves `[]`, or with `prune` takes what held it along."""

    path: KeyPath
    prune: bool = False
    with_comment: bool = False
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class ReplaceText:
    """Replace every occurrence of `old` in one text."""

    path: KeyPath
    old: str
    new: str
    users: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True)
class ReplaceLines:
    """Replace `count` lines of one text from line `first` (counted from 0) by others; a count of 0 inserts."""

    path: KeyPath
    first: int
    count: int
    lines: tuple[str, ...]
    users: frozenset[KeyPath] = frozenset()


def RemoveLines(  # noqa: N802  # it stands among the edits, and is one
    path: KeyPath, first: int, count: int = 1, users: frozenset[KeyPath] = frozenset()
) -> ReplaceLines:
    """Remove `count` lines of one text from line `first` (counted from 0)."""
    return ReplaceLines(path, first, count, (), users)


_Removal: TypeAlias = RemoveKey | RemoveItem
_TextEdit: TypeAlias = ReplaceText | ReplaceLines
Edit: TypeAlias = Replace | InsertItem | InsertKey | RenameKey | RemoveKey | RemoveItem | ReplaceText | ReplaceLines


def users_of(document: Document, edit: Edit) -> frozenset[KeyPath]:
    """Every path that changes with an edit, of the same form as the edit's own; raises `EditRefused`.

    A set of more than one is what the edit's `users` must be, once the caller has found that each of them wants it.
    """
    slot = _slot(document, edit.path)
    node = target(slot.value)
    match edit:
        case InsertItem():
            return frozenset(document.paths_of(node))
        case InsertKey():
            if not isinstance(node, Mapping):
                return frozenset(document.paths_of(node))
            return frozenset(document.paths_gaining(node, edit.key))
        case RemoveKey() | RemoveItem() | RenameKey():
            return _users_of_slot(document, slot)
        case Replace() if isinstance(slot.value, Alias) and not edit.users:
            return _users_of_slot(document, slot)
        case _:
            return frozenset(document.paths_of(node))


def _users_of_slot(document: Document, slot: Slot) -> frozenset[KeyPath]:
    if slot.holder is None:
        raise EditRefused("the whole document cannot be removed")
    return frozenset(document.paths_to(slot.holder, slot.index))


def apply(document: Document, edits: Iterable[Edit]) -> str:
    """The text with the edits made, byte order mark included; raises `EditRefused` when one of them cannot be.

    No edit gives the same text back. See the module for what is guaranteed.
    """
    wanted = _settled(document, list(edits))
    changes = _Changes(document.data)
    splices: list[_Splice] = []
    editor = _Editor(document)
    for order, edit in enumerate(wanted):
        users = _checked_users(document, edit)
        for path in users:
            changes.note(edit, path)
        splices += [
            _Splice(start, end, text, len(edit.path), order, edit.path)
            for start, end, text in editor.splices(edit, wanted)
        ]
    expected = changes.made()
    text = _spliced(document, splices)
    try:
        result = parse(text)
    except ConfigError as error:
        raise _refused_after(document, wanted, f"the result could not be read ({error.reason})") from None
    if not same(result.data, expected):
        raise _refused_after(document, wanted, "the result would not say what was asked for")
    return text


def same(one: Any, other: Any) -> bool:
    """Whether two plain data are equal, kinds included: 1, 1.0 and true are three things."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _refused_after(document: Document, edits: SequenceABC[Edit], reason: str) -> EditRefused:
    path = edits[0].path if edits else ()
    line = document.line(path) if path in document else None
    return EditRefused(f"{reason}; the first edit is at {_name(path)}", line=line, path=path)


def _name(path: KeyPath) -> str:
    return ".".join(map(str, path)) or "the top"


def _slot(document: Document, path: KeyPath) -> Slot:
    try:
        return document.slot(path)
    except KeyError:
        raise EditRefused(f"there is no {_name(path)}", path=path) from None


def _checked_users(document: Document, edit: Edit) -> frozenset[KeyPath]:
    users = users_of(document, edit)
    if users != (edit.users or frozenset({edit.path})):
        shared = document.shared(edit.path)
        others = sorted(map(_name, users - (edit.users | {edit.path}))) or sorted(map(_name, edit.users - users))
        anchor = f"the anchor &{shared.anchor} of line {shared.line}" if shared and shared.anchor else "an anchor"
        raise EditRefused(
            f"{_name(edit.path)} is written once for several places ({anchor}), and not all want this change: "
            f"{', '.join(others[:5])}",
            line=document.line(edit.path) if edit.path else None,
            path=edit.path,
        )
    return users


# --- Edits that hang together ---------------------------------------------------------------------------------------


def _settled(document: Document, edits: list[Edit]) -> list[Edit]:
    """The edits with those that empty a mapping or list turned into one edit of what holds it."""
    edits = _once(document, edits)
    while True:
        emptied = _first_emptied(document, edits)
        if emptied is None:
            return edits
        removals, path, empty = emptied
        users = frozenset(user[:-1] for removal in removals[:1] for user in removal.users)
        place = next(index for index, edit in enumerate(edits) if edit is removals[0])
        rest = [edit for edit in edits if not any(edit is removal for removal in removals)]
        instead: Edit = Replace(path, empty, users)
        if path and all(removal.prune for removal in removals):
            removal = RemoveItem if isinstance(path[-1], int) else RemoveKey
            instead = removal(path, prune=True, with_comment=any(each.with_comment for each in removals), users=users)
        edits = [*rest[:place], instead, *rest[place:]]


def _once(document: Document, edits: list[Edit]) -> list[Edit]:
    """The edits without those that repeat another one at the same place, by whatever path they name it."""
    kept: list[tuple[Edit, object]] = []
    for edit in edits:
        slot = _slot(document, edit.path)
        inserts = isinstance(edit, InsertItem | InsertKey)
        place = id(target(slot.value)) if inserts else (id(slot.holder), slot.index)
        same_wish = (
            other
            for other, where in kept
            if where == place and dataclasses.replace(other, path=edit.path, users=edit.users) == edit
        )
        # The same path twice is two insertions; another path to the same list is one.
        if not any(not isinstance(edit, InsertItem) or other.path != edit.path for other in same_wish):
            kept.append((edit, place))
    return [edit for edit, _ in kept]


def _first_emptied(
    document: Document, edits: list[Edit]
) -> tuple[list[RemoveKey | RemoveItem], KeyPath, dict[str, Any] | list[Any]] | None:
    removed: dict[int, list[_Removal]] = {}
    filled: set[int] = set()
    for edit in edits:
        if isinstance(edit, RemoveKey | RemoveItem):
            holder = _slot(document, edit.path).holder
            removed.setdefault(id(holder), []).append(edit)
        elif isinstance(edit, InsertItem | InsertKey):
            filled.add(id(target(_slot(document, edit.path).value)))
    for identity, removals in removed.items():
        holder = _slot(document, removals[0].path).holder
        if holder is None or identity in filled:
            continue
        places = {_slot(document, removal.path).index for removal in removals}
        if len(places) == len(holder.entries if isinstance(holder, Mapping) else holder.items):
            return removals, removals[0].path[:-1], {} if isinstance(holder, Mapping) else []
    return None


# --- The same edits on data -----------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What happens at one path of the data and below it."""

    below: dict[str | int, _Plan] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)

    def at(self, path: KeyPath) -> _Plan:
        plan = self
        for step in path:
            plan = plan.below.setdefault(step, _Plan())
        return plan


class _Changes:
    """Makes the edits on plain data, which says what the text must mean afterwards."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._plan = _Plan()

    def note(self, edit: Edit, path: KeyPath) -> None:
        self._plan.at(path).edits.append(edit)

    def made(self) -> Any:
        return _changed(self._data, self._plan)


def _changed(data: Any, plan: _Plan) -> Any:
    values = [edit for edit in plan.edits if isinstance(edit, Replace)]
    texts = [edit for edit in plan.edits if isinstance(edit, ReplaceText | ReplaceLines)]
    inserts = [edit for edit in plan.edits if isinstance(edit, InsertItem | InsertKey)]
    if len(values) > 1 or (values and (plan.below or texts or inserts)):
        raise EditRefused("two edits change the same value", path=plan.edits[0].path)
    if values:
        return render.plain(values[0].value)
    if texts:
        return _text_after(str(data), texts)
    if isinstance(data, dict) or (data is None and any(isinstance(edit, InsertKey) for edit in inserts)):
        return _changed_mapping(data or {}, plan, inserts)
    if isinstance(data, list) or (data is None and inserts):
        return _changed_list(data or [], plan, inserts)
    if inserts:
        raise EditRefused(f"{_name(inserts[0].path)} cannot hold what is to be put in", path=inserts[0].path)
    return data


def _changed_mapping(data: dict[str, Any], plan: _Plan, inserts: list[Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in data.items():
        below = plan.below.get(key)
        if below is None:
            result[key] = value
        elif not any(isinstance(edit, RemoveKey | RemoveItem) for edit in below.edits):
            names = [edit.key for edit in below.edits if isinstance(edit, RenameKey)]
            result[names[-1] if names else key] = _changed(value, below)
    for insert in inserts:
        if not isinstance(insert, InsertKey):
            raise EditRefused(f"{_name(insert.path)} is a mapping, not a list", path=insert.path)
        if insert.key in result:
            raise EditRefused(f"{_name(insert.path)} has a key {insert.key} already", path=insert.path)
        result[insert.key] = render.plain(insert.value)
    return result


def _changed_list(data: list[Any], plan: _Plan, inserts: list[Any]) -> list[Any]:
    new: dict[int, list[Any]] = {}
    for insert in inserts:
        if not isinstance(insert, InsertItem) or not 0 <= insert.index <= len(data):
            raise EditRefused(f"{_name(insert.path)} is a list with no such place", path=insert.path)
        new.setdefault(insert.index, []).append(render.plain(insert.value))
    result: list[Any] = []
    for index, value in enumerate(data):
        result += new.get(index, [])
        below = plan.below.get(index)
        if below is None:
            result.append(value)
        elif not any(isinstance(edit, RemoveKey | RemoveItem) for edit in below.edits):
            result.append(_changed(value, below))
    return result + new.get(len(data), [])


def _text_after(text: str, edits: SequenceABC[_TextEdit]) -> str:
    """One text with edits made: lines are those of the text before, the last ones first, then the replacements."""
    lines = text.split("\n")
    by_line = sorted((edit for edit in edits if isinstance(edit, ReplaceLines)), key=lambda edit: edit.first)
    for before, after in pairwise(by_line):
        if before.first + before.count > after.first:
            raise EditRefused("two edits change the same line of a text", path=after.path)
    for cut in reversed(by_line):
        if cut.first < 0 or cut.count < 0 or cut.first + cut.count > len(lines):
            raise EditRefused(f"{_name(cut.path)} has no such line", path=cut.path)
        lines[cut.first : cut.first + cut.count] = cut.lines
    result = "\n".join(lines)
    for edit in edits:
        if isinstance(edit, ReplaceText):
            if not edit.old or edit.old not in result:
                raise EditRefused(f"{_name(edit.path)} does not hold the text to be replaced", path=edit.path)
            result = result.replace(edit.old, edit.new)
    return result


# --- Splices --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Splice:
    """Text between two positions to be written anew; `depth` and `order` settle who comes first at one position."""

    start: int
    end: int
    text: str
    depth: int
    order: int
    path: KeyPath


_Span: TypeAlias = tuple[int, int, str]


def _spliced(document: Document, splices: list[_Splice]) -> str:
    """The text with the splices made; what two of them both delete is deleted once, any other overlap is refused."""
    text = document.text
    pieces: list[str] = []
    position = 0
    # What is put in at one position belongs to the innermost place first: that is the one that ends there.
    for splice in sorted(splices, key=lambda each: (each.start, each.end > each.start, -each.depth, each.order)):
        if splice.start < position and (splice.text or splice.start == splice.end):
            raise EditRefused("two edits overlap", line=document.line_at(splice.start), path=splice.path)
        pieces += [text[position : splice.start], splice.text]
        position = max(position, splice.end)
    pieces.append(text[position:])
    result = "".join(pieces)
    if not document.final_newline:
        result = result.removesuffix("\n").removesuffix("\r")
    return ("\ufeff" if document.bom else "") + result


class _Editor:
    """Turns edits into splices of the text; knows nothing of what they mean."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._text = document.text
        self._newline = document.newline
        self._style: Style = render.style_of(document)

    def splices(self, edit: Edit, edits: SequenceABC[Edit]) -> list[_Span]:
        slot = _slot(self._document, edit.path)
        match edit:
            case Replace():
                return self._replace(slot, edit)
            case InsertItem():
                return self._insert_item(slot, edit, edits)
            case InsertKey():
                return self._insert_key(slot, edit, edits)
            case RenameKey():
                return self._rename(slot, edit)
            case RemoveKey() | RemoveItem():
                return self._remove(slot, edit, edits)
            case ReplaceText() | ReplaceLines():
                return self._edit_text(slot, edit, edits)

    # Places

    def _line_start(self, position: int) -> int:
        return self._text.rfind("\n", 0, position) + 1

    def _next_line(self, position: int) -> int:
        return self._text.index("\n", position) + 1

    def _lines(self, lines: Iterable[str]) -> str:
        return "".join(f"{line}{self._newline}" for line in lines)

    def _column(self, position: int) -> int:
        start = self._line_start(position)
        if "\t" in self._text[start:position]:
            raise EditRefused("a tab stands where the indentation is counted", line=self._document.line_at(position))
        return position - start

    def _begins_line(self, position: int) -> bool:
        return not self._text[self._line_start(position) : position].strip(" ")

    def _dash(self, sequence: Sequence, index: int) -> int:
        """Where the dash of an item stands."""
        position = sequence.body if index == 0 else skip_blank(self._text, sequence.items[index - 1].end)
        if self._text[position] != "-":
            raise EditRefused("a list is written in an unusual way", line=self._document.line_at(position))
        return position

    def _mark(self, holder: Mapping | Sequence, index: int) -> int:
        """Where an entry or item of a block begins."""
        return holder.entries[index].key.start if isinstance(holder, Mapping) else self._dash(holder, index)

    def _colon(self, entry: Entry) -> int:
        position = skip_blank(self._text, entry.key.end)
        if self._text[position] != ":":
            raise EditRefused("a key is written in an unusual way", line=self._document.line_at(entry.key.start))
        return position

    def _past(self, end: int, column: int) -> int:
        """The line after a value, comments below that stand deeper than `column` included."""
        position = past = self._next_line(end)
        while position < len(self._text):
            line_end = self._next_line(position)
            line = self._text[position:line_end]
            inner = line.lstrip(" ")
            if inner.startswith("#") and len(line) - len(inner) > column:
                past = line_end
            elif inner.strip():
                break
            position = line_end
        return past

    def _above_comments(self, position: int, column: int | None = None) -> int:
        """The start of a line, or of the comments directly above it (in one column, when it is given)."""
        start = self._line_start(position)
        while start > 0:
            above = self._line_start(start - 1)
            line = self._text[above:start]
            inner = line.lstrip(" ")
            if not inner.startswith("#") or (column is not None and len(line) - len(inner) != column):
                break
            start = above
        return start

    # Replacing

    def _replace(self, slot: Slot, edit: Replace) -> list[_Span]:
        if slot.holder is None:
            raise EditRefused("the whole document cannot be replaced")
        value: Value = target(slot.value) if edit.users else slot.value
        holder, index = (slot.holder, slot.index) if value is slot.value else self._home(value)
        self._check_anchors_inside(value, edit)
        if holder.flow:
            return [self._replace_in_flow(holder, index, value, edit)]
        if isinstance(holder, Mapping):
            column = self._column(holder.entries[index].key.start)
            block = render.under_key(edit.value, column, self._style)
            return self._put(self._colon(holder.entries[index]) + 1, value, self._kept(block, value, edit), column)
        dash = self._dash(holder, index)
        column = self._column(dash)
        same_line = value.body < self._next_line(dash) and value.end > dash + 1
        gap = value.start - dash - 1 if same_line else 1
        block = render.under_dash(edit.value, column + 1 + gap, self._style)
        return self._put(dash + 1, value, self._kept(block, value, edit), column, gap=gap)

    def _home(self, value: Value) -> tuple[Mapping | Sequence, int]:
        """Where a node itself is written."""
        for node in self._document.nodes():
            values = (
                [entry.value for entry in node.entries] if isinstance(node, Mapping) else getattr(node, "items", [])
            )
            for index, candidate in enumerate(values):
                if candidate is value and isinstance(node, Mapping | Sequence):
                    return node, index
        raise EditRefused("the whole document cannot be replaced")

    def _kept(self, block: Block, old: Value, edit: Replace) -> Block:
        """The new value with the old one's anchor, and its quotes when both are texts on one line."""
        first = block.first
        if isinstance(old, Scalar) and old.style in {"'", '"'} and isinstance(edit.value, str) and not block.rest:
            first = render.quoted(edit.value, old.style)
        if not old.anchor:
            return Block(first, block.rest)
        return Block(f"&{old.anchor} {first}".rstrip(" "), block.rest)

    def _put(self, after: int, old: Value, block: Block, column: int, *, gap: int = 1) -> list[_Span]:
        """Write a value where the old one stands, `after` being past the colon or dash."""
        first = " " * gap + block.first if block.first else ""
        below = self._lines(block.rest)
        solid_block = isinstance(old, Mapping | Sequence) and not old.flow
        empty = old.end <= after or old.start == old.end
        if empty:
            line = self._next_line(after)
            return [(after, after, first), *([(line, line, below)] if below else [])]
        if old.start >= self._next_line(after):
            start = self._line_start(old.start)
            return [(after, after, first), (start, self._past(old.end, column), below)]
        if solid_block:
            return [(after, self._past(old.end, column), f"{first}{self._newline}{below}")]
        line = self._next_line(old.end)
        return [(after, old.end, first), *([(line, line, below)] if below else [])]

    def _replace_in_flow(self, holder: Mapping | Sequence, index: int, old: Value, edit: Replace) -> _Span:
        text = self._kept(Block(render.flow(edit.value, self._style)), old, edit).first
        if isinstance(holder, Mapping) and old.start == old.end:
            colon = self._colon(holder.entries[index])
            return (colon + 1, colon + 1, f" {text}")
        return (old.start, old.end, text)

    def _check_anchors_inside(self, value: Value, edit: Replace | _Removal) -> None:
        """What goes must not hold an anchor that is used outside of it."""
        if isinstance(value, Alias):
            return
        keeps_own = isinstance(edit, Replace)
        for alias in self._document.aliases:
            anchored = alias.target
            inside = value.start <= anchored.start and anchored.end <= value.end
            if inside and not value.start <= alias.start < value.end and not (keeps_own and anchored is value):
                raise EditRefused(
                    f"{_name(edit.path)} holds the anchor &{anchored.anchor}, which line "
                    f"{self._document.line_at(alias.start)} uses",
                    line=self._document.line_at(anchored.start),
                    path=edit.path,
                )

    # Renaming

    def _rename(self, slot: Slot, edit: RenameKey) -> list[_Span]:
        if not isinstance(slot.holder, Mapping):
            raise EditRefused(f"{_name(edit.path)} is no key", path=edit.path)
        key = slot.holder.entries[slot.index].key
        if edit.key in slot.holder.own:
            raise EditRefused(f"there is a key {edit.key} already", line=self._document.line_at(key.start))
        text = render.scalar(edit.key, self._style, inside=slot.holder.flow)
        if key.style in {"'", '"'}:
            text = render.quoted(edit.key, key.style)
        return [(key.body, key.end, text)]

    # Inserting

    def _insert_item(self, slot: Slot, edit: InsertItem, edits: SequenceABC[Edit]) -> list[_Span]:
        node = target(slot.value)
        if isinstance(node, Scalar) and node.data is None:
            return self._replace(slot, Replace(edit.path, [edit.value], edit.users))
        if not isinstance(node, Sequence) or not 0 <= edit.index <= len(node.items):
            raise EditRefused(f"{_name(edit.path)} is not a list with such a place", path=edit.path)
        if not node.items:
            return self._replace(slot, Replace(edit.path, [edit.value], edit.users))
        if node.flow:
            return [self._insert_in_flow(node, edit.index, render.flow(edit.value, self._style), edits)]
        column = self._column(self._dash(node, 0))
        gap = node.items[0].start - self._dash(node, 0) - 1
        gap = gap if 1 <= gap <= self._style.step + 1 else 1
        lines = render.item_lines(edit.value, column, self._style, gap=gap)
        if edit.index:
            position = self._past(node.items[edit.index - 1].end, column)
            return [(position, position, self._lines(lines))]
        dash = self._dash(node, 0)
        if self._begins_line(dash):
            position = self._above_comments(dash)
            return [(position, position, self._lines(lines))]
        return [(dash, dash, self._lines(lines)[column:] + " " * column)]

    def _insert_key(self, slot: Slot, edit: InsertKey, edits: SequenceABC[Edit]) -> list[_Span]:
        node = target(slot.value)
        if isinstance(node, Scalar) and node.data is None and slot.holder is not None:
            return self._replace(slot, Replace(edit.path, {edit.key: edit.value}, edit.users))
        if not isinstance(node, Mapping):
            raise EditRefused(f"{_name(edit.path)} is not a mapping", path=edit.path)
        if not node.entries and slot.holder is not None:
            return self._replace(slot, Replace(edit.path, {edit.key: edit.value}, edit.users))
        index = len(node.entries)
        if edit.after is not None:
            if edit.after not in node.own:
                raise EditRefused(f"{_name(edit.path)} has no key {edit.after} of its own", path=edit.path)
            index = slot_index(node, edit.after) + 1
        if node.flow:
            pair = f"{render.scalar(edit.key, self._style)}: {render.flow(edit.value, self._style)}"
            return [self._insert_in_flow(node, index, pair, edits)]
        column = self._column(node.entries[0].key.start)
        position = self._past(self._end_of(node.entries[index - 1].value, node.entries[index - 1]), column)
        return [(position, position, self._lines(render.key_lines(edit.key, edit.value, column, self._style)))]

    def _end_of(self, value: Value, entry: Entry) -> int:
        return max(value.end, entry.key.end)

    def _insert_in_flow(self, node: Mapping | Sequence, index: int, text: str, edits: SequenceABC[Edit]) -> _Span:
        spans = self._flow_spans(node)
        gone = self._gone(node, edits)
        before = [place for place in range(index) if place not in gone]
        if before:
            end = spans[before[-1]][1]
            return (end, end, f", {text}")
        after = [place for place in range(index, len(spans)) if place not in gone]
        if not after:
            return (spans[0][0], spans[0][0], text)
        start = spans[after[0]][0]
        return (start, start, f"{text}, ")

    def _flow_spans(self, node: Mapping | Sequence) -> list[tuple[int, int]]:
        if isinstance(node, Sequence):
            return [(item.start, item.end) for item in node.items]
        return [(entry.key.start, self._end_of(entry.value, entry)) for entry in node.entries]

    def _gone(self, node: Mapping | Sequence, edits: SequenceABC[Edit]) -> set[int]:
        """The places of a mapping or list that the same call removes."""
        removals = (edit for edit in edits if isinstance(edit, RemoveKey | RemoveItem))
        slots = (_slot(self._document, edit.path) for edit in removals)
        return {slot.index for slot in slots if slot.holder is node}

    # Removing

    def _remove(self, slot: Slot, edit: _Removal, edits: SequenceABC[Edit]) -> list[_Span]:
        holder, index = slot.holder, slot.index
        if holder is None:
            raise EditRefused("the whole document cannot be removed")
        self._check_anchors_inside(slot.value, edit)
        if holder.flow:
            return [self._remove_in_flow(holder, index, self._gone(holder, edits))]
        mark = self._mark(holder, index)
        column = self._column(mark)
        end = slot.value.end
        if isinstance(holder, Mapping):
            end = self._end_of(slot.value, holder.entries[index])
        end = self._past(max(end, mark + 1), column)
        if self._begins_line(mark):
            start = self._above_comments(mark, column) if edit.with_comment else self._line_start(mark)
            return [(start, end, "")]
        return [self._remove_first(holder, index, mark, end, self._gone(holder, edits))]

    def _remove_first(self, holder: Mapping | Sequence, index: int, mark: int, end: int, gone: set[int]) -> _Span:
        """Remove what stands behind a dash: the next one that stays moves up; a comment between leaves the dash."""
        count = len(holder.entries) if isinstance(holder, Mapping) else len(holder.items)
        following = [place for place in range(index + 1, count) if place not in gone]
        if following:
            up = self._mark(holder, following[0])
            if following[0] > index + 1 or not self._text[end:up].strip():
                return (mark, up, "")
        return (mark, end, self._newline)

    def _remove_in_flow(self, node: Mapping | Sequence, index: int, gone: set[int]) -> _Span:
        spans = self._flow_spans(node)
        if any(place not in gone for place in range(index + 1, len(spans))):
            return (spans[index][0], spans[index + 1][0], "")
        before = [place for place in range(index) if place not in gone]
        return (spans[before[-1]][1] if before else spans[0][0], spans[index][1], "")

    # Texts

    def _edit_text(self, slot: Slot, edit: _TextEdit, edits: SequenceABC[Edit]) -> list[_Span]:
        node = target(slot.value)
        if not isinstance(node, Scalar):
            raise EditRefused(f"{_name(edit.path)} is not a text", path=edit.path)
        together = [
            other
            for other in edits
            if isinstance(other, ReplaceText | ReplaceLines) and target(_slot(self._document, other.path).value) is node
        ]
        if together[0] is not edit:
            return []
        new = _text_after(node.value, together)
        if node.style == "|" and (spans := self._edit_literal(node, new)) is not None:
            return spans
        raw = self._raw_replacement(node, together)
        if raw is not None:
            return [raw]
        holder, index = self._home(node)
        slot = Slot(holder=holder, index=index, value=node)
        return self._replace(slot, Replace(edit.path, new))

    def _raw_replacement(self, node: Scalar, edits: SequenceABC[_TextEdit]) -> _Span | None:
        """Replace inside a folded or wrapped text as it is written, when what is replaced stands there unbroken."""
        raw = self._text[node.body : node.end]
        value = node.value
        for edit in edits:
            if not isinstance(edit, ReplaceText) or raw.count(edit.old) != value.count(edit.old):
                return None
            if any(letter in edit.new for letter in "\n\\'\""):
                return None
            raw, value = raw.replace(edit.old, edit.new), value.replace(edit.old, edit.new)
        return (node.body, node.end, raw) if "\n" in raw or node.style == ">" else None

    def _edit_literal(self, node: Scalar, new: str) -> list[_Span] | None:
        """Change lines of a literal block; None when it must be written anew."""
        if not new.strip("\n") or not node.value.strip("\n"):
            return None
        if len(new) - len(new.rstrip("\n")) != len(node.value) - len(node.value.rstrip("\n")):
            return None
        old_lines, new_lines = node.value.rstrip("\n").split("\n"), new.rstrip("\n").split("\n")
        starts = [self._next_line(node.body)]
        for _ in old_lines:
            starts.append(self._next_line(starts[-1]))
        first = next(number for number, line in enumerate(old_lines) if line)
        physical = self._text[starts[first] : starts[first + 1]].rstrip("\r\n")
        indent = physical[: len(physical) - len(old_lines[first])]
        header = self._text[node.body : starts[0]]
        leads = next(line for line in new_lines if line)[0] in " \t"
        if leads and not any(letter.isdigit() for letter in header.split("#")[0]):
            return None
        spans: list[_Span] = []
        for start, end, lines in _different(old_lines, new_lines):
            text = self._lines(f"{indent}{line}" if line else "" for line in lines)
            spans.append((starts[start], starts[end], text))
        return spans


def slot_index(mapping: Mapping, key: str) -> int:
    """The place of a mapping's own key among its entries."""
    return next(index for index, entry in enumerate(mapping.entries) if entry is mapping.own[key])


def _different(old: SequenceABC[str], new: SequenceABC[str]) -> list[tuple[int, int, SequenceABC[str]]]:
    """The runs of lines that differ, as places in `old` with the lines of `new` that take their place."""
    from difflib import SequenceMatcher  # noqa: PLC0415  # only for scripts

    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [(i, j, new[k:m]) for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal"]
