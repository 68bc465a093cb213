"""What CircleCI's twin does to contexts, keys, tokens and webhooks besides storing variables.

Each removal comes twice: as the port has it, to which a thing that is not there is gone, and as one that says whether
it was there, which the HTTP skin answers with a 404.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from playbook.ports import Restriction
from playbook.twins import rows
from playbook.twins.circleci_calls import CircleCiCalls, canonical
from playbook.twins.refusals import refusal
from playbook.twins.state import CheckoutKey, ContextRestriction

if TYPE_CHECKING:
    from playbook.ports import Project, Sink, StoredSecret
    from playbook.secret import Secret
    from playbook.twins.state import StoredProject, Webhook

RESTRICTIONS: Final = frozenset({"project", "expression", "group"})
CHECKOUT_KINDS: Final = frozenset({"deploy-key", "user-key"})


class SecretChanges(CircleCiCalls):
    """Implements the part of `ports.CircleCi` that removes and replaces what is no variable."""

    # --- contexts ---

    def delete_context(self, context: Sink) -> None:
        """Remove a context, if it is there."""
        self.remove_context(context.id)

    def remove_context(self, context_id: str) -> bool:
        """Remove a context, and say whether it was there."""

        def effect() -> bool:
            return self.state.contexts.pop(context_id, None) is not None

        return self.call("delete_context", context_id, effect, write=True)

    def create_restriction(self, context: Sink, kind: str, value: str) -> Restriction:
        """Restrict a context; one that is there already is answered as it is."""
        return self.add_restriction(context.id, kind, value)[0]

    def add_restriction(self, context_id: str, kind: str, value: str) -> tuple[Restriction, bool]:
        """Restrict a context, and say whether that is new."""

        def effect() -> tuple[Restriction, bool]:
            context = self.require_context("create_restriction", context_id)
            if kind not in RESTRICTIONS:
                raise refusal("create_restriction", 400)
            old = next((item for item in context.restrictions if (item.kind, item.value) == (kind, value)), None)
            kept = old or ContextRestriction(id=self.world.new_id(), kind=kind, value=value)
            if old is None:
                context.restrictions = [*context.restrictions, kept]
            return Restriction(id=kept.id, kind=kept.kind, value=kept.value), old is None

        return self.call("create_restriction", context_id, effect, write=True)

    def delete_restriction(self, context: Sink, restriction_id: str) -> None:
        """Lift a restriction, if it is there."""
        self.remove_restriction(context.id, restriction_id)

    def remove_restriction(self, context_id: str, restriction_id: str) -> bool:
        """Lift a restriction, and say whether it was there. A context that is gone is refused."""

        def effect() -> bool:
            context = self.require_context("delete_restriction", context_id)
            before = len(context.restrictions)
            context.restrictions = [item for item in context.restrictions if item.id != restriction_id]
            return len(context.restrictions) < before

        return self.call("delete_restriction", context_id, effect, write=True)

    # --- keys and tokens ---

    def create_checkout_key(self, project: Project, kind: str) -> StoredSecret:
        """Make a key, which is preferred from now on."""
        made, stored = self.add_checkout_key(project.slug, kind)
        return next(row for row in rows.checkout_rows(stored) if row.id == made.fingerprint)

    def add_checkout_key(self, slug: str, kind: str) -> tuple[CheckoutKey, StoredProject]:
        """Make a key, and answer it with its project; standalone projects have none (facts 4.1)."""

        def effect() -> tuple[CheckoutKey, StoredProject]:
            if kind not in CHECKOUT_KINDS or slug.startswith("circleci/"):
                raise refusal("create_checkout_key", 400)
            found = self._living(slug)
            if found is None:
                raise refusal("create_checkout_key", 404)
            user_key = "bitbucket-user-key" if canonical(slug).startswith("bb/") else "github-user-key"
            made = CheckoutKey(
                fingerprint=hashlib.sha256(self.world.new_id().encode()).digest()[:16].hex(":"),
                type=user_key if kind == "user-key" else kind,
                preferred=True,
                created_at=self.world.clock.now(),
            )
            found.checkout_keys = [*(replace(item, preferred=False) for item in found.checkout_keys), made]
            return made, found

        return self.call("create_checkout_key", slug, effect, write=True)

    def delete_checkout_key(self, project: Project, fingerprint: str) -> None:
        """Remove a checkout key, if it is there."""
        self.remove_checkout_key(project.slug, fingerprint)

    def remove_checkout_key(self, slug: str, fingerprint: str) -> bool:
        """Remove a checkout key, and say whether it was there."""

        def effect() -> bool:
            found = self._living(slug)
            left = [item for item in found.checkout_keys if item.fingerprint != fingerprint] if found else []
            if found is None or len(left) == len(found.checkout_keys):
                return False
            found.checkout_keys = left
            return True

        return self.call("delete_checkout_key", f"{slug}/{fingerprint}", effect, write=True)

    def delete_ssh_key(self, project: Project, hostname: str, fingerprint: str) -> None:
        """Remove an additional SSH key, if it is there."""
        self.remove_ssh_key(project.slug, "" if hostname == rows.ANY_HOST else hostname, fingerprint)

    def remove_ssh_key(self, slug: str, hostname: str, fingerprint: str) -> bool:
        """Remove an additional SSH key, and say whether it was there."""

        def effect() -> bool:
            found = self._living(slug)
            gone = (hostname, fingerprint)
            left = [item for item in found.ssh_keys if (item.hostname, item.fingerprint) != gone] if found else []
            if found is None or len(left) == len(found.ssh_keys):
                return False
            found.ssh_keys = left
            return True

        return self.call("delete_ssh_key", slug, effect, write=True)

    def delete_project_token(self, project: Project, token_id: str) -> None:
        """Revoke a project API token, if it is there."""
        self.remove_project_token(project.slug, token_id)

    def remove_project_token(self, slug: str, token_id: str) -> bool:
        """Revoke a project API token, and say whether it was there."""

        def effect() -> bool:
            found = self._living(slug)
            left = [item for item in found.tokens if item.id != token_id] if found else []
            if found is None or len(left) == len(found.tokens):
                return False
            found.tokens = left
            return True

        return self.call("delete_project_token", f"{slug}/{token_id}", effect, write=True)

    def delete_runner_token(self, token_id: str) -> None:
        """Revoke a runner token, if it is there."""
        self.remove_runner_token(token_id)

    def remove_runner_token(self, token_id: str) -> bool:
        """Revoke a runner token, and say whether it was there."""

        def effect() -> bool:
            for owner in self.state.organizations.values():
                for runner in owner.runner_classes:
                    left = [item for item in runner.tokens if item.id != token_id]
                    if len(left) < len(runner.tokens):
                        changed = replace(runner, tokens=left)
                        owner.runner_classes = [changed if item is runner else item for item in owner.runner_classes]
                        return True
            return False

        return self.call("delete_runner_token", token_id, effect, write=True)

    # --- webhooks ---

    def set_webhook_secret(self, webhook_id: str, value: Secret) -> None:
        """Give a webhook a signing secret, of which the world remembers only that there is one."""

        def effect() -> None:
            found, old = self.stored_webhook("set_webhook_secret", webhook_id)
            made = replace(old, has_secret=bool(value.reveal()), updated_at=self.world.clock.now())
            found.webhooks = [made if item.id == old.id else item for item in found.webhooks]

        self.call("set_webhook_secret", webhook_id, effect, write=True)

    def stored_webhook(self, operation: str, webhook_id: str) -> tuple[StoredProject, Webhook]:
        """A webhook by its id with its project, without a call; refused if it is nowhere."""
        for project in self.state.projects.values():
            for item in project.webhooks:
                if item.id == webhook_id:
                    return project, item
        raise refusal(operation, 404)

    def _living(self, slug: str) -> StoredProject | None:
        found = self.state.projects.get(canonical(slug))
        return None if found is None or found.deleted else found
