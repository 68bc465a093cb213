"""Real configurations, where the machine has them beside the project: what becomes of each, and what must hold."""

from __future__ import annotations

import difflib
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from playbook.circleci_config.document import ConfigError, parse
from playbook.circleci_config.rewrite import Options, Verdict, migrate
from playbook.circleci_config.understand import understand

SHARED = Path(__file__).parents[3] / "shared" / "data"
CONFIGS = SHARED / "configs"
SCHEMA = SHARED / "circleci-config.schema.json"
ROLE = "arn:aws:iam::111122223333:role/ci"
OPTIONS = Options(role_arn=ROLE, context="aws-oidc", region="eu-west-1")
MIGRATED_MIN = 0.85
"""Of the files in which a job that a workflow reaches needs a stored key."""

_CHANGES = re.compile(
    r"aws|key|secret|token|version|context|<<|mkdir|ecr|orb|region|account|profile|role|branches|only|- ", re.IGNORECASE
)
"""What a line says that may change; any other line may only be written anew around its words."""

pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason="the real configurations are not beside the project")


def files():
    if not CONFIGS.is_dir():
        return []
    found = [path for path in sorted(CONFIGS.rglob("*.y*ml")) if not path.name.endswith(".after.yml")]
    return [path for path in found if path.parent.name != "__pycache__"]


@pytest.fixture(scope="module")
def migrations():
    results, unreadable = {}, Counter()
    for path in files():
        try:
            document = parse(path.read_bytes())
        except ConfigError as error:
            unreadable[re.sub(r"\(.*", "", error.reason).strip()] += 1
            continue
        results[path] = migrate(document, OPTIONS)
    return results, unreadable


def test_what_becomes_of_every_file(migrations, capsys):
    results, unreadable = migrations
    verdicts = Counter(str(migration.verdict) for migration in results.values())
    reasons = Counter(
        re.sub(r"^[^:]*: |\(.*\)|[\w.-]+(?= uses more)|^\S+(?= shares)", "", migration.reasons[0].text)
        for migration in results.values()
        if migration.verdict is not Verdict.MIGRATED
    )
    needing = [path for path, migration in results.items() if migration.reading.static_runs]
    done = [path for path in needing if results[path].verdict is Verdict.MIGRATED]
    with capsys.disabled():
        lost = sum(unreadable.values())
        print(f"\n{len(results) + lost} files: {dict(verdicts)}, {lost} unreadable")
        print(f"{len(done)} of {len(needing)} that need a stored key are migrated ({len(done) / len(needing):.1%})")
        for reason, count in (reasons + unreadable).most_common():
            print(f"  {count:4d}  {reason}")
    assert len(done) / len(needing) >= MIGRATED_MIN


def test_every_other_line_is_the_same_to_the_byte(migrations):
    """Lines that are in the result are the file's own or new ones; nothing is moved or written another way."""
    kept = changed = 0
    for path, migration in migrations[0].items():
        if migration.verdict is not Verdict.MIGRATED:
            assert migration.after == path.read_bytes().decode(), path.name
            continue
        before, after = migration.before.splitlines(keepends=True), migration.after.splitlines(keepends=True)
        assert migration.before == path.read_bytes().decode(), path.name
        for tag, start, end, from_, to in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            kept += (end - start) * (tag == "equal")
            changed += (end - start) * (tag != "equal")
            new = "".join(after[from_:to]) if tag != "equal" else ""
            for line in before[start:end] if tag != "equal" else ():
                words = re.sub(r"[\W_]", "", line)
                assert _CHANGES.search(line) or words in re.sub(r"[\W_]", "", new), (path.name, line)
    print(f"{kept} lines kept, {changed} changed")
    assert kept > 20 * changed


def test_the_second_run_changes_nothing(migrations):
    count = 0
    for path, migration in migrations[0].items():
        if migration.verdict is Verdict.MIGRATED:
            again = migrate(parse(migration.after), OPTIONS)
            assert (again.verdict, again.after) == (Verdict.NOTHING, migration.after), (path.name, again.reasons)
            count += 1
    print(f"{count} results run again")
    assert count


def texts(data):
    if isinstance(data, dict):
        for value in data.values():
            yield from texts(value)
    elif isinstance(data, list):
        for item in data:
            yield from texts(item)
    elif isinstance(data, str):
        yield data


def is_script(text):
    script = re.sub(r"<<\s*[\w.-]+\s*>>", "PARAMETER", text).replace("\\<<", "<<")
    return subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to ask")
def test_every_changed_script_is_one_still(migrations):
    changed = {}
    for path, migration in migrations[0].items():
        if migration.verdict is Verdict.MIGRATED:
            before = {text.replace("<<", "\\<<") for text in texts(parse(migration.before).data)}
            for text in texts(parse(migration.after).data):
                if "\n" in text and text not in before and text.replace("<<", "\\<<") not in before:
                    changed.setdefault(text, path.name)
    assert changed
    for text, name in changed.items():
        assert is_script(text), (name, text)
    print(f"{len(changed)} changed or new scripts are bash's grammar")


def test_no_job_needs_a_stored_key_afterwards_and_no_other_is_touched(migrations):
    for path, migration in migrations[0].items():
        if migration.verdict is not Verdict.MIGRATED:
            continue
        after = understand(parse(migration.after).data)
        assert not after.static_runs, path.name
        before = {(run.workflow, run.name): run for run in migration.reading.runs}
        assert [run.name.replace("-", "_") for run in after.runs] == [
            run.name.replace("-", "_") for run in migration.reading.runs
        ], path.name
        for run in after.runs:
            old = before.get((run.workflow, run.name))
            if old is not None and not old.static:
                assert run.contexts == old.contexts, (path.name, run.name)


@pytest.mark.skipif(not SCHEMA.is_file(), reason="the schema is not beside the project")
def test_the_results_validate_at_least_as_well_as_the_files(migrations):
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))

    def problems(text):
        return {(tuple(error.schema_path), error.validator) for error in validator.iter_errors(parse(text).data)}

    checked = 0
    picked = [migration for migration in migrations[0].values() if migration.verdict is Verdict.MIGRATED]
    for migration in random.Random(4).sample(picked, min(40, len(picked))):
        before = problems(migration.before)
        new = {problem for problem in problems(migration.after) - before if "version" not in problem[0]}
        # A file of version 2 is compared as what it becomes.
        if migration.before != migration.after and not re.search(
            r"^version: ['\"]?2\.1", migration.before, re.MULTILINE
        ):
            before = problems(re.sub(r"^version: .*$", "version: 2.1", migration.before, count=1, flags=re.MULTILINE))
            new = problems(migration.after) - before
        assert not new, new
        checked += 1
    print(f"{checked} results validated against the schema, seed 4")
