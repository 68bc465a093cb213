"""The first questions of every case: how serious it is, and which organizations are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.exposure import NOT_SAID_FROM, NOT_SAID_UNTIL, Window
from playbook.inventory import ask_organizations
from playbook.model import Choice, Question, Severity

if TYPE_CHECKING:
    from playbook.model import Ask
    from playbook.ports import Organization, View

SEVERITIES: Final = (
    Choice(value=Severity.CONFIRMED, title="confirmed - misuse was seen: contain first, builds break"),
    Choice(value=Severity.EXPOSED, title="exposed - a stranger could read them: replace with zero downtime"),
    Choice(value=Severity.ROUTINE, title="routine - nothing happened: replace with zero downtime"),
)


def ask_severity(ask: Ask) -> Severity:
    """How sure we are that strangers hold the secrets; it has no safe default."""
    question = Question(
        id="incident.severity",
        prompt="How serious is it?",
        kind=str,
        answer_key="incident.severity",
        choices=SEVERITIES,
        proposal=Severity.EXPOSED.value,
    )
    return Severity(ask(question))


def ask_reference(ask: Ask) -> str:
    """The ticket or channel of the incident, for the report; nobody has to have one."""
    question = Question(
        id="incident.reference",
        prompt="Which ticket or channel is this for?",
        kind=str,
        answer_key="incident.reference",
        default="none given",
        optional=True,
    )
    return ask(question)


def ask_scope(view: View, ask: Ask) -> tuple[Organization, ...]:
    """Severity first, then the reference and the organizations."""
    ask_severity(ask)
    ask_reference(ask)
    return ask_organizations(view, ask)


def ask_window(ask: Ask) -> Window | None:
    """When strangers could read the secrets; nobody is bothered, an answers file may say it."""
    start = Question(
        id="incident.exposed_from",
        prompt="From when could strangers read?",
        kind=str,
        answer_key="incident.exposed_from",
        default=NOT_SAID_FROM,
        optional=True,
    )
    end = Question(
        id="incident.exposed_until",
        prompt="Until when could strangers read?",
        kind=str,
        answer_key="incident.exposed_until",
        default=NOT_SAID_UNTIL,
        optional=True,
    )
    return Window.of(ask(start), ask(end))
