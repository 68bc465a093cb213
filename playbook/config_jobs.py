"""Which jobs of a CircleCI configuration name a context or pull from ECR: pure functions over its text.

The file is a stranger's: its size, depth and aliases are bounded before it is composed, aliases and merges are
followed and never expanded, and no value of it is executed or built. What the text leaves open (a parameter, an orb's
job, a configuration that is generated) is said, because a context may be used there all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE_MAX: Final = 1 << 20
DEPTH_MAX: Final = 100
ALIASES_MAX: Final = 1000
EVENTS_MAX: Final = 300_000
_ECR: Final = re.compile(r"[0-9]{12}\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/", re.IGNORECASE)
_PARAMETER: Final = "<<"
_MERGE: Final = "tag:yaml.org,2002:merge"


class UnreadableConfigError(ValueError):
    """The text is no configuration that can be read within the limits; the sentence quotes nothing of it."""


@dataclass(frozen=True, kw_only=True)
class JobUse:
    """One job of one workflow, as far as it can reach a stored secret without a word in its own steps."""

    workflow: str
    name: str
    contexts: tuple[str, ...] = ()
    ecr_images: tuple[str, ...] = ()
    """Images of ECR without `aws_auth`: CircleCI pulls them with the project's own key variables (facts 6)."""
    aws_auth: tuple[str, ...] = ()
    """The variables that some `aws_auth` names."""


@dataclass(frozen=True, kw_only=True)
class ConfigUse:
    """What one configuration says."""

    jobs: tuple[JobUse, ...] = ()
    doubts: tuple[str, ...] = ()
    """Where a context may be used that the text does not show."""


@dataclass(frozen=True, kw_only=True)
class _Images:
    ecr: tuple[str, ...] = ()
    aws_auth: tuple[str, ...] = ()


def config_use(text: str) -> ConfigUse:
    """Read one configuration; raises `UnreadableConfigError`."""
    top = dict(_pairs(_composed(text)))
    executors = {name: _images(node, {}) for name, node in _pairs(top.get("executors"))}
    jobs = {name: _images(node, executors) for name, node in _pairs(top.get("jobs"))}
    doubts: list[str] = []
    if _text(top.get("setup")).lower() == "true":
        doubts.append("it generates the configuration that runs, which is not in the checkout")
    used: list[JobUse] = []
    for workflow, node in _pairs(top.get("workflows")):
        for entry in _items(dict(_pairs(node)).get("jobs")):
            used += _used(workflow, entry, jobs, doubts)
    if "workflows" not in top and "build" in jobs:
        used.append(_job("", "build", (), jobs["build"]))
    return ConfigUse(jobs=tuple(used), doubts=tuple(dict.fromkeys(doubts)))


def _used(workflow: str, entry: yaml.Node, jobs: dict[str, _Images], doubts: list[str]) -> Iterator[JobUse]:
    if isinstance(entry, yaml.ScalarNode):
        pairs: list[tuple[str, yaml.Node | None]] = [(entry.value, None)]
    else:
        pairs = list(_pairs(entry))
    for name, settings in pairs:
        fields = dict(_pairs(settings))
        contexts = tuple(_texts(fields.get("context")))
        if any(_PARAMETER in context for context in contexts):
            doubts.append(f"the context of the job {name} is a parameter")
        if name not in jobs and _text(fields.get("type")) != "approval":
            doubts.append(f"the job {name} is an orb's: its images are not in the checkout")
        yield _job(workflow, _text(fields.get("name")) or name, contexts, jobs.get(name, _Images()))


def _job(workflow: str, name: str, contexts: tuple[str, ...], images: _Images) -> JobUse:
    return JobUse(
        workflow=workflow,
        name=name,
        contexts=tuple(context for context in contexts if _PARAMETER not in context),
        ecr_images=images.ecr,
        aws_auth=images.aws_auth,
    )


def _images(node: yaml.Node | None, executors: dict[str, _Images]) -> _Images:
    fields = dict(_pairs(node))
    ecr: list[str] = []
    aws_auth: list[str] = []
    for entry in _items(fields.get("docker")):
        image = dict(_pairs(entry))
        name = _text(image.get("image"))
        if "aws_auth" in image:
            texts = [_text(value) for _, value in _pairs(image["aws_auth"])]
            aws_auth += [text.strip("${}") for text in texts if text.startswith("$")]
        elif _ECR.match(name):
            ecr.append(name)
    executor = fields.get("executor")
    named = _text(executor) or _text(dict(_pairs(executor)).get("name"))
    inherited = executors.get(named, _Images())
    return _Images(ecr=(*ecr, *inherited.ecr), aws_auth=(*aws_auth, *inherited.aws_auth))


# --- Nodes ------------------------------------------------------------------------------------------------------------


def _composed(text: str) -> yaml.Node | None:
    """The document's nodes, in which an alias is the node it stands for, and nothing is expanded."""
    if len(text) > SIZE_MAX:
        raise UnreadableConfigError(f"it is longer than {SIZE_MAX >> 20} MiB")
    try:
        _check_limits(text)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UnreadableConfigError):
            raise
        raise UnreadableConfigError("it is not YAML") from None
    return node


def _check_limits(text: str) -> None:
    depth = aliases = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            depth += 1
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > DEPTH_MAX or aliases > ALIASES_MAX or number > EVENTS_MAX:
            raise UnreadableConfigError("it is nested, aliased or long beyond what a configuration needs")


def _pairs(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """The pairs of a mapping, its own before those it merges in; every merged mapping is looked at once."""
    waiting, seen = [node], set[int]()
    found: dict[str, yaml.Node] = {}
    while waiting:
        mapping = waiting.pop(0)
        if isinstance(mapping, yaml.SequenceNode):
            waiting += mapping.value[:ALIASES_MAX] if id(mapping) not in seen and mapping is not node else []
            seen.add(id(mapping))
            continue
        if not isinstance(mapping, yaml.MappingNode) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        for key, value in mapping.value:
            if key.tag == _MERGE:
                waiting.append(value)
            elif isinstance(key, yaml.ScalarNode):
                found.setdefault(key.value, value)
    yield from found.items()


def _items(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _texts(node: yaml.Node | None) -> list[str]:
    """One text or a list of texts; a list may hold lists, which CircleCI flattens one level deep."""
    if isinstance(node, yaml.ScalarNode):
        return [_text(node)]
    return [text for item in _items(node) for text in ([_text(item)] if _text(item) else map(_text, _items(item)))]
