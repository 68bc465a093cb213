"""Trust policies for CircleCI's tokens: made, evaluated as IAM does, proved and linted; pure functions.

grant = Grant(issuer=Issuer.cloud(organization), partition="aws", account="111122223333", projects=(...,))
for part in split(grant, limit):
    policy = make_trust(part)
    assert not prove(policy, part)
"""

from playbook.trust.evaluation import ASSUME, Decision, Outcome, evaluate
from playbook.trust.grants import TRUST_SIZE_DEFAULT, Grant, Pin, TrustedProject, make_trust, split, subjects
from playbook.trust.lint import LINTS, Lint, Severity, lint
from playbook.trust.proof import VIOLATIONS, Violation, prove, wanted_tokens
from playbook.trust.tokens import PROJECT_ID, Issuer, Token, audit_log_token, is_id, job_token

__all__ = [
    "ASSUME",
    "LINTS",
    "PROJECT_ID",
    "TRUST_SIZE_DEFAULT",
    "VIOLATIONS",
    "Decision",
    "Grant",
    "Issuer",
    "Lint",
    "Outcome",
    "Pin",
    "Severity",
    "Token",
    "TrustedProject",
    "Violation",
    "audit_log_token",
    "evaluate",
    "is_id",
    "job_token",
    "lint",
    "make_trust",
    "prove",
    "split",
    "subjects",
    "wanted_tokens",
]
