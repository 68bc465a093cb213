"""A whole world of twins: its platforms, the truth for oracles, and a stranger's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from playbook.errors import UsageError
from playbook.ports import AccessKey, KeyStatus, Platforms, Sink, SinkKind
from playbook.secret import Secret
from playbook.twins import iam_keys, pipeline, roles_assumed, sessions, trail
from playbook.twins import state as states
from playbook.twins.circleci import CircleCiTwin
from playbook.twins.circleci_calls import canonical
from playbook.twins.faults import Call, Faults
from playbook.twins.iam import IamTwin
from playbook.twins.iam_calls import truth
from playbook.twins.iam_users import rights_of
from playbook.twins.remote import OnCall, Remote
from playbook.twins.state import Value, Variable, Version
from playbook.twins.switches import FreshTail, Switches

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from playbook.ports import AwsReader
    from playbook.twins.state import IamRole, Rights, State
    from playbook.twins.trail import Seen

__all__ = ["Call", "Faults", "FreshTail", "OnCall", "Switches", "TwinWorld"]

SOURCES: Final = ("env:", "file:", "command:", "prompt")


class TwinWorld(Remote):
    """The twins of some AWS accounts and of CircleCI, on one clock and in one file.

    `platforms` is what the program gets to see. The rest is for tests and drills: `works` and its like know the
    truth behind every lag, the `foreign_*` methods are somebody else acting; neither is a remote call of ours.
    """

    def __init__(
        self,
        state: State,
        *,
        path: Path | None = None,
        switches: Switches | None = None,
        faults: Faults | None = None,
        rng: random.Random | None = None,
        flowing: bool = False,
        live: Mapping[str, AwsReader] | None = None,
    ) -> None:
        """`live`: what a mirror reads on from, by account."""
        super().__init__(state, path=path, switches=switches, faults=faults, rng=rng, flowing=flowing)
        self.aws = {
            account: IamTwin(self, account, live=(live or {}).get(account)) for account in sorted(state.accounts)
        }
        self.circleci = CircleCiTwin(self)
        self.assume_role = lambda role_arn, claims: roles_assumed.assume(self, role_arn, claims)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        switches: Switches | None = None,
        faults: Faults | None = None,
        rng: random.Random | None = None,
        flowing: bool = False,
    ) -> TwinWorld:
        """Go on with the world that a killed process left in its file, at the time it had reached."""
        state = states.load(path)
        return cls(state, path=path, switches=switches, faults=faults, rng=rng, flowing=flowing)

    def platforms(self, token: Secret | None = None) -> Platforms:
        """What the program sees; `token` is the CircleCI token it was given, if the world is to check one."""
        return Platforms(
            aws=dict(self.aws),
            circleci=self.circleci if token is None else CircleCiTwin(self, token),
            clock=self.clock,
            identify=lambda credential: iam_keys.identify(self, credential),
            obtain=self.obtain,
            accepts=lambda credential, service, region: iam_keys.accepts(self, credential, service, region),
        )

    def obtain(self, source: str) -> Secret:
        """Make a value up: a rehearsal must not read the real new one."""
        if not source.startswith(SOURCES):
            raise UsageError(
                "A value cannot be obtained from there.",
                remedy="Write env:NAME, file:PATH, command:[argv] or prompt.",
            )
        return Secret(f"made-up-{self.random.randbytes(12).hex()}")

    # --- The truth --------------------------------------------------------------------------------------------------

    def works(self, sink: Sink, id_variable: str, secret_variable: str) -> bool:
        """Whether a job could sign with the stored pair, once everything has propagated."""
        with self.lock:
            key = self._pair(sink, id_variable, secret_variable).key
            return key is not None and key.status is KeyStatus.ACTIVE

    def pair_key(self, sink: Sink, id_variable: str, secret_variable: str) -> str | None:
        """The key that the stored pair belongs to, on or off; None for a torn or a stranger's pair."""
        with self.lock:
            key = self._pair(sink, id_variable, secret_variable).key
            return key.id if key is not None and key.status is not None else None

    def all_keys(self, account: str, user: str) -> tuple[AccessKey, ...]:
        """Every key that exists, listed yet or not, oldest first."""
        with self.lock:
            keys = iam_keys.existing(self.state.accounts[account], user)
            return tuple(
                AccessKey(account=account, user=user, id=key.id, status=key.status, created_at=key.created_at)
                for key in sorted(keys, key=lambda key: (key.changes[0].at, key.created_at, key.id))
                if key.status is not None
            )

    def created(self, account: str, user: str) -> dict[str, str]:
        """Every key ever made on this twin for the user, deleted ones included, with the tag it was asked with."""
        with self.lock:
            keys = iam_keys.keys_of(self.state.accounts[account], user)
            return {key.id: key.tag for key in keys if key.secret is not None and key.secret.sha256 is not None}

    def session_allowed(
        self, account: str, *, user: str = "", role: str = "", issued_at: datetime | None = None
    ) -> bool:
        """Whether a session of this user or role, issued then, can act now; None: whether a user's own keys can."""
        with self.lock:
            held = self.state.accounts[account]
            if role:
                return issued_at is not None and sessions.role_allowed(self, held, role, issued_at)
            return sessions.user_allowed(self, held, user, issued_at)

    # --- A stranger's hands -----------------------------------------------------------------------------------------

    def foreign_create_key(self, account: str, user: str, *, agent: str = "aws-cli/2") -> str:
        """Somebody else mints a key; at the quota too, for the quota is not atomic (facts/aws 2.2)."""
        with self.lock:
            secret = Secret(iam_keys.mint_secret(self))
            key = iam_keys.add_key(self, self.state.accounts[account], user, Value.of(secret), agent=agent)
            self.save()
            return key.id

    def foreign_set_status(self, account: str, key_id: str, status: KeyStatus | None) -> None:
        """Somebody else turns a key on or off; None deletes it."""
        with self.lock:
            iam_keys.change(self, self.state.accounts[account].keys[key_id], status)
            self.save()

    def foreign_change_rights(self, account: str, user: str, changed: Callable[[Rights], Rights]) -> None:
        """Somebody else changes a user's tags or policies."""
        with self.lock:
            self.clock.advance(self.switches.write_s)
            held = self.state.accounts[account]
            history = held.rights.setdefault(user, [Version(value=rights_of(held, user))])
            history.append(Version(at=self.clock.now(), value=changed(truth(history) or rights_of(held, user))))
            self.save()

    def foreign_put_role(self, account: str, role: IamRole) -> None:
        """Somebody else makes a role, or changes one."""
        with self.lock:
            self.clock.advance(self.switches.write_s)
            history = self.state.accounts[account].roles.setdefault(role.name, [])
            history.append(Version(at=self.clock.now(), value=role))
            self.save()

    def foreign_event(self, account: str, name: str, *, at: datetime | None = None, **said: Unpack[Seen]) -> str:
        """Somebody else does something that CloudTrail records; answers the event's id."""
        with self.lock:
            event = trail.record(self, self.state.accounts[account], name, at=at, **said)
            self.save()
            return event.id

    def foreign_put(self, sink: Sink, name: str, text: str) -> None:
        """Somebody else writes a variable."""
        self._foreign_store(sink, name, Value.of(Secret(text)))

    def foreign_put_pair(self, sink: Sink, key_id: str, id_variable: str, secret_variable: str) -> None:
        """Somebody else writes a key's id and its secret, which only they have.

        The values are known for a key made on this twin, opaque for one that was there before.
        """
        found = iam_keys.find_key(self, key_id)
        if found is None:
            raise KeyError(key_id)
        secret = found[1].secret
        known = secret is not None and secret.sha256 is not None
        id_value = Value.of(Secret(key_id)) if known else Value.opaque(key_id)
        self._foreign_store(sink, id_variable, id_value)
        self._foreign_store(sink, secret_variable, secret or Value(tail=None))

    def _foreign_store(self, sink: Sink, name: str, value: Value) -> None:
        with self.lock:
            self.clock.advance(self.switches.write_s)
            self.circleci.store(sink, name, value)
            self.save()

    def _pair(self, sink: Sink, id_variable: str, secret_variable: str) -> pipeline.Owner:
        variables = self._stored(sink)
        key_id, secret = variables.get(id_variable), variables.get(secret_variable)
        if key_id is None or secret is None:
            return pipeline.Owner(failure=pipeline.Failure.NO_CREDENTIALS)
        return pipeline.owner(self, key_id, secret)

    def _stored(self, sink: Sink) -> dict[str, Variable]:
        if sink.kind is SinkKind.CONTEXT:
            context = self.state.circleci.contexts.get(sink.id)
            return {} if context is None else context.variables
        project = self.state.circleci.projects.get(canonical(sink.id))
        return {} if project is None else project.variables
