"""A commit on a new branch of a checkout, by git's plumbing: the working tree, the index and HEAD stay as they are.

Nothing is pushed, no hook runs, and git gets an environment of named variables only. What is committed stands on what
HEAD holds, not on what lies uncommitted in the working tree.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playbook.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PASSED: Final = ("PATH", "HOME", "XDG_CONFIG_HOME", "USER", "LOGNAME", "TMPDIR", "SYSTEMROOT")
_PASSED_PREFIXES: Final = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")
_TIMEOUT_S: Final = 60
_NEW: Final = "0" * 40
_REGULAR: Final = frozenset({"100644", "100755"})


class BranchError(GuardError):
    """The branch was not made, and nothing of the checkout was changed."""

    def __init__(self, reason: str, *, remedy: str = "Correct that, or use --write and commit by hand.") -> None:
        super().__init__(f"The branch was not made: {reason}.", remedy=f"Nothing was changed. {remedy}")
        self.reason = reason


@dataclass(frozen=True)
class Repository:
    """A checkout; `top` is its root."""

    top: Path

    @classmethod
    def around(cls, path: Path) -> Repository | None:
        """The repository a file or folder is in; None when it is in none, or there is no git."""
        folder = path if path.is_dir() else path.parent
        try:
            found = _run(folder, "rev-parse", "--show-toplevel")
        except (OSError, subprocess.SubprocessError):
            return None
        return cls(Path(found.stdout.decode().rstrip("\n"))) if found.returncode == 0 else None

    def committed(self, path: Path, revision: str = "HEAD") -> bytes | None:
        """What a commit holds of a file; None when it holds none."""
        found = _run(self.top, "cat-file", "blob", f"{revision}:{self._name(path)}")
        return found.stdout if found.returncode == 0 else None

    def has_branch(self, branch: str) -> bool:
        """Whether there is such a branch."""
        return _run(self.top, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}").returncode == 0

    def commit(self, files: Mapping[Path, bytes], branch: str, message: str) -> str:
        """Commit files on a new branch from HEAD; returns the commit's id, raises `BranchError`."""
        if _run(self.top, "check-ref-format", f"refs/heads/{branch}").returncode or branch.startswith("-"):
            raise BranchError(f"git takes no branch of the name {branch}")
        if self.has_branch(branch):
            raise BranchError(f"there is a branch {branch} already", remedy="Choose another name.")
        head = self._git("HEAD has no commit yet", "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
            self._git("HEAD could not be read", "read-tree", head, more=index)
            for path, content in files.items():
                blob = self._git("a file could not be stored", "hash-object", "-w", "--stdin", content=content)
                entry = f"{self._mode(path)},{blob},{self._name(path)}"
                self._git("a file could not be added", "update-index", "--add", "--cacheinfo", entry, more=index)
            tree = self._git("the tree could not be stored", "write-tree", more=index)
        commit = self._git("git knows no name and address to commit as", "commit-tree", tree, "-p", head, "-m", message)
        # The old value says that the branch must not be there, whatever has happened since it was looked for.
        self._git("it appeared meanwhile", "update-ref", f"refs/heads/{branch}", commit, _NEW[: len(head)])
        return commit

    def _mode(self, path: Path) -> str:
        listed = self._git("HEAD could not be read", "ls-tree", "HEAD", "--", self._name(path))
        mode = listed.split(" ")[0] if listed else "100644"
        if mode not in _REGULAR:
            raise BranchError(f"{self._name(path)} is no regular file in HEAD")
        return mode

    def _name(self, path: Path) -> str:
        return path.relative_to(self.top).as_posix()

    def _git(
        self, failed: str, *arguments: str, content: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        done = _run(self.top, *arguments, content=content, more=more)
        if done.returncode:
            raise BranchError(failed)
        return done.stdout.decode().strip()


def _run(
    folder: Path, *arguments: str, content: bytes | None = None, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", **(more or {})}
    git = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "--literal-pathspecs")
    return subprocess.run(  # noqa: S603  # a fixed program, and arguments that are no options
        [*git, *arguments],
        cwd=folder,
        env=environment,
        input=content if content is not None else b"",
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
