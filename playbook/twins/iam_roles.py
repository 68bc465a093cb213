"""Roles and managed policies of one account, by AWS's rules (facts/aws 28, 30): names, sizes, conflicts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from playbook.ports import AccountDetails, PolicyDocument, Role
from playbook.twins import iam_nouns, policy_documents
from playbook.twins.iam_calls import refusal, truth
from playbook.twins.iam_users import UserCalls, require_name, rights_of, tagged
from playbook.twins.state import IamRole, ManagedPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from playbook.ports import Json
    from playbook.twins.state import Account, Document

ROLE_NAME: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
PATH: Final = re.compile(r"/(?:[!-~]{1,510}/)?")
SESSION_MIN_S, SESSION_MAX_S = 3600, 43200
_OF_AWS: Final = re.compile(r"arn:aws[a-z-]*:iam::aws:policy/[\w+=,.@/-]{1,512}", re.ASCII)
"""AWS's own policies: the twin takes every name for one of them, for it has no list."""


class RoleCalls(UserCalls):
    """Roles, their policies, and managed policies."""

    def details(self) -> AccountDetails:
        """Every user, group, role and managed policy the account has or uses."""
        self._read_details()

        def effect() -> AccountDetails:
            state = self._state
            roles = filter(None, (self._shown(history) for _, history in sorted(state.roles.items())))
            policies = filter(None, (self._shown(history) for _, history in sorted(state.policies.items())))
            return AccountDetails(
                users=tuple(
                    iam_nouns.user(user, self._shown_rights("details", name))
                    for name, user in sorted(state.users.items())
                ),
                groups=tuple(iam_nouns.group(group) for _, group in sorted(state.groups.items())),
                roles=tuple(map(iam_nouns.role, roles)),
                policies=tuple(map(iam_nouns.policy, policies)),
            )

        return self._call("details", "", effect)

    def role(self, name: str) -> Role | None:
        """One role with trust, inline and attached policies, or None."""
        self._read_details()

        def effect() -> Role | None:
            found = self._shown(self._state.roles.get(name))
            return None if found is None else iam_nouns.role(found)

        return self._call("role", name, effect)

    def role_policy(self, role: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a role, or None."""
        self._read_details()

        def effect() -> Document | None:
            found = self._shown(self._state.roles.get(role))
            return None if found is None else found.inline.get(name)

        return self._call("role_policy", f"{role}/{name}", effect)

    def managed_policy(self, arn: str) -> PolicyDocument | None:
        """The default version of a managed policy, or None; AWS's own are known where the world names them."""
        self._read_details()

        def effect() -> PolicyDocument | None:
            found = self._shown(self._state.policies.get(arn))
            return None if found is None else iam_nouns.policy(found)

        found = self._call("managed_policy", arn, effect)
        return self._live.managed_policy(arn) if self._live is not None and arn not in self._state.policies else found

    # --- roles ---

    def create_role(self, role: Role) -> str:
        """Make a role without policies; names are told apart without regard to case."""
        operation = "create_role"
        self._read_details()

        def effect() -> str:
            if not ROLE_NAME.fullmatch(role.name) or not PATH.fullmatch(role.path):
                raise refusal(operation, "ValidationError", 400)
            _require_length(operation, role.max_session_s)
            living = {name.lower() for name, history in self._state.roles.items() if truth(history) is not None}
            if role.name.lower() in living:
                raise refusal(operation, "EntityAlreadyExists", 409)
            if len(living) >= self._limit("RolesQuota"):
                raise refusal(operation, "LimitExceeded", 409)
            tags: dict[str, str] = {}
            for key, value in role.tags:
                tags = tagged(operation, tags, key, value)
            made = IamRole(
                name=role.name,
                arn=self._arn(f"role{role.path}{role.name}"),
                trust=self._trust(operation, role.trust),
                path=role.path,
                created_at=self._server_time(),
                max_session_s=role.max_session_s,
                description=role.description,
                boundary=role.boundary,
                tags=tags,
            )
            self._write(self._state.roles, role.name, made)
            return made.arn

        return self._call(operation, role.name, effect, write=True, about=(role.name,))

    def update_trust(self, role: str, document: Mapping[str, Json]) -> None:
        """Replace a role's whole trust policy."""
        operation = "update_trust"
        self._change(operation, role, lambda held: replace(held, trust=self._trust(operation, document)))

    def update_session_length(self, role: str, seconds: int) -> None:
        """Set a role's longest session, 3,600 to 43,200 seconds."""
        operation = "update_session_length"

        def effect(held: IamRole) -> IamRole:
            _require_length(operation, seconds)
            return replace(held, max_session_s=seconds)

        self._change(operation, role, effect)

    def tag_role(self, role: str, key: str, value: str) -> None:
        """Set one tag of a role."""
        self._change("tag_role", role, lambda held: replace(held, tags=tagged("tag_role", held.tags, key, value)))

    def delete_role(self, role: str) -> None:
        """Delete a role; inline and attached policies stand in the way."""
        operation = "delete_role"
        self._read_details()

        def effect() -> None:
            held = self._true_role(operation, role)
            if held.inline or held.attached:
                raise refusal(operation, "DeleteConflict", 409)
            self._write(self._state.roles, role, None)

        self._unless_gone(lambda: self._call(operation, role, effect, write=True, about=(role,)))

    # --- the policies of roles ---

    def put_role_policy(self, role: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy; all of a role's together have one size limit."""
        operation = "put_role_policy"

        def effect(held: IamRole) -> IamRole:
            require_name(operation, name)
            inline = held.inline | {name: policy_documents.required(operation, document)}
            if policy_documents.size(*inline.values()) > self._limit("RolePolicySizeQuota"):
                raise refusal(operation, "LimitExceeded", 409)
            return replace(held, inline=inline)

        return self._change(operation, role, effect, name)

    def delete_role_policy(self, role: str, name: str) -> None:
        """Remove an inline policy of a role."""
        operation = "delete_role_policy"

        def effect(held: IamRole) -> IamRole:
            if name not in held.inline:
                raise refusal(operation, "NoSuchEntity", 404)
            return replace(held, inline={other: text for other, text in held.inline.items() if other != name})

        self._unless_gone(lambda: self._change(operation, role, effect, name))

    def attach_role_policy(self, role: str, policy_arn: str) -> None:
        """Attach a managed policy that exists, up to the quota."""
        operation = "attach_role_policy"

        def effect(held: IamRole) -> IamRole:
            if truth(self._state.policies.get(policy_arn)) is None and not _OF_AWS.fullmatch(policy_arn):
                raise refusal(operation, "NoSuchEntity", 404)
            if policy_arn in held.attached:
                return held
            if len(held.attached) >= self._limit("AttachedPoliciesPerRoleQuota"):
                raise refusal(operation, "LimitExceeded", 409)
            return replace(held, attached=(*held.attached, policy_arn))

        self._change(operation, role, effect, policy_arn)

    def detach_role_policy(self, role: str, policy_arn: str) -> None:
        """Detach a managed policy."""
        operation = "detach_role_policy"

        def effect(held: IamRole) -> IamRole:
            if policy_arn not in held.attached:
                raise refusal(operation, "NoSuchEntity", 404)
            return replace(held, attached=tuple(arn for arn in held.attached if arn != policy_arn))

        self._unless_gone(lambda: self._change(operation, role, effect, policy_arn))

    # --- managed policies ---

    def create_policy(self, name: str, document: Mapping[str, Json], tags: Mapping[str, str]) -> str:
        """Make a managed policy."""
        operation = "create_policy"
        self._read_details()

        def effect() -> str:
            require_name(operation, name)
            copy = policy_documents.required(operation, document)
            own = self._arn("policy/")
            held = [
                policy.name.lower()
                for arn, history in self._state.policies.items()
                if (policy := truth(history)) is not None and arn.startswith(own)
            ]
            if name.lower() in held:
                raise refusal(operation, "EntityAlreadyExists", 409)
            too_long = policy_documents.size(copy) > self._limit("PolicySizeQuota")
            if too_long or len(held) >= self._limit("PoliciesQuota"):
                raise refusal(operation, "LimitExceeded", 409)
            made = ManagedPolicy(
                name=name, arn=f"{own}{name}", document=copy, changed_at=self._server_time(), tags=dict(tags)
            )
            self._write(self._state.policies, made.arn, made)
            return made.arn

        return self._call(operation, name, effect, write=True, about=(name,))

    def delete_policy(self, arn: str) -> None:
        """Delete a managed policy that is attached nowhere."""
        operation = "delete_policy"
        self._read_details()

        def effect() -> None:
            if truth(self._state.policies.get(arn)) is None:
                raise refusal(operation, "NoSuchEntity", 404)
            if _is_attached(self._state, arn):
                raise refusal(operation, "DeleteConflict", 409)
            self._write(self._state.policies, arn, None)

        self._unless_gone(lambda: self._call(operation, arn, effect, write=True, about=(arn,)))

    # --- what is kept ---

    def _change(self, operation: str, role: str, changed: Callable[[IamRole], IamRole], *about: str) -> datetime:
        """Replace a role by what becomes of it; nothing is kept of a change that changes nothing."""
        self._read_details()

        def effect() -> datetime:
            held = self._true_role(operation, role)
            made = changed(held)
            if made != held:
                self._write(self._state.roles, role, made)
            return self._server_time()

        target = "/".join((role, *about))
        return self._call(operation, target, effect, write=True, about=(role, *about))

    def _true_role(self, operation: str, role: str) -> IamRole:
        found = truth(self._state.roles.get(role))
        if found is None:
            raise refusal(operation, "NoSuchEntity", 404)
        return found

    def _trust(self, operation: str, document: Mapping[str, Json]) -> Document:
        copy = policy_documents.required(operation, document, trust=True)
        if len(policy_documents.compact(copy)) > self._limit("AssumeRolePolicySizeQuota"):
            raise refusal(operation, "LimitExceeded", 409)
        return copy


def _require_length(operation: str, seconds: int) -> None:
    if not SESSION_MIN_S <= seconds <= SESSION_MAX_S:
        raise refusal(operation, "ValidationError", 400)


def _is_attached(account: Account, arn: str) -> bool:
    roles = (truth(history) for history in account.roles.values())
    users = (truth(account.rights.get(name)) or rights_of(account, name) for name in account.users)
    return (
        any(role is not None and arn in role.attached for role in roles)
        or any(arn in rights.attached for rights in users)
        or any(arn in group.attached for group in account.groups.values())
    )
