"""Finds the text that slips through: one that fits some patterns, avoids others and has the form of a token's part.

A pattern is an automaton, so is the form; their product is searched for a state that all accept. What is found is a
real counterexample, and where the search ends without one there is none. It walks at most `STATES_MAX` states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from playbook.iam_policy import Wild

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from playbook.iam_policy import Glob

STATES_MAX: Final = 20_000
_HEX: Final = frozenset("0123456789abcdef")
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_REFERENCE: Final = _NAME | frozenset("/#@+=,")
_States: TypeAlias = frozenset[int]


class TooManyStatesError(Exception):
    """The patterns are too entangled to be searched; whoever asked must refuse."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One character of a form: which it may be, and whether more of them may follow."""

    chars: frozenset[str]
    many: bool = False


Form: TypeAlias = tuple[Piece, ...]


def text(value: str) -> Form:
    """Exactly this."""
    return tuple(Piece(chars=frozenset(char)) for char in value)


def identifier() -> Form:
    """Any UUID."""
    return tuple(piece for length in (8, 4, 4, 4, 12) for piece in (*[Piece(chars=_HEX)] * length, *text("-")))[:-1]


def name() -> Form:
    """An owner or a repository."""
    return (Piece(chars=_NAME, many=True),)


def reference() -> Form:
    """A branch or tag, in whose name nearly everything may stand, `/` first of all."""
    return (Piece(chars=_REFERENCE, many=True),)


@dataclass(frozen=True)
class _State:
    form: _States
    must: tuple[_States, ...]
    never: tuple[_States, ...]


def find(form: Form, *, must: Sequence[Glob], never: Sequence[Glob] = ()) -> str | None:
    """Find a text of this form that fits every pattern of `must` and none of `never`, or None when there is none.

    Raises `TooManyStatesError` when that cannot be told within `STATES_MAX` states.
    """
    first = _State(
        frozenset({0}), tuple(_spread(glob, {0}) for glob in must), tuple(_spread(glob, {0}) for glob in never)
    )
    came: dict[_State, tuple[_State, str] | None] = {first: None}
    waiting = [first]
    while waiting:
        state = waiting.pop()
        if len(form) in state.form and _accepted(state, must, never):
            return _path(came, state)
        for char in _choices(form, must, never, state):
            following = _step(form, must, never, state, char)
            if following is not None and following not in came:
                if len(came) >= STATES_MAX:
                    raise TooManyStatesError
                came[following] = (state, char)
                waiting.append(following)
    return None


def _accepted(state: _State, must: Sequence[Glob], never: Sequence[Glob]) -> bool:
    return all(len(glob) in at for glob, at in zip(must, state.must, strict=True)) and not any(
        len(glob) in at for glob, at in zip(never, state.never, strict=True)
    )


def _path(came: dict[_State, tuple[_State, str] | None], state: _State) -> str:
    chars: list[str] = []
    before = came[state]
    while before is not None:
        chars.append(before[1])
        before = came[before[0]]
    return "".join(reversed(chars))


def _choices(form: Form, must: Sequence[Glob], never: Sequence[Glob], state: _State) -> Iterator[str]:
    """The characters that can make a difference: those that a pattern waits for, and of all others one of each kind.

    Two characters are of a kind when the form takes both in the same places. One that no pattern waits for comes last,
    so it is tried first: it leads away from what is to be avoided.
    """
    awaited = {
        item
        for globs, all_at in ((must, state.must), (never, state.never))
        for glob, at in zip(globs, all_at, strict=True)
        for item in (glob[index] for index in at if index < len(glob))
        if isinstance(item, str)
    }
    kinds: dict[frozenset[int], str] = {}
    live = [at for at in sorted(state.form) if at < len(form)]
    for char in sorted({char for at in live for char in form[at].chars}):
        if char in awaited:
            yield char
        else:
            kinds.setdefault(frozenset(at for at in live if char in form[at].chars), char)
    yield from kinds.values()


def _step(form: Form, must: Sequence[Glob], never: Sequence[Glob], state: _State, char: str) -> _State | None:
    """Where a character leads, or None when nothing that begins so can do."""
    form_at = {
        following
        for at in state.form
        if at < len(form) and char in form[at].chars
        for following in ((at, at + 1) if form[at].many else (at + 1,))
    }
    must_at = tuple(_advance(glob, at, char) for glob, at in zip(must, state.must, strict=True))
    never_at = tuple(_advance(glob, at, char) for glob, at in zip(never, state.never, strict=True))
    if not form_at or not all(must_at):
        return None
    if any(_takes_all(glob, at) for glob, at in zip(never, never_at, strict=True)):
        return None
    return _State(frozenset(form_at), must_at, never_at)


def _advance(glob: Glob, states: _States, char: str) -> _States:
    reached: set[int] = set()
    for at in states:
        if at == len(glob):
            continue
        if glob[at] is Wild.ANY:
            reached.add(at)
        elif glob[at] is Wild.ONE or glob[at] == char:
            reached.add(at + 1)
    return _spread(glob, reached)


def _spread(glob: Glob, states: Iterable[int]) -> _States:
    found = set(states)
    for at in tuple(found):
        end = at
        while end < len(glob) and glob[end] is Wild.ANY:
            end += 1
            found.add(end)
    return frozenset(found)


def _takes_all(glob: Glob, states: _States) -> bool:
    return bool(glob) and glob[-1] is Wild.ANY and len(glob) - 1 in states


def disjoint(left: Glob, right: Glob) -> bool:
    """Whether the fixed beginnings already differ, so that no text fits both; a cheap look before a search."""
    for one, other in zip(left, right, strict=False):
        if isinstance(one, Wild) or isinstance(other, Wild):
            return False
        if one != other:
            return True
    return False
