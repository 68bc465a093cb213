"""`sts:AssumeRoleWithWebIdentity` on the twin: whether a job's token gets the role it asks for (facts/aws 23 to 27)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError
from playbook.ports import Identity, Json
from playbook.trust import PROJECT_ID, Issuer, Token, evaluate
from playbook.twins import sessions

if TYPE_CHECKING:
    from playbook.twins.remote import Remote

SESSION: Final = "rotation-playbook-canary"
ORGANIZATION: Final = "oidc.circleci.com/org-id"


@dataclass(frozen=True, kw_only=True)
class Trusting:
    """A role as STS sees it, with the provider of the token's issuer in its account."""

    role: str
    trust: Mapping[str, Json]
    provider: str
    """Its ARN."""
    client_ids: tuple[str, ...]


def assume(world: Remote, role_arn: str, claims: Mapping[str, Json]) -> Identity | None:
    """Who the job is then, or None: no role, no provider, an audience that it does not take, or no trust."""
    token = token_of(claims)
    found = sessions.role_seen(world, role_arn)
    if token is None or found is None:
        return None
    account, role = found
    provider = sessions.provider_seen(world, account, token.issuer.url)
    if provider is None:
        return None
    trusting = Trusting(role=role.name, trust=role.trust, provider=provider.arn, client_ids=provider.client_ids)
    return decide(role_arn, token, trusting)


def decide(role_arn: str, token: Token, trusting: Trusting) -> Identity | None:
    """Apply the provider's audiences, and then the role's trust policy, to a token."""
    _, partition, _, _, account, _ = role_arn.split(":", 5)
    if not set(token.audiences) & set(trusting.client_ids):
        return None
    if not evaluate(trusting.trust, trusting.provider, token.keys(partition)).allows:
        return None
    return Identity(account=account, arn=f"arn:{partition}:sts::{account}:assumed-role/{trusting.role}/{SESSION}")


def token_of(claims: Mapping[str, Json]) -> Token | None:
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
