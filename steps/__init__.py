"""The steps of the playbook; `PLAYBOOK` states their order, once. The others stand beside it, each a command's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.check_access import CheckAccess
from steps.close_incident import CloseIncident
from steps.confirm_builds import ConfirmBuilds
from steps.contain_now import ContainNow
from steps.cut_over_to_oidc import CutOverToOidc
from steps.deactivate_exposed_keys import DeactivateExposedKeys
from steps.inventory_secrets import InventorySecrets
from steps.migrate_config import MigrateConfig
from steps.migrate_to_oidc import MigrateToOidc
from steps.put_back import PutBack
from steps.replace_access_keys import ReplaceAccessKeys
from steps.retire_old_keys import RetireOldKeys
from steps.revoke_sessions import RevokeSessions
from steps.rotate_checkout_keys import RotateCheckoutKeys
from steps.stop_new_work import StopNewWork
from steps.sweep_for_persistence import SweepForPersistence
from steps.update_variables import UpdateVariables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Step

PLAYBOOK: tuple[Step, ...] = (
    CheckAccess(),
    InventorySecrets(),
    StopNewWork(),
    DeactivateExposedKeys(),
    RevokeSessions(),
    ReplaceAccessKeys(),
    RotateCheckoutKeys(),
    UpdateVariables(),
    ConfirmBuilds(),
    MigrateToOidc(),
    MigrateConfig(),
    CutOverToOidc(),
    SweepForPersistence(),
    CloseIncident(),
)

RETIREMENT: Step = RetireOldKeys()
"""What `resume` offers on a finished case."""
UNDO: Step = PutBack()


def contain_now(key_ids: Sequence[str]) -> Step:
    """The first minute, for these keys."""
    return ContainNow(key_ids)
