"""A configuration's jobs moved from stored access keys to OIDC: what to edit, and whether it may be; pure functions.

Either every job that a workflow reaches and that needs a stored key is moved, or the file is refused with the reason
and the place, and nothing of it is changed. The result is read again: no such job may be left in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from playbook.circleci_config import keys, scripts
from playbook.circleci_config import orbs as known
from playbook.circleci_config.document import parse
from playbook.circleci_config.dynamic import CONTINUED, DynamicImages
from playbook.circleci_config.edit import EditRefused, InsertKey, RemoveKey, Replace, apply
from playbook.circleci_config.invocations import Invocations, named_profile
from playbook.circleci_config.login import Login, problem
from playbook.circleci_config.logins import Logins, step_of
from playbook.circleci_config.options import Options, Refusal
from playbook.circleci_config.shell import OPAQUE, REAL_KEY, Form, Origin
from playbook.circleci_config.splices import spliced
from playbook.circleci_config.understand import ASSUMED, Reading, What, is_stored, understand
from playbook.circleci_config.wanted import Wanted

if TYPE_CHECKING:
    from playbook.circleci_config.document import Document, KeyPath
    from playbook.circleci_config.edit import Edit
    from playbook.circleci_config.understand import Event, Run

__all__ = ["Migration", "Options", "Reason", "Verdict", "migrate"]

_OLD_VERSIONS: Final = frozenset({"2", "2.0"})
_LISTED_MAX: Final = 5


class Verdict(StrEnum):
    """What became of one file."""

    MIGRATED = "migrated"
    NOTHING = "nothing to do"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a file was refused, and where; `line` counts from 1."""

    text: str
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What became of one file; `after` equals `before` unless it was migrated."""

    verdict: Verdict
    before: str
    after: str
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    """What somebody must know or do besides."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files to be written, by their name beside the configuration."""
    reading: Reading


def migrate(document: Document, options: Options) -> Migration:
    """Move one configuration to OIDC; never raises for what a file says."""
    before = spliced(document, [])
    reading = understand(document.data)
    planner = _Planner(document, reading, options)
    if not planner.runs:
        reason = Reason(text=_why_nothing(reading))
        return Migration(
            verdict=Verdict.NOTHING,
            before=before,
            after=before,
            reasons=(reason,),
            notes=_leftovers(reading),
            reading=reading,
        )
    after = before
    reasons: tuple[Reason, ...] = ()
    files: Mapping[str, str] = {}
    try:
        after = apply(document, planner.edits())
        if planner.dynamic:
            files = {CONTINUED: after}
            after = planner.dynamic.setup(planner.login(planner.runs[0]))
        reasons = _left([after, *files.values()])
    except Refusal as refusal:
        line = document.line(refusal.path) if refusal.path and refusal.path in document else None
        reasons = (Reason(text=refusal.text, line=line),)
    except EditRefused as refused:
        reasons = (Reason(text=refused.reason, line=refused.line),)
    if reasons:
        after, files = before, {}
    return Migration(
        verdict=Verdict.REFUSED if reasons else Verdict.MIGRATED,
        before=before,
        after=after,
        reasons=reasons,
        notes=planner.notes(),
        files=files,
        reading=reading,
    )


def _left(texts: list[str]) -> tuple[Reason, ...]:
    """What of the results would still need a stored key."""
    runs = (run for text in texts for run in understand(parse(text).data).static_runs)
    return tuple(
        Reason(text=f"the job {run.name} would still need a stored key ({', '.join(map(str, run.how))})")
        for run in runs
    )


def _leftovers(reading: Reading) -> tuple[str, ...]:
    """What to know of a file whose jobs log in by OIDC already."""
    winning = [orb for orb in reading.orbs if orb.name == known.AWS_CLI and known.leftover_wins(orb)]
    return tuple(
        f"with aws-cli {orb.version} a key that is still in the environment wins over the role:"
        f" delete it, or move to {known.AWS_CLI_VERSION}"
        for orb in winning
        if any(run.logs_in for run in reading.runs)
    )


def _why_nothing(reading: Reading) -> str:
    if any(run.logs_in for run in reading.runs):
        return "every job that is seen to reach AWS logs in by OIDC"
    if any(run.dummy for run in reading.runs):
        return "no job is seen to reach AWS; the keys in it are dummies"
    if not reading.runs:
        return "no workflow runs a job of this file"
    return "no job that a workflow runs is seen to reach AWS with a stored key"


class _Planner:
    """What is to be done to one document, run by run."""

    def __init__(self, document: Document, reading: Reading, options: Options) -> None:
        self._wanted = Wanted(document)
        self._reading = reading
        self._options = options
        self._logins = Logins(self._wanted, options)
        self._invocations = Invocations(self._wanted, reading, self._logins)
        self.dynamic = DynamicImages(self._wanted, options)
        self.runs = tuple(run for run in reading.runs if run.static or self._is_named(run))
        """What is to be moved: what is seen to need a key, and what the caller says reaches AWS."""

    def edits(self) -> list[Edit]:
        """Every edit; raises `Refusal`."""
        version = str(self._wanted.data.get("version", ""))
        if version not in {*_OLD_VERSIONS, "2.1"}:
            raise Refusal(
                "its version is none of 2 and 2.1, so it is no configuration that CircleCI runs", ("version",)
            )
        for run in self.runs:
            if wrong := problem(self.login(run)):
                raise Refusal(wrong)
            self._run(run)
            self._logins.context(run)
        self._logins.want_all()
        self._invocations.upgrade(self.login(self.runs[0]))
        self._invocations.want_all()
        if self.dynamic:
            self.dynamic.want_all()
        if version in _OLD_VERSIONS:
            self._wanted.want(Replace(("version",), 2.1))
            self._wanted.note("version 2 becomes 2.1, which orbs and OIDC's login need")
            self._wanted.escape_heredocs()
        self._logins.declare()
        return self._wanted.edits({run.job for run in self._reading.runs})

    def login(self, run: Run) -> Login:
        """What one job logs in with, apart from profiles; a region that the job sets itself is left to it."""
        options = self._options
        return Login(
            role=options.roles.get(run.name) or options.roles.get(run.job) or options.role_arn,
            region="" if any(event.what is What.REGION for event in run.events) else options.region,
            session_name=options.session_name,
            duration=options.session_duration,
        )

    def _is_named(self, run: Run) -> bool:
        return bool(self._options.also & {run.name, run.job}) and not run.logs_in and not run.uses and bool(run.steps)

    def notes(self) -> tuple[str, ...]:
        """What somebody must know besides."""
        used: dict[str, set[str]] = {}
        for run in self.runs:
            for source in keys.sources(run):
                used.setdefault(source, set()).add(run.name)
        if len(used) > 1:
            listed = "; ".join(f"{source} in {', '.join(sorted(runs))}" for source, runs in sorted(used.items()))
            self._wanted.note(f"jobs that used different keys each take the role that is given for them: {listed}")
        self._note_unseen()
        for run in self.runs:
            self._note_run(run)
        return self._wanted.notes

    def _note_run(self, run: Run) -> None:
        if run.self_hosted:
            self._wanted.note(f"{run.job}: its runner is your own; a role that the machine has is not used any more")
        for event in run.events:
            literal = event.line is not None and event.line.origin is Origin.LITERAL
            if event.what is What.ENVIRONMENT:
                literal = bool(REAL_KEY.search(str(self._wanted.at(event.path))))
            if literal:
                self._wanted.note(
                    f"{run.job}: a key is written in the file itself, and stays in the repository's history"
                )
            if event.what is What.HIDDEN or (event.what is What.USE and "for which the AWS CLI" in event.detail):
                self._wanted.note(f"{run.job}: what {event.detail} does is out of sight")
            elif event.what is What.USE and event.detail.endswith(ASSUMED):
                self._wanted.note(f"{run.job}: {event.detail}, as nothing names another cloud")
            elif event.what is What.OTHER_KEY:
                self._wanted.note(f"{run.job}: it hands on {event.detail}, a further key that no login replaces")
            elif event.what is What.COMPOSE:
                self._wanted.note(f"{run.job}: the compose file must hand AWS_SESSION_TOKEN on beside the key")

    def _note_unseen(self) -> None:
        others = (run for run in self._reading.runs if not run.how and run not in self.runs)
        unseen = {run.job: run.hidden for run in others if run.hidden}
        if unseen:
            listed = ", ".join(f"{job} ({', '.join(hidden[:2])})" for job, hidden in list(unseen.items())[:_LISTED_MAX])
            more = f" and {len(unseen) - _LISTED_MAX} more" if len(unseen) > _LISTED_MAX else ""
            self._wanted.note(f"left as they are, for what they run is out of sight: {listed}{more}")

    # --- One run ----------------------------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        self._check(run)
        login = self._login_with_profile(run)
        logged = False
        keyed: Event | None = None
        for event in run.events:
            if event.what is What.KEY and event.line is not None and is_stored(event.line, logged=logged):
                keyed = keyed or event
            if event.what is What.ENVIRONMENT:
                keyed = keyed or event
            logged = self._event(event, run, login, logged=logged)
        if not logged and (keyed is not None or self._is_named(run)):
            self._logins.insert(_somewhere(keyed, run), run, login)

    def _event(self, event: Event, run: Run, login: Login, *, logged: bool) -> bool:
        """Deal with one finding; whether the job is logged in by then."""
        match event.what:
            case What.OIDC:
                return logged or not event.conditional
            case What.LOGIN:
                self._convert(event, run)
                return True
            case What.ORB:
                return self._orb(event, run, login, logged=logged)
            case What.IMAGE | What.IMAGE_AUTH:
                self._image(event, run, login)
            case What.ENVIRONMENT:
                self._wanted.want(RemoveKey(event.path, prune=True))
            case What.KEY:
                return self._key(event, run, login, logged=logged)
            case What.DISTURBS:
                self._wanted.want_text(event.path, scripts.undisturbed(self._wanted.text(event.path)))
            case What.USE if not logged and not run.dummy:
                self._logins.insert(event.top, run, login)
                return True
            case _:
                pass
        return logged

    def _check(self, run: Run) -> None:
        for event in run.events:
            if event.what is What.OBSTACLE:
                raise Refusal(f"{run.name}: {event.detail}", event.path)
            if event.what is What.MENTION and not run.dummy:
                text = (
                    "a script hands the key on in a way that is not known, so the session's token would not go with it"
                )
                raise Refusal(f"{run.name}: {text}", event.path)
        sources = keys.sources(run)
        if len(sources) > 1:
            names = " and ".join(sorted(sources))
            text = f"{run.name} uses more than one key ({names}), and one role cannot stand for both"
            raise Refusal(text, list(sources.values())[-1].path)

    def _login_with_profile(self, run: Run) -> Login:
        profile = keys.kept_profile(run)
        if not profile and (unwritten := keys.unwritten_profile(run)):
            self._wanted.note(f"{run.job}: nothing in the file writes the profile {unwritten}; the login does now")
            profile = unwritten
        return replace(self.login(run), profile=profile, profile_only=keys.profile_only(run))

    def _convert(self, event: Event, run: Run) -> None:
        _check_in_sight(event)
        if self._options.as_orb:
            self._logins.replace(step_of(event.path), run, replace(self.login(run), profile=named_profile(event)))
        else:
            self._invocations.log_in_by_oidc(event, run, self.login(run))

    def _orb(self, event: Event, run: Run, login: Login, *, logged: bool) -> bool:
        orb = event.orb
        assert orb is not None
        if orb.name == known.AWS_ECR:
            _check_in_sight(event)
            if orb.number is None:
                raise Refusal(f"the version of the orb {orb.name} is not written in the file", ("orbs", orb.alias))
            if orb.major >= 8:  # noqa: PLR2004  see orbs
                self._invocations.ecr_by_web_identity(event, login)
                return logged
            if known.takes_auth(event.command):
                self._invocations.ecr_with_auth(event, run, login)
                return logged
            self._logins.versions[orb.alias] = known.AWS_ECR_VERSION
        elif known.uses_aws(orb, event.command) != "yes":
            text = f"the orb {orb.name} takes the key as a parameter, and what it does with it is out of sight"
            raise Refusal(f"{run.name}: {text}", event.path)
        else:
            self._invocations.without_keys(event)
        if not logged:
            self._logins.insert(event.top, run, login)
        return True

    def _image(self, event: Event, run: Run, login: Login) -> None:
        if run.self_hosted or self._options.self_hosted:
            self.dynamic.add(event.path, event.detail)
            return
        value = {"oidc_role_arn": login.role}
        if event.what is What.IMAGE_AUTH:
            self._wanted.want(Replace((*event.path, "aws_auth"), value))
        else:
            self._wanted.want(InsertKey(event.path, "aws_auth", value, after="image"), "aws_auth")

    def _key(self, event: Event, run: Run, login: Login, *, logged: bool) -> bool:
        line = event.line
        assert line is not None
        if not is_stored(line, logged=False) and line.form is not Form.PASSED:
            return logged
        original = self._wanted.text(event.path)
        changed = scripts.rewritten(original)
        if changed.obstacles:
            raise Refusal(f"{run.name}: {changed.obstacles[0]}", event.path)
        if line.source == OPAQUE:
            self._wanted.note(
                f"{run.job}: what else its credentials file held, such as further profiles, is out of sight"
            )
        for note in changed.notes:
            self._wanted.note(f"{run.name}: {note}")
        step = step_of(event.path)
        if changed.empty and self._logins.removes(step):
            return logged
        if changed.empty and (self._logins.replaces(step) or not logged):
            self._logins.replace(step, run, login)
            return True
        if changed.empty:
            self._logins.remove(step)
            return logged
        if changed.text != original:
            self._wanted.want_text(event.path, changed.text)
        if not logged and not line.lasting:
            self._logins.insert(event.top, run, login)
            return True
        return logged


def _check_in_sight(event: Event) -> None:
    if event.path[:1] == ("orbs",):
        raise Refusal("a login stands in an inline orb, whose own orbs are not upgraded", event.path)


def _somewhere(keyed: Event | None, run: Run) -> KeyPath:
    """A place for the login of a job in which no use is seen: before the step that had the key, else after the code."""
    if keyed is not None and isinstance(keyed.top[-1], int) and keyed.top[: len(run.steps)] == run.steps:
        return keyed.top
    brings = {What.CHECKOUT, What.WORKSPACE_IN}
    after = [event.top for event in run.events if event.what in brings and event.top[:-1] == run.steps]
    return (*run.steps, max((int(top[-1]) for top in after), default=-1) + 1)
