"""A world of two accounts, three contexts and two projects, which the tests of the twins act on."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from playbook.ports import KeyStatus, Organization
from playbook.twins import state as states
from playbook.twins.pipeline import ID_VARIABLE, SECRET_VARIABLE, context_sink, project_sink
from playbook.twins.state import ALWAYS, Change, Value, Variable
from playbook.twins.world import Switches, TwinWorld

START = datetime(2026, 11, 2, 9, 0, 0, 250_000, tzinfo=UTC)
MADE = START - timedelta(days=100)
ACCOUNT = "111122223333"
OTHER = "444455556666"
OLD_KEY = "AKIAOLDKEYOLDKEYOLD2"
OTHER_KEY = "AKIAOTHEROTHEROTHER3"
PAIR = (ID_VARIABLE, SECRET_VARIABLE)
ORGANIZATION = Organization(id="org-1", slug="gh/acme", name="acme")
NO_LAG = Switches(
    sts_lag_s=0,
    off_lag_s=0,
    list_lag_s=0,
    tail_lag_s=0,
    trail_lag_s=0,
    rights_lag_s=0,
    policy_lag_s=0,
    service_lag_s=0,
    accessed_lag_s=0,
)


def pair_of(key_id: str) -> dict[str, Variable]:
    written = MADE + timedelta(minutes=3)
    return {
        ID_VARIABLE: Variable(value=Value.opaque(key_id), created_at=written, updated_at=written),
        SECRET_VARIABLE: Variable(value=Value(tail="s3cR"), created_at=written, updated_at=written),
    }


def account(number: str, *users: str, keys: dict[str, str]) -> states.Account:
    return states.Account(
        id=number,
        operator_arn=f"arn:aws:sts::{number}:assumed-role/responder/me",
        users={
            name: states.IamUser(name=name, arn=f"arn:aws:iam::{number}:user/{name}", created_at=MADE) for name in users
        },
        keys={
            key: states.Key(id=key, user=user, created_at=MADE, changes=[Change(at=ALWAYS, status=KeyStatus.ACTIVE)])
            for key, user in keys.items()
        },
    )


def small_state() -> states.State:
    organization = states.StoredOrganization(
        id=ORGANIZATION.id, slug=ORGANIZATION.slug, name=ORGANIZATION.name, inline_config=True
    )
    return states.State(
        now=START,
        accounts={
            ACCOUNT: account(ACCOUNT, "ci", "idle", keys={OLD_KEY: "ci"}),
            OTHER: account(OTHER, "ci", keys={OTHER_KEY: "ci"}),
        },
        circleci=states.CircleCiState(
            login="responder",
            organizations={ORGANIZATION.slug: organization},
            contexts={
                f"id-{name}": states.Context(
                    id=f"id-{name}", name=name, organization="gh/acme", created_at=MADE, variables=variables
                )
                for name, variables in {"aws": pair_of(OLD_KEY), "staging": pair_of(OTHER_KEY), "empty": {}}.items()
            },
            projects={
                slug: states.StoredProject(
                    id=f"id-{slug[-3:]}",
                    slug=slug,
                    organization="gh/acme",
                    variables=variables,
                    definitions=[states.PipelineDefinition(id=f"definition-{slug[-3:]}", name="build")],
                    inline_config=True,
                )
                for slug, variables in {"gh/acme/api": pair_of(OLD_KEY), "gh/acme/web": {}}.items()
            },
        ),
    )


def small_world(switches: Switches = NO_LAG, *, seed: int = 1, **options: object) -> TwinWorld:
    return TwinWorld(small_state(), switches=switches, rng=random.Random(seed), **options)  # type: ignore[arg-type]


def context(world: TwinWorld, name: str = "aws"):
    return context_sink(world.state.circleci.contexts[f"id-{name}"])


def project(world: TwinWorld, slug: str = "gh/acme/api"):
    return project_sink(world.state.circleci.projects[slug])
