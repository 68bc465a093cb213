"""The providers and roles that were made, as Terraform and as CloudFormation: pure functions from data to text.

What exists is adopted, not made again: Terraform gets an `import` block for each resource (Terraform 1.5 and newer),
CloudFormation a list for an import change set. CloudFormation imports resources one by one and keeps what it adopted
when the stack goes (`DeletionPolicy: Retain`).

A policy's `${aws:username}` is for IAM. Terraform reads `${` and `%{` in a text as its own, so they are doubled there.
CloudFormation reads them only in `Fn::Sub`, which is not used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from playbook.errors import GuardError
from playbook.iam_policy import Document

DEFAULT_SESSION_S: Final = 3600
"""What a role's sessions last at most unless it says otherwise."""
_LABEL_MAX: Final = 48
_ESCAPES: Final = {"\\b": "\\u0008", "\\f": "\\u000c"}
"""Of JSON, and not of Terraform."""


@dataclass(frozen=True, kw_only=True)
class ProviderCode:
    """An identity provider."""

    arn: str
    url: str
    audiences: tuple[str, ...]
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ManagedPolicyCode:
    """A customer managed policy that was made for a role."""

    arn: str
    name: str
    document: Document
    path: str = "/"
    tags: tuple[tuple[str, str], ...] = ()
    """For Terraform alone: the resource in CloudFormation has none."""


@dataclass(frozen=True, kw_only=True)
class RoleCode:
    """A role with everything that hangs on it."""

    name: str
    trust: Document
    inline: tuple[tuple[str, Document], ...] = ()
    """Name and document of each inline policy."""
    attached: tuple[str, ...] = ()
    """ARNs of attached policies, those of `InfrastructureCode.policies` included."""
    boundary: str = ""
    max_session_s: int = DEFAULT_SESSION_S
    path: str = "/"
    description: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class InfrastructureCode:
    """What was made in one account."""

    providers: tuple[ProviderCode, ...] = ()
    policies: tuple[ManagedPolicyCode, ...] = ()
    roles: tuple[RoleCode, ...] = ()

    def __post_init__(self) -> None:
        names = [
            *(f"provider {provider.arn}" for provider in self.providers),
            *(f"policy {policy.arn}" for policy in self.policies),
            *(f"role {role.name}" for role in self.roles),
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise GuardError(
                f"The {twice[0]} is named twice. No code was written.",
                remedy="Write the code of each account by itself.",
            )


# --- Terraform ------------------------------------------------------------------------------------------------------


def terraform(code: InfrastructureCode) -> str:
    """Write the configuration, import blocks included; `terraform plan` then shows imports and no change."""
    labels = _labels(code, separator="_")
    links = {provider.arn: f"aws_iam_openid_connect_provider.{labels[provider.arn]}" for provider in code.providers}
    links |= {policy.arn: f"aws_iam_policy.{labels[policy.arn]}" for policy in code.policies}
    blocks = [block for provider in code.providers for block in _provider_blocks(provider, links[provider.arn])]
    blocks += [block for policy in code.policies for block in _policy_blocks(policy, links[policy.arn])]
    blocks += [block for role in code.roles for block in _role_blocks(role, labels[role.name], links)]
    return "\n".join(blocks)


def hcl_text(text: str) -> str:
    """Write a text as a quoted one of Terraform's: nothing in it is read as a template.

    `${` is written `$${`. Behind another `$` that could be read in two ways, so there each is written by its number.
    """
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    quoted = re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), quoted)
    return re.sub(r"(\$+|%+)\{", _not_a_template, quoted)


def _not_a_template(found: re.Match[str]) -> str:
    marks = found[1]
    return f"{marks}{marks}{{" if len(marks) == 1 else f"\\u{ord(marks[0]):04x}" * len(marks) + "{"


def _provider_blocks(provider: ProviderCode, link: str) -> list[str]:
    attributes = {
        "url": hcl_text(provider.url),
        "client_id_list": _hcl_list(provider.audiences),
        "tags": _hcl_map(provider.tags),
    }
    return [_resource(link, attributes), _import(link, provider.arn)]


def _policy_blocks(policy: ManagedPolicyCode, link: str) -> list[str]:
    attributes = {
        "name": hcl_text(policy.name),
        "path": hcl_text(policy.path),
        "policy": _hcl_document(policy.document),
        "tags": _hcl_map(policy.tags),
    }
    return [_resource(link, attributes), _import(link, policy.arn)]


def _role_blocks(role: RoleCode, label: str, links: Mapping[str, str]) -> list[str]:
    link = f"aws_iam_role.{label}"
    attributes = {
        "name": hcl_text(role.name),
        "path": hcl_text(role.path),
        "description": hcl_text(role.description) if role.description else "",
        "max_session_duration": str(role.max_session_s),
        "permissions_boundary": hcl_text(role.boundary) if role.boundary else "",
        "assume_role_policy": _hcl_document(role.trust),
        "tags": _hcl_map(role.tags),
    }
    blocks = [_resource(link, attributes), _import(link, role.name)]
    for number, (name, document) in enumerate(role.inline, start=1):
        part = f"aws_iam_role_policy.{label}_{number}"
        inline = {"name": hcl_text(name), "role": f"{link}.name", "policy": _hcl_document(document)}
        blocks += [_resource(part, inline), _import(part, f"{role.name}:{name}")]
    for number, arn in enumerate(role.attached, start=1):
        part = f"aws_iam_role_policy_attachment.{label}_{number}"
        attachment = {
            "role": f"{link}.name",
            "policy_arn": f"{links[arn]}.arn" if arn in links else hcl_text(arn),
        }
        blocks += [_resource(part, attachment), _import(part, f"{role.name}/{arn}")]
    return blocks


def _resource(link: str, attributes: Mapping[str, str]) -> str:
    kind, _, label = link.partition(".")
    present = {name: value for name, value in attributes.items() if value}
    width = max(map(len, present))
    lines = "".join(f"  {name:<{width}} = {value}\n" for name, value in present.items())
    return f'resource "{kind}" "{label}" {{\n{lines}}}\n'


def _import(link: str, id_: str) -> str:
    return f"import {{\n  to = {link}\n  id = {hcl_text(id_)}\n}}\n"


def _hcl_list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(hcl_text, values))}]"


def _hcl_map(pairs: tuple[tuple[str, str], ...]) -> str:
    if not pairs:
        return ""
    lines = "".join(f"    {hcl_text(key)} = {hcl_text(value)}\n" for key, value in pairs)
    return f"{{\n{lines}  }}"


def _hcl_document(document: Document) -> str:
    """A policy as `jsonencode` of an object, which keeps a plan free of changes in white space."""
    return f"jsonencode({_hcl_value(document, '  ')})"


def _hcl_value(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, Mapping):
        lines = "".join(f"{inner}{hcl_text(key)} = {_hcl_value(item, inner)}\n" for key, item in value.items())
        return f"{{\n{lines}{indent}}}" if lines else "{}"
    if isinstance(value, list | tuple):
        lines = "".join(f"{inner}{_hcl_value(item, inner)},\n" for item in value)
        return f"[\n{lines}{indent}]" if lines else "[]"
    return hcl_text(value) if isinstance(value, str) else json.dumps(value)


# --- CloudFormation -------------------------------------------------------------------------------------------------


def cloudformation(code: InfrastructureCode) -> str:
    """Write the template, as JSON, which CloudFormation takes like YAML and which needs no quoting of its own."""
    labels = _labels(code, separator="")
    resources: dict[str, Any] = {}
    for provider in code.providers:
        resources[labels[provider.arn]] = _adopted(
            "AWS::IAM::OIDCProvider",
            {"Url": provider.url, "ClientIdList": list(provider.audiences), "Tags": _tags(provider.tags)},
        )
    for policy in code.policies:
        resources[labels[policy.arn]] = _adopted(
            "AWS::IAM::ManagedPolicy",
            {"ManagedPolicyName": policy.name, "Path": policy.path, "PolicyDocument": policy.document},
        )
    links = {policy.arn: {"Ref": labels[policy.arn]} for policy in code.policies}
    for role in code.roles:
        properties: dict[str, Any] = {
            "RoleName": role.name,
            "Path": role.path,
            "Description": role.description,
            "MaxSessionDuration": role.max_session_s,
            "PermissionsBoundary": role.boundary,
            "AssumeRolePolicyDocument": role.trust,
            "Policies": [{"PolicyName": name, "PolicyDocument": document} for name, document in role.inline],
            "ManagedPolicyArns": [links.get(arn, arn) for arn in role.attached],
            "Tags": _tags(role.tags),
        }
        resources[labels[role.name]] = _adopted("AWS::IAM::Role", properties)
    template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}
    return json.dumps(template, indent=2, ensure_ascii=False) + "\n"


def cloudformation_import(code: InfrastructureCode) -> str:
    """Write what `--resources-to-import` of an import change set takes: each resource and how it is found."""
    labels = _labels(code, separator="")
    found = [
        *(
            _to_import(labels[provider.arn], "AWS::IAM::OIDCProvider", "Arn", provider.arn)
            for provider in code.providers
        ),
        *(
            _to_import(labels[policy.arn], "AWS::IAM::ManagedPolicy", "PolicyArn", policy.arn)
            for policy in code.policies
        ),
        *(_to_import(labels[role.name], "AWS::IAM::Role", "RoleName", role.name) for role in code.roles),
    ]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _to_import(label: str, kind: str, name: str, value: str) -> dict[str, Any]:
    return {"LogicalResourceId": label, "ResourceType": kind, "ResourceIdentifier": {name: value}}


def _adopted(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    present = {name: value for name, value in properties.items() if value not in ("", [], None)}
    return {"Type": kind, "DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain", "Properties": present}


def _tags(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in pairs]


# --- Names of resources in the code ---------------------------------------------------------------------------------


def _labels(code: InfrastructureCode, *, separator: str) -> dict[str, str]:
    """A label for each resource, readable and unique; what is cut or shared ends in a few letters of a digest."""
    wanted = {
        **{provider.arn: f"circleci {provider.arn.rpartition('/')[2][:8]}" for provider in code.providers},
        **{policy.arn: f"policy {policy.name}" for policy in code.policies},
        **{role.name: f"role {role.name}" for role in code.roles},
    }
    write: Callable[[list[str]], str] = (
        (lambda words: separator.join(words).lower()) if separator else (lambda words: "".join(map(_capital, words)))
    )
    plain = {id_: write(re.findall(r"[A-Za-z0-9]+", text)) for id_, text in wanted.items()}
    shared = {label for label in plain.values() if list(plain.values()).count(label) > 1}
    return {
        id_: label
        if label not in shared and len(label) <= _LABEL_MAX
        else f"{label[:_LABEL_MAX]}{separator}{hashlib.sha256(id_.encode()).hexdigest()[:8]}"
        for id_, label in plain.items()
    }


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]
