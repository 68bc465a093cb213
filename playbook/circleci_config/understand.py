"""Which jobs of a configuration reach AWS, and how their credentials come: pure functions over its parsed data.

A job is followed from the workflow that runs it through its executor, its steps, the file's own commands, inline orbs,
conditions and parameters. Every finding carries the path of the place it was found at, so that a rewrite can go there.
What the text does not show (a script of the repository, an orb of somebody's own, a configuration that is generated)
is said, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config import shell
from playbook.circleci_config.document import KeyPath
from playbook.circleci_config.orbs import Orb
from playbook.circleci_config.shell import Form, KeyLine, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from playbook.circleci_config.shell import Shell

DEPTH_MAX: Final = 20
"""Commands within commands; CircleCI itself refuses a command that calls itself."""
STEPS_MAX: Final = 5_000
"""Steps of one run once its commands are written out."""
_PARAMETER: Final = re.compile(r"<<\s*parameters\.(?P<name>[\w-]+)\s*>>")
_ECR_IMAGE: Final = re.compile(r"\.dkr\.ecr(?:-fips)?\.[^/]*amazonaws\.com|\.dkr\.ecr\.", re.IGNORECASE)
_ECR_VARIABLE: Final = re.compile(r"^\$\{?\w*ECR\w*\}?", re.IGNORECASE)
_NO_ORB: Final = re.compile(
    r"alpine|busybox|scratch|distroless|kaniko|-slim\b|:slim\b"
    r"|^(?:docker\.io/)?(?:library/)?(?:docker|debian|ubuntu|amazonlinux|centos|fedora|rockylinux|archlinux)(?::|@|$)"
    r"|^hashicorp/|^alpine/|^lachlanevenson/|^dtzar/|^bitnami/kubectl|^mesosphere/aws-cli|^cgswong/aws|^google/cloud-sdk:.*alpine"
)
"""Images without bash, curl or unzip, one of which the `aws-cli` orb needs."""
_NO_UNZIP: Final = re.compile(
    r"^(?:docker\.io/)?(?:library/)?(?:golang|openjdk|php|maven|gradle|eclipse-temurin|amazoncorretto|composer|nginx|httpd|"
    r"swift|haskell|clojure|julia|r-base|postgres|mysql|redis)(?::|@|$)|^mcr\.microsoft\.com/"
)
"""Images with a shell and often curl, but without the unzip that the orb's installation needs."""
_DEBIAN_HINT: Final = re.compile(r"^(?:cimg|circleci)/")
_OTHER_CLOUD: Final = re.compile(
    r"gcloud|google|gcp(?![a-z])|gcs(?![a-z])|azure|\baz login|ARM_CLIENT|digitalocean|hcloud|linode|openstack"
    r"|cloudflare",
    re.IGNORECASE,
)
_TERRAFORM: Final = re.compile(r"terraform|terragrunt|tofu")
"""Where nothing names another cloud it is taken to be AWS's: whoever asks for a role of AWS has it there."""
_AWS_WORD: Final = re.compile(r"(?<![a-z])aws(?![a-z])|amazonaws|AWS_|\.dkr\.ecr|s3://", re.IGNORECASE)
_DEPLOYS: Final = re.compile(
    r"deploy|publish|push|upload|release|terraform|aws|ecr|s3|infra|provision|destroy|sync|cdn|invalidat", re.IGNORECASE
)
"""Scripts that a job with the AWS CLI is likely to have it for."""
_WORKSPACE_CREDENTIALS: Final = re.compile(r"\.aws\b")


ASSUMED: Final = ", taken to be AWS's"


class What(StrEnum):
    """One thing that a run does with credentials."""

    USE = "uses AWS"
    MAYBE = "may use AWS"
    OIDC = "logs in by OIDC"
    LOGIN = "logs in by a stored key"
    ORB = "orb that logs in by a stored key"
    KEY = "hands a key on"
    ENVIRONMENT = "environment"
    IMAGE_AUTH = "image by aws_auth"
    IMAGE = "image of ECR by the project's key"
    SCRIPT = "runs a script"
    HIDDEN = "somebody's own orb"
    CHAIN = "role chain"
    PROFILE = "asks for a profile"
    OBSTACLE = "cannot be done with a role"
    INSTALL = "installs the AWS CLI"
    WORKSPACE_IN = "attaches a workspace"
    WORKSPACE_OUT = "keeps ~/.aws in the workspace"
    CHECKOUT = "checks the code out"
    DISTURBS = "makes ~/.aws or drops the session's token"
    OTHER_KEY = "mentions a further key"
    TWO_KEYS = "calls AWS before it takes a key of its own"
    DEFINES = "writes a profile"
    REGION = "sets the region"
    PROFILE_CHAIN = "a profile takes a role by another profile"
    MENTION = "mentions the key in a way that is not known"
    COMPOSE = "hands the key to docker-compose"


_LOGINS: Final = frozenset({What.OIDC, What.LOGIN})


class How(StrEnum):
    """How the credentials of a run come; the texts are what `--explain` shows."""

    OIDC = "oidc"
    IMPLICIT = "implicit, no context"
    CONTEXT = "implicit, with a context"
    SHELL = "assigned in shell"
    CONFIGURE = "aws configure"
    FILE = "credentials file"
    PASSED = "passed to a container"
    PARAMETER = "orb parameter"
    ENVIRONMENT = "environment"
    CHAIN = "role chain"
    AWS_AUTH = "aws_auth keys"
    IMAGE = "image pull by the project's key"
    WORKSPACE = "from the workspace"


class Platform(StrEnum):
    """Where the steps run, as far as the `aws-cli` orb cares."""

    LINUX = "linux"
    MINIMAL = "minimal image"
    WINDOWS = "windows"
    MACOS = "macos"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One finding, where it is written, and under which step of the run's own list it hangs."""

    what: What
    path: KeyPath
    top: KeyPath
    detail: str = ""
    line: KeyLine | None = None
    orb: Orb | None = None
    command: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    conditional: bool = False
    late: bool = False
    """It runs also after a step has failed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job of one workflow, read as it runs."""

    workflow: str
    name: str
    job: str
    """The definition's name; with a slash when it is an orb's."""
    entry: KeyPath
    """The workflow's entry; empty when there is no workflow."""
    steps: KeyPath
    """The list its own steps are in; empty for an orb's job."""
    contexts: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    images: tuple[str, ...] = ()
    platform: Platform = Platform.UNKNOWN
    self_hosted: bool = False
    shell_name: str = ""
    dummy: bool = False
    """Its environment holds a key that is none, so what it calls is not AWS."""
    orb: Orb | None = None
    docker: bool = False
    context_parameter: bool = False

    @property
    def uses(self) -> tuple[Event, ...]:
        """What needs credentials, in order."""
        return tuple(event for event in self.events if event.what is What.USE)

    @property
    def logs_in(self) -> bool:
        """Whether it logs in by OIDC somewhere."""
        return any(event.what is What.OIDC for event in self.events)

    @property
    def static(self) -> tuple[Event, ...]:
        """The findings for which a stored key is needed, in order; empty when nothing is to be migrated."""
        return tuple(self._static())

    def _static(self) -> Iterator[Event]:
        logged = False
        for event in self.events:
            if event.what is What.OIDC and not event.conditional:
                logged = True
            elif event.what is What.USE and not logged and not self.dummy:
                yield event
            elif event.what is What.ORB:
                if not logged or known.needs_own_login(event.orb, event.parameters):
                    yield event
            elif event.what in {What.LOGIN, What.ENVIRONMENT, What.IMAGE_AUTH, What.IMAGE} or (
                event.what is What.KEY and event.line is not None and is_stored(event.line, logged=logged)
            ):
                yield event

    @property
    def how(self) -> tuple[How, ...]:
        """How its credentials come, the most telling first; empty when it does not reach AWS."""
        return tuple(dict.fromkeys(self._how()))

    def _how(self) -> Iterator[How]:
        if self.logs_in:
            yield How.OIDC
        static = self.static
        for event in static:
            if event.what is What.KEY and event.line is not None:
                yield _HOW_OF_FORM[event.line.form]
            elif event.what in _HOW_OF_WHAT:
                yield _HOW_OF_WHAT[event.what]
            elif event.parameters and known.KEY_PARAMETERS & event.parameters.keys():
                yield How.PARAMETER
        if any(event.what in {What.USE, What.LOGIN, What.ORB} for event in static):
            yield How.CONTEXT if self.contexts or self.context_parameter else How.IMPLICIT
        if any(event.what is What.CHAIN for event in self.events):
            yield How.CHAIN

    @property
    def hidden(self) -> tuple[str, ...]:
        """What of it cannot be seen."""
        return tuple(dict.fromkeys(event.detail for event in self.events if event.what in {What.SCRIPT, What.HIDDEN}))


_SPEAKS: Final = frozenset({What.USE, What.OIDC, What.LOGIN, What.ORB, What.IMAGE, What.IMAGE_AUTH, What.KEY})
_HOW_OF_FORM: Final = {
    Form.EXPORT: How.SHELL,
    Form.PREFIX: How.SHELL,
    Form.CONFIGURE: How.CONFIGURE,
    Form.FILE: How.FILE,
    Form.PASSED: How.PASSED,
    Form.ARGUMENT: How.SHELL,
}
_HOW_OF_WHAT: Final = {
    What.ENVIRONMENT: How.ENVIRONMENT,
    What.IMAGE_AUTH: How.AWS_AUTH,
    What.IMAGE: How.IMAGE,
}


def is_stored(line: KeyLine, *, logged: bool) -> bool:
    """Whether the line takes a stored key; after a login the plain variable is the role's."""
    if line.origin is Origin.LITERAL:
        return True
    if line.origin is not Origin.STATIC:
        return False
    same = line.source in shell.KEY_NAMES and line.form in {Form.PASSED, Form.EXPORT, Form.PREFIX}
    return not (same and logged)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one configuration says."""

    version: str
    runs: tuple[Run, ...] = ()
    orbs: tuple[Orb, ...] = ()
    doubts: tuple[str, ...] = ()
    """What keeps this from being the whole answer."""
    unreached: tuple[str, ...] = ()
    """Jobs that no workflow runs."""
    setup: bool = False

    @property
    def static_runs(self) -> tuple[Run, ...]:
        """The runs that need a stored key."""
        return tuple(run for run in self.runs if run.static)


def understand(data: object) -> Reading:
    """Read one configuration's data, as `Document.data` gives it."""
    return _Reader(data).reading()


# --- Reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """What names mean at one place: the file itself, or an inline orb within it."""

    path: KeyPath
    commands: Mapping[str, Any]
    jobs: Mapping[str, Any]
    executors: Mapping[str, Any]
    orbs: Mapping[str, Any]


def _scope(data: Mapping[str, Any], path: KeyPath) -> _Scope:
    return _Scope(
        path=path,
        commands=as_mapping(data.get("commands")),
        jobs=as_mapping(data.get("jobs")),
        executors=as_mapping(data.get("executors")),
        orbs=as_mapping(data.get("orbs")),
    )


@dataclass(frozen=True, kw_only=True)
class _Binding:
    """What a parameter stands for, and where that is written."""

    value: Any
    path: KeyPath | None
    scope: _Scope
    bindings: Mapping[str, _Binding]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A list of steps being walked."""

    path: KeyPath
    scope: _Scope
    bindings: Mapping[str, _Binding]
    top: KeyPath = ()
    depth: int = 0
    conditional: bool = False


class _Reader:
    def __init__(self, data: object) -> None:
        self.data = as_mapping(data)
        self.scope = _scope(self.data, ())
        self.doubts: dict[str, None] = {}
        self.left = 0

    def reading(self) -> Reading:
        setup = self.data.get("setup") is True
        if setup:
            self.doubts["it generates the configuration that runs, which is not in this file"] = None
        runs = tuple(self._runs())
        speaks = any(event.what in _SPEAKS for run in runs for event in run.events)
        runs = tuple(_settled(run, speaks=speaks, text=_strings(self._definition(run))) for run in runs)
        runs = _with_workspaces(runs)
        reached = {run.job for run in runs}
        return Reading(
            version=str(self.data.get("version", "")),
            runs=runs,
            orbs=tuple(orb for alias, reference in self.scope.orbs.items() if (orb := known.orb_of(alias, reference))),
            doubts=tuple(self.doubts),
            unreached=tuple(name for name in self.scope.jobs if name not in reached),
            setup=setup,
        )

    def _definition(self, run: Run) -> object:
        return [self.scope.jobs.get(run.job), _at(self.data, run.entry), self.scope.executors]

    def _runs(self) -> Iterator[Run]:
        workflows = as_mapping(self.data.get("workflows"))
        for workflow, body in workflows.items():
            for index, entry in enumerate(as_list(as_mapping(body).get("jobs"))):
                path: KeyPath = ("workflows", workflow, "jobs", index)
                named = as_mapping(entry)
                for name in [entry] if isinstance(entry, str) else list(named):
                    settings = as_mapping(named.get(name))
                    if settings.get("type") == "approval":
                        continue
                    yield self._run(workflow, name, settings, path)
        if not workflows and "build" in self.scope.jobs:
            yield self._run("", "build", {}, ())

    def _run(self, workflow: str, job: str, settings: Mapping[str, Any], entry: KeyPath) -> Run:
        self.left = STEPS_MAX
        contexts = tuple(as_texts(settings.get("context")))
        inside = (*entry, job) if entry else ()
        pre = list(self._listed(settings, "pre-steps", inside))
        run = Run(
            workflow=workflow,
            name=str(settings.get("name") or job),
            job=job,
            entry=entry,
            steps=(),
            contexts=tuple(context for context in contexts if "<<" not in context),
            context_parameter=any("<<" in context for context in contexts),
        )
        scope, name = self._find(self.scope, job)
        if scope is None:
            return self._orb_run(run, settings, pre)
        definition = as_mapping(scope.jobs.get(name))
        path: KeyPath = (*scope.path, "jobs", name)
        bindings = self._bound(definition, settings, inside, scope=scope, caller=self.scope, outer={})
        place = _Place(path=(*path, "steps"), scope=scope, bindings=bindings)
        events = [
            *pre,
            *self._environment(definition, path, bindings),
            *self._walk(as_list(definition.get("steps")), place),
        ]
        events += self._listed(settings, "post-steps", inside)
        run = self._on_executor(replace(run, events=tuple(events), steps=place.path), definition, path, scope, bindings)
        return replace(run, dummy=run.dummy or _has_dummy(definition.get("environment")))

    def _find(self, scope: _Scope, job: str) -> tuple[_Scope | None, str]:
        """The scope that defines a job, an inline orb's included."""
        if job in scope.jobs:
            return scope, job
        alias, _, name = job.partition("/")
        inline = scope.orbs.get(alias)
        if isinstance(inline, Mapping) and name in as_mapping(inline.get("jobs")):
            return _scope(inline, (*scope.path, "orbs", alias)), name
        return None, job

    def _orb_run(self, run: Run, settings: Mapping[str, Any], pre: list[Event]) -> Run:
        alias, _, name = run.job.partition("/")
        orb = known.orb_of(alias, self.scope.orbs.get(alias))
        if orb is None:
            if not isinstance(self.scope.orbs.get(alias), Mapping):
                self.doubts[f"the job {run.job} is not defined in this file"] = None
            orb = known.Orb(alias=alias, name=alias, version="")
        inside = (*run.entry, run.job)
        events = [*pre, *self._orb_events(orb, name, settings, inside, inside, job=True)]
        parameters = [
            event
            for key, value in settings.items()
            if key not in known.ECR_JOB_WORDS and isinstance(value, list) and _looks_like_steps(value)
            for event in self._walk(value, _Place(path=(*inside, key), scope=self.scope, bindings={}, top=inside))
        ]
        logged = any(event.what in _LOGINS for event in parameters)
        if logged:
            events = [event for event in events if event.what is not What.ORB]
        events = [*parameters, *events] if logged else [*events, *parameters]
        if known.uses_aws(orb, name) in {"", "hidden"} and orb.version and orb.name != known.AWS_CLI:
            self.doubts[f"the job {run.job} is an orb's, out of sight"] = None
        return replace(run, events=tuple(events), orb=orb, platform=Platform.LINUX)

    def _listed(self, settings: Mapping[str, Any], key: str, inside: KeyPath) -> Iterator[Event]:
        steps = as_list(settings.get(key))
        yield from self._walk(steps, _Place(path=(*inside, key), scope=self.scope, bindings={}))

    # --- Executors --------------------------------------------------------------------------------------------------

    def _on_executor(
        self, run: Run, definition: Mapping[str, Any], path: KeyPath, scope: _Scope, bindings: Mapping[str, _Binding]
    ) -> Run:
        parts: list[tuple[Mapping[str, Any], KeyPath, Mapping[str, _Binding]]] = [(definition, path, bindings)]
        executor = definition.get("executor")
        reference = self._value(executor, bindings)
        named = as_mapping(reference).get("name") if isinstance(reference, Mapping) else reference
        name = str(self._value(named, bindings) or "")
        orb_platform = Platform.UNKNOWN
        if name:
            found, own, orb_platform = self._executor(scope, name)
            if found is not None and own is not None:
                inner = as_mapping(found.executors.get(own))
                given = as_mapping(reference)
                inside = self._bound(inner, given, (*path, "executor"), scope=found, caller=scope, outer=bindings)
                parts.append((inner, (*found.path, "executors", own), inside))
        platform = orb_platform
        events = list(run.events)
        images: list[str] = []
        dummy = self_hosted = docker = False
        for part, where, bound in parts:
            events += self._images(part, where, bound, images)
            docker = docker or "docker" in part
            if part is not definition:
                events += self._environment(part, where, bound)
            dummy = dummy or _has_dummy(part.get("environment")) or _has_dummy(_first_environment(part))
            self_hosted = self_hosted or bool(
                re.fullmatch(r"[\w.-]+/[\w.-]+", str(self._value(part.get("resource_class"), bound) or ""))
            )
            here = self._platform(part, bound)
            platform = here if here is not Platform.UNKNOWN else platform
        return replace(
            run,
            events=tuple(events),
            images=tuple(images),
            platform=platform,
            dummy=dummy,
            self_hosted=self_hosted,
            docker=docker,
            shell_name=str(definition.get("shell") or ""),
        )

    def _executor(self, scope: _Scope, name: str) -> tuple[_Scope | None, str | None, Platform]:
        if name in scope.executors:
            return scope, name, Platform.UNKNOWN
        alias, _, own = name.partition("/")
        inline = scope.orbs.get(alias)
        if isinstance(inline, Mapping) and own in as_mapping(inline.get("executors")):
            return _scope(inline, (*scope.path, "orbs", alias)), own, Platform.UNKNOWN
        orb = known.orb_of(alias, inline)
        if orb is None:
            return None, None, Platform.UNKNOWN
        windows = orb.name == "circleci/windows"
        return None, None, Platform.WINDOWS if windows else Platform.LINUX

    def _platform(self, part: Mapping[str, Any], bindings: Mapping[str, _Binding]) -> Platform:
        if "macos" in part:
            return Platform.MACOS
        if "machine" in part:
            image = str(self._value(as_mapping(part.get("machine")).get("image"), bindings) or "")
            return Platform.WINDOWS if "windows" in image.lower() else Platform.LINUX
        first = next(iter(as_list(part.get("docker"))), None)
        if first is None:
            return Platform.WINDOWS if "windows" in str(part.get("resource_class", "")) else Platform.UNKNOWN
        image = str(self._value(as_mapping(first).get("image"), bindings) or "")
        if (_NO_ORB.search(image) or _NO_UNZIP.search(image)) and not _DEBIAN_HINT.match(image):
            return Platform.MINIMAL
        return Platform.LINUX if image else Platform.UNKNOWN

    def _images(
        self, part: Mapping[str, Any], path: KeyPath, bindings: Mapping[str, _Binding], images: list[str]
    ) -> Iterator[Event]:
        for index, entry in enumerate(as_list(part.get("docker"))):
            image = as_mapping(entry)
            where: KeyPath = (*path, "docker", index)
            name = str(self._value(image.get("image"), bindings) or "")
            images.append(name)
            auth = as_mapping(image.get("aws_auth"))
            if auth and "oidc_role_arn" not in auth:
                names = [str(value).strip("${}") for value in auth.values() if str(value).startswith("$")]
                yield Event(what=What.IMAGE_AUTH, path=where, top=where, detail=name, command=", ".join(names))
            elif not auth and "auth" not in image and _ECR_IMAGE.search(name) and not _is_public(name):
                yield Event(what=What.IMAGE, path=where, top=where, detail=name)
            elif not auth and "auth" not in image and _ECR_VARIABLE.match(name):
                self.doubts[f"the image {name} may be of ECR, pulled with the project's own key"] = None

    # --- Steps ------------------------------------------------------------------------------------------------------

    def _walk(self, steps: Sequence[Any], place: _Place) -> Iterator[Event]:
        for index, step in enumerate(steps):
            self.left -= 1
            if self.left < 0 or place.depth > DEPTH_MAX:
                self.doubts["its steps go on beyond what is read"] = None
                return
            path = (*place.path, index)
            yield from self._step(step, path, replace(place, top=place.top or path))

    def _step(self, step: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        if isinstance(step, str):
            parameter = _PARAMETER.fullmatch(step.strip())
            if parameter:
                yield from self._given_steps(parameter["name"], place)
                return
            yield from self._named(step, {}, path, place)
            return
        for name, body in as_mapping(step).items():
            inside = (*path, name)
            if name in {"when", "unless"} and isinstance(body, Mapping) and "steps" in body:
                yield from self._inner(body.get("steps"), (*inside, "steps"), replace(place, conditional=True))
            elif name == "steps":
                yield from self._inner(body, inside, place)
            else:
                yield from self._named(name, body, inside, place)

    def _inner(self, steps: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        parameter = _PARAMETER.fullmatch(steps.strip()) if isinstance(steps, str) else None
        if parameter:
            yield from self._given_steps(parameter["name"], place)
            return
        yield from self._walk(as_list(steps), replace(place, path=path, depth=place.depth + 1))

    def _given_steps(self, name: str, place: _Place) -> Iterator[Event]:
        bound = place.bindings.get(name)
        if bound is None or bound.path is None:
            return
        inner = replace(place, path=bound.path, scope=bound.scope, bindings=bound.bindings, depth=place.depth + 1)
        yield from self._walk(as_list(bound.value), inner)

    def _named(self, name: str, body: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        if name in {"run", "deploy"}:
            yield from self._script(body, path, place)
        elif name == "checkout":
            yield self._event(What.CHECKOUT, path, place)
        elif name == "attach_workspace":
            yield self._event(What.WORKSPACE_IN, path, place)
        elif name == "persist_to_workspace":
            settings = as_mapping(body)
            if any(
                _WORKSPACE_CREDENTIALS.search(text)
                for text in [str(settings.get("root")), *as_texts(settings.get("paths"))]
            ):
                yield self._event(What.WORKSPACE_OUT, path, place)
        elif name in place.scope.commands:
            yield from self._command(place.scope, name, body, path, place)
        elif "/" in name:
            yield from self._orb_step(name, body, path, place)

    def _command(self, scope: _Scope, name: str, body: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        command = as_mapping(scope.commands.get(name))
        bindings = self._bound(command, as_mapping(body), path, scope=scope, caller=place.scope, outer=place.bindings)
        where: KeyPath = (*scope.path, "commands", name, "steps")
        inner = replace(place, path=where, scope=scope, bindings=bindings, depth=place.depth + 1)
        yield from self._walk(as_list(command.get("steps")), inner)

    def _orb_step(self, name: str, body: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        alias, _, command = name.partition("/")
        reference = place.scope.orbs.get(alias)
        if isinstance(reference, Mapping):
            scope = _scope(reference, (*place.scope.path, "orbs", alias))
            if command in scope.commands:
                yield from self._command(scope, command, body, path, place)
            return
        orb = known.orb_of(alias, reference)
        if orb is None:
            return
        parameters = as_mapping(body)
        nested = [
            event
            for key, value in parameters.items()
            if isinstance(value, list) and _looks_like_steps(value)
            for event in self._walk(value, replace(place, path=(*path, key), depth=place.depth + 1))
        ]
        own = list(self._orb_events(orb, command, parameters, path, place.top, place=place))
        if any(event.what in _LOGINS for event in nested):
            own = [event for event in own if event.what is not What.ORB]
            yield from nested
            yield from own
        else:
            yield from own
            yield from nested

    def _orb_events(
        self, orb: Orb, command: str, parameters: Mapping[str, Any], path: KeyPath, top: KeyPath,
        *, place: _Place | None = None, job: bool = False,
    ) -> Iterator[Event]:  # fmt: skip
        conditional = place.conditional if place else False

        def event(what: What, detail: str = "") -> Event:
            return Event(
                what=what, path=path, top=top, detail=detail or f"{orb.alias}/{command}", orb=orb, command=command,
                parameters=parameters, conditional=conditional,
            )  # fmt: skip

        if known.logs_in_by_oidc(orb, command, parameters):
            yield event(What.OIDC)
            return
        if known.logs_in_by_key(orb, command, parameters):
            yield event(What.LOGIN)
            return
        if orb.name == known.AWS_CLI:
            if command in {"role-arn-setup", "role_arn_setup"}:
                yield event(What.CHAIN)
            elif command == "install":
                yield event(What.INSTALL)
            return
        yield from _needed_by(orb, command, parameters, event, job=job)

    def _script(self, body: object, path: KeyPath, place: _Place) -> Iterator[Event]:
        settings = as_mapping(body)
        script = body if isinstance(body, str) else settings.get("command")
        where = path if isinstance(body, str) else (*path, "command")
        environment = settings.get("environment")
        if environment:
            yield from self._environment(settings, path, place.bindings, top=place.top)
        if not isinstance(script, str):
            return
        found = shell.read(self._text(script, place.bindings))
        made_up = _has_dummy(environment) or any(
            key.origin is Origin.DUMMY and key.form in {Form.EXPORT, Form.CONFIGURE, Form.FILE} for key in found.keys
        )
        for key in found.keys:
            if key.form is Form.PASSED and key.origin is Origin.SAME:
                yield self._event(What.USE, where, place, "hands AWS_ACCESS_KEY_ID on")
            if key.origin is not Origin.DUMMY:
                written = self._written_at(key, script, where, place.bindings)
                yield replace(self._event(What.KEY, written, place, key.form), line=key)
        late = settings.get("when") in {"on_fail", "always"}
        for event in self._said(found, where, place, made_up=made_up):
            yield replace(event, late=late)

    @staticmethod
    def _written_at(key: KeyLine, script: str, where: KeyPath, bindings: Mapping[str, _Binding]) -> KeyPath:
        """The script, or the parameter that brings the key's name into it."""
        if key.name in script:
            return where
        for found in _PARAMETER.finditer(script):
            bound = bindings.get(found["name"])
            if bound is not None and bound.path is not None and key.name in str(bound.value):
                return bound.path
        return where

    def _said(self, found: Shell, where: KeyPath, place: _Place, *, made_up: bool) -> Iterator[Event]:
        """What a script says besides the keys themselves, the login before what uses it."""
        said: list[tuple[What, Sequence[str] | bool]] = [
            (What.CHAIN, found.chain),
            (What.OBSTACLE, found.obstacles),
            (What.DISTURBS, found.disturbs),
            (What.TWO_KEYS, found.uses_before_key),
            (What.DEFINES, found.defines),
            (What.REGION, found.sets_region),
            (What.PROFILE_CHAIN, found.profile_chain),
            (What.COMPOSE, found.compose),
            (What.MENTION, found.mentions),
            (What.OTHER_KEY, found.others),
            (What.OIDC, found.oidc),
            (What.PROFILE, found.profiles),
            (What.INSTALL, found.installs),
            (What.USE, found.uses if not made_up else ()),
            (What.MAYBE, found.maybe if not made_up else ()),
            (What.SCRIPT, found.scripts),
        ]
        for what, details in said:
            for detail in ("",) * details if isinstance(details, bool) else details:
                yield self._event(what, where, place, detail)

    def _environment(
        self, part: Mapping[str, Any], path: KeyPath, bindings: Mapping[str, _Binding], top: KeyPath = ()
    ) -> Iterator[Event]:
        places = [(part.get("environment"), (*path, "environment"))]
        first = next(iter(as_list(part.get("docker"))), None)
        if isinstance(first, Mapping):
            places.append((first.get("environment"), (*path, "docker", 0, "environment")))
        for environment, where in places:
            for name, value, at in _variables(environment, where):
                if name in shell.KEY_NAMES and not shell.dummy_value(self._text(str(value), bindings)):
                    yield Event(what=What.ENVIRONMENT, path=at, top=top or where, detail=name)
                elif name in {"AWS_REGION", "AWS_DEFAULT_REGION"}:
                    yield Event(what=What.REGION, path=at, top=top or where, detail=str(value))
                elif name in {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}:
                    yield Event(what=What.PROFILE, path=at, top=top or where, detail=str(value))

    @staticmethod
    def _event(what: What, path: KeyPath, place: _Place, detail: str = "") -> Event:
        return Event(what=what, path=path, top=place.top, detail=detail, conditional=place.conditional)

    # --- Parameters -------------------------------------------------------------------------------------------------

    def _bound(
        self, definition: Mapping[str, Any], given: Mapping[str, Any], given_at: KeyPath,
        *, scope: _Scope, caller: _Scope, outer: Mapping[str, _Binding],
    ) -> dict[str, _Binding]:  # fmt: skip
        bindings: dict[str, _Binding] = {}
        for name, described in as_mapping(definition.get("parameters")).items():
            if name in given:
                value = given[name]
                passed = _PARAMETER.fullmatch(value.strip()) if isinstance(value, str) else None
                if passed and passed["name"] in outer:
                    bindings[name] = outer[passed["name"]]
                    continue
                value = self._text(value, outer) if isinstance(value, str) else value
                bindings[name] = _Binding(value=value, path=(*given_at, name), scope=caller, bindings=outer)
            elif "default" in as_mapping(described):
                bindings[name] = _Binding(value=described["default"], path=None, scope=scope, bindings={})
        return bindings

    @staticmethod
    def _text(text: str, bindings: Mapping[str, _Binding]) -> str:
        def stand_in(found: re.Match[str]) -> str:
            bound = bindings.get(found["name"])
            return str(bound.value) if bound is not None and isinstance(bound.value, str | int) else found[0]

        return _PARAMETER.sub(stand_in, text)

    def _value(self, value: object, bindings: Mapping[str, _Binding]) -> Any:
        if not isinstance(value, str):
            return value
        whole = _PARAMETER.fullmatch(value.strip())
        if whole and whole["name"] in bindings:
            return bindings[whole["name"]].value
        return self._text(value, bindings)


def _needed_by(
    orb: Orb, command: str, parameters: Mapping[str, Any], event: Callable[..., Event], *, job: bool
) -> Iterator[Event]:
    """What a step or job of an orb other than `aws-cli` needs."""
    kind = known.uses_aws(orb, command)
    if orb.name == known.AWS_ECR and orb.number is not None and orb.major < 9:  # noqa: PLR2004  see orbs
        by_web = parameters.get("assume-web-identity") is True
        if by_web:
            yield event(What.OIDC)
        yield event(What.ORB if known.ecr_logs_in(command) and not by_web else What.USE)
    elif known.KEY_PARAMETERS & parameters.keys() or (kind == "yes" and job and "auth" not in parameters):
        yield event(What.ORB)
    elif kind == "yes":
        yield event(What.USE)
    elif kind == "maybe":
        yield event(What.MAYBE)
    elif kind == "hidden":
        if not job:
            yield event(What.USE)
        yield event(What.HIDDEN, f"the orb {orb.name}")


# --- What a run turns out to be -------------------------------------------------------------------------------------


def _settled(run: Run, *, speaks: bool, text: str) -> Run:
    """Settle what depends on the rest: a tool of many clouds, and a job that only installs the AWS CLI."""
    own = bool(_AWS_WORD.search(text)) or any(_AWS_WORD.search(context) for context in run.contexts)
    other = bool(_OTHER_CLOUD.search(text)) and not own
    aws = own or (speaks and not other)
    certain = any(event.what in {What.USE, What.OIDC, What.LOGIN, What.ORB} for event in run.events)
    events: list[Event] = []
    for event in run.events:
        if event.what is What.MAYBE:
            assumed = not aws and not other and bool(_TERRAFORM.search(event.detail))
            detail = f"{event.detail}{ASSUMED}" if assumed else event.detail
            events.append(replace(event, what=What.USE, detail=detail) if aws or assumed else event)
        elif event.what is What.SCRIPT and not certain and _installs(run) and _DEPLOYS.search(event.detail):
            events += [
                replace(event, what=What.USE, detail=f"{event.detail}, for which the AWS CLI is installed"),
                event,
            ]
        else:
            events.append(event)
    return replace(run, events=tuple(events))


def _installs(run: Run) -> bool:
    return any(event.what is What.INSTALL for event in run.events)


def _with_workspaces(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Where one job keeps `~/.aws` in the workspace, the jobs that attach it and have no key of their own use that."""
    if not any(event.what is What.WORKSPACE_OUT for run in runs for event in run.events):
        return runs
    return tuple(_from_workspace(run) for run in runs)


def _from_workspace(run: Run) -> Run:
    attached = False
    events: list[Event] = []
    for event in run.events:
        attached = attached or event.what is What.WORKSPACE_IN
        if event.what is What.USE and attached and event.orb is None:
            detail = f"{event.detail} with credentials from the workspace"
            events.append(replace(event, what=What.MAYBE, detail=detail))
        else:
            events.append(event)
    return replace(run, events=tuple(events))


# --- Plain data -----------------------------------------------------------------------------------------------------


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> Sequence[Any]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_texts(value: object) -> list[str]:
    """One text or a list of texts; a list may hold lists, which CircleCI flattens one level deep."""
    if isinstance(value, str):
        return [value]
    return [text for item in as_list(value) for text in ([item] if isinstance(item, str) else as_texts(item))]


def _at(data: object, path: KeyPath) -> object:
    for step in path:
        try:
            data = data[step]  # type: ignore[index]  # a path made of the data itself
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _strings(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}\n{_strings(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(_strings(item) for item in value)
    return str(value) if isinstance(value, str) else ""


def _looks_like_steps(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(item, Mapping) or (isinstance(item, str) and "/" in item) for item in value)


def _has_dummy(environment: object) -> bool:
    values = [value for name, value, _ in _variables(environment, ()) if name == shell.KEY_ID]
    return bool(values) and all(shell.dummy_value(str(value)) for value in values)


def _variables(environment: object, where: KeyPath) -> Iterator[tuple[str, Any, KeyPath]]:
    """The variables of an `environment`, which is a mapping or a list of them, with the path of each."""
    for name, value in as_mapping(environment).items():
        yield name, value, (*where, name)
    for index, item in enumerate(as_list(environment)):
        for name, value in as_mapping(item).items():
            yield name, value, (*where, index, name)


def _first_environment(part: Mapping[str, Any]) -> object:
    return as_mapping(next(iter(as_list(part.get("docker"))), None)).get("environment")


def _is_public(image: str) -> bool:
    return image.startswith("public.ecr.aws")
