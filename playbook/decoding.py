"""Lets msgspec learn each type once, one thread at a time, before any thread decodes into it.

msgspec 0.22 keeps what it learns of a struct or dataclass on the class itself; two threads that make it learn the same
one at the same time end the process with SIGSEGV (measured: 14 of 60 processes for the rows of an inventory). One lock
for all types, since two of them may hold a third.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")

_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}
_lock: Final = threading.Lock()


def decoder(shape: type[T]) -> msgspec.json.Decoder[T]:
    """The one decoder of JSON into this shape."""
    # Without the lock nothing is written, and a whole decoder is all that can be found.
    found = _decoders.get(shape)
    if found is None:
        with _lock:
            found = _decoders.get(shape)
            if found is None:
                found = _decoders[shape] = msgspec.json.Decoder(shape)
    return found


def met(shape: type[T]) -> type[T]:
    """Have msgspec learn the type, and answer it: for `msgspec.convert` and the like."""
    decoder(shape)
    return shape
