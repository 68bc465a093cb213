"""An oracle that knows the truth: the twins behind every lag, and the bytes of the journal's file.

It shares no code with the engine, the fold or the recovery: it verifies the chain and folds the records by itself, so
that a fault there cannot hide from it. It looks after every remote call and every append, and each invariant of
`invariants.md` is one method that raises `InvariantBroken` with its name. What it must remember beyond a SIGKILL
(which requests left, what a stranger did, what was read when) it keeps in a file of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from crash.conditions import Conditions
from crash.ledger import Attempt, Ledger, broken
from crash.saga import SagaChecks
from crash.truth import Memory, Pair, Stored, Truth
from crash.wire import (
    ACTIVATE,
    CANARY,
    CREATE,
    DEACTIVATE,
    DELETE,
    DIRECT,
    NEW_CHECKOUT,
    PROVE,
    RERUN,
    RERUN_CANARY,
    STORE,
    TAKE,
    WEBHOOK,
    WITHOUT_LAST,
    forwards,
    place_of,
)

from playbook.ports import KeyStatus
from playbook.twins.faults import Call
from playbook.twins.state import Key, State
from playbook.twins.world import TwinWorld

ON_KEYS = frozenset({"create_access_key", "set_key_status", "delete_access_key"})
ONCE = (CREATE, NEW_CHECKOUT, RERUN)
"""What is made anew with each request: never more than one for one intent."""
PROOFS = 3


@dataclass(frozen=True, kw_only=True)
class Intent:
    """The open intent under which a request leaves."""

    key: str
    attempt: Attempt


class Oracle(SagaChecks):
    """Judges one world and one journal. `durable` answers how many bytes of the journal would survive."""

    def __init__(
        self,
        world: TwinWorld,
        pairs: tuple[Pair, ...],
        journal: Path,
        *,
        conditions: Conditions,
        start: State,
        memory: Path | None,
        durable: Callable[[], int],
    ) -> None:
        self.truth = Truth(world, pairs)
        self.pairs = {pair.sink.id: pair for pair in pairs}
        self.ledger = Ledger(journal)
        self.memory = Memory(memory)
        self.conditions = conditions
        self.start = start
        """The world as it was before anything happened."""
        self.checks = 0
        self._durable = durable
        self._before: dict[str, Stored] = {}
        self._read_anew: set[str] = set()
        """Sinks read by this process since the journal last spoke of them."""
        self._uses_read: set[str] = set()
        # What earlier processes said was judged when they said it.
        self.ledger.advance(durable())

    # -- moments --

    def before_call(self, call: Call) -> None:
        """A request is about to leave."""
        if not call.write:
            return
        self._read_journal()
        self._before = self.truth.stored()
        self.check_ownership(call)
        intent = self.check_intent_first(call)
        if intent.key.startswith(ONCE):
            self.check_at_most_once(intent.attempt)
        if call.operation == "put_variable":
            self.check_proof_first(call)
        elif call.operation == "delete_access_key":
            self.check_reversible_first(call)
        elif call.operation in {"tag_user", "untag_user"}:
            self.check_lease(call)
        elif "policy" in call.operation:
            self.check_policy_is_ours(call)

    def after_call(self, call: Call) -> None:
        """A request was carried out, or lost; the caller does not know yet."""
        if call.operation in {"variables", "access_keys", "user_tags", "last_used"}:
            self._note_look(call)
        if call.write:
            self.truth.changed()
            self.check_no_working_sink_broken(call)
            self._note_effect(call)
            self.check_state()

    def appended(self, seq: int) -> None:
        """An append has returned: its record is acknowledged."""
        self._read_journal()
        if self.ledger.count <= seq:
            broken("I13", f"record {seq} was acknowledged and is not on the disk")
        self.check_state()

    def _note_look(self, call: Call) -> None:
        if call.operation == "last_used":
            self._uses_read.add(call.target)
        if call.target in self.pairs:
            self._read_anew.add(call.target)
        if call.target in self.memory.stale:
            self.memory.note("read", call.target)
        shown = {"user_tags": {"lease"}, "last_used": {"use"}}.get(call.operation, {"key", "off", "put"})
        for doing, (what, where, shows_at) in list(self.memory.unseen.items()):
            if where == call.target and what in shown and shows_at <= self.truth.now:
                self._note_late(doing)
                self.memory.note("saw", doing)

    def stranger_did(self, doing: str, what: str, where: str) -> None:
        """Note a stranger's `key`, `off`, `put`, `lease` or `use`, which shows to us once its lag has passed."""
        self.truth.changed()
        switches = self.truth.world.switches
        lags = {"key": switches.list_lag_s, "off": switches.status_lag_s, "put": switches.tail_lag_s}
        lags |= {"lease": switches.rights_lag_s, "use": 0.0}
        self.memory.note("stranger", doing, what, where, self.truth.now + lags[what])

    def _read_journal(self) -> None:
        for record in self.ledger.advance(self._durable()):
            if record["type"] == "Verified":
                self.check_truthful(record)
                if record["key"].startswith(TAKE):
                    user = record["key"].rpartition("/")[2]
                    mine = {name for name in self._uses_read if self._user_of(name) == user}
                    self._uses_read -= mine
            if record["type"] in {"Applied", "Verified"} and record["key"].startswith(STORE):
                self._read_anew -= {sink for sink in self.pairs if f"/{sink}/" in record["key"]}

    def _user_of(self, target: str) -> str:
        key = self.truth.find(target.rpartition("/")[2])
        return key.user if key is not None else ""

    def check_state(self) -> None:
        """What must hold at every moment."""
        self.checks += 1
        self.check_nothing_lost()
        self.check_bounded_keys()
        self.check_pair_integrity(self.truth.stored())
        if self.conditions.secrets:
            self.check_checkout_keys()

    def has_create_intent(self) -> bool:
        """Whether a create was ever intended, durably."""
        self._read_journal()
        return any(key.startswith(CREATE) for key in self.ledger.attempts)

    # -- invariants --

    def check_intent_first(self, call: Call) -> Intent:
        """I1: the durable journal holds the open intent of exactly this request; answer it."""
        key = next((key for key in self._keys_of(call) if self.ledger.is_open(key)), None)
        if key is None:
            broken("I1", f"{call.operation} of {call.target} is sent and no durable intent of it is open")
        return Intent(key=key, attempt=self.ledger.attempts[key][-1])

    def _keys_of(self, call: Call) -> list[str]:
        """The idempotency keys of the actions that may send this request."""
        target = call.target
        if call.operation in DIRECT:
            return [f"{kind}{target}" for kind in DIRECT[call.operation]]
        if call.operation in WITHOUT_LAST:
            return [f"{kind}{target.rpartition('/')[0]}" for kind in WITHOUT_LAST[call.operation]]
        match call.operation:
            case "create_access_key":
                return [key for key in self.ledger.attempts if key.startswith(f"{CREATE}{target}/")]
            case "create_checkout_key":
                return [key for key in self.ledger.attempts if key.startswith(f"{NEW_CHECKOUT}{target}/")]
            case "set_webhook_secret":
                mine = (key for key in self.ledger.attempts if key.startswith(WEBHOOK))
                return [key for key in mine if key.endswith(f"/{target}")]
            case "put_variable":
                store = self._store_of(call)
                return [store] if store is not None else []
            case "delete_role_policy":
                account, role, _ = target.split("/")
                return [f"iam:remove-session-policy:{account}/role/{role}"]
            case "run_inline":
                return self._canaries_in(CANARY, target)
            case "rerun_workflow":
                found = self.truth.workflow(target)
                named = [] if found is None else self._canaries_in(RERUN_CANARY, found[0].project)
                return [f"{RERUN}{target}", *named]
            case _:
                return []

    def _canaries_in(self, kind: str, project: str) -> list[str]:
        """The canaries of the approved plan that run in a project."""
        planned = [action for _, action in self.ledger.of_kind(kind) if action["project"]["slug"] == project]
        return [f"{kind}{place_of(action['pair'])}" for action in planned]

    def _store_of(self, call: Call) -> str | None:
        sink, _, name = call.target.rpartition("/")
        for _, action in self.ledger.of_kind(STORE):
            pair = action["pair"]
            if pair["sink"]["id"] == sink and name in {pair["id_variable"], pair["secret_variable"]}:
                return f"{STORE}{pair['sink']['kind']}/{sink}/{pair['id_variable']}"
        return None

    def check_nothing_lost(self) -> None:
        """I2: every key of ours is named in the durable journal, or a candidate of exactly one open create intent."""
        named = {
            str(attempt.applied.get("key_id"))
            for attempts in self.ledger.attempts.values()
            for attempt in attempts
            if attempt.end == "applied"
        }
        for owner, key in self.truth.all_keys():
            if not key.tag or key.status is None or key.id in named or key.id in self.ledger.orphans:
                continue
            explained = [
                attempt.seq
                for create, attempts in self.ledger.attempts.items()
                if create.startswith(f"{CREATE}{owner}/") and attempts[-1].end in {None, "unknown"}
                for attempt in attempts[-1:]
                if self._is_candidate(key, attempt)
            ]
            if len(explained) != 1:
                broken("I2", f"{key.id} of {owner}, which this run made, is explained by {len(explained)} intents")
            if key.tag != f"{self.ledger.case}.{explained[0]}":
                broken("I2", f"{key.id} was made under {key.tag} and would be taken for the key of {explained[0]}")

    def _is_candidate(self, key: Key, attempt: Attempt) -> bool:
        asked_at = datetime.fromisoformat(attempt.basis["server_time"])
        return key.id not in attempt.basis["keys"] and key.created_at >= asked_at - timedelta(seconds=1)

    def check_no_working_sink_broken(self, call: Call) -> None:
        """I3: no effect of ours turns a working pair into one that does not work, but for the two exceptions."""
        after = self.truth.stored()
        for sink, before in self._before.items():
            if not before.works or after[sink].works:
                continue
            if self._is_approved_outage(call, before.key):
                continue
            if self._is_between_two_writes(call, sink, after[sink]):
                self.memory.note("tore", sink)
                continue
            if self._is_blind(sink):
                self.memory.note("broke-blindly", sink, before.key)
                continue
            broken("I3", f"{call.operation} of {call.target} broke {sink}, which worked with {before.key}")
        for sink in [sink for sink in self.memory.between_writes if not after[sink].torn]:
            self.memory.note("mended", sink)
            wrote = call.operation == "put_variable" and call.target.startswith(f"{sink}/")
            if wrote and not after[sink].works and not self._unseen("off", self.pairs[sink].owner):
                broken("I3", f"{sink} worked before it was written and holds {after[sink].key} now, which is off")

    def _is_between_two_writes(self, call: Call, sink: str, after: Stored) -> bool:
        """Exception (a). Both halves of ours and still not working is no longer between the two."""
        if call.operation != "put_variable" or not call.target.startswith(f"{sink}/"):
            return False
        store = self._store_of(call)
        return store is not None and self.ledger.is_open(store) and after.torn

    def _is_approved_outage(self, call: Call, key_id: str | None) -> bool:
        """Exception (b): the outage of exactly this key was approved, or containment by the approved plan is it."""
        if call.operation not in {"set_key_status", "delete_access_key"} or key_id is None:
            return False
        if not call.target.endswith(f"/{key_id}"):
            return False
        return f"outage:{key_id}" in self.ledger.approvals or key_id in self.contained()

    def check_proof_first(self, call: Call) -> None:
        """I4: before the first write into a sink the key it will hold is durably proved."""
        sink = call.target.rpartition("/")[0]
        pair = self.pairs[sink]
        create = next(key for key in self.ledger.attempts if key.startswith(f"{CREATE}{pair.owner}/"))
        new = self.ledger.made(create)
        seq, proof = self.ledger.verified.get(create.replace(CREATE, PROVE), (-1, {}))
        if new is None or proof.get("key_id") != new or int(proof.get("good", 0)) < PROOFS:
            broken("I4", f"{sink} is written and {new} is not proved (record {seq})")

    def check_reversible_first(self, call: Call) -> None:
        """I5: what is deleted was switched off before; a key of the plan only by its approved outage."""
        key_id = call.target.rpartition("/")[2]
        key = self.truth.find(key_id)
        if key is not None and key.status is KeyStatus.ACTIVE:
            broken("I5", f"{key_id} is deleted while it is active")
        if key is not None and not key.tag and key.status is not None:
            self.check_end_of_old_key(call.target.rpartition("/")[0], key)

    def check_ownership(self, call: Call) -> None:
        """I7: only what the approved plan names, or what this run made, is changed; no unknown value is overwritten."""
        if call.operation == "create_access_key":
            if call.target not in {f"{a['account']}/{a['user']}" for _, a in self.ledger.of_kind(CREATE)}:
                broken("I7", f"a key is made for {call.target}, which no approved plan names")
        elif call.operation in ON_KEYS:
            key_id = call.target.rpartition("/")[2]
            key = self.truth.find(key_id)
            if not (key is not None and key.tag) and key_id not in self._planned_keys():
                broken("I7", f"{call.operation} of {key_id}, which is neither in the plan nor ours")
        elif call.operation in {"put_variable", "delete_variable"}:
            self._check_sink_is_ours(call)
        elif self._keys_of(call) and not any(self._is_planned(key) for key in self._keys_of(call)):
            broken("I7", f"{call.operation} of {call.target}, which no approved plan names")

    def _is_planned(self, key: str) -> bool:
        """Whether an approved plan holds it, or it puts back what a planned action did."""
        if self.ledger.approves(key) or any(self.ledger.may_have_done(forward) for forward in forwards(key)):
            return True
        made = {attempt.applied.get("fingerprint") for items in self.ledger.attempts.values() for attempt in items}
        return key.startswith("circleci:delete-checkout-key:") and key.rpartition("/")[2] in made

    def _planned_keys(self) -> set[str]:
        creates = {action["old_key_id"] for _, action in self.ledger.of_kind(CREATE)}
        kinds = (DEACTIVATE, ACTIVATE, DELETE)
        return creates | {action["key_id"] for kind in kinds for _, action in self.ledger.of_kind(kind)}

    def _check_sink_is_ours(self, call: Call) -> None:
        sink = call.target.rpartition("/")[0]
        if call.operation != "put_variable" or self._store_of(call) is None:
            broken("I7", f"{call.operation} of {call.target}, which no approved plan names")
        stored = self._before[sink]
        owner = self.pairs[sink].owner
        known = self._planned_keys() | {key.id for whose, key in self.truth.all_keys() if key.tag and whose == owner}
        if not ({stored.id_of, stored.secret_of} <= known) and not self._is_blind(sink):
            broken("I7", f"{call.target} is overwritten while it holds a value this run does not know")

    def check_bounded_keys(self) -> None:
        """I8: at most one live key of ours per user, but for one that is set aside until its successor is in place."""
        live: Counter[str] = Counter()
        for owner, key in self.truth.all_keys():
            if key.tag and key.status is KeyStatus.ACTIVE and key.id not in self.ledger.set_aside:
                live[owner] += 1
        for owner, count in live.items():
            if count > 1:
                broken("I8", f"{owner} has {count} live keys of ours")

    def check_at_most_once(self, intent: Attempt) -> None:
        """I9: one request that makes something for one durable intent."""
        self.memory.note("request", intent.seq)
        if self.memory.requests[intent.seq] > 1:
            broken("I9", f"what intent {intent.seq} makes is asked for {self.memory.requests[intent.seq]} times")

    def check_pair_integrity(self, stored: Mapping[str, Stored], *, success: bool = False) -> None:
        """I10: a torn pair only under a durable intent to write it; at success none at all."""
        for sink, pair in self.pairs.items():
            if not stored[sink].torn or (sink in self.memory.foreign_puts and not success):
                continue
            store = f"{STORE}{pair.sink.kind.value}/{sink}/{pair.id_variable}"
            if success or not self.ledger.may_be_half_done(store):
                broken("I10", f"{sink} holds the id of {stored[sink].id_of} and the secret of {stored[sink].secret_of}")

    def check_truthful(self, record: Mapping[str, Any]) -> None:
        """I16: what a `Verified` says is what the world holds."""
        kind, _, rest = record["key"].rpartition(":")
        kind += ":"
        key_id = rest.rpartition("/")[2]
        status = key.status if (key := self.truth.find(key_id)) is not None else None
        if kind == DEACTIVATE and status is KeyStatus.ACTIVE:
            broken("I16", f"{key_id} is verified to be off and is on")
        if kind == DELETE and status is not None:
            broken("I16", f"{key_id} is verified to be gone and is there")
        if kind == CREATE:
            made = self.truth.find(str(record["evidence"].get("key_id")))
            if made is None or not made.tag or made.status is None:
                broken("I16", f"{record['key']} is verified and made nothing that is there")
        if kind == STORE:
            self._check_stored(record)
        self.check_override(record["key"], record.get("evidence", {}))
        self.check_saga_claim(record["key"], record.get("evidence", {}))

    def _check_stored(self, record: Mapping[str, Any]) -> None:
        for sink, pair in self.pairs.items():
            if record["key"] != f"{STORE}{pair.sink.kind.value}/{sink}/{pair.id_variable}":
                continue
            held = self.truth.stored()[sink].key
            created = next(key for key in self.ledger.attempts if key.startswith(f"{CREATE}{pair.owner}/"))
            if held != self.ledger.made(created) and not self._is_blind(sink):
                broken("I16", f"{sink} is verified to hold the new key and holds {held}")

    # -- ends --

    def _note_effect(self, call: Call) -> None:
        if call.operation not in {*ON_KEYS, "put_variable", "delete_variable"}:
            return  # neither a key nor a place is changed by it
        if call.service == "iam":
            owner = "/".join(call.target.split("/")[:2])
            touched = [sink for sink, pair in self.pairs.items() if pair.owner == owner]
        else:
            sink = call.target.rpartition("/")[0]
            owner = self.pairs[sink].owner if sink in self.pairs else ""
            touched = [other for other, pair in self.pairs.items() if pair.owner == owner]
        self.memory.note("effect", touched)
        if call.operation == "set_key_status":
            self._check_direction(call)
        self.note_switched()

    def _check_direction(self, call: Call) -> None:
        """I1 again, now that the effect is known: the open intent says this direction."""
        key = self.truth.find(call.target.rpartition("/")[2])
        wanted = ACTIVATE if key is not None and key.status is KeyStatus.ACTIVE else DEACTIVATE
        changed = key is not None and len(key.changes) > 1 and key.changes[-1].at == self.truth.world.clock.now()
        if changed and not self.ledger.is_open(f"{wanted}{call.target}"):
            broken("I1", f"{call.target} was switched and the open intent says the contrary")
        if key is not None and changed and key.status is KeyStatus.INACTIVE:
            self.check_gates(call.target.rpartition("/")[0], key)
            if not key.tag:
                self.memory.note("off", key.id, self.truth.now)

    def at_success(self) -> None:
        """I6 and I10 at exit 0: only the new key is on, and every pair was seen to hold it after the last change."""
        stored = self.truth.stored()
        self.check_pair_integrity(stored, success=True)
        for owner in sorted({pair.owner for pair in self.pairs.values()}):
            ours = self.truth.ours(owner)
            if self._excused("off", owner):
                continue  # as of the last observation all was well
            if [key.status for key in ours] != [KeyStatus.ACTIVE]:
                broken("I6", f"success, and {owner} has the keys of ours {[(k.id, str(k.status)) for k in ours]}")
            on = {key.id for whose, key in self.truth.all_keys() if whose == owner and key.status is KeyStatus.ACTIVE}
            # One that the sweep found is kept by a decision, or off.
            kept = {key_id for key_id in on if f"keys.found:{owner}/{key_id}" in self.ledger.answers}
            extra = on - {ours[0].id} - kept - self._excused("key", owner)
            if extra:
                broken("I6", f"success, and {sorted(extra)} of {owner} are still on")
            for sink, pair in self.pairs.items():
                if pair.owner != owner or self._excused("put", sink):
                    continue
                if stored[sink].key != ours[0].id or not stored[sink].works:
                    broken("I6", f"success, and {sink} holds {stored[sink].key}")
                if sink in self.memory.stale:
                    broken("I6", f"success, and {sink} was not read again after the last change")
        self.check_saga_at_success()

    def seen_strangers(self) -> set[str]:
        """Strangers' keys that exist and that a list has shown us."""
        return self.memory.strangers - self.memory.unseen.keys()

    def at_stop(self, *, of_run: bool = True) -> None:
        """I6b and I5 where a human must go on: nothing of ours is on for nothing, nothing we broke blindly stays so."""
        stored = self.truth.stored()
        named = {
            str(attempt.applied.get("key_id"))
            for attempts in self.ledger.attempts.values()
            for attempt in attempts
            if attempt.end == "applied"
        }
        for key in self.truth.ours():
            held = any(item.id_of == key.id for item in stored.values())
            # A key that nobody has proved to be ours is left alone (I7).
            if key.status is KeyStatus.ACTIVE and not held and key.id in named | self.ledger.orphans:
                broken("I6b", f"{key.id} is ours, on, and in no sink while a human is waited for")
        for sink, key_id in self.memory.broken_blindly.items():
            if stored[sink].key == key_id and not stored[sink].works:
                broken("I5", f"{sink} was broken unseen with {key_id}, and it was not put back")
        if not of_run:
            return  # days after, a place that went back to its old key is told to a human, and nothing is touched
        contained = self.contained()
        for sink, pair in self.pairs.items():
            key_id = stored[sink].key
            off = f"{DEACTIVATE}{pair.owner}/{key_id}"
            if key_id is None or stored[sink].works or self._unseen("put", sink) or key_id in contained:
                continue
            if self.ledger.applied(off) and f"outage:{key_id}" not in self.ledger.approvals:
                broken("I5", f"{sink} went back to {key_id}, which this run switched off, and it stays off")
