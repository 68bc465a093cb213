"""What the lines of a `run` step say about AWS: tools that use it, and where a key comes from; pure functions.

This reads lines, it does not run or fully parse a shell. Whatever is not recognised is not touched, and what a script
in the repository does cannot be seen from here; the caller says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_ID: Final = "AWS_ACCESS_KEY_ID"
SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  a variable's name
SESSION: Final = "AWS_SESSION_TOKEN"
KEY_NAMES: Final = frozenset({KEY_ID, SECRET_KEY, SESSION, "AWS_SECURITY_TOKEN"})
_NAMES: Final = r"(?:AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|AWS_SECURITY_TOKEN)"
_FILE_NAMES: Final = r"(?:aws_access_key_id|aws_secret_access_key|aws_session_token)"
VALUE: Final = (
    r"(?:\\?\"(?:[^\"\\]|\\.)*\"|'[^']*'|\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|<<\s*[\w.-]+\s*>>|[^\s\"';&|])+"
)
KEY_TOOLS: Final = re.compile(r"\s*(?:\S*/)?(?:ecs|ecs-deploy|s3cmd|ecs-cli|terraform|terragrunt)\s")
"""Programs that take a role's credentials from the environment where no key is given to them."""
KEY_OPTION: Final = re.compile(
    r"(?:^|\s)(?:--?[\w-]*(?:access[-_]key(?:[-_]id)?|secret(?:[-_]access)?[-_]key)[= ]\s*"
    r"|-backend-config[= ]\s*[\"']?(?:access_key|secret_key)=|-[ks]\s+(?=[\"']?\$\{?AWS_(?:ACCESS|SECRET)))"
    r"(?P<value>[\"']?\$\{?[A-Za-z_]\w*\}?[\"']?)"
)
OPAQUE: Final = "a file"
"""Where a key comes from that a whole credentials file brings."""
REAL_KEY: Final = re.compile(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b")
_REFERENCE: Final = re.compile(r"\$\{?!?(?P<name>[A-Za-z_<][\w.<> -]*?)(?::?-[^}]*)?\}?")
_CHAIN: Final = re.compile(r"assume-role\b|assume_role\b|AssumeRole\b|\.Credentials\b|sts_|get-session-token")
_MADE_FRESH: Final = re.compile(
    _CHAIN.pattern + r"|CIRCLE_OIDC_TOKEN|\bvault\b|okta|\baws\s+configure\s+(?:get|export)|secretsmanager|\bssm\b|%s"
)
"""Scripts that get credentials from somebody else than CircleCI's stores; `%s` is how the plain login writes them."""
_OIDC: Final = re.compile(r"CIRCLE_OIDC_TOKEN|assume-role-with-web-identity|AWS_WEB_IDENTITY_TOKEN_FILE|run oidc get")
_LOCAL: Final = re.compile(
    r"--endpoint(?:-url)?[= ]\s*\S*(?:localhost|127\.0\.0\.1|0\.0\.0\.0|localstack|minio|dynamodb|moto"
    r"|:4566|:4572|:8000|:9000|:5000)",
    re.IGNORECASE,
)
_WRAPPER: Final = (
    r"(?:(?:then|do|else|if|while|until|!|sudo|time|exec|xargs|env|npx|yarn|pnpm|nohup|retry|travis_retry|timeout"
    r"|(?:pipenv|poetry|uv|pdm)\s+run|bundle\s+exec|npm\s+exec)\s+(?:-\S+\s+|\d+[smh]?\s+)*)*"
)
"""Words that go before a command."""
_BEFORE: Final = (
    r"(?:^|[;&|({`\"'!=\n]|\b(?:then|do|else|run|-c|--)\s|\baws-cli\S*\s)\s*"
    + _WRAPPER
    + r"(?:[A-Za-z_]\w*="
    + VALUE
    + r"\s+)*"
    + _WRAPPER
)
"""Where a command may begin."""
_AWS_CALL: Final = re.compile(
    _BEFORE + r"(?:[\w./~$\"{}<>-]*/)?aws(?:\.exe)?\s+"
    r"(?:--?[\w-]+(?:[= ](?:\"[^\"]*\"|'[^']*'|\$\{[^}]*\}|[^\s-]\S*))?\s+)*"
    r"(?P<service>[a-z][a-z0-9-]+)\s+(?P<action>[a-z$<\"][\w<>.${}-]*)"
)
_NOT_A_SERVICE: Final = frozenset(
    {"configure", "help", "cli", "credentials", "is", "to", "and", "account", "cdk", "sdk"}
)
_COMMAND: Final = re.compile(_BEFORE + r"(?P<path>[\w./~$\"{}<>-]*/)?(?P<tool>[A-Za-z][\w.-]*)(?=(?P<rest>[^;|&`)]*))")
_SERVERLESS: Final = (
    r"(?:deploy|remove|invoke|info|logs|package|print|rollback|create_domain|s3|client|syncToS3|export-env|prune)\b|--"
)
_TERRAFORM: Final = (
    r"(?:-chdir=\S+\s+)?(?:init|plan|apply|destroy|import|refresh|workspace|output|state|taint|test)\b"
    r"(?!.*-backend=false)"
)
_TOOLS: Final = {
    "eb": r"(?!--version|--help)\w+",
    "ecs": r"(?:deploy|update|scale|run|cron|diff)\b",
    "ecs-deploy": r"",
    "ecs-cli": r"",
    "eksctl": r"(?!version)",
    "sam": r"(?:deploy|package|sync|publish|delete|pipeline)\b",
    "cdk": r"(?:deploy|diff|bootstrap|destroy|synth|import)\b",
    "copilot": r"(?:deploy|svc|job|env|app|task|init|pipeline)\b",
    "serverless": _SERVERLESS,
    "sls": _SERVERLESS,
    "chalice": r"(?:deploy|delete|package)\b",
    "zappa": r"(?:deploy|update|undeploy|manage|invoke|certify|package|save)\b",
    "amplify": r"(?:pull|push|publish|init|env|configure)\b",
    "apex": r"(?:deploy|infra|invoke)\b",
    "up": r"(?:deploy|stack)\b",
    "claudia": r"(?:update|create|deploy)\b",
    "s3cmd": r"(?!--version)",
    "s4cmd": r"",
    "s5cmd": r"",
    "s3_website": r"",
    "s3-deploy": r"",
    "chamber": r"(?:exec|export|import|list|read|write|history|env)\b",
    "kops": r"(?!version)",
    "sceptre": r"",
    "aws-iam-authenticator": r"(?:token|init|verify)\b",
    "aws-nuke": r"",
    "aws-vault": r"exec\b",
    "ecr-login": r"",
    "docker-credential-ecr-login": r"",
}
_MAYBE: Final = {
    "terraform": _TERRAFORM,
    "tofu": _TERRAFORM,
    "terragrunt": r"(?!--version|hclfmt|fmt)",
    "pulumi": r"(?:up|preview|destroy|refresh|stack|config)\b",
    "packer": r"build\b",
}
"""Tools of many clouds: they count where the configuration speaks of AWS elsewhere."""
_INSTALLS: Final = re.compile(
    r"(?:pip3?|pipx|pip3?\.\d+)\s+install[^;&|]*\b(?:awscli|awsebcli|aws-sam-cli|aws-shell|s3cmd)\b"
    r"|(?:apt(?:-get)?|apk|yum|dnf|brew|choco)\b[^;&|]*\b(?:install|add)\b[^;&|]*\b(?:awscli|aws-cli|awsebcli|aws-elasticbeanstalk|aws-iam-authenticator)\b"
    r"|awscli-exe-|awscli-bundle|AWSCLIV2|\./aws/install"
)
_ECR: Final = re.compile(r"\bdocker\s+(?:login|push|pull)\b[^;&|]*\.dkr\.ecr\.")
_ASKS: Final = re.compile(r"\[\s|\[\[\s|\btest\s|\$\{AWS_\w+:[?+]|docker[- ]compose\b")
"""Whether the key is there is a harmless question."""
_MENTION: Final = re.compile(r"\$\{?AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY)\b")
_WRAPS_TERRAFORM: Final = re.compile(r"(?:^|[/_-])(?:tf|terraform|terragrunt|packer)[-_.][\w-]*\.(?:sh|bash|py)$")
_SCRIPT: Final = re.compile(
    r"(?:^|[;&|(]|\b(?:then|do|else|sudo|bash|sh|source|python3?|node|ruby)\s)\s*(?:-\S+\s+)*"
    r"(?P<script>\.{0,2}/?(?:[\w.<>${}-]+/)*[\w.<>${}-]+\.(?:sh|bash|py|js|rb|ps1)"
    r"|\.{1,2}/(?!aws/install)[\w.<>${}/-]+|make\s+[\w<>.${} -]+"
    r"|(?:npm run|yarn run|npm run-script|rake|bundle exec rake|bundle exec fastlane|gulp|grunt)\s+[\w:<>.${}-]+)"
)


DISTURBS: Final = re.compile(
    r"\bmkdir\s+(?!-p)(?:-m\s*\S+\s+)?(?:\"?\$\{?HOME\}?\"?|~|/home/circleci|/root)/\.aws\b|^\s*unset\s+AWS_SESSION_TOKEN\s*$",
    re.MULTILINE,
)


class Form(StrEnum):
    """How a line hands a key on."""

    EXPORT = "assigned in shell"
    PREFIX = "assigned for one command"
    CONFIGURE = "aws configure"
    FILE = "credentials file"
    PASSED = "passed on to a container or file"
    ARGUMENT = "given as an argument"


class Origin(StrEnum):
    """What kind of value it is."""

    STATIC = "a stored key"
    LITERAL = "a key written in the file"
    DUMMY = "a dummy"
    DERIVED = "made in the script"
    SAME = "the variable itself"


@dataclass(frozen=True, kw_only=True)
class KeyLine:
    """One place where a key, its secret or its token is handed on; lines count from 0, `last` is included."""

    first: int
    last: int
    form: Form
    name: str
    origin: Origin
    source: str = ""
    """The variable or parameter that the value is taken from."""
    profile: str = ""
    lasting: bool = False
    """It holds in later steps too."""


@dataclass(frozen=True, kw_only=True)
class Shell:
    """What one script says."""

    uses: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()
    installs: bool = False
    keys: tuple[KeyLine, ...] = ()
    oidc: bool = False
    chain: bool = False
    scripts: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    """Profiles that a command asks for."""
    obstacles: tuple[str, ...] = ()
    """What cannot be done with the credentials of a role."""
    disturbs: bool = False
    """It makes `~/.aws` or drops the session's token, which a login before it would not survive."""
    others: tuple[str, ...] = ()
    """Variables of further keys that it mentions, which no login of the job replaces."""
    uses_before_key: bool = False
    """It calls AWS before it takes a key of its own."""
    defines: tuple[str, ...] = ()
    """Profiles that it writes itself."""
    sets_region: bool = False
    profile_chain: bool = False
    """A profile takes a role by the key of another profile, which credentials in the environment would bypass."""
    mentions: bool = False
    """It does something with the key that none of the forms is, as `sed` does."""
    compose: bool = False
    """It hands the key to docker-compose, whose own file decides what a container gets."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One logical line: physical lines `first` to `last`, joined where a backslash continues them."""

    first: int
    last: int
    text: str


def logical_lines(script: str) -> list[Line]:
    """Comments and blank lines are left out; a heredoc's body belongs to the line that opens it."""
    found: list[Line] = []
    lines = script.split("\n")
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while text.rstrip().endswith("\\") and number + 1 < len(lines):
            number += 1
            text = text.rstrip()[:-1] + " " + lines[number].strip()
        opened = re.search(r"\\?<<-?\s*\\?[\"']?(?P<word>[A-Za-z_]\w*)[\"']?", text)
        if opened and "<<<" not in text:
            word = opened["word"]
            end = next((at for at in range(number + 1, len(lines)) if lines[at].strip() == word), None)
            if end is not None:
                text = "\n".join([text, *lines[number + 1 : end + 1]])
                number = end
        number += 1
        if text.strip() and not text.lstrip().startswith("#"):
            found.append(Line(first=first, last=number - 1, text=text))
    return found


@lru_cache(maxsize=4096)  # every run of a job has the same scripts
def read(script: str) -> Shell:
    """Everything that one script says of AWS."""
    lines = logical_lines(script)
    assigned = set(re.findall(r"(?:^|[\s;(])(?:local\s+|declare\s+|export\s+)?([A-Za-z_]\w*)=", script))
    assigned |= {name for names in re.findall(r"\bread\s+(?:-\w+\s+)*([\w ]+)", script) for name in names.split()}
    keys = tuple(_under_header(key, lines) for line in lines for key in _keys(line, assigned))
    if not any(_MADE_FRESH.search(line.text) for line in lines):
        keys = tuple(_computed(key) for key in keys)
    uses: dict[str, None] = {}
    first_use = -1
    maybe: dict[str, None] = {}
    for line in lines:
        local = bool(_LOCAL.search(line.text)) or _dummy_prefix(line, keys)
        if local:
            continue
        for use in _uses(line.text):
            uses[use] = None
            first_use = line.first if first_use < 0 and use.startswith("aws ") else first_use
        for use in _named(line.text, _MAYBE):
            maybe[use] = None
    found_scripts = (found["script"].strip() for line in lines for found in _SCRIPT.finditer(line.text))
    scripts = tuple(dict.fromkeys(found_scripts))
    maybe |= {script: None for script in scripts if _WRAPS_TERRAFORM.search(script)}
    return Shell(
        uses=tuple(uses),
        maybe=tuple(maybe),
        installs=any(_INSTALLS.search(line.text) for line in lines),
        keys=keys,
        oidc=any(_OIDC.search(line.text) for line in lines),
        chain=any(re.search(r"\bassume-role\b(?!-with)", line.text) for line in lines),
        scripts=scripts,
        profiles=tuple(dict.fromkeys(profile for line in lines for profile in _profiles(line.text))),
        obstacles=tuple(dict.fromkeys(found for line in lines for found in _obstacles(line.text))),
        disturbs=any(DISTURBS.search(line.text) for line in lines),
        others=_others(lines, keys),
        uses_before_key=any(
            0 <= first_use < key.first for key in keys if key.form is Form.EXPORT and key.origin is Origin.STATIC
        ),
        defines=tuple(dict.fromkeys(name for line in lines for name in _defined(line.text))),
        sets_region=any(re.search(r"\bAWS_(?:DEFAULT_)?REGION=", line.text) for line in lines),
        profile_chain=any(re.search(r"\bsource_profile\b", line.text) for line in lines),
        mentions=any(
            _MENTION.search(_spoken(line.text))
            and not any(key.first == line.first for key in keys)
            and not _ASKS.search(line.text)
            for line in lines
        ),
        compose=any(re.search(r"docker[- ]compose\b", line.text) and KEY_ID in line.text for line in lines),
    )


def _computed(key: KeyLine) -> KeyLine:
    """A value that is worked out in a script which asks nobody for credentials is a stored key by another name."""
    if key.origin is not Origin.DERIVED or not key.name:
        return key
    return replace(key, origin=Origin.STATIC, source=key.source or "a name that is worked out")


def _under_header(key: KeyLine, lines: list[Line]) -> KeyLine:
    """A key that goes to a file belongs to the profile whose header was written last."""
    if key.form is not Form.FILE or key.profile:
        return key
    above = [line.text for line in lines if line.first <= key.first and ".aws/" in line.text]
    headers = [found["name"] for text in above for found in _HEADER.finditer(text)]
    return replace(key, profile=headers[-1]) if headers else key


def dummy_value(value: str) -> bool:
    """A literal that is no key of AWS: `local`, `test`, `foo`; what refers to a variable is none."""
    text = value.strip().strip("\"'")
    return "$" not in text and "`" not in text and "<<" not in text and not REAL_KEY.search(text)


def _others(lines: list[Line], keys: tuple[KeyLine, ...]) -> tuple[str, ...]:
    taken = {key.source for key in keys} | KEY_NAMES
    names = (name for line in lines for name in re.findall(r"\$\{?(\w*AWS\w*ACCESS_KEY\w*)", line.text))
    return tuple(dict.fromkeys(name for name in names if name not in taken))


# --- Uses -----------------------------------------------------------------------------------------------------------


def _spoken(text: str) -> str:
    """The line without what `echo` and `printf` only say, unless it goes on to another command or a file."""
    if re.match(r"\s*(?:echo|printf)\b", text) and not re.search(r"\||>|\$\(", text):
        return ""
    return re.sub(r"\s#\s.*$", "", text)


def _uses(text: str) -> Iterator[str]:
    line = _spoken(text)
    for call in _AWS_CALL.finditer(line):
        if call["service"] not in _NOT_A_SERVICE:
            yield f"aws {call['service']}"
    if re.search(r"\baws\s+configure\s+(?!set|get|list|export|import|add)", line + " "):
        yield "aws configure"
    yield from _named(line, _TOOLS)
    if re.search(r"\s-t\s+aws://", line):
        yield "inspec of aws://"
    if _ECR.search(line):
        yield "docker with ECR"
    if _MENTION.search(line):
        yield "AWS_ACCESS_KEY_ID"


def _named(text: str, tools: dict[str, str]) -> Iterator[str]:
    line = _spoken(text)
    for found in _COMMAND.finditer(line):
        tool = found["tool"]
        after = tools.get(tool)
        if after is not None and re.match(after, found["rest"].strip()):
            yield tool


def _dummy_prefix(line: Line, keys: tuple[KeyLine, ...]) -> bool:
    return any(key.first == line.first and key.form is Form.PREFIX and key.origin is Origin.DUMMY for key in keys)


_HEADER: Final = re.compile(r"\[(?:profile )?(?P<name>[A-Za-z][\w.-]*)\]")


def _defined(text: str) -> Iterator[str]:
    if ".aws/" in text:
        yield from (found["name"] for found in _HEADER.finditer(text))
    for found in re.finditer(
        r"\baws\s+configure\s+(?:--profile[= ](?P<before>\S+)\s+)?set\b(?:.*?--profile[= ](?P<after>[^\s;&|]+))?", text
    ):
        yield from (name.strip("\"'") for name in (found["before"], found["after"]) if name)


def _profiles(text: str) -> Iterator[str]:
    for found in re.finditer(
        r"--profile[= ]\s*[\"']?(?P<name>[\w./<>${} -]*?[\w}>.])[\"']?(?=\s|$|[;|&)])", _spoken(text)
    ):
        yield found["name"].strip()
    for found in re.finditer(r"\bAWS_(?:DEFAULT_)?PROFILE=[\"']?(?P<name>[\w.-]+)", text):
        yield found["name"]


def _obstacles(text: str) -> Iterator[str]:
    if re.search(r"\bsts\s+get-session-token\b|\bsts\s+get-federation-token\b", text):
        yield "it asks STS for a session of a user's own key, which a role's credentials may not"
    if re.search(r"\bassume-role\b(?!-with)", text):
        for seconds in re.findall(r"--duration-seconds[= ]\s*[\"']?(\d+)", text):
            if int(seconds) > 3600:  # noqa: PLR2004  AWS: a role reached from another role lasts an hour at most
                yield f"it asks for a role for {seconds} seconds; from another role it lasts 3600 at most"
    if re.search(r"-var[= ]\s*[\"']?[\w-]*(?:access_key|secret_key)[\w-]*=", text):
        yield "it hands the key to Terraform as a variable, whose provider is out of sight"


# --- Keys -----------------------------------------------------------------------------------------------------------


def origin_of(value: str, name: str, assigned: frozenset[str] | set[str] = frozenset()) -> tuple[Origin, str]:
    """What kind of value it is, and the variable it is taken from."""
    text = value.strip().replace('\\"', '"').strip("\"'").removeprefix("\\")
    if REAL_KEY.search(text):
        return Origin.LITERAL, ""
    if dummy_value(text):
        return Origin.DUMMY, ""
    reference = _REFERENCE.fullmatch(text)
    if reference is None:
        return Origin.DERIVED, ""
    source = reference["name"].strip()
    if source == name:
        return Origin.SAME, source
    if source in assigned and source not in KEY_NAMES:
        return Origin.DERIVED, source
    return Origin.STATIC, source


_MAY_SAY_KEY: Final = re.compile(r"aws|access[-_]key|config\s+credentials|ecs-cli", re.IGNORECASE)


def _keys(line: Line, assigned: set[str]) -> Iterator[KeyLine]:
    text = line.text
    if not _MAY_SAY_KEY.search(text):
        return
    yield from _file_keys(line, assigned)
    configure = re.search(
        r"\baws\s+configure\s+(?:--profile[= ]\S+\s+)?set\s+(?:--profile[= ]\S+\s+)?(?P<name>"
        + _FILE_NAMES
        + r")\s+(?P<value>"
        + VALUE
        + ")",
        text,
    )
    if configure:
        yield _key(
            line, Form.CONFIGURE, configure["name"].upper(), configure["value"], assigned, next(_profiles(text), "")
        )
        return
    profile_set = re.search(
        r"\baws\s+configure\s+set\s+(?:profile\.)?(?P<profile>[\w-]+)\.(?P<name>"
        + _FILE_NAMES
        + r")\s+(?P<value>"
        + VALUE
        + ")",
        text,
    )
    if profile_set:
        yield _key(
            line, Form.CONFIGURE, profile_set["name"].upper(), profile_set["value"], assigned, profile_set["profile"]
        )
        return
    given = re.search(r"\b(?:serverless|sls)\s+config\s+credentials\b|\becs-cli\s+configure\s+profile\b", text)
    fed = re.search(r"\|\s*aws\s+configure\b(?!\s+(?:set|get|list))|\baws\s+configure\b[^|;&\n]*<<", text)
    if fed and "_ACCESS_KEY" in text.upper():
        yield _key(line, Form.CONFIGURE, KEY_ID, "$a_stored_key", assigned, next(_profiles(text), ""))
        return
    if given:
        source = re.search(r"(?:--key|-k|--access-key)[= ]\s*(?P<value>" + VALUE + ")", text)
        yield _key(
            line, Form.CONFIGURE, KEY_ID, source["value"] if source else "$?", assigned, next(_profiles(text), "")
        )
        return
    yield from _passed(line, assigned)
    yield from _assigned(line, assigned)


def _key(  # noqa: PLR0917  # in the order of a line
    line: Line, form: Form, name: str, value: str, assigned: set[str], profile: str = ""
) -> KeyLine:
    origin, source = origin_of(value, name, assigned)
    if origin is Origin.SAME and form in {Form.CONFIGURE, Form.FILE}:
        origin = Origin.STATIC
    lasting = form in {Form.CONFIGURE, Form.FILE} or (form is Form.EXPORT and "BASH_ENV" in line.text)
    return KeyLine(
        first=line.first,
        last=line.last,
        form=form,
        name=name,
        origin=origin,
        source=source,
        profile=profile,
        lasting=lasting,
    )


def _file_keys(line: Line, assigned: set[str]) -> Iterator[KeyLine]:
    text = line.text
    to_file = re.search(
        r">>?\s*\S*\.aws/(?P<file>credentials|config)\b|\b(?:cp|mv)\s+\S+\s+\S*\.aws/(?P<copied>credentials)\b|\btee\b[^|;&]*\.aws/(?P<tee>credentials|config)\b",
        text,
    )
    if to_file is None:
        return
    profile = re.search(r"\[(?:profile )?(?P<name>[\w.-]+)\]", text)
    named = profile["name"] if profile else ""
    values = list(
        re.finditer(
            r"(?P<name>" + _FILE_NAMES + r")\s*=\s*(?P<value>\\?[\"']?\$\{?[\w<>. -]+\}?|\$\([^)]*\)|[^\s\"'\\]+)", text
        )
    )
    for found in values:
        yield _key(line, Form.FILE, found["name"].upper(), found["value"], assigned, named)
    whole = to_file["file"] == "credentials" or to_file["copied"] or to_file["tee"] == "credentials"
    if whole and not values:
        header = bool(profile) or bool(re.search(r"\b(?:region|output)\s*=", text))
        derived = Origin.DERIVED if _CHAIN.search(text) or header else Origin.STATIC
        yield KeyLine(
            first=line.first,
            last=line.last,
            form=Form.FILE,
            name="",
            origin=derived,
            source=OPAQUE,
            profile=named,
            lasting=True,
        )


def _passed(line: Line, assigned: set[str]) -> Iterator[KeyLine]:
    text = line.text
    option = re.compile(
        r"(?:(?:^|\s)(?:-e|--env|--build-arg|-v)[= ]\s*\\?[\"']?)(?P<name>"
        + _NAMES
        + r")(?:=(?P<value>"
        + VALUE
        + r"))?"
    )
    for found in option.finditer(text):
        yield _key(line, Form.PASSED, found["name"], found["value"] or f"${found['name']}", assigned)
    if "BASH_ENV" not in text:
        for found in re.finditer(
            r"\b(?:echo|printf)\b[^|;]*?[\"' ](?P<name>"
            + _NAMES
            + r")=(?P<value>[^\"'\s>\\]+)[^|;]*>>?\s*(?!/dev/)\S+",
            text,
        ):
            if ".aws/" not in text:
                yield _key(line, Form.PASSED, found["name"], found["value"], assigned)
    for found in KEY_OPTION.finditer(text):
        source = found["value"].strip("\"'").strip("${}")
        if source in KEY_NAMES or KEY_TOOLS.match(text):
            secret = "secret" in found[0].lower() or found[0].lstrip().startswith("-s")
            name = SECRET_KEY if secret else KEY_ID
            yield KeyLine(
                first=line.first, last=line.last, form=Form.ARGUMENT, name=name, origin=Origin.STATIC, source=source
            )


def _assigned(line: Line, assigned: set[str]) -> Iterator[KeyLine]:
    text = line.text
    if re.search(r"(?:^|\s)(?:-e|--env|--build-arg)[= ]\s*[\"']?" + _NAMES, text):
        return
    for found in re.finditer(r"(?P<before>^|[\s;&|(\"'])(?P<name>" + _NAMES + r")=(?P<value>" + VALUE + ")", text):
        if ".aws/" in text or (">" in text and "BASH_ENV" not in text and re.match(r"\s*(?:echo|printf|cat)\b", text)):
            continue
        exported = "export" in text[: found.start("name")] or re.search(
            r"\b(?:set|setx)\b", text[: found.start("name")]
        )
        rest = text[found.end() :].strip()
        rest = re.sub(r"^(?:\s*[A-Za-z_]\w*=" + VALUE + r")+", "", rest).strip()
        alone = not rest or rest[0] in ";&|)>\"'"
        value = found["value"]
        if found["before"] in "\"'":
            value = value.rstrip("\"'")
        yield _key(line, Form.EXPORT if exported or alone else Form.PREFIX, found["name"], value, assigned)
