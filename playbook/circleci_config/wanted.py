"""The edits that a rewrite wants, by place: what two jobs share is wanted once, and by every one that shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config.document import Scalar
from playbook.circleci_config.edit import (
    RemoveItem,
    RemoveKey,
    RenameKey,
    Replace,
    ReplaceLines,
    ReplaceText,
    users_of,
)
from playbook.circleci_config.options import Refusal
from playbook.circleci_config.understand import as_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from playbook.circleci_config.document import Document, KeyPath
    from playbook.circleci_config.edit import Edit

_HEREDOC: Final = re.compile(r"(?<!\\)<<")


class Wanted:
    """What is to be done to one document, and what somebody must know besides."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: Mapping[str, Any] = as_mapping(document.data)
        self._edits: dict[tuple[Any, ...], Edit] = {}
        self._texts: dict[KeyPath, str] = {}
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Every note once, in order."""
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Say something once."""
        self._notes[text] = None

    def want(self, edit: Edit, *more: object) -> None:
        """Ask for an edit; `more` tells apart several of one kind at one path."""
        key = (type(edit).__name__, edit.path, *more)
        there = self._edits.setdefault(key, edit)
        if there != edit:
            raise Refusal("two jobs want different things at one place", edit.path)

    def text(self, path: KeyPath) -> str:
        """A text as it will be; empty when the path leads to none."""
        node = self.document.node(path)
        return self._texts.get(path, node.value if isinstance(node, Scalar) else "")

    def want_text(self, path: KeyPath, text: str) -> None:
        """Ask for another text."""
        self._texts[path] = text

    def at(self, path: KeyPath) -> Any:
        """The data at a path, as it was."""
        data: Any = self.data
        for step in path:
            data = data[step]
        return data

    def escape_heredocs(self) -> None:
        """In 2.1 `<<` opens a parameter, so every text of 2.0 that holds one gets a backslash before it."""
        touched = [edit.path for edit in self._edits.values() if isinstance(edit, Replace | RemoveItem | RemoveKey)]
        for node in self.document.nodes():
            if not isinstance(node, Scalar) or not _HEREDOC.search(node.value):
                continue
            paths = self.document.paths_of(node)
            path = next((path for path in paths if path in self._texts), None) or min(paths, key=str, default=None)
            if path is None or any(path[: len(other)] == other for other in touched):
                continue
            self._texts[path] = _HEREDOC.sub(r"\\<<", self._texts.get(path, node.value))

    def edits(self, reached: AbstractSet[str]) -> list[Edit]:
        """Everything as edits; `reached` are the jobs that a workflow runs.

        Raises `Refusal` for a place that several jobs share and not all want changed.
        """
        self._settle_texts()
        return self._with_users(reached)

    def _settle_texts(self) -> None:
        gone = [edit.path for edit in self._edits.values() if isinstance(edit, Replace | RemoveItem | RemoveKey)]
        done: dict[int, str] = {}
        for path, text in self._texts.items():
            if any(path[: len(place)] == place for place in gone):
                continue
            node = self.document.node(path)
            if not isinstance(node, Scalar) or done.get(id(node)) == text:
                continue
            done[id(node)] = text
            if node.style == ">" and (swap := _one_swap(node.value, text)) is not None:
                self.want(ReplaceText(path, *swap))
                continue
            old, new = node.value.split("\n"), text.split("\n")
            matcher = SequenceMatcher(None, old, new, autojunk=False)
            for tag, start, end, from_, to in matcher.get_opcodes():
                if tag != "equal":
                    self.want(ReplaceLines(path, start, end - start, tuple(new[from_:to])), start)

    def _with_users(self, reached: AbstractSet[str]) -> list[Edit]:
        """The edits with the places that share them, once each of those wants the change or no workflow reaches it."""
        wanted_at: dict[str, set[KeyPath]] = {}
        for edit in self._edits.values():
            wanted_at.setdefault(type(edit).__name__, set()).add(edit.path)
        edits: list[Edit] = []
        for edit in self._edits.values():
            users = users_of(self.document, edit)
            everywhere = isinstance(edit, ReplaceLines | ReplaceText | RemoveKey | RenameKey)
            for user in users - wanted_at[type(edit).__name__] if not everywhere else ():
                if _belongs_to(user, reached):
                    line = self.document.line(edit.path)
                    place = ".".join(map(str, user))
                    raise Refusal(
                        f"{place} shares the place of line {line} by an anchor and is not to change", edit.path
                    )
            edits.append(edit if users == {edit.path} else replace(edit, users=users))
        return edits


def _one_swap(old: str, new: str) -> tuple[str, str] | None:
    """The one word of a folded text that changes, with what takes its place; None when that is not all."""
    start = next((at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), len(old))
    start = old.rfind(" ", 0, start) + 1
    endings = zip(reversed(old[start:]), reversed(new[start:]), strict=False)
    tail = next((at for at, (one, other) in enumerate(endings) if one != other), min(len(old), len(new)) - start)
    while tail and not old[len(old) - tail].isspace():
        tail -= 1
    before, after = old[start : len(old) - tail], new[start : len(new) - tail]
    if not before:
        start = old.rfind(" ", 0, max(start - 1, 0)) + 1
        before, after = old[start : len(old) - tail], new[start : len(new) - tail]
    return (before, after) if before and old.count(before) == 1 else None


def _belongs_to(path: KeyPath, reached: AbstractSet[str]) -> bool:
    """Whether a workflow reaches the place: a job it runs, or one of its own entries."""
    return (path[0] == "jobs" and path[1] in reached) or path[0] == "workflows"
