"""What the responder decided about every exposed key and secret: the questions that several steps build on.

Asking again is free: an answer already in the journal is not asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from playbook.correlate import Correlation, Match, StoredVariable
from playbook.errors import AwsError, GuardError
from playbook.inventory import Inventory
from playbook.model import Choice, Confidence, Question, Severity, Strategy
from playbook.ports import AccessKey, LastUsed, SinkKind, display
from playbook.scope import ask_severity
from steps.key_slots import UNUSED, Slots, Use, choose_slots, use_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.model import Ask, Case
    from playbook.ports import View

STRATEGIES = (
    Choice(value=Strategy.REPLACE, title="replace - new key in every place, proved, then the old one off"),
    Choice(value=Strategy.CONTAIN, title="contain - the old key off now (builds break), then replace it"),
    Choice(value=Strategy.DEACTIVATE, title="deactivate - off now, no replacement"),
    Choice(value=Strategy.OIDC, title="oidc - its jobs get a role instead; the key goes off at the cut-over"),
    Choice(value=Strategy.KEEP, title="keep - leave it on, with a reason"),
)
GRACE_HOURS = 24
GONE = "NoSuchEntity"
REPLACING = frozenset({Strategy.REPLACE, Strategy.CONTAIN})
WRITING = frozenset({*REPLACING, Strategy.OIDC})
"""What changes the places of a key, and so has to know each of them for sure."""


@dataclass(frozen=True, kw_only=True)
class KeyDecision:
    """One access key and what becomes of it."""

    key: AccessKey
    strategy: Strategy
    places: tuple[Match, ...]
    """The pairs of variables that hold it."""
    doubtful: tuple[Match, ...]
    """The places that may hold it, or another key with the same tail."""
    by_hand: tuple[str, ...]
    """The projects whose old AWS integration holds it, which only hands can change."""
    user_arn: str
    room: tuple[AccessKey, ...] = ()
    """The unused keys of the same user that are deleted to make room for its replacement."""

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


def decide_keys(view: View, case: Case, ask: Ask) -> Decisions:
    """Ask what becomes of every key; refuse what could not be carried out, before anything is changed."""
    severity = ask_severity(ask)
    inventory = Inventory.from_lines(case.inventory)
    correlation = inventory.correlation()
    arns = {(user.account, user.name): user.arn for user in inventory.users}
    questions = [_strategy_question(view, key, correlation, inventory, severity) for key in inventory.keys]
    strategies = [Strategy(answer) for answer in ask.all(questions)]
    decided = tuple(
        KeyDecision(
            key=key,
            strategy=strategy,
            places=correlation.stored_in(key.id),
            doubtful=correlation.may_hold(key.id),
            by_hand=_by_hand(inventory, key),
            user_arn=arns.get((key.account, key.user), ""),
            room=_ask_for_room(view, key, correlation, inventory, ask) if strategy in REPLACING else (),
        )
        for key, strategy in zip(inventory.keys, strategies, strict=True)
    )
    decisions = Decisions(severity=severity, inventory=inventory, correlation=correlation, keys=decided)
    for item in decided:
        _ask_reason(item, ask)
        if item.strategy in WRITING and item.places:
            _ask_confidence(item, ask)
    return decisions


def ask_grace_hours(subject: Mapping[str, str], ask: Ask) -> int:
    """How long a key stays, switched off, before it may be deleted; nobody is bothered."""
    return int(
        ask(
            Question(
                id=f"keys.grace_hours:{subject['account']}/{subject['user']}/{subject['id']}",
                prompt=f"How many hours does {subject['id']} stay, switched off, before it may be deleted?",
                kind=int,
                answer_key="keys.grace_hours",
                subject=subject,
                default=GRACE_HOURS,
                optional=True,
            )
        )
    )


def _by_hand(inventory: Inventory, key: AccessKey) -> tuple[str, ...]:
    return tuple(held.secret.place for held in inventory.legacy.values() if held.key == key)


def _subject(key: AccessKey) -> dict[str, str]:
    return {"user": key.user, "account": key.account, "id": key.id}


def _strategy_question(
    view: View, key: AccessKey, correlation: Correlation, inventory: Inventory, severity: Severity
) -> Question[str]:
    places = correlation.stored_in(key.id)
    used = inventory.last_used.get(key.id)
    doubtful = correlation.may_hold(key.id)
    by_hand = _by_hand(inventory, key)
    exposed = bool(places or doubtful or by_hand) and key.is_active
    refused = _refused(view, key, correlation, inventory)
    proposal = propose(severity, key, used, stored=bool(places), at=datetime.fromisoformat(inventory.generated_at))
    if proposal in refused or not (exposed or places):
        proposal = Strategy.KEEP
    held = [f"{place.stored.sink.name}:{place.stored.variable.name}" for place in places or doubtful]
    where = ", ".join([*held, *(f"the AWS integration of {project}" for project in by_hand)])
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
        refused=refused,
        detail={
            "account": key.account,
            "user": key.user,
            "key": key.id,
            "status": key.status.value,
            "last used": used.at.date().isoformat() if used and used.at else "never",
            "stored in": where or "nowhere in CircleCI",
            "confidence": _weakest(places or doubtful),
            "opens": _opens(inventory, key),
            "note": next(iter(refused.values()), _hidden_note(correlation) if key.is_active else ""),
        },
    )


def propose(severity: Severity, key: AccessKey, used: LastUsed | None, *, stored: bool, at: datetime) -> Strategy:
    """What a responder would most likely do with an exposed key; `at` is when the inventory was read."""
    if not key.is_active:
        # Off already, as after `contain`: its builds are down until it is replaced.
        return Strategy.CONTAIN if stored and severity is not Severity.ROUTINE else Strategy.KEEP
    if severity is Severity.CONFIRMED:
        return Strategy.CONTAIN if stored else Strategy.DEACTIVATE
    if use_of(used, at) in {Use.NEVER, Use.LONG_AGO} and key.created_at < at - UNUSED:
        return Strategy.DEACTIVATE
    return Strategy.REPLACE


def _slots(
    view: View, key: AccessKey, correlation: Correlation, inventory: Inventory
) -> tuple[Slots, dict[str, LastUsed]]:
    """Which keys make room for the replacement of this one, by uses that are read now."""
    mine = (key.account, key.user)
    others = [other for other in inventory.keys if (other.account, other.user) == mine and other.id != key.id]
    if not others:
        return Slots(), {}
    aws = view.aws(key.account)
    used: dict[str, LastUsed] = {}
    gone: set[str] = set()
    for other in others:
        try:
            used[other.id] = aws.last_used(other.id)
        except AwsError as error:
            if error.code == GONE:
                gone.add(other.id)
            # Any other answer that did not come proves nothing.
    # Every step decides anew, and by then the key that made room is deleted.
    others = [other for other in others if other.id not in gone]
    held = {other.id for other in others if correlation.stored_in(other.id) or correlation.may_hold(other.id)}
    stored = frozenset(held | {other.id for other in others if _by_hand(inventory, other)})
    now = datetime.fromisoformat(inventory.generated_at)
    return choose_slots(key, others, last_used=used, stored=stored, now=now), used


def _ask_for_room(
    view: View, key: AccessKey, correlation: Correlation, inventory: Inventory, ask: Ask
) -> tuple[AccessKey, ...]:
    """Have the deletion of each key that makes room agreed to: deleting is never implied by a strategy."""
    slots, used = _slots(view, key, correlation, inventory)
    for victim in slots.free:
        last = used[victim.id].at
        agreed = ask(
            Question(
                id=f"keys.delete_to_make_room:{victim.account}/{victim.user}/{victim.id}",
                prompt=f"{display(key.user)} has no free slot. Delete {victim.id} ({victim.status.value}, last used "
                f"{last.date().isoformat() if last else 'never'}, stored nowhere) for good to make room?",
                kind=bool,
                answer_key="keys.delete_after_grace",
                subject=_subject(victim),
            )
        )
        if not agreed:
            raise GuardError(
                f"{key.id} of {display(key.user)} cannot be replaced without the slot that {victim.id} takes, and its "
                "deletion was not agreed to. Nothing was changed.",
                remedy=f"Give {key.id} another strategy, or set delete_after_grace = true for {victim.id}.",
            )
    return slots.free


def _refused(view: View, key: AccessKey, correlation: Correlation, inventory: Inventory) -> dict[str, str]:
    """The strategies that could not be carried out or would lock us out, each with the reason."""
    places, doubtful = correlation.stored_in(key.id), correlation.may_hold(key.id)
    if view.aws(key.account).own_key_id() == key.id:
        why = f"this run signs with {key.id} itself and would lock itself out; run with another identity for that"
        return dict.fromkeys((*WRITING, Strategy.DEACTIVATE), why)
    if doubtful:
        where = f"{display(doubtful[0].stored.sink.name)}:{display(doubtful[0].stored.variable.name)}"
        return dict.fromkeys(WRITING, f"the tail in {where} fits several keys, so nothing says which one it holds")
    if by_hand := _by_hand(inventory, key):
        why = f"the AWS integration of {display(by_hand[0])} holds it too; clear that by hand and start again"
        return dict.fromkeys(WRITING, why)
    if not places:
        return {}
    halves = [place for place in places if place.secret_name is None]
    if halves:
        where = f"{display(halves[0].stored.sink.name)}:{display(halves[0].stored.variable.name)}"
        return dict.fromkeys(WRITING, f"no variable beside {where} holds the secret that belongs to it")
    slots, _ = _slots(view, key, correlation, inventory)
    if slots.refusal:
        return dict.fromkeys(REPLACING, slots.refusal)
    return {}


def _hidden_note(correlation: Correlation) -> str:
    count = len(correlation.hidden)
    return f"{count} place(s) do not show their tail and may hold it too" if count else ""


def _opens(inventory: Inventory, key: AccessKey) -> str:
    """What the key may do at most, where that is alarming."""
    users = (user for user in inventory.users if (user.account, user.name) == (key.account, key.user))
    return next((display("; ".join(user.reach)) for user in users), "")


def _weakest(places: tuple[Match, ...]) -> str:
    order = [confidence.value for confidence in Confidence]
    return min((place.confidence for place in places), key=order.index, default="")


def _ask_reason(item: KeyDecision, ask: Ask) -> None:
    if item.strategy is not Strategy.KEEP:
        return
    exposed = bool(item.places or item.doubtful or item.by_hand) and item.key.is_active
    ask(
        Question(
            id=f"keys.reason:{item.lane}/{item.key.id}",
            prompt=f"Why may {item.key.id} of {display(item.key.user)} stay on?",
            kind=str,
            answer_key="keys.reason",
            subject=_subject(item.key),
            default=None if exposed else "no place that shows its tail holds it, or it is off already",
            optional=not exposed,
        )
    )


def _ask_confidence(item: KeyDecision, ask: Ask) -> None:
    weak = [place for place in item.places if not Confidence(place.confidence).reaches(Confidence.STRONG)]
    if not weak:
        return
    where = ", ".join(display(f"{place.stored.sink.name}:{place.stored.variable.name}") for place in weak)
    ask(
        Question(
            id=f"keys.min_confidence:{item.lane}/{item.key.id}",
            prompt=f"Only the last four characters say that {where} holds {item.key.id}. "
            f"{'Remove it there' if item.strategy is Strategy.OIDC else 'Write the new key there'}?",
            kind=str,
            answer_key="keys.min_confidence",
            subject=_subject(item.key),
            choices=(
                Choice(value=Confidence.TAIL_ONLY, title="tail-only - yes, I checked that place"),
                Choice(value="no", title="no - stop here, nothing is changed", declines=True),
            ),
        )
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
    kept = [decision.stored for decision in decided if decision.source == "keep"]
    ask.all([_keep_reason_question(item, is_stranger=item.id in pairs) for item in kept])
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


def _keep_reason_question(stored: StoredVariable, *, is_stranger: bool) -> Question[str]:
    """A human is asked only about a key that nobody can explain: most variables are kept because nothing is wrong."""
    return Question(
        id=f"variables.reason:{stored.id}",
        prompt=f"Why may {display(stored.variable.name)} in {display(stored.sink.name)} stay?",
        kind=str,
        answer_key="variables.reason",
        subject=variable_subject(stored),
        default="no reason was given",
        optional=not is_stranger,
        detail={"variable": stored.variable.name, "place": stored.sink.name},
    )
