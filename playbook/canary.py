"""The canary: a one-job pipeline that says who CI is to AWS, and nothing more (pure: texts in, texts out).

The job runs on CircleCI with the real context attached, so it proves what no read can: the stored pair signs, as the
right user, and no other source hides it. It prints the account, the ARN and the last four characters of the key id,
and stores the same three as test cases, because test results can be read back through the API and a log cannot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from playbook.ports import StoredTest

JOB: Final = "canary"
WORKFLOW: Final = "rotation-playbook-canary"
IMAGE: Final = "cimg/aws:2025.01"
"""CircleCI's own image with the AWS CLI (developer hub, images, cimg/aws)."""
ID_VARIABLE: Final = "CANARY_ID_VARIABLE"
SECRET_VARIABLE: Final = "CANARY_SECRET_VARIABLE"  # noqa: S105  # the name of a variable
ROLE_ARN: Final = "CANARY_ROLE_ARN"
REGION: Final = "CANARY_REGION"

ACCOUNT, ARN, TAIL, STATIC_TAIL, FAILURE = "account", "arn", "tail", "static-tail", "failure"
"""The class names of the test cases; each case's name is what was seen."""

_KEYS_SCRIPT: Final = """\
export AWS_ACCESS_KEY_ID="${!CANARY_ID_VARIABLE:-}"
export AWS_SECRET_ACCESS_KEY="${!CANARY_SECRET_VARIABLE:-}"
unset AWS_SESSION_TOKEN AWS_PROFILE
tail="${AWS_ACCESS_KEY_ID: -4}"
"""
_ROLE_SCRIPT: Final = """\
static="${AWS_ACCESS_KEY_ID:-}"
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
if [ -n "$static" ]; then record static-tail "${static: -4}"; fi
session=$(aws sts assume-role-with-web-identity --role-arn "$CANARY_ROLE_ARN" \\
  --role-session-name rotation-playbook-canary --web-identity-token "${CIRCLE_OIDC_TOKEN_V2:-}" \\
  --duration-seconds 900 --output text \\
  --query 'Credentials.[AccessKeyId,SecretAccessKey,SessionToken]' 2>"$errors") || fail
read -r AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN <<< "$session"
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
tail="${AWS_ACCESS_KEY_ID: -4}"
"""
# Nothing is traced, and the CLI's own message is kept from the log: only its error code is let through.
_SCRIPT: Final = """\
set +x -u
umask 077
export AWS_DEFAULT_REGION="$CANARY_REGION" AWS_PAGER="" AWS_EC2_METADATA_DISABLED=true
errors=$(mktemp)
mkdir -p canary
cases=""
count=0
record() {{ cases="$cases<testcase classname=\\"$1\\" name=\\"$2\\"/>"; count=$((count + 1)); echo "$1: $2"; }}
store() {{
  echo "<testsuite name=\\"rotation-playbook\\" tests=\\"$count\\">$cases</testsuite>" > canary/results.xml
}}
fail() {{
  code=$(grep -o '([A-Za-z]*)' "$errors" | head -n 1 | tr -d '()')
  record failure "${{code:-unknown}}"
  store
  exit 1
}}
{credentials}seen=$(aws sts get-caller-identity --query '[Account,Arn]' --output text 2>"$errors") || fail
read -r account arn <<< "$seen"
record account "$account"
record arn "$arn"
record tail "$tail"
store
"""


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """What the job saw; every field is empty until it says so."""

    account: str = ""
    arn: str = ""
    tail: str = ""
    """The last four characters of the key id it signed with."""
    static_tail: str = ""
    """OIDC only: the tail of a static key that lies in the job's environment and would win over the role."""
    failure: str = ""
    """AWS's error code, when the job could not sign."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was reported yet: test results are read out a while after the job has ended."""
        return not (self.arn or self.failure)


def with_keys(contexts: Sequence[str], id_variable: str, secret_variable: str, region: str) -> str:
    """The config of a canary that signs with a stored pair, as these contexts and the project give it."""
    environment = {ID_VARIABLE: id_variable, SECRET_VARIABLE: secret_variable, REGION: region}
    return _config(contexts, environment, _KEYS_SCRIPT)


def with_role(contexts: Sequence[str], role_arn: str, region: str) -> str:
    """The config of a canary that exchanges its OIDC token for a role, and says whether a static key lies beside."""
    return _config(contexts, {ROLE_ARN: role_arn, REGION: region}, _ROLE_SCRIPT)


def _config(contexts: Sequence[str], environment: dict[str, str], credentials: str) -> str:
    job = {
        "docker": [{"image": IMAGE}],
        "resource_class": "small",
        "environment": environment,
        "steps": [
            {"run": {"name": "Say who this job is to AWS", "command": _SCRIPT.format(credentials=credentials)}},
            {"store_test_results": {"path": "canary"}},
        ],
    }
    entry: object = {JOB: {"context": list(contexts)}} if contexts else JOB
    config = {"version": 2.1, "jobs": {JOB: job}, "workflows": {WORKFLOW: {"jobs": [entry]}}}
    return yaml.safe_dump(config, sort_keys=False, width=1000)


def read_report(results: Iterable[StoredTest]) -> CanaryReport:
    """Read the job's test cases; anything that is none of ours, or has not the shape it must have, is passed over."""
    shapes = {
        ACCOUNT: r"\d{12}",
        ARN: r"arn:[a-z-]+:(?:iam|sts)::\d{12}:[\w+=,.@/-]{1,200}",
        TAIL: r"[A-Z2-7]{4}",
        STATIC_TAIL: r"[A-Z2-7]{4}",
        FAILURE: r"[A-Za-z]{1,80}",
    }
    seen = {
        item.classname: item.name
        for item in results
        if item.classname in shapes and re.fullmatch(shapes[item.classname], item.name)
    }
    return CanaryReport(
        account=seen.get(ACCOUNT, ""),
        arn=seen.get(ARN, ""),
        tail=seen.get(TAIL, ""),
        static_tail=seen.get(STATIC_TAIL, ""),
        failure=seen.get(FAILURE, ""),
    )
