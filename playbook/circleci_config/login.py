"""The step that logs a job in to AWS by OIDC: of the `aws-cli` orb, or plain shell where the orb cannot install."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

PLAIN_NAME: Final = "Log in to AWS by OIDC"
DURATION: Final = 3600
"""Seconds; the orb's own default."""
_ARN: Final = re.compile(r"arn:aws(?:-cn|-us-gov)?:iam::\d{12}:role/[\w+=,.@/-]+")
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")
_SESSION: Final = re.compile(r"[\w+=,.@-]{2,64}")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")


@dataclass(frozen=True, kw_only=True)
class Login:
    """What a login needs; `role` and `region` may each be a `$VARIABLE` of the job's context."""

    role: str
    region: str = ""
    session_name: str = ""
    duration: int = DURATION
    profile: str = ""
    profile_only: bool = False
    """Keep the credentials out of the environment, where they would win over a profile that takes a further role."""


def problem(login: Login) -> str:
    """What is wrong with a login, as a sentence's end; nothing when it can be written down."""
    if not (_ARN.fullmatch(login.role) or _VARIABLE.fullmatch(login.role)):
        return "the role is neither the ARN of a role nor a variable such as $AWS_ROLE_ARN"
    if login.region and not (_REGION.fullmatch(login.region) or _VARIABLE.fullmatch(login.region)):
        return "the region is neither a region such as eu-west-1 nor a variable such as $AWS_REGION"
    if login.session_name and not (_SESSION.fullmatch(login.session_name) or _VARIABLE.fullmatch(login.session_name)):
        return "the session's name may have 2 to 64 letters, digits and any of +=,.@-_"
    if not 900 <= login.duration <= 43_200:  # noqa: PLR2004  what AWS allows
        return "the session's duration is not between 900 and 43200 seconds"
    return ""


def orb_parameters(login: Login, *, hyphens: bool) -> dict[str, Any]:
    """The parameters of `aws-cli/setup`: hyphened up to version 3, underscored from 4.

    Version 3 takes the region as the *name* of a variable, so a region that is written out is left to the environment.
    """
    parameters: dict[str, Any] = {"role_arn": login.role}
    if login.region and not hyphens:
        parameters["region"] = login.region
    elif login.region.startswith("$"):
        parameters["aws-region"] = login.region.strip("${}")
    if login.session_name:
        parameters["role_session_name"] = login.session_name
    if login.duration != DURATION:
        parameters["session_duration"] = str(login.duration)
    if login.profile not in {"", "default"}:
        parameters["profile_name"] = login.profile
    if login.profile_only:
        parameters["set_aws_env_vars"] = False
    return {key.replace("_", "-"): value for key, value in parameters.items()} if hyphens else parameters


def plain_step(login: Login, *, shell: str = "") -> dict[str, Any]:
    """A `run` step that exchanges the job's token, for any POSIX shell with `aws`, `curl`, `python3` or `wget`.

    The credentials go to `$BASH_ENV`, which bash reads in every later step, and to the credentials file, which the SDKs
    read where there is no bash. Nothing of them is printed. A small image's
    `wget` takes the token as an argument, which only the job's own processes see; the others read it from a file.
    """
    run: dict[str, Any] = {"name": PLAIN_NAME}
    if shell:
        run["shell"] = shell
    run["command"] = _plain_script(login)
    return {"run": run}


_KEEP: Final = """\
printf 'export AWS_ACCESS_KEY_ID="%s" AWS_SECRET_ACCESS_KEY="%s" AWS_SESSION_TOKEN="%s"\\n' \\
  "$key" "$secret" "$session_token" >> "${BASH_ENV:-/dev/null}"
"""


def _plain_script(login: Login) -> str:
    region = login.region or "${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}"
    session = login.session_name or "${CIRCLE_JOB:-circleci}"
    profile = login.profile or "default"
    keep = _KEEP if not login.profile_only else ""
    return f"""\
set -e +x
: "${{CIRCLE_OIDC_TOKEN_V2:?this job has no OIDC token}}"
umask 077
role="{login.role}"
region="{region}"
session=$(printf '%s' "{session}" | tr -c 'A-Za-z0-9=,.@_-' '-' | cut -c 1-64)
token=$(mktemp)
answer=$(mktemp)
trap 'rm -f "$token" "$answer"' EXIT
printf '%s' "$CIRCLE_OIDC_TOKEN_V2" > "$token"
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
if command -v aws > /dev/null; then
  aws sts assume-role-with-web-identity --region "$region" --output text \\
    --role-arn "$role" --role-session-name "$session" --duration-seconds {login.duration} \\
    --web-identity-token "file://$token" \\
    --query 'Credentials.[AccessKeyId,SecretAccessKey,SessionToken]' | tr '\\t' '\\n' > "$answer"
else
  form=$(mktemp)
  escaped() {{ printf '%s' "$1" | sed 's/+/%2B/g; s/=/%3D/g; s/,/%2C/g; s/@/%40/g'; }}
  {{
    printf 'Action=AssumeRoleWithWebIdentity&Version=2011-06-15&DurationSeconds={login.duration}'
    printf '&RoleArn=%s&RoleSessionName=%s&WebIdentityToken=' "$(escaped "$role")" "$(escaped "$session")"
    cat "$token"
  }} > "$form"
  if command -v curl > /dev/null; then
    curl --silent --show-error --fail --data "@$form" "https://sts.$region.amazonaws.com/" > "$answer.xml"
  elif command -v python3 > /dev/null; then
    send='from sys import *; from urllib.request import *; print(urlopen(argv[1], stdin.buffer.read()).read().decode())'
    python3 -c "$send" "https://sts.$region.amazonaws.com/" < "$form" > "$answer.xml"
  else
    wget -q -O "$answer.xml" --post-data="$(cat "$form")" "https://sts.$region.amazonaws.com/"
  fi
  for field in AccessKeyId SecretAccessKey SessionToken; do
    printf '%s\\n' "$(tr -d '\\n' < "$answer.xml" | sed -n "s|.*<$field>\\([^<]*\\)</$field>.*|\\1|p")"
  done > "$answer"
  rm -f "$form" "$answer.xml"
fi
key=$(sed -n 1p "$answer")
secret=$(sed -n 2p "$answer")
session_token=$(sed -n 3p "$answer")
: "${{session_token:?AWS did not give credentials for $role}}"
mkdir -p ~/.aws
printf '[%s]\\naws_access_key_id = %s\\naws_secret_access_key = %s\\naws_session_token = %s\\n' \\
  "{profile}" "$key" "$secret" "$session_token" > ~/.aws/credentials
{keep}"""
