"""Where a case stands, as rows: pure functions over the fold of a journal, for the screen, `status` and the report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from playbook.exposure import NOT_SAID_FROM, NOT_SAID_UNTIL, Proof, Window
from playbook.model import action_from_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from playbook.model import Step
    from playbook.records import State

CREATE: Final = "iam:create-access-key"
DEACTIVATE: Final = "iam:deactivate-access-key"
DELETE: Final = "iam:delete-access-key"
STORE: Final = "circleci:store-access-key"
ACTIVATE: Final = "iam:activate-access-key"
UPDATE: Final = "circleci:update-variable"
BY_HAND: Final = "circleci:confirm-rotated-by-hand"
SETTLED: Final = frozenset({"verified", "skipped"})


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """One key that the case acts on."""

    account: str
    user: str
    old_key: str
    old_is: str
    new_key: str
    new_is: str
    places: str


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """One step and the counts of its actions."""

    id: str
    title: str
    status: str
    """`done`, `under way`, `waits` or `to come`."""
    finished: int
    total: int


def planned_actions(state: State) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every action of every plan, with its step."""
    for step, parts in state.plans.items():
        for part in parts:
            for data in part.actions:
                yield step, data


def key_rows(state: State) -> tuple[KeyRow, ...]:
    """One row for every key that is replaced or switched off, in the order of the plans."""
    stores: dict[tuple[str, str, str], list[str]] = {}
    replaced: dict[tuple[str, str, str], bool] = {}
    for _, data in planned_actions(state):
        if data["kind"] == STORE:
            sink = data["pair"]["sink"]
            place = f"{STORE}:{sink['kind']}/{sink['id']}/{data['pair']['id_variable']}"
            stores.setdefault((data["account"], data["user"], data["old_key_id"]), []).append(place)
        elif data["kind"] in {CREATE, DEACTIVATE}:
            key = (data["account"], data["user"], data.get("old_key_id") or data["key_id"])
            replaced[key] = replaced.get(key, False) or data["kind"] == CREATE
    return tuple(_key_row(state, key, stores.get(key, []), replaced=made) for key, made in replaced.items())


def _key_row(state: State, key: tuple[str, str, str], stores: Sequence[str], *, replaced: bool) -> KeyRow:
    account, user, old = key
    new_key, new_is = _new(state, account, user, old) if replaced else ("-", "-")
    written = sum(_state(state, place) == "verified" for place in stores)
    return KeyRow(
        account=account,
        user=user,
        old_key=old,
        old_is=_old_is(state, f"{account}/{user}/{old}"),
        new_key=new_key,
        new_is=new_is,
        places=f"{written} of {len(stores)}" if stores else "-",
    )


def _new(state: State, account: str, user: str, old: str) -> tuple[str, str]:
    """The key that takes the old one's place, or an orphan of ours that is still there, and how it stands."""
    create = state.progress.get(f"{CREATE}:{account}/{user}/{old}")
    if create is None:
        return "-", "not made yet"
    live = create.attempts[-1] if create.attempts else None
    made = live.applied if live is not None and not live.reset else None
    if made is not None:
        key_id = str(made["key_id"])
        if _is_off(state, f"{account}/{user}/{key_id}"):
            return key_id, "off, parked"
        return key_id, "on" if create.state == "verified" else "on, not seen yet"
    orphan = str(create.seen.get("orphan", ""))
    if orphan and _state(state, f"{DELETE}:{account}/{user}/{orphan}") != "verified":
        off = _is_off(state, f"{account}/{user}/{orphan}")
        return orphan, "off, an orphan of ours" if off else "ON, an orphan of ours"
    return "-", "unknown" if create.state == "intended" else "not made yet"


def window_of(state: State) -> Window | None:
    """When strangers could read, as the case's answers say."""
    said = {answer.answer_key: str(answer.value) for answer in state.answers.values()}
    return Window.of(
        said.get("incident.exposed_from", NOT_SAID_FROM), said.get("incident.exposed_until", NOT_SAID_UNTIL)
    )


def proof_of(state: State) -> Proof:
    """What this case changed and read back: by it a project's variable is known to be rotated."""
    written: set[str] = set()
    switched: dict[str, tuple[int, bool]] = {}
    for _, data in planned_actions(state):
        progress = state.progress.get(action_from_data(data).key)
        if progress is None or progress.state != "verified":
            continue
        if data["kind"] == STORE:
            pair = data["pair"]
            where = f"{pair['sink']['kind']}:{pair['sink']['id']}"
            written |= {f"{where}:{pair['id_variable']}", f"{where}:{pair['secret_variable']}"}
        elif data["kind"] in {UPDATE, BY_HAND}:
            written.add(f"{data['sink']['kind']}:{data['sink']['id']}:{data['name']}")
        elif data["kind"] in {DEACTIVATE, ACTIVATE}:
            last = (progress.seq, data["kind"] == DEACTIVATE)
            switched[data["key_id"]] = max(last, switched.get(data["key_id"], last))
    off = frozenset(key_id for key_id, (_, is_off) in switched.items() if is_off)
    since = datetime.fromisoformat(state.opened.at) if state.opened is not None else None
    return Proof(since=since, written=frozenset(written), off=off)


def _state(state: State, key: str) -> str:
    progress = state.progress.get(key)
    return progress.state if progress is not None else "planned"


def _is_off(state: State, name: str) -> bool:
    """Whether the last word on a key is that it was switched off."""
    off, on = state.progress.get(f"{DEACTIVATE}:{name}"), state.progress.get(f"{ACTIVATE}:{name}")
    return off is not None and off.state in {"applied", "verified"} and (on is None or on.seq < off.seq)


def _old_is(state: State, name: str) -> str:
    off, on = state.progress.get(f"{DEACTIVATE}:{name}"), state.progress.get(f"{ACTIVATE}:{name}")
    if off is not None and on is not None and on.attempts and on.seq > off.attempts[-1].seq:
        return "on again, undone"
    return {"verified": "off", "applied": "off, watched", "intended": "unknown", "skipped": "on, left out"}.get(
        off.state if off is not None else "", "on"
    )


def step_rows(state: State, steps: Sequence[Step]) -> tuple[StepRow, ...]:
    """One row a step, in the playbook's order."""
    rows = []
    for step in steps:
        keys = list(_keys_of(state, step.id))
        finished = sum(_state(state, key) in SETTLED for key in keys)
        if step.id in state.done:
            status = "done"
        elif step.id in state.plans:
            status = (
                "waits" if any(state.progress.get(key) and state.progress[key].reason for key in keys) else "under way"
            )
        else:
            status = "to come"
        rows.append(StepRow(id=step.id, title=step.title, status=status, finished=finished, total=len(keys)))
    return tuple(rows)


def _keys_of(state: State, step: str) -> Iterator[str]:
    for planned_step, data in planned_actions(state):
        if planned_step == step:
            yield action_from_data(data).key
