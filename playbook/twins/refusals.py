"""The definite no of CircleCI's twin, and the codes of its own that the real client uses alike."""

from __future__ import annotations

from typing import Final

from playbook.errors import CircleCiError, Effect

INLINE_CONFIG_FORBIDDEN: Final = "InlineConfigForbidden"
NOT_AVAILABLE: Final = "NotAvailable"
NOT_MIRRORED: Final = "NotMirrored"
"""The code of a mirror's refusal to read what was not asked for."""


def refusal(operation: str, status: int) -> CircleCiError:
    """Build CircleCI's definite no."""
    return CircleCiError(operation, code=f"HTTP{status}", status=status, effect=Effect.NONE)


def inline_config_forbidden(operation: str) -> CircleCiError:
    """A pipeline may not bring its own configuration: the organization or the project does not allow it."""
    return CircleCiError(operation, code=INLINE_CONFIG_FORBIDDEN, status=403, effect=Effect.NONE)


def not_available(operation: str) -> CircleCiError:
    """The host lacks what is asked for."""
    return CircleCiError(operation, code=NOT_AVAILABLE, status=404, effect=Effect.NONE)
