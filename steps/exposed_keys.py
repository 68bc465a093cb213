"""Which keys containment is about, and what CloudTrail shows of them: shared by the steps that contain and sweep."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from playbook.model import Finding, Severity, Strategy
from playbook.ports import TrailKey, display
from playbook.usage import Budget, Trace, follow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from playbook.errors import AwsError
    from playbook.ports import TrailEvent, View
    from steps.decisions import Decisions, KeyDecision

OFF_NOW: Final = frozenset({Strategy.CONTAIN, Strategy.DEACTIVATE})
HISTORY: Final = timedelta(days=90)
"""How far back CloudTrail's events can be looked up (facts, AWS row 13)."""


def to_contain(decisions: Decisions) -> tuple[KeyDecision, ...]:
    """The keys whose sessions end and whose use is looked up.

    Those that go off before anything else; when misuse was seen, every exposed key that is not kept on, also one that
    is off already: its sessions outlive it.
    """
    return tuple(item for item in decisions.keys if item.strategy in OFF_NOW or _is_misused(item, decisions.severity))


def _is_misused(item: KeyDecision, severity: Severity) -> bool:
    exposed = bool(item.places or item.doubtful or item.by_hand)
    kept_on = item.strategy is Strategy.KEEP and item.key.is_active
    return severity is Severity.CONFIRMED and exposed and not kept_on


def by_user(items: Iterable[KeyDecision]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The key ids, by account and user, in the order of the decisions."""
    found: dict[tuple[str, str], list[str]] = {}
    for item in items:
        found.setdefault((item.key.account, item.key.user), []).append(item.key.id)
    return {user: tuple(keys) for user, keys in found.items()}


def trace_keys(view: View, items: Sequence[KeyDecision]) -> tuple[Trace, ...]:
    """Look up what every key and its sessions did, as far as CloudTrail goes back, within one budget.

    The whole history, not the window alone: what is usual can only be told from the time outside of it.
    """
    oldest = view.clock.now() - HISTORY

    def look(account: str, key_id: str) -> tuple[TrailEvent, ...]:
        return view.aws(account).trail(TrailKey.ACCESS_KEY_ID, key_id, oldest)

    def trace(item: KeyDecision) -> Trace:
        return follow(item.key.id, item.key.account, view.accounts, look, Budget.share(len(items)))

    return tuple(view.gather(trace, items))


def trace_holes(traces: Iterable[Trace]) -> Iterator[Finding]:
    """What of the keys' use could not be looked up."""
    listed = tuple(traces)
    for hole in dict.fromkeys(hole for trace in listed for hole in trace.holes):
        text = f"Not read: {hole.what} of {display(hole.where)} ({display(hole.why)}): this is no all-clear."
        yield Finding(level="danger", text=text)
    for trace in listed:
        if trace.open_ends:
            text = (
                f"The search behind {trace.key_id} was cut off: {len(trace.open_ends)} session(s) were not looked up, "
                f"{display(trace.open_ends[0])} among them. Look them up in CloudTrail by AccessKeyId."
            )
            yield Finding(level="warning", text=text)


def unread(what: str, where: str, error: AwsError) -> Finding:
    """The finding of a read that was refused: a hole with its name."""
    text = f"Not read: {what} of {display(where)} ({display(error.code)}): this is no all-clear."
    return Finding(level="danger", text=text)
