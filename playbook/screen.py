"""What a person sees: progress while it runs, the plan before it, the closing table after it.

Talk goes to stderr, results to stdout. On a terminal tables fit its width; off a terminal nothing is cut or wrapped.
Every name came from a platform and goes through `ports.display`; colour never says what a word does not.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from playbook.ports import display
from playbook.summary import key_rows, step_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from playbook.collect import Advance
    from playbook.engine import Outcome
    from playbook.model import Finding, Step
    from playbook.modes import Walk
    from playbook.records import State

WIDE: Final = 10_000
"""The width off a terminal: no name or id is cut or wrapped there."""
FIRST_SCREEN: Final = "inventory_secrets"
"""The step whose findings a person sees before the questions about them."""
ROOMY: Final = 120
"""Below this a key's own facts are stacked, so that its places keep their line."""
NARROW: Final = 100
"""Below this the other tables of an inventory have two columns."""
URGENT_SHOWN: Final = 12
"""So many warnings go before the keys; a window of weeks over a large account has hundreds."""
REDRAW_S: Final = 0.2
LINE_S: Final = 5.0
WAIT_SHOWN_S: Final = 2
SCREEN_LINE_MAX: Final = 1 << 20
_LINES: Final = {
    "step": ("\n== {title} ({phase})", "bold"),
    "applied": ("   done    {what}", ""),
    "verified": ("   seen    {what}", "green"),
    "proved": ("   proved  {what}", "green"),
    "overridden": ("   PASSED  at your word, not seen: {what}", "bold yellow"),
    "waiting": ("   ... looking again in {seconds:.0f} s", "dim"),
    "repair": ("   REPAIR  {why}", "yellow"),
    "reset": ("   AGAIN   the secret of {lost} is lost; a new key takes its place", "yellow"),
    "parked": ("   STOPS   {what}: {why}", "bold yellow"),
    "still-on": ("   STILL ON  {key_id}: {why}", "bold red"),
}
_STYLE: Final = {"danger": "bold red", "warning": "yellow", "note": ""}
_MARK: Final = {"danger": "!!", "warning": " !", "note": "  "}


class _Console(Console):
    """A console whose reader may go away: what is being done matters more than who watches."""

    def on_broken_pipe(self) -> None:
        """Write to nobody from now on; rich itself would end the program."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console(stream: TextIO) -> Console:
    """A rich console that never interprets foreign text and never cuts off a terminal."""
    terminal = stream.isatty()
    return _Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else WIDE,
        # Of the variables that rich takes for a terminal only this one asks for colours.
        force_terminal=terminal or bool(os.environ.get("FORCE_COLOR")),
    )


class Screen:
    """Talks on stderr, answers on stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.talk = console(sys.stderr)
        self.answer = console(sys.stdout)
        self._quiet = quiet

    def say(self, text: str, style: str = "") -> None:
        """One line of talk; a terminal that is gone does not stop what is talked about."""
        if not self._quiet:
            with suppress(OSError):
                self.talk.print(Text(_safe(text), style=style))

    def result(self, text: str, *, end: str = "\n") -> None:
        """One line of the result, or several as they are: never wrapped, not even on a terminal."""
        self.answer.out(_safe(text), highlight=False, end=end)

    def trusts(self, rows: Sequence[Sequence[str]]) -> None:
        """The roles that trust CircleCI and what is wrong with each, as a table of the result."""
        table = _table("account", "role", "", "statement", "what", "what to do")
        for row in rows:
            table.add_row(*map(_cell, row))
        self.answer.print(table)

    def document(self, text: str) -> None:
        """A whole document for a machine, past rich, which takes twenty times its size in memory."""
        try:
            self.answer.file.write(text)
            self.answer.file.flush()
        except BrokenPipeError:
            self.answer.on_broken_pipe()

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

    def preview(self, event: str, fields: Mapping[str, Any]) -> None:
        """What was found, before a person is asked what becomes of it: of the walk nothing else is news."""
        if event == "planned" and fields["step"] == FIRST_SCREEN:
            self.say("\n== What was found", "bold")
            self.findings(fields["findings"])

    def findings(self, findings: Iterable[Finding]) -> None:
        """What was found, dangers marked in words."""
        for finding in findings:
            due = f" (from {finding.due_at})" if finding.due_at else ""
            self.say(f"{_MARK.get(finding.level, '  ')} {finding.text}{due}", _STYLE.get(finding.level, ""))

    def show_walk(self, walked: Walk) -> None:
        """The changes that a run would make, step by step, and what the walk cannot prove."""
        self.say(f"\n== The plan: {len(walked.changes)} change(s)", "bold")
        for plan in walked.plans:
            if any(action.changes for action in plan.actions):
                self.say(f"   {plan.step}")
            for saga in plan.sagas():
                for action in saga:
                    if action.changes:
                        self.say(f"     {'DESTROYS' if action.destroys else '        '} {action.describe()}")
        self.show_doubts(walked)

    def show_doubts(self, walked: Walk) -> None:
        """Where the walk got stuck, what it cannot prove, and its digest."""
        for trouble in walked.outcome.troubles:
            self.say(f" ! Would stop at: {trouble.action.describe()}: {trouble.reason}", "yellow")
        for text in walked.unproved:
            self.say(f"   Not proved: {text}.", "dim")
        self.say(f"   Digest: {walked.digest}")

    def closing(self, state: State, steps: Sequence[Step], outcome: Outcome, words: str, following: str) -> None:
        """The closing table, what still waits and why, what falls due later, and the next command, if there is one."""
        self.answer.print(keys_table(state))
        self.answer.print(steps_table(state, steps))
        # One cause may hold several lanes up: it is told once.
        told: set[str] = set()
        for trouble in outcome.troubles:
            if trouble.reason in told:
                continue
            told.add(trouble.reason)
            what = "FAILED" if trouble.failed else "WAITS "
            self.result(f"{what} {trouble.action.describe()}: {trouble.reason}")
            self.result(f"       {trouble.remedy}")
            if trouble.still_on:
                self.result(f"       STILL ON: {trouble.still_on}")
        for finding in outcome.findings:
            if finding.level == "danger":
                self.result(f"!!     {finding.text}")
        for finding in outcome.findings:
            if finding.due_at:
                self.result(f"LATER  from {finding.due_at}: {finding.text}")
        for line in _passed(state):
            self.result(line)
        self.result(words)
        if following:
            self.result(f"Next:  {following}")

    def inventory(self, told: Mapping[str, Any]) -> None:
        """First whether anything is missing, what is exposed and what is dangerous; then the keys, then the rest."""
        width = WIDE if not self.answer.is_terminal else self.answer.width
        for line in opening_lines(told):
            self.answer.print(Text(line))
        urgent = [finding for finding in told["findings"] if finding["level"] != "note"]
        self._told(urgent[:URGENT_SHOWN])
        if len(urgent) > URGENT_SHOWN:
            self.answer.print(Text(f"   {len(urgent) - URGENT_SHOWN} more like these stand at the end"))
        self.answer.print(Text(f"\n{len(told['access_keys'])} access keys"))
        self.answer.print(stored_keys(told, stacked=width < ROOMY))
        for kind, rows in _by_kind(told):
            self.answer.print(Text(f"\n{len(rows)} of the kind {kind}"))
            for line in _rotations(rows):
                self.answer.print(Text(line, style="dim"))
            self.answer.print(stored_rows(rows, narrow=width < NARROW))
        self.answer.print()
        self._told([*urgent[URGENT_SHOWN:], *(item for item in told["findings"] if item["level"] == "note")])
        if self.answer.is_terminal:
            # The end of a long table is what a terminal shows.
            self.answer.print(Text("\n" + "\n".join(summary_lines(told))))

    def _told(self, found: Iterable[Mapping[str, Any]]) -> None:
        for finding in found:
            level = finding["level"]
            self.answer.print(Text(f"{_MARK[level]} {display(finding['text'])}", style=_STYLE[level]))


def opening_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Whether the inventory is whole, comes first; then the exposure, what was not read, and how old it is."""
    yield from summary_lines(told)
    for hole in told["holes"]:
        yield f"  not read: {display(hole['what'])} of {display(hole['where'])} ({display(hole['why'])})"
    if told["oldest_read_at"] < told["generated_at"]:
        yield f"An interrupted reading was continued: its oldest part is of {told['oldest_read_at']}."


def summary_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Whether the inventory is whole, and how much of it is exposed."""
    counts = f"{len(told['secrets'])} stored things, {len(told['access_keys'])} access keys"
    if told["complete"]:
        yield f"Complete: {counts}."
    else:
        yield f"INCOMPLETE: {len(told['holes'])} thing(s) could not be read; this is no all-clear. {counts} were read."
    left = told["burn_down"]
    if told["exposure_window"] is None:
        yield "Exposure: not judged. Say when strangers could read: --exposed-from TIME --exposed-until TIME."
    else:
        yield (
            f"Exposure: {left['rotated']} of {left['total']} secrets rotated; "
            f"{left['exposed']} exposed, {left['unknown']} unknown."
        )


def stored_keys(told: Mapping[str, Any], *, stacked: bool) -> Table:
    """Every access key, where it is stored and what it opens; stacked, its own facts stand below one another."""
    rows = {row["id"]: row for row in told["secrets"]}
    unread = {hole["where"] for hole in told["holes"] if hole["what"] == "tags and policies of users"}
    users = {(user["account"], user["name"]): user for user in told["users"] if user["account"] not in unread}
    columns = ("access key", "stored in, and what it opens")
    table = _table(*columns) if stacked else _table("account", "user", columns[0], "status", "last used", columns[1])
    for key in sorted(told["access_keys"], key=_least_urgent):
        last = (key["last_used_at"] or "never")[:10]
        status = f"{key['status']}, EXPOSED" if _is_exposed(key, rows) else key["status"]
        places = list(_places(key, rows)) or ["-"]
        if key["stored_in"]:
            places.append(f"opens: {_opens(users.get((key['account'], key['user'])))}; {_used_by(key)}")
        if stacked:
            used = f"last used {last}" if key["last_used_at"] else "no use known"
            facts = (key["id"], f"{key['account']}/{key['user']}", f"{status}, {used}")
            cells = [Text("\n".join(map(display, facts)), overflow="fold")]
        else:
            cells = [_cell(fact) for fact in (key["account"], key["user"], key["id"], status, last)]
        table.add_row(*cells, Text("\n".join(places), overflow="fold"))
    return table


def _least_urgent(key: Mapping[str, Any]) -> tuple[bool, bool]:
    """Keys that are on and stored come first, then those that are on; within each as the platforms list them."""
    is_on = key["status"] == "Active"
    return not (is_on and key["stored_in"]), not is_on


def _is_exposed(key: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> bool:
    exposed = (rows[place]["exposure"] == "exposed" for place in key["stored_in"] if place in rows)
    return key["status"] == "Active" and any(exposed)


def _places(key: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each pair in one line; of rows that `--kind` left out only the id is known."""
    paired = set()
    for pair in key["pairs"]:
        names = [rows[place]["name"] if place in rows else place for place in (pair["id"], pair["secret"]) if place]
        where = f"{_place(rows[pair['id']])}: " if pair["id"] in rows else ""
        paired |= {pair["id"], pair["secret"]}
        yield display(f"{where}{' + '.join(names)}")
    for place in key["stored_in"]:
        if place not in paired:
            yield display(f"{_place(rows[place])}: {rows[place]['name']}" if place in rows else place)


def stored_rows(rows: Sequence[Mapping[str, Any]], *, narrow: bool) -> Table:
    """The rows of one kind."""
    table = (
        _table("place and name", "what") if narrow else _table("place", "name", "tail", "written", "exposure", "holds")
    )
    for row in rows:
        held = row["access_key"]
        holds = f"{held['id']} ({held['confidence']})" if held else row["note"] or row["detail"] or "-"
        written = (row["updated_at"] or row["created_at"] or "unknown")[:10]
        exposure, tail = row["exposure"] or "-", row["tail"] or "-"
        if narrow:
            table.add_row(_cell(f"{_place(row)}:{row['name']}"), _cell(f"{tail} {written} {exposure}; {holds}"))
        else:
            table.add_row(*map(_cell, (_place(row), row["name"], tail, written, exposure, holds)))
    return table


def _place(row: Mapping[str, Any]) -> str:
    return str(row.get("context") or row.get("project") or row.get("resource_class") or row["organization"])


def _by_kind(told: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for kind in dict.fromkeys(row["kind"] for row in told["secrets"]):
        yield kind, [row for row in told["secrets"] if row["kind"] == kind]


def _rotations(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How the kind is rotated; where that differs, or names its place, by an example and how many are alike."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        word, _, how = str(row["rotation"]).partition(": ")
        ways.setdefault(word, []).append(how)
    for word, hows in ways.items():
        name = "rotated by this tool" if word == "this-tool" else word.replace("-", " ")
        if not hows[0]:
            yield f"  {name}" if len(ways) == 1 else f"  {name}: {len(hows)}"
        elif len(hows) == len(rows) == 1 or word == "none":
            yield f"  {name}: {display(hows[0])}"
        else:
            yield f"  {name}: {len(hows)}, such as: {display(hows[0])}"


def _opens(user: Mapping[str, Any] | None) -> str:
    if user is None:
        return "not known"
    names = [*user["policies"], *user["inline_policies"], *(f"group {name}" for name in user["groups"])]
    return display("; ".join(user["reach"]) or ", ".join(names) or "nothing, for its user has no policy")


def _used_by(row: Mapping[str, Any]) -> str:
    """Who may use it by CircleCI's own rules, and which jobs do by the configurations that were read."""
    radius = row["blast_radius"]
    is_open = any(context["every_project"] for context in radius["contexts"])
    number = len(radius["projects"])
    text = f"open to every project ({number} now)" if is_open else f"open to {number} project(s)"
    jobs = {(job["project"], job["workflow"], job["job"]) for job in radius["jobs"]}
    return text + (f", seen in {len(jobs)} job(s)" if jobs else "")


class ReadingProgress:
    """How far an inventory is, on stderr: in place on a terminal, else a line every few seconds. For any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._lock = threading.Lock()
        self._began_at = self._said_at = time.monotonic()
        self._line = ""

    def __call__(self, advance: Advance) -> None:
        """Say so, unless that was just said."""
        with self._lock:
            now = time.monotonic()
            if advance.done <= 1:
                self._began_at = now
            if now - self._said_at < (REDRAW_S if self._terminal else LINE_S):
                return
            self._said_at = now
            elapsed_s = now - self._began_at
            left_s = elapsed_s / advance.done * (advance.total - advance.done)
            self._show(f"Reading: {advance.done} of {advance.total} ({advance.what}), about {left_s:.0f} s left")

    def close(self) -> None:
        """Wipe the line of a terminal."""
        with self._lock:
            if self._line:
                self._show("")
                with suppress(OSError):
                    self._stream.write("\r")

    def _show(self, line: str) -> None:
        # Whoever watched may be gone; that ends no inventory.
        with suppress(OSError):
            if self._terminal:
                self._stream.write(f"\r{line}{' ' * max(0, len(self._line) - len(line))}")
                self._line = line
            else:
                self._stream.write(f"{line}\n")
            self._stream.flush()


def _passed(state: State) -> Iterator[str]:
    """The gates that a human passed: what they found instead, and the reason."""
    for progress in state.progress.values():
        seen = progress.evidence
        if progress.state == "verified" and seen.get("overridden"):
            yield f"PASSED at your word, not seen in place: {seen['instead_of']}; the reason given: {seen['reason']}"


def _safe(text: str) -> str:
    """Line by line without control characters: a key, a reason or a path may hold what a platform said."""
    return "\n".join(display(line, SCREEN_LINE_MAX) for line in text.split("\n"))


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
