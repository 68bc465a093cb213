"""What `inventory` is given beside the two platforms: lists, checkouts, a person's word, and a case to go on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playbook.blast_radius import Checkout
from playbook.config_jobs import SIZE_MAX, ConfigUse, UnreadableConfigError, config_use
from playbook.errors import UsageError
from playbook.exposure import Window
from playbook.ports import SecretKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from playbook.ports import Organization

_SLUG: Final = re.compile(r"[a-z]+/[^/\s=]+/[^/\s=]+")
_ORIGIN: Final = re.compile(r'\[remote "origin"\][^\[]*?\burl\s*=\s*(\S+)')
_REPOSITORY: Final = re.compile(
    r"(?:https://|ssh://)?(?:[^@/\s]+@)?(github\.com|bitbucket\.org)[:/]([^/\s]+)/([^/\s]+?)(?:\.git)?/?"
)
_PROVIDERS: Final = {"github.com": "gh", "bitbucket.org": "bb"}


def window_of(start: str, end: str) -> Window | None:
    """The window of exposure from two times with their offsets, or None when neither is given."""
    try:
        window = Window.of(start, end)
    except ValueError:
        window = Window()
    times = [] if window is None else [at for at in (window.start, window.end) if at is not None]
    if (window is not None and not times) or any(at.tzinfo is None for at in times) or times != sorted(times):
        raise UsageError(
            "The window of exposure is not two times with their offsets, the first before the second.",
            remedy="Write --exposed-from 2022-12-21T00:00:00Z --exposed-until 2023-01-04T23:59:59Z.",
        )
    return window


def kinds_of(names: Iterable[str]) -> frozenset[SecretKind]:
    """The kinds that are named, or all of them."""
    return frozenset(map(SecretKind, names)) or frozenset(SecretKind)


def said_of(texts: Iterable[str]) -> dict[str, str]:
    """Read `PLACE=KEY_ID`, where PLACE is the id of a row of the inventory."""
    said: dict[str, str] = {}
    for text in texts:
        place, _, key_id = text.rpartition("=")
        if not place or not re.fullmatch(r"AKIA[A-Z0-9]{12,124}", key_id):
            raise UsageError(
                "A place and its key are not written as PLACE=KEY_ID.",
                remedy="Take PLACE from the `id` of a row, such as context:3ebb0b60-...:AWS_ACCESS_KEY_ID=AKIA....",
            )
        said[place] = key_id
    return said


def projects_of(path: Path) -> tuple[str, ...]:
    """The slugs of a file, one a line; what follows a `#` is a comment."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"{path} cannot be read as a list of projects.", remedy="Give a text file with one slug a line."
        ) from None
    slugs = [slug for line in text.split("\n") if (slug := line.partition("#")[0].strip())]
    for number, slug in enumerate(slugs, start=1):
        if not _SLUG.fullmatch(slug):
            raise UsageError(f"Slug {number} of {path} is not one.", remedy="Write slugs such as gh/acme/api.")
    return tuple(dict.fromkeys(slugs))


def scope_of(
    host: str,
    organizations: Sequence[Organization],
    accounts: Sequence[str],
    kinds: Iterable[str],
    slugs: Sequence[str],
    *,
    runs: int = 0,
) -> str:
    """What an inventory reads, in one text: an interrupted one is only gone on with for the same."""
    places = [host, sorted(item.slug for item in organizations), sorted(accounts)]
    return json.dumps([*places, sorted(kinds), list(slugs), runs])


def checkouts_of(texts: Sequence[str]) -> tuple[Checkout, ...]:
    """Read the configurations of checkouts given as `DIR` or `SLUG=DIR`."""
    return tuple(checkout for text in texts for checkout in _checkouts(text))


def _checkouts(text: str) -> Iterator[Checkout]:
    slug, _, named = text.partition("=")
    if not named or not _SLUG.fullmatch(slug):
        slug, named = "", text
    folder = Path(named)
    if not folder.is_dir():
        raise UsageError(
            f"{named} is no folder, so its jobs cannot be read.", remedy="Give --checkout DIR, or gh/org/repo=DIR."
        )
    slug = slug or _slug_of(folder)
    organization = slug.rpartition("/")[0]
    files = sorted(path for path in (folder / ".circleci").glob("*.y*ml") if path.is_file())
    if not files:
        use = ConfigUse(doubts=("there is no configuration in .circleci",))
        yield Checkout(project=slug, organization=organization, file=folder.name, use=use)
    for path in files:
        yield Checkout(
            project=slug, organization=organization, file=f"{folder.name}/.circleci/{path.name}", use=_use_of(path)
        )


def _use_of(path: Path) -> ConfigUse:
    try:
        with path.open("rb") as file:
            text = file.read(SIZE_MAX + 1).decode("utf-8")
        return config_use(text)
    except UnreadableConfigError as error:
        return ConfigUse(doubts=(f"its configuration cannot be read: {error}",))
    except (OSError, UnicodeDecodeError):
        return ConfigUse(doubts=("its configuration cannot be read: it is no text",))


def _slug_of(folder: Path) -> str:
    """Whose checkout this is, by its remote `origin`; an empty text when that does not say."""
    try:
        text = (folder / ".git" / "config").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    origin = _ORIGIN.search(text)
    found = _REPOSITORY.fullmatch(origin[1]) if origin else None
    return f"{_PROVIDERS[found[1]]}/{found[2]}/{found[3]}" if found else ""
