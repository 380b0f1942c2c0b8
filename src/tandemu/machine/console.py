"""The guest's console in Python: what it printed, expecting and sending.

Output is kept as bytes (the last *limit_bytes* of it) and is decoded as UTF-8 when it
is asked for. Input is queued and handed to the guest as fast as it takes it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from tandemu.bits import Record
from tandemu.machine.errors import MachineError, MachineTimeout

_OUTPUT_LIMIT_BYTES = 16 << 20
_INPUT_LIMIT_BYTES = 64 << 10
_SETTLE_S = 0.003
_QUIET_S = 1.0
_SHOWN_CHARACTERS = 400


class ConsoleTimeout(MachineTimeout):
    """The expected text did not come in time; the message shows what came last."""


class Port(Record):
    """The guest's end of a console: *receive* takes input and returns how many bytes were taken.

    *listening* says whether the guest has its receiver in use.
    """

    receive: Callable[[bytes], int]
    listening: Callable[[], bool]


def _nowhere(data: bytes) -> object:
    return None


class Console:
    """A machine's console. All methods may be called from any thread."""

    def __init__(self, limit_bytes: int = _OUTPUT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._output = bytearray()
        self._dropped = 0  # bytes that are no longer in _output
        self._seen = 0  # how far expect() has read, counted from the first byte ever
        self._last_output_s = 0.0
        self._changed = threading.Condition()
        self._waiting = 0
        self._ended = ""
        self._mirror: Callable[[bytes], object] = _nowhere
        self._port: Port | None = None
        self._input = bytearray()
        self._feeding = threading.Lock()
        self._room = threading.Condition()

    # ---- the machine's side --------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """Take what the guest printed. On a vCPU's thread: waits where the mirror does."""
        with self._changed:
            self._output += data
            if len(self._output) > self._limit:
                surplus = len(self._output) - self._limit * 3 // 4
                del self._output[:surplus]
                self._dropped += surplus
            if self._waiting:
                self._changed.notify_all()
        self._last_output_s = time.monotonic()
        self._mirror(data)

    def connect(self, port: Port | None) -> None:
        """Let input go to *port* (None: keep it)."""
        with self._feeding:
            self._port = port
        self.feed()

    def feed(self) -> None:
        """Hand queued input to the guest, as much as it takes."""
        with self._feeding:
            if self._port is None or not self._input:
                return
            taken = self._port.receive(bytes(self._input[:4096]))
            del self._input[:taken]
        if taken:
            with self._room:
                self._room.notify_all()

    def opened(self) -> None:
        """The machine starts: expecting is possible."""
        with self._changed:
            self._ended = ""

    def closed(self, reason: str) -> None:
        """The machine ended: whoever waits for output or room is told *reason*."""
        with self._changed:
            self._ended = reason
            self._changed.notify_all()
        with self._room:
            self._room.notify_all()

    # ---- the user's side -----------------------------------------------------------------

    @property
    def output(self) -> str:
        """Everything the guest has printed (the last 16 MiB of it)."""
        with self._changed:
            return self._output.decode(errors="replace")

    def mirror(self, sink: Callable[[bytes], object] | None) -> None:
        """Also hand all further output to *sink*, on the vCPU's thread; None: to nobody."""
        self._mirror = sink or _nowhere

    def listening(self) -> bool:
        """Whether the guest seems to take input: it uses its receiver, or fell silent."""
        port = self._port
        if port is None:
            return False
        quiet = self._last_output_s and time.monotonic() - self._last_output_s > _QUIET_S
        return port.listening() or bool(quiet)

    def offer(self, data: bytes) -> int:
        """Queue input as far as there is room; return how many bytes of it."""
        with self._feeding:
            taken = max(min(len(data), _INPUT_LIMIT_BYTES - len(self._input)), 0)
            self._input += data[:taken]
        self.feed()
        return taken

    def send(self, text: str | bytes, timeout: float = 30.0) -> None:
        """Type *text* on the console: as it is, so end a line with ``\\n``.

        Returns once it is queued; `ConsoleTimeout` if the guest does not take enough of
        it within *timeout* seconds, `MachineError` if the machine has ended.
        """
        data = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + timeout
        while data:
            if self._ended:
                raise MachineError(f"nothing can be sent to the console: {self._ended}")
            data = data[self.offer(data) :]
            left = deadline - time.monotonic()
            if data and left <= 0:
                raise ConsoleTimeout(
                    f"the guest did not take its input within {timeout:g} s; {len(data)} bytes "
                    "are left. Is it waiting for input?"
                )
            if data:
                with self._room:
                    self._room.wait(min(left, 0.1))

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> re.Match[str]:
        """Wait until the guest prints *pattern*; return the match.

        A string stands for itself, a compiled expression is searched. Only output after
        the last match counts; the match uses up the output before it. `ConsoleTimeout`
        after *timeout* seconds; `MachineError` if the machine ends first.
        """
        expression = re.compile(re.escape(pattern)) if isinstance(pattern, str) else pattern
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                ended = self._ended
                unseen = self._unseen()
                seen_bytes = self._dropped + len(self._output)
            text = unseen.decode(errors="replace")
            match = expression.search(text)
            if match is not None:
                self._use_up(unseen, text, match.end())
                return match
            if ended:
                raise MachineError(
                    f"{_shown(expression)} did not come on the console: {ended}. {_tail(text)}"
                )
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConsoleTimeout(
                    f"{_shown(expression)} did not come on the console within {timeout:g} s. "
                    f"{_tail(text)}"
                )
            self._wait_for_more(seen_bytes, left)

    def read_until(self, pattern: str | re.Pattern[str], timeout: float = 60.0) -> str:
        """As `expect`, but return the output from the last match up to and with this one."""
        match = self.expect(pattern, timeout)
        return match.string[: match.end()]

    # ---- inside --------------------------------------------------------------------------

    def _unseen(self) -> bytes:
        return bytes(self._output[max(self._seen - self._dropped, 0) :])

    def _use_up(self, unseen: bytes, text: str, characters: int) -> None:
        """Move on by so many characters of *text*, which is *unseen* decoded."""
        with self._changed:
            start = max(self._seen, self._dropped)
            used = len(unseen) - len(text[characters:].encode())
            if "\N{REPLACEMENT CHARACTER}" in text[characters:]:
                # Bytes that are no UTF-8 change their length: count on the undecoded side.
                used = _prefix_bytes(unseen, characters)
            self._seen = start + used

    def _wait_for_more(self, seen_bytes: int, timeout_s: float) -> None:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(
                    lambda: self._ended or self._dropped + len(self._output) != seen_bytes,
                    timeout_s,
                )
            finally:
                self._waiting -= 1
        # A guest prints byte by byte: let some gather before searching again.
        time.sleep(min(_SETTLE_S, max(timeout_s, 0)))


def _prefix_bytes(data: bytes, characters: int) -> int:
    """How many bytes of *data* decode to its first so many *characters*."""
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        if len(data[:middle].decode(errors="replace")) < characters:
            low = middle + 1
        else:
            high = middle
    return low


def _shown(expression: re.Pattern[str]) -> str:
    return repr(expression.pattern)


def _tail(text: str) -> str:
    if not text.strip():
        return "The guest printed nothing since."
    return f"The guest's last words: {text[-_SHOWN_CHARACTERS:].strip()!r}"
