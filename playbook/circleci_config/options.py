"""What a rewrite is asked for, and how it says no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from playbook.circleci_config.login import DURATION

if TYPE_CHECKING:
    from playbook.circleci_config.document import KeyPath


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the rewritten jobs log in with."""

    role_arn: str
    """The ARN of a role, or a `$VARIABLE` that the jobs' context holds."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """By job name, where one job takes another role."""
    also: frozenset[str] = frozenset()
    """Jobs that reach AWS though the file does not show it, because a script of theirs does."""
    context: str = ""
    """Added to the workflow's jobs; empty leaves their contexts as they are."""
    region: str = ""
    session_name: str = ""
    session_duration: int = DURATION
    self_hosted: bool = False
    """The jobs run on CircleCI's container runner, which pulls no image by OIDC."""
    as_orb: bool = False
    """Wrap the login once as an inline orb."""


class Refusal(Exception):  # noqa: N818  # a verdict on a file, which the caller tells
    """Why a file cannot be rewritten, and the path of the place; the file is left as it is."""

    def __init__(self, text: str, path: KeyPath = ()) -> None:
        super().__init__(text)
        self.text = text
        self.path = path
