"""The documents against the program: what they name exists, what exists is named, and their examples work.

`UPDATE_DOCS=1` writes the current help texts into `docs/commands.md` instead of comparing them.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from playbook import errors, records
from playbook.cli import NAME, commands
from playbook.engine import Engine
from playbook.errors import ExitCode, PlaybookError
from playbook.journal import Journal
from playbook.model import Action, Confidence, Recourse
from playbook.operators import answers_file
from playbook.operators.script import Script
from playbook.ports import Waits
from playbook.records import Opened
from playbook.twins.faults import FAULTS
from playbook.twins.scenario import load, names
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld
from playbook.world import CaseWorld
from steps import PLAYBOOK, RETIREMENT, UNDO, contain_now

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
FENCE = re.compile(r"^```(?P<tag>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = Path(sys.executable).with_name(NAME)
HELP_LINES_MAX = 40
COLUMNS = 80
SLOW = ("boto3", "botocore", "httpx", "questionary", "prompt_toolkit", "structlog", "rich", "moto", "jinja2")
CPU_TIMES_MAX = 9.0


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", text)


def blocks(text: str, *tags: str) -> list[str]:
    return [found["body"] for found in FENCE.finditer(text) if found["tag"] in tags]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or a higher one."""
    level = heading.split(" ", 1)[0]
    found = re.search(
        rf"^{re.escape(heading)}$(?P<body>.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found, f"there is no heading {heading!r}"
    return found["body"]


def rows(text: str) -> dict[str, list[str]]:
    """Every table row of a text by its first cell, without its back-quotes."""
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in cells}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- Commands -------------------------------------------------------------------------------------------------------


def context_of(name: str) -> click.Context:
    # click keeps two columns free at the right, as it does on a terminal of 80.
    root = click.Context(commands, info_name=NAME, terminal_width=COLUMNS - 2, **commands.context_settings)
    return click.Context(commands.commands[name], info_name=name, parent=root) if name else root


def help_of(name: str) -> str:
    context = context_of(name)
    return context.command.get_help(context) + "\n"


def options_of(name: str) -> set[str]:
    return {
        text for parameter in context_of(name).command.params if isinstance(parameter, click.Option)
        for text in (*parameter.opts, *parameter.secondary_opts)
    }  # fmt: skip


COMMANDS = sorted(commands.commands)
WITH_TOP = ["", *COMMANDS]


def with_current_help(text: str) -> str:
    """The page with each block that shows a command's help as it is now."""

    def shown(found: re.Match[str]) -> str:
        name = found["name"] or ""
        return f"```console\n$ {NAME} {name + ' ' if name else ''}--help\n{help_of(name)}```"

    pattern = re.compile(rf"^```console\n\$ {NAME} (?:(?P<name>[\w-]+) )?--help\n.*?^```$", re.MULTILINE | re.DOTALL)
    return pattern.sub(shown, text)


def test_the_help_in_the_documents_is_current():
    text = page("commands.md")
    current = with_current_help(text)
    if os.environ.get("UPDATE_DOCS"):
        (DOCS / "commands.md").write_text(current, encoding="utf-8")
        return
    assert text == current, "run it with UPDATE_DOCS=1 and look at the difference"


@pytest.mark.parametrize("name", WITH_TOP)
def test_every_command_is_documented_with_its_help(name):
    text = page("commands.md")
    assert f"$ {NAME} {name + ' ' if name else ''}--help\n" in text
    if name:
        assert len(prose(section(text, f"## {name}")).strip()) > 40, f"{name} has nothing but its help"


def test_the_documents_describe_no_command_that_there_is_not():
    headings = set(re.findall(r"^## ([a-z][a-z-]*)$", page("commands.md"), re.MULTILINE))
    assert headings == set(COMMANDS)
    table = re.findall(r"^\| `([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(table) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_in_words(name):
    words = prose(page("commands.md"))
    unexplained = {option for option in options_of(name) - {"--help", "-h"} if f"`{option}`" not in words}
    missing = {option for option in unexplained if f"`{option} " not in words}
    assert not missing, f"{name}: {sorted(missing)}"


@pytest.mark.parametrize("name", WITH_TOP)
def test_a_help_fits_a_screen(name):
    lines = help_of(name).splitlines()
    assert len(lines) <= HELP_LINES_MAX
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("name", WITH_TOP)
def test_every_option_and_command_has_a_help_text(name):
    context = context_of(name)
    assert context.command.help
    for parameter in context.command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_no_option_takes_a_secret():
    for name in COMMANDS:
        for parameter in context_of(name).command.params:
            told = " ".join(parameter.opts)
            if re.search(r"token|secret|password|credential", told):
                takes_path = isinstance(parameter.type, click.Path)
                assert takes_path or (isinstance(parameter, click.Option) and parameter.is_flag), f"{name} {told}"


# --- What help costs ------------------------------------------------------------------------------------------------


def environment(cache: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPYCACHEPREFIX": str(cache), "COLUMNS": str(COLUMNS)}


@pytest.mark.parametrize("name", WITH_TOP)
def test_help_loads_nothing_slow_and_is_what_the_program_prints(name, tmp_path):
    arguments = [name, "--help"] if name else ["--help"]
    code = (
        "import json, sys\n"
        "from playbook.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        f"    print(json.dumps([end.code, [name for name in {SLOW!r} if name in sys.modules]]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    exit_code, loaded = json.loads(done.stderr)
    assert exit_code == 0
    assert loaded == []
    assert done.stdout == help_of(name)


def cpu_s(command: list[str], env: dict[str, str]) -> float:
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return used.ru_utime + used.ru_stime


def test_help_is_cheap(tmp_path):
    env = environment(tmp_path)
    empty, helped = [sys.executable, "-c", ""], [str(PROGRAM), "--help"]
    for command in (empty, helped):
        cpu_s(command, env)  # compiles what is not compiled yet
    ratios = []
    for _ in range(8):  # a busy machine distorts a round; a slow program is slow in all of them
        pairs = [(cpu_s(empty, env), cpu_s(helped, env)) for _ in range(7)]
        ratios.append(statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs))
        if ratios[-1] < CPU_TIMES_MAX:
            break
    print(f"--help costs {', '.join(f'{ratio:.1f}' for ratio in ratios)} times the CPU of an empty Python")
    assert ratios[-1] < CPU_TIMES_MAX


# --- Exit codes, errors, waits, faults, scenarios, switches ---------------------------------------------------------


def test_every_exit_code_is_documented_and_no_other():
    table = rows(section(page("exit-codes.md"), "# Exit codes").split("## ")[0])
    table.pop("code")
    assert {int(code): cells[0].strip("`") for code, cells in table.items()} == {
        code.value: code.name for code in ExitCode
    }


def test_every_error_is_documented_with_its_code():
    classes = [
        cls for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, PlaybookError) and cls.__module__ == errors.__name__
    ]  # fmt: skip
    table = rows(section(page("exit-codes.md"), "## From errors to codes"))
    told = {name: int(cells[0]) for name, cells in table.items() if name.endswith("Error")}
    assert told == {cls.__name__: int(cls.exit_code) for cls in classes}


def test_every_wait_is_documented_with_its_default():
    table = rows(page("waits.md"))
    told = {name: int(cells[0]) for name, cells in table.items() if name in Waits.__dataclass_fields__}
    assert told == {name: field.default for name, field in Waits.__dataclass_fields__.items()}
    assert len(table) == len(told) + 1, "the page names a wait that there is not"


def sources() -> str:
    return "\n".join(
        path.read_text() for package in ("steps", "playbook") for path in sorted((ROOT / package).rglob("*.py"))
    )


def test_the_documents_say_which_waits_nothing_uses():
    carrying = [ROOT / "playbook" / name for name in ("engine.py", "lanes.py")]
    code = "\n".join(path.read_text() for path in [*(ROOT / "steps").glob("*.py"), *carrying])
    for name, cells in rows(page("waits.md")).items():
        if name in Waits.__dataclass_fields__:
            used = bool(re.search(rf'waits\.{name}\b|wait="{name}"', code))
            assert used != ("limits.md" in cells[1]), f"{name} is {'used' if used else 'not used'} by the steps"


def test_every_fault_is_documented_in_its_own_words():
    table = rows(section(page("commands.md"), "## rehearse"))
    assert {name: table.get(name) for name in FAULTS} == {name: [told] for name, told in FAULTS.items()}


def test_every_scenario_is_documented():
    told = set(rows(section(page("commands.md"), "## rehearse").split("`--inject")[0])) - {"scenario"}
    assert told == set(names())


def test_every_switch_of_the_twins_is_documented_with_its_default():
    table = rows(section(page("testing.md"), "## The twins"))
    table.pop("switch")
    assert {name: cells[0] for name, cells in table.items()} == {
        name: str(field.default) for name, field in Switches.__dataclass_fields__.items()
    }


def test_every_record_type_is_in_the_journals_format():
    path = DOCS / "journal-format.md"
    if not path.exists():
        pytest.skip("docs/journal-format.md is not there yet")
    text = path.read_text()
    tags = {cls.__struct_config__.tag for cls in records.RECORD_TYPES}
    print(f"{len(tags)} record types")
    assert not {tag for tag in tags if f"### {tag}\n" not in text}


# --- The answers file -----------------------------------------------------------------------------------------------


def keys_of_the_answers_file() -> set[str]:
    found = set()
    for table in msgspec.structs.fields(answers_file.AnswersFile):
        kind = table.type
        inner = getattr(kind, "__args__", (kind,))[0]
        if table.name == "waits":
            found |= {f"waits.{name}" for name in Waits.__dataclass_fields__}
            continue
        for field in msgspec.structs.fields(inner):
            found.add(f"{table.name}.{field.name}")
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                found |= {f"{table.name}.{field.name}.{each.name}" for each in msgspec.structs.fields(field.type)}
    return found


def rows_of_the_answers_file() -> dict[str, list[str]]:
    return {
        name: cells
        for name, cells in rows(page("answers-file.md")).items()
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)
    }


def test_every_key_of_the_answers_file_is_documented_and_no_other():
    assert set(rows_of_the_answers_file()) == keys_of_the_answers_file()


def test_the_documents_say_which_keys_nothing_reads():
    asked = set(re.findall(r'answer_key=f?"([a-z_.]+)"', sources()))
    asked |= {"approve.digest", "keys.on_lost_secret", "keys.override"}
    asked |= {key for key in keys_of_the_answers_file() if ".match" in key}
    for key, cells in rows_of_the_answers_file().items():
        if not key.startswith("waits."):
            read = key in asked
            assert read != ("not read yet" in cells[0]), f"{key} is {'' if read else 'not '}read"


def test_the_defaults_of_the_waits_are_right_in_the_answers_file_too():
    told = {
        key.removeprefix("waits."): int(cells[0])
        for key, cells in rows_of_the_answers_file().items()
        if key.startswith("waits.")
    }
    assert told == {name: field.default for name, field in Waits.__dataclass_fields__.items()}


def test_every_choice_of_a_key_is_named():
    text = page("answers-file.md")
    for table in ("incident", "keys"):
        for field in msgspec.structs.fields(answers_file._TABLES[table]):
            values = [value for value in re.findall(r"'([a-z-]+)'", str(field.type)) if "Literal" in str(field.type)]
            missing = [value for value in values if value not in text]
            assert not missing, f"{table}.{field.name}: {missing}"


@pytest.mark.parametrize("name", ["answers-file.md", "tutorial.md"])
def test_every_example_of_an_answers_file_is_one(name):
    found = blocks(page(name), "toml")
    for text in found:
        answers_file.parse(text)
    print(f"{len(found)} examples in {name}")
    assert found or name != "answers-file.md"


# --- The inventory --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inventory():
    from playbook.collect import collect

    view = CaseWorld(TwinWorld(load("small").state).platforms(), Journal())
    return collect(view, view.circleci.organizations(), view.accounts)


def document_of(inventory):
    """The document without the users' tags, whose names are not ours to document."""
    from playbook.blast_radius import Checkout
    from playbook.config_jobs import config_use
    from playbook.exposure import Window
    from playbook.inventory_document import document

    use = config_use("jobs: {deploy: {}}\nworkflows: {main: {jobs: [{deploy: {context: aws-production}}]}}")
    checkout = Checkout(project="gh/acme/api", organization="gh/acme", file="api/.circleci/config.yml", use=use)
    window = Window.of("2026-10-21T00:00:00Z", "2026-11-01T23:59:59Z")
    told = document(inventory, window=window, checkouts=[checkout])
    return {**told, "users": [{**user, "tags": {}} for user in told["users"]]}


def fields_of(value, found):
    if isinstance(value, dict):
        found |= set(value)
        for inner in value.values():
            fields_of(inner, found)
    elif isinstance(value, list):
        for inner in value:
            fields_of(inner, found)
    return found


def test_every_field_of_the_inventory_is_documented_and_no_other(inventory):
    text = page("inventory.md")
    document = {**document_of(inventory), "holes": [{"what": "", "where": "", "why": ""}]}
    told = set(rows(section(text, "## The document"))) - {"field"}
    assert told == fields_of(document, set())
    for name, value in document.items():
        if isinstance(value, list):
            table = set(rows(section(text, f"### `{name}`")))
            assert fields_of(value, set()) <= table, name


def test_every_confidence_is_documented():
    assert set(rows(section(page("inventory.md"), "## How a key is found"))) - {"confidence"} == {
        level.value for level in Confidence
    }


def test_the_excerpt_of_the_inventory_is_real(inventory):
    (shown,) = blocks(page("inventory.md"), "json")
    assert json.loads(shown) in document_of(inventory)["secrets"]


# --- Steps, decisions, dependencies, modules ------------------------------------------------------------------------


BESIDE = (contain_now([]), RETIREMENT, UNDO)


@pytest.mark.parametrize("step", [*PLAYBOOK, *BESIDE], ids=lambda step: step.id)
def test_every_step_has_its_page_in_the_runbook(step):
    text = (DOCS / "runbook" / f"{step.id}.md").read_text()
    assert text.startswith(f"# {step.title}\n")
    for heading in ("What it does", "What it needs", "What it changes", "What can go wrong", "By hand", "Undo by hand"):
        assert section(text, f"## {heading}").strip(), heading
    permissions = {name for kind in step.kinds for name in kind.permissions}
    assert not {name for name in permissions if f"`{name}`" not in text}


def test_the_runbook_has_no_page_without_a_step_and_the_index_has_their_order():
    pages = {path.stem for path in (DOCS / "runbook").glob("*.md")}
    assert pages == {step.id for step in (*PLAYBOOK, *BESIDE)}
    listed = re.findall(r"\(runbook/(\w+)\.md\)", section(page("index.md"), "## The runbook"))
    assert listed == [step.id for step in (*PLAYBOOK, *BESIDE)]


def test_every_decision_is_in_the_index_with_its_title():
    for number, path in enumerate(sorted((DOCS / "adr").glob("*.md")), start=1):
        assert path.name.startswith(f"{number:04}-")
        assert f"(adr/{path.name})" in page("index.md")
        text = path.read_text()
        assert text.startswith(f"# {number:04} ")
        for heading in ("Context", "Decision", "Consequences"):
            assert section(text, f"## {heading}").strip()


def test_every_page_is_in_the_index():
    text = page("index.md")
    missing = [path.name for path in DOCS.glob("*.md") if path.name != "index.md" and f"({path.name})" not in text]
    assert not missing


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    wanted += [line for line in (ROOT / "dev-requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    text = page("dependencies.md")
    missing = sorted({name for item in wanted if (name := re.split(r"[\[<>=~ ]", item)[0]) and f"`{name}`" not in text})
    assert not missing
    run_time = set(rows(section(text, "## At run time"))) - {"library"}
    assert run_time == {re.split(r"[\[<>=~ ]", item)[0] for item in project["dependencies"]}


def test_every_module_is_in_the_architecture():
    text = page("architecture.md")
    packages = sorted(path.parent for path in (ROOT / "playbook").glob("*/__init__.py"))
    modules = [path for path in (ROOT / "playbook").glob("*.py") if not path.name.startswith("__")]
    missing = [f"playbook/{path.name}" for path in modules if f"| `playbook/{path.name}` |" not in text]
    missing += [f"playbook/{path.name}/" for path in packages if f"| `playbook/{path.name}/` |" not in text]
    assert not missing


# --- Links, names of files and tests, words -------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_every_link_leads_somewhere(path):
    text = prose(path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), target


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_every_file_and_test_that_is_named_exists(path):
    for name in re.findall(r"`((?:playbook|steps|tests|docs)/[\w./<>-]*)(?:::\w+)?`", path.read_text()):
        if "<" not in name:
            assert (ROOT / name).exists(), name
    for name, test in re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", path.read_text()):
        assert f"def {test}(" in (ROOT / name).read_text(), f"{name}::{test}"


FORBIDDEN = {
    "unfinished": re.compile(r"\b(TODO|FIXME|XXX|TBD)\b"),
    "a path of one machine": re.compile(r"(?<![\w.~:])/(?:home|root|tmp|work|mnt|Users|workspace)/"),
    "a registry": re.compile(r"pypi\.org|pythonhosted|index-url|simple/|artifactory|nexus", re.IGNORECASE),
    "advertising": re.compile(
        r"\b(blazing|seamless\w*|effortless\w*|world-class|cutting-edge|best-in-class|revolutionary|simply)\b",
        re.IGNORECASE,
    ),
}
HOSTS = {"circleci.com", "oidc.circleci.com", "keepachangelog.com", "127.0.0.1", "status.circleci.com"}


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_no_word_that_has_no_place_here(path):
    text = path.read_text(encoding="utf-8")
    for what, pattern in FORBIDDEN.items():
        found = pattern.search(text)
        assert not found, f"{what}: {found.group()}"
    assert {re.split(r"[:/]", rest)[0].rstrip(".") for rest in re.findall(r"https?://([^\s)`\"']+)", text)} <= HOSTS
    assert "\t" not in text
    assert text.endswith("\n")
    assert not re.search(r"[ \t]+$", text, re.MULTILINE)


# --- Examples of commands -------------------------------------------------------------------------------------------


def command_lines(text: str) -> list[str]:
    """Every use of the program in a block of shell, and every one in back-quotes that names an option."""
    shell = [
        line.strip().removeprefix("$ ")
        for block in blocks(text, "sh", "console")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [line for line in shell if line.startswith(NAME)]
    quoted = re.findall(r"`([^`\n]+)`", prose(text))
    found += [item for item in quoted if item.startswith(f"{NAME} ")]
    found += [f"{NAME} {item}" for item in quoted if item.split(" ")[0] in COMMANDS and " --" in item]
    return found


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_every_command_line_could_be_typed(path):
    count = 0
    for line in command_lines(path.read_text()):
        if re.fullmatch(rf"{NAME} [a-z]+( \[?[A-Z_]+\]?)*", line):
            words = line.split()[1:2]
        else:
            plain = re.sub(r"\s(#|>|\|).*", "", line)
            words = [word for word in shlex.split(plain)[1:] if not re.fullmatch(r"\.\.\.|\[[A-Z]+\]", word)]
        if words and words[0] in {"--help", "--version"}:
            continue
        assert words, line
        assert words[0] in COMMANDS, line
        parser = context_of(words[0]).command.make_parser(context_of(words[0]))
        try:
            parser.parse_args(words[1:])
        except click.UsageError as error:
            # A page may name an option without a value, and so without what would follow.
            if not re.search(r"requires an argument", error.format_message()):
                pytest.fail(f"{line}: {error.format_message()}")
        count += 1
    print(f"{count} command lines in {path.name}")


def test_the_tutorial_and_the_readme_show_commands():
    for path in (ROOT / "README.md", DOCS / "tutorial.md"):
        assert len(command_lines(path.read_text())) >= 5


# --- The example of a step ------------------------------------------------------------------------------------------


class Agreeing(Script):
    """Plays the scenario's answers, agrees to every plan, and gives up one variable."""

    def answer(self, question):
        if question.answer_key == "variables.remove":
            return question.subject == {"name": "NPM_TOKEN", "context": "shared-services"}
        return super().answer(question)

    def recourse(self, trouble):
        return Recourse.ABORT


@pytest.fixture
def example(tmp_path):
    """The example's module; its action's kind is forgotten afterwards."""
    (code,) = blocks(page("adding-a-step.md"), "python")
    path = tmp_path / "remove_variables.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("example_of_a_step", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = dict(Action.registry)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]
        Action.registry.clear()
        Action.registry.update(before)


def test_the_example_of_a_step_works_and_does_nothing_twice(example):
    scenario = load("small")
    world = TwinWorld(scenario.state)
    journal = Journal(now=world.clock.now)
    journal.append(Opened(case="example", tool="test", mode="rehearsal", host="test"))
    steps = [step for step in PLAYBOOK if step.id in {"check_access", "inventory_secrets"}]
    operator = Agreeing(scenario.answers, yes=True)
    context = next(sink for sink in world.platforms().circleci.contexts(world.platforms().circleci.organizations()[0])
                   if sink.name == "shared-services")  # fmt: skip
    assert world.platforms().circleci.variables(context).find("NPM_TOKEN") is not None

    outcome = Engine(journal, world.platforms(), operator).run([*steps, example.RemoveVariables()])

    assert outcome.exit_code is ExitCode.DONE
    assert world.platforms().circleci.variables(context).find("NPM_TOKEN") is None
    applied = [key for key, progress in journal.state.progress.items() if progress.attempts]
    assert applied == [f"circleci:remove-variable:context/{context.id}/NPM_TOKEN"]
    seq = journal.seq
    Engine(journal, world.platforms(), operator).run([*steps, example.RemoveVariables()])
    assert [len(progress.attempts) for progress in journal.state.progress.values() if progress.attempts] == [1]
    assert journal.seq <= seq + 1
