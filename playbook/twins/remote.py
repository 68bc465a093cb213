"""The far side of the network: the state all twins share, and the one way a call goes through it."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from playbook.twins import state as states
from playbook.twins.clock import VirtualClock
from playbook.twins.faults import READ_RETRIES, Call, Faults
from playbook.twins.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from playbook.ports import CircleCiReader, Identity, Json
    from playbook.twins.pipeline import Signed

R = TypeVar("R")
OnCall: TypeAlias = Callable[[Call, Literal["before", "after"]], None]
AssumeRole: TypeAlias = "Callable[[str, Mapping[str, Json]], Identity | None]"
"""`sts:AssumeRoleWithWebIdentity` with a role's ARN and a token's claims: who the session is, or None if refused.

The session of a job is named `rotation-playbook-canary`, which ends the ARN of its identity.
"""

Sign: TypeAlias = "Callable[[states.Value, states.Value], Signed]"
"""A request to another AWS than the twin's own, with a stored id and a stored secret."""


class Remote:
    """The state, its clock, its file, and what strikes or watches the calls.

    One lock makes every call atomic; the hook and the faults run outside it, so that they may wait or look.
    """

    def __init__(
        self,
        state: states.State,
        *,
        path: Path | None = None,
        switches: Switches | None = None,
        faults: Faults | None = None,
        rng: random.Random | None = None,
        flowing: bool = False,
    ) -> None:
        """`flowing` lets the clock run with the real time, for a twin that is served over a socket."""
        self.state = state
        self.path = path
        self.switches = switches or Switches()
        self.faults = faults or Faults()
        self.random = rng or random.SystemRandom()
        self.clock = VirtualClock(state.now, flowing=flowing, on_sleep=self.save)
        self.on_call: OnCall | None = None
        self.mirrored: CircleCiReader | None = None
        """The live world, of a twin that was made by reading it; None: the state is all there is."""
        self.assume_role: AssumeRole = lambda _role_arn, _claims: None
        self.sign: Sign | None = None
        """Where jobs sign when the keys are another server's; None: at the twin's own AWS."""
        self.lock = threading.RLock()
        self._changed = False
        self.save()

    def save(self) -> None:
        """Bring the state and its time to the file, if there is one."""
        with self.lock:
            self.state.now = self.clock.now()
            self._changed = False
            if self.path is not None:
                states.save(self.state, self.path)

    def changed(self) -> None:
        """Note that a read left a trace (the last use of a key), which has to be kept as well."""
        self._changed = True

    def ago(self, seconds: float) -> datetime:
        """The moment so many seconds back, before which things are visible under a lag."""
        return self.clock.now() - timedelta(seconds=seconds)

    def new_id(self) -> str:
        """Make up a UUID, from the world's own chance."""
        return str(uuid.UUID(bytes=self.random.randbytes(16), version=4))

    def call(self, call: Call, effect: Callable[[], R], *, retries: int = READ_RETRIES) -> R:
        """Carry out one remote call: hook, faults, the effect and its saving, faults, hook, reply."""
        self._watch(call, "before")
        try:
            self.faults.before(call, self.clock, retries=retries)
            with self.lock:
                if call.write:
                    self.clock.advance(self.switches.write_s)
                try:
                    reply = effect()
                finally:
                    if call.write or self._changed:
                        self.save()
            self.faults.after(call, self.clock, retries=retries)
        finally:
            self._watch(call, "after")
        return reply

    def _watch(self, call: Call, moment: Literal["before", "after"]) -> None:
        if self.on_call is not None:
            self.on_call(call, moment)
