"""Keys, tokens and webhooks on the twin: made before deleted, seen and not believed, never twice, never in silence."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from played import Played, Responder, Shadowed
from twins.kinds_world import START, fingerprint, kinds_state, kinds_world, number

from playbook.clients.circleci import CircleCiClient
from playbook.errors import CircleCiError, Effect, ExitCode, GuardError, UsageError
from playbook.operators.answers_file import dump
from playbook.operators.script import Script
from playbook.ports import ProjectSecrets, SecretKind
from playbook.records import Applied, Intended, Verified
from playbook.secret import Secret
from playbook.twins import state as states
from playbook.twins.faults import Faults, parse
from playbook.twins.seed import mirror
from playbook.twins.server import CircleCiServer
from playbook.twins.world import TwinWorld
from steps.check_access import CheckAccess
from steps.inventory_secrets import InventorySecrets
from steps.put_back import PutBack
from steps.rotate_checkout_keys import RotateCheckoutKeys
from steps.stored_secrets import NAMES
from steps.update_variables import UpdateVariables

ACCOUNT = "111122223333"
API = "gh/acme/api"
OLD = fingerprint("gh/acme/api1")
USER_KEY = fingerprint("gh/acme/api2")
STEPS = (CheckAccess(), InventorySecrets(), RotateCheckoutKeys())
CHECKOUT, WEBHOOK = "variables.value_from:checkout-key", "variables.value_from:webhook-secret"
TOKEN, RUNNER = "variables.value_from:project-token", "variables.value_from:runner-token"


def world_of(*projects, faults=()):
    state = kinds_state(*projects)
    who = f"arn:aws:sts::{ACCOUNT}:assumed-role/responder/me"
    state.accounts[ACCOUNT] = states.Account(id=ACCOUNT, operator_arn=who)
    world = kinds_world(state)
    world.faults = Faults([parse(text) for text in faults])
    return TwinWorld(state, switches=world.switches, faults=world.faults, rng=world.random)


def played(faults=(), **answers):
    return Played(world_of(faults=faults), Responder(**answers))


def recreated(question):
    """`recreate` where it is not refused, else keep."""
    return "keep" if "recreate" in question.refused else "recreate"


def project(case, slug=API):
    return case.world.state.circleci.projects[slug]


def checkout_keys(case, kind="deploy-key"):
    return [item.fingerprint for item in project(case).checkout_keys if item.type == kind]


# --- Keep, and by hand ----------------------------------------------------------------------------------------------


def test_the_safe_default_keeps_everything_and_says_so():
    case = played()
    before = msgspec.json.encode(case.world.state.circleci)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE
    assert msgspec.json.encode(case.world.state.circleci) == before
    said = "\n".join(case.findings("rotate_checkout_keys"))
    for kind, name in NAMES.items():
        about = [item for item in case.responder.asked.values() if item.subject.get("kind") == kind.value]
        asked = [item for item in about if item.answer_key == "variables.value_from"]
        assert asked, f"nobody asked about any {name}"
        assert all(item.default == "keep" for item in asked)
        assert name in said, f"that a {name} was kept is not said"
    assert OLD in said
    assert "rack-1 of acme/linux" in said


@pytest.mark.parametrize(("severity", "proposed"), [("confirmed", 1), ("exposed", 1), ("routine", 0)])
def test_proposed_is_only_what_needs_no_hands(severity, proposed):
    case = played(incident__severity=severity)
    case.play(*STEPS)
    asked = [item for item in case.responder.asked.values() if item.id.startswith("variables.value_from")]
    assert [item.subject["name"] for item in asked if item.proposal != "keep"] == [OLD] * proposed


def test_a_webhook_without_a_secret_is_not_asked_about():
    case = played()
    case.play(*STEPS)
    webhooks = [item.subject["name"] for item in case.responder.asked.values() if item.id.startswith(WEBHOOK)]
    assert webhooks == ["signed"]


def test_what_could_not_be_read_is_a_danger_by_name():
    case = played()
    case.world.state.circleci.refusals[f"project_tokens:{API}"] = states.Refusal(code="HTTP403", status=403)
    case.play(*STEPS)
    assert any("could not be read: API tokens of gh/acme/api" in text for text in case.findings("rotate_checkout_keys"))


@pytest.mark.parametrize("kind", list(NAMES))
def test_what_hands_do_is_done_when_the_old_one_is_gone(kind):
    place = "acme/linux" if kind is SecretKind.RUNNER_TOKEN else API
    case = played(**{f"variables.value_from:{kind.value}:{place}": "done-by-hand"})
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    assert {trouble.cause for trouble in outcome.troubles} == {"conflict"}
    assert all("in CircleCI, " in trouble.reason for trouble in outcome.troubles)
    assert case.play(*STEPS).exit_code is ExitCode.WAITING, "nobody did anything in between"
    stored = project(case)
    stored.checkout_keys, stored.ssh_keys, stored.legacy_aws, stored.tokens = [], [], None, []
    stored.webhooks, stored.definitions = [], []
    owner = case.world.state.circleci.organizations["gh/acme"]
    owner.runner_classes = [states.RunnerClass(id="c", name="acme/linux")]
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert case.of(Verified, "circleci:confirm-gone")
    assert not case.of(Intended)


def test_a_webhook_changed_by_hand_is_the_same_one_with_another_time():
    case = played(**{WEBHOOK: "done-by-hand"})
    assert case.play(*STEPS).exit_code is ExitCode.WAITING
    case.world.circleci.set_webhook_secret(number(API, "signed"), Secret("theirs"))
    assert case.play(*STEPS).exit_code is ExitCode.DONE


# --- Checkout keys --------------------------------------------------------------------------------------------------


def test_a_deploy_key_is_made_and_listed_before_the_old_one_goes():
    case = played(**{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    new = checkout_keys(case)
    assert len(new) == 1
    assert new != [OLD]
    assert checkout_keys(case, "github-user-key") == [USER_KEY]
    order = [
        type(item).__name__ + item.key.split(":")[1] for item in case.records if isinstance(item, Applied | Verified)
    ]
    assert order[-4:] == [
        "Appliedcreate-checkout-key",
        "Verifiedcreate-checkout-key",
        "Applieddelete-checkout-key",
        "Verifieddelete-checkout-key",
    ]
    said = "\n".join(case.findings("rotate_checkout_keys"))
    assert "at GitHub, acme/api, Settings, Deploy keys" in said


def test_what_cannot_be_recreated_is_refused_with_the_reason():
    standalone = states.StoredProject(
        id=number("standalone"),
        slug="circleci/aaaa/bbbb",
        organization="gh/acme",
        checkout_keys=[states.CheckoutKey(fingerprint=fingerprint("standalone"))],
    )
    case = Played(world_of(*kinds_state().circleci.projects.values(), standalone))
    case.play(*STEPS)
    asked = [item for item in case.responder.asked.values() if item.id.startswith("variables.value_from")]
    refused = {item.subject["name"]: item.refused for item in asked}
    assert "only that user" in refused[USER_KEY]["recreate"]
    assert "no API for the checkout keys" in refused[fingerprint("standalone")]["recreate"]
    assert fingerprint("gone") not in refused, "nothing can be changed there, so nothing is asked"
    assert any(
        "project is deleted" in text and fingerprint("gone") in text for text in case.findings("rotate_checkout_keys")
    )
    assert "no API that makes" in refused["deploy.example"]["recreate"]
    assert not refused[OLD]
    assert not refused["badge"]


def test_an_undo_takes_the_new_key_away_while_the_old_one_is_there():
    case = played(["deny:delete_checkout_key:1x1"], **{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is not ExitCode.DONE
    assert len(checkout_keys(case)) == 2
    assert case.play(PutBack()).exit_code is ExitCode.DONE
    assert checkout_keys(case) == [OLD]


def test_an_undo_leaves_the_only_key_that_there_is():
    case = played(**{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    new = checkout_keys(case)
    outcome = case.play(PutBack())
    assert any("nothing could be checked out" in trouble.reason for trouble in outcome.troubles)
    assert checkout_keys(case) == new


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
def test_a_create_whose_end_nobody_knows_is_looked_for_and_never_leaves_an_orphan(fault):
    case = played([f"{fault}:create_checkout_key"], **{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert len(checkout_keys(case)) == 1
    assert checkout_keys(case) != [OLD]
    tries = case.of(Intended, "circleci:create-checkout-key")
    made_by_the_first = fault in {"drop-reply", "server-error-applied"}
    assert len(tries) == (1 if made_by_the_first else 2)


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
def test_a_delete_whose_end_nobody_knows_is_repeated_safely(fault):
    case = played([f"{fault}:delete_checkout_key"], **{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert len(checkout_keys(case)) == 1
    assert checkout_keys(case) != [OLD]


def test_a_refused_create_leaves_the_old_key_and_names_what_was_refused():
    case = played(["deny:create_checkout_key:1x99"], **{CHECKOUT: recreated})
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.SOME_FAILED
    assert checkout_keys(case) == [OLD]
    assert any(trouble.failed and "HTTP403" in trouble.reason for trouble in outcome.troubles)


def test_a_refused_delete_keeps_both_keys_and_goes_on_with_the_delete_alone():
    case = played(["deny:delete_checkout_key:1x1"], **{CHECKOUT: recreated})
    assert case.play(*STEPS).exit_code is not ExitCode.DONE
    assert len(checkout_keys(case)) == 2
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert len(checkout_keys(case)) == 1
    assert len(case.of(Intended, "circleci:create-checkout-key")) == 1


class Meddling:
    """CircleCI with somebody who adds a deploy key just while ours is being made and its reply lost."""

    def __init__(self, case, *, reply_lost=True):
        self.case = case
        self.reply_lost = reply_lost

    def create_checkout_key(self, to, kind):
        stored = project(self.case)
        strange = states.CheckoutKey(fingerprint=fingerprint("strange"), created_at=self.case.world.clock.now())
        stored.checkout_keys = [*stored.checkout_keys, strange]
        made = self.case.world.circleci.create_checkout_key(to, kind)
        if self.reply_lost:
            raise CircleCiError("making a key", code="Timeout", effect=Effect.UNKNOWN)
        return made


def shadowed(case, **instead):
    platforms = case.world.platforms()
    return replace(platforms, circleci=Shadowed(platforms.circleci, **instead))


def test_two_new_keys_after_a_lost_reply_are_for_a_human_and_none_is_deleted():
    case = played(**{CHECKOUT: recreated})
    platforms = shadowed(case, create_checkout_key=Meddling(case).create_checkout_key)
    outcome = case.play(*STEPS, platforms=platforms)
    assert outcome.exit_code is ExitCode.WAITING
    (trouble,) = [item for item in outcome.troubles if item.cause == "conflict"]
    assert "nothing says which is ours" in trouble.reason
    assert len(checkout_keys(case)) == 3
    stored = project(case)
    stored.checkout_keys = [item for item in stored.checkout_keys if item.fingerprint != fingerprint("strange")]
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert len(checkout_keys(case)) == 1
    assert len(case.of(Intended, "circleci:create-checkout-key")) == 1


def test_a_strangers_key_beside_an_answered_create_is_left_alone():
    case = played(**{CHECKOUT: recreated})
    platforms = shadowed(case, create_checkout_key=Meddling(case, reply_lost=False).create_checkout_key)
    assert case.play(*STEPS, platforms=platforms).exit_code is ExitCode.DONE
    assert fingerprint("strange") in checkout_keys(case)
    assert OLD not in checkout_keys(case)
    assert len(checkout_keys(case)) == 2


def test_a_list_that_lags_is_waited_for_and_nothing_is_made_twice():
    case = played(["drop-reply:create_checkout_key"], **{CHECKOUT: recreated})
    inner = case.world.circleci

    def lagging(of, kinds):
        read = inner.project_secrets(of, kinds)
        shown = tuple(
            row
            for row in read.secrets
            if row.created_at is None or (case.world.clock.now() - row.created_at).total_seconds() > 20
        )
        return ProjectSecrets(variables=read.variables, secrets=shown, holes=read.holes)

    outcome = case.play(*STEPS, platforms=shadowed(case, project_secrets=lagging))
    assert outcome.exit_code is ExitCode.DONE
    assert len(checkout_keys(case)) == 1
    assert len(case.of(Intended, "circleci:create-checkout-key")) == 1


def test_an_old_key_that_is_gone_is_somebody_elses_work():
    case = played(**{CHECKOUT: recreated})
    inner = RotateCheckoutKeys()

    class Between(RotateCheckoutKeys):
        def plan(self, view, the_case, ask):
            made = inner.plan(view, the_case, ask)
            project(case).checkout_keys = []
            return made

    outcome = case.play(*STEPS[:2], Between())
    assert any("somebody else replaced it" in trouble.reason for trouble in outcome.troubles)
    assert not case.of(Intended)


# --- Tokens ---------------------------------------------------------------------------------------------------------


def add_token(case, label="badge"):
    stored = project(case)
    made = states.ProjectToken(id=number("new", label), label=label, scope="status", created_at=START)
    stored.tokens = [*stored.tokens, made]


def test_a_token_is_revoked_once_a_new_one_of_its_name_is_seen():
    case = played(**{TOKEN: "recreate"})
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    assert "come back only once it is in use" in outcome.troubles[0].reason
    add_token(case, "another name")
    assert case.play(*STEPS).exit_code is ExitCode.WAITING
    assert len(project(case).tokens) == 2
    add_token(case)
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert sorted(item.label for item in project(case).tokens) == ["another name", "badge"]
    assert number(API, "token") not in [item.id for item in project(case).tokens]


def test_a_new_token_that_is_gone_again_keeps_the_old_one():
    case = played(**{TOKEN: "recreate"})
    case.play(*STEPS)
    add_token(case)
    first = case.play(*STEPS, kill_at=0)
    assert first.exit_code is ExitCode.DONE
    again = played(["deny:delete_project_token"], **{TOKEN: "recreate"})
    again.play(*STEPS)
    add_token(again)
    again.play(*STEPS)
    project(again).tokens = project(again).tokens[:1]
    outcome = again.play(*STEPS)
    assert any("is gone again" in trouble.reason for trouble in outcome.troubles)
    assert [item.id for item in project(again).tokens] == [number(API, "token")]


@pytest.mark.parametrize("fault", ["drop-reply", "server-error", "throttle"])
def test_a_runner_token_goes_the_same_way(fault):
    case = played([f"{fault}:delete_runner_token"], **{RUNNER: "recreate"})
    assert case.play(*STEPS).exit_code is ExitCode.WAITING
    owner = case.world.state.circleci.organizations["gh/acme"]
    old = owner.runner_classes[0]
    new = states.RunnerToken(id=number("new runner"), nickname="rack-1", created_at=START)
    owner.runner_classes = [msgspec.structs.replace(old, tokens=[*old.tokens, new]), *owner.runner_classes[1:]]
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert [item.id for item in owner.runner_classes[0].tokens] == [new.id]


# --- Webhooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["", "drop-reply", "drop-request", "server-error-applied", "throttle"])
def test_a_webhook_gets_a_new_secret_and_its_time_moves(fault):
    case = played([f"{fault}:set_webhook_secret"] if fault else [], **{WEBHOOK: "env:NEW_WEBHOOK_SECRET"})
    before = {item.name: item.updated_at for item in project(case).webhooks}
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    after = {item.name: (item.has_secret, item.updated_at) for item in project(case).webhooks}
    assert after["signed"][0]
    assert after["signed"][1] > before["signed"]
    assert after["bare"] == (False, before["bare"])


def test_a_webhook_that_ends_without_a_secret_is_not_called_done():
    case = played(**{WEBHOOK: "env:NEW_WEBHOOK_SECRET"})

    def emptied(webhook_id, _value):
        case.world.circleci.set_webhook_secret(webhook_id, Secret(""))

    outcome = case.play(*STEPS, platforms=shadowed(case, set_webhook_secret=emptied))
    assert outcome.exit_code is not ExitCode.DONE
    assert not case.of(Verified, "circleci:set-webhook-secret")


def test_a_webhook_that_somebody_changed_since_the_inventory_is_not_overwritten():
    case = played(**{WEBHOOK: "env:NEW_WEBHOOK_SECRET"})
    inner = RotateCheckoutKeys()

    class Between(RotateCheckoutKeys):
        def plan(self, view, the_case, ask):
            made = inner.plan(view, the_case, ask)
            case.world.circleci.set_webhook_secret(number(API, "signed"), Secret("theirs"))
            return made

    outcome = case.play(*STEPS[:2], Between())
    assert any("somebody changed the webhook" in trouble.reason for trouble in outcome.troubles)
    assert not case.of(Intended, "circleci:set-webhook-secret")


# --- Every instant --------------------------------------------------------------------------------------------------


WANTED = {
    "deploy keys": 1,
    "old key": False,
    "tokens": [number("new", "badge")],
    "runner tokens": [number("new runner")],
    "webhook": [True, False],
}


def everything(faults=()):
    case = played(faults, **{CHECKOUT: recreated, WEBHOOK: "env:NEW", TOKEN: "recreate", RUNNER: "recreate"})
    owner = case.world.state.circleci.organizations["gh/acme"]
    old = owner.runner_classes[0]

    class Placed(RotateCheckoutKeys):
        """Somebody makes the new tokens while the plan is read."""

        def plan(self, view, the_case, ask):
            made = RotateCheckoutKeys().plan(view, the_case, ask)
            if len(project(case).tokens) == 1:
                add_token(case)
                new = states.RunnerToken(id=number("new runner"), nickname="rack-1", created_at=START)
                changed = msgspec.structs.replace(old, tokens=[*old.tokens, new])
                owner.runner_classes = [changed, *owner.runner_classes[1:]]
            return made

    return case, (*STEPS[:2], Placed())


def end_of(case):
    stored = project(case)
    owner = case.world.state.circleci.organizations["gh/acme"]
    return {
        "deploy keys": len(checkout_keys(case)),
        "old key": OLD in checkout_keys(case),
        "tokens": [item.id for item in stored.tokens],
        "runner tokens": [item.id for item in owner.runner_classes[0].tokens],
        "webhook": [item.has_secret for item in stored.webhooks],
        "creates": len(case.of(Intended, "circleci:create-checkout-key")),
    }


def test_killed_at_every_instant_it_ends_in_the_same_world():
    case, steps = everything()
    assert case.play(*steps).exit_code is ExitCode.DONE
    instants = case.instants
    assert end_of(case) == {**WANTED, "creates": 1}
    for instant in range(1, instants + 1):
        case, steps = everything()
        assert case.play(*steps, kill_at=instant) is None, instant
        outcome = case.play(*steps)
        assert outcome.exit_code is ExitCode.DONE, (instant, outcome.troubles)
        ended = end_of(case)
        # An intent whose request never left is declared again, once nothing of it turned up.
        assert ended.pop("creates") in {1, 2}, instant
        assert ended == WANTED, instant
    print(f"{instants} instants, each with a kill and a resume")


# --- The answers file -----------------------------------------------------------------------------------------------

FILE = """
[incident]
severity = "exposed"
[circleci]
organizations = ["gh/acme"]
[[variables]]
match = { kind = "checkout-key", project = "gh/acme/api", name = "%s" }
value_from = "recreate"
[[variables]]
match = { kind = "*-token" }
value_from = "keep"
[[variables]]
match = { kind = "webhook-secret" }
value_from = "env:NEW_WEBHOOK_SECRET"
"""


def test_the_answers_file_speaks_of_kinds_and_what_it_does_not_say_is_said_aloud():
    said = []
    case = Played(world_of(), Script(FILE % OLD, yes=True, say=said.append))
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert checkout_keys(case) != [OLD]
    assert any("kind ssh-key" in line and "keep" in line for line in said)
    assert not any("kind project-token" in line for line in said)


def test_an_answer_that_cannot_be_carried_out_is_refused_before_anything_is_changed():
    with pytest.raises(GuardError, match="only that user"):
        Played(world_of(), Script(FILE % "*", yes=True)).play(*STEPS)
    wrong = FILE.replace('kind = "*-token" }\nvalue_from = "keep"', 'kind = "*-token" }\nvalue_from = "env:X"')
    case = Played(world_of(), Script(wrong % OLD, yes=True))
    with pytest.raises(UsageError, match="cannot be answered like that"):
        case.play(*STEPS)
    assert checkout_keys(case) == [OLD]


def test_an_entry_may_speak_of_deploy_keys_alone():
    text = FILE.replace('name = "%s"', 'detail = "deploy-*"')
    case = Played(world_of(), Script(text, yes=True))
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert checkout_keys(case) != [OLD]
    assert checkout_keys(case, "github-user-key") == [USER_KEY]


def test_recreate_is_no_answer_about_a_variable():
    text = """
[incident]
severity = "exposed"
[circleci]
organizations = ["gh/acme"]
[[variables]]
match = { kind = "*" }
value_from = "keep"
[[variables]]
match = {}
value_from = "recreate"
"""
    case = Played(world_of(), Script(text, yes=True))
    with pytest.raises(UsageError, match="CircleCI makes no new value of a variable"):
        case.play(*STEPS, UpdateVariables())
    assert not case.of(Intended)


def test_what_was_answered_by_hand_is_printed_as_a_file_that_gives_the_same_answers():
    case = played(**{CHECKOUT: recreated, TOKEN: "recreate", WEBHOOK: "env:NEW"})
    case.play(*STEPS)
    asked = [item for item in case.responder.asked.values() if item.id.startswith("variables.value_from")]
    answers = [
        ({"answer_key": item.answer_key, "subject": item.subject}, case.responder.answer(item)) for item in asked
    ]
    script = Script(dump(answers))
    assert [script.answer(item) for item in asked] == [value for _, value in answers]


def test_a_dry_run_on_a_twin_of_the_world_plans_the_same():
    answers = {CHECKOUT: recreated, WEBHOOK: "env:NEW", TOKEN: "recreate", RUNNER: "recreate"}
    answers["variables.value_from:ssh-key"] = "done-by-hand"
    live = played(**answers)
    twin = mirror(live.world.platforms(), accounts=[ACCOUNT], organizations=["gh/acme"])
    walked = Played(twin, Responder(**answers))
    walked.play(*STEPS)
    live.play(*STEPS)
    plans = [
        next(plan for plan in case.responder.approved if plan.step == "rotate_checkout_keys") for case in (walked, live)
    ]
    assert len(plans[0].actions) == 10
    assert plans[0].digest() == plans[1].digest()


# --- Through the real client ----------------------------------------------------------------------------------------


def over_http(case, server):
    client = CircleCiClient(host=server.url, token=Secret("the-token"))
    return client, replace(case.world.platforms(), circleci=client)


@pytest.mark.parametrize("private", [True, False])
def test_the_real_client_shows_and_changes_the_same_over_http(private):
    case = played(**{CHECKOUT: recreated, WEBHOOK: "env:NEW", TOKEN: "recreate"})
    case.world.switches = replace(case.world.switches, private_details=private)
    with CircleCiServer(case.world, Secret("the-token")) as server:
        client, platforms = over_http(case, server)
        with client:
            assert case.play(*STEPS, platforms=platforms).exit_code is ExitCode.WAITING
            add_token(case)
            outcome = case.play(*STEPS, platforms=platforms)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert len(checkout_keys(case)) == 1
    assert checkout_keys(case) != [OLD]
    assert [item.id for item in project(case).tokens] == [number("new", "badge")]


# --- Random histories -----------------------------------------------------------------------------------------------

FAULTS = ("drop-reply", "drop-request", "server-error", "server-error-applied", "throttle", "deny")
WRITES = ("create_checkout_key", "delete_checkout_key", "set_webhook_secret", "delete_project_token")
HISTORIES = 150


def test_random_kills_and_faults_never_leave_a_project_without_a_key_or_with_two_of_ours():
    kinds = Counter()
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        faults = [
            f"{chance.choice(FAULTS)}:{chance.choice(WRITES)}:{chance.randint(1, 2)}"
            for _ in range(chance.randint(1, 3))
        ]
        case, steps = everything(faults)
        outcome = None
        for _ in range(chance.randint(1, 3)):
            outcome = case.play(*steps, kill_at=chance.randint(1, 190))
            assert checkout_keys(case), (seed, "nothing could be checked out")
        for _ in range(6):
            # A refused call parks its lane, and the responder comes back.
            outcome = case.play(*steps)
            assert checkout_keys(case), (seed, "nothing could be checked out")
            if outcome.exit_code is ExitCode.DONE:
                break
        assert outcome.exit_code is ExitCode.DONE, (seed, faults, outcome.troubles)
        ended = end_of(case)
        kinds[ended.pop("creates")] += 1
        assert ended == WANTED, (seed, faults)
    print(f"{HISTORIES} histories (seeds 0 to {HISTORIES - 1}); how often a create was declared: {dict(kinds)}")
