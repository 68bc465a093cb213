"""Removing and replacing what is no variable: contexts, restrictions, keys, tokens, signing secrets.

A removal of what is not there has done what was wanted. Nothing here says whether it was there: the list does, which
an action reads before and after.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from playbook.clients import circleci_replies as replies
from playbook.clients import circleci_secret_replies as shapes
from playbook.clients.circleci_calls import CircleCiCalls, older_project_path, project_path
from playbook.clients.circleci_secret_replies import ANY_HOST, Place
from playbook.clients.circleci_transport import decoded, path_of, unreadable
from playbook.errors import CircleCiError, Effect
from playbook.ports import Restriction, display

if TYPE_CHECKING:
    from playbook.ports import Project, Sink, StoredSecret
    from playbook.secret import Secret

NOT_SIGNED: Final = "SecretNotStored"
_GONE: Final = frozenset({HTTPStatus.NOT_FOUND.value})
_GONE_CONTEXT: Final = frozenset({HTTPStatus.NOT_FOUND.value, HTTPStatus.FORBIDDEN.value})
_DUPLICATE: Final = frozenset({HTTPStatus.CONFLICT.value})


class SecretChanges(CircleCiCalls):
    """The part of `CircleCiClient` that removes and replaces what is no variable."""

    def restrictions(self, context: Sink) -> tuple[Restriction, ...]:
        """Who may use the context; the list is a single page (facts 2.7)."""
        path = path_of("/api/v2/context", context.id, "restrictions")
        what = f"listing the restrictions of {display(context.name)}"
        page = self._transport.get(what, path, replies.Page[replies.ContextRestriction])
        return tuple(
            Restriction(id=item.id, kind=item.restriction_type, value=item.restriction_value) for item in page.items
        )

    def delete_context(self, context: Sink) -> None:
        """Remove a context; 403 is what one that is not there answers (facts 0.3)."""
        what = f"deleting the context {display(context.name)}"
        self._transport.repeated(what, "DELETE", path_of("/api/v2/context", context.id), expected=_GONE_CONTEXT)

    def create_restriction(self, context: Sink, kind: str, value: str) -> Restriction:
        """Restrict a context, sent once; one that is there already is looked up."""
        what = f"restricting {display(context.name)}"
        path = path_of("/api/v2/context", context.id, "restrictions")
        body = json.dumps({"restriction_type": kind, "restriction_value": value}).encode()
        answer = self._transport.once(what, "POST", path, body=lambda: body, expected=_DUPLICATE)
        if answer.status == HTTPStatus.CONFLICT:
            for item in self.restrictions(context):
                if (item.kind, item.value) == (kind, value):
                    return item
            code = f"HTTP{answer.status}"
            raise CircleCiError(what, code=code, status=answer.status, effect=Effect.NONE, request_id=answer.request_id)
        made = decoded(what, answer, replies.ContextRestriction, Effect.UNKNOWN)
        if (made.restriction_type, made.restriction_value) != (kind, value):
            raise unreadable(what, answer, Effect.UNKNOWN)
        return Restriction(id=made.id, kind=kind, value=value)

    def delete_restriction(self, context: Sink, restriction_id: str) -> None:
        """Lift a restriction."""
        path = path_of("/api/v2/context", context.id, "restrictions", restriction_id)
        what = f"lifting a restriction of {display(context.name)}"
        self._transport.repeated(what, "DELETE", path, expected=_GONE)

    def create_checkout_key(self, project: Project, kind: str) -> StoredSecret:
        """Make a `deploy-key` or `user-key`, sent once."""
        what = f"making a checkout key of {display(project.slug)}"
        body = json.dumps({"type": kind}).encode()
        answer = self._transport.once(what, "POST", project_path(project.slug, "checkout-key"), body=lambda: body)
        place = Place(organization=project.organization, name=project.slug, kind="project")
        return decoded(what, answer, shapes.CheckoutKey, Effect.UNKNOWN).row(place)

    def delete_checkout_key(self, project: Project, fingerprint: str) -> None:
        """Remove a checkout key; a SHA-256 fingerprint has slashes, which the address quotes (facts 4.1)."""
        what = f"deleting a checkout key of {display(project.slug)}"
        path = project_path(project.slug, "checkout-key", fingerprint)
        self._transport.repeated(what, "DELETE", path, expected=_GONE)

    def delete_ssh_key(self, project: Project, hostname: str, fingerprint: str) -> None:
        """Remove an additional SSH key, which a body names (facts 4.2)."""
        what = f"deleting an SSH key of {display(project.slug)}"
        named = {"hostname": "" if hostname == ANY_HOST else hostname, "fingerprint": fingerprint}
        body = json.dumps(named).encode()
        path = older_project_path(project.slug, "ssh-key")
        self._transport.repeated(what, "DELETE", path, body=lambda: body, expected=_GONE)

    def delete_project_token(self, project: Project, token_id: str) -> None:
        """Revoke a project API token; that it goes by its id is not confirmed by anyone, so the list has to be read."""
        what = f"revoking an API token of {display(project.slug)}"
        path = older_project_path(project.slug, "token", token_id)
        self._transport.repeated(what, "DELETE", path, expected=_GONE)

    def delete_runner_token(self, token_id: str) -> None:
        """Revoke a runner token."""
        path = path_of("/api/v3/runner/token", token_id)
        self._transport.repeated("revoking a runner token", "DELETE", path, expected=_GONE)

    def set_webhook_secret(self, webhook_id: str, value: Secret) -> None:
        """Give a webhook a signing secret, and see that there is one: a spelling may be ignored without a word."""
        what = "giving a webhook its signing secret"
        path = path_of("/api/v2/webhook", webhook_id)

        def body() -> bytes:
            return json.dumps({name: value.reveal() for name in ("signing_secret", "signing-secret")}).encode()

        self._transport.repeated(what, "PUT", path, body=body)
        if not self._transport.get(what, path, shapes.Webhook).is_signed:
            raise CircleCiError(
                what,
                code=NOT_SIGNED,
                effect=Effect.UNKNOWN,
                remedy="Set the webhook's secret in CircleCI's web page, in the project's settings.",
            )
