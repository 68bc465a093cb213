"""Whether a CircleCI configuration keeps the published JSON schema, which the extra `validate` brings.

The schema is the file that check-jsonschema ships; it is read from its package without running it, because its own
imports would bring an HTTP client along. What is found names a place and a rule, never a value of the file.
"""

from __future__ import annotations

import functools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PACKAGE: Final = "check_jsonschema"
_FILE: Final = Path("builtin_schemas", "vendor", "circle-ci.json")


class _Finding(Protocol):
    absolute_path: Iterable[str | int]
    validator: str


class _Validator(Protocol):
    def iter_errors(self, instance: Any) -> Iterable[_Finding]: ...


def schema_findings(data: Any) -> tuple[str, ...] | None:
    """The places of a configuration's data that break the schema; None when the extra is not installed."""
    validator = _validator()
    if validator is None:
        return None
    return tuple(
        sorted(
            f"{'.'.join(map(str, finding.absolute_path)) or 'the top'} ({finding.validator})"
            for finding in validator.iter_errors(data)
        )
    )


@functools.cache
def _validator() -> _Validator | None:
    package, library = find_spec(_PACKAGE), find_spec("jsonschema")
    if package is None or library is None or not package.submodule_search_locations:
        return None
    path = Path(package.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        return None
    from jsonschema import Draft7Validator, ValidationError, validators  # noqa: PLC0415  # an extra
    from regress import Regex  # noqa: PLC0415  # check-jsonschema brings it

    compiled = functools.cache(lambda pattern: Regex(pattern, "u"))

    def pattern(_: object, wanted: str, instance: object, __: object) -> Iterator[ValidationError]:
        # The schema's patterns are JavaScript's, which knows letters (`\p{L}`) that `re` does not.
        if isinstance(instance, str) and compiled(wanted).find(instance) is None:
            yield ValidationError("")

    validator: _Validator = validators.extend(Draft7Validator, {"pattern": pattern})(json.loads(path.read_bytes()))
    return validator
