"""The oracle's invariants of the full saga: gates, leases, sessions, builds, checkout keys, retirement and undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from crash.conditions import Conditions
from crash.ledger import Ledger, broken
from crash.truth import Memory, Pair, Truth
from crash.wire import (
    ALLOW,
    BLOCK,
    CANARY,
    CANCEL,
    CREATE,
    DEACTIVATE,
    DELETE,
    DRAIN,
    NEW_CHECKOUT,
    OLD_CHECKOUT,
    PROVE_UNUSED,
    RELEASE,
    RERUN,
    RERUN_CANARY,
    REVOKE_ROLE,
    REVOKE_USER,
    SILENCE,
    SWITCHED,
    TAKE,
)

from playbook.ports import KeyStatus
from playbook.twins.faults import Call
from playbook.twins.state import State

if TYPE_CHECKING:
    from playbook.twins.state import Key

LEASE: Final = "rotation-playbook-lease"
LEASE_STALE: Final = timedelta(minutes=30)
POLICY: Final = "RotationPlaybookRevokeSessions"
UNUSED: Final = timedelta(days=90)
GRACE: Final = timedelta(hours=24)
CONTAINMENT: Final = frozenset({"deactivate_exposed_keys", "contain_now"})
REPLACEMENT, RETIREMENT = "replace_access_keys", "retire_old_keys"
WHOLE_SECONDS: Final = 1.0
"""AWS tells its time in whole seconds."""


class SagaChecks:
    """What `Oracle` asks about everything beside the making, storing and switching off of keys."""

    truth: Truth
    ledger: Ledger
    memory: Memory
    pairs: dict[str, Pair]
    conditions: Conditions
    start: State
    _read_anew: set[str]
    _uses_read: set[str]
    """Keys whose last use this process has read since it had the lease."""

    def _unseen(self, what: str, where: str) -> set[str]:
        """Those of a stranger's doings that no reply has shown us yet."""
        return {doing for doing, (kind, place, _) in self.memory.unseen.items() if (kind, place) == (what, where)}

    def _excused(self, what: str, where: str) -> set[str]:
        """As `_unseen`, and those that came or showed after the last look at their user: a later run's matter."""
        late = {doing for doing, kind, place in self.memory.late if (kind, place) == (what, where)}
        return self._unseen(what, where) | late

    def _note_late(self, doing: str) -> None:
        """Remember that a stranger's doing comes, or shows, when the last look at its user is over."""
        what, where, _ = self.memory.unseen[doing]
        owner = self.pairs[where].owner if where in self.pairs else where
        if f"iam:confirm-keys:{owner}" in self.ledger.standing:
            self.memory.note("late", doing, what, where)

    def _is_blind(self, sink: str) -> bool:
        """Whether a stranger wrote it so late that the look we owe before an effect could not show it.

        Neither platform has conditional writes, so this cannot be prevented, only made good (invariants, 2.2).
        """
        return sink in self._read_anew and bool(self._unseen("put", sink))

    def contained(self) -> set[str]:
        """The keys that the approved plan switches off first of all."""
        return {
            action["key_id"]
            for step, action in self.ledger.of_kind(DEACTIVATE)
            if step in CONTAINMENT and not action["pairs"]
        }

    # -- I3b: no gate, no kill --

    def check_gates(self, owner: str, key: Key) -> None:
        """I3b: an old key went off just now; everything its replacement owes was there before."""
        if key.tag or key.id in self.contained() or f"outage:{key.id}" in self.ledger.approvals:
            return
        if not any(item["old_key_id"] == key.id for _, item in self.ledger.of_kind(CREATE)):
            return  # a slot that is freed: nothing replaces it
        passed = {gate: self._require(gate, key.id) for gate in self._gates(owner, key.id)}
        self._check_places(owner, key.id)
        switched = self.memory.switched.get(owner)
        if switched is not None:
            if not passed[f"{SILENCE}{owner}/{key.id}"].get("overridden"):
                self._check_silence(owner, key, switched)
            if not passed[f"{DRAIN}{owner}/{key.id}"].get("overridden"):
                self._check_drained(key.id, switched)

    def _gates(self, owner: str, key_id: str) -> Iterator[str]:
        yield from (f"{kind}{owner}/{key_id}" for kind in (DRAIN, SWITCHED, SILENCE))
        yield from self._canaries(owner)

    def _canaries(self, owner: str) -> Iterator[str]:
        kind = {"": "", "rerun": RERUN_CANARY}.get(self.conditions.canaries, CANARY)
        for sink, pair in self.pairs.items():
            if kind and pair.owner == owner:
                yield f"{kind}{pair.sink.kind.value}/{sink}/{pair.id_variable}"

    def _require(self, gate: str, key_id: str) -> Mapping[str, Any]:
        passed = self.ledger.standing.get(gate)
        if passed is None:
            broken("I3b", f"{key_id} went off and {gate} was not passed")
        return passed

    def check_override(self, key: str, evidence: Mapping[str, Any]) -> None:
        """I3b: a gate is passed by hand only with a durable approval and a reason that somebody typed."""
        if not evidence.get("overridden"):
            return
        typed = self.ledger.answers.get(f"gates.reason:{key}")
        if f"override:{key}" not in self.ledger.approvals or not typed or evidence.get("reason") != typed:
            broken("I3b", f"{key} was passed by hand without an approval and a reason in the journal")

    def _check_places(self, owner: str, key_id: str) -> None:
        ours = {key.id for key in self.truth.ours(owner)}
        for sink, stored in self.truth.stored().items():
            if self.pairs[sink].owner != owner or self._unseen("put", sink) or self._unseen("off", owner):
                continue
            if stored.key not in ours or not stored.works:
                broken("I3b", f"{key_id} went off while {sink} holds {stored.key}")

    def _check_silence(self, owner: str, key: Key, switched: float) -> None:
        """Nobody used the old key for as long as was asked for, counted from the last place that was switched."""
        wanted = self.conditions.silence_s
        if not wanted or self._unseen("use", f"{owner.partition('/')[0]}/{key.id}"):
            return
        used = key.last_used.at.timestamp() if key.last_used is not None else 0.0
        silent = self.truth.now - max(switched, used)
        if silent < wanted - WHOLE_SECONDS:
            broken("I3b", f"{key.id} went off after {silent:.0f} s of silence, and {wanted} s were asked for")

    def _check_drained(self, key_id: str, switched: float) -> None:
        """No job that began before the last place was switched still runs, but for those that outlast the wait."""
        if self.truth.now - switched >= self.conditions.waits.drain:
            return
        for pipeline in self.truth.world.state.circleci.pipelines.values():
            for workflow in pipeline.workflows:
                for job in workflow.jobs:
                    if self.truth.runs(job) and job.started_at and job.started_at.timestamp() <= switched:
                        broken("I3b", f"{key_id} went off while {job.name} of {pipeline.id} runs with it")

    def note_switched(self) -> None:
        """Remember since when every place of a user has held one working key of ours."""
        stored = self.truth.stored()
        for owner in {pair.owner for pair in self.pairs.values()}:
            mine = [stored[sink] for sink, pair in self.pairs.items() if pair.owner == owner]
            held = {item.key if item.works else None for item in mine}
            ours = {key.id for key in self.truth.ours(owner)}
            whole = len(held) == 1 and held <= ours
            if whole and owner not in self.memory.switched:
                self.memory.note("switched", owner, self.truth.now)
            elif not whole and owner in self.memory.switched:
                self.memory.note("switched back", owner)

    # -- I11: leases --

    def check_lease(self, call: Call) -> None:
        """I11: a fresh lease of another case that we could have seen is neither overwritten nor taken away."""
        owner = call.target.rpartition("/")[0]
        if self._is_ours(owner) or self._unseen("lease", owner):
            return
        value = self.truth.rights(owner).tags.get(LEASE, "")
        _, _, since = value.partition("@")
        now = datetime.fromtimestamp(self.truth.now, UTC)
        if value and (call.operation == "untag_user" or datetime.fromisoformat(since) > now - LEASE_STALE):
            broken("I11", f"{call.operation} of {owner}, which {value} works on")

    def _is_ours(self, owner: str) -> bool:
        return self.truth.rights(owner).tags.get(LEASE, "").partition("@")[0] == self.ledger.case

    # -- I7: what is written over --

    def check_policy_is_ours(self, call: Call) -> None:
        """I7: a policy under our name that somebody else wrote is neither overwritten nor removed."""
        if not call.operation.endswith("user_policy"):
            return
        document = self.truth.rights(call.target.rpartition("/")[0]).inline.get(POLICY)
        if document is not None and not document.get("Statement"):
            broken("I7", f"{call.operation} of {call.target}, whose policy somebody else wrote")

    # -- I5: what cannot be undone --

    def check_end_of_old_key(self, owner: str, key: Key) -> None:
        """I5: a key that was there before is deleted by its approved outage, to make room, or once it has soaked."""
        if f"outage:{key.id}" in self.ledger.approvals:
            return
        name = f"{DELETE}{owner}/{key.id}"
        if self.ledger.approves(name, step=REPLACEMENT):
            self._check_room(key)
        elif self.ledger.approves(name, step=RETIREMENT):
            self._check_soaked(owner, key)
        else:
            broken("I5", f"{key.id}, which was there before, is deleted without approval")

    def _check_room(self, key: Key) -> None:
        now = datetime.fromtimestamp(self.truth.now, UTC)
        if key.last_used is not None and key.last_used.at > now - UNUSED:
            broken("I5", f"{key.id} is deleted to make room and was used at {key.last_used.at}")
        if any(key.id in {stored.id_of, stored.secret_of} for stored in self.truth.stored().values()):
            broken("I5", f"{key.id} is deleted to make room and is stored")

    def _check_soaked(self, owner: str, key: Key) -> None:
        off_at = key.changes[-1].at
        now = datetime.fromtimestamp(self.truth.now, UTC)
        least = max(GRACE, timedelta(seconds=self.conditions.waits.soak)) - timedelta(seconds=WHOLE_SECONDS)
        if now - off_at < least:
            broken("I5", f"{key.id} is retired {now - off_at} after it went off")
        missed = key.last_used is not None and key.last_used.at > off_at
        if missed and not self._unseen("use", f"{owner.partition('/')[0]}/{key.id}"):
            broken("I5", f"{key.id} is retired, and somebody tried it after it was off")
        ours = {item.id for item in self.truth.ours(owner)}
        for sink, stored in self.truth.stored().items():
            if self.pairs[sink].owner != owner:
                continue
            if sink not in self._read_anew:
                broken("I5", f"{key.id} is retired and {sink} was not read again")
            if (stored.key not in ours or not stored.works) and not self._is_blind(sink):
                broken("I5", f"{key.id} is retired while {sink} holds {stored.key}")

    # -- checkout keys --

    def check_checkout_keys(self) -> None:
        """I2 and I3 of deploy keys: what we made is named or explained, and a project that had one has one."""
        named = {
            str(attempt.applied.get("fingerprint"))
            for key, attempts in self.ledger.attempts.items()
            if key.startswith(NEW_CHECKOUT)
            for attempt in attempts
        }
        for slug, project in self.start.circleci.projects.items():
            before = {item.fingerprint for item in project.checkout_keys}
            now = {item.fingerprint for item in self.truth.world.state.circleci.projects[slug].checkout_keys}
            if before and not now:
                broken("I3", f"{slug} has no checkout key left")
            unnamed = now - before - named
            explained = [
                key
                for key, attempts in self.ledger.attempts.items()
                if key.startswith(f"{NEW_CHECKOUT}{slug}/") and any(item.end in {None, "unknown"} for item in attempts)
            ]
            if unnamed and not explained:
                broken("I2", f"{slug} has the checkout keys {sorted(unnamed)}, which no intent explains")

    # -- I16: claims --

    def check_saga_claim(self, key: str, evidence: Mapping[str, Any]) -> None:
        """I16: what a `Verified` of the saga's other actions says is so."""
        if evidence.get("overridden"):
            return
        kind, _, rest = key.rpartition(":")
        kind += ":"
        said = True
        if kind == PROVE_UNUSED:
            said = f"{rest.partition('/')[0]}/{rest.rpartition('/')[2]}" in self._uses_read
        elif kind in {TAKE, RELEASE}:
            said = self._is_ours(rest) is (kind == TAKE) or bool(self._unseen("lease", rest))
        elif kind in {CANARY, RERUN_CANARY, RERUN}:
            said = self._has_passed(kind, evidence)
        elif kind == CANCEL:
            found = self.truth.workflow(rest)
            said = found is not None and not any(self.truth.runs(job) for job in found[1].jobs)
        elif kind == BLOCK or (kind == ALLOW and self.ledger.may_have_done(f"{BLOCK}{rest}")):
            said = self.truth.world.state.circleci.organizations[rest].running_disabled is (kind == BLOCK)
        elif kind in {REVOKE_USER, REVOKE_ROLE}:
            cutoff = evidence.get("cutoff")
            before = datetime.fromisoformat(cutoff) - timedelta(seconds=1) if cutoff else None
            said = before is not None and not self._session_lives(kind, rest, before)
        elif kind in {NEW_CHECKOUT, OLD_CHECKOUT}:
            slug, _, fingerprint = rest.rpartition("/")
            listed = {item.fingerprint for item in self.truth.world.state.circleci.projects[slug].checkout_keys}
            said = (fingerprint not in listed) if kind == OLD_CHECKOUT else evidence["fingerprint"] in listed
        if not said:
            broken("I16", f"{key} is verified and is not so: {dict(evidence)}")

    def _has_passed(self, kind: str, evidence: Mapping[str, Any]) -> bool:
        """Whether the workflow it names is over and went well; a canary of ours signed with a key of ours."""
        found = self.truth.workflow(str(evidence.get("workflow")))
        if found is None or any(self.truth.runs(job) or job.status != "success" for job in found[1].jobs):
            return False
        if kind != CANARY:
            return True
        tails = {key.id[-4:] for key in self.truth.ours()}
        return any(test.name in tails for job in found[1].jobs for test in job.tests)

    def _session_lives(self, kind: str, rest: str, issued_at: datetime) -> bool:
        account, _, name = rest.partition("/")
        whose = {"user": name} if kind == REVOKE_USER else {"role": name}
        return self.truth.world.session_allowed(account, issued_at=issued_at, **whose)

    # -- ends --

    def check_saga_at_success(self) -> None:
        """I6, I11 and I3b at exit 0: contained for good, nothing blocked, no lease of ours, every canary seen."""
        for owner in sorted({pair.owner for pair in self.pairs.values()}):
            if self._is_ours(owner):
                broken("I11", f"success, and {owner} still has our lease")
            for canary in self._canaries(owner):
                if canary not in self.ledger.standing:
                    broken("I3b", f"success, and {canary} was not passed")
        for slug, organization in self.truth.world.state.circleci.organizations.items():
            if organization.running_disabled and not self.start.circleci.organizations[slug].running_disabled:
                broken("I6", f"success, and new work of {slug} is still blocked")
        self._check_contained()
        for name in (name for name in self.ledger.attempts if name.startswith(NEW_CHECKOUT)):
            slug, _, old = name.removeprefix(NEW_CHECKOUT).rpartition("/")
            listed = [item.fingerprint for item in self.truth.world.state.circleci.projects[slug].checkout_keys]
            if old in listed or len(listed) != 1:
                broken("I6", f"success, and {slug} has the checkout keys {listed}")

    def _check_contained(self) -> None:
        """A contained key is off, and no session of it or of a role it assumed lives."""
        for key_id in self.contained():
            key = self.truth.find(key_id)
            off_at = self.memory.switched_off.get(key_id)
            if key is None or off_at is None:
                continue
            if key.status is KeyStatus.ACTIVE:
                broken("I6", f"success, and {key_id} was contained and is on")
            # A key works on for a while after it is off, and a session made then is one made before.
            last = datetime.fromtimestamp(off_at, UTC) + timedelta(seconds=self.truth.world.switches.off_lag_s)
            owner = next(whose for whose, item in self.truth.all_keys() if item.id == key_id)
            if self._session_lives(REVOKE_USER, owner, last):
                broken("I6", f"success, and a session that {key_id} made until {last} lives")
            for account in self.start.accounts.values():
                for role in account.roles if self._knows_roles(key) else ():
                    if self._session_lives(REVOKE_ROLE, f"{account.id}/{role}", last):
                        broken("I6", f"success, and a session of the role {role} lives")

    def _knows_roles(self, key: Key) -> bool:
        """Whether CloudTrail could say which roles the key has assumed; else the run says that it could not."""
        return self.conditions.role and key.user == "ci-deploy" and not self.conditions.trail_denied

    def at_undone(self) -> None:
        """I6c after a completed undo: what this case switched off is on again, and nothing else of ours is left."""
        stored = self.truth.stored()
        held = {item.id_of for item in stored.values()}
        for key_id in self.memory.switched_off:
            key = self.truth.find(key_id)
            if key is not None and key.status is KeyStatus.INACTIVE:
                broken("I6c", f"undone, and {key_id}, which this case switched off, is off")
        named = {
            str(attempt.applied.get("key_id"))
            for attempts in self.ledger.attempts.values()
            for attempt in attempts
            if attempt.end == "applied"
        }
        for key in self.truth.ours():
            if key.status is KeyStatus.ACTIVE and key.id not in held and key.id in named | self.ledger.orphans:
                broken("I6c", f"undone, and {key.id} of ours is on in no place")
        for owner in sorted({pair.owner for pair in self.pairs.values()}):
            document = self.truth.rights(owner).inline.get(POLICY)
            if document is not None and document.get("Statement"):
                broken("I6c", f"undone, and {owner} still has our policy")
            if self._is_ours(owner):
                broken("I6c", f"undone, and {owner} still has our lease")
        for slug, organization in self.truth.world.state.circleci.organizations.items():
            if organization.running_disabled and not self.start.circleci.organizations[slug].running_disabled:
                broken("I6c", f"undone, and new work of {slug} is still blocked")

    def at_retired(self) -> None:
        """I6 after a retirement: every key this case switched off is gone, and every place works."""
        for key_id in self.memory.switched_off:
            key = self.truth.find(key_id)
            due = self.conditions.returns_after_s > GRACE.total_seconds()
            if key is not None and key.status is not None and due:
                broken("I6", f"retired, and {key_id} is still there")
        for sink, stored in self.truth.stored().items():
            if not stored.works and not self._unseen("put", sink):
                broken("I6", f"retired, and {sink} does not work")
