"""Both platforms on loopback: the CircleCI twin over HTTP and, with the `sandbox` extra, AWS through moto.

The keys are moto's own, so that a stored pair really signs; the twin's variables hold the scenario's keys under the
same names. Point any client at it: nothing outside this machine is involved.
"""

from __future__ import annotations

import importlib.util
import secrets
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import click

from playbook.correlate import is_id_name, secret_sibling
from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins.pipeline import Failure, Signed
from playbook.twins.scenario import load
from playbook.twins.server import CircleCiServer
from playbook.twins.state import ALWAYS, Value
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playbook.ports import Credential
    from playbook.twins.moto_server import MotoServer
    from playbook.twins.state import State, Variable

REGION: Final = "us-east-1"
ROLE: Final = "responder"


class Sandbox:
    """A scenario served on loopback; a context manager."""

    def __init__(
        self, state: State, *, port: int = 0, aws_port: int = 0, with_aws: bool = True, job_s: float = 1
    ) -> None:
        """`job_s`: how long a job of CircleCI runs."""
        self.token = Secret(f"CCIPAT_{secrets.token_hex(11)}_{secrets.token_hex(20)}")
        self.state = state
        self.keys: dict[str, Credential] = {}
        """The key that stands for each of the scenario's keys, by the scenario's id."""
        self.aws: MotoServer | None = None
        self._aws_port = aws_port
        self._with_aws = with_aws
        # Served over real time: a lag of seconds would only make every client wait.
        state.now = datetime.now(UTC)
        switches = Switches(tail_lag_s=0, job_s=job_s, results_lag_s=0)
        self.world = TwinWorld(state, switches=switches, flowing=True)
        self.circleci = CircleCiServer(self.world, self.token, port=port)

    def __enter__(self) -> Self:
        if self._with_aws:
            self._start_aws()
        self.circleci.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.circleci.stop()
        if self.aws is not None:
            self.aws.stop()

    def _start_aws(self) -> None:
        from playbook.twins.moto_server import MotoServer  # noqa: PLC0415  # moto comes with an extra

        self.aws = MotoServer()
        self.aws.start(self._aws_port)
        self.world.assume_role = self.aws.assume_role
        for account in self.state.accounts.values():
            for user in account.users:
                self.aws.add_user(account.id, user)
            for key in account.keys.values():
                active = key.status is KeyStatus.ACTIVE
                self.keys[key.id] = self.aws.add_key(account.id, key.user, active=active)
            self.aws.add_rights(account, {key_id: made.key_id for key_id, made in self.keys.items()})
        self.world.sign = self._sign
        now = datetime.now(UTC)
        for variables in self._sinks():
            self._store_real_keys(variables, now)

    def _sign(self, key_id: Value, secret: Value) -> Signed:
        """What AWS says to a job that signs with a stored pair."""
        assert self.aws is not None
        found = self.aws.key_of(key_id.sha256 or "")
        if found is None:
            return Signed(failure=Failure.UNKNOWN_KEY)
        who, active = found
        if not active:
            return Signed(failure=Failure.INACTIVE)
        if who.secret.digest() != secret.sha256:
            return Signed(failure=Failure.MISMATCH)
        return Signed(account=who.account, user=who.user, key_id=who.key_id)

    def _sinks(self) -> Iterator[dict[str, Variable]]:
        for context in self.state.circleci.contexts.values():
            yield context.variables
        for project in self.state.circleci.projects.values():
            yield project.variables

    def _store_real_keys(self, variables: dict[str, Variable], now: datetime) -> None:
        by_tail = {key_id[-4:]: credential for key_id, credential in self.keys.items()}
        for name, variable in variables.items():
            credential = by_tail.get(variable.value.tail or "")
            if credential is None or not is_id_name(name):
                continue
            sibling = secret_sibling(name, variables)
            for each, value in ((name, Secret(credential.key_id)), (sibling, credential.secret)):
                if each is not None:
                    stored = variables[each]
                    stored.value, stored.written_at, stored.before = Value.of(value), ALWAYS, None
                    stored.created_at = now
                    stored.updated_at = now if stored.updated_at is not None else None

    def environment(self) -> dict[str, str]:
        """The variables that point this program at the sandbox, with the first account's credentials."""
        settings = {
            "CIRCLE_TOKEN": self.token.reveal(),
            "CIRCLE_HOST": self.circleci.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self.aws is not None:
            operator = self.aws.operator(min(self.state.accounts))
            settings |= self.aws.environment(operator)
        return settings

    def arguments(self) -> list[str]:
        """The options that name the other accounts."""
        others = sorted(self.state.accounts)[1:] if self.aws is not None else []
        return [part for account in others for part in ("--role-arn", f"arn:aws:iam::{account}:role/{ROLE}")]


def serve(scenario: str, *, port: int, aws_port: int, seconds: int | None) -> None:
    """Serve until interrupted, or for so many seconds."""
    state = load(scenario).state
    with _opened(state, port=port, aws_port=aws_port) as sandbox:
        click.echo("# A sandbox on loopback: made-up keys and a made-up token, worth nothing elsewhere.")
        for name, value in sandbox.environment().items():
            click.echo(f"export {name}={value}")
        arguments = " ".join(sandbox.arguments())
        if sandbox.aws is None:
            click.echo("# AWS is not served: install the extra `rotation-playbook[sandbox]` for that.")
        click.echo(f"# Then: rotation-playbook run --dry-run {arguments}".rstrip())
        click.echo("# Ctrl-C ends it.")
        stopped = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait(seconds)


def _opened(state: State, *, port: int, aws_port: int) -> Sandbox:
    extra = all(importlib.util.find_spec(name) is not None for name in ("moto", "flask", "flask_cors"))
    return Sandbox(state, port=port, aws_port=aws_port, with_aws=extra)
