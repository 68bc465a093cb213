"""Joins a credential report with the keys that IAM lists: pure functions.

The report tells the last use of two keys a user in one document, but it names no key and may be hours old (facts/aws
11). So it speaks only of keys that it can mean: those made before it, joined by the time of their making. Where that
leaves a doubt it says nothing, and the key is asked about by itself. It never adds a key and never hides one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from playbook.ports import AccessKey, CredentialReport, LastUsed, ReportedKey

FEW: Final = 100
SURE: Final = timedelta(minutes=10)
"""IAM is eventually consistent: a report may miss a key that was made shortly before it."""


def last_uses(report: CredentialReport, keys: Iterable[AccessKey]) -> dict[str, LastUsed]:
    """By key id: the last use of every key of one account that the report means without doubt."""
    columns = {user.name: user.keys for user in report.users}
    by_user: dict[str, list[AccessKey]] = {}
    for key in keys:
        by_user.setdefault(key.user, []).append(key)
    found: dict[str, LastUsed] = {}
    for user, held in by_user.items():
        known = [key for key in held if key.created_at <= report.generated_at - SURE]
        found |= _joined(known, list(columns.get(user, ())))
    return found


def to_ask(
    keys: Sequence[AccessKey], known: Collection[str], stored_tails: Collection[str], users: int
) -> list[AccessKey]:
    """The keys to ask about by themselves: those in doubt, and those that CircleCI may store while they are few.

    What is asked is fresher than a report, but it costs a call each: a tenth of the users' number, or `FEW`, is not
    worth sparing; beyond that the report is believed, so that reading stays under 1.15 calls a user.
    """
    stored = [key for key in keys if key.id[-4:] in stored_tails]
    are_few = len(stored) <= max(FEW, users // 10)
    return [key for key in keys if key.id not in known or (are_few and key.id[-4:] in stored_tails)]


def _joined(keys: list[AccessKey], columns: list[ReportedKey]) -> dict[str, LastUsed]:
    found: dict[str, LastUsed] = {}
    for key in list(keys):
        same = [column for column in columns if column.changed_at == key.created_at]
        twins = [other for other in keys if other.created_at == key.created_at]
        if len(same) == 1 and len(twins) == 1:
            found[key.id] = same[0].last_used
    left = [key for key in keys if key.id not in found]
    taken = [key.created_at for key in keys if key.id in found]
    columns = [column for column in columns if column.changed_at not in taken]
    # A status change moves a column's date away from the making of its key: with one of each left, they are the same
    # key, unless the column is older than the key and so was another one's.
    if len(left) == len(columns) == 1 and (at := columns[0].changed_at) is not None and at > left[0].created_at:
        found[left[0].id] = columns[0].last_used
    return found
