"""Containment, after the keys: who used them, and an end to the sessions that they made.

The denials are inline policies on the user and on each role that was assumed; they are planned for as long as a
session can live and then wait to be removed. What cannot be reached is said, never passed over.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Final

from playbook.errors import AwsError
from playbook.model import Action, Finding, Phase, Plan, Question, Severity, Step
from playbook.ports import display
from playbook.scope import ask_window
from playbook.usage import judge
from steps.decisions import decide_keys
from steps.exposed_keys import OFF_NOW, by_user, to_contain, trace_holes, trace_keys, unread
from steps.session_policies import (
    POLICY,
    ROLE_SESSION,
    SIZE,
    USER_SESSION,
    RemoveSessionPolicy,
    RevokeRoleSessions,
    RevokeUserSessions,
    policy_size,
)
from steps.user_states import ConfirmContained, in_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from playbook.model import Ask, Case
    from playbook.ports import AccountDetails, PolicyDocument, View
    from playbook.usage import AssumedRole, Trace
    from steps.decisions import Decisions, KeyDecision

USER_QUOTA: Final = 2048
ROLE_QUOTA: Final = 10_240
"""Characters of all inline policies together, where `iam:GetAccountSummary` says nothing (facts, AWS row 28)."""
SERVICE_ROLE: Final = "/aws-service-role/"
QUARANTINE: Final = "AWSCompromisedKeyQuarantine"
ISOLATED_MAX: Final = 20
"""Users that the policy names; AWS takes 5,120 characters."""
LISTED_MAX: Final = 4
"""Addresses and agents that one line names; more are counted."""


class RevokeSessions(Step):
    """Say who used each key, end its sessions, and look whether its user was given another way in."""

    id = "revoke_sessions"
    title = "Contain: revoke sessions"
    phase = Phase.CONTAINMENT
    kinds = (RevokeUserSessions, RevokeRoleSessions, RemoveSessionPolicy, ConfirmContained)

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan a denial for each user and each role within reach; findings say what is out of reach."""
        decisions = decide_keys(view, case, ask)
        items = to_contain(decisions)
        if not items:
            return Plan(step=self.id)
        traces = trace_keys(view, items)
        planned = _Planned(view, ask, decisions)
        for item, trace in zip(items, traces, strict=True):
            planned.take(item, trace)
        actions = [*planned.revocations(), *_confirmations(decisions, items)]
        findings = [
            *(_use(item, trace, ask) for item, trace in zip(items, traces, strict=True)),
            *trace_holes(traces),
            *planned.findings,
            *_quarantines(view, items),
            *(_isolation(view, items) if decisions.severity is Severity.CONFIRMED else ()),
        ]
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _confirmations(decisions: Decisions, items: Sequence[KeyDecision]) -> Iterator[Action]:
    for account, users in in_batches(by_user(items)):
        keys = tuple(f"{item.lane}/{item.key.id}" for user in users for item in decisions.of_user(account, user))
        yield ConfirmContained(account=account, users=users, keys=keys)


# --- What is revoked ------------------------------------------------------------------------------------------------


class _Planned:
    """The denials, each once however many keys lead to it, and what is said about them."""

    def __init__(self, view: View, ask: Ask, decisions: Decisions) -> None:
        self._view = view
        self._ask = ask
        self._decisions = decisions
        self._users: dict[tuple[str, str], list[str]] = {}
        self._roles: dict[tuple[str, str], list[str]] = {}
        self._alive_since = _ask_alive_since(view, ask)
        self._details: dict[str, AccountDetails | None] = {}
        self._off: set[str] = set()
        """The keys that this run switches off before their sessions end."""
        self.findings: list[Finding] = []

    def revocations(self) -> Iterator[Action]:
        """The actions, users before roles; what does not fit is left out and said."""
        for (account, user), keys in self._users.items():
            if self._fits(account, user=user):
                self._say_when(f"the user {display(user)} in {account}", USER_SESSION)
                yield RevokeUserSessions(account=account, user=user, keys=_once(keys), off=self._going_off(keys))
        for (account, role), keys in self._roles.items():
            if self._fits(account, role=role):
                self._say_when(f"the role {display(role)} in {account}", ROLE_SESSION)
                yield RevokeRoleSessions(account=account, role=role, keys=_once(keys), off=self._going_off(keys))

    def _going_off(self, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(key for key in _once(keys) if key in self._off)

    def take(self, item: KeyDecision, trace: Trace) -> None:
        """Plan what ends the sessions of one key."""
        name = f"{item.lane}/{item.key.id}"
        if not self._ask(_revoke_question(item)):
            text = f"As decided, the sessions of {item.key.id} of {display(item.key.user)} are not ended."
            self.findings.append(Finding(level="warning", text=text))
            return
        self._users.setdefault((item.key.account, item.key.user), []).append(name)
        if item.strategy in OFF_NOW:
            self._off.add(name)
        if item.strategy not in OFF_NOW and item.key.is_active:
            text = (
                f"{item.key.id} of {display(item.key.user)} stays on until it is replaced: the sessions made by now "
                "end, those it makes later do not. Answer `contain` for a key that is misused."
            )
            self.findings.append(Finding(level="danger", text=text))
        for role in trace.roles:
            self._take_role(item, role, name)

    def _take_role(self, item: KeyDecision, role: AssumedRole, name: str) -> None:
        what = f"role {display(role.name)} in {role.account}"
        when = role.at.isoformat(timespec="minutes")
        if role.account not in self._view.accounts:
            text = (
                f"{item.key.id} assumed the {what} at {when}, and that account is not connected: its sessions go on. "
                f"Run there too, or deny them by hand (runbook, revoke_sessions)."
            )
            self.findings.append(Finding(level="danger", text=text))
            return
        if f":role{SERVICE_ROLE}" in role.arn:
            text = f"The {what} is service-linked: no policy can be put on it, and its sessions go on."
            self.findings.append(Finding(level="danger", text=text))
            return
        if role.at < self._alive_since:
            return
        self._roles.setdefault((role.account, role.name), []).append(name)
        text = f"Every session of the {what} ends, also those of others: {item.key.id} assumed it at {when}."
        self.findings.append(Finding(level="warning", text=text))

    def _say_when(self, whose: str, longest: timedelta) -> None:
        due = (self._view.clock.now() + longest).isoformat(timespec="minutes")
        text = f"The policy {POLICY} of {whose} may be removed once no session of before can be alive."
        self.findings.append(Finding(level="note", text=text, due_at=due))

    def _fits(self, account: str, *, user: str = "", role: str = "") -> bool:
        """Whether IAM's quota for inline policies leaves room; where it cannot be told, IAM says so itself."""
        details = self._read_details(account)
        if details is None:
            return True
        holders = details.users if user else details.roles
        inline = next((holder.inline for holder in holders if holder.name == (user or role)), ())
        others: list[PolicyDocument] = [policy for policy in inline if policy.name != POLICY]
        used = sum(policy_size(policy.document) for policy in others)
        name, default = ("UserPolicySizeQuota", USER_QUOTA) if user else ("RolePolicySizeQuota", ROLE_QUOTA)
        quota = self._quota(account, name, default)
        if used + SIZE <= quota:
            return True
        whose = f"user {display(user)}" if user else f"role {display(role)}"
        text = (
            f"The sessions of the {whose} in {account} are NOT ended: its inline policies take {used} of {quota} "
            f"characters and the denial needs {SIZE}. Attach AWS's own policy AWSDenyAll by hand (it stops a new key "
            "of the user too), or make room and run again."
        )
        self.findings.append(Finding(level="danger", text=text))
        return False

    def _quota(self, account: str, name: str, default: int) -> int:
        try:
            return self._view.aws(account).summary().get(name, default)
        except AwsError:
            return default

    def _read_details(self, account: str) -> AccountDetails | None:
        if account not in self._details:
            try:
                self._details[account] = self._view.aws(account).details()
            except AwsError as error:
                self._details[account] = None
                self.findings.append(unread("policies and groups", account, error))
        return self._details[account]


def _revoke_question(item: KeyDecision) -> Question[bool]:
    """Nobody is bothered with it; an answers file may say no."""
    return Question(
        id=f"keys.revoke_sessions:{item.lane}/{item.key.id}",
        prompt=f"End the sessions that {item.key.id} of {display(item.key.user)} made?",
        kind=bool,
        answer_key="keys.revoke_sessions",
        subject={"user": item.key.user, "account": item.key.account, "id": item.key.id},
        default=True,
        optional=True,
    )


def _ask_alive_since(view: View, ask: Ask) -> datetime:
    """From when a role must have been assumed for a session of it to be alive.

    It is an answer so that it is kept: the plan must not change while the clock goes on.
    """
    longest_ago = (view.clock.now() - ROLE_SESSION).isoformat(timespec="seconds").replace("+00:00", "Z")
    question = Question(
        id="incident.sessions_since",
        prompt="Since when must a role have been assumed for its sessions to be ended?",
        kind=str,
        answer_key="incident.sessions_since",
        default=longest_ago,
        optional=True,
    )
    return datetime.fromisoformat(ask(question))


# --- What is said ---------------------------------------------------------------------------------------------------


def _use(item: KeyDecision, trace: Trace, ask: Ask) -> Finding:
    """Who used one key, in one line."""
    window = ask_window(ask)
    start, end = (window.start, window.end) if window is not None else (None, None)
    who = f"{item.key.id} of {display(item.key.user)} in {item.key.account}"
    judged = judge(trace.events, start, end)
    seen = judged.inside
    when = "while strangers could read it" if window is not None else "in the last 90 days"
    if not trace.is_known:
        return Finding(level="danger", text=f"Who used {who} {when} is unknown: CloudTrail could not be read.")
    if seen.first is None or seen.last is None:
        text = f"{who} was not used {when}, as far as CloudTrail's management events show."
        return Finding(level="note", text=text)
    sessions, roles = len(trace.sessions), len(trace.roles)
    text = (
        f"{who} was used {seen.count} times {when}, from {seen.first.isoformat(timespec='minutes')} to "
        f"{seen.last.isoformat(timespec='minutes')}, from {_some(seen.addresses)}, with {_some(seen.agents)}, "
        f"for {_some(seen.services)} in {_some(seen.regions)}; {seen.refused} calls were refused; "
        f"{sessions} session(s) and {roles} role(s) were taken with it."
    )
    if judged.unusual_agents:
        text += f" Not its usual agents: {_some(judged.unusual_agents)}."
    if judged.unusual_addresses:
        text += f" Addresses that only that time shows: {_some(judged.unusual_addresses)}."
    return Finding(level="danger" if judged.is_unusual else "warning", text=text)


def _some(names: Sequence[str]) -> str:
    if not names:
        return "unknown"
    listed = ", ".join(display(name, 60) for name in names[:LISTED_MAX])
    return f"{listed} and {len(names) - LISTED_MAX} more" if len(names) > LISTED_MAX else listed


def _quarantines(view: View, items: Sequence[KeyDecision]) -> Iterator[Finding]:
    """AWS's own containment breaks builds, also those with the new key."""
    for account, user in by_user(items):
        try:
            attached = view.aws(account).attached_user_policies(user)
        except AwsError as error:
            yield unread("the managed policies", f"{user} in {account}", error)
            continue
        for arn in attached:
            name = arn.rpartition("/")[2]
            if name.startswith(QUARANTINE):
                yield Finding(
                    level="danger",
                    text=f"AWS has put {display(name)} on {display(user)} in {account}: it knows that a key of this "
                    "user leaked. It denies some 98 actions (facts of 2026-03), ecr:GetAuthorizationToken, reading "
                    "S3, new sessions and iam:CreateAccessKey for the user itself among them, but not sts:AssumeRole. "
                    "It hangs on the user, so the NEW key stays as restricted and builds stay broken until it is "
                    "detached by hand, after the last old key is off.",
                )


def _isolation(view: View, items: Sequence[KeyDecision]) -> Iterator[Finding]:
    """What IAM alone cannot promise when misuse was seen."""
    for account in dict.fromkeys(item.key.account for item in items):
        users = [item.user_arn for item in items if item.key.account == account and item.user_arn]
        named = tuple(dict.fromkeys(users))
        document = json.dumps(isolating_policy(named[:ISOLATED_MAX], view.aws(account).identity().arn))
        more = f" (the first {ISOLATED_MAX} of {len(named)} users)" if len(named) > ISOLATED_MAX else ""
        yield Finding(
            level="warning",
            text=f"A thief with IAM rights has a few seconds to take these denials off again. What only the "
            f"organization's administrators can undo is a service control policy on {account} (not on the "
            f"management account, where none counts){more}: {document}",
        )
    yield Finding(
        level="warning",
        text="The denial is by issue time, and AWS says that it covers GetSessionToken and GetFederationToken; one "
        "published report found that it does not stop federation sessions. On confirmed misuse give the job a new "
        "user, and deny the old one everything.",
    )


def isolating_policy(users: Sequence[str], responder: str) -> Mapping[str, object]:
    """A service control policy that stops these users whatever happens in their account, but not the responder."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "IsolateExposedUsers",
                "Effect": "Deny",
                "Action": "*",
                "Resource": "*",
                "Condition": {"ArnEquals": {"aws:PrincipalArn": list(users)}},
            },
            {
                "Sid": "OnlyTheResponderChangesThem",
                "Effect": "Deny",
                "Action": "iam:*",
                "Resource": list(users),
                "Condition": {"ArnNotEquals": {"aws:PrincipalArn": [_principal(responder)]}},
            },
        ],
    }


def _principal(arn: str) -> str:
    """The role behind a session's ARN, as `aws:PrincipalArn` has it; a path of the role is not in the session."""
    prefix, _, rest = arn.partition(":assumed-role/")
    return f"{prefix.replace(':sts:', ':iam:')}:role/{rest.partition('/')[0]}" if rest else arn


def _once(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))
