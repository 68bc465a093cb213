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
from typing import TYPE_CHECKING

from playbook.circleci_config.changes import (
    Edit,
    EditRefused,
    Emptied,
    Expected,
    InsertItem,
    InsertKey,
    Removal,
    RemoveItem,
    RemoveKey,
    RemoveLines,
    RenameKey,
    Replace,
    ReplaceLines,
    ReplaceText,
    name_of,
    same,
    slot_of,
    users_of,
)
from playbook.circleci_config.document import (
    Alias,
    ConfigError,
    Document,
    KeyPath,
    Mapping,
    Scalar,
    Sequence,
    Shared,
    Slot,
    parse,
    target,
)
from playbook.circleci_config.render import Flow
from playbook.circleci_config.splices import Splice, Splicer, spliced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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


def apply(document: Document, edits: Iterable[Edit]) -> str:
    """The text with the edits made, byte order mark included; raises `EditRefused` when one of them cannot be.

    No edit gives the same text back. See the module for what is guaranteed.
    """
    wanted = _settled(document, list(edits))
    changes = Expected(document.data)
    splicer = Splicer(document, wanted)
    splices: list[Splice] = []
    for order, edit in enumerate(wanted):
        for each in edit.removals if isinstance(edit, Emptied) else (edit,):
            for path in _checked_users(document, each):
                changes.note(each, path)
        splices += [
            Splice(start, end, text, len(edit.path), order, edit.path) for start, end, text in splicer.spans(edit)
        ]
    expected = changes.made()
    text = spliced(document, splices)
    try:
        result = parse(text)
    except ConfigError as error:
        raise _refused_after(document, wanted, f"the result could not be read ({error.reason})") from None
    if not same(result.data, expected):
        raise _refused_after(document, wanted, "the result would not say what was asked for")
    return text


def _refused_after(document: Document, edits: SequenceABC[Edit | Emptied], reason: str) -> EditRefused:
    path = edits[0].path if edits else ()
    line = document.line(path) if path in document else None
    return EditRefused(f"{reason}; the first edit is at {name_of(path)}", line=line, path=path)


def _checked_users(document: Document, edit: Edit) -> frozenset[KeyPath]:
    users = users_of(document, edit)
    if isinstance(edit, Replace) and not isinstance(slot_of(document, edit.path).value, Alias):
        shared = document.shared(edit.path)
        if shared is not None and shared.merged_into:
            merging = ", ".join(sorted(map(name_of, shared.merged_into))[:5])
            raise EditRefused(
                f"{name_of(edit.path)} gives its keys to {merging} by `<<`", line=shared.line, path=edit.path
            )
    if users != (edit.users or frozenset({edit.path})):
        shared = document.shared(edit.path)
        others = sorted(map(name_of, users - (edit.users | {edit.path}))) or sorted(map(name_of, edit.users - users))
        anchor = f"the anchor &{shared.anchor} of line {shared.line}" if shared and shared.anchor else "an anchor"
        raise EditRefused(
            f"{name_of(edit.path)} is written once for several places ({anchor}), and not all want this change: "
            f"{', '.join(others[:5])}",
            line=document.line(edit.path) if edit.path else None,
            path=edit.path,
        )
    return users


# --- Edits that hang together ---------------------------------------------------------------------------------------


def _settled(document: Document, edits: list[Edit]) -> list[Edit | Emptied]:
    """The edits with those that empty a mapping or list turned into one of what holds it."""
    edits = _once(document, edits)
    left: list[Emptied] = []
    while found := _emptied(document, edits):
        gone = {id(removal) for emptied in found for removal in emptied.removals}
        edits = [edit for edit in edits if id(edit) not in gone]
        for emptied in found:
            users = {user[:-1] for user in emptied.removals[0].users} or {emptied.path}
            # A mapping that only merges what was emptied may have keys of its own.
            whole = all(target(slot_of(document, user).value) is emptied.holder for user in users)
            if emptied.path and whole and all(removal.prune for removal in emptied.removals):
                with_comment = any(removal.with_comment for removal in emptied.removals)
                edits += _pruned(document, users, with_comment=with_comment)
            else:
                left.append(emptied)
        edits = _once(document, edits)
    return [*edits, *left]


def _pruned(document: Document, paths: Iterable[KeyPath], *, with_comment: bool) -> Iterator[Removal]:
    """One removal for each place that holds what was emptied: where it is written, and every alias of it."""
    places: dict[tuple[int, int], set[KeyPath]] = {}
    for path in paths:
        slot = slot_of(document, path)
        places.setdefault((id(slot.holder), slot.index), set()).add(path)
    for users in places.values():
        path = min(users, key=str)
        removal = RemoveItem if isinstance(path[-1], int) else RemoveKey
        yield removal(
            path, prune=True, with_comment=with_comment, users=frozenset(users) if len(users) > 1 else frozenset()
        )


def _once(document: Document, edits: list[Edit]) -> list[Edit]:
    """The edits without those that repeat another one at the same place, by whatever path they name it."""
    kept: dict[tuple[int, int], list[Edit]] = {}
    result: list[Edit] = []
    for edit in edits:
        slot = slot_of(document, edit.path)
        inserts = isinstance(edit, InsertItem | InsertKey)
        place = (id(target(slot.value)), -1) if inserts else (id(slot.holder), slot.index)
        known = kept.setdefault(place, [])
        repeated = (other for other in known if dataclasses.replace(other, path=edit.path, users=edit.users) == edit)
        # The same path twice is two insertions; another path to the same list is one.
        if not any(not isinstance(edit, InsertItem) or other.path != edit.path for other in repeated):
            known.append(edit)
            result.append(edit)
    return result


def _emptied(document: Document, edits: list[Edit]) -> list[Emptied]:
    """The mappings and lists of which the edits leave nothing."""
    removed: dict[int, list[tuple[Removal, Slot]]] = {}
    filled: set[int] = set()
    for edit in edits:
        slot = slot_of(document, edit.path)
        if isinstance(edit, RemoveKey | RemoveItem):
            removed.setdefault(id(slot.holder), []).append((edit, slot))
        elif isinstance(edit, InsertItem | InsertKey):
            filled.add(id(target(slot.value)))
    found = []
    for identity, removals in removed.items():
        first, slot = removals[0]
        if slot.holder is None or identity in filled:
            continue
        count = len(slot.holder.entries if isinstance(slot.holder, Mapping) else slot.holder.items)
        if len({each.index for _, each in removals}) == count:
            found.append(Emptied(first.path[:-1], slot.holder, tuple(removal for removal, _ in removals)))
    return found
