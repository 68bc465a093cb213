"""The steps of the playbook; `PLAYBOOK` states their order, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.check_access import CheckAccess
from steps.close_incident import CloseIncident
from steps.confirm_builds import ConfirmBuilds
from steps.deactivate_exposed_keys import DeactivateExposedKeys
from steps.inventory_secrets import InventorySecrets
from steps.replace_access_keys import ReplaceAccessKeys
from steps.rotate_checkout_keys import RotateCheckoutKeys
from steps.update_variables import UpdateVariables

if TYPE_CHECKING:
    from playbook.model import Step

PLAYBOOK: tuple[Step, ...] = (
    CheckAccess(),
    InventorySecrets(),
    DeactivateExposedKeys(),
    ReplaceAccessKeys(),
    RotateCheckoutKeys(),
    UpdateVariables(),
    ConfirmBuilds(),
    CloseIncident(),
)
