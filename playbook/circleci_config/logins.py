"""Where the login steps go, in which words, and what the file must declare for them; contexts go the same way."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config.as_orb import inline_orb, inline_step
from playbook.circleci_config.document import Alias
from playbook.circleci_config.edit import InsertItem, InsertKey, RemoveItem, RemoveKey, Replace
from playbook.circleci_config.login import orb_parameters, plain_step
from playbook.circleci_config.options import Refusal
from playbook.circleci_config.understand import Platform, What, as_list, as_mapping, as_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.circleci_config.document import KeyPath
    from playbook.circleci_config.login import Login
    from playbook.circleci_config.options import Options
    from playbook.circleci_config.orbs import Orb
    from playbook.circleci_config.understand import Run
    from playbook.circleci_config.wanted import Wanted

ORB_ALIAS: Final = "aws-cli"
INLINE_ALIAS: Final = "aws-oidc"
COMMAND: Final = "log-in-to-aws"
_HYPHENS_MAX: Final = 3
"""The last major of `aws-cli` whose parameters are hyphened."""
_SESSION_UNSAFE: Final = re.compile(r"[^\w+=,.@-]")
_PLAIN: Final = frozenset({Platform.MINIMAL, Platform.WINDOWS})
_BRINGS_CODE: Final = frozenset({"checkout", "attach_workspace", "setup_remote_docker"})


class Logins:
    """Collects where each job must log in, then asks for the edits."""

    def __init__(self, wanted: Wanted, options: Options) -> None:
        self._wanted = wanted
        self._options = options
        self._inserted: dict[KeyPath, dict[int, list[tuple[Login, Run]]]] = {}
        self._replaced: dict[KeyPath, tuple[Login, Run]] = {}
        self._removed: set[KeyPath] = set()
        self._entries: dict[KeyPath, dict[str, Any]] = {}
        self._orbs: dict[KeyPath, dict[str, Any]] = {}
        self._commands: dict[KeyPath, dict[str, Any]] = {}
        self.versions: dict[str, str] = {}
        """By alias, the version that an orb of the file must have."""

    # --- Collecting -------------------------------------------------------------------------------------------------

    def insert(self, top: KeyPath, run: Run, login: Login) -> None:
        """Log in before a step of the job's own list, or before everything in a job that is an orb's."""
        index = top[-1]
        if not isinstance(index, int) or (run.orb is not None and "pre-steps" not in top):
            self._entries.setdefault(run.entry, {}).setdefault("pre-steps", (login, run))
            return
        if any(event.late for event in run.uses) and top[:-1] == run.steps:
            index = min(index, self._leading(run))
        self._inserted.setdefault(top[:-1], {}).setdefault(index, []).append((login, run))

    def _leading(self, run: Run) -> int:
        """How many steps only bring the code or the AWS CLI.

        A step that runs after a failure needs the login before whatever may fail; but the CLI's own installer refuses
        where the orb has installed it already.
        """
        count = 0
        for step in as_list(self._wanted.at(run.steps)):
            name = step if isinstance(step, str) else next(iter(as_mapping(step)), "")
            if name not in _BRINGS_CODE and not name.startswith("queue/"):
                break
            count += 1
        installs = (event.top for event in run.events if event.what is What.INSTALL)
        return max([count, *(int(top[-1]) + 1 for top in installs if top[:-1] == run.steps)])

    def replace(self, step: KeyPath, run: Run, login: Login) -> None:
        """Log in in the place of a step."""
        there = self._replaced.setdefault(step, (login, run))
        if replace(there[0], region="") != replace(login, region=""):
            raise Refusal("two jobs that share a step take different roles", step)

    def remove(self, step: KeyPath) -> None:
        """Take a step out that has nothing left to do."""
        self._removed.add(step)

    def replaces(self, step: KeyPath) -> bool:
        """Whether a login takes the place of a step."""
        return step in self._replaced

    def removes(self, step: KeyPath) -> bool:
        """Whether a step goes."""
        return step in self._removed

    def context(self, run: Run) -> None:
        """Add the context to the workflow's job."""
        context = self._options.context
        if not context or context in run.contexts:
            return
        if run.entry:
            self._entries.setdefault(run.entry, {})["context"] = context
            return
        settings: dict[str, Any] = {"context": context}
        job = as_mapping(self._wanted.at(("jobs", run.job)))
        if "branches" in job:
            # Which branches a job is built for is its own word only while there is no workflow.
            settings["filters"] = {"branches": job["branches"]}
            self._wanted.want(RemoveKey(("jobs", run.job, "branches")))
        workflow = {run.job: {"jobs": [{run.job: settings}]}}
        self._wanted.want(InsertKey((), "workflows", workflow), "workflows")
        self._wanted.note("it had no workflow; one is added, because a context belongs to a workflow's job")

    # --- The step ---------------------------------------------------------------------------------------------------

    def step(self, login: Login, run: Run, place: KeyPath) -> Any:
        """The step that logs in, in the words that hold at a place."""
        scope = scope_of(place)
        plain = run.platform in _PLAIN
        if self._options.as_orb and not scope:
            self._orbs.setdefault((), {})[INLINE_ALIAS] = inline_orb()
            return inline_step(INLINE_ALIAS, login, plain=plain)
        if plain:
            self._wanted.note(
                f"{run.job}: its image takes the plain login; where it has no bash, a key that is still in the"
                " environment wins over the role, so delete the key's variables"
            )
            return self._command(scope, plain_step(login, shell="bash.exe" if run.platform is Platform.WINDOWS else ""))
        alias, hyphens = self.aws_cli(scope)
        return {f"{alias}/setup": self.parameters(login, run, hyphens=hyphens)}

    def parameters(self, login: Login, run: Run, *, hyphens: bool) -> dict[str, Any]:
        """The parameters of `aws-cli/setup` for one job."""
        if login.profile_only and hyphens:
            raise Refusal(f"{run.name}: aws-cli 3 cannot keep the credentials out of the environment", ("orbs",))
        parameters = orb_parameters(login, hyphens=hyphens)
        name = "role-session-name" if hyphens else "role_session_name"
        if hyphens and name not in parameters and _SESSION_UNSAFE.search(run.name):
            parameters[name] = "circleci"  # up to 4.1.1 the orb hands the job's name on as it is
        return parameters

    def _command(self, scope: KeyPath, step: Mapping[str, Any]) -> str:
        """The name of a command that is this step, so that its script stands in the file once."""
        there = as_mapping(as_mapping(self._wanted.at(scope)).get("commands"))
        new = self._commands.setdefault(scope, {})
        command = {"steps": [step]}
        number, name = 1, COMMAND
        while (found := new.get(name, there.get(name))) is not None and found != command:
            number += 1
            name = f"{COMMAND}-{number}"
        if name not in there:
            new[name] = command
        return name

    def aws_cli(self, scope: KeyPath) -> tuple[str, bool]:
        """The orb's alias in a scope, and whether its parameters are hyphened once it is at its version."""
        there = as_mapping(as_mapping(self._wanted.at(scope)).get("orbs"))
        for alias, reference in there.items():
            orb = known.orb_of(alias, reference)
            if orb is not None and orb.name == known.AWS_CLI:
                if scope and known.oidc_version(orb) is not None:
                    raise Refusal("an inline orb takes an aws-cli orb that is too old", (*scope, "orbs", alias))
                return alias, self.hyphens(orb)
        alias = ORB_ALIAS if ORB_ALIAS not in there else f"{ORB_ALIAS}-oidc"
        self._orbs.setdefault(scope, {})[alias] = f"{known.AWS_CLI}@{known.AWS_CLI_VERSION}"
        return alias, False

    def hyphens(self, orb: Orb) -> bool:
        """Whether `aws-cli` takes hyphens at the version it must have, which this asks for."""
        if orb.number is None:
            raise Refusal(f"the version of the orb {orb.name} is not written in the file", ("orbs", orb.alias))
        version = known.oidc_version(orb)
        if version is not None:
            self.versions[orb.alias] = version
        return (int(version.split(".")[0]) if version else orb.major) <= _HYPHENS_MAX

    # --- The edits --------------------------------------------------------------------------------------------------

    def want_all(self) -> None:
        """Ask for the steps, the contexts and whatever these need declared."""
        for path, by_index in self._inserted.items():
            index = min(by_index)
            logins = [pair for pairs in by_index.values() for pair in pairs]
            login, run = next((pair for pair in logins if pair[1].platform in _PLAIN), logins[0])
            if any(replace(other, region="") != replace(login, region="") for other, _ in logins):
                raise Refusal("two runs of one job take different roles", path)
            if any(not other.region for other, _ in logins):
                login = replace(login, region="")
            self._wanted.want(InsertItem(path, index, self.step(login, run, path)), index)
        for step, (login, run) in self._replaced.items():
            self._wanted.want(Replace(step, self.step(login, run, step)))
        for step in self._removed - self._replaced.keys():
            self._wanted.want(RemoveItem(step))
        for entry, added in self._entries.items():
            self._want_entry(entry, added)

    def declare(self) -> None:
        """Ask for the orbs and commands that the new steps name, each in the scope where it is named."""
        for key, declared in (("orbs", self._orbs), ("commands", self._commands)):
            for scope, new in declared.items():
                there = as_mapping(self._wanted.at(scope))
                if key in there:
                    for name, value in new.items():
                        self._wanted.want(InsertKey((*scope, key), name, value), name)
                    continue
                after = "orbs" if key == "commands" and "orbs" in there else "version"
                self._wanted.want(InsertKey(scope, key, new, after=after if after in there else None), key)

    def _want_entry(self, entry: KeyPath, added: Mapping[str, Any]) -> None:
        old = self._wanted.at(entry)
        new: dict[str, Any] = {}
        if "context" in added:
            new["context"] = added["context"]
        if "pre-steps" in added:
            login, run = added["pre-steps"]
            new["pre-steps"] = [self.step(login, run, entry)]
        if isinstance(old, str):
            self._wanted.want(Replace(entry, {old: new}))
            return
        job, settings = next(iter(as_mapping(old).items()))
        self._add_keys((*entry, job), as_mapping(settings), new)

    def _add_keys(self, inside: KeyPath, settings: Mapping[str, Any], new: dict[str, Any]) -> None:
        if "context" in new and as_texts(settings.get("context")):
            self._add_context((*inside, "context"), settings["context"], new.pop("context"))
        if "pre-steps" in new and as_list(settings.get("pre-steps")):
            self._wanted.want(InsertItem((*inside, "pre-steps"), 0, new.pop("pre-steps")[0]), 0)
        if new and isinstance(self._wanted.document.slot(inside).value, Alias):
            self._wanted.want(Replace(inside, {**settings, **new}))
            return
        for key, value in new.items():
            if key in settings:
                self._wanted.want(Replace((*inside, key), value))
            else:
                self._wanted.want(InsertKey(inside, key, value), key)

    def _add_context(self, path: KeyPath, present: object, context: str) -> None:
        if isinstance(present, list) and not isinstance(self._wanted.document.slot(path).value, Alias):
            self._wanted.want(InsertItem(path, len(present), context), len(present))
        else:
            self._wanted.want(Replace(path, [*as_texts(present), context]))


def scope_of(path: KeyPath) -> KeyPath:
    """The inline orb that a place lies in; empty for the file itself."""
    return path[:2] if path[:1] == ("orbs",) else ()


def step_of(path: KeyPath) -> KeyPath:
    """The list's item that a path lies in."""
    last = max(index for index, step in enumerate(path) if isinstance(step, int))
    return path[: last + 1]
