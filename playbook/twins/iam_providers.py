"""Identity providers of one account, by AWS's rules (facts/aws 23)."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from playbook.twins import iam_nouns
from playbook.twins.iam_calls import IamCalls, refusal, truth
from playbook.twins.state import Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from playbook.ports import IdentityProvider

URL: Final = re.compile(r"https://(?P<issuer>[a-z0-9][a-z0-9.-]{0,251}(?:/[\w.~/-]*)?)", re.ASCII)
"""Without port, query or fragment."""
URL_MAX: Final = 255
CLIENT_IDS_MAX: Final = 100
PROVIDERS_MAX: Final = 100


class ProviderCalls(IamCalls):
    """OIDC providers, and the SAML ones that the world began with."""

    def providers(self) -> tuple[IdentityProvider, ...]:
        """Every provider, as late as reads lag."""
        self._read_providers()

        def effect() -> tuple[IdentityProvider, ...]:
            shown = (self._shown(history) for _, history in sorted(self._state.providers.items()))
            return tuple(map(iam_nouns.provider, filter(None, shown)))

        return self._call("providers", "", effect)

    def create_provider(self, url: str, client_ids: Sequence[str], tags: Mapping[str, str]) -> str:
        """Register an OIDC issuer; IAM finds the thumbprint by itself."""
        operation = "create_provider"
        self._read_providers()

        def effect() -> str:
            match = URL.fullmatch(url)
            if match is None or len(url) > URL_MAX:
                raise refusal(operation, "InvalidInput", 400)
            arn = self._arn(f"oidc-provider/{match['issuer']}")
            if truth(self._state.providers.get(arn)) is not None:
                raise refusal(operation, "EntityAlreadyExists", 409)
            living = [history for history in self._state.providers.values() if truth(history) is not None]
            if len(living) >= PROVIDERS_MAX or len(set(client_ids)) > CLIENT_IDS_MAX:
                raise refusal(operation, "LimitExceeded", 409)
            made = Provider(
                arn=arn,
                url=match["issuer"],
                client_ids=tuple(dict.fromkeys(client_ids)),
                thumbprints=(hashlib.sha256(url.encode()).hexdigest()[:40],),
                created_at=self._server_time(),
                tags=dict(tags),
            )
            self._write(self._state.providers, arn, made)
            return arn

        return self._call(operation, url, effect, write=True, about=(url,))

    def add_client_id(self, arn: str, client_id: str) -> None:
        """Add an audience to an OIDC provider."""

        def effect(held: Provider) -> Provider:
            if client_id in held.client_ids:
                return held
            if len(held.client_ids) >= CLIENT_IDS_MAX:
                raise refusal("add_client_id", "LimitExceeded", 409)
            return replace(held, client_ids=(*held.client_ids, client_id))

        self._change_provider("add_client_id", arn, effect)

    def remove_client_id(self, arn: str, client_id: str) -> None:
        """Remove an audience from an OIDC provider."""

        def effect(held: Provider) -> Provider:
            return replace(held, client_ids=tuple(held_id for held_id in held.client_ids if held_id != client_id))

        self._unless_gone(lambda: self._change_provider("remove_client_id", arn, effect))

    def delete_provider(self, arn: str) -> None:
        """Remove an OIDC provider; roles that trust it keep their trust policy, which nothing can meet then."""
        self._unless_gone(lambda: self._change_provider("delete_provider", arn, lambda _held: None))

    def _change_provider(self, operation: str, arn: str, changed: Callable[[Provider], Provider | None]) -> None:
        self._read_providers()

        def effect() -> None:
            held = truth(self._state.providers.get(arn))
            if held is None or held.saml:
                raise refusal(operation, "NoSuchEntity", 404)
            made = changed(held)
            if made != held:
                self._write(self._state.providers, arn, made)

        self._call(operation, arn, effect, write=True, about=(arn,))
