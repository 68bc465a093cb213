"""Every error a user can meet, each with what happened, what to do next and an exit code.

    PlaybookError
    |-- UsageError (2)            the command line, the answers file or a setting is wrong
    |   `-- MissingAnswerError    a question without a safe default was not answered; names the key that would
    |-- CredentialsError (3)      missing, rejected or expired credentials
    |-- ServiceError (4)          AWS or CircleCI failed after retries
    |   |-- AwsError
    |   `-- CircleCiError
    |-- JournalError (5)          the case cannot be read or written
    |   |-- JournalLockedError    another process works on it
    |   |-- JournalDamagedError   a record does not verify
    |   |-- JournalTooNewError    written by a newer version
    |   `-- JournalWriteError     a record could not be made durable; nothing more is done
    |-- DeclinedError (6)         the responder said no
    `-- GuardError (7)            a plan digest, a post-condition or a safety guard refused

An adapter turns an SDK's exception into one of these with `raise ... from None`: the original may carry a secret
(a reply of `CreateAccessKey` cut short has its whole body in the message), so neither it nor its text goes on.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """What the process tells its caller; `docs/exit-codes.md` explains each."""

    DONE = 0
    BUG = 1
    USAGE = 2
    CREDENTIALS = 3
    SERVICE = 4
    JOURNAL = 5
    DECLINED = 6
    GUARD = 7
    CHANGES = 10
    WAITING = 11
    SOME_FAILED = 12
    INTERRUPTED = 130
    TERMINATED = 143


class Effect(StrEnum):
    """Whether a failed call may have changed the world all the same."""

    NONE = "none"
    """Known not to have happened: refused before it was sent, or answered with a well-formed refusal."""
    UNKNOWN = "unknown"
    """Sent, and no answer that can be trusted: time-out, reset, 5xx, a reply cut short. Look before acting again."""


class PlaybookError(Exception):
    """An error with a remedy; `cli.main` prints both and exits with `exit_code`."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(PlaybookError):
    """The command line, the answers file or a setting is wrong."""

    exit_code = ExitCode.USAGE


class MissingAnswerError(UsageError):
    """A question has neither an answer nor a safe default."""

    def __init__(self, message: str, *, answer_key: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.answer_key = answer_key
        """The answers file's key that would answer, such as `incident.severity`."""


class CredentialsError(PlaybookError):
    """AWS or CircleCI does not accept who we are; a call that ends so has changed nothing."""

    exit_code = ExitCode.CREDENTIALS
    effect = Effect.NONE
    """UNKNOWN when it ended an action of several calls, of which the first were carried out."""


class ServiceError(PlaybookError):
    """A platform refused or failed a call, after whatever retries were safe."""

    exit_code = ExitCode.SERVICE
    service = "the service"

    def __init__(
        self,
        operation: str,
        *,
        code: str,
        effect: Effect,
        status: int | None = None,
        request_id: str = "",
        retryable: bool = False,
        remedy: str = "Try again; `resume` goes on where this stopped.",
    ) -> None:
        detail = f" (HTTP {status})" if status is not None else ""
        doubt = "; it may have taken effect all the same" if effect is Effect.UNKNOWN else ""
        super().__init__(f"{self.service} did not carry out {operation}: {code}{detail}{doubt}.", remedy=remedy)
        self.operation = operation
        self.code = code
        """The platform's own error code, or one of ours such as `Timeout`: never text that a reply carried."""
        self.effect = effect
        self.status = status
        self.request_id = request_id
        self.retryable = retryable
        """True when the same call may succeed later with nothing changed: throttling, a 5xx that did nothing."""


class AwsError(ServiceError):
    """An AWS call failed; `code` is AWS's, such as `AccessDenied`, `NoSuchEntity`, `LimitExceeded`."""

    service = "AWS"


class CircleCiError(ServiceError):
    """A CircleCI call failed; `code` is `HTTP403` and the like, or `Timeout`, `Disconnected`, `Unreadable`."""

    service = "CircleCI"


class JournalError(PlaybookError):
    """The case cannot be read or written."""

    exit_code = ExitCode.JOURNAL


class JournalLockedError(JournalError):
    """Another process works on this case."""


class JournalDamagedError(JournalError):
    """A record does not verify, and it is not a torn tail."""


class JournalTooNewError(JournalError):
    """A record was written by a newer version."""


class JournalWriteError(JournalError):
    """A record could not be made durable; nothing more is done in this process."""


class DeclinedError(PlaybookError):
    """The responder said no, and nothing was changed."""

    exit_code = ExitCode.DECLINED


class GuardError(PlaybookError):
    """A plan digest, a post-condition or a safety guard refused."""

    exit_code = ExitCode.GUARD
