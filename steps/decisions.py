"""What the responder decided about every exposed key and secret: the questions that several steps build on.

Asking again is free: an answer already in the journal is not asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from playbook.correlate import Correlation, Match, StoredVariable
from playbook.errors import GuardError, MissingAnswerError
from playbook.inventory import Inventory
from playbook.model import Choice, Confidence, Question, Severity, Strategy
from playbook.ports import AccessKey, SinkKind, display

if TYPE_CHECKING:
    from playbook.model import Ask, Case
    from playbook.ports import View

SEVERITIES = (
    Choice(value=Severity.CONFIRMED, title="confirmed - misuse was seen: contain first, builds break"),
    Choice(value=Severity.EXPOSED, title="exposed - a stranger could read them: replace with zero downtime"),
    Choice(value=Severity.ROUTINE, title="routine - nothing happened: replace with zero downtime"),
)
STRATEGIES = (
    Choice(value=Strategy.REPLACE, title="replace - new key in every place, proved, then the old one off"),
    Choice(value=Strategy.CONTAIN, title="contain - the old key off now (builds break), then replace it"),
    Choice(value=Strategy.DEACTIVATE, title="deactivate - off now, no replacement"),
    Choice(value=Strategy.KEEP, title="keep - leave it on, with a reason"),
)
REPLACING = frozenset({Strategy.REPLACE, Strategy.CONTAIN})
UNUSED_DAYS = 90


@dataclass(frozen=True, kw_only=True)
class KeyDecision:
    """One access key and what becomes of it."""

    key: AccessKey
    strategy: Strategy
    places: tuple[Match, ...]
    """The pairs of variables that hold it."""
    user_arn: str

    @property
    def lane(self) -> str:
        """The lane of everything done to its user."""
        return f"{self.key.account}/{self.key.user}"

    @property
    def credential(self) -> str:
        """The symbol of the key that will replace it."""
        return f"new:{self.lane}/{self.key.id}"


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Everything decided about keys, with what it rests on."""

    severity: Severity
    inventory: Inventory
    correlation: Correlation
    keys: tuple[KeyDecision, ...]

    def of_user(self, account: str, user: str) -> tuple[KeyDecision, ...]:
        """The decisions about one user's keys."""
        return tuple(item for item in self.keys if (item.key.account, item.key.user) == (account, user))


def ask_severity(ask: Ask) -> Severity:
    """How sure we are that strangers hold the secrets; it has no safe default."""
    question = Question(
        id="incident.severity",
        prompt="How serious is it?",
        kind=str,
        answer_key="incident.severity",
        choices=SEVERITIES,
        proposal=Severity.EXPOSED.value,
    )
    return Severity(ask(question))


def decide_keys(view: View, case: Case, ask: Ask) -> Decisions:
    """Ask what becomes of every key; refuse what could not be carried out, before anything is changed."""
    severity = ask_severity(ask)
    inventory = Inventory.from_lines(case.inventory)
    correlation = inventory.correlation()
    arns = {(user.account, user.name): user.arn for user in inventory.users}
    questions = [_strategy_question(key, correlation, inventory, severity) for key in inventory.keys]
    strategies = [Strategy(answer) for answer in ask.all(questions)]
    decided = tuple(
        KeyDecision(
            key=key,
            strategy=strategy,
            places=correlation.stored_in(key.id),
            user_arn=arns.get((key.account, key.user), ""),
        )
        for key, strategy in zip(inventory.keys, strategies, strict=True)
    )
    decisions = Decisions(severity=severity, inventory=inventory, correlation=correlation, keys=decided)
    for item in decided:
        _ask_reason(item, ask)
        _refuse_own_key(view, item)
        if item.strategy in REPLACING and item.places:
            _refuse_incomplete_pairs(item)
            _refuse_full_user(decisions, item)
            _ask_confidence(item, ask)
    return decisions


def _subject(key: AccessKey) -> dict[str, str]:
    return {"user": key.user, "account": key.account, "id": key.id}


def _strategy_question(
    key: AccessKey, correlation: Correlation, inventory: Inventory, severity: Severity
) -> Question[str]:
    places = correlation.stored_in(key.id)
    used = inventory.last_used.get(key.id)
    exposed = bool(places) and key.is_active
    if not exposed:
        proposal = Strategy.KEEP
    elif severity is Severity.CONFIRMED:
        proposal = Strategy.CONTAIN
    else:
        proposal = Strategy.REPLACE
    where = ", ".join(f"{place.stored.sink.name}:{place.stored.variable.name}" for place in places)
    return Question(
        id=f"keys.strategy:{key.account}/{key.user}/{key.id}",
        prompt=f"What becomes of {key.id} of {display(key.user)}?",
        kind=str,
        answer_key="keys.strategy",
        subject=_subject(key),
        choices=STRATEGIES,
        # A key that CircleCI does not hold was not exposed by it, and an inactive one cannot be used.
        default=None if exposed else Strategy.KEEP.value,
        proposal=proposal.value,
        detail={
            "account": key.account,
            "user": key.user,
            "key": key.id,
            "status": key.status.value,
            "last used": used.at.date().isoformat() if used and used.at else "never",
            "stored in": where or "nowhere in CircleCI",
            "confidence": _weakest(places),
        },
    )


def _weakest(places: tuple[Match, ...]) -> str:
    order = [confidence.value for confidence in Confidence]
    return min((place.confidence for place in places), key=order.index, default="")


def _ask_reason(item: KeyDecision, ask: Ask) -> None:
    if item.strategy is not Strategy.KEEP:
        return
    exposed = bool(item.places) and item.key.is_active
    ask(
        Question(
            id=f"keys.reason:{item.lane}/{item.key.id}",
            prompt=f"Why may {item.key.id} of {display(item.key.user)} stay on?",
            kind=str,
            answer_key="keys.reason",
            subject=_subject(item.key),
            default=None if exposed else "CircleCI does not hold it, or it is off already",
        )
    )


def _refuse_own_key(view: View, item: KeyDecision) -> None:
    acts = item.strategy is not Strategy.KEEP and (item.places or item.strategy is not Strategy.REPLACE)
    if acts and view.aws(item.key.account).own_key_id() == item.key.id:
        raise GuardError(
            f"This run signs with {item.key.id} itself: rotating it would lock the run out. Nothing was changed.",
            remedy=f"Run with another identity in {item.key.account}, or answer `keep` for this key with a reason.",
        )


def _refuse_incomplete_pairs(item: KeyDecision) -> None:
    for place in item.places:
        if place.secret_name is None:
            raise GuardError(
                f"{display(place.stored.sink.name)} holds the id of {item.key.id} in "
                f"{display(place.stored.variable.name)}, and no variable beside it for the secret. "
                "Nothing was changed.",
                remedy="Answer `keep` or `deactivate` for this key, or store its pair in one place and start again.",
            )


def _refuse_full_user(decisions: Decisions, item: KeyDecision) -> None:
    others = [other for other in decisions.of_user(item.key.account, item.key.user) if other is not item]
    if others:
        listed = ", ".join(f"{other.key.id} ({other.key.status.value})" for other in others)
        raise GuardError(
            f"{display(item.key.user)} in {item.key.account} has no free slot for a new key: IAM allows two, inactive "
            f"ones included, and beside {item.key.id} there is {listed}. Nothing was changed.",
            remedy="Delete the key that nobody uses by hand, or answer `keep` or `deactivate` for this one.",
        )


def _ask_confidence(item: KeyDecision, ask: Ask) -> None:
    weak = [place for place in item.places if not Confidence(place.confidence).reaches(Confidence.STRONG)]
    if not weak:
        return
    where = ", ".join(display(f"{place.stored.sink.name}:{place.stored.variable.name}") for place in weak)
    answer = ask(
        Question(
            id=f"keys.min_confidence:{item.lane}/{item.key.id}",
            prompt=f"Only the last four characters say that {where} holds {item.key.id}. Write the new key there?",
            kind=str,
            answer_key="keys.min_confidence",
            subject=_subject(item.key),
            choices=(
                Choice(value=Confidence.TAIL_ONLY, title="tail-only - yes, I checked it"),
                Choice(value=Confidence.STRONG, title="strong - no"),
                Choice(value=Confidence.CONFIRMED, title="confirmed - no, a human must have said so"),
            ),
        )
    )
    if Confidence(answer) is not Confidence.TAIL_ONLY:
        raise MissingAnswerError(
            f"Only the tail says that {where} holds {item.key.id}, and the answers ask for more. Nothing was changed.",
            answer_key="keys.min_confidence",
            remedy='Check those places, then answer `min_confidence = "tail-only"` for this key, or `keep`.',
        )


# --- Other secrets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VariableDecision:
    """One stored secret that is no AWS key of these accounts, and where its new value comes from."""

    stored: StoredVariable
    source: str
    """`env:NAME`, `file:PATH`, `command:[argv]`, `prompt`, `done-by-hand` or `keep`."""


SOURCES = (
    Choice(value="keep", title="keep - leave it"),
    Choice(value="prompt", title="prompt - type the new value now, hidden"),
    Choice(value="done-by-hand", title="done-by-hand - I change it myself; check that it was written"),
)


def decide_variables(decisions: Decisions, ask: Ask) -> tuple[VariableDecision, ...]:
    """Ask where the new value of every other secret comes from."""
    strangers = [match for match in decisions.correlation.matches if match.key is None]
    pairs = {match.stored.id: match for match in strangers}
    stored = [*(match.stored for match in strangers), *decisions.correlation.others]
    sources = ask.all([_source_question(item, pairs.get(item.id)) for item in stored])
    decided: list[VariableDecision] = []
    for item, source in zip(stored, sources, strict=True):
        decided.append(VariableDecision(stored=item, source=source))
        sibling = _sibling(item, pairs.get(item.id), decisions.inventory)
        if sibling is not None:
            # A pair is one credential: what is kept or done by hand for its id goes for its secret too.
            whole = source in {"keep", "done-by-hand"}
            answer = source if whole else ask(_source_question(sibling, None))
            decided.append(VariableDecision(stored=sibling, source=answer))
    ask.all([_keep_reason_question(decision.stored) for decision in decided if decision.source == "keep"])
    return tuple(decided)


def _sibling(item: StoredVariable, match: Match | None, inventory: Inventory) -> StoredVariable | None:
    if match is None or match.secret_name is None:
        return None
    return next(
        (
            other
            for other in inventory.variables
            if other.sink == item.sink and other.variable.name == match.secret_name
        ),
        None,
    )


def variable_subject(stored: StoredVariable) -> dict[str, str]:
    """What `[[variables]]` is matched with."""
    kind = "context" if stored.sink.kind is SinkKind.CONTEXT else "project"
    return {"name": stored.variable.name, kind: stored.sink.name}


def _source_question(stored: StoredVariable, match: Match | None) -> Question[str]:
    written = stored.variable.updated_at or stored.variable.created_at
    return Question(
        id=f"variables.value_from:{stored.id}",
        prompt=f"Where does the new value of {display(stored.variable.name)} in {display(stored.sink.name)} come from?",
        kind=str,
        answer_key="variables.value_from",
        subject=variable_subject(stored),
        choices=SOURCES,
        open_choices=True,
        proposal="keep",
        detail={
            "variable": stored.variable.name,
            "place": stored.sink.name,
            "written": written.date().isoformat() if written is not None else "unknown",
            "note": "; ".join(match.evidence) if match else "",
        },
    )


def _keep_reason_question(stored: StoredVariable) -> Question[str]:
    return Question(
        id=f"variables.reason:{stored.id}",
        prompt=f"Why may {display(stored.variable.name)} in {display(stored.sink.name)} stay?",
        kind=str,
        answer_key="variables.reason",
        subject=variable_subject(stored),
        detail={"variable": stored.variable.name, "place": stored.sink.name},
    )
