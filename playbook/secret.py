"""A secret that cannot be printed, pickled, copied or serialised by accident.

Python's own tools leak by default: reprs, tracebacks with locals, `dataclasses.asdict`, JSON encoders with a
`default` hook. `Secret` makes each of them print `<secret>` or fail loudly. The value leaves through `reveal`
alone, which is greppable and which `tests/test_architecture.py` confines to the files that talk to a platform.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import weakref
from typing import TYPE_CHECKING, Final, NoReturn, final

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACEHOLDER: Final = "<secret>"

_living: dict[int, weakref.ref[Secret]] = {}
_living_lock = threading.Lock()


@final
class Secret:
    """One secret text, held in this process only."""

    __slots__ = ("__value", "__weakref__")

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError("a Secret wraps text")
        self.__value = value
        number = id(self)
        with _living_lock:
            _living[number] = weakref.ref(self, lambda _: _living.pop(number, None))

    def reveal(self) -> str:
        """Give the value to the one call that must send it."""
        return self.__value

    def tail(self) -> str:
        """The characters CircleCI shows of a stored value: its last `min(4, length // 2)` (facts, section 2.4)."""
        return masked_tail(self.__value)

    def digest(self) -> str:
        """SHA-256 in hex, by which a twin recognises a value it must not keep."""
        return hashlib.sha256(self.__value.encode()).hexdigest()

    def is_same_as(self, other: Secret) -> bool:
        """Compare in constant time; `==` is identity."""
        return hmac.compare_digest(self.__value.encode(), other.__value.encode())

    def __repr__(self) -> str:
        return PLACEHOLDER

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return PLACEHOLDER

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied: it lives in this process's memory only")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret has no state to keep: it lives in this process's memory only")

    def __copy__(self) -> NoReturn:
        raise TypeError("a Secret is never copied: pass it on instead")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a Secret is never copied: pass it on instead")

    __hash__ = None  # type: ignore[assignment]  # a secret as a dictionary key would be printed with the dictionary

    def __eq__(self, other: object) -> bool:
        return self is other


def masked_tail(value: str) -> str:
    """CircleCI's mask: `min(4, length // 2)` last characters, measured for lengths 1 to 12 (facts, section 2.4)."""
    shown = min(4, len(value) // 2)
    return value[len(value) - shown :]


def living() -> Iterator[Secret]:
    """Every secret this process still holds, so that a log can be searched for them before it is written."""
    with _living_lock:
        references = list(_living.values())
    for reference in references:
        if (secret := reference()) is not None:
            yield secret
