"""CircleCI's own command line tool as one more opinion on a configuration, when it is asked for by name.

It sends the configuration to CircleCI with the token it has, so nothing here runs unless a person said so.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playbook.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PASSED: Final = frozenset({"PATH", "HOME", "XDG_CONFIG_HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"})
_OWN: Final = frozenset({"CIRCLECI_CLI_TOKEN", "CIRCLECI_CLI_HOST", "CIRCLE_TOKEN", "CIRCLE_CLI_TOKEN", "CIRCLE_HOST"})
_TIMEOUT_S: Final = 60


def check_with_cli(environ: Mapping[str, str]) -> Callable[[str], str]:
    """A check of a configuration's text: why the tool refuses it, or nothing; raises `UsageError` without the tool."""
    program = shutil.which("circleci", path=environ.get("PATH"))
    if program is None:
        raise UsageError(
            "There is no `circleci` on the PATH. Nothing was changed and nothing was sent.",
            remedy="Install CircleCI's command line tool, or leave --validate-with-cli out.",
        )
    environment = {name: value for name, value in environ.items() if name in _PASSED | _OWN}

    def check(text: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "config.yml")
            path.write_text(text, encoding="utf-8", newline="")
            try:
                done = subprocess.run(  # noqa: S603  # the tool the person named, on a file of ours
                    [program, "config", "validate", str(path)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_TIMEOUT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired):
                return "`circleci config validate` did not answer"
        return (
            f"`circleci config validate` refuses the result (it ended with {done.returncode})"
            if done.returncode
            else ""
        )

    return check
