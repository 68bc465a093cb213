"""The login wrapped once: as an inline orb of one configuration, or as the sources of an orb that a team publishes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config.login import DURATION, Login, plain_step

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
