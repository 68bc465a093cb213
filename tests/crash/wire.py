"""Which actions a request on the wire may belong to: their idempotency keys, worked out from plain data alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CREATE = "iam:create-access-key:"
PROVE = "iam:prove-access-key:"
DEACTIVATE = "iam:deactivate-access-key:"
ACTIVATE = "iam:activate-access-key:"
DELETE = "iam:delete-access-key:"
TAKE, RELEASE = "iam:take-lease:", "iam:release-lease:"
REVOKE_USER, REVOKE_ROLE = "iam:revoke-user-sessions:", "iam:revoke-role-sessions:"
REMOVE_POLICY = "iam:remove-session-policy:"
DRAIN, SWITCHED, SILENCE = "circleci:drain-jobs:", "iam:confirm-switched:", "iam:confirm-silence:"
PROVE_UNUSED = "iam:prove-unused:"
STORE = "circleci:store-access-key:"
CANARY, RERUN_CANARY = "circleci:run-canary:", "circleci:rerun-as-canary:"
BLOCK, ALLOW = "circleci:block-new-work:", "circleci:allow-new-work:"
CANCEL, RERUN = "circleci:cancel-workflow:", "circleci:rerun-workflow:"
NEW_CHECKOUT, OLD_CHECKOUT = "circleci:create-checkout-key:", "circleci:delete-checkout-key:"
WEBHOOK = "circleci:set-webhook-secret:"

DIRECT = {
    "set_key_status": (DEACTIVATE, ACTIVATE),
    "delete_access_key": (DELETE,),
    "set_running_disabled": (BLOCK, ALLOW),
    "cancel_workflow": (CANCEL,),
    "delete_checkout_key": (OLD_CHECKOUT,),
}
"""By operation, the actions whose key is their kind and the request's target."""
WITHOUT_LAST = {
    "tag_user": (TAKE,),
    "untag_user": (RELEASE,),
    "put_user_policy": (REVOKE_USER,),
    "delete_user_policy": (REMOVE_POLICY,),
    "put_role_policy": (REVOKE_ROLE,),
}
"""As above, less the target's last part: the name of the tag or the policy."""
COMPENSATES = {
    ALLOW: (BLOCK,),
    RELEASE: (TAKE,),
    REMOVE_POLICY: (REVOKE_USER, REVOKE_ROLE),
}
"""What may be done without a plan, to put back what a planned action did to the same thing."""


def place_of(pair: Mapping[str, Any]) -> str:
    """How a pair of variables is named in idempotency keys."""
    return f"{pair['sink']['kind']}/{pair['sink']['id']}/{pair['id_variable']}"


def name_of(action: Mapping[str, Any]) -> str:
    """The idempotency key of an action in a plan; empty for kinds that send nothing the oracle judges by name."""
    kind = f"{action['kind']}:"
    match kind:
        case "iam:create-access-key:" | "iam:confirm-switched:" | "iam:confirm-silence:" | "circleci:drain-jobs:":
            return f"{kind}{action['account']}/{action['user']}/{action['old_key_id']}"
        case "iam:deactivate-access-key:" | "iam:activate-access-key:" | "iam:delete-access-key:":
            return f"{kind}{action['account']}/{action['user']}/{action['key_id']}"
        case "iam:take-lease:" | "iam:release-lease:" | "iam:revoke-user-sessions:":
            return f"{kind}{action['account']}/{action['user']}"
        case "iam:revoke-role-sessions:":
            return f"{kind}{action['account']}/{action['role']}"
        case "iam:remove-session-policy:":
            return f"{kind}{action['account']}/{action['user'] or 'role/' + action['role']}"
        case "circleci:store-access-key:" | "circleci:run-canary:" | "circleci:rerun-as-canary:":
            return f"{kind}{place_of(action['pair'])}"
        case "circleci:block-new-work:" | "circleci:allow-new-work:":
            return f"{kind}{action['organization']['slug']}"
        case "circleci:cancel-workflow:":
            return f"{kind}{action['workflow_id']}"
        case "circleci:rerun-workflow:":
            return f"{kind}{action['workflow']}"
        case "circleci:create-checkout-key:":
            return f"{kind}{action['place']['place']}/{action['old']}"
        case "circleci:delete-checkout-key:":
            return f"{kind}{action['place']['place']}/{action['fingerprint']}"
        case "circleci:set-webhook-secret:":
            return f"{kind}{action['place']['place']}/{action['id']}"
        case _:
            return ""


def forwards(key: str) -> list[str]:
    """The keys of the planned actions that an action under this key may put back."""
    kind, _, rest = key.rpartition(":")
    if f"{kind}:" == OLD_CHECKOUT:
        return []
    plain = rest.replace("/role/", "/", 1)
    return [f"{forward}{plain}" for forward in COMPENSATES.get(f"{kind}:", ())]
