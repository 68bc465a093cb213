"""Which stored variable holds which access key: pure functions over masked variables and key lists.

CircleCI shows the last four characters of a stored value, and AWS lists key ids, so a tail tells which key sits in
which variable. A tail is evidence, not proof: four base-32 characters are about a million values, so a match needs
an independent witness before it counts as strong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from playbook.ports import AccessKey, MaskedVariable, SecretKind, Sink, StoredSecret, display

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from playbook.ports import LastUsed, SinkKind

NOT_SECRET: Final = re.compile(
    r"(?!.*(SECRET|ACCESS_?KEY|TOKEN|PASSWORD|CREDENTIAL))(.*_)?"
    r"(AWS_(DEFAULT_)?REGION|AWS_ACCOUNT(_ID)?|AWS_ROLE_ARN|AWS_(DEFAULT_)?PROFILE|AWS_DEFAULT_OUTPUT|AWS_PAGER"
    r"|AWS_ECR_(REGISTRY|ACCOUNT)_?(ID|URL)?|AWS_RESOURCE_NAME_PREFIX)(_.*)?",
    re.IGNORECASE,
)
"""Names that by AWS's own convention hold settings, not secrets; one that also speaks of a secret holds one."""
_ID_NAME: Final = re.compile(r"ACCESS_?KEY_?ID|AWS_?ACCESS_?KEY(?!_?(ID|SECRET))|AWS_?KEY_?ID", re.IGNORECASE)
_SECRET_NAME: Final = re.compile(
    r"SECRET_?ACCESS_?KEY|AWS_?SECRET(_?KEY)?|ACCESS_?KEY_?SECRET|SECRET_?KEY", re.IGNORECASE
)
_SIBLINGS: Final = (  # the most telling first
    ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"),
    ("ACCESS_KEY_ID", "SECRET_KEY"),
    ("ACCESS_KEY_ID", "ACCESS_KEY_SECRET"),
    ("ACCESS_KEY_ID", "SECRET"),
    ("ACCESS_KEY", "SECRET_ACCESS_KEY"),
    ("ACCESS_KEY", "SECRET_KEY"),
    ("KEY_ID", "SECRET_ACCESS_KEY"),
    ("KEY_ID", "SECRET_KEY"),
    ("KEY_ID", "KEY_SECRET"),
    ("KEY_ID", "SECRET"),
    ("_ID", "_SECRET"),
    ("_KEY", "_SECRET"),
)
CLOCKS_APART: Final = timedelta(minutes=5)
"""How far two platforms' clocks and roundings may differ before their times contradict each other."""
_TAIL: Final = re.compile(r"[A-Z2-7]{4}")
_WORD: Final = re.compile(r"[a-z0-9]+")
_COMMON_WORDS: Final = frozenset({"aws", "access", "key", "id", "secret", "circleci", "ci", "user", "bot", "the", "gh"})


@dataclass(frozen=True, kw_only=True)
class StoredVariable:
    """One variable in one sink."""

    sink: Sink
    variable: MaskedVariable

    @property
    def id(self) -> str:
        """Unique over all sinks: kind, sink and name."""
        return variable_id(self.sink, self.variable.name)


def variable_id(sink: Sink, name: str) -> str:
    """The id by which an inventory, a question and a key's `stored_in` mean the same variable."""
    return f"{sink.kind.value}:{sink.id}:{name}"


@dataclass(frozen=True, kw_only=True)
class Match:
    """What one variable holds, as far as the tails say."""

    stored: StoredVariable
    confidence: str
    """The values of `model.Confidence`."""
    evidence: tuple[str, ...]
    key: AccessKey | None = None
    secret_name: str | None = None
    """The variable beside it that holds the key's secret; None when none was found."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Everything the tails tell, both ways."""

    matches: tuple[Match, ...]
    """One for every variable that holds, or by its name should hold, an access key id."""
    others: tuple[StoredVariable, ...]
    """Variables that belong to no AWS pair and are not settings."""

    @property
    def hidden(self) -> tuple[Match, ...]:
        """The places that by their name hold a key id and do not show its tail: any key may be there."""
        return tuple(match for match in self.matches if match.stored.variable.tail is None)

    def may_hold(self, key_id: str) -> tuple[Match, ...]:
        """The places whose tail fits this key and others too."""
        return tuple(
            match
            for match in self.matches
            if match.confidence == "ambiguous" and match.stored.variable.tail == key_id[-4:]
        )

    def stored_in(self, key_id: str) -> tuple[Match, ...]:
        """All places of one key."""
        return tuple(match for match in self.matches if match.key is not None and match.key.id == key_id)


def is_id_name(name: str) -> bool:
    """Whether the name says that an access key id is stored here."""
    return bool(_ID_NAME.search(name)) and not _SECRET_NAME.search(name)


def secret_sibling(name: str, names: Iterable[str]) -> str | None:
    """Find, among the names of one sink, the variable that holds the secret of the key id in `name`.

    Prefixes, suffixes and the case of letters stay as they are: `TF_VAR_aws_access_key_id` has
    `TF_VAR_aws_secret_access_key`, `AWS_ACCESS_KEY_ID_STAGING` has `AWS_SECRET_ACCESS_KEY_STAGING`.
    """
    present = set(names)
    return next((candidate for _, candidate in _secret_names(name) if candidate in present), None)


def _secret_names(name: str) -> Iterator[tuple[int, str]]:
    for rank, (part, replacement) in enumerate(_SIBLINGS):
        for old, new in ((part, replacement), (part.lower(), replacement.lower())):
            at = name.rfind(old)
            if at >= 0:
                yield rank, name[:at] + new + name[at + len(old) :]


def correlate(
    variables: Sequence[StoredVariable],
    keys: Sequence[AccessKey],
    last_used: Mapping[str, LastUsed] | None = None,
    said: Mapping[str, str] | None = None,
) -> Correlation:
    """Match every variable with the keys of every account by tail; see `Match`.

    `said` names the key of a variable (by its id) that a canary printed or a person vouched for.
    """
    by_tail: dict[str, list[AccessKey]] = {}
    for key in keys:
        by_tail.setdefault(key.id[-4:], []).append(key)
    names: dict[tuple[SinkKind, str], list[str]] = {}
    for stored in variables:
        names.setdefault((stored.sink.kind, stored.sink.id), []).append(stored.variable.name)
    by_id = {key.id: key for key in keys if key.id}
    found = [
        _vouched(item, names[item.sink.kind, item.sink.id], by_id.get((said or {}).get(item.id, "")))
        or _match(item, names[item.sink.kind, item.sink.id], by_tail, last_used or {})
        for item in variables
    ]
    matches = _settle_claims([match for match in found if match is not None])
    paired = {match.stored.id for match in matches}
    paired |= {variable_id(match.stored.sink, match.secret_name) for match in matches if match.secret_name is not None}
    others = tuple(
        stored for stored in variables if stored.id not in paired and not NOT_SECRET.fullmatch(stored.variable.name)
    )
    return Correlation(matches=tuple(matches), others=others)


def _vouched(stored: StoredVariable, beside: list[str], key: AccessKey | None) -> Match | None:
    """What somebody vouches for, unless the tail says otherwise: a person may be wrong, a tail is what is stored."""
    tail = stored.variable.tail
    if key is None or (tail is not None and not key.id.endswith(tail or "-")):
        return None
    why = "a person or a canary said so"
    return Match(
        stored=stored,
        confidence="confirmed",
        evidence=(why, f"tail {tail} fits") if tail else (why, "CircleCI did not show its tail"),
        key=key,
        secret_name=secret_sibling(stored.variable.name, beside),
    )


@dataclass(frozen=True, kw_only=True)
class Held:
    """The key in the old AWS integration of a project, which only hands can change."""

    secret: StoredSecret
    key: AccessKey
    confidence: str
    evidence: str


def legacy_held(secrets: Iterable[StoredSecret], keys: Iterable[AccessKey]) -> tuple[Held, ...]:
    """Find the keys of legacy integrations.

    CircleCI may show the whole id there, which needs no second witness; of a tail alone nothing else speaks.
    """
    by_tail: dict[str, list[AccessKey]] = {}
    for key in keys:
        by_tail.setdefault(key.id[-4:], []).append(key)
    found: list[Held] = []
    for secret in secrets:
        if secret.kind is not SecretKind.LEGACY_AWS_KEY:
            continue
        fitting = by_tail.get(secret.tail or "", [])
        whole = [key for key in fitting if key.id == secret.detail]
        if whole:
            found.append(Held(secret=secret, key=whole[0], confidence="confirmed", evidence="CircleCI shows the id"))
        elif len(fitting) == 1 and not secret.detail:
            evidence = f"tail {secret.tail} fits one key only"
            found.append(Held(secret=secret, key=fitting[0], confidence="tail-only", evidence=evidence))
    return tuple(found)


def _match(
    stored: StoredVariable, beside: list[str], by_tail: Mapping[str, list[AccessKey]], last_used: Mapping[str, LastUsed]
) -> Match | None:
    name, tail = stored.variable.name, stored.variable.tail
    named = is_id_name(name)
    if _SECRET_NAME.search(name) or NOT_SECRET.fullmatch(name):
        return None
    candidates = by_tail.get(tail, []) if tail and _TAIL.fullmatch(tail) else []
    secret_name = secret_sibling(name, beside)
    if not named and not candidates:
        return None
    if not candidates:
        elsewhere = "is no key of these accounts: another account's, a deleted one's, or a stranger's"
        why = "CircleCI did not show its tail" if tail is None else f"tail {display(tail)} {elsewhere}"
        return Match(stored=stored, confidence="unknown", evidence=(why,), secret_name=secret_name)
    if len(candidates) > 1:
        listed = ", ".join(display(f"{key.account}/{key.user}/{key.id}") for key in candidates)
        why = f"tail {tail} fits {len(candidates)} keys: {listed}"
        return Match(stored=stored, confidence="ambiguous", evidence=(why,), secret_name=secret_name)
    key = candidates[0]
    witnesses = _witnesses(stored, key, named=named, paired=secret_name is not None, used=last_used.get(key.id))
    updated_at = stored.variable.updated_at
    # A project variable shows only when it was first made: an older date says nothing about its present value.
    if updated_at is not None and updated_at < key.created_at - CLOCKS_APART:
        confidence, witnesses = "tail-only", ("but it was last written before that key was made: look closely",)
    else:
        confidence = "strong" if witnesses else "tail-only"
    return Match(
        stored=stored,
        confidence=confidence,
        evidence=(f"tail {tail} fits one key only", *witnesses),
        key=key,
        secret_name=secret_name,
    )


def _settle_claims(matches: list[Match]) -> tuple[Match, ...]:
    """Leave a secret that several ids claim to those that hold the one key; writing it for another would break it."""
    claims: dict[tuple[Sink, str], list[Match]] = {}
    for match in matches:
        if match.secret_name is not None:
            claims.setdefault((match.stored.sink, match.secret_name), []).append(match)
    lost: set[str] = set()
    for rivals in claims.values():
        best = min(rivals, key=_rank)
        lost |= {
            match.stored.id for match in rivals if match is not best and (match.key is None or match.key != best.key)
        }
    return tuple(replace(match, secret_name=None) if match.stored.id in lost else match for match in matches)


def _rank(match: Match) -> int:
    """How telling the rule is, 0 first, that made the two names a pair."""
    return next(rank for rank, name in _secret_names(match.stored.variable.name) if name == match.secret_name)


def _witnesses(
    stored: StoredVariable, key: AccessKey, *, named: bool, paired: bool, used: LastUsed | None
) -> tuple[str, ...]:
    """What speaks for the match besides its tail."""
    found: list[str] = []
    # The organization's name stands in every project's slug and in many users' names: it witnesses nothing.
    place = _words(stored.sink.name) - _words(stored.sink.organization)
    shared = sorted(_words(key.user) & (place | _words(stored.variable.name)))
    if shared:
        found.append(f"the user's name and the place share '{shared[0]}'")
    written = stored.variable.updated_at or stored.variable.created_at
    if written is not None and written >= key.created_at - CLOCKS_APART and named and paired:
        found.append("the pair was written after the key was made")
    if used is not None and used.at is not None and written is not None and used.at >= written and named:
        found.append("the key was used after the variable was written")
    return tuple(found)


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if len(word) > 1} - _COMMON_WORDS
