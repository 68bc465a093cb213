"""Our evaluator against others' on generated policies and tokens: same question, same answer.

PMapper is a test tool and nothing of it is in the program. It does not look at principals, and it is known to answer
three things otherwise than AWS's own pages do; those are left out and counted.

`IAM_SIMULATE=1` also asks @cloud-copilot/iam-simulate, which npm installs into a temporary folder.
"""

from __future__ import annotations

import collections
import collections.abc
import json
import os
import random
import shutil
import subprocess
import warnings
from collections import Counter
from dataclasses import replace

import pytest
from trust.worlds import (
    ACCOUNT,
    API,
    AUD,
    BRANCH,
    CHINA,
    FORGED,
    ISSUER,
    MAIN,
    ORGANIZATION,
    ORIGIN,
    PLAIN,
    PROJECT,
    PROVIDER,
    STRANGERS,
    SUB,
    TOKENS,
    USER,
    WEB,
    policy,
    statement,
)

from playbook.iam_policy import parse
from playbook.trust import ASSUME, Issuer, Outcome, evaluate, job_token, prove

SEED = 20261124
POLICIES = 1_200
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci"
TIME, SECURE, AGE, KIND = "aws:CurrentTime", "aws:SecureTransport", "aws:MultiFactorAuthAge", "aws:PrincipalArn"

SUBJECTS = (
    "*", f"org/{ORGANIZATION}/*", f"org/{ORGANIZATION}/project/*", f"org/{ORGANIZATION}/project/{WEB}/user/*",
    f"org/{ORGANIZATION}/project/{WEB}/user/{USER}", f"org/{ORGANIZATION}/project/{WEB[:-1]}?/user/*",
    f"org/*/project/{API}/*", f"*/vcs-origin/{ORIGIN}/*", "*/vcs-ref/refs/heads/main", f"org/{STRANGERS}/*",
    f"ORG/{ORGANIZATION}/*", f"org/{ORGANIZATION}/file-streaming/*", "?*", "",
)  # fmt: skip
VALUES = {
    AUD: (ORGANIZATION, "sts.amazonaws.com", "*", f"{ORGANIZATION[:5]}*", STRANGERS, ORGANIZATION.upper()),
    SUB: SUBJECTS,
    PROJECT: (WEB, API, "*", f"{WEB[:3]}*", WEB.upper(), STRANGERS),
    "oidc.circleci.com:aud": (ORGANIZATION, "*"),
    "oidc.circleci.com:sub": SUBJECTS,
}
STRINGS = ("StringEquals", "StringLike", "StringNotEquals", "StringNotLike", "StringEqualsIgnoreCase",
           "StringNotEqualsIgnoreCase")  # fmt: skip
OTHERS = {
    "Bool": (SECURE, ("true", "false")),
    "DateLessThan": (TIME, ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")),
    "DateGreaterThanEquals": (TIME, ("2026-11-24T12:00:00Z", "2027-01-01T00:00:00Z")),
    "NumericLessThan": (AGE, ("100", "300")),
    "NumericGreaterThanEquals": (AGE, ("200", "201")),
    "ArnLike": (KIND, (f"arn:aws:iam::{ACCOUNT}:role/*", "arn:aws:iam::*:user/x", "*")),
    "ArnNotLike": (KIND, (f"arn:aws:iam::{ACCOUNT}:role/*", "arn:aws:iam::*:user/x")),
}
CALL = {TIME: "2026-11-24T12:00:00Z", SECURE: "true", AGE: "200", KIND: f"arn:aws:iam::{ACCOUNT}:role/ci"}


def condition(chance: random.Random) -> dict:
    block: dict[str, dict] = {}
    for _ in range(chance.randint(0, 3)):
        if chance.random() < 0.15:
            operator = chance.choice(sorted(OTHERS))
            key, values = OTHERS[operator]
            block.setdefault(operator, {})[key] = chance.choice(values)
            continue
        key = chance.choice([AUD, SUB, SUB, PROJECT, *VALUES])
        if chance.random() < 0.1:
            block.setdefault("Null", {})[key] = chance.choice(["true", "false"])
            continue
        operator = chance.choice(STRINGS)
        if chance.random() < 0.2:
            operator = f"{chance.choice(['ForAllValues', 'ForAnyValue'])}:{operator}"
        elif chance.random() < 0.2:
            operator += "IfExists"
        if chance.random() < 0.2:
            key = key.upper().replace("OIDC.", "oidc.")
        values = [chance.choice(VALUES.get(key, SUBJECTS)) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
        block.setdefault(operator, {})[key] = values if len(values) > 1 else values[0]
    return block


def made(chance: random.Random) -> dict:
    statements = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        action = chance.choice([ASSUME, ASSUME, "sts:*", "STS:AssumeRoleWith*", ["sts:AssumeRole", ASSUME], "sts:Tag*"])
        item = statement(condition(chance), Effect=chance.choice(["Allow", "Allow", "Deny"]), Action=action)
        if chance.random() < 0.1:
            item["NotAction"] = item.pop("Action")
        statements.append(item)
    return policy(*statements)


def contexts() -> list[dict[str, str]]:
    """Every token, with and without its claims, in one call at one time."""
    found: list[dict[str, str]] = [dict(CALL), {}]
    for knocking in TOKENS.values():
        claims = {key: values[0] for key, values in knocking.keys("aws").items()}
        found.append({**claims, **CALL})
    claims = {key: values[0] for key, values in TOKENS["first form"].keys("aws").items()}
    found += [{key: value for key, value in claims.items() if key != left_out} for left_out in claims]
    return found


def pmapper():
    """PMapper's matching of statements; it was written for a Python that had these names in `collections`."""
    for name in ("Mapping", "MutableMapping"):
        if not hasattr(collections, name):
            setattr(collections, name, getattr(collections.abc, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        simulation = pytest.importorskip("principalmapper.querying.local_policy_simulation")
        from principalmapper.util.case_insensitive_dict import CaseInsensitiveDict

    def decide(document, context):
        held = CaseInsensitiveDict(context)
        matches = simulation.policy_has_matching_statement
        if matches(document, "Deny", ASSUME, ROLE, held):
            return Outcome.EXPLICITLY_DENIED
        return Outcome.ALLOWED if matches(document, "Allow", ASSUME, ROLE, held) else Outcome.IMPLICITLY_DENIED

    return decide


def known_deviation(document, context) -> str:
    """Why PMapper's answer counts for nothing here, or an empty text."""
    present = {key.lower() for key in context}
    for item in parse(document, trust=True).statements:
        for each in item.conditions:
            absent = each.key.lower() not in present
            if absent and each.base == "StringNotLike" and not each.quantifier and not each.if_exists:
                return "StringNotLike on an absent key: PMapper says no"
            if absent and each.base == "ArnNotLike":
                return "ArnNotLike on an absent key: PMapper says no"
            if (
                each.quantifier == "ForAnyValue"
                and sum(other.operator == each.operator for other in item.conditions) > 1
            ):
                return "several keys under ForAnyValue: PMapper takes any of them"
            if each.base.startswith("Arn") and "*" in each.values:
                return "a bare * for an ARN: PMapper takes it"
    return ""


def test_pmapper_agrees_on_generated_policies_and_tokens():
    decide = pmapper()
    chance = random.Random(SEED)
    asked = contexts()
    compared, left_out, outcomes, different = 0, Counter(), Counter(), []
    for _ in range(POLICIES):
        document = made(chance)
        parsed = parse(document, trust=True)
        for context in asked:
            why = known_deviation(document, context)
            if why:
                left_out[why] += 1
                continue
            ours = evaluate(parsed, PROVIDER, context, unknown=()).outcome
            outcomes[ours.value] += 1
            compared += 1
            if ours is not decide(document, context):
                different.append((ours, json.dumps(document), context))
    print(f"PMapper, seed {SEED}: {POLICIES} policies x {len(asked)} requests, {compared} compared: {dict(outcomes)}")
    print(f"left out as its known deviations: {dict(left_out)}; different: {len(different)}")
    assert not different, different[:3]
    assert compared > 10_000
    assert (
        min(outcomes[kind.value] for kind in (Outcome.ALLOWED, Outcome.IMPLICITLY_DENIED, Outcome.EXPLICITLY_DENIED))
        > 500
    )


# Its own `runUnsafeSimulation` stumbles over a role's trust policy, and `runSimulation` does not know CircleCI's keys.
SIMULATE = """
import { readFileSync } from 'node:fs'
import { loadPolicy } from '@cloud-copilot/iam-policy'
const engine = './node_modules/@cloud-copilot/iam-simulate/dist/esm/'
const { authorize } = await import(engine + 'core_engine/CoreSimulatorEngine.js')
const { DiscoveryContextKeyConstraints } = await import(engine + 'context_keys/discoveryContextKeyConstraints.js')
const { AwsRequestImpl } = await import(engine + 'request/request.js')
const { RequestContextImpl } = await import(engine + 'requestContext.js')
const { provider, role, account, action, policies, contexts, asked } = JSON.parse(readFileSync(0, 'utf8'))
const loaded = policies.map((policy) => loadPolicy(policy, { name: 'trust' }))
const simulationParameters = {
  simulationMode: 'Strict', discoveryContextKeyConstraints: new DiscoveryContextKeyConstraints([]),
}
const requests = contexts.map((values) =>
  new AwsRequestImpl(provider, { resource: role, accountId: account }, action, new RequestContextImpl(values)))
const answers = asked.map(([policy, context]) => authorize({
  request: requests[context], sessionPolicy: undefined, identityPolicies: [], serviceControlPolicies: [],
  resourceControlPolicies: [], resourcePolicy: loaded[policy], permissionBoundaries: undefined,
  vpcEndpointPolicies: undefined, simulationParameters, serviceSettings: { s3: {} },
}).result)
console.log(JSON.stringify(answers))
"""


@pytest.mark.skipif(not os.environ.get("IAM_SIMULATE"), reason="IAM_SIMULATE=1 fetches a node package")
def test_iam_simulate_agrees_on_generated_policies_and_tokens(tmp_path):
    npm, node = shutil.which("npm"), shutil.which("node")
    assert npm, "IAM_SIMULATE=1 needs npm"
    assert node, "IAM_SIMULATE=1 needs node"
    (tmp_path / "package.json").write_text('{"type": "module", "private": true}')
    subprocess.run([npm, "install", "--silent", "@cloud-copilot/iam-simulate"], cwd=tmp_path, check=True, timeout=240)
    (tmp_path / "ask.mjs").write_text(SIMULATE)
    chance = random.Random(SEED)
    documents, requests = [made(chance) for _ in range(POLICIES)], contexts()
    asked = [(number, index) for number in range(len(documents)) for index in range(len(requests))]
    question = {"provider": PROVIDER, "role": ROLE, "account": ACCOUNT, "action": ASSUME, "policies": documents,
                "contexts": requests, "asked": asked}  # fmt: skip
    done = subprocess.run(
        [node, "ask.mjs"],
        cwd=tmp_path,
        input=json.dumps(question),
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    same, different = 0, []
    for (number, index), answer in zip(asked, json.loads(done.stdout), strict=True):
        ours = evaluate(documents[number], PROVIDER, requests[index], unknown=()).outcome
        theirs = {"Allowed": Outcome.ALLOWED, "ExplicitlyDenied": Outcome.EXPLICITLY_DENIED}.get(
            answer, Outcome.IMPLICITLY_DENIED
        )
        if ours is theirs:
            same += 1
        else:
            different.append((ours, answer, json.dumps(documents[number]), requests[index]))
    print(f"iam-simulate, seed {SEED}: {len(asked)} decisions, {same} the same, {len(different)} different")
    assert not different, different[:3]


# --- The proof against chance ---------------------------------------------------------------------------------------


def strangers(chance: random.Random) -> dict[str, list]:
    """Tokens of each kind that must stay out, made of the same pieces as the generated policies."""
    digit = chance.randrange(36)
    other = WEB[:digit] + chance.choice("0123456789abcdef") + WEB[digit + 1 :] if WEB[digit] != "-" else API
    found: dict[str, list] = {"another-project": [], "another-organization": [], "another-audience": []}
    for audience in (ORGANIZATION, "sts.amazonaws.com", STRANGERS, ORGANIZATION.upper(), "anything"):
        origin, ref = chance.choice([("", ""), (ORIGIN, MAIN), ("gitlab.com/a/b/c", FORGED), ("github.com/x/y", MAIN)])
        make = {"user": USER, "audience": audience, "origin": origin, "ref": ref}
        found["another-project"] += [job_token(ISSUER, each, **make) for each in {API, STRANGERS, other} - {WEB}]
        found["another-organization"].append(job_token(Issuer.cloud(STRANGERS), API, **make))
        if audience != ORGANIZATION:
            found["another-audience"].append(job_token(ISSUER, WEB, **make))
    found["another-organization"] = [replace(each, issuer=ISSUER) for each in found["another-organization"]]
    return found


def test_what_the_proof_does_not_name_chance_does_not_find_either():
    chance = random.Random(SEED)
    named, tried, missed = Counter(), 0, []
    for _ in range(120):
        document = made(chance)
        # More that allows something at all, in every partition.
        document["Statement"][0].update(Effect="Allow", Action=ASSUME)
        document["Statement"][0].pop("NotAction", None)
        grant = chance.choice([PLAIN, CHINA, BRANCH])
        for item in document["Statement"]:
            item["Principal"] = {"Federated": grant.provider}
        codes = {item.code for item in prove(document, grant)}
        named.update(codes)
        for code, tokens in strangers(chance).items():
            if {code, "not-provable"} & codes:
                continue
            for each in tokens:
                tried += 1
                decision = evaluate(document, grant.provider, each.keys(grant.partition))
                if not decision.refuses:
                    missed.append((code, each.subject, each.audiences, json.dumps(document)))
    print(f"the proof, seed {SEED}: 120 policies named {dict(named)}; {tried} tokens tried where it named nothing")
    assert not missed, missed[:2]
    assert tried > 400
