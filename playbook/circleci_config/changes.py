"""What can be asked of a configuration: the edits, whom each of them reaches, and what they make of its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from playbook.circleci_config import render
from playbook.circleci_config.document import Alias, KeyPath, Mapping, Sequence, target
from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceABC

    from playbook.circleci_config.document import Document, Slot


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


Removal: TypeAlias = RemoveKey | RemoveItem


@dataclass(frozen=True)
class Emptied:
    """Removals that leave nothing of a mapping or list: it is written `{}` or `[]`. Made by `edit.apply` alone."""

    path: KeyPath
    holder: Mapping | Sequence
    removals: tuple[Removal, ...]


TextEdit: TypeAlias = ReplaceText | ReplaceLines
Edit: TypeAlias = Replace | InsertItem | InsertKey | RenameKey | RemoveKey | RemoveItem | ReplaceText | ReplaceLines


# --- Whom an edit reaches ---------------------------------------------------------------------------------------------


def name_of(path: KeyPath) -> str:
    """A path as people write it, such as `jobs.build.steps.0`."""
    return ".".join(map(str, path)) or "the top"


def slot_of(document: Document, path: KeyPath) -> Slot:
    """The place a path leads to; raises `EditRefused` when there is none."""
    try:
        return document.slot(path)
    except KeyError:
        raise EditRefused(f"there is no {name_of(path)}", path=path) from None


def users_of(document: Document, edit: Edit) -> frozenset[KeyPath]:
    """Every path that changes with an edit, of the same form as the edit's own; raises `EditRefused`.

    A set of more than one is what the edit's `users` must be, once the caller has found that each of them wants it.
    """
    slot = slot_of(document, edit.path)
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
        case Replace() if replaces_alias(document, slot, edit):
            return _users_of_slot(document, slot)
        case _:
            return frozenset(document.paths_of(node))


def replaces_alias(document: Document, slot: Slot, edit: Replace) -> bool:
    """Whether the alias itself gives way to a value, rather than what it stands for to another one."""
    return isinstance(slot.value, Alias) and (not edit.users or edit.users == _users_of_slot(document, slot))


def _users_of_slot(document: Document, slot: Slot) -> frozenset[KeyPath]:
    if slot.holder is None:
        raise EditRefused("the whole document cannot be removed")
    return frozenset(document.paths_to(slot.holder, slot.index))


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


class Expected:
    """Makes the edits on plain data, which says what the text must mean afterwards."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._plan = _Plan()

    def note(self, edit: Edit, path: KeyPath) -> None:
        """An edit changes the data at this path, which is one of its users."""
        self._plan.at(path).edits.append(edit)

    def made(self) -> Any:
        """The data afterwards; raises `EditRefused` when the edits contradict each other or the data."""
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
        return text_after(str(data), texts)
    if isinstance(data, dict) or (data is None and any(isinstance(edit, InsertKey) for edit in inserts)):
        return _changed_mapping(data or {}, plan, inserts)
    if isinstance(data, list) or (data is None and inserts):
        return _changed_list(data or [], plan, inserts)
    if inserts:
        raise EditRefused(f"{name_of(inserts[0].path)} cannot hold what is to be put in", path=inserts[0].path)
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
            raise EditRefused(f"{name_of(insert.path)} is a mapping, not a list", path=insert.path)
        if insert.key in result:
            raise EditRefused(f"{name_of(insert.path)} has a key {insert.key} already", path=insert.path)
        result[insert.key] = render.plain(insert.value)
    return result


def _changed_list(data: list[Any], plan: _Plan, inserts: list[Any]) -> list[Any]:
    new: dict[int, list[Any]] = {}
    for insert in inserts:
        if not isinstance(insert, InsertItem) or not 0 <= insert.index <= len(data):
            raise EditRefused(f"{name_of(insert.path)} is a list with no such place", path=insert.path)
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


def text_after(text: str, edits: SequenceABC[TextEdit]) -> str:
    """One text with edits made: lines are those of the text before, the last ones first, then the replacements."""
    lines = text.split("\n")
    by_line = sorted((edit for edit in edits if isinstance(edit, ReplaceLines)), key=lambda edit: edit.first)
    for before, after in pairwise(by_line):
        if before.first + before.count > after.first:
            raise EditRefused("two edits change the same line of a text", path=after.path)
    for cut in reversed(by_line):
        if cut.first < 0 or cut.count < 0 or cut.first + cut.count > len(lines):
            raise EditRefused(f"{name_of(cut.path)} has no such line", path=cut.path)
        lines[cut.first : cut.first + cut.count] = cut.lines
    result = "\n".join(lines)
    for edit in edits:
        if isinstance(edit, ReplaceText):
            if not edit.old or edit.old not in result:
                raise EditRefused(f"{name_of(edit.path)} does not hold the text to be replaced", path=edit.path)
            result = result.replace(edit.old, edit.new)
    return result


def same(one: Any, other: Any) -> bool:
    """Whether two plain data are equal, kinds included: 1, 1.0 and true are three things."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
