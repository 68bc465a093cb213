"""Pipelines and removals against scripted servers: what is sent, how often, and what is believed of the answers."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from clients.scripted import error_of, everything_about, reply
from clients.test_circleci_client import ACME, CANARY, CONTEXT, Pace, client_of

from playbook.errors import CircleCiError, CredentialsError, Effect
from playbook.ports import PipelineDefinition, Project, Restriction, StoredTest, WorkflowStatus
from playbook.secret import Secret

NUMBER = "b0b0b0b0-0000-4000-8000-000000000001"
SHOP = Project(id=NUMBER, slug="gh/acme/shop", organization="gh/acme", known_by=("private",))
STANDALONE = Project(
    id=NUMBER, slug=f"circleci/{ACME.id}/{NUMBER}", organization=f"circleci/{ACME.id}", known_by=("private",)
)
BUILD = PipelineDefinition(id="d0d0d0d0-0000-4000-8000-000000000001")
FLOW = "f0f0f0f0-0000-4000-8000-000000000001"
PIPE = "a0a0a0a0-0000-4000-8000-000000000001"
MADE = "2026-11-02T09:00:00.250Z"
AT = datetime(2026, 11, 2, 9, 0, 0, 250_000, tzinfo=UTC)
STARTED = {"id": PIPE, "number": 8, "state": "created", "created_at": MADE}
PIPELINE = {"id": PIPE, "number": 8, "project_slug": "gh/acme/shop", "created_at": MADE, "state": "created"}
WORKFLOW = {
    "id": FLOW,
    "name": "build",
    "status": "success",
    "pipeline_id": PIPE,
    "project_slug": "gh/acme/shop",
    "created_at": MADE,
    "stopped_at": MADE,
}
JOB = {"id": NUMBER, "name": "deploy", "status": "success", "job_number": 41, "started_at": MADE, "stopped_at": MADE}
TEST = {"name": "a", "classname": "arn", "result": "success", "message": None}

pytestmark = pytest.mark.usefixtures("no_backoff")


def body_of(arrived):
    return json.loads(arrived.body)


def page(*items, token=None):
    return reply(json.dumps({"items": list(items), "next_page_token": token}))


def run(client, project=SHOP):
    return client.run_inline(project, BUILD, "main", "version: 2.1")


# --- Starting: what is sent, and only once ---------------------------------------------------------------------------


def test_a_standalone_project_takes_a_config_by_the_newer_route(serve):
    server = serve(reply(json.dumps(STARTED), 201))
    made = run(client_of(server.url), STANDALONE)
    (sent,) = server.arrived
    assert (sent.method, sent.path) == ("POST", f"/api/v2/project/{STANDALONE.slug}/pipeline/run")
    assert body_of(sent) == {
        "definition_id": BUILD.id,
        "config": {"branch": "main", "content": "version: 2.1"},
        "checkout": {"branch": "main"},
    }
    assert (made.id, made.number, made.project, made.created_at) == (PIPE, 8, STANDALONE.slug, AT)


def test_any_other_project_takes_it_by_the_older_one(serve):
    server = serve(reply(json.dumps(STARTED), 201))
    assert run(client_of(server.url)).id == PIPE
    (sent,) = server.arrived
    assert (sent.method, sent.path) == ("POST", "/api/v2/project/gh/acme/shop/pipeline")
    assert body_of(sent) == {"branch": "main", "config": "version: 2.1"}


@pytest.mark.parametrize("project", [SHOP, STANDALONE])
@pytest.mark.parametrize("status", [200, 403])
def test_a_pipeline_that_was_not_started_is_a_definite_no(serve, project, status):
    server = serve(reply('{"message":"not triggered"}', status))
    error = error_of(lambda: run(client_of(server.url), project), CircleCiError)
    assert (error.code, error.status, error.effect) == ("InlineConfigForbidden", status, Effect.NONE)
    assert "unversioned configuration" in error.remedy
    assert len(server.arrived) == 1


SENT_ONCE = {
    "run": run,
    "rerun": lambda client: client.rerun_workflow(FLOW, from_failed=True),
    "restrict": lambda client: client.create_restriction(CONTEXT, "project", NUMBER),
    "checkout key": lambda client: client.create_checkout_key(SHOP, "deploy-key"),
}


@pytest.mark.parametrize("call", SENT_ONCE)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "Disconnected"),
        (reply("{", 201, length=500), "Disconnected"),
        (reply('{"message":"oops"}', 500), "HTTP500"),
        (reply('{"message":"oops"}', 503, retry_after="1"), "HTTP503"),
        (reply("", 302, location="https://elsewhere.example"), "HTTP302"),
        (reply("not json", 201), "Unreadable"),
        (reply("{}", 201), "Unreadable"),
        (reply("[]", 201), "Unreadable"),
    ],
)
def test_what_may_have_happened_is_unknown_and_never_sent_again(serve, call, answer, code):
    server = serve(answer)
    error = error_of(lambda: SENT_ONCE[call](client_of(server.url)), CircleCiError)
    assert (error.code, error.effect) == (code, Effect.UNKNOWN)
    assert len(server.arrived) == 1


@pytest.mark.parametrize("call", SENT_ONCE)
@pytest.mark.parametrize("status", [400, 404, 409, 422, 429])
def test_a_refusal_is_a_definite_no_and_not_sent_again(serve, call, status):
    server = serve(lambda arrived: reply('{"items":[]}') if arrived.method == "GET" else reply("{}", status))
    error = error_of(lambda: SENT_ONCE[call](client_of(server.url)), CircleCiError)
    assert (error.code, error.effect) == (f"HTTP{status}", Effect.NONE)
    assert Counter(arrived.method for arrived in server.arrived)["POST"] == 1


@pytest.mark.parametrize("call", SENT_ONCE)
def test_a_rejected_token(serve, call):
    server = serve(reply('{"message":"Invalid token provided."}', 401))
    error_of(lambda: SENT_ONCE[call](client_of(server.url)), CredentialsError)
    assert len(server.arrived) == 1


def test_a_429_halves_the_pace_and_is_waited_out_by_a_read(serve):
    answers = iter([reply("{}", 429, retry_after="3"), page(WORKFLOW)])
    server, pace = serve(lambda _arrived: next(answers)), Pace()
    (found,) = client_of(server.url, pace).workflows(PIPE)
    assert found.status is WorkflowStatus.SUCCESS
    assert pace.budget.rate == 1000, "never below the least"
    assert sum(pace.slept) >= 2.9


# --- Reading: nothing is guessed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "skipped", "SUCCESS", "succes\u0000", "\u202esuccess"])
def test_a_word_that_is_not_known_is_never_an_end(serve, word):
    server = serve(page({**WORKFLOW, "status": word}))
    (found,) = client_of(server.url).workflows(PIPE)
    assert found.status is WorkflowStatus.UNKNOWN
    assert not found.status.is_over


@pytest.mark.parametrize("word", [status.value for status in WorkflowStatus])
def test_every_word_that_is_known(serve, word):
    server = serve(page({**WORKFLOW, "status": word, "stopped_at": None}))
    (found,) = client_of(server.url).workflows(PIPE)
    assert (found.status.value, found.stopped_at, found.created_at) == (word, None, AT)


READS = {
    "pipelines": (lambda client: client.pipelines(SHOP.slug, AT), PIPELINE),
    "workflows": (lambda client: client.workflows(PIPE), WORKFLOW),
    "jobs": (lambda client: client.jobs(FLOW), JOB),
    "tests": (lambda client: client.test_results(SHOP.slug, 41), TEST),
}


@pytest.mark.parametrize("read", READS)
def test_pages_that_go_round_are_never_taken_for_the_whole(serve, read):
    call, item = READS[read]
    server = serve(page(item, token="again"))
    error = error_of(lambda: call(client_of(server.url)), CircleCiError)
    assert (error.code, error.effect) == ("PageRepeated", Effect.NONE)
    assert len(server.arrived) == 2


@pytest.mark.parametrize("read", READS)
def test_a_second_page_is_read(serve, read):
    call, item = READS[read]
    second = {**item, **({"name": "b"} if read == "tests" else {"id": FLOW.replace("f", "e")})}
    server = serve(lambda arrived: page(second) if "page-token=next" in arrived.target else page(item, token="next"))
    assert len(call(client_of(server.url))) == 2


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_read(serve, read, status):
    server = serve(reply('{"message":"no"}', status))
    error = error_of(lambda: READS[read][0](client_of(server.url)), CircleCiError)
    assert (error.code, error.status, error.effect) == (f"HTTP{status}", status, Effect.NONE)


SPOILT = {
    "pipelines": [
        {"id": "../x"},
        {"id": 7},
        {"project_slug": "x"},
        {"created_at": "yesterday"},
        {"created_at": "2026-11-02T09:00:00"},
        {"created_at": None},
        {"number": -1},
        {"number": "8"},
        {"errors": [{}]},
    ],
    "workflows": [{"id": "a/b"}, {"status": None}, {"stopped_at": "soon"}, {"name": ""}, {"created_at": 0}],
    "jobs": [{"started_at": "soon"}, {"stopped_at": "2026-13-02T09:00:00Z"}, {"job_number": 1.5}, {"status": ""}],
    "tests": [{"name": None}, {"classname": 1}, {"result": []}],
}


@pytest.mark.parametrize(("read", "spoilt"), [(read, spoilt) for read, all_ in SPOILT.items() for spoilt in all_])
def test_a_reply_with_a_wrong_field_is_refused_whole(serve, read, spoilt):
    call, item = READS[read]
    server = serve(page(item, {**item, **spoilt}))
    error = error_of(lambda: call(client_of(server.url, attempts=1)), CircleCiError)
    assert (error.code, error.effect) == ("Unreadable", Effect.NONE)


def test_a_job_that_has_not_started_has_neither_times_nor_a_number(serve):
    server = serve(page({"id": NUMBER, "name": "ask", "status": "on_hold", "started_at": None, "type": "approval"}))
    (found,) = client_of(server.url).jobs(FLOW)
    assert (found.number, found.started_at, found.stopped_at) == (None, None, None)


def test_times_of_any_offset_are_the_same_moment(serve):
    server = serve(page({**JOB, "started_at": "2026-11-02T10:00:00.250+01:00"}))
    (found,) = client_of(server.url).jobs(FLOW)
    assert found.started_at == AT
    assert found.started_at.tzinfo is UTC


def test_old_pipelines_are_not_read(serve):
    old = (AT - timedelta(days=1)).isoformat()
    server = serve(
        page(PIPELINE, {**PIPELINE, "id": NUMBER, "created_at": old}, {**PIPELINE, "id": FLOW}, token="more")
    )
    found = client_of(server.url).pipelines(SHOP.slug, AT)
    assert [item.id for item in found] == [PIPE]
    assert len(server.arrived) == 1


def test_two_test_cases_of_one_name_are_two(serve):
    server = serve(
        page({**TEST, "classname": "tail", "name": "ABCD"}, {**TEST, "classname": "static-tail", "name": "ABCD"})
    )
    assert client_of(server.url).test_results(SHOP.slug, 41) == (
        StoredTest(name="ABCD", classname="tail", result="success"),
        StoredTest(name="ABCD", classname="static-tail", result="success"),
    )


def test_the_errors_of_a_pipeline(serve):
    server = serve(reply(json.dumps({**PIPELINE, "errors": [{"type": "config", "message": "no jobs"}]})))
    assert client_of(server.url).pipeline(PIPE).errors == ("no jobs",)


@pytest.mark.parametrize("name", ["..", "", "."])
def test_an_id_that_would_climb_is_never_sent(serve, name):
    server = serve(reply())
    client = client_of(server.url)
    for call in (
        lambda: client.pipeline(name),
        lambda: client.jobs(name),
        lambda: client.cancel_workflow(name),
        lambda: client.delete_runner_token(name),
        lambda: client.delete_checkout_key(SHOP, name),
    ):
        assert error_of(call, CircleCiError).code == "BadName"
    assert server.arrived == []


# --- Cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("word", ["success", "failed", "running", "on_hold", "news"])
def test_a_refused_cancel_is_done_only_where_it_is_seen_to_be_over(serve, status, word):
    seen = json.dumps({**WORKFLOW, "status": word})
    server = serve(lambda arrived: reply(seen) if arrived.method == "GET" else reply("{}", status))
    client = client_of(server.url)
    if word in ("success", "failed"):
        client.cancel_workflow(FLOW)
    else:
        error = error_of(lambda: client.cancel_workflow(FLOW), CircleCiError)
        assert (error.code, error.effect) == (f"HTTP{status}", Effect.NONE)


def test_a_cancel_in_doubt_is_sent_again(serve):
    answers = iter([None, reply('{"message":"Accepted."}', 202)])
    server = serve(lambda _arrived: next(answers))
    client_of(server.url).cancel_workflow(FLOW)
    assert [arrived.path for arrived in server.arrived] == [f"/api/v2/workflow/{FLOW}/cancel"] * 2


# --- Settings ---------------------------------------------------------------------------------------------------------


def attributes(**values):
    return reply(json.dumps({"data": {"attributes": values}}))


def test_the_block_is_sent_as_v3_takes_it_and_again_when_in_doubt(serve):
    answers = iter([None, attributes(is_running_disabled=True)])
    server = serve(lambda _arrived: next(answers))
    client_of(server.url).set_running_disabled(ACME, disabled=True)
    assert [(arrived.method, arrived.path) for arrived in server.arrived] == [
        ("POST", f"/api/v3/orgs/{ACME.id}/update-settings")
    ] * 2
    assert body_of(server.arrived[0]) == {"is_running_disabled": True}


@pytest.mark.parametrize("answer", [attributes(is_running_disabled=False), attributes(), reply("{}")])
def test_a_block_that_is_not_confirmed_is_unknown(serve, answer):
    server = serve(answer)
    error = error_of(lambda: client_of(server.url).set_running_disabled(ACME, disabled=True), CircleCiError)
    assert (error.code, error.effect) == ("Unreadable", Effect.UNKNOWN)


@pytest.mark.parametrize("body", ["page not found", '{"error":{"title":"not found"}}', "<html>"])
def test_a_host_without_v3_settings(serve, body):
    server = serve(reply(body, 404))
    client = client_of(server.url)
    assert client.running_disabled(ACME) is None
    error = error_of(lambda: client.set_running_disabled(ACME, disabled=True), CircleCiError)
    assert (error.code, error.effect) == ("NotAvailable", Effect.NONE)


def test_settings_that_may_not_be_read_are_no_none(serve):
    server = serve(reply("{}", 403))
    assert error_of(lambda: client_of(server.url).running_disabled(ACME), CircleCiError).status == 403


def settings(project, owner, flags=None):
    """A host that says these things about configurations of ours; None: it has no such route."""

    def answer(arrived):
        said = {
            f"/api/v3/projects/{NUMBER}/settings": project and {"data": {"attributes": project}},
            f"/api/v3/orgs/{ACME.id}/settings": owner and {"data": {"attributes": owner}},
            "/api/v1.1/project/gh/acme/shop/settings": flags and {"ssh_keys": [], "feature_flags": flags},
            "/api/v2/organization/gh%2Facme": {"id": ACME.id},
        }[arrived.path]
        return reply("page not found", 404) if said is None else reply(json.dumps(said))

    return answer


YES, NO = {"enable_unversioned_config": True}, {"enable_unversioned_config": False}


@pytest.mark.parametrize(
    ("project", "owner", "flags", "allowed"),
    [
        (YES, YES, None, True),
        (NO, YES, None, False),
        (YES, NO, None, False),
        (YES, None, None, None),
        (None, YES, None, None),
        (None, YES, {"api-trigger-with-config": True}, True),
        (None, YES, {"api_trigger_with_config": True}, True),
        (None, YES, {"api-trigger-with-config": False}, False),
        ({"other": 1}, YES, {"api_trigger_with_config": False}, False),
        (None, None, {"api-trigger-with-config": False}, False),
        (None, None, {"api-trigger-with-config": True}, None),
        (None, None, {"something-else": True}, None),
        (None, None, None, None),
    ],
)
def test_whether_a_config_of_ours_is_allowed(serve, project, owner, flags, allowed):
    assert client_of(serve(settings(project, owner, flags)).url).inline_config_allowed(SHOP) is allowed


@pytest.mark.parametrize("said", [{}, {"advanced": {}}, {"advanced": {"forks_receive_secret_env_vars": None}}])
def test_a_reply_that_says_nothing_of_forks_is_no_no(serve, said):
    server = serve(reply(json.dumps(said)))
    error = error_of(lambda: client_of(server.url, attempts=1).forks_receive_secrets(SHOP), CircleCiError)
    assert error.code == "Unreadable"


def test_a_project_without_an_id_is_looked_up(serve):
    def answer(arrived):
        if arrived.path == "/api/v2/project/gh/acme/shop":
            return reply(json.dumps({"id": NUMBER, "vcs_info": {"default_branch": "trunk"}}))
        assert arrived.path == f"/api/v2/projects/{NUMBER}/pipeline-definitions"
        return reply(json.dumps({"items": [{"id": BUILD.id, "name": None}]}))

    client = client_of(serve(answer).url)
    nameless = Project(id="", slug="gh/acme/shop", organization="gh/acme", known_by=("v1.1",))
    assert client.pipeline_definitions(nameless) == (BUILD,)
    assert client.default_branch(nameless) == "trunk"


def test_a_host_without_pipeline_definitions_has_none_and_a_project_that_is_gone_is_refused(serve):
    assert client_of(serve(reply("page not found", 404)).url).pipeline_definitions(SHOP) == ()
    client = client_of(serve(reply('{"message":"Project not found"}', 404)).url)
    assert error_of(lambda: client.pipeline_definitions(SHOP), CircleCiError).status == 404


# --- Removing and replacing -------------------------------------------------------------------------------------------


REMOVALS = {
    f"/api/v2/context/{CONTEXT.id}": (lambda client: client.delete_context(CONTEXT), (403, 404)),
    f"/api/v2/context/{CONTEXT.id}/restrictions/r-1": (
        lambda client: client.delete_restriction(CONTEXT, "r-1"),
        (404,),
    ),
    "/api/v2/project/gh/acme/shop/checkout-key/SHA256%3Aa%2Fb%2B": (
        lambda client: client.delete_checkout_key(SHOP, "SHA256:a/b+"),
        (404,),
    ),
    "/api/v1.1/project/gh/acme/shop/ssh-key": (
        lambda client: client.delete_ssh_key(SHOP, "deploy.example", "aa:bb"),
        (404,),
    ),
    "/api/v1.1/project/gh/acme/shop/token/t-1": (lambda client: client.delete_project_token(SHOP, "t-1"), (404,)),
    "/api/v3/runner/token/t-2": (lambda client: client.delete_runner_token("t-2"), (404,)),
}


@pytest.mark.parametrize("path", REMOVALS)
def test_a_removal_is_repeated_and_what_is_gone_is_gone(serve, path):
    call, gone = REMOVALS[path]
    for status in (200, *gone):
        answers = iter([None, reply('{"message":"x"}', status)])
        server = serve(lambda _arrived, answers=answers: next(answers))
        call(client_of(server.url))
        assert [(arrived.method, arrived.path) for arrived in server.arrived] == [("DELETE", path)] * 2


@pytest.mark.parametrize("path", REMOVALS)
def test_a_removal_that_is_refused(serve, path):
    call, gone = REMOVALS[path]
    status = 403 if 403 not in gone else 400
    error = error_of(lambda: call(client_of(serve(reply("{}", status)).url)), CircleCiError)
    assert (error.status, error.effect) == (status, Effect.NONE)


@pytest.mark.parametrize(("name", "sent"), [("deploy.example", "deploy.example"), ("any host", "")])
def test_an_ssh_key_is_named_by_the_body(serve, name, sent):
    server = serve(reply("{}"))
    client_of(server.url).delete_ssh_key(SHOP, name, "aa:bb")
    assert body_of(server.arrived[0]) == {"hostname": sent, "fingerprint": "aa:bb"}


def test_a_restriction_that_is_there_is_answered_as_it_is(serve):
    row = {"id": "r-9", "restriction_type": "project", "restriction_value": NUMBER, "name": None}
    server = serve(lambda arrived: page(row) if arrived.method == "GET" else reply("{}", 409))
    found = client_of(server.url).create_restriction(CONTEXT, "project", NUMBER)
    assert found == Restriction(id="r-9", kind="project", value=NUMBER)


def test_another_restriction_than_the_one_that_was_sent_is_not_believed(serve):
    server = serve(reply(json.dumps({"id": "r", "restriction_type": "group", "restriction_value": NUMBER}), 201))
    error = error_of(lambda: client_of(server.url).create_restriction(CONTEXT, "project", NUMBER), CircleCiError)
    assert (error.code, error.effect) == ("Unreadable", Effect.UNKNOWN)


@pytest.mark.parametrize("spelling", ["signing_secret", "signing-secret"])
def test_a_signing_secret_goes_in_both_spellings_and_is_looked_at(serve, spelling):
    shown = json.dumps({"id": FLOW, "name": "hook", spelling: "****"})
    server = serve(reply(shown))
    client_of(server.url).set_webhook_secret(FLOW, Secret(CANARY))
    put, get = server.arrived
    assert (put.method, get.method, put.path, get.path) == ("PUT", "GET", *[f"/api/v2/webhook/{FLOW}"] * 2)
    assert body_of(put) == {"signing_secret": CANARY, "signing-secret": CANARY}


@pytest.mark.parametrize("shown", [{"signing_secret": ""}, {"signing-secret": ""}, {}, {"signing_secret": None}])
def test_a_signing_secret_that_does_not_show_is_not_believed(serve, shown, all_records):
    server = serve(reply(json.dumps({"id": FLOW, "name": "hook", **shown})))
    error = error_of(lambda: client_of(server.url).set_webhook_secret(FLOW, Secret(CANARY)), CircleCiError)
    assert (error.code, error.effect) == ("SecretNotStored", Effect.UNKNOWN)
    assert CANARY not in everything_about(error) + "".join(all_records)


@pytest.mark.parametrize("answer", [reply(CANARY, 500), reply(CANARY, 200), reply(f'{{"x":"{CANARY}"', 400), None])
def test_a_signing_secret_is_in_no_error_and_no_log(serve, answer, all_records):
    server = serve(answer)
    error = error_of(lambda: client_of(server.url, attempts=2).set_webhook_secret(FLOW, Secret(CANARY)))
    assert CANARY not in everything_about(error) + "".join(all_records)
