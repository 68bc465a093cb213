"""Forks children in which many threads meet the program's types for the first time at once; prints how each ended.

Everything is imported before and nothing is decoded, so every child begins with types that msgspec has not learned.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import pkgutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

import playbook
from playbook import inventory
from playbook.clients import circleci_replies, circleci_secret_replies
from playbook.clients.circleci_transport import Answer, decoded
from playbook.errors import CircleCiError, Effect
from playbook.model import Action, action_from_data
from playbook.modes import Settings
from playbook.twins import state

THREADS = 12


def plain(shape: Any) -> Any:
    """A value of plain data that fits the type."""
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Annotated:
        return plain(arguments[0])
    if origin in (Union, UnionType):
        return None if NoneType in arguments else plain(arguments[0])
    if origin is tuple:
        return [plain(arguments[0])] if arguments[-1] is Ellipsis else [plain(item) for item in arguments]
    if origin is not None:
        return {} if issubclass(origin, dict) else []
    if is_dataclass(shape):
        hints = get_type_hints(shape, include_extras=True)
        return {item.name: plain(hints[item.name]) for item in fields(shape)}
    if isinstance(shape, type) and issubclass(shape, Enum):
        return next(iter(shape)).value
    return {datetime: "2022-06-01T00:00:00Z", bool: False, int: 0, str: "a"}.get(shape)


def replies() -> list[Any]:
    modules = (circleci_replies, circleci_secret_replies)
    shapes = [item for module in modules for item in vars(module).values() if isinstance(item, type)]
    structs = [item for item in shapes if issubclass(item, msgspec.Struct) and item.__module__.startswith("playbook")]
    return [*structs, *(circleci_replies.Page[item] for item in structs if not getattr(item, "__parameters__", ()))]


Steps = list[Callable[[], object]]


def reply_steps() -> Steps:
    answer = Answer(status=200, request_id="", retry_after_s=None, body=b"{}")

    def step(shape: Any) -> None:
        with suppress(CircleCiError):
            decoded("a reply", answer, shape, Effect.NONE)

    return [partial(step, shape) for shape in replies()]


def row_steps() -> Steps:
    """An interrupted inventory that goes on: what was read is read back by the threads that read the rest."""
    lines = [json.dumps({"row": name, "value": plain(shape)}) for name, shape in inventory.ROWS.items()]
    return [partial(inventory.row_of, line) for line in lines]


def action_steps() -> Steps:
    """The journal's plain data, as an engine reads it back."""
    steps: Steps = []
    for kind, cls in Action.registry.items():
        hints = get_type_hints(cls, include_extras=True)
        data = {"kind": kind, **{item.name: plain(hints[item.name]) for item in fields(cls)}}
        steps.append(partial(action_from_data, data))
    assert steps, "no action is registered"
    return steps


def settings_steps() -> Steps:
    return [partial(Settings.from_json, {})]


def world_steps() -> Steps:
    path = Path(sys.argv[3])
    state.save(state.State(now=datetime.fromisoformat("2022-06-01T00:00:00+00:00")), path)
    return [partial(state.load, path)]


JOBS = {
    "replies": reply_steps,
    "rows": row_steps,
    "actions": action_steps,
    "settings": settings_steps,
    "world": world_steps,
}


def child(steps: Steps) -> int:
    together = threading.Barrier(THREADS)
    failures: list[BaseException] = []

    def start() -> None:
        for step in steps:
            together.wait()
            try:
                step()
            except Exception as error:  # noqa: BLE001  # whatever it is, the parent has to know
                failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures[:1]:
        print(f"{failure!r}", file=sys.stderr, flush=True)
    return 1 if failures else 0


def main(name: str, children: int) -> None:
    faulthandler.enable()
    for package in (playbook, importlib.import_module("steps")):
        for item in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not item.name.endswith("__main__"):
                importlib.import_module(item.name)
    # Threads take turns so often that one meets a type while another is still learning it.
    sys.setswitchinterval(1e-6)
    steps = JOBS[name]()
    ends: Counter[int] = Counter()
    for _ in range(children):
        number = os.fork()
        if number == 0:
            os._exit(child(steps))
        _, status = os.waitpid(number, 0)
        ends[os.waitstatus_to_exitcode(status)] += 1
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
