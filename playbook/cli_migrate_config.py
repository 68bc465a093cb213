"""The command `migrate-config`: parses, calls `migrate_config`, and prints. Imports click alone until it is called."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from playbook.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from playbook.circleci_config.rewrite import Options
    from playbook.migrate_config import Outcome
    from playbook.screen import Screen

INLINE: Final = "inline"
MESSAGE: Final = """\
Log in to AWS by OIDC instead of stored access keys

Made by rotation-playbook migrate-config. Try it before the stored keys are switched off.
"""
_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}


@click.command("migrate-config")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--role-arn", metavar="ARN", help="Role to log in with, or a variable that holds it: $AWS_ROLE_ARN.")
@click.option("--job-role", "job_roles", multiple=True, metavar="JOB=ARN", help="Another role for one job.")
@click.option("--also-job", "also", multiple=True, metavar="JOB", help="A job whose scripts reach AWS unseen.")
@click.option("--context", default="aws-oidc", metavar="NAME", help="Context for the jobs (aws-oidc); '' adds none.")
@click.option("--region", default="", metavar="REGION", help="Region, or a variable that holds it.")
@click.option("--session-name", default="", metavar="NAME", help="Session's name in CloudTrail; default the job's.")
@click.option("--session-duration", type=click.IntRange(900, 43_200), default=3_600, help="Seconds (3600).")
@click.option("--self-hosted", is_flag=True, help="Jobs run on the container runner, which pulls no image by OIDC.")
@click.option(
    "--as-orb", is_flag=False, flag_value=INLINE, metavar="[DIR]", help="Wrap the login as an orb, or in DIR."
)
@click.option("--explain", is_flag=True, help="Only say which jobs reach AWS, and how; rewrites nothing.")
@click.option("--write", is_flag=True, help="Write the files.")
@click.option("--branch", metavar="NAME", help="Commit on a new branch; touches no file of the working tree.")
@click.option("--case", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Case folder for originals.")
@click.option("--validate-with-cli", is_flag=True, help="Send results to CircleCI by its own CLI, to be validated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
@click.pass_context
def migrate_config(context: click.Context, /, **options: Any) -> None:
    """Rewrite CircleCI configurations from access keys to OIDC: shows a diff unless told to write."""
    from playbook.migrate_config import targets  # noqa: PLC0415  # not for --help
    from playbook.screen import Screen  # noqa: PLC0415  # as above

    screen = Screen()
    if options["write"] and options["branch"] is not None:
        raise UsageError("--write and --branch exclude each other.", remedy="A branch leaves the files as they are.")
    found = targets(options["paths"])
    if options["explain"]:
        code = _explain(screen, found, as_json=options["as_json"])
    else:
        code = _migrate(screen, found, _asked(options), options)
    context.exit(int(code))


def _asked(options: Mapping[str, Any]) -> Options:
    from playbook.circleci_config.login import Login, problem  # noqa: PLC0415  # not for --help
    from playbook.circleci_config.rewrite import Options  # noqa: PLC0415  # as above

    roles = {}
    for given in options["job_roles"]:
        job, equals, role = given.partition("=")
        if not (job and equals and role):
            raise click.BadParameter(f"{given!r} is not JOB=ARN", param_hint="--job-role")
        roles[job] = role
    if not options["role_arn"]:
        raise UsageError(
            "There is no role to log in with. Nothing was changed.",
            remedy="Name it with --role-arn, such as '$AWS_ROLE_ARN' when the context holds it; --explain needs none.",
        )
    asked = Options(
        role_arn=options["role_arn"],
        roles=roles,
        also=frozenset(options["also"]),
        context=options["context"],
        region=options["region"],
        session_name=options["session_name"],
        session_duration=options["session_duration"],
        self_hosted=options["self_hosted"],
        as_orb=bool(options["as_orb"]),
    )
    for role in (asked.role_arn, *roles.values()):
        login = Login(role=role, region=asked.region, session_name=asked.session_name, duration=asked.session_duration)
        if wrong := problem(login):
            raise UsageError(f"The jobs cannot log in so: {wrong}. Nothing was changed.", remedy="Correct the option.")
    return asked


# --- Explaining -------------------------------------------------------------------------------------------------------


def _explain(screen: Screen, found: Sequence[Any], *, as_json: bool) -> ExitCode:
    from playbook.circleci_config.rewrite import Options  # noqa: PLC0415  # not for --help
    from playbook.migrate_config import explained, read_all  # noqa: PLC0415  # as above

    # Nothing of these options is looked at: what a configuration says does not hang on them.
    outcomes = read_all(found, Options(role_arn="$AWS_ROLE_ARN"))
    documents = [explained(outcome) for outcome in outcomes]
    unreadable = sum(not document["readable"] for document in documents)
    code = ExitCode.GUARD if unreadable else ExitCode.DONE
    if as_json:
        screen.document(json.dumps({"schema": 1, "exit_code": int(code), "files": documents}, indent=2) + "\n")
        return code
    for document in documents:
        for line in _explanation(document):
            screen.result(line)
    jobs = [job for document in documents for job in document["jobs"]]
    needing = sum(job["needs_stored_key"] for job in jobs)
    screen.say(f"{len(documents)} file(s), {unreadable} not readable; {len(jobs)} job(s), {needing} need a stored key")
    return code


def _explanation(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"{document['path']}"
    if not document["readable"]:
        where = f"line {document['line']}: " if document["line"] is not None else ""
        yield f"  cannot be read: {where}{document['why_not']}"
    reaching = [job for job in document["jobs"] if job["credentials"] or job["not_seen"]]
    rows = [("job", "credentials", "contexts", "runs on", "not seen")]
    rows += [
        (
            f"{job['workflow'] or '-'}/{job['name']}",
            ", ".join(job["credentials"]) or "none seen",
            ", ".join(job["contexts"]) or "-",
            job["runs_on"],
            ", ".join(job["not_seen"]) or "-",
        )
        for job in reaching
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows if reaching else ():
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        yield f"  {'  '.join((*cells, row[4]))}".rstrip()
    if document["readable"] and not reaching:
        yield "  no job is seen to reach AWS"
    for text in document["doubts"]:
        yield f"  not the whole answer: {text}"
    if document["unreached"]:
        yield f"  run by no workflow: {', '.join(document['unreached'])}"


# --- Rewriting --------------------------------------------------------------------------------------------------------


def _migrate(screen: Screen, found: Sequence[Any], asked: Options, options: Mapping[str, Any]) -> ExitCode:
    from playbook import migrate_config as work  # noqa: PLC0415  # not for --help

    check = _cli_check(screen) if options["validate_with_cli"] else None
    orb = _orb_sources(options["as_orb"])
    if options["branch"] is not None:
        outcomes = work.commit(work.committed_all(found, asked, check=check), options["branch"], MESSAGE)
    else:
        outcomes = work.read_all(found, asked, check=check)
    if options["write"]:
        outcomes = work.write(outcomes, _originals(options["folder"]))
    code = _code(outcomes)
    if options["as_json"]:
        screen.document(json.dumps(_document(outcomes, asked, code, orb), indent=2) + "\n")
    else:
        _show_diffs(screen, [outcome for outcome in outcomes if not outcome.delivered])
        _show_by_hand(screen, outcomes, asked)
    _summarise(screen, outcomes, orb)
    return code


def _code(outcomes: Sequence[Outcome]) -> ExitCode:
    """Refused counts first; see docs/exit-codes.md."""
    refused = any(str(outcome.verdict) == "refused" for outcome in outcomes)
    delivered = any(outcome.delivered for outcome in outcomes)
    shown = any(outcome.changed and not outcome.delivered for outcome in outcomes)
    if refused:
        return ExitCode.SOME_FAILED if delivered else ExitCode.GUARD
    return ExitCode.CHANGES if shown else ExitCode.DONE


def _originals(folder: Path | None) -> Path:
    if folder is not None:
        return folder.absolute() / "originals"
    from platformdirs import user_state_path  # noqa: PLC0415  # not for --help

    return user_state_path("playbook") / "originals"


def _cli_check(screen: Screen) -> Callable[[str], str]:
    from playbook.config_cli import check_with_cli  # noqa: PLC0415  # not for --help

    screen.say("Each result is sent to CircleCI by its own command line tool, with the token that tool has.", "yellow")
    return check_with_cli(os.environ)


def _orb_sources(as_orb: str | None) -> list[str]:
    if not as_orb or as_orb == INLINE:
        return []
    from playbook.migrate_config import write_orb  # noqa: PLC0415  # not for --help

    return [str(path) for path in write_orb(Path(as_orb))]


def _document(outcomes: Sequence[Outcome], asked: Options, code: ExitCode, orb: Sequence[str]) -> dict[str, Any]:
    from playbook.migrate_config import as_document  # noqa: PLC0415  # not for --help

    return {
        "schema": 1,
        "exit_code": int(code),
        "files": [as_document(outcome, asked) for outcome in outcomes],
        "orb_sources": list(orb),
    }


def _show_diffs(screen: Screen, outcomes: Sequence[Outcome]) -> None:
    coloured = screen.answer.is_terminal and not screen.answer.no_color
    for outcome in outcomes:
        diff = outcome.diff()
        if not coloured:
            # As it is, so that `git apply` takes it.
            screen.document(diff)
            continue
        for line in diff.splitlines():
            style = "bold" if line.startswith(("---", "+++")) else _COLOURS.get(line[:1])
            screen.answer.out(_visible(line), style=style, highlight=False)


def _visible(line: str) -> str:
    from playbook.ports import display  # noqa: PLC0415  # not for --help

    return "\t".join(display(part, 100_000) for part in line.split("\t"))


def _show_by_hand(screen: Screen, outcomes: Sequence[Outcome], asked: Options) -> None:
    from playbook.migrate_config import by_hand  # noqa: PLC0415  # not for --help

    for outcome in outcomes:
        patch = by_hand(outcome, asked)
        if patch:
            screen.say(
                f"\n{outcome.target.path} is left as it is. A patch to go on from by hand; take the old keys out:"
            )
            for line in patch.splitlines():
                screen.say(f"    {_visible(line)}")


def _summarise(screen: Screen, outcomes: Sequence[Outcome], orb: Sequence[str]) -> None:
    """The table of what became of each file; on standard error, because the answer may be a patch."""
    width = max((len(str(outcome.verdict)) for outcome in outcomes), default=0)
    screen.say("")
    for outcome in outcomes:
        told = [f"line {each.line}: {each.text}" if each.line else each.text for each in outcome.reasons]
        told += [outcome.delivered] if outcome.delivered else []
        told += ["not written"] if outcome.changed and not outcome.delivered else []
        screen.say(f"{outcome.verdict!s:{width}}  {outcome.target.path}  {'; '.join(told)}".rstrip())
        for note in outcome.migration.notes if outcome.migration is not None else ():
            screen.say(f"{'':{width}}  note: {note}", "yellow")
        if outcome.undo:
            screen.say(f"{'':{width}}  undo: {outcome.undo}")
    for path in orb:
        screen.say(f"{'orb':{width}}  {path}")
    counts = dict.fromkeys(("migrated", "nothing to do", "refused"), 0)
    for outcome in outcomes:
        counts[str(outcome.verdict)] += 1
    screen.say(f"{len(outcomes)} file(s): {', '.join(f'{count} {name}' for name, count in counts.items())}", "bold")
    changed = [outcome for outcome in outcomes if outcome.changed]
    if changed and all(outcome.breaches is None for outcome in changed):
        screen.say("Not checked against CircleCI's schema: the extra `validate` is not installed.", "yellow")
