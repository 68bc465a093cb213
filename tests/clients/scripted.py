"""Real sockets with scripted answers, and what any handler could print of an error."""

from __future__ import annotations

import socketserver
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest


@dataclass
class Arrived:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Scripted:
    """A server whose `answer` turns a request into raw bytes; None hangs up without a word."""

    answer: object
    arrived: list[Arrived] = field(default_factory=list)
    url: str = ""
    close: object = None
    """Stop listening, so that connecting is refused."""


def reply(body: bytes | str = b"{}", status: int = 200, *, length: int | None = None, **headers: str) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join([*lines, "Connection: close", "", ""])).encode() + body


@contextmanager
def scripted_server(answer):
    scripted = Scripted(answer)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            first = self.rfile.readline().decode("latin-1").split()
            if len(first) < 2:
                return
            headers = {}
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            arrived = Arrived(first[0], first[1], headers, body)
            scripted.arrived.append(arrived)
            raw = scripted.answer(arrived) if callable(scripted.answer) else scripted.answer
            if raw is not None:
                self.wfile.write(raw)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            """A client that hangs up is part of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()

        def close():
            server.shutdown()
            thread.join()
            server.server_close()

        scripted.close = close
        yield scripted
        if thread.is_alive():
            close()


def everything_about(error: BaseException) -> str:
    """What any handler could print of an error: texts, attributes, contexts, frames and the locals of our frames."""
    seen, parts, todo = set(), [], [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__]
        parts += [repr(one), str(one), repr(vars(one)), "".join(traceback.format_exception(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "/playbook/" in frame.f_code.co_filename:
                parts.append(repr(frame.f_locals))
    return "\n".join(parts)


def error_of(call, kind=Exception):
    with pytest.raises(kind) as caught:
        call()
    return caught.value
