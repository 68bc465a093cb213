"""A night on the two users' twins: a thief's doings, a case on disk, processes that are killed and go on."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import msgspec
from two_users import ACCOUNT, OLD, START, Answers, two_users

from playbook.engine import Engine
from playbook.journal import Journal, read, this_host
from playbook.ports import Waits
from playbook.records import Opened
from playbook.twins.faults import Faults
from playbook.twins.state import Foothold, IamRole
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from playbook.world import CaseWorld
from steps import PLAYBOOK
from steps.session_policies import POLICY

CASE = "c0ffee0123456789"
DEPLOY = OLD["ci-deploy"]
ROLE = f"arn:aws:iam::{ACCOUNT}:role/deployer"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/ci-deploy"},
            "Action": "sts:AssumeRole",
        }
    ],
}
CI = {"source_address": "198.51.100.7", "user_agent": "aws-cli/2.15.1 Python/3.11.6"}
THIEF = {"source_address": "203.0.113.66", "user_agent": "Boto3/1.34.0 md/Botocore#1.34.0"}
THIEVES_SESSION = "ASIATHIEFSESSIONAAAA"


class Killed(BaseException):
    """What a SIGKILL is to the code: no handler of the program runs on it."""


class Responder(Answers):
    """Answers from a table of what these steps ask; the rest as ever."""

    def __init__(self, *, said=None, **answers):
        super().__init__(**answers)
        self.said = {} if said is None else said

    def answer(self, question):
        found = next((value for name, value in self.said.items() if question.id.startswith(name)), None)
        if found is not None:
            self.asked.append(question.id)
            return found
        return super().answer(question)


class Night:
    """One case in one world. `run` is one process."""

    def __init__(self, folder, *, state=None, accounts=(), seed=7, **switches):
        self.folder = folder / "case"
        self.twin = TwinWorld(state or two_users(), switches=Switches(**switches), rng=random.Random(seed))
        self.calls = []
        self.kill_at = 0
        self.during = {}
        """By operation: what somebody else does just before its first call; `after <operation>`: just after."""
        self.twin.on_call = self._on_call
        self.operator = None
        self.outcome = None

    def _on_call(self, call, moment):
        name = call.operation if moment == "before" else f"after {call.operation}"
        doing = self.during.pop(name, None)
        if doing is not None:
            doing()
        self.calls.append((moment, call.operation, call.target))
        if len(self.calls) == self.kill_at:
            raise Killed

    def run(self, *, kill_at=0, faults=(), steps=PLAYBOOK, waits=None, said=None, **answers):
        self.calls, self.kill_at = [], kill_at
        self.twin.faults = Faults(list(faults))
        self.operator = Responder(said=said, **answers)
        journal = Journal.open(self.folder, now=self.twin.clock.now)
        try:
            if journal.state.opened is None:
                journal.append(Opened(case=CASE, tool="test", mode="rehearsal", host=this_host()))
            engine = Engine(journal, self.twin.platforms(), self.operator, parallel=1, waits=waits or Waits())
            self.outcome = engine.run(steps)
        except Killed:
            return None
        finally:
            journal.close()
        return self.outcome

    def case_view(self):
        """What a process sees that goes on with the case; the case is not locked by it."""
        journal = Journal.open(self.folder, now=self.twin.clock.now)
        journal.close()
        return CaseWorld(self.twin.platforms(), journal)

    def view(self):
        journal = Journal(now=self.twin.clock.now)
        journal.append(Opened(case=CASE, tool="test", mode="rehearsal", host=this_host()))
        return CaseWorld(self.twin.platforms(), journal)

    def records(self, kind=None, key=""):
        found = read(self.folder).records
        return [
            item
            for item in found
            if (kind is None or isinstance(item, kind)) and getattr(item, "key", "").startswith(key)
        ]

    def texts(self, level=""):
        return [item.text for item in self.outcome.findings if level in {"", item.level}]

    def policy(self, user="ci-deploy", name=POLICY):
        return self.twin.aws[ACCOUNT].user_policy(user, name)

    def wrote(self, operation):
        return [target for moment, called, target in self.calls if (moment, called) == ("before", operation)]

    # -- somebody else --

    def change_user(self, user="ci-deploy", **fields):
        account = self.twin.state.accounts[ACCOUNT]
        account.users[user] = msgspec.structs.replace(account.users[user], **fields)

    def give(self, kind, user="ci-deploy", name="made-by-a-thief"):
        held = self.twin.state.accounts[ACCOUNT].users[user].footholds
        made = Foothold(kind=kind, id=name, created_at=self.twin.clock.now().replace(microsecond=0))
        self.change_user(user, footholds=(*held, made))

    def put_inline(self, name, document, user="ci-deploy"):
        def changed(rights):
            return msgspec.structs.replace(rights, inline={**rights.inline, name: json.loads(json.dumps(document))})

        self.twin.foreign_change_rights(ACCOUNT, user, changed)

    def attach(self, arn, user="ci-deploy"):
        def changed(rights):
            return msgspec.structs.replace(rights, attached=(*rights.attached, arn))

        self.twin.foreign_change_rights(ACCOUNT, user, changed)

    def add_role(self, name="deployer", path="/"):
        arn = f"arn:aws:iam::{ACCOUNT}:role{path}{name}"
        role = IamRole(name=name, arn=arn, path=path, trust=TRUST, created_at=START - timedelta(days=300))
        self.twin.foreign_put_role(ACCOUNT, role)

    def event(self, name, *, ago=timedelta(0), account=ACCOUNT, **said):
        said = {"signer": DEPLOY, "actor": "ci-deploy", "service": "sts", **said}
        return self.twin.foreign_event(account, name, at=self.twin.clock.now() - ago, **said)

    def break_in(self, *, ago=timedelta(hours=2)):
        """CI's daily use, and then a thief who takes a session and a role with the same key."""
        self.add_role()
        for days in range(5, 40, 5):
            self.event("GetAuthorizationToken", ago=timedelta(days=days), service="ecr", **CI)
        self.event("GetCallerIdentity", ago=ago, **THIEF)
        self.event("GetSessionToken", ago=ago - timedelta(minutes=1), issued_key_id=THIEVES_SESSION, **THIEF)
        self.event(
            "AssumeRole",
            ago=ago - timedelta(minutes=2),
            signer=THIEVES_SESSION,
            issued_key_id="ASIATHIEFROLEAAAAAAA",
            role=ROLE,
            **THIEF,
        )
