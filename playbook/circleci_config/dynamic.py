"""Images of ECR where no role can pull them: a setup workflow fetches ECR's password and hands it on as a parameter.

CircleCI's container runner pulls by `auth` only. So the configuration becomes a setup configuration with one job, which
logs in by OIDC, asks ECR for a password and continues with the file's former content; there every such image is pulled
with that password. It is good for twelve hours and is a parameter of the pipeline, which whoever may read the pipeline
can read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from playbook.circleci_config import orbs as known
from playbook.circleci_config.edit import InsertKey, RemoveKey
from playbook.circleci_config.login import Login, orb_parameters
from playbook.circleci_config.options import Refusal
from playbook.circleci_config.render import Style, key_lines
from playbook.circleci_config.understand import as_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.circleci_config.document import KeyPath
    from playbook.circleci_config.options import Options
    from playbook.circleci_config.wanted import Wanted

CONTINUED: Final = "continue-config.yml"
"""The name of the former content, beside the configuration."""
PARAMETER: Final = "ecr-password"
JOB: Final = "fetch-ecr-password"
_REGION: Final = re.compile(r"\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.")
_SCRIPT: Final = """\
set -e +x
umask 077
ECR_PASSWORD=$(aws ecr get-login-password --region "{region}") \\
  jq --null-input --rawfile configuration .circleci/{continued} '{{
    "continuation-key": env.CIRCLE_CONTINUATION_KEY,
    "configuration": $configuration,
    "parameters": {{"{parameter}": env.ECR_PASSWORD}}
  }}' > /tmp/continuation.json
curl --silent --show-error --fail --output /dev/null --header 'Content-Type: application/json' \\
  --data @/tmp/continuation.json https://circleci.com/api/v2/pipeline/continue
"""


class DynamicImages:
    """Collects the images that need a password, then asks for the edits and writes the setup configuration."""

    def __init__(self, wanted: Wanted, options: Options) -> None:
        self._wanted = wanted
        self._options = options
        self._images: dict[KeyPath, str] = {}

    def __bool__(self) -> bool:
        return bool(self._images)

    def add(self, path: KeyPath, image: str) -> None:
        """One entry of a `docker` list."""
        if self._wanted.data.get("setup") is True:
            raise Refusal(
                "an image of ECR on a self-hosted runner needs a setup workflow, and the file is one already", path
            )
        self._images[path] = image

    def want_all(self) -> None:
        """Ask for the former content's edits: `auth` at the images, and the parameter."""
        for path in self._images:
            if "aws_auth" in as_mapping(self._wanted.at(path)):
                self._wanted.want(RemoveKey((*path, "aws_auth")))
            auth = {"username": "AWS", "password": f"<< pipeline.parameters.{PARAMETER} >>"}
            self._wanted.want(InsertKey(path, "auth", auth, after="image"), "auth")
        declared = {"type": "string", "default": ""}
        if "parameters" in self._wanted.data:
            self._wanted.want(InsertKey(("parameters",), PARAMETER, declared), PARAMETER)
        else:
            self._wanted.want(InsertKey((), "parameters", {PARAMETER: declared}, after="version"), "parameters")
        self._wanted.note(
            f"the setup workflow needs a runner that CircleCI hosts, and {CONTINUED} beside the configuration; ECR's"
            " password becomes a parameter of the pipeline, readable for its twelve hours by whoever reads the pipeline"
        )

    def setup(self, login: Login) -> str:
        """The setup configuration, as text."""
        region = self._region()
        step: Mapping[str, Any] = {"aws-cli/setup": orb_parameters(login, hyphens=False)}
        script = _SCRIPT.format(region=region, continued=CONTINUED, parameter=PARAMETER)
        run = {"run": {"name": "Continue with a password for ECR", "command": script}}
        job = {"docker": [{"image": "cimg/base:current"}], "steps": ["checkout", step, run]}
        entry: object = {JOB: {"context": self._options.context}} if self._options.context else JOB
        document: dict[str, Any] = {
            "version": 2.1,
            "setup": True,
            "orbs": {"aws-cli": f"{known.AWS_CLI}@{known.AWS_CLI_VERSION}"},
        }
        if self._wanted.data.get("parameters"):
            document["parameters"] = self._wanted.data["parameters"]
        document |= {"jobs": {JOB: job}, "workflows": {"setup": {"jobs": [entry]}}}
        style = Style()
        return "".join(f"{line}\n" for key, value in document.items() for line in key_lines(key, value, 0, style))

    def _region(self) -> str:
        regions = {found["region"] for image in self._images.values() if (found := _REGION.search(image))}
        if len(regions) > 1:
            raise Refusal(
                "its images of ECR are in several regions, and one password is for one region", min(self._images)
            )
        region = min(regions) if regions else self._options.region
        if not region:
            raise Refusal("the region of its images of ECR is not in the file; give --region", min(self._images))
        return region
