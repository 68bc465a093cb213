"""A live world on loopback for the installed program: one moto, one CircleCI twin, several incidents that do not touch.

Each incident is an AWS account with one user whose key is stored in three places of an organization of its own, so
that many cases can be killed side by side against one server. The truth is read from the servers' own state.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from playbook.ports import KeyStatus
from playbook.sandbox import Sandbox
from playbook.secret import Secret
from playbook.twins.faults import Faults
from playbook.twins.scenario import state_from_text
from steps.user_lease import TAG as LEASE

PROGRAM = str(Path(sys.executable).with_name("rotation-playbook"))
USER = "ci-deploy"
NEW_NPM_TOKEN = "npm_canary_9f8e7d6c5b4a"
CHANGING = ("Create", "Update", "Delete", "Put", "Tag", "Untag", "Attach", "Detach", "Add", "Remove")
WAITS = {"visible": 3, "proof": 0, "sink": 3, "settle": 0, "relist": 0}
"""`visible` covers the lag of the dry run's twin; the real servers here have none."""

_INCIDENT = """
[[accounts]]
id = "{account}"
operator = "user/incident-responder"
[[accounts.users]]
name = "ci-deploy"
created = 2025-01-01T00:00:00Z
[[accounts.users.keys]]
label = "deploy-{number}"
created = 2025-06-03T09:14:27Z
[[organizations]]
slug = "{organization}"
name = "org{number}"
inline_config = true
[[contexts]]
name = "deploy"
organization = "{organization}"
created = 2025-06-01T00:00:00Z
variables = [
  {{ name = "AWS_ACCESS_KEY_ID", id_of = "deploy-{number}", written = 2025-06-03T09:17:40Z }},
  {{ name = "AWS_SECRET_ACCESS_KEY", secret_of = "deploy-{number}", written = 2025-06-03T09:17:58Z }},
  {{ name = "NPM_TOKEN", written = 2025-03-04T10:11:59Z }},
]
[[contexts]]
name = "release"
organization = "{organization}"
created = 2025-06-01T00:00:00Z
variables = [
  {{ name = "RELEASE_AWS_ACCESS_KEY_ID", id_of = "deploy-{number}", written = 2025-06-03T09:17:40Z }},
  {{ name = "RELEASE_AWS_SECRET_ACCESS_KEY", secret_of = "deploy-{number}", written = 2025-06-03T09:17:58Z }},
]
[[projects]]
slug = "{organization}/api"
variables = [
  {{ name = "AWS_ACCESS_KEY_ID", id_of = "deploy-{number}", written = 2025-06-03T09:21:07Z }},
  {{ name = "AWS_SECRET_ACCESS_KEY", secret_of = "deploy-{number}", written = 2025-06-03T09:21:24Z }},
]
"""


def run_program(environment, *arguments, cwd, stdin=subprocess.DEVNULL, timeout=120, **options):
    """Run the installed program to its end."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env=environment,
        cwd=cwd,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def scrubbed(home):
    """An environment in which nothing of the machine's own settings is found."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def records_of(folder):
    """The journal as it stands on disk; a line that is still being written is left out."""
    path = Path(folder) / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def signal_at(process, folder, kind, key, count, *, number=signal.SIGKILL):
    """Signal the process once its journal holds so many records of a kind about a key; says whether it still ran."""
    path = Path(folder) / "journal.jsonl"
    field = {"Answered": "id", "Approved": "subject"}.get(kind, "key")
    wanted = f'"type":"{kind}"'.encode(), f'"{field}":"{key}'.encode()
    deadline = time.monotonic() + 60
    size = 0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        grown = path.stat().st_size if path.exists() else 0
        if grown == size:
            continue
        size = grown
        lines = path.read_bytes().split(b"\n")[:-1]
        if sum(all(part in line for part in wanted) for line in lines) >= count:
            process.send_signal(number)
            return True
    return False


class Lab:
    """The servers, and the incidents in them; a context manager."""

    def __init__(self, incidents):
        self.incidents = [Incident(lab=self, number=number) for number in range(incidents)]
        text = 'title = "incidents"\nnow = 2026-11-02T09:00:00Z\nlogin = "alex"\n'
        text += "".join(
            _INCIDENT.format(account=item.account, organization=item.organization, number=item.number)
            for item in self.incidents
        )
        # A canary is over when it is first looked at: nobody waits for a job here.
        self.sandbox = Sandbox(state_from_text("incidents", text), job_s=0)
        self.circleci_writes = []
        self._untouched = iter(self.incidents)

    def __enter__(self):
        self.sandbox.__enter__()
        self.sandbox.world.on_call = self._note
        return self

    def __exit__(self, *exception):
        self.sandbox.__exit__(*exception)

    def _note(self, call, moment):
        if call.write and moment == "before":
            self.circleci_writes.append((call.operation, call.target))

    @property
    def aws(self):
        return self.sandbox.aws

    @property
    def world(self):
        return self.sandbox.world

    def take(self):
        """An incident that no other test has touched."""
        return next(self._untouched)

    def break_circleci(self, *rules):
        """Let CircleCI fail from now on, by rules such as `drop-reply:put_variable:2`."""
        self.world.faults = Faults(rules)

    def heal(self):
        """No faults any more."""
        self.world.faults = Faults()
        self.aws.heal()

    def writes(self):
        """Every request so far that could have changed anything."""
        changing = [seen.operation for seen in self.aws.requests() if seen.operation.startswith(CHANGING)]
        return [*changing, *self.circleci_writes]

    def snapshot(self):
        """Everything that must stay as it is when nothing may be changed."""
        truth = [(item.account, sorted(item.access_keys().items())) for item in self.incidents]
        sinks = [sorted(sink.items()) for sink in self.sandbox._sinks()]
        return repr((truth, sinks, self.writes()))


@dataclass
class Incident:
    """One account, one user, one key, three places."""

    lab: Lab = field(repr=False)
    number: int

    @property
    def account(self):
        return f"100000000{self.number:03}"

    @property
    def organization(self):
        return f"gh/org{self.number}"

    @property
    def old_key(self):
        return next(
            credential.key_id for credential in self.lab.sandbox.keys.values() if credential.account == self.account
        )

    # --- running the program ---

    def environment(self, home, **more):
        operator = self.lab.aws.operator(self.account)
        return {
            **scrubbed(home),
            **self.lab.sandbox.environment(),
            **self.lab.aws.environment(operator),
            "NEW_NPM_TOKEN": NEW_NPM_TOKEN,
            **more,
        }

    def answers(self, *, keys='strategy = "replace"', npm='value_from = "env:NEW_NPM_TOKEN"', incident="", tail=""):
        waits = "\n".join(f"{name} = {seconds}" for name, seconds in WAITS.items())
        return f"""
[incident]
severity = "exposed"
{incident}
[circleci]
organizations = ["{self.organization}"]
[[keys]]
match = {{ user = "{USER}" }}
{keys}
[[variables]]
match = {{ name = "NPM_TOKEN" }}
{npm}
[waits]
{waits}
{tail}
"""

    def start(self, home, *arguments, **more):
        """Start the program without waiting for it."""
        return subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            env=self.environment(home, **more),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, home, *arguments, cwd=None, **more):
        return run_program(self.environment(home, **more), *arguments, cwd=cwd or home)

    # --- the truth ---

    def access_keys(self):
        """Every key of the user and whether it is on."""
        return self.lab.aws.keys(self.account, USER)

    def sinks(self):
        """By place: the key that the stored pair belongs to, or None for a torn or unknown pair."""
        circleci = self.lab.world.state.circleci
        places = {
            **{f"context {item.name}": item for item in circleci.contexts.values()
               if item.organization == self.organization},
            **{f"project {item.slug}": item for item in circleci.projects.values()
               if item.organization == self.organization},
        }  # fmt: skip
        return {name: self._holder(place.variables) for name, place in places.items()}

    def _holder(self, variables):
        key_id = next(item.value for name, item in variables.items() if name.endswith("AWS_ACCESS_KEY_ID"))
        secret = next(item.value for name, item in variables.items() if name.endswith("AWS_SECRET_ACCESS_KEY"))
        for known in self.access_keys():
            pair = (Secret(known).digest(), self.lab.aws.secret_of(known).digest())
            if (key_id.sha256, secret.sha256) == pair:
                return known
        return None

    def npm_token(self):
        context = next(
            item
            for item in self.lab.world.state.circleci.contexts.values()
            if item.organization == self.organization and item.name == "deploy"
        )
        return context.variables["NPM_TOKEN"].value.sha256

    def user_tags(self):
        """The tags of the user, among them the lease of whoever works on it."""
        backend = self.lab.aws._backend(self.account)
        return {tag["Key"]: tag["Value"] for tag in backend.list_user_tags(USER)}

    def canaries(self):
        """The canary jobs that CircleCI ran for this organization: (project, contexts, what each said)."""
        return [
            (found.project, job.contexts, {item.classname: item.name for item in job.tests})
            for found in self.lab.world.state.circleci.pipelines.values()
            if found.project.startswith(self.organization + "/")
            for workflow in found.workflows
            for job in workflow.jobs
        ]

    def made(self):
        """Every key that a request of ours made, oldest first."""
        return [
            seen.made_key_id
            for seen in self.lab.aws.requests("CreateAccessKey")
            if seen.account == self.account and seen.made_key_id
        ]

    def assert_rotated(self):
        """The end that was asked for: one new key, on, in every place; the old one off; nothing else."""
        keys = self.access_keys()
        assert keys.pop(self.old_key) is KeyStatus.INACTIVE
        assert list(keys.values()) == [KeyStatus.ACTIVE], keys
        (new,) = keys
        assert self.sinks() == dict.fromkeys(self.sinks(), new)
        assert self.npm_token() == Secret(NEW_NPM_TOKEN).digest()
        assert LEASE not in self.user_tags()
        # Each place was proved by a job that signed with what it holds now.
        proved = {(project, contexts) for project, contexts, said in self.canaries() if said.get("tail") == new[-4:]}
        assert len(proved) == len(self.sinks()), self.canaries()
        return new

    def assert_harmless(self):
        """Wherever it stopped: every place signs with a key that is on, and no key of ours is on that none holds."""
        keys, sinks = self.access_keys(), self.sinks()
        for place, holder in sinks.items():
            assert keys.get(holder) is KeyStatus.ACTIVE, (place, holder, keys)
        idle = [key for key in self.made() if keys.get(key) is KeyStatus.ACTIVE and key not in sinks.values()]
        assert idle == []


def assert_refused(done, code, *sentences):
    """It ended with this code, said these sentences on stderr, and never fell over."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    for sentence in sentences:
        assert sentence in done.stderr, (sentence, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert "this is a bug" not in done.stderr
