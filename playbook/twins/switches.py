"""Every behaviour on which the sources disagree or which production varies, as one switch each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FreshTail(StrEnum):
    """What a list shows of a variable while the lag of its last write lasts."""

    NOTHING = "nothing"
    """The new times, and no tail."""
    OLD = "old"
    """The state before the write, times included; a new name is not listed at all."""


@dataclass(frozen=True, kw_only=True)
class Switches:
    """The defaults are what production is believed to do, with realistic lags on (facts/aws 2, facts/circleci 10)."""

    # AWS
    sts_lag_s: float = 4
    """Until STS accepts a new key."""
    off_lag_s: float = 4
    """STS goes on accepting a key for so long after it was deactivated or deleted; the same for a key turned on."""
    list_lag_s: float = 2
    """Until a list shows a new key, and until it stops showing a deleted one."""
    status_lag_s: float = 0
    """Until a list shows a changed status."""
    rights_lag_s: float = 2
    """Until a read shows a role, policy, provider or tag that was written or removed."""
    policy_lag_s: float = 4
    """Until a policy that was written or removed decides about requests (facts/aws 6)."""
    service_lag_s: float = 6
    """Until a service other than STS accepts a new key: each learns of it by itself (facts/aws 5)."""
    accessed_lag_s: float = 4 * 3600
    """Until the services a principal tried to use are told of (facts/aws 9)."""
    trail_lag_s: float = 120
    """Until CloudTrail delivers an event."""
    trail_denied: bool = False
    """CloudTrail answers AccessDenied."""
    report_age_s: float = 0
    """How old the credential report is; AWS makes a new one every four hours."""
    use_span_s: float = 900
    """Of the uses of a key in such a span only the first is recorded."""
    keys_per_user: int | None = None
    """The access keys quota of every account; None: the account's own, which is 2."""
    write_s: float = 0.1
    """What one write takes, so that two writes never share a moment."""

    # CircleCI
    tail_lag_s: float = 2
    """Until a list shows what was written."""
    fresh_tail: FreshTail = FreshTail.NOTHING
    missing_context_status: int = 403
    """Measured: 403 for every context that cannot be resolved; the specification says 404."""
    spec_paging: bool = False
    """False: variables beyond the 100th of a context are unreachable, whatever token is sent."""
    v3_variables: bool = False
    """`/api/v3/contexts/{id}/env-vars` exists and pages, so that no variable is out of reach."""
    variables_per_context: int = 100
    delete_missing_status: int = 200
    """Over HTTP, when the deleted variable was not there."""
    overwrite_moves_created_at: bool = False
    """A project variable that is POSTed again gets a new `created_at`."""
    duplicate_context_status: int = 409
    """For a second context of the same name."""
    create_context_status: int = 200
    snake_case_times: bool = True
    """Project variables carry `created_at`; False: `created-at`, as the specification says."""
    snake_case_keys: bool = True
    """Checkout keys and webhooks have a `created_at` and the like; False: `created-at`, as the specification says."""
    hyphened_webhook_keys: bool = False
    """A webhook written with `signing-secret` gets it; False: such keys are ignored without a word."""
    private_details: bool = True
    """The private route shows a project's details; False: the host has no such route."""
    v3_lists_projects: bool = True
    """False: `/api/v3/projects` is only a slug resolver and refuses a list."""
    private_pages_loop: bool = False
    """The private project list begins again after its last page."""
    job_s: float = 20
    """How long a job runs; what it signs with is decided when it starts, as an environment is."""
    results_lag_s: float = 2
    """Until the test cases of a job that has ended can be read."""
    blocked_status: int = 409
    """For a pipeline or a rerun while all new work is blocked; no source says which it is."""
    v3_settings: bool = True
    """False: the host has no settings of organizations and projects in v3, as Server."""
    run_takes_content: bool = False
    """Over HTTP, for a project that is not standalone: False, `pipeline/run` drops a configuration that comes with the
    request without a word and runs the repository's; the older `pipeline` takes it."""
    retry_after: bool = True
    """A 429 says when to come back."""
    requests_per_s: float | None = None
    """Over HTTP, more than that are answered 429; a second's worth may come at once."""
