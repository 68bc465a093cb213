"""The shipped worlds hold together: dates, tails, places, and answers for every one of them."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter

import msgspec
import pytest

from playbook.correlate import StoredVariable, correlate
from playbook.errors import UsageError
from playbook.model import Confidence, Severity, Strategy
from playbook.ports import KeyStatus, TrailKey, WorkflowStatus
from playbook.twins.circleci import context_sink
from playbook.twins.pipeline import project_sink
from playbook.twins.scenario import load, names, state_from_text
from playbook.twins.state import VERSION
from playbook.twins.world import TwinWorld


def collected(world):
    """The world as the inventory reads it."""
    organizations = world.circleci.organizations()
    sinks = [sink for item in organizations for sink in world.circleci.contexts(item)]
    sinks += [project_sink(item) for item in world.state.circleci.projects.values()]
    stored = [
        StoredVariable(sink=sink, variable=item) for sink in sinks for item in world.circleci.variables(sink).items
    ]
    keys = [key for aws in world.aws.values() for user in aws.users() for key in aws.access_keys(user.name).keys]
    return sinks, stored, keys


@pytest.fixture(params=names())
def scenario(request):
    return load(request.param)


def test_small_is_what_it_says():
    world = TwinWorld(load("small").state)
    _, stored, keys = collected(world)
    circleci = world.state.circleci
    living = [item for item in circleci.projects.values() if not item.deleted]
    assert (len(circleci.contexts), len(living), len(world.aws), len(keys)) == (3, 5, 2, 7)
    (deleted,) = [item for item in circleci.projects.values() if item.deleted]
    assert deleted.variables, "a deleted project that still holds a variable"
    found = correlate(stored, keys)
    places = Counter(match.key.id for match in found.matches if match.key is not None)
    assert sorted(places.values()) == [1, 1, 1, 1, 3], "one key in three places"
    per_user = Counter((key.account, key.user) for key in keys)
    assert [user for user, count in per_user.items() if count == 2] == [("111122223333", "terraform")]
    assert sum(1 for key in keys if (key.account, key.user) == ("111122223333", "terraform") and places[key.id]) == 1
    assert [match.stored.variable.name for match in found.matches if match.key is None] == ["PARTNER_AWS_ACCESS_KEY_ID"]
    (legacy,) = [key for key in keys if key.user == "legacy-uploader"]
    assert not places[legacy.id]
    assert world.aws[legacy.account].last_used(legacy.id).at is None
    assert {"NPM_TOKEN", "DOCKERHUB_PASSWORD"} <= {item.variable.name for item in found.others}
    assert "AWS_DEFAULT_REGION" not in {item.variable.name for item in found.others}
    assert {match.confidence for match in found.matches if match.key is not None} == {Confidence.STRONG}


def test_every_pair_of_a_known_key_works_and_was_written_soon_after_it_was_made(scenario):
    world = TwinWorld(scenario.state)
    _, stored, keys = collected(world)
    for match in correlate(stored, keys).matches:
        if match.key is None:
            continue
        sink, variable = match.stored.sink, match.stored.variable
        assert world.works(sink, variable.name, match.secret_name), variable.name
        written = variable.updated_at or variable.created_at
        assert 0 < (written - match.key.created_at).total_seconds() < 1200, variable.name
        used = world.aws[match.key.account].last_used(match.key.id).at
        assert used is None or match.key.created_at < used < world.clock.now()
    for item in stored:
        if item.variable.created_at is None:
            assert world.state.circleci.projects[item.sink.id].deleted, "only the private route shows no dates"
            continue
        assert item.variable.created_at <= (item.variable.updated_at or item.variable.created_at) < world.clock.now()


def test_a_scenario_is_the_same_world_each_time_and_holds_no_value(scenario):
    again = load(scenario.name)
    assert again.state == scenario.state
    text = msgspec.json.encode(scenario.state).decode()
    assert 'sha256":"' not in text
    assert all(re.fullmatch(r"AKIA[A-Z2-7]{16}", key) for item in scenario.state.accounts.values() for key in item.keys)
    world = TwinWorld(scenario.state)
    assert all(key.status is KeyStatus.ACTIVE for _, _, keys in [collected(world)] for key in keys)


def test_the_answers_answer_every_question_of_their_world(scenario):
    answers = tomllib.loads(scenario.answers)
    world = TwinWorld(scenario.state)
    _, stored, keys = collected(world)
    found = correlate(stored, keys)
    Severity(answers["incident"]["severity"])
    assert set(answers["circleci"]["organizations"]) == set(scenario.state.circleci.organizations)

    def first(entries, subject):
        fits = lambda match: all(  # noqa: E731
            name in subject and re.fullmatch(re.escape(text).replace(r"\*", ".*"), subject[name])
            for name, text in match.items()
        )
        return next((entry for entry in entries if fits(entry["match"])), None)

    for key in keys:
        entry = first(answers["keys"], {"user": key.user, "account": key.account, "id": key.id})
        assert entry is not None, key
        assert Strategy(entry["strategy"]) is not Strategy.KEEP or entry["reason"]
    others = [*found.others, *(match.stored for match in found.matches if match.key is None)]
    for item in others:
        entry = first(answers["variables"], {"name": item.variable.name, item.sink.kind.value: item.sink.name})
        assert entry is not None, item
        source = entry["value_from"]
        assert source.startswith(("env:", "file:", "prompt")) or (source == "keep" and entry["reason"])


def test_a_scenario_that_does_not_exist_names_those_that_do():
    with pytest.raises(UsageError) as caught:
        load("../small")
    assert "small" in caught.value.remedy


HEAD = "title = 'a'\nnow = 2026-01-01T00:00:00Z\nlogin = 'me'\naccounts = []\norganizations = []\n"
TYPO = "[[projects]]\nslug = 'gh/a/b'\nvariables = [{ name = 'A', id_of = 'typo', written = 2026-01-01T00:00:00Z }]"


@pytest.mark.parametrize(
    ("text", "message"), [("title = 1", "cannot be read"), (HEAD + "more = 1", "more"), (HEAD + TYPO, "typo")]
)
def test_a_scenario_with_a_mistake_is_refused_in_a_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        state_from_text("mine", text)


def test_restrictions_name_the_projects_they_let_in():
    world = TwinWorld(load("small").state)
    production = next(item for item in world.state.circleci.contexts.values() if item.name == "aws-production")
    (first, second) = world.circleci.restrictions(context_sink(production))
    projects = world.state.circleci.projects
    assert {first.value, second.value} == {projects["gh/acme/api"].id, projects["gh/acme/web"].id}
    assert world.circleci.run_pipeline("gh/acme/web", ["aws-production"]).passed
    assert not world.circleci.run_pipeline("gh/acme/mobile", ["aws-production"]).passed
    assert json.loads(msgspec.json.encode(world.state))["version"] == VERSION


RAN = (
    HEAD.replace("accounts = []\norganizations = []\n", "")
    + """
[[accounts]]
id = "111122223333"
operator = "assumed-role/responder/me"
users = [{ name = "ci", created = 2025-01-01T00:00:00Z, keys = [{ label = "k", created = 2025-01-01T00:00:00Z }] }]

[[organizations]]
slug = "gh/acme"
name = "acme"
inline_config = true
running_disabled = true

[[contexts]]
name = "aws"
organization = "gh/acme"
created = 2025-01-01T00:00:00Z
variables = [
  { name = "ID", id_of = "k", written = 2025-01-02T00:00:00Z },
  { name = "SECRET", secret_of = "k", written = 2025-01-02T00:00:00Z },
]
restrictions = [
  { group = "everyone" },
  { group = "devs" },
  { expression = "pipeline.git.branch == 'main'" },
  { project = "gh/acme/api" },
]

[[projects]]
slug = "gh/acme/api"
default_branch = "trunk"
forks_receive_secrets = true

[[projects.workflows]]
name = "deploy"
created = 2025-12-31T00:00:00Z
jobs = [
  { name = "test", started = 2025-12-31T00:00:00Z, stopped = 2025-12-31T00:01:00Z },
  { name = "push", started = 2025-12-31T00:00:00Z, contexts = ["aws"], signs_with = ["ID", "SECRET"] },
]

[[projects.workflows]]
name = "release"
created = 2025-12-31T01:00:00Z
jobs = [
  { name = "ask", status = "on_hold" },
  { name = "oidc", started = 2025-12-31T01:00:00Z, stopped = 2025-12-31T01:01:00Z, role = "arn:aws:iam::1:role/a" },
]

[[projects]]
slug = "gh/acme/web"
inline_config = false
"""
)


def test_a_scenario_says_what_ran_and_who_may_run_more():
    world = TwinWorld(state_from_text("mine", RAN))
    circleci = world.circleci
    acme = circleci.organizations()[0]
    api, web = circleci.projects(acme).items
    assert (circleci.default_branch(api), circleci.forks_receive_secrets(api)) == ("trunk", True)
    assert (circleci.inline_config_allowed(api), circleci.inline_config_allowed(web)) == (True, False)
    assert circleci.running_disabled(acme) is True
    release, deploy = circleci.pipelines(api.slug, since := world.clock.now().replace(year=2025))
    assert circleci.pipelines(web.slug, since) == ()
    (running,), (held,) = circleci.workflows(deploy.id), circleci.workflows(release.id)
    assert (running.name, running.status) == ("deploy", WorkflowStatus.RUNNING)
    assert (held.name, held.status) == ("release", WorkflowStatus.ON_HOLD)
    jobs = [job for item in (running, held) for job in circleci.jobs(item.id)]
    assert [(job.name, job.number) for job in jobs] == [("test", 1), ("push", 2), ("ask", None), ("oidc", 3)]
    circleci.set_running_disabled(acme, disabled=False)
    again = circleci.rerun_workflow(running.id, from_failed=False)
    world.clock.sleep(60)
    assert {item.id: item.status for item in circleci.workflows(deploy.id)}[again] is WorkflowStatus.SUCCESS


def test_restrictions_of_every_kind():
    world = TwinWorld(state_from_text("mine", RAN))
    (context,) = world.state.circleci.contexts.values()
    everyone, devs, expression, project = world.circleci.restrictions(context_sink(context))
    assert (everyone.kind, everyone.value) == ("group", world.circleci.organizations()[0].id)
    assert devs.kind == "group"
    assert devs.value != everyone.value
    assert (expression.kind, expression.value) == ("expression", "pipeline.git.branch == 'main'")
    assert (project.kind, project.value) == ("project", world.state.circleci.projects["gh/acme/api"].id)


@pytest.mark.parametrize("restriction", ["{}", "{ project = 'gh/a/b', group = 'everyone' }"])
def test_a_restriction_is_one_thing(restriction):
    head = "[[contexts]]\nname = 'c'\norganization = 'gh/a'\ncreated = 2025-01-01T00:00:00Z\n"
    text = f"{HEAD}{head}restrictions = [{restriction}]"
    with pytest.raises(UsageError, match="not one thing"):
        state_from_text("mine", text)


RIGHTS = """
title = "one account with everything"
now = 2026-11-02T09:00:00Z
login = "alex"
organizations = []

[[accounts]]
id = "111122223333"
operator = "user/alex"
quotas = { RolePolicySizeQuota = 20480 }
[[accounts.users]]
name = "ci"
created = 2024-03-11T08:12:40Z
tags = { team = "platform" }
policies = ["deploy", "ReadOnlyAccess"]
groups = ["robots"]
boundary = "arn:aws:iam::111122223333:policy/deploy"
inline = { read = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}' }
accessed = { s3 = 2026-11-01T09:00:00Z }
[[accounts.users.keys]]
label = "ci"
created = 2025-06-03T09:14:27Z
[[accounts.users.footholds]]
kind = "login-profile"
id = "ci"
[[accounts.groups]]
name = "robots"
policies = ["deploy"]
[[accounts.policies]]
name = "deploy"
document = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
[[accounts.roles]]
name = "admin"
created = 2024-03-11T08:12:40Z
path = "/ops/"
policies = ["deploy"]
tags = { team = "ops" }
trust = '''
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ci"}, "Action": "sts:AssumeRole"}]}
'''
[[accounts.providers]]
url = "https://oidc.circleci.com/org/x"
client_ids = ["x"]
created = 2024-03-11T08:12:40Z
[[accounts.providers]]
saml = "okta"
created = 2024-03-11T08:12:40Z
[[accounts.events]]
at = 2026-11-01T09:00:00Z
name = "AssumeRole"
service = "sts"
region = "eu-west-1"
key = "ci"
actor = "ci"
issues = "stolen"
role = "arn:aws:iam::111122223333:role/ops/admin"
[[accounts.events]]
at = 2026-11-01T09:05:00Z
name = "CreateUser"
session = "stolen"
actor = "s"
user = "backdoor"
"""


def test_a_scenario_can_say_who_may_do_what_and_what_was_done():
    world = TwinWorld(state_from_text("rights", RIGHTS))
    aws = world.aws["111122223333"]
    own = "arn:aws:iam::111122223333:policy/deploy"
    details = aws.details()
    (user,), (group,), (role,), (policy,) = details.users, details.groups, details.roles, details.policies
    assert user.attached == (own, "arn:aws:iam::aws:policy/ReadOnlyAccess")
    assert [item.name for item in user.inline] == ["read"]
    assert (user.groups, user.boundary, user.tags) == (("robots",), own, (("team", "platform"),))
    assert (group.attached, policy.arn) == ((own,), own)
    assert (role.arn, role.attached, role.tags) == (
        "arn:aws:iam::111122223333:role/ops/admin",
        (own,),
        (("team", "ops"),),
    )
    assert [(item.arn.partition(":iam::")[2], item.saml) for item in aws.providers()] == [
        ("111122223333:oidc-provider/oidc.circleci.com/org/x", False),
        ("111122223333:saml-provider/okta", True),
    ]
    assert [item.kind for item in aws.footholds("ci")] == ["login-profile"]
    assert [item.service for item in aws.accessed_services(user.arn)] == ["s3", "sts"]
    assert aws.summary()["RolePolicySizeQuota"] == 20480
    (key,) = aws.access_keys("ci").keys
    (assumed,) = aws.trail(TrailKey.ACCESS_KEY_ID, key.id, key.created_at)
    assert (assumed.name, assumed.role, assumed.region) == ("AssumeRole", role.arn, "eu-west-1")
    (made,) = aws.trail(TrailKey.ACCESS_KEY_ID, assumed.issued_key_id, key.created_at)
    assert (made.name, made.resources) == ("CreateUser", ("backdoor",))
    assert aws.described_users()[0].policies == ("deploy", "ReadOnlyAccess")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"Effect": "Allow", "Action": "s3:*"', '"Effect": "Perhaps", "Action": "s3:*"', "none that AWS would take"),
        ('policies = ["deploy"]\ntags', 'policies = ["other"]\ntags', "does not describe: other"),
        ('path = "/ops/"', 'way = "/ops/"', "cannot be read"),
        ('key = "ci"', 'key = "stranger"', "no account and no stranger has"),
    ],
)
def test_a_scenario_with_a_mistake_in_its_rights_is_refused(old, new, said):
    assert old in RIGHTS
    with pytest.raises(UsageError, match=said):
        state_from_text("rights", RIGHTS.replace(old, new))
