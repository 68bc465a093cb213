"""What a person sees: progress while it runs, the plan before it, the closing table after it.

Talk goes to stderr, results to stdout. On a terminal tables fit its width; off a terminal nothing is cut or wrapped.
Every name came from a platform and goes through `ports.display`; colour never says what a word does not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from playbook.ports import display
from playbook.summary import key_rows, step_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from playbook.engine import Outcome
    from playbook.inventory import Inventory
    from playbook.model import Finding, Step
    from playbook.modes import Walk
    from playbook.records import State

WIDE: Final = 10_000
"""The width off a terminal: no name or id is cut or wrapped there."""
WAIT_SHOWN_S: Final = 2
_LINES: Final = {
    "step": ("\n== {title} ({phase})", "bold"),
    "applied": ("   done    {what}", ""),
    "verified": ("   seen    {what}", "green"),
    "proved": ("   proved  {what}", "green"),
    "waiting": ("   ... looking again in {seconds:.0f} s", "dim"),
    "repair": ("   REPAIR  {why}", "yellow"),
    "reset": ("   AGAIN   the secret of {lost} is lost; a new key takes its place", "yellow"),
    "parked": ("   STOPS   {what}: {why}", "bold yellow"),
    "still-on": ("   STILL ON  {key_id}: {why}", "bold red"),
}
_STYLE: Final = {"danger": "bold red", "warning": "yellow", "note": ""}
_MARK: Final = {"danger": "!!", "warning": " !", "note": "  "}


def console(stream: TextIO) -> Console:
    """A rich console that never interprets foreign text and never cuts off a terminal."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else WIDE,
        no_color=None if terminal else True,
    )


class Screen:
    """Talks on stderr, answers on stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.talk = console(sys.stderr)
        self.answer = console(sys.stdout)
        self._quiet = quiet

    def say(self, text: str, style: str = "") -> None:
        """One line of talk."""
        if not self._quiet:
            self.talk.print(Text(text, style=style))

    def result(self, text: str) -> None:
        """One line of the result."""
        self.answer.print(Text(text))

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Progress of the engine, one line an event; waits of under two seconds are not worth one."""
        if event == "planned":
            self.findings(fields["findings"])
            if not fields["actions"]:
                self.say("   nothing to change")
            return
        if event == "waiting" and fields["seconds"] < WAIT_SHOWN_S:
            return
        name = "proved" if event == "verified" and not fields["changes"] else event
        template, style = _LINES.get(name, ("", ""))
        if template:
            self.say(template.format_map(fields), style)

    def findings(self, findings: Iterable[Finding]) -> None:
        """What was found, dangers marked in words."""
        for finding in findings:
            due = f" (from {finding.due_at})" if finding.due_at else ""
            self.say(f"{_MARK.get(finding.level, '  ')} {finding.text}{due}", _STYLE.get(finding.level, ""))

    def show_walk(self, walked: Walk) -> None:
        """The changes that a run would make, step by step, and what the walk cannot prove."""
        by_step: dict[str, list[str]] = {}
        for step, action in walked.changes:
            by_step.setdefault(step, []).append(f"{'DESTROYS ' if action.destroys else '         '}{action.describe()}")
        self.say(f"\n== The plan: {len(walked.changes)} change(s)", "bold")
        for step, lines in by_step.items():
            self.say(f"   {step}")
            for line in lines:
                self.say(f"     {line}")
        for trouble in walked.outcome.troubles:
            self.say(f" ! Would stop at: {trouble.action.describe()}: {trouble.reason}", "yellow")
        for text in walked.unproved:
            self.say(f"   Not proved: {text}.", "dim")
        self.say(f"   Digest: {walked.digest}")

    def closing(self, state: State, steps: Sequence[Step], outcome: Outcome, folder: str, words: str) -> None:
        """The closing table, what still waits and why, what falls due later, and the next command."""
        self.answer.print(keys_table(state))
        self.answer.print(steps_table(state, steps))
        for trouble in outcome.troubles:
            what = "FAILED" if trouble.failed else "WAITS "
            self.result(f"{what} {trouble.action.describe()}: {trouble.reason}")
            self.result(f"       {trouble.remedy}")
            if trouble.still_on:
                self.result(f"       STILL ON: {trouble.still_on}")
        for finding in outcome.findings:
            if finding.due_at:
                self.result(f"LATER  from {finding.due_at}: {finding.text}")
        self.result(words)
        if outcome.unfinished:
            self.result(f"Next:  rotation-playbook resume {folder}")

    def inventory(self, inventory: Inventory) -> None:
        """First whether anything is missing, then every key and its places, then every other secret."""
        if inventory.complete:
            self.result(f"Complete: {len(inventory.variables)} variables, {len(inventory.keys)} access keys.")
        else:
            self.result(f"INCOMPLETE: {len(inventory.holes)} thing(s) could not be read; this is no all-clear.")
            for hole in inventory.holes:
                self.result(f"  not read: {display(hole.what)} of {display(hole.where)} ({display(hole.why)})")
        document = inventory.document()
        names = {row["id"]: f"{row.get('context') or row.get('project')}:{row['name']}" for row in document["secrets"]}
        table = _table("account", "user", "access key", "status", "last used", "stored in")
        for row in document["access_keys"]:
            places = "\n".join(display(names.get(place, place)) for place in row["stored_in"]) or "-"
            last = (row["last_used_at"] or "never")[:10]
            table.add_row(*map(_cell, (row["account"], row["user"], row["id"], row["status"], last)), Text(places))
        self.answer.print(table)
        table = _table("place", "variable", "tail", "written", "holds")
        for row in document["secrets"]:
            held = row["access_key"]
            holds = f"{held['id']} ({held['confidence']})" if held else "-"
            written = (row["updated_at"] or row["created_at"] or "unknown")[:10]
            place = str(row.get("context") or row.get("project"))
            table.add_row(*map(_cell, (place, row["name"], row["tail"] or "?", written, holds)))
        self.answer.print(table)


def _cell(text: object) -> Text:
    return Text(display(str(text)), overflow="fold")


def _table(*columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def keys_table(state: State) -> Table:
    """Old key, new key and where each stands, from the journal's own records."""
    table = _table("account", "user", "old key", "is", "new key", "is", "written")
    for row in key_rows(state):
        cells = (row.account, row.user, row.old_key, row.old_is, row.new_key, row.new_is, row.places)
        table.add_row(*map(_cell, cells))
    return table


def steps_table(state: State, steps: Sequence[Step]) -> Table:
    """The steps and how far each is."""
    table = _table("step", "", "actions")
    for row in step_rows(state, steps):
        table.add_row(_cell(row.title), _cell(row.status), _cell(f"{row.finished} of {row.total}"))
    return table
