"""`docs/trust-policies.md` against the program: every cell of its tables is a decision, every code a code.

`UPDATE_DOCS=1` writes the tables and the example anew instead of comparing them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

from trust.worlds import ACCOUNT, API, BAD, GOOD, MADE, MORE, ORGANIZATION, TOKENS, WEB

from playbook.errors import GuardError
from playbook.iam_policy import parse
from playbook.trust import (
    LINTS,
    VIOLATIONS,
    Grant,
    Outcome,
    Pin,
    Severity,
    TrustedProject,
    evaluate,
    lint,
    make_trust,
    prove,
    split,
)

PAGE = Path(__file__).parents[2] / "docs" / "trust-policies.md"
MARK = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
SAID = {
    Outcome.ALLOWED: "in",
    Outcome.IMPLICITLY_DENIED: "out",
    Outcome.EXPLICITLY_DENIED: "out",
    Outcome.UNDECIDED: "?",
}


def knocking(name: str, grant: Grant):
    """The token of that name, from the grant's issuer and with its audience."""
    token = replace(TOKENS[name], issuer=grant.issuer)
    if grant.audiences:
        token = replace(token, audiences=("yet-another",) if name == "another audience" else grant.audiences)
    return token


def is_right(name: str, grant: Grant, outcome: Outcome) -> bool:
    """Whether the outcome is what the grant asks for; a fork that receives no secrets has no token to knock with."""
    (project, *_), wanted = grant.projects[-1:], outcome is Outcome.ALLOWED
    refused = outcome in {Outcome.IMPLICITLY_DENIED, Outcome.EXPLICITLY_DENIED}
    if name in {"another audience", "audit logs"}:
        return refused
    if name == "another project":
        return wanted if any(item.id == API for item in grant.projects) else refused
    if name.startswith("a fork"):
        return refused or not project.is_restricted
    if name == "first form":
        return refused if project.is_restricted else wanted
    if not project.refs:
        return wanted
    return wanted if name.rsplit(", ", maxsplit=1)[-1] in project.refs[0] else refused


def decisions(policy, grant: Grant) -> list[str]:
    try:
        parsed = parse(policy, trust=True)
    except GuardError:  # nobody gets in: IAM does not store it
        return ["refused"] * len(TOKENS)
    cells = []
    for name in TOKENS:
        outcome = evaluate(parsed, grant.provider, knocking(name, grant).keys(grant.partition)).outcome
        cells.append(SAID[outcome] if is_right(name, grant, outcome) else f"**{SAID[outcome]}**")
    return cells


def table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def codes(items) -> str:
    return ", ".join(sorted(f"`{item.code}`" for item in {item.code: item for item in items}.values())) or "none"


def made_table() -> str:
    return table(["what we make", *TOKENS], [[name, *decisions(MADE[name], grant)] for name, grant in GOOD.items()])


def bad_table() -> str:
    return table(["faulty policy", *TOKENS], [[bad.name, *decisions(bad.policy, bad.grant)] for bad in BAD])


def verdict_table() -> str:
    lines = []
    for bad in BAD:
        found = lint(bad.policy, bad.grant.issuer, partition=bad.grant.partition, account=ACCOUNT)
        lines.append([bad.name, codes(found), codes(prove(bad.policy, bad.grant))])
    return table(["faulty policy", "`lint` says", "`prove` finds"], lines)


def size_table() -> str:
    lines = []
    for pin in Pin:
        projects = tuple(TrustedProject(id=f"a5a5a5a5-0000-4000-8000-{number:012x}") for number in range(200))
        grant = replace(GOOD["by project id"], projects=projects, pin=pin)
        lines.append([f"`{pin}`", *(str(len(split(grant, limit)[0].projects)) for limit in (2048, 4096, 8192))])
    return table(["pinned by", "2,048", "4,096", "8,192"], lines)


def example() -> str:
    shown = json.dumps(make_trust(GOOD["a branch limit for one of two"]), indent=2)
    for id_, word in ((ORGANIZATION, "ORGANIZATION"), (WEB, "WEB"), (API, "API")):
        shown = shown.replace(id_, word)
    return f"```json\n{shown}\n```\n"


GENERATED = {"made": made_table, "bad": bad_table, "verdicts": verdict_table, "sizes": size_table, "example": example}


def test_the_tables_of_the_page_are_what_the_program_decides():
    text = PAGE.read_text(encoding="utf-8")
    assert {found["name"] for found in MARK.finditer(text)} == set(GENERATED)
    current = MARK.sub(lambda found: f"{found[1]}\n{GENERATED[found['name']]()}\n{found[4]}", text)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(current, encoding="utf-8")
        return
    assert text == current, "run it with UPDATE_DOCS=1 and look at the difference"


def test_no_policy_that_we_make_lets_in_or_keeps_out_a_wrong_one():
    assert "**" not in made_table()
    assert "?" not in made_table()
    bold = bad_table().count("**") // 2
    print(f"{len(GOOD)} policies of ours, {len(BAD)} bad ones with {bold} wrong answers, {len(TOKENS)} tokens each")
    assert bold > len(BAD)


def told(heading: str) -> dict[str, list[str]]:
    """The rows of a section's table by their first cell."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in section.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1 and row[0] not in {"code", "---", "severity"}}


def test_every_lint_is_explained_with_its_severity_and_every_severity_too():
    assert {code: cells[0] for code, cells in told("The lints").items() if code not in set(Severity)} == {
        code: severity.value for code, severity in LINTS.items()
    }
    assert set(Severity) <= set(told("The lints"))


def test_every_lint_is_shown_by_a_policy():
    shown = set().union(*(bad.lints for bad in BAD), *(expected for _, expected in MORE))
    assert shown == set(LINTS)


def test_every_violation_is_explained():
    assert set(told("The proof")) == set(VIOLATIONS)
