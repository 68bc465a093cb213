"""What a user has besides access keys, over boto3: tags, inline policies, further ways in, services it tried to use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from playbook.clients import aws_policies
from playbook.clients.aws_calls import (
    KEY_ID,
    USER_NAME,
    AwsCalls,
    key_id_of,
    server_time_of,
    unreadable,
    user_name,
    utc,
)
from playbook.errors import AwsError, Effect
from playbook.ports import AccessedService, Foothold, display

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from playbook.ports import Json

_JOB_TRIES: Final = 30
_JOB_PAUSE_S: Final = 1.0
_PAGES_MAX: Final = 100


class UserCalls(AwsCalls):
    """Tags, inline policies and traces of one account's users."""

    def key_owner(self, key_id: str) -> str | None:
        """The user whose key this is; what is no user's key id belongs to nobody, and is not asked about."""
        if KEY_ID.fullmatch(key_id) is None:
            return None
        what = f"asking whose {key_id_of(key_id)} is"
        answer = self._found(
            "GetAccessKeyLastUsed", what, lambda: self._iam.get_access_key_last_used(AccessKeyId=key_id)
        )
        if answer is None:
            return None
        owner = answer.get("UserName")
        if not isinstance(owner, str) or USER_NAME.fullmatch(owner) is None:
            raise unreadable(what, Effect.NONE)
        return owner

    def user_tags(self, user: str) -> Mapping[str, str]:
        """The user's tags."""
        name = user_name(user)
        what = f"reading the tags of {self._shown(user)}"
        return dict(aws_policies.tags(self._listed("ListUserTags", what, "Tags", UserName=name)))

    def user_policy(self, user: str, name: str) -> Mapping[str, Json] | None:
        """An inline policy of a user, or None."""
        what = f"reading the policy {display(name)} of {self._shown(user)}"
        owner = user_name(user)
        answer = self._found("GetUserPolicy", what, lambda: self._iam.get_user_policy(UserName=owner, PolicyName=name))
        return None if answer is None else aws_policies.document(answer.get("PolicyDocument"), what)

    def attached_user_policies(self, user: str) -> tuple[str, ...]:
        """The ARNs of the managed policies attached to the user itself."""
        name = user_name(user)
        what = f"listing the policies attached to {self._shown(user)}"
        listed = self._listed("ListAttachedUserPolicies", what, "AttachedPolicies", UserName=name)
        return aws_policies.attached(listed, what)

    def footholds(self, user: str) -> tuple[Foothold, ...]:
        """Passwords, MFA devices, SSH keys, certificates and service credentials, one list each."""
        name = user_name(user)
        what = f"looking for further ways in as {self._shown(user)}"
        lists = (
            ("ListMFADevices", "MFADevices", "mfa-device", "SerialNumber", "EnableDate"),
            ("ListSSHPublicKeys", "SSHPublicKeys", "ssh-key", "SSHPublicKeyId", "UploadDate"),
            ("ListSigningCertificates", "Certificates", "signing-certificate", "CertificateId", "UploadDate"),
        )
        found = [
            Foothold(kind=kind, id=aws_policies.text(item, id_member, what), created_at=utc(item.get(date_member)))
            for operation, member, kind, id_member, date_member in lists
            for item in self._listed(operation, what, member, UserName=name)
        ]
        found += self._service_credentials(name, what)
        # A user that is gone has been told of by the lists.
        answer = self._found("GetLoginProfile", what, lambda: self._iam.get_login_profile(UserName=name))
        if answer is not None:
            profile = answer.get("LoginProfile", {})
            found.insert(0, Foothold(kind="login-profile", id=name, created_at=utc(profile.get("CreateDate"))))
        return tuple(found)

    def _service_credentials(self, name: str, what: str) -> list[Foothold]:
        answer = self._call(
            "ListServiceSpecificCredentials",
            what,
            lambda: self._iam.list_service_specific_credentials(UserName=name),
        )
        return [
            Foothold(
                kind="service-credential",
                id=aws_policies.text(item, "ServiceSpecificCredentialId", what),
                created_at=utc(item.get("CreateDate")),
            )
            for item in answer.get("ServiceSpecificCredentials", [])
        ]

    def accessed_services(self, arn: str) -> tuple[AccessedService, ...]:
        """What a user or role tried to use, once AWS's job has worked it out."""
        what = f"asking what {display(arn)} has used"
        started = self._call(
            "GenerateServiceLastAccessedDetails",
            what,
            lambda: self._iam.generate_service_last_accessed_details(Arn=arn),
        )
        job = str(started.get("JobId", ""))
        answer = self._finished_job(job, what)
        found: list[AccessedService] = []
        for _ in range(_PAGES_MAX):
            found += [
                AccessedService(
                    service=aws_policies.text(item, "ServiceNamespace", what), at=utc(item.get("LastAuthenticated"))
                )
                for item in answer.get("ServicesLastAccessed", [])
            ]
            if not answer.get("IsTruncated"):
                return tuple(found)
            answer = self._job(job, what, Marker=str(answer.get("Marker", "")))
        raise unreadable(what, Effect.NONE)

    def _finished_job(self, job: str, what: str) -> Mapping[str, Any]:
        for attempt in range(_JOB_TRIES):
            answer = self._job(job, what)
            if answer.get("JobStatus") == "COMPLETED":
                return answer
            if answer.get("JobStatus") == "FAILED":
                raise AwsError(what, code="JobFailed", effect=Effect.NONE, remedy="Try again later.")
            time.sleep(_JOB_PAUSE_S if attempt else _JOB_PAUSE_S / 10)
        raise AwsError(what, code="JobRunning", effect=Effect.NONE, retryable=True, remedy="Try again in a minute.")

    def _job(self, job: str, what: str, **more: Any) -> Mapping[str, Any]:
        return self._call(
            "GetServiceLastAccessedDetails",
            what,
            lambda: self._iam.get_service_last_accessed_details(JobId=job, **more),
        )

    # --- writing ---

    def put_user_policy(self, user: str, name: str, document: Mapping[str, Json]) -> datetime:
        """Write an inline policy of a user."""
        what = f"writing the policy {display(name)} of {self._shown(user)}"
        owner, text = user_name(user), aws_policies.sent(document)
        answer = self._write(
            "PutUserPolicy",
            what,
            lambda iam: iam.put_user_policy(UserName=owner, PolicyName=name, PolicyDocument=text),
        )
        return server_time_of(answer, what, Effect.UNKNOWN)

    def delete_user_policy(self, user: str, name: str) -> None:
        """Remove an inline policy of a user."""
        what = f"removing the policy {display(name)} of {self._shown(user)}"
        owner = user_name(user)
        self._removed(
            lambda: self._write(
                "DeleteUserPolicy", what, lambda iam: iam.delete_user_policy(UserName=owner, PolicyName=name)
            )
        )

    def tag_user(self, user: str, key: str, value: str) -> datetime:
        """Set one tag."""
        what = f"tagging {self._shown(user)}"
        owner = user_name(user)
        answer = self._write(
            "TagUser", what, lambda iam: iam.tag_user(UserName=owner, Tags=[{"Key": key, "Value": value}])
        )
        return server_time_of(answer, what, Effect.UNKNOWN)

    def untag_user(self, user: str, key: str) -> None:
        """Remove one tag."""
        what = f"removing a tag of {self._shown(user)}"
        owner = user_name(user)
        self._removed(lambda: self._write("UntagUser", what, lambda iam: iam.untag_user(UserName=owner, TagKeys=[key])))
