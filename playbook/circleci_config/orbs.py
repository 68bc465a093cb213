"""What is known of CircleCI's orbs for AWS, by version: who logs in, under which parameter names, and what OIDC needs.

Taken from the orbs' published sources. The traps that the versions set:

- `aws-cli` can log in by OIDC since 3.1.0; up to 3.1.4 it uses the first token format. From 4.1.2 to 5.1.1 a leftover
  `AWS_ACCESS_KEY_ID` wins over the role, because the credentials are exported under other names.
- Parameters are hyphened up to `aws-cli` 3 and underscored from 4; a region is the *name* of a variable up to 3 and an
  expression from 4.
- `aws-ecr` up to 7 can only log in by a key; 8 by `assume-web-identity`; from 9 the login is given as `auth` steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

AWS_CLI: Final = "circleci/aws-cli"
AWS_CLI_VERSION: Final = "5.4.1"
AWS_ECR: Final = "circleci/aws-ecr"
AWS_ECR_VERSION: Final = "9.8.1"
AWS_ECR_8_VERSION: Final = "8.2.1"
AWS_S3: Final = "circleci/aws-s3"
AWS_ECS: Final = "circleci/aws-ecs"
NEWEST: Final = 999
_PLAIN_USE: Final = frozenset(
    {
        AWS_ECS,
        AWS_S3,
        "circleci/aws-eks",
        "circleci/aws-code-deploy",
        "circleci/aws-elastic-beanstalk",
        "circleci/aws-sam-serverless",
        "circleci/aws-parameter-store",
        "circleci/aws-lambda",
        "circleci/aws-cloudformation",
        "circleci/aws-codeartifact",
        "circleci/aws-cdk",
    }
)
"""Orbs whose commands call `aws` with the credentials of the environment, where those are there."""
_MAYBE_USE: Final = re.compile(r"(?:^|[/_-])(?:terraform|terragrunt|pulumi|packer)(?:$|[_-])")
_SERVERLESS: Final = "circleci/serverless-framework"
KEY_PARAMETERS: Final = frozenset(
    {
        "aws-access-key-id",
        "aws-secret-access-key",
        "aws-session-token",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "access-key",
        "secret-key",
        "access_key",
        "secret_key",
    }
)
ROLE_PARAMETERS: Final = frozenset({"role-arn", "role_arn"})


@dataclass(frozen=True, kw_only=True)
class Orb:
    """One entry of `orbs:` that names a published orb."""

    alias: str
    name: str
    version: str

    @property
    def number(self) -> tuple[int, int, int] | None:
        """As numbers; a part that floats counts as the newest. None for `dev:` and for what a parameter decides."""
        if self.version == "volatile":
            return (NEWEST, NEWEST, NEWEST)
        if not re.fullmatch(r"\d+(?:\.\d+){0,2}", self.version):
            return None
        parts = [int(part) for part in self.version.split(".")]
        padded = [*parts, NEWEST, NEWEST][:3]
        return (padded[0], padded[1], padded[2])

    @property
    def major(self) -> int:
        """0 where the version is not readable."""
        return (self.number or (0, 0, 0))[0]


def orb_of(alias: str, reference: object) -> Orb | None:
    """The published orb that an entry names; None for an inline orb or what is no reference."""
    found = (
        re.fullmatch(r"(?P<name>[\w-]+/[\w-]+)@(?P<version>\S+)", str(reference))
        if isinstance(reference, str)
        else None
    )
    return Orb(alias=alias, name=found["name"], version=found["version"]) if found else None


def oidc_version(orb: Orb) -> str | None:
    """The version of `aws-cli` to use in place of this one, None when it may stay; see the module's notes."""
    number = orb.number
    if number is None or number >= (5, 1, 2):
        return None
    if number >= (4, 1, 2) or number < (3, 0, 0):
        return AWS_CLI_VERSION
    if (3, 0, 0) <= number < (3, 1, 5):
        return "3.2.0"
    return None


def leftover_wins(orb: Orb) -> bool:
    """Whether a key that is left in the environment wins over the role that `aws-cli` takes."""
    return orb.number is not None and (4, 1, 2) <= orb.number < (5, 1, 2)


def logs_in_by_oidc(orb: Orb, command: str, parameters: Mapping[str, Any]) -> bool:
    """A step of `aws-cli` that exchanges the job's OIDC token for a role."""
    if orb.name != AWS_CLI:
        return False
    if command in {"assume-role-with-web-identity", "assume_role_with_web_identity"}:
        return True
    capable = orb.number is None or orb.number >= (3, 1, 0)
    return capable and command == "setup" and bool(ROLE_PARAMETERS & parameters.keys())


def logs_in_by_key(orb: Orb, command: str, parameters: Mapping[str, Any]) -> bool:
    """A step of `aws-cli` that writes a stored key into a profile."""
    return orb.name == AWS_CLI and command in {"setup", "configure"} and not logs_in_by_oidc(orb, command, parameters)


def uses_aws(orb: Orb, command: str) -> str:
    """`yes`, `maybe` (a tool of many clouds), `hidden` (somebody's own orb for AWS) or nothing."""
    if orb.name == AWS_CLI:
        return ""
    if orb.name in _PLAIN_USE or orb.name == AWS_ECR or re.fullmatch(r"circleci/aws-[\w-]+", orb.name):
        return "yes"
    if orb.name == _SERVERLESS:
        return "" if command in {"setup", "install"} else "yes"
    if _MAYBE_USE.search(orb.name):
        return "" if command in {"install", "fmt", "validate", "fmt-check", "lint", "publish-module"} else "maybe"
    if re.search(r"(?:^|[/_-])(?:aws|ecr|ecs|eks|s3|lambda|cloudfront|cloudformation|hokusai)(?:$|[_-])", orb.name):
        return "hidden"
    return ""


def ecr_logs_in(command: str) -> bool:
    """Whether a step or job of `aws-ecr` up to 8 writes a key into a profile itself."""
    return command.replace("-", "_") in {"build_and_push_image", "ecr_login"}


def takes_auth(command: str) -> bool:
    """Whether a step or job of `aws-ecr` takes the login as steps from 9 on."""
    return command.replace("-", "_") == "build_and_push_image"


def needs_own_login(orb: Orb | None, parameters: Mapping[str, Any]) -> bool:
    """Whether a login before it is of no use, because it writes a profile of its own and asks for that profile."""
    return bool(KEY_PARAMETERS & parameters.keys()) or (orb is not None and orb.name == AWS_ECR)


BY_NAME: Final = frozenset({"aws-region", "aws-access-key-id", "aws-secret-access-key"})
"""Parameters of `aws-cli` up to 3 that take a variable's name, and an expression of its value from 4 on."""


def hyphened(orb: Orb) -> bool:
    """Whether the parameters of `aws-cli` are hyphened at the version it has."""
    return orb.major <= 3  # noqa: PLR2004  see the module's notes


def underscored(name: str) -> str:
    """A parameter or command of `aws-cli` 0 to 3 under its name from 4 on."""
    renamed = name.replace("-", "_")
    return {"aws_region": "region", "configure": "setup"}.get(renamed, renamed)


def expression(value: object) -> object:
    """A variable's name as the expression of its value, which the parameters ask for from `aws-cli` 4 on."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or re.fullmatch(r"<<\s*parameters\.[\w-]+\s*>>", value):
        return f"${{{value}}}"
    return value


_ECR_9: Final = frozenset(
    {
        "account_id",
        "profile_name",
        "region",
        "public_registry",
        "repo",
        "create_repo",
        "repo_scan_on_push",
        "tag",
        "attach_workspace",
        "workspace_root",
        "setup_remote_docker",
        "remote_docker_version",
        "remote_docker_layer_caching",
        "docker_login",
        "dockerhub_username",
        "dockerhub_password",
        "dockerfile",
        "path",
        "build_path",
        "extra_build_args",
        "no_output_timeout",
        "skip_when_tags_exist",
        "platform",
        "push_image",
        "lifecycle_policy_path",
        "checkout",
        "set_repo_policy",
        "repo_policy_path",
        "auth",
        "executor",
        "public_registry_alias",
        "source_tag",
        "target_tag",
    }
)
_ECR_DROPPED: Final = frozenset({"aws_cli_version", "ecr_login", "repo_encryption_type"})
ECR_JOB_WORDS: Final = frozenset({
    "name", "requires", "context", "filters", "matrix", "type", "pre-steps", "post-steps", "serial-group",
    "override-with", "max_auto_reruns", "auto_rerun_delay",
})  # fmt: skip
"""What a workflow says to any job, beside the job's own parameters."""


_ECR_OLD_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    command: {"account-url": "AWS_ECR_ACCOUNT_URL", "region": "AWS_REGION"}
    for command in ("build_and_push_image", "build_image", "push_image")
} | {"ecr_login": {"account-url": "AWS_ECR_ACCOUNT_URL", "region": "AWS_REGION"}}
"""What 6 and 7 took from the environment where a step does not say it; 9 takes other variables."""


def ecr_9(
    orb: Orb, command: str, parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """A step or job of `aws-ecr` up to 8 in the words of 9: the parameters, old name to new, and what has no successor.

    `account-url` named a variable with the registry's host; 9 asks for the account, which is the host's first part.
    The orb hands the value to a shell, so the shell may cut it.
    """
    old = _ECR_OLD_DEFAULTS.get(command.replace("-", "_"), {})
    old = {name: value for name, value in old.items() if name == "region" or "registry-id" not in parameters}
    given = {**parameters, **{name: value for name, value in old.items() if name not in parameters}}
    renamed: dict[str, Any] = {}
    names: dict[str, str] = {}
    lost: list[str] = []
    for name, value in given.items():
        if name in ECR_JOB_WORDS:
            renamed[name] = value
        elif name not in KEY_PARAMETERS and name.replace("-", "_") not in _ECR_DROPPED:
            new, changed = _ecr_9_parameter(name.replace("-", "_"), value)
            if new in _ECR_9:
                names[name] = new
                renamed[new] = changed
            else:
                lost.append(name)
    if command.replace("-", "_") == "build_image" and orb.major < 7:  # noqa: PLR2004  from 7 on it pushes unless told
        renamed.setdefault("push_image", False)
    return renamed, names, tuple(lost)


def _ecr_9_parameter(name: str, value: object) -> tuple[str, object]:
    """A parameter's name and value in `aws-ecr` 9, from its name with underscores; an unknown name stays."""
    if name == "registry_id":
        return "account_id", expression(value)
    if name == "region":
        return name, expression(value)
    if name != "account_url":
        return name, value
    text = str(value)
    host = re.fullmatch(r"(?P<account>\d{12})\.dkr\.ecr\..*", text)
    named = re.fullmatch(r"\$?\{?(?P<name>[A-Za-z_]\w*)\}?|(?P<parameter><<\s*parameters\.[\w-]+\s*>>)", text)
    if host:
        return "account_id", host["account"]
    return ("account_id", f"${{{named['name'] or named['parameter']}%%.*}}") if named else (name, value)
