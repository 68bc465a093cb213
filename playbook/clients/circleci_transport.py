"""Requests to CircleCI over httpx: sent once or repeated, answered whole or sorted by what may have happened.

Only this module knows httpx. Its exceptions hold the request, and so the value that was sent: they end here, as
values, and what is raised instead is built outside the `except`, without a context. A reply is decoded into a typed
shape or refused as `Unreadable`; none of its text reaches an error, for it may echo what was sent.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import stamina
import stamina.instrumentation

from playbook.clients import quiet_sdk_loggers
from playbook.clients.budget import PAUSE_LIMIT_S, Budget
from playbook.clients.endpoints import is_loopback
from playbook.decoding import decoder
from playbook.errors import CircleCiError, CredentialsError, Effect, PlaybookError
from playbook.ports import display

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from playbook.secret import Secret

T = TypeVar("T")

BODY_MAX_BYTES: Final = 8 << 20
"""A larger reply is refused: no honest one comes near."""

PAGE_REPEATED: Final = "PageRepeated"
"""The code for a list of which a part cannot be reached."""

_NO_ROUTE: Final = frozenset({b"page not found", b"404 page not found"})
_PAGES_MAX = 2000
_REPLY_MAX_S = 60.0
_TIMEOUT = httpx.Timeout(connect=10.0, read=30.0, write=30.0, pool=60.0)

_UNREACHED = "Check the network and https://status.circleci.com, then go on with `resume`."
_STRANGE = "The reply was not what CircleCI's API promises; check the host, then go on with `resume`."
_HIDDEN = "Part of the list cannot be read; look at it in CircleCI's web page."


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reply that arrived whole."""

    status: int
    body: bytes = field(repr=False)
    """It may echo what was sent, so no print of this object shows it."""
    request_id: str
    retry_after_s: float | None


@dataclass(frozen=True, kw_only=True)
class _Lost:
    """No whole reply; `sent` says whether CircleCI may have acted on the request."""

    code: str
    sent: bool


class Transport:
    """One token on one host, with one pace for all threads."""

    def __init__(
        self, *, host: str, token: Secret, parallel: int, budget: Budget, attempts: int, patience_s: float
    ) -> None:
        """`attempts` and `patience_s` bound all attempts at one call together."""
        quiet_sdk_loggers()
        # Its default hook would print each retry to stdout, which belongs to results.
        stamina.instrumentation.set_on_retry_hooks(())
        self.host = host
        self._budget = budget
        self._repeat = stamina.RetryingCaller(
            attempts=attempts, timeout=patience_s, wait_initial=0.4, wait_max=20.0, wait_jitter=1.0
        )
        self._http = httpx.Client(
            headers={
                # Bearer, not `Circle-Token`: other tools strip only this header when a host redirects elsewhere.
                "Authorization": f"Bearer {token.reveal()}",
                "Accept": "application/json",
                # A compressed reply could unpack to far more than the cap before it is measured.
                "Accept-Encoding": "identity",
                "User-Agent": "rotation-playbook",
            },
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel, keepalive_expiry=15.0),
            follow_redirects=False,
            trust_env=not is_loopback(host),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, what: str, path: str, shape: type[T], params: Mapping[str, str] | None = None) -> T:
        """Read one thing."""
        return decoded(what, self.repeated(what, "GET", path, params=params), shape, Effect.NONE)

    def pages(
        self,
        what: str,
        read: Callable[[str | None], tuple[list[T], str | None]],
        *,
        repeats_at_the_end: bool = False,
    ) -> Iterator[T]:
        """Every item of a list once; `read` fetches the page behind a token.

        A page that brings nothing new, or a token seen before, means that the server ignores the token or goes
        round (facts 0.4). Where that is known to happen at the end (`repeats_at_the_end`) it is the end; elsewhere
        items may be hidden behind it, and the list must not be taken for whole.
        """
        seen_items: set[bytes] = set()
        seen_tokens: set[str] = set()
        token: str | None = None
        for _ in range(_PAGES_MAX):
            items, token = read(token)
            fresh = {mark: item for item in items if (mark := _identity(item)) not in seen_items}
            seen_items.update(fresh)
            yield from fresh.values()
            if not token:
                return
            if token in seen_tokens or (items and not fresh):
                if repeats_at_the_end:
                    return
                raise CircleCiError(what, code=PAGE_REPEATED, effect=Effect.NONE, remedy=_HIDDEN)
            seen_tokens.add(token)
        raise CircleCiError(what, code="TooManyPages", effect=Effect.NONE, remedy=_HIDDEN)

    def repeated(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Callable[[], bytes] | None = None,
        expected: frozenset[int] = frozenset(),
    ) -> Answer:
        """Send an idempotent request until it is answered, within the limits on attempts and time."""
        doubtful = False

        def attempt() -> Answer:
            nonlocal doubtful
            try:
                return self.once(what, method, path, params=params, body=body, expected=expected)
            except CircleCiError as error:
                doubtful = doubtful or error.effect is Effect.UNKNOWN
                raise

        failure: PlaybookError
        try:
            return self._repeat(_is_worth_repeating, attempt)
        except (CircleCiError, CredentialsError) as error:
            failure = error
        if doubtful and not (isinstance(failure, CircleCiError) and failure.effect is Effect.UNKNOWN):
            # The last answer was a clear no, but an earlier attempt may have arrived.
            code = failure.code if isinstance(failure, CircleCiError) else "HTTP401"
            failure = CircleCiError(what, code=code, effect=Effect.UNKNOWN, remedy=failure.remedy)
        raise failure

    def once(
        self,
        what: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Callable[[], bytes] | None = None,
        expected: frozenset[int] = frozenset(),
    ) -> Answer:
        """Send a request once, and raise for every answer that is neither a success nor expected."""
        doubt = Effect.NONE if method == "GET" else Effect.UNKNOWN
        self._budget.take()
        answer = self._exchange(method, path, params, body)
        if isinstance(answer, _Lost):
            effect = doubt if answer.sent else Effect.NONE
            raise CircleCiError(what, code=answer.code, effect=effect, retryable=True, remedy=_UNREACHED)
        if answer.status == httpx.codes.TOO_MANY_REQUESTS or answer.retry_after_s is not None:
            self._budget.throttled(answer.retry_after_s)
        if not (httpx.codes.is_success(answer.status) or answer.status in expected):
            raise _refusal(what, answer, doubt)
        self._budget.succeeded()
        return answer

    def _exchange(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Callable[[], bytes] | None
    ) -> Answer | _Lost:
        """One request and its reply, as a value: no exception of httpx goes further."""
        try:
            with self._http.stream(
                method,
                f"{self.host}{path}",
                params=dict(params) if params else None,
                content=body() if body else None,
                headers={"Content-Type": "application/json"} if body else None,
            ) as response:
                return _read(response)
        except Exception as error:  # noqa: BLE001  # whatever the transport raises may hold the request's body
            return _lost(error)


def path_of(surface: str, *segments: str) -> str:
    """Join untrusted names into a path; one that would climb out of its place is refused before anything is sent."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise CircleCiError(
                "a call",
                code="BadName",
                effect=Effect.NONE,
                remedy=f"The name {display(segment)!r} cannot stand in an address; look at it in CircleCI's web page.",
            )
    return "/".join((surface, *(quote(segment, safe="") for segment in segments)))


def decoded(what: str, answer: Answer, shape: type[T], doubt: Effect) -> T:
    """Decode a reply into its shape, or refuse it."""
    try:
        return decoder(shape).decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    raise unreadable(what, answer, doubt)


def unreadable(what: str, answer: Answer, doubt: Effect) -> CircleCiError:
    """The error for a reply that is not what the API promises."""
    return CircleCiError(
        what, code="Unreadable", effect=doubt, status=answer.status, request_id=answer.request_id, remedy=_STRANGE
    )


def lacks_route(answer: Answer) -> bool:
    """Whether the host lacks the route, and so the feature; a thing that is missing is answered in JSON (facts 0.3)."""
    return answer.body.strip().lower() in _NO_ROUTE


def _identity(item: Any) -> bytes:
    """What makes an item the same on two pages: its id, fingerprint or name; times may move between two reads."""
    for name in ("id", "fingerprint", "resource_class", "variable", "name"):
        if isinstance(value := getattr(item, name, None), str):
            return value.encode()
    return msgspec.json.encode(item)


def _is_worth_repeating(error: Exception) -> bool:
    return isinstance(error, CircleCiError) and error.retryable


def _read(response: httpx.Response) -> Answer | _Lost:
    """Read the reply's body, bounded in size and in time."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return _Lost(code="Unreadable", sent=True)
    deadline = time.monotonic() + _REPLY_MAX_S
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            return _Lost(code="Unreadable", sent=True)
        if time.monotonic() > deadline:
            return _Lost(code="Timeout", sent=True)
    request_id = response.headers.get("x-request-id", "")
    return Answer(
        status=response.status_code,
        body=bytes(body),
        request_id=request_id if re.fullmatch(r"[A-Za-z0-9.-]{1,80}", request_id) else "",
        retry_after_s=retry_after_s(response.headers),
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds or a date, the latter against the server's own clock; garbage counts as no answer."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", given):
        return min(float(given), PAUSE_LIMIT_S)
    try:
        until, now = parsedate_to_datetime(given), parsedate_to_datetime(headers.get("date", ""))
        return min(max((until - now).total_seconds(), 0.0), PAUSE_LIMIT_S)
    except (ValueError, TypeError, OverflowError):
        return None


def _lost(error: Exception) -> _Lost:
    """Sort a failed exchange into "never left" and "may have arrived" (`invariants` 2.1)."""
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return _Lost(code="Timeout", sent=False)
        case httpx.ConnectError() | httpx.ProxyError() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
            return _Lost(code="Unreachable", sent=False)
        case httpx.TimeoutException():
            return _Lost(code="Timeout", sent=True)
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return _Lost(code="Disconnected", sent=True)
        case _:
            return _Lost(code="Unreadable", sent=True)


def _refusal(what: str, answer: Answer, doubt: Effect) -> PlaybookError:
    """The error for a reply that is no success: a 4xx is a definite no, a redirect or a 5xx is not."""
    if answer.status == httpx.codes.UNAUTHORIZED:
        return CredentialsError(
            "CircleCI does not accept the token.",
            remedy="Make a new personal API token (a project token does not work here), then go on with `resume`.",
        )
    refused = httpx.codes.is_client_error(answer.status)
    return CircleCiError(
        what,
        code=f"HTTP{answer.status}",
        effect=Effect.NONE if refused else doubt,
        status=answer.status,
        request_id=answer.request_id,
        retryable=httpx.codes.is_server_error(answer.status)
        or answer.status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS),
        remedy=_remedy(answer.status),
    )


def _remedy(status: int) -> str:
    if httpx.codes.is_redirect(status):
        return "Redirects are never followed, for the token would go along; check the host that was given."
    by_status = {
        403: "The token's user may not do this, or the context is gone; check both, then go on with `resume`.",
        404: "It is gone, or the token's user cannot see it; check the name, then go on with `resume`.",
        429: "CircleCI limits the rate; go on with `resume` in a few minutes, or lower --parallel.",
    }
    return by_status.get(status, "Try again; `resume` goes on where this stopped.")
