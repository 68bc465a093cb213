"""A world with every kind of stored secret, and the rows that an inventory of it must consist of."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

from playbook.ports import Organization, Project, SecretKind
from playbook.twins import state as states
from playbook.twins.state import Value, Variable
from playbook.twins.switches import Switches
from playbook.twins.world import TwinWorld

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
ACME = Organization(id=str(uuid.UUID(int=1, version=4)), slug="gh/acme", name="acme")
NO_ID = Organization(id="", slug="bb/ann", name="ann")
ALL = frozenset(SecretKind)
NO_LAG = {"tail_lag_s": 0, "sts_lag_s": 0, "off_lag_s": 0, "list_lag_s": 0, "trail_lag_s": 0}


def number(*parts):
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))


def day(count):
    return START - timedelta(days=count)


def fingerprint(text):
    return uuid.uuid5(uuid.NAMESPACE_DNS, text).bytes.hex(":")


def variable(tail="WXYZ", days=9):
    return Variable(value=Value(tail=tail), created_at=day(days), updated_at=day(days))


def pipelines(slug):
    """Four runs: one that did not compile, one that generates and waits, one that generated, a plain one."""
    plain = "jobs: {a: {}}\nworkflows: {w: {jobs: [{a: {context: deploy}}]}}"
    setup = "setup: true\njobs: {g: {}}\nworkflows: {w: {jobs: [g]}}"
    forms = ({"errors": ("no such job",)}, {"compiled_setup": setup}, {"compiled": plain, "compiled_setup": setup})
    return [
        states.RunPipeline(
            id=number(slug, "pipeline", count), project=slug, number=9 - count, created_at=day(20 + count), **form
        )
        for count, form in enumerate((*forms, {"compiled": plain}))
    ]


def rich_project(slug="gh/acme/api", organization="gh/acme", **more):
    """A project with at least one of each kind."""
    return states.StoredProject(
        id=more.pop("id", number(slug)),
        slug=slug,
        organization=organization,
        variables={"AWS_ACCESS_KEY_ID": variable(), "NPM_TOKEN": variable("")},
        checkout_keys=[
            states.CheckoutKey(fingerprint=fingerprint(slug + "1"), created_at=day(40)),
            states.CheckoutKey(
                fingerprint=fingerprint(slug + "2"), type="github-user-key", preferred=True, created_at=day(3)
            ),
        ],
        ssh_keys=[
            states.SshKey(fingerprint=fingerprint(slug + "3"), hostname="deploy.example"),
            states.SshKey(fingerprint=fingerprint(slug + "4")),
        ],
        legacy_aws=states.LegacyAwsKeys(access_key_id="AKIALEGACYLEGACYLEG7"),
        tokens=[states.ProjectToken(id=number(slug, "token"), label="badge", scope="status", created_at=day(300))],
        webhooks=[
            states.Webhook(
                id=number(slug, "signed"),
                name="signed",
                url="https://hooks.example/a",
                created_at=day(9),
                updated_at=day(8),
            ),
            states.Webhook(
                id=number(slug, "bare"),
                name="bare",
                url="https://hooks.example/b",
                has_secret=False,
                created_at=day(9),
                updated_at=day(9),
            ),
        ],
        definitions=[
            states.PipelineDefinition(
                id=number(slug, "definition"),
                name="build",
                created_at=day(50),
                triggers=[
                    states.Trigger(
                        id=number(slug, "inbound"),
                        url="https://internal.circleci.com/private/soc/e/5",
                        sender="scanner",
                        created_at=day(7),
                    ),
                    states.Trigger(id=number(slug, "push"), provider="github_app", created_at=day(7)),
                ],
            )
        ],
        claims=states.Claims(audience=("sts.amazonaws.com",), audience_updated_at=day(5)),
        **more,
    )


def kinds_state(*projects, **more):
    owner = states.StoredOrganization(
        id=ACME.id,
        slug=ACME.slug,
        name=ACME.name,
        runner_classes=[
            states.RunnerClass(
                id=number("class"),
                name="acme/linux",
                tokens=[states.RunnerToken(id=number("runner"), nickname="rack-1", created_at=day(90))],
            ),
            states.RunnerClass(id=number("empty class"), name="acme/mac"),
        ],
        claims=states.Claims(audience=("a", "b"), audience_updated_at=day(6), ttl="30m0s", ttl_updated_at=day(4)),
    )
    found = projects or (
        rich_project(),
        states.StoredProject(id=number("gh/acme/plain"), slug="gh/acme/plain", organization="gh/acme"),
        states.StoredProject(
            id=number("gh/acme/gone"),
            slug="gh/acme/gone",
            organization="gh/acme",
            known_by=("private",),
            deleted=True,
            variables={"OLD": variable("5678")},
            checkout_keys=[states.CheckoutKey(fingerprint=fingerprint("gone"), created_at=day(900))],
        ),
    )
    organizations = [owner, states.StoredOrganization(id="", slug=NO_ID.slug, name=NO_ID.name)]
    return states.State(
        now=START,
        circleci=states.CircleCiState(
            login="ann",
            organizations={item.slug: item for item in organizations},
            projects={item.slug: item for item in found},
            **more,
        ),
    )


def kinds_world(state=None, **switches):
    return TwinWorld(
        state or kinds_state(), switches=Switches(**{**NO_LAG, **switches}), rng=random.Random(5), flowing=True
    )


def port_project(stored):
    """What `projects` tells of it."""
    return Project(
        id=stored.id,
        slug=stored.slug,
        organization=stored.organization,
        known_by=stored.known_by,
        deleted=stored.deleted,
    )


def brief(rows):
    """A row by what a person would tell it by."""
    return sorted((row.kind.value, row.place, row.place_kind, row.name, row.detail, row.set) for row in rows)


EVERY_ROW = sorted(
    [
        ("checkout-key", "gh/acme/api", "project", fingerprint("gh/acme/api1"), "deploy-key", True),
        ("checkout-key", "gh/acme/api", "project", fingerprint("gh/acme/api2"), "github-user-key", True),
        ("checkout-key", "gh/acme/gone", "project", fingerprint("gone"), "deploy-key", True),
        ("legacy-aws-key", "gh/acme/api", "project", "AWS permissions", "AKIALEGACYLEGACYLEG7", True),
        ("oidc-claims", "gh/acme", "organization", "custom claims", "a, b; ttl 30m0s", True),
        ("oidc-claims", "gh/acme/api", "project", "custom claims", "sts.amazonaws.com", True),
        ("project-token", "gh/acme/api", "project", "badge", "status", True),
        ("runner-token", "acme/linux", "resource-class", "rack-1", "", True),
        ("ssh-key", "gh/acme/api", "project", "any host", "", True),
        ("ssh-key", "gh/acme/api", "project", "deploy.example", "", True),
        ("trigger-url", "gh/acme/api", "project", "https://internal.circleci.com/private/soc/e/5", "scanner", True),
        ("webhook-secret", "gh/acme/api", "project", "bare", "https://hooks.example", False),
        ("webhook-secret", "gh/acme/api", "project", "signed", "https://hooks.example", True),
    ]
)
