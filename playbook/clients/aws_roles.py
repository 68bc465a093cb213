"""Roles, managed policies and identity providers over boto3."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from playbook.clients import aws_policies
from playbook.clients.aws_calls import AwsCalls, server_time_of, unreadable, utc
from playbook.errors import AwsError, Effect
from playbook.ports import AccountDetails, IdentityProvider, PolicyDocument, Role, display

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mypy_boto3_iam import IAMClient

    from playbook.ports import Json

_ROLE_NAME: Final = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}")
_DETAILS: Final = ("User", "Group", "Role", "LocalManagedPolicy", "AWSManagedPolicy")
_DETAILS_A_PAGE: Final = 1000


class RoleCalls(AwsCalls):
    """Roles and managed policies of one account."""

    def details(self) -> AccountDetails:
        """Every user, group, role and managed policy with their documents, all pages."""
        what = "reading who may do what"
        paginator = self._iam.get_paginator("get_account_authorization_details")
        pages = iter(paginator.paginate(Filter=list(_DETAILS), PaginationConfig={"PageSize": _DETAILS_A_PAGE}))
        gathered = aws_policies.AccountPages(what)
        for page in self._pages("GetAccountAuthorizationDetails", what, pages):
            gathered.add(page)
        return gathered.details()

    def role(self, name: str) -> Role | None:
        """One role with trust, inline and attached policies, or None; one call for each inline policy."""
        asked, what = _role_name(name), f"reading the role {self._shown(name)}"
        answer = self._found("GetRole", what, lambda: self._iam.get_role(RoleName=asked))
        if answer is None:
            return None
        try:
            names = [str(item) for item in self._listed("ListRolePolicies", what, "PolicyNames", RoleName=name)]
            read = [(policy, self.role_policy(name, policy)) for policy in sorted(names)]
            attached = list(self._listed("ListAttachedRolePolicies", what, "AttachedPolicies", RoleName=name))
        except AwsError as error:
            if error.code == "NoSuchEntity":
                return None
            raise
        inline = tuple(PolicyDocument(name=policy, document=text) for policy, text in read if text is not None)
        return aws_policies.role(answer.get("Role", {}), inline, aws_policies.attached(attached, what), what)

    def role_policy(self, role: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a role, or None."""
        owner, what = _role_name(role), f"reading the policy {display(name)} of the role {self._shown(role)}"
        answer = self._found("GetRolePolicy", what, lambda: self._iam.get_role_policy(RoleName=owner, PolicyName=name))
        return None if answer is None else aws_policies.document(answer.get("PolicyDocument"), what)

    def managed_policy(self, arn: str) -> PolicyDocument | None:
        """The default version of a managed policy, or None."""
        what = f"reading the policy {display(arn)}"
        answer = self._found("GetPolicy", what, lambda: self._iam.get_policy(PolicyArn=arn))
        if answer is None:
            return None
        policy = answer.get("Policy", {})
        default = aws_policies.text(policy, "DefaultVersionId", what)
        found = self._found(
            "GetPolicyVersion", what, lambda: self._iam.get_policy_version(PolicyArn=arn, VersionId=default)
        )
        if found is None:
            return None
        version = found.get("PolicyVersion", {})
        return PolicyDocument(
            name=aws_policies.text(policy, "PolicyName", what),
            arn=arn,
            document=aws_policies.document(version.get("Document"), what),
            changed_at=utc(version.get("CreateDate")),
        )

    # --- roles ---

    def create_role(self, role: Role) -> str:
        """Make a role; its policies are put and attached one by one."""
        what = f"making the role {self._shown(role.name)}"
        asked: dict[str, Any] = {
            "RoleName": _role_name(role.name),
            "Path": role.path,
            "AssumeRolePolicyDocument": aws_policies.sent(role.trust),
            "MaxSessionDuration": role.max_session_s,
            "Tags": aws_policies.tag_list(role.tags),
        }
        asked |= {"Description": role.description} if role.description else {}
        asked |= {"PermissionsBoundary": role.boundary} if role.boundary else {}
        return self._made_arn(
            "CreateRole", what, lambda iam: aws_policies.arn_of(iam.create_role(**asked), "Role", "Arn")
        )

    def update_trust(self, role: str, document: Mapping[str, Json]) -> None:
        """Replace a role's whole trust policy."""
        name, text = _role_name(role), aws_policies.sent(document)
        self._write(
            "UpdateAssumeRolePolicy",
            f"replacing the trust policy of the role {self._shown(role)}",
            lambda iam: iam.update_assume_role_policy(RoleName=name, PolicyDocument=text),
        )

    def update_session_length(self, role: str, seconds: int) -> None:
        """Set a role's longest session; a description that is not sent stays as it is."""
        name = _role_name(role)
        self._write(
            "UpdateRole",
            f"setting the session length of the role {self._shown(role)}",
            lambda iam: iam.update_role(RoleName=name, MaxSessionDuration=seconds),
        )

    def tag_role(self, role: str, key: str, value: str) -> None:
        """Set one tag of a role."""
        name = _role_name(role)
        self._write(
            "TagRole",
            f"tagging the role {self._shown(role)}",
            lambda iam: iam.tag_role(RoleName=name, Tags=[{"Key": key, "Value": value}]),
        )

    def delete_role(self, role: str) -> None:
        """Delete a role without policies."""
        name, what = _role_name(role), f"deleting the role {self._shown(role)}"
        self._removed(lambda: self._write("DeleteRole", what, lambda iam: iam.delete_role(RoleName=name)))

    # --- the policies of roles ---

    def put_role_policy(self, role: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy of a role."""
        what = f"writing the policy {display(name)} of the role {self._shown(role)}"
        owner, text = _role_name(role), aws_policies.sent(document)
        answer = self._write(
            "PutRolePolicy",
            what,
            lambda iam: iam.put_role_policy(RoleName=owner, PolicyName=name, PolicyDocument=text),
        )
        return server_time_of(answer, what, Effect.UNKNOWN)

    def delete_role_policy(self, role: str, name: str) -> None:
        """Remove an inline policy of a role."""
        what = f"removing the policy {display(name)} of the role {self._shown(role)}"
        owner = _role_name(role)
        self._removed(
            lambda: self._write(
                "DeleteRolePolicy", what, lambda iam: iam.delete_role_policy(RoleName=owner, PolicyName=name)
            )
        )

    def attach_role_policy(self, role: str, policy_arn: str) -> None:
        """Attach a managed policy."""
        name = _role_name(role)
        self._write(
            "AttachRolePolicy",
            f"attaching {display(policy_arn)} to the role {self._shown(role)}",
            lambda iam: iam.attach_role_policy(RoleName=name, PolicyArn=policy_arn),
        )

    def detach_role_policy(self, role: str, policy_arn: str) -> None:
        """Detach a managed policy."""
        name, what = _role_name(role), f"detaching {display(policy_arn)} from the role {self._shown(role)}"
        self._removed(
            lambda: self._write(
                "DetachRolePolicy", what, lambda iam: iam.detach_role_policy(RoleName=name, PolicyArn=policy_arn)
            )
        )

    # --- managed policies ---

    def create_policy(self, name: str, document: Mapping[str, Json], tags: Mapping[str, str]) -> str:
        """Make a managed policy."""
        what = f"making the policy {self._shown(name)}"
        asked: dict[str, Any] = {
            "PolicyName": name,
            "PolicyDocument": aws_policies.sent(document),
            "Tags": aws_policies.tag_list(tags.items()),
        }
        return self._made_arn(
            "CreatePolicy", what, lambda iam: aws_policies.arn_of(iam.create_policy(**asked), "Policy", "Arn")
        )

    def delete_policy(self, arn: str) -> None:
        """Delete a managed policy that is attached nowhere and has one version."""
        what = f"deleting the policy {display(arn)}"
        self._removed(lambda: self._write("DeletePolicy", what, lambda iam: iam.delete_policy(PolicyArn=arn)))

    def _made_arn(self, operation: str, what: str, make: Callable[[IAMClient], str | None]) -> str:
        """Make something and answer its ARN; a reply without one may or may not have made it."""
        arn = self._write(operation, what, make)
        if arn is None:
            raise unreadable(what, Effect.UNKNOWN)
        return arn


class ProviderCalls(RoleCalls):
    """OIDC and SAML providers of one account."""

    def providers(self) -> tuple[IdentityProvider, ...]:
        """Every provider; one call for each OIDC one. One that is gone meanwhile is left out."""
        what = "listing the identity providers"
        listed = self._call("ListOpenIDConnectProviders", what, self._iam.list_open_id_connect_providers)
        found: list[IdentityProvider] = []
        for item in listed.get("OpenIDConnectProviderList", []):
            arn = aws_policies.text(item, "Arn", what)
            answer = self._found("GetOpenIDConnectProvider", what, partial(self._provider, arn))
            found += [aws_policies.provider(answer, arn)] if answer is not None else []
        saml = self._call("ListSAMLProviders", what, self._iam.list_saml_providers)
        found += [
            IdentityProvider(
                arn=aws_policies.text(item, "Arn", what), url="", created_at=utc(item.get("CreateDate")), saml=True
            )
            for item in saml.get("SAMLProviderList", [])
        ]
        return tuple(found)

    def _provider(self, arn: str) -> Any:
        return self._iam.get_open_id_connect_provider(OpenIDConnectProviderArn=arn)

    def create_provider(self, url: str, client_ids: Sequence[str], tags: Mapping[str, str]) -> str:
        """Register an OIDC issuer; AWS fetches its certificate's thumbprint itself (AWS facts 23)."""
        what = f"registering the identity provider {display(url)} in account {self.account}"
        asked: dict[str, Any] = {
            "Url": url,
            "ClientIDList": list(client_ids),
            "Tags": aws_policies.tag_list(tags.items()),
        }
        return self._made_arn(
            "CreateOpenIDConnectProvider",
            what,
            lambda iam: aws_policies.arn_of(
                iam.create_open_id_connect_provider(**asked), "", "OpenIDConnectProviderArn"
            ),
        )

    def add_client_id(self, arn: str, client_id: str) -> None:
        """Add an audience to an OIDC provider."""
        self._write(
            "AddClientIDToOpenIDConnectProvider",
            f"adding an audience to {display(arn)}",
            lambda iam: iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID=client_id),
        )

    def remove_client_id(self, arn: str, client_id: str) -> None:
        """Remove an audience from an OIDC provider."""
        what = f"removing an audience from {display(arn)}"
        self._removed(
            lambda: self._write(
                "RemoveClientIDFromOpenIDConnectProvider",
                what,
                lambda iam: iam.remove_client_id_from_open_id_connect_provider(
                    OpenIDConnectProviderArn=arn, ClientID=client_id
                ),
            )
        )

    def delete_provider(self, arn: str) -> None:
        """Remove an OIDC provider."""
        what = f"deleting the identity provider {display(arn)}"
        self._removed(
            lambda: self._write(
                "DeleteOpenIDConnectProvider",
                what,
                lambda iam: iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=arn),
            )
        )


def _role_name(role: str) -> str:
    """No doubtful name is sent."""
    if _ROLE_NAME.fullmatch(role) is None:
        raise AwsError(
            f"a call for the role {display(role)!r}",
            code="BadRoleName",
            effect=Effect.NONE,
            remedy="IAM has no role of this name; check the plan.",
        )
    return role
