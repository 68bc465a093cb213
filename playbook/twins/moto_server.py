"""AWS on loopback: moto's own server behind a gate that has the rules moto leaves out (AWS facts 1.1, 1.3).

Moto alone accepts inactive and deleted keys, wrong secrets and any number of threads at its peril. The gate refuses
such signatures, lets a new key spread slowly, throttles, loses and cuts replies on demand, answers CloudTrail's
`LookupEvents` from the requests it saw, and hands moto one request at a time. Every port of this process shares
moto's one world, which `start` empties: run one server in a process.

moto and flask come with the extra `sandbox`; nothing here is imported by a live run.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from playbook.errors import UsageError
from playbook.ports import Credential, KeyStatus
from playbook.secret import Secret
from playbook.twins import moto_rules, moto_seed, roles_assumed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playbook.ports import Identity, Json
    from playbook.twins.state import Account, TrailEvent

Respond = Callable[..., Any]

OPERATOR: Final = "incident-responder"
"""The IAM user by which the outside acts in each account."""

_SIGNED_BY = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[A-Z0-9]+)/(?P<day>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)"
    r"/aws4_request, *SignedHeaders=(?P<headers>[a-z0-9;-]+), *Signature=(?P<signature>[0-9a-f]{64})"
)
_EVENTS_A_PAGE = 50
_MADE_KEY = re.compile(rb"<AccessKeyId>((?:AKIA|ASIA)[A-Z0-9]+)</AccessKeyId>")
_NOT_ACCEPTED: Final = {"ec2": "AuthFailure", "ecr": "UnrecognizedClientException", "s3": "InvalidAccessKeyId"}
"""How a service other than IAM and STS calls a key it does not know."""
_REST: Final = {"s3": "ListBuckets"}
"""The one operation that is called by a path alone."""
_NOT_PERMITTED: Final = {"ec2": "UnauthorizedOperation", "ecr": "AccessDeniedException"}


class FaultKind(StrEnum):
    """What may go wrong with one request."""

    THROTTLE = "throttle"
    DENY = "deny"
    EXPIRE = "expire"
    """The session that signed it has expired."""
    SERVER_ERROR = "server-error"
    DROP_REQUEST = "drop-request"
    """The connection ends before anything happened."""
    DROP_REPLY = "drop-reply"
    """It happened, and the connection ends without a reply."""
    CUT_REPLY = "cut-reply"
    """It happened, and the reply breaks off after `at_byte` bytes of its body."""
    SHORTEN_REPLY = "shorten-reply"
    """As `CUT_REPLY`, but the reply's length says that it is whole."""


_REFUSALS: Final = {
    FaultKind.THROTTLE: (400, "Throttling"),
    FaultKind.DENY: (403, "AccessDenied"),
    FaultKind.EXPIRE: (403, "ExpiredToken"),
    FaultKind.SERVER_ERROR: (500, "InternalFailure"),
}


@dataclass(kw_only=True)
class Fault:
    """A fault for the next requests of one operation, or of all with `*`."""

    operation: str
    kind: FaultKind
    times: int = 1
    """How often it strikes; -1 for ever."""
    at_byte: int = 0


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """A request as it arrived, and what the caller was told; parameters carry no secrets in these APIs."""

    id: str
    at: datetime
    service: str
    operation: str
    region: str
    account: str
    key_id: str
    user_agent: str
    parameters: Mapping[str, str]
    source_address: str
    status: int
    """0 when the caller got no status."""
    error: str = ""
    made_key_id: str = ""
    """The access key it made, or the session's that it handed out."""
    user: str = ""
    """The name of the user or session that signed it."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the gate needs of a request, with its body read."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    service: str
    operation: str
    region: str
    key_id: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class _Signer:
    """Who a key id belongs to."""

    account: str
    user: str
    secret: str
    token: str | None
    active: bool


@dataclass(kw_only=True)
class _Reply:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


class MotoServer:
    """A server for any AWS client; a context manager that starts and stops it."""

    def __init__(self, *, propagation_s: float = 0.0, trail_lag_s: float = 0.0) -> None:
        """`propagation_s`: until a new key is accepted; `trail_lag_s`: until an event can be looked up."""
        self.propagation_s = propagation_s
        self.trail_lag_s = trail_lag_s
        self._moto = _moto()
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self._seen: list[SeenRequest] = []
        self._made_at: dict[str, float] = {}
        self._operators: dict[str, Credential] = {}
        self._additions = moto_rules.Additions()
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._dispatch: Any = None

    # --- life ---

    def start(self, port: int = 0) -> Self:
        """Empty moto's world and serve; port 0 takes a free one."""
        from werkzeug.serving import make_server  # noqa: PLC0415  # an extra

        app = self._moto.app
        self.empty()
        self._dispatch = app.DomainDispatcherApplication(app.create_backend_app)
        self._server = make_server("127.0.0.1", port, self._serve, threaded=True, request_handler=_quiet_handler(app))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="moto", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving; what was seen stays."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The endpoint to give to a client."""
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}"

    # --- seeding and truth ---

    def empty(self) -> None:
        """Begin again: no user, no key, nothing seen."""
        with self._lock:
            self._moto.reset()
            self._seen.clear()
            self._made_at.clear()
            self._operators.clear()

    def add_user(self, account: str, name: str, *, path: str = "/") -> None:
        """Make a user without keys."""
        with self._lock:
            self._backend(account).create_user("us-east-1", user_name=name, path=path)

    def add_key(self, account: str, user: str, *, active: bool = True) -> Credential:
        """Make an access key that is accepted at once."""
        with self._lock:
            backend = self._backend(account)
            key = backend.create_access_key(user_name=user)
            if not active:
                backend.update_access_key(user, key.access_key_id, "Inactive")
            return _credential(account, key)

    def add_rights(self, account: Account, key_ids: Mapping[str, str]) -> None:
        """Make what a twin's account has besides users and keys; `key_ids`: which key stands for each of the twin's."""
        with self._lock:
            moto_seed.seed(self._backend(account.id), account)
            for event in account.trail:
                self.add_event(account.id, _request_of(event, key_ids))

    def add_event(self, account: str, event: SeenRequest) -> None:
        """Let CloudTrail know of a request that never was: what an attacker did before the test began."""
        with self._lock:
            self._seen.append(replace(event, account=account))

    def operator(self, account: str) -> Credential:
        """The key of the account's operator, made when first asked for."""
        with self._lock:
            if account not in self._operators:
                self.add_user(account, OPERATOR)
                self._operators[account] = self.add_key(account, OPERATOR)
            return self._operators[account]

    def environment(self, operator: Credential) -> dict[str, str]:
        """Variables by which a process talks to this server alone, as the operator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": operator.key_id,
            "AWS_SECRET_ACCESS_KEY": operator.secret.reveal(),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def keys(self, account: str, user: str) -> dict[str, KeyStatus]:
        """The truth: the user's keys and their states."""
        with self._lock:
            held = self._backend(account).list_access_keys(user)
            return {key.access_key_id: KeyStatus(key.status) for key in held}

    def set_status(self, account: str, user: str, key_id: str, status: KeyStatus) -> None:
        """Change a key behind everybody's back."""
        with self._lock:
            self._backend(account).update_access_key(user, key_id, status.value)

    def remove_key(self, account: str, user: str, key_id: str) -> None:
        """Delete a key behind everybody's back."""
        with self._lock:
            self._backend(account).delete_access_key(key_id, user)

    def secret_of(self, key_id: str) -> Secret:
        """The truth: a living key's secret, for tests that search for it."""
        with self._lock:
            signer = self._signer(key_id)
            assert signer is not None
            return Secret(signer.secret)

    def assume_role(self, role_arn: str, claims: Mapping[str, Json]) -> Identity | None:
        """Who a job with these claims becomes: moto's own roles and providers, judged as STS does."""
        token = roles_assumed.token_of(claims)
        _, _, name = role_arn.rpartition("/")
        backend = self._backend(role_arn.split(":")[4])
        role = next((item for item in backend.roles.values() if item.name == name), None)
        if token is None or role is None:
            return None
        providers = backend.open_id_providers.items()
        found = next(
            ((arn, item) for arn, item in providers if arn.endswith(f"oidc-provider/{token.issuer.name}")), None
        )
        if found is None:
            return None
        trusting = roles_assumed.Trusting(
            role=name,
            trust=json.loads(role.assume_role_policy_document),
            provider=found[0],
            client_ids=tuple(found[1].client_id_list),
        )
        return roles_assumed.decide(role_arn, token, trusting)

    def key_of(self, digest: str) -> tuple[Credential, bool] | None:
        """The truth: the living key whose id has this digest, and whether it is on."""
        with self._lock:
            for account, partitions in list(self._moto.iam_backends.items()):
                for backend in partitions.values():
                    for key in (key for user in backend.users.values() for key in user.access_keys):
                        if Secret(key.access_key_id).digest() == digest:
                            return _credential(account, key), key.status == "Active"
        return None

    def accepts(self, key_id: str, secret: Secret) -> bool:
        """The truth: whether this pair is a working one."""
        with self._lock:
            signer = self._signer(key_id)
            return signer is not None and signer.active and secret.is_same_as(Secret(signer.secret))

    # --- drills ---

    def inject(self, *faults: Fault) -> None:
        """Let the next matching requests fail."""
        with self._lock:
            self._faults.extend(faults)

    def heal(self) -> None:
        """Forget every fault that has not struck."""
        with self._lock:
            self._faults.clear()

    def requests(self, operation: str = "*") -> tuple[SeenRequest, ...]:
        """What arrived so far, oldest first."""
        with self._lock:
            return tuple(seen for seen in self._seen if operation in ("*", seen.operation))

    # --- the gate ---

    def _serve(self, environ: dict[str, Any], start_response: Respond) -> Iterable[bytes]:
        request = _parsed(environ)
        with self._lock:
            fault = self._next_fault(request.operation)
            if fault is not None and fault.kind is FaultKind.DROP_REQUEST:
                self._note(request, environ, _Reply(status=0, body=b""))
                return _hang_up(environ)
            reply = self._answer(request, environ, fault)
            made = _MADE_KEY.search(reply.body) if request.service in ("iam", "sts") and _makes_keys(request) else None
            if made is not None and request.operation == "CreateAccessKey":
                self._made_at[made[1].decode()] = time.monotonic()
            self._note(request, environ, reply, made[1].decode() if made else "")
        return _sent(reply, fault, environ, start_response)

    def _answer(self, request: _Request, environ: dict[str, Any], fault: Fault | None) -> _Reply:
        refused = self._signature_refusal(request) or (_REFUSALS.get(fault.kind) if fault else None)
        if refused is not None:
            return _error(request, *refused)
        if request.service == "iam" and (answered := self._by_rule(request)) is not None:
            return answered
        if request.operation == "LookupEvents":
            return self._look_up(request)
        if request.operation == "SimulatePrincipalPolicy":
            return self._simulate(request)
        return self._delegate(request, environ)

    def _by_rule(self, request: _Request) -> _Reply | None:
        """What moto would get wrong, or does not have; None for what is moto's to answer."""
        signer = self._signer(request.key_id)
        assert signer is not None
        backend, asked = self._backend(signer.account), request.parameters
        if request.operation == "GetAccessKeyLastUsed":
            owner = self._signer(asked.get("AccessKeyId", ""))
            return _error(request, *moto_rules.GONE) if owner is None or owner.account != signer.account else None
        refused = moto_rules.refusal(backend, request.operation, asked)
        if refused is None:
            made = self._additions.answer(backend, request.operation, asked, self._used_services(signer.account))
            if made is None or isinstance(made, str):
                return None if made is None else _xml(200, made)
            refused = made
        return _error(request, *refused)

    def _used_services(self, account: str) -> dict[str, dict[str, datetime]]:
        """When each user signed for which service last, refused requests among them."""
        used: dict[str, dict[str, datetime]] = {}
        for seen in self._seen:
            if seen.account == account:
                used.setdefault(seen.user, {})[seen.service] = seen.at
        return used

    def _delegate(self, request: _Request, environ: dict[str, Any]) -> _Reply:
        """Hand the request to moto, and collect its reply whole."""
        environ["wsgi.input"] = io.BytesIO(request.body)
        environ["CONTENT_LENGTH"] = str(len(request.body))
        started: list[Any] = []
        backend_app = self._dispatch.get_application(environ)
        body = b"".join(backend_app(environ, lambda status, headers, *_: started.extend((status, headers))))
        status, headers = started
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        error = re.search(rb"<Error>.*?<Code>([A-Za-z0-9.]+)</Code>", body, re.DOTALL)
        return _Reply(status=int(status.split()[0]), body=body, headers=kept, error=error[1].decode() if error else "")

    def _signature_refusal(self, request: _Request) -> tuple[int, str] | None:
        """What moto does not check: the key's existence, its state, its age and the signature itself."""
        signer = self._signer(request.key_id)
        age_s = time.monotonic() - self._made_at.get(request.key_id, float("-inf"))
        token = request.headers.get("X-Amz-Security-Token")
        if signer is None or not signer.active or age_s < self.propagation_s or token != signer.token:
            return 403, _NOT_ACCEPTED.get(request.service, "InvalidClientTokenId")
        if _signature(request, signer) != _claimed(request)["signature"]:
            return 403, "SignatureDoesNotMatch"
        return None

    def _signer(self, key_id: str) -> _Signer | None:
        for account, partitions in list(self._moto.iam_backends.items()):
            for backend in partitions.values():
                for user in backend.users.values():
                    for key in user.access_keys:
                        if key.access_key_id == key_id:
                            return _Signer(
                                account=account,
                                user=user.name,
                                secret=key.secret_access_key,
                                token=None,
                                active=key.status == "Active",
                            )
        for account, partitions in list(self._moto.sts_backends.items()):
            for backend in partitions.values():
                for role in backend.assumed_roles:
                    if role.access_key_id == key_id:
                        return _Signer(
                            account=account,
                            user=role.role_arn.rpartition("/")[2],
                            secret=role.secret_access_key,
                            token=role.session_token,
                            active=True,
                        )
        return None

    def _backend(self, account: str) -> Any:
        return self._moto.iam_backends[account]["aws"]

    def _next_fault(self, operation: str) -> Fault | None:
        for fault in self._faults:
            if fault.operation in ("*", operation) and fault.times:
                fault.times -= 1 if fault.times > 0 else 0
                return fault
        return None

    def _note(self, request: _Request, environ: Mapping[str, Any], reply: _Reply, made_key_id: str = "") -> None:
        signer = self._signer(request.key_id)
        self._seen.append(
            SeenRequest(
                id=str(uuid.uuid4()),
                at=datetime.now(UTC),
                service=request.service,
                operation=request.operation,
                region=request.region,
                account=signer.account if signer else "",
                key_id=request.key_id,
                user_agent=request.headers.get("User-Agent", ""),
                parameters=request.parameters,
                source_address=str(environ.get("REMOTE_ADDR", "")),
                status=reply.status,
                error=reply.error,
                made_key_id=made_key_id,
                user=signer.user if signer else "",
            )
        )

    # --- what moto does not implement ---

    def _simulate(self, request: _Request) -> _Reply:
        """Allow what this server allows: everything but an operation that is denied for ever."""
        denied = {fault.operation for fault in self._faults if fault.kind is FaultKind.DENY and fault.times < 0}
        actions = [value for name, value in request.parameters.items() if name.startswith("ActionNames.member.")]
        decision = {True: "explicitDeny", False: "allowed"}
        results = "".join(
            f"<member><EvalActionName>{escape(action)}</EvalActionName><EvalResourceName>*</EvalResourceName>"
            f"<EvalDecision>{decision[action.partition(':')[2] in denied]}</EvalDecision></member>"
            for action in actions
        )
        return _xml(
            200,
            f"<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated>"
            f"<EvaluationResults>{results}</EvaluationResults></SimulatePrincipalPolicyResult>"
            f"</SimulatePrincipalPolicyResponse>",
        )

    def _look_up(self, request: _Request) -> _Reply:
        """CloudTrail's event history, newest first, of the signer's account and the asked region."""
        asked = json.loads(request.body or b"{}")
        signer = self._signer(request.key_id)
        wanted = {item["AttributeKey"]: item["AttributeValue"] for item in asked.get("LookupAttributes", [])}
        now = datetime.now(UTC)
        since = datetime.fromtimestamp(asked.get("StartTime", 0), UTC)
        until = min(
            datetime.fromtimestamp(asked.get("EndTime", now.timestamp()), UTC),
            now - timedelta(seconds=self.trail_lag_s),
        )
        events = [
            _event(seen)
            for seen in reversed(self._seen)
            if signer is not None
            and seen.account == signer.account
            and seen.status
            and request.region == ("us-east-1" if seen.service == "iam" else seen.region)
            and since <= seen.at.replace(microsecond=0) + timedelta(seconds=1)
            and seen.at <= until
        ]
        found = [event for event in events if all(_is_picked(event, name, value) for name, value in wanted.items())]
        first = int(asked.get("NextToken", "0"))
        page = found[first : first + _EVENTS_A_PAGE]
        answer: dict[str, Any] = {"Events": page}
        if first + _EVENTS_A_PAGE < len(found):
            answer["NextToken"] = str(first + _EVENTS_A_PAGE)
        return _Reply(
            status=200,
            body=json.dumps(answer).encode(),
            headers=[("Content-Type", "application/x-amz-json-1.1")],
        )


# --- The parts of moto ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Moto:
    app: Any
    iam_backends: Any
    sts_backends: Any
    reset: Callable[[], None]


def _moto() -> _Moto:
    """Import moto, or say how to get it."""
    try:
        import flask_cors  # noqa: F401, PLC0415  # moto warns before it fails without this
        from moto.core.base_backend import BackendDict  # noqa: PLC0415  # an extra
        from moto.iam.models import iam_backends  # noqa: PLC0415  # an extra
        from moto.moto_server import werkzeug_app  # noqa: PLC0415  # an extra
        from moto.sts.models import sts_backends  # noqa: PLC0415  # an extra
    except ImportError:
        pass
    else:
        return _Moto(app=werkzeug_app, iam_backends=iam_backends, sts_backends=sts_backends, reset=BackendDict.reset)
    raise UsageError(
        "AWS on loopback needs moto and flask, which are not installed.",
        remedy='Install the extra: pipx install "rotation-playbook[sandbox]".',
    )


def _credential(account: str, key: Any) -> Credential:
    return Credential(
        account=account,
        user=key.user_name,
        key_id=key.access_key_id,
        secret=Secret(key.secret_access_key),
        created_at=key.create_date.replace(tzinfo=UTC),
        server_time=datetime.now(UTC).replace(microsecond=0),
    )


def _quiet_handler(app: Any) -> type:
    handler: type = app.MotoRequestHandler
    return type("QuietHandler", (handler,), {"log": lambda *_: None})


# --- Requests and replies ---------------------------------------------------------------------------------------------


def _parsed(environ: dict[str, Any]) -> _Request:
    """Read a request: of `query` (IAM, STS, EC2), of `json` (CloudTrail, ECR), or S3's list of buckets."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").title(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }
    claimed = _SIGNED_BY.match(headers.get("Authorization", ""))
    service = claimed["service"] if claimed else ""
    target = headers.get("X-Amz-Target", "")
    parameters = {} if target else dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return _Request(
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", "/"),
        query=environ.get("QUERY_STRING", ""),
        headers=headers,
        body=body,
        service=service,
        operation=target.rpartition(".")[2] if target else parameters.get("Action", _REST.get(service, "")),
        region=claimed["region"] if claimed else "",
        key_id=claimed["key"] if claimed else "",
        parameters=parameters,
    )


def _claimed(request: _Request) -> re.Match[str]:
    claimed = _SIGNED_BY.match(request.headers["Authorization"])
    assert claimed is not None
    return claimed


def _signature(request: _Request, signer: _Signer) -> str:
    """The signature this request should carry, by botocore's own signer."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415  # only a served request needs it
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415  # as above
    from botocore.credentials import Credentials  # noqa: PLC0415  # as above

    signed = set(_claimed(request)["headers"].split(";"))
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.headers.get('Host', '')}{request.path}" + (f"?{request.query}" if request.query else ""),
        data=request.body,
        headers={name: value for name, value in request.headers.items() if name.lower() in signed},
    )
    again.context["timestamp"] = request.headers.get("X-Amz-Date", "")
    auth = SigV4Auth(Credentials(request.key_id, signer.secret, signer.token), request.service, request.region)
    return str(auth.signature(auth.string_to_sign(again, auth.canonical_request(again)), again))


def _xml(status: int, text: str, error: str = "") -> _Reply:
    return _Reply(status=status, body=text.encode(), headers=[("Content-Type", "text/xml")], error=error)


def _error(request: _Request, status: int, code: str) -> _Reply:
    if code == "AccessDenied":
        code = _NOT_PERMITTED.get(request.service, code)
    inside = f"<Code>{code}</Code><Message>{code}</Message>"
    match request.service:
        case "iam" | "sts" | "":
            return _xml(
                status,
                f"<ErrorResponse><Error><Type>Sender</Type>{inside}</Error>"
                f"<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>",
                error=code,
            )
        case "ec2":
            return _xml(status, f"<Response><Errors><Error>{inside}</Error></Errors></Response>", error=code)
        case "s3":
            return _xml(status, f"<Error>{inside}</Error>", error=code)
        case _:
            body = json.dumps({"__type": code, "message": code}).encode()
            headers = [("Content-Type", "application/x-amz-json-1.1")]
            return _Reply(status=status, body=body, headers=headers, error=code)


def _makes_keys(request: _Request) -> bool:
    return request.operation == "CreateAccessKey" or request.service == "sts"


def _sent(reply: _Reply, fault: Fault | None, environ: dict[str, Any], start_response: Respond) -> Iterable[bytes]:
    """Send the reply, or as much of it as the fault leaves."""
    kind = fault.kind if fault else None
    if kind is FaultKind.DROP_REPLY:
        return _hang_up(environ)
    body = reply.body
    if fault is not None and kind in (FaultKind.CUT_REPLY, FaultKind.SHORTEN_REPLY):
        body = body[: fault.at_byte]
    length = len(reply.body) if kind is FaultKind.CUT_REPLY else len(body)
    start_response(f"{reply.status} Status", [*reply.headers, ("Content-Length", str(length))])
    return _then_hang_up(body, environ) if kind is FaultKind.CUT_REPLY else [body]


def _then_hang_up(body: bytes, environ: dict[str, Any]) -> Iterator[bytes]:
    yield body
    yield from _hang_up(environ)


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    """End the connection under the server's feet, as a network does."""
    connection: socket.socket = environ["werkzeug.socket"]
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def _request_of(event: TrailEvent, key_ids: Mapping[str, str]) -> SeenRequest:
    """The request behind an event of a twin's trail."""
    named = {"UserName": event.user, "RoleArn": event.role}
    named |= {f"Resource{number}": name for number, name in enumerate(event.resources)}
    return SeenRequest(
        id=event.id,
        at=event.at,
        service=event.service,
        operation=event.name,
        region=event.region,
        account="",
        key_id=key_ids.get(event.signer, event.signer),
        user_agent=event.user_agent,
        parameters={name: value for name, value in named.items() if value},
        source_address=event.source_address,
        status=403 if event.error_code else 200,
        error=event.error_code,
        made_key_id=event.issued_key_id or key_ids.get(event.key_id, event.key_id),
        user=event.actor,
    )


def _event(seen: SeenRequest) -> dict[str, Any]:
    """A CloudTrail event of a request."""
    detail = {
        "eventVersion": "1.08",
        "userIdentity": {"accountId": seen.account, "accessKeyId": seen.key_id, "userName": seen.user},
        "eventTime": seen.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": f"{seen.service}.amazonaws.com",
        "eventName": seen.operation,
        "awsRegion": "us-east-1" if seen.service == "iam" else seen.region,
        "sourceIPAddress": seen.source_address,
        "userAgent": seen.user_agent,
        "requestParameters": {
            name[:1].lower() + name[1:]: value
            for name, value in seen.parameters.items()
            if name not in ("Action", "Version")
        },
        "responseElements": _made(seen),
        "recipientAccountId": seen.account,
        "eventID": seen.id,
    }
    if seen.error:
        detail["errorCode"] = seen.error
    return {
        "EventId": seen.id,
        "EventName": seen.operation,
        "EventTime": int(seen.at.timestamp()),
        "EventSource": detail["eventSource"],
        "Username": seen.user,
        "AccessKeyId": seen.key_id,
        "Resources": [{"ResourceName": name} for name in _resources(seen)],
        "CloudTrailEvent": json.dumps(detail),
    }


def _is_picked(event: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a lookup attribute picks the event."""
    if name == "ResourceName":
        return any(item["ResourceName"] == value for item in event["Resources"])
    return bool(event.get(name) == value)


def _made(seen: SeenRequest) -> dict[str, Any] | None:
    """What CloudTrail tells of a reply: the key that was made, or the session that was handed out."""
    if not seen.made_key_id:
        return None
    if seen.service == "sts":
        return {"credentials": {"accessKeyId": seen.made_key_id}}
    return {
        "accessKey": {
            "userName": seen.parameters.get("UserName"),
            "accessKeyId": seen.made_key_id,
            "status": "Active",
        }
    }


def _resources(seen: SeenRequest) -> list[str]:
    named = ("UserName", "RoleName", "PolicyArn", "PolicyName", "AccessKeyId", "RoleArn")
    listed = (value for name, value in seen.parameters.items() if name in named or name.startswith("Resource"))
    return [value for value in (*listed, seen.made_key_id) if value]
