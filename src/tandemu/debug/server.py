"""Where debuggers connect: a TCP port, on this computer unless told otherwise, or a Unix socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable

from tandemu.debug.errors import DebugError
from tandemu.debug.packets import frame
from tandemu.debug.stub import Session
from tandemu.debug.target import Target

_LOOPBACK = "127.0.0.1"
_UNIX = "unix:"
_REFUSAL = frame(b"E.another debugger is connected")


def parse_address(text: str) -> tuple[str, int] | str:
    """``[ADDRESS:]PORT`` as (address, port), ``unix:PATH`` as the path. `DebugError` else.

    >>> parse_address("1234"), parse_address("[::1]:1234"), parse_address("unix:/tmp/gdb")
    (('127.0.0.1', 1234), ('::1', 1234), '/tmp/gdb')
    """
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return text[len(_UNIX) :]
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise DebugError(f"{text!r} is no place for a debugger: must be [ADDR:]PORT or unix:PATH")
    return address.strip("[]") or _LOOPBACK, int(port)


def _listen(where: tuple[str, int] | str) -> socket.socket:
    try:
        if isinstance(where, str):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(where)
            os.chmod(where, 0o600)
            listener.listen(1)
            return listener
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        return socket.create_server(where, family=family, backlog=1)
    except (OSError, UnicodeError) as error:
        shown = where if isinstance(where, str) else f"{where[0]}:{where[1]}"
        reason = getattr(error, "strerror", None) or str(error)
        raise DebugError(f"no debugger can be waited for at {shown}: {reason}") from error


class Server:
    """Waits for debuggers, one at a time, on a thread of its own.

    *attach* brings the target to rest when one has connected; `DebugError` sends it away.
    """

    def __init__(self, where: str, attach: Callable[[], Target]) -> None:
        parsed = parse_address(where)
        self._listener = _listen(parsed)
        self._path = parsed if isinstance(parsed, str) else ""
        self._attach = attach
        self._closing, self._closed = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="debugger", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, as GDB's ``target remote`` takes it."""
        if self._path:
            return self._path
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _serve(self) -> None:
        while (connection := self._accept()) is not None:
            with connection:
                self._serve_one(connection)
        self._listener.close()
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _accept(self) -> socket.socket | None:
        while True:
            ready, _, _ = select.select([self._listener, self._closed], [], [])
            if self._closed in ready:
                return None
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            target = self._attach()
        except DebugError:
            return
        others = {self._listener: self._send_away, self._closed: lambda: False}
        session = Session(target, connection, others)
        try:
            session.serve()
        finally:
            with contextlib.suppress(DebugError):
                session.finish()

    def _send_away(self) -> bool:
        """A second debugger is told that there is one."""
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(1.0)
                connection.sendall(_REFUSAL)
        return True

    def close(self) -> None:
        """Stop waiting; a debugger that is connected is left alone with its end. Again: nothing."""
        with contextlib.suppress(OSError):
            self._closing.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
