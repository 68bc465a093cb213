"""How each stored secret is rotated: by this tool, guided, or by hand with the exact place (facts/circleci 4 and 8).

Guided means that CircleCI's API makes the new one and removes the old one, and that a person does the half of it that
is elsewhere. Everywhere the order is the same: make the new one, put it where it is used, see it work, remove the old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.ports import SecretKind, display

if TYPE_CHECKING:
    from playbook.ports import StoredSecret

THIS_TOOL: Final = "this-tool"
GUIDED: Final = "guided: "
BY_HAND: Final = "by-hand: "
NOTHING: Final = "none: "

_STANDALONE: Final = "circleci/"
_DEPLOY_KEY: Final = "deploy-key"
_WAYS: Final = {
    SecretKind.CONTEXT_VARIABLE: THIS_TOOL,
    SecretKind.PROJECT_VARIABLE: THIS_TOOL,
    SecretKind.LEGACY_AWS_KEY: f"{BY_HAND}Project Settings > AWS Permissions of {{place}}, where no API reaches: give "
    "the jobs that use it a pair of variables, clear both fields, then switch the key off in AWS",
    SecretKind.CHECKOUT_KEY: f"{GUIDED}the API makes a new key for {{place}} and deletes this one; by hand, delete "
    "the old public key under Settings > Deploy keys of the repository, which CircleCI leaves there",
    SecretKind.SSH_KEY: f"{GUIDED}make a new pair, put its public half on {{name}}, and the API stores the private "
    "half in {place}; by hand, change the fingerprint in `add_ssh_keys` on every branch, then delete this key and take "
    "its public half off {name}",
    SecretKind.PROJECT_TOKEN: f"{GUIDED}the API makes a new token for {{place}}, shown once, and deletes this one; by "
    "hand, give it to whoever uses it in between (Project Settings > API Permissions is the same place)",
    SecretKind.WEBHOOK_SECRET: f"{GUIDED}the API sets a new signing secret on this webhook of {{place}}; by hand, give "
    "it to the receiver first, so that it accepts both",
    SecretKind.TRIGGER_URL: f"{GUIDED}the API makes a new trigger for {{place}}, with a new address, and deletes this "
    "one; by hand, give the new address to the sender in between",
    SecretKind.RUNNER_TOKEN: f"{GUIDED}the API makes a new token for {{place}}, shown once, and deletes this one; by "
    "hand, put it into the agents' configuration in between, restart them and see that they connect",
    SecretKind.OIDC_CLAIMS: f"{NOTHING}no secret, but it decides which tokens AWS accepts",
    SecretKind.CONTEXT_RESTRICTION: f"{NOTHING}no secret, but it decides who may read some",
}
_USER_KEY: Final = (
    f"{BY_HAND}only the user whose key it is can make a new one: Project Settings > SSH Keys > Checkout SSH Keys of "
    "{place}; then that user deletes the old public key in the SSH keys of their own account"
)
_STANDALONE_KEY: Final = (
    f"{BY_HAND}Project Settings > SSH Keys of {{place}}, for the API makes no checkout keys for such a project; then "
    "delete the old public key where the repository is"
)
_NO_SECRET: Final = f"{NOTHING}CircleCI says that there is no secret behind it"
_OF_DELETED: Final = {
    SecretKind.LEGACY_AWS_KEY: "switch its key off in AWS",
    SecretKind.CHECKOUT_KEY: "delete the public key where the repository is",
    SecretKind.SSH_KEY: "take the public key off {name}",
}


def way_of(secret: StoredSecret, *, deleted: bool = False) -> str:
    """How this one is rotated, beginning with one of the four words; `deleted` is said of its project."""
    if not secret.set:
        way = _NO_SECRET
    elif deleted:
        way = _in_deleted(_OF_DELETED.get(secret.kind, "revoke it where it is used"))
    elif secret.kind is SecretKind.CHECKOUT_KEY and secret.place.startswith(_STANDALONE):
        way = _STANDALONE_KEY
    elif secret.kind is SecretKind.CHECKOUT_KEY and secret.detail != _DEPLOY_KEY:
        way = _USER_KEY
    else:
        way = _WAYS[secret.kind]
    return way.format(place=display(secret.place), name=display(secret.name))


def way_of_variable(place: str, *, deleted: bool = False) -> str:
    """How a variable in this place is rotated: a deleted project takes no new value."""
    return _in_deleted("revoke the value where it was issued").format(place=display(place)) if deleted else THIS_TOOL


def way_of_restriction() -> str:
    """A context's restriction is listed because it decides who may read what is in the context."""
    return _WAYS[SecretKind.CONTEXT_RESTRICTION]


def _in_deleted(what: str) -> str:
    return f"{BY_HAND}{{place}} is deleted and nothing in it can be changed any more: {what}"
