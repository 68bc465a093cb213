"""Edits of a configuration as splices of its text; knows nothing of what they mean."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, TypeAlias

from playbook.circleci_config import render
from playbook.circleci_config.changes import (
    EditRefused,
    Emptied,
    InsertItem,
    InsertKey,
    RemoveItem,
    RemoveKey,
    RenameKey,
    Replace,
    ReplaceLines,
    ReplaceText,
    name_of,
    replaces_alias,
    slot_of,
    text_after,
)
from playbook.circleci_config.document import Alias, Entry, KeyPath, Mapping, Scalar, Sequence, Slot, skip_blank, target
from playbook.circleci_config.render import Block

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as SequenceABC

    from playbook.circleci_config.changes import Edit, Removal, TextEdit
    from playbook.circleci_config.document import Document, Solid, Value


@dataclass(frozen=True)
class Splice:
    """Text between two positions to be written anew; `depth` and `order` settle who comes first at one position."""

    start: int
    end: int
    text: str
    depth: int
    order: int
    path: KeyPath


_Span: TypeAlias = tuple[int, int, str]


def spliced(document: Document, splices: list[Splice]) -> str:
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


class Splicer:
    """Turns edits into splices of the text; knows nothing of what they mean."""

    def __init__(self, document: Document, edits: SequenceABC[Edit | Emptied]) -> None:
        self._document = document
        self._text = document.text
        self._newline = document.newline
        self._habits = render.Habits(document)
        self._leaving: dict[int, set[int]] = {}
        """By the identity of a mapping or list, the places in it that go."""
        self._gone_spans: list[tuple[int, int]] = []
        self._followed: set[tuple[int, str]] = set()
        """Keys that get a new one after them."""
        self._texts: dict[int, list[TextEdit]] = {}
        for edit in edits:
            self._look_ahead(edit)
        self._gone_spans.sort()

    def _look_ahead(self, edit: Edit | Emptied) -> None:
        """Keep what the writing of the other edits must know of this one."""
        slot = slot_of(self._document, edit.path)
        node = target(slot.value)
        if isinstance(edit, RemoveKey | RemoveItem):
            self._leaving.setdefault(id(slot.holder), set()).add(slot.index)
            self._gone_spans.append((slot.value.start, slot.value.end))
        elif isinstance(edit, InsertKey):
            self._followed.add((id(node), edit.after or ""))
        elif isinstance(edit, ReplaceText | ReplaceLines):
            self._texts.setdefault(id(node), []).append(edit)

    def spans(self, edit: Edit | Emptied) -> list[_Span]:
        """The spans one edit writes anew, each with its text; raises `EditRefused`."""
        slot = slot_of(self._document, edit.path)
        spans: list[_Span]
        match edit:
            case Emptied():
                spans = self._empty(edit)
            case Replace():
                spans = self._replace(slot, edit)
            case InsertItem():
                spans = self._insert_item(slot, edit)
            case InsertKey():
                spans = self._insert_key(slot, edit)
            case RenameKey():
                spans = self._rename(slot, edit)
            case RemoveKey() | RemoveItem():
                spans = self._remove(slot, edit)
            case ReplaceText() | ReplaceLines():
                spans = self._edit_text(slot, edit)
        return spans

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
        value: Value = slot.value
        if edit.users and not replaces_alias(self._document, slot, edit):
            value = target(slot.value)
        holder, index = (slot.holder, slot.index) if value is slot.value else self._home(target(value))
        self._check_anchors_inside(value, edit)
        if holder.flow:
            return [self._replace_in_flow(holder, index, value, edit)]
        if isinstance(holder, Mapping):
            column = self._column(holder.entries[index].key.start)
            block = render.under_key(edit.value, column, self._habits.near(holder, value))
            return self._put(self._colon(holder.entries[index]) + 1, value, self._kept(block, value, edit), column)
        dash = self._dash(holder, index)
        column = self._column(dash)
        same_line = value.body < self._next_line(dash) and value.end > dash + 1
        gap = value.start - dash - 1 if same_line else 1
        block = render.under_dash(edit.value, column + 1 + gap, self._habits.near(holder))
        if value.anchor and _is_block(edit.value):
            # An anchor on the line of the first key or dash would be that one's.
            block = Block("", (" " * (column + 1 + gap) + block.first, *block.rest))
        return self._put(dash + 1, value, self._kept(block, value, edit), column, gap=gap)

    def _empty(self, edit: Emptied) -> list[_Span]:
        """Write `{}` or `[]` where everything of a mapping or list goes."""
        if edit.holder is self._document.root:
            raise EditRefused("the whole document cannot be emptied")
        holder, index = self._home(edit.holder)
        empty = Replace(edit.path, {} if isinstance(edit.holder, Mapping) else [])
        return self._replace(Slot(holder=holder, index=index, value=edit.holder), empty)

    def _home(self, node: Solid) -> tuple[Mapping | Sequence, int]:
        home = self._document.home(node)
        if home is None:
            raise EditRefused("the whole document cannot be replaced")
        return home

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
        text = self._kept(Block(render.flow(edit.value, self._habits.near(holder))), old, edit).first
        if isinstance(holder, Mapping) and old.start == old.end:
            colon = self._colon(holder.entries[index])
            return (colon + 1, colon + 1, f" {text}")
        return (old.start, old.end, text)

    def _check_anchors_inside(self, value: Value, edit: Replace | Removal) -> None:
        """What goes must not hold an anchor that is used by something that stays."""
        if isinstance(value, Alias):
            return
        for alias in self._document.aliases:
            anchored = alias.target
            if not value.start <= anchored.start < value.end or (isinstance(edit, Replace) and anchored is value):
                continue
            if not value.start <= alias.start < value.end and not self._goes(alias.start):
                raise EditRefused(
                    f"{name_of(edit.path)} holds the anchor &{anchored.anchor}, which line "
                    f"{self._document.line_at(alias.start)} uses",
                    line=self._document.line_at(anchored.start),
                    path=edit.path,
                )

    def _goes(self, position: int) -> bool:
        """Whether something that is removed stands at a position."""
        past = bisect_right(self._gone_spans, (position, len(self._text)))
        return any(end > position for _, end in self._gone_spans[:past])

    # Renaming

    def _rename(self, slot: Slot, edit: RenameKey) -> list[_Span]:
        if not isinstance(slot.holder, Mapping):
            raise EditRefused(f"{name_of(edit.path)} is no key", path=edit.path)
        key = slot.holder.entries[slot.index].key
        if edit.key in slot.holder.own:
            raise EditRefused(f"there is a key {edit.key} already", line=self._document.line_at(key.start))
        text = render.scalar(edit.key, self._habits.near(slot.holder), inside=slot.holder.flow)
        if key.style in {"'", '"'}:
            text = render.quoted(edit.key, key.style)
        return [(key.body, key.end, text)]

    # Inserting

    def _insert_item(self, slot: Slot, edit: InsertItem) -> list[_Span]:
        node = target(slot.value)
        if isinstance(node, Scalar) and node.data is None:
            return self._replace(slot, Replace(edit.path, [edit.value], edit.users))
        if not isinstance(node, Sequence) or not 0 <= edit.index <= len(node.items):
            raise EditRefused(f"{name_of(edit.path)} is not a list with such a place", path=edit.path)
        if not node.items:
            return self._replace(slot, Replace(edit.path, [edit.value], edit.users))
        style = self._habits.near(node)
        if node.flow:
            return [self._insert_in_flow(node, edit.index, render.flow(edit.value, style))]
        column = self._column(self._dash(node, 0))
        gap = node.items[0].start - self._dash(node, 0) - 1
        gap = gap if 1 <= gap <= style.step + 1 else 1
        lines = render.item_lines(edit.value, column, style, gap=gap)
        if edit.index:
            position = self._past(node.items[edit.index - 1].end, column)
            return [(position, position, self._lines(lines))]
        dash = self._dash(node, 0)
        if self._begins_line(dash):
            position = self._above_comments(dash)
            return [(position, position, self._lines(lines))]
        return [(dash, dash, self._lines(lines)[column:] + " " * column)]

    def _insert_key(self, slot: Slot, edit: InsertKey) -> list[_Span]:
        node = target(slot.value)
        if isinstance(node, Scalar) and node.data is None and slot.holder is not None:
            return self._replace(slot, Replace(edit.path, {edit.key: edit.value}, edit.users))
        if not isinstance(node, Mapping):
            raise EditRefused(f"{name_of(edit.path)} is not a mapping", path=edit.path)
        if not node.entries and slot.holder is not None:
            return self._replace(slot, Replace(edit.path, {edit.key: edit.value}, edit.users))
        index = len(node.entries)
        if edit.after is not None and node.find(edit.after) is None:
            raise EditRefused(f"{name_of(edit.path)} has no key {edit.after}", path=edit.path)
        if edit.after in node.own:
            index = node.own[edit.after].index + 1
        style = self._habits.near(node)
        if node.flow:
            pair = f"{render.scalar(edit.key, style)}: {render.flow(edit.value, style)}"
            return [self._insert_in_flow(node, index, pair)]
        column = self._column(node.entries[0].key.start)
        position = self._past(self._end_of(node.entries[index - 1].value, node.entries[index - 1]), column)
        return [(position, position, self._lines(render.key_lines(edit.key, edit.value, column, style)))]

    def _end_of(self, value: Value, entry: Entry) -> int:
        return max(value.end, entry.key.end)

    def _insert_in_flow(self, node: Mapping | Sequence, index: int, text: str) -> _Span:
        spans = self._flow_spans(node)
        gone = self._gone(node)
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

    def _gone(self, node: Mapping | Sequence) -> set[int]:
        """The places of a mapping or list that the same call removes."""
        return self._leaving.get(id(node), set())

    # Removing

    def _remove(self, slot: Slot, edit: Removal) -> list[_Span]:
        holder, index = slot.holder, slot.index
        if holder is None:
            raise EditRefused("the whole document cannot be removed")
        self._check_anchors_inside(slot.value, edit)
        if holder.flow:
            return [self._remove_in_flow(holder, index, self._gone(holder))]
        mark = self._mark(holder, index)
        column = self._column(mark)
        end = slot.value.end
        if isinstance(holder, Mapping):
            end = self._end_of(slot.value, holder.entries[index])
        end = self._past(max(end, mark + 1), column)
        if self._begins_line(mark):
            start = self._above_comments(mark, column) if edit.with_comment else self._line_start(mark)
            return [(start, end, "")]
        return [self._remove_first(holder, index, mark, end, self._gone(holder))]

    def _remove_first(self, holder: Mapping | Sequence, index: int, mark: int, end: int, gone: set[int]) -> _Span:
        """Remove what stands behind a dash: the next one that stays moves up; a comment between leaves the dash."""
        count = len(holder.entries) if isinstance(holder, Mapping) else len(holder.items)
        following = [place for place in range(index + 1, count) if place not in gone]
        if following:
            up = self._mark(holder, following[0])
            key = holder.entries[index].key.value if isinstance(holder, Mapping) else ""
            followed = (id(holder), key) in self._followed
            if not followed and (following[0] > index + 1 or not self._text[end:up].strip()):
                return (mark, up, "")
        return (len(self._text[:mark].rstrip(" ")), end, self._newline)

    def _remove_in_flow(self, node: Mapping | Sequence, index: int, gone: set[int]) -> _Span:
        spans = self._flow_spans(node)
        if any(place not in gone for place in range(index + 1, len(spans))):
            return (spans[index][0], spans[index + 1][0], "")
        before = [place for place in range(index) if place not in gone]
        return (spans[before[-1]][1] if before else spans[0][0], spans[index][1], "")

    # Texts

    def _edit_text(self, slot: Slot, edit: TextEdit) -> list[_Span]:
        node = target(slot.value)
        if not isinstance(node, Scalar):
            raise EditRefused(f"{name_of(edit.path)} is not a text", path=edit.path)
        together = self._texts[id(node)]
        if together[0] is not edit:
            return []
        new = text_after(node.value, together)
        if node.style == "|" and (spans := self._edit_literal(node, new)) is not None:
            return spans
        raw = self._raw_replacement(node, together)
        if raw is not None:
            return [raw]
        holder, index = self._home(node)
        slot = Slot(holder=holder, index=index, value=node)
        return self._replace(slot, Replace(edit.path, new))

    def _raw_replacement(self, node: Scalar, edits: SequenceABC[TextEdit]) -> _Span | None:
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


def _is_block(value: object) -> bool:
    """Whether it is written as a mapping or list on lines of its own."""
    return isinstance(value, dict | list | tuple) and bool(value)


def _different(old: SequenceABC[str], new: SequenceABC[str]) -> list[tuple[int, int, SequenceABC[str]]]:
    """The runs of lines that differ, as places in `old` with the lines of `new` that take their place."""
    shorter = min(len(old), len(new))
    head = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    tail = next((index for index in range(shorter - head) if old[-1 - index] != new[-1 - index]), shorter - head)
    before, after = old[head : len(old) - tail], new[head : len(new) - tail]
    codes = SequenceMatcher(None, before, after).get_opcodes()
    return [(head + i, head + j, after[k:m]) for tag, i, j, k, m in codes if tag != "equal"]
