"""An oracle that knows the truth: the twins behind every lag, and the bytes of the journal's file.

It shares no code with the engine, the fold or the recovery: it verifies the chain and folds the records by itself, so
that a fault there cannot hide from it. It looks after every remote call and every append, and each invariant of
`invariants.md` is one method that raises `InvariantBroken` with its name. What it must remember beyond a SIGKILL
(which requests left, what a stranger did, what was read when) it keeps in a file of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from playbook.ports import KeyStatus, Sink
from playbook.twins.faults import Call
from playbook.twins.pipeline import context_sink, project_sink
from playbook.twins.state import Key, State, Value, Variable
from playbook.twins.world import TwinWorld

CREATE = "iam:create-access-key:"
PROVE = "iam:prove-access-key:"
DEACTIVATE = "iam:deactivate-access-key:"
ACTIVATE = "iam:activate-access-key:"
DELETE = "iam:delete-access-key:"
STORE = "circleci:store-access-key:"
LEASES = {"tag_user": "iam:take-lease:", "untag_user": "iam:release-lease:"}
CANARY = "circleci:run-canary:"
DENIALS = {"put_user_policy": "iam:revoke-user-sessions:", "delete_user_policy": "iam:remove-session-policy:"}
DENIAL = "RotationPlaybookRevokeSessions"
HARMLESS = {*LEASES, *DENIALS, "run_inline"}
"""Writes that change neither a key nor a sink."""
CONTAINMENT = "deactivate_exposed_keys"
PROOFS = 3
SPREAD_S = 60
"""How long a switched-off key is taken to work on, at most: the wait `relist`."""
GENESIS = "0" * 64
SUM = b',"sum":"'


class InvariantBroken(BaseException):  # the verdict's own word; a BaseException, so that nothing swallows it
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


def broken(invariant: str, detail: str) -> NoReturn:
    raise InvariantBroken(invariant, detail)


# --- The durable journal --------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """One durable intent, and its end: None while it is open, else `applied`, or the effect of its failure."""

    seq: int
    basis: Mapping[str, Any]
    end: str | None = None
    applied: Mapping[str, Any] = field(default_factory=dict)


class Ledger:
    """The journal file's whole records, verified and folded one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.count = 0
        self.case = ""
        self.attempts: dict[str, list[Attempt]] = {}
        self.unfinished: dict[str, bool] = {}
        """By action: whether some try of it may have had a part of its effect, and none after it was carried out."""
        self.verified: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.orphans: set[str] = set()
        self.approvals: dict[str, str] = {}
        self.set_aside: set[str] = set()
        """Keys that stay, by a durable decision, only until their successor is everywhere."""
        self._head = GENESIS
        self._plans: dict[str, list[dict[str, Any]]] = {}

    def advance(self, durable: int) -> list[dict[str, Any]]:
        """Take in the records that became durable; a line that does not verify breaks I13."""
        if durable <= self.length:
            return []
        with self.path.open("rb") as file:
            file.seek(self.length)
            content = file.read(durable - self.length)
        if not content.endswith(b"\n"):
            broken("I13", f"what was called durable ends in the middle of record {self.count}")
        taken = [self._take(line) for line in content[:-1].split(b"\n")]
        self.length = durable
        return taken

    def _take(self, line: bytes) -> dict[str, Any]:
        prefix, _, rest = line.rpartition(SUM)
        total = hashlib.sha256(self._head.encode() + prefix).hexdigest()
        if rest != total.encode() + b'"}':
            broken("I13", f"record {self.count} is no part of the chain: {line[:80]!r}")
        record: dict[str, Any] = json.loads(prefix + b"}")
        if record["seq"] != self.count:
            broken("I13", f"record {self.count} calls itself {record['seq']}")
        self._head = total
        self.count += 1
        self._fold(record)
        return record

    def _fold(self, record: Mapping[str, Any]) -> None:
        key = record.get("key", "")
        match record["type"]:
            case "Opened":
                self.case = record["case"]
            case "Planned":
                parts = self._plans.setdefault(record["step"], [])
                if record["part"] == 0:
                    parts.clear()
                parts.append(dict(record))
            case "Approved":
                self.approvals[record["subject"]] = record["digest"]
            case "Reset":
                if record.get("keep"):
                    self.set_aside.add(record["lost"])
            case "Intended":
                self.attempts.setdefault(key, []).append(Attempt(seq=record["seq"], basis=record.get("basis", {})))
            case "Applied":
                self._end(key, "applied", record["seq"])
                self.attempts[key][-1].applied = record.get("evidence", {})
                self.unfinished[key] = False
            case "Failed":
                self._end(key, record["effect"], record["seq"])
                if record["effect"] == "unknown":
                    self.unfinished[key] = True
            case "Verified":
                self.verified[key] = (record["seq"], record.get("evidence", {}))
                self.unfinished[key] = False
            case "Observed":
                self.orphans.update([record["evidence"]["orphan"]] if "orphan" in record.get("evidence", {}) else [])

    def _end(self, key: str, how: str, seq: int) -> None:
        if not self.attempts.get(key):
            broken("I1", f"record {seq} ends {key}, which no record intended")
        self.attempts[key][-1].end = how

    def applied(self, key: str) -> bool:
        """Whether it was ever carried out, by its record."""
        return any(attempt.end == "applied" for attempt in self.attempts.get(key, []))

    def is_open(self, key: str) -> bool:
        """Whether its newest intent has no end yet: only then may its request be sent."""
        return bool(self.attempts.get(key)) and self.attempts[key][-1].end is None

    def may_be_half_done(self, key: str) -> bool:
        """Whether an intent of it, this one or an earlier one, may have left half of its effect behind."""
        return self.is_open(key) or self.unfinished.get(key, False) or self._was_left(key)

    def _was_left(self, key: str) -> bool:
        # A process that died left its intent without an end; the next intent does not answer for it.
        applied = max((a.seq for a in self.attempts.get(key, []) if a.end == "applied"), default=-1)
        verified = self.verified.get(key, (-1, {}))[0]
        return any(a.end is None and a.seq > max(applied, verified) for a in self.attempts.get(key, []))

    def approved_actions(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every action of a plan that a durable approval names, with its step."""
        for step, parts in self._plans.items():
            if self.approvals.get(f"step:{step}") == parts[0]["digest"]:
                for part in parts:
                    yield from ((step, action) for action in part.get("actions", []))

    def of_kind(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [(step, action) for step, action in self.approved_actions() if f"{action['kind']}:" == kind]

    def made(self, create: str) -> str | None:
        """The id that the newest carried-out try of a create named."""
        applied = [attempt.applied for attempt in self.attempts.get(create, []) if attempt.end == "applied"]
        return str(applied[-1]["key_id"]) if applied else None


# --- The truth ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One place where a credential is stored, and whose it was at the start."""

    sink: Sink
    id_variable: str
    secret_variable: str
    account: str
    user: str

    @property
    def owner(self) -> str:
        return f"{self.account}/{self.user}"


def pairs_of(state: State, names: tuple[str, str]) -> tuple[Pair, ...]:
    """The places of a world before anything happens in it."""
    sinks = [(context_sink(item), item.variables) for item in state.circleci.contexts.values()]
    sinks += [(project_sink(item), item.variables) for item in state.circleci.projects.values()]
    found = []
    for sink, variables in sinks:
        if names[0] not in variables:
            continue
        holder = next(
            (account.id, key.user)
            for account in state.accounts.values()
            for key in account.keys.values()
            if Value.of(_plain(key.id)).sha256 == variables[names[0]].value.sha256
        )
        found.append(Pair(sink=sink, id_variable=names[0], secret_variable=names[1], account=holder[0], user=holder[1]))
    return tuple(found)


def _plain(text: str) -> Any:
    from playbook.secret import Secret

    return Secret(text)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What one pair truly holds."""

    works: bool
    id_of: str | None
    """The key whose id is stored; None for a value that no key here has."""
    secret_of: str | None

    @property
    def key(self) -> str | None:
        return self.id_of if self.id_of == self.secret_of else None

    @property
    def torn(self) -> bool:
        return self.id_of != self.secret_of


class Truth:
    """The twins without their lags."""

    def __init__(self, world: TwinWorld, pairs: tuple[Pair, ...]) -> None:
        self.world = world
        self.pairs = pairs
        self._digests: dict[str, str] = {}
        self._stored_now: dict[str, Stored] | None = None

    @property
    def now(self) -> float:
        return self.world.clock.now().timestamp()

    def all_keys(self) -> Iterator[tuple[str, Key]]:
        """Every key ever, with `account/user`."""
        for account in self.world.state.accounts.values():
            for key in account.keys.values():
                yield f"{account.id}/{key.user}", key

    def find(self, key_id: str) -> Key | None:
        return next((key for _, key in self.all_keys() if key.id == key_id), None)

    def ours(self, owner: str | None = None) -> list[Key]:
        """The keys that this run made and that still exist."""
        return [key for whose, key in self.all_keys() if key.tag and key.status is not None and owner in {None, whose}]

    def stored(self) -> dict[str, Stored]:
        """What every pair holds, by the sink's id; worked out once until something changes it."""
        if self._stored_now is None:
            self._stored_now = {pair.sink.id: self._stored(pair) for pair in self.pairs}
        return self._stored_now

    def changed(self) -> None:
        """Somebody, we or a stranger, may have changed something."""
        self._stored_now = None

    def _stored(self, pair: Pair) -> Stored:
        variables = self.variables(pair.sink)
        id_of = self._owner(variables.get(pair.id_variable), secret=False)
        secret_of = self._owner(variables.get(pair.secret_variable), secret=True)
        works = self.world.works(pair.sink, pair.id_variable, pair.secret_variable)
        return Stored(works=works, id_of=id_of, secret_of=secret_of)

    def variables(self, sink: Sink) -> Mapping[str, Variable]:
        circleci = self.world.state.circleci
        if sink.id in circleci.contexts:
            return circleci.contexts[sink.id].variables
        return circleci.projects[sink.id].variables

    def _owner(self, variable: Variable | None, *, secret: bool) -> str | None:
        wanted = variable.value.sha256 if variable is not None else None
        if wanted is None:
            return None
        for _, key in self.all_keys():
            if secret:
                digest = key.secret.sha256 if key.secret is not None else None
            else:
                digest = self._digests.setdefault(key.id, hashlib.sha256(key.id.encode()).hexdigest())
            if digest == wanted:
                return key.id
        return None


# --- What it must remember beyond a kill ----------------------------------------------------------------------------


class Memory:
    """Facts that neither the twins nor the journal keep, one JSON line each in a file that outlives the child."""

    def __init__(self, path: Path | None) -> None:
        self.requests: Counter[int] = Counter()
        """Create requests handed to the network, by the intent they were sent under."""
        self.strangers: set[str] = set()
        """Keys that somebody else made."""
        self.foreign_puts: set[str] = set()
        """Sinks that somebody else wrote."""
        self.unseen: dict[str, tuple[str, str, float]] = {}
        """What a stranger did and no reply has shown us yet: what, where (a user or a sink), and when it will show."""
        self.broken_blindly: dict[str, str] = {}
        """Sinks that an effect of ours broke because a stranger had written after our last look: with which key."""
        self.between_writes: set[str] = set()
        """Sinks that worked until we began to write their pair."""
        self.stale: set[str] = set()
        """Sinks not read again since the last effect on their user or on them."""
        self._descriptor = -1
        if path is not None:
            if path.exists():
                self.recall(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def recall(self, path: Path) -> None:
        for line in path.read_text().splitlines():
            self._take(*json.loads(line))

    def note(self, what: str, *arguments: Any) -> None:
        self._take(what, *arguments)
        if self._descriptor >= 0:
            os.write(self._descriptor, json.dumps([what, *arguments]).encode() + b"\n")

    def _take(self, what: str, *arguments: Any) -> None:
        match what:
            case "request":
                self.requests[arguments[0]] += 1
            case "stranger":
                doing, what, where, shows_at = arguments
                self.unseen[doing] = (what, where, shows_at)
                if what == "key":
                    self.strangers.add(doing)
                elif what == "put":
                    self.foreign_puts.add(where)
            case "saw":
                self.unseen.pop(arguments[0], None)
            case "read":
                self.stale.discard(arguments[0])
            case "effect":
                self.stale.update(arguments[0])
            case "tore":
                self.between_writes.add(arguments[0])
            case "mended":
                self.between_writes.discard(arguments[0])
            case "broke-blindly":
                self.broken_blindly[arguments[0]] = arguments[1]
            case _:
                raise AssertionError(what)


# --- The oracle -----------------------------------------------------------------------------------------------------


class Oracle:
    """Judges one world and one journal. `durable` answers how many bytes of the journal would survive."""

    def __init__(
        self,
        world: TwinWorld,
        pairs: tuple[Pair, ...],
        journal: Path,
        *,
        memory: Path | None,
        durable: Callable[[], int],
    ) -> None:
        self.truth = Truth(world, pairs)
        self.pairs = {pair.sink.id: pair for pair in pairs}
        self.ledger = Ledger(journal)
        self.memory = Memory(memory)
        self.checks = 0
        self._durable = durable
        self._before: dict[str, Stored] = {}
        self._read_anew: set[str] = set()
        """Sinks read by this process since the journal last spoke of them."""
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
        if call.operation == "create_access_key":
            self.check_at_most_once(intent)
        if call.operation == "put_variable":
            self.check_proof_first(call)
        if call.operation == "delete_access_key":
            self.check_reversible_first(call)

    def after_call(self, call: Call) -> None:
        """A request was carried out, or lost; the caller does not know yet."""
        if call.operation in {"variables", "access_keys"}:
            self._note_look(call)
        if call.write:
            self.truth.changed()
            self._note_effect(call)
            self.check_no_working_sink_broken(call)
            self.check_state()

    def appended(self, seq: int) -> None:
        """An append has returned: its record is acknowledged."""
        self._read_journal()
        if self.ledger.count <= seq:
            broken("I13", f"record {seq} was acknowledged and is not on the disk")
        self.check_state()

    def _note_look(self, call: Call) -> None:
        if call.target in self.pairs:
            self._read_anew.add(call.target)
        if call.target in self.memory.stale:
            self.memory.note("read", call.target)
        for doing, (_, where, shows_at) in list(self.memory.unseen.items()):
            if where == call.target and shows_at <= self.truth.now:
                self.memory.note("saw", doing)

    def stranger_did(self, doing: str, what: str, where: str) -> None:
        """Note a stranger's `key`, `off` or `put`, which shows to us once its lag has passed."""
        self.truth.changed()
        switches = self.truth.world.switches
        lag = {"key": switches.list_lag_s, "off": switches.status_lag_s, "put": switches.tail_lag_s}[what]
        self.memory.note("stranger", doing, what, where, self.truth.now + lag)

    def _read_journal(self) -> None:
        for record in self.ledger.advance(self._durable()):
            if record["type"] == "Verified":
                self.check_truthful(record)
            if record["type"] in {"Applied", "Verified"} and record["key"].startswith(STORE):
                self._read_anew -= {sink for sink in self.pairs if f"/{sink}/" in record["key"]}

    def check_state(self) -> None:
        """What must hold at every moment."""
        self.checks += 1
        self.check_nothing_lost()
        self.check_bounded_keys()
        self.check_pair_integrity(self.truth.stored())

    def has_create_intent(self) -> bool:
        """Whether a create was ever intended, durably."""
        self._read_journal()
        return any(key.startswith(CREATE) for key in self.ledger.attempts)

    # -- invariants --

    def check_intent_first(self, call: Call) -> int:
        """I1: the durable journal holds the open intent of exactly this request; answer its number."""
        for key in self._keys_of(call):
            if self.ledger.is_open(key):
                return self.ledger.attempts[key][-1].seq
        broken("I1", f"{call.operation} of {call.target} is sent and no durable intent of it is open")

    def _keys_of(self, call: Call) -> list[str]:
        """The idempotency keys of the actions that may send this request."""
        match call.operation:
            case "create_access_key":
                return [key for key in self.ledger.attempts if key.startswith(f"{CREATE}{call.target}/")]
            case "set_key_status":
                return [f"{DEACTIVATE}{call.target}", f"{ACTIVATE}{call.target}"]
            case "delete_access_key":
                return [f"{DELETE}{call.target}"]
            case "put_variable":
                store = self._store_of(call)
                return [store] if store is not None else []
            case "tag_user" | "untag_user":
                return [f"{LEASES[call.operation]}{call.target.rpartition('/')[0]}"]
            case "put_user_policy" | "delete_user_policy":
                user, _, policy = call.target.rpartition("/")
                return [f"{DENIALS[call.operation]}{user}"] if policy == DENIAL else []
            case "run_inline":
                return [
                    f"{CANARY}{action['pair']['sink']['kind']}/{action['pair']['sink']['id']}/{action['pair']['id_variable']}"
                    for _, action in self.ledger.of_kind(CANARY)
                    if action["project"]["slug"] == call.target
                ]
            case _:
                return []

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
        return f"outage:{key_id}" in self.ledger.approvals or key_id in self._contained()

    def _contained(self) -> set[str]:
        """The keys that the approved plan switches off first of all."""
        return {
            action["key_id"]
            for step, action in self.ledger.of_kind(DEACTIVATE)
            if step == CONTAINMENT and not action["pairs"]
        }

    def _is_blind(self, sink: str) -> bool:
        """Whether a stranger wrote it so late that the look we owe before an effect could not show it.

        Neither platform has conditional writes, so this cannot be prevented, only made good (invariants, 2.2).
        """
        return sink in self._read_anew and bool(self._unseen("put", sink))

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
        if key is not None and not key.tag and f"outage:{key_id}" not in self.ledger.approvals:
            broken("I5", f"{key_id}, which was there before, is deleted without approval")

    def check_ownership(self, call: Call) -> None:
        """I7: only what the approved plan names, or what this run made, is changed; no unknown value is overwritten."""
        if call.operation in HARMLESS:
            return  # its open intent, which an approved plan holds, names exactly this target
        if call.operation == "create_access_key":
            if call.target not in {f"{a['account']}/{a['user']}" for _, a in self.ledger.of_kind(CREATE)}:
                broken("I7", f"a key is made for {call.target}, which no approved plan names")
        elif call.service == "iam":
            key_id = call.target.rpartition("/")[2]
            key = self.truth.find(key_id)
            if not (key is not None and key.tag) and key_id not in self._planned_keys():
                broken("I7", f"{call.operation} of {key_id}, which is neither in the plan nor ours")
        else:
            self._check_sink_is_ours(call)

    def _planned_keys(self) -> set[str]:
        creates = {action["old_key_id"] for _, action in self.ledger.of_kind(CREATE)}
        return creates | {action["key_id"] for _, action in self.ledger.of_kind(DEACTIVATE)}

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

    def check_at_most_once(self, intent: int) -> None:
        """I9: one create request for one durable intent."""
        self.memory.note("request", intent)
        if self.memory.requests[intent] > 1:
            broken("I9", f"the create of intent {intent} is sent {self.memory.requests[intent]} times")

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
        if call.operation in HARMLESS:
            return
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

    def _check_direction(self, call: Call) -> None:
        """I1 again, now that the effect is known: the open intent says this direction."""
        key = self.truth.find(call.target.rpartition("/")[2])
        wanted = ACTIVATE if key is not None and key.status is KeyStatus.ACTIVE else DEACTIVATE
        changed = key is not None and len(key.changes) > 1 and key.changes[-1].at == self.truth.world.clock.now()
        if changed and not self.ledger.is_open(f"{wanted}{call.target}"):
            broken("I1", f"{call.target} was switched and the open intent says the contrary")

    def at_success(self) -> None:
        """I6 and I10 at exit 0: only the new key is on, and every pair was seen to hold it after the last change."""
        stored = self.truth.stored()
        self.check_pair_integrity(stored, success=True)
        self.check_sessions_ended()
        for owner in sorted({pair.owner for pair in self.pairs.values()}):
            ours = self.truth.ours(owner)
            if self._unseen("off", owner):
                continue  # as of the last observation all was well
            if [key.status for key in ours] != [KeyStatus.ACTIVE]:
                broken("I6", f"success, and {owner} has the keys of ours {[(k.id, str(k.status)) for k in ours]}")
            on = {key.id for whose, key in self.truth.all_keys() if whose == owner and key.status is KeyStatus.ACTIVE}
            extra = on - {ours[0].id} - self._unseen("key", owner)
            if extra:
                broken("I6", f"success, and {sorted(extra)} of {owner} are still on")
            for sink, pair in self.pairs.items():
                if pair.owner != owner or self._unseen("put", sink):
                    continue
                if stored[sink].key != ours[0].id or not stored[sink].works:
                    broken("I6", f"success, and {sink} holds {stored[sink].key}")
                if sink in self.memory.stale:
                    broken("I6", f"success, and {sink} was not read again after the last change")

    def check_sessions_ended(self) -> None:
        """I6 of sessions (F48): what a contained key may have made until it stopped working is denied at success."""
        world = self.truth.world
        for _, action in self.ledger.of_kind(DENIALS["put_user_policy"]):
            for key_id in (key.rpartition("/")[2] for key in action["keys"]):
                key = self.truth.find(key_id)
                if key is None or key.status is KeyStatus.ACTIVE:
                    continue
                lag = min(world.switches.off_lag_s, SPREAD_S)
                last = key.changes[-1].at + timedelta(seconds=lag)
                if world.session_allowed(action["account"], user=action["user"], issued_at=last):
                    broken("I6", f"success, and a session that {key_id} made at {last} can act")
            if not world.session_allowed(action["account"], user=action["user"]):
                broken("I3", f"success, and the keys of {action['user']} are denied too")

    def _unseen(self, what: str, where: str) -> set[str]:
        """Those of a stranger's doings that no reply has shown us yet."""
        return {doing for doing, (kind, place, _) in self.memory.unseen.items() if (kind, place) == (what, where)}

    def seen_strangers(self) -> set[str]:
        """Strangers' keys that exist and that a list has shown us."""
        return self.memory.strangers - self.memory.unseen.keys()

    def at_stop(self) -> None:
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
        contained = self._contained()
        for sink, pair in self.pairs.items():
            key_id = stored[sink].key
            off = f"{DEACTIVATE}{pair.owner}/{key_id}"
            if key_id is None or stored[sink].works or self._unseen("put", sink) or key_id in contained:
                continue
            if self.ledger.applied(off) and f"outage:{key_id}" not in self.ledger.approvals:
                broken("I5", f"{sink} went back to {key_id}, which this run switched off, and it stays off")
