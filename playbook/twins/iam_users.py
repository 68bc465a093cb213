"""What a user has besides access keys: tags, policies, groups, and further ways in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from playbook.ports import AccessedService, Foothold
from playbook.twins import policy_documents, trail
from playbook.twins import state as states
from playbook.twins.iam_calls import IamCalls, refusal, truth
from playbook.twins.state import Rights, Version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from playbook.ports import Json, TrailEvent, TrailKey
    from playbook.twins.state import Account, Document

TAGS_MAX: Final = 50
POLICY_NAME: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_OF_AWS: Final = "arn:aws:iam::aws:policy/"


class UserCalls(IamCalls):
    """Tags, inline policies, further ways in and traces of one account's users."""

    def key_owner(self, key_id: str) -> str | None:
        """The user whose key this is, switched off or not; a deleted key is nobody's."""

        def effect() -> str | None:
            key = self._state.keys.get(key_id)
            return key.user if key is not None and key.status is not None else None

        found = self._call("key_owner", key_id, effect)
        if self._live is not None and key_id not in self._state.keys:
            return self._live.key_owner(key_id)
        return found

    def trail(self, by: TrailKey, value: str, since: datetime) -> tuple[TrailEvent, ...]:
        """The events that CloudTrail has delivered by now, of every region."""
        before = self._live.trail(by, value, since) if self._live is not None else ()

        def effect() -> tuple[TrailEvent, ...]:
            if self._world.switches.trail_denied:
                raise refusal("trail", "AccessDenied", 403)
            return trail.found(trail.delivered(self._world, self._state), by, value, since)

        return (*before, *self._call("trail", value, effect, service="cloudtrail"))

    def user_tags(self, user: str) -> Mapping[str, str]:
        """The user's tags, as late as reads lag."""
        self._read_details()
        return self._call("user_tags", user, lambda: dict(self._shown_rights("user_tags", user).tags))

    def user_policy(self, user: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a user, or None."""
        self._read_details()

        def effect() -> Document | None:
            if user not in self._state.users:
                return None
            return self._shown_rights("user_policy", user).inline.get(name)

        return self._call("user_policy", f"{user}/{name}", effect)

    def attached_user_policies(self, user: str) -> tuple[str, ...]:
        """The ARNs of the managed policies attached to the user itself."""
        self._read_details()
        operation = "attached_user_policies"
        return self._call(operation, user, lambda: self._shown_rights(operation, user).attached)

    def footholds(self, user: str) -> tuple[Foothold, ...]:
        """Passwords, MFA devices, SSH keys, certificates and service credentials of one user."""

        def effect() -> tuple[Foothold, ...]:
            found = self._require_user("footholds", user).footholds
            return tuple(Foothold(kind=item.kind, id=item.id, created_at=item.created_at) for item in found)

        found = self._call("footholds", user, effect)
        return self._live.footholds(user) if self._live is not None else found

    def accessed_services(self, arn: str) -> tuple[AccessedService, ...]:
        """What was seeded, and what the trail has of a user's own keys by now."""

        def effect() -> tuple[AccessedService, ...]:
            user = next((user for user in self._state.users.values() if user.arn == arn), None)
            if user is None and all(role is None or role.arn != arn for role in map(truth, self._state.roles.values())):
                raise refusal("accessed_services", "NoSuchEntity", 404)
            found = dict(self._state.accessed.get(arn, {}))
            until = self._world.ago(self._world.switches.accessed_lag_s)
            for event in self._state.trail:
                key = self._state.keys.get(event.signer)
                if user is not None and key is not None and key.user == user.name and event.at <= until:
                    found[event.service] = max(found.get(event.service) or event.at, event.at)
            return tuple(AccessedService(service=name, at=at) for name, at in sorted(found.items()))

        if self._live is not None:
            self._read_details()
            if not self._is_made_here(arn):
                return self._live.accessed_services(arn)
        return self._call("accessed_services", arn, effect)

    def _is_made_here(self, arn: str) -> bool:
        """Whether a live account cannot know this role."""
        histories = [history for history in self._state.roles.values() if history[0].at > states.ALWAYS]
        return any((role := history[0].value) is not None and role.arn == arn for history in histories)

    # --- writing ---

    def put_user_policy(self, user: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy; all of a user's together have one size limit."""
        operation = "put_user_policy"
        self._read_details()

        def effect() -> datetime:
            before = self._true_rights(operation, user)
            require_name(operation, name)
            inline = before.inline | {name: policy_documents.required(operation, document)}
            if policy_documents.size(*inline.values()) > self._limit("UserPolicySizeQuota"):
                raise refusal(operation, "LimitExceeded", 409)
            self._write_rights(user, msgspec.structs.replace(before, inline=inline))
            return self._server_time()

        return self._call(operation, f"{user}/{name}", effect, write=True, about=(user, name))

    def delete_user_policy(self, user: str, name: str) -> None:
        """Remove an inline policy of a user."""
        operation = "delete_user_policy"
        self._read_details()

        def effect() -> None:
            before = self._true_rights(operation, user)
            if name not in before.inline:
                raise refusal(operation, "NoSuchEntity", 404)
            inline = {held: document for held, document in before.inline.items() if held != name}
            self._write_rights(user, msgspec.structs.replace(before, inline=inline))

        self._unless_gone(lambda: self._call(operation, f"{user}/{name}", effect, write=True, about=(user, name)))

    def tag_user(self, user: str, key: str, value: str) -> datetime:
        """Set one tag of at most 50; keys are kept as written and told apart without regard to case."""
        self._read_details()

        def effect() -> datetime:
            before = self._true_rights("tag_user", user)
            tags = tagged("tag_user", before.tags, key, value)
            if tags != before.tags:
                self._write_rights(user, msgspec.structs.replace(before, tags=tags))
            return self._server_time()

        return self._call("tag_user", f"{user}/{key}", effect, write=True, about=(user,))

    def untag_user(self, user: str, key: str) -> None:
        """Remove one tag."""
        self._read_details()

        def effect() -> None:
            before = self._true_rights("untag_user", user)
            tags = {held: value for held, value in before.tags.items() if held.lower() != key.lower()}
            if tags != before.tags:
                self._write_rights(user, msgspec.structs.replace(before, tags=tags))

        self._unless_gone(lambda: self._call("untag_user", f"{user}/{key}", effect, write=True, about=(user,)))

    # --- what is kept ---

    def _shown_rights(self, operation: str, user: str) -> Rights:
        self._require_user(operation, user)
        return self._shown(self._state.rights.get(user)) or rights_of(self._state, user)

    def _true_rights(self, operation: str, user: str) -> Rights:
        self._require_user(operation, user)
        return truth(self._state.rights.get(user)) or rights_of(self._state, user)

    def _write_rights(self, user: str, rights: Rights) -> None:
        self._state.rights.setdefault(user, [Version(value=rights_of(self._state, user))])
        self._write(self._state.rights, user, rights)


def rights_of(account: Account, user: str) -> Rights:
    """What a user has by the world's own word, before anything was written."""
    described = account.users[user]
    unknown: dict[str, Document] = {name: {} for name in described.inline_policies}
    attached = tuple(arn_of(account, name) for name in described.policies)
    return Rights(tags=dict(described.tags), inline=unknown | described.inline, attached=attached)


def arn_of(account: Account, name: str) -> str:
    """The managed policy of this name: one of the account where it has one, else AWS's own."""
    held = (arn for arn, history in account.policies.items() if (policy := truth(history)) and policy.name == name)
    return next(held, f"{_OF_AWS}{name}")


def tagged(operation: str, tags: Mapping[str, str], key: str, value: str) -> dict[str, str]:
    """Tags with one more or one changed, if AWS would take it."""
    if not 1 <= len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:"):  # noqa: PLR2004  # IAM's limits
        raise refusal(operation, "ValidationError", 400)
    kept = {held: text for held, text in tags.items() if held.lower() != key.lower()}
    if len(kept) >= TAGS_MAX:
        raise refusal(operation, "LimitExceeded", 409)
    return kept | {key: value}


def require_name(operation: str, name: str) -> None:
    """Refuse what is no name of a policy."""
    if POLICY_NAME.fullmatch(name) is None:
        raise refusal(operation, "ValidationError", 400)
