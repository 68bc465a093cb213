"""From access keys to roles on the twin: made in order, proved, cut over, and put back from either side of the cut."""

from __future__ import annotations

import json
import shlex

import msgspec
import pytest
from oidc_world import (
    CONTEXT,
    FIRST,
    MOVING,
    PLACES,
    READING,
    SECOND,
    STEPS,
    end_of,
    oidc_case,
    oidc_state,
    pairs,
    picture,
    roles,
    sink_of,
    stored_names,
    undo,
)
from played import Killed

from playbook import cli
from playbook.engine import Engine
from playbook.errors import ExitCode, GuardError, UsageError
from playbook.model import Recourse
from playbook.ports import KeyStatus
from playbook.records import Answered, Applied, Intended, Verified
from playbook.trust import Grant, Issuer, TrustedProject, evaluate, job_token, make_trust
from playbook.twins import scenario
from playbook.twins import state as states
from playbook.twins.iam_calls import truth
from playbook.twins.state import Version
from steps.migrate_config import MigrateConfig
from steps.migrate_to_oidc import MigrateToOidc

CREATES = ("create_provider", "create_role", "create_context", "create_restriction", "put_role_policy")
PROVIDER = "arn:aws:iam::{account}:oidc-provider/oidc.circleci.com/org/{organization}"


def organization(case):
    return case.world.state.circleci.organizations["gh/acme"]


def project(case, slug):
    return case.world.state.circleci.projects[slug]


def role(case, name, account=FIRST):
    return truth(case.world.state.accounts[account].roles[name])


def put_role(case, name, trust, account=FIRST, **more):
    made = states.IamRole(
        name=name,
        arn=f"arn:aws:iam::{account}:role/{name}",
        trust=trust,
        created_at=case.world.clock.now(),
        **more,
    )
    case.world.foreign_put_role(account, made)
    case.world.clock.advance(60)


def one_project(slug="gh/acme/api"):
    """The scenario's world with one project, its context and its account alone."""
    state = oidc_state()
    circleci = state.circleci
    circleci.projects = {slug: circleci.projects[slug]}
    circleci.pipelines = {}
    del state.accounts[SECOND]
    account = state.accounts[FIRST]
    account.users = {"ci-api": account.users["ci-api"]}
    account.keys = {name: key for name, key in account.keys.items() if key.user == "ci-api"}
    return state


# --- Forward --------------------------------------------------------------------------------------------------------


def test_three_projects_in_two_accounts_move_and_no_key_is_left():
    case = oidc_case()
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert roles(case.world) == {FIRST: ["circleci-api", "circleci-web"], SECOND: ["circleci-data"]}
    names = stored_names(case.world)
    assert names[CONTEXT] == ["AWS_DEFAULT_REGION"]
    assert [names[slug] for slug in PLACES] == [[], [], []]
    assert all(names[f"aws-oidc-{name}"] == ["AWS_DEFAULT_REGION", "AWS_ROLE_ARN"] for name in ("api", "web", "data"))
    statuses = [key.changes[-1].status for item in case.world.state.accounts.values() for key in item.keys.values()]
    assert statuses == [KeyStatus.INACTIVE] * 3
    canaries = case.of(Verified, "circleci:run-role-canary")
    assert len(canaries) == 3
    assert all(":assumed-role/circleci-" in item.evidence["arn"] for item in canaries)


def test_a_role_holds_what_the_user_could_do_and_lasts_as_long_as_the_longest_job():
    case = oidc_case()
    case.play(*STEPS)
    made = role(case, "circleci-api")
    assert made.max_session_s == 7200, "the longest job took 72 minutes"
    assert made.attached == (f"arn:aws:iam::{FIRST}:policy/acme-deploy",)
    written = json.dumps(made.inline)
    assert "sqs:SendMessage" in written
    assert "ecr:BatchGetImage" in written, "the group's permissions are the user's"
    assert made.tags == {"rotation-playbook-case": "toy"}


def test_nothing_is_written_into_a_context_before_it_is_limited_to_its_project():
    case = oidc_case()
    case.play(*STEPS)
    applied = [item.key for item in case.records if isinstance(item, Applied)]
    for name in ("api", "web", "data"):
        created, limited, stored = (
            min(
                number
                for number, key in enumerate(applied)
                if key.startswith(f"circleci:{kind}:gh/acme/aws-oidc-{name}")
            )
            for kind in ("create-context", "restrict-context", "store-setting")
        )
        made = next(number for number, key in enumerate(applied) if key.startswith("iam:create-role:") and name in key)
        registered = next(number for number, key in enumerate(applied) if key.startswith("iam:create-oidc-provider:"))
        assert registered < made < created < limited < stored


def test_forks_that_receive_secrets_are_kept_out_by_where_the_code_came_from():
    case = oidc_case()
    case.play(*STEPS)
    web = project(case, "gh/acme/web")
    issuer = Issuer.cloud(organization(case).id)
    principal = PROVIDER.format(account=FIRST, organization=organization(case).id)
    user = "5f0c1c52-6a2e-4c67-9d0e-3a7f2b1c4d5e"
    trust = role(case, "circleci-web").trust
    for origin, allowed in (("github.com/acme/web", True), ("github.com/stranger/web", False)):
        token = job_token(issuer, web.id, user=user, origin=origin, ref="refs/heads/main")
        assert evaluate(trust, principal, token.keys("aws")).allows is allowed


def test_without_a_key_that_moves_the_steps_plan_nothing_and_ask_nothing_of_the_platforms():
    case = oidc_case(**{"keys.strategy": "keep", "keys.reason": "another day"})
    case.play(*READING)
    calls = []
    answer = {"id": "keys.strategy:all", "answer_key": "keys.strategy", "subject": {}, "value": "keep"}
    case.journal.append(Answered(**answer))
    platforms = case.world.platforms()
    case.world.on_call = lambda call, _when: calls.append(call)
    engine = Engine(case.journal, platforms, case.responder, waits=case.waits, parallel=1)
    assert engine.run(MOVING, closes=False).exit_code is ExitCode.DONE
    case.world.on_call = None
    planned = {step.id: case.journal.state.plans[step.id] for step in MOVING}
    assert not any(part.actions for parts in planned.values() for part in parts)
    assert not calls


@pytest.mark.parametrize(
    ("answers", "names", "contexts"),
    [
        ({"oidc.role_name": "ci-{context}"}, ["ci-api", "ci-aws-production", "ci-data", "ci-web"], None),
        ({"oidc.role_name": "circleci"}, ["circleci", "circleci"], [f"aws-oidc-{FIRST}", f"aws-oidc-{SECOND}"]),
    ],
)
def test_roles_are_named_by_the_template(answers, names, contexts):
    case = oidc_case(**answers)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert sorted(name for found in roles(case.world).values() for name in found) == names
    if contexts is not None:
        assert [name for name in sorted(stored_names(case.world)) if name.startswith("aws-oidc")] == contexts


def test_ecr_pulls_are_allowed_where_the_answers_name_them():
    case = oidc_case(**{"oidc.ecr_repositories": ("arn:aws:ecr:eu-central-1:444455556666:repository/data",)})
    case.play(*STEPS)
    written = json.dumps(role(case, "circleci-data", SECOND).inline)
    assert "ecr:GetDownloadUrlForLayer" in written
    assert "repository/data" in written


def test_the_least_privilege_draft_is_a_finding_with_its_difference():
    case = oidc_case(one_project(), **{"oidc.permissions": "least-privilege"})
    key_id = next(iter(case.world.state.accounts[FIRST].keys))
    case.world.foreign_event(FIRST, "SendMessage", service="sqs", signer=key_id, actor="ci-api")
    case.world.clock.advance(600)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    made = role(case, "circleci-api")
    assert not made.attached
    assert "sqs:SendMessage" in json.dumps(made.inline)
    assert "s3:PutObject" not in json.dumps(made.inline)
    assert any("and no more" in text for text in case.findings("migrate_to_oidc"))


def test_a_least_privilege_that_nothing_was_seen_of_is_refused():
    assert "the least its role needs cannot be told" in refused(
        oidc_case(one_project(), **{"oidc.permissions": "least-privilege"})
    )


# --- The configuration ----------------------------------------------------------------------------------------------


def test_the_case_waits_for_the_configuration_and_goes_on_when_a_pipeline_ran_with_it():
    case = oidc_case(merged=False)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    assert roles(case.world)[SECOND] == ["circleci-data"], "what people need for the change is there"
    assert stored_names(case.world)["gh/acme/api"], "no key is gone"
    said = case.findings("migrate_config")
    assert any("migrate-config . --role-arn arn:aws:iam::111122223333:role/circleci-api" in text for text in said)
    (line,) = [text for text in said if "In a checkout of gh/acme/api" in text]
    words = shlex.split(line.split("`")[1])
    parsed = cli.commands.commands[words[1]].make_context(words[1], words[2:])
    assert parsed.params["role_arn"].endswith("role/circleci-api")
    assert parsed.params["context"] == "aws-oidc-api"
    assert case.play(*STEPS).exit_code is ExitCode.WAITING, "nobody merged anything in between"
    run(case, "gh/acme/api", "context: [aws-oidc-api]")
    run(case, "gh/acme/web", "context: aws-oidc-webmail")
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    names = stored_names(case.world)
    assert not names["gh/acme/api"], "what is ready goes on without the others"
    assert names["gh/acme/web"], "a context whose name only begins alike is another one"
    run(case, "gh/acme/web", "role-arn: arn:aws:iam::111122223333:role/circleci-web")
    run(case, "gh/acme/data", '{"context": ["aws-oidc-data"]}')
    assert case.play(*STEPS).exit_code is ExitCode.DONE


def run(case, slug, text):
    circleci = case.world.state.circleci
    number = len(circleci.pipelines) + 100
    circleci.pipelines[f"run-{number}"] = states.RunPipeline(
        id=f"run-{number}", project=slug, number=number, created_at=case.world.clock.now(), compiled=text
    )


def test_a_responder_may_pass_the_wait_with_a_reason():
    case = oidc_case(one_project(), merged=False, **{"gates.reason": "merged on Tuesday; it deploys at night"})
    case.responder.recourse = lambda trouble: Recourse.OVERRIDE if trouble.action.gate == "config" else Recourse.ABORT
    outcome = case.play(*STEPS)
    # The cut-over was parked for it, and goes on with the next process.
    assert outcome.exit_code in {ExitCode.DONE, ExitCode.WAITING}
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    (passed,) = case.of(Verified, "circleci:confirm-config-merged")
    assert passed.evidence["reason"].startswith("merged on Tuesday")


# --- The cut-over ---------------------------------------------------------------------------------------------------


def test_a_job_that_is_not_the_role_keeps_its_key():
    case = oidc_case(one_project())
    case.play(*READING, MigrateToOidc(), MigrateConfig())
    held = case.world.state.accounts[FIRST].providers
    name = next(iter(held))
    held[name].append(Version(at=case.world.clock.now(), value=None))
    case.world.clock.advance(60)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    assert any("could not sign: AccessDenied" in item.reason for item in outcome.troubles)
    assert stored_names(case.world)["gh/acme/api"] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert not case.of(Intended, "circleci:remove-access-key")


def test_another_key_in_the_jobs_environment_is_named_and_stops_the_removal():
    case = oidc_case(one_project())
    case.play(*READING, MigrateToOidc(), MigrateConfig())
    case.world.foreign_put(sink_of(case.world, "gh/acme/api"), "AWS_ACCESS_KEY_ID", "AKIASTRANGERAAAAWXYZ")
    outcome = case.play(*STEPS)
    assert any("the project variable AWS_ACCESS_KEY_ID of gh/acme/api has it" in t.reason for t in outcome.troubles)
    assert not case.of(Intended, "circleci:remove-access-key")


def test_static_keys_that_would_shadow_the_role_are_named_before():
    case = oidc_case(**{"keys.strategy": lambda question: "oidc" if "/ci-web/" in question.id else "replace"})
    case.responder.answers["keys.canary"] = False
    stored = project(case, "gh/acme/web")
    other = next(iter(project(case, "gh/acme/api").variables.values()))
    stored.variables = {**stored.variables, "AWS_ACCESS_KEY_ID": other}
    case.play(*STEPS)
    said = "\n".join(case.findings("cut_over_to_oidc"))
    assert "AWS_ACCESS_KEY_ID of project gh/acme/web" in said


def test_without_inline_config_the_canary_waits_for_a_reason_and_the_keys_stay():
    state = one_project()
    state.circleci.organizations["gh/acme"].inline_config = False
    case = oidc_case(state)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is not ExitCode.DONE
    assert not case.of(Intended, "circleci:remove-access-key")
    assert any("No job can prove the role of gh/acme/api" in text for text in case.findings("cut_over_to_oidc"))
    case.responder.answers["gates.reason"] = "a nightly deployment of last night used the role"
    case.responder.recourse = lambda trouble: Recourse.OVERRIDE if trouble.action.gate == "canary" else Recourse.ABORT
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert not stored_names(case.world)["gh/acme/api"]


# --- Undo -----------------------------------------------------------------------------------------------------------


def test_undone_before_the_cut_over_the_world_is_as_it_was():
    case = oidc_case(merged=False)
    case.play(*READING)
    before = picture(case.world)
    assert case.play(*STEPS).exit_code is ExitCode.WAITING
    assert picture(case.world) != before
    assert undo(case).exit_code is ExitCode.DONE
    assert picture(case.world) == before


def test_undone_after_the_cut_over_every_place_works_on_a_new_key_and_nothing_else_differs():
    case = oidc_case()
    case.play(*READING)
    before, names = msgspec.json.decode(picture(case.world)), stored_names(case.world)
    assert case.play(*STEPS).exit_code is ExitCode.DONE
    assert undo(case).exit_code is ExitCode.DONE
    assert stored_names(case.world) == names
    for place, variables in pairs(case.world).items():
        sink = sink_of(case.world, place)
        assert case.world.works(sink, *variables)
        assert case.world.pair_key(sink, *variables) not in before[0][FIRST]["keys"] | before[0][SECOND]["keys"]
    api = [
        case.world.pair_key(sink_of(case.world, place), *pairs(case.world)[place]) for place in ("gh/acme/api", CONTEXT)
    ]
    assert api[0] == api[1], "the places of one key share one mint"
    assert roles(case.world) == {FIRST: [], SECOND: []}
    assert without_keys(picture(case.world)) == without_keys(json.dumps(before))
    assert len(case.of(Applied, "iam:create-access-key")) == 3


def without_keys(text):
    """The picture but for what is minted: the keys, and the values and times of the variables that hold them."""
    accounts, contexts, projects = json.loads(text)
    for account in accounts.values():
        account["keys"] = {name: status for name, status in account["keys"].items() if status == "Active"}
        account["keys"] = len(account["keys"]) - len([1 for name in account["users"]])
    for holder in (*contexts.values(), *projects.values()):
        for name in [name for name in holder["variables"] if "ACCESS_KEY" in name]:
            holder["variables"][name] = "a key"
    # What was minted is one more key of each user.
    return [{number: account | {"keys": 0} for number, account in accounts.items()}, contexts, projects]


def test_a_second_undo_finds_nothing_left():
    case = oidc_case(one_project())
    case.play(*STEPS)
    undo(case)
    after = picture(case.world)
    case.responder.approved.clear()
    assert undo(case).exit_code is ExitCode.DONE
    assert picture(case.world) == after


def test_an_undo_leaves_a_role_that_somebody_has_changed_since():
    case = oidc_case(one_project(), merged=False)
    case.play(*STEPS)
    held = role(case, "circleci-api")
    case.world.foreign_put_role(
        FIRST,
        msgspec.structs.replace(held, inline={**held.inline, "theirs": {"Version": "2012-10-17", "Statement": []}}),
    )
    case.world.clock.advance(60)
    outcome = undo(case)
    assert outcome.exit_code is ExitCode.WAITING
    assert roles(case.world)[FIRST] == ["circleci-api"]
    assert "theirs" in role(case, "circleci-api").inline


# --- Adoption and bad input -----------------------------------------------------------------------------------------


def test_a_role_of_the_name_is_adopted_by_an_approved_change_that_shows_the_difference_and_undone():
    case = oidc_case(one_project(), merged=False)
    principal = PROVIDER.format(account=FIRST, organization=organization(case).id)
    grant = Grant(
        issuer=Issuer.cloud(organization(case).id),
        partition="aws",
        account=FIRST,
        projects=(TrustedProject(id="00000000-0000-4000-8000-000000000001"),),
    )
    old = make_trust(grant)
    put_role(case, "circleci-api", old)
    before = picture(case.world)
    case.play(*STEPS)
    assert role(case, "circleci-api").trust != old
    assert principal in json.dumps(role(case, "circleci-api").trust)
    assert any("00000000-0000-4000-8000-000000000001" in text for text in case.findings("migrate_to_oidc"))
    (intended,) = case.of(Intended, "iam:update-trust")
    assert json.loads(intended.basis["before"]) == old, "IAM keeps no earlier version"
    assert undo(case).exit_code is ExitCode.DONE
    assert picture(case.world) == before


def refused(case, error=GuardError):
    """Play, and see that it was refused with nothing changed."""
    case.play(*READING)
    before = picture(case.world)
    with pytest.raises(error) as seen:
        case.play(*STEPS)
    assert picture(case.world) == before
    assert not case.of(Intended)
    return f"{seen.value.message} {seen.value.remedy}"


FOREIGN = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::999999999999:root"}, "Action": "sts:AssumeRole"}
    ],
}


def test_a_role_of_the_name_that_somebody_else_may_assume_is_not_touched():
    case = oidc_case(one_project())
    put_role(case, "circleci-api", FOREIGN)
    said = refused(case)
    assert "999999999999" in said
    assert "oidc.role_name" in said


def test_a_context_of_the_name_that_is_open_to_all_is_not_used():
    case = oidc_case(one_project())
    case.world.state.circleci.contexts["open"] = states.Context(id="open", name="aws-oidc", organization="gh/acme")
    assert "open to every project" in refused(case)


def test_a_context_of_the_name_with_another_role_is_not_used():
    case = oidc_case(one_project())
    api = project(case, "gh/acme/api")
    case.world.state.circleci.contexts["theirs"] = states.Context(
        id="theirs",
        name="aws-oidc",
        organization="gh/acme",
        restrictions=[states.ContextRestriction(id="r", kind="project", value=api.id)],
        variables={"AWS_ROLE_ARN": next(iter(api.variables.values()))},
    )
    assert "another AWS_ROLE_ARN already" in refused(case)


def test_an_organization_without_an_id_is_refused():
    state = one_project()
    state.circleci.organizations["gh/acme"].id = ""
    assert "does not say the id" in refused(oidc_case(state))


def test_an_audience_that_was_changed_since_the_inventory_stops_everything_before_it_begins():
    case = oidc_case(one_project())
    case.play(*READING)
    organization(case).claims = states.Claims(audience=("sts.amazonaws.com",))
    before = picture(case.world)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.WAITING
    assert any("the audience of gh/acme was changed" in trouble.reason for trouble in outcome.troubles)
    assert picture(case.world) == before


def test_a_custom_audience_in_force_is_what_the_role_and_the_provider_take():
    state = one_project()
    state.circleci.projects["gh/acme/api"].claims = states.Claims(audience=("deploy.acme.example",))
    case = oidc_case(state)
    outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    assert "deploy.acme.example" in json.dumps(role(case, "circleci-api").trust)


def test_a_provider_with_another_audience_gets_the_right_one_and_loses_it_again():
    case = oidc_case(one_project(), merged=False)
    arn = PROVIDER.format(account=FIRST, organization=organization(case).id)
    made = states.Provider(
        arn=arn,
        url=arn.partition("oidc-provider/")[2],
        client_ids=("sts.amazonaws.com",),
        created_at=case.world.clock.now(),
    )
    case.world.state.accounts[FIRST].providers[arn] = [Version(value=made)]
    before = picture(case.world)
    case.play(*STEPS)
    held = truth(case.world.state.accounts[FIRST].providers[arn])
    assert held.client_ids == ("sts.amazonaws.com", organization(case).id)
    assert any("takes the audience sts.amazonaws.com too" in text for text in case.findings("migrate_to_oidc"))
    assert undo(case).exit_code is ExitCode.DONE
    assert picture(case.world) == before


@pytest.mark.parametrize("name", ["circleci-{repo}", "circle ci", ""])
def test_a_role_name_that_iam_would_not_take_is_refused(name):
    assert "oidc.role_name" in refused(oidc_case(one_project(), **{"oidc.role_name": name}), UsageError)


def test_a_user_whose_policies_do_not_fit_is_refused_with_the_numbers():
    state = one_project()
    account = state.accounts[FIRST]
    # The real quotas are twenty times as large, and so would be the policies that pass them.
    account.summary = {"RolePolicySizeQuota": 512, "PolicySizeQuota": 307, "AttachedPoliciesPerRoleQuota": 2}
    documents = {
        f"p{number}": {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": f"s3:Get{number}*", "Resource": f"arn:aws:s3:::{'b' * 50}{number}/*"}
            ],
        }
        for number in range(12)
    }
    account.users["ci-api"] = msgspec.structs.replace(account.users["ci-api"], inline=documents)
    said = refused(oidc_case(state))
    assert "does not fit into one role" in said
    assert "307 characters" in said
    assert "512 characters inline" in said


# --- Sizes ----------------------------------------------------------------------------------------------------------


QUEUE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}],
}


def many_projects(count):
    """One key in one context that so many projects may use."""
    text = [
        'title = "many"',
        "now = 2026-11-02T09:00:00Z",
        'login = "alex"',
        "[[accounts]]",
        f'id = "{FIRST}"',
        'operator = "assumed-role/incident-response/alex"',
        "[[accounts.users]]",
        'name = "ci-api"',
        "created = 2024-03-11T08:12:40Z",
        f"inline = {{ q = '{json.dumps(QUEUE)}' }}",
        "[[accounts.users.keys]]",
        'label = "api"',
        "created = 2025-06-03T09:14:27Z",
        "[[organizations]]",
        'slug = "gh/acme"',
        'name = "acme"',
        "inline_config = true",
        "[[contexts]]",
        'name = "aws"',
        'organization = "gh/acme"',
        "created = 2024-03-11T08:30:00Z",
        "variables = [",
        "  { name = 'AWS_ACCESS_KEY_ID', id_of = 'api', written = 2025-06-03T09:17:40Z },",
        "  { name = 'AWS_SECRET_ACCESS_KEY', secret_of = 'api', written = 2025-06-03T09:17:58Z },",
        "]",
    ]
    for number in range(count):
        text += ["[[projects]]", f'slug = "gh/acme/p{number:03}"']
    return scenario.state_from_text("many", "\n".join(text))


@pytest.mark.parametrize(("trust", "count", "parts"), [
    ("project-id", 1, 1), ("project-id", 16, 1), ("project-id", 17, 1), ("project-id", 40, 1), ("project-id", 41, 2),
    ("project-id", 200, 5), ("sub", 1, 1), ("sub", 16, 1), ("sub", 17, 2), ("sub", 200, 13),
])  # fmt: skip
def test_a_trust_policy_that_would_be_too_long_is_split_over_roles_with_a_context_each(trust, count, parts):
    case = oidc_case(many_projects(count), **{"oidc.role_name": "circleci", "oidc.trust": trust})
    outcome = case.play(*READING, MigrateToOidc())
    assert outcome.exit_code is ExitCode.DONE, outcome.troubles
    made = roles(case.world)[FIRST]
    assert len(made) == parts
    contexts = [item for item in case.world.state.circleci.contexts.values() if item.name.startswith("aws-oidc")]
    assert len(contexts) == parts
    allowed = sorted(limit.value for item in contexts for limit in item.restrictions)
    assert allowed == sorted(item.id for item in case.world.state.circleci.projects.values())
    arns = {item.variables["AWS_ROLE_ARN"].value.tail for item in contexts}
    assert len(arns) == min(parts, len(arns))
    print(f"{trust}: {count} projects take {parts} role(s)")


# --- Killed, and replies lost ---------------------------------------------------------------------------------------


def test_killed_at_every_instant_the_next_process_ends_where_an_undisturbed_one_does():
    calm = oidc_case(one_project())
    assert calm.play(*STEPS).exit_code is ExitCode.DONE
    expected = end_of(calm.world)
    instant, killed = 1, 0
    while True:
        case = oidc_case(one_project())
        case.play(*READING)
        if case.play(*STEPS, kill_at=instant) is not None:
            break
        killed += 1
        outcome = case.play(*STEPS)
        assert outcome is not None
        assert outcome.exit_code is ExitCode.DONE, (instant, [item.reason for item in outcome.troubles])
        assert end_of(case.world) == expected, instant
        instant += 1
    print(f"killed at each of {killed} instants of three phases, and ended alike")
    assert killed > 200


@pytest.mark.parametrize("fault", ["drop-reply", "drop-request", "server-error", "server-error-applied", "throttle"])
@pytest.mark.parametrize("operation", [*CREATES, "put_variable", "delete_variable", "set_key_status", "run_inline"])
def test_a_lost_reply_leaves_nothing_twice(operation, fault):
    calm = oidc_case(one_project())
    calm.play(*STEPS)
    case = oidc_case(one_project(), faults=[f"{fault}:{operation}"])
    outcome = case.play(*STEPS)
    for _ in range(2):
        if outcome.exit_code is not ExitCode.DONE:
            case.responder.retries = 1
            outcome = case.play(*STEPS)
    assert outcome.exit_code is ExitCode.DONE, [item.reason for item in outcome.troubles]
    assert end_of(case.world) == end_of(calm.world)


@pytest.mark.parametrize("merged", [False, True])
def test_an_undo_that_is_killed_goes_on_and_ends_alike(merged):
    def begun():
        case = oidc_case(one_project(), merged=merged)
        case.play(*READING)
        case.play(*STEPS)
        return case

    calm = begun()
    undo(calm)
    expected = without_keys(picture(calm.world))
    killed = 0
    for instant in range(1, 2000, 7):
        case = begun()
        case.instants, case._kill_at = 0, instant  # the same clockwork as `play`
        case.world.on_call = lambda _call, _when, case=case: case._instant()
        try:
            undo(case)
            break
        except Killed:
            killed += 1
        finally:
            case.world.on_call, case._kill_at = None, 0
        for _ in range(2):
            outcome = undo(case)
        assert outcome.exit_code is ExitCode.DONE, (instant, [item.reason for item in outcome.troubles])
        assert without_keys(picture(case.world)) == expected, instant
    print(f"undo killed at {killed} instants ({'after' if merged else 'before'} the cut-over), and ended alike")
    assert killed > 10
