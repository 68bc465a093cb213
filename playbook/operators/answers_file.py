"""The answers file: its schema, how it is read, and how answers given in a case are printed as one.

The schema is closed: an unknown table or key is refused, because a misspelt `delete_after_grace` must not be silently
absent. No message quotes a value, since a secret pasted into `value_from` by mistake would then be printed.
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from glob import escape as escape_glob
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from playbook.decoding import met
from playbook.errors import UsageError
from playbook.ports import Waits, display

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from playbook.ports import Json

SIZE_MAX: Final = 1 << 20
LINE_MAX: Final = 4096
"""Characters: `tomllib` needs quadratic time for a long dotted key (6 s for one of 40,000 characters, measured)."""
TEXT_MAX: Final = 2000
_JSON_TEXT: Final = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
SOURCE: Final = (
    r"^(?:keep|done-by-hand|recreate|prompt|env:[A-Za-z_][A-Za-z0-9_]*|file:.+"
    rf"|command:\s*\[\s*{_JSON_TEXT}(?:\s*,\s*{_JSON_TEXT})*\s*\])\Z"
)
"""Where a new value comes from; a command is a JSON array of program and arguments, so no shell is involved."""

Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=TEXT_MAX, pattern=r"\S")]
Glob: TypeAlias = Annotated[str, Meta(max_length=TEXT_MAX)]
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
Seconds: TypeAlias = Annotated[int, Meta(ge=0, le=31_536_000)]
Hours: TypeAlias = Annotated[int, Meta(ge=0, le=87_600)]


# --- The schema -----------------------------------------------------------------------------------------------------


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file; a key that is absent is None."""


class IncidentTable(Table, frozen=True, kw_only=True):
    """What happened."""

    reference: Text | None = None
    severity: Literal["confirmed", "exposed", "routine"] | None = None
    exposed_from: Moment | None = None
    exposed_until: Moment | None = None
    block_new_work: bool | None = None
    cancel_workflows: Annotated[list[Text], Meta(min_length=1)] | None = None
    sessions_since: Moment | None = None


class CircleCiTable(Table, frozen=True, kw_only=True):
    """Which part of CircleCI is meant."""

    organizations: Annotated[list[Text], Meta(min_length=1)] | None = None


class KeyMatch(Table, frozen=True, kw_only=True):
    """Which access keys an entry speaks of."""

    user: Glob | None = None
    account: Glob | None = None
    id: Glob | None = None


class KeysEntry(Table, frozen=True, kw_only=True):
    """What becomes of the access keys that `match` fits."""

    match: KeyMatch
    strategy: Literal["replace", "contain", "deactivate", "oidc", "keep"] | None = None
    old_key: Literal["deactivate"] | None = None
    grace_hours: Hours | None = None
    delete_after_grace: bool | None = None
    canary: bool | None = None
    canary_workflows: list[Text] | None = None
    prove_at: list[Text] | None = None
    override: list[Literal["canary", "silence", "drain", "service", "lease", "config"]] | None = None
    reason: Text | None = None
    min_confidence: Literal["confirmed", "strong", "tail-only"] | None = None
    on_lost_secret: Literal["stop", "recreate"] | None = None
    rerun_failed: bool | None = None
    revoke_sessions: bool | None = None
    found: Literal["leave", "deactivate"] | None = None
    config_merged: bool | None = None


class VariableMatch(Table, frozen=True, kw_only=True):
    """Which stored variables and other secrets an entry speaks of."""

    kind: Glob | None = None
    detail: Glob | None = None
    name: Glob | None = None
    context: Glob | None = None
    project: Glob | None = None


class VariablesEntry(Table, frozen=True, kw_only=True):
    """Where the new value of the variables that `match` fits comes from."""

    match: VariableMatch
    value_from: Annotated[str, Meta(max_length=TEXT_MAX, pattern=SOURCE)] | None = None
    reason: Text | None = None


class OidcTable(Table, frozen=True, kw_only=True):
    """How jobs reach AWS once no key is stored."""

    role_name: Text | None = None
    context: Text | None = None
    trust: Literal["default", "project-id", "sub"] | None = None
    permissions: Literal["copy", "least-privilege"] | None = None
    branch: Text | None = None
    region: Text | None = None
    issuer: Text | None = None
    ecr_repositories: list[Text] | None = None


class ApproveTable(Table, frozen=True, kw_only=True):
    """The plan that was reviewed."""

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")] | None = None


class AnswersFile(Table, frozen=True, kw_only=True):
    """A whole file, checked."""

    incident: IncidentTable = IncidentTable()
    circleci: CircleCiTable = CircleCiTable()
    keys: list[KeysEntry] = []
    variables: list[VariablesEntry] = []
    waits: dict[str, Seconds] = {}
    oidc: OidcTable = OidcTable()
    approve: ApproveTable = ApproveTable()

    def entry(self, table: str, subject: Mapping[str, str]) -> tuple[int, KeysEntry | VariablesEntry] | None:
        """The first `[[keys]]` or `[[variables]]` whose `match` fits, with its number (from 1)."""
        entries: Sequence[KeysEntry | VariablesEntry] = self.keys if table == "keys" else self.variables
        numbered = enumerate(entries, start=1)
        return next(((number, entry) for number, entry in numbered if fits(entry.match, subject)), None)

    def value(self, table: str, key: str) -> Json:
        """What a plain table says under a key; None when it is silent."""
        return plain(getattr(getattr(self, table, None), key, None))


ENTRIES: Final = frozenset({"keys", "variables"})
"""The tables that are lists of entries with a `match`."""

ALLOWED: Final[Mapping[str, str]] = {
    "incident.reference": "a text that is not blank, in quotes",
    "incident.severity": '"confirmed", "exposed" or "routine"',
    "incident.exposed_from": "a time with its offset, such as 2022-12-21T00:00:00Z",
    "incident.exposed_until": "a time with its offset, such as 2023-01-04T23:59:59Z, not before exposed_from",
    "incident.block_new_work": "true or false",
    "incident.cancel_workflows": 'a list of workflow ids, or ["none"] or ["all"]',
    "incident.sessions_since": "a time with its offset, such as 2023-01-04T12:00:00Z",
    "circleci.organizations": 'a list of at least one name, such as ["gh/acme"]',
    "keys.match": 'a table such as { user = "ci-*", account = "123456789012" }; {} matches every key',
    "keys.match.user": 'a text in quotes in which * and ? match anything, such as "ci-*"',
    "keys.match.account": 'a text in quotes, such as "123456789012"',
    "keys.match.id": 'a text in quotes, such as "AKIA*"',
    "keys.strategy": '"replace", "contain", "deactivate", "oidc" or "keep"',
    "keys.old_key": '"deactivate"',
    "keys.grace_hours": "a whole number of hours, 0 to 87600",
    "keys.delete_after_grace": "true or false",
    "keys.canary": "true or false",
    "keys.canary_workflows": 'a list of workflows to run again as a canary, such as ["gh/acme/api:deploy"]',
    "keys.prove_at": 'a list of services and regions, such as ["ecr:eu-west-1", "s3:us-east-1"]',
    "keys.override": 'a list of gates to pass with `reason`: "canary", "silence", "drain", "service", '
    '"lease", "config"',
    "keys.reason": "a text that is not blank, in quotes",
    "keys.min_confidence": '"confirmed", "strong" or "tail-only"',
    "keys.on_lost_secret": '"stop" or "recreate"',
    "keys.rerun_failed": "true or false",
    "keys.revoke_sessions": "true or false",
    "keys.found": '"leave" or "deactivate"',
    "keys.config_merged": "true or false",
    "variables.match": 'a table such as { name = "NPM_TOKEN", context = "deploy" }; {} matches every variable',
    "variables.match.kind": 'a text in quotes, such as "checkout-key" or "*-token"',
    "variables.match.detail": 'a text in quotes, such as "deploy-key"',
    "variables.match.name": 'a text in quotes, such as "NPM_*"',
    "variables.match.context": 'a text in quotes, such as "deploy"',
    "variables.match.project": 'a text in quotes, such as "gh/acme/*"',
    "variables.value_from": (
        """"env:NAME", "file:PATH", 'command:["program", "argument"]', "done-by-hand", "recreate", "keep", """
        'or "prompt" where somebody sits at a terminal'
    ),
    "variables.reason": "a text that is not blank, in quotes",
    "waits": "a whole number of seconds, 0 or more, for any of " + ", ".join(Waits.__dataclass_fields__),
    "oidc.role_name": 'a text such as "circleci-{project}"',
    "oidc.context": 'a text such as "aws-oidc"',
    "oidc.trust": '"default", "project-id" or "sub"',
    "oidc.permissions": '"copy" or "least-privilege"',
    "oidc.branch": 'a text such as "main"',
    "oidc.region": 'a text such as "eu-west-1"',
    "oidc.issuer": 'a text such as "https://oidc.circleci.com/org/{org}"',
    "oidc.ecr_repositories": 'a list of ARNs of repositories, or ["*"]',
    "approve.digest": '"sha256:" and 64 hexadecimal digits, as `run --dry-run` prints it',
}
"""What each key may be, in words: for messages and for the documentation."""

_TABLES: Final[Mapping[str, type[Table]]] = {
    "incident": IncidentTable,
    "circleci": CircleCiTable,
    "keys": KeysEntry,
    "variables": VariablesEntry,
    "oidc": OidcTable,
}


def accepts(answer_key: str, value: object) -> bool:
    """Whether the file could hold this answer; a key that the file does not have accepts anything."""
    table, _, key = answer_key.partition(".")
    rule = _rules(table).get(key) if table in _TABLES else None
    if rule is None:
        return True
    try:
        msgspec.convert(value, met(rule))
    except msgspec.ValidationError:
        return False
    return True


@cache
def _rules(table: str) -> dict[str, Any]:
    """What each key of a table takes; working that out costs more than all the rest of an answer."""
    return get_type_hints(_TABLES[table], include_extras=True)


def fits(match: KeyMatch | VariableMatch, subject: Mapping[str, str]) -> bool:
    """Whether every glob of `match` fits; what it does not name may be anything."""
    globs = ((name, getattr(match, name)) for name in match.__struct_fields__)
    return all(name in subject and fnmatchcase(subject[name], glob) for name, glob in globs if glob is not None)


def plain(value: Any) -> Json:
    """A value of the schema as an answer: a time becomes ISO 8601 in UTC, everything else is JSON already."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    answer: Json = value
    return answer


# --- Reading --------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of an answers file, or a sentence about why it cannot be had."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"The answers file {display(str(path))} cannot be read: {error.strerror}. Nothing was changed.",
            remedy="Name a file you may read with --answers.",
        ) from None
    if len(content) > SIZE_MAX:
        raise _too_large()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The answers file {display(str(path))} is no UTF-8 text (byte {error.start}). Nothing was changed.",
            remedy="Save it as UTF-8.",
        ) from None


def parse(text: str) -> AnswersFile:
    """Check a whole file strictly; anything wrong is a `UsageError` that names the key and what is allowed."""
    if len(text) > SIZE_MAX or len(text.encode("utf-8", "surrogatepass")) > SIZE_MAX:
        raise _too_large()
    long = next((number for number, line in enumerate(text.split("\n"), start=1) if len(line) > LINE_MAX), None)
    if long is not None:
        raise _wrong(f"Line {long} of the answers file is longer than {LINE_MAX} characters.", "Break it up.")
    try:
        data = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at (?:line \d+, column \d+|end of document)\)\Z", str(error))
        raise _wrong(
            f"The answers file is no valid TOML {where.group() if where else ''}".rstrip() + ".",
            "Correct that place: texts stand in quotes, and no table or key may be given twice.",
        ) from None
    except (ValueError, RecursionError):
        raise _wrong(
            "The answers file is no valid TOML: a number is too long, or tables lie too deep in each other.",
            "Correct it; `docs/answers-file.md` shows every key.",
        ) from None
    return _checked(data)


def _checked(data: Mapping[str, Any]) -> AnswersFile:
    try:
        file = msgspec.convert(data, met(AnswersFile))
    except msgspec.ValidationError as error:
        raise _unfit(str(error)) from None
    unknown = sorted(set(file.waits) - set(Waits.__dataclass_fields__))
    if unknown:
        raise _wrong(f"The answers file has a wait that there is not: `waits.{display(unknown[0])}`.", _use("waits"))
    first, last = file.incident.exposed_from, file.incident.exposed_until
    try:
        ordered = first is None or last is None or first.astimezone(UTC) <= last.astimezone(UTC)
    except OverflowError:
        ordered = False
    if not ordered:
        raise _wrong("`incident.exposed_until` is before `incident.exposed_from`.", _use("incident.exposed_until"))
    return file


def _unfit(complaint: str) -> UsageError:
    """Turn msgspec's complaint into a sentence; only its path and the names in the schema are used."""
    what, _, path = complaint.rpartition(" - at `$")
    if not what:
        what, path = complaint, ""
    shown = path.rstrip("`").removeprefix(".").replace("[...]", "")
    # msgspec counts entries from 0; a person who looks for the second `[[keys]]` counts from 1.
    place = re.sub(r"\[(\d+)\]", lambda found: f"[{int(found.group(1)) + 1}]", shown)
    key = re.sub(r"\[\d+\]", "", shown)
    unknown = re.match(r"Object contains unknown field `(.*)`\Z", what, re.DOTALL)
    missing = re.match(r"Object missing required field `(.*)`\Z", what)
    if unknown:
        inside = f"`{display(place)}`" if place else "the answers file"
        name = display(unknown.group(1), 80)
        return _wrong(f"There is no key `{name}` in {inside}.", f"Use one of {', '.join(_names(key))}.")
    if missing:
        key = f"{key}.{missing.group(1)}"
        return _wrong(f"`{display(place)}` in the answers file lacks `{missing.group(1)}`.", _use(key))
    return _wrong(f"`{display(place)}` in the answers file is not what it may be.", _use(key))


def _names(table: str) -> list[str]:
    """The keys that a table may have, or the tables that the file may have."""
    prefix = f"{table}." if table else ""
    return list(dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in ALLOWED if name.startswith(prefix)))


def _use(key: str) -> str:
    if key in ALLOWED:
        return f"Write {key} as {ALLOWED[key]}."
    if key in ENTRIES:
        return f"Write it as entries, each under its own [[{key}]]."
    return f"Write it as a table, under [{key}]."


def _wrong(message: str, remedy: str) -> UsageError:
    return UsageError(f"{message} Nothing was changed.", remedy=remedy)


def _too_large() -> UsageError:
    return _wrong(f"The answers file is larger than {SIZE_MAX >> 20} MiB.", "Use globs in `match` to say it shorter.")


# --- Printing -------------------------------------------------------------------------------------------------------


HEADER: Final = """\
# The answers given in a case, for `rotation-playbook run --batch --answers FILE`. First match wins.
# `value_from = "prompt"` needs a terminal: for batch name env:, file: or command: instead.
"""


def dump(answers: Iterable[tuple[Mapping[str, Any], Json]]) -> str:
    """Print answers (each with its `answer_key` and `subject`) as an answers file that gives the same answers."""
    tables: dict[str, dict[str, Json]] = {}
    entries: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, Json]] = {}
    for question, value in answers:
        table, _, key = str(question["answer_key"]).partition(".")
        if table in ENTRIES:
            subject = tuple(sorted((str(name), str(text)) for name, text in question["subject"].items()))
            entries.setdefault((table, subject), {})[key] = value
        else:
            tables.setdefault(table, {})[key] = value
    blocks = [
        "\n".join([f"[{table}]", *(line(key, _as_toml(table, key, value)) for key, value in keys.items())])
        for table, keys in tables.items()
    ]
    # A subject with more names first: it is the narrower one where two of them match.
    for (table, subject), keys in sorted(entries.items(), key=lambda item: (item[0][0], -len(item[0][1]))):
        blocks.append("\n".join([f"[[{table}]]", match_line(dict(subject)), *(line(*pair) for pair in keys.items())]))
    return "\n\n".join([HEADER.rstrip(), *blocks]) + "\n"


def match_line(subject: Mapping[str, str]) -> str:
    """The `match` that fits this subject and no other."""
    inside = ", ".join(line(name, escape_glob(text)) for name, text in subject.items())
    return f"match = {{ {inside} }}" if inside else "match = {}"


def line(key: str, value: Json | datetime) -> str:
    """One `key = value`, with every character that a terminal might act on written as an escape."""
    if isinstance(value, (list, tuple)):
        items = ", ".join(line("x", item).removeprefix("x = ") for item in value)
        return f"{key} = [{items}]"
    return "".join(_escaped(character) for character in tomli_w.dumps({key: value}).strip())


def _escaped(character: str) -> str:
    # Structure is ASCII, so a hidden character can only stand in a text, where TOML has these escapes for it.
    return character if display(character) == character else f"\\U{ord(character):08x}"


_MOMENTS: Final = frozenset({"incident.exposed_from", "incident.exposed_until", "incident.sessions_since"})


def _as_toml(table: str, key: str, value: Json) -> Json | datetime:
    if f"{table}.{key}" in _MOMENTS:
        return msgspec.convert(value, met(datetime))
    return value
