"""Which hosts we talk to: every address that is not the platform's own is shown, and checked before use.

A loopback address needs nothing more and may be plain http. Anything else needs `--allow-endpoint-override` and
https, for whoever sets an environment variable or a config file would otherwise receive the new secret.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from playbook.errors import UsageError
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CIRCLECI_CLOUD: Final = "https://circleci.com"

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
)
_DEFAULT_PORTS = {"https": "443", "http": "80"}

_AWS_SERVICES = ("IAM", "STS", "CLOUDTRAIL", "EC2", "ECR", "S3", "ORGANIZATIONS", "SSO", "SSO_OIDC", "SIGNIN")
"""What we call, and what the credential chain calls for us; another service's endpoint does not concern us."""


class Override(NamedTuple):
    """A setting that sends AWS calls somewhere else."""

    where: str
    url: str


def circleci_host(flag: str | None, environ: Mapping[str, str], *, allow_endpoint_override: bool = False) -> str:
    """The base address from the flag, `CIRCLE_HOST`, `CIRCLECI_CLI_HOST` or the default, checked and normalised."""
    named = (
        ("--circleci-host", flag),
        ("CIRCLE_HOST", environ.get("CIRCLE_HOST")),
        ("CIRCLECI_CLI_HOST", environ.get("CIRCLECI_CLI_HOST")),
    )
    where, given = next(((where, value) for where, value in named if value), ("", CIRCLECI_CLOUD))
    host = _normalised(given)
    if host is None:
        raise UsageError(
            f"{where} is not an address that can be used: {display(given, 120)!r}.",
            remedy=f"Give scheme, host and at most a port, such as {CIRCLECI_CLOUD}.",
        )
    if host != CIRCLECI_CLOUD:
        _check(where, host, allow_endpoint_override=allow_endpoint_override)
    return host


def aws_overrides(environ: Mapping[str, str], profiles: Sequence[str]) -> list[Override]:
    """Every setting that redirects the AWS calls we make, in the environment and in AWS's own files."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return []
    names = ("AWS_ENDPOINT_URL", *(f"AWS_ENDPOINT_URL_{service}" for service in _AWS_SERVICES))
    found = [Override(name, environ[name]) for name in names if environ.get(name)]
    chosen = profiles or (environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default",)
    found.extend(_from_files(environ, chosen))
    return found


def check_aws(overrides: Sequence[Override], *, allow_endpoint_override: bool) -> None:
    """Refuse an override that leaves this machine without leave."""
    for where, url in overrides:
        _check(where, url, allow_endpoint_override=allow_endpoint_override)


def is_loopback(url: str) -> bool:
    """Whether the address, written plainly, is this machine's own; a disguised one (`0x7f.1`, user info) is not."""
    match = _ADDRESS.fullmatch(url.lower())
    if match is None:
        return False
    host = match["host"].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(where: str, url: str, *, allow_endpoint_override: bool) -> None:
    if is_loopback(url):
        return
    shown = display(url, 120)
    if not url.lower().startswith("https://"):
        raise UsageError(
            f"{where} sends calls to {shown} without TLS.",
            remedy="Use an https address, or remove the setting.",
        )
    if not allow_endpoint_override:
        raise UsageError(
            f"{where} sends calls to {shown}, which is not the platform's own address.",
            remedy="Remove the setting, or give --allow-endpoint-override if this is your own server.",
        )


def _normalised(address: str) -> str | None:
    match = _ADDRESS.fullmatch(address.strip().lower())
    if match is None:
        return None
    scheme, host, port = match["scheme"], match["host"], match["port"]
    if port is not None and not 0 < int(port) < 1 << 16:
        return None
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


def _from_files(environ: Mapping[str, str], profiles: Sequence[str]) -> Iterator[Override]:
    """Read both of AWS's files: botocore merges the credentials file's settings over the config file's."""
    for variable, default in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = environ.get(variable) or str(Path("~/.aws") / default)
        parsed = _parsed(path, variable)
        sections = parsed["profiles"]
        for profile in profiles:
            section = sections.get(profile, {})
            if str(section.get("ignore_configured_endpoint_urls", "")).lower() == "true":
                continue
            label = f"profile {display(profile)} in {display(path)}"
            if isinstance(url := section.get("endpoint_url"), str):
                yield Override(label, url)
            services = parsed.get("services", {}).get(section.get("services"), {})
            for service in _AWS_SERVICES:
                settings = services.get(service.lower(), {})
                if isinstance(settings, dict) and isinstance(url := settings.get("endpoint_url"), str):
                    yield Override(f"{label}, service {service.lower()}", url)


def _parsed(path: str, variable: str) -> dict[str, Any]:
    """One of AWS's files as botocore itself reads it; a missing file is an empty one."""
    from botocore.configloader import load_config, raw_config_parse  # noqa: PLC0415  # half of boto3's import time
    from botocore.exceptions import ConfigNotFound, ConfigParseError  # noqa: PLC0415  # as above

    try:
        if variable == "AWS_CONFIG_FILE":
            parsed: dict[str, Any] = load_config(path)
            return parsed
        return {"profiles": raw_config_parse(path)}
    except ConfigNotFound:
        return {"profiles": {}}
    except ConfigParseError:
        pass
    raise UsageError(
        f"The AWS settings file {display(path)} cannot be read.",
        remedy=f"Correct the file, or name another in {variable}.",
    )
