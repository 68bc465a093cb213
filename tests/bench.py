"""`make bench`: an inventory of 60 contexts, 500 projects and 1,000 users over loopback HTTP, 50 ms a reply.

The program itself runs as a child, so that its wall time and memory are a user's; both platforms are served by
another child. The sequential client makes the naive calls for the same rows with the same libraries, in the same run,
for a tenth of the items, and its time is scaled by ten. On loopback the clients know no rate limit: with the
platforms' own limits (20 to 100 calls a second) those decide, and this says how little is lost besides.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

CONTEXTS, PROJECTS, USERS = 60, 500, 1000
STORED, STORED_OFTEN = 100, 400
"""Keys that CircleCI stores: a tenth of the users, and two fifths, where the report has to do."""
DELAY_S = 0.05
SHARE = 10
"""The naive client makes one call in so many."""
PARALLEL = 16
ACCOUNT = "123456789012"
TOKEN = "CCIPAT_" + "x" * 22 + "_" + "0" * 40
MADE = datetime(2022, 6, 1, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
VARIABLES_A_PLACE = 6
USERS_A_PAGE = 100
LEAN = ("context-variable", "project-variable", "checkout-key", "ssh-key", "legacy-aws-key", "context-restriction")
ORGANIZATION = "0a0a0a0a-0000-4000-8000-000000000001"


def key_id(number: int) -> str:
    return "AKIA" + "".join(ALPHABET[(number * 7919 >> shift) & 31] for shift in range(75, -1, -5))


def project_id(number: int) -> str:
    return f"b0000000-0000-4000-8000-{number:012}"


def context_id(number: int) -> str:
    return f"c0000000-0000-4000-8000-{number:012}"


# --- The platforms, in a child ----------------------------------------------------------------------------------------


class Counted:
    """Calls and how many were in flight at once, over both platforms."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1

    def report(self) -> dict[str, object]:
        with self.lock:
            told = {"calls": dict(self.calls), "most": self.most}
            self.calls, self.most = Counter(), 0
            return told


def circleci_world(stored: int):
    from playbook.secret import Secret
    from playbook.twins import state as states
    from playbook.twins.world import TwinWorld

    def variables(number: int) -> dict[str, states.Variable]:
        names = [f"SETTING_{index}" for index in range(VARIABLES_A_PLACE - 2)]
        found = {
            name: states.Variable(value=states.Value.opaque("q" * 20), created_at=MADE, updated_at=MADE)
            for name in names
        }
        if number < stored:
            for name, text in (("AWS_ACCESS_KEY_ID", key_id(number)), ("AWS_SECRET_ACCESS_KEY", "s" * 36 + "+/9z")):
                found[name] = states.Variable(value=states.Value.opaque(text), created_at=MADE, updated_at=MADE)
        return found

    def project(number: int) -> states.StoredProject:
        return states.StoredProject(
            id=project_id(number),
            slug=f"gh/acme/p{number}",
            organization="gh/acme",
            variables=variables(number + CONTEXTS),
            checkout_keys=[states.CheckoutKey(fingerprint=f"aa:{number}", created_at=MADE)],
            ssh_keys=[states.SshKey(fingerprint=f"bb:{number}", hostname="example.com")],
            tokens=[states.ProjectToken(id=f"t-{number}", label="ci", created_at=MADE)],
            webhooks=[states.Webhook(id=f"w-{number}", name="hook", created_at=MADE, updated_at=MADE)],
            definitions=[states.PipelineDefinition(id=f"d-{number}", triggers=[states.Trigger(id=f"r-{number}")])],
        )

    contexts = [
        states.Context(
            id=context_id(number),
            name=f"context-{number}",
            organization="gh/acme",
            variables=variables(number),
            restrictions=[states.ContextRestriction(id=f"x-{number}", kind="project", value=project_id(number))],
        )
        for number in range(CONTEXTS)
    ]
    organization = states.StoredOrganization(id=ORGANIZATION, slug="gh/acme", name="acme")
    circleci = states.CircleCiState(
        login="ann",
        token_sha256=Secret(TOKEN).digest(),
        organizations={"gh/acme": organization},
        contexts={item.id: item for item in contexts},
        projects={item.slug: item for item in map(project, range(PROJECTS))},
    )
    return TwinWorld(states.State(now=datetime.now(UTC), circleci=circleci), flowing=True)


def users_xml(first: int, count: int) -> str:
    return "".join(
        f"<member><Path>/</Path><UserName>user-{number}</UserName><UserId>AIDA{number:016}</UserId>"
        f"<Arn>arn:aws:iam::{ACCOUNT}:user/user-{number}</Arn><CreateDate>2022-06-01T00:00:00Z</CreateDate>{{more}}</member>"
        for number in range(first, min(first + count, USERS))
    )


def paged(operation: str, members: str, inner: str, first: int, size: int) -> str:
    last = first + size >= USERS
    more = "" if last else f"<Marker>{first + size}</Marker>"
    return (
        f"<{operation}Response><{operation}Result><{members}>{inner}</{members}>"
        f"<IsTruncated>{str(not last).lower()}</IsTruncated>{more}</{operation}Result></{operation}Response>"
    )


def credential_report() -> str:
    import base64

    text = io.StringIO()
    writer = csv.writer(text)
    columns = [
        f"access_key_{number}_{name}" for number in (1, 2) for name in ("active", "last_rotated", "last_used_date")
    ]
    writer.writerow(["user", "password_last_used", *columns])
    for number in range(USERS):
        used = "2023-01-01T00:00:00+00:00"
        writer.writerow([f"user-{number}", "N/A", "true", "2022-06-01T00:00:00+00:00", used, "false", "N/A", "N/A"])
    return base64.b64encode(text.getvalue().encode()).decode()


def aws_answer(asked: dict[str, str]) -> str:
    operation, user = asked.get("Action", ""), asked.get("UserName", "")
    first = int(asked.get("Marker", "0"))
    details = (
        "<UserPolicyList/><GroupList/><AttachedManagedPolicies><member><PolicyName>AdministratorAccess</PolicyName>"
        "<PolicyArn>arn:aws:iam::aws:policy/AdministratorAccess</PolicyArn></member></AttachedManagedPolicies>"
        "<Tags><member><Key>team</Key><Value>ci</Value></member></Tags>"
    )
    body = {
        "GetCallerIdentity": f"<Arn>arn:aws:iam::{ACCOUNT}:user/ir</Arn><UserId>AIDA</UserId>"
        f"<Account>{ACCOUNT}</Account>",
        "GetAccountSummary": "<SummaryMap><entry><key>AccountAccessKeysPresent</key><value>0</value></entry>"
        "</SummaryMap>",
        "GenerateCredentialReport": "<State>COMPLETE</State>",
        "GetAccessKeyLastUsed": "<AccessKeyLastUsed><LastUsedDate>2023-01-02T00:00:00Z</LastUsedDate>"
        "<ServiceName>s3</ServiceName><Region>eu-west-1</Region></AccessKeyLastUsed>",
        "ListUserTags": "<Tags><member><Key>team</Key><Value>ci</Value></member></Tags>"
        "<IsTruncated>false</IsTruncated>",
        "ListAttachedUserPolicies": "<AttachedPolicies/><IsTruncated>false</IsTruncated>",
        "ListUserPolicies": "<PolicyNames/><IsTruncated>false</IsTruncated>",
        "ListGroupsForUser": "<Groups/><IsTruncated>false</IsTruncated>",
    }.get(operation)
    if operation == "ListUsers":
        return paged(operation, "Users", users_xml(first, USERS_A_PAGE).replace("{more}", ""), first, USERS_A_PAGE)
    if operation == "GetAccountAuthorizationDetails":
        inner = users_xml(first, USERS_A_PAGE).replace("{more}", details)
        return paged(operation, "UserDetailList", inner, first, USERS_A_PAGE)
    if operation == "GetCredentialReport":
        body = f"<Content>{REPORT}</Content><GeneratedTime>{REPORT_AT}</GeneratedTime>"
    if operation == "ListAccessKeys":
        number = int(user.partition("-")[2])
        body = (
            f"<AccessKeyMetadata><member><UserName>{escape(user)}</UserName><AccessKeyId>{key_id(number)}</AccessKeyId>"
            "<Status>Active</Status><CreateDate>2022-06-01T00:00:00Z</CreateDate></member></AccessKeyMetadata>"
            "<IsTruncated>false</IsTruncated>"
        )
    return f"<{operation}Response><{operation}Result>{body}</{operation}Result></{operation}Response>"


REPORT = credential_report()
REPORT_AT = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")


def aws_server(counted: Counted) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            with counted:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                flat = {name: values[0] for name, values in asked.items()}
                with counted.lock:
                    counted.calls[flat.get("Action", "")] += 1
                time.sleep(DELAY_S)
                body = aws_answer(flat).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server(("127.0.0.1", 0), Handler)


def kind_of(target: str) -> str:
    """A route without its ids."""
    path = target.partition("?")[0]
    for part in path.split("/"):
        if any(character.isdigit() for character in part) and part not in ("v1.1", "v2", "v3"):
            path = path.replace(part, "*", 1)
    return path


def serve(stored: int) -> None:
    """Serve both platforms until standard input ends; a line asks for the counts since the last one."""
    from playbook.secret import Secret
    from playbook.twins.server import CircleCiServer

    counted = Counted()
    circleci = CircleCiServer(circleci_world(stored), Secret(TOKEN))
    api = circleci._server.api
    answer = api.answer

    def slowly(request):
        with counted:
            with counted.lock:
                counted.calls[f"{request.method} {kind_of(request.target)}"] += 1
            time.sleep(DELAY_S)
            return answer(request)

    api.answer = slowly  # type: ignore[method-assign]
    aws = aws_server(counted)
    threading.Thread(target=aws.serve_forever, daemon=True).start()
    circleci.start()
    print(json.dumps({"circleci": circleci.url, "aws": f"http://127.0.0.1:{aws.server_address[1]}"}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(counted.report()), flush=True)


# --- The naive client, in a child -------------------------------------------------------------------------------------


def naive(lean: bool) -> None:
    """One call after the other, for a tenth of everything; what others' tools ask for the same rows."""
    import boto3
    import httpx

    http = httpx.Client(base_url=os.environ["CIRCLE_HOST"], headers={"Authorization": f"Bearer {TOKEN}"})
    iam = boto3.client("iam")
    began_at = time.monotonic()
    for number in range(CONTEXTS // SHARE):
        http.get(f"/api/v2/context/{context_id(number)}/environment-variable").raise_for_status()
        http.get(f"/api/v2/context/{context_id(number)}/restrictions").raise_for_status()
    for number in range(PROJECTS // SHARE):
        slug, uuid = f"gh/acme/p{number}", project_id(number)
        http.get(f"/api/v2/project/{slug}/envvar").raise_for_status()
        http.get(f"/api/v2/project/{slug}/checkout-key").raise_for_status()
        http.get(f"/api/v1.1/project/{slug}/settings").raise_for_status()
        http.get(f"/api/private/project/{uuid}").raise_for_status()
        if not lean:
            http.get(f"/api/v1.1/project/{slug}/token").raise_for_status()
            http.get("/api/v2/webhook", params={"scope-id": uuid, "scope-type": "project"}).raise_for_status()
            http.get(f"/api/v2/projects/{uuid}/pipeline-definitions").raise_for_status()
            http.get(f"/api/v2/projects/{uuid}/pipeline-definitions/d-{number}/triggers").raise_for_status()
            http.get(f"/api/v2/org/{ORGANIZATION}/project/{uuid}/oidc-custom-claims").raise_for_status()
    for number in range(USERS // SHARE):
        name = f"user-{number}"
        for key in iam.list_access_keys(UserName=name)["AccessKeyMetadata"]:
            iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])
        iam.list_user_tags(UserName=name)
        iam.list_attached_user_policies(UserName=name)
        iam.list_user_policies(UserName=name)
        iam.list_groups_for_user(UserName=name)
    print(json.dumps({"wall_s": time.monotonic() - began_at}))


# --- The benchmark ----------------------------------------------------------------------------------------------------


class Platforms:
    """The serving child, and what it counted since it was last asked."""

    def __init__(self, stored: int) -> None:
        self.stored = stored
        self.child = subprocess.Popen(
            [sys.executable, __file__, "serve", str(stored)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        urls = self._line()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "AWS_ENDPOINT_URL": urls["aws"],
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "s" * 40,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # A crash of the interpreter itself has to say where.
            "PYTHONFAULTHANDLER": "1",
            "CIRCLE_HOST": urls["circleci"],
            "CIRCLE_TOKEN": TOKEN,
        }

    def _line(self):
        assert self.child.stdout is not None
        return json.loads(self.child.stdout.readline())

    def counted(self):
        assert self.child.stdin is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return self._line()

    def close(self) -> None:
        self.child.communicate()

    def run(self, *command: str) -> tuple[str, float, float]:
        """A child's output, its wall time and its peak memory in MiB."""
        began_at = time.monotonic()
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=said)
            assert child.stdout is not None
            output = child.stdout.read().decode()
            child.stdout.close()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            assert child.returncode == 0, (child.returncode, said.read().decode()[-4000:])
        return output, time.monotonic() - began_at, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def share(counts: dict[str, int], *names: str) -> int:
    return sum(number for name, number in counts.items() if any(part in name for part in names))


def one(platforms: Platforms, title: str, kinds: tuple[str, ...], most_a_project: float) -> None:
    program = [str(Path(sys.executable).with_name("rotation-playbook")), "inventory", "--json", "--no-input"]
    limits = [part for kind in kinds for part in ("--kind", kind)]
    platforms.counted()
    output, wall_s, memory_mib = platforms.run(*program, "--parallel", str(PARALLEL), *limits)
    counted = platforms.counted()
    told = json.loads(output)
    calls = counted["calls"]
    naive_output, _, _ = platforms.run(sys.executable, __file__, "naive", "lean" if kinds else "all")
    naive_calls = sum(platforms.counted()["calls"].values()) * SHARE
    naive_s = json.loads(naive_output)["wall_s"] * SHARE

    aws = sum(number for name, number in calls.items() if " " not in name)
    projects = share(calls, "/project", "/webhook", "/org/")
    total = sum(calls.values())
    size = f"{CONTEXTS} contexts, {PROJECTS} projects, {USERS} users ({platforms.stored} of their keys stored)"
    print(f"\n{title}: {size}, {DELAY_S * 1000:.0f} ms a reply")
    print(f"  calls {total}: {aws} to AWS ({aws / USERS:.3f} a user), {projects / PROJECTS:.2f} a project")
    print(f"  wall time {wall_s:.1f} s with --parallel {PARALLEL}, start of the program included")
    print(f"  calls in flight at most {counted['most']}; peak memory {memory_mib:.0f} MiB")
    print(f"  one after the other: {naive_calls} naive calls in {naive_s:.0f} s, so this took 1/{naive_s / wall_s:.1f}")
    print(f"    (a tenth measured, times ten; our own {total} calls' delays alone, summed: {total * DELAY_S:.0f} s)")
    print(f"  read: {len(told['secrets'])} rows, {len(told['access_keys'])} keys, complete: {told['complete']}")
    for name, number in sorted(calls.items(), key=lambda item: -item[1])[:14]:
        print(f"    {number:6} {name}")
    assert told["complete"], told["holes"]
    assert len(told["access_keys"]) == USERS
    assert sum(bool(row["stored_in"]) for row in told["access_keys"]) == platforms.stored
    assert counted["most"] <= PARALLEL
    assert aws <= 1.15 * USERS
    assert projects <= most_a_project * PROJECTS
    assert memory_mib < 150
    assert wall_s <= naive_s / 12


@pytest.mark.parametrize("stored", [STORED, STORED_OFTEN])
def test_a_large_inventory_costs_little(stored: int) -> None:
    platforms = Platforms(stored)
    try:
        one(platforms, "Variables, checkout, SSH and legacy keys", LEAN, 2.2)
        if stored == STORED:
            one(platforms, "Everything", (), 7.5)
    finally:
        platforms.close()


# --- Configurations ---------------------------------------------------------------------------------------------------

CONFIGS = Path(__file__).parents[2] / "shared" / "data" / "configs"
FILES = 300
JOB = """\
  job{n}:
    docker: [{{image: 'cimg/base:stable'}}]  # {n}
    environment: {{STAGE: x{n}}}
    steps:
      - checkout
      - run:
          name: sync
          command: |
            export AWS_ACCESS_KEY_ID=$DEPLOY_KEY AWS_SECRET_ACCESS_KEY=$DEPLOY_SECRET
            aws s3 sync site s3://site-{n}
      - store_artifacts: {{path: site}}
"""


def made_config(jobs: int) -> str:
    ran = "".join(f"      - job{number}:\n          context: [site]\n" for number in range(jobs))
    defined = "".join(JOB.format(n=number) for number in range(jobs))
    return f"version: 2.1\njobs:\n{defined}workflows:\n  main:\n    jobs:\n{ran}"


def config_texts() -> tuple[str, list[bytes]]:
    """Real configurations where they lie beside the project, else made ones of the same lengths."""
    if CONFIGS.is_dir():
        real = [path.read_bytes() for path in sorted(CONFIGS.rglob("*.yml"))]
        return "real", (real * (FILES // len(real) + 1))[:FILES]
    return "made", [made_config(5 + number * 7 % 45).encode() for number in range(FILES)]


def rewrite_s(raw: bytes) -> tuple[float, str]:
    """CPU seconds from bytes to a checked diff, as `migrate-config` does it, and the verdict."""
    from playbook.circleci_config.rewrite import Options
    from playbook.migrate_config import Target, rewritten

    target = Target(path=Path("/x/.circleci/config.yml"), root=Path("/x"))
    options = Options(role_arn="arn:aws:iam::123456789012:role/ci", context="aws-oidc", region="eu-west-1")
    started = time.process_time()
    outcome = rewritten(target, raw, options)
    outcome.diff()
    return time.process_time() - started, str(outcome.verdict)


def composed_s(raw: bytes) -> float:
    """CPU seconds that PyYAML takes to compose the same text, and nothing more."""
    import yaml

    started = time.process_time()
    with suppress(yaml.YAMLError):
        yaml.compose(raw, Loader=yaml.CSafeLoader)
    return time.process_time() - started


def test_three_hundred_configurations_are_rewritten_in_ten_seconds() -> None:
    rewrite_s(made_config(1).encode())  # what is imported and compiled once
    kind, texts = config_texts()
    results = [rewrite_s(raw) for raw in texts]
    spent, plain = sum(seconds for seconds, _ in results), sum(map(composed_s, texts))
    lines = sum(raw.count(b"\n") for raw in texts)
    print(f"\n{len(texts)} {kind} configurations, {lines} lines: {dict(Counter(verdict for _, verdict in results))}")
    print(f"  CPU {spent:.1f} s, {spent / lines * 1e6:.0f} us a line; {spent / plain:.1f} times composing them")
    assert spent < 10


def test_a_line_of_a_long_configuration_costs_what_one_of_a_short_one_does() -> None:
    rewrite_s(made_config(1).encode())
    costs = {}
    for jobs in (75, 375, 1540):
        raw = made_config(jobs).encode()
        seconds, verdict = min(rewrite_s(raw) for _ in range(2))
        costs[raw.count(b"\n")] = seconds / raw.count(b"\n")
        assert verdict == "migrated"
    least = min(costs.values())
    for lines, cost in costs.items():
        print(f"  {lines:6} lines: {cost * 1e6:.0f} us a line, {cost / least:.2f} of the cheapest")
    assert max(costs.values()) < 2 * least


if __name__ == "__main__":
    serve(int(sys.argv[2])) if sys.argv[1] == "serve" else naive(sys.argv[2] == "lean")
