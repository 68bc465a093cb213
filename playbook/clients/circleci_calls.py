"""What every part of the CircleCI client works with: the transport, the organizations' ids, pages and addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playbook.clients.circleci_transport import path_of
from playbook.errors import CircleCiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from playbook.clients import circleci_replies as replies
    from playbook.clients.circleci_secrets import SecretReader
    from playbook.clients.circleci_transport import Transport
    from playbook.ports import Project


class CircleCiCalls:
    """One token on one host; who makes it sets both attributes."""

    _transport: Transport
    _secrets: SecretReader

    def _pages(
        self,
        what: str,
        path: str,
        shape: type[replies.Page[replies.T]],
        params: Mapping[str, str],
        *,
        repeats_at_the_end: bool = False,
    ) -> Iterator[replies.T]:
        """Every item of a v2 or private list."""

        def read(token: str | None) -> tuple[list[replies.T], str | None]:
            page = self._transport.get(what, path, shape, {**params, "page-token": token} if token else params)
            return page.items, page.next_page_token

        return self._transport.pages(what, read, repeats_at_the_end=repeats_at_the_end)

    def _organization_number(self, slug: str) -> str:
        """An organization's id, empty for one that has none; a failure to find out is raised."""
        found = self._secrets.owner(slug)
        if isinstance(found, CircleCiError):
            raise found
        return found

    def _project_number(self, project: Project) -> str:
        """A project's id, looked up where the only source that knew it gives none."""
        found = self._secrets.project_number(project)
        if isinstance(found, CircleCiError):
            raise found
        return found


def project_path(slug: str, *rest: str) -> str:
    """In `/project/` a slug keeps its slashes: `%2F` breaks behind proxies and on Server (facts 0.6)."""
    return path_of("/api/v2/project", *slug.split("/"), *rest)


def older_project_path(slug: str, *rest: str) -> str:
    """The same in v1.1."""
    return path_of("/api/v1.1/project", *slug.split("/"), *rest)
