"""A script without the stored keys it hands on; pure functions over the text of one `run` step.

Only lines that say something of a key are changed. What cannot be taken out without guessing is an obstacle, and then
nothing of the script is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from playbook.circleci_config import shell
from playbook.circleci_config.shell import SECRET_KEY, SESSION, Form, KeyLine, Line, Origin

_ASSIGNMENT: Final = re.compile(
    r"\b(?:AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|AWS_SECURITY_TOKEN)=" + shell.VALUE + r"\s*"
)
_REGION: Final = re.compile(r"(?<![\w-])[a-z]{2}(?:-[a-z]+)+-\d(?![\w-])")
_OPENS: Final = re.compile(r"(?:\bthen|\belse|\bdo|\{)\s*(?:#.*)?$")
_CLOSES: Final = re.compile(r"^\s*(?:fi|else|elif\b.*|done\b|\});?\s*(?:#.*)?$")
_HOUSEKEEPING: Final = re.compile(
    r"^\s*(?:#.*|set\s+[-+]\w.*|#!.*|:|mkdir\s+(?:-\w+\s+)*\S*\.aws/?\S*|touch\s+\S*\.aws/\S+|chmod\s+\S+\s+\S*\.aws\S*"
    r"|rm\s+(?:-\w+\s+)*\S*\.aws/\S+|echo\s+[\"']?[\w .,:!'-]*[\"']?|aws\s+--version|source\s+\$\{?BASH_ENV\}?)?\s*$"
)
"""Lines that are of no use once the keys are gone."""
_WHOLE_COMMANDS: Final = re.compile(
    r"^\s*(?:npx\s+|yarn\s+|\S*/)?(?:ecs-cli\s+configure\s+profile|serverless\s+config\s+credentials|sls\s+config\s+credentials)\b"
)


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """One script as it should be."""

    text: str
    empty: bool = False
    """Nothing that does anything is left."""
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Work:
    lines: list[str | None]
    obstacles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rewritten(script: str) -> Rewritten:
    """The script without its stored keys, with the session's token wherever the key is passed on."""
    work = _Work(lines=list(script.split("\n")))
    logical = {line.first: line for line in shell.logical_lines(script)}
    keys = [key for key in shell.read(script).keys if key.origin is not Origin.DUMMY]
    credentials_file = any(key.form is Form.FILE and key.origin in {Origin.STATIC, Origin.LITERAL} for key in keys)
    for first in dict.fromkeys(key.first for key in keys):
        here = [key for key in keys if key.first == first]
        stored = [key for key in here if key.origin in {Origin.STATIC, Origin.LITERAL}]
        if stored:
            _without(logical[first], stored, work)
        elif credentials_file and all(key.form is Form.FILE for key in here):
            _dropped(logical[first], lambda part: ".aws/credentials" in part, work)
        passed = [key for key in here if key.form is Form.PASSED]
        if passed and SESSION not in script:
            _with_token(logical[first], passed, work)
    if credentials_file:
        _leftover_headers(list(logical.values()), work)
    undisturbed_lines = (_undisturbed(line) for line in _closed_blocks(work.lines))
    lines = [line for line in undisturbed_lines if line is not None]
    text = "\n".join(lines)
    if _balance(text) != _balance(script):
        work.obstacles.append("a key is handed on by a whole block of commands")
    for region in dict.fromkeys(_REGION.findall(script)):
        if region not in text:
            work.notes.append(f"the region {region} went with the key; --region gives the login one")
    return Rewritten(
        text=text,
        empty=text != script and all(_HOUSEKEEPING.match(line) for line in lines),
        obstacles=tuple(dict.fromkeys(work.obstacles)),
        notes=tuple(dict.fromkeys(work.notes)),
    )


def _balance(script: str) -> tuple[int, ...]:
    """How many more blocks are opened than closed, of each kind."""
    bare = re.sub(r"\$\{[^}]*\}|'[^']*'|\"(?:[^\"\\]|\\.)*\"|<<[^<>]*>>", "", script)
    pairs = (
        (r"\bif\b", r"\bfi\b"),
        (r"\bdo\b", r"\bdone\b"),
        (r"\bcase\b", r"\besac\b"),
        (r"\{", r"\}"),
        (r"\(", r"\)"),
    )
    return tuple(len(re.findall(opens, bare)) - len(re.findall(closes, bare)) for opens, closes in pairs)


def undisturbed(script: str) -> str:
    """The script, so that a login before it stands: `~/.aws` may be there already, and the session keeps its token."""
    lines = (_undisturbed(line) for line in script.split("\n"))
    return "\n".join(line for line in lines if line is not None)


def _undisturbed(line: str) -> str | None:
    if not shell.DISTURBS.search(line):
        return line
    if "unset" in line:
        return None
    return re.sub(r"\bmkdir\s+", "mkdir -p ", line, count=1)


def parts_of(text: str) -> list[tuple[str, str]]:
    """The commands of one logical line at its top level, each with the separator that follows it."""
    parts: list[tuple[str, str]] = []
    quote = ""
    depth = start = index = 0
    while index < len(text):
        letter = text[index]
        if letter == "\\":
            index += 2
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'`":
            quote = letter
        elif letter in "({":
            depth += 1
        elif letter in ")}":
            depth -= 1
        elif depth <= 0 and (text.startswith("&&", index) or letter == ";"):
            size = 2 if letter == "&" else 1
            parts.append((text[start:index], text[index : index + size]))
            index += size
            start = index
            continue
        index += 1
    parts.append((text[start:], ""))
    return parts


def _without(line: Line, keys: list[KeyLine], work: _Work) -> None:
    forms = {key.form for key in keys}
    if Form.ARGUMENT in forms:
        _without_arguments(line, work)
    if Form.PASSED in forms:
        _own_names(line, [key for key in keys if key.form is Form.PASSED], work)
    if forms & {Form.CONFIGURE, Form.FILE}:
        _dropped(line, _says_key, work)
    if Form.EXPORT in forms:
        _without_exports(line, work)
    if Form.PREFIX in forms:
        _without_prefix(line, work)


def _says_key(part: str) -> bool:
    if ".aws/credentials" in part or re.search(r"aws_(?:access_key_id|secret_access_key|session_token)", part):
        return True
    if re.search(r"_ACCESS_KEY.*\|\s*aws\s+configure\b|\baws\s+configure\b[^|;&]*<<<", part):
        return True
    return bool(_WHOLE_COMMANDS.match(part))


def _dropped(line: Line, unwanted: object, work: _Work) -> None:
    """Drop the commands of a line that are unwanted; the others stay."""
    text = "\n".join(part for part in work.lines[line.first : line.last + 1] if part is not None)
    if "\n" in line.text and re.search(r"<<-?", line.text):
        if re.search(r"\.aws/credentials|\baws\s+configure\b", line.text.split("\n")[0]):
            work.lines[line.first : line.last + 1] = [None] * (line.last - line.first + 1)
        else:
            for number in range(line.first, line.last + 1):
                if re.search(r"aws_(?:access_key_id|secret_access_key|session_token)\s*=", work.lines[number] or ""):
                    work.lines[number] = None
        return
    parts = parts_of(text)
    kept = [(part, mark) for part, mark in parts if not unwanted(part)]  # type: ignore[operator]  # a predicate
    if not [part for part, _ in kept if part.strip(" \t\n\\")]:
        work.lines[line.first : line.last + 1] = [None] * (line.last - line.first + 1)
        return
    if len(kept) == len(parts):
        return
    opened = [part for part, _ in parts if re.match(r"\s*(?:if|for|while|until|case)\b", part)]
    if opened:
        work.obstacles.append("a key is handed on in the middle of a condition on one line")
        return
    indent = text[: len(text) - len(text.lstrip())]
    joined = "".join(part + mark for part, mark in kept).strip(" \t\n\\")
    joined = re.sub(r"(?:&&|;)\s*\\?\s*$", "", joined).rstrip()
    _put(line, (indent + joined).split("\n"), work)


def _put(line: Line, lines: list[str], work: _Work) -> None:
    size = line.last - line.first + 1
    if len(lines) > size:
        lines = [*lines[: size - 1], "\n".join(lines[size - 1 :])]
    work.lines[line.first : line.last + 1] = [*lines, *([None] * (size - len(lines)))]


def _without_exports(line: Line, work: _Work) -> None:
    def only_keys(part: str) -> bool:
        bare = part.strip()
        echoed = re.match(r"(?:echo|printf)\s+(?:-\w+\s+)*", bare)
        if echoed and "BASH_ENV" in bare:
            bare = re.sub(r">>?\s*\"?\$\{?BASH_ENV\}?\"?", "", bare[echoed.end() :]).strip().strip("\"'")
            bare = bare.replace('\\"', '"').replace("\\$", "$").replace("\\n", " ")
        if bare.startswith("if ") or not _ASSIGNMENT.search(bare):
            return False
        rest = _ASSIGNMENT.sub("", re.sub(r"\b(?:export|declare -x)\b", "", bare))
        return not rest.strip(" ;\"'")

    text = "\n".join(part for part in work.lines[line.first : line.last + 1] if part is not None)
    if any(only_keys(part) for part, _ in parts_of(text)):
        _dropped(line, only_keys, work)
        return
    if re.match(r"\s*export\s", text) and ";" not in text and "&&" not in text:
        _put(line, _ASSIGNMENT.sub("", text).rstrip().split("\n"), work)
        return
    work.obstacles.append("a key is assigned in a line that does more than that")


def _without_prefix(line: Line, work: _Work) -> None:
    for number in range(line.first, line.last + 1):
        physical = work.lines[number]
        if physical is None or not _ASSIGNMENT.search(physical):
            continue
        indent = physical[: len(physical) - len(physical.lstrip())]
        stripped = _ASSIGNMENT.sub(_unless_dummy, physical).strip()
        work.lines[number] = None if stripped in {"\\", ""} else indent + stripped


def _unless_dummy(found: re.Match[str]) -> str:
    return found[0] if shell.dummy_value(found[0].partition("=")[2]) else ""


def _without_arguments(line: Line, work: _Work) -> None:
    if _WHOLE_COMMANDS.match(line.text):
        _dropped(line, _says_key, work)
        return
    if not shell.KEY_TOOLS.match(line.text):
        work.obstacles.append("a key is an argument of a program that is not known to read a role's credentials")
        return
    for number in range(line.first, line.last + 1):
        physical = work.lines[number]
        if physical is None or not shell.KEY_OPTION.search(physical):
            continue
        stripped = shell.KEY_OPTION.sub("", physical)
        work.lines[number] = None if stripped.strip() in {"\\", ""} and number < line.last else stripped.rstrip()


def _own_names(line: Line, keys: list[KeyLine], work: _Work) -> None:
    """`-e AWS_ACCESS_KEY_ID=$PROD_KEY` takes the variable of the same name, which holds the role's."""
    for number in range(line.first, line.last + 1):
        physical = work.lines[number]
        for key in keys:
            if physical is not None:
                pattern = re.compile(
                    re.escape(key.name) + r"=(?P<quote>\\?[\"']?)\$\{?" + re.escape(key.source) + r"\}?"
                )
                physical = pattern.sub(rf"{key.name}=\g<quote>${key.name}", physical)
        work.lines[number] = physical


def _with_token(line: Line, keys: list[KeyLine], work: _Work) -> None:
    """The session's token beside the secret, in the same form; a role's key is of no use without it."""
    if all(key.name != SECRET_KEY for key in keys):
        return
    for number in range(line.first, line.last + 1):
        physical = work.lines[number]
        if physical is None or SECRET_KEY not in physical:
            continue
        option = re.search(
            r"(?P<option>(?:-e|--env|--build-arg)[= ]\s*\\?[\"']?)"
            + SECRET_KEY
            + r"(?:=\\?[\"']?\$\{?"
            + SECRET_KEY
            + r"\}?)?\\?[\"']?",
            physical,
        )
        if option:
            token = option[0].replace(SECRET_KEY, SESSION)
            work.lines[number] = f"{physical[: option.end()]} {token}{physical[option.end() :]}"
            if "build-arg" in option[0]:
                work.notes.append(f"the Dockerfile must take the build argument {SESSION} too")
        elif re.match(r"\s*(?:echo|printf)\b", physical) and line.first == line.last:
            work.lines[number] = f"{physical}\n{physical.replace(SECRET_KEY, SESSION)}"
            work.notes.append(f"a file receives {SESSION} beside the key; what reads it must use it, within the hour")
        return


def _leftover_headers(lines: list[Line], work: _Work) -> None:
    for line in lines:
        if work.lines[line.first] is not None and re.search(r">>?\s*\S*\.aws/credentials\b", line.text):
            _dropped(line, lambda part: ".aws/credentials" in part, work)


def _closed_blocks(lines: list[str | None]) -> list[str]:
    """Without the dropped lines; a block that lost its last command gets `:`, since a shell refuses an empty one."""
    kept: list[str] = []
    dropped = False
    for line in lines:
        if line is None:
            dropped = True
            continue
        if dropped and _CLOSES.match(line):
            before = next(
                (earlier for earlier in reversed(kept) if earlier.strip() and not earlier.lstrip().startswith("#")), ""
            )
            if _OPENS.search(before):
                indent = before[: len(before) - len(before.lstrip())]
                kept.append(f"{indent}  :")
        if line.strip():
            dropped = False
        kept.append(line)
    return [part for line in kept for part in line.split("\n")]
