"""What a role must hold so that it can do what an IAM user could: pure functions over policy documents.

A user may hold more than a role: its own policies and those of ten groups. So they are merged, and where they still do
not fit it is refused with numbers. Merging neither drops nor widens a permission. Managed policies stay attached as
they are where there is room, because whoever looks after them goes on doing so. The user's boundary becomes the
role's boundary: it needs no room, and an intersection would be a third document that nobody looks after.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError
from playbook.iam_policy import (
    Condition,
    Document,
    Effect,
    Statement,
    Wild,
    action_matches,
    as_document,
    covers,
    glob,
    like,
    parse,
    size,
    variables,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_ARN_PARTS: Final = 6
_VARIABLE_START: Final = "${"


@dataclass(frozen=True, kw_only=True)
class HeldPolicy:
    """One policy that a user has, by itself or through a group."""

    name: str
    document: Document
    arn: str = ""
    """Of a managed policy; empty for an inline one."""
    group: str = ""
    """The group it comes from; empty for the user itself."""

    @property
    def title(self) -> str:
        """How a sentence calls it."""
        return f"{self.name} of group {self.group}" if self.group else self.name


@dataclass(frozen=True, kw_only=True)
class UserPolicies:
    """Everything that decides what one user may do, but for the policies of its organization."""

    account: str
    user: str
    policies: tuple[HeldPolicy, ...]
    boundary: str = ""
    """The ARN of the permissions boundary."""
    boundary_document: Document | None = None
    """What it says; only `findings` looks at it, because the role gets the boundary as it is."""


@dataclass(frozen=True, kw_only=True)
class RoleLimits:
    """Quotas in characters and pieces; the defaults are AWS's, the live values come from the account's summary."""

    inline_size: int = 10_240
    """All inline policies of one role together."""
    managed_size: int = 6_144
    attachments: int = 10

    @classmethod
    def of(cls, summary: Mapping[str, int]) -> RoleLimits:
        """The quotas in `iam:GetAccountSummary`; one that it lacks keeps its default."""
        default = cls()
        return cls(
            inline_size=summary.get("RolePolicySizeQuota", default.inline_size),
            managed_size=summary.get("PolicySizeQuota", default.managed_size),
            attachments=summary.get("AttachedPoliciesPerRoleQuota", default.attachments),
        )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something in the user's policies that means something else, or nothing, for a role."""

    code: str
    """A key of `FINDINGS`."""
    policy: str
    statement: int
    """From 1."""
    sentence: str


FINDINGS: Final[Mapping[str, str]] = {
    "user-name": "aws:username is not in a role's requests",
    "user-id": "aws:userid is the role's id and the session's name",
    "mfa": "a job has no second factor, and only the requests of a session say whether there was one",
    "session-time": "aws:TokenIssueTime is in a role's requests and not in a key's",
    "principal": "a role is another principal, with tags and an ARN of its own",
    "own-user": "it speaks of an IAM user, which the role is not",
    "session-calls": "a session that a token opened may not call it",
    "not-action": "it allows everything that it does not name",
}
"""Every code, and why it matters."""

_KEYS: Final = {
    "aws:username": "user-name",
    "aws:userid": "user-id",
    "aws:multifactorauthpresent": "mfa",
    "aws:multifactorauthage": "mfa",
    "aws:tokenissuetime": "session-time",
    "aws:principalarn": "principal",
    "aws:principaltype": "principal",
}
_OWN_USER: Final = re.compile(r"arn:[^:]*:iam::[^:]*:(user|mfa)/")
_SESSION_CALLS: Final = ("sts:GetSessionToken", "sts:GetFederationToken")


@dataclass(frozen=True, kw_only=True)
class NewPolicy:
    """A policy to be made, inline or managed."""

    name: str
    document: Document

    @property
    def size(self) -> int:
        """As IAM counts it."""
        return size(self.document)


@dataclass(frozen=True, kw_only=True)
class RolePermissions:
    """What one role is to hold."""

    attached: tuple[str, ...]
    """ARNs of policies that exist."""
    inline: tuple[NewPolicy, ...] = ()
    managed: tuple[NewPolicy, ...] = ()
    """Customer managed policies to be made and attached, where the inline room does not do."""
    boundary: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Those of the policies to be made."""
        new = (*self.inline, *self.managed)
        return tuple(item for policy in new for item in parse(policy.document, trust=False).statements)


def copy_to_role(
    held: UserPolicies,
    limits: RoleLimits,
    *,
    name: str = "copied-from-user",
    extra: tuple[Statement, ...] = (),
) -> RolePermissions:
    """Put everything a user may do into what a role may hold; `extra` statements come on top.

    Attached policies stay attached. Those that are too many are written out instead, the smallest first, together with
    the inline ones. Raises `GuardError`, with the numbers, when nothing fits.
    """
    managed = {policy.arn: policy for policy in held.policies if policy.arn}
    by_size = sorted(managed.values(), key=lambda policy: size(policy.document))
    inline = [item for policy in held.policies if not policy.arn for item in _statements(policy.document)]
    needed = 0
    for count in range(max(0, len(managed) - limits.attachments), len(managed) + 1):
        written_out = by_size[:count]
        merged = merge([*inline, *(item for policy in written_out for item in _statements(policy.document)), *extra])
        kept = [arn for arn, policy in managed.items() if policy not in written_out]
        packed = _pack(merged, limits, limits.attachments - len(kept), name)
        if packed is not None:
            return RolePermissions(
                attached=tuple(kept),
                inline=packed[0],
                managed=packed[1],
                boundary=held.boundary,
                findings=findings(held),
            )
        needed = needed or size(as_document(merged))
    free = max(0, limits.attachments - len(managed))
    raise GuardError(
        f"What user {held.user} of account {held.account} may do does not fit into one role: it has {len(managed)} "
        f"managed policies and {needed} characters to be written out, and a role takes {limits.attachments} attached "
        f"policies of {limits.managed_size} characters ({free} of them free) and {limits.inline_size} characters "
        "inline. No role was made.",
        remedy="Take the least-privilege draft, divide the work over several roles, or ask AWS for higher quotas.",
    )


def _statements(document: Document) -> tuple[Statement, ...]:
    """A document's statements for a document of today: in one of 2008 `${` is no variable, so it is escaped."""
    policy = parse(document, trust=False)
    if policy.has_variables:
        return policy.statements
    return tuple(
        replace(
            statement,
            resources=tuple(map(_escaped, statement.resources)),
            conditions=tuple(
                replace(condition, values=tuple(map(_escaped, condition.values))) for condition in statement.conditions
            ),
        )
        for statement in policy.statements
    )


def _escaped(value: str) -> str:
    return value.replace(_VARIABLE_START, "${$}{")


# --- Merging --------------------------------------------------------------------------------------------------------


def merge(statements: Iterable[Statement]) -> tuple[Statement, ...]:
    """Say the same in fewer statements: what another covers goes, what differs in one list alone is put together.

    Names of statements (`Sid`) go too, because they must be unique. Exactly what was allowed is allowed, and exactly
    what was denied is denied.
    """
    before: list[Statement] = []
    found = [_tidied(statement) for statement in statements]
    while found != before:
        before = found
        found = _joined(_joined(_thinned(_uncovered(before)), by_actions=True), by_actions=False)
    return tuple(found)


def _tidied(statement: Statement) -> Statement:
    """Without a name, without double values, without one that another value of the same list covers."""
    actions = {action.lower(): action for action in reversed(statement.actions)}
    return replace(
        statement,
        sid="",
        actions=_pruned([action for action in statement.actions if actions[action.lower()] is action], _action_covers),
        resources=_pruned(statement.resources, _resource_covers),
    )


def _pruned(values: Sequence[str], wider: Callable[[str, str], bool]) -> tuple[str, ...]:
    kept = dict.fromkeys(values)
    patterns = _patterns(values)
    for value in values:
        if any(pattern != value and pattern in kept and wider(pattern, value) for pattern in patterns):
            kept.pop(value, None)
    return tuple(kept)


def _patterns(values: Iterable[str]) -> tuple[str, ...]:
    """Those with a wildcard: the others cover nothing but themselves."""
    return tuple(value for value in values if "*" in value or "?" in value)


def _action_covers(pattern: str, narrower: str) -> bool:
    pattern, narrower = pattern.lower(), narrower.lower()
    return narrower.startswith(_beginning(pattern)) and covers(glob(pattern), glob(narrower))


def _beginning(pattern: str) -> str:
    """What stands before the first wildcard; whatever the pattern covers begins so, which is quickly seen."""
    return pattern.partition("*")[0].partition("?")[0]


def _resource_covers(pattern: str, narrower: str) -> bool:
    """Part by part of the ARN, which holds whether or not IAM lets a wildcard span the colons."""
    if pattern in {"*", narrower}:
        return True
    if _VARIABLE_START in pattern or not narrower.startswith(_beginning(pattern)):
        return False
    wide, narrow = pattern.split(":", _ARN_PARTS - 1), narrower.split(":", _ARN_PARTS - 1)
    return len(wide) == len(narrow) == _ARN_PARTS and all(map(_part_covers, wide, narrow))


def _part_covers(pattern: str, narrower: str) -> bool:
    before, variable, _ = narrower.partition(_VARIABLE_START)
    # Whatever a variable stands for, only a pattern that is open at its end surely takes it.
    return covers(glob(pattern), (*glob(before), Wild.ANY) if variable else glob(narrower))


def _uncovered(statements: Sequence[Statement]) -> list[Statement]:
    kept: list[Statement] = []
    for statement in statements:
        if any(_covers(other, statement) for other in kept):
            continue
        kept = [other for other in kept if not _covers(statement, other)]
        kept.append(statement)
    return kept


def _thinned(statements: Sequence[Statement]) -> list[Statement]:
    """Without the single actions that another statement covers, one after the other so that one of two stays."""
    found = list(statements)
    for at, statement in enumerate(found):
        if statement.not_actions or len(statement.actions) == 1:
            continue
        others = [other for number, other in enumerate(found) if number != at and _covers_but_actions(other, statement)]
        kept = [
            action
            for action in statement.actions
            if not any(
                _list_covers(other.actions, (action,), (other.not_actions, False), _action_covers) for other in others
            )
        ]
        if kept:
            found[at] = replace(statement, actions=tuple(kept))
    return found


def _covers(wide: Statement, narrow: Statement) -> bool:
    """Whether every request that `narrow` matches is matched by `wide`, to the same effect."""
    negated = (wide.not_actions, narrow.not_actions)
    return _covers_but_actions(wide, narrow) and _list_covers(wide.actions, narrow.actions, negated, _action_covers)


def _covers_but_actions(wide: Statement, narrow: Statement) -> bool:
    negated = (wide.not_resources, narrow.not_resources)
    return (
        wide.effect is narrow.effect
        and _list_covers(wide.resources, narrow.resources, negated, _resource_covers)
        and _conditions(wide) <= _conditions(narrow)
    )


def _list_covers(
    wide: tuple[str, ...], narrow: tuple[str, ...], negated: tuple[bool, bool], wider: Callable[[str, str], bool]
) -> bool:
    if any(negated):
        return all(negated) and set(wide) == set(narrow)
    exactly, patterns = set(wide), _patterns(wide)
    return all(value in exactly or any(wider(pattern, value) for pattern in patterns) for value in narrow)


def _conditions(statement: Statement) -> frozenset[tuple[str, str, frozenset[str]]]:
    return frozenset(
        (condition.operator, condition.key.lower(), frozenset(condition.values)) for condition in statement.conditions
    )


def _joined(statements: Sequence[Statement], *, by_actions: bool) -> list[Statement]:
    """Put the actions together of statements that are alike but for them, or the resources."""
    groups: dict[object, list[Statement]] = {}
    for number, statement in enumerate(statements):
        negated = statement.not_actions if by_actions else statement.not_resources
        rest = (
            (statement.resources, statement.not_resources) if by_actions else (statement.actions, statement.not_actions)
        )
        key = number if negated else (statement.effect, frozenset(rest[0]), rest[1], _conditions(statement))
        groups.setdefault(key, []).append(statement)
    return [_together(group, by_actions=by_actions) for group in groups.values()]


def _together(group: Sequence[Statement], *, by_actions: bool) -> Statement:
    if by_actions:
        actions = [action for statement in group for action in statement.actions]
        return _tidied(replace(group[0], actions=tuple(actions)))
    return _tidied(replace(group[0], resources=tuple(value for statement in group for value in statement.resources)))


# --- Fitting --------------------------------------------------------------------------------------------------------


def _pack(
    statements: Sequence[Statement], limits: RoleLimits, slots: int, name: str
) -> tuple[tuple[NewPolicy, ...], tuple[NewPolicy, ...]] | None:
    """Divide statements over one inline policy and, where that is too small, new managed ones; None: no room."""
    if slots < 0:
        return None
    if not statements:
        return (), ()
    if size(as_document(statements)) <= limits.inline_size:
        return (NewPolicy(name=name, document=as_document(statements)),), ()
    rooms = [limits.inline_size, *[limits.managed_size] * slots]
    filled: list[list[Statement]] = [[] for _ in rooms]
    free = [room - size(as_document(())) for room in rooms]
    pieces = [piece for statement in statements for piece in _cut(statement, min(rooms))]
    for piece in sorted(pieces, key=_length, reverse=True):
        length = _length(piece) - size(as_document(())) + len(",")
        index = next((at for at, room in enumerate(free) if length <= room), None)
        if index is None:
            return None
        filled[index].append(piece)
        free[index] -= length
    inline = (NewPolicy(name=name, document=as_document(filled[0])),) if filled[0] else ()
    managed = tuple(
        NewPolicy(name=f"{name}-{number}", document=as_document(part))
        for number, part in enumerate((part for part in filled[1:] if part), start=1)
    )
    return inline, managed


def _length(statement: Statement) -> int:
    return size(as_document([statement]))


def _cut(statement: Statement, room: int) -> Iterator[Statement]:
    """Halve a statement that is too long by its longer list, as often as needed; one that cannot be stays whole."""
    actions, resources = statement.actions, statement.resources
    can_actions = len(actions) > 1 and not statement.not_actions
    can_resources = len(resources) > 1 and not statement.not_resources
    if _length(statement) <= room or not (can_actions or can_resources):
        yield statement
    elif can_resources and (not can_actions or sum(map(len, resources)) > sum(map(len, actions))):
        half = len(resources) // 2
        yield from _cut(replace(statement, resources=resources[:half]), room)
        yield from _cut(replace(statement, resources=resources[half:]), room)
    else:
        half = len(actions) // 2
        yield from _cut(replace(statement, actions=actions[:half]), room)
        yield from _cut(replace(statement, actions=actions[half:]), room)


# --- What means something else for a role ---------------------------------------------------------------------------


def findings(held: UserPolicies) -> tuple[Finding, ...]:
    """Everything in the user's policies that is copied and will not mean the same; nothing of it is changed."""
    found: list[Finding] = []
    policies = list(held.policies)
    if held.boundary_document is not None:
        policies.append(HeldPolicy(name="the boundary", document=held.boundary_document, arn=held.boundary))
    for policy in policies:
        parsed = parse(policy.document, trust=False)
        for number, statement in enumerate(parsed.statements, start=1):
            for code, detail in _odd(statement, with_variables=parsed.has_variables):
                sentence = f"{policy.title}, statement {number}: {detail}. {FINDINGS[code][:1].upper()}"
                found.append(
                    Finding(
                        code=code,
                        policy=policy.title,
                        statement=number,
                        sentence=f"{sentence}{FINDINGS[code][1:]}.",
                    )
                )
    return tuple(dict.fromkeys(found))


def _odd(statement: Statement, *, with_variables: bool) -> Iterator[tuple[str, str]]:
    for condition in statement.conditions:
        code = _code(condition.key)
        if code:
            yield code, _what_becomes(condition, statement)
    if with_variables:
        values = (*statement.resources, *(value for condition in statement.conditions for value in condition.values))
        for name in dict.fromkeys(name for value in values for name in variables(value)):
            code = _code(name)
            if code:
                yield code, f"it is limited by the variable {name}"
    for resource in statement.resources:
        if _OWN_USER.match(resource):
            yield "own-user", f"it names {resource}"
    if statement.effect is Effect.ALLOW:
        yield from _odd_actions(statement)


def _odd_actions(statement: Statement) -> Iterator[tuple[str, str]]:
    if statement.not_actions:
        yield "not-action", f"NotAction {', '.join(statement.actions)}"
        return
    for call in _SESSION_CALLS:
        if any(action_matches(action, call) for action in statement.actions if action != "*"):
            yield "session-calls", f"it allows {call}"


def _code(key: str) -> str:
    lowered = key.lower()
    return "principal" if lowered.startswith("aws:principaltag/") else _KEYS.get(lowered, "")


def _what_becomes(condition: Condition, statement: Statement) -> str:
    """How the statement changes with the caller, as far as the condition alone says."""
    told = f"{condition.operator} on {condition.key}"
    if _code(condition.key) != "user-name":
        return f"it depends on {told}"
    holds = condition.is_negated or condition.if_exists or condition.quantifier == "ForAllValues"
    holds = "true" in condition.values if condition.base == "Null" else holds
    verb = "allows" if statement.effect is Effect.ALLOW else "denies"
    return f"{told} always holds then, so it {verb} more" if holds else f"{told} never holds then, so it {verb} nothing"


# --- Least privilege ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Use:
    """Something that the key really did; less is known from last-accessed data than from CloudTrail."""

    service: str
    """The prefix in actions: `s3`."""
    action: str = ""
    """`GetObject`; empty when only the service is known."""
    resource: str = ""
    """An ARN; empty when it is not known."""


_SERVICES: Final = {"monitoring": "cloudwatch", "email": "ses", "states": "states", "tagging": "tag"}
"""Event sources whose actions have another prefix."""
_EVENTS: Final = {
    ("s3", "ListBuckets"): "ListAllMyBuckets",
    ("s3", "HeadBucket"): "ListBucket",
    ("s3", "ListObjects"): "ListBucket",
    ("s3", "ListObjectsV2"): "ListBucket",
    ("s3", "HeadObject"): "GetObject",
    ("s3", "CreateMultipartUpload"): "PutObject",
    ("s3", "UploadPart"): "PutObject",
    ("s3", "CompleteMultipartUpload"): "PutObject",
    ("s3", "DeleteObjects"): "DeleteObject",
    ("lambda", "Invoke"): "InvokeFunction",
}
"""Events that are called otherwise than the action that allows them."""


def use_of_event(source: str, name: str, resource: str = "") -> Use:
    """Read a CloudTrail event: `s3.amazonaws.com` and `ListBuckets`, or `UpdateFunctionCode20150331v2`."""
    prefix = source.partition(".")[0]
    service = _SERVICES.get(prefix, prefix)
    action = re.sub(r"\d{8}(v\d+)?$", "", name)
    return Use(service=service, action=_EVENTS.get((service, action), action), resource=resource)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A proposal for fewer permissions; a person decides."""

    statements: tuple[Statement, ...]
    unexplained: tuple[Use, ...]
    """Uses that the copy does not allow: refused attempts, or something the copy does not know."""

    @property
    def document(self) -> Document | None:
        """As a policy; None when nothing was used, because a policy without statements is none."""
        return as_document(self.statements) if self.statements else None


def draft(statements: Iterable[Statement], uses: Iterable[Use]) -> Draft:
    """Narrow statements to what was used: never wider than they are, with their conditions, every denial kept.

    Where only the service is known (CloudTrail shows no data events, such as reads from S3), its actions stay as they
    are; where the resource is not known, the resources do.
    """
    before, used = tuple(statements), tuple(dict.fromkeys(uses))
    found: list[Statement] = []
    explained: set[Use] = set()
    for statement in before:
        if statement.effect is Effect.DENY:
            found.append(statement)
            continue
        for use in used:
            narrowed = _narrowed(statement, use)
            if narrowed is not None:
                found.append(narrowed)
                explained.add(use)
    return Draft(statements=merge(found), unexplained=tuple(use for use in used if use not in explained))


def _narrowed(statement: Statement, use: Use) -> Statement | None:
    """The part of an allowing statement that a use needs; None when it has none."""
    if use.action:
        action = f"{use.service}:{use.action}"
        if any(action_matches(pattern, action) for pattern in statement.actions) is statement.not_actions:
            return None
        found = replace(statement, actions=(action,), not_actions=False)
    elif statement.not_actions:
        # All of the service but what is named: without the list of its actions it stays as it is.
        found = statement
    else:
        kept = tuple(filter(None, (_within(pattern, use.service) for pattern in statement.actions)))
        if not kept:
            return None
        found = replace(statement, actions=kept)
    if not use.resource or use.resource == "*" or any(_VARIABLE_START in value for value in statement.resources):
        return found
    if any(like(pattern, use.resource) for pattern in statement.resources) is statement.not_resources:
        return None
    if set(use.resource) & {"*", "?", "$"}:
        return found
    return replace(found, resources=(use.resource,), not_resources=False)


def _within(pattern: str, service: str) -> str:
    """The part of an action pattern that is of a service, or an empty text."""
    if pattern == "*":
        return f"{service}:*"
    prefix, _, _ = pattern.partition(":")
    if prefix.lower() == service.lower():
        return pattern
    return pattern if like(prefix.lower(), service.lower()) else ""


def difference(before: Iterable[Statement], after: Iterable[Statement]) -> str:
    """What a person looks at: the two documents as a unified diff; empty when they say the same word for word."""
    then, now = (
        json.dumps(as_document(tuple(statements)), indent=2, ensure_ascii=False).splitlines()
        for statements in (before, after)
    )
    return "\n".join(difflib.unified_diff(then, now, fromfile="the user's", tofile="the draft", lineterm=""))


# --- Images ---------------------------------------------------------------------------------------------------------


def ecr_pull(repositories: tuple[str, ...] = (), *, docker: bool = False) -> tuple[Statement, ...]:
    """Make the statements that pulling images from ECR takes.

    `repositories` are ARNs; empty is every one. CircleCI's own pulls (`aws_auth` with a role) need three actions,
    `docker pull` in a job one more.
    """
    more = ("ecr:BatchCheckLayerAvailability",) if docker else ()
    layers = (*more, "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
    return (
        Statement(effect=Effect.ALLOW, actions=("ecr:GetAuthorizationToken",), resources=("*",)),
        Statement(effect=Effect.ALLOW, actions=layers, resources=repositories or ("*",)),
    )
