"""The CircleCI twin behind a real socket on this machine, so that real clients can talk to it."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import uuid
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final, Self

from playbook.twins.http_api import Api, NoReplyError, Reply, Request
from playbook.twins.routes import ROUTES
from playbook.twins.run_routes import RUN_ROUTES
from playbook.twins.secret_routes import SECRET_ROUTES

if TYPE_CHECKING:
    from types import TracebackType

    from playbook.secret import Secret
    from playbook.twins.world import TwinWorld

BODY_MAX_BYTES: Final = 1 << 20


class CircleCiServer:
    """Serves one world to whoever sends its token; a context manager. Give the world a flowing clock."""

    def __init__(self, world: TwinWorld, token: Secret, host: str = "127.0.0.1", port: int = 0) -> None:
        """Port 0 takes a free one; `url` says which."""
        self._server = _Server((host, port), Api(world, token, (ROUTES, RUN_ROUTES, SECRET_ROUTES)))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The base address, such as `http://127.0.0.1:40123`."""
        host, port = self._server.server_address[:2]
        shown = host if isinstance(host, str) else host.decode()
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    def start(self) -> None:
        """Answer requests from now on, on threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests in flight and close every connection."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: Api) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.api = api
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, which may take seconds."""
        TCPServer.server_bind(self)

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection that a client may keep open."""
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget it."""
        with self._lock:
            self._open.discard(connection)

    def close_connections(self) -> None:
        """Wake the threads that wait for a next request."""
        with self._lock:
            for connection in self._open:
                _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the base class calls it so
        """Name a bug by its type alone: a traceback could show what a client sent. Clients that vanish are no bug."""
        kind = sys.exc_info()[0]
        if kind is not None and not issubclass(kind, OSError):
            sys.stderr.write(f"circleci-twin: {kind.__name__} while answering\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One packet a reply: with two, Nagle's algorithm and the delayed acknowledgement add 40 ms to each.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def version_string(self) -> str:
        return "circleci-twin"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base class's
        """Log nothing: addresses and bodies are a client's own."""

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self._send(Reply(status=HTTPStatus.LENGTH_REQUIRED, body=b""))
            self.close_connection = True
            return
        if int(length) > BODY_MAX_BYTES:
            self._drop(min(int(length), 4 * BODY_MAX_BYTES))
            self._send(Reply(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, body=b""))
            self.close_connection = True
            return
        request = Request(
            method=self.command,
            target=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(length)),
        )
        try:
            reply = self.server.api.answer(request)
        except NoReplyError:
            self.close_connection = True
            _hang_up(self.connection)
            return
        self._send(reply)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  # the names are the base class's

    def _drop(self, length: int) -> None:
        """Read what nobody wants: closing on a client that still sends would take the reply away from it."""
        while length > 0 and (read := self.rfile.read(min(length, 1 << 16))):
            length -= len(read)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("X-Request-Id", str(uuid.uuid4()))
        self.end_headers()
        self.wfile.write(reply.body)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
