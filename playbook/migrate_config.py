"""Configurations on disk moved from access keys to OIDC: found, rewritten, checked, and delivered as a diff, a file or
a branch.

The rewrite itself is `circleci_config.rewrite`, which sees only text. Here is what touches files: nothing outside a
checkout is read or written, a file is replaced whole or not at all, and what is not in git is kept before it is.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import as_orb
from playbook.circleci_config.by_hand import begun
from playbook.circleci_config.document import SIZE_MAX, ConfigError, parse
from playbook.circleci_config.rewrite import Migration, Options, Reason, Verdict, migrate
from playbook.config_branch import BranchError, Repository
from playbook.config_diff import unified_diff
from playbook.config_schema import schema_findings
from playbook.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FOLDER: Final = ".circleci"
_SUFFIXES: Final = frozenset({".yml", ".yaml"})


@dataclass(frozen=True, kw_only=True)
class Target:
    """One configuration: the file, and the checkout it must stay in."""

    path: Path
    root: Path

    @property
    def name(self) -> str:
        """The file within its checkout, as a diff names it."""
        return self.path.relative_to(self.root).as_posix()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one configuration."""

    target: Target
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    migration: Migration | None = None
    """None for what could not be read."""
    breaches: int | None = None
    """Breaches of the published schema in the result, none of them new; None when it was not checked."""
    delivered: str = ""
    """Where the change is now, as a sentence; empty when it was only shown."""
    undo: str = ""
    """The command that takes it back."""
    files: dict[str, str] = field(default_factory=dict)
    """Further files that the change needs, by their name within the checkout."""

    @property
    def changed(self) -> bool:
        """Whether there is a change to deliver."""
        return self.verdict is Verdict.MIGRATED

    def texts(self) -> Iterator[tuple[str, str, str]]:
        """Every file of the change: its name within the checkout, before, and after."""
        if self.migration is not None and self.changed:
            yield self.target.name, self.migration.before, self.migration.after
            yield from ((name, "", text) for name, text in self.files.items())

    def diff(self) -> str:
        """The change as a unified diff that `git apply` takes at the checkout's root; empty when there is none."""
        return "".join(unified_diff(*text) for text in self.texts())


# --- Finding --------------------------------------------------------------------------------------------------------


def targets(paths: Iterable[Path]) -> list[Target]:
    """The configurations that paths name, each once: a file, a `.circleci` folder, or a checkout that has one.

    A checkout may be configured dynamically, so that every YAML file of its `.circleci` counts.
    """
    found: dict[Path, Target] = {}
    for path in paths:
        for target in _targets_of(path):
            found.setdefault(target.path.absolute(), target)
    return list(found.values())


def _targets_of(path: Path) -> list[Target]:
    if not path.exists():
        raise UsageError(f"There is no {path}. Nothing was changed.", remedy="Name a checkout or a configuration file.")
    if not path.is_dir():
        parent = path.absolute().parent
        return [Target(path=path.absolute(), root=parent.parent if parent.name == FOLDER else parent)]
    folder = path.absolute() if path.absolute().name == FOLDER else path.absolute() / FOLDER
    files = sorted(each for each in folder.iterdir() if each.suffix in _SUFFIXES) if folder.is_dir() else []
    if not files:
        raise UsageError(
            f"{path} has no configuration: no YAML file in {FOLDER}. Nothing was changed.",
            remedy=f"Name a checkout, its {FOLDER} folder, or a configuration file.",
        )
    return [Target(path=file, root=folder.parent) for file in files]


def read(target: Target) -> bytes:
    """A configuration's bytes; raises `ConfigError` for what is no file of the checkout or beyond the limit."""
    try:
        real = target.path.resolve(strict=True)
        if not real.is_relative_to(target.root.resolve()):
            raise ConfigError("it is a link that leaves the checkout")
        if not real.is_file():
            raise ConfigError("it is no regular file")
        with real.open("rb") as stream:
            return stream.read(SIZE_MAX + 1)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its links go in a circle"
        raise ConfigError(f"it cannot be opened ({reason})") from None


# --- Rewriting ------------------------------------------------------------------------------------------------------


def rewritten(
    target: Target,
    raw: bytes,
    options: Options,
    *,
    check: Callable[[str], str] | None = None,
    there: Callable[[str], bool] = lambda _: False,
) -> Outcome:
    """Rewrite one configuration, and refuse a result that keeps the published schema worse than the original did.

    `check` is one more opinion on a result's text: it returns why not, or nothing. `there` says whether the checkout
    has a file of a name already, which no further file of a change may replace.
    """
    try:
        migration = migrate(parse(raw), options)
    except ConfigError as error:
        return _unread(target, error.reason, error.line)
    outcome = Outcome(
        target=target,
        verdict=migration.verdict,
        reasons=migration.reasons,
        migration=migration,
        files={(Path(target.name).parent / name).as_posix(): text for name, text in migration.files.items()},
    )
    if not outcome.changed:
        return outcome
    breaches, worse = _breaches(migration)
    outcome = replace(outcome, breaches=breaches)
    if worse:
        return _refused(outcome, f"the result would break CircleCI's schema at {', '.join(worse[:3])}")
    if taken := [name for name in outcome.files if there(name)]:
        return _refused(outcome, f"the change needs a file {taken[0]}, and there is one already")
    objections = filter(None, map(check, _results(migration))) if check is not None else iter(())
    objection = next(objections, "")
    return _refused(outcome, objection) if objection else outcome


def _results(migration: Migration) -> list[str]:
    """Every configuration that a change leaves."""
    return [migration.after, *migration.files.values()]


def read_all(found: Iterable[Target], options: Options, *, check: Callable[[str], str] | None = None) -> list[Outcome]:
    """Rewrite the configurations that lie in the working tree; nothing is written."""
    outcomes = []
    for target in found:
        try:
            outcomes.append(_rewritten_in_tree(target, options, check))
        except ConfigError as error:
            outcomes.append(_unread(target, error.reason, error.line))
    return outcomes


def committed_all(
    found: Iterable[Target], options: Options, *, check: Callable[[str], str] | None = None
) -> list[Outcome]:
    """Rewrite the configurations as HEAD holds them, for a branch that stands on it; nothing is written."""
    outcomes = []
    for target in found:
        try:
            outcomes.append(_rewritten_in_head(target, options, check))
        except BranchError as error:
            outcomes.append(_unread(target, error.reason))
    return outcomes


def _rewritten_in_tree(target: Target, options: Options, check: Callable[[str], str] | None) -> Outcome:
    def there(name: str) -> bool:
        return os.path.lexists(target.root / name)

    return rewritten(target, read(target), options, check=check, there=there)


def _rewritten_in_head(target: Target, options: Options, check: Callable[[str], str] | None) -> Outcome:
    found = committed(target)

    def there(name: str) -> bool:
        return found.repository.committed(found.target.root / name) is not None

    return rewritten(found.target, found.raw, options, check=check, there=there)


def _unread(target: Target, reason: str, line: int | None = None) -> Outcome:
    return Outcome(target=target, verdict=Verdict.REFUSED, reasons=(Reason(text=reason, line=line),))


def _breaches(migration: Migration) -> tuple[int | None, list[str]]:
    """How often the result breaks the schema, and where it does so worse than the original; None without a schema."""
    each = [schema_findings(parse(text).data) for text in _results(migration)]
    after = [finding for findings in each for finding in findings or ()]
    if not after:
        return None if None in each else 0, []
    before = schema_findings(parse(migration.before).data) or ()
    new = sorted(set(after) - set(before)) or after
    return len(after), new if len(after) > len(before) else []


def _refused(outcome: Outcome, reason: str) -> Outcome:
    return replace(outcome, verdict=Verdict.REFUSED, reasons=(*outcome.reasons, Reason(text=reason)))


# --- Delivering -----------------------------------------------------------------------------------------------------


def write(outcomes: Sequence[Outcome], keep: Path) -> list[Outcome]:
    """Put each change into its file; one that fails is refused with the reason, and its file is as it was."""
    return [_written(outcome, keep) if outcome.changed else outcome for outcome in outcomes]


def _written(outcome: Outcome, keep: Path) -> Outcome:
    target, migration = outcome.target, outcome.migration
    if migration is None:
        return outcome
    path = target.path.resolve()
    before = migration.before.encode()
    try:
        if read(target) != before:
            return _refused(outcome, "the file changed while it was looked at")
        undo = _way_back(path, before, keep)
        for name, text in outcome.files.items():
            _replace(target.root / name, text.encode(), 0o644)
        _replace(path, migration.after.encode(), stat.S_IMODE(path.stat().st_mode))
    except ConfigError as error:
        return _refused(outcome, error.reason)
    except OSError as error:
        return _refused(outcome, f"it could not be written ({error.strerror})")
    for name in outcome.files:
        undo += f" && {shlex.join(['rm', str(target.root / name)])}"
    return replace(outcome, delivered=f"written to {target.path}", undo=undo)


def _way_back(path: Path, before: bytes, keep: Path) -> str:
    """The command that brings the original back: from HEAD when it is there, else from a copy that is made now."""
    repository = Repository.around(path)
    if repository is not None and path.is_relative_to(repository.top) and repository.committed(path) == before:
        return shlex.join(["git", "-C", str(repository.top), "checkout", "--", str(path.relative_to(repository.top))])
    keep.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = keep / f"{hashlib.sha256(before).hexdigest()[:16]}-{path.name}"
    if not copy.exists():
        _replace(copy, before, 0o600)
    return shlex.join(["cp", str(copy), str(path)])


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file in the place of another, or none: what is read is always the old one or the new one."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(name, path)  # noqa: PTH105  # the name is text
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A configuration as HEAD holds it; the target names it by the repository's own path."""

    target: Target
    repository: Repository
    raw: bytes


def committed(target: Target) -> Committed:
    """What HEAD holds of a configuration; raises `BranchError` when it holds nothing."""
    repository = Repository.around(target.path)
    if repository is None:
        raise BranchError("it is in no git checkout")
    inside = Path(os.path.realpath(target.path.parent), target.path.name)
    raw = repository.committed(inside) if inside.is_relative_to(repository.top) else None
    if raw is None:
        raise BranchError("it is not committed")
    there = Target(path=inside, root=Path(os.path.realpath(target.root)))
    return Committed(target=there, repository=repository, raw=raw)


def commit(outcomes: Sequence[Outcome], branch: str, message: str) -> list[Outcome]:
    """Commit the changes, one commit for each checkout; one that has them on that branch already has nothing to do."""
    delivered: dict[int, Outcome] = {}
    by_top: dict[Path, list[int]] = {}
    for place, outcome in enumerate(outcomes):
        repository = Repository.around(outcome.target.path) if outcome.changed else None
        if repository is not None:
            by_top.setdefault(repository.top, []).append(place)
    for top, places in by_top.items():
        chosen = [outcomes[place] for place in places]
        delivered |= zip(places, _committed(Repository(top), chosen, branch, message), strict=True)
    return [delivered.get(place, outcome) for place, outcome in enumerate(outcomes)]


def _committed(repository: Repository, outcomes: list[Outcome], branch: str, message: str) -> list[Outcome]:
    files = {outcome.target.root / name: after.encode() for outcome in outcomes for name, _, after in outcome.texts()}
    try:
        if repository.has_branch(branch) and all(
            repository.committed(path, f"refs/heads/{branch}") == content for path, content in files.items()
        ):
            reason = Reason(text=f"the branch {branch} holds it already")
            return [replace(outcome, verdict=Verdict.NOTHING, reasons=(reason,)) for outcome in outcomes]
        made = repository.commit(files, branch, message)
    except BranchError as error:
        return [_refused(outcome, error.reason) for outcome in outcomes]
    where = f"committed as {made[:12]} on the branch {branch} of {repository.top}"
    undo = shlex.join(["git", "-C", str(repository.top), "branch", "-D", branch])
    return [replace(outcome, delivered=where, undo=undo) for outcome in outcomes]


def write_orb(folder: Path) -> list[Path]:
    """Write the sources of an orb that a team can publish into a folder that holds none of them yet."""
    sources = {folder / name: text for name, text in as_orb.orb_sources().items()}
    there = [path for path in sources if path.exists()]
    if there:
        raise UsageError(f"There is a {there[0]} already. The orb was not written.", remedy="Name an empty folder.")
    for path, text in sources.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text.encode(), 0o644)
    return list(sources)


# --- By hand ----------------------------------------------------------------------------------------------------------


def by_hand(outcome: Outcome, options: Options) -> str:
    """For a refused configuration a patch to go on from, which logs in the jobs that need it; empty for none."""
    migration = outcome.migration
    if outcome.verdict is not Verdict.REFUSED or migration is None:
        return ""
    text = begun(parse(migration.before), migration.reading, options)
    return unified_diff(outcome.target.name, migration.before, text)


# --- Telling --------------------------------------------------------------------------------------------------------


def as_document(outcome: Outcome, options: Options) -> dict[str, Any]:
    """One outcome for a machine."""
    migration = outcome.migration
    return {
        "path": str(outcome.target.path),
        "verdict": str(outcome.verdict),
        "reasons": [{"text": reason.text, "line": reason.line} for reason in outcome.reasons],
        "notes": list(migration.notes) if migration is not None else [],
        "schema_breaches": outcome.breaches,
        "delivered": outcome.delivered or None,
        "undo": outcome.undo or None,
        "files": list(outcome.files),
        "diff": outcome.diff() or None,
        "by_hand": by_hand(outcome, options) or None,
    }


def explained(outcome: Outcome) -> dict[str, Any]:
    """What one configuration says of its jobs and AWS, for a machine."""
    reading = outcome.migration.reading if outcome.migration is not None else None
    runs = reading.runs if reading is not None else ()
    return {
        "path": str(outcome.target.path),
        "readable": reading is not None,
        "why_not": None if reading is not None else outcome.reasons[0].text,
        "line": None if reading is not None else outcome.reasons[0].line,
        "jobs": [
            {
                "workflow": run.workflow or None,
                "name": run.name,
                "job": run.job,
                "credentials": [str(how) for how in run.how],
                "needs_stored_key": bool(run.static),
                "contexts": list(run.contexts),
                "runs_on": str(run.platform),
                "not_seen": list(run.hidden),
            }
            for run in runs
        ],
        "unreached": list(reading.unreached) if reading is not None else [],
        "doubts": list(reading.doubts) if reading is not None else [],
    }
