"""Two texts as a unified diff, at a cost that grows with their length: lines that each has once are matched first.

The standard library compares every line with every other of the same text, which on 20,000 lines costs more than
everything else that is done with them; here it sees only what stands between two matched lines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CONTEXT: Final = 3
_NO_NEWLINE: Final = "\\ No newline at end of file\n"


def unified_diff(name: str, before: str, after: str) -> str:
    """The diff that `git apply` takes for one file; nothing before means a new file, and equal texts nothing."""
    # A parsed configuration has no line break but LF and CRLF, so these are the lines that git sees.
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    lines = [line for hunk in _grouped(list(_opcodes(old, new))) for line in (_header(hunk), *_body(hunk, old, new))]
    if not lines:
        return ""
    source = f"a/{name}" if before else "/dev/null"
    lines[:0] = [f"--- {source}\n", f"+++ b/{name}\n"]
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}" for line in lines)


_Opcode = tuple[str, int, int, int, int]
"""A kind, a span of the old lines, and the span of the new ones that takes its place."""


def _opcodes(old: Sequence[str], new: Sequence[str]) -> Iterator[_Opcode]:
    i = j = 0
    for k, m in [*_anchors(old, new), (len(old), len(new))]:
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, old[i:k], new[j:m]).get_opcodes():
            yield tag, i + i1, i + i2, j + j1, j + j2
        if k < len(old):
            yield "equal", k, k + 1, m, m + 1
        i, j = k + 1, m + 1


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """The longest run of places of lines that both texts have exactly once, in the order of both."""
    in_old, in_new = Counter(old), Counter(new)
    where = {line: place for place, line in enumerate(new) if in_new[line] == 1}
    pairs = [(place, where[line]) for place, line in enumerate(old) if in_old[line] == 1 and line in where]
    # Patience sorting: the ends of the best runs by length, and for each pair the one before it.
    ends: list[int] = []
    chosen: list[int] = []
    before: list[int] = []
    for number, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        before.append(chosen[length - 1] if length else -1)
        ends[length : length + 1] = [place]
        chosen[length : length + 1] = [number]
    run: list[tuple[int, int]] = []
    number = chosen[-1] if chosen else -1
    while number >= 0:
        run.append(pairs[number])
        number = before[number]
    return run[::-1]


def _grouped(codes: list[_Opcode]) -> Iterator[list[_Opcode]]:
    """The changes in hunks, each with a few equal lines around; two that are near each other are one."""
    merged: list[_Opcode] = []
    for code in codes:
        tag, i1, i2, j1, j2 = code
        if tag == "equal" and merged and merged[-1][0] == "equal":
            merged[-1] = ("equal", merged[-1][1], i2, merged[-1][3], j2)
        elif i1 < i2 or j1 < j2:
            merged.append(code)
    hunk: list[_Opcode] = []
    for place, (tag, i1, i2, j1, j2) in enumerate(merged):
        if tag != "equal":
            hunk.append((tag, i1, i2, j1, j2))
            continue
        first, last = place == 0, place == len(merged) - 1
        if not first and not last and i2 - i1 <= 2 * _CONTEXT:
            hunk.append((tag, i1, i2, j1, j2))
            continue
        if not first:
            hunk.append((tag, i1, min(i2, i1 + _CONTEXT), j1, min(j2, j1 + _CONTEXT)))
            yield hunk
        hunk = [] if last else [(tag, max(i1, i2 - _CONTEXT), i2, max(j1, j2 - _CONTEXT), j2)]
    if any(tag != "equal" for tag, *_ in hunk):
        yield hunk


def _header(hunk: list[_Opcode]) -> str:
    (_, i1, _, j1, _), (_, _, i2, _, j2) = hunk[0], hunk[-1]
    return f"@@ -{_range(i1, i2)} +{_range(j1, j2)} @@\n"


def _range(start: int, stop: int) -> str:
    length = stop - start
    if length == 1:
        return str(start + 1)
    # A hunk without lines of one side names the line before it.
    return f"{start + 1 if length else start},{length}"


def _body(hunk: list[_Opcode], old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    for tag, i1, i2, j1, j2 in hunk:
        if tag == "equal":
            yield from (f" {line}" for line in old[i1:i2])
        else:
            yield from (f"-{line}" for line in old[i1:i2])
            yield from (f"+{line}" for line in new[j1:j2])
