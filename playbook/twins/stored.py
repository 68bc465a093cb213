"""What the twin of CircleCI stores besides variables, as an inventory's rows, read as the real client reads it.

The order of the calls and what stands in for what are the client's (`clients/circleci_secrets`), so that a refusal or
a fault leaves the same holes in a rehearsal.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from playbook.errors import CircleCiError
from playbook.ports import Hole, ProjectSecrets, SecretKind, StoredSecrets, Variables
from playbook.twins import rows
from playbook.twins.pipeline import project_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from playbook.ports import Organization, Project, StoredSecret
    from playbook.twins import state as states
    from playbook.twins.circleci import CircleCiTwin

_KEYS: Final = frozenset({SecretKind.CHECKOUT_KEY, SecretKind.SSH_KEY, SecretKind.LEGACY_AWS_KEY})


class _Reading:
    """What has been read of one place so far."""

    def __init__(self, *, twin: CircleCiTwin, place: str, kinds: frozenset[SecretKind]) -> None:
        self.twin = twin
        self.place = place
        self.kinds = kinds
        self.secrets: list[StoredSecret] = []
        self.holes: list[Hole] = []

    def read(
        self,
        kind: SecretKind,
        operation: str,
        target: str,
        shown: Callable[[], Sequence[StoredSecret]],
        where: str = "",
        *,
        may_be_gone: bool = False,
    ) -> bool:
        """Make one call for a kind that is wanted; a refusal becomes a hole, unless what is asked may be gone."""
        if kind not in self.kinds:
            return False
        try:
            self.secrets.extend(self.twin.call(operation, target, shown))
        except CircleCiError as error:
            if not (may_be_gone and error.status == HTTPStatus.NOT_FOUND):
                self.missed({kind}, error.code, where)
            return False
        return True

    def missed(self, kinds: Iterable[SecretKind], why: str, where: str = "") -> None:
        """Note what could not be read."""
        self.holes.extend(Hole(what=kind.value, where=where or self.place, why=why) for kind in sorted(kinds))

    def all_holes(self, missed: Iterable[states.MissedRead]) -> tuple[Hole, ...]:
        """The holes met here, and those of the world that was mirrored; a hole of both counts once."""
        wanted = {kind.value for kind in self.kinds}
        known = (Hole(what=item.what, where=item.where, why=item.why) for item in missed if item.what in wanted)
        return tuple(dict.fromkeys((*self.holes, *known)))


def of_project(twin: CircleCiTwin, project: Project, kinds: frozenset[SecretKind]) -> ProjectSecrets:
    """Everything a project stores of these kinds."""
    reading = _Reading(twin=twin, place=project.slug, kinds=kinds)
    try:
        stored = twin.stored_project("project_details", project.slug, project.id)
    except CircleCiError as error:
        reading.missed(kinds & rows.OF_PROJECTS, error.code)
        return ProjectSecrets(variables=Variables(items=()), holes=reading.all_holes(()))
    if stored.deleted:
        variables = _of_deleted(reading, stored)
    else:
        details_seen = bool(kinds & _KEYS) and _keys(reading, stored)
        variables = _variables(reading, stored, details_seen=details_seen)
        reading.read(SecretKind.PROJECT_TOKEN, "project_tokens", stored.slug, lambda: rows.token_rows(stored))
        reading.read(SecretKind.WEBHOOK_SECRET, "webhooks", stored.slug, lambda: rows.webhook_rows(stored))
        _triggers(reading, stored)
        if twin.organization_id(stored.organization):
            reading.read(SecretKind.OIDC_CLAIMS, "oidc_claims", stored.slug, lambda: rows.claims_rows(stored))
    return ProjectSecrets(variables=variables, secrets=tuple(reading.secrets), holes=reading.all_holes(stored.missed))


def of_organization(twin: CircleCiTwin, organization: Organization, kinds: frozenset[SecretKind]) -> StoredSecrets:
    """Runner tokens and custom claims; an organization without an id has neither."""
    reading = _Reading(twin=twin, place=organization.slug, kinds=kinds)
    wanted = kinds & rows.OF_ORGANIZATIONS
    stored = twin.stored_organization(organization.slug)
    if wanted and stored is not None and stored.id:
        if reading.read(SecretKind.RUNNER_TOKEN, "runner_classes", stored.slug, lambda: ()):
            for item in stored.runner_classes:
                reading.read(
                    SecretKind.RUNNER_TOKEN,
                    "runner_tokens",
                    item.name,
                    partial(rows.runner_rows, stored, item),
                    item.name,
                    may_be_gone=True,
                )
        reading.read(SecretKind.OIDC_CLAIMS, "oidc_claims", stored.slug, lambda: rows.claims_rows(stored))
    missed = stored.missed if stored is not None else ()
    return StoredSecrets(secrets=tuple(reading.secrets), holes=reading.all_holes(missed))


def _of_deleted(reading: _Reading, stored: states.StoredProject) -> Variables:
    kinds = reading.kinds & (_KEYS | {SecretKind.PROJECT_VARIABLE})
    variables = Variables(items=())
    if not kinds:
        return variables
    try:
        _details(reading.twin, stored)
    except CircleCiError as error:
        reading.missed(kinds, error.code)
        return variables
    reading.secrets.extend(row for row in rows.key_rows(stored) if row.kind in kinds)
    return reading.twin.undated_variables(stored) if SecretKind.PROJECT_VARIABLE in kinds else variables


def _details(twin: CircleCiTwin, stored: states.StoredProject) -> None:
    """Ask the private route, which shows four kinds at once."""
    twin.call("project_details", stored.slug, twin.require_private_details)


def _keys(reading: _Reading, stored: states.StoredProject) -> bool:
    """Read the three kinds of keys; says whether the private route showed them."""
    try:
        _details(reading.twin, stored)
    except CircleCiError as error:
        reading.missed(reading.kinds & {SecretKind.LEGACY_AWS_KEY}, error.code)
    else:
        reading.secrets.extend(row for row in rows.key_rows(stored) if row.kind in reading.kinds)
        return True
    reading.read(SecretKind.CHECKOUT_KEY, "checkout_keys", stored.slug, lambda: rows.checkout_rows(stored))
    reading.read(SecretKind.SSH_KEY, "ssh_keys", stored.slug, lambda: rows.ssh_rows(stored))
    return False


def _variables(reading: _Reading, stored: states.StoredProject, *, details_seen: bool) -> Variables:
    """v2's list; where that is refused, the names and tails that the private route shows."""
    if SecretKind.PROJECT_VARIABLE not in reading.kinds:
        return Variables(items=())
    try:
        return reading.twin.variables(project_sink(stored))
    except CircleCiError as error:
        refused = error
    if not details_seen:
        try:
            _details(reading.twin, stored)
        except CircleCiError:
            reading.missed({SecretKind.PROJECT_VARIABLE}, refused.code)
            return Variables(items=(), complete=False)
    if refused.status != HTTPStatus.NOT_FOUND:
        reading.missed({SecretKind.PROJECT_VARIABLE}, refused.code)
    return reading.twin.undated_variables(stored)


def _triggers(reading: _Reading, stored: states.StoredProject) -> None:
    kind = SecretKind.TRIGGER_URL
    if reading.read(kind, "pipeline_definitions", stored.slug, lambda: ()):
        for definition in stored.definitions:
            where = f"{stored.slug} (pipeline definition {definition.id})"
            reading.read(
                kind, "triggers", definition.id, partial(rows.trigger_rows, stored, definition), where, may_be_gone=True
            )
