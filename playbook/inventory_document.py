"""The inventory as the JSON document that other tools read (schema 1), as CSV, and as findings for a person.

`schemas/inventory.schema.json` describes it, `docs/inventory.md` explains it. Under one schema number a field may be
added, never removed or given another meaning.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from playbook import blast_radius
from playbook.correlate import NOT_SECRET, variable_id
from playbook.exposure import Exposure, burn_down, judge
from playbook.inventory import restriction_id, secret_id
from playbook.ports import SecretKind, SinkKind
from playbook.rotation import way_of, way_of_restriction, way_of_variable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from playbook.blast_radius import Checkout
    from playbook.correlate import Match, StoredVariable
    from playbook.exposure import Verdict, Window
    from playbook.inventory import Inventory, StoredRestriction
    from playbook.ports import AccessKey, Restriction, StoredSecret, User

SCHEMA: Final = 1
COLUMNS: Final = (
    "id",
    "kind",
    "organization",
    "context",
    "project",
    "name",
    "tail",
    "created_at",
    "updated_at",
    "exposure",
    "rotation",
)
_PLACE_FIELDS: Final = {"context": "context", "project": "project", "resource-class": "resource_class"}


def document(
    inventory: Inventory,
    *,
    kinds: Iterable[str] = (),
    window: Window | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    checkouts: Sequence[Checkout] = (),
) -> dict[str, Any]:
    """The whole document; `kinds` limits `secrets` and nothing else."""
    told = _Teller(inventory, judge(inventory, window) if verdicts is None else verdicts, checkouts)
    wanted = set(kinds)
    secrets = [row for row in told.secrets() if not wanted or row["kind"] in wanted]
    return {
        "schema": SCHEMA,
        "generated_at": inventory.generated_at,
        "oldest_read_at": inventory.oldest_read_at or inventory.generated_at,
        "complete": inventory.complete,
        "holes": [asdict(hole) for hole in inventory.holes],
        "calls": [asdict(item) for item in inventory.reads],
        "kinds": list(inventory.kinds),
        "exposure_window": None if window is None else {"from": _iso(window.start), "until": _iso(window.end)},
        "burn_down": asdict(burn_down(inventory, told.verdicts)),
        "organizations": [{"id": o.id, "slug": o.slug, "name": o.name} for o in inventory.organizations],
        "projects": [
            {
                "id": p.id,
                "slug": p.slug,
                "organization": p.organization,
                "known_by": list(p.known_by),
                "deleted": p.deleted,
            }
            for p in inventory.projects
        ],
        "contexts": [{"id": c.id, "name": c.name, "organization": c.organization} for c in inventory.contexts],
        "secrets": secrets,
        "access_keys": [told.key(key) for key in inventory.keys],
        "users": [_user(user) for user in inventory.users],
        "root_keys": list(inventory.root_keys),
        "findings": findings(inventory, window),
    }


class _Teller:
    """One inventory's rows, each told once."""

    def __init__(self, inventory: Inventory, verdicts: Mapping[str, Verdict], checkouts: Sequence[Checkout]) -> None:
        self.inventory = inventory
        self.verdicts = verdicts
        self.radii = blast_radius.blast_radius(inventory, checkouts)
        correlation = inventory.correlation()
        self.holding = {match.stored.id: match for match in correlation.matches}
        self.beside = {
            variable_id(match.stored.sink, match.secret_name): match
            for match in correlation.matches
            if match.secret_name is not None
        }
        self.places: dict[str, list[Match]] = {}
        for match in correlation.matches:
            if match.key is not None:
                self.places.setdefault(match.key.id, []).append(match)
        self.tails = {stored.id: stored.variable.tail for stored in inventory.variables}
        self.known_by = {project.slug: list(project.known_by) for project in inventory.projects}
        self.slugs = {project.id: project.slug for project in inventory.projects if project.id}
        # A slug that was given away again names the living project.
        living = {project.slug for project in inventory.projects if not project.deleted}
        self.deleted = {project.slug for project in inventory.projects} - living
        self.legacy: dict[str, list[str]] = {}
        for name, held in inventory.legacy.items():
            self.legacy.setdefault(held.key.id, []).append(name)

    def secrets(self) -> Iterator[dict[str, Any]]:
        """Every row, variables first."""
        for stored in self.inventory.variables:
            yield self._variable(stored)
        for secret in self.inventory.secrets:
            yield self._secret(secret)
        for restriction in self.inventory.restrictions:
            yield self._restriction(restriction)

    def key(self, key: AccessKey) -> dict[str, Any]:
        """One access key with all its places."""
        used = self.inventory.last_used.get(key.id)
        pairs = [self._pair(match) for match in self.places.get(key.id, ())]
        stored_in = [place for pair in pairs for place in (pair["id"], pair["secret"]) if place is not None]
        return {
            "account": key.account,
            "user": key.user,
            "id": key.id,
            "status": key.status.value,
            "created_at": _iso(key.created_at),
            "last_used_at": _iso(used.at) if used else None,
            "last_used_service": used.service if used and used.at else None,
            "last_used_as_of": _iso(used.reported_at) if used else None,
            "stored_in": [*stored_in, *self.legacy.get(key.id, ())],
            "pairs": pairs,
            "blast_radius": blast_radius.document(self.radii.get(key.id, blast_radius.Radius())),
        }

    def _pair(self, match: Match) -> dict[str, Any]:
        secret = variable_id(match.stored.sink, match.secret_name) if match.secret_name is not None else None
        return {
            "id": match.stored.id,
            "secret": secret,
            "secret_tail": self.tails.get(secret) if secret is not None else None,
            "confidence": match.confidence,
        }

    def _variable(self, stored: StoredVariable) -> dict[str, Any]:
        variable, sink = stored.variable, stored.sink
        context = sink.kind is SinkKind.CONTEXT
        kind = SecretKind.CONTEXT_VARIABLE if context else SecretKind.PROJECT_VARIABLE
        match = self.holding.get(stored.id) or self.beside.get(stored.id)
        held = None
        if match is not None and match.key is not None:
            evidence = list(match.evidence)
            if stored.id not in self.holding:
                evidence.insert(0, f"it stands beside {match.stored.variable.name}")
            held = _held(match.key, match.confidence, evidence)
        return {
            "id": stored.id,
            "kind": kind.value,
            "organization": sink.organization,
            sink.kind.value: sink.name,
            "name": variable.name,
            "tail": variable.tail,
            "created_at": _iso(variable.created_at),
            "updated_at": _iso(variable.updated_at),
            **self._exposure(stored.id),
            "rotation": way_of_variable(sink.name, deleted=not context and sink.id in self.deleted),
            "detail": "",
            "note": self._doubt(stored, match),
            **({} if context else {"known_by": self.known_by.get(sink.id, [])}),
            "access_key": held,
        }

    def _doubt(self, stored: StoredVariable, match: Match | None) -> str:
        """Why nobody knows which key this holds; of a secret, what is not known of the id beside it."""
        if match is None and NOT_SECRET.fullmatch(stored.variable.name):
            return "a setting by its name, so it does not count"
        if match is None or match.key is not None:
            return ""
        why = "; ".join(match.evidence)
        return why if stored.id in self.holding else f"it stands beside {match.stored.variable.name}: {why}"

    def _secret(self, secret: StoredSecret) -> dict[str, Any]:
        found = self.inventory.legacy.get(secret_id(secret))
        held = None if found is None else _held(found.key, found.confidence, [found.evidence])
        place = _PLACE_FIELDS.get(secret.place_kind)
        return {
            "id": secret_id(secret),
            "kind": secret.kind.value,
            "organization": secret.organization,
            **({place: secret.place} if place else {}),
            "name": secret.name,
            "tail": secret.tail,
            "created_at": _iso(secret.created_at),
            "updated_at": _iso(secret.updated_at),
            **self._exposure(secret_id(secret)),
            "rotation": way_of(secret, deleted=place == "project" and secret.place in self.deleted),
            "detail": secret.detail,
            "note": "" if secret.set else "CircleCI says that there is no secret behind it",
            **({"known_by": self.known_by.get(secret.place, [])} if place == "project" else {}),
            "access_key": held,
        }

    def _restriction(self, stored: StoredRestriction) -> dict[str, Any]:
        restriction = stored.restriction
        return {
            "id": restriction_id(stored),
            "kind": SecretKind.CONTEXT_RESTRICTION.value,
            "organization": stored.sink.organization,
            "context": stored.sink.name,
            "name": restriction.value,
            "tail": None,
            "created_at": None,
            "updated_at": None,
            **self._exposure(restriction_id(stored)),
            "rotation": way_of_restriction(),
            "detail": restriction.kind,
            "note": self._whom(restriction),
            "access_key": None,
        }

    def _whom(self, restriction: Restriction) -> str:
        """A restriction names a project by an id, which tells a person nothing."""
        if restriction.kind != blast_radius.BY_PROJECT:
            return ""
        slug = self.slugs.get(restriction.value)
        return f"only {slug}" if slug is not None else "a project that no source lists"

    def _exposure(self, name: str) -> dict[str, str | None]:
        verdict = self.verdicts.get(name)
        if verdict is None:
            return {"exposure": None, "exposure_evidence": ""}
        return {"exposure": verdict.exposure.value, "exposure_evidence": verdict.why}


def _held(key: AccessKey, confidence: str, evidence: list[str]) -> dict[str, Any]:
    return {
        "account": key.account,
        "user": key.user,
        "id": key.id,
        "confidence": confidence,
        "evidence": evidence,
    }


def _user(user: User) -> dict[str, Any]:
    return {
        "account": user.account,
        "name": user.name,
        "arn": user.arn,
        "created_at": _iso(user.created_at),
        "tags": dict(user.tags),
        "policies": list(user.policies),
        "inline_policies": list(user.inline_policies),
        "groups": list(user.groups),
        "boundary": user.boundary or None,
        "reach": list(user.reach),
        "password_last_used_at": _iso(user.password_last_used_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


# --- Findings ---------------------------------------------------------------------------------------------------------


def findings(inventory: Inventory, window: Window | None = None) -> list[dict[str, str]]:
    """What somebody must know beside the rows, the worst first: a level and a sentence each."""
    told: list[tuple[str, str]] = [
        ("danger", f"the root user of {account} has access keys: delete them by hand")
        for account in inventory.root_keys
    ]
    told += _made_meanwhile(inventory, window)
    told += _broken_pairs(inventory)
    told += _by_hand(inventory)
    told += _reported_uses(inventory)
    told += _stored_nowhere(inventory)
    return [{"level": level, "text": text} for level, text in told]


def _made_meanwhile(inventory: Inventory, window: Window | None) -> Iterator[tuple[str, str]]:
    """A key that was made while strangers could read may be theirs."""
    if window is None or window.start is None:
        return
    for key in inventory.keys:
        if window.start <= key.created_at and window.held(key.created_at) is not False:
            made = f"made on {key.created_at.date().isoformat()}, while strangers could read"
            yield "warning", f"{key.id} of {key.user} in {key.account} was {made}: find out by whom"


def _broken_pairs(inventory: Inventory) -> Iterator[tuple[str, str]]:
    """One key has one secret: two tails of it mean that a pair somewhere does not work."""
    tails = {stored.id: stored.variable.tail for stored in inventory.variables}
    seen: dict[str, dict[str, str]] = {}
    for match in inventory.correlation().matches:
        if match.key is not None and match.secret_name is not None:
            tail = tails.get(variable_id(match.stored.sink, match.secret_name))
            if tail:
                seen.setdefault(match.key.id, {}).setdefault(tail, match.stored.sink.name)
    for key_id, places in seen.items():
        if len(places) > 1:
            named = " and ".join(f"{tail} in {place}" for tail, place in list(places.items())[:3])
            yield "warning", f"the secrets stored with {key_id} end differently: {named}; one of these pairs is broken"


def _by_hand(inventory: Inventory) -> Iterator[tuple[str, str]]:
    for secret in inventory.secrets:
        if secret.kind is not SecretKind.LEGACY_AWS_KEY:
            continue
        held = inventory.legacy.get(secret_id(secret))
        which = f"{held.key.id} of {held.key.user} ({held.confidence})" if held else "a key of none of these accounts"
        yield "warning", f"the AWS integration of {secret.place} holds {which}: only hands can change it there"


def _stored_nowhere(inventory: Inventory) -> Iterator[tuple[str, str]]:
    correlation = inventory.correlation()
    held = {match.key.id for match in correlation.matches if match.key is not None}
    held |= {legacy.key.id for legacy in inventory.legacy.values()}
    doubtful = {
        match.stored.variable.tail for match in correlation.matches if match.key is None and match.stored.variable.tail
    }
    for key in inventory.keys:
        if key.id in held or key.id[-4:] in doubtful or not key.is_active:
            continue
        used = inventory.last_used.get(key.id)
        who = f"{key.id} of {key.user} in {key.account}"
        if used is not None and used.at is not None:
            yield "note", f"{who} is stored nowhere in CircleCI and was used on {used.at.date().isoformat()}"
        else:
            yield "note", f"{who} is on, stored nowhere in CircleCI, and no use of it is known"


def _reported_uses(inventory: Inventory) -> Iterator[tuple[str, str]]:
    """A use of the last hours may be missing in a report: who decides by it has to know."""
    held = {match.key.id for match in inventory.correlation().matches if match.key is not None}
    held |= {legacy.key.id for legacy in inventory.legacy.values()}
    times = [used.reported_at for key, used in inventory.last_used.items() if key in held and used.reported_at]
    if times:
        oldest = min(times).isoformat(timespec="minutes").replace("+00:00", "Z")
        keys = f"the last use of {len(times)} stored keys"
        yield "note", f"{keys} is from AWS's credential reports (the oldest of {oldest}): later uses are not in it"


def is_exposed(told: Mapping[str, Any]) -> bool:
    """Whether a nightly check must not pass: with a window whatever is not proved rotated, without one active keys."""
    if not told["complete"]:
        return True
    if told["exposure_window"] is not None:
        left = told["burn_down"]
        return bool(left["exposed"] or left["unknown"])
    return any(row["status"] == "Active" and row["stored_in"] for row in told["access_keys"])


def exposed_rows(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that are not proved rotated, for a person who asks why."""
    return [row for row in told["secrets"] if row["exposure"] in {Exposure.EXPOSED.value, Exposure.UNKNOWN.value}]


# --- CSV --------------------------------------------------------------------------------------------------------------


def to_csv(told: Mapping[str, Any]) -> str:
    """The secrets as CSV; a text that a spreadsheet would run as a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, "account", "user", "access_key", "confidence"])
    for row in told["secrets"]:
        held = row["access_key"] or {}
        cells = [row.get(name) or "" for name in COLUMNS]
        cells += [held.get(name, "") for name in ("account", "user", "id", "confidence")]
        writer.writerow([f"'{cell}" if str(cell)[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell for cell in cells])
    return text.getvalue()
