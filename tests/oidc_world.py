"""The scenario `oidc` as a case to play: 3 projects in 2 accounts on access keys, and what is compared of a world."""

from __future__ import annotations

import random

import msgspec
from played import Played, Responder

from playbook.engine import Engine
from playbook.ports import Sink, SinkKind, Waits
from playbook.twins import scenario
from playbook.twins.faults import Faults, parse
from playbook.twins.iam_calls import truth
from playbook.twins.iam_users import rights_of
from playbook.twins.world import TwinWorld
from steps.check_access import CheckAccess
from steps.cut_over_to_oidc import CutOverToOidc
from steps.inventory_secrets import InventorySecrets
from steps.migrate_config import MigrateConfig
from steps.migrate_to_oidc import MigrateToOidc
from steps.put_back import PutBack

FIRST, SECOND = "111122223333", "444455556666"
READING = (CheckAccess(), InventorySecrets())
MOVING = (MigrateToOidc(), MigrateConfig(), CutOverToOidc())
STEPS = (*READING, *MOVING)
PLACES = {
    "gh/acme/api": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gh/acme/web": ("DEPLOY_AWS_ACCESS_KEY_ID", "DEPLOY_AWS_SECRET_ACCESS_KEY"),
    "gh/acme/data": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}
CONTEXT = "aws-production"


def oidc_state():
    return scenario.load("oidc").state


def oidc_case(state=None, *, faults=(), merged=True, seed=7, **answers):
    """A case on the scenario's world; `merged`: whether the responder says that the configuration is."""
    world = TwinWorld(
        state if state is not None else oidc_state(),
        faults=Faults([parse(text) for text in faults]),
        rng=random.Random(seed),
    )
    given = {"keys.strategy": "oidc", "keys.config_merged": merged, "incident.severity": "routine", **answers}
    return Played(world, Responder(**given), waits=Waits(silence=0))


def undo(case):
    engine = Engine(case.journal, case.world.platforms(), case.responder, waits=case.waits, parallel=1, pilot=0)
    return engine.run((PutBack(),), again=frozenset({"undo"}), closes=False)


def sink_of(world, place):
    if place == CONTEXT:
        found = next(item for item in world.state.circleci.contexts.values() if item.name == CONTEXT)
        return Sink(kind=SinkKind.CONTEXT, id=found.id, name=found.name, organization="gh/acme")
    return Sink(kind=SinkKind.PROJECT, id=place, name=place, organization="gh/acme")


def pairs(world):
    """By place: the names of its two variables."""
    return {CONTEXT: PLACES["gh/acme/api"], **PLACES}


def picture(world):
    """Everything that counts of a world, as bytes: what IAM and CircleCI hold, whatever happened in between."""
    accounts = {
        number: {
            "roles": _living(account.roles),
            "policies": _living(account.policies),
            "providers": _living(account.providers),
            "users": account.users,
            "rights": {name: truth(account.rights.get(name)) or rights_of(account, name) for name in account.users},
            "keys": {name: key.changes[-1].status for name, key in account.keys.items()},
        }
        for number, account in world.state.accounts.items()
    }
    circleci = world.state.circleci
    projects = {slug: msgspec.structs.replace(item, unread=()) for slug, item in circleci.projects.items()}
    return msgspec.json.encode([accounts, circleci.contexts, projects], order="sorted", enc_hook=str)


def _living(histories):
    found = {name: truth(history) for name, history in histories.items()}
    return {name: item for name, item in found.items() if item is not None}


def roles(world):
    """By account: the roles that there are."""
    return {number: sorted(_living(account.roles)) for number, account in world.state.accounts.items()}


def stored_names(world):
    """By place: the names of what it stores."""
    circleci = world.state.circleci
    return {
        **{item.name: sorted(item.variables) for item in circleci.contexts.values()},
        **{slug: sorted(item.variables) for slug, item in circleci.projects.items()},
    }


def end_of(world):
    """What a finished migration looks like, without ids that were made up on the way."""
    circleci = world.state.circleci
    contexts = {
        item.name: (
            {name: variable.value.tail for name, variable in item.variables.items()},
            sorted((limit.kind, limit.value) for limit in item.restrictions),
        )
        for item in circleci.contexts.values()
    }
    accounts = {
        number: (
            {
                name: (role.trust, role.inline, role.attached, role.boundary, role.max_session_s)
                for name, role in _living(account.roles).items()
            },
            {name: item.client_ids for name, item in _living(account.providers).items()},
            {name: key.changes[-1].status for name, key in account.keys.items()},
        )
        for number, account in world.state.accounts.items()
    }
    return contexts, accounts, {slug: sorted(item.variables) for slug, item in circleci.projects.items()}
