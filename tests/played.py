"""A case played on a twin, process after process: each may be killed at any instant, and the next one resumes.

An instant is a place where a process can die: before and after every remote call, and before and after every record.
A killed process leaves the world and the journal; its secrets are gone.
"""

from __future__ import annotations

from playbook.engine import Engine
from playbook.journal import Journal, this_host
from playbook.model import Recourse, Recovery
from playbook.ports import Waits
from playbook.records import Opened


class Killed(BaseException):
    """The process is no more; nothing in the program may catch it."""


class Responder:
    """Answers by the beginning of a question's id, else with its default; says yes, and leaves what waits."""

    def __init__(self, **answers):
        self.answers = {
            "incident.severity": "exposed",
            "circleci.organizations": ("gh/acme",),
            **{name.replace("__", "."): value for name, value in answers.items()},
        }
        self.asked = {}
        self.troubles = []
        self.approved = []
        self.retries = 0

    def answer(self, question):
        self.asked[question.id] = question
        names = [name for name in self.answers if question.id.startswith(name)]
        if names:
            given = self.answers[max(names, key=len)]
            return given(question) if callable(given) else given
        assert question.default is not None, f"nobody expected {question.id}"
        return question.default

    def answer_all(self, questions):
        return [self.answer(question) for question in questions]

    def approve(self, plan):
        self.approved.append(plan)
        return True

    def lost_secret(self, action, switched, unswitched):
        return Recovery.REWRITE_SWITCHED

    def recourse(self, trouble):
        self.troubles.append(trouble)
        if self.retries:
            self.retries -= 1
            return Recourse.RETRY
        return Recourse.ABORT


class Played:
    """One case: its world, its journal in memory, and how many instants its last process had."""

    def __init__(self, world, responder=None, *, waits=None):
        self.world = world
        self.responder = responder or Responder()
        self.waits = waits or Waits(silence=0, drain=0)
        self.journal = Journal(now=world.clock.now)
        self.records = []
        self.told = []
        self.instants = 0
        self._kill_at = 0
        self._append = self.journal.append
        self.journal.append = self._watched_append
        self._append(Opened(case="toy", tool="test", mode="rehearsal", host=this_host()))

    def play(self, *steps, kill_at=0, platforms=None):
        """One process; None when it was killed at that instant, else how it ended."""
        self.instants, self._kill_at = 0, kill_at
        self.world.on_call = lambda _call, _when: self._instant()
        engine = Engine(
            self.journal,
            platforms or self.world.platforms(),
            self.responder,
            waits=self.waits,
            parallel=1,
            tell=lambda event, fields: self.told.append((event, fields)),
        )
        try:
            return engine.run(steps)
        except Killed:
            return None
        finally:
            self.world.on_call = None

    def of(self, kind, prefix=""):
        """The records of a type about actions whose key begins so."""
        return [item for item in self.records if isinstance(item, kind) and item.key.startswith(prefix)]

    def findings(self, step):
        """What the plan of a step says, in words."""
        plans = [parts for name, parts in self.journal.state.plans.items() if name == step]
        return [finding["text"] for parts in plans for part in parts for finding in part.findings]

    def _watched_append(self, record):
        self._instant()
        seq = self._append(record)
        self.records.append(record)
        self._instant()
        return seq

    def _instant(self):
        self.instants += 1
        if self.instants == self._kill_at:
            raise Killed


class Shadowed:
    """A platform that answers as another one does, but for what is put in its place."""

    def __init__(self, inner, **instead):
        self._inner = inner
        self._instead = instead

    def __getattr__(self, name):
        return self._instead.get(name) or getattr(self._inner, name)
