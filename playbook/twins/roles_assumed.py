"""`sts:AssumeRoleWithWebIdentity` on the twin: whether a job's token gets the role it asks for (facts/aws 23 to 27)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError
from playbook.ports import Identity
from playbook.trust import PROJECT_ID, Issuer, Token, evaluate
from playbook.twins import sessions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playbook.ports import Json
    from playbook.twins.remote import Remote

SESSION: Final = "rotation-playbook-canary"
ORGANIZATION: Final = "oidc.circleci.com/org-id"


def assume(world: Remote, role_arn: str, claims: Mapping[str, Json]) -> Identity | None:
    """Who the job is then, or None: no role, no provider, an audience that it does not take, or no trust."""
    found = sessions.role_seen(world, role_arn)
    token = _token(claims)
    if found is None or token is None:
        return None
    account, role = found
    provider = sessions.provider_seen(world, account, token.issuer.url)
    if provider is None or not set(token.audiences) & set(provider.client_ids):
        return None
    partition = role_arn.split(":")[1]
    if not evaluate(role.trust, provider.arn, token.keys(partition)).allows:
        return None
    return Identity(account=account.id, arn=f"arn:{partition}:sts::{account.id}:assumed-role/{role.name}/{SESSION}")


def _token(claims: Mapping[str, Json]) -> Token | None:
    """What AWS looks at of a token; None for one that could not be one of CircleCI's."""
    audience = claims.get("aud")
    audiences = tuple(map(str, audience)) if isinstance(audience, list | tuple) else (str(audience),)
    try:
        issuer = Issuer(url=str(claims.get("iss", "")), organization=str(claims.get(ORGANIZATION, "")))
    except GuardError:
        return None
    return Token(
        issuer=issuer, subject=str(claims["sub"]), audiences=audiences, project=str(claims.get(PROJECT_ID, ""))
    )
