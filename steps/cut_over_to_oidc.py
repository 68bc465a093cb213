"""Recovery: prove that jobs are the role, then take the stored keys away, then switch them off.

CircleCI gives no value back, so a removal is a destruction like the end of a key: before it, a job of every project
that reads the place has assumed the role, and what the place holds is looked at again (invariants I4, F52).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from playbook.model import Action, Finding, Observation, Phase, Plan, Status, Step
from playbook.ports import Project, SinkKind, display
from steps.gates import ConfirmSilence, ConfirmSwitched, DrainJobs
from steps.iam_keys import ActivateKey, ConfirmKeys
from steps.key_slots import KEYS_PER_USER
from steps.migrate_config import config_key
from steps.oidc_contexts import ROLE_ARN, StoreSetting
from steps.oidc_targets import EVERY, decide_move, pairs_of
from steps.places import projects_of
from steps.replace_access_keys import CreateAccessKey, ProveKey
from steps.role_canary import RunRoleCanary
from steps.stored_pairs import DeactivateUnstoredKey, RemovePair, RestorePair
from steps.user_lease import ReleaseLease, TakeLease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playbook.model import Ask, Case
    from playbook.ports import Evidence, View, World
    from steps.decisions import KeyDecision
    from steps.oidc_targets import Move, RoleTarget

LATER_S: Final = 86_400.0
SHADOWS: Final = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"})
"""What an SDK prefers to a role's web identity."""
NAMED_MAX: Final = 20


@dataclass(frozen=True, kw_only=True)
class ConfirmMoved(Action):
    """The role, its context and the configuration of one project are in place, by their own actions' last word."""

    kind: ClassVar[str] = "circleci:confirm-moved"
    changes: ClassVar[bool] = False

    project: Project
    role_arn: str
    needed: tuple[str, ...]
    """The keys of the actions of the earlier steps."""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.project.slug}/{self.role_arn}"

    @property
    def lane(self) -> str:
        return f"circleci:oidc/{self.project.slug}/{self.role_arn}"

    def describe(self) -> str:
        return f"see that {display(self.project.slug)} is ready for {display(self.role_arn)}"

    def observe(self, view: View) -> Observation:
        missing = [key for key in self.needed if view.verdict(key) is None]
        if not missing:
            return Observation(status=Status.PRESENT, evidence={"needed": len(self.needed)})
        reason = f"{display(self.project.slug)} is not ready: {display(missing[0])} is not done"
        return Observation(status=Status.PENDING, reason=reason, again_s=LATER_S)

    def apply(self, world: World) -> Evidence:
        raise NotImplementedError("a gate changes nothing")


class CutOverToOidc(Step):
    """Remove every key whose jobs have a role, and switch it off."""

    id = "cut_over_to_oidc"
    title = "Take the keys away that roles stand in for"
    phase = Phase.RECOVERY
    kinds = (
        ConfirmMoved,
        RunRoleCanary,
        RemovePair,
        CreateAccessKey,
        ProveKey,
        RestorePair,
        TakeLease,
        DrainJobs,
        ConfirmSwitched,
        ConfirmSilence,
        DeactivateUnstoredKey,
        ActivateKey,
        ConfirmKeys,
        ReleaseLease,
    )

    def plan(self, view: View, case: Case, ask: Ask) -> Plan:
        """Plan canary, removal, gates and switching off; whatever is not ready waits, the rest goes on."""
        move = decide_move(view, case, ask)
        if move is None:
            return Plan(step=self.id)
        canaries: dict[tuple[str, str], RunRoleCanary] = {}
        actions: list[Action] = []
        for target in move.targets:
            for project in target.projects:
                moved, canary = _proof(move, target, project)
                canaries[project.slug, target.arn] = canary
                actions += [moved, canary]
        users: dict[tuple[str, str], list[KeyDecision]] = {}
        for item in move.keys:
            users.setdefault((item.key.account, item.key.user), []).append(item)
        for items in users.values():
            actions += _switch_off(move, items, canaries)
        findings = [*_without_inline_config(view, move), *_shadows(move), *_full_users(move)]
        return Plan(step=self.id, actions=tuple(actions), findings=tuple(findings))


def _proof(move: Move, target: RoleTarget, project: Project) -> tuple[ConfirmMoved, RunRoleCanary]:
    setting = f"{StoreSetting.kind}:{target.organization.slug}/{target.context}/{ROLE_ARN}"
    moved = ConfirmMoved(
        project=project,
        role_arn=target.arn,
        needed=(setting, config_key(project, target.arn)),
    )
    key = target.keys[0].key
    canary = RunRoleCanary(
        account=target.account,
        user=key.user,
        old_key_id=key.id,
        project=project,
        role_arn=target.arn,
        region=target.region,
        branch="" if move.options.branch == EVERY else move.options.branch,
        moving=tuple(sorted(item.key.id for item in move.keys)),
        after=(moved.key,),
    )
    return moved, canary


def _switch_off(
    move: Move, items: Sequence[KeyDecision], canaries: dict[tuple[str, str], RunRoleCanary]
) -> list[Action]:
    """One user's keys: out of every place, then off; the lease begins only when nothing of it waits for people."""
    key = items[0].key
    removals = {item.key.id: _removals(move, item, canaries) for item in items}
    removed = tuple(action.key for actions in removals.values() for action in actions)
    actions: list[Action] = [removal for found in removals.values() for removal in found]
    actions.append(TakeLease(account=key.account, user=key.user, after=removed))
    for item in items:
        serving = {project.slug for target in move.of_key(item) for project in target.projects}
        account, user, old = item.key.account, item.key.user, item.key.id
        actions += [
            DrainJobs(account=account, user=user, old_key_id=old, projects=tuple(sorted(serving)), after=removed),
            ConfirmSwitched(account=account, user=user, old_key_id=old),
            ConfirmSilence(account=account, user=user, old_key_id=old, severity=move.decisions.severity),
            DeactivateUnstoredKey(account=account, user=user, key_id=old, removed=pairs_of(item)),
        ]
    confirm = ConfirmKeys(
        account=key.account,
        user=key.user,
        expected=tuple(other.key.id for other in move.decisions.of_user(key.account, key.user)),
        off=tuple(item.key.id for item in items),
        occasion="oidc",
    )
    return [*actions, confirm, ReleaseLease(account=key.account, user=key.user)]


def _removals(move: Move, item: KeyDecision, canaries: dict[tuple[str, str], RunRoleCanary]) -> list[RemovePair]:
    known = tuple(other.key.id for other in move.decisions.of_user(item.key.account, item.key.user))
    found = []
    for pair in pairs_of(item):
        reading = {project.slug for project in projects_of(move.decisions.inventory, pair.sink)}
        proofs = tuple(
            canaries[project.slug, target.arn].key
            for target in move.of_key(item)
            for project in target.projects
            if project.slug in reading
        )
        found.append(
            RemovePair(
                pair=pair,
                account=item.key.account,
                user=item.key.user,
                old_key_id=item.key.id,
                user_arn=item.user_arn,
                known=known,
                proofs=proofs,
                after=proofs,
            )
        )
    return found


# --- What must be said ----------------------------------------------------------------------------------------------


def _without_inline_config(view: View, move: Move) -> list[Finding]:
    """The projects whose canary cannot run: a human has to say why their keys may go all the same."""
    projects = {project.slug: project for target in move.targets for project in target.projects}
    allowed = view.gather(view.circleci.inline_config_allowed, projects.values())
    refused = [slug for slug, answer in zip(projects, allowed, strict=True) if answer is False]
    if not refused:
        return []
    text = (
        f"No job can prove the role of {_named(refused)}: the organization does not allow a pipeline with a config of "
        "ours. Their keys stay until somebody overrides the canary with a reason, after a build of theirs has worked."
    )
    return [Finding(level="warning", text=text)]


def _shadows(move: Move) -> list[Finding]:
    """Variables that an SDK prefers to the role, and that do not go away with the keys that move."""
    inventory = move.decisions.inventory
    going = {
        (pair.sink.id, name)
        for item in move.keys
        for pair in pairs_of(item)
        for name in (pair.id_variable, pair.secret_variable)
    }
    projects = {project.slug for target in move.targets for project in target.projects}
    found = []
    for stored in inventory.variables:
        name, sink = stored.variable.name, stored.sink
        if name not in SHADOWS or (sink.id, name) in going:
            continue
        is_read = {project.slug for project in projects_of(inventory, sink)} & projects
        if is_read:
            kind = "context" if sink.kind is SinkKind.CONTEXT else "project"
            found.append(f"{display(name)} of {kind} {display(sink.name)}")
    if not found:
        return []
    text = (
        f"A job that has it uses it instead of its role: {_named(found)}. Keep that context off the jobs that move, or "
        "remove the variable. Keys in a job's `environment:` or in a profile of its image are not seen here."
    )
    return [Finding(level="danger", text=text)]


def _full_users(move: Move) -> list[Finding]:
    """Users for whom nothing could be minted again: their removal cannot be put back."""
    full = [
        f"{item.key.user} in {item.key.account}"
        for item in move.keys
        if len(move.decisions.of_user(item.key.account, item.key.user)) >= KEYS_PER_USER
    ]
    if not full:
        return []
    text = (
        f"An undo after the cut-over mints a new key, and there is no free slot for one: {_named(sorted(set(full)))}."
    )
    return [Finding(level="warning", text=text)]


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f", and {more} more" if more > 0 else "")
