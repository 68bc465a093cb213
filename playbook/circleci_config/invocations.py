"""Steps and jobs of orbs in the words they need: without keys, with a role, and of the version that knows roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config.document import KeyPath
from playbook.circleci_config.edit import InsertKey, RemoveKey, RenameKey, Replace
from playbook.circleci_config.login import DURATION, Login
from playbook.circleci_config.options import Refusal
from playbook.circleci_config.understand import as_list, as_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playbook.circleci_config.logins import Logins
    from playbook.circleci_config.orbs import Orb
    from playbook.circleci_config.understand import Event, Reading, Run
    from playbook.circleci_config.wanted import Wanted

_ENTRY_JOB: Final = 5
"""The length of the path of a workflow's job: workflows, its name, jobs, a number, the job's name."""
_STEP_LISTS: Final = frozenset({"steps", "pre-steps", "post-steps", "jobs", "auth"})


@dataclass(kw_only=True)
class _Invocation:
    """One step or job of an orb, as it is and as it will be."""

    path: KeyPath
    """Ends with the name, or with an index where the step is only a name."""
    old: str
    new: str
    parameters: dict[str, Any]
    was: Mapping[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    """Old names of parameters by new ones."""
    login: Login | None = None


class Invocations:
    """Collects what becomes of the steps and jobs of orbs, then asks for the edits."""

    def __init__(self, wanted: Wanted, reading: Reading, logins: Logins) -> None:
        self._wanted = wanted
        self._reading = reading
        self._logins = logins
        self._found: dict[KeyPath, _Invocation] = {}

    # --- aws-cli ----------------------------------------------------------------------------------------------------

    def log_in_by_oidc(self, event: Event, run: Run, login: Login) -> None:
        """A step that wrote a stored key into a profile takes a role instead."""
        orb = _orb(event)
        hyphens = self._logins.hyphens(orb)
        found = self._invocation(event.path, orb, event.command, event.parameters)
        if not self._for(found, login):
            return
        gone = known.KEY_PARAMETERS | known.ROLE_PARAMETERS
        kept = {name: value for name, value in found.parameters.items() if name not in gone}
        added = self._logins.parameters(login, run, hyphens=hyphens)
        for name in ("region", "aws-region"):
            if name in kept:
                added.pop(name, None)
        if named_profile(event):
            added.pop("profile_name", None)
            added.pop("profile-name", None)
        if known.ROLE_PARAMETERS & found.parameters.keys():
            self._wanted.note(f"{run.name}: it took a role by its stored key; it takes the given role directly now")
        found.parameters = {**kept, **added}
        found.new = f"{orb.alias}/setup"

    def _for(self, found: _Invocation, login: Login) -> bool:
        """Whether the login is still to be written; refuses when two jobs that share it take different roles."""
        if found.login is None:
            found.login = login
            return True
        if replace(found.login, region="") != replace(login, region=""):
            raise Refusal("two jobs that share a step take different roles", found.path)
        return False

    def _invocation(self, path: KeyPath, orb: Orb, command: str, parameters: Mapping[str, Any]) -> _Invocation:
        """The invocation as it will be once its orb is at its new version."""
        if path in self._found:
            return self._found[path]
        name = f"{orb.alias}/{command}"
        found = _Invocation(path=path, old=name, new=name, parameters=dict(parameters), was=dict(parameters))
        if orb.name == known.AWS_CLI and not self._logins.hyphens(orb) and known.hyphened(orb):
            found.new = f"{orb.alias}/{known.underscored(command)}"
            found.names = {name: known.underscored(name) for name in parameters}
            found.parameters = {
                known.underscored(name): known.expression(value) if name in known.BY_NAME else value
                for name, value in parameters.items()
            }
        self._found[path] = found
        return found

    # --- Others -----------------------------------------------------------------------------------------------------

    def without_keys(self, event: Event) -> None:
        """A step or job of an orb that reads the environment, once no key is handed to it."""
        found = self._invocation(event.path, _orb(event), event.command, event.parameters)
        found.parameters = {name: value for name, value in found.parameters.items() if name not in known.KEY_PARAMETERS}

    def ecr_by_web_identity(self, event: Event, login: Login) -> None:
        """`aws-ecr` 8 takes the role itself; before 8.2.1 it is moved there."""
        orb = _orb(event)
        if (orb.number or (0, 0, 0)) < (8, 2, 1):
            self._logins.versions[orb.alias] = known.AWS_ECR_8_VERSION
        found = self._invocation(event.path, orb, event.command, event.parameters)
        if not self._for(found, login):
            return
        dropped = known.KEY_PARAMETERS | {"source-profile", "new-profile-name"}
        kept = {name: value for name, value in found.parameters.items() if name not in dropped}
        if "role-arn" in kept:
            self._wanted.note(f"{found.old}: it took a role by its stored key; it takes the given role directly now")
        added: dict[str, Any] = {"role-arn": login.role, "assume-web-identity": True}
        if login.session_name:
            added["role-session-name"] = login.session_name
        if login.duration != DURATION:
            added["session-duration"] = str(login.duration)
        found.parameters = {**kept, **added}

    def ecr_with_auth(self, event: Event, run: Run, login: Login) -> None:
        """`aws-ecr` up to 7 is moved to 9, which takes the login as steps."""
        orb = _orb(event)
        self._logins.versions[orb.alias] = known.AWS_ECR_VERSION
        found = self._ecr_9(event.path, orb, event.command, event.parameters)
        if self._for(found, login):
            found.parameters["auth"] = [self._logins.step(login, run, event.path)]

    def _ecr_9(self, path: KeyPath, orb: Orb, command: str, parameters: Mapping[str, Any]) -> _Invocation:
        if path in self._found:
            return self._found[path]
        renamed, names, lost = known.ecr_9(orb, command, parameters)
        if lost:
            raise Refusal(
                f"{', '.join(lost)} of aws-ecr {orb.version} has no successor in {known.AWS_ECR_VERSION}", path
            )
        self._found[path] = _Invocation(
            path=path,
            old=f"{orb.alias}/{command}",
            new=f"{orb.alias}/{command.replace('-', '_')}",
            parameters=renamed,
            was=dict(parameters),
            names=names,
        )
        return self._found[path]

    # --- Versions ---------------------------------------------------------------------------------------------------

    def upgrade(self, login: Login) -> None:
        """Move the orbs to the versions that are needed, and with them whatever else the file takes from them."""
        for alias, version in list(self._logins.versions.items()):
            orb = next(orb for orb in self._reading.orbs if orb.alias == alias)
            self._wanted.want(Replace(("orbs", alias), f"{orb.name}@{version}"))
            self._wanted.note(f"the orb {orb.name} moves from {orb.version} to {version}")
            for path, names in _executors(self._wanted.data, alias):
                if orb.name == known.AWS_ECR and version == known.AWS_ECR_VERSION and names:
                    raise Refusal(f"the executor of {orb.name} takes other parameters in {version}", path)
            for path, command, parameters in _invoked(self._wanted.data, alias):
                if orb.name == known.AWS_CLI:
                    self._invocation(path, orb, command, parameters)
                elif orb.name == known.AWS_ECR and version == known.AWS_ECR_VERSION:
                    found = self._ecr_9(path, orb, command, parameters)
                    if found.login is None and found.new.endswith("/build_and_push_image"):
                        # Nothing runs it; but from 9 on it may not be without.
                        found.parameters["auth"] = [{f"{self._logins.aws_cli(())[0]}/setup": {"role_arn": login.role}}]

    # --- The edits --------------------------------------------------------------------------------------------------

    def want_all(self) -> None:
        """Ask for the edits."""
        for found in self._found.values():
            if isinstance(found.path[-1], int):
                if found.parameters:
                    self._wanted.want(Replace(found.path, {found.new: found.parameters}))
                elif found.new != found.old:
                    self._wanted.want(Replace(found.path, found.new))
                continue
            if len(found.path) == _ENTRY_JOB and found.path[0] == "workflows" and found.new != found.old:
                self._rename_requires(found.path[:-1], found.old, found.new)
            self._want_one(found)

    def _want_one(self, found: _Invocation) -> None:
        if found.new != found.old:
            self._wanted.want(RenameKey(found.path, found.new))
        if not found.was:
            if found.parameters:
                self._wanted.want(Replace(found.path, found.parameters))
            return
        for name, value in found.was.items():
            new = found.names.get(name, name)
            if new not in found.parameters:
                self._wanted.want(RemoveKey((*found.path, name)))
                continue
            if new != name:
                self._wanted.want(RenameKey((*found.path, name), new))
            if found.parameters[new] != value:
                self._wanted.want(Replace((*found.path, name), found.parameters[new]))
        there = {found.names.get(name, name) for name in found.was}
        for name, value in found.parameters.items():
            if name not in there:
                self._wanted.want(InsertKey(found.path, name, value), name)

    def _rename_requires(self, entry: KeyPath, old: str, new: str) -> None:
        """Other jobs of the workflow wait for it under its name, unless it has one of its own."""
        if "name" in as_mapping(self._wanted.at((*entry, old))):
            return
        for index, other in enumerate(as_list(self._wanted.at(entry[:-1]))):
            for job, body in as_mapping(other).items():
                for at, required in enumerate(as_list(as_mapping(body).get("requires"))):
                    if required == old:
                        self._wanted.want(Replace((*entry[:-1], index, job, "requires", at), new))


def named_profile(event: Event) -> str:
    """The profile that a step names."""
    return str(event.parameters.get("profile-name") or event.parameters.get("profile_name") or "")


def _orb(event: Event) -> Orb:
    assert event.orb is not None
    return event.orb


def _invoked(data: object, alias: str, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str, Mapping[str, Any]]]:
    """Every step and job that names an orb by its alias, outside of `orbs`."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if path == () and key == "orbs":
                continue
            here = (*path, key)
            if key.startswith(f"{alias}/"):
                yield here, key.partition("/")[2], as_mapping(value)
            yield from _invoked(value, alias, here)
    elif isinstance(data, list):
        for index, item in enumerate(data):
            here = (*path, index)
            if isinstance(item, str) and item.startswith(f"{alias}/") and path and path[-1] in _STEP_LISTS:
                yield here, item.partition("/")[2], {}
            yield from _invoked(item, alias, here)


def _executors(data: object, alias: str, path: KeyPath = ()) -> Iterator[tuple[KeyPath, list[str]]]:
    """Every place that names an orb's executor with parameters, and these."""
    if isinstance(data, Mapping):
        if str(data.get("name", "")).startswith(f"{alias}/") and path and path[-1] == "executor":
            yield path, [name for name in data if name != "name"]
        for key, value in data.items():
            yield from _executors(value, alias, (*path, key))
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from _executors(item, alias, (*path, index))
