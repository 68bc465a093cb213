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
    rows: dict[tuple[str, str, str], KeyRow] = {}
    actions = [data for _, data in planned_actions(state)]
    for data in actions:
        if data["kind"] not in {CREATE, DEACTIVATE}:
            continue
        old = data.get("old_key_id") or data["key_id"]
        rows[data["account"], data["user"], old] = _key_row(state, actions, data["account"], data["user"], old)
    return tuple(rows.values())


def _key_row(state: State, actions: Sequence[Mapping[str, Any]], account: str, user: str, old: str) -> KeyRow:
    stores = [
        state.progress.get(
            f"{STORE}:{data['pair']['sink']['kind']}/{data['pair']['sink']['id']}/{data['pair']['id_variable']}"
        )
        for data in actions
        if data["kind"] == STORE and (data["account"], data["user"], data["old_key_id"]) == (account, user, old)
    ]
    written = sum(progress is not None and progress.state == "verified" for progress in stores)
    create = state.progress.get(f"{CREATE}:{account}/{user}/{old}")
    live = create.attempts[-1] if create is not None and create.attempts else None
    made = live.applied if live is not None and not live.reset else None
    replaced = any(data["kind"] == CREATE and data["old_key_id"] == old for data in actions)
    parked = made is not None and _state(state, f"{DEACTIVATE}:{account}/{user}/{made['key_id']}") in {
        "applied",
        "verified",
    }
    return KeyRow(
        account=account,
        user=user,
        old_key=old,
        old_is=_old_is(_state(state, f"{DEACTIVATE}:{account}/{user}/{old}")),
        new_key=str(made["key_id"]) if made is not None else "-",
        new_is="off, parked"
        if parked
        else _new_is(create.state if create is not None else "", made is not None, replaced=replaced),
        places=f"{written} of {len(stores)}" if stores else "-",
    )


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


def _old_is(deactivation: str) -> str:
    return {"verified": "off", "applied": "off, watched", "intended": "unknown", "skipped": "on, left out"}.get(
        deactivation, "on"
    )


def _new_is(creation: str, made: bool, *, replaced: bool) -> str:  # noqa: FBT001  # one caller, just above
    if not replaced:
        return "-"
    if creation == "verified":
        return "on"
    if made:
        return "on, not seen yet"
    return "unknown" if creation == "intended" else "not made yet"


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
