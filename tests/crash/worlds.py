"""The world of a case as it is before anything happens in it, and what strangers do to it."""

from __future__ import annotations

from datetime import timedelta

from crash.conditions import Conditions, Stranger
from crash.oracle import Oracle
from crash.truth import Pair, pairs_of
from two_users import ACCOUNT, OLD, PAIR, START, two_users

from playbook.ports import KeyStatus
from playbook.secret import Secret
from playbook.twins import iam_keys
from playbook.twins.state import (
    ALWAYS,
    Account,
    Change,
    CheckoutKey,
    CircleCiState,
    IamRole,
    Key,
    Rights,
    RunJob,
    RunPipeline,
    RunWorkflow,
    State,
    TrailEvent,
    Value,
    Version,
    Webhook,
)
from playbook.twins.world import TwinWorld

PAIRS: tuple[Pair, ...] = pairs_of(two_users(), PAIR)
SPARE = "AKIASPAREDEPLOYAAAS7"
ROLE = "deployer"
LEASE = "rotation-playbook-lease"
POLICY = "RotationPlaybookRevokeSessions"
API, WEB = "gh/acme/api", "gh/acme/web"
DEPLOY_KEY, WEBHOOK = "10:20:30:40:50:60:70:80:90:a0:b0:c0:d0:e0:f0:01", "hook-1"
BUILD = "build"
BUSY_S = 150
"""For how long the job of a busy world still runs."""


def world_of(conditions: Conditions) -> State:
    """What there is at first."""
    state = two_users(canaries=conditions.canaries in {"inline", "broken"})
    account, circleci = state.accounts[ACCOUNT], state.circleci
    if conditions.spare:
        _add_spare(account, KeyStatus.ACTIVE if conditions.spare == "on" else KeyStatus.INACTIVE)
    if conditions.role:
        _add_role(account)
    if conditions.foreign:
        account.rights["ci-deploy"] = [Version(value=_left_by_others(conditions.foreign))]
    if conditions.canaries == "broken":
        for project in circleci.projects.values():
            project.definitions = []
    if conditions.canaries == "rerun":
        for slug in (API, WEB):
            _add_build(circleci, f"pipe-done-{slug}", slug, began_s=-7200, ends_s=-7000)
    if conditions.busy:
        _add_build(circleci, "pipe-busy", API, began_s=-60, ends_s=BUSY_S)
    if conditions.secrets:
        made = START - timedelta(days=300)
        project = circleci.projects[API]
        project.checkout_keys = [CheckoutKey(fingerprint=DEPLOY_KEY, preferred=True, created_at=made)]
        project.webhooks = [Webhook(id=WEBHOOK, name="deploys", url="https://hooks.invalid/x", updated_at=made)]
    return state


def _add_spare(account: Account, status: KeyStatus) -> None:
    account.keys[SPARE] = Key(
        id=SPARE,
        user="ci-deploy",
        created_at=START - timedelta(days=400),
        changes=[Change(at=ALWAYS, status=status)],
        secret=Value.of(Secret("spare".ljust(40, "x"))),
    )


def _add_role(account: Account) -> None:
    arn = f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
    account.roles[ROLE] = [Version(value=IamRole(name=ROLE, arn=arn, trust={}))]
    account.trail.append(
        TrailEvent(
            id="event-assumed",
            at=START - timedelta(hours=1),
            name="AssumeRole",
            service="sts",
            signer=OLD["ci-deploy"],
            actor="ci-deploy",
            issued_key_id="ASIAASSUMEDBYDEPLOYA",
            role=arn,
        )
    )


def _left_by_others(what: str) -> Rights:
    if what == "policy":
        return Rights(inline={POLICY: {"Version": "2012-10-17", "Statement": []}})
    since = START - (timedelta(hours=1) if what == "stale-lease" else timedelta(0))
    return Rights(tags={LEASE: f"another-case@{since.isoformat()}"})


def _add_build(circleci: CircleCiState, name: str, slug: str, *, began_s: float, ends_s: float) -> None:
    began = START + timedelta(seconds=began_s)
    job = RunJob(id=f"job-{name}", name=BUILD, number=1, started_at=began, stopped_at=START + timedelta(seconds=ends_s))
    workflow = RunWorkflow(id=f"workflow-{name}", name=BUILD, created_at=began, jobs=[job])
    circleci.pipelines[name] = RunPipeline(id=name, project=slug, number=1, created_at=began, workflows=[workflow])


# --- Strangers ------------------------------------------------------------------------------------------------------


def act_as(stranger: Stranger, world: TwinWorld, oracle: Oracle) -> None:
    """Do what the stranger does, and let the oracle know what no journal of ours will say."""
    owner = f"{ACCOUNT}/{stranger.where}"
    match stranger.what:
        case "key":
            oracle.stranger_did(world.foreign_create_key(ACCOUNT, stranger.where), "key", owner)
        case "off-new":
            for key in oracle.truth.ours(owner):
                world.foreign_set_status(ACCOUNT, key.id, KeyStatus.INACTIVE)
                oracle.stranger_did(f"off {key.id}", "off", owner)
        case "lease":
            value = f"another-case@{world.clock.now().replace(microsecond=0).isoformat()}"
            world.foreign_change_rights(ACCOUNT, stranger.where, lambda held: _with_tag(held, value))
            oracle.stranger_did(f"lease {value}", "lease", owner)
        case "use-old":
            key_id = OLD[stranger.where]
            iam_keys.use(world, world.state.accounts[ACCOUNT].keys[key_id], service="s3")
            world.save()
            oracle.stranger_did(f"use {key_id} {world.clock.now().isoformat()}", "use", f"{ACCOUNT}/{key_id}")
        case "build":
            _fail_a_build(world, stranger.where)
        case _:
            _write(stranger, world, oracle)


def _with_tag(held: Rights, value: str) -> Rights:
    return Rights(tags={**held.tags, LEASE: value}, inline=held.inline, attached=held.attached)


def _fail_a_build(world: TwinWorld, slug: str) -> None:
    pipelines, now = world.state.circleci.pipelines, world.clock.now()
    number = 100 + len(pipelines)
    began, ended = now - timedelta(milliseconds=10), now
    job = RunJob(id=f"job-{number}", name=BUILD, number=number, status="failed", started_at=began, stopped_at=ended)
    workflow = RunWorkflow(id=f"workflow-{number}", name=BUILD, created_at=began, jobs=[job])
    name = f"pipe-{number}"
    pipelines[name] = RunPipeline(id=name, project=slug, number=number, created_at=began, workflows=[workflow])
    world.save()


def _write(stranger: Stranger, world: TwinWorld, oracle: Oracle) -> None:
    pair = oracle.pairs[stranger.where]
    if stranger.what == "put-old":
        world.foreign_put_pair(pair.sink, OLD[pair.user], pair.id_variable, pair.secret_variable)
    else:
        world.foreign_put(pair.sink, pair.id_variable, "AKIASTRANGERSTRANGER")
        world.foreign_put(pair.sink, pair.secret_variable, "a stranger's secret of forty characters!")
    oracle.stranger_did(f"put {stranger.where}", "put", stranger.where)


def lift_what_others_left(world: TwinWorld, user: str) -> None:
    """What the colleague does who is asked: the lease and the policy that are not ours go."""

    def without(held: Rights) -> Rights:
        ours = {name: document for name, document in held.inline.items() if document.get("Statement")}
        tags = {name: value for name, value in held.tags.items() if not value.startswith("another-case@")}
        return Rights(tags=tags, inline=ours, attached=held.attached)

    world.foreign_change_rights(ACCOUNT, user, without)
