"""The login wrapped once: as an inline orb of one configuration, or as the sources of an orb that a team publishes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config.login import DURATION, Login, plain_step
from playbook.circleci_config.render import Style, key_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

LOGIN: Final = "login"
LOGIN_PLAIN: Final = "login-in-a-small-image"
_PARAMETERS: Final[Mapping[str, Any]] = {
    "role_arn": {
        "type": "string",
        "default": "$AWS_ROLE_ARN",
        "description": "The role to take, or a variable that holds it",
    },
    "region": {
        "type": "string",
        "default": "$AWS_DEFAULT_REGION",
        "description": "The region, or a variable that holds it",
    },
    "role_session_name": {
        "type": "string",
        "default": "$CIRCLE_JOB",
        "description": "How the session is named in CloudTrail",
    },
    "session_duration": {
        "type": "string",
        "default": str(DURATION),
        "description": "Seconds that the credentials last",
    },
    "profile_name": {
        "type": "string",
        "default": "default",
        "description": "The profile that keeps the credentials too",
    },
}


def _handed_on() -> dict[str, str]:
    return {name: f"<< parameters.{name} >>" for name in _PARAMETERS}


def inline_orb() -> dict[str, Any]:
    """The orb as it stands under `orbs:` of one configuration."""
    return {"orbs": {"aws-cli": f"{known.AWS_CLI}@{known.AWS_CLI_VERSION}"}, "commands": _commands()}


def _commands() -> dict[str, Any]:
    return {
        LOGIN: {
            "description": "Log in to AWS by OIDC",
            "parameters": dict(_PARAMETERS),
            "steps": [{"aws-cli/setup": _handed_on()}],
        },
        LOGIN_PLAIN: {
            "description": "The same where the AWS CLI cannot be installed",
            "parameters": dict(_PARAMETERS),
            "steps": [_plain_with_parameters()],
        },
    }


def _plain_with_parameters() -> dict[str, Any]:
    step = plain_step(
        Login(role="$PLACE_ROLE", region="$PLACE_REGION", session_name="$PLACE_SESSION", profile="PLACE_PROFILE")
    )
    script = step["run"]["command"]
    for place, name in (
        ("$PLACE_ROLE", "role_arn"),
        ("$PLACE_REGION", "region"),
        ("$PLACE_SESSION", "role_session_name"),
        ("PLACE_PROFILE", "profile_name"),
    ):
        script = script.replace(place, f"<< parameters.{name} >>")
    script = re.sub(
        rf"(?<=--duration-seconds ){DURATION}|(?<=DurationSeconds=){DURATION}",
        "<< parameters.session_duration >>",
        script,
    )
    return {"run": {**step["run"], "command": script}}


def inline_step(alias: str, login: Login, *, plain: bool) -> dict[str, Any]:
    """The step that calls the orb."""
    parameters: dict[str, Any] = {"role_arn": login.role}
    if login.region:
        parameters["region"] = login.region
    if login.session_name:
        parameters["role_session_name"] = login.session_name
    if login.duration != DURATION:
        parameters["session_duration"] = str(login.duration)
    if login.profile not in {"", "default"}:
        parameters["profile_name"] = login.profile
    return {f"{alias}/{LOGIN_PLAIN if plain else LOGIN}": parameters}


# --- An orb to publish ----------------------------------------------------------------------------------------------

_README: Final = """\
# Log in to AWS by OIDC

An orb of this team's own: jobs log in to AWS with the OIDC token that CircleCI gives them, and no key is stored.

- `login` installs the AWS CLI where it is missing, takes the role, and exports its credentials to later steps.
- `login-in-a-small-image` does the same where the CLI cannot be installed: it needs only a POSIX shell and one of
  `aws`, `curl`, `python3` and `wget`.
- the job `run` logs in and runs one command.

The role's trust policy must admit the project; the token's audience is the organization's id.

## Publish

    circleci orb pack src > orb.yml
    circleci orb validate orb.yml
    circleci orb create NAMESPACE/aws-oidc
    circleci orb publish orb.yml NAMESPACE/aws-oidc@1.0.0

`.circleci/config.yml` packs and validates every change, and continues with `.circleci/test.yml`, which logs in by the
changed orb for real. It needs a context that holds `AWS_ROLE_ARN` and `AWS_DEFAULT_REGION`.
"""
_CONTINUE: Final = """\
set -e +x
circleci orb pack src > orb.yml
circleci orb validate orb.yml
{ cat .circleci/test.yml; printf 'orbs:\\n  aws-oidc:\\n'; sed 's/^/    /' orb.yml; } > /tmp/test.yml
jq --null-input --rawfile configuration /tmp/test.yml \\
  '{"continuation-key": env.CIRCLE_CONTINUATION_KEY, "configuration": $configuration}' > /tmp/continuation.json
curl --silent --show-error --fail --output /dev/null --header 'Content-Type: application/json' \\
  --data @/tmp/continuation.json https://circleci.com/api/v2/pipeline/continue
"""


def orb_sources() -> dict[str, str]:
    """The sources of a publishable orb: file names in its repository, each with its text."""
    commands = {f"src/commands/{name}.yml": command for name, command in _commands().items()}
    documents: dict[str, Mapping[str, Any]] = {
        "src/@orb.yml": {
            "version": 2.1,
            "description": "Log in to AWS with the OIDC token of the job",
            "orbs": {"aws-cli": f"{known.AWS_CLI}@{known.AWS_CLI_VERSION}"},
        },
        **commands,
        "src/jobs/run.yml": _run_job(),
        "src/executors/default.yml": {"docker": [{"image": "cimg/aws:2024.03"}]},
        "src/examples/log-in.yml": _example(),
        ".circleci/config.yml": _pipeline(),
        ".circleci/test.yml": _tests(),
    }
    return {**{name: _text(document) for name, document in documents.items()}, "README.md": _README}


def _run_job() -> dict[str, Any]:
    command = {"command": {"type": "string", "description": "What to run once logged in"}}
    return {
        "description": "Log in to AWS by OIDC and run one command",
        "executor": "default",
        "parameters": {**_PARAMETERS, **command},
        "steps": ["checkout", {LOGIN: _handed_on()}, {"run": {"command": "<< parameters.command >>"}}],
    }


def _example() -> dict[str, Any]:
    steps = ["checkout", {f"aws-oidc/{LOGIN}": {"role_arn": "$AWS_ROLE_ARN"}}, {"run": "aws sts get-caller-identity"}]
    return {
        "description": "A job that logs in before it uses AWS",
        "usage": {
            "version": 2.1,
            "orbs": {"aws-oidc": "namespace/aws-oidc@1.0.0"},
            "jobs": {"deploy": {"docker": [{"image": "cimg/base:current"}], "steps": steps}},
            "workflows": {"deploy": {"jobs": [{"deploy": {"context": "aws-oidc"}}]}},
        },
    }


def _pipeline() -> dict[str, Any]:
    steps = ["checkout", {"run": {"name": "Continue with the packed orb", "command": _CONTINUE}}]
    image = [{"image": "circleci/circleci-cli:latest"}]
    return {
        "version": 2.1,
        "setup": True,
        "jobs": {"pack": {"docker": image, "steps": steps}},
        "workflows": {"pack": {"jobs": ["pack"]}},
    }


def _tests() -> dict[str, Any]:
    asked = {
        "run": {"name": "Whose credentials these are", "command": "aws sts get-caller-identity | grep assumed-role"}
    }
    jobs = {
        "test-login": {"docker": [{"image": "cimg/base:current"}], "steps": [f"aws-oidc/{LOGIN}", asked]},
        "test-login-in-a-small-image": {
            "docker": [{"image": "alpine:3.20"}],
            "steps": [f"aws-oidc/{LOGIN_PLAIN}", {"run": "apk add aws-cli"}, asked],
        },
    }
    context = {"context": "aws-oidc"}
    entries: list[Any] = [{name: context} for name in jobs]
    entries.append({"aws-oidc/run": {"command": "aws sts get-caller-identity", **context}})
    return {"version": 2.1, "jobs": jobs, "workflows": {"test": {"jobs": entries}}}


def _text(document: Mapping[str, Any]) -> str:
    style = Style()
    return "".join(f"{line}\n" for key, value in document.items() for line in key_lines(key, value, 0, style))
