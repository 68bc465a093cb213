"""The rules of the design that no type checker sees, checked on the syntax trees of what exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION_LINES_MAX = 70


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name (`playbook.twins.iam`) and its tree."""

    name: str
    tree: ast.Module

    @property
    def layer(self) -> str:
        """What the layer table calls it: the module, or the package it is part of."""
        parts = self.name.split(".")
        return parts[0] if parts[0] == "steps" or len(parts) == 1 else parts[1]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = [
    Module(name_of(path), ast.parse(path.read_text(), str(path)))
    for package in ("playbook", "steps")
    for path in sorted((ROOT / package).rglob("*.py"))
]
Rule = Callable[[Module], Iterator[str]]


# --- Layers ---------------------------------------------------------------------------------------------------------

BASE = {"secret", "errors", "ports", "decoding"}
JOURNAL = {*BASE, "model", "records", "journal"}
ENGINE = {*JOURNAL, "world", "lanes", "engine"}
LAYERS: dict[str, set[str]] = {
    "playbook": set(),
    "secret": set(),
    "errors": set(),
    "ports": {"secret", "errors"},
    "decoding": set(),
    "model": BASE,
    "records": {*BASE, "model"},
    "journal": {*BASE, "model", "records"},
    "world": JOURNAL,
    "lanes": {*JOURNAL, "world"},
    "engine": {*JOURNAL, "world", "lanes"},
    "correlate": BASE,
    "canary": BASE,
    "usage": BASE,
    "persistence": BASE,
    "iam_policy": {"errors"},
    "trust": {*BASE, "iam_policy"},
    "role_permissions": {*BASE, "iam_policy"},
    "infrastructure_code": {*BASE, "iam_policy"},
    "circleci_config": BASE,
    "inventory": {*BASE, "model", "correlate", "config_jobs"},
    "managed": {*BASE, "model"},
    # What an inventory is made by, and what is told of one.
    "credential_report": BASE,
    "reading": BASE,
    "config_jobs": set(),
    "collect": {*BASE, "correlate", "inventory", "config_jobs", "credential_report", "reading"},
    "exposure": {*BASE, "correlate", "inventory"},
    "blast_radius": {*BASE, "correlate", "inventory", "config_jobs"},
    "rotation": BASE,
    "inventory_document": {*BASE, "correlate", "inventory", "exposure", "blast_radius", "rotation"},
    "survey": {*BASE, "exposure", "blast_radius", "config_jobs"},
    "scope": {*BASE, "model", "exposure", "inventory"},
    # The rewrite of configurations on disk, and its command.
    "config_schema": set(),
    "config_branch": {"errors"},
    "config_cli": {"errors"},
    "config_diff": set(),
    "migrate_config": {*BASE, "circleci_config", "config_schema", "config_branch", "config_diff"},
    "cli_migrate_config": {*BASE, "circleci_config", "config_cli", "migrate_config", "screen"},
    "clients": BASE,
    "twins": {*BASE, "credential_report", "canary", "trust"},
    "log": BASE,
    "operators": {*BASE, "model"},
    "summary": {*JOURNAL, "exposure"},
    "report": {*JOURNAL, "summary"},
    "modes": {*ENGINE, "inventory", "scope", "clients", "twins", "operators", "log"},
    # The commands' own helpers, between the modes and the command line.
    "trust_check": {*BASE, "iam_policy", "trust"},
    "doctor": {*ENGINE, "inventory", "modes"},
    "sandbox": {*BASE, "correlate", "twins"},
    "screen": {*ENGINE, "collect", "modes", "summary"},
    "steps": {
        *BASE,
        "model",
        "correlate",
        "collect",
        "exposure",
        "inventory",
        "inventory_document",
        "managed",
        "scope",
        "iam_policy",
        "trust",
        "canary",
        "blast_radius",
        "usage",
        "persistence",
        "role_permissions",
        "infrastructure_code",
        "circleci_config",
    },
    "__main__": {"cli"},
}
MORE_FOR_ONE: dict[str, set[str]] = {"playbook.operators.transcript": {"journal", "records"}}
OUTSIDE_STEPS = {"os", "pathlib", "socket", "subprocess", "urllib", "http", "time", "threading"}


def imports(module: Module) -> Iterator[str]:
    """Every imported module by its full name, those for the type checker included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.name} imports relatively"
            source = str(node.module)
            if source == "playbook":
                # `from playbook import log` names a module, `from playbook import __version__` does not.
                yield from (f"playbook.{alias.name}" for alias in node.names if not alias.name.startswith("__"))
            else:
                yield source


def only_lower_layers_are_imported(module: Module) -> Iterator[str]:
    if module.layer == "cli":
        return
    allowed = LAYERS.get(module.layer)
    if allowed is None:
        yield f"{module.name} is in no layer: say in LAYERS what it may import"
        return
    allowed = allowed | {module.layer} | MORE_FOR_ONE.get(module.name, set())
    for name in imports(module):
        package, _, rest = name.partition(".")
        layer = "steps" if package == "steps" else rest.split(".")[0]
        if package in {"playbook", "steps"} and layer and layer not in allowed:
            yield f"{module.name} imports {name}"


def only_the_command_line_imports_steps(module: Module) -> Iterator[str]:
    if module.layer in {"cli", "steps"}:
        return
    yield from (f"{module.name} imports {name}" for name in imports(module) if name.split(".")[0] == "steps")


def steps_reach_nothing_outside(module: Module) -> Iterator[str]:
    if module.layer == "steps":
        yield from (f"{module.name} imports {name}" for name in imports(module) if name.split(".")[0] in OUTSIDE_STEPS)


LIBRARIES: dict[str, set[str]] = {
    "boto3": {"clients"},
    "botocore": {"clients", "twins"},
    "mypy_boto3_cloudtrail": {"clients"},
    "mypy_boto3_iam": {"clients"},
    "httpx": {"clients"},
    "stamina": {"clients"},
    "questionary": {"operators"},
    "prompt_toolkit": {"operators"},
    "structlog": {"log"},
    "jinja2": {"report"},
    "click": {"cli", "cli_migrate_config", "sandbox"},
    "rich": {"screen", "operators"},
    "moto": {"twins"},
    "werkzeug": {"twins"},
    "flask_cors": {"twins"},
    "jsonschema": {"config_schema"},
    "regress": {"config_schema"},
    "yaml": {"config_jobs", "circleci_config", "canary", "twins"},
}


def a_library_stays_where_it_belongs(module: Module) -> Iterator[str]:
    for name in imports(module):
        library = name.split(".")[0]
        if library in LIBRARIES and module.layer not in LIBRARIES[library]:
            yield f"{module.name} imports {name}"


# --- Words and sizes ------------------------------------------------------------------------------------------------


def modes_are_known_to_two_files(module: Module) -> Iterator[str]:
    if module.layer in {"modes", "cli"}:
        return
    for node in ast.walk(module.tree):
        name = (
            node.id
            if isinstance(node, ast.Name)
            else node.attr
            if isinstance(node, ast.Attribute)
            else node.arg
            if isinstance(node, ast.arg | ast.keyword)
            else node.name
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            else None
        )
        if name is not None and "dry_run" in name.lower():
            yield f"{module.name}:{node.lineno} says {name}"


def msgspec_meets_a_type_in_one_thread(module: Module) -> Iterator[str]:
    """Two threads that first meet a type together end the process: `playbook.decoding` says how it is kept apart."""
    if module.layer == "decoding":
        return
    inside = {
        id(node)
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("msgspec."):
            continue
        call = ast.unparse(node.func).removeprefix("msgspec.")
        types = [*node.args[1:], *(word.value for word in node.keywords if word.arg == "type")]
        is_met = all(isinstance(item, ast.Call) and ast.unparse(item.func) == "met" for item in types)
        if call in {"convert", "json.decode", "toml.decode", "yaml.decode", "msgpack.decode"} and not is_met:
            yield f"{module.name}:{node.lineno} decodes into a type that it has not `met`"
        if call.endswith("Decoder") and id(node) in inside:
            yield f"{module.name}:{node.lineno} builds a decoder that is not `decoding.decoder`'s"


REVEALING = {
    "secret",
    "clients",  # what must be sent
    "twins",  # what a twin was told
    "log",  # what must not be written
    "modes",
    "sandbox",  # its secrets are made up, and are printed for whoever tries it
}


def values_leave_in_few_places(module: Module) -> Iterator[str]:
    if module.layer in REVEALING:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"reveal", "_Secret__value"}:
            yield f"{module.name}:{node.lineno} reveals a secret"
        if isinstance(node, ast.Constant) and node.value in {"reveal", "_Secret__value"}:
            yield f"{module.name}:{node.lineno} names what reveals a secret"


def functions_are_short(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{module.name}.{node.name} has {lines} lines"


def no_module_is_a_drawer(module: Module) -> Iterator[str]:
    last = module.name.split(".")[-1].strip("_")
    if last in {"util", "utils", "helper", "helpers", "common", "misc", "tools", "shared"}:
        yield f"{module.name} says nothing about what is in it"


CLOCKS = {"journal", "modes", "log", "clients", "twins"}


def only_a_clock_reads_the_time(module: Module) -> Iterator[str]:
    """Invariant I14: everything else takes the view's clock, or the platform's own time."""
    if module.layer in CLOCKS | {"cli", "screen", "report", "sandbox"}:
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"now", "utcnow", "today", "fromtimestamp"}
            and isinstance(node.value, ast.Name)
            and node.value.id in {"datetime", "date"}
        ):
            yield f"{module.name}:{node.lineno} reads the machine's clock"
    yield from (f"{module.name} imports time" for name in imports(module) if name == "time")


# --- Exceptions -----------------------------------------------------------------------------------------------------


def every_except_has_a_type(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            yield f"{module.name}:{node.lineno} catches everything"
        elif "BaseException" in ast.unparse(node.type) and not (
            isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        ):
            yield f"{module.name}:{node.lineno} catches BaseException and does not raise it again"


TELLING = {"str", "repr", "ascii", "format", "print", "vars"}
TELLING_ATTRIBUTES = {"args", "__str__", "__repr__", "__dict__", "__context__", "__cause__", "__traceback__"}


def told(scope: ast.AST, name: str) -> Iterator[ast.expr | ast.stmt]:
    """Where an exception's own text, or the exception itself, goes on: `{error}`, `str(error)`, `from error`, ..."""

    def is_it(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    for node in ast.walk(scope):
        match node:
            case ast.FormattedValue(value=value) if is_it(value):
                yield node
            case ast.Call(func=ast.Name(id=called), args=args) if called in TELLING and any(map(is_it, args)):
                yield node
            case ast.Call(func=ast.Attribute(attr="format" | "join"), args=args) if any(map(is_it, args)):
                yield node
            case ast.BinOp(op=ast.Mod(), right=right) if any(is_it(part) for part in ast.walk(right)):
                yield node
            case ast.Attribute(value=value, attr=attr) if is_it(value) and attr in TELLING_ATTRIBUTES:
                yield node
            case ast.Raise(cause=cause) if is_it(cause):
                yield node


def no_sdk_exception_is_told(module: Module) -> Iterator[str]:
    """A reply of CreateAccessKey cut short is in its exception's message, secret included (invariants 0, point 2)."""
    if module.layer != "clients":
        return
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.ExceptHandler) and node.name is not None:
            names = [node.name]
        elif isinstance(node, ast.FunctionDef):
            names = [
                argument.arg
                for argument in (*node.args.args, *node.args.kwonlyargs)
                if argument.annotation is not None
                and re.search(r"(Error|Exception)$", ast.unparse(argument.annotation))
            ]
        for name in names:
            yield from (f"{module.name}:{place.lineno} tells what {name} says" for place in told(node, name))
        if isinstance(node, ast.ExceptHandler):
            for inner in ast.walk(node):
                forgotten = isinstance(inner, ast.Raise) and inner.exc is not None and inner.cause is None
                if forgotten and not (isinstance(inner.exc, ast.Name) and inner.exc.id == node.name):
                    yield f"{module.name}:{inner.lineno} raises in an except without `from None`"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"format_exc", "print_exc", "exc_info", "exception"}:
            yield f"{module.name}:{node.lineno} writes a traceback"
        if isinstance(node, ast.keyword) and node.arg == "exc_info":
            yield f"{module.name}:{node.value.lineno} writes a traceback"


RULES: tuple[Rule, ...] = (
    only_lower_layers_are_imported,
    only_the_command_line_imports_steps,
    steps_reach_nothing_outside,
    a_library_stays_where_it_belongs,
    modes_are_known_to_two_files,
    values_leave_in_few_places,
    functions_are_short,
    no_module_is_a_drawer,
    only_a_clock_reads_the_time,
    every_except_has_a_type,
    no_sdk_exception_is_told,
    msgspec_meets_a_type_in_one_thread,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_whole_program_keeps_the_rule(rule: Rule) -> None:
    found = [finding for module in MODULES for finding in rule(module)]
    assert not found, "\n".join(found)


def test_what_exists_was_looked_at() -> None:
    names = {module.name for module in MODULES}
    layers = {module.layer for module in MODULES}
    print(f"{len(names)} modules in {len(layers)} layers; not there yet: {sorted(set(LAYERS) - layers)}")
    assert {"playbook.journal", "playbook.engine", "steps.replace_access_keys"} <= names
    assert {"clients", "twins", "steps"} <= layers


# --- The rules themselves -------------------------------------------------------------------------------------------

LONG = "def f():\n" + "    x = 1\n" * 70
BROKEN: list[tuple[Rule, str, str]] = [
    (only_lower_layers_are_imported, "playbook.ports", "from playbook.model import Plan"),
    (only_lower_layers_are_imported, "playbook.journal", "import playbook.engine"),
    (only_lower_layers_are_imported, "playbook.model", "def f():\n    from playbook import journal"),
    (only_lower_layers_are_imported, "playbook.correlate", "if TYPE_CHECKING:\n    from playbook.model import Plan"),
    (only_lower_layers_are_imported, "playbook.clients.aws", "from playbook.journal import Journal"),
    (only_lower_layers_are_imported, "playbook.operators.wizard", "from playbook.journal import Journal"),
    (only_lower_layers_are_imported, "steps.check_access", "from playbook.engine import Engine"),
    (only_lower_layers_are_imported, "playbook.engine", "from playbook.cli import main"),
    (only_lower_layers_are_imported, "playbook.newcomer", ""),
    (only_the_command_line_imports_steps, "playbook.modes", "from steps import PLAYBOOK"),
    (only_the_command_line_imports_steps, "playbook.engine", "import steps.decisions"),
    (steps_reach_nothing_outside, "steps.check_access", "import os.path"),
    (steps_reach_nothing_outside, "steps.check_access", "from urllib.parse import quote"),
    (steps_reach_nothing_outside, "steps.check_access", "def f():\n    import threading"),
    (a_library_stays_where_it_belongs, "playbook.engine", "import boto3"),
    (a_library_stays_where_it_belongs, "playbook.twins.world", "from httpx import Client"),
    (modes_are_known_to_two_files, "playbook.engine", "if self.dry_run:\n    pass"),
    (modes_are_known_to_two_files, "playbook.world", "def apply(*, dry_run):\n    pass"),
    (modes_are_known_to_two_files, "steps.decisions", "f(is_dry_run=True)"),
    (modes_are_known_to_two_files, "steps.decisions", "x = Mode.DRY_RUN"),
    (values_leave_in_few_places, "playbook.engine", "print(secret.reveal())"),
    (values_leave_in_few_places, "steps.replace_access_keys", "f = secret.reveal"),
    (values_leave_in_few_places, "playbook.journal", "getattr(secret, 'reveal')()"),
    (values_leave_in_few_places, "playbook.journal", "secret._Secret__value"),
    (functions_are_short, "playbook.engine", LONG),
    (no_module_is_a_drawer, "playbook.utils", ""),
    (no_module_is_a_drawer, "steps._helpers", ""),
    (only_a_clock_reads_the_time, "playbook.engine", "x = datetime.now(UTC)"),
    (only_a_clock_reads_the_time, "steps.iam_keys", "x = date.today()"),
    (only_a_clock_reads_the_time, "playbook.engine", "import time"),
    (every_except_has_a_type, "playbook.engine", "try:\n    f()\nexcept:\n    pass"),
    (every_except_has_a_type, "playbook.engine", "try:\n    f()\nexcept BaseException:\n    pass"),
    (every_except_has_a_type, "playbook.engine", "try:\n    f()\nexcept (OSError, BaseException):\n    raise X"),
    *(
        (no_sdk_exception_is_told, "playbook.clients.aws", f"try:\n    f()\nexcept SdkError as error:\n    {bad}")
        for bad in (
            "x = str(error)",
            "x = repr(error)",
            "raise Ours(f'failed: {error}') from None",
            "raise Ours(f'failed: {error!r}') from None",
            "x = '%s' % error",
            "x = '%s %s' % (a, error)",
            "x = '{}'.format(error)",
            "x = error.args[0]",
            "raise Ours('failed') from error",
            "raise Ours('failed')",
            "logger.exception('failed')",
            "logger.error('failed', exc_info=True)",
            "x = traceback.format_exc()",
        )
    ),
    (no_sdk_exception_is_told, "playbook.clients.aws", "def f(error: sdk.ClientError):\n    return str(error)"),
    (no_sdk_exception_is_told, "playbook.clients.aws", "def f(*, error: Exception):\n    return f'{error}'"),
    (msgspec_meets_a_type_in_one_thread, "playbook.inventory", "x = msgspec.convert(value, User)"),
    (msgspec_meets_a_type_in_one_thread, "playbook.twins.state", "x = msgspec.json.decode(text, type=State)"),
    (msgspec_meets_a_type_in_one_thread, "playbook.journal", "def f(t):\n    return msgspec.json.Decoder(t)"),
]
KEPT: list[tuple[Rule, str, str]] = [
    (only_lower_layers_are_imported, "playbook.engine", "from playbook.journal import Journal\nimport os"),
    (only_lower_layers_are_imported, "playbook.operators.transcript", "from playbook.journal import Journal"),
    (only_lower_layers_are_imported, "playbook.cli", "from steps import PLAYBOOK\nfrom playbook import log"),
    (only_lower_layers_are_imported, "playbook.modes", "from playbook import __version__"),
    (only_the_command_line_imports_steps, "playbook.cli", "from steps import PLAYBOOK"),
    (steps_reach_nothing_outside, "steps.check_access", "from datetime import datetime\nimport json"),
    (modes_are_known_to_two_files, "playbook.modes", "dry_run = True"),
    (modes_are_known_to_two_files, "playbook.engine", '"""Nothing here knows of dry_run."""'),
    (values_leave_in_few_places, "playbook.clients.aws", "x = secret.reveal()"),
    (functions_are_short, "playbook.engine", LONG.removesuffix("    x = 1\n")),
    (only_a_clock_reads_the_time, "steps.iam_keys", "x = view.clock.now()"),
    (every_except_has_a_type, "playbook.engine", "try:\n    f()\nexcept BaseException:\n    close()\n    raise"),
    (
        no_sdk_exception_is_told,
        "playbook.clients.aws",
        "try:\n    f()\nexcept SdkError as error:\n    raise Ours(error.code, type(error)) from None",
    ),
    (no_sdk_exception_is_told, "playbook.clients.aws", "try:\n    f()\nexcept SdkError as error:\n    raise"),
    (no_sdk_exception_is_told, "playbook.engine", "try:\n    f()\nexcept SdkError as error:\n    x = str(error)"),
    (msgspec_meets_a_type_in_one_thread, "playbook.inventory", "x = msgspec.convert(value, met(User))"),
    (msgspec_meets_a_type_in_one_thread, "playbook.twins.state", "x = msgspec.json.decode(text)"),
    (msgspec_meets_a_type_in_one_thread, "playbook.journal", "_decoder = msgspec.json.Decoder(Record)"),
]


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_rule_sees_what_breaks_it(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module(name, ast.parse(source))))


@pytest.mark.parametrize(("rule", "name", "source"), KEPT)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, name: str, source: str) -> None:
    assert not list(rule(Module(name, ast.parse(source))))


def test_the_layers_have_no_ring() -> None:
    done: set[str] = set()
    waiting = dict(LAYERS)
    del waiting["__main__"]
    while waiting:
        ready = [layer for layer, below in waiting.items() if below <= done]
        assert ready, f"these import each other: {sorted(waiting)}"
        done |= set(ready)
        waiting = {layer: below for layer, below in waiting.items() if layer not in done}
