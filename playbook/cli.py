"""The commands: they parse, choose the parts through `modes`, and print. The only file that imports `steps`.

One `except PlaybookError`, one table of exit codes. Heavy libraries are imported inside the commands that need them,
so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from playbook import __version__
from playbook.cli_migrate_config import migrate_config
from playbook.errors import CredentialsError, ExitCode, JournalError, PlaybookError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    from playbook.engine import Engine, Outcome
    from playbook.exposure import Proof, Window
    from playbook.inventory import Inventory
    from playbook.journal import Journal
    from playbook.model import Operator, Step
    from playbook.modes import Approval, Settings
    from playbook.ports import Platforms
    from playbook.records import State
    from playbook.screen import Screen
    from playbook.secret import Secret

NAME: Final = "rotation-playbook"
KINDS: Final = (
    "context-variable",
    "project-variable",
    "legacy-aws-key",
    "checkout-key",
    "ssh-key",
    "project-token",
    "webhook-secret",
    "trigger-url",
    "runner-token",
    "oidc-claims",
    "context-restriction",
)
"""The values of `ports.SecretKind`, which `--help` must not import."""
_PATHS: Final = frozenset({"answers", "circleci_token_file"})
"""The settings that are files."""
_DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
F = TypeVar("F", bound="Callable[..., Any]")


# --- Start and end of the process -----------------------------------------------------------------------------------


def _refuse_strangers() -> None:
    """Both packages must be ours: a folder called `steps` in the working directory would run with our credentials."""
    if not __debug__:
        raise UsageError("Python runs with -O, which switches safety checks off.", remedy="Run it without -O.")
    from importlib.util import find_spec  # noqa: PLC0415  # looks, without running what it finds

    origins = [spec.origin for name in ("playbook", "steps") if (spec := find_spec(name)) is not None and spec.origin]
    homes = {Path(origin).resolve().parent.parent for origin in origins}
    here = Path.cwd().resolve()
    # An editable install lives in a checkout, which may be the working directory: then it must be ours by name.
    project = here / "pyproject.toml"
    ours = project.is_file() and f'name = "{NAME}"' in project.read_text(encoding="utf-8", errors="replace")
    if len(origins) != 2 or len(homes) != 1 or (here in homes and not ours):  # noqa: PLR2004  # the two packages
        raise UsageError(
            "Python found another package called `playbook` or `steps` than this program's own. Nothing was done.",
            remedy="Start it from another folder, without PYTHONPATH, from an installation of its own (pipx, uv tool).",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no traceback for anything a user can cause."""
    os.umask(0o077)
    _open_closed_streams()
    try:
        _refuse_strangers()
        code = commands.main(args=arguments, prog_name=NAME, standalone_mode=False)
    except PlaybookError as error:
        _print_error(error)
        code = error.exit_code
    except click.exceptions.Abort:
        code = ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = ExitCode.USAGE
    except KeyboardInterrupt:
        print("Interrupted; nothing more was sent. `resume` goes on.", file=sys.stderr)  # noqa: T201  # last words
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the last line of defence: a traceback could carry a secret
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            # What is left in the buffer would be tried again, and fail again, at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            remedy = "Make room. Whatever was done is in the case's journal; `status` shows it again."
            _print_error(UsageError(f"The output could not be written: {error.strerror}.", remedy=remedy))
            code = ExitCode.USAGE
        else:
            _print_bug(error)
            code = ExitCode.BUG
    sys.exit(int(code or 0))


def _open_closed_streams() -> None:
    """A caller may close the standard streams; then the journal must not get the number of one of them."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))


def _print_error(error: PlaybookError) -> None:
    from playbook.ports import display  # noqa: PLC0415  # only on the way out

    remedy = "\n".join(f"  {display(line, 2000)}" for line in error.remedy.split("\n"))
    print(f"Error: {display(error.message, 2000)}\n{remedy}", file=sys.stderr)  # noqa: T201  # last words


def _print_bug(error: Exception) -> None:
    """Name the place of a bug without its message, which may hold anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "unknown"
    print(  # noqa: T201  # last words
        f"Error: this is a bug ({type(error).__name__} at {where}); nothing more was sent.\n"
        "  The case is intact: `resume` goes on. Please report it with this line; it holds no secret.",
        file=sys.stderr,
    )


class _Signals:
    """First signal: finish the call in flight, journal it, stop. Second: stop now."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._engine: Engine | None = None
        self._wake: Callable[[], None] = lambda: None
        self.exit_code = ExitCode.INTERRUPTED

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def watch(self, engine: Engine) -> None:
        """From now on a signal stops this engine in order."""
        self._engine = engine
        stopped = getattr(engine.world.clock, "stopped", None)
        self._wake = stopped.set if stopped is not None else self._wake

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGTERM:
            self.exit_code = ExitCode.TERMINATED
        if self._engine is not None and self._engine.stopping:
            os._exit(int(self.exit_code))
        if self._engine is None or self._engine.asking:
            raise KeyboardInterrupt
        self._engine.stop()
        self._wake()
        self._screen.say("Stopping: the call in flight is finished and journaled first. Again: stop now.")


# --- Options --------------------------------------------------------------------------------------------------------


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)

    return decorate


def _waits(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    from playbook.ports import Waits  # noqa: PLC0415  # not for --help

    waits = {}
    for value in values:
        name, _, seconds = value.partition("=")
        if not (seconds.isascii() and seconds.isdecimal()):
            raise click.BadParameter(f"{value!r} is not NAME=SECONDS")
        if name not in Waits.__dataclass_fields__:
            raise click.BadParameter(f"there is no wait {name!r}; use one of {', '.join(Waits.__dataclass_fields__)}")
        waits[name] = int(seconds)
    return waits


_connection = _options(
    click.option("--profile", "profiles", multiple=True, metavar="NAME", help="AWS profile; repeat for more accounts."),
    click.option("--role-arn", "role_arns", multiple=True, metavar="ARN", help="Role to assume in another account."),
    click.option(
        "--organization-role", metavar="NAME", help="Role to assume in every account of the AWS Organization."
    ),
    click.option("--region", metavar="REGION", help="AWS region, when the profile names none."),
    click.option("--organization", "organizations", multiple=True, metavar="SLUG", help="CircleCI organization."),
    click.option("--circleci-host", metavar="URL", help="CircleCI Server; default https://circleci.com."),
    click.option("--circleci-token-file", type=click.Path(), metavar="FILE", help="File with the CircleCI token."),
    click.option("--circleci-token-stdin", is_flag=True, help="Read the CircleCI token from standard input."),
    click.option("--allow-endpoint-override", is_flag=True, help="Allow endpoints that are not the platforms' own."),
)
_wait = click.option(
    "--wait", "waits", multiple=True, callback=_waits, metavar="NAME=SECONDS", help="See docs/waits.md."
)
_pace = _options(
    click.option("--parallel", type=click.IntRange(1, 64), default=16, help="Lanes side by side (16)."),
    click.option("--pilot", type=click.IntRange(0), default=1, help="Keys that go first, alone (1)."),
    click.option("--max-failures", type=click.IntRange(1), default=3, help="Equal failures that stop new lanes (3)."),
    _wait,
)
_operator = _options(
    click.option("--batch", is_flag=True, help="Ask nothing; answers come from --answers."),
    click.option("--answers", type=click.Path(), metavar="FILE", help="Answers file (TOML)."),
    click.option("--approve", "digest", metavar="DIGEST", help="Approve exactly the plan that was reviewed."),
    click.option("--yes", is_flag=True, help="Approve whatever the plan is now."),
    click.option("--no-input", is_flag=True, help="Never prompt."),
)
_case = click.option("--case", "folder", type=click.Path(), metavar="DIR", help="Case folder.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Exit codes: docs/exit-codes.md")
@click.version_option(__version__, prog_name=NAME)
def commands() -> None:
    """Rotate every AWS key stored in CircleCI: find, replace, prove, and resume after any crash.

    Begin with `rotation-playbook rehearse`: it needs no account, no token and no network.
    """


# --- What the commands share ----------------------------------------------------------------------------------------


def _settings(options: Mapping[str, Any]) -> Settings:
    from playbook.clients.endpoints import circleci_host  # noqa: PLC0415  # not for --help
    from playbook.modes import Settings  # noqa: PLC0415  # as above

    host = circleci_host(
        options.get("circleci_host"), os.environ, allow_endpoint_override=bool(options.get("allow_endpoint_override"))
    )
    return Settings.from_json({**_given(options), "circleci_host": host})


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are settings and were given."""
    from playbook.modes import Settings  # noqa: PLC0415  # not for --help

    given = {name: value for name, value in options.items() if name in Settings.__dataclass_fields__ and value}
    # `resume` may be called from another folder.
    return given | {name: str(Path(given[name]).absolute()) for name in _PATHS & given.keys()}


def _attended(options: Mapping[str, Any]) -> bool:
    """Whether a person can be asked: both ends are terminals, and nobody said otherwise."""
    refused = options.get("no_input") or options.get("batch") or os.environ.get("PLAYBOOK_NO_INPUT")
    return not refused and sys.stdin.isatty() and sys.stderr.isatty()


def _ask_secret(prompt: str) -> Secret:
    from playbook.operators.wizard import ask_secret  # noqa: PLC0415  # questionary costs 0.1 s

    return ask_secret(prompt)


def _token(screen: Screen, settings: Settings, options: Mapping[str, Any]) -> Secret:
    from playbook.clients.credentials import find_circleci_token  # noqa: PLC0415  # not for --help

    found = find_circleci_token(
        token_file=Path(settings.circleci_token_file) if settings.circleci_token_file else None,
        token_stdin=sys.stdin if options.get("circleci_token_stdin") else None,
        environ=os.environ,
        warn=lambda text: screen.say(text, "yellow"),
    )
    if found is not None:
        screen.say(f"CircleCI token: from {found[1]}; host {settings.circleci_host}")
        return found[0]
    if _attended(options):
        return _ask_secret("CircleCI personal API token (hidden): ")
    raise CredentialsError(
        "There is no CircleCI token. Nothing was read or changed.",
        remedy="Set CIRCLE_TOKEN, or name a file with --circleci-token-file, or pipe it with --circleci-token-stdin.",
    )


def _live(
    screen: Screen, settings: Settings, options: Mapping[str, Any], *, case: str, needs_circleci: bool = True
) -> Platforms:
    from playbook.clients.endpoints import aws_overrides  # noqa: PLC0415  # not for --help
    from playbook.modes import connect  # noqa: PLC0415  # as above
    from playbook.ports import display  # noqa: PLC0415  # as above

    # A first minute that waits for a token is none; whatever then asks CircleCI is told that there is none.
    token = _token(screen, settings, options) if needs_circleci else None
    platforms = connect(settings, token, case=case, ask_secret=_ask_secret if _attended(options) else None)
    for text in (
        *platforms.notes,
        *(f"Not opened: {hole.what} {hole.where} ({hole.why})" for hole in platforms.unopened),
    ):
        screen.say(display(text), "yellow")
    for override in aws_overrides(os.environ, settings.profiles):
        screen.say(f"!! AWS endpoint override: {override.where} = {override.url}", "bold yellow")
    return platforms


def _cases_folder() -> Path:
    from platformdirs import user_state_path  # noqa: PLC0415  # not for --help

    return user_state_path("playbook") / "cases"


def _new_case_folder() -> Path:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    return _cases_folder() / f"{stamp}-{os.urandom(2).hex()}"


def _known_cases() -> list[tuple[Path, State]]:
    from playbook.journal import fold, read  # noqa: PLC0415  # not for --help

    cases = []
    folder = _cases_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            cases.append((path, fold(read(path).records)))
        except JournalError:
            continue
    return sorted(cases, key=lambda case: case[1].opened.at if case[1].opened else "", reverse=True)


def _is_open(state: State) -> bool:
    """Whether there is something to go on with; a dry run is never continued."""
    return state.sealed is None and state.opened is not None and state.opened.mode != "dry-run"


def _is_finished(state: State) -> bool:
    """Whether the playbook came to its end; what stands beside it (undo, retirement) may have begun since."""
    from steps import PLAYBOOK  # noqa: PLC0415  # not for --help

    return state.sealed is not None or {step.id for step in PLAYBOOK} <= set(state.done)


def _is_kept(state: State) -> bool:
    return state.opened is not None and state.opened.mode != "dry-run"


def _find_case(name: str | None, *, finished: bool = False) -> Path:
    """The case of this name or folder; without one the newest that is open (or, with `finished`, that is live)."""
    if name is not None:
        named = Path(name)
        return named.absolute() if named.exists() or os.sep in name else _cases_folder() / name
    unfinished = [path for path, state in _known_cases() if _is_open(state) or (finished and _is_kept(state))]
    if not unfinished:
        raise UsageError(
            "There is no unfinished case.", remedy="Begin one with `run` or `rehearse`, or name a case folder."
        )
    return unfinished[0]


def _operator_and_approval(
    screen: Screen, options: Mapping[str, Any], *, shipped: str | None = None
) -> tuple[Operator, Approval]:
    """The wizard on a terminal, or the answers file standing in for it."""
    from playbook.modes import Approval  # noqa: PLC0415  # not for --help

    digest, yes = options.get("digest") or "", bool(options.get("yes"))
    if _attended(options) and not options.get("answers"):
        from playbook.operators.wizard import Wizard  # noqa: PLC0415  # questionary costs 0.1 s

        return Wizard(), Approval(digest=digest, yes=yes)
    from playbook.operators.answers_file import read  # noqa: PLC0415  # not for --help
    from playbook.operators.script import Script  # noqa: PLC0415  # as above

    if options.get("answers"):
        text = read(Path(options["answers"]))
    elif shipped is not None:
        text, yes = shipped, True
    elif options.get("batch"):
        raise UsageError(
            "--batch asks nothing, so it needs answers. Nothing was changed.", remedy="Add --answers FILE."
        )
    else:
        raise UsageError(
            "There is no terminal to ask on. Nothing was changed.",
            remedy="Run it on a terminal, or with --batch --answers FILE (and --yes or --approve DIGEST).",
        )
    script = Script(text, approve_digest=digest or None, yes=yes, say=screen.say)
    return script, Approval(digest=digest or script.approve_digest or "", yes=yes, batch=True)


# --- Carrying a case out --------------------------------------------------------------------------------------------


def _work(  # noqa: PLR0917  # the parts of a run, each named by its type
    screen: Screen,
    journal: Journal,
    platforms: Platforms,
    settings: Settings,
    options: Mapping[str, Any],
    operator: Operator,
    approval: Approval,
    alone: Step | None = None,
) -> int:
    """Carry a case on (or one step beside it) until it ends or waits; print the closing table."""
    from playbook import log  # noqa: PLC0415  # not for --help
    from playbook.lanes import Interrupted  # noqa: PLC0415  # as above
    from playbook.modes import Conduct, carry_out, carry_out_alone, merge_waits  # noqa: PLC0415  # as above
    from playbook.ports import Waits  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    folder = journal.folder or Path()
    signals = _Signals(screen)
    signals.install()
    waits = merge_waits(Waits(), {**getattr(operator, "waits", {}), **(settings.waits or {})})
    logger = log.configure(journal.folder / "log.jsonl" if journal.folder else None, verbose=False)

    def tell(event: str, fields: Mapping[str, Any]) -> None:
        logger.info(event, **{name: value for name, value in fields.items() if name != "findings"})
        screen.tell(event, fields)

    screen.say(f"Case: {folder}")
    before = _tries(journal.state)
    conduct = Conduct(settings=settings, waits=waits, approval=approval, tell=tell, started=signals.watch)
    try:
        if alone is not None:
            outcome = carry_out_alone(journal, platforms, alone, operator, conduct)
        else:
            # The wizard shows the plan itself, where it asks for the approval.
            show = screen.show_doubts if not approval.batch else screen.show_walk
            preview = None if approval.batch else screen.preview
            outcome = carry_out(journal, platforms, PLAYBOOK, operator, conduct, show=show, preview=preview)
    except (Interrupted, KeyboardInterrupt):
        screen.say(f"Stopped in order. Go on with: {_again(alone, folder)}", "bold")
        return int(signals.exit_code)
    except PlaybookError:
        screen.say(f"The case is kept. Go on with: {_again(alone, folder)}")
        raise
    finally:
        platforms.close()
    if options.get("as_json"):
        document = _status_document(folder, journal.state, int(outcome.exit_code))
        screen.result(json.dumps({**document, "next_command": _next_after(alone, outcome, folder)}))
        return int(outcome.exit_code)
    words = _last_words(alone, outcome, changed=_tries(journal.state) > before)
    following = _next_after(alone, outcome, folder)
    steps = PLAYBOOK if alone is None else (alone,)
    screen.closing(journal.state, steps, outcome, words, following)
    return int(outcome.exit_code)


def _tries(state: State) -> int:
    return sum(len(progress.attempts) for progress in state.progress.values())


def _again(alone: Step | None, folder: Path) -> str:
    """The command that goes on with what was stopped."""
    commands_of = {"undo": f"{NAME} undo {folder}", "contain_now": f"{NAME} run --case {folder}"}
    return commands_of.get(alone.id if alone is not None else "", f"{NAME} resume {folder}")


def _next_after(alone: Step | None, outcome: Outcome, folder: Path) -> str:
    """What is typed next; empty when there is nothing left to do."""
    contained = alone is not None and alone.id == "contain_now"
    return _again(alone, folder) if outcome.unfinished or contained else ""


def _last_words(alone: Step | None, outcome: Outcome, *, changed: bool) -> str:
    """How it ended, in a sentence that fits what was asked for."""
    if outcome.exit_code is ExitCode.WAITING:
        return "Not finished: something waits, and says above what for."
    if outcome.exit_code is ExitCode.SOME_FAILED:
        return "Finished, but some targets failed or were left out; they are named above."
    done, nothing = {
        "undo": (
            "Undone: what can be put back is back as it was. Stored values stay: every place keeps what it holds now.",
            "There is nothing to put back, or nothing any more. Nothing was changed.",
        ),
        "contain_now": (
            "Contained: the keys are off and were seen off. CircleCI still stores them: jobs that use them fail now.",
            "They were off already. Nothing was changed.",
        ),
        "retire_old_keys": (
            "Retired: the old keys that were due are deleted for good.",
            "Nothing was deleted: no old key is due, or none was agreed to.",
        ),
        "": ("Done: everything planned is done and was seen in place.",) * 2,
    }[alone.id if alone is not None else ""]
    return done if changed else nothing


@commands.command()
@click.argument("scenario", default="small")
@click.option("--inject", multiple=True, metavar="FAULT", help="Drill a fault: throttle, drop-reply, crash, ...")
@_case
@_pace
@_operator
@_json
@click.pass_context
def rehearse(context: click.Context, /, **options: Any) -> None:
    """Rehearse the whole playbook on a made-up organisation; nothing live is touched.

    Without a terminal, or with --batch, it plays the answers that the scenario ships.
    """
    from playbook.modes import Mode, Settings, open_case, rehearsal  # noqa: PLC0415  # not for --help
    from playbook.screen import Screen  # noqa: PLC0415  # as above
    from playbook.twins.faults import parse  # noqa: PLC0415  # as above
    from playbook.twins.scenario import load  # noqa: PLC0415  # as above

    screen = Screen()
    scenario = load(options["scenario"])
    for fault in options["inject"]:
        parse(fault)
    operator, approval = _operator_and_approval(screen, options, shipped=scenario.answers)
    settings = Settings.from_json(_given(options))
    folder = Path(options["folder"]).absolute() if options["folder"] else _new_case_folder()
    screen.say("REHEARSAL: a made-up organisation in memory; nothing live is touched.", "bold")
    journal = open_case(folder, Mode.REHEARSAL, settings)
    try:
        code = _work(screen, journal, rehearsal(settings, folder), settings, options, operator, approval)
    finally:
        journal.close()
    context.exit(code)


@commands.command()
@_connection
@_case
@click.option(
    "--dry-run", is_flag=True, help="Walk everything on twins of the live world; the live world is only read."
)
@click.option("--exit-code", is_flag=True, help="With --dry-run: exit 10 when there are changes to make.")
@_operator
@_pace
@_json
@click.pass_context
def run(context: click.Context, /, **options: Any) -> None:
    """Run the playbook on the live world: the wizard, or --batch with an answers file."""
    from playbook.modes import Mode, open_case  # noqa: PLC0415  # not for --help
    from playbook.screen import Screen  # noqa: PLC0415  # as above

    screen = Screen()
    operator, approval = _operator_and_approval(screen, options)
    settings = _settings(options)
    folder = Path(options["folder"]).absolute() if options["folder"] else _new_case_folder()
    mode = Mode.DRY_RUN if options["dry_run"] else Mode.LIVE
    journal = open_case(folder, mode, settings)
    try:
        platforms = _live(screen, settings, options, case=_case_id(journal))
        work = _dry_run if options["dry_run"] else _work
        code = work(screen, journal, platforms, settings, options, operator, approval)
    finally:
        journal.close()
    context.exit(code)


def _case_id(journal: Journal) -> str:
    from playbook.journal import opened  # noqa: PLC0415  # not for --help

    return opened(journal.state).case


def _dry_run(  # noqa: PLR0917  # called in place of `_work`
    screen: Screen,
    journal: Journal,
    platforms: Platforms,
    settings: Settings,
    options: Mapping[str, Any],
    operator: Operator,
    approval: Approval,
) -> int:
    from playbook.modes import journaled, merge_waits, walk  # noqa: PLC0415  # not for --help
    from playbook.ports import Waits  # noqa: PLC0415  # as above
    from playbook.records import Sealed  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    del approval
    screen.say("DRY RUN: the live world is only read; every change is made on a twin of it.", "bold")
    waits = merge_waits(Waits(), {**getattr(operator, "waits", {}), **(settings.waits or {})})
    try:
        walked = walk(platforms, PLAYBOOK, journaled(operator, journal), settings, waits)
    finally:
        platforms.close()
    screen.findings(walked.outcome.findings)
    if options["as_json"]:
        screen.result(json.dumps(walked.document()))
    else:
        screen.show_walk(walked)
        screen.result(f"{len(walked.changes)} change(s) would be made; the digest to approve is {walked.digest}")
    code = ExitCode.CHANGES if options["exit_code"] and walked.changes else ExitCode.DONE
    journal.append(Sealed(outcome="walked", exit_code=int(code)))
    return int(code)


@commands.command()
@click.argument("case", required=False)
@_connection
@_operator
@_wait
@_json
@click.pass_context
def resume(context: click.Context, /, **options: Any) -> None:
    """Go on with a case after a crash or a pause; without CASE the newest unfinished one.

    Connection settings come from the case unless given. A finished case offers what has fallen due since: the
    deletion of its old keys.
    """
    from steps import RETIREMENT  # noqa: PLC0415  # not for --help

    context.exit(_reopen(options, _find_case(options["case"]), when_finished=RETIREMENT))


@commands.command()
@click.argument("case", required=False)
@_connection
@_operator
@_wait
@_json
@click.pass_context
def undo(context: click.Context, /, **options: Any) -> None:
    """Put back what can be put back, newest first, as a plan of its own; without CASE of the newest case.

    Old keys go on again; a stored value cannot come back, for CircleCI never shows one. The case ends with it.
    """
    from steps import UNDO  # noqa: PLC0415  # not for --help

    folder = _find_case(options["case"], finished=True)
    context.exit(_reopen(options, folder, alone=UNDO))


def _reopen(
    options: dict[str, Any], folder: Path, *, alone: Step | None = None, when_finished: Step | None = None
) -> int:
    """Open a case again with its own settings and go on with it, or with one step beside it."""
    from dataclasses import replace  # noqa: PLC0415  # not for --help

    from playbook.journal import Journal, check_folder, opened  # noqa: PLC0415  # as above
    from playbook.modes import Mode, Settings, rehearsal  # noqa: PLC0415  # as above
    from playbook.records import Sealed  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above
    from playbook.twins.scenario import load  # noqa: PLC0415  # as above

    screen = Screen()
    if not check_folder(folder):
        raise UsageError(f"{folder} holds no case.", remedy="`status` lists the cases.")
    journal = Journal.open(folder)
    try:
        first = opened(journal.state)
        if first.mode == Mode.DRY_RUN:
            raise UsageError(
                f"{folder} is a dry run, and a dry run is never continued live.",
                remedy="Run `answers` on it, and give the file to `run --batch --answers`.",
            )
        kept = Settings.from_json(first.settings)
        if first.mode == Mode.REHEARSAL:
            settings = replace(kept, inject=())
            shipped = load(kept.scenario).answers
        else:
            settings = _settings({**kept.to_json(), **_given(options)})
            shipped = None
        settings = replace(settings, waits={**(kept.waits or {}), **options["waits"]})
        if settings.answers and not options["answers"] and not _attended(options):
            options["answers"] = settings.answers
        operator, approval = _operator_and_approval(screen, options, shipped=shipped)
        if first.mode == Mode.REHEARSAL:
            platforms = rehearsal(settings, folder)
        else:
            platforms = _live(screen, settings, options, case=first.case)
        alone = alone or (when_finished if _is_finished(journal.state) else None)
        code = _work(screen, journal, platforms, settings, options, operator, approval, alone)
        if alone is not None and code == ExitCode.DONE:
            word = "undone" if alone.id == "undo" else "done"
            journal.append(Sealed(outcome=word, exit_code=code))
    finally:
        journal.close()
    return code


@commands.command()
@click.argument("key_ids", metavar="KEY_ID...", nargs=-1, required=True)
@_connection
@_case
@click.option("--yes", is_flag=True, help="Switch them off without asking.")
@click.option("--no-input", is_flag=True, help="Never prompt.")
@_wait
@_json
@click.pass_context
def contain(context: click.Context, /, **options: Any) -> None:
    """The first minute: switch access keys off now, by their ids; one typed confirmation, no inventory before.

    Whose they are is asked of AWS. The case it opens goes on with `run --case DIR`.
    """
    from playbook.modes import Approval, Mode, open_case  # noqa: PLC0415  # not for --help
    from playbook.operators.script import Script  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above
    from steps import contain_now  # noqa: PLC0415  # as above

    screen = Screen()
    for number, key_id in enumerate(options["key_ids"], 1):
        if not re.fullmatch(r"AKIA[A-Z2-7]{16}", key_id):
            # It is not shown: in a hurry somebody pastes the secret.
            raise UsageError(
                f"Argument {number} ({len(key_id)} characters) is not the id of an access key, which is AKIA and 16 "
                "letters or digits. Nothing was done.",
                remedy="Give the id, never the secret: `contain AKIA...`.",
            )
    if not _attended(options) and not options["yes"]:
        raise UsageError(
            "There is no terminal to confirm on. Nothing was switched off.",
            remedy="Add --yes, or run it on a terminal.",
        )
    operator: Operator
    if options["yes"]:
        operator = Script("", yes=True, say=screen.say)
    else:
        from playbook.operators.wizard import Wizard  # noqa: PLC0415  # questionary costs 0.1 s

        operator = Wizard()
    settings = _settings(options)
    folder = Path(options["folder"]).absolute() if options["folder"] else _new_case_folder()
    journal = open_case(folder, Mode.LIVE, settings)
    try:
        platforms = _live(screen, settings, options, case=_case_id(journal), needs_circleci=False)
        approval = Approval(yes=options["yes"], batch=options["yes"])
        step = contain_now(options["key_ids"])
        code = _work(screen, journal, platforms, settings, options, operator, approval, step)
    finally:
        journal.close()
    context.exit(code)


# --- Looking --------------------------------------------------------------------------------------------------------


def _status_document(folder: Path, state: State, exit_code: int | None = None) -> dict[str, Any]:
    from dataclasses import asdict  # noqa: PLC0415  # not for --help

    from playbook.summary import key_rows, step_rows  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    waiting = [
        {"key": key, "state": progress.state, "why": progress.reason}
        for key, progress in state.progress.items()
        if progress.state not in {"verified", "skipped"}
    ]
    return {
        "schema": 1,
        "case": state.opened.case if state.opened else "",
        "folder": str(folder),
        "mode": state.opened.mode if state.opened else "",
        "opened_at": state.opened.at if state.opened else "",
        "status": _standing(state),
        "exit_code": exit_code if exit_code is not None else (state.sealed.exit_code if state.sealed else None),
        "steps": [asdict(row) for row in step_rows(state, PLAYBOOK)],
        "keys": [asdict(row) for row in key_rows(state)],
        "burn_down": _burn_down(folder, state),
        "unfinished": waiting,
        "next_command": _next_command(folder, state),
    }


def _standing(state: State) -> str:
    """`open`, `finished` or `undone`."""
    if state.sealed is None:
        return "open"
    return "undone" if state.sealed.outcome == "undone" else "finished"


def _next_command(folder: Path, state: State) -> str:
    if state.sealed is not None:
        return ""
    return f"{NAME} {'resume' if _is_open(state) else 'answers'} {folder}"


def _burn_down(folder: Path, state: State) -> dict[str, int] | None:
    """How many secrets of the case's inventory are rotated by now; None before there is one."""
    from dataclasses import asdict  # noqa: PLC0415  # not for --help

    from playbook.exposure import burn_down, judge  # noqa: PLC0415  # as above
    from playbook.inventory import Inventory  # noqa: PLC0415  # as above
    from playbook.journal import read_attachment  # noqa: PLC0415  # as above
    from playbook.summary import proof_of, window_of  # noqa: PLC0415  # as above

    digest = next((part.attachment for parts in state.plans.values() for part in parts if part.attachment), "")
    if not digest:
        return None
    found = Inventory.from_lines(read_attachment(folder, "inventory.jsonl", digest))
    return asdict(burn_down(found, judge(found, window_of(state), proof_of(state))))


@commands.command()
@click.argument("case", required=False)
@_json
def status(case: str | None, as_json: bool) -> None:  # noqa: FBT001  # click passes flags by name
    """Say where a case stands; without CASE, every open one."""
    from playbook.journal import fold, read  # noqa: PLC0415  # not for --help
    from playbook.screen import Screen, keys_table, steps_table  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    screen = Screen()
    if case is not None:
        folder = _find_case(case)
        found = [(folder, fold(read(folder).records))]
    else:
        found = [(path, state) for path, state in _known_cases() if _is_open(state)]
    documents = [_status_document(folder, state) for folder, state in found]
    if as_json:
        screen.result(json.dumps(documents[0] if case is not None else {"schema": 1, "cases": documents}))
        return
    if not found:
        screen.result("No case is open.")
    for (folder, state), document in zip(found, documents, strict=True):
        screen.result(f"Case {folder} ({document['mode']}, {document['status']}, opened {document['opened_at']})")
        screen.answer.print(keys_table(state))
        screen.answer.print(steps_table(state, PLAYBOOK))
        if (left := document["burn_down"]) is not None:
            screen.result(
                f"Secrets: {left['rotated']} of {left['total']} rotated; "
                f"{left['exposed']} exposed, {left['unknown']} unknown."
            )
        for item in document["unfinished"]:
            if item["why"] or item["state"] != "planned":
                screen.result(f"  {item['state']}: {item['key']} {item['why']}")
        if document["next_command"]:
            screen.result(f"Next: {document['next_command']}")


@commands.command()
@click.argument("case", required=False)
@_json
def verify(case: str | None, as_json: bool) -> None:  # noqa: FBT001  # click passes flags by name
    """Verify a journal's integrity: every record, its chain, and the files bound to it."""
    from playbook.journal import fold, read, read_attachment  # noqa: PLC0415  # not for --help
    from playbook.modes import PLAN_FILE  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above

    folder = _find_case(case)
    recovered = read(folder)
    state = fold(recovered.records)
    for parts in state.plans.values():
        for part in parts:
            if part.attachment:
                read_attachment(folder, "inventory.jsonl", part.attachment)
    if "run" in state.approvals and state.approvals["run"].attachment:
        read_attachment(folder, PLAN_FILE, state.approvals["run"].attachment)
    screen = Screen()
    if as_json:
        document = {"schema": 1, "records": len(recovered.records), "head": recovered.head, "torn": len(recovered.torn)}
        screen.result(json.dumps(document))
        return
    screen.result(f"{len(recovered.records)} records verify; the head is {recovered.head}.")
    if recovered.torn:
        screen.result(f"A torn tail of {len(recovered.torn)} bytes was left by a crash; `resume` cuts it off.")


@commands.command()
@click.argument("case", required=False)
def answers(case: str | None) -> None:
    """Print the answers given so far as an answers file, so that what was done by hand runs in batch."""
    from playbook.journal import fold, read  # noqa: PLC0415  # not for --help
    from playbook.operators.answers_file import dump  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above

    state = fold(read(_find_case(case)).records)
    given = [({"answer_key": item.answer_key, "subject": item.subject}, item.value) for item in state.answers.values()]
    Screen().result(dump(given), end="")


@commands.command()
@click.argument("case", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "json", "terraform", "cloudformation"]),
    default="markdown",
    help="Form of the report, or what the case made in IAM as code.",
)
def report(case: str | None, form: str) -> None:
    """Print the report of a case: what was found, done and seen, each with its record."""
    from playbook.inventory import Inventory  # noqa: PLC0415  # not for --help
    from playbook.journal import attached_inventory, fold, read  # noqa: PLC0415  # as above
    from playbook.report import from_state, to_json, to_markdown  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    folder = _find_case(case)
    recovered = read(folder)
    state = fold(recovered.records)
    if form in {"terraform", "cloudformation"}:
        Screen().result(_as_code(state, form), end="")
        return
    lines = attached_inventory(folder, state)
    holes = Inventory.from_lines(lines).holes if lines is not None else None
    document = from_state(state, PLAYBOOK, folder=str(folder), head=recovered.head, holes=holes)
    Screen().result(to_json(document) if form == "json" else to_markdown(document))


def _as_code(state: State, form: str) -> str:
    """What a case made in IAM, account by account."""
    from playbook.engine import not_put_back  # noqa: PLC0415  # not for --help
    from playbook.infrastructure_code import cloudformation, cloudformation_import, terraform  # noqa: PLC0415  # as above
    from steps.oidc_code import made_in_iam  # noqa: PLC0415  # as above

    made = made_in_iam(state.opened.case if state.opened else "", not_put_back(state))
    if form == "terraform":
        return "\n".join(f"# Account {account}\n\n{terraform(code)}" for account, code in made.items())
    accounts = {
        account: {"template": json.loads(cloudformation(code)), "import": json.loads(cloudformation_import(code))}
        for account, code in made.items()
    }
    return json.dumps({"schema": 1, "accounts": accounts}, indent=2, ensure_ascii=False) + "\n"


@commands.command()
@_connection
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="Form of the result."
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND", help="Limit it to a kind; repeatable."
)
@click.option("--projects-file", type=click.Path(), metavar="FILE", help="More project slugs, one a line.")
@click.option("--exposed-from", default="", metavar="TIME", help="When strangers began to read: 2022-12-21T00:00:00Z.")
@click.option("--exposed-until", default="", metavar="TIME", help="When that ended; what was written since is rotated.")
@click.option("--checkout", "checkouts", multiple=True, metavar="DIR", help="Checkout to look for jobs in; repeatable.")
@click.option(
    "--compiled-configs",
    type=click.IntRange(0, 20),
    default=0,
    metavar="N",
    help="Look for jobs in what each project's N latest pipelines ran with (0).",
)
@click.option(
    "--holds", "said", multiple=True, metavar="ID=KEY_ID", help="Vouch that a row holds this key; repeatable."
)
@click.option("--fail-on-exposed", is_flag=True, help="Exit 10 when secrets are exposed or anything was not read.")
@click.option("--parallel", type=click.IntRange(1, 64), default=16, help="Reads side by side (16).")
@click.option("--no-input", is_flag=True, help="Never prompt.")
@_case
@_json
@click.pass_context
def inventory(context: click.Context, /, **options: Any) -> None:
    """List everything stored in CircleCI and every access key, and say which variable holds which key.

    With --case an interrupted inventory goes on where it was, and a run's journal says what was rotated.
    """
    from playbook import survey  # noqa: PLC0415  # not for --help
    from playbook.exposure import judge  # noqa: PLC0415  # as above
    from playbook.inventory_document import document, is_exposed, to_csv  # noqa: PLC0415  # as above
    from playbook.screen import Screen  # noqa: PLC0415  # as above

    screen = Screen()
    settings = _settings(options)
    checkouts = survey.checkouts_of(options["checkouts"])
    given = survey.window_of(options["exposed_from"], options["exposed_until"])
    window, proof = _of_case(options, given)
    found = _read_everything(screen, settings, options)
    verdicts = judge(found, window, proof)
    told = document(found, kinds=options["kinds"], window=window, verdicts=verdicts, checkouts=checkouts)
    form = "json" if options["as_json"] else options["form"]
    if form == "json":
        screen.document(f"{json.dumps(told, indent=2)}\n")
    elif form == "csv":
        screen.document(to_csv(told))
    else:
        screen.inventory(told)
    if options["fail_on_exposed"] and is_exposed(told):
        context.exit(int(ExitCode.CHANGES))


def _of_case(options: Mapping[str, Any], given: Window | None) -> tuple[Window | None, Proof]:
    """The window and the proofs of the case that `--case` names, if it holds a journal; what is given comes first."""
    from playbook.exposure import NO_PROOF  # noqa: PLC0415  # not for --help
    from playbook.journal import check_folder, fold, read  # noqa: PLC0415  # as above
    from playbook.summary import proof_of, window_of  # noqa: PLC0415  # as above

    folder = Path(options["folder"]) if options["folder"] else None
    if folder is None or not check_folder(folder):
        return given, NO_PROOF
    state = fold(read(folder).records)
    return given or window_of(state), proof_of(state)


def _read_everything(screen: Screen, settings: Settings, options: Mapping[str, Any]) -> Inventory:
    """Collect, with the progress on stderr; under `--case` what was read is kept until it is whole."""
    from playbook import survey  # noqa: PLC0415  # not for --help
    from playbook.collect import collect  # noqa: PLC0415  # as above
    from playbook.inventory import find_organizations  # noqa: PLC0415  # as above
    from playbook.journal import Journal  # noqa: PLC0415  # as above
    from playbook.reading import Reading  # noqa: PLC0415  # as above
    from playbook.screen import ReadingProgress  # noqa: PLC0415  # as above
    from playbook.world import CaseWorld  # noqa: PLC0415  # as above

    slugs = survey.projects_of(Path(options["projects_file"])) if options["projects_file"] else ()
    said, kinds = survey.said_of(options["said"]), survey.kinds_of(options["kinds"])
    runs = int(options["compiled_configs"])
    platforms = _live(screen, settings, options, case="inventory")
    progress = ReadingProgress(sys.stderr)
    reading = None
    try:
        view = CaseWorld(platforms, Journal(), parallel=settings.parallel)
        organizations = find_organizations(view, settings.organizations)
        if options["folder"]:
            scope = survey.scope_of(view.circleci.host, organizations, view.accounts, kinds, slugs, runs=runs)
            reading = Reading(Path(options["folder"]), scope=scope, now=view.clock.now())
            if reading.taken_up:
                screen.say(f"Going on with an interrupted inventory: {reading.taken_up} parts are read already.")
        found = collect(
            view,
            organizations,
            view.accounts,
            kinds=kinds,
            known_projects=slugs,
            said=said,
            runs=runs,
            reading=reading,
            progress=progress,
        )
        if reading is not None and found.complete:
            reading.finish()
    finally:
        progress.close()
        if reading is not None:
            reading.close()
        platforms.close()
    return found


@commands.command()
@_connection
@click.option("--answers", type=click.Path(), metavar="FILE", help="Answers file: narrows the policy to its plan.")
@click.option("--oidc", is_flag=True, help="Check the roles that trust CircleCI instead.")
@click.option("--no-input", is_flag=True, help="Never prompt.")
@click.option("--parallel", type=click.IntRange(1, 64), default=16, help="Reads side by side (16).")
@_json
@click.pass_context
def doctor(context: click.Context, /, **options: Any) -> None:
    """Check credentials, permissions and clock, and print the exact IAM policy a run needs; changes nothing."""
    from playbook.doctor import examine  # noqa: PLC0415  # not for --help
    from playbook.screen import Screen  # noqa: PLC0415  # as above
    from steps import PLAYBOOK  # noqa: PLC0415  # as above

    screen = Screen()
    settings = _settings(options)
    operator = _operator_and_approval(screen, {**options, "batch": True})[0] if options["answers"] else None
    platforms = _live(screen, settings, options, case="doctor")
    if options["oidc"]:
        context.exit(int(_check_trusts(screen, platforms, settings, as_json=options["as_json"])))
    try:
        health = examine(platforms, PLAYBOOK, settings, operator)
    finally:
        platforms.close()
    if options["as_json"]:
        screen.result(json.dumps(health.document()))
    else:
        for line in health.lines():
            screen.result(line)
        screen.result(json.dumps(health.policy, indent=2))
    context.exit(int(ExitCode.CREDENTIALS if health.denied else ExitCode.DONE))


def _check_trusts(screen: Screen, platforms: Platforms, settings: Settings, *, as_json: bool) -> ExitCode:
    """`doctor --oidc`: what is wrong with whom roles trust, as a table or as JSON."""
    from playbook.inventory import find_organizations  # noqa: PLC0415  # not for --help
    from playbook.journal import Journal  # noqa: PLC0415  # as above
    from playbook.trust_check import check_roles  # noqa: PLC0415  # as above
    from playbook.world import CaseWorld  # noqa: PLC0415  # as above

    try:
        view = CaseWorld(platforms, Journal(), parallel=settings.parallel)
        checked = check_roles(view, find_organizations(view, settings.organizations))
    finally:
        platforms.close()
    if as_json:
        screen.result(json.dumps(checked.document()))
    else:
        screen.trusts(checked.rows())
    return ExitCode.CHANGES if checked.is_urgent else ExitCode.DONE


@commands.command()
@click.argument("scenario", default="small")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the CircleCI twin; 0 picks one.")
@click.option("--aws-port", type=click.IntRange(0, 65535), default=0, help="Port of AWS through moto; 0 picks one.")
@click.option("--seconds", type=click.IntRange(1), help="Stop by itself after so long.")
def sandbox(scenario: str, port: int, aws_port: int, seconds: int | None) -> None:
    """Serve the CircleCI twin (and AWS through moto, with the `sandbox` extra) on loopback, for any client."""
    from playbook.sandbox import serve  # noqa: PLC0415  # not for --help

    serve(scenario, port=port, aws_port=aws_port, seconds=seconds)


commands.add_command(migrate_config)
